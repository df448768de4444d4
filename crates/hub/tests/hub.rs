//! Names on the hub, against caches as the hub lays them and servers that answer as the hub does, and worse.

use duel_hub::{Error, Hub, HubSettings, HubSnapshot, ModelName, RowsName};
use duel_testing::fake_hub::{
    self, COMMIT, FakeServer, HubFiles, HubReply, HubReplyBody, answer, files, hash, hub, ranged, storage,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SETTINGS: [&str; 4] = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
const TOKEN: &str = "hf_secret";

fn settings(cache: &Path, endpoint: &str) -> HubSettings {
    let (cache, endpoint) = (cache.display().to_string(), endpoint.to_string());
    let variables = [("HF_HUB_CACHE", cache), ("HF_ENDPOINT", endpoint), ("HF_TOKEN", TOKEN.into())];
    let settings = HubSettings::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone()));
    HubSettings { patience: Duration::from_millis(500), ..settings.expect("settings") }
}

fn model(settings: HubSettings) -> Result<HubSnapshot, Error> {
    model_at(settings, "org/name")
}

fn model_at(settings: HubSettings, name: &str) -> Result<HubSnapshot, Error> {
    Hub::new(settings).model(&ModelName::parse(name).expect("a name"), &SETTINGS, &mut |_| {})
}

fn rows(settings: HubSettings, name: &str) -> Result<Vec<String>, Error> {
    Ok(Hub::new(settings).rows(&RowsName::parse(name).expect("a name"), &mut |_| {})?.files)
}

/// Three megabytes that no compression makes small.
fn weights() -> Vec<u8> {
    (0..3u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn model_files() -> HubFiles {
    files(&[
        ("README.md", b"words"),
        ("config.json", b"{}"),
        ("model.safetensors", &weights()),
        ("pytorch_model.bin", b"not read"),
        ("tokenizer.json", b"{\"model\": {}}"),
        ("tokenizer_config.json", b"{}"),
    ])
}

/// Every file below a folder, with what it holds.
fn contents(folder: &Path) -> Vec<PathBuf> {
    let mut paths = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => paths.extend(contents(&path)),
            path => paths.push(path),
        }
    }
    paths
}

/// What a failed download may leave: what it can go on with, and locks.
fn assert_nothing_to_use(cache: &Path) {
    let is_passing = |path: &PathBuf| path.extension().is_some_and(|end| end == "incomplete" || end == "lock");
    let left: Vec<_> = contents(cache).into_iter().filter(|path| !is_passing(path)).collect();
    let named: Vec<_> =
        left.iter().filter(|path| path.components().any(|part| part.as_os_str() == "snapshots")).collect();
    assert!(named.is_empty(), "{named:?}");
}

fn assert_secret_free(error: &Error) {
    let text = format!("{error} {error:?} {:?}", error.hint());
    assert!(!text.contains("secret") && !text.contains("signature"), "{text}");
}

#[test]
fn a_cache_as_the_hub_lays_it_is_read_without_a_request() {
    for is_linked in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        let repo = folder.path().join("models--org--name");
        let snapshot = repo.join("snapshots").join(COMMIT);
        for path in [repo.join("blobs"), repo.join("refs/pr"), snapshot.clone()] {
            std::fs::create_dir_all(path).expect("created");
        }
        std::fs::write(repo.join("refs/main"), COMMIT).expect("written");
        std::fs::write(repo.join("refs/pr/7"), format!("{COMMIT}\n")).expect("written");
        for (file, bytes) in model_files() {
            let hash = hash(&file, &bytes);
            if is_linked {
                std::fs::write(repo.join("blobs").join(&hash), bytes).expect("written");
                std::os::unix::fs::symlink(format!("../../blobs/{hash}"), snapshot.join(&file)).expect("linked");
            } else {
                std::fs::write(snapshot.join(&file), bytes).expect("written");
            }
        }
        let server = FakeServer::start(|_| HubReply::status(500));
        for name in ["org/name", "org/name@pr/7", &format!("org/name@{COMMIT}")] {
            let actual = model_at(settings(folder.path(), &server.address), name).expect("it is there");
            assert_eq!((actual.path.as_path(), actual.commit.as_str()), (snapshot.as_path(), COMMIT));
            assert_eq!(actual.files, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
            assert!(actual.warning.is_none());
            let hashes = actual.hashes().expect("hashes");
            let expected = if is_linked { hash("config.json", b"{}") } else { hash("x.safetensors", b"{}") };
            assert_eq!(hashes[0], ("config.json".to_string(), expected));
            assert_eq!(hashes[1].1, hash("model.safetensors", &weights()));
        }
        assert!(server.take_requests().is_empty());
        // without its weights it is not there
        std::fs::remove_file(snapshot.join("model.safetensors")).expect("removed");
        let offline = HubSettings { offline: true, ..settings(folder.path(), &server.address) };
        let error = model(offline).expect_err("no weights");
        assert!(matches!(&error, Error::Offline { lacking, .. } if lacking.contains("model.safetensors")), "{error}");
        assert!(server.take_requests().is_empty(), "offline asks nobody");
    }
}

