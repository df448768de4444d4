//! A person's own rows as files hold them: JSON lines, JSON, CSV and parquet, in the shapes that TRL knows. Files are read row
//! by row; how large they are does not matter.
//!
//! A row that is no row is an error of its own; where nobody knows how a file goes on, such as where it cannot be read or a line
//! does not end, that is its last.

use crate::chat::Message;
use crate::tables::{self, ReadableRows};
use crate::{Error, Result};
use duel_spec::ids::Hasher;
use parquet::record::Field;
use rayon::prelude::*;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The line, or the row of a parquet file, and what stands on it or what is wrong with it.
pub type NumberedRecord<T> = (usize, std::result::Result<T, String>);

/// A file's rows.
pub type Lines = Box<dyn Iterator<Item = NumberedRecord<Value>>>;

/// Rows that are read at a time, and bytes that they take at most.
const BLOCK: usize = 256;
const BLOCK_BYTES: usize = 64 << 20;
/// Bytes of a row.
const ROW: usize = 8 << 20;

/// A file's rows as records, in their order, each with its line and with what `make` makes of it. Blocks of rows are read on all
/// threads.
///
/// # Errors
/// As [`open`].
pub fn read<T: Send>(
    path: &Path,
    columns: &Columns,
    make: impl Fn(&Record) -> T + Sync,
) -> Result<impl Iterator<Item = NumberedRecord<(Record, T)>>> {
    let mut lines = open(path)?;
    let blocks = std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut block = vec![];
        while block.len() < BLOCK && bytes < BLOCK_BYTES {
            let Some(line) = lines.next() else { break };
            bytes += line.1.as_ref().map_or(0, size);
            block.push(line);
        }
        (!block.is_empty()).then_some(block)
    });
    Ok(blocks.flat_map(move |block| {
        let one = |(line, row): NumberedRecord<Value>| {
            let record = row.and_then(|row| Record::read(&row, columns));
            let made = record.map(|record| {
                let made = make(&record);
                (record, made)
            });
            (line, made)
        };
        block.into_par_iter().map(one).collect::<Vec<_>>()
    }))
}

/// About how many bytes a value takes in memory.
fn size(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(size).sum(),
            Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + size(value)).sum(),
            _ => 0,
        }
}

/// Opens a file, and nothing that has no end or waits for somebody.
fn open_file(path: &Path) -> Result<File> {
    let read = |source| Error::Read { path: path.into(), source };
    let kind = std::fs::metadata(path).map_err(read)?.file_type();
    let found = match () {
        () if kind.is_file() => return File::open(path).map_err(read),
        () if kind.is_dir() => "a folder",
        () => "a pipe or a device",
    };
    Err(Error::NoFile { path: path.into(), found })
}

/// Opens a file by the ending of its name: `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet`.
///
/// # Errors
/// A file that is missing or of another kind.
pub fn open(path: &Path) -> Result<Lines> {
    let read = |source| Error::Read { path: path.into(), source };
    let file = open_file(path)?;
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    match ending.as_str() {
        "jsonl" | "ndjson" => Ok(Box::new(JsonLines::new(file))),
        "json" => {
            let mut reader = BufReader::new(Bounded::new(file));
            if reader.fill_buf().map_err(read)?.starts_with(MARK) {
                reader.consume(MARK.len());
            }
            let first = reader.fill_buf().map_err(read)?.iter().find(|byte| !byte.is_ascii_whitespace()).copied();
            if first != Some(b'[') {
                return Ok(Box::new(JsonLines::new(open_file(path)?)));
            }
            Ok(Box::new(JsonList { reader, row: 0 }))
        }
        "csv" | "tsv" => {
            let delimiter = if ending == "csv" { b',' } else { b'\t' };
            let refuse = |problem| Error::Row { path: path.into(), row: 1, problem };
            Ok(Box::new(Csv::new(file, delimiter).map_err(refuse)?))
        }
        "parquet" => Ok(Box::new(Parquet(tables::open(path, file)?, 0))),
        _ => Err(Error::Format { path: path.into() }),
    }
}

