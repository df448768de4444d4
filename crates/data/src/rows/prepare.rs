//! Reads the user's files, splits and encodes their rows, and writes them as the prepared world.

use super::conversations::Conversations;
use crate::encode::{EncodedRow, Encoder};
use crate::keys::{ids_key, prompt_key, text_key};
use crate::pairs::PreferenceRow;
use crate::records::{self, Columns, Content, Record};
use crate::stats::{MAX_LISTED, PrepareStats};
use crate::{Error, PromptResponse, Result};
use duel_spec::Split;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

pub(super) const ROWS: &str = "rows.jsonl";
pub(super) const PROMPTS: &str = "prompts.json";

const SPLITS: [Split; 3] = [Split::Train, Split::Validation, Split::Test];

/// What [`prepare`] reads, and how much of it.
#[derive(Debug, Clone)]
pub struct RowSource {
    /// One file, whose prompts are split; or one each for training, validation and test.
    pub files: Vec<(Option<Split>, PathBuf)>,
    pub columns: Columns,
    /// Share of a single file's prompts for validation, and as many for test.
    pub holdout: f64,
    pub prompt_tokens: usize,
    pub response_tokens: usize,
    /// Rows kept of the training split, and of each of the others.
    pub most: [usize; 2],
    /// Whether prompts are also kept as they stand in the file, for models with another tokenizer.
    pub conversations: bool,
}

impl RowSource {
    fn max_rows(&self, split: Split) -> usize {
        self.most[usize::from(split != Split::Train)]
    }
}

/// Reads the files row by row and writes the encoded rows and prompts to the folder `to`. Where there are more rows than needed,
/// those with the smallest hashes are kept, whatever their order in the file.
///
/// Files of prompts alone, for all splits, make a world without rows: the policy then writes the completions.
///
/// # Errors
/// A file that cannot be read; a split without rows; a prompt that occurs in the files of two splits.
pub fn prepare(source: &RowSource, encoder: &Encoder, to: &Path) -> Result<PrepareStats> {
    let mut collector = RowCollector::new(source);
    for (file, (_, path)) in source.files.iter().enumerate() {
        for (line, row) in records::read(path, &source.columns, |record| encoder.encode(record))? {
            collector.stats.read += 1;
            match row {
                Ok(records) => records.into_iter().for_each(|(record, encoded)| match encoded {
                    Ok(encoded) => collector.add_encoded(file, line, &record, encoded),
                    Err(e) => collector.leave_out(path, line, &e.to_string()),
                }),
                Err(problem) => collector.leave_out(path, line, &problem),
            }
        }
    }
    collector.finish(to)
}

/// The first row with a prompt.
#[derive(Clone, Copy)]
struct PromptOrigin {
    split: Split,
    file: usize,
    line: usize,
}

/// The rows kept so far, by split and hash.
struct RowCollector<'a> {
    source: &'a RowSource,
    stats: PrepareStats,
    /// By hash and number, the smallest of them.
    pairs: [BTreeMap<(u64, u64), PreferenceRow>; 3],
    /// Single completions: unwanted, wanted.
    single: [[BTreeMap<u64, PromptResponse>; 2]; 3],
    prompts: [BTreeMap<u64, Vec<u32>>; 3],
    /// Hashes of all rows, to find duplicates.
    seen: HashSet<u64>,
    /// Number of single completions: unwanted, wanted.
    labelled: [usize; 2],
    only_prompts: bool,
    origins: HashMap<u64, PromptOrigin>,
    conversations: Conversations,
    /// Rows whose prompt is in the file of another split, and the first of them.
    leaks: usize,
    leak_lines: Vec<String>,
}

impl<'a> RowCollector<'a> {
    fn new(source: &'a RowSource) -> Self {
        Self {
            source,
            stats: PrepareStats::default(),
            pairs: Default::default(),
            single: Default::default(),
            prompts: Default::default(),
            seen: HashSet::new(),
            labelled: [0, 0],
            only_prompts: true,
            origins: HashMap::new(),
            conversations: Conversations::default(),
            leaks: 0,
            leak_lines: vec![],
        }
    }

