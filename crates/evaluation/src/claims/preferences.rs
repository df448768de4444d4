//! A3, A6, A7, A8: what losses on pairs converge to.

use super::claim::ExactClaim;
use super::theory::{doubles, host, largest, normalised, sigmoid};
use crate::{ResponseDistribution, WorldTables, optimum};
use burn::tensor::{Device, Tensor};
use duel_data::bandit;
use duel_objectives::{ChosenRejected, PairLogp, PreferenceLoss, preference_loss};
use std::f64::consts::LN_2;

const PLAIN: PreferenceLoss = PreferenceLoss::Sigmoid { label_smoothing: 0.0 };

/// A3: with all pairs at population weights, DPO's optimum is π*.
pub fn population_optimum() -> ExactClaim {
    let s0 = WorldTables::bandit();
    let mut claim =
        ExactClaim::new("A3", "DPO on all pairs at population weights has π* as its optimum (τ: π* of r/τ)");
    for (tau, beta) in [(1.0, 0.5), (1.0, 0.1), (0.5, 0.5)] {
        let (mut distances, mut loss) = (vec![], 0.0);
        for (q, r) in s0.reference.iter().zip(&s0.gold) {
            let rewards: Vec<f64> = r.iter().map(|r| r / tau).collect();
            let (implicit, minimum) = fit(&q.p, &rewards);
            let policy = normalised(q.logp.iter().zip(&implicit).map(|(q, s)| q + s / beta).collect());
            distances.push(policy.total_variation(&optimum(q, r, beta * tau))); // π* of r/τ at β
            loss += minimum / s0.gold.len() as f64;
        }
        claim = claim.near(format!("total variation to π*, τ {tau}, β {beta}"), 0.0, largest(distances), 1e-6);
        if tau == 1.0 {
            claim = claim.near(format!("population loss, β {beta}"), 0.532224, loss, 1e-6);
        }
    }
    let covered: f64 = s0.reference.iter().zip(&s0.gold).map(|(q, r)| fit(&covered_weights(q), r).1).sum();
    claim.near("population loss on pairs without the trap", 0.538427, covered / s0.gold.len() as f64, 1e-6)
}

/// The implicit rewards that minimise the [`population_loss`], and that loss. `weights` sum to at most 1.
fn fit(weights: &[f64], rewards: &[f64]) -> (Vec<f64>, f64) {
    let n = weights.len();
    let mut s = vec![0.0; n];
    // Descent by the slope over the weight of each response. The Hessian is a graph's Laplacian, at most twice its diagonal:
    // here at most 1/2, so that steps of 2 descend.
    for _ in 0..3000 {
        let slope = |a: usize| {
            let pull = |b: usize| 2.0 * weights[b] * (sigmoid(s[a] - s[b]) - sigmoid(rewards[a] - rewards[b]));
            (0..n).map(pull).sum::<f64>()
        };
        s = (0..n).map(|a| s[a] - slope(a)).collect();
    }
    let minimum = population_loss(weights, rewards, &s);
    (s, minimum)
}

/// The loss of implicit rewards on all ordered pairs of distinct responses, weighted by the product of `weights` and
/// labelled by Bradley–Terry on `rewards`, as `objectives` computes it.
fn population_loss(weights: &[f64], rewards: &[f64], implicit: &[f64]) -> f64 {
    let n = weights.len();
    let total: f64 = weights.iter().sum::<f64>().powi(2) - weights.iter().map(|w| w * w).sum::<f64>();
    let pairs = || (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| a != b);
    let column =
        |f: &dyn Fn(usize, usize) -> f64| doubles(&pairs().map(|(a, b)| f(a, b)).collect::<Vec<_>>(), &Device::flex());
    let pairs_logp = pair(column(&|a, _| implicit[a]), column(&|_, b| implicit[b]));
    let losses = preference_loss(&PLAIN, &pairs_logp, 1.0).losses;
    // ordered pairs: each unordered pair is in the list as (a, b) and as (b, a)
    let chance = column(&|a, b| weights[a] * weights[b] / total * 2.0 * sigmoid(rewards[a] - rewards[b]));
    host((losses * chance).sum())[0]
}

