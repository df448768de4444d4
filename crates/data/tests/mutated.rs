//! Whole files of a person's rows and chat templates with something changed in them: whatever their bytes, they are
//! read or refused, in bounded time and memory and without a panic.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::chat::{ChatTemplate, Message};
use duel_data::check::check;
use duel_data::records::Columns;
use duel_data::rows::RowSource;
use duel_data::{Encoder, TextTokenizer};
use duel_spec::Overlong;
use duel_testing::mutated;

const TEMPLATE: &str = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}<eos>{% endfor %}";

fn encoder() -> Encoder {
    let texts = ["a good film is not a bad film user assistant <|user|> <|assistant|>"];
    let template = ChatTemplate::new(TEMPLATE).unwrap();
    Encoder::new(TextTokenizer::train(texts.into_iter(), 300).unwrap(), Some(template), 2).for_model(290, 0)
}

/// Checks mutated files of rows as `duel data check` does.
fn rows(name: &str, ending: &str, cases: u64, files: &[&[u8]], words: &[&str]) {
    let (folder, encoder) = (tempfile::tempdir().unwrap(), encoder());
    let path = folder.path().join(format!("rows.{ending}"));
    let columns = Columns::default();
    let source = RowSource {
        files: vec![(None, path.clone())],
        columns,
        holdout: 0.1,
        prompt_tokens: 20,
        response_tokens: 20,
        long_prompts: Overlong::Cut,
        long_responses: Overlong::Drop,
        most: [20, 20],
        conversations: false,
    };
    mutated::every(name, cases, files, words, |_, bytes| {
        std::fs::write(&path, bytes).unwrap();
        if let Ok(report) = check(&source, Some(&encoder), 2, |_, _| ()) {
            let read = report.stats.read;
            assert!(read <= 5000 * (bytes.len() + 1), "{read} rows of {} bytes", bytes.len());
        }
    });
}

const JSON: [&str; 14] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    "null",
    "true",
    "{\"role\": \"user\", \"content\": \"a\"}",
    "\"prompt\": ",
    "\\ud800",
    "\\u0000",
    "\u{feff}",
    "<pad>",
];

const PAIR: &str = r#"{"prompt": "a good", "chosen": " film", "rejected": " bad film", "margin": 0.5}"#;
const TURNS: &str = r#"{"prompt": [{"role": "user", "content": "is it good?"}], "chosen": [{"role": "assistant", "content": "good"}], "rejected": [{"role": "assistant", "content": "bad"}]}"#;
const LABEL: &str = r#"{"prompt": "a", "completion": "b", "label": true}"#;

#[test]
fn damaged_json_lines_are_read_or_refused() {
    let text = format!("{PAIR}\n{TURNS}\r\n\n{LABEL}\n");
    rows("jsonl", "jsonl", 1500, &[text.as_bytes(), PAIR.as_bytes()], &JSON);
}

#[test]
fn damaged_json_is_read_or_refused() {
    let text = format!("[\n{PAIR},\n{TURNS}, {LABEL}]");
    rows("json", "json", 1500, &[text.as_bytes(), format!("\u{feff}[{LABEL}]").as_bytes()], &JSON);
}

#[test]
fn damaged_csv_is_read_or_refused() {
    let turns = r#""[{""role"": ""user"", ""content"": ""2 + 2?""}]""#;
    let text = format!("prompt,chosen,rejected,margin\na,b,c,1.5\n\"a, b\",\"c\nd\",e,\n{turns},4,5,-1\r\n");
    let labels = "prompt,completion,label\na,b,True\na,c,0\n";
    let words = [",", "\"", "\"\"", "\n", "\r\n", "prompt", "chosen", "label", "[", "<eos>"];
    rows("csv", "csv", 1500, &[text.as_bytes(), labels.as_bytes()], &words);
}

#[test]
fn damaged_parquet_is_read_or_refused() {
    let files: [&[u8]; 5] = [
        include_bytes!("delta.parquet"),
        include_bytes!("turns.parquet"),
        include_bytes!("labels.parquet"),
        include_bytes!("endless.parquet"),
        include_bytes!("contradicting.parquet"),
    ];
    rows("parquet", "parquet", 1500, &files, &["PAR1", "prompt", "\x15\x02", "\x19\x1c", "\x00\x00"]);
}

/// Files under gzip and zstd: damaged streams, and whole streams of damaged rows.
#[test]
fn damaged_compressed_files_are_read_or_refused() {
    let text = format!("{PAIR}\n{TURNS}\n{LABEL}\n");
    let csv = "prompt,chosen,rejected\na,b,c\n\"a\nb\",c,d\n".repeat(20);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let words = ["\x1f\u{8b}\x08", "\x00\x00", "(\u{b5}/\u{fd}", "PAR1"];
    for (ending, file) in [
        ("jsonl.gz", gzip(text.as_bytes())),
        ("jsonl.zst", zstd(text.as_bytes())),
        ("csv.gz", gzip(csv.as_bytes())),
        ("csv.zst", zstd(csv.as_bytes())),
        ("parquet.gz", gzip(include_bytes!("turns.parquet"))),
        ("json.zst", zstd(format!("{{\"train\": [{PAIR}, {TURNS}]}}").as_bytes())),
    ] {
        rows(ending, ending, 250, &[&file], &words);
    }
}

