//! What the rows of `metrics.parquet` are gathered into: points with their evaluations, training curves, and the bins of the reward
//! model's calibration.

use duel_ledger::SharedMetricRow;
use duel_spec::Clocks;
use duel_spec::metrics::{self, Metric};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One evaluation of one policy: its metrics on validation and on test prompts.
#[derive(Debug, Clone, Default)]
pub struct EvalPoint {
    /// What the training had cost by then, without the shared stages.
    pub clocks: Clocks,
    validation: BTreeMap<Arc<str>, f64>,
    test: BTreeMap<Arc<str>, f64>,
}

impl EvalPoint {
    /// A metric on test prompts; `None` where it was not measured or is not finite.
    pub fn test(&self, metric: Metric) -> Option<f64> {
        self.test.get(metric.name).copied().filter(|x| x.is_finite())
    }

    /// Whether a metric was recorded on test prompts, finite or not.
    pub(crate) fn is_recorded(&self, metric: Metric) -> bool {
        self.test.contains_key(metric.name)
    }

    /// As [`Self::test`], on validation prompts.
    pub fn validation(&self, metric: Metric) -> Option<f64> {
        self.validation.get(metric.name).copied().filter(|x| x.is_finite())
    }
}

/// One setting of an arm with the evaluations of each seed's training, in step order.
#[derive(Debug, Clone)]
pub struct MeasuredPoint {
    pub arm: String,
    pub method: String,
    pub label: String,
    pub seeds: BTreeMap<u64, Vec<EvalPoint>>,
}

impl MeasuredPoint {
    /// The finished policy of each seed.
    pub fn finished(&self) -> impl Iterator<Item = (u64, &EvalPoint)> {
        self.seeds.iter().filter_map(|(seed, evaluations)| evaluations.last().map(|m| (*seed, m)))
    }

    /// A test metric of each seed's finished policy, in seed order.
    pub fn final_test(&self, metric: Metric) -> Vec<f64> {
        self.finished().filter_map(|(_, evaluation)| evaluation.test(metric)).collect()
    }

    /// As [`Self::final_test`], on validation prompts.
    pub fn final_validation(&self, metric: Metric) -> Vec<f64> {
        self.finished().filter_map(|(_, evaluation)| evaluation.validation(metric)).collect()
    }

    /// The label as it is displayed.
    pub fn display_label(&self) -> String {
        self.label.replace("beta", "β").replace(',', ", ")
    }
}

/// Collects points from the rows of their evaluations.
#[derive(Debug, Default)]
pub(crate) struct PointBuilder {
    pub(crate) all: Vec<MeasuredPoint>,
    /// Index of the last row's point.
    index: usize,
}

impl PointBuilder {
    /// Adds a row of an evaluation.
    pub(crate) fn add_evaluation(&mut self, row: SharedMetricRow) {
        let is_point = |p: &MeasuredPoint| *p.arm == *row.arm && *p.label == *row.point;
        if !self.all.get(self.index).is_some_and(is_point) {
            self.index = self.all.iter().position(is_point).unwrap_or_else(|| {
                let (arm, method, label) = (row.arm.to_string(), row.method.to_string(), row.point.to_string());
                self.all.push(MeasuredPoint { arm, method, label, seeds: BTreeMap::new() });
                self.all.len() - 1
            });
        }
        let evaluations = self.all[self.index].seeds.entry(row.seed).or_default();
        if evaluations.last().is_none_or(|m| m.clocks.step != row.clocks.step) {
            evaluations.push(EvalPoint { clocks: row.clocks, ..EvalPoint::default() });
        }
        let evaluation = evaluations.last_mut().expect("one was just there");
        let split = if &*row.stage == "evaluation-test" { &mut evaluation.test } else { &mut evaluation.validation };
        split.insert(row.metric, row.value);
    }
}

/// A metric over the trainings of a point.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrainingCurve {
    /// Sum over seeds and their number, by step.
    by_step: BTreeMap<u64, (f64, u32)>,
    /// Sum over steps and their number, by seed.
    by_seed: BTreeMap<u64, (f64, u32)>,
}

impl TrainingCurve {
    pub(crate) fn add_row(&mut self, row: &SharedMetricRow) {
        let (step, seed) =
            (self.by_step.entry(row.clocks.step).or_default(), self.by_seed.entry(row.seed).or_default());
        for (sum, n) in [step, seed] {
            *sum += row.value;
            *n += 1;
        }
    }

