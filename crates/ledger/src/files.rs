//! Atomic, durable writes, and bounded reads.

use crate::error::{Error, Result};
use crate::process::ProcessId;
use duel_spec::ids::Hasher;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Before the writer's tag in the name of a temporary file.
pub(crate) const TEMPORARY: &str = ".tmp-";
/// The largest text file that is read: manifests, lists of hashes.
pub(crate) const MAX_TEXT: u64 = 64 << 20;

/// `map_err` to an [`Error::Io`].
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { action, path, source }
}

/// Whether a write must survive a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    Yes,
    No,
}

/// Writes to a temporary file, flushes it, renames it to `path`, and flushes the folder: once this returns, the file is durable.
///
/// # Errors
/// [`Error::Io`]; an existing file is then unchanged.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, Durability::Yes)
}

/// As [`write_atomically`], but not durable, and without waiting for the disk.
pub(crate) fn write_volatile(path: &Path, bytes: &[u8]) -> Result<()> {
    write(path, bytes, Durability::No)
}

fn write(path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!("{TEMPORARY}{}-{number}", ProcessId::here().tag()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        if durability == Durability::Yes {
            file.sync_all()?;
        }
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&temporary);
        Error::Io { action: "write", path: path.into(), source }
    })?;
    if durability == Durability::Yes { sync_folder(parent(path)) } else { Ok(()) }
}

/// The folder of a path.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a folder and its parents durably.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    let missing: Vec<PathBuf> =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.is_dir()).map(Into::into).collect();
    std::fs::create_dir_all(path).map_err(io("create the folder", path))?;
    missing.iter().rev().try_for_each(|created| sync_folder(parent(created)))
}

/// Flushes a folder's entries to disk, so that a rename in it is durable.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    let flushed = File::open(path).and_then(|folder| folder.sync_all());
    match flushed {
        // a folder that is writable but not readable, and file systems without this call
        Err(e)
            if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::InvalidInput | ErrorKind::Unsupported) =>
        {
            Ok(())
        }
        other => other.map_err(io("flush", path)),
    }
}

/// Opens a regular file; folders, pipes and devices are refused, without blocking.
pub(crate) fn open(path: &Path) -> std::io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(ErrorKind::InvalidData, "it is not a regular file"));
    }
    File::open(path)
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::new(ErrorKind::InvalidData, format!("it is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// The hash of a file, read in pieces.
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

/// Flushes a file to disk and returns its hash.
pub(crate) fn hash_and_sync(path: &Path) -> std::io::Result<String> {
    open(path)?.sync_all()?;
    hash_file(path)
}

/// Whether a file is not written by Duel: hidden files of file managers and notebooks, or an editor's copy.
pub(crate) fn is_stray(name: &str) -> bool {
    name.starts_with(['.', '#']) || name.ends_with('~') || ["lost+found", "Thumbs.db", "desktop.ini"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_limited_size_are_read() {
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
}
