//! Runs the stages of a plan. Another executor is a file with its `ENTRY`, and its line in [`EXECUTORS`].

mod executor;
mod local;
mod protocol;
mod schedule;
mod script;
mod slurm;

pub use executor::{ExecutorEntry, RunEvent, RunOptions};
pub use protocol::WorkerExitReport;
pub use schedule::{RunSummary, execute};
pub use script::shell_quoted;

/// Every executor, the default first: `--executor` and its help come from here.
pub static EXECUTORS: &[ExecutorEntry] = &[
    local::ENTRY, // the default
    slurm::ENTRY,
];
