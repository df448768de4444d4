//! The header of a GGUF file: its settings and the table of its tensors. Everything in it is checked against the file's
//! length before it is believed.
//!
//! The layout is that of the format's specification (versions 2 and 3); the blocks are ggml's.

use crate::file_dtype::FileDType;
use crate::weight_store::TensorPlacement;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// Where tensors begin, unless the file says otherwise.
pub(crate) const ALIGNMENT: u64 = 32;
/// Lists within lists that are followed.
const DEPTH: usize = 4;
/// Most settings and tensors: far more than any model has.
const MOST_VALUES: usize = 1 << 16;
const MOST_TENSORS: usize = 1 << 20;

/// A value of the header.
#[derive(Debug, Clone, PartialEq)]
pub enum MetaValue {
    Int(i128),
    Float(f64),
    Bool(bool),
    /// Where its bytes stand.
    Text(Range<usize>),
    /// `count` values of one type, the first at `at`; decoded when they are asked for.
    Array {
        of: u32,
        count: usize,
        at: usize,
    },
}

/// A value as it is written to a header.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderValue {
    Size(usize),
    Real(f64),
    Flag(bool),
    Text(&'static str),
    Flags(Vec<bool>),
}

/// What a GGUF file says of itself.
#[derive(Debug, Clone, Default)]
pub struct GgufHeader {
    pub values: BTreeMap<String, MetaValue>,
    /// Name, shape (rows first), type and place of each tensor.
    pub tensors: Vec<(String, Vec<usize>, FileDType, Range<usize>)>,
    /// The first tensor of a type that is not read, and ggml's number of it.
    pub unread: Option<(String, u32)>,
}

/// Reads a header byte by byte; what is found is wrong rather than out of bounds.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

type GgufResult<T> = std::result::Result<T, String>;

