//! A stage's folder: written under a temporary name with `done.json` last, then renamed.

use crate::checksum::{add_checksum, has_checksum};
use crate::error::{Error, Result};
use crate::files::{
    MAX_TEXT, create_folder, hash_and_sync, hash_file, io, is_stray, read_bounded, sync_folder, write_atomically,
};
use crate::process::ProcessId;
use crate::stage_id::StageId;
use crate::sweep::is_left_behind;
use duel_spec::FORMAT_VERSION;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// `done.json`, which completes a stage.
#[derive(Debug, Serialize, Deserialize)]
struct StageManifest {
    format: u32,
    kind: String,
    hash: String,
    /// The settings and inputs that were hashed; they explain why a stage is not reused.
    #[serde(default)]
    key: serde_json::Value,
    /// SHA-256 of every other file in the folder.
    files: BTreeMap<String, String>,
    /// SHA-256 of this file with an empty `sum`.
    #[serde(default)]
    sum: String,
}

impl StageManifest {
    /// As text, with its checksum.
    fn to_json(&self) -> String {
        add_checksum(&serde_json::to_string_pretty(self).expect("done.json is plain data"))
    }
}

/// Between the stage's name and the writer's tag in the name of an unfinished folder.
const UNFINISHED: &str = ".making-";

/// The error of a stage with a file that cannot be read.
fn read_error<'a>(stage: &'a Path, file: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |e| match e.kind() {
        // it is missing, or not a regular file
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidData => {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            Error::Damaged { path: stage.into(), problem: format!("{name}: {e}") }
        }
        _ => io("read", file)(e),
    }
}

/// A finished stage.
#[derive(Debug, Clone)]
pub struct StageDir(PathBuf);

impl StageDir {
    /// Opens a finished stage under `stages`; `None` if there is none. A damaged one is renamed to `<name>.damaged` and counts as
    /// missing.
    pub fn open(stages: &Path, id: &StageId) -> Result<Option<Self>> {
        Ok(Self::open_checked(stages, id)?.0)
    }

    /// As [`Self::open`], with a message if the stage was damaged.
    pub fn open_checked(stages: &Path, id: &StageId) -> Result<(Option<Self>, Option<String>)> {
        let path = stages.join(id.folder());
        match Self::check(&path, id, |_| true) {
            Ok(done) => Ok((done.map(|_| Self(path)), None)),
            Err(damage @ Error::Damaged { .. }) => {
                let aside = stages.join(format!("{}.damaged", id.folder()));
                let _ = std::fs::remove_dir_all(&aside);
                std::fs::rename(&path, &aside).map_err(io("rename", &path))?;
                Ok((None, Some(format!("{damage}; renamed to {}.damaged, and will be run again", id.folder()))))
            }
            Err(other) => Err(other),
        }
    }

    /// Whether the stage exists and every file has its hash; a damaged one is left as it is.
    pub fn is_whole(stages: &Path, id: &StageId) -> Result<bool> {
        match Self::find(stages, id) {
            Err(Error::Damaged { .. }) => Ok(false),
            other => Ok(other?.is_some()),
        }
    }

    /// As [`Self::open`], but a damaged stage is an error and is left in place.
    ///
    /// # Errors
    /// [`Error::Damaged`] where a file does not match its hash, or the folder contains another stage.
    pub fn find(stages: &Path, id: &StageId) -> Result<Option<Self>> {
        Self::find_with(stages, id, |_| true)
    }

    /// As [`Self::find`], checking only the stage's tables.
    pub(crate) fn find_tables(stages: &Path, id: &StageId) -> Result<Option<Self>> {
        Self::find_with(stages, id, |name| name.ends_with(".parquet"))
    }

