//! Hugging Face directories: `config.json`, `model.safetensors` in one piece or several, `tokenizer.json` with what stands
//! beside it, and PEFT adapters. What transformers
//! wrote, [`read`] reads; what [`write`] writes, transformers reads. A setting that the two families do not have is
//! a named error.

use crate::config::{Activation, Family, TransformerConfig};
use crate::pretrained::Pretrained;
use crate::projection::Lora;
use crate::shelf::{Kind, Shelf};
use crate::weights::{self, Stored};
use crate::{Error, Policy, Result};
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const GENERATION: &str = "generation_config.json";
const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER: &str = "adapter_model.safetensors";

/// Ids that a model's tokenizer gives a meaning, where the directory says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Special {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

/// A directory's model.
#[derive(Debug)]
pub struct Checkpoint {
    pub config: TransformerConfig,
    pub policy: Policy,
    pub words: Words,
}

/// How a model's text becomes ids: passed on as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Words {
    pub special: Special,
    /// What `tokenizer.json` holds; `None` where there is none.
    pub tokenizer: Option<Vec<u8>>,
    /// The chat template, in Jinja.
    pub template: Option<String>,
}

/// Opens a GPT-2 or Llama directory: its settings, and its tensors to be taken one by one.
///
/// # Errors
/// Files that are missing or damaged, settings that are not supported.
pub(crate) fn open(folder: &Path) -> Result<(TransformerConfig, Words, Shelf)> {
    let settings = Settings::open(folder.join(CONFIG))?;
    let config = settings.config()?;
    let words = words(folder, &settings.json)?;
    let index = folder.join(INDEX);
    let files = if index.is_file() && !folder.join(WEIGHTS).is_file() {
        shards(folder, &Settings::open(index)?)?
    } else {
        vec![folder.join(WEIGHTS)]
    };
    Ok((config, words, Shelf::safetensors(&files)?))
}

/// The files that an index names, each once.
fn shards(folder: &Path, index: &Settings) -> Result<Vec<PathBuf>> {
    let map = index.json["weight_map"].as_object();
    let map = map.ok_or_else(|| index.unsupported("weight_map", "the file of each tensor"))?;
    let mut names = BTreeSet::new();
    for file in map.values() {
        // a name beside the index, and nothing that leads elsewhere
        let plain = file.as_str().filter(|name| Path::new(name).file_name().is_some_and(|own| own == *name));
        names.insert(plain.ok_or_else(|| index.unsupported("weight_map", "names of files beside it"))?);
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// A file that may be absent.
fn optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.into(), source }),
    }
}

fn optional_json(path: &Path) -> Result<Value> {
    match optional(path)? {
        Some(bytes) => {
            serde_json::from_slice(&bytes).map_err(|e| Error::Damaged { path: path.into(), problem: e.to_string() })
        }
        None => Ok(Value::Null),
    }
}

/// Tokenizer, template and special ids of a directory: the generation's word counts before the model's.
fn words(folder: &Path, config: &Value) -> Result<Words> {
    let path = folder.join(TOKENIZER);
    let tokenizer = optional(&path)?;
    let vocabulary: Value = match &tokenizer {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|e| Error::Damaged { path, problem: e.to_string() })?,
        None => Value::Null,
    };
    let generation = optional_json(&folder.join(GENERATION))?;
    let settings = optional_json(&folder.join(TOKENIZER_CONFIG))?;
    // "eos_token": "</s>" or {"content": "</s>"}
    let named = |key: &str| {
        let token = &settings[format!("{key}_token")];
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        let added = vocabulary["added_tokens"].as_array().into_iter().flatten();
        let id = added.clone().find(|token| token["content"] == text).map(|token| &token["id"]);
        id.unwrap_or(&vocabulary["model"]["vocab"][text]).as_u64().map(|id| id as u32)
    };
    let id = |key: &str| {
        let said = [&generation, config].map(|json| &json[format!("{key}_token_id")]);
        let listed = said.iter().find(|value| !value.is_null()).map_or(vec![], |value| match value {
            Value::Array(ids) => ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect(),
            one => one.as_u64().map(|id| id as u32).into_iter().collect::<Vec<_>>(),
        });
        // of several, the one that the tokenizer itself calls so
        named(key).filter(|own| listed.contains(own)).or(listed.first().copied()).or_else(|| named(key))
    };
    let special = Special { bos: id("bos"), eos: id("eos"), pad: id("pad") };
    let template = match optional(&folder.join(TEMPLATE))? {
        Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        None => match &settings["chat_template"] {
            Value::String(template) => Some(template.clone()),
            Value::Array(several) => {
                let default = several.iter().find(|one| one["name"] == "default").or(several.first());
                default.and_then(|one| one["template"].as_str()).map(str::to_owned)
            }
            _ => None,
        },
    };
    Ok(Words { special, tokenizer, template })
}

