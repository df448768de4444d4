//! `search.json`: the rounds of trials of a search so far, with the comparison as the last one.

use crate::error::{Error, Result};
use crate::files::{MAX_TEXT, io, read_bounded, write_atomically};
use duel_spec::{Cell, Experiment, Trial};
use std::path::Path;

/// The rounds of a run, in order; none without a search.
pub fn read_rounds(run: &Path) -> Result<Vec<Vec<Trial>>> {
    let path = run.join("search.json");
    match read_bounded(&path, MAX_TEXT) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|e| Error::Damaged { path: path.clone(), problem: e.to_string() })
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        Err(source) => Err(io("read", &path)(source)),
    }
}

/// Writes them, unless the file already starts with them: a resumed run repeats its rounds, while other workers may be reading.
pub fn write_rounds(run: &Path, rounds: &[Vec<Trial>]) -> Result<()> {
    if read_rounds(run).is_ok_and(|written| written.starts_with(rounds)) {
        return Ok(());
    }
    write_atomically(&run.join("search.json"), &serde_json::to_vec_pretty(rounds).expect("plain data"))
}

/// Removes the rounds of an earlier experiment.
pub fn forget_rounds(run: &Path) -> Result<()> {
    let path = run.join("search.json");
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// Every cell of a run so far.
pub fn cells_of(run: &Path, experiment: &Experiment) -> Result<Vec<Cell>> {
    if !experiment.is_tuned() {
        return Ok(experiment.cells_for(&experiment.trials()));
    }
    let rounds = read_rounds(run)?;
    let fits = |trial: &Trial| experiment.arms.get(&trial.arm).is_none_or(|arm| arm.fits(&trial.settings));
    if let Some(trial) = rounds.iter().flatten().find(|trial| !fits(trial)) {
        let problem = format!("it contains a point that arm `{}` cannot have", trial.arm);
        return Err(Error::Damaged { path: run.join("search.json"), problem });
    }
    Ok(rounds.iter().flat_map(|round| experiment.cells_for(round)).collect())
}
