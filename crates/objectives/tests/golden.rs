//! The equations against independent libraries, in both precisions: f32 within 1e-5, f64 within 1e-10.

use burn::tensor::{DType, Tensor};
use duel_objectives::*;
use duel_testing::golden;
use duel_testing_tensors::precision;
use golden::{Node, close, close_within, ids, numbers};
use precision::{F32, F64, TestPrecision, values};

/// Runs a check in f32 and in f64.
fn in_both(check: impl Fn(TestPrecision)) {
    [F32, F64].into_iter().for_each(check);
}

/// The one number of `[1]`.
fn first(x: Tensor<1>) -> f64 {
    values(x)[0]
}

#[test]
fn golden_logprobs_and_entropies() {
    let file = golden::topic("logprobs.json");
    let cases = file.items("cases");
    in_both(|p| {
        for (i, case) in cases.iter().enumerate() {
            let logits = match case["logits_of_case"].as_u64() {
                Some(source) => &cases[source as usize]["logits"],
                None => &case["logits"],
            };
            assert!(case["logits_of_case"].is_null() || case["logits"].is_null(), "{i}: two sets of logits");
            let shape: Vec<u32> = golden::shape(logits).into_iter().map(|n| n as u32).collect();
            assert_eq!(shape, ids(&case["shape"]), "{i}");
            let temperature = case.number("temperature");
            let largest = numbers(logits).into_iter().map(f64::abs).fold(0.0, f64::max) / temperature;
            let tokens = p.ids::<2>(&case["token_ids"]);
            let l = tokens.dims()[1];
            let leaf = p.tensor::<3>(logits).require_grad();
            let scaled = leaf.clone().narrow(1, 0, l - 1) / temperature;
            let logp = token_logp(scaled.clone(), tokens.narrow(1, 1, l - 1));
            p.values(&format!("logp {i}"), logp.clone(), &case["token_logprob"]);
            let entropies = entropy(scaled);
            p.entropies(&format!("entropy {i}"), entropies.clone(), &case["token_entropy"], largest);
            let (all, real) = (p.tensor::<2>(&case["response_mask"]), p.tensor::<2>(&case["attention_mask"]));
            assert_eq!(first((all.clone() - real).clamp_min(0.0).sum()), 0.0, "{i}: padding counts");
            let mask = ResponseMask::from_tensor(all.narrow(1, 1, l - 1));
            let sums = mask.row_sums(logp.clone());
            p.values(&format!("sums {i}"), sums.clone(), &case["sequence_logprob_sum"]);
            p.values(&format!("lengths {i}"), mask.lengths(), &case["response_length"]);
            p.values(&format!("means {i}"), sums / mask.lengths(), &case["sequence_logprob_mean"]);
            p.values(&format!("nll {i}"), mask.mean(logp.clone()).neg(), &case["nll_token_mean"]);
            let mean = mask.mean(entropies);
            let expected = &case["mean_entropy_over_response_tokens"];
            p.entropies(&format!("mean entropy {i}"), mean, expected, largest);
            if !case["grad_logits_of_sum"].is_null() {
                let grads = mask.row_sums(logp).sum().backward();
                p.gradient(&format!("logits {i}"), leaf.grad(&grads), &case["grad_logits_of_sum"]);
            }
            if !case["grad_logits_of_mean_entropy"].is_null() {
                // its own graph: each is differentiated once
                let scaled = leaf.clone().narrow(1, 0, l - 1) / temperature;
                let grads = mask.mean(entropy(scaled)).sum().backward();
                let expected = &case["grad_logits_of_mean_entropy"];
                p.gradient(&format!("logits {i}, by the entropy"), leaf.grad(&grads), expected);
            }
        }
    });
}

/// A loss's parameter from those of a case.
trait Parameter {
    fn read(params: &Node, name: &str) -> Self;
}

impl Parameter for f64 {
    fn read(params: &Node, name: &str) -> f64 {
        match name {
            "label_smoothing" => params[name].as_f64().unwrap_or(0.0),
            _ => params.number(name),
        }
    }
}

impl Parameter for KtoWeights {
    fn read(params: &Node, _: &str) -> Self {
        let (desirable, undesirable) = (params.number("desirable_weight"), params.number("undesirable_weight"));
        Self { desirable, undesirable }
    }
}

