//! The linear reward model of `grammar`: named features of prompt and response under Bradley–Terry.
//!
//! It is linear in the number of x, so that it extrapolates "x is good" from rows that never show two of them: the positive
//! control of over-optimisation (docs/worlds.md, Linear reward model).

use crate::{Error, Result};
use duel_data::grammar::{PromptCoordinates, Stance, excitements, parts};
use duel_data::pairs::PreferenceRow;
use serde::{Deserialize, Serialize};

/// Features of a response.
const FEATURES: usize = 12;
/// Newton steps at most; six or so are needed.
const STEPS: usize = 50;
/// Halvings of a step at most.
const HALVINGS: usize = 40;

/// Weights of the features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    weights: Vec<f64>,
}

/// For each stance: sentiment, its size, whether both kinds occur; then x, distance from the requested length, dangling v.
fn features(prompt: &[u32], response: &[u32]) -> [f64; FEATURES] {
    let task = PromptCoordinates::from_prompt(prompt);
    let parts = parts(task, response);
    let stance = match task.stance {
        Stance::Praise => 0,
        Stance::Criticise => 3,
        Stance::Mixed => 6,
    };
    let mut features = [0.0; FEATURES];
    features[stance] = parts.sentiment;
    features[stance + 1] = parts.sentiment.abs();
    features[stance + 2] = f64::from(parts.both);
    features[9] = excitements(response) as f64;
    features[10] = parts.off_length as f64;
    features[11] = parts.dangling as f64;
    features
}

impl Linear {
    /// Its weights.
    pub const WEIGHTS: usize = FEATURES;

    /// The maximum of the rows' log-likelihood less `ridge`/2 times the squared weights, by Newton's method. `e` is the
    /// chance that a label is wrong, `strengths` the margin of each pair.
    ///
    /// # Errors
    /// [`Error::Unsettled`], if the gradient does not vanish.
    pub fn fit(rows: &[PreferenceRow], strengths: &[f64], e: f64, ridge: f64) -> Result<Self> {
        let differences: Vec<[f64; FEATURES]> = rows
            .iter()
            .map(|row| {
                let (chosen, rejected) = (features(&row.prompt, &row.chosen), features(&row.prompt, &row.rejected));
                std::array::from_fn(|i| chosen[i] - rejected[i])
            })
            .collect();
        // −(1−e) log σ(u) − e log σ(−u) of each row, and the ridge
        let cost = |w: &[f64]| {
            let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
            let each = differences.iter().zip(strengths).map(|(d, strength)| {
                let u = dot(d, w) - strength;
                (1.0 - e) * softplus(-u) + e * softplus(u)
            });
            each.sum::<f64>() + ridge / 2.0 * dot(w, w)
        };
        let mut w = vec![0.0; FEATURES];
        for _ in 0..STEPS {
            let mut gradient: Vec<f64> = w.iter().map(|w| ridge * w).collect();
            let mut hessian = vec![vec![0.0; FEATURES]; FEATURES];
            for (d, strength) in differences.iter().zip(strengths) {
                let u = dot(d, &w) - strength;
                let p = 1.0 / (1.0 + (-u).exp());
                let (slope, curvature) = (p - (1.0 - e), p * (1.0 - p)); // of −(1−e) log σ(u) − e log σ(−u)
                for i in 0..FEATURES {
                    gradient[i] += slope * d[i];
                    (0..FEATURES).for_each(|j| hessian[i][j] += curvature * d[i] * d[j]);
                }
            }
            let residual = gradient.iter().map(|g| g.abs()).fold(0.0, f64::max) / rows.len() as f64;
            if residual < 1e-10 {
                return Ok(Self { weights: w });
            }
            (0..FEATURES).for_each(|i| hessian[i][i] += ridge);
            // a step that overshoots is halved until the cost decreases
            let (mut step, before) = (solve(hessian, gradient), cost(&w));
            let after = |step: &[f64]| w.iter().zip(step).map(|(w, step)| w - step).collect::<Vec<f64>>();
            for _ in 0..HALVINGS {
                if cost(&after(&step)) <= before * (1.0 + 1e-12) {
                    break;
                }
                step.iter_mut().for_each(|x| *x /= 2.0);
            }
            w = after(&step);
        }
        Err(Error::Unsettled { steps: STEPS })
    }

