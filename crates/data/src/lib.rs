//! Text and ids: the worlds, the tokenizer, preference rows. Knows no tensor.

pub mod bandit;
mod bounded;
pub mod chat;
pub mod check;
mod encode;
mod error;
pub mod grammar;
pub mod pairs;
pub mod records;
pub mod reviews;
pub mod rows;
mod tables;
mod text;
mod world;

pub use encode::{EncodedRow, Encoder};
pub use error::Error;
pub use text::TextTokenizer;
pub use world::{Detokenize, Prompt, PromptResponse, World};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