/// A6: for responses that no pair contains, the parametrization decides.
pub fn off_coverage() -> ExactClaim {
    let s0 = WorldTables::bandit();
    let (q, r) = (&s0.reference[0], &s0.gold[0]);
    let mut claim = ExactClaim::new(
        "A6",
        "On covered pairs DPO's loss does not see mass moving to uncovered responses; the RL objective does (Xu et al. 2024)",
    );
    let covered = covered_weights(q);
    let loss_at = |policy: &ResponseDistribution| {
        let implicit: Vec<f64> = policy.logp.iter().zip(&q.logp).map(|(p, q)| 0.5 * (p - q)).collect();
        population_loss(&covered, r, &implicit)
    };
    // the loss, and for each c the mass of the trap and the RL objective at β = .5
    let starts = [
        ("π_ref", q.clone(), LN_2, [(0.01, 0.72), (0.599860, -2.096283), (0.995526, -4.514547)]),
        ("π*(.5)", optimum(q, r, 0.5), 0.505338, [(2.5e-5, 2.075697), (0.003702, 2.068284), (0.355461, 0.517990)]),
    ];
    for (name, start, loss, expected) in starts {
        let before = loss_at(&start);
        claim = claim.near(format!("covered loss of {name}"), loss, before, 1e-6);
        let mut objectives = vec![];
        for (c, (mass, objective)) in [0.0, 5.0, 10.0].into_iter().zip(expected) {
            let shift = |y| if bandit::is_trap(y) { start.logp[y] } else { start.logp[y] - c };
            let shifted = (0..bandit::RESPONSES).map(shift);
            let policy = normalised(shifted.collect());
            let actual = policy.expect(r) - 0.5 * policy.kl(q);
            objectives.push(actual);
            let change = loss_at(&policy) - before;
            claim = claim
                .near(format!("P(trap) from {name}, covered logits less {c}"), mass, policy.expect(&s0.trap), 5e-7)
                .near(format!("change of the covered loss from {name}, less {c}"), 0.0, change, 1e-12)
                .near(format!("RL objective from {name}, less {c}"), objective, actual, 1e-6);
        }
        let drop = objectives[0] - objectives[2];
        claim = claim.at_least(format!("fall of the RL objective from {name}, less 10"), 0.5, drop, 0.0);
    }
    claim
}

/// A7: under deterministic preferences DPO grows without bound; IPO stops.
pub fn deterministic_preferences() -> ExactClaim {
    let mut claim = ExactClaim::new(
        "A7",
        "On one pair that is always preferred, DPO's log-ratio gap grows without end; IPO's stops at 1/(2τ) (Azar et al. 2023)",
    );
    let (rate, beta) = (0.1, 0.1);
    // both logits move by the rate times the loss's slope in the gap, in opposite directions
    let descend = |steps: usize, slope: &dyn Fn(f64) -> f64| (0..steps).fold(0.0, |h, _| h - 2.0 * rate * slope(h));
    let dpo = |h: f64| -beta * sigmoid(-beta * h);
    let ipo = |h: f64| 2.0 * (h - 0.5 / beta);
    for (kind, slope) in [(PLAIN, &dpo as &dyn Fn(f64) -> f64), (PreferenceLoss::Ipo, &ipo)] {
        let errors = [0.0, 2.0, 7.0, 30.0].into_iter().map(|h| (slope(h) - slope_of(&kind, h, beta)).abs());
        claim = claim.near(format!("slope against `objectives`, {kind:?}"), 0.0, largest(errors), 1e-12);
    }
    for (steps, expected) in [(1_000, 7.92), (10_000, 28.96), (100_000, 52.77)] {
        claim = claim.near(format!("DPO's gap after {steps} steps"), expected, descend(steps, &dpo), 0.005);
    }
    claim.near("IPO's gap after 1000 steps at τ .1", 5.0, descend(1_000, &ipo), 1e-9)
}

/// A8: the optimum of each loss under flipped labels.
pub fn label_flips() -> ExactClaim {
    let (e, truth) = (0.2, 1.3);
    let p = (1.0 - 2.0 * e) * sigmoid(truth) + e;
    let mut claim = ExactClaim::new(
        "A8",
        "Under label flips robust DPO keeps the clean optimum; conservative DPO shrinks it further (Chowdhury et al. 2024)",
    );
    let kinds = [
        ("plain", PLAIN, 0.7150),
        ("conservative", PreferenceLoss::Sigmoid { label_smoothing: e }, 0.4176),
        ("robust", PreferenceLoss::Robust { label_smoothing: e }, 1.3),
    ];
    for (name, kind, expected) in kinds {
        // the expected loss p l(u) + (1 − p) l(−u) is convex in u: halve the bracket of its slope's root
        let slope = |u: f64| p * slope_of(&kind, u, 1.0) - (1.0 - p) * slope_of(&kind, -u, 1.0);
        let (mut low, mut high) = (-10.0, 10.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if slope(middle).is_sign_negative() { low = middle } else { high = middle }
        }
        claim = claim.near(format!("the margin that {name} DPO learns, true 1.3, e .2"), expected, low, 5e-5);
    }
    claim
}

/// A loss's slope in the log-ratio gap h, by autodiff in f64.
fn slope_of(kind: &PreferenceLoss, h: f64, beta: f64) -> f64 {
    let device = Device::flex().autodiff();
    let gap = doubles(&[h], &device).require_grad();
    let loss = preference_loss(kind, &pair(gap.clone(), doubles(&[0.0], &device)), beta).loss;
    host(gap.grad(&loss.backward()).expect("the loss depends on the gap"))[0]
}

/// Pairs by their log-ratios alone.
fn pair(chosen: Tensor<1>, rejected: Tensor<1>) -> PairLogp {
    let (zero, one) = (rejected.zeros_like(), rejected.ones_like());
    PairLogp::new(
        ChosenRejected { chosen, rejected },
        ChosenRejected { chosen: zero.clone(), rejected: zero },
        ChosenRejected { chosen: one.clone(), rejected: one },
    )
}

/// The reference's weights without the trap.
fn covered_weights(q: &ResponseDistribution) -> Vec<f64> {
    (0..bandit::RESPONSES).map(|y| if bandit::is_trap(y) { 0.0 } else { q.p[y] }).collect()
}
