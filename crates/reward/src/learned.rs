//! A learned reward: one model or an ensemble, centred and scaled on samples of the SFT policy.

use crate::agreement::mean_spread;
use crate::lazy_model::LazyModel;
use crate::{Linear, Result, RewardReader, Scorer, TextInput, invariants};
use duel_model::{Responses, ScalarModel, weights};
use duel_spec::EnsembleScore;
use duel_training::invariants::finite;

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
        invariants::scores_are_normalised(&this.score(samples)?, sd / this.scale, this.offset())?;
        Ok(this)
    }

    /// The means taken from the raw scores, over the scale: scores are rounded relative to it.
    fn offset(&self) -> f64 {
        self.judges.iter().map(|(_, centre)| centre.abs()).sum::<f64>() / self.scale
    }

    /// The members with the mean of each one's raw scores.
    pub fn judges(&self) -> &[(RewardNetwork, f64)] {
        &self.judges
    }

    /// Raw scores of each member, less their mean over SFT samples: `[members][B]`.
    pub(crate) fn member_scores(&self, batch: &Responses) -> Result<Vec<Vec<f64>>> {
        let as_read = self.reader.as_read(batch)?;
        let centred = |(judge, centre): &(RewardNetwork, f64)| {
            judge.score(&self.reader, &as_read).into_iter().map(|x| x - centre).collect()
        };
        Ok(self.judges.iter().map(centred).collect())
    }

    /// The scores of responses from those of the members: `[members][B]` to `[B]`.
    pub(crate) fn combine(&self, members: &[Vec<f64>]) -> Result<Vec<f64>> {
        let responses = members.first().map_or(0, Vec::len);
        (0..responses)
            .map(|row| {
                let scores: Vec<f64> = members.iter().map(|scores| scores[row]).collect();
                let score = (combined(&scores, self.together) - self.centre) / self.scale;
                finite(0, "a score of the reward model", score)?;
                Ok(score)
            })
            .collect()
    }

    /// Standard deviation of the members' scores of a response, in units of the score, mean over responses; `None` of a
    /// single model, and without responses.
    ///
    /// # Errors
    /// Text that cannot be read.
    pub fn spread(&self, batch: &Responses) -> Result<Option<f64>> {
        if self.judges.len() < 2 || batch.is_empty() {
            return Ok(None);
        }
        Ok(Some(mean_spread(&self.member_scores(batch)?) / self.scale))
    }

    /// A value model initialised from the reward: the first network, rescaled to its contribution to the score. `None` where
    /// there is no network that reads the policy's ids.
    pub fn value_model(&self) -> Option<ScalarModel> {
        self.weighted_value_model(1.0)
    }

    /// The same, where the score counts `weight` times among several rewards.
    pub fn weighted_value_model(&self, weight: f64) -> Option<ScalarModel> {
        match self.judges.first() {
            Some((RewardNetwork::Network(model), centre)) if self.reader.text().is_none() => {
                Some(model.clone().rescaled(centre + self.centre, self.scale / weight))
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

    /// Numbers in the weights of its networks that `is_own` says are theirs, by whether the network has adapters and by the weight's name.
    pub fn numbers(&self, is_own: impl Fn(bool, &str) -> bool) -> usize {
        let of_network = |(judge, _): &(RewardNetwork, f64)| match judge {
            RewardNetwork::Network(model) => {
                let shapes = weights::shapes(model);
                let adapted = shapes.iter().any(|(name, _)| name.contains(".lora."));
                let own = shapes.iter().filter(|(name, _)| is_own(adapted, name));
                own.map(|(_, shape)| shape.iter().product::<usize>()).sum()
            }
            RewardNetwork::Linear(_) => Linear::WEIGHTS,
        };
        self.judges.iter().map(of_network).sum()
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
        self.combine(&self.member_scores(batch)?)
    }
}

/// A pretrained reward model as the judge: its raw scores. It is loaded for the first batch.
pub struct ModelJudge {
    reward: LazyModel<LearnedReward>,
}

impl std::fmt::Debug for ModelJudge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelJudge")
    }
}