/// A hash of a file, read piece by piece.
///
/// # Errors
/// A file that is missing.
pub fn hash(path: &Path) -> Result<String> {
    let read = |source| Error::Read { path: path.into(), source };
    let mut reader = BufReader::with_capacity(1 << 20, open_file(path)?);
    let mut hasher = Hasher::default();
    loop {
        let bytes = reader.fill_buf().map_err(read)?;
        if bytes.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.add(bytes);
        let count = bytes.len();
        reader.consume(count);
    }
}

/// What some editors put before everything.
const MARK: &[u8] = "\u{feff}".as_bytes();

/// A file that gives so many bytes for a row and no more.
struct Bounded {
    file: File,
    left: Cell<usize>,
}

impl Bounded {
    fn new(file: File) -> Self {
        Self { file, left: Cell::new(ROW) }
    }

    /// A new row begins.
    fn begin(&self) {
        self.left.set(ROW);
    }
}

impl Read for Bounded {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let most = to.len().min(self.left.get());
        if most == 0 && !to.is_empty() {
            return Err(std::io::Error::other(too_long()));
        }
        let count = self.file.read(&mut to[..most])?;
        self.left.set(self.left.get() - count);
        Ok(count)
    }
}

fn too_long() -> String {
    format!("a row of more than {} MiB: does its line, its list or its quotation not end?", ROW >> 20)
}

/// A JSON value whose own names are different, where it is an object: of two that are the same nobody knows which is meant.
struct UniqueKeys(Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> std::result::Result<Value, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if fields.contains_key(&name) {
                        return Err(A::Error::custom(format!("`{name}` is there twice")));
                    }
                    fields.insert(name, value);
                }
                Ok(Value::Object(fields))
            }
        }
        deserializer.deserialize_map(Fields).map(Self)
    }
}

/// A row of JSON text.
fn row_of(text: &[u8]) -> std::result::Result<Value, String> {
    let is_object = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let value = if is_object {
        serde_json::from_slice(text).map(|UniqueKeys(value)| value)
    } else {
        serde_json::from_slice(text)
    };
    value.map_err(|e| format!("it is no JSON: {e}"))
}

/// JSON, a value a line.
struct JsonLines {
    reader: BufReader<File>,
    line: usize,
    is_over: bool,
}

impl JsonLines {
    fn new(file: File) -> Self {
        Self { reader: BufReader::with_capacity(1 << 16, file), line: 0, is_over: false }
    }
}

impl Iterator for JsonLines {
    type Item = NumberedRecord<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_over {
            let mut bytes = vec![];
            let read = (&mut self.reader).take(ROW as u64 + 1).read_until(b'\n', &mut bytes);
            self.line += 1;
            let problem = match read {
                Ok(0) => {
                    self.is_over = true;
                    return None;
                }
                Ok(count) if count > ROW => too_long(),
                Ok(_) => {
                    let text = if self.line == 1 { bytes.strip_prefix(MARK).unwrap_or(&bytes) } else { &bytes };
                    if text.trim_ascii().is_empty() {
                        continue;
                    }
                    return Some((self.line, row_of(text)));
                }
                Err(e) => e.to_string(),
            };
            self.is_over = true;
            return Some((self.line, Err(problem)));
        }
        None
    }
}

/// Cells between delimiters, a row a line.
struct Csv {
    reader: csv::Reader<Bounded>,
    names: Vec<String>,
    is_over: bool,
}

impl Csv {
    fn new(file: File, delimiter: u8) -> std::result::Result<Self, String> {
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(Bounded::new(file));
        let names: Vec<String> = reader.headers().map_err(|e| e.to_string())?.iter().map(str::to_owned).collect();
        let mut sorted: Vec<&String> = names.iter().filter(|name| !name.is_empty()).collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|two| two[0] == two[1]) {
            Some(twice) => Err(format!("two columns are called `{}`", twice[0])),
            None => Ok(Self { reader, names, is_over: false }),
        }
    }
}

