//! Hugging Face directories: `config.json`, `model.safetensors` in one piece or several, and the tokenizer's files. What
//! transformers wrote is read; what [`write`] writes, transformers reads.

use crate::architecture::Architecture;
use crate::checkpoint::Checkpoint;
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::families::{self, hf_stem, hf_tensor};
use crate::file_dtype::FileDType;
use crate::file_tensor::FileTensor;
use crate::tokenizer_files::{self, GENERATION, SpecialTokens, TokenizerFiles};
use crate::transformer::ScalarModel;
use crate::weight_files::{has_adapter, in_place_of_settings, weight_files};
use crate::weight_store::WeightStore;
use crate::weights::{self, write_synced};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::path::Path;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// A directory's model, tokenizer and tensors, and those of its settings that are not used.
type OpenedDirectory = (TransformerConfig, TokenizerFiles, WeightStore, Vec<String>);

/// Opens a directory: its settings, and its tensors to be taken one by one.
///
/// # Errors
/// Files that are missing or damaged, settings that are not supported, ids beyond the embedding.
pub(crate) fn open(folder: &Path) -> Result<OpenedDirectory> {
    let (settings, config, tokenizer_files, store) = read(folder)?;
    if is_classifier(&settings) {
        let accepted = "a language model; a sequence classifier is a reward model: `stages.rm.from` or `judge.model`";
        return Err(settings.unsupported("architectures", accepted));
    }
    check_head(&settings, &config, &store)?;
    Ok((config, tokenizer_files, store, ignored(folder, &settings)?))
}

/// Settings of a directory that are not used, and an adapter that stands beside the model.
fn ignored(folder: &Path, settings: &ConfigReader) -> Result<Vec<String>> {
    let mut ignored = settings.ignored();
    ignored.extend(tokenizer_files::ignored(folder)?);
    ignored.extend(has_adapter(folder).then(|| "the adapter that stands beside the model".into()));
    Ok(ignored)
}

/// A sequence classifier with one label.
pub(crate) struct ClassifierFiles {
    pub(crate) config: TransformerConfig,
    pub(crate) tokenizer_files: TokenizerFiles,
    pub(crate) store: WeightStore,
    /// As of [`open`].
    pub(crate) ignored: Vec<String>,
    /// What its head is called.
    pub(crate) head: String,
    pub(crate) pad: Option<u32>,
}

/// Opens a sequence classifier with one label.
///
/// # Errors
/// As [`open`]; a model that is no classifier, or has not one label.
pub(crate) fn open_classifier(folder: &Path) -> Result<ClassifierFiles> {
    let (settings, config, tokenizer_files, store) = read(folder)?;
    let heads: Vec<&str> = HEADS.into_iter().filter(|head| store.shape(&format!("{head}.weight")).is_some()).collect();
    let [head] = heads[..] else {
        let accepted = "a sequence classifier, with one head: `score.weight` or `classifier.weight`";
        return Err(match heads.len() {
            0 => settings.unsupported("architectures", accepted),
            _ => settings.unsupported_value("architectures", &json!(heads), accepted),
        });
    };
    check_labels(&settings)?;
    let pad = settings.ids("pad_token_id", config.vocabulary)?.first().copied();
    // whatever the settings say of a head over the vocabulary, there is none
    Ok(ClassifierFiles {
        config: TransformerConfig { tied: true, ..config },
        tokenizer_files,
        ignored: ignored(folder, &settings)?,
        store,
        head: head.into(),
        pad,
    })
}

/// What transformers calls the heads of sequence classifiers.
const HEADS: [&str; 2] = ["score", "classifier"];

/// Whether a directory's settings say that it holds a sequence classifier; not, where there are none that can be read.
pub(crate) fn holds_classifier(folder: &Path) -> bool {
    ConfigReader::open(folder.join(CONFIG)).is_ok_and(|settings| is_classifier(&settings))
}

fn is_classifier(settings: &ConfigReader) -> bool {
    let names = settings.value("architectures").as_array().into_iter().flatten().filter_map(Value::as_str);
    names.into_iter().any(|name| name.ends_with("ForSequenceClassification"))
}

/// One label: transformers counts those of `id2label`, and writes two of them as nothing.
fn check_labels(settings: &ConfigReader) -> Result<()> {
    let accepted = "one label, as a reward model has";
    settings.only("num_labels", &json!(1))?;
    match (settings.value("id2label"), settings.value("num_labels")) {
        (Value::Object(labels), _) if labels.len() == 1 => {}
        (Value::Null, number) if *number == 1 => {}
        _ => return Err(settings.unsupported("id2label", accepted)),
    }
    // it chooses transformers' own loss, and changes no score
    let known = ["regression", "single_label_classification", "multi_label_classification"];
    match settings.value("problem_type") {
        Value::Null => Ok(()),
        Value::String(kind) if known.contains(&kind.as_str()) => Ok(()),
        _ => Err(settings.unsupported("problem_type", &format!("no value, or one of {}", known.join(", ")))),
    }
}

