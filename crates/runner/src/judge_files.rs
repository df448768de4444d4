//! The files that decide what the judge answers: they are part of the key of each stage that it scores.

use crate::error::{Error, Result};
use crate::sources;
use duel_ledger::Manifest;
use duel_spec::ids::hash_bytes;
use duel_spec::{Experiment, JudgeKind, WorldKind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Before the name of each file of the judge, among a manifest's inputs.
const JUDGE: &str = "judge ";
/// The most files of a folder that the command names, and the most bytes that they hold together.
const MAX_FILES: usize = 10_000;
const MAX_BYTES: u64 = 64 << 30;

/// The hashes of the program that judges and of the files and folders among its arguments, by their names there, or of the model
/// that judges; empty where neither does. A word of an argument counts as well: `sh -c "./judge.py --strict"`, `--weights=w.bin`.
/// Anything else is left to `judge.version`.
///
/// # Errors
/// A file that cannot be read; a folder of too many files or bytes.
pub fn judge_files(experiment: &Experiment) -> Result<BTreeMap<String, String>> {
    let judge = &experiment.judge;
    if judge.kind == JudgeKind::Model {
        return Ok(BTreeMap::from([(
            judge.model.clone(),
            duel_model::hash_of_files(&sources::model(Path::new(&judge.model))?)?,
        )]));
    }
    if experiment.world.kind == WorldKind::Grammar || judge.kind != JudgeKind::Command {
        return Ok(BTreeMap::new());
    }
    let words = |argument: &String| -> Vec<String> {
        let parts = argument.split(|c: char| c.is_whitespace() || "='\"".contains(c)).filter(|part| !part.is_empty());
        std::iter::once(argument.clone()).chain(parts.map(String::from)).collect()
    };
    let program = judge.command.first().and_then(|name| Some((name.clone(), program(name)?)));
    let named = judge.command.iter().flat_map(words).map(|word| (word.clone(), PathBuf::from(word)));
    let existing = program.into_iter().chain(named.filter(|(_, path)| path.is_file() || path.is_dir()));
    let hash = |path: &Path| {
        if path.is_dir() { FolderHasher::default().hash(path) } else { Ok(duel_data::records::hash(path)?) }
    };
    existing.map(|(name, path)| Ok((name, hash(&path)?))).collect()
}

/// The file of a program: itself, or in the folders of `PATH`.
fn program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// Hashes the files of a folder and of those in it, by their names within it. Left out are hidden files and what Python compiles,
/// which change without a change of the judge.
#[derive(Default)]
struct FolderHasher {
    /// The hash of each file.
    files: BTreeMap<PathBuf, String>,
    bytes: u64,
    /// Folders that were read, without links.
    seen: BTreeSet<PathBuf>,
}

impl FolderHasher {
    fn hash(mut self, folder: &Path) -> Result<String> {
        self.add(folder, folder)?;
        let lines = self.files.iter().map(|(name, hash)| format!("{}\0{hash}\n", name.display()));
        Ok(hash_bytes(lines.collect::<String>().as_bytes()))
    }

    fn add(&mut self, root: &Path, folder: &Path) -> Result<()> {
        let io = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::Io { action, path, source }
        };
        if !self.seen.insert(folder.canonicalize().map_err(io("read", folder))?) {
            return Ok(()); // a link to it leads here again
        }
        for entry in std::fs::read_dir(folder).map_err(io("list", folder))? {
            let path = entry.map_err(io("list", folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || name == "__pycache__" {
                continue;
            }
            if path.is_dir() {
                self.add(root, &path)?;
            } else if path.is_file() {
                self.bytes += path.metadata().map_err(io("read", &path))?.len();
                if self.files.len() >= MAX_FILES || self.bytes > MAX_BYTES {
                    return Err(Error::JudgeFolder { path: root.into(), files: MAX_FILES, gib: MAX_BYTES >> 30 });
                }
                let name = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
                self.files.insert(name, duel_data::records::hash(&path)?);
            }
        }
        Ok(())
    }
}

/// A manifest's inputs for the judge's files.
pub fn judge_inputs(files: &BTreeMap<String, String>) -> impl Iterator<Item = (String, String)> {
    files.iter().map(|(name, hash)| (format!("{JUDGE}{name}"), hash.clone()))
}

/// The judge's files as a manifest recorded them.
pub fn recorded_judge(manifest: &Manifest) -> BTreeMap<String, String> {
    let files = manifest.inputs.iter().filter_map(|(name, hash)| Some((name.strip_prefix(JUDGE)?, hash)));
    files.map(|(name, hash)| (name.to_string(), hash.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_searched_in_the_path() {
        assert!(program("sh").is_some_and(|path| path.is_absolute()) && program("no-such-program").is_none());
    }

    #[test]
    fn a_folder_is_hashed_by_the_names_and_bytes_of_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        let hash = || FolderHasher::default().hash(folder.path()).expect("hashed");
        write("config.json", "{}");
        write("weights/a.bin", "1");
        let before = hash();
        let changes: [(&str, &dyn Fn()); 4] = [
            ("another byte", &|| write("weights/a.bin", "2")),
            ("another file", &|| write("weights/b.bin", "")),
            ("another name", &|| {
                let [from, to] = ["weights/b.bin", "weights/c.bin"].map(|name| folder.path().join(name));
                std::fs::rename(from, to).expect("renamed");
            }),
            ("another folder", &|| {
                let [from, to] = ["weights/c.bin", "c.bin"].map(|name| folder.path().join(name));
                std::fs::rename(from, to).expect("renamed");
            }),
        ];
        let mut last = before.clone();
        for (what, change) in changes {
            change();
            assert_ne!(hash(), last, "{what}");
            last = hash();
        }
        std::fs::remove_file(folder.path().join("c.bin")).expect("removed");
        write("weights/a.bin", "1");
        assert_eq!(hash(), before);
        for name in [".git/HEAD", "__pycache__/judge.pyc", "weights/.DS_Store"] {
            write(name, "x");
            assert_eq!(hash(), before, "{name}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("..", folder.path().join("weights/up")).expect("linked");
            assert_eq!(hash(), before, "a link to a folder that was read");
            std::os::unix::fs::symlink("a.bin", folder.path().join("weights/link.bin")).expect("linked");
            assert_ne!(hash(), before, "a link to a file is read as one");
        }
    }

    #[test]
    fn a_folder_of_too_many_files_or_bytes_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = || FolderHasher::default().hash(folder.path()).expect_err("too much").to_string();
        // sparse: it is refused before it is read
        let file = std::fs::File::create(folder.path().join("large")).expect("made");
        file.set_len(MAX_BYTES + 1).expect("a sparse file");
        assert!(refused().contains(&folder.path().display().to_string()), "{}", refused());
        std::fs::remove_file(folder.path().join("large")).expect("removed");
        (0..=MAX_FILES).for_each(|i| drop(std::fs::File::create(folder.path().join(i.to_string())).expect("made")));
        assert!(refused().contains("more than 10000 files or 64 GiB"), "{}", refused());
    }
}
