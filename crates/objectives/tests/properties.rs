//! Properties for any lengths, any numbers on padding and any order of rows.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{DType, Device, Tensor, TensorData};
use duel_objectives::*;
use proptest::prelude::*;

const T: usize = 6;

fn values<const D: usize>(t: Tensor<D>) -> Vec<f64> {
    t.try_into_data().unwrap().iter::<f64>().collect()
}

fn matrix(rows: &[Vec<f64>]) -> Tensor<2> {
    let data = TensorData::new(rows.concat(), [rows.len(), T]);
    Tensor::from_data(data, (&Device::flex(), DType::F64))
}

fn vector(x: &[f64]) -> Tensor<1> {
    Tensor::from_data(TensorData::new(x.to_vec(), [x.len()]), (&Device::flex(), DType::F64))
}

fn mask(lengths: &[usize]) -> ResponseMask {
    let ones = |n: &usize| (0..T).map(|t| f64::from(u8::from(t < *n))).collect::<Vec<f64>>();
    ResponseMask::from_tensor(matrix(&lengths.iter().map(ones).collect::<Vec<_>>()))
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-9 * (1.0 + b.abs()))
}

/// Lengths from 0 to the full row, and a row of numbers for each.
fn batch() -> impl Strategy<Value = (Vec<usize>, Vec<Vec<f64>>, Vec<Vec<f64>>)> {
    let row = || prop::collection::vec(-3.0..3.0f64, T);
    (1..6usize).prop_flat_map(move |n| {
        (prop::collection::vec(0..=T, n), prop::collection::vec(row(), n), prop::collection::vec(row(), n))
    })
}

/// The same numbers, with garbage on padding.
fn with_garbage(rows: &[Vec<f64>], lengths: &[usize]) -> Vec<Vec<f64>> {
    let dirty = |row: &Vec<f64>, n: usize| row.iter().enumerate().map(|(t, x)| if t < n { *x } else { 1e6 }).collect();
    rows.iter().zip(lengths).map(|(row, &n)| dirty(row, n)).collect()
}

