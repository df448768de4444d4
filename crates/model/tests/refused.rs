//! What cannot be read right is refused by the name of what asks for it, before room is made; what is harmless is read.

#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_model::{
    Architecture, Checkpoint, Error, FileDType, Gpt2, Llama, NormPlacement, Policy, Pretrained, QkvLayout, Qwen2,
    ResidualOrder, SpecialTokens, TokenizerFiles, TransformerConfig, gguf, huggingface, weights,
};
use duel_spec::seeds;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::path::Path;

const ROWS: usize = 8;

fn tokenizer() -> Value {
    json!({
        "added_tokens": [{"id": 0, "content": "<s>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]}
    })
}

fn checkpoint(architecture: Architecture, tied: bool) -> Checkpoint {
    let config = TransformerConfig { vocabulary: ROWS, context: 16, layers: 1, width: 8, heads: 2, tied, architecture };
    let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &Device::flex());
    let special = SpecialTokens { bos: Some(0), eos: Some(0), ..SpecialTokens::default() };
    let tokenizer_files =
        TokenizerFiles { special, tokenizer: Some(tokenizer().to_string().into_bytes()), template: None };
    Checkpoint { config, policy, tokenizer_files }
}

fn llama(tied: bool) -> Checkpoint {
    checkpoint(
        Llama { key_value_heads: 1, head_width: 4, inner: 8, rope_theta: 1e4, epsilon: 1e-5 }.architecture(),
        tied,
    )
}

fn gpt2() -> Checkpoint {
    checkpoint(Gpt2 { activation: duel_model::Activation::GeluTanh, inner: 32, epsilon: 1e-5 }.architecture(), true)
}

/// A directory with a model in it.
fn written(checkpoint: &Checkpoint) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    huggingface::write(folder.path(), checkpoint, FileDType::F32).unwrap();
    folder
}

