//! A run as the report sees it: its files read once and laid out by arm, point, seed and step.

use crate::Result;
use crate::calibration::ReliabilityBin;
use duel_ledger::{
    Manifest, Outcomes, RunSubset, SharedMetricRow, TableSource, read_completions, read_outcomes, scan_metrics,
};
use duel_spec::metrics::{self, Metric};
use duel_spec::{Cell, Clocks, Completion, Experiment, MethodSettings, NO_POINT, RewardSource, SHARED_ARM};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One evaluation of one policy: its marks on validation and on test prompts.
#[derive(Debug, Clone, Default)]
pub struct EvalPoint {
    /// What the training had cost by then; the shared stages are not in it.
    pub clocks: Clocks,
    validation: BTreeMap<Arc<str>, f64>,
    test: BTreeMap<Arc<str>, f64>,
}

impl EvalPoint {
    /// A mark on test prompts; what is not finite was not measured.
    pub fn test(&self, metric: Metric) -> Option<f64> {
        self.test.get(metric.name).copied().filter(|x| x.is_finite())
    }

    /// Whether a metric was recorded on test prompts, finite or not.
    pub(crate) fn is_recorded(&self, metric: Metric) -> bool {
        self.test.contains_key(metric.name)
    }

    /// A mark on validation prompts, likewise.
    pub fn validation(&self, metric: Metric) -> Option<f64> {
        self.validation.get(metric.name).copied().filter(|x| x.is_finite())
    }
}

/// One setting of an arm with what was measured along each seed's training, in step order.
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
        self.seeds.iter().filter_map(|(seed, marks)| marks.last().map(|m| (*seed, m)))
    }

    /// A test mark of each seed's finished policy, in seed order.
    pub fn final_test(&self, metric: Metric) -> Vec<f64> {
        self.finished().filter_map(|(_, mark)| mark.test(metric)).collect()
    }

    /// As [`Self::final_test`], on validation prompts.
    pub fn final_validation(&self, metric: Metric) -> Vec<f64> {
        self.finished().filter_map(|(_, mark)| mark.validation(metric)).collect()
    }

    /// The label as people write it.
    pub fn display_label(&self) -> String {
        self.label.replace("beta", "β").replace(',', ", ")
    }
}

/// How a cell ended.
#[derive(Debug, Clone)]
pub(crate) enum CellEnd<'a> {
    /// The marks of its finished policy.
    Finished(&'a EvalPoint),
    /// Its training left the finite numbers, as its manifest says.
    Diverged,
    /// Nothing is known of its policy, for this reason.
    Missing(String),
}

/// A cell of which nothing is known: it counts in no claim.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    pub arm: String,
    pub point: String,
    pub seed: u64,
    pub because: String,
}

/// Points as the rows of their evaluations come.
#[derive(Debug, Default)]
pub(crate) struct PointBuilder {
    pub(crate) all: Vec<MeasuredPoint>,
    /// Where the last row's point stands.
    place: usize,
}

impl PointBuilder {
    /// Takes a row of an evaluation.
    pub(crate) fn add_evaluation(&mut self, row: SharedMetricRow) {
        let is_its = |p: &MeasuredPoint| *p.arm == *row.arm && *p.label == *row.point;
        if !self.all.get(self.place).is_some_and(is_its) {
            self.place = self.all.iter().position(is_its).unwrap_or_else(|| {
                let (arm, method, label) = (row.arm.to_string(), row.method.to_string(), row.point.to_string());
                self.all.push(MeasuredPoint { arm, method, label, seeds: BTreeMap::new() });
                self.all.len() - 1
            });
        }
        let marks = self.all[self.place].seeds.entry(row.seed).or_default();
        if marks.last().is_none_or(|m| m.clocks.step != row.clocks.step) {
            marks.push(EvalPoint { clocks: row.clocks, ..EvalPoint::default() });
        }
        let mark = marks.last_mut().expect("one was just there");
        let side = if &*row.stage == "evaluation-test" { &mut mark.test } else { &mut mark.validation };
        side.insert(row.metric, row.value);
    }
}

