//! On which pairs a reward orders responses as labelled: bins of pairs, pooled over seeds.

use crate::analysis::stats::{Estimate, mean, wilson};
use duel_ledger::SharedMetricRow;
use duel_spec::metrics::{ACCURACY_IN_BIN, CEILING_IN_BIN, PAIRS_IN_BIN, VALUE_IN_BIN};
use duel_spec::{NO_POINT, PairDivision, SHARED_ARM, Split, bins_of_stage};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One bin at one seed.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct SeedBin {
    pairs: f64,
    value: f64,
    accuracy: f64,
    ceiling: f64,
}

/// Arm, point, split and division of bins.
type BinsKey = (Arc<str>, Arc<str>, Split, PairDivision);

/// Every bin of a run, by number and seed.
#[derive(Debug, Default)]
pub(crate) struct BinTable(BTreeMap<BinsKey, BTreeMap<u64, BTreeMap<u64, SeedBin>>>);

impl BinTable {
    /// Adds a row if it is of a bin; `false` if it is not.
    pub(super) fn add_row(&mut self, row: &SharedMetricRow) -> bool {
        let Some((split, by)) = bins_of_stage(&row.stage) else { return false };
        let key = (row.arm.clone(), row.point.clone(), split, by);
        let bin = self.0.entry(key).or_default().entry(row.clocks.step).or_default().entry(row.seed).or_default();
        let fields = [
            (PAIRS_IN_BIN, &mut bin.pairs),
            (VALUE_IN_BIN, &mut bin.value),
            (ACCURACY_IN_BIN, &mut bin.accuracy),
            (CEILING_IN_BIN, &mut bin.ceiling),
        ];
        fields.into_iter().filter(|(metric, _)| *row.metric == *metric.name).for_each(|(_, field)| *field = row.value);
        true
    }

    /// The bins of the reward model that every arm shares.
    pub(crate) fn of_reward_model(&self, split: Split, by: PairDivision) -> Vec<PooledBin> {
        self.pooled(SHARED_ARM, NO_POINT, split, by)
    }

    /// What pairs of a split are divided by for the reward model.
    pub(crate) fn divisions(&self, split: Split) -> Vec<PairDivision> {
        let is_recorded = |by: &PairDivision| !self.of_reward_model(split, *by).is_empty();
        PairDivision::ALL.into_iter().filter(is_recorded).collect()
    }

    /// Those of an arm's point that hold pairs at some seed.
    pub(crate) fn pooled(&self, arm: &str, point: &str, split: Split, by: PairDivision) -> Vec<PooledBin> {
        let bins = self.0.get(&(arm.into(), point.into(), split, by));
        bins.into_iter().flatten().filter_map(|(number, seeds)| PooledBin::new(*number, seeds.values())).collect()
    }
}

/// One bin over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PooledBin {
    /// Its number in the division.
    pub(crate) number: u64,
    pub(crate) seeds: usize,
    /// Of all seeds together.
    pub(crate) pairs: f64,
    /// Mean over pairs of what they are divided by, and of the larger label probability.
    pub(crate) value: f64,
    pub(crate) ceiling: f64,
    /// Mean over seeds.
    pub(crate) accuracy: f64,
    /// 95%: over seeds; of one seed, or where all seeds agree to the last digit, over pairs (Wilson).
    pub(crate) interval: [f64; 2],
}

