//! What a stage says of itself while it is made, for whoever watches: `live/<stage>.json` in the run directory.

use crate::Result;
use crate::files::{MOST_TEXT, create_folder, read_bounded, write_volatile};
use crate::owner::ProcessId;
use duel_spec::MetricRow;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Points of a curve that are told.
const POINTS: usize = 120;
/// Least time between two tellings.
const PAUSE: Duration = Duration::from_secs(1);

/// The state of a stage that is being made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Live {
    pub process: u32,
    /// Which process of that number.
    #[serde(default)]
    owner: Option<ProcessId>,
    pub done: u64,
    pub total: u64,
    pub words: String,
    /// Seconds since its worker began.
    pub seconds: f64,
    /// Curves by `<stage>/<metric>`: step and value.
    pub curves: BTreeMap<String, Vec<(u64, f64)>>,
}

impl Live {
    /// What the stage of this folder name last said, and seconds since then; `None` where it says nothing.
    pub fn read(run: &Path, folder: &str) -> Option<(Self, f64)> {
        let path = place(run, folder);
        let age = std::fs::metadata(&path).ok()?.modified().ok()?.elapsed().map_or(0.0, |age| age.as_secs_f64());
        let live = serde_json::from_slice(&read_bounded(&path, MOST_TEXT).ok()?).ok()?;
        Some((live, age))
    }

    #[cfg(test)]
    pub(crate) fn of(owner: ProcessId) -> Self {
        Self { process: owner.process, owner: Some(owner), ..Self::default() }
    }

    /// Whether its worker is seen from here: a living process of this machine.
    pub fn is_here(&self) -> bool {
        self.owner.as_ref().is_some_and(ProcessId::is_here)
    }
}

/// Removes what workers that are gone last said.
pub(crate) fn sweep(run: &Path) {
    for path in std::fs::read_dir(run.join("live")).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let live = read_bounded(&path, MOST_TEXT).ok().and_then(|bytes| serde_json::from_slice::<Live>(&bytes).ok());
        if live.and_then(|live| live.owner).is_some_and(|owner| owner.is_gone()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn place(run: &Path, folder: &str) -> PathBuf {
    run.join("live").join(format!("{folder}.json"))
}

/// Tells of one stage; what it told goes when this does.
#[derive(Debug)]
pub(crate) struct LiveWriter {
    path: PathBuf,
    began: Instant,
    last: Option<Instant>,
}

impl LiveWriter {
    pub(crate) fn new(run: &Path, folder: &str) -> Self {
        Self { path: place(run, folder), began: Instant::now(), last: None }
    }

    /// Says how far the stage is, unless it has just done so. To watch is a comfort: a disk that takes nothing is no failure.
    pub(crate) fn publish(&mut self, done: u64, total: u64, words: &str, rows: &[MetricRow]) {
        if self.last.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        self.last = Some(Instant::now());
        let mut curves: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.value.is_finite()) {
            curves.entry(format!("{}/{}", row.stage, row.metric)).or_default().push((row.clocks.step, row.value));
        }
        for curve in curves.values_mut() {
            let every = curve.len().div_ceil(POINTS);
            *curve = curve.iter().rev().step_by(every).rev().copied().collect();
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let live = Live {
            process: std::process::id(),
            owner: Some(ProcessId::here()),
            done,
            total,
            words: words.into(),
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
