//! What every method has: the checkpoint that is kept, and adapters.

use serde::{Deserialize, Serialize};

/// The checkpoint that is kept: the last, or the best on validation prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointSelection {
    Last,
    Gold,
    Proxy,
    Loss,
}

/// The projections of a block that have an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoraTargets {
    All,
    Attention,
    Mlp,
}

/// The settings of every method; `[every]` in `defaults.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CommonSettings {
    pub keep: CheckpointSelection,
    pub patience: f64,
    pub lora: bool,
    pub lora_rank: usize,
    pub lora_alpha: f64,
    pub lora_dropout: f64,
    pub lora_targets: LoraTargets,
}

impl CommonSettings {
    /// The setting, if any, because of which `key` is not used.
    pub(super) fn ignores(&self, key: &str) -> Option<&'static str> {
        match key {
            "patience" if self.keep == CheckpointSelection::Last => Some("keep = \"last\""),
            "lora_rank" | "lora_alpha" | "lora_dropout" | "lora_targets" if !self.lora => Some("lora = false"),
            _ => None,
        }
    }
}

/// Two settings that cannot be combined.
pub(crate) struct Conflict {
    pub key: &'static str,
    pub with: String,
    pub why: &'static str,
}
