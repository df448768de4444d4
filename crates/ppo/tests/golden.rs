//! Whole PPO updates over fixed rollouts against bare PyTorch and TRL, minibatch by minibatch.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use duel_model::{Checkpoint, Policy, ResponseReader, Responses, ScalarModel, TransformerConfig};
use duel_objectives::{
    Gae, PolicyGradientLoss, ResponseMask, clipped_value_loss, entropy, gae, k1, k2, k3, kl_shaped_rewards, whiten,
};
use duel_ppo::{ActorCritic, Critic, Experience, Rollout, shaped_rewards};
use duel_spec::{PpoSettings, RewardSettings, RewardSource, RolloutSettings};
use duel_testing::golden;
use duel_testing_tensors::{precision, trajectory};
use duel_training::{Learner, logprobs};
use golden::{Node, Topic, close, close_within, id_rows, numbers};
use precision::{F32, values};
use serde_json::Value;

/// What both variants start from.
struct Start {
    file: Topic,
    settings: PpoSettings,
    responses: Responses,
    reader: ResponseReader,
    policy: Policy,
    policy_config: TransformerConfig,
    critic: ScalarModel,
    critic_config: TransformerConfig,
}

/// `variant` is the one that the test reads, `others` the fields that it leaves to other tests.
fn start(variant: &str, others: &[&str]) -> Start {
    // entropies over all positions include logits after PAD, which depend on how PAD is read
    let file = golden::topic("ppo_steps.json").ignoring(&["entropy_over_all_positions"]);
    for other in file.items("variants").iter().filter(|v| v.text("name") != variant) {
        other.is_read_elsewhere();
    }
    others.iter().for_each(|key| file[*key].is_read_elsewhere());
    let hyper = &file["hyper"];
    let device = Device::flex().autodiff();
    let Checkpoint { config: policy_config, policy, .. } = trajectory::checkpoint(&file["policy_model"], &device);
    let Checkpoint { config: critic_config, policy: body, .. } = trajectory::checkpoint(&file["value_model"], &device);
    let head = numbers(&file["value_head_weight"]).into_iter().map(|x| x as f32).collect();
    let (pad, eos) = (file.number("pad_token_id") as u32, file.number("eos_token_id") as u32);
    let unpadded = |row: &Vec<u32>| row.iter().copied().skip_while(|&id| id == pad).collect();
    let ended = |row: &Vec<u32>| row[..row.iter().position(|&id| id == eos).map_or(row.len(), |i| i + 1)].to_vec();
    let responses = Responses {
        prompts: id_rows(&file["queries"]).iter().map(unpadded).collect(),
        responses: id_rows(&file["responses"]).iter().map(ended).collect(),
        logp: vec![],
        masks: vec![],
    };
    let number = |key: &str| hyper.number(key);
    assert_eq!(responses.len(), number("B") as usize);
    let space = trajectory::space(policy_config.vocabulary, [pad, eos], number("C") as usize, number("R") as usize);
    let defaults = PpoSettings::defaults();
    let shared = RolloutSettings {
        beta: number("kl_coef"),
        reward: RewardSettings::One(RewardSource::Gold),
        iterations: 1,
        episodes: responses.len(),
        epochs: number("epochs") as usize,
        minibatches: number("minibatches") as usize,
        learning_rate: number("lr"),
        clip_range: number("cliprange"),
        target_kl: f64::INFINITY,
        ..defaults.shared
    };
    let settings = PpoSettings {
        shared,
        value_clip_range: number("cliprange_value"),
        value_coef: number("vf_coef"),
        gamma: number("gamma"),
        lambda: number("lam"),
        ..defaults
    };
    let critic = ScalarModel::with_head(body, head, &device);
    let reader = ResponseReader::new(&space, &device);
    Start { settings, responses, reader, policy, policy_config, critic, critic_config, file }
}

impl Start {
    fn variant(&self, name: &str) -> &Node {
        self.file.items("variants").iter().find(|v| v.text("name") == name).unwrap()
    }

    /// The estimate of each token's KL in the file's reward, `[B, T]`.
    fn token_kl(&self) -> Tensor<2> {
        let (logp, ref_logp) = (self.list("old_logprobs"), self.list("reference_logprobs"));
        match self.file["hyper"].text("kl_estimator") {
            "k1" => k1(logp, ref_logp),
            "k2" => k2(logp, ref_logp),
            "k3" => k3(logp, ref_logp),
            other => panic!("an unknown estimator, `{other}`"),
        }
    }

