//! A small experiment run within the test, stage by stage, and every choice that stages make held against a plain one: which
//! rows, prompts, random numbers, costs and steps go where.

use crate::plan::{Plan, Stage, StageKind};
use crate::stages::{EpochSampler, PROXY, REFERENCE, StageContext, learned_reward, load_json, run_stage};
use duel_data::World;
use duel_data::grammar::{GrammarWorld, PromptCoordinates, gold, token};
use duel_data::pairs::PreferenceRow;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_evaluation::{ExactEvaluator, HeldOut, OrderedPairs, proxy_table};
use duel_ledger::{MetricTable, RunDir, StageDir, StageRecorder, read_completions, read_metrics, read_outcomes};
use duel_model::{Flops, Policy, generate};
use duel_reward::{RewardModel, RewardNetwork, Scorer, quality};
use duel_spec::metrics::{self, Metric};
use duel_spec::seeds::{self, Stream, Taken};
use duel_spec::{
    Document, Experiment, NO_POINT, OutcomeRow, PairDivision, SHARED_ARM, Split, bins_stage, ids::prompt_hash,
};
use duel_training::{PairBatch, curve_steps, logprobs};
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::atomic::AtomicBool;

/// The arms keep the best step by three different marks; one learns so long that the best is not the last.
const TEXT: &str = r#"
name = "wiring"
seeds = 2
[model]
layers = 1
width = 16
heads = 2
[stages.sft]
steps = 40
[stages.pairs]
rows = 64
holdout_rows = 32
[stages.rm]
steps = 12
batch_size = 16
samples = 48
ensemble = 2
keep = "best"
checks = 4
[evaluation]
curve_points = 12
completions = 6
[arms.ppo]
method = "ppo"
iterations = 6
episodes = 16
minibatches = 2
epochs = 1
target_kl = inf
keep = "loss"
learning_rate = 0.02
[arms.ppo.grid]
beta = [0.3]
[arms.dpo]
method = "dpo"
epochs = 3
batch_size = 16
keep = "proxy"
learning_rate = 0.02
[arms.dpo.grid]
beta = [0.3]
[arms.rloo]
method = "rloo"
iterations = 6
episodes = 16
minibatches = 2
epochs = 1
target_kl = inf
reward = "gold"
keep = "gold"
learning_rate = 0.02
[arms.rloo.grid]
beta = [0.3]
[arms.rough]
method = "rloo"
iterations = 12
episodes = 16
minibatches = 2
epochs = 1
target_kl = inf
reward = "gold"
keep = "gold"
learning_rate = 0.02
[arms.rough.grid]
beta = [0.3]
"#;

/// The seed whose stages are checked: not 0, which a forgotten seed would be.
const SEED: u64 = 1;

/// What was run, and the generators that each stage made.
struct RunRecord {
    experiment: Experiment,
    plan: Plan,
    run: RunDir,
    taken: Vec<(usize, Vec<Taken>)>,
    world: GrammarWorld,
    /// The preference rows.
    rows: Vec<PreferenceRow>,
    stop: AtomicBool,
    _root: tempfile::TempDir,
}

