//! Where `duel export` and `duel import` write a model: it is made beside its place, synced and renamed when it is whole (`duel merge`
//! writes a run so too). Nothing is replaced but an earlier export, and that only when asked.

use crate::error::{Error, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Component, Path, PathBuf};

/// A file in every written directory that names its files, and so marks what may be replaced.
const MARK: &str = "duel-export.txt";
const MARK_TITLE: &str =
    "Written by `duel`, which replaces it as a whole when asked to (--force). It holds these files:";
/// Bytes of such a file that are read at most.
const MOST_MARK: u64 = 1 << 16;

/// Hints where something is there already: an earlier export, or anything else.
const REPLACEABLE: &str = "--force replaces this earlier export as a whole";
const NOT_REPLACED: &str =
    "give --to another place, or empty this one yourself: --force replaces nothing but what `duel` has exported";

/// A place for a model that may be written to.
#[derive(Debug)]
pub(crate) struct ModelTarget {
    to: PathBuf,
    is_file: bool,
    state: TargetState,
}

/// What exists there now.
#[derive(Debug, PartialEq, Eq)]
enum TargetState {
    Nothing,
    EmptyFolder,
    EarlierExport,
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}

impl ModelTarget {
    /// A directory, or a file where the name ends in `.gguf`, that is apart from all that the model is read from.
    ///
    /// # Errors
    /// [`Error::OntoModel`]; [`Error::Occupied`] where something is there that may not be replaced.
    pub(crate) fn new(to: &Path, from: &[&Path], force: bool) -> Result<Self> {
        let (requested, to) = (to, resolved(to)?);
        let is_file = is_gguf(&to);
        for from in from {
            for source in source_dirs(from) {
                if is_within(&to, &source) || is_within(&source, &to) {
                    return Err(Error::OntoModel { to: requested.into(), from: (*from).into() });
                }
            }
        }
        let occupied = |problem: String, hint| Err(Error::Occupied { path: requested.into(), problem, hint });
        let state = match std::fs::metadata(&to) {
            Err(e) if e.kind() == ErrorKind::NotFound => TargetState::Nothing,
            Err(e) => return Err(io("look at", &to)(e)),
            Ok(metadata) if is_file => match metadata.is_file() {
                true if !duel_model::gguf::is_ours(&to) => {
                    return occupied("is a file that Duel did not write".into(), NOT_REPLACED);
                }
                true if !force => return occupied("is there already".into(), REPLACEABLE),
                true => TargetState::EarlierExport,
                false => return occupied("is not a file".into(), NOT_REPLACED),
            },
            Ok(metadata) if !metadata.is_dir() => return occupied("is not a directory".into(), NOT_REPLACED),
            Ok(_) => match foreign_entry(&to)? {
                None if is_empty(&to)? => TargetState::EmptyFolder,
                None if force => TargetState::EarlierExport,
                None => return occupied("is not empty".into(), REPLACEABLE),
                Some(stranger) => {
                    return occupied(
                        format!("contains `{stranger}`, which an earlier export did not write"),
                        NOT_REPLACED,
                    );
                }
            },
        };
        Ok(Self { to, is_file, state })
    }

    /// Has the model written to a path beside the place, and puts it there when it is whole.
    ///
    /// # Errors
    /// Those of `write`, after which the place is as it was.
    pub(crate) fn write(self, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let is_replaced = self.state == TargetState::EarlierExport;
        let placement = match (is_replaced, self.is_file, &self.state) {
            (false, _, TargetState::Nothing) => Placement::New,
            (true, false, _) => Placement::Exchange,
            _ => Placement::Over,
        };
        make_beside(&self.to, placement, |staged| {
            if !self.is_file {
                std::fs::create_dir(staged).map_err(io("create", staged))?;
            }
            write(staged).map_err(|error| self.with_target_path(error))?;
            if !self.is_file {
                write_marker(staged)?;
                sync(staged)?;
            }
            Ok(())
        })
    }

