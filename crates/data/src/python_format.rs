//! Python's two ways of formatting text: `%` and `str.format`. Widths are charged before they are written.

use crate::metering::charge_bytes;
use crate::python_value::{fail, integer, number, python_str, write_repr};
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

/// One `%` of a format: `%(key)-5.2f`.
struct Conversion<'a> {
    key: Option<&'a str>,
    flags: &'a str,
    width: &'a str,
    precision: Option<&'a str>,
    kind: char,
}

/// Reads a conversion after its `%`; also returns what follows.
fn read_conversion(text: &str) -> Result<(Conversion<'_>, &str), Error> {
    let incomplete = || fail("`%` at the end of a format");
    let (key, text) = match text.strip_prefix('(') {
        Some(rest) => rest.split_once(')').map(|(key, rest)| (Some(key), rest)).ok_or_else(incomplete)?,
        None => (None, text),
    };
    let cut = |text: &'_ str, accepted: &[char]| text.len() - text.trim_start_matches(accepted).len();
    const DIGITS: [char; 10] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'];
    let (flags, text) = text.split_at(cut(text, &['#', '0', '-', ' ', '+']));
    let (width, text) = text.split_at(cut(text, &DIGITS));
    let (precision, text) = match text.strip_prefix('.') {
        Some(rest) => {
            let (digits, rest) = rest.split_at(cut(rest, &DIGITS));
            (Some(digits), rest)
        }
        None => (None, text),
    };
    let kind = text.chars().next().ok_or_else(incomplete)?;
    if kind == '*' {
        return Err(fail("a width that is an argument is not supported"));
    }
    Ok((Conversion { key, flags, width, precision, kind }, &text[kind.len_utf8()..]))
}

impl Conversion<'_> {
    /// The value as text.
    fn apply(&self, state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
        let (kind, value) = match self.kind {
            's' => ('s', Value::from(python_str(value)?)),
            'r' => {
                let mut text = String::new();
                write_repr(value, &mut text)?;
                ('s', Value::from(text))
            }
            'i' | 'u' => ('d', value.clone()),
            kind => (kind, value.clone()),
        };
        if self.precision.is_some() && "douxX".contains(kind) {
            return Err(fail("a precision of a whole number is not supported"));
        }
        let mut bytes = value.as_str().map_or(0, str::len);
        for digits in [self.width, self.precision.unwrap_or_default()] {
            let width = if digits.is_empty() { Ok(0) } else { digits.parse::<u16>() };
            bytes += usize::from(width.map_err(|_| fail("a width or precision of more than 65535"))?);
        }
        charge_bytes(state, bytes)?;
        let precision = self.precision.map_or(String::new(), |digits| format!(".{digits}"));
        format(FormatStyle::Printf, &format!("%{}{}{precision}{kind}", self.flags, self.width), &[value])
    }
}

/// `text % arguments`.
///
/// # Errors
/// A conversion that is not supported; more arguments than conversions, or fewer.
pub(crate) fn percent(state: &State<'_, '_>, text: &str, arguments: &[Value]) -> Result<String, Error> {
    let (mut result, mut rest) = (String::new(), text);
    let mut next = arguments.iter();
    let mapping = arguments.first().filter(|first| arguments.len() == 1 && first.kind() == ValueKind::Map);
    while let Some((before, after)) = rest.split_once('%') {
        charge_bytes(state, before.len())?;
        result.push_str(before);
        let (conversion, after) = read_conversion(after)?;
        rest = after;
        if conversion.kind == '%' {
            result.push('%');
            continue;
        }
        let value = match conversion.key {
            Some(key) => {
                let mapping = mapping.ok_or_else(|| fail("a format with names takes one map"))?;
                let value = mapping.get_item(&Value::from(key))?;
                if value.is_undefined() {
                    return Err(fail(format!("the format asks for `{key}`, which is not there")));
                }
                value
            }
            None => next.next().cloned().ok_or_else(|| fail("not enough arguments for the format"))?,
        };
        result.push_str(&conversion.apply(state, &value)?);
    }
    if next.next().is_some() && mapping.is_none() {
        return Err(fail("not all arguments are used by the format"));
    }
    result.push_str(rest);
    Ok(result)
}

/// `text.format(arguments)`.
///
/// # Errors
/// Widths that are arguments, conversions such as `!r`, and lists or maps, which are not supported.
pub(crate) fn str_format(state: &State<'_, '_>, text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let plain = text.replace("{{", "").replace("}}", "");
    let widths = plain.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths: Option<usize> = widths.map(|digits| digits.parse::<u16>().ok().map(usize::from)).sum();
    let is_nested = plain.split('{').skip(1).any(|place| !place.contains('}'));
    let (Some(widths), false) = (widths, is_nested) else {
        return Err(fail("`format` with a width of more than 65535, or one that is an argument"));
    };
    let is_plain = |kind| matches!(kind, ValueKind::String | ValueKind::Number | ValueKind::Bool | ValueKind::None);
    if let Some(other) = arguments.iter().map(Value::kind).find(|kind| !is_plain(*kind)) {
        return Err(fail(format!("`format` of a {other} is not supported")));
    }
    let longest = arguments.iter().filter_map(Value::as_str).map(str::len).max().unwrap_or(0);
    let places = text.matches('{').count();
    charge_bytes(state, widths.saturating_add(places.saturating_mul(longest + 64)))?;
    format(FormatStyle::StrFormat, text, arguments).map(Value::from)
}

/// `value % other`: a format, or the remainder of a division, which has the sign of `other`.
///
/// # Errors
/// As [`percent`]; a division by zero.
pub(crate) fn modulo(state: &State<'_, '_>, value: &Value, other: &Value) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if value.is_safe() {
            return Err(fail("`%` of text that is marked safe or escaped is not supported"));
        }
        let arguments: Vec<Value> = if other.is_tuple() { other.try_iter()?.collect() } else { vec![other.clone()] };
        return percent(state, text, &arguments).map(Value::from);
    }
    if let (Some(a), Some(b)) = (integer(value), integer(other)) {
        let remainder = a.checked_rem(b).ok_or_else(|| fail("`%` by zero"))?;
        let remainder = if remainder != 0 && (remainder < 0) != (b < 0) { remainder + b } else { remainder };
        return Ok(i64::try_from(remainder).map_or_else(|_| Value::from(remainder), Value::from));
    }
    let (a, b) = (number(value)?, number(other)?);
    if b == 0.0 {
        return Err(fail("`%` by zero"));
    }
    let remainder = a % b;
    Ok(match remainder {
        _ if remainder == 0.0 => 0f64.copysign(b),
        _ if (remainder < 0.0) != (b < 0.0) => remainder + b,
        _ => remainder,
    }
    .into())
}
