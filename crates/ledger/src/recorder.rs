//! The [`Recorder`] of a worker: rows in memory, written when the stage is done.

use crate::files::{create_folder, read_bounded};
use crate::live::LiveWriter;
use crate::tables::{Outcomes, write_completions, write_metrics, write_outcomes};
use crate::{Result, StageId, write_atomically};
use duel_spec::ids::hash_bytes;
use duel_spec::metrics::Metric;
use duel_spec::{Clocks, Completion, MetricRow, OutcomeRow, Recorder};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Letters of a hash.
const HASH: usize = 64;

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
    outcomes: Vec<Outcomes>,
    /// Hashes of the prompts of each training and evaluation.
    prompts: BTreeMap<String, BTreeSet<u64>>,
    on_progress: OnProgress,
    keeping: Option<CheckpointPolicy>,
    teller: Option<LiveWriter>,
}

/// Where and how often states of trainings are kept.
struct CheckpointPolicy {
    folder: PathBuf,
    /// The stage that they are of.
    stage: String,
    /// Who made them: those of another binary are not gone on from.
    tag: String,
    pause: Duration,
    last: Instant,
}

/// A file of a state: its stage, who made it, the rows and completions so far, the state.
type CheckpointFile = (String, String, Vec<MetricRow>, Vec<Completion>, Vec<u8>);

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
            outcomes: vec![],
            prompts: BTreeMap::new(),
            on_progress,
            keeping: None,
            teller: None,
        }
    }

    /// Tells whoever watches `run` how the stage of this folder name gets on.
    pub fn with_live_file(mut self, run: &Path, folder: &str) -> Self {
        self.teller = Some(LiveWriter::new(run, folder));
        self
    }

    /// Keeps states of the stage's trainings under `stages`, no more often than every `pause`; goes on from those that bear
    /// the same `tag`.
    pub fn with_checkpoints(mut self, stages: &Path, id: &StageId, tag: &str, pause: Duration) -> Self {
        let (folder, stage) = (stages.join(id.checkpoint_dir()), id.folder());
        self.keeping = Some(CheckpointPolicy { folder, stage, tag: tag.into(), pause, last: Instant::now() });
        self
    }

    /// What follows is of another arm and point (a stage that measures several policies).
    pub fn set_labels(&mut self, arm: &str, method: &str, point: &str) {
        self.arm = arm.into();
        self.method = method.into();
        self.point = point.into();
    }

    /// Writes `metrics.parquet` and, where there are any, `prompts.json` (which prompts were trained on and measured on, by
    /// hash), `completions.parquet` and `outcomes.parquet`.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_metrics(&folder.join("metrics.parquet"), &self.rows)?;
        if !self.prompts.is_empty() {
            let hex = |hashes: &BTreeSet<u64>| hashes.iter().map(|hash| format!("{hash:016x}")).collect();
            let prompts: BTreeMap<&str, Vec<String>> = self.prompts.iter().map(|(of, all)| (&**of, hex(all))).collect();
            let json = serde_json::to_vec(&prompts).expect("plain data");
            write_atomically(&folder.join("prompts.json"), &json)?;
        }
        if !self.outcomes.is_empty() {
            write_outcomes(&folder.join("outcomes.parquet"), &self.outcomes)?;
        }
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

    fn outcomes(&mut self, outcomes: &[OutcomeRow]) {
        let (arm, point) = (self.arm.as_str().into(), self.point.as_str().into());
        self.outcomes.push(Outcomes { arm, point, seed: self.seed, all: outcomes.to_vec() });
    }

    fn prompts(&mut self, of: &str, hashes: &[u64]) {
        if !hashes.is_empty() {
            self.prompts.entry(of.into()).or_default().extend(hashes);
        }
    }

    fn progress(&mut self, done: u64, total: u64, words: &str) {
        (self.on_progress)(done, total, words);
        if let Some(teller) = &mut self.teller {
            teller.publish(done, total, words, &self.rows);
        }
    }

    fn is_due(&self) -> bool {
        self.keeping.as_ref().is_some_and(|keeping| keeping.last.elapsed() >= keeping.pause)
    }

    fn keep(&mut self, training: &str, state: &[u8]) -> std::io::Result<()> {
        let Some(keeping) = &mut self.keeping else { return Ok(()) };
        let rows = postcard::to_stdvec(&(&keeping.stage, &keeping.tag, &self.rows, &self.completions, state));
        let rows = rows.map_err(std::io::Error::other)?;
        let mut bytes = hash_bytes(&rows).into_bytes();
        bytes.extend(rows);
        create_folder(&keeping.folder).and_then(|()| write_atomically(&keeping.folder.join(training), &bytes))?;
        keeping.last = Instant::now();
        Ok(())
    }

    fn resume(&mut self, training: &str) -> std::io::Result<Option<Vec<u8>>> {
        let Some(keeping) = &self.keeping else { return Ok(None) };
        let path = keeping.folder.join(training);
        let bytes = match read_bounded(&path, u64::MAX - 1) {
            Ok(bytes) => bytes,
            Err(none) if none.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(other) => return Err(other),
        };
        let whole = bytes.split_at_checked(HASH).filter(|(hash, rest)| *hash == hash_bytes(rest).as_bytes());
        // the training begins anew; what was damaged, or of another stage, stays to be looked at
        let Some((stage, tag, rows, completions, state)) =
            whole.and_then(|(_, rest)| postcard::from_bytes::<CheckpointFile>(rest).ok())
        else {
            std::fs::rename(&path, path.with_extension("damaged"))?;
            (self.on_progress)(0, 1, "the kept state is damaged: begins anew");
            return Ok(None);
        };
        if stage != keeping.stage {
            std::fs::rename(&path, path.with_extension("foreign"))?;
            (self.on_progress)(0, 1, "the kept state is of another stage: begins anew");
            return Ok(None);
        }
        if tag != keeping.tag {
            return Ok(None);
        }
        (self.rows, self.completions) = (rows, completions);
        Ok(Some(state))
    }
}
