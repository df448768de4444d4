//! The learner against closed forms: gradients, parts, schedule, norms, dropout, and what it refuses.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use duel_model::weights;
use duel_spec::{LearnerSettings, OptimizerKind, Schedule};
use duel_training::{Error, Learner, norm};

#[derive(Module, Debug)]
struct Pair {
    x: Param<Tensor<1>>,
    y: Param<Tensor<1>>,
}

fn parameter<const N: usize>(values: [f32; N]) -> Param<Tensor<1>> {
    Param::from_tensor(Tensor::from_data(values, &Device::flex().autodiff()).require_grad())
}

fn pair(x: [f32; 2], y: [f32; 2]) -> Pair {
    Pair { x: parameter(x), y: parameter(y) }
}

/// A constant rate, no decay and no clipping.
fn settings(optimizer: OptimizerKind) -> LearnerSettings {
    LearnerSettings {
        optimizer,
        weight_decay: 0.0,
        clip_norm: f64::INFINITY,
        schedule: Schedule::Constant,
        warmup: 0.0,
        ..LearnerSettings::defaults()
    }
}

#[test]
fn a_gradient_is_that_of_the_module_that_the_loss_reads() {
    let learner = Learner::new(pair([1.0, -2.0], [3.0, 0.5]), &settings(OptimizerKind::Lion), 0.1, 4);
    // ∇ Σ x² = 2x; y is not reached
    let loss = |module: &Pair| module.x.val().square().sum();
    assert_eq!(learner.gradient(loss(learner.module())), [2.0, -4.0, 0.0, 0.0]);
    let other = pair([5.0, 7.0], [0.0, 0.0]);
    assert_eq!(learner.gradient_of(&other, loss(&other)), [10.0, 14.0, 0.0, 0.0]);
    assert_eq!(weights::flatten(learner.module()), [1.0, -2.0, 3.0, 0.5], "no step");
    assert_eq!(learner.step(), 0);
}

#[test]
fn norms_and_the_update_ratio_are_those_of_the_step() {
    let mut learner = Learner::new(pair([3.0, -4.0], [0.0, 0.0]), &settings(OptimizerKind::Lion), 0.1, 4);
    // Lion moves each weight with a gradient by the rate: two of norm 5
    let update = learner.minimize(learner.module().x.val().square().sum()).unwrap();
    assert_eq!((update.loss, update.grad_norm, update.learning_rate), (25.0, 10.0, 0.1));
    assert!((update.update_ratio - 0.1 * 2f64.sqrt() / 5.0).abs() < 1e-6, "{}", update.update_ratio);
    assert!((norm(&weights::flatten(learner.module())) - (2.9f64.powi(2) + 3.9f64.powi(2)).sqrt()).abs() < 1e-6);
}

#[test]
fn the_schedule_counts_skipped_updates() {
    let settings = LearnerSettings { schedule: Schedule::Linear, final_rate: 0.0, ..settings(OptimizerKind::Adamw) };
    let mut learner = Learner::new(pair([1.0, 1.0], [1.0, 1.0]), &settings, 0.8, 8);
    let mut rates = vec![];
    for skipped in [0, 0, 3, 1] {
        learner.skip(skipped);
        rates.push(learner.minimize(learner.module().x.val().sum()).unwrap().learning_rate);
    }
    for (actual, planned) in rates.iter().zip([0.0, 1.0, 5.0, 7.0]) {
        assert!((actual - 0.8 * (1.0 - planned / 8.0)).abs() < 1e-12, "{rates:?}");
    }
    assert_eq!((learner.step(), learner.skipped(), learner.updates_made()), (4, 4, 4));
}

#[test]
fn rows_are_divided_into_as_many_parts_as_accumulate_says() {
    let parts = |accumulate: usize, rows: usize, together: usize| -> Vec<Vec<usize>> {
        let settings = LearnerSettings { accumulate, ..settings(OptimizerKind::Adamw) };
        let learner = Learner::new(pair([1.0, 1.0], [1.0, 1.0]), &settings, 0.1, 1);
        learner.parts(&(0..rows).collect::<Vec<_>>(), together)
    };
    assert_eq!(parts(2, 8, 2), [[0, 1, 2, 3], [4, 5, 6, 7]]);
    assert_eq!(parts(4, 8, 2), [[0, 1], [2, 3], [4, 5], [6, 7]]);
    assert_eq!(parts(8, 8, 4), [[0, 1, 2, 3], [4, 5, 6, 7]], "four rows stay together");
    assert_eq!(parts(1, 5, 1), [[0, 1, 2, 3, 4]]);
    assert_eq!(parts(2, 5, 1), [vec![0, 1, 2], vec![3, 4]]);
    assert!(parts(2, 0, 1).is_empty());
}

