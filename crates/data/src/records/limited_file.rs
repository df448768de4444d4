//! Bytes of a file, read with a limit on those of a row, and with their lines counted.

use std::cell::Cell;
use std::io::Read;

/// Bytes of a row.
pub(super) const MAX_ROW: usize = 32 << 20;

/// The byte order mark that some editors write at the start of a file.
pub(super) const BOM: &[u8] = "\u{feff}".as_bytes();

/// Bytes with at most [`MAX_ROW`] per row.
pub(super) struct LimitedFile {
    bytes: Box<dyn Read + Send>,
    remaining: Cell<usize>,
}

impl LimitedFile {
    pub(super) fn new(bytes: Box<dyn Read + Send>) -> Self {
        Self { bytes, remaining: Cell::new(MAX_ROW) }
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
        let count = self.bytes.read(&mut buffer[..most])?;
        self.remaining.set(self.remaining.get() - count);
        Ok(count)
    }
}

/// The error for a row above the limit.
pub(super) fn too_long() -> String {
    format!("a row of more than {} MiB: is a line break, a bracket or a quote missing?", MAX_ROW >> 20)
}
