//! The equations against independent libraries, in both precisions: f32 within 1e-5, f64 within 1e-10.

#[path = "../../../tests/golden.rs"]
mod golden;
#[path = "../../../tests/precision.rs"]
mod precision;

use burn::tensor::Tensor;
use duel_objectives::*;
use golden::{items, number};
use precision::{F32, F64, Precision, values};
use serde_json::Value;

/// Runs a check in f32 and in f64.
fn in_both(check: impl Fn(Precision)) {
    [F32, F64].into_iter().for_each(check);
}

#[test]
fn golden_logprobs_and_entropies() {
    let file = golden::read("logprobs.json");
    let cases = items(&file, "cases");
    in_both(|p| {
        for (i, case) in cases.iter().enumerate() {
            let logits = match case["logits_of_case"].as_u64() {
                Some(other) => &cases[other as usize]["logits"],
                None => &case["logits"],
            };
            let tokens = p.ids::<2>(&case["token_ids"]);
            let l = tokens.dims()[1];
            let leaf = p.tensor::<3>(logits).require_grad();
            let scaled = leaf.clone().narrow(1, 0, l - 1) / number(case, "temperature");
            let logp = token_logp(scaled.clone(), tokens.narrow(1, 1, l - 1));
            p.values(&format!("logp {i}"), logp.clone(), &case["token_logprob"]);
            p.values(&format!("entropy {i}"), entropy(scaled), &case["token_entropy"]);
            let mask = ResponseMask::from_tensor(p.tensor::<2>(&case["response_mask"]).narrow(1, 1, l - 1));
            p.values(&format!("sums {i}"), mask.row_sums(logp.clone()), &case["sequence_logprob_sum"]);
            p.values(&format!("lengths {i}"), mask.lengths(), &case["response_length"]);
            p.values(&format!("nll {i}"), mask.mean(logp.clone()).neg(), &case["nll_token_mean"]);
            if !case["grad_logits_of_sum"].is_null() {
                let grads = mask.row_sums(logp).sum().backward();
                p.gradient(&format!("logits {i}"), leaf.grad(&grads), &case["grad_logits_of_sum"]);
            }
        }
    });
}

/// The loss of a golden case, by the name that the libraries give it.
fn kind(name: &str, params: &Value) -> PreferenceLoss {
    use PreferenceLoss as Kind;
    let label_smoothing = params["label_smoothing"].as_f64().unwrap_or(0.0);
    match name {
        "sigmoid" | "cdpo" | "rpo_batch_nll" | "rpo_sequence_nll" => Kind::Sigmoid { label_smoothing },
        "sigmoid_norm" => Kind::SigmoidAveraged,
        "hinge" => Kind::Hinge,
        "ipo" => Kind::IpoAveraged,
        "ipo_summed" => Kind::Ipo,
        "robust" => Kind::Robust { label_smoothing },
        "exo_pair" => Kind::Exo { label_smoothing },
        "nca_pair" => Kind::Nca,
        "bco_pair" => Kind::Bco { shift: 0.0 },
        "bco_pair_with_delta" => Kind::Bco { shift: number(params, "delta") },
        "sppo_hard" => Kind::Sppo,
        "apo_zero" => Kind::ApoZero,
        "apo_down" => Kind::ApoDown,
        "aot" => Kind::Aot { label_smoothing },
        "aot_unpaired" => Kind::AotUnpaired { label_smoothing },
        "discopop" => Kind::DiscoPop { tau: number(params, "tau") },
        "sigmoid_forward_kl" => Kind::ForwardKl,
        "sigmoid_alpha_divergence" => Kind::AlphaDivergence { alpha: number(params, "alpha") },
        "sigmoid_js_divergence" => Kind::JsDivergence,
        "simpo" => Kind::SimPo { gamma: number(params, "gamma") },
        "orpo" => Kind::Orpo,
        "kto_pair" => Kind::KtoPair,
        other => panic!("an unknown loss, `{other}`"),
    }
}

