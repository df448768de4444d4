//! Hugging Face directories: `config.json`, `model.safetensors` in one piece or several, and the tokenizer's files. What
//! transformers wrote is read; what [`write`] writes, transformers reads.

use crate::checkpoint::Checkpoint;
use crate::config::TransformerConfig;
use crate::config_reader::ConfigReader;
use crate::families::{self, hf_stem, hf_tensor};
use crate::file_dtype::FileDType;
use crate::file_tensor::FileTensor;
use crate::tokenizer_files::{self, GENERATION, SpecialTokens, TokenizerFiles};
use crate::transformer::ScalarModel;
use crate::weight_store::WeightStore;
use crate::weights::{self, write_synced};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What is there in place of a model where a directory holds an adapter.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";

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
    Ok((config, tokenizer_files, store, settings.ignored()))
}

/// A sequence classifier with one label.
pub(crate) struct ClassifierFiles {
    pub(crate) config: TransformerConfig,
    pub(crate) tokenizer_files: TokenizerFiles,
    pub(crate) store: WeightStore,
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
    if !path.is_file() && folder.join(ADAPTER_CONFIG).is_file() {
        let accepted = "a model: merge the adapter first (peft: `merge_and_unload`)".into();
        let (key, value) = (CONFIG.into(), format!("nothing, beside an adapter's `{ADAPTER_CONFIG}`"));
        return Err(Error::Unsupported { path: folder.into(), key, found: value, accepted });
    }
    let settings = ConfigReader::open(path)?;
    let config = read_config(&settings)?;
    let tokenizer_files = tokenizer_files::read_directory(folder, &settings, config.vocabulary)?;
    let store = WeightStore::safetensors(&weight_files(folder)?)?;
    Ok((settings, config, tokenizer_files, store))
}

/// The safetensors files of a directory.
fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (weights, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    if weights.exists() {
        return Ok(vec![weights]);
    }
    if index.exists() {
        return shards(folder, &ConfigReader::open(index)?);
    }
    let others = ["pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack"];
    match others.into_iter().find(|name| folder.join(name).exists()) {
        Some(other) => {
            let (path, key, value) = (folder.into(), "weights".into(), other.into());
            let accepted =
                format!("safetensors; transformers' `from_pretrained` and `save_pretrained` turn `{other}` into them");
            Err(Error::Unsupported { path, key, found: value, accepted })
        }
        None => Ok(vec![weights]), // which says that it is missing
    }
}

/// The safetensors files of a directory, and the index that names them where there is one.
pub(crate) fn weights_and_index(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = weight_files(folder)?;
    let index = folder.join(INDEX);
    files.extend(Some(index).filter(|index| index.is_file() && !folder.join(WEIGHTS).exists()));
    Ok(files)
}

/// The files that an index names, each once.
fn shards(folder: &Path, index: &ConfigReader) -> Result<Vec<PathBuf>> {
    let map = index.value("weight_map").as_object();
    let map = map.ok_or_else(|| index.unsupported("weight_map", "the file of each tensor"))?;
    let mut names = BTreeSet::new();
    for file in map.values() {
        // a name beside the index, and nothing that leads elsewhere
        let plain =
            file.as_str().filter(|name| Path::new(name).file_name().is_some_and(|file_name| file_name == *name));
        names.insert(plain.ok_or_else(|| index.unsupported("weight_map", "names of files in the same folder"))?);
    }
    if names.is_empty() {
        return Err(index.unsupported("weight_map", "the file of each tensor"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The model that `config.json` describes.
fn read_config(settings: &ConfigReader) -> Result<TransformerConfig> {
    let model_type = settings.value("model_type").as_str();
    match model_type.and_then(families::by_model_type) {
        Some(family) => (family.read)(settings),
        None => Err(settings.unsupported("model_type", &families::model_types())),
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

/// The head is where the settings say: in the file, or the token embedding.
fn check_head(settings: &ConfigReader, config: &TransformerConfig, store: &WeightStore) -> Result<()> {
    const KEY: &str = "tie_word_embeddings";
    let head = format!("{}.weight", hf_stem(config, "head"));
    let embedding = hf_stem(config, "tokens");
    let embedding = [format!("{embedding}.weight"), format!("{}.weight", without_prefix(&embedding))];
    let has_head = store.shape(&head).is_some();
    if !config.tied && !has_head {
        let accepted = format!("true where the head is the token embedding; the files hold no `{head}`");
        return Err(settings.unsupported(KEY, &accepted));
    }
    let Some(embedding) = embedding.iter().find(|name| store.shape(name).is_some()) else { return Ok(()) };
    if config.tied && has_head && !store.is_same(embedding, &head)? {
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