impl RunRecord {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let document = Document::parse("wiring", TEXT, &[]).expect("valid");
        let experiment = Experiment::from_document(&document).expect("valid");
        let plan = Plan::new(&experiment, "flex", experiment.cells_for(&experiment.trials())).expect("plans");
        let run = RunDir::create(root.path(), &experiment.name).expect("a run");
        let world = GrammarWorld::new(experiment.world.grammar.rho, experiment.world.grammar.sft_rows);
        let (taken, rows, stop) = (vec![], vec![], AtomicBool::new(false));
        let mut record = Self { experiment, plan, run, taken, world, rows, stop, _root: root };
        for place in 0..record.plan.stages.len() {
            let stage = &record.plan.stages[place];
            if stage.seed != SEED {
                continue;
            }
            let (arm, method, point) = match &stage.cell {
                Some(cell) => (cell.arm.as_str(), cell.point.method.name(), cell.point.label.as_str()),
                None => (SHARED_ARM, stage.kind.name(), NO_POINT),
            };
            let mut recorder = StageRecorder::new(arm, method, point, stage.seed, Box::new(|_, _, _| ()));
            let (result, taken) = seeds::taken_by(|| {
                let context = record.context(stage);
                StageDir::make(&record.run.stages(), &stage.id, &stage.key, |to| run_stage(&context, to, &mut recorder))
            });
            result.unwrap_or_else(|e| panic!("{}: {e:?}", stage.label()));
            record.taken.push((place, taken));
        }
        record.rows = record.context(record.stage(StageKind::Rm, "")).rows().expect("rows");
        record
    }

    fn context<'a>(&'a self, stage: &'a Stage) -> StageContext<'a> {
        let device = duel_model::device::open("flex").expect("the device");
        StageContext::new(&self.experiment, &self.plan, stage, &self.run, device, &self.stop)
    }

    fn stage(&self, kind: StageKind, arm: &str) -> &Stage {
        let is_it = |stage: &&Stage| {
            stage.seed == SEED && stage.kind == kind && stage.cell.as_ref().is_none_or(|cell| cell.arm == arm)
        };
        self.plan.stages.iter().find(is_it).expect("planned")
    }

    /// Responses to a prompt in an arm's rollouts.
    fn group(&self, arm: &str) -> usize {
        self.stage(StageKind::Cell, arm).cell.as_ref().expect("a cell").point.method.group()
    }

    fn folder(&self, stage: &Stage) -> StageDir {
        self.context(stage).folder(stage).expect("made")
    }

    fn metrics(&self, stage: &Stage) -> MetricTable {
        read_metrics(&self.folder(stage).file("metrics.parquet")).expect("rows")
    }
}

/// The last value of a metric of a stage.
fn last(table: &MetricTable, stage: &str, metric: Metric) -> f64 {
    table.of(stage, metric.name).last().unwrap_or_else(|| panic!("no {metric} of {stage}")).value
}

fn near(what: &str, actual: f64, expected: f64) {
    assert!((actual - expected).abs() <= 1e-5 * expected.abs().max(1.0), "{what}: {actual}, expected {expected}");
}

/// A check of the run and its name; it panics where something is not as it should be.
type WiringCheck = (&'static str, fn(&RunRecord));

const CHECKS: [WiringCheck; 11] = [
    ("streams", streams_are_taken_once),
    ("rows", rows_are_of_their_splits),
    ("reward model", the_reward_model_is_judged_on_each_split),
    ("bins", bins_are_of_their_splits),
    ("reference", the_reference_is_of_train_and_validation_rows),
    ("evaluator", the_evaluator_measures_the_reference),
    ("PPO", |record| a_cell_keeps_and_measures_what_it_says(record, "ppo")),
    ("DPO", |record| a_cell_keeps_and_measures_what_it_says(record, "dpo")),
    ("prices", rollouts_have_their_kl_coef),
    ("judges", rollouts_are_scored_by_their_judges),
    ("choice of a step", the_best_step_is_chosen_on_validation),
];

#[test]
fn every_stage_takes_what_it_should() {
    let record = RunRecord::new();
    // all of them, so that one fault does not hide another
    let failed = CHECKS
        .iter()
        .filter(|(_, check)| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&record))).is_err());
    let failed: Vec<&str> = failed.map(|(name, _)| *name).collect();
    assert!(failed.is_empty(), "not as they should be: {failed:?}");
}

