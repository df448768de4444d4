//! The training loop on a method whose costs are known: clocks, totals, evaluations, early stopping, checkpoints.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use duel_data::{World, grammar::GrammarWorld};
use duel_model::{count_flops, weights};
use duel_spec::ids::prompt_hash;
use duel_spec::metrics::Metric;
use duel_spec::{BudgetSettings, BudgetUnit, Clocks, Completion, LearnerSettings, OutcomeRow, Recorder, Split};
use duel_training::{
    BestCheckpoint, BudgetSchedule, Error, IterationCost, Learner, Method, Metrics, Result, Splits, TrainContext,
    TrainSchedule, train,
};
use std::sync::atomic::{AtomicBool, Ordering};

#[derive(Module, Debug)]
struct Vector {
    w: Param<Tensor<1>>,
}

/// Descent on `Σ w²`; every iteration costs the same.
struct Descent {
    iterations: u64,
}

impl Method for Descent {
    type Module = Vector;
    /// The prompts' hashes.
    type Batch = Vec<u64>;
    type State = u64;

    fn prompts(batch: &Vec<u64>) -> Vec<u64> {
        batch.clone()
    }

    fn iteration(&mut self, _: &Vec<u64>, learner: &mut Learner<Vector>) -> Result<Metrics> {
        self.iterations += 1;
        let update = learner.minimize(learner.module().w.val().square().sum())?;
        let mut metrics = Metrics { check_seconds: 0.25, ..Metrics::default() };
        let cost = IterationCost { trained_tokens: 3, sampled_tokens: 5, scored_tokens: 7, flops: 11.0 };
        metrics.record_update(update, cost);
        Ok(metrics)
    }

    fn state(&self) -> u64 {
        self.iterations
    }

    fn resume(&mut self, iterations: u64) {
        self.iterations = iterations;
    }
}

/// Everything recorded.
#[derive(Default)]
struct MemoryRecorder {
    rows: Vec<(Clocks, &'static str, f64)>,
    lines: Vec<(u64, u64, String)>,
    prompts: Vec<(String, Vec<u64>)>,
    state: Option<Vec<u8>>,
    saves: usize,
    is_due: bool,
    is_full: bool,
}

impl MemoryRecorder {
    fn values(&self, name: &str) -> Vec<f64> {
        self.rows.iter().filter(|row| row.1 == name).map(|row| row.2).collect()
    }
}

impl Recorder for MemoryRecorder {
    fn record(&mut self, stage: &str, clocks: Clocks, metric: Metric, value: f64) {
        assert_eq!(stage, "the stage");
        self.rows.push((clocks, metric.name, value));
    }
    fn completion(&mut self, _: Completion) {}
    fn outcomes(&mut self, _: &[OutcomeRow]) {}
    fn prompts(&mut self, of: &str, hashes: &[u64]) {
        self.prompts.push((of.into(), hashes.into()));
    }
    fn progress(&mut self, done: u64, total: u64, words: &str) {
        self.lines.push((done, total, words.into()));
    }
    fn is_due(&self) -> bool {
        self.is_due
    }
    fn save(&mut self, training: &str, state: &[u8]) -> std::io::Result<()> {
        assert_eq!(training, "the training");
        if self.is_full {
            return Err(std::io::Error::other("no space left"));
        }
        self.saves += 1;
        self.state = Some(state.to_vec());
        Ok(())
    }
    fn resume(&mut self, training: &str) -> std::io::Result<Option<Vec<u8>>> {
        assert_eq!(training, "the training");
        if self.is_full { Err(std::io::Error::other("unreadable")) } else { Ok(self.state.clone()) }
    }
}

/// A training of [`Descent`] from these weights.
struct Training<'a> {
    weights: &'a [f32],
    iterations: u64,
    eval_at: &'a [u64],
    scores: &'a [Option<f64>],
    patience: f64,
    splits: Option<&'a Splits>,
    budget: Option<BudgetSchedule>,
    batch: &'a dyn Fn(u64) -> Vec<u64>,
    stop: bool,
}

