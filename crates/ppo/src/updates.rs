//! The updates on one rollout: epochs of minibatches, near the policy that wrote the responses.

use crate::invariants;
use burn::module::Module;
use burn::tensor::Tensor;
use duel_model::{Responses, weights::host};
use duel_objectives::PolicyLoss;
use duel_spec::{metrics, seeds};
use duel_training::invariants as always;
use duel_training::{Learner, Metrics, Result, Update, pairs::shuffled_batches};

/// How many updates, and how far they may go.
#[derive(Debug, Clone, Copy)]
pub struct Updates {
    pub epochs: usize,
    /// Of one epoch.
    pub minibatches: usize,
    /// Nats a token, k3 of a minibatch: past it the updates stop.
    pub target_kl: f64,
    /// FLOPs of training on a token.
    pub flops: f64,
}

/// What some rows cost under the module as it is now.
#[derive(Debug)]
pub struct Losses {
    pub policy: PolicyLoss,
    /// The value model's loss `[1]` and its weight.
    pub value: Option<(Tensor<1>, f64)>,
}

impl Losses {
    /// `[1]`
    fn total(self) -> Tensor<1> {
        match self.value {
            Some((value, weight)) => self.policy.loss + value * weight,
            None => self.policy.loss,
        }
    }
}

impl Updates {
    /// All of one rollout.
    fn planned(self) -> u64 {
        (self.epochs * self.minibatches) as u64
    }

    /// Rows of the minibatches of one epoch.
    pub fn shuffled(self, rows: usize, rng: &mut seeds::Rng) -> Vec<Vec<usize>> {
        shuffled_batches(rows, rows / self.minibatches, rng)
    }

    /// Makes the updates, beginning with the minibatches of `first_epoch`. Schulman et al. 2017, alg. 1.
    ///
    /// # Errors
    /// A broken invariant, and what [`Learner::minimize`] refuses.
    pub fn make<M: Module>(
        self,
        learner: &mut Learner<M>,
        responses: &Responses,
        first_epoch: &[Vec<usize>],
        rng: &mut seeds::Rng,
        losses: impl Fn(&M, &[usize]) -> Losses,
        said: &mut Metrics,
    ) -> Result<()> {
        let mut sums = Sums::default();
        'update: for epoch in 0..self.epochs {
            let batches = if epoch == 0 { first_epoch.to_vec() } else { self.shuffled(responses.len(), rng) };
            for (i, rows) in batches.into_iter().enumerate() {
                let found = losses(learner.module(), &rows);
                let first = |x: &Tensor<1>| f64::from(host(x.clone().inner())[0]);
                let (clip_share, kl) = (first(&found.policy.clip_share), first(&found.policy.kl));
                if epoch == 0 && i == 0 {
                    let deviation = first(&found.policy.ratio_deviation);
                    invariants::first_ratio_is_one(learner.step(), deviation, clip_share)?;
                }
                if learner.step() == 0 {
                    said.check(|| {
                        always::parts_make_the_same_gradient(learner, rows.len(), |part| {
                            let rows: Vec<usize> = part.iter().map(|&i| rows[i]).collect();
                            let tokens = responses.select(&rows).response_tokens();
                            (losses(learner.module(), &rows).total(), tokens as f64)
                        })
                    })?;
                }
                if kl > self.target_kl {
                    learner.skip(self.planned() - sums.updates as u64);
                    break 'update;
                }
                let (ratio_max, value_loss) =
                    (first(&found.policy.ratio_max), found.value.as_ref().map(|v| first(&v.0)));
                let update = learner.minimize(found.total())?;
                sums.add(&update, value_loss, clip_share, kl, ratio_max);
                let tokens = responses.select(&rows).token_count();
                said.cost.trained_tokens += tokens;
                said.cost.flops += self.flops * tokens as f64;
            }
        }
        sums.into_metrics(self.planned() as f64, said);
        Ok(())
    }
}

/// Sums over the updates made; `kl` and the rate are the last one's.
#[derive(Default)]
struct Sums {
    updates: f64,
    loss: f64,
    grad_norm: f64,
    update_ratio: f64,
    learning_rate: f64,
    value_loss: Option<f64>,
    clip_share: f64,
    kl: f64,
    ratio_max: f64,
}

impl Sums {
    /// Counts one update.
    fn add(&mut self, update: &Update, value_loss: Option<f64>, clip_share: f64, kl: f64, ratio_max: f64) {
        self.updates += 1.0;
        self.loss += update.loss;
        self.grad_norm += update.grad_norm;
        self.update_ratio += update.update_ratio;
        self.learning_rate = update.learning_rate;
        if let Some(loss) = value_loss {
            *self.value_loss.get_or_insert(0.0) += loss;
        }
        self.clip_share += clip_share;
        self.kl = kl;
        self.ratio_max = self.ratio_max.max(ratio_max);
    }

    /// Their means, of so many planned updates.
    fn into_metrics(self, planned: f64, said: &mut Metrics) {
        let n = self.updates.max(1.0);
        said.put(metrics::LOSS, self.loss / n);
        said.put(metrics::GRAD_NORM, self.grad_norm / n);
        said.put(metrics::UPDATE_RATIO, self.update_ratio / n);
        said.put(metrics::LEARNING_RATE, self.learning_rate);
        if let Some(value_loss) = self.value_loss {
            said.put(metrics::VALUE_LOSS, value_loss / n);
        }
        said.put(metrics::CLIP_SHARE, self.clip_share / n);
        said.put(metrics::KL_STEP, self.kl);
        said.put(metrics::RATIO_MAX, self.ratio_max);
        said.put(metrics::UPDATES_SKIPPED, 1.0 - self.updates / planned);
    }
}
