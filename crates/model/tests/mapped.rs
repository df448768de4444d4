//! A model whose matrices stay in their file says what the same model says in memory, to the bit: read, written with, trained
//! on and merged.

#![allow(clippy::unwrap_used)]

mod frozen_models;

use burn::module::Module;
use burn::tensor::Device;
use duel_model::gguf::{self, Precision};
use duel_model::{
    Architecture, Checkpoint, Error, FileDType, FusedProjections, Policy, Pretrained, QkvLayout, ResponseReader,
    ScalarModel, SpecialTokens, TokenizerFiles, device, generate, huggingface, weights,
};
use duel_spec::seeds;
use frozen_models::{SPACE, adapted, batch, config, gradient};
use std::path::{Path, PathBuf};

fn checkpoint(architecture: Architecture) -> Checkpoint {
    let config = config(architecture, true);
    let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &Device::flex());
    let tokenizer = serde_json::json!({
        "added_tokens": [{"id": 0, "content": "<s>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2, "ab": 3}, "merges": [["a", "b"]]}
    });
    let special = SpecialTokens { bos: Some(0), eos: Some(0), ..SpecialTokens::default() };
    Checkpoint {
        config,
        policy,
        tokenizer_files: TokenizerFiles {
            special,
            tokenizer: Some(tokenizer.to_string().into_bytes()),
            template: None,
        },
    }
}

fn llama() -> Checkpoint {
    checkpoint(frozen_models::llama())
}

/// Joint projections, whose queries stand before all keys, as Phi-3 has them.
fn phi3() -> Checkpoint {
    let fused = FusedProjections { qkv: Some(QkvLayout::Stacked), gate_up: true };
    checkpoint(Architecture { family: "phi3", fused, ..frozen_models::llama() })
}

/// Joint projections, whose queries, keys and values of a head stand together: GGUF files have another order.
fn gpt_neox() -> Checkpoint {
    checkpoint(frozen_models::gpt_neox())
}

/// GPT-2, whose matrices only a GGUF file has as `[out, in]`.
fn gpt2() -> Checkpoint {
    checkpoint(frozen_models::gpt2())
}

/// A model in every form that Duel writes.
fn forms(folder: &Path, checkpoint: &Checkpoint) -> Vec<PathBuf> {
    let mut paths = vec![];
    for (name, kind) in [("f32", FileDType::F32), ("f16", FileDType::F16), ("bf16", FileDType::Bf16)] {
        let path = folder.join(name);
        std::fs::create_dir(&path).unwrap();
        huggingface::write(&path, checkpoint, kind).unwrap();
        paths.push(path);
    }
    for (name, precision) in [("f16.gguf", Precision::F16), ("q8.gguf", Precision::Q8)] {
        gguf::write(&folder.join(name), checkpoint, precision).unwrap();
        paths.push(folder.join(name));
    }
    paths
}

#[test]
fn it_reads_writes_trains_and_merges_as_in_memory() {
    // only embedding, norms and biases are in memory, and a place for each matrix
    let biases = 3 * 64 + 64 + 96 + 64;
    for (checkpoint, numbers) in [
        (llama(), 40 * 64 + 5 * 64 + 2 * 7),
        (phi3(), 40 * 64 + 5 * 64 + 2 * 4),
        (gpt_neox(), 40 * 64 + 5 * 128 + 2 * (biases + 4)),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let family = checkpoint.config.architecture.family;
        forms(folder.path(), &checkpoint)
            .iter()
            .for_each(|path| same_as_in_memory(&format!("{family}, {}", path.display()), path, numbers));
    }
}

fn same_as_in_memory(name: &str, path: &Path, numbers: usize) {
    let device = Device::flex();
    let model = Pretrained::open(path).unwrap();
    let [whole, mapped] = [model.policy(16, &device).unwrap(), model.mapped(16, None, &device).unwrap()];
    assert_eq!(weights::flatten(&mapped).len(), numbers, "{name}");
    assert_eq!(weights::hash(&mapped.clone().merged()), weights::hash(&whole), "{name}");
    assert_eq!((mapped.hash(), whole.hash()), (weights::hash(&whole), weights::hash(&whole)), "{name}");
    let scalar = |policy: &Policy| ScalarModel::from_policy(policy.clone(), &device);
    assert_eq!(scalar(&mapped).hash(), weights::hash(&scalar(&whole)), "{name}");

    let [whole, mapped] = [whole, mapped].map(|policy| adapted(policy, &device));
    let reader = ResponseReader::new(&SPACE, &device);
    let read = |policy: &Policy| weights::host(reader.logits(policy, &reader.tokens(&batch())));
    assert_eq!(read(&mapped), read(&whole), "{name}");
    assert_ne!(read(&mapped), read(&model.policy(16, &device).unwrap()), "{name}: the adapters change something");
    let written = |policy: &Policy| {
        let mut rng = seeds::derive(5, "test", 0, "draw");
        let drawn = generate(policy, &SPACE, batch().prompts, &mut rng, &device);
        (drawn.responses, drawn.logp)
    };
    assert_eq!(written(&mapped), written(&whole), "{name}");
    assert_eq!(weights::hash(&mapped.clone().merged()), weights::hash(&whole.clone().merged()), "{name}");

    let train = |policy: Policy| adapted(policy.no_grad().train(), &device.clone().autodiff());
    let [of_mapped, of_whole] = [train(mapped.clone()), train(whole)].map(gradient);
    assert!(of_whole.len() > 1000 && of_whole.iter().any(|x| *x != 0.0), "{name}");
    assert_eq!(of_mapped, of_whole, "{name}");
    assert_eq!(gradient(train(mapped).with_recomputed_blocks()), of_whole, "{name}");
}

#[test]
fn other_devices_compose_it_from_operations() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("q8.gguf");
    gguf::write(&path, &llama(), Precision::Q8).unwrap();
    let model = Pretrained::open(&path).unwrap();
    let read = |device: &Device| {
        let reader = ResponseReader::new(&SPACE, device);
        let policy = adapted(model.mapped(16, None, device).unwrap(), device);
        weights::host(reader.logits(&policy, &reader.tokens(&batch())))
    };
    for (a, b) in read(&Device::flex()).into_iter().zip(read(&device::open("ndarray").unwrap())) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
}

