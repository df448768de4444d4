//! One row: preference pairs, a labelled completion or a prompt, in the shapes of published sets.

use super::assemble::{Named, PromptParts, assemble};
use super::columns::{counts_from_either, is_rank};
use super::finder::RowShape;
use super::number::{displayed, to_number};
use super::numbered::NumberedRecord;
use super::plan::ColumnPlan;
use super::preference::PreferenceCoding;
use super::ranked::{self, MAX_COMPLETIONS, Order, RowGroup};
use super::turns::{Content, content, is_turn, request_turns, spelled_list, tools};
use crate::json::Json;
use duel_spec::ColumnRole as Role;
use indexmap::IndexMap;

/// A boolean, 0 or 1, or text that is one of these.
fn to_flag(value: &Json) -> Option<bool> {
    if let Json::Bool(flag) = value {
        return Some(*flag);
    }
    let parsed = value.as_str().and_then(|text| text.trim().to_lowercase().parse().ok());
    let from_number = || match to_number(value)? {
        0.0 => Some(false),
        1.0 => Some(true),
        _ => None,
    };
    parsed.or_else(from_number)
}

/// A row in one of the supported formats.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// Two completions of one prompt; the first was preferred.
    Pair {
        prompt: Content,
        chosen: Content,
        rejected: Content,
        /// The margin in log-odds, where the row has one.
        margin: Option<f64>,
        /// Scores of both completions.
        scores: Option<[f64; 2]>,
    },
    /// One completion, and whether it is desirable.
    Judged { prompt: Content, completion: Content, desirable: bool },
    /// A prompt alone.
    Prompt { prompt: Content },
}

impl Record {
    /// The prompt.
    pub fn prompt(&self) -> &Content {
        let (Self::Pair { prompt, .. } | Self::Judged { prompt, .. } | Self::Prompt { prompt }) = self;
        prompt
    }

    /// The completions with their names.
    pub fn completions(&self) -> Vec<(&'static str, &Content)> {
        match self {
            Self::Pair { chosen, rejected, .. } => vec![("chosen", chosen), ("rejected", rejected)],
            Self::Judged { completion, .. } => vec![("completion", completion)],
            Self::Prompt { .. } => vec![],
        }
    }

    /// The prompt and the completions with their names.
    pub fn parts(&self) -> Vec<(&'static str, &Content)> {
        [vec![("prompt", self.prompt())], self.completions()].concat()
    }

    /// Reads the records of a row by itself.
    ///
    /// # Errors
    /// In words, what is missing or of the wrong type.
    pub(super) fn read(row: &Json, plan: &ColumnPlan) -> std::result::Result<Vec<Self>, String> {
        let row = RowFields::new(row, plan)?;
        match plan.shape {
            RowShape::Columns => row.columns().map(|record| vec![record]),
            RowShape::LabelledAnswer => row.labelled_answer().map(|record| vec![record]),
            RowShape::Ranked => row.ranked(),
            RowShape::Preference(coding) => row.preference(coding).map(|record| vec![record]),
            RowShape::Scored => Err("it is the only completion of its prompt among the rows before and after it: sort the file by its prompts if there are others; completion = \"none\" uses the prompts alone".into()),
        }
    }

    /// Reads rows of one prompt together: each stays with its line, and the last one has the records.
    pub(super) fn read_group(rows: &RowGroup, plan: &ColumnPlan) -> Vec<NumberedRecord<Vec<Self>>> {
        let read = |(line, row): &NumberedRecord<Json>| {
            let records = row.as_ref().map_err(String::clone).and_then(|row| Self::read(row, plan));
            (*line, records)
        };
        if rows.len() == 1 {
            return rows.iter().map(read).collect();
        }
        let read_fields = |(_, row): &NumberedRecord<Json>| -> std::result::Result<(Named, f64), String> {
            let row = RowFields::new(row.as_ref().map_err(String::clone)?, plan)?;
            Ok((row.named(Role::Completion)?, row.number_of(Role::Score)?))
        };
        let completions: Vec<_> = rows.iter().map(read_fields).collect();
        let (mut named, mut scores) = (vec![], vec![]);
        for (completion, score) in completions.iter().flatten().cloned() {
            named.push(completion);
            scores.push(score);
        }
        let first = rows.iter().find_map(|(_, row)| row.as_ref().ok());
        let records = first.map_or(Ok(vec![]), |row| RowFields::new(row, plan)?.pairs(&named, &Order::Scores(scores)));
        let mut records = Some(records);
        let last = completions.iter().rposition(std::result::Result::is_ok);
        let numbered = completions.into_iter().enumerate().map(|(index, completion)| {
            let is_last = Some(index) == last;
            let made = completion.and_then(|_| if is_last { records.take().unwrap_or(Ok(vec![])) } else { Ok(vec![]) });
            (rows[index].0, made)
        });
        numbered.collect()
    }
}