/// All that a report is made from.
#[derive(Debug)]
pub struct Run {
    pub folder: PathBuf,
    pub experiment: Experiment,
    /// What the arms are compared on, without what was tried for a choice.
    pub cells: Vec<Cell>,
    pub manifest: Manifest,
    /// Why cells are not in the tables, by their labels.
    absent: BTreeMap<String, String>,
    /// How far a search is that has not come to its comparison.
    searching: Option<String>,
    pub completions: Vec<Completion>,
    /// The points of the experiment's arms, arm by arm, then the pseudo-arms: `reference`, `optimum`,
    /// `ppo-ideal`, `best-of-n`.
    pub points: Vec<MeasuredPoint>,
    /// What the finished policies earn; empty where a run of an older format has none.
    pub outcomes: Vec<Outcomes>,
    /// How some metrics went along each point's training.
    along: HashMap<[Arc<str>; 3], TrainingCurve>,
    /// The last value of every metric of every training.
    last: HashMap<MetricKey, BTreeMap<u64, f64>>,
    /// What each shared stage cost, by seed.
    shared_clocks: HashMap<Arc<str>, BTreeMap<u64, Clocks>>,
    /// Bins of the reward model's calibration, by bin and seed.
    pub(crate) calibration: BTreeMap<u64, BTreeMap<u64, ReliabilityBin>>,
}

/// How a metric went along the trainings of a point.
#[derive(Debug, Clone, Default)]
pub(crate) struct TrainingCurve {
    /// Sum over seeds and their number, by step.
    by_step: BTreeMap<u64, (f64, u32)>,
    /// Sum over steps and their number, by seed.
    by_seed: BTreeMap<u64, (f64, u32)>,
}

impl TrainingCurve {
    fn note(&mut self, row: &SharedMetricRow) {
        let (step, seed) =
            (self.by_step.entry(row.clocks.step).or_default(), self.by_seed.entry(row.seed).or_default());
        for (sum, n) in [step, seed] {
            *sum += row.value;
            *n += 1;
        }
    }

    /// Mean over seeds, step by step.
    pub(crate) fn steps(&self) -> impl Iterator<Item = (f64, f64)> {
        self.by_step.iter().map(|(step, (sum, n))| (*step as f64, sum / f64::from(*n)))
    }

    /// Mean over the training of a seed.
    pub(crate) fn mean_of(&self, seed: u64) -> Option<f64> {
        self.by_seed.get(&seed).map(|(sum, n)| sum / f64::from(*n))
    }
}

/// The metrics of which all steps are kept.
const ALONG: [Metric; 4] = [metrics::KL_STEP, metrics::CLIP_SHARE, metrics::DPO_MARGIN, metrics::DPO_ACCURACY];

/// Arm, point, stage and metric of a row.
type MetricKey = [Arc<str>; 4];

/// Missing cells that are named before the rest is counted.
const NAMED: usize = 12;

/// How far a search is that has not come to its comparison.
fn search_progress(search: &TableSource) -> String {
    let (finished, cells) = (search.cells - search.missing.len().min(search.cells), search.cells);
    format!("nothing is compared yet: the search has asked for {cells} cells so far, {finished} of them finished")
}

/// Arms that are not trained: what the trained ones are held against.
const PSEUDO_ARMS: [&str; 4] = ["reference", "optimum", "ppo-ideal", "best-of-n"];

