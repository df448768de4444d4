//! What was found in rows, and how many of them are used.

use crate::{Error, Result};
use duel_spec::Split;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Rows of a kind of finding that are listed with their lines; all others are only counted.
pub(crate) const MAX_LISTED: usize = 20;
/// Kinds of unreadable rows that are told apart.
const MAX_KINDS: usize = 64;

/// What a row can have that a person should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    Unreadable,
    Leaks,
    Same,
    Duplicates,
    PromptsTooLong,
    ResponsesTooLong,
    PromptsCut,
    ResponsesCut,
    Cut,
    EndInText,
    Empty,
    Merged,
    Shortened,
    ControlInPrompt,
    ScoresAgainstOrder,
    Contradicts,
    Ties,
    ZeroWidth,
    NonBreakingSpaces,
    Bidirectional,
    Replacement,
    ControlCharacters,
}

impl FindingKind {
    pub const ALL: [Self; 22] = [
        Self::Unreadable,
        Self::Leaks,
        Self::Same,
        Self::Duplicates,
        Self::PromptsTooLong,
        Self::ResponsesTooLong,
        Self::PromptsCut,
        Self::ResponsesCut,
        Self::Cut,
        Self::EndInText,
        Self::Empty,
        Self::Merged,
        Self::Shortened,
        Self::ControlInPrompt,
        Self::ScoresAgainstOrder,
        Self::Contradicts,
        Self::Ties,
        Self::ZeroWidth,
        Self::NonBreakingSpaces,
        Self::Bidirectional,
        Self::Replacement,
        Self::ControlCharacters,
    ];

    /// Whether the rows should be fixed: they cannot be trained on. All others are used, or are left out by a setting or
    /// because they are duplicates.
    pub fn is_error(self) -> bool {
        matches!(self, Self::Unreadable | Self::Leaks | Self::Same)
    }

    /// What these rows have, and what becomes of them.
    pub fn description(self) -> &'static str {
        match self {
            Self::Unreadable => "cannot be read or trained on, left out",
            Self::Leaks => "prompt also in the file of another split: remove the rows from one of the files",
            Self::Same => "completions that are the same, left out",
            Self::Duplicates => "duplicates of earlier rows, left out",
            Self::PromptsTooLong => "prompt too long, left out (prompt_tokens, long_prompts)",
            Self::ResponsesTooLong => "completion too long, left out (response_tokens, long_responses)",
            Self::PromptsCut => "prompt too long, its beginning cut (prompt_tokens, long_prompts)",
            Self::ResponsesCut => {
                "completion too long, its end cut and with it its end token (response_tokens, long_responses)"
            }
            Self::Cut => "completion cut at its first end token",
            Self::EndInText => "end token named within the text of a completion",
            Self::Empty => "empty completion: only its end token is learned",
            Self::Merged => {
                "prompt ends before a token that holds the beginning of a completion: end prompts without a space, begin completions with it"
            }
            Self::Shortened => "prompt ends earlier, where its text with either completion still agrees",
            Self::ControlInPrompt => {
                "control token named in the text of a prompt, and read as such: right where a template wrote it, wrong where a user did"
            }
            Self::ScoresAgainstOrder => "scores or margin against the order",
            Self::Contradicts => {
                "labelled the other way round than an earlier row, both are used: their labels cancel out"
            }
            Self::Ties => "equal scores, or a margin of 0",
            Self::ZeroWidth => "characters without width, or a byte order mark within the text",
            Self::NonBreakingSpaces => "non-breaking spaces",
            Self::Bidirectional => "characters that turn the direction of text",
            Self::Replacement => "replacement character U+FFFD: the text was once read in another encoding",
            Self::ControlCharacters => "control characters other than tab and line break",
        }
    }
}

/// A row with a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub file: PathBuf,
    pub line: usize,
    pub what: String,
}

impl Problem {
    /// What is wrong, without what differs from row to row.
    pub fn kind(&self) -> String {
        kind_of(&self.what)
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// All rows with one kind of finding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub rows: usize,
    /// The first of them.
    pub first: Vec<Problem>,
    /// Of unreadable rows: how many there are by message, without what differs from row to row.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kinds: BTreeMap<String, usize>,
}

/// Rows of a split that can be used, before any limit on their number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SplitCounts {
    pub pairs: usize,
    /// Single completions, wanted and unwanted.
    pub wanted: usize,
    pub unwanted: usize,
    /// Rows whose prompt can be used, alone or with completions.
    pub prompts: usize,
}

