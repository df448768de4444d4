//! The only place that calls backward, clips by the global norm, steps, and guards against NaN.

use crate::dropout::Dropout;
use crate::optimizer::{Optimizer, StepNorms};
use crate::{Result, invariants, schedule::rate};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Tensor};
use duel_model::weights;
use duel_spec::LearnerSettings;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// A module and everything that trains it.
#[derive(Debug)]
pub struct Learner<M> {
    module: Option<M>,
    state: LearnerState,
    /// End of each optimizer's range of the weights, in order.
    groups: Vec<usize>,
    /// Whether the first group is frozen.
    is_frozen: bool,
    /// Each weight's decay.
    decay: Vec<f32>,
    settings: LearnerSettings,
    learning_rate: f64,
    total: u64,
    pending: AccumulatedGrad,
    /// The last gradient's allocation, for reuse.
    spare: Vec<f32>,
    dropout: Option<Dropout>,
}

/// Everything that an update changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearnerState {
    weights: Vec<f32>,
    /// One per group.
    optimizers: Vec<Optimizer>,
    step: u64,
    /// Planned updates that were skipped; the schedule counts them.
    skipped: u64,
    /// Updates of the whole module at a rate above 0.
    updates: u64,
}

/// The sum of a batch's parts since the last update.
#[derive(Debug, Default)]
struct AccumulatedGrad {
    gradient: Vec<f32>,
    loss: f64,
    share: f64,
}

/// Metrics of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// The loss before the step.
    pub loss: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    pub learning_rate: f64,
    /// L2 norm of the step over that of the weights.
    pub update_ratio: f64,
}

impl<M: Module> Learner<M> {
    /// Takes a module on an autodiff device, whose frozen parameters stay unchanged; `learning_rate` is the peak, `total` the
    /// number of planned updates.
    pub fn new(module: M, settings: &LearnerSettings, learning_rate: f64, total: u64) -> Self {
        assert!(ids_are_unique(&module), "two parameters share an id, and would share a gradient");
        let trained = weights::trained(&module);
        let decay =
            trained.iter().flat_map(|parameter| vec![decay(parameter, settings); parameter.values.len()]).collect();
        let weights: Vec<f32> = trained.into_iter().flat_map(|parameter| parameter.values).collect();
        let optimizers = vec![Optimizer::new(settings, weights.len())];
        Self {
            module: Some(module),
            groups: vec![weights.len()],
            is_frozen: false,
            state: LearnerState { weights, optimizers, step: 0, skipped: 0, updates: 0 },
            decay,
            settings: settings.clone(),
            learning_rate,
            total,
            pending: AccumulatedGrad::default(),
            spare: Vec::new(),
            dropout: None,
        }
    }

    /// Trains with dropout of adapters' inputs; 0 is none. Reproducible by `seed`.
    pub fn with_dropout(mut self, dropout: f64, seed: u64) -> Self {
        self.dropout = (dropout > 0.0).then(|| Dropout::new(dropout, seed, &weights::trained(self.module())));
        self
    }

    /// Gives the parameters of the module's first field an optimizer of their own, so that they can be frozen
    /// ([`freeze_first_group`](Self::freeze_first_group)) while the others train. Call it before the first update.
    pub fn with_own_optimizer(mut self, field: &str) -> Self {
        let trained = weights::trained(self.module());
        let first = trained.iter().take_while(|parameter| parameter.name.split('.').next() == Some(field));
        let first = first.map(|parameter| parameter.values.len()).sum();
        self.groups = vec![first, self.state.weights.len()];
        let sizes = [first, self.state.weights.len() - first];
        self.state.optimizers = sizes.map(|size| Optimizer::new(&self.settings, size)).to_vec();
        self
    }

    /// Freezes or unfreezes the first group. While frozen, its weights, moments and step count stay unchanged, to the bit, and
    /// its gradient counts in no norm.
    pub fn freeze_first_group(&mut self, is_frozen: bool) {
        assert!(!is_frozen || self.groups.len() > 1, "only a group with its own optimizer can be frozen");
        self.is_frozen = is_frozen;
    }

