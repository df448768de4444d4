//! Sequence classifiers that transformers wrote, with their scores, there and back; and what is refused.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_model::{
    Classifier, ClassifierCheckpoint, Error, FileDType, Pretrained, ResponseReader, Responses, ScalarModel, classifier,
    weights,
};
use duel_spec::TokenSpec;
use duel_testing::golden::{self, close, id_rows, numbers};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Every folder of a classifier.
fn folders() -> Vec<PathBuf> {
    let families = golden::folder().join("families");
    let entries = std::fs::read_dir(&families).unwrap_or_else(|e| panic!("{}: {e}", families.display()));
    let is_classifier = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().ends_with("_reward");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(is_classifier).collect();
    folders.sort();
    assert!(!folders.is_empty(), "{} has no classifier", families.display());
    folders
}

/// Ids without what follows the last token that is not padding.
fn counted(row: &[u32], pad: Option<u32>) -> &[u32] {
    &row[..=row.iter().rposition(|id| Some(*id) != pad).unwrap()]
}

/// Scores of rows of ids, padded on the right as the file has them.
fn padded_right(model: &ScalarModel, rows: &[Vec<u32>], pad: Option<u32>, device: &Device) -> Vec<f64> {
    let ids: Vec<i32> = rows.concat().into_iter().map(|id| id as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [rows.len(), rows[0].len()]), device);
    let all = weights::host(model.forward(ids));
    rows.iter().enumerate().map(|(i, row)| f64::from(all[i * row.len() + counted(row, pad).len() - 1])).collect()
}

/// The same as rewards are read: the last token is a response, what is before it a prompt, padded on the left.
fn as_responses(model: &ScalarModel, rows: &[Vec<u32>], pad: Option<u32>, vocabulary: usize) -> Vec<f64> {
    let space = TokenSpec {
        vocabulary,
        pad: pad.unwrap_or(0),
        bos: 0,
        eos: vocabulary as u32,
        other_eos: vec![],
        prompt_tokens: rows[0].len(),
        response_tokens: 1,
        allowed_tokens: None,
        force_eos: false,
    };
    let split =
        |row: &Vec<u32>| counted(row, pad).split_last().map(|(last, rest)| (rest.to_vec(), vec![*last])).unwrap();
    let (prompts, responses) = rows.iter().map(split).unzip();
    let batch = Responses { prompts, responses, logp: vec![], masks: vec![] };
    let reader = ResponseReader::new(&space, &Device::flex());
    weights::host(reader.scores(model, &batch)).into_iter().map(f64::from).collect()
}

/// A change of settings.
type Change = fn(&mut Value);

#[test]
fn golden_classifiers_score_the_last_token_that_is_not_padding() {
    let device = Device::flex();
    for folder in folders() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let file = golden::topic(&format!("families/{name}/expected.json"));
        let (rows, mask, expected) = (id_rows(&file["ids"]), id_rows(&file["mask"]), numbers(&file["scores"]));
        let opened = Classifier::open(&folder).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (row, mask) in rows.iter().zip(mask) {
            let real = mask.iter().filter(|m| **m == 1).count();
            assert_eq!(counted(row, opened.pad).len(), real, "{name}: the mask hides what is padding");
        }
        let vocabulary = opened.model.config.vocabulary;
        let model = opened.scalar_model(opened.model.config.context, &device).unwrap();
        close(&name, &padded_right(&model, &rows, opened.pad, &device), &expected, 1e-4);
        close(&name, &as_responses(&model, &rows, opened.pad, vocabulary), &expected, 1e-4);
        assert!(matches!(Pretrained::open(&folder), Err(Error::Unsupported { .. })), "{name}: no language model");

        // and what is written again, transformers' settings and ours, gives the same
        let again = tempfile::tempdir().unwrap();
        let checkpoint = ClassifierCheckpoint {
            config: opened.model.config.clone(),
            model: model.clone(),
            tokenizer_files: opened.model.tokenizer_files.clone(),
            pad: opened.pad,
            score: None,
        };
        classifier::write(again.path(), checkpoint, FileDType::F32).unwrap();
        let read = Classifier::open(again.path()).unwrap();
        assert_eq!((&read.model.config, read.pad), (&opened.model.config, opened.pad), "{name}");
        let settings = |folder: &Path| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap()
        };
        for key in ["architectures", "id2label", "label2id", "pad_token_id", "model_type"] {
            assert_eq!(settings(again.path())[key], settings(&folder)[key], "{name}: {key}");
        }
        let read = read.scalar_model(opened.model.config.context, &device).unwrap();
        assert_eq!(read.hash(), model.hash(), "{name}");
    }
}

