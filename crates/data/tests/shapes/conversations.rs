//! Pairs and conversations.

use crate::row_file::{PARIS, jsonl, named, pair, rows, turns};
use duel_data::records::{self, Columns, Content, Record};
use duel_spec::{ChatFormat, ColumnRole};

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

/// Pairs under other names, which say what they are only together; OpenAI's, whose prompt is an object of turns and tools.
#[test]
fn pairs_under_other_names_are_read() {
    for [chosen, rejected] in [
        ["chosen_response", "rejected_response"],
        ["preferred", "dispreferred"],
        ["y_w", "y_l"],
        ["accepted", "rejected"],
    ] {
        let text = format!(r#"{{"prompt": "a", "{rejected}": "c", "{chosen}": "b"}}"#);
        assert_eq!(rows(&text), [r#"1: "a" -> "b" > "c""#], "{chosen}");
        // one of them alone is no completion, and neither is a name of one of two others
        let file = jsonl(&format!(r#"{{"prompt": "a", "{chosen}": "b"}}"#));
        assert!(file.plan(&Columns::default()).contains(&format!("not used: `{chosen}`")), "{chosen}");
        let text =
            format!(r#"{{"prompt": "a", "answer_a": "b", "answer_b": "c", "{chosen}": "a", "{rejected}": "b"}}"#);
        let asked = if rejected == "rejected" { "the other completion" } else { "which of two completions is better" };
        assert!(jsonl(&text).refusal(&Columns::default()).contains(asked), "{chosen}");
    }
    let tools = r#"[{"type": "function", "function": {"name": "f"}}]"#;
    let row = |input: &str, tools: &str| {
        format!(
            r#"{{"input": {{"messages": [{{"role": "user", "content": "{input}"}}], "tools": {tools}, "parallel_tool_calls": true}}, "preferred_output": [{{"role": "assistant", "content": "b"}}], "non_preferred_output": [{{"role": "assistant", "content": "c"}}]}}"#
        )
    };
    let file = jsonl(&[row("a", "[]"), row("d", tools)].join("\n"));
    let read = file.rows(&Columns::default());
    assert_eq!(read[0], "1: user=a -> assistant=b > assistant=c");
    assert_eq!(read[1], "2: 1 tools;user=d -> assistant=b > assistant=c");
    // two answers with scores, under names in other letters; a prompt that is another object is named
    let text = r#"{"question": "a", "human_ref_A": "b", "human_ref_B": "c", "labels": 0, "score_A": 2, "score_B": 7}"#;
    assert_eq!(rows(text), ["1: user=a -> assistant=c > assistant=b scores 7 2"]);
    let text = r#"{"question": {"full_text": "a"}, "answer_0": "b", "answer_1": "c", "score_0": 0.5, "score_1": -0.5}"#;
    let refusal = jsonl(text).refusal(&Columns::default());
    assert!(refusal.contains("`question` is an object: write the text"), "{refusal}");
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
