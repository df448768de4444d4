//! PPO: rollouts, shaped reward, clipped updates.

pub mod invariants;
mod ppo;

pub use ppo::{ActorCritic, Experience, Ppo, Rollout, Setting};
