//! What may stand in a directory, or in one of its files, in place of a model: each is refused in a sentence of its own.

#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use duel_model::{
    Checkpoint, Error, FileDType, Llama, Policy, Pretrained, SpecialTokens, TokenizerFiles, TransformerConfig,
    huggingface,
};
use duel_spec::seeds;
use serde_json::json;
use std::path::Path;

/// A directory with a model in it.
fn written() -> tempfile::TempDir {
    let llama = Llama { key_value_heads: 1, head_width: 4, inner: 8, rope_theta: 1e4, epsilon: 1e-5 };
    let architecture = llama.architecture();
    let config =
        TransformerConfig { vocabulary: 8, context: 16, layers: 1, width: 8, heads: 2, tied: true, architecture };
    let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &Device::flex());
    let special = SpecialTokens { bos: Some(0), eos: Some(0), ..SpecialTokens::default() };
    let vocabulary = json!({"model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1}, "merges": []}});
    let tokenizer = Some(vocabulary.to_string().into_bytes());
    let tokenizer_files = TokenizerFiles { special, tokenizer, template: None };
    let folder = tempfile::tempdir().unwrap();
    huggingface::write(folder.path(), &Checkpoint { config, policy, tokenizer_files }, FileDType::F32).unwrap();
    folder
}

fn load(path: &Path) -> Result<Policy, Error> {
    Pretrained::open(path)?.policy(16, &Device::flex())
}

/// What is said of a model that is refused, with the hint.
fn refusal(path: &Path) -> String {
    let error = load(path).map(|_| ()).unwrap_err();
    format!("{error}; {}", error.hint().unwrap_or_default())
}

/// What is said of a directory whose `model.safetensors` is called otherwise, or is something else.
fn refusal_with(name: &str, bytes: Option<&[u8]>) -> String {
    let folder = written();
    let path = folder.path().join(name);
    match bytes {
        Some(bytes) => std::fs::write(path, bytes).unwrap(),
        None => std::fs::rename(folder.path().join("model.safetensors"), path).unwrap(),
    }
    refusal(folder.path())
}

#[test]
fn what_stands_in_place_of_weights() {
    let folder = written();
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    std::fs::write(folder.path().join("training_args.bin"), "PK").unwrap();
    assert!(matches!(load(folder.path()), Err(Error::Read { .. })));
    let expected: [(&str, &[&str]); 8] = [
        ("pytorch_model.bin", &["not supported", "`pytorch_model.bin`", "save_pretrained"]),
        ("pytorch_model-00001-of-00002.bin", &["not supported", "save_pretrained"]),
        ("consolidated.00.pth", &["not supported", "`weights` is consolidated.00.pth", "safetensors"]),
        ("consolidated.safetensors", &["`weights` is consolidated.safetensors", "`model.safetensors`"]),
        ("model.f16.gguf", &["`weights` is model.f16.gguf", "the path of `model.f16.gguf` itself"]),
        ("adapter_model.safetensors", &["those of an adapter", "merge_and_unload"]),
        ("model-00001-of-00001.safetensors", &["one of 2 files", "missing: `", "model.safetensors.index.json`"]),
        ("model-00002-of-00003.safetensors", &["one of 4 files", "model-00001-of-00003", "model-00003-of-00003"]),
    ];
    for (name, words) in expected {
        let message = refusal_with(name, None);
        assert!(words.iter().all(|word| message.contains(word)), "{name}: {message}");
    }
    // an index names a part that is not there
    let folder = written();
    std::fs::rename(folder.path().join("model.safetensors"), folder.path().join("a.safetensors")).unwrap();
    let map = json!({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}});
    std::fs::write(folder.path().join("model.safetensors.index.json"), map.to_string()).unwrap();
    let message = refusal(folder.path());
    assert!(message.contains("one of 3 files") && message.contains("b.safetensors"), "{message}");
    assert!(!message.contains("a.safetensors`"), "{message}");
}

#[test]
fn what_stands_in_place_of_a_model() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("m.gguf"), "GGUF").unwrap();
    assert!(refusal(folder.path()).contains("the path of `m.gguf` itself"));
    std::fs::write(folder.path().join("adapter_config.json"), "{}").unwrap();
    assert!(refusal(folder.path()).contains("merge_and_unload"));
    let file = folder.path().join("model.bin");
    std::fs::write(&file, "PK").unwrap();
    assert!(refusal(&file).contains("a file whose name ends in .gguf"));
}

#[test]
fn files_that_were_not_fetched_or_were_cut_off() {
    const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    let names =
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    for name in names {
        let message = refusal_with(name, Some(POINTER));
        assert!(message.contains(name) && message.contains("pointer of Git LFS"), "{name}: {message}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, POINTER).unwrap();
    assert!(refusal(&path).contains("pointer of Git LFS"));
    for (version, words) in [(1u32.to_le_bytes(), "is 1"), (3u32.to_be_bytes(), "is 3, with its bytes in big-endian")] {
        std::fs::write(&path, [b"GGUF".as_slice(), &version, &[0; 16]].concat()).unwrap();
        let message = refusal(&path);
        assert!(message.contains("not supported") && message.contains(words), "{message}");
    }
    let good = written();
    let bytes = std::fs::read(good.path().join("model.safetensors")).unwrap();
    let cut =
        [(&bytes[..bytes.len() - 1], "it was cut off"), (&bytes[..4], "too few"), (b"<!DOCTYPE html>..", "DOCTYPE")];
    for (bytes, words) in cut {
        let message = refusal_with("model.safetensors", Some(bytes));
        assert!(message.contains("is damaged") && message.contains(words), "{message}");
    }
    for name in ["config.json", "generation_config.json", "tokenizer_config.json"] {
        let message = refusal_with(name, Some(b"[1]"));
        assert!(message.contains("it holds [1]") && message.contains(name), "{message}");
    }
    let mut bytes = bytes;
    let end = bytes.len();
    bytes[end - 4..].fill(255); // the last number of the last tensor
    let message = refusal_with("model.safetensors", Some(&bytes));
    assert!(message.contains("number 7 of `model.") && message.contains("NaN"), "{message}");
}
