//! The seam between the shared loop and the methods. The loop knows no algorithm.

use crate::{Error, Learner, Onward, Result, Update};
use burn::module::Module;
use duel_spec::metrics::{self, Metric};
use duel_spec::{Clocks, Recorder};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What an iteration cost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cost {
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
    pub cost: Cost,
    /// Seconds spent on invariants.
    pub checking: f64,
}

impl Metrics {
    /// Adds a value.
    pub fn put(&mut self, metric: Metric, value: f64) {
        self.values.push((metric, value));
    }

    /// Checks invariants, and counts the time that it takes.
    pub fn check(&mut self, invariants: impl FnOnce() -> Result<()>) -> Result<()> {
        let started = Instant::now();
        let outcome = invariants();
        self.checking += started.elapsed().as_secs_f64();
        outcome
    }

    /// Adds what an update says of itself, and what it cost.
    pub fn learned(&mut self, update: Update, cost: Cost) {
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

    /// One iteration; every update goes through the learner.
    fn iteration(&mut self, batch: &Self::Batch, learner: &mut Learner<Self::Module>) -> Result<Metrics>;
}

/// Who looks on while a stage trains.
pub struct Watch<'a> {
    /// Name of the stage in the metrics.
    pub stage: &'a str,
    pub recorder: &'a mut dyn Recorder,
    /// Set from outside to stop after the current iteration.
    pub stop: &'a AtomicBool,
}

impl std::fmt::Debug for Watch<'_> {
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

/// Runs a method for `iterations`: logs every one with all clocks, and calls `look` after those listed
/// in `look_after` (its time is not counted), which may end the training. Returns the clocks at the end.
pub fn train<M: Method, E: From<Error>>(
    method: &mut M,
    learner: &mut Learner<M::Module>,
    iterations: u64,
    mut batch: impl FnMut(u64) -> std::result::Result<M::Batch, E>,
    watch: &mut Watch<'_>,
    look_after: &[u64],
    mut look: impl FnMut(&M::Module, Clocks, &mut dyn Recorder) -> std::result::Result<Onward, E>,
) -> std::result::Result<Clocks, E> {
    let mut clocks = Clocks::default();
    let (mut total, mut checking) = (Cost::default(), 0.0);
    for iteration in 0..iterations {
        if watch.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted.into());
        }
        let started = Instant::now();
        learner.thin(iteration);
        let said = method.iteration(&batch(iteration)?, learner)?;
        learner.whole();
        clocks.wall_seconds += started.elapsed().as_secs_f64();
        clocks.step = learner.step();
        clocks.tokens += said.cost.trained_tokens + said.cost.sampled_tokens + said.cost.scored_tokens;
        clocks.flops += said.cost.flops;
        total.trained_tokens += said.cost.trained_tokens;
        total.sampled_tokens += said.cost.sampled_tokens;
        checking += said.checking;
        for (metric, value) in &said.values {
            watch.recorder.record(watch.stage, clocks, *metric, *value);
        }
        let loss = said.values.iter().find(|(m, _)| *m == metrics::LOSS).map_or(f64::NAN, |(_, v)| *v);
        watch.recorder.progress(iteration + 1, iterations, &format!("loss {loss:.3}"));
        if look_after.contains(&(iteration + 1)) && look(learner.module(), clocks, watch.recorder)? == Onward::Stop {
            break;
        }
    }
    let mut say = |metric, value| watch.recorder.record(watch.stage, clocks, metric, value);
    say(metrics::TRAINED_TOKENS, total.trained_tokens as f64);
    say(metrics::SAMPLED_TOKENS, total.sampled_tokens as f64);
    say(metrics::STAGE_SECONDS, clocks.wall_seconds);
    say(metrics::CHECK_SECONDS, checking);
    say(metrics::PARAMETERS, learner.parameters() as f64);
    Ok(clocks)
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