/// Every generator is of the stage's seed, and none is made twice: but for evaluation, whose numbers are the same for every
/// policy, and prompts, which are the same for every method on rollouts.
fn streams_are_taken_once(record: &RunRecord) {
    let mut seen = HashSet::new();
    for (place, taken) in &record.taken {
        let label = record.plan.stages[*place].label();
        assert!(taken.iter().all(|t| t.seed == SEED), "{label}: {taken:?}");
        let mut stage_streams = HashSet::new();
        for stream in taken.iter().filter(|t| t.stage != "evaluation") {
            assert!(stage_streams.insert(stream.clone()), "{label} takes twice {stream:?}");
            // the arms on one method too: they are held against each other
            let shared = ["prompts", "rollout"].contains(&stream.purpose.as_str()) || stream.stage == "critic-free";
            assert!(shared || seen.insert(stream.clone()), "{label} takes what another has taken: {stream:?}");
        }
    }
    let iterations = |arm: &str, purpose: &str| -> Vec<u64> {
        let stage = record.stage(StageKind::Cell, arm);
        let (_, taken) = record.taken.iter().find(|(place, _)| record.plan.stages[*place].id == stage.id).expect("ran");
        taken.iter().filter(|t| t.purpose == purpose).map(|t| t.iteration).collect()
    };
    for arm in ["ppo", "rloo"] {
        for purpose in ["prompts", "rollout", "minibatches"] {
            assert_eq!(iterations(arm, purpose), [0, 1, 2, 3, 4, 5], "{arm}, {purpose}");
        }
    }
    assert_eq!(iterations("dpo", "rows"), [0, 1, 2], "an epoch each");
}

fn rows_are_of_their_splits(record: &RunRecord) {
    let (world, rows) = (&record.world, &record.rows[..]);
    let settings = &record.experiment.stages.pairs;
    for (split, count) in [
        (Split::Train, settings.rows),
        (Split::Validation, settings.holdout_rows),
        (Split::Test, settings.holdout_rows),
    ] {
        let split_rows: Vec<&PreferenceRow> = rows.iter().filter(|row| row.split == split).collect();
        assert_eq!(split_rows.len(), count);
        for row in split_rows {
            assert!(world.prompts(split).iter().any(|prompt| prompt.ids == row.prompt), "{split:?}");
            let task = PromptCoordinates::from_prompt(&row.prompt);
            near("gold of the chosen", row.gold_chosen, gold(task, &row.chosen));
            near("gold of the rejected", row.gold_rejected, gold(task, &row.rejected));
        }
    }
    // labels follow gold: the chosen ones earn more on average
    let gap: f64 = rows.iter().map(|row| row.gold_chosen - row.gold_rejected).sum::<f64>() / rows.len() as f64;
    assert!(gap > 0.3, "{gap}");
    let bayes = duel_data::pairs::bayes_accuracy(&of_split(rows, Split::Test));
    near(
        "Bayes accuracy",
        last(&record.metrics(record.stage(StageKind::Pairs, "")), "pairs", metrics::BAYES_ACCURACY),
        bayes,
    );
}

fn of_split(rows: &[PreferenceRow], split: Split) -> Vec<PreferenceRow> {
    rows.iter().filter(|row| row.split == split).cloned().collect()
}

fn ids(world: &GrammarWorld, split: Split) -> Vec<Vec<u32>> {
    world.prompts(split).iter().map(|prompt| prompt.ids.clone()).collect()
}