impl Run {
    /// Reads a run directory.
    ///
    /// # Errors
    /// No run there, or a file of it damaged; tables that are not of its experiment.
    pub fn read(folder: &Path) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let (experiment, document) = Experiment::load(&folder.join("experiment.toml"), &[])?;
        manifest.check_experiment(folder, &document)?;
        let tables = TableSource::of(folder, &manifest, RunSubset::Comparison)?;
        let mut cells = duel_ledger::cells_of(folder, &experiment)?;
        cells.retain(|cell| !cell.tuning);
        let searching = match experiment.is_tuned() && cells.is_empty() {
            true => Some(search_progress(&TableSource::of(folder, &manifest, RunSubset::Search)?)),
            false => None,
        };
        let mut run = Self::empty(folder, experiment, cells, manifest);
        (run.absent, run.searching) = (tables.missing.into_iter().collect(), searching);
        for path in &tables.completions {
            run.completions.extend(read_completions(path)?);
        }
        for path in &tables.outcomes {
            run.outcomes.extend(read_outcomes(path)?);
        }
        // row by row: a long run has more rows than memory should hold
        let mut points = PointBuilder::default();
        for path in &tables.metrics {
            scan_metrics(path, |row| run.take(&mut points, row))?;
        }
        run.arrange(points);
        run.check_points()?;
        Ok(run)
    }

    /// A run before its tables are read.
    fn empty(folder: &Path, experiment: Experiment, cells: Vec<Cell>, manifest: Manifest) -> Self {
        Self {
            absent: BTreeMap::new(),
            searching: None,
            outcomes: vec![],
            along: HashMap::new(),
            folder: folder.into(),
            experiment,
            cells,
            manifest,
            completions: vec![],
            points: vec![],
            last: HashMap::new(),
            shared_clocks: HashMap::new(),
            calibration: BTreeMap::new(),
        }
    }

    /// Takes a row of the metrics.
    fn take(&mut self, points: &mut PointBuilder, row: SharedMetricRow) {
        if row.stage.starts_with("evaluation-") {
            points.add_evaluation(row);
        } else {
            self.note(row);
        }
    }

    /// Puts the points in the order of the experiment's arms, once all rows are read.
    fn arrange(&mut self, points: PointBuilder) {
        self.points = points.all;
        let arms: Vec<&str> = self.experiment.arms.keys().map(String::as_str).chain(PSEUDO_ARMS).collect();
        self.points.sort_by_key(|p| arms.iter().position(|a| *a == p.arm)); // stable: the grid's order stays
    }

    /// Whether every point is one that the experiment asks for.
    fn check_points(&self) -> Result<()> {
        let is_asked_for = |point: &&MeasuredPoint| {
            PSEUDO_ARMS.contains(&point.arm.as_str())
                || self.cells.iter().any(|cell| cell.arm == point.arm && cell.point.label == point.label)
        };
        match self.points.iter().find(|point| !is_asked_for(point)) {
            None => Ok(()),
            Some(MeasuredPoint { arm, label, .. }) => {
                let problem = format!("they hold the point {label} of {arm}, which it does not ask for");
                Err(duel_ledger::Error::Foreign { path: self.folder.clone(), problem }.into())
            }
        }
    }

    /// How much of the run is known, and what is missing; `None` where nothing is.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let missing = self.missing();
        let named = |cell: &Missing| format!("{} {}, seed {} ({})", cell.arm, cell.point, cell.seed, cell.because);
        let all: Vec<String> = missing.iter().take(NAMED).map(named).collect();
        let more = if missing.len() > NAMED { format!("; and {} more", missing.len() - NAMED) } else { String::new() };
        let (cells, known) = (self.cells.len(), self.cells.len() - missing.len());
        let told = || format!("{known} of {cells} cells; these are missing: {}{more}", all.join("; "));
        self.searching.clone().or_else(|| (!missing.is_empty()).then(told))
    }

    /// Which claims were taken out of the experiment after the run.
    pub(crate) fn dropped_claims(&self) -> Option<String> {
        let dropped = self.manifest.dropped_claims(&self.experiment.claims);
        let told = || format!("claims that were taken out of the experiment after the run: {}", dropped.join(", "));
        (!dropped.is_empty()).then(told)
    }

    /// What to know of the run before it is believed.
    pub fn notes(&self) -> Vec<String> {
        self.unfinished().into_iter().chain(self.dropped_claims()).collect()
    }

    /// Takes a row of a training.
    fn note(&mut self, row: SharedMetricRow) {
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
        if &*row.stage == "train" && ALONG.iter().any(|metric| metric.name == &*row.metric) {
            let place = [row.arm.clone(), row.point.clone(), row.metric.clone()];
            self.along.entry(place).or_default().note(&row);
        }
        self.last.entry([row.arm, row.point, row.stage, row.metric]).or_default().insert(row.seed, row.value);
    }

    /// What the run is called.
    pub(crate) fn name(&self) -> &str {
        &self.experiment.name
    }

    /// Every setting of its experiment, with its key.
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
        if let Ok(whole) = toml::Value::try_from(&self.experiment) {
            collect_leaves("", &whole, &mut all);
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
    pub(crate) fn ending(&self, cell: &Cell) -> CellEnd<'_> {
        let its = |p: &&MeasuredPoint| p.arm == cell.arm && p.label == cell.point.label;
        let mark = self.points.iter().find(its).and_then(|point| point.seeds.get(&cell.seed)?.last());
        let label = cell.label();
        match mark {
            Some(mark) if mark.is_recorded(metrics::KL) => CellEnd::Finished(mark),
            Some(_) => CellEnd::Missing("its KL was not measured".into()),
            None if self.manifest.has_diverged(&label) => CellEnd::Diverged,
            None => {
                let why = self.absent.get(&label).cloned();
                CellEnd::Missing(why.unwrap_or_else(|| self.manifest.why_missing(&label)))
            }
        }
    }

    /// The cells of which nothing is known, in the experiment's order.
    pub(crate) fn missing(&self) -> Vec<Missing> {
        let missing = |cell: &Cell| match self.ending(cell) {
            CellEnd::Missing(because) => {
                Some(Missing { arm: cell.arm.clone(), point: cell.point.label.clone(), seed: cell.seed, because })
            }
            CellEnd::Finished(_) | CellEnd::Diverged => None,
        };
        self.cells.iter().filter_map(missing).collect()
    }

    /// The settings of a trained point.
    pub fn method_of(&self, point: &MeasuredPoint) -> Option<MethodSettings> {
        let its = |cell: &&Cell| cell.arm == point.arm && cell.point.label == point.label;
        self.cells.iter().find(its).map(|cell| cell.point.method.clone())
    }

    /// Whether a point climbs the world's own judge.
    pub fn climbs_gold(&self, point: &MeasuredPoint) -> bool {
        self.method_of(point).and_then(|method| method.reward_source()) == Some(RewardSource::Gold)
    }

    /// The SFT policy that every arm starts from.
    pub fn reference(&self) -> Option<&MeasuredPoint> {
        self.points_of("reference").next()
    }

    /// The marks of the SFT policy of one seed.
    pub(crate) fn reference_at(&self, seed: u64) -> Option<&EvalPoint> {
        self.reference()?.seeds.get(&seed)?.last()
    }

    /// Values of a shared stage's metric, one a seed: the last that was recorded.
    pub fn shared(&self, stage: &str, metric: Metric) -> Vec<f64> {
        self.last_of([SHARED_ARM, NO_POINT, stage, metric.name])
    }

    /// The same with its seeds.
    pub(crate) fn shared_by_seed(&self, stage: &str, metric: Metric) -> BTreeMap<u64, f64> {
        self.last.get(&[SHARED_ARM, NO_POINT, stage, metric.name].map(Arc::from)).cloned().unwrap_or_default()
    }

    /// What the finished policy of a point earns at a seed.
    pub(crate) fn outcomes_of(&self, point: &MeasuredPoint, seed: u64) -> Option<&Outcomes> {
        self.outcomes.iter().find(|o| *o.arm == *point.arm && *o.point == *point.label && o.seed == seed)
    }

    /// How a metric went along the trainings of a point.
    pub(crate) fn along(&self, point: &MeasuredPoint, metric: Metric) -> Option<&TrainingCurve> {
        self.along.get(&[point.arm.as_str(), point.label.as_str(), metric.name].map(Arc::from))
    }

    fn last_of(&self, place: [&str; 4]) -> Vec<f64> {
        let values = self.last.get(&place.map(Arc::from));
        values.map_or(vec![], |by_seed| by_seed.values().copied().collect())
    }

    /// What a shared stage cost, by seed.
    pub fn shared_clocks(&self, stage: &str) -> BTreeMap<u64, Clocks> {
        self.shared_clocks.get(stage).cloned().unwrap_or_default()
    }

    /// Last value of a metric that a stage of the point's cell recorded at one seed: its training, or the cell as a whole.
    pub(crate) fn last_at(&self, point: &MeasuredPoint, stage: &str, metric: Metric, seed: u64) -> Option<f64> {
        let place = [point.arm.as_str(), point.label.as_str(), stage, metric.name].map(Arc::from);
        self.last.get(&place)?.get(&seed).copied()
    }

    /// Last value of a training metric, by seed of a point.
    pub fn trained(&self, point: &MeasuredPoint, metric: Metric) -> Vec<f64> {
        self.last_of([&point.arm, &point.label, "train", metric.name])
    }

    /// The arm's point whose finished policies earn most gold on validation prompts, mean over seeds: the
    /// one that the page tells of. Test prompts play no part in the choice.
    pub fn featured<'a>(&'a self, arm: &'a str) -> Option<&'a MeasuredPoint> {
        let merit = |p: &MeasuredPoint| crate::stats::mean(&p.final_validation(metrics::GOLD));
        let known = |p: &&MeasuredPoint| merit(p).is_finite();
        self.points_of(arm).filter(known).max_by(|a, b| merit(a).total_cmp(&merit(b)))
    }
}

