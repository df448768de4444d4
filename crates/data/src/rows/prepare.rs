//! Keeps the rows that a run needs, and writes them as the prepared world.

use super::conversations::Conversations;
use super::reader::{DecidedRow, RowSource, RowUse, read_rows};
use crate::encode::Encoder;
use crate::keys::{ids_text, prompt_key, text_key};
use crate::pairs::PreferenceRow;
use crate::records::{BytesRead, Content, Record};
use crate::stats::RowStats;
use crate::{Error, PromptResponse, Result};
use duel_spec::Split;
use std::collections::BTreeMap;
use std::path::Path;

pub(super) const ROWS: &str = "rows.jsonl";
pub(super) const PROMPTS: &str = "prompts.json";

/// Reads the files row by row and writes the encoded rows and prompts to the folder `to`. Where there are more rows than needed,
/// those with the smallest hashes are kept, whatever their order in the file.
///
/// Files of prompts alone, for all splits, make a world without rows: the policy then writes the completions.
///
/// # Errors
/// A file that cannot be read; a split without rows; a prompt that occurs in the files of two splits.
pub fn prepare(source: &RowSource, encoder: &Encoder, to: &Path) -> Result<RowStats> {
    let mut collector = RowCollector::new(source);
    let stats =
        read_rows(source, Some(encoder), &BytesRead::default(), |row, stats| collector.add(row, stats.read as u64))?;
    stats.check()?;
    collector.write(to)?;
    Ok(stats)
}

/// The rows kept so far, by split and hash.
struct RowCollector<'a> {
    source: &'a RowSource,
    /// By hash and number, the smallest of them.
    pairs: [BTreeMap<(u64, u64), PreferenceRow>; 3],
    /// Single completions: unwanted, wanted.
    single: [[BTreeMap<(u64, u64), PromptResponse>; 2]; 3],
    prompts: [BTreeMap<u64, Vec<u32>>; 3],
    conversations: Conversations,
}

impl<'a> RowCollector<'a> {
    fn new(source: &'a RowSource) -> Self {
        Self {
            source,
            pairs: Default::default(),
            single: Default::default(),
            prompts: Default::default(),
            conversations: Conversations::default(),
        }
    }

    /// Adds what is used of the row with this number.
    fn add(&mut self, row: DecidedRow, number: u64) {
        let DecidedRow { record, encoded, usage, .. } = row;
        let (RowUse::Whole(split) | RowUse::Prompt(split)) = usage else { return };
        let prompt = record.prompt();
        if self.source.conversations {
            self.add_conversation(&encoded.prompt, prompt);
        }
        let (prompt_hash, most) = (prompt_key(prompt), self.source.max_rows(split));
        keep_smallest(&mut self.prompts[split as usize], prompt_hash, encoded.prompt.clone(), most);
        if usage == RowUse::Prompt(split) {
            return;
        }
        match (&record, encoded.completions.as_slice()) {
            (Record::Judged { desirable, .. }, [completion]) => {
                let row_hash = text_key(&format!("{prompt_hash} {} {desirable}", ids_text(completion)));
                let mask = encoded.masks[0].clone();
                let row = PromptResponse { prompt: encoded.prompt, response: completion.clone(), mask };
                let single = &mut self.single[split as usize][usize::from(*desirable)];
                keep_smallest(single, (row_hash, number), row, most);
            }
            (Record::Pair { margin, scores, .. }, [chosen, rejected]) => {
                let row_hash = text_key(&format!("{prompt_hash} {} {}", ids_text(chosen), ids_text(rejected)));
                let row = PreferenceRow {
                    chosen_mask: encoded.masks[0].clone(),
                    rejected_mask: encoded.masks[1].clone(),
                    ..preference(split, encoded.prompt, chosen, rejected, *margin, *scores)
                };
                keep_smallest(&mut self.pairs[split as usize], (row_hash, number), row, most);
            }
            _ => {}
        }
    }

    /// Adds a prompt as it stands in the file. Those of rows that were dropped are dropped too, whenever they are many.
    fn add_conversation(&mut self, ids: &[u32], prompt: &Content) {
        let most = 6 * (self.source.most[0] + 2 * self.source.most[1]); // pairs, completions of both kinds, prompts
        if self.conversations.len() > 2 * most {
            self.drop_conversations();
        }
        self.conversations.insert(ids, prompt);
    }

