//! Whole PPO updates over fixed rollouts against bare PyTorch and TRL, minibatch by minibatch.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../tests/golden.rs"]
mod golden;
#[path = "../../../tests/precision.rs"]
mod precision;
#[path = "../../../tests/trajectory.rs"]
mod trajectory;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use duel_model::{Policy, Reader, Responses, Scalar, TransformerConfig, huggingface::Checkpoint};
use duel_objectives::{
    Gae, ResponseMask, centre_and_scale, clipped_policy_loss, clipped_value_loss, entropy, gae, k1, k2,
    kl_shaped_rewards,
};
use duel_ppo::{ActorCritic, Critic, Experience, Rollout};
use duel_spec::{OnPolicy, Ppo, RewardSource};
use duel_training::{Learner, sft};
use golden::{close, id_rows, items, number, numbers};
use precision::{F32, values};
use serde_json::Value;

/// What both variants start from.
struct Start {
    file: Value,
    settings: Ppo,
    responses: Responses,
    reader: Reader,
    policy: Policy,
    policy_config: TransformerConfig,
    critic: Scalar,
    critic_config: TransformerConfig,
}

fn start() -> Start {
    let file = golden::read("ppo_steps.json");
    let hyper = &file["hyper"];
    let device = Device::flex().autodiff();
    let Checkpoint { config: policy_config, policy, .. } = trajectory::checkpoint(&file["policy_model"], &device);
    let Checkpoint { config: critic_config, policy: body, .. } = trajectory::checkpoint(&file["value_model"], &device);
    let head = numbers(&file["value_head_weight"]).into_iter().map(|x| x as f32).collect();
    let (pad, eos) = (number(&file, "pad_token_id") as u32, number(&file, "eos_token_id") as u32);
    let unpadded = |row: &Vec<u32>| row.iter().copied().skip_while(|&id| id == pad).collect();
    let ended = |row: &Vec<u32>| row[..row.iter().position(|&id| id == eos).map_or(row.len(), |i| i + 1)].to_vec();
    let responses = Responses {
        prompts: id_rows(&file["queries"]).iter().map(unpadded).collect(),
        responses: id_rows(&file["responses"]).iter().map(ended).collect(),
        logp: vec![],
    };
    let of = |key: &str| number(hyper, key);
    let space = trajectory::space(policy_config.vocabulary, of("C") as usize, of("R") as usize);
    let defaults = Ppo::defaults();
    let shared = OnPolicy {
        beta: of("kl_coef"),
        reward: RewardSource::Gold,
        iterations: 1,
        episodes: responses.len(),
        epochs: of("epochs") as usize,
        minibatches: of("minibatches") as usize,
        learning_rate: of("lr"),
        clip_range: of("cliprange"),
        target_kl: f64::INFINITY,
        ..defaults.shared
    };
    let settings = Ppo {
        shared,
        value_clip_range: of("cliprange_value"),
        value_coef: of("vf_coef"),
        gamma: of("gamma"),
        lambda: of("lam"),
        ..defaults
    };
    let critic = Scalar::with_head(body, head, &device);
    let reader = Reader::new(&space, &device);
    Start { settings, responses, reader, policy, policy_config, critic, critic_config, file }
}

impl Start {
    fn variant(&self, name: &str) -> Value {
        items(&self.file, "variants").iter().find(|v| v["name"] == name).unwrap().clone()
    }

    /// A `[B, T]` list of the file, without gradient.
    fn given(&self, key: &str) -> Tensor<2> {
        F32.tensor::<2>(&self.file[key]).inner()
    }

    fn scores(&self) -> Vec<f64> {
        numbers(&self.file["scores"])
    }

    /// Rows of each minibatch, epoch by epoch.
    fn minibatches(&self) -> Vec<Vec<usize>> {
        let size = self.responses.len() / self.settings.shared.minibatches;
        let order = id_rows(&self.file["hyper"]["order"]);
        order.concat().chunks(size).map(|rows| rows.iter().map(|&r| r as usize).collect()).collect()
    }

