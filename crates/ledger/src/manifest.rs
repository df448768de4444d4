//! What a run was made with.

use crate::files::{MOST_TEXT, io, read_bounded, write_atomically};
use crate::{Error, Result};
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
    /// `None`: one for all seeds.
    pub seed: Option<u64>,
    /// Of a cell: whether it is tried for a choice. `None`: no cell.
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
    /// Hash of each input: the experiment as resolved, files of data.
    pub inputs: BTreeMap<String, String>,
    /// Hash of each stage, by its folder.
    pub stages: BTreeMap<String, String>,
    /// The same in the plan's order, with what each is of; empty before format 12.
    #[serde(default)]
    pub plan: Vec<PlannedStage>,
    /// The experiment as TOML, as it was run; empty before format 12.
    #[serde(default)]
    pub experiment: String,
    /// The claims that stood in the experiment before any of its cells was finished; `None` before format 12.
    #[serde(default)]
    pub claims: Option<Vec<serde_json::Value>>,
    /// Seconds since 1970.
    pub started: u64,
    pub ended: Option<u64>,
    /// How it ended: `complete`, `interrupted`, `failed`; `running` until then.
    pub exit: String,
    /// Seconds from start to end of this invocation.
    pub wall_seconds: Option<f64>,
    /// Stages found finished by this invocation, and made by it.
    pub stages_reused: usize,
    pub stages_made: usize,
    /// Stages that could not be made, and why.
    #[serde(default)]
    pub failed: BTreeMap<String, String>,
    /// Stages whose training diverged, in this invocation or an earlier one of the same stage, by label. What else has not
    /// finished is missing.
    #[serde(default)]
    pub diverged: BTreeSet<String>,
    /// What a person should know before they believe the report.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Largest sum of resident memory of the processes, sampled while they ran; bytes.
    pub peak_memory: u64,
}

/// The first format whose manifests say which trainings diverged; before it their last words do.
const SAYS_WHO_DIVERGED: u32 = 12;

impl Manifest {
    /// Whether the stage of this label ended as its training diverged.
    pub fn has_diverged(&self, label: &str) -> bool {
        let in_words = || self.failed.get(label).is_some_and(|words| words.contains("training diverged at step"));
        self.diverged.contains(label) || (self.format < SAYS_WHO_DIVERGED && in_words())
    }

    /// Writes `manifest.json` into a run directory.
    pub fn write(&self, run: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("a manifest is plain data");
        write_atomically(&run.join("manifest.json"), &json)
    }

    /// Reads it back.
    pub fn read(run: &Path) -> Result<Self> {
        let path = run.join("manifest.json");
        let bytes = read_bounded(&path, MOST_TEXT).map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => {
                Error::NotARun { path: run.into(), missing: "manifest.json" }
            }
            _ => io("read", &path)(e),
        })?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Damaged { path, problem: e.to_string() })
    }

    /// Why a stage, by its label, is not finished.
    pub fn why_missing(&self, label: &str) -> String {
        self.failed.get(label).cloned().unwrap_or_else(|| {
            match self.exit.as_str() {
                "running" => "the run has not ended",
                "interrupted" => "the run was interrupted before",
                _ => "the run ended before",
            }
            .into()
        })
    }

    /// Whether the run was written before manifests held their plan and their experiment.
    pub fn is_of_older_format(&self) -> bool {
        self.experiment.is_empty()
    }

    /// Whether `experiment.toml` still asks for the numbers that were run.
    ///
    /// # Errors
    /// [`Error::Edited`] names the settings that differ.
    pub fn check_experiment(&self, run: &Path, document: &Document) -> Result<()> {
        if self.is_of_older_format() || self.experiment == document.to_toml() {
            return Ok(());
        }
        let settings = match Document::parse("the experiment as recorded", &self.experiment, &[]) {
            Ok(recorded) => document.differences(&recorded),
            Err(unreadable) => vec![unreadable.to_string()],
        };
        if settings.is_empty() { Ok(()) } else { Err(Error::Edited { path: run.join("experiment.toml"), settings }) }
    }

    /// Whether a claim stood in the experiment before any cell was finished. A run of an older format does not know.
    pub fn had_claim(&self, claim: &Claim) -> bool {
        let claim = serde_json::json!(claim);
        // a later Duel may have claims say more: what was recorded must be as it was
        let is_it = |known: &serde_json::Value| {
            known.as_object().is_some_and(|known| known.iter().all(|(key, value)| claim.get(key) == Some(value)))
        };
        self.claims.as_ref().is_none_or(|claims| claims.iter().any(is_it))
    }

    /// Ids of claims that stood there, and are no longer in the experiment.
    pub fn dropped_claims(&self, claims: &[Claim]) -> Vec<String> {
        let ids = self.claims.iter().flatten().filter_map(|claim| claim.get("id")?.as_str());
        ids.filter(|id| !claims.iter().any(|claim| claim.id == *id)).map(String::from).collect()
    }
}
