//! A byte-level tokenizer that the Python library wrote: the same ids and the same text.
#![expect(clippy::unwrap_used, reason = "tests")]

#[path = "../../../tests/golden.rs"]
mod golden;

use duel_data::TextTokenizer;
use golden::{ids, items};

#[test]
fn golden_tokenizer_encodes_and_decodes() {
    let file = golden::read("tokenizer/expected.json");
    let tokenizer = TextTokenizer::open(&golden::folder().join("tokenizer/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.vocabulary() as u64, file["vocab_size"].as_u64().unwrap());
    for case in items(&file, "cases") {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(&[text]).unwrap(), vec![expected.clone()], "{text:?}");
        assert_eq!(tokenizer.decode(&expected).unwrap(), case["decoded_skip_special"].as_str().unwrap(), "{text:?}");
    }
}
