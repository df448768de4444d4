//! Text and ids: the worlds, the tokenizer, preference rows. Knows no tensor.

pub mod bandit;
mod error;
pub mod grammar;
pub mod pairs;
pub mod reviews;
mod world;

pub use error::Error;
pub use world::{Prompt, Row, World};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
