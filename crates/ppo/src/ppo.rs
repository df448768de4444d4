//! Proximal policy optimisation against a scorer, with a KL toll. Schulman et al. 2017, eq. 7.
//!
//! Deviations from the paper: a KL toll in the reward (Stiennon et al. 2020, §3.3); advantages whitened
//! per rollout, an update stopped when k3 passes `target_kl`, the value clipped too (Huang et al. 2024);
//! temperature 1, so sampled and trained log-probs agree; the score lands on the last counted token, so
//! one mask serves both losses; actor and critic are separate networks under one optimizer.

use crate::invariants;
use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use duel_model::{Flops, Policy, Reader, Responses, Scalar, TransformerConfig, generate, weights::host};
use duel_objectives::{
    Gae, PolicyLoss, ResponseMask, ValueLoss, centre_and_scale, clipped_policy_loss, clipped_value_loss, gae, k1,
    kl_shaped_rewards,
};
use duel_reward::Scorer;
use duel_spec::{Ppo as Settings, metrics, seeds};
use duel_training::invariants as always;
use duel_training::{Learner, Method, Metrics, Result, pairs::shuffled_batches, sft};
use std::collections::HashSet;
use std::sync::Arc;

/// What PPO trains: the policy and the value model.
#[derive(Module, Debug)]
pub struct ActorCritic {
    pub actor: Policy,
    pub critic: Scalar,
}

/// What PPO is given and never changes.
pub struct Setting {
    /// The frozen SFT policy, without gradient.
    pub reference: Policy,
    /// Whose score is climbed.
    pub scorer: Arc<dyn Scorer>,
    /// Reads without gradient.
    pub reader: Reader,
    /// Reads on the autodiff device.
    pub train_reader: Reader,
    pub config: TransformerConfig,
    /// FLOPs of the scorer's forward pass over a token: 0 for gold.
    pub scorer_flops: f64,
    pub seed: u64,
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Setting(seed {})", self.seed)
    }
}

/// The method.
#[derive(Debug)]
pub struct Ppo {
    settings: Settings,
    given: Setting,
    iteration: u64,
}

/// What the old policy and its judges said of a rollout, `[B, T]` each, without gradient.
#[derive(Debug, Clone)]
pub struct Rollout {
    pub responses: Responses,
    pub mask: ResponseMask,
    /// Log-probs under the policy that wrote the responses.
    pub logp: Tensor<2>,
    pub ref_logp: Tensor<2>,
    pub values: Tensor<2>,
    /// One a response, `[B]`.
    pub scores: Vec<f64>,
}

