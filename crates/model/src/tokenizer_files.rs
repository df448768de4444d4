//! What turns text into ids: `tokenizer.json`, the settings beside it, the chat template and the special ids. All of it is
//! passed on as it is.

use crate::config_reader::{ConfigReader, optional_settings, parse, read_optional};
use crate::weights::write_synced;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

pub(crate) const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
pub(crate) const GENERATION: &str = "generation_config.json";

/// Ids that a model's tokenizer gives a meaning, where the directory says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
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
    let path = folder.join(TOKENIZER);
    let mut tokenizer = read_optional(&path)?;
    let mut vocabulary = tokenizer.as_ref().map_or(Ok(Value::Null), |bytes| parse(&path, bytes))?;
    let generation = optional_settings(folder.join(GENERATION))?;
    let settings = optional_settings(folder.join(TOKENIZER_CONFIG))?;
    if tokenizer.is_some() && add_tokens(&settings, &mut vocabulary)? {
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
        let source = [&generation, config].into_iter().find(|settings| !settings.json[&name].is_null());
        let listed = source.map_or(Ok(vec![]), |settings| settings.ids(&name, rows))?;
        // of several, the one that the tokenizer itself calls so
        Ok(named(key).filter(|own| listed.contains(own)).or(listed.first().copied()).or_else(|| named(key)))
    };
    let special = SpecialTokens { bos: id("bos")?, eos: id("eos")?, pad: id("pad")? };
    let path = folder.join(TEMPLATE);
    let template = match read_optional(&path)? {
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

/// The first id after those of a `tokenizer.json`.
pub(crate) fn first_free_id(path: &Path, vocabulary: &Value) -> Result<u32> {
    Ok(token_ids(path, vocabulary)?.into_values().max().map_or(0, |last| last.saturating_add(1)))
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

/// Whether there was any token that these settings of a tokenizer add to what its own file says; they are added to it, as
/// transformers does.
fn add_tokens(settings: &ConfigReader, vocabulary: &mut Value) -> Result<bool> {
    const KEY: &str = "added_tokens_decoder";
    let tokens = match &settings.json[KEY] {
        Value::Null => return Ok(false),
        Value::Object(map) => map,
        _ => return Err(settings.unsupported(KEY, "tokens by their ids")),
    };
    let known = token_ids(&settings.path, vocabulary)?;
    let used: HashSet<u32> = known.values().copied().collect();
    let added = vocabulary["added_tokens"].as_array().into_iter().flatten();
    let added: HashSet<u64> = added.filter_map(|token| token["id"].as_u64()).collect();
    let mut lacking = BTreeMap::new();
    for (id, token) in tokens {
        let content = token["content"].as_str();
        let (Ok(id), Some(content)) = (id.parse::<u32>(), content) else {
            return Err(settings.unsupported_value(
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
                return Err(settings.unsupported_value(KEY, &json!({id.to_string(): content}), accepted));
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
        return Err(settings.unsupported_value(KEY, &json!(id), &accepted));
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

/// Tokenizer and template, as transformers reads them.
pub(crate) fn write_directory(folder: &Path, context: usize, files: &TokenizerFiles) -> Result<()> {
    let Some(tokenizer) = &files.tokenizer else { return Ok(()) };
    write_synced(&folder.join(TOKENIZER), tokenizer)?;
    let vocabulary: Value = serde_json::from_slice(tokenizer).unwrap_or_default();
    let text = |id: Option<u32>| {
        let id = u64::from(id?);
        let mut added = vocabulary["added_tokens"].as_array().into_iter().flatten();
        let own = added.find(|token| token["id"] == id).and_then(|token| token["content"].as_str());
        let of_model = || vocabulary["model"]["vocab"].as_object()?.iter().find(|(_, own)| **own == id);
        own.map(str::to_owned).or_else(|| of_model().map(|(token, _)| token.clone()))
    };
    let SpecialTokens { bos, eos, pad } = files.special;
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
