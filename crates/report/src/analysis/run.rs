//! A run as the report sees it: its files read once and laid out by arm, point, seed and step.

use crate::analysis::pair_bins::BinTable;
use crate::analysis::points::{EvalPoint, MeasuredPoint, PointBuilder, ReliabilityBin, TrainingCurve};
use crate::analysis::stats::mean;
use crate::error::Result;
use duel_ledger::{
    Manifest, Outcomes, RunSubset, SharedMetricRow, TableSource, read_completions, read_outcomes, scan_metrics,
};
use duel_spec::metrics::{self, Metric};
use duel_spec::{Cell, Clocks, Completion, Experiment, MethodSettings, NO_POINT, RewardSource, SHARED_ARM};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a cell ended.
#[derive(Debug, Clone)]
pub(crate) enum CellEnd<'a> {
    /// The evaluation of its finished policy.
    Finished(&'a EvalPoint),
    /// Its training diverged, according to the manifest.
    Diverged,
    /// Nothing is known of its policy, for this reason.
    Missing(String),
}

/// A cell without a result: it counts in no claim.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct MissingCell {
    pub arm: String,
    pub point: String,
    pub seed: u64,
    pub because: String,
}

/// Everything that a report is made from.
#[derive(Debug)]
pub struct Run {
    pub folder: PathBuf,
    pub experiment: Experiment,
    /// The cells of the comparison, without those of the search.
    pub cells: Vec<Cell>,
    pub manifest: Manifest,
    /// Why cells are not in the tables, by their labels.
    missing_reasons: BTreeMap<String, String>,
    /// Progress of a search whose comparison has not started.
    search_progress: Option<String>,
    pub completions: Vec<Completion>,
    /// The points of the experiment's arms, arm by arm, then the pseudo-arms: `reference`, `optimum`,
    /// `ppo-ideal`, `best-of-n`.
    pub points: Vec<MeasuredPoint>,
    /// Rewards of the finished policies; empty in runs of older formats.
    pub outcomes: Vec<Outcomes>,
    /// Some metrics over the trainings of each point, by arm, point and metric.
    curves: HashMap<[Arc<str>; 3], TrainingCurve>,
    /// The last value of every metric of every training.
    last_values: HashMap<MetricKey, BTreeMap<u64, f64>>,
    /// What each shared stage cost, by seed.
    shared_clocks: HashMap<Arc<str>, BTreeMap<u64, Clocks>>,
    /// Bins of the reward model's calibration, by bin and seed.
    pub(crate) calibration: BTreeMap<u64, BTreeMap<u64, ReliabilityBin>>,
    /// Bins of pairs, of the reward model and of finished policies.
    pub(crate) pair_bins: BinTable,
}

/// The metrics of which all steps are kept.
const CURVE_METRICS: [Metric; 4] = [metrics::KL_STEP, metrics::CLIP_SHARE, metrics::DPO_MARGIN, metrics::DPO_ACCURACY];

/// Arm, point, stage and metric of a row.
type MetricKey = [Arc<str>; 4];

/// Missing cells that are named; the others are counted.
const MAX_NAMED: usize = 12;

/// Progress of a search whose comparison has not started.
fn search_progress_of(search: &TableSource) -> String {
    let (finished, cells) = (search.cells - search.missing.len().min(search.cells), search.cells);
    format!("nothing is compared yet: the search has proposed {cells} cells so far, {finished} of them finished")
}

/// Arms that are not trained, for comparison with the trained ones.
const PSEUDO_ARMS: [&str; 4] = ["reference", "optimum", "ppo-ideal", "best-of-n"];

