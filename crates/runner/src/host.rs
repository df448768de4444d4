//! What the machine is and how much memory is in use, read from the system's own files.

use duel_ledger::Host;

/// Name, processor, cores, system.
pub fn describe() -> Host {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|l| l.strip_prefix("model name").and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_string()))
        .unwrap_or_else(|| std::env::consts::ARCH.into());
    Host {
        name: read("/proc/sys/kernel/hostname").trim().into(),
        processor,
        cores: cores(),
        system: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Memory of the machine, bytes; infinite where the system does not say.
pub fn memory() -> f64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes =
        info.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    kilobytes.map_or(f64::INFINITY, |kilobytes: f64| kilobytes * 1024.0)
}

/// Largest resident set of this process so far, or since [`forget_peak_memory`], bytes; 0 where the system does not say.
pub fn peak_memory() -> u64 {
    field("self", "VmHWM:")
}

/// Starts [`peak_memory`] anew from what is in use now, where the system can.
pub fn forget_peak_memory() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Resident set of a process, bytes; 0 once it is gone.
pub fn memory_of(process: u32) -> u64 {
    field(&process.to_string(), "VmRSS:")
}

fn field(process: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|l| l.strip_prefix(name))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}
