//! Rows as published sets have them, each shape with contents of its own: what is made of them, and the plan of their columns.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::Json;
use duel_data::records::{self, Columns, Content, Record};
use duel_spec::{ChatFormat, ColumnRole};
use std::path::PathBuf;

/// A file of rows.
struct RowFile {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl RowFile {
    fn new(name: &str, text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Self { path, _folder: folder }
    }

    /// Each row with its line: its records in short, or what is wrong with it.
    fn rows(&self, columns: &Columns) -> Vec<String> {
        let rows = records::read(&self.path, columns, |_| ()).unwrap();
        let short = |(line, row): (usize, Result<Vec<(Record, ())>, String>)| match row {
            Ok(records) => records.iter().map(|(record, ())| format!("{line}: {}", record_text(record))).collect(),
            Err(problem) => vec![format!("{line}! {problem}")],
        };
        rows.flat_map(short).collect()
    }

    fn plan(&self, columns: &Columns) -> String {
        records::plan(&self.path, columns).unwrap().to_string()
    }

    /// The error of the columns, and its hint.
    fn refusal(&self, columns: &Columns) -> String {
        let error = records::plan(&self.path, columns).unwrap_err();
        let problem = error.to_string();
        let problem = problem.split_once("`: ").unwrap().1.to_owned();
        format!("{problem}. {}", error.hint().unwrap_or_default())
    }
}

fn content_text(content: &Content) -> String {
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

fn record_text(record: &Record) -> String {
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

fn jsonl(text: &str) -> RowFile {
    RowFile::new("rows.jsonl", text)
}

/// Rows of one file under the usual names of columns.
fn rows(text: &str) -> Vec<String> {
    jsonl(text).rows(&Columns::default())
}

fn named(key: &str, name: &str) -> Columns {
    let role = ColumnRole::all().find(|role| role.key() == key).unwrap();
    Columns::default().with(role, name)
}

const PARIS: &str = "user=Capital of France? -> assistant=Paris. > assistant=Lyon.";

/// UltraFeedback as it is binarized: a text prompt, and chats that repeat it.
#[test]
fn a_text_prompt_beside_chats_is_the_users_turn() {
    let row = r#"{"prompt": "Capital of France?", "prompt_id": "a0", "chosen": [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": "Paris."}], "rejected": [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": "Lyon."}], "messages": [{"role": "user", "content": "Capital of France?"}, {"role": "assistant", "content": "Paris."}], "score_chosen": 8.5, "score_rejected": 6.0}"#;
    let file = jsonl(row);
    assert_eq!(file.rows(&Columns::default()), [format!("1: {PARIS} scores 8.5 6")]);
    let plan = file.plan(&Columns::default());
    assert!(plan.contains("  not used: `prompt_id`, `messages`\n"), "{plan}");
    assert!(
        plan.contains("chats that repeat it are used from its answer on") && !plan.contains("as it stands"),
        "{plan}"
    );
    assert!(plan.contains("  prompt         `prompt`: text\n  chosen         `chosen`: turns\n"), "{plan}");
    for (chosen, rejected, expected) in [
        // not repeated
        ("assistant=Paris.", "assistant=Lyon.", PARIS.to_owned()),
        // beside plain text
        ("Paris.", "assistant=Lyon.", PARIS.to_owned()),
        // a system turn and earlier turns stay before it; white space at its ends does not matter
        (
            "system=Be terse.; user=Hi; assistant=Hello.; user=Capital of France? ; assistant=Paris.",
            "system=Be terse.; user=Hi; assistant=Hello.; user=Capital of France? ; assistant=Lyon.",
            "system=Be terse.; user=Hi; assistant=Hello.; user=Capital of France?  -> assistant=Paris. > assistant=Lyon.".into(),
        ),
    ] {
        let row = format!(r#"{{"prompt": "Capital of France?", "chosen": {}, "rejected": {}}}"#, turns(chosen), turns(rejected));
        assert_eq!(rows(&row), [format!("1: {expected}")], "{row}");
    }
    for (chosen, rejected, problem) in [
        (
            "user=Another?; assistant=Paris.",
            "user=Another?; assistant=Lyon.",
            "`chosen` begins with a turn of the user, not the assistant",
        ),
        ("user=Capital of France?; assistant=Paris.", "assistant=Lyon.", "`chosen` begins with a turn of the user"),
        ("user=Capital of France?", "user=Capital of France?", "`chosen` has no turns after those of the prompt"),
        ("assistant=Paris.; user=Sure?", "assistant=Lyon.", "`chosen` ends with a turn of the user"),
    ] {
        let row = format!(
            r#"{{"prompt": "Capital of France?", "chosen": {}, "rejected": {}}}"#,
            turns(chosen),
            turns(rejected)
        );
        let actual = rows(&row);
        assert!(actual[0].starts_with(&format!("1! {problem}")), "{actual:?}");
    }
}

/// `role=text; role=text` as JSON; text without roles as it is.
fn turns(short: &str) -> String {
    if !short.contains('=') {
        return format!("{short:?}");
    }
    let turn = |turn: &str| {
        let (role, text) = turn.split_once('=').unwrap();
        serde_json::json!({"role": role.trim(), "content": text})
    };
    serde_json::Value::from_iter(short.split(';').map(turn)).to_string()
}

fn pair(prompt: &str, chosen: &str, rejected: &str) -> String {
    format!(r#"{{"prompt": {}, "chosen": {}, "rejected": {}}}"#, turns(prompt), turns(chosen), turns(rejected))
}

#[test]
fn a_repeated_prompt_is_taken_out_of_the_completions() {
    for (prompt, chosen, rejected, expected) in [
        ("user=Q", "user=Q; assistant=A", "user=Q; assistant=B", "user=Q -> assistant=A > assistant=B"),
        (
            "system=S;user=Q",
            "user=Q; assistant=A",
            "user=Q; assistant=B",
            "system=S; user=Q -> assistant=A > assistant=B",
        ),
        (
            "user=Q",
            "system=S; user=Q; assistant=A",
            "system=S; user=Q; assistant=B",
            "system=S; user=Q -> assistant=A > assistant=B",
        ),
        (
            "user=Q",
            "user=Q;assistant=A;user=R;assistant=C",
            "user=Q;assistant=B",
            "user=Q -> assistant=A; user=R; assistant=C > assistant=B",
        ),
        // a prefilled answer is continued, not repeated
        (
            "user=Q;assistant=Sure:",
            "assistant= A",
            "assistant= B",
            "user=Q; assistant=Sure: -> assistant= A > assistant= B",
        ),
    ] {
        assert_eq!(rows(&pair(prompt, chosen, rejected)), [format!("1: {expected}")]);
    }
    for (prompt, chosen, rejected, problem) in [
        ("user=Q", "user=Q;assistant=A", "assistant=B", "`rejected` does not begin with the turns of the prompt"),
        ("user=Q", "user=R;assistant=A", "user=R;assistant=B", "`chosen` begins with a turn of the user"),
        (
            "system=S;user=Q",
            "system=T;user=Q;assistant=A",
            "system=T;user=Q;assistant=B",
            "`chosen` begins with a turn of the system",
        ),
        (
            "user=Q;assistant=A",
            "user=Q;assistant=A",
            "user=Q;assistant=A",
            "`chosen` has no turns after those of the prompt",
        ),
    ] {
        let actual = rows(&pair(prompt, chosen, rejected));
        assert!(actual[0].starts_with(&format!("1! {problem}")), "{actual:?}");
    }
    // of one completion with a label
    let row =
        format!(r#"{{"prompt": {}, "completion": {}, "label": true}}"#, turns("user=Q"), turns("user=Q;assistant=A"));
    assert_eq!(rows(&row), ["1: user=Q -> assistant=A true"]);
}

#[test]
fn implicit_prompts_are_those_of_conversations() {
    let row = |chosen: &str, rejected: &str| {
        format!(r#"{{"chosen": {}, "rejected": {}, "source": "x"}}"#, turns(chosen), turns(rejected))
    };
    assert_eq!(
        rows(&row("user=Q;assistant=A;user=R;assistant=C", "user=Q;assistant=A;user=R;assistant=D")),
        ["1: user=Q; assistant=A; user=R -> assistant=C > assistant=D"]
    );
    let actual = rows(&row("user=Q;assistant=A;user=R;assistant=C", "user=Q;assistant=A;user=S;assistant=D"));
    assert!(actual[0].starts_with("1! `chosen` begins with a turn of the user"), "{actual:?}");
    let actual = rows(&row("assistant=A", "assistant=B"));
    assert_eq!(actual, ["1! there is no `prompt`, and `chosen` and `rejected` have no common beginning"]);
    // with a column of whole conversations beside them
    let row = format!(
        r#"{{"messages": {}, "chosen": {}, "rejected": {}}}"#,
        turns("user=Q;assistant=A"),
        turns("user=Q;assistant=A"),
        turns("user=Q;assistant=B")
    );
    assert_eq!(rows(&row), ["1: user=Q -> assistant=A > assistant=B"]);
    let row = format!(
        r#"{{"messages": {}, "chosen": {}, "rejected": {}}}"#,
        turns("user=Q"),
        turns("assistant=A"),
        turns("assistant=B")
    );
    assert_eq!(rows(&row), ["1: user=Q -> assistant=A > assistant=B"]);
}

/// Anthropic's HH: text with speakers, of which both completions have the beginning.
#[test]
fn the_prompt_of_speakers_ends_with_the_last_common_one() {
    let text = r#"{"chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Is tea hot?\n\nAssistant: It is often hot.", "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Is tea hot?\n\nAssistant: It is cold."}"#;
    let file = jsonl(text);
    assert_eq!(
        file.rows(&Columns::default()),
        [
            r#"1: "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Is tea hot?\n\nAssistant:" -> " It is often hot." > " It is cold.""#
        ]
    );
    assert!(file.plan(&Columns::default()).contains("up to their last common `Assistant:`"));
    let chat = Columns { chat: ChatFormat::Always, ..Columns::default() };
    let expected =
        "1: user=Hi; assistant=Hello.; user=Is tea hot? -> assistant=It is often hot. > assistant=It is cold.";
    assert_eq!(file.rows(&chat), [expected]);
    // further turns in an answer
    let text = r#"{"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rejected": "\n\nHuman: a\n\nAssistant: e", "id": "x"}"#;
    assert_eq!(rows(text), [r#"1: "\n\nHuman: a\n\nAssistant:" -> " b\n\nHuman: c\n\nAssistant: d" > " e""#]);
    assert_eq!(jsonl(text).rows(&chat), ["1: user=a -> assistant=b; user=c; assistant=d > assistant=e"]);
}

/// A prompt under an unknown name is asked for, and never guessed from the letters that two answers have in common.
#[test]
fn an_unknown_column_of_prompts_is_asked_for() {
    let text = r#"{"query": "Capital of France?", "chosen": "It is Paris.", "rejected": "It is Lyon.", "source": "quiz", "n": 3}"#;
    let file = jsonl(text);
    let refusal = file.refusal(&Columns::default());
    assert_eq!(
        refusal,
        "no column has a known name for the prompt; its columns are `query`, `chosen`, `rejected`, `source`, `n`. \
         name one of `query`, `source`: [world.rows] prompt = \"query\" (`--prompt` of the command); \"none\" where both completions begin with it"
    );
    let columns = named("prompt", "query");
    assert_eq!(file.rows(&columns), [r#"1: "Capital of France?" -> "It is Paris." > "It is Lyon.""#]);
    assert_eq!(file.rows(&named("prompt", "none")), [r#"1: "It is" -> " Paris." > " Lyon.""#]);
    let refusal = file.refusal(&named("prompt", "qurey"));
    assert!(
        refusal.starts_with("there is no column `qurey`, which prompt names. its columns are `query`, `chosen`"),
        "{refusal}"
    );
    // the names that experiments of earlier versions have
    let text = r#"{"question": "Capital of France?", "chosen": "Paris.", "rejected": "Lyon."}"#;
    assert_eq!(
        jsonl(text).rows(&named("prompt", "prompt").with(ColumnRole::Chosen, "chosen")),
        [format!("1: {PARIS}")]
    );
    // without any other text it is what TRL makes of two texts
    assert_eq!(
        rows(r#"{"chosen": "The sky is blue.", "rejected": "The sky is green.", "n": 1}"#),
        [r#"1: "The sky is" -> " blue." > " green.""#]
    );
    // the other side of a pair
    let refusal = jsonl(r#"{"prompt": "a", "chosen": "b", "bad": "c"}"#).refusal(&Columns::default());
    assert!(
        refusal.contains("for the other completion of a pair") && refusal.contains("[world.rows] rejected = \"bad\""),
        "{refusal}"
    );
    let file = jsonl(r#"{"prompt": "a", "chosen": "b", "bad": "c"}"#);
    assert_eq!(file.rows(&named("rejected", "bad")), [r#"1: "a" -> "b" > "c""#]);
    let refusal = jsonl(r#"{"text": "a"}"#).refusal(&Columns::default());
    assert!(
        refusal
            .starts_with("no column has a known name for `chosen` and `rejected`, or a prompt; its columns are `text`"),
        "{refusal}"
    );
}

/// Orca: a system turn, a question, two answers.
#[test]
fn a_system_column_goes_before_the_prompt() {
    let text = r#"{"system": "You are terse.", "question": "Capital of France?", "chosen": "Paris.", "rejected": "Lyon."}
{"system": "", "question": "Capital of France?", "chosen": "Paris.", "rejected": "Lyon."}
{"system": null, "question": "2 + 2?", "chosen": "4", "rejected": "5"}
"#;
    let file = jsonl(text);
    let expected = [
        format!("1: system=You are terse.; {PARIS}"),
        format!("2: {PARIS}"),
        "3: user=2 + 2? -> assistant=4 > assistant=5".into(),
    ];
    assert_eq!(file.rows(&Columns::default()), expected);
    let plan = file.plan(&Columns::default());
    assert!(
        plan.contains("  system         `system`: text, in 2 of 3 rows\n  prompt         `question`: text\n"),
        "{plan}"
    );
    // left where it is not wanted
    let without = named("system", "none");
    assert_eq!(file.rows(&without)[0], format!("1: {PARIS}"));
    assert!(file.plan(&without).contains("not used: `system`"));
    // as plain text, where the columns are TRL's
    let text = text.replace("question", "prompt");
    assert_eq!(jsonl(&text).rows(&without)[0], r#"1: "Capital of France?" -> "Paris." > "Lyon.""#);
    assert_eq!(jsonl(&text).rows(&Columns::default())[0], expected[0]);
    // beside turns, with a system turn of their own
    let row = |system: &str| {
        format!(r#"{{"system": "S", "prompt": {}, "chosen": "A", "rejected": "B"}}"#, turns(&format!("{system}user=Q")))
    };
    assert_eq!(rows(&row("")), ["1: system=S; user=Q -> assistant=A > assistant=B"]);
    assert_eq!(rows(&row("system=S;")), ["1: system=S; user=Q -> assistant=A > assistant=B"]);
    assert!(rows(&row("system=T;"))[0].starts_with("1! the prompt has a system turn of its own"));
    let never = Columns { chat: ChatFormat::Never, ..Columns::default() };
    assert!(jsonl(&text).refusal(&never).contains("world.rows.system = \"none\""));
}

/// Alpaca: an instruction with its input; two answers, or a list of them.
#[test]
fn alpaca_is_read() {
    let text = r#"{"instruction": "Name a colour.", "input": "", "chosen": "Blue.", "rejected": "Maybe."}
{"instruction": "Translate.", "input": "bonjour", "chosen": "hello", "rejected": "bye"}"#;
    assert_eq!(
        rows(text),
        [
            "1: user=Name a colour. -> assistant=Blue. > assistant=Maybe.",
            "2: user=Translate.\n\nbonjour -> assistant=hello > assistant=bye"
        ]
    );
    let never = Columns { chat: ChatFormat::Never, ..Columns::default() };
    assert_eq!(jsonl(text).rows(&never)[1], r#"2: "Translate.\n\nbonjour" -> "hello" > "bye""#);
    let text = r#"{"instruction": "Name a colour.", "input": "", "output": ["Blue.", "Maybe."]}"#;
    assert_eq!(rows(text), ["1: user=Name a colour. -> assistant=Blue. > assistant=Maybe."]);
    // one answer says nothing of what is better
    let file = jsonl(r#"{"instruction": "Name a colour.", "input": "", "output": "Blue."}"#);
    assert_eq!(file.rows(&Columns::default()), ["1: user=Name a colour."]);
    assert!(file.plan(&Columns::default()).contains("not used: `output`"));
    // with a label
    let text = r#"{"instruction": "Name a colour.", "input": "", "output": "Blue.", "kto_tag": true}"#;
    assert_eq!(rows(text), ["1: user=Name a colour. -> assistant=Blue. true"]);
    // `output` as the better one, by name
    let text = r#"{"instruction": "Name a colour.", "input": "", "output": "Blue.", "rejected": "Maybe."}"#;
    assert!(jsonl(text).refusal(&Columns::default()).contains("chosen = "));
    assert_eq!(
        jsonl(text).rows(&named("chosen", "output")),
        ["1: user=Name a colour. -> assistant=Blue. > assistant=Maybe."]
    );
}

/// ShareGPT: turns by `from` and `value`, answers as turns or single turns; labels beside whole conversations.
#[test]
fn sharegpt_is_read() {
    let text = r#"{"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}], "chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "B"}}
{"conversations": [{"from": "human", "value": "Q"}], "chosen": [{"from": "gpt", "value": "A"}], "rejected": [{"from": "gpt", "value": "B"}]}
{"conversations": [{"from": "human", "value": "Q"}, {"from": "observation", "value": "3"}], "chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "B"}}
{"conversations": [{"from": "narrator", "value": "Q"}], "chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "B"}}"#;
    let actual = rows(text);
    let expected = [
        "1: system=S; user=Q -> assistant=A > assistant=B",
        "2: user=Q -> assistant=A > assistant=B",
        "3: user=Q; tool=3 -> assistant=A > assistant=B",
    ];
    assert_eq!(actual[..3], expected);
    assert!(
        actual[3].starts_with(
            "4! turn 1 of `conversations` has the role `narrator`; accepted: system, developer, user, assistant, tool"
        ),
        "{}",
        actual[3]
    );
    let text = r#"{"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "kto_tag": false}
{"conversations": [{"from": "human", "value": "Q"}], "kto_tag": true}"#;
    let actual = rows(text);
    assert_eq!(
        actual,
        ["1: user=Q -> assistant=A false", "2! `conversations` does not end with an answer of the assistant"]
    );
}

/// KTO on turns; `messages` with tools, with an answer, a label or neither.
#[test]
fn messages_are_read() {
    let with = |rest: &str, short: &str| rows(&format!(r#"{{"messages": {}{rest}}}"#, turns(short)));
    assert_eq!(
        with(r#", "completion": [{"role": "assistant", "content": "A"}], "label": true"#, "user=Q"),
        ["1: user=Q -> assistant=A true"]
    );
    assert_eq!(with(r#", "label": false"#, "user=Q;assistant=A"), ["1: user=Q -> assistant=A false"]);
    assert_eq!(with("", "user=Q"), ["1: user=Q"]);
    let transcript = format!(r#"{{"messages": {}}}"#, turns("user=Q;assistant=A;user=R;assistant=B"));
    assert_eq!(rows(&transcript), ["1: user=Q; assistant=A; user=R"]);
    assert!(jsonl(&transcript).plan(&Columns::default()).contains("the prompts are used without it"));
    // a prompt that ends with an answer is continued
    assert_eq!(rows(&transcript.replace("messages", "prompt")), ["1: user=Q; assistant=A; user=R; assistant=B"]);
    let tool =
        r#"{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "default": null}}}"#;
    assert_eq!(with(&format!(r#", "tools": [{tool}]"#), "user=Q"), ["1: 1 tools;user=Q"]);
}

/// Tools as a list, as its JSON, as a list of JSON; calls without content.
#[test]
fn tools_go_to_the_template() {
    let tool = r#"{"type": "function", "function": {"name": "weather", "description": "Weather <now>"}}"#;
    let row = |tools: &str| {
        let call = r#"[{"role": "assistant", "content": null, "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Oslo", "day": null}}}]}]"#;
        format!(
            r#"{{"prompt": {}, "chosen": {call}, "rejected": {}, "tools": {tools}}}"#,
            turns("user=Oslo?"),
            turns("assistant=No idea.")
        )
    };
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let expected = ["1: 1 tools;user=Oslo? -> assistant=() > assistant=No idea."];
    for tools in [
        format!("[{tool}]"),
        quoted(&format!("[{tool}]")),
        format!("[{}]", quoted(tool)),
        tool.to_owned(),
        quoted("[{'type': 'function'}]"),
    ] {
        assert_eq!(rows(&row(&tools)), expected, "{tools}");
    }
    for tools in ["null", "[]", "\"\""] {
        let rest = r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": "b", "rejected": "c", "tools": [{}]}"#;
        assert_eq!(rows(&format!("{}\n{rest}", row(tools)))[0], expected[0].replace("1 tools;", ""), "{tools}");
    }
    for (tools, problem) in [
        ("3", "`tools` is a number, not a list of functions"),
        ("[3]", "tool 1 of `tools` is a number, not an object"),
        ("\"x\"", "`tools` is text that is not JSON"),
    ] {
        assert!(rows(&row(tools))[0].starts_with(&format!("1! {problem}")), "{:?}", rows(&row(tools)));
    }
    // the template reads them, and of objects the fields that are null are left
    let file = jsonl(&row(&format!("[{tool}]")));
    let (_, first) = records::read(&file.path, &Columns::default(), Clone::clone).unwrap().next().unwrap();
    let Record::Pair { prompt: Content::Conversation(prompt), chosen: Content::Conversation(chosen), .. } =
        &first.unwrap()[0].0
    else {
        panic!("a pair of conversations")
    };
    let template = duel_data::chat::ChatTemplate::new("{{ tools | tojson }}{% for m in messages %}{{ m | tojson }}{% endfor %}{% if add_generation_prompt %}>{% endif %}").unwrap();
    let split = template.split(prompt, &[&chosen.turns]).unwrap();
    assert_eq!(split.prompt, format!("[{tool}]{}", r#"{"content": "Oslo?", "role": "user"}"#));
    assert!(split.answers[0].ends_with(r#""arguments": {"place": "Oslo"}}}]}"#), "{split:?}");
}

#[test]
fn parts_of_text_are_joined_and_others_refused() {
    let row = |parts: &str| {
        format!(r#"{{"prompt": [{{"role": "user", "content": {parts}}}], "chosen": "A", "rejected": "B"}}"#)
    };
    for (parts, text) in [
        (r#"[{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image": null}]"#, "ab"),
        (r#"["a", {"text": "b"}]"#, "ab"),
        ("[]", ""),
    ] {
        assert_eq!(rows(&row(parts)), [format!("1: user={text} -> assistant=A > assistant=B")]);
    }
    for (parts, problem) in [
        (
            r#"[{"type": "image", "text": null}]"#,
            "turn 1 of `prompt` has a part of the type `image`; only parts of `text` are read",
        ),
        (r#"[{"type": "text"}]"#, "turn 1 of `prompt` has a part without `text`"),
        ("[3]", "turn 1 of `prompt` has a part without `text`"),
    ] {
        assert_eq!(rows(&row(parts)), [format!("1! {problem}")]);
    }
}

/// UltraFeedback's original: four completions with a score each.
#[test]
fn scored_completions_make_pairs() {
    let completion = |text: &str, score: f64| {
        format!(r#"{{"model": "m", "response": "{text}", "overall_score": {score}, "fine-grained_score": 1.0}}"#)
    };
    let row = |scores: [f64; 4]| {
        let completions =
            ["a", "b", "c", "d"].iter().zip(scores).map(|(text, score)| completion(text, score)).collect::<Vec<_>>();
        format!(
            r#"{{"source": "x", "instruction": "Q", "models": ["m"], "completions": [{}]}}"#,
            completions.join(", ")
        )
    };
    let file = jsonl(&format!("{}\n{}\n", row([5.0, 8.5, 5.0, 7.0]), row([6.0; 4])));
    let tie = "2: user=Q -> assistant=a > assistant=b scores 6 6";
    assert_eq!(file.rows(&Columns::default()), ["1: user=Q -> assistant=b > assistant=a scores 8.5 5", tie]);
    let all = Columns { pairs_per_prompt: 6, ..Columns::default() };
    let actual = file.rows(&all);
    let expected = [
        "b > assistant=a scores 8.5 5",
        "b > assistant=c scores 8.5 5",
        "d > assistant=a scores 7 5",
        "d > assistant=c scores 7 5",
        "b > assistant=d scores 8.5 7",
    ];
    assert_eq!(actual[..5], expected.map(|rest| format!("1: user=Q -> assistant={rest}")));
    assert_eq!(actual[5..], [tie]);
    let plan = file.plan(&all);
    assert!(
        plan.contains("compared by their `overall_score`, the largest first: up to 6 pairs a prompt")
            && plan.contains("not used: `source`, `models`"),
        "{plan}"
    );
    assert_eq!(
        file.rows(&named("score", "fine-grained_score"))[0],
        "1: user=Q -> assistant=a > assistant=b scores 1 1"
    );
    let actual = rows(&row([1.0, 2.0, 3.0, 4.0]).replace("\"overall_score\": 3", "\"overall_score\": \"N/A\""));
    assert_eq!(actual, ["1! `overall_score` of `completions[2]` is `N/A`, not a number"]);
}

#[test]
fn rankings_make_pairs() {
    // text from best to worst
    let text = r#"{"prompt": "Q", "responses": ["a", "b", "c"]}"#;
    assert_eq!(rows(text), ["1: user=Q -> assistant=a > assistant=c"]);
    assert!(
        jsonl(text)
            .plan(&Columns::default())
            .contains("completions are taken as ranked, the best first: one pair a prompt")
    );
    let never = Columns { chat: ChatFormat::Never, pairs_per_prompt: 3, ..Columns::default() };
    assert_eq!(
        jsonl(text).rows(&never),
        [r#"1: "Q" -> "a" > "c""#, r#"1: "Q" -> "a" > "b""#, r#"1: "Q" -> "b" > "c""#]
    );
    // scores beside them
    let text = r#"{"instruction": "Q", "generations": ["a", "b", "c"], "ratings": [2, 5, 1]}"#;
    assert_eq!(rows(text), ["1: user=Q -> assistant=b > assistant=c scores 5 1"]);
    assert_eq!(rows(&text.replace(", 1]", "]")), ["1! `ratings` has 2 values for the 3 of `generations`"]);
    // ranks beside them, with a tie
    let text = r#"{"prompt": "Q", "responses": ["a", "b", "c"], "ranking": [3, 1, 3]}"#;
    assert_eq!(rows(text), ["1: user=Q -> assistant=b > assistant=a"]);
    assert!(jsonl(text).plan(&Columns::default()).contains("compared by their `ranking`, the smallest first"));
    // ranks, after a prompt with speakers
    let text = r#"{"prompt": "\n\nHuman: Q\n\nAssistant: ", "answers": [{"answer": "a", "rank": 3.0}, {"answer": "b", "rank": 1.0}, {"answer": "c", "rank": 2.0}]}"#;
    assert_eq!(rows(text), ["1: user=Q -> assistant=b > assistant=a"]);
    // conversations that repeat the prompt
    let text = format!(
        r#"{{"prompt": {}, "completions": [{}, {}]}}"#,
        turns("user=Q"),
        turns("user=Q;assistant=a"),
        turns("user=Q;assistant=b")
    );
    assert_eq!(rows(&text), ["1: user=Q -> assistant=a > assistant=b"]);
    assert_eq!(
        rows(r#"{"prompt": "Q", "responses": ["a"]}"#),
        ["1! `responses` has 1 completions; 2 to 256 are compared"]
    );
}

/// HelpSteer: rows of one prompt with scores; two responses with the strength of a preference.
#[test]
fn helpsteer_is_read() {
    let row = |prompt: &str, response: &str, helpfulness: i32| {
        format!(
            r#"{{"prompt": "{prompt}", "response": "{response}", "helpfulness": {helpfulness}, "correctness": 4, "verbosity": 1}}"#
        )
    };
    let text = [row("p", "a", 1), row("p", "b", 3), row("q", "c", 2), row("r", "d", 0), row("r", "e", 0)].join("\n");
    let file = jsonl(&text);
    let lonely = "3! it is the only completion of its prompt, and there is none to compare it with; completion = \"none\" uses the prompts alone";
    let expected = [
        "2: user=p -> assistant=b > assistant=a scores 3 1",
        lonely,
        "5: user=r -> assistant=d > assistant=e scores 0 0",
    ];
    assert_eq!(file.rows(&Columns::default()), expected);
    assert!(file.plan(&Columns::default()).contains("not used: `correctness`, `verbosity`"));
    assert_eq!(file.rows(&named("score", "correctness"))[0], "2: user=p -> assistant=a > assistant=b scores 4 4");
    let text = [row("p", "a", 1), row("p", "b", 3).replace('3', "null"), row("p", "c", 2), row("p", "d", 5)].join("\n");
    let all = Columns { pairs_per_prompt: 9, ..Columns::default() };
    let pair = |better, worse, scores| format!("4: user=p -> assistant={better} > assistant={worse} scores {scores}");
    let expected =
        ["2! `helpfulness` is missing".into(), pair("d", "a", "5 1"), pair("d", "c", "5 2"), pair("c", "a", "2 1")];
    assert_eq!(jsonl(&text).rows(&all), expected);

    let row = |strength: &str| {
        format!(
            r#"{{"split": "train", "prompt": "p", "response_1": "a", "response_2": "b", "preference_strength": {strength}}}"#
        )
    };
    let text = ["-2", "3", "0", "-100", "null"].map(row).join("\n");
    let expected = [
        "1: user=p -> assistant=a > assistant=b margin 2",
        "2: user=p -> assistant=b > assistant=a margin 3",
        "3: user=p -> assistant=a > assistant=b margin 0",
        "4! `preference_strength` is -100; a preference is from -3 (the first) to 3 (the second)",
        "5! `preference_strength` is missing",
    ];
    assert_eq!(rows(&text), expected);
    let text = format!(
        r#"{{"domain": "x", "context": {}, "response1": "a", "response2": "b", "overall_preference": 1}}"#,
        turns("user=Q;assistant=A;user=R")
    );
    assert_eq!(rows(&text), ["1: user=Q; assistant=A; user=R -> assistant=b > assistant=a margin 1"]);
    let text =
        r#"{"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 1, "safer_response_id": 0}"#;
    assert_eq!(rows(text), ["1: user=p -> assistant=b > assistant=a"]);
    // two whole conversations, and who won
    let arena = |winner: &str| {
        let [a, b] = ["user=Q;assistant=A", "user=Q;assistant=B"].map(turns);
        format!(r#"{{"model_a": "x", "conversation_a": {a}, "conversation_b": {b}, "winner": "{winner}"}}"#)
    };
    let text = ["model_b", "tie (bothbad)", "nobody"].map(arena).join("\n");
    let expected = [
        "1: user=Q -> assistant=B > assistant=A",
        "2: user=Q -> assistant=A > assistant=B margin 0",
        "3! `winner` is `nobody`; accepted: a number, a, b, model_a, model_b, tie",
    ];
    assert_eq!(rows(&text), expected);
    let refusal =
        jsonl(r#"{"prompt": "p", "response_1": "a", "response_2": "b", "which": 1}"#).refusal(&Columns::default());
    assert!(
        refusal.contains("for which of two completions is better") && refusal.contains("preference = \"which\""),
        "{refusal}"
    );
}

#[test]
fn scores_go_by_several_names() {
    for [chosen, rejected] in [
        ["score_chosen", "score_rejected"],
        ["chosen_score", "rejected_score"],
        ["chosen_rating", "rejected_rating"],
        ["chosen-rating", "rejected-rating"],
    ] {
        let text = format!(r#"{{"prompt": "p", "chosen": "a", "rejected": "b", "{chosen}": 4.5, "{rejected}": "2"}}"#);
        assert_eq!(rows(&text), [r#"1: "p" -> "a" > "b" scores 4.5 2"#]);
    }
    let text = r#"{"prompt": "p", "chosen": "a", "rejected": "b", "good": 1, "bad": 0, "strength": 0.5}"#;
    let columns =
        named("score_chosen", "good").with(ColumnRole::ScoreRejected, "bad").with(ColumnRole::Margin, "strength");
    assert_eq!(jsonl(text).rows(&columns), [r#"1: "p" -> "a" > "b" margin 0.5 scores 1 0"#]);
    // half of them
    let text = r#"{"prompt":"a","chosen":" x","rejected":" y","score_chosen":2,"score_rejected":7}
{"prompt":"d","chosen":" x","rejected":" y","score_chosen":NaN,"score_rejected":3}
{"prompt":"e","chosen":" x","rejected":" y","score_chosen":null,"score_rejected":3}
{"prompt":"f","chosen":" x","rejected":" y","score_chosen":9}
{"prompt":"h","chosen":" x","rejected":" y","margin":"-1.5"}"#;
    let actual = rows(text);
    assert_eq!(actual[0], r#"1: "a" -> " x" > " y" scores 2 7"#);
    assert!(
        actual[1].starts_with("2! it is not valid JSON") && actual[1].contains("NaN is no JSON: write null (column "),
        "{}",
        actual[1]
    );
    let half = "`score_chosen` and `score_rejected` must be given together";
    assert_eq!(
        actual[2..],
        [format!("3! {half}"), format!("4! {half}"), r#"5: "h" -> " x" > " y" margin -1.5"#.into()]
    );
}

/// Turns that are written as text: JSON, or as Python prints them. Brackets alone make no turns.
#[test]
fn turns_written_as_text_are_turns() {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let row = |prompt: &str| {
        format!(
            r#"{{"prompt": {}, "chosen": {}, "rejected": {}}}"#,
            quoted(prompt),
            quoted("[{'role': 'assistant', 'content': 'A'}]"),
            quoted("[{'role': 'assistant', 'content': 'B'}]")
        )
    };
    for prompt in [
        r#"[{"role": "user", "content": "Q"}]"#,
        "[{'role': 'user', 'content': 'Q'}]",
        "[{'content': 'Q', 'role': 'user', 'name': None}]",
        "[{'from': 'human', 'value': 'Q'}]",
        "({'role': 'user', 'content': \"Q\"},)".trim_start_matches('('),
        "{'role': 'user', 'content': 'Q'}",
        "Q",
    ] {
        let prompt = if prompt.ends_with(",)") { "[{'role': 'user', 'content': \"Q\"},]" } else { prompt };
        assert_eq!(rows(&row(prompt)), ["1: user=Q -> assistant=A > assistant=B"], "{prompt}");
    }
    assert!(jsonl(&row("Q")).plan(&Columns::default()).contains("`chosen`: turns written as text\n"));
    for (prompt, problem) in [
        ("array([{'role': 'user', 'content': 'Q'}], dtype=object)", "expected a value at character 1, found `a`"),
        (
            "[{'role': 'user', 'content': 'Q'}\n {'role': 'assistant', 'content': 'R'}]",
            "expected `,` or `]` at character 36, found `{`",
        ),
    ] {
        let expected =
            format!("1! `prompt` begins as a list of turns does, but is none: {problem}; write such lists as JSON");
        assert_eq!(rows(&row(prompt)), [expected]);
    }
    for text in [
        "[1] is text",
        "[2, 3, 5]",
        "[]",
        "[INST] hi [/INST]",
        "{'a': 1}",
        "[{\"name\": \"x\"}]",
        "[{'role': 'user'",
        "{role}",
    ] {
        let row = format!(r#"{{"prompt": {0}, "chosen": {0}, "rejected": " b"}}"#, quoted(text));
        assert_eq!(rows(&row), [format!("1: {text:?} -> {text:?} > \" b\"")]);
    }
}

/// Columns that the first rows do not have are errors of their rows, and never left without a word.
#[test]
fn the_plan_holds_for_all_rows() {
    let plain = r#"{"prompt": "p", "chosen": "a", "rejected": "b", "x": null}"#;
    let text = format!(
        "{}{}\n{}\n",
        format!("{plain}\n").repeat(1500),
        r#"{"prompt": "p", "chosen": "a", "rejected": "b", "other": 1}"#,
        r#"{"system": "s", "prompt": "p", "chosen": "a", "rejected": "b"}"#
    );
    let file = jsonl(&text);
    let actual = file.rows(&Columns::default());
    assert_eq!(actual[1500], r#"1501: "p" -> "a" > "b""#);
    assert_eq!(
        actual[1501],
        "1502! `system` is not among the columns of the first 1024 rows, by which the file is read: give it there too, as null, or name it: [world.rows] system = \"system\""
    );
    let upper = jsonl(&text.replace("\"system\"", "\"System\"")).rows(&Columns::default());
    assert!(upper[1501].contains("`System` is not among the columns"), "{}", upper[1501]);
    assert_eq!(file.rows(&named("system", "system"))[1501], "1502: system=s; user=p -> assistant=a > assistant=b");
    let plan = file.plan(&Columns::default());
    assert!(
        plan.starts_with("columns, as the first 1024 rows have them\n") && plan.contains("  without a value: `x`\n"),
        "{plan}"
    );
    // a prompt that is missing in one row is no implicit one
    let text = "{\"prompt\": \"p\", \"chosen\": \"a\", \"rejected\": \"b\"}\n{\"chosen\": \"It is a\", \"rejected\": \"It is b\"}";
    assert_eq!(rows(text)[1], "2! `prompt` is missing");
    let text = r#"{"prompt": "p", "chosen": "a", "rejected": null}"#;
    assert_eq!(rows(text), ["1! `rejected` is missing"]);
}

/// Files of JSON: a list, an object of columns, of rows under a name, of rows by their index; pretty, and with a byte order mark.
#[test]
fn json_of_every_layout_is_read() {
    let row =
        |prompt: &str| format!("{{\n  \"prompt\": \"{prompt}\",\n  \"chosen\": \" a\",\n  \"rejected\": \" b\"\n}}");
    let (p, q) = (row("p"), row("q"));
    let expected = |lines: [usize; 2]| {
        [format!("{}: \"p\" -> \" a\" > \" b\"", lines[0]), format!("{}: \"q\" -> \" a\" > \" b\"", lines[1])]
    };
    for (text, lines) in [
        (format!("\u{feff}[{p}, {q}]"), [1, 5]),
        (format!("[\n{p},\n\n{q}\n]\n"), [2, 8]),
        (format!("{{\n \"train\": [\n{p},\n{q}\n ]\n}}"), [3, 8]),
        (format!("{{\"version\": 1, \"data\": [{p}, {q}]}}"), [1, 5]),
        (format!("{p}\n{q}\n"), [1, 6]),
        (r#"{"prompt": ["p", "q"], "chosen": [" a", " a"], "rejected": [" b", " b"]}"#.into(), [1, 2]),
        (
            r#"{"prompt": {"0": "p", "1": "q"}, "chosen": {"0": " a", "1": " a"}, "rejected": {"0": " b", "1": " b"}}"#
                .into(),
            [1, 2],
        ),
        (format!("{{\"0\": {p}, \"1\": {q}}}"), [1, 2]),
        (format!("{}\n{}\n", p.replace('\n', " "), q.replace('\n', " ")), [1, 2]),
    ] {
        let file = RowFile::new("rows.json", &text);
        assert_eq!(file.rows(&Columns::default()), expected(lines), "{text}");
    }
    // one row, pretty
    let file = RowFile::new(
        "rows.json",
        &format!(
            "{{\n\"prompt\": {},\n\"chosen\": {},\n\"rejected\": {}\n}}",
            turns("user=Q"),
            turns("assistant=A"),
            turns("assistant=B")
        ),
    );
    assert_eq!(file.rows(&Columns::default()), ["1: user=Q -> assistant=A > assistant=B"]);
    let refusal = |text: &str| records::open(&RowFile::new("rows.json", text).path).err().unwrap().to_string();
    let two = format!("{{\"train\": [{p}], \"test\": [{q}]}}");
    assert!(
        refusal(&two).ends_with("it has the lists of rows `train`, `test`: write each to a file of its own"),
        "{}",
        refusal(&two)
    );
    assert!(
        refusal("{\n\"prompt\": [\"p\",\n ]}").contains("line 3: it is not valid JSON"),
        "{}",
        refusal("{\n\"prompt\": [\"p\",\n ]}")
    );
    assert!(
        refusal("{\n\"prompt\": \"p\"").contains("line 2: it is not valid JSON"),
        "{}",
        refusal("{\n\"prompt\": \"p\"")
    );
}

/// What stands where JSON ends is said by what would be accepted, with its line and its column.
#[test]
fn errors_of_json_say_what_would_be_accepted() {
    let rest = r#""chosen": "x", "rejected": "y"}"#;
    let half = "half of a surrogate pair: write the character itself, or both halves, as \\ud83d\\ude00";
    let cases = [
        (format!(r#"{{"prompt": "a \ud83d", {rest}"#), half, 21),
        (format!(r#"{{"prompt": "a \ude00", {rest}"#), half, 20),
        (format!(r#"{{"prompt": "a \ud83d\u0041", {rest}"#), half, 26),
        (
            r#"{"prompt": "a", "chosen": "x", "rejected": "y",}"#.to_owned(),
            "a comma before a closing bracket: remove it",
            48,
        ),
        (format!(r#"{{"prompt": "a", {rest} {{}}"#), "more text behind the end of the row: a line has one object", 49),
        (format!(r#"{{'prompt': "a", {rest}"#), "a name that is not in double quotes: write \"name\"", 2),
        (format!("{{\"prompt\": \"a\tb\", {rest}"), "a tab or a control character within text", 14),
        (format!(r#"{{"prompt": "a \d", {rest}"#), "a backslash that begins no escape: write two of them", 16),
        (format!(r#"{{"prompt": None, {rest}"#), "no value: text is in double quotes", 12),
    ];
    let valid = format!(r#"{{"prompt": "a 😀 \ud83d\ude00", {rest}"#);
    for (text, problem, column) in cases {
        let actual = rows(&format!("{valid}\n{text}"));
        assert_eq!(actual[0], r#"1: "a 😀 😀" -> "x" > "y""#);
        assert!(actual[1].starts_with(&format!("2! it is not valid JSON: {problem}")), "{text}: {}", actual[1]);
        assert!(actual[1].ends_with(&format!(" (column {column})")), "{text}: {}", actual[1]);
        let list = RowFile::new("rows.json", &format!("[\n{valid},\n{text}\n]")).rows(&Columns::default());
        let is_two = problem.starts_with("more text");
        assert!(is_two || list[1].starts_with(&format!("3! it is not valid JSON: {problem}")), "{text}: {}", list[1]);
    }
    assert!(rows(r#"{"prompt": "a"#)[0].contains("the row ends within a value"));
}

/// What is no file of rows is said so by what it is, under whatever ending.
#[test]
fn files_of_other_formats_are_named() {
    let refusal = |name: &str, bytes: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        records::open(&path).err().map_or(String::new(), |e| e.to_string())
    };
    let utf16: Vec<u8> = "prompt,chosen".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let utf16_be: Vec<u8> = "prompt,chosen".encode_utf16().flat_map(u16::to_be_bytes).collect();
    let cases: [(&[u8], &str); 10] = [
        (&[&[0xff, 0xfe], &utf16[..]].concat(), "it is UTF-16: save it as UTF-8"),
        (&utf16, "it is UTF-16: save it as UTF-8"),
        (&utf16_be, "it is UTF-16: save it as UTF-8"),
        (b"PK\x03\x04\x14\0", "an Excel workbook: unpack it, or save it as CSV"),
        (b"ARROW1\0\0", "it is an Arrow file: write it as parquet or JSON lines"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS and not the file itself"),
        (b"\n <!DOCTYPE html>\n<html>", "it is a web page and not the file itself"),
        (b"<HTML><body>", "it is a web page and not the file itself"),
        (b"\x1f\x8b\x08\0", "its name should end in .gz"),
        (b"\x28\xb5\x2f\xfd\0", "its name should end in .zst"),
    ];
    for (bytes, problem) in cases {
        for name in ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"] {
            assert!(refusal(name, bytes).contains(problem), "{name}: {}", refusal(name, bytes));
        }
    }
    let parquet = include_bytes!("labels.parquet");
    assert!(refusal("rows.jsonl", parquet).ends_with("its name should end in .parquet"));
    assert!(refusal("rows.parquet", &parquet[..parquet.len() - 9]).contains("it is damaged or cut off"));
    assert!(refusal("rows.json", b" \n").ends_with("the file is empty"));
    assert!(refusal("rows.jsonl.gz", b"{\"prompt\": 1}").contains("failed to read"));
}

/// Rows of JSON in a layout that their ending does not tell, and a list that does not end as it should.
#[test]
fn layouts_of_another_ending_are_named() {
    let pretty = "{\n  \"prompt\": \"a\"\n}\n";
    assert_eq!(rows(pretty)[0], "1! a row over several lines: write one a line, or name the file .json");
    assert_eq!(
        rows(r#"[{"prompt": "a"}]"#),
        ["1! a row is an object, not a list: a file that is one list of rows ends in .json"]
    );
    assert_eq!(rows(r#"["a", "b"]"#), ["1! a row is an object, not a list"]);
    let list = |end: &str| {
        let row = r#"{"prompt": "a", "chosen": "x", "rejected": "y"}"#;
        RowFile::new("rows.json", &format!("[\n{row}{end}")).rows(&Columns::default())[1].clone()
    };
    assert_eq!(list(",\n]"), "3! a comma before the closing bracket: remove it");
    assert_eq!(list(",\n\"b\"]"), "3! an item of the list is no object: expected `{`, found `\"`");
    assert_eq!(list(","), "2! the list is not closed: the file is cut off");
}

/// Compressed rows up to where the file is cut off, and that it is.
#[test]
fn compressed_files_that_are_cut_off_say_so() {
    let text = (0..20_000).map(|n: u64| format!("{{\"prompt\": \"{n} {}\"}}\n", n * n * n)).collect::<String>();
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
    for (name, bytes) in
        [("rows.jsonl.gz", gzip.finish().unwrap()), ("rows.jsonl.zst", zstd::encode_all(text.as_bytes(), 1).unwrap())]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
        let rows: Vec<_> = records::open(&path).unwrap().collect();
        let last = rows.last().unwrap().1.clone().unwrap_err();
        assert!(last.starts_with("its compressed data is damaged or cut off"), "{name}: {last}");
    }
}

/// The names of columns in any case; what stands between cells, by the first line; a column without a name.
#[test]
fn columns_are_found_as_spreadsheets_write_them() {
    let pair = r#"2: "a, b" -> "x" > "y""#;
    for text in [
        "prompt;chosen;rejected\r\na, b;x;\"y\"\r\n",
        "prompt\tchosen\trejected\na, b\tx\ty\n",
        "Prompt, Chosen, REJECTED\n\"a, b\",x,y\n",
        ",prompt,chosen,rejected\n0,\"a, b\",x,y\n",
    ] {
        assert_eq!(RowFile::new("rows.csv", text).rows(&Columns::default()), [pair], "{text}");
    }
    let sep = "sep=;\nprompt;chosen;rejected\na, b;x;y\na\n";
    let actual = RowFile::new("rows.csv", sep).rows(&Columns::default());
    assert_eq!(actual, [pair.replace("2:", "3:"), "4! it has 1 cells, but there are 3 columns".into()]);
    assert_eq!(RowFile::new("rows.tsv", "prompt,chosen,rejected\n\"a, b\",x,y").rows(&Columns::default()), [pair]);
    let index = RowFile::new("rows.csv", ",prompt,chosen,rejected\n0,a,x,y\n");
    assert!(index.plan(&Columns::default()).contains("not used: a column without a name"));
    // other shapes, in any case; the exact name comes first
    assert_eq!(
        rows(r#"{"System": "s", "Question": "q", "Chosen": "x", "Rejected": "y"}"#),
        ["1: system=s; user=q -> assistant=x > assistant=y"]
    );
    assert_eq!(rows(r#"{"Prompt": "P", "prompt": "p", "chosen": "x", "rejected": "y"}"#), [r#"1: "p" -> "x" > "y""#]);
    let upper = r#"{"Prompt": "p", "Chosen": "x", "Rejected": "y", "Chosen_Score": 3, "Rejected_Score": 1}"#;
    assert_eq!(rows(upper), [r#"1: "p" -> "x" > "y" scores 3 1"#]);
    // no names at all, and what is within objects
    let refusal = RowFile::new("rows.csv", "Is it?,Yes.,No.\nIs that?,No.,Yes.\n").refusal(&Columns::default());
    assert!(refusal.contains("the first line has the names of the columns"), "{refusal}");
    let refusal = jsonl(r#"{"data": {"prompt": "p", "chosen": "x", "rejected": "y"}}"#).refusal(&Columns::default());
    assert!(refusal.contains("write text or turns as columns of their own, not within objects"), "{refusal}");
}

/// What a cell holds instead of a label or a number is shown, with what would be accepted; a weight of turns is said to do nothing.
#[test]
fn cells_of_the_wrong_kind_are_shown() {
    let label = |label: &str| rows(&format!(r#"{{"prompt": "p", "completion": "c", "label": {label}}}"#))[0].clone();
    for right in ["true", "\"False\"", "1", "0", "\"1\"", "\" true \"", "1.0"] {
        assert!(label(right).starts_with("1: "), "{right}: {}", label(right));
    }
    for (wrong, shown) in [("\"good\"", "`good`"), ("-1", "-1"), ("2", "2"), ("[1]", "a list")] {
        assert!(
            label(wrong).ends_with(&format!("`label` is {shown}; accepted: true, false, 1, 0")),
            "{}",
            label(wrong)
        );
    }
    let text = r#"{"prompt": "p", "chosen": "x", "rejected": "y", "chosen_score": "9/10", "rejected_score": "3/10"}"#;
    assert_eq!(rows(text), ["1! `chosen_score` is `9/10`, not a number"]);
    let weighted = r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0}], "label": true}"#;
    assert!(jsonl(weighted).plan(&Columns::default()).contains("the `weight` of turns changes nothing"));
    assert!(!jsonl(&weighted.replace("weight", "width")).plan(&Columns::default()).contains("weight"));
}

/// CSV as spreadsheets and pandas write it.
#[test]
fn csv_of_every_kind_is_read() {
    let text = "prompt,chosen,rejected\r\nList the primes,\"[2, 3, 5]\",\"[1, 2, 3]\"\r\n[INST] hi [/INST], hello, bye\r\nEmpty list?,[],[ ]\r\nFill in: [NAME],[1] Smith 2020,nobody\r\n";
    let expected = [
        r#"2: "List the primes" -> "[2, 3, 5]" > "[1, 2, 3]""#,
        r#"3: "[INST] hi [/INST]" -> " hello" > " bye""#,
        r#"4: "Empty list?" -> "[]" > "[ ]""#,
        r#"5: "Fill in: [NAME]" -> "[1] Smith 2020" > "nobody""#,
    ];
    for text in [text.to_owned(), format!("\u{feff}{text}")] {
        assert_eq!(RowFile::new("rows.csv", &text).rows(&Columns::default()), expected);
    }
    let actual = RowFile::new("rows.csv", "prompt,chosen,rejected\r\np, a, b\r\nq,\"[1]\", b\r\nr, a\r\n")
        .rows(&Columns::default());
    assert_eq!(actual[2], "4! it has 2 cells, but there are 3 columns");
    assert_eq!(actual[1], r#"3: "q" -> "[1]" > " b""#);
    let text = "prompt,chosen,rejected\r\n\"[{'role': 'user', 'content': 'It''s?'}]\",\"[{'role': 'assistant', 'content': \"\"It's.\"\"}]\",\"[{'role': 'assistant', 'content': 'No.'}]\"\r\n".replace("It''s?", "2 + 2?");
    assert_eq!(
        RowFile::new("rows.csv", &text).rows(&Columns::default()),
        ["2: user=2 + 2? -> assistant=It's. > assistant=No."]
    );
    let text = "prompt\tchosen\trejected\np\t\"a\tb\"\tc\n";
    assert_eq!(RowFile::new("rows.tsv", text).rows(&Columns::default()), [r#"2: "p" -> "a\tb" > "c""#]);
    let path = |bytes: &[u8]| {
        let file = RowFile::new("rows.csv", "");
        std::fs::write(&file.path, bytes).unwrap();
        file
    };
    let refusal = |bytes: &[u8]| records::open(&path(bytes).path).err().unwrap().to_string();
    assert!(refusal(b"\xff\xfep\0").ends_with("it is UTF-16: save it as UTF-8"));
    assert!(refusal(&[0x1f, 0x8b, 8, 0]).ends_with("its name should end in .gz"));
    let actual = path(b"prompt,chosen,rejected\np,\xff,b\n").rows(&Columns::default());
    assert_eq!(actual, ["2! `chosen` is not valid UTF-8: save the file as UTF-8"]);
}

/// Each format under gzip and zstd.
#[test]
fn compressed_files_are_read() {
    use std::io::Write as _;
    let folder = tempfile::tempdir().unwrap();
    let row = r#"{"prompt": "p", "chosen": " a", "rejected": " b"}"#;
    let csv = "prompt,chosen,rejected\np, a, b\n";
    for (name, bytes) in [
        ("rows.jsonl", row.as_bytes()),
        ("rows.json", format!("[{row}]").as_bytes()),
        ("rows.csv", csv.as_bytes()),
        ("rows.tsv", csv.replace(',', "\t").as_bytes()),
        ("rows.parquet", include_bytes!("turns.parquet")),
    ] {
        let plain = folder.path().join(name);
        std::fs::write(&plain, bytes).unwrap();
        let gzip = folder.path().join(format!("{name}.gz"));
        let mut encoder =
            flate2::write::GzEncoder::new(std::fs::File::create(&gzip).unwrap(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap();
        let zstd = folder.path().join(format!("{name}.zst"));
        zstd::stream::copy_encode(bytes, std::fs::File::create(&zstd).unwrap(), 3).unwrap();
        let read = |path: &PathBuf| records::read(path, &Columns::default(), |_| ()).unwrap().collect::<Vec<_>>();
        let expected = read(&plain);
        assert!(!expected.is_empty() && expected.iter().all(|(_, row)| row.is_ok()));
        assert_eq!([read(&gzip), read(&zstd)], [expected.clone(), expected]);
        // cut off in the middle
        let bytes = std::fs::read(&gzip).unwrap();
        std::fs::write(&gzip, &bytes[..bytes.len() - 12]).unwrap();
        let is_refused = match records::read(&gzip, &Columns::default(), |_| ()) {
            Ok(mut rows) => rows.any(|(_, row)| row.is_err()),
            Err(_) => true,
        };
        assert!(is_refused, "{name}");
    }
}