/// For each entry: its names in the golden file, and how it is made from a case's parameters.
macro_rules! pair_losses {
    ($(
        $variant:ident $({ $($field:ident: $type:ty),* })?
        $(experiment $word:literal $entry:tt $(from $from:tt)?)?
        golden [$($golden:literal),*]
        $(properties $properties:tt)?
        loss $loss:tt
    )*) => {
        /// The names of all losses that have golden values.
        const NAMES: &[&str] = &[$($($golden,)*)*];

        /// The loss of a golden case, by the name that the libraries give it.
        fn kind(name: &str, params: &Node) -> PreferenceLoss {
            $(
                let names: &[&str] = &[$($golden),*];
                if names.contains(&name) {
                    return PreferenceLoss::$variant { $($($field: Parameter::read(params, stringify!($field))),*)? };
                }
            )*
            panic!("no entry of pair_losses.rs has the golden name `{name}`")
        }
    };
}
include!("../src/pair_losses.rs");

/// Checks the file's values of a case other than losses, rewards and gradients.
fn check_parts(what: &str, p: TestPrecision, case: &Node, name: &str, pairs: &PairLogp, outcome: &PreferenceOutcome) {
    let same = |key: &str, actual: f64| close(&format!("{key} of {what}"), &[actual], &[case.number(key)], p.value);
    let at_least_0 = |x: Tensor<1>| first(x.mean()).max(0.0);
    match name {
        "kto_pair" => {
            let ratios = pairs.log_ratios();
            same("kl_chosen", at_least_0(ratios.chosen));
            same("kl_rejected", at_least_0(ratios.rejected));
        }
        "bco_pair_with_delta" => {
            let beta = case["params"].number("beta");
            let largest = values(pairs.log_ratios().chosen).into_iter().map(f64::abs).fold(0.0, f64::max);
            let (actual, expected) = (first(pairs.mean_reward(beta)), case["params"].number("delta"));
            close_within(
                &format!("delta of {what}"),
                &[actual],
                &[expected],
                p.value,
                4.0 * p.epsilon * beta * largest,
            );
        }
        "orpo" => {
            same("nll", first(chosen_nll(pairs)));
            let beta = case["params"].number("beta");
            let scores: Vec<f64> = values(outcome.losses.clone()).into_iter().map(|x| x / beta).collect(); // log σ(log odds)
            let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
            same("mean_log_sigmoid", mean(&scores));
            let log_odds: Vec<f64> = scores.iter().map(|l| -(-l).exp_m1().ln()).collect();
            let expected = case.number("mean_log_odds");
            if p.dtype == DType::F64 {
                close(&format!("log odds of {what}"), &[mean(&log_odds)], &[expected], 1e-7); // ill-conditioned near σ = 1
            }
        }
        _ => {}
    }
}

/// The outcome of a case's loss, with the terms that the libraries add to it.
fn golden_outcome(
    what: &str,
    p: TestPrecision,
    case: &Node,
    inputs: &Node,
    loss: &PreferenceLoss,
    pairs: &PairLogp,
) -> PreferenceOutcome {
    let (params, column) = (&case["params"], |key: &str| p.tensor::<1>(&inputs[key]));
    let beta = params.number("beta");
    let mut outcome = if let PreferenceLoss::Kto { weights } = *loss {
        let kl = (column("policy_kl_logps") - column("reference_kl_logps")).mean();
        let largest = numbers(&inputs["policy_kl_logps"]).into_iter().map(f64::abs).fold(0.0, f64::max);
        let (actual, expected) = (first(kl.clone()).max(0.0), case.number("kl").max(0.0));
        close_within(what, &[actual], &[expected], p.value, 4.0 * p.epsilon * largest); // a difference of log-probs
        kto_loss(pairs.log_ratios(), kl, weights, beta)
    } else {
        preference_loss(loss, pairs, beta)
    };
    match case.text("name") {
        "rpo_batch_nll" => {
            let weights = numbers(&params["weights"]); // of the preference loss and of the NLL
            outcome.loss = outcome.loss * weights[0] + chosen_nll(pairs) * weights[1];
        }
        "rpo_sequence_nll" => {
            let alpha = params.number("alpha");
            let each = pairs.policy.chosen.clone().neg() / pairs.lengths.chosen.clone();
            outcome.losses = outcome.losses + each * alpha;
            outcome.loss = outcome.loss + chosen_sequence_nll(pairs) * alpha;
        }
        "orpo" => outcome.losses = outcome.losses.neg(), // TRL reports the term that it subtracts
        _ => {}
    }
    outcome
}