/// A copy of a golden classifier with other settings.
fn with(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, duel_model::Result<Classifier>) {
    let (from, to) = (&folders()[0], tempfile::tempdir().unwrap());
    std::fs::copy(from.join("model.safetensors"), to.path().join("model.safetensors")).unwrap();
    let mut settings = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    change(&mut settings);
    std::fs::write(to.path().join("config.json"), settings.to_string()).unwrap();
    let opened = Classifier::open(to.path());
    (to, opened)
}

#[test]
fn golden_classifiers_have_one_label() {
    let accepted: [fn(&mut Value); 4] = [
        |_| {},
        |settings| settings["problem_type"] = json!("regression"),
        |settings| (settings["id2label"], settings["num_labels"]) = (Value::Null, json!(1)),
        |settings| settings["architectures"] = Value::Null,
    ];
    for change in accepted {
        let (_folder, opened) = with(change);
        opened.unwrap();
    }
    let refused: [(Change, &str); 5] = [
        (|settings| settings["id2label"] = json!({"0": "bad", "1": "good"}), "id2label"),
        (|settings| settings["id2label"] = Value::Null, "id2label"), // which transformers reads as two
        (|settings| settings["num_labels"] = json!(2), "num_labels"),
        (|settings| settings["problem_type"] = json!("ranking"), "problem_type"),
        (|settings| settings["pad_token_id"] = json!(1_000_000), "pad_token_id"),
    ];
    for (change, name) in refused {
        match with(change).1 {
            Err(Error::Unsupported { key, .. }) => assert_eq!(key, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    // a score on every token's last: without padding, nothing is left out
    let (_folder, opened) = with(|settings| settings["pad_token_id"] = Value::Null);
    assert_eq!(opened.unwrap().pad, None);
}

/// A head may be called `classifier`, and have a bias; one of two labels, or none, is refused.
#[test]
fn golden_classifiers_are_known_by_their_heads() {
    let (from, device) = (&folders()[0], Device::flex());
    let mut tensors = weights::to_host(&from.join("model.safetensors")).unwrap();
    let head = tensors.remove("score.weight").unwrap();
    let width = head.shape[1];
    let open = |extra: &[(&str, Vec<usize>, Vec<f32>)]| {
        let to = tempfile::tempdir().unwrap();
        std::fs::copy(from.join("config.json"), to.path().join("config.json")).unwrap();
        let body = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.clone(), tensor.values.clone()));
        let all: Vec<(&str, Vec<usize>, Vec<u8>)> = body
            .chain(extra.iter().cloned())
            .map(|(name, shape, values)| (name, shape, values.into_iter().flat_map(f32::to_le_bytes).collect()))
            .collect();
        let views = all.iter().map(|(name, shape, bytes)| {
            (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
        });
        std::fs::write(to.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        (Classifier::open(to.path()).and_then(|opened| opened.scalar_model(8, &device)), to)
    };
    let ids = || Tensor::<2, Int>::from_data([[3, 4, 5]], &device);
    let plain = open(&[("score.weight", vec![1, width], head.values.clone())]).0.unwrap();
    let bias = [("classifier.weight", vec![1, width], head.values.clone()), ("classifier.bias", vec![1], vec![0.5])];
    let biased = open(&bias).0.unwrap();
    let apart = weights::host(biased.forward(ids()) - plain.forward(ids()));
    assert!(apart.iter().all(|x| (x - 0.5).abs() < 1e-5), "{apart:?}");

    let two = open(&[("score.weight", vec![2, width], [head.values.clone(), head.values.clone()].concat())]).0;
    assert!(matches!(two, Err(Error::Shape { name, .. }) if name == "score.weight"));
    for extra in [vec![], [&bias[..1], &[("score.weight", vec![1, width], head.values.clone())]].concat()] {
        match open(&extra).0 {
            Err(Error::Unsupported { key, accepted, .. }) => {
                assert!(key == "architectures" && accepted.contains("`score.weight` or `classifier.weight`"));
            }
            other => panic!("{other:?}"),
        }
    }
}
