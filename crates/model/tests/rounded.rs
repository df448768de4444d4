//! A model whose matrices are rounded to bf16 or to 8 bits: what it reads, writes, trains and merges, in memory and from its file.

#![allow(clippy::unwrap_used)]

mod frozen_models;

use burn::module::Module;
use burn::tensor::Device;
use duel_model::{
    Architecture, Checkpoint, FileDType, FrozenNumbers, FusedProjections, Policy, Pretrained, QkvLayout,
    ResponseReader, ScalarModel, TokenizerFiles, TransformerConfig, generate, huggingface, weights,
};
use duel_spec::{TokenSpec, seeds};
use frozen_models::{SPACE, adapted, batch, config, gpt_neox, gpt2, gradient, llama};

const BOTH: [FrozenNumbers; 2] = [FrozenNumbers::Bf16, FrozenNumbers::Q8];

fn models() -> Vec<(&'static str, Architecture, bool)> {
    let phi3 = FusedProjections { qkv: Some(QkvLayout::Stacked), gate_up: true };
    vec![
        ("tied Llama", llama(), true),
        ("Llama", llama(), false),
        ("Phi-3", Architecture { family: "phi3", fused: phi3, ..llama() }, false),
        ("GPT-NeoX", gpt_neox(), false),
        ("GPT-2", gpt2(), true),
    ]
}

fn policy(architecture: Architecture, tied: bool) -> Policy {
    let mut rng = seeds::derive(0, "test", 0, "init");
    Policy::new(&config(architecture, tied), &mut rng, &Device::flex()).no_grad()
}

fn logits(policy: &Policy) -> Vec<f32> {
    let reader = ResponseReader::new(&SPACE, &Device::flex());
    weights::host(reader.logits(policy, &reader.tokens(&batch())))
}

