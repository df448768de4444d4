//! Optimizers over one flat buffer: the whole update is a single pass, and the whole state is two or three vectors.

use duel_spec::{LearnerSettings, OptimizerKind as Kind};
use serde::{Deserialize, Serialize};

/// An optimizer with its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Optimizer {
    AdamW(AdamW),
    RmsProp(RmsProp),
    Lion(Lion),
}

impl Optimizer {
    /// State for `weights` weights.
    pub fn new(settings: &LearnerSettings, weights: usize) -> Self {
        match settings.optimizer {
            Kind::Adamw => {
                Self::AdamW(AdamW::new(settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon, weights))
            }
            Kind::Rmsprop => Self::RmsProp(RmsProp::new(settings, weights)),
            Kind::Lion => Self::Lion(Lion::new(settings.lion_beta1, settings.lion_beta2, weights)),
        }
    }

    /// One step against the gradient times `scale`, with a weight decay per weight.
    ///
    /// # Shapes
    /// `weights`, `gradient` and `decay` have the same length.
    pub fn step(
        &mut self,
        weights: &mut [f32],
        gradient: &[f32],
        scale: f32,
        decay: &[f32],
        learning_rate: f64,
    ) -> StepNorms {
        match self {
            Self::AdamW(adamw) => adamw.step(weights, gradient, scale, decay, learning_rate),
            Self::RmsProp(rmsprop) => rmsprop.step(weights, gradient, scale, decay, learning_rate),
            Self::Lion(lion) => lion.step(weights, gradient, scale, decay, learning_rate),
        }
    }
}

/// Norms of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepNorms {
    /// L2 norm of the step.
    pub update: f64,
    /// L2 norm of the weights before it.
    pub weights: f64,
}

/// Loshchilov & Hutter 2019, alg. 2, as in `torch.optim.AdamW`: ε is outside the root, after bias
/// correction; decay is decoupled from the moments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    /// Updates made.
    time: i32,
    /// First and second moments, one per weight.
    first: Vec<f32>,
    second: Vec<f32>,
}

impl AdamW {
    /// State for `weights` weights.
    pub fn new(beta1: f64, beta2: f64, epsilon: f64, weights: usize) -> Self {
        Self { beta1, beta2, epsilon, time: 0, first: vec![0.0; weights], second: vec![0.0; weights] }
    }

    /// As [`Optimizer::step`].
    pub fn step(
        &mut self,
        weights: &mut [f32],
        gradient: &[f32],
        scale: f32,
        decay: &[f32],
        learning_rate: f64,
    ) -> StepNorms {
        self.time += 1;
        let first_correction = 1.0 - self.beta1.powi(self.time);
        let second_root = (1.0 - self.beta2.powi(self.time)).sqrt() as f32;
        let step = duel_kernels::AdamWStep {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            rest1: (1.0 - self.beta1) as f32,
            rest2: (1.0 - self.beta2) as f32,
            size: (learning_rate / first_correction) as f32,
            second_root,
            epsilon: self.epsilon as f32,
            rate: learning_rate as f32,
            gradient_scale: scale,
        };
        let squares = duel_kernels::adamw(step, weights, gradient, decay, &mut self.first, &mut self.second);
        let [update, weights] = squares.map(f64::sqrt);
        StepNorms { update, weights }
    }
}

/// Hinton 2012, lecture 6e, as in `torch.optim.RMSprop`: ε is outside the root, no bias correction; decay is
/// added to the gradient. The optimizer of Rafailov et al. 2023, app. B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RmsProp {
    alpha: f32,
    epsilon: f32,
    momentum: f32,
    /// Whether the variance is taken around the mean gradient (Graves 2013).
    centred: bool,
    /// Mean square, mean and velocity of the gradient, one per weight.
    square: Vec<f32>,
    mean: Vec<f32>,
    velocity: Vec<f32>,
}