    /// An error of the writing names the place rather than what lies beside it.
    fn with_target_path(&self, mut error: Error) -> Error {
        if let Error::Model(duel_model::Error::Unsupported { path, .. } | duel_model::Error::Write { path, .. }) =
            &mut error
        {
            *path = self.to.clone();
        }
        error
    }
}

/// What is at a place before something is put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// Nothing.
    New,
    /// A file or an empty directory, which is written over.
    Over,
    /// A directory, which is replaced as a whole.
    Exchange,
}

/// Has something made at a path beside its place, in a directory of its own, and puts it there when it is whole.
///
/// # Errors
/// Those of `make`, after which the place is as it was.
pub(crate) fn make_beside(to: &Path, placement: Placement, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else {
        return Err(io("write", to)(std::io::Error::other("it has no name")));
    };
    std::fs::create_dir_all(parent).map_err(io("create", parent))?;
    let prefix = format!(".{}.making-", name.to_string_lossy());
    sweep(parent, &prefix);
    // removed with all that is in it when this function ends, however it ends
    let staging = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent).map_err(io("create", parent))?;
    let lock = File::open(staging.path()).map_err(io("open", staging.path()))?;
    lock.try_lock().map_err(|e| io("lock", staging.path())(e.into()))?;
    let staged = staging.path().join(name);
    make(&staged)?;
    put(to, placement, &staged, &staging.path().join("replaced"))?;
    sync(parent)
}

/// Puts what was made in its place.
fn put(to: &Path, placement: Placement, staged: &Path, replaced: &Path) -> Result<()> {
    let failed = io("write", to);
    let flags = match placement {
        Placement::New => RenameFlags::NOREPLACE,
        Placement::Exchange => RenameFlags::EXCHANGE,
        Placement::Over => RenameFlags::empty(),
    };
    match renameat_with(CWD, staged, CWD, to, flags) {
        // file systems that know no such flags
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if !flags.is_empty() => {
            if flags == RenameFlags::EXCHANGE {
                std::fs::rename(to, replaced).map_err(io("replace", to))?;
            }
            std::fs::rename(staged, to).map_err(|e| {
                let _ = std::fs::rename(replaced, to);
                failed(e)
            })
        }
        done => done.map_err(|e| failed(e.into())),
    }
}

/// Whether a name is that of a GGUF file.
pub(crate) use duel_model::gguf::is_gguf;

/// A path without links, whether or not its last parts are there.
pub(crate) fn resolved(to: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(to).map_err(io("find", to))?;
    let is_there = |path: &&Path| path.symlink_metadata().is_ok();
    let nearest = absolute.ancestors().find(is_there).unwrap_or(Path::new("/"));
    let mut resolved = nearest.canonicalize().map_err(io("follow", nearest))?;
    for part in absolute.strip_prefix(nearest).unwrap_or(Path::new("")).components() {
        let Component::Normal(name) = part else {
            return Err(io("find", to)(std::io::Error::other("`..` after a directory that is not there")));
        };
        resolved.push(name);
    }
    Ok(resolved)
}

/// A model's path, and where the files of its directory lie, which may be links.
fn source_dirs(from: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(from).into_iter().flatten().flatten().map(|entry| entry.path());
    let files = entries.filter(|path| path.is_file());
    std::iter::once(from.to_owned()).chain(files).filter_map(|path| path.canonicalize().ok()).collect()
}

/// Whether a path is another one, or lies somewhere below it, by whatever names.
pub(crate) fn is_within(inner: &Path, outer: &Path) -> bool {
    inner.ancestors().any(|above| same(above, outer))
}

fn same(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match [a, b].map(std::fs::metadata) {
        [Ok(one), Ok(other)] => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => a == b,
    }
}