/// One of a directory's files with one value changed; null takes it away.
fn edit(folder: &Path, file: &str, key: &str, value: &Value) {
    let path = folder.join(file);
    let mut json: Value = std::fs::read(&path).map_or(json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
    json[key] = value.clone();
    std::fs::write(&path, json.to_string()).unwrap();
}

fn load(path: &Path) -> Result<Policy, Error> {
    let model = Pretrained::open(path)?;
    model.policy(model.config.context.min(16), &Device::flex())
}

/// What is said of a model that is refused, with the hint.
fn refusal(path: &Path) -> String {
    let error = load(path).map(|_| ()).unwrap_err();
    format!("{error}; {}", error.hint().unwrap_or_default())
}

fn logits(policy: &Policy) -> Vec<f32> {
    weights::host(
        policy.logits(Tensor::<2, Int>::from_data(TensorData::new(vec![1i32, 2, 3], [1, 3]), &Device::flex()), 0),
    )
}

#[test]
fn numbers_of_a_llama_that_no_model_has() {
    let folder = written(&llama(true));
    let config = std::fs::read(folder.path().join("config.json")).unwrap();
    let huge = json!(u64::MAX);
    let sizes = [
        "vocab_size",
        "max_position_embeddings",
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
    ];
    let mut cases: Vec<(&str, Value)> = vec![];
    for key in sizes {
        cases
            .extend([json!(0), json!(-1), json!(1.5), json!("8"), json!(true), huge.clone()].map(|value| (key, value)));
        cases.push((key, json!((1u64 << 32) + 1)));
    }
    for key in ["rms_norm_eps", "rope_theta"] {
        cases.extend([json!(0), json!(-1.0), json!("1"), json!(1e300), json!(1e-300)].map(|value| (key, value)));
    }
    cases.push(("num_key_value_heads", json!(3)));
    cases.push(("num_attention_heads", json!(16))); // 8 / 16 without head_dim
    cases.push(("head_dim", json!(3)));
    for key in ["tie_word_embeddings", "attention_bias", "hidden_act", "rope_scaling", "rope_parameters"] {
        cases.push((key, json!("yes")));
    }
    cases.push(("quantization_config", json!({"bits": 4})));
    for (key, value) in cases {
        std::fs::write(folder.path().join("config.json"), &config).unwrap();
        edit(folder.path(), "config.json", "rope_parameters", &Value::Null);
        if key == "num_attention_heads" {
            edit(folder.path(), "config.json", "head_dim", &Value::Null);
        }
        edit(folder.path(), "config.json", key, &value);
        let message = refusal(folder.path());
        assert!(message.contains(&format!("`{key}`")), "{key} = {value}: {message}");
    }
    // sizes that could be, of tensors that are not there
    for (key, value) in
        [("num_hidden_layers", 2), ("max_position_embeddings", 1 << 30), ("vocab_size", 7), ("vocab_size", 9)]
    {
        std::fs::write(folder.path().join("config.json"), &config).unwrap();
        edit(folder.path(), "config.json", key, &json!(value));
        edit(folder.path(), "config.json", "eos_token_id", &json!(0));
        assert!(load(folder.path()).is_err(), "{key} = {value}");
    }
}

#[test]
fn numbers_of_a_gpt2_that_no_model_has() {
    let folder = written(&gpt2());
    let config = std::fs::read(folder.path().join("config.json")).unwrap();
    for key in ["vocab_size", "n_positions", "n_layer", "n_embd", "n_head", "n_inner", "layer_norm_epsilon"] {
        for value in [json!(0), json!(-1), json!("8"), json!(u64::MAX)] {
            std::fs::write(folder.path().join("config.json"), &config).unwrap();
            edit(folder.path(), "config.json", key, &value);
            let message = refusal(folder.path());
            assert!(message.contains(&format!("`{key}`")), "{key} = {value}: {message}");
        }
    }
    for (key, value) in
        [("n_head", json!(3)), ("activation_function", json!(5)), ("activation_function", json!("quick_gelu"))]
    {
        std::fs::write(folder.path().join("config.json"), &config).unwrap();
        edit(folder.path(), "config.json", key, &value);
        let message = refusal(folder.path());
        assert!(message.contains(&format!("`{key}`")), "{key} = {value}: {message}");
    }
}

#[test]
fn rotary_positions_are_computed_or_refused() {
    let folder = written(&llama(true));
    edit(folder.path(), "config.json", "rope_theta", &json!(1e4));
    let plain = logits(&load(folder.path()).unwrap());
    let harmless = [
        ("rope_scaling", json!({"type": "linear", "factor": 1.0})),
        ("rope_scaling", json!({"rope_type": "default"})),
        ("rope_scaling", json!({})),
        ("rope_parameters", json!({"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 1.0})),
        ("rope_parameters", json!({"type": "linear", "factor": 1})),
        ("rope_scaling", json!({"type": "dynamic", "factor": 4.0})), // nothing changes within the context
    ];
    let scaled = [
        ("rope_scaling", json!({"type": "linear", "factor": 4.0})),
        ("rope_parameters", json!({"rope_theta": 1e4, "type": "linear", "factor": 4.0})),
        ("rope_parameters", json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4})),
        (
            "rope_parameters",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}),
        ),
        (
            "rope_scaling",
            json!({"type": "su", "short_factor": [1.0, 3.0], "long_factor": [1.0, 9.0], "original_max_position_embeddings": 8}),
        ),
    ];
    let refused = [
        ("rope_scaling", json!({"type": "linear"})),
        ("rope_scaling", json!({"type": "linear", "factor": 0.0})),
        ("rope_scaling", json!({"type": "linear", "factor": "4"})),
        ("rope_scaling", json!({"type": "linear", "factor": 4.0, "mrope_section": [2, 2]})),
        ("rope_scaling", json!({"type": "mrope"})),
        ("rope_scaling", json!({"type": "yarn", "factor": 4.0, "beta_fast": -1})),
        ("rope_scaling", json!({"type": "longrope", "short_factor": [1.0], "long_factor": [1.0, 9.0]})),
        ("rope_scaling", json!({"factor": 4.0})),
        ("rope_scaling", json!([4.0])),
        (
            "rope_parameters",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0}),
        ),
        ("rope_parameters", json!({"rope_type": "default", "type": "linear", "factor": 4.0})),
        ("rope_parameters", json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0})),
        ("rope_parameters", json!({"rope_theta": "many"})),
        ("rope_parameters", json!({"rope_theta": -1.0})),
        ("rope_parameters", json!({"partial_rotary_factor": 0.5, "rope_type": "default"})),
        ("rope_parameters", json!({"full_attention": {"rope_theta": 1e4, "rope_type": "default"}})),
    ];
    for (key, value) in &harmless {
        edit(folder.path(), "config.json", "rope_scaling", &Value::Null);
        edit(folder.path(), "config.json", "rope_parameters", &Value::Null);
        edit(folder.path(), "config.json", key, value);
        assert_eq!(logits(&load(folder.path()).unwrap()), plain, "{key} = {value}");
    }
    for (key, value) in &scaled {
        edit(folder.path(), "config.json", "rope_scaling", &Value::Null);
        edit(folder.path(), "config.json", "rope_parameters", &Value::Null);
        edit(folder.path(), "config.json", key, value);
        assert_ne!(logits(&load(folder.path()).unwrap()), plain, "{key} = {value}");
    }
    for (key, value) in &refused {
        edit(folder.path(), "config.json", "rope_scaling", &Value::Null);
        edit(folder.path(), "config.json", "rope_parameters", &Value::Null);
        edit(folder.path(), "config.json", key, value);
        let message = refusal(folder.path());
        assert!(message.contains(&format!("`{key}")), "{key} = {value}: {message}");
    }
    // the theta of either place counts
    edit(folder.path(), "config.json", "rope_parameters", &json!({"rope_theta": 10.0}));
    assert_ne!(logits(&load(folder.path()).unwrap()), plain);
}

