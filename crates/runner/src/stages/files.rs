//! The files that stages write and later stages read.

use crate::error::{Error, Result};
use serde::Serialize;
use std::path::Path;

/// File names within stages.
pub const POLICY: &str = "policy.safetensors";
pub const ROWS: &str = "rows.jsonl";
pub const PROXY: &str = "proxy.json";
pub const REFERENCE: &str = "reference.json";

pub fn save_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let json = serde_json::to_vec(value).expect("stages write plain data");
    Ok(duel_ledger::write_atomically(path, &json)?)
}

pub fn load_json<T: serde::de::DeserializeOwned>(stage: &'static str, path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Foreign { stage, path: path.into(), problem: e.to_string() })
}
