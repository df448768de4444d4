//! Limits for Parquet files from elsewhere: sizes and counts in a file are checked against its length before the library
//! allocates memory for them.

use crate::Error;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::{FileReader, SerializedFileReader};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Bytes of a page, compressed and uncompressed. Writers make pages of about one MiB.
const PAGE: i64 = 256 << 20;
/// Bytes of a page's header, statistics included.
const HEADER: u64 = 1 << 20;
/// Rows, and items of lists, per byte of the file.
const ROWS_PER_BYTE: i64 = 4096;
const ITEMS_PER_BYTE: i64 = 8;
/// Encodings that begin with a list of lengths, `DELTA_LENGTH_BYTE_ARRAY` and `DELTA_BYTE_ARRAY`: the library allocates what they claim.
const LENGTHS_FIRST: [i64; 2] = [6, 7];
/// Nesting depth, in a page's header and in a row.
const DEPTH: usize = 32;
/// The highest ratio that LZ4 reaches.
const LZ4_RATIO: i64 = 255;

/// Opens a file whose sizes and counts agree with its length.
///
/// # Errors
/// A file that is damaged, or that claims more than its bytes can hold.
pub fn open(file: File) -> Result<SerializedFileReader<File>, Error> {
    let (length, mut pages) = (file.metadata()?.len(), file.try_clone()?);
    let reader = guarded(|| SerializedFileReader::new(file))?;
    guarded(|| check(reader.metadata(), &mut pages, length as i64))?;
    Ok(reader)
}