#[test]
fn silu_by_its_other_name() {
    let folder = written(&llama(true));
    let before = logits(&load(folder.path()).unwrap());
    edit(folder.path(), "config.json", "hidden_act", &json!("swish"));
    assert_eq!(logits(&load(folder.path()).unwrap()), before);
    edit(folder.path(), "config.json", "hidden_act", &json!("gelu"));
    assert_ne!(logits(&load(folder.path()).unwrap()), before);
    edit(folder.path(), "config.json", "hidden_act", &json!("quick_gelu"));
    assert!(refusal(folder.path()).contains("`hidden_act`"));
}

#[test]
fn ids_have_their_rows_of_the_embedding() {
    let folder = written(&llama(true));
    let mut more = tokenizer();
    for id in 4..11 {
        more["model"]["vocab"][format!("w{id}")] = json!(id);
    }
    std::fs::write(folder.path().join("tokenizer.json"), more.to_string()).unwrap();
    let message = refusal(folder.path());
    assert!(
        message.contains("tokenizer.json` has 3 ids")
            && message.contains("of which there are 8: 8 \"w8\", 9 \"w9\", 10 \"w10\""),
        "{message}"
    );
    assert!(message.contains("accepted: ids below 8"), "{message}");
    // an added token beyond them is one that only rows that spell it need; one that stands for something is refused
    let mut added = tokenizer();
    added["added_tokens"].as_array_mut().unwrap().push(json!({"id": 8, "content": "<image>", "special": true}));
    std::fs::write(folder.path().join("tokenizer.json"), added.to_string()).unwrap();
    load(folder.path()).unwrap();
    // also in Unigram's list
    let pieces: Vec<Value> = (0..9).map(|id| json!([format!("p{id}"), -1.0])).collect();
    let unigram = json!({"model": {"type": "Unigram", "vocab": pieces}});
    std::fs::write(folder.path().join("tokenizer.json"), unigram.to_string()).unwrap();
    assert!(refusal(folder.path()).contains("8 \"p8\""));
    // ids that are none
    for id in [json!(-1), json!(1.5), json!("1"), json!((1u64 << 32) + 1), Value::Null] {
        let mut odd = tokenizer();
        odd["model"]["vocab"]["ab"] = id.clone();
        std::fs::write(folder.path().join("tokenizer.json"), odd.to_string()).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains("the id of \"ab\""), "{id}: {message}");
    }
    // fewer words than rows are well
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer().to_string()).unwrap();
    load(folder.path()).unwrap();
}

