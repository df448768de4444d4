//! What a training keeps of its models, counted: what a process holds depends on the machine and its allocator too, these numbers do not.

use crate::stages::reward_model;
use crate::stages::training_inputs::TrainingInputs;
use burn::module::Module;
use duel_model::weights::number_count;
use duel_spec::{DpoSettings, RewardSource, RolloutSettings};

/// Bytes of an f32.
const NUMBER: f64 = 4.0;

/// The models of a training, and the bytes of what it keeps of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TrainingMemory {
    pub models: f64,
    pub bytes: f64,
}

impl TrainingMemory {
    /// Of a method on rollouts that trains this module: actor and critic, the reference where a KL to it is penalized, and the networks
    /// that score.
    pub fn of_rollouts<M: Module>(
        module: &M,
        critics: f64,
        shared: &RolloutSettings,
        inputs: &TrainingInputs<'_>,
    ) -> Self {
        let mut memory = Self::of_trained(module, shared.beta > 0.0, inputs);
        memory.models += critics;
        if shared.reward.weight(RewardSource::Rm).is_some() {
            memory.models += inputs.reward.networks() as f64;
            // adapters stand on the frozen copy of a pretrained model
            let is_own = |adapted: bool, name: &str| !(inputs.pretrained && adapted) || reward_model::is_trained(name);
            memory.bytes += NUMBER * inputs.reward.numbers(is_own) as f64;
        }
        memory
    }

    /// Of DPO: the policy, the log-probs of so many pairs under the reference, and the reference if others are needed.
    pub fn of_pairs<M: Module>(module: &M, dpo: &DpoSettings, inputs: &TrainingInputs<'_>) -> Self {
        let mut memory = Self::of_trained(module, dpo.holds_reference(), inputs);
        memory.bytes += 2.0 * NUMBER * inputs.rows.len() as f64;
        memory
    }

    /// Of a module that is trained, and of the reference if it is held: with adapters, that is the module without them.
    fn of_trained<M: Module>(module: &M, holds_reference: bool, inputs: &TrainingInputs<'_>) -> Self {
        let trained = number_count(module, true);
        let frozen = number_count(module, false) - trained;
        let state = NUMBER * (2 + inputs.learner.optimizer.moments()) as f64; // weight, gradient and moments
        let base = match inputs.pretrained {
            true => inputs.numbers.bytes() * inputs.config.num_params().unwrap_or(usize::MAX) as f64,
            false if frozen == 0 && holds_reference => NUMBER * number_count(&inputs.reference, false) as f64,
            false => NUMBER * frozen as f64,
        };
        Self { models: 1.0 + f64::from(holds_reference), bytes: state * trained as f64 + base }
    }
}
