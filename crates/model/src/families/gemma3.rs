//! The text model of Gemma 3: norms on queries and keys, two rotary bases. Gemma Team 2025.

use super::shared::SharedSettings;
use super::shared_gguf::{self, UsualWindows};
use super::{gemma2, llama, qwen3};
use crate::architecture::{Activation, Architecture, NormKind, QueryKeyNorm};
use crate::config::TransformerConfig;
use crate::config_reader::{ConfigReader, THETAS};
use crate::family::{Family, GgufFamily};
use crate::header_reader::HeaderReader;
use crate::rope_settings::RopeDefaults;
use crate::{Result, tensor_names};
use serde_json::{Value, json};

pub(super) const FAMILY: Family = Family {
    model_type: SETTINGS.model_type,
    models: "Gemma 3, the models of text alone",
    read,
    write,
    tensors: &[qwen3::QUERY_KEY_NORMS, gemma2::NORMS, llama::TENSORS],
    inputs_first: false,
    interleaved: false,
    gguf: Some(GgufFamily {
        architecture: "gemma3",
        known: shared_gguf::KNOWN_GEMMA,
        read: read_gguf,
        write: |config, path| shared_gguf::write(&SETTINGS, config, UsualWindows::AllBut(WINDOWS), path),
        tensors: tensor_names::GGUF,
        interleaved: false,
        usual_scale: Some(|config| gemma2::usual_scale(config, LAYERS_27B)),
    }),
};

const SETTINGS: SharedSettings = SharedSettings {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    norm: NormKind::RmsOnePlus,
    activation: "hidden_activation",
    default_activation: Activation::GeluTanh,
    tied: true,
    head_width: Some(256),
    rope: RopeDefaults { theta: 1e6, is_per_layer_type: true, ..RopeDefaults::PLAIN },
    ..SharedSettings::LLAMA
};
/// Base of the rotary positions in layers with a window, in files before transformers 5.
const LOCAL_THETA: &str = "rope_local_base_freq";

fn read(settings: &ConfigReader) -> Result<TransformerConfig> {
    let mut config = gemma2::read_as(&SETTINGS, settings, [None, None])?;
    let architecture = &mut config.architecture;
    architecture.norm.queries_and_keys = QueryKeyNorm::PerHead;
    let pattern = ["sliding_window_pattern", "_sliding_window_pattern"].into_iter();
    let pattern = pattern.filter(|key| !settings.value(key).is_null()).map(|key| settings.size(key)).next();
    architecture.attention.windows = gemma2::read_windows(settings, config.layers, pattern.unwrap_or(Ok(6))?)?;
    if let Some(rotary) = architecture.rotary_mut()
        && rotary.windowed_theta.is_none()
    {
        rotary.windowed_theta = Some(settings.number_or(LOCAL_THETA, THETAS, 10_000.0)?);
    }
    Ok(config)
}

fn write(config: &TransformerConfig) -> Value {
    let mut settings = gemma2::write_own(config);
    settings[LOCAL_THETA] = json!(config.architecture.rotary().and_then(|rotary| rotary.windowed_theta));
    SETTINGS.write(config, settings)
}

/// Each layer of this number has no window.
const WINDOWS: usize = 6;
/// Layers of the model of 27 billion parameters, whose scores are scaled by width / heads.
const LAYERS_27B: usize = 62;

fn read_gguf(settings: &HeaderReader<'_>, width: usize, heads: usize) -> Result<Architecture> {
    let mut architecture = shared_gguf::read(&SETTINGS, settings, [width, heads], Some(10_000.0))?;
    gemma2::read_gguf_as(settings, &mut architecture, [width, heads], LAYERS_27B, [None, None])?;
    architecture.norm.queries_and_keys = QueryKeyNorm::PerHead;
    architecture.attention.windows = shared_gguf::read_windows(settings, UsualWindows::AllBut(WINDOWS))?;
    Ok(architecture)
}
