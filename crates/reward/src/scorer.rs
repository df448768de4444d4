//! The one question every judge answers.

use crate::Result;
use duel_model::Responses;

/// Scores whole responses.
pub trait Scorer: Send + Sync {
    /// One number a row, higher is better.
    fn score(&self, batch: &Responses) -> Result<Vec<f64>>;

    /// Called once when nothing more will be scored.
    ///
    /// # Errors
    /// What was wrong with the scores given so far.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
