//! Files of every layout and format.

use crate::row_file::{RowFile, jsonl, rows, turns};
use duel_data::records::{self, Columns};
use std::path::PathBuf;

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
    let parquet = include_bytes!("../labels.parquet");
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
        ("rows.parquet", include_bytes!("../turns.parquet")),
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
