//! Identities and values computed by hand.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{Device, Tensor, TensorData};
use duel_objectives::*;
use duel_testing_tensors::precision::{self, F32, F64};

fn values<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    t.try_into_vec_as::<f32>().unwrap()
}

#[test]
fn dpo_starts_at_ln_2_and_a_swap_flips_the_margin() {
    let device = Device::flex();
    let both = |c: [f32; 2], r: [f32; 2]| ChosenRejected {
        chosen: Tensor::from_data(c, &device),
        rejected: Tensor::from_data(r, &device),
    };
    let pairs_at = |c, r| PairLogp::new(both(c, r), both([0.0; 2], [0.0; 2]), both([3.0, 1.0], [2.0, 5.0]));
    let plain = PreferenceLoss::Sigmoid { label_smoothing: 0.0 };
    let start = preference_loss(&plain, &pairs_at([0.0, 0.0], [0.0, 0.0]), 0.3);
    assert!((values(start.loss)[0] - std::f32::consts::LN_2).abs() < 1e-6);
    let margins = values(preference_loss(&plain, &pairs_at([1.0, -2.0], [0.5, 0.0]), 2.0).margins());
    let swapped_margins = values(preference_loss(&plain, &pairs_at([0.5, 0.0], [1.0, -2.0]), 2.0).margins());
    assert_eq!(margins, vec![1.0, -4.0]);
    assert_eq!(swapped_margins, vec![-1.0, 4.0]);
}

/// A margin m turns `−log σ(u)` into `−log σ(u − m)`; the rewards and the added NLL do not include it.
#[test]
fn a_margin_is_subtracted_from_u_alone() {
    let device = Device::flex();
    let both = |chosen: f32, rejected: f32| ChosenRejected {
        chosen: Tensor::from_data([chosen], &device),
        rejected: Tensor::from_data([rejected], &device),
    };
    let (beta, margin) = (0.3, 0.75f32);
    let pairs = PairLogp::new(both(-8.0, -11.0), both(-9.0, -10.0), both(4.0, 5.0));
    let with_margin = pairs.clone().with_margin(Tensor::from_data([margin], &device), beta);
    let plain = PreferenceLoss::Sigmoid { label_smoothing: 0.0 };
    let [without, with] = [&pairs, &with_margin].map(|pairs| preference_loss(&plain, pairs, beta));
    let u = 0.3 * 2.0; // Δw = 1, Δl = −1
    let loss = |u: f32| (1.0 + (-u).exp()).ln();
    assert!((values(without.loss.clone())[0] - loss(u)).abs() < 1e-6);
    assert!((values(with.loss.clone())[0] - loss(u - margin)).abs() < 1e-6);
    assert!((values(with.margins())[0] - u).abs() < 1e-6, "the reported margin is u");
    let nll = [&pairs, &with_margin].map(|pairs| values(chosen_sequence_nll(pairs))[0]);
    assert!(nll.iter().all(|nll| (nll - 2.0).abs() < 1e-6), "8 nats over 4 tokens: {nll:?}");
}

/// A policy may be hundreds of nats from its reference, or nearly certain of a response; neither may lead to ∞ · 0 or to the
/// logarithm of 0.
#[test]
fn losses_are_finite_far_from_the_reference() {
    let device = Device::flex();
    let both = |chosen: f32, rejected: f32| ChosenRejected {
        chosen: Tensor::from_data([chosen], &device),
        rejected: Tensor::from_data([rejected], &device),
    };
    for (chosen, rejected) in [(-300.0, -1.0), (-1.0, -300.0), (0.0, -1e-9), (-1e-9, 0.0), (0.0, 0.0)] {
        let policy = both(chosen, rejected);
        let pairs = PairLogp::new(policy, both(-20.0, -20.0), both(3.0, 2.0));
        for (loss, beta) in [
            (PreferenceLoss::DiscoPop { tau: 0.05 }, 1.0),
            (PreferenceLoss::DiscoPop { tau: 0.5 }, 1e3),
            (PreferenceLoss::Orpo, 0.1),
            (PreferenceLoss::JsDivergence, 1e3),
            (PreferenceLoss::AlphaDivergence { alpha: 0.5 }, 0.1),
            (PreferenceLoss::Exo { label_smoothing: 0.0 }, 1e3),
        ] {
            let actual = values(preference_loss(&loss, &pairs, beta).loss)[0];
            assert!(actual.is_finite(), "{loss:?} at {chosen} and {rejected}: {actual}");
        }
    }
}

