//! GGUF files: a header of settings, a table of tensors, then their numbers, many of them quantised in blocks. Everything in
//! the header is checked against the file's length before it is believed, and nothing is decoded before it is asked for.
//!
//! The layout is that of the format's specification (version 2 and 3); the blocks are ggml's.

use crate::config::{Family, TransformerConfig};
use crate::huggingface::{self, Checkpoint, EPSILONS, SIZES, SpecialTokens, THETAS, TokenizerFiles};
use crate::shelf::{FileDType, MappedFile, TensorPlacement, WeightStore, ggml_name};
use crate::weights::{self, NamedTensor};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

const MAGIC: &[u8; 4] = b"GGUF";
/// Where tensors begin, unless the file says otherwise.
const ALIGNMENT: u64 = 32;
/// Lists within lists that are followed.
const DEPTH: usize = 4;
/// Most settings, tensors and merges: far more than any model has.
const MOST_VALUES: usize = 1 << 16;
const MOST_TENSORS: usize = 1 << 20;
const MOST_MERGES: usize = 1 << 22;
/// The tensor of factors that change the frequencies of rotary positions.
pub(crate) const FACTORS: &str = "rope_freqs.weight";

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
        if !(2..=3).contains(&version) {
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
        let mut places = vec![];
        for _ in 0..tensors {
            let name = cursor.name()?;
            let dimensions = cursor.u32()?;
            if dimensions > 4 {
                return Err(format!("`{name}` has {dimensions} dimensions"));
            }
            let mut shape = Vec::with_capacity(dimensions as usize);
            for _ in 0..dimensions {
                let size = usize::try_from(cursor.u64()?).map_err(|_| format!("`{name}` is too large"))?;
                shape.push(size);
            }
            shape.reverse(); // the file's first dimension is the innermost
            let code = cursor.u32()?;
            places.push((name, shape, code, cursor.u64()?));
        }
        let alignment = match header.values.get("general.alignment") {
            Some(MetaValue::Int(n)) if (1..=1 << 16).contains(n) && (*n as u64).is_power_of_two() => *n as usize,
            None => ALIGNMENT as usize,
            _ => return Err("`general.alignment` is no power of two up to 65536".into()),
        };
        let data = cursor.at.next_multiple_of(alignment);
        let mut names = std::collections::HashSet::new();
        for (name, shape, code, place) in places {
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
            let range = usize::try_from(place)
                .ok()
                .and_then(|place| data.checked_add(place))
                .and_then(|from| Some(from..from.checked_add(kind.bytes(&shape)?)?))
                .filter(|range| range.end <= bytes.len());
            let range = range.ok_or_else(|| format!("`{name}` {shape:?} does not lie within the file"))?;
            if !place.is_multiple_of(alignment as u64) {
                return Err(format!("`{name}` begins at {place}, which is no multiple of the alignment, {alignment}"));
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

    fn as_float(&self, key: &str) -> Option<f64> {
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

/// Opens a GGUF file: its settings, and its tensors to be taken one by one.
///
/// # Errors
/// A file that is damaged, of an architecture that is not read, or whose tokenizer is not byte-level BPE.
pub(crate) fn open(path: &Path) -> Result<(TransformerConfig, TokenizerFiles, WeightStore)> {
    let file = MappedFile::open(path)?;
    let bytes = file.bytes()?;
    let header = GgufHeader::parse(bytes).map_err(|problem| Error::Damaged { path: path.into(), problem })?;
    let settings = HeaderReader { path, header: &header, bytes };
    settings.check_whole()?;
    let config = settings.config()?;
    settings.check_factors(&config)?;
    let rows = config.vocabulary;
    let special = SpecialTokens {
        bos: settings.id("tokenizer.ggml.bos_token_id", rows)?,
        eos: settings.id("tokenizer.ggml.eos_token_id", rows)?,
        pad: settings.id("tokenizer.ggml.padding_token_id", rows)?,
    };
    let key = "tokenizer.chat_template";
    let template = header.text(key, bytes).map(str::to_owned);
    if template.is_none() && header.values.contains_key(key) {
        return Err(settings.unsupported(key, "a text"));
    }
    let words = TokenizerFiles { special, tokenizer: settings.tokenizer(rows, special)?, template };
    let tensors = header.tensors;
    Ok((config, words, WeightStore::single_file(file, tensors)))
}

/// Whether Duel has written a file: it says so itself.
pub fn is_ours(path: &Path) -> bool {
    let Ok(file) = MappedFile::open(path) else { return false };
    let Ok(bytes) = file.bytes() else { return false };
    GgufHeader::parse(bytes).is_ok_and(|header| header.text("general.name", bytes) == Some(NAME))
}

/// What a file of ours calls itself.
const NAME: &str = "duel";

/// The header, read key by key so that errors name the key.
struct HeaderReader<'a> {
    path: &'a Path,
    header: &'a GgufHeader,
    bytes: &'a [u8],
}

impl HeaderReader<'_> {
    fn unsupported(&self, key: &str, accepted: &str) -> Error {
        let found = match self.header.values.get(key) {
            None => "nothing".into(),
            Some(MetaValue::Text(range)) => format!("`{}`", String::from_utf8_lossy(&self.bytes[range.clone()])),
            Some(MetaValue::Int(n)) => n.to_string(),
            Some(MetaValue::Float(x)) => x.to_string(),
            Some(MetaValue::Bool(flag)) => flag.to_string(),
            Some(MetaValue::Array { count, .. }) => format!("a list of {count}"),
        };
        Error::Unsupported { path: self.path.into(), key: key.into(), found, accepted: accepted.into() }
    }

    fn size(&self, key: &str) -> Result<usize> {
        let size = self.header.as_int(key).and_then(|n| u64::try_from(n).ok()).filter(|n| SIZES.contains(n));
        let accepted = || format!("a size from 1 to {}", SIZES.end());
        size.and_then(|n| usize::try_from(n).ok()).ok_or_else(|| self.unsupported(key, &accepted()))
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize> {
        if self.header.values.contains_key(key) { self.size(key) } else { Ok(default) }
    }

    fn number(&self, key: &str, range: &RangeInclusive<f64>) -> Result<f64> {
        let found = self.header.as_float(key).filter(|x| range.contains(x));
        found.ok_or_else(|| self.unsupported(key, &huggingface::range_text(range)))
    }

    /// The id of a token, which is below the rows of the embedding; −1 as u32 is llama.cpp's word for none.
    fn id(&self, key: &str, rows: usize) -> Result<Option<u32>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(MetaValue::Int(n)) if *n == -1 || *n == i128::from(u32::MAX) => Ok(None),
            Some(MetaValue::Int(n)) if (0..rows as i128).contains(n) => Ok(Some(*n as u32)),
            _ => Err(self.unsupported(key, &format!("an id below {rows}, which are the rows of the embedding"))),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.header.values.get(key) {
            None => Ok(None),
            Some(MetaValue::Bool(flag)) => Ok(Some(*flag)),
            _ => Err(self.unsupported(key, "true or false")),
        }
    }

    /// The file is a whole model, of kinds of numbers that are read.
    fn check_whole(&self) -> Result<()> {
        let key = "general.type";
        if self.header.values.contains_key(key) && self.header.text(key, self.bytes) != Some("model") {
            return Err(self.unsupported(key, "\"model\""));
        }
        let key = "split.count";
        if self.header.values.contains_key(key) && !matches!(self.header.as_int(key), Some(0 | 1)) {
            let part = self.header.as_int("split.no").map_or(String::new(), |n| format!("part {} of ", n + 1));
            let found = match self.header.as_int(key) {
                Some(count) => format!("{part}{count}"),
                None => "no number".into(),
            };
            let accepted = "1; `llama-gguf-split --merge` joins the parts to one file".into();
            return Err(Error::Unsupported { path: self.path.into(), key: key.into(), found, accepted });
        }
        if let Some((name, code)) = &self.header.unread {
            let (key, found) = (name.clone(), format!("of kind {}", ggml_name(*code)));
            return Err(Error::Unsupported { path: self.path.into(), key, found, accepted: FileDType::all_names() });
        }
        Ok(())
    }

    /// Factors of the rotary frequencies change every position, unless all of them are 1.
    fn check_factors(&self, config: &TransformerConfig) -> Result<()> {
        let Some((_, shape, kind, range)) = self.header.tensors.iter().find(|(name, ..)| name == FACTORS) else {
            return Ok(());
        };
        let expected = vec![config.head_width() / 2];
        if *shape != expected {
            return Err(Error::Shape { name: FACTORS.into(), found: shape.clone(), expected });
        }
        let factors = kind.decode(&self.bytes[range.clone()]);
        if factors.iter().all(|factor| *factor == 1.0) {
            return Ok(());
        }
        let most = factors.iter().copied().fold(f32::MIN, f32::max);
        let found = format!("factors up to {most} (the scaling of Llama 3.1 and later)");
        let accepted = "none, or factors that are all 1".into();
        Err(Error::Unsupported { path: self.path.into(), key: FACTORS.into(), found, accepted })
    }

    /// Every setting of the architecture is one whose meaning is known: another would change what the model computes.
    fn check_known(&self, architecture: &str) -> Result<()> {
        let prefix = format!("{architecture}.");
        let own = self.header.values.keys().filter_map(|key| Some((key, key.strip_prefix(&prefix)?)));
        let known: &[&str] = if architecture == "gpt2" { &KNOWN_GPT2 } else { &KNOWN_LLAMA };
        if let Some((key, _)) = own.into_iter().find(|(_, name)| !known.contains(name)) {
            return Err(self.unsupported(key, "no value: what it changes is not read"));
        }
        for (key, harmless) in
            [("rope.scaling.factor", 1.0), ("rope.scale_linear", 1.0), ("rope.scaling.attn_factor", 1.0)]
        {
            let key = format!("{architecture}.{key}");
            if self.header.values.contains_key(&key) && self.header.as_float(&key) != Some(harmless) {
                return Err(self.unsupported(&key, &harmless.to_string()));
            }
        }
        Ok(())
    }

    fn config(&self) -> Result<TransformerConfig> {
        let key = "general.architecture";
        let architecture = match self.header.text(key, self.bytes) {
            Some(name @ ("llama" | "gpt2")) => name,
            _ => return Err(self.unsupported(key, "\"llama\" or \"gpt2\"")),
        };
        self.check_known(architecture)?;
        let of = |name: &str| format!("{architecture}.{name}");
        let (width, heads) = (self.size(&of("embedding_length"))?, self.size(&of("attention.head_count"))?);
        let embedding = self.header.tensors.iter().find(|(name, ..)| name == "token_embd.weight");
        let vocabulary = match embedding {
            Some((_, shape, ..)) if shape.len() == 2 => shape[0],
            _ => return Err(Error::Lacking { name: "token_embd.weight".into() }),
        };
        if self.size_or(&of("vocab_size"), vocabulary)? != vocabulary {
            return Err(self.unsupported(&of("vocab_size"), &format!("{vocabulary}, the rows of the embedding")));
        }
        if width % heads != 0 {
            return Err(self.unsupported(&of("attention.head_count"), &format!("a divisor of the width, {width}")));
        }
        let inner = self.size(&of("feed_forward_length"))?;
        let family = if architecture == "gpt2" {
            let epsilon = self.number(&of("attention.layer_norm_epsilon"), &EPSILONS)?;
            Family::Gpt2 { activation: crate::Activation::GeluTanh, inner, epsilon }
        } else {
            for key in ["expert_count", "expert_used_count", "leading_dense_block_count", "rope.scaling.type"].map(of) {
                let none = match self.header.values.get(&key) {
                    None | Some(MetaValue::Int(0)) => true,
                    Some(MetaValue::Text(range)) => &self.bytes[range.clone()] == b"none",
                    _ => false,
                };
                if !none {
                    return Err(self.unsupported(&key, "no value"));
                }
            }
            let key_value_heads = self.size_or(&of("attention.head_count_kv"), heads)?;
            if heads % key_value_heads != 0 {
                let accepted = format!("a divisor of the heads, {heads}");
                return Err(self.unsupported(&of("attention.head_count_kv"), &accepted));
            }
            let head_width = self.size_or(&of("attention.key_length"), width / heads)?;
            if head_width % 2 != 0 || self.size_or(&of("rope.dimension_count"), head_width)? != head_width {
                return Err(
                    self.unsupported(&of("rope.dimension_count"), &format!("{head_width}, a head's even width"))
                );
            }
            if self.size_or(&of("attention.value_length"), head_width)? != head_width {
                return Err(self.unsupported(&of("attention.value_length"), &format!("{head_width}, as the keys have")));
            }
            let theta = of("rope.freq_base");
            let rope_theta =
                if self.header.values.contains_key(&theta) { self.number(&theta, &THETAS)? } else { 10_000.0 };
            let epsilon = self.number(&of("attention.layer_norm_rms_epsilon"), &EPSILONS)?;
            // the file holds f32; settings are meant in decimals
            let epsilon = format!("{:e}", epsilon as f32).parse().unwrap_or(epsilon);
            Family::Llama { key_value_heads, head_width, inner, rope_theta, epsilon }
        };
        Ok(TransformerConfig {
            vocabulary,
            context: self.size(&of("context_length"))?,
            layers: self.size(&of("block_count"))?,
            width,
            heads,
            tied: !self.header.tensors.iter().any(|(name, ..)| name == "output.weight"),
            family,
        })
    }

    /// A list of texts of at most so many.
    fn texts(&self, key: &str, most: usize) -> Result<Vec<&str>> {
        match self.header.values.get(key) {
            Some(MetaValue::Array { count, .. }) if *count > most => {
                Err(self.unsupported(key, &format!("at most {most}")))
            }
            _ => self.header.texts(key, self.bytes).ok_or_else(|| self.unsupported(key, "a list of texts")),
        }
    }

    /// The tokenizer as `tokenizer.json` has it, for an embedding of so many rows.
    fn tokenizer(&self, rows: usize, special: SpecialTokens) -> Result<Option<Vec<u8>>> {
        let key = "tokenizer.ggml.model";
        match self.header.text(key, self.bytes) {
            Some("gpt2") => {}
            None if !self.header.values.contains_key(key) => return Ok(None),
            _ => return Err(self.unsupported(key, "\"gpt2\", which is byte-level BPE")),
        }
        let key = "tokenizer.ggml.tokens";
        let tokens = self.texts(key, MOST_MERGES)?;
        huggingface::check_ids(self.path, rows, (0..).zip(tokens.iter().copied()))?;
        let merges = self.texts("tokenizer.ggml.merges", MOST_MERGES)?;
        let kinds_key = "tokenizer.ggml.token_type";
        let kinds = match self.header.values.get(kinds_key) {
            None => vec![],
            Some(_) => {
                let kinds = self.header.as_ints(kinds_key, self.bytes).filter(|kinds| kinds.len() == tokens.len());
                kinds.ok_or_else(|| {
                    self.unsupported(kinds_key, &format!("{} numbers, one for each token", tokens.len()))
                })?
            }
        };
        let key = "tokenizer.ggml.pre";
        let name = match self.header.text(key, self.bytes) {
            Some(name) => name,
            None if !self.header.values.contains_key(key) => "default",
            None => return Err(self.unsupported(key, "a name")),
        };
        let known = PRE_TOKENIZERS.iter().find(|(names, _)| names.contains(&name));
        let Some((names, pre_tokenizer)) = known else {
            let names: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|(names, _)| names.iter().copied()).collect();
            return Err(self.unsupported(key, &names.join(", ")));
        };
        // llama.cpp takes Llama 3's words whole where the vocabulary has them, and begins its texts with BOS
        let is_llama3 = names.contains(&LLAMA3);
        let starts = self.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(is_llama3);
        let post_processor = match special.bos {
            Some(bos) if starts => begins_with(tokens.get(bos as usize).copied().unwrap_or_default(), bos),
            _ => Value::Null,
        };
        let mut vocabulary = serde_json::Map::new();
        let mut added = vec![];
        for (id, token) in tokens.iter().enumerate() {
            if vocabulary.insert((*token).to_owned(), json!(id)).is_some() {
                let problem = format!("its tokenizer has {token:?} twice");
                return Err(Error::Damaged { path: self.path.into(), problem });
            }
            // 3: control, 4: written by hand
            if let Some(kind @ (3 | 4)) = kinds.get(id) {
                added.push(json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": *kind == 3}));
            }
        }
        let merges: Vec<[&str; 2]> = merges
            .iter()
            .map(|merge| merge.split_once(' ').map(|(a, b)| [a, b]))
            .collect::<Option<_>>()
            .ok_or_else(|| self.unsupported("tokenizer.ggml.merges", "pairs with a space between them"))?;
        let pre_tokenizer: Value = serde_json::from_str(pre_tokenizer).expect("written below");
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": is_llama3,
                "vocab": vocabulary, "merges": merges
            }
        });
        Ok(Some(json.to_string().into_bytes()))
    }
}

