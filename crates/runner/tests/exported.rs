//! What `scripts/dev/check-export` holds against transformers and peft: models in every form that Duel writes, and the logits that
//! Duel reads from them. It says where they go by `DUEL_EXPORTED`.

#![allow(clippy::unwrap_used)]

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_model::gguf::{self, Precision};
use duel_model::{
    Checkpoint, ClassifierCheckpoint, FileDType, Gpt2, Llama, Policy, Pretrained, ScalarModel, SpecialTokens,
    TokenizerFiles, TransformerConfig, classifier, huggingface, peft, weights,
};
use duel_spec::seeds;
use serde_json::json;
use std::path::{Path, PathBuf};

/// A model with adapters that change something.
fn adapted(policy: Policy, device: &Device) -> Policy {
    let mut rng = seeds::derive(3, "test", 0, "lora");
    let policy = policy.with_fresh_lora(4, 2.0, |_| true, &mut rng, device);
    let some = |i: usize| ((i * 2_654_435_761) % 1000) as f32 / 1000.0 - 0.5;
    let mut offset = 0;
    policy.map_projections(|_, mut projection| {
        if let Some(lora) = &mut projection.lora {
            let shape = lora.b.dims();
            let values: Vec<f32> = (0..shape[0] * shape[1]).map(|i| 0.02 * some(offset + i)).collect();
            offset += values.len();
            lora.b = burn::module::Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device));
        }
        projection
    })
}

/// Logits `[1, L, V]` after some ids.
fn logits(policy: &Policy, ids: &[i32]) -> Vec<f32> {
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [1, ids.len()]), &Device::flex());
    weights::host(policy.logits(tokens, 0))
}

/// One number after each of some ids, `[L]`.
fn scores(model: &ScalarModel, ids: &[i32]) -> Vec<f32> {
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids.to_vec(), [1, ids.len()]), &Device::flex());
    weights::host(model.forward(tokens))
}

/// Writes a model as a directory, as another with an adapter, and, where it can be said, as GGUF.
fn write(folder: &Path, config: &TransformerConfig, tokenizer_files: TokenizerFiles, policy: Policy, ids: &[i32]) {
    let device = Device::flex();
    let worn = adapted(policy.clone(), &device);
    let of = |policy: &Policy| Checkpoint {
        config: config.clone(),
        policy: policy.clone(),
        tokenizer_files: tokenizer_files.clone(),
    };
    let into = |name: &str| {
        let to = folder.join(name);
        std::fs::create_dir_all(&to).unwrap();
        to
    };
    huggingface::write(&into("base"), &of(&policy), FileDType::F32).unwrap();
    peft::write_adapter(&into("adapter"), config, &worn, "base").unwrap();
    let merged = worn.clone().merged();
    huggingface::write(&into("merged"), &of(&merged), FileDType::F32).unwrap();
    let last = |policy: &Policy| logits(policy, ids)[(ids.len() - 1) * config.vocabulary..].to_vec();
    // a reward model on the merged body, which pads with a token of its own and with one that is added
    let head = (0..config.width).map(|i| ((i * 7) % 5) as f32 / 2.0 - 1.0).collect();
    let model = ScalarModel::with_head(merged.clone(), head, &device).with_bias(0.5);
    let rows = [ids, &ids[..ids.len() - 2]];
    let scores: Vec<f32> = rows.iter().map(|row| scores(&model, row)[row.len() - 1] - 0.5).collect();
    for (name, pad) in [("reward", tokenizer_files.special.pad), ("reward-padded", None)] {
        let (config, model, tokenizer_files) = (config.clone(), model.clone(), tokenizer_files.clone());
        let checkpoint = ClassifierCheckpoint { config, model, tokenizer_files, pad, score: Some([0.25, 2.0]) };
        classifier::write(&into(name), checkpoint, FileDType::F32).unwrap();
    }
    let expected = json!({"ids": ids, "base": last(&policy), "worn": last(&worn), "rows": rows, "scores": scores});
    std::fs::write(folder.join("expected.json"), expected.to_string()).unwrap();
    if tokenizer_files.tokenizer.is_some() {
        for (name, precision) in [("f16.gguf", Precision::F16), ("q8.gguf", Precision::Q8)] {
            let path = folder.join(name);
            gguf::write(&path, &of(&merged), precision).unwrap();
            // what was written is read back, with its words
            let again = Pretrained::open(&path).unwrap();
            assert_eq!(again.tokenizer_files.special, tokenizer_files.special);
            let read = again.policy(again.config.context, &device).unwrap();
            let apart = last(&read).iter().zip(last(&merged)).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
            assert!(apart < if precision == Precision::F16 { 0.05 } else { 1.0 }, "{name}: logits {apart} apart");
        }
    }
}

fn folder() -> Option<PathBuf> {
    std::env::var_os("DUEL_EXPORTED").map(PathBuf::from)
}

#[test]
#[ignore = "scripts/dev/check-export runs it"]
fn tiny_models_are_written() {
    let to = folder().unwrap();
    let ids: Vec<i32> = vec![3, 17, 5, 40, 9, 22, 1];
    let llama =
        Llama { key_value_heads: 2, head_width: 8, inner: 48, rope_theta: 5000.0, epsilon: 1e-5 }.architecture();
    let gpt2 = Gpt2 { activation: duel_model::Activation::GeluTanh, inner: 128, epsilon: 1e-5 }.architecture();
    for (name, architecture, tied) in
        [("llama", llama.clone(), true), ("llama-untied", llama, false), ("gpt2", gpt2, true)]
    {
        let config =
            TransformerConfig { vocabulary: 48, context: 24, layers: 2, width: 32, heads: 4, tied, architecture };
        let policy = Policy::new(&config, &mut seeds::derive(1, "test", 0, "init"), &Device::flex()).no_grad();
        let tokenizer_files = TokenizerFiles {
            special: SpecialTokens { bos: Some(1), eos: Some(2), other_eos: vec![], pad: Some(0) },
            tokenizer: None,
            template: None,
        };
        write(&to.join(name), &config, tokenizer_files, policy, &ids);
    }
}

#[test]
#[ignore = "needs scripts/get-data smollm2; scripts/dev/check-export runs it"]
fn a_real_model_is_written() {
    let data = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../data/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf");
    let model = Pretrained::open(&data).unwrap();
    let tokenizer = duel_data::TextTokenizer::from_bytes(model.tokenizer_files.tokenizer.as_ref().unwrap()).unwrap();
    let ids = tokenizer.encode(&["The capital of France is"]).unwrap().remove(0);
    let policy = model.policy(model.config.context, &Device::flex()).unwrap();
    let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
    write(&folder().unwrap().join("smollm2"), &model.config, model.tokenizer_files, policy, &ids);
}