#[test]
fn a_download_is_laid_out_as_the_hub_does_and_is_not_made_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = storage(model_files());
    let server = hub("models", model_files(), &storage);
    let mut seen = vec![];
    let name = ModelName::parse("org/name").expect("a name");
    let result = Hub::new(settings(folder.path(), &server.address)).model(&name, &SETTINGS, &mut |now| {
        seen.push((now.file.to_string(), now.bytes, now.total));
    });
    let snapshot = result.expect("downloaded");
    assert_eq!(snapshot.files, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    for file in &snapshot.files {
        let path = snapshot.path.join(file);
        assert_eq!(std::fs::read(&path).expect("read"), model_files()[file]);
        let target = std::fs::read_link(&path).expect("a link");
        assert_eq!(target, Path::new("../../blobs").join(hash(file, &model_files()[file])));
    }
    let repo = folder.path().join("models--org--name");
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).expect("read"), COMMIT);
    assert!(repo.join(".no_exist").join(COMMIT).join("generation_config.json").is_file());
    let length = weights().len() as u64;
    assert!(seen.contains(&("model.safetensors".into(), length, Some(length))), "progress");
    // the token goes to the hub, and to no other host
    assert!(server.take_requests().iter().all(|request| request.token.as_deref() == Some("Bearer hf_secret")));
    let requests = storage.take_requests();
    assert!(requests.len() == 1 && requests[0].token.is_none(), "{requests:?}");
    assert!(!contents(folder.path()).iter().any(|path| path.to_string_lossy().ends_with(".incomplete")));

    let again = model(settings(folder.path(), &server.address)).expect("it is there");
    assert_eq!((&again.path, &again.files), (&snapshot.path, &snapshot.files));
    assert!(server.take_requests().is_empty() && storage.take_requests().is_empty());
}

