//! Parquet files, row by row. Sizes are checked before the library allocates memory, and a panic of the library on a file's
//! bytes is an error of the file.

use super::bytes_read::BytesRead;
use super::foreign_format::{START, foreign_format};
use super::numbered::NumberedRecord;
use crate::json::Json;
use crate::{Error, Result};
use duel_tables::guarded;
use parquet::file::reader::FileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::Number;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

/// The rows of a parquet file as JSON objects, up to the first that cannot be read.
pub(super) struct ParquetRows {
    rows: RowIter<'static>,
    count: usize,
    is_finished: bool,
    /// A row's part of the file.
    row_bytes: u64,
    read: BytesRead,
}

impl ParquetRows {
    /// Opens a file whose declared sizes fit its length.
    ///
    /// # Errors
    /// A file that is damaged, or that declares more than its bytes can hold.
    pub(super) fn open(path: &Path, mut file: File, bytes: &BytesRead) -> Result<Self> {
        let read = |source| Error::Read { path: path.into(), source };
        let mut start = vec![];
        (&mut file).take(START).read_to_end(&mut start).map_err(read)?;
        file.rewind().map_err(read)?;
        if let Some(problem) = foreign_format(&start).filter(|_| !start.starts_with(b"PAR1")) {
            return Err(Error::Paths { path: path.into(), problem: problem.into() });
        }
        let refuse = |error: duel_tables::Error| match error {
            duel_tables::Error::Io(source) => Error::Read { path: path.into(), source },
            other => Error::Paths { path: path.into(), problem: format!("it is damaged or cut off: {other}") },
        };
        let reader = duel_tables::open(file).map_err(refuse)?;
        let rows = u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap_or(0);
        let row_bytes = std::fs::metadata(path).map_or(0, |file| file.len()) / rows.max(1);
        let rows = guarded(|| Ok(RowIter::from_file_into(Box::new(reader) as Box<dyn FileReader>))).map_err(refuse)?;
        Ok(Self { row_bytes, read: bytes.clone(), ..Self::new(rows) })
    }

    fn new(rows: RowIter<'static>) -> Self {
        Self { rows, count: 0, is_finished: false, row_bytes: 0, read: BytesRead::default() }
    }

    fn next_row(&mut self) -> Option<std::result::Result<Row, String>> {
        if self.is_finished {
            return None;
        }
        let row = guarded(|| self.rows.next().transpose()).map_err(|e| e.to_string());
        self.is_finished = !matches!(row, Ok(Some(_)));
        row.transpose()
    }
}

impl Iterator for ParquetRows {
    type Item = NumberedRecord<Json>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.next_row()?;
        self.count += 1;
        self.read.add(self.row_bytes);
        Some((self.count, row.map(|row| object(row.get_column_iter()))))
    }
}

fn object<'a>(fields: impl Iterator<Item = (&'a String, &'a Field)>) -> Json {
    Json::Object(fields.map(|(name, field)| (name.clone(), to_json(field))).collect())
}

fn to_json(field: &Field) -> Json {
    let float = |x: f64| Number::from_f64(x).map_or(Json::Null, Json::Number);
    match field {
        Field::Bool(flag) => Json::Bool(*flag),
        Field::Byte(n) => Json::Number((*n).into()),
        Field::Short(n) => Json::Number((*n).into()),
        Field::Int(n) => Json::Number((*n).into()),
        Field::Long(n) => Json::Number((*n).into()),
        Field::UByte(n) => Json::Number((*n).into()),
        Field::UShort(n) => Json::Number((*n).into()),
        Field::UInt(n) => Json::Number((*n).into()),
        Field::ULong(n) => Json::Number((*n).into()),
        Field::Float(x) => float(f64::from(*x)),
        Field::Double(x) => float(*x),
        Field::Str(text) => Json::Text(text.clone()),
        Field::Bytes(bytes) => Json::Text(String::from_utf8_lossy(bytes.data()).into_owned()),
        Field::Group(row) => object(row.get_column_iter()),
        Field::ListInternal(list) => Json::List(list.elements().iter().map(to_json).collect()),
        Field::Null => Json::Null,
        other => Json::Text(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The error of opening a file with one byte changed.
    fn error_with_byte(bytes: &[u8], index: usize, to: u8) -> String {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut bytes = bytes.to_vec();
        bytes[index] = to;
        std::fs::write(file.path(), bytes).expect("written");
        ParquetRows::open(file.path(), File::open(file.path()).expect("there"), &BytesRead::default())
            .err()
            .map_or(String::new(), |e| e.to_string())
    }

    /// The headers of the first pages, byte by byte: a dictionary of one text in eight bytes, and three values in 29.
    #[test]
    fn a_page_is_no_larger_than_its_file_can_fill() {
        let (turns, labels) =
            (include_bytes!("../../tests/turns.parquet"), include_bytes!("../../tests/labels.parquet"));
        assert_eq!((turns[12], labels[7], labels[9], labels[12]), (2, 58, 76, 6)); // zigzag: twice the number
        assert_eq!(error_with_byte(turns, 12, 2), "");
        for (bytes, index, to, expected) in [
            (&turns[..], 12, 126, "a page of 63 values in 8 bytes"),
            (labels, 7, 57, "a page of 38 bytes, -29 when decompressed"),
            (labels, 9, 75, "a page of -38 bytes"),
            (labels, 12, 8, "have 4 values, but 3 are declared"),
        ] {
            let error = error_with_byte(bytes, index, to);
            assert!(error.contains(expected), "{error}");
        }
    }

    /// A file whose rows cannot be read although its sizes are consistent.
    #[test]
    fn a_table_ends_at_its_first_error() {
        let path = Path::new("tests/endless.parquet");
        let reader =
            parquet::file::reader::SerializedFileReader::new(File::open(path).expect("there")).expect("a header");
        let rows = RowIter::from_file_into(Box::new(reader) as Box<dyn FileReader>);
        let are_read: Vec<_> = ParquetRows::new(rows).take(1000).map(|(_, row)| row.is_ok()).collect();
        assert_eq!(are_read.iter().filter(|is_read| !**is_read).count(), 1, "{are_read:?}");
        assert_eq!(are_read.last(), Some(&false));
    }
}
