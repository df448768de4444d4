//! Who writes what is not finished yet: a process, told from every other that has its number, now, before or elsewhere.

use crate::Lease;
use duel_spec::ids::hash_bytes;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Time without a change after which what an unknown writer left counts as left for good.
const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// The machine's name and its boot, which tells apart machines that share a name.
    pub(crate) host: String,
    /// The PID namespace: process 7 of a container is another than process 7 beside it. `None` where it cannot be told.
    pub(crate) namespace: Option<u64>,
    pub(crate) process: u32,
    /// When it began, in the system's ticks.
    pub(crate) began: u64,
}

impl ProcessId {
    /// This process.
    pub(crate) fn here() -> Self {
        let process = std::process::id();
        Self { host: host(), namespace: namespace(), process, began: began(process).unwrap_or(0) }
    }

    /// Whether it is known to be gone: a process of this namespace that is no more.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_of_here() && began(self.process) != Some(self.began)
    }

    /// Whether it is seen to live.
    pub(crate) fn is_here(&self) -> bool {
        self.is_of_here() && began(self.process) == Some(self.began)
    }

    /// Whether it would be seen from here if it lived.
    fn is_of_here(&self) -> bool {
        self.namespace.is_some() && self.namespace == namespace() && self.host == host()
    }

    /// As part of a file's name: process, beginning, and a hash of where it runs.
    pub(crate) fn tag(&self) -> String {
        format!("{}-{}-{}", self.process, self.began, place(&self.host, self.namespace))
    }
}

/// Whether the process that put its tag into a file's name is gone; `None` where that cannot be told from here.
fn is_gone_by_tag(tag: &str) -> Option<bool> {
    let mut parts = tag.splitn(3, '-');
    let (process, its_start) = (parts.next()?.parse().ok()?, parts.next()?.parse::<u64>().ok()?);
    let (there, here) = (parts.next()?, namespace());
    // what follows the hash tells files of one process apart
    let ours = here.is_some() && there.split('-').next() == Some(&place(&host(), here));
    ours.then(|| began(process) != Some(its_start))
}

/// Whether nobody will finish what stands at `path`, with its writer's tag behind `mark` in its name: the writer is gone, or
/// cannot be seen from here, has changed nothing for a day, and renews no lease.
pub(crate) fn is_left_behind(path: &Path, mark: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((stage, tag)) = name.split_once(mark) else { return false };
    is_gone_by_tag(tag).unwrap_or_else(|| {
        if path.parent().is_some_and(|stages| Lease::is_held(stages, stage)) {
            return false; // a long training writes its stage at its end alone
        }
        let changed = |path: &Path| std::fs::symlink_metadata(path).and_then(|data| data.modified()).ok();
        let inside = std::fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| changed(&entry.path()));
        let last = inside.chain(changed(path)).max();
        last.is_some_and(|last| SystemTime::now().duration_since(last).is_ok_and(|age| age > FORGOTTEN))
    })
}

fn place(host: &str, namespace: Option<u64>) -> String {
    hash_bytes(format!("{host} {namespace:?}").as_bytes())[..12].to_string()
}

fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    format!("{} {}", read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/random/boot_id"))
}

/// The inode of our PID namespace, where `/proc` is of that namespace and shows the processes of others: only then does a
/// number without a process mean that there is none.
fn namespace() -> Option<u64> {
    let own = std::fs::read_link("/proc/self").ok()?;
    if own.to_str()? != std::process::id().to_string() || !Path::new("/proc/1/stat").exists() {
        return None;
    }
    let link = std::fs::read_link("/proc/self/ns/pid").ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// When a process began, in ticks; `None` where there is none of that number.
pub(crate) fn began(process: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    // the name, in parentheses, may hold anything; the state, which follows it, tells a zombie
    let stat = String::from_utf8_lossy(&stat).into_owned();
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_machine_its_namespace_its_number_and_its_beginning() {
        let here = ProcessId::here();
        assert!(!here.is_gone());
        let restarted = ProcessId { began: here.began + 1, ..here.clone() };
        assert!(restarted.is_gone(), "another process has its number now");
        for elsewhere in [
            ProcessId { host: "elsewhere".into(), ..restarted.clone() },
            ProcessId { namespace: here.namespace.map(|inode| inode + 1), ..restarted.clone() },
            ProcessId { namespace: None, ..restarted.clone() },
        ] {
            assert!(!elsewhere.is_gone(), "{elsewhere:?} cannot be seen from here");
            assert_eq!(is_gone_by_tag(&elsewhere.tag()), None, "{elsewhere:?}");
        }
        assert_eq!(is_gone_by_tag(&here.tag()), Some(false));
        assert_eq!(is_gone_by_tag(&format!("{}-3", restarted.tag())), Some(true));
        assert_eq!(is_gone_by_tag("1"), None, "an older version's");
    }

    #[test]
    fn what_is_left_behind_is_told_from_what_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = ProcessId::here();
        let make = |tag: &str| {
            let path = folder.path().join(format!("cell-abc.making-{tag}"));
            std::fs::create_dir_all(&path).expect("made");
            std::fs::write(path.join("half"), b"a").expect("written");
            path
        };
        assert!(!is_left_behind(&make(&here.tag()), ".making-"));
        assert!(is_left_behind(&make(&ProcessId { began: 1, ..here.clone() }.tag()), ".making-"));
        let unseen = make(&ProcessId { host: "elsewhere".into(), ..here }.tag());
        assert!(!is_left_behind(&unseen, ".making-"));
        for path in [unseen.join("half"), unseen.clone()] {
            let file = std::fs::File::open(path).expect("there");
            file.set_modified(SystemTime::now() - 2 * FORGOTTEN).expect("set");
        }
        std::fs::write(folder.path().join("cell-abc.lease"), b"renewed just now").expect("written");
        assert!(!is_left_behind(&unseen, ".making-"));
        std::fs::remove_file(folder.path().join("cell-abc.lease")).expect("removed");
        assert!(is_left_behind(&unseen, ".making-"));
    }
}
