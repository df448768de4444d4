//! A file of rows, and its records in short.

use duel_data::Json;
use duel_data::records::{self, Columns, Content, Record};
use duel_spec::ColumnRole;
use std::path::PathBuf;

/// A file of rows.
pub(crate) struct RowFile {
    pub(crate) path: PathBuf,
    _folder: tempfile::TempDir,
}

impl RowFile {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Self { path, _folder: folder }
    }

    /// Each row with its line: its records in short, or what is wrong with it.
    pub(crate) fn rows(&self, columns: &Columns) -> Vec<String> {
        let rows = records::read(&self.path, columns, |_| ()).unwrap();
        let short = |(line, row): (usize, Result<Vec<(Record, ())>, String>)| match row {
            Ok(records) => records.iter().map(|(record, ())| format!("{line}: {}", record_text(record))).collect(),
            Err(problem) => vec![format!("{line}! {problem}")],
        };
        rows.flat_map(short).collect()
    }

    pub(crate) fn plan(&self, columns: &Columns) -> String {
        records::plan(&self.path, columns).unwrap().to_string()
    }

    /// The error of the columns, and its hint.
    pub(crate) fn refusal(&self, columns: &Columns) -> String {
        let error = records::plan(&self.path, columns).unwrap_err();
        let problem = error.to_string();
        let problem = problem.split_once("`: ").unwrap().1.to_owned();
        format!("{problem}. {}", error.hint().unwrap_or_default())
    }
}

pub(crate) fn content_text(content: &Content) -> String {
    match content {
        Content::Text(text) => format!("{text:?}"),
        Content::Conversation(conversation) => {
            let calls = |turn: &duel_data::chat::Message| turn.fields().contains_key("tool_calls");
            let turns = conversation.turns.iter();
            let turns =
                turns.map(|turn| format!("{}={}{}", turn.role(), turn.text(), if calls(turn) { "()" } else { "" }));
            let tools = match &conversation.tools {
                Some(Json::List(tools)) => format!("{} tools;", tools.len()),
                _ => String::new(),
            };
            format!("{tools}{}", turns.collect::<Vec<_>>().join("; "))
        }
    }
}

pub(crate) fn record_text(record: &Record) -> String {
    match record {
        Record::Pair { prompt, chosen, rejected, margin, scores } => {
            let margin = margin.map_or(String::new(), |margin| format!(" margin {margin}"));
            let scores = scores.map_or(String::new(), |[chosen, rejected]| format!(" scores {chosen} {rejected}"));
            let [prompt, chosen, rejected] = [prompt, chosen, rejected].map(content_text);
            format!("{prompt} -> {chosen} > {rejected}{margin}{scores}")
        }
        Record::Judged { prompt, completion, desirable } => {
            format!("{} -> {} {desirable}", content_text(prompt), content_text(completion))
        }
        Record::Prompt { prompt } => content_text(prompt),
    }
}

pub(crate) fn jsonl(text: &str) -> RowFile {
    RowFile::new("rows.jsonl", text)
}

/// Rows of one file under the usual names of columns.
pub(crate) fn rows(text: &str) -> Vec<String> {
    jsonl(text).rows(&Columns::default())
}

pub(crate) fn named(key: &str, name: &str) -> Columns {
    let role = ColumnRole::all().find(|role| role.key() == key).unwrap();
    Columns::default().with(role, name)
}

pub(crate) const PARIS: &str = "user=Capital of France? -> assistant=Paris. > assistant=Lyon.";

/// `role=text; role=text` as JSON; text without roles as it is.
pub(crate) fn turns(short: &str) -> String {
    if !short.contains('=') {
        return format!("{short:?}");
    }
    let turn = |turn: &str| {
        let (role, text) = turn.split_once('=').unwrap();
        serde_json::json!({"role": role.trim(), "content": text})
    };
    serde_json::Value::from_iter(short.split(';').map(turn)).to_string()
}

pub(crate) fn pair(prompt: &str, chosen: &str, rejected: &str) -> String {
    format!(r#"{{"prompt": {}, "chosen": {}, "rejected": {}}}"#, turns(prompt), turns(chosen), turns(rejected))
}
