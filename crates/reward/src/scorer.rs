//! The interface of every reward.

use crate::Result;
use duel_model::Responses;

/// Scores whole responses.
pub trait Scorer: Send + Sync {
    /// One score per row, higher is better.
    fn score(&self, batch: &Responses) -> Result<Vec<f64>>;

    /// Called once after the last batch.
    ///
    /// # Errors
    /// What was wrong with earlier scores.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