/// The pairs that a training gets of a split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeptPairs {
    /// Of rows that are pairs, and made of two single completions.
    pub pairs: usize,
    pub unpaired: usize,
    /// Single completions, unwanted and wanted, of a split that has none of the other kind: no loss learns from one kind alone.
    pub one_kind: [usize; 2],
}

impl SplitCounts {
    /// What is kept where at most `most` rows of each kind are.
    pub fn kept(self, most: usize) -> KeptPairs {
        let [pairs, wanted, unwanted] = [self.pairs, self.wanted, self.unwanted].map(|count| count.min(most));
        match wanted.min(unwanted) {
            0 => KeptPairs { pairs, unpaired: 0, one_kind: [unwanted, wanted] },
            _ => KeptPairs { pairs, unpaired: wanted.max(unwanted).min(most - pairs), one_kind: [0, 0] },
        }
    }
}

/// What was read, and what becomes of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RowStats {
    #[serde(rename = "rows")]
    pub read: usize,
    /// Rows in no known shape.
    pub malformed: usize,
    pub pairs: usize,
    /// Rows with one completion, wanted or not.
    pub judged: usize,
    pub prompts_alone: usize,
    pub with_margin: usize,
    pub with_scores: usize,
    /// Different prompts.
    pub prompts: usize,
    /// Pairs that a training gets.
    pub kept: usize,
    /// Those of them that are made of two single completions, one wanted and one unwanted, each with its own prompt.
    pub unpaired: usize,
    /// Of training, validation and test.
    pub kept_by_split: [usize; 3],
    /// Single completions, unwanted and wanted, whose split has none of the other kind.
    pub one_kind: [usize; 2],
    /// Rows that can be used: train, validation, test.
    pub usable: [SplitCounts; 3],
    #[serde(serialize_with = "serialize_findings")]
    pub findings: BTreeMap<FindingKind, Finding>,
}

impl RowStats {
    /// How many rows have a kind of finding.
    pub fn count(&self, kind: FindingKind) -> usize {
        self.findings.get(&kind).map_or(0, |finding| finding.rows)
    }

    /// The first rows with a kind of finding.
    pub fn first(&self, kind: FindingKind) -> &[Problem] {
        self.findings.get(&kind).map_or(&[], |finding| &finding.first)
    }

    /// Whether there are only prompts.
    pub fn has_only_prompts(&self) -> bool {
        self.prompts_alone > 0 && self.pairs + self.judged == 0
    }

    /// Single completions that can be used, wanted and unwanted.
    pub fn usable_single(&self) -> [usize; 2] {
        let sum = |count: fn(&SplitCounts) -> usize| self.usable.iter().map(count).sum();
        [sum(|split| split.wanted), sum(|split| split.unwanted)]
    }

    pub(crate) fn add_finding(&mut self, kind: FindingKind, file: &Path, line: usize, what: String) {
        let finding = self.findings.entry(kind).or_default();
        finding.rows += 1;
        if kind == FindingKind::Unreadable {
            let name = kind_of(&what);
            let is_known = finding.kinds.contains_key(&name) || finding.kinds.len() < MAX_KINDS;
            *finding.kinds.entry(if is_known { name } else { "other problems".into() }).or_default() += 1;
        }
        if finding.first.len() < MAX_LISTED {
            finding.first.push(Problem { file: file.into(), line, what });
        }
    }

    /// Counts what is kept of each split, at most `most` rows of training and of each of the others.
    pub(crate) fn count_kept(&mut self, most: [usize; 2]) {
        for split in Split::ALL {
            let KeptPairs { pairs, unpaired, one_kind } =
                self.usable[split as usize].kept(most[usize::from(split != Split::Train)]);
            self.kept_by_split[split as usize] = pairs + unpaired;
            self.kept += pairs + unpaired;
            self.unpaired += unpaired;
            self.one_kind = [self.one_kind[0] + one_kind[0], self.one_kind[1] + one_kind[1]];
        }
    }

    /// Whether the policy has to write the completions, as there are only prompts, in every split.
    fn has_prompts_alone_everywhere(&self) -> bool {
        self.has_only_prompts() && self.usable.iter().all(|split| split.prompts > 0)
    }