impl PooledBin {
    fn new<'a>(number: u64, seeds: impl Iterator<Item = &'a SeedBin>) -> Option<Self> {
        let seeds: Vec<&SeedBin> = seeds.filter(|bin| bin.pairs > 0.0).collect();
        let pairs: f64 = seeds.iter().map(|bin| bin.pairs).sum();
        let over_pairs =
            |field: fn(&SeedBin) -> f64| seeds.iter().map(|bin| bin.pairs * field(bin)).sum::<f64>() / pairs;
        let accuracies: Vec<f64> = seeds.iter().map(|bin| bin.accuracy).collect();
        let estimate = Estimate::of(&accuracies)?;
        let interval = match estimate.half_width {
            Some(half) if half > 0.0 => [estimate.mean - half, estimate.mean + half],
            _ => wilson(estimate.mean * pairs, pairs, 0.95),
        };
        Some(Self {
            number,
            seeds: seeds.len(),
            pairs,
            value: over_pairs(|bin| bin.value),
            ceiling: over_pairs(|bin| bin.ceiling),
            accuracy: mean(&accuracies),
            interval,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::metrics::Metric;
    use duel_spec::{Clocks, bins_stage};

    fn row(arm: &str, stage: &str, step: u64, seed: u64, metric: Metric, value: f64) -> SharedMetricRow {
        let clocks = Clocks { step, ..Clocks::default() };
        let [arm, method, point, stage, metric] = [arm, "dpo", NO_POINT, stage, metric.name].map(Arc::from);
        SharedMetricRow { arm, method, point, seed, stage, clocks, metric, value }
    }

    /// A table of bins by length: number, seed, pairs, value, accuracy and ceiling.
    fn table(arm: &str, bins: &[(u64, u64, [f64; 4])]) -> BinTable {
        let mut table = BinTable::default();
        let stage = bins_stage("rm", Split::Test, PairDivision::Length);
        for (number, seed, values) in bins {
            for (metric, value) in [PAIRS_IN_BIN, VALUE_IN_BIN, ACCURACY_IN_BIN, CEILING_IN_BIN].into_iter().zip(values)
            {
                assert!(table.add_row(&row(arm, &stage, *number, *seed, metric, *value)));
            }
        }
        table
    }

    /// By hand: t.975 with 2 degrees of freedom is 4.302653, the standard deviation of .6, .7 and .8 is .1.
    #[test]
    fn a_bin_is_pooled_over_the_seeds_that_have_pairs_in_it() {
        let table = table(
            SHARED_ARM,
            &[
                (0, 0, [10.0, -2.0, 0.6, 0.7]),
                (0, 1, [10.0, -2.0, 0.7, 0.7]),
                (0, 2, [20.0, -4.0, 0.8, 0.9]),
                (3, 1, [50.0, 1.0, 0.74, 0.9]),
            ],
        );
        let bins = table.of_reward_model(Split::Test, PairDivision::Length);
        let [first, other] = &bins[..] else { panic!("two bins: {bins:?}") };
        assert_eq!((first.number, first.seeds, first.pairs, first.value), (0, 3, 40.0, -3.0));
        assert!((first.accuracy - 0.7).abs() < 1e-12 && (first.ceiling - 0.8).abs() < 1e-12);
        let half = 4.302_652_7 * 0.1 / 3f64.sqrt();
        assert!((first.interval[0] - 0.7 + half).abs() < 1e-6 && (first.interval[1] - 0.7 - half).abs() < 1e-6);
        // one seed; scipy 1.17: `binomtest(37, 50).proportion_ci(.95, "wilson")`
        assert_eq!((other.number, other.seeds), (3, 1));
        assert!((other.interval[0] - 0.604_468).abs() < 1e-6 && (other.interval[1] - 0.841_285).abs() < 1e-6);
        assert_eq!(table.divisions(Split::Test), [PairDivision::Length]);
        assert!(table.divisions(Split::Train).is_empty());
    }

    /// Seeds that agree exactly are no proof of certainty; an empty bin is none.
    #[test]
    fn seeds_that_agree_have_the_interval_of_their_pairs() {
        let mut table = table("a", &[(1, 0, [25.0, 0.0, 1.0, 1.0]), (1, 1, [25.0, 0.0, 1.0, 1.0]), (2, 0, [0.0; 4])]);
        let bins = table.pooled("a", NO_POINT, Split::Test, PairDivision::Length);
        let [bin] = &bins[..] else { panic!("one bin: {bins:?}") };
        let [low, high] = wilson(50.0, 50.0, 0.95);
        assert_eq!((bin.accuracy, bin.interval), (1.0, [low, high]));
        assert!(low < 0.95, "{low}");
        assert!(table.of_reward_model(Split::Test, PairDivision::Length).is_empty());
        assert!(table.pooled("a", "x", Split::Test, PairDivision::Length).is_empty());
        assert!(!table.add_row(&row("a", "train", 1, 0, ACCURACY_IN_BIN, 0.5)), "no row of a bin");
    }
}
