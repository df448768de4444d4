//! A model in memory, with all that its files hold besides weights.

use crate::config::TransformerConfig;
use crate::tokenizer_files::TokenizerFiles;
use crate::transformer::Policy;

/// A model with its settings and its tokenizer.
#[derive(Debug)]
pub struct Checkpoint {
    pub config: TransformerConfig,
    pub policy: Policy,
    pub tokenizer_files: TokenizerFiles,
}
