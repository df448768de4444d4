//! Reading golden values: expected results of independent libraries (`tests/golden/README.md` says which).
//! `DUEL_GOLDEN` names another directory of the same schema. Every test that reads them has `golden` in its name.
#![allow(dead_code, reason = "each crate's tests take what they need")]

use serde_json::Value;
use std::path::PathBuf;

/// Where the golden values are.
pub fn folder() -> PathBuf {
    std::env::var_os("DUEL_GOLDEN")
        .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden").into(), PathBuf::from)
}

/// One topic; a missing or broken one fails the test.
pub fn read(file: &str) -> Value {
    let path = folder().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A list that must not be empty.
pub fn items<'a>(v: &'a Value, key: &str) -> &'a Vec<Value> {
    v[key].as_array().filter(|a| !a.is_empty()).unwrap_or_else(|| panic!("no `{key}`"))
}

/// All numbers of nested lists.
pub fn numbers(v: &Value) -> Vec<f64> {
    match v {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap_or_else(|| panic!("not a number: {number}"))],
    }
}

/// All ids of nested lists.
pub fn ids(v: &Value) -> Vec<u32> {
    numbers(v).into_iter().map(|x| x as u32).collect()
}

/// Lists of ids.
pub fn id_rows(v: &Value) -> Vec<Vec<u32>> {
    v.as_array().unwrap_or_else(|| panic!("no rows")).iter().map(ids).collect()
}

/// A number.
pub fn number(v: &Value, key: &str) -> f64 {
    v[key].as_f64().unwrap_or_else(|| panic!("no number `{key}` in {v}"))
}

/// The lengths of nested lists.
pub fn shape(v: &Value) -> Vec<usize> {
    match v {
        Value::Array(items) => std::iter::once(items.len()).chain(shape(&items[0])).collect(),
        _ => vec![],
    }
}

/// Element-wise within `relative` of the expected value, or of a tenth of the largest expected one.
pub fn close(what: &str, found: &[f64], expected: &[f64], relative: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= relative * e.abs().max(scale * 0.1), "{what}[{i}]: found {f}, expected {e}");
    }
}