    fn drop_conversations(&mut self) {
        let pairs = self.pairs.iter().flat_map(BTreeMap::values);
        let of_pairs = pairs.flat_map(|row| std::iter::once(&row.prompt).chain(&row.rejected_prompt));
        let single = self.single.iter().flatten().flat_map(BTreeMap::values).map(|row| &row.prompt);
        let prompts = self.prompts.iter().flat_map(BTreeMap::values);
        self.conversations.retain(of_pairs.chain(single).chain(prompts));
    }

    /// Pairs the single completions, and writes the world.
    fn write(mut self, to: &Path) -> Result<()> {
        Split::ALL.into_iter().for_each(|split| self.pair_single(split));
        if self.source.conversations {
            self.drop_conversations();
            self.conversations.write(to)?;
        }
        let lines = self.pairs.into_iter().flat_map(BTreeMap::into_values).map(|row| {
            serde_json::to_string(&row).map(|line| line + "\n").map_err(|e| Error::Tokenizer { problem: e.to_string() })
        });
        write(&to.join(ROWS), lines.collect::<Result<String>>()?.as_bytes())?;
        let prompts: [Vec<Vec<u32>>; 3] = self.prompts.map(|prompts| prompts.into_values().collect());
        let json = serde_json::to_vec(&prompts).map_err(|e| Error::Tokenizer { problem: e.to_string() })?;
        write(&to.join(PROMPTS), &json)
    }

    /// Adds the pairs that a split's single completions make, after the pairs of the files.
    fn pair_single(&mut self, split: Split) {
        let rows = &mut self.pairs[split as usize];
        let [unwanted, wanted]: [Vec<PromptResponse>; 2] =
            std::mem::take(&mut self.single[split as usize]).map(|rows| rows.into_values().collect());
        let most = self.source.max_rows(split) - rows.len();
        for (index, row) in pair_unpaired(split, &wanted, &unwanted).into_iter().take(most).enumerate() {
            rows.insert((u64::MAX, index as u64), row);
        }
    }
}

/// Inserts a value, and keeps at most `most` values with the smallest keys.
fn keep_smallest<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V, most: usize) {
    map.insert(key, value);
    if map.len() > most {
        map.pop_last();
    }
}

/// Pairs wanted with unwanted completions, each with its own prompt: as many pairs as there are of the more frequent kind; the
/// others are repeated. The rows are in the order of their hashes, so the pairing is random.
fn pair_unpaired(split: Split, wanted: &[PromptResponse], unwanted: &[PromptResponse]) -> Vec<PreferenceRow> {
    if wanted.is_empty() || unwanted.is_empty() {
        return vec![];
    }
    let count = wanted.len().max(unwanted.len());
    let pairs = wanted.iter().cycle().zip(unwanted.iter().cycle()).take(count);
    let row = |(wanted, unwanted): (&PromptResponse, &PromptResponse)| PreferenceRow {
        rejected_prompt: (wanted.prompt != unwanted.prompt).then(|| unwanted.prompt.clone()),
        chosen_mask: wanted.mask.clone(),
        rejected_mask: unwanted.mask.clone(),
        ..preference(split, wanted.prompt.clone(), &wanted.response, &unwanted.response, None, None)
    };
    pairs.map(row).collect()
}

/// A row whose label has the log-odds of its margin, else of the difference of its scores; without either it is certain.
fn preference(
    split: Split,
    prompt: Vec<u32>,
    chosen: &[u32],
    rejected: &[u32],
    margin: Option<f64>,
    scores: Option<[f64; 2]>,
) -> PreferenceRow {
    let log_odds = margin.or(scores.map(|[chosen, rejected]| chosen - rejected));
    PreferenceRow {
        p_label: log_odds.map_or(1.0, |log_odds| 1.0 / (1.0 + (-log_odds).exp())),
        tie: log_odds == Some(0.0),
        ..PreferenceRow::new(split, prompt, chosen.to_vec(), rejected.to_vec())
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::Write { path: path.into(), source })
}
