//! The user's own rows as files hold them: JSON Lines, JSON, CSV and parquet, compressed or not, in the shapes of published sets.
//! Files are read row by row, so their size does not matter.
//!
//! A row that is malformed is an error of that row. Where the file cannot be read on, such as after a line without an end, the
//! error is the last item.

mod assemble;
mod bytes_read;
mod column_problem;
mod columns;
mod compressed;
mod csv;
mod document;
mod finder;
mod foreign_format;
mod json;
mod limited_file;
mod number;
mod numbered;
mod parquet;
mod paths;
mod plan;
mod preference;
mod python_literal;
mod ranked;
mod record;
mod survey;
mod turns;

pub use bytes_read::BytesRead;
pub use columns::Columns;
pub use numbered::NumberedRecord;
pub use paths::expand;
pub use plan::{ColumnPlan, PlannedColumn};
pub use record::Record;
pub use turns::Content;

use self::column_problem::ColumnProblem;
use self::compressed::{Compression, endings, open_bytes, open_file, open_seekable};
use self::csv::Csv;
use self::finder::RowShape;
use self::foreign_format::{START, foreign_format};
use self::json::{JsonLines, JsonList};
use self::limited_file::{BOM, MAX_ROW};
use self::parquet::ParquetRows;
use self::ranked::{RowGroup, RowGroups};
use crate::json::Json;
use crate::{Error, Result};
use duel_spec::ColumnRole;
use duel_spec::ids::Hasher;
use rayon::prelude::*;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::Path;

/// A file's rows.
pub type Lines = Box<dyn Iterator<Item = NumberedRecord<Json>> + Send>;

/// The first rows of a file, by which its columns are planned, and the most bytes they may take.
const FIRST_ROWS: usize = 1024;
const FIRST_BYTES: usize = 16 << 20;
/// Rows that are read at a time, and the bytes after which no other is.
const BLOCK_ROWS: usize = 256;
const BLOCK_BYTES: usize = 4 << 20;

/// Takes rows, those that are compared with one another together, until there are enough of them; none after the last.
fn take_groups(groups: &mut impl Iterator<Item = RowGroup>, most_rows: usize, most_bytes: usize) -> Vec<RowGroup> {
    let (mut rows, mut bytes, mut block) = (0, 0, vec![]);
    while rows < most_rows && bytes < most_bytes {
        let Some(group) = groups.next() else { break };
        rows += group.len();
        bytes += group.iter().map(|(_, row)| row.as_ref().map_or(0, Json::size)).sum::<usize>();
        block.push(group);
    }
    block
}

/// Plans the columns of a file by its first rows, and gives these too.
fn plan_of(path: &Path, columns: &Columns, lines: &mut Lines) -> Result<(ColumnPlan, Vec<NumberedRecord<Json>>)> {
    let first = take_groups(&mut lines.map(|line| vec![line]), FIRST_ROWS, FIRST_BYTES);
    let first: Vec<_> = first.into_iter().flatten().collect();
    let plan = ColumnPlan::new(first.iter().filter_map(|(_, row)| row.as_ref().ok()), columns);
    let is_csv = matches!(endings(path).0.as_str(), "csv" | "tsv");
    let refuse = |ColumnProblem { problem, hint }| {
        let hint = if is_csv { hint + "; the first line has the names of the columns" } else { hint };
        Error::Columns { path: path.into(), problem, hint }
    };
    Ok((plan.map_err(refuse)?, first))
}

/// What the columns of a file are taken for, found in its first rows.
///
/// # Errors
/// As [`open`]; columns that are needed and have no known name.
pub fn plan(path: &Path, columns: &Columns) -> Result<ColumnPlan> {
    Ok(plan_of(path, columns, &mut open(path)?)?.0)
}

/// A file's rows in order, each with its line, its records and the results of `make`. A block of rows is processed on all
/// threads while the next is read. Most rows have one record; one with several ranked completions has several, and of rows that
/// are compared with one another the last one has them.
///
/// # Errors
/// As [`plan`].
pub fn read<T: Send>(
    path: &Path,
    columns: &Columns,
    make: impl Fn(&Record) -> T + Sync,
) -> Result<impl Iterator<Item = NumberedRecord<Vec<(Record, T)>>>> {
    read_counted(path, columns, BytesRead::default(), make)
}

