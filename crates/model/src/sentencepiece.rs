//! SentencePiece models (`tokenizer.model`), BPE and unigram, as `tokenizer.json` describes them; in the way of transformers'
//! converters, which give the same ids as SentencePiece itself for any text without control or user-defined tokens.

use crate::protobuf::{FieldValue, MessageFields};
use crate::{Error, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

/// Most pieces: far more than any model has.
const MAX_PIECES: usize = 1 << 22;
/// Bytes of the longest piece that BPE may build; those in use have up to a hundred.
const MAX_PIECE: usize = 256;
/// SentencePiece's space.
pub(crate) const SPACE: &str = "▁";

/// What a piece stands for, as `SentencePiece.Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceKind {
    /// A part of words, and anything else that is only that: unknown, unused, single bytes.
    Word,
    /// Never text itself.
    Control,
    /// Never cut.
    UserDefined,
}

/// One piece of the vocabulary; its id is its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) score: f32,
    pub(crate) kind: PieceKind,
}

/// How text is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceModel {
    Unigram,
    Bpe,
}

/// How spaces become pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DummyPrefix {
    Never,
    /// Before a text, unless it begins with a space (transformers' `legacy = false`).
    First,
    /// Before a text and each of its parts between added tokens, whatever they begin with (transformers' `legacy = true`).
    Always,
}

/// A SentencePiece model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SentencePiece {
    pub(crate) model: PieceModel,
    pub(crate) pieces: Vec<Piece>,
    /// Whether what no piece spells is spelt in bytes.
    pub(crate) byte_fallback: bool,
    /// Compiled replacements of characters, such as by NFKC; empty for none.
    pub(crate) charsmap: Vec<u8>,
    /// Whether spaces at both ends are dropped, and several together are one.
    pub(crate) drops_spaces: bool,
    pub(crate) prefix: DummyPrefix,
    /// Of unknown, BOS, EOS and PAD; BOS, EOS and PAD may be absent.
    pub(crate) unk: usize,
    pub(crate) bos: Option<usize>,
    pub(crate) eos: Option<usize>,
    pub(crate) pad: Option<usize>,
}

impl SentencePiece {
    /// Reads `tokenizer.model`.
    ///
    /// # Errors
    /// Bytes that are no such model, and what `tokenizer.json` cannot describe.
    pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<Self> {
        let damaged = |problem: String| Error::Damaged { path: path.into(), problem };
        let mut pieces = vec![];
        let (mut trainer, mut normalizer) = (SpecFields::new(path), SpecFields::new(path));
        for field in MessageFields::new(bytes) {
            match field.map_err(damaged)? {
                (1, FieldValue::Bytes(_)) if pieces.len() == MAX_PIECES => {
                    return Err(damaged(format!("more than {MAX_PIECES} pieces")));
                }
                (1, FieldValue::Bytes(piece)) => pieces.push(read_piece(piece).map_err(damaged)?),
                (2, FieldValue::Bytes(message)) => trainer.read(message)?,
                (3, FieldValue::Bytes(message)) => normalizer.read(message)?,
                _ => {}
            }
        }
        if pieces.is_empty() {
            return Err(damaged("a SentencePiece model without pieces".into()));
        }
        let model = match trainer.int(3, "trainer_spec.model_type", 1)? {
            1 => PieceModel::Unigram,
            2 => PieceModel::Bpe,
            other => return Err(trainer.unsupported("trainer_spec.model_type", other, "1 (unigram) or 2 (BPE)")),
        };
        if trainer.flag(24, "trainer_spec.treat_whitespace_as_suffix", false)? {
            return Err(trainer.unsupported("trainer_spec.treat_whitespace_as_suffix", true, "false"));
        }
        if !normalizer.flag(5, "normalizer_spec.escape_whitespaces", true)? {
            return Err(normalizer.unsupported("normalizer_spec.escape_whitespaces", false, "true"));
        }
        let id = |tag: u64, key: &str, default: i32| match trainer.int(tag, key, default)? {
            id if id < 0 => Ok(None),
            id if (id as usize) < pieces.len() => Ok(Some(id as usize)),
            id => Err(trainer.unsupported(key, id, &format!("an id below {}, the number of pieces", pieces.len()))),
        };
        let unk = id(40, "trainer_spec.unk_id", 0)?;
        Ok(Self {
            model,
            byte_fallback: trainer.flag(35, "trainer_spec.byte_fallback", false)?,
            charsmap: normalizer.bytes(2, "normalizer_spec.precompiled_charsmap")?,
            drops_spaces: normalizer.flag(4, "normalizer_spec.remove_extra_whitespaces", true)?,
            prefix: match normalizer.flag(3, "normalizer_spec.add_dummy_prefix", true)? {
                true => DummyPrefix::Always,
                false => DummyPrefix::Never,
            },
            unk: unk.ok_or_else(|| trainer.unsupported("trainer_spec.unk_id", -1, "the id of a piece"))?,
            bos: id(41, "trainer_spec.bos_id", 1)?,
            eos: id(42, "trainer_spec.eos_id", 2)?,
            pad: id(43, "trainer_spec.pad_id", -1)?,
            pieces,
        })
    }

