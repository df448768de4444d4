//! Reward-ranked fine-tuning: the policy imitates the best of its own responses to each prompt. Dong et al. 2023, alg. 1.
//!
//! Deviations from the paper: the best response has the largest score − β·KL (its §4.3), so that β is the KL coefficient here too;
//! several updates per rollout, with PPO's stop at `target_kl`.

use crate::iteration_start::{IterationStart, start_iteration};
use crate::policy::PolicyOutput;
use crate::rollout::{CollectorState, Rollout, RolloutCollector, RolloutContext};
use crate::rows::rows_of;
use crate::sampling::RolloutPrompts;
use crate::updates::MinibatchLosses;
use duel_model::{Policy, weights::host};
use duel_objectives::{PolicyLoss, ResponseMask};
use duel_spec::ids::prompt_hash;
use duel_spec::seeds::Stream;
use duel_spec::{RaftSettings as Settings, metrics};
use duel_training::{Learner, Method, Metrics, Result};

/// The method.
#[derive(Debug)]
pub struct Raft {
    settings: Settings,
    collector: RolloutCollector,
}

impl Raft {
    /// `settings` in full; see `defaults.toml` for units and sources.
    pub fn new(settings: Settings, context: RolloutContext) -> Self {
        let collector = RolloutCollector::new(context, settings.shared.clone());
        Self { settings, collector }
    }

    /// Step 2: the rollout, in which only the best response of each group counts.
    pub(crate) fn winners(&self, rollout: Rollout) -> Rollout {
        let kl = host(rollout.penalized_kl()); // [B]
        let returns: Vec<f64> =
            rollout.scores.iter().zip(kl).map(|(score, kl)| score - rollout.beta * f64::from(kl)).collect();
        let mut lengths = vec![0; returns.len()];
        let group = self.settings.group;
        for first in (0..returns.len()).step_by(group) {
            let best = (first..first + group).max_by(|&a, &b| returns[a].total_cmp(&returns[b])).unwrap_or(first);
            lengths[best] = rollout.responses.responses[best].len();
        }
        let [_, columns] = rollout.logp.dims();
        Rollout { mask: ResponseMask::from_lengths(&lengths, columns, &rollout.logp.device()), ..rollout }
    }
}

impl Method for Raft {
    type Module = Policy;
    /// Prompts, one per response; those of a group are consecutive.
    type Batch = Vec<Vec<u32>>;
    type State = CollectorState;

    fn prompts(prompts: &Vec<Vec<u32>>) -> Vec<u64> {
        prompts.iter().map(|prompt| prompt_hash(prompt)).collect()
    }

    fn iteration(&mut self, prompts: &Vec<Vec<u32>>, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut metrics = Metrics::default();
        let (s, group, stream) = (&self.settings.shared, self.settings.group, Stream::RaftMinibatches);
        // 1. Several responses per prompt from a snapshot of the policy.
        let IterationStart { rollout: all, behavior, updater } = start_iteration(
            &mut self.collector,
            s,
            group,
            stream,
            RolloutPrompts::new(prompts, group),
            learner,
            &mut metrics,
        )?;
        metrics.put(metrics::ROLLOUT_RETURN, all.mean_return());

        // 2. The best of each group.
        let rollout = self.winners(all.clone());

        // 3. K epochs of minibatches that imitate it: −log π.
        let reader = &self.collector.context.train_reader;
        let losses = |actor: &Policy, rows: &[usize]| {
            let logp = PolicyOutput::of(s, reader, actor, &reader.tokens(&rollout.responses.select(rows))).logp; // [b, T]
            let (old_logp, mask) = (rows_of(&rollout.logp, rows), rollout.mask_of(rows)); // [b, T]
            let loss = mask.mean(logp.clone()).neg();
            MinibatchLosses { policy: PolicyLoss::unclipped(loss, logp, old_logp, &mask), value: None }
        };
        updater.run(learner, &rollout, losses, &mut metrics)?;

        // 4. Remembered for the next rollout.
        self.collector.next(&all, &behavior);
        Ok(metrics)
    }

    fn state(&self) -> CollectorState {
        self.collector.state()
    }

    fn resume(&mut self, state: CollectorState) {
        self.collector.resume(state);
    }
}
