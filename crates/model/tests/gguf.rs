//! GGUF files byte by byte: what contradicts itself or asks for what is not read is refused by name; what is harmless is read.

#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use duel_model::{Error, Policy, Pretrained, RopeScaling, weights};
use duel_testing::gguf_file::{GgufFile, list, text};
use serde_json::{Value, json};

fn load(file: &GgufFile) -> Result<(Pretrained, Policy), Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    let model = Pretrained::open(&path)?;
    let policy = model.policy(16.min(model.config.context), &Device::flex())?;
    Ok((model, policy))
}

fn tokenizer(file: &GgufFile) -> Value {
    serde_json::from_slice(&load(file).unwrap().0.tokenizer_files.tokenizer.unwrap()).unwrap()
}

/// The file after a change is refused, in these words.
fn refused(what: &str, words: &[&str], change: impl FnOnce(&mut GgufFile)) {
    let mut file = GgufFile::llama();
    change(&mut file);
    let error = load(&file).map(|_| ()).unwrap_err();
    let text = format!("{error}; {}", error.hint().unwrap_or_default());
    assert!(words.iter().all(|word| text.contains(word)), "{what}: {text}");
}

#[test]
fn the_file_itself_is_read() {
    load(&GgufFile::llama()).unwrap();
}

#[test]
fn sizes_and_numbers_that_no_model_has() {
    let sizes = [
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "rope.dimension_count",
        "attention.value_length",
        "vocab_size",
    ];
    for key in sizes.map(|key| format!("llama.{key}")) {
        let named: &[&str] = &[&format!("`{key}`")];
        refused(&key, named, |file| file.size(&key, 0));
        refused(&key, named, |file| file.put(&key, 5, (-8i32).to_le_bytes().to_vec()));
        refused(&key, named, |file| file.put(&key, 10, u64::MAX.to_le_bytes().to_vec()));
        refused(&key, named, |file| file.real(&key, 8.0));
        refused(&key, named, |file| file.text(&key, "8"));
        refused(&key, named, |file| file.put(&key, 9, list(4, &[8u32.to_le_bytes().to_vec()])));
    }
    for key in ["llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"] {
        for value in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-38, 1e30] {
            refused(key, &[&format!("`{key}`")], |file| file.real(key, value));
        }
    }
    refused("heads", &["head_count`"], |file| file.size("llama.attention.head_count", 3));
    refused("kv", &["head_count_kv`"], |file| file.size("llama.attention.head_count_kv", 3));
    refused("rope", &["rope.dimension_count`"], |file| file.size("llama.rope.dimension_count", 2));
    refused("layers", &["layers"], |file| file.size("llama.block_count", 1 << 20));
    refused("rows", &["vocab_size`", "8, the rows"], |file| file.size("llama.vocab_size", 9));
}

#[test]
fn settings_that_change_what_is_computed() {
    for key in ["llama.attention.causal", "llama.logit_scale", "llama.expert_count", "llama.rope.scaling.alpha"] {
        refused(key, &[&format!("`{key}`")], |file| file.size(key, 4));
    }
    refused("scaling", &["rope.scaling.type` is `dynamic`", "none, linear, yarn, longrope"], |file| {
        file.text("llama.rope.scaling.type", "dynamic");
    });
    refused("factor", &["rope.scaling.factor`"], |file| file.real("llama.rope.scaling.factor", -1.0));
    refused("attention factor", &["rope.scaling.attn_factor`"], |file| {
        file.real("llama.rope.scaling.attn_factor", 2.0);
    });
    refused("longrope", &["rope_factors_short.weight"], |file| file.text("llama.rope.scaling.type", "longrope"));
    refused("pattern", &["sliding_window_pattern`"], |file| {
        file.size("llama.attention.sliding_window", 4);
        file.put("llama.attention.sliding_window_pattern", 9, list(7, &[vec![1], vec![0]]));
    });
    refused("adapter", &["general.type`"], |file| file.text("general.type", "adapter"));
    let mut harmless = GgufFile::llama();
    harmless.text("general.type", "model");
    harmless.text("llama.rope.scaling.type", "none");
    harmless.real("llama.rope.scaling.factor", 1.0);
    harmless.size("llama.expert_count", 0);
    harmless.size("llama.attention.sliding_window", 0);
    harmless.put("split.count", 2, 0u16.to_le_bytes().to_vec());
    let architecture = load(&harmless).unwrap().0.config.architecture;
    assert_eq!(architecture, load(&GgufFile::llama()).unwrap().0.config.architecture);
}

