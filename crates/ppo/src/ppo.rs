//! Proximal policy optimisation against a scorer, with a KL penalty. Schulman et al. 2017, eq. 7.
//!
//! Deviations from the paper: a KL penalty in the reward (Stiennon et al. 2020, §3.3); advantages whitened
//! per rollout, an update stopped when k3 passes `target_kl`, the value clipped too (Huang et al. 2024);
//! temperature 1, so sampled and trained log-probs agree; the score lands on the last counted token, so
//! one mask serves both losses; actor and critic are separate networks under one optimizer unless `critic` says otherwise.

use crate::covariance::control_covariance;
use crate::invariants::{self, ScoreParts};
use crate::policy::{PolicyOutput, policy_gradient_loss, with_kl_and_entropy};
use crate::rollout::{BehaviorAndCurrent, CollectorState, Rollout, RolloutCollector, RolloutContext};
use crate::rows::{map_blocks, normalize, rows_of, variance};
use crate::sampling::RolloutPrompts;
use crate::updates::{MinibatchLosses, MinibatchUpdater};
use burn::module::Module;
use burn::tensor::Tensor;
use duel_model::weights::{flatten_trained, host};
use duel_model::{Flops, Policy, ResponseReader, ScalarModel, Tokens, ValueHead};
use duel_objectives::{Gae, PolicyLoss, ValueLoss, clipped_value_loss, gae, kl_shaped_rewards, step_shaped_rewards};
use duel_spec::ids::prompt_hash;
use duel_spec::seeds::{self, Stream};
use duel_spec::{CriticBody, KlPenalty, Normalization, PpoSettings as Settings, metrics};
use duel_training::invariants as training_invariants;
use duel_training::{Learner, Method, Metrics, Result};

/// The method.
#[derive(Debug)]
pub struct Ppo {
    settings: Settings,
    collector: RolloutCollector,
}

/// What PPO trains: the policy and the value model.
#[derive(Module, Debug)]
pub struct ActorCritic {
    pub actor: Policy,
    pub critic: Critic,
}

/// The value model.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "one per training")]
pub enum Critic {
    /// A body of its own.
    Separate(ScalarModel),
    /// A head on the policy's.
    Shared(ValueHead),
}

impl Method for Ppo {
    type Module = ActorCritic;
    /// Prompts, one per response.
    type Batch = Vec<Vec<u32>>;
    type State = CollectorState;

    fn prompts(prompts: &Vec<Vec<u32>>) -> Vec<u64> {
        prompts.iter().map(|prompt| prompt_hash(prompt)).collect()
    }

    fn iteration(&mut self, prompts: &Vec<Vec<u32>>, learner: &mut Learner<ActorCritic>) -> Result<Metrics> {
        let mut metrics = Metrics::default();
        let updater = self.updater(prompts.len());

        // 1. Roll out with a snapshot of actor and critic: responses, their log-probs, scores and values.
        let old = learner.module().valid();
        let actors = BehaviorAndCurrent { behavior: &old.actor, current: &learner.module().actor };
        let first_epoch = updater.first_epoch();
        let rollout = self.collector.roll_out(
            actors,
            RolloutPrompts::new(prompts, 1),
            first_epoch,
            learner.step(),
            &mut metrics,
        )?;
        let reader = &self.collector.context.reader;
        let values = map_blocks(&rollout.responses, first_epoch, |b| old.values(reader, &reader.tokens(b))); // [B, T]

        // 2. Shape the reward: the KL penalty on every token, the score on the last, or its parts on theirs.
        let rewards = shaped_rewards(&self.settings, &rollout); // [B, T]

        // 3. Advantages: GAE, whitened; their returns are the critic's targets.
        let experience = Experience::new(&self.settings, rollout, rewards, values);
        let experience = self.with_controlled_covariance(experience);
        self.check(&experience, learner.step(), &mut metrics)?;
        self.record(&experience, &mut metrics);

        // 4. K epochs of minibatches with the clipped losses; the critic alone while it warms up.
        let (s, train_reader) = (&self.settings, &self.collector.context.train_reader);
        let warms_up = self.collector.iteration < s.critic_warmup as u64;
        let losses = |module: &ActorCritic, rows: &[usize]| {
            let (mut policy, value) = experience.losses(module, rows, s, train_reader);
            if warms_up {
                policy.loss = policy.loss.zeros_like();
            }
            MinibatchLosses { policy, value: Some((value.loss, s.value_coef)) }
        };
        let actor = |learner: &Learner<ActorCritic>| flatten_trained(&learner.module().actor);
        let resting = warms_up.then(|| actor(learner));
        learner.freeze_first_group(warms_up);
        updater.run(learner, &experience.rollout, losses, &mut metrics)?;
        if let Some(before) = resting {
            metrics.check(|| {
                training_invariants::what_rests_stays(learner.step(), "the policy", &before, &actor(learner))
            })?;
        }

        // 5. State for the next rollout: the KL coefficient, and the reference where it follows the policy.
        self.collector.next(&experience.rollout, &old.actor);
        Ok(metrics)
    }

