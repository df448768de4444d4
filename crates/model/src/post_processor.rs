//! What `tokenizer.json` says is put around a text.

use serde_json::{Map, Value, json};

/// A post-processor that puts BOS before a text and EOS after it, each where it is given, as `tokenizer.json` says it.
pub(crate) fn around(bos: Option<(u32, &str)>, eos: Option<(u32, &str)>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let special = |token: Option<(u32, &str)>, kind: u32| {
        token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": kind}}))
    };
    let part = |sequence: &str, kind: u32| {
        let text = json!({"Sequence": {"id": sequence, "type_id": kind}});
        [special(bos, kind), Some(text), special(eos, kind)].into_iter().flatten()
    };
    let tokens: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.to_owned(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    json!({
        "type": "TemplateProcessing",
        "single": part("A", 0).collect::<Vec<_>>(),
        "pair": part("A", 0).chain(part("B", 1)).collect::<Vec<_>>(),
        "special_tokens": tokens
    })
}
