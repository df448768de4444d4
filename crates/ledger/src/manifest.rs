//! `manifest.json`: how a run was made.

use crate::checksum::{add_checksum, has_checksum};
use crate::error::{Error, Result};
use crate::files::{MAX_TEXT, io, read_bounded, write_atomically};
use duel_spec::{Claim, Document};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

/// The machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HostInfo {
    pub name: String,
    pub processor: String,
    pub cores: usize,
    pub system: String,
}

/// A stage of a run's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStage {
    pub label: String,
    pub folder: String,
    /// `None`: shared by all seeds.
    pub seed: Option<u64>,
    /// For a cell: whether it belongs to the search. `None`: not a cell.
    pub tuning: Option<bool>,
}

/// `manifest.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub duel: String,
    pub commit: String,
    pub host: HostInfo,
    pub device: String,
    pub jobs: usize,
    pub threads_per_job: usize,
    pub command: Vec<String>,
    /// Hash of each input: the resolved experiment, data files.
    pub inputs: BTreeMap<String, String>,
    /// Hash of each stage, by its folder.
    pub stages: BTreeMap<String, String>,
    /// The stages in the plan's order; empty before format 12.
    #[serde(default)]
    pub plan: Vec<PlannedStage>,
    /// The experiment that was run, as TOML; empty before format 12.
    #[serde(default)]
    pub experiment: String,
    /// The claims in the experiment before any of its cells was finished; `None` before format 12.
    #[serde(default)]
    pub claims: Option<Vec<serde_json::Value>>,
    /// Seconds since 1970.
    pub started: u64,
    pub ended: Option<u64>,
    /// How it ended: `complete`, `interrupted`, `failed`; `running` until then.
    pub exit: String,
    /// Seconds from start to end of this invocation.
    pub wall_seconds: Option<f64>,
    /// Stages reused by this invocation, and stages it made.
    pub stages_reused: usize,
    pub stages_made: usize,
    /// Stages that failed, and why.
    #[serde(default)]
    pub failed: BTreeMap<String, String>,
    /// Stages whose training diverged, in this invocation or an earlier one, by label. All other unfinished stages are missing.
    #[serde(default)]
    pub diverged: BTreeSet<String>,
    /// Warnings about the report.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Peak of the summed resident memory of all processes, sampled while they ran; bytes.
    pub peak_memory: u64,
    /// The runs that this one was merged from, by `duel merge`; none for a run that was made at once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<RunPart>,
}

/// A run that was merged with others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunPart {
    /// Its own manifest, which has no parts.
    pub manifest: Manifest,
    /// Folders of the stages that it had finished.
    pub finished: BTreeSet<String>,
    /// Folders of the stages whose results the merged run has from it.
    pub used: BTreeSet<String>,
}

/// `manifest.json` as it is written.
#[derive(Serialize)]
struct WithChecksum<'a> {
    sum: &'static str,
    #[serde(flatten)]
    manifest: &'a Manifest,
}

/// The checksum of a manifest.
#[derive(Deserialize)]
struct Checksum {
    sum: Option<String>,
}

/// The first format whose manifests list diverged trainings; before it their error message shows it.
const LISTS_DIVERGED: u32 = 12;

impl Manifest {
    /// Whether the training of the stage with this label diverged.
    pub fn has_diverged(&self, label: &str) -> bool {
        let in_message = || self.failed.get(label).is_some_and(|message| message.contains("training diverged at step"));
        self.diverged.contains(label) || (self.format < LISTS_DIVERGED && in_message())
    }

    /// Writes `manifest.json` into a run directory.
    pub fn write(&self, run: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&WithChecksum { sum: "", manifest: self });
        write_atomically(&run.join("manifest.json"), add_checksum(&text.expect("plain data")).as_bytes())
    }

    /// Reads it back. One without a checksum is of an earlier version.
    ///
    /// # Errors
    /// [`Error::Damaged`] where it does not match its checksum.
    pub fn read(run: &Path) -> Result<Self> {
        let path = run.join("manifest.json");
        let bytes = read_bounded(&path, MAX_TEXT).map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                Error::NotARun { path: run.into(), missing: "manifest.json" }
            }
            _ => io("read", &path)(e),
        })?;
        let damaged = |problem: String| Error::Damaged { path: path.clone(), problem };
        let text = String::from_utf8(bytes).map_err(|e| damaged(e.to_string()))?;
        let Checksum { sum } = serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))?;
        if sum.is_some_and(|sum| !has_checksum(&text, &sum)) {
            return Err(damaged("it does not match its own checksum".into()));
        }
        serde_json::from_str(&text).map_err(|e| damaged(e.to_string()))
    }

    /// Why the stage with this label is not finished.
    pub fn why_missing(&self, label: &str) -> String {
        if self.is_merged() && !self.failed.contains_key(label) {
            let is_planned = |part: &&RunPart| part.manifest.stages.contains_key(label);
            let part = self.parts.iter().find(is_planned);
            return part.map_or("no merged part has it".into(), |part| part.manifest.why_missing(label));
        }
        self.failed.get(label).cloned().unwrap_or_else(|| {
            match self.exit.as_str() {
                "running" => "the run has not ended",
                "interrupted" => "the run was interrupted before",
                _ => "the run ended before",
            }
            .into()
        })
    }

    /// Whether the run was merged from others.
    pub fn is_merged(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Index of the part whose results the run has of the stage with this label; `None` where none has it.
    pub fn part_of(&self, label: &str) -> Option<usize> {
        let folder = self.stages.get(label)?;
        self.parts.iter().position(|part| part.used.contains(folder))
    }

    /// Whether the run is older than format 12, whose manifests contain the plan and the experiment.
    pub fn is_of_older_format(&self) -> bool {
        self.experiment.is_empty()
    }

    /// Whether `experiment.toml` still describes the experiment that was run.
    ///
    /// # Errors
    /// [`Error::Edited`] names the settings that differ.
    pub fn check_experiment(&self, run: &Path, document: &Document) -> Result<()> {
        if self.is_of_older_format() || self.experiment == document.to_toml() {
            return Ok(());
        }
        let settings = match Document::parse("the recorded experiment", &self.experiment, &[]) {
            Ok(recorded) => document.differences(&recorded),
            Err(unreadable) => vec![unreadable.to_string()],
        };
        if settings.is_empty() { Ok(()) } else { Err(Error::Edited { path: run.join("experiment.toml"), settings }) }
    }

    /// Whether a claim was in the experiment before any cell was finished; true for older formats, where it is unknown.
    pub fn had_claim(&self, claim: &Claim) -> bool {
        let claim = serde_json::json!(claim);
        // claims of a later version may have more fields: the recorded ones must be unchanged
        let is_same = |known: &serde_json::Value| {
            known.as_object().is_some_and(|known| known.iter().all(|(key, value)| claim.get(key) == Some(value)))
        };
        self.claims.as_ref().is_none_or(|claims| claims.iter().any(is_same))
    }

    /// Ids of claims that were removed from the experiment.
    pub fn dropped_claims(&self, claims: &[Claim]) -> Vec<String> {
        let ids = self.claims.iter().flatten().filter_map(|claim| claim.get("id")?.as_str());
        ids.filter(|id| !claims.iter().any(|claim| claim.id == *id)).map(String::from).collect()
    }
}