/// Objects of columns and of rows, and lists of turns that are written as text.
#[test]
fn damaged_documents_are_read_or_refused() {
    let columns = r#"{"prompt": ["a", "b"], "chosen": {"0": "c", "1": "d"}, "rejected": ["e", "f"]}"#;
    let split = format!("{{\n\"train\": [\n{PAIR},\n{TURNS}\n], \"n\": 2}}");
    rows("document", "json", 1000, &[columns.as_bytes(), split.as_bytes()], &JSON);
    let literal =
        r#"{"prompt": "[{'role': 'user', 'content': 'a\\n\\x41'}]", "completions": ["b", "c"], "scores": [1, 2]}"#;
    let scored = r#"{"prompt": "p", "response": "a", "score": 1}"#;
    let words =
        ["'", "role", "[{'role': ", "}]", "None", "\\\\u0041", "array(", "completions", "score", "tools", "system"];
    rows("literal", "jsonl", 1500, &[literal.as_bytes(), format!("{scored}\n{scored}\n").as_bytes()], &words);
}

#[test]
fn damaged_templates_render_or_refuse() {
    let templates = [
        TEMPLATE,
        "{%- if messages[0]['role'] == 'system' %}{%- set rest = messages[1:] %}{%- else %}{%- set rest = messages %}{%- endif %}\
         {%- for m in rest %}{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('roles') }}{%- endif %}\
         {{- '[INST] ' + m.content | trim + ' [/INST]' }}{%- endfor %}{%- if add_generation_prompt %}{{- bos_token }}{%- endif %}",
        "{% macro say(x, n=2) %}{{ x ~ n }}{% endmacro %}{% set ns = namespace(n=0, all=[]) %}{% for m in messages %}\
         {% set ns.n = ns.n + 1 %}{% set ns.all = ns.all + [m.content] %}{{ say(m.content|tojson, n=ns.n) }}{% endfor %}{{ ns.all|join(', ') }}\
         {{ '%5d' | format(12) }}{{ range(9)|list }}{{ {'a': 1}['a'] }}{{ 'ab'.replace('a', 'b').split('b') }}{{ 'x' * 3 }}",
        "{% for m in messages[::-1] %}{% with a = 1, b = m['role'] %}{% set x | upper %}{{ a ~ b }}{% if loop.last %}{% break %}{% endif %}\
         {% endset %}{{ x }}{% generation %}é{{ m.content[:-1].partition('s') }}{% endgeneration %}{% endwith %}{% endfor %}\r\n\
         {% macro q(a, b=a, c='(é, =)') -%}{{ a }}{{ b }}{{ c.center(9, 'é') }}{{ caller() }}{%- endmacro %}{% call q(undef, c=1) %}x{% endcall %}\
         {% raw %}{{ {% endraw %}{# é #}{{ '\\u00e9\\x41' | tojson(indent=2, ensure_ascii=true) }}{{ messages | groupby('role') | map('first') | list }}\
         {{ '%-5s|%r' % ('é', [1.5, none]) }}{{ 1 < 2 <= 3 }}{{ messages | sort(attribute='content') | tojson(sort_keys=true) }}",
    ];
    let templates = templates.map(str::as_bytes);
    let words = [
        "{{",
        "}}",
        "{%",
        "%}",
        "endfor",
        "endif",
        "for x in ",
        "range(99999)",
        " * 99999",
        "~",
        "+",
        "[",
        "]",
        "(",
        ")",
        "|",
        "|indent(9999)",
        "{% with ",
        "{% generation %}",
        "{% break %}",
        "{% set x %}",
        "-%}",
        "é",
        "\\x4",
        "\r",
        ", ",
        " = ",
        " % ",
        "[::-1]",
        "|sort",
        "|tojson(indent=9999)",
        ".center(9999)",
        "|list",
        "|join(",
        "|string",
        ".format(",
        "namespace(",
        "ns.all",
        "[ns.all, ns.all]",
        "messages",
        "loop",
        "recursive",
        "caller",
        "set ",
        "macro ",
        "include ",
        "not ",
        "if ",
        "else ",
        " in ",
        " is ",
        "==",
        "**",
        "//",
        "99999999999",
        "-1",
        "0.5",
        "'a'",
    ];
    let message = Message::new;
    let messages = [message("user", "Is it good?"), message("assistant", "Yes.\nIt is.")];
    mutated::every("template", 2500, &templates, &words, |_, bytes| {
        let source = String::from_utf8_lossy(bytes);
        if let Ok(text) = ChatTemplate::new(&source).and_then(|t| t.render(&messages, None, true)) {
            assert!(text.len() < 64 << 20, "{} bytes", text.len());
        }
    });
}
