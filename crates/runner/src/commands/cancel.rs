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
        print(&format!("`{}` has no jobs to cancel\n", run.path().display()));
        return Ok(());
    }
    let is_followed = RunLock::take(run.path()).is_err();
    print(&format!(
        "{count} job arrays cancelled; finished stages and checkpoints are kept{}\n",
        if is_followed { "; the `duel run` that follows them will end" } else { "" }
    ));
    Ok(())
}
