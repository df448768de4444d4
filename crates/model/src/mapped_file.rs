//! Files that are mapped into memory, and errors of theirs that pass through burn's operations.

use crate::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// An open file mapped into memory, which all processes that read it share. It must not change while it is open, which is
/// checked each time it is read: bytes beyond the end of a file that was cut off cannot be read at all.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) path: PathBuf,
    file: File,
    bytes: Mmap,
    modified: Option<SystemTime>,
}

impl MappedFile {
    /// Opens a file.
    ///
    /// # Errors
    /// What is no file, such as a pipe, which would be waited for; one that cannot be read.
    #[expect(unsafe_code, reason = "a mapped file may change under its reader")]
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let read = |source| Error::Read { path: path.into(), source };
        if !std::fs::metadata(path).map_err(read)?.is_file() {
            return Err(read(std::io::Error::other("it is not a file")));
        }
        let file = File::open(path).map_err(read)?;
        // SAFETY: finished stages are never written again, only renamed or removed, which leaves a mapping whole; a person's model
        // is asked to stay as it is, and is looked at before each use.
        let bytes = unsafe { Mmap::map(&file) }.map_err(read)?;
        check_fetched(path, &bytes)?;
        let modified = file.metadata().map_err(read)?.modified().ok();
        Ok(Self { path: path.into(), file, bytes, modified })
    }

    /// Its bytes, as long as it is what it was when it was opened.
    ///
    /// # Errors
    /// [`Error::Changed`] where its length or the time of its last change is another.
    pub(crate) fn bytes(&self) -> Result<&[u8]> {
        let read = |source| Error::Read { path: self.path.clone(), source };
        let now = self.file.metadata().map_err(read)?;
        let changed = |what| Err(Error::Changed { path: self.path.clone(), what });
        if now.len() != self.bytes.len() as u64 {
            return changed(format!("it had {} bytes and has {}", self.bytes.len(), now.len()));
        }
        if now.modified().ok() != self.modified {
            return changed("it was written to".into());
        }
        Ok(&self.bytes)
    }

    /// A copy of some bytes, read from the file and not through the mapping: if the file is cut off meanwhile, this is an error,
    /// while the system would end the process at a read of the mapping.
    ///
    /// # Errors
    /// [`Error::Changed`] as for [`Self::bytes`], also where the file changes during the read.
    pub(crate) fn copy(&self, range: Range<usize>) -> Result<Vec<u8>> {
        self.bytes()?;
        let bytes = self.copy_unchecked(range)?;
        self.bytes()?;
        Ok(bytes)
    }

    fn copy_unchecked(&self, range: Range<usize>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; range.len()];
        self.file.read_exact_at(&mut bytes, range.start as u64).map_err(|source| match source.kind() {
            ErrorKind::UnexpectedEof => Error::Changed { path: self.path.clone(), what: "it was cut off".into() },
            _ => Error::Read { path: self.path.clone(), source },
        })?;
        Ok(bytes)
    }
}

/// A clone without Git LFS holds pointers in place of large files.
///
/// # Errors
/// [`Error::LfsPointer`]
pub(crate) fn check_fetched(path: &Path, bytes: &[u8]) -> Result<()> {
    match bytes.starts_with(b"version https://git-lfs.github.com/spec/") {
        true => Err(Error::LfsPointer { path: path.into() }),
        false => Ok(()),
    }
}

/// Does what may read mapped matrices. Burn's operations return no errors: one of theirs unwinds to here, where it is one again.
///
/// # Errors
/// Those of the work; [`Error::Changed`] where a mapped file was changed meanwhile.
pub fn catching<T, E: From<Error>>(work: impl FnOnce() -> std::result::Result<T, E>) -> std::result::Result<T, E> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|thrown| {
        match thrown.downcast::<Error>() {
            Ok(error) => Err((*error).into()),
            Err(other) => std::panic::resume_unwind(other),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_off_between_check_and_read_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weights");
        std::fs::write(&path, [7; 10_000]).expect("written");
        let file = MappedFile::open(&path).expect("opened");
        assert_eq!(file.copy(5000..5002).expect("read"), [7, 7]);
        File::options().write(true).open(&path).expect("opened").set_len(100).expect("cut off");
        assert_eq!(file.copy_unchecked(98..100).expect("what is left"), [7, 7]);
        for range in [5000..5002, 99..101] {
            let error = file.copy_unchecked(range).expect_err("beyond the end");
            assert!(matches!(error, Error::Changed { .. }), "{error}");
        }
    }
}
