//! What `duel data check` says of rows is what a run makes of them.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::chat::ChatTemplate;
use duel_data::check::{DataReport, check};
use duel_data::records::Columns;
use duel_data::rows::{FindingKind, RowSource, prepare};
use duel_data::{Encoder, TextTokenizer};
use duel_spec::seeds::{Rng, derive};
use duel_spec::{LossTurns, Overlong, Split};
use rand::RngExt;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// `<pad>`, `<bos>` and `<eos>` are 0, 1 and 2.
fn tokenizer() -> TextTokenizer {
    let texts = ["p q r s v validation test a b c d x y z user assistant"];
    TextTokenizer::train(texts.into_iter(), 300).unwrap()
}

fn encoder() -> Encoder {
    Encoder::new(tokenizer(), None, 2).for_model(300, 0)
}

/// Of conversations: each turn ends with EOS and a line break.
fn chat_encoder() -> Encoder {
    const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}<eos>\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    Encoder::new(tokenizer(), Some(ChatTemplate::new(TEMPLATE).unwrap()), 2).for_model(300, 0)
}

fn source(files: Vec<(Option<Split>, PathBuf)>) -> RowSource {
    RowSource {
        files,
        columns: Columns::default(),
        holdout: 0.0,
        prompt_tokens: 50,
        response_tokens: 50,
        long_prompts: Overlong::Drop,
        long_responses: Overlong::Drop,
        most: [100, 100],
        conversations: false,
    }
}

