//! Direct preference optimisation on fixed pairs.

mod dpo;
mod filter;
mod first_step;
pub mod invariants;
mod loss;
mod read;
mod reference;
mod state;
mod stats;

pub use dpo::{Dpo, Validation};
pub use reference::ReferenceLogp;
pub use state::DpoState;