    /// In units of the labels' log-odds.
    pub fn score(&self, prompt: &[u32], response: &[u32]) -> f64 {
        dot(&features(prompt, response), &self.weights)
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `x` of `a x = b`, a positive definite, by Cholesky's factors.
fn solve(a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    let mut l = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..=i {
            let rest = a[i][j] - dot(&l[i][..j], &l[j][..j]);
            l[i][j] = if i == j { rest.max(f64::MIN_POSITIVE).sqrt() } else { rest / l[j][j] };
        }
        b[i] = (b[i] - dot(&l[i][..i], &b[..i])) / l[i][i];
    }
    for i in (0..n).rev() {
        let after: f64 = (i + 1..n).map(|k| l[k][i] * b[k]).sum();
        b[i] = (b[i] - after) / l[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_data::World;
    use duel_data::grammar::{GrammarWorld, excited_proxy, sample_reference};
    use duel_data::pairs::Annotator;
    use duel_spec::{Split, seeds};

    #[test]
    fn equations_are_solved() {
        // 4·2 + 2·(−1) = 6, 2·2 + 3·(−1) = 1
        let x = solve(vec![vec![4.0, 2.0], vec![2.0, 3.0]], vec![6.0, 1.0]);
        assert!((x[0] - 2.0).abs() < 1e-12 && (x[1] + 1.0).abs() < 1e-12, "{x:?}");
    }

    #[test]
    fn it_learns_what_the_rows_show_and_extrapolates_the_trap() -> Result<()> {
        let world = GrammarWorld::new(0.02, 1);
        let annotator = Annotator { tau: 1.0, flips: 0.0, length_bias: 0.0, ties: 0.0 };
        let mut rng = seeds::derive(0, "test", 0, "rows");
        let prompts = world.prompts(Split::Train);
        let mut rows = Vec::new();
        while rows.len() < 20_000 {
            let prompt = &prompts[rows.len() % prompts.len()].ids;
            let task = PromptCoordinates::from_prompt(prompt);
            let [a, b] = [0, 1].map(|_| sample_reference(task.stance, 0.02, &mut rng));
            if a == b || !world.allowed_in_pairs(&a) || !world.allowed_in_pairs(&b) {
                continue;
            }
            let gold = [&a, &b].map(|r| duel_data::grammar::gold(task, r));
            let candidate = crate::Candidate { prompt: prompt.clone(), responses: [a, b], gold };
            rows.extend(crate::label(vec![candidate], Split::Train, &annotator, &mut rng));
        }
        let linear = Linear::fit(&rows, &vec![0.0; rows.len()], 0.0, 1.0)?;
        // gold's own weights, each within four standard errors or so
        let expected = [1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -0.5, 1.5, 1.5, -0.1, -0.5];
        for (i, (actual, expected)) in linear.weights.iter().zip(expected).enumerate() {
            assert!((actual - expected).abs() < 0.25, "feature {i}: {actual}, expected {expected}");
        }
        // and so it is the documented proxy on responses with any number of x
        let prompt = &prompts[0].ids;
        let twice = [5, 7, 7, 2];
        let change = linear.score(prompt, &twice) - linear.score(prompt, &[5, 7, 2]);
        let task = PromptCoordinates::from_prompt(prompt);
        assert!((change - (excited_proxy(task, &twice) - excited_proxy(task, &[5, 7, 2]))).abs() < 0.3, "{change}");
        Ok(())
    }

    #[test]
    fn three_equations_are_solved() {
        let a = [[5.0, 2.0, -1.0], [2.0, 4.0, 0.5], [-1.0, 0.5, 3.0]];
        let expected = [1.5, -2.0, 0.25];
        let b = a.map(|row| dot(&row, &expected));
        let actual = solve(a.map(|row| row.to_vec()).to_vec(), b.to_vec());
        assert!(actual.iter().zip(expected).all(|(x, y)| (x - y).abs() < 1e-12), "{actual:?}");
    }

    /// Of one pair that differs in one x, and with its margin s, the minimum over w of −log σ(w − s) + ridge/2 w² is where
    /// σ(s − w) = ridge · w. Newton's full steps overshoot it: by far where the margin is large, and by as much as they fell short
    /// at 3.5.
    #[test]
    fn the_fit_to_one_pair_is_its_closed_form() -> Result<()> {
        let prompt = GrammarWorld::new(0.02, 1).prompts(Split::Train)[0].ids.clone();
        let row = PreferenceRow::new(Split::Train, prompt.clone(), vec![3, 7, 2], vec![3, 3, 2]);
        for (strength, ridge) in [(0.5, 0.1), (3.5, 0.05), (120.0, 1e-6), (1000.0, 0.25)] {
            let linear = Linear::fit(std::slice::from_ref(&row), &[strength], 0.0, ridge)?;
            let w = linear.score(&prompt, &row.chosen) - linear.score(&prompt, &row.rejected);
            let pull = 1.0 / (1.0 + (w - strength).exp());
            assert!((pull - ridge * w).abs() < 2e-10, "margin {strength}, ridge {ridge}: {w}");
        }
        Ok(())
    }

    /// At the maximum the gradient of Σ −(1−e) log σ(u) − e log σ(−u) + ridge/2 |w|², by differences of the sum itself,
    /// vanishes; and no weights near it cost less.
    #[test]
    fn the_fit_is_the_minimum_of_its_cost() -> Result<()> {
        let prompt = GrammarWorld::new(0.02, 1).prompts(Split::Train)[0].ids.clone();
        let row = |chosen: &[u32], rejected: &[u32]| {
            PreferenceRow::new(Split::Train, prompt.clone(), chosen.to_vec(), rejected.to_vec())
        };
        let rows = [
            row(&[5, 7, 2], &[6, 2]),
            row(&[5, 2], &[5, 4, 2]),
            row(&[6, 4, 2], &[7, 7, 3, 2]),
            row(&[3, 5, 2], &[3, 7, 2]),
            row(&[7, 2], &[4, 2]),
        ];
        // with large margins the first of Newton's steps is far too long
        for (e, ridge, factor) in
            [(0.0, 0.5, 1.0), (0.1, 0.5, 1.0), (0.2, 1e-3, 1.0), (0.0, 1e-6, 1.0), (0.1, 0.01, 20.0)]
        {
            let strengths = [0.5, 0.0, 0.3, 1.0, 0.2].map(|strength| factor * strength);
            let cost = |w: &[f64]| {
                let each = rows.iter().zip(strengths).map(|(row, strength)| {
                    let linear = Linear { weights: w.to_vec() };
                    let u = linear.score(&prompt, &row.chosen) - linear.score(&prompt, &row.rejected) - strength;
                    (1.0 - e) * (1.0 + (-u).exp()).ln() + e * (1.0 + u.exp()).ln()
                });
                each.sum::<f64>() + ridge / 2.0 * w.iter().map(|w| w * w).sum::<f64>()
            };
            let w = Linear::fit(&rows, &strengths, e, ridge)?.weights;
            for i in 0..FEATURES {
                let at = |step: f64| {
                    cost(&w.iter().enumerate().map(|(j, w)| w + step * f64::from(i == j)).collect::<Vec<_>>())
                };
                let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
                assert!(slope.abs() < 1e-6, "e {e}, ridge {ridge}, weight {i}: {slope}");
            }
        }
        Ok(())
    }
}