#[test]
fn special_ids_are_ids() {
    for file in ["config.json", "generation_config.json"] {
        for key in ["eos_token_id", "bos_token_id", "pad_token_id"] {
            let folder = written(&llama(true));
            for id in
                [json!(8), json!((1u64 << 32) + 1), json!(-2), json!(1.0), json!("1"), json!([0, 8]), json!({"id": 1})]
            {
                edit(folder.path(), "generation_config.json", key, &Value::Null);
                edit(folder.path(), file, key, &id);
                let message = refusal(folder.path());
                assert!(message.contains(file) && message.contains(&format!("`{key}`")), "{key} = {id}: {message}");
            }
        }
    }
    let folder = written(&llama(true));
    std::fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    for (id, expected) in [(json!(3), Some(3)), (json!([2, 1]), Some(2)), (json!(-1), None), (json!([]), None)] {
        edit(folder.path(), "generation_config.json", "eos_token_id", &id);
        assert_eq!(Pretrained::open(folder.path()).unwrap().tokenizer_files.special.eos, expected, "{id}");
    }
}

/// The tokenizer's own EOS comes first; what generation stops at besides is kept, read again and written again.
#[test]
fn several_ends_are_kept() {
    let folder = written(&llama(true));
    edit(folder.path(), "tokenizer_config.json", "eos_token", &json!("<s>"));
    for (listed, eos, other) in [
        (json!([2, 0, 2, 1]), 0, vec![2, 1]),
        (json!([3, 1]), 0, vec![3, 1]),
        (json!(0), 0, vec![]),
        (json!([]), 0, vec![]),
    ] {
        for file in ["generation_config.json", "config.json"] {
            edit(folder.path(), "generation_config.json", "eos_token_id", &Value::Null);
            edit(folder.path(), file, "eos_token_id", &listed);
            let special = Pretrained::open(folder.path()).unwrap().tokenizer_files.special;
            assert_eq!((special.eos, &special.other_eos), (Some(eos), &other), "{file}: {listed}");
            let again = tempfile::tempdir().unwrap();
            let checkpoint = Pretrained::read_checkpoint(folder.path(), &Device::flex()).unwrap();
            huggingface::write(again.path(), &checkpoint, FileDType::F32).unwrap();
            assert_eq!(Pretrained::open(again.path()).unwrap().tokenizer_files.special, special);
            let generation = std::fs::read(again.path().join("generation_config.json")).unwrap();
            let generation: Value = serde_json::from_slice(&generation).unwrap();
            let expected = if other.is_empty() { json!(eos) } else { json!(special.eos_ids()) };
            assert_eq!(generation["eos_token_id"], expected);
        }
    }
}

#[test]
fn tokens_that_only_the_settings_add() {
    let folder = written(&llama(true));
    let add = |tokens: Value| edit(folder.path(), "tokenizer_config.json", "added_tokens_decoder", &tokens);
    let token = |content: &str| json!({"content": content, "special": true});
    // one that is there, one that the vocabulary has as a word, and a new one
    add(json!({"0": token("<s>"), "3": token("ab"), "4": token("<end>")}));
    edit(folder.path(), "tokenizer_config.json", "eos_token", &json!("<end>"));
    edit(folder.path(), "generation_config.json", "eos_token_id", &Value::Null);
    edit(folder.path(), "config.json", "eos_token_id", &Value::Null);
    let tokenizer_files = Pretrained::open(folder.path()).unwrap().tokenizer_files;
    assert_eq!(tokenizer_files.special.eos, Some(4));
    let json: Value = serde_json::from_slice(&tokenizer_files.tokenizer.unwrap()).unwrap();
    let added: Vec<_> =
        json["added_tokens"].as_array().unwrap().iter().map(|t| (t["id"].clone(), t["content"].clone())).collect();
    assert_eq!(added, [(json!(0), json!("<s>")), (json!(3), json!("ab")), (json!(4), json!("<end>"))]);
    for (tokens, value) in [
        (json!({"4": token("a")}), "\"4\":\"a\""), // has another id
        (json!({"2": token("c")}), "\"2\":\"c\""), // whose id another has
        (json!({"5": token("<end>")}), "5"),       // leaves a gap
        (json!({"x": token("<end>")}), "\"x\""),
        (json!({"4": "<end>"}), "<end>"),
        (json!(["<end>"]), "<end>"),
        (json!({"4294967297": token("<end>")}), "4294967297"),
    ] {
        add(tokens.clone());
        let message = refusal(folder.path());
        assert!(message.contains("`added_tokens_decoder`") && message.contains(value), "{tokens}: {message}");
    }
    add(json!({"4": token("4"), "5": token("5"), "6": token("6"), "7": token("7"), "8": token("beyond")}));
    Pretrained::open(folder.path()).unwrap(); // rows that spell it are refused
}

