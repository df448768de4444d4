//! The updates on one rollout: epochs of minibatches, near the policy that wrote the responses.

use crate::invariants;
use crate::rollout::Rollout;
use burn::module::Module;
use burn::tensor::Tensor;
use duel_model::{Flops, weights::host};
use duel_objectives::PolicyLoss;
use duel_spec::{KlEstimator, KlPenalty, RolloutSettings, metrics, seeds};
use duel_training::invariants as always;
use duel_training::rounding::nudged;
use duel_training::{Learner, Metrics, Result, Update, pairs::shuffled_batches, probes};

/// How many updates, and how far they may go.
#[derive(Debug, Clone, Copy)]
pub struct MinibatchUpdater {
    epochs: usize,
    /// Of one epoch.
    minibatches: usize,
    /// Nats a token, k3 of a minibatch: past it the updates stop.
    target_kl: f64,
    /// Of the ratio from 1.
    clip_range: f64,
    /// FLOPs of training on a token.
    flops: f64,
    /// Tokens that are only read for each that is trained on: the reference's law, where the loss asks for all of it.
    scored: u64,
    /// Responses that stay together, one after another.
    together: usize,
}

/// What some rows cost under the module as it is now.
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
    /// As the settings say; `together` responses, one after another, are never parted. `others` are the FLOPs of training
    /// whatever learns beside the policy on a token.
    pub fn new(s: &RolloutSettings, together: usize, policy: Flops, others: f64) -> Self {
        let scored = u64::from(s.kl == KlPenalty::Loss && s.kl_estimator == KlEstimator::Full);
        let flops = policy.train(1) + policy.forward(scored) + others;
        let RolloutSettings { epochs, minibatches, target_kl, clip_range, .. } = *s;
        Self { epochs, minibatches, target_kl, clip_range, flops, scored, together }
    }

    /// All of one rollout.
    fn planned(self) -> u64 {
        (self.epochs * self.minibatches) as u64
    }

    /// Rows of the minibatches of one epoch.
    pub fn shuffled(self, rows: usize, rng: &mut seeds::Rng) -> Vec<Vec<usize>> {
        let units = rows / self.together;
        let batches = shuffled_batches(units, units / self.minibatches, rng);
        let whole = |units: Vec<usize>| units.iter().flat_map(|u| u * self.together..(u + 1) * self.together).collect();
        batches.into_iter().map(whole).collect()
    }

    /// Makes the updates, beginning with the minibatches of `first_epoch`. Schulman et al. 2017, alg. 1.
    ///
    /// # Errors
    /// A broken invariant, and what [`Learner::minimize`] refuses.
    pub fn run<M: Module>(
        self,
        learner: &mut Learner<M>,
        rollout: &Rollout,
        first_epoch: &[Vec<usize>],
        rng: &mut seeds::Rng,
        losses: impl Fn(&M, &[usize]) -> MinibatchLosses,
        said: &mut Metrics,
    ) -> Result<()> {
        let responses = &rollout.responses;
        let weight = |rows: &[usize]| rollout.weight(rows);
        let (mut sums, left_out) = (UpdateStats::default(), learner.skipped());
        'update: for epoch in 0..self.epochs {
            let batches = if epoch == 0 { first_epoch.to_vec() } else { self.shuffled(responses.len(), rng) };
            for rows in batches {
                // where no response counts there is nothing to learn from; the schedule goes on
                if weight(&rows) == 0.0 {
                    learner.skip(1);
                    sums.empty += 1.0;
                    continue;
                }
                if learner.step() == 0 {
                    said.check(|| {
                        let units = rows.chunks(self.together).filter(|unit| weight(unit) > 0.0);
                        let units: Vec<&[usize]> = units.collect();
                        probes::parts_make_the_same_gradient(learner, units.len(), |module, part| {
                            let rows: Vec<usize> = part.iter().flat_map(|&unit| units[unit]).copied().collect();
                            (losses(module, &rows).total(), weight(&rows))
                        })
                    })?;
                }
                // a batch may be read in parts: what it says is then theirs together
                let mut saw = MinibatchStats::default();
                let (parts, whole, tokens) =
                    (learner.parts(&rows, self.together), weight(&rows), rollout.tokens(&rows));
                for (at, part) in parts.iter().enumerate() {
                    let found = losses(learner.module(), part);
                    let share = weight(part) / whole;
                    saw.add(&found, share, rollout.tokens(part) / tokens);
                    if sums.updates == 0.0 {
                        let reread = || first(losses(&nudged(learner.module()), part).policy.ratio_deviation);
                        let (step, deviation) = (learner.step(), saw.ratio_deviation);
                        invariants::first_ratio_is_one(step, deviation, saw.clip_share, self.clip_range, reread)?;
                    }
                    if at + 1 == parts.len() && saw.kl > self.target_kl {
                        learner.discard_gradient();
                        sums.stopped = self.planned() as f64 - sums.updates - sums.empty;
                        learner.skip(sums.stopped as u64);
                        break 'update;
                    }
                    learner.accumulate(found.total(), share)?;
                }
                sums.add(&learner.update()?, &saw);
                let tokens = responses.select(&rows).token_count();
                said.cost.trained_tokens += tokens;
                said.cost.scored_tokens += self.scored * tokens;
                said.cost.flops += self.flops * tokens as f64;
            }
        }
        let left_out = learner.skipped() - left_out;
        always::planned_updates_are_made(learner.step(), sums.updates as u64, left_out, self.planned())?;
        sums.into_metrics(self.planned() as f64, said);
        Ok(())
    }
}

