//! Policy gradients without a value model on PPO's rollouts: REINFORCE (Williams 1992), RLOO (Ahmadian et al. 2024) and
//! GRPO (Shao et al. 2024). A response is one action; its tokens share its advantage.
//!
//! Deviations from the papers: PPO's clipped ratio and its stop at `target_kl` for all three, so that they may make more
//! than one update of a rollout; the loss is a mean over the tokens of the minibatch unless `loss_mean` says otherwise.

use crate::invariants;
use crate::policy::{PolicyOutput, policy_loss};
use crate::rollout::{BehaviorAndCurrent, CollectorState, Rollout, RolloutCollector, RolloutContext};
use crate::updates::{MinibatchLosses, MinibatchUpdater};
use burn::module::Module;
use burn::tensor::Tensor;
use duel_model::{Flops, Policy, weights::host};
use duel_objectives::{group_relative, leave_one_out};
use duel_spec::ids::prompt_hash;
use duel_spec::seeds::{self, Stream};
use duel_spec::{KlPenalty, RolloutSettings, metrics};
use duel_training::{Learner, Method, Metrics, Result};
use serde::{Deserialize, Serialize};

/// What a response's return is held against.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Baseline {
    /// The mean return so far: the sum of the returns, and how many there were.
    Past { sum: f64, n: f64 },
    /// The mean of the others to the same prompt.
    LeaveOneOut { group: usize },
    /// The mean to the same prompt; with `scale`, over the spread to it too.
    Group { group: usize, scale: bool },
}

/// The methods.
#[derive(Debug)]
pub struct CriticFree {
    baseline: Baseline,
    settings: RolloutSettings,
    sampler: RolloutCollector,
}

impl CriticFree {
    /// `settings` in full; see `defaults.toml` for units and sources.
    pub fn new(baseline: Baseline, settings: RolloutSettings, given: RolloutContext) -> Self {
        let sampler = RolloutCollector::new(given, settings.clone());
        Self { baseline, settings, sampler }
    }

    /// Step 2: how much better each response was than its likes, `[B]`.
    pub(crate) fn advantages(&mut self, rollout: &Rollout) -> Tensor<1> {
        let toll = if self.settings.kl == KlPenalty::Reward { rollout.beta } else { 0.0 };
        let returns = rollout.score_tensor() - rollout.penalized_kl() * toll; // [B]
        match &mut self.baseline {
            Baseline::Past { sum, n } => {
                let earned: f64 = host(returns.clone()).into_iter().map(f64::from).sum();
                let rows = rollout.responses.len() as f64;
                let mean = if *n > 0.0 { *sum / *n } else { earned / rows };
                (*sum, *n) = (*sum + earned, *n + rows);
                returns - mean
            }
            Baseline::LeaveOneOut { group } => leave_one_out(returns, *group),
            Baseline::Group { group, scale } => group_relative(returns, *group, *scale),
        }
    }
}

impl Method for CriticFree {
    type Module = Policy;
    /// Prompts, one a response; those of a group stand one after another.
    type Batch = Vec<Vec<u32>>;
    type State = (CollectorState, Baseline);

    fn prompts(prompts: &Vec<Vec<u32>>) -> Vec<u64> {
        prompts.iter().map(|prompt| prompt_hash(prompt)).collect()
    }

    fn iteration(&mut self, prompts: &Vec<Vec<u32>>, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut said = Metrics::default();
        let (given, step) = (&self.sampler.context, learner.step());
        let mut rng = seeds::stream(given.seed, Stream::CriticFreeMinibatches, self.sampler.iteration);
        let updates = MinibatchUpdater::new(&self.settings, 1, Flops::policy(&given.config), 0.0);
        let first_epoch = updates.shuffled(prompts.len(), &mut rng);

        // 1. Roll out with a snapshot of the policy.
        let old = learner.module().valid();
        let actors = BehaviorAndCurrent { behavior: &old, current: learner.module() };
        let rollout = self.sampler.roll_out(actors, prompts, &first_epoch, step, &mut said)?;

        // 2. Credit: how much better was each response than its likes?
        let advantages = self.advantages(&rollout); // [B]
        let worth: Vec<f64> = host(advantages.clone()).into_iter().map(f64::from).collect();
        if let Baseline::LeaveOneOut { group } | Baseline::Group { group, .. } = self.baseline {
            said.check(|| invariants::groups_are_centred(step, &worth, group))?;
        }
        said.put(metrics::ROLLOUT_RETURN, rollout.mean_return());
        said.put(metrics::ADVANTAGE_SD, (worth.iter().map(|x| x * x).sum::<f64>() / worth.len() as f64).sqrt());

        // 3. Improve, staying near the policy that wrote the responses.
        let (s, reader) = (&self.settings, &self.sampler.context.train_reader);
        let spread = advantages.unsqueeze_dim::<2>(1).expand(rollout.logp.dims()); // [B, T]
        let losses = |actor: &Policy, rows: &[usize]| {
            let now = PolicyOutput::of(s, reader, actor, &reader.tokens(&rollout.responses.select(rows)));
            MinibatchLosses { policy: policy_loss(s, &rollout, &spread, rows, now, reader), value: None }
        };
        updates.run(learner, &rollout, &first_epoch, &mut rng, losses, &mut said)?;
        self.sampler.next(&rollout, &old);
        Ok(said)
    }

    fn state(&self) -> (CollectorState, Baseline) {
        (self.sampler.state(), self.baseline)
    }

    fn resume(&mut self, (sampler, baseline): (CollectorState, Baseline)) {
        self.sampler.resume(sampler);
        self.baseline = baseline;
    }
}
