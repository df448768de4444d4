//! What the tests of every crate share, without tensors and without any other crate of Duel. A dev-dependency only.

pub mod fake_hub;
pub mod gguf_file;
pub mod golden;
pub mod mutated;
