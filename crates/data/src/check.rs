//! What is wrong with a person's rows, line by line, and what would become of them. Memory does not grow with a file but by eight
//! bytes for each row and each prompt.

use crate::encode::{Encoded, Encoder};
use crate::records::{self, Columns, Record, Said};
use crate::rows::{key, prompt_key};
use crate::{Error, Result};
use duel_spec::Split;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

/// Problems that are shown with their lines; all others are counted.
pub const SHOWN: usize = 20;
/// Lengths that are told apart.
const LONGEST: usize = 1 << 16;
/// The bits of a prompt's key that tell its split.
const SPLIT_BITS: u64 = 3;

/// A file to check, and the split that it is where files are given one each.
#[derive(Debug, Clone)]
pub struct Given {
    pub path: PathBuf,
    pub split: Option<Split>,
}

/// What is asked of the rows.
#[derive(Debug)]
pub struct Asked<'a> {
    pub columns: Columns,
    /// Lengths are those of words where there is none.
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
    /// 90 % are no longer.
    pub ninety: usize,
    pub ninety_nine: usize,
    pub most: usize,
}

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Findings {
    pub rows: usize,
    pub pairs: usize,
    /// One completion, wanted or not.
    pub judged: usize,
    pub prompts_alone: usize,
    pub with_margin: usize,
    pub with_scores: usize,
    pub unreadable: usize,
    /// Kinds of problems with their numbers.
    pub problems: BTreeMap<String, usize>,
    /// The first of them.
    pub first: Vec<Problem>,
    /// `tokens`, or `words` where no model is given.
    pub unit: &'static str,
    pub prompt: Option<Lengths>,
    pub chosen: Option<Lengths>,
    pub rejected: Option<Lengths>,
    pub prompts_too_long: usize,
    pub responses_too_long: usize,
    pub same: usize,
    pub duplicates: usize,
    pub prompts: usize,
    /// Prompts that stand in more than one split.
    pub leaks: usize,
    /// Rows whose tokens change where prompt and completion are joined.
    pub boundaries: usize,
    /// Pairs that would be trained on or judged by.
    pub usable: usize,
    /// Single completions that would, wanted and unwanted.
    pub usable_wanted: usize,
    pub usable_unwanted: usize,
}

impl Findings {
    /// Whether something ought to be mended before anything is trained.
    pub fn are_bad(&self) -> bool {
        self.unreadable > 0 || self.same > 0 || self.leaks > 0 || (self.all_usable() == 0 && !self.are_prompts_alone())
    }

    /// Whether there is nothing but prompts.
    pub fn are_prompts_alone(&self) -> bool {
        self.prompts_alone > 0 && self.pairs + self.judged == 0
    }

    /// Pairs, and the twos that single completions come to stand in.
    pub fn all_usable(&self) -> usize {
        let [fewer, more] =
            [self.usable_wanted.min(self.usable_unwanted), self.usable_wanted.max(self.usable_unwanted)];
        self.usable + if fewer > 0 { more } else { 0 }
    }

    fn note(&mut self, file: &Path, line: usize, what: String, kind: &str) {
        *self.problems.entry(kind.to_owned()).or_default() += 1;
        if self.first.len() < SHOWN {
            self.first.push(Problem { file: file.into(), line, what });
        }
    }
}

/// How many texts have each length.
#[derive(Debug, Default)]
struct Counts(Vec<u32>, usize);

impl Counts {
    fn add(&mut self, length: usize) {
        let at = length.min(LONGEST);
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] += 1;
        self.1 = self.1.max(length);
    }

    fn lengths(&self) -> Option<Lengths> {
        let total: u64 = self.0.iter().map(|n| u64::from(*n)).sum();
        let at = |share: f64| {
            let wanted = (share * total as f64).ceil() as u64;
            let mut sum = 0;
            self.0.iter().position(|n| {
                sum += u64::from(*n);
                sum >= wanted.max(1)
            })
        };
        Some(Lengths { median: at(0.5)?, ninety: at(0.9)?, ninety_nine: at(0.99)?, most: self.1 })
    }
}

/// Reads files row by row, and tells how many it has read.
///
/// # Errors
/// A file that is missing or of another kind; what is wrong within it is found, not an error.
pub fn check(files: &[Given], asked: &Asked<'_>, tell: impl Fn(usize)) -> Result<Findings> {
    let mut found = Findings { unit: if asked.encoder.is_some() { "tokens" } else { "words" }, ..Findings::default() };
    let mut lengths: [Counts; 3] = Default::default();
    let mut rows: HashSet<u64> = HashSet::new();
    let mut prompts: HashSet<u64> = HashSet::new(); // each once for every split that it stands in, which is in its last bits
    for Given { path, split } in files {
        let encode = |record: &Record| asked.encoder.map(|encoder| encoder.encode(record));
        for (line, row) in records::read(path, &asked.columns, encode)? {
            found.rows += 1;
            tell(found.rows);
            let (record, encoded) = match row {
                Ok(read) => read,
                Err(what) => {
                    found.unreadable += 1;
                    let kind = kind_of(&what);
                    found.note(path, line, what, &kind);
                    continue;
                }
            };
            one(path, line, *split, &record, encoded, asked, &mut found, &mut lengths, (&mut rows, &mut prompts));
        }
    }
    let mut prompts: Vec<u64> = prompts.into_iter().collect();
    prompts.sort_unstable();
    for splits in prompts.chunk_by(|a, b| a | SPLIT_BITS == b | SPLIT_BITS) {
        found.prompts += 1;
        found.leaks += usize::from(splits.len() > 1);
    }
    let [prompt, chosen, rejected] = lengths.map(|counts| counts.lengths());
    (found.prompt, found.chosen, found.rejected) = (prompt, chosen, rejected);
    Ok(found)
}

