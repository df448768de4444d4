//! The methods that Python's values have, as templates call and test them.

use crate::metering::charge_bytes;
use crate::python_format::str_format;
use crate::python_value::{fail, integer_argument, is_dict};
use minijinja::value::{Kwargs, Object, ObjectRepr, Tuple, ValueKind};
use minijinja::{Error, State, Value};
use std::sync::Arc;

const DICT: [&str; 6] = ["copy", "fromkeys", "get", "items", "keys", "values"];
const LIST: [&str; 3] = ["copy", "count", "index"];
const STR: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
/// Methods that change a value, which the sandbox hides.
const HIDDEN: [&str; 12] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "__class__",
];

/// Whether a value of some type has a method of this name.
pub(crate) fn is_method(name: &str) -> bool {
    DICT.contains(&name) || LIST.contains(&name) || STR.contains(&name) || HIDDEN.contains(&name)
}

/// A method that is not called: `{% if value.items %}` holds.
#[derive(Debug)]
struct BoundMethod {
    receiver: Value,
    name: String,
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
        self.receiver.call_method(state, &self.name, arguments)
    }
}

fn bound_method(value: &Value, name: &str) -> Option<Value> {
    let names: &[&str] = match value.kind() {
        ValueKind::String => &STR,
        ValueKind::Map if is_dict(value) => &DICT,
        ValueKind::Seq if value.is_tuple() => &LIST[1..],
        ValueKind::Seq => &LIST,
        _ => return None,
    };
    names.contains(&name).then(|| Value::from_object(BoundMethod { receiver: value.clone(), name: name.to_owned() }))
}

/// `value.name`: its method, where it has one of this name, then its item.
pub(crate) fn attribute(value: &Value, name: &str) -> Result<Value, Error> {
    let has_own = is_dict(value) || matches!(value.kind(), ValueKind::Seq | ValueKind::String);
    match bound_method(value, name) {
        Some(method) => Ok(method),
        None if has_own && HIDDEN.contains(&name) => Ok(Value::UNDEFINED),
        None => value.get_attr(name),
    }
}

/// `value[key]`: its item, then its method of this name.
pub(crate) fn item(value: &Value, key: &Value) -> Result<Value, Error> {
    let item = value.get_item(key)?;
    match key.as_str().filter(|_| item.is_undefined()) {
        Some(name) => Ok(bound_method(value, name).unwrap_or(item)),
        None => Ok(item),
    }
}

/// `value[start:stop:step]`.
///
/// # Errors
/// A value without an order, such as a map; a step of zero; bounds that are no whole numbers.
pub(crate) fn slice(state: &State<'_, '_>, bounds: &[Value]) -> Result<Value, Error> {
    let [value, start, stop, step] = bounds else { return Err(fail("a slice has three bounds")) };
    let step = integer_argument(step, 1)?;
    if step == 0 {
        return Err(fail("a slice with a step of zero"));
    }
    let items: Vec<Value> = match (value.kind(), value.as_str()) {
        (ValueKind::None, _) => return Ok(Value::UNDEFINED),
        (ValueKind::Seq | ValueKind::Iterable, _) => value.try_iter()?.collect(),
        (_, Some(text)) => {
            charge_bytes(state, text.len())?;
            let indices = slice_indices(text.chars().count() as i64, start, stop, step)?;
            let chars: Vec<char> = text.chars().collect();
            let part: String = indices.map(|index| chars[index]).collect();
            return Ok(if value.is_safe() { Value::from_safe_string(part) } else { part.into() });
        }
        (kind, _) => return Err(fail(format!("a slice of {kind}"))),
    };
    charge_bytes(state, items.len() * size_of::<Value>())?;
    let part: Vec<Value> =
        slice_indices(items.len() as i64, start, stop, step)?.map(|index| items[index].clone()).collect();
    Ok(if value.is_tuple() { Value::from(Tuple::from(part)) } else { part.into() })
}

