//! One row: a preference pair, a labelled completion or a prompt, in the dataset formats of TRL.

use crate::chat::{Conversation, Message};
use crate::json::Json;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// The line of a row, or its number in a parquet file, and the row or what is wrong with it.
pub type NumberedRecord<T> = (usize, std::result::Result<T, String>);

/// A number, or text that is one.
fn to_number(value: &Json) -> Option<f64> {
    let x = match value {
        Json::Number(number) => number.as_f64(),
        value => value.as_str()?.trim().parse().ok(),
    };
    x.filter(|x| x.is_finite())
}

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

/// A prompt or a completion: plain text, or the turns of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    Text(String),
    Conversation(Conversation),
}

impl From<Vec<Message>> for Content {
    fn from(turns: Vec<Message>) -> Self {
        Self::Conversation(turns.into())
    }
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

/// The column names of a row's parts.
#[derive(Debug, Clone)]
pub struct Columns {
    pub prompt: String,
    pub chosen: String,
    pub rejected: String,
}

impl Record {
    /// Reads the records of a row.
    ///
    /// # Errors
    /// In words, what is missing or of the wrong type.
    pub fn read(row: &Json, columns: &Columns) -> std::result::Result<Vec<Self>, String> {
        let Json::Object(row) = row else { return Err(format!("a row is an object, not {}", row.type_name())) };
        let row = RowFields(row);
        let prompt = match row.content(&columns.prompt)? {
            Some(prompt) => Some(prompt),
            None => row.content("conversations")?, // ShareGPT
        };
        let record = match (row.content(&columns.chosen)?, row.content(&columns.rejected)?) {
            (Some(chosen), Some(rejected)) => row.pair(prompt, chosen, rejected),
            (None, None) => row.single(prompt, columns),
            (Some(_), None) => Err(format!("`{}` is missing", columns.rejected)),
            (None, Some(_)) => Err(format!("`{}` is missing", columns.chosen)),
        };
        Ok(vec![record?])
    }
}

/// The fields of a row.
struct RowFields<'a>(&'a IndexMap<String, Json>);

impl RowFields<'_> {
    fn get(&self, name: &str) -> Option<&Json> {
        self.0.get(name).filter(|value| **value != Json::Null)
    }

    fn content(&self, name: &str) -> std::result::Result<Option<Content>, String> {
        self.get(name).map(|value| content(value, name)).transpose()
    }

    fn number(&self, name: &str) -> std::result::Result<Option<f64>, String> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = to_number(value).ok_or_else(|| format!("`{name}` is {}, not a number", value.type_name()))?;
        Ok(Some(number))
    }

    fn pair(&self, prompt: Option<Content>, chosen: Content, rejected: Content) -> std::result::Result<Record, String> {
        let (prompt, chosen, rejected) = match prompt {
            Some(prompt) => (prompt, chosen, rejected),
            None => implicit_prompt(chosen, rejected)?,
        };
        let scores = match (self.number("score_chosen")?, self.number("score_rejected")?) {
            (Some(chosen), Some(rejected)) => Some([chosen, rejected]),
            (None, None) => None,
            _ => return Err("`score_chosen` and `score_rejected` must be given together".into()),
        };
        Ok(Record::Pair { prompt, chosen, rejected, margin: self.number("margin")?, scores })
    }

    /// A row with one completion, or a prompt alone.
    fn single(&self, prompt: Option<Content>, columns: &Columns) -> std::result::Result<Record, String> {
        let desirable = match (self.get("label"), self.get("completion")) {
            (_, None) => None, // a label of something else
            (Some(label), Some(_)) => match to_flag(label) {
                None => return Err(format!("`label` is {}, not true or false", label.type_name())),
                desirable => desirable,
            },
            (None, Some(_)) => return Err("`completion` without `label`: is it wanted or not?".into()),
        };
        match (prompt, self.content("completion")?, desirable) {
            (Some(prompt), Some(completion), Some(desirable)) => Ok(Record::Judged { prompt, completion, desirable }),
            (Some(prompt), ..) => Ok(Record::Prompt { prompt }),
            (None, Some(_), _) => Err(format!("`{}` is missing", columns.prompt)),
            (None, None, _) => {
                let mut names: Vec<&str> = self.0.keys().map(String::as_str).collect();
                names.sort_unstable();
                Err(format!(
                    "expected `{}` and `{}`, or `{}`, found {}",
                    columns.chosen,
                    columns.rejected,
                    columns.prompt,
                    if names.is_empty() { "no columns".into() } else { format!("only {}", names.join(", ")) }
                ))
            }
        }
    }
}

