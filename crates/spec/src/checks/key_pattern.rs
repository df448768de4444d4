//! Patterns of keys that choices and ranges are listed by.

/// Whether a pattern matches a key; `*` is any name. An axis of an arm's grid or space counts as its setting.
pub(super) fn matches_key(pattern: &str, key: &str) -> bool {
    let key = key.replacen(".grid.", ".", 1).replacen(".space.", ".", 1);
    let key = [".low", ".high", ".choices"].iter().find_map(|end| key.strip_suffix(end)).unwrap_or(&key);
    let (pattern, key): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), key.split('.').collect());
    pattern.len() == key.len() && pattern.iter().zip(&key).all(|(p, k)| *p == "*" || p == k)
}
