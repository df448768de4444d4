//! Downloads one file from the hub into its cache: resumes an earlier download, and keeps only a file that matches its hash.

use crate::name::{RepoName, is_hex};
use crate::remote::{HubResponse, Remote, text};
use crate::{Error, Result};
use hf_hub::RepoType;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Instant;
use ureq::http::StatusCode;

/// Downloads in a row that bring less than [`PROGRESS`] bytes, after which a file is given up.
const ATTEMPTS: u32 = 5;
const PROGRESS: u64 = 1 << 20;
/// Share of the patience that is waited before the second attempt; twice as long before each further one.
const PAUSE: f64 = 0.005;
/// Bytes per second below which a download is given up.
const SLOWEST: f64 = 512.0;
const BUFFER: usize = 1 << 18;

/// How far the download of a file is.
#[derive(Debug, Clone, Copy)]
pub struct Downloaded<'a> {
    pub file: &'a str,
    /// Bytes downloaded so far, and in total if the hub gives the size.
    pub bytes: u64,
    pub total: Option<u64>,
}

/// A file of a repository at a commit, and the most bytes that are read of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RemoteFile<'a> {
    pub(crate) name: &'a RepoName,
    pub(crate) kind: RepoType,
    pub(crate) file: &'a str,
    pub(crate) limit: u64,
}

/// What an attempt ended with.
enum Attempt {
    /// All bytes are there.
    Whole(BlobHash),
    /// The cache has a file of this hash.
    Known(BlobHash),
}

/// The hash of a file as the hub keeps it: SHA-256 for large files, git's SHA-1 for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlobHash(String);

impl BlobHash {
    /// The hash of an `ETag`.
    fn of_etag(etag: &str) -> Option<Self> {
        let hash = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
        Self::parse(hash)
    }