fn the_reward_model_is_judged_on_each_split(record: &RunRecord) {
    let (world, rows) = (&record.world, &record.rows[..]);
    let (rm, table) = (record.stage(StageKind::Rm, ""), record.metrics(record.stage(StageKind::Rm, "")));
    let context = record.context(record.stage(StageKind::Cell, "dpo"));
    let reward = learned_reward(&context, &context.load_world().expect("a world")).expect("a reward");
    let of = |split| quality(&reward, &of_split(rows, split)).expect("it scores");
    let (validation, test) = (of(Split::Validation), of(Split::Test));
    for (metric, expected) in [
        (metrics::PAIR_ACCURACY_TRAIN, of(Split::Train).accuracy),
        (metrics::PAIR_ACCURACY_VALIDATION, validation.accuracy),
        (metrics::PAIR_ACCURACY_TEST, test.accuracy),
        (metrics::RM_LOSS_VALIDATION, validation.loss),
        (metrics::RM_SPEARMAN_GOLD, test.spearman),
        (metrics::RM_LENGTH_CORRELATION, test.length_correlation),
        (metrics::RM_CALIBRATION, test.calibration.error()),
    ] {
        near(metric.name, last(&table, "rm", metric), expected);
    }
    // of each network the first of the most accurate steps on validation rows is kept, of those that were evaluated
    let (steps, held_out) = (curve_steps(12, 4), of_split(rows, Split::Validation));
    let pairs = PairBatch::new(&held_out, &(0..held_out.len()).collect::<Vec<_>>());
    let all: Vec<(u64, f64)> =
        (table.of("rm", metrics::PAIR_ACCURACY_VALIDATION.name)).map(|row| (row.clocks.step, row.value)).collect();
    let kept_step: Vec<u64> = table.of("rm", metrics::KEPT_STEP.name).map(|row| row.value as u64).collect();
    assert_eq!((all.len(), kept_step.len()), (9, 2), "four looks at each, and one at both together");
    for ((evaluations, kept_step), (judge, _)) in all.chunks(4).zip(kept_step).zip(reward.judges()) {
        assert_eq!(evaluations.iter().map(|evaluation| evaluation.0).collect::<Vec<_>>(), steps);
        let best = evaluations
            .iter()
            .fold(evaluations[0], |best, &evaluation| if evaluation.1 > best.1 { evaluation } else { best });
        assert_eq!(kept_step, best.0, "{evaluations:?}");
        let RewardNetwork::Network(network) = judge else { panic!("a network") };
        near("the kept one's accuracy", RewardModel::accuracy(&context.reader(world).into(), network, &pairs), best.1);
    }
    // the clocks at the end are those of both trainings
    let spent = table.of("rm", metrics::RM_SPEARMAN_GOLD.name).last().expect("a row").clocks;
    let trained: f64 = table.of("rm", metrics::TRAINED_TOKENS.name).map(|row| row.value).sum();
    let config = context.config(world).expect("a shape");
    assert_eq!((spent.step, spent.tokens as f64), (24, trained));
    near("FLOPs of both networks", spent.flops, Flops::scalar(&config).train(1) * trained);
    let prompts: BTreeMap<String, Vec<String>> =
        load_json("rm", &record.folder(rm).file("prompts.json")).expect("prompts");
    assert_eq!(prompts.keys().collect::<Vec<_>>(), ["rm", "rm-1"], "each network's training has a name of its own");
    // it is centred and scaled on what the SFT policy says on train prompts
    let train = ids(world, Split::Train);
    let samples = record.experiment.stages.rm.samples;
    let prompts = (0..samples).map(|i| train[i % train.len()].clone()).collect();
    let policy = context.sft_policy(world).expect("a policy");
    let mut rng = seeds::stream(SEED, Stream::RmSamples, 0);
    let scores =
        reward.score(&generate(&policy, world.space(), prompts, &mut rng, &context.device)).expect("it scores");
    let mean = scores.iter().sum::<f64>() / samples as f64;
    let square = scores.iter().map(|x| x * x).sum::<f64>() / samples as f64;
    assert!(mean.abs() < 1e-4 && (square - 1.0).abs() < 1e-3, "mean {mean}, mean square {square}");
    // its scores of every response stand by split
    let (on_validation, on_test): (Vec<Vec<f64>>, Vec<Vec<f64>>) =
        load_json("rm", &record.folder(rm).file(PROXY)).expect("tables");
    for (split, table) in [(Split::Validation, on_validation), (Split::Test, on_test)] {
        let expected = proxy_table(&reward, &ids(world, split), token::EOS).expect("it scores");
        for (actual, expected) in table.concat().iter().zip(expected.concat()) {
            near("a score", *actual, expected);
        }
    }
}

