//! The interface between the shared training loop and the methods. The loop knows no algorithm.

use crate::{BestCheckpoint, BudgetSchedule, Error, Learner, LearnerState, Result, Splits, Update};
use burn::module::Module;
use duel_model::without_counting;
use duel_spec::metrics::{self, Metric};
use duel_spec::{BudgetUnit, Clocks, Recorder, Split};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The cost of an iteration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct IterationCost {
    /// Tokens of backward passes.
    pub trained_tokens: u64,
    /// Tokens sampled from the policy.
    pub sampled_tokens: u64,
    /// Tokens of forward passes only: reference, reward and value model.
    pub scored_tokens: u64,
    pub flops: f64,
}

/// Metrics and cost of an iteration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    pub values: Vec<(Metric, f64)>,
    pub cost: IterationCost,
    /// Seconds spent on invariants.
    pub check_seconds: f64,
}

impl Metrics {
    /// Adds a value.
    pub fn put(&mut self, metric: Metric, value: f64) {
        self.values.push((metric, value));
    }

    /// Checks invariants and times them; their forward passes are not counted as the method's FLOPs.
    pub fn check(&mut self, invariants: impl FnOnce() -> Result<()>) -> Result<()> {
        let started = Instant::now();
        let outcome = without_counting(invariants);
        self.check_seconds += started.elapsed().as_secs_f64();
        outcome
    }

    /// Adds the metrics of an update, and its cost.
    pub fn record_update(&mut self, update: Update, cost: IterationCost) {
        self.put(metrics::LOSS, update.loss);
        self.put(metrics::GRAD_NORM, update.grad_norm);
        self.put(metrics::LEARNING_RATE, update.learning_rate);
        self.put(metrics::UPDATE_RATIO, update.update_ratio);
        self.cost = cost;
    }
}

/// A training algorithm: its module, its batches, and one iteration.
pub trait Method {
    type Module: Module;
    type Batch;
    /// State between iterations, in addition to the learner's.
    type State: Serialize + DeserializeOwned;

    /// Hashes of a batch's prompts; none for running text.
    fn prompts(batch: &Self::Batch) -> Vec<u64>;

    /// One iteration; every update goes through the learner.
    fn iteration(&mut self, batch: &Self::Batch, learner: &mut Learner<Self::Module>) -> Result<Metrics>;

    /// The state from which a training resumes exactly.
    fn state(&self) -> Self::State;

    /// Resumes from a state.
    fn resume(&mut self, state: Self::State);
}

/// The surroundings of a training: its names, where it records, and what may stop it.
pub struct TrainContext<'a> {
    /// Name of the stage in the metrics.
    pub stage: &'a str,
    /// Name of the training among those of its stage.
    pub training: &'a str,
    pub recorder: &'a mut dyn Recorder,
    /// The splits of the prompts, if not all may be trained on.
    pub splits: Option<&'a Splits>,
    /// Set from outside to stop after the current iteration.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for TrainContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TrainContext({})", self.stage)
    }
}

/// The iterations after which a curve of `points` is evaluated: evenly spread, the last one included.
pub fn curve_steps(iterations: u64, points: usize) -> Vec<u64> {
    let points = points as u64;
    let mut steps: Vec<u64> = (1..=points).map(|k| (iterations * k).div_ceil(points)).collect();
    steps.dedup();
    steps
}

/// The progress of a training between two iterations.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct TrainProgress {
    iteration: u64,
    clocks: Clocks,
    total: IterationCost,
    /// Seconds spent on invariants.
    check_seconds: f64,
    /// Whether it was stopped early.
    is_over: bool,
    /// Hashes of the prompts trained on so far.
    prompts: BTreeSet<u64>,
}

/// The length of a training, and when it is evaluated.
#[derive(Debug, Clone, Copy)]
pub enum TrainSchedule<'a> {
    /// So many iterations; it is evaluated after those of `eval_at`.
    Iterations { iterations: u64, eval_at: &'a [u64] },
    /// Iterations until a budget is used up. The learning rate goes by its share that is used.
    Budget(BudgetSchedule),
}

