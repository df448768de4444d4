//! Leases of stages, for machines that share a folder: a file that is created once, renewed while its owner runs, and taken over
//! when it has not been renewed for a while. There is no lock server; only operations that every shared file system makes atomic.

use crate::error::Result;
use crate::files::{io, read_bounded};
use crate::process::ProcessId;
use crate::stage_id::StageId;
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Time without renewal after which a lease expires.
const EXPIRY: Duration = Duration::from_secs(60);
/// Bytes of a lease file.
const MAX_BYTES: u64 = 1 << 16;
/// Time between two renewals.
const RENEWAL: Duration = Duration::from_secs(10);

/// The content of a lease file.
#[derive(Debug, Serialize, Deserialize)]
struct LeaseHolder {
    #[serde(flatten)]
    owner: ProcessId,
    /// Distinguishes leases of the same process.
    number: u64,
}

impl LeaseHolder {
    fn here() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        Self { owner: ProcessId::here(), number: NUMBER.fetch_add(1, Ordering::Relaxed) }
    }
}

/// A lease, held until this is dropped.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    owner: Vec<u8>,
    done: Arc<AtomicBool>,
}

impl Lease {
    /// Takes the lease of a stage, unless a running process has it. `lost` is set if the lease is taken over, because it could
    /// not be renewed.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn take(stages: &Path, id: &StageId, lost: Arc<AtomicBool>) -> Result<Option<Self>> {
        let path = stages.join(format!("{}.lease", id.folder()));
        let holder = LeaseHolder::here();
        let owner = serde_json::to_vec(&holder).expect("plain data");
        // 1. A file of this process, complete before it gets the lease's name, with a timestamp of the file server.
        let attempt = stages.join(format!("{}.lease-{}-{}", id.folder(), holder.owner.tag(), holder.number));
        std::fs::write(&attempt, &owner).map_err(io("write", &attempt))?;
        let now = modified(&attempt).unwrap_or_else(SystemTime::now);
        let lease = Self { path, owner, done: Arc::new(AtomicBool::new(false)) };
        // 2. The first to link it has the lease; a stale one is removed first.
        let first = lease.link(&attempt);
        let taken = match &first {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                lease.is_stale(now) && lease.take_over(&attempt, now)
            }
            Err(_) => false,
        };
        std::fs::remove_file(&attempt).map_err(io("remove", &attempt))?;
        if let Err(error) = first
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(io("create", &lease.path)(error));
        }
        if !taken {
            return Ok(None);
        }
        lease.renew_on(lost);
        Ok(Some(lease))
    }

    /// Whether a process that may be running has the lease of the stage with this folder name.
    pub fn is_held(stages: &Path, folder: &str) -> bool {
        let path = stages.join(format!("{folder}.lease"));
        path.exists() && !is_stale(&path, SystemTime::now())
    }

    /// Links `attempt` to the lease's name, unless that exists. Without hard links, a new file is written.
    fn link(&self, attempt: &Path) -> std::io::Result<()> {
        match std::fs::hard_link(attempt, &self.path) {
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                std::fs::File::create_new(&self.path)?.write_all(&self.owner)
            }
            other => other,
        }
    }

    /// Whether the lease has expired or its owner has ended.
    fn is_stale(&self, now: SystemTime) -> bool {
        is_stale(&self.path, now)
    }

    /// Replaces a stale lease with `attempt`. One process at a time: another may already have taken the lease over.
    fn take_over(&self, attempt: &Path, now: SystemTime) -> bool {
        let sweeping = self.path.with_extension("lease-sweep");
        if std::fs::File::create_new(&sweeping).is_err() {
            if age(&sweeping, now) > EXPIRY {
                let _ = std::fs::remove_file(&sweeping); // its owner died here
            }
            return false;
        }
        let taken = self.is_stale(now) && std::fs::remove_file(&self.path).is_ok() && self.link(attempt).is_ok();
        let _ = std::fs::remove_file(&sweeping);
        taken
    }

    /// Renews the lease in the background, as long as it is ours.
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
                match read_bounded(&path, MAX_BYTES) {
                    Ok(current) if current == owner => {
                        // overwritten in place, so that the file server sets its timestamp
                        let _ = std::fs::OpenOptions::new()
                            .write(true)
                            .open(&path)
                            .and_then(|mut file| file.write_all(&owner));
                    }
                    Ok(_) => return lost.store(true, Ordering::Relaxed),
                    Err(e) if e.kind() == ErrorKind::NotFound => return lost.store(true, Ordering::Relaxed),
                    Err(_) => {} // temporarily unreachable
                }
            }
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if read_bounded(&self.path, MAX_BYTES).is_ok_and(|current| current == self.owner) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn is_stale(path: &Path, now: SystemTime) -> bool {
    let Ok(current) = read_bounded(path, MAX_BYTES) else { return false };
    age(path, now) > EXPIRY
        || serde_json::from_slice::<LeaseHolder>(&current).is_ok_and(|holder| holder.owner.is_gone())
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Time since a file was written; zero where that is in the future, as after a clock was set back.
fn age(path: &Path, now: SystemTime) -> Duration {
    modified(path).and_then(|written| now.duration_since(written).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::began;

    fn id() -> StageId {
        StageId { kind: "cell".into(), hash: "abc".into() }
    }

    fn take(folder: &Path) -> Option<Lease> {
        Lease::take(folder, &id(), Arc::default()).expect("a folder that can be written")
    }

    fn lease_of(owner: ProcessId) -> Vec<u8> {
        serde_json::to_vec(&LeaseHolder { owner, number: 0 }).expect("plain data")
    }

    fn elsewhere() -> ProcessId {
        ProcessId { host: "elsewhere".into(), process: 1, began: 1, ..ProcessId::here() }
    }

    /// A lease of a process on another machine, renewed `age` ago.
    fn foreign_lease(folder: &Path, age: Duration) {
        let path = folder.join("cell-abc.lease");
        std::fs::write(&path, lease_of(elsewhere())).expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("there");
        file.set_modified(SystemTime::now() - age).expect("set");
    }

    #[test]
    fn one_of_many_gets_the_lease_and_leaves_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let leases: Vec<Lease> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..16).map(|_| scope.spawn(|| take(folder.path()))).collect();
            all.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(leases.len(), 1);
        assert!(take(folder.path()).is_none());
        drop(leases);
        assert!(take(folder.path()).is_some());
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_lease_that_was_not_renewed_is_taken_over_once() {
        let folder = tempfile::tempdir().expect("a folder");
        foreign_lease(folder.path(), Duration::from_secs(30));
        assert!(take(folder.path()).is_none(), "its owner may be running");
        foreign_lease(folder.path(), Duration::from_secs(300));
        let leases: Vec<Lease> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..16).map(|_| scope.spawn(|| take(folder.path()))).collect();
            all.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(leases.len() <= 1, "{} have the lease", leases.len());
        assert!(leases.len() == 1 || take(folder.path()).is_some());
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_lease_stale() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cell-abc.lease");
        std::fs::write(&path, lease_of(elsewhere())).expect("written");
        let file = std::fs::File::options().write(true).open(&path).expect("there");
        file.set_modified(SystemTime::now() + Duration::from_secs(9000)).expect("set");
        assert!(take(folder.path()).is_none());
    }

    #[test]
    fn the_lease_of_a_dead_process_of_this_machine_is_free_at_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("started");
        let owner = ProcessId { process: child.id(), began: began(child.id()).expect("it lives"), ..ProcessId::here() };
        std::fs::write(folder.path().join("cell-abc.lease"), lease_of(owner)).expect("written");
        assert!(take(folder.path()).is_none() && Lease::is_held(folder.path(), "cell-abc"));
        child.kill().expect("killed");
        // even before its parent has waited for it, once the signal has arrived
        let free = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            take(folder.path()).is_some()
        });
        assert!(free);
        child.wait().expect("waited");
    }

    #[test]
    fn a_process_of_another_namespace_is_not_the_one_with_its_number_here() {
        let folder = tempfile::tempdir().expect("a folder");
        let gone = ProcessId { began: 1, ..ProcessId::here() };
        let lease = folder.path().join("cell-abc.lease");
        let contained = ProcessId { namespace: gone.namespace.map(|inode| inode + 1), ..gone.clone() };
        std::fs::write(&lease, lease_of(contained)).expect("written");
        assert!(take(folder.path()).is_none(), "a container's process is not seen from here");
        std::fs::write(&lease, lease_of(gone)).expect("written");
        assert!(take(folder.path()).is_some());
    }
}