/// A post-processor that puts BOS before a text, as `tokenizer.json` says it.
fn begins_with(bos: &str, id: u32) -> Value {
    let (start, text) = (
        json!({"SpecialToken": {"id": bos, "type_id": 0}}),
        |of: &str, kind: u32| json!({"Sequence": {"id": of, "type_id": kind}}),
    );
    json!({
        "type": "TemplateProcessing",
        "single": [start, text("A", 0)],
        "pair": [start, text("A", 0), {"SpecialToken": {"id": bos, "type_id": 1}}, text("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}}
    })
}

/// Settings of each architecture whose meaning is known.
const KNOWN_GPT2: [&str; 7] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_epsilon",
    "vocab_size",
];
const KNOWN_LLAMA: [&str; 22] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "vocab_size",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scale_linear",
    "expert_count",
    "expert_used_count",
    "tensor_data_layout",
    "leading_dense_block_count",
];

/// Llama 3's own name among those of its way of cutting.
const LLAMA3: &str = "llama-bpe";

/// How text is cut before BPE, by the names that GGUF gives, as `tokenizer.json` says it.
const PRE_TOKENIZERS: [(&[&str], &str); 4] = [
    (
        &["gpt-2", "default", "phi-2"],
        r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"#,
    ),
    (
        &["smollm"],
        r#"{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]}"#,
    ),
    (
        &["llama-bpe", "llama3", "llama-v3"],
        r#"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}"#,
    ),
    (
        &["qwen2"],
        r#"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}"#,
    ),
];

