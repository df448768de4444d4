//! PPO: rollouts, shaped reward, clipped updates.

pub mod invariants;
mod ppo;

pub use ppo::{ActorCritic, Ppo, Setting};
