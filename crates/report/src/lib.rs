//! Statistics, charts, tables and the page, from ledgers alone. Never compiles a tensor.

mod calibration;
mod canvas;
#[cfg(test)]
mod claims_at_their_edges;
mod compare;
mod effects;
mod error;
mod export;
mod figures;
mod format;
mod frontier;
mod idle;
mod over;
mod page;
mod parallel;
mod pdf;
mod reach;
mod run;
mod said;
mod sensitivity;
pub mod stats;
mod tables;
mod theme;
mod tuning;
mod verdict;
mod wins;
#[cfg(test)]
mod wiring;

pub use compare::compare;
pub use error::Error;
pub use export::{ChartFormat, Theme, Width, figure, figures};
pub use format::{fixed, signed};
pub use idle::LEFT_OUT;
pub use run::{EvalPoint, MeasuredPoint, Missing, Run};
pub use said::{SampledResponse, TokenSpan, page as said_page};
pub use tuning::{TrialResult, TrialScore, TuningResults};
pub use verdict::{ClaimResult, ClaimTest, TrainingBudget, Verdict};

use std::path::{Path, PathBuf};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// What a report came to.
#[derive(Debug, Clone)]
pub struct ReportSummary {
    pub page: PathBuf,
    /// What a person should know before they believe it.
    pub warnings: Vec<String>,
}

/// What a run tried, for a choice or for the comparison itself.
fn searched(run: &Run) -> Result<TuningResults> {
    if !run.experiment.is_tuned() {
        return Ok(TuningResults::of(run));
    }
    let cells = duel_ledger::cells_of(&run.folder, &run.experiment)?;
    TuningResults::read(&run.folder, &run.experiment, &cells)
}

/// The claims of a run's experiment, judged.
#[derive(Debug, Clone)]
pub struct JudgedClaims {
    pub verdicts: Vec<ClaimResult>,
    /// What a person should know before they believe them.
    pub warnings: Vec<String>,
}

/// Judges the claims of a run's experiment.
///
/// # Errors
/// A run whose tables are damaged, or not of its experiment.
pub fn judge(run: &Path) -> Result<JudgedClaims> {
    let run = Run::read(run)?;
    let tuning = searched(&run)?;
    Ok(JudgedClaims { verdicts: verdict::judge(&run, &tuning), warnings: run.notes() })
}

/// Writes `report/` of a run: charts, tables, and the page.
///
/// # Errors
/// A run whose tables are damaged, or not of its experiment; a folder that cannot be written.
pub fn write(run: &Path) -> Result<ReportSummary> {
    let run = Run::read(run)?;
    let tuning = searched(&run)?;
    let report = run.folder.join("report");
    for folder in ["charts", "tables"] {
        let path = report.join(folder);
        std::fs::create_dir_all(&path).map_err(|source| Error::Write { path, source })?;
    }
    let edges = sensitivity::edges(&run, &tuning);
    let verdicts = verdict::judge(&run, &tuning);
    let charts = figures::draw(&run, &tuning, &report.join("charts"))?;
    let tables = tables::write(&run, &tuning, &verdicts, &report.join("tables"))?;
    let page = report.join("index.html");
    duel_ledger::write_atomically(&page, page::fill(&run, &charts, &tables, &edges, &verdicts)?.as_bytes())?;
    let weak = calibration::at_chance(&run);
    let warnings = run.notes().into_iter().chain(weak).chain(idle::warnings(&run)).chain(edges).collect();
    Ok(ReportSummary { page, warnings })
}
