//! Counts of the rows that were read.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// Rows that are listed with their position; all others are only counted.
pub(crate) const MAX_LISTED: usize = 20;

/// How many rows were kept, and how many left out for which reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareStats {
    pub read: usize,
    pub kept: usize,
    /// Kept rows that pair two single completions, one wanted and one unwanted, each with its own prompt.
    #[serde(default)]
    pub unpaired: usize,
    /// Single completions, unwanted and wanted, whose split has none of the other kind: no loss learns from one kind alone.
    #[serde(default)]
    pub one_kind: [usize; 2],
    /// In an unsupported format, or refused by the template.
    pub unreadable: usize,
    pub prompts_too_long: usize,
    pub responses_too_long: usize,
    /// Both completions are the same.
    pub same: usize,
    pub duplicates: usize,
    /// Rows whose prompt ends before a token that holds the beginning of a completion.
    #[serde(default)]
    pub merged: usize,
    /// Rows with a completion that goes on after its first EOS, where it is cut.
    #[serde(default)]
    pub cut: usize,
    /// The first of these, with file and line.
    #[serde(default, skip)]
    pub cut_rows: Vec<String>,
    /// The first rows that are unreadable or whose completions are the same, with file and line.
    #[serde(default, skip)]
    pub left_out: Vec<String>,
}

impl PrepareStats {
    pub(crate) fn record_cut(&mut self, path: &Path, line: usize) {
        self.cut += 1;
        if self.cut_rows.len() < MAX_LISTED {
            self.cut_rows.push(format!("{}:{line}", path.display()));
        }
    }

    pub(crate) fn record_left_out(&mut self, path: &Path, line: usize, problem: &str) {
        if self.left_out.len() < MAX_LISTED {
            self.left_out.push(format!("{}:{line}: {problem}", path.display()));
        }
    }

    /// The first row that was left out, as the end of a message.
    pub(crate) fn first_left_out(&self) -> String {
        self.left_out.first().map_or(String::new(), |first| format!("; {first}"))
    }
}

impl std::fmt::Display for PrepareStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { read, kept, unpaired, unreadable, prompts_too_long, responses_too_long, same, duplicates, .. } =
            self;
        write!(
            f,
            "{read} rows read, {kept} pairs kept, {unpaired} of them made of completions with a label; {unreadable} unreadable, {prompts_too_long} with prompts too long, \
             {responses_too_long} with completions too long, {same} whose completions are the same, {duplicates} duplicates"
        )?;
        if let [unwanted, wanted] = self.one_kind
            && unwanted + wanted > 0
        {
            write!(
                f,
                "; left out, with none of the other kind in their split: {wanted} wanted and {unwanted} unwanted completions"
            )?;
        }
        if self.merged > 0 {
            write!(f, "; {} whose prompt ends before a token that holds the beginning of a completion", self.merged)?;
        }
        if self.cut > 0 {
            write!(f, "; {} with a completion cut at its first end token", self.cut)?;
        }
        Ok(())
    }
}
