//! Which of a training's steps is kept: early stopping, and the choice of the best.

use burn::module::Module;
use duel_model::weights;
use serde::{Deserialize, Serialize};

/// Whether a training goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoopControl {
    Go,
    Stop,
}

/// The best step of a training so far, by a score that is higher the better.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BestCheckpoint {
    /// Looks without a better one after which to stop; infinite: never.
    patience: f64,
    best: Option<Snapshot>,
    /// Looks since the best.
    since: f64,
}

/// A step that was kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub score: f64,
    pub step: u64,
    weights: Vec<f32>,
}

impl BestCheckpoint {
    /// Stops after `patience` looks without a better one.
    pub fn new(patience: f64) -> Self {
        Self { patience, best: None, since: 0.0 }
    }

    /// A look at the module as it is at a step. NaN is no better than anything.
    pub fn observe<M: Module>(&mut self, score: f64, step: u64, module: &M) -> LoopControl {
        if score > self.best.as_ref().map_or(f64::NEG_INFINITY, |best| best.score) {
            self.best = Some(Snapshot { score, step, weights: weights::flatten_trained(module) });
            self.since = 0.0;
        } else {
            self.since += 1.0;
        }
        if self.since >= self.patience { LoopControl::Stop } else { LoopControl::Go }
    }

    /// The module as it was at the best step, and which that was; as it is where nothing was seen.
    pub fn restore<M: Module>(self, module: M) -> (M, Option<u64>) {
        match self.best {
            Some(Snapshot { step, weights, .. }) => (weights::with_trained(module, &weights), Some(step)),
            None => (module, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Param;
    use burn::tensor::{Device, Tensor};

    #[derive(Module, Debug)]
    struct One {
        w: Param<Tensor<1>>,
    }

    #[test]
    fn the_first_of_the_best_is_kept_and_patience_ends() {
        let device = Device::flex().autodiff();
        let one = |x: f32| One { w: Param::from_tensor(Tensor::from_data([x], &device).require_grad()) };
        let mut keeper = BestCheckpoint::new(2.0);
        let scores = [0.5, 0.7, 0.7, 0.6];
        let onward: Vec<LoopControl> = (0..).zip(scores).map(|(i, s)| keeper.observe(s, i, &one(i as f32))).collect();
        assert_eq!(onward, [LoopControl::Go, LoopControl::Go, LoopControl::Go, LoopControl::Stop]);
        let (kept, step) = keeper.restore(one(9.0));
        assert_eq!((weights::host(kept.w.val()), step), (vec![1.0], Some(1)));
        assert_eq!(BestCheckpoint::new(f64::INFINITY).restore(one(9.0)).1, None);
    }
}
