//! Checks the user's rows line by line, and reports which of them could be used. Memory grows by a few bytes per row and prompt,
//! not with the size of a file.

use crate::encode::{EncodedRow, Encoder};
use crate::keys::{ids_key, prompt_key, text_key};
use crate::records::{self, Columns, Content, Record};
use crate::stats::MAX_LISTED;
use crate::{Error, Result};
use duel_spec::Split;
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Longer texts are counted as of this length.
const MAX_LENGTH: usize = 1 << 16;

/// A file to check, and its split where each split has a file.
#[derive(Debug, Clone)]
pub struct InputFile {
    pub path: PathBuf,
    pub split: Option<Split>,
}

/// How rows are read, and their limits.
#[derive(Debug)]
pub struct CheckOptions<'a> {
    pub columns: Columns,
    /// Without one, lengths are in words.
    pub encoder: Option<&'a Encoder>,
    pub prompt_tokens: usize,
    pub response_tokens: usize,
}

/// A problem and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub file: PathBuf,
    pub line: usize,
    pub what: String,
}

/// Quantiles of lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lengths {
    pub median: usize,
    /// The 90th percentile.
    pub ninety: usize,
    pub ninety_nine: usize,
    pub most: usize,
}

/// The result of a check.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DataReport {
    pub rows: usize,
    pub pairs: usize,
    /// Rows with one completion, wanted or not.
    pub judged: usize,
    pub prompts_alone: usize,
    pub with_margin: usize,
    pub with_scores: usize,
    pub unreadable: usize,
    /// Number of problems by kind.
    pub problems: BTreeMap<String, usize>,
    /// The first problems.
    pub first: Vec<Problem>,
    /// `tokens`, or `words` without a model.
    pub unit: &'static str,
    pub prompt: Option<Lengths>,
    pub chosen: Option<Lengths>,
    pub rejected: Option<Lengths>,
    pub prompts_too_long: usize,
    pub responses_too_long: usize,
    pub same: usize,
    pub duplicates: usize,
    pub prompts: usize,
    /// Prompts that occur in more than one split.
    pub leaks: usize,
    /// Rows whose prompt ends before a token that holds the beginning of a completion.
    pub merged: usize,
    /// Rows with a completion that changes the text of its prompt, which then ends earlier.
    pub shortened: usize,
    /// Rows with a completion that is cut at its first EOS.
    pub cut: usize,
    /// Rows with an empty completion.
    pub empty: usize,
    /// Pairs that can be used for training or evaluation.
    pub usable: usize,
    /// Single completions that can be used, wanted and unwanted.
    pub usable_wanted: usize,
    pub usable_unwanted: usize,
}

impl DataReport {
    /// Whether the rows should be fixed before training.
    pub fn needs_fixing(&self) -> bool {
        self.unreadable > 0 || self.same > 0 || self.leaks > 0 || (self.usable_rows() == 0 && !self.has_only_prompts())
    }

    /// Whether there are only prompts.
    pub fn has_only_prompts(&self) -> bool {
        self.prompts_alone > 0 && self.pairs + self.judged == 0
    }

    /// Usable pairs, and the pairs that single completions make.
    pub fn usable_rows(&self) -> usize {
        let fewer = self.usable_wanted.min(self.usable_unwanted);
        let more = self.usable_wanted.max(self.usable_unwanted);
        self.usable + if fewer > 0 { more } else { 0 }
    }

    fn note(&mut self, file: &Path, line: usize, what: String, kind: &str) {
        *self.problems.entry(kind.to_owned()).or_default() += 1;
        if self.first.len() < MAX_LISTED {
            self.first.push(Problem { file: file.into(), line, what });
        }
    }
}

/// A histogram of lengths.
#[derive(Debug, Default)]
struct LengthCounts {
    counts: Vec<u32>,
    most: usize,
}

impl LengthCounts {
    fn add(&mut self, length: usize) {
        let index = length.min(MAX_LENGTH);
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
        self.most = self.most.max(length);
    }

    fn lengths(&self) -> Option<Lengths> {
        let total: u64 = self.counts.iter().map(|n| u64::from(*n)).sum();
        let quantile = |share: f64| {
            let rank = (share * total as f64).ceil() as u64;
            let mut sum = 0;
            self.counts.iter().position(|n| {
                sum += u64::from(*n);
                sum >= rank.max(1)
            })
        };
        let (median, ninety, ninety_nine) = (quantile(0.5)?, quantile(0.9)?, quantile(0.99)?);
        Some(Lengths { median, ninety, ninety_nine, most: self.most })
    }
}

/// Checks files row by row; `on_row` is called with the number of rows read so far.
///
/// # Errors
/// A file that is missing or in another format; problems within a file are part of the report.
pub fn check(files: &[InputFile], options: &CheckOptions<'_>, on_row: impl Fn(usize)) -> Result<DataReport> {
    let mut checker = RowChecker::new(files, options);
    for (file, InputFile { path, split }) in files.iter().enumerate() {
        let encode = |record: &Record| options.encoder.map(|encoder| encoder.encode(record));
        for (line, row) in records::read(path, &options.columns, encode)? {
            checker.report.rows += 1;
            on_row(checker.report.rows);
            let location = RowLocation { file, line, split: *split, is_shared: false };
            match row {
                Ok(records) => {
                    records.into_iter().for_each(|(record, encoded)| checker.check_row(location, &record, encoded));
                }
                Err(problem) => checker.note_unreadable(location, problem),
            }
        }
    }
    Ok(checker.finish())
}