    /// Applies the dropout mask of an iteration, until [`Learner::remove_dropout`].
    pub fn apply_dropout(&mut self, iteration: u64) {
        if let Some(dropout) = &mut self.dropout {
            dropout.draw(iteration);
            self.write_weights();
        }
    }

    /// Ends an iteration: nothing is dropped.
    pub fn remove_dropout(&mut self) {
        if let Some(dropout) = &mut self.dropout {
            dropout.disable();
            self.write_weights();
        }
    }

    /// Writes the weights, with dropout applied, into the module.
    fn write_weights(&mut self) {
        let module = self.module.take().expect("the module is absent only within `write_weights`");
        self.module = Some(match &self.dropout {
            Some(dropout) => weights::with_trained(module, &dropout.applied(&self.state.weights)),
            None => weights::with_trained(module, &self.state.weights),
        });
    }

    /// The state from which a training can resume between two iterations.
    pub fn state(&self) -> &LearnerState {
        &self.state
    }

    /// Resumes from the state of a learner of the same module and settings; `false` if it does not fit.
    pub fn resume(&mut self, state: LearnerState) -> bool {
        let fits = state.weights.len() == self.state.weights.len() && state.optimizers.len() == self.groups.len();
        if fits {
            self.state = state;
            self.write_weights();
        }
        fits
    }

    /// The module with its current weights.
    pub fn module(&self) -> &M {
        self.module.as_ref().expect("the module is absent only within `write_weights`")
    }

    /// Updates made.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Planned updates that were skipped.
    pub fn skipped(&self) -> u64 {
        self.state.skipped
    }

    /// Updates made and skipped: the place in the schedule.
    pub fn planned(&self) -> u64 {
        self.state.step + self.state.skipped
    }

    /// Sets the number of planned updates at which the schedule ends.
    pub fn set_total(&mut self, total: u64) {
        self.total = total;
    }

    /// Updates of the whole module at a rate above 0.
    pub fn updates_made(&self) -> u64 {
        self.state.updates
    }

    /// Skips planned updates: the schedule advances as if they had been made, so that every training ends at the final
    /// learning rate.
    pub fn skip(&mut self, updates: u64) {
        self.state.skipped += updates;
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.state.weights.len()
    }

    /// The trained module.
    pub fn into_module(self) -> M {
        self.module.expect("the module is absent only within `write_weights`")
    }

    /// One update against the gradient of `loss` `[1]`.
    ///
    /// # Errors
    /// [`crate::Error::Diverged`] if the loss or the gradient is not finite; the weights are then unchanged.
    pub fn minimize(&mut self, loss: Tensor<1>) -> Result<Update> {
        self.accumulate(loss, 1.0)?;
        self.update()
    }

    /// The same for a batch of `rows` rows in `accumulate` parts, so that only one part is in memory. `part` gives the mean
    /// loss `[1]` of some of the rows, `weight` the size of what it is a mean over (counted tokens, pairs).
    ///
    /// # Errors
    /// As [`Learner::minimize`].
    pub fn minimize_in_parts(
        &mut self,
        rows: usize,
        weight: impl Fn(&[usize]) -> f64,
        mut part: impl FnMut(&M, &[usize]) -> Tensor<1>,
    ) -> Result<Update> {
        let parts = self.parts(&(0..rows).collect::<Vec<_>>(), 1);
        let weights: Vec<f64> = parts.iter().map(|rows| weight(rows)).collect();
        let total: f64 = weights.iter().sum();
        for (rows, weight) in parts.iter().zip(weights) {
            let loss = part(self.module(), rows);
            self.accumulate(loss, weight / total)?;
        }
        self.update()
    }

    /// Rows of a batch in `accumulate` parts; each `together` consecutive rows stay in one part.
    pub fn parts(&self, rows: &[usize], together: usize) -> Vec<Vec<usize>> {
        let units = (rows.len() / together).div_ceil(self.settings.accumulate).max(1);
        rows.chunks(units * together).map(<[usize]>::to_vec).collect()
    }

