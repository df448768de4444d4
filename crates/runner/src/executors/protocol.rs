//! What a worker reports to the process that follows it: lines on standard output or, if it is detached, a file.

use crate::error::{Error, Result, WorkerEnd};
use crate::plan::Plan;
use crate::render::render;
use duel_ledger::{Manifest, write_atomically};
use duel_spec::Experiment;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The failure of a detached worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WorkerExitReport {
    pub exit: u8,
    pub tail: String,
    /// Whether only a stage that it needs was missing; `in_vain` in earlier versions.
    #[serde(alias = "in_vain")]
    pub needs_missing: bool,
    pub ended: Option<WorkerEnd>,
}

/// Folder of the reports in a run directory, for every executor.
pub const EXIT_REPORTS: &str = "slurm/failed";

impl WorkerExitReport {
    fn path(run: &Path, folder: &str) -> PathBuf {
        run.join(EXIT_REPORTS).join(format!("{folder}.json"))
    }

    /// Reports the failure of a stage's worker, unless it was interrupted. The log has it too, so a report that cannot be
    /// written is not an error.
    pub fn write(run: &Path, stage: usize, error: &Error) {
        if error.exit() == 130 {
            return;
        }
        let write = || -> Result<()> {
            let (experiment, _) = Experiment::load(&run.join("experiment.toml"), &[])?;
            let device = Manifest::read(run)?.device;
            let plan = Plan::new(&experiment, &device, duel_ledger::cells_of(run, &experiment)?)?;
            let Some(stage) = plan.stages.get(stage) else { return Ok(()) };
            let report = Self {
                exit: error.exit(),
                tail: render(error),
                needs_missing: matches!(error, Error::Missing { .. }),
                ended: Some(WorkerEnd::by(error)),
            };
            let json = serde_json::to_vec_pretty(&report).expect("plain data");
            Ok(write_atomically(&Self::path(run, &stage.id.folder()), &json)?)
        };
        let _ = write();
    }

    /// Reads and removes the report of a stage, by the name of its folder.
    pub fn take(run: &Path, folder: &str) -> Option<Self> {
        let path = Self::path(run, folder);
        let report = serde_json::from_slice(&std::fs::read(&path).ok()?).ok();
        let _ = std::fs::remove_file(path);
        report
    }
}