    /// The piece of an id.
    pub(crate) fn text(&self, id: usize) -> &str {
        self.pieces.get(id).map_or("", |piece| &piece.text)
    }

    /// `tokenizer.json`; `is_special` are pieces that are control tokens though they are only user-defined here.
    ///
    /// # Errors
    /// A piece that occurs twice, or is too long.
    pub(crate) fn to_tokenizer(&self, path: &Path, is_special: impl Fn(&str) -> bool) -> Result<Value> {
        let model = match self.model {
            PieceModel::Unigram => {
                let vocabulary: Vec<_> = self.pieces.iter().map(|piece| json!([piece.text, piece.score])).collect();
                json!({"type": "Unigram", "unk_id": self.unk, "vocab": vocabulary, "byte_fallback": self.byte_fallback})
            }
            PieceModel::Bpe => {
                let ids = self.ids(path)?;
                let merges = self.merges(path, &ids)?;
                json!({
                    "type": "BPE", "dropout": null, "unk_token": self.text(self.unk), "continuing_subword_prefix": null,
                    "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": self.byte_fallback,
                    "ignore_merges": false, "vocab": ids, "merges": merges
                })
            }
        };
        let added = self.pieces.iter().enumerate().filter_map(|(id, piece)| {
            let special = piece.kind == PieceKind::Control || id == self.unk || is_special(&piece.text);
            (special || piece.kind == PieceKind::UserDefined).then(|| {
                json!({"id": id, "content": piece.text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special})
            })
        });
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": {"type": "Sequence", "normalizers": self.normalizers()},
            "pre_tokenizer": self.pre_tokenizer(), "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": self.decoders()}, "model": model
        }))
    }

    /// The id of each piece.
    fn ids(&self, path: &Path) -> Result<HashMap<&str, usize>> {
        let mut ids = HashMap::with_capacity(self.pieces.len());
        for (id, piece) in self.pieces.iter().enumerate() {
            if ids.insert(&*piece.text, id).is_some() {
                return Err(Error::Damaged { path: path.into(), problem: format!("{:?} occurs twice", piece.text) });
            }
        }
        Ok(ids)
    }

    /// The pairs that make each piece, those of the best pieces first.
    fn merges(&self, path: &Path, ids: &HashMap<&str, usize>) -> Result<Vec<[&str; 2]>> {
        let mut merges = vec![];
        for (id, piece) in self.pieces.iter().enumerate().filter(|(_, piece)| piece.kind != PieceKind::Control) {
            let text = &*piece.text;
            if text.len() > MAX_PIECE && piece.kind == PieceKind::Word {
                let problem = format!("a piece of {} bytes; the limit is {MAX_PIECE}", text.len());
                return Err(Error::Damaged { path: path.into(), problem });
            }
            let cuts = text
                .char_indices()
                .skip(1)
                .take_while(|(index, _)| *index <= MAX_PIECE)
                .map(|(index, _)| text.split_at(index));
            merges.extend(cuts.filter_map(|(left, right)| {
                let (first, second) = (ids.get(left)?, ids.get(right)?);
                Some((piece.score, id, left.chars().count(), *first, *second, [left, right]))
            }));
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3, a.4).cmp(&(b.1, b.2, b.3, b.4))));
        Ok(merges.into_iter().map(|(.., pair)| pair).collect())
    }

    fn normalizers(&self) -> Vec<Value> {
        let mut normalizers = vec![];
        if !self.charsmap.is_empty() {
            normalizers
                .push(json!({"type": "Precompiled", "precompiled_charsmap": BASE64_STANDARD.encode(&self.charsmap)}));
        }
        let replace =
            |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        if self.drops_spaces {
            // one at the beginning is left, and takes the place of the prefix
            normalizers.push(replace(json!({"Regex": " {2,}"}), " "));
            normalizers.push(replace(
                json!({"Regex": if self.prefix == DummyPrefix::Never { r"\A |[ ▁]+\z" } else { r"[ ▁]+\z" }}),
                "",
            ));
        } else if self.prefix == DummyPrefix::Always {
            normalizers.push(json!({"type": "Prepend", "prepend": SPACE}));
        }
        normalizers.push(replace(json!({"String": " "}), SPACE));
        normalizers
    }

    fn pre_tokenizer(&self) -> Value {
        match self.prefix {
            DummyPrefix::First => {}
            DummyPrefix::Always if self.drops_spaces => {}
            _ => return Value::Null,
        }
        json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": false})
    }

    fn decoders(&self) -> Vec<Value> {
        let mut decoders = vec![json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "})];
        if self.byte_fallback {
            decoders.push(json!({"type": "ByteFallback"}));
        }
        decoders.push(json!({"type": "Fuse"}));
        if self.prefix != DummyPrefix::Never {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        decoders
    }
}

fn read_piece(message: &[u8]) -> std::result::Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Word };
    for field in MessageFields::new(message) {
        let (tag, value) = field?;
        let read = match tag {
            1 => value.text().map(|text| piece.text = text),
            2 => value.float().filter(|score| score.is_finite()).map(|score| piece.score = score),
            3 => value.int().map(|kind| {
                piece.kind = match kind {
                    3 => PieceKind::Control,
                    4 => PieceKind::UserDefined,
                    _ => PieceKind::Word,
                }
            }),
            _ => Some(()),
        };
        read.ok_or_else(|| format!("field {tag} of a piece is not what it should be"))?;
    }
    if piece.text.is_empty() { Err("a piece without text".into()) } else { Ok(piece) }
}