/// The tensors of a directory's weights, changed.
fn edit_weights(folder: &Path, change: impl Fn(&mut Vec<(String, Vec<usize>, Vec<u8>)>)) {
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut all: Vec<_> =
        file.tensors().into_iter().map(|(name, view)| (name, view.shape().to_vec(), view.data().to_vec())).collect();
    change(&mut all);
    let views = all.iter().map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
}

#[test]
fn the_tie_and_the_head_agree() {
    // 1. untied, and no head
    let folder = written(&llama(true));
    edit(folder.path(), "config.json", "tie_word_embeddings", &json!(false));
    let message = refusal(folder.path());
    assert!(message.contains("`tie_word_embeddings` is false") && message.contains("lm_head.weight"), "{message}");
    edit(folder.path(), "config.json", "tie_word_embeddings", &Value::Null);
    assert!(refusal(folder.path()).contains("`tie_word_embeddings` is nothing"));
    // 2. tied, and a head of its own
    let folder = written(&llama(false));
    edit(folder.path(), "config.json", "tie_word_embeddings", &json!(true));
    let message = refusal(folder.path());
    assert!(
        message.contains("`tie_word_embeddings` is true") && message.contains("model.embed_tokens.weight"),
        "{message}"
    );
    // 3. tied, and the embedding once more
    edit_weights(folder.path(), |all| {
        let embedding = all.iter().find(|(name, ..)| name == "model.embed_tokens.weight").unwrap().2.clone();
        all.iter_mut().find(|(name, ..)| name == "lm_head.weight").unwrap().2 = embedding;
    });
    load(folder.path()).unwrap();
}

#[test]
fn names_without_the_prefix_of_a_language_model() {
    for (checkpoint, prefix) in [(gpt2(), "transformer."), (llama(true), "model.")] {
        let folder = written(&checkpoint);
        let before = load(folder.path()).unwrap();
        edit_weights(folder.path(), |all| {
            all.iter_mut().for_each(|(name, ..)| *name = name.strip_prefix(prefix).unwrap().to_owned());
        });
        assert_eq!(weights::hash(&load(folder.path()).unwrap()), weights::hash(&before));
        edit_weights(folder.path(), |all| {
            all.retain(|(name, ..)| name != "wte.weight" && name != "embed_tokens.weight")
        });
        assert!(matches!(load(folder.path()), Err(Error::Damaged { .. } | Error::Lacking { .. })));
    }
}

#[test]
fn settings_that_contradict_the_tensors() {
    for (key, value, words) in [
        ("vocab_size", json!(ROWS + 1), "accepted for `vocab_size`: 8, the rows of `model.embed_tokens.weight`"),
        ("vocab_size", json!(ROWS - 1), "accepted for `vocab_size`: 8, the rows of `model.embed_tokens.weight`"),
        ("attention_bias", json!(true), "false: the files hold no `model.layers.0.self_attn.q_proj.bias`"),
        ("mlp_bias", json!(true), "false: the files hold no `model.layers.0.mlp.down_proj.bias`"),
    ] {
        let folder = written(&llama(true));
        edit(folder.path(), "config.json", key, &value);
        let message = refusal(folder.path());
        assert!(message.contains(words), "{key}: {message}");
    }
    let mut architecture = llama(true).config.architecture;
    (architecture.biases.qkv, architecture.biases.out) = (true, true);
    let folder = written(&checkpoint(architecture, true));
    load(folder.path()).unwrap();
    edit(folder.path(), "config.json", "attention_bias", &json!(false));
    let message = refusal(folder.path());
    assert!(message.contains("true: the files hold `model.layers.0.self_attn.q_proj.bias`"), "{message}");
}