/// Settings, tokenizer and tensors of a directory.
fn read(folder: &Path) -> Result<(ConfigReader, TransformerConfig, TokenizerFiles, WeightStore)> {
    let path = folder.join(CONFIG);
    if folder.is_dir() && !path.exists() {
        return Err(in_place_of_settings(folder, path));
    }
    let settings = ConfigReader::open(path)?;
    let config = read_config(&settings)?;
    let store = WeightStore::safetensors(&weight_files(folder)?)?;
    check_vocabulary(&settings, &config, &store)?;
    check_biases(&settings, &config, &store)?;
    let tokenizer_files = tokenizer_files::read_directory(folder, &settings, config.vocabulary)?;
    Ok((settings, config, tokenizer_files, store))
}

/// The model that `config.json` describes.
fn read_config(settings: &ConfigReader) -> Result<TransformerConfig> {
    let model_type = settings.value("model_type").as_str();
    match model_type.and_then(families::by_model_type) {
        Some(family) => (family.read)(settings),
        None => Err(Error::Unsupported {
            path: settings.path.clone(),
            key: "model_type".into(),
            found: match settings.value("model_type") {
                Value::Null => "nothing".into(),
                value => format!("{value}{}", kind_of_other(&settings.json)),
            },
            accepted: families::model_types(),
        }),
    }
}

/// What a model of no family here is, by its settings; empty where they do not say.
fn kind_of_other(settings: &Value) -> &'static str {
    let model_type = settings["model_type"].as_str().unwrap_or_default();
    let has = |keys: &[&str]| keys.iter().any(|key| !settings[*key].is_null());
    let is = |parts: &[&str]| parts.iter().any(|part| model_type.contains(part));
    if has(&["vision_config", "audio_config", "vision_tower"]) || is(&["_vl", "llava", "omni"]) {
        ", which reads images or sound"
    } else if has(&["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"])
        || is(&["moe", "mixtral"])
    {
        ", a mixture of experts"
    } else if has(&["linear_conv_kernel_dim", "mamba_d_state", "ssm_cfg", "state_size"]) || is(&["mamba", "rwkv"]) {
        ", with linear attention or a state space"
    } else if settings["is_encoder_decoder"] == true {
        ", an encoder with a decoder"
    } else if has(&["auto_map"]) {
        ", code that comes with the model"
    } else {
        ""
    }
}

/// `config.json` as transformers writes it, which describes all of the model.
fn write_config(folder: &Path, config: &TransformerConfig) -> Result<Value> {
    let family = families::of(config);
    let settings = ConfigReader::new(folder.join(CONFIG), (family.write)(config));
    if (family.read)(&settings)? != *config {
        let accepted = format!("what a {} is", family.model_type);
        let value = format!("{:?}, which it has no setting for", config.architecture);
        return Err(Error::Unsupported { path: settings.path, key: "architecture".into(), found: value, accepted });
    }
    Ok(settings.json)
}

/// What the files call the token embedding, as a language model or as a base model does.
fn embedding(config: &TransformerConfig, store: &WeightStore) -> Option<String> {
    let stem = hf_stem(config, "tokens");
    let names = [format!("{stem}.weight"), format!("{}.weight", without_prefix(&stem))];
    names.into_iter().find(|name| store.shape(name).is_some())
}

/// The vocabulary is as large as the embedding.
fn check_vocabulary(settings: &ConfigReader, config: &TransformerConfig, store: &WeightStore) -> Result<()> {
    let Some(name) = embedding(config, store) else { return Ok(()) };
    match store.shape(&name) {
        Some([rows, _]) if *rows != config.vocabulary => {
            Err(settings.unsupported("vocab_size", &format!("{rows}, the rows of `{name}`")))
        }
        _ => Ok(()),
    }
}

/// Where settings say whether maps have biases, the files hold them or not.
fn check_biases(settings: &ConfigReader, config: &TransformerConfig, store: &WeightStore) -> Result<()> {
    let Architecture { biases, fused, .. } = &config.architecture;
    let qkv = if fused.qkv.is_some() { "blocks.0.attention.qkv" } else { "blocks.0.attention.q" };
    let flags: [(&[&str], &str, bool); 3] = [
        (&["attention_bias", "use_qkv_bias", "use_bias"], qkv, biases.qkv),
        (&["attention_out_bias", "attention_bias", "use_bias"], "blocks.0.attention.out", biases.out),
        (&["mlp_bias", "use_bias"], "blocks.0.mlp.down", biases.mlp),
    ];
    for (keys, stem, is_set) in flags {
        let Some(key) = keys.iter().find(|key| settings.is_read(key)) else { continue };
        let stem = hf_stem(config, stem);
        let [name, short] = [stem.as_str(), without_prefix(&stem)].map(|stem| format!("{stem}.bias"));
        let is_there = [&name, &short].iter().any(|name| store.shape(name).is_some());
        if is_set != is_there {
            let accepted = if is_there { "true: the files hold" } else { "false: the files hold no" };
            return Err(settings.unsupported(key, &format!("{accepted} `{name}`")));
        }
    }
    Ok(())
}

