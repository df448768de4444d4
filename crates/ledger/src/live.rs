//! The progress of a running stage, for `duel watch`: `live/<stage>.json` in the run directory.

use crate::error::Result;
use crate::files::{MAX_TEXT, create_folder, read_bounded, write_volatile};
use crate::process::ProcessId;
use duel_spec::MetricRow;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Points of a published curve.
const MAX_POINTS: usize = 120;
/// Minimum time between two updates.
const INTERVAL: Duration = Duration::from_secs(1);

/// The progress of a stage.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
    /// What it is doing; `words` in earlier versions.
    #[serde(alias = "words")]
    pub message: String,
}

/// The state of a running stage.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Live {
    pub process: u32,
    /// Identifies the process.
    #[serde(default)]
    owner: Option<ProcessId>,
    #[serde(flatten)]
    pub progress: Progress,
    /// Seconds since its worker started.
    pub seconds: f64,
    /// Curves by `<stage>/<metric>`: step and value.
    pub curves: BTreeMap<String, Vec<(u64, f64)>>,
}

impl Live {
    /// The last state of the stage with this folder name, and seconds since then; `None` where there is none.
    pub fn read(run: &Path, folder: &str) -> Option<(Self, f64)> {
        let path = live_path(run, folder);
        let age = std::fs::metadata(&path).ok()?.modified().ok()?.elapsed().map_or(0.0, |age| age.as_secs_f64());
        let live = serde_json::from_slice(&read_bounded(&path, MAX_TEXT).ok()?).ok()?;
        Some((live, age))
    }

    #[cfg(test)]
    pub(crate) fn owned_by(owner: ProcessId) -> Self {
        Self { process: owner.process, owner: Some(owner), ..Self::default() }
    }

    /// Whether its worker is a running process of this machine.
    pub fn is_here(&self) -> bool {
        self.owner.as_ref().is_some_and(ProcessId::is_here)
    }
}

/// Removes the files of workers that have ended.
pub(crate) fn remove_abandoned(run: &Path) {
    for path in std::fs::read_dir(run.join("live")).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let live = read_bounded(&path, MAX_TEXT).ok().and_then(|bytes| serde_json::from_slice::<Live>(&bytes).ok());
        if live.and_then(|live| live.owner).is_some_and(|owner| owner.is_gone()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn live_path(run: &Path, folder: &str) -> PathBuf {
    run.join("live").join(format!("{folder}.json"))
}

/// Publishes the progress of one stage; the file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct LiveWriter {
    path: PathBuf,
    started: Instant,
    last: Option<Instant>,
}

impl LiveWriter {
    pub(crate) fn new(run: &Path, folder: &str) -> Self {
        Self { path: live_path(run, folder), started: Instant::now(), last: None }
    }

    /// Writes the progress, at most once per interval. A failed write is ignored: the file is only for watching.
    pub(crate) fn publish(&mut self, done: u64, total: u64, message: &str, rows: &[MetricRow]) {
        if self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
            return;
        }
        self.last = Some(Instant::now());
        let mut curves: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.value.is_finite()) {
            curves.entry(format!("{}/{}", row.stage, row.metric)).or_default().push((row.clocks.step, row.value));
        }
        for curve in curves.values_mut() {
            let every = curve.len().div_ceil(MAX_POINTS);
            *curve = curve.iter().rev().step_by(every).rev().copied().collect();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let live = Live {
            process: std::process::id(),
            owner: Some(ProcessId::here()),
            progress: Progress { done, total, message: message.into() },
            seconds,
            curves,
        };
        let written: Result<()> = self
            .path
            .parent()
            .map_or(Ok(()), create_folder)
            .and_then(|()| write_volatile(&self.path, &serde_json::to_vec(&live).expect("plain data")));
        drop(written);
    }
}

impl Drop for LiveWriter {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