#[test]
fn what_a_partial_cache_may_lack_is_asked_for_and_taken_as_it_is_where_nobody_answers() {
    let folder = tempfile::tempdir().expect("a folder");
    let snapshot = folder.path().join("models--org--name/snapshots").join(COMMIT);
    std::fs::create_dir_all(folder.path().join("models--org--name/refs")).expect("created");
    std::fs::create_dir_all(&snapshot).expect("created");
    std::fs::write(folder.path().join("models--org--name/refs/main"), COMMIT).expect("written");
    for file in ["config.json", "model.safetensors"] {
        std::fs::write(snapshot.join(file), &model_files()[file]).expect("written");
    }
    let dead = FakeServer::start(|_| HubReply::status(503));
    let snapshot = model(settings(folder.path(), &dead.address)).expect("weights are there");
    assert_eq!(snapshot.files, ["config.json", "model.safetensors"]);
    assert!(snapshot.warning.expect("a warning").contains("without a tokenizer"));
    let storage = storage(model_files());
    let server = hub("models", model_files(), &storage);
    let snapshot = model(settings(folder.path(), &server.address)).expect("completed");
    assert_eq!(snapshot.files, ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    assert!(storage.take_requests().is_empty(), "the weights were there");
    assert!(
        server.take_requests().iter().any(|request| request.path.ends_with(COMMIT)),
        "the same commit is asked for"
    );
}

#[test]
fn a_broken_download_goes_on_where_it_stopped() {
    // within one call: the connection ends after half
    let folder = tempfile::tempdir().expect("a folder");
    let count = Arc::new(AtomicUsize::new(0));
    let (half, counter) = (weights().len() / 2, count.clone());
    let storage = FakeServer::start(move |request| match counter.fetch_add(1, Ordering::SeqCst) {
        0 => HubReply {
            body: HubReplyBody::Broken(weights()[..half].to_vec(), weights().len()),
            ..HubReply::status(200)
        },
        _ => ranged(&model_files(), request),
    });
    let server = hub("models", model_files(), &storage);
    let snapshot = model(settings(folder.path(), &server.address)).expect("resumed");
    assert_eq!(std::fs::read(snapshot.path.join("model.safetensors")).expect("read"), weights());
    let ranges: Vec<_> = storage.take_requests().into_iter().map(|request| request.range).collect();
    assert_eq!(ranges, [None, Some(half as u64)]);

    // from one call to the next: every connection ends at once
    let folder = tempfile::tempdir().expect("a folder");
    let broken = FakeServer::start(move |request| {
        let from = request.range.unwrap_or(0) as usize;
        let bytes = weights()[from..(from + 1000).min(weights().len())].to_vec();
        let range = format!("bytes {from}-{}/{}", weights().len() - 1, weights().len());
        let reply = HubReply {
            body: HubReplyBody::Broken(bytes, weights().len() - from),
            ..HubReply::status(if from > 0 { 206 } else { 200 })
        };
        if from > 0 { reply.with("Content-Range", range) } else { reply }
    });
    let server = hub("models", model_files(), &broken);
    let error = model(settings(folder.path(), &server.address)).expect_err("it never ends");
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_secret_free(&error);
    assert_nothing_to_use(folder.path());
    let requests = broken.take_requests();
    assert_eq!(requests.len(), 5, "attempts are bounded");
    let whole = fake_hub::storage(model_files());
    let server = hub("models", model_files(), &whole);
    let snapshot = model(settings(folder.path(), &server.address)).expect("resumed");
    assert_eq!(std::fs::read(snapshot.path.join("model.safetensors")).expect("read"), weights());
    assert_eq!(whole.take_requests()[0].range, Some(5000));
}

#[test]
fn an_address_of_the_storage_that_is_too_old_is_asked_for_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let count = AtomicUsize::new(0);
    let storage = FakeServer::start(move |request| match count.fetch_add(1, Ordering::SeqCst) {
        0 => HubReply::status(403),
        _ => ranged(&model_files(), request),
    });
    let server = hub("models", model_files(), &storage);
    let snapshot = model(settings(folder.path(), &server.address)).expect("downloaded");
    assert_eq!(std::fs::read(snapshot.path.join("model.safetensors")).expect("read"), weights());
    let gone = FakeServer::start(|_| HubReply::status(403));
    let server = hub("models", model_files(), &gone);
    let error = model(settings(tempfile::tempdir().expect("a folder").path(), &server.address)).expect_err("gone");
    assert!(matches!(error, Error::Status { status: 403, .. }), "no word of conditions: {error}");
}

#[test]
fn a_server_without_ranges_sends_all_of_it_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let count = AtomicUsize::new(0);
    let storage = FakeServer::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => HubReply {
            body: HubReplyBody::Broken(weights()[..1000].to_vec(), weights().len()),
            ..HubReply::status(200)
        },
        _ => HubReply::whole(weights()),
    });
    let server = hub("models", model_files(), &storage);
    let snapshot = model(settings(folder.path(), &server.address)).expect("downloaded");
    assert_eq!(std::fs::read(snapshot.path.join("model.safetensors")).expect("read"), weights());
}

/// The file that a download of the weights goes on with.
fn part(cache: &Path) -> PathBuf {
    let broken = FakeServer::start(|_| HubReply::status(503));
    let server = hub("models", model_files(), &broken);
    model(settings(cache, &server.address)).expect_err("no storage");
    let length = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    assert!(contents(cache).iter().all(|path| length(path) < 1000));
    let with_part = FakeServer::start(|_| HubReply {
        body: HubReplyBody::Broken(weights()[..1000].to_vec(), weights().len()),
        ..HubReply::status(200)
    });
    let server = hub("models", model_files(), &with_part);
    model(settings(cache, &server.address)).expect_err("broken");
    let parts = contents(cache).into_iter().filter(|path| path.extension().is_some_and(|end| end == "incomplete"));
    parts.max_by_key(length).expect("a part")
}

#[test]
fn parts_of_something_else_are_thrown_away() {
    for spoiled in [vec![7; 1000], vec![7; weights().len()], vec![7; weights().len() + 1]] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(part(folder.path()), spoiled).expect("written");
        let storage = storage(model_files());
        let server = hub("models", model_files(), &storage);
        let snapshot = model(settings(folder.path(), &server.address)).expect("downloaded anew");
        assert_eq!(std::fs::read(snapshot.path.join("model.safetensors")).expect("read"), weights());
    }
}

