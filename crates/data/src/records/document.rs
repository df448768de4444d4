//! A JSON file that is one object: of columns, as pandas writes it, or of rows under a name. It is read as a whole, so its size
//! is limited.

use super::json::{UniqueKeys, not_json};
use super::numbered::NumberedRecord;
use crate::json::Json;
use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::io::Read;
use std::ops::Range;

/// Bytes of a file that is one object.
const MAX_DOCUMENT: u64 = 64 << 20;

/// The rows of a document, each with its line; those of columns with their number.
pub(super) fn rows(bytes: Box<dyn Read + Send>) -> std::result::Result<Vec<NumberedRecord<Json>>, String> {
    let mut text = vec![];
    bytes.take(MAX_DOCUMENT + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
    if text.len() as u64 > MAX_DOCUMENT {
        return Err(format!("a JSON object of more than {} MiB: write its rows as JSON lines", MAX_DOCUMENT >> 20));
    }
    let mut scanner = Scanner { text: &text, position: 0 };
    if scanner.next_byte().is_none() {
        return Err("the file is empty".into());
    }
    let first = scanner.object()?;
    let mut rows = match scanner.next_byte() {
        None => return first.rows(&text),
        // objects one after another, over several lines each
        Some(_) => vec![scanner.row(first.range.clone())],
    };
    while scanner.next_byte().is_some() {
        let object = scanner.object()?;
        rows.push(scanner.row(object.range));
    }
    Ok(rows)
}

/// An object of the text: where it is, and where its values are.
struct ObjectSpan {
    range: Range<usize>,
    fields: Vec<(String, Range<usize>)>,
}

/// Reads JSON values one after another, with their positions.
struct Scanner<'a> {
    text: &'a [u8],
    position: usize,
}

