//! Text as the ids that a model was trained on: BOS once, any of several ends, prompt and completion encoded together.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::chat::{ChatTemplate, Message};
use duel_data::check;
use duel_data::records::{Columns, Content, Record};
use duel_data::rows::{FindingKind, RowSource};
use duel_data::{EncodedRow, Encoder, Json, TextTokenizer};
use duel_spec::Overlong;
use serde_json::{Value, json};

/// `<pad>`, `<bos>` and `<eos>` are 0, 1 and 2; the letters follow, `ab` and `bc` are merged, and `▁` stands for a space.
fn tokenizer(settings: Value) -> TextTokenizer {
    let token = |id: usize, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let words = ["<pad>", "<bos>", "<eos>", "a", "b", "c", "d", "▁", "ab", "bc", "▁c"];
    let vocabulary: serde_json::Map<_, _> =
        words.iter().zip(0..).map(|(word, id)| ((*word).into(), json!(id))).collect();
    let mut json = json!({
        "version": "1.0",
        "added_tokens": [token(0, "<pad>"), token(1, "<bos>"), token(2, "<eos>")],
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["a", "b"], ["b", "c"], ["▁", "c"]]}
    });
    for (key, value) in settings.as_object().unwrap() {
        json[key] = value.clone();
    }
    TextTokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

/// Puts BOS before a text and EOS behind it.
fn adds_bos() -> Value {
    let one = |token: &str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let known = |id: u32, token: &str| json!({"id": token, "ids": [id], "tokens": [token]});
    json!({"post_processor": {"type": "TemplateProcessing", "single": [one("<bos>"), text, one("<eos>")], "pair": [text, text],
        "special_tokens": {"<bos>": known(1, "<bos>"), "<eos>": known(2, "<eos>")}}})
}

/// SentencePiece's spaces, one of which begins every text.
fn begins_with_space() -> Value {
    json!({"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}})
}

fn turns(role: &str, content: &str) -> Content {
    vec![Message::new(role, content)].into()
}

fn pair(prompt: Content, chosen: Content, rejected: Content) -> Record {
    Record::Pair { prompt, chosen, rejected, margin: None, scores: None }
}

fn text(text: &str) -> Content {
    Content::Text(text.into())
}

fn encode(encoder: &Encoder, prompt: &str, chosen: &str, rejected: &str) -> EncodedRow {
    encoder.encode(&pair(text(prompt), text(chosen), text(rejected))).unwrap()
}

#[test]
fn bos_stands_once_however_template_and_tokenizer_share_it() {
    const WITHOUT: &str = "{% for m in messages %}{{ m['content'] }}{% endfor %}";
    let with = format!("{{{{ bos_token }}}}{WITHOUT}");
    let tokens = [("bos_token", "<bos>"), ("eos_token", "<eos>")];
    let tokens = tokens.map(|(name, token)| (name.to_owned(), Json::Text(token.into())));
    let template = |source: &str| ChatTemplate::new(source).unwrap().with_variables(tokens.clone());
    for (source, settings, expected) in [
        (&*with, adds_bos(), vec![1, 3]),
        (&*with, json!({}), vec![1, 3]),
        (WITHOUT, adds_bos(), vec![1, 3]),
        (WITHOUT, json!({}), vec![3]),
    ] {
        let encoder = Encoder::new(tokenizer(settings), Some(template(source)), 2);
        let row = encoder.encode(&pair(turns("user", "a"), turns("assistant", "d"), text("c"))).unwrap();
        assert_eq!((&row.prompt, &row.completions), (&expected, &vec![vec![6, 2], vec![5, 2]]), "{source}");
        assert_eq!(encoder.prompt(&turns("user", "a")).unwrap(), expected, "{source}");
    }
    // plain text that already begins with it
    let encoder = Encoder::new(tokenizer(adds_bos()), None, 2);
    for prompt in ["<bos>a", "a"] {
        assert_eq!(encode(&encoder, prompt, "c", "d").prompt, [1, 3]);
    }
    assert_eq!(encoder.prompt(&text("<bos>")).unwrap(), [1]);
}

#[test]
fn any_of_several_ends_closes_a_response() {
    let encoder = Encoder::new(tokenizer(json!({})), None, 2).with_other_eos(&[0]).for_model(11, 1);
    for (answer, ids, is_cut) in [
        ("c", vec![5, 2], false),
        ("c<eos>", vec![5, 2], false),
        ("c<pad>", vec![5, 0], false),
        ("c<pad><eos>", vec![5, 0], false),
        ("c<eos>d", vec![5, 2], true),
        ("c<pad>d<eos>", vec![5, 0], true),
    ] {
        let row = encode(&encoder, "a", answer, "d");
        assert_eq!((&row.completions[0], row.is_cut), (&ids, is_cut), "{answer}");
    }
    // with one end, the other token is one that no response holds
    let refused = Encoder::new(tokenizer(json!({})), None, 2).encode(&pair(text("a"), text("c<pad>"), text("d")));
    assert!(refused.unwrap_err().to_string().contains("the control token `<pad>` (id 0)"));
}

#[test]
fn prompt_and_completion_are_encoded_together() {
    // encoded alone, every completion would begin with the space that SentencePiece puts before a text
    let encoder = Encoder::new(tokenizer(begins_with_space()), None, 2);
    let row = encode(&encoder, "a", "d", " c");
    assert_eq!((row.prompt, row.completions, row.is_merged), (vec![7, 3], vec![vec![6, 2], vec![10, 2]], false));
    let row = encode(&encoder, "<eos>", "c", "d"); // each piece between control tokens begins with it, as the library does
    assert_eq!((row.prompt, row.completions), (vec![2], vec![vec![10, 2], vec![7, 6, 2]]));
}

#[test]
fn a_token_that_holds_the_seam_belongs_to_the_completion() {
    let encoder = Encoder::new(tokenizer(json!({})), None, 2);
    let row = encode(&encoder, "da", "c", "d");
    assert_eq!((row.prompt, row.completions, row.is_merged), (vec![6, 3], vec![vec![5, 2], vec![6, 2]], false));
    // "ab" of one completion: the prompt of both is shortened by its last token
    let row = encode(&encoder, "da", "bd", "c");
    assert_eq!((row.prompt, row.completions, row.is_merged), (vec![6], vec![vec![8, 6, 2], vec![3, 5, 2]], true));
    // nothing of the prompt is left
    let error = encoder.encode(&pair(text("a"), text("b"), text("c"))).unwrap_err().to_string();
    assert!(error.ends_with("its first one holds the beginning of a completion"), "{error}");
}

#[test]
fn rows_whose_seam_is_merged_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    let rows = [("da", "bd", "c"), ("da", "c", "d"), ("dda", "b", "c")];
    let rows = rows.map(|(prompt, chosen, rejected)| {
        json!({"prompt": prompt, "chosen": chosen, "rejected": rejected}).to_string()
    });
    std::fs::write(&path, rows.join("\n")).unwrap();
    let encoder = Encoder::new(tokenizer(json!({})), None, 2);
    let source = RowSource {
        files: vec![(None, path)],
        columns: Columns::default(),
        holdout: 0.0,
        prompt_tokens: 9,
        response_tokens: 9,
        long_prompts: Overlong::Drop,
        long_responses: Overlong::Drop,
        most: [9, 9],
        conversations: false,
    };
    let report = check::check(&source, Some(&encoder), 0, |_, _| ()).unwrap();
    assert_eq!((report.count(FindingKind::Merged), report.stats.kept), (2, 3));
}