#[test]
fn adapters_stay_on_where_the_block_has_an_operation_with_them() {
    let device = Device::flex();
    let opt = Architecture { fused: FusedProjections::default(), ..gpt2().config.architecture };
    let keeps = |policy: Policy| adapted(policy, &device).for_inference().has_lora();
    assert_eq!([llama(), checkpoint(opt), gpt2()].map(|model| keeps(model.policy)), [true, true, false]);
    // matrices that stay in their file are not read into memory for it
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gpt2.gguf");
    gguf::write(&path, &gpt2(), Precision::F16).unwrap();
    let model = Pretrained::open(&path).unwrap();
    let (mapped, whole) = (model.mapped(16, None, &device).unwrap(), model.policy(16, &device).unwrap());
    assert!(keeps(mapped.clone()));
    let reader = ResponseReader::new(&SPACE, &device);
    let read = |policy: Policy| {
        weights::host(reader.logits(&adapted(policy, &device).for_inference(), &reader.tokens(&batch())))
    };
    for (a, b) in read(mapped).into_iter().zip(read(whole)) {
        assert!((a - b).abs() < 1e-5, "{a} and {b}");
    }
}

#[test]
fn matrices_that_are_stored_inputs_first_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    huggingface::write(folder.path(), &gpt2(), FileDType::F32).unwrap();
    let refused = Pretrained::open(folder.path()).unwrap().mapped(16, None, &Device::flex()).unwrap_err();
    assert!(matches!(refused, Error::Unsupported { ref key, .. } if key == "model.mapped"), "{refused}");
}

#[test]
fn a_file_that_was_changed_is_an_error_at_the_next_use() {
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    for (name, what) in [("cut", "bytes and has"), ("grown", "bytes and has"), ("written", "was written to")] {
        let path = folder.path().join(format!("{name}.gguf"));
        gguf::write(&path, &llama(), Precision::F16).unwrap();
        let model = Pretrained::open(&path).unwrap();
        let policy = model.mapped(16, None, &device).unwrap();
        let reader = ResponseReader::new(&SPACE, &device);
        let read =
            || duel_model::catching(|| Ok::<_, Error>(weights::host(reader.logits(&policy, &reader.tokens(&batch())))));
        let before = read().unwrap();
        // replaced by another file: what was opened is still whole
        let away = folder.path().join("away");
        std::fs::rename(&path, &away).unwrap();
        std::fs::write(&path, "another").unwrap();
        assert_eq!(read().unwrap(), before, "{name}");
        std::fs::rename(&away, &path).unwrap();

        let length = std::fs::metadata(&path).unwrap().len();
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        match name {
            "cut" => file.set_len(1).unwrap(),
            "grown" => file.set_len(length + 1).unwrap(),
            _ => file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap(),
        }
        let changed = read().unwrap_err();
        assert!(matches!(changed, Error::Changed { .. }) && changed.to_string().contains(what), "{name}: {changed}");
        let merged = duel_model::catching(|| Ok::<_, Error>(policy.clone().merged())).map(|_| ()).unwrap_err();
        assert!(matches!(merged, Error::Changed { .. }), "{name}: {merged}");
        // and what is read into memory is refused as well
        assert!(matches!(model.policy(16, &device), Err(Error::Changed { .. })), "{name}");
        assert!(matches!(model.mapped(16, None, &device), Err(Error::Changed { .. })), "{name}");
    }
}
