//! AdamW over one flat buffer: the whole update is a single pass, and the whole state is two vectors.

use duel_spec::LearnerSettings;

/// Loshchilov & Hutter 2019, alg. 2, as in `torch.optim.AdamW`: ε stands outside the root, after bias
/// correction.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    /// Updates made.
    time: i32,
    /// First and second moments, as long as the weights.
    first: Vec<f32>,
    second: Vec<f32>,
}

impl AdamW {
    /// For so many weights.
    pub fn new(settings: &LearnerSettings, weights: usize) -> Self {
        Self {
            beta1: settings.adam_beta1,
            beta2: settings.adam_beta2,
            epsilon: settings.adam_epsilon,
            weight_decay: settings.weight_decay,
            time: 0,
            first: vec![0.0; weights],
            second: vec![0.0; weights],
        }
    }

    /// Moves the weights against the gradient; returns the L2 norm of the move.
    pub fn step(&mut self, weights: &mut [f32], gradient: &[f32], learning_rate: f64) -> f64 {
        self.time += 1;
        let (b1, b2) = (self.beta1 as f32, self.beta2 as f32);
        let (n1, n2) = ((1.0 - self.beta1) as f32, (1.0 - self.beta2) as f32); // 1 − β₂ in f32 would be off by 1e-5
        let first_correction = 1.0 - self.beta1.powi(self.time);
        let second_root = (1.0 - self.beta2.powi(self.time)).sqrt() as f32;
        let size = (learning_rate / first_correction) as f32;
        let keep = (1.0 - learning_rate * self.weight_decay) as f32;
        let epsilon = self.epsilon as f32;
        let mut moved = 0f64;
        for (((w, &g), m), v) in weights.iter_mut().zip(gradient).zip(&mut self.first).zip(&mut self.second) {
            *m = b1 * *m + n1 * g;
            *v = b2 * *v + n2 * g * g;
            let before = *w;
            *w = keep * before - size * *m / (v.sqrt() / second_root + epsilon);
            moved += f64::from(*w - before).powi(2);
        }
        moved.sqrt()
    }
}