    pub(crate) fn parse(hash: &str) -> Option<Self> {
        (is_hex(hash, 64) || is_hex(hash, 40)).then(|| Self(hash.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The hash of the same kind of a file on disk.
    fn of_file(&self, path: &Path) -> std::io::Result<String> {
        let file = File::open(path)?;
        if self.0.len() == 64 {
            return digest(Sha256::new(), file);
        }
        let header = format!("blob {}\0", file.metadata()?.len());
        digest(Sha1::new_with_prefix(header), file)
    }
}

fn digest(mut hasher: impl Digest, mut file: File) -> std::io::Result<String> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// The SHA-256 of a file.
pub(crate) fn sha256(path: &Path) -> Result<String> {
    let io = |source| Error::Io { action: "read", path: path.into(), source };
    digest(Sha256::new(), File::open(path).map_err(io)?).map_err(io)
}

/// Downloads a file to `part`, from where that ends, and returns its hash. Where `is_known` says that the cache has a file of that
/// hash nothing is read.
///
/// # Errors
/// A refusal by the hub; a download that repeatedly ends early, stalls or has another hash.
pub(crate) fn download(
    remote: &Remote,
    file: RemoteFile<'_>,
    part: &Path,
    is_known: &dyn Fn(&BlobHash) -> bool,
    progress: &mut dyn FnMut(Downloaded<'_>),
) -> Result<BlobHash> {
    let io = |action, source| Error::Io { action, path: part.into(), source };
    let length = || part.metadata().map_or(0, |metadata| metadata.len());
    let (mut fruitless, mut has_failed) = (0, false);
    loop {
        let before = length();
        match attempt(remote, file, part, is_known, progress) {
            Ok(Attempt::Known(hash)) => return Ok(hash),
            Ok(Attempt::Whole(expected)) => {
                let actual = expected.of_file(part).map_err(|e| io("read", e))?;
                if actual == expected.0 {
                    return Ok(expected);
                }
                std::fs::remove_file(part).map_err(|e| io("remove", e))?;
                if has_failed {
                    return Err(Error::WrongHash { file: file.file.into(), expected: expected.0, actual });
                }
                has_failed = true; // what an earlier download left may have been another file
            }
            Err(error) if is_passing(&error) => {
                fruitless = if length() >= before + PROGRESS { 0 } else { fruitless + 1 };
                if fruitless >= ATTEMPTS {
                    return Err(error);
                }
                std::thread::sleep(remote.patience().mul_f64(PAUSE) * 2u32.pow(fruitless));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the same request may succeed later. With 403 the storage refuses an address whose signature is too old.
fn is_passing(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Status { status: 403 | 408 | 429 | 500..=599, .. })
}

/// One request; the bytes of its response are appended to those in the file.
fn attempt(
    remote: &Remote,
    file: RemoteFile<'_>,
    part: &Path,
    is_known: &dyn Fn(&BlobHash) -> bool,
    progress: &mut dyn FnMut(Downloaded<'_>),
) -> Result<Attempt> {
    let io = |action, source| Error::Io { action, path: part.into(), source };
    let mut start = part.metadata().map_or(0, |metadata| metadata.len());
    let has_blob = |etag: &str| BlobHash::of_etag(etag).as_ref().is_some_and(is_known);
    let response = remote.file(file.name, file.kind, file.file, start, &has_blob)?;
    let damaged =
        |problem: &str| Error::UnexpectedResponse { address: response.address.clone(), problem: problem.into() };
    let hash = response.etag.as_deref().and_then(BlobHash::of_etag);
    let hash = hash.ok_or_else(|| damaged("its ETag contains no hash"))?;
    if response.is_known {
        return Ok(Attempt::Known(hash));
    }
    let status = response.http.status();
    if start > 0 && status != StatusCode::PARTIAL_CONTENT {
        // all of it again, or nothing after the bytes in the file
        File::create(part).map_err(|e| io("create", e))?;
        start = 0;
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            return attempt(remote, file, part, is_known, progress);
        }
    } else if start == 0 && status != StatusCode::OK {
        return Err(damaged(&format!("status {status} for a whole file")));
    }
    let total = total(&response, start).map_err(damaged)?;
    if total.is_some_and(|total| total > file.limit) {
        return Err(Error::TooLarge { file: file.file.into(), limit: file.limit });
    }
    let mut to = OpenOptions::new().create(true).append(true).open(part).map_err(|e| io("create", e))?;
    let (address, mut body) = (response.address, response.http.into_body().into_reader());
    let lost = |problem: String| Error::Unreachable { address: address.clone(), problem };
    let (mut bytes, mut buffer) = (start, vec![0; BUFFER]);
    let (mut window, mut window_bytes, patience) = (Instant::now(), 0, remote.patience());
    loop {
        progress(Downloaded { file: file.file, bytes, total });
        let n = body.read(&mut buffer).map_err(|e| lost(e.to_string()))?;
        if n == 0 {
            break;
        }
        bytes += n as u64;
        window_bytes += n;
        if bytes > total.unwrap_or(file.limit) {
            return match total {
                Some(total) => Err(Error::UnexpectedResponse {
                    address,
                    problem: format!("more than the {total} bytes it announces"),
                }),
                None => Err(Error::TooLarge { file: file.file.into(), limit: file.limit }),
            };
        }
        to.write_all(&buffer[..n]).map_err(|e| io("write", e))?;
        let elapsed = window.elapsed();
        if elapsed > patience {
            if (window_bytes as f64) < SLOWEST * elapsed.as_secs_f64() {
                return Err(lost(format!("{window_bytes} bytes in {:.0} s", elapsed.as_secs_f64())));
            }
            (window, window_bytes) = (Instant::now(), 0);
        }
    }
    if total.is_some_and(|total| bytes < total) {
        return Err(lost(format!("it ended after {bytes} of {} bytes", total.unwrap_or_default())));
    }
    to.sync_all().map_err(|e| io("write", e))?;
    Ok(Attempt::Whole(hash))
}

/// The size of the whole file, if the response says so.
fn total(response: &HubResponse, start: u64) -> std::result::Result<Option<u64>, &'static str> {
    let headers = response.http.headers();
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let total = match response.http.status() {
        // "bytes 100-199/200"
        StatusCode::PARTIAL_CONTENT => {
            let range = text(headers, "content-range").ok_or("a part without its `Content-Range`")?;
            let (range, total) =
                range.strip_prefix("bytes ").and_then(|r| r.split_once('/')).ok_or("a strange range")?;
            if range.split_once('-').and_then(|(first, _)| number(first)) != Some(start) {
                return Err("a different range from the one requested");
            }
            number(total)
        }
        _ => text(headers, "content-length").and_then(|length| number(&length)),
    };
    match (total, response.size) {
        (Some(total), Some(size)) if total != size => Err("another length than the hub announces"),
        (total, size) => Ok(total.or(size)),
    }
}
