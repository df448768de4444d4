//! On which pairs a reward is right: by the difference of gold, and by the difference of length.

use crate::ranks::ranks;
use duel_data::pairs::PreferenceRow;
use duel_spec::metrics::{ACCURACY_IN_BIN, CEILING_IN_BIN, PAIRS_IN_BIN, VALUE_IN_BIN};
use duel_spec::{Clocks, LENGTH_BINS, MARGIN_BINS, PairDivision, Recorder, Split, bins_stage};
use duel_training::PairBatch;

/// What is known of a pair before a reward has read it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairFacts {
    /// Size of the difference of gold.
    pub gold_margin: f64,
    /// How certain the label is, 0 to 1.
    pub strength: f64,
    /// Counted tokens of chosen minus rejected.
    pub length: f64,
    /// The larger label probability.
    pub ceiling: f64,
}

impl PairFacts {
    /// Of each pair of a batch that was made of these rows.
    pub fn of(rows: &[PreferenceRow], pairs: &PairBatch) -> Vec<Self> {
        let lengths = pairs.both.lengths(); // [2N]
        let facts = |(pair, &row): (usize, &usize)| Self {
            gold_margin: (rows[row].gold_chosen - rows[row].gold_rejected).abs(),
            strength: rows[row].strength(),
            length: lengths[pair] as f64 - lengths[pairs.len() + pair] as f64,
            ceiling: rows[row].p_label.max(1.0 - rows[row].p_label),
        };
        pairs.rows.iter().enumerate().map(facts).collect()
    }
}

/// Pairs of one bin.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PairBin {
    pub pairs: f64,
    /// Mean of what the pairs are divided by.
    pub value: f64,
    /// Share whose chosen response scores higher, ties half.
    pub accuracy: f64,
    /// Mean of the larger label probability.
    pub ceiling: f64,
}

/// The bins of pairs by every division, those without pairs too.
#[derive(Debug, Clone, PartialEq)]
pub struct PairBins(Vec<(PairDivision, Vec<PairBin>)>);

impl PairBins {
    /// `margins`: a reward's score of chosen minus rejected, of each pair.
    pub fn new(facts: &[PairFacts], margins: &[f64]) -> Self {
        let values = |of: fn(&PairFacts) -> f64| facts.iter().map(of).collect::<Vec<f64>>();
        let (gold, strengths, lengths) = (values(|f| f.gold_margin), values(|f| f.strength), values(|f| f.length));
        let varies = |values: &[f64]| values.iter().any(|value| *value != values[0]);
        let (by, of_margin) = if gold.iter().any(|margin| *margin > 0.0) {
            (PairDivision::GoldMargin, gold)
        } else if varies(&strengths) {
            (PairDivision::LabelStrength, strengths)
        } else {
            (PairDivision::OwnMargin, margins.iter().map(|margin| margin.abs()).collect())
        };
        let bins = |count, of_pair: &[usize], values: &[f64]| collect(count, of_pair, values, facts, margins);
        Self(vec![
            (PairDivision::Whole, bins(1, &vec![0; facts.len()], &of_margin)),
            (by, bins(MARGIN_BINS, &quantile_bins(&of_margin, MARGIN_BINS), &of_margin)),
            (PairDivision::Length, bins(LENGTH_BINS.len(), &length_bins(&lengths), &lengths)),
        ])
    }

    /// The bins of a division; empty where pairs are not divided so.
    pub fn by(&self, division: PairDivision) -> &[PairBin] {
        self.0.iter().find(|(by, _)| *by == division).map_or(&[], |(_, bins)| bins)
    }

    /// Records the bins that hold pairs, each at the step of its number; `of` is the stage that is measured, `rm` or `cell`.
    pub fn record(&self, of: &str, split: Split, recorder: &mut dyn Recorder) {
        for (by, bins) in &self.0 {
            let stage = bins_stage(of, split, *by);
            for (index, bin) in bins.iter().enumerate().filter(|(_, bin)| bin.pairs > 0.0) {
                let clocks = Clocks { step: index as u64, ..Clocks::default() };
                recorder.record(&stage, clocks, PAIRS_IN_BIN, bin.pairs);
                recorder.record(&stage, clocks, VALUE_IN_BIN, bin.value);
                recorder.record(&stage, clocks, ACCURACY_IN_BIN, bin.accuracy);
                recorder.record(&stage, clocks, CEILING_IN_BIN, bin.ceiling);
            }
        }
    }
}