/// Older files of Phi 2, and newer ones of any family, have queries, keys and values in one tensor.
#[test]
fn joint_queries_keys_and_values_are_read_as_three() {
    let apart = |bias: bool| {
        let mut file = GgufFile::llama();
        if bias {
            for (name, rows) in [("q", 8), ("k", 4), ("v", 4)] {
                file.tensor(&format!("blk.0.attn_{name}.bias"), vec![rows]);
            }
        }
        let mut x = 0.0;
        for (_, shape, _, _, bytes) in &mut file.tensors {
            let numbers = (0..shape.iter().product::<u64>()).map(|_| {
                x += 0.01;
                f32::sin(x).to_le_bytes()
            });
            *bytes = numbers.flatten().collect();
        }
        file
    };
    let joined = |file: &GgufFile, kind: &str| {
        let part = |name: &str| format!("blk.0.attn_{name}.{kind}");
        let mut joint = file.clone();
        joint.tensors.retain(|(name, ..)| !["q", "k", "v"].map(part).contains(name));
        let parts = ["q", "k", "v"].map(|name| file.tensors.iter().find(|tensor| tensor.0 == part(name)).unwrap());
        let mut shape = parts[0].1.clone();
        *shape.last_mut().unwrap() = 16;
        joint.tensors.push((part("qkv"), shape, 0, None, parts.map(|tensor| tensor.4.clone()).concat()));
        joint
    };
    for (file, joint) in [
        (apart(false), joined(&apart(false), "weight")),
        (apart(true), joined(&joined(&apart(true), "weight"), "bias")),
    ] {
        let expected = weights::hash(&load(&file).unwrap().1);
        assert_ne!(expected, weights::hash(&load(&GgufFile::llama()).unwrap().1));
        assert_eq!(weights::hash(&load(&joint).unwrap().1), expected);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, joint.bytes()).unwrap();
        let mapped = Pretrained::open(&path).unwrap().mapped(16, None, &Device::flex()).unwrap();
        assert_eq!(mapped.hash(), expected);
    }
    let mut short = joined(&apart(false), "weight");
    short.tensors.last_mut().unwrap().1 = vec![8, 15];
    let error = load(&short).map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Shape { name, .. } if name == "blk.0.attn_qkv.weight"), "{error}");
}

#[test]
fn a_unigram_vocabulary_is_refused_with_where_it_is_read_from() {
    refused("t5", &["tokenizer.ggml.model` is `t5`", "Unigram", "tokenizer.json"], |file| {
        file.text("tokenizer.ggml.model", "t5");
    });
}

/// How a file's rotary positions are scaled after a change.
fn scaling(change: impl FnOnce(&mut GgufFile)) -> RopeScaling {
    let mut file = GgufFile::llama();
    change(&mut file);
    load(&file).unwrap().0.config.architecture.rotary().unwrap().scaling.clone()
}

#[test]
fn scalings_of_rotary_positions() {
    let factor = |file: &mut GgufFile, key: &str| file.real(&format!("llama.rope.{key}"), 4.0);
    // without a kind, a factor is linear
    for key in ["scaling.factor", "scale_linear"] {
        assert_eq!(scaling(|file| factor(file, key)), RopeScaling::Linear { factor: 4.0 });
    }
    assert_eq!(scaling(|file| file.text("llama.rope.scaling.type", "linear")), RopeScaling::None);
    let yarn = scaling(|file| {
        file.text("llama.rope.scaling.type", "yarn");
        factor(file, "scaling.factor");
        file.size("llama.rope.scaling.original_context_length", 8);
        file.real("llama.rope.scaling.yarn_beta_fast", 16.0);
    });
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, original_context, truncate } = yarn else {
        panic!("{yarn:?}")
    };
    assert_eq!((factor, beta_fast, beta_slow, original_context, truncate), (4.0, 16.0, 1.0, 8, true));
    assert!((attention_factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-12);
    let long = scaling(|file| {
        for (name, values) in [("short", [1.0f32, 1.5]), ("long", [2.0, 4.0])] {
            file.tensor(&format!("rope_factors_{name}.weight"), vec![2]);
            file.tensors.last_mut().unwrap().4 = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        }
        file.size("llama.rope.scaling.original_context_length", 8);
        file.real("llama.rope.scaling.attn_factor", 1.2);
    });
    let expected = RopeScaling::LongRope {
        short_factors: vec![1.0, 1.5],
        long_factors: vec![2.0, 4.0],
        attention_factor: 1.2,
        original_context: 8,
        long_context: 16,
    };
    assert_eq!(long, expected);
}