const PLAIN: Training<'static> = Training {
    weights: &[1.0, 2.0],
    iterations: 4,
    eval_at: &[],
    scores: &[],
    patience: f64::INFINITY,
    splits: None,
    budget: None,
    batch: &|iteration| vec![9 - iteration % 3, 2],
    stop: false,
};

impl Training<'_> {
    /// Runs it: the final clocks, the step of the best score, and the clocks of the evaluations.
    fn run(&self, record: &mut MemoryRecorder) -> Result<(Clocks, Option<u64>, Vec<Clocks>)> {
        let device = Device::flex().autodiff();
        let w = Param::from_tensor(Tensor::from_floats(self.weights, &device).require_grad());
        let settings = LearnerSettings { warmup: 0.0, ..LearnerSettings::defaults() };
        let mut learner = Learner::new(Vector { w }, &settings, 0.1, self.iterations);
        let mut best = BestCheckpoint::new(self.patience);
        let stop = AtomicBool::new(self.stop);
        let mut context = TrainContext {
            stage: "the stage",
            training: "the training",
            recorder: record,
            splits: self.splits,
            stop: &stop,
        };
        let mut evaluations = vec![];
        let schedule = match self.budget {
            Some(budget) => TrainSchedule::Budget(budget),
            None => TrainSchedule::Iterations { iterations: self.iterations, eval_at: self.eval_at },
        };
        let evaluate = |_: &Vector, clocks: Clocks, _: &mut dyn Recorder| {
            evaluations.push(clocks);
            Ok::<_, Error>(self.scores[evaluations.len() - 1])
        };
        let batch = |iteration| Ok((self.batch)(iteration));
        let mut method = Descent { iterations: 0 };
        let clocks = train(&mut method, &mut learner, &mut best, schedule, batch, &mut context, evaluate)?;
        assert!(stop.load(Ordering::Relaxed) == self.stop && method.iterations == learner.step());
        Ok((clocks, best.restore(learner.into_module()).1, evaluations))
    }
}

#[test]
fn clocks_and_totals_add_up_over_the_iterations() {
    let mut record = MemoryRecorder::default();
    let (clocks, best, evaluations) = PLAIN.run(&mut record).unwrap();
    assert_eq!((clocks.step, clocks.tokens, clocks.flops), (4, 60, 44.0));
    assert!(best.is_none() && evaluations.is_empty());

    let losses: Vec<&(Clocks, &str, f64)> = record.rows.iter().filter(|row| row.1 == "loss").collect();
    let seen: Vec<(u64, u64, f64)> = losses.iter().map(|(c, ..)| (c.step, c.tokens, c.flops)).collect();
    assert_eq!(seen, [(1, 15, 11.0), (2, 30, 22.0), (3, 45, 33.0), (4, 60, 44.0)]);
    assert!(
        losses.windows(2).all(|pair| 0.0 < pair[0].0.wall_seconds && pair[0].0.wall_seconds < pair[1].0.wall_seconds)
    );
    assert_eq!(losses[0].2, 5.0);
    let lines: Vec<(u64, u64, String)> =
        (1..).zip(&losses).map(|(done, loss)| (done, 4, format!("loss {:.3}", loss.2))).collect();
    assert_eq!(record.lines, lines);

    for (name, expected) in [
        ("trained_tokens", 12.0),
        ("sampled_tokens", 20.0),
        ("check_seconds", 1.0),
        ("parameters", 2.0),
        ("updates", 4.0),
        ("stage_seconds", clocks.wall_seconds),
    ] {
        assert_eq!(record.values(name), [expected], "{name}");
    }
    assert_eq!(record.prompts, [("the training".into(), vec![2, 7, 8, 9])], "each once");
    for name in ["grad_norm", "learning_rate", "update_ratio"] {
        assert_eq!(record.values(name).len(), 4, "{name}");
    }
}

