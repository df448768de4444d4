//! Text and ids: the worlds, the tokenizer, preference rows. Depends on no tensor.

pub mod bandit;
mod bounded;
pub mod chat;
pub mod check;
mod completion_turns;
mod encode;
mod error;
pub mod grammar;
mod jinja_filters;
mod jinja_source;
mod json;
mod keys;
mod metering;
pub mod pairs;
mod python_format;
mod python_methods;
mod python_value;
mod question;
pub mod records;
pub mod reviews;
pub mod rows;
mod scored;
mod stats;
mod text;
mod turn_ends;
mod word_boundaries;
mod world;

pub use encode::{EncodedRow, Encoder};
pub use error::{Error, Result};
pub use json::Json;
pub use question::{EncodedQuestion, PairQuestion};
pub use scored::ScoredText;
pub use text::TextTokenizer;
pub use world::{Detokenize, Prompt, PromptResponse, World};
