//! Template values as Python prints, compares and orders them.

use crate::metering::charge_bytes;
use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};
use std::cmp::Ordering;
use std::fmt::Write;

/// An error of a template.
pub(crate) fn fail(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// `str(value)`.
///
/// # Errors
/// What Python prints with its address in memory, such as a macro.
pub(crate) fn python_str(value: &Value) -> Result<String, Error> {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => Ok(text.to_owned()),
        (ValueKind::Undefined, _) => Ok(String::new()),
        _ => {
            let mut text = String::new();
            write_repr(value, &mut text)?;
            Ok(text)
        }
    }
}

/// `repr(value)`, at the end of a text.
///
/// # Errors
/// As [`python_str`].
pub(crate) fn write_repr(value: &Value, text: &mut String) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => text.push_str("Undefined"),
        ValueKind::None => text.push_str("None"),
        ValueKind::Bool => text.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match (value.is_integer(), f64::try_from(value.clone())) {
            (false, Ok(x)) => text.push_str(&float_repr(x)),
            _ => text.push_str(&value.to_string()),
        },
        ValueKind::String => {
            let content = value.as_str().unwrap_or_default();
            match value.is_safe() {
                true => {
                    text.push_str("Markup(");
                    write_string_repr(content, text);
                    text.push(')');
                }
                false => write_string_repr(content, text),
            }
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let is_pair = value.as_object().is_some_and(|object| object.type_name().ends_with("GroupPair"));
            let (open, close) = if value.is_tuple() || is_pair { ('(', ')') } else { ('[', ']') };
            text.push(open);
            let mut count = 0;
            for item in value.try_iter()? {
                text.push_str(if count > 0 { ", " } else { "" });
                write_repr(&item, text)?;
                count += 1;
            }
            text.push_str(if value.is_tuple() && count == 1 { "," } else { "" });
            text.push(close);
        }
        ValueKind::Map if is_dict(value) => {
            text.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                write_repr(&key, text)?;
                text.push_str(": ");
                write_repr(&value.get_item(&key)?, text)?;
            }
            text.push('}');
        }
        kind => return Err(fail(format!("a {kind} cannot be printed"))),
    }
    Ok(())
}

/// Whether a value is a dictionary, and not an object with attributes.
pub(crate) fn is_dict(value: &Value) -> bool {
    let name = value.as_object().map_or("", |object| object.type_name());
    value.kind() == ValueKind::Map && !["Namespace", "Loop", "Module", "Macro"].iter().any(|other| name.contains(other))
}

/// The shortest text that reads back as the same number: with an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float_repr(x: f64) -> String {
    if !x.is_finite() {
        let text = if x.is_nan() { "nan" } else { "inf" };
        return format!("{}{text}", if x == f64::NEG_INFINITY { "-" } else { "" });
    }
    let text = format!("{x:?}");
    match text.split_once('e') {
        Some((digits, exponent)) => format!("{digits}e{:+03}", exponent.parse::<i32>().unwrap_or(0)),
        None => text,
    }
}

fn write_string_repr(content: &str, text: &mut String) {
    let quote = if content.contains('\'') && !content.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for c in content.chars() {
        match c {
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            _ if c == quote || c == '\\' => text.extend(['\\', c]),
            ' '..='~' => text.push(c),
            _ if is_printable(c) => text.push(c),
            _ => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(text, "\\x{code:02x}"),
                    0x100..=0xffff => write!(text, "\\u{code:04x}"),
                    _ => write!(text, "\\U{code:08x}"),
                };
            }
        }
    }
    text.push(quote);
}

/// `str.isprintable`. After a letter, Rust escapes what cannot be printed and nothing else.
fn is_printable(c: char) -> bool {
    let text: String = ['a', c].into_iter().collect();
    !c.is_ascii_control() && text.escape_debug().eq(text.chars())
}

/// What `json.dumps` takes.
pub(crate) struct JsonOptions {
    pub(crate) ensure_ascii: bool,
    pub(crate) indent: Option<String>,
    pub(crate) separators: [String; 2],
    pub(crate) sort_keys: bool,
}

