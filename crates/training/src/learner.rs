//! The only place that calls backward, clips by the global norm, steps, and guards against NaN.

use crate::dropout::Dropout;
use crate::optimizer::{Move, Optimizer};
use crate::{Result, invariants, schedule::rate};
use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use duel_model::weights;
use duel_spec::LearnerSettings;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// A module and all that improves it.
#[derive(Debug)]
pub struct Learner<M> {
    module: Option<M>,
    at: LearnerState,
    /// Each weight's decay.
    decay: Vec<f32>,
    settings: LearnerSettings,
    learning_rate: f64,
    total: u64,
    pending: Pending,
    /// The last gradient's memory.
    spare: Vec<f32>,
    dropout: Option<Dropout>,
}

/// All that an update changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearnerState {
    weights: Vec<f32>,
    optimizer: Optimizer,
    step: u64,
    /// Updates that were planned but left out; the schedule counts them.
    skipped: u64,
}

/// What the parts of a batch have added up to since the last update.
#[derive(Debug, Default)]
struct Pending {
    gradient: Vec<f32>,
    loss: f64,
    share: f64,
}

/// What one update did.
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
    /// Takes a module on an autodiff device, whose frozen parameters stay as they are; `learning_rate` is the peak, `total` the planned updates.
    pub fn new(module: M, settings: &LearnerSettings, learning_rate: f64, total: u64) -> Self {
        assert!(ids_are_unique(&module), "two parameters share an id, and would take each other's gradient");
        let trained = weights::trained(&module);
        let decay = trained.iter().flat_map(|n| vec![decay(n, settings); n.values.len()]).collect();
        let weights: Vec<f32> = trained.into_iter().flat_map(|n| n.values).collect();
        let optimizer = Optimizer::new(settings, weights.len());
        Self {
            module: Some(module),
            at: LearnerState { weights, optimizer, step: 0, skipped: 0 },
            decay,
            settings: settings.clone(),
            learning_rate,
            total,
            pending: Pending::default(),
            spare: Vec::new(),
            dropout: None,
        }
    }

    /// Trains under dropout of adapters' inputs; `dropout` 0 is none. Reproducible by `seed`.
    pub fn dropping(mut self, dropout: f64, seed: u64) -> Self {
        self.dropout = (dropout > 0.0).then(|| Dropout::new(dropout, seed, &weights::trained(self.module())));
        self
    }

    /// Begins an iteration: the module is thinned by a mask that holds until [`Learner::whole`].
    pub fn thin(&mut self, iteration: u64) {
        if let Some(dropout) = &mut self.dropout {
            dropout.draw(iteration);
            self.put_weights();
        }
    }

    /// Ends an iteration: nothing is dropped.
    pub fn whole(&mut self) {
        if let Some(dropout) = &mut self.dropout {
            dropout.rest();
            self.put_weights();
        }
    }

    /// Gives the module the weights that it is to have.
    fn put_weights(&mut self) {
        let module = self.module.take().expect("present between calls");
        self.module = Some(match &self.dropout {
            Some(dropout) => weights::with_trained(module, &dropout.thinned(&self.at.weights)),
            None => weights::with_trained(module, &self.at.weights),
        });
    }

    /// What a training between two iterations has to keep to go on.
    pub fn state(&self) -> &LearnerState {
        &self.at
    }

    /// Goes on from a state that a learner of the same module and settings had; `false` if it is another's.
    pub fn resume(&mut self, state: LearnerState) -> bool {
        let fits = state.weights.len() == self.at.weights.len();
        if fits {
            self.at = state;
            self.put_weights();
        }
        fits
    }

    /// The module as it is now.
    pub fn module(&self) -> &M {
        self.module.as_ref().expect("the module is away only within minimize")
    }

    /// Updates made.
    pub fn step(&self) -> u64 {
        self.at.step
    }

    /// Leaves out planned updates: the schedule goes on as if they had been made, so that every training ends
    /// at the rate that its schedule ends at.
    pub fn skip(&mut self, updates: u64) {
        self.at.skipped += updates;
    }

    /// Trained parameters.
    pub fn parameters(&self) -> usize {
        self.at.weights.len()
    }

    /// Gives the trained module back.
    pub fn into_module(self) -> M {
        self.module.expect("the module is away only within minimize")
    }

    /// One update against the gradient of `loss` `[1]`.
    ///
    /// # Errors
    /// [`crate::Error::Diverged`] if the loss or the gradient is not finite; the weights are then untouched.
    pub fn minimize(&mut self, loss: Tensor<1>) -> Result<Update> {
        self.accumulate(loss, 1.0)?;
        self.update()
    }

    /// The same for a batch of `rows` things that is read in `accumulate` parts, so that no more than a part is in memory.
    /// `part` gives the mean loss `[1]` of some of the rows, `weight` how much they hold of what it is a mean over
    /// (counted tokens, pairs).
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

    /// Rows of a batch in the `accumulate` parts that they are read in; so many rows stay `together`.
    pub fn parts(&self, rows: &[usize], together: usize) -> Vec<Vec<usize>> {
        let units = (rows.len() / together).div_ceil(self.settings.accumulate).max(1);
        rows.chunks(units * together).map(<[usize]>::to_vec).collect()
    }

    /// Drops what was accumulated since the last update.
    pub fn forget(&mut self) {
        self.pending = Pending::default();
    }

    /// Adds the gradient of one part of a batch. `loss` `[1]` is a mean over the part, `share` the part's share of what
    /// the whole batch's mean is over (counted tokens, pairs), so that 1×8 and 8×1 are the same update.
    ///
    /// # Errors
    /// [`crate::Error::Diverged`] if the loss is not finite; the batch's earlier parts are then forgotten.
    pub fn accumulate(&mut self, loss: Tensor<1>, share: f64) -> Result<()> {
        // 1. Guard, backward, and the gradient as one vector in the order of the weights.
        let value = f64::from(weights::host(loss.clone().inner())[0]);
        if !value.is_finite() {
            self.pending = Pending::default();
            return Err(invariants::diverged(self.at.step, "the loss", value));
        }
        let spare = std::mem::take(&mut self.spare);
        let gradient = self.gradient_in(spare, self.module(), loss * share);
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
    /// [`crate::Error::Diverged`] if the gradient is not finite, a broken invariant if the shares do not make a whole batch: the
    /// weights are then untouched. [`crate::Error::Diverged`] too if the step leads to weights that are not finite.
    pub fn update(&mut self) -> Result<Update> {
        let step = self.at.step;
        let Pending { gradient, loss: value, share } = std::mem::take(&mut self.pending);
        invariants::parts_make_a_whole(step, share)?;

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
        let planned = step + self.at.skipped;
        let learning_rate = rate(&self.settings, self.learning_rate, planned, self.total);
        let Move { length, from } =
            self.at.optimizer.step(&mut self.at.weights, &gradient, scale, &self.decay, learning_rate);
        self.spare = gradient;
        invariants::finite(step + 1, "the norm of the step, and so a weight,", length)?;
        if learning_rate == 0.0 {
            invariants::zero_rate_moves_nothing(step, length)?;
        }
        self.put_weights();
        self.at.step += 1;
        duel_kernels::updated();
        Ok(Update { loss: value, grad_norm, learning_rate, update_ratio: length / from.max(f64::MIN_POSITIVE) })
    }

    /// A step at rate 0, on a few weights beside the real ones: nothing may move.
    fn check_zero_rate(&self, gradient: &[f32]) -> Result<()> {
        let n = self.at.weights.len().min(1 << 16);
        let mut weights = self.at.weights[..n].to_vec();
        let moved = Optimizer::new(&self.settings, n).step(&mut weights, &gradient[..n], 1.0, &self.decay[..n], 0.0);
        invariants::zero_rate_moves_nothing(self.at.step, moved.length)
    }

    /// The gradient of a loss as one vector, without a step; parameters the loss does not reach get 0.
    pub fn gradient(&self, loss: Tensor<1>) -> Vec<f32> {
        self.gradient_of(self.module(), loss)
    }

    /// The same of a module like the learner's, whose loss it is.
    pub fn gradient_of(&self, module: &M, loss: Tensor<1>) -> Vec<f32> {
        self.gradient_in(Vec::with_capacity(self.at.weights.len()), module, loss)
    }

    /// The same in the memory of another vector.
    fn gradient_in(&self, mut flat: Vec<f32>, module: &M, loss: Tensor<1>) -> Vec<f32> {
        struct Collect<'a> {
            gradients: &'a mut GradientsParams,
            flat: Vec<f32>,
        }
        impl ModuleVisitor for Collect<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                match self.gradients.remove::<D>(param.id) {
                    Some(gradient) => weights::append(gradient, &mut self.flat),
                    None if !param.val().is_require_grad() => {}
                    None => self.flat.resize(self.flat.len() + param.shape().num_elements(), 0.0),
                }
            }
        }
        let mut gradients = GradientsParams::from_grads(loss.backward(), module);
        flat.clear();
        let mut collect = Collect { gradients: &mut gradients, flat };
        module.visit(&mut collect);
        if let Some(dropout) = &self.dropout {
            dropout.thin(&mut collect.flat); // of the weights themselves, not of what is left of them
        }
        collect.flat
    }
}

/// L2 norm of a flat vector of weights or gradients.
pub fn norm(flat: &[f32]) -> f64 {
    duel_kernels::squares(flat).sqrt()
}

/// A parameter's decay: biases and norm gains, which are vectors, are left out unless the settings say otherwise, and
/// embeddings where they say so.
fn decay(parameter: &weights::Named, settings: &LearnerSettings) -> f32 {
    let embeds = ["tokens.", "positions."].iter().any(|part| parameter.name.contains(part));
    let decays = if embeds { settings.decay_embeddings } else { parameter.shape.len() > 1 || settings.decay_vectors };
    if decays { settings.weight_decay as f32 } else { 0.0 }
}

/// Clones of a module keep their parameters' ids; a module put together from two clones may share what is frozen, and
/// nothing else.
fn ids_are_unique<M: Module>(module: &M) -> bool {
    struct Ids {
        seen: HashSet<ParamId>,
        unique: bool,
    }
    impl ModuleVisitor for Ids {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.unique &= !param.val().is_require_grad() || self.seen.insert(param.id);
        }
    }
    let mut ids = Ids { seen: HashSet::new(), unique: true };
    module.visit(&mut ids);
    ids.unique
}