/// Which of `count` bins of about as many pairs each value is in; equal values are in the same one.
fn quantile_bins(values: &[f64], count: usize) -> Vec<usize> {
    let bin = |rank: f64| ((rank + 0.5) / values.len() as f64 * count as f64) as usize;
    ranks(values).into_iter().map(|rank| bin(rank).min(count - 1)).collect()
}

/// The bin of [`LENGTH_BINS`] of each difference of lengths.
fn length_bins(differences: &[f64]) -> Vec<usize> {
    let mut sizes: Vec<f64> = differences.iter().map(|d| d.abs()).filter(|size| *size > 0.0).collect();
    sizes.sort_by(f64::total_cmp);
    let median = sizes.get(sizes.len().saturating_sub(1) / 2).copied().unwrap_or(0.0);
    let bin = |&difference: &f64| match difference {
        d if d < -median => 0,
        d if d < 0.0 => 1,
        0.0 => 2,
        d if d <= median => 3,
        _ => 4,
    };
    differences.iter().map(bin).collect()
}

/// Means over the pairs of each bin.
fn collect(count: usize, of_pair: &[usize], values: &[f64], facts: &[PairFacts], margins: &[f64]) -> Vec<PairBin> {
    let mut bins = vec![PairBin::default(); count];
    for (pair, &index) in of_pair.iter().enumerate() {
        let bin = &mut bins[index];
        bin.pairs += 1.0;
        bin.value += values[pair];
        bin.accuracy += if margins[pair] == 0.0 { 0.5 } else { f64::from(margins[pair] > 0.0) };
        bin.ceiling += facts[pair].ceiling;
    }
    for bin in &mut bins {
        let pairs = bin.pairs.max(1.0);
        (bin.value, bin.accuracy, bin.ceiling) = (bin.value / pairs, bin.accuracy / pairs, bin.ceiling / pairs);
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(gold_margin: f64, strength: f64, length: f64, ceiling: f64) -> PairFacts {
        PairFacts { gold_margin, strength, length, ceiling }
    }

    #[test]
    fn facts_are_of_the_rows_of_a_batch() {
        let row = |tokens: [usize; 2], gold: [f64; 2], p_label| PreferenceRow {
            gold_chosen: gold[0],
            gold_rejected: gold[1],
            p_label,
            ..PreferenceRow::new(Split::Test, vec![1], vec![3; tokens[0]], vec![3; tokens[1]])
        };
        let rows = [row([1, 2], [0.0, 0.0], 0.5), row([2, 6], [1.0, 4.0], 0.25), row([4, 1], [2.0, 1.5], 0.9)];
        let actual = PairFacts::of(&rows, &PairBatch::new(&rows, &[2, 1]));
        let expected = [facts(0.5, 9f64.ln() / 3.0, 3.0, 0.9), facts(3.0, 3f64.ln() / 3.0, -4.0, 0.75)];
        let numbers = |f: &PairFacts| [f.gold_margin, f.strength, f.length, f.ceiling];
        for (actual, expected) in actual.iter().map(numbers).zip(expected.iter().map(numbers)) {
            assert!(actual.iter().zip(&expected).all(|(a, e)| (a - e).abs() < 1e-12), "{actual:?}, {expected:?}");
        }
    }

    /// Eight gold margins, two in each quarter; lengths with a median difference of 2.
    #[test]
    fn pairs_are_divided_by_gold_and_by_length() {
        let all = [
            (0.1, 1.0, 1.0),
            (0.8, -1.0, 1.0),
            (0.2, 0.0, -1.0),
            (0.7, 2.0, 0.0),
            (0.3, 3.0, 1.0),
            (0.6, -2.0, -1.0),
            (0.4, -4.0, 1.0),
            (0.5, 0.0, 1.0),
        ];
        let pairs = all.map(|(gold, length, _)| facts(gold, 1.0, length, 0.5 + gold / 2.0));
        let bins = PairBins::new(&pairs, &all.map(|(_, _, margin)| margin));
        let bin = |pairs, value, accuracy, ceiling| PairBin { pairs, value, accuracy, ceiling };
        let near = |actual: &[PairBin], expected: &[PairBin]| {
            assert_eq!(actual.len(), expected.len());
            for (a, e) in actual.iter().zip(expected) {
                let [a, e] = [a, e].map(|bin| [bin.pairs, bin.value, bin.accuracy, bin.ceiling]);
                assert!(a.iter().zip(&e).all(|(a, e)| (a - e).abs() < 1e-12), "{a:?}, expected {e:?}");
            }
        };
        // right, wrong; right, right; right, wrong; right, tied
        let quarters = [
            bin(2.0, 0.15, 0.5, 0.575),
            bin(2.0, 0.35, 1.0, 0.675),
            bin(2.0, 0.55, 0.5, 0.775),
            bin(2.0, 0.75, 0.75, 0.875),
        ];
        near(bins.by(PairDivision::GoldMargin), &quarters);
        near(bins.by(PairDivision::Whole), &[bin(8.0, 0.45, 5.5 / 8.0, 0.725)]);
        // sizes 1, 1, 2, 2, 3, 4: the lower median is 2
        let lengths = [
            bin(1.0, -4.0, 1.0, 0.7),
            bin(2.0, -1.5, 0.5, 0.85),
            bin(2.0, 0.0, 0.5, 0.675),
            bin(2.0, 1.5, 0.75, 0.7),
            bin(1.0, 3.0, 1.0, 0.65),
        ];
        near(bins.by(PairDivision::Length), &lengths);
        assert!(bins.by(PairDivision::OwnMargin).is_empty() && bins.by(PairDivision::LabelStrength).is_empty());
    }

    #[test]
    fn equal_margins_share_a_bin_and_bins_may_be_empty() {
        // ranks 1, 1, 1 and 3 of four
        assert_eq!(quantile_bins(&[0.0, 0.0, 0.0, 5.0], 4), [1, 1, 1, 3]);
        assert_eq!(quantile_bins(&[2.0; 5], 4), [2; 5]);
        assert_eq!(quantile_bins(&[2.0], 4), [2]);
        assert_eq!(quantile_bins(&[], 4), [0usize; 0]);
        assert_eq!(length_bins(&[0.0, 0.0]), [2, 2]);
        // all differences are the median: none is much longer
        assert_eq!(length_bins(&[3.0, -3.0, 3.0]), [3, 1, 3]);
    }

    /// Without gold by the strength of labels, and without that by what the reward itself says.
    #[test]
    fn where_gold_is_unknown_pairs_are_divided_by_what_is_known() {
        let division = |strengths: [f64; 2]| {
            let bins = PairBins::new(&strengths.map(|strength| facts(0.0, strength, 0.0, 1.0)), &[-0.5, 2.0]);
            let all = [PairDivision::GoldMargin, PairDivision::LabelStrength, PairDivision::OwnMargin];
            let counts = all.map(|by| bins.by(by).iter().map(|bin| bin.pairs).sum::<f64>());
            let means: Vec<f64> =
                all.iter().flat_map(|&by| bins.by(by)).filter(|bin| bin.pairs > 0.0).map(|bin| bin.value).collect();
            (counts, means)
        };
        assert_eq!(division([0.25, 1.0]), ([0.0, 2.0, 0.0], vec![0.25, 1.0]));
        assert_eq!(division([1.0, 1.0]), ([0.0, 0.0, 2.0], vec![0.5, 2.0]));
        // one pair, and none
        let one = PairBins::new(&[facts(0.0, 1.0, 1.0, 1.0)], &[0.0]);
        assert_eq!(one.by(PairDivision::Whole), [PairBin { pairs: 1.0, value: 0.0, accuracy: 0.5, ceiling: 1.0 }]);
        assert_eq!(PairBins::new(&[], &[]).by(PairDivision::Whole), [PairBin::default()]);
    }
}