#[test]
fn factors_of_rotary_positions() {
    let factors = |file: &mut GgufFile, values: &[f32]| {
        file.tensor("rope_freqs.weight", vec![values.len() as u64]);
        file.tensors.last_mut().unwrap().4 = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    };
    assert_eq!(scaling(|file| factors(file, &[1.0, 32.0])), RopeScaling::Factors(vec![1.0, 32.0]));
    assert_eq!(scaling(|file| factors(file, &[2.0, 2.0])), RopeScaling::Factors(vec![2.0, 2.0]));
    assert_eq!(scaling(|file| factors(file, &[1.0, 1.0])), RopeScaling::None);
    refused("zeros", &["`rope_freqs.weight`"], |file| factors(file, &[1.0, 0.0]));
    refused("none", &["`rope_freqs.weight`"], |file| factors(file, &[1.0, f32::NAN]));
    refused("too many", &["`rope_freqs.weight` has shape [3]"], |file| factors(file, &[1.0; 3]));
}

#[test]
fn a_llama_with_a_window_is_a_mistral() {
    let mut file = GgufFile::llama();
    file.size("llama.attention.sliding_window", 4);
    let architecture = load(&file).unwrap().0.config.architecture;
    assert_eq!((architecture.family, &architecture.attention.windows[..]), ("mistral", &[Some(4)][..]));
}

#[test]
fn tensors_lie_apart_aligned_and_within() {
    refused("twice", &["`output_norm.weight` is there twice"], |file| file.tensor("output_norm.weight", vec![8]));
    // 256 bytes of the embedding begin at 0
    refused("overlap", &["`token_embd.weight` and `output_norm.weight` overlap"], |file| file.tensors[1].3 = Some(224));
    refused("same place", &["overlap"], |file| file.tensors[1].3 = Some(0));
    refused("unaligned", &["not a multiple of the alignment, 32"], |file| file.tensors[10].3 = Some(1537));
    for place in [1 << 20, u64::MAX, u64::MAX - 31] {
        refused("beyond", &["does not lie within the file"], |file| file.tensors[0].3 = Some(place));
    }
    refused("no numbers", &["has no numbers"], |file| file.tensors[0].1 = vec![0, 8]);
    refused("too many", &["does not lie within the file"], |file| file.tensors[0].1 = vec![1 << 40, 1 << 40]);
    refused("dimensions", &["has 5 dimensions"], |file| file.tensors[0].1 = vec![1; 5]);
    for alignment in [0, 3, 1 << 17] {
        refused("alignment", &["general.alignment"], |file| file.size("general.alignment", alignment));
    }
    let mut wide = GgufFile::llama();
    wide.size("general.alignment", 64);
    assert!(load(&wide).is_err(), "its tensors stand at multiples of 32");
}

