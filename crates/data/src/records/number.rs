//! Numbers of rows, and how values stand in messages.

use crate::json::Json;

/// A number, or text that is one.
pub(super) fn to_number(value: &Json) -> Option<f64> {
    let x = match value {
        Json::Number(number) => number.as_f64(),
        value => value.as_str()?.trim().parse().ok(),
    };
    x.filter(|x| x.is_finite())
}

/// A value of the wrong kind, for messages: short text and numbers as they are.
pub(super) fn displayed(value: &Json) -> String {
    const MOST: usize = 30;
    match value {
        Json::Text(text) if text.chars().count() <= MOST => format!("`{text}`"),
        Json::Number(number) => number.to_string(),
        Json::Bool(flag) => flag.to_string(),
        other => other.type_name().into(),
    }
}