    /// Counts a row that cannot be read.
    fn leave_out(&mut self, path: &Path, line: usize, problem: &str) {
        self.stats.unreadable += 1;
        self.stats.record_left_out(path, line, problem);
    }

    /// Adds a row, and counts what encoding has changed.
    fn add_encoded(&mut self, file: usize, line: usize, record: &Record, encoded: EncodedRow) {
        self.stats.merged += usize::from(encoded.is_merged);
        if encoded.is_cut {
            self.stats.record_cut(&self.source.files[file].1, line);
        }
        self.add(file, line, record, encoded);
    }

    /// Adds a row, or counts why it is left out.
    fn add(&mut self, file: usize, line: usize, record: &Record, encoded: EncodedRow) {
        let (Record::Pair { prompt, .. } | Record::Judged { prompt, .. } | Record::Prompt { prompt }) = record;
        self.only_prompts &= matches!(record, Record::Prompt { .. });
        let prompt_hash = prompt_key(prompt);
        let Some(split) = self.assign_split(file, line, prompt_hash, &encoded.prompt) else { return };
        if encoded.prompt.len() > self.source.prompt_tokens {
            self.stats.prompts_too_long += 1;
            return;
        }
        if encoded.completions.iter().any(|ids| ids.len() > self.source.response_tokens) {
            self.stats.responses_too_long += 1;
            return;
        }
        if self.source.conversations {
            self.add_conversation(&encoded.prompt, prompt);
        }
        let most = self.source.max_rows(split);
        keep_smallest(&mut self.prompts[split as usize], prompt_hash, encoded.prompt.clone(), most);
        match (record, encoded.completions.as_slice()) {
            (Record::Judged { desirable, .. }, [completion]) => {
                let row_hash = text_key(&format!("{prompt_hash} {completion:?} {desirable}"));
                if self.is_new(row_hash) {
                    let label = usize::from(*desirable);
                    let mask = encoded.masks[0].clone();
                    let row = PromptResponse { prompt: encoded.prompt, response: completion.clone(), mask };
                    self.labelled[label] += 1;
                    keep_smallest(&mut self.single[split as usize][label], row_hash, row, most);
                }
            }
            (Record::Pair { .. }, [chosen, rejected]) if chosen == rejected => {
                self.stats.same += 1;
                let problem = "`chosen` and `rejected` are the same tokens";
                self.stats.record_left_out(&self.source.files[file].1, line, problem);
            }
            (Record::Pair { margin, scores, .. }, [chosen, rejected]) => {
                let row_hash = text_key(&format!("{prompt_hash} {chosen:?} {rejected:?}"));
                if self.is_new(row_hash) {
                    let row = PreferenceRow {
                        chosen_mask: encoded.masks[0].clone(),
                        rejected_mask: encoded.masks[1].clone(),
                        ..preference(split, encoded.prompt, chosen, rejected, *margin, *scores)
                    };
                    let key = (row_hash, self.stats.read as u64);
                    keep_smallest(&mut self.pairs[split as usize], key, row, most);
                }
            }
            _ => {}
        }
    }

    /// The split of a row: that of the first row with the same prompt ids, which are what a model sees. `None` where that is in
    /// the file of another split.
    fn assign_split(&mut self, file: usize, line: usize, prompt_hash: u64, ids: &[u32]) -> Option<Split> {
        let (file_split, path) = &self.source.files[file];
        let split = file_split.unwrap_or_else(|| split_of(prompt_hash, self.source.holdout));
        let origin = *self.origins.entry(ids_key(ids)).or_insert(PromptOrigin { split, file, line });
        if file_split.is_some() && origin.split != split {
            self.leaks += 1;
            if self.leak_lines.len() < MAX_LISTED {
                let other = self.source.files[origin.file].1.display();
                let position = format!("{}:{line}", path.display());
                self.leak_lines.push(format!("{position}: its prompt also occurs in {other}:{}", origin.line));
            }
            return None;
        }
        Some(origin.split)
    }

