//! The equations against independent libraries (TRL, PyTorch in float64); `tests/golden/*.json` says
//! which. `DUEL_GOLDEN` names another directory of the same schema.
#![expect(clippy::unwrap_used, reason = "a broken golden file should stop the test")]

use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_objectives::*;
use serde_json::Value;

fn golden(file: &str) -> Value {
    let folder =
        std::env::var("DUEL_GOLDEN").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").into());
    let path = std::path::Path::new(&folder).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn numbers(v: &Value) -> Vec<f32> {
    match v {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

fn shape_of(v: &Value) -> Vec<usize> {
    match v {
        Value::Array(items) => std::iter::once(items.len()).chain(shape_of(&items[0])).collect(),
        _ => vec![],
    }
}

fn tensor<const D: usize>(v: &Value, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(numbers(v), shape_of(v)), device)
}

fn close(what: &str, found: &[f32], expected: &Value, relative: f32) {
    let expected = numbers(expected);
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs())).max(1e-3);
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert!((f - e).abs() <= relative * e.abs().max(scale * 0.1), "{what}[{i}]: found {f}, expected {e}");
    }
}

fn values<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    t.try_into_vec_as::<f32>().unwrap()
}

fn keep(mask: &ResponseMask, t: Tensor<2>) -> Vec<f32> {
    values(mask.apply(t))
}

fn masked(v: &Value, mask: &Value) -> Value {
    let kept: Vec<f32> = numbers(v).iter().zip(numbers(mask)).map(|(x, m)| x * m).collect();
    Value::from(kept)
}

#[test]
fn golden_logprobs_and_entropies() {
    let device = Device::flex().autodiff();
    let file = golden("logprobs.json");
    let cases = file["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for (i, case) in cases.iter().enumerate() {
        let logits = if case["logits"].is_null() {
            &cases[case["logits_of_case"].as_u64().unwrap() as usize]["logits"]
        } else {
            &case["logits"]
        };
        let ids = numbers(&case["token_ids"]).iter().map(|x| *x as i32).collect::<Vec<_>>();
        let [b, l] = shape_of(&case["token_ids"])[..] else { panic!() };
        let leaf = tensor::<3>(logits, &device).require_grad();
        let scaled = leaf.clone().narrow(1, 0, l - 1) / case["temperature"].as_f64().unwrap();
        let next = Tensor::<2, Int>::from_data(TensorData::new(ids, [b, l]), &device).narrow(1, 1, l - 1);
        let logp = token_logp(scaled.clone(), next);
        close(&format!("logp {i}"), &values(logp.clone()), &case["token_logprob"], 1e-5);
        close(&format!("entropy {i}"), &values(entropy(scaled)), &case["token_entropy"], 1e-5);
        let mask = ResponseMask::from_tensor(tensor::<2>(&case["response_mask"], &device).narrow(1, 1, l - 1));
        close(&format!("sums {i}"), &values(mask.row_sums(logp.clone())), &case["sequence_logprob_sum"], 1e-5);
        close(&format!("lengths {i}"), &values(mask.lengths()), &case["response_length"], 1e-6);
        close(&format!("nll {i}"), &values(mask.mean(logp.clone()).neg()), &case["nll_token_mean"], 1e-5);
        if !case["grad_logits_of_sum"].is_null() {
            let grads = mask.row_sums(logp).sum().backward();
            close(&format!("grad {i}"), &values(leaf.grad(&grads).unwrap()), &case["grad_logits_of_sum"], 1e-4);
        }
    }
}

#[test]
fn golden_dpo_losses_with_gradients() {
    let device = Device::flex().autodiff();
    let file = golden("preference_losses.json");
    let mut seen = 0;
    for case in file["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let smoothing = case["params"]["label_smoothing"].as_f64().unwrap_or(0.0);
        let label_smoothing = match name {
            "sigmoid" => 0.0,
            "cdpo" => smoothing,
            _ => continue,
        };
        seen += 1;
        let inputs = &file["inputs"][case["inputs"].as_str().unwrap()];
        let column = |key: &str| tensor::<1>(&inputs[key], &device);
        let policy = ChosenRejected {
            chosen: column("policy_chosen_logps").require_grad(),
            rejected: column("policy_rejected_logps").require_grad(),
        };
        let reference =
            ChosenRejected { chosen: column("reference_chosen_logps"), rejected: column("reference_rejected_logps") };
        let beta = case["params"]["beta"].as_f64().unwrap();
        let outcome = preference_loss(
            &PreferenceLoss::Sigmoid { label_smoothing },
            ChosenRejected::log_ratios(policy.clone(), reference),
            beta,
        );
        close(name, &values(outcome.loss.clone()), &case["loss"], 1e-5);
        close(name, &values(outcome.losses.clone()), &case["losses"], 2e-5);
        close(name, &values(outcome.rewards.chosen.clone()), &case["chosen_rewards"], 1e-4);
        close(name, &values(outcome.rewards.rejected.clone()), &case["rejected_rewards"], 1e-4);
        let grads = outcome.loss.backward();
        close(name, &values(policy.chosen.grad(&grads).unwrap()), &case["grad_policy_chosen"], 1e-4);
        close(name, &values(policy.rejected.grad(&grads).unwrap()), &case["grad_policy_rejected"], 1e-4);
    }
    assert!(seen >= 2, "no sigmoid cases");
}