impl Iterator for Csv {
    type Item = NumberedRecord<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        self.reader.get_ref().begin();
        let mut record = csv::StringRecord::new();
        let line = self.reader.position().line() as usize;
        match self.reader.read_record(&mut record) {
            Ok(false) => None,
            Ok(true) => {
                let line = record.position().map_or(line, |at| at.line() as usize);
                let cell = |(name, cell): (&String, &str)| (name.clone(), cell_value(cell));
                Some((line, Ok(Value::Object(self.names.iter().zip(&record).map(cell).collect()))))
            }
            Err(e) => {
                self.is_over = e.is_io_error();
                let line = e.position().map_or(line, |at| at.line() as usize);
                let problem = match e.kind() {
                    csv::ErrorKind::Io(e) => e.to_string(),
                    _ => e.to_string(),
                };
                Some((line, Err(problem)))
            }
        }
    }
}

/// The rows of a parquet file, and how many were read.
struct Parquet(ReadableRows, usize);

impl Iterator for Parquet {
    type Item = NumberedRecord<Value>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.0.next()?;
        self.1 += 1;
        Some((self.1, row.map(|row| object(row.get_column_iter()))))
    }
}

/// A JSON list, item by item.
struct JsonList {
    reader: BufReader<Bounded>,
    /// Items read; `usize::MAX` after the end.
    row: usize,
}

impl JsonList {
    /// The next byte that is no space, left where it is.
    fn first_byte(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            self.reader.get_ref().begin();
            let bytes = self.reader.fill_buf()?;
            let spaces = bytes.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let (next, is_end) = (bytes.get(spaces).copied(), bytes.is_empty());
            self.reader.consume(spaces);
            if next.is_some() || is_end {
                return Ok(next);
            }
        }
    }

    /// The next item; nothing after the last.
    fn item(&mut self) -> std::result::Result<Option<Value>, String> {
        let opening = if self.row == 0 { b'[' } else { b',' };
        let first = self.first_byte().map_err(|e| e.to_string())?;
        match first {
            Some(b']') if self.row > 0 => return Ok(None),
            Some(byte) if byte == opening => self.reader.consume(1),
            Some(byte) => return Err(format!("after a row stands `{}`, not `,` or `]`", char::from(byte))),
            None => return Err("the list does not end".into()),
        }
        match self.first_byte().map_err(|e| e.to_string())? {
            Some(b']') if self.row == 0 => Ok(None),
            // an object is read to its last bracket and no further
            Some(b'{') => {
                let mut json = serde_json::Deserializer::from_reader(&mut self.reader);
                let row = UniqueKeys::deserialize(&mut json).map(|UniqueKeys(value)| Some(value));
                row.map_err(|e| if e.is_io() { e.to_string() } else { format!("it is no JSON: {e}") })
            }
            _ => Err("a row of the list is no object".into()),
        }
    }
}

impl Iterator for JsonList {
    type Item = NumberedRecord<Value>;

    /// What is no JSON ends the list: nobody knows where the next row would begin.
    fn next(&mut self) -> Option<Self::Item> {
        if self.row == usize::MAX {
            return None;
        }
        let found = self.item().transpose();
        let row = self.row + 1;
        self.row = if matches!(found, Some(Ok(_))) { row } else { usize::MAX };
        Some((row, found?))
    }
}

/// A cell of CSV: a JSON list of turns, text, or nothing. Whether text is a number or a flag is for its column to say.
fn cell_value(cell: &str) -> Value {
    let text = || Value::String(cell.into());
    match cell {
        "" => Value::Null,
        _ if cell.trim_start().starts_with('[') => serde_json::from_str(cell).unwrap_or_else(|_| text()),
        _ => text(),
    }
}

/// A number, or text that is one.
fn number_of(value: &Value) -> Option<f64> {
    let x = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    x.filter(|x| x.is_finite())
}