#[test]
fn kinds_that_are_not_read_are_named() {
    let kinds = [
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (18, "IQ3_XXS"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (39, "MXFP4"),
        (77, "number 77"),
    ];
    for (code, name) in kinds {
        let words =
            ["not supported: `blk.0.ffn_down.weight` is of kind", name, "Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS"];
        refused(name, &words, |file| file.tensors[10].2 = code);
    }
}

#[test]
fn tokenizers_that_contradict_themselves() {
    let tokens = |file: &mut GgufFile, tokens: &[&str]| {
        let all: Vec<Vec<u8>> = tokens.iter().copied().map(text).collect();
        file.put("tokenizer.ggml.tokens", 9, list(8, &all));
        file.without("tokenizer.ggml.token_type");
    };
    refused("twice", &["\"a\" twice"], |file| tokens(file, &["<s>", "a", "b", "a"]));
    refused("beyond", &["m.gguf` has 1 ids", "8 \"w8\""], |file| {
        tokens(file, &["<s>", "a", "b", "ab", "4", "5", "6", "7", "w8"]);
    });
    refused("kinds", &["token_type`", "4 numbers"], |file| {
        file.put("tokenizer.ggml.token_type", 9, list(5, &[3i32.to_le_bytes().to_vec()]));
    });
    for model in ["t5", "bert", "rwkv"] {
        let words = ["tokenizer.ggml.model` is", model, "byte-level BPE", "SentencePiece"];
        refused(model, &words, |file| file.text("tokenizer.ggml.model", model));
    }
    refused("scores", &["tokenizer.ggml.scores`", "4 numbers"], |file| {
        file.text("tokenizer.ggml.model", "llama");
        file.without("tokenizer.ggml.merges");
    });
    refused("long", &["a piece of 300 bytes; the limit is 256"], |file| {
        tokens(file, &["<s>", "a", "b", &"a".repeat(300)]);
        file.text("tokenizer.ggml.model", "llama");
    });
    refused("pre", &["tokenizer.ggml.pre` is `nobody's`", "llama-bpe", "qwen2", "gpt-2"], |file| {
        file.text("tokenizer.ggml.pre", "nobody's");
    });
    for name in ["bos", "eos"] {
        refused(name, &[&format!("add_{name}_token` is true")], |file| {
            file.put(&format!("tokenizer.ggml.add_{name}_token"), 7, vec![1]);
            file.without(&format!("tokenizer.ggml.{name}_token_id"));
        });
    }
    refused("merges", &["merges`"], |file| file.put("tokenizer.ggml.merges", 9, list(8, &[text("ab")])));
    refused("pre", &["tokenizer.ggml.pre`"], |file| file.size("tokenizer.ggml.pre", 3));
    refused("template", &["chat_template`"], |file| file.size("tokenizer.chat_template", 3));
    for key in ["bos", "eos", "padding", "eot", "eom", "unknown"].map(|name| format!("tokenizer.ggml.{name}_token_id"))
    {
        let named: &[&str] = &[&format!("`{key}`"), "an id below 8"];
        refused(&key, named, |file| file.size(&key, 8));
        refused(&key, named, |file| file.put(&key, 10, ((1u64 << 32) + 1).to_le_bytes().to_vec()));
        refused(&key, named, |file| file.text(&key, "1"));
        let mut none = GgufFile::llama();
        none.size(&key, u32::MAX);
        load(&none).unwrap();
    }
}

#[test]
fn llama_3s_words_are_taken_whole_and_begin_with_bos() {
    let mut file = GgufFile::llama();
    assert_eq!(tokenizer(&file)["model"]["ignore_merges"], json!(false));
    assert_eq!(tokenizer(&file)["post_processor"], Value::Null);
    file.put("tokenizer.ggml.add_bos_token", 7, vec![1]);
    assert_eq!(tokenizer(&file)["post_processor"]["single"][0]["SpecialToken"]["id"], json!("<s>"));
    file.text("tokenizer.ggml.pre", "llama-bpe");
    file.put("tokenizer.ggml.add_bos_token", 7, vec![0]);
    assert_eq!(tokenizer(&file)["model"]["ignore_merges"], json!(true));
    assert_eq!(tokenizer(&file)["post_processor"], Value::Null);
    file.without("tokenizer.ggml.add_bos_token");
    assert_eq!(tokenizer(&file)["post_processor"]["single"][0]["SpecialToken"]["id"], json!("<s>"));
}

#[test]
fn counts_and_lists_that_no_file_could_hold() {
    let announce = |offset: usize, count: u64| {
        let mut bytes = GgufFile::llama().bytes();
        bytes[offset..offset + 8].copy_from_slice(&count.to_le_bytes());
        duel_model::GgufHeader::parse(&bytes).unwrap_err()
    };
    for count in [1 << 20, 1 << 40, u64::MAX] {
        assert!(announce(8, count).contains("announces"), "{count} tensors");
        assert!(announce(16, count).contains("announces"), "{count} settings");
    }
    // as many bytes as the counts ask for do not make them likely
    let mut long = GgufFile::llama().bytes();
    long.resize(4 << 20, 0);
    long[16..24].copy_from_slice(&(1u64 << 17).to_le_bytes());
    assert!(duel_model::GgufHeader::parse(&long).unwrap_err().contains("which no model has"));
    for (of, count) in [(8, 1u64 << 40), (9, 1 << 40), (0, u64::MAX), (13, 1), (255, 0)] {
        refused("list", &["damaged"], |file| {
            file.put("x", 9, [u32::to_le_bytes(of).to_vec(), count.to_le_bytes().to_vec()].concat());
        });
    }
    // lists in lists in lists
    let mut nested = list(4, &[]);
    for _ in 0..10_000 {
        nested = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec(), nested].concat();
    }
    refused("nested", &["nested too deep"], |file| file.put("x", 9, nested));
}

#[test]
fn the_repository_it_was_made_from() {
    let repository = |entries: &[(&str, &str)]| {
        let mut file = GgufFile::llama();
        entries.iter().for_each(|(key, value)| file.text(key, value));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, file.bytes()).unwrap();
        duel_model::gguf::repository(&path).unwrap()
    };
    assert_eq!(repository(&[]), None);
    let base = ("general.base_model.0.repo_url", "https://huggingface.co/some/base-1.5");
    assert_eq!(repository(&[base]).unwrap(), "some/base-1.5");
    let source = ("general.source.huggingface.repository", "some/tuned");
    assert_eq!(repository(&[base, source]).unwrap(), "some/tuned", "the source rather than what it was tuned from");
    for elsewhere in ["https://example.com/a/b", "../x", "a/b/c", "name", "a/b c"] {
        assert_eq!(repository(&[("general.source.repo_url", elsewhere)]), None, "{elsewhere}");
    }
}