#[test]
fn golden_reward_model_loss() {
    let device = Device::flex().autodiff();
    let file = golden("reward_model.json");
    let mut seen = 0;
    for case in file["cases"].as_array().unwrap() {
        if !case["margin"].is_null() || !case["center_rewards_coefficient"].is_null() {
            continue;
        }
        seen += 1;
        let scores = ChosenRejected {
            chosen: tensor::<1>(&case["rewards_chosen"], &device).require_grad(),
            rejected: tensor::<1>(&case["rewards_rejected"], &device).require_grad(),
        };
        let outcome = bradley_terry_loss(scores.clone());
        close("rm loss", &values(outcome.loss.clone()), &case["loss"], 1e-5);
        let grads = outcome.loss.backward();
        close("rm chosen", &values(scores.chosen.grad(&grads).unwrap()), &case["grad_chosen"], 1e-4);
        close("rm rejected", &values(scores.rejected.grad(&grads).unwrap()), &case["grad_rejected"], 1e-4);
    }
    assert!(seen >= 1, "no plain case");
}

#[test]
fn golden_ppo_rewards_advantages_and_losses() {
    let device = Device::flex().autodiff();
    let file = golden("ppo.json");
    let inputs = &file["inputs"];
    let of = |key: &str| tensor::<2>(&inputs[key], &device);
    let mask = ResponseMask::from_tensor(of("mask"));
    let mut seen = 0;
    for case in file["cases"].as_array().unwrap() {
        let params = &case["params"];
        if params["whiten_rewards"] == Value::Bool(true) || params["kl_penalty"] != "kl" {
            continue;
        }
        seen += 1;
        let p = |key: &str| params[key].as_f64().unwrap();
        let rewards = kl_shaped_rewards(
            tensor::<1>(&inputs["scores"], &device),
            of("old_logprobs"),
            of("ref_logprobs"),
            p("kl_coef"),
            &mask,
        );
        close("rewards", &keep(&mask, rewards.clone()), &masked(&case["rewards"], &inputs["mask"]), 1e-5);
        let Gae { advantages, returns } = gae(rewards, of("values"), p("gamma"), p("lam"), &mask);
        close("advantages", &keep(&mask, advantages.clone()), &masked(&case["advantages_raw"], &inputs["mask"]), 1e-5);
        close("returns", &keep(&mask, returns.clone()), &masked(&case["returns"], &inputs["mask"]), 1e-5);
        let white = centre_and_scale(advantages, &mask);
        close("whitened", &keep(&mask, white.clone()), &masked(&case["advantages_whitened"], &inputs["mask"]), 1e-5);
        let (logp, vpreds) = (of("new_logprobs").require_grad(), of("vpreds").require_grad());
        let policy = clipped_policy_loss(logp.clone(), of("old_logprobs"), white, p("cliprange"), &mask);
        let value = clipped_value_loss(vpreds.clone(), of("values"), returns, p("cliprange_value"), &mask);
        close("policy loss", &values(policy.loss.clone()), &case["pg_loss"], 1e-5);
        close("value loss", &values(value.loss.clone()), &case["vf_loss_unscaled"], 1e-5);
        close("clip share", &values(policy.clip_share), &case["pg_clipfrac"], 1e-5);
        let grads = (policy.loss + value.loss * p("vf_coef")).backward();
        close("grad logp", &values(logp.grad(&grads).unwrap()), &case["grad_new_logprobs"], 1e-4);
        close("grad values", &values(vpreds.grad(&grads).unwrap()), &case["grad_vpreds"], 1e-4);
    }
    assert!(seen >= 1, "no plain case");
}

#[test]
fn golden_kl_estimators() {
    let device = Device::flex();
    let file = golden("ppo.json");
    let (inputs, expected) = (&file["inputs"], &file["kl_estimators"]);
    let (logp, ref_logp) =
        (tensor::<2>(&inputs["old_logprobs"], &device), tensor::<2>(&inputs["ref_logprobs"], &device));
    let mask = ResponseMask::from_tensor(tensor::<2>(&inputs["mask"], &device));
    for (name, found) in [
        ("k1", k1(logp.clone(), ref_logp.clone())),
        ("k2", k2(logp.clone(), ref_logp.clone())),
        ("k3", k3(logp, ref_logp)),
    ] {
        close(name, &values(mask.mean(found.clone())), &expected[format!("{name}_masked_mean")], 1e-5);
        close(name, &values(mask.row_sums(found)), &expected[format!("{name}_sequence_sums")], 1e-5);
    }
    let exact = &expected["exact"];
    let full = full_kl(tensor::<3>(&inputs["logits"], &device), tensor::<3>(&exact["ref_logits"], &device));
    close("full", &values(full), &exact["kl_per_token"], 1e-4);
}