#[test]
fn golden_preference_losses_with_gradients() {
    let file = golden::topic("preference_losses.json");
    for name in NAMES {
        assert!(file.items("cases").iter().any(|case| case.text("name") == *name), "no golden case is of `{name}`");
    }
    in_both(|p| {
        for case in file.items("cases") {
            let (name, set) = (case.text("name"), case.text("inputs"));
            let (params, inputs) = (&case["params"], &file["inputs"][set]);
            let divergence = match name {
                "sigmoid_forward_kl" => Some("forward_kl"),
                "sigmoid_js_divergence" => Some("js_divergence"),
                _ => None,
            };
            assert_eq!(params["f_div"].as_str(), divergence, "{name}");
            let loss = kind(name, params);
            let beta = params.number("beta");
            let what = format!("{name}, {set}, beta {beta}");
            let column = |key: &str| p.tensor::<1>(&inputs[key]);
            let both = |key: &str| ChosenRejected {
                chosen: column(&key.replace("SIDE", "chosen")),
                rejected: column(&key.replace("SIDE", "rejected")),
            };
            let policy = both("policy_SIDE_logps").map(Tensor::require_grad);
            let pairs = PairLogp::new(policy.clone(), both("reference_SIDE_logps"), both("SIDE_lengths"));
            let delta = params["delta"].as_f64();
            let reward_shift = delta.map(|delta| pairs.lengths.chosen.clone().narrow(0, 0, 1) * 0.0 + delta); // [1]
            let pairs = PairLogp { reward_shift, ..pairs };
            let outcome = golden_outcome(&what, p, case, inputs, &loss, &pairs);
            check_parts(&what, p, case, name, &pairs, &outcome);
            p.values(&format!("loss of {what}"), outcome.loss.clone(), &case["loss"]);
            if !case["losses"].is_null() {
                p.values(&format!("losses of {what}"), outcome.losses.clone(), &case["losses"]);
            }
            p.values(&format!("chosen rewards of {what}"), outcome.rewards.chosen.clone(), &case["chosen_rewards"]);
            p.values(
                &format!("rejected rewards of {what}"),
                outcome.rewards.rejected.clone(),
                &case["rejected_rewards"],
            );
            let margins = values(outcome.margins());
            p.values(&format!("margins of {what}"), outcome.margins(), &case["margins"]);
            let correct = margins.iter().filter(|&&margin| margin > 0.0).count() as f64 / margins.len() as f64; // ties are wrong
            assert_eq!(correct, case.number("accuracy"), "accuracy of {what}");
            let grads = outcome.loss.backward();
            p.gradient(&format!("{what}, chosen"), policy.chosen.grad(&grads), &case["grad_policy_chosen"]);
            p.gradient(&format!("{what}, rejected"), policy.rejected.grad(&grads), &case["grad_policy_rejected"]);
        }
    });
}

#[test]
fn golden_reward_model_loss() {
    let file = golden::topic("reward_model.json");
    in_both(|p| {
        for (i, case) in file.items("cases").iter().enumerate() {
            let what = |part: &str| format!("{part}, case {i} ({})", case.text("inputs"));
            let scores = ChosenRejected {
                chosen: p.tensor::<1>(&case["rewards_chosen"]).require_grad(),
                rejected: p.tensor::<1>(&case["rewards_rejected"]).require_grad(),
            };
            let strengths = (!case["margin"].is_null()).then(|| p.tensor::<1>(&case["margin"]));
            let centring = case["center_rewards_coefficient"].as_f64().unwrap_or(0.0);
            let outcome = bradley_terry_loss(
                scores.clone(),
                BradleyTerryOptions { strengths: strengths.clone(), centring, ..BradleyTerryOptions::default() },
            );
            p.values(&what("loss"), outcome.loss.clone(), &case["loss"]);
            p.values(&what("losses"), outcome.losses.clone(), &case["per_pair_bt_loss"]);
            p.values(&what("margin"), outcome.margins.clone().mean(), &case["mean_margin"]);
            let margins = values(outcome.margins);
            let correct = margins.iter().filter(|&&margin| margin > 0.0).count() as f64 / margins.len() as f64;
            close(&what("accuracy"), &[correct], &[case.number("accuracy")], 1e-12);
            let grads = outcome.loss.backward();
            p.gradient(&what("chosen"), scores.chosen.grad(&grads), &case["grad_chosen"]);
            p.gradient(&what("rejected"), scores.rejected.grad(&grads), &case["grad_rejected"]);
        }
    });
}

