//! The results of a search: the score of every point that was tried, on validation prompts (docs/verdicts.md, Equal tuning).

use crate::analysis::frontier::{KlGold, gold_at, within};
use crate::analysis::points::{EvalPoint, MeasuredPoint, PointBuilder};
use crate::analysis::run::Run;
use crate::analysis::stats::{Estimate, difference, mean};
use crate::error::Result;
use duel_ledger::{Manifest, RunSubset, TableSource, scan_metrics};
use duel_spec::metrics::{self, Metric};
use duel_spec::{Cell, Experiment, RewardSource, SHARED_ARM, SampledSettings, SelectionMetric};
use std::collections::BTreeMap;
use std::path::Path;

/// The score of one training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrialScore {
    /// Gold above the reference that a mixture of the training's checkpoints reaches within `tuning.kl`; as a share of
    /// what the exact optimum gains there, where that is known.
    pub gold: f64,
    /// Learned reward above the reference's, likewise.
    pub proxy: f64,
    /// Of the training, without the reward model.
    pub flops: f64,
}

/// A point with the score of each seed; `None` where the training failed.
#[derive(Debug, Clone)]
pub struct TrialResult {
    pub arm: String,
    pub label: String,
    pub settings: SampledSettings,
    pub seeds: BTreeMap<u64, Option<TrialScore>>,
}

impl TrialResult {
    /// The mean score over seeds; −∞ where a seed failed or its score is NaN.
    pub fn merit(&self, choose: SelectionMetric) -> f64 {
        let merit = mean(&self.values(choose));
        if merit.is_nan() { f64::NEG_INFINITY } else { merit }
    }

    /// Scores in the order of the seeds.
    pub fn values(&self, choose: SelectionMetric) -> Vec<f64> {
        let score_of = |score: &Option<TrialScore>| match (score, choose) {
            (None, _) => f64::NEG_INFINITY,
            (Some(score), SelectionMetric::Gold) => score.gold,
            (Some(score), SelectionMetric::Proxy) => score.proxy,
        };
        self.seeds.values().map(score_of).collect()
    }

    /// Whether it falls behind another on the evidence of the seeds that both ran on: at least two of them, and the 95%
    /// interval of the paired difference below zero. One that fails where the other does not is behind.
    pub fn is_behind(&self, other: &Self, choose: SelectionMetric) -> bool {
        let shared = |trial: &Self, other: &Self| {
            let seeds = trial.seeds.iter().filter(|(seed, _)| other.seeds.contains_key(seed));
            Self { seeds: seeds.map(|(seed, score)| (*seed, *score)).collect(), ..trial.clone() }.values(choose)
        };
        let (scores, other_scores) = (shared(self, other), shared(other, self));
        let differences: Vec<f64> =
            scores.iter().zip(&other_scores).map(|(a, b)| a - b).filter(|d| !d.is_nan()).collect();
        match Estimate::of(&differences) {
            _ if differences.contains(&f64::NEG_INFINITY) => true,
            Some(Estimate { mean, half_width: Some(half), .. }) => mean + half < 0.0,
            _ => false,
        }
    }
}

/// All that a run tried for a choice, or, where nothing was to be chosen, all that it compared.
#[derive(Debug, Clone, Default)]
pub struct TuningResults {
    pub trials: Vec<TrialResult>,
    /// FLOPs of the reward model, by seed.
    pub reward_model: BTreeMap<u64, f64>,
    /// Whether gold is a share of the exact optimum's.
    pub is_share: bool,
}

impl TuningResults {
    /// Reads what a run has tried so far; `cells` are those that have been started.
    ///
    /// # Errors
    /// A table that is damaged.
    pub fn read(run: &Path, experiment: &Experiment, cells: &[Cell]) -> Result<Self> {
        let mut points = PointBuilder::default();
        let mut reward_model: BTreeMap<u64, f64> = BTreeMap::new();
        for path in TableSource::of(run, &Manifest::read(run)?, RunSubset::Search)?.metrics {
            scan_metrics(&path, |row| {
                if row.stage.starts_with("evaluation-") {
                    points.add_evaluation(row);
                } else if &*row.stage == "rm" && &*row.arm == SHARED_ARM {
                    let flops = reward_model.entry(row.seed).or_default();
                    *flops = flops.max(row.clocks.flops);
                }
            })?;
        }
        let cells: Vec<&Cell> = cells.iter().filter(|cell| cell.tuning).collect();
        Ok(Self { reward_model, ..score_points(&points.all, &cells, experiment) })
    }

