//! Statistics, charts, tables and the page, from ledgers alone. Never compiles a tensor.

mod calibration;
mod canvas;
mod error;
mod figures;
mod format;
mod frontier;
mod over;
mod page;
mod parallel;
mod run;
mod sensitivity;
pub mod stats;
mod tables;
mod tuning;

pub use error::Error;
pub use run::{Mark, Point, Run};
pub use tuning::{Tried, Tuning, Worth};

use std::path::{Path, PathBuf};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What a report came to.
#[derive(Debug, Clone)]
pub struct Written {
    pub page: PathBuf,
    /// What a person should know before they believe it.
    pub warnings: Vec<String>,
}

/// Writes `report/` of a run: charts, tables, and the page.
///
/// # Errors
/// A run whose parquet files are missing or damaged; a folder that cannot be written.
pub fn write(run: &Path) -> Result<Written> {
    let run = Run::read(run)?;
    let tuning = if run.experiment.is_tuned() {
        let cells = duel_ledger::cells_of(&run.folder, &run.experiment)?;
        Tuning::read(&run.folder, &run.experiment, &cells)?
    } else {
        Tuning::of(&run)
    };
    let report = run.folder.join("report");
    for folder in ["charts", "tables"] {
        let path = report.join(folder);
        std::fs::create_dir_all(&path).map_err(|source| Error::Write { path, source })?;
    }
    let warnings = sensitivity::edges(&run, &tuning);
    let charts = figures::draw(&run, &tuning, &report.join("charts"))?;
    let tables = tables::write(&run, &tuning, &report.join("tables"))?;
    let page = report.join("index.html");
    duel_ledger::write_atomically(&page, page::fill(&run, &charts, &tables, &warnings)?.as_bytes())?;
    Ok(Written { page, warnings })
}
