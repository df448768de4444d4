//! `duel cancel`: cancels the jobs of a run on a cluster.

use crate::error::Result;
use crate::executors::EXECUTORS;
use crate::terminal::print;
use duel_ledger::{RunDir, RunLock};
use std::path::Path;

/// Cancels the run's jobs of every executor that has any.
pub fn cancel(path: &Path) -> Result<()> {
    let run = RunDir::open(path)?;
    let mut count = 0;
    for cancel in EXECUTORS.iter().filter_map(|executor| executor.cancel) {
        count += cancel(&run)?;
    }
    if count == 0 {
        print(&format!("`{}` has no jobs\n", run.path().display()));
    }
    let is_followed = RunLock::take(run.path()).is_err();
    print(&format!(
        "{count} jobs cancelled{}; what is finished stays\n",
        if is_followed { ", and the process that monitors them was notified" } else { "" }
    ));
    Ok(())
}