/// Reads a GPT-2 or Llama directory.
///
/// # Errors
/// Files that are missing or damaged, settings that are not supported, tensors that do not fit.
pub fn read(folder: &Path, device: &Device) -> Result<Checkpoint> {
    let model = Pretrained::open(folder)?;
    Ok(Checkpoint { policy: model.policy(model.config.context, device)?, config: model.config, words: model.words })
}

/// Writes a directory that transformers reads; matrices and vectors as f32, f16 or bf16.
pub fn write(folder: &Path, checkpoint: &Checkpoint, kind: Kind) -> Result<()> {
    let Checkpoint { config, policy, words } = checkpoint;
    weights::save_in(kind, policy, &folder.join(WEIGHTS), |ours| Some(theirs(config, ours)))?;
    let mut json = to_json(config);
    if kind != Kind::F32 {
        json["dtype"] = json!(if kind == Kind::F16 { "float16" } else { "bfloat16" });
    }
    let Special { bos, eos, pad } = words.special;
    let mut generation = json!({});
    for (key, id) in [("bos_token_id", bos), ("eos_token_id", eos), ("pad_token_id", pad)] {
        json[key] = json!(id);
        generation[key] = json!(id);
    }
    put(folder, CONFIG, format!("{json:#}\n").as_bytes())?;
    put(folder, GENERATION, format!("{generation:#}\n").as_bytes())?;
    write_words(folder, config, words)
}

fn put(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(|source| Error::Write { path, source })
}

/// Tokenizer and template, as transformers reads them.
fn write_words(folder: &Path, config: &TransformerConfig, words: &Words) -> Result<()> {
    let Some(tokenizer) = &words.tokenizer else { return Ok(()) };
    put(folder, TOKENIZER, tokenizer)?;
    let vocabulary: Value = serde_json::from_slice(tokenizer).unwrap_or_default();
    let text = |id: Option<u32>| {
        let id = u64::from(id?);
        let mut added = vocabulary["added_tokens"].as_array().into_iter().flatten();
        let own = added.find(|token| token["id"] == id).and_then(|token| token["content"].as_str());
        let of_model = || vocabulary["model"]["vocab"].as_object()?.iter().find(|(_, own)| **own == id);
        own.map(str::to_owned).or_else(|| of_model().map(|(token, _)| token.clone()))
    };
    let Special { bos, eos, pad } = words.special;
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context,
        "clean_up_tokenization_spaces": false,
    });
    for (key, id) in [("bos_token", bos), ("eos_token", eos), ("pad_token", pad)] {
        if let Some(text) = text(id) {
            settings[key] = json!(text);
        }
    }
    if let Some(template) = &words.template {
        settings["chat_template"] = json!(template);
    }
    put(folder, TOKENIZER_CONFIG, format!("{settings:#}\n").as_bytes())
}

