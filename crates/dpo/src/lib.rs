//! Direct preference optimisation on fixed pairs.

mod dpo;
pub mod invariants;
mod loss;
mod reference;
mod start;

pub use dpo::{Dpo, Validation};
pub use reference::ReferenceLogp;