#[test]
fn a_training_is_evaluated_at_its_points_and_stops_without_improvement() {
    let steps = |evaluations: Vec<Clocks>| evaluations.iter().map(|clocks| clocks.step).collect::<Vec<_>>();
    let training = Training { eval_at: &[2, 4], scores: &[Some(0.5), Some(0.1)], ..PLAIN };
    let (clocks, best, evaluations) = training.run(&mut MemoryRecorder::default()).unwrap();
    assert_eq!((clocks.step, best, steps(evaluations)), (4, Some(2), vec![2, 4]));

    // an evaluation without a score counts for nothing
    let scores = &[Some(0.5), None, Some(0.4), Some(0.3)];
    let training = Training { iterations: 6, eval_at: &[1, 2, 3, 4, 5, 6], scores, patience: 2.0, ..PLAIN };
    let mut record = MemoryRecorder { is_due: true, ..MemoryRecorder::default() };
    let (clocks, best, evaluations) = training.run(&mut record).unwrap();
    assert_eq!((clocks.step, best, steps(evaluations)), (4, Some(1), vec![1, 2, 3, 4]));
    assert_eq!((record.values("updates"), record.saves), (vec![4.0], 4), "saved after each iteration");

    // resumed, it stays stopped
    let finished = Training { batch: &|_| panic!("another iteration"), ..training };
    let (clocks, best, _) = finished.run(&mut record).unwrap();
    assert_eq!((clocks.step, clocks.tokens, best), (4, 60, Some(1)));
}

#[test]
fn a_state_is_saved_when_due_or_stopped_and_only_that_of_the_same_model_is_resumed() {
    let mut record = MemoryRecorder::default();
    PLAIN.run(&mut record).unwrap();
    assert_eq!(record.saves, 0);
    assert!(matches!(Training { stop: true, ..PLAIN }.run(&mut record), Err(Error::Interrupted)));
    assert_eq!(record.saves, 1);

    let error = Training { weights: &[1.0, 2.0, 3.0], ..PLAIN }.run(&mut record).unwrap_err();
    let Error::State { action, source } = &error else { panic!("{error:?}") };
    assert_eq!((*action, source.to_string().as_str()), ("understood", "it is of another model"));
    record.state.as_mut().unwrap().truncate(3);
    assert!(matches!(PLAIN.run(&mut record), Err(Error::State { action: "understood", .. })));

    record.is_full = true;
    assert!(matches!(PLAIN.run(&mut record), Err(Error::State { action: "read", .. })));
}