    /// A `[B, T]` list of the file, without gradient.
    fn list(&self, key: &str) -> Tensor<2> {
        F32.tensor::<2>(&self.file[key]).inner()
    }

    fn scores(&self) -> Vec<f64> {
        numbers(&self.file["scores"])
    }

    /// Epoch, minibatch and its rows.
    fn minibatches(&self) -> Vec<(usize, usize, Vec<usize>)> {
        let size = self.responses.len() / self.settings.shared.minibatches;
        let order = id_rows(&self.file["hyper"]["order"]);
        assert_eq!(order.len(), self.settings.shared.epochs);
        let of_epoch = |(epoch, rows): (usize, &Vec<u32>)| {
            let batches = rows.chunks(size).take(self.settings.shared.minibatches).enumerate();
            batches.map(|(i, rows)| (epoch, i, rows.iter().map(|&r| r as usize).collect())).collect::<Vec<_>>()
        };
        order.iter().enumerate().flat_map(of_epoch).collect()
    }

    fn learner(&self, variant: &Node) -> Learner<ActorCritic> {
        let module = ActorCritic { actor: self.policy.clone(), critic: Critic::Separate(self.critic.clone()) };
        let adamw = trajectory::adamw(variant["max_grad_norm"].as_f64(), 0.0);
        Learner::new(module, &adamw, self.settings.shared.learning_rate, self.minibatches().len() as u64)
    }

