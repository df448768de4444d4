//! Settings of the worlds and of the judge: the sources of prompts and of gold reward.

use crate::columns::ColumnRole;
use crate::defaults::typed_default;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Source of prompts and gold reward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorldKind {
    Grammar,
    Reviews,
    Rows,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSettings {
    pub kind: WorldKind,
    pub grammar: GrammarSettings,
    pub reviews: ReviewsSettings,
    pub rows: RowsSettings,
}

/// Whether text in rows becomes turns, which go through the chat template.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChatFormat {
    /// In every shape but TRL's columns of plain text.
    #[default]
    Auto,
    Always,
    Never,
}

/// Where rows are: one path, or a list of them. A path is a file, a pattern, a folder of shards, or a name on the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RowPaths {
    One(String),
    Several(Vec<String>),
}

impl RowPaths {
    pub fn is_empty(&self) -> bool {
        self.iter().all(str::is_empty)
    }

    /// Each path.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let paths = match self {
            Self::One(path) => std::slice::from_ref(path),
            Self::Several(paths) => paths.as_slice(),
        };
        paths.iter().map(String::as_str)
    }
}

impl std::fmt::Display for RowPaths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.iter().collect::<Vec<_>>().join(", "))
    }
}

/// The user's own preference rows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RowsSettings {
    pub train: RowPaths,
    pub validation: RowPaths,
    pub test: RowPaths,
    pub holdout: f64,
    /// The names of columns; empty for the usual ones, `none` where there is no such column. An unknown key is no column either.
    #[serde(flatten)]
    pub columns: BTreeMap<ColumnRole, String>,
    pub pairs_per_prompt: usize,
    pub chat: ChatFormat,
    // left out where there is none, so that the keys of stages without it are unchanged
    /// A file with a Jinja template in place of the model's; empty for the model's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chat_template: String,
    pub prompt_tokens: usize,
    pub response_tokens: usize,
    // left out where they are the default, so that the keys of stages without them are unchanged
    #[serde(default, skip_serializing_if = "Overlong::is_drop")]
    pub long_prompts: Overlong,
    #[serde(default, skip_serializing_if = "Overlong::is_drop")]
    pub long_responses: Overlong,
    // left out where it is the default, so that the keys of stages without it are unchanged
    #[serde(default, skip_serializing_if = "LossTurns::is_all")]
    pub turns: LossTurns,
    pub judged_words: usize,
    /// Year, month and day: `2024-07-26`.
    pub date: String,
    /// Variables of the chat template, over its special tokens.
    pub template_kwargs: toml::Table,
}

/// What becomes of a row with a prompt or a response of too many tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overlong {
    /// The row is left out.
    #[default]
    Drop,
    /// The beginning of a prompt is cut, as `truncation_mode = "keep_end"` of trl does; the end of a response.
    Cut,
}

impl Overlong {
    fn is_drop(&self) -> bool {
        *self == Self::Drop
    }
}

/// Which turns of the assistant carry the loss, in a completion of several turns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossTurns {
    #[default]
    All,
    Last,
}

impl LossTurns {
    fn is_all(&self) -> bool {
        *self == Self::All
    }
}

/// Source of gold reward in the text worlds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeKind {
    World,
    Sentiment,
    Ratings,
    Rules,
    Command,
    /// A sequence classifier with one label.
    Model,
}

/// The part of a text that a judge reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgedText {
    Response,
    All,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeSettings {
    pub kind: JudgeKind,
    pub reads: JudgedText,
    pub clip: f64,
    pub rules: Vec<Rule>,
    pub command: Vec<String>,
    // left out where it is empty, so that the keys of stages without it are unchanged
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    pub timeout: f64,
    pub batch: usize,
    // left out where it is the default, so that the keys of stages without it are unchanged
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub token_ends: bool,
    pub version: String,
}

/// The weight of a rule or of a reward that has none.
pub(crate) fn one() -> f64 {
    1.0
}

/// One rule of a judge, and its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "lowercase", deny_unknown_fields)]
pub enum Rule {
    /// `−|words of the text − words| / per`
    Length {
        words: f64,
        per: f64,
        #[serde(default = "one")]
        weight: f64,
    },
    /// How many of the words occur at least once.
    Keyword {
        any: Vec<String>,
        #[serde(default = "one")]
        weight: f64,
    },
    /// 1 where the pattern matches.
    Regex {
        pattern: String,
        #[serde(default = "one")]
        weight: f64,
    },
    /// 1 where the text is JSON.
    Json {
        #[serde(default = "one")]
        weight: f64,
    },
}

/// Settings of the world `grammar`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrammarSettings {
    pub rho: f64,
    pub sft_rows: usize,
}

/// Settings of the world `reviews`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewsSettings {
    pub data: String,
    pub vocabulary: usize,
    pub prompt_tokens: usize,
    pub preface: String,
    pub response_tokens: usize,
    pub judged_words: usize,
    pub gold_clip: f64,
}

impl GrammarSettings {
    /// The values in `defaults.toml`.
    pub fn defaults() -> Self {
        typed_default(&["world", "grammar"])
    }
}

impl ReviewsSettings {
    /// The values in `defaults.toml`.
    pub fn defaults() -> Self {
        typed_default(&["world", "reviews"])
    }
}

impl RowsSettings {
    /// The variables of the chat template as JSON; dates are their text.
    pub fn template_variables(&self) -> impl Iterator<Item = (String, serde_json::Value)> {
        self.template_kwargs.iter().map(|(name, value)| (name.clone(), to_json(value)))
    }

    /// The name that was set for a column; `None` for the usual ones.
    pub fn column(&self, role: ColumnRole) -> Option<&str> {
        self.columns.get(&role).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// The values in `defaults.toml`.
    pub fn defaults() -> Self {
        typed_default(&["world", "rows"])
    }
}

fn to_json(value: &toml::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        toml::Value::String(text) => Json::from(text.as_str()),
        toml::Value::Integer(n) => Json::from(*n),
        toml::Value::Float(x) => Json::from(*x),
        toml::Value::Boolean(flag) => Json::from(*flag),
        toml::Value::Datetime(date) => Json::from(date.to_string()),
        toml::Value::Array(items) => items.iter().map(to_json).collect(),
        toml::Value::Table(table) => table.iter().map(|(name, value)| (name.clone(), to_json(value))).collect(),
    }
}
