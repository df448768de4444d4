//! The updates on one rollout: epochs of minibatches, near the policy that wrote the responses.

use crate::invariants;
use crate::rollout::Rollout;
use burn::module::Module;
use burn::tensor::Tensor;
use duel_model::{Flops, weights::host};
use duel_objectives::PolicyLoss;
use duel_spec::{KlPenalty, RolloutSettings, metrics, seeds};
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
    /// How far from 1 every ratio may be before one is clipped.
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
        let scored = u64::from(s.penalizes_full_kl(KlPenalty::Loss));
        let flops = policy.train(1) + policy.forward(scored) + others;
        let RolloutSettings { epochs, minibatches, target_kl, .. } = *s;
        let clip_range = s.clip_range.min(s.upper_clip_range());
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
    f64::from(host(x)[0])
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::{ROWS, T, config, context, learner, policy, rollout, settings, value_of};
    use burn::tensor::Device;
    use duel_model::Policy;
    use duel_objectives::ResponseMask;
    use duel_training::{Error, logprobs};
    use std::cell::RefCell;

    fn number(x: f64) -> Tensor<1> {
        Tensor::from_data([x as f32], &Device::flex().autodiff())
    }

    /// Losses with these diagnostics, the ratio being 1.
    fn losses(loss: Tensor<1>, value: Option<(f64, f64)>, [clip_share, kl, ratio_max]: [f64; 3]) -> MinibatchLosses {
        let policy = PolicyLoss {
            loss,
            clip_share: number(clip_share),
            kl: number(kl),
            ratio_max: number(ratio_max),
            ratio_deviation: number(0.0),
        };
        MinibatchLosses { policy, value: value.map(|(loss, weight)| (number(loss), weight)) }
    }

    #[test]
    fn the_value_loss_has_its_weight() {
        let total = |value| first(losses(number(1.0), value, [0.0; 3]).total());
        assert_eq!([total(None), total(Some((2.0, 0.25)))], [1.0, 1.5]);
    }

    #[test]
    fn statistics_of_the_updates_by_hand() {
        let of_parts = |parts: &[(f64, f64, f64, [f64; 3])]| {
            let mut stats = MinibatchStats::default();
            for &(share, share_of_tokens, value, diagnostics) in parts {
                stats.add(&losses(number(0.0), Some((value, 9.0)), diagnostics), share, share_of_tokens);
            }
            stats
        };
        let update =
            |loss, grad_norm, learning_rate, update_ratio| Update { loss, grad_norm, learning_rate, update_ratio };
        let mut sums = UpdateStats { empty: 1.0, stopped: 2.0, ..UpdateStats::default() };
        let parts = [(0.25, 0.4, 2.0, [0.5, 0.1, 1.5]), (0.75, 0.6, 4.0, [1.0, 0.2, 1.2])];
        sums.add(&update(1.0, 3.0, 0.1, 0.01), &of_parts(&parts)); // value loss 3.5, clip share .8, KL .16
        sums.add(&update(2.0, 5.0, 0.05, 0.03), &of_parts(&[(1.0, 1.0, 1.5, [0.2, 0.3, 1.1])]));
        let mut metrics = Metrics::default();
        sums.into_metrics(5.0, &mut metrics);
        let by_hand = [
            (metrics::UPDATES_SKIPPED, 0.4),
            (metrics::UPDATES_EMPTY, 0.2),
            (metrics::LOSS, 1.5),
            (metrics::GRAD_NORM, 4.0),
            (metrics::UPDATE_RATIO, 0.02),
            (metrics::LEARNING_RATE, 0.05),
            (metrics::VALUE_LOSS, 2.5),
            (metrics::CLIP_SHARE, 0.5),
            (metrics::KL_STEP, 0.3),
            (metrics::RATIO_MAX, 1.5),
        ];
        assert_eq!(metrics.values.len(), by_hand.len());
        for (metric, expected) in by_hand {
            let actual = value_of(&metrics, metric);
            assert!((actual - expected).abs() < 1e-6, "{metric}: {actual}, by hand {expected}");
        }

        let mut metrics = Metrics::default();
        UpdateStats { empty: 4.0, ..UpdateStats::default() }.into_metrics(4.0, &mut metrics);
        assert_eq!(metrics.values, [(metrics::UPDATES_SKIPPED, 0.0), (metrics::UPDATES_EMPTY, 1.0)]);
    }

    /// A rollout of which the responses 2 and 3 do not count.
    fn rollout_with_an_empty_pair() -> Rollout {
        let lengths: Vec<usize> = (0..ROWS).map(|row| if row / 2 == 1 { 0 } else { T }).collect();
        let mask = ResponseMask::from_lengths(&lengths, T, &Device::flex());
        Rollout { mask, ..rollout([0.0; ROWS], [0.0; ROWS], 0.1) }
    }

    /// Two epochs of minibatches of pairs, which stop above half a nat.
    fn updater(minibatches: usize) -> MinibatchUpdater {
        let settings = RolloutSettings { minibatches, epochs: 2, target_kl: 0.5, ..settings() };
        let rng = seeds::derive(1, "test", 0, "minibatches");
        MinibatchUpdater::new(&settings, ROWS, 2, Flops::policy(&config()), 0.0, rng)
    }

    /// −log π, the mean over the counted tokens of some rows.
    fn nll(rollout: &Rollout, module: &Policy, rows: &[usize]) -> Tensor<1> {
        let logp = logprobs::response_logp(&context().train_reader, module, &rollout.responses.select(rows)); // [b, T]
        rollout.mask_of(rows).mean(logp).neg()
    }

    #[test]
    fn the_first_epoch_is_made_of_all_units() {
        let (updater, rollout) = (updater(2), rollout([0.0; ROWS], [0.0; ROWS], 0.1));
        let first_epoch = updater.first_epoch().to_vec();
        assert_eq!(first_epoch.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4]);
        let mut rows = first_epoch.concat();
        assert!(rows.chunks(2).all(|unit| unit[0] % 2 == 0 && unit[1] == unit[0] + 1), "{rows:?}");
        rows.sort_unstable();
        assert_eq!(rows, (0..ROWS).collect::<Vec<_>>());

        let minibatches = RefCell::new(vec![]);
        let record = |module: &Policy, rows: &[usize]| {
            if rows.len() == 4 {
                minibatches.borrow_mut().push(rows.to_vec());
            }
            losses(nll(&rollout, module, rows), None, [0.0, 0.0, 1.0])
        };
        updater.run(&mut learner(policy(2).train()), &rollout, record, &mut Metrics::default()).expect("updates");
        let mut minibatches = minibatches.into_inner();
        minibatches.dedup(); // the first is read twice, for a check
        assert_eq!(minibatches[..2], first_epoch);
    }

    /// Updates stop above `target_kl`; of those that were planned, the rest is skipped, and what was empty before is not counted again.
    #[test]
    fn a_stop_skips_what_is_left() {
        let (rollout, mut learner) = (rollout_with_an_empty_pair(), learner(policy(2).train()));
        // a check reads the first minibatch twice; the sixth of those that count is one too far, all others are at the bound
        let readings = RefCell::new(0);
        let at_bound_until_the_fifth = |module: &Policy, rows: &[usize]| {
            *readings.borrow_mut() += 1;
            let kl = if *readings.borrow() == 2 + 5 { 0.6 } else { 0.5 };
            losses(nll(&rollout, module, rows), None, [0.0, kl, 1.0])
        };
        let mut metrics = Metrics::default();
        updater(4).run(&mut learner, &rollout, at_bound_until_the_fifth, &mut metrics).expect("updates");
        assert_eq!((learner.updates_made(), learner.skipped()), (4, 4));
        let [empty, stopped] =
            [metrics::UPDATES_EMPTY, metrics::UPDATES_SKIPPED].map(|metric| value_of(&metrics, metric));
        assert!(empty >= 1.0 / 8.0 && empty + stopped == 0.5, "{empty} empty, {stopped} after the stop");
    }

    /// The first minibatch is read in parts too, of units that count: their gradients add up to its own.
    #[test]
    fn a_loss_that_is_no_mean_is_named() {
        let (rollout, learner) = (rollout_with_an_empty_pair(), learner(policy(2).train()));
        let mean = |module: &Policy, rows: &[usize]| {
            assert!(rollout.weight(rows) > 0.0, "{rows:?} do not count");
            losses(nll(&rollout, module, rows), None, [0.0, 0.0, 1.0])
        };
        let sum = |module: &Policy, rows: &[usize]| {
            losses(nll(&rollout, module, rows) * rows.len() as f64, None, [0.0, 0.0, 1.0])
        };
        let rows: Vec<usize> = (0..ROWS).collect();
        updater(1).check_parts(&learner, &rollout, &rows, mean).expect("a mean");
        let breaks = |result: Result<()>| {
            let name = "parts_make_the_same_gradient";
            assert!(matches!(&result, Err(Error::Invariant { name: actual, .. }) if *actual == name), "{result:?}");
        };
        breaks(updater(1).check_parts(&learner, &rollout, &rows, sum));
        let mut learner = learner;
        breaks(updater(1).run(&mut learner, &rollout, sum, &mut Metrics::default()));
        assert_eq!(learner.updates_made(), 0, "before the first update");
    }
}
