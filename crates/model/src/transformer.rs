//! A decoder-only transformer, pre-norm and causal, whose blocks are made as an [`Architecture`](crate::Architecture) says.
//!
//! Letters: `B` rows, `L` tokens, `K` tokens with those of the cache, `D` width, `H` heads, `G` heads of keys
//! and values, `E` units of a head, `V` vocabulary.

mod attention;
mod backbone;
mod block;
mod fused_block;
mod kv_cache;
mod mlp;
mod norm;
mod policy;
mod positions;
mod scalar_model;
#[cfg(test)]
mod tests;
mod token_embedding;

pub use kv_cache::KvCache;
pub use policy::Policy;
pub use scalar_model::{ScalarModel, ValueHead};
