//! Hashes of texts and prompts: they identify prompts, and order rows independently of their file.

use crate::chat::Conversation;
use crate::records::Content;
use sha2::{Digest, Sha256};

/// The first eight bytes of a text's SHA-256.
pub(crate) fn text_key(text: &str) -> u64 {
    Sha256::digest(text.as_bytes()).iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

/// Ids as text: `[1, 2]`, as `Debug` writes them, in a tenth of the time.
pub(crate) fn ids_text(ids: &[u32]) -> String {
    let mut text = String::with_capacity(7 * ids.len() + 2);
    let mut digits = itoa::Buffer::new();
    for (index, id) in ids.iter().enumerate() {
        text.push_str(if index == 0 { "[" } else { ", " });
        text.push_str(digits.format(*id));
    }
    text.push_str(if ids.is_empty() { "[]" } else { "]" });
    text
}

/// Identifies a prompt by its ids.
pub(crate) fn ids_key(ids: &[u32]) -> u64 {
    text_key(&ids_text(ids))
}

/// Identifies a prompt by its text.
pub(crate) fn prompt_key(prompt: &Content) -> u64 {
    match prompt {
        Content::Text(text) => text_key(text),
        Content::Conversation(Conversation { turns, tools }) => {
            let mut text: String = turns.iter().map(|turn| format!("{}\0{}\0", turn.role(), turn.text())).collect();
            text.extend(tools.iter().map(|tools| format!("{tools:?}")));
            text_key(&text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hashed_as_they_are_printed() {
        for ids in [&[][..], &[0], &[1, 20, 49_151], &[u32::MAX, 7]] {
            assert_eq!(ids_text(ids), format!("{ids:?}"));
        }
        // sha256("[1, 2]"), and that of "abc" in FIPS 180-2
        assert_eq!(ids_key(&[1, 2]), text_key("[1, 2]"));
        assert_eq!(text_key("abc"), 0xba78_16bf_8f01_cfea);
    }
}
