//! Text to ids and back.

use crate::{Error, Result};
use std::path::Path;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// Text to ids and back.
#[derive(Debug, Clone)]
pub struct TextTokenizer(Tokenizer);

fn tokenizer_error(e: impl std::fmt::Display) -> Error {
    Error::Tokenizer { problem: e.to_string() }
}

impl TextTokenizer {
    /// Trains byte-level BPE with `<pad>`, `<bos>`, `<eos>` as ids 0, 1, 2 on the texts.
    pub fn train<'a>(texts: impl Iterator<Item = &'a str> + Send, vocabulary: usize) -> Result<Self> {
        let byte_level = ByteLevel::new(false, true, true);
        let mut tokenizer = Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(byte_level)).with_decoder(Some(byte_level));
        let mut trainer = TrainerWrapper::from(
            BpeTrainer::builder()
                .show_progress(false)
                .vocab_size(vocabulary)
                .min_frequency(2)
                .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                .special_tokens(["<pad>", "<bos>", "<eos>"].iter().map(|t| AddedToken::from(*t, true)).collect())
                .build(),
        );
        tokenizer.train(&mut trainer, texts.map(str::to_owned)).map_err(tokenizer_error)?;
        Ok(Self(tokenizer))
    }

    /// Writes `tokenizer.json`.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.0.save(path, false).map_err(tokenizer_error)
    }

    /// Reads `tokenizer.json`.
    pub fn open(path: &Path) -> Result<Self> {
        Tokenizer::from_file(path).map(Self).map_err(tokenizer_error)
    }

    /// From what `tokenizer.json` holds.
    pub fn from_bytes(json: &[u8]) -> Result<Self> {
        Tokenizer::from_bytes(json).map(Self).map_err(tokenizer_error)
    }

    /// Tokens of the vocabulary, specials included.
    pub fn vocabulary(&self) -> usize {
        self.0.get_vocab_size(true)
    }

    /// Ids of each text, without specials.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<Vec<u32>>> {
        let encodings = self.0.encode_batch(texts.to_vec(), false).map_err(tokenizer_error)?;
        Ok(encodings.into_iter().map(|e| e.get_ids().to_vec()).collect())
    }

    /// Ids of one text, without specials.
    pub fn encode_part(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.0.encode_fast(text, false).map_err(tokenizer_error)?.get_ids().to_vec())
    }

    /// Ids of a text that begins a sequence: with those that the tokenizer puts before it, such as BOS.
    pub fn encode_start(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.0.encode_fast(text, true).map_err(tokenizer_error)?.get_ids().to_vec())
    }

    /// Control tokens, in rising order.
    pub fn controls(&self) -> Vec<u32> {
        let added = self.0.get_added_tokens_decoder();
        let mut ids: Vec<u32> = added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        ids.sort_unstable();
        ids
    }

    /// The text of one id, specials too; `None` where there is none.
    pub fn token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    /// Text of the ids, specials left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.0.decode(ids, true).map_err(tokenizer_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokenizer_goes_there_and_back() {
        let texts = ["a very good film, a very bad film", "the film was very very good", "café naïve film"];
        let tokenizer = TextTokenizer::train(texts.iter().copied(), 300).expect("trains");
        for text in texts {
            let ids = tokenizer.encode(&[text]).expect("encodes").remove(0);
            assert_eq!(tokenizer.decode(&ids).expect("decodes"), text);
            assert!(ids.iter().all(|&id| id > 2 && (id as usize) < tokenizer.vocabulary()));
        }
    }
}