/// The indices of a slice, as `slice.indices` of Python bounds them.
fn slice_indices(length: i64, start: &Value, stop: &Value, step: i64) -> Result<impl Iterator<Item = usize>, Error> {
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bounded = |index: i64| if index < 0 { index.saturating_add(length).max(low) } else { index.min(high) };
    let bound = |value: &Value, default: i64| match value.is_none() {
        true => Ok(default),
        false => integer_argument(value, default).map(bounded),
    };
    let (first, end) = if step > 0 { (low, high) } else { (high, low) };
    let (mut index, end) = (bound(start, first)?, bound(stop, end)?);
    Ok(std::iter::from_fn(move || {
        let current = ((step > 0 && index < end) || (step < 0 && index > end)).then_some(index as usize);
        index = index.saturating_add(step);
        current
    }))
}

/// Arguments by their names; undefined where there is none.
///
/// # Errors
/// More arguments, or others.
pub(crate) fn bind<const N: usize>(arguments: &[Value], names: [&str; N]) -> Result<[Value; N], Error> {
    let (positional, named) = match arguments.split_last() {
        Some((last, rest)) if last.is_kwargs() => (rest, Some(Kwargs::try_from(last.clone())?)),
        _ => (arguments, None),
    };
    if positional.len() > N {
        return Err(fail(format!("{} arguments, of at most {N}", positional.len())));
    }
    let mut values = std::array::from_fn(|index| positional.get(index).cloned().unwrap_or_default());
    if let Some(named) = named {
        for (index, name) in names.iter().enumerate().filter(|(_, name)| named.has(name)) {
            if index < positional.len() {
                return Err(fail(format!("two values for the argument `{name}`")));
            }
            values[index] = named.get(name)?;
        }
        named.assert_all_used()?;
    }
    Ok(values)
}

/// An argument that is text.
fn text_argument<'a>(value: &'a Value, method: &str) -> Result<&'a str, Error> {
    value.as_str().ok_or_else(|| fail(format!("`{method}` of {}, not of text", value.kind())))
}

/// Python's methods where minijinja has none, or another.
pub(crate) fn call_method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let library = minijinja_contrib::pycompat::unknown_method_callback;
    match value.as_str() {
        Some(_) if value.is_safe() => match name {
            "strip" | "lstrip" | "rstrip" | "upper" | "lower" => {
                let text = library(state, value, name, arguments)?;
                Ok(Value::from_safe_string(text.to_string()))
            }
            _ => Err(fail(format!("`{name}` of text that is marked safe or escaped is not supported"))),
        },
        Some(text) => match string_method(state, text, name, arguments)? {
            Some(result) => Ok(result),
            None => library(state, value, name, arguments),
        },
        None => match (value.kind(), name) {
            (ValueKind::Map | ValueKind::Seq, "copy") if arguments.is_empty() => Ok(value.clone()),
            (ValueKind::Seq, "index") => {
                let [item] = bind(arguments, ["value"])?;
                let index = value.try_iter()?.position(|other| other == item);
                index.map(Value::from).ok_or_else(|| fail("`index` of what is not in the list"))
            }
            _ => library(state, value, name, arguments),
        },
    }
}

