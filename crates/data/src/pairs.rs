//! Preference rows: two responses to one prompt, ordered by a noisy annotator.

use duel_spec::{Split, ids::hash_bytes, seeds::Rng};
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// Two responses to one prompt and which was preferred.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreferenceRow {
    pub split: Split,
    pub prompt: Vec<u32>,
    pub chosen: Vec<u32>,
    pub rejected: Vec<u32>,
    pub gold_chosen: f64,
    pub gold_rejected: f64,
    /// Probability with which the annotator gives this order.
    pub p_label: f64,
}

impl PreferenceRow {
    /// How sure the annotator was, 0 to 1: `|log-odds of the label|`, three and more counting as 1. What a person would say in
    /// words ("slightly better", "much better").
    pub fn strength(&self) -> f64 {
        ((self.p_label / (1.0 - self.p_label)).ln().abs() / 3.0).min(1.0)
    }
}

/// A hash of rows: prompts, responses and their order.
pub fn hash(rows: &[PreferenceRow]) -> String {
    let sides = rows.iter().flat_map(|row| [&row.prompt, &row.chosen, &row.rejected]);
    let numbers = sides.flat_map(|ids| std::iter::once(ids.len() as u32).chain(ids.iter().copied()));
    hash_bytes(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<_>>())
}

/// The annotator: `P(y1 > y2) = (1−2e) σ((r1−r2)/τ + λ (len1−len2)) + e`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Annotator {
    /// Temperature, in units of gold reward.
    pub tau: f64,
    /// e: chance of a flipped label.
    pub flips: f64,
    /// λ: logits per extra response token.
    pub length_bias: f64,
}

impl Annotator {
    /// Probability that the first response is preferred.
    pub fn prefers_first(&self, gold: [f64; 2], lengths: [usize; 2]) -> f64 {
        let logit = (gold[0] - gold[1]) / self.tau + self.length_bias * (lengths[0] as f64 - lengths[1] as f64);
        (1.0 - 2.0 * self.flips) / (1.0 + (-logit).exp()) + self.flips
    }

    /// Draws the label of a pair: whether the first response is preferred.
    pub fn choose_first(&self, gold: [f64; 2], lengths: [usize; 2], rng: &mut Rng) -> bool {
        rng.random::<f64>() < self.prefers_first(gold, lengths)
    }
}

/// The accuracy that no judge of these rows can exceed: the mean of the larger label probability.
pub fn bayes_accuracy(rows: &[PreferenceRow]) -> f64 {
    rows.iter().map(|r| r.p_label.max(1.0 - r.p_label)).sum::<f64>() / rows.len() as f64
}

/// The temperature at which labels of pairs with these gold differences have the given Bayes accuracy
/// (flips and length bias left out), by bisection of log τ; the nearest end of [1e-4, 1e4] if none.
pub fn solve_tau(differences: &[f64], accuracy: f64) -> f64 {
    let at = |tau: f64| {
        differences.iter().map(|d| 1.0 / (1.0 + (-d.abs() / tau).exp())).sum::<f64>() / differences.len() as f64
    };
    let (mut low, mut high) = (1e-4f64, 1e4f64);
    for _ in 0..100 {
        let middle = (low * high).sqrt();
        if at(middle) > accuracy { low = middle } else { high = middle }
    }
    (low * high).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotator_by_hand() {
        let plain = Annotator { tau: 1.0, flips: 0.0, length_bias: 0.0 };
        assert!((plain.prefers_first([1.0, 0.0], [1, 9]) - 0.731_058_578_630_004_9).abs() < 1e-15);
        let flipped = Annotator { flips: 0.2, ..plain };
        assert!((flipped.prefers_first([1.0, 0.0], [1, 1]) - (0.6 * 0.731_058_578_630_004_9 + 0.2)).abs() < 1e-15);
        let biased = Annotator { length_bias: 0.3, ..plain };
        assert!((biased.prefers_first([0.0, 0.0], [4, 2]) - 1.0 / (1.0 + (-0.6f64).exp())).abs() < 1e-15);
        let cold = Annotator { tau: 0.5, ..plain };
        assert!((cold.prefers_first([1.0, 0.0], [1, 1]) - 1.0 / (1.0 + (-2f64).exp())).abs() < 1e-15);
    }

    #[test]
    fn a_rows_strength_is_the_annotators_certainty() {
        let row = |p_label| PreferenceRow {
            split: Split::Train,
            prompt: vec![],
            chosen: vec![],
            rejected: vec![],
            gold_chosen: 0.0,
            gold_rejected: 0.0,
            p_label,
        };
        let odds = |logit: f64| 1.0 / (1.0 + (-logit).exp());
        for (logit, expected) in [(0.0, 0.0), (1.5, 0.5), (-1.5, 0.5), (3.0, 1.0), (9.0, 1.0)] {
            assert!((row(odds(logit)).strength() - expected).abs() < 1e-9);
        }
    }

    #[test]
    fn tau_is_solved_for_the_asked_accuracy() {
        let differences = [0.3, -0.5, 1.2, 0.1, -0.9];
        let tau = solve_tau(&differences, 0.8);
        let found = differences.iter().map(|d: &f64| 1.0 / (1.0 + (-d.abs() / tau).exp())).sum::<f64>() / 5.0;
        assert!((found - 0.8).abs() < 1e-9, "{tau}");
    }
}
