//! Limits for Parquet files from elsewhere: the sizes and counts that a file declares are checked against its length before the
//! library allocates memory for them, and a panic of the library is an error of the file.

use crate::Error;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::ops::RangeInclusive;

type Result<T> = std::result::Result<T, ParquetError>;

/// Calls the library; a panic becomes an error and is not printed.
///
/// # Errors
/// The library's, and its panics.
pub fn guarded<T>(call: impl FnOnce() -> Result<T>) -> std::result::Result<T, Error> {
    match crate::catch_panic::catch_panic(call) {
        Some(result) => result.map_err(|e| Error::Damaged(e.to_string())),
        None => Err(Error::Damaged("its contents are inconsistent".into())),
    }
}

/// Bytes of a page, compressed or not. Writers make pages of about one MiB.
pub(crate) const MAX_PAGE: i64 = 256 << 20;
/// Bytes of a page's header, statistics included.
const MAX_HEADER: u64 = 1 << 20;
/// Rows and list items per byte of the file, above which a small file would expand to a very large one.
const ROWS_PER_BYTE: i64 = 4096;
const ITEMS_PER_BYTE: i64 = 8;
/// Nesting of structures, in a page's header and in a row.
const MAX_DEPTH: usize = 32;
/// The largest compression ratio of LZ4.
const LZ4_RATIO: i64 = 255;
/// The first four bytes of LZ4's frames: the legacy frame, the frame of today, and frames that are skipped.
const LZ4_FRAMES: [RangeInclusive<u32>; 3] =
    [0x184c_2102..=0x184c_2102, 0x184d_2204..=0x184d_2204, 0x184d_2a50..=0x184d_2a5f];

pub(crate) fn malformed<T>(problem: String) -> Result<T> {
    Err(ParquetError::General(problem))
}

/// Reads a number in seven bits per byte, from the lowest on, as Thrift and Parquet's delta encoding have it; `byte` gives the next.
pub(crate) fn varint(mut byte: impl FnMut() -> Result<u8>) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = byte()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    malformed("a number of more than 64 bits".into())
}

/// The signed number whose sign is the lowest bit.
pub(crate) fn zigzag(bits: u64) -> i64 {
    (bits >> 1) as i64 ^ -((bits & 1) as i64)
}

/// Checks every declared count and size against the file's length.
pub(crate) fn check_sizes(metadata: &ParquetMetaData, file: &mut File, length: i64) -> Result<()> {
    let schema = metadata.file_metadata().schema_descr();
    let mut names: Vec<&str> = schema.root_schema().get_fields().iter().map(|field| field.name()).collect();
    names.sort_unstable();
    if let Some(duplicate) = names.windows(2).find(|two| two[0] == two[1]) {
        return malformed(format!("two columns are named `{}`", duplicate[0]));
    }
    if let Some(deep) = schema.columns().iter().find(|column| column.path().parts().len() > MAX_DEPTH) {
        return malformed(format!("the column `{}` is nested more than {MAX_DEPTH} deep", deep.path().parts()[0]));
    }
    let mut total_rows = 0i64;
    for group in metadata.row_groups() {
        let rows = group.num_rows();
        total_rows = total_rows.saturating_add(rows);
        if rows < 0 || group.num_columns() == 0 || total_rows > length.saturating_mul(ROWS_PER_BYTE) {
            let columns = group.num_columns();
            return malformed(format!("it declares {total_rows} rows in {columns} columns and {length} bytes"));
        }
        check_columns(group, file, length)?;
    }
    Ok(())
}

fn check_columns(group: &RowGroupMetaData, file: &mut File, length: i64) -> Result<()> {
    let rows = group.num_rows();
    for column in group.columns() {
        let name = column.column_path().string();
        let values = column.num_values();
        let is_list = column.column_descr().max_rep_level() > 0;
        let limit = if is_list { rows.saturating_add(length.saturating_mul(ITEMS_PER_BYTE)) } else { rows };
        if !(rows..=limit).contains(&values) {
            return malformed(format!("the column `{name}` has {values} values in {rows} rows"));
        }
        let in_pages = count_page_values(column, file, length).map_err(|e| {
            let problem = match e {
                ParquetError::General(problem) => problem,
                other => other.to_string(),
            };
            ParquetError::General(format!("the column `{name}`: {problem}"))
        })?;
        if in_pages != values {
            return malformed(format!(
                "the pages of column `{name}` have {in_pages} values, but {values} are declared"
            ));
        }
    }
    Ok(())
}

