//! The seam between the shared loop and the methods. The loop knows no algorithm.

use crate::{BestCheckpoint, Error, Learner, LearnerState, LoopControl, Result, Splits, Update};
use burn::module::Module;
use duel_model::without_counting;
use duel_spec::metrics::{self, Metric};
use duel_spec::{Clocks, Recorder, Split};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What an iteration cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct IterationCost {
    /// Tokens that passed a backward pass.
    pub trained_tokens: u64,
    /// Tokens that the policy wrote.
    pub sampled_tokens: u64,
    /// Tokens that were only read: reference, reward and value passes.
    pub scored_tokens: u64,
    pub flops: f64,
}

/// What an iteration has to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metrics {
    pub values: Vec<(Metric, f64)>,
    pub cost: IterationCost,
    /// Seconds spent on invariants.
    pub checking: f64,
}

impl Metrics {
    /// Adds a value.
    pub fn put(&mut self, metric: Metric, value: f64) {
        self.values.push((metric, value));
    }

    /// Checks invariants, and counts the time that it takes; what they read is no part of what the method costs.
    pub fn check(&mut self, invariants: impl FnOnce() -> Result<()>) -> Result<()> {
        let started = Instant::now();
        let outcome = without_counting(invariants);
        self.checking += started.elapsed().as_secs_f64();
        outcome
    }

    /// Adds what an update says of itself, and what it cost.
    pub fn record_update(&mut self, update: Update, cost: IterationCost) {
        self.put(metrics::LOSS, update.loss);
        self.put(metrics::GRAD_NORM, update.grad_norm);
        self.put(metrics::LEARNING_RATE, update.learning_rate);
        self.put(metrics::UPDATE_RATIO, update.update_ratio);
        self.cost = cost;
    }
}

/// An algorithm: what it trains, on what, and one iteration of it.
pub trait Method {
    type Module: Module;
    type Batch;
    /// What it remembers from one iteration to the next, beside what the learner holds.
    type State: Serialize + DeserializeOwned;

    /// Hashes of the prompts of a batch, as it is trained on; none where it is text without prompts.
    fn prompts(batch: &Self::Batch) -> Vec<u64>;

    /// One iteration; every update goes through the learner.
    fn iteration(&mut self, batch: &Self::Batch, learner: &mut Learner<Self::Module>) -> Result<Metrics>;

    /// What has to be kept to go on after a kill as if nothing had happened.
    fn state(&self) -> Self::State;

    /// Goes on from there.
    fn resume(&mut self, state: Self::State);
}

/// Who looks on while a stage trains.
pub struct TrainContext<'a> {
    /// Name of the stage in the metrics.
    pub stage: &'a str,
    /// Name of the training among those of its stage.
    pub training: &'a str,
    pub recorder: &'a mut dyn Recorder,
    /// Which prompts may be trained on, where that is not all of them.
    pub splits: Option<&'a Splits>,
    /// Set from outside to stop after the current iteration.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for TrainContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.stage)
    }
}

/// The iterations after which a curve of `points` is evaluated: evenly spread, the last one included.
pub fn curve_steps(iterations: u64, points: usize) -> Vec<u64> {
    let points = points as u64;
    let mut steps: Vec<u64> = (1..=points).map(|k| (iterations * k).div_ceil(points)).collect();
    steps.dedup();
    steps
}

/// Where a training stands between two iterations.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct TrainProgress {
    iteration: u64,
    clocks: Clocks,
    total: IterationCost,
    /// Seconds spent on invariants.
    checking: f64,
    /// Whether a look ended it.
    is_over: bool,
    /// Hashes of the prompts that were trained on.
    prompts: BTreeSet<u64>,
}

/// How long a training is, and when it is looked at.
#[derive(Debug, Clone, Copy)]
pub struct TrainSchedule<'a> {
    pub iterations: u64,
    /// The iterations after which it is looked at.
    pub eval_at: &'a [u64],
}

