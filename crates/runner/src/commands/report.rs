//! `duel report`: charts, tables and the page, from the parquet files alone.

use crate::error::Result;
use crate::terminal::{print, warn};
use clap::Args;
use duel_report::ReportSummary;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run directory, for example runs/article; of several, the page compares them
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// Where the page of several runs goes
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Draw this chart alone; `list` names those that there are
    #[arg(long, value_name = "NAME")]
    pub figure: Option<String>,
    /// How wide, for example 84mm, 3.3in, 240pt or 800px
    #[arg(long, default_value = "84mm", requires = "figure")]
    pub width: duel_report::Width,
    /// svg, png or pdf
    #[arg(long, default_value = "svg", requires = "figure")]
    pub format: duel_report::ChartFormat,
    /// light or dark
    #[arg(long, default_value = "light", requires = "figure")]
    pub theme: duel_report::Theme,
    /// The file that is written; by its default, NAME.FORMAT here
    #[arg(long, value_name = "FILE", requires = "figure")]
    pub output: Option<PathBuf>,
}

/// Prints the path of a page, and its warnings.
pub fn announce_files(ReportSummary { page, warnings }: ReportSummary) {
    let warnings: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    print(&format!("{warnings}{}\n", page.display()));
}

/// Writes the report of a run, one chart of it, or the page that compares several.
pub fn report(args: &ReportArgs) -> Result<()> {
    match (&args.runs[..], &args.figure) {
        ([run], None) => announce_files(duel_report::write(run)?),
        ([run], Some(name)) if name == "list" => print(&(duel_report::figures(run)?.join("\n") + "\n")),
        ([run], Some(name)) => {
            let (bytes, warnings) = duel_report::figure(run, name, args.width, args.format, args.theme)?;
            warn(&warnings);
            let path = args.output.clone().unwrap_or_else(|| format!("{name}.{}", args.format).into());
            duel_ledger::write_atomically(&path, &bytes)?;
            print(&format!("{}\n", path.display()));
        }
        (runs, _) => {
            let beside = runs[0].parent().unwrap_or(Path::new("."));
            let to = args.to.clone().unwrap_or_else(|| beside.join("comparison"));
            announce_files(duel_report::compare(runs, &to)?);
        }
    }
    Ok(())
}
