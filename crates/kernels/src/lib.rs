//! Fused operations on plain `f32` slices, row-major: a whole transformer block, and the log-probs of chosen tokens.
//! Each has a hand-written backward pass; none knows of tensors, graphs or devices.
//!
//! Work is cut into shards of whole sequences, one thread per shard with one-thread matrix products. How it is cut
//! depends on the shapes alone, and sums over shards run in a fixed order, so that a result does not depend on the
//! number of threads.
//!
//! Layer norm is there by itself too. [`Decoder`] generates: weights packed once, a cache of keys and values, one token per sequence and step.
//!
//! Letters: `B` sequences, `L` columns, `N = B·L` tokens, `D` width, `H` heads, `E = D/H`, `F` hidden units of the MLP,
//! `V` vocabulary.

mod activation;
mod attention;
mod attention_batch;
mod block;
mod block_backward;
mod buffer;
mod decoder;
mod decoder_head;
mod frozen;
mod gpt2;
mod linear;
mod linear_matrix;
mod logp;
mod matrix;
mod norm;
mod optimizer;
mod packed_block;
mod pair;
mod panel;
#[cfg(target_arch = "x86_64")]
mod panel_avx2;
#[cfg(target_arch = "x86_64")]
mod panel_avx512;
#[cfg(target_arch = "x86_64")]
mod panel_avx512_bf16;
#[cfg(target_arch = "x86_64")]
mod panel_avx512_pairs;
mod panel_bf16;
mod product;
mod rows;
mod simd;
#[cfg(test)]
mod testing;
mod threads;
mod tilted;

pub use activation::Activation;
pub use attention::{HeadOrder, ScoreOptions};
pub use block::{
    BlockGradient, BlockMlp, BlockOptions, BlockSaved, BlockShape, BlockWeights, N_LINEAR, N_NORM, RopeAndPadding,
    RopeTables, block_forward,
};
pub use block_backward::block_backward;
pub use buffer::{PooledBuffer, pool_make_room, pool_tick};
pub use decoder::{Decoder, DecoderParts, Decoding, NextTokens};
pub use decoder_head::{DecoderHead, TokenDistribution, TokenDistributions};
pub use frozen::{FrozenMatrix, FrozenNumbers};
pub use gpt2::{Gpt2Gradient, Gpt2Saved, Gpt2Shape, Gpt2Weights, gpt2_backward, gpt2_forward};
pub use linear::{LinearGradient, LinearWeights};
pub use linear_matrix::LinearMatrix;
pub use logp::{LmHead, LogpGradient, LogpSaved, logp_backward, logp_forward};
pub use matrix::Matrix;
pub use norm::{NormGradient, NormWeights};
pub use optimizer::{AdamWStep, adamw, squares};
pub use simd::{VECTORS_VARIABLE, VectorSet, vector_set};
pub use tilted::tilted_sums;