impl RmsProp {
    fn new(settings: &LearnerSettings, weights: usize) -> Self {
        Self {
            alpha: settings.rms_alpha as f32,
            epsilon: settings.rms_epsilon as f32,
            momentum: settings.rms_momentum as f32,
            centred: settings.rms_centred,
            square: vec![0.0; weights],
            mean: vec![0.0; weights],
            velocity: vec![0.0; weights],
        }
    }

    fn step(
        &mut self,
        weights: &mut [f32],
        gradient: &[f32],
        scale: f32,
        decay: &[f32],
        learning_rate: f64,
    ) -> StepNorms {
        let (alpha, rate) = (self.alpha, learning_rate as f32);
        let (mut update, mut size) = (0f64, 0f64);
        let moments = self.square.iter_mut().zip(&mut self.mean).zip(&mut self.velocity);
        for (((w, &g), &decay), ((square, mean), velocity)) in weights.iter_mut().zip(gradient).zip(decay).zip(moments)
        {
            let g = g * scale + decay * *w;
            *square = alpha * *square + (1.0 - alpha) * g * g;
            let variance = if self.centred {
                *mean = alpha * *mean + (1.0 - alpha) * g;
                (*square - *mean * *mean).max(0.0)
            } else {
                *square
            };
            *velocity = self.momentum * *velocity + g / (variance.sqrt() + self.epsilon);
            let before = *w;
            *w = before - rate * *velocity;
            update += f64::from(*w - before).powi(2);
            size += f64::from(before).powi(2);
        }
        StepNorms { update: update.sqrt(), weights: size.sqrt() }
    }
}

/// Chen et al. 2023, alg. 2: the sign of a blend of momentum and gradient; decay is decoupled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lion {
    beta1: f32,
    beta2: f32,
    /// One per weight.
    momentum: Vec<f32>,
}

impl Lion {
    /// State for `weights` weights.
    pub fn new(beta1: f64, beta2: f64, weights: usize) -> Self {
        Self { beta1: beta1 as f32, beta2: beta2 as f32, momentum: vec![0.0; weights] }
    }

