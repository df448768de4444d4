//! What the golden trainings share: optimizer, models, rows, and the check of the final weights.

use burn::module::Module;
use burn::tensor::Device;
use duel_data::pairs::PreferenceRow;
use duel_model::{Checkpoint, Pretrained, TransformerConfig, weights};
use duel_spec::{LearnerSettings, Schedule, Split, TokenSpec};
use duel_testing::golden::{self, Node, close};
use serde_json::Value;

/// AdamW at a constant rate, as in all golden trainings; as in torch, every parameter decays.
pub fn adamw(clip_norm: Option<f64>, weight_decay: f64) -> LearnerSettings {
    LearnerSettings {
        clip_norm: clip_norm.unwrap_or(f64::INFINITY),
        weight_decay,
        decay_vectors: true,
        schedule: Schedule::Constant,
        warmup: 0.0,
        ..LearnerSettings::defaults()
    }
}

/// A model of the golden directory, by the name that a training gives it.
pub fn checkpoint(name: &Value, device: &Device) -> Checkpoint {
    let folder = golden::folder().join(name.as_str().expect("a model's name"));
    Pretrained::read_checkpoint(&folder, device).unwrap_or_else(|e| panic!("{e}"))
}

/// The token space of a training; BOS is any id that its rows do not use.
pub fn space(vocabulary: usize, [pad, eos]: [u32; 2], prompt_tokens: usize, response_tokens: usize) -> TokenSpec {
    let bos = (0..3).find(|id| ![pad, eos].contains(id)).expect("one of three is neither");
    TokenSpec {
        vocabulary,
        pad,
        bos,
        eos,
        other_eos: vec![],
        prompt_tokens,
        response_tokens,
        allowed_tokens: None,
        force_eos: false,
    }
}

/// The pairs of a training, and their token space.
pub fn pairs(file: &Node, vocabulary: usize) -> (Vec<PreferenceRow>, TokenSpec) {
    let row = |pair: &Node| {
        PreferenceRow::new(
            Split::Train,
            golden::ids(&pair["prompt_ids"]),
            golden::ids(&pair["chosen_ids"]),
            golden::ids(&pair["rejected_ids"]),
        )
    };
    let rows: Vec<PreferenceRow> = file.items("pairs").iter().map(row).collect();
    let prompt = rows.iter().map(|r| r.prompt.len()).max().expect("pairs");
    let response = rows.iter().map(|r| r.chosen.len().max(r.rejected.len())).max().expect("pairs");
    let eos = *rows[0].chosen.last().expect("responses end in EOS"); // of every response, by the file's convention
    let space = space(vocabulary, [file.number("pad_token_id") as u32, eos], prompt, response);
    (rows, space)
}

/// Compares the norm of every parameter after a training, by transformers' names; `score.weight` is that of a scalar head.
pub fn same_norms<M: Module>(what: &str, module: &M, config: &TransformerConfig, scalar: bool, expected: &Node) {
    let expected = expected.fields();
    let parameters = weights::named_params(module);
    assert_eq!(parameters.len(), expected.len(), "{what}: parameters");
    for parameter in parameters {
        let mut name = duel_model::hf_tensor(config, &parameter.name).name;
        if scalar && name == "lm_head.weight" {
            name = "score.weight".into();
        }
        let norm = parameter.values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let expected = expected.get(&name).unwrap_or_else(|| panic!("{what}: no `{name}`"));
        close(&format!("{what}: norm of {name}"), &[norm], &[expected.as_f64().expect("a norm")], 1e-4);
    }
}
