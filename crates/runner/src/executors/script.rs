//! Words and paths in a script for a cluster.

use crate::error::{Error, Result};
use std::path::Path;

/// As one word of the shell.
pub fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A path that can be part of a script: text without control characters.
pub fn scriptable<'a>(what: &'static str, path: &'a Path) -> Result<&'a str> {
    let refuse = |why| Err(Error::Unscriptable { what, path: path.to_string_lossy().into_owned(), why });
    match path.to_str() {
        None => refuse("it is not UTF-8"),
        Some(text) if text.chars().any(char::is_control) => refuse("it has a control character"),
        Some(text) => Ok(text),
    }
}