impl ModelJudge {
    /// The judge that `open` reads; the model carries no gradient.
    pub fn new(open: impl Fn() -> Result<(ScalarModel, RewardReader)> + Send + Sync + 'static) -> Self {
        let reward = LazyModel::new(move || {
            let (model, reader) = open()?;
            let judges = vec![(RewardNetwork::Network(model), 0.0)];
            Ok(LearnedReward::new(judges, EnsembleScore::Mean, reader, 0.0, 1.0))
        });
        Self { reward }
    }
}

impl Scorer for ModelJudge {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        self.reward.opened()?.score(batch)
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
    use burn::tensor::Device;
    use duel_data::World;
    use duel_data::grammar::{GrammarWorld, token};
    use duel_model::{Policy, ResponseReader, TransformerConfig};
    use duel_spec::seeds;
    use std::sync::{Arc, Mutex};

    #[test]
    fn combined_scores_by_hand() {
        let scores = [1.0, 2.0, 6.0];
        assert_eq!(combined(&scores, EnsembleScore::Mean), 3.0);
        assert_eq!(combined(&scores, EnsembleScore::Worst), 1.0);
        assert!((combined(&scores, EnsembleScore::Cautious) - (3.0 - (14f64 / 3.0).sqrt())).abs() < 1e-12);
    }

    /// A linear model of responses of the world `grammar` with these weights of x and of the distance from the length asked for.
    fn linear(x: f64, off_length: f64) -> RewardNetwork {
        let mut weights = [0.0; 12];
        (weights[9], weights[10]) = (x, off_length);
        RewardNetwork::Linear(serde_json::from_value(serde_json::json!({ "weights": weights })).expect("weights"))
    }

    /// Responses to one prompt: v as often as is needed to fill up three symbols, and as many x as asked for.
    fn samples(xs: [usize; 4]) -> Responses {
        let response = |count: usize| [vec![token::V; 3 - count], vec![token::X; count], vec![token::EOS]].concat();
        Responses {
            prompts: vec![vec![token::BOS, token::TOPIC, token::STANCE, token::SEP]; 4],
            responses: xs.map(response).to_vec(),
            logp: vec![],
            masks: vec![],
        }
    }

    fn reader() -> ResponseReader {
        ResponseReader::new(GrammarWorld::new(0.02, 1).space(), &Device::flex())
    }