/// The head is where the settings say: in the file, or the token embedding.
fn check_head(settings: &ConfigReader, config: &TransformerConfig, store: &WeightStore) -> Result<()> {
    const KEY: &str = "tie_word_embeddings";
    let head = format!("{}.weight", hf_stem(config, "head"));
    let has_head = store.shape(&head).is_some();
    if !config.tied && !has_head {
        let accepted = format!("true where the head is the token embedding; the files hold no `{head}`");
        return Err(settings.unsupported(KEY, &accepted));
    }
    let Some(embedding) = embedding(config, store) else { return Ok(()) };
    if config.tied && has_head && !store.is_same(&embedding, &head)? {
        let accepted = format!("false where the head is its own; the files hold a `{head}` that is not `{embedding}`");
        return Err(settings.unsupported(KEY, &accepted));
    }
    Ok(())
}

/// Writes a directory that transformers reads; matrices and vectors as f32, f16 or bf16.
pub fn write(folder: &Path, checkpoint: &Checkpoint, kind: FileDType) -> Result<()> {
    let Checkpoint { config, policy, tokenizer_files } = checkpoint;
    let mut json = write_config(folder, config)?;
    weights::save_in(kind, policy, &folder.join(WEIGHTS), |ours| Some(hf_tensor(config, ours)))?;
    if kind != FileDType::F32 {
        json["dtype"] = json!(if kind == FileDType::F16 { "float16" } else { "bfloat16" });
    }
    let SpecialTokens { bos, eos, ref other_eos, pad } = tokenizer_files.special;
    let eos = if other_eos.is_empty() { json!(eos) } else { json!(tokenizer_files.special.eos_ids()) };
    let mut generation = json!({});
    for (key, id) in [("bos_token_id", json!(bos)), ("eos_token_id", eos), ("pad_token_id", json!(pad))] {
        json[key] = id.clone();
        generation[key] = id;
    }
    write_synced(&folder.join(CONFIG), format!("{json:#}\n").as_bytes())?;
    write_synced(&folder.join(GENERATION), format!("{generation:#}\n").as_bytes())?;
    tokenizer_files::write_directory(folder, config.context, tokenizer_files)
}

/// The class of a family's sequence classifiers, after that of its language models; `None` where transformers has none.
fn classifier_class(settings: &Value) -> Option<String> {
    let class = settings["architectures"][0].as_str()?;
    let stem = ["ForCausalLM", "LMHeadModel"].iter().find_map(|end| class.strip_suffix(end))?;
    let stem = match settings["model_type"].as_str()? {
        "granite" | "vaultgemma" | "cwm" | "ernie4_5" => return None,
        "gemma3_text" => "Gemma3Text", // whose Gemma3ForSequenceClassification also sees images
        _ => stem,
    };
    Some(format!("{stem}ForSequenceClassification"))
}

/// Writes a directory that transformers reads as a sequence classifier; `labels` adds what its settings say of it.
///
/// # Errors
/// A family of which transformers has no classifier.
pub(crate) fn write_classifier(
    folder: &Path,
    config: &TransformerConfig,
    model: &ScalarModel,
    tokenizer_files: &TokenizerFiles,
    kind: FileDType,
    labels: impl FnOnce(&mut Value),
) -> Result<()> {
    let mut json = write_config(folder, config)?;
    let class = classifier_class(&json).ok_or_else(|| {
        let (key, value) = ("model_type".into(), json["model_type"].to_string());
        let accepted = "a family of which transformers has a sequence classifier".into();
        Error::Unsupported { path: folder.into(), key, found: value, accepted }
    })?;
    let naming = |ours: &str| match ours {
        "head.weight" => Some(FileTensor::new("score.weight".to_owned(), true)),
        "head.bias" => None,
        ours => Some(hf_tensor(config, ours)),
    };
    weights::save_in(kind, model, &folder.join(WEIGHTS), naming)?;
    json["architectures"] = json!([class]);
    if kind != FileDType::F32 {
        json["dtype"] = json!(if kind == FileDType::F16 { "float16" } else { "bfloat16" });
    }
    let SpecialTokens { bos, eos, .. } = tokenizer_files.special;
    (json["bos_token_id"], json["eos_token_id"]) = (json!(bos), json!(eos));
    labels(&mut json);
    write_synced(&folder.join(CONFIG), format!("{json:#}\n").as_bytes())?;
    tokenizer_files::write_directory(folder, config.context, tokenizer_files)
}

/// Tensors of old files that are no parameters: causal masks, rotary tables; and a head that is tied.
pub(crate) fn is_buffer(name: &str) -> bool {
    const BUFFERS: [&str; 5] =
        [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"];
    BUFFERS.iter().any(|end| name.ends_with(end)) || ["lm_head.weight", "embed_out.weight"].contains(&name)
}

/// A base model's own file names its tensors without what the language model puts before them.
pub(crate) fn without_prefix(name: &str) -> &str {
    ["transformer.", "model.", "gpt_neox."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}