fn string_method(state: &State<'_, '_>, text: &str, name: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    let list = |parts: Vec<&str>| Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>());
    Ok(Some(match name {
        "split" | "rsplit" => {
            let [separator, most] = bind(arguments, ["sep", "maxsplit"])?;
            let most = usize::try_from(integer_argument(&most, -1)?).unwrap_or(usize::MAX);
            list(split(text, &separator, most, name == "rsplit")?)
        }
        "splitlines" => {
            let [keep_ends] = bind(arguments, ["keepends"])?;
            list(split_lines(text, keep_ends.is_true()))
        }
        "title" if arguments.is_empty() => title(text)?.into(),
        "swapcase" if arguments.is_empty() => text.chars().flat_map(swapped_case).collect::<String>().into(),
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, arguments)?,
        "removeprefix" => {
            let [prefix] = bind(arguments, ["prefix"])?;
            text.strip_prefix(text_argument(&prefix, name)?).unwrap_or(text).into()
        }
        "removesuffix" => {
            let [suffix] = bind(arguments, ["suffix"])?;
            text.strip_suffix(text_argument(&suffix, name)?).unwrap_or(text).into()
        }
        "partition" | "rpartition" => {
            let [separator] = bind(arguments, ["sep"])?;
            partition(text, text_argument(&separator, name)?, name == "rpartition")?
        }
        "join" => {
            let [items] = bind(arguments, ["iterable"])?;
            join_texts(state, text, &items)?
        }
        "replace" => {
            let [old, new, most] = bind(arguments, ["old", "new", "count"])?;
            let (old, new) = (text_argument(&old, name)?, text_argument(&new, name)?);
            let most = usize::try_from(integer_argument(&most, -1)?).unwrap_or(usize::MAX);
            charge_bytes(state, text.matches(old).count().min(most).saturating_mul(new.len()))?;
            text.replacen(old, new, most).into()
        }
        "center" | "ljust" | "rjust" | "zfill" => pad(state, text, name, arguments)?,
        "isdigit" | "isdecimal" | "isnumeric" => {
            if text.chars().any(|c| !c.is_ascii() && c.is_numeric()) {
                return Err(fail(format!("`{name}` of digits other than 0 to 9 is not supported")));
            }
            Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit()))
        }
        "format" => str_format(state, text, arguments)?,
        _ => return Ok(None),
    }))
}

/// Parts between separators; between runs of spaces where there is none.
fn split<'a>(text: &'a str, separator: &Value, most: usize, from_right: bool) -> Result<Vec<&'a str>, Error> {
    if separator.is_none() || separator.is_undefined() {
        return Ok(if from_right { split_spaces_right(text, most) } else { split_spaces(text, most) });
    }
    let separator = text_argument(separator, "split")?;
    if separator.is_empty() {
        return Err(fail("`split` at an empty text"));
    }
    let parts = most.saturating_add(1);
    if !from_right {
        return Ok(text.splitn(parts, separator).collect());
    }
    let mut pieces: Vec<&str> = text.rsplitn(parts, separator).collect();
    pieces.reverse();
    Ok(pieces)
}

