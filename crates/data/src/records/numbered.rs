//! Rows with their lines.

/// The line of a row, or its number in a parquet file, and the row or what is wrong with it.
pub type NumberedRecord<T> = (usize, std::result::Result<T, String>);
