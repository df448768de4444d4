//! Tables of typed columns, in memory and in files.

use crate::{CheckedReader, Error, Result, guarded, open};
use parquet::basic::{Compression, LogicalType, Repetition, Type as PhysicalType, ZstdLevel};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::reader::FileReader;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::Type;
use std::collections::HashSet;
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

/// Rows of a row group that is written.
const GROUP_ROWS: usize = 1 << 18;
/// Rows that any file may have; runs write far fewer.
const MAX_ROWS: i64 = 1 << 30;
/// Rows that [`TableReader::read_all`] reads at a time.
const BATCH: usize = 1 << 16;

/// The values of one column.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    /// UTF-8. Equal texts of one file share their memory.
    Text(Vec<Arc<str>>),
    U64(Vec<u64>),
    U32(Vec<u32>),
    F64(Vec<f64>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
}

/// The same of a column's values, whatever their type.
macro_rules! of_values {
    ($column:expr, $values:ident => $result:expr) => {
        match $column {
            Column::Text($values) => $result,
            Column::U64($values) => $result,
            Column::U32($values) => $result,
            Column::F64($values) => $result,
            Column::F32($values) => $result,
            Column::Bool($values) => $result,
        }
    };
}

impl Column {
    fn len(&self) -> usize {
        of_values!(self, values => values.len())
    }

    fn clear(&mut self) {
        of_values!(self, values => values.clear());
    }

    /// The values of some rows.
    fn slice(&self, rows: Range<usize>) -> Self {
        match self {
            Self::Text(values) => Self::Text(values[rows].to_vec()),
            Self::U64(values) => Self::U64(values[rows].to_vec()),
            Self::U32(values) => Self::U32(values[rows].to_vec()),
            Self::F64(values) => Self::F64(values[rows].to_vec()),
            Self::F32(values) => Self::F32(values[rows].to_vec()),
            Self::Bool(values) => Self::Bool(values[rows].to_vec()),
        }
    }

    /// Appends another column of the same type; whether it is one.
    fn append(&mut self, other: Self) -> bool {
        match (self, other) {
            (Self::Text(all), Self::Text(mut more)) => all.append(&mut more),
            (Self::U64(all), Self::U64(mut more)) => all.append(&mut more),
            (Self::U32(all), Self::U32(mut more)) => all.append(&mut more),
            (Self::F64(all), Self::F64(mut more)) => all.append(&mut more),
            (Self::F32(all), Self::F32(mut more)) => all.append(&mut more),
            (Self::Bool(all), Self::Bool(mut more)) => all.append(&mut more),
            _ => return false,
        }
        true
    }

    /// The type of a column in the file.
    fn field(&self, name: &str) -> std::result::Result<Type, ParquetError> {
        let (physical, logical) = match self {
            Self::Text(_) => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
            Self::U64(_) => (PhysicalType::INT64, Some(LogicalType::integer(64, false))),
            Self::U32(_) => (PhysicalType::INT32, Some(LogicalType::integer(32, false))),
            Self::F64(_) => (PhysicalType::DOUBLE, None),
            Self::F32(_) => (PhysicalType::FLOAT, None),
            Self::Bool(_) => (PhysicalType::BOOLEAN, None),
        };
        let builder = Type::primitive_type_builder(name, physical).with_repetition(Repetition::REQUIRED);
        builder.with_logical_type(logical).build()
    }
}

/// Named columns of one length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ColumnTable {
    columns: Vec<(String, Column)>,
}

/// Columns by name and type.
macro_rules! getters {
    ($($method:ident, $variant:ident, $item:ty;)*) => {
        $(
            /// The values of a column of this type.
            ///
            /// # Errors
            /// [`Error::NoColumn`].
            pub fn $method(&self, name: &str) -> Result<&[$item]> {
                match self.columns.iter().find(|(known, _)| known == name) {
                    Some((_, Column::$variant(values))) => Ok(values),
                    _ => Err(Error::NoColumn(name.into())),
                }
            }
        )*
    };
}

impl ColumnTable {
    /// With one more column.
    #[must_use]
    pub fn with(mut self, name: &str, column: Column) -> Self {
        self.columns.push((name.into(), column));
        self
    }