/// The same; `bytes` counts what is read.
pub(crate) fn read_counted<T: Send>(
    path: &Path,
    columns: &Columns,
    bytes: BytesRead,
    make: impl Fn(&Record) -> T + Sync,
) -> Result<impl Iterator<Item = NumberedRecord<Vec<(Record, T)>>>> {
    let mut lines = open_counted(path, &bytes)?;
    let (plan, first) = plan_of(path, columns, &mut lines)?;
    let shared = match plan.shape {
        RowShape::Scored => [ColumnRole::Prompt, ColumnRole::System, ColumnRole::Tools].as_slice(),
        _ => &[],
    };
    let shared = shared.iter().filter_map(|role| plan.name(*role)).map(String::from).collect();
    let mut groups = RowGroups::new(first.into_iter().chain(lines), shared);
    let mut block = take_groups(&mut groups, BLOCK_ROWS, BLOCK_BYTES);
    let blocks = std::iter::from_fn(move || {
        let with_result = |record| {
            let result = make(&record);
            (record, result)
        };
        let numbered = |(line, records): NumberedRecord<Vec<Record>>| {
            (line, records.map(|records| records.into_iter().map(with_result).collect()))
        };
        let read_group = |group| Record::read_group(&group, &plan).into_iter().map(numbered).collect::<Vec<_>>();
        let rows = std::mem::take(&mut block);
        let process = || rows.into_par_iter().flat_map_iter(read_group).collect::<Vec<_>>();
        let (results, next) = rayon::join(process, || take_groups(&mut groups, BLOCK_ROWS, BLOCK_BYTES));
        block = next;
        (!results.is_empty()).then_some(results)
    });
    Ok(blocks.flatten())
}

/// Opens a file by its endings: `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`, each also with `.gz` or `.zst` behind it.
///
/// # Errors
/// A file that is missing or in another format.
pub fn open(path: &Path) -> Result<Lines> {
    open_counted(path, &BytesRead::default())
}

fn open_counted(path: &Path, bytes: &BytesRead) -> Result<Lines> {
    let read = |source| Error::Read { path: path.into(), source };
    let refuse = |problem| Error::Row { path: path.into(), row: 1, problem };
    let (ending, compression) = endings(path);
    match ending.as_str() {
        "jsonl" | "ndjson" => Ok(Box::new(JsonLines::new(open_text(path, compression, bytes)?))),
        "json" => {
            let mut reader = BufReader::with_capacity(1 << 16, open_text(path, compression, bytes)?);
            let first = reader.fill_buf().map_err(read)?.iter().find(|byte| !byte.is_ascii_whitespace()).copied();
            if first == Some(b'[') {
                return Ok(Box::new(JsonList::new(Box::new(reader))));
            }
            let mut line = vec![];
            (&mut reader).take(MAX_ROW as u64).read_until(b'\n', &mut line).map_err(read)?;
            let is_whole = serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_ok();
            let is_last = reader.fill_buf().map_err(read)?.is_empty();
            let file_reader = Box::new(Cursor::new(line).chain(reader));
            if is_whole && !is_last {
                return Ok(Box::new(JsonLines::new(file_reader)));
            }
            Ok(Box::new(document::rows(file_reader).map_err(refuse)?.into_iter()))
        }
        "csv" | "tsv" => {
            let delimiter = if ending == "csv" { b',' } else { b'\t' };
            Ok(Box::new(Csv::new(open_text(path, compression, bytes)?, delimiter).map_err(refuse)?))
        }
        "parquet" => Ok(Box::new(ParquetRows::open(path, open_seekable(path, compression)?, bytes)?)),
        _ => Err(Error::Format { path: path.into() }),
    }
}

/// A text file's bytes without a byte order mark.
fn open_text(path: &Path, compression: Compression, read_bytes: &BytesRead) -> Result<Box<dyn Read + Send>> {
    let mut bytes = open_bytes(path, compression, read_bytes)?;
    let mut start = vec![];
    let read = |source| Error::Read { path: path.into(), source };
    (&mut bytes).take(START).read_to_end(&mut start).map_err(read)?;
    if let Some(problem) = foreign_format(&start) {
        return Err(Error::Paths { path: path.into(), problem: problem.into() });
    }
    if start.starts_with(BOM) {
        start.drain(..BOM.len());
    }
    Ok(Box::new(Cursor::new(start).chain(bytes)))
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
