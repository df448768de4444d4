//! A stage's folder: made under a temporary name, renamed when whole, `done.json` written last.

use crate::files::{
    MOST_TEXT, create_folder, hash_and_sync, hash_file, io, is_stray, read_bounded, sync_folder, write_atomically,
};
use crate::owner::{ProcessId, is_left_behind};
use crate::{Error, Result};
use duel_spec::FORMAT_VERSION;
use duel_spec::ids::hash_bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Names a stage by its kind and content hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StageId {
    pub kind: String,
    pub hash: String,
}

impl StageId {
    /// The stage that a folder of this name is of.
    pub fn of_folder(name: &str) -> Option<Self> {
        let (kind, hash) = name.rsplit_once('-')?;
        Some(Self { kind: kind.into(), hash: hash.into() })
    }

    /// Name of its folder.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.kind, self.hash)
    }

    /// Name of the folder beside it where states of its trainings are kept while it is made.
    pub fn checkpoint_dir(&self) -> String {
        format!("{}.kept", self.folder())
    }
}

/// `done.json`: what makes a stage whole.
#[derive(Debug, Serialize, Deserialize)]
struct StageManifest {
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

impl StageManifest {
    /// As text, with the sum in its place.
    fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("done.json is plain data");
        text.replacen(NO_SUM, &with_checksum(&hash_bytes(text.as_bytes())), 1)
    }

    /// Whether the text that it was read from has its sum.
    fn is_of(&self, text: &str) -> bool {
        let unsummed = text.replacen(&with_checksum(&self.sum), NO_SUM, 1);
        hash_bytes(unsummed.as_bytes()) == self.sum
    }
}

/// What stands in a folder's name between its stage's and its maker's tag.
const MAKING: &str = ".making-";

/// What it says of a stage that one of its files cannot be read.
fn read_error<'a>(stage: &'a Path, file: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |e| match e.kind() {
        // it is not there, or is no file
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidData => {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            Error::Damaged { path: stage.into(), problem: format!("{name}: {e}") }
        }
        _ => io("read", file)(e),
    }
}

const NO_SUM: &str = "\"sum\": \"\"";

fn with_checksum(sum: &str) -> String {
    format!("\"sum\": \"{sum}\"")
}

/// A finished stage.
#[derive(Debug, Clone)]
pub struct StageDir(PathBuf);

impl StageDir {
    /// Opens a finished stage under `stages`; `None` if it is not there. A damaged one is set aside as
    /// `<name>.damaged` and counts as not there.
    pub fn open(stages: &Path, id: &StageId) -> Result<Option<Self>> {
        Ok(Self::open_checked(stages, id)?.0)
    }

