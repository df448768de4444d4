//! Models and rows by their names on the hub, from the command line: out of a cache, and from a server on the loopback.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_testing::command_line::{refusal_of, stdout_of};
use duel_testing::fake_hub::{COMMIT, FakeServer, HubFiles, HubReply, answer, hash, storage};
use duel_testing_tensors::tiny_model::{self, SMALL};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

const TOKEN: &str = "hf_secret";

/// `duel` in a folder with `cache` as the hub's cache, and a token.
fn duel(folder: &Path, endpoint: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duel"));
    command.args(args).current_dir(folder).env_remove("HF_HUB_OFFLINE").env("HF_HUB_CACHE", folder.join("cache"));
    command.env("HF_TOKEN", TOKEN).env("HF_ENDPOINT", endpoint).env("HF_HUB_DOWNLOAD_TIMEOUT", "5");
    if endpoint.is_empty() {
        command.env("HF_HUB_OFFLINE", "1");
    }
    command
}

fn ok(folder: &Path, endpoint: &str, args: &[&str]) -> String {
    let stdout = stdout_of(&mut duel(folder, endpoint, args));
    assert!(!stdout.contains(TOKEN), "{args:?}: {stdout}");
    stdout
}

fn refused(folder: &Path, endpoint: &str, args: &[&str], says: &[&str]) {
    let (code, message) = refusal_of(&mut duel(folder, endpoint, args));
    assert_eq!(code, Some(1), "{args:?}: {message}");
    assert!(says.iter().all(|words| message.contains(words)), "{args:?}: {message}");
    assert!(!message.contains(TOKEN), "{args:?}: {message}");
}

fn rows() -> Vec<u8> {
    let row = |i| json!({"prompt": format!("it was {i}"), "chosen": " very good", "rejected": " no"});
    (0..40).map(|i| format!("{}\n", row(i))).collect::<String>().into_bytes()
}

/// The files of a folder.
fn folder_files(folder: &Path) -> HubFiles {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.map(|path| (path.file_name().unwrap().to_str().unwrap().into(), std::fs::read(&path).unwrap())).collect()
}

/// Lays files out in a cache as the hub does, as links or as they are.
fn lay_out(repo: &Path, files: &HubFiles, is_linked: bool) {
    let snapshot = repo.join("snapshots").join(COMMIT);
    for path in [repo.join("blobs"), repo.join("refs"), snapshot.clone()] {
        std::fs::create_dir_all(path).unwrap();
    }
    std::fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for (file, bytes) in files {
        if is_linked {
            let hash = hash(file, bytes);
            std::fs::write(repo.join("blobs").join(&hash), bytes).unwrap();
            std::os::unix::fs::symlink(format!("../../blobs/{hash}"), snapshot.join(file)).unwrap();
        } else {
            std::fs::write(snapshot.join(file), bytes).unwrap();
        }
    }
}

/// The folders of a plan's stages: their keys.
fn stages(folder: &Path, settings: &[&str]) -> Vec<String> {
    let args = [&["plan", "mine/experiment.toml", "--format", "json"], settings].concat();
    let plan: Value = serde_json::from_str(&ok(folder, "", &args)).unwrap();
    plan["stages"].as_array().unwrap().iter().map(|stage| stage["folder"].as_str().unwrap().into()).collect()
}

#[test]
fn names_of_a_cache_run_as_paths_do_and_have_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tiny_model::model(&folder.join("model"));
    std::fs::write(folder.join("rows.jsonl"), rows()).unwrap();
    let row_files = HubFiles::from([("README.md".into(), b"words".to_vec()), ("train.jsonl".into(), rows())]);
    lay_out(&folder.join("cache/datasets--org--rows"), &row_files, true);
    let model = folder.join("cache/models--org--model");
    lay_out(&model, &folder_files(&folder.join("model")), true);

    assert!(ok(folder, "", &["import", "org/model"]).contains("org/model: 2 layers of width 16"));
    let printed = ok(folder, "", &["data", "check", "hub:org/rows:train", "--model", "org/model"]);
    assert!(printed.contains("hub:org/rows:train: 40 rows: 40 pairs"), "{printed}");
    ok(folder, "", &["init", "mine", "--rows", "hub:org/rows", "--model", "org/model"]);
    let written = std::fs::read_to_string(folder.join("mine/experiment.toml")).unwrap();
    assert!(written.contains("\"org/model\"") && written.contains("\"hub:org/rows\""), "{written}");

    // one key, by whatever way, wherever the cache is and whatever else it holds
    let named = stages(folder, &[]);
    let at_commit = format!("model.from=\"org/model@{COMMIT}\"");
    assert_eq!(stages(folder, &["--set", &at_commit, "--set", "world.rows.train=\"hub:org/rows:train\""]), named);
    assert_eq!(stages(folder, &["--set", "model.from=\"model\"", "--set", "world.rows.train=\"rows.jsonl\""]), named);
    std::fs::write(model.join("snapshots").join(COMMIT).join("trainer_state.json"), "{}").unwrap();
    assert_eq!(stages(folder, &[]), named);
    std::fs::remove_dir_all(&model).unwrap();
    lay_out(&model, &folder_files(&folder.join("model")), false);
    assert_eq!(stages(folder, &[]), named);

    // the run stays with its commit, and its manifest names what was read
    let mut args = vec!["run", "mine/experiment.toml"];
    SMALL.iter().for_each(|setting| args.extend(["--set", setting]));
    ok(folder, "", &args);
    let run = folder.join("runs/mine");
    let text = std::fs::read_to_string(run.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let bytes = &folder_files(&folder.join("model"))["model.safetensors"];
    assert_eq!(manifest["inputs"][format!("org/model@{COMMIT} model.safetensors")], hash("model.safetensors", bytes));
    assert_eq!(manifest["inputs"][format!("hub:org/rows@{COMMIT} train.jsonl")], hash("train.jsonl", &rows()));
    let experiment = std::fs::read_to_string(run.join("experiment.toml")).unwrap();
    assert!(experiment.contains(&format!("org/model@{COMMIT}")), "{experiment}");
    assert!(!text.contains(TOKEN) && !std::fs::read_to_string(run.join("log.jsonl")).unwrap().contains(TOKEN));
    std::fs::write(folder.join("cache/datasets--org--rows/refs/main"), "f".repeat(40)).unwrap();
    ok(folder, "", &["export", "runs/mine", "--arm", "dpo", "--to", "adapter", "--as", "adapter"]);
    let adapter = std::fs::read_to_string(folder.join("adapter/adapter_config.json")).unwrap();
    let adapter: Value = serde_json::from_str(&adapter).unwrap();
    assert_eq!(adapter["base_model_name_or_path"], "org/model", "a name that others know");

    // a path that exists comes first
    std::fs::create_dir(folder.join("org")).unwrap();
    refused(folder, "", &["import", "org/other"], &["no model `org/other` on this machine", "HF_HUB_OFFLINE"]);
    std::fs::rename(folder.join("model"), folder.join("org/other")).unwrap();
    assert!(ok(folder, "", &["import", "org/other"]).contains("org/other: 2 layers"));
}

