//! Ids to logits: the transformer, its heads, the KV cache, generation, weights in and out, and the one
//! door to devices. Burn's attention masks (true = hidden) are built only here.

mod added_tokens;
mod architecture;
mod checkpoint;
pub mod classifier;
mod config;
mod config_reader;
mod counter;
pub mod device;
mod error;
mod families;
mod family;
mod file_dtype;
mod file_tensor;
mod flops;
mod frozen_weight;
mod fused;
mod generate;
pub mod gguf;
mod gguf_header;
mod gguf_layout;
mod gguf_parts;
mod gguf_rope;
mod gguf_tokenizer;
mod gguf_vocabulary;
mod header_reader;
mod host_tensor;
pub mod huggingface;
mod init;
mod legacy_tokenizer;
mod mapped_file;
mod mmap_matrix;
pub mod peft;
mod post_processor;
mod pre_tokenizer;
mod pretrained;
mod projection;
mod protobuf;
mod quantised_block;
mod response_reader;
mod responses;
mod rope_settings;
mod sampling_law;
mod sentencepiece;
mod special_tokens;
mod tensor_names;
mod tensor_view;
mod tokenizer_files;
mod tokens;
mod transformer;
mod weight_files;
mod weight_store;
pub mod weights;

pub use architecture::{
    Activation, Architecture, AttentionSpec, BiasSpec, FusedProjections, LogitSpec, MlpSpec, NormKind, NormPlacement,
    NormSpec, PositionSpec, QkvLayout, QueryKeyNorm, ResidualOrder, ResidualSpec, RopeScaling, RotarySpec,
};
pub use checkpoint::Checkpoint;
pub use classifier::{Classifier, ClassifierCheckpoint};
pub use config::TransformerConfig;
pub use counter::{CountedFlops, count_flops, without_counting};
pub use error::Error;
pub use families::{FamilyNames, Gpt2, Llama, Qwen2, families, hf_tensor};
pub use file_dtype::FileDType;
pub use file_tensor::{FileTensor, RowOrder, RowPart};
pub use flops::Flops;
pub use generate::{generate, generate_by, greedy};
pub use gguf_header::{GgufHeader, MetaValue};
pub use mapped_file::catching;
pub use pretrained::{Pretrained, SETTINGS_FILES, hash as hash_of_files};
pub use projection::{Lora, Projection};
pub use response_reader::ResponseReader;
pub use responses::Responses;
pub use sampling_law::SamplingLaw;
pub use special_tokens::named_special_tokens;
pub use tokenizer_files::{SpecialTokens, TokenizerFiles, read_template};
pub use tokens::Tokens;
pub use transformer::{KvCache, Policy, ScalarModel, ValueHead};
pub use weight_store::WeightStore;

pub use duel_kernels::FrozenNumbers;

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
