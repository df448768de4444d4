//! Tokenizers as GGUF files hold them, turned into `tokenizer.json`: byte-level BPE and SentencePiece's.

use crate::header_reader::HeaderReader;
use crate::post_processor::around;
use crate::pre_tokenizer::PreTokenizer;
use crate::sentencepiece::{DummyPrefix, Piece, PieceKind, PieceModel, SPACE, SentencePiece};
use crate::tokenizer_files::{SpecialTokens, check_ids};
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::HashSet;

/// `tokenizer.ggml.model` of byte-level BPE, and of SentencePiece's.
pub(crate) const BYTE_LEVEL: &str = "gpt2";
pub(crate) const SENTENCE_PIECE: &str = "llama";
/// The architecture whose special tokens take the white space after them.
const PHI3: &str = "phi3";
/// Most tokens and merges: far more than any tokenizer has.
const MOST_MERGES: usize = 1 << 22;

/// What ends a response besides EOS: the ends of a turn and of a message.
pub(crate) const OTHER_EOS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// What a token is, with ggml's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenKind {
    fn from_number(number: i128) -> Option<Self> {
        use TokenKind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        [Normal, Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|kind| *kind as i128 == number)
    }
}

/// Ids that mean something, for an embedding of so many rows.
pub(crate) fn read_special(settings: &HeaderReader<'_>, rows: usize) -> Result<SpecialTokens> {
    let id = |name: &str| settings.id(&format!("tokenizer.ggml.{name}_token_id"), rows);
    let (bos, eos, pad) = (id("bos")?, id("eos")?, id("padding")?);
    let mut special = SpecialTokens { bos, eos, pad, ..SpecialTokens::default() };
    for key in OTHER_EOS {
        settings.id(key, rows)?.into_iter().for_each(|id| special.add_eos(id));
    }
    id("unknown")?;
    Ok(special)
}

/// The tokenizer as `tokenizer.json` has it, for an embedding of so many rows.
pub(crate) fn read_tokenizer(
    settings: &HeaderReader<'_>,
    rows: usize,
    special: &SpecialTokens,
) -> Result<Option<Vec<u8>>> {
    let key = "tokenizer.ggml.model";
    let read = match settings.text(key) {
        Some(BYTE_LEVEL) => read_byte_level,
        Some(SENTENCE_PIECE) => read_sentence_pieces,
        Some("no_vocab" | "none") => return Ok(None),
        None if settings.value(key).is_none() => return Ok(None),
        name => {
            let mut accepted = "\"gpt2\" (byte-level BPE), \"llama\" (SentencePiece's BPE)".to_owned();
            if name == Some("t5") {
                accepted += "; SentencePiece's Unigram is read from tokenizer.json or tokenizer.model of a directory";
            }
            return Err(settings.unsupported(key, &accepted));
        }
    };
    let key = "tokenizer.ggml.tokens";
    let tokens = settings.texts(key, MOST_MERGES)?;
    check_ids(settings.path, rows, (0..).zip(tokens.iter().copied()))?;
    let vocabulary = TokenList { kinds: token_kinds(settings, tokens.len())?, tokens };
    let mut known = HashSet::new();
    if let Some(twice) = vocabulary.tokens.iter().find(|token| !known.insert(**token)) {
        let problem = format!("its tokenizer has {twice:?} twice");
        return Err(Error::Damaged { path: settings.path.into(), problem });
    }
    Ok(Some(read(settings, &vocabulary, special)?.to_string().into_bytes()))
}

/// The tokens of a file by their ids.
struct TokenList<'a> {
    tokens: Vec<&'a str>,
    kinds: Vec<TokenKind>,
}

fn read_byte_level(settings: &HeaderReader<'_>, list: &TokenList<'_>, special: &SpecialTokens) -> Result<Value> {
    let pre = pre_tokenizer(settings)?;
    let vocabulary: serde_json::Map<String, Value> =
        list.tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    let is_added = |kind: TokenKind| matches!(kind, TokenKind::Control | TokenKind::UserDefined);
    let token = |id: usize, content: &str, special: bool| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special
        })
    };
    let added: Vec<Value> = list
        .tokens
        .iter()
        .zip(&list.kinds)
        .enumerate()
        .filter(|(_, (_, kind))| is_added(**kind))
        .map(|(id, (content, kind))| token(id, content, *kind == TokenKind::Control))
        .collect();
    let merges = read_merges(settings)?
        .ok_or_else(|| settings.unsupported("tokenizer.ggml.merges", "pairs with a space between them"))?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": pre.normalizer(), "pre_tokenizer": pre.json(),
        "post_processor": post_processor(settings, list, special, pre.begins)?,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": pre.ignores_merges,
            "vocab": vocabulary, "merges": merges
        }
    }))
}

