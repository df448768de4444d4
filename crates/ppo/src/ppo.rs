//! Proximal policy optimisation against a scorer, with a KL toll. Schulman et al. 2017, eq. 7.
//!
//! Deviations from the paper: a KL toll in the reward (Stiennon et al. 2020, §3.3); advantages whitened
//! per rollout, an update stopped when k3 passes `target_kl`, the value clipped too (Huang et al. 2024);
//! temperature 1, so sampled and trained log-probs agree; the score lands on the last counted token, so
//! one mask serves both losses; actor and critic are separate networks under one optimizer unless `critic` says otherwise.

use crate::invariants;
use crate::policy::{PolicyOutput, policy_loss};
use crate::rollout::{
    BehaviorAndCurrent, CollectorState, Rollout, RolloutCollector, RolloutContext, index, map_blocks, variance,
};
use crate::updates::{MinibatchLosses, MinibatchUpdater};
use burn::module::Module;
use burn::tensor::Tensor;
use duel_model::weights::{flatten_trained, host};
use duel_model::{Flops, Policy, Reader, Responses, ScalarModel, Tokens, ValueHead};
use duel_objectives::{
    Gae, PolicyLoss, ResponseMask, ValueLoss, clipped_value_loss, gae, kl_shaped_rewards, whiten, whiten_keep_mean,
};
use duel_spec::ids::prompt_hash;
use duel_spec::seeds::{self, Stream};
use duel_spec::{CriticBody, KlPenalty, Normalization, PpoSettings as Settings, metrics};
use duel_training::invariants as always;
use duel_training::{Learner, Method, Metrics, Result};

/// What PPO trains: the policy and the value model.
#[derive(Module, Debug)]
pub struct ActorCritic {
    pub actor: Policy,
    pub critic: Critic,
}

/// The value model.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a training")]
pub enum Critic {
    /// A body of its own.
    Separate(ScalarModel),
    /// A head on the policy's.
    Shared(ValueHead),
}

impl ActorCritic {
    /// What the policy says and what the critic expects of `tokens`: values `[b, T]`.
    fn read(&self, s: &Settings, reader: &Reader, tokens: &Tokens) -> (PolicyOutput, Tensor<2>) {
        let states = reader.hidden_states(&self.actor, tokens); // [b, T, D]
        let values = match &self.critic {
            Critic::Separate(critic) => reader.values(critic, tokens),
            Critic::Shared(head) => head.forward(states.clone()),
        };
        (PolicyOutput::after(&s.shared, reader, &self.actor, states, tokens), values)
    }

    /// What the critic expects before each response token, `[b, T]`.
    fn values(&self, reader: &Reader, tokens: &Tokens) -> Tensor<2> {
        match &self.critic {
            Critic::Separate(critic) => reader.values(critic, tokens),
            Critic::Shared(head) => head.forward(reader.hidden_states(&self.actor, tokens)),
        }
    }
}

/// The method.
#[derive(Debug)]
pub struct Ppo {
    settings: Settings,
    sampler: RolloutCollector,
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
    /// Scaled as `advantages` says.
    pub advantages: Tensor<2>,
    pub returns: Tensor<2>,
}

impl Experience {
    /// Steps 2 and 3: what each token earned, and how much better that was than expected.
    pub fn new(rollout: Rollout, values: Tensor<2>, s: &Settings) -> Self {
        let mask = &rollout.mask;
        // 2. Shape the reward: a KL toll on every token, the score on the last.
        let rewards = kl_shaped_rewards(rollout.score_tensor(), rollout.token_kl.clone(), kl_coef(s, &rollout), mask);

        // 3. Credit: how much better than expected was each token?
        let earned = normalize(rewards.clone(), s.rewards, mask); // [B, T]
        let Gae { advantages, returns } = gae(earned, values.clone(), s.gamma, s.lambda, mask);
        let credit = normalize(advantages.clone(), s.advantages, mask);
        Self { rollout, values, rewards, raw_advantages: advantages, advantages: credit, returns }
    }

    /// The losses of some rows under the actor and critic as they are now; `reader` is on the autodiff device.
    pub fn losses(
        &self,
        module: &ActorCritic,
        rows: &[usize],
        s: &Settings,
        reader: &Reader,
    ) -> (PolicyLoss, ValueLoss) {
        let tokens = reader.tokens(&self.rollout.responses.select(rows));
        let (now, values) = module.read(s, reader, &tokens); // [b, T]
        let policy = policy_loss(&s.shared, &self.rollout, &self.advantages, rows, now, reader);
        let of = |x: &Tensor<2>| Tensor::from_inner(x.clone().select(0, index(rows, x))); // [b, T]
        let (old, returns, mask) = (of(&self.values), of(&self.returns), self.rollout.mask_of(rows));
        (policy, clipped_value_loss(values, old, returns, s.value_clip_range, &mask))
    }
}

/// What a nat of a token's KL costs in the reward.
fn kl_coef(s: &Settings, rollout: &Rollout) -> f64 {
    if s.shared.kl == KlPenalty::Reward { rollout.beta } else { 0.0 }
}

/// `[B, T]` over the counted tokens of a rollout.
fn normalize(x: Tensor<2>, how: Normalization, mask: &ResponseMask) -> Tensor<2> {
    match how {
        Normalization::Raw => x,
        Normalization::Scaled => whiten_keep_mean(x, mask),
        Normalization::White => whiten(x, mask),
    }
}

