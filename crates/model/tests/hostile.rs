//! Files that mean harm: whatever their bytes, they are refused by a word or read, and never a panic.

#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_model::gguf::{self, Precision};
use duel_model::{
    Architecture, Checkpoint, FileDType, GgufHeader, Gpt2, Llama, Policy, Pretrained, SpecialTokens, TokenizerFiles,
    TransformerConfig, huggingface, peft,
};
use duel_spec::seeds;
use duel_testing::mutated;
use proptest::prelude::*;
use std::path::Path;

fn checkpoint() -> Checkpoint {
    of_architecture(
        Llama { key_value_heads: 1, head_width: 4, inner: 8, rope_theta: 1e4, epsilon: 1e-5 }.architecture(),
    )
}

fn gpt2() -> Checkpoint {
    of_architecture(Gpt2 { activation: duel_model::Activation::GeluTanh, inner: 32, epsilon: 1e-5 }.architecture())
}

fn of_architecture(architecture: Architecture) -> Checkpoint {
    let config =
        TransformerConfig { vocabulary: 8, context: 16, layers: 1, width: 8, heads: 2, tied: true, architecture };
    let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &Device::flex());
    let tokenizer = serde_json::json!({
        "added_tokens": [{"id": 0, "content": "<s>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]}
    });
    let special = SpecialTokens { bos: Some(0), eos: Some(0), ..SpecialTokens::default() };
    let tokenizer_files = TokenizerFiles {
        special,
        tokenizer: Some(tokenizer.to_string().into_bytes()),
        template: Some("{{ x }}".into()),
    };
    Checkpoint { config, policy, tokenizer_files }
}

fn gguf_bytes() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    gguf::write(&path, &checkpoint(), Precision::F16).unwrap();
    std::fs::read(path).unwrap()
}

/// Reads a file as far as it goes, and a few tokens with it.
fn try_all(path: &Path) {
    let _ = duel_model::hash_of_files(path);
    let Ok(model) = Pretrained::open(path) else { return };
    let context = model.config.context.min(16);
    let _ = model.mapped(context, None, &Device::flex()).map(Policy::merged);
    if let Ok(policy) = model.policy(context, &Device::flex()) {
        let ids = TensorData::new(vec![0i32; context.min(3)], [1, context.min(3)]);
        let _ = policy.logits(Tensor::<2, Int>::from_data(ids, &Device::flex()), 0).into_data();
    }
}

/// Some bytes changed, and perhaps the end cut off.
fn damaged(bytes: &[u8], changes: &[(usize, u8)], cut: Option<usize>) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for (index, to) in changes {
        let index = index % bytes.len();
        bytes[index] = *to;
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
        prop_assert!(GgufHeader::parse(&bytes).is_err());
        let named = [b"GGUF".to_vec(), 3u32.to_le_bytes().to_vec(), bytes].concat();
        let _ = GgufHeader::parse(&named);
    }

    #[test]
    fn damaged_gguf_files_are_refused_or_read(changes in changes(), cut in proptest::option::weighted(0.3, any::<usize>())) {
        thread_local!(static WHOLE: Vec<u8> = gguf_bytes());
        let bytes = WHOLE.with(|file| damaged(file, &changes, cut));
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
        const NAMES: [&str; 4] = ["config.json", "model.safetensors", "tokenizer_config.json", "generation_config.json"];
        thread_local!(static WHOLE: (tempfile::TempDir, [Vec<u8>; 4]) = {
            let folder = tempfile::tempdir().unwrap();
            huggingface::write(folder.path(), &checkpoint(), FileDType::F32).unwrap();
            let files = NAMES.map(|name| std::fs::read(folder.path().join(name)).unwrap());
            (folder, files)
        });
        WHOLE.with(|(folder, files)| {
            let path = folder.path().join(NAMES[file]);
            std::fs::write(&path, damaged(&files[file], &changes, cut)).unwrap();
            try_all(folder.path());
            std::fs::write(&path, &files[file]).unwrap();
        });
    }
}

#[test]
fn sizes_that_no_file_could_hold_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    huggingface::write(folder.path(), &checkpoint(), FileDType::F32).unwrap();
    let path = folder.path().join("config.json");
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for key in ["num_hidden_layers", "hidden_size", "vocab_size", "intermediate_size", "head_dim"] {
        let mut config = good.clone();
        config[key] = serde_json::json!(1u64 << 30);
        std::fs::write(&path, config.to_string()).unwrap();
        let error = Pretrained::open(folder.path()).unwrap_err().to_string();
        let words = if key == "vocab_size" { "`vocab_size` is 1073741824" } else { "its settings ask for" };
        assert!(error.contains(words), "{key}: {error}");
    }
}

