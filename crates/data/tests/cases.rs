//! Small sets that were once read wrongly, by the names they were reported under: the tokens that a training sees of them.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::chat::ChatTemplate;
use duel_data::check::{DataReport, check};
use duel_data::records::Columns;
use duel_data::rows::{FindingKind, RowSource, SequencePart};
use duel_data::{Encoder, Json, TextTokenizer};
use duel_spec::Overlong;
use serde_json::{Value, json};

const SPECIAL: [&str; 5] = ["<pad>", "<bos>", "<eos>", "<|start|>", "<|eot|>"];
const PAD: u32 = 0;
const BOS: u32 = 1;
const EOS: u32 = 2;
const EOT: u32 = 4;

/// A token for each character; `ye` and `▁ye` are merged.
fn tokenizer(settings: Value) -> TextTokenizer {
    let token = |(id, content): (usize, &&str)| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false})
    };
    let characters = (' '..='~').chain(['\n', '▁']).map(String::from);
    let words = SPECIAL.map(String::from).into_iter().chain(characters).chain(["ye".into(), "▁ye".into()]);
    let vocabulary: serde_json::Map<_, _> = words.zip(0..).map(|(word, id)| (word, json!(id))).collect();
    let mut json = json!({
        "version": "1.0",
        "added_tokens": SPECIAL.iter().enumerate().map(token).collect::<Vec<_>>(),
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [["y", "e"], ["▁", "ye"]]}
    });
    settings.as_object().unwrap().iter().for_each(|(key, value)| json[key] = value.clone());
    TextTokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
}

/// Puts BOS before a text.
fn adds_bos() -> Value {
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    json!({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, text],
        "pair": [text, text], "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS], "tokens": ["<bos>"]}}}})
}

fn template(source: &str) -> ChatTemplate {
    let tokens = [("bos_token", "<bos>"), ("eos_token", "<eos>")];
    let tokens = tokens.map(|(name, token)| (name.to_owned(), Json::Text(token.into())));
    ChatTemplate::new(source).unwrap().with_variables(tokens)
}

/// Llama 3's template in short: BOS before the first turn, `<|eot|>` behind each.
fn llama(settings: Value) -> Encoder {
    const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}:{{ m.content | trim }}<|eot|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant:{% endif %}";
    Encoder::new(tokenizer(settings), Some(template(TEMPLATE)), EOS).with_other_eos(&[EOT]).with_bos(Some(BOS))
}

fn checked(rows: &[Value], encoder: &Encoder) -> DataReport {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.jsonl");
    std::fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    let source = RowSource {
        files: vec![(None, path)],
        columns: Columns::default(),
        holdout: 0.1,
        prompt_tokens: 80,
        response_tokens: 40,
        long_prompts: Overlong::Drop,
        long_responses: Overlong::Drop,
        most: [1000, 1000],
        conversations: false,
    };
    check(&source, Some(encoder), rows.len(), |_, _| ()).unwrap()
}

/// The first row's tokens by their names: those of its prompt, and of its completions.
fn first_row(report: &DataReport) -> Vec<String> {
    let tokenizer = tokenizer(json!({}));
    let names =
        |part: &SequencePart| part.tokens.iter().map(|token| tokenizer.token(token.id).unwrap()).collect::<Vec<_>>();
    report.examples[0].parts.iter().map(|part| names(part).join("|")).collect()
}

fn turn(role: &str, content: &str) -> Value {
    json!([{"role": role, "content": content}])
}

fn conversation(number: usize) -> Value {
    json!({"prompt": turn("user", &format!("q{number}")), "chosen": turn("assistant", "yes"),
        "rejected": turn("assistant", "no")})
}

/// Any token of the set ends a turn: no other follows the template's own.
#[test]
fn e02_two_eos() {
    let report = checked(&[conversation(1), conversation(2)], &llama(json!({})));
    let tokens = first_row(&report);
    assert!(tokens[0].starts_with("<bos>|<|start|>|u|s|e|r|:|q|1|<|eot|>|<|start|>|a|"), "{}", tokens[0]);
    assert_eq!(tokens[1..], ["ye|s|<|eot|>", "n|o|<|eot|>"]);
    assert_eq!((report.stats.kept, report.has_findings()), (2, false));
}

