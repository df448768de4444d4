//! Preference rows: two responses, usually to one prompt, labelled by a noisy annotator.

use duel_spec::{LossMask, Split, ids::hash_bytes, seeds::Rng};
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// Two responses and which was preferred.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreferenceRow {
    pub split: Split,
    pub prompt: Vec<u32>,
    pub chosen: Vec<u32>,
    pub rejected: Vec<u32>,
    /// The rejected response's own prompt, where that differs: single completions are paired, one wanted and one unwanted.
    /// Ethayarajh et al. 2024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_prompt: Option<Vec<u32>>,
    /// The tokens of `chosen` that carry the loss; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_mask: Option<LossMask>,
    /// The same of `rejected`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_mask: Option<LossMask>,
    pub gold_chosen: f64,
    pub gold_rejected: f64,
    /// Probability that the annotator gives this label, given that it is not a tie; ½ for a tie.
    pub p_label: f64,
    /// Whether the annotator gave a tie; which response is `chosen` is then random.
    #[serde(default)]
    pub tie: bool,
}

impl PreferenceRow {
    /// Two responses to one prompt, every token of which counts, with a label that is certain and without gold rewards.
    pub fn new(split: Split, prompt: Vec<u32>, chosen: Vec<u32>, rejected: Vec<u32>) -> Self {
        Self {
            split,
            prompt,
            chosen,
            rejected,
            rejected_prompt: None,
            chosen_mask: None,
            rejected_mask: None,
            gold_chosen: 0.0,
            gold_rejected: 0.0,
            p_label: 1.0,
            tie: false,
        }
    }

    /// The prompt of the rejected response.
    pub fn prompt_of_rejected(&self) -> &Vec<u32> {
        self.rejected_prompt.as_ref().unwrap_or(&self.prompt)
    }

    /// How certain the label is, 0 to 1: `|log-odds of the label| / 3`, at most 1. People would say "slightly better" or "much
    /// better".
    pub fn strength(&self) -> f64 {
        ((self.p_label / (1.0 - self.p_label)).ln().abs() / 3.0).min(1.0)
    }
}

/// A hash of rows: prompts, responses, which of their tokens carry the loss, their order and whether they are tied.
pub fn hash(rows: &[PreferenceRow]) -> String {
    // a number that no length is comes before each mask
    let mask = |mask: &Option<LossMask>, side: u32| -> Vec<u32> {
        let spans = mask.iter().flat_map(LossMask::spans).flatten().map(|index| *index as u32);
        mask.iter().flat_map(|mask| [u32::MAX - side, mask.spans().len() as u32]).chain(spans).collect()
    };
    let numbers = rows.iter().flat_map(|row| {
        let sides = [&row.prompt, &row.chosen, &row.rejected].into_iter().chain(&row.rejected_prompt);
        let ids = sides.flat_map(|ids| std::iter::once(ids.len() as u32).chain(ids.iter().copied()));
        let masks = mask(&row.chosen_mask, 0).into_iter().chain(mask(&row.rejected_mask, 1));
        ids.chain(std::iter::once(u32::from(row.tie))).chain(masks)
    });
    hash_bytes(&numbers.flat_map(u32::to_le_bytes).collect::<Vec<_>>())
}

/// The annotator: `P(y1 > y2) = (1−e) σ(d − α) + e σ(−d − α)`, `d = (r1−r2)/τ + λ (len1−len2)`; the rest is a tie.
/// Bradley & Terry 1952; ties as in Rao & Kupper 1967, their ν = exp α.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Annotator {
    /// Temperature, in units of gold reward.
    pub tau: f64,
    /// e: chance of a flipped label.
    pub flips: f64,
    /// λ: logits per extra response token.
    pub length_bias: f64,
    /// α: logits by which a response must be ahead to be preferred; 0: no ties.
    pub ties: f64,
}

/// The annotator's label of two responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    First,
    Second,
    Tie,
}

impl Annotator {
    /// Probabilities that the first response is preferred, and that the second is.
    pub fn prefers(&self, gold: [f64; 2], lengths: [usize; 2]) -> [f64; 2] {
        let logit = (gold[0] - gold[1]) / self.tau + self.length_bias * (lengths[0] as f64 - lengths[1] as f64);
        let [first, second] = [logit, -logit].map(|d| 1.0 / (1.0 + (self.ties - d).exp()));
        let e = self.flips;
        [(1.0 - e) * first + e * second, (1.0 - e) * second + e * first]
    }

    /// Draws the label of a pair.
    pub fn label(&self, gold: [f64; 2], lengths: [usize; 2], rng: &mut Rng) -> Label {
        let [first, second] = self.prefers(gold, lengths);
        match rng.random::<f64>() {
            drawn if drawn < first => Label::First,
            drawn if self.ties == 0.0 || drawn < first + second => Label::Second,
            _ => Label::Tie,
        }
    }
}

/// The Bayes accuracy, an upper bound for any judge of these rows: the mean of the larger label probability.
pub fn bayes_accuracy(rows: &[PreferenceRow]) -> f64 {
    rows.iter().map(|r| r.p_label.max(1.0 - r.p_label)).sum::<f64>() / rows.len() as f64
}