impl JsonOptions {
    /// `json.dumps(value)`, at the end of a text.
    ///
    /// # Errors
    /// A value that JSON does not have.
    pub(crate) fn write(
        &self,
        state: &State<'_, '_>,
        value: &Value,
        depth: usize,
        text: &mut String,
    ) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => text.push_str(&json_number(value)?),
            ValueKind::String => self.write_text(value.as_str().unwrap_or_default(), text),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.write_items(state, ('[', ']'), &items, depth, text, |item, text| {
                    self.write(state, item, depth + 1, text)
                })?;
            }
            ValueKind::Map if is_dict(value) => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys = sorted_by(keys, compare)?;
                }
                self.write_items(state, ('{', '}'), &keys, depth, text, |key, text| {
                    self.write_key(key, text)?;
                    text.push_str(&self.separators[1]);
                    self.write(state, &value.get_item(key)?, depth + 1, text)
                })?;
            }
            kind => return Err(fail(format!("tojson: {kind} is nothing that JSON has"))),
        }
        Ok(())
    }

    fn write_items(
        &self,
        state: &State<'_, '_>,
        (open, close): (char, char),
        items: &[Value],
        depth: usize,
        text: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let new_line = |depth: usize, text: &mut String| -> Result<(), Error> {
            if let Some(indent) = &self.indent {
                charge_bytes(state, indent.len().saturating_mul(depth))?;
                text.push('\n');
                (0..depth).for_each(|_| text.push_str(indent));
            }
            Ok(())
        };
        text.push(open);
        for (index, item) in items.iter().enumerate() {
            text.push_str(if index > 0 { &self.separators[0] } else { "" });
            new_line(depth + 1, text)?;
            write(item, text)?;
        }
        if !items.is_empty() {
            new_line(depth, text)?;
        }
        text.push(close);
        Ok(())
    }

    fn write_key(&self, key: &Value, text: &mut String) -> Result<(), Error> {
        let name = match key.kind() {
            ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
            ValueKind::None => "null".to_owned(),
            ValueKind::Bool => if key.is_true() { "true" } else { "false" }.to_owned(),
            ValueKind::Number => json_number(key)?,
            kind => return Err(fail(format!("tojson: {kind} is no key of an object"))),
        };
        self.write_text(&name, text);
        Ok(())
    }

    fn write_text(&self, content: &str, text: &mut String) {
        text.push('"');
        for c in content.chars() {
            match c {
                '"' | '\\' => text.extend(['\\', c]),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\x08' => text.push_str("\\b"),
                '\x0c' => text.push_str("\\f"),
                ' '..='~' => text.push(c),
                _ if c >= ' ' && !self.ensure_ascii => text.push(c),
                _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                    let _ = write!(text, "\\u{unit:04x}");
                }),
            }
        }
        text.push('"');
    }
}

fn json_number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    let x = f64::try_from(value.clone())?;
    Ok(match x {
        _ if x.is_nan() => "NaN".into(),
        _ if x.is_infinite() => if x > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        _ => float_repr(x),
    })
}

/// `<`, `==` and `>` of Python; `None` where all of them are false (NaN).
///
/// # Errors
/// Two values that have no order.
pub(crate) fn compare(a: &Value, b: &Value) -> Result<Option<Ordering>, Error> {
    let is_number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    let is_list = |value: &Value| matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
    if is_number(a) && is_number(b) {
        return Ok(match (integer(a), integer(b)) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => number(a)?.partial_cmp(&number(b)?),
        });
    }
    match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => return Ok(Some(a.cmp(b))),
        _ if is_list(a) && is_list(b) && a.is_tuple() == b.is_tuple() => {}
        _ => return Err(fail(format!("{} and {} have no order", a.kind(), b.kind()))),
    }
    let (mut left, mut right) = (a.try_iter()?, b.try_iter()?);
    loop {
        match (left.next(), right.next()) {
            (None, None) => return Ok(Some(Ordering::Equal)),
            (None, _) => return Ok(Some(Ordering::Less)),
            (_, None) => return Ok(Some(Ordering::Greater)),
            (Some(a), Some(b)) if a == b => {}
            (Some(a), Some(b)) => return compare(&a, &b),
        }
    }
}

/// An integer or a boolean.
pub(crate) fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// An argument that is a whole number; `default` where it is none.
pub(crate) fn integer_argument(value: &Value, default: i64) -> Result<i64, Error> {
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(default),
        kind => {
            let n = integer(value).and_then(|n| i64::try_from(n).ok());
            n.ok_or_else(|| fail(format!("{kind} is not a whole number that counts something here")))
        }
    }
}

/// An argument that is a width; 0 below it.
pub(crate) fn width_argument(value: &Value, default: i64) -> Result<usize, Error> {
    Ok(usize::try_from(integer_argument(value, default)?).unwrap_or(0))
}

/// A number or a boolean, as a float.
///
/// # Errors
/// Anything else.
pub(crate) fn number(value: &Value) -> Result<f64, Error> {
    match value.kind() {
        ValueKind::Bool => Ok(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()),
        kind => Err(fail(format!("{kind} is not a number"))),
    }
}

/// `item in container`.
///
/// # Errors
/// A container that nothing is in, or of text where the item is none.
pub(crate) fn contains(container: &Value, item: &Value) -> Result<bool, Error> {
    match (container.kind(), container.as_str(), item.as_str()) {
        (_, Some(text), Some(part)) => Ok(text.contains(part)),
        (_, Some(_), None) => Err(fail(format!("`in` looks for text in a text, not for {}", item.kind()))),
        (ValueKind::Undefined, ..) => Ok(false),
        (ValueKind::Map, ..) => Ok(container.as_object().is_some_and(|object| object.get_value(item).is_some())),
        (ValueKind::Seq | ValueKind::Iterable, ..) => Ok(container.try_iter()?.any(|other| other == *item)),
        (kind, ..) => Err(fail(format!("`in`: {kind} holds nothing"))),
    }
}

/// The values in order, stably. The order may fail or be none (NaN), so that this is a merge sort of its own.
///
/// # Errors
/// The order's.
pub(crate) fn sorted_by<T: Clone>(
    mut values: Vec<T>,
    order: impl Fn(&T, &T) -> Result<Option<Ordering>, Error> + Copy,
) -> Result<Vec<T>, Error> {
    if values.len() < 2 {
        return Ok(values);
    }
    let right = sorted_by(values.split_off(values.len() / 2), order)?;
    let left = sorted_by(values, order)?;
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if order(b, a)? == Some(Ordering::Less) { right.next() } else { left.next() };
        merged.extend(next);
    }
    merged.extend(left.chain(right));
    Ok(merged)
}