    /// Of the points that a run compared.
    pub(crate) fn of(run: &Run) -> Self {
        score_points(&run.points, &run.cells.iter().collect::<Vec<_>>(), &run.experiment)
    }

    /// What a run tried for a choice, or, where nothing was to be chosen, what it compared.
    ///
    /// # Errors
    /// A table that is damaged.
    pub(crate) fn for_run(run: &Run) -> Result<Self> {
        if !run.experiment.is_tuned() {
            return Ok(Self::of(run));
        }
        let cells = duel_ledger::cells_of(&run.folder, &run.experiment)?;
        Self::read(&run.folder, &run.experiment, &cells)
    }

    /// The points of an arm that ran on every one of these seeds, the best first; of equals the earlier.
    pub fn ranked(&self, arm: &str, seeds: &[u64], choose: SelectionMetric) -> Vec<&TrialResult> {
        let complete =
            |trial: &&TrialResult| trial.arm == arm && seeds.iter().all(|seed| trial.seeds.contains_key(seed));
        let mut ranked: Vec<&TrialResult> = self.trials.iter().filter(complete).collect();
        ranked.sort_by(|a, b| b.merit(choose).total_cmp(&a.merit(choose)));
        ranked
    }

    /// FLOPs spent on an arm: its trainings, and a reward model per seed where it is trained on one.
    pub fn spent(&self, arm: &str, experiment: &Experiment) -> f64 {
        let trials = || self.trials.iter().filter(|trial| trial.arm == arm);
        let trainings: f64 = trials().flat_map(|trial| trial.seeds.values().flatten()).map(|score| score.flops).sum();
        let uses_reward_model =
            |trial: &TrialResult| experiment.arms[arm].point(&trial.settings).method.maximizes(RewardSource::Rm);
        let mut seeds: Vec<u64> =
            trials().filter(|trial| uses_reward_model(trial)).flat_map(|t| t.seeds.keys().copied()).collect();
        seeds.sort_unstable();
        seeds.dedup();
        trainings + seeds.iter().filter_map(|seed| self.reward_model.get(seed)).sum::<f64>()
    }
}

