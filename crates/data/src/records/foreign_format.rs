//! Files that are no rows, by how they begin.

/// The first bytes of a file, by which other formats are told.
pub(super) const START: u64 = 64;

/// What a file is that begins like this and is no text, and what would be accepted.
pub(super) fn foreign_format(start: &[u8]) -> Option<&'static str> {
    let text = start.trim_ascii_start().to_ascii_lowercase();
    match start {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [1..=255, 0, 1..=255, 0, ..] | [0, 1..=255, 0, 1..=255, ..] => {
            Some("it is UTF-16: save it as UTF-8")
        }
        [0x1f, 0x8b, ..] => Some("it is compressed with gzip: its name should end in .gz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("it is compressed with zstd: its name should end in .zst"),
        [b'P', b'A', b'R', b'1', ..] => Some("it is a parquet file: its name should end in .parquet"),
        [b'P', b'K', 3, 4, ..] => Some("it is a zip archive or an Excel workbook: unpack it, or save it as CSV"),
        [b'A', b'R', b'R', b'O', b'W', b'1', ..] => Some("it is an Arrow file: write it as parquet or JSON lines"),
        _ if text.starts_with(b"version https://git-lfs") => {
            Some("it is a pointer of Git LFS and not the file itself, which `git lfs pull` fetches")
        }
        _ if text.starts_with(b"<!doctype") || text.starts_with(b"<html") => {
            Some("it is a web page and not the file itself: download the file")
        }
        _ => None,
    }
}