fn read_sentence_pieces(settings: &HeaderReader<'_>, list: &TokenList<'_>, special: &SpecialTokens) -> Result<Value> {
    let key = "tokenizer.ggml.scores";
    let count = list.tokens.len();
    let merges = read_merges(settings)?;
    let scores = match settings.value(key) {
        None if merges.is_some() => vec![0.0; count],
        _ => {
            let scores = settings.header.as_floats(&settings.key(key), settings.bytes);
            let fits = |scores: &Vec<f64>| scores.len() == count && scores.iter().all(|score| !score.is_nan());
            scores
                .filter(fits)
                .ok_or_else(|| settings.unsupported(key, &format!("{count} numbers, one for each token")))?
        }
    };
    let piece = |((token, kind), score): ((&&str, &TokenKind), f64)| {
        let kind = match kind {
            TokenKind::Control => PieceKind::Control,
            TokenKind::UserDefined => PieceKind::UserDefined,
            _ => PieceKind::Word,
        };
        // converters write spaces as they are where people have defined pieces of them
        let text = if kind == PieceKind::UserDefined { token.replace(' ', SPACE) } else { (*token).to_owned() };
        Piece { text, score: score as f32, kind }
    };
    let pieces: Vec<Piece> = list.tokens.iter().zip(&list.kinds).zip(scores).map(piece).collect();
    let is_unknown = |(token, kind): (&&str, &TokenKind)| *kind == TokenKind::Unknown || *token == "<unk>";
    let unk = match settings.id("tokenizer.ggml.unknown_token_id", count)? {
        Some(id) => id as usize,
        None => list.tokens.iter().zip(&list.kinds).position(is_unknown).unwrap_or_default(),
    };
    let texts: HashSet<&str> = list.tokens.iter().copied().collect();
    let has_prefix = settings.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let vocabulary = SentencePiece {
        model: PieceModel::Bpe,
        pieces,
        byte_fallback: (0..=255u8).all(|byte| texts.contains(format!("<0x{byte:02X}>").as_str())),
        charsmap: vec![],
        drops_spaces: false,
        prefix: if has_prefix { DummyPrefix::Always } else { DummyPrefix::Never },
        unk,
        bos: None,
        eos: None,
        pad: None,
    };
    let mut json = vocabulary.to_tokenizer(settings.path, |_| false)?;
    json["post_processor"] = post_processor(settings, list, special, true)?;
    if let Some(merges) = merges {
        json["model"]["merges"] = json!(merges);
    }
    if settings.text("general.architecture") == Some(PHI3) {
        for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
            let is_plain = ["<unk>", "<s>", "<|endoftext|>"].iter().any(|plain| token["content"] == *plain);
            token["rstrip"] = json!(!is_plain && token["special"] == true);
        }
    }
    Ok(json)
}

/// The kind of each token; all are words where the file does not say.
fn token_kinds(settings: &HeaderReader<'_>, tokens: usize) -> Result<Vec<TokenKind>> {
    let key = "tokenizer.ggml.token_type";
    if settings.value(key).is_none() {
        return Ok(vec![TokenKind::Normal; tokens]);
    }
    let kinds = settings.header.as_ints(key, settings.bytes).filter(|kinds| kinds.len() == tokens);
    let kinds = kinds.ok_or_else(|| settings.unsupported(key, &format!("{tokens} numbers, one for each token")))?;
    let kind = |number: i128| TokenKind::from_number(number).unwrap_or(TokenKind::Normal);
    Ok(kinds.into_iter().map(kind).collect())
}

/// The merges, best first; `None` where the file has none.
fn read_merges(settings: &HeaderReader<'_>) -> Result<Option<Vec<[String; 2]>>> {
    let key = "tokenizer.ggml.merges";
    if settings.value(key).is_none() {
        return Ok(None);
    }
    // the space between the two is never the first character
    let pair = |merge: &str| {
        let index = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(index, _)| index)?;
        Some([merge[..index].to_owned(), merge[index + 1..].to_owned()])
    };
    let merges = settings.texts(key, MOST_MERGES)?.into_iter().map(pair).collect::<Option<Vec<_>>>();
    merges.map(Some).ok_or_else(|| settings.unsupported(key, "pairs with a space between them"))
}

/// The way of cutting text that the file names.
fn pre_tokenizer(settings: &HeaderReader<'_>) -> Result<&'static PreTokenizer> {
    let key = "tokenizer.ggml.pre";
    let name = match settings.text(key) {
        Some(name) => name,
        None if settings.value(key).is_none() => "default",
        None => return Err(settings.unsupported(key, "a name")),
    };
    PreTokenizer::by_name(name).ok_or_else(|| settings.unsupported(key, &PreTokenizer::all_names()))
}

/// What puts BOS before a text and EOS after it, where the file says so, or it is usual (`begins`).
fn post_processor(
    settings: &HeaderReader<'_>,
    list: &TokenList<'_>,
    special: &SpecialTokens,
    begins: bool,
) -> Result<Value> {
    let flag = |name: &str, id: Option<u32>, usual: bool| {
        let key = format!("tokenizer.ggml.add_{name}_token");
        let is_added = settings.flag(&key)?;
        let token = id.and_then(|id| Some((id, *list.tokens.get(id as usize)?)));
        match (is_added, token) {
            (Some(true), None) => {
                Err(settings.unsupported(&key, &format!("false, or a token at `tokenizer.ggml.{name}_token_id`")))
            }
            (added, token) => Ok(token.filter(|_| added.unwrap_or(usual))),
        }
    };
    let (bos, eos) = (flag("bos", special.bos, begins)?, flag("eos", special.eos, false)?);
    Ok(around(bos, eos))
}
