//! Files that mean harm: whatever their bytes, they are refused by a word or read, and never a panic.

#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use duel_model::gguf::{self, Header, Precision};
use duel_model::huggingface::{self, Checkpoint, Special, Words};
use duel_model::{Family, Kind, Policy, Pretrained, TransformerConfig};
use duel_spec::seeds;
use proptest::prelude::*;
use std::path::Path;

fn checkpoint() -> Checkpoint {
    let family = Family::Llama { key_value_heads: 1, head_width: 4, inner: 8, rope_theta: 1e4, epsilon: 1e-5 };
    let config = TransformerConfig { vocabulary: 8, context: 16, layers: 1, width: 8, heads: 2, tied: true, family };
    let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &Device::flex());
    let tokenizer = serde_json::json!({
        "added_tokens": [{"id": 0, "content": "<s>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]}
    });
    let special = Special { bos: Some(0), eos: Some(0), pad: None };
    let words =
        Words { special, tokenizer: Some(tokenizer.to_string().into_bytes()), template: Some("{{ x }}".into()) };
    Checkpoint { config, policy, words }
}

fn gguf_bytes() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    gguf::write(&path, &checkpoint(), Precision::F16).unwrap();
    std::fs::read(path).unwrap()
}

/// Reads a file as far as it goes.
fn try_all(path: &Path) {
    if let Ok(model) = Pretrained::open(path) {
        let _ = model.policy(model.config.context.min(16), &Device::flex());
        let _ = model.mapped(model.config.context.min(16), &Device::flex()).map(Policy::merged);
    }
}

/// Some bytes changed, and perhaps the end cut off.
fn damaged(bytes: &[u8], changes: &[(usize, u8)], cut: Option<usize>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (at, to) in changes {
        let at = at % bytes.len();
        bytes[at] = *to;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut % bytes.len());
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8)>> {
    // most of what matters stands at the beginning
    proptest::collection::vec((prop_oneof![3 => 0usize..600, 1 => 0usize..1_000_000], any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_no_header(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Header::parse(&bytes).is_err());
        let named = [b"GGUF".to_vec(), 3u32.to_le_bytes().to_vec(), bytes].concat();
        let _ = Header::parse(&named);
    }

    #[test]
    fn damaged_gguf_files_are_refused_or_read(changes in changes(), cut in proptest::option::weighted(0.3, any::<usize>())) {
        thread_local!(static WHOLE: Vec<u8> = gguf_bytes());
        let bytes = WHOLE.with(|whole| damaged(whole, &changes, cut));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, bytes).unwrap();
        try_all(&path);
    }

    #[test]
    fn damaged_directories_are_refused_or_read(
        file in 0usize..4,
        changes in changes(),
        cut in proptest::option::weighted(0.3, any::<usize>()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        huggingface::write(folder.path(), &checkpoint(), Kind::F32).unwrap();
        let name = ["config.json", "model.safetensors", "tokenizer_config.json", "generation_config.json"][file];
        let path = folder.path().join(name);
        std::fs::write(&path, damaged(&std::fs::read(&path).unwrap(), &changes, cut)).unwrap();
        try_all(folder.path());
    }
}

#[test]
fn sizes_that_no_file_could_hold_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    huggingface::write(folder.path(), &checkpoint(), Kind::F32).unwrap();
    let path = folder.path().join("config.json");
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for key in ["num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "head_dim"] {
        let mut config = good.clone();
        config[key] = serde_json::json!(1u64 << 40);
        std::fs::write(&path, config.to_string()).unwrap();
        let error = Pretrained::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("its settings ask for"), "{key}: {error}");
    }
}

#[test]
fn pieces_make_one_model() {
    let folder = tempfile::tempdir().unwrap();
    huggingface::write(folder.path(), &checkpoint(), Kind::F32).unwrap();
    let whole = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&whole).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let names: Vec<String> = tensors.names().into_iter().map(str::to_owned).collect();
    let mut map = serde_json::Map::new();
    for (piece, names) in names.chunks(names.len().div_ceil(2)).enumerate() {
        let file = format!("model-{piece}.safetensors");
        let views: Vec<(&str, _)> = names.iter().map(|name| (name.as_str(), tensors.tensor(name).unwrap())).collect();
        std::fs::write(folder.path().join(&file), safetensors::serialize(views, None).unwrap()).unwrap();
        names.iter().for_each(|name| drop(map.insert(name.clone(), file.clone().into())));
    }
    let before = Pretrained::open(folder.path()).unwrap().policy(16, &Device::flex()).unwrap();
    std::fs::remove_file(whole).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    let after = Pretrained::open(folder.path()).unwrap().policy(16, &Device::flex()).unwrap();
    assert_eq!(duel_model::weights::hash(&after), duel_model::weights::hash(&before));
    map.insert("elsewhere".into(), "../../etc/passwd".into());
    std::fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    assert!(Pretrained::open(folder.path()).unwrap_err().to_string().contains("weight_map"));
}
