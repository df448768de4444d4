//! The world `rows`: the user's own preference file. Prompts are split by their text, so that a prompt is never in two splits;
//! rows that are too long are left out and counted.

mod conversations;
mod prepare;
mod world;

pub use crate::stats::PrepareStats;
pub use prepare::{RowSource, prepare};
pub use world::RowsWorld;
