//! A1, A2, A4, A5: properties of the equations, without any training.

use super::claim::ExactClaim;
use crate::{ResponseDistribution, WorldTables, optimum};
use burn::tensor::{DType, Device, Tensor, TensorData, activation::log_softmax};
use duel_objectives::{ChosenRejected, PairLogp, PreferenceLoss, preference_loss};
use duel_spec::seeds;
use rand::RngExt;

/// A1: the tilted reference is the unique optimum.
pub fn optimum_is_unique() -> ExactClaim {
    let s0 = WorldTables::bandit();
    let mut claim = ExactClaim::new(
        "A1",
        "π* = π_ref·exp(r/β)/Z is the unique optimum of E r − β KL, and earns β E log Z (Rafailov et al. 2023)",
    );
    let fixtures = [
        (1.0, 1.35014, 0.47928, 0.87086),
        (0.5, 2.05559, 1.50770, 1.30174),
        (0.25, 2.65637, 3.18096, 1.86113),
        (0.1, 2.86718, 4.33405, 2.43378),
    ];
    for (beta, gold, kl, objective) in fixtures {
        let best_policy = s0.optimum(&s0.gold, beta);
        claim = claim
            .near(format!("gold at β {beta}"), gold, best_policy.gold, 1e-5)
            .near(format!("KL at β {beta}"), kl, best_policy.kl, 1e-5)
            .near(format!("objective at β {beta}"), objective, best_policy.objective, 1e-5);

        let partition: f64 = s0.reference.iter().zip(&s0.gold).map(|(q, r)| beta * log_z(q, r, beta)).sum();
        let partition = partition / s0.gold.len() as f64;
        claim = claim.near(format!("β E log Z at β {beta}"), best_policy.objective, partition, 1e-10);

        // random steps away from the optimum, small and large: each costs β KL(π || π*)
        let mut rng = seeds::derive(0, "claims", 0, "A1");
        let optima: Vec<_> = s0.reference.iter().zip(&s0.gold).map(|(q, r)| optimum(q, r, beta)).collect();
        let (mut objectives, mut errors, mut distances) = (vec![], vec![], vec![]);
        for trial in 0..400 {
            let size = 10f64.powf(-3.0 + 4.0 * f64::from(trial) / 400.0);
            let perturb = |policy: &ResponseDistribution| {
                let noise: Vec<f64> = policy.logp.iter().map(|_| rng.random_range(-size..size)).collect();
                optimum(policy, &noise, 1.0) // π* exp(noise), normalised
            };
            let policies: Vec<_> = optima.iter().map(perturb).collect();
            let objective = s0.objective(&policies, beta);
            let kl = policies.iter().zip(&optima).map(|(p, best)| p.kl(best)).sum::<f64>() / optima.len() as f64;
            errors.push((best_policy.objective - objective - beta * kl).abs());
            objectives.push(objective);
            distances.push(kl);
        }
        let nearest = distances.iter().copied().fold(f64::INFINITY, f64::min);
        claim = claim
            .at_most(
                format!("best of 400 perturbed policies at β {beta}"),
                best_policy.objective,
                largest(objectives),
                1e-10,
            )
            .near(format!("largest error of J(π*) − J(π) = β KL(π ‖ π*) at β {beta}"), 0.0, largest(errors), 1e-10)
            .at_most(format!("KL of the nearest of them to π* at β {beta}"), 1e-6, nearest, 0.0)
            .at_least(format!("KL of the furthest of them to π* at β {beta}"), 1.0, largest(distances), 0.0);
    }
    claim
}

/// `log Σ π_ref(y) exp(r(y)/β)`
fn log_z(reference: &ResponseDistribution, r: &[f64], beta: f64) -> f64 {
    reference.logp.iter().zip(r).map(|(q, r)| (q + r / beta).exp()).sum::<f64>().ln()
}