fn score_points(points: &[MeasuredPoint], cells: &[&Cell], experiment: &Experiment) -> TuningResults {
    let kl = experiment.tuning.kl;
    let evaluations = |arm: &str, label: Option<&str>, seed: u64| -> Vec<&EvalPoint> {
        let is_point = |p: &&MeasuredPoint| p.arm == arm && label.is_none_or(|label| p.label == label);
        points.iter().filter(is_point).filter_map(|p| p.seeds.get(&seed)).flatten().collect()
    };
    let curve = |evaluations: &[&EvalPoint], metric: Metric| -> Vec<KlGold> {
        evaluations.iter().filter_map(|m| Some((m.validation(metrics::KL)?, m.validation(metric)?))).collect()
    };
    let mut tuning = TuningResults { trials: vec![], reward_model: BTreeMap::new(), is_share: false };
    for cell in cells {
        let (seed, label) = (cell.seed, &cell.point.label);
        let (reference, training) = (evaluations("reference", None, seed), evaluations(&cell.arm, Some(label), seed));
        let gain = |metric: Metric| {
            let base = curve(&reference, metric).last()?.1;
            let all = [curve(&reference, metric), curve(&training, metric)].concat();
            (!curve(&training, metric).is_empty()).then(|| within(&all, kl) - base)
        };
        let mut best = curve(&[reference.clone(), evaluations("optimum", None, seed)].concat(), metrics::GOLD);
        best.sort_by(|a, b| a.0.total_cmp(&b.0));
        let possible = gold_at(&best, kl).zip(best.first()).map(|(top, base)| difference(top, base.1));
        let possible = possible.filter(|gain| *gain > 0.0);
        tuning.is_share |= possible.is_some();
        let score = gain(metrics::GOLD).map(|gold| TrialScore {
            gold: gold / possible.unwrap_or(1.0),
            proxy: gain(metrics::PROXY).unwrap_or(f64::NAN),
            flops: training.last().map_or(0.0, |evaluation| evaluation.clocks.flops),
        });
        let index = tuning.trials.iter().position(|t| t.arm == cell.arm && t.label == *label).unwrap_or_else(|| {
            let (arm, settings) = (cell.arm.clone(), cell.point.settings.clone());
            tuning.trials.push(TrialResult { arm, label: label.clone(), settings, seeds: BTreeMap::new() });
            tuning.trials.len() - 1
        });
        tuning.trials[index].seeds.insert(seed, score);
    }
    tuning
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_ledger::{write_metrics, write_rounds};
    use duel_spec::{Clocks, MetricRow, NO_POINT, Trial};

    fn trial(score: &[Option<f64>]) -> TrialResult {
        let score_of = |gold: &Option<f64>| gold.map(|gold| TrialScore { gold, proxy: -gold, flops: 1.0 });
        TrialResult {
            arm: "a".into(),
            label: format!("{score:?}"),
            settings: SampledSettings::new(),
            seeds: score.iter().map(score_of).enumerate().map(|(seed, score)| (seed as u64, score)).collect(),
        }
    }

    #[test]
    fn a_point_is_behind_on_paired_evidence_alone() {
        let leader = trial(&[Some(0.9), Some(0.5), Some(0.7)]);
        // the same lag at seeds that differ much
        assert!(trial(&[Some(0.8), Some(0.39), Some(0.6)]).is_behind(&leader, SelectionMetric::Gold));
        assert!(!trial(&[Some(0.8), Some(0.39), Some(0.6)]).is_behind(&leader, SelectionMetric::Proxy));
        // as low on average, but not at every seed
        assert!(!trial(&[Some(0.5), Some(0.6), Some(0.7)]).is_behind(&leader, SelectionMetric::Gold));
        // one seed is no evidence
        assert!(!trial(&[Some(-5.0)]).is_behind(&leader, SelectionMetric::Gold));
        assert!(trial(&[Some(0.9), None]).is_behind(&leader, SelectionMetric::Gold));
        assert!(!leader.is_behind(&leader, SelectionMetric::Gold));
    }

    /// Seeds that both failed at say nothing; a score that is NaN is the last.
    #[test]
    fn failures_of_both_are_no_evidence() {
        let gold = SelectionMetric::Gold;
        assert!(!trial(&[None, Some(0.5), Some(0.6)]).is_behind(&trial(&[None, Some(0.5), Some(0.6)]), gold));
        assert!(trial(&[None, Some(0.5), Some(0.6)]).is_behind(&trial(&[None, Some(0.9), Some(1.0)]), gold));
        assert_eq!(trial(&[Some(f64::NAN), Some(1.0)]).merit(gold), f64::NEG_INFINITY);
        // of the first seed, at which one did not run, nothing is compared
        let without_first = |score: &[Option<f64>]| {
            let mut trial = trial(score);
            trial.seeds.remove(&0);
            trial
        };
        let lower = [Some(0.5), Some(0.5), Some(0.6)];
        assert!(without_first(&lower).is_behind(&trial(&[Some(0.5), Some(0.9), Some(1.0)]), gold));
        assert!(
            trial(&[Some(9.0), Some(0.5), Some(0.6)]).is_behind(&without_first(&[None, Some(0.9), Some(1.0)]), gold)
        );
        assert_eq!([trial(&[Some(3.0), Some(1.0)]).merit(gold), trial(&[]).merit(gold)], [2.0, f64::NEG_INFINITY]);
        assert_eq!(trial(&[Some(3.0), Some(1.0)]).merit(SelectionMetric::Proxy), -2.0);
    }

    const EXPERIMENT: &str = "
        name = 'scores'
        seeds = 2
        tuning.kl = 1.0
        [arms.d]
        method = 'dpo'
        [arms.p]
        method = 'ppo'
        reward = 'rm'
        grid.beta = [0.1, 0.2]
    ";

    /// A training at these KL, gold and proxy, beside an optimum that gains this much at KL 2; the reference has proxy 1, and gold 1 with the first seed and 2 with the second.
    fn scored(optimum: Option<f64>, training: &[[f64; 3]]) -> TuningResults {
        let mut run = HandMadeRun::new(EXPERIMENT);
        let clocks = |step: u64| Clocks { step, flops: 10.0 * step as f64, ..Clocks::default() };
        let values = |[kl, gold, proxy]: [f64; 3]| [(metrics::KL, kl), (metrics::GOLD, gold), (metrics::PROXY, proxy)];
        for (seed, base) in [(0, 1.0), (1, 2.0)] {
            run.evaluation("reference", "sft", seed, clocks(0), &values([0.0, base, 1.0]));
            if let Some(gain) = optimum {
                run.evaluation("optimum", "beta=1", seed, clocks(0), &values([2.0, base + gain, 0.0])[..2]);
            }
        }
        for cell in run.run().cells.clone().into_iter().filter(|cell| cell.arm == "p") {
            for (step, row) in (1..).zip(training) {
                run.evaluation("p", &cell.point.label, cell.seed, clocks(step), &values(*row));
            }
        }
        TuningResults::of(&run.finish())
    }

    /// By hand, at KL 1: gold 3 at KL .5 and 5 at KL 2 have 3 + 2/3 between them, proxies 2 and 5 have 3; an optimum
    /// gains 4 there, or nothing, of which no gain is a share.
    #[test]
    fn a_score_is_what_a_mixture_gains_within_the_kl() {
        let training = [[0.5, 3.0, 2.0], [2.0, 5.0, 5.0]];
        for (optimum, scale) in [(None, 1.0), (Some(0.0), 1.0), (Some(8.0), 4.0)] {
            let tuning = scored(optimum, &training);
            assert_eq!(tuning.is_share, optimum == Some(8.0));
            let cells: Vec<(&str, &str)> = tuning.trials.iter().map(|t| (t.arm.as_str(), t.label.as_str())).collect();
            assert_eq!(cells.iter().map(|cell| cell.0).collect::<Vec<_>>(), ["d", "p", "p"]);
            assert_eq!(cells[1..], [("p", "beta=0.1"), ("p", "beta=0.2")]);
            assert_eq!(tuning.trials[0].seeds, BTreeMap::from([(0, None), (1, None)]), "never trained");
            for trial in &tuning.trials[1..] {
                assert_eq!(trial.seeds.len(), 2);
                for (seed, base) in [(0, 1.0), (1, 2.0)] {
                    let score = trial.seeds[&seed].expect("trained");
                    assert!((score.gold - (3.0 + 2.0 / 3.0 - base) / scale).abs() < 1e-12, "{score:?}");
                    assert!((score.proxy - 2.0).abs() < 1e-12 && score.flops == 20.0, "{score:?}");
                }
            }
        }
    }

    /// Four trainings of 20 FLOPs, and one reward model for each of their seeds; `d` needs none.
    #[test]
    fn a_reward_model_is_paid_for_once_a_seed() {
        let mut tuning = scored(None, &[[0.5, 3.0, 2.0], [2.0, 5.0, 5.0]]);
        tuning.reward_model = BTreeMap::from([(0, 100.0), (1, 300.0), (7, 900.0)]);
        let experiment = HandMadeRun::new(EXPERIMENT).run().experiment.clone();
        assert_eq!([tuning.spent("p", &experiment), tuning.spent("d", &experiment)], [480.0, 0.0]);
        let score = TrialScore { gold: 0.0, proxy: 0.0, flops: 7.0 };
        tuning.trials[0].seeds.insert(0, Some(score));
        assert_eq!(tuning.spent("d", &experiment), 7.0);
    }

    /// The search's table, of a format that has no list of stages: evaluations, and the FLOPs of the reward model at its end.
    #[test]
    fn a_search_is_read_from_its_table() {
        let folder = tempfile::tempdir().expect("a folder");
        let manifest = Manifest { format: 11, exit: "complete".into(), ..Manifest::default() };
        manifest.write(folder.path()).expect("written");
        let row = |[arm, point, stage]: [&str; 3], flops: f64, metric: Metric, value: f64| MetricRow {
            arm: arm.into(),
            method: "ppo".into(),
            point: point.into(),
            seed: 0,
            stage: stage.into(),
            clocks: Clocks { step: flops as u64, flops, ..Clocks::default() },
            metric: metric.name.into(),
            value,
        };
        let validation = "evaluation-validation";
        let mut rows = vec![];
        for (arm, point, flops, values) in [("reference", "sft", 0.0, [0.0, 1.0]), ("p", "beta=0.1", 20.0, [1.0, 3.0])]
        {
            for (metric, value) in [metrics::KL, metrics::GOLD].into_iter().zip(values) {
                rows.push(row([arm, point, validation], flops, metric, value));
            }
        }
        for (arm, stage, flops) in [
            (SHARED_ARM, "rm", 50.0),
            (SHARED_ARM, "rm", 70.0),
            (SHARED_ARM, "rm", 60.0),
            (SHARED_ARM, "sft", 99.0),
            ("p", "rm", 98.0),
        ] {
            rows.push(row([arm, NO_POINT, stage], flops, metrics::LOSS, 0.5));
        }
        write_metrics(&folder.path().join("tuning.parquet"), &rows).expect("written");
        let mut run = HandMadeRun::new(EXPERIMENT);
        let run = run.run();
        run.cells.iter_mut().for_each(|cell| cell.tuning = cell.arm == "p" && cell.seed == 0);
        let tuning = TuningResults::read(folder.path(), &run.experiment, &run.cells).expect("read");
        assert_eq!(tuning.reward_model, BTreeMap::from([(0, 70.0)]));
        let golds: Vec<_> =
            tuning.trials.iter().map(|t| (t.label.as_str(), t.seeds[&0].map(|score| score.gold))).collect();
        assert_eq!(golds, [("beta=0.1", Some(2.0)), ("beta=0.2", None)]);
        // a tuned run is scored by the search's table, any other by what it compared
        let settings = |beta: f64| BTreeMap::from([("beta".to_string(), toml::Value::Float(beta))]);
        let trial = |beta| Trial { arm: "p".into(), settings: settings(beta), seeds: vec![0], tuning: true };
        write_rounds(folder.path(), &[vec![trial(0.1)]]).expect("written");
        run.folder = folder.path().into();
        let golds = |run: &Run| {
            let scores: Vec<_> =
                TuningResults::for_run(run).expect("read").trials.into_iter().flat_map(|trial| trial.seeds).collect();
            scores.into_iter().map(|(_, score)| score.map(|score| score.gold)).collect::<Vec<_>>()
        };
        assert_eq!(golds(run), [None; 6]);
        run.experiment.tuning.configurations = 1;
        assert_eq!(golds(run), [Some(2.0)]);
    }

    #[test]
    fn the_best_that_ran_on_all_seeds_leads_and_a_failure_comes_last() {
        let all = [
            trial(&[Some(0.9)]),
            trial(&[Some(0.5), Some(0.6)]),
            trial(&[Some(0.99), None]),
            trial(&[Some(0.7), Some(0.6)]),
        ];
        let tuning = TuningResults { trials: all.to_vec(), reward_model: BTreeMap::new(), is_share: false };
        let ranked: Vec<&str> =
            tuning.ranked("a", &[0, 1], SelectionMetric::Gold).iter().map(|t| t.label.as_str()).collect();
        assert_eq!(ranked, [&all[3].label, &all[1].label, &all[2].label]);
    }
}
