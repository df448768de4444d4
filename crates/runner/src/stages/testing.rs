//! A planned experiment whose stages a test runs one by one, and the inputs of a training without one.

use super::registry::TrainingInputs;
use super::{StageContext, run_stage};
use crate::error::Result;
use crate::plan::{Plan, Stage, StageKind};
use burn::module::Module;
use burn::tensor::Device;
use duel_data::World;
use duel_data::grammar::{GrammarWorld, token};
use duel_data::pairs::PreferenceRow;
use duel_dpo::ReferenceLogp;
use duel_ledger::{MetricTable, Outcomes, RunDir, StageDir, StageRecorder, read_metrics, read_outcomes};
use duel_model::{Policy, ResponseReader, ScalarModel, TransformerConfig};
use duel_reward::{GrammarGold, LearnedReward, RewardNetwork};
use duel_spec::{Document, EnsembleScore, Experiment, LearnerSettings, NO_POINT, Split, seeds};
use duel_training::Splits;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};

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

/// The sizes of a small model of the world `grammar`.
fn config() -> TransformerConfig {
    let space = GrammarWorld::new(0.02, 1).space().clone();
    TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true)
}

/// A new one, on the device without gradients.
pub(super) fn policy(seed: u64) -> Policy {
    Policy::new(&config(), &mut seeds::derive(seed, "test", 0, "init"), &Device::flex())
}

/// An ensemble of networks with these bodies.
pub(super) fn reward(networks: usize, body: impl Fn() -> Policy) -> LearnedReward {
    let network = || ScalarModel::with_head(body(), vec![0.5; 8], &Device::flex());
    let judges = (0..networks).map(|_| (RewardNetwork::Network(network()), 0.25)).collect();
    let reader = ResponseReader::new(GrammarWorld::new(0.02, 1).space(), &Device::flex());
    LearnedReward::new(judges, EnsembleScore::Mean, reader, 0.5, 2.0)
}

/// What a training starts from: small models of the world `grammar`, three networks as its reward, seven train rows and two
/// validation rows.
pub(super) fn inputs() -> TrainingInputs<'static> {
    static STOP: AtomicBool = AtomicBool::new(false);
    static LEARNER: LazyLock<LearnerSettings> = LazyLock::new(LearnerSettings::defaults);
    let world = GrammarWorld::new(0.02, 1);
    let reader = ResponseReader::new(world.space(), &Device::flex());
    let row = |i: usize| {
        let split = if i < 7 { Split::Train } else { Split::Validation };
        let prompts = world.prompts(split);
        let [chosen, rejected] = [token::G, token::B].map(|symbol| vec![symbol, token::EOS]);
        PreferenceRow::new(split, prompts[i % prompts.len()].ids.clone(), chosen, rejected)
    };
    let rows: Vec<PreferenceRow> = (0..9).map(row).collect();
    let (on_train, on_validation) = rows.split_at(7);
    let logp = |rows: &[PreferenceRow]| ReferenceLogp::compute(&reader, &policy(1), rows);
    TrainingInputs {
        seed: 1,
        config: config(),
        pretrained: false,
        learner: &LEARNER,
        reference: policy(1),
        start: policy(1).train(),
        critic_start: policy(1).train(),
        train_reader: ResponseReader::new(world.space(), &Device::flex().autodiff()),
        gold: Arc::new(GrammarGold),
        reward: reward(3, || policy(2)),
        reward_config: config(),
        reference_hash: policy(1).hash(),
        reference_logp: Some((logp(on_train), logp(on_validation))),
        curve_points: 3,
        splits: Splits::of(&world),
        stop: &STOP,
        world: Arc::new(world),
        reader,
        rows,
    }
}
