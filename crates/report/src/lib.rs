//! Statistics, charts, tables and the page, from ledgers alone. Never compiles a tensor.

mod calibration;
mod canvas;
mod error;
mod figures;
mod format;
mod frontier;
mod over;
mod page;
mod run;
pub mod stats;
mod tables;

pub use error::Error;
pub use run::{Mark, Point, Run};

use std::path::{Path, PathBuf};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Writes `report/` of a run: charts, tables, and the page, whose path it returns.
///
/// # Errors
/// A run whose parquet files are missing or damaged; a folder that cannot be written.
pub fn write(run: &Path) -> Result<PathBuf> {
    let run = Run::read(run)?;
    let report = run.folder.join("report");
    for folder in ["charts", "tables"] {
        let path = report.join(folder);
        std::fs::create_dir_all(&path).map_err(|source| Error::Write { path, source })?;
    }
    let charts = figures::draw(&run, &report.join("charts"))?;
    let tables = tables::write(&run, &report.join("tables"))?;
    let page = report.join("index.html");
    duel_ledger::write_atomically(&page, page::fill(&run, &charts, &tables)?.as_bytes())?;
    Ok(page)
}
