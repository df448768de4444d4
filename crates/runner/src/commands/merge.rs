//! `duel merge`: runs of one experiment that were made apart, as one run.

use crate::commands::report::announce_files;
use crate::error::{Error, Result};
use crate::merge::{MergeInput, RunPlace, assemble, unite};
use crate::terminal::{print, warn};
use clap::Args;
use duel_ledger::Manifest;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Run directories or folders with a run's committed files, for example first/smollm second/smollm
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// The directory to write the merged run to
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// Replace an earlier merge in that directory
    #[arg(long)]
    pub force: bool,
}

/// Merges the runs, and writes the page of the merged run.
///
/// # Errors
/// Runs of different experiments, or with different results of the same stage; nothing is written then.
pub fn merge(args: &MergeArgs) -> Result<()> {
    let mut runs: Vec<PathBuf> = vec![];
    for run in &args.runs {
        let is_same = |other: &PathBuf| {
            other.canonicalize().ok().is_some_and(|path| run.canonicalize().is_ok_and(|run| run == path))
        };
        if runs.iter().any(is_same) {
            warn(&[format!("`{}` is given more than once, and counts once", run.display())]);
        } else {
            runs.push(run.clone());
        }
    }
    if args.runs.len() == 1 {
        let problem = "there is no other run".into();
        let hint = "name two runs or more: duel merge RUN RUN --into DIR";
        return Err(Error::Unmergeable { path: args.runs[0].clone(), problem, hint });
    }
    let place = RunPlace::new(&args.into, &runs, args.force)?;
    let inputs = runs.iter().map(|run| MergeInput::read(run)).collect::<Result<Vec<_>>>()?;
    let (mut manifest, places) = unite(&inputs, &place.name())?;
    place.write(|to, scratch| assemble(to, scratch, &inputs, &mut manifest, &places))?;
    print(&summary(&manifest, runs.len(), args));

    // drawn at its place: claims may name a run beside it
    let written = duel_report::write(&args.into)?;
    manifest.warnings.clone_from(&written.warnings);
    manifest.write(&args.into)?;
    announce_files(written);
    Ok(())
}

/// What was merged, a line for each part.
fn summary(manifest: &Manifest, runs: usize, args: &MergeArgs) -> String {
    let parts = manifest.parts.iter().map(|part| format!("  {}\n", part.summary(&manifest.plan)));
    let header = format!("merged {runs} run{} into {}:\n", if runs == 1 { "" } else { "s" }, args.into.display());
    header + &parts.collect::<String>()
}
