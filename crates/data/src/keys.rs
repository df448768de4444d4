//! Hashes of texts and prompts: they identify prompts, and order rows independently of their file.

use crate::chat::Conversation;
use crate::records::Content;
use duel_spec::ids::hash_bytes;

/// The first eight bytes of a text's SHA-256.
pub(crate) fn text_key(text: &str) -> u64 {
    u64::from_str_radix(&hash_bytes(text.as_bytes())[..16], 16).unwrap_or(0)
}

/// Identifies a prompt by its ids.
pub(crate) fn ids_key(ids: &[u32]) -> u64 {
    text_key(&format!("{ids:?}"))
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
