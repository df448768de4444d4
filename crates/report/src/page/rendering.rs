//! The files of a report's charts, and what the page holds of each.

use crate::analysis::run::Run;
use crate::analysis::tuning::TuningResults;
use crate::charts::catalog::all_figures;
use crate::charts::chart::{Chart, Tooltip};
use crate::charts::figure::Figure;
use crate::charts::output::save;
use crate::charts::theme;
use crate::error::Result;
use crate::page::template::embedded;
use crate::page::text_table::csv;
use std::path::Path;

/// A drawn chart.
#[derive(Debug, serde::Serialize)]
pub(crate) struct RenderedChart {
    pub(crate) name: String,
    pub(crate) group: &'static str,
    pub(crate) alt: String,
    pub(crate) svg: String,
    /// As JSON.
    pub(crate) spots: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    /// As JSON, for the page.
    pub(crate) csv: String,
}

/// Draws every chart into `charts/`, as SVG and PNG, its numbers as CSV beside.
pub(crate) fn draw(run: &Run, tuning: &TuningResults, charts: &Path) -> Result<Vec<RenderedChart>> {
    all_figures(run, tuning).into_iter().map(|chart| render(chart, charts)).collect()
}

/// Draws one chart into a folder.
pub(crate) fn render(Figure { name, group, alt, chart }: Figure, charts: &Path) -> Result<RenderedChart> {
    let (svg, spots) = save(&chart, charts, &name)?;
    let (head, rows) = chart.numbers();
    let csv = csv(&head, &rows)?;
    duel_ledger::write_atomically(&charts.join(format!("{name}.csv")), csv.as_bytes())?;
    let spots = embedded::<[Tooltip]>(&spots)?;
    Ok(RenderedChart { name, group, alt, svg: theme::on_page(&svg), spots, head, rows, csv: embedded(&csv)? })
}
