//! Arcee: Llama with a plain MLP and a squared ReLU. Arcee AI 2025.

use super::llama;
use super::shared::SharedSettings;
use crate::architecture::Activation;
use crate::family::Family;

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "AFM",
    read: |settings| llama::read_as(&SETTINGS, settings),
    write: |config| SETTINGS.write(config, llama::write_biases(config)),
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: None,
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "arcee",
    class: "ArceeForCausalLM",
    default_epsilon: 1e-5,
    default_activation: Activation::SquaredRelu,
    gated: false,
    ..SharedSettings::LLAMA
};
