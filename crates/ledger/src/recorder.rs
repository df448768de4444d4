//! The [`Recorder`] of a worker: keeps rows in memory, and writes them when the stage is done.

use crate::error::Result;
use crate::files::{create_folder, read_bounded, write_atomically};
use crate::live::LiveWriter;
use crate::stage_id::StageId;
use crate::tables::{Outcomes, write_completions, write_metrics, write_outcomes};
use duel_spec::ids::hash_bytes;
use duel_spec::metrics::Metric;
use duel_spec::{Clocks, Completion, MetricRow, OutcomeRow, Recorder};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Hex digits of a hash.
const HASH_LENGTH: usize = 64;

/// A callback for progress: done, total, a description.
type OnProgress = Box<dyn FnMut(u64, u64, &str)>;

/// Collects the results of a stage.
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
    checkpoints: Option<CheckpointPolicy>,
    live: Option<LiveWriter>,
}

/// Where and how often training checkpoints are written.
struct CheckpointPolicy {
    folder: PathBuf,
    /// The stage that they belong to.
    stage: String,
    /// The binary that wrote them: those of another binary are not resumed.
    tag: String,
    interval: Duration,
    last: Instant,
}

/// A checkpoint file: its stage, its tag, the rows and completions so far, the training's state.
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
            checkpoints: None,
            live: None,
        }
    }

    /// Publishes the progress of the stage with this folder name for `duel watch`.
    pub fn with_live_file(mut self, run: &Path, folder: &str) -> Self {
        self.live = Some(LiveWriter::new(run, folder));
        self
    }

    /// Writes training checkpoints under `stages`, at most one per `interval`; resumes those with the same `tag`.
    pub fn with_checkpoints(mut self, stages: &Path, id: &StageId, tag: &str, interval: Duration) -> Self {
        let (folder, stage) = (stages.join(id.checkpoint_dir()), id.folder());
        self.checkpoints = Some(CheckpointPolicy { folder, stage, tag: tag.into(), interval, last: Instant::now() });
        self
    }

    /// Changes the arm and point of the rows that follow, for a stage that measures several policies.
    pub fn set_labels(&mut self, arm: &str, method: &str, point: &str) {
        self.arm = arm.into();
        self.method = method.into();
        self.point = point.into();
    }

    /// Writes `metrics.parquet` and, where there are any, `prompts.json` (hashes of the prompts that were trained on and evaluated
    /// on), `completions.parquet` and `outcomes.parquet`.
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

    fn progress(&mut self, done: u64, total: u64, message: &str) {
        (self.on_progress)(done, total, message);
        if let Some(live) = &mut self.live {
            live.publish(done, total, message, &self.rows);
        }
    }

    fn is_due(&self) -> bool {
        self.checkpoints.as_ref().is_some_and(|policy| policy.last.elapsed() >= policy.interval)
    }

    fn save(&mut self, training: &str, state: &[u8]) -> std::io::Result<()> {
        let Some(policy) = &mut self.checkpoints else { return Ok(()) };
        let content = postcard::to_stdvec(&(&policy.stage, &policy.tag, &self.rows, &self.completions, state));
        let content = content.map_err(std::io::Error::other)?;
        let mut bytes = hash_bytes(&content).into_bytes();
        bytes.extend(content);
        create_folder(&policy.folder).and_then(|()| write_atomically(&policy.folder.join(training), &bytes))?;
        policy.last = Instant::now();
        Ok(())
    }

    fn resume(&mut self, training: &str) -> std::io::Result<Option<Vec<u8>>> {
        let Some(policy) = &self.checkpoints else { return Ok(None) };
        let path = policy.folder.join(training);
        let bytes = match read_bounded(&path, u64::MAX - 1) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(other) => return Err(other),
        };
        let checked = bytes.split_at_checked(HASH_LENGTH).filter(|(hash, rest)| *hash == hash_bytes(rest).as_bytes());
        // the training restarts; a damaged checkpoint, or one of another stage, is renamed and kept
        let Some((stage, tag, rows, completions, state)) =
            checked.and_then(|(_, rest)| postcard::from_bytes::<CheckpointFile>(rest).ok())
        else {
            std::fs::rename(&path, path.with_extension("damaged"))?;
            (self.on_progress)(0, 1, "the checkpoint is damaged: restarting the training");
            return Ok(None);
        };
        if stage != policy.stage {
            std::fs::rename(&path, path.with_extension("foreign"))?;
            (self.on_progress)(0, 1, "the checkpoint belongs to another stage: restarting the training");
            return Ok(None);
        }
        if tag != policy.tag {
            return Ok(None);
        }
        (self.rows, self.completions) = (rows, completions);
        Ok(Some(state))
    }
}