    /// A minibatch's other statistics in the file: how far the actor is from the behavior policy.
    fn statistics(&self, actor: &Policy, rows: &[usize], mask: &ResponseMask) -> [(&'static str, f64); 5] {
        let tokens = self.reader.tokens(&self.responses.select(rows));
        let logits = self.reader.logits(actor, &tokens); // [b, T, V]
        let logp = duel_objectives::token_logp(logits.clone(), self.reader.targets(&tokens));
        let old = Tensor::from_inner(pick(&self.list("old_logprobs"), rows));
        let ones = mask.tensor();
        let (counted, all) = (first(ones.clone().sum()), ones.dims().iter().product::<usize>() as f64);
        let approximate = first(mask.mean(k2(logp.clone(), old.clone())));
        let ratio = first(mask.mean((logp - old).exp()));
        [
            ("approxkl", approximate),
            ("entropy", first(mask.mean(entropy(logits)))),
            ("ratio_mean", ratio),
            // both log-probs are the same on padding
            ("approxkl_over_all_positions", approximate * counted / all),
            ("ratio_over_all_positions", (ratio * counted + all - counted) / all),
        ]
    }

    fn same_norms(&self, name: &str, module: &ActorCritic, variant: &Node) {
        let (actor, critic) = (&variant["final_policy_norms"], &variant["final_value_norms"]);
        trajectory::same_norms(name, &module.actor, &self.policy_config, false, actor);
        let Critic::Separate(critic_now) = &module.critic else { panic!("a critic of its own") };
        trajectory::same_norms(name, critic_now, &self.critic_config, true, critic);
    }
}

fn critic_of(learner: &Learner<ActorCritic>) -> &ScalarModel {
    match &learner.module().critic {
        Critic::Separate(critic) => critic,
        Critic::Shared(_) => panic!("a critic of its own"),
    }
}

/// Rows of a `[B, T]`.
fn pick(x: &Tensor<2>, rows: &[usize]) -> Tensor<2> {
    let index: Vec<i32> = rows.iter().map(|&r| r as i32).collect();
    x.clone().select(0, Tensor::from_data(TensorData::new(index, [rows.len()]), &x.device()))
}

/// Compares a `[B, T]` with a list of the file, on counted tokens.
fn same(what: &str, actual: &Tensor<2>, expected: &Value, mask: &ResponseMask) {
    let expected = values(mask.apply(F32.tensor::<2>(expected).inner()));
    close(what, &values(mask.apply(actual.clone())), &expected, 1e-4);
}

fn first(x: Tensor<1>) -> f64 {
    values(x)[0]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Duel's own form: the score on the last counted token, one mask, one clip over both networks.
#[test]
fn golden_ppo_updates_minibatch_by_minibatch() {
    let start = start("last_token", &["trl_run"]);
    let variant = start.variant("last_token");
    let plain = ResponseReader::new(start.reader.space(), &Device::flex());
    let mask = logprobs::mask(&plain, &start.responses);
    for key in ["response_mask", "value_mask"] {
        assert_eq!(values(mask.tensor()), numbers(&variant[key]), "{key}");
    }
    let (actor, critic) = (start.policy.valid(), start.critic.valid());
    let logp = logprobs::response_logp(&plain, &actor, &start.responses);
    same("initial log-probs", &logp, &start.file["policy_logprobs_initial"], &mask);
    let critic_values = plain.values(&critic, &plain.tokens(&start.responses));
    same("initial values", &critic_values, &start.file["values_initial"], &mask);
    same("initial values, masked", &critic_values, &variant["values_initial_masked"], &mask);
    same("KL", &start.token_kl(), &variant["kl_per_token"], &mask);

    let rollout = Rollout {
        responses: start.responses.clone(),
        mask: mask.clone(),
        token_kl: start.token_kl(),
        logp: start.list("old_logprobs"),
        ref_logp: Some(start.list("reference_logprobs")),
        beta: start.settings.shared.beta,
        scores: start.scores(),
        components: vec![],
        token_rewards: None,
        token_weights: None,
        token_kl_coefs: None,
        entropy_coef: start.settings.shared.entropy_coef,
        reference_writes: false,
        reference: None,
    };
    let rewards = shaped_rewards(&start.settings, &rollout);
    let experience = Experience::new(&start.settings, rollout, rewards, critic_values);
    same("rewards", &experience.rewards, &variant["rewards"], &mask);
    same("advantages", &experience.raw_advantages, &variant["advantages_raw"], &mask);
    same("whitened advantages", &experience.advantages, &variant["advantages_whitened"], &mask);
    same("returns", &experience.returns, &variant["returns"], &mask);

    let mut learner = start.learner(variant);
    assert_eq!(start.minibatches().len(), variant.items("minibatches").len());
    for ((epoch, minibatch, rows), expected) in start.minibatches().iter().zip(variant.items("minibatches")) {
        assert_eq!([*epoch, *minibatch], ["epoch", "minibatch"].map(|key| expected.number(key) as usize));
        let counted = ResponseMask::from_tensor(Tensor::from_inner(pick(&mask.tensor(), rows)));
        for (key, actual) in start.statistics(&learner.module().actor, rows, &counted) {
            close(&format!("minibatch {rows:?}, {key}"), &[actual], &[expected.number(key)], 1e-4);
        }
        let (policy, value) = experience.losses(learner.module(), rows, &start.settings, &start.reader);
        let actual =
            [first(policy.loss.clone()), first(value.loss.clone()), first(policy.clip_share), first(value.clip_share)];
        let keys = ["policy_loss", "value_loss", "policy_clipfrac", "value_clipfrac"];
        for (key, actual) in keys.into_iter().zip(actual) {
            close(&format!("minibatch {rows:?}, {key}"), &[actual], &[expected.number(key)], 1e-4);
        }
        let update = learner.minimize(policy.loss + value.loss * start.settings.value_coef).unwrap();
        let actual = [update.loss, update.grad_norm];
        close(&format!("minibatch {rows:?}"), &actual, &["loss", "grad_norm"].map(|key| expected.number(key)), 1e-4);
    }
    start.same_norms("last_token", learner.module(), variant);
}

/// TRL's form, from the same equations: the score one token later where there is room, a wider mask for values.
/// The means that TRL reports of a rollout.
fn same_objective(start: &Start, expected: &golden::Node, mask: &ResponseMask, kl: &Tensor<2>, old_logp: &Tensor<2>) {
    let beta = start.settings.shared.beta;
    let (kl_mean, score) = (first(mask.row_sums(kl.clone()).mean()), mean(&start.scores()));
    let entropy_mean = first(mask.row_sums(old_logp.clone()).neg().mean());
    for (key, actual) in [
        ("mean_kl", kl_mean),
        ("mean_entropy", entropy_mean),
        ("mean_non_score_reward", -beta * kl_mean),
        ("mean_score", score),
        ("rlhf_reward", score - beta * kl_mean),
    ] {
        // TRL's are sums of differences in f32
        close_within(key, &[actual], &[expected.number(key)], 1e-5, 1e-5);
    }
}

#[test]
fn golden_ppo_updates_of_trl_minibatch_by_minibatch() {
    let start = start("trl", &["policy_logprobs_initial", "values_initial"]);
    let (variant, run) = (start.variant("trl"), &start.file["trl_run"]);
    let plain = ResponseReader::new(start.reader.space(), &Device::flex());
    let masked = |key: &str| ResponseMask::from_tensor(F32.tensor::<2>(&variant[key]).inner());
    let (mask, value_mask) = (masked("response_mask"), masked("value_mask"));
    let old_logp = start.list("old_logprobs");
    let old_values = value_mask.apply(plain.values(&start.critic.valid(), &plain.tokens(&start.responses)));
    same("initial values", &old_values, &variant["values_initial_masked"], &value_mask);

    let kl = start.token_kl();
    same("KL", &kl, &variant["kl_per_token"], &mask);
    same_objective(&start, &run["objective"], &mask, &kl, &old_logp);
    let scores: Vec<f32> = start.scores().iter().map(|&x| x as f32).collect();
    let scores = Tensor::<1>::from_data(scores.as_slice(), plain.device());
    let penalty = kl_shaped_rewards(scores.zeros_like(), kl, start.settings.shared.beta, &mask);
    let rewards = penalty + value_mask.last() * scores.unsqueeze_dim::<2>(1);
    same("rewards", &rewards, &variant["rewards"], &value_mask);
    let Gae { advantages, returns } =
        gae(rewards, old_values.clone(), start.settings.gamma, start.settings.lambda, &value_mask);
    same("advantages", &advantages, &variant["advantages_raw"], &value_mask);
    same("returns", &returns, &variant["returns"], &value_mask);
    let advantages = whiten(advantages, &mask);
    same("whitened advantages", &advantages, &variant["advantages_whitened"], &mask);
    same("TRL's whitened advantages", &advantages, &run["advantages_whitened"], &mask);

    let mut learner = start.learner(variant);
    let both = variant.items("minibatches").iter().zip(run.items("minibatches"));
    assert_eq!(start.minibatches().len(), both.len());
    for ((epoch, minibatch, rows), (expected, run)) in start.minibatches().iter().zip(both) {
        for source in [expected, run] {
            assert_eq!([*epoch, *minibatch], ["epoch", "minibatch"].map(|key| source.number(key) as usize));
        }
        let batch = start.responses.select(rows);
        let on = |x: &Tensor<2>| Tensor::from_inner(pick(x, rows));
        let on_device = |mask: &ResponseMask| ResponseMask::from_tensor(on(&mask.tensor()));
        let tokens = start.reader.tokens(&batch);
        let logits = start.reader.logits(&learner.module().actor, &tokens); // [b, T, V]
        let logp = duel_objectives::token_logp(logits, start.reader.targets(&tokens));
        let now = start.reader.values(critic_of(&learner), &tokens);
        let (clip, value_clip) = (start.settings.shared.clip_range, start.settings.value_clip_range);
        let policy =
            PolicyGradientLoss::clipped(clip).evaluate(logp.clone(), on(&old_logp), on(&advantages), &on_device(&mask));
        let value = clipped_value_loss(now, on(&old_values), on(&returns), value_clip, &on_device(&value_mask));
        let actual = [
            ("policy_loss", first(policy.loss.clone())),
            ("value_loss", first(value.loss.clone())),
            ("policy_clipfrac", first(policy.clip_share)),
            ("value_clipfrac", first(value.clip_share)),
        ];
        let statistics = start.statistics(&learner.module().actor, rows, &on_device(&mask));
        for (key, actual) in actual.into_iter().chain(statistics) {
            let what = format!("minibatch {rows:?}, {key}");
            close(&what, &[actual], &[expected.number(key)], 1e-4);
            if !run[key].is_null() {
                close(&format!("{what} by TRL"), &[actual], &[run.number(key)], 1e-4);
            }
        }
        let update = learner.minimize(policy.loss + value.loss * start.settings.value_coef).unwrap();
        let actual = [update.loss, update.grad_norm];
        close(&format!("minibatch {rows:?}"), &actual, &["loss", "grad_norm"].map(|key| expected.number(key)), 1e-4);
    }
    start.same_norms("trl", learner.module(), variant);
    start.same_norms("trl_run", learner.module(), run);
}
