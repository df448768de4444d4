//! The one question every judge answers.

use crate::Result;
use duel_model::Responses;

/// Scores whole responses.
pub trait Scorer: Send + Sync {
    /// One number a row, higher is better.
    fn score(&self, batch: &Responses) -> Result<Vec<f64>>;
}
