//! The start of an iteration where the policy is the whole module: minibatches, a snapshot, its rollout.

use crate::rollout::{BehaviorAndCurrent, Rollout, RolloutCollector};
use crate::sampling::RolloutPrompts;
use crate::updates::MinibatchUpdater;
use burn::module::Module;
use duel_model::{Flops, Policy};
use duel_spec::{RolloutSettings, seeds};
use duel_training::{Learner, Metrics, Result};

/// A rollout and its updates.
pub struct IterationStart {
    pub rollout: Rollout,
    /// The policy that rolled out, without gradient.
    pub behavior: Policy,
    pub updater: MinibatchUpdater,
}

/// Rolls out with a snapshot of the policy; `unit` consecutive responses stay in one minibatch.
///
/// # Errors
/// Those of [`RolloutCollector::roll_out`].
pub fn start_iteration(
    collector: &mut RolloutCollector,
    s: &RolloutSettings,
    unit: usize,
    minibatches: seeds::Stream<'_>,
    prompts: RolloutPrompts<'_>,
    learner: &Learner<Policy>,
    metrics: &mut Metrics,
) -> Result<IterationStart> {
    let rng = seeds::stream(collector.context.seed, minibatches, collector.iteration);
    let updater =
        MinibatchUpdater::new(s, prompts.prompts.len(), unit, Flops::policy(&collector.context.config), 0.0, rng);
    let behavior = learner.module().valid();
    let actors = BehaviorAndCurrent { behavior: &behavior, current: learner.module() };
    let rollout = collector.roll_out(actors, prompts, updater.first_epoch(), learner.step(), metrics)?;
    Ok(IterationStart { rollout, behavior, updater })
}