/// What kind of problem a sentence tells of: the sentence without what differs from row to row.
fn kind_of(what: &str) -> String {
    let what = what.split(" at line ").next().unwrap_or(what);
    what.chars().map(|c| if c.is_ascii_digit() { 'N' } else { c }).take(80).collect()
}

#[expect(clippy::too_many_arguments, reason = "a row and all that is counted of it")]
fn one(
    path: &Path,
    line: usize,
    split: Option<Split>,
    record: &Record,
    encoded: Option<Result<Encoded>>,
    asked: &Asked<'_>,
    found: &mut Findings,
    lengths: &mut [Counts; 3],
    (rows, prompts): (&mut HashSet<u64>, &mut HashSet<u64>),
) {
    // 1. Which shape it has, and whether it is there already.
    let prompt = match record {
        Record::Pair { prompt, margin, scores, .. } => {
            found.pairs += 1;
            found.with_margin += usize::from(margin.is_some());
            found.with_scores += usize::from(scores.is_some());
            prompt
        }
        Record::Judged { prompt, .. } => {
            found.judged += 1;
            prompt
        }
        Record::Prompt { prompt } => {
            found.prompts_alone += 1;
            prompt
        }
    };
    prompts.insert((prompt_key(prompt) & !SPLIT_BITS) | split.map_or(SPLIT_BITS, |split| split as u64));
    let is_new = rows.insert(key(&format!("{record:?}")));
    let mut usable = !matches!(record, Record::Prompt { .. });
    if !is_new {
        found.duplicates += 1;
        usable = false;
    }
    if let Record::Pair { chosen, rejected, .. } = record
        && chosen == rejected
    {
        found.same += 1;
        found.note(path, line, "`chosen` and `rejected` are the same".into(), "`chosen` and `rejected` are the same");
        usable = false;
    }

    // 2. How long it is.
    let sizes = match encoded {
        Some(Ok(encoded)) => {
            found.boundaries += usize::from(!encoded.boundary_holds);
            (encoded.prompt.len(), encoded.completions.iter().map(Vec::len).collect::<Vec<_>>())
        }
        Some(Err(e)) => {
            found.unreadable += 1;
            let what = if let Error::Template { problem } = e { problem } else { e.to_string() };
            let kind = kind_of(&what);
            found.note(path, line, what, &kind);
            return;
        }
        None => {
            let completions = match record {
                Record::Pair { chosen, rejected, .. } => vec![words(chosen), words(rejected)],
                Record::Judged { completion, .. } => vec![words(completion)],
                Record::Prompt { .. } => vec![],
            };
            (words(prompt), completions)
        }
    };
    let (prompt, completions) = sizes;
    lengths[0].add(prompt);
    let side = if matches!(record, Record::Judged { wanted: false, .. }) { 2 } else { 1 };
    completions.iter().zip(&mut lengths[side..]).for_each(|(length, counts)| counts.add(*length));
    if asked.encoder.is_some() {
        if prompt > asked.prompt_tokens {
            found.prompts_too_long += 1;
            usable = false;
        }
        if completions.iter().any(|length| *length > asked.response_tokens) {
            found.responses_too_long += 1;
            usable = false;
        }
    }
    *match record {
        Record::Judged { wanted: true, .. } => &mut found.usable_wanted,
        Record::Judged { wanted: false, .. } => &mut found.usable_unwanted,
        _ => &mut found.usable,
    } += usize::from(usable);
}

fn words(said: &Said) -> usize {
    match said {
        Said::Text(text) => text.split_whitespace().count(),
        Said::Turns(turns) => turns.iter().map(|turn| turn.content.split_whitespace().count()).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found_with_its_line() -> Result<()> {
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
        let asked = Asked {
            columns: Columns { prompt, chosen, rejected },
            encoder: None,
            prompt_tokens: 1,
            response_tokens: 1,
        };
        let files = [(train.clone(), Split::Train), (test, Split::Test)];
        let files = files.map(|(path, split)| Given { path, split: Some(split) });
        let found = check(&files, &asked, |_| ())?;
        assert_eq!((found.rows, found.pairs, found.judged, found.unreadable), (8, 5, 1, 2));
        assert_eq!((found.same, found.duplicates, found.leaks, found.prompts), (1, 1, 1, 4));
        assert_eq!((found.usable, found.usable_wanted, found.usable_unwanted, found.all_usable()), (3, 1, 0, 3));
        let two = Findings { usable_unwanted: 4, ..found.clone() };
        assert_eq!(two.all_usable(), 7, "the one that is wanted stands beside each of the four");
        assert!(found.are_bad());
        let lines: Vec<usize> = found.first.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2, 5, 6]);
        assert!(found.first[0].what.starts_with("it is no JSON") && found.first[2].what == "`rejected` is missing");
        assert_eq!(found.chosen, Some(Lengths { median: 1, ninety: 3, ninety_nine: 3, most: 3 }));
        Ok(())
    }
}
