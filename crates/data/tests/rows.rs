//! Files of rows as other programs write them, and single completions that come to stand in twos.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::chat::{ChatTemplate, Conversation};
use duel_data::check;
use duel_data::pairs::hash;
use duel_data::records::{self, Columns, Content, Record};
use duel_data::rows::{FindingKind, RowSource, RowsWorld, prepare};
use duel_data::{Encoder, TextTokenizer};
use duel_spec::{Overlong, Split, TokenSpec};
use std::path::{Path, PathBuf};

fn columns() -> Columns {
    Columns::default()
}

fn read(path: &Path) -> Vec<Result<Record, String>> {
    let one = |records: Vec<(Record, ())>| records.into_iter().next().unwrap().0;
    records::read(path, &columns(), |_| ()).unwrap().map(|(_, row)| row.map(one)).collect()
}

/// The turns' words, or the text.
fn words(content: &Content) -> Vec<(&str, &str)> {
    match content {
        Content::Text(text) => vec![("", text)],
        Content::Conversation(conversation) => {
            conversation.turns.iter().map(|turn| (turn.role(), turn.fields()["content"].as_str().unwrap())).collect()
        }
    }
}

/// Written by pyarrow: lists of structs under snappy, numbers of two widths, and nothing where a number could be.
#[test]
fn parquet_of_turns_is_read() {
    let rows = read(Path::new("tests/turns.parquet"));
    let Ok(Record::Pair { prompt, chosen, rejected, margin: None, scores: Some([4.5, 2.0]) }) = &rows[0] else {
        panic!("{:?}", rows[0])
    };
    assert_eq!(words(prompt), [("user", "What color is the sky?")]);
    assert_eq!(words(chosen), [("assistant", "It is blue.")]);
    assert_eq!(words(rejected), [("assistant", "It is green.")]);
    let Ok(Record::Pair { chosen, rejected, scores: None, .. }) = &rows[1] else { panic!("{:?}", rows[1]) };
    assert_eq!([words(chosen), words(rejected)], [[("assistant", "Ich heiße Anna.")], [("assistant", "…")]]);
    assert_eq!(rows.len(), 2);
}

/// Written by pyarrow under zstd; the last label is null.
#[test]
fn parquet_of_labels_is_read() {
    let rows = read(Path::new("tests/labels.parquet"));
    let desirable =
        rows.iter().map(|row| matches!(row, Ok(Record::Judged { desirable: true, .. }))).collect::<Vec<_>>();
    assert_eq!(desirable, [true, false, false]);
    assert_eq!(rows[2], Err("`completion` without `label`: is it wanted or not?".into()));
}

/// Written by pyarrow without dictionaries: text by its lengths, and by what it has in common with the text before it.
#[test]
fn parquet_of_delta_encoded_columns_is_read() {
    let text = |text: &str| Content::Text(text.into());
    let rows = [
        ("What is the capital of France?", "Paris.", "Lyon.", [9.0, 1.0]),
        ("What is the capital of Spain?", "Madrid.", "Lisbon.", [8.0, 2.0]),
        ("What is 2 + 2?", "4", "5", [7.0, 7.0]),
        ("Naïve question", "", "No.", [-3.0, 4.0]),
    ];
    let expected = rows.map(|(prompt, chosen, rejected, scores)| {
        let (prompt, chosen, rejected) = (text(prompt), text(chosen), text(rejected));
        Ok(Record::Pair { prompt, chosen, rejected, margin: None, scores: Some(scores) })
    });
    assert_eq!(read(Path::new("tests/delta.parquet")), expected);
}

/// A list is read item by item; where it is damaged, the rows before are there and the place is named.
#[test]
fn a_json_list_is_read_item_by_item() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.json");
    let read_text = |text: &str| -> Vec<Result<Record, String>> {
        std::fs::write(&file, text).unwrap();
        read(&file)
    };
    let row = r#"{"prompt": "a } ] , b", "chosen": "c", "rejected": "d"}"#;
    let rows = read_text(&format!("\n [ {row} ,\n{row}\t] \n"));
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| matches!(row, Ok(Record::Pair { .. }))), "{rows:?}");
    assert!(read_text(" [ ] ").is_empty());
    let problem = |text: &str| read_text(text).pop().unwrap().unwrap_err();
    assert_eq!(problem(&format!("[{row} {row}]")), "expected `,` or `]` after a row, found `{`");
    assert_eq!(problem(&format!("[{row}")), "the list is not closed");
    assert_eq!(problem(&format!("[{row}, 3]")), "an item of the list is no object: expected `{`, found `3`");
    assert!(problem(&format!("[{row}, {{\"prompt\": ]")).starts_with("it is not valid JSON"));
    assert_eq!(read_text(&format!("[{row}, 3, {row}]")).len(), 2);
}