fn write(path: &Path, rows: impl IntoIterator<Item = Value>) {
    std::fs::write(path, rows.into_iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

/// Checks rows that stand in one file.
fn check_rows(rows: impl IntoIterator<Item = Value>, encoder: &Encoder, examples: usize) -> DataReport {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    write(&path, rows);
    check(&source(vec![(None, path)]), Some(encoder), examples, |_, _| ()).unwrap()
}

/// The lines of a kind of finding, and what is said of the first.
fn lines(report: &DataReport, kind: FindingKind) -> (Vec<usize>, String) {
    let first = report.stats.first(kind);
    (first.iter().map(|row| row.line).collect(), first.first().map_or(String::new(), |row| row.what.clone()))
}

/// Words without meaning, of few kinds, so that rows repeat.
fn words(rng: &mut Rng, most: usize) -> String {
    let count = rng.random_range(0..=most);
    (0..count).map(|_| ["a", " b", " c", "<eos>", " d"][rng.random_range(0..5)]).collect()
}

/// A row of any kind, or what is no row.
fn any_row(rng: &mut Rng, begins: &str) -> String {
    let prompt = format!("{begins}{} {}", rng.random_range(0..12), words(rng, 3));
    let [first, second] = [(); 2].map(|()| words(rng, 2));
    match rng.random_range(0..20) {
        0 => "no row".into(),
        1 => json!({"prompt": prompt, "chosen": "<bos>", "rejected": second}).to_string(),
        2 => json!({"prompt": prompt}).to_string(),
        3..7 => json!({"prompt": prompt, "completion": first, "label": rng.random::<bool>()}).to_string(),
        _ => json!({"prompt": prompt, "chosen": first, "rejected": second}).to_string(),
    }
}

/// Random files, settings and limits: of each split check counts the very pairs that preparation writes, and it refuses the files that
/// preparation refuses, with the same words.
#[test]
fn check_counts_what_a_run_keeps() {
    let folder = tempfile::tempdir().unwrap();
    let (mut prepared, mut refused, encoder) = (0, 0, encoder());
    for case in 0..300 {
        let mut rng = derive(1, "checked", case, "rows");
        let splits = Split::ALL;
        let is_split = rng.random::<bool>();
        let files = if is_split { splits.map(Some).to_vec() } else { vec![None] };
        let files: Vec<(Option<Split>, PathBuf)> = files
            .into_iter()
            .map(|split| {
                let path = folder.path().join(format!("{}.jsonl", split.map_or("all", Split::name)));
                // prompts of their own for each file, or the same ones
                let begins = split.filter(|_| case % 3 > 0).map_or("p", |split| ["p", "q", "r"][split as usize]);
                let rows: Vec<String> = (0..40).map(|_| any_row(&mut rng, begins)).collect();
                std::fs::write(&path, rows.join("\n")).unwrap();
                (split, path)
            })
            .collect();
        let overlong = |rng: &mut Rng| if rng.random::<bool>() { Overlong::Cut } else { Overlong::Drop };
        let source = RowSource {
            holdout: 0.3,
            prompt_tokens: rng.random_range(3..12),
            response_tokens: rng.random_range(2..7),
            long_prompts: overlong(&mut rng),
            long_responses: overlong(&mut rng),
            most: [rng.random_range(1..30), rng.random_range(1..12)],
            ..source(files)
        };
        let report = check(&source, Some(&encoder), 0, |_, _| ()).unwrap();
        let unlimited =
            check(&RowSource { most: [usize::MAX; 2], ..source.clone() }, Some(&encoder), 0, |_, _| ()).unwrap();
        assert_eq!(report.stats.usable, unlimited.stats.usable, "limits change what is kept, not what could be");
        match prepare(&source, &encoder, folder.path()) {
            Ok(stats) => {
                assert_eq!((&stats, &report.refusal), (&report.stats, &None), "case {case}");
                let written = std::fs::read_to_string(folder.path().join("rows.jsonl")).unwrap();
                let rows: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
                let of_split = |split: &str| rows.iter().filter(|row| row["split"] == split).count();
                assert_eq!(["train", "validation", "test"].map(of_split), report.stats.kept_by_split, "case {case}");
                let unpaired = rows.iter().filter(|row| row.get("rejected_prompt").is_some()).count();
                assert!(unpaired <= report.stats.unpaired, "case {case}");
                prepared += 1;
            }
            Err(error) => {
                assert_eq!(report.refusal, Some(error.to_string()), "case {case}");
                refused += 1;
            }
        }
    }
    assert!(prepared > 100 && refused > 30, "{prepared} prepared, {refused} refused");
}

#[test]
fn long_rows_are_left_out_or_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let pair =
        |prompt: &str, chosen: &str, rejected: &str| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
    let rows = [
        pair("<bos>abcd", "x", "y"),     // cut at its beginning, but for BOS
        pair("<bos>ab", "xyzx", "y"),    // cut at its end
        pair("<bos>ac", "xyzx", "xyza"), // the same once cut
        pair("<bos>ad", "xy", "z"),      // fits with its end
    ];
    write(&path, rows);
    let drop = RowSource { prompt_tokens: 3, response_tokens: 3, ..source(vec![(Some(Split::Train), path)]) };
    let cut = RowSource { long_prompts: Overlong::Cut, long_responses: Overlong::Cut, ..drop.clone() };
    let encoder = encoder().with_bos(Some(1));
    use FindingKind::{PromptsCut, PromptsTooLong, ResponsesCut, ResponsesTooLong, Same};
    let kinds = [PromptsTooLong, ResponsesTooLong, PromptsCut, ResponsesCut, Same];
    let report = check(&drop, Some(&encoder), 9, |_, _| ()).unwrap();
    assert_eq!(kinds.map(|kind| report.count(kind)), [1, 2, 0, 0, 0]);
    assert_eq!((report.stats.kept, report.examples.len()), (1, 1));
    let report = check(&cut, Some(&encoder), 9, |_, _| ()).unwrap();
    assert_eq!(kinds.map(|kind| report.count(kind)), [0, 0, 1, 2, 1]);
    assert_eq!((report.stats.kept, report.prompt.unwrap().most), (3, 5), "lengths are of what stands in the file");
    let texts: Vec<Vec<String>> = report
        .examples
        .iter()
        .map(|row| row.parts.iter().map(|part| part.tokens.iter().map(|token| &*token.text).collect()).collect())
        .collect();
    assert_eq!(
        texts,
        [["<bos>cd", "x<eos>", "y<eos>"], ["<bos>ab", "xyz", "y<eos>"], ["<bos>ad", "xy<eos>", "z<eos>"]]
    );
    assert_eq!(report.examples[0].notes, ["`prompt` has 5 tokens, more than 3"]);
}

/// Prompts that are the same once cut are one prompt: of one split, and a leak between files.
#[test]
fn prompts_that_are_cut_to_the_same_are_in_one_split() {
    let folder = tempfile::tempdir().unwrap();
    let [train, test] = ["train", "test"].map(|name| folder.path().join(format!("{name}.jsonl")));
    write(&train, [json!({"prompt": "abcd", "chosen": " x", "rejected": " y"})]);
    write(&test, [json!({"prompt": "xbcd", "chosen": " x", "rejected": " z"})]);
    let uncut = source(vec![(Some(Split::Train), train), (Some(Split::Test), test)]);
    let cut = RowSource { long_prompts: Overlong::Cut, prompt_tokens: 3, ..uncut.clone() };
    let leaks = |source| check(source, Some(&encoder()), 0, |_, _| ()).unwrap().count(FindingKind::Leaks);
    assert_eq!((leaks(&uncut), leaks(&cut)), (0, 1));
}

/// A file of test rows leaves the validation prompts, and only these, to be held out of the others; and the other way round.
#[test]
fn splits_without_a_file_are_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |name: &str, prompts: std::ops::Range<usize>| {
        let path = folder.path().join(format!("{name}.jsonl"));
        write(&path, prompts.map(|i| json!({"prompt": format!("{name} {i}"), "chosen": " x", "rejected": " y"})));
        path
    };
    let (all, own) = (rows("all", 0..400), rows("own", 0..30));
    let kept = |files| {
        let source = RowSource { holdout: 0.2, most: [1000, 1000], ..source(files) };
        check(&source, Some(&encoder()), 0, |_, _| ()).unwrap().stats.kept_by_split
    };
    let [train, validation, test] = kept(vec![(None, all.clone())]);
    assert!([validation, test].iter().all(|n| (60..100).contains(n)), "{validation} and {test} of 400");
    assert_eq!(train + validation + test, 400);
    let with_test = kept(vec![(None, all.clone()), (Some(Split::Test), own.clone())]);
    assert_eq!(with_test, [train + test, validation, 30]);
    let [rest, held_out, of_file] = kept(vec![(None, all), (Some(Split::Validation), own)]);
    assert_eq!((rest + of_file, held_out), (400, 30));
    assert!((60..100).contains(&of_file), "{of_file} of 400");
}