#[test]
fn what_is_neither_a_path_nor_a_name_is_said_to_be_neither() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let storage = storage(HubFiles::new());
    let server = FakeServer::start(move |request| answer("models", &HubFiles::new(), &storage.address, request));
    refused(
        folder,
        &server.address,
        &["import", "models/llama"],
        &[
            "no model `models/llama` on this machine, and it could not be found on the hub",
            "that the account of your token sees",
        ],
    );
    refused(
        folder,
        &server.address,
        &["import", "a/b/c"],
        &["no model `a/b/c` on this machine", "`org/name@revision`"],
    );
    refused(
        folder,
        &server.address,
        &["data", "check", "hub:rows"],
        &["`hub:rows` is not a name", "hub:org/name[@revision][/config][:split]"],
    );
    refused(folder, &server.address, &["data", "check", "x.jsonl"], &["x.jsonl"]);
    let gated = FakeServer::start(|_| HubReply::status(403).with("X-Error-Code", "GatedRepo"));
    let page = format!("{}/org/name", gated.address);
    refused(
        folder,
        &gated.address,
        &["import", "org/name"],
        &["`org/name` is gated", "accept its conditions on", &page],
    );
}

#[test]
fn a_model_is_fetched_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tiny_model::model(&folder.join("model"));
    let files = folder_files(&folder.join("model"));
    let storage = storage(files.clone());
    let address = storage.address.clone();
    let server = FakeServer::start(move |request| answer("models", &files, &address, request));
    let output = duel(folder, &server.address, &["import", "org/name"]).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && printed.contains("downloading model.safetensors"), "{printed}");
    assert!(storage.take_requests().iter().all(|request| request.token.is_none()), "the token is the hub's");
    server.take_requests();
    ok(folder, &server.address, &["import", "org/name", "--to", "copy"]);
    assert!(server.take_requests().is_empty() && folder.join("copy/model.safetensors").is_file());
}

/// A repository of GGUF files is no model until one of them is named; an experiment stays with the file of its commit.
#[test]
fn a_gguf_file_of_a_repository_is_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tiny_model::model(&folder.join("model"));
    ok(folder, "", &["import", "model", "--to", "m.f32.gguf"]);
    let cached = folder.join("cache/models--org--name");
    lay_out(&cached, &HubFiles::from([("m.f32.gguf".into(), std::fs::read(folder.join("m.f32.gguf")).unwrap())]), true);
    let printed = ok(folder, "", &["import", "org/name/m.f32.gguf"]);
    assert!(printed.contains("family: llama") && printed.contains("with its tokenizer"), "{printed}");
    std::fs::write(folder.join("rows.jsonl"), rows()).unwrap();
    ok(folder, "", &["init", "mine", "--rows", "rows.jsonl", "--model", "org/name/m.f32.gguf"]);
    let experiment = std::fs::read_to_string(folder.join("mine/experiment.toml")).unwrap();
    assert!(experiment.contains("from = \"org/name/m.f32.gguf\""), "{experiment}");
    let named = stages(folder, &[]);
    assert_eq!(named, stages(folder, &["--set", "model.from=\"m.f32.gguf\""]), "wherever the file is");
    let setting = format!("model.from=\"org/name@{COMMIT}/m.f32.gguf\"");
    assert_eq!(named, stages(folder, &["--set", &setting]));
    refused(folder, "", &["import", "org/name"], &["`org/name`", "is not in the cache"]);
    refused(folder, "", &["import", "org/name/other.gguf"], &["other.gguf"]);
}
