//! What a batch says of its pairs, part by part, and the metrics of it.

use burn::tensor::Tensor;
use duel_model::weights::host;
use duel_objectives::{ChosenRejected, PreferenceOutcome};
use duel_spec::metrics;
use duel_training::{Metrics, PairBatch, pairs::accuracy};

/// Per-pair results over the parts of a batch; of both responses, the chosen one first.
#[derive(Default)]
pub(crate) struct BatchStats {
    pub margins: Vec<f32>,
    pub rewards: [Vec<f32>; 2],
    pub logp: [Vec<f32>; 2],
    /// WPO's, empty without them.
    pub weights: Vec<f32>,
    /// The margins of all pairs of a filtered batch, and which of them are trained on.
    filtered: Option<(Vec<f32>, Vec<usize>)>,
}

impl BatchStats {
    /// The batch was filtered.
    pub fn filter(&mut self, margins: Vec<f32>, drawn: Vec<usize>) {
        self.filtered = Some((margins, drawn));
    }

    /// The margins of all its pairs.
    pub fn all_margins(&self) -> &[f32] {
        self.filtered.as_ref().map_or(&self.margins, |(margins, _)| margins)
    }

    /// The pairs of a batch that are trained on.
    pub fn trained_pairs(&self, pairs: &PairBatch) -> PairBatch {
        self.filtered.as_ref().map_or_else(|| pairs.clone(), |(_, drawn)| pairs.select(drawn))
    }

    /// Log-probs of whole responses, and the weights of pairs.
    pub fn read(&mut self, whole: &ChosenRejected, weights: Option<&Tensor<1>>) {
        let values = |x: &Tensor<1>| host(x.clone().inner());
        self.logp[0].extend(values(&whole.chosen));
        self.logp[1].extend(values(&whole.rejected));
        self.weights.extend(weights.map(values).unwrap_or_default());
    }

    /// Rewards and margins of a part.
    pub fn add(&mut self, outcome: &PreferenceOutcome) {
        let values = |x: &Tensor<1>| host(x.clone().inner());
        self.margins.extend(values(&outcome.margins()));
        self.rewards[0].extend(values(&outcome.rewards.chosen));
        self.rewards[1].extend(values(&outcome.rewards.rejected));
    }

    /// Their means, and the spread of the margins.
    pub fn record(&self, metrics: &mut Metrics) {
        let Self { margins, rewards, logp, .. } = self;
        let centre = mean(margins);
        let saturated: Vec<f32> = margins.iter().map(|m| f32::from(1.0 / (1.0 + m.exp()) < 0.01)).collect();
        metrics.put(metrics::DPO_MARGIN, centre);
        metrics.put(metrics::DPO_MARGIN_SD, standard_deviation(margins, centre));
        metrics.put(metrics::DPO_ACCURACY, accuracy(margins));
        metrics.put(metrics::DPO_SATURATED, mean(&saturated));
        metrics.put(metrics::REWARD_CHOSEN, mean(&rewards[0]));
        metrics.put(metrics::REWARD_REJECTED, mean(&rewards[1]));
        metrics.put(metrics::LOGP_CHOSEN, mean(&logp[0]));
        metrics.put(metrics::LOGP_REJECTED, mean(&logp[1]));
    }
}

/// Standard deviation about a mean; in f64 where squares overflow f32, as at an extreme beta.
fn standard_deviation(values: &[f32], centre: f64) -> f64 {
    let squares: Vec<f32> = values.iter().map(|x| (x - centre as f32).powi(2)).collect();
    let variance = mean(&squares);
    if variance.is_finite() {
        return variance.sqrt();
    }
    (values.iter().map(|&x| (f64::from(x) - centre).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

/// Of some numbers.
pub(crate) fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_a_batch_by_hand() {
        // σ(−4) is .018, σ(−4.6) .00995; deviations from the mean −2.9, −1.9, 2.1 and 2.7
        let stats = BatchStats {
            margins: vec![-1.0, 0.0, 4.0, 4.6],
            rewards: [vec![1.0, 3.0], vec![-2.0, 0.0]],
            logp: [vec![-7.0, -8.0], vec![-9.0, -12.0]],
            ..BatchStats::default()
        };
        let mut metrics = Metrics::default();
        stats.record(&mut metrics);
        let by_hand = [
            (metrics::DPO_MARGIN, 1.9),
            (metrics::DPO_MARGIN_SD, 5.93f64.sqrt()),
            (metrics::DPO_ACCURACY, 0.625),
            (metrics::DPO_SATURATED, 0.25),
            (metrics::REWARD_CHOSEN, 2.0),
            (metrics::REWARD_REJECTED, -1.0),
            (metrics::LOGP_CHOSEN, -7.5),
            (metrics::LOGP_REJECTED, -10.5),
        ];
        assert_eq!(metrics.values.len(), by_hand.len());
        for ((metric, actual), (expected_metric, expected)) in metrics.values.into_iter().zip(by_hand) {
            assert_eq!(metric, expected_metric);
            assert!((actual - expected).abs() < 1e-6, "{metric}: {actual}, by hand {expected}");
        }
    }

    /// Margins of 1e30 and −1e30, as β = 1e30 gives them: their squares are beyond f32, and their spread is not.
    #[test]
    fn a_spread_is_finite_where_margins_are() {
        assert_eq!(standard_deviation(&[1e30, -1e30], 0.0), f64::from(1e30f32));
        assert_eq!(standard_deviation(&[1.0, 3.0], 2.0), 1.0);
        assert!(standard_deviation(&[f32::INFINITY, 0.0], f64::INFINITY).is_nan());
    }
}
