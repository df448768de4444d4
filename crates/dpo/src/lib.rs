//! Direct preference optimisation on fixed pairs.

mod dpo;
mod first_step;
pub mod invariants;
mod loss;
mod read;
mod reference;
mod state;

pub use dpo::{Dpo, Validation};
pub use reference::ReferenceLogp;
pub use state::DpoState;
