//! The user's own rows as files hold them: JSON Lines, JSON, CSV and parquet, in the dataset formats of TRL. Files are read row
//! by row, so their size does not matter.
//!
//! A row that is malformed is an error of that row. Where the file cannot be read on, such as after a line without an end, the
//! error is the last item.

mod csv;
mod json;
mod limited_file;
mod parquet;
mod record;

pub use record::{Columns, Content, NumberedRecord, Record};

use self::csv::Csv;
use self::json::{JsonLines, JsonList};
use self::limited_file::{BOM, LimitedFile, open_file};
use self::parquet::ParquetRows;
use crate::json::Json;
use crate::{Error, Result};
use duel_spec::ids::Hasher;
use rayon::prelude::*;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// A file's rows.
pub type Lines = Box<dyn Iterator<Item = NumberedRecord<Json>> + Send>;

/// Rows that are read at a time, and the bytes after which no other is.
const BLOCK_ROWS: usize = 256;
const BLOCK_BYTES: usize = 4 << 20;

/// A file's rows in order, each with its line, its records and the results of `make`. A block of rows is processed
/// on all threads while the next is read. Most rows have one record; one with several ranked completions has several.
///
/// # Errors
/// As [`open`].
pub fn read<T: Send>(
    path: &Path,
    columns: &Columns,
    make: impl Fn(&Record) -> T + Sync,
) -> Result<impl Iterator<Item = NumberedRecord<Vec<(Record, T)>>>> {
    let mut lines = open(path)?;
    let mut block = read_block(&mut lines);
    let blocks = std::iter::from_fn(move || {
        let read_one = |(line, row): NumberedRecord<Json>| {
            let records = row.and_then(|row| Record::read(&row, columns));
            let with_result = |record| {
                let result = make(&record);
                (record, result)
            };
            (line, records.map(|records| records.into_iter().map(with_result).collect()))
        };
        let rows = std::mem::take(&mut block);
        let process = || rows.into_par_iter().map(read_one).collect::<Vec<_>>();
        let (results, next) = rayon::join(process, || read_block(&mut lines));
        block = next;
        (!results.is_empty()).then_some(results)
    });
    Ok(blocks.flatten())
}

/// The next rows; none after the last.
fn read_block(lines: &mut Lines) -> Vec<NumberedRecord<Json>> {
    let (mut block, mut bytes) = (vec![], 0);
    while block.len() < BLOCK_ROWS && bytes < BLOCK_BYTES {
        let Some(line) = lines.next() else { break };
        bytes += line.1.as_ref().map_or(0, Json::size);
        block.push(line);
    }
    block
}

/// Opens a file by its extension: `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`.
///
/// # Errors
/// A file that is missing or in another format.
pub fn open(path: &Path) -> Result<Lines> {
    let read = |source| Error::Read { path: path.into(), source };
    let file = open_file(path)?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    match extension.as_str() {
        "jsonl" | "ndjson" => Ok(Box::new(JsonLines::new(file))),
        "json" => {
            let mut reader = BufReader::new(LimitedFile::new(file));
            if reader.fill_buf().map_err(read)?.starts_with(BOM) {
                reader.consume(BOM.len());
            }
            let first = reader.fill_buf().map_err(read)?.iter().find(|byte| !byte.is_ascii_whitespace()).copied();
            if first != Some(b'[') {
                return Ok(Box::new(JsonLines::new(open_file(path)?)));
            }
            Ok(Box::new(JsonList::new(reader)))
        }
        "csv" | "tsv" => {
            let delimiter = if extension == "csv" { b',' } else { b'\t' };
            let refuse = |problem| Error::Row { path: path.into(), row: 1, problem };
            Ok(Box::new(Csv::new(file, delimiter).map_err(refuse)?))
        }
        "parquet" => Ok(Box::new(ParquetRows::open(path, file)?)),
        _ => Err(Error::Format { path: path.into() }),
    }
}

/// The SHA-256 of a file, read in pieces.
///
/// # Errors
/// A file that is missing.
pub fn hash(path: &Path) -> Result<String> {
    let read = |source| Error::Read { path: path.into(), source };
    let mut reader = BufReader::with_capacity(1 << 20, open_file(path)?);
    let mut hasher = Hasher::default();
    loop {
        let bytes = reader.fill_buf().map_err(read)?;
        if bytes.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.add(bytes);
        let count = bytes.len();
        reader.consume(count);
    }
}
