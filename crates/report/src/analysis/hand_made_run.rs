//! Runs made by hand for tests, row by row.

use crate::analysis::points::PointBuilder;
use crate::analysis::run::Run;
use duel_ledger::{Manifest, SharedMetricRow};
use duel_spec::metrics::Metric;
use duel_spec::{Clocks, Document, Experiment};
use std::path::Path;
use std::sync::Arc;

pub(crate) struct HandMadeRun {
    run: Run,
    points: PointBuilder,
}

impl HandMadeRun {
    /// A run of this experiment file, without rows.
    pub(crate) fn new(experiment: &str) -> Self {
        let document = Document::parse("by-hand.toml", experiment, &[]).expect("a valid document");
        let experiment = Experiment::from_document(&document).expect("a valid experiment");
        let cells = experiment.cells_for(&experiment.trials());
        let manifest = Manifest { exit: "complete".into(), format: duel_spec::FORMAT_VERSION, ..Manifest::default() };
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
        self.run.add_row(&mut self.points, row);
        self
    }

    /// The same metrics on validation and on test prompts.
    pub(crate) fn evaluation(
        &mut self,
        arm: &str,
        point: &str,
        seed: u64,
        clocks: Clocks,
        values: &[(Metric, f64)],
    ) -> &mut Self {
        for stage in ["evaluation-validation", "evaluation-test"] {
            for &(metric, value) in values {
                self.row([arm, point, stage], seed, clocks, metric, value);
            }
        }
        self
    }

    pub(crate) fn run(&mut self) -> &mut Run {
        &mut self.run
    }

    pub(crate) fn finish(mut self) -> Run {
        self.run.sort_points(self.points);
        self.run
    }
}
