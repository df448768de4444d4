//! A `tokenizer.json` as GGUF files hold it.

use crate::gguf_tokenizer::{BYTE_LEVEL, SENTENCE_PIECE, TokenKind};
use crate::pre_tokenizer::PreTokenizer;
use crate::sentencepiece::SPACE;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// A tokenizer's fields in a GGUF file.
#[derive(Debug)]
pub(crate) struct GgufVocabulary {
    /// `tokenizer.ggml.model`
    pub model: &'static str,
    /// `tokenizer.ggml.pre`
    pub pre: &'static str,
    /// Each token with its kind.
    pub tokens: Vec<(String, TokenKind)>,
    /// SentencePiece's, one for each token.
    pub scores: Option<Vec<f32>>,
    pub merges: Vec<String>,
    /// Whether a space is put before every text; SentencePiece's alone say so.
    pub prefix: Option<bool>,
    /// Whether BOS is put before a text, and EOS after it.
    pub adds: [bool; 2],
}

/// Makes errors that name the tokenizer's own keys.
struct TokenizerJson<'a> {
    path: &'a Path,
    json: Value,
}

impl TokenizerJson<'_> {
    fn unsupported(&self, key: &str, value: impl ToString, accepted: &str) -> Error {
        let (key, value) = (format!("tokenizer.json {key}"), value.to_string());
        Error::Unsupported { path: self.path.into(), key, found: value, accepted: accepted.into() }
    }

    /// All tokens by their ids: those of the model, and those that are added.
    fn tokens(&self, kind: impl Fn(&str) -> TokenKind) -> Result<Vec<(String, TokenKind)>> {
        let vocabulary = self.json["model"]["vocab"].as_object();
        let mut tokens: BTreeMap<u64, (String, TokenKind)> = BTreeMap::new();
        for (token, id) in vocabulary.into_iter().flatten() {
            tokens.insert(id.as_u64().unwrap_or(u64::MAX), (token.clone(), kind(token)));
        }
        for token in self.json["added_tokens"].as_array().into_iter().flatten() {
            let content = token["content"].as_str().unwrap_or_default();
            let kind = match kind(content) {
                TokenKind::Unknown => TokenKind::Unknown,
                _ if token["special"] == json!(true) => TokenKind::Control,
                _ => TokenKind::UserDefined,
            };
            tokens.insert(token["id"].as_u64().unwrap_or(u64::MAX), (content.to_owned(), kind));
        }
        if tokens.keys().zip(0..).any(|(id, expected)| *id != expected) {
            return Err(self.unsupported("ids", "ids with gaps", "ids from 0 on, one after another"));
        }
        Ok(tokens.into_values().collect())
    }

    fn merges(&self) -> Result<Vec<[String; 2]>> {
        let pair = |merge: &Value| match merge {
            Value::String(merge) => merge.split_once(' ').map(|(a, b)| [a.to_owned(), b.to_owned()]),
            Value::Array(pair) => Some([pair.first()?.as_str()?.to_owned(), pair.get(1)?.as_str()?.to_owned()]),
            _ => None,
        };
        let merges = self.json["model"]["merges"].as_array().into_iter().flatten();
        let merges = merges.map(pair).collect::<Option<Vec<_>>>();
        merges.ok_or_else(|| self.unsupported("merges", "something else", "pairs"))
    }

    /// Whether tokens are put before and after a text, by a post-processor itself or within a sequence of them.
    fn adds(&self) -> [bool; 2] {
        let post = &self.json["post_processor"];
        let within = post["processors"].as_array().into_iter().flatten();
        let singles = std::iter::once(post).chain(within).filter_map(|one| one["single"].as_array());
        let is_token = |part: Option<&Value>| part.is_some_and(|part| part["SpecialToken"].is_object());
        singles.fold([false, false], |[first, last], parts| {
            [first || is_token(parts.first()), last || is_token(parts.last())]
        })
    }

    fn byte_level(&self) -> Result<GgufVocabulary> {
        let (model, normalizer) = (&self.json["model"], &self.json["normalizer"]);
        let composes = match &normalizer["type"] {
            Value::Null if normalizer.is_null() => false,
            kind if kind == "NFC" => true,
            _ => return Err(self.unsupported("normalizer", normalizer, "none, or NFC, with byte-level BPE")),
        };
        let pre = &self.json["pre_tokenizer"];
        let ignores_merges = model["ignore_merges"] == json!(true);
        let pre = PreTokenizer::by_description(pre, composes, ignores_merges).ok_or_else(|| {
            let value = format!("{pre}, with `ignore_merges` {ignores_merges}");
            let accepted = format!("one that GGUF has a name for: {}", PreTokenizer::all_names());
            self.unsupported("pre_tokenizer", value, &accepted)
        })?;
        Ok(GgufVocabulary {
            model: BYTE_LEVEL,
            pre: pre.names[0],
            tokens: self.tokens(|_| TokenKind::Normal)?,
            scores: None,
            merges: self.merges()?.into_iter().map(|pair| pair.join(" ")).collect(),
            prefix: None,
            adds: self.adds(),
        })
    }

    /// Pieces whose scores are the ranks of the merges that make them. Pieces of spaces that people have defined are written with
    /// spaces.
    fn sentence_pieces(&self) -> Result<GgufVocabulary> {
        let prefix = self.prefix()?;
        let merges = self.merges()?;
        let unknown = self.json["model"]["unk_token"].as_str();
        let is_byte = |token: &str| token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        let mut tokens = self.tokens(|token| match token {
            _ if Some(token) == unknown => TokenKind::Unknown,
            _ if is_byte(token) => TokenKind::Byte,
            _ => TokenKind::Normal,
        })?;
        let mut ranks: HashMap<String, usize> = HashMap::new();
        for (rank, pair) in merges.iter().enumerate() {
            ranks.entry(pair.concat()).or_insert(rank);
        }
        let score = |(token, kind): &(String, TokenKind)| match kind {
            TokenKind::Normal => -(ranks.get(token).copied().unwrap_or(merges.len()) as f32),
            TokenKind::UserDefined => ranks.get(token).map_or(0.0, |rank| -(*rank as f32)),
            _ => 0.0,
        };
        let scores = tokens.iter().map(score).collect();
        for (token, _) in tokens.iter_mut().filter(|(_, kind)| *kind == TokenKind::UserDefined) {
            *token = token.replace(SPACE, " ");
        }
        Ok(GgufVocabulary {
            model: SENTENCE_PIECE,
            pre: "default",
            tokens,
            scores: Some(scores),
            merges: merges.into_iter().map(|pair| pair.join(" ")).collect(),
            prefix: Some(prefix),
            adds: self.adds(),
        })
    }

    /// Whether a space is put before a text.
    fn prefix(&self) -> Result<bool> {
        let (normalizer, pre) = (&self.json["normalizer"], &self.json["pre_tokenizer"]);
        let parts = match normalizer["normalizers"].as_array() {
            Some(parts) => parts.iter().collect(),
            None if normalizer.is_null() => vec![],
            None => vec![normalizer],
        };
        let is_space =
            |part: &Value| part["type"] == "Replace" && part["content"] == SPACE && part["pattern"]["String"] == " ";
        let is_prefix = |part: &Value| part["type"] == "Prepend" && part["prepend"] == SPACE;
        let is_whole = pre["type"] == "Metaspace" && pre["split"] == json!(false) && pre["replacement"] == SPACE;
        // after its spaces have been replaced, a text has none to be cut at
        let is_idle = pre.is_null() || pre["type"] == "Split" && pre["pattern"]["String"] == " ";
        match &parts[..] {
            [] if is_whole => Ok(pre["prepend_scheme"] != "never"),
            [space] if is_space(space) && is_idle => Ok(false),
            [space] if is_space(space) && is_whole => Ok(pre["prepend_scheme"] != "never"),
            [first, space] if is_prefix(first) && is_space(space) && is_idle => Ok(true),
            _ => {
                let value = format!("{normalizer}, with the pre-tokenizer {pre}");
                Err(self.unsupported("normalizer", value, "SentencePiece's spaces, with or without one before a text"))
            }
        }
    }
}

/// Turns a `tokenizer.json` into what GGUF holds.
///
/// # Errors
/// A tokenizer for which GGUF has no name.
pub(crate) fn to_vocabulary(path: &Path, bytes: &[u8]) -> Result<GgufVocabulary> {
    let json: Value = serde_json::from_slice(bytes)
        .map_err(|e| Error::Damaged { path: path.into(), problem: format!("its tokenizer: {e}") })?;
    let file = TokenizerJson { path, json };
    let model = &file.json["model"];
    if !model["vocab"].is_object() || !model["merges"].is_array() {
        return Err(file.unsupported("model", &model["type"], "byte-level BPE, or SentencePiece's"));
    }
    let is_sentence_piece = model["byte_fallback"] == json!(true);
    if is_sentence_piece { file.sentence_pieces() } else { file.byte_level() }
}