#[test]
fn scores_against_the_order_and_ties_are_listed() {
    let row = |prompt: &str, more: Value| {
        let mut row = json!({"prompt": prompt, "chosen": " x", "rejected": " y"});
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let rows = [
        row("a", json!({"score_chosen": 2, "score_rejected": 7})),
        row("b", json!({"score_chosen": 5, "score_rejected": 5})),
        row("c", json!({"score_chosen": "7.5", "score_rejected": "3"})),
        row("d", json!({"margin": "-1.5"})),
        row("p", json!({"margin": 0})),
        row("q", json!({"margin": 1, "score_chosen": 1, "score_rejected": 2})), // the margin is what is read
    ];
    let report = check_rows(rows, &encoder(), 0);
    let words = |text: &str| text.to_owned();
    let against = lines(&report, FindingKind::ScoresAgainstOrder);
    assert_eq!(against, (vec![1, 4], words("`score_chosen` is 2, `score_rejected` 7")));
    assert_eq!(lines(&report, FindingKind::Ties), (vec![2, 5], words("`score_chosen` is 5, `score_rejected` 5")));
    assert_eq!((report.stats.kept, report.needs_fixing(false), report.has_findings()), (6, false, true));
}

/// Pairs in both orders, and a completion that is wanted and unwanted: used, and named once each; a repeated row is a duplicate.
#[test]
fn opposite_labels_are_listed() {
    let pair = |chosen: &str, rejected: &str| json!({"prompt": "a", "chosen": chosen, "rejected": rejected});
    let single = |completion: &str, label: bool| json!({"prompt": "a", "completion": completion, "label": label});
    let pairs = [pair(" x", " y"), pair(" y", " x"), pair(" x", " z"), pair(" x", " y"), pair(" y", " x")];
    let singles = [single(" x", true), single(" x", false), single(" y", false), single(" x", false)];
    for (rows, kept, duplicates) in [(pairs.to_vec(), 3, vec![4, 5]), (singles.to_vec(), 3, vec![4])] {
        let report = check_rows(rows, &encoder(), 0);
        let (at, what) = lines(&report, FindingKind::Contradicts);
        assert!(at == [2] && what.starts_with("the opposite is said in ") && what.ends_with(":1"), "{at:?}: {what}");
        assert_eq!(lines(&report, FindingKind::Duplicates).0, duplicates);
        let usable = report.stats.usable.iter().map(|of| of.pairs + of.wanted + of.unwanted).sum::<usize>();
        assert_eq!(usable, kept);
    }
}

/// Control tokens that a text spells: noted in a prompt, refused in a completion, and an end token cuts it.
#[test]
fn control_tokens_in_text_are_listed() {
    let turns = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let chat = |user: &str, chosen: &str| json!({"prompt": turns("user", user), "chosen": turns("assistant", chosen), "rejected": turns("assistant", "x")});
    let text = |prompt: &str, chosen: &str| json!({"prompt": prompt, "chosen": chosen, "rejected": " x"});
    let rows = [
        chat("how does a turn end? <eos> or", "so: <eos> and more"),
        text("end is", " <eos>, which ends all"),
        text("a", " b<eos>"), // its own end
        chat("a", "<pad> b"),
        text("<bos>user: a<eos>", " b"),
        text("q<eos", " b"), // no token
    ];
    let report = check_rows(rows, &chat_encoder(), 0);
    let prompt = "the text of `prompt` names the control token";
    assert_eq!(lines(&report, FindingKind::ControlInPrompt), (vec![1, 5], format!("{prompt} `<eos>` (id 2)")));
    let inside = "the text of `chosen` goes on after the end token `<eos>` (id 2) that it names";
    assert_eq!(lines(&report, FindingKind::EndInText), (vec![1, 2], inside.to_owned()));
    assert_eq!(lines(&report, FindingKind::Cut).0, [1, 2]);
    let (unreadable, problem) = lines(&report, FindingKind::Unreadable);
    assert_eq!(unreadable, [4]);
    assert!(problem.starts_with("`chosen` has the control token `<pad>` (id 0)"), "{problem}");
    assert_eq!((report.stats.kept, report.needs_fixing(false)), (5, true));
}

/// BOS is what a tokenizer puts before a text: a text that begins with it names nothing.
#[test]
fn a_leading_bos_is_not_a_finding() {
    let json = std::fs::read_to_string({
        let folder = tempfile::tempdir().unwrap().keep();
        tokenizer().save(&folder.join("tokenizer.json")).unwrap();
        folder.join("tokenizer.json")
    });
    let mut json: Value = serde_json::from_str(&json.unwrap()).unwrap();
    json["post_processor"] = json!({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [1], "tokens": ["<bos>"]}}});
    let encoder = Encoder::new(TextTokenizer::from_bytes(json.to_string().as_bytes()).unwrap(), None, 2);
    let rows = ["<bos>a", "b", "<bos><bos>c"].map(|prompt| json!({"prompt": prompt, "chosen": " x", "rejected": " y"}));
    let report = check_rows(rows, &encoder, 0);
    assert_eq!(lines(&report, FindingKind::ControlInPrompt).0, [3]);
}

