//! The judges that the experimenter knows and the methods do not.

use crate::{Result, Scorer, Sentiment};
use duel_data::grammar::{Task, gold};
use duel_data::reviews::ReviewsWorld;
use duel_model::Responses;
use std::sync::Arc;

/// The formula of task S1.
#[derive(Debug, Clone, Copy)]
pub struct GrammarGold;

impl Scorer for GrammarGold {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        Ok(batch.prompts.iter().zip(&batch.responses).map(|(p, r)| gold(Task::of(p), r)).collect())
    }
}

/// The sentiment model's logit of the first words of prompt and response together, clipped (task S2).
#[derive(Debug, Clone)]
pub struct ReviewsGold {
    pub sentiment: Arc<Sentiment>,
    pub world: Arc<ReviewsWorld>,
    /// Words read at most.
    pub judged_words: usize,
    /// Bound on the logit's size.
    pub clip: f64,
}

impl Scorer for ReviewsGold {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        batch
            .prompts
            .iter()
            .zip(&batch.responses)
            .map(|(prompt, response)| {
                let text = self.world.full_text(prompt, response)?;
                Ok(self.sentiment.logit(&text, self.judged_words).clamp(-self.clip, self.clip))
            })
            .collect()
    }
}