    /// As [`Self::open`], and what was found damaged, in words.
    pub fn open_checked(stages: &Path, id: &StageId) -> Result<(Option<Self>, Option<String>)> {
        let path = stages.join(id.folder());
        match Self::check(&path, id, |_| true) {
            Ok(done) => Ok((done.map(|_| Self(path)), None)),
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
        match Self::find(stages, id) {
            Err(Error::Damaged { .. }) => Ok(false),
            other => Ok(other?.is_some()),
        }
    }

    /// As [`Self::open`], for whoever reads: nothing is moved.
    ///
    /// # Errors
    /// [`Error::Damaged`] where a file does not have its hash, or the folder holds another stage.
    pub fn find(stages: &Path, id: &StageId) -> Result<Option<Self>> {
        Self::find_with(stages, id, |_| true)
    }

    /// As [`Self::find`], for whoever reads the stage's tables and nothing else.
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
            // one that was set aside, or is being made, has more to its name
            let is_finished = |stage: &PathBuf| stage.extension().is_none() && stage.join("done.json").is_file();
            stages.extend(all.into_iter().filter(is_finished).map(Self));
        }
        Ok(stages)
    }

    /// What makes the stage whole, with every file that `is_read` as it says; `None` where there is no stage. Whatever else lies in the
    /// folder is nobody's, and harms nobody.
    ///
    /// # Errors
    /// [`Error::Damaged`] where something is missing or other than it was written; [`Error::Io`] where it cannot be read, which
    /// says nothing against it.
    fn check(path: &Path, id: &StageId, is_read: impl Fn(&str) -> bool) -> Result<Option<StageManifest>> {
        match std::fs::metadata(path) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(io("read", path)(e)),
        }
        let done = Self::read_done(path)?;
        if (&done.kind, &done.hash) != (&id.kind, &id.hash) {
            let problem = format!("done.json says that it holds the stage {}-{}", done.kind, done.hash);
            return Err(Error::Damaged { path: path.into(), problem });
        }
        for (name, expected) in done.files.iter().filter(|(name, _)| is_read(name)) {
            let file = path.join(name);
            let found = hash_file(&file).map_err(read_error(path, &file))?;
            if found != *expected {
                let problem = format!("{name} does not have the hash that done.json gives");
                return Err(Error::Damaged { path: path.into(), problem });
            }
        }
        Ok(Some(done))
    }

    /// Reads a stage's `done.json`.
    fn read_done(path: &Path) -> Result<StageManifest> {
        let file = path.join("done.json");
        let damaged = |problem: String| Error::Damaged { path: path.into(), problem };
        let text = read_bounded(&file, MOST_TEXT).map_err(read_error(path, &file))?;
        let text = String::from_utf8(text).map_err(|e| damaged(format!("done.json: {e}")))?;
        let done: StageManifest = serde_json::from_str(&text).map_err(|e| damaged(format!("done.json: {e}")))?;
        if done.format > FORMAT_VERSION {
            return Err(Error::Newer { path: path.into(), found: done.format, known: FORMAT_VERSION });
        }
        if !done.is_of(&text) {
            return Err(damaged("done.json does not have the hash that it gives itself".into()));
        }
        // a name that leads elsewhere is no file of the stage
        let leads_elsewhere = |name: &&String| Path::new(name).file_name() != Some(name.as_str().as_ref());
        if let Some(name) = done.files.keys().find(leads_elsewhere) {
            return Err(damaged(format!("done.json: `{name}` is no file's name")));
        }
        Ok(done)
    }

    /// Makes a stage: `fill` writes its files into a fresh folder of this process, which then takes its place once all of it is
    /// on disk. A worker that outlives its killed run for a moment is not in the way: what it leaves is swept up once it is
    /// gone, and if it was faster, its stage is as good.
    pub fn make<E: From<Error>>(
        stages: &Path,
        id: &StageId,
        key: &serde_json::Value,
        fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> std::result::Result<Self, E> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let path = stages.join(id.folder());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mark = format!("{}{MAKING}", id.folder());
        let making = stages.join(format!("{mark}{}-{number}", ProcessId::here().tag()));
        for left in std::fs::read_dir(stages).map_err(io("list", stages))?.flatten().map(|left| left.path()) {
            if is_left_behind(&left, &mark) {
                let _ = std::fs::remove_dir_all(left);
            }
        }
        create_folder(&making)?;
        if let Err(failed) = fill(&making) {
            let _ = std::fs::remove_dir_all(&making);
            return Err(failed);
        }
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(&making).map_err(io("list", &making))? {
            let entry = entry.map_err(io("list", &making))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_stray(&name) || !entry.path().is_file() {
                continue; // not of the stage's making
            }
            files.insert(name, hash_and_sync(&entry.path()).map_err(io("read", &entry.path()))?);
        }
        let (kind, hash) = (id.kind.clone(), id.hash.clone());
        let done = StageManifest { format: FORMAT_VERSION, kind, hash, key: key.clone(), files, sum: String::new() };
        write_atomically(&making.join("done.json"), done.to_json().as_bytes())?; // flushes the folder's entries, too
        if let Err(taken) = std::fs::rename(&making, &path) {
            let Some(other) = Self::open(stages, id)? else { return Err(io("put in place", &path)(taken).into()) };
            std::fs::remove_dir_all(&making).map_err(io("clear", &making))?;
            return Ok(other);
        }
        sync_folder(stages)?;
        let _ = std::fs::remove_dir_all(stages.join(id.checkpoint_dir())); // of no more use
        Ok(Self(path))
    }

    /// Takes over a finished stage of another run by hard links (copies where links are refused).
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

    /// What the stage's hash is of.
    pub fn key(&self) -> Result<serde_json::Value> {
        Ok(Self::read_done(&self.0)?.key)
    }

    /// Names of its files, `done.json` left out.
    pub fn files(&self) -> Result<Vec<String>> {
        Ok(Self::read_done(&self.0)?.files.into_keys().collect())
    }

    /// The stage of this folder, whether it is there or not.
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.into())
    }

    /// Whether a folder was begun as a stage by somebody who will not finish it.
    pub fn is_left_behind(folder: &Path) -> bool {
        is_left_behind(folder, MAKING)
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
    fn what_a_killed_maker_left_is_swept_and_what_a_living_one_makes_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let id = StageId { kind: "sft".into(), hash: "0123".into() };
        let left = |owner: &ProcessId| {
            let path = folder.path().join(format!("{}{MAKING}{}-0", id.folder(), owner.tag()));
            std::fs::create_dir(&path).expect("made");
            path
        };
        let here = ProcessId::here();
        let (dead, alive) =
            (left(&ProcessId { began: 1, ..here.clone() }), left(&ProcessId { host: "elsewhere".into(), ..here }));
        let fill = |to: &Path| write_atomically(&to.join("weights"), b"abc");
        StageDir::make(folder.path(), &id, &serde_json::Value::Null, fill).expect("made");
        assert!(!dead.exists() && alive.exists());
        // one that fails leaves nothing
        let _ = StageDir::make::<Error>(folder.path(), &id, &serde_json::Value::Null, |to| {
            Err(Error::NotARun { path: to.into(), missing: "anything" })
        });
        assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 2);
    }
}