/// Name and orientation of one of our parameters in a GGUF file: true where it is stored transposed.
pub fn gguf_name(ours: &str) -> (String, bool) {
    // as in Hugging Face's Llama: matrices [out, in], whatever the family
    let name = crate::huggingface::canonical_name(ours);
    let (stem, kind) = name.rsplit_once('.').unwrap_or((name.as_str(), "weight"));
    let is_matrix = kind == "weight" && !["tokens", "positions", "norm"].contains(&stem) && !stem.contains("norm_");
    let stem = match stem {
        "tokens" => "token_embd".into(),
        "positions" => "position_embd".into(),
        "norm" => "output_norm".into(),
        "head" => "output".into(),
        block => match block.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => {
                let part = match part {
                    "norm_attention" => "attn_norm",
                    "norm_mlp" => "ffn_norm",
                    "attention.qkv" => "attn_qkv",
                    "attention.q" => "attn_q",
                    "attention.k" => "attn_k",
                    "attention.v" => "attn_v",
                    "attention.out" => "attn_output",
                    "mlp.gate" => "ffn_gate",
                    "mlp.up" => "ffn_up",
                    "mlp.down" => "ffn_down",
                    other => other,
                };
                format!("blk.{layer}.{part}")
            }
            None => block.to_owned(),
        },
    };
    (format!("{stem}.{kind}"), is_matrix)
}