#[test]
fn a_training_ends_at_a_prompt_of_another_split() {
    let world = GrammarWorld::new(0.02, 1);
    let splits = Splits::of(&world);
    let hash = |split| prompt_hash(&world.prompts(split)[0].ids);
    let (train, test) = (hash(Split::Train), hash(Split::Test));
    let run = |batch: &dyn Fn(u64) -> Vec<u64>, splits| {
        Training { splits, batch, ..PLAIN }.run(&mut MemoryRecorder::default()).map(|(clocks, ..)| clocks.step)
    };
    assert_eq!(run(&|_| vec![train], Some(&splits)).unwrap(), 4);
    let leaks = |iteration| if iteration == 2 { vec![train, test] } else { vec![train] };
    match run(&leaks, Some(&splits)) {
        Err(Error::Invariant { name: "trains_on_train_prompts", step: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(run(&leaks, None).unwrap(), 4, "without splits all may be trained on");
}

#[test]
fn checks_are_timed_and_their_flops_not_counted() {
    let pause = || std::thread::sleep(std::time::Duration::from_millis(1));
    let device = Device::flex();
    let policy = duel_testing_tensors::unigram::unigram(&[0.0; 4], 4, &device);
    let forward = || policy.logits(Tensor::from_ints([[1, 2]], &device), 0);
    let mut metrics = Metrics::default();
    let before = count_flops().heads;
    metrics
        .check(|| {
            pause();
            forward();
            Ok(())
        })
        .unwrap();
    let first = metrics.check_seconds;
    assert!(first > 0.0 && count_flops().heads == before);
    assert!(matches!(metrics.check(|| Err(Error::Interrupted)), Err(Error::Interrupted)));
    metrics
        .check(|| {
            pause();
            Ok(())
        })
        .unwrap();
    assert!(metrics.check_seconds > first, "times add up");
    assert_eq!(weights::host(forward().max()), [0.0]);
    assert!(count_flops().heads > before);
}

/// An iteration of [`Descent`] costs an update, 15 tokens and 11 FLOPs.
fn budget(unit: BudgetUnit, amount: f64, expected: Option<f64>) -> Option<BudgetSchedule> {
    let settings = BudgetSettings { unit, amount };
    Some(BudgetSchedule { settings, updates: 1, expected, evaluations: 2, evaluates_end: false })
}

#[test]
fn a_training_ends_after_the_iteration_that_uses_its_budget_up() {
    for (unit, amount, expected, iterations, share) in [
        (BudgetUnit::Steps, 4.0, Some(1.0), 4, 1.0),
        (BudgetUnit::Tokens, 50.0, Some(15.0), 4, 1.2),
        (BudgetUnit::Flops, 44.0, Some(11.0), 4, 1.0),
        (BudgetUnit::Flops, 12.0, Some(90.0), 2, 22.0 / 12.0),
        (BudgetUnit::Tokens, 0.5, None, 1, 30.0),
        (BudgetUnit::Seconds, 1e-9, None, 1, f64::NAN),
    ] {
        let mut record = MemoryRecorder::default();
        let scores = &[None; 3];
        let training = Training { budget: budget(unit, amount, expected), scores, ..PLAIN };
        let (clocks, _, evaluations) = training.run(&mut record).unwrap();
        assert_eq!(clocks.step, iterations, "{unit:?} {amount}");
        let used = record.values("budget_used");
        assert!(
            used.len() == 1 && (used[0] == share || share.is_nan() && used[0] > 1.0),
            "{used:?} of {amount} {unit:?}"
        );
        let halfway: Vec<u64> = if iterations == 4 { vec![2] } else { vec![1] };
        assert_eq!(evaluations.iter().map(|clocks| clocks.step).collect::<Vec<_>>(), halfway, "{unit:?} {amount}");
        assert_eq!(record.lines.last().map(|line| (line.0, line.1)), Some((iterations, iterations)));
    }
    assert!(PLAIN.run(&mut MemoryRecorder::default()).is_ok_and(|(clocks, ..)| clocks.step == 4));
}

/// Where the cost of an iteration is as expected, the learning rate is that of a training of as many iterations; where it is not, it
/// still goes from the beginning of the schedule to its end.
#[test]
fn the_learning_rate_goes_by_the_share_that_is_used() {
    let rates = |budget| {
        let mut record = MemoryRecorder::default();
        Training { budget, scores: &[None; 2], ..PLAIN }.run(&mut record).unwrap();
        record.values("learning_rate")
    };
    let fixed = rates(None);
    assert_eq!(fixed.len(), 4);
    for (unit, amount, each) in
        [(BudgetUnit::Steps, 4.0, 1.0), (BudgetUnit::Tokens, 60.0, 15.0), (BudgetUnit::Flops, 34.0, 11.0)]
    {
        assert_eq!(rates(budget(unit, amount, Some(each))), fixed, "{unit:?}");
    }
    // the first iteration counts as a twentieth, or as the whole: from then on the cost is known
    for expected in [None, Some(900.0)] {
        assert_eq!(rates(budget(BudgetUnit::Tokens, 60.0, expected))[1..], fixed[1..], "{expected:?}");
    }
}

/// The seconds of an attempt decide its end once, which a resumed training keeps.
#[test]
fn the_end_by_the_clock_is_saved() {
    let training = Training { budget: budget(BudgetUnit::Seconds, 1e-9, None), ..PLAIN };
    let training = Training { scores: &[None], ..training };
    let mut record = MemoryRecorder::default();
    let (clocks, ..) = training.run(&mut record).unwrap();
    assert_eq!((clocks.step, record.saves), (1, 1));
    let again = Training { batch: &|_| panic!("another iteration"), ..training };
    assert_eq!(again.run(&mut record).unwrap().0, clocks);
    // what other budgets use is the same in every attempt
    let mut record = MemoryRecorder::default();
    Training { budget: budget(BudgetUnit::Tokens, 1.0, None), ..training }.run(&mut record).unwrap();
    assert_eq!(record.saves, 0);
}
