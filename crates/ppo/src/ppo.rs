//! Proximal policy optimisation against a scorer, with a KL toll. Schulman et al. 2017, eq. 7.
//!
//! Deviations from the paper: a KL toll in the reward (Stiennon et al. 2020, §3.3); advantages whitened
//! per rollout, an update stopped when k3 passes `target_kl`, the value clipped too (Huang et al. 2024);
//! temperature 1, so sampled and trained log-probs agree; the score lands on the last counted token, so
//! one mask serves both losses; actor and critic are separate networks under one optimizer.

use crate::invariants;
use crate::rollout::{Actors, Rollout, Setting, When, in_blocks, index, variance};
use crate::updates::{Losses, Updates};
use burn::module::Module;
use burn::tensor::Tensor;
use duel_model::{Flops, Policy, Reader, Responses, Scalar, weights::host};
use duel_objectives::{
    Gae, PolicyLoss, ValueLoss, centre_and_scale, clipped_policy_loss, clipped_value_loss, gae, kl_shaped_rewards,
};
use duel_spec::{Ppo as Settings, metrics, seeds};
use duel_training::{Learner, Method, Metrics, Result, sft};

/// What PPO trains: the policy and the value model.
#[derive(Module, Debug)]
pub struct ActorCritic {
    pub actor: Policy,
    pub critic: Scalar,
}

/// The method.
#[derive(Debug)]
pub struct Ppo {
    settings: Settings,
    given: Setting,
    iteration: u64,
}

/// A rollout with all that the updates need, `[B, T]` each, without gradient.
#[derive(Debug, Clone)]
pub struct Experience {
    rollout: Rollout,
    /// Of the critic that saw the rollout.
    values: Tensor<2>,
    /// KL toll on every token and the score on the last.
    pub rewards: Tensor<2>,
    /// As [`gae`] gives them.
    pub raw_advantages: Tensor<2>,
    /// Whitened.
    pub advantages: Tensor<2>,
    pub returns: Tensor<2>,
}

impl Experience {
    /// Steps 2 and 3: what each token earned, and how much better that was than expected.
    pub fn new(rollout: Rollout, values: Tensor<2>, settings: &Settings) -> Self {
        let mask = &rollout.mask;
        // 2. Shape the reward: a KL toll on every token, the score on the last.
        let rewards = kl_shaped_rewards(rollout.score_tensor(), rollout.token_kl(), settings.beta, mask); // [B, T]

        // 3. Credit: how much better than expected was each token?
        let Gae { advantages, returns } = gae(rewards.clone(), values.clone(), settings.gamma, settings.lambda, mask);
        let white = centre_and_scale(advantages.clone(), mask);
        Self { rollout, values, rewards, raw_advantages: advantages, advantages: white, returns }
    }

    /// The losses of some rows under the actor and critic as they are now; `reader` is on the autodiff device.
    pub fn losses(
        &self,
        module: &ActorCritic,
        rows: &[usize],
        settings: &Settings,
        reader: &Reader,
    ) -> (PolicyLoss, ValueLoss) {
        let batch = self.rollout.responses.select(rows);
        let mask = sft::mask(reader, &batch); // [b, T]
        let of = |x: &Tensor<2>| Tensor::from_inner(x.clone().select(0, index(rows, x))); // [b, T]
        let tokens = reader.tokens(&batch);
        let logp = sft::tokens_logp(reader, &module.actor, &tokens); // [b, T]
        let values = reader.values(&module.critic, &tokens); // [b, T]
        let policy =
            clipped_policy_loss(logp, of(&self.rollout.logp), of(&self.advantages), settings.clip_range, &mask);
        let returns = of(&self.returns);
        let value = clipped_value_loss(values, of(&self.values), returns, settings.value_clip_range, &mask);
        (policy, value)
    }
}

impl Ppo {
    /// `settings` in full; see `defaults.toml` for units and sources.
    pub fn new(settings: Settings, given: Setting) -> Self {
        Self { settings, given, iteration: 0 }
    }

