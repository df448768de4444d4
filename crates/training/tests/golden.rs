//! Optimizers, clipping and schedules against PyTorch in float64 and transformers.
#![expect(clippy::unwrap_used, reason = "a broken golden file should stop the test")]

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use duel_model::weights;
use duel_spec::{LearnerSettings, OptimizerKind, Schedule};
use duel_testing::golden;
use duel_testing_tensors::precision;
use duel_training::{Error, Learner, rate};
use golden::{Node, close, ids, numbers};
use precision::F32;
use serde_json::Value;

/// Two parameters, as in the golden runs.
#[derive(Module, Debug)]
struct Two {
    p1: Param<Tensor<1>>,
    p2: Param<Tensor<2>>,
}

/// `xᵀAx/2 − bᵀx`, with x the two parameters concatenated.
fn loss(two: &Two, a: &Tensor<2>, b: &Tensor<2>) -> Tensor<1> {
    let parts = vec![two.p1.val(), two.p2.val().reshape([-1])];
    let x = Tensor::cat(parts, 0).unsqueeze_dim::<2>(1); // [n, 1]
    let square = x.clone().transpose().matmul(a.clone()).matmul(x.clone()) * 0.5;
    (square - b.clone().transpose().matmul(x)).reshape([1])
}

/// The settings of a golden run.
fn settings(params: &Node, clip: &Value) -> LearnerSettings {
    let optional = |key: &str| params[key].as_f64().unwrap_or(0.0);
    let total = params["total_steps"].as_f64();
    let betas: &Value = &params["betas"];
    let cycles = params["num_cycles"].as_f64();
    assert!(cycles.is_none_or(|cycles| cycles == 0.5), "half a cycle of the cosine: {cycles:?}");
    LearnerSettings {
        optimizer: if params["alpha"].is_null() { OptimizerKind::Adamw } else { OptimizerKind::Rmsprop },
        adam_beta1: betas[0].as_f64().unwrap_or(0.0),
        adam_beta2: betas[1].as_f64().unwrap_or(0.0),
        adam_epsilon: optional("eps"),
        rms_alpha: optional("alpha"),
        rms_epsilon: optional("eps"),
        rms_momentum: optional("momentum"),
        rms_centred: params["centered"].as_bool().unwrap_or(false),
        weight_decay: optional("weight_decay"),
        lion_beta1: 0.0,
        lion_beta2: 0.0,
        decay_vectors: true, // torch decays every parameter that it is given
        decay_embeddings: true,
        accumulate: 1,
        recompute: false,
        logits_memory: 0,
        clip_norm: clip.as_f64().unwrap_or(f64::INFINITY),
        schedule: match total {
            Some(_) if cycles.is_some() => Schedule::Cosine,
            Some(_) => Schedule::Linear,
            None => Schedule::Constant,
        },
        warmup: optional("warmup_steps") / total.unwrap_or(1.0),
        final_rate: 0.0,
    }
}

#[test]
fn golden_optimizers_with_global_clipping_and_schedules() {
    let file = golden::topic("optim.json");
    file["schedules"].is_read_elsewhere();
    let device = Device::flex().autodiff();
    let host = |v: &Value| numbers(v).into_iter().map(|x| x as f32).collect::<Vec<_>>();
    let x0 = host(&file["x0"]);
    let n = x0.len();
    let matrix = |v: &Value, shape: [usize; 2]| Tensor::<2>::from_data(TensorData::new(host(v), shape), &device);
    let (a, b) = (matrix(&file["A"], [n, n]), matrix(&file["b"], [n, 1]));
    // whatever the parameters' ranks, they are a vector and a matrix here: an optimizer sees numbers
    let [first, second] = ["p1_shape", "p2_shape"].map(|key| ids(&file[key]));
    let (size, rows) = (first.iter().product::<u32>() as usize, second[0] as usize);
    assert_eq!(size + second.iter().product::<u32>() as usize, n, "{first:?}, {second:?}");
    for run in file.items("runs") {
        let (name, params) = (run.text("name"), &run["params"]);
        let two = Two {
            p1: Param::from_tensor(Tensor::from_data(TensorData::new(x0[..size].to_vec(), [size]), &device)),
            p2: Param::from_tensor(matrix(&serde_json::json!(x0[size..].to_vec()), [rows, (n - size) / rows])),
        };
        let steps = run.items("steps");
        let total = params["total_steps"].as_u64().unwrap_or(steps.len() as u64);
        let settings = settings(params, &run["max_grad_norm"]);
        let mut learner = Learner::new(two, &settings, params.number("lr"), total);
        for (i, step) in steps.iter().enumerate() {
            let update = learner.minimize(loss(learner.module(), &a, &b)).unwrap();
            let actual = [update.loss, update.grad_norm, update.learning_rate];
            let expected = ["loss", "grad_norm_before_clip", "lr"].map(|key| step.number(key));
            close(&format!("{name}, step {i}: loss, norm, rate"), &actual, &expected, F32.gradient);
            let expected: Vec<f64> = numbers(&step["p1"]).into_iter().chain(numbers(&step["p2"])).collect();
            let actual: Vec<f64> = weights::flatten(learner.module()).into_iter().map(f64::from).collect();
            close(&format!("{name}, step {i}: parameters"), &actual, &expected, F32.gradient);
        }
    }
}

