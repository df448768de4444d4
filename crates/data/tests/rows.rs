//! Files of rows as other programs write them, and single completions that come to stand in twos.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::pairs::hash;
use duel_data::records::{self, Columns, Record, Said};
use duel_data::rows::{RowsWorld, Source, prepare};
use duel_data::{Encoder, TextTokenizer};
use duel_spec::{Space, Split};
use std::path::{Path, PathBuf};

fn columns() -> Columns {
    let [prompt, chosen, rejected] = ["prompt", "chosen", "rejected"].map(str::to_owned);
    Columns { prompt, chosen, rejected }
}

fn read(path: &Path) -> Vec<Result<Record, String>> {
    records::open(path).unwrap().map(|(_, row)| row.and_then(|row| Record::read(&row, &columns()))).collect()
}

/// The turns' words, or the text.
fn words(said: &Said) -> Vec<(&str, &str)> {
    match said {
        Said::Text(text) => vec![("", text)],
        Said::Turns(turns) => turns.iter().map(|turn| (&*turn.role, &*turn.content)).collect(),
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
    let wanted = rows.iter().map(|row| matches!(row, Ok(Record::Judged { wanted: true, .. }))).collect::<Vec<_>>();
    assert_eq!(wanted, [true, false, false]);
    assert_eq!(rows[2], Err("`completion` without `label`: is it wanted or not?".into()));
}

/// A list is read item by item; where it is damaged, the rows before are there and the place is named.
#[test]
fn a_json_list_is_read_item_by_item() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rows.json");
    let found = |text: &str| -> Vec<Result<Record, String>> {
        std::fs::write(&file, text).unwrap();
        read(&file)
    };
    let row = r#"{"prompt": "a } ] , b", "chosen": "c", "rejected": "d"}"#;
    let rows = found(&format!("\n [ {row} ,\n{row}\t] \n"));
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| matches!(row, Ok(Record::Pair { .. }))), "{rows:?}");
    assert!(found(" [ ] ").is_empty());
    let said = |text: &str| found(text).pop().unwrap().unwrap_err();
    assert_eq!(said(&format!("[{row} {row}]")), "after a row stands `{`, not `,` or `]`");
    assert_eq!(said(&format!("[{row}")), "the list does not end");
    assert_eq!(said(&format!("[{row}, 3]")), "a row of the list is no object");
    assert!(said(&format!("[{row}, {{\"prompt\": ]")).starts_with("it is no JSON"));
    assert_eq!(found(&format!("[{row}, 3, {row}]")).len(), 2);
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
    assert_eq!(rows[2], Err("`margin` is text, not a number".into()));
    let labels = folder.path().join("labels.csv");
    std::fs::write(&labels, "prompt,completion,label\na,b,True\na,c,0\na,d,no\n").unwrap();
    let wanted = |row: Result<Record, String>| match row {
        Ok(Record::Judged { wanted, .. }) => Ok(wanted),
        Ok(other) => panic!("{other:?}"),
        Err(what) => Err(what),
    };
    let found: Vec<_> = read(&labels).into_iter().map(wanted).collect();
    assert_eq!(found, [Ok(true), Ok(false), Err("`label` is text, not true or false".to_owned())]);
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
fn source(folder: &Path, train: &[&str]) -> Source {
    let rest = ["v {} a true", "v {} b false"].map(row);
    let files = [(Split::Train, train.iter().map(|line| row(line)).collect::<Vec<_>>())];
    let others = [Split::Validation, Split::Test]
        .map(|split| (split, rest.iter().map(|line| line.replace("{}", split.name())).collect()));
    let written = files.into_iter().chain(others).map(|(split, lines)| {
        let path = folder.join(format!("{}.jsonl", split.name()));
        std::fs::write(&path, lines.join("\n")).unwrap();
        (Some(split), path)
    });
    let files: Vec<(Option<Split>, PathBuf)> = written.collect();
    Source { files, columns: columns(), holdout: 0.0, prompt_tokens: 20, response_tokens: 20, most: [4, 4] }
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
    assert_eq!((tally.read, tally.kept, tally.unpaired, tally.duplicates), (9, 5, 5, 1));
    let (pad, bos, eos) = (0, 1, 2);
    let space =
        Space { vocabulary: 300, pad, bos, eos, prompt_tokens: 20, response_tokens: 20, actions: None, ends: false };
    let world = RowsWorld::open(folder.path(), encoder(), space).unwrap();
    let text = |ids: &Vec<u32>| duel_data::Texts::text(&world, ids).unwrap();
    let train: Vec<_> = world.rows().iter().filter(|row| row.split == Split::Train).collect();
    let mut found: Vec<[String; 4]> =
        train.iter().map(|row| [&row.prompt, &row.chosen, row.prompt_of_rejected(), &row.rejected].map(text)).collect();
    found.sort();
    assert_eq!(found, [["p", "a", "s", "d"], ["q", "b", "s", "d"], ["r", "c", "s", "d"]]);
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