/// The number in a tensor `[1]`.
fn first(x: Tensor<1>) -> f64 {
    f64::from(host(x.inner())[0])
}

/// What the losses of a minibatch say of the step, over its parts.
#[derive(Default)]
struct MinibatchStats {
    value_loss: Option<f64>,
    clip_share: f64,
    kl: f64,
    ratio_max: f64,
    ratio_deviation: f64,
}

impl MinibatchStats {
    /// Counts a part that is so much of what the whole's loss is a mean over, and of its counted tokens.
    fn add(&mut self, found: &MinibatchLosses, share: f64, share_of_tokens: f64) {
        let PolicyLoss { clip_share, kl, ratio_max, ratio_deviation, .. } = &found.policy;
        self.clip_share += share_of_tokens * first(clip_share.clone());
        self.kl += share_of_tokens * first(kl.clone());
        self.ratio_max = self.ratio_max.max(first(ratio_max.clone()));
        self.ratio_deviation = self.ratio_deviation.max(first(ratio_deviation.clone()));
        if let Some((loss, _)) = &found.value {
            *self.value_loss.get_or_insert(0.0) += share * first(loss.clone());
        }
    }
}

/// Sums over the updates made; `kl` and the rate are the last one's.
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
    /// Counts one update.
    fn add(&mut self, update: &Update, saw: &MinibatchStats) {
        self.updates += 1.0;
        self.loss += update.loss;
        self.grad_norm += update.grad_norm;
        self.update_ratio += update.update_ratio;
        self.learning_rate = update.learning_rate;
        if let Some(loss) = saw.value_loss {
            *self.value_loss.get_or_insert(0.0) += loss;
        }
        self.clip_share += saw.clip_share;
        self.kl = saw.kl;
        self.ratio_max = self.ratio_max.max(saw.ratio_max);
    }

    /// Their means, of so many planned updates; without an update there is none.
    fn into_metrics(self, planned: f64, said: &mut Metrics) {
        said.put(metrics::UPDATES_SKIPPED, self.stopped / planned);
        said.put(metrics::UPDATES_EMPTY, self.empty / planned);
        let n = self.updates;
        if n == 0.0 {
            return;
        }
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
    }
}
