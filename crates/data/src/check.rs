//! What is wrong with a person's rows, line by line, and what would become of them. Memory does not grow with a file but by some
//! bytes for each row and each prompt.

use crate::encode::{EncodedRow, Encoder};
use crate::records::{self, Columns, Content, Record};
use crate::rows::{ids_key, key, prompt_key};
use crate::{Error, Result};
use duel_spec::Split;
use serde::Serialize;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Problems that are shown with their lines; all others are counted.
pub const SHOWN: usize = 20;
/// Lengths that are told apart.
const LONGEST: usize = 1 << 16;

/// A file to check, and the split that it is where files are given one each.
#[derive(Debug, Clone)]
pub struct InputFile {
    pub path: PathBuf,
    pub split: Option<Split>,
}

/// What is asked of the rows.
#[derive(Debug)]
pub struct CheckOptions<'a> {
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
pub struct DataReport {
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
    /// Rows with a completion that goes on after its first EOS, where it is cut.
    pub cut: usize,
    /// Rows with a completion that says nothing.
    pub empty: usize,
    /// Pairs that would be trained on or judged by.
    pub usable: usize,
    /// Single completions that would, wanted and unwanted.
    pub usable_wanted: usize,
    pub usable_unwanted: usize,
}

impl DataReport {
    /// Whether something ought to be mended before anything is trained.
    pub fn are_bad(&self) -> bool {
        self.unreadable > 0 || self.same > 0 || self.leaks > 0 || (self.is_usable() == 0 && !self.are_prompts_alone())
    }

    /// Whether there is nothing but prompts.
    pub fn are_prompts_alone(&self) -> bool {
        self.prompts_alone > 0 && self.pairs + self.judged == 0
    }

