//! Gold scorers: known to the experimenter, hidden from the methods.

use crate::{Result, Scorer};
use duel_data::grammar::{PromptCoordinates, gold};
use duel_model::Responses;

/// The formula of the world `grammar` (docs/worlds.md, Gold reward).
#[derive(Debug, Clone, Copy)]
pub struct GrammarGold;

impl Scorer for GrammarGold {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        Ok(batch
            .prompts
            .iter()
            .zip(&batch.responses)
            .map(|(p, r)| gold(PromptCoordinates::from_prompt(p), r))
            .collect())
    }
}