impl TrainSchedule<'_> {
    /// Iterations to come: as many as the budget is expected to last for.
    fn left(&self, progress: &TrainProgress, planned: u64) -> u64 {
        match self {
            Self::Iterations { iterations, .. } => iterations.saturating_sub(progress.iteration),
            Self::Budget(budget) => budget.iterations_left(progress.iteration, budget.used(progress.clocks, planned)),
        }
    }

    /// Whether an evaluation is due after the last iteration, before which the clocks and the planned updates were these.
    fn is_evaluated(&self, progress: &TrainProgress, planned: u64, before: (Clocks, u64)) -> bool {
        match self {
            Self::Iterations { eval_at, .. } => eval_at.contains(&progress.iteration),
            Self::Budget(budget) => {
                budget.is_evaluated(budget.used(before.0, before.1), budget.used(progress.clocks, planned))
            }
        }
    }
}

/// Runs a method over its schedule: records every iteration with all clocks, and calls `evaluate` after the iterations of
/// `eval_at` (its time is not counted); `best` takes the score that it returns, and may end the training. `batch` gives the
/// batch of an iteration, always the same one for the same iteration. A training that was interrupted resumes from the state
/// that the recorder saved last, and ends as if it had not been. Returns the final clocks.
///
/// # Errors
/// [`Error::Interrupted`] after saving the state; whatever the method, `batch` and `evaluate` fail with.
pub fn train<M: Method, E: From<Error>>(
    method: &mut M,
    learner: &mut Learner<M::Module>,
    best: &mut BestCheckpoint,
    schedule: TrainSchedule<'_>,
    mut batch: impl FnMut(u64) -> std::result::Result<M::Batch, E>,
    context: &mut TrainContext<'_>,
    mut evaluate: impl FnMut(&M::Module, Clocks, &mut dyn Recorder) -> std::result::Result<Option<f64>, E>,
) -> std::result::Result<Clocks, E> {
    let mut progress = resume(method, learner, best, context)?.unwrap_or_default();
    while !progress.is_over {
        let (left, planned) = (schedule.left(&progress, learner.planned()), learner.planned());
        if left == 0 {
            break;
        }
        if let TrainSchedule::Budget(budget) = schedule {
            learner.set_total(planned.saturating_add(left.saturating_mul(budget.updates)));
        }
        if context.stop.load(Ordering::Relaxed) {
            save(&progress, method, learner, best, context)?;
            return Err(Error::Interrupted.into());
        }
        let (started, before) = (Instant::now(), (progress.clocks, planned));
        learner.apply_dropout(progress.iteration);
        let batch = batch(progress.iteration)?;
        let prompts = M::prompts(&batch);
        if let Some(splits) = context.splits {
            splits.check_split("trains_on_train_prompts", learner.step(), Split::Train, prompts.iter().copied())?;
        }
        progress.prompts.extend(prompts);
        let metrics = method.iteration(&batch, learner)?;
        learner.remove_dropout();
        progress.add(&metrics, started.elapsed().as_secs_f64(), learner.step());
        for (metric, value) in &metrics.values {
            context.recorder.record(context.stage, progress.clocks, *metric, *value);
        }
        let loss = metrics.values.iter().find(|(m, _)| *m == metrics::LOSS).map_or(f64::NAN, |(_, v)| *v);
        let left = schedule.left(&progress, learner.planned());
        context.recorder.progress(
            progress.iteration,
            progress.iteration.saturating_add(left),
            &format!("loss {loss:.3}"),
        );
        if schedule.is_evaluated(&progress, learner.planned(), before)
            && let Some(score) = evaluate(learner.module(), progress.clocks, context.recorder)?
        {
            progress.is_over = best.observe(score, progress.clocks.step, learner.module()).is_break();
        }
        if context.recorder.is_due() {
            save(&progress, method, learner, best, context)?;
        }
    }
    if let TrainSchedule::Budget(budget) = schedule {
        if budget.settings.unit == BudgetUnit::Seconds {
            save(&progress, method, learner, best, context)?; // another attempt would take other seconds
        }
        let used = budget.share(budget.used(progress.clocks, learner.planned()));
        context.recorder.record(context.stage, progress.clocks, metrics::BUDGET_USED, used);
    }
    progress.record_totals(learner, context);
    Ok(progress.clocks)
}

