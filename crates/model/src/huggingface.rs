//! Hugging Face directories: `config.json`, `model.safetensors` in one piece or several, `tokenizer.json` with what stands
//! beside it, and PEFT adapters. What transformers
//! wrote, [`read`] reads; what [`write`] writes, transformers reads. A setting that the two families do not have is
//! a named error.

use crate::config::{Activation, Family, TransformerConfig};
use crate::pretrained::Pretrained;
use crate::projection::Lora;
use crate::shelf::{FileDType, WeightStore};
use crate::weights::{self, HostTensor};
use crate::{Error, Policy, Result};
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::ops::RangeInclusive;
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
pub struct SpecialTokens {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

/// A directory's model.
#[derive(Debug)]
pub struct Checkpoint {
    pub config: TransformerConfig,
    pub policy: Policy,
    pub words: TokenizerFiles,
}

/// How a model's text becomes ids: passed on as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenizerFiles {
    pub special: SpecialTokens,
    /// What `tokenizer.json` holds; `None` where there is none.
    pub tokenizer: Option<Vec<u8>>,
    /// The chat template, in Jinja.
    pub template: Option<String>,
}

/// Opens a GPT-2 or Llama directory: its settings, and its tensors to be taken one by one.
///
/// # Errors
/// Files that are missing or damaged, settings that are not supported, ids beyond the embedding.
pub(crate) fn open(folder: &Path) -> Result<(TransformerConfig, TokenizerFiles, WeightStore)> {
    let path = folder.join(CONFIG);
    if !path.is_file() && folder.join(ADAPTER_CONFIG).is_file() {
        let accepted = "a model: merge the adapter first (peft: `merge_and_unload`)".into();
        let (key, found) = (CONFIG.into(), format!("nothing, beside an adapter's `{ADAPTER_CONFIG}`"));
        return Err(Error::Unsupported { path: folder.into(), key, found, accepted });
    }
    let settings = ConfigReader::open(path)?;
    let config = settings.config()?;
    let words = tokenizer_files(folder, &settings, config.vocabulary)?;
    let shelf = WeightStore::safetensors(&weight_files(folder)?)?;
    settings.check_head(&config, &shelf)?;
    Ok((config, words, shelf))
}

/// The safetensors files of a directory.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (whole, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    if whole.exists() {
        return Ok(vec![whole]);
    }
    if index.exists() {
        return shards(folder, &ConfigReader::open(index)?);
    }
    let others = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"];
    match others.into_iter().find(|name| folder.join(name).exists()) {
        Some(other) => {
            let (path, key, found) = (folder.into(), WEIGHTS.into(), format!("nothing, beside `{other}`"));
            let accepted =
                format!("safetensors; transformers' `from_pretrained` and `save_pretrained` turn `{other}` into them");
            Err(Error::Unsupported { path, key, found, accepted })
        }
        None => Ok(vec![whole]), // which says that it is missing
    }
}

