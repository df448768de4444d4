//! Where a merged run is written: beside its place first, and renamed when it is whole.

use crate::error::{Error, Result};
use crate::target::{Placement, is_within, make_beside, names, resolved};
use duel_ledger::Manifest;
use std::path::{Path, PathBuf};

/// What a run directory may contain besides its tables: what a merge replaces with `--force`.
const RUN_FILES: [&str; 12] = [
    "experiment.toml",
    "manifest.json",
    "tables.json",
    "search.json",
    "stages",
    "report",
    "events",
    "live",
    "log.jsonl",
    "run.lock",
    "PROVENANCE.md",
    "drawn.sha256",
];

/// A directory for a run that may be written to.
#[derive(Debug)]
pub struct RunPlace {
    to: PathBuf,
    placement: Placement,
}

impl RunPlace {
    /// A directory apart from all runs that are merged.
    ///
    /// # Errors
    /// [`Error::MergeTarget`] where something is there that may not be replaced.
    pub fn new(to: &Path, runs: &[PathBuf], force: bool) -> Result<Self> {
        let refused = |problem: String, hint| Err(Error::MergeTarget { path: to.into(), problem, hint });
        let place = resolved(to)?;
        let overlaps = |run: &&PathBuf| {
            let run = run.canonicalize().unwrap_or_else(|_| run.to_path_buf());
            is_within(&place, &run) || is_within(&run, &place)
        };
        if let Some(run) = runs.iter().find(overlaps) {
            let problem = format!("it is, contains or is in `{}`, which is merged", run.display());
            return refused(problem, "give --into a folder of its own");
        }
        let placement = match std::fs::metadata(&place) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Placement::New,
            Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => {
                return refused("a file is in its path".into(), "give --into a path of folders");
            }
            Err(source) => return Err(Error::Io { action: "look at", path: place, source }),
            Ok(metadata) if !metadata.is_dir() => {
                return refused("it is not a folder".into(), "give --into a folder that does not exist yet");
            }
            Ok(_) => {
                let entries = names(&place)?;
                let is_merged = || Manifest::read(&place).is_ok_and(|manifest| manifest.is_merged());
                let is_own = |name: &&String| RUN_FILES.contains(&name.as_str()) || name.ends_with(".parquet");
                match entries.iter().find(|name| !is_own(name)) {
                    _ if entries.is_empty() => Placement::Over,
                    _ if !is_merged() => {
                        let hint = "give --into another folder: --force replaces nothing but an earlier merge";
                        return refused("it is not empty".into(), hint);
                    }
                    Some(stranger) => {
                        let problem = format!("it contains `{stranger}`, which Duel did not write");
                        return refused(problem, "give --into another folder, or move that file away");
                    }
                    None if !force => {
                        let problem = "it contains an earlier merge".into();
                        return refused(problem, "--force replaces the earlier merge as a whole");
                    }
                    None => Placement::Exchange,
                }
            }
        };
        Ok(Self { to: place, placement })
    }

    /// The name of the directory.
    pub fn name(&self) -> String {
        self.to.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Has the run written into a new directory beside the place, with a second path for temporary files, and puts it there when it is
    /// whole.
    ///
    /// # Errors
    /// Those of `write`, after which the place is as it was.
    pub fn write(&self, write: impl FnOnce(&Path, &Path) -> Result<()>) -> Result<()> {
        make_beside(&self.to, self.placement, |staged| {
            let io = |source| Error::Io { action: "create", path: staged.into(), source };
            std::fs::create_dir(staged).map_err(io)?;
            write(staged, &staged.with_file_name("stages-of-tables"))
        })
    }
}
