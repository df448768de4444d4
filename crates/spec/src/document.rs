//! The merged experiment file: `defaults.toml`, then the file, then `--set`, each value with its origin.

use crate::parse::{read_bounded, read_override, read_toml};
use crate::resolve::resolve;
use crate::span::{SourceMap, SourceSpan};
use crate::values::{leaves, merge, same};
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use toml::{Table, Value};

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File,
    CommandLine,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::CommandLine => "--set",
        })
    }
}

/// Whether a setting with this key changes results.
pub(crate) fn changes_results(key: &str) -> bool {
    key != "question" && key != "claims" && !key.starts_with("slurm.")
}

/// A merged experiment: all values, and for each leaf where it came from.
#[derive(Debug, Clone)]
pub struct Document {
    pub(crate) merged: Table,
    origins: BTreeMap<String, Origin>,
    sources: SourceMap,
}

impl Document {
    /// Reads `path` and merges it over the defaults, then `overrides` (`key=value`) over both.
    ///
    /// # Errors
    /// Unreadable or malformed file, unknown key, wrong type, empty grid: see [`Error`].
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = read_bounded(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Self::parse(&path.display().to_string(), &text, overrides)
    }

    /// As [`Document::load`], from text already read; `name` is shown in errors.
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Self> {
        let file = SourceSpan { name: name.into(), text: text.into(), span: 0..0 };
        let (table, mut sources) = read_toml(&file)?;
        let mut layers = vec![(table, Origin::File)];
        for argument in overrides {
            let (table, span) = read_override(argument)?;
            leaves(&table).into_iter().for_each(|(key, _)| sources.insert_override(&key, &span));
            layers.push((table, Origin::CommandLine));
        }
        let mut user = Table::new();
        let mut origins = BTreeMap::new();
        for (layer, origin) in layers {
            origins.extend(leaves(&layer).into_iter().map(|(key, _)| (key, origin.clone())));
            merge(&mut user, layer);
        }
        Ok(Self { merged: resolve(user, &sources)?, origins, sources })
    }

    /// The origin of one leaf, for `duel plan`.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Every leaf in order: dotted key, value, origin.
    pub fn resolved(&self) -> Vec<(String, Value, Origin)> {
        leaves(&self.merged).into_iter().map(|(key, value)| (key.clone(), value, self.origin(&key))).collect()
    }

    /// The settings that change results and differ from `recorded`: all but the question, the claims and the Slurm settings.
    /// `key is …, was …`.
    pub fn differences(&self, recorded: &Self) -> Vec<String> {
        let text = |(key, own, other): (String, String, String)| format!("{key} is {own}, was {other}");
        self.compare(recorded, changes_results).into_iter().map(text).collect()
    }

    /// The leaves with such keys that differ from `other`'s: key, value here, value there.
    pub(crate) fn compare(&self, other: &Self, is_compared: impl Fn(&str) -> bool) -> Vec<(String, String, String)> {
        let compared = |document: &Self| -> BTreeMap<String, Value> {
            leaves(&document.merged).into_iter().filter(|(key, _)| is_compared(key)).collect()
        };
        let (own, other) = (compared(self), compared(other));
        let text = |value: Option<&Value>| value.map_or("not set".into(), Value::to_string);
        let keys: BTreeSet<&String> = own.keys().chain(other.keys()).collect();
        let differs = |key: &&String| match (own.get(*key), other.get(*key)) {
            (Some(a), Some(b)) => !same(a, b),
            _ => true,
        };
        let values = |key: &String| (key.clone(), text(own.get(key)), text(other.get(key)));
        keys.into_iter().filter(differs).map(values).collect()
    }

    /// The merged file, as TOML text.
    pub fn to_toml(&self) -> String {
        self.merged.to_string()
    }

    /// The position of `key`, or of the nearest table around it.
    pub fn span(&self, key: &str) -> Box<SourceSpan> {
        self.sources.span(key)
    }

    /// A value of `key` that is not accepted.
    pub(crate) fn out_of_range(
        &self,
        key: impl Into<String>,
        value: impl Into<String>,
        accepted: impl Into<String>,
    ) -> Error {
        let key = key.into();
        Error::OutOfRange { span: self.span(&key), key, found: value.into(), accepted: accepted.into() }
    }

    /// Two settings that cannot be combined.
    pub(crate) fn clash(&self, key: impl Into<String>, with: impl Into<String>, why: impl Into<String>) -> Error {
        let key = key.into();
        Error::Clash { span: self.span(&key), key, with: with.into(), why: why.into() }
    }

    /// A key that is needed and not set.
    pub(crate) fn missing(&self, key: &str, accepted: &str) -> Error {
        Error::Missing { span: self.span(key), key: key.into(), accepted: accepted.into() }
    }
}