#[test]
fn gae_by_hand_and_at_lambda_1() {
    let device = Device::flex();
    let mask = ResponseMask::from_lengths(&[3, 1], 3, &device);
    let rewards = Tensor::<2>::from_data([[0.0, 0.0, 1.0], [2.0, 0.0, 0.0]], &device);
    let garbage = 99.0;
    let values_in = Tensor::<2>::from_data([[0.5, 0.25, 0.75], [0.5, garbage, garbage]], &device);
    // row 0, γ 1, λ ½: δ = (-0.25, 0.5, 0.25); A2 = .25, A1 = .5 + .125, A0 = -.25 + .3125
    let half = gae(rewards.clone(), values_in.clone(), 1.0, 0.5, &mask);
    assert_eq!(values(half.advantages), vec![0.0625, 0.625, 0.25, 1.5, 0.0, 0.0]);
    let estimate = gae(rewards, values_in, 1.0, 1.0, &mask);
    assert_eq!(values(estimate.advantages), vec![0.5, 0.75, 0.25, 1.5, 0.0, 0.0]);
    assert_eq!(values(estimate.returns), vec![1.0, 1.0, 1.0, 2.0, 0.0, 0.0]);
}

#[test]
fn the_score_lands_once_on_the_last_counted_token() {
    let device = Device::flex();
    let mask = ResponseMask::from_lengths(&[1, 3, 2], 3, &device);
    let zero = Tensor::<2>::zeros([3, 3], &device);
    let rewards = kl_shaped_rewards(Tensor::from_data([1.0, 2.0, 3.0], &device), zero, 0.1, &mask);
    assert_eq!(values(rewards), vec![1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 3.0, 0.0]);
}

/// What is given at tokens stays there, and the rest of a score lands on the last counted token, whatever padding says.
#[test]
fn a_score_in_parts_lands_where_they_are() {
    for p in [F32, F64] {
        let tensor = |x: [[f64; 3]; 3]| {
            let data = TensorData::new(x.concat(), [3, 3]);
            Tensor::<2>::from_data(data, (&Device::flex(), p.dtype))
        };
        let mask = ResponseMask::from_tensor(tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0; 3]]));
        let scores = Tensor::<1>::from_data(TensorData::new(vec![2.0, 1.5, 4.0], [3]), (&Device::flex(), p.dtype));
        let token_rewards = tensor([[0.5, 1.0, 9.0], [1.0, 0.5, 0.0], [7.0, 0.0, 0.0]]);
        let kl = tensor([[0.2, 0.4, 9.0], [0.0, 1.0, 0.0], [3.0, 0.0, 0.0]]);
        let rewards = precision::values(step_shaped_rewards(scores, token_rewards, kl, 0.5, &mask));
        // of the first score a half is left, of the second nothing; the third response is masked
        let by_hand = [0.5 - 0.1, 1.0 + 0.5 - 0.2, 0.0, 1.0, 0.5 - 0.5, 0.0, 0.0, 0.0, 0.0];
        duel_testing::golden::close_within("rewards", &rewards, &by_hand, p.value, 4.0 * p.epsilon);
    }
}

/// GDPO: pairs of responses, whose rewards are ±½ of their difference d over d/√2 + 1e-4; a group without spread has no advantage.
#[test]
fn rewards_are_normalized_each_before_their_sum() {
    for p in [F32, F64] {
        let reward = |x: [f64; 6]| Tensor::<1>::from_data(TensorData::new(x.to_vec(), [6]), (&Device::flex(), p.dtype));
        let correct = reward([0.0, 1.0, 0.0, 2.0, 7.0, 7.0]);
        let brief = reward([3.0, 1.0, 5.0, 5.0, 0.1, 0.1]);
        let [one, two] = [1.0f64, 2.0].map(|d| 0.5 * d / (d / 2f64.sqrt() + 1e-4));
        // the first pair is apart by 1 and by −2, the second by 2 and by nothing
        let first = one - 0.5 * two;
        let sum = [-first, first, -two, two, 0.0, 0.0];
        let sd = (sum.iter().map(|x| x * x).sum::<f64>() / 5.0).sqrt() + 1e-4;
        let rewards = || vec![(correct.clone(), 1.0), (brief.clone(), 0.5)];
        let advantages = precision::values(group_decoupled(rewards(), 2));
        duel_testing::golden::close("GDPO", &advantages, &sum.map(|x| x / sd), p.value);
        assert_eq!(advantages[4..], [0.0; 2], "without spread there is no advantage, to the bit");
        // an offset and a scale of one reward change nothing but the 1e-4
        let scaled = vec![(correct.clone() * 100.0 + 3.0, 1.0), (brief.clone() * 100.0, 0.5)];
        duel_testing::golden::close("scaled", &precision::values(group_decoupled(scaled, 2)), &advantages, 1e-3);
        // a sum before the normalization cannot tell apart what differs by the weights: .5 · 2 for 1
        let summed = precision::values(group_relative(correct.clone() + brief.clone() * 0.5, 2, true));
        assert!(summed[0].abs() < 1e-6 && advantages[0].abs() > 0.1, "{summed:?} {advantages:?}");
    }
}

