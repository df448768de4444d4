//! Reads an experiment file and `--set` arguments as TOML, with the span of each value.

use crate::span::{SourceMap, SourceSpan};
use crate::{Error, Result};
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use toml::{Table, Value};

/// Bytes of an experiment file.
const MAX_BYTES: u64 = 4 << 20;
/// Nested tables in a key on the command line.
const MAX_DEPTH: usize = 16;

/// Reads a file of at most [`MAX_BYTES`].
pub(crate) fn read_bounded(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::other(format!("it is larger than the limit of {} MB", MAX_BYTES >> 20)));
    }
    Ok(text)
}

/// Parses a file; returns its values and the span of each.
pub(crate) fn read_toml(file: &SourceSpan) -> Result<(Table, SourceMap)> {
    let syntax = |message: &str, span: Option<Range<usize>>| Error::Syntax {
        message: message.into(),
        span: Box::new(SourceSpan { span: span.unwrap_or(0..0), ..file.clone() }),
    };
    let parsed: toml_edit::Document<&str> =
        toml_edit::Document::parse(file.text.as_str()).map_err(|e| syntax(e.message(), e.span()))?;
    let values: Table = toml::from_str(&file.text).map_err(|e| syntax(e.message(), e.span()))?;
    let mut sources = SourceMap::new(file.clone());
    collect_spans("", parsed.as_table(), file, &mut sources);
    Ok((values, sources))
}

fn collect_spans(prefix: &str, table: &dyn toml_edit::TableLike, file: &SourceSpan, sources: &mut SourceMap) {
    for (name, item) in table.iter() {
        let key = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        // The value's span for leaves, the header's for tables, else the key's own.
        let span = match item {
            toml_edit::Item::Value(value) => value.span(),
            other => other.span().or_else(|| table.key(name).and_then(toml_edit::Key::span)),
        };
        let key_span = table.get_key_value(name).and_then(|(k, _)| k.span());
        if let Some(span) = key_span.clone() {
            sources.insert_name(key.clone(), SourceSpan { span, ..file.clone() });
        }
        if let Some(span) = span.or(key_span) {
            sources.insert(key.clone(), SourceSpan { span, ..file.clone() });
        }
        if let Some(inner) = item.as_table_like() {
            collect_spans(&key, inner, file, sources);
        }
        for (number, inner) in (1..).zip(item.as_array_of_tables().into_iter().flatten()) {
            let key = format!("{key}.{number}"); // the first is 1
            if let Some(span) = inner.span() {
                sources.insert(key.clone(), SourceSpan { span, ..file.clone() });
            }
            collect_spans(&key, inner, file, sources);
        }
    }
}

/// Parses a `key=value` argument of `--set`.
pub(crate) fn read_override(argument: &str) -> Result<(Table, SourceSpan)> {
    let invalid = || Error::Override { argument: argument.into() };
    let (key, value) = argument.split_once('=').ok_or_else(invalid)?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.split('.').any(str::is_empty) || key.split('.').count() > MAX_DEPTH {
        return Err(invalid());
    }
    let value = toml::from_str::<Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut table| table.remove("v"))
        .filter(|value| !matches!(value, Value::Datetime(_))) // a time such as 04:00:00 is a string here
        .unwrap_or_else(|| Value::String(value.into()));
    let table = key.rsplit('.').fold(value, |inner, name| Value::Table(Table::from_iter([(name.to_string(), inner)])));
    let Value::Table(table) = table else { return Err(invalid()) };
    Ok((table, SourceSpan { name: "the command line, --set".into(), text: argument.into(), span: 0..argument.len() }))
}
