//! A byte-level tokenizer that the Python library wrote: the same ids and the same text. Chat templates as transformers renders
//! them.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::chat::{ChatTemplate, Message};
use duel_data::{Json, TextTokenizer};
use duel_testing::golden;
use golden::ids;
use indexmap::IndexMap;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `templates.json`, in the order of its fields; an unknown field fails the test.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Templates {
    #[serde(rename = "source")]
    _source: String,
    special_tokens: BTreeMap<String, Json>,
    cases: Vec<TemplateCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateCase {
    template: String,
    name: String,
    messages: Vec<Json>,
    tools: Json,
    documents: Option<Json>,
    add_generation_prompt: bool,
    #[serde(default)]
    template_kwargs: BTreeMap<String, Json>,
    text: Option<String>,
    error: Option<String>,
}

#[test]
fn golden_templates_render_as_transformers_does() {
    let folder = golden::folder().join("templates");
    let file: Templates = serde_json::from_slice(&std::fs::read(folder.join("templates.json")).unwrap()).unwrap();
    assert!(!file.cases.is_empty());
    let mut used = BTreeMap::new();
    for case in &file.cases {
        let source = std::fs::read_to_string(folder.join(&case.template)).unwrap();
        let documents = case.documents.clone().unwrap_or(Json::Null);
        let variables = IndexMap::from([("tools".to_owned(), case.tools.clone()), ("documents".to_owned(), documents)]);
        let messages: Vec<Message> = case.messages.iter().map(|one| Message::try_from(one.clone()).unwrap()).collect();
        let actual = ChatTemplate::new(&source).and_then(|template| {
            let template = template.with_variables(file.special_tokens.clone()).with_variables(variables);
            template.with_variables(case.template_kwargs.clone()).render(&messages, None, case.add_generation_prompt)
        });
        let context = format!("{}, {}, {}", case.template, case.name, case.add_generation_prompt);
        match (&case.text, &case.error) {
            (Some(text), None) => assert_eq!(actual.map_err(|e| e.to_string()).as_ref(), Ok(text), "{context}"),
            (None, Some(_)) => assert!(actual.is_err(), "{context}: {actual:?}"),
            _ => panic!("{context}: neither a text nor an error"),
        }
        *used.entry(case.template.clone()).or_insert(0) += 1;
    }
    let templates =
        std::fs::read_dir(&folder).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    for template in templates.filter(|name| name.ends_with(".jinja")) {
        assert!(used.contains_key(&template), "no case renders {template}");
    }
}

#[test]
fn golden_tokenizer_encodes_and_decodes() {
    let file = golden::topic("tokenizer/expected.json");
    let tokenizer = TextTokenizer::open(&golden::folder().join("tokenizer/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.vocabulary() as u64, file["vocab_size"].as_u64().unwrap());
    let special = |key: &str| file["special"].number(key) as u32;
    let controls = ["pad", "bos", "eos"].map(special);
    assert!(controls.iter().all(|id| tokenizer.controls().contains(id)), "{controls:?}");
    for case in file.items("cases") {
        let text = case.text("text");
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(&[text]).unwrap(), vec![expected.clone()], "{text:?}");
        let tokens: Vec<String> = expected.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
        assert_eq!(serde_json::json!(tokens), *case["tokens"], "{text:?}");
        assert_eq!(tokenizer.decode(&expected).unwrap(), case.text("decoded_skip_special"), "{text:?}");
        // with control tokens as they are written: everything between them, decoded by itself
        let mut decoded = String::new();
        for part in expected.chunk_by(|a, b| controls.contains(a) == controls.contains(b)) {
            match controls.contains(&part[0]) {
                true => decoded.extend(part.iter().map(|&id| tokenizer.token(id).unwrap())),
                false => decoded += &tokenizer.decode(part).unwrap(),
            }
        }
        assert_eq!(decoded, case.text("decoded"), "{text:?}");
    }
}
