//! A planned experiment whose stages a test runs one by one.

use super::{StageContext, run_stage};
use crate::error::Result;
use crate::plan::{Plan, Stage, StageKind};
use duel_ledger::{MetricTable, Outcomes, RunDir, StageDir, StageRecorder, read_metrics, read_outcomes};
use duel_spec::{Document, Experiment, NO_POINT};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// An experiment of one seed, its plan and a new run.
pub(super) struct PlannedRun {
    pub(super) experiment: Experiment,
    pub(super) plan: Plan,
    pub(super) run: RunDir,
    stop: AtomicBool,
    _root: tempfile::TempDir,
}

impl PlannedRun {
    /// `text` is the experiment file without its name and seeds.
    pub(super) fn new(text: &str) -> Self {
        let text = format!("name = \"test\"\nseeds = 1\n{text}");
        let document = Document::parse("test", &text, &[]).expect("valid");
        let experiment = Experiment::from_document(&document).expect("valid");
        let plan = Plan::new(&experiment, "flex", experiment.cells_for(&experiment.trials())).expect("plans");
        let root = tempfile::tempdir().expect("a folder");
        let run = RunDir::create(root.path(), &experiment.name).expect("a run");
        Self { experiment, plan, run, stop: AtomicBool::new(false), _root: root }
    }

    pub(super) fn stage(&self, kind: StageKind) -> &Stage {
        self.plan.stages.iter().find(|stage| stage.kind == kind).expect("planned")
    }

    pub(super) fn context<'a>(&'a self, stage: &'a Stage) -> StageContext<'a> {
        let device = duel_model::device::open("flex").expect("the device");
        StageContext::new(&self.experiment, &self.plan, stage, &self.run, device, &self.stop)
    }

    /// Runs a stage.
    pub(super) fn make(&self, kind: StageKind) -> Result<StageDir> {
        let stage = self.stage(kind);
        let run = |to: &Path| run_stage(&self.context(stage), to, &mut recorder());
        StageDir::make(&self.run.stages(), &stage.id, &stage.key, run)
    }
}

pub(super) fn recorder() -> StageRecorder {
    StageRecorder::new("test", "test", NO_POINT, 0, Box::new(|_, _, _| ()))
}

/// What was recorded so far: metrics, and outcomes if there are any.
pub(super) fn recorded(recorder: &StageRecorder) -> Result<(MetricTable, Vec<Outcomes>)> {
    let folder = tempfile::tempdir().expect("a folder");
    recorder.write(folder.path())?;
    let [metrics, outcomes] = ["metrics.parquet", "outcomes.parquet"].map(|file| folder.path().join(file));
    let outcomes = if outcomes.exists() { read_outcomes(&outcomes)? } else { vec![] };
    Ok((read_metrics(&metrics)?, outcomes))
}