    fn state(&self) -> CollectorState {
        self.collector.state()
    }

    fn resume(&mut self, state: CollectorState) {
        self.collector.resume(state);
    }
}

/// Step 2: `r_t = −β KL_t`, plus the score on the last counted token, or its parts on theirs, `[B, T]`.
pub fn shaped_rewards(s: &Settings, rollout: &Rollout) -> Tensor<2> {
    let (scores, kl, beta) = (rollout.score_tensor(), rollout.token_kl.clone(), kl_coef(s, rollout));
    match &rollout.token_rewards {
        Some(token_rewards) => step_shaped_rewards(scores, token_rewards.clone(), kl, beta, &rollout.mask),
        None => kl_shaped_rewards(scores, kl, beta, &rollout.mask),
    }
}

/// A rollout with all that the updates need, `[B, T]` each, without gradient.
#[derive(Debug, Clone)]
pub struct Experience {
    rollout: Rollout,
    /// Of the critic that rolled out.
    values: Tensor<2>,
    /// KL penalty on every token and the score on the last.
    pub rewards: Tensor<2>,
    /// As [`gae`] returns them.
    pub raw_advantages: Tensor<2>,
    /// Normalized by `advantages`.
    pub advantages: Tensor<2>,
    pub returns: Tensor<2>,
}

impl Experience {
    /// Step 3: the advantage of each token.
    pub fn new(s: &Settings, rollout: Rollout, rewards: Tensor<2>, values: Tensor<2>) -> Self {
        let mask = &rollout.mask;
        let normalized = normalize(rewards.clone(), s.rewards, mask); // [B, T]
        let Gae { advantages: raw_advantages, returns } = gae(normalized, values.clone(), s.gamma, s.lambda, mask);
        let advantages = normalize(raw_advantages.clone(), s.shared.advantages, mask);
        Self { rollout, values, rewards, raw_advantages, advantages, returns }
    }

    /// Step 4: the losses of some rows under the actor and critic in training; `reader` is on the autodiff device.
    pub fn losses(
        &self,
        module: &ActorCritic,
        rows: &[usize],
        s: &Settings,
        reader: &ResponseReader,
    ) -> (PolicyLoss, ValueLoss) {
        let Self { rollout, values: old_values, advantages, returns, .. } = self;
        let mask = rollout.mask_of(rows); // [b, T]
        let advantages = rollout.weighted(advantages); // [B, T]
        let [old_logp, old_values, advantages, returns] =
            [&rollout.logp, old_values, &advantages, returns].map(|x| rows_of(x, rows)); // [b, T]
        let tokens = reader.tokens(&rollout.responses.select(rows));
        let (output, values) = module.read(s, reader, &tokens); // [b, T]

        let policy = policy_gradient_loss(&s.shared).evaluate(output.logp.clone(), old_logp, advantages, &mask);
        let policy = with_kl_and_entropy(policy, &s.shared, rollout, rows, output, reader);
        let value = clipped_value_loss(values, old_values, returns, s.value_clip_range, &mask);
        (policy, value)
    }
}

/// β where the KL is penalized in the reward.
fn kl_coef(s: &Settings, rollout: &Rollout) -> f64 {
    if s.shared.kl == KlPenalty::Reward { rollout.beta } else { 0.0 }
}

impl ActorCritic {
    /// The policy's log-probs of `tokens` and the critic's values, `[b, T]`.
    fn read(&self, s: &Settings, reader: &ResponseReader, tokens: &Tokens) -> (PolicyOutput, Tensor<2>) {
        let states = reader.hidden_states(&self.actor, tokens); // [b, T, D]
        let values = match &self.critic {
            Critic::Separate(critic) => reader.values(critic, tokens),
            Critic::Shared(head) => head.forward(states.clone()),
        };
        (PolicyOutput::after(&s.shared, reader, &self.actor, states, tokens), values)
    }