    /// With one more column of texts.
    #[must_use]
    pub fn with_text<'a>(self, name: &str, texts: impl Iterator<Item = &'a str>) -> Self {
        let mut interner = Interner::default();
        self.with(name, Column::Text(texts.map(|text| interner.intern(text)).collect()))
    }

    /// Name and type of each column.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let kind = |column: &Column| match column {
            Column::Text(_) => "text",
            Column::U64(_) => "u64",
            Column::U32(_) => "u32",
            Column::F64(_) => "f64",
            Column::F32(_) => "f32",
            Column::Bool(_) => "bool",
        };
        self.columns.iter().map(move |(name, column)| (name.as_str(), kind(column)))
    }

    /// Rows of the table.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    getters! {
        text, Text, Arc<str>;
        u64, U64, u64;
        u32, U32, u32;
        f64, F64, f64;
        f32, F32, f32;
        bool, Bool, bool;
    }

    /// Some of its rows.
    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let columns = self.columns.iter().map(|(name, column)| (name.clone(), column.slice(rows.clone())));
        Self { columns: columns.collect() }
    }

    /// Appends the rows of a table with the same columns.
    fn append(&mut self, other: Self) -> Result<()> {
        if self.columns.is_empty() {
            *self = other;
            return Ok(());
        }
        let same = self.columns.len() == other.columns.len();
        for ((name, all), (other_name, more)) in self.columns.iter_mut().zip(other.columns) {
            if !same || *name != other_name || !all.append(more) {
                return Err(Error::NoColumn(name.clone()));
            }
        }
        Ok(())
    }
}

/// One copy of every text.
#[derive(Debug, Default)]
struct Interner {
    texts: HashSet<Arc<str>>,
    last: Option<Arc<str>>,
}

impl Interner {
    fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(last) = &self.last
            && **last == *text
        {
            return last.clone();
        }
        let shared = match self.texts.get(text) {
            Some(known) => known.clone(),
            None => {
                let fresh: Arc<str> = text.into();
                self.texts.insert(fresh.clone());
                fresh
            }
        };
        self.last = Some(shared.clone());
        shared
    }
}

/// Reads a file piece by piece.
pub struct TableReader {
    file: CheckedReader,
    /// The next row group, and the columns of the current one.
    group: usize,
    columns: Vec<ColumnReader>,
    /// Rows of the current group that have not been read.
    unread: usize,
    interner: Interner,
}

impl std::fmt::Debug for TableReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TableReader({} rows)", self.rows())
    }
}

impl TableReader {
    /// Opens a file of flat columns, every size and count of which agrees with its length.
    ///
    /// # Errors
    /// A file that is damaged, or that claims more than its bytes can hold.
    pub fn open(file: File) -> Result<Self> {
        let file = open(file)?;
        let (rows, descriptor) =
            (file.metadata().file_metadata().num_rows(), file.metadata().file_metadata().schema_descr());
        let in_groups: i64 = file.metadata().row_groups().iter().map(|group| group.num_rows()).sum();
        if !(0..=MAX_ROWS).contains(&rows) || rows != in_groups {
            return Err(Error::Damaged(format!(
                "it claims {rows} rows, {in_groups} of them in row groups; at most {MAX_ROWS} are read"
            )));
        }
        if let Some(nested) =
            descriptor.columns().iter().find(|column| column.max_rep_level() > 0 || column.max_def_level() > 1)
        {
            return Err(Error::Damaged(format!("the column `{}` is nested", nested.path().string())));
        }
        Ok(Self { file, group: 0, columns: vec![], unread: 0, interner: Interner::default() })
    }

    /// Rows of the file.
    pub fn rows(&self) -> usize {
        self.file.metadata().file_metadata().num_rows() as usize
    }

    /// The next rows, at most `max_rows`; nothing at the end of the file.
    ///
    /// # Errors
    /// A file that is damaged, or has a null.
    pub fn read(&mut self, max_rows: usize) -> Result<Option<ColumnTable>> {
        while self.unread == 0 {
            if self.group == self.file.num_row_groups() {
                return Ok(None);
            }
            let (file, index) = (&self.file, self.group);
            self.columns = guarded(|| {
                let group = file.get_row_group(index)?;
                (0..group.num_columns()).map(|column| group.get_column_reader(column)).collect()
            })?;
            self.unread = file.metadata().row_group(index).num_rows() as usize;
            self.group += 1;
        }
        let rows = max_rows.min(self.unread);
        let mut table = ColumnTable::default();
        let descriptor = self.file.metadata().file_metadata().schema_descr();
        for (column, reader) in descriptor.columns().iter().zip(&mut self.columns) {
            let name = column.path().string();
            let is_nullable = column.max_def_level() > 0;
            let interner = &mut self.interner;
            let values = guarded(|| read_column(reader, rows, is_nullable, interner));
            let column = values.map_err(|e| Error::Damaged(format!("the column `{name}`: {e}")))?;
            table = table.with(&name, column);
        }
        self.unread -= rows;
        Ok(Some(table))
    }

