//! Reward-ranked fine-tuning: the policy imitates the best of its own responses to each prompt. Dong et al. 2023, alg. 1.
//!
//! Deviations from the paper: the winner is that of score less β·KL (its §4.3), so that β is the price of a nat here too;
//! several updates of a rollout, with PPO's stop at `target_kl`.

use crate::policy::PolicyOutput;
use crate::rollout::{BehaviorAndCurrent, CollectorState, Rollout, RolloutCollector, RolloutContext, index};
use crate::updates::{MinibatchLosses, MinibatchUpdater};
use burn::module::Module;
use burn::tensor::Tensor;
use duel_model::{Flops, Policy, weights::host};
use duel_objectives::{PolicyLoss, ResponseMask};
use duel_spec::ids::prompt_hash;
use duel_spec::seeds::{self, Stream};
use duel_spec::{RaftSettings as Settings, metrics};
use duel_training::{Learner, Method, Metrics, Result};

/// The method.
#[derive(Debug)]
pub struct Raft {
    settings: Settings,
    sampler: RolloutCollector,
}

impl Raft {
    /// `settings` in full; see `defaults.toml` for units and sources.
    pub fn new(settings: Settings, given: RolloutContext) -> Self {
        let sampler = RolloutCollector::new(given, settings.shared.clone());
        Self { settings, sampler }
    }

    /// Step 2: the rollout of which only the best response of each group counts.
    pub(crate) fn winners(&self, rollout: Rollout) -> Rollout {
        let kl = host(rollout.penalized_kl()); // [B]
        let worth: Vec<f64> =
            rollout.scores.iter().zip(kl).map(|(score, kl)| score - rollout.beta * f64::from(kl)).collect();
        let mut lengths = vec![0; worth.len()];
        let group = self.settings.group;
        for first in (0..worth.len()).step_by(group) {
            let best = (first..first + group).max_by(|&a, &b| worth[a].total_cmp(&worth[b])).unwrap_or(first);
            lengths[best] = rollout.responses.responses[best].len();
        }
        let [_, columns] = rollout.logp.dims();
        Rollout { mask: ResponseMask::from_lengths(&lengths, columns, &rollout.logp.device()), ..rollout }
    }
}

impl Method for Raft {
    type Module = Policy;
    /// Prompts, one a response; those of a group stand one after another.
    type Batch = Vec<Vec<u32>>;
    type State = CollectorState;

    fn prompts(prompts: &Vec<Vec<u32>>) -> Vec<u64> {
        prompts.iter().map(|prompt| prompt_hash(prompt)).collect()
    }

    fn iteration(&mut self, prompts: &Vec<Vec<u32>>, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut said = Metrics::default();
        let (given, step) = (&self.sampler.context, learner.step());
        let mut rng = seeds::stream(given.seed, Stream::RaftMinibatches, self.sampler.iteration);
        let updates =
            MinibatchUpdater::new(&self.settings.shared, self.settings.group, Flops::policy(&given.config), 0.0);
        let first_epoch = updates.shuffled(prompts.len(), &mut rng);

        // 1. Several responses to each prompt from a snapshot of the policy.
        let old = learner.module().valid();
        let actors = BehaviorAndCurrent { behavior: &old, current: learner.module() };
        let all = self.sampler.roll_out(actors, prompts, &first_epoch, step, &mut said)?;
        said.put(metrics::ROLLOUT_RETURN, all.mean_return());

        // 2. Which of them is best?
        let rollout = self.winners(all.clone());

        // 3. Imitate it.
        let (s, reader) = (&self.settings.shared, &self.sampler.context.train_reader);
        let losses = |actor: &Policy, rows: &[usize]| {
            let logp = PolicyOutput::of(s, reader, actor, &reader.tokens(&rollout.responses.select(rows))).logp; // [b, T]
            let old = Tensor::from_inner(rollout.logp.clone().select(0, index(rows, &rollout.logp))); // [b, T]
            let mask = rollout.mask_of(rows);
            let loss = mask.mean(logp.clone()).neg();
            MinibatchLosses { policy: PolicyLoss::unclipped(loss, logp, old, &mask), value: None }
        };
        updates.run(learner, &rollout, &first_epoch, &mut rng, losses, &mut said)?;
        self.sampler.next(&all, &old);
        Ok(said)
    }

    fn state(&self) -> CollectorState {
        self.sampler.state()
    }

    fn resume(&mut self, state: CollectorState) {
        self.sampler.resume(state);
    }
}