    /// Whether a run can train on these rows.
    ///
    /// # Errors
    /// [`Error::BadRows`]: a prompt in the files of two splits. [`Error::OneKind`], [`Error::FewRows`]: a split without rows.
    pub fn check(&self) -> Result<()> {
        if let Some(leaks) = self.findings.get(&FindingKind::Leaks) {
            let hint = "a prompt may occur in only one of the training, validation and test files: remove these rows from one of them";
            let lines = leaks.first.iter().map(ToString::to_string).collect();
            return Err(Error::BadRows { count: leaks.rows, lines, hint: hint.into() });
        }
        let [wanted, unwanted] = self.usable_single();
        if self.kept == 0 && (unwanted == 0) != (wanted == 0) {
            return Err(Error::OneKind { wanted, unwanted });
        }
        if !self.has_prompts_alone_everywhere() && self.kept_by_split.contains(&0) {
            let names = Split::ALL.map(Split::name);
            let counts = names.iter().zip(self.kept_by_split).map(|(name, count)| format!("{count} of {name}"));
            let text = format!("{}, out of {}", counts.collect::<Vec<_>>().join(", "), self.read);
            return Err(Error::FewRows {
                found: text,
                first_left_out: self.first_left_out(),
                counts: self.to_string(),
            });
        }
        Ok(())
    }

    /// The first row that was left out, as the end of a message.
    fn first_left_out(&self) -> String {
        let first = [FindingKind::Unreadable, FindingKind::Same].iter().find_map(|kind| self.first(*kind).first());
        first.map_or(String::new(), |first| format!("; {first}"))
    }
}

/// Every kind with its number of rows, its first lines, and whether it should be fixed.
fn serialize_findings<S: serde::Serializer>(
    findings: &BTreeMap<FindingKind, Finding>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct DescribedFinding<'a> {
        severity: &'static str,
        what: &'static str,
        #[serde(flatten)]
        finding: &'a Finding,
    }
    let none = Finding::default();
    serializer.collect_map(FindingKind::ALL.iter().map(|kind| {
        let severity = if kind.is_error() { "error" } else { "note" };
        (kind, DescribedFinding { severity, what: kind.description(), finding: findings.get(kind).unwrap_or(&none) })
    }))
}

/// The kind of a problem: its message without what differs from row to row.
fn kind_of(problem: &str) -> String {
    let problem = problem.split(" (column ").next().unwrap_or(problem);
    let mut kind = String::new();
    for c in problem.chars().take(80) {
        match c.is_ascii_digit() {
            true if kind.ends_with('N') => {}
            true => kind.push('N'),
            false => kind.push(c),
        }
    }
    kind
}

impl std::fmt::Display for RowStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { read, kept, unpaired, .. } = self;
        write!(f, "{read} rows read, {kept} pairs kept")?;
        if *unpaired > 0 {
            write!(f, ", {unpaired} of them made of completions with a label")?;
        }
        if let [unwanted, wanted] = self.one_kind
            && unwanted + wanted > 0
        {
            write!(
                f,
                "; left out, with none of the other kind in their split: {wanted} wanted and {unwanted} unwanted completions"
            )?;
        }
        for (kind, finding) in &self.findings {
            write!(f, "; {}: {}", kind.description(), finding.rows)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_completions_make_as_many_pairs_as_there_are_of_the_more_frequent_kind() {
        let counts = SplitCounts { pairs: 3, wanted: 5, unwanted: 2, prompts: 10 };
        let pairs = |most| counts.kept(most);
        assert_eq!(pairs(100), KeptPairs { pairs: 3, unpaired: 5, one_kind: [0, 0] });
        assert_eq!(pairs(6), KeptPairs { pairs: 3, unpaired: 3, one_kind: [0, 0] });
        assert_eq!(pairs(2), KeptPairs { pairs: 2, unpaired: 0, one_kind: [0, 0] });
        let wanted_only = SplitCounts { unwanted: 0, ..counts };
        assert_eq!(wanted_only.kept(4), KeptPairs { pairs: 3, unpaired: 0, one_kind: [0, 4] });
    }

    #[test]
    fn every_kind_is_listed_once() {
        let mut kinds = FindingKind::ALL.to_vec();
        kinds.sort();
        kinds.dedup();
        assert_eq!(kinds.len(), FindingKind::ALL.len());
        assert_eq!(*kinds.last().expect("some"), FindingKind::ControlCharacters, "the last of them");
        assert_eq!(kinds.len(), FindingKind::ControlCharacters as usize + 1);
    }
}