#[test]
fn bytes_of_another_hash_are_never_given_a_name() {
    let mut other = weights();
    other[12345] ^= 1;
    let storage = FakeServer::start(move |_| HubReply::whole(other.clone()));
    let server = hub("models", model_files(), &storage);
    let folder = tempfile::tempdir().expect("a folder");
    let error = model(settings(folder.path(), &server.address)).expect_err("another hash");
    assert!(matches!(&error, Error::WrongHash { file, .. } if file == "model.safetensors"), "{error}");
    assert_nothing_to_use(folder.path());
    assert_eq!(storage.take_requests().len(), 2);
    // small files have git's hash
    let folder = tempfile::tempdir().expect("a folder");
    let server = FakeServer::start(|request| match request.path.ends_with("/config.json") {
        true => HubReply::whole("{ }").with("ETag", format!("\"{}\"", hash("config.json", b"{}"))),
        false => answer("models", &model_files(), "", request),
    });
    let error = model(settings(folder.path(), &server.address)).expect_err("another hash");
    assert!(matches!(&error, Error::WrongHash { file, .. } if file == "config.json"), "{error}");
}

#[test]
fn a_refusal_is_a_sentence_with_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let cases: [(u16, &str, &str, &str); 8] = [
        (401, "GatedRepo", "is gated", "accept its conditions on http://"),
        (403, "GatedRepo", "is gated", "accept its conditions on http://"),
        (403, "", "may not read it", "/org/name"),
        (401, "RepoNotFound", "has no model `org/name`", "typing error"),
        (404, "RepoNotFound", "has no model `org/name`", "typing error"),
        (404, "RevisionNotFound", "has no revision `main`", "a branch, a tag"),
        (429, "", "status 429", "try again later"),
        (500, "", "status 500", "resumes the download"),
    ];
    for (status, code, sentence, hint) in cases {
        let server = FakeServer::start(move |_| HubReply::status(status).with("X-Error-Code", code));
        for token in [true, false] {
            let mut settings = settings(folder.path(), &server.address);
            settings.token = settings.token.filter(|_| token);
            let error = model(settings).expect_err("refused");
            let hint_text = error.hint().expect("a hint");
            let sentence = if !token && sentence == "may not read it" { "no token is there" } else { sentence };
            assert!(
                error.to_string().contains(sentence) && hint_text.contains(hint),
                "{status} {code}: {error}; {hint_text}"
            );
            assert_secret_free(&error);
        }
    }
    // a file may be refused where the list is not
    let server = FakeServer::start(|request| match request.path.ends_with("config.json") {
        true => HubReply::status(403).with("X-Error-Code", "GatedRepo"),
        false => answer("models", &model_files(), "", request),
    });
    assert!(matches!(model(settings(folder.path(), &server.address)), Err(Error::Gated { .. })));
    assert!(!folder.path().join("models--org--name/refs/main").exists());
}

#[test]
fn repositories_without_a_model_are_refused_before_any_download() {
    for (names, expected) in [
        (vec!["config.json", "pytorch_model.bin"], "pytorch_model.bin"),
        (vec!["a.Q4_0.gguf", "a.Q8_0.gguf"], "a.Q4_0.gguf"),
        (vec!["adapter_config.json", "adapter_model.safetensors"], "adapter"),
        (vec!["README.md"], "none of its 1 files"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let listed: HubFiles = names.iter().map(|name| ((*name).to_string(), b"x".to_vec())).collect();
        let server = hub("models", listed, &storage(HubFiles::new()));
        let error = model(settings(folder.path(), &server.address)).expect_err("no model");
        assert!(matches!(&error, Error::NoWeights { found, .. } if found.contains(expected)), "{error}");
        assert_eq!(server.take_requests().len(), 1);
    }
}

#[test]
fn a_gguf_file_comes_alone_or_with_the_other_parts_of_its_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let listed = files(&[
        ("README.md", b"words"),
        ("m.Q4_0.gguf", b"small"),
        ("q8/m-00001-of-00002.gguf", b"one"),
        ("q8/m-00002-of-00002.gguf", b"two"),
        ("q8/n-00001-of-00002.gguf", b"other"),
    ]);
    let server = hub("models", listed, &storage(HubFiles::new()));
    let at = |name: &str| model_at(settings(folder.path(), &server.address), name);
    let snapshot = at("org/name/m.Q4_0.gguf").expect("a file");
    assert_eq!((snapshot.files.as_slice(), snapshot.commit.as_str()), (&["m.Q4_0.gguf".to_string()][..], COMMIT));
    assert_eq!(std::fs::read(snapshot.path.join("m.Q4_0.gguf")).expect("its bytes"), b"small");
    let parts = ["q8/m-00001-of-00002.gguf", "q8/m-00002-of-00002.gguf"];
    assert_eq!(at("org/name/q8/m-00002-of-00002.gguf").expect("both").files, parts);
    // from the cache, and only what is there
    server.take_requests();
    assert_eq!(at("org/name/q8/m-00001-of-00002.gguf").expect("both").files, parts);
    assert!(server.take_requests().is_empty());
    let error = at("org/name/other.gguf").expect_err("no such file");
    assert!(matches!(&error, Error::NoGguf { file, .. } if file == "other.gguf"), "{error}");
    assert!(error.hint().expect("a hint").contains("m.Q4_0.gguf, q8/m-00001-of-00002.gguf"));
    // the repository alone is no model
    let error = at("org/name").expect_err("several models");
    assert!(
        error.to_string().contains("GGUF files: m.Q4_0.gguf") && error.hint().expect("a hint").contains("FILE.gguf")
    );
}

