//! A learned reward: one model or an ensemble, centred and scaled on samples of the SFT policy.

use crate::{Linear, Result, RewardReader, Scorer, TextInput, invariants};
use duel_model::{Responses, ScalarModel};
use duel_spec::EnsembleScore;
use duel_training::invariants::finite;
use std::sync::{Arc, Mutex, PoisonError};

/// Smallest scale of scores: below it is rounding.
const LEAST_SCALE: f64 = 1e-6;

/// A model fitted to preference rows; scores are in units of the labels' log-odds.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one or a few per run")]
pub enum RewardNetwork {
    Network(ScalarModel),
    Linear(Linear),
}

impl RewardNetwork {
    /// Raw scores of responses as the reader reads them.
    fn score(&self, reader: &RewardReader, batch: &Responses) -> Vec<f64> {
        match self {
            Self::Network(model) => reader.scores(model, batch).into_iter().map(f64::from).collect(),
            Self::Linear(linear) => {
                batch.prompts.iter().zip(&batch.responses).map(|(p, r)| linear.score(p, r)).collect()
            }
        }
    }
}

/// An ensemble: `(combined − centre) / scale`, where each member's scores are first centred.
#[derive(Debug, Clone)]
pub struct LearnedReward {
    judges: Vec<(RewardNetwork, f64)>,
    together: EnsembleScore,
    pub(crate) reader: RewardReader,
    /// Mean and standard deviation of the combined scores over SFT samples.
    pub centre: f64,
    pub scale: f64,
}

impl LearnedReward {
    /// Members with the mean of each one's raw scores. Models and `reader` carry no gradient.
    pub fn new(
        judges: Vec<(RewardNetwork, f64)>,
        together: EnsembleScore,
        reader: impl Into<RewardReader>,
        centre: f64,
        scale: f64,
    ) -> Self {
        Self { judges, together, reader: reader.into(), centre, scale }
    }

    /// Centres and scales on samples of the SFT policy.
    pub fn normalized_on(
        judges: Vec<RewardNetwork>,
        together: EnsembleScore,
        reader: impl Into<RewardReader>,
        samples: &Responses,
    ) -> Result<Self> {
        let reader = reader.into();
        let as_read = reader.as_read(samples)?;
        let centred = judges.into_iter().map(|judge| {
            let centre = mean(&judge.score(&reader, &as_read));
            (judge, centre)
        });
        let mut this = Self::new(centred.collect(), together, reader.clone(), 0.0, 1.0);
        let raw = this.score(samples)?;
        this.centre = mean(&raw);
        let squares: Vec<f64> = raw.iter().map(|r| (r - this.centre).powi(2)).collect();
        let sd = mean(&squares).sqrt();
        this.scale = sd.max(LEAST_SCALE);
        let offset = this.judges.iter().map(|(_, centre)| centre.abs()).sum::<f64>() / this.scale;
        invariants::scores_are_normalised(&this.score(samples)?, sd / this.scale, offset)?;
        Ok(this)
    }

    /// The members with the mean of each one's raw scores.
    pub fn judges(&self) -> &[(RewardNetwork, f64)] {
        &self.judges
    }

    /// A value model initialised from the reward: the first network, rescaled to its contribution to the score. `None` where
    /// there is no network that reads the policy's ids.
    pub fn value_model(&self) -> Option<ScalarModel> {
        match self.judges.first() {
            Some((RewardNetwork::Network(model), centre)) if self.reader.text().is_none() => {
                Some(model.clone().rescaled(centre + self.centre, self.scale))
            }
            _ => None,
        }
    }

    /// Sequences so far that were longer than its context; `None` where it reads the policy's ids.
    pub fn cut(&self) -> Option<usize> {
        self.reader.text().map(TextInput::cut)
    }

    /// Number of networks.
    pub fn networks(&self) -> usize {
        self.judges.iter().filter(|(judge, _)| matches!(judge, RewardNetwork::Network(_))).count()
    }

    /// A hash over all weights.
    pub fn hash(&self) -> String {
        let hash = |(judge, _): &(RewardNetwork, f64)| match judge {
            RewardNetwork::Network(model) => model.hash(),
            RewardNetwork::Linear(linear) => format!("{linear:?}"),
        };
        self.judges.iter().map(hash).collect::<Vec<_>>().join(" ")
    }
}

impl Scorer for LearnedReward {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        let as_read = self.reader.as_read(batch)?;
        let each: Vec<Vec<f64>> = self
            .judges
            .iter()
            .map(|(judge, centre)| judge.score(&self.reader, &as_read).into_iter().map(|x| x - centre).collect())
            .collect();
        (0..batch.len())
            .map(|row| {
                let scores: Vec<f64> = each.iter().map(|scores| scores[row]).collect();
                let score = (combined(&scores, self.together) - self.centre) / self.scale;
                finite(0, "a score of the reward model", score)?;
                Ok(score)
            })
            .collect()
    }
}

/// Reads the model of a [`ModelJudge`].
type OpenModel = dyn Fn() -> Result<(ScalarModel, RewardReader)> + Send + Sync;

/// A pretrained reward model as the judge: its raw scores. It is loaded for the first batch.
pub struct ModelJudge {
    open: Box<OpenModel>,
    opened: Mutex<Option<Arc<LearnedReward>>>,
}

impl std::fmt::Debug for ModelJudge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelJudge")
    }
}

impl ModelJudge {
    /// The judge that `open` reads; the model carries no gradient.
    pub fn new(open: impl Fn() -> Result<(ScalarModel, RewardReader)> + Send + Sync + 'static) -> Self {
        Self { open: Box::new(open), opened: Mutex::new(None) }
    }

    fn opened(&self) -> Result<Arc<LearnedReward>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reward) = opened.as_ref() {
            return Ok(reward.clone());
        }
        let (model, reader) = (self.open)()?;
        let judges = vec![(RewardNetwork::Network(model), 0.0)];
        Ok(opened.insert(Arc::new(LearnedReward::new(judges, EnsembleScore::Mean, reader, 0.0, 1.0))).clone())
    }
}

impl Scorer for ModelJudge {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        self.opened()?.score(batch)
    }
}

/// The combined score of one response.
///
/// # Source
/// Coste et al. 2024, eq. 2 to 4; the spread is taken once, where their uncertainty-weighted form has a coefficient on
/// the variance.
fn combined(scores: &[f64], together: EnsembleScore) -> f64 {
    let centre = mean(scores);
    match together {
        EnsembleScore::Mean => centre,
        EnsembleScore::Worst => scores.iter().copied().fold(f64::INFINITY, f64::min),
        EnsembleScore::Cautious => {
            let squares: Vec<f64> = scores.iter().map(|x| (x - centre).powi(2)).collect();
            centre - mean(&squares).sqrt()
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combined_scores_by_hand() {
        let scores = [1.0, 2.0, 6.0];
        assert_eq!(combined(&scores, EnsembleScore::Mean), 3.0);
        assert_eq!(combined(&scores, EnsembleScore::Worst), 1.0);
        assert!((combined(&scores, EnsembleScore::Cautious) - (3.0 - (14f64 / 3.0).sqrt())).abs() < 1e-12);
    }
}
