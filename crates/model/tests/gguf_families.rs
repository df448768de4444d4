//! Models of every family that GGUF has a name for are written to such files and read back the same.

#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_model::gguf::{self, Precision};
use duel_model::{
    Architecture, AttentionSpec, Checkpoint, Error, Llama, Policy, Pretrained, RopeScaling, TransformerConfig, weights,
};
use duel_testing::golden;
use std::path::Path;

/// Families of the golden checkpoints for which GGUF has no name.
fn is_without_gguf(family: &str) -> bool {
    duel_model::families().any(|names| names.model_type == family && names.gguf.is_none())
}

fn checkpoints() -> Vec<(String, Checkpoint)> {
    let entries = std::fs::read_dir(golden::folder().join("families")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| !name.ends_with("_reward"));
    names.sort();
    assert!(names.len() >= 19, "{names:?}");
    let read = |name: String| {
        let folder = golden::folder().join("families").join(&name);
        let checkpoint = Pretrained::read_checkpoint(&folder, &Device::flex()).unwrap();
        (name, checkpoint)
    };
    names.into_iter().map(read).collect()
}

/// Logits of a few tokens, `[1, L, V]`.
fn logits(policy: &Policy, vocabulary: usize) -> Vec<f32> {
    let ids: Vec<i32> = (0..24).map(|i| (i * 31 + 5) % vocabulary as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, 24]), &Device::flex());
    weights::host(policy.logits(ids, 0))
}

#[test]
fn families_are_read_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    for (name, checkpoint) in checkpoints() {
        let path = folder.path().join(format!("{name}.gguf"));
        let written = gguf::write(&path, &checkpoint, Precision::F32);
        if is_without_gguf(checkpoint.config.architecture.family) {
            let refused = written.unwrap_err();
            assert!(
                matches!(refused, Error::Unsupported { ref key, .. } if key == "general.architecture"),
                "{refused}"
            );
            continue;
        }
        written.unwrap();
        let model = Pretrained::open(&path).unwrap();
        let (before, after) = (&checkpoint.config, &model.config);
        assert_eq!(after.architecture.family, before.architecture.family, "{name}");
        assert_eq!((after.context, after.layers, after.tied), (before.context, before.layers, before.tied), "{name}");
        let expected = logits(&checkpoint.policy, before.vocabulary);
        let policy = model.policy(after.context, &Device::flex()).unwrap();
        let apart = |actual: Vec<f32>| {
            assert_eq!(actual.len(), expected.len());
            actual.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        let most = apart(logits(&policy, before.vocabulary));
        assert!(most < 1e-5, "{name}: logits {most:e} apart");
        // and again: what was read is what is written
        let again = folder.path().join("again.gguf");
        gguf::write(
            &again,
            &Checkpoint { config: model.config.clone(), policy, tokenizer_files: model.tokenizer_files.clone() },
            Precision::F32,
        )
        .unwrap();
        let second = Pretrained::open(&again).unwrap();
        assert_eq!(second.config, *after, "{name}");
        if let Ok(mapped) = model.mapped(after.context, None, &Device::flex()) {
            let most = apart(logits(&mapped, before.vocabulary));
            assert!(most < 1e-5, "{name}: mapped, logits {most:e} apart");
        }
    }
}

#[test]
fn the_scaling_of_llama_3_is_recognised_by_its_factors() {
    let (_, checkpoint) = checkpoints().into_iter().find(|(name, _)| name == "llama3").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    gguf::write(&path, &checkpoint, Precision::F32).unwrap();
    let scaling = |path: &Path| Pretrained::open(path).unwrap().config.architecture.rotary().unwrap().scaling.clone();
    let rope_scaling = checkpoint.config.architecture.rotary().unwrap().scaling.clone();
    assert!(matches!(rope_scaling, RopeScaling::Llama3 { .. }));
    assert_eq!(scaling(&path), rope_scaling);
}

/// Writes each family to `$DUEL_EXPORTED/NAME.gguf`, for `scripts/dev/check-gguf`.
#[test]
#[ignore = "for scripts/dev/check-gguf"]
fn families_are_written() {
    let to = std::env::var("DUEL_EXPORTED").unwrap();
    for (name, checkpoint) in checkpoints() {
        if !is_without_gguf(checkpoint.config.architecture.family) {
            gguf::write(&Path::new(&to).join(format!("{name}.gguf")), &checkpoint, Precision::F32).unwrap();
        }
    }
}

#[test]
fn what_llama_cpp_computes_otherwise_is_said() {
    let llama = Llama { key_value_heads: 2, head_width: 8, inner: 24, rope_theta: 1e4, epsilon: 1e-5 }.architecture();
    let of = |family: &'static str, window: usize, scale: Option<f64>| {
        let attention = AttentionSpec { windows: vec![Some(window); 2], scale, ..llama.attention.clone() };
        let architecture = Architecture { family, attention, ..llama.clone() };
        let (layers, width, heads) = (2, 32, 4);
        let config = TransformerConfig { vocabulary: 40, context: 16, layers, width, heads, tied: true, architecture };
        gguf::llama_cpp_differences(&config)
    };
    assert!(of("mistral", 5, None)[0].contains("more than 5 tokens"));
    assert!(of("phi3", 5, None)[0].contains("phi3"));
    assert!(of("gemma2", 5, Some(0.25))[0].contains("by 0.3536, the model by 0.2500"));
    for (family, window, scale) in
        [("mistral", 16, None), ("gemma2", 5, Some(8f64.powf(-0.5))), ("gemma2", 5, None), ("granite", 16, Some(0.1))]
    {
        assert_eq!(of(family, window, scale), Vec::<String>::new(), "{family}");
    }
}