/// A2: rewards that differ by f(x) are equivalent, and log-ratios represent their class.
pub fn rewards_of_one_class() -> ExactClaim {
    let s0 = WorldTables::bandit();
    let mut rng = seeds::derive(0, "claims", 0, "A2");
    let beta = 0.5;
    let (mut odds, mut probabilities, mut implicit, mut rises) = (vec![], vec![], vec![], vec![]);
    for (q, r) in s0.reference.iter().zip(&s0.gold) {
        let shift = rng.random_range(-10.0..10.0);
        let shifted: Vec<f64> = r.iter().map(|r| r + shift).collect();
        for (a, b) in (0..r.len()).flat_map(|a| (0..r.len()).map(move |b| (a, b))) {
            odds.push((sigmoid(r[a] - r[b]) - sigmoid(shifted[a] - shifted[b])).abs());
        }
        let (plain, shifted_optimum) = (optimum(q, r, beta), optimum(q, &shifted, beta));
        probabilities.extend(plain.p.iter().zip(&shifted_optimum.p).map(|(a, b)| (a - b).abs()));
        // β log(π*/π_ref) is r up to one constant per prompt
        let rest: Vec<f64> = (0..r.len()).map(|y| beta * (plain.logp[y] - q.logp[y]) - r[y]).collect();
        implicit.extend(rest.iter().map(|x| (x - rest[0]).abs()));
        // J(π*) = β log Z rises by the constant
        let rise = beta * (log_z(q, &shifted, beta) - log_z(q, r, beta));
        rises.push((rise - shift).abs());
    }
    ExactClaim::new("A2", "r + f(x) gives the same preferences and the same π*; β log(π/π_ref) represents the class")
        .near("largest change of a preference probability", 0.0, largest(odds), 1e-12)
        .near("largest change of a probability under π*", 0.0, largest(probabilities), 1e-12)
        .near("largest spread of β log(π*/π_ref) − r within a prompt", 0.0, largest(implicit), 1e-12)
        .near("largest distance of the rise of β log Z to f(x)", 0.0, largest(rises), 1e-12)
}

/// A4: the gradient of the DPO loss, against its formula and against finite differences.
pub fn dpo_gradient() -> ExactClaim {
    let mut rng = seeds::derive(0, "claims", 0, "A4");
    let (beta, n) = (0.3, 8);
    let [logits, reference] = [0, 1].map(|_| (0..n).map(|_| rng.random_range(-2.0..2.0)).collect::<Vec<f64>>());
    let reference = normalised(reference).logp;
    let (w, l) = (2usize, 5usize);
    let device = Device::flex().autodiff();
    let loss = |logits: &[f64]| {
        let leaf = doubles(logits, &device).require_grad();
        let logp = log_softmax(leaf.clone().unsqueeze::<2>(), 1).squeeze_dim::<1>(0);
        let entry = |x: &Tensor<1>, y: usize| x.clone().narrow(0, y, 1);
        let reference_logp = doubles(&reference, &device);
        let both = |x: &Tensor<1>| ChosenRejected { chosen: entry(x, w), rejected: entry(x, l) };
        let pairs = PairLogp::new(both(&logp), both(&reference_logp), both(&reference_logp.ones_like()));
        (preference_loss(&PreferenceLoss::Sigmoid { label_smoothing: 0.0 }, &pairs, beta).loss, leaf)
    };
    let (value, leaf) = loss(&logits);
    let gradient = host(leaf.grad(&value.backward()).expect("the loss depends on the logits"));

    let pi = normalised(logits.clone()).logp;
    let u = beta * ((pi[w] - reference[w]) - (pi[l] - reference[l]));
    // ∂ log π(y) / ∂ logit v = [y = v] − π(v), in which π(v) cancels
    let scores = |v: usize| f64::from(v == w) - f64::from(v == l);
    let formula: Vec<f64> = (0..n).map(|v| -beta * sigmoid(-u) * scores(v)).collect();
    let step = 1e-6;
    let loss_at = |v: usize, by: f64| {
        let mut logits = logits.clone();
        logits[v] += by;
        host(loss(&logits).0)[0]
    };
    let differences: Vec<f64> = (0..n).map(|v| (loss_at(v, step) - loss_at(v, -step)) / (2.0 * step)).collect();
    ExactClaim::new("A4", "∇L_DPO = −β σ(−u) (∇log π(y_w) − ∇log π(y_l))")
        .near("largest relative distance to the formula", 0.0, relative_distance(&gradient, &formula), 1e-12)
        .near("largest relative distance to central differences", 0.0, relative_distance(&gradient, &differences), 1e-6)
}

