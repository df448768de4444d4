//! Puts the commit into the binary, for the manifest of each run.

use std::path::Path;
use std::process::Command;

fn main() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let git = |args: &[&str]| -> Option<String> {
        let out = Command::new("git").arg("-C").arg(root).args(args).output().ok()?;
        out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_string())
    };
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        let dirty = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
        println!("cargo::rustc-env=DUEL_COMMIT={commit}{}", if dirty { ", with changes" } else { "" });
    }
    // the log of HEAD moves with every commit and checkout
    let log = format!("{root}/.git/logs/HEAD");
    println!("cargo::rerun-if-changed={}", if Path::new(&log).exists() { log } else { format!("{root}/crates") });
    println!("cargo::rerun-if-changed={root}/crates");
}
