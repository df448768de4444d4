//! Renders chat templates for `scripts/dev/compare-templates`: a JSON object a line in, one a line out.
//!
//! In: `template`, `messages`, `add_generation_prompt`, and other variables in `variables`. Out: `text`, or `error`.

use duel_data::Json;
use duel_data::chat::{ChatTemplate, Message};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    template: String,
    messages: Vec<Json>,
    add_generation_prompt: bool,
    variables: BTreeMap<String, Json>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let case: Case = serde_json::from_str(&line?)?;
        let messages = case.messages.into_iter().map(Message::try_from).collect::<Result<Vec<_>, _>>()?;
        let text = ChatTemplate::new(&case.template)
            .and_then(|template| template.with_variables(case.variables).dated("2024-07-26"))
            .and_then(|template| template.render(&messages, None, case.add_generation_prompt));
        let answer = match text {
            Ok(text) => serde_json::json!({"text": text}),
            Err(e) => serde_json::json!({"error": e.to_string()}),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
