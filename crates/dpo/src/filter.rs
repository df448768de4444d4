//! β-DPO's usual margin, and its filter: of each batch some pairs are drawn, the likelier the nearer their margin is to it.
//! Wu et al. 2024 (dynamic β by batch, β-guided data filtering).
//!
//! Deviations from the paper: the standard deviation is corrected for its beginning at 0, as Adam's moments are, since a small one
//! would leave out all but the most usual pairs; pairs of the first batch are drawn evenly.

use duel_spec::seeds::Rng;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// Moving averages of the batches' mean margins M₀ and of their standard deviations σ, both from 0; reward.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct UsualMargin {
    mean: f64,
    sd: f64,
    batches: i32,
}

impl UsualMargin {
    /// M₀.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Adds a batch; `momentum` is the weight of those before.
    pub fn add(&mut self, margins: &[f32], momentum: f64) {
        let n = margins.len() as f64;
        let mean = margins.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let variance = margins.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
        self.mean = momentum * self.mean + (1.0 - momentum) * mean;
        self.sd = momentum * self.sd + (1.0 - momentum) * variance.sqrt();
        self.batches = self.batches.saturating_add(1);
    }

    /// A `share` of the pairs with these margins, at least one, drawn without replacement with weights exp(−(M_i − M₀)²/2σ²), in
    /// their order.
    pub fn drawn(&self, margins: &[f32], share: f64, momentum: f64, rng: &mut Rng) -> Vec<usize> {
        let count = ((share * margins.len() as f64 * (1.0 + 1e-12)) as usize).clamp(1, margins.len());
        let sd = if self.batches == 0 { 0.0 } else { self.sd / (1.0 - momentum.powi(self.batches)) };
        let log_weight = |margin: f32| match sd {
            0.0 => 0.0,
            sd => -0.5 * ((f64::from(margin) - self.mean) / sd).powi(2),
        };
        // the largest of log-weights plus Gumbel noise (Efraimidis & Spirakis 2006)
        let key = |&margin: &f32| {
            let u: f64 = rng.random();
            log_weight(margin) - (-u.ln()).ln()
        };
        let keys: Vec<f64> = margins.iter().map(key).collect();
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|&a, &b| keys[b].total_cmp(&keys[a]));
        order.truncate(count);
        order.sort_unstable();
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::seeds;

    fn usual(mean: f64, sd: f64) -> UsualMargin {
        // as if of one batch
        UsualMargin { mean, sd: 0.1 * sd, batches: 1 }
    }

    fn rng(draw: u64) -> Rng {
        seeds::derive(1, "test", draw, "filter")
    }

    #[test]
    fn moving_averages_by_hand() {
        let mut usual = UsualMargin::default();
        usual.add(&[1.0, 3.0], 0.9); // mean 2, sd 1
        assert!((usual.mean - 0.2).abs() < 1e-12 && (usual.sd - 0.1).abs() < 1e-12);
        usual.add(&[4.0, 4.0, 10.0], 0.9); // mean 6, sd √8
        assert!((usual.mean - 0.78).abs() < 1e-12 && (usual.sd - (0.09 + 0.1 * 8f64.sqrt())).abs() < 1e-12);
    }

    /// Weights 1, e^−½ and e^−2: of one pair the probabilities are .575, .349 and .078; of two, the last is left out in most draws.
    #[test]
    fn the_nearer_the_margin_the_likelier_is_the_pair() {
        let (usual, margins) = (usual(0.5, 2.0), [0.5, 2.5, -3.5]);
        let weights = [0.0f64, -0.5, -2.0].map(f64::exp);
        let total: f64 = weights.iter().sum();
        let draws = 20_000;
        let mut drawn = [[0.0; 3]; 2];
        for draw in 0..draws {
            for (counts, share) in drawn.iter_mut().zip([0.4, 0.7]) {
                let pairs = usual.drawn(&margins, share, 0.9, &mut rng(draw));
                pairs.iter().for_each(|&pair| counts[pair] += 1.0 / draws as f64);
            }
        }
        for (pair, weight) in weights.iter().enumerate() {
            // of two: drawn first, or second after another
            let second: f64 = (0..3)
                .filter(|&first| first != pair)
                .map(|first| weights[first] / total * weight / (total - weights[first]))
                .sum();
            for (counts, expected) in drawn.iter().zip([weight / total, weight / total + second]) {
                assert!((counts[pair] - expected).abs() < 0.012, "pair {pair}: {}, by hand {expected}", counts[pair]);
            }
        }
    }

    #[test]
    fn a_share_of_the_pairs_is_drawn_in_their_order() {
        let margins: Vec<f32> = (0..10).map(|i| i as f32).collect();
        for (share, count) in [(1.0, 10), (0.8, 8), (0.7, 7), (0.29, 2), (1e-6, 1)] {
            let pairs = usual(3.0, 2.0).drawn(&margins, share, 0.9, &mut rng(3));
            assert_eq!(pairs.len(), count, "{share}");
            assert!(pairs.is_sorted_by(|a, b| a < b), "{pairs:?}");
            assert_eq!(pairs, usual(3.0, 2.0).drawn(&margins, share, 0.9, &mut rng(3)));
        }
        // far from the usual, however far, is never drawn while others are left
        for draw in 0..200 {
            assert!(!usual(0.0, 1.0).drawn(&[0.1, -0.2, 1e4], 0.67, 0.9, &mut rng(draw)).contains(&2));
        }
        // before a margin is usual, all are alike
        let first = |draw| UsualMargin::default().drawn(&[0.0, 1e4], 0.5, 0.9, &mut rng(draw))[0];
        let share = (0..1000).map(first).sum::<usize>() as f64 / 1000.0;
        assert!((share - 0.5).abs() < 0.06, "{share}");
    }
}
