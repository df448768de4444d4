//! Statistics, charts, tables and the page, from ledgers alone.

mod error;
pub use error::Error;

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Writes `report/` of a run.
pub fn write(run: &std::path::Path) -> Result<std::path::PathBuf> {
    let _ = duel_ledger::read_metrics(&run.join("metrics.parquet"))?;
    Ok(run.join("report/index.html"))
}