    /// The columns without rows.
    pub fn empty(&self) -> ColumnTable {
        let descriptor = self.file.metadata().file_metadata().schema_descr();
        descriptor.columns().iter().fold(ColumnTable::default(), |table, column| {
            let values = match column.physical_type() {
                PhysicalType::INT64 => Column::U64(vec![]),
                PhysicalType::INT32 => Column::U32(vec![]),
                PhysicalType::DOUBLE => Column::F64(vec![]),
                PhysicalType::FLOAT => Column::F32(vec![]),
                PhysicalType::BOOLEAN => Column::Bool(vec![]),
                _ => Column::Text(vec![]),
            };
            table.with(&column.path().string(), values)
        })
    }

    /// All rows that have not been read.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_all(&mut self) -> Result<ColumnTable> {
        let mut all = self.empty();
        while let Some(piece) = self.read(BATCH)? {
            all.append(piece)?;
        }
        Ok(all)
    }
}

fn read_column(
    reader: &mut ColumnReader,
    rows: usize,
    is_nullable: bool,
    interner: &mut Interner,
) -> std::result::Result<Column, ParquetError> {
    Ok(match reader {
        ColumnReader::ByteArrayColumnReader(reader) => {
            let values = read_values(reader, rows, is_nullable)?;
            let texts = values.iter().map(|bytes: &ByteArray| Ok(interner.intern(bytes.as_utf8()?)));
            Column::Text(texts.collect::<std::result::Result<_, ParquetError>>()?)
        }
        ColumnReader::Int64ColumnReader(reader) => {
            Column::U64(read_values(reader, rows, is_nullable)?.into_iter().map(i64::cast_unsigned).collect())
        }
        ColumnReader::Int32ColumnReader(reader) => {
            Column::U32(read_values(reader, rows, is_nullable)?.into_iter().map(i32::cast_unsigned).collect())
        }
        ColumnReader::DoubleColumnReader(reader) => Column::F64(read_values(reader, rows, is_nullable)?),
        ColumnReader::FloatColumnReader(reader) => Column::F32(read_values(reader, rows, is_nullable)?),
        ColumnReader::BoolColumnReader(reader) => Column::Bool(read_values(reader, rows, is_nullable)?),
        _ => return Err(ParquetError::General("a type that no run writes".into())),
    })
}

/// So many values; a null, or fewer, is an error.
fn read_values<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    is_nullable: bool,
) -> std::result::Result<Vec<T::T>, ParquetError> {
    let (mut values, mut levels) = (Vec::with_capacity(rows), vec![]);
    while values.len() < rows {
        levels.clear();
        let before = values.len();
        let levels = is_nullable.then_some(&mut levels);
        let (records, read, _) = reader.read_records(rows - before, levels, None, &mut values)?;
        if records == 0 || read != records || values.len() != before + records {
            return Err(ParquetError::General(format!("{} values in {rows} rows", before + read)));
        }
    }
    Ok(values)
}

/// Writes tables with the same columns one after another into one file, compressed with zstd.
#[derive(Debug, Default)]
pub struct TableWriter {
    writer: Option<SerializedFileWriter<Vec<u8>>>,
    pending: ColumnTable,
}

impl TableWriter {
    /// Appends rows.
    ///
    /// # Errors
    /// A table with other columns than those before.
    pub fn write(&mut self, table: ColumnTable) -> Result<()> {
        if self.pending.rows() > 0 && self.pending.rows() + table.rows() > GROUP_ROWS {
            self.flush()?;
        }
        self.pending.append(table)
    }

    /// Writes the pending rows as a row group.
    fn flush(&mut self) -> Result<()> {
        let Self { writer, pending } = self;
        guarded(|| {
            let writer = match writer {
                Some(writer) => writer,
                None => writer.insert(new_writer(pending)?),
            };
            if pending.rows() == 0 {
                return Ok(());
            }
            let mut group = writer.next_row_group()?;
            for (_, column) in &pending.columns {
                let Some(mut out) = group.next_column()? else {
                    return Err(ParquetError::General("it has more columns than its schema".into()));
                };
                match column {
                    Column::Text(values) => {
                        let bytes: Vec<ByteArray> = values.iter().map(|text| ByteArray::from(&**text)).collect();
                        out.typed::<parquet::data_type::ByteArrayType>().write_batch(&bytes, None, None)?
                    }
                    Column::U64(values) => {
                        let signed: Vec<i64> = values.iter().map(|x| x.cast_signed()).collect();
                        out.typed::<parquet::data_type::Int64Type>().write_batch(&signed, None, None)?
                    }
                    Column::U32(values) => {
                        let signed: Vec<i32> = values.iter().map(|x| x.cast_signed()).collect();
                        out.typed::<parquet::data_type::Int32Type>().write_batch(&signed, None, None)?
                    }
                    Column::F64(values) => {
                        out.typed::<parquet::data_type::DoubleType>().write_batch(values, None, None)?
                    }
                    Column::F32(values) => {
                        out.typed::<parquet::data_type::FloatType>().write_batch(values, None, None)?
                    }
                    Column::Bool(values) => {
                        out.typed::<parquet::data_type::BoolType>().write_batch(values, None, None)?
                    }
                };
                out.close()?;
            }
            group.close().map(drop)
        })?;
        // the columns stay: whatever follows has the same
        pending.columns.iter_mut().for_each(|(_, column)| column.clear());
        Ok(())
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// What the library refuses.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        if self.pending.rows() > 0 || self.writer.is_none() {
            self.flush()?;
        }
        let writer = self.writer.ok_or_else(|| Error::Damaged("nothing was written".into()))?;
        guarded(|| writer.into_inner())
    }
}