/// Runs made by hand, row by row.
#[cfg(test)]
pub(crate) mod by_hand {
    use super::*;
    use duel_spec::Document;

    pub(crate) struct HandMadeRun {
        run: Run,
        points: PointBuilder,
    }

    impl HandMadeRun {
        /// Of an experiment as its file says; nothing is measured yet.
        pub(crate) fn new(experiment: &str) -> Self {
            let document = Document::parse("by-hand.toml", experiment, &[]).expect("a valid document");
            let experiment = Experiment::from_document(&document).expect("a valid experiment");
            let cells = experiment.cells_for(&experiment.trials());
            let manifest =
                Manifest { exit: "complete".into(), format: duel_spec::FORMAT_VERSION, ..Manifest::default() };
            let run = Run::empty(Path::new("by-hand"), experiment, cells, manifest);
            Self { run, points: PointBuilder::default() }
        }

        /// A row of `metrics.parquet`.
        pub(crate) fn row(
            &mut self,
            [arm, point, stage]: [&str; 3],
            seed: u64,
            clocks: Clocks,
            metric: Metric,
            value: f64,
        ) -> &mut Self {
            let [arm, point, stage, metric] = [arm, point, stage, metric.name].map(Arc::from);
            let row = SharedMetricRow { arm, method: "dpo".into(), point, seed, stage, clocks, metric, value };
            self.run.take(&mut self.points, row);
            self
        }

