//! Direct preference optimisation on fixed pairs.

mod dpo;
pub mod invariants;

pub use dpo::{Dpo, ReferenceLogp, Validation};
