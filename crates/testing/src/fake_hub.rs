//! A server on the loopback that answers as the hub does: lists of files, small files through a redirect to itself, large ones
//! through a redirect to another host, which knows ranges.

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a client sent.
#[derive(Debug, Clone)]
pub struct HubRequest {
    pub path: String,
    pub range: Option<u64>,
    pub token: Option<String>,
}

/// What it gets.
#[derive(Debug)]
pub struct HubReply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: HubReplyBody,
}

#[derive(Debug)]
pub enum HubReplyBody {
    Whole(Vec<u8>),
    /// These bytes of an announced length, and then the connection ends.
    Broken(Vec<u8>, usize),
    /// Chunks without end.
    Endless,
    /// These bytes of an announced length, and then nothing for a long time.
    Stalled(Vec<u8>, usize),
}

impl HubReply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: vec![], body: HubReplyBody::Whole(vec![]) }
    }

    pub fn whole(body: impl Into<Vec<u8>>) -> Self {
        Self { body: HubReplyBody::Whole(body.into()), ..Self::status(200) }
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// A server, and the requests that it had.
#[derive(Debug)]
pub struct FakeServer {
    pub address: String,
    pub requests: Arc<Mutex<Vec<HubRequest>>>,
}

impl FakeServer {
    pub fn start(answer: impl Fn(&HubRequest) -> HubReply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(vec![]));
        let (log, answer) = (requests.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || {
                    let Some(request) = read_request(&stream) else { return };
                    log.lock().expect("not poisoned").push(request.clone());
                    let _ = send(stream, answer(&request));
                });
            }
        });
        Self { address, requests }
    }

    /// The requests so far, which are forgotten.
    pub fn take_requests(&self) -> Vec<HubRequest> {
        std::mem::take(&mut *self.requests.lock().expect("not poisoned"))
    }
}

fn read_request(stream: &TcpStream) -> Option<HubRequest> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_string();
    let mut request = HubRequest { path, range: None, token: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_lowercase().as_str() {
            "range" => request.range = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
            "authorization" => request.token = Some(value.into()),
            _ => {}
        }
    }
    Some(request)
}

fn send(mut stream: TcpStream, reply: HubReply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    reply.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    let (bytes, length) = match &reply.body {
        HubReplyBody::Whole(bytes) => (bytes.as_slice(), Some(bytes.len())),
        HubReplyBody::Broken(bytes, length) | HubReplyBody::Stalled(bytes, length) => (bytes.as_slice(), Some(*length)),
        HubReplyBody::Endless => (&[][..], None),
    };
    head += &length.map_or("Transfer-Encoding: chunked\r\n\r\n".into(), |n| format!("Content-Length: {n}\r\n\r\n"));
    stream.write_all(head.as_bytes())?;
    stream.write_all(bytes)?;
    match reply.body {
        HubReplyBody::Stalled(..) => std::thread::sleep(Duration::from_secs(20)),
        HubReplyBody::Endless => {
            let chunk = [format!("{:x}\r\n", 1 << 16).as_bytes(), &[b' '; 1 << 16], b"\r\n"].concat();
            loop {
                stream.write_all(&chunk)?;
            }
        }
        _ => {}
    }
    stream.flush()
}

pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash that the hub has a file by.
pub fn hash(file: &str, bytes: &[u8]) -> String {
    match is_large(file) {
        true => hex(Sha256::digest(bytes)),
        false => hex(Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize()),
    }
}

pub fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".parquet")
}

pub type HubFiles = BTreeMap<String, Vec<u8>>;

pub fn files(files: &[(&str, &[u8])]) -> HubFiles {
    files.iter().map(|(name, bytes)| ((*name).to_string(), bytes.to_vec())).collect()
}

/// The host of large files: `/<hash>`, from any byte on.
pub fn storage(files: HubFiles) -> FakeServer {
    FakeServer::start(move |request| ranged(&files, request))
}

/// A large file from the requested byte on.
pub fn ranged(files: &HubFiles, request: &HubRequest) -> HubReply {
    let hash_of_path = request.path.trim_start_matches('/').split('?').next().unwrap_or_default();
    let Some((_, bytes)) = files.iter().find(|(name, bytes)| hash(name, bytes) == hash_of_path) else {
        return HubReply::status(404);
    };
    match request.range.map(|from| from as usize) {
        None => HubReply::whole(bytes.clone()),
        Some(from) if from >= bytes.len() => HubReply::status(416),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            HubReply { status: 206, ..HubReply::whole(&bytes[from..]) }.with("Content-Range", range)
        }
    }
}

/// The hub of one repository, `models/org/name` or `datasets/org/name`, at `main` and at [`COMMIT`].
pub fn hub(kind: &'static str, files: HubFiles, storage: &FakeServer) -> FakeServer {
    let storage = storage.address.clone();
    FakeServer::start(move |request| answer(kind, &files, &storage, request))
}

pub fn answer(kind: &str, files: &HubFiles, storage: &str, request: &HubRequest) -> HubReply {
    let revisions = [format!("/api/{kind}/org/name/revision/main"), format!("/api/{kind}/org/name/revision/{COMMIT}")];
    if revisions.contains(&request.path) {
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        return HubReply::whole(serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string());
    }
    if request.path.starts_with(&format!("/api/{kind}/org/name/revision/")) {
        return HubReply::status(404).with("X-Error-Code", "RevisionNotFound");
    }
    let prefix = if kind == "datasets" { "/datasets/org/name" } else { "/org/name" };
    let cache_prefix = format!("/api/resolve-cache/{kind}/org/name/{COMMIT}/");
    if let Some(file) = request.path.strip_prefix(&cache_prefix) {
        let bytes = &files[file];
        return HubReply::whole(bytes.clone()).with("ETag", format!("\"{}\"", hash(file, bytes)));
    }
    let file = request.path.strip_prefix(&format!("{prefix}/resolve/{COMMIT}/"));
    let Some((file, bytes)) = file.and_then(|file| files.get_key_value(file)) else {
        return HubReply::status(401).with("X-Error-Code", "RepoNotFound");
    };
    match is_large(file) {
        true => HubReply::status(302)
            .with("Location", format!("{storage}/{}?signature=of-the-storage", hash(file, bytes)))
            .with("X-Linked-Etag", format!("\"{}\"", hash(file, bytes)))
            .with("X-Linked-Size", bytes.len().to_string())
            .with("ETag", "\"of-a-pointer\""),
        false => HubReply::status(307).with("Location", format!("{cache_prefix}{file}")),
    }
}