#[test]
fn odd_characters_are_listed_by_kind() {
    let pair = |prompt: &str, chosen: &str| json!({"prompt": prompt, "chosen": chosen, "rejected": " x"});
    let rows = [
        pair("plain", " text"),
        pair("zero\u{200b}width", " a"),
        pair("a", " 10\u{a0}km"),
        pair("b", " \u{202e}c"),
        pair("c", " caf\u{fffd}"),
        pair("d", " \u{0}"),
        pair("p", " \u{feff}x"),
    ];
    let report = check_rows(rows, &encoder(), 0);
    use FindingKind::{Bidirectional, ControlCharacters, NonBreakingSpaces, Replacement, ZeroWidth};
    let kinds = [ZeroWidth, NonBreakingSpaces, Bidirectional, Replacement, ControlCharacters];
    assert_eq!(kinds.map(|kind| lines(&report, kind).0), [vec![2, 7], vec![3], vec![4], vec![5], vec![6]]);
    assert_eq!(lines(&report, NonBreakingSpaces).1, "`chosen` has U+00A0 as character 4");
    assert!(!report.needs_fixing(false) && report.has_findings());
    // half a character, as other programs escape it, is no text
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, r#"{"prompt": "a", "chosen": "\ud83d", "rejected": "b"}"#).unwrap();
    let report = check(&source(vec![(None, path)]), None, 0, |_, _| ()).unwrap();
    let (unreadable, problem) = lines(&report, FindingKind::Unreadable);
    assert!(unreadable == [1] && problem.contains("half of a surrogate pair"), "{problem}");
}