#[test]
fn weights_in_several_files_come_with_their_index_alone() {
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let listed = files(&[
        ("config.json", b"{}"),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("model.fp16-1.safetensors", b"other"),
        ("model.safetensors.index.json", index),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let storage = storage(listed.clone());
    let server = hub("models", listed, &storage);
    let snapshot = model(settings(folder.path(), &server.address)).expect("downloaded");
    assert_eq!(
        snapshot.files,
        ["config.json", "model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"]
    );
    assert!(model(settings(folder.path(), "http://127.0.0.1:9")).expect("it is there").warning.is_none());
    let leaving = files(&[
        ("config.json", b"{}"),
        ("model.safetensors.index.json", br#"{"weight_map": {"a": "../../../x.safetensors"}}"#),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let server = hub("models", leaving, &storage);
    assert!(matches!(model(settings(folder.path(), &server.address)), Err(Error::NoWeights { .. })));
}

#[test]
fn answers_without_end_or_without_haste_are_given_up() {
    let endless = || HubReply { body: HubReplyBody::Endless, ..HubReply::status(200) };
    let stalled =
        || HubReply { body: HubReplyBody::Stalled(weights()[..10].to_vec(), weights().len()), ..HubReply::status(200) };
    type Handler = Box<dyn Fn(&fake_hub::HubRequest) -> HubReply + Send + Sync>;
    let storages: [Handler; 2] = [Box::new(move |_| endless()), Box::new(move |_| stalled())];
    let started = Instant::now();
    for storage in storages {
        let storage = FakeServer::start(storage);
        let server = hub("models", model_files(), &storage);
        let folder = tempfile::tempdir().expect("a folder");
        let error = model(settings(folder.path(), &server.address)).expect_err("no end");
        assert!(matches!(error, Error::Unreachable { .. } | Error::UnexpectedResponse { .. }), "{error}");
        assert_secret_free(&error);
        assert_nothing_to_use(folder.path());
        let written: u64 = contents(folder.path()).iter().filter_map(|path| Some(path.metadata().ok()?.len())).sum();
        assert!(written < 2 * weights().len() as u64, "{written}");
    }
    for listing in [endless, stalled] {
        let server = FakeServer::start(move |_| listing());
        let folder = tempfile::tempdir().expect("a folder");
        let error = model(settings(folder.path(), &server.address)).expect_err("no end");
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
    // a connection that nobody answers on
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("http://{}", silent.local_addr().expect("an address"));
    assert!(matches!(model(settings(folder.path(), &address)), Err(Error::Unreachable { .. })));
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

#[test]
fn nothing_that_a_server_says_leads_out_of_the_cache() {
    let outer = tempfile::tempdir().expect("a folder");
    let cache = outer.path().join("a/b/cache");
    let one = |sha: &str, file: &str| serde_json::json!({"sha": sha, "siblings": [{"rfilename": file}]}).to_string();
    let listings =
        [one("../../../../x", "config.json"), one(COMMIT, "../../../../config.json"), "[]".into(), "x".into()];
    for listing in listings {
        let server = FakeServer::start(move |_| HubReply::whole(listing.clone()));
        let error = model(settings(&cache, &server.address)).expect_err("refused");
        assert!(matches!(error, Error::UnexpectedResponse { .. } | Error::NoWeights { .. }), "{error}");
    }
    // a commit that is a path, with files that are right
    let server = FakeServer::start(|request| {
        match request.path.contains("resolve") {
        true => HubReply::whole("{}").with("ETag", format!("\"{}\"", hash("config.json", b"{}"))),
        false => HubReply::whole(
            serde_json::json!({"sha": "../../../../x", "siblings": [{"rfilename": "config.json"}, {"rfilename": "model.safetensors"}]})
                .to_string(),
        ),
    }
    });
    let error = model(settings(&cache, &server.address)).expect_err("no commit");
    assert!(matches!(error, Error::UnexpectedResponse { .. }), "{error}");
    for etag in ["\"../../../../etag\"", "\"\"", "\"d41d8cd98f00b204e9800998ecf8427e\"", "W/\"x\""] {
        let server = FakeServer::start(move |request| match request.path.contains("resolve") {
            true => HubReply::whole("{}").with("ETag", etag),
            false => answer("models", &model_files(), "", request),
        });
        let error = model(settings(&cache, &server.address)).expect_err("no hash");
        assert!(matches!(error, Error::UnexpectedResponse { .. }), "{error}");
    }
    for location in ["file:///etc/passwd", "x", "", "/again"] {
        let server = FakeServer::start(move |request| match request.path.starts_with("/api") {
            true => answer("models", &model_files(), "", request),
            false => HubReply::status(302).with("Location", location),
        });
        let error = model(settings(&cache, &server.address)).expect_err("no address");
        assert!(matches!(error, Error::UnexpectedResponse { .. }), "{error}");
        assert!(server.take_requests().len() < 10);
    }
    assert!(
        contents(outer.path())
            .iter()
            .all(|path| path.starts_with(cache.join("models--org--name")) || path.starts_with(cache.join(".locks")))
    );
}

#[test]
fn two_downloads_of_one_file_wait_for_each_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = storage(model_files());
    let server = hub("models", model_files(), &storage);
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| model(settings(folder.path(), &server.address))));
        let both = both.map(|one| one.join().expect("no panic").expect("downloaded"));
        assert_eq!(both[0].path, both[1].path);
    });
    assert_eq!(storage.take_requests().len(), 1);
}

#[test]
fn rows_are_fetched_by_configuration_and_split_alone() {
    let readme = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n  - split: test\n    path: data/test-*\n---\n";
    let listed = files(&[
        ("README.md", readme),
        ("data/test-00000-of-00001.parquet", b"test"),
        ("data/train-00000-of-00002.parquet", b"first"),
        ("data/train-00001-of-00002.parquet", b"second"),
        ("extra.csv", b"other"),
    ]);
    let folder = tempfile::tempdir().expect("a folder");
    let storage = storage(listed.clone());
    let server = hub("datasets", listed.clone(), &storage);
    let settings = || settings(folder.path(), &server.address);
    let train = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"];
    assert_eq!(rows(settings(), "hub:org/name").expect("rows"), train);
    assert_eq!(storage.take_requests().len(), 2);
    server.take_requests();
    assert_eq!(rows(settings(), "hub:org/name:train").expect("rows"), train);
    assert!(server.take_requests().is_empty(), "they are in the cache");
    let snapshot = folder.path().join("datasets--org--name/snapshots").join(COMMIT);
    assert_eq!(
        std::fs::read_link(snapshot.join(train[0]))
            .expect("a link")
            .components()
            .next_back()
            .expect("a name")
            .as_os_str(),
        hash(train[0], b"first").as_str()
    );
    assert_eq!(std::fs::read(snapshot.join(train[1])).expect("read"), b"second");
    // another split of the same commit
    assert_eq!(rows(settings(), "hub:org/name/default:test").expect("rows"), ["data/test-00000-of-00001.parquet"]);
    assert_eq!(storage.take_requests().len(), 1);
    let error = rows(settings(), "hub:org/name:validation").expect_err("no such split");
    assert_eq!(error.hint().as_deref(), Some("accepted: train, test"));
    // a shard that is gone is fetched again
    std::fs::remove_file(snapshot.join(train[0])).expect("removed");
    assert_eq!(rows(settings(), "hub:org/name").expect("rows"), train);
    assert_eq!(std::fs::read(snapshot.join(train[0])).expect("read"), b"first");
    let offline = || HubSettings { offline: true, ..settings() };
    assert_eq!(rows(offline(), "hub:org/name").expect("rows"), train);
    assert!(matches!(rows(offline(), "hub:org/other"), Err(Error::Offline { .. })));
}