#[test]
fn pieces_make_one_model() {
    let folder = tempfile::tempdir().unwrap();
    huggingface::write(folder.path(), &checkpoint(), FileDType::F32).unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
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
    std::fs::remove_file(path).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    std::fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    let after = Pretrained::open(folder.path()).unwrap().policy(16, &Device::flex()).unwrap();
    assert_eq!(duel_model::weights::hash(&after), duel_model::weights::hash(&before));
    map.insert("elsewhere".into(), "../../etc/passwd".into());
    std::fs::write(&index, serde_json::json!({"weight_map": map}).to_string()).unwrap();
    assert!(Pretrained::open(folder.path()).unwrap_err().to_string().contains("weight_map"));
}

/// Words of the formats.
const WORDS: [&str; 24] = [
    "\"llama\"",
    "\"gpt2\"",
    "\"rope_scaling\":",
    "\"linear\"",
    "\"factor\":",
    "\"head_dim\":",
    "\"tie_word_embeddings\":",
    "null",
    "true",
    "[]",
    "{}",
    "-1",
    "\"eos_token_id\":",
    "\"weight_map\":",
    "model.safetensors",
    "\"F16\"",
    "\"BF16\"",
    "\"shape\":",
    "\"data_offsets\":",
    "\"added_tokens_decoder\":",
    "\"content\":",
    "general.alignment",
    "blk.0.",
    "tokenizer.ggml.tokens",
];

#[test]
fn mutated_gguf_files_are_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let files: Vec<Vec<u8>> = [(checkpoint(), Precision::F16), (checkpoint(), Precision::Q8), (gpt2(), Precision::F32)]
        .map(|(checkpoint, precision)| {
            gguf::write(&path, &checkpoint, precision).unwrap();
            std::fs::read(&path).unwrap()
        })
        .into();
    let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    mutated::every("gguf", 600, &files, &WORDS, |_, bytes| {
        std::fs::write(&path, bytes).unwrap();
        try_all(&path);
    });
}

/// One file of a directory is mutated, all others stay whole.
fn mutated_directory(name: &str, file: &str, cases: u64) {
    let folder = tempfile::tempdir().unwrap();
    let kinds = [(checkpoint(), FileDType::F16), (gpt2(), FileDType::F32)];
    let folders = kinds.map(|(checkpoint, kind)| {
        let folder = folder.path().join(format!("{kind:?}"));
        std::fs::create_dir(&folder).unwrap();
        huggingface::write(&folder, &checkpoint, kind).unwrap();
        let map = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors"}});
        if file.ends_with("index.json") {
            std::fs::rename(folder.join("model.safetensors"), folder.join("model-1.safetensors")).unwrap();
            std::fs::write(folder.join(file), map.to_string()).unwrap();
        }
        if file == "tokenizer_config.json" {
            let mut settings: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap();
            settings["added_tokens_decoder"] = serde_json::json!({"4": {"content": "<end>", "special": true}});
            std::fs::write(folder.join(file), settings.to_string()).unwrap();
        }
        Pretrained::open(&folder).unwrap();
        folder
    });
    let files = folders.each_ref().map(|folder| std::fs::read(folder.join(file)).unwrap());
    let files = files.each_ref().map(Vec::as_slice);
    mutated::every(name, cases, &files, &WORDS, |case, bytes| {
        let folder = &folders[case as usize % folders.len()];
        std::fs::write(folder.join(file), bytes).unwrap();
        try_all(folder);
    });
}

#[test]
fn mutated_weights_are_refused_or_read() {
    mutated_directory("safetensors", "model.safetensors", 300);
}

#[test]
fn mutated_settings_are_refused_or_read() {
    mutated_directory("config", "config.json", 400);
    mutated_directory("generation_config", "generation_config.json", 100);
    mutated_directory("tokenizer_config", "tokenizer_config.json", 150);
    mutated_directory("index", "model.safetensors.index.json", 100);
    mutated_directory("model_tokenizer", "tokenizer.json", 200);
}

#[test]
fn mutated_adapters_are_refused_or_read() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let whole = checkpoint();
    let worn =
        whole.policy.clone().with_fresh_lora(2, 1.0, |_| true, &mut seeds::derive(1, "test", 0, "lora"), &device);
    peft::write_adapter(folder.path(), &whole.config, &worn, "base").unwrap();
    for (name, file) in [("adapter", "adapter_model.safetensors"), ("adapter_config", "adapter_config.json")] {
        let path = folder.path().join(file);
        let bytes = std::fs::read(&path).unwrap();
        mutated::every(name, 200, &[&bytes], &WORDS, |_, bytes| {
            std::fs::write(&path, bytes).unwrap();
            let _ = peft::read_adapter(folder.path(), &whole.config, whole.policy.clone(), &device).map(Policy::merged);
        });
        std::fs::write(&path, bytes).unwrap();
        peft::read_adapter(folder.path(), &whole.config, whole.policy.clone(), &device).unwrap();
    }
}