/// Text that looks like a number or a flag is text in a column of text.
#[test]
fn csv_knows_by_the_column_what_a_cell_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.csv");
    let turns = r#""[{""role"": ""user"", ""content"": ""2 + 2?""}]""#;
    let lines = ["prompt,chosen,rejected,margin", "12,true,007,1.5", &format!("{turns},4,5,"), "[sic],a,b,x"];
    std::fs::write(&file, lines.join("\n")).unwrap();
    let rows = read(&file);
    let Ok(Record::Pair { prompt, chosen, rejected, margin: Some(1.5), .. }) = &rows[0] else {
        panic!("{:?}", rows[0])
    };
    assert_eq!([words(prompt), words(chosen), words(rejected)], [[("", "12")], [("", "true")], [("", "007")]]);
    let Ok(Record::Pair { prompt, margin: None, .. }) = &rows[1] else { panic!("{:?}", rows[1]) };
    assert_eq!(words(prompt), [("user", "2 + 2?")]);
    assert_eq!(rows[2], Err("`margin` is `x`, not a number".into()));
    let labels = folder.path().join("labels.csv");
    std::fs::write(&labels, "prompt,completion,label\na,b,True\na,c,0\na,d,no\n").unwrap();
    let label = |row: Result<Record, String>| match row {
        Ok(Record::Judged { desirable, .. }) => Ok(desirable),
        Ok(other) => panic!("{other:?}"),
        Err(what) => Err(what),
    };
    let actual: Vec<_> = read(&labels).into_iter().map(label).collect();
    assert_eq!(actual, [Ok(true), Ok(false), Err("`label` is `no`; accepted: true, false, 1, 0".to_owned())]);
}

