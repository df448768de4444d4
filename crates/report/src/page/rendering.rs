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
    /// As JSON, for the page; `None` of many rows, which the file beside the page has.
    pub(crate) csv: Option<String>,
}

/// Values of a chart that are shown under the pointer, and rows of its numbers that the page itself holds, at most.
const MAX_SPOTS: usize = 1000;
const MAX_CSV_ROWS: usize = 1000;

/// `most` of more values, evenly spread.
fn thinned<T>(all: Vec<T>, most: usize) -> Vec<T> {
    let n = all.len();
    let is_kept = |i: usize| n <= most || i * most / n != (i + 1) * most / n;
    all.into_iter().enumerate().filter(|(i, _)| is_kept(*i)).map(|(_, value)| value).collect()
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
    let spots = embedded::<[Tooltip]>(&thinned(spots, MAX_SPOTS))?;
    let csv = (rows.len() <= MAX_CSV_ROWS).then(|| embedded(&csv)).transpose()?;
    Ok(RenderedChart { name, group, alt, svg: theme::on_page(&svg), spots, head, rows, csv })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_thinned_evenly() {
        assert_eq!(thinned((0..5).collect(), 5), [0, 1, 2, 3, 4]);
        assert_eq!(thinned((0..6).collect(), 3), [1, 3, 5]);
        let kept = thinned((0..5857).collect::<Vec<i32>>(), 1000);
        assert!(kept.len() == 1000 && kept.windows(2).all(|two| (5..=6).contains(&(two[1] - two[0]))));
    }
}
