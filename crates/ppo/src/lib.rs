//! Methods on the policy's own completions: PPO, and policy gradients without a value model.

mod critic_free;
pub mod invariants;
mod ppo;
mod rollout;
mod updates;

pub use critic_free::CriticFree;
pub use ppo::{ActorCritic, Experience, Ppo};
pub use rollout::{Rollout, Setting};
