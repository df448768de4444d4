//! Methods on the policy's own completions: PPO, policy gradients without a value model, online DPO.

mod covariance;
pub mod invariants;
mod iteration_start;
mod law;
mod online_dpo;
mod policy;
mod policy_gradient;
mod ppo;
mod raft;
mod rollout;
mod rows;
mod sampling;
mod shaping;
mod token_weights;
mod updates;
#[cfg(test)]
mod wiring;

pub use online_dpo::OnlineDpo;
pub use policy_gradient::{Baseline, PolicyGradient};
pub use ppo::{ActorCritic, Critic, Experience, Ppo, shaped_rewards};
pub use raft::Raft;
pub use rollout::{Rollout, RolloutContext};
pub use updates::planned;
