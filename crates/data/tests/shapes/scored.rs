//! Rows with scores and rankings, text that holds turns, and columns that come later.

use crate::row_file::{jsonl, named, rows, turns};
use duel_data::records::Columns;
use duel_spec::{ChatFormat, ColumnRole};

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
    let lonely = "3! it is the only completion of its prompt among the rows before and after it: sort the file by its prompts if there are others; \
                  completion = \"none\" uses the prompts alone";
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
