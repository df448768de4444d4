//! The plan of a file's columns: what each is taken for, found in the first rows and the same for all of them.

use super::column_problem::ColumnProblem;
use super::columns::{Columns, is_rank, usual_names};
use super::finder::{ColumnFinder, RowShape};
use super::survey::{ColumnSurvey, survey};
use crate::json::Json;
use duel_spec::{ChatFormat, ColumnRole as Role};
use indexmap::IndexMap;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::fmt;

/// A column and what it is taken for.
#[derive(Debug, Clone, Serialize)]
pub struct PlannedColumn {
    pub role: Role,
    pub column: String,
    /// What it holds, in words.
    pub kind: String,
    /// The first rows that have it.
    pub rows: usize,
}

/// What the columns of a file are taken for.
#[derive(Debug, Clone, Serialize)]
pub struct ColumnPlan {
    /// The first rows, which were looked at.
    pub rows: usize,
    pub columns: Vec<PlannedColumn>,
    /// Columns that are left.
    pub unused: Vec<String>,
    /// Columns without a value.
    pub empty: Vec<String>,
    /// What else is made of the rows, in words.
    pub notes: Vec<String>,
    pub(super) shape: RowShape,
    /// Whether text becomes turns.
    pub(super) is_chat: bool,
    /// Whether a prompt's last answer is left.
    pub(super) drops_answer: bool,
    #[serde(skip)]
    pub(super) pairs_per_prompt: usize,
    /// Whether the column of scores was named, and not found.
    #[serde(skip)]
    pub(super) score_is_set: bool,
    #[serde(skip)]
    names: BTreeMap<Role, String>,
    /// Whether rows have tools for the chat template.
    #[serde(skip)]
    has_tools: bool,
    /// Columns that the first rows have.
    #[serde(skip)]
    known: HashSet<String>,
}