#[test]
fn clipping_stops_gains_but_not_losses() {
    let device = Device::flex();
    let mask = ResponseMask::from_lengths(&[2], 2, &device);
    let old = Tensor::<2>::zeros([1, 2], &device);
    let ratio = |r: f32| Tensor::<2>::from_data([[r.ln(), r.ln()]], &device);
    let advantage = Tensor::<2>::from_data([[1.0, -1.0]], &device);
    // r = 1.5, ε = .2: gain counts as 1.2, loss in full: -(1.2 - 1.5) / 2
    let up = PolicyGradientLoss::clipped(0.2).evaluate(ratio(1.5), old.clone(), advantage.clone(), &mask);
    assert!((values(up.loss)[0] - 0.15).abs() < 1e-6);
    assert_eq!(values(up.clip_share), vec![0.5]); // binding on the gain only
    // the tokens were sampled from the old policy: k3 of KL(old || new) is r − 1 − ln r
    assert!((values(up.kl)[0] - (0.5 - 1.5f32.ln())).abs() < 1e-6);
    // r = 1: the loss is minus the mean advantage, nothing is clipped, the policies agree
    let same = PolicyGradientLoss::clipped(0.2).evaluate(ratio(1.0), old, advantage, &mask);
    assert_eq!((values(same.loss)[0], values(same.clip_share)[0], values(same.kl)[0]), (0.0, 0.0, 0.0));
}

/// The loss and its gradient by the log-probs of a token.
fn loss_and_slope(loss: PolicyGradientLoss, ratios: &[f32], advantages: &[f32]) -> (f32, Vec<f32>) {
    let device = Device::flex().autodiff();
    let row = |x: Vec<f32>| Tensor::<2>::from_data(TensorData::new(x.clone(), [1, x.len()]), &device);
    let logp = row(ratios.iter().map(|r| r.ln() - 1.0).collect()).require_grad();
    let mask = ResponseMask::from_lengths(&[ratios.len()], ratios.len(), &device);
    let old = row(vec![-1.0; ratios.len()]);
    let loss = loss.evaluate(logp.clone(), old, row(advantages.to_vec()), &mask).loss;
    let slope = logp.grad(&loss.clone().backward()).map(values).unwrap_or_default();
    (values(loss)[0], slope)
}

fn near(actual: &[f32], expected: &[f32]) -> bool {
    actual.len() == expected.len() && actual.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5)
}

/// Zheng et al. 2025, eq. 14: with one advantage GSPO-token has GSPO's value and gradient; with several each token has its own.
#[test]
fn a_sequence_ratio_of_tokens_by_hand() {
    let at = |level| PolicyGradientLoss { level, ..PolicyGradientLoss::clipped(0.5) };
    let (ratios, s) = ([1.44f32, 1.0], 1.2f32); // √1.44
    for level in [RatioLevel::Sequence, RatioLevel::SequenceToken] {
        let (loss, slope) = loss_and_slope(at(level), &ratios, &[2.0, 2.0]);
        assert!((loss + 2.0 * s).abs() < 1e-5 && near(&slope, &[-s, -s]), "{level:?}: {loss}, {slope:?}");
    }
    // each token's advantage is half of the mean; a sequence mixes them
    let (loss, slope) = loss_and_slope(at(RatioLevel::SequenceToken), &ratios, &[2.0, -1.0]);
    assert!((loss + 0.5 * s).abs() < 1e-5 && near(&slope, &[-s, 0.5 * s]), "{loss}, {slope:?}");
    let (_, slope) = loss_and_slope(at(RatioLevel::Sequence), &ratios, &[2.0, -1.0]);
    assert!(near(&slope, &[-0.25 * s, -0.25 * s]), "{slope:?}");
    // the ratio of the whole is clipped, though one token is at 1
    let (loss, slope) = loss_and_slope(
        PolicyGradientLoss { level: RatioLevel::SequenceToken, ..PolicyGradientLoss::clipped(0.1) },
        &ratios,
        &[2.0, 2.0],
    );
    assert!((loss + 2.2).abs() < 1e-5 && near(&slope, &[0.0, 0.0]), "{loss}, {slope:?}");
}