/// Heads whose rows the file interleaves for its rotary positions; `None` where it does not.
pub fn rope_interleaved_heads(config: &TransformerConfig, ours: &str) -> Option<usize> {
    match config.family {
        Family::Llama { .. } if ours.contains(".q.") => Some(config.heads),
        Family::Llama { key_value_heads, .. } if ours.contains(".k.") => Some(key_value_heads),
        _ => None,
    }
}

/// Rows of `heads` heads put from the order of neighbouring pairs `(2i, 2i + 1)` into that of halves `(i, i + E/2)`.
pub fn to_half_split(values: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    reorder_rows(values, heads, columns, half_split_row)
}

/// Which of the rows of heads of `e` rows each, kept as neighbouring pairs, is row `row` of halves.
pub fn half_split_row(e: usize, row: usize) -> usize {
    (row / e) * e + 2 * (row % e % (e / 2)) + row % e / (e / 2)
}

/// The inverse of [`halves`].
pub fn to_interleaved(values: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    reorder_rows(values, heads, columns, |e, row| (row / e) * e + (row % e % 2) * (e / 2) + row % e / 2)
}

fn reorder_rows(values: &[f32], heads: usize, columns: usize, from: impl Fn(usize, usize) -> usize) -> Vec<f32> {
    let rows = values.len() / columns;
    let mut ordered = Vec::with_capacity(values.len());
    (0..rows).for_each(|row| ordered.extend_from_slice(&values[from(rows / heads, row) * columns..][..columns]));
    ordered
}