/// The fields of a row, and what each is for.
struct RowFields<'a> {
    fields: &'a IndexMap<String, Json>,
    plan: &'a ColumnPlan,
}

impl<'a> RowFields<'a> {
    fn new(row: &'a Json, plan: &'a ColumnPlan) -> std::result::Result<Self, String> {
        let Json::Object(fields) = row else {
            let is_file = matches!(row, Json::List(items) if matches!(items.first(), Some(Json::Object(_))));
            let hint = if is_file { ": a file that is one list of rows ends in .json" } else { "" };
            return Err(format!("a row is an object, not {}{hint}", row.type_name()));
        };
        match plan.late_column(fields) {
            Some((name, role)) => Err(format!(
                "`{name}` is not among the columns of the first {} rows, by which the file is read: \
                 give it there too, as null, or name it: [world.rows] {role} = \"{name}\"",
                plan.rows
            )),
            None => Ok(Self { fields, plan }),
        }
    }

    /// The column of a role, and its value where it has one.
    fn get(&self, role: Role) -> Option<(&'a str, &'a Json)> {
        let name = self.plan.name(role)?;
        self.fields.get(name).filter(|value| **value != Json::Null).map(|value| (name, value))
    }

    /// What a role is called in messages.
    fn name(&self, role: Role) -> &'a str {
        self.plan.name(role).unwrap_or(role.key())
    }

    fn content(&self, role: Role) -> std::result::Result<Option<Content>, String> {
        self.get(role).map(|(name, value)| content(value, name)).transpose()
    }

    fn named(&self, role: Role) -> std::result::Result<Named, String> {
        let name = self.name(role);
        let content = self.content(role)?.ok_or_else(|| format!("`{name}` is missing"))?;
        Ok((name.to_owned(), content))
    }

    fn text(&self, role: Role) -> std::result::Result<Option<String>, String> {
        match self.get(role) {
            None => Ok(None),
            Some((_, Json::Text(text))) => Ok(Some(text.clone())),
            Some((name, other)) => Err(format!("`{name}` is {}, not text", other.type_name())),
        }
    }

    fn number(&self, role: Role) -> std::result::Result<Option<f64>, String> {
        let Some((name, value)) = self.get(role) else { return Ok(None) };
        let number = to_number(value).ok_or_else(|| format!("`{name}` is {}, not a number", displayed(value)))?;
        Ok(Some(number))
    }

    fn number_of(&self, role: Role) -> std::result::Result<f64, String> {
        self.number(role)?.ok_or_else(|| format!("`{}` is missing", self.name(role)))
    }

    /// What stands before the completions.
    fn prompt_parts(&self) -> std::result::Result<PromptParts, String> {
        // of an object with turns, the tools beside them
        let in_prompt = || {
            let (name, value) = self.get(Role::Prompt)?;
            request_turns(value).and(value.get("tools")).map(|tools| (name, tools))
        };
        Ok(PromptParts {
            prompt: self.content(Role::Prompt)?,
            input: self.text(Role::Input)?,
            system: self.text(Role::System)?,
            tools: self.get(Role::Tools).or_else(in_prompt).map_or(Ok(None), |(name, value)| tools(value, name))?,
            is_chat: self.plan.is_chat,
        })
    }

    /// The same where the plan has a column of prompts, which no row may then lack.
    fn needed_prompt(&self) -> std::result::Result<PromptParts, String> {
        let parts = self.prompt_parts()?;
        match parts.prompt {
            None => Err(format!("`{}` is missing", self.name(Role::Prompt))),
            Some(_) => Ok(parts),
        }
    }

    /// The same of a pair. With a column of prompts, a row without one is no row with an implicit prompt.
    fn pair_parts(&self) -> std::result::Result<PromptParts, String> {
        if self.plan.name(Role::Prompt).is_some() { self.needed_prompt() } else { self.prompt_parts() }
    }

    /// A pair, one completion with its label, or a prompt alone, by the columns that the row has.
    fn columns(&self) -> std::result::Result<Record, String> {
        let has = |role| self.get(role).is_some();
        match (has(Role::Chosen), has(Role::Rejected)) {
            (true, true) => self.pair(),
            (true, false) => Err(format!("`{}` is missing", self.name(Role::Rejected))),
            (false, true) => Err(format!("`{}` is missing", self.name(Role::Chosen))),
            (false, false) if has(Role::Completion) => self.judged(),
            (false, false) if has(Role::Prompt) => self.prompt_alone(),
            (false, false) => {
                let mut names: Vec<&str> = self.fields.keys().map(String::as_str).collect();
                names.sort_unstable();
                Err(format!(
                    "expected `{}` and `{}`, or `{}`, found {}",
                    self.name(Role::Chosen),
                    self.name(Role::Rejected),
                    self.name(Role::Prompt),
                    if names.is_empty() { "no columns".into() } else { format!("only {}", names.join(", ")) }
                ))
            }
        }
    }

    fn pair(&self) -> std::result::Result<Record, String> {
        let parts = self.pair_parts()?;
        let scores = match (self.number(Role::ScoreChosen)?, self.number(Role::ScoreRejected)?) {
            (Some(chosen), Some(rejected)) => Some([chosen, rejected]),
            (None, None) => None,
            _ => {
                let [chosen, rejected] = [Role::ScoreChosen, Role::ScoreRejected].map(|role| self.name(role));
                return Err(format!("`{chosen}` and `{rejected}` must be given together"));
            }
        };
        let margin = self.number(Role::Margin)?;
        pair(parts, [self.named(Role::Chosen)?, self.named(Role::Rejected)?], margin, scores)
    }

    fn judged(&self) -> std::result::Result<Record, String> {
        let completion = self.named(Role::Completion)?;
        let desirable = self.label()?.ok_or_else(|| {
            let label = self.name(Role::Label);
            format!("`{}` without `{label}`: is it wanted or not?", completion.0)
        })?;
        judged(self.needed_prompt()?, completion, desirable)
    }

    fn label(&self) -> std::result::Result<Option<bool>, String> {
        let Some((name, value)) = self.get(Role::Label) else { return Ok(None) };
        let flag =
            to_flag(value).ok_or_else(|| format!("`{name}` is {}; accepted: true, false, 1, 0", displayed(value)))?;
        Ok(Some(flag))
    }

    fn prompt_alone(&self) -> std::result::Result<Record, String> {
        let mut parts = self.needed_prompt()?;
        if let (true, Some(Content::Conversation(conversation))) = (self.plan.drops_answer, &mut parts.prompt) {
            let turns = &mut conversation.turns;
            let end = turns.iter().rposition(|turn| turn.role() == "user").map_or(0, |index| index + 1);
            if end == 0 {
                return Err(format!("`{}` has no turn of the user", self.name(Role::Prompt)));
            }
            turns.truncate(end);
        }
        let (prompt, _) = assemble(parts, vec![])?;
        Ok(Record::Prompt { prompt })
    }

    /// A conversation whose last answer, from the assistant's last turn behind the user's on, is the completion.
    fn labelled_answer(&self) -> std::result::Result<Record, String> {
        let mut parts = self.needed_prompt()?;
        let name = self.name(Role::Prompt);
        let Some(Content::Conversation(conversation)) = &mut parts.prompt else {
            return Err(format!("`{name}` is text, not a conversation with an answer"));
        };
        let turns = &mut conversation.turns;
        let end = turns.iter().rposition(|turn| turn.role() != "assistant").map_or(0, |index| index + 1);
        let answer = turns.split_off(end);
        if answer.is_empty() || turns.is_empty() {
            return Err(format!("`{name}` does not end with an answer of the assistant"));
        }
        let label = self.label()?.ok_or_else(|| format!("`{}` is missing", self.name(Role::Label)))?;
        judged(parts, (name.to_owned(), answer.into()), label)
    }

    /// Two completions, of which a number, an index, a name or their scores say the better.
    fn preference(&self, coding: PreferenceCoding) -> std::result::Result<Record, String> {
        let [first, second] = [self.named(Role::First)?, self.named(Role::Second)?];
        if coding == PreferenceCoding::Scores {
            let [of_first, of_second] = [self.number_of(Role::ScoreChosen)?, self.number_of(Role::ScoreRejected)?];
            let is_second = of_second > of_first;
            let scores = if is_second { [of_second, of_first] } else { [of_first, of_second] };
            let both = if is_second { [second, first] } else { [first, second] };
            return pair(self.pair_parts()?, both, None, Some(scores));
        }
        let (name, value) =
            self.get(Role::Preference).ok_or_else(|| format!("`{}` is missing", self.name(Role::Preference)))?;
        let preferred = coding.read(name, value)?;
        let both = if preferred.is_second { [second, first] } else { [first, second] };
        pair(self.pair_parts()?, both, preferred.margin, None)
    }

    /// Several completions of the row's prompt.
    fn ranked(&self) -> std::result::Result<Vec<Record>, String> {
        let (name, value) =
            self.get(Role::Completions).ok_or_else(|| format!("`{}` is missing", self.name(Role::Completions)))?;
        let spelled = value.as_str().and_then(spelled_list);
        let Json::List(items) = spelled.as_ref().unwrap_or(value) else {
            return Err(format!("`{name}` is {}, not a list of completions", value.type_name()));
        };
        if !(2..=MAX_COMPLETIONS).contains(&items.len()) {
            return Err(format!("`{name}` has {} completions; 2 to {MAX_COMPLETIONS} are compared", items.len()));
        }
        let named = items.iter().enumerate().map(|(index, item)| {
            let name = format!("{name}[{index}]");
            let completion = completion_of(item, &name)?;
            Ok((name, completion))
        });
        let named = named.collect::<std::result::Result<Vec<Named>, String>>()?;
        self.pairs(&named, &self.order(name, items)?)
    }

    /// What orders the completions of a list: a field of each, or a list beside them.
    fn order(&self, name: &str, items: &[Json]) -> std::result::Result<Order, String> {
        let Some(score) = self.plan.name(Role::Score) else { return Ok(Order::Position) };
        let beside = self.fields.get(score);
        let spelled = beside.and_then(Json::as_str).and_then(spelled_list);
        let values: Vec<Option<&Json>> = match spelled.as_ref().or(beside) {
            Some(Json::List(scores)) if scores.len() == items.len() => scores.iter().map(Some).collect(),
            Some(Json::List(scores)) => {
                return Err(format!("`{score}` has {} values for the {} of `{name}`", scores.len(), items.len()));
            }
            _ => items.iter().map(|item| item.get(score)).collect(),
        };
        let number = |(index, value): (usize, &Option<&Json>)| {
            let problem = |found: String| format!("`{score}` of `{name}[{index}]` is {found}, not a number");
            let found = value.map_or_else(|| "missing".into(), displayed);
            value.and_then(to_number).ok_or_else(|| problem(found))
        };
        let values: Vec<f64> = values.iter().enumerate().map(number).collect::<std::result::Result<_, String>>()?;
        if !self.plan.score_is_set && counts_from_either(score) && is_order(&values) {
            return Err(format!(
                "`{score}` counts from 0: it may have the rank of each completion, or their indices in order; \
                 score = \"{score}\" takes it for ranks"
            ));
        }
        Ok(if is_rank(score) { Order::Ranks(values) } else { Order::Scores(values) })
    }

    /// The pairs of completions.
    fn pairs(&self, completions: &[Named], order: &Order) -> std::result::Result<Vec<Record>, String> {
        let pairs = ranked::pairs(order, completions.len(), self.plan.pairs_per_prompt);
        let record = |[better, worse]: [usize; 2]| {
            let scores = match order {
                Order::Scores(scores) => Some([scores[better], scores[worse]]),
                Order::Position => None,
                // a tie
                Order::Ranks(ranks) => (ranks[better] == ranks[worse]).then_some([0.0, 0.0]),
            };
            pair(self.needed_prompt()?, [completions[better].clone(), completions[worse].clone()], None, scores)
        };
        pairs.into_iter().map(record).collect()
    }
}