/// The temperature at which labels of pairs with these gold differences have the given Bayes accuracy
/// (flips and length bias left out), by bisection of log τ; the nearest end of [1e-4, 1e4] if none.
pub fn solve_tau(differences: &[f64], accuracy: f64) -> f64 {
    let accuracy_at = |tau: f64| {
        differences.iter().map(|d| 1.0 / (1.0 + (-d.abs() / tau).exp())).sum::<f64>() / differences.len() as f64
    };
    let (mut low, mut high) = (1e-4f64, 1e4f64);
    for _ in 0..100 {
        let middle = (low * high).sqrt();
        if accuracy_at(middle) > accuracy { low = middle } else { high = middle }
    }
    (low * high).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotator_by_hand() {
        let plain = Annotator { tau: 1.0, flips: 0.0, length_bias: 0.0, ties: 0.0 };
        assert!((plain.prefers([1.0, 0.0], [1, 9])[0] - 0.731_058_578_630_004_9).abs() < 1e-15);
        let flipped = Annotator { flips: 0.2, ..plain };
        assert!((flipped.prefers([1.0, 0.0], [1, 1])[0] - (0.6 * 0.731_058_578_630_004_9 + 0.2)).abs() < 1e-15);
        let biased = Annotator { length_bias: 0.3, ..plain };
        assert!((biased.prefers([0.0, 0.0], [4, 2])[0] - 1.0 / (1.0 + (-0.6f64).exp())).abs() < 1e-15);
        // Rao & Kupper 1967: λ1/(λ1 + ν λ2), λ2/(νλ1 + λ2) with λ = e, 1 and ν = 2
        let unsure = Annotator { ties: 2f64.ln(), ..plain };
        let e = std::f64::consts::E;
        let [first, second] = unsure.prefers([1.0, 0.0], [1, 1]);
        assert!((first - e / (e + 2.0)).abs() < 1e-15 && (second - 1.0 / (2.0 * e + 1.0)).abs() < 1e-15);
        let mut rng = duel_spec::seeds::derive(0, "test", 0, "ties");
        let labels: Vec<Label> = (0..10_000).map(|_| unsure.label([1.0, 0.0], [1, 1], &mut rng)).collect();
        let share = |of| labels.iter().filter(|&&label| label == of).count() as f64 / 10_000.0;
        let expected = [(Label::First, first), (Label::Second, second), (Label::Tie, 1.0 - first - second)];
        assert!(expected.iter().all(|&(label, p)| (share(label) - p).abs() < 0.02)); // four sd
        let cold = Annotator { tau: 0.5, ..plain };
        assert!((cold.prefers([1.0, 0.0], [1, 1])[0] - 1.0 / (1.0 + (-2f64).exp())).abs() < 1e-15);
    }

    #[test]
    fn a_rows_strength_is_the_annotators_certainty() {
        let row = |p_label| PreferenceRow { p_label, ..PreferenceRow::new(Split::Train, vec![], vec![], vec![]) };
        let odds = |logit: f64| 1.0 / (1.0 + (-logit).exp());
        for (logit, expected) in [(0.0, 0.0), (1.5, 0.5), (-1.5, 0.5), (3.0, 1.0), (9.0, 1.0)] {
            assert!((row(odds(logit)).strength() - expected).abs() < 1e-9);
        }
    }

    #[test]
    fn rows_with_other_masks_have_other_hashes() {
        let row =
            PreferenceRow { p_label: 0.5, ..PreferenceRow::new(Split::Train, vec![5], vec![6, 7, 8], vec![6, 7, 8]) };
        let mask = |spans: &[[usize; 2]]| LossMask::new(spans.iter().copied(), 3);
        let chosen = |spans: &[[usize; 2]]| PreferenceRow { chosen_mask: mask(spans), ..row.clone() };
        let rejected = PreferenceRow { rejected_mask: mask(&[[1, 2]]), ..row.clone() };
        let rows = [row.clone(), chosen(&[[1, 2]]), chosen(&[[1, 3]]), chosen(&[[0, 1], [2, 3]]), rejected];
        let hashes: std::collections::BTreeSet<String> =
            rows.iter().map(|row| hash(std::slice::from_ref(row))).collect();
        assert_eq!(hashes.len(), rows.len());
        let text = serde_json::to_string(&row).expect("written");
        assert!(!text.contains("mask"), "rows without masks are written as before: {text}");
        let masked = serde_json::to_string(&rows[3]).expect("written");
        assert!(masked.contains("\"chosen_mask\":[[0,1],[2,3]]"), "{masked}");
        assert_eq!(serde_json::from_str::<PreferenceRow>(&masked).expect("read"), rows[3]);
    }

    #[test]
    fn tau_is_solved_for_the_asked_accuracy() {
        let differences = [0.3, -0.5, 1.2, 0.1, -0.9];
        let tau = solve_tau(&differences, 0.8);
        let mean = differences.iter().map(|d: &f64| 1.0 / (1.0 + (-d.abs() / tau).exp())).sum::<f64>() / 5.0;
        assert!((mean - 0.8).abs() < 1e-9, "{tau}");
    }
}
