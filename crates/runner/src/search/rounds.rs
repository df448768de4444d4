//! Search over settings: proposes the next points from the scores of the earlier ones, until every arm has spent the same
//! budget; then the best point of each arm runs on seeds that the search did not use (docs/verdicts.md, Equal tuning).
//!
//! A round is a function of the experiment and of the results so far, so that an interrupted run repeats the same rounds.

use super::tpe;
use crate::error::{Error, Result};
use duel_report::{TrialResult, TuningResults};
use duel_spec::seeds::{self, Stream};
use duel_spec::{Arm, Experiment, SampledSettings, Search, SelectionMetric, Trial};
use rand::RngExt;

/// The next round of a run; `None` once the comparison itself has been planned.
pub fn next_round(
    experiment: &Experiment,
    rounds: &[Vec<Trial>],
    results: &TuningResults,
) -> Result<Option<Vec<Trial>>> {
    if !experiment.is_tuned() {
        return Ok(rounds.is_empty().then(|| experiment.trials()));
    }
    if have_ended(rounds) {
        return Ok(None);
    }
    let round: Vec<Trial> =
        experiment.arms.keys().flat_map(|arm| ArmSearch::new(experiment, arm, results).proposals()).collect();
    if round.is_empty() { compared(experiment, results).map(Some) } else { Ok(Some(round)) }
}

/// Whether the comparison itself has been planned.
pub fn have_ended(rounds: &[Vec<Trial>]) -> bool {
    rounds.last().is_some_and(|round| round.iter().any(|trial| !trial.tuning))
}

/// The best point of each arm, on the experiment's own seeds.
fn compared(experiment: &Experiment, results: &TuningResults) -> Result<Vec<Trial>> {
    let (choose, seeds) = (experiment.tuning.choose, experiment.tuning_seeds());
    let best = |arm: &String| match results.ranked(arm, &seeds, choose).first() {
        Some(best) if best.merit(choose).is_finite() => Ok(Trial {
            arm: arm.clone(),
            settings: best.settings.clone(),
            seeds: experiment.seed_list(),
            tuning: false,
        }),
        _ => Err(Error::NothingToChoose { arm: arm.clone() }),
    };
    experiment.arms.keys().map(best).collect()
}

/// Rounds of the size that a run will have, whatever its results: for a plan.
pub fn preview(experiment: &Experiment) -> Vec<Vec<Trial>> {
    if !experiment.is_tuned() {
        return vec![experiment.trials()];
    }
    let no_results = TuningResults::default();
    let all =
        |arm: &String| ArmSearch::new(experiment, arm, &no_results).random_or_grid(experiment.tuning.configurations);
    let trials: Vec<Trial> = experiment.arms.keys().flat_map(all).collect();
    let first = |arm: &String| trials.iter().find(|trial| trial.arm == *arm);
    let seeds = experiment.seed_list();
    let compared = experiment.arms.keys().filter_map(first);
    let compared = compared.map(|trial| Trial { seeds: seeds.clone(), tuning: false, ..trial.clone() }).collect();
    vec![trials, compared]
}

/// The search of one arm.
struct ArmSearch<'a> {
    experiment: &'a Experiment,
    name: &'a str,
    arm: &'a Arm,
    results: &'a TuningResults,
    trials: Vec<&'a TrialResult>,
    seeds: Vec<u64>,
}

impl<'a> ArmSearch<'a> {
    fn new(experiment: &'a Experiment, name: &'a str, results: &'a TuningResults) -> Self {
        let trials = results.trials.iter().filter(|trial| trial.arm == name).collect();
        Self { experiment, name, arm: &experiment.arms[name], results, trials, seeds: experiment.tuning_seeds() }
    }

    /// The arm's next trials; none once its budget is spent.
    fn proposals(&self) -> Vec<Trial> {
        let tuning = &self.experiment.tuning;
        let remaining = tuning.configurations.saturating_sub(self.trials.len());
        match self.arm.search {
            Search::Grid => self.random_or_grid(remaining),
            Search::Random => self.random_or_grid(remaining.min(self.affordable())),
            // the first third is random: the estimate needs points that are not good, too
            Search::Tpe if self.trials.is_empty() => {
                let first = (tuning.configurations / 3).max(tuning.at_once);
                self.random_or_grid(remaining.min(first).min(self.affordable()))
            }
            Search::Tpe => self.estimated(remaining.min(tuning.at_once).min(self.affordable())),
            Search::Halving => self.race(),
        }
    }