/// A flag, 0 or 1, or text that is one of these.
fn flag_of(value: &Value) -> Option<bool> {
    let written = value.as_str().and_then(|text| text.trim().to_lowercase().parse().ok());
    let counted = || match number_of(value)? {
        0.0 => Some(false),
        1.0 => Some(true),
        _ => None,
    };
    value.as_bool().or(written).or_else(counted)
}

fn object<'a>(fields: impl Iterator<Item = (&'a String, &'a Field)>) -> Value {
    Value::Object(fields.map(|(name, field)| (name.clone(), value_of(field))).collect::<Map<_, _>>())
}

fn value_of(field: &Field) -> Value {
    match field {
        Field::Bool(flag) => Value::Bool(*flag),
        Field::Byte(n) => Value::from(*n),
        Field::Short(n) => Value::from(*n),
        Field::Int(n) => Value::from(*n),
        Field::Long(n) => Value::from(*n),
        Field::UByte(n) => Value::from(*n),
        Field::UShort(n) => Value::from(*n),
        Field::UInt(n) => Value::from(*n),
        Field::ULong(n) => Value::from(*n),
        Field::Float(x) => Value::from(*x),
        Field::Double(x) => Value::from(*x),
        Field::Str(text) => Value::String(text.clone()),
        Field::Bytes(bytes) => Value::String(String::from_utf8_lossy(bytes.data()).into_owned()),
        Field::Group(row) => object(row.get_column_iter()),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value_of).collect()),
        Field::Null => Value::Null,
        other => Value::String(other.to_string()),
    }
}

/// What somebody says: plain text, or turns of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Text(String),
    Turns(Vec<Message>),
}

/// A row, in one of the shapes that are read.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Two completions of one prompt, of which the first was preferred.
    Pair {
        prompt: Content,
        chosen: Content,
        rejected: Content,
        /// By how much, in log-odds, where the row says so.
        margin: Option<f64>,
        /// Somebody's scores of both.
        scores: Option<[f64; 2]>,
    },
    /// One completion, and whether it is wanted.
    Judged { prompt: Content, completion: Content, wanted: bool },
    /// A prompt alone.
    Prompt { prompt: Content },
}

/// Under which names a row's parts stand.
#[derive(Debug, Clone)]
pub struct Columns {
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
}

impl Record {
    /// Reads a row.
    ///
    /// # Errors
    /// In words, what is missing or of the wrong kind.
    pub fn read(row: &Value, columns: &Columns) -> std::result::Result<Self, String> {
        let Some(row) = row.as_object() else { return Err(format!("a row is an object, not {}", kind(row))) };
        let get = |name: &str| row.get(name).filter(|value| !value.is_null());
        let part = |name: &str| get(name).map(|value| content(value, name)).transpose();
        let prompt = match part(&columns.prompt)? {
            Some(prompt) => Some(prompt),
            None => part("conversations")?, // ShareGPT
        };
        let number = |name: &str| match get(name) {
            None => Ok(None),
            Some(value) => match number_of(value) {
                Some(x) => Ok(Some(x)),
                None => Err(format!("`{name}` is {}, not a number", kind(value))),
            },
        };
        match (part(&columns.chosen)?, part(&columns.rejected)?) {
            (Some(chosen), Some(rejected)) => {
                let (prompt, chosen, rejected) = match prompt {
                    Some(prompt) => (prompt, chosen, rejected),
                    None => implicit_prompt(chosen, rejected)?,
                };
                let scores = match (number("score_chosen")?, number("score_rejected")?) {
                    (Some(chosen), Some(rejected)) => Some([chosen, rejected]),
                    (None, None) => None,
                    _ => return Err("`score_chosen` and `score_rejected` stand together".into()),
                };
                Ok(Self::Pair { prompt, chosen, rejected, margin: number("margin")?, scores })
            }
            (None, None) => {
                let wanted = match (get("label"), get("completion")) {
                    (_, None) => None, // a label of something else
                    (Some(label), Some(_)) => match flag_of(label) {
                        None => return Err(format!("`label` is {}, not true or false", kind(label))),
                        wanted => wanted,
                    },
                    (None, Some(_)) => return Err("`completion` without `label`: is it wanted or not?".into()),
                };
                match (prompt, part("completion")?, wanted) {
                    (Some(prompt), Some(completion), Some(wanted)) => Ok(Self::Judged { prompt, completion, wanted }),
                    (Some(prompt), ..) => Ok(Self::Prompt { prompt }),
                    (None, Some(_), _) => Err(format!("`{}` is missing", columns.prompt)),
                    (None, None, _) => {
                        let found: Vec<&str> = row.keys().map(String::as_str).collect();
                        Err(format!(
                            "neither `{}` and `{}` nor `{}` is there, only {}",
                            columns.chosen,
                            columns.rejected,
                            columns.prompt,
                            if found.is_empty() { "nothing".into() } else { found.join(", ") }
                        ))
                    }
                }
            }
            (Some(_), None) => Err(format!("`{}` is missing", columns.rejected)),
            (None, Some(_)) => Err(format!("`{}` is missing", columns.chosen)),
        }
    }
}