/// Writes the adapters of a policy as PEFT does, to be put onto the model at `base`.
///
/// # Errors
/// [`Error::Lacking`] where the policy wears none; adapters of several ranks.
pub fn write_adapter(folder: &Path, config: &TransformerConfig, policy: &Policy, base: &str) -> Result<()> {
    let mut worn = BTreeSet::new();
    let mut sizes = BTreeSet::new();
    let _ = policy.clone().map_projections(|ours, projection| {
        if let Some(lora) = &projection.lora {
            let rank = lora.a.dims()[1];
            let alpha = (lora.scale * rank as f64 * 1e6).round() as u64; // millionths, so that they can be compared
            sizes.insert((rank, alpha));
            let stem = their_stem(config, &ours);
            worn.insert(stem.rsplit('.').next().unwrap_or_default().to_owned());
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
    weights::save_some(policy, &path, |ours| ours.contains(".lora.").then(|| theirs(config, ours)))?;
    let json = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha as f64 / 1e6,
        "lora_dropout": 0.0,
        "target_modules": worn,
        "bias": "none",
        "fan_in_fan_out": matches!(config.family, Family::Gpt2 { .. }),
        "inference_mode": true,
        "use_dora": false,
        "use_rslora": false,
    });
    put(folder, ADAPTER_CONFIG, format!("{json:#}\n").as_bytes())
}

/// Puts a PEFT LoRA adapter onto a policy.
///
/// # Errors
/// As [`read`]; also a target that the policy does not have.
pub fn read_adapter(folder: &Path, config: &TransformerConfig, policy: Policy, device: &Device) -> Result<Policy> {
    let settings = Settings::open(folder.join(ADAPTER_CONFIG))?;
    settings.only("peft_type", &json!("LORA"))?;
    for key in ["use_dora", "use_rslora", "lora_bias"] {
        settings.unset(key)?;
    }
    for key in ["alpha_pattern", "rank_pattern", "modules_to_save", "layers_to_transform"] {
        settings.unset(key)?;
    }
    settings.only("bias", &json!("none"))?;
    let scale = settings.number("lora_alpha")? / settings.number("r")?;
    let path = folder.join(ADAPTER);
    let mut stored: HashMap<String, Stored> = weights::stored(&path)?;
    let mut taken = |name: String| stored.remove(&name);
    let mut problem = None;
    let policy = policy.map_projections(|ours, projection| {
        let stem = format!("base_model.model.{}", their_stem(config, &ours));
        let (a, b) = (taken(format!("{stem}.lora_A.weight")), taken(format!("{stem}.lora_B.weight")));
        let [inputs, outputs] = projection.dims();
        match (a, b) {
            (Some(a), Some(b)) => {
                let rank = a.shape.first().copied().unwrap_or(0);
                let fits = a.shape == [rank, inputs] && b.shape == [outputs, rank];
                if !fits {
                    problem = Some(Error::Shape { name: stem, found: b.shape, expected: vec![outputs, rank] });
                    return projection;
                }
                let tensor = |stored: Stored, rows: usize, columns: usize| {
                    let values = weights::transposed(&stored.values, rows, columns);
                    Param::from_tensor(Tensor::from_data(TensorData::new(values, [columns, rows]), device))
                };
                projection.with_lora(Lora { a: tensor(a, rank, inputs), b: tensor(b, outputs, rank), scale })
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

/// The name and the orientation of one of our parameters in a Hugging Face file: true where it is stored transposed.
pub fn theirs(config: &TransformerConfig, ours: &str) -> (String, bool) {
    let ours = plain_name(ours);
    let (stem, last) = ours.rsplit_once('.').unwrap_or(("", &ours));
    if let Some(projection) = stem.strip_suffix(".lora") {
        let name = format!("base_model.model.{}.lora_{}.weight", their_stem(config, projection), last.to_uppercase());
        return (name, true);
    }
    let kind = if last == "bias" { "bias" } else { "weight" };
    let is_matrix = !["tokens", "positions", "norm"].contains(&stem) && !stem.contains("norm_");
    let llama = matches!(config.family, Family::Llama { .. });
    // GPT-2's Conv1D keeps [in, out], as burn does
    let transposed = kind == "weight" && is_matrix && (llama || stem == "head");
    (format!("{}.{kind}", their_stem(config, stem)), transposed)
}

/// A parameter's name without what our fields and variants say twice: `blocks.3.attention.q.weight`.
pub(crate) fn plain_name(ours: &str) -> String {
    const SILENT: [&str; 9] =
        ["body", "linear", "Layer", "Rms", "Learned", "SquaredRelu", "GeluTanh", "Gated", "Apart"];
    let ours = ours.replace("inputs.Joint", "qkv").replace("inputs.Apart", "Apart");
    let mut parts: Vec<&str> = ours.split('.').filter(|part| !SILENT.contains(part)).collect();
    if let Some(last) = parts.last_mut() {
        *last = match *last {
            "gamma" => "weight",
            "beta" => "bias",
            other => other,
        };
    }
    parts.join(".")
}

/// `blocks.3.attention.q` as `model.layers.3.self_attn.q_proj`, and so on.
fn their_stem(config: &TransformerConfig, ours: &str) -> String {
    let llama = matches!(config.family, Family::Llama { .. });
    let pick = |gpt2: &str, of_llama: &str| if llama { of_llama.to_owned() } else { gpt2.to_owned() };
    if let Some((layer, part)) = ours.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        let part = match part {
            "norm_attention" => pick("ln_1", "input_layernorm"),
            "norm_mlp" => pick("ln_2", "post_attention_layernorm"),
            "attention.qkv" => "attn.c_attn".into(),
            "attention.q" => "self_attn.q_proj".into(),
            "attention.k" => "self_attn.k_proj".into(),
            "attention.v" => "self_attn.v_proj".into(),
            "attention.out" => pick("attn.c_proj", "self_attn.o_proj"),
            "mlp.gate" => "mlp.gate_proj".into(),
            "mlp.up" => pick("mlp.c_fc", "mlp.up_proj"),
            "mlp.down" => pick("mlp.c_proj", "mlp.down_proj"),
            other => other.to_owned(),
        };
        return format!("{}.{layer}.{part}", pick("transformer.h", "model.layers"));
    }
    match ours {
        "tokens" => pick("transformer.wte", "model.embed_tokens"),
        "positions" => "transformer.wpe".into(),
        "norm" => pick("transformer.ln_f", "model.norm"),
        "head" => "lm_head".into(),
        other => other.to_owned(),
    }
}

/// Tensors of old files that are no parameters: causal masks, rotary tables; and a head that is tied.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.ends_with(".attn.bias")
        || name.ends_with(".attn.masked_bias")
        || name.ends_with("rotary_emb.inv_freq")
        || name == "lm_head.weight"
}

/// A settings file, read key by key so that errors name the key.
struct Settings {
    path: PathBuf,
    json: Value,
}

impl Settings {
    fn open(path: PathBuf) -> Result<Self> {
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        let json =
            serde_json::from_str(&text).map_err(|e| Error::Damaged { path: path.clone(), problem: e.to_string() })?;
        Ok(Self { path, json })
    }

    fn unsupported(&self, key: &str, accepted: &str) -> Error {
        let found = if self.json[key].is_null() { "nothing".into() } else { self.json[key].to_string() };
        Error::Unsupported { path: self.path.clone(), key: key.into(), found, accepted: accepted.into() }
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.json[key].as_f64().filter(|x| *x > 0.0).ok_or_else(|| self.unsupported(key, "a positive number"))
    }

    fn size(&self, key: &str) -> Result<usize> {
        let size =
            self.json[key].as_u64().filter(|n| *n > 0).ok_or_else(|| self.unsupported(key, "a positive size"))?;
        Ok(size as usize)
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.json[key].is_null() { Ok(default) } else { self.size(key) }
    }

    /// The key is absent or has this value.
    fn only(&self, key: &str, value: &Value) -> Result<()> {
        if self.json[key].is_null() || self.json[key] == *value {
            return Ok(());
        }
        Err(self.unsupported(key, &value.to_string()))
    }

    /// The key is absent, null, false or empty.
    fn unset(&self, key: &str) -> Result<()> {
        match &self.json[key] {
            Value::Null | Value::Bool(false) => Ok(()),
            Value::Object(map) if map.is_empty() => Ok(()),
            Value::Array(list) if list.is_empty() => Ok(()),
            _ => Err(self.unsupported(key, "no value")),
        }
    }

    fn config(&self) -> Result<TransformerConfig> {
        match self.json["model_type"].as_str() {
            Some("gpt2") => self.gpt2(),
            Some("llama") => self.llama(),
            _ => Err(self.unsupported("model_type", "\"gpt2\" or \"llama\"")),
        }
    }

    fn gpt2(&self) -> Result<TransformerConfig> {
        for key in ["add_cross_attention", "scale_attn_by_inverse_layer_idx"] {
            self.unset(key)?;
        }
        self.only("scale_attn_weights", &json!(true))?;
        let activation = match self.json["activation_function"].as_str() {
            None | Some("gelu_new" | "gelu_pytorch_tanh") => Activation::GeluTanh,
            Some("relu2") => Activation::SquaredRelu,
            Some(_) => return Err(self.unsupported("activation_function", "\"gelu_new\" or \"relu2\"")),
        };
        let (width, heads) = (self.size("n_embd")?, self.size("n_head")?);
        if width % heads != 0 {
            return Err(self.unsupported("n_head", &format!("a divisor of n_embd, {width}")));
        }
        let epsilon = if self.json["layer_norm_epsilon"].is_null() { 1e-5 } else { self.number("layer_norm_epsilon")? };
        Ok(TransformerConfig {
            vocabulary: self.size("vocab_size")?,
            context: self.size("n_positions")?,
            layers: self.size("n_layer")?,
            width,
            heads,
            tied: self.json["tie_word_embeddings"].as_bool().unwrap_or(true),
            family: Family::Gpt2 { activation, inner: self.size_or("n_inner", 4 * width)?, epsilon },
        })
    }

    fn llama(&self) -> Result<TransformerConfig> {
        for key in ["attention_bias", "mlp_bias", "rope_scaling"] {
            self.unset(key)?;
        }
        self.only("hidden_act", &json!("silu"))?;
        self.only("pretraining_tp", &json!(1))?;
        let rope = &self.json["rope_parameters"];
        if !rope["rope_type"].is_null() && rope["rope_type"] != json!("default") {
            return Err(self.unsupported("rope_parameters", "rope_type \"default\""));
        }
        let theta = [&rope["rope_theta"], &self.json["rope_theta"]].into_iter().find_map(Value::as_f64);
        let (width, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        let key_value_heads = self.size_or("num_key_value_heads", heads)?;
        if heads % key_value_heads != 0 {
            return Err(self.unsupported("num_key_value_heads", &format!("a divisor of num_attention_heads, {heads}")));
        }
        let head_width = self.size_or("head_dim", width / heads)?;
        if head_width % 2 != 0 {
            return Err(self.unsupported("head_dim", "an even size"));
        }
        Ok(TransformerConfig {
            vocabulary: self.size("vocab_size")?,
            context: self.size("max_position_embeddings")?,
            layers: self.size("num_hidden_layers")?,
            width,
            heads,
            tied: self.json["tie_word_embeddings"].as_bool().unwrap_or(false),
            family: Family::Llama {
                key_value_heads,
                head_width,
                inner: self.size("intermediate_size")?,
                rope_theta: theta.unwrap_or(10_000.0),
                epsilon: self.number("rms_norm_eps")?,
            },
        })
    }
}

/// `config.json` as transformers writes it.
fn to_json(config: &TransformerConfig) -> Value {
    match config.family {
        Family::Gpt2 { activation, inner, epsilon } => json!({
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": match activation {
                Activation::SquaredRelu => "relu2",
                Activation::GeluTanh => "gelu_new",
            },
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "layer_norm_epsilon": epsilon,
            "n_embd": config.width,
            "n_head": config.heads,
            "n_inner": inner,
            "n_layer": config.layers,
            "n_positions": config.context,
            "tie_word_embeddings": config.tied,
            "vocab_size": config.vocabulary,
            "dtype": "float32",
        }),
        Family::Llama { key_value_heads, head_width, inner, rope_theta, epsilon } => json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": false,
            "attention_dropout": 0.0,
            "mlp_bias": false,
            "head_dim": head_width,
            "hidden_size": config.width,
            "intermediate_size": inner,
            "max_position_embeddings": config.context,
            "num_attention_heads": config.heads,
            "num_hidden_layers": config.layers,
            "num_key_value_heads": key_value_heads,
            "rms_norm_eps": epsilon,
            "rope_parameters": { "rope_theta": rope_theta, "rope_type": "default" },
            "rope_theta": rope_theta,
            "tie_word_embeddings": config.tied,
            "vocab_size": config.vocabulary,
            "dtype": "float32",
        }),
    }
}
