//! What turns text into ids: `tokenizer.json`, the settings beside it, the chat template and the special ids. All of it is
//! passed on as it is.

use crate::config_reader::{ConfigReader, optional_settings, parse, read_bounded, read_optional};
use crate::weights::write_synced;
use crate::{Error, Result, added_tokens, legacy_tokenizer};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
pub(crate) const GENERATION: &str = "generation_config.json";

/// Ids that a model's tokenizer gives a meaning, where the directory says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: Option<u32>,
    /// Ends a text: the one that the tokenizer calls so, else the first of the list that generation stops at.
    pub eos: Option<u32>,
    /// Others at which generation stops.
    pub other_eos: Vec<u32>,
    pub pad: Option<u32>,
}

impl SpecialTokens {
    /// All ids that end a text, EOS first.
    pub fn eos_ids(&self) -> Vec<u32> {
        self.eos.iter().chain(&self.other_eos).copied().collect()
    }

    /// Another id that ends a text; the first is EOS itself.
    pub fn add_eos(&mut self, id: u32) {
        match self.eos {
            None => self.eos = Some(id),
            Some(eos) if eos == id || self.other_eos.contains(&id) => {}
            Some(_) => self.other_eos.push(id),
        }
    }
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

/// Tokenizer, template and special ids of a directory: the generation's word counts before the model's.
pub(crate) fn read_directory(folder: &Path, config: &ConfigReader, rows: usize) -> Result<TokenizerFiles> {
    let generation = optional_settings(folder.join(GENERATION))?;
    let mut settings = tokenizer_settings(folder)?;
    let mut path = folder.join(TOKENIZER);
    let mut tokenizer = read_optional(&path)?;
    let mut vocabulary = tokenizer.as_ref().map_or(Ok(Value::Null), |bytes| parse(&path, bytes))?;
    if tokenizer.is_none()
        && let Some((read_from, converted)) = legacy_tokenizer::read(folder, &mut settings, config.value("model_type"))?
    {
        (path, tokenizer, vocabulary) = (read_from, Some(converted.to_string().into_bytes()), converted);
    }
    if tokenizer.is_some() && added_tokens::add(&path, &settings, &mut vocabulary)? {
        tokenizer = Some(vocabulary.to_string().into_bytes());
    }
    check_model_type(&path, &vocabulary)?;
    let ids = added_tokens::ids(&path, &vocabulary)?;
    check_ids(&path, rows, words(&vocabulary, &ids))?;
    // "eos_token": "</s>" or {"content": "</s>"}
    let named = |key: &str| {
        let id = ids.get(added_tokens::content(&settings.json[format!("{key}_token")])?).copied()?;
        ((id as usize) < rows).then_some(id)
    };
    let listed = |key: &str| {
        let name = format!("{key}_token_id");
        let source = [&generation, config].into_iter().find(|settings| !settings.value(&name).is_null());
        source.map_or(Ok(vec![]), |settings| settings.ids(&name, rows))
    };
    let id = |key: &str| Ok(listed(key)?.first().copied().or_else(|| named(key)));
    let mut special = SpecialTokens { bos: id("bos")?, pad: id("pad")?, ..SpecialTokens::default() };
    named("eos").into_iter().chain(listed("eos")?).for_each(|id| special.add_eos(id));
    let path = folder.join(TEMPLATE);
    let template = match read_optional(&path)? {
        Some(bytes) => Some(as_template(&path, bytes)?),
        None => match &settings.json["chat_template"] {
            Value::String(template) => Some(template.clone()),
            Value::Array(several) => {
                let default = default_template(several).map(|index| &several[index]);
                default.and_then(|one| one["template"].as_str()).map(str::to_owned)
            }
            Value::Null => None,
            _ => return Err(settings.unsupported("chat_template", "a template, or a list of named ones")),
        },
    };
    Ok(TokenizerFiles { special, tokenizer, template })
}

/// A file with a chat template.
///
/// # Errors
/// One that cannot be read, is too large, or is no text.
pub fn read_template(path: &Path) -> Result<String> {
    as_template(path, read_bounded(path)?)
}

fn as_template(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| Error::Damaged { path: path.into(), problem: e.to_string() })
}

/// Which of several named templates is the model's: the one called `default`, else the first.
fn default_template(templates: &[Value]) -> Option<usize> {
    let default = templates.iter().position(|one| one["name"] == "default");
    default.or((!templates.is_empty()).then_some(0))
}