    /// Discards what was accumulated since the last update.
    pub fn discard_gradient(&mut self) {
        self.pending = AccumulatedGrad::default();
    }

    /// Adds the gradient of one part of a batch. `loss` `[1]` is a mean over the part, `share` the part's share of what the
    /// whole batch's mean is over (counted tokens, pairs), so that 1×8 and 8×1 give the same update.
    ///
    /// # Errors
    /// [`crate::Error::Diverged`] if the loss is not finite; the batch's earlier parts are then discarded.
    pub fn accumulate(&mut self, loss: Tensor<1>, share: f64) -> Result<()> {
        // 1. Guard, backward, and the gradient as one vector in the order of the weights.
        let value = f64::from(weights::host(loss.clone().inner())[0]);
        if !value.is_finite() {
            self.pending = AccumulatedGrad::default();
            return Err(invariants::diverged(self.state.step, "the loss", value));
        }
        let spare = std::mem::take(&mut self.spare);
        let loss = if share == 1.0 { loss } else { loss * share };
        let gradient = self.gradient_in(spare, self.module(), loss);
        self.pending.loss += value * share;
        self.pending.share += share;
        if self.pending.gradient.is_empty() {
            self.pending.gradient = gradient;
        } else {
            self.pending.gradient.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
        }
        Ok(())
    }

    /// One update against what was accumulated.
    ///
    /// # Errors
    /// [`crate::Error::Diverged`] if the gradient is not finite, a violated invariant if the shares do not add up to 1: the
    /// weights are then unchanged. [`crate::Error::Diverged`] too if the step leads to weights that are not finite.
    pub fn update(&mut self) -> Result<Update> {
        let step = self.state.step;
        let AccumulatedGrad { mut gradient, loss: value, share } = std::mem::take(&mut self.pending);
        invariants::parts_make_a_whole(step, share)?;
        if self.is_frozen {
            gradient[..self.groups[0]].fill(0.0);
        }

        // 2. Clip by the global norm.
        let grad_norm = norm(&gradient);
        if !grad_norm.is_finite() {
            return Err(invariants::diverged(step, "the gradient norm", grad_norm));
        }
        let scale = (self.settings.clip_norm / (grad_norm + 1e-6)).min(1.0) as f32;

        // 3. Step.
        if step == 0 {
            self.check_zero_rate(&gradient)?;
        }
        let learning_rate = rate(&self.settings, self.learning_rate, self.planned(), self.total);
        let norms = self.step_groups(&gradient, scale, learning_rate);
        self.spare = gradient;
        invariants::finite(step + 1, "the norm of the step, and so a weight,", norms.update)?;
        if learning_rate == 0.0 {
            invariants::zero_rate_moves_nothing(step, norms.update)?;
        }
        self.write_weights();
        self.state.step += 1;
        self.state.updates += u64::from(learning_rate > 0.0 && !self.is_frozen);
        duel_kernels::pool_tick();
        Ok(Update {
            loss: value,
            grad_norm,
            learning_rate,
            update_ratio: norms.update / norms.weights.max(f64::MIN_POSITIVE),
        })
    }

    /// A step of every group that is not frozen.
    fn step_groups(&mut self, gradient: &[f32], scale: f32, learning_rate: f64) -> StepNorms {
        let LearnerState { weights, optimizers, .. } = &mut self.state;
        if let [optimizer] = optimizers.as_mut_slice() {
            return optimizer.step(weights, gradient, scale, &self.decay, learning_rate);
        }
        let (mut squares, mut begin) = ([0.0; 2], 0);
        for (group, (optimizer, &end)) in optimizers.iter_mut().zip(&self.groups).enumerate() {
            let (weights, range) = (&mut weights[begin..end], begin..end);
            let norms = match self.is_frozen && group == 0 {
                true => StepNorms { update: 0.0, weights: norm(weights) },
                false => {
                    optimizer.step(weights, &gradient[range.clone()], scale, &self.decay[range.clone()], learning_rate)
                }
            };
            squares = [squares[0] + norms.update * norms.update, squares[1] + norms.weights * norms.weights];
            begin = end;
        }
        let [update, weights] = squares.map(f64::sqrt);
        StepNorms { update, weights }
    }