/// What is the same or empty is so as tokens, whatever stands in the file.
#[test]
fn completions_are_compared_after_encoding() {
    let pair =
        |prompt: &str, chosen: &str, rejected: &str| json!({"prompt": prompt, "chosen": chosen, "rejected": rejected});
    let rows = [
        pair("a", " b", " b<eos>"),
        pair("b", "<eos>", " x"),
        pair("c", " x<eos> y", " x<eos> z"), // the same once cut
        pair("d", " x", " y"),
        pair("d", " x<eos>", " y"), // a duplicate
    ];
    let report = check_rows(rows, &encoder(), 0);
    let words = |text: &str| text.to_owned();
    assert_eq!(lines(&report, FindingKind::Same), (vec![1, 3], words("`chosen` and `rejected` are the same tokens")));
    assert_eq!(
        lines(&report, FindingKind::Empty),
        (vec![2], words("`chosen` is empty: only its end token is learned"))
    );
    assert_eq!(lines(&report, FindingKind::Duplicates).0, [5]);
    assert_eq!((report.stats.kept, report.stats.prompts), (2, 4));
}

/// A completion of several turns is empty where the loss is on nothing but end tokens, whatever else stands in it.
#[test]
fn completions_are_empty_by_what_carries_the_loss() {
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    let completion = |last: &str| json!([turn("assistant", "a x"), turn("user", "b"), turn("assistant", last)]);
    let rows = || {
        ["", "c z"].map(
            |last| json!({"prompt": [turn("user", "p")], "chosen": completion(last), "rejected": completion("d y")}),
        )
    };
    let counted = |turns| lines(&check_rows(rows(), &chat_encoder().with_loss_on(turns), 0), FindingKind::Empty);
    assert_eq!(counted(LossTurns::Last), (vec![1], "`chosen` is empty: only its end token is learned".to_owned()));
    assert_eq!(counted(LossTurns::All).0, [0; 0]);
}

/// Completions of one kind alone cannot be learned from, and check says so as a run does.
#[test]
fn completions_of_one_kind_are_refused() {
    let rows = (0..9).map(|i| json!({"prompt": format!("p {i}"), "completion": " a", "label": true}));
    let report = check_rows(rows, &encoder(), 0);
    assert_eq!((report.stats.kept, report.stats.one_kind), (0, [0, 9]));
    let refusal = report.refusal.clone().unwrap();
    assert!(
        refusal.starts_with("all 9 completions with a label are wanted") && report.needs_fixing(false),
        "{refusal}"
    );
}

