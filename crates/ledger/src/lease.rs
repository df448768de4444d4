//! Who makes a stage, where several machines share a folder: a file that is created once, renewed while its owner lives, and
//! taken over once it has not been renewed for a while. No lock server; only what every shared file system does atomically.

use crate::files::io;
use crate::{Result, StageId};
use duel_spec::ids::hash_bytes;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Time without renewal after which an owner counts as gone.
const EXPIRY: Duration = Duration::from_secs(60);
/// Time between two renewals.
const RENEWAL: Duration = Duration::from_secs(10);

/// A process, told from others of its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    host: String,
    process: u32,
    /// When it began, in the system's ticks.
    began: u64,
    /// Which of its leases.
    number: u64,
}

impl Owner {
    fn here() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let process = std::process::id();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { host: host(), process, began: began(process).unwrap_or(0), number }
    }

    /// Whether it is known to be gone: a process of this machine that is no more.
    fn is_gone(&self) -> bool {
        self.host == host() && began(self.process) != Some(self.began)
    }
}

fn host() -> String {
    // the boot tells apart machines that share a name
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    format!("{} {}", read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/random/boot_id"))
}

/// When a process began, in ticks; `None` where there is none of that number.
fn began(process: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // the name, in parentheses, may hold anything; the state, which follows it, tells a zombie
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Held as long as this lives.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    owner: Vec<u8>,
    done: Arc<AtomicBool>,
}

impl Lease {
    /// Takes the lease of a stage, unless somebody lives who has it. `lost` is set should it be taken away, which happens to
    /// an owner that could not renew it.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn take(stages: &Path, id: &StageId, lost: Arc<AtomicBool>) -> Result<Option<Self>> {
        let path = stages.join(format!("{}.lease", id.folder()));
        let owner = serde_json::to_vec(&Owner::here()).expect("plain data");
        // 1. A file of our own, whole before it has the lease's name, and with the time of whoever keeps the files.
        let own = stages.join(format!("{}.lease-{}", id.folder(), hash_bytes(&owner)));
        std::fs::write(&own, &owner).map_err(io("write", &own))?;
        let now = modified(&own).unwrap_or_else(SystemTime::now);
        let lease = Self { path, owner, done: Arc::new(AtomicBool::new(false)) };
        // 2. Whoever links first has it; one that is stale is first swept away.
        let taken =
            std::fs::hard_link(&own, &lease.path).is_ok() || (lease.is_stale(now) && lease.take_over(&own, now));
        std::fs::remove_file(&own).map_err(io("clear", &own))?;
        if !taken {
            return Ok(None);
        }
        lease.renew_on(lost);
        Ok(Some(lease))
    }

    /// Whether whoever has the lease is gone.
    fn is_stale(&self, now: SystemTime) -> bool {
        let Ok(there) = std::fs::read(&self.path) else { return false };
        age(&self.path, now) > EXPIRY || serde_json::from_slice::<Owner>(&there).is_ok_and(|owner| owner.is_gone())
    }

    /// Puts `own` in place of a stale lease. One at a time: another may have been as fast, and have a fresh one there.
    fn take_over(&self, own: &Path, now: SystemTime) -> bool {
        let sweeping = self.path.with_extension("lease-sweep");
        if std::fs::File::create_new(&sweeping).is_err() {
            if age(&sweeping, now) > EXPIRY {
                let _ = std::fs::remove_file(&sweeping); // its maker died within these few lines
            }
            return false;
        }
        let taken = self.is_stale(now)
            && std::fs::remove_file(&self.path).is_ok()
            && std::fs::hard_link(own, &self.path).is_ok();
        let _ = std::fs::remove_file(&sweeping);
        taken
    }

    /// Renews in the background, as long as the file is ours.
    fn renew_on(&self, lost: Arc<AtomicBool>) {
        let (path, owner, done) = (self.path.clone(), self.owner.clone(), self.done.clone());
        std::thread::spawn(move || {
            loop {
                let mut slept = Duration::ZERO;
                while slept < RENEWAL {
                    std::thread::sleep(Duration::from_millis(200));
                    slept += Duration::from_millis(200);
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                }
                match std::fs::read(&path) {
                    Ok(there) if there == owner => {
                        // written over in place: its time is then that of the keeper of the files
                        let _ = std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| {
                            use std::io::Write;
                            file.write_all(&owner)
                        });
                    }
                    Ok(_) => return lost.store(true, Ordering::Relaxed),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return lost.store(true, Ordering::Relaxed),
                    Err(_) => {} // unreachable for now
                }
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if std::fs::read(&self.path).is_ok_and(|there| there == self.owner) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|data| data.modified()).ok()
}

/// Time since a file was written; none where it lies ahead, as after a clock has gone back.
fn age(path: &Path, now: SystemTime) -> Duration {
    modified(path).and_then(|then| now.duration_since(then).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> StageId {
        StageId { kind: "cell".into(), hash: "abc".into() }
    }

    fn take(folder: &Path) -> Option<Lease> {
        Lease::take(folder, &id(), Arc::default()).expect("a folder that can be written")
    }

    /// A lease of somebody on another machine, renewed so long ago.
    fn theirs(folder: &Path, age: Duration) {
        let owner = Owner { host: "elsewhere".into(), process: 1, began: 1, number: 0 };
        let path = folder.join("cell-abc.lease");
        std::fs::write(&path, serde_json::to_vec(&owner).expect("plain")).expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("there");
        file.set_modified(SystemTime::now() - age).expect("set");
    }

    #[test]
    fn one_of_many_has_it_and_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let held: Vec<Lease> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..16).map(|_| scope.spawn(|| take(folder.path()))).collect();
            all.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(held.len(), 1);
        assert!(take(folder.path()).is_none());
        drop(held);
        assert!(take(folder.path()).is_some());
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn one_that_was_not_renewed_is_taken_over_by_one_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        theirs(folder.path(), Duration::from_secs(30));
        assert!(take(folder.path()).is_none(), "its owner may live");
        theirs(folder.path(), Duration::from_secs(300));
        let held: Vec<Lease> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..16).map(|_| scope.spawn(|| take(folder.path()))).collect();
            all.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(held.len() <= 1, "{} have it", held.len());
        assert!(held.len() == 1 || take(folder.path()).is_some());
    }

    #[test]
    fn a_clock_that_goes_back_makes_no_owner_stale() {
        let folder = tempfile::tempdir().expect("a folder");
        let owner = Owner { host: "elsewhere".into(), process: 1, began: 1, number: 0 };
        let path = folder.path().join("cell-abc.lease");
        std::fs::write(&path, serde_json::to_vec(&owner).expect("plain")).expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("there");
        file.set_modified(SystemTime::now() + Duration::from_secs(9000)).expect("set");
        assert!(take(folder.path()).is_none());
    }

    #[test]
    fn that_of_a_process_that_has_died_here_is_free_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let owner = Owner { process: child.id(), began: began(child.id()).expect("it lives"), ..Owner::here() };
        std::fs::write(folder.path().join("cell-abc.lease"), serde_json::to_vec(&owner).expect("plain"))
            .expect("written");
        assert!(take(folder.path()).is_none());
        child.kill().expect("killed");
        // even before anybody has waited for it, once the signal has come through
        let free = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            take(folder.path()).is_some()
        });
        assert!(free);
        child.wait().expect("waited");
    }
}
