//! The reward model: the policy's body under a scalar head, fitted to preference pairs.
//! Stiennon et al. 2020, §3.2. Deviations: none; scores are centred and scaled on SFT samples afterwards.

use crate::{Result, Scorer, invariants};
use burn::tensor::Tensor;
use duel_data::pairs::PreferenceRow;
use duel_model::{Flops, Reader, Responses, Scalar, TransformerConfig, weights};
use duel_objectives::{ChosenRejected, bradley_terry_loss};
use duel_spec::metrics;
use duel_training::{
    Cost, Learner, Method, Metrics, PairBatch, invariants as always, pairs::accuracy, pairs::halves, sft,
};

/// The training of a reward model.
#[derive(Debug)]
pub struct RewardModel {
    reader: Reader,
    flops: Flops,
}

impl RewardModel {
    /// `reader` is on the autodiff device.
    pub fn new(reader: Reader, config: &TransformerConfig) -> Self {
        Self { reader, flops: Flops::scalar(config) }
    }

    fn scores(reader: &Reader, model: &Scalar, pairs: &PairBatch) -> ChosenRejected {
        halves(reader.scores(model, &pairs.both))
    }

    /// What must hold of a reward model as it is at a step, on some pairs.
    ///
    /// # Errors
    /// The broken invariant.
    pub fn check(&self, step: u64, model: &Scalar, pairs: &PairBatch) -> duel_training::Result<()> {
        let (reader, model) = always::without_graph(&self.reader, model);
        always::eos_counts_and_pad_does_not(step, &reader, &pairs.both)?;
        always::padding_is_inert(step, &reader, &pairs.both.first(always::PROBE), |reader, tokens| {
            let space = reader.space();
            model.forward(tokens.clone()).narrow(1, space.prompt_tokens, space.response_tokens) // [B, T]
        })?;
        let loss = |scores| first(bradley_terry_loss(scores, None, 0.0).loss);
        let scores = Self::scores(&reader, &model, pairs);
        let raised = ChosenRejected { chosen: scores.chosen.clone() + 1.0, rejected: scores.rejected.clone() + 1.0 };
        invariants::tied_pairs_cost_ln_2(step, loss(Self::scores(&reader, &model, &pairs.tied())))?;
        invariants::a_constant_changes_no_loss(step, loss(scores), loss(raised))
    }
}

impl Method for RewardModel {
    type Module = Scalar;
    type Batch = PairBatch;

    fn iteration(&mut self, pairs: &PairBatch, learner: &mut Learner<Scalar>) -> duel_training::Result<Metrics> {
        let mut said = Metrics::default();
        if learner.step() == 0 {
            said.check(|| {
                self.check(0, learner.module(), pairs)?;
                always::parts_make_the_same_gradient(learner, pairs.len(), |rows| {
                    let scores = Self::scores(&self.reader, learner.module(), &pairs.select(rows));
                    (bradley_terry_loss(scores, None, 0.0).loss, rows.len() as f64)
                })
            })?;
        }

        // 1. Score both responses of every pair in one pass.
        let scores = Self::scores(&self.reader, learner.module(), pairs);
        let outcome = bradley_terry_loss(scores, None, 0.0);
        let margins = weights::host(outcome.margins.inner()); // [N]

        // 2. Improve.
        let update = learner.minimize(outcome.loss)?;
        let tokens = pairs.both.token_count();
        said.learned(update, Cost { trained_tokens: tokens, flops: self.flops.train(tokens), ..Cost::default() });
        said.put(metrics::RM_MARGIN, mean(margins.iter().map(|&m| f64::from(m))));
        said.put(metrics::PAIR_ACCURACY_TRAIN, accuracy(&margins));
        Ok(said)
    }
}

/// The number in a tensor of one.
fn first(x: Tensor<1>) -> f64 {
    f64::from(weights::host(x)[0])
}

