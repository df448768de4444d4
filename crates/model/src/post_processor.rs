//! What `tokenizer.json` says is put around a text.

use serde_json::{Value, json};

/// A post-processor that puts BOS before a text, as `tokenizer.json` says it.
pub(crate) fn begins_with(bos: &str, id: u32) -> Value {
    let (start, text) = (
        json!({"SpecialToken": {"id": bos, "type_id": 0}}),
        |of: &str, kind: u32| json!({"Sequence": {"id": of, "type_id": kind}}),
    );
    json!({
        "type": "TemplateProcessing",
        "single": [start, text("A", 0)],
        "pair": [start, text("A", 0), {"SpecialToken": {"id": bos, "type_id": 1}}, text("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}}
    })
}
