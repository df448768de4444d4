//! Files that appear whole or not at all.

use crate::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// `map_err` to an [`Error::Io`].
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::Io { action, path, source }
}

/// Writes beside `path`, flushes to disk, then renames over it.
///
/// # Errors
/// [`Error::Io`]; the old file, if any, is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let beside = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| {
        let _ = std::fs::remove_file(&beside);
        Error::Io { action: "write", path: path.into(), source }
    })
}

/// Makes a folder and all above it.
pub(crate) fn create_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(io("create the folder", path))
}

/// Flushes a folder's entries to disk, so that a rename in it lasts.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(io("flush", path))
}
