//! SentencePiece's BPE vocabularies as `tokenizer.json` describes them: pieces with scores become merges, the highest score first.

use serde_json::{Value, json};
use std::collections::HashSet;

/// What stands for a space.
pub(crate) const SPACE: &str = "▁";

/// What a piece is, with SentencePiece's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceKind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl PieceKind {
    pub fn from_number(number: i128) -> Option<Self> {
        use PieceKind::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        [Normal, Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|kind| *kind as i128 == number)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub text: String,
    pub score: f64,
    pub kind: PieceKind,
}

/// A vocabulary, a piece for each id.
#[derive(Debug)]
pub(crate) struct SentencePieces {
    pub pieces: Vec<Piece>,
    /// Where they are known, rather than only the scores.
    pub merges: Option<Vec<[String; 2]>>,
    /// The piece for what the others cannot say.
    pub unknown: Option<u32>,
    /// Whether a space is put before every text.
    pub prefix: bool,
}

impl SentencePieces {
    /// Normalizer, pre-tokenizer and decoder.
    pub fn frame(&self) -> [Value; 3] {
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let mut decoders = vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        let mut normalizer = replace(" ", SPACE);
        if self.prefix {
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            let prepend = json!({"type": "Prepend", "prepend": SPACE});
            normalizer = json!({"type": "Sequence", "normalizers": [prepend, normalizer]});
        }
        [normalizer, Value::Null, json!({"type": "Sequence", "decoders": decoders})]
    }

    /// The model of a `tokenizer.json`.
    pub fn model(&self) -> Value {
        let vocabulary: serde_json::Map<String, Value> =
            self.pieces.iter().enumerate().map(|(id, piece)| (piece.text.clone(), json!(id))).collect();
        let unknown = self.unknown.and_then(|id| self.pieces.get(id as usize)).map(|piece| &piece.text);
        json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": self.has_bytes(), "ignore_merges": false,
            "vocab": vocabulary, "merges": self.merges.clone().unwrap_or_else(|| self.merges_by_score())
        })
    }

    /// Whether every byte has a piece.
    fn has_bytes(&self) -> bool {
        let texts: HashSet<&str> = self.pieces.iter().map(|piece| piece.text.as_str()).collect();
        (0..=255u8).all(|byte| texts.contains(format!("<0x{byte:02X}>").as_str()))
    }

    /// Every way to make a piece of two others, by the piece's score, then by the lengths of the two, the
    /// longest first.
    fn merges_by_score(&self) -> Vec<[String; 2]> {
        let is_text = |piece: &&Piece| matches!(piece.kind, PieceKind::Normal | PieceKind::UserDefined);
        let texts: HashSet<&str> = self.pieces.iter().filter(is_text).map(|piece| piece.text.as_str()).collect();
        let mut merges = vec![];
        for piece in self.pieces.iter().filter(is_text) {
            for (at, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(at);
                if texts.contains(left) && texts.contains(right) {
                    merges.push((piece.score, [left, right].map(|half| half.chars().count()), [left, right]));
                }
            }
        }
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        merges.into_iter().map(|(.., pair)| pair.map(str::to_owned)).collect()
    }

    /// Tokens that are found in a text before anything else.
    pub fn added_tokens(&self, strips_right: impl Fn(&str) -> bool) -> Vec<Value> {
        let is_added =
            |piece: &Piece| matches!(piece.kind, PieceKind::Unknown | PieceKind::Control | PieceKind::UserDefined);
        let pieces = self.pieces.iter().enumerate().filter(|(_, piece)| is_added(piece));
        let token = |(id, piece): (usize, &Piece)| {
            let special = piece.kind != PieceKind::UserDefined;
            added_token(id, &piece.text, special, special && strips_right(&piece.text))
        };
        pieces.map(token).collect()
    }
}

/// A token that is found in a text before anything else; whether it takes the white space after it.
pub(crate) fn added_token(id: usize, content: &str, special: bool, rstrip: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": rstrip, "normalized": false,
        "special": special
    })
}