#[test]
fn golden_preference_losses_with_gradients() {
    let file = golden::read("preference_losses.json");
    in_both(|p| {
        for case in items(&file, "cases") {
            let name = case["name"].as_str().expect("a name");
            let (params, inputs) = (&case["params"], &file["inputs"][case["inputs"].as_str().expect("a set")]);
            let beta = number(params, "beta");
            let what = format!("{name}, {}, beta {beta}", case["inputs"]);
            let column = |key: &str| p.tensor::<1>(&inputs[key]);
            let both = |key: &str| ChosenRejected {
                chosen: column(&key.replace("SIDE", "chosen")),
                rejected: column(&key.replace("SIDE", "rejected")),
            };
            let policy = both("policy_SIDE_logps").map(Tensor::require_grad);
            let pairs = PairLogp {
                policy: policy.clone(),
                reference: both("reference_SIDE_logps"),
                lengths: both("SIDE_lengths"),
                mismatched: None,
                tied: None,
            };
            let mut outcome = if name == "kto" {
                let kl = (column("policy_kl_logps") - column("reference_kl_logps")).mean();
                let weights = KtoWeights {
                    desirable: number(params, "desirable_weight"),
                    undesirable: number(params, "undesirable_weight"),
                };
                kto_loss(pairs.log_ratios(), kl, weights, beta)
            } else {
                preference_loss(&kind(name, params), &pairs, beta)
            };
            match name {
                "rpo_batch_nll" => outcome.loss = outcome.loss + chosen_nll(&pairs),
                "rpo_sequence_nll" => outcome.loss = outcome.loss + chosen_sequence_nll(&pairs),
                "orpo" => outcome.losses = outcome.losses.neg(), // TRL reports what it subtracts
                _ => {}
            }
            p.values(&format!("loss of {what}"), outcome.loss.clone(), &case["loss"]);
            if !case["losses"].is_null() && !name.starts_with("rpo") {
                p.values(&format!("losses of {what}"), outcome.losses.clone(), &case["losses"]);
            }
            p.values(&format!("chosen rewards of {what}"), outcome.rewards.chosen.clone(), &case["chosen_rewards"]);
            p.values(
                &format!("rejected rewards of {what}"),
                outcome.rewards.rejected.clone(),
                &case["rejected_rewards"],
            );
            p.values(&format!("margins of {what}"), outcome.margins(), &case["margins"]);
            let grads = outcome.loss.backward();
            p.gradient(&format!("{what}, chosen"), policy.chosen.grad(&grads), &case["grad_policy_chosen"]);
            p.gradient(&format!("{what}, rejected"), policy.rejected.grad(&grads), &case["grad_policy_rejected"]);
        }
    });
}

#[test]
fn golden_reward_model_loss() {
    let file = golden::read("reward_model.json");
    in_both(|p| {
        for (i, case) in items(&file, "cases").iter().enumerate() {
            let scores = ChosenRejected {
                chosen: p.tensor::<1>(&case["rewards_chosen"]).require_grad(),
                rejected: p.tensor::<1>(&case["rewards_rejected"]).require_grad(),
            };
            let strengths = (!case["margin"].is_null()).then(|| p.tensor::<1>(&case["margin"]));
            let centring = case["center_rewards_coefficient"].as_f64().unwrap_or(0.0);
            let outcome = bradley_terry_loss(
                scores.clone(),
                Terms { strengths: strengths.clone(), centring, ..Terms::default() },
            );
            p.values(&format!("loss {i}"), outcome.loss.clone(), &case["loss"]);
            p.values(&format!("losses {i}"), outcome.losses.clone(), &case["per_pair_bt_loss"]);
            p.values(&format!("margin {i}"), outcome.margins.clone().mean(), &case["mean_margin"]);
            let grads = outcome.loss.backward();
            p.gradient(&format!("chosen {i}"), scores.chosen.grad(&grads), &case["grad_chosen"]);
            p.gradient(&format!("rejected {i}"), scores.rejected.grad(&grads), &case["grad_rejected"]);
        }
    });
}