    /// A step at rate 0 on a copy of a few weights: nothing may move.
    fn check_zero_rate(&self, gradient: &[f32]) -> Result<()> {
        let n = self.state.weights.len().min(1 << 16);
        let mut weights = self.state.weights[..n].to_vec();
        let norms = Optimizer::new(&self.settings, n).step(&mut weights, &gradient[..n], 1.0, &self.decay[..n], 0.0);
        invariants::zero_rate_moves_nothing(self.state.step, norms.update)
    }

    /// The gradient of a loss as one vector, without a step; parameters the loss does not reach get 0.
    pub fn gradient(&self, loss: Tensor<1>) -> Vec<f32> {
        self.gradient_of(self.module(), loss)
    }

    /// The same for another module of the same shape, of which `loss` is.
    pub fn gradient_of(&self, module: &M, loss: Tensor<1>) -> Vec<f32> {
        self.gradient_in(Vec::with_capacity(self.state.weights.len()), module, loss)
    }

    /// The same in a given allocation.
    fn gradient_in(&self, mut flat: Vec<f32>, module: &M, loss: Tensor<1>) -> Vec<f32> {
        struct CollectGradients {
            gradients: Gradients,
            /// Of each trained parameter its size and, where the loss reaches it, its gradient.
            parts: Vec<(usize, Option<Vec<f32>>)>,
        }
        impl ModuleVisitor for CollectGradients {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let tensor = param.val();
                let gradient = tensor.grad_remove(&mut self.gradients).map(weights::host);
                if gradient.is_some() || tensor.is_require_grad() {
                    self.parts.push((tensor.shape().num_elements(), gradient));
                }
            }
        }
        let mut collect = CollectGradients { gradients: loss.backward(), parts: vec![] };
        module.visit(&mut collect);
        weights::concatenate(&collect.parts, &mut flat);
        if let Some(dropout) = &self.dropout {
            dropout.apply(&mut flat); // the gradient of the weights before dropout
        }
        flat
    }
}

/// L2 norm of a flat vector of weights or gradients.
pub fn norm(flat: &[f32]) -> f64 {
    duel_kernels::squares(flat).sqrt()
}

/// A parameter's weight decay: biases and norm gains, which are vectors, have none unless the settings say so; embeddings have
/// their own switch.
fn decay(parameter: &weights::NamedTensor, settings: &LearnerSettings) -> f32 {
    let is_embedding = ["tokens.", "positions."].iter().any(|part| parameter.name.contains(part));
    let decays =
        if is_embedding { settings.decay_embeddings } else { parameter.shape.len() > 1 || settings.decay_vectors };
    if decays { settings.weight_decay as f32 } else { 0.0 }
}