/// Calls the library; a panic becomes an error and is not printed.
pub fn guarded<T>(work: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, Error> {
    match crate::catch_panic::catch_panic(work) {
        Some(done) => done.map_err(|e| Error::Damaged(e.to_string())),
        None => Err(Error::Damaged("its bytes contradict one another".into())),
    }
}

fn malformed<T>(problem: String) -> Result<T, ParquetError> {
    Err(ParquetError::General(problem))
}

/// Holds every count and size against the file's length.
fn check(metadata: &ParquetMetaData, file: &mut File, length: i64) -> Result<(), ParquetError> {
    let schema = metadata.file_metadata().schema_descr();
    let mut names: Vec<&str> = schema.root_schema().get_fields().iter().map(|field| field.name()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|two| two[0] == two[1]) {
        return malformed(format!("two columns are called `{}`", twice[0]));
    }
    if let Some(deep) = schema.columns().iter().find(|column| column.path().parts().len() > DEPTH) {
        return malformed(format!("the column `{}` lies more than {DEPTH} deep", deep.path().parts()[0]));
    }
    let mut all_rows = 0i64;
    for group in metadata.row_groups() {
        let rows = group.num_rows();
        all_rows = all_rows.saturating_add(rows);
        if rows < 0 || group.num_columns() == 0 || all_rows > length.saturating_mul(ROWS_PER_BYTE) {
            return malformed(format!(
                "it speaks of {all_rows} rows in {} columns and {length} bytes",
                group.num_columns()
            ));
        }
        for column in group.columns() {
            let name = column.column_path().string();
            let values = column.num_values();
            let is_list = column.column_descr().max_rep_level() > 0;
            let most = if is_list { rows.saturating_add(length.saturating_mul(ITEMS_PER_BYTE)) } else { rows };
            if !(rows..=most).contains(&values) {
                return malformed(format!("the column `{name}` has {values} values in {rows} rows"));
            }
            let found = check_pages(column, file, length).map_err(|e| {
                let problem = match e {
                    ParquetError::General(problem) => problem,
                    other => other.to_string(),
                };
                ParquetError::General(format!("the column `{name}`: {problem}"))
            })?;
            if found != values {
                return malformed(format!(
                    "the pages of column `{name}` have {found} values, and it speaks of {values}"
                ));
            }
        }
    }
    Ok(())
}

/// Reads the headers of a column's pages; returns how many values they speak of.
fn check_pages(column: &ColumnChunkMetaData, file: &mut File, length: i64) -> Result<i64, ParquetError> {
    let (start, bytes) = column.byte_range();
    let mut at = start;
    let Some(end) = start.checked_add(bytes).filter(|end| *end <= length as u64) else {
        return malformed("it lies outside of the file".into());
    };
    let mut values = 0i64;
    while at < end {
        file.seek(SeekFrom::Start(at))?;
        let mut header =
            ThriftHeader { input: std::io::BufReader::new(&mut *file).take(HEADER.min(end - at)), read: 0 };
        let fields = header.structure(0)?;
        at += header.read;
        let (expanded, packed) = (number(&fields, 2), number(&fields, 3));
        if !(0..=PAGE).contains(&expanded) || !(0..=PAGE).contains(&packed) || packed as u64 > end - at {
            return malformed(format!("a page of {packed} bytes, {expanded} when expanded; at most {PAGE} are read"));
        }
        // which of these a page has follows from its kind: data, index, dictionary, data of version 2
        let (place, encoding, is_data) = match number(&fields, 1) {
            0 => (5, 2, true),
            2 => (7, 2, false),
            3 => (8, 4, true),
            _ => {
                at += packed as u64;
                continue;
            }
        };
        let Some(Item::Fields(inner)) = fields.iter().find(|(id, _)| *id == place).map(|(_, item)| item) else {
            return malformed("a page without its header".into());
        };
        let count = number(inner, 1);
        if count < 0 || (!is_data && count > expanded) {
            return malformed(format!("a page of {count} values in {expanded} bytes"));
        }
        if LENGTHS_FIRST.contains(&number(inner, encoding)) {
            return malformed(
                "texts as differences of lengths are not read: write it as PLAIN or with a dictionary".into(),
            );
        }
        if is_data {
            values = values.saturating_add(count);
        }
        // a page of version 2 has its levels before what is packed
        let levels = if place == 8 { number(inner, 5).saturating_add(number(inner, 6)) } else { 0 };
        if !(0..=packed.min(expanded)).contains(&levels) {
            return malformed(format!("a page of {packed} bytes with {levels} bytes of levels"));
        }
        file.seek(SeekFrom::Start(at + levels as u64))?;
        expands(column.compression(), file, packed - levels, expanded - levels)?;
        at += packed as u64;
    }
    Ok(values)
}

/// Whether a page expands to what its header says, where the library takes whatever comes.
fn expands(kind: Compression, file: &mut File, packed: i64, expanded: i64) -> Result<(), ParquetError> {
    let input = std::io::BufReader::new(&mut *file).take(packed as u64);
    let most = expanded as u64 + 1;
    let found = match kind {
        // what is no stream at all is left to the library
        Compression::GZIP(_) => {
            std::io::copy(&mut flate2::read::MultiGzDecoder::new(input).take(most), &mut std::io::sink())
        }
        Compression::BROTLI(_) => {
            std::io::copy(&mut brotli::Decompressor::new(input, 4096).take(most), &mut std::io::sink())
        }
        Compression::LZ4 if packed > PAGE / LZ4_RATIO => Ok(most),
        _ => Ok(0),
    };
    match found {
        Ok(found) if found == most => malformed(format!("a page of {packed} bytes expands to more than {expanded}")),
        _ => Ok(()),
    }
}

/// A header of Thrift's compact protocol.
struct ThriftHeader<R> {
    input: R,
    read: u64,
}

enum Item {
    Number(i64),
    Fields(Vec<(i64, Item)>),
    Other,
}

/// The number of a field; 0 where it is not there.
fn number(fields: &[(i64, Item)], id: i64) -> i64 {
    let found = fields.iter().find_map(|(known, item)| match item {
        Item::Number(x) if *known == id => Some(*x),
        _ => None,
    });
    found.unwrap_or(0)
}

impl<R: Read> ThriftHeader<R> {
    fn byte(&mut self) -> Result<u8, ParquetError> {
        let mut byte = [0];
        self.input.read_exact(&mut byte)?;
        self.read += 1;
        Ok(byte[0])
    }

    /// A number in sevens of bits.
    fn bits(&mut self) -> Result<u64, ParquetError> {
        let mut all = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            all |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(all);
            }
        }
        malformed("a number of more than 64 bits".into())
    }

    /// A number with its sign last.
    fn signed(&mut self) -> Result<i64, ParquetError> {
        let bits = self.bits()?;
        Ok((bits >> 1) as i64 ^ -((bits & 1) as i64))
    }

    fn structure(&mut self, depth: usize) -> Result<Vec<(i64, Item)>, ParquetError> {
        let (mut fields, mut id) = (vec![], 0i64);
        loop {
            let byte = self.byte()?;
            if byte == 0 {
                return Ok(fields);
            }
            id = if byte >> 4 == 0 { self.signed()? } else { id.saturating_add(i64::from(byte >> 4)) };
            let item = match byte & 15 {
                1 | 2 => Item::Other, // a flag, which is its own value
                kind => self.item(kind, depth)?,
            };
            fields.push((id, item));
        }
    }

    fn item(&mut self, kind: u8, depth: usize) -> Result<Item, ParquetError> {
        if depth > DEPTH {
            return malformed("a header too deep".into());
        }
        match kind {
            1..=3 => drop(self.byte()?),
            4..=6 => return self.signed().map(Item::Number),
            7 => (0..8).try_for_each(|_| self.byte().map(drop))?,
            8 => {
                let length = self.bits()?;
                (0..length).try_for_each(|_| self.byte().map(drop))?;
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.bits()? } else { u64::from(head >> 4) };
                (0..count).try_for_each(|_| self.item(head & 15, depth + 1).map(drop))?;
            }
            12 => return self.structure(depth + 1).map(Item::Fields),
            _ => return malformed(format!("a header with an item of kind {kind}")),
        }
        Ok(Item::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with one byte changed.
    fn changed(bytes: &[u8], at: usize, to: u8) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut bytes = bytes.to_vec();
        bytes[at] = to;
        std::fs::write(file.path(), &bytes).expect("written");
        open(file.reopen().expect("there")).err().map_or(String::new(), |e| e.to_string())
    }

    /// The headers of the first pages, byte by byte: a dictionary of one text in eight bytes, and three values in 29.
    #[test]
    fn a_page_is_no_larger_than_its_file_can_fill() {
        let (turns, labels) =
            (include_bytes!("../../data/tests/turns.parquet"), include_bytes!("../../data/tests/labels.parquet"));
        assert_eq!((turns[12], labels[7], labels[9], labels[12]), (2, 58, 76, 6)); // numbers are twice what they say
        assert_eq!(changed(turns, 12, 2), "");
        for (bytes, at, to, expected) in [
            (&turns[..], 12, 126, "a page of 63 values in 8 bytes"),
            (labels, 7, 57, "a page of 38 bytes, -29 when expanded"),
            (labels, 9, 75, "a page of -38 bytes"),
            (labels, 12, 8, "have 4 values, and it speaks of 3"),
        ] {
            let error = changed(bytes, at, to);
            assert!(error.contains(expected), "{error}");
        }
    }

    /// What a header may hold beside numbers is passed over: flags, texts, lists, structures; what has no end is refused.
    #[test]
    fn a_header_is_read_to_its_end() {
        let header = |bytes: &[u8]| {
            let mut header = ThriftHeader { input: bytes, read: 0 };
            header.structure(0).map(|fields| (number(&fields, 1), number(&fields, 9), header.read)).ok()
        };
        // 1: -3; 2: true; 3: "ab"; 4: two numbers; 5: {1: 7}; 9, written out: 150; the end
        let whole = [0x15, 5, 0x11, 0x18, 2, b'a', b'b', 0x19, 0x25, 2, 4, 0x1c, 0x15, 14, 0, 0x05, 18, 0xac, 2, 0, 99];
        assert_eq!(header(&whole), Some((-3, 150, 20)));
        assert_eq!(header(&whole[..19]), None);
        assert_eq!(header(&[0x1c; 100]), None, "too deep");
        assert_eq!(header(&[0x18, 0xff, 0xff, 0xff, 0xff, 0x7f]), None, "longer than there is");
    }
}