/// The bins of reward model and policy hold what was measured of all rows together; so does the ensemble.
fn bins_are_of_their_splits(record: &RunRecord) {
    let [rm, cell] =
        [(StageKind::Rm, ""), (StageKind::Cell, "dpo")].map(|(kind, arm)| record.metrics(record.stage(kind, arm)));
    for (split, accuracy) in [
        (Split::Train, metrics::PAIR_ACCURACY_TRAIN),
        (Split::Validation, metrics::PAIR_ACCURACY_VALIDATION),
        (Split::Test, metrics::PAIR_ACCURACY_TEST),
    ] {
        let [stage, of_cell] = ["rm", "cell"].map(|of| bins_stage(of, split, PairDivision::Whole));
        near("pairs", last(&rm, &stage, metrics::PAIRS_IN_BIN), of_split(&record.rows, split).len() as f64);
        near("accuracy", last(&rm, &stage, metrics::ACCURACY_IN_BIN), last(&rm, "rm", accuracy));
        let of_policy = |stage: &str, metric: Metric| cell.of(stage, metric.name).last().map(|row| row.value);
        let ordered = of_policy(&format!("evaluation-{}", split.name()), metrics::ORDERED_PAIRS);
        let binned = of_policy(&of_cell, metrics::ACCURACY_IN_BIN);
        assert_eq!(binned, ordered, "of the policy that was kept");
        assert_eq!(binned.is_some(), split != Split::Train);
    }
    let [alike, agreement] = [metrics::ENSEMBLE_ALIKE, metrics::ENSEMBLE_AGREEMENT].map(|m| last(&rm, "rm", m));
    assert!(alike == agreement && (0.0..=1.0).contains(&alike), "two networks: {alike} and {agreement}");
    let spreads = [last(&rm, "rm", metrics::ENSEMBLE_SD_PAIRS), last(&cell, "evaluation-test", metrics::ENSEMBLE_SD)];
    assert!(spreads.iter().all(|spread| *spread > 0.0), "{spreads:?}");
}

fn the_reference_is_of_train_and_validation_rows(record: &RunRecord) {
    let (world, rows) = (&record.world, &record.rows[..]);
    let stage = record.stage(StageKind::Reference, "");
    let (train, validation): (ReferenceLogp, ReferenceLogp) =
        load_json("reference", &record.folder(stage).file(REFERENCE)).expect("log-probs");
    let context = record.context(record.stage(StageKind::Cell, "dpo"));
    let policy = context.sft_policy(world).expect("a policy");
    for (split, actual) in [(Split::Train, &train), (Split::Validation, &validation)] {
        let expected = ReferenceLogp::compute(&context.reader(world), &policy, &of_split(rows, split));
        assert_eq!(
            (&actual.rows, &actual.reference, actual.tokens),
            (&expected.rows, &expected.reference, expected.tokens)
        );
        for (actual, expected) in [(&actual.chosen, &expected.chosen), (&actual.rejected, &expected.rejected)] {
            actual.iter().zip(expected).for_each(|(f, e)| near("a log-prob", f64::from(*f), f64::from(*e)));
        }
    }
    // what DPO pays for it is the pass over train rows
    let table = record.metrics(stage);
    let clocks = table.of("reference", metrics::STAGE_SECONDS.name).next().expect("a row").clocks;
    let config = context.config(world).expect("a shape");
    assert_eq!(clocks.tokens, train.tokens);
    near("FLOPs of the reference", clocks.flops, Flops::policy(&config).forward(train.tokens));
}

/// Mean gold of outcomes of six prompts.
fn earned(outcomes: &[OutcomeRow]) -> f64 {
    outcomes.iter().map(|o| f64::from(o.share) * o.gold_reward).sum::<f64>() / 6.0
}

fn evaluator(record: &RunRecord) -> ExactEvaluator {
    let world = &record.world;
    let context = record.context(record.stage(StageKind::Cell, "dpo"));
    let (policy, reward) = (
        context.sft_policy(world).expect("a policy"),
        learned_reward(&context, &context.load_world().expect("a world")).expect("a reward"),
    );
    let table = |split| proxy_table(&reward, &ids(world, split), token::EOS).expect("it scores");
    ExactEvaluator::new(world, context.reader(world), &policy, Some(&table))
}

