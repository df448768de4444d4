//! `duel report`: charts, tables and the page, from the parquet files alone.

use crate::error::Result;
use crate::terminal::{print, warn};
use clap::Args;
use duel_report::ReportSummary;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// One or more run directories, for example runs/article
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// Where to write the page that compares several runs
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Draw only this chart; `list` prints the names
    #[arg(long, value_name = "NAME")]
    pub figure: Option<String>,
    /// Width, for example 84mm, 3.3in, 240pt or 800px
    #[arg(long, default_value = "84mm", requires = "figure")]
    pub width: duel_report::Width,
    /// File format: svg, png or pdf
    #[arg(long, default_value = "svg", requires = "figure")]
    pub format: duel_report::ChartFormat,
    /// Colours: light or dark
    #[arg(long, default_value = "light", requires = "figure")]
    pub theme: duel_report::Theme,
    /// The file to write [default: NAME.FORMAT in the current directory]
    #[arg(long, value_name = "FILE", requires = "figure")]
    pub output: Option<PathBuf>,
}

/// Prints the path of a page, and its warnings.
pub fn announce_files(ReportSummary { page, finding, warnings }: ReportSummary) {
    let warnings: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    let finding = finding.map_or(String::new(), |finding| finding + "\n");
    print(&format!("{warnings}{finding}{}\n", page.display()));
}

/// What a person may do next with a run: judge its claims, if it has any, and read responses.
pub fn announce_next(run: &Path, claims: usize) {
    let run = run.display();
    let verify = if claims > 0 { format!("`duel verify {run}` judges its claims; ") } else { String::new() };
    print(&format!("next: {verify}`duel sample {run}` compares the arms' responses\n"));
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