#[test]
fn golden_schedules() {
    let file = golden::topic("optim.json");
    for (_, part) in file.fields().iter().filter(|(key, _)| *key != "schedules") {
        part.is_read_elsewhere();
    }
    for case in file.items("schedules") {
        let (warmup, total) = (case.number("warmup_steps"), case["total_steps"].as_u64().unwrap());
        let plain = settings(&serde_json::json!({}).into(), &Value::Null);
        let settings = LearnerSettings {
            schedule: match case.text("kind") {
                "cosine" | "cosine_with_min_lr" => Schedule::Cosine,
                "linear" => Schedule::Linear,
                "constant_with_warmup" => Schedule::Constant,
                other => panic!("an unknown schedule, `{other}`"),
            },
            warmup: warmup / total as f64,
            final_rate: case["min_lr_rate"].as_f64().unwrap_or(0.0),
            ..plain
        };
        let mut expected = numbers(&case["lr_multiplier"]);
        expected.truncate(total as usize); // beyond the end, torch's cosine rises again
        let actual: Vec<f64> = (0..expected.len() as u64).map(|step| rate(&settings, 1.0, step, total)).collect();
        close(case.text("kind"), &actual, &expected, 1e-9);
    }
}

#[test]
fn vectors_are_not_decayed_unless_configured() {
    let device = Device::flex().autodiff();
    for decay_vectors in [false, true] {
        let two = Two {
            p1: Param::from_tensor(Tensor::ones([4], &device)),
            p2: Param::from_tensor(Tensor::ones([2, 3], &device)),
        };
        let params = serde_json::json!({"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.5});
        let settings = LearnerSettings { decay_vectors, ..settings(&params.clone().into(), &Value::Null) };
        let mut learner = Learner::new(two, &settings, 0.1, 10);
        let nothing = (learner.module().p1.val() * 0.0).sum() + (learner.module().p2.val() * 0.0).sum();
        learner.minimize(nothing).unwrap();
        // without a gradient a decayed weight shrinks by rate · decay
        let expected = [[if decay_vectors { 0.95 } else { 1.0 }; 4].to_vec(), vec![0.95; 6]].concat();
        let actual = weights::flatten(learner.module());
        assert!(actual.iter().zip(&expected).all(|(a, b): (&f32, &f32)| (a - b).abs() < 1e-6), "{actual:?}");
    }
}

#[test]
fn a_loss_that_is_not_finite_is_an_error_and_changes_no_weight() {
    let device = Device::flex().autodiff();
    let two = Two {
        p1: Param::from_tensor(Tensor::ones([4], &device)),
        p2: Param::from_tensor(Tensor::ones([2, 3], &device)),
    };
    let params = serde_json::json!({"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0});
    let mut learner = Learner::new(two, &settings(&params.clone().into(), &Value::Null), 0.1, 10);
    let before = weights::flatten(learner.module());
    let broken = (learner.module().p1.val() * f32::NAN).sum();
    assert!(matches!(learner.minimize(broken), Err(Error::Diverged { step: 0, .. })));
    // a gradient that overflows while the loss is finite
    let steep = ((learner.module().p1.val() - 1.0) * f32::MAX).sum() * 10.0;
    assert!(matches!(learner.minimize(steep), Err(Error::Diverged { .. })));
    assert_eq!(weights::flatten(learner.module()), before);
}
