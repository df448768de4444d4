//! Tokenizers of GGUF files give the ids that llama.cpp gives (`gguf_tokenizers.json`, made with its build 11549 from the same
//! fields), are written as they were read, and those that nothing is known of are refused (`gguf.rs`).

#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use duel_model::Pretrained;
use duel_model::gguf::{self, Precision};
use duel_testing::gguf_file::{GgufFile, list, text};
use serde_json::Value;
use std::path::Path;
use tokenizers::Tokenizer;

fn cases() -> Value {
    serde_json::from_str(include_str!("gguf_tokenizers.json")).unwrap()
}

fn strings(values: &Value) -> Vec<&str> {
    values.as_array().unwrap().iter().map(|value| value.as_str().unwrap()).collect()
}

/// A model with a tokenizer of these tokens.
fn model_of(case: &Value, model: &str) -> GgufFile {
    let mut file = GgufFile::llama();
    let tokens = strings(&case["tokens"]);
    file.text("tokenizer.ggml.model", model);
    file.put("tokenizer.ggml.tokens", 9, list(8, &tokens.iter().map(|token| text(token)).collect::<Vec<_>>()));
    let kinds = case["kinds"].as_array().unwrap().iter();
    let kinds: Vec<Vec<u8>> = kinds.map(|kind| (kind.as_i64().unwrap() as i32).to_le_bytes().to_vec()).collect();
    file.put("tokenizer.ggml.token_type", 9, list(5, &kinds));
    file.without("tokenizer.ggml.merges");
    file.size("llama.vocab_size", tokens.len() as u32);
    file.tensors.remove(0);
    file.tensor("token_embd.weight", vec![8, tokens.len() as u64]);
    file
}

fn open(path: &Path) -> (Pretrained, Tokenizer) {
    let model = Pretrained::open(path).unwrap();
    let tokenizer = Tokenizer::from_bytes(model.tokenizer_files.tokenizer.as_ref().unwrap()).unwrap();
    (model, tokenizer)
}

/// The ids of all texts, read from the file, and again from what is written of it.
fn check(name: &str, file: &GgufFile, texts: &[&str], expected: &[Vec<u32>]) {
    let folder = tempfile::tempdir().unwrap();
    let [path, again] = ["m.gguf", "again.gguf"].map(|name| folder.path().join(name));
    std::fs::write(&path, file.bytes()).unwrap();
    let (model, tokenizer) = open(&path);
    let checkpoint = Pretrained::read_checkpoint(&path, &Device::flex()).unwrap();
    gguf::write(&again, &checkpoint, Precision::F32).unwrap();
    let (written, second) = open(&again);
    let json = |model: &Pretrained| {
        serde_json::from_slice::<Value>(model.tokenizer_files.tokenizer.as_ref().unwrap()).unwrap()
    };
    assert_eq!(json(&model), json(&written), "{name}: as it was");
    for (text, expected) in texts.iter().zip(expected) {
        for tokenizer in [&tokenizer, &second] {
            let actual = tokenizer.encode(*text, true).unwrap();
            assert_eq!(actual.get_ids(), expected, "{name}: {text:?} as {:?}", actual.get_tokens());
        }
    }
}

fn ids(case: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(case["ids"].clone()).unwrap()
}

#[test]
fn byte_level_vocabularies_cut_as_the_name_says() {
    let cases = cases();
    let texts = strings(&cases["texts"]);
    let mut names = vec![];
    for case in cases["byte_level"].as_array().unwrap() {
        for name in strings(&case["names"]) {
            let mut file = model_of(&cases, "gpt2");
            file.text("tokenizer.ggml.pre", name);
            let merges = strings(&cases["merges"]);
            file.put("tokenizer.ggml.merges", 9, list(8, &merges.iter().map(|merge| text(merge)).collect::<Vec<_>>()));
            file.size("tokenizer.ggml.eos_token_id", 1);
            check(name, &file, &texts, &ids(case));
            names.push(name);
        }
    }
    assert!(names.len() >= 38, "{names:?}");
}

#[test]
fn sentence_pieces_become_merges() {
    let cases = cases();
    let texts = strings(&cases["texts"]);
    for (name, case) in cases["sentence_pieces"].as_object().unwrap() {
        let mut file = model_of(case, "llama");
        let scores = case["scores"].as_array().unwrap().iter();
        let scores: Vec<Vec<u8>> = scores.map(|x| (x.as_f64().unwrap() as f32).to_le_bytes().to_vec()).collect();
        file.put("tokenizer.ggml.scores", 9, list(6, &scores));
        for (key, flag) in [
            ("add_space_prefix", &case["prefix"]),
            ("add_bos_token", &case["adds"][0]),
            ("add_eos_token", &case["adds"][1]),
        ] {
            file.put(&format!("tokenizer.ggml.{key}"), 7, vec![u8::from(flag.as_bool().unwrap())]);
        }
        for (key, id) in [("unknown", 0), ("bos", 1), ("eos", 2)] {
            file.size(&format!("tokenizer.ggml.{key}_token_id"), id);
        }
        check(name, &file, &texts, &ids(case));
    }
}