/// Whether these are the numbers from 0 on, in an order by which a list of ranks and a list of indices differ.
fn is_order(values: &[f64]) -> bool {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let counts = sorted.iter().zip(0u32..).all(|(value, index)| *value == f64::from(index));
    // a permutation that is its own inverse means the same either way
    counts && !values.iter().zip(0u32..).all(|(value, index)| values[*value as usize] == f64::from(index))
}

fn pair(
    parts: PromptParts,
    completions: [Named; 2],
    margin: Option<f64>,
    scores: Option<[f64; 2]>,
) -> std::result::Result<Record, String> {
    let (prompt, completions) = assemble(parts, completions.into())?;
    let [chosen, rejected] = <[Content; 2]>::try_from(completions).map_err(|_| "two completions".to_owned())?;
    Ok(Record::Pair { prompt, chosen, rejected, margin, scores })
}

fn judged(parts: PromptParts, completion: Named, desirable: bool) -> std::result::Result<Record, String> {
    let (prompt, completions) = assemble(parts, vec![completion])?;
    let [completion] = <[Content; 1]>::try_from(completions).map_err(|_| "one completion".to_owned())?;
    Ok(Record::Judged { prompt, completion, desirable })
}

/// The text of a completion among several: itself, its turns, or a field of it.
fn completion_of(item: &Json, name: &str) -> std::result::Result<Content, String> {
    const FIELDS: [&str; 8] =
        ["response", "completion", "text", "answer", "content", "output", "generation", "messages"];
    match item {
        Json::Object(fields) if !is_turn(item) => {
            let field = FIELDS.iter().find_map(|field| fields.get(*field).filter(|value| **value != Json::Null));
            content(field.ok_or_else(|| format!("`{name}` has none of the fields {}", FIELDS.join(", ")))?, name)
        }
        item => content(item, name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::columns::Columns;
    use super::*;
    use crate::chat::Message;
    use serde_json::json;

    /// A file of one row.
    fn read(row: &serde_json::Value) -> std::result::Result<Vec<Record>, String> {
        let row = row.clone().into();
        let plan = ColumnPlan::new(std::iter::once(&row), &Columns::default()).map_err(|e| e.problem)?;
        Record::read(&row, &plan)
    }

    fn text(text: &str) -> Content {
        Content::Text(text.into())
    }

    fn turns(turns: &[(&str, &str)]) -> Content {
        turns.iter().map(|(role, content)| Message::new(role, content)).collect::<Vec<_>>().into()
    }

    /// TRL's dataset formats, one by one.
    #[test]
    fn every_format_is_read() {
        let pair = |prompt, chosen, rejected| Record::Pair { prompt, chosen, rejected, margin: None, scores: None };
        let user = ("user", "What color is the sky?");
        let (blue, green) = (("assistant", "It is blue."), ("assistant", "It is green."));
        let cases = [
            (
                json!({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."}),
                pair(text("The sky is"), text(" blue."), text(" green.")),
            ),
            (
                json!({"chosen": "The sky is blue.", "rejected": "The sky is green."}),
                pair(text("The sky is"), text(" blue."), text(" green.")),
            ),
            (
                json!({"prompt": [{"role": "user", "content": user.1}], "chosen": [{"role": "assistant", "content": blue.1}],
                    "rejected": [{"role": "assistant", "content": green.1}]}),
                pair(turns(&[user]), turns(&[blue]), turns(&[green])),
            ),
            (
                json!({"chosen": [{"role": "user", "content": user.1}, {"role": "assistant", "content": blue.1}],
                    "rejected": [{"role": "user", "content": user.1}, {"role": "assistant", "content": green.1}]}),
                pair(turns(&[user]), turns(&[blue]), turns(&[green])),
            ),
            (
                json!({"conversations": [{"from": "human", "value": user.1}], "chosen": {"from": "gpt", "value": blue.1},
                    "rejected": {"from": "gpt", "value": green.1}}),
                pair(turns(&[user]), turns(&[blue]), turns(&[green])),
            ),
            (
                json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": 0.5, "score_chosen": 2, "score_rejected": -1.0}),
                Record::Pair {
                    prompt: text("a"),
                    chosen: text("b"),
                    rejected: text("c"),
                    margin: Some(0.5),
                    scores: Some([2.0, -1.0]),
                },
            ),
            (
                json!({"prompt": "a", "completion": "b", "label": false}),
                Record::Judged { prompt: text("a"), completion: text("b"), desirable: false },
            ),
            (json!({"prompt": "a", "label": 1}), Record::Prompt { prompt: text("a") }),
        ];
        for (row, expected) in cases {
            assert_eq!(read(&row), Ok(vec![expected]), "{row}");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let cases = [
            (json!([1]), "a row is an object, not a list"),
            (json!({}), "expected `chosen` and `rejected`, or `prompt`, found no columns"),
            (json!({"prompt": "a", "chosen": "b", "rejected": null}), "`rejected` is missing"),
            (json!({"prompt": "a", "chosen": 1, "rejected": "c"}), "`chosen` is a number, not text or a list of turns"),
            (json!({"prompt": [], "chosen": "b", "rejected": "c"}), "`prompt` has no turns"),
            (json!({"prompt": [{"content": "a"}], "chosen": "b", "rejected": "c"}), "turn 1 of `prompt` has no `role`"),
            (
                json!({"chosen": "b", "rejected": "c"}),
                "there is no `prompt`, and `chosen` and `rejected` have no common beginning",
            ),
            (json!({"prompt": "a", "completion": "b"}), "`completion` without `label`: is it wanted or not?"),
            (
                json!({"prompt": "a", "completion": "b", "label": "yes"}),
                "`label` is `yes`; accepted: true, false, 1, 0",
            ),
            (json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}), "`margin` is `x`, not a number"),
            (
                json!({"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 1}),
                "`score_chosen` and `score_rejected` must be given together",
            ),
        ];
        for (row, expected) in cases {
            assert_eq!(read(&row), Err(expected.to_owned()), "{row}");
        }
    }
}