/// Checks the headers of a column's pages; returns the number of values they declare.
fn count_page_values(column: &ColumnChunkMetaData, file: &mut File, length: i64) -> Result<i64> {
    let (start, bytes) = column.byte_range();
    let mut position = start;
    let Some(end) = start.checked_add(bytes).filter(|end| *end <= length as u64) else {
        return malformed("it lies outside the file".into());
    };
    let mut values = 0i64;
    while position < end {
        file.seek(SeekFrom::Start(position))?;
        let input = BufReader::new(&mut *file).take(MAX_HEADER.min(end - position));
        let mut header = ThriftHeader { input, read: 0 };
        let fields = header.structure(0)?;
        position += header.read;
        let (expanded, packed) = (number(&fields, 2), number(&fields, 3));
        let sizes = 0..=MAX_PAGE;
        if !sizes.contains(&expanded) || !sizes.contains(&packed) || packed as u64 > end - position {
            return malformed(format!(
                "a page of {packed} bytes, {expanded} when decompressed; the limit is {MAX_PAGE}"
            ));
        }
        if let Some(page) = page_counts(&fields, packed, expanded)? {
            values = values.saturating_add(page.values);
            file.seek(SeekFrom::Start(position + page.level_bytes as u64))?;
            let (packed, expanded) = (packed - page.level_bytes, expanded - page.level_bytes);
            check_expansion(column.compression(), file, packed, expanded)?;
        }
        position += packed as u64;
    }
    Ok(values)
}

/// The values of a page, and the bytes of levels before its compressed part.
struct PageCounts {
    values: i64,
    level_bytes: i64,
}

/// Reads the counts out of a page's header; `None` for a page without values, such as an index.
fn page_counts(fields: &[(i64, ThriftItem)], packed: i64, expanded: i64) -> Result<Option<PageCounts>> {
    // the field of the inner header, by the kind of page
    let (inner_field, is_data) = match number(fields, 1) {
        0 => (5, true),  // data
        2 => (7, false), // dictionary
        3 => (8, true),  // data, version 2
        _ => return Ok(None),
    };
    let Some(ThriftItem::Fields(inner)) = fields.iter().find(|(id, _)| *id == inner_field).map(|(_, item)| item) else {
        return malformed("a page without its header".into());
    };
    let count = number(inner, 1);
    if count < 0 || (!is_data && count > expanded) {
        return malformed(format!("a page of {count} values in {expanded} bytes"));
    }
    // the levels of a version 2 page come before its compressed part
    let level_bytes = if inner_field == 8 { number(inner, 5).saturating_add(number(inner, 6)) } else { 0 };
    if !(0..=packed.min(expanded)).contains(&level_bytes) {
        return malformed(format!("a page of {packed} bytes with {level_bytes} bytes of levels"));
    }
    Ok(Some(PageCounts { values: if is_data { count } else { 0 }, level_bytes }))
}

/// Checks that a page decompresses to its declared size, for the formats where the library does not.
fn check_expansion(compression: Compression, file: &mut File, packed: i64, expanded: i64) -> Result<()> {
    let mut input = BufReader::new(&mut *file).take(packed as u64);
    let limit = expanded as u64 + 1;
    let size = match compression {
        // an invalid stream is left to the library
        Compression::GZIP(_) => {
            std::io::copy(&mut flate2::read::MultiGzDecoder::new(input).take(limit), &mut std::io::sink())
        }
        Compression::BROTLI(_) => {
            std::io::copy(&mut brotli::Decompressor::new(input, 4096).take(limit), &mut std::io::sink())
        }
        // blocks have their size before them; frames are decompressed to their end
        Compression::LZ4 if packed > MAX_PAGE / LZ4_RATIO => {
            let mut start = [0; 4];
            input.read_exact(&mut start)?;
            if LZ4_FRAMES.iter().any(|frames| frames.contains(&u32::from_le_bytes(start))) {
                return malformed(format!(
                    "a page of {packed} bytes in the LZ4 frames of old writers is not supported: write it with LZ4_RAW or zstd"
                ));
            }
            Ok(0)
        }
        _ => Ok(0),
    };
    match size {
        Ok(size) if size == limit => {
            malformed(format!("a page of {packed} bytes decompresses to more than {expanded}"))
        }
        _ => Ok(()),
    }
}

