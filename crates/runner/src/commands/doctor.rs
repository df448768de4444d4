//! `duel doctor`: what will run here and what will not, and why.

use crate::error::Result;
use crate::sysinfo;
use crate::terminal::format_bytes;
use crate::terminal::print;
use duel_model::device;
use std::path::Path;

/// One finding.
struct DoctorCheck {
    /// Whether it is as it should be; `None` where it is only worth knowing.
    good: Option<bool>,
    what: &'static str,
    words: String,
}

/// Prints what was found; `out` is where runs are to stand.
pub fn doctor(out: &Path) -> Result<()> {
    let found = |good, what, words: String| DoctorCheck { good, what, words };
    let host = sysinfo::describe();
    let mut all = vec![
        found(None, "duel", format!("{}, commit {}", env!("CARGO_PKG_VERSION"), crate::sysinfo::COMMIT)),
        found(None, "machine", format!("{}, {} cores, {}", host.processor, host.cores, host.system)),
    ];
    let memory = sysinfo::memory();
    let enough = memory >= 1e9;
    all.push(found(Some(enough), "memory", format!("{}; article.toml takes about 320 MB", format_bytes(memory))));
    let vectors = device::vectors();
    let slow = if vectors == "none" { ": everything works, several times slower" } else { "" };
    all.push(found(Some(vectors != "none"), "vectors", format!("{vectors}{slow}")));
    for name in device::NAMES {
        all.push(match device::open(name) {
            Ok(_) => {
                let on = device::adapters(name).map_or_else(String::new, |found| format!(" on {}", found.join(", ")));
                found(Some(true), "device", format!("{name}{on}"))
            }
            Err(error @ duel_model::Error::NoAdapter { .. }) => found(Some(false), "device", error.to_string()),
            Err(error) => found(None, "device", format!("{error}: cargo build --release --features {name}")),
        });
    }
    all.push(match free_bytes(out) {
        Ok(free) => found(Some(free > 1e9), "runs", format!("{}: {} free", out.display(), format_bytes(free))),
        Err(problem) => found(Some(false), "runs", format!("{}: {problem}; choose another with --out", out.display())),
    });
    let data = Path::new(&duel_spec::ReviewsSettings::defaults().data).to_path_buf();
    all.push(match duel_data::reviews::check_present(&data) {
        Ok(()) => found(Some(true), "reviews", format!("{} is complete", data.display())),
        Err(_) => found(None, "reviews", "not fetched: scripts/get-data reviews".into()),
    });
    let mut text = String::new();
    for DoctorCheck { good, what, words } in &all {
        let mark = match good {
            Some(true) => "✓",
            Some(false) => "✗",
            None => "–",
        };
        text += &format!("{mark} {what:<9} {words}\n");
    }
    print(&text);
    Ok(())
}

/// Bytes free where runs are to stand, or at the nearest folder above that is there.
fn free_bytes(out: &Path) -> std::result::Result<f64, String> {
    let here = std::path::absolute(out).map_err(|e| e.to_string())?;
    let there = here.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err("a file stands there".into());
    }
    if rustix::fs::access(there, rustix::fs::Access::WRITE_OK).is_err() {
        return Err("it cannot be written to".into());
    }
    let space = rustix::fs::statvfs(there).map_err(|e| e.to_string())?;
    Ok(space.f_bavail as f64 * space.f_frsize as f64)
}