/// Text, a turn, or a list of turns.
fn content(value: &Json, name: &str) -> std::result::Result<Content, String> {
    match value {
        Json::Text(text) => Ok(Content::Text(text.clone())),
        Json::Object(_) => Ok(vec![message(value, name, 0)?].into()),
        Json::List(turns) if turns.is_empty() => Err(format!("`{name}` has no turns")),
        Json::List(turns) => {
            let turns = turns.iter().enumerate().map(|(index, turn)| message(turn, name, index));
            Ok(turns.collect::<std::result::Result<Vec<_>, _>>()?.into())
        }
        other => Err(format!("`{name}` is {}, not text or a list of turns", other.type_name())),
    }
}

/// `{role, content}`, or ShareGPT's `{from, value}`. Other fields stay as they are; those that are null are left out, since
/// tables with a column of turns give every turn the fields of all.
fn message(value: &Json, name: &str, index: usize) -> std::result::Result<Message, String> {
    let turn = || format!("turn {} of `{name}`", index + 1);
    let Json::Object(fields) = value else { return Err(format!("{} has no `role`", turn())) };
    let is_plain = fields.get("role").and_then(Json::as_str).is_some();
    let mut message = IndexMap::new();
    for (name, value) in fields.iter().filter(|(_, value)| **value != Json::Null) {
        let (name, value) = match (name.as_str(), value) {
            ("from", Json::Text(role)) if !is_plain => ("role", role.clone().into()),
            ("value", value) if !fields.contains_key("content") => ("content", value.clone()),
            (name, value) => (name, value.clone()),
        };
        message.insert(name.to_owned(), value);
    }
    match message.get_mut("role") {
        Some(Json::Text(role)) => match role.as_str() {
            "human" => *role = "user".into(),
            "gpt" => *role = "assistant".into(),
            _ => {}
        },
        _ => return Err(format!("{} has no `role`", turn())),
    }
    let says = message.get("content").is_some_and(|content| matches!(content, Json::Text(_) | Json::List(_)));
    if !says && !message.contains_key("tool_calls") {
        return Err(format!("{} has no `content` that is text", turn()));
    }
    Ok(Message::from_fields(message))
}

/// The prompt that both completions begin with. TRL's implicit prompts.
fn implicit_prompt(chosen: Content, rejected: Content) -> std::result::Result<(Content, Content, Content), String> {
    match (chosen, rejected) {
        (Content::Conversation(chosen), Content::Conversation(rejected)) => {
            let (chosen, rejected) = (chosen.turns, rejected.turns);
            let same = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            // both end with the assistant's turn, even where they are the same
            let cut = same.min(chosen.len().min(rejected.len()).saturating_sub(1));
            if cut == 0 {
                return Err("there is no `prompt`, and `chosen` and `rejected` have no common beginning".into());
            }
            let rest = |turns: &[Message]| Content::from(turns[cut..].to_vec());
            Ok((chosen[..cut].to_vec().into(), rest(&chosen), rest(&rejected)))
        }
        (Content::Text(chosen), Content::Text(rejected)) => {
            let same: usize =
                chosen.chars().zip(rejected.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
            // the space before a word belongs to the word
            let cut = chosen[..same].trim_end().len();
            if cut == 0 {
                return Err("there is no `prompt`, and `chosen` and `rejected` have no common beginning".into());
            }
            let rest = |text: &str| Content::Text(text[cut..].to_owned());
            Ok((Content::Text(chosen[..cut].to_owned()), rest(&chosen), rest(&rejected)))
        }
        _ => Err("one of `chosen` and `rejected` is text and the other a list of turns".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn columns() -> Columns {
        let [prompt, chosen, rejected] = ["prompt", "chosen", "rejected"].map(str::to_owned);
        Columns { prompt, chosen, rejected }
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
            assert_eq!(Record::read(&row.clone().into(), &columns()), Ok(vec![expected]), "{row}");
        }
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let cases = [
            (json!([1]), "a row is an object, not a list"),
            (json!({}), "expected `chosen` and `rejected`, or `prompt`, found no columns"),
            (json!({"prompt": "a", "chosen": "b"}), "`rejected` is missing"),
            (json!({"prompt": "a", "chosen": 1, "rejected": "c"}), "`chosen` is a number, not text or a list of turns"),
            (json!({"prompt": [], "chosen": "b", "rejected": "c"}), "`prompt` has no turns"),
            (json!({"prompt": [{"content": "a"}], "chosen": "b", "rejected": "c"}), "turn 1 of `prompt` has no `role`"),
            (
                json!({"chosen": "b", "rejected": "c"}),
                "there is no `prompt`, and `chosen` and `rejected` have no common beginning",
            ),
            (json!({"prompt": "a", "completion": "b"}), "`completion` without `label`: is it wanted or not?"),
            (json!({"prompt": "a", "completion": "b", "label": "yes"}), "`label` is text, not true or false"),
            (json!({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}), "`margin` is text, not a number"),
            (
                json!({"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 1}),
                "`score_chosen` and `score_rejected` must be given together",
            ),
        ];
        for (row, expected) in cases {
            assert_eq!(Record::read(&row.clone().into(), &columns()), Err(expected.to_owned()), "{row}");
        }
    }
}