        /// The same mark on validation and on test prompts.
        pub(crate) fn mark(
            &mut self,
            arm: &str,
            point: &str,
            seed: u64,
            clocks: Clocks,
            marks: &[(Metric, f64)],
        ) -> &mut Self {
            for stage in ["evaluation-validation", "evaluation-test"] {
                for &(metric, value) in marks {
                    self.row([arm, point, stage], seed, clocks, metric, value);
                }
            }
            self
        }

        pub(crate) fn run(&mut self) -> &mut Run {
            &mut self.run
        }

        pub(crate) fn done(mut self) -> Run {
            self.run.arrange(self.points);
            self.run
        }
    }
}

#[cfg(test)]
mod tests {
    use super::by_hand::HandMadeRun;
    use super::*;
    use crate::verdict::{Verdict, judge, missing_words};
    use crate::{ClaimResult, TuningResults};

    const EXPERIMENT: &str = r#"
        name = "missing"
        seeds = 6
        [arms.a]
        method = "dpo"
        grid.beta = [0.1, 0.2]
        [arms.b]
        method = "dpo"
        grid.beta = [0.1, 0.2]
        [[claims]]
        id = "diverged"
        arms = ["a", "b"]
        metric = "diverged"
    "#;

    /// Cells `(arm, label, seed)` that have marks, of the reference at KL 0 and gold 0.
    fn measured(has_marks: impl Fn(&str, &str, u64) -> bool) -> HandMadeRun {
        let mut run = HandMadeRun::new(EXPERIMENT);
        let clocks = Clocks { step: 1, ..Clocks::default() };
        for cell in run.run().cells.clone() {
            let marks = [(metrics::KL, 0.5), (metrics::GOLD, 1.0), (metrics::GOLD_SD, 1.0)];
            run.mark("reference", "sft", cell.seed, clocks, &[(metrics::KL, 0.0), (metrics::GOLD, 0.0), marks[2]]);
            if has_marks(&cell.arm, &cell.point.label, cell.seed) {
                run.mark(&cell.arm, &cell.point.label, cell.seed, clocks, &marks);
            }
        }
        run
    }