    /// Updates of the whole training, for the schedule.
    pub fn updates(settings: &Settings) -> u64 {
        (settings.iterations * settings.epochs * settings.minibatches) as u64
    }

    /// Steps 1 to 3: what the old policy did and how good it was. Nothing here carries a gradient.
    fn experience(
        &self,
        prompts: &[Vec<u32>],
        first_epoch: &[Vec<usize>],
        learner: &Learner<ActorCritic>,
        said: &mut Metrics,
    ) -> Result<Experience> {
        let (s, given, step) = (&self.settings, &self.given, learner.step());
        // 1. Roll out with a snapshot of actor and critic.
        let old = learner.module().valid();
        let mut rng = seeds::derive(given.seed, "ppo", self.iteration, "rollout");
        let actors = Actors { old: &old.actor, now: &learner.module().actor };
        let when = When { step, first: self.iteration == 0 };
        let rollout = given.roll_out(actors, prompts, first_epoch, &mut rng, when, said)?;
        let read = |block: &Responses| given.reader.values(&old.critic, &given.reader.tokens(block));
        let values = in_blocks(&rollout.responses, first_epoch, read); // [B, T]

        // 2. and 3. Reward and credit.
        let experience = Experience::new(rollout, values, s);
        let Experience { rollout, values, rewards, raw_advantages, advantages, returns } = &experience;
        let Rollout { responses, mask, scores, .. } = rollout;
        let advantage_sd = variance(raw_advantages, mask).sqrt();
        said.check(|| {
            let (k1, lengths) = (host(rollout.token_kl()), responses.lengths());
            invariants::reward_enters_once(step, rewards, scores, &k1, s.beta, &lengths)?;
            if self.iteration == 0 {
                invariants::gae_at_one_is_return_minus_value(step, rewards, values, mask)?;
            }
            invariants::advantages_are_white(step, advantages, advantage_sd, mask)
        })?;
        said.put(metrics::ROLLOUT_RETURN, rollout.mean_return(s.beta));
        said.put(metrics::ADVANTAGE_SD, advantage_sd);
        let unexplained = variance(&(returns.clone() - values.clone()), mask) / variance(returns, mask).max(1e-12);
        said.put(metrics::EXPLAINED_VARIANCE, 1.0 - unexplained);

        let tokens = responses.token_count(); // the value pass (claims §4.4)
        said.cost.scored_tokens += tokens;
        said.cost.flops += Flops::scalar(&given.config).forward(tokens);
        Ok(experience)
    }
}

impl Method for Ppo {
    type Module = ActorCritic;
    /// Prompts, one a response.
    type Batch = Vec<Vec<u32>>;

    fn iteration(&mut self, prompts: &Vec<Vec<u32>>, learner: &mut Learner<ActorCritic>) -> Result<Metrics> {
        let mut said = Metrics::default();
        let mut rng = seeds::derive(self.given.seed, "ppo", self.iteration, "minibatches");
        let (s, given) = (&self.settings, &self.given);
        let flops = Flops::policy(&given.config).train(1) + Flops::scalar(&given.config).train(1);
        let updates = Updates { epochs: s.epochs, minibatches: s.minibatches, target_kl: s.target_kl, flops };
        let first_epoch = updates.shuffled(prompts.len(), &mut rng);
        let experience = self.experience(prompts, &first_epoch, learner, &mut said)?;

        // 4. Improve, staying near the policy that wrote the responses.
        let losses = |module: &ActorCritic, rows: &[usize]| {
            let (policy, value) = experience.losses(module, rows, s, &given.train_reader);
            Losses { policy, value: Some((value.loss, s.value_coef)) }
        };
        updates.make(learner, &experience.rollout.responses, &first_epoch, &mut rng, losses, &mut said)?;
        self.iteration += 1;
        Ok(said)
    }
}
