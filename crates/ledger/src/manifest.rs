//! What a run was made with.

use crate::files::{MOST_TEXT, io, read_bounded, write_atomically};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

/// The machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Host {
    pub name: String,
    pub processor: String,
    pub cores: usize,
    pub system: String,
}

/// `manifest.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub duel: String,
    pub commit: String,
    pub host: Host,
    pub device: String,
    pub jobs: usize,
    pub threads_per_job: usize,
    pub command: Vec<String>,
    /// Hash of each input: the experiment as resolved, files of data.
    pub inputs: BTreeMap<String, String>,
    /// Hash of each stage, by its folder.
    pub stages: BTreeMap<String, String>,
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
}
