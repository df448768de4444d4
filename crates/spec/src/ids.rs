//! Content hashes: a stage is named by what went into it.

use serde::Serialize;
use sha2::{Digest, Sha256};

/// SHA-256 of bytes, in hex.
pub fn hash_bytes(bytes: &[u8]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(bytes);
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// The hash of a stage: its kind, resolved settings, inputs' hashes and the format version.
pub fn stage_hash<S: Serialize>(kind: &str, settings: &S, inputs: &[&str]) -> String {
    let key = serde_json::json!({
        "format": crate::FORMAT_VERSION,
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
    fn a_stage_hash_moves_with_each_of_its_parts() {
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
