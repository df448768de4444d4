//! The choice of the best step of a training, and early stopping.

use burn::module::Module;
use duel_model::weights;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// The best step of a training so far, by a score of which higher is better.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BestCheckpoint {
    /// Evaluations without improvement after which to stop; infinite: never.
    patience: f64,
    best: Option<Snapshot>,
    /// Evaluations since the best one.
    since: f64,
}

/// The weights of one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub score: f64,
    pub step: u64,
    weights: Vec<f32>,
}

impl BestCheckpoint {
    /// Stops after `patience` evaluations without improvement.
    pub fn new(patience: f64) -> Self {
        Self { patience, best: None, since: 0.0 }
    }

    /// Takes the score of the module at a step; breaks when patience is exhausted. NaN improves on nothing.
    pub fn observe<M: Module>(&mut self, score: f64, step: u64, module: &M) -> ControlFlow<()> {
        if score > self.best.as_ref().map_or(f64::NEG_INFINITY, |best| best.score) {
            self.best = Some(Snapshot { score, step, weights: weights::flatten_trained(module) });
            self.since = 0.0;
        } else {
            self.since += 1.0;
        }
        if self.since >= self.patience { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The module at the best step, and that step; the module unchanged if nothing was observed.
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
        let mut best = BestCheckpoint::new(2.0);
        let scores = [0.5, 0.7, 0.7, 0.6];
        let stops: Vec<bool> = (0..).zip(scores).map(|(i, s)| best.observe(s, i, &one(i as f32)).is_break()).collect();
        assert_eq!(stops, [false, false, false, true]);
        let (module, step) = best.restore(one(9.0));
        assert_eq!((weights::host(module.w.val()), step), (vec![1.0], Some(1)));
        assert_eq!(BestCheckpoint::new(f64::INFINITY).restore(one(9.0)).1, None);
    }
}
