//! The [`Recorder`] of a worker: rows in memory, written when the stage is done.

use crate::Result;
use crate::tables::{write_completions, write_metrics};
use duel_spec::metrics::Metric;
use duel_spec::{Clocks, Completion, MetricRow, Recorder};
use std::path::Path;

/// Whoever is told of progress: done, total, a few words.
type OnProgress = Box<dyn FnMut(u64, u64, &str)>;

/// Collects what a stage says.
pub struct StageRecorder {
    arm: String,
    method: String,
    point: String,
    seed: u64,
    rows: Vec<MetricRow>,
    completions: Vec<Completion>,
    on_progress: OnProgress,
}

impl std::fmt::Debug for StageRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StageRecorder({} {} seed {}: {} rows)", self.arm, self.point, self.seed, self.rows.len())
    }
}

impl StageRecorder {
    /// For a stage of this arm, point and seed.
    pub fn new(arm: &str, method: &str, point: &str, seed: u64, on_progress: OnProgress) -> Self {
        Self {
            arm: arm.into(),
            method: method.into(),
            point: point.into(),
            seed,
            rows: vec![],
            completions: vec![],
            on_progress,
        }
    }

    /// What follows is of another arm and point (a stage that measures several policies).
    pub fn speak_for(&mut self, arm: &str, method: &str, point: &str) {
        self.arm = arm.into();
        self.method = method.into();
        self.point = point.into();
    }

    /// Writes `metrics.parquet` and, where there are any, `completions.parquet`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_metrics(&folder.join("metrics.parquet"), &self.rows)?;
        if self.completions.is_empty() {
            return Ok(());
        }
        write_completions(&folder.join("completions.parquet"), &self.completions)
    }
}

impl Recorder for StageRecorder {
    fn record(&mut self, stage: &str, clocks: Clocks, metric: Metric, value: f64) {
        self.rows.push(MetricRow {
            arm: self.arm.clone(),
            method: self.method.clone(),
            point: self.point.clone(),
            seed: self.seed,
            stage: stage.into(),
            clocks,
            metric: metric.name.into(),
            value,
        });
    }

    fn completion(&mut self, completion: Completion) {
        self.completions.push(completion);
    }

    fn progress(&mut self, done: u64, total: u64, words: &str) {
        (self.on_progress)(done, total, words);
    }
}
