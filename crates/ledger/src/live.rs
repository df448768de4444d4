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

/// Seconds of a part below which its pace is not known.
const LEAST_SECONDS: f64 = 2.0;

/// How fast a piece of work goes that has parts, one after the other, each with its own total: a training, then its evaluation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    done: u64,
    total: u64,
    /// Where the present part began: a resumed training does not begin at 0.
    first: u64,
    /// On the caller's clock.
    began: f64,
}

impl Pace {
    /// Takes in how much is done at this many seconds; returns whether another part has begun.
    pub fn update(&mut self, done: u64, total: u64, seconds: f64) -> bool {
        let is_new = total != self.total || done < self.done;
        if is_new {
            (self.first, self.began) = (done, seconds);
        }
        (self.done, self.total) = (done, total);
        is_new
    }

    /// Seconds left of the present part at this many seconds, if its parts take equally long; `None` while that is not known.
    pub fn seconds_left(&self, seconds: f64) -> Option<f64> {
        let (elapsed, made) = (seconds - self.began, self.done - self.first);
        (elapsed >= LEAST_SECONDS && made > 0)
            .then(|| elapsed * self.total.saturating_sub(self.done) as f64 / made as f64)
    }
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
    /// Of the present part of the stage, on the clock of `seconds`; without it nothing is known of the time left.
    #[serde(default)]
    pub pace: Pace,
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
    pace: Pace,
    last: Option<Instant>,
}

impl LiveWriter {
    pub(crate) fn new(run: &Path, folder: &str) -> Self {
        Self { path: live_path(run, folder), started: Instant::now(), pace: Pace::default(), last: None }
    }

    /// Writes the progress, at most once per interval, and where a part begins. A failed write is ignored: the file is only for watching.
    pub(crate) fn publish(&mut self, done: u64, total: u64, message: &str, rows: &[MetricRow]) {
        let seconds = self.started.elapsed().as_secs_f64();
        let is_new = self.pace.update(done, total, seconds);
        if !is_new && self.last.is_some_and(|last| last.elapsed() < INTERVAL) {
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
        let live = Live {
            process: std::process::id(),
            owner: Some(ProcessId::here()),
            progress: Progress { done, total, message: message.into() },
            seconds,
            pace: self.pace,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// 40 of 100 in ten seconds: the others take 15. Then an evaluation of ten parts, a tenth of which takes three seconds.
    #[test]
    fn each_part_of_a_stage_has_its_pace() {
        let mut pace = Pace::default();
        assert_eq!(pace.seconds_left(5.0), None);
        pace.update(0, 100, 1.0);
        pace.update(40, 100, 11.0);
        assert_eq!(pace.seconds_left(11.0), Some(15.0));
        pace.update(100, 100, 26.0);
        assert_eq!(pace.seconds_left(26.0), Some(0.0));
        pace.update(0, 10, 30.0);
        assert_eq!(pace.seconds_left(33.0), None, "nothing of it is done");
        pace.update(1, 10, 33.0);
        assert_eq!(pace.seconds_left(33.0), Some(27.0));
    }

    /// What was done before a training resumed took no time of this worker.
    #[test]
    fn a_resumed_training_goes_at_the_pace_of_its_new_steps() {
        let mut pace = Pace::default();
        pace.update(500, 1000, 2.0);
        assert_eq!(pace.seconds_left(3.0), None);
        pace.update(600, 1000, 12.0);
        assert_eq!(pace.seconds_left(12.0), Some(40.0));
    }
}