    fn find_with(stages: &Path, id: &StageId, is_read: impl Fn(&str) -> bool) -> Result<Option<Self>> {
        let path = stages.join(id.folder());
        Ok(Self::check(&path, id, is_read)?.map(|_| Self(path)))
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
            // the name of a damaged or unfinished one has an extension
            let is_finished = |stage: &PathBuf| stage.extension().is_none() && stage.join("done.json").is_file();
            stages.extend(all.into_iter().filter(is_finished).map(Self));
        }
        Ok(stages)
    }

    /// Reads `done.json` and checks the hash of every file that `is_read`; `None` where there is no stage. Other files in the
    /// folder are ignored.
    ///
    /// # Errors
    /// [`Error::Damaged`] where a file is missing or changed; [`Error::Io`] where it cannot be read, and may be intact.
    fn check(path: &Path, id: &StageId, is_read: impl Fn(&str) -> bool) -> Result<Option<StageManifest>> {
        match std::fs::metadata(path) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(io("read", path)(e)),
        }
        let done = Self::read_done(path)?;
        if (&done.kind, &done.hash) != (&id.kind, &id.hash) {
            let problem = format!("done.json says that it contains the stage {}-{}", done.kind, done.hash);
            return Err(Error::Damaged { path: path.into(), problem });
        }
        for (name, expected) in done.files.iter().filter(|(name, _)| is_read(name)) {
            let file = path.join(name);
            let actual = hash_file(&file).map_err(read_error(path, &file))?;
            if actual != *expected {
                let problem = format!("{name} does not match its hash in done.json");
                return Err(Error::Damaged { path: path.into(), problem });
            }
        }
        Ok(Some(done))
    }

    /// Reads a stage's `done.json`.
    fn read_done(path: &Path) -> Result<StageManifest> {
        let file = path.join("done.json");
        let damaged = |problem: String| Error::Damaged { path: path.into(), problem };
        let text = read_bounded(&file, MAX_TEXT).map_err(read_error(path, &file))?;
        let text = String::from_utf8(text).map_err(|e| damaged(format!("done.json: {e}")))?;
        let done: StageManifest = serde_json::from_str(&text).map_err(|e| damaged(format!("done.json: {e}")))?;
        if done.format > FORMAT_VERSION {
            return Err(Error::Newer { path: path.into(), found: done.format, known: FORMAT_VERSION });
        }
        if !has_checksum(&text, &done.sum) {
            return Err(damaged("done.json does not match its own checksum".into()));
        }
        // a name with a path would lead outside the folder
        let is_path = |name: &&String| Path::new(name).file_name() != Some(name.as_str().as_ref());
        if let Some(name) = done.files.keys().find(is_path) {
            return Err(damaged(format!("done.json: `{name}` is not a file name")));
        }
        Ok(done)
    }

    /// Makes a stage: `fill` writes its files into a new folder of this process, which is renamed once all of it is on disk. Another
    /// process may make the same stage at the same time: the first one to finish is kept, and the folder of a killed one is
    /// removed later.
    pub fn make<E: From<Error>>(
        stages: &Path,
        id: &StageId,
        key: &serde_json::Value,
        fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> std::result::Result<Self, E> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = stages.join(id.folder());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}{UNFINISHED}", id.folder());
        let unfinished = stages.join(format!("{prefix}{}-{number}", ProcessId::here().tag()));
        for other in std::fs::read_dir(stages).map_err(io("list", stages))?.flatten().map(|entry| entry.path()) {
            if is_left_behind(&other, &prefix) {
                let _ = std::fs::remove_dir_all(other);
            }
        }
        create_folder(&unfinished)?;
        if let Err(failed) = fill(&unfinished) {
            let _ = std::fs::remove_dir_all(&unfinished);
            return Err(failed);
        }
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&unfinished).map_err(io("list", &unfinished))? {
            let entry = entry.map_err(io("list", &unfinished))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_stray(&name) || !entry.path().is_file() {
                continue; // not written by the stage
            }
            files.insert(name, hash_and_sync(&entry.path()).map_err(io("read", &entry.path()))?);
        }
        let (kind, hash) = (id.kind.clone(), id.hash.clone());
        let done = StageManifest { format: FORMAT_VERSION, kind, hash, key: key.clone(), files, sum: String::new() };
        write_atomically(&unfinished.join("done.json"), done.to_json().as_bytes())?; // also flushes the folder's entries
        if let Err(error) = std::fs::rename(&unfinished, &path) {
            let Some(other) = Self::open(stages, id)? else { return Err(io("rename to", &path)(error).into()) };
            std::fs::remove_dir_all(&unfinished).map_err(io("remove", &unfinished))?;
            return Ok(other);
        }
        sync_folder(stages)?;
        let _ = std::fs::remove_dir_all(stages.join(id.checkpoint_dir())); // no longer needed
        Ok(Self(path))
    }

    /// Copies a finished stage from another run, with hard links where possible.
    pub fn adopt(&self, stages: &Path, id: &StageId) -> Result<Self> {
        let done = Self::read_done(&self.0)?;
        Self::make(stages, id, &done.key, |to| {
            for name in done.files.keys() {
                let (from, target) = (self.0.join(name), to.join(name));
                std::fs::hard_link(&from, &target)
                    .or_else(|_| std::fs::copy(&from, &target).map(|_| ()))
                    .map_err(io("copy", &target))?;
            }
            Ok(())
        })
    }

    /// The settings and inputs in the stage's hash.
    pub fn key(&self) -> Result<serde_json::Value> {
        Ok(Self::read_done(&self.0)?.key)
    }

    /// The names of its files, without `done.json`.
    pub fn files(&self) -> Result<Vec<String>> {
        Ok(Self::read_done(&self.0)?.files.into_keys().collect())
    }

    /// The hashes of its files, without `done.json`.
    pub(crate) fn file_hashes(&self) -> Result<BTreeMap<String, String>> {
        Ok(Self::read_done(&self.0)?.files)
    }

    /// The stage in this folder, whether it exists or not.
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.into())
    }

    /// Whether a folder is an unfinished stage of a process that has ended.
    pub fn is_left_behind(folder: &Path) -> bool {
        is_left_behind(folder, UNFINISHED)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_killed_processes_are_removed_and_those_of_running_ones_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let id = StageId { kind: "sft".into(), hash: "0123".into() };
        let unfinished = |owner: &ProcessId| {
            let path = folder.path().join(format!("{}{UNFINISHED}{}-0", id.folder(), owner.tag()));
            std::fs::create_dir(&path).expect("made");
            path
        };
        let here = ProcessId::here();
        let (dead, alive) = (
            unfinished(&ProcessId { began: 1, ..here.clone() }),
            unfinished(&ProcessId { host: "elsewhere".into(), ..here }),
        );
        let fill = |to: &Path| write_atomically(&to.join("weights"), b"abc");
        StageDir::make(folder.path(), &id, &serde_json::Value::Null, fill).expect("made");
        assert!(!dead.exists() && alive.exists());
        // a failed one leaves nothing
        let _ = StageDir::make::<Error>(folder.path(), &id, &serde_json::Value::Null, |to| {
            Err(Error::NotARun { path: to.into(), missing: "anything" })
        });
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 2);
    }
}