/// Ye et al. 2020: `max(min(r A, clip(r) A), c A)` where A < 0.
#[test]
fn a_dual_clip_bounds_what_is_lost() {
    let surrogate = Surrogate::Clipped { low: 0.2, high: 0.2, dual: 3.0 };
    let dual = PolicyGradientLoss { surrogate, ..PolicyGradientLoss::clipped(0.2) };
    for (r, advantage, gain, slope) in [
        (5.0, -1.0, -3.0, 0.0),
        (2.5, -1.0, -2.5, -2.5),
        (0.5, -1.0, -0.8, 0.0),
        (5.0, 1.0, 1.2, 0.0),
        (0.5, 1.0, 0.5, 0.5),
    ] {
        let (loss, actual) = loss_and_slope(dual, &[r], &[advantage]);
        assert!((loss + gain).abs() < 1e-5 && near(&actual, &[-slope]), "{r}, {advantage}: {loss}, {actual:?}");
    }
}

/// MiniMax 2025: a clipped weight still has a gradient.
#[test]
fn a_clipped_weight_still_learns() {
    let surrogate = Surrogate::ClippedWeight { low: 0.2, high: 0.5 };
    let cispo = PolicyGradientLoss { surrogate, ..PolicyGradientLoss::clipped(0.2) };
    for (r, weight) in [(0.5f32, 0.8f32), (1.3, 1.3), (4.0, 1.5)] {
        let (loss, slope) = loss_and_slope(cispo, &[r], &[2.0]);
        let logp = r.ln() - 1.0;
        assert!((loss + weight * 2.0 * logp).abs() < 1e-5 && near(&slope, &[-2.0 * weight]), "{r}: {loss}, {slope:?}");
    }
}

/// At r = 1 every loss is a plain policy gradient, −A ∇log π.
#[test]
fn every_policy_loss_starts_as_the_policy_gradient() {
    let clipped = PolicyGradientLoss::clipped(0.2);
    for surrogate in [
        clipped.surrogate,
        Surrogate::ClippedWeight { low: 0.2, high: 0.2 },
        Surrogate::SoftGate { positive: 1.0, negative: 1.05 },
        Surrogate::SoftWeight {
            positive: SoftKernel { k: 2.0, lambda: 3.0 },
            negative: SoftKernel { k: 3.0, lambda: 2.0 },
        },
    ] {
        for level in [RatioLevel::Token, RatioLevel::Sequence, RatioLevel::SequenceToken] {
            let loss = PolicyGradientLoss { level, surrogate, off_policy_mask_threshold: 1e-3 };
            let (_, slope) = loss_and_slope(loss, &[1.0, 1.0], &[-2.0, -2.0]);
            assert!(near(&slope, &[1.0, 1.0]), "{loss:?}: {slope:?}");
        }
    }
}

#[test]
fn whitening_ignores_padding() {
    let device = Device::flex();
    let mask = ResponseMask::from_lengths(&[2, 1], 2, &device);
    let x = |pad: f32| Tensor::<2>::from_data([[1.0, 2.0], [3.0, pad]], &device);
    let white = values(whiten(x(0.0), &mask));
    assert_eq!(white, values(whiten(x(1e3), &mask)));
    for (actual, expected) in white.iter().zip([-1.0, 0.0, 1.0, 0.0]) {
        assert!((actual - expected).abs() < 1e-6, "{white:?}");
    }
}

/// Two pairs by the policy's log-ratios to the reference.
fn pairs_of(chosen: [f32; 2], rejected: [f32; 2]) -> PairLogp {
    let device = Device::flex();
    let both = |c: [f32; 2], r: [f32; 2]| ChosenRejected {
        chosen: Tensor::from_data(c, &device),
        rejected: Tensor::from_data(r, &device),
    };
    let (reference_chosen, reference_rejected) = ([-7.0, -3.0], [-4.0, -6.0]);
    let sum = |a: [f32; 2], b: [f32; 2]| [a[0] + b[0], a[1] + b[1]];
    PairLogp::new(
        both(sum(reference_chosen, chosen), sum(reference_rejected, rejected)),
        both(reference_chosen, reference_rejected),
        both([3.0, 1.0], [2.0, 5.0]),
    )
}