    /// Adds a prompt as it stands in the file. Those of rows that were dropped are dropped too, whenever they are many.
    fn add_conversation(&mut self, ids: &[u32], prompt: &Content) {
        let kept = 6 * (self.source.most[0] + 2 * self.source.most[1]); // pairs, completions of both kinds, prompts
        if self.conversations.len() > 2 * kept {
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

    /// Whether a row is not a duplicate.
    fn is_new(&mut self, row_hash: u64) -> bool {
        let is_new = self.seen.insert(row_hash);
        self.stats.duplicates += usize::from(!is_new);
        is_new
    }

    /// Pairs the single completions, checks that every split has rows, and writes the world.
    fn finish(mut self, to: &Path) -> Result<PrepareStats> {
        if self.leaks > 0 {
            let hint = "a prompt may occur in only one of the training, validation and test files: remove these rows from one of them";
            return Err(Error::BadRows { count: self.leaks, lines: self.leak_lines, hint: hint.into() });
        }
        SPLITS.into_iter().for_each(|split| self.pair_single(split));
        self.stats.kept = self.pairs.iter().map(BTreeMap::len).sum();
        let [unwanted, wanted] = self.labelled;
        if self.stats.kept == 0 && (unwanted == 0) != (wanted == 0) {
            return Err(Error::OneKind { wanted, unwanted });
        }
        self.only_prompts &= self.prompts.iter().all(|prompts| !prompts.is_empty());
        if !self.only_prompts && self.pairs.iter().any(BTreeMap::is_empty) {
            let count = |split: Split| format!("{} of {}", self.pairs[split as usize].len(), split.name());
            let found = format!("{}, out of {}", SPLITS.map(count).join(", "), self.stats.read);
            return Err(Error::FewRows { found, stats: Box::new(self.stats) });
        }
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
        write(&to.join(PROMPTS), &json)?;
        Ok(self.stats)
    }

    /// Adds the pairs that a split's single completions make, after the pairs of the files.
    fn pair_single(&mut self, split: Split) {
        let rows = &mut self.pairs[split as usize];
        let before = rows.len();
        let [unwanted, wanted]: [Vec<PromptResponse>; 2] =
            std::mem::take(&mut self.single[split as usize]).map(|rows| rows.into_values().collect());
        if unwanted.is_empty() || wanted.is_empty() {
            self.stats.one_kind[0] += unwanted.len();
            self.stats.one_kind[1] += wanted.len();
        }
        let most = self.source.max_rows(split) - before;
        for (index, row) in pair_unpaired(split, &wanted, &unwanted).into_iter().take(most).enumerate() {
            rows.insert((u64::MAX, index as u64), row);
        }
        self.stats.unpaired += rows.len() - before;
    }
}

/// The split of a prompt by its hash: validation, test, then training.
fn split_of(prompt_hash: u64, holdout: f64) -> Split {
    let share = prompt_hash as f64 / u64::MAX as f64;
    match share {
        _ if share < holdout => Split::Validation,
        _ if share < 2.0 * holdout => Split::Test,
        _ => Split::Train,
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
        split,
        prompt,
        chosen: chosen.to_vec(),
        rejected: rejected.to_vec(),
        rejected_prompt: None,
        chosen_mask: None,
        rejected_mask: None,
        gold_chosen: 0.0,
        gold_rejected: 0.0,
        p_label: log_odds.map_or(1.0, |log_odds| 1.0 / (1.0 + (-log_odds).exp())),
        tie: log_odds == Some(0.0),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::Write { path: path.into(), source })
}