    fn verdict(run: &Run) -> ClaimResult {
        judge(run, &TuningResults::of(run)).remove(0)
    }

    /// Of six seeds `b` lacks its second cell everywhere: a share of ½ less than `a`'s 0 would be CONTRADICTED for `b`, and is only
    /// that where the manifest says that those trainings diverged.
    #[test]
    fn a_cell_without_marks_has_diverged_only_where_its_manifest_says_so() {
        let lacking = |arm: &str, label: &str, _| !(arm == "b" && label == "beta=0.2");
        let labels = |run: &Run| -> Vec<String> {
            run.cells
                .iter()
                .filter(|c| !lacking(&c.arm, &c.point.label, c.seed))
                .map(|c| format!("b beta=0.2, seed {}", c.seed))
                .collect()
        };

        let mut diverged = measured(lacking);
        diverged.run().manifest.diverged = labels(diverged.run()).into_iter().collect();
        let diverged = verdict(&diverged.done());
        assert_eq!((diverged.judgement, diverged.tests[0].effect), (Verdict::Reproduced, Some(0.5)));
        assert!(diverged.missing.is_empty());

        for (exit, failed, because) in [
            ("interrupted", None, "the run was interrupted before"),
            ("running", None, "the run has not ended"),
            (
                "failed",
                Some("the worker was ended by signal: 9 (SIGKILL) (out of memory?)"),
                "the worker was ended by signal: 9 (SIGKILL) (out of memory?)",
            ),
            ("failed", Some("No space left on device (os error 28)"), "No space left on device (os error 28)"),
            (
                "failed",
                Some("invariant `padding_is_inert` failed at step 1"),
                "invariant `padding_is_inert` failed at step 1",
            ),
            ("complete", None, "the run ended before"),
        ] {
            let mut run = measured(lacking);
            let labels = labels(run.run());
            let manifest = &mut run.run().manifest;
            manifest.exit = exit.into();
            manifest.failed =
                failed.into_iter().flat_map(|why| labels.iter().map(move |l| (l.clone(), why.to_string()))).collect();
            let run = run.done();
            let found = verdict(&run);
            assert_eq!(
                (found.judgement, found.tests[0].seeds, found.tests[0].effect),
                (Verdict::Inconclusive, 0, None),
                "{exit}"
            );
            assert!(
                found.missing.len() == 6 && found.missing.iter().all(|cell| cell.because == because),
                "{:?}",
                found.missing
            );
            let words = missing_words(&run.missing());
            assert_eq!(
                words,
                [format!(
                    "6 trainings of b, the first beta=0.2 at seed 0, are missing and count in no claim, because: {because}"
                )]
            );
            assert!(found.reasons.contains(&words[0]), "{:?}", found.reasons);
        }
    }

    /// A seed at which one cell is missing is left out whole, so that arms are compared over the same points; the other five stay.
    #[test]
    fn a_seed_with_a_missing_cell_is_left_out() {
        let run = measured(|arm, label, seed| !(arm == "a" && label == "beta=0.1" && seed == 3)).done();
        let found = verdict(&run);
        assert_eq!(
            (found.judgement, found.tests[0].seeds, found.tests[0].effect),
            (Verdict::Contradicted, 5, Some(0.0))
        );
        assert_eq!(found.missing.len(), 1);
        assert_eq!(
            found.reasons.last().map(String::as_str),
            Some("the training a beta=0.1, seed 3, is missing and counts in no claim, because: the run ended before")
        );
    }

    /// Manifests before format 12 have only the last words of what failed.
    #[test]
    fn an_older_manifest_says_by_its_words_who_diverged() {
        let mut manifest = Manifest { format: 11, ..Manifest::default() };
        manifest.failed.insert("b beta=0.2, seed 1".into(), "training diverged at step 7: loss is NaN".into());
        manifest.failed.insert("b beta=0.2, seed 2".into(), "invariant `x` failed at step 7".into());
        assert!(manifest.has_diverged("b beta=0.2, seed 1") && !manifest.has_diverged("b beta=0.2, seed 2"));
        manifest.format = 12;
        assert!(!manifest.has_diverged("b beta=0.2, seed 1"));
    }
}
