//! Weights of tokens and of pairs, and sums of losses: against TRL's trainer, and by hand.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{Device, Tensor};
use duel_objectives::*;
use duel_testing::golden;
use duel_testing_tensors::precision;
use precision::{F32, F64, values};

/// Both responses of values `[2N]`.
fn halves(x: &Tensor<1>) -> ChosenRejected {
    let n = x.dims()[0] / 2;
    ChosenRejected { chosen: x.clone().narrow(0, 0, n), rejected: x.clone().narrow(0, n, n) }
}

/// A loss by TRL's name.
fn loss_of(name: &str) -> PreferenceLoss {
    match name {
        "sigmoid" => PreferenceLoss::Sigmoid { label_smoothing: 0.0 },
        "ipo" => PreferenceLoss::IpoAveraged,
        "hinge" => PreferenceLoss::Hinge,
        "nca_pair" => PreferenceLoss::Nca,
        "sppo_hard" => PreferenceLoss::Sppo,
        "apo_zero" => PreferenceLoss::ApoZero,
        other => panic!("no entry of `{other}`"),
    }
}

/// The trainer's loss from log-probs of tokens: `ld_alpha`, `use_weighting` and `loss_weights`, alone and together.
#[test]
fn golden_options_of_a_loss_on_pairs() {
    let file = golden::topic("pair_options.json");
    for p in [F32, F64] {
        let inputs = &file["inputs"];
        let input = |key: &str| p.tensor::<2>(&inputs[key]);
        let mask = ResponseMask::from_tensor(input("mask"));
        for case in file.items("cases") {
            let (alpha, beta) = (case.number("ld_alpha"), case.number("beta"));
            let logp = input("policy_logps").require_grad(); // [2N, T]
            let sums = |x: Tensor<2>| halves(&mask.row_sums(x * length_desensitized(&mask, alpha)));
            let lengths = halves(&mask.lengths());
            let whole = PairLogp::new(
                halves(&mask.row_sums(logp.clone())),
                halves(&mask.row_sums(input("reference_logps"))),
                lengths.clone(),
            );
            let weights = case["use_weighting"].as_bool().unwrap().then(|| {
                let alignment = logp.clone() - input("log_sum_sq_probs"); // [2N, T]
                wpo_weights(alignment, &mask) // [N]
            });
            let pairs =
                PairLogp { weights, ..PairLogp::new(sums(logp.clone()), sums(input("reference_logps")), lengths) };
            let names = case["loss_type"].as_array().unwrap();
            let loss_weights = golden::numbers(&case["loss_weights"]);
            let all = || names.iter().map(|name| name.as_str().unwrap()).zip(&loss_weights);
            let losses: Vec<(PreferenceLoss, f64)> =
                all().filter(|(name, _)| *name != "sft").map(|(name, &weight)| (loss_of(name), weight)).collect();
            let mut loss = mixed_preference_loss(&losses, &pairs, beta).loss;
            for (_, &weight) in all().filter(|(name, _)| *name == "sft") {
                loss = loss + chosen_nll(&whole) * weight;
            }
            let what = format!("{}, beta {beta}, alpha {alpha}", case.text("name"));
            p.values(&format!("loss of {what}"), loss.clone(), &case["loss"]);
            p.gradient(&what, logp.grad(&loss.backward()), &case["grad_logps"]);
        }
    }
}

#[test]
fn tokens_past_the_shorter_response_weigh_alpha() {
    let device = Device::flex();
    // the second token of the first response does not count
    let counted = [[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0f32]];
    let mask = ResponseMask::from_tensor(Tensor::from_data(counted, &device));
    let weights = values(mask.apply(length_desensitized(&mask, 0.25)));
    let expected = [[1.0, 0.0, 1.0, 0.25], [1.0; 4], [1.0, 1.0, 0.0, 0.0], [1.0; 4]].concat();
    assert_eq!(weights, expected);
    assert!(values(length_desensitized(&mask, 1.0)).iter().all(|&weight| weight == 1.0));
}

#[test]
fn alignment_and_weights_by_hand() {
    let device = Device::flex();
    // π = (½, ¼, ¼): Σ π² = 3/8; the tokens said have ½, ¼ and ½
    let row = [2f32.ln(), 0.0, 0.0];
    let logits = Tensor::<3>::from_data([[row, row], [row, row]], &device);
    let logp = Tensor::<2>::from_data([[0.5f32.ln(), 0.25f32.ln()], [0.5f32.ln(), -99.0]], &device);
    let alignment = sampled_alignment(logp, logits);
    let first = values(alignment.clone());
    for (actual, expected) in first.iter().zip([4.0f64 / 3.0, 2.0 / 3.0, 4.0 / 3.0]) {
        assert!((actual - expected.ln()).abs() < 1e-6, "{first:?}");
    }
    let mask = ResponseMask::from_lengths(&[2, 1], 2, &device);
    let weights = values(wpo_weights(alignment, &mask));
    assert!((weights[0] - (4.0f64 / 3.0 * 2.0 / 3.0).sqrt() * 4.0 / 3.0).abs() < 1e-6, "{weights:?}");
}

#[test]
fn dynamic_beta_follows_the_margin() {
    assert_eq!(dynamic_beta(0.5, 0.0, 3.0, 1.0), 0.5);
    assert!((dynamic_beta(0.5, 0.6, 1.5, 1.0) - 0.65).abs() < 1e-12);
    assert!((dynamic_beta(0.5, 0.6, 0.5, 1.0) - 0.35).abs() < 1e-12);
    assert!((dynamic_beta(0.5, 0.6, -9.0, 1.0) - 0.005).abs() < 1e-12, "at least a hundredth");
}
