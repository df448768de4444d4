//! The files that decide what the judges answer: they are part of the key of each stage in which these do.

use crate::error::{Error, Result};
use crate::sources;
use duel_ledger::Manifest;
use duel_spec::ids::hash_bytes;
use duel_spec::{Experiment, JudgeKind, WorldKind};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Before the name of each file of the judge, and of the judge of pairs, among a manifest's inputs.
const JUDGE: &str = "judge ";
const PAIRWISE: &str = "pairwise judge ";
/// The most files of a folder that the command names, and the most bytes that they hold together.
const MAX_FILES: usize = 10_000;
const MAX_BYTES: u64 = 64 << 30;

/// The hashes of the files of both judges, by their names in the experiment; empty for one that is neither program nor model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JudgeFiles {
    /// Of the judge that gives the gold reward.
    pub gold: BTreeMap<String, String>,
    /// Of the judge of pairs.
    pub pairwise: BTreeMap<String, String>,
}

/// The files of an experiment's judges, as they are now.
///
/// # Errors
/// A file that cannot be read; a folder of too many files or bytes.
pub fn judge_files(experiment: &Experiment) -> Result<JudgeFiles> {
    let settings = &experiment.evaluation.pairwise;
    let pairwise = match settings.is_model() {
        true => model_files(&settings.model)?,
        false => command_files(&settings.command, "evaluation.pairwise.command")?,
    };
    Ok(JudgeFiles { gold: gold_files(experiment)?, pairwise })
}

/// The hash of a model's files, by its name.
fn model_files(model: &str) -> Result<BTreeMap<String, String>> {
    let hash = duel_model::hash_of_files(&sources::model(Path::new(model))?)?;
    Ok(BTreeMap::from([(model.to_owned(), hash)]))
}

/// The files of the program or of the model that gives the gold reward.
fn gold_files(experiment: &Experiment) -> Result<BTreeMap<String, String>> {
    let judge = &experiment.judge;
    if judge.kind == JudgeKind::Model {
        return model_files(&judge.model);
    }
    if experiment.world.kind == WorldKind::Grammar || judge.kind != JudgeKind::Command {
        return Ok(BTreeMap::new());
    }
    command_files(&judge.command, "judge.command")
}

/// The hashes of a program and of the files and folders among its arguments, by their names there. A word of an argument counts as
/// well: `sh -c "./judge.py --strict"`, `--weights=w.bin`. Anything else is left to the judge's `version`.
fn command_files(command: &[String], key: &'static str) -> Result<BTreeMap<String, String>> {
    let words = |argument: &String| -> Vec<String> {
        let parts = argument.split(|c: char| c.is_whitespace() || "='\"".contains(c)).filter(|part| !part.is_empty());
        std::iter::once(argument.clone()).chain(parts.map(String::from)).collect()
    };
    let program = command.first().and_then(|name| Some((name.clone(), program(name)?)));
    let named = command.iter().flat_map(words).map(|word| (word.clone(), PathBuf::from(word)));
    let existing = program.into_iter().chain(named.filter(|(_, path)| path.is_file() || path.is_dir()));
    let hash = |path: &Path| {
        if path.is_dir() { FolderHasher::new(key).hash(path) } else { Ok(duel_data::records::hash(path)?) }
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
struct FolderHasher {
    /// The setting that names the folder.
    key: &'static str,
    /// The hash of each file.
    files: BTreeMap<PathBuf, String>,
    bytes: u64,
    /// Folders that were read, without links.
    seen: BTreeSet<PathBuf>,
}

impl FolderHasher {
    fn new(key: &'static str) -> Self {
        Self { key, files: BTreeMap::new(), bytes: 0, seen: BTreeSet::new() }
    }

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
                    return Err(Error::JudgeFolder {
                        key: self.key,
                        path: root.into(),
                        files: MAX_FILES,
                        gib: MAX_BYTES >> 30,
                    });
                }
                let name = path.strip_prefix(root).unwrap_or(&path).to_path_buf();
                self.files.insert(name, duel_data::records::hash(&path)?);
            }
        }
        Ok(())
    }
}

/// A manifest's inputs for the judges' files.
pub fn judge_inputs(files: &JudgeFiles) -> impl Iterator<Item = (String, String)> {
    let inputs = [(JUDGE, &files.gold), (PAIRWISE, &files.pairwise)].into_iter();
    inputs.flat_map(|(prefix, files)| files.iter().map(move |(name, hash)| (format!("{prefix}{name}"), hash.clone())))
}

/// The judges' files as a manifest recorded them.
pub fn recorded_judges(manifest: &Manifest) -> JudgeFiles {
    let recorded = |prefix: &str| {
        let files = manifest.inputs.iter().filter_map(|(name, hash)| Some((name.strip_prefix(prefix)?, hash)));
        files.map(|(name, hash)| (name.to_string(), hash.clone())).collect()
    };
    JudgeFiles { gold: recorded(JUDGE), pairwise: recorded(PAIRWISE) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_searched_in_the_path() {
        assert!(program("sh").is_some_and(|path| path.is_absolute()) && program("no-such-program").is_none());
    }

    /// A manifest keeps the files of both judges apart, whatever their names.
    #[test]
    fn a_manifest_gives_back_what_it_recorded() {
        let files = |name: &str, hash: &str| BTreeMap::from([(name.to_string(), hash.to_string())]);
        let both = JudgeFiles { gold: files("judge.py", "1"), pairwise: files("judge judge.py", "2") };
        let manifest = Manifest { inputs: judge_inputs(&both).collect(), ..Manifest::default() };
        assert_eq!(manifest.inputs.len(), 2);
        assert_eq!(recorded_judges(&manifest), both);
    }

    #[test]
    fn a_folder_is_hashed_by_the_names_and_bytes_of_its_files() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        let hash = || FolderHasher::new("judge.command").hash(folder.path()).expect("hashed");
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
        let refused = || FolderHasher::new("judge.command").hash(folder.path()).expect_err("too much").to_string();
        // sparse: it is refused before it is read
        let file = std::fs::File::create(folder.path().join("large")).expect("made");
        file.set_len(MAX_BYTES + 1).expect("a sparse file");
        assert!(refused().contains(&folder.path().display().to_string()), "{}", refused());
        std::fs::remove_file(folder.path().join("large")).expect("removed");
        (0..=MAX_FILES).for_each(|i| drop(std::fs::File::create(folder.path().join(i.to_string())).expect("made")));
        assert!(refused().contains("more than 10000 files or 64 GiB"), "{}", refused());
    }
}