/// An epsilon that f32 rounds to 0 divides 0 by 0 for a weight without a gradient.
#[test]
fn a_step_at_rate_0_is_tried_before_the_first_update() {
    for optimizer in [OptimizerKind::Adamw, OptimizerKind::Rmsprop] {
        let settings = LearnerSettings { adam_epsilon: 1e-60, rms_epsilon: 1e-60, ..settings(optimizer) };
        let mut learner = Learner::new(pair([1.0, 2.0], [3.0, 4.0]), &settings, 0.1, 4);
        match learner.minimize(learner.module().x.val().sum()) {
            Err(Error::Diverged { step: 0, what, .. }) => assert!(what.contains("learning rate 0"), "{what}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(weights::flatten(learner.module()), [1.0, 2.0, 3.0, 4.0]);
    }
}

#[test]
fn a_step_to_weights_that_are_not_finite_is_a_divergence_after_it() {
    let mut learner = Learner::new(pair([1.0, 2.0], [3.0, 4.0]), &settings(OptimizerKind::Lion), 1e38, 4);
    let mut steps = vec![];
    loop {
        let loss = (learner.module().x.val() * 1e-3).sum();
        match learner.minimize(loss) {
            Ok(_) => steps.push(learner.step()),
            Err(Error::Diverged { step, what, .. }) => {
                // −1e38 per step: the fourth is beyond f32
                assert_eq!((steps.as_slice(), step), (&[1, 2, 3][..], 4), "{what}");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
#[should_panic(expected = "share an id")]
fn trained_parameters_cannot_be_shared() {
    let shared = parameter([1.0, 2.0]);
    Learner::new(Pair { x: shared.clone(), y: shared }, &LearnerSettings::defaults(), 0.1, 1);
}

#[test]
fn frozen_parameters_can_be_shared() {
    let shared = parameter([1.0, 2.0]).set_require_grad(false);
    let learner = Learner::new(Pair { x: shared.clone(), y: shared }, &LearnerSettings::defaults(), 0.1, 1);
    assert_eq!(learner.parameters(), 0);
}

#[derive(Module, Debug)]
struct Adapted {
    lora: Factors,
}

#[derive(Module, Debug)]
struct Factors {
    a: Param<Tensor<2>>,
    b: Param<Tensor<2>>,
}

/// A dropped input has a row of zeros and no gradient, for one iteration; the others are scaled up.
#[test]
fn dropout_applies_to_weights_and_gradients_of_an_iteration() {
    let device = Device::flex().autodiff();
    let matrix = |rows| Param::from_tensor(Tensor::<2>::ones([rows, 2], &device).require_grad());
    let learner = |share| {
        let module = Adapted { lora: Factors { a: matrix(64), b: matrix(2) } };
        Learner::new(module, &settings(OptimizerKind::Adamw), 0.1, 4).with_dropout(share, 3)
    };
    let factors = |learner: &Learner<Adapted>| {
        let flat = weights::flatten(learner.module());
        assert_eq!(flat[128..], [1.0; 4], "B is never dropped");
        // ∇ Σ a²/2 over the weights before dropout is the factor squared
        let a = learner.module().lora.a.val();
        let gradient = learner.gradient((a.square().sum() + learner.module().lora.b.val().sum() * 0.0) * 0.5);
        assert!(flat[..128].iter().zip(&gradient).all(|(factor, g)| *g == factor * factor));
        let rows: Vec<f32> = flat[..128].chunks(2).map(|row| row[0]).collect();
        assert!(flat[..128].chunks(2).all(|row| row[0] == row[1]));
        rows
    };
    let mut dropping = learner(0.75);
    assert_eq!(factors(&dropping), [1.0; 64]);
    dropping.apply_dropout(0);
    let first = factors(&dropping);
    assert!(first.contains(&0.0) && first.contains(&4.0) && first.iter().all(|x| [0.0, 4.0].contains(x)), "{first:?}");
    dropping.apply_dropout(1);
    assert_ne!(factors(&dropping), first, "another iteration, another mask");
    dropping.remove_dropout();
    assert_eq!(factors(&dropping), [1.0; 64]);

    let mut without = learner(0.0);
    without.apply_dropout(0);
    assert_eq!(factors(&without), [1.0; 64]);
}
