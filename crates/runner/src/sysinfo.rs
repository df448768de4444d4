//! The machine, this process and the binary: cores, memory, signals, the allocator, the commit.

use duel_ledger::HostInfo;
use duel_spec::ModelNumbers;
use std::ffi::c_long;

/// The commit that the binary was built from.
pub const COMMIT: &str = match option_env!("DUEL_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// `mi_option_purge_delay` of mimalloc.h, for which the binding has no name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Milliseconds for which the allocator keeps free pages: longer than a step, so that no step clears pages again that the
/// last one has cleared.
pub const PURGE_MILLISECONDS: c_long = 60_000;
/// The same for a pretrained model in f32, where what one part of a step frees would otherwise add to what the next one allocates.
const PURGE_MILLISECONDS_PRETRAINED: c_long = 50;

/// The same for a rounded one, which leaves room for what is used again within a step.
const PURGE_MILLISECONDS_ROUNDED: c_long = 400;

/// Milliseconds for which a worker's allocator keeps free pages.
pub fn purge_milliseconds(is_pretrained: bool, numbers: ModelNumbers) -> c_long {
    match (is_pretrained, numbers.is_f32()) {
        (false, _) => PURGE_MILLISECONDS,
        (true, true) => PURGE_MILLISECONDS_PRETRAINED,
        (true, false) => PURGE_MILLISECONDS_ROUNDED,
    }
}

/// Sets for how long the allocator keeps free pages, unless the environment's `MIMALLOC_PURGE_DELAY` says otherwise. Pages
/// that are free already go back now: they would wait for the delay before, and all that are freed until then with them.
#[expect(unsafe_code, reason = "calls into the allocator")]
pub fn set_purge_delay(milliseconds: c_long) {
    // SAFETY: sets a number within the allocator's table of options, and frees nothing that is in use.
    unsafe {
        libmimalloc_sys::mi_option_set_default(PURGE_DELAY, milliseconds);
        libmimalloc_sys::mi_collect(true);
    }
}

/// Name, processor, cores, system.
pub fn describe() -> HostInfo {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo")
        .lines()
        .find_map(|l| l.strip_prefix("model name").and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_string()))
        .unwrap_or_else(|| std::env::consts::ARCH.into());
    HostInfo {
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

/// Resets [`peak_memory`] to the memory in use, if the system supports it.
pub fn forget_peak_memory() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Resident set of a process, bytes; 0 once it is gone.
pub fn memory_of(process: u32) -> u64 {
    field(&process.to_string(), "VmRSS:")
}

/// Seconds that this process's threads have run on a processor; 0 where the system does not say.
pub fn processor_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanoseconds = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    1e-9 * nanoseconds.sum::<u64>() as f64
}

fn field(process: &str, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let kilobytes = status
        .lines()
        .find_map(|l| l.strip_prefix(name))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// The command line as it was given, for notes of it.
pub fn command() -> Vec<String> {
    std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect()
}

/// Whether the terminal can only be written to line by line, as an editor's may.
pub fn is_dumb_terminal() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Signals that ask this process to end: Ctrl-C, a request, a terminal that is gone, unless `nohup` has it ignored.
pub fn ending_signals() -> Vec<i32> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    let is_ignored = |signal: i32| ignored.is_some_and(|set| set >> (signal - 1) & 1 == 1);
    [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| signal != SIGHUP || !is_ignored(signal)).collect()
}