pub(crate) fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = std::fs::read_dir(folder).map_err(io("read", folder))?;
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        Ok(entry.map_err(io("read", folder))?.file_name().to_string_lossy().into_owned())
    };
    let mut names = entries.map(name).collect::<Result<Vec<String>>>()?;
    names.sort();
    Ok(names)
}

fn is_empty(folder: &Path) -> Result<bool> {
    Ok(names(folder)?.is_empty())
}

/// Writes the names of a directory's files into it.
fn write_marker(folder: &Path) -> Result<()> {
    let text = format!("{MARK_TITLE}\n{}\n", names(folder)?.join("\n"));
    let path = folder.join(MARK);
    let write = || {
        std::fs::write(&path, text)?;
        File::open(&path)?.sync_all()
    };
    write().map_err(io("write", &path))
}

/// The first entry of a directory that no earlier export has written.
fn foreign_entry(folder: &Path) -> Result<Option<String>> {
    let mut text = String::new();
    let mark = folder.join(MARK);
    if mark.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        let file = File::open(&mark).map_err(io("read", &mark))?;
        let _ = file.take(MOST_MARK).read_to_string(&mut text); // what is no text names no file
    }
    let lines: Vec<&str> = match text.split_once('\n') {
        Some((MARK_TITLE, files)) => files.lines().chain([MARK]).collect(),
        _ => vec![],
    };
    let is_own = |name: &String| {
        lines.contains(&name.as_str()) && folder.join(name).symlink_metadata().is_ok_and(|metadata| metadata.is_file())
    };
    Ok(names(folder)?.into_iter().find(|name| !is_own(name)))
}

