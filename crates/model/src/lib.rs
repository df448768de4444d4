//! Ids to logits: the transformer, its heads, the KV cache, generation, weights in and out, and the one
//! door to devices. Burn's attention masks (true = hidden) are built only here.

mod config;
mod counter;
pub mod device;
mod error;
mod flops;
mod fused;
mod generate;
pub mod gguf;
pub mod huggingface;
mod pretrained;
mod projection;
mod reader;
mod responses;
mod shelf;
mod tokens;
mod transformer;
pub mod weights;

pub use config::{Activation, Family, TransformerConfig};
pub use counter::{CountedFlops, count_flops, without_counting};
pub use error::Error;
pub use flops::Flops;
pub use generate::{generate, greedy};
pub use pretrained::{Pretrained, hash as hash_of_files};
pub use projection::{Lora, Projection};
pub use reader::Reader;
pub use responses::Responses;
pub use shelf::{FileDType, WeightStore, catching};
pub use tokens::Tokens;
pub use transformer::{KvCache, Policy, ScalarModel, ValueHead};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