/// What kind of value was found, in words.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a flag",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Text, a turn, or a list of turns.
fn content(value: &Value, name: &str) -> std::result::Result<Content, String> {
    match value {
        Value::String(text) => Ok(Content::Text(text.clone())),
        Value::Object(_) => Ok(Content::Turns(vec![message(value, name, 0)?])),
        Value::Array(turns) if turns.is_empty() => Err(format!("`{name}` has no turns")),
        Value::Array(turns) => Ok(Content::Turns(
            turns.iter().enumerate().map(|(i, one)| message(one, name, i)).collect::<std::result::Result<_, _>>()?,
        )),
        other => Err(format!("`{name}` is {}, not text or a list of turns", kind(other))),
    }
}

/// `{role, content}`, or ShareGPT's `{from, value}`.
fn message(value: &Value, name: &str, place: usize) -> std::result::Result<Message, String> {
    let at = || format!("turn {} of `{name}`", place + 1);
    let text = |keys: [&str; 2]| keys.iter().find_map(|key| value[*key].as_str());
    let role = text(["role", "from"]).ok_or_else(|| format!("{} has no `role`", at()))?;
    let content = text(["content", "value"]).ok_or_else(|| format!("{} has no `content` that is text", at()))?;
    let role = match role {
        "human" => "user",
        "gpt" => "assistant",
        role => role,
    };
    Ok(Message { role: role.into(), content: content.into() })
}

