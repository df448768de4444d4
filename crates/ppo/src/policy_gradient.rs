//! Policy gradients without a value model on PPO's rollouts: REINFORCE (Williams 1992), RLOO (Ahmadian et al. 2024) and
//! GRPO (Shao et al. 2024). A response is one action; its tokens share its advantage.
//!
//! Deviations from the papers: PPO's clipped ratio and its stop at `target_kl` for all three, so that they may make more
//! than one update per rollout; the loss is a mean over the tokens of the minibatch unless `loss_mean` says otherwise.

use crate::covariance::control_covariance;
use crate::invariants;
use crate::iteration_start::{IterationStart, start_iteration};
use crate::policy::{PolicyOutput, policy_gradient_loss, with_kl_and_entropy};
use crate::rollout::{CollectorState, Rollout, RolloutCollector, RolloutContext};
use crate::rows::{normalize, rows_of, variance};
use crate::sampling::RolloutPrompts;
use crate::updates::MinibatchLosses;
use burn::tensor::Tensor;
use duel_model::{Policy, weights::host};
use duel_objectives::{gae, group_decoupled, group_relative, leave_one_out};
use duel_spec::ids::prompt_hash;
use duel_spec::seeds::Stream;
use duel_spec::{KlPenalty, Normalization, RolloutSettings, metrics};
use duel_training::{Learner, Method, Metrics, Result};
use serde::{Deserialize, Serialize};

/// The baseline that is subtracted from a response's return.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Baseline {
    /// The mean return so far: the sum of the returns and their number.
    Past { sum: f64, n: f64 },
    /// The mean of the other responses to the same prompt.
    LeaveOneOut { group: usize },
    /// The mean of the responses to the same prompt; with `scale`, also divided by their standard deviation.
    Group { group: usize, scale: bool },
}

impl Baseline {
    /// Responses to one prompt.
    fn group(&self) -> usize {
        match *self {
            Self::Past { .. } => 1,
            Self::LeaveOneOut { group } | Self::Group { group, .. } => group,
        }
    }
}

/// REINFORCE, RLOO or GRPO, by its baseline.
#[derive(Debug)]
pub struct PolicyGradient {
    baseline: Baseline,
    settings: RolloutSettings,
    collector: RolloutCollector,
}

impl PolicyGradient {
    /// `settings` in full; see `defaults.toml` for units and sources.
    pub fn new(baseline: Baseline, settings: RolloutSettings, context: RolloutContext) -> Self {
        let collector = RolloutCollector::new(context, settings.clone());
        Self { baseline, settings, collector }
    }

    /// Step 2: how much better each response was than its baseline, `[B]`.
    pub(crate) fn advantages(&mut self, rollout: &Rollout) -> Tensor<1> {
        let s = &self.settings;
        let kl_coef = if s.kl == KlPenalty::Reward && !s.kl_to_come { rollout.beta } else { 0.0 };
        let returns = rollout.score_tensor() - rollout.penalized_kl() * kl_coef; // [B]
        match &mut self.baseline {
            Baseline::Past { sum, n } => {
                let total: f64 = host(returns.clone()).into_iter().map(f64::from).sum();
                let rows = rollout.responses.len() as f64;
                let mean = if *n > 0.0 { *sum / *n } else { total / rows };
                (*sum, *n) = (*sum + total, *n + rows);
                returns - mean
            }
            Baseline::LeaveOneOut { group } => leave_one_out(returns, *group),
            Baseline::Group { group, .. } if self.settings.normalizes_each_reward() => {
                group_decoupled(rollout.component_tensors(), *group)
            }
            Baseline::Group { group, scale } => group_relative(returns, *group, *scale),
        }
    }

    /// Advantages `[B]` have mean 0 in each group; where each reward is normalized by itself, those of every reward, since their sum may
    /// cancel to rounding.
    fn check_groups(&self, step: u64, rollout: &Rollout, advantages: &[f64], group: usize) -> Result<()> {
        if !self.settings.normalizes_each_reward() {
            return invariants::groups_are_centred(step, advantages, group);
        }
        let normalized = |scores| host(group_relative(scores, group, true)).into_iter().map(f64::from).collect();
        let mut components = rollout.component_tensors().into_iter();
        components.try_for_each(|(scores, _)| {
            let advantages: Vec<f64> = normalized(scores);
            invariants::groups_are_centred(step, &advantages, group)
        })
    }

