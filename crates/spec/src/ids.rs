//! Content hashes: a stage is named by the hash of its inputs.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Version of every file that Duel writes; part of each stage's hash.
pub const FORMAT_VERSION: u32 = 12;

/// SHA-256 of bytes, in hex.
pub fn hash_bytes(bytes: &[u8]) -> String {
    let mut hasher = Hasher::default();
    hasher.add(bytes);
    hasher.finish()
}

/// SHA-256 of bytes that arrive in pieces.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// The next piece.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all pieces, in hex.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// A prompt's hash in logs and checks: 64 bits of SHA-256 over its ids.
pub fn prompt_hash(ids: &[u32]) -> u64 {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let digest = Sha256::digest(&bytes);
    u64::from_le_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}

/// The hash of a stage: of its kind, resolved settings, inputs' hashes and the format version.
pub fn stage_hash<S: Serialize>(kind: &str, settings: &S, inputs: &[&str]) -> String {
    let key = serde_json::json!({
        "format": FORMAT_VERSION,
        "kind": kind,
        "settings": settings,
        "inputs": inputs,
    });
    hash_bytes(key.to_string().as_bytes())[..16].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_hash_changes_with_each_of_its_parts() {
        let hashes = [
            stage_hash("sft", &("steps", 1), &["a"]),
            stage_hash("rm", &("steps", 1), &["a"]),
            stage_hash("sft", &("steps", 2), &["a"]),
            stage_hash("sft", &("steps", 1), &["b"]),
        ];
        let distinct: std::collections::HashSet<_> = hashes.iter().collect();
        assert_eq!(distinct.len(), 4);
        // sha256("abc"), FIPS 180-2
        assert!(hash_bytes(b"abc").starts_with("ba7816bf8f01cfea"));
    }
}