/// `ppo.json` without the parts that other tests read.
fn ppo(parts: &[&str]) -> golden::Topic {
    let file = golden::topic("ppo.json");
    for (key, node) in file.fields() {
        if !parts.contains(&key.as_str()) {
            node.is_read_elsewhere();
        }
    }
    file
}

#[test]
fn golden_ppo_rewards_advantages_and_losses() {
    let file = ppo(&["inputs", "cases"]);
    let inputs = &file["inputs"];
    in_both(|p| {
        let input = |key: &str| p.tensor::<2>(&inputs[key]);
        let mask = ResponseMask::from_tensor(input("mask"));
        p.values("lengths", mask.lengths(), &inputs["lengths"]);
        for case in file.items("cases") {
            let params = &case["params"];
            let name = params.text("name");
            let of_case = |key: &str| values(mask.apply(p.tensor::<2>(&case[key])));
            let same = |key: &str, actual: &Tensor<2>| {
                close(&format!("{key} of {name}"), &values(mask.apply(actual.clone())), &of_case(key), p.value);
            };
            let param = |key: &str| params.number(key);

            let (logp, ref_logp) = (input("old_logprobs"), input("ref_logprobs"));
            let kl = match params.text("kl_penalty") {
                "kl" => k1(logp.clone(), ref_logp),
                "abs" => k1(logp.clone(), ref_logp).abs(),
                "mse" => k2(logp.clone(), ref_logp),
                other => panic!("an unknown penalty, `{other}`"),
            };
            same("kl_per_token", &kl);
            let scores = p.tensor::<1>(&inputs["scores"]);
            let penalty = kl_shaped_rewards(scores.zeros_like(), kl.clone(), param("kl_coef"), &mask);
            same("non_score_rewards", &penalty);
            let mut rewards = kl_shaped_rewards(scores, kl, param("kl_coef"), &mask);
            same("rewards", &rewards);
            if params["whiten_rewards"].as_bool().expect("a choice") {
                rewards = whiten_keep_mean(rewards, &mask);
            }
            same("rewards_used_for_gae", &rewards);
            same("values_masked", &input("values"));
            let Gae { advantages, returns } = gae(rewards, input("values"), param("gamma"), param("lam"), &mask);
            same("advantages_raw", &advantages);
            same("returns", &returns);
            let white = whiten(advantages, &mask);
            same("advantages_whitened", &white);

            let (new_logp, vpreds) = (input("new_logprobs").require_grad(), input("vpreds").require_grad());
            let policy =
                PolicyGradientLoss::clipped(param("cliprange")).evaluate(new_logp.clone(), logp.clone(), white, &mask);
            let value = clipped_value_loss(vpreds.clone(), input("values"), returns, param("cliprange_value"), &mask);
            let entropies = mask.mean(entropy(p.tensor::<3>(&inputs["logits"])));
            p.values("policy loss", policy.loss.clone(), &case["pg_loss"]);
            p.values("value loss", value.loss.clone(), &case["vf_loss_unscaled"]);
            p.values("weighted value loss", value.loss.clone() * param("vf_coef"), &case["vf_loss_scaled"]);
            p.values("policy clip share", policy.clip_share, &case["pg_clipfrac"]);
            p.values("value clip share", value.clip_share, &case["vf_clipfrac"]);
            p.values("k2 of the update", mask.mean(k2(new_logp.clone(), logp.clone())), &case["approxkl"]);
            p.values("k1 of the update", mask.mean(k1(logp.clone(), new_logp.clone())), &case["policykl"]);
            p.values("ratio of the update", mask.mean((new_logp.clone() - logp).exp()), &case["mean_ratio"]);
            p.values("entropy", entropies.clone(), &case["entropy"]);
            let loss = policy.loss + value.loss * param("vf_coef");
            p.values("total loss", loss.clone(), &case["loss_total"]);
            let bonus = entropies * param("entropy_coef");
            p.values("loss with entropy bonus", loss.clone() - bonus, &case["loss_with_entropy_bonus"]);
            let grads = loss.backward();
            p.gradient("logp", new_logp.grad(&grads), &case["grad_new_logprobs"]);
            p.gradient("values", vpreds.grad(&grads), &case["grad_vpreds"]);
        }
    });
}

