//! The names by which published sets call the columns of rows, and those that were set.

use ColumnRole as Role;
use duel_spec::{ChatFormat, ColumnRole, RowsSettings};
use std::collections::BTreeMap;

/// The names of the first of two completions, and those of the second in the same order.
const FIRST_OF_TWO: &[&str] = &[
    "response_1",
    "response1",
    "response_0",
    "response_a",
    "conversation_a",
    "answer_1",
    "answer_0",
    "answer_a",
    "completion_1",
    "completion_0",
    "completion_a",
    "output_1",
    "output_a",
    "human_ref_a",
];
const SECOND_OF_TWO: &[&str] = &[
    "response_2",
    "response2",
    "response_1",
    "response_b",
    "conversation_b",
    "answer_2",
    "answer_1",
    "answer_b",
    "completion_2",
    "completion_1",
    "completion_b",
    "output_2",
    "output_b",
    "human_ref_b",
];

/// The names that published sets give a column, the most usual first. The names of two roles that belong together stand in the
/// same order.
pub(super) fn usual_names(role: ColumnRole) -> &'static [&'static str] {
    match role {
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
            "ranking",
            "rankings",
        ],
        Role::First => FIRST_OF_TWO,
        Role::Second => SECOND_OF_TWO,
        Role::Preference => {
            &["preference_strength", "overall_preference", "better_response_id", "winner", "preference"]
        }
        Role::ScoreChosen => {
            &["score_chosen", "chosen_score", "chosen_rating", "rating_chosen", "chosen-rating", "chosen_avg_rating"]
        }
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
    ["rank", "ranks", "ranking", "rankings"].contains(&column)
}

/// Whether a list of this name has ranks in some sets and indices, the best first, in others.
pub(super) fn counts_from_either(column: &str) -> bool {
    ["ranking", "rankings"].contains(&column)
}

/// Further names of [`Role::Chosen`] and [`Role::Rejected`], which say what they are only together.
pub(super) const OTHER_PAIRS: [[&str; 2]; 7] = [
    ["chosen_response", "rejected_response"],
    ["response_chosen", "response_rejected"],
    ["preferred_output", "non_preferred_output"],
    ["preferred", "dispreferred"],
    ["accepted", "rejected"],
    ["y_w", "y_l"],
    ["response_w", "response_l"],
];

/// The names of the scores of two completions, in the order of the names of [`Role::First`] and [`Role::Second`].
pub(super) const SCORES_OF_BOTH: [[&str; 2]; 8] = [
    ["score_1", "score_2"],
    ["score1", "score2"],
    ["score_0", "score_1"],
    ["score_a", "score_b"],
    ["rating_1", "rating_2"],
    ["rating_a", "rating_b"],
    ["response_1_score", "response_2_score"],
    ["response_a_score", "response_b_score"],
];

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
    /// Names a column; `none` where it is not to be used, empty for the usual names.
    #[must_use]
    pub fn with(mut self, role: ColumnRole, name: &str) -> Self {
        self.names.insert(role, name.to_owned());
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
        let RowsSettings { columns, pairs_per_prompt, chat, .. } = settings;
        Self { names: columns.clone(), pairs_per_prompt: *pairs_per_prompt, chat: *chat }
    }
}
