//! Parquet files, row by row.

use crate::{Error, Result};
use ::parquet::file::reader::FileReader;
use ::parquet::record::Row;
use ::parquet::record::reader::RowIter;
use duel_tables::guarded;
use std::fs::File;
use std::path::Path;

/// Rows up to the first that cannot be read.
pub(crate) struct ReadableRows {
    rows: RowIter<'static>,
    is_over: bool,
}

impl Iterator for ReadableRows {
    type Item = std::result::Result<Row, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let row = guarded(|| self.rows.next().transpose()).map_err(|e| e.to_string());
        self.is_over = !matches!(row, Ok(Some(_)));
        row.transpose()
    }
}

/// Opens a file whose sizes agree with its length.
///
/// # Errors
/// One that is damaged, or that claims more than its bytes can hold.
pub(crate) fn open(path: &Path, file: File) -> Result<ReadableRows> {
    let refuse = |error: duel_tables::Error| match error {
        duel_tables::Error::Io(source) => Error::Read { path: path.into(), source },
        other => Error::Row { path: path.into(), row: 0, problem: other.to_string() },
    };
    let reader = duel_tables::open(file).map_err(refuse)?;
    let rows = guarded(|| Ok(RowIter::from_file_into(Box::new(reader) as Box<dyn FileReader>))).map_err(refuse)?;
    Ok(ReadableRows { rows, is_over: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::parquet::file::reader::SerializedFileReader;

    /// One whose rows cannot be read although its sizes are those of its bytes.
    #[test]
    fn a_table_ends_at_its_first_error() {
        let path = Path::new("tests/endless.parquet");
        let reader = SerializedFileReader::new(File::open(path).expect("there")).expect("a header");
        let rows = RowIter::from_file_into(Box::new(reader) as Box<dyn FileReader>);
        let found: Vec<_> = ReadableRows { rows, is_over: false }.take(1000).map(|row| row.is_ok()).collect();
        assert_eq!(found.iter().filter(|is_read| !**is_read).count(), 1, "{found:?}");
        assert_eq!(found.last(), Some(&false));
    }
}
