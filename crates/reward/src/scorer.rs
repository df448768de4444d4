//! The interface of every reward.

use crate::Result;
use duel_model::Responses;
use duel_spec::RewardSource;
use std::sync::Arc;

/// Scores whole responses.
pub trait Scorer: Send + Sync {
    /// One score per row, higher is better.
    fn score(&self, batch: &Responses) -> Result<Vec<f64>>;

    /// The same for training: each of several rewards by itself.
    ///
    /// # Errors
    /// Those of [`Self::score`].
    fn components(&self, batch: &Responses) -> Result<Vec<RewardComponent>> {
        Ok(vec![RewardComponent::alone(self.score(batch)?)])
    }

    /// Called once after the last batch.
    ///
    /// # Errors
    /// What was wrong with earlier scores.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// One of the rewards of a batch of responses.
#[derive(Debug, Clone, PartialEq)]
pub struct RewardComponent {
    /// Which of several it is; `None` where it is the only one.
    pub source: Option<RewardSource>,
    pub weight: f64,
    /// Before the weight, `[B]`.
    pub scores: Vec<f64>,
    /// Of each response the parts that its score is given in, `[B]`; empty where every score is given whole.
    pub parts: Vec<Vec<TokenReward>>,
}

/// A part of a score, given at a token of the response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenReward {
    /// The token's index in the response.
    pub token: usize,
    pub reward: f64,
}

impl RewardComponent {
    /// The only reward, whose scores are given whole.
    pub fn alone(scores: Vec<f64>) -> Self {
        Self { source: None, weight: 1.0, scores, parts: vec![] }
    }

    /// Of these rows alone.
    pub fn select(&self, rows: &[usize]) -> Self {
        let Self { source, weight, scores, parts } = self;
        let scores = rows.iter().map(|&row| scores[row]).collect();
        let parts = rows.iter().filter_map(|&row| parts.get(row).cloned()).collect();
        Self { source: *source, weight: *weight, scores, parts }
    }
}

/// The weighted sum of several rewards, `[B]`.
pub fn weighted_sum(components: &[RewardComponent]) -> Vec<f64> {
    let rows = components.first().map_or(0, |component| component.scores.len());
    let sum = |row: usize| components.iter().map(|term| term.weight * term.scores[row]).reduce(|sum, term| sum + term);
    (0..rows).map(|row| sum(row).unwrap_or_default()).collect()
}

/// The weighted parts of the scores of one response, over several rewards.
pub fn weighted_parts(components: &[RewardComponent], row: usize) -> Vec<TokenReward> {
    let of = |term: &RewardComponent| {
        let (weight, parts) = (term.weight, term.parts.get(row).cloned().unwrap_or_default());
        parts.into_iter().map(move |part| TokenReward { reward: weight * part.reward, ..part })
    };
    components.iter().flat_map(of).collect()
}

/// The weighted sum of several rewards as one.
pub struct WeightedReward {
    terms: Vec<(RewardSource, f64, Arc<dyn Scorer>)>,
}

impl WeightedReward {
    /// Rewards with their weights.
    pub fn new(terms: Vec<(RewardSource, f64, Arc<dyn Scorer>)>) -> Self {
        Self { terms }
    }
}

impl std::fmt::Debug for WeightedReward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.terms.iter().map(|(source, weight, _)| (source, weight))).finish()
    }
}

impl Scorer for WeightedReward {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        Ok(weighted_sum(&self.components(batch)?))
    }

    fn components(&self, batch: &Responses) -> Result<Vec<RewardComponent>> {
        let mut components = vec![];
        for (source, weight, scorer) in &self.terms {
            let named = |component| RewardComponent { source: Some(*source), weight: *weight, ..component };
            components.extend(scorer.components(batch)?.into_iter().map(named));
        }
        Ok(components)
    }
}

/// The tokens of a response, its end token included.
#[derive(Debug, Clone, Copy)]
pub struct ResponseLength;

impl Scorer for ResponseLength {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        Ok(batch.lengths().into_iter().map(|length| length as f64).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scores by the first token of each response.
    struct FirstToken;

    impl Scorer for FirstToken {
        fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
            Ok(batch.responses.iter().map(|response| f64::from(response[0])).collect())
        }
    }

    fn batch() -> Responses {
        let responses = vec![vec![5, 2], vec![7, 8, 2]];
        Responses { prompts: vec![vec![1]; 2], responses, logp: vec![], masks: vec![] }
    }

    #[test]
    fn rewards_are_scored_each_and_summed_by_their_weights() -> Result<()> {
        let terms: Vec<(_, _, Arc<dyn Scorer>)> =
            vec![(RewardSource::Rm, 2.0, Arc::new(FirstToken)), (RewardSource::Length, -0.5, Arc::new(ResponseLength))];
        let reward = WeightedReward::new(terms);
        let components = reward.components(&batch())?;
        let expected = [(RewardSource::Rm, 2.0, [5.0, 7.0]), (RewardSource::Length, -0.5, [2.0, 3.0])];
        let expected = expected.map(|(source, weight, scores)| RewardComponent {
            source: Some(source),
            weight,
            ..RewardComponent::alone(scores.to_vec())
        });
        assert_eq!(components, expected);
        assert_eq!(reward.score(&batch())?, [9.0, 12.5]); // 10 − 1 and 14 − 1.5
        assert_eq!(format!("{reward:?}"), "[(Rm, 2.0), (Length, -0.5)]");
        reward.finish()
    }

    #[test]
    fn parts_count_by_the_weight_of_their_reward() {
        let part = |token, reward| TokenReward { token, reward };
        let whole = RewardComponent::alone(vec![5.0, 7.0]);
        let parts = vec![vec![part(0, 1.0), part(1, 2.0)], vec![part(2, -3.0)]];
        let in_parts = RewardComponent { weight: 0.5, parts, ..RewardComponent::alone(vec![3.0, -3.0]) };
        let components = [whole, in_parts];
        assert_eq!(weighted_parts(&components, 0), [part(0, 0.5), part(1, 1.0)]);
        assert_eq!(weighted_parts(&components, 1), [part(2, -1.5)]);
        assert_eq!(weighted_sum(&components), [6.5, 5.5]);
    }

    #[test]
    fn a_single_reward_is_its_own_sum() -> Result<()> {
        let components = FirstToken.components(&batch())?;
        assert_eq!(components, [RewardComponent::alone(vec![5.0, 7.0])]);
        assert_eq!(weighted_sum(&components), [5.0, 7.0]);
        assert_eq!(weighted_sum(&[]), [0.0; 0]);
        Ok(())
    }
}