    /// Pairs, and the twos that single completions come to stand in.
    pub fn is_usable(&self) -> usize {
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
pub fn check(files: &[InputFile], asked: &CheckOptions<'_>, tell: impl Fn(usize)) -> Result<DataReport> {
    let mut found =
        DataReport { unit: if asked.encoder.is_some() { "tokens" } else { "words" }, ..DataReport::default() };
    let mut lengths: [Counts; 3] = Default::default();
    let mut rows: HashSet<u64> = HashSet::new();
    let mut prompts: HashMap<u64, RowLocation> = HashMap::new();
    for (file, InputFile { path, split }) in files.iter().enumerate() {
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
            let place = RowLocation { file, line, split: *split, is_shared: false };
            one(files, place, &record, encoded, asked, &mut found, &mut lengths, (&mut rows, &mut prompts));
        }
    }
    found.prompts = prompts.len();
    found.leaks = prompts.values().filter(|place| place.is_shared).count();
    let [prompt, chosen, rejected] = lengths.map(|counts| counts.lengths());
    (found.prompt, found.chosen, found.rejected) = (prompt, chosen, rejected);
    Ok(found)
}

/// What kind of problem a sentence tells of: the sentence without what differs from row to row.
fn kind_of(what: &str) -> String {
    let what = what.split(" at line ").next().unwrap_or(what);
    what.chars().map(|c| if c.is_ascii_digit() { 'N' } else { c }).take(80).collect()
}

/// Where a row stands.
#[derive(Debug, Clone, Copy)]
struct RowLocation {
    file: usize,
    line: usize,
    split: Option<Split>,
    /// Whether its prompt stands in another split too.
    is_shared: bool,
}

#[expect(clippy::too_many_arguments, reason = "a row and all that is counted of it")]
fn one(
    files: &[InputFile],
    place: RowLocation,
    record: &Record,
    encoded: Option<Result<EncodedRow>>,
    asked: &CheckOptions<'_>,
    found: &mut DataReport,
    lengths: &mut [Counts; 3],
    (rows, prompts): (&mut HashSet<u64>, &mut HashMap<u64, RowLocation>),
) {
    let (path, line) = (files[place.file].path.as_path(), place.line);
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
    let ids = encoded.as_ref().and_then(|encoded| encoded.as_ref().ok());
    match prompts.entry(ids.map_or_else(|| prompt_key(prompt), |encoded| ids_key(&encoded.prompt))) {
        Entry::Vacant(free) => drop(free.insert(place)),
        Entry::Occupied(mut first) if first.get().split != place.split => {
            let RowLocation { file, line: other, .. } = *first.get();
            first.get_mut().is_shared = true;
            let what =
                format!("its prompt stands in {}:{other} too, which is of another split", files[file].path.display());
            found.note(path, line, what, "a prompt that stands in two splits");
        }
        Entry::Occupied(_) => {}
    }
    let is_new = rows.insert(match ids {
        Some(EncodedRow { prompt, completions, .. }) => {
            key(&format!("{prompt:?} {completions:?} {:?}", unpaired_label(record)))
        }
        None => key(&format!("{record:?}")),
    });
    let mut usable = !matches!(record, Record::Prompt { .. });
    if !is_new {
        found.duplicates += 1;
        usable = false;
    }
    let are_same = match (record, ids.map(|encoded| encoded.completions.as_slice())) {
        (Record::Pair { .. }, Some([chosen, rejected])) => chosen == rejected,
        (Record::Pair { chosen, rejected, .. }, _) => chosen == rejected,
        _ => false,
    };
    if are_same {
        found.same += 1;
        found.note(path, line, "`chosen` and `rejected` are the same".into(), "`chosen` and `rejected` are the same");
        usable = false;
    }
    if let Some(encoded) = ids {
        if encoded.is_cut {
            found.cut += 1;
            let what = "a completion goes on after its first end token, where it is cut";
            found.note(path, line, what.into(), what);
        }
        if encoded.completions.iter().any(|ids| ids.len() <= 1) {
            found.empty += 1;
            let what = "a completion is empty: only its end token is learned";
            found.note(path, line, what.into(), what);
        }
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
                Record::Pair { chosen, rejected, .. } => vec![word_count(chosen), word_count(rejected)],
                Record::Judged { completion, .. } => vec![word_count(completion)],
                Record::Prompt { .. } => vec![],
            };
            (word_count(prompt), completions)
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

/// Which of two kinds a single completion is.
fn unpaired_label(record: &Record) -> Option<bool> {
    match record {
        Record::Judged { wanted, .. } => Some(*wanted),
        _ => None,
    }
}

fn word_count(said: &Content) -> usize {
    match said {
        Content::Text(text) => text.split_whitespace().count(),
        Content::Turns(turns) => turns.iter().map(|turn| turn.content.split_whitespace().count()).sum(),
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
        let asked = CheckOptions {
            columns: Columns { prompt, chosen, rejected },
            encoder: None,
            prompt_tokens: 1,
            response_tokens: 1,
        };
        let files = [(train.clone(), Split::Train), (test, Split::Test)];
        let files = files.map(|(path, split)| InputFile { path, split: Some(split) });
        let found = check(&files, &asked, |_| ())?;
        assert_eq!((found.rows, found.pairs, found.judged, found.unreadable), (8, 5, 1, 2));
        assert_eq!((found.same, found.duplicates, found.leaks, found.prompts), (1, 1, 1, 4));
        assert_eq!((found.usable, found.usable_wanted, found.usable_unwanted, found.is_usable()), (3, 1, 0, 3));
        let two = DataReport { usable_unwanted: 4, ..found.clone() };
        assert_eq!(two.is_usable(), 7, "the one that is wanted stands beside each of the four");
        assert!(found.are_bad());
        let lines: Vec<usize> = found.first.iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [2, 5, 6, 2]);
        assert!(found.first[0].what.starts_with("it is no JSON") && found.first[2].what == "`rejected` is missing");
        assert_eq!(found.chosen, Some(Lengths { median: 1, ninety: 3, ninety_nine: 3, most: 3 }));
        Ok(())
    }
}
