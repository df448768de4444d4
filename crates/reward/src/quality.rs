//! The quality of a learned reward on held-out rows.

use crate::agreement::mean_spread;
use crate::ranks::ranks;
use crate::{Agreement, LearnedReward, PairBins, PairFacts, Result};
use burn::tensor::Tensor;
use duel_data::pairs::PreferenceRow;
use duel_model::weights;
use duel_objectives::{BradleyTerryOptions, ChosenRejected, bradley_terry_loss};
use duel_training::{PairBatch, pairs::accuracy};

/// Quality of a reward model on rows of one split.
#[derive(Debug, Clone, PartialEq)]
pub struct Quality {
    /// Rows where the chosen response scores higher, ties half.
    pub accuracy: f64,
    /// Bradley–Terry loss of the raw scores, nats.
    pub loss: f64,
    /// Rank correlation of proxy and gold over both responses of all rows.
    pub spearman: f64,
    /// Correlation of proxy and response length.
    pub length_correlation: f64,
    /// Reliability of the probabilities that the scores imply.
    pub calibration: Calibration,
    /// On which rows the chosen response scores higher.
    pub bins: PairBins,
    /// Of an ensemble.
    pub ensemble: Option<EnsembleQuality>,
}

/// Whether the members of an ensemble say the same of rows of one split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EnsembleQuality {
    pub agreement: Agreement,
    /// Standard deviation of the members' scores of a response, mean over both responses of all rows.
    pub spread: f64,
}

/// Pairs in ten bins of the probability, .5 to 1, that the scores give to their higher one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Calibration {
    pub bins: [CalibrationBin; 10],
}

/// One bin.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CalibrationBin {
    pub pairs: f64,
    /// Mean probability given to the higher score.
    pub predicted: f64,
    /// Share in which it was chosen, ties half.
    pub observed: f64,
}

impl Calibration {
    /// From raw scores of chosen minus rejected.
    fn from_margins(margins: &[f32]) -> Self {
        let mut bins = [CalibrationBin::default(); 10];
        for &margin in margins {
            let p = 1.0 / (1.0 + f64::from(-margin.abs()).exp()); // .5 to 1
            let bin = &mut bins[(((p - 0.5) * 20.0) as usize).min(9)];
            bin.pairs += 1.0;
            bin.predicted += p;
            bin.observed += if margin == 0.0 { 0.5 } else { f64::from(margin > 0.0) };
        }
        for bin in &mut bins {
            (bin.predicted, bin.observed) = (bin.predicted / bin.pairs.max(1.0), bin.observed / bin.pairs.max(1.0));
        }
        Self { bins }
    }

    /// Expected calibration error: mean of |predicted − observed| over pairs.
    pub fn error(&self) -> f64 {
        let pairs: f64 = self.bins.iter().map(|bin| bin.pairs).sum();
        self.bins.iter().map(|bin| bin.pairs * (bin.predicted - bin.observed).abs()).sum::<f64>() / pairs
    }
}

/// Measures a reward model on rows.
pub fn quality(reward: &LearnedReward, rows: &[PreferenceRow]) -> Result<Quality> {
    let n = rows.len();
    let pairs = PairBatch::new(rows, &(0..n).collect::<Vec<_>>());
    let members = reward.member_scores(&pairs.both)?; // [members][2N]
    let scores = reward.combine(&members)?; // [2N]
    let margins: Vec<f32> = (0..n).map(|i| ((scores[i] - scores[n + i]) * reward.scale) as f32).collect();
    let of_member = |scores: &Vec<f64>| (0..n).map(|i| scores[i] - scores[n + i]).collect();
    let agreement = Agreement::of(&members.iter().map(of_member).collect::<Vec<Vec<f64>>>());
    let gold: Vec<f64> = rows.iter().map(|r| r.gold_chosen).chain(rows.iter().map(|r| r.gold_rejected)).collect();
    let lengths: Vec<f64> = pairs.both.lengths().iter().map(|&l| l as f64).collect();
    let device = reward.reader.reader.device();
    let chosen = Tensor::<1>::from_data(margins.as_slice(), device);
    let loss =
        bradley_terry_loss(ChosenRejected { rejected: chosen.zeros_like(), chosen }, BradleyTerryOptions::default())
            .loss;
    Ok(Quality {
        accuracy: accuracy(&margins),
        loss: f64::from(weights::host(loss)[0]),
        spearman: correlation(&ranks(&scores), &ranks(&gold)),
        length_correlation: correlation(&scores, &lengths),
        calibration: Calibration::from_margins(&margins),
        bins: PairBins::new(&PairFacts::of(rows, &pairs), &margins.into_iter().map(f64::from).collect::<Vec<_>>()),
        ensemble: agreement
            .map(|agreement| EnsembleQuality { agreement, spread: mean_spread(&members) / reward.scale }),
    })
}