    /// The critic's values before each response token, `[b, T]`.
    fn values(&self, reader: &ResponseReader, tokens: &Tokens) -> Tensor<2> {
        match &self.critic {
            Critic::Separate(critic) => reader.values(critic, tokens),
            Critic::Shared(head) => head.forward(reader.hidden_states(&self.actor, tokens)),
        }
    }
}

impl Ppo {
    /// `settings` in full; see `defaults.toml` for units and sources. With `critic_warmup` the learner has the actor apart
    /// ([`Learner::with_own_optimizer`]).
    pub fn new(settings: Settings, context: RolloutContext) -> Self {
        let collector = RolloutCollector::new(context, settings.shared.clone());
        Self { settings, collector }
    }

    /// The minibatches of this iteration.
    fn updater(&self, responses: usize) -> MinibatchUpdater {
        let (RolloutContext { config, seed, .. }, iteration) = (&self.collector.context, self.collector.iteration);
        let rng = seeds::stream(*seed, Stream::PpoMinibatches, iteration);
        let critic = if self.settings.critic == CriticBody::Shared { 0.0 } else { Flops::scalar(config).train(1) };
        MinibatchUpdater::new(&self.settings.shared, responses, 1, Flops::policy(config), critic, rng)
    }

    /// The tokens of an experience that Clip-Cov or KL-Cov act on.
    fn with_controlled_covariance(&self, experience: Experience) -> Experience {
        let Experience { rollout, advantages, .. } = &experience;
        let (seed, iteration) = (self.collector.context.seed, self.collector.iteration);
        let rollout = control_covariance(rollout.clone(), &self.settings.shared, advantages, seed, iteration);
        Experience { rollout, ..experience }
    }

    /// The invariants of steps 2 and 3.
    fn check(&self, experience: &Experience, step: u64, metrics: &mut Metrics) -> Result<()> {
        let s = &self.settings;
        let Experience { rollout, values, rewards, raw_advantages, advantages, .. } = experience;
        let mask = &rollout.mask;
        metrics.check(|| {
            let (kl, lengths) = (host(rollout.token_kl.clone()), host(mask.lengths()));
            let lengths: Vec<usize> = lengths.into_iter().map(|n| n as usize).collect();
            let parts = rollout.token_rewards.clone().map(host);
            let scores = ScoreParts { scores: &rollout.scores, token_rewards: parts.as_deref() };
            invariants::reward_enters_once(step, rewards, scores, &kl, kl_coef(s, rollout), &lengths)?;
            if self.collector.iteration == 0 {
                let at_one = gae(rewards.clone(), values.clone(), 1.0, 1.0, mask).advantages; // [B, T]
                invariants::gae_at_one_is_return_minus_value(step, &at_one, rewards, values, mask)?;
            }
            if s.shared.advantages == Normalization::White {
                let sd = variance(raw_advantages, mask).sqrt();
                invariants::advantages_are_white(step, advantages, raw_advantages, sd, mask)?;
            }
            Ok(())
        })
    }