fn logprobs(policy: &Policy) -> Vec<f32> {
    let reader = ResponseReader::new(&SPACE, &Device::flex());
    weights::host(reader.token_logprobs(policy, &reader.tokens(&batch())).unwrap())
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn norm(x: impl Iterator<Item = f32>) -> f64 {
    x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn it_reads_as_in_f32_but_for_rounding() {
    let device = Device::flex();
    for (name, architecture, tied) in models() {
        for numbers in BOTH {
            let whole = policy(architecture.clone(), tied);
            let rounded = whole.clone().rounded(numbers);
            // the same numbers, and as tensors again: products then differ in the rounding of the other side alone
            let merged = rounded.clone().merged();
            assert_eq!(rounded.hash(), weights::hash(&merged), "{name}, {numbers:?}");
            assert_ne!(rounded.hash(), weights::hash(&whole), "{name}, {numbers:?}");
            assert_eq!(weights::shapes(&merged), weights::shapes(&whole), "{name}");
            assert_eq!(rounded.clone().rounded(numbers).hash(), rounded.hash(), "{name}");
            let scalar = |policy: &Policy| ScalarModel::from_policy(policy.clone(), &device);
            assert_eq!(scalar(&rounded).hash(), scalar(&merged).hash(), "{name}");

            let [rounded, merged, whole] = [rounded, merged, whole].map(|policy| adapted(policy, &device));
            let scale = logits(&whole).iter().fold(0f32, |most, x| most.max(x.abs()));
            let (of_x, of_all) =
                (apart(&logits(&rounded), &logits(&merged)), apart(&logits(&rounded), &logits(&whole)));
            assert!(of_x > 0.0 && of_x < 0.01 * scale, "{name}, {numbers:?}: {of_x} of {scale}");
            assert!(of_all > of_x && of_all < 0.02 * scale, "{name}, {numbers:?}: {of_all} of {scale}");
        }
    }
}

#[test]
fn log_probs_are_those_of_its_logits() {
    for (name, architecture, tied) in models() {
        for numbers in BOTH {
            let rounded = adapted(policy(architecture.clone(), tied).rounded(numbers), &Device::flex());
            let (logits, logprobs, batch) = (logits(&rounded), logprobs(&rounded), batch());
            for (row, response) in batch.responses.iter().enumerate() {
                for (column, &token) in response.iter().enumerate() {
                    let law = &logits[(row * SPACE.response_tokens + column) * SPACE.vocabulary..][..SPACE.vocabulary];
                    let log_z = law.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
                    let expected = f64::from(law[token as usize]) - log_z;
                    let actual = f64::from(logprobs[row * SPACE.response_tokens + column]);
                    assert!((actual - expected).abs() < 1e-5, "{name}, {numbers:?}: {actual}, {expected}");
                }
            }
        }
    }
}

/// The largest difference of the log-probs that responses were written with from those that are read.
fn written_apart(policy: &Policy, space: &TokenSpec, prompts: Vec<Vec<u32>>) -> f32 {
    let device = Device::flex();
    let reader = ResponseReader::new(space, &device);
    let written = generate(policy, space, prompts, &mut seeds::derive(5, "test", 0, "draw"), &device);
    let read = weights::host(reader.token_logprobs(policy, &reader.tokens(&written)).unwrap());
    let rows = written.logp.iter().zip(read.chunks_exact(space.response_tokens));
    rows.flat_map(|(logp, read)| logp.iter().zip(read).map(|(a, b)| (a - b).abs())).fold(0.0, f32::max)
}

#[test]
fn it_writes_with_the_log_probs_that_it_reads() {
    for (name, architecture, tied) in models() {
        for numbers in BOTH {
            let rounded = adapted(policy(architecture.clone(), tied).rounded(numbers), &Device::flex());
            let apart = written_apart(&rounded, &SPACE, vec![vec![5, 17], vec![5, 11, 12, 38], vec![7]]);
            assert!(apart < 2e-6, "{name}, {numbers:?}: {apart}");
        }
    }
}

/// Sums over keys run in parts of 256, which begin where a block of queries begins to see.
#[test]
fn long_sequences_too_with_and_without_windows() {
    let space = TokenSpec { prompt_tokens: 70, response_tokens: 560, eos: 40, ..SPACE };
    for windows in [vec![], vec![Some(270), Some(300)], vec![Some(7), None]] {
        let mut architecture = llama();
        architecture.attention.windows = windows.clone();
        let config = TransformerConfig { context: 640, ..config(architecture, true) };
        let mut rng = seeds::derive(0, "test", 0, "init");
        let rounded = Policy::new(&config, &mut rng, &Device::flex()).no_grad().rounded(FrozenNumbers::Bf16);
        let prompts = vec![(0..70).map(|i| 3 + i % 30).collect(), vec![5, 9, 11]];
        let apart = written_apart(&adapted(rounded, &Device::flex()), &space, prompts);
        assert!(apart < 2e-6, "{windows:?}: {apart}");
    }
}

#[test]
fn its_adapters_have_the_gradient_of_f32_but_for_rounding() {
    let device = Device::flex().autodiff();
    for (name, architecture, tied) in models() {
        for numbers in BOTH {
            let whole = policy(architecture.clone(), tied);
            let of_whole = gradient(adapted(whole.clone().train(), &device));
            let rounded = adapted(whole.rounded(numbers).train(), &device);
            let of_rounded = gradient(rounded.clone());
            assert!(of_whole.len() > 1000 && of_rounded.len() == of_whole.len(), "{name}");
            let difference = norm(of_whole.iter().zip(&of_rounded).map(|(a, b)| a - b));
            let share = difference / norm(of_whole.iter().copied());
            assert!(share > 1e-6 && share < 0.03, "{name}, {numbers:?}: {share}");
            assert_eq!(gradient(rounded.clone().with_logits_memory(1 << 20)), of_rounded, "{name}, {numbers:?}");
            assert_eq!(gradient(rounded.with_recomputed_blocks()), of_rounded, "{name}, {numbers:?}");
        }
    }
}

#[test]
fn from_its_file_it_is_the_same_in_memory_and_mapped() {
    let device = Device::flex();
    for (name, architecture, tied) in models() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(architecture.clone(), tied);
        let checkpoint = Checkpoint {
            policy: policy(architecture, tied),
            tokenizer_files: TokenizerFiles { special: Default::default(), tokenizer: None, template: None },
            config,
        };
        huggingface::write(folder.path(), &checkpoint, FileDType::Bf16).unwrap();
        let model = Pretrained::open(folder.path()).unwrap();
        let whole = model.policy(16, &device).unwrap();
        for numbers in BOTH {
            let rounded = model.rounded(16, numbers, &device).unwrap();
            assert_eq!(rounded.hash(), whole.clone().rounded(numbers).hash(), "{name}, {numbers:?}");
            assert_eq!(logits(&rounded), logits(&whole.clone().rounded(numbers)), "{name}, {numbers:?}");
            if numbers == FrozenNumbers::Bf16 {
                assert_eq!(rounded.hash(), whole.hash(), "{name}: bf16 in bf16 loses nothing");
            }
            if let Ok(mapped) = model.mapped(16, Some(numbers), &device) {
                assert_eq!(mapped.hash(), rounded.hash(), "{name}, {numbers:?}");
                assert_eq!(logits(&mapped), logits(&rounded), "{name}, {numbers:?}");
                assert_eq!(logprobs(&mapped), logprobs(&rounded), "{name}, {numbers:?}");
            }
        }
    }
}

#[test]
fn drawn_or_merged_layer_by_layer_it_is_the_same() {
    let device = Device::flex();
    for (name, architecture, tied) in models() {
        let config = config(architecture.clone(), tied);
        for numbers in BOTH {
            let mut rng = seeds::derive(0, "test", 0, "init");
            let drawn = Policy::new_rounded(&config, &mut rng, numbers, &device);
            assert_eq!(drawn.hash(), policy(architecture.clone(), tied).rounded(numbers).hash(), "{name}, {numbers:?}");
        }
        let rounded = policy(architecture.clone(), tied).rounded(FrozenNumbers::Bf16);
        let adapted = adapted(rounded.clone(), &device);
        let merged = adapted.clone().merged_and_rounded(FrozenNumbers::Bf16);
        assert_eq!(merged.hash(), adapted.merged().rounded(FrozenNumbers::Bf16).hash(), "{name}");
        assert!(!merged.has_lora() && merged.hash() != rounded.hash(), "{name}");
    }
}

#[test]
fn what_is_not_finite_is_refused_as_it_is_rounded() {
    let device = Device::flex();
    for tied in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint {
            policy: policy(llama(), tied),
            tokenizer_files: TokenizerFiles { special: Default::default(), tokenizer: None, template: None },
            config: config(llama(), tied),
        };
        huggingface::write(folder.path(), &checkpoint, FileDType::F32).unwrap();
        let path = folder.path().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let weights = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for name in weights.names().into_iter().filter(|name| !name.contains("norm")) {
            let data = weights.tensor(name).unwrap().data();
            let at = data.as_ptr() as usize - bytes.as_ptr() as usize + data.len() / 8 * 4;
            let mut damaged = bytes.clone();
            damaged[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
            std::fs::write(&path, damaged).unwrap();
            let model = Pretrained::open(folder.path()).unwrap();
            for error in [model.policy(16, &device), model.rounded(16, FrozenNumbers::Bf16, &device)].map(Result::err) {
                let expected = format!("number {} of `{name}` is NaN", data.len() / 8);
                let actual = error.map(|error| error.to_string()).unwrap_or_default();
                assert!(actual.contains(&expected), "{actual}, expected {expected}");
            }
        }
    }
}
