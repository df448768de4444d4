//! The updates on one rollout: epochs of minibatches, near the policy that wrote the responses.

use crate::invariants;
use crate::rollout::Rollout;
use burn::module::Module;
use burn::tensor::Tensor;
use duel_model::{Flops, weights::host};
use duel_objectives::PolicyLoss;
use duel_spec::{KlEstimator, KlPenalty, RolloutSettings, metrics, seeds};
use duel_training::invariants as training_invariants;
use duel_training::rounding::nudged;
use duel_training::{Learner, Metrics, Result, Update, pairs::shuffled_batches, probes};

/// The updates on one rollout: K epochs of shuffled minibatches.
#[derive(Debug)]
pub struct MinibatchUpdater {
    epochs: usize,
    /// Per epoch.
    minibatches: usize,
    /// Nats per token, k3 of a minibatch: above it the updates stop.
    target_kl: f64,
    /// Of the ratio around 1.
    clip_range: f64,
    /// FLOPs of training per token.
    flops: f64,
    /// Tokens that are only read per token trained on: the reference's logits, where the loss reads all of them.
    scored: u64,
    /// Consecutive responses that stay in one minibatch.
    unit: usize,
    /// Responses of the rollout.
    responses: usize,
    rng: seeds::Rng,
    /// Rows of the minibatches of the first epoch.
    first_epoch: Vec<Vec<usize>>,
}

/// The losses of some rows under the module in training.
#[derive(Debug)]
pub struct MinibatchLosses {
    pub policy: PolicyLoss,
    /// The value model's loss `[1]` and its weight.
    pub value: Option<(Tensor<1>, f64)>,
}

impl MinibatchLosses {
    /// `[1]`
    fn total(self) -> Tensor<1> {
        match self.value {
            Some((value, weight)) => self.policy.loss + value * weight,
            None => self.policy.loss,
        }
    }
}

/// Updates of a whole training, for the schedule.
pub fn planned(s: &RolloutSettings) -> u64 {
    (s.iterations * s.epochs * s.minibatches) as u64
}

impl MinibatchUpdater {
    /// For a rollout of `responses`, `unit` consecutive ones in one minibatch. `others` are the FLOPs per token of training
    /// anything besides the policy.
    pub fn new(
        s: &RolloutSettings,
        responses: usize,
        unit: usize,
        policy: Flops,
        others: f64,
        mut rng: seeds::Rng,
    ) -> Self {
        let scored = u64::from(s.kl == KlPenalty::Loss && s.kl_estimator == KlEstimator::Full);
        let flops = policy.train(1) + policy.forward(scored) + others;
        let RolloutSettings { epochs, minibatches, target_kl, clip_range, .. } = *s;
        let first_epoch = shuffled(responses, unit, minibatches, &mut rng);
        Self { epochs, minibatches, target_kl, clip_range, flops, scored, unit, responses, rng, first_epoch }
    }

    /// Rows of the minibatches of the first epoch.
    pub fn first_epoch(&self) -> &[Vec<usize>] {
        &self.first_epoch
    }

    /// Planned updates on the rollout.
    fn planned(&self) -> u64 {
        (self.epochs * self.minibatches) as u64
    }

    /// Makes the updates. Schulman et al. 2017, alg. 1.
    ///
    /// # Errors
    /// A broken invariant, and what [`Learner::minimize`] refuses.
    pub fn run<M: Module>(
        mut self,
        learner: &mut Learner<M>,
        rollout: &Rollout,
        losses: impl Fn(&M, &[usize]) -> MinibatchLosses,
        metrics: &mut Metrics,
    ) -> Result<()> {
        let weight = |rows: &[usize]| rollout.weight(rows);
        let (mut sums, skipped) = (UpdateStats::default(), learner.skipped());
        'update: for epoch in 0..self.epochs {
            let batches = if epoch == 0 {
                std::mem::take(&mut self.first_epoch)
            } else {
                shuffled(self.responses, self.unit, self.minibatches, &mut self.rng)
            };
            for rows in batches {
                // where no response counts there is nothing to learn from; the schedule advances
                if weight(&rows) == 0.0 {
                    learner.skip(1);
                    sums.empty += 1.0;
                    continue;
                }
                if learner.step() == 0 {
                    metrics.check(|| self.check_parts(learner, rollout, &rows, &losses))?;
                }
                // a minibatch may be read in parts, whose statistics are combined
                let mut stats = MinibatchStats::default();
                let (parts, total, tokens) = (learner.parts(&rows, self.unit), weight(&rows), rollout.tokens(&rows));
                for (index, part) in parts.iter().enumerate() {
                    let part_losses = losses(learner.module(), part);
                    let share = weight(part) / total;
                    stats.add(&part_losses, share, rollout.tokens(part) / tokens);
                    if sums.updates == 0.0 {
                        let reread = || first(losses(&nudged(learner.module()), part).policy.ratio_deviation);
                        let (step, deviation) = (learner.step(), stats.ratio_deviation);
                        invariants::first_ratio_is_one(step, deviation, stats.clip_share, self.clip_range, reread)?;
                    }
                    if index + 1 == parts.len() && stats.kl > self.target_kl {
                        learner.discard_gradient();
                        sums.stopped = self.planned() as f64 - sums.updates - sums.empty;
                        learner.skip(sums.stopped as u64);
                        break 'update;
                    }
                    learner.accumulate(part_losses.total(), share)?;
                }
                sums.add(&learner.update()?, &stats);
                let tokens = rollout.responses.select(&rows).token_count();
                metrics.cost.trained_tokens += tokens;
                metrics.cost.scored_tokens += self.scored * tokens;
                metrics.cost.flops += self.flops * tokens as f64;
            }
        }
        let skipped = learner.skipped() - skipped;
        training_invariants::planned_updates_are_made(learner.step(), sums.updates as u64, skipped, self.planned())?;
        sums.into_metrics(self.planned() as f64, metrics);
        Ok(())
    }

    /// A minibatch read in parts has the gradient of the whole.
    fn check_parts<M: Module>(
        &self,
        learner: &Learner<M>,
        rollout: &Rollout,
        rows: &[usize],
        losses: impl Fn(&M, &[usize]) -> MinibatchLosses,
    ) -> Result<()> {
        let weight = |rows: &[usize]| rollout.weight(rows);
        let units: Vec<&[usize]> = rows.chunks(self.unit).filter(|unit| weight(unit) > 0.0).collect();
        probes::parts_make_the_same_gradient(learner, units.len(), |module, part| {
            let rows: Vec<usize> = part.iter().flat_map(|&unit| units[unit]).copied().collect();
            (losses(module, &rows).total(), weight(&rows))
        })
    }
}

