//! Ids to logits: the transformer, its heads, the KV cache, generation, weights in and out, and the one
//! door to devices. Burn's attention masks (true = hidden) are built only here.

pub mod device;
mod error;
mod flops;
mod generate;
mod reader;
mod responses;
mod transformer;
pub mod weights;

pub use error::Error;
pub use flops::Flops;
pub use generate::generate;
pub use reader::Reader;
pub use responses::Responses;
pub use transformer::{Cache, Policy, Scalar, TransformerConfig};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
