//! Every setting of every family with values that no model has: refused by its key, or it changes nothing.

#![expect(clippy::unwrap_used, reason = "tests")]

use duel_model::{Pretrained, TransformerConfig};
use duel_testing::golden;
use serde_json::{Value, json};
use std::path::Path;

/// Values that no setting of this kind has.
fn nonsense(value: &Value) -> Vec<Value> {
    match value {
        Value::Number(_) => vec![json!(0), json!(-1), json!(-0.5), json!(1e300), json!("yes"), json!([1])],
        Value::Bool(_) => vec![json!("yes"), json!(1)],
        Value::String(_) => vec![json!("nonsense"), json!(5)],
        Value::Array(list) => {
            let mut strange = list.clone();
            strange.iter_mut().for_each(|item| *item = json!("nonsense"));
            vec![json!([]), json!(list[..list.len().saturating_sub(1)]), json!(strange), json!("yes")]
        }
        Value::Null | Value::Object(_) => vec![],
    }
}

/// The paths of all settings in an object, down to those of rotary positions per type of layers.
fn paths(json: &Value) -> Vec<Vec<String>> {
    let mut paths = vec![];
    for (key, value) in json.as_object().unwrap() {
        match value {
            Value::Object(_) if key != "id2label" && key != "label2id" => {
                paths.extend(self::paths(value).into_iter().map(|rest| [vec![key.clone()], rest].concat()));
            }
            _ => paths.push(vec![key.clone()]),
        }
    }
    paths
}

fn at<'a>(json: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter().fold(json, |json, key| &mut json[key])
}

/// A model's description with one setting changed; the error where it is refused.
fn described(folder: &Path, settings: &Value) -> Result<TransformerConfig, String> {
    std::fs::write(folder.join("config.json"), settings.to_string()).unwrap();
    Pretrained::open(folder).map(|model| model.config).map_err(|error| error.to_string())
}

#[test]
fn settings_that_no_model_has_are_refused_by_their_keys() {
    let families = golden::folder().join("families");
    for family in std::fs::read_dir(families).unwrap().map(|entry| entry.unwrap().path()) {
        if family.to_string_lossy().ends_with("_reward") {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        for file in ["config.json", "model.safetensors"] {
            std::fs::copy(family.join(file), folder.path().join(file)).unwrap();
        }
        let original: Value = serde_json::from_slice(&std::fs::read(family.join("config.json")).unwrap()).unwrap();
        let expected = described(folder.path(), &original).unwrap();
        let mut refusals = 0;
        for path in paths(&original) {
            let key = path.last().unwrap();
            for value in nonsense(at(&mut original.clone(), &path)) {
                let mut changed = original.clone();
                *at(&mut changed, &path) = value.clone();
                let what = format!("{}: {} = {value}", expected.architecture.family, path.join("."));
                match described(folder.path(), &changed) {
                    Ok(actual) => assert_eq!(actual, expected, "{what}"),
                    Err(error) => {
                        assert!(error.contains(key), "{what}: {error}");
                        refusals += 1;
                    }
                }
            }
        }
        assert!(refusals > 50, "{}: {refusals}", family.display());
    }
}