    /// A network of width 8 with this head.
    fn network(head: [f32; 8]) -> ScalarModel {
        let (world, device) = (GrammarWorld::new(0.02, 1), Device::flex());
        let space = world.space();
        let config = TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true);
        let body = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &device);
        ScalarModel::with_head(body, head.to_vec(), &device)
    }

    fn near(actual: &[f64], expected: &[f64]) {
        assert_eq!(actual.len(), expected.len());
        assert!(actual.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9), "{actual:?}, expected {expected:?}");
    }

    #[test]
    fn scores_are_centred_and_scaled_on_samples() -> Result<()> {
        let batch = samples([0, 1, 2, 3]);
        let reward = LearnedReward::normalized_on(vec![linear(2.0, 0.0)], EnsembleScore::Mean, reader(), &batch)?;
        // raw scores 0, 2, 4, 6: mean 3, mean square of the rest 5
        let expected = [-3.0, -1.0, 1.0, 3.0].map(|x| x / 5f64.sqrt());
        near(&reward.score(&batch)?, &expected);
        near(&[reward.judges()[0].1, reward.centre, reward.scale], &[3.0, 0.0, 5f64.sqrt()]);
        assert_eq!((reward.networks(), reward.cut(), reward.value_model().is_none()), (0, None, true));
        // scores that do not vary are left as they are
        let same = samples([1; 4]);
        let reward = LearnedReward::normalized_on(vec![linear(2.0, 0.0)], EnsembleScore::Mean, reader(), &same)?;
        near(&[reward.scale], &[LEAST_SCALE]);
        near(&reward.score(&same)?, &[0.0; 4]);
        Ok(())
    }

    #[test]
    fn each_member_of_an_ensemble_is_centred_first() -> Result<()> {
        let batch = samples([0, 1, 2, 3]);
        let judges = vec![linear(2.0, 0.0), linear(-1.0, 7.0)];
        let reward = LearnedReward::normalized_on(judges, EnsembleScore::Cautious, reader(), &batch)?;
        // centred: −3, −1, 1, 3 and 1.5, .5, −.5, −1.5; means −.75, −.25, .25, .75 less deviations 2.25, .75, .75, 2.25
        let combined = [-3.0, -1.0, -0.5, -1.5];
        let sd = (3.5f64 / 4.0).sqrt(); // about their mean −1.5
        near(&reward.score(&batch)?, &combined.map(|x| (x + 1.5) / sd));
        near(&[reward.centre, reward.scale], &[-1.5, sd]);
        // the deviations, in units of the score
        let spread = reward.spread(&batch)?.expect("two members");
        near(&[spread], &[1.5 / sd]);
        let single = LearnedReward::normalized_on(vec![linear(2.0, 0.0)], EnsembleScore::Mean, reader(), &batch)?;
        assert_eq!((single.spread(&batch)?, reward.spread(&batch.select(&[]))?), (None, None));
        assert_ne!(reward.hash(), single.hash());
        let judges = vec![(linear(1.0, 0.0), 3.0), (linear(1.0, 0.0), -1.5)];
        near(&[LearnedReward::new(judges, EnsembleScore::Mean, reader(), 0.5, 0.25).offset()], &[18.0]);
        Ok(())
    }

    /// A critic that starts from the reward gives the score that the arm maximizes.
    #[test]
    fn a_value_model_gives_the_scaled_score() -> Result<()> {
        let model = network([0.5, -1.0, 0.3, 0.2, -0.7, 0.4, 0.9, -0.1]);
        let judge = || (RewardNetwork::Network(model.clone()), 0.3);
        let judges = vec![judge(), judge()];
        let reward = LearnedReward::new(judges, EnsembleScore::Mean, reader(), 0.5, 2.0);
        let batch = samples([0, 1, 2, 3]);
        let raw: Vec<f64> = reward.reader.scores(&model, &batch).into_iter().map(f64::from).collect();
        assert!(raw.iter().any(|x| (x - raw[0]).abs() > 0.01), "{raw:?}");
        let scores = reward.score(&batch)?;
        near(&scores, &raw.iter().map(|x| (x - 0.8) / 2.0).collect::<Vec<_>>());
        let value_model = reward.value_model().expect("a network");
        let values = reward.reader.scores(&value_model, &batch);
        assert!(values.iter().zip(&scores).all(|(v, s)| (f64::from(*v) - s).abs() < 1e-5), "{values:?}, {scores:?}");
        assert_eq!((reward.networks(), reward.hash()), (2, format!("{0} {0}", model.hash())));
        Ok(())
    }

    #[test]
    fn a_model_judge_is_opened_once_and_gives_raw_scores() -> Result<()> {
        let model = network([0.5; 8]);
        let opened = Arc::new(Mutex::new(0));
        let (shared, count) = (model.clone(), opened.clone());
        let judge = ModelJudge::new(move || {
            *count.lock().expect("no panic") += 1;
            Ok((shared.clone(), reader().into()))
        });
        let batch = samples([0, 1, 2, 3]);
        let expected: Vec<f64> =
            RewardReader::from(reader()).scores(&model, &batch).into_iter().map(f64::from).collect();
        assert_eq!((judge.score(&batch)?, judge.score(&batch)?), (expected.clone(), expected));
        assert_eq!(*opened.lock().expect("no panic"), 1);
        judge.finish()
    }
}