impl TrainProgress {
    /// Advances by one iteration.
    fn add(&mut self, metrics: &Metrics, seconds: f64, step: u64) {
        let cost = metrics.cost;
        self.iteration += 1;
        self.clocks.wall_seconds += seconds;
        self.clocks.step = step;
        self.clocks.tokens += cost.trained_tokens + cost.sampled_tokens + cost.scored_tokens;
        self.clocks.flops += cost.flops;
        self.total.trained_tokens += cost.trained_tokens;
        self.total.sampled_tokens += cost.sampled_tokens;
        self.check_seconds += metrics.check_seconds;
    }

    /// Records the totals of a training.
    fn record_totals<M: Module>(&self, learner: &Learner<M>, context: &mut TrainContext<'_>) {
        context.recorder.prompts(context.training, &self.prompts.iter().copied().collect::<Vec<_>>());
        let mut record = |metric, value| context.recorder.record(context.stage, self.clocks, metric, value);
        record(metrics::TRAINED_TOKENS, self.total.trained_tokens as f64);
        record(metrics::SAMPLED_TOKENS, self.total.sampled_tokens as f64);
        record(metrics::STAGE_SECONDS, self.clocks.wall_seconds);
        record(metrics::CHECK_SECONDS, self.check_seconds);
        record(metrics::PARAMETERS, learner.parameters() as f64);
        record(metrics::UPDATES, learner.updates_made() as f64);
    }
}

/// The saved state of a training, in this order.
type CheckpointState<S> = (TrainProgress, LearnerState, BestCheckpoint, S);

/// Has the recorder save the state of the training.
fn save<M: Method>(
    progress: &TrainProgress,
    method: &M,
    learner: &Learner<M::Module>,
    best: &BestCheckpoint,
    context: &mut TrainContext<'_>,
) -> Result<()> {
    let state = postcard::to_stdvec(&(progress, learner.state(), best, method.state())).map_err(checkpoint_error)?;
    context.recorder.save(context.training, &state).map_err(|source| Error::State { action: "saved", source })
}

/// Resumes from the state that the recorder saved, if any.
fn resume<M: Method>(
    method: &mut M,
    learner: &mut Learner<M::Module>,
    best: &mut BestCheckpoint,
    context: &mut TrainContext<'_>,
) -> Result<Option<TrainProgress>> {
    let saved = context.recorder.resume(context.training).map_err(|source| Error::State { action: "read", source })?;
    let Some(bytes) = saved else { return Ok(None) };
    let (progress, learner_state, best_so_far, method_state): CheckpointState<M::State> =
        postcard::from_bytes(&bytes).map_err(checkpoint_error)?;
    if !learner.resume(learner_state) {
        return Err(checkpoint_error("it is of another model"));
    }
    *best = best_so_far;
    method.resume(method_state);
    Ok(Some(progress))
}

fn checkpoint_error(problem: impl ToString) -> Error {
    Error::State { action: "understood", source: std::io::Error::other(problem.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::curve_steps;

    #[test]
    fn a_curve_ends_at_the_end() {
        assert_eq!(curve_steps(80, 4), vec![20, 40, 60, 80]);
        assert_eq!(curve_steps(3, 8), vec![1, 2, 3]);
        assert_eq!(curve_steps(10, 3), vec![4, 7, 10]);
    }
}