    fn learner(&self, variant: &Value) -> Learner<ActorCritic> {
        let module = ActorCritic { actor: self.policy.clone(), critic: Critic::Separate(self.critic.clone()) };
        let adamw = trajectory::adamw(variant["max_grad_norm"].as_f64());
        Learner::new(module, &adamw, self.settings.shared.learning_rate, self.minibatches().len() as u64)
    }

    fn same_norms(&self, name: &str, module: &ActorCritic, variant: &Value) {
        let (actor, critic) = (&variant["final_policy_norms"], &variant["final_value_norms"]);
        trajectory::same_norms(name, &module.actor, &self.policy_config, false, actor);
        let Critic::Separate(critic_now) = &module.critic else { panic!("a critic of its own") };
        trajectory::same_norms(name, critic_now, &self.critic_config, true, critic);
    }
}

fn critic_of(learner: &Learner<ActorCritic>) -> &Scalar {
    match &learner.module().critic {
        Critic::Separate(critic) => critic,
        Critic::Shared(_) => panic!("a critic of its own"),
    }
}

/// Rows of some `[B, T]`.
fn pick(x: &Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let index: Vec<i32> = rows.iter().map(|&r| r as i32).collect();
    x.clone().select(0, Tensor::from_data(TensorData::new(index, [rows.len()]), &x.device()))
}

/// A found `[B, T]` against a list of the file, on counted tokens.
fn same(what: &str, found: &Tensor<2>, expected: &Value, mask: &ResponseMask) {
    let expected = values(mask.apply(F32.tensor::<2>(expected).inner()));
    close(what, &values(mask.apply(found.clone())), &expected, 1e-4);
}

fn first(x: Tensor<1>) -> f64 {
    values(x)[0]
}

/// Duel's own form: the score on the last counted token, one mask, one clip over both networks.
#[test]
fn golden_ppo_updates_minibatch_by_minibatch() {
    let start = start();
    let variant = start.variant("last_token");
    let plain = Reader::new(start.reader.space(), &Device::flex());
    let mask = sft::mask(&plain, &start.responses);
    let (actor, critic) = (start.policy.valid(), start.critic.valid());
    let logp = sft::response_logp(&plain, &actor, &start.responses);
    same("initial log-probs", &logp, &start.file["policy_logprobs_initial"], &mask);
    let values = plain.values(&critic, &plain.tokens(&start.responses));
    same("initial values", &values, &start.file["values_initial"], &mask);

    let rollout = Rollout {
        responses: start.responses.clone(),
        mask: mask.clone(),
        token_kl: k1(start.given("old_logprobs"), start.given("reference_logprobs")),
        logp: start.given("old_logprobs"),
        ref_logp: start.given("reference_logprobs"),
        beta: start.settings.shared.beta,
        scores: start.scores(),
        reference: None,
    };
    let experience = Experience::new(rollout, values, &start.settings);
    same("rewards", &experience.rewards, &variant["rewards"], &mask);
    same("advantages", &experience.raw_advantages, &variant["advantages_raw"], &mask);
    same("whitened advantages", &experience.advantages, &variant["advantages_whitened"], &mask);
    same("returns", &experience.returns, &variant["returns"], &mask);

    let mut learner = start.learner(&variant);
    for (rows, expected) in start.minibatches().iter().zip(items(&variant, "minibatches")) {
        let (policy, value) = experience.losses(learner.module(), rows, &start.settings, &start.reader);
        let found =
            [first(policy.loss.clone()), first(value.loss.clone()), first(policy.clip_share), first(value.clip_share)];
        let keys = ["policy_loss", "value_loss", "policy_clipfrac", "value_clipfrac"];
        for (key, found) in keys.into_iter().zip(found) {
            close(&format!("minibatch {rows:?}, {key}"), &[found], &[number(expected, key)], 1e-4);
        }
        let update = learner.minimize(policy.loss + value.loss * start.settings.value_coef).unwrap();
        let found = [update.loss, update.grad_norm];
        close(&format!("minibatch {rows:?}"), &found, &["loss", "grad_norm"].map(|key| number(expected, key)), 1e-4);
    }
    start.same_norms("last_token", learner.module(), &variant);
}