/// A file of prompts alone is a world without rows; in one split only it is refused.
#[test]
fn prompts_alone_are_a_world() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = source(folder.path(), &[]);
    for (split, path) in &source.files {
        std::fs::write(path, format!(r#"{{"prompt": "p {}"}}"#, split.unwrap().name())).unwrap();
    }
    let tally = prepare(&source, &encoder(), folder.path()).unwrap();
    assert_eq!((tally.read, tally.kept), (3, 0));
    source.files.truncate(1);
    assert!(prepare(&source, &encoder(), folder.path()).is_err());
}

/// What stands in an empty `start` of files: one each for training, validation and test.
fn source(folder: &Path, train: &[&str]) -> RowSource {
    let rest = ["v {} a true", "v {} b false"].map(row);
    let files = [(Split::Train, train.iter().map(|line| row(line)).collect::<Vec<_>>())];
    let others = [Split::Validation, Split::Test]
        .map(|split| (split, rest.iter().map(|line| line.replace("{}", split.name())).collect()));
    let written = files.into_iter().chain(others).map(|(split, lines)| {
        let path = folder.join(format!("{}.jsonl", split.name()));
        std::fs::write(&path, lines.join("\n")).unwrap();
        (Some(split), path)
    });
    source_of(written.collect())
}

fn source_of(files: Vec<(Option<Split>, PathBuf)>) -> RowSource {
    RowSource {
        files,
        columns: columns(),
        holdout: 0.0,
        prompt_tokens: 20,
        response_tokens: 20,
        long_prompts: Overlong::Drop,
        long_responses: Overlong::Drop,
        most: [4, 4],
        conversations: false,
    }
}

/// One file, none of which is held out.
fn file_source(path: &Path) -> RowSource {
    RowSource { files: vec![(None, path.into())], most: [100, 100], ..source_of(vec![]) }
}

/// `PROMPT COMPLETION LABEL`, where prompts may have spaces.
fn row(line: &str) -> String {
    let mut parts = line.rsplitn(3, ' ');
    let [label, completion, prompt] = [(); 3].map(|()| parts.next().unwrap());
    format!(r#"{{"prompt": "{prompt}", "completion": "{completion}", "label": {label}}}"#)
}

fn encoder() -> Encoder {
    let texts = ["p q r s v validation test a b c d x y z"];
    Encoder::new(TextTokenizer::train(texts.into_iter(), 300).unwrap(), None, 2)
}

#[test]
fn completions_with_a_label_stand_in_twos_each_to_its_own_prompt() {
    let folder = tempfile::tempdir().unwrap();
    let lines = ["p a true", "q b true", "r c true", "s d false", "s d false"];
    let tally = prepare(&source(folder.path(), &lines), &encoder(), folder.path()).unwrap();
    assert_eq!((tally.read, tally.kept, tally.unpaired, tally.count(FindingKind::Duplicates)), (9, 5, 5, 1));
    let (pad, bos, eos) = (0, 1, 2);
    let space = TokenSpec {
        vocabulary: 300,
        pad,
        bos,
        eos,
        other_eos: vec![],
        prompt_tokens: 20,
        response_tokens: 20,
        allowed_tokens: None,
        force_eos: false,
    };
    let world = RowsWorld::open(folder.path(), encoder(), space).unwrap();
    let text = |ids: &Vec<u32>| duel_data::Detokenize::text(&world, ids).unwrap();
    let train: Vec<_> = world.rows().iter().filter(|row| row.split == Split::Train).collect();
    let mut actual: Vec<[String; 4]> =
        train.iter().map(|row| [&row.prompt, &row.chosen, row.prompt_of_rejected(), &row.rejected].map(text)).collect();
    actual.sort();
    assert_eq!(actual, [["p", "a", "s", "d"], ["q", "b", "s", "d"], ["r", "c", "s", "d"]]);
    // of one prompt: a pair like any other
    let test = world.rows().iter().find(|row| row.split == Split::Test).unwrap();
    assert_eq!((test.rejected_prompt.as_ref(), text(&test.prompt)), (None, "v test".into()));
    // the other prompt is part of what the rows are
    let other = duel_data::pairs::PreferenceRow { rejected_prompt: Some(vec![5]), ..train[0].clone() };
    assert_ne!(hash(&[train[0].clone()]), hash(&[other]));
}

#[test]
fn one_kind_of_label_alone_makes_no_rows() {
    let folder = tempfile::tempdir().unwrap();
    let refused = prepare(&source(folder.path(), &["p a true", "q b true"]), &encoder(), folder.path());
    assert!(refused.unwrap_err().to_string().contains("0 of train, 1 of validation, 1 of test"));
}

/// What has no end, or is no file, is refused before it is opened; what ends in an error ends there.
#[test]
fn what_has_no_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let refused = |path: &Path| records::open(path).err().unwrap().to_string();
    std::fs::create_dir(path("folder.jsonl")).unwrap();
    assert!(refused(&path("folder.jsonl")).ends_with("is a folder, not a file"));
    std::os::unix::fs::symlink("/dev/zero", path("zero.csv")).unwrap();
    assert!(refused(&path("zero.csv")).ends_with("is a pipe or a device, not a file"));
    assert!(records::hash(&path("zero.csv")).is_err());
    assert!(std::process::Command::new("mkfifo").arg(path("pipe.json")).status().unwrap().success());
    assert!(refused(&path("pipe.json")).ends_with("is a pipe or a device, not a file"));
    assert!(records::hash(&path("pipe.json")).is_err());
    // rows without an end: what stands before them is read
    let (row, long) = (r#"{"prompt": "p", "chosen": "c", "rejected": "d"}"#, "x".repeat(33 << 20));
    let files = [
        ("long.jsonl", format!("{row}\n{{\"prompt\": \"{long}\"}}\n{row}\n")),
        ("long.json", format!("[{row}, {{\"prompt\": \"{long}\"}}, {row}]")),
        ("long.csv", format!("prompt,chosen,rejected\np,c,d\n\"{long}\",c,d\np,c,d\n")),
    ];
    for (name, text) in files {
        std::fs::write(path(name), text).unwrap();
        let rows = read(&path(name));
        assert_eq!(rows.len(), 2, "{name}");
        assert!(
            rows[0].is_ok() && rows[1].as_ref().unwrap_err().contains("a row of more than 32 MiB"),
            "{name}: {:?}",
            rows[1]
        );
    }
    // endless at the beginning, where the names of columns should stand
    std::fs::write(path("names.csv"), long).unwrap();
    assert!(refused(&path("names.csv")).contains("a row of more than 32 MiB"));
}

/// Files of which the library's reader makes no end, or panics.
#[test]
fn damaged_parquet_is_one_error() {
    for name in ["tests/endless.parquet", "tests/contradicting.parquet"] {
        let errors = match records::open(Path::new(name)) {
            Ok(rows) => rows.filter(|(_, row)| row.is_err()).count(),
            Err(e) => {
                assert!(e.to_string().contains(name), "{e}");
                1
            }
        };
        assert_eq!(errors, 1, "{name}");
    }
}

/// Two columns of one name: nobody knows which is meant.
#[test]
fn names_are_not_used_twice() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.csv");
    std::fs::write(&file, "prompt,chosen,prompt\na,b,c\n").unwrap();
    assert!(records::open(&file).err().unwrap().to_string().ends_with("two columns are named `prompt`"));
    let file = folder.path().join("rows.jsonl");
    std::fs::write(&file, "{\"prompt\": \"a\", \"prompt\": \"b\"}\n").unwrap();
    assert!(read(&file)[0].as_ref().unwrap_err().starts_with("it is not valid JSON: `prompt` occurs twice"));
}

/// A prompt in the files of two splits is an error of the rows, with the places of both.
#[test]
fn a_prompt_in_two_splits_is_named_by_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path(), &["p a true", "q b false"]);
    let write = |split: &str, lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| row(line)).collect();
        std::fs::write(folder.path().join(format!("{split}.jsonl")), lines.join("\n")).unwrap();
    };
    write("validation", &["v a true", "v b false", "q c true"]);
    let error = prepare(&source, &encoder(), folder.path()).unwrap_err();
    let [train, validation] = ["train", "validation"].map(|name| folder.path().join(format!("{name}.jsonl")));
    let expected = format!("{}:3: its prompt also occurs in {}:2", validation.display(), train.display());
    assert_eq!(error.to_string(), format!("1 rows cannot be trained on:\n{expected}"));
    // check says so too
    for encoder in [None, Some(&encoder())] {
        let report = check::check(&source, encoder, 0, |_, _| ()).unwrap();
        let leaks = report.stats.first(FindingKind::Leaks);
        assert_eq!((report.count(FindingKind::Leaks), leaks[0].line), (1, 3));
        assert!(leaks[0].what.contains("train.jsonl:2") && report.needs_fixing(false));
        assert_eq!(report.refusal, Some(error.to_string()));
    }
}

