//! StableLM: Llama with layer norms and partial rotary. Bellagente et al. 2024.

use super::llama;
use super::shared::SharedSettings;
use super::shared_gguf::{self, UsualWindows};
use crate::architecture::{Architecture, NormKind, ResidualOrder};
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::rope_settings::RopeDefaults;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "StableLM 2, StableLM 3B",
    read,
    write,
    tensors: &[llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "stablelm",
        known: shared_gguf::KNOWN_PARALLEL,
        read: read_gguf,
        write: |config, path| {
            Ok([
                shared_gguf::write(&SETTINGS, config, UsualWindows::Unknown, path)?,
                shared_gguf::write_parallel(config),
            ]
            .concat())
        },
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: None,
    }),
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "stablelm",
    class: "StableLmForCausalLM",
    norm: NormKind::Layer,
    epsilon: "layer_norm_eps",
    default_epsilon: 1e-5,
    has_head_dim: false,
    rope: RopeDefaults { fraction: 0.25, is_partial: true, ..RopeDefaults::PLAIN },
    ..SharedSettings::LLAMA
};

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    settings.unset("qk_layernorm")?;
    let mut config = SETTINGS.read(settings)?;
    config.architecture.biases.qkv = settings.flag_or("use_qkv_bias", false)?;
    if settings.flag_or("use_parallel_residual", false)? {
        config.architecture.residual.order = ResidualOrder::ParallelSharedNorm;
    }
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let architecture = &config.architecture;
    let settings = json!({
        "hidden_dropout": 0.0,
        "qk_layernorm": false,
        "use_parallel_residual": architecture.residual.order != ResidualOrder::Serial,
        "use_qkv_bias": architecture.biases.qkv,
    });
    SETTINGS.write(config, settings)
}

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let mut architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], None)?;
    if shared_gguf::read_parallel(settings, false)? {
        architecture.residual.order = ResidualOrder::ParallelSharedNorm;
    }
    Ok(architecture)
}