/// The files that an index names, each once.
fn shards(folder: &Path, index: &ConfigReader) -> Result<Vec<PathBuf>> {
    let map = index.json["weight_map"].as_object();
    let map = map.ok_or_else(|| index.unsupported("weight_map", "the file of each tensor"))?;
    let mut names = BTreeSet::new();
    for file in map.values() {
        // a name beside the index, and nothing that leads elsewhere
        let plain = file.as_str().filter(|name| Path::new(name).file_name().is_some_and(|own| own == *name));
        names.insert(plain.ok_or_else(|| index.unsupported("weight_map", "names of files beside it"))?);
    }
    if names.is_empty() {
        return Err(index.unsupported("weight_map", "the file of each tensor"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Most bytes of a file of settings or of a tokenizer: parsed JSON takes up to sixteen times as much.
const MOST_SETTINGS: u64 = 64 << 20;

/// A file of settings, which is held in memory as a whole.
fn bounded(path: &Path) -> Result<Vec<u8>> {
    let read = |source| Error::Read { path: path.into(), source };
    // a pipe would be waited for, and some devices never end
    if !std::fs::metadata(path).map_err(read)?.is_file() {
        return Err(read(std::io::Error::other("it is not a file")));
    }
    let mut bytes = vec![];
    std::fs::File::open(path).map_err(read)?.take(MOST_SETTINGS + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > MOST_SETTINGS {
        let problem = format!("it has more than {} MiB, which no settings and no tokenizer have", MOST_SETTINGS >> 20);
        return Err(Error::Damaged { path: path.into(), problem });
    }
    Ok(bytes)
}

/// A file that may be absent.
fn optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match bounded(path) {
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

fn parsed(path: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| Error::Damaged { path: path.into(), problem: e.to_string() })
}

/// Settings that may be absent.
fn optional_settings(path: PathBuf) -> Result<ConfigReader> {
    let json = optional(&path)?.map_or(Ok(Value::Null), |bytes| parsed(&path, &bytes))?;
    Ok(ConfigReader { path, json })
}

/// Tokenizer, template and special ids of a directory: the generation's word counts before the model's.
fn tokenizer_files(folder: &Path, config: &ConfigReader, rows: usize) -> Result<TokenizerFiles> {
    let path = folder.join(TOKENIZER);
    let mut tokenizer = optional(&path)?;
    let mut vocabulary = tokenizer.as_ref().map_or(Ok(Value::Null), |bytes| parsed(&path, bytes))?;
    let generation = optional_settings(folder.join(GENERATION))?;
    let settings = optional_settings(folder.join(TOKENIZER_CONFIG))?;
    if tokenizer.is_some() && settings.add_tokens(&mut vocabulary)? {
        tokenizer = Some(vocabulary.to_string().into_bytes());
    }
    let ids = token_ids(&path, &vocabulary)?;
    check_ids(&path, rows, ids.iter().map(|(token, id)| (*id, *token)))?;
    // "eos_token": "</s>" or {"content": "</s>"}
    let named = |key: &str| {
        let token = &settings.json[format!("{key}_token")];
        let text = token.as_str().or_else(|| token["content"].as_str())?;
        ids.get(text).copied()
    };
    let id = |key: &str| {
        let name = format!("{key}_token_id");
        let said = [&generation, config].into_iter().find(|settings| !settings.json[&name].is_null());
        let listed = said.map_or(Ok(vec![]), |settings| settings.ids(&name, rows))?;
        // of several, the one that the tokenizer itself calls so
        Ok(named(key).filter(|own| listed.contains(own)).or(listed.first().copied()).or_else(|| named(key)))
    };
    let special = SpecialTokens { bos: id("bos")?, eos: id("eos")?, pad: id("pad")? };
    let path = folder.join(TEMPLATE);
    let template = match optional(&path)? {
        Some(bytes) => {
            let damaged = |e: std::string::FromUtf8Error| Error::Damaged { path, problem: e.to_string() };
            Some(String::from_utf8(bytes).map_err(damaged)?)
        }
        None => match &settings.json["chat_template"] {
            Value::String(template) => Some(template.clone()),
            Value::Array(several) => {
                let default = several.iter().find(|one| one["name"] == "default").or(several.first());
                default.and_then(|one| one["template"].as_str()).map(str::to_owned)
            }
            Value::Null => None,
            _ => return Err(settings.unsupported("chat_template", "a template, or a list of named ones")),
        },
    };
    Ok(TokenizerFiles { special, tokenizer, template })
}

/// The id of each token of a `tokenizer.json`: those of its model, and those that were added.
fn token_ids<'a>(path: &Path, vocabulary: &'a Value) -> Result<HashMap<&'a str, u32>> {
    let id = |token: &'a str, id: &Value| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok((token, id)),
        None => {
            let (key, found) = (format!("the id of {token:?}"), id.to_string());
            Err(Error::Unsupported { path: path.into(), key, found, accepted: "a whole number from 0 on".into() })
        }
    };
    let mut ids = HashMap::new();
    match &vocabulary["model"]["vocab"] {
        Value::Object(map) => {
            for (token, value) in map {
                ids.extend([id(token, value)?]);
            }
        }
        // pieces with their scores, in the order of their ids
        Value::Array(pieces) => {
            ids.extend(pieces.iter().zip(0..).filter_map(|(piece, id)| Some((piece[0].as_str()?, id))))
        }
        _ => {}
    }
    for token in vocabulary["added_tokens"].as_array().into_iter().flatten() {
        let Some(content) = token["content"].as_str() else { continue };
        ids.extend([id(content, &token["id"])?]);
    }
    Ok(ids)
}

/// Every id has its row of the embedding.
///
/// # Errors
/// [`Error::BeyondEmbedding`], which names the first that has none.
pub(crate) fn check_ids<'a>(path: &Path, rows: usize, ids: impl Iterator<Item = (u32, &'a str)>) -> Result<()> {
    const NAMED: usize = 5;
    let mut beyond: Vec<(u32, &str)> = ids.filter(|(id, _)| *id as usize >= rows).collect();
    if beyond.is_empty() {
        return Ok(());
    }
    beyond.sort_unstable();
    let first = beyond.iter().take(NAMED).map(|(id, token)| (*id, (*token).to_owned())).collect();
    Err(Error::BeyondEmbedding { path: path.into(), rows, count: beyond.len(), first })
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
pub fn write(folder: &Path, checkpoint: &Checkpoint, kind: FileDType) -> Result<()> {
    let Checkpoint { config, policy, words } = checkpoint;
    weights::save_in(kind, policy, &folder.join(WEIGHTS), |ours| Some(hf_name(config, ours)))?;
    let mut json = to_json(config);
    if kind != FileDType::F32 {
        json["dtype"] = json!(if kind == FileDType::F16 { "float16" } else { "bfloat16" });
    }
    let SpecialTokens { bos, eos, pad } = words.special;
    let mut generation = json!({});
    for (key, id) in [("bos_token_id", bos), ("eos_token_id", eos), ("pad_token_id", pad)] {
        json[key] = json!(id);
        generation[key] = json!(id);
    }
    write_file(folder, CONFIG, format!("{json:#}\n").as_bytes())?;
    write_file(folder, GENERATION, format!("{generation:#}\n").as_bytes())?;
    write_tokenizer(folder, config, words)
}

fn write_file(folder: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    weights::write_synced(&folder.join(name), bytes)
}

/// Tokenizer and template, as transformers reads them.
fn write_tokenizer(folder: &Path, config: &TransformerConfig, words: &TokenizerFiles) -> Result<()> {
    let Some(tokenizer) = &words.tokenizer else { return Ok(()) };
    write_file(folder, TOKENIZER, tokenizer)?;
    let vocabulary: Value = serde_json::from_slice(tokenizer).unwrap_or_default();
    let text = |id: Option<u32>| {
        let id = u64::from(id?);
        let mut added = vocabulary["added_tokens"].as_array().into_iter().flatten();
        let own = added.find(|token| token["id"] == id).and_then(|token| token["content"].as_str());
        let of_model = || vocabulary["model"]["vocab"].as_object()?.iter().find(|(_, own)| **own == id);
        own.map(str::to_owned).or_else(|| of_model().map(|(token, _)| token.clone()))
    };
    let SpecialTokens { bos, eos, pad } = words.special;
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
    write_file(folder, TOKENIZER_CONFIG, format!("{settings:#}\n").as_bytes())
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
            let stem = hf_stem(config, &ours);
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
    weights::save_some(policy, &path, |ours| ours.contains(".lora.").then(|| hf_name(config, ours)))?;
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
    write_file(folder, ADAPTER_CONFIG, format!("{json:#}\n").as_bytes())
}

/// Puts a PEFT LoRA adapter onto a policy.
///
/// # Errors
/// As [`read`]; also a target that the policy does not have.
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
    let mut taken = |name: String| stored.remove(&name);
    let mut problem = None;
    let policy = policy.map_projections(|ours, projection| {
        let stem = format!("base_model.model.{}", hf_stem(config, &ours));
        let (a, b) = (taken(format!("{stem}.lora_A.weight")), taken(format!("{stem}.lora_B.weight")));
        let [inputs, outputs] = projection.dims();
        match (a, b) {
            (Some(a), Some(b)) => {
                for (found, expected) in [(&a.shape, [rank, inputs]), (&b.shape, [outputs, rank])] {
                    if *found != expected {
                        problem = Some(Error::Shape { name: stem, found: found.clone(), expected: expected.into() });
                        return projection;
                    }
                }
                let tensor = |stored: HostTensor, rows: usize, columns: usize| {
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
pub fn hf_name(config: &TransformerConfig, ours: &str) -> (String, bool) {
    let ours = canonical_name(ours);
    let (stem, last) = ours.rsplit_once('.').unwrap_or(("", &ours));
    if let Some(projection) = stem.strip_suffix(".lora") {
        let name = format!("base_model.model.{}.lora_{}.weight", hf_stem(config, projection), last.to_uppercase());
        return (name, true);
    }
    let kind = if last == "bias" { "bias" } else { "weight" };
    let is_matrix = !["tokens", "positions", "norm"].contains(&stem) && !stem.contains("norm_");
    let llama = matches!(config.family, Family::Llama { .. });
    // GPT-2's Conv1D keeps [in, out], as burn does
    let transposed = kind == "weight" && is_matrix && (llama || stem == "head");
    (format!("{}.{kind}", hf_stem(config, stem)), transposed)
}

/// A parameter's name without what our fields and variants say twice: `blocks.3.attention.q.weight`.
pub(crate) fn canonical_name(ours: &str) -> String {
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
fn hf_stem(config: &TransformerConfig, ours: &str) -> String {
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
struct ConfigReader {
    path: PathBuf,
    json: Value,
}

impl ConfigReader {
    fn open(path: PathBuf) -> Result<Self> {
        let json = parsed(&path, &bounded(&path)?)?;
        Ok(Self { path, json })
    }

    fn unsupported(&self, key: &str, accepted: &str) -> Error {
        self.unsupported_value(key, &self.json[key], accepted)
    }

    fn unsupported_value(&self, key: &str, value: &Value, accepted: &str) -> Error {
        const SHOWN: usize = 100;
        let mut found = if value.is_null() { "nothing".into() } else { value.to_string() };
        if let Some((cut, _)) = found.char_indices().nth(SHOWN) {
            found.truncate(cut);
            found.push('…');
        }
        Error::Unsupported { path: self.path.clone(), key: key.into(), found, accepted: accepted.into() }
    }

    /// A number within a range.
    fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<f64> {
        number(&self.json[key], &range).ok_or_else(|| self.unsupported(key, &range_text(&range)))
    }

    fn size(&self, key: &str) -> Result<usize> {
        let size = self.json[key].as_u64().filter(|n| SIZES.contains(n)).and_then(|n| usize::try_from(n).ok());
        size.ok_or_else(|| self.unsupported(key, &format!("a size from 1 to {}", SIZES.end())))
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.json[key].is_null() { Ok(default) } else { self.size(key) }
    }

    fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match &self.json[key] {
            Value::Null => Ok(default),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.unsupported(key, "true or false")),
        }
    }

    /// Ids of one token or several, all below the rows of the embedding; −1 is transformers' word for none.
    fn ids(&self, key: &str, rows: usize) -> Result<Vec<u32>> {
        let listed = match &self.json[key] {
            Value::Array(several) => several.iter().collect(),
            one => vec![one],
        };
        let is_said = |value: &&&Value| !value.is_null() && value.as_i64() != Some(-1);
        let id = |value: &&Value| {
            let id = value.as_u64().filter(|id| *id < rows as u64).and_then(|id| u32::try_from(id).ok());
            let accepted = format!("an id below {rows}, which are the rows of the embedding; null or -1 for none");
            id.ok_or_else(|| self.unsupported_value(key, value, &accepted))
        };
        listed.iter().filter(is_said).map(id).collect()
    }

    /// Whether there was any token that these settings of a tokenizer add to what its own file says; they are added to it, as
    /// transformers does.
    fn add_tokens(&self, vocabulary: &mut Value) -> Result<bool> {
        const KEY: &str = "added_tokens_decoder";
        let wanted = match &self.json[KEY] {
            Value::Null => return Ok(false),
            Value::Object(map) => map,
            _ => return Err(self.unsupported(KEY, "tokens by their ids")),
        };
        let known = token_ids(&self.path, vocabulary)?;
        let used: HashSet<u32> = known.values().copied().collect();
        let added = vocabulary["added_tokens"].as_array().into_iter().flatten();
        let added: HashSet<u64> = added.filter_map(|token| token["id"].as_u64()).collect();
        let mut lacking = BTreeMap::new();
        for (id, token) in wanted {
            let content = token["content"].as_str();
            let (Ok(id), Some(content)) = (id.parse::<u32>(), content) else {
                return Err(self.unsupported_value(
                    KEY,
                    &json!({id: token}),
                    "tokens by their ids, each with its content",
                ));
            };
            match known.get(content) {
                Some(own) if *own == id && added.contains(&u64::from(id)) => continue,
                Some(own) if *own == id => {}
                None if !used.contains(&id) => {}
                _ => {
                    let accepted = "the ids that `tokenizer.json` gives";
                    return Err(self.unsupported_value(KEY, &json!({id.to_string(): content}), accepted));
                }
            }
            let mut token = token.clone();
            token["id"] = json!(id);
            for flag in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
                if token[flag].is_null() {
                    token[flag] = json!(false);
                }
            }
            lacking.insert(id, token);
        }
        // tokenizers numbers new tokens from the end of those that are there
        let end = known.values().max().map_or(0, |last| last.saturating_add(1));
        let fresh = lacking.keys().filter(|id| **id >= end);
        if let Some((id, _)) = fresh.zip(end..).find(|(id, next)| *id != next) {
            let accepted = format!("ids one after another, from {end} on, which follow those of `tokenizer.json`");
            return Err(self.unsupported_value(KEY, &json!(id), &accepted));
        }
        let any = !lacking.is_empty();
        if any {
            if !vocabulary["added_tokens"].is_array() {
                vocabulary["added_tokens"] = json!([]);
            }
            if let Some(list) = vocabulary["added_tokens"].as_array_mut() {
                list.extend(lacking.into_values());
                list.sort_by_key(|token| token["id"].as_u64());
            }
        }
        Ok(any)
    }

    /// The head is where the settings say: in the file, or the token embedding.
    fn check_head(&self, config: &TransformerConfig, shelf: &WeightStore) -> Result<()> {
        const KEY: &str = "tie_word_embeddings";
        const HEAD: &str = "lm_head.weight";
        let embedding = hf_stem(config, "tokens");
        let embedding = [format!("{embedding}.weight"), format!("{}.weight", without_prefix(&embedding))];
        let there = shelf.shape(HEAD).is_some();
        if !config.tied && !there {
            let accepted = format!("true where the head is the token embedding; the files hold no `{HEAD}`");
            return Err(self.unsupported(KEY, &accepted));
        }
        let Some(embedding) = embedding.iter().find(|name| shelf.shape(name).is_some()) else { return Ok(()) };
        if config.tied && there && !shelf.is_same(embedding, HEAD)? {
            let accepted =
                format!("false where the head is its own; the files hold a `{HEAD}` that is not `{embedding}`");
            return Err(self.unsupported(KEY, &accepted));
        }
        Ok(())
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
        for key in ["add_cross_attention", "scale_attn_by_inverse_layer_idx", "quantization_config"] {
            self.unset(key)?;
        }
        self.only("scale_attn_weights", &json!(true))?;
        let activation = match &self.json["activation_function"] {
            Value::Null => Activation::GeluTanh,
            name if name == "gelu_new" || name == "gelu_pytorch_tanh" => Activation::GeluTanh,
            name if name == "relu2" => Activation::SquaredRelu,
            _ => return Err(self.unsupported("activation_function", "\"gelu_new\" or \"relu2\"")),
        };
        let (width, heads) = (self.size("n_embd")?, self.size("n_head")?);
        if width % heads != 0 {
            return Err(self.unsupported("n_head", &format!("a divisor of n_embd, {width}")));
        }
        let key = "layer_norm_epsilon";
        let epsilon = if self.json[key].is_null() { 1e-5 } else { self.number(key, EPSILONS)? };
        Ok(TransformerConfig {
            vocabulary: self.size("vocab_size")?,
            context: self.size("n_positions")?,
            layers: self.size("n_layer")?,
            width,
            heads,
            tied: self.flag_or("tie_word_embeddings", true)?,
            family: Family::Gpt2 { activation, inner: self.size_or("n_inner", 4 * width)?, epsilon },
        })
    }

    fn llama(&self) -> Result<TransformerConfig> {
        for key in ["attention_bias", "mlp_bias", "quantization_config"] {
            self.unset(key)?;
        }
        self.only("pretraining_tp", &json!(1))?;
        let act = &self.json["hidden_act"];
        if !(act.is_null() || act == "silu" || act == "swish") {
            return Err(self.unsupported("hidden_act", "\"silu\", which is also \"swish\""));
        }
        let rope_theta = self.rope_theta()?;
        let (width, heads) = (self.size("hidden_size")?, self.size("num_attention_heads")?);
        let key_value_heads = self.size_or("num_key_value_heads", heads)?;
        if heads % key_value_heads != 0 {
            return Err(self.unsupported("num_key_value_heads", &format!("a divisor of num_attention_heads, {heads}")));
        }
        let head_width = self.size_or("head_dim", width / heads)?;
        if head_width == 0 {
            return Err(
                self.unsupported("num_attention_heads", &format!("at most hidden_size, {width}, without head_dim"))
            );
        }
        if head_width % 2 != 0 {
            return Err(self.unsupported("head_dim", "an even size"));
        }
        Ok(TransformerConfig {
            vocabulary: self.size("vocab_size")?,
            context: self.size("max_position_embeddings")?,
            layers: self.size("num_hidden_layers")?,
            width,
            heads,
            tied: self.flag_or("tie_word_embeddings", false)?,
            family: Family::Llama {
                key_value_heads,
                head_width,
                inner: self.size("intermediate_size")?,
                rope_theta,
                epsilon: self.number("rms_norm_eps", EPSILONS)?,
            },
        })
    }

    /// The base of the rotary positions, which nothing else may change: `rope_parameters` as transformers 5 writes them, or
    /// `rope_theta` and `rope_scaling` as those before did.
    fn rope_theta(&self) -> Result<f64> {
        let mut theta = &self.json["rope_theta"];
        let mut key = "rope_theta";
        for block in ["rope_scaling", "rope_parameters"] {
            let rope = match &self.json[block] {
                Value::Null => continue,
                Value::Object(rope) => rope,
                _ => return Err(self.unsupported(block, "no value, or an object")),
            };
            let given = |key: &str| rope.get(key).filter(|value| !value.is_null());
            let (kinds, factor) = (["rope_type", "type"].map(given), given("factor").map(|factor| factor.as_f64()));
            let mut kinds = kinds.into_iter().flatten();
            let plain = match (kinds.clone().next(), factor) {
                (None, factor) => factor.is_none(),
                (_, factor) => kinds.all(|kind| kind == "default" || kind == "linear" && factor == Some(Some(1.0))),
            };
            let plain = plain
                && given("partial_rotary_factor").is_none_or(|share| share.as_f64() == Some(1.0))
                && rope.keys().all(|key| PLAIN_ROPE.contains(&key.as_str()));
            if !plain {
                return Err(self.unsupported(block, "rope_type \"default\", or \"linear\" by a factor of 1"));
            }
            if let Some(own) = given("rope_theta") {
                (theta, key) = (own, block);
            }
        }
        if theta.is_null() {
            return Ok(10_000.0);
        }
        number(theta, &THETAS).ok_or_else(|| self.unsupported_value(key, theta, &range_text(&THETAS)))
    }
}

/// What may be said of rotary positions that are not scaled.
const PLAIN_ROPE: [&str; 6] =
    ["rope_theta", "rope_type", "type", "factor", "partial_rotary_factor", "original_max_position_embeddings"];

/// Sizes that a setting may have.
pub(crate) const SIZES: RangeInclusive<u64> = 1..=1 << 32;
/// What a norm may add to the variance: as f32 it is neither 0 nor drowns what is normed.
pub(crate) const EPSILONS: RangeInclusive<f64> = 1e-30..=1.0;
/// Bases of rotary positions whose powers are numbers of f32.
pub(crate) const THETAS: RangeInclusive<f64> = 1.0..=1e12;

/// A number within a range.
fn number(value: &Value, range: &RangeInclusive<f64>) -> Option<f64> {
    value.as_f64().filter(|x| range.contains(x))
}

/// A range in words.
pub(crate) fn range_text(range: &RangeInclusive<f64>) -> String {
    format!("a number from {:e} to {:e}", range.start(), range.end())
}

/// A base model's own file names its tensors without what the language model puts before them.
pub(crate) fn without_prefix(name: &str) -> &str {
    ["transformer.", "model."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
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
