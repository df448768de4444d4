//! The tree-structured Parzen estimator for one setting (Bergstra et al. 2011, §4): densities of the good and of the other values
//! that were tried.

use duel_spec::SearchDimension;
use duel_spec::seeds::Rng;
use rand::RngExt;
use std::f64::consts::TAU;

/// Draws from the density of the good values, of which the one with the largest ratio is proposed (as in hyperopt).
const CANDIDATES: usize = 24;

/// A share of an axis, in [0, 1), that is likely among `good` and unlikely among `others`: of draws from the density of
/// `good`, the one with the largest ratio of the two densities, which maximizes the expected improvement (eq. 3).
pub fn propose(axis: &SearchDimension, good: &[f64], others: &[f64], rng: &mut Rng) -> f64 {
    let [of_good, of_others] = [good, others].map(|shares| Density::new(axis.choices.len(), shares));
    let candidates = (0..CANDIDATES).map(|_| of_good.draw(rng));
    let rated = candidates.map(|share| (share, of_good.at(share) / of_others.at(share)));
    rated.max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0.5, |(share, _)| share)
}

/// The density of shares on an axis, not normalized.
enum Density {
    /// Normal distributions around each share, and a wide one around the middle as the prior; by mean and width.
    Numbers(Vec<(f64, f64)>),
    /// Counts of each choice, plus one.
    Choices(Vec<f64>),
}

impl Density {
    fn new(choices: usize, shares: &[f64]) -> Self {
        if choices > 0 {
            let mut counts = vec![1.0; choices];
            shares.iter().for_each(|share| counts[choice_at(*share, choices)] += 1.0);
            return Self::Choices(counts);
        }
        let mut means = [shares, &[0.5]].concat();
        means.sort_by(f64::total_cmp);
        let narrowest = 1.0 / (means.len() as f64 + 1.0).min(100.0);
        let width = |i: usize| {
            // the distance to the farther neighbour, where the ends of the axis count as neighbours
            let before = if i == 0 { 0.0 } else { means[i - 1] };
            let after = means.get(i + 1).copied().unwrap_or(1.0);
            (means[i] - before).max(after - means[i]).clamp(narrowest, 1.0)
        };
        let is_prior = means.iter().position(|mean| *mean == 0.5);
        Self::Numbers((0..means.len()).map(|i| (means[i], if Some(i) == is_prior { 1.0 } else { width(i) })).collect())
    }

    fn at(&self, share: f64) -> f64 {
        match self {
            Self::Numbers(normals) => {
                let normal = |(mean, width): &(f64, f64)| (-((share - mean) / width).powi(2) / 2.0).exp() / width;
                normals.iter().map(normal).sum::<f64>() / normals.len() as f64
            }
            Self::Choices(counts) => counts[choice_at(share, counts.len())] / counts.iter().sum::<f64>(),
        }
    }

    fn draw(&self, rng: &mut Rng) -> f64 {
        match self {
            Self::Numbers(normals) => loop {
                let (mean, width) = normals[rng.random_range(0..normals.len())];
                let (a, b): (f64, f64) = (rng.random(), rng.random()); // Box & Muller 1958
                let share = mean + width * (-2.0 * (1.0 - a).ln()).sqrt() * (TAU * b).cos();
                if (0.0..1.0).contains(&share) {
                    return share;
                }
            },
            Self::Choices(counts) => {
                let mut remaining = rng.random::<f64>() * counts.iter().sum::<f64>();
                let choice = counts.iter().position(|count| {
                    remaining -= count;
                    remaining < 0.0
                });
                (choice.unwrap_or(0) as f64 + 0.5) / counts.len() as f64
            }
        }
    }
}

fn choice_at(share: f64, choices: usize) -> usize {
    ((share * choices as f64) as usize).min(choices - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proposals_are_likely_among_the_good_values_only() {
        let mut rng = duel_spec::seeds::derive(0, "t", 0, "parzen");
        let (numbers, categories) = (
            SearchDimension::default(),
            SearchDimension { choices: ["a", "b", "c"].map(Into::into).into(), ..SearchDimension::default() },
        );
        let mut within = |axis: &SearchDimension, good: &[f64], others: &[f64], from: f64, to: f64| {
            (0..200).filter(|_| (from..to).contains(&propose(axis, good, others, &mut rng))).count()
        };
        assert!(within(&numbers, &[0.78, 0.8, 0.85], &[0.1, 0.2, 0.4, 0.5], 0.6, 1.0) > 190);
        // equal densities: anywhere
        assert!(within(&numbers, &[0.5], &[0.5], 0.25, 0.75) < 190);
        assert!(within(&categories, &[0.9, 0.9, 0.9], &[0.1, 0.5], 2.0 / 3.0, 1.0) > 190);
    }
}
