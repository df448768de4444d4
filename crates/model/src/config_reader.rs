//! Settings in JSON, read key by key so that errors name the key.

use crate::mapped_file::check_fetched;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Most bytes of a file of settings or of a tokenizer: parsed JSON takes up to sixteen times as much.
const MOST_SETTINGS: u64 = 64 << 20;

/// A file of settings, which is held in memory as a whole.
pub(crate) fn read_bounded(path: &Path) -> Result<Vec<u8>> {
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
    check_fetched(path, &bytes)?;
    Ok(bytes)
}

/// A file that may be absent.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match read_bounded(path) {
        Err(Error::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|e| Error::Damaged { path: path.into(), problem: e.to_string() })
}

/// Settings: an object by key.
fn parse_object(path: &Path, bytes: &[u8]) -> Result<Value> {
    let json = parse(path, bytes)?;
    match json.is_object() {
        true => Ok(json),
        false => {
            let problem = format!("it holds {}, and not an object of settings", shortened(&json));
            Err(Error::Damaged { path: path.into(), problem })
        }
    }
}

/// Settings that may be absent.
pub(crate) fn optional_settings(path: PathBuf) -> Result<ConfigReader> {
    let json = read_optional(&path)?.map_or(Ok(Value::Null), |bytes| parse_object(&path, &bytes))?;
    Ok(ConfigReader::new(path, json))
}

/// A settings file, read key by key so that errors name the key.
#[derive(Debug)]
pub(crate) struct ConfigReader {
    pub(crate) path: PathBuf,
    pub(crate) json: Value,
    /// Keys that have been asked for.
    keys_read: RefCell<BTreeSet<String>>,
}

/// Settings that change nothing that is computed here, nor what is written.
const WITHOUT_EFFECT: [&str; 27] = [
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attn_implementation",
    "bos_token_id", // where the settings of generation have it
    "cache_implementation",
    "dtype",
    "eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "init_std",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "n_ctx",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "pad_token_id",
    "reorder_and_upcast_attn",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "unsloth_version",
    "use_cache",
];

impl ConfigReader {
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let json = parse_object(&path, &read_bounded(&path)?)?;
        Ok(Self::new(path, json))
    }

    pub(crate) fn new(path: PathBuf, json: Value) -> Self {
        Self { path, json, keys_read: RefCell::default() }
    }

    /// A setting; null where there is none.
    pub(crate) fn value(&self, key: &str) -> &Value {
        self.keys_read.borrow_mut().insert(key.into());
        &self.json[key]
    }

    /// Whether a setting has been asked for.
    pub(crate) fn is_read(&self, key: &str) -> bool {
        self.keys_read.borrow().contains(key)
    }

    /// What is set and not used here, though it might mean something elsewhere (`key = value`): dropout, and what nothing asked for.
    pub(crate) fn ignored(&self) -> Vec<String> {
        let keys_read = self.keys_read.borrow();
        let is_ignored = |(key, value): &(&String, &Value)| {
            let is_off = matches!(value, Value::Null | Value::Bool(false)) || value.as_f64() == Some(0.0);
            let is_dropout = key.ends_with("pdrop") || key.ends_with("dropout");
            let is_empty = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
            let has_effect = !WITHOUT_EFFECT.contains(&key.as_str()) && !key.starts_with("summary_");
            !is_off && !is_empty && (is_dropout || has_effect && !keys_read.contains(*key))
        };
        let settings = self.json.as_object().into_iter().flatten().filter(is_ignored);
        settings.map(|(key, value)| format!("{key} = {}", shortened(value))).collect()
    }

    pub(crate) fn unsupported(&self, key: &str, accepted: &str) -> Error {
        self.unsupported_value(key, self.value(key), accepted)
    }

    pub(crate) fn unsupported_value(&self, key: &str, value: &Value, accepted: &str) -> Error {
        let text = if value.is_null() { "nothing".into() } else { shortened(value) };
        Error::Unsupported { path: self.path.clone(), key: key.into(), found: text, accepted: accepted.into() }
    }

    /// A number within a range.
    pub(crate) fn number(&self, key: &str, range: RangeInclusive<f64>) -> Result<f64> {
        number(self.value(key), &range).ok_or_else(|| self.unsupported(key, &range_text(&range)))
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        let size = self.value(key).as_u64().filter(|n| SIZES.contains(n)).and_then(|n| usize::try_from(n).ok());
        size.ok_or_else(|| self.unsupported(key, &format!("a size from 1 to {}", SIZES.end())))
    }

    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.value(key).is_null() { Ok(default) } else { self.size(key) }
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        match self.value(key) {
            Value::Null => Ok(default),
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.unsupported(key, "true or false")),
        }
    }

    /// Ids of one token or several, all below the rows of the embedding; −1 is transformers' word for none.
    pub(crate) fn ids(&self, key: &str, rows: usize) -> Result<Vec<u32>> {
        let listed = match self.value(key) {
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

    /// A number within a range, or this one where there is none.
    pub(crate) fn number_or(&self, key: &str, range: RangeInclusive<f64>, default: f64) -> Result<f64> {
        if self.value(key).is_null() { Ok(default) } else { self.number(key, range) }
    }

    /// A number that may be absent or null; `default` where the key itself is absent.
    pub(crate) fn optional_number(
        &self,
        key: &str,
        range: RangeInclusive<f64>,
        default: Option<f64>,
    ) -> Result<Option<f64>> {
        self.value(key);
        match self.json.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(_) => self.number(key, range).map(Some),
        }
    }

    /// A size that may be absent or null; `default` where the key itself is absent.
    pub(crate) fn optional_size(&self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        self.value(key);
        match self.json.get(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(_) => self.size(key).map(Some),
        }
    }

    /// The key is absent or has this value.
    pub(crate) fn only(&self, key: &str, value: &Value) -> Result<()> {
        if self.value(key).is_null() || *self.value(key) == *value {
            return Ok(());
        }
        Err(self.unsupported(key, &value.to_string()))
    }

    /// The key is absent, null, false or empty.
    pub(crate) fn unset(&self, key: &str) -> Result<()> {
        match self.value(key) {
            Value::Null | Value::Bool(false) => Ok(()),
            Value::Object(map) if map.is_empty() => Ok(()),
            Value::Array(list) if list.is_empty() => Ok(()),
            _ => Err(self.unsupported(key, "no value")),
        }
    }
}

/// Sizes that a setting may have.
pub(crate) const SIZES: RangeInclusive<u64> = 1..=1 << 32;
/// What a norm may add to the variance: as f32 it is neither 0 nor drowns what is normed.
pub(crate) const EPSILONS: RangeInclusive<f64> = 1e-30..=1.0;
/// Bases of rotary positions whose powers are numbers of f32.
pub(crate) const THETAS: RangeInclusive<f64> = 1.0..=1e12;

/// A number within a range.
pub(crate) fn number(value: &Value, range: &RangeInclusive<f64>) -> Option<f64> {
    value.as_f64().filter(|x| range.contains(x))
}

/// A value for messages, cut where it is long.
fn shortened(value: &Value) -> String {
    const SHOWN: usize = 100;
    let mut text = value.to_string();
    if let Some((cut, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

/// A range in words.
pub(crate) fn range_text(range: &RangeInclusive<f64>) -> String {
    format!("a number from {:e} to {:e}", range.start(), range.end())
}
