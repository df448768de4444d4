//! A stage's folder: made under a temporary name, renamed when whole, `done.json` written last.

use crate::files::{create_folder, io, sync_folder, write_atomically};
use crate::{Error, Result};
use duel_spec::FORMAT_VERSION;
use duel_spec::ids::hash_bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Names a stage by its kind and content hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StageId {
    pub kind: String,
    pub hash: String,
}

impl StageId {
    /// Name of its folder.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.kind, self.hash)
    }

    /// Name of the folder beside it where states of its trainings are kept while it is made.
    pub fn kept(&self) -> String {
        format!("{}.kept", self.folder())
    }
}

/// `done.json`: what makes a stage whole.
#[derive(Debug, Serialize, Deserialize)]
struct Done {
    format: u32,
    kind: String,
    hash: String,
    /// What the hash is of: what is held against it when a stage is not reused.
    #[serde(default)]
    key: serde_json::Value,
    /// sha256 of every other file of the folder.
    files: BTreeMap<String, String>,
    /// sha256 of all of this, itself left empty.
    #[serde(default)]
    sum: String,
}

impl Done {
    /// As text, with the sum in its place.
    fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("done.json is plain data");
        text.replacen(NO_SUM, &with_sum(&hash_bytes(text.as_bytes())), 1)
    }

    /// Whether the text that it was read from has its sum.
    fn is_of(&self, text: &str) -> bool {
        let unsummed = text.replacen(&with_sum(&self.sum), NO_SUM, 1);
        hash_bytes(unsummed.as_bytes()) == self.sum
    }
}

const NO_SUM: &str = "\"sum\": \"\"";

fn with_sum(sum: &str) -> String {
    format!("\"sum\": \"{sum}\"")
}

/// A finished stage.
#[derive(Debug, Clone)]
pub struct StageDir(PathBuf);

impl StageDir {
    /// Opens a finished stage under `stages`; `None` if it is not there. A damaged one is set aside as
    /// `<name>.damaged` and counts as not there.
    pub fn open(stages: &Path, id: &StageId) -> Result<Option<Self>> {
        Ok(Self::sift(stages, id)?.0)
    }

    /// As [`Self::open`], and what was found damaged, in words.
    pub fn sift(stages: &Path, id: &StageId) -> Result<(Option<Self>, Option<String>)> {
        let path = stages.join(id.folder());
        match Self::check(&path) {
            Ok(true) => Ok((Some(Self(path)), None)),
            Ok(false) => Ok((None, None)),
            Err(damage @ Error::Damaged { .. }) => {
                let aside = stages.join(format!("{}.damaged", id.folder()));
                let _ = std::fs::remove_dir_all(&aside);
                std::fs::rename(&path, &aside).map_err(io("set aside", &path))?;
                Ok((None, Some(format!("{damage}; set aside as {}.damaged, and made anew", id.folder()))))
            }
            Err(other) => Err(other),
        }
    }

    /// Whether the stage is there and every file has its hash; a damaged one is left as it is.
    pub fn is_whole(stages: &Path, id: &StageId) -> Result<bool> {
        match Self::check(&stages.join(id.folder())) {
            Err(Error::Damaged { .. }) => Ok(false),
            other => other,
        }
    }

    /// Every stage of the runs in `out` that has a `done.json`; its files are not read.
    pub fn all(out: &Path) -> Result<Vec<Self>> {
        let folders = |path: &Path| -> Result<Vec<PathBuf>> {
            let Ok(entries) = std::fs::read_dir(path) else { return Ok(vec![]) };
            let mut paths = entries.map(|e| Ok(e.map_err(io("list", path))?.path())).collect::<Result<Vec<_>>>()?;
            paths.sort();
            Ok(paths)
        };
        let mut stages = vec![];
        for run in folders(out)? {
            let all = folders(&run.join("stages"))?;
            stages.extend(all.into_iter().filter(|stage| stage.join("done.json").is_file()).map(Self));
        }
        Ok(stages)
    }