fn new_writer(table: &ColumnTable) -> std::result::Result<SerializedFileWriter<Vec<u8>>, ParquetError> {
    let fields: std::result::Result<Vec<_>, ParquetError> =
        table.columns.iter().map(|(name, column)| column.field(name).map(Arc::new)).collect();
    let schema = Type::group_type_builder("schema").with_fields(fields?).build()?;
    let properties = WriterProperties::builder()
        .set_created_by("duel".into())
        .set_statistics_enabled(EnabledStatistics::None)
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?));
    SerializedFileWriter::new(vec![], Arc::new(schema), Arc::new(properties.build()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: usize) -> ColumnTable {
        let texts = ["loss", "loss", "", "größe"];
        ColumnTable::default()
            .with_text("text", (0..rows).map(|row| texts[row % 4]))
            .with("u64", Column::U64((0..rows as u64).map(|row| u64::MAX - row).collect()))
            .with("u32", Column::U32((0..rows as u32).map(|row| u32::MAX - row).collect()))
            .with("f64", Column::F64((0..rows).map(|row| 1.0 / (1.0 + row as f64)).collect()))
            .with("f32", Column::F32((0..rows).map(|row| row as f32 * 0.1).collect()))
            .with("bool", Column::Bool((0..rows).map(|row| row % 3 == 0).collect()))
    }

    fn file(bytes: &[u8]) -> File {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        file.reopen().expect("there")
    }

    /// What is written is read again, in pieces of any size, over several row groups, and with no rows at all.
    #[test]
    fn a_table_is_read_as_it_was_written() -> Result<()> {
        for (pieces, max_rows) in
            [(vec![0], 10), (vec![1], 1), (vec![10, 0, 7], 4), (vec![GROUP_ROWS - 1, 5, 70_000], 1 << 20)]
        {
            let mut writer = TableWriter::default();
            let mut expected = ColumnTable::default();
            for rows in pieces {
                writer.write(table(rows))?;
                expected.append(table(rows))?;
            }
            let bytes = writer.finish()?;
            let mut reader = TableReader::open(file(&bytes))?;
            assert_eq!(reader.rows(), expected.rows());
            let mut actual = ColumnTable::default();
            while let Some(piece) = reader.read(max_rows)? {
                assert!(piece.rows() > 0 && piece.rows() <= max_rows);
                actual.append(piece)?;
            }
            if expected.rows() > 0 {
                assert_eq!(actual, expected);
                assert_eq!(actual.text("text")?[0], "loss".into());
                assert!(matches!(actual.u32("u64"), Err(Error::NoColumn(_))));
            }
        }
        let mut writer = TableWriter::default();
        writer.write(table(3))?;
        assert!(writer.write(ColumnTable::default().with("text", Column::U32(vec![1]))).is_err(), "other columns");
        // also once a whole row group was written
        let column = |name: &str, rows| ColumnTable::default().with(name, Column::U32(vec![7; rows]));
        let mut writer = TableWriter::default();
        writer.write(column("a", GROUP_ROWS))?;
        assert!(writer.write(column("b", 1)).is_err(), "a column of another name");
        Ok(())
    }

    /// NaN and infinity are values as others are.
    #[test]
    fn every_bit_of_a_number_is_kept() -> Result<()> {
        let values = [f64::NAN, f64::INFINITY, -0.0, f64::MIN_POSITIVE / 2.0];
        let mut writer = TableWriter::default();
        writer.write(ColumnTable::default().with("value", Column::F64(values.to_vec())))?;
        let read = TableReader::open(file(&writer.finish()?))?.read_all()?;
        assert!(read.f64("value")?.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits()));
        Ok(())
    }
}