    /// The advantage of each token, `[B, T]`: that of its response `[B]`, and with `kl_to_come` less the penalty of it and the tokens
    /// after it. Hu et al. 2025 (REINFORCE++).
    pub(crate) fn of_tokens(&self, advantages: Tensor<1>, rollout: &Rollout) -> Tensor<2> {
        let advantages = advantages.unsqueeze_dim::<2>(1).expand(rollout.logp.dims()); // [B, T]
        if !self.settings.kl_to_come {
            return advantages;
        }
        let penalties = rollout.token_kl.clone() * rollout.beta; // [B, T]
        advantages - gae(penalties.clone(), penalties.zeros_like(), 1.0, 1.0, &rollout.mask).advantages
    }
}

impl Method for PolicyGradient {
    type Module = Policy;
    /// Prompts, one per response; those of a group are consecutive. Those after the first `episodes` are for dynamic sampling.
    type Batch = Vec<Vec<u32>>;
    type State = (CollectorState, Baseline);

    fn prompts(prompts: &Vec<Vec<u32>>) -> Vec<u64> {
        prompts.iter().map(|prompt| prompt_hash(prompt)).collect()
    }

    fn iteration(&mut self, prompts: &Vec<Vec<u32>>, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let (mut metrics, step) = (Metrics::default(), learner.step());
        // 1. Roll out with a snapshot of the policy.
        let stream = Stream::CriticFreeMinibatches;
        let prompts = RolloutPrompts::with_spare(prompts, self.settings.episodes, self.baseline.group());
        let IterationStart { rollout, behavior, updater } =
            start_iteration(&mut self.collector, &self.settings, 1, stream, prompts, learner, &mut metrics)?;

        // 2. Advantages: the return of each response less its baseline (GDPO: of each reward), normalized over all tokens (REINFORCE++).
        let advantages = self.advantages(&rollout); // [B]
        let values: Vec<f64> = host(advantages.clone()).into_iter().map(f64::from).collect();
        if let Baseline::LeaveOneOut { group } | Baseline::Group { group, .. } = self.baseline {
            metrics.check(|| self.check_groups(step, &rollout, &values, group))?;
        }
        let raw_advantages = self.of_tokens(advantages, &rollout); // [B, T]
        let normalization = self.settings.advantages;
        let advantages = normalize(raw_advantages.clone(), normalization, &rollout.mask); // [B, T]
        if normalization == Normalization::White {
            metrics.check(|| {
                let sd = variance(&raw_advantages, &rollout.mask).sqrt();
                invariants::advantages_are_white(step, &advantages, &raw_advantages, sd, &rollout.mask)
            })?;
        }
        metrics.put(metrics::ROLLOUT_RETURN, rollout.mean_return());
        let spread = match self.settings.kl_to_come {
            true => variance(&raw_advantages, &rollout.mask),
            false => values.iter().map(|x| x * x).sum::<f64>() / values.len() as f64,
        };
        metrics.put(metrics::ADVANTAGE_SD, spread.sqrt());

        // 3. K epochs of minibatches with the clipped loss.
        let (s, reader) = (&self.settings, &self.collector.context.train_reader);
        let (seed, iteration) = (self.collector.context.seed, self.collector.iteration);
        let rollout = control_covariance(rollout, &self.settings, &advantages, seed, iteration);
        let advantages = rollout.weighted(&advantages); // [B, T]
        let losses = |actor: &Policy, rows: &[usize]| {
            let output = PolicyOutput::of(s, reader, actor, &reader.tokens(&rollout.responses.select(rows)));
            let [old_logp, advantages] = [&rollout.logp, &advantages].map(|x| rows_of(x, rows)); // [b, T]
            let (logp, mask) = (output.logp.clone(), rollout.mask_of(rows));
            let policy = policy_gradient_loss(s).evaluate(logp, old_logp, advantages, &mask);
            MinibatchLosses { policy: with_kl_and_entropy(policy, s, &rollout, rows, output, reader), value: None }
        };
        updater.run(learner, &rollout, losses, &mut metrics)?;

        // 4. Remembered for the next rollout.
        self.collector.next(&rollout, &behavior);
        Ok(metrics)
    }

    fn state(&self) -> (CollectorState, Baseline) {
        (self.collector.state(), self.baseline)
    }

    fn resume(&mut self, (collector, baseline): (CollectorState, Baseline)) {
        self.collector.resume(collector);
        self.baseline = baseline;
    }
}
