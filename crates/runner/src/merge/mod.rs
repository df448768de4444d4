//! Runs that were made apart, as one: `input` reads each, `union` says what they are together, `assemble` writes it.

mod assemble;
mod claims;
mod input;
mod place;
mod union;

pub use assemble::assemble;
pub use input::MergeInput;
pub use place::RunPlace;
pub use union::unite;
