//! The report of a run: its charts, its tables and its page.

use crate::analysis::run::Run;
use crate::analysis::tuning::TuningResults;
use crate::analysis::{calibration, finding, idle, sensitivity, verdict};
use crate::error::{Error, Result};
use crate::page::{rendering, run_page, tables};
use std::path::{Path, PathBuf};

/// A report that was written.
#[derive(Debug, Clone)]
pub struct ReportSummary {
    pub page: PathBuf,
    /// What the run found, in one sentence; `None` of several runs, and of one without arms.
    pub finding: Option<String>,
    /// Warnings to read before believing it.
    pub warnings: Vec<String>,
}

/// Writes `report/` of a run: charts, tables, and the page.
///
/// # Errors
/// A run whose tables are damaged, or not of its experiment; a folder that cannot be written.
pub fn write(run: &Path) -> Result<ReportSummary> {
    let run = Run::read(run)?;
    let tuning = TuningResults::for_run(&run)?;
    let report = run.folder.join("report");
    for folder in ["charts", "tables"] {
        let path = report.join(folder);
        std::fs::create_dir_all(&path).map_err(|source| Error::Write { path, source })?;
    }
    let edges = sensitivity::edges(&run, &tuning);
    let verdicts = verdict::judge(&run, &tuning);
    let charts = rendering::draw(&run, &tuning, &report.join("charts"))?;
    let tables = tables::write(&run, &tuning, &verdicts, &report.join("tables"))?;
    let page = report.join("index.html");
    duel_ledger::write_atomically(&page, run_page::fill(&run, &charts, &tables, &edges, &verdicts)?.as_bytes())?;
    let weak = calibration::at_chance(&run);
    let warnings = run
        .notes()
        .into_iter()
        .chain(weak)
        .chain(calibration::weak_judge_of(&run))
        .chain(idle::warnings(&run))
        .chain(edges)
        .collect();
    Ok(ReportSummary { page, finding: finding::finding(&run), warnings })
}
