//! What the columns of the first rows hold.

use super::number::to_number;
use super::turns::{has_speakers, is_turn, request_turns, spelled_list, spelled_turns};
use crate::json::Json;
use indexmap::IndexMap;

/// What a column holds, counted over rows.
#[derive(Debug, Clone, Default)]
pub(super) struct ColumnSurvey {
    /// Rows with a value.
    pub(super) rows: usize,
    /// Text that is no list of turns.
    pub(super) texts: usize,
    /// Text that is a list of turns, or begins like one.
    pub(super) spelled: usize,
    /// Turns, and lists of them.
    pub(super) turns: usize,
    /// Lists of anything else.
    pub(super) lists: usize,
    pub(super) numbers: usize,
    pub(super) flags: usize,
    /// Turns of which the last is the assistant's.
    pub(super) answered: usize,
    /// Text with the speakers of Anthropic's HH set.
    pub(super) spoken: usize,
    /// Objects of turns with tools beside them.
    pub(super) tools: usize,
    /// Turns with a `weight`.
    pub(super) weighted: usize,
    /// Names of the fields of a list's first item.
    pub(super) item_fields: Vec<String>,
    /// Those whose value is a number or a flag.
    pub(super) item_numbers: Vec<String>,
    /// Text that is a list.
    pub(super) spelled_lists: usize,
    /// Lists of at least two numbers, written as text or not.
    pub(super) number_lists: usize,
    /// The range of its numbers, written as text or not.
    pub(super) range: Option<NumberRange>,
}

/// The range of numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct NumberRange {
    pub(super) low: f64,
    pub(super) high: f64,
    /// Whether all are whole.
    pub(super) is_whole: bool,
}

impl NumberRange {
    fn with(range: Option<Self>, x: f64) -> Self {
        let Self { low, high, is_whole } = range.unwrap_or(Self { low: x, high: x, is_whole: true });
        Self { low: low.min(x), high: high.max(x), is_whole: is_whole && x.fract() == 0.0 }
    }
}

impl ColumnSurvey {
    fn add(&mut self, value: &Json) {
        if let Some(turns) = request_turns(value) {
            self.tools += usize::from(value.get("tools").is_some_and(|tools| *tools != Json::List(vec![])));
            return self.add(turns);
        }
        self.rows += usize::from(*value != Json::Null);
        if let Some(x) = to_number(value) {
            self.range = Some(NumberRange::with(self.range, x));
        }
        let spelled = value.as_str().and_then(spelled_list);
        self.spelled_lists += usize::from(spelled.is_some());
        if let Json::List(items) = spelled.as_ref().unwrap_or(value) {
            self.number_lists += usize::from(items.len() > 1 && items.iter().all(|item| to_number(item).is_some()));
        }
        match value {
            Json::Text(text) => match spelled_turns(text) {
                Some(turns) => {
                    self.spelled += 1;
                    self.answered += usize::from(turns.is_ok_and(|turns| is_answered(&turns)));
                }
                None => {
                    self.texts += 1;
                    self.spoken += usize::from(has_speakers(text));
                }
            },
            Json::List(items) if items.first().is_none_or(|first| !is_turn(first)) => {
                self.lists += 1;
                if let (true, Some(Json::Object(fields))) = (self.item_fields.is_empty(), items.first()) {
                    self.item_fields = fields.keys().cloned().collect();
                    let is_number = |value: &Json| matches!(value, Json::Number(_) | Json::Bool(_));
                    let numbers = fields.iter().filter(|(_, value)| is_number(value));
                    self.item_numbers = numbers.map(|(name, _)| name.clone()).collect();
                }
            }
            Json::List(turns) => {
                self.turns += 1;
                self.weighted += turns.iter().filter(|turn| turn.get("weight").is_some()).count();
                self.answered += usize::from(is_answered(value));
            }
            Json::Object(_) if is_turn(value) => {
                self.turns += 1;
                self.answered += usize::from(is_answered(value));
            }
            Json::Number(_) => self.numbers += 1,
            Json::Bool(_) => self.flags += 1,
            Json::Null | Json::Object(_) => {}
        }
    }

    pub(super) fn has_turns(&self) -> bool {
        self.turns + self.spelled > 0
    }

    /// Whether it may be a prompt or a completion.
    pub(super) fn has_content(&self) -> bool {
        self.texts > 0 || self.has_turns()
    }

    /// In words.
    pub(super) fn kind(&self) -> String {
        let kinds = [
            (self.texts, "text"),
            (self.turns, "turns"),
            (self.spelled, "turns written as text"),
            (self.lists, "lists"),
            (self.numbers, "numbers"),
            (self.flags, "true or false"),
        ];
        let names: Vec<&str> = kinds.iter().filter(|(count, _)| *count > 0).map(|(_, kind)| *kind).collect();
        if names.is_empty() { "objects".into() } else { names.join(" and ") }
    }
}

/// Whether the last turn is the assistant's.
fn is_answered(turns: &Json) -> bool {
    let last = match turns {
        Json::List(turns) => turns.last(),
        turn => Some(turn),
    };
    let role = last.and_then(|turn| turn.get("role").or_else(|| turn.get("from"))).and_then(Json::as_str);
    matches!(role, Some("assistant" | "gpt" | "chatgpt" | "bot"))
}

/// The columns of rows that are objects, in their order.
pub(super) fn survey<'a>(rows: impl Iterator<Item = &'a Json>) -> IndexMap<String, ColumnSurvey> {
    let mut columns: IndexMap<String, ColumnSurvey> = IndexMap::new();
    for row in rows {
        let Json::Object(fields) = row else { continue };
        for (name, value) in fields {
            if !columns.contains_key(name) {
                columns.insert(name.clone(), ColumnSurvey::default());
            }
            columns[name].add(value);
        }
    }
    columns
}
