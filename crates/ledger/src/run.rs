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
        let run = Self::at(out, name);
        create_folder(&run.stages())?;
        Ok(run)
    }

    /// The directory of a run, whether it is there or not; nothing is made.
    pub fn at(out: &Path, name: &str) -> Self {
        Self { path: out.join(name), out: out.into() }
    }

    /// Whether a finished and whole stage of this name is in this run or in one beside it. Nothing is moved.
    pub fn has_stage(&self, id: &StageId) -> Result<bool> {
        if StageDir::is_whole(&self.stages(), id)? {
            return Ok(true);
        }
        for stages in self.beside()? {
            if StageDir::is_whole(&stages, id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where the stages of the runs beside this one stand.
    fn beside(&self) -> Result<Vec<PathBuf>> {
        let Ok(beside) = std::fs::read_dir(&self.out) else { return Ok(vec![]) };
        let all = beside.map(|entry| Ok(entry.map_err(io("list", &self.out))?.path().join("stages")));
        Ok(all.collect::<Result<Vec<_>>>()?.into_iter().filter(|stages| *stages != self.stages()).collect())
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
        Ok(self.sift_stage(id)?.0)
    }

    /// As [`Self::find_stage`], and what of this run was found damaged and set aside, in words.
    pub fn sift_stage(&self, id: &StageId) -> Result<(Option<StageDir>, Option<String>)> {
        let (own, damage) = StageDir::sift(&self.stages(), id)?;
        if own.is_some() {
            return Ok((own, None));
        }
        for stages in self.beside()? {
            if !stages.join(id.folder()).join("done.json").is_file() {
                continue;
            }
            if let Ok(Some(theirs)) = StageDir::open(&stages, id) {
                return Ok((Some(theirs.adopt(&self.stages(), id)?), damage));
            }
        }
        Ok((None, damage))
    }

    /// Reads a file of the run.
    pub fn read(&self, name: &'static str) -> Result<String> {
        std::fs::read_to_string(self.path.join(name))
            .map_err(|_| Error::NotARun { path: self.path.clone(), missing: name })
    }
}