/// The loss and the mean of a case of `policy_losses.json`.
fn policy_loss_of(case: &Node, longest: usize) -> (PolicyGradientLoss, Reduction) {
    let or_infinite = |key: &str| case[key].as_f64().unwrap_or(f64::INFINITY);
    let (low, high, dual) = (or_infinite("clip_low"), or_infinite("clip_high"), or_infinite("clip_dual"));
    let temperatures = [or_infinite("sapo_pos"), or_infinite("sapo_neg")];
    let surrogate = match case.text("policy_loss") {
        "ppo" => Surrogate::Clipped { low, high, dual },
        "cispo" => Surrogate::ClippedWeight { low, high },
        "sapo" => Surrogate::SoftGate { positive: temperatures[0], negative: temperatures[1] },
        "vespo" => {
            let kernel = |k: &str, lambda: &str| SoftKernel { k: or_infinite(k), lambda: or_infinite(lambda) };
            let positive = kernel("vespo_k_pos", "vespo_lambda_pos");
            Surrogate::SoftWeight { positive, negative: kernel("vespo_k_neg", "vespo_lambda_neg") }
        }
        other => panic!("an unknown loss, `{other}`"),
    };
    let level = match case.text("level") {
        "token" => RatioLevel::Token,
        "sequence" => RatioLevel::Sequence,
        other => panic!("an unknown level, `{other}`"),
    };
    let reduction = match case.text("mean") {
        "tokens" => Reduction::Tokens,
        "responses" => Reduction::Responses,
        "constant" => Reduction::Sums { per: longest },
        "sum" => Reduction::Sums { per: 1 },
        other => panic!("an unknown mean, `{other}`"),
    };
    (PolicyGradientLoss { level, surrogate, off_policy_mask_threshold: or_infinite("off_policy") }, reduction)
}

#[test]
fn golden_policy_losses_with_gradients() {
    let file = golden::topic("policy_losses.json");
    let inputs = &file["inputs"];
    let longest = inputs.number("longest") as usize;
    in_both(|p| {
        let input = |key: &str| p.tensor::<2>(&inputs[key]);
        let mask = ResponseMask::from_tensor(input("mask"));
        p.values("lengths", mask.lengths(), &inputs["lengths"]);
        for case in file.items("cases") {
            let name = case.text("name");
            let (loss, reduction) = policy_loss_of(case, longest);
            let mask = mask.clone().averaging(reduction);
            let logp = input("new_logprobs").require_grad();
            let advantages = match case.text("advantages") {
                "per_response" => {
                    let advantages = p.tensor::<1>(&inputs["advantages"]).unsqueeze_dim::<2>(1); // [B, 1]
                    advantages.expand(logp.dims())
                }
                _ => input("advantages_per_token"),
            };
            let entropies = high_entropy_tokens(input("entropies"), case.number("top_entropy"), &mask);
            let policy = loss.evaluate(logp.clone(), input("old_logprobs"), advantages * entropies, &mask);
            let kl = mask.average(k3(logp.clone(), input("ref_logprobs"))) * case.number("kl_coef");
            let loss = policy.loss + kl;
            p.values(name, loss.clone(), &case["loss"]);
            p.gradient(name, logp.grad(&loss.backward()), &case["gradient"]);
        }
    });
}

/// Several rewards of groups: their sum against the group's (GRPO, and without its scale), and each normalized by itself (GDPO).
#[test]
fn golden_reward_aggregation() {
    let file = golden::topic("reward_aggregation.json");
    in_both(|p| {
        for case in file.items("cases") {
            let (name, group) = (case.text("name"), case.number("group") as usize);
            let table = p.tensor::<2>(&case["rewards"]); // [K, B]
            let rewards = |k: usize| table.clone().narrow(0, k, 1).squeeze_dim::<1>(0); // [B]
            let weights = numbers(&case["weights"]);
            let each: Vec<(Tensor<1>, f64)> =
                weights.iter().enumerate().map(|(k, weight)| (rewards(k), *weight)).collect();
            let weighted = each.iter().map(|(reward, weight)| reward.clone() * *weight);
            let sum = weighted.reduce(|sum, reward| sum + reward).expect("a reward"); // [B]
            let advantages = |scale| group_relative(sum.clone(), group, scale);
            p.values(name, group_decoupled(each, group), &case["normalize_then_sum"]);
            p.values(name, advantages(true), &case["sum_then_normalize"]);
            p.values(name, advantages(false), &case["sum_then_center"]);
        }
    });
}