/// GAE by its definition, one response at a time.
fn gae_by_hand(rewards: &[f64], values: &[f64], n: usize, gamma: f64, lambda: f64) -> Vec<f64> {
    let value = |t: usize| if t < n { values[t] } else { 0.0 };
    let delta = |t: usize| rewards[t] + gamma * value(t + 1) - values[t];
    let advantage = |t: usize| (t..n).map(|s| (gamma * lambda).powi((s - t) as i32) * delta(s)).sum();
    (0..T).map(|t| if t < n { advantage(t) } else { 0.0 }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn means_and_sums_see_counted_tokens_only((lengths, x, _) in batch()) {
        let counted: Vec<f64> = x.iter().zip(&lengths).flat_map(|(row, &n)| row[..n].to_vec()).collect();
        let mean = counted.iter().sum::<f64>() / (counted.len().max(1)) as f64;
        let sums: Vec<f64> = x.iter().zip(&lengths).map(|(row, &n)| row[..n].iter().sum()).collect();
        let (mask, dirty) = (mask(&lengths), matrix(&with_garbage(&x, &lengths)));
        prop_assert!(close(&values(mask.mean(dirty.clone())), &[mean]));
        prop_assert!(close(&values(mask.row_sums(dirty)), &sums));
        // one last token for each response that is not empty
        let last: Vec<f64> = values(mask.row_sums(mask.last()));
        let expected: Vec<f64> = lengths.iter().map(|&n| f64::from(u8::from(n > 0))).collect();
        prop_assert!(close(&last, &expected));
    }

    #[test]
    fn rewards_sum_to_the_score_less_the_kl_penalty((lengths, logp, reference) in batch(), beta in 0.0..2.0f64) {
        let mask = mask(&lengths);
        let scores: Vec<f64> = (0..lengths.len()).map(|i| i as f64 - 1.5).collect();
        let kl = k1(matrix(&with_garbage(&logp, &lengths)), matrix(&reference));
        let rewards = kl_shaped_rewards(vector(&scores), kl, beta, &mask);
        let expected: Vec<f64> = (0..lengths.len())
            .map(|i| {
                let kl: f64 = (0..lengths[i]).map(|t| logp[i][t] - reference[i][t]).sum();
                if lengths[i] == 0 { 0.0 } else { scores[i] - beta * kl }
            })
            .collect();
        prop_assert!(close(&values(mask.row_sums(rewards)), &expected));
    }

    #[test]
    fn gae_is_its_definition((lengths, rewards, v) in batch(), gamma in 0.5..1.0f64, lambda in 0.0..1.0f64) {
        let mask = mask(&lengths);
        let actual = gae(mask.apply(matrix(&rewards)), matrix(&with_garbage(&v, &lengths)), gamma, lambda, &mask);
        let expected: Vec<f64> =
            (0..lengths.len()).flat_map(|i| gae_by_hand(&rewards[i], &v[i], lengths[i], gamma, lambda)).collect();
        prop_assert!(close(&values(actual.advantages.clone()), &expected));
        prop_assert!(close(&values(actual.returns - actual.advantages), &values(mask.apply(matrix(&v)))));
    }

    #[test]
    fn whitening_has_mean_0_and_sd_1_whatever_is_on_padding((lengths, x, _) in batch()) {
        prop_assume!(lengths.iter().sum::<usize>() > 2);
        let mask = mask(&lengths);
        let white = whiten(matrix(&with_garbage(&x, &lengths)), &mask);
        prop_assert!(close(&values(white.clone()), &values(whiten(matrix(&x), &mask))));
        let n = lengths.iter().sum::<usize>() as f64;
        prop_assert!(values(mask.mean(white.clone()))[0].abs() < 1e-9);
        let square: f64 = values(white.square().sum())[0] / (n - 1.0);
        prop_assert!((square - 1.0).abs() < 1e-4); // ε is added under the root
    }

    #[test]
    fn ppo_at_ratio_1_is_minus_the_mean_advantage((lengths, logp, advantages) in batch(), clip in 0.05..0.5f64) {
        let mask = mask(&lengths);
        let old = matrix(&logp);
        let actual = PolicyGradientLoss::clipped(clip).evaluate(old.clone(), old, matrix(&with_garbage(&advantages, &lengths)), &mask);
        prop_assert!(close(&values(actual.loss), &values(mask.mean(matrix(&advantages)).neg())));
        prop_assert_eq!(values(actual.clip_share)[0], 0.0);
        prop_assert_eq!(values(actual.kl)[0], 0.0);
    }

    #[test]
    fn clipping_never_makes_the_loss_smaller((lengths, logp, old) in batch(), clip in 0.05..0.5f64) {
        let mask = mask(&lengths);
        let advantages = matrix(&old.iter().map(|row| row.iter().rev().copied().collect()).collect::<Vec<_>>());
        let loss = |clip: f64| {
            values(PolicyGradientLoss::clipped(clip).evaluate(matrix(&logp), matrix(&old), advantages.clone(), &mask).loss)[0]
        };
        prop_assert!(loss(clip) >= loss(1e9) - 1e-9);
    }

    #[test]
    fn estimates_of_kl_are_not_negative_where_they_cannot_be((_, logp, reference) in batch()) {
        let (p, q) = (matrix(&logp), matrix(&reference));
        prop_assert!(values(k2(p.clone(), q.clone())).into_iter().all(|x| x >= 0.0));
        prop_assert!(values(k3(p, q)).into_iter().all(|x| x >= -1e-12));
    }

    #[test]
    fn pairs_in_another_order_give_the_same_losses(
        rows in prop::collection::vec(prop::collection::vec(-9.0..0.0f64, 4), 1..8),
        beta in 0.05..2.0f64,
        turn in 0..8usize,
    ) {
        let losses = |rows: &[Vec<f64>], kind: &PreferenceLoss| {
            let column = |i: usize| vector(&rows.iter().map(|r| r[i]).collect::<Vec<_>>());
            let pairs = PairLogp::new(ChosenRejected { chosen: column(0), rejected: column(1) }, ChosenRejected { chosen: column(2), rejected: column(3) }, ChosenRejected { chosen: column(0).ones_like() * 3.0, rejected: column(0).ones_like() });
            let outcome = preference_loss(kind, &pairs, beta);
            (values(outcome.losses.clone()), values(outcome.margins()), values(outcome.loss)[0])
        };
        let mut turned = rows.clone();
        turned.rotate_left(turn % rows.len());
        for kind in [
            PreferenceLoss::Sigmoid { label_smoothing: 0.1 },
            PreferenceLoss::Hinge,
            PreferenceLoss::Ipo,
            PreferenceLoss::Robust { label_smoothing: 0.2 },
            PreferenceLoss::SimPo { gamma: 0.5 },
            PreferenceLoss::Positive { lambda: 5.0 },
        ] {
            let (mut losses_before, margins, mean) = losses(&rows, &kind);
            let (losses_after, _, mean_after) = losses(&turned, &kind);
            losses_before.rotate_left(turn % rows.len());
            prop_assert!(close(&losses_before, &losses_after) && (mean - mean_after).abs() < 1e-9);
            // swapping the responses flips the margin
            let swapped: Vec<Vec<f64>> = rows.iter().map(|r| vec![r[1], r[0], r[3], r[2]]).collect();
            if kind == PreferenceLoss::Hinge {
                let back: Vec<f64> = losses(&swapped, &kind).1.iter().map(|m| -m).collect();
                prop_assert!(close(&margins, &back));
            }
        }
    }

    #[test]
    fn tied_preferences_cost_ln_2_and_pull_nowhere(x in prop::collection::vec(-50.0..0.0f64, 1..8), beta in 0.05..2.0f64) {
        let device = Device::flex().autodiff();
        let leaf = Tensor::<1>::from_data(TensorData::new(x.clone(), [x.len()]), (&device, DType::F64)).require_grad();
        let tied = |x: Tensor<1>| ChosenRejected { chosen: x.clone(), rejected: x };
        let pairs = PairLogp::new(tied(leaf.clone()), tied(leaf.zeros_like().detach()), tied(leaf.ones_like().detach()));
        let outcome = preference_loss(&PreferenceLoss::Sigmoid { label_smoothing: 0.0 }, &pairs, beta);
        prop_assert!(close(&values(outcome.loss.clone()), &[std::f64::consts::LN_2]));
        let gradient = values(leaf.grad(&outcome.loss.backward()).unwrap());
        prop_assert!(gradient.into_iter().all(|g| g.abs() < 1e-15));
    }

    #[test]
    fn a_constant_on_all_scores_changes_no_reward_model_loss(
        scores in prop::collection::vec((-5.0..5.0f64, -5.0..5.0f64), 1..8),
        shift in -100.0..100.0f64,
    ) {
        let loss = |shift: f64| {
            let side = |f: fn(&(f64, f64)) -> f64| vector(&scores.iter().map(|s| f(s) + shift).collect::<Vec<_>>());
            let scores = ChosenRejected { chosen: side(|s| s.0), rejected: side(|s| s.1) };
            values(bradley_terry_loss(scores, BradleyTerryOptions::default()).loss)[0]
        };
        prop_assert!((loss(0.0) - loss(shift)).abs() < 1e-9);
    }
}