#[test]
fn golden_ppo_rewards_advantages_and_losses() {
    let file = golden::read("ppo.json");
    let inputs = &file["inputs"];
    in_both(|p| {
        let of = |key: &str| p.tensor::<2>(&inputs[key]);
        let mask = ResponseMask::from_tensor(of("mask"));
        for case in items(&file, "cases") {
            let params = &case["params"];
            let name = params["name"].as_str().expect("a name");
            let of_case = |key: &str| values(mask.apply(p.tensor::<2>(&case[key])));
            let same = |key: &str, found: &Tensor<2>| {
                golden::close(&format!("{key} of {name}"), &values(mask.apply(found.clone())), &of_case(key), p.value);
            };
            let param = |key: &str| number(params, key);

            let (logp, ref_logp) = (of("old_logprobs"), of("ref_logprobs"));
            let kl = match params["kl_penalty"].as_str().expect("a penalty") {
                "kl" => k1(logp.clone(), ref_logp),
                "abs" => k1(logp.clone(), ref_logp).abs(),
                "mse" => k2(logp.clone(), ref_logp),
                other => panic!("an unknown penalty, `{other}`"),
            };
            same("kl_per_token", &kl);
            let mut rewards = kl_shaped_rewards(p.tensor::<1>(&inputs["scores"]), kl, param("kl_coef"), &mask);
            same("rewards", &rewards);
            if params["whiten_rewards"] == Value::Bool(true) {
                rewards = scale_around_mean(rewards, &mask);
            }
            same("rewards_used_for_gae", &rewards);
            let Gae { advantages, returns } = gae(rewards, of("values"), param("gamma"), param("lam"), &mask);
            same("advantages_raw", &advantages);
            same("returns", &returns);
            let white = centre_and_scale(advantages, &mask);
            same("advantages_whitened", &white);

            let (new_logp, vpreds) = (of("new_logprobs").require_grad(), of("vpreds").require_grad());
            let policy = clipped_policy_loss(new_logp.clone(), logp.clone(), white, param("cliprange"), &mask);
            let value = clipped_value_loss(vpreds.clone(), of("values"), returns, param("cliprange_value"), &mask);
            let entropies = mask.mean(entropy(p.tensor::<3>(&inputs["logits"])));
            p.values("policy loss", policy.loss.clone(), &case["pg_loss"]);
            p.values("value loss", value.loss.clone(), &case["vf_loss_unscaled"]);
            p.values("policy clip share", policy.clip_share, &case["pg_clipfrac"]);
            p.values("value clip share", value.clip_share, &case["vf_clipfrac"]);
            p.values("k2 of the update", mask.mean(k2(new_logp.clone(), logp.clone())), &case["approxkl"]);
            p.values("k1 of the update", mask.mean(k1(logp.clone(), new_logp.clone())), &case["policykl"]);
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

#[test]
fn golden_whitening() {
    let file = golden::read("ppo.json");
    let case = &file["whitening"];
    in_both(|p| {
        let (x, mask) = (p.tensor::<2>(&case["values"]), ResponseMask::from_tensor(p.tensor::<2>(&case["mask"])));
        let all = ResponseMask::from_tensor(x.ones_like());
        let same = |key: &str, found: Tensor<2>, mask: &ResponseMask| {
            let expected = values(mask.apply(p.tensor::<2>(&case[key])));
            golden::close(key, &values(found), &expected, p.value);
        };
        same("masked_whiten_shift_mean", centre_and_scale(x.clone(), &mask), &mask);
        same("masked_whiten_keep_mean", scale_around_mean(x.clone(), &mask), &mask);
        same("unmasked_whiten_shift_mean", centre_and_scale(x.clone(), &all), &all);
        same("unmasked_whiten_keep_mean", scale_around_mean(x.clone(), &all), &all);
        p.values("masked mean", mask.mean(x.clone()), &case["masked_mean"]);
        p.values("row means", mask.row_sums(x) / mask.lengths(), &case["masked_mean_per_row"]);
    });
}

#[test]
fn golden_kl_estimators() {
    let file = golden::read("ppo.json");
    let (inputs, expected) = (&file["inputs"], &file["kl_estimators"]);
    in_both(|p| {
        let (logp, ref_logp) = (p.tensor::<2>(&inputs["old_logprobs"]), p.tensor::<2>(&inputs["ref_logprobs"]));
        let mask = ResponseMask::from_tensor(p.tensor::<2>(&inputs["mask"]));
        for (name, found) in [
            ("k1", k1(logp.clone(), ref_logp.clone())),
            ("k2", k2(logp.clone(), ref_logp.clone())),
            ("k3", k3(logp.clone(), ref_logp.clone())),
        ] {
            p.values(name, found.clone(), &expected[name]);
            p.values(name, mask.mean(found.clone()), &expected[format!("{name}_masked_mean")]);
            p.values(name, mask.row_sums(found), &expected[format!("{name}_sequence_sums")]);
        }
        let exact = &expected["exact"];
        let logits = p.tensor::<3>(&inputs["logits"]);
        p.values("full KL", full_kl(logits.clone(), p.tensor::<3>(&exact["ref_logits"])), &exact["kl_per_token"]);
        p.values("entropy", entropy(logits), &exact["entropy_per_token"]);
    });
}

#[test]
fn golden_adaptive_beta() {
    let file = golden::read("ppo.json");
    for case in items(&file["adaptive_kl_controller"], "sequences") {
        let mut adaptive = AdaptiveBeta {
            beta: number(case, "init_kl_coef"),
            target: number(case, "target"),
            horizon: number(case, "horizon"),
        };
        let kls = golden::numbers(&case["current_kl"]);
        for (kl, expected) in kls.into_iter().zip(golden::numbers(&case["value_after"])) {
            adaptive.update(kl, number(case, "n_steps") as usize);
            golden::close("beta", &[adaptive.beta], &[expected], 1e-12);
        }
    }
}