/// Runs a method over its course: logs every iteration with all clocks, and calls `look` after those listed (its time is
/// not counted); the keeper sees the score that it gives, and may end the training. `batch` gives the batch of an
/// iteration, and the same one whenever it is asked. A training that was killed goes on from the state that the recorder
/// kept last, and ends as if it had not been. Returns the clocks at the end.
///
/// # Errors
/// [`Error::Interrupted`], the state kept; what the method, `batch` and `look` fail with.
pub fn train<M: Method, E: From<Error>>(
    method: &mut M,
    learner: &mut Learner<M::Module>,
    keeper: &mut BestCheckpoint,
    course: TrainSchedule<'_>,
    mut batch: impl FnMut(u64) -> std::result::Result<M::Batch, E>,
    watch: &mut TrainContext<'_>,
    mut look: impl FnMut(&M::Module, Clocks, &mut dyn Recorder) -> std::result::Result<Option<f64>, E>,
) -> std::result::Result<Clocks, E> {
    let mut at = resumed(method, learner, keeper, watch)?.unwrap_or_default();
    while at.iteration < course.iterations && !at.is_over {
        if watch.stop.load(Ordering::Relaxed) {
            keep(&at, method, learner, keeper, watch)?;
            return Err(Error::Interrupted.into());
        }
        let started = Instant::now();
        learner.thin(at.iteration);
        let batch = batch(at.iteration)?;
        let prompts = M::prompts(&batch);
        if let Some(splits) = watch.splits {
            splits.check_disjoint("trains_on_train_prompts", learner.step(), Split::Train, prompts.iter().copied())?;
        }
        at.prompts.extend(prompts);
        let said = method.iteration(&batch, learner)?;
        learner.whole();
        at.iteration += 1;
        at.clocks.wall_seconds += started.elapsed().as_secs_f64();
        at.clocks.step = learner.step();
        at.clocks.tokens += said.cost.trained_tokens + said.cost.sampled_tokens + said.cost.scored_tokens;
        at.clocks.flops += said.cost.flops;
        at.total.trained_tokens += said.cost.trained_tokens;
        at.total.sampled_tokens += said.cost.sampled_tokens;
        at.checking += said.checking;
        for (metric, value) in &said.values {
            watch.recorder.record(watch.stage, at.clocks, *metric, *value);
        }
        let loss = said.values.iter().find(|(m, _)| *m == metrics::LOSS).map_or(f64::NAN, |(_, v)| *v);
        watch.recorder.progress(at.iteration, course.iterations, &format!("loss {loss:.3}"));
        if course.eval_at.contains(&at.iteration)
            && let Some(score) = look(learner.module(), at.clocks, watch.recorder)?
        {
            at.is_over = keeper.observe(score, at.clocks.step, learner.module()) == LoopControl::Stop;
        }
        if watch.recorder.is_due() {
            keep(&at, method, learner, keeper, watch)?;
        }
    }
    watch.recorder.prompts(watch.training, &at.prompts.iter().copied().collect::<Vec<_>>());
    let mut say = |metric, value| watch.recorder.record(watch.stage, at.clocks, metric, value);
    say(metrics::TRAINED_TOKENS, at.total.trained_tokens as f64);
    say(metrics::SAMPLED_TOKENS, at.total.sampled_tokens as f64);
    say(metrics::STAGE_SECONDS, at.clocks.wall_seconds);
    say(metrics::CHECK_SECONDS, at.checking);
    say(metrics::PARAMETERS, learner.parameters() as f64);
    say(metrics::UPDATES, learner.updates_made() as f64);
    Ok(at.clocks)
}

/// What is kept of a training, in this order.
type CheckpointState<S> = (TrainProgress, LearnerState, BestCheckpoint, S);

/// Has the recorder keep where the training stands.
fn keep<M: Method>(
    at: &TrainProgress,
    method: &M,
    learner: &Learner<M::Module>,
    keeper: &BestCheckpoint,
    watch: &mut TrainContext<'_>,
) -> Result<()> {
    let state = postcard::to_stdvec(&(at, learner.state(), keeper, method.state())).map_err(checkpoint_error)?;
    watch.recorder.keep(watch.training, &state).map_err(|source| Error::State { action: "kept", source })
}

/// Goes on from what the recorder kept, if there is anything.
fn resumed<M: Method>(
    method: &mut M,
    learner: &mut Learner<M::Module>,
    keeper: &mut BestCheckpoint,
    watch: &mut TrainContext<'_>,
) -> Result<Option<TrainProgress>> {
    let kept = watch.recorder.resume(watch.training).map_err(|source| Error::State { action: "read", source })?;
    let Some(bytes) = kept else { return Ok(None) };
    let (at, state, kept, its): CheckpointState<M::State> = postcard::from_bytes(&bytes).map_err(checkpoint_error)?;
    if !learner.resume(state) {
        return Err(checkpoint_error("it is of another model"));
    }
    *keeper = kept;
    method.resume(its);
    Ok(Some(at))
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