/// Rows of the minibatches of one epoch; units of consecutive rows stay together.
fn shuffled(rows: usize, unit: usize, minibatches: usize, rng: &mut seeds::Rng) -> Vec<Vec<usize>> {
    let units = rows / unit;
    let batches = shuffled_batches(units, units / minibatches, rng);
    let rows_of = |units: Vec<usize>| units.iter().flat_map(|u| u * unit..(u + 1) * unit).collect();
    batches.into_iter().map(rows_of).collect()
}

/// The number in a tensor `[1]`.
fn first(x: Tensor<1>) -> f64 {
    f64::from(host(x.inner())[0])
}

/// Statistics of a minibatch over its parts.
#[derive(Default)]
struct MinibatchStats {
    value_loss: Option<f64>,
    clip_share: f64,
    kl: f64,
    ratio_max: f64,
    ratio_deviation: f64,
}

impl MinibatchStats {
    /// Adds a part with its share of what the minibatch's loss is a mean over, and of its counted tokens.
    fn add(&mut self, losses: &MinibatchLosses, share: f64, share_of_tokens: f64) {
        let PolicyLoss { clip_share, kl, ratio_max, ratio_deviation, .. } = &losses.policy;
        self.clip_share += share_of_tokens * first(clip_share.clone());
        self.kl += share_of_tokens * first(kl.clone());
        self.ratio_max = self.ratio_max.max(first(ratio_max.clone()));
        self.ratio_deviation = self.ratio_deviation.max(first(ratio_deviation.clone()));
        if let Some((loss, _)) = &losses.value {
            *self.value_loss.get_or_insert(0.0) += share * first(loss.clone());
        }
    }
}

/// Sums over the updates made; `kl` and the learning rate are those of the last one.
#[derive(Default)]
struct UpdateStats {
    updates: f64,
    /// Minibatches in which no response counts, and those after the stop at `target_kl`.
    empty: f64,
    stopped: f64,
    loss: f64,
    grad_norm: f64,
    update_ratio: f64,
    learning_rate: f64,
    value_loss: Option<f64>,
    clip_share: f64,
    kl: f64,
    ratio_max: f64,
}

impl UpdateStats {
    /// Adds one update.
    fn add(&mut self, update: &Update, stats: &MinibatchStats) {
        self.updates += 1.0;
        self.loss += update.loss;
        self.grad_norm += update.grad_norm;
        self.update_ratio += update.update_ratio;
        self.learning_rate = update.learning_rate;
        if let Some(loss) = stats.value_loss {
            *self.value_loss.get_or_insert(0.0) += loss;
        }
        self.clip_share += stats.clip_share;
        self.kl = stats.kl;
        self.ratio_max = self.ratio_max.max(stats.ratio_max);
    }

    /// Their means, with the number of planned updates; nothing without an update.
    fn into_metrics(self, planned: f64, metrics: &mut Metrics) {
        metrics.put(metrics::UPDATES_SKIPPED, self.stopped / planned);
        metrics.put(metrics::UPDATES_EMPTY, self.empty / planned);
        let n = self.updates;
        if n == 0.0 {
            return;
        }
        metrics.put(metrics::LOSS, self.loss / n);
        metrics.put(metrics::GRAD_NORM, self.grad_norm / n);
        metrics.put(metrics::UPDATE_RATIO, self.update_ratio / n);
        metrics.put(metrics::LEARNING_RATE, self.learning_rate);
        if let Some(value_loss) = self.value_loss {
            metrics.put(metrics::VALUE_LOSS, value_loss / n);
        }
        metrics.put(metrics::CLIP_SHARE, self.clip_share / n);
        metrics.put(metrics::KL_STEP, self.kl);
        metrics.put(metrics::RATIO_MAX, self.ratio_max);
    }
}