    fn check(path: &Path) -> Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        let done = path.join("done.json");
        let damaged = |problem: String| Error::Damaged { path: path.into(), problem };
        let text = std::fs::read_to_string(&done).map_err(|e| damaged(format!("done.json: {e}")))?;
        let done: Done = serde_json::from_str(&text).map_err(|e| damaged(format!("done.json: {e}")))?;
        if done.format > FORMAT_VERSION {
            return Err(Error::Newer { path: path.into(), found: done.format, known: FORMAT_VERSION });
        }
        if !done.is_of(&text) {
            return Err(damaged("done.json does not have the hash that it gives itself".into()));
        }
        for (name, expected) in &done.files {
            let bytes = std::fs::read(path.join(name)).map_err(|e| damaged(format!("{name}: {e}")))?;
            if hash_bytes(&bytes) != *expected {
                return Err(damaged(format!("{name} does not have the hash that done.json gives")));
            }
        }
        Ok(true)
    }

    /// Makes a stage: `fill` writes its files into a fresh folder of this process, which then takes its place. A worker
    /// that outlives its killed run for a moment is not in the way: what it leaves is swept up, and if it was faster, its
    /// stage is as good.
    pub fn make<E: From<Error>>(
        stages: &Path,
        id: &StageId,
        key: &serde_json::Value,
        fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> std::result::Result<Self, E> {
        let path = stages.join(id.folder());
        let making = stages.join(format!("{}.making-{}", id.folder(), std::process::id()));
        for left in std::fs::read_dir(stages).map_err(io("list", stages))?.flatten() {
            if left.file_name().to_string_lossy().starts_with(&format!("{}.making", id.folder())) {
                let _ = std::fs::remove_dir_all(left.path()); // its maker may be writing to it still
            }
        }
        create_folder(&making)?;
        fill(&making)?;
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&making).map_err(io("list", &making))? {
            let entry = entry.map_err(io("list", &making))?;
            let bytes = std::fs::read(entry.path()).map_err(io("read", &entry.path()))?;
            files.insert(entry.file_name().to_string_lossy().into_owned(), hash_bytes(&bytes));
        }
        let (kind, hash) = (id.kind.clone(), id.hash.clone());
        let done = Done { format: FORMAT_VERSION, kind, hash, key: key.clone(), files, sum: String::new() };
        write_atomically(&making.join("done.json"), done.to_json().as_bytes())?;
        if let Err(taken) = std::fs::rename(&making, &path) {
            let Some(other) = Self::open(stages, id)? else { return Err(io("put in place", &path)(taken).into()) };
            std::fs::remove_dir_all(&making).map_err(io("clear", &making))?;
            return Ok(other);
        }
        sync_folder(stages)?;
        let _ = std::fs::remove_dir_all(stages.join(id.kept())); // of no more use
        Ok(Self(path))
    }

    /// Takes over a finished stage of another run by hard links (copies where links are refused).
    pub fn adopt(&self, stages: &Path, id: &StageId) -> Result<Self> {
        Self::make(stages, id, &self.key()?, |to| {
            for entry in std::fs::read_dir(&self.0).map_err(io("list", &self.0))? {
                let from = entry.map_err(io("list", &self.0))?.path();
                let Some(name) = from.file_name().filter(|n| *n != "done.json") else { continue };
                let target = to.join(name);
                std::fs::hard_link(&from, &target)
                    .or_else(|_| std::fs::copy(&from, &target).map(|_| ()))
                    .map_err(io("copy", &target))?;
            }
            Ok(())
        })
    }

    /// What the stage's hash is of.
    pub fn key(&self) -> Result<serde_json::Value> {
        let path = self.0.join("done.json");
        let text = std::fs::read_to_string(&path).map_err(io("read", &path))?;
        let done: Done = serde_json::from_str(&text)
            .map_err(|e| Error::Damaged { path: self.0.clone(), problem: format!("done.json: {e}") })?;
        Ok(done.key)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file of the stage.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}