/// A rollout with all that the updates need, `[B, T]` each, without gradient.
#[derive(Debug, Clone)]
pub struct Experience {
    rollout: Rollout,
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
    pub fn new(rollout: Rollout, settings: &Settings) -> Self {
        let Rollout { mask, logp, ref_logp, values, scores, .. } = &rollout;
        // 2. Shape the reward: a KL toll on every token, the score on the last.
        let scores: Vec<f32> = scores.iter().map(|&x| x as f32).collect();
        let scores = Tensor::<1>::from_data(scores.as_slice(), &logp.device());
        let rewards = kl_shaped_rewards(scores, k1(logp.clone(), ref_logp.clone()), settings.beta, mask); // [B, T]

        // 3. Credit: how much better than expected was each token?
        let Gae { advantages, returns } = gae(rewards.clone(), values.clone(), settings.gamma, settings.lambda, mask);
        let white = centre_and_scale(advantages.clone(), mask);
        Self { rollout, rewards, raw_advantages: advantages, advantages: white, returns }
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
        let value = clipped_value_loss(values, of(&self.rollout.values), returns, settings.value_clip_range, &mask);
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

    /// Rows of the minibatches of one epoch.
    fn minibatches(&self, rows: usize, rng: &mut seeds::Rng) -> Vec<Vec<usize>> {
        shuffled_batches(rows, rows / self.settings.minibatches, rng)
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
        let reader = &given.reader;
        // 1. Roll out with a snapshot of actor and critic.
        let old = learner.module().valid();
        let mut rng = seeds::derive(given.seed, "ppo", self.iteration, "rollout");
        let responses = generate(&old.actor, reader.space(), prompts.to_vec(), &mut rng, reader.device());
        let mask = sft::mask(reader, &responses); // [B, T]
        // read as the first epoch will, in its minibatches: the same arithmetic, so the ratios start at 1 to the last
        // bit. Where the device has no log-probs of its own, the training module reads: autodiff composes its softmax.
        let (now, train_reader) = (learner.module(), &given.train_reader);
        let read = |block: &Responses| {
            let fused = reader.chosen_logp(&old.actor, &reader.tokens(block));
            fused.unwrap_or_else(|| sft::response_logp(train_reader, &now.actor, block).inner())
        };
        let logp = in_blocks(&responses, first_epoch, read); // [B, T]
        let ref_logp = sft::response_logp(reader, &given.reference, &responses); // [B, T]
        let values = in_blocks(&responses, first_epoch, |block| reader.values(&old.critic, &reader.tokens(block))); // [B, T]
        let scores = given.scorer.score(&responses).map_err(unscored)?; // [B]
        let columns = reader.space().response_tokens;
        said.check(|| {
            if self.iteration == 0 {
                always::eos_counts_and_pad_does_not(step, reader, &responses)?;
                always::reads_are_sound(step, train_reader, &now.actor, &responses)?;
            }
            invariants::sampled_logp_is_the_policys(step, &responses.logp, &host(logp.clone()), columns)
        })?;
        let token_kl = k1(logp.clone(), ref_logp.clone()); // [B, T]
        let kl = host(mask.row_sums(token_kl.clone())); // [B]

        // 2. and 3. Reward and credit.
        let experience = Experience::new(Rollout { responses, mask, logp, ref_logp, values, scores }, s);
        let Experience { rollout, rewards, raw_advantages, advantages, returns } = &experience;
        let Rollout { responses, mask, logp, values, scores, .. } = rollout;
        let advantage_sd = variance(raw_advantages, mask).sqrt();
        said.check(|| {
            invariants::reward_enters_once(step, rewards, scores, &host(token_kl), s.beta, &responses.lengths())?;
            if self.iteration == 0 {
                invariants::gae_at_one_is_return_minus_value(step, rewards, values, mask)?;
            }
            invariants::advantages_are_white(step, advantages, advantage_sd, mask)
        })?;

        let n = responses.len() as f64;
        let mean_kl = kl.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let mean_score = scores.iter().sum::<f64>() / n;
        let distinct: HashSet<_> = responses.prompts.iter().zip(&responses.responses).collect();
        let unended = (0..responses.len()).filter(|&row| !responses.ended(row, reader.space())).count();
        said.put(metrics::ROLLOUT_PROXY, mean_score);
        said.put(metrics::ROLLOUT_KL, mean_kl);
        said.put(metrics::ROLLOUT_RETURN, mean_score - s.beta * mean_kl);
        said.put(metrics::ROLLOUT_LENGTH, responses.response_tokens() as f64 / n);
        said.put(metrics::ROLLOUT_ENTROPY, -f64::from(host(mask.mean(logp.clone()))[0]));
        said.put(metrics::ROLLOUT_UNENDED, unended as f64 / n);
        said.put(metrics::ROLLOUT_UNIQUE, distinct.len() as f64 / n);
        said.put(metrics::ADVANTAGE_SD, advantage_sd);
        let unexplained = variance(&(returns.clone() - values.clone()), mask) / variance(returns, mask).max(1e-12);
        said.put(metrics::EXPLAINED_VARIANCE, 1.0 - unexplained);

        // Generate, old log-probs, reference, value and score passes: one forward each (claims §4.4).
        let tokens = responses.token_count();
        let (policy, critic) = (Flops::policy(&given.config), Flops::scalar(&given.config));
        said.cost.sampled_tokens = responses.response_tokens();
        said.cost.scored_tokens = tokens * if given.scorer_flops > 0.0 { 4 } else { 3 };
        said.cost.flops = 3.0 * policy.forward(tokens) + critic.forward(tokens) + given.scorer_flops * tokens as f64;
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
        let first_epoch = self.minibatches(prompts.len(), &mut rng);
        let experience = self.experience(prompts, &first_epoch, learner, &mut said)?;
        let (s, reader) = (&self.settings, &self.given.train_reader);
        let per_token = Flops::policy(&self.given.config).train(1) + Flops::scalar(&self.given.config).train(1);

        // 4. Improve, staying near the policy that wrote the responses.
        let mut sums = Sums::default();
        'update: for epoch in 0..s.epochs {
            let batches = if epoch == 0 { first_epoch.clone() } else { self.minibatches(prompts.len(), &mut rng) };
            for (i, rows) in batches.into_iter().enumerate() {
                let (policy, value) = experience.losses(learner.module(), &rows, s, reader);
                let first = |x: Tensor<1>| f64::from(host(x.inner())[0]);
                let (clip_share, kl) = (first(policy.clip_share), first(policy.kl));
                if epoch == 0 && i == 0 {
                    invariants::first_ratio_is_one(learner.step(), first(policy.ratio_deviation), clip_share)?;
                }
                if learner.step() == 0 {
                    said.check(|| {
                        always::parts_make_the_same_gradient(learner, rows.len(), |part| {
                            let rows: Vec<usize> = part.iter().map(|&i| rows[i]).collect();
                            let (policy, value) = experience.losses(learner.module(), &rows, s, reader);
                            let tokens = experience.rollout.responses.select(&rows).response_tokens();
                            (policy.loss + value.loss * s.value_coef, tokens as f64)
                        })
                    })?;
                }
                if kl > s.target_kl {
                    learner.skip((s.epochs * s.minibatches) as u64 - sums.updates as u64);
                    break 'update;
                }
                let value_loss = first(value.loss.clone());
                let update = learner.minimize(policy.loss + value.loss * s.value_coef)?;
                sums.add(&update, value_loss, clip_share, kl, first(policy.ratio_max));
                let tokens = experience.rollout.responses.select(&rows).token_count();
                said.cost.trained_tokens += tokens;
                said.cost.flops += per_token * tokens as f64;
            }
        }
        sums.into_metrics((s.epochs * s.minibatches) as f64, &mut said);
        self.iteration += 1;
        Ok(said)
    }
}