/// Each token's own text, its place under the loss, and what is a control token.
#[test]
fn rows_are_given_token_by_token() {
    let turns = |role: &str, content: &str| json!([{"role": role, "content": content}]);
    let rows = [
        json!({"prompt": "a"}), // a prompt alone is used, and has no completion
        json!({"prompt": turns("user", "a é"), "chosen": turns("assistant", "b"), "rejected": turns("assistant", " ")}),
        json!({"prompt": "a", "chosen": " b", "rejected": " b"}), // not used
    ];
    let report = check_rows(rows, &chat_encoder(), 9);
    assert_eq!(report.examples.iter().map(|row| row.line).collect::<Vec<_>>(), [1, 2]);
    let row = &report.examples[1];
    assert_eq!(row.parts.iter().map(|part| part.name).collect::<Vec<_>>(), ["prompt", "chosen", "rejected"]);
    let texts = |index: usize| row.parts[index].tokens.iter().map(|token| &*token.text).collect::<Vec<_>>();
    let prompt = texts(0);
    assert_eq!(prompt.concat(), "user: a Ã©<eos>\nassistant: ", "a part of a character by its name in the vocabulary");
    assert_eq!((texts(1), texts(2)), (vec!["b", "<eos>"], vec![" ", "<eos>"]));
    for part in &row.parts {
        assert!(part.tokens.iter().all(|token| token.is_trained == (part.name != "prompt")));
        assert!(part.tokens.iter().all(|token| token.is_control == (token.text == "<eos>")));
    }
}

/// Of several turns in a completion, only the assistant's carry the loss; where none of their tokens are left, the row is left out.
#[test]
fn tokens_without_loss_are_marked_and_cut_with_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let several = json!([turn("assistant", "y"), turn("user", "b"), turn("assistant", "c")]);
    write(&path, [json!({"prompt": [turn("user", "p")], "chosen": several, "rejected": [turn("assistant", "x")]})]);
    let uncut = source(vec![(None, path)]);
    let encoder = chat_encoder().with_loss_on(LossTurns::Last);
    let report = check(&uncut, Some(&encoder), 1, |_, _| ()).unwrap();
    let chosen = &report.examples[0].parts[1].tokens;
    let text = |is_trained: bool| {
        chosen.iter().filter(|token| token.is_trained == is_trained).map(|token| &*token.text).collect::<String>()
    };
    assert_eq!((text(false), text(true)), ("y<eos>\nuser: b<eos>\nassistant: ".to_owned(), "c<eos>".to_owned()));
    for (response_tokens, count) in [(chosen.len(), 1), (chosen.len() - 1, 1), (chosen.len() - 2, 0)] {
        let cut = RowSource { response_tokens, long_responses: Overlong::Cut, ..uncut.clone() };
        let report = check(&cut, Some(&encoder), 0, |_, _| ()).unwrap();
        assert_eq!((report.stats.kept, report.count(FindingKind::ResponsesTooLong)), (count, 1 - count));
        assert!(
            count == 1 || lines(&report, FindingKind::ResponsesTooLong).1.contains("no token that carries the loss")
        );
    }
}

#[test]
fn what_a_template_does_with_tools_is_said() {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let row = |prompt: &str| {
        let [chosen, rejected] = ["x", "y"].map(|answer| json!([turn("assistant", answer)]));
        json!({"prompt": [turn("user", prompt)], "chosen": chosen, "rejected": rejected, "tools": [{"name": "z"}]})
    };
    let encoder = |template: &str| Encoder::new(tokenizer(), Some(ChatTemplate::new(template).unwrap()), 2);
    let plain = "{% for m in messages %}{{ m.role + m.content }}<eos>{% endfor %}";
    let with_tools = "{{ tools[0].name }}{% for m in messages %}{{ m.role + m.content }}<eos>{% endfor %}";
    for (template, is_said) in [(plain, true), (with_tools, false)] {
        let report = check_rows([row("p"), row("q")], &encoder(template), 0);
        let notes = &report.columns[0].plan.notes;
        assert_eq!(notes.iter().any(|note| note.contains("does not read `tools`")), is_said, "{notes:?}");
    }
    let mut without_content = row("p");
    without_content["chosen"] = json!([{"role": "assistant", "tool_calls": []}]);
    let report = check_rows([without_content, row("q")], &encoder(plain), 0);
    let (rows, problem) = lines(&report, FindingKind::Unreadable);
    assert_eq!(rows, [1]);
    assert!(
        problem.starts_with("the chat template refuses it: ") && problem.ends_with("of the template)"),
        "{problem}"
    );
}
