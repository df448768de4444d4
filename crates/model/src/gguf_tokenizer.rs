//! Tokenizers as GGUF files hold them, turned into `tokenizer.json`: byte-level BPE and SentencePiece's.

use crate::header_reader::HeaderReader;
use crate::post_processor;
use crate::pre_tokenizer::PreTokenizer;
use crate::sentence_pieces::{Piece, PieceKind, SPACE, SentencePieces, added_token};
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
/// Most bytes of a piece: SentencePiece's own are of 16 characters.
const LONGEST_PIECE: usize = 256;

/// What ends a response besides EOS: the ends of a turn and of a message.
pub(crate) const OTHER_EOS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

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
        _ => return Err(settings.unsupported(key, "\"gpt2\" (byte-level BPE), \"llama\" (SentencePiece's BPE)")),
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
    kinds: Vec<PieceKind>,
}

fn read_byte_level(settings: &HeaderReader<'_>, list: &TokenList<'_>, special: &SpecialTokens) -> Result<Value> {
    let pre = pre_tokenizer(settings)?;
    let vocabulary: serde_json::Map<String, Value> =
        list.tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    let is_added = |kind: PieceKind| matches!(kind, PieceKind::Control | PieceKind::UserDefined);
    let added: Vec<Value> = list
        .tokens
        .iter()
        .zip(&list.kinds)
        .enumerate()
        .filter(|(_, (_, kind))| is_added(**kind))
        .map(|(id, (token, kind))| added_token(id, token, *kind == PieceKind::Control, false))
        .collect();
    let merges = read_merges(settings)?
        .ok_or_else(|| settings.unsupported("tokenizer.ggml.merges", "pairs with a space between them"))?;
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": pre.normalizer(), "pre_tokenizer": pre.json(),
        "post_processor": added_around(settings, list, special, pre.begins)?,
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
    if let Some(long) = list.tokens.iter().find(|token| token.len() > LONGEST_PIECE) {
        let found = format!("a piece of {} bytes", long.len());
        let (path, key) = (settings.path.into(), "tokenizer.ggml.tokens".into());
        return Err(Error::Unsupported { path, key, found, accepted: format!("pieces of at most {LONGEST_PIECE}") });
    }
    // converters write spaces as they are where people have defined pieces of them
    let text =
        |token: &str, kind| if kind == PieceKind::UserDefined { token.replace(' ', SPACE) } else { token.into() };
    let piece =
        |((token, kind), score): ((&&str, &PieceKind), f64)| Piece { text: text(token, *kind), score, kind: *kind };
    let pieces: Vec<Piece> = list.tokens.iter().zip(&list.kinds).zip(scores).map(piece).collect();
    let unknown = match settings.id("tokenizer.ggml.unknown_token_id", count)? {
        Some(id) => Some(id),
        None => pieces
            .iter()
            .position(|piece| piece.kind == PieceKind::Unknown || piece.text == "<unk>")
            .map(|id| id as u32),
    };
    let prefix = settings.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let vocabulary = SentencePieces { pieces, merges, unknown, prefix };
    let [normalizer, pre_tokenizer, decoder] = vocabulary.frame();
    let is_phi3 = settings.text("general.architecture") == Some(PHI3);
    let strips_right = |token: &str| is_phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&token);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": vocabulary.added_tokens(strips_right),
        "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "post_processor": added_around(settings, list, special, true)?,
        "decoder": decoder, "model": vocabulary.model()
    }))
}

/// The kind of each token; all are words where the file does not say.
fn token_kinds(settings: &HeaderReader<'_>, tokens: usize) -> Result<Vec<PieceKind>> {
    let key = "tokenizer.ggml.token_type";
    if settings.value(key).is_none() {
        return Ok(vec![PieceKind::Normal; tokens]);
    }
    let kinds = settings.header.as_ints(key, settings.bytes).filter(|kinds| kinds.len() == tokens);
    let kinds = kinds.ok_or_else(|| settings.unsupported(key, &format!("{tokens} numbers, one for each token")))?;
    let kind = |number: i128| PieceKind::from_number(number).unwrap_or(PieceKind::Normal);
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
        let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at)?;
        Some([merge[..at].to_owned(), merge[at + 1..].to_owned()])
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
fn added_around(
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
    Ok(post_processor::around(bos, eos))
}
