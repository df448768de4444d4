//! `search.json`: the rounds of trials that a search has asked for so far, the comparison's own last.

use crate::files::{MOST_TEXT, read_bounded, write_atomically};
use crate::{Error, Result};
use duel_spec::{Cell, Experiment, Trial};
use std::path::Path;

/// The rounds of a run, in order; none where nothing is searched.
pub fn read_rounds(run: &Path) -> Result<Vec<Vec<Trial>>> {
    let path = run.join("search.json");
    match read_bounded(&path, MOST_TEXT) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map_err(|e| Error::Damaged { path: path.clone(), problem: e.to_string() })
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(vec![]),
        Err(source) => Err(crate::files::io("read", &path)(source)),
    }
}

/// Writes them, unless they stand there already with more behind them: a run that is resumed comes by its rounds again, and
/// workers elsewhere may be reading.
pub fn write_rounds(run: &Path, rounds: &[Vec<Trial>]) -> Result<()> {
    if read_rounds(run).is_ok_and(|there| there.starts_with(rounds)) {
        return Ok(());
    }
    write_atomically(&run.join("search.json"), &serde_json::to_vec_pretty(rounds).expect("plain data"))
}

/// Takes down the rounds of an earlier experiment.
pub fn forget_rounds(run: &Path) -> Result<()> {
    let path = run.join("search.json");
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(crate::files::io("remove", &path)(e)),
        _ => Ok(()),
    }
}

/// Every cell that a run has come to so far.
pub fn cells_of(run: &Path, experiment: &Experiment) -> Result<Vec<Cell>> {
    if !experiment.is_tuned() {
        return Ok(experiment.cells_for(&experiment.trials()));
    }
    let rounds = read_rounds(run)?;
    let fits = |trial: &Trial| experiment.arms.get(&trial.arm).is_none_or(|arm| arm.fits(&trial.settings));
    if let Some(trial) = rounds.iter().flatten().find(|trial| !fits(trial)) {
        let problem = format!("it asks for a point of arm `{}` that the arm cannot have", trial.arm);
        return Err(Error::Damaged { path: run.join("search.json"), problem });
    }
    Ok(rounds.iter().flat_map(|round| experiment.cells_for(round)).collect())
}