#[test]
fn models_of_other_kinds_are_refused_by_what_they_are() {
    for (key, value, words) in [
        ("model_type", json!("mixtral"), "\"mixtral\", a mixture of experts"),
        ("model_type", json!("qwen2_vl"), "\"qwen2_vl\", which reads images"),
        ("model_type", json!("mamba2"), "\"mamba2\", with linear attention"),
        ("model_type", json!("other"), "`model_type` is \"other\";"),
    ] {
        let folder = written(&llama(true));
        edit(folder.path(), "config.json", key, &value);
        let message = refusal(folder.path());
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn files_that_are_none_or_never_end() {
    use std::os::unix::fs::symlink;
    for name in ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"] {
        let folder = written(&llama(true));
        let path = folder.path().join(name);
        let _ = std::fs::remove_file(&path);
        symlink("/dev/zero", &path).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains(name), "{name}: {message}");
        std::fs::remove_file(&path).unwrap();
        // 64 MiB and more, without a byte on the disk
        std::fs::File::create(&path).unwrap().set_len((64 << 20) + 1).unwrap();
        assert!(refusal(folder.path()).contains(name));
    }
}

#[test]
fn numbers_that_a_kind_cannot_hold_are_not_written() {
    let mut whole = llama(true);
    let mut values = weights::flatten(&whole.policy);
    values[5] = 1e5;
    whole.policy = weights::unflatten(whole.policy, &values);
    let folder = tempfile::tempdir().unwrap();
    let refused = huggingface::write(folder.path(), &whole, FileDType::F16).unwrap_err().to_string();
    assert!(refused.contains("embed_tokens") && refused.contains("1e5, which F16 cannot hold"), "{refused}");
    let refused = gguf::write(&folder.path().join("m.gguf"), &whole, gguf::Precision::F16).unwrap_err().to_string();
    assert!(refused.contains("token_embd"), "{refused}");
    huggingface::write(folder.path(), &whole, FileDType::Bf16).unwrap();
}

/// A change of an architecture.
type Change = fn(&mut Architecture);

#[test]
fn choices_that_do_not_fit_each_other() {
    let changes: [(&str, Change); 3] = [
        ("residual.order", |a| {
            a.residual.order = ResidualOrder::Parallel;
            a.norm.placement = NormPlacement::Both;
        }),
        ("fused.qkv", |a| a.fused.qkv = Some(QkvLayout::PerHead)),
        ("fused.gate_up", |a| {
            a.fused.gate_up = true;
            a.mlp.gated = false;
        }),
    ];
    let plain = llama(true).config.architecture;
    plain.check().unwrap();
    for (choice, change) in changes {
        let mut other = plain.clone();
        change(&mut other);
        let error = other.check().unwrap_err();
        assert!(matches!(&error, Error::NotComputed { choice: named, .. } if *named == choice), "{choice}: {error}");
    }
}

#[test]
fn a_model_that_its_familys_settings_cannot_describe_is_not_written() {
    let mut whole = llama(true);
    whole.config.architecture.biases.qkv = true;
    let folder = tempfile::tempdir().unwrap();
    let error = huggingface::write(folder.path(), &whole, FileDType::F32).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { key, .. } if key == "architecture"), "{error}");
}

#[test]
fn windows_of_a_qwen2() {
    let llama = Llama { key_value_heads: 1, head_width: 4, inner: 8, rope_theta: 1e4, epsilon: 1e-5 };
    let folder = written(&checkpoint(Qwen2(llama).architecture(), true));
    let full = logits(&load(folder.path()).unwrap());
    let config = std::fs::read(folder.path().join("config.json")).unwrap();
    let edited = |edits: &[(&str, Value)]| {
        std::fs::write(folder.path().join("config.json"), &config).unwrap();
        edits.iter().for_each(|(key, value)| edit(folder.path(), "config.json", key, value));
    };
    edited(&[("layer_types", json!(["sliding_attention"]))]);
    assert!(refusal(folder.path()).contains("`sliding_window`"), "a window of no size");
    edited(&[("layer_types", json!(["local"]))]);
    assert!(refusal(folder.path()).contains("`layer_types`"));
    edited(&[("layer_types", json!(["full_attention", "full_attention"]))]);
    assert!(refusal(folder.path()).contains("`layer_types`"), "one layer, two types");

    let window = [("use_sliding_window", json!(true)), ("sliding_window", json!(2))];
    let types = [("layer_types", Value::Null), ("max_window_layers", json!(0))];
    edited(&[window.clone(), types.clone()].concat());
    let windowed = logits(&load(folder.path()).unwrap());
    assert_ne!(windowed, full);
    // before `max_window_layers` there is none
    edited(&[window.to_vec(), vec![types[0].clone(), ("max_window_layers", json!(1))]].concat());
    assert_eq!(logits(&load(folder.path()).unwrap()), full);
}
