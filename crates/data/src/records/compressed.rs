//! Files of rows, compressed or not, read with limits on what comes out of them.

use super::bytes_read::{BytesRead, CountedFile};
use crate::{Error, Result};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes that any file may decompress to, and how many times its size a larger one may.
const MIN_LIMIT: u64 = 64 << 20;
const MAX_RATIO: u64 = 256;
/// The base-2 logarithm of the largest window of zstd: 128 MiB.
const MAX_WINDOW: u32 = 27;

/// How the bytes of a file are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// The compression that a file's name tells, and the ending before it, in lower case: `rows.jsonl.gz`.
pub(super) fn endings(path: &Path) -> (String, Compression) {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_lowercase();
    let (stem, compression) = match name.rsplit_once('.') {
        Some((stem, "gz" | "gzip")) => (stem, Compression::Gzip),
        Some((stem, "zst" | "zstd")) => (stem, Compression::Zstd),
        _ => (name.as_str(), Compression::None),
    };
    (stem.rsplit_once('.').map_or(String::new(), |(_, ending)| ending.to_owned()), compression)
}

/// Opens a regular file; folders, pipes and devices are refused.
pub(super) fn open_file(path: &Path) -> Result<File> {
    let read = |source| Error::Read { path: path.into(), source };
    let file_type = std::fs::metadata(path).map_err(read)?.file_type();
    let kind = match () {
        () if file_type.is_file() => return File::open(path).map_err(read),
        () if file_type.is_dir() => "a folder",
        () => "a pipe or a device",
    };
    Err(Error::NoFile { path: path.into(), found: kind })
}

/// A file's bytes, decompressed as they are read; `bytes` counts them as they lie on the disk.
pub(super) fn open_bytes(path: &Path, compression: Compression, bytes: &BytesRead) -> Result<Box<dyn Read + Send>> {
    let read = |source| Error::Read { path: path.into(), source };
    let file = open_file(path)?;
    let limit = file.metadata().map_err(read)?.len().saturating_mul(MAX_RATIO).max(MIN_LIMIT);
    let file = CountedFile { file, read: bytes.clone() };
    let limited = |reader: Box<dyn Read + Send>| Box::new(LimitedOutput { reader, remaining: limit });
    Ok(match compression {
        Compression::None => Box::new(file),
        Compression::Gzip => limited(Box::new(MultiGzDecoder::new(std::io::BufReader::new(file)))),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::new(file).map_err(read)?;
            decoder.window_log_max(MAX_WINDOW).map_err(read)?;
            limited(Box::new(decoder))
        }
    })
}

/// A file that can be read at any position: itself, or what is decompressed into a temporary file.
pub(super) fn open_seekable(path: &Path, compression: Compression) -> Result<File> {
    if compression == Compression::None {
        return open_file(path);
    }
    let read = |source| Error::Read { path: path.into(), source };
    let mut bytes = open_bytes(path, compression, &BytesRead::default())?;
    let mut file = tempfile::tempfile().map_err(read)?;
    std::io::copy(&mut bytes, &mut file).and_then(|_| file.flush()).map_err(read)?;
    file.seek(SeekFrom::Start(0)).map_err(read)?;
    Ok(file)
}

/// What a decoder gives, up to a limit.
struct LimitedOutput {
    reader: Box<dyn Read + Send>,
    remaining: u64,
}

impl Read for LimitedOutput {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let damaged = |e: std::io::Error| {
            std::io::Error::new(e.kind(), format!("its compressed data is damaged or cut off: {e}"))
        };
        let count = self.reader.read(buffer).map_err(damaged)?;
        match self.remaining.checked_sub(count as u64) {
            Some(remaining) => self.remaining = remaining,
            None => {
                let problem = format!("it decompresses to more than {MAX_RATIO} times its size: decompress it first");
                return Err(std::io::Error::other(problem));
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_format_and_compression() {
        for (name, ending, compression) in [
            ("a/rows.jsonl", "jsonl", Compression::None),
            ("rows.JSONL.GZ", "jsonl", Compression::Gzip),
            ("train.v2.csv.zst", "csv", Compression::Zstd),
            ("rows.gz", "", Compression::Gzip),
            ("rows", "", Compression::None),
        ] {
            assert_eq!(endings(Path::new(name)), (ending.to_owned(), compression), "{name}");
        }
    }

    /// A megabyte of zeros is a kilobyte of gzip, and a gigabyte some forty bytes of zstd's repeated blocks.
    #[test]
    fn what_expands_without_end_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let zeros = || std::io::repeat(0).take(80 << 20);
        let gzip = folder.path().join("zeros.jsonl.gz");
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&gzip).expect("a file"), flate2::Compression::best());
        std::io::copy(&mut zeros(), &mut encoder).and_then(|_| encoder.finish()).expect("written");
        let zstd = folder.path().join("zeros.jsonl.zst");
        zstd::stream::copy_encode(zeros(), File::create(&zstd).expect("a file"), 1).expect("written");
        for (path, compression) in [(gzip, Compression::Gzip), (zstd, Compression::Zstd)] {
            let size = path.metadata().expect("there").len();
            let mut bytes = open_bytes(&path, compression, &BytesRead::default()).expect("opened");
            let read = std::io::copy(&mut bytes, &mut std::io::sink());
            let error = read.expect_err("too much").to_string();
            assert!(size * MAX_RATIO < 80 << 20 && error.contains("256 times its size"), "{size} {error}");
        }
    }
}
