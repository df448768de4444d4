//! Prompts and completions: text, or the turns of a conversation as published sets write them.

use super::python_literal;
use crate::chat::{Conversation, Message};
use crate::json::Json;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

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

/// Roles that chat templates know.
const ROLES: [&str; 9] =
    ["system", "developer", "user", "assistant", "tool", "function", "ipython", "environment", "observation"];

/// The role that a name stands for; ShareGPT has names of its own.
fn role(name: &str, is_sharegpt: bool) -> Option<&str> {
    match name {
        "human" => Some("user"),
        "gpt" | "chatgpt" | "bot" => Some("assistant"),
        "observation" if is_sharegpt => Some("tool"),
        name if ROLES.contains(&name) => Some(name),
        _ => None,
    }
}

/// Text, a turn, or a list of turns; also turns that are written as text.
pub(super) fn content(value: &Json, name: &str) -> std::result::Result<Content, String> {
    match value {
        Json::Text(text) => match spelled_turns(text) {
            None => Ok(Content::Text(text.clone())),
            Some(Ok(turns)) => content(&turns, name),
            Some(Err(problem)) => Err(format!(
                "`{name}` begins as a list of turns does, but is none: {problem}; write such lists as JSON"
            )),
        },
        Json::Object(_) => match request_turns(value) {
            Some(turns) => content(turns, name),
            None => Ok(vec![message(value, name, 0)?].into()),
        },
        Json::List(turns) if turns.is_empty() => Err(format!("`{name}` has no turns")),
        Json::List(turns) => {
            let turns = turns.iter().enumerate().map(|(index, turn)| message(turn, name, index));
            Ok(turns.collect::<std::result::Result<Vec<_>, _>>()?.into())
        }
        other => Err(format!("`{name}` is {}, not text or a list of turns", other.type_name())),
    }
}

/// Whether a value is a turn: an object with a role.
pub(super) fn is_turn(value: &Json) -> bool {
    ["role", "from"].iter().any(|name| value.get(name).is_some_and(|role| role.as_str().is_some()))
}

/// The turns of an object as OpenAI's preference sets have it in `input`: `{"messages": […], "tools": […]}`.
pub(super) fn request_turns(value: &Json) -> Option<&Json> {
    let are_turns = |turns: &Json| matches!(turns, Json::List(turns) if turns.first().is_some_and(is_turn));
    value.get("messages").filter(|turns| !is_turn(value) && are_turns(turns))
}

/// Turns that are written as text: as JSON, or as Python prints them. `None` for all other text.
pub(super) fn spelled_turns(text: &str) -> Option<std::result::Result<Json, String>> {
    let text = text.trim();
    let list = text.strip_prefix("array(").unwrap_or(text);
    let turn = list.trim_start_matches(|c: char| c == '[' || c.is_whitespace()).strip_prefix('{')?.trim_start();
    let key = turn.strip_prefix(['\'', '"'])?;
    let names = ["role", "content", "from", "value"];
    if !names.iter().any(|name| key.strip_prefix(name).is_some_and(|rest| rest.starts_with(['\'', '"']))) {
        return None;
    }
    let quoted = |name: &str| ['\'', '"'].iter().any(|quote| list.contains(&format!("{quote}{name}{quote}")));
    if !text.ends_with(['}', ']', ')']) || !(quoted("role") || quoted("from")) {
        return None;
    }
    let value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(_) => match python_literal::parse(text) {
            Ok(value) => value,
            Err(problem) => return Some(Err(problem)),
        },
    };
    let are_turns = match &value {
        Json::List(turns) => !turns.is_empty() && turns.iter().all(is_turn),
        value => is_turn(value),
    };
    are_turns.then_some(Ok(value))
}

/// A list that is written as text, as JSON or as Python prints it, and is no list of turns.
pub(super) fn spelled_list(text: &str) -> Option<Json> {
    let text = text.trim();
    if !text.starts_with('[') || !text.ends_with(']') {
        return None;
    }
    let value = serde_json::from_str(text).ok().or_else(|| python_literal::parse(text).ok())?;
    matches!(&value, Json::List(items) if !items.first().is_some_and(is_turn)).then_some(value)
}

/// A value without fields that are null, at any depth: tables with a column of objects give every object the fields of all.
/// As TRL's `remove_none_values`.
pub(super) fn without_nulls(value: &Json) -> Json {
    match value {
        Json::List(items) => Json::List(items.iter().map(without_nulls).collect()),
        Json::Object(fields) => {
            let fields = fields.iter().filter(|(_, value)| **value != Json::Null);
            Json::Object(fields.map(|(name, value)| (name.clone(), without_nulls(value))).collect())
        }
        value => value.clone(),
    }
}

