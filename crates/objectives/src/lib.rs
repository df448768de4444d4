//! The equations, on tensors. No model, no file, no loop.
//!
//! Letters: `B` batch, `N` pairs, `T` response tokens, `V` vocabulary. Log-probs in nats. A per-token
//! tensor is `[B, T]`; column j belongs to response token j. Shape mistakes panic, as burn's do.

mod advantages;
mod baselines;
mod kl;
mod logprobs;
mod mask;
mod pair_weights;
mod policy_loss;
mod ppo;
mod preference;
mod reward;
mod token_weights;

pub use advantages::{Gae, WHITEN_EPS, gae, kl_shaped_rewards, step_shaped_rewards, whiten, whiten_keep_mean};
pub use baselines::{group_decoupled, group_relative, leave_one_out};
pub use kl::{AdaptiveBeta, full_kl, k1, k2, k3, ppo_kl_penalty_update};
pub use logprobs::{entropy, token_logp};
pub use mask::{Reduction, ResponseMask};
pub use pair_weights::{length_desensitized, sampled_alignment, wpo_weights};
pub use policy_loss::{PolicyGradientLoss, PolicyLoss, RatioLevel, SoftKernel, Surrogate};
pub use ppo::{ValueLoss, clipped_value_loss};
pub use preference::{
    ChosenRejected, KtoWeights, LossProperties, Margin, PairLogp, PreferenceLoss, PreferenceOutcome, chosen_nll,
    chosen_sequence_nll, dynamic_beta, kto_loss, mixed_preference_loss, preference_loss, rao_kupper,
};
pub use reward::{BradleyTerry, BradleyTerryOptions, bradley_terry_loss};
pub use token_weights::{high_entropy_tokens, token_covariances};