/// Settings of the tokenizer and of generation that are not used here, though they change text or what is sampled elsewhere.
///
/// # Errors
/// Files that cannot be read.
pub(crate) fn ignored(folder: &Path) -> Result<Vec<String>> {
    // responses are sampled at temperature 1 of all tokens, for as long as the experiment says
    const OF_TOKENIZER: [&str; 2] = ["split_special_tokens", "clean_up_tokenization_spaces"];
    const WITHOUT_EFFECT: [&str; 2] = ["_from_model_config", "do_sample"];
    let mut generation = optional_settings(folder.join(GENERATION))?;
    if let Some(settings) = generation.json.as_object_mut() {
        // factors of 1, and one beam
        settings.retain(|key, value| !WITHOUT_EFFECT.contains(&key.as_str()) && value.as_f64() != Some(1.0));
    }
    let settings = optional_settings(folder.join(TOKENIZER_CONFIG))?;
    let templates = settings.json["chat_template"].as_array().map(Vec::as_slice).unwrap_or_default();
    let others = templates.iter().enumerate().filter(|(index, _)| Some(*index) != default_template(templates));
    let others = others.map(|(_, one)| format!("the chat template {} ({TOKENIZER_CONFIG})", one["name"]));
    let of_tokenizer = OF_TOKENIZER.iter().filter(|key| settings.json[**key] == true);
    let of_generation = generation.ignored().into_iter().map(|setting| format!("{setting} ({GENERATION})"));
    let of_tokenizer = of_tokenizer.map(|key| format!("{key} = true ({TOKENIZER_CONFIG})"));
    Ok(of_generation.chain(of_tokenizer).chain(others).collect())
}

/// A kind of tokenizer that is read; old files do not name it.
fn check_model_type(path: &Path, vocabulary: &Value) -> Result<()> {
    const TYPES: [&str; 4] = ["BPE", "Unigram", "WordLevel", "WordPiece"];
    match &vocabulary["model"]["type"] {
        Value::Null => Ok(()),
        Value::String(name) if TYPES.contains(&name.as_str()) => Ok(()),
        other => Err(Error::Unsupported {
            path: path.into(),
            key: "model.type".into(),
            found: other.to_string(),
            accepted: TYPES.join(", "),
        }),
    }
}

/// A directory's settings of its tokenizer, with what old directories say in files of their own, as transformers takes it.
fn tokenizer_settings(folder: &Path) -> Result<ConfigReader> {
    const ADDED: &str = "added_tokens_decoder";
    let mut settings = optional_settings(folder.join(TOKENIZER_CONFIG))?;
    let is_old = settings.json[ADDED].is_null();
    if settings.json.is_null() {
        settings.json = json!({});
    }
    let map = optional_settings(folder.join("special_tokens_map.json"))?;
    for (key, value) in map.json.as_object().into_iter().flatten() {
        if is_old || settings.json[key].is_null() {
            settings.json[key] = value.clone();
        }
    }
    let added = optional_settings(folder.join("added_tokens.json"))?;
    if let (true, Some(tokens)) = (is_old, added.json.as_object()) {
        let special = added_tokens::named(&settings.json);
        let token = |(text, id): (&String, &Value)| {
            let is_special = special.iter().any(|token| token["content"] == **text);
            (id.to_string(), json!({"content": text, "special": is_special, "normalized": !is_special}))
        };
        settings.json[ADDED] = Value::Object(tokens.iter().map(token).collect());
    }
    Ok(settings)
}

/// The ids of the tokenizer's own vocabulary, which text may become. An added token comes only of text that spells it: a row
/// that does is refused where the embedding lacks it.
fn words<'a>(vocabulary: &Value, ids: &HashMap<&'a str, u32>) -> impl Iterator<Item = (u32, &'a str)> {
    let added = vocabulary["added_tokens"].as_array().into_iter().flatten();
    let added: HashSet<u64> = added.filter_map(|token| token["id"].as_u64()).collect();
    let words: Vec<_> = ids.iter().map(|(token, id)| (*id, *token)).collect();
    words.into_iter().filter(move |(id, _)| !added.contains(&u64::from(*id)))
}

/// The first id after those of a `tokenizer.json`.
pub(crate) fn first_free_id(path: &Path, vocabulary: &Value) -> Result<u32> {
    Ok(added_tokens::ids(path, vocabulary)?.into_values().max().map_or(0, |last| last.saturating_add(1)))
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

/// Tokenizer and template, as transformers reads them.
pub(crate) fn write_directory(folder: &Path, context: usize, files: &TokenizerFiles) -> Result<()> {
    let Some(tokenizer) = &files.tokenizer else { return Ok(()) };
    write_synced(&folder.join(TOKENIZER), tokenizer)?;
    let vocabulary: Value = serde_json::from_slice(tokenizer).unwrap_or_default();
    let text = |id: Option<u32>| {
        let id = u64::from(id?);
        let mut added = vocabulary["added_tokens"].as_array().into_iter().flatten();
        let content = added.find(|token| token["id"] == id).and_then(|token| token["content"].as_str());
        let of_model = || vocabulary["model"]["vocab"].as_object()?.iter().find(|(_, token_id)| **token_id == id);
        content.map(str::to_owned).or_else(|| of_model().map(|(token, _)| token.clone()))
    };
    let SpecialTokens { bos, eos, pad, .. } = files.special;
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": false,
    });
    for (key, id) in [("bos_token", bos), ("eos_token", eos), ("pad_token", pad)] {
        if let Some(text) = text(id) {
            settings[key] = json!(text);
        }
    }
    if let Some(template) = &files.template {
        settings["chat_template"] = json!(template);
    }
    write_synced(&folder.join(TOKENIZER_CONFIG), format!("{settings:#}\n").as_bytes())
}