/// Clones of a module keep their parameters' ids; a module composed of two clones may share frozen parameters only.
fn ids_are_unique<M: Module>(module: &M) -> bool {
    struct CollectParamIds {
        seen: HashSet<ParamId>,
        unique: bool,
    }
    impl ModuleVisitor for CollectParamIds {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.unique &= !param.val().is_require_grad() || self.seen.insert(param.id);
        }
    }
    let mut ids = CollectParamIds { seen: HashSet::new(), unique: true };
    module.visit(&mut ids);
    ids.unique
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_spec::OptimizerKind as Kind;

    #[derive(Module, Debug)]
    struct Two {
        first: Param<Tensor<1>>,
        second: Param<Tensor<1>>,
    }

    fn two(own_optimizer: bool, settings: &LearnerSettings) -> Learner<Two> {
        let device = Device::flex().autodiff();
        let parameter = |x: [f32; 2]| Param::from_tensor(Tensor::from_data(x, &device).require_grad());
        let learner =
            Learner::new(Two { first: parameter([1.0, -2.0]), second: parameter([3.0, 0.5]) }, settings, 0.1, 8);
        if own_optimizer { learner.with_own_optimizer("first") } else { learner }
    }

    /// One update against a loss that reaches both.
    fn step(learner: &mut Learner<Two>) -> Update {
        let Two { first, second } = learner.module();
        let loss = (first.val() * second.val()).sum() + second.val().square().sum();
        learner.minimize(loss).expect("finite")
    }

    fn weights_of(learner: &Learner<Two>) -> [Vec<f32>; 2] {
        let Two { first, second } = learner.module();
        [first, second].map(|w| weights::host(w.val().inner()))
    }

    #[test]
    fn a_frozen_group_stays_to_the_bit_and_then_starts_afresh() {
        for optimizer in [Kind::Adamw, Kind::Rmsprop, Kind::Lion] {
            let settings = LearnerSettings {
                optimizer,
                weight_decay: 0.3,
                decay_vectors: true,
                rms_momentum: 0.5,
                warmup: 0.0,
                clip_norm: 1e9,
                schedule: duel_spec::Schedule::Constant,
                ..LearnerSettings::defaults()
            };
            let mut learner = two(true, &settings);
            let start = weights_of(&learner);
            learner.freeze_first_group(true);
            for _ in 0..3 {
                let [first, second] = weights_of(&learner);
                // the gradient of the frozen part, `second`, counts in no norm: that of the other is first + 2 second
                let squares = first.iter().zip(&second).map(|(a, b)| f64::from(a + 2.0 * b).powi(2));
                let expected = squares.sum::<f64>().sqrt();
                assert!((step(&mut learner).grad_norm / expected - 1.0).abs() < 1e-6);
                let now = weights_of(&learner);
                assert!(now[0] == start[0] && now[1] != second);
            }
            assert_eq!(
                learner.state.optimizers[0],
                Optimizer::new(&settings, 2),
                "{optimizer:?}: moments and step count"
            );
            assert_eq!((learner.step(), learner.updates_made()), (3, 0));

            // unfrozen, the first group moves as in the first update of a new training from these weights
            let current = weights_of(&learner);
            learner.freeze_first_group(false);
            step(&mut learner);
            let mut fresh = two(true, &settings);
            fresh.state.weights[2..].copy_from_slice(&current[1]);
            fresh.write_weights();
            step(&mut fresh);
            assert_eq!(weights_of(&learner)[0], weights_of(&fresh)[0], "{optimizer:?}");
            assert_ne!(weights_of(&learner)[0], start[0]);
            assert_eq!(learner.updates_made(), 1);
        }
    }

    #[test]
    fn unfrozen_groups_change_nothing() {
        let settings = LearnerSettings { weight_decay: 0.3, ..LearnerSettings::defaults() };
        let (mut one, mut two) = (two(false, &settings), two(true, &settings));
        assert_eq!(two.state.optimizers, vec![Optimizer::new(&settings, 2); 2], "each has moments of its own weights");
        for _ in 0..3 {
            let [a, b] = [step(&mut one), step(&mut two)];
            assert!((a.update_ratio - b.update_ratio).abs() < 1e-12 && a.grad_norm == b.grad_norm);
        }
        assert_eq!(weights_of(&one), weights_of(&two));
        assert_eq!(one.updates_made(), 2, "the first update is at rate 0");
    }

    #[test]
    fn a_state_of_other_weights_or_other_groups_is_refused() {
        let settings = LearnerSettings::defaults();
        let mut trained = two(false, &settings);
        for _ in 0..2 {
            step(&mut trained);
        }
        let (state, start) = (trained.state().clone(), two(false, &settings));
        let mut more = state.clone();
        more.weights.push(0.0);
        for (own_optimizer, state) in [(false, more), (true, state.clone())] {
            let mut other = two(own_optimizer, &settings);
            assert!(!other.resume(state));
            assert!(other.step() == 0 && weights_of(&other) == weights_of(&start));
        }
        let mut same = start;
        assert!(same.resume(state));
        assert!(same.step() == 2 && weights_of(&same) == weights_of(&trained));
    }
}