impl ColumnPlan {
    /// Finds what the columns of the first rows are for.
    ///
    /// # Errors
    /// A column that is named and is not there, or one that is needed and has no known name.
    pub(super) fn new<'a>(
        rows: impl Iterator<Item = &'a Json> + Clone,
        columns: &Columns,
    ) -> std::result::Result<Self, ColumnProblem> {
        let surveys = survey(rows.clone());
        let finder = ColumnFinder { surveys: &surveys, columns };
        let count = rows.filter(|row| matches!(row, Json::Object(_))).count();
        if surveys.is_empty() {
            return Ok(Self::of(RowShape::Columns, BTreeMap::new(), &surveys, columns, 0));
        }
        finder.check_names()?;
        let (shape, names) = finder.shape()?;
        Ok(Self::of(shape, names, &surveys, columns, count))
    }

    fn of(
        shape: RowShape,
        names: BTreeMap<Role, String>,
        surveys: &IndexMap<String, ColumnSurvey>,
        columns: &Columns,
        rows: usize,
    ) -> Self {
        let planned = |role: Role| {
            let column = names.get(&role)?.clone();
            let (kind, rows) = match surveys.get(&column) {
                Some(survey) => (survey.kind(), survey.rows),
                None => ("within each completion".into(), rows),
            };
            Some(PlannedColumn { role, column, kind, rows })
        };
        let is_used = |name: &String| names.values().any(|used| used == name);
        let left = |is_empty: bool| {
            let left = surveys.iter().filter(|(name, survey)| !is_used(name) && (survey.rows == 0) == is_empty);
            left.map(|(name, _)| name.clone()).collect()
        };
        let is_chat = match columns.chat {
            ChatFormat::Always => true,
            ChatFormat::Never => false,
            ChatFormat::Auto => {
                let has_usual_prompt = names.get(&Role::Prompt).is_some_and(|name| {
                    let mut others = usual_names(Role::Prompt).iter().filter(|usual| **usual != Role::Prompt.key());
                    others.any(|usual| name.eq_ignore_ascii_case(usual))
                });
                let needs_turns = names.contains_key(&Role::System) || names.contains_key(&Role::Tools);
                shape != RowShape::Columns || has_usual_prompt || needs_turns
            }
        };
        let prompt = names.get(&Role::Prompt).and_then(|name| surveys.get(name));
        let completions = [Role::Chosen, Role::Rejected, Role::Completion];
        let is_prompt_alone = shape == RowShape::Columns && !completions.iter().any(|role| names.contains_key(role));
        let is_transcript =
            names.get(&Role::Prompt).is_some_and(|name| ["messages", "conversations"].contains(&name.as_str()));
        // as they stand in a conversation
        let mut roles: Vec<Role> = Role::all().collect();
        roles.sort_by_key(|role| *role != Role::System);
        let mut plan = Self {
            rows,
            columns: roles.into_iter().filter_map(planned).collect(),
            unused: left(false),
            empty: left(true),
            notes: vec![],
            shape,
            is_chat,
            drops_answer: is_prompt_alone && is_transcript && prompt.is_some_and(|prompt| prompt.answered > 0),
            pairs_per_prompt: columns.pairs_per_prompt,
            score_is_set: columns.name(Role::Score).is_some(),
            known: surveys.keys().cloned().collect(),
            has_tools: names.contains_key(&Role::Tools) || prompt.is_some_and(|prompt| prompt.tools > 0),
            names,
        };
        plan.notes = plan.describe(surveys);
        plan
    }

    /// Whether another file is read in the same way.
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.names, self.shape, self.is_chat, &self.unused)
            == (&other.names, other.shape, other.is_chat, &other.unused)
    }

    /// Whether text becomes turns, of text that may or may not; `None` where there is none.
    pub(crate) fn makes_turns(&self) -> Option<bool> {
        let has_text =
            |column: &&PlannedColumn| column.kind.contains("text") && !column.kind.contains("written as text");
        let completions = [Role::Chosen, Role::Completion, Role::Completions, Role::First, Role::Prompt];
        self.columns.iter().filter(has_text).any(|column| completions.contains(&column.role)).then_some(self.is_chat)
    }

    /// Whether rows have tools for the chat template.
    pub(crate) fn has_tools(&self) -> bool {
        self.has_tools
    }

    /// The column that is taken for something.
    pub(super) fn name(&self, role: Role) -> Option<&str> {
        self.names.get(&role).map(String::as_str)
    }

    /// A column of a usual name that the first rows do not have, and that would be left without a word.
    pub(super) fn late_column<'a>(&self, row: &'a IndexMap<String, Json>) -> Option<(&'a str, Role)> {
        const ANYWHERE: &[Role] = &[Role::System, Role::Tools];
        const BESIDE_PAIRS: &[Role] = &[
            Role::System,
            Role::Tools,
            Role::Prompt,
            Role::Chosen,
            Role::Rejected,
            Role::Label,
            Role::ScoreChosen,
            Role::ScoreRejected,
            Role::Margin,
        ];
        let roles = if self.shape == RowShape::Columns { BESIDE_PAIRS } else { ANYWHERE };
        let late = row.iter().filter(|(name, value)| **value != Json::Null && !self.known.contains(*name));
        let with_role = |(name, _): (&'a String, _)| {
            let is_free = |role: &&Role| {
                !self.names.contains_key(*role)
                    && usual_names(**role).iter().any(|usual| name.eq_ignore_ascii_case(usual))
            };
            Some((name.as_str(), *roles.iter().find(is_free)?))
        };
        late.filter_map(with_role).find(|_| self.rows > 0)
    }

    /// What is made of the rows beside their columns.
    fn describe(&self, surveys: &IndexMap<String, ColumnSurvey>) -> Vec<String> {
        let mut notes = vec![];
        let survey = |role| self.name(role).and_then(|name| surveys.get(name));
        let has_text = [Role::Prompt, Role::Chosen, Role::Completion, Role::Completions, Role::First]
            .into_iter()
            .filter_map(survey)
            .any(|survey| survey.texts + survey.lists > 0);
        let is_spoken = [Role::Prompt, Role::Chosen].into_iter().filter_map(survey).any(|survey| survey.spoken > 0);
        match self.shape {
            RowShape::Columns => {}
            RowShape::LabelledAnswer => notes.push("the last answer of each conversation is the labelled one".into()),
            RowShape::Ranked => notes.push(self.describe_ranking()),
            RowShape::Preference(coding) => {
                notes.push(coding.describe(self.name(Role::Preference).unwrap_or_default()));
            }
            RowShape::Scored => notes.push(format!(
                "rows of one prompt that follow one another are compared by their scores, {} at most",
                pairs(self.pairs_per_prompt)
            )),
        }
        let better = survey(Role::Chosen).or(survey(Role::First));
        if better.is_some() && self.name(Role::Prompt).is_none() {
            let what = match (better, is_spoken) {
                (Some(survey), _) if survey.has_turns() => "the turns that both completions begin with",
                (_, true) => "what both completions begin with, up to their last common `Assistant:`",
                _ => "the text that both completions begin with",
            };
            notes.push(format!("there is no column of prompts: the prompt is {what}"));
        }
        if surveys.values().any(|survey| survey.weighted > 0) {
            notes.push("the `weight` of turns changes nothing: world.rows.turns says which carry the loss".into());
        }
        if self.name(Role::Input).is_some() {
            notes.push("the input is written below the prompt".into());
        }
        if self.drops_answer {
            notes.push("there is one answer alone: the prompts are used without it".into());
        }
        let completions = [Role::Chosen, Role::Completion, Role::First].into_iter().find_map(survey);
        let has_chats = completions.is_some_and(ColumnSurvey::has_turns);
        if has_chats && survey(Role::Prompt).is_some_and(|prompt| prompt.texts > 0 && !prompt.has_turns()) {
            notes.push(
                "the text of the prompt is the user's turn; chats that repeat it are used from its answer on".into(),
            );
        } else if has_text && self.is_chat {
            notes.push(
                "text becomes turns of user and assistant, for the chat template; chat = \"never\" leaves it as it is"
                    .into(),
            );
        } else if has_text {
            notes
                .push("text is used as it stands, without a chat template; chat = \"always\" makes turns of it".into());
        }
        notes
    }

    fn describe_ranking(&self) -> String {
        let pairs = pairs(self.pairs_per_prompt);
        match self.name(Role::Score) {
            Some(score) if is_rank(score) => {
                format!("completions are compared by their `{score}`, the smallest first: {pairs} a prompt")
            }
            Some(score) => format!("completions are compared by their `{score}`, the largest first: {pairs} a prompt"),
            None => format!("completions are taken as ranked, the best first: {pairs} a prompt"),
        }
    }
}

fn pairs(count: usize) -> String {
    if count == 1 { "one pair".into() } else { format!("up to {count} pairs") }
}

impl fmt::Display for ColumnPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rows {
            0 => return writeln!(f, "columns: the first rows have none"),
            1 => writeln!(f, "columns, as the first row has them")?,
            rows => writeln!(f, "columns, as the first {rows} rows have them")?,
        }
        for PlannedColumn { role, column, kind, rows } in &self.columns {
            let share = if *rows == self.rows { String::new() } else { format!(", in {rows} of {} rows", self.rows) };
            writeln!(f, "  {:<14} `{column}`: {kind}{share}", role.key())?;
        }
        for (names, what) in [(&self.unused, "not used"), (&self.empty, "without a value")] {
            if !names.is_empty() {
                let named = |name: &String| {
                    if name.is_empty() { "a column without a name".into() } else { format!("`{name}`") }
                };
                let names = names.iter().map(named).collect::<Vec<_>>().join(", ");
                writeln!(f, "  {what}: {names}")?;
            }
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        if !self.unused.is_empty() {
            writeln!(f, "  columns are named by their keys, as in [world.rows] prompt = \"NAME\"")?;
        }
        Ok(())
    }
}
