//! Parquet files. What a run writes and reads is a table of typed columns without nulls; files from other programs are held to
//! limits before the library allocates memory for it, and the library's panics are errors of the file.

mod catch_panic;
mod limits;
mod pages;
mod table;

pub use catch_panic::catch_panic;
pub use limits::guarded;
pub use pages::{CheckedReader, open};
pub use table::{Column, ColumnTable, TableReader, TableWriter};

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Damaged(String),
    #[error("it has no column `{0}` of the expected type")]
    NoColumn(String),
}

/// What this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
