//! The name of a stage.

use serde::{Deserialize, Serialize};

/// Names a stage by its kind and content hash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StageId {
    pub kind: String,
    pub hash: String,
}

impl StageId {
    /// The stage with this folder name.
    pub fn of_folder(name: &str) -> Option<Self> {
        let (kind, hash) = name.rsplit_once('-')?;
        Some(Self { kind: kind.into(), hash: hash.into() })
    }

    /// The name of its folder.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.kind, self.hash)
    }

    /// The name of the folder beside it with the training checkpoints of the unfinished stage.
    pub fn checkpoint_dir(&self) -> String {
        format!("{}.kept", self.folder())
    }
}
