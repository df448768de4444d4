//! Policy gradients without a value model on PPO's rollouts: REINFORCE (Williams 1992), RLOO (Ahmadian et al. 2024) and
//! GRPO (Shao et al. 2024). A response is one action; its tokens share its advantage.
//!
//! Deviations from the papers: PPO's clipped ratio and its stop at `target_kl` for all three, so that they may make more
//! than one update of a rollout; the loss is a mean over the tokens of the minibatch, where GRPO's is over responses first.

use crate::invariants;
use crate::rollout::{Actors, Rollout, Setting, When, index};
use crate::updates::{Losses, Updates};
use burn::module::Module;
use burn::tensor::Tensor;
use duel_model::{Flops, Policy, weights::host};
use duel_objectives::{PolicyLoss, clipped_policy_loss, group_relative, k3, leave_one_out};
use duel_spec::{Baseline, CriticFree as Settings, KlPlace, metrics, seeds};
use duel_training::{Learner, Method, Metrics, Result, sft};

/// The methods.
#[derive(Debug)]
pub struct CriticFree {
    baseline: Baseline,
    settings: Settings,
    given: Setting,
    iteration: u64,
    /// Sum and number of the returns so far.
    past: (f64, f64),
}

impl CriticFree {
    /// `settings` in full; see `defaults.toml` for units and sources.
    pub fn new(baseline: Baseline, settings: Settings, given: Setting) -> Self {
        Self { baseline, settings, given, iteration: 0, past: (0.0, 0.0) }
    }

    /// Updates of the whole training, for the schedule.
    pub fn updates(settings: &Settings) -> u64 {
        (settings.iterations * settings.epochs * settings.minibatches) as u64
    }

    /// Step 2: how much better each response was than its likes, `[B]`.
    fn advantages(&mut self, rollout: &Rollout) -> Tensor<1> {
        let s = &self.settings;
        let toll = if s.kl == KlPlace::Reward { s.beta } else { 0.0 };
        let returns = rollout.score_tensor() - rollout.kl() * toll; // [B]
        match self.baseline {
            Baseline::Past => {
                let (sum, n) = self.past;
                let earned: f64 = host(returns.clone()).into_iter().map(f64::from).sum();
                let rows = rollout.responses.len() as f64;
                self.past = (sum + earned, n + rows);
                returns - if n > 0.0 { sum / n } else { earned / rows }
            }
            Baseline::LeaveOneOut => leave_one_out(returns, s.group),
            Baseline::Group => group_relative(returns, s.group, s.scale),
        }
    }

    /// Step 3's loss of some rows under the actor as it is now.
    fn loss(&self, rollout: &Rollout, advantages: &Tensor<1>, actor: &Policy, rows: &[usize]) -> PolicyLoss {
        let (s, reader) = (&self.settings, &self.given.train_reader);
        let batch = rollout.responses.select(rows);
        let mask = sft::mask(reader, &batch); // [b, T]
        let of = |x: &Tensor<2>| Tensor::from_inner(x.clone().select(0, index(rows, x))); // [b, T]
        let spread = advantages.clone().unsqueeze_dim::<2>(1).expand(rollout.logp.dims()); // [B, T]
        let logp = sft::response_logp(reader, actor, &batch); // [b, T]
        let mut outcome = clipped_policy_loss(logp.clone(), of(&rollout.logp), of(&spread), s.clip_range, &mask);
        if s.kl == KlPlace::Loss {
            outcome.loss = outcome.loss + mask.mean(k3(logp, of(&rollout.ref_logp))) * s.beta;
        }
        outcome
    }
}

impl Method for CriticFree {
    type Module = Policy;
    /// Prompts, one a response; those of a group stand one after another.
    type Batch = Vec<Vec<u32>>;

    fn iteration(&mut self, prompts: &Vec<Vec<u32>>, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut said = Metrics::default();
        let (seed, step) = (self.given.seed, learner.step());
        let mut rng = seeds::derive(seed, "critic-free", self.iteration, "minibatches");
        let s = &self.settings;
        let flops = Flops::policy(&self.given.config).train(1);
        let updates = Updates { epochs: s.epochs, minibatches: s.minibatches, target_kl: s.target_kl, flops };
        let first_epoch = updates.shuffled(prompts.len(), &mut rng);

        // 1. Roll out with a snapshot of the policy.
        let old = learner.module().valid();
        let actors = Actors { old: &old, now: learner.module() };
        let when = When { step, first: self.iteration == 0 };
        let mut draws = seeds::derive(seed, "critic-free", self.iteration, "rollout");
        let rollout = self.given.roll_out(actors, prompts, &first_epoch, &mut draws, when, &mut said)?;

        // 2. Credit: how much better was each response than its likes?
        let advantages = self.advantages(&rollout); // [B]
        let worth: Vec<f64> = host(advantages.clone()).into_iter().map(f64::from).collect();
        if self.baseline != Baseline::Past {
            said.check(|| invariants::groups_are_centred(step, &worth, self.settings.group))?;
        }
        said.put(metrics::ROLLOUT_RETURN, rollout.mean_return(self.settings.beta));
        said.put(metrics::ADVANTAGE_SD, (worth.iter().map(|x| x * x).sum::<f64>() / worth.len() as f64).sqrt());

        // 3. Improve, staying near the policy that wrote the responses.
        let losses = |actor: &Policy, rows: &[usize]| Losses {
            policy: self.loss(&rollout, &advantages, actor, rows),
            value: None,
        };
        updates.make(learner, &rollout.responses, &first_epoch, &mut rng, losses, &mut said)?;
        self.iteration += 1;
        Ok(said)
    }
}
