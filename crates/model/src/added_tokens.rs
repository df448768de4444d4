//! The tokens that are added to a tokenizer's vocabulary: those of `tokenizer.json`, and those that only its settings name.

use crate::config_reader::ConfigReader;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// The id of each token of a `tokenizer.json`: those of its model, and those that were added.
pub(crate) fn ids<'a>(path: &Path, vocabulary: &'a Value) -> Result<HashMap<&'a str, u32>> {
    let id = |token: &'a str, id: &Value| match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
        Some(id) => Ok((token, id)),
        None => {
            let (key, value) = (format!("the id of {token:?}"), id.to_string());
            Err(Error::Unsupported {
                path: path.into(),
                key,
                found: value,
                accepted: "a whole number from 0 on".into(),
            })
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

/// Adds the tokens that only the settings of a tokenizer name to the vocabulary that `path` holds, as transformers does; returns
/// whether there were any.
///
/// # Errors
/// Ids that contradict the vocabulary.
pub(crate) fn add(path: &Path, settings: &ConfigReader, vocabulary: &mut Value) -> Result<bool> {
    let by_id = add_by_id(path, settings, vocabulary)?;
    Ok(add_named(path, settings, vocabulary)? || by_id)
}

/// Adds what `added_tokens_decoder` lists with ids.
fn add_by_id(path: &Path, settings: &ConfigReader, vocabulary: &mut Value) -> Result<bool> {
    const KEY: &str = "added_tokens_decoder";
    let tokens = match &settings.json[KEY] {
        Value::Null => return Ok(false),
        Value::Object(map) => map,
        _ => return Err(settings.unsupported(KEY, "tokens by their ids")),
    };
    let known = ids(path, vocabulary)?;
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
            Some(known_id) if *known_id == id && added.contains(&u64::from(id)) => continue,
            Some(known_id) if *known_id == id => {}
            None if !used.contains(&id) => {}
            _ => {
                let accepted = "the ids that `tokenizer.json` gives";
                return Err(settings.unsupported_value(KEY, &json!({id.to_string(): content}), accepted));
            }
        }
        let token = complete(token, id);
        lacking.insert(id, token);
    }
    // tokenizers numbers new tokens from the end of those that are there
    let end = known.values().max().map_or(0, |last| last.saturating_add(1));
    let fresh = lacking.keys().filter(|id| **id >= end);
    if let Some((id, _)) = fresh.zip(end..).find(|(id, next)| *id != next) {
        let accepted = format!("ids one after another, from {end} on, which follow those of `tokenizer.json`");
        return Err(settings.unsupported_value(KEY, &json!(id), &accepted));
    }
    Ok(insert(vocabulary, lacking.into_values().collect()))
}

/// Adds the tokens that have a name, such as `eos_token`, and no place among the added ones: behind all others where the
/// vocabulary lacks them.
fn add_named(path: &Path, settings: &ConfigReader, vocabulary: &mut Value) -> Result<bool> {
    let known = ids(path, vocabulary)?;
    let added = vocabulary["added_tokens"].as_array().into_iter().flatten();
    let mut added: HashSet<&str> = added.filter_map(|token| token["content"].as_str()).collect();
    let mut end = known.values().max().map_or(0, |last| last.saturating_add(1));
    let named = named(&settings.json);
    let mut lacking = vec![];
    for token in &named {
        let Some(content) = content(token).filter(|content| added.insert(content)) else { continue };
        let id = known.get(content).copied().unwrap_or_else(|| {
            end += 1;
            end - 1
        });
        lacking.push(complete(token, id));
    }
    Ok(insert(vocabulary, lacking))
}

/// Inserts tokens into the list of a vocabulary; returns whether there were any.
fn insert(vocabulary: &mut Value, tokens: Vec<Value>) -> bool {
    let any = !tokens.is_empty();
    if any && !vocabulary["added_tokens"].is_array() {
        vocabulary["added_tokens"] = json!([]);
    }
    if let (true, Some(list)) = (any, vocabulary["added_tokens"].as_array_mut()) {
        list.extend(tokens);
        list.sort_by_key(|token| token["id"].as_u64());
    }
    any
}

/// A token with its id and all flags that `tokenizer.json` has.
fn complete(token: &Value, id: u32) -> Value {
    let mut token = token.clone();
    token["id"] = json!(id);
    for flag in ["single_word", "lstrip", "rstrip", "normalized", "special"] {
        if token[flag].is_null() {
            token[flag] = json!(false);
        }
    }
    token
}

/// The text of a token in a tokenizer's settings: itself, or under `content`.
pub(crate) fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token["content"].as_str()).filter(|text| !text.is_empty())
}

/// The special tokens that a tokenizer's settings name, each once.
pub(crate) fn named(settings: &Value) -> Vec<Value> {
    let single = NAMED.iter().map(|key| &settings[format!("{key}_token")]);
    let lists = ["additional_special_tokens", "extra_special_tokens"].map(|key| &settings[key]);
    let listed = lists.iter().flat_map(|list| {
        let values = list.as_object().into_iter().flat_map(serde_json::Map::values);
        list.as_array().into_iter().flatten().chain(values)
    });
    let mut seen = HashSet::new();
    let tokens = single.chain(listed).filter(|token| content(token).is_some_and(|text| seen.insert(text)));
    let special = |token: &Value| {
        let mut object = if token.is_object() { token.clone() } else { json!({"content": token}) };
        if let Some(fields) = object.as_object_mut() {
            fields.remove("__type");
            fields.insert("special".into(), json!(true));
        }
        object
    };
    tokens.map(special).collect()
}

/// What tokens are called in a tokenizer's settings, as `bos_token`.
const NAMED: [&str; 7] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];
