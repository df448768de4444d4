//! Optimizer, clipping and schedules against PyTorch in float64 and transformers
//! (`tests/golden/optim.json`). `DUEL_GOLDEN` names another directory of the same schema.
#![expect(clippy::unwrap_used, reason = "a broken golden file should stop the test")]

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use duel_spec::{LearnerSettings, Schedule};
use duel_training::{Error, Learner, rate};
use serde_json::Value;

fn golden() -> Value {
    let folder =
        std::env::var("DUEL_GOLDEN").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").into());
    let path = std::path::Path::new(&folder).join("optim.json");
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

fn numbers(v: &Value) -> Vec<f32> {
    match v {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap() as f32],
    }
}

/// Two parameters, as in the golden runs.
#[derive(Module, Debug)]
struct Two {
    p1: Param<Tensor<1>>,
    p2: Param<Tensor<2>>,
}

/// `xᵀAx/2 − bᵀx`, x both parameters one after another.
fn loss(two: &Two, a: &Tensor<2>, b: &Tensor<2>) -> Tensor<1> {
    let x = Tensor::cat(vec![two.p1.val(), two.p2.val().reshape([6])], 0).unsqueeze_dim::<2>(1); // [10, 1]
    let square = x.clone().transpose().matmul(a.clone()).matmul(x.clone()) * 0.5;
    (square - b.clone().transpose().matmul(x)).reshape([1])
}

fn settings(params: &Value, clip: &Value, schedule: Schedule) -> LearnerSettings {
    let warmup = params["warmup_steps"].as_f64().unwrap_or(0.0) / params["total_steps"].as_f64().unwrap_or(1.0);
    LearnerSettings {
        adam_beta1: params["betas"][0].as_f64().unwrap(),
        adam_beta2: params["betas"][1].as_f64().unwrap(),
        adam_epsilon: params["eps"].as_f64().unwrap(),
        weight_decay: params["weight_decay"].as_f64().unwrap(),
        clip_norm: clip.as_f64().unwrap_or(f64::INFINITY),
        schedule,
        warmup,
    }
}

#[test]
fn golden_adamw_with_global_clipping_and_schedules() {
    let file = golden();
    let device = Device::flex().autodiff();
    let matrix = |v: &Value, shape: [usize; 2]| Tensor::<2>::from_data(TensorData::new(numbers(v), shape), &device);
    let (a, b) = (matrix(&file["A"], [10, 10]), matrix(&file["b"], [10, 1]));
    let x0 = numbers(&file["x0"]);
    let mut seen = 0;
    for run in file["runs"].as_array().unwrap() {
        let name = run["name"].as_str().unwrap();
        if !name.starts_with("adamw") {
            continue;
        }
        seen += 1;
        let schedule = match name {
            n if n.contains("cosine") => Schedule::Cosine,
            n if n.contains("linear") => Schedule::Linear,
            _ => Schedule::Constant,
        };
        let two = Two {
            p1: Param::from_tensor(Tensor::from_data(TensorData::new(x0[..4].to_vec(), [4]), &device)),
            p2: Param::from_tensor(Tensor::from_data(TensorData::new(x0[4..].to_vec(), [2, 3]), &device)),
        };
        let settings = settings(&run["params"], &run["max_grad_norm"], schedule);
        let mut learner = Learner::new(two, &settings, run["params"]["lr"].as_f64().unwrap(), 10);
        for (i, step) in run["steps"].as_array().unwrap().iter().enumerate() {
            let update = learner.minimize(loss(learner.module(), &a, &b)).unwrap();
            let close = |what: &str, found: f64, expected: &Value| {
                let expected = expected.as_f64().unwrap();
                assert!(
                    (found - expected).abs() < 1e-4 * expected.abs().max(0.1),
                    "{name} step {i} {what}: {found}, expected {expected}"
                );
            };
            close("loss", update.loss, &step["loss"]);
            close("norm", update.grad_norm, &step["grad_norm_before_clip"]);
            close("lr", update.learning_rate, &step["lr"]);
            let expected: Vec<f32> = numbers(&step["p1"]).into_iter().chain(numbers(&step["p2"])).collect();
            for (found, expected) in duel_model::weights::flatten(learner.module()).iter().zip(&expected) {
                assert!((found - expected).abs() < 2e-5, "{name} step {i}: {found}, expected {expected}");
            }
        }
    }
    assert_eq!(seen, 5, "runs of AdamW");
}

#[test]
fn golden_schedules() {
    let file = golden();
    let mut seen = 0;
    for case in file["schedules"].as_array().unwrap() {
        let schedule = match case["kind"].as_str().unwrap() {
            "cosine" => Schedule::Cosine,
            "linear" => Schedule::Linear,
            "constant_with_warmup" => Schedule::Constant,
            _ => continue,
        };
        seen += 1;
        let (warmup, total) = (case["warmup_steps"].as_f64().unwrap(), case["total_steps"].as_u64().unwrap());
        for (step, expected) in numbers(&case["lr_multiplier"]).into_iter().enumerate().take(total as usize) {
            let found = rate(schedule, 1.0, warmup / total as f64, step as u64, total);
            assert!((found - f64::from(expected)).abs() < 1e-6, "{case} step {step}: {found}");
        }
    }
    assert_eq!(seen, 6, "schedules");
}

#[test]
fn a_loss_that_is_not_finite_stops_and_moves_nothing() {
    let device = Device::flex().autodiff();
    let two = Two {
        p1: Param::from_tensor(Tensor::ones([4], &device)),
        p2: Param::from_tensor(Tensor::ones([2, 3], &device)),
    };
    let params = serde_json::json!({"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0});
    let mut learner = Learner::new(two, &settings(&params, &Value::Null, Schedule::Constant), 0.1, 10);
    let before = duel_model::weights::flatten(learner.module());
    let broken = (learner.module().p1.val() * f32::NAN).sum();
    assert!(matches!(learner.minimize(broken), Err(Error::Diverged { step: 0, .. })));
    // a gradient that overflows while the loss is finite
    let steep = ((learner.module().p1.val() - 1.0) * f32::MAX).sum() * 10.0;
    assert!(matches!(learner.minimize(steep), Err(Error::Diverged { .. })));
    assert_eq!(duel_model::weights::flatten(learner.module()), before);
}