/// What a response cannot be is refused by line, and what is lost is counted.
#[test]
fn what_cannot_be_said_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    let lines = [
        ("a", "b", "c"),
        ("a", "b <bos> c", "d"),       // a control token
        ("a", "b <pad>", "d"),         // PAD
        ("b", "c<eos> and more", "d"), // EOS before the end
        ("c", "d<eos>", "d"),          // the same once encoded
        ("d", "", "x"),                // nothing but its end
        ("", "x", "y"),                // no prompt
    ];
    let lines = lines.map(|(prompt, chosen, rejected)| {
        serde_json::json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}).to_string()
    });
    std::fs::write(&file, lines.join("\n")).unwrap();
    let encoder = encoder().for_model(300, 0);
    let check = |encoder: &Encoder| check::check(&file_source(&file), Some(encoder), 0, |_, _| ()).unwrap();
    let report = check(&encoder);
    let mut problems: Vec<(usize, &str)> = report
        .stats
        .findings
        .values()
        .flat_map(|finding| finding.first.iter().map(|problem| (problem.line, &*problem.what)))
        .collect();
    problems.sort_by_key(|(line, _)| *line);
    let control = |token, id| {
        format!(
            "`chosen` has the control token `{token}` (id {id}), but a response may only have `<eos>` (id 2), at its end"
        )
    };
    let expected = [
        (2, control("<bos>", 1)),
        (3, control("<pad>", 0)),
        (4, "a completion continues after its first end token, where it is cut".into()),
        (4, "the text of `chosen` goes on after the end token `<eos>` (id 2) that it names".into()),
        (5, "`chosen` and `rejected` are the same tokens".into()),
        (6, "`chosen` is empty: only its end token is learned".into()),
        (7, "`prompt` has no tokens".into()),
    ];
    assert_eq!(problems, expected.iter().map(|(line, what)| (*line, &**what)).collect::<Vec<_>>());
    use FindingKind::{Cut, Empty, Same, Unreadable};
    assert_eq!([Unreadable, Same, Cut, Empty].map(|kind| report.count(kind)), [3, 1, 1, 1]);
    assert_eq!(report.stats.kept, 3);
    // ids that the model has no row for
    let report = check(&self::encoder().for_model(20, 0));
    let first = &report.stats.first(Unreadable)[0].what;
    assert!(first.ends_with("but the model only has ids below 20"), "{first}");
    assert_eq!(report.stats.kept, 0);
}

