//! Losses on pairs of responses to one prompt.

use burn::tensor::{Tensor, activation::log_sigmoid};
use serde::{Deserialize, Serialize};

/// One number per pair for each of its two responses, so that chosen cannot pass for rejected.
#[derive(Debug, Clone)]
pub struct ChosenRejected {
    /// `[N]`
    pub chosen: Tensor<1>,
    /// `[N]`
    pub rejected: Tensor<1>,
}

impl ChosenRejected {
    /// Policy over reference: how far each response has moved, `log π − log π_ref`.
    pub fn log_ratios(policy: Self, reference: Self) -> Self {
        Self { chosen: policy.chosen - reference.chosen, rejected: policy.rejected - reference.rejected }
    }
}

/// The loss on a pair, with the settings that only it has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum PreferenceLoss {
    /// `−(1−e) log σ(u) − e log σ(−u)`; e = 0 is Rafailov et al. 2023, eq. 7; e > 0 is conservative DPO.
    Sigmoid { label_smoothing: f64 },
}

/// What a preference loss says of a batch; all but `loss` carry no gradient worth following.
#[derive(Debug, Clone)]
pub struct PreferenceOutcome {
    /// Mean over pairs, `[1]`.
    pub loss: Tensor<1>,
    /// Per pair, `[N]`.
    pub losses: Tensor<1>,
    /// `β (log π − log π_ref)` of each response, `[N]`.
    pub rewards: ChosenRejected,
}

impl PreferenceOutcome {
    /// `u`: implicit reward of chosen minus rejected, `[N]`.
    pub fn margins(&self) -> Tensor<1> {
        self.rewards.chosen.clone() - self.rewards.rejected.clone()
    }
}

/// Rafailov et al. 2023, eq. 7: `−log σ(β (log-ratio of chosen − log-ratio of rejected))`.
///
/// # Shapes
/// `log_ratios`: `[N]` each, policy over reference, summed over tokens.
/// # Units
/// Nats; `beta` is reward per nat.
pub fn preference_loss(loss: &PreferenceLoss, log_ratios: ChosenRejected, beta: f64) -> PreferenceOutcome {
    let rewards =
        ChosenRejected { chosen: log_ratios.chosen.mul_scalar(beta), rejected: log_ratios.rejected.mul_scalar(beta) };
    let u = rewards.chosen.clone() - rewards.rejected.clone(); // [N]
    let losses = match *loss {
        PreferenceLoss::Sigmoid { label_smoothing: 0.0 } => log_sigmoid(u).neg(),
        PreferenceLoss::Sigmoid { label_smoothing: e } => {
            (log_sigmoid(u.clone()) * (1.0 - e) + log_sigmoid(u.neg()) * e).neg()
        }
    }; // [N]
    PreferenceOutcome { loss: losses.clone().mean(), losses, rewards }
}
