//! The run directory as a whole.

use crate::error::{Error, Result};
use crate::files::{MAX_TEXT, create_folder, io, read_bounded};
use crate::manifest::Manifest;
use crate::stage::StageDir;
use crate::stage_id::StageId;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// `<out>/<name>`.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
    out: PathBuf,
}

impl RunDir {
    /// Creates or opens the directory of a run.
    pub fn create(out: &Path, name: &str) -> Result<Self> {
        let run = Self::at(out, name);
        create_folder(&run.stages())?;
        Ok(run)
    }

    /// The directory of a run, whether it exists or not.
    pub fn at(out: &Path, name: &str) -> Self {
        Self { path: out.join(name), out: out.into() }
    }

    /// Whether this run or a sibling run has this stage, finished and undamaged. Nothing is moved.
    pub fn contains_stage(&self, id: &StageId) -> Result<bool> {
        Ok(StageDir::is_whole(&self.stages(), id)? || self.sibling_runs(id).is_some())
    }

    /// An undamaged stage of a sibling run. Sibling runs are never changed: stages of theirs that are damaged, newer or unreadable
    /// are skipped.
    fn sibling_runs(&self, id: &StageId) -> Option<StageDir> {
        let runs = std::fs::read_dir(&self.out).into_iter().flatten().flatten();
        let mut folders = runs.map(|run| run.path().join("stages")).filter(|stages| *stages != self.stages());
        folders.find_map(|stages| StageDir::find(&stages, id).ok().flatten())
    }

    /// Opens the directory of a run that has results.
    pub fn open(path: &Path) -> Result<Self> {
        Manifest::read(path)?;
        let out = path.parent().unwrap_or(Path::new(".")).into();
        Ok(Self { path: path.into(), out })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of its stages.
    pub fn stages(&self) -> PathBuf {
        self.path.join("stages")
    }

    /// A finished stage of this run, or one adopted from a sibling run.
    pub fn find_stage(&self, id: &StageId) -> Result<Option<StageDir>> {
        Ok(self.find_or_quarantine(id)?.0)
    }

    /// As [`Self::find_stage`], with a message if this run's stage was damaged.
    pub fn find_or_quarantine(&self, id: &StageId) -> Result<(Option<StageDir>, Option<String>)> {
        let (stage, damage) = StageDir::open_checked(&self.stages(), id)?;
        if stage.is_some() {
            return Ok((stage, None));
        }
        let adopted = self.sibling_runs(id).map(|sibling| sibling.adopt(&self.stages(), id)).transpose()?;
        Ok((adopted, damage))
    }

    /// Reads a file of the run.
    pub fn read(&self, name: &'static str) -> Result<String> {
        let path = self.path.join(name);
        let bytes = read_bounded(&path, MAX_TEXT).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::NotARun { path: self.path.clone(), missing: name },
            _ => io("read", &path)(e),
        })?;
        String::from_utf8(bytes).map_err(|e| Error::Damaged { path, problem: e.to_string() })
    }
}