fn the_evaluator_measures_the_reference(record: &RunRecord) {
    let world = &record.world;
    let stage = record.stage(StageKind::Yardstick, "");
    let context = record.context(record.stage(StageKind::Cell, "dpo"));
    let table = record.metrics(stage);
    for score in evaluator(record).measure(&context.sft_policy(world).expect("a policy"), None).expect("measured") {
        let reference_table =
            MetricTable { rows: table.rows.iter().filter(|row| &*row.arm == "reference").cloned().collect() };
        for (metric, value) in &score.values {
            near(metric.name, last(&reference_table, &format!("evaluation-{}", score.split.name()), *metric), *value);
        }
    }
    let outcomes = read_outcomes(&record.folder(stage).file("outcomes.parquet")).expect("outcomes");
    assert_eq!(outcomes.len(), 1, "the reference's, on test prompts");
    // the exact optima: eight prices a decade, from 20 to a thousandth of that
    let points = |arm: &str| -> BTreeSet<String> {
        table.rows.iter().filter(|row| &*row.arm == arm).map(|row| row.point.to_string()).collect()
    };
    let prices: BTreeSet<String> =
        (0..25).map(|i| format!("beta={:.5}", (20f64.ln() - f64::from(i) / 8.0 * 10f64.ln()).exp())).collect();
    assert!(prices.contains("beta=20.00000") && prices.contains("beta=2.00000") && prices.contains("beta=0.02000"));
    assert_eq!(points("optimum"), prices);
    assert_eq!(points("ppo-ideal"), prices);
    assert_eq!(points("best-of-n"), (1..=12).map(|i| format!("n={}", 2u32.pow(i))).collect());
    let reference_table =
        MetricTable { rows: table.rows.iter().filter(|row| &*row.arm == "reference").cloned().collect() };
    let (actual, expected) = (earned(&outcomes[0].all), last(&reference_table, "evaluation-test", metrics::GOLD));
    assert!((actual - expected).abs() < 2e-3, "outcomes earn {actual}, on test prompts {expected}");
}

/// The policy that a cell has kept is measured at its end, on both splits; its log-ratios and validation loss are of held-out
/// rows; it was trained on train prompts.
fn a_cell_keeps_and_measures_what_it_says(record: &RunRecord, arm: &str) {
    let (world, rows) = (&record.world, &record.rows[..]);
    let stage = record.stage(StageKind::Cell, arm);
    let (context, table) = (record.context(stage), record.metrics(stage));
    let policy: Policy = context.trained_policy(world).expect("a policy");
    let reference = context.sft_policy(world).expect("a policy");
    for score in evaluator(record).measure(&policy, Some(0.3)).expect("measured") {
        for (metric, value) in &score.values {
            near(metric.name, last(&table, &format!("evaluation-{}", score.split.name()), *metric), *value);
        }
    }
    for OrderedPairs { split, values, .. } in HeldOut::new(context.reader(world), &reference, rows).measure(&policy) {
        for (metric, value) in values {
            near(metric.name, last(&table, &format!("evaluation-{}", split.name()), metric), value);
        }
    }
    let completions = read_completions(&record.folder(stage).file("completions.parquet")).expect("completions");
    let texts: BTreeSet<&str> = completions.iter().map(|completion| completion.prompt.as_str()).collect();
    let expected: BTreeSet<&str> = world.prompts(Split::Test).iter().map(|prompt| prompt.text.as_str()).collect();
    assert_eq!(texts, expected);
    let outcomes = read_outcomes(&record.folder(stage).file("outcomes.parquet")).expect("outcomes");
    let earned = earned(&outcomes[0].all);
    let gold = last(&table, "evaluation-test", metrics::GOLD);
    assert!(outcomes.len() == 1 && (earned - gold).abs() < 2e-3, "outcomes earn {earned}, on test prompts {gold}");

    let prompts: BTreeMap<String, Vec<String>> =
        load_json("cell", &record.folder(stage).file("prompts.json")).expect("prompts");
    let hashes = |split| -> BTreeSet<String> {
        world.prompts(split).iter().map(|prompt| format!("{:016x}", prompt_hash(&prompt.ids))).collect()
    };
    let actual = |of: &str| prompts[of].iter().cloned().collect::<BTreeSet<_>>();
    let trained = actual("train");
    assert!(trained.len() > 4 && trained.is_subset(&hashes(Split::Train)), "{arm}: {trained:?}");
    assert_eq!(actual("evaluation-validation"), hashes(Split::Validation));
    assert_eq!(actual("evaluation-test"), hashes(Split::Test));

    if arm == "dpo" {
        let duel_spec::MethodSettings::Dpo(settings) = &stage.cell.as_ref().expect("a cell").point.method else {
            panic!("DPO")
        };
        let validation = of_split(rows, Split::Validation);
        let cache = ReferenceLogp::compute(&context.reader(world), &reference, &validation);
        let config = context.config(world).expect("a shape");
        let method = Dpo::new(settings.clone(), context.train_reader(world), cache.clone(), &config);
        let expected = method.validate(&context.reader(world), &policy, &validation, &cache);
        near("validation loss", last(&table, "train", metrics::DPO_LOSS_VALIDATION), expected.loss);
        near("validation accuracy", last(&table, "train", metrics::DPO_ACCURACY_VALIDATION), expected.accuracy);
    }
}