    /// Number of points that the remaining FLOPs pay for, at the mean cost of a point so far.
    fn affordable(&self) -> usize {
        let budget = self.experiment.tuning.flops;
        if budget.is_infinite() {
            return usize::MAX;
        }
        let spent = self.results.spent(self.name, self.experiment);
        if spent <= 0.0 {
            return self.experiment.tuning.at_once; // the cost of a point is not known yet
        }
        let trainings: usize = self.trials.iter().map(|trial| trial.seeds.len()).sum();
        let cost_of_point = spent / trainings as f64 * self.seeds.len() as f64;
        ((budget - spent).max(0.0) / cost_of_point) as usize
    }

    fn trial(&self, settings: SampledSettings, seeds: Vec<u64>) -> Trial {
        Trial { arm: self.name.into(), settings, seeds, tuning: true }
    }

    /// The grid, or the next random points, each on every tuning seed.
    fn random_or_grid(&self, count: usize) -> Vec<Trial> {
        let settings = match self.arm.search {
            Search::Grid => self.arm.grid_settings().into_iter().take(count).collect(),
            _ => self.random_points(count),
        };
        settings.into_iter().map(|settings| self.trial(settings, self.seeds.clone())).collect()
    }

    /// Random points, every setting uniform over its axis; fewer where the space has no more.
    fn random_points(&self, count: usize) -> Vec<SampledSettings> {
        self.fresh(count, |index| {
            let mut rng = seeds::stream(self.experiment.seed, Stream::Search(self.name), index);
            self.arm.draw(|_, _| rng.random::<f64>())
        })
    }

    /// Points that were not tried before; `draw` gets the index of each.
    fn fresh(&self, count: usize, mut draw: impl FnMut(u64) -> SampledSettings) -> Vec<SampledSettings> {
        let mut fresh: Vec<SampledSettings> = vec![];
        let first = self.trials.len() as u64;
        for index in (0..).map(|i| first + i).take(count.saturating_mul(MISSES)) {
            if fresh.len() == count {
                break;
            }
            let settings = draw(index);
            if !fresh.contains(&settings) && !self.trials.iter().any(|trial| trial.settings == settings) {
                fresh.push(settings);
            }
        }
        fresh
    }

    /// Points by tree-structured Parzen estimation, each setting independently (Bergstra et al. 2011).
    fn estimated(&self, count: usize) -> Vec<Trial> {
        let choose = self.experiment.tuning.choose;
        let mut ranked = self.trials.clone();
        ranked.sort_by(|a, b| b.merit(choose).total_cmp(&a.merit(choose)));
        let (good, others) = ranked.split_at((ranked.len() as f64 * BETTER).ceil() as usize);
        let mut proposed: Vec<SampledSettings> = vec![];
        let points = self.fresh(count, |index| {
            let mut rng = seeds::stream(self.experiment.seed, Stream::Tpe(self.name), index);
            let settings = self.arm.draw(|name, axis| {
                let shares = |trials: &[&TrialResult]| -> Vec<f64> {
                    trials.iter().filter_map(|trial| axis.share(trial.settings.get(name)?)).collect()
                };
                // the other points of this round count as bad, so that proposals do not crowd (Ginsbourger et al. 2010)
                let pending = proposed.iter().filter_map(|settings| axis.share(settings.get(name)?));
                tpe::propose(axis, &shares(good), &[shares(others), pending.collect()].concat(), &mut rng)
            });
            proposed.push(settings.clone());
            settings
        });
        points.into_iter().map(|settings| self.trial(settings, self.seeds.clone())).collect()
    }