/// Removes what killed exports have left beside the target: running ones hold a lock.
fn sweep(parent: &Path, prefix: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_left = entry.file_name().to_string_lossy().starts_with(prefix) && entry.path().is_dir();
        if is_left && File::open(entry.path()).is_ok_and(|folder| folder.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("flush", folder))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::fs;

    /// What there is below a folder, with its bytes.
    fn tree(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut files = vec![];
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => files.extend(tree(&path)),
                false => files.push((path.clone(), fs::read(&path).unwrap())),
            }
        }
        files.sort();
        files
    }

    fn write_one(to: &Path, from: &Path, force: bool, name: &str) -> Result<()> {
        ModelTarget::new(to, &[from], force)?.write(|staged| {
            fs::write(staged.join(name), name).unwrap();
            Ok(())
        })
    }

    /// A folder with a model in it, and a link to the model.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        fs::write(model.join("model.safetensors"), "weights").unwrap();
        std::os::unix::fs::symlink(&model, folder.path().join("link")).unwrap();
        (folder, model)
    }

    #[test]
    fn nothing_is_written_onto_the_model_it_came_from() {
        let (folder, model) = place();
        let before = tree(folder.path());
        let name = |name: &str| folder.path().join(name);
        for to in [
            "model",
            "link",
            "model/..",
            "model/../link",
            "link/inside",
            "model/a/b",
            "link/x.gguf",
            "model/../model/.",
        ] {
            for force in [false, true] {
                let refused = write_one(&name(to), &model, force, "x").unwrap_err();
                assert!(matches!(refused, Error::OntoModel { .. }), "{to}: {refused}");
                let through_link = write_one(&name(to), &name("link"), force, "x").unwrap_err();
                assert!(matches!(through_link, Error::OntoModel { .. }), "{to}: {through_link}");
            }
        }
        assert!(write_one(&name("none/../model"), &model, true, "x").is_err());
        // the files of a directory may lie elsewhere
        fs::create_dir(name("blobs")).unwrap();
        fs::rename(model.join("model.safetensors"), name("blobs/1")).unwrap();
        std::os::unix::fs::symlink(name("blobs/1"), model.join("model.safetensors")).unwrap();
        let refused = write_one(&name("blobs"), &model, true, "x").unwrap_err();
        assert!(matches!(refused, Error::OntoModel { .. }), "{refused}");
        fs::rename(name("blobs/1"), model.join("model.safetensors")).unwrap();
        fs::remove_dir(name("blobs")).unwrap();
        assert_eq!(tree(folder.path()), before);
    }

    #[test]
    fn only_an_earlier_export_is_replaced_and_then_as_a_whole() {
        let (folder, model) = place();
        let to = folder.path().join("a/b/out");
        write_one(&to, &model, false, "first").unwrap();
        let names_now = || names(&to).unwrap();
        assert_eq!(names_now(), [MARK, "first"]);
        // 1. not without being asked
        let refused = write_one(&to, &model, false, "second").unwrap_err();
        assert!(matches!(refused, Error::Occupied { hint: REPLACEABLE, .. }), "{refused}");
        assert_eq!(names_now(), [MARK, "first"]);
        // 2. nothing of the older one stays
        write_one(&to, &model, true, "second").unwrap();
        assert_eq!(names_now(), [MARK, "second"]);
        // 3. nor anything of another origin, file or directory
        for (name, is_folder) in [("notes", false), ("more", true)] {
            let path = to.join(name);
            if is_folder {
                fs::create_dir(&path).unwrap()
            } else {
                fs::write(&path, "mine").unwrap()
            }
            let refused = write_one(&to, &model, true, "third").unwrap_err();
            assert!(
                matches!(&refused, Error::Occupied { hint: NOT_REPLACED, problem, .. } if problem.contains(name)),
                "{refused}"
            );
            if is_folder { fs::remove_dir(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
        }
        // 4. an empty directory is a place; another's directory and a file are none
        fs::create_dir(folder.path().join("empty")).unwrap();
        write_one(&folder.path().join("empty"), &model, false, "x").unwrap();
        let other = folder.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("config.json"), "{}").unwrap();
        for taken in [&other, &other.join("config.json")] {
            let refused = write_one(taken, &model, true, "x").unwrap_err();
            assert!(matches!(refused, Error::Occupied { hint: NOT_REPLACED, .. }), "{refused}");
        }
        assert_eq!(fs::read(other.join("config.json")).unwrap(), b"{}");
        assert_eq!(names(&folder.path().join("a/b")).unwrap(), ["out"], "nothing is left beside it");
    }

    #[test]
    fn what_fails_or_is_killed_leaves_the_place_as_it_was() {
        let (folder, model) = place();
        let to = folder.path().join("out");
        write_one(&to, &model, false, "first").unwrap();
        let before = tree(folder.path());
        let failed = ModelTarget::new(&to, &[&model], true).unwrap().write(|staged| {
            fs::write(staged.join("half"), "half").unwrap();
            Err(Error::Interrupted)
        });
        assert!(matches!(failed, Err(Error::Interrupted)));
        assert_eq!(tree(folder.path()), before);
        // left by a killed export; a running one holds its lock
        let [left, busy] = [".out.making-1", ".out.making-2"].map(|name| folder.path().join(name));
        for path in [&left, &busy] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("half"), "half").unwrap();
        }
        let lock = File::open(&busy).unwrap();
        lock.try_lock().unwrap();
        write_one(&to, &model, true, "second").unwrap();
        assert_eq!(names(folder.path()).unwrap(), [".out.making-2", "link", "model", "out"]);
        assert_eq!(names(&to).unwrap(), [MARK, "second"]);
    }

    #[test]
    fn files_that_duel_did_not_write_are_no_targets() {
        let (folder, model) = place();
        let to = folder.path().join("m.gguf");
        let write = |force| {
            ModelTarget::new(&to, &[&model], force)?.write(|staged| {
                fs::write(staged, "GGUF").unwrap();
                Ok(())
            })
        };
        write(false).unwrap();
        for force in [false, true] {
            let refused = write(force).unwrap_err();
            assert!(matches!(refused, Error::Occupied { hint: NOT_REPLACED, .. }), "{refused}");
        }
        assert_eq!(names(folder.path()).unwrap(), ["link", "m.gguf", "model"]);
    }
}