/// Each arm's kept step is the first of the best by its own mark on validation prompts. Test prompts often agree; that they are not
/// asked is the invariant `chosen_on_validation`.
fn the_best_step_is_chosen_on_validation(record: &RunRecord) {
    for arm in ["ppo", "dpo", "rloo", "rough"] {
        let table = record.metrics(record.stage(StageKind::Cell, arm));
        let of =
            |metric: Metric| table.of("evaluation-validation", metric.name).map(|row| (row.clocks.step, row.value));
        let evaluations: Vec<(u64, f64)> = match arm {
            "rloo" | "rough" => of(metrics::GOLD).collect(),
            "dpo" => of(metrics::PROXY).collect(),
            _ => of(metrics::PROXY).zip(of(metrics::KL)).map(|((s, proxy), (_, kl))| (s, proxy - 0.3 * kl)).collect(),
        };
        let evaluations = &evaluations[..evaluations.len() - 1]; // the last is the kept policy's
        let best = evaluations
            .iter()
            .fold(evaluations[0], |best, &evaluation| if evaluation.1 > best.1 { evaluation } else { best });
        // two updates an iteration; four batches an epoch
        let expected = curve_steps(if ["ppo", "rloo"].contains(&arm) { 6 } else { 12 }, 12);
        let updates = if arm == "dpo" { 1 } else { 2 };
        let steps: Vec<u64> = evaluations.iter().map(|evaluation| evaluation.0).collect();
        assert_eq!(steps, expected.iter().map(|step| step * updates).collect::<Vec<_>>(), "{arm}");
        assert_eq!(last(&table, "train", metrics::KEPT_STEP) as u64, best.0, "{arm}");
    }
}

/// All passes of a rollout are on the clocks: tokens and FLOPs by hand, from the tokens that were trained on (all of them, once).
fn rollouts_have_their_kl_coef(record: &RunRecord) {
    let world = &record.world;
    let context = record.context(record.stage(StageKind::Cell, "dpo"));
    let config = context.config(world).expect("a shape");
    let (policy, scalar) = (Flops::policy(&config).forward(1), Flops::scalar(&config).forward(1));
    // PPO: written, read by itself, by the reference, two networks of the reward model and the critic; both trained.
    // RLOO on gold: written, read by itself and the reference; trained.
    let ppo = (3.0 * policy + 3.0 * scalar + 3.0 * (policy + scalar), 4.0);
    let rloo = (3.0 * policy + 3.0 * policy, 2.0);
    for (arm, (flops, scored)) in [("ppo", ppo), ("rloo", rloo)] {
        let table = record.metrics(record.stage(StageKind::Cell, arm));
        let trained = table.of("train", metrics::TRAINED_TOKENS.name).last().expect("a row");
        let sampled = last(&table, "train", metrics::SAMPLED_TOKENS);
        near("FLOPs", trained.clocks.flops / trained.value, flops);
        near("tokens", trained.clocks.tokens as f64, trained.value * (1.0 + scored) + sampled);
        near("responses and prompts", trained.value, sampled + 6.0 * 16.0 * 4.0);
    }
    // models in memory: actor, reference, critic and two that score; actor and reference; actor alone
    for (arm, models) in [("ppo", 5.0), ("rloo", 2.0), ("dpo", 1.0)] {
        near(arm, last(&record.metrics(record.stage(StageKind::Cell, arm)), "train", metrics::MODELS_RESIDENT), models);
    }
}

