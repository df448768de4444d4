//! The search of settings, round by round.

mod rounds;
mod tpe;

pub use rounds::{have_ended, next_round, preview};