/// The settings in one part of the file, by their tags.
struct SpecFields<'a> {
    path: &'a Path,
    values: HashMap<u64, FieldValue<'a>>,
}

impl<'a> SpecFields<'a> {
    fn new(path: &'a Path) -> Self {
        Self { path, values: HashMap::new() }
    }

    /// Of several, the last counts.
    fn read(&mut self, message: &'a [u8]) -> Result<()> {
        for field in MessageFields::new(message) {
            let (tag, value) = field.map_err(|problem| Error::Damaged { path: self.path.into(), problem })?;
            self.values.insert(tag, value);
        }
        Ok(())
    }

    fn unsupported(&self, key: &str, value: impl ToString, accepted: &str) -> Error {
        Error::Unsupported {
            path: self.path.into(),
            key: key.into(),
            found: value.to_string(),
            accepted: accepted.into(),
        }
    }

    fn get<T>(&self, tag: u64, key: &str, default: T, read: impl Fn(FieldValue<'a>) -> Option<T>) -> Result<T> {
        match self.values.get(&tag) {
            None => Ok(default),
            Some(value) => read(*value).ok_or_else(|| {
                let problem = format!("`{key}` is not what it should be");
                Error::Damaged { path: self.path.into(), problem }
            }),
        }
    }

    fn int(&self, tag: u64, key: &str, default: i32) -> Result<i32> {
        self.get(tag, key, default, FieldValue::int)
    }

    fn flag(&self, tag: u64, key: &str, default: bool) -> Result<bool> {
        self.get(tag, key, default, FieldValue::flag)
    }

    fn bytes(&self, tag: u64, key: &str) -> Result<Vec<u8>> {
        self.get(tag, key, vec![], |value| value.bytes().map(<[u8]>::to_vec))
    }
}
