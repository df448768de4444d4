//! Identifies a process across machines, containers and reused process ids.

use duel_spec::ids::hash_bytes;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    /// The machine's name and boot id, which distinguishes machines with the same name.
    pub(crate) host: String,
    /// The PID namespace: process 7 in a container is not process 7 outside it. `None` where it is unknown.
    pub(crate) namespace: Option<u64>,
    pub(crate) process: u32,
    /// Start time, in clock ticks.
    pub(crate) began: u64,
}

impl ProcessId {
    /// This process.
    pub(crate) fn here() -> Self {
        let process = std::process::id();
        Self { host: host(), namespace: namespace(), process, began: began(process).unwrap_or(0) }
    }

    /// Whether it is known to have ended: a process of this namespace that no longer exists.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_visible() && began(self.process) != Some(self.began)
    }

    /// Whether it is known to be running.
    pub(crate) fn is_here(&self) -> bool {
        self.is_visible() && began(self.process) == Some(self.began)
    }

    /// Whether it would be visible from here if it were running.
    fn is_visible(&self) -> bool {
        self.namespace.is_some() && self.namespace == namespace() && self.host == host()
    }

    /// A tag for file names: process, start time, and a hash of host and namespace.
    pub(crate) fn tag(&self) -> String {
        format!("{}-{}-{}", self.process, self.began, host_hash(&self.host, self.namespace))
    }
}

/// Whether the process with this tag in a file's name has ended; `None` where that cannot be known from here.
pub(crate) fn is_gone_by_tag(tag: &str) -> Option<bool> {
    let mut parts = tag.splitn(3, '-');
    let (process, start) = (parts.next()?.parse().ok()?, parts.next()?.parse::<u64>().ok()?);
    let (rest, here) = (parts.next()?, namespace());
    // a number after the hash distinguishes files of the same process
    let is_visible = here.is_some() && rest.split('-').next() == Some(&host_hash(&host(), here));
    is_visible.then(|| began(process) != Some(start))
}

fn host_hash(host: &str, namespace: Option<u64>) -> String {
    hash_bytes(format!("{host} {namespace:?}").as_bytes())[..12].to_string()
}

fn host() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_string();
    format!("{} {}", read("/proc/sys/kernel/hostname"), read("/proc/sys/kernel/random/boot_id"))
}

/// The inode of our PID namespace, if `/proc` belongs to that namespace and shows other users' processes: only then does a
/// missing number mean that there is no such process.
fn namespace() -> Option<u64> {
    let pid_link = std::fs::read_link("/proc/self").ok()?;
    if pid_link.to_str()? != std::process::id().to_string() || !Path::new("/proc/1/stat").exists() {
        return None;
    }
    let link = std::fs::read_link("/proc/self/ns/pid").ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// The start time of a process in clock ticks; `None` if it does not exist.
pub(crate) fn began(process: u32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    // the name, in parentheses, may contain anything; the state follows it, Z for a zombie
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
    fn a_process_is_identified_by_machine_namespace_number_and_start_time() {
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
}
