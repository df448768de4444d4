//! The world `rows`: the user's own preference file. Prompts are split by their text, so that a prompt is never in two splits;
//! rows that are too long are left out or cut, and counted.

mod conversations;
mod key_map;
mod prepare;
pub(crate) mod reader;
mod text_marks;
mod tokens;
mod world;

pub use crate::stats::{Finding, FindingKind, KeptPairs, Problem, RowStats, SplitCounts};
pub use prepare::prepare;
pub use reader::RowSource;
pub use tokens::{RowTokens, SequencePart, TokenView};
pub use world::RowsWorld;

/// Version of how rows become ids, part of the key of what is prepared from them. It rises where the same rows give other ids.
pub const ENCODING_VERSION: u32 = 2;