    /// Mean over seeds, by step.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (f64, f64)> {
        self.by_step.iter().map(|(step, (sum, n))| (*step as f64, sum / f64::from(*n)))
    }

    /// Mean over the training of a seed.
    pub(crate) fn mean_of(&self, seed: u64) -> Option<f64> {
        self.by_seed.get(&seed).map(|(sum, n)| sum / f64::from(*n))
    }
}

/// Test pairs whose scores give the preferred response about the same probability.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReliabilityBin {
    pub(crate) pairs: f64,
    /// Mean probability of the response with the higher score.
    pub(crate) predicted: f64,
    /// Share of pairs in which it was chosen.
    pub(crate) observed: f64,
}

impl ReliabilityBin {
    /// Adds a row of the stage `rm-calibration`.
    pub(crate) fn add_row(&mut self, row: &SharedMetricRow) {
        for (metric, index) in [
            (metrics::CALIBRATION_PAIRS, &mut self.pairs),
            (metrics::CALIBRATION_SAID, &mut self.predicted),
            (metrics::CALIBRATION_WAS, &mut self.observed),
        ] {
            if *row.metric == *metric.name {
                *index = row.value;
            }
        }
    }

    /// Bins of several seeds, weighted by their pairs.
    pub(crate) fn pooled<'a>(bins: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let pairs: f64 = bins.clone().map(|bin| bin.pairs).sum();
        let mean =
            |field: fn(&Self) -> f64| bins.clone().map(|bin| bin.pairs * field(bin)).sum::<f64>() / pairs.max(1.0);
        Self { pairs, predicted: mean(|bin| bin.predicted), observed: mean(|bin| bin.observed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(stage: &str, seed: u64, step: u64, metric: Metric, value: f64) -> SharedMetricRow {
        let clocks = Clocks { step, ..Clocks::default() };
        let [arm, method, point, stage, metric] = ["a", "dpo", "beta=0.1,lr=2", stage, metric.name].map(Arc::from);
        SharedMetricRow { arm, method, point, seed, stage, clocks, metric, value }
    }

    /// By hand: the second seed ends after its first step.
    #[test]
    fn a_training_curve_has_means_over_seeds_and_over_steps() {
        let mut curve = TrainingCurve::default();
        for (seed, step, value) in [(0, 1, 2.0), (0, 2, 5.0), (0, 3, 8.0), (1, 1, 4.0)] {
            curve.add_row(&row("train", seed, step, metrics::KL_STEP, value));
        }
        assert_eq!(curve.steps().collect::<Vec<_>>(), [(1.0, 3.0), (2.0, 5.0), (3.0, 8.0)]);
        assert_eq!([0, 1, 2].map(|seed| curve.mean_of(seed)), [Some(5.0), Some(4.0), None]);
    }

    #[test]
    fn a_bin_is_read_from_its_three_metrics() {
        let mut bin = ReliabilityBin::default();
        for (metric, value) in [
            (metrics::CALIBRATION_PAIRS, 30.0),
            (metrics::CALIBRATION_SAID, 0.75),
            (metrics::CALIBRATION_WAS, 0.5),
            (metrics::LOSS, 9.0),
        ] {
            bin.add_row(&row("rm-calibration", 0, 0, metric, value));
        }
        assert_eq!([bin.pairs, bin.predicted, bin.observed], [30.0, 0.75, 0.5]);
    }

    /// A value that is not finite was recorded, and is none.
    #[test]
    fn evaluations_are_gathered_by_point_seed_and_step() {
        let mut points = PointBuilder::default();
        for (stage, step, metric, value) in [
            ("evaluation-test", 1, metrics::KL, 0.5),
            ("evaluation-validation", 1, metrics::KL, 0.25),
            ("evaluation-test", 2, metrics::KL, f64::NAN),
        ] {
            points.add_evaluation(row(stage, 3, step, metric, value));
        }
        let [point] = &points.all[..] else { panic!("one point") };
        let [first, last] = &point.seeds[&3][..] else { panic!("two evaluations") };
        assert_eq!([first.test(metrics::KL), first.validation(metrics::KL)], [Some(0.5), Some(0.25)]);
        assert_eq!([last.test(metrics::KL), last.validation(metrics::KL)], [None, None]);
        assert!(last.is_recorded(metrics::KL) && !last.is_recorded(metrics::GOLD));
        assert_eq!(point.display_label(), "β=0.1, lr=2");
    }
}