/// A trained reward model that scores: `(raw − centre) / scale`.
#[derive(Debug, Clone)]
pub struct LearnedReward {
    model: Scalar,
    reader: Reader,
    /// Mean and standard deviation of raw scores over SFT samples.
    pub centre: f64,
    pub scale: f64,
}

impl LearnedReward {
    /// `model` and `reader` carry no gradient.
    pub fn new(model: Scalar, reader: Reader, centre: f64, scale: f64) -> Self {
        Self { model, reader, centre, scale }
    }

    /// Centres and scales on samples of the SFT policy.
    pub fn normalised_on(model: Scalar, reader: Reader, samples: &Responses) -> Result<Self> {
        let raw = Self::new(model.clone(), reader.clone(), 0.0, 1.0).score(samples)?;
        let centre = mean(raw.iter().copied());
        let variance = mean(raw.iter().map(|r| (r - centre).powi(2)));
        let this = Self::new(model, reader, centre, variance.sqrt().max(1e-6));
        invariants::scores_are_normalised(&this.score(samples)?)?;
        Ok(this)
    }

    /// The scalar model, for whoever starts from it.
    pub fn model(&self) -> &Scalar {
        &self.model
    }
}

impl Scorer for LearnedReward {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        Ok(sft::blocks(batch)
            .flat_map(|block| weights::host::<1>(self.reader.scores(&self.model, &block)))
            .map(|raw| (f64::from(raw) - self.centre) / self.scale)
            .collect())
    }
}

/// How good a reward model is on rows of one split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    /// Rows where the chosen response scores higher, ties half.
    pub accuracy: f64,
    /// Bradley–Terry loss of the raw scores, nats.
    pub loss: f64,
    /// Rank correlation of proxy and gold over both responses of all rows.
    pub spearman: f64,
    /// Correlation of proxy and response length.
    pub length_correlation: f64,
}

/// Judges the judge.
pub fn quality(reward: &LearnedReward, rows: &[PreferenceRow]) -> Result<Quality> {
    let n = rows.len();
    let pairs = PairBatch::new(rows, &(0..n).collect::<Vec<_>>());
    let scores = reward.score(&pairs.both)?;
    let margins: Vec<f32> = (0..n).map(|i| ((scores[i] - scores[n + i]) * reward.scale) as f32).collect();
    let gold: Vec<f64> = rows.iter().map(|r| r.gold_chosen).chain(rows.iter().map(|r| r.gold_rejected)).collect();
    let lengths: Vec<f64> = pairs.both.lengths().iter().map(|&l| l as f64).collect();
    let device = reward.reader.device();
    let chosen = Tensor::<1>::from_data(margins.as_slice(), device);
    let loss = bradley_terry_loss(ChosenRejected { rejected: chosen.zeros_like(), chosen }, None, 0.0).loss;
    Ok(Quality {
        accuracy: accuracy(&margins),
        loss: f64::from(weights::host(loss)[0]),
        spearman: correlation(&ranks(&scores), &ranks(&gold)),
        length_correlation: correlation(&scores, &lengths),
    })
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// Ranks from 0, ties sharing their mean.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    for group in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let shared = start as f64 + (group.len() - 1) as f64 / 2.0;
        group.iter().for_each(|&i| ranks[i] = shared);
        start += group.len();
    }
    ranks
}

/// Pearson's correlation; 0 where one side does not vary.
fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let (mx, my) = (mean(x.iter().copied()), mean(y.iter().copied()));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (a, b) in x.iter().zip(y) {
        xy += (a - mx) * (b - my);
        xx += (a - mx).powi(2);
        yy += (b - my).powi(2);
    }
    if xx * yy == 0.0 { 0.0 } else { xy / (xx * yy).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_by_hand() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), vec![2.5, 0.0, 2.5, 1.0]);
        assert!((correlation(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]) - 1.0).abs() < 1e-12);
        // by hand: x - 2 = (-1, 0, 1), y - 2 = (-1, 1, 0): 1 / sqrt(2 · 2)
        assert!((correlation(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]) - 0.5).abs() < 1e-12);
        assert_eq!(correlation(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
    }
}
