//! What tests on tensors share. A dev-dependency only, of crates beside or above `model`.

pub mod precision;
pub mod tiny_model;
pub mod trajectory;
pub mod unigram;
