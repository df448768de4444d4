//! A planned experiment whose stages a test runs one by one.

use super::{StageContext, run_stage};
use crate::error::Result;
use crate::plan::{Plan, Stage, StageKind};
use burn::tensor::Device;
use duel_data::World;
use duel_data::grammar::GrammarWorld;
use duel_ledger::{MetricTable, Outcomes, RunDir, StageDir, StageRecorder, read_metrics, read_outcomes};
use duel_model::{FrozenNumbers, Policy};
use duel_spec::{Document, Experiment, NO_POINT};
use duel_testing_tensors::tiny_model;
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

/// A planned run on a tiny pretrained model, with more settings of `[model]` and what follows it, and those of the reward
/// model; and the model's folder.
pub(super) fn pretrained_run(more: &str, reward: &str) -> (PlannedRun, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    tiny_model::model(&folder.path().join("model"));
    tiny_model::reward_model(&folder.path().join("reward"), "{{ messages[0].content }}", 64);
    let rows = (0..8).map(|i| format!("{{\"prompt\": \"is it {i}\", \"chosen\": \"good\", \"rejected\": \"no\"}}\n"));
    std::fs::write(folder.path().join("rows.jsonl"), rows.collect::<String>()).expect("written");
    let at = folder.path().display();
    let run = PlannedRun::new(&format!(
        "[world]\nkind = \"rows\"\n[world.rows]\ntrain = \"{at}/rows.jsonl\"\n\
         [arms.a]\nmethod = \"dpo\"\nlora = true\n[model]\nfrom = \"{at}/model\"\n{more}[stages.rm]\n{}",
        reward.replace("AT", &at.to_string())
    ));
    (run, folder)
}

/// The tiny model as it is in its files, and rounded.
pub(super) fn tiny_policies(folder: &Path) -> Result<[Policy; 2]> {
    let model = duel_model::Pretrained::open(&folder.join("model"))?;
    let context = GrammarWorld::new(0.02, 1).space().context();
    let policy = model.policy(context, &Device::flex())?;
    Ok([policy.clone(), policy.rounded(FrozenNumbers::Bf16)])
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
