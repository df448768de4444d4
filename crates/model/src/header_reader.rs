//! The header of a GGUF file, read key by key so that errors name the key.

use crate::config_reader::{SIZES, range_text};
use crate::gguf_header::{GgufHeader, MetaValue};
use crate::weight_store::WeightStore;
use crate::{Error, Result};
use std::ops::RangeInclusive;
use std::path::Path;

/// The header, read key by key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeaderReader<'a> {
    pub path: &'a Path,
    pub header: &'a GgufHeader,
    pub bytes: &'a [u8],
    /// The tensors of all files.
    pub store: &'a WeightStore,
    /// The architecture with whose name the keys begin; empty: keys are whole.
    pub architecture: &'a str,
}

impl<'a> HeaderReader<'a> {
    /// The key as the file has it.
    pub fn key(&self, name: &str) -> String {
        if self.architecture.is_empty() { name.into() } else { format!("{}.{name}", self.architecture) }
    }

    pub fn value(&self, key: &str) -> Option<&'a MetaValue> {
        self.header.values.get(&self.key(key))
    }

    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.header.text(&self.key(key), self.bytes)
    }

    pub fn unsupported(&self, key: &str, accepted: &str) -> Error {
        let value = match self.value(key) {
            None => "nothing".into(),
            Some(MetaValue::Text(range)) => format!("`{}`", String::from_utf8_lossy(&self.bytes[range.clone()])),
            Some(MetaValue::Int(n)) => n.to_string(),
            Some(MetaValue::Float(x)) => x.to_string(),
            Some(MetaValue::Bool(flag)) => flag.to_string(),
            Some(MetaValue::Array { count, .. }) => format!("a list of {count}"),
        };
        Error::Unsupported { path: self.path.into(), key: self.key(key), found: value, accepted: accepted.into() }
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        let size = self.header.as_int(&self.key(key)).and_then(|n| u64::try_from(n).ok()).filter(|n| SIZES.contains(n));
        let accepted = || format!("a size from 1 to {}", SIZES.end());
        size.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| self.unsupported(key, &accepted()))
    }

    pub fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.value(key).is_some() { self.size(key) } else { Ok(default) }
    }

    /// A number; the file holds f32 where decimals are meant.
    pub fn number(&self, key: &str, range: &RangeInclusive<f64>) -> Result<f64> {
        let decimal = |x: f64| match x as f32 {
            short if f64::from(short) == x => format!("{short:e}").parse().unwrap_or(x),
            _ => x,
        };
        let number = self.header.as_float(&self.key(key)).map(decimal).filter(|x| range.contains(x));
        number.ok_or_else(|| self.unsupported(key, &range_text(range)))
    }

    pub fn number_or(&self, key: &str, range: &RangeInclusive<f64>, default: f64) -> Result<f64> {
        if self.value(key).is_some() { self.number(key, range) } else { Ok(default) }
    }

    /// The id of a token, which is below the rows of the embedding; −1 as u32 is llama.cpp's word for none.
    pub fn id(&self, key: &str, rows: usize) -> Result<Option<u32>> {
        match self.value(key) {
            None => Ok(None),
            Some(MetaValue::Int(n)) if *n == -1 || *n == i128::from(u32::MAX) => Ok(None),
            Some(MetaValue::Int(n)) if (0..rows as i128).contains(n) => Ok(Some(*n as u32)),
            _ => Err(self.unsupported(key, &format!("an id below {rows}, which are the rows of the embedding"))),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(MetaValue::Bool(flag)) => Ok(Some(*flag)),
            _ => Err(self.unsupported(key, "true or false")),
        }
    }

    /// A list of texts of at most so many.
    pub fn texts(&self, key: &str, most: usize) -> Result<Vec<&str>> {
        match self.value(key) {
            Some(MetaValue::Array { count, .. }) if *count > most => {
                Err(self.unsupported(key, &format!("at most {most}")))
            }
            _ => self.header.texts(&self.key(key), self.bytes).ok_or_else(|| self.unsupported(key, "a list of texts")),
        }
    }
}