/// The prompt that both completions begin with. TRL's implicit prompts.
fn implicit_prompt(chosen: Content, rejected: Content) -> std::result::Result<(Content, Content, Content), String> {
    match (chosen, rejected) {
        (Content::Turns(chosen), Content::Turns(rejected)) => {
            let same = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            // both end in what an assistant says, even where they are the same
            let cut = same.min(chosen.len().min(rejected.len()).saturating_sub(1));
            if cut == 0 {
                return Err("there is no `prompt`, and `chosen` and `rejected` begin differently".into());
            }
            let rest = |turns: &[Message]| Content::Turns(turns[cut..].to_vec());
            Ok((Content::Turns(chosen[..cut].to_vec()), rest(&chosen), rest(&rejected)))
        }
        (Content::Text(chosen), Content::Text(rejected)) => {
            let same: usize =
                chosen.chars().zip(rejected.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
            // the space before a word belongs to the word
            let cut = chosen[..same].trim_end().len();
            if cut == 0 {
                return Err("there is no `prompt`, and `chosen` and `rejected` begin differently".into());
            }
            let rest = |text: &str| Content::Text(text[cut..].to_owned());
            Ok((Content::Text(chosen[..cut].to_owned()), rest(&chosen), rest(&rejected)))
        }
        _ => Err("`chosen` and `rejected` are of different kinds, text and turns".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn columns() -> Columns {
        let [prompt, chosen, rejected] = ["prompt", "chosen", "rejected"].map(str::to_owned);
        Columns { prompt, chosen, rejected }
    }

    fn text(text: &str) -> Content {
        Content::Text(text.into())
    }

    fn turns(turns: &[(&str, &str)]) -> Content {
        Content::Turns(
            turns.iter().map(|(role, content)| Message { role: (*role).into(), content: (*content).into() }).collect(),
        )
    }

    /// TRL's dataset formats, one by one.
    #[test]
    fn every_shape_is_read() {
        let pair = |prompt, chosen, rejected| Record::Pair { prompt, chosen, rejected, margin: None, scores: None };
        let user = ("user", "What color is the sky?");
        let (blue, green) = (("assistant", "It is blue."), ("assistant", "It is green."));
        let cases = [
            (
                json!({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}),
                pair(text("The sky is"), text(" blue."), text(" green.")),
            ),
            (
                json!({"chosen": "The sky is blue.", "rejected": "The sky is green."}),
                pair(text("The sky is"), text(" blue."), text(" green.")),
            ),
            (
                json!({"prompt": [{"role": "user", "content": user.1}], "chosen": [{"role": "assistant", "content": blue.1}],
                    "rejected": [{"role": "assistant", "content": green.1}]}),
                pair(turns(&[user]), turns(&[blue]), turns(&[green])),
            ),
            (
                json!({"chosen": [{"role": "user", "content": user.1}, {"role": "assistant", "content": blue.1}],
                    "rejected": [{"role": "user", "content": user.1}, {"role": "assistant", "content": green.1}]}),
                pair(turns(&[user]), turns(&[blue]), turns(&[green])),
            ),
            (
                json!({"conversations": [{"from": "human", "value": user.1}], "chosen": {"from": "gpt", "value": blue.1},
                    "rejected": {"from": "gpt", "value": green.1}}),
                pair(turns(&[user]), turns(&[blue]), turns(&[green])),
            ),
            (
                json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5, "score_chosen": 2, "score_rejected": -1.0}),
                Record::Pair {
                    prompt: text("a"),
                    chosen: text("b"),
                    rejected: text("c"),
                    margin: Some(0.5),
                    scores: Some([2.0, -1.0]),
                },
            ),
            (
                json!({"prompt": "a", "completion": "b", "label": false}),
                Record::Judged { prompt: text("a"), completion: text("b"), wanted: false },
            ),
            (json!({"prompt": "a", "label": 1}), Record::Prompt { prompt: text("a") }),
        ];
        for (row, expected) in cases {
            assert_eq!(Record::read(&row, &columns()), Ok(expected), "{row}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases = [
            (json!([1]), "a row is an object, not a list"),
            (json!({}), "neither `chosen` and `rejected` nor `prompt` is there, only nothing"),
            (json!({"prompt": "a", "chosen": "b"}), "`rejected` is missing"),
            (json!({"prompt": "a", "chosen": 1, "rejected": "c"}), "`chosen` is a number, not text or a list of turns"),
            (json!({"prompt": [], "chosen": "b", "rejected": "c"}), "`prompt` has no turns"),
            (json!({"prompt": [{"content": "a"}], "chosen": "b", "rejected": "c"}), "turn 1 of `prompt` has no `role`"),
            (
                json!({"chosen": "b", "rejected": "c"}),
                "there is no `prompt`, and `chosen` and `rejected` begin differently",
            ),
            (json!({"prompt": "a", "completion": "b"}), "`completion` without `label`: is it wanted or not?"),
            (json!({"prompt": "a", "completion": "b", "label": "yes"}), "`label` is text, not true or false"),
            (json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}), "`margin` is text, not a number"),
            (
                json!({"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 1}),
                "`score_chosen` and `score_rejected` stand together",
            ),
        ];
        for (row, expected) in cases {
            assert_eq!(Record::read(&row, &columns()), Err(expected.to_owned()), "{row}");
        }
    }
}