#[test]
fn golden_whitening() {
    let file = ppo(&["whitening"]);
    let case = &file["whitening"];
    in_both(|p| {
        let (x, mask) = (p.tensor::<2>(&case["values"]), ResponseMask::from_tensor(p.tensor::<2>(&case["mask"])));
        let all = ResponseMask::from_tensor(x.ones_like());
        let same = |key: &str, actual: Tensor<2>, mask: &ResponseMask| {
            let expected = values(mask.apply(p.tensor::<2>(&case[key])));
            close(key, &values(actual), &expected, p.value);
        };
        same("masked_whiten_shift_mean", whiten(x.clone(), &mask), &mask);
        same("masked_whiten_keep_mean", whiten_keep_mean(x.clone(), &mask), &mask);
        same("unmasked_whiten_shift_mean", whiten(x.clone(), &all), &all);
        same("unmasked_whiten_keep_mean", whiten_keep_mean(x.clone(), &all), &all);
        let mean = mask.mean(x.clone());
        p.values("masked mean", mean.clone(), &case["masked_mean"]);
        let variance = mask.mean((x.clone() - mean.unsqueeze::<2>()).square());
        p.values("masked variance", variance.clone(), &case["masked_var_biased"]);
        let n = first(mask.tensor().sum());
        p.values("unbiased variance", variance * (n / (n - 1.0)), &case["masked_var_unbiased"]);
        p.values("row means", mask.row_sums(x) / mask.lengths(), &case["masked_mean_per_row"]);
    });
}

#[test]
fn golden_kl_estimators() {
    let file = ppo(&["kl_estimators"]);
    let (inputs, expected) = (&file["inputs"], &file["kl_estimators"]);
    assert_eq!(expected["exact"].text("policy_logits"), "inputs.logits");
    in_both(|p| {
        let (logp, ref_logp) = (p.tensor::<2>(&inputs["old_logprobs"]), p.tensor::<2>(&inputs["ref_logprobs"]));
        let mask = ResponseMask::from_tensor(p.tensor::<2>(&inputs["mask"]));
        for (name, actual) in [
            ("k1", k1(logp.clone(), ref_logp.clone())),
            ("k2", k2(logp.clone(), ref_logp.clone())),
            ("k3", k3(logp.clone(), ref_logp.clone())),
        ] {
            p.values(name, actual.clone(), &expected[name]);
            p.values(name, mask.mean(actual.clone()), &expected[&*format!("{name}_masked_mean")]);
            let sums = mask.row_sums(actual);
            p.values(name, sums.clone(), &expected[&*format!("{name}_sequence_sums")]);
            let mean = &expected[&*format!("{name}_mean_of_sequence_sums")];
            if !mean.is_null() {
                p.values(name, sums.mean(), mean);
            }
        }
        let exact = &expected["exact"];
        let logits = p.tensor::<3>(&inputs["logits"]);
        p.values("full KL", full_kl(logits.clone(), p.tensor::<3>(&exact["ref_logits"])), &exact["kl_per_token"]);
        let largest = numbers(&inputs["logits"]).into_iter().map(f64::abs).fold(0.0, f64::max);
        p.entropies("entropy", entropy(logits), &exact["entropy_per_token"], largest);
    });
}

#[test]
fn golden_adaptive_beta() {
    let file = ppo(&["adaptive_kl_controller"]);
    for case in file["adaptive_kl_controller"].items("sequences") {
        let mut adaptive = AdaptiveBeta {
            beta: case.number("init_kl_coef"),
            target: case.number("target"),
            horizon: case.number("horizon"),
        };
        let kls = numbers(&case["current_kl"]);
        for (kl, expected) in kls.into_iter().zip(numbers(&case["value_after"])) {
            adaptive.update(kl, case.number("n_steps") as usize);
            close("beta", &[adaptive.beta], &[expected], 1e-12);
        }
    }
}