    /// As [`Optimizer::step`].
    pub fn step(
        &mut self,
        weights: &mut [f32],
        gradient: &[f32],
        scale: f32,
        decay: &[f32],
        learning_rate: f64,
    ) -> StepNorms {
        let rate = learning_rate as f32;
        let (mut update, mut size) = (0f64, 0f64);
        for (((w, &g), &decay), momentum) in weights.iter_mut().zip(gradient).zip(decay).zip(&mut self.momentum) {
            let g = g * scale;
            let blend = self.beta1 * *momentum + (1.0 - self.beta1) * g;
            let sign = if blend == 0.0 { 0.0 } else { blend.signum() };
            *momentum = self.beta2 * *momentum + (1.0 - self.beta2) * g;
            let before = *w;
            *w = before - rate * (sign + decay * before);
            update += f64::from(*w - before).powi(2);
            size += f64::from(before).powi(2);
        }
        StepNorms { update: update.sqrt(), weights: size.sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_are_those_of_the_step_and_of_the_weights_before_it() {
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        for (optimizer, rms_centred) in
            [(Kind::Adamw, false), (Kind::Rmsprop, false), (Kind::Rmsprop, true), (Kind::Lion, false)]
        {
            let settings = LearnerSettings { optimizer, rms_centred, rms_momentum: 0.9, ..LearnerSettings::defaults() };
            let (mut state, mut weights) = (Optimizer::new(&settings, 3), vec![1.0f32, -2.0, 0.5]);
            for gradient in [[4.0, -1.0, 0.5], [-0.5, 3.0, 0.25]] {
                let before = weights.clone();
                let norms = state.step(&mut weights, &gradient, 0.5, &[0.1; 3], 0.01);
                let update = norm(&mut weights.iter().zip(&before).map(|(a, b)| f64::from(a - b)));
                let size = norm(&mut before.iter().map(|w| f64::from(*w)));
                assert!(
                    update > 0.0 && (norms.update / update - 1.0).abs() < 1e-5,
                    "{optimizer:?}: {norms:?}, {update}"
                );
                assert!((norms.weights / size - 1.0).abs() < 1e-6, "{optimizer:?}: {norms:?}, {size}");
            }
        }
    }

    /// Two steps of `torch.optim.RMSprop` with α = ¾, ε = 2 and momentum ½, from a gradient of 4 and then of −8. The decay of ¼ adds
    /// w/4 = 2 to a gradient.
    #[test]
    fn rmsprop_by_hand() {
        let settings = LearnerSettings {
            optimizer: Kind::Rmsprop,
            rms_alpha: 0.75,
            rms_epsilon: 2.0,
            rms_momentum: 0.5,
            rms_centred: false,
            ..LearnerSettings::defaults()
        };
        let close = |x: f32, y: f64| (f64::from(x) - y).abs() < 1e-5;
        let (mut plain, mut weights) = (RmsProp::new(&settings, 2), vec![1.0, 8.0]);
        // squares ¼·16 and ¼·16, roots 2: 4/(2 + 2) = 1; the second gradient is 2 + 2
        plain.step(&mut weights, &[8.0, 4.0], 0.5, &[0.0, 0.25], 0.1);
        assert!(close(weights[0], 0.9) && close(weights[1], 7.9), "{weights:?}");
        // squares ¾·4 + ¼·64 = 19: ½·1 − 8/(√19 + 2)
        plain.step(&mut weights, &[-8.0, -8.0], 1.0, &[0.0; 2], 0.1);
        let velocity = 0.5 - 8.0 / (19f64.sqrt() + 2.0);
        assert!(close(weights[0], 0.9 - 0.1 * velocity) && close(weights[1], 7.9 - 0.1 * velocity), "{weights:?}");

        let (mut centred, mut weights) =
            (RmsProp::new(&LearnerSettings { rms_centred: true, ..settings }, 1), vec![1.0]);
        // square 4, mean 1: 4/(√3 + 2); then square 19, mean ¾·1 − ¼·8 = −1.25
        centred.step(&mut weights, &[4.0], 1.0, &[0.0], 0.1);
        let first = 4.0 / (3f64.sqrt() + 2.0);
        assert!(close(weights[0], 1.0 - 0.1 * first), "{weights:?}");
        centred.step(&mut weights, &[-8.0], 1.0, &[0.0], 0.1);
        let second = 0.5 * first - 8.0 / ((19f64 - 1.25 * 1.25).sqrt() + 2.0);
        assert!(close(weights[0], 1.0 - 0.1 * (first + second)), "{weights:?}");
    }

    #[test]
    fn lion_by_hand() {
        let mut lion = Lion::new(0.9, 0.5, 3);
        let mut weights = vec![1.0, -2.0, 0.5];
        // blends .1·(4, −1, 0): signs +, −, 0; the decay of .1 pulls by w/10
        let norms = lion.step(&mut weights, &[8.0, -2.0, 0.0], 0.5, &[0.1, 0.1, 0.0], 0.01);
        let close = |x: f32, y: f32| (x - y).abs() < 1e-6;
        assert!(close(weights[0], 1.0 - 0.011) && close(weights[1], -2.0 + 0.012) && weights[2] == 0.5, "{weights:?}");
        assert!((norms.update - (0.011f64.powi(2) + 0.012f64.powi(2)).sqrt()).abs() < 1e-6);
        // momentum (2, −.5, 0): .9·2 − .1·17 > 0, so the sign is the momentum's and not the gradient's; then .9·(−.5) + .1·5
        lion.step(&mut weights, &[-17.0, 5.0, 0.0], 1.0, &[0.0; 3], 0.01);
        assert!(close(weights[0], 1.0 - 0.021) && close(weights[1], -2.0 + 0.002), "{weights:?}");
        assert!(close(lion.momentum[0], 1.0 - 8.5) && close(lion.momentum[1], -0.25 + 2.5));
    }
}