impl Run {
    /// Reads a run directory.
    ///
    /// # Errors
    /// No run in the folder, a damaged file, or tables of another experiment.
    pub fn read(folder: &Path) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let (experiment, document) = Experiment::load(&folder.join("experiment.toml"), &[])?;
        manifest.check_experiment(folder, &document)?;
        let tables = TableSource::of(folder, &manifest, RunSubset::Comparison)?;
        let mut cells = duel_ledger::cells_of(folder, &experiment)?;
        cells.retain(|cell| !cell.tuning);
        let search_progress = match experiment.is_tuned() && cells.is_empty() {
            true => Some(search_progress_of(&TableSource::of(folder, &manifest, RunSubset::Search)?)),
            false => None,
        };
        let mut run = Self::empty(folder, experiment, cells, manifest);
        (run.missing_reasons, run.search_progress) = (tables.missing.into_iter().collect(), search_progress);
        for path in &tables.completions {
            run.completions.extend(read_completions(path)?);
        }
        for path in &tables.outcomes {
            run.outcomes.extend(read_outcomes(path)?);
        }
        // row by row: a long run has more rows than fit in memory
        let mut points = PointBuilder::default();
        for path in &tables.metrics {
            scan_metrics(path, |row| run.add_row(&mut points, row))?;
        }
        run.sort_points(points);
        run.check_points()?;
        Ok(run)
    }

    /// A run before its tables are read.
    pub(super) fn empty(folder: &Path, experiment: Experiment, cells: Vec<Cell>, manifest: Manifest) -> Self {
        Self {
            missing_reasons: BTreeMap::new(),
            search_progress: None,
            outcomes: vec![],
            curves: HashMap::new(),
            folder: folder.into(),
            experiment,
            cells,
            manifest,
            completions: vec![],
            points: vec![],
            last_values: HashMap::new(),
            shared_clocks: HashMap::new(),
            calibration: BTreeMap::new(),
            pair_bins: BinTable::default(),
        }
    }

    /// Adds a row of the metrics.
    pub(super) fn add_row(&mut self, points: &mut PointBuilder, row: SharedMetricRow) {
        if row.stage.starts_with("evaluation-") {
            points.add_evaluation(row);
        } else {
            self.add_training_row(row);
        }
    }

    /// Sorts the points by the order of the experiment's arms, once all rows are read.
    pub(super) fn sort_points(&mut self, points: PointBuilder) {
        self.points = points.all;
        let arms: Vec<&str> = self.experiment.arms.keys().map(String::as_str).chain(PSEUDO_ARMS).collect();
        self.points.sort_by_key(|p| arms.iter().position(|a| *a == p.arm)); // stable: the grid's order stays
    }

    /// Whether every point is one that the experiment asks for.
    fn check_points(&self) -> Result<()> {
        let is_of_experiment = |point: &&MeasuredPoint| {
            PSEUDO_ARMS.contains(&point.arm.as_str())
                || self.cells.iter().any(|cell| cell.arm == point.arm && cell.point.label == point.label)
        };
        match self.points.iter().find(|point| !is_of_experiment(point)) {
            None => Ok(()),
            Some(MeasuredPoint { arm, label, .. }) => {
                let problem = format!("they hold the point {label} of {arm}, which it does not ask for");
                Err(duel_ledger::Error::Foreign { path: self.folder.clone(), problem }.into())
            }
        }
    }

    /// How many cells are finished, and which are missing; `None` where none is missing.
    pub(crate) fn missing_summary(&self) -> Option<String> {
        let missing = self.missing();
        let named = |cell: &MissingCell| format!("{} {}, seed {} ({})", cell.arm, cell.point, cell.seed, cell.because);
        let names: Vec<String> = missing.iter().map(named).collect();
        let (cells, finished) = (self.cells.len(), self.cells.len() - missing.len());
        let names = duel_ledger::first_and_more(&names, MAX_NAMED);
        let summary = || format!("{finished} of {cells} cells; these are missing: {names}");
        self.search_progress.clone().or_else(|| (!missing.is_empty()).then(summary))
    }

    /// Which claims were taken out of the experiment after the run.
    pub(crate) fn dropped_claims(&self) -> Option<String> {
        let dropped = self.manifest.dropped_claims(&self.experiment.claims);
        let summary = || format!("claims that were taken out of the experiment after the run: {}", dropped.join(", "));
        (!dropped.is_empty()).then(summary)
    }

    /// Warnings about the run as a whole.
    pub fn notes(&self) -> Vec<String> {
        let makers = self.manifest.differing_makers().and_then(|_| self.manifest.merge_note());
        let timed = self.experiment.budget.warning().map(str::to_owned);
        self.missing_summary().into_iter().chain(self.dropped_claims()).chain(makers).chain(timed).collect()
    }

    /// Adds a row of a training.
    fn add_training_row(&mut self, row: SharedMetricRow) {
        if self.pair_bins.add_row(&row) {
            return;
        }
        if &*row.stage == "rm-calibration" {
            self.calibration.entry(row.clocks.step).or_default().entry(row.seed).or_default().add_row(&row);
            return;
        }
        if &*row.arm == SHARED_ARM {
            let entry = self.shared_clocks.entry(row.stage.clone()).or_default().entry(row.seed).or_default();
            if row.clocks.flops >= entry.flops {
                *entry = row.clocks;
            }
        }
        if &*row.stage == "train" && CURVE_METRICS.iter().any(|metric| metric.name == &*row.metric) {
            let key = [row.arm.clone(), row.point.clone(), row.metric.clone()];
            self.curves.entry(key).or_default().add_row(&row);
        }
        self.last_values.entry([row.arm, row.point, row.stage, row.metric]).or_default().insert(row.seed, row.value);
    }

    /// The name of the experiment.
    pub(crate) fn name(&self) -> &str {
        &self.experiment.name
    }

    /// All settings of the experiment, by key.
    pub(crate) fn settings(&self) -> Vec<(String, String)> {
        fn collect_leaves(key: &str, value: &toml::Value, all: &mut Vec<(String, String)>) {
            match value {
                toml::Value::Table(table) => table.iter().for_each(|(name, value)| {
                    collect_leaves(&if key.is_empty() { name.clone() } else { format!("{key}.{name}") }, value, all);
                }),
                value => all.push((key.into(), value.to_string())),
            }
        }
        let mut all = vec![];
        if let Ok(settings) = toml::Value::try_from(&self.experiment) {
            collect_leaves("", &settings, &mut all);
        }
        all
    }

    /// Names of the trained arms.
    pub fn arms(&self) -> Vec<&str> {
        self.experiment.arms.keys().map(String::as_str).collect()
    }

    /// Points of one arm, in the grid's order.
    pub fn points_of<'a>(&'a self, arm: &'a str) -> impl Iterator<Item = &'a MeasuredPoint> {
        self.points.iter().filter(move |p| p.arm == arm)
    }

    /// How a cell ended.
    pub(crate) fn cell_end(&self, cell: &Cell) -> CellEnd<'_> {
        let is_point = |p: &&MeasuredPoint| p.arm == cell.arm && p.label == cell.point.label;
        let evaluation = self.points.iter().find(is_point).and_then(|point| point.seeds.get(&cell.seed)?.last());
        let label = cell.label();
        match evaluation {
            Some(evaluation) if evaluation.is_recorded(metrics::KL) => CellEnd::Finished(evaluation),
            Some(_) => CellEnd::Missing("its KL was not measured".into()),
            None if self.manifest.has_diverged(&label) => CellEnd::Diverged,
            None => {
                let why = self.missing_reasons.get(&label).cloned();
                CellEnd::Missing(why.unwrap_or_else(|| self.manifest.why_missing(&label)))
            }
        }
    }

    /// The cells of which nothing is known, in the experiment's order.
    pub(crate) fn missing(&self) -> Vec<MissingCell> {
        let missing = |cell: &Cell| match self.cell_end(cell) {
            CellEnd::Missing(because) => {
                Some(MissingCell { arm: cell.arm.clone(), point: cell.point.label.clone(), seed: cell.seed, because })
            }
            CellEnd::Finished(_) | CellEnd::Diverged => None,
        };
        self.cells.iter().filter_map(missing).collect()
    }

    /// The settings of a trained point.
    pub fn method_of(&self, point: &MeasuredPoint) -> Option<MethodSettings> {
        let is_point = |cell: &&Cell| cell.arm == point.arm && cell.point.label == point.label;
        self.cells.iter().find(is_point).map(|cell| cell.point.method.clone())
    }

    /// Whether a point is trained on the gold reward itself, alone or among other rewards.
    pub fn optimizes_gold(&self, point: &MeasuredPoint) -> bool {
        self.method_of(point).is_some_and(|method| method.maximizes(RewardSource::Gold))
    }

    /// The SFT policy that every arm starts from.
    pub fn reference(&self) -> Option<&MeasuredPoint> {
        self.points_of("reference").next()
    }

    /// The evaluation of the SFT policy of one seed.
    pub(crate) fn reference_at(&self, seed: u64) -> Option<&EvalPoint> {
        self.reference()?.seeds.get(&seed)?.last()
    }

    /// Last value of a shared stage's metric, one per seed.
    pub fn shared_metric(&self, stage: &str, metric: Metric) -> Vec<f64> {
        self.last_values([SHARED_ARM, NO_POINT, stage, metric.name])
    }

    /// As [`Self::shared_metric`], with the seeds.
    pub(crate) fn shared_by_seed(&self, stage: &str, metric: Metric) -> BTreeMap<u64, f64> {
        self.last_values.get(&[SHARED_ARM, NO_POINT, stage, metric.name].map(Arc::from)).cloned().unwrap_or_default()
    }

    /// Rewards of the finished policy of a point at a seed.
    pub(crate) fn outcomes_of(&self, point: &MeasuredPoint, seed: u64) -> Option<&Outcomes> {
        self.outcomes.iter().find(|o| *o.arm == *point.arm && *o.point == *point.label && o.seed == seed)
    }

    /// A metric over the trainings of a point.
    pub(crate) fn training_curve(&self, point: &MeasuredPoint, metric: Metric) -> Option<&TrainingCurve> {
        self.curves.get(&[point.arm.as_str(), point.label.as_str(), metric.name].map(Arc::from))
    }

    fn last_values(&self, key: [&str; 4]) -> Vec<f64> {
        let values = self.last_values.get(&key.map(Arc::from));
        values.map_or(vec![], |by_seed| by_seed.values().copied().collect())
    }

    /// What a shared stage cost, by seed.
    pub fn shared_clocks(&self, stage: &str) -> BTreeMap<u64, Clocks> {
        self.shared_clocks.get(stage).cloned().unwrap_or_default()
    }

    /// Last value of a metric at one seed, from a stage of the point's cell: `train`, or `cell` for the cell as a whole.
    pub(crate) fn last_value(&self, point: &MeasuredPoint, stage: &str, metric: Metric, seed: u64) -> Option<f64> {
        let key = [point.arm.as_str(), point.label.as_str(), stage, metric.name].map(Arc::from);
        self.last_values.get(&key)?.get(&seed).copied()
    }

    /// Last value of a training metric, by seed of a point.
    pub fn last_training_values(&self, point: &MeasuredPoint, metric: Metric) -> Vec<f64> {
        self.last_values([&point.arm, &point.label, "train", metric.name])
    }

    /// The arm's point whose finished policies have the highest gold reward on validation prompts, mean over seeds: the
    /// one that the page shows. Test prompts play no part in the choice.
    pub fn featured<'a>(&'a self, arm: &'a str) -> Option<&'a MeasuredPoint> {
        let merit = |p: &MeasuredPoint| mean(&p.final_validation(metrics::GOLD));
        let is_measured = |p: &&MeasuredPoint| merit(p).is_finite();
        self.points_of(arm).filter(is_measured).max_by(|a, b| merit(a).total_cmp(&merit(b)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_ledger::{PlannedStage, write_rounds};
    use duel_spec::{Document, Trial};

    const EXPERIMENT: &str = "
        name = 'own'
        seeds = 10
        [arms.b]
        method = 'dpo'
        grid.beta = [0.1, 0.2]
        [arms.a]
        method = 'dpo'
        grid.beta = [0.1]
        [[claims]]
        id = 'first'
        arms = ['a', 'b']
        metric = 'models'
    ";

    /// Evaluates the cells `(arm, label, seed)` that `is_finished` names.
    fn run_with(is_finished: impl Fn(&str, &str, u64) -> bool) -> HandMadeRun {
        let mut run = HandMadeRun::new(EXPERIMENT);
        for cell in run.run().cells.clone() {
            if is_finished(&cell.arm, &cell.point.label, cell.seed) {
                let values = [(metrics::KL, 1.0)];
                run.evaluation(&cell.arm, &cell.point.label, cell.seed, Clocks::default(), &values);
            }
        }
        run
    }

    /// Thirty cells, of which a few, or more than are named, are missing.
    #[test]
    fn missing_cells_are_counted_and_named() {
        let complete = run_with(|_, _, _| true).finish();
        assert_eq!((complete.missing_summary(), complete.notes()), (None, vec![]));
        let two = run_with(|arm, label, seed| !(arm == "b" && label == "beta=0.2" && seed < 2)).finish();
        let expected = "28 of 30 cells; these are missing: b beta=0.2, seed 0 (the run ended before); b beta=0.2, seed 1 \
                        (the run ended before)";
        assert_eq!((two.missing_summary().as_deref(), two.notes()), (Some(expected), vec![expected.to_string()]));
        let many = run_with(|_, _, seed| seed > 4).finish().missing_summary().expect("missing cells");
        assert!(many.starts_with("15 of 30 cells; ") && many.ends_with("; and 3 more"), "{many}");
    }

    #[test]
    fn a_cell_whose_kl_was_not_measured_is_missing() {
        let mut run = run_with(|arm, _, _| arm == "b");
        for seed in 0..10 {
            run.evaluation("a", "beta=0.1", seed, Clocks::default(), &[(metrics::GOLD, 1.0)]);
        }
        let missing = run.finish().missing();
        assert!(missing.len() == 10 && missing.iter().all(|cell| cell.because == "its KL was not measured"));
    }

    #[test]
    fn claims_that_were_taken_out_are_named() {
        let mut run = run_with(|_, _, _| true);
        assert_eq!(run.run().dropped_claims(), None);
        let claims = ["first", "second", "third"].map(|id| serde_json::json!({ "id": id }));
        run.run().manifest.claims = Some(claims.to_vec());
        let expected = "claims that were taken out of the experiment after the run: second, third";
        assert_eq!(run.run().dropped_claims().as_deref(), Some(expected));
        assert_eq!(run.finish().notes(), [expected]);
    }

    /// Arms in the experiment's order, points in the order of their rows, then the policies that are not trained.
    #[test]
    fn points_are_sorted_by_arm() {
        let mut run = HandMadeRun::new(EXPERIMENT);
        for [arm, label] in
            [["optimum", "x"], ["b", "beta=0.2"], ["reference", "sft"], ["b", "beta=0.1"], ["a", "beta=0.1"]]
        {
            run.evaluation(arm, label, 0, Clocks::default(), &[(metrics::KL, 1.0)]);
        }
        let run = run.finish();
        assert!(run.check_points().is_ok());
        let points: Vec<[&str; 2]> = run.points.iter().map(|p| [p.arm.as_str(), p.label.as_str()]).collect();
        let expected =
            [["a", "beta=0.1"], ["b", "beta=0.2"], ["b", "beta=0.1"], ["reference", "sft"], ["optimum", "x"]];
        assert_eq!(points, expected);
    }

    /// `a` has no point at .2, although `b` has one.
    #[test]
    fn a_point_of_another_experiment_is_refused() {
        for [arm, label] in [["a", "beta=0.2"], ["a", "beta=0.3"], ["other", "beta=0.1"]] {
            let mut run = HandMadeRun::new(EXPERIMENT);
            run.evaluation(arm, label, 0, Clocks::default(), &[(metrics::KL, 1.0)]);
            let error = run.finish().check_points().expect_err("not of the experiment").to_string();
            assert!(error.contains(&format!("the point {label} of {arm}, which it does not ask for")), "{error}");
        }
    }

    /// Of the steps of a training, those of some metrics alone; of all metrics the last value.
    #[test]
    fn curves_are_of_the_training_alone() {
        let mut run = run_with(|_, _, _| true);
        for (stage, step, metric, value) in [
            ("train", 1, metrics::KL_STEP, 1.0),
            ("train", 2, metrics::KL_STEP, 2.0),
            ("cell", 3, metrics::KL_STEP, 9.0),
            ("train", 1, metrics::LOSS, 4.0),
            ("train", 2, metrics::LOSS, 5.0),
        ] {
            run.row(["a", "beta=0.1", stage], 0, Clocks { step, ..Clocks::default() }, metric, value);
        }
        let run = run.finish();
        let point = run.points_of("a").next().expect("a point");
        let curve = run.training_curve(point, metrics::KL_STEP).expect("a curve");
        assert_eq!(curve.steps().collect::<Vec<_>>(), [(1.0, 1.0), (2.0, 2.0)]);
        assert!(run.training_curve(point, metrics::LOSS).is_none());
        assert_eq!(run.last_training_values(point, metrics::LOSS), [5.0]);
        assert_eq!(run.last_value(point, "cell", metrics::KL_STEP, 0), Some(9.0));
    }

    /// Of arms that maximize gold, a reward model and the sum of both, and one that learns from pairs.
    #[test]
    fn a_point_that_is_trained_on_gold_is_known_by_its_settings() {
        let both = "method = 'ppo'\nreward = [{ from = 'rm' }, { from = 'gold', weight = 0.1 }]";
        let arms = ["method = 'ppo'\nreward = 'gold'", "method = 'ppo'\nreward = 'rm'", "method = 'dpo'", both];
        let arms: String = (0..).zip(arms).map(|(index, keys)| format!("[arms.a{index}]\n{keys}\n")).collect();
        let mut run = HandMadeRun::new(&format!("name = 'gold'\n{arms}"));
        for cell in run.run().cells.clone() {
            run.evaluation(&cell.arm, &cell.point.label, cell.seed, Clocks::default(), &[(metrics::KL, 1.0)]);
        }
        let run = run.finish();
        let on_gold: Vec<bool> = run.points.iter().map(|point| run.optimizes_gold(point)).collect();
        assert_eq!(on_gold, [true, false, false, true]);
        assert_eq!(run.name(), "gold");
    }

    /// Every setting with its full key.
    #[test]
    fn settings_are_named_by_their_keys() {
        let settings = run_with(|_, _, _| true).finish().settings();
        let value_of = |name: &str| settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!([value_of("name"), value_of("seeds")], [Some("\"own\""), Some("10")]);
        assert_eq!(value_of("world.kind"), Some("\"grammar\""));
        assert!(settings.iter().all(|(key, _)| !key.is_empty() && !key.starts_with('.')));
    }

    /// A search that has proposed two cells and finished none, before and after its comparison began.
    #[test]
    fn the_progress_of_a_search_is_shown_until_its_comparison_begins() {
        let text = "name = 'search'\nseeds = 2\ntuning.configurations = 2\n[arms.a]\nmethod = 'dpo'\nsearch = 'random'\n\
                    space.beta = { low = 0.1, high = 1.0 }\n";
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("experiment.toml"), text).expect("written");
        let document = Document::parse("experiment.toml", text, &[]).expect("a document");
        let stage = |label: &str, tuning| PlannedStage {
            label: label.into(),
            folder: format!("train-{label}"),
            seed: Some(0),
            tuning: Some(tuning),
        };
        let manifest = Manifest {
            format: duel_spec::FORMAT_VERSION,
            exit: "interrupted".into(),
            experiment: document.to_toml(),
            plan: vec![stage("x", true), stage("y", true), stage("z", false)],
            ..Manifest::default()
        };
        manifest.write(folder.path()).expect("written");
        let trial = |tuning| Trial {
            arm: "a".into(),
            settings: [("beta".to_string(), toml::Value::Float(0.5))].into_iter().collect(),
            seeds: vec![if tuning { 100 } else { 0 }],
            tuning,
        };
        write_rounds(folder.path(), &[vec![trial(true)]]).expect("written");
        let searching = Run::read(folder.path()).expect("a run").missing_summary();
        let expected = "nothing is compared yet: the search has proposed 2 cells so far, 0 of them finished";
        assert_eq!(searching.as_deref(), Some(expected));
        write_rounds(folder.path(), &[vec![trial(true)], vec![trial(false)]]).expect("written");
        let comparing = Run::read(folder.path()).expect("a run").missing_summary().expect("a missing cell");
        assert!(comparing.starts_with("0 of 1 cells; these are missing: a "), "{comparing}");
    }

    #[test]
    fn the_progress_of_a_search_counts_its_finished_cells() {
        let search = TableSource { cells: 5, missing: vec![("x".into(), "why".into()); 2], ..TableSource::default() };
        let expected = "nothing is compared yet: the search has proposed 5 cells so far, 3 of them finished";
        assert_eq!(search_progress_of(&search), expected);
    }
}