#[test]
fn at_the_reference_every_loss_has_its_known_value() {
    use PreferenceLoss as Loss;
    let (label_smoothing, beta) = (0.1, 0.4);
    let start = pairs_of([0.0; 2], [0.0; 2]);
    for loss in [
        Loss::Sigmoid { label_smoothing },
        Loss::SigmoidAveraged,
        Loss::Robust { label_smoothing },
        Loss::Hinge,
        Loss::Ipo,
        Loss::IpoAveraged,
        Loss::Exo { label_smoothing },
        Loss::Exo { label_smoothing: 0.0 },
        Loss::Nca,
        Loss::Bco,
        Loss::Sppo,
        Loss::ApoZero,
        Loss::ApoDown,
        Loss::Aot { label_smoothing },
        Loss::AotUnpaired { label_smoothing },
        Loss::DiscoPop { tau: 0.05 },
        Loss::ForwardKl,
        Loss::AlphaDivergence { alpha: 0.5 },
        Loss::JsDivergence,
        Loss::KtoPair,
        Loss::Positive { lambda: 5.0 },
    ] {
        let actual = f64::from(values(preference_loss(&loss, &start, beta).loss)[0]);
        let expected = loss.properties(beta).at_reference.unwrap();
        assert!((actual - expected).abs() < 1e-5, "{loss:?}: {actual}, expected {expected}");
    }
    for loss in [Loss::SimPo { gamma: 0.5 }, Loss::Orpo, Loss::PreferredFt, Loss::Unlikelihood { alpha: 0.5 }] {
        assert_eq!(loss.properties(beta).at_reference, None, "{loss:?}");
    }
}

#[test]
fn losses_without_golden_values_by_hand() {
    use PreferenceLoss as Loss;
    let pairs = pairs_of([-1.0, 2.0], [0.5, -0.5]);
    let losses = |loss: Loss| values(preference_loss(&loss, &pairs, 0.4).losses);
    // log π: chosen −8, −1; rejected −3.5, −6.5
    assert_eq!(losses(Loss::PreferredFt), [8.0, 1.0]);
    assert_eq!(losses(Loss::Unlikelihood { alpha: 0.5 }), [8.0 - 1.75, 1.0 - 3.25]);
    // u = −.6 and 1; the first chosen response fell by 1 nat: u − βλ·1
    let log_sigmoid = |x: f32| -(1.0 + (-x).exp()).ln();
    let expected = [-log_sigmoid(-0.6 - 0.4 * 5.0), -log_sigmoid(1.0)];
    for (actual, expected) in losses(Loss::Positive { lambda: 5.0 }).into_iter().zip(expected) {
        assert!((actual - expected).abs() < 1e-6, "{actual}, expected {expected}");
    }
    assert_eq!(losses(Loss::Positive { lambda: 0.0 }), losses(Loss::Sigmoid { label_smoothing: 0.0 }));
}

#[test]
fn rao_kupper_probabilities_of_the_three_labels_sum_to_one() {
    let device = Device::flex();
    let alpha = 0.7f64;
    let loss_at = |u: [f32; 3], tied: f32| {
        let tied = Tensor::<1>::from_data([tied; 3], &device);
        values(rao_kupper(Tensor::from_data(u, &device), Some(tied), alpha))
    };
    let u = [-1.3, 0.0, 2.0f32];
    let (first, second, tie) = (loss_at(u, 0.0), loss_at(u.map(|u| -u), 0.0), loss_at(u, 1.0));
    let constant = (2.0 * alpha).exp() - 1.0; // ν² − 1
    for i in 0..3 {
        let mass = (-first[i]).exp() + (-second[i]).exp() + constant as f32 * (-tie[i]).exp();
        assert!((mass - 1.0).abs() < 1e-5, "{mass}");
    }
    // worths 2 to 1 at ν = 3: 2/(2 + 3) and 1/(6 + 1)
    let [two, three] = [2f32, 3.0].map(f32::ln);
    let loss_of = |u: f32| values(rao_kupper(Tensor::<1>::from_data([u], &device), None, f64::from(three)))[0];
    assert!((loss_of(two) - 2.5f32.ln()).abs() < 1e-6 && (loss_of(-two) - 7f32.ln()).abs() < 1e-6);
    // the loss of a policy and that of a reward model are the same function
    let pairs =
        PairLogp { tied: Some(Tensor::from_data([1.0, 0.0f32], &device)), ..pairs_of([-1.0, 2.0], [0.5, -0.5]) };
    let outcome = preference_loss(&PreferenceLoss::RaoKupper { alpha }, &pairs, 0.4); // u = −.6 and 1
    let scores = ChosenRejected { chosen: outcome.margins(), rejected: Tensor::zeros([2], &device) };
    let terms = BradleyTerryOptions { ties: Some((pairs.tied.unwrap(), alpha)), ..BradleyTerryOptions::default() };
    assert_eq!(values(outcome.losses), values(bradley_terry_loss(scores, terms).losses));
}
