//! Reading golden values: expected results of independent libraries (`tests/golden/README.md` says which).
//! `DUEL_GOLDEN` names another directory of the same schema. Every test that reads them has `golden` in its name.

use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::{Deref, Index};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// The directory of the golden values.
pub fn folder() -> PathBuf {
    std::env::var_os("DUEL_GOLDEN")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden").into(), PathBuf::from)
}

/// One topic; a missing or broken one fails the test.
pub fn read(file: &str) -> Value {
    let path = folder().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Fields that describe the others: nothing to test.
const DESCRIPTIONS: [&str; 5] = ["schema", "source", "convention", "conventions", "note"];

/// A topic of which every field must be read: fields still unread when it is dropped fail the test by name, so that a file of
/// the same schema with other settings is never half read.
#[derive(Debug)]
pub struct Topic {
    file: String,
    root: Node,
}

/// A part of a topic: an object's fields by name, a list of objects, or a value (numbers, text, lists of them).
#[derive(Debug)]
pub struct Node {
    read: AtomicBool,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Object(BTreeMap<String, Node>),
    List(Vec<Node>),
    Value(Value),
}

/// The value of an absent field.
static MISSING: Node = Node { read: AtomicBool::new(true), part: Part::Value(Value::Null) };

/// One topic to be read in full; a missing or broken one fails the test.
pub fn topic(file: &str) -> Topic {
    Topic { file: file.into(), root: read(file).into() }
}

impl Topic {
    /// Without the fields of these names, at any depth. Give the reason beside the call.
    pub fn ignoring(self, names: &[&str]) -> Self {
        self.root.ignore(names);
        self
    }
}

impl Deref for Topic {
    type Target = Node;
    fn deref(&self) -> &Node {
        &self.root
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        let mut unread = vec![];
        self.root.unread("", &mut unread);
        unread.sort();
        unread.dedup();
        assert!(std::thread::panicking() || unread.is_empty(), "{}: no test reads {}", self.file, unread.join(", "));
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        let part = match value {
            Value::Object(fields) => Part::Object(fields.into_iter().map(|(key, v)| (key, v.into())).collect()),
            Value::Array(items) if items.iter().any(Value::is_object) => {
                Part::List(items.into_iter().map(Self::from).collect())
            }
            value => Part::Value(value),
        };
        Self { read: AtomicBool::new(false), part }
    }
}

impl Node {
    /// A list of objects that must not be empty.
    pub fn items(&self, key: &str) -> &[Self] {
        match &self[key].part {
            Part::List(items) if !items.is_empty() => items,
            _ => panic!("no list `{key}`"),
        }
    }

    /// A number.
    pub fn number(&self, key: &str) -> f64 {
        self[key].as_f64().unwrap_or_else(|| panic!("no number `{key}`"))
    }

    /// A string.
    pub fn text(&self, key: &str) -> &str {
        self[key].as_str().unwrap_or_else(|| panic!("no text `{key}`"))
    }

    /// An object's fields.
    pub fn fields(&self) -> &BTreeMap<String, Self> {
        match &self.part {
            Part::Object(fields) => fields,
            _ => panic!("not an object"),
        }
    }

    /// Marks everything in it as read, because another test reads it.
    pub fn is_read_elsewhere(&self) {
        self.read.store(true, Ordering::Relaxed);
        match &self.part {
            Part::Object(fields) => fields.values().for_each(Self::is_read_elsewhere),
            Part::List(items) => items.iter().for_each(Self::is_read_elsewhere),
            Part::Value(_) => {}
        }
    }

    fn ignore(&self, names: &[&str]) {
        match &self.part {
            Part::Object(fields) => fields.iter().for_each(|(key, node)| match names.contains(&key.as_str()) {
                true => node.is_read_elsewhere(),
                false => node.ignore(names),
            }),
            Part::List(items) => items.iter().for_each(|node| node.ignore(names)),
            Part::Value(_) => {}
        }
    }

    fn unread(&self, path: &str, into: &mut Vec<String>) {
        match &self.part {
            Part::Object(fields) => {
                let fields = fields.iter().filter(|(key, _)| !DESCRIPTIONS.contains(&key.as_str()));
                fields.for_each(|(key, node)| node.unread(&format!("{path}.{key}"), into));
            }
            Part::List(items) => items.iter().for_each(|node| node.unread(&format!("{path}[]"), into)),
            Part::Value(_) if self.read.load(Ordering::Relaxed) => {}
            Part::Value(_) => into.push(path.into()),
        }
    }
}

impl Index<&str> for Node {
    type Output = Self;
    fn index(&self, key: &str) -> &Self {
        match &self.part {
            Part::Object(fields) => fields.get(key).unwrap_or(&MISSING),
            _ => &MISSING,
        }
    }
}

/// Reads a value.
impl Deref for Node {
    type Target = Value;
    fn deref(&self) -> &Value {
        match &self.part {
            Part::Value(value) => {
                self.read.store(true, Ordering::Relaxed);
                value
            }
            _ => panic!("an object is read field by field"),
        }
    }
}

/// A list that must not be empty.
pub fn items<'a>(v: &'a Value, key: &str) -> &'a Vec<Value> {
    v[key].as_array().filter(|a| !a.is_empty()).unwrap_or_else(|| panic!("no `{key}`"))
}

/// All numbers of nested lists.
pub fn numbers(v: &Value) -> Vec<f64> {
    match v {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap_or_else(|| panic!("not a number: {number}"))],
    }
}

/// All ids of nested lists.
pub fn ids(v: &Value) -> Vec<u32> {
    numbers(v).into_iter().map(|x| x as u32).collect()
}

/// Lists of ids.
pub fn id_rows(v: &Value) -> Vec<Vec<u32>> {
    v.as_array().unwrap_or_else(|| panic!("no rows")).iter().map(ids).collect()
}

/// A number.
pub fn number(v: &Value, key: &str) -> f64 {
    v[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {v}"))
}

/// The shape of nested lists.
pub fn shape(v: &Value) -> Vec<usize> {
    match v {
        Value::Array(items) => std::iter::once(items.len()).chain(shape(&items[0])).collect(),
        _ => vec![],
    }
}

/// Element-wise within `relative` of the expected value, or of a tenth of the largest expected one.
pub fn close(what: &str, actual: &[f64], expected: &[f64], relative: f64) {
    close_within(what, actual, expected, relative, 0.0);
}

/// The same, or within an `absolute` bound.
pub fn close_within(what: &str, actual: &[f64], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let bound = (relative * expected.abs().max(scale * 0.1)).max(absolute);
        assert!((actual - expected).abs() <= bound, "{what}[{i}]: {actual}, expected {expected}");
    }
}