    /// A race: all points on one seed after another, without those that have fallen behind the leader on the seeds that both
    /// ran on. The trainings that this saves go to new points.
    fn race(&self) -> Vec<Trial> {
        let tuning = &self.experiment.tuning;
        let spent: usize = self.trials.iter().map(|trial| trial.seeds.len()).sum();
        let remaining = (tuning.configurations * self.seeds.len())
            .saturating_sub(spent)
            .min(self.affordable().saturating_mul(self.seeds.len()));
        if self.trials.is_empty() {
            let first = self.random_points(tuning.configurations.min(remaining));
            return first.into_iter().map(|settings| self.trial(settings, vec![self.seeds[0]])).collect();
        }
        let alive = survivors(&self.trials, tuning.choose);
        let mut running: Vec<&&TrialResult> =
            alive.iter().filter(|trial| trial.seeds.len() < self.seeds.len()).collect();
        if running.is_empty() {
            // only as many as the budget can run on every seed
            let fresh = self.random_points(remaining / self.seeds.len());
            return fresh.into_iter().map(|settings| self.trial(settings, vec![self.seeds[0]])).collect();
        }
        running.sort_by(|a, b| b.merit(tuning.choose).total_cmp(&a.merit(tuning.choose)));
        let next = |trial: &&&TrialResult| self.trial(trial.settings.clone(), vec![self.seeds[trial.seeds.len()]]);
        running.iter().take(remaining).map(next).collect()
    }
}

/// Failed draws that are allowed per new point: in a small space most points have been tried in the end.
const MISSES: usize = 50;

/// The points that are not behind the leader, which is the best of those that ran on the most seeds.
fn survivors<'a>(trials: &[&'a TrialResult], choose: SelectionMetric) -> Vec<&'a TrialResult> {
    let max_seeds = trials.iter().map(|trial| trial.seeds.len()).max().unwrap_or(0);
    let furthest = trials.iter().filter(|trial| trial.seeds.len() == max_seeds);
    let Some(leader) = furthest.max_by(|a, b| a.merit(choose).total_cmp(&b.merit(choose))) else { return vec![] };
    trials.iter().filter(|trial| !trial.is_behind(leader, choose)).copied().collect()
}

/// The share of points that count as good. A quarter, where Bergstra et al. have 15%: searches here have tens of points.
const BETTER: f64 = 0.25;

#[cfg(test)]
mod tests {
    use super::*;
    use duel_report::TrialScore;
    use duel_spec::Document;
    use std::collections::BTreeMap;

    fn experiment(search: &str, more: &str) -> Experiment {
        let text = format!(
            "seeds = 2\n[tuning]\nconfigurations = 12\n{more}\n[arms.d]\nmethod = \"dpo\"\nsearch = \"{search}\"\n\
             [arms.d.space]\nbeta = {{ low = 0.01, high = 1.0, log = true }}\nlearning_rate = {{ low = 1e-5, high = 1e-2, log = true }}\n\
             loss = {{ choices = [\"sigmoid\", \"robust\"] }}\nlabel_smoothing = {{ low = 0.0, high = 0.3, when = {{ loss = [\"robust\"] }} }}\n"
        );
        Experiment::from_document(&Document::parse("t", &text, &[]).expect("parses")).expect("valid")
    }

    /// Runs a search to its end on a made-up score; returns its rounds and results.
    fn search(
        experiment: &Experiment,
        worth: impl Fn(&SampledSettings, u64) -> Option<f64>,
    ) -> (Vec<Vec<Trial>>, TuningResults) {
        let (mut rounds, mut results) = (vec![], TuningResults::default());
        while let Some(round) = next_round(experiment, &rounds, &results).unwrap_or_else(|e| panic!("{e}: {results:?}"))
        {
            for cell in experiment.cells_for(&round).iter().filter(|cell| cell.tuning) {
                let is_point = |t: &TrialResult| t.label == cell.point.label;
                let index = results.trials.iter().position(is_point).unwrap_or_else(|| {
                    let (arm, label) = (cell.arm.clone(), cell.point.label.clone());
                    let settings = cell.point.settings.clone();
                    results.trials.push(TrialResult { arm, label, settings, seeds: BTreeMap::new() });
                    results.trials.len() - 1
                });
                let worth =
                    worth(&cell.point.settings, cell.seed).map(|gold| TrialScore { gold, proxy: 0.0, flops: 10.0 });
                assert_eq!(results.trials[index].seeds.insert(cell.seed, worth), None, "a cell is run once");
            }
            rounds.push(round);
        }
        (rounds, results)
    }

    /// Best at beta 0.1 and learning rate 1e-3; seeds differ much, in the same way for all.
    fn bowl(settings: &SampledSettings, seed: u64) -> Option<f64> {
        let log = |name: &str| settings[name].as_float().expect("a number").log10();
        let robust = settings.contains_key("label_smoothing");
        let wiggle = 0.01 * ((log("beta") * 77.0 + seed as f64).sin());
        Some(
            1.0 - (log("beta") + 1.0).powi(2)
                - (log("learning_rate") + 3.0).powi(2)
                - 0.1 * f64::from(u8::from(robust))
                + wiggle
                + seed as f64,
        )
    }