/// Values less their mean.
fn deviations(values: &[f64]) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter().map(|value| value - mean).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Pearson's correlation; 0 where one side does not vary.
fn correlation(x: &[f64], y: &[f64]) -> f64 {
    let (x, y) = (deviations(x), deviations(y));
    let product = dot(&x, &x) * dot(&y, &y);
    if product == 0.0 { 0.0 } else { dot(&x, &y) / product.sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RewardNetwork;
    use burn::tensor::Device;
    use duel_data::World;
    use duel_data::grammar::{GrammarWorld, token};
    use duel_model::ResponseReader;
    use duel_spec::{EnsembleScore, PairDivision, Split};

    #[test]
    fn calibration_by_hand() {
        let margin = |p: f32| (p / (1.0 - p)).ln();
        // .72 predicted three times and right twice, .97 once and wrong
        let actual = Calibration::from_margins(&[margin(0.72), margin(0.72), -margin(0.72), -margin(0.97)]);
        assert!((actual.bins[4].predicted - 0.72).abs() < 1e-6 && (actual.bins[4].observed - 2.0 / 3.0).abs() < 1e-9);
        assert!((actual.bins[9].pairs, actual.bins[9].observed) == (1.0, 0.0));
        let expected = (3.0 * (0.72 - 2.0 / 3.0) + 0.97) / 4.0;
        assert!((actual.error() - expected).abs() < 1e-6, "{}", actual.error());
    }

    #[test]
    fn correlations_by_hand() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), vec![2.5, 0.0, 2.5, 1.0]);
        assert!((correlation(&[1.0, 2.0, 3.0], &[2.0, 4.0, 6.0]) - 1.0).abs() < 1e-12);
        // by hand: x - 2 = (-1, 0, 1), y - 2 = (-1, 1, 0): 1 / sqrt(2 · 2)
        assert!((correlation(&[1.0, 2.0, 3.0], &[1.0, 3.0, 2.0]) - 0.5).abs() < 1e-12);
        assert_eq!(correlation(&[1.0, 1.0], &[1.0, 2.0]), 0.0);
    }

    #[test]
    fn bins_hold_a_twentieth_each_from_a_half_to_one() {
        // no margin is a tie of probability a half; a certain one is in the last bin
        let actual = Calibration::from_margins(&[0.0, 100.0, -100.0, 200.0]);
        assert_eq!(actual.bins[0], CalibrationBin { pairs: 1.0, predicted: 0.5, observed: 0.5 });
        assert_eq!(actual.bins[9], CalibrationBin { pairs: 3.0, predicted: 1.0, observed: 2.0 / 3.0 });
        assert!(actual.bins[1..9].iter().all(|bin| *bin == CalibrationBin::default()));
        assert!((actual.error() - 3.0 * (1.0 / 3.0) / 4.0).abs() < 1e-12);
        for (bin, p) in (0..10).map(|bin| (bin, 0.525 + 0.05 * bin as f32)) {
            let actual = Calibration::from_margins(&[(p / (1.0 - p)).ln()]);
            assert_eq!(actual.bins.map(|bin| bin.pairs), std::array::from_fn(|i| f64::from(i == bin)), "{p}");
        }
    }

    #[test]
    fn a_correlation_of_unlike_means_by_hand() {
        // x − 3 = (−2, −1, 0, 3), y − 20 = (−10, 0, −10, 20): 80 / √(14 · 600)
        let actual = correlation(&[1.0, 2.0, 3.0, 6.0], &[10.0, 20.0, 10.0, 40.0]);
        assert!((actual - 80.0 / 8400f64.sqrt()).abs() < 1e-12, "{actual}");
        assert_eq!(correlation(&[1.0, 2.0], &[3.0, 3.0]), 0.0);
    }

    /// One member counts x; the other triples it, and adds how far the length is from the one asked for.
    #[test]
    fn quality_of_an_ensemble_by_hand() -> Result<()> {
        let linear = |x: f64, off_length: f64| {
            let mut weights = [0.0; 12];
            (weights[9], weights[10]) = (x, off_length);
            let linear = serde_json::from_value(serde_json::json!({ "weights": weights })).expect("weights");
            (RewardNetwork::Linear(linear), 0.0)
        };
        let reader = ResponseReader::new(GrammarWorld::new(0.02, 1).space(), &Device::flex());
        let reward =
            LearnedReward::new(vec![linear(1.0, 0.0), linear(3.0, 1.0)], EnsembleScore::Mean, reader, 0.0, 2.0);
        let prompt = vec![token::BOS, token::TOPIC, token::STANCE, token::SEP];
        // the length asked for is 2
        let response = |v: usize, x: usize| [vec![token::V; v], vec![token::X; x], vec![token::EOS]].concat();
        let row = |chosen, rejected| PreferenceRow::new(Split::Test, prompt.clone(), chosen, rejected);
        let rows = [row(response(0, 2), response(1, 1)), row(response(0, 1), response(0, 2))];
        let EnsembleQuality { agreement, spread } = quality(&reward, &rows)?.ensemble.expect("two members");
        // both order both alike: as labelled, and reversed
        assert_eq!(agreement, Agreement { alike: 1.0, pairwise: 1.0, kappa: Some(1.0) });
        // scores 2 and 6, 1 and 3, 1 and 4, 2 and 6: half of 4, 2, 3 and 4, over the scale
        assert!((spread - 13.0 / 8.0 / 2.0).abs() < 1e-12, "{spread}");
        Ok(())
    }

    /// A reward that counts x; its margins are those of the raw scores, whatever the scale.
    #[test]
    fn quality_by_hand() -> Result<()> {
        let mut weights = [0.0; 12];
        weights[9] = 1.5;
        let linear = serde_json::from_value(serde_json::json!({ "weights": weights })).expect("weights");
        let reader = ResponseReader::new(GrammarWorld::new(0.02, 1).space(), &Device::flex());
        let judges = vec![(RewardNetwork::Linear(linear), 0.25)];
        let reward = LearnedReward::new(judges, EnsembleScore::Mean, reader, 0.5, 3.0);
        let prompt = vec![token::BOS, token::TOPIC, token::STANCE, token::SEP];
        let response = |v: usize, x: usize| [vec![token::V; v], vec![token::X; x], vec![token::EOS]].concat();
        let row = |chosen, rejected, gold: [f64; 2]| PreferenceRow {
            gold_chosen: gold[0],
            gold_rejected: gold[1],
            ..PreferenceRow::new(Split::Test, prompt.clone(), chosen, rejected)
        };
        let rows = [
            row(response(0, 2), response(1, 0), [4.0, 1.0]),
            row(response(2, 1), response(0, 3), [3.0, 2.0]),
            row(response(1, 1), response(2, 1), [5.0, 0.0]),
        ];
        let actual = quality(&reward, &rows)?;
        // x of the chosen 2, 1, 1, of the rejected 0, 3, 1: raw margins 3, −3 and a tie
        assert_eq!(actual.accuracy, 0.5);
        let expected = ((1.0 + (-3f64).exp()).ln() + (1.0 + 3f64.exp()).ln() + 2f64.ln()) / 3.0;
        assert!((actual.loss - expected).abs() < 1e-6, "{}, expected {expected}", actual.loss);
        // ranks of x 4, 2, 2, 0, 5, 2 and of gold 4, 3, 5, 1, 2, 0, both about 2.5: 1.5 · 1.5 − .5 · .5 − .5 · 2.5
        // + 2.5 · 1.5 − 2.5 · .5 + .5 · 2.5 = 4.5, over √(15.5 · 17.5)
        assert!((actual.spearman - 4.5 / (15.5f64 * 17.5).sqrt()).abs() < 1e-12, "{}", actual.spearman);
        // x less its mean 4/3: 2, −1, −1, −4, 5, −1 thirds; lengths with EOS 3, 4, 3, 2, 4, 4, less their mean 10/3:
        // −1, 2, −1, −4, 2, 2 thirds: (−2 − 2 + 1 + 16 + 10 − 2) / √(48 · 30)
        let expected = 21.0 / (48f64 * 30.0).sqrt();
        assert!((actual.length_correlation - expected).abs() < 1e-12, "{}", actual.length_correlation);
        assert_eq!(actual.calibration, Calibration::from_margins(&[3.0, -3.0, 0.0]));
        // by |gold|: 1, 3 and 5, of which the first is reversed, the second right and the third tied
        let bins: Vec<(f64, f64)> =
            actual.bins.by(PairDivision::GoldMargin).iter().map(|bin| (bin.pairs, bin.accuracy)).collect();
        assert_eq!(bins, [(1.0, 0.0), (0.0, 0.0), (1.0, 1.0), (1.0, 0.5)]);
        // tokens 3 and 2, 4 and 4, 3 and 4
        let bins: Vec<f64> = actual.bins.by(PairDivision::Length).iter().map(|bin| bin.value).collect();
        assert_eq!(bins, [0.0, -1.0, 0.0, 1.0, 0.0]);
        assert_eq!(actual.ensemble, None);
        Ok(())
    }
}
