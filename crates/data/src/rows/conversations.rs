//! Prompts as they stand in the user's rows, for models that read them with another tokenizer than the policy's.

use crate::keys::ids_key;
use crate::records::Content;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

const CONVERSATIONS: &str = "conversations.json";

/// Prompts by a hash of their ids.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Conversations(BTreeMap<u64, Content>);

impl Conversations {
    /// Adds a prompt; of several with the same ids the first stays.
    pub(super) fn insert(&mut self, ids: &[u32], prompt: &Content) {
        self.0.entry(ids_key(ids)).or_insert_with(|| prompt.clone());
    }

    pub(super) fn get(&self, ids: &[u32]) -> Option<&Content> {
        self.0.get(&ids_key(ids))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Drops all prompts but these.
    pub(super) fn retain<'a>(&mut self, prompts: impl Iterator<Item = &'a Vec<u32>>) {
        let keys: HashSet<u64> = prompts.map(|ids| ids_key(ids)).collect();
        self.0.retain(|key, _| keys.contains(key));
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(CONVERSATIONS);
        let json = serde_json::to_vec(self).map_err(|e| Error::Unfit { problem: e.to_string() })?;
        std::fs::write(&path, json).map_err(|source| Error::Write { path, source })
    }

    /// What [`Self::write`] wrote; nothing where it wrote nothing.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONVERSATIONS);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let bytes = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        serde_json::from_slice(&bytes).map_err(|e| Error::Row { path, row: e.line(), problem: e.to_string() })
    }
}