/// `{role, content}`, or ShareGPT's `{from, value}`. Other fields stay as they are; parts of text are joined.
fn message(value: &Json, name: &str, index: usize) -> std::result::Result<Message, String> {
    let turn = || format!("turn {} of `{name}`", index + 1);
    let Json::Object(fields) = value else { return Err(format!("{} is {}, not an object", turn(), value.type_name())) };
    let is_sharegpt = fields.get("role").and_then(Json::as_str).is_none();
    let mut message = IndexMap::new();
    for (name, value) in fields.iter().filter(|(_, value)| **value != Json::Null) {
        let name = match name.as_str() {
            "from" if is_sharegpt => "role",
            "value" if !fields.contains_key("content") => "content",
            name => name,
        };
        let value = match (name, value) {
            ("content", Json::List(parts)) => Json::Text(joined(parts, &turn())?),
            (_, value) => without_nulls(value),
        };
        message.insert(name.to_owned(), value);
    }
    match message.get_mut("role") {
        Some(Json::Text(name)) => match role(name, is_sharegpt) {
            Some(role) => *name = role.to_owned(),
            None => {
                let accepted = format!("{}, and ShareGPT's human and gpt", ROLES.join(", "));
                return Err(format!("{} has the role `{name}`; accepted: {accepted}", turn()));
            }
        },
        _ => return Err(format!("{} has no `role`", turn())),
    }
    if !matches!(message.get("content"), Some(Json::Text(_))) && !message.contains_key("tool_calls") {
        return Err(format!("{} has no `content` that is text", turn()));
    }
    Ok(Message::from_fields(message))
}

/// The text of a content that comes in parts.
fn joined(parts: &[Json], turn: &str) -> std::result::Result<String, String> {
    let part = |part: &Json| -> std::result::Result<String, String> {
        let kind = part.get("type").and_then(Json::as_str).unwrap_or("text");
        match part {
            Json::Text(text) => Ok(text.clone()),
            Json::Object(_) if kind != "text" => {
                Err(format!("{turn} has a part of the type `{kind}`; only parts of `text` are read"))
            }
            part => match part.get("text") {
                Some(Json::Text(text)) => Ok(text.clone()),
                _ => Err(format!("{turn} has a part without `text`")),
            },
        }
    };
    parts.iter().map(part).collect()
}

/// Descriptions of functions: a list of objects, or its JSON.
pub(super) fn tools(value: &Json, name: &str) -> std::result::Result<Option<Json>, String> {
    let parsed = |text: &str| match serde_json::from_str(text).map_err(|e| e.to_string()) {
        Ok(value) => Ok(value),
        Err(problem) => {
            python_literal::parse(text).map_err(|_| format!("`{name}` is text that is not JSON: {problem}"))
        }
    };
    let value = match value {
        Json::Text(text) if text.trim().is_empty() => return Ok(None),
        Json::Text(text) => parsed(text)?,
        value => without_nulls(value),
    };
    let items = match &value {
        Json::Null => return Ok(None),
        Json::List(items) => items.as_slice(),
        one @ Json::Object(_) => std::slice::from_ref(one),
        other => return Err(format!("`{name}` is {}, not a list of functions", other.type_name())),
    };
    let tool = |(index, item): (usize, &Json)| match item {
        Json::Object(_) => Ok(item.clone()),
        Json::Text(text) => match parsed(text)? {
            tool @ Json::Object(_) => Ok(tool),
            other => Err(format!("tool {} of `{name}` is {}, not an object", index + 1, other.type_name())),
        },
        other => Err(format!("tool {} of `{name}` is {}, not an object", index + 1, other.type_name())),
    };
    let tools = items.iter().enumerate().map(tool).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok((!tools.is_empty()).then_some(Json::List(tools)))
}

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// Whether text is a conversation as Anthropic's HH set writes it.
pub(super) fn has_speakers(text: &str) -> bool {
    (text.starts_with(HUMAN) || text.starts_with(&HUMAN[2..])) && text.contains(ASSISTANT)
}

/// The bytes of a text up to its last answer's beginning.
pub(super) fn before_last_answer(text: &str) -> Option<usize> {
    text.rfind(ASSISTANT).map(|start| start + ASSISTANT.len())
}

/// Text with speakers as turns: `Human: …`, `Assistant: …`. An answer that has not begun is no turn.
pub(super) fn spoken_turns(text: &str) -> Vec<Message> {
    let mut turns = vec![];
    let mut rest = text;
    let mut role = "assistant"; // a completion begins in the middle of an answer
    loop {
        let next = [(HUMAN, "user"), (ASSISTANT, "assistant")]
            .into_iter()
            .filter_map(|(mark, role)| rest.find(mark).map(|start| (start, mark.len(), role)))
            .min();
        let end = next.map_or(rest.len(), |(start, ..)| start);
        let content = rest[..end].trim();
        if !content.is_empty() {
            turns.push(Message::new(role, content));
        }
        let Some((start, length, next_role)) = next else { return turns };
        (rest, role) = (&rest[start + length..], next_role);
    }
}