/// TRL's form, from the same equations: the score one token later where there is room, a wider mask for values.
#[test]
fn golden_ppo_updates_of_trl_minibatch_by_minibatch() {
    let start = start();
    let variant = start.variant("trl");
    let plain = Reader::new(start.reader.space(), &Device::flex());
    let masked = |key: &str| ResponseMask::from_tensor(F32.tensor::<2>(&variant[key]).inner());
    let (mask, value_mask) = (masked("response_mask"), masked("value_mask"));
    let (old_logp, ref_logp) = (start.given("old_logprobs"), start.given("reference_logprobs"));
    let old_values = value_mask.apply(plain.values(&start.critic.valid(), &plain.tokens(&start.responses)));
    same("initial values", &old_values, &variant["values_initial_masked"], &value_mask);

    let kl = k1(old_logp.clone(), ref_logp);
    same("KL", &kl, &variant["kl_per_token"], &mask);
    let scores: Vec<f32> = start.scores().iter().map(|&x| x as f32).collect();
    let scores = Tensor::<1>::from_data(scores.as_slice(), plain.device());
    let toll = kl_shaped_rewards(scores.zeros_like(), kl, start.settings.shared.beta, &mask);
    let rewards = toll + value_mask.last() * scores.unsqueeze_dim::<2>(1);
    same("rewards", &rewards, &variant["rewards"], &value_mask);
    let Gae { advantages, returns } =
        gae(rewards, old_values.clone(), start.settings.gamma, start.settings.lambda, &value_mask);
    same("advantages", &advantages, &variant["advantages_raw"], &value_mask);
    same("returns", &returns, &variant["returns"], &value_mask);
    let advantages = centre_and_scale(advantages, &mask);
    same("whitened advantages", &advantages, &variant["advantages_whitened"], &mask);

    let mut learner = start.learner(&variant);
    for (rows, expected) in start.minibatches().iter().zip(items(&variant, "minibatches")) {
        let batch = start.responses.select(rows);
        let on = |x: &Tensor<2>| Tensor::from_inner(pick(x, rows));
        let of = |mask: &ResponseMask| ResponseMask::from_tensor(on(&mask.tensor()));
        let tokens = start.reader.tokens(&batch);
        let logits = start.reader.logits(&learner.module().actor, &tokens); // [b, T, V]
        let logp = duel_objectives::token_logp(logits.clone(), start.reader.targets(&tokens));
        let now = start.reader.values(critic_of(&learner), &tokens);
        let (clip, value_clip) = (start.settings.shared.clip_range, start.settings.value_clip_range);
        let policy = clipped_policy_loss(logp.clone(), on(&old_logp), on(&advantages), clip, &of(&mask));
        let value = clipped_value_loss(now, on(&old_values), on(&returns), value_clip, &of(&value_mask));
        let found = [
            ("policy_loss", first(policy.loss.clone())),
            ("value_loss", first(value.loss.clone())),
            ("policy_clipfrac", first(policy.clip_share)),
            ("value_clipfrac", first(value.clip_share)),
            ("approxkl", first(of(&mask).mean(k2(logp, on(&old_logp))))),
            ("entropy", first(of(&mask).mean(entropy(logits)))),
        ];
        for (key, found) in found {
            close(&format!("minibatch {rows:?}, {key}"), &[found], &[number(expected, key)], 1e-4);
        }
        let update = learner.minimize(policy.loss + value.loss * start.settings.value_coef).unwrap();
        let found = [update.loss, update.grad_norm];
        close(&format!("minibatch {rows:?}"), &found, &["loss", "grad_norm"].map(|key| number(expected, key)), 1e-4);
    }
    start.same_norms("trl", learner.module(), &variant);
}
