//! What the columns of a person's rows are for, and the names by which published sets call them.

use duel_spec::{ChatFormat, RowsSettings};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnRole {
    /// What is answered: text or turns.
    Prompt,
    /// What an instruction is about; joined to the prompt.
    Input,
    /// The system turn.
    System,
    /// Functions that the assistant may call.
    Tools,
    Chosen,
    Rejected,
    /// One completion of a row.
    Completion,
    /// Whether the completion is desirable.
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

impl ColumnRole {
    pub(super) const ALL: [Self; 16] = [
        Role::System,
        Role::Prompt,
        Role::Input,
        Role::Tools,
        Role::Chosen,
        Role::Rejected,
        Role::Completion,
        Role::Label,
        Role::Completions,
        Role::Score,
        Role::First,
        Role::Second,
        Role::Preference,
        Role::ScoreChosen,
        Role::ScoreRejected,
        Role::Margin,
    ];

    /// Its key in `[world.rows]`.
    pub fn key(self) -> &'static str {
        match self {
            Role::Prompt => "prompt",
            Role::Input => "input",
            Role::System => "system",
            Role::Tools => "tools",
            Role::Chosen => "chosen",
            Role::Rejected => "rejected",
            Role::Completion => "completion",
            Role::Label => "label",
            Role::Completions => "completions",
            Role::Score => "score",
            Role::First => "first",
            Role::Second => "second",
            Role::Preference => "preference",
            Role::ScoreChosen => "score_chosen",
            Role::ScoreRejected => "score_rejected",
            Role::Margin => "margin",
        }
    }

    /// The names that published sets give it, the most usual first. The names of two roles that belong together stand in the
    /// same order.
    pub(super) fn usual_names(self) -> &'static [&'static str] {
        match self {
            Role::Prompt => {
                &["prompt", "instruction", "question", "conversations", "conversation", "messages", "context", "input"]
            }
            Role::Input => &["input"],
            Role::System => &["system", "system_prompt"],
            Role::Tools => &["tools"],
            Role::Chosen => &["chosen"],
            Role::Rejected => &["rejected"],
            Role::Completion => &["completion", "response", "output", "answer"],
            Role::Label => &["label", "kto_tag"],
            Role::Completions => &[
                "completions",
                "responses",
                "answers",
                "generations",
                "candidates",
                "ranking",
                "rankings",
                "output",
                "outputs",
            ],
            Role::Score => &[
                "overall_score",
                "overall",
                "score",
                "rating",
                "helpfulness",
                "reward",
                "rank",
                "scores",
                "ratings",
                "ranks",
            ],
            Role::First => &["response_1", "response1", "response_0", "response_a", "conversation_a"],
            Role::Second => &["response_2", "response2", "response_1", "response_b", "conversation_b"],
            Role::Preference => {
                &["preference_strength", "overall_preference", "better_response_id", "winner", "preference"]
            }
            Role::ScoreChosen => &[
                "score_chosen",
                "chosen_score",
                "chosen_rating",
                "rating_chosen",
                "chosen-rating",
                "chosen_avg_rating",
            ],
            Role::ScoreRejected => &[
                "score_rejected",
                "rejected_score",
                "rejected_rating",
                "rating_rejected",
                "rejected-rating",
                "rejected_avg_rating",
            ],
            Role::Margin => &["margin"],
        }
    }

    /// Whether a score of this column is a rank, of which the smallest is the best.
    pub(super) fn is_rank(column: &str) -> bool {
        matches!(column, "rank" | "ranks")
    }
}

impl fmt::Display for ColumnRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// The name that stands for "no such column".
pub(super) const NO_COLUMN: &str = "none";

/// How columns are named, and what is made of them: `[world.rows]`.
#[derive(Debug, Clone)]
pub struct Columns {
    /// Names that were set; the usual ones stand for the others.
    pub names: BTreeMap<ColumnRole, String>,
    /// Pairs made of one prompt's scored or ranked completions, at most.
    pub pairs_per_prompt: usize,
    pub chat: ChatFormat,
}

impl Columns {
    /// Names a column, by the key of its role; `none` where it is not to be used, empty for the usual names.
    #[must_use]
    pub fn with(mut self, key: &str, name: &str) -> Self {
        if let Some(role) = Role::ALL.into_iter().find(|role| role.key() == key) {
            self.names.insert(role, name.to_owned());
        }
        self
    }

    /// The name that was set.
    pub(super) fn name(&self, role: ColumnRole) -> Option<&str> {
        self.names.get(&role).map(String::as_str).filter(|name| !name.is_empty())
    }
}

impl Default for Columns {
    fn default() -> Self {
        Self::from(&RowsSettings::defaults())
    }
}

impl From<&RowsSettings> for Columns {
    fn from(settings: &RowsSettings) -> Self {
        let (pairs_per_prompt, chat) = (settings.pairs_per_prompt, settings.chat);
        let columns = Self { names: BTreeMap::new(), pairs_per_prompt, chat };
        settings.column_names().into_iter().fold(columns, |columns, (key, name)| columns.with(key, name))
    }
}
