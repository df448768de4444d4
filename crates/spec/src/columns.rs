//! The columns of a person's rows: what each is for, and its key in `[world.rows]`.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnRole {
    /// What is answered: text or turns.
    Prompt,
    /// What an instruction is about; joined to the prompt.
    Input,
    System,
    /// Functions that the assistant may call.
    Tools,
    Chosen,
    Rejected,
    /// One completion of a row.
    Completion,
    Label,
    /// Several completions: from best to worst, or with scores.
    Completions,
    /// The score of a completion, or its rank.
    Score,
    /// Two completions of which `Preference` says the better.
    First,
    Second,
    Preference,
    ScoreChosen,
    ScoreRejected,
    /// The strength of a preference, in log-odds.
    Margin,
}

use ColumnRole as Role;

/// Every role with its key and what its column holds.
const COLUMNS: [(ColumnRole, &str, &str); 16] = [
    (Role::Prompt, "prompt", "The column of prompts"),
    (Role::Input, "input", "The column of what an instruction is about"),
    (Role::System, "system", "The column of system turns"),
    (Role::Tools, "tools", "The column of functions that may be called"),
    (Role::Chosen, "chosen", "The column of what was preferred"),
    (Role::Rejected, "rejected", "The column of what was not"),
    (Role::Completion, "completion", "The column of single completions, with a label or a score"),
    (Role::Label, "label", "The column that says whether a completion is desirable"),
    (Role::Completions, "completions", "The column of lists of completions, ranked or with scores"),
    (Role::Score, "score", "The score of a completion: a field, a list beside them or a column"),
    (Role::First, "first", "The column of the first of two completions"),
    (Role::Second, "second", "The column of the second of two completions"),
    (Role::Preference, "preference", "The column that says which of the two is better"),
    (Role::ScoreChosen, "score_chosen", "The column of the chosen completion's score"),
    (Role::ScoreRejected, "score_rejected", "The column of the rejected completion's score"),
    (Role::Margin, "margin", "The column of the preference's strength, in log-odds"),
];

impl ColumnRole {
    /// Every role, in the order of the enumeration.
    pub fn all() -> impl Iterator<Item = Self> {
        COLUMNS.into_iter().map(|(role, ..)| role)
    }

    /// Its key in `[world.rows]`.
    pub fn key(self) -> &'static str {
        COLUMNS[self as usize].1
    }

    /// What its column holds, in words.
    pub fn description(self) -> &'static str {
        COLUMNS[self as usize].2
    }
}

impl fmt::Display for ColumnRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_role_at_its_index() {
        for (index, role) in ColumnRole::all().enumerate() {
            assert_eq!(role as usize, index, "{role}");
            assert_eq!(serde_json::to_value(role).ok(), Some(role.key().into()));
        }
        assert_eq!(Role::Margin as usize + 1, COLUMNS.len(), "the last of them");
    }
}