    #[test]
    fn every_search_spends_the_same_and_compares_its_best_on_fresh_seeds() {
        for kind in ["random", "tpe", "halving"] {
            let experiment = experiment(kind, "");
            let (rounds, results) = search(&experiment, bowl);
            let spent: usize = results.trials.iter().map(|t| t.seeds.len()).sum();
            assert!((34..=36).contains(&spent), "{kind} spent {spent}");
            let [last] = &rounds.last().expect("rounds")[..] else { panic!("one arm, one point") };
            assert!(!last.tuning && last.seeds == [0, 1]);
            let best = results.ranked("d", &experiment.tuning_seeds(), SelectionMetric::Gold)[0];
            assert_eq!(best.settings, last.settings);
            // reproducible
            assert_eq!(search(&experiment, bowl).0, rounds, "{kind}");
        }
    }

    #[test]
    fn tpe_finds_better_points_than_random_search() {
        let regret = |kind: &str| {
            let regret = |seed: u64| {
                let mut experiment = Experiment { seed: 1000 + seed, ..experiment(kind, "") };
                experiment.tuning.configurations = 30;
                let (_, results) = search(&experiment, bowl);
                101.0 + 1.0
                    - results.ranked("d", &experiment.tuning_seeds(), SelectionMetric::Gold)[0]
                        .merit(SelectionMetric::Gold)
            };
            (0..40).map(regret).sum::<f64>() / 40.0
        };
        let (chance, looked) = (regret("random"), regret("tpe"));
        assert!(looked < 0.7 * chance, "random {chance}, tpe {looked}");
    }

    #[test]
    fn a_race_drops_only_points_that_are_behind_and_tries_others_instead() {
        let experiment = experiment("halving", "seeds = 6");
        let (rounds, results) = search(&experiment, bowl);
        assert!(rounds[0].iter().all(|trial| trial.seeds == [100]));
        let full = |t: &&TrialResult| t.seeds.len() == 6;
        let dropped: Vec<&TrialResult> = results.trials.iter().filter(|t| !full(t)).collect();
        assert!(results.trials.len() > 12 && !dropped.is_empty(), "{} tried", results.trials.len());
        for trial in dropped.iter().filter(|t| t.seeds.len() > 1) {
            assert!(
                results.trials.iter().any(|other| trial.is_behind(other, SelectionMetric::Gold)),
                "{}",
                trial.label
            );
        }
        let best = results.trials.iter().filter(full).map(|t| t.merit(SelectionMetric::Gold)).fold(f64::MIN, f64::max);
        assert_eq!(
            results.ranked("d", &experiment.tuning_seeds(), SelectionMetric::Gold)[0].merit(SelectionMetric::Gold),
            best
        );
    }

    #[test]
    fn flops_bound_a_search_and_failures_are_never_chosen() {
        let experiment = experiment("random", "flops = 200.0");
        let (_, results) = search(&experiment, |_, _| Some(1.0));
        assert_eq!(results.trials.len(), 6, "each costs 3 × 10");
        let (rounds, _) = search(&experiment, |settings, seed| {
            bowl(settings, seed).filter(|_| settings["beta"].as_float().is_some_and(|beta| beta < 0.1))
        });
        assert!(rounds.last().expect("rounds")[0].settings["beta"].as_float().is_some_and(|beta| beta < 0.1));
        let none = TuningResults::default();
        assert!(matches!(compared(&experiment, &none), Err(Error::NothingToChoose { .. })));
    }

    #[test]
    fn a_small_space_is_exhausted_without_repetition() {
        let text = "[tuning]\nconfigurations = 12\n[arms.d]\nmethod = \"dpo\"\nsearch = \"tpe\"\n[arms.d.space]\nepochs = { low = 1, high = 5 }\n";
        let experiment = Experiment::from_document(&Document::parse("t", text, &[]).expect("parses")).expect("valid");
        let (_, results) = search(&experiment, |settings, _| settings["epochs"].as_integer().map(|n| n as f64));
        assert_eq!(results.trials.len(), 5);
    }
}
