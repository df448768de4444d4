//! LoRA adapters in PEFT's directories.

use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::families::{self, hf_stem, hf_tensor};
use crate::projection::Lora;
use crate::transformer::Policy;
use crate::weight_files::ADAPTER_CONFIG;
use crate::weights::{self, HostTensor, write_synced};
use crate::{Error, Result};
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

const ADAPTER: &str = "adapter_model.safetensors";

/// Writes the adapters of a policy as PEFT does, for the model at `base`; empty: it is not known.
///
/// # Errors
/// [`Error::Lacking`] where the policy has none; adapters of several ranks.
pub fn write_adapter(folder: &Path, config: &TransformerConfig, policy: &Policy, base: &str) -> Result<()> {
    let mut targets = BTreeSet::new();
    let mut sizes = BTreeSet::new();
    let _ = policy.clone().map_projections(|ours, projection| {
        if let Some(lora) = &projection.lora {
            let rank = lora.a.dims()[1];
            let alpha = (lora.scale * rank as f64 * 1e6).round() as u64; // millionths, so that they can be compared
            sizes.insert((rank, alpha));
            let stem = hf_stem(config, &ours);
            targets.insert(stem.rsplit('.').next().unwrap_or_default().to_owned());
        }
        projection
    });
    let path = folder.join(ADAPTER);
    let (rank, alpha) = match sizes.len() {
        0 => return Err(Error::Lacking { name: "lora_A".into() }),
        1 => sizes.into_iter().next().unwrap_or_default(),
        n => {
            let (key, accepted) = ("r".to_owned(), "one rank and scale".to_owned());
            return Err(Error::Unsupported { path, key, found: format!("{n} ranks"), accepted });
        }
    };
    weights::save_some(policy, &path, |ours| ours.contains(".lora.").then(|| hf_tensor(config, ours)))?;
    let json = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": (!base.is_empty()).then_some(base),
        "r": rank,
        "lora_alpha": alpha as f64 / 1e6,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": families::of(config).inputs_first,
        "inference_mode": true,
        "use_dora": false,
        "use_rslora": false,
    });
    write_synced(&folder.join(ADAPTER_CONFIG), format!("{json:#}\n").as_bytes())
}

/// Puts a PEFT LoRA adapter onto a policy.
///
/// # Errors
/// Files that are missing or damaged, settings that are not supported; also a target that the policy does not have.
pub fn read_adapter(folder: &Path, config: &TransformerConfig, policy: Policy, device: &Device) -> Result<Policy> {
    let settings = ConfigReader::open(folder.join(ADAPTER_CONFIG))?;
    settings.only("peft_type", &json!("LORA"))?;
    for key in ["use_dora", "use_rslora", "lora_bias"] {
        settings.unset(key)?;
    }
    for key in ["alpha_pattern", "rank_pattern", "modules_to_save", "layers_to_transform"] {
        settings.unset(key)?;
    }
    settings.only("bias", &json!("none"))?;
    let rank = settings.size("r")?;
    let scale = settings.number("lora_alpha", 1e-6..=1e6)? / rank as f64;
    let path = folder.join(ADAPTER);
    let mut stored: HashMap<String, HostTensor> = weights::to_host(&path)?;
    let mut take = |name: String| stored.remove(&name);
    let mut problem = None;
    let policy = policy.map_projections(|ours, projection| {
        let stem = format!("base_model.model.{}", hf_stem(config, &ours));
        let (a, b) = (take(format!("{stem}.lora_A.weight")), take(format!("{stem}.lora_B.weight")));
        let [inputs, outputs] = projection.dims();
        match (a, b) {
            (Some(a), Some(b)) => {
                for (actual, expected) in [(&a.shape, [rank, inputs]), (&b.shape, [outputs, rank])] {
                    if *actual != expected {
                        problem = Some(Error::Shape { name: stem, found: actual.clone(), expected: expected.into() });
                        return projection;
                    }
                }
                let tensor = |stored: HostTensor, name: &str, rows: usize, columns: usize| {
                    let file_tensor = hf_tensor(config, &format!("{ours}.lora.{name}"));
                    let values =
                        weights::transposed(&file_tensor.rows_from_file(stored.values, columns), rows, columns);
                    Param::from_tensor(Tensor::from_data(TensorData::new(values, [columns, rows]), device))
                };
                projection.with_lora(Lora { a: tensor(a, "a", rank, inputs), b: tensor(b, "b", outputs, rank), scale })
            }
            (None, None) => projection,
            (Some(_), None) => {
                problem = Some(Error::Lacking { name: format!("{stem}.lora_B.weight") });
                projection
            }
            (None, Some(_)) => {
                problem = Some(Error::Lacking { name: format!("{stem}.lora_A.weight") });
                projection
            }
        }
    });
    match (problem, stored.into_keys().min()) {
        (Some(problem), _) => Err(problem),
        (None, Some(name)) => Err(Error::Foreign { path, name }),
        (None, None) => Ok(policy),
    }
}