/// How matrices are kept in a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    Q8,
}

/// Writes a GGUF file that llama.cpp and transformers read. Vectors stay f32; so does a matrix whose rows do not fill blocks.
///
/// # Errors
/// A tokenizer that is not byte-level BPE, or a file that cannot be written.
pub fn write(path: &Path, checkpoint: &Checkpoint, precision: Precision) -> Result<()> {
    let Checkpoint { config, policy, words } = checkpoint;
    let mut values: Vec<(String, Vec<u8>)> = vec![];
    let mut put = |key: &str, of: u32, bytes: Vec<u8>| {
        values.push((key.to_owned(), [of.to_le_bytes().to_vec(), bytes].concat()));
    };
    let text = |text: &str| [(text.len() as u64).to_le_bytes().to_vec(), text.as_bytes().to_vec()].concat();
    let list = |of: u32, items: Vec<Vec<u8>>| {
        [of.to_le_bytes().to_vec(), (items.len() as u64).to_le_bytes().to_vec(), items.concat()].concat()
    };
    let size = |n: usize| (n as u32).to_le_bytes().to_vec();
    let real = |x: f64| (x as f32).to_le_bytes().to_vec();
    let architecture = if matches!(config.family, Family::Llama { .. }) { "llama" } else { "gpt2" };
    let of = |name: &str| format!("{architecture}.{name}");
    put("general.architecture", 8, text(architecture));
    put("general.name", 8, text(NAME));
    let file_type = match precision {
        Precision::F32 => 0,
        Precision::F16 => 1,
        Precision::Q8 => 7,
    };
    put("general.file_type", 4, size(file_type));
    put(&of("block_count"), 4, size(config.layers));
    put(&of("context_length"), 4, size(config.context));
    put(&of("embedding_length"), 4, size(config.width));
    put(&of("attention.head_count"), 4, size(config.heads));
    put(&of("vocab_size"), 4, size(config.vocabulary));
    match config.family {
        Family::Gpt2 { activation: crate::Activation::SquaredRelu, .. } => {
            let (key, accepted) =
                ("activation".to_owned(), "GPT-2's own bend: GGUF has no word for another".to_owned());
            return Err(Error::Unsupported { path: path.into(), key, found: "squared ReLU".into(), accepted });
        }
        Family::Gpt2 { inner, epsilon, .. } => {
            put(&of("feed_forward_length"), 4, size(inner));
            put(&of("attention.layer_norm_epsilon"), 6, real(epsilon));
        }
        Family::Llama { key_value_heads, head_width, inner, rope_theta, epsilon } => {
            put(&of("feed_forward_length"), 4, size(inner));
            put(&of("attention.head_count_kv"), 4, size(key_value_heads));
            put(&of("attention.layer_norm_rms_epsilon"), 6, real(epsilon));
            put(&of("rope.freq_base"), 6, real(rope_theta));
            put(&of("rope.dimension_count"), 4, size(head_width));
            put(&of("attention.key_length"), 4, size(head_width));
            put(&of("attention.value_length"), 4, size(head_width));
        }
    }
    if let Some(bytes) = &words.tokenizer {
        let vocabulary = read_back(path, bytes)?;
        put("tokenizer.ggml.model", 8, text("gpt2"));
        put("tokenizer.ggml.pre", 8, text(vocabulary.pre));
        let mut tokens = vocabulary.tokens;
        // a model may have more places than its tokenizer has words
        for id in tokens.len()..config.vocabulary {
            tokens.push((format!("[PAD{id}]"), 5));
        }
        put("tokenizer.ggml.tokens", 9, list(8, tokens.iter().map(|(token, _)| text(token)).collect()));
        put(
            "tokenizer.ggml.token_type",
            9,
            list(5, tokens.iter().map(|(_, kind)| kind.to_le_bytes().to_vec()).collect()),
        );
        put("tokenizer.ggml.merges", 9, list(8, vocabulary.merges.iter().map(|merge| text(merge)).collect()));
        let special = words.special;
        put("tokenizer.ggml.add_bos_token", 7, vec![u8::from(vocabulary.starts && special.bos.is_some())]);
        for (key, id) in [("bos", special.bos), ("eos", special.eos), ("padding", special.pad)] {
            if let Some(id) = id {
                put(&format!("tokenizer.ggml.{key}_token_id"), 4, id.to_le_bytes().to_vec());
            }
        }
        if let Some(template) = &words.template {
            put("tokenizer.chat_template", 8, text(template));
        }
    }

    // the numbers, one tensor at a time
    let mut tensors: Vec<(String, Vec<usize>, FileDType, Vec<u8>)> = vec![];
    for NamedTensor { name, mut shape, mut values } in weights::named_params(policy) {
        let (name_in_file, is_transposed) = gguf_name(&name);
        if is_transposed {
            values = weights::transposed(&values, shape[0], shape[1]);
            shape.reverse();
        }
        if let Some(heads) = rope_interleaved_heads(config, &name) {
            values = to_interleaved(&values, heads, shape[1]);
        }
        let blocks = shape.last().is_some_and(|n| n % 32 == 0);
        let kind = match precision {
            _ if shape.len() < 2 => FileDType::F32,
            Precision::F16 => FileDType::F16,
            Precision::Q8 if blocks => FileDType::Q8_0,
            _ => FileDType::F32,
        };
        let bytes = kind.encode_all(path, &name_in_file, &values)?;
        tensors.push((name_in_file, shape, kind, bytes));
    }

    let mut head = [MAGIC.to_vec(), 3u32.to_le_bytes().to_vec()].concat();
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((values.len() as u64).to_le_bytes());
    for (key, value) in &values {
        head.extend(text(key));
        head.extend(value);
    }
    let mut place = 0u64;
    for (name, shape, kind, bytes) in &tensors {
        head.extend(text(name));
        head.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|n| head.extend((*n as u64).to_le_bytes()));
        head.extend(kind.ggml().to_le_bytes());
        head.extend(place.to_le_bytes());
        place = (place + bytes.len() as u64).next_multiple_of(ALIGNMENT);
    }
    let refuse = |source| Error::Write { path: path.into(), source };
    let file = std::fs::File::create(path).map_err(refuse)?;
    let mut file = std::io::BufWriter::new(file);
    let mut all = |bytes: &[u8]| -> Result<()> {
        file.write_all(bytes).map_err(refuse)?;
        let rest = bytes.len().next_multiple_of(ALIGNMENT as usize) - bytes.len();
        file.write_all(&vec![0; rest]).map_err(refuse)
    };
    all(&head)?;
    tensors.iter().try_for_each(|(.., bytes)| all(bytes))?;
    file.flush().map_err(refuse)?;
    file.get_ref().sync_all().map_err(refuse)
}

