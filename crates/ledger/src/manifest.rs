//! What a run was made with.

use crate::files::write_atomically;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
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
    /// Largest sum of resident memory of the processes, sampled while they ran; bytes.
    pub peak_memory: u64,
}

impl Manifest {
    /// Writes `manifest.json` into a run directory.
    pub fn write(&self, run: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).expect("a manifest is plain data");
        write_atomically(&run.join("manifest.json"), &json)
    }

    /// Reads it back.
    pub fn read(run: &Path) -> Result<Self> {
        let path = run.join("manifest.json");
        let text = std::fs::read_to_string(&path)
            .map_err(|_| Error::NotARun { path: run.into(), missing: "manifest.json" })?;
        serde_json::from_str(&text).map_err(|e| Error::Damaged { path, problem: e.to_string() })
    }
}
