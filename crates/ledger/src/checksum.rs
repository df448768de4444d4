//! The checksum that a JSON file has of itself: `sum`, the SHA-256 of its text with an empty `sum`.

use duel_spec::ids::hash_bytes;

const NO_SUM: &str = "\"sum\": \"\"";

fn with_sum(sum: &str) -> String {
    format!("\"sum\": \"{sum}\"")
}

/// Fills the first empty `sum` of a text in.
pub(crate) fn add_checksum(text: &str) -> String {
    text.replacen(NO_SUM, &with_sum(&hash_bytes(text.as_bytes())), 1)
}

/// Whether `sum` is the checksum of the text that it was read from.
pub(crate) fn has_checksum(text: &str, sum: &str) -> bool {
    hash_bytes(text.replacen(&with_sum(sum), NO_SUM, 1).as_bytes()) == sum
}
