//! `duel doctor`: checks of this machine.

use crate::error::Result;
use crate::sysinfo;
use crate::terminal::format_bytes;
use crate::terminal::print;
use duel_model::device;
use std::path::Path;

/// One finding.
struct DoctorCheck {
    /// Whether the check passed; `None` if it is for information only.
    good: Option<bool>,
    what: &'static str,
    text: String,
}

/// Prints the checks; `out` is the folder of runs.
pub fn doctor(out: &Path) -> Result<()> {
    let check = |good, what, text: String| DoctorCheck { good, what, text };
    let host = sysinfo::describe();
    let mut checks = vec![
        check(None, "duel", format!("{}, commit {}", env!("CARGO_PKG_VERSION"), crate::sysinfo::COMMIT)),
        check(None, "machine", format!("{}, {} cores, {}", host.processor, host.cores, host.system)),
    ];
    let memory = sysinfo::memory();
    let enough = memory >= 1e9;
    checks.push(check(Some(enough), "memory", format!("{}; article.toml takes about 320 MB", format_bytes(memory))));
    let (vectors, wide) = device::vectors();
    let slow = if wide { "" } else { ": everything works, several times slower" };
    checks.push(check(Some(wide), "vectors", format!("{vectors}{slow}")));
    for name in device::NAMES {
        checks.push(match device::open(name) {
            Ok(_) => {
                let on = device::adapters(name).map_or_else(String::new, |names| format!(" on {}", names.join(", ")));
                check(Some(true), "device", format!("{name}{on}"))
            }
            Err(error @ duel_model::Error::NoAdapter { .. }) => check(Some(false), "device", error.to_string()),
            Err(error) => check(None, "device", format!("{error}: cargo build --release --features {name}")),
        });
    }
    checks.push(match free_bytes(out) {
        Ok(free) => check(Some(free > 1e9), "runs", format!("{}: {} free", out.display(), format_bytes(free))),
        Err(problem) => check(Some(false), "runs", format!("{}: {problem}; choose another with --out", out.display())),
    });
    let data = Path::new(&duel_spec::ReviewsSettings::defaults().data).to_path_buf();
    checks.push(match duel_data::reviews::check_present(&data) {
        Ok(()) => check(Some(true), "reviews", format!("{} is complete", data.display())),
        Err(_) => check(None, "reviews", "not fetched: scripts/get-data reviews".into()),
    });
    let mut answer = String::new();
    for DoctorCheck { good, what, text } in &checks {
        let mark = match good {
            Some(true) => "✓",
            Some(false) => "✗",
            None => "–",
        };
        answer += &format!("{mark} {what:<9} {text}\n");
    }
    print(&answer);
    Ok(())
}

/// Free bytes in the folder of runs, or in the nearest existing folder above it.
fn free_bytes(out: &Path) -> std::result::Result<f64, String> {
    let absolute = std::path::absolute(out).map_err(|e| e.to_string())?;
    let existing = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !existing.is_dir() {
        return Err("there is a file of that name".into());
    }
    if rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).is_err() {
        return Err("it cannot be written to".into());
    }
    let space = rustix::fs::statvfs(existing).map_err(|e| e.to_string())?;
    Ok(space.f_bavail as f64 * space.f_frsize as f64)
}
