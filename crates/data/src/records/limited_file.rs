//! Plain files, read with a limit on the bytes of a row.

use crate::{Error, Result};
use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Bytes of a row.
pub(super) const MAX_ROW: usize = 32 << 20;

/// The byte order mark that some editors write at the start of a file.
pub(super) const BOM: &[u8] = "\u{feff}".as_bytes();

/// Opens a regular file; folders, pipes and devices are refused.
pub(super) fn open_file(path: &Path) -> Result<File> {
    let read = |source| Error::Read { path: path.into(), source };
    let file_type = std::fs::metadata(path).map_err(read)?.file_type();
    let found = match () {
        () if file_type.is_file() => return File::open(path).map_err(read),
        () if file_type.is_dir() => "a folder",
        () => "a pipe or a device",
    };
    Err(Error::NoFile { path: path.into(), found })
}

/// A file that gives at most [`MAX_ROW`] bytes per row.
pub(super) struct LimitedFile {
    file: File,
    remaining: Cell<usize>,
}

impl LimitedFile {
    pub(super) fn new(file: File) -> Self {
        Self { file, remaining: Cell::new(MAX_ROW) }
    }

    /// Starts a new row.
    pub(super) fn start_row(&self) {
        self.remaining.set(MAX_ROW);
    }
}

impl Read for LimitedFile {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = buffer.len().min(self.remaining.get());
        if most == 0 && !buffer.is_empty() {
            return Err(std::io::Error::other(too_long()));
        }
        let count = self.file.read(&mut buffer[..most])?;
        self.remaining.set(self.remaining.get() - count);
        Ok(count)
    }
}

/// The error for a row above the limit.
pub(super) fn too_long() -> String {
    format!("a row of more than {} MiB: is a line break, a bracket or a quote missing?", MAX_ROW >> 20)
}