impl<'a> Cursor<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: usize) -> GgufResult<&'a [u8]> {
        if count > self.remaining() {
            return Err(format!("byte {} asks for {count} more, of which there are {}", self.at, self.remaining()));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn u32(&mut self) -> GgufResult<u32> {
        Ok(self.take(4)?.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }

    fn u64(&mut self) -> GgufResult<u64> {
        Ok(self.take(8)?.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    /// A number of things, each of which takes at least `least` bytes of what is left.
    fn count(&mut self, least: usize) -> GgufResult<usize> {
        let count = self.u64()?;
        match usize::try_from(count) {
            Ok(fits) if fits <= self.remaining() / least => Ok(fits),
            _ => Err(format!("byte {} announces {count} things, for which the file is too short", self.at - 8)),
        }
    }

    fn text(&mut self) -> GgufResult<Range<usize>> {
        let (length, from) = (self.count(1)?, self.at);
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes).map_err(|e| format!("the text at byte {from} is not UTF-8: {e}"))?;
        Ok(from..from + length)
    }

    fn name(&mut self) -> GgufResult<String> {
        let range = self.text()?;
        Ok(String::from_utf8_lossy(&self.bytes[range]).into_owned())
    }

    /// Name, shape (rows first), number of the type and offset of a tensor.
    fn tensor(&mut self) -> GgufResult<(String, Vec<usize>, u32, u64)> {
        let name = self.name()?;
        let dimensions = self.u32()?;
        if dimensions > 4 {
            return Err(format!("`{name}` has {dimensions} dimensions"));
        }
        let mut shape = Vec::with_capacity(dimensions as usize);
        for _ in 0..dimensions {
            let size = usize::try_from(self.u64()?).map_err(|_| format!("`{name}` is too large"))?;
            shape.push(size);
        }
        shape.reverse(); // the file's first dimension is the innermost
        Ok((name, shape, self.u32()?, self.u64()?))
    }

    fn value(&mut self, of: u32, depth: usize) -> GgufResult<MetaValue> {
        let signed = |bytes: &[u8]| {
            let unsigned = bytes.iter().rev().fold(0i128, |sum, byte| sum << 8 | i128::from(*byte));
            let bits = 8 * bytes.len();
            if unsigned >> (bits - 1) == 1 { unsigned - (1 << bits) } else { unsigned }
        };
        let unsigned = |bytes: &[u8]| bytes.iter().rev().fold(0i128, |sum, byte| sum << 8 | i128::from(*byte));
        Ok(match of {
            0 => MetaValue::Int(unsigned(self.take(1)?)),
            1 => MetaValue::Int(signed(self.take(1)?)),
            2 => MetaValue::Int(unsigned(self.take(2)?)),
            3 => MetaValue::Int(signed(self.take(2)?)),
            4 => MetaValue::Int(unsigned(self.take(4)?)),
            5 => MetaValue::Int(signed(self.take(4)?)),
            6 => MetaValue::Float(f64::from(f32::from_bits(self.u32()?))),
            7 => MetaValue::Bool(self.take(1)?[0] != 0),
            8 => MetaValue::Text(self.text()?),
            9 => {
                let of = self.u32()?;
                let least = size_of(of).ok_or_else(|| format!("a list at byte {} is of unknown type {of}", self.at))?;
                let (count, at) = (self.count(least)?, self.at);
                match of {
                    8 | 9 if depth == 0 => return Err("lists are nested too deep".into()),
                    8 | 9 => {
                        for _ in 0..count {
                            self.value(of, depth - 1)?;
                        }
                    }
                    _ => {
                        self.take(count * least)?;
                    }
                }
                MetaValue::Array { of, count, at }
            }
            10 => MetaValue::Int(unsigned(self.take(8)?)),
            11 => MetaValue::Int(signed(self.take(8)?)),
            12 => MetaValue::Float(f64::from_bits(self.u64()?)),
            _ => return Err(format!("the value at byte {} is of unknown type {of}", self.at)),
        })
    }
}

/// Bytes that a value of a type takes at least.
fn size_of(of: u32) -> Option<usize> {
    match of {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        8 | 10..=12 => Some(8),
        9 => Some(12),
        _ => None,
    }
}

impl GgufHeader {
    /// Versions of the format that are read.
    pub(crate) const VERSIONS: RangeInclusive<u32> = 2..=3;

    /// Reads the header of a whole file.
    ///
    /// # Errors
    /// In words: what is wrong, and at which byte. Nothing is made that is larger than the file.
    pub fn parse(bytes: &[u8]) -> GgufResult<Self> {
        let mut cursor = Cursor { bytes, at: 0 };
        if cursor.take(4)? != MAGIC {
            return Err("it does not begin with GGUF".into());
        }
        let version = cursor.u32()?;
        if !Self::VERSIONS.contains(&version) {
            return Err(format!("it is of version {version}; 2 and 3 are read"));
        }
        let tensors = cursor.count(8 + 4 + 4 + 8)?; // a name's length, dimensions, type, place
        let values = cursor.count(8 + 4 + 1)?;
        if tensors > MOST_TENSORS || values > MOST_VALUES {
            return Err(format!("it announces {tensors} tensors and {values} settings, which no model has"));
        }
        let mut header = Self::default();
        for _ in 0..values {
            let key = cursor.name()?;
            let of = cursor.u32()?;
            let value = cursor.value(of, DEPTH)?;
            if header.values.insert(key.clone(), value).is_some() {
                return Err(format!("`{key}` is there twice"));
            }
        }
        let entries = (0..tensors).map(|_| cursor.tensor()).collect::<GgufResult<Vec<_>>>()?;
        let alignment = match header.values.get("general.alignment") {
            Some(MetaValue::Int(n)) if (1..=1 << 16).contains(n) && (*n as u64).is_power_of_two() => *n as usize,
            None => ALIGNMENT as usize,
            _ => return Err("`general.alignment` is not a power of two up to 65536".into()),
        };
        let data = cursor.at.next_multiple_of(alignment);
        let mut names = std::collections::HashSet::new();
        for (name, shape, code, offset) in entries {
            if !names.insert(name.clone()) {
                return Err(format!("`{name}` is there twice"));
            }
            if shape.contains(&0) {
                return Err(format!("`{name}` {shape:?} has no numbers"));
            }
            let Some(kind) = FileDType::from_ggml(code) else {
                header.unread.get_or_insert((name, code));
                continue;
            };
            let range = usize::try_from(offset)
                .ok()
                .and_then(|offset| data.checked_add(offset))
                .and_then(|from| Some(from..from.checked_add(kind.bytes(&shape)?)?))
                .filter(|range| range.end <= bytes.len());
            let range = range.ok_or_else(|| format!("`{name}` {shape:?} does not lie within the file"))?;
            if !offset.is_multiple_of(alignment as u64) {
                return Err(format!(
                    "`{name}` begins at {offset}, which is not a multiple of the alignment, {alignment}"
                ));
            }
            header.tensors.push((name, shape, kind, range));
        }
        let mut order: Vec<&TensorPlacement> = header.tensors.iter().collect();
        order.sort_by_key(|(.., range)| range.start);
        if let Some(two) = order.windows(2).find(|two| two[0].3.end > two[1].3.start) {
            return Err(format!("`{}` and `{}` overlap", two[0].0, two[1].0));
        }
        Ok(header)
    }

    /// A text of the header.
    pub fn text<'a>(&self, key: &str, bytes: &'a [u8]) -> Option<&'a str> {
        match self.values.get(key)? {
            MetaValue::Text(range) => std::str::from_utf8(&bytes[range.clone()]).ok(),
            _ => None,
        }
    }

    /// A whole number of the header.
    pub fn as_int(&self, key: &str) -> Option<i128> {
        match self.values.get(key)? {
            MetaValue::Int(n) => Some(*n),
            _ => None,
        }
    }

    pub fn as_float(&self, key: &str) -> Option<f64> {
        match self.values.get(key)? {
            MetaValue::Float(x) => Some(*x),
            MetaValue::Int(n) => Some(*n as f64),
            _ => None,
        }
    }

    /// A list of texts.
    pub fn texts<'a>(&self, key: &str, bytes: &'a [u8]) -> Option<Vec<&'a str>> {
        let MetaValue::Array { of: 8, count, at } = self.values.get(key)? else { return None };
        let mut cursor = Cursor { bytes, at: *at };
        (0..*count).map(|_| std::str::from_utf8(&bytes[cursor.text().ok()?]).ok()).collect()
    }

    /// A list of numbers.
    pub fn as_floats(&self, key: &str, bytes: &[u8]) -> Option<Vec<f64>> {
        let MetaValue::Array { of, count, at } = self.values.get(key)? else { return None };
        let mut cursor = Cursor { bytes, at: *at };
        let one = |_| match cursor.value(*of, 0).ok()? {
            MetaValue::Float(x) => Some(x),
            MetaValue::Int(n) => Some(n as f64),
            _ => None,
        };
        (0..*count).map(one).collect()
    }

    /// A list of flags.
    pub fn as_flags(&self, key: &str, bytes: &[u8]) -> Option<Vec<bool>> {
        let MetaValue::Array { of: 7, count, at } = self.values.get(key)? else { return None };
        Some(bytes[*at..*at + *count].iter().map(|byte| *byte != 0).collect())
    }

    /// A list of whole numbers.
    pub fn as_ints(&self, key: &str, bytes: &[u8]) -> Option<Vec<i128>> {
        let MetaValue::Array { of, count, at } = self.values.get(key)? else { return None };
        let mut cursor = Cursor { bytes, at: *at };
        let one = |_| match cursor.value(*of, 0).ok()? {
            MetaValue::Int(n) => Some(n),
            _ => None,
        };
        (0..*count).map(one).collect()
    }
}
