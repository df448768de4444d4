//! What the minibatches of an iteration add up to.

use duel_spec::metrics;
use duel_training::{Metrics, Update};

/// Sums over the updates made; `kl` and the rate are the last one's.
#[derive(Debug, Default)]
pub struct Sums {
    pub updates: f64,
    loss: f64,
    grad_norm: f64,
    update_ratio: f64,
    learning_rate: f64,
    clip_share: f64,
    kl: f64,
    ratio_max: f64,
}

impl Sums {
    /// Counts one update.
    pub fn add(&mut self, update: &Update, clip_share: f64, kl: f64, ratio_max: f64) {
        self.updates += 1.0;
        self.loss += update.loss;
        self.grad_norm += update.grad_norm;
        self.update_ratio += update.update_ratio;
        self.learning_rate = update.learning_rate;
        self.clip_share += clip_share;
        self.kl = kl;
        self.ratio_max = self.ratio_max.max(ratio_max);
    }

    /// Their means, of so many planned updates.
    pub fn into_metrics(self, planned: f64, said: &mut Metrics) {
        let n = self.updates.max(1.0);
        said.put(metrics::LOSS, self.loss / n);
        said.put(metrics::GRAD_NORM, self.grad_norm / n);
        said.put(metrics::UPDATE_RATIO, self.update_ratio / n);
        said.put(metrics::LEARNING_RATE, self.learning_rate);
        said.put(metrics::CLIP_SHARE, self.clip_share / n);
        said.put(metrics::KL_STEP, self.kl);
        said.put(metrics::RATIO_MAX, self.ratio_max);
        said.put(metrics::UPDATES_SKIPPED, 1.0 - self.updates / planned);
    }
}