/// The kind of a problem: its message without what differs from row to row.
fn kind_of(problem: &str) -> String {
    let problem = problem.split(" at line ").next().unwrap_or(problem);
    problem.chars().map(|c| if c.is_ascii_digit() { 'N' } else { c }).take(80).collect()
}

/// The position of a row.
#[derive(Debug, Clone, Copy)]
struct RowLocation {
    file: usize,
    line: usize,
    split: Option<Split>,
    /// Whether its prompt also occurs in another split.
    is_shared: bool,
}

/// The state of a check.
struct RowChecker<'a> {
    files: &'a [InputFile],
    options: &'a CheckOptions<'a>,
    report: DataReport,
    /// Of prompts, chosen and rejected completions.
    lengths: [LengthCounts; 3],
    rows: HashSet<u64>,
    prompts: HashMap<u64, RowLocation>,
}

impl<'a> RowChecker<'a> {
    fn new(files: &'a [InputFile], options: &'a CheckOptions<'a>) -> Self {
        let unit = if options.encoder.is_some() { "tokens" } else { "words" };
        Self {
            files,
            options,
            report: DataReport { unit, ..DataReport::default() },
            lengths: Default::default(),
            rows: HashSet::new(),
            prompts: HashMap::new(),
        }
    }

    fn finish(mut self) -> DataReport {
        self.report.prompts = self.prompts.len();
        self.report.leaks = self.prompts.values().filter(|location| location.is_shared).count();
        let [prompt, chosen, rejected] = self.lengths.map(|counts| counts.lengths());
        DataReport { prompt, chosen, rejected, ..self.report }
    }

    fn note(&mut self, location: RowLocation, problem: String, kind: &str) {
        self.report.note(&self.files[location.file].path, location.line, problem, kind);
    }

    fn note_unreadable(&mut self, location: RowLocation, problem: String) {
        self.report.unreadable += 1;
        let kind = kind_of(&problem);
        self.note(location, problem, &kind);
    }

    fn check_row(&mut self, location: RowLocation, record: &Record, encoded: Option<Result<EncodedRow>>) {
        let ids = encoded.as_ref().and_then(|encoded| encoded.as_ref().ok());
        let prompt = self.count_format(record);
        self.check_leak(location, ids.map_or_else(|| prompt_key(prompt), |encoded| ids_key(&encoded.prompt)));
        let mut is_usable = !matches!(record, Record::Prompt { .. });
        if !self.rows.insert(row_key(record, ids)) {
            self.report.duplicates += 1;
            is_usable = false;
        }
        if has_equal_completions(record, ids) {
            self.report.same += 1;
            let problem = "`chosen` and `rejected` are the same";
            self.note(location, problem.into(), problem);
            is_usable = false;
        }
        if let Some(encoded) = ids {
            self.check_completions(location, encoded);
        }
        let (prompt_length, completion_lengths): (usize, Vec<usize>) = match encoded {
            Some(Ok(encoded)) => {
                self.report.shortened += usize::from(encoded.is_shortened);
                self.report.merged += usize::from(encoded.is_merged);
                (encoded.prompt.len(), encoded.completions.iter().map(Vec::len).collect())
            }
            Some(Err(e)) => {
                let problem = if let Error::Template { problem } = e { problem } else { e.to_string() };
                return self.note_unreadable(location, problem);
            }
            None => (word_count(prompt), completions_of(record).into_iter().map(word_count).collect()),
        };
        is_usable &= self.check_lengths(record, prompt_length, &completion_lengths);
        *match record {
            Record::Judged { desirable: true, .. } => &mut self.report.usable_wanted,
            Record::Judged { desirable: false, .. } => &mut self.report.usable_unwanted,
            _ => &mut self.report.usable,
        } += usize::from(is_usable);
    }