/// The first rollout is of the SFT policy on train prompts; each arm's is scored by its own judge.
fn rollouts_are_scored_by_their_judges(record: &RunRecord) {
    let world = &record.world;
    let context = record.context(record.stage(StageKind::Cell, "dpo"));
    let (policy, reward) = (
        context.sft_policy(world).expect("a policy"),
        learned_reward(&context, &context.load_world().expect("a world")).expect("a reward"),
    );
    let train = ids(world, Split::Train);
    for (arm, group) in [("ppo", 1), ("rloo", record.group("rloo"))] {
        let mut rng = seeds::stream(SEED, Stream::Prompts, 0);
        let drawn = (0..16 / group).map(|_| train[rng.random_range(0..train.len())].clone());
        let prompts = drawn.flat_map(|prompt| std::iter::repeat_n(prompt, group)).collect();
        let mut rng = seeds::stream(SEED, Stream::Rollout, 0);
        let batch = generate(&policy, world.space(), prompts, &mut rng, &context.device);
        let scores = match arm {
            "ppo" => reward.score(&batch).expect("it scores"),
            _ => {
                let rows = batch.prompts.iter().zip(&batch.responses);
                rows.map(|(prompt, response)| gold(PromptCoordinates::from_prompt(prompt), response)).collect()
            }
        };
        let table = record.metrics(record.stage(StageKind::Cell, arm));
        let first = |metric: Metric| table.of("train", metric.name).next().expect("a row").value;
        near(arm, first(metrics::ROLLOUT_PROXY), scores.iter().sum::<f64>() / 16.0);
        assert!(first(metrics::ROLLOUT_KL).abs() < 1e-4, "the SFT policy is the reference");
        let logp: f64 =
            logprobs::sequence_logp(&context.reader(world), &policy, &batch).iter().map(|&x| f64::from(x)).sum();
        near("its entropy", first(metrics::ROLLOUT_ENTROPY), -logp / batch.response_tokens() as f64);
    }
}

/// An epoch has every row once, in its own order; a step's batch is always the same.
#[test]
fn batches_are_epochs() {
    let mut batches = EpochSampler::new(12, 4, 7, Stream::DpoRows);
    let of = |batches: &mut EpochSampler, step| batches.at(step).to_vec();
    let steps: Vec<Vec<usize>> = (0..6).map(|step| of(&mut batches, step)).collect();
    for epoch in steps.chunks(3) {
        let mut rows = epoch.concat();
        rows.sort_unstable();
        assert_eq!(rows, (0..12).collect::<Vec<_>>());
    }
    assert_ne!(steps[..3], steps[3..]);
    assert_eq!(of(&mut batches, 1), steps[1]);
    assert_ne!(of(&mut EpochSampler::new(12, 4, 7, Stream::SftRows), 0), steps[0]);
    for (rows, batch_size, left_out) in [(12, 4, 0.0), (14, 4, 2.0 / 14.0), (3, 4, 0.0), (7, 5, 2.0 / 7.0)] {
        assert_eq!(
            EpochSampler::new(rows, batch_size, 7, Stream::DpoRows).left_out(),
            left_out,
            "{rows} by {batch_size}"
        );
    }
    assert_ne!(of(&mut EpochSampler::new(12, 4, 8, Stream::DpoRows), 0), steps[0]);
    // with its last batch an epoch of 14 rows has four
    let mut kept = EpochSampler::new(14, 4, 7, Stream::DpoRows).dropping_last(false);
    assert_eq!(kept.left_out(), 0.0);
    for epoch in 0..2 {
        let batches: Vec<Vec<usize>> = (0..4).map(|step| of(&mut kept, 4 * epoch + step)).collect();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4, 2]);
        let mut rows = batches.concat();
        rows.sort_unstable();
        assert_eq!(rows, (0..14).collect::<Vec<_>>());
    }
}