/// A `tokenizer.json` as GGUF says it.
struct Vocabulary {
    /// Each with its kind: 1 a word, 3 control, 4 written by hand.
    tokens: Vec<(String, i32)>,
    merges: Vec<String>,
    pre: &'static str,
    /// Whether a text begins with BOS.
    starts: bool,
}

fn read_back(path: &Path, bytes: &[u8]) -> Result<Vocabulary> {
    let unsupported = |key: &str, found: String, accepted: &str| Error::Unsupported {
        path: path.into(),
        key: key.into(),
        found,
        accepted: accepted.into(),
    };
    let json: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::Damaged { path: path.into(), problem: format!("its tokenizer: {e}") })?;
    let model = &json["model"];
    let (Some(vocabulary), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else {
        return Err(unsupported("tokenizer.json model", model["type"].to_string(), "byte-level BPE"));
    };
    let pre = PRE_TOKENIZERS.iter().find(|(_, known)| {
        let known: Value = serde_json::from_str(known).expect("written above");
        simplify_pre_tokenizer(&known) == simplify_pre_tokenizer(&json["pre_tokenizer"])
    });
    let Some((names, _)) = pre else {
        let found = json["pre_tokenizer"].to_string();
        return Err(unsupported(
            "tokenizer.json pre_tokenizer",
            found,
            "one that GGUF has a name for: gpt-2, smollm, llama-bpe, qwen2",
        ));
    };
    if model["ignore_merges"] == json!(true) && !names.contains(&LLAMA3) {
        let accepted = "false: GGUF takes words whole with Llama 3's pre-tokenizer alone";
        return Err(unsupported("tokenizer.json ignore_merges", "true".into(), accepted));
    }
    let mut tokens: BTreeMap<u64, (String, i32)> = BTreeMap::new();
    for (token, id) in vocabulary {
        tokens.insert(id.as_u64().unwrap_or(u64::MAX), (token.clone(), 1));
    }
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = if token["special"] == json!(true) { 3 } else { 4 };
        let content = token["content"].as_str().unwrap_or_default().to_owned();
        tokens.insert(token["id"].as_u64().unwrap_or(u64::MAX), (content, kind));
    }
    if tokens.keys().zip(0..).any(|(id, place)| *id != place) {
        return Err(unsupported("tokenizer.json ids", "ids with gaps".into(), "ids from 0 on, one after another"));
    }
    let merge = |merge: &Value| match merge {
        Value::String(merge) => Some(merge.clone()),
        Value::Array(pair) => Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
        _ => None,
    };
    let merges = merges.iter().map(merge).collect::<Option<Vec<_>>>();
    let merges = merges.ok_or_else(|| unsupported("tokenizer.json merges", "something else".into(), "pairs"))?;
    Ok(Vocabulary {
        tokens: tokens.into_values().collect(),
        merges,
        pre: names[0],
        starts: starts_with_token(&json["post_processor"]),
    })
}

/// Whether a post-processor puts a token before a text, itself or within a sequence of them.
fn starts_with_token(post: &Value) -> bool {
    let within = post["processors"].as_array().into_iter().flatten();
    post["single"][0]["SpecialToken"].is_object()
        || within.into_iter().any(|one| one["single"][0]["SpecialToken"].is_object())
}

/// A pre-tokenizer without what does not change the tokens.
fn simplify_pre_tokenizer(pre: &Value) -> Value {
    let mut pre = pre.clone();
    if let Some(list) = pre["pretokenizers"].as_array_mut() {
        list.iter_mut().for_each(|one| *one = simplify_pre_tokenizer(one));
    }
    if let Some(map) = pre.as_object_mut() {
        map.remove("trim_offsets");
    }
    pre
}