    /// Counts a row by its format; returns its prompt.
    fn count_format<'b>(&mut self, record: &'b Record) -> &'b Content {
        match record {
            Record::Pair { prompt, margin, scores, .. } => {
                self.report.pairs += 1;
                self.report.with_margin += usize::from(margin.is_some());
                self.report.with_scores += usize::from(scores.is_some());
                prompt
            }
            Record::Judged { prompt, .. } => {
                self.report.judged += 1;
                prompt
            }
            Record::Prompt { prompt } => {
                self.report.prompts_alone += 1;
                prompt
            }
        }
    }

    /// Notes a prompt that occurs in the files of two splits.
    fn check_leak(&mut self, location: RowLocation, prompt_key: u64) {
        match self.prompts.entry(prompt_key) {
            Entry::Vacant(entry) => {
                entry.insert(location);
            }
            Entry::Occupied(mut first) if first.get().split != location.split => {
                let RowLocation { file, line, .. } = *first.get();
                first.get_mut().is_shared = true;
                let other = self.files[file].path.display();
                let problem = format!("its prompt also occurs in {other}:{line}, which is in another split");
                self.note(location, problem, "a prompt that occurs in two splits");
            }
            Entry::Occupied(_) => {}
        }
    }

    fn check_completions(&mut self, location: RowLocation, encoded: &EncodedRow) {
        if encoded.is_cut {
            self.report.cut += 1;
            let problem = "a completion continues after its first end token, where it is cut";
            self.note(location, problem.into(), problem);
        }
        if encoded.completions.iter().any(|ids| ids.len() <= 1) {
            self.report.empty += 1;
            let problem = "a completion is empty: only its end token is learned";
            self.note(location, problem.into(), problem);
        }
    }

    /// Counts lengths; returns whether they are within the limits. Words have none.
    fn check_lengths(&mut self, record: &Record, prompt: usize, completions: &[usize]) -> bool {
        self.lengths[0].add(prompt);
        let side = if matches!(record, Record::Judged { desirable: false, .. }) { 2 } else { 1 };
        completions.iter().zip(&mut self.lengths[side..]).for_each(|(length, counts)| counts.add(*length));
        if self.options.encoder.is_none() {
            return true;
        }
        let prompt_fits = prompt <= self.options.prompt_tokens;
        let completions_fit = completions.iter().all(|length| *length <= self.options.response_tokens);
        self.report.prompts_too_long += usize::from(!prompt_fits);
        self.report.responses_too_long += usize::from(!completions_fit);
        prompt_fits && completions_fit
    }
}

/// Identifies a row, to find duplicates.
fn row_key(record: &Record, ids: Option<&EncodedRow>) -> u64 {
    match ids {
        Some(EncodedRow { prompt, completions, .. }) => {
            text_key(&format!("{prompt:?} {completions:?} {:?}", label_of(record)))
        }
        None => text_key(&format!("{record:?}")),
    }
}

fn has_equal_completions(record: &Record, ids: Option<&EncodedRow>) -> bool {
    match (record, ids.map(|encoded| encoded.completions.as_slice())) {
        (Record::Pair { .. }, Some([chosen, rejected])) => chosen == rejected,
        (Record::Pair { chosen, rejected, .. }, _) => chosen == rejected,
        _ => false,
    }
}

/// The label of a single completion.
fn label_of(record: &Record) -> Option<bool> {
    match record {
        Record::Judged { desirable, .. } => Some(*desirable),
        _ => None,
    }
}

fn completions_of(record: &Record) -> Vec<&Content> {
    match record {
        Record::Pair { chosen, rejected, .. } => vec![chosen, rejected],
        Record::Judged { completion, .. } => vec![completion],
        Record::Prompt { .. } => vec![],
    }
}

fn word_count(content: &Content) -> usize {
    match content {
        Content::Text(text) => text.split_whitespace().count(),
        Content::Conversation(conversation) => {
            conversation.turns.iter().map(|turn| turn.text().split_whitespace().count()).sum()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_found_with_their_lines() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let (train, test) = (folder.path().join("train.jsonl"), folder.path().join("test.csv"));
        let pair = r#"{"prompt": "one two", "chosen": "a b c", "rejected": "d"}"#;
        let lines = [
            pair,
            "not json",
            "",
            pair,
            r#"{"prompt": "p", "chosen": "same", "rejected": "same"}"#,
            r#"{"prompt": "p", "chosen": "x"}"#,
            r#"{"prompt": "q", "completion": "z", "label": true}"#,
        ];
        std::fs::write(&train, lines.join("\n")).expect("written");
        std::fs::write(&test, "prompt,chosen,rejected\none two,e,f\n\"a, b\",\"g\nh\",i\n").expect("written");
        let [prompt, chosen, rejected] = ["prompt", "chosen", "rejected"].map(str::to_owned);
        let options = CheckOptions {
            columns: Columns { prompt, chosen, rejected },
            encoder: None,
            prompt_tokens: 1,
            response_tokens: 1,
        };
        let files = [(train.clone(), Split::Train), (test, Split::Test)];
        let files = files.map(|(path, split)| InputFile { path, split: Some(split) });
        let report = check(&files, &options, |_| ())?;
        assert_eq!((report.rows, report.pairs, report.judged, report.unreadable), (8, 5, 1, 2));
        assert_eq!((report.same, report.duplicates, report.leaks, report.prompts), (1, 1, 1, 4));
        assert_eq!((report.usable, report.usable_wanted, report.usable_unwanted, report.usable_rows()), (3, 1, 0, 3));
        let more = DataReport { usable_unwanted: 4, ..report.clone() };
        assert_eq!(more.usable_rows(), 7, "the wanted one is paired with each of the four");
        assert!(report.needs_fixing());
        let lines: Vec<usize> = report.first.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2, 5, 6, 2]);
        assert!(
            report.first[0].what.starts_with("it is not valid JSON") && report.first[2].what == "`rejected` is missing"
        );
        assert_eq!(report.chosen, Some(Lengths { median: 1, ninety: 3, ninety_nine: 3, most: 3 }));
        Ok(())
    }
}
