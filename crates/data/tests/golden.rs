//! A byte-level tokenizer that the Python library wrote: the same ids and the same text.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::TextTokenizer;
use duel_testing::golden;
use golden::ids;

#[test]
fn golden_tokenizer_encodes_and_decodes() {
    let file = golden::topic("tokenizer/expected.json");
    let tokenizer = TextTokenizer::open(&golden::folder().join("tokenizer/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.vocabulary() as u64, file["vocab_size"].as_u64().unwrap());
    let special = |key: &str| file["special"].number(key) as u32;
    let controls = ["pad", "bos", "eos"].map(special);
    assert!(controls.iter().all(|id| tokenizer.controls().contains(id)), "{controls:?}");
    for case in file.items("cases") {
        let text = case.text("text");
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(&[text]).unwrap(), vec![expected.clone()], "{text:?}");
        let tokens: Vec<String> = expected.iter().map(|&id| tokenizer.token(id).unwrap()).collect();
        assert_eq!(serde_json::json!(tokens), *case["tokens"], "{text:?}");
        assert_eq!(tokenizer.decode(&expected).unwrap(), case.text("decoded_skip_special"), "{text:?}");
        // with control tokens as they are written: everything between them, decoded by itself
        let mut whole = String::new();
        for part in expected.chunk_by(|a, b| controls.contains(a) == controls.contains(b)) {
            match controls.contains(&part[0]) {
                true => whole.extend(part.iter().map(|&id| tokenizer.token(id).unwrap())),
                false => whole += &tokenizer.decode(part).unwrap(),
            }
        }
        assert_eq!(whole, case.text("decoded"), "{text:?}");
    }
}
