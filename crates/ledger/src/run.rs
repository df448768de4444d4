//! The run directory as a whole.

use crate::files::{create_folder, io};
use crate::{Error, Manifest, Result, StageDir, StageId};
use std::path::{Path, PathBuf};

/// `<out>/<name>`.
#[derive(Debug, Clone)]
pub struct RunDir {
    path: PathBuf,
    out: PathBuf,
}

impl RunDir {
    /// Creates (or enters) the directory of a run.
    pub fn create(out: &Path, name: &str) -> Result<Self> {
        let run = Self { path: out.join(name), out: out.into() };
        create_folder(&run.stages())?;
        Ok(run)
    }

    /// Enters the directory of a run that has results.
    pub fn open(path: &Path) -> Result<Self> {
        Manifest::read(path)?;
        let out = path.parent().unwrap_or(Path::new(".")).into();
        Ok(Self { path: path.into(), out })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its stages stand.
    pub fn stages(&self) -> PathBuf {
        self.path.join("stages")
    }

    /// A finished stage of this run, or one of any run beside it, adopted.
    pub fn find_stage(&self, id: &StageId) -> Result<Option<StageDir>> {
        if let Some(own) = StageDir::open(&self.stages(), id)? {
            return Ok(Some(own));
        }
        let Ok(beside) = std::fs::read_dir(&self.out) else { return Ok(None) };
        for entry in beside {
            let stages = entry.map_err(io("list", &self.out))?.path().join("stages");
            if stages == self.stages() || !stages.join(id.folder()).join("done.json").is_file() {
                continue;
            }
            if let Ok(Some(theirs)) = StageDir::open(&stages, id) {
                return theirs.adopt(&self.stages(), id).map(Some);
            }
        }
        Ok(None)
    }

    /// Reads a file of the run.
    pub fn read(&self, name: &'static str) -> Result<String> {
        std::fs::read_to_string(self.path.join(name))
            .map_err(|_| Error::NotARun { path: self.path.clone(), missing: name })
    }
}
