//! JSON Lines, and a JSON list read item by item.

use super::limited_file::{LimitedFile, MAX_ROW, too_long};
use super::numbered::NumberedRecord;
use crate::json::Json;
use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use std::io::{BufRead, BufReader, Read};

/// A JSON object without duplicate keys.
pub(super) struct UniqueKeys(pub(super) Json);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct ObjectVisitor;
        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Json;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> std::result::Result<Json, A::Error> {
                let mut fields = IndexMap::new();
                while let Some((name, value)) = access.next_entry::<String, Json>()? {
                    if fields.contains_key(&name) {
                        return Err(A::Error::custom(format!("`{name}` occurs twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(Json::Object(fields))
            }
        }
        deserializer.deserialize_map(ObjectVisitor).map(Self)
    }
}

/// A row of JSON text on one line.
fn parse_row(text: &[u8]) -> std::result::Result<Json, String> {
    let is_object = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let value = if is_object {
        serde_json::from_slice(text).map(|UniqueKeys(value)| value)
    } else {
        serde_json::from_slice(text)
    };
    let is_opened = matches!(text.trim_ascii(), b"{" | b"[");
    let has_nan = text.windows(3).any(|word| word == b"NaN");
    value.map_err(|e| {
        if is_opened {
            return "a row over several lines: write one a line, or name the file .json".into();
        }
        let column = if e.line() == 1 { format!(" (column {})", e.column()) } else { String::new() };
        let problem = not_json(&e);
        match has_nan && problem.contains("no value") {
            true => format!("it is not valid JSON: NaN is no JSON: write null{column}"),
            false => problem + &column,
        }
    })
}

/// What the library says of text that is no JSON, and the same with what would be accepted.
const PROBLEMS: [(&str, &str); 10] = [
    ("unexpected end of hex escape", HALF_PAIR),
    ("lone leading surrogate in hex escape", HALF_PAIR),
    ("trailing comma", "a comma before a closing bracket: remove it"),
    ("trailing characters", "more text behind the end of the row: a line has one object"),
    ("key must be a string", "a name that is not in double quotes: write \"name\""),
    (
        "control character (\\u0000-\\u001F) found while parsing a string",
        "a tab or a control character within text: write it as \\t or \\u0001",
    ),
    ("invalid escape", "a backslash that begins no escape: write two of them"),
    ("expected value", "no value: text is in double quotes; numbers, true, false and null are without"),
    ("EOF while parsing", "the row ends within a value: is a quote or a bracket missing, or the file cut off?"),
    ("expected `,` or `}`", "expected `,` or `}` after a value"),
];
const HALF_PAIR: &str = "half of a surrogate pair: write the character itself, or both halves, as \\ud83d\\ude00";

/// What is wrong with JSON text.
pub(super) fn not_json(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let problem = text.split(" at line ").next().unwrap_or(&text);
    let known = PROBLEMS.iter().find(|(start, _)| problem.starts_with(start));
    format!("it is not valid JSON: {}", known.map_or(problem, |(_, problem)| problem))
}

/// JSON Lines: one value per line.
pub(super) struct JsonLines {
    reader: BufReader<Box<dyn Read + Send>>,
    line: usize,
    is_finished: bool,
}

impl JsonLines {
    pub(super) fn new(bytes: Box<dyn Read + Send>) -> Self {
        Self { reader: BufReader::with_capacity(1 << 16, bytes), line: 0, is_finished: false }
    }
}

impl Iterator for JsonLines {
    type Item = NumberedRecord<Json>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_finished {
            let mut bytes = vec![];
            let read = (&mut self.reader).take(MAX_ROW as u64 + 1).read_until(b'\n', &mut bytes);
            self.line += 1;
            let problem = match read {
                Ok(0) => {
                    self.is_finished = true;
                    return None;
                }
                Ok(count) if count > MAX_ROW => too_long(),
                Ok(_) => {
                    if bytes.trim_ascii().is_empty() {
                        continue;
                    }
                    return Some((self.line, parse_row(&bytes)));
                }
                Err(e) => e.to_string(),
            };
            self.is_finished = true;
            return Some((self.line, Err(problem)));
        }
        None
    }
}

/// Bytes whose line breaks are counted as they are consumed.
struct CountedReader {
    reader: BufReader<LimitedFile>,
    /// The line of the next byte.
    line: usize,
}

impl Read for CountedReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.line += buffer[..count].iter().filter(|byte| **byte == b'\n').count();
        Ok(count)
    }
}

impl CountedReader {
    fn consume(&mut self, count: usize) {
        self.line += self.reader.buffer()[..count].iter().filter(|byte| **byte == b'\n').count();
        self.reader.consume(count);
    }
}

/// A JSON list, item by item.
pub(super) struct JsonList {
    reader: CountedReader,
    /// Items read; `usize::MAX` after the end.
    row: usize,
}

impl JsonList {
    pub(super) fn new(bytes: Box<dyn Read + Send>) -> Self {
        Self { reader: CountedReader { reader: BufReader::new(LimitedFile::new(bytes)), line: 1 }, row: 0 }
    }

    /// The next byte that is not whitespace, without consuming it.
    fn first_byte(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            self.reader.reader.get_ref().start_row();
            let bytes = self.reader.reader.fill_buf()?;
            let spaces = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let (next, is_end) = (bytes.get(spaces).copied(), bytes.is_empty());
            self.reader.consume(spaces);
            if next.is_some() || is_end {
                return Ok(next);
            }
        }
    }

    /// The next item, and the line on which it begins; `None` after the last.
    fn item(&mut self) -> std::result::Result<Option<(usize, Json)>, String> {
        let opening = if self.row == 0 { b'[' } else { b',' };
        let first = self.first_byte().map_err(|e| e.to_string())?;
        match first {
            Some(b']') if self.row > 0 => return Ok(None),
            Some(byte) if byte == opening => self.reader.consume(1),
            Some(byte) => return Err(format!("expected `,` or `]` after a row, found `{}`", char::from(byte))),
            None => return Err("the list is not closed".into()),
        }
        match self.first_byte().map_err(|e| e.to_string())? {
            Some(b']') if self.row == 0 => Ok(None),
            // reads to the closing bracket of the object
            Some(b'{') => {
                let line = self.reader.line;
                let mut json = serde_json::Deserializer::from_reader(&mut self.reader);
                let row = UniqueKeys::deserialize(&mut json).map(|UniqueKeys(value)| Some((line, value)));
                row.map_err(|e| if e.is_io() { e.to_string() } else { not_json(&e) })
            }
            Some(b']') => Err("a comma before the closing bracket: remove it".into()),
            Some(byte) => Err(format!("an item of the list is no object: expected `{{`, found `{}`", char::from(byte))),
            None => Err("the list is not closed: the file is cut off".into()),
        }
    }
}

impl Iterator for JsonList {
    type Item = NumberedRecord<Json>;

    /// Invalid JSON ends the list, since the start of the next row is then unknown.
    fn next(&mut self) -> Option<Self::Item> {
        if self.row == usize::MAX {
            return None;
        }
        let item = self.item().transpose();
        self.row = if matches!(item, Some(Ok(_))) { self.row + 1 } else { usize::MAX };
        Some(match item? {
            Ok((line, row)) => (line, Ok(row)),
            Err(problem) => (self.reader.line, Err(problem)),
        })
    }
}