/// Reads a header in Thrift's compact protocol.
struct ThriftHeader<R> {
    input: R,
    read: u64,
}

enum ThriftItem {
    Number(i64),
    Fields(Vec<(i64, ThriftItem)>),
    Other,
}

/// The number in a field; 0 where the field is missing.
fn number(fields: &[(i64, ThriftItem)], id: i64) -> i64 {
    let number = fields.iter().find_map(|(field, item)| match item {
        ThriftItem::Number(x) if *field == id => Some(*x),
        _ => None,
    });
    number.unwrap_or(0)
}

impl<R: Read> ThriftHeader<R> {
    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    /// A varint: seven bits per byte.
    fn varint(&mut self) -> Result<u64> {
        varint(|| self.byte())
    }

    /// A zigzag-encoded number.
    fn zigzag(&mut self) -> Result<i64> {
        Ok(zigzag(self.varint()?))
    }

    fn structure(&mut self, depth: usize) -> Result<Vec<(i64, ThriftItem)>> {
        let (mut fields, mut id) = (vec![], 0i64);
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Ok(fields);
            }
            id = if byte >> 4 == 0 { self.zigzag()? } else { id.saturating_add(i64::from(byte >> 4)) };
            let item = match byte & 15 {
                1 | 2 => ThriftItem::Other, // a boolean, encoded in the type itself
                kind => self.item(kind, depth)?,
            };
            fields.push((id, item));
        }
    }

    fn item(&mut self, kind: u8, depth: usize) -> Result<ThriftItem> {
        if depth > MAX_DEPTH {
            return malformed("a header nested too deeply".into());
        }
        match kind {
            1..=3 => drop(self.byte()?),
            4..=6 => return self.zigzag().map(ThriftItem::Number),
            7 => (0..8).try_for_each(|_| self.byte().map(drop))?,
            8 => {
                let length = self.varint()?;
                (0..length).try_for_each(|_| self.byte().map(drop))?;
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                (0..count).try_for_each(|_| self.item(head & 15, depth + 1).map(drop))?;
            }
            12 => return self.structure(depth + 1).map(ThriftItem::Fields),
            _ => return malformed(format!("a header with an item of unknown type {kind}")),
        }
        Ok(ThriftItem::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames are decompressed to their end by the library, blocks up to their declared size.
    #[test]
    fn a_large_page_of_lz4_is_refused_in_frames_alone() {
        let checked = |start: u32, size: usize| {
            let mut file = tempfile::tempfile().expect("a file");
            std::io::Write::write_all(&mut file, &[&start.to_le_bytes()[..], &vec![7; size - 4]].concat())
                .expect("written");
            file.rewind().expect("rewound");
            check_expansion(Compression::LZ4, &mut file, size as i64, 9).map_err(|e| e.to_string())
        };
        let large = (MAX_PAGE / LZ4_RATIO) as usize + 1;
        for frame in [0x184d_2204, 0x184c_2102, 0x184d_2a50, 0x184d_2a5f] {
            assert_eq!(checked(frame, large - 1), Ok(()), "it cannot expand to more than a page may");
            let error = checked(frame, large).expect_err("a large frame");
            assert!(error.contains("in the LZ4 frames of old writers is not supported"), "{error}");
        }
        assert_eq!(checked(0x2000_0000, large), Ok(()));
    }

    /// Booleans, strings, lists and structures are skipped; a header without an end is refused.
    #[test]
    fn a_header_is_read_to_its_end() {
        let header = |bytes: &[u8]| {
            let mut header = ThriftHeader { input: bytes, read: 0 };
            header.structure(0).map(|fields| (number(&fields, 1), number(&fields, 9), header.read)).ok()
        };
        // 1: -3; 2: true; 3: "ab"; 4: two numbers; 5: {1: 7}; 9, with a full id: 150; the end
        let bytes = [0x15, 5, 0x11, 0x18, 2, b'a', b'b', 0x19, 0x25, 2, 4, 0x1c, 0x15, 14, 0, 0x05, 18, 0xac, 2, 0, 99];
        assert_eq!(header(&bytes), Some((-3, 150, 20)));
        assert_eq!(header(&bytes[..19]), None);
        assert_eq!(header(&[0x1c; 100]), None, "too deep");
        assert_eq!(header(&[0x18, 0xff, 0xff, 0xff, 0xff, 0x7f]), None, "longer than there is");
    }
}
