//! Files that appear whole or not at all, and last; and files of others, read within bounds.

use crate::owner::{ProcessId, is_left_behind};
use crate::{Error, Result};
use duel_spec::ids::Hasher;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What a temporary file's name holds before its writer's tag.
const TEMPORARY: &str = ".tmp-";
/// Folders within folders that are swept.
const DEEPEST: usize = 6;
/// Bytes of a file that is read as text: manifests, notes, lists of hashes.
pub(crate) const MOST_TEXT: u64 = 64 << 20;

/// `map_err` to an [`Error::Io`].
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { action, path, source }
}

/// Whether a write is to outlast a machine that loses power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    Yes,
    No,
}

/// Writes beside `path`, flushes to disk, renames over it, and flushes the folder: once this returns, the file is there for
/// good.
///
/// # Errors
/// [`Error::Io`]; the old file, if any, is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, Durability::Yes)
}

/// As [`write_atomically`], for what may be lost with the machine's power: whole or not there, and not waited for.
pub(crate) fn write_volatile(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, Durability::No)
}

fn write(path: &Path, bytes: &[u8], lasts: Durability) -> Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let beside = path.with_file_name(format!("{TEMPORARY}{}-{number}", ProcessId::here().tag()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        if lasts == Durability::Yes {
            file.sync_all()?;
        }
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&beside);
        Error::Io { action: "write", path: path.into(), source }
    })?;
    if lasts == Durability::Yes { sync_folder(parent(path)) } else { Ok(()) }
}

/// The folder that a path stands in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a folder and all above it, each flushed into the one that it stands in.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    let missing: Vec<PathBuf> =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir()).map(Into::into).collect();
    std::fs::create_dir_all(path).map_err(io("create the folder", path))?;
    missing.iter().rev().try_for_each(|made| sync_folder(parent(made)))
}

/// Flushes a folder's entries to disk, so that a rename in it lasts.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let flushed = File::open(path).and_then(|folder| folder.sync_all());
    match flushed {
        // a folder that may be written but not read, and file systems that have no such call
        Err(e)
            if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported) =>
        {
            Ok(())
        }
        other => other.map_err(io("flush", path)),
    }
}

/// Opens a file to be read; what is no file (a folder, a pipe, a device) is refused before anything waits for it.
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(ErrorKind::InvalidData, "it is no file"));
    }
    File::open(path)
}

/// Reads a file of no more than `most` bytes.
pub(crate) fn read_bounded(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(std::io::Error::new(ErrorKind::InvalidData, format!("it is larger than {most} bytes")));
    }
    Ok(bytes)
}

/// The hash of a file, read piece by piece.
pub(crate) fn hash_file(path: &Path) -> std::io::Result<String> {
    let (mut file, mut hasher) = (open(path)?, Hasher::default());
    let mut piece = vec![0; 1 << 20];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.finish()),
            n => hasher.add(&piece[..n]),
        }
    }
}

/// The hash of a file that is on disk once this returns.
pub(crate) fn hash_and_sync(path: &Path) -> std::io::Result<String> {
    open(path)?.sync_all()?;
    hash_file(path)
}

/// Whether a name is of nobody's making here: hidden, as those of file managers and notebooks are, or an editor's copy.
pub(crate) fn is_stray(name: &str) -> bool {
    name.starts_with(['.', '#']) || name.ends_with('~') || ["lost+found", "Thumbs.db", "desktop.ini"].contains(&name)
}

/// Removes what killed writers left in a run directory: temporary files, stages that were begun, claims to a lease, words to
/// whoever watches. What a
/// living process of this machine writes stays, and what cannot be told until it has not changed for a day.
pub fn sweep(run: &Path) {
    sweep_below(run, 0);
    crate::live::sweep(run);
}

fn sweep_below(folder: &Path, depth: usize) {
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(data) = std::fs::symlink_metadata(&path) else { continue };
        if data.is_file() && [TEMPORARY, ".lease-"].iter().any(|mark| is_left_behind(&path, mark)) {
            let _ = std::fs::remove_file(&path);
        } else if data.is_dir() && is_left_behind(&path, ".making-") {
            let _ = std::fs::remove_dir_all(&path);
        } else if data.is_dir() && depth < DEEPEST {
            sweep_below(&path, depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_not_waited_for_and_what_is_endless_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(read_bounded(folder.path(), 10).is_err());
        assert!(read_bounded(Path::new("/dev/zero"), 10).is_err());
        let pipe = folder.path().join("pipe");
        if std::process::Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()) {
            assert!(read_bounded(&pipe, 10).is_err() && hash_file(&pipe).is_err());
        }
        let path = folder.path().join("text");
        write_atomically(&path, b"0123456789").expect("written");
        assert_eq!(read_bounded(&path, 10).expect("within"), b"0123456789");
        assert!(read_bounded(&path, 9).is_err());
    }

    #[test]
    fn the_dead_are_swept_and_the_living_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path();
        let (here, gone) = (ProcessId::here(), ProcessId { began: 1, ..ProcessId::here() });
        let place = |path: &str, owner: &ProcessId| {
            let path = run.join(path.replace("OWNER", &owner.tag()));
            create_folder(parent(&path)).expect("made");
            std::fs::write(&path, b"half").expect("written");
            path
        };
        let paths = [
            ".tmp-OWNER-0",
            "live/.tmp-OWNER-1",
            "stages/cell-0123.kept/.tmp-OWNER-2",
            "stages/cell-0123.making-OWNER-0/weights",
            "stages/cell-0123.lease-OWNER-4",
            "report/charts/.tmp-OWNER-3",
        ];
        let (dead, alive) = (paths.map(|path| place(path, &gone)), paths.map(|path| place(path, &here)));
        let told = |owner: &ProcessId| serde_json::to_vec(&crate::Live::of(owner.clone())).expect("plain data");
        for (name, owner) in [("live/dead.json", &gone), ("live/alive.json", &here)] {
            std::fs::write(run.join(name), told(owner)).expect("written");
        }
        let others = ["stages/.DS_Store", "stages/cell-0123.lease", ".tmp-notes"].map(|path| place(path, &here));
        sweep(run);
        assert!(dead.iter().all(|path| !path.exists()), "{dead:?}");
        assert!(!run.join("live/dead.json").exists() && run.join("live/alive.json").exists());
        assert!(alive.iter().chain(&others).all(|path| path.exists()), "{alive:?}");
    }
}