/// A row with a token that the model has no embedding for is refused by its line and names the token.
#[test]
fn e05_ids_past() {
    let encoder = Encoder::new(tokenizer(json!({})), None, EOS).for_model(100, PAD);
    let row = |prompt: &str, chosen: &str| json!({"prompt": prompt, "chosen": chosen, "rejected": "n"});
    let report = checked(&[row("a", "b"), row("a", "yes"), row("ye", "b")], &encoder);
    let first = report.stats.first(FindingKind::Unreadable);
    let past =
        |name: &str, id: u32| format!("`{name}` has the token `ye` (id {id}), but the model only has ids below 100");
    let problems: Vec<(usize, &str)> = first.iter().map(|problem| (problem.line, problem.what.as_str())).collect();
    let id = tokenizer(json!({})).encode_part("ye").unwrap()[0];
    assert_eq!(problems, [(2, &*past("chosen", id)), (3, &*past("prompt", id))]);
    assert_eq!(report.stats.kept, 1);
}

/// SentencePiece's space before a text is none within one: an answer begins with the token that follows the prompt.
#[test]
fn e06_legacy_zephyr() {
    const ZEPHYR: &str = "{% for m in messages %}<{{ m.role }}>\n{{ m.content | trim }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}";
    let spaces = json!({"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}});
    let tokenizer = || tokenizer(spaces.clone());
    let report = checked(&[conversation(1)], &Encoder::new(tokenizer(), Some(template(ZEPHYR)), EOS));
    assert_eq!(first_row(&report)[1..], ["ye|s|<eos>", "n|o|<eos>"]);
    // as the whole is encoded
    let ids = |part: usize| report.examples[0].parts[part].tokens.iter().map(|token| token.id).collect::<Vec<_>>();
    let whole = "<user>\nq1<eos>\n<assistant>\nyes<eos>\n";
    assert_eq!([ids(0), ids(1)].concat(), tokenizer().encode_start(whole).unwrap()[..ids(0).len() + 3]);
}

/// BOS that a row already has, and that tokenizer and template put before it, stands once.
#[test]
fn k2() {
    let text = json!({"prompt": "<bos><|start|>user:q<|eot|><|start|>assistant:", "chosen": "yes<|eot|>", "rejected": "no<|eot|>"});
    for settings in [adds_bos(), json!({})] {
        for row in [text.clone(), conversation(1)] {
            let report = checked(&[row], &llama(settings.clone()));
            let tokens = first_row(&report);
            assert!(
                tokens[0].starts_with("<bos>|<|start|>|u|") && tokens[0].matches("<bos>").count() == 1,
                "{tokens:?}"
            );
            assert_eq!(tokens[1..], ["ye|s|<|eot|>", "n|o|<|eot|>"]);
        }
    }
    let plain = json!({"prompt": "q", "chosen": "yes", "rejected": "no"});
    assert_eq!(first_row(&checked(&[plain], &llama(adds_bos()))), ["<bos>|q", "ye|s|<eos>", "n|o|<eos>"]);
}

/// Completions that repeat the prompt's turns are what follows them, and no turn of the user is learned.
#[test]
fn m1_twice() {
    let turns = |answer: &str| json!([{"role": "user", "content": "q1"}, {"role": "assistant", "content": answer}]);
    let twice = json!({"prompt": turn("user", "q1"), "chosen": turns("yes"), "rejected": turns("no")});
    let encoder = llama(json!({}));
    let expected = first_row(&checked(&[conversation(1)], &encoder));
    let report = checked(&[twice, conversation(2)], &encoder);
    assert_eq!((first_row(&report), report.stats.kept), (expected, 2));
    assert!(report.examples[0].parts[1..].iter().flat_map(|part| &part.tokens).all(|token| token.is_trained));
}

/// Pairs of text are used as they stand, each once, with an end token and without a template, in splits of their prompts.
#[test]
fn plain_text() {
    let row = |n: usize| json!({"prompt": format!("this film {n}"), "chosen": " yes good", "rejected": " no"});
    let report = checked(&(0..300).map(row).collect::<Vec<_>>(), &llama(json!({})));
    assert_eq!(first_row(&report), ["t|h|i|s| |f|i|l|m| |0", " |ye|s| |g|o|o|d|<eos>", " |n|o|<eos>"]);
    let [train, validation, test] = report.stats.kept_by_split;
    assert_eq!((report.stats.kept, report.stats.prompts, report.has_findings()), (300, 300, false));
    assert!(
        train > 220 && validation > 10 && test > 10 && report.refusal.is_none(),
        "{:?}",
        report.stats.kept_by_split
    );
}