/// Completions that are all wanted, or all unwanted, are neither thrown away for their prompts nor dropped beside others.
#[test]
fn completions_of_one_kind_are_refused_or_counted() {
    let folder = tempfile::tempdir().unwrap();
    let single = |rows: [&str; 3]| {
        let path = folder.path().join("single.jsonl");
        std::fs::write(&path, rows.map(row).join("\n")).unwrap();
        let files = vec![(Some(Split::Train), path)];
        prepare(&RowSource { files, ..source(folder.path(), &[]) }, &encoder(), folder.path())
    };
    let error = single(["p a true", "q b true", "r c true"]).unwrap_err();
    assert!(error.to_string().starts_with("all 3 completions with a label are wanted"), "{error}");
    assert!(error.hint().unwrap().contains("of the other kind"));
    let unwanted = single(["p a false", "q b false", "r c false"]).unwrap_err();
    assert!(unwanted.to_string().starts_with("all 3 completions with a label are unwanted"), "{unwanted}");

    // beside pairs they are left out, and that is said
    let paired = source(folder.path(), &["p a true", "q b true"]);
    let pair = r#"{"prompt": "s", "chosen": "c", "rejected": "d"}"#;
    let train = &paired.files[0].1;
    std::fs::write(train, std::fs::read_to_string(train).unwrap() + "\n" + pair).unwrap();
    let tally = prepare(&paired, &encoder(), folder.path()).unwrap();
    assert_eq!((tally.kept, tally.one_kind), (3, [0, 2]));
    assert!(tally.to_string().contains("2 wanted and 0 unwanted completions"), "{tally}");
}

/// Rows that had completions, none of which can be used, are no file of prompts.
#[test]
fn pairs_that_are_all_the_same_are_no_prompts_alone() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path(), &[]);
    for (split, path) in &source.files {
        std::fs::write(path, format!(r#"{{"prompt": "p {}", "chosen": "a", "rejected": "a"}}"#, split.unwrap().name()))
            .unwrap();
    }
    let refused = prepare(&source, &encoder(), folder.path()).unwrap_err();
    assert!(refused.to_string().contains("0 of train, 0 of validation, 0 of test"), "{refused}");
}

/// Fields of turns beside role and content reach the template in their order, whatever the file; null ones do not.
#[test]
fn turns_keep_their_fields() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    let call = r#"{"function": {"name": "f", "arguments": {"z": 1, "a": [2.0, null]}}}"#;
    let row = format!(
        r#"{{"prompt": [{{"role": "user", "name": "ann", "content": [{{"type": "text", "text": "Hi"}}], "none": null}}, {{"from": "gpt", "tool_calls": [{call}]}}],
            "chosen": "b", "rejected": "c"}}"#
    );
    std::fs::write(&file, row.replace('\n', " ")).unwrap();
    let rows = read(&file);
    let Ok(Record::Pair { prompt: Content::Conversation(Conversation { turns, .. }), .. }) = &rows[0] else {
        panic!("{:?}", rows[0])
    };
    let template = ChatTemplate::new("{% for m in messages %}{{ m | tojson }}\n{% endfor %}").unwrap();
    let expected = format!(
        "{}\n{{\"role\": \"assistant\", \"tool_calls\": [{call}]}}\n",
        r#"{"role": "user", "name": "ann", "content": "Hi"}"#
    );
    assert_eq!(template.render(turns, None, false).unwrap(), expected);
    assert_eq!((turns[0].text(), turns[1].role()), ("Hi".to_owned(), "assistant"));
    for (turn, problem) in [
        (r#"{"role": "user"}"#, "turn 1 of `prompt` has no `content` that is text"),
        (r#"{"role": "user", "content": 7}"#, "turn 1 of `prompt` has no `content` that is text"),
        (r#"{"role": 1, "content": "a"}"#, "turn 1 of `prompt` has no `role`"),
    ] {
        std::fs::write(&file, format!(r#"{{"prompt": [{turn}], "chosen": "b", "rejected": "c"}}"#)).unwrap();
        assert_eq!(read(&file), [Err(problem.to_owned())], "{turn}");
    }
}

#[test]
fn rows_whose_answer_changes_the_prompt_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.jsonl");
    let pair = r#"{"prompt": [{"role": "user", "content": "p"}], "chosen": "a", "rejected": "xb"}"#;
    let same = pair.replace("\"a\"", "\"xa\"").replace("\"p\"", "\"q\"");
    std::fs::write(&file, [pair, &same].join("\n")).unwrap();
    let source = "{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}x{% endif %}";
    let texts = ["p q r s v validation test a b c d x y z"];
    let tokenizer = TextTokenizer::train(texts.into_iter(), 300).unwrap();
    let encoder = Encoder::new(tokenizer, Some(ChatTemplate::new(source).unwrap()), 2);
    let report = check::check(&file_source(&file), Some(&encoder), 0, |_, _| ()).unwrap();
    let shortened = report.count(FindingKind::Shortened);
    assert_eq!((report.stats.read, report.stats.kept, shortened), (2, 2, 1), "{report:?}");
}