    /// Return, standard deviation of the advantages, explained variance, and the cost of the values.
    fn record(&self, experience: &Experience, metrics: &mut Metrics) {
        let Experience { rollout, values, raw_advantages, returns, .. } = experience;
        let mask = &rollout.mask;
        metrics.put(metrics::ROLLOUT_RETURN, rollout.mean_return());
        metrics.put(metrics::ADVANTAGE_SD, variance(raw_advantages, mask).sqrt());
        let unexplained = variance(&(returns.clone() - values.clone()), mask) / variance(returns, mask).max(1e-12);
        metrics.put(metrics::EXPLAINED_VARIANCE, 1.0 - unexplained);
        if self.settings.critic == CriticBody::Separate {
            // the value pass (docs/verdicts.md, FLOPs); a shared critic's is the actor's
            let tokens = rollout.responses.token_count();
            metrics.cost.scored_tokens += tokens;
            metrics.cost.flops += Flops::scalar(&self.collector.context.config).forward(tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::{P, ROWS, T, ppo, rollout, settings, value_of};
    use burn::tensor::{Device, TensorData};
    use duel_training::Error;

    const SCORES: [f64; ROWS] = [1.0, 3.0, 2.0, 2.0, 0.0, 4.0, 5.0, 1.0];

    fn method(advantages: Normalization) -> Ppo {
        let method = ppo(settings(), CriticBody::Separate);
        let mut settings = Settings { rewards: Normalization::Raw, gamma: 1.0, lambda: 1.0, ..method.settings.clone() };
        settings.shared.advantages = advantages;
        Ppo { settings, ..method }
    }

    /// A KL of 1 nat per token in the second response, at β = ½; the critic says half the score, and less towards the end.
    fn value(row: usize, t: usize) -> f64 {
        0.5 * SCORES[row] - 0.25 * t as f64
    }

    fn experience(method: &Ppo) -> Experience {
        let rollout = rollout(SCORES, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0.5);
        let values = (0..ROWS).flat_map(|row| (0..T).map(move |t| value(row, t) as f32)).collect();
        let values = Tensor::from_data(TensorData::new(values, [ROWS, T]), &Device::flex());
        Experience::new(&method.settings, rollout.clone(), shaped_rewards(&method.settings, &rollout), values)
    }

    /// At γ = λ = 1 a return is the score less the penalties to come, and an advantage the return less the value.
    #[test]
    fn statistics_of_an_experience_by_hand() {
        let method = method(Normalization::White);
        let mut metrics = Metrics::default();
        method.record(&experience(&method), &mut metrics);
        let cells = || (0..ROWS).flat_map(|row| (0..T).map(move |t| (row, t)));
        let to_come = |row: usize, t: usize| SCORES[row] - if row == 1 { 0.5 * (T - t) as f64 } else { 0.0 };
        let variance = |of: &dyn Fn(usize, usize) -> f64| {
            let n = (ROWS * T) as f64;
            let mean = cells().map(|(row, t)| of(row, t)).sum::<f64>() / n;
            cells().map(|(row, t)| (of(row, t) - mean).powi(2)).sum::<f64>() / n
        };
        let errors = variance(&|row, t| to_come(row, t) - value(row, t));
        for (metric, expected) in [
            (metrics::ROLLOUT_RETURN, 18.0 / 8.0 - 0.5 * 4.0 / 8.0),
            (metrics::ADVANTAGE_SD, errors.sqrt()),
            (metrics::EXPLAINED_VARIANCE, 1.0 - errors / variance(&to_come)),
        ] {
            let actual = value_of(&metrics, metric);
            assert!((actual - expected).abs() < 1e-5, "{metric}: {actual}, by hand {expected}");
        }
        assert_eq!(metrics.cost.scored_tokens, (ROWS * (P + T)) as u64);
    }

    #[test]
    fn an_experience_is_checked_in_every_iteration() {
        let check = |method: &Ppo, experience: &Experience| method.check(experience, 3, &mut Metrics::default());
        let breaks = |name: &str, result: Result<()>| {
            assert!(
                matches!(&result, Err(Error::Invariant { name: actual, .. }) if *actual == name),
                "{name}: {result:?}"
            );
        };
        for iteration in [0, 1] {
            for normalization in [Normalization::Raw, Normalization::Scaled, Normalization::White] {
                let mut method = method(normalization);
                method.collector.iteration = iteration;
                let sound = experience(&method);
                let result = check(&method, &sound);
                assert!(result.is_ok(), "{normalization:?}: {result:?}");
                let paid_twice = Experience { rewards: sound.rewards.clone() * 2.0, ..sound.clone() };
                breaks("reward_enters_once", check(&method, &paid_twice));
                let unwhitened = check(&method, &Experience { advantages: sound.raw_advantages.clone(), ..sound });
                match normalization {
                    Normalization::White => breaks("advantages_are_white", unwhitened),
                    _ => assert!(unwhitened.is_ok()),
                }
            }
        }
    }

    /// GAE is worked out again in the first iteration; values that are no numbers make it none.
    #[test]
    fn gae_is_checked_in_the_first_iteration() {
        let mut method = method(Normalization::Raw);
        let sound = experience(&method);
        let broken = Experience { values: sound.values.clone() * f32::NAN, ..sound };
        let result = method.check(&broken, 0, &mut Metrics::default());
        assert!(matches!(&result, Err(Error::Diverged { what, .. }) if what.contains("GAE(1, 1)")), "{result:?}");
        method.collector.iteration = 1;
        assert!(method.check(&broken, 0, &mut Metrics::default()).is_ok());
    }
}