/// What the minibatches of an iteration add up to.
#[derive(Default)]
struct Sums {
    updates: f64,
    loss: f64,
    grad_norm: f64,
    update_ratio: f64,
    learning_rate: f64,
    value_loss: f64,
    clip_share: f64,
    kl: f64,
    ratio_max: f64,
}

impl Sums {
    fn add(&mut self, update: &duel_training::Update, value_loss: f64, clip_share: f64, kl: f64, ratio_max: f64) {
        self.updates += 1.0;
        self.loss += update.loss;
        self.grad_norm += update.grad_norm;
        self.update_ratio += update.update_ratio;
        self.learning_rate = update.learning_rate;
        self.value_loss += value_loss;
        self.clip_share += clip_share;
        self.kl = kl;
        self.ratio_max = self.ratio_max.max(ratio_max);
    }

    fn into_metrics(self, planned: f64, said: &mut Metrics) {
        let n = self.updates.max(1.0);
        said.put(metrics::LOSS, self.loss / n);
        said.put(metrics::GRAD_NORM, self.grad_norm / n);
        said.put(metrics::UPDATE_RATIO, self.update_ratio / n);
        said.put(metrics::LEARNING_RATE, self.learning_rate);
        said.put(metrics::VALUE_LOSS, self.value_loss / n);
        said.put(metrics::CLIP_SHARE, self.clip_share / n);
        said.put(metrics::KL_STEP, self.kl);
        said.put(metrics::RATIO_MAX, self.ratio_max);
        said.put(metrics::UPDATES_SKIPPED, 1.0 - self.updates / planned);
    }
}

/// What `read` gives of each block of rows (and of those in none), in the order of the rollout.
fn in_blocks(rollout: &Responses, blocks: &[Vec<usize>], read: impl Fn(&Responses) -> Tensor<2>) -> Tensor<2> {
    let taken: HashSet<usize> = blocks.iter().flatten().copied().collect();
    let rest: Vec<usize> = (0..rollout.len()).filter(|row| !taken.contains(row)).collect();
    let blocks = || blocks.iter().chain(std::iter::once(&rest)).filter(|rows| !rows.is_empty());
    let shuffled = Tensor::cat(blocks().map(|rows| read(&rollout.select(rows))).collect(), 0); // [B, T]
    let mut place = vec![0; rollout.len()];
    blocks().flatten().enumerate().for_each(|(at, &row)| place[row] = at);
    shuffled.clone().select(0, index(&place, &shuffled))
}

fn index(rows: &[usize], like: &Tensor<2>) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|&r| r as i32).collect();
    let n = rows.len();
    Tensor::from_data(TensorData::new(rows, [n]), &like.device())
}

/// Variance over counted tokens.
fn variance(x: &Tensor<2>, mask: &ResponseMask) -> f64 {
    let mean = mask.mean(x.clone()).unsqueeze::<2>();
    f64::from(host(mask.mean((x.clone() - mean).square()))[0])
}

/// A scorer's failure as a training's: only training errors pass through; a judge's own is named.
fn unscored(error: duel_reward::Error) -> duel_training::Error {
    match error {
        duel_reward::Error::Training(error) => error,
        duel_reward::Error::Model(error) => error.into(),
        duel_reward::Error::Data(error) => error.into(),
        judge @ duel_reward::Error::Judge { .. } => duel_training::invariants::breach(
            "scorer_answers",
            0,
            "the scorer",
            judge.to_string(),
            "a score a response".into(),
        ),
    }
}
