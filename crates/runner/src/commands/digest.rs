//! `duel digest`: one hash over all that is deterministic in a run.

use crate::error::Result;
use crate::terminal::{print, warn};
use duel_ledger::Digests;
use std::path::Path;

/// Missing stages that a warning names.
const MAX_NAMED: usize = 6;

/// Prints the hash of a run, or of each of its files.
pub fn digest(run: &Path, detail: bool) -> Result<()> {
    let Digests { all: digests, missing } = duel_ledger::file_digests(run)?;
    if !missing.is_empty() {
        let finished = format!("the run is not finished: this is the digest of all but {} stages", missing.len());
        warn(&[format!("{finished}: {}", duel_ledger::first_and_more(&missing, MAX_NAMED))]);
    }
    if detail {
        digests.iter().for_each(|digest| print(&format!("{}  {}\n", digest.hash, digest.file)));
    } else {
        print(&format!("{}\n", duel_ledger::digest(&digests)));
    }
    Ok(())
}