impl Scanner<'_> {
    /// The next byte that is no whitespace; it is not consumed.
    fn next_byte(&mut self) -> Option<u8> {
        let spaces = self.text[self.position..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.position += spaces;
        self.text.get(self.position).copied()
    }

    fn line(&self, position: usize) -> usize {
        self.text[..position].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    fn expect(&mut self, accepted: &[u8]) -> std::result::Result<u8, String> {
        match self.next_byte() {
            Some(byte) if accepted.contains(&byte) => {
                self.position += 1;
                Ok(byte)
            }
            _ => Err(format!("line {}: it is not valid JSON", self.line(self.position.min(self.text.len())))),
        }
    }

    fn value<T: DeserializeOwned>(&mut self) -> std::result::Result<(T, Range<usize>), String> {
        self.next_byte();
        let start = self.position;
        let mut values = serde_json::Deserializer::from_slice(&self.text[start..]).into_iter::<T>();
        match values.next() {
            Some(Ok(value)) => {
                self.position = start + values.byte_offset();
                Ok((value, start..self.position))
            }
            Some(Err(e)) => Err(format!("line {}: {}", self.line(start) + e.line() - 1, not_json(&e))),
            None => Err("the file ends within an object".into()),
        }
    }

    /// An object, of which only the names are read.
    fn object(&mut self) -> std::result::Result<ObjectSpan, String> {
        self.expect(b"{")?;
        let (start, mut fields) = (self.position - 1, vec![]);
        if self.next_byte() == Some(b'}') {
            self.position += 1;
            return Ok(ObjectSpan { range: start..self.position, fields });
        }
        loop {
            let (name, _) = self.value::<String>()?;
            self.expect(b":")?;
            let (_, range) = self.value::<IgnoredAny>()?;
            fields.push((name, range));
            if self.expect(b",}")? == b'}' {
                return Ok(ObjectSpan { range: start..self.position, fields });
            }
        }
    }

    fn row(&self, range: Range<usize>) -> NumberedRecord<Json> {
        (self.line(range.start), parse(&self.text[range]))
    }
}

fn parse(text: &[u8]) -> std::result::Result<Json, String> {
    let mut json = serde_json::Deserializer::from_slice(text);
    UniqueKeys::deserialize(&mut json).map(|UniqueKeys(row)| row).map_err(|e| not_json(&e))
}

/// Whether an object is a turn of a conversation, and no row.
fn is_turn(value: &Json) -> bool {
    ["role", "from"].iter().any(|name| value.get(name).is_some())
}

impl ObjectSpan {
    fn rows(self, text: &[u8]) -> std::result::Result<Vec<NumberedRecord<Json>>, String> {
        let scanner = Scanner { text, position: 0 };
        let Json::Object(fields) = parse(&text[self.range.clone()])? else { return Ok(vec![]) };
        let is_rows = |value: &Json| match value {
            Json::List(items) => matches!(items.first(), Some(first @ Json::Object(_)) if !is_turn(first)),
            _ => false,
        };
        let lists: Vec<&String> = fields.iter().filter(|(_, value)| is_rows(value)).map(|(name, _)| name).collect();
        let is_single_list = lists.len() == 1 && !fields.values().any(|value| is_column(value) && !is_rows(value));
        if lists.len() > 1 && fields.values().all(is_rows) {
            let names = lists.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            return Err(format!("it has the lists of rows {names}: write each to a file of its own"));
        }
        if is_single_list {
            let range = self.fields.iter().find(|(name, _)| name == lists[0]).map(|(_, range)| range.clone());
            return list_rows(text, range.unwrap_or_default());
        }
        if let Some(rows) = row_objects(&fields).or_else(|| columns(&fields)) {
            return Ok(rows);
        }
        Ok(vec![scanner.row(self.range)])
    }
}

/// The items of a list of the text.
fn list_rows(text: &[u8], range: Range<usize>) -> std::result::Result<Vec<NumberedRecord<Json>>, String> {
    let mut scanner = Scanner { text: &text[..range.end], position: range.start };
    let (mut rows, mut line, mut counted) = (vec![], scanner.line(range.start), range.start);
    scanner.expect(b"[")?;
    loop {
        let (_, range) = scanner.value::<IgnoredAny>()?;
        line += text[counted..range.start].iter().filter(|byte| **byte == b'\n').count();
        counted = range.start;
        rows.push((line, parse(&text[range])));
        if scanner.expect(b",]")? == b']' {
            return Ok(rows);
        }
    }
}

fn is_column(value: &Json) -> bool {
    matches!(value, Json::List(_))
}

/// Whether every name is a number: pandas' index.
fn is_index(fields: &IndexMap<String, Json>) -> bool {
    !fields.is_empty() && fields.keys().all(|name| name.parse::<u64>().is_ok())
}

/// Rows by their index: `{"0": {"prompt": …}, …}`.
fn row_objects(fields: &IndexMap<String, Json>) -> Option<Vec<NumberedRecord<Json>>> {
    let are_objects = fields.values().all(|value| matches!(value, Json::Object(_)));
    (is_index(fields) && are_objects)
        .then(|| fields.values().enumerate().map(|(index, row)| (index + 1, Ok(row.clone()))).collect())
}

/// Columns, as lists or by an index: `{"prompt": […], …}`, `{"prompt": {"0": …}, …}`.
fn columns(fields: &IndexMap<String, Json>) -> Option<Vec<NumberedRecord<Json>>> {
    let cells = |value: &Json| match value {
        Json::List(items) => Some(items.clone()),
        Json::Object(fields) if is_index(fields) => Some(fields.values().cloned().collect()),
        _ => None,
    };
    let columns = fields.iter().map(|(name, value)| Some((name, cells(value)?))).collect::<Option<Vec<_>>>()?;
    let rows = columns.first()?.1.len();
    // a row whose columns are all lists of turns
    let is_row = columns.iter().all(|(_, cells)| cells.first().is_some_and(is_turn));
    if is_row || columns.iter().any(|(_, cells)| cells.len() != rows) {
        return None;
    }
    let row = |index: usize| columns.iter().map(|(name, cells)| ((*name).clone(), cells[index].clone())).collect();
    Some((0..rows).map(|index| (index + 1, Ok(Json::Object(row(index))))).collect())
}