fn split_spaces(text: &str, most: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (vec![], text.trim_start());
    while !rest.is_empty() {
        let end = rest.find(char::is_whitespace).filter(|_| parts.len() < most).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    parts
}

fn split_spaces_right(text: &str, most: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (vec![], text.trim_end());
    while !rest.is_empty() {
        let last = rest.char_indices().rfind(|(_, c)| c.is_whitespace()).filter(|_| parts.len() < most);
        let start = last.map_or(0, |(index, c)| index + c.len_utf8());
        parts.push(&rest[start..]);
        rest = rest[..start].trim_end();
    }
    parts.reverse();
    parts
}

/// `str.splitlines`.
pub(crate) fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let (mut lines, mut rest) = (vec![], text);
    while let Some(end) = rest.find(is_end) {
        let length =
            if rest[end..].starts_with("\r\n") { 2 } else { rest[end..].chars().next().map_or(0, char::len_utf8) };
        lines.push(&rest[..if keep_ends { end + length } else { end }]);
        rest = &rest[end + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Every letter after what is none in upper case, all others in lower case.
fn title(text: &str) -> Result<String, Error> {
    let mut is_inside = false;
    let mut result = String::with_capacity(text.len());
    for c in text.chars() {
        let is_cased = c.is_lowercase() || c.is_uppercase() || c.to_lowercase().ne([c]);
        let mut upper = c.to_uppercase();
        match (is_inside, upper.next()) {
            (false, Some(first)) => {
                // digraphs have a case of their own for titles
                if ('\u{1c4}'..='\u{1f3}').contains(&c) || ('\u{1f80}'..='\u{1ffc}').contains(&c) {
                    return Err(fail(format!("`title` of {c:?} is not supported")));
                }
                result.push(first);
                upper.for_each(|rest| result.extend(rest.to_lowercase()));
            }
            _ => result.extend(c.to_lowercase()),
        }
        is_inside = is_cased;
    }
    Ok(result)
}

fn swapped_case(c: char) -> Box<dyn Iterator<Item = char>> {
    if c.is_uppercase() { Box::new(c.to_lowercase()) } else { Box::new(c.to_uppercase()) }
}

/// The bytes of the characters from `start` to `end`, which may count from the end.
fn range_of(text: &str, start: &Value, end: &Value) -> Result<Option<std::ops::Range<usize>>, Error> {
    if start.is_undefined() && end.is_undefined() {
        return Ok(Some(0..text.len()));
    }
    let length = text.chars().count() as i64;
    let place = |index: i64| if index < 0 { (length + index).max(0) } else { index };
    let (start, end) = (place(integer_argument(start, 0)?), place(integer_argument(end, length)?).min(length));
    let byte = |index: i64| text.char_indices().nth(index as usize).map_or(text.len(), |(byte, _)| byte);
    Ok((start <= end).then(|| byte(start)..byte(end)))
}

fn search(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [part, start, end] = bind(arguments, ["sub", "start", "end"])?;
    let range = range_of(text, &start, &end)?;
    if let "startswith" | "endswith" = name {
        let parts = if part.is_tuple() { part.try_iter()?.collect() } else { vec![part] };
        let mut holds = false;
        for part in &parts {
            let part = text_argument(part, name)?;
            let window = range.clone().map(|range| &text[range]);
            holds |= window.is_some_and(|window| match name {
                "startswith" => window.starts_with(part),
                _ => window.ends_with(part),
            });
        }
        return Ok(holds.into());
    }
    let part = text_argument(&part, name)?;
    let Some(range) = range else { return Ok(Value::from(if name == "count" { 0 } else { -1 })) };
    let window = &text[range.clone()];
    let byte = match name {
        "count" => return Ok(window.matches(part).count().into()),
        "find" | "index" => window.find(part),
        _ => window.rfind(part),
    };
    match byte {
        Some(byte) => Ok(text[..range.start + byte].chars().count().into()),
        None if name.ends_with("index") => Err(fail(format!("`{name}` of what is not in the text"))),
        None => Ok(Value::from(-1)),
    }
}

fn partition(text: &str, separator: &str, from_right: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(fail("`partition` at an empty text"));
    }
    let parts = match if from_right { text.rsplit_once(separator) } else { text.split_once(separator) } {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from).to_vec())))
}

fn join_texts(state: &State<'_, '_>, separator: &str, items: &Value) -> Result<Value, Error> {
    let items: Vec<Value> = items.try_iter()?.collect();
    let texts = items.iter().map(|item| text_argument(item, "join")).collect::<Result<Vec<_>, _>>()?;
    join_strings(state, separator, &texts).map(Value::from)
}

/// Texts with a separator between them.
pub(crate) fn join_strings(state: &State<'_, '_>, separator: &str, texts: &[&str]) -> Result<String, Error> {
    let bytes = texts.iter().map(|text| text.len()).sum::<usize>();
    charge_bytes(state, bytes.saturating_add(separator.len().saturating_mul(texts.len())))?;
    Ok(texts.join(separator))
}

fn pad(state: &State<'_, '_>, text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let [width, fill] = bind(arguments, ["width", "fillchar"])?;
    let fill = if fill.is_undefined() { Value::from(" ") } else { fill };
    let fill = text_argument(&fill, name)?;
    if fill.chars().count() != 1 {
        return Err(fail(format!("`{name}` fills with one character")));
    }
    let length = text.chars().count();
    let width = usize::try_from(integer_argument(&width, 0)?).unwrap_or(0);
    let missing = width.saturating_sub(length);
    charge_bytes(state, missing.saturating_mul(fill.len()))?;
    let (left, right) = match name {
        "ljust" => (0, missing),
        "rjust" | "zfill" => (missing, 0),
        // as CPython rounds
        _ => {
            let left = missing / 2 + (missing & width & 1);
            (left, missing - left)
        }
    };
    if name == "zfill" {
        let digits = text.trim_start_matches(['+', '-']);
        let sign = &text[..if digits.len() < text.len() { 1 } else { 0 }];
        return Ok(format!("{sign}{}{}", "0".repeat(missing), &text[sign.len()..]).into());
    }
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(right)).into())
}