impl Ppo {
    /// `settings` in full; see `defaults.toml` for units and sources. With `critic_warmup` the learner has the actor apart
    /// ([`Learner::with_first_field_apart`]).
    pub fn new(settings: Settings, given: RolloutContext) -> Self {
        let sampler = RolloutCollector::new(given, settings.shared.clone());
        Self { settings, sampler }
    }

    /// Steps 1 to 3: what the old policy did and how good it was. Nothing here carries a gradient.
    fn experience(
        &mut self,
        prompts: &[Vec<u32>],
        first_epoch: &[Vec<usize>],
        learner: &Learner<ActorCritic>,
        old: &ActorCritic,
        said: &mut Metrics,
    ) -> Result<Experience> {
        let (s, step, first) = (&self.settings, learner.step(), self.sampler.iteration == 0);
        // 1. Roll out with a snapshot of actor and critic.
        let actors = BehaviorAndCurrent { behavior: &old.actor, current: &learner.module().actor };
        let rollout = self.sampler.roll_out(actors, prompts, first_epoch, step, said)?;
        let given = &self.sampler.context;
        let read = |block: &Responses| old.values(&given.reader, &given.reader.tokens(block));
        let values = map_blocks(&rollout.responses, first_epoch, read); // [B, T]

        // 2. and 3. Reward and credit.
        let experience = Experience::new(rollout, values, s);
        let Experience { rollout, values, rewards, raw_advantages, advantages, returns } = &experience;
        let Rollout { responses, mask, scores, .. } = rollout;
        let advantage_sd = variance(raw_advantages, mask).sqrt();
        said.check(|| {
            let (kl, lengths) = (host(rollout.token_kl.clone()), host(mask.lengths()));
            let lengths: Vec<usize> = lengths.into_iter().map(|n| n as usize).collect();
            invariants::reward_enters_once(step, rewards, scores, &kl, kl_coef(s, rollout), &lengths)?;
            if first {
                invariants::gae_at_one_is_return_minus_value(step, rewards, values, mask)?;
            }
            if s.advantages == Normalization::White {
                invariants::advantages_are_white(step, advantages, raw_advantages, advantage_sd, mask)?;
            }
            Ok(())
        })?;
        said.put(metrics::ROLLOUT_RETURN, rollout.mean_return());
        said.put(metrics::ADVANTAGE_SD, advantage_sd);
        let unexplained = variance(&(returns.clone() - values.clone()), mask) / variance(returns, mask).max(1e-12);
        said.put(metrics::EXPLAINED_VARIANCE, 1.0 - unexplained);

        if s.critic == CriticBody::Separate {
            let tokens = responses.token_count(); // the value pass (docs/verdicts.md, FLOPs); a shared critic's is the actor's
            said.cost.scored_tokens += tokens;
            said.cost.flops += Flops::scalar(&given.config).forward(tokens);
        }
        Ok(experience)
    }
}

impl Method for Ppo {
    type Module = ActorCritic;
    /// Prompts, one a response.
    type Batch = Vec<Vec<u32>>;
    type State = CollectorState;

    fn prompts(prompts: &Vec<Vec<u32>>) -> Vec<u64> {
        prompts.iter().map(|prompt| prompt_hash(prompt)).collect()
    }

    fn iteration(&mut self, prompts: &Vec<Vec<u32>>, learner: &mut Learner<ActorCritic>) -> Result<Metrics> {
        let mut said = Metrics::default();
        let (iteration, config) = (self.sampler.iteration, &self.sampler.context.config);
        let mut rng = seeds::stream(self.sampler.context.seed, Stream::PpoMinibatches, iteration);
        let critic = if self.settings.critic == CriticBody::Shared { 0.0 } else { Flops::scalar(config).train(1) };
        let updates = MinibatchUpdater::new(&self.settings.shared, 1, Flops::policy(config), critic);
        let first_epoch = updates.shuffled(prompts.len(), &mut rng);
        let old = learner.module().valid();
        let experience = self.experience(prompts, &first_epoch, learner, &old, &mut said)?;

        // 4. Improve, staying near the policy that wrote the responses; the critic alone while it warms up.
        let (s, reader) = (&self.settings, &self.sampler.context.train_reader);
        let warms_up = iteration < s.critic_warmup as u64;
        let losses = |module: &ActorCritic, rows: &[usize]| {
            let (mut policy, value) = experience.losses(module, rows, s, reader);
            if warms_up {
                policy.loss = policy.loss.zeros_like();
            }
            MinibatchLosses { policy, value: Some((value.loss, s.value_coef)) }
        };
        let policy_of = |learner: &Learner<ActorCritic>| flatten_trained(&learner.module().actor);
        let before = warms_up.then(|| policy_of(learner));
        if s.critic_warmup > 0 {
            learner.freeze_first_group(warms_up);
        }
        updates.run(learner, &experience.rollout, &first_epoch, &mut rng, losses, &mut said)?;
        if let Some(before) = before {
            said.check(|| always::what_rests_stays(learner.step(), "the policy", &before, &policy_of(learner)))?;
        }
        self.sampler.next(&experience.rollout, &old.actor);
        Ok(said)
    }

    fn state(&self) -> CollectorState {
        self.sampler.state()
    }

    fn resume(&mut self, state: CollectorState) {
        self.sampler.resume(state);
    }
}