/// A5: in ratio coordinates the gradient is asymmetric, in log-prob coordinates it is not.
pub fn gradient_asymmetry() -> ExactClaim {
    let mut rng = seeds::derive(0, "claims", 0, "A5");
    let device = Device::flex().autodiff();
    let (mut in_ratios, mut in_logp) = (vec![], vec![]);
    for _ in 0..50 {
        let [xw, xl] = [0, 1].map(|_| rng.random_range(0.1..3.1));
        let ratios = |x: f64| doubles(&[x], &device).require_grad();
        let (w, l) = (ratios(xw), ratios(xl));
        let gradients = sigmoid_loss(w.clone().log(), l.clone().log()).backward();
        let size = |x: &Tensor<1>| host(x.grad(&gradients).expect("the loss depends on both"))[0].abs();
        in_ratios.push((size(&w) / size(&l) / (xl / xw) - 1.0).abs());

        let (w, l) = (ratios(xw.ln()), ratios(xl.ln()));
        let gradients = sigmoid_loss(w.clone(), l.clone()).backward();
        let size = |x: &Tensor<1>| host(x.grad(&gradients).expect("the loss depends on both"))[0].abs();
        in_logp.push((size(&w) / size(&l) - 1.0).abs());
    }
    ExactClaim::new("A5", "In ratio coordinates |∂L/∂x_w| / |∂L/∂x_l| = x_l/x_w; in log-prob coordinates it is 1")
        .near("largest relative error of the ratio x_l/x_w", 0.0, largest(in_ratios), 1e-10)
        .near("largest distance from 1 in log-probs", 0.0, largest(in_logp), 1e-10)
}

/// The DPO loss at β = 0.1 of two log-ratios.
fn sigmoid_loss(chosen: Tensor<1>, rejected: Tensor<1>) -> Tensor<1> {
    let (zero, one) = (chosen.zeros_like().detach(), chosen.ones_like().detach());
    let pairs = PairLogp::new(
        ChosenRejected { chosen, rejected },
        ChosenRejected { chosen: zero.clone(), rejected: zero },
        ChosenRejected { chosen: one.clone(), rejected: one },
    );
    preference_loss(&PreferenceLoss::Sigmoid { label_smoothing: 0.0 }, &pairs, 0.1).loss
}

/// The largest distance of two entries, as a share of the largest of `expected`.
fn relative_distance(actual: &[f64], expected: &[f64]) -> f64 {
    largest(actual.iter().zip(expected).map(|(a, e)| (a - e).abs())) / largest(expected.iter().map(|e| e.abs()))
}

/// The largest; NaN if one of them is NaN, or if there are none.
pub fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().reduce(|a, b| if a.is_nan() || a > b { a } else { b }).unwrap_or(f64::NAN)
}

/// A distribution from unnormalised log-weights.
pub fn normalised(logits: Vec<f64>) -> ResponseDistribution {
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_z = max + logits.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    ResponseDistribution::new(logits.into_iter().map(|x| x - log_z).collect())
}

/// The logistic function.
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// A vector in f64.
pub fn doubles(values: &[f64], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::F64))
}

/// Values of a vector.
pub fn host<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_distance_is_a_share_of_the_largest_entry() {
        assert_eq!(relative_distance(&[4.0, 0.5, -7.5], &[4.0, 2.5, -8.0]), 0.25);
    }
    #[test]
    fn the_largest_of_numbers_is_nan_when_one_of_them_is() {
        assert_eq!(largest([-1.0, 3.0, 2.0]), 3.0);
        for nan in [f64::NAN, -f64::NAN] {
            assert!(largest([nan, 3.0]).is_nan() && largest([0.0, nan, 2.0]).is_nan());
        }
        assert!(largest([]).is_nan());
    }
}
