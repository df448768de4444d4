//! The hub over HTTP: the files of a repository, and single requests. Times and sizes are bounded, and the token is sent to the hub
//! only.

use crate::environment::HubSettings;
use crate::name::{RepoName, is_commit};
use crate::{Error, Result};
use hf_hub::api::RepoInfo;
use hf_hub::{Repo, RepoType};
use std::time::Duration;
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

/// Most bytes of a list of files, and most files in it.
const MAX_LISTING: u64 = 64 << 20;
const MAX_FILES: usize = 500_000;
/// Most redirects that are followed.
const MAX_HOPS: usize = 5;
/// Longest wait for a connection and for the whole list of a repository's files.
const CONNECT: Duration = Duration::from_secs(10);
const LISTING: Duration = Duration::from_secs(120);

/// The hub, by the addresses of its API.
#[derive(Debug)]
pub(crate) struct Remote {
    agent: Agent,
    settings: HubSettings,
}

/// The files of a repository at a commit.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
}

/// The response after all redirects, with what the hub itself says of the file.
#[derive(Debug)]
pub(crate) struct HubResponse {
    pub(crate) http: Response<Body>,
    pub(crate) address: String,
    /// `X-Linked-Etag` of the first response that has one, else the last response's `ETag`.
    pub(crate) etag: Option<String>,
    /// `X-Linked-Size`.
    pub(crate) size: Option<u64>,
    /// Whether the cache has a file of this `etag`: the response may then be a redirect that was not followed.
    pub(crate) is_known: bool,
    /// Whether it is from the hub and not from another host.
    is_hub: bool,
}

impl Remote {
    pub(crate) fn new(settings: &HubSettings) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("duel/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity") // hash and range are of the bytes as they are
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_send_request(Some(settings.patience))
            .timeout_recv_response(Some(settings.patience))
            .timeout_per_read(Some(settings.patience));
        let config = match &settings.authorities {
            Some(certificates) => {
                let roots = RootCerts::new_with_certs(certificates);
                config.tls_config(TlsConfig::builder().root_certs(roots).build())
            }
            None => config,
        };
        Self { agent: config.build().into(), settings: settings.clone() }
    }

    pub(crate) fn patience(&self) -> Duration {
        self.settings.patience
    }

    /// The commit of a revision, and the names of its files.
    pub(crate) fn listing(&self, name: &RepoName, kind: RepoType) -> Result<Listing> {
        let url = format!("{}/api/{}", self.settings.endpoint, repo(name, kind).api_url());
        let mut response = self.get(&url, None, Some(LISTING), &|_| false)?;
        self.check(&response, name, kind, None)?;
        let damaged = |problem: String| Error::UnexpectedResponse { address: response.address.clone(), problem };
        let body = response.http.body_mut().with_config().limit(MAX_LISTING).read_to_vec();
        let body = body.map_err(|e| unreachable(&response.address, &e))?;
        let info: RepoInfo = serde_json::from_slice(&body).map_err(|e| damaged(e.to_string()))?;
        if !is_commit(&info.sha) {
            return Err(damaged("its `sha` is not a commit".into()));
        }
        if info.siblings.len() > MAX_FILES {
            return Err(damaged(format!("{} files; up to {MAX_FILES} are read", info.siblings.len())));
        }
        let mut files: Vec<String> =
            info.siblings.into_iter().map(|file| file.rfilename).filter(|file| is_file_name(file)).collect();
        files.sort();
        Ok(Listing { commit: info.sha, files })
    }

    /// The response for a file of a commit, from the byte `from` on. Redirects are not followed once the hub names a known hash.
    pub(crate) fn file(
        &self,
        name: &RepoName,
        kind: RepoType,
        file: &str,
        from: u64,
        is_known: &dyn Fn(&str) -> bool,
    ) -> Result<HubResponse> {
        let repo = repo(name, kind);
        let path: Vec<String> = file.split('/').map(escaped).collect();
        let path = path.join("/");
        let url = format!("{}/{}/resolve/{}/{path}", self.settings.endpoint, repo.url(), repo.url_revision());
        let response = self.get(&url, (from > 0).then_some(from), None, is_known)?;
        if !response.is_known && response.http.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            self.check(&response, name, kind, Some(file))?;
        }
        Ok(response)
    }

    /// Requests an address and follows its redirects, until the hub names a known file.
    fn get(
        &self,
        url: &str,
        from: Option<u64>,
        limit: Option<Duration>,
        is_known: &dyn Fn(&str) -> bool,
    ) -> Result<HubResponse> {
        let parse = |url: &str| url.parse::<Uri>().ok();
        let (endpoint, start) = (parse(&self.settings.endpoint), parse(url));
        let (Some(endpoint), Some(mut uri)) = (endpoint, start) else {
            return Err(Error::UnexpectedResponse {
                address: self.settings.endpoint.clone(),
                problem: "no address".into(),
            });
        };
        let (mut linked, mut size) = (None, None);
        for _ in 0..=MAX_HOPS {
            let address = shown(&uri);
            let is_hub = is_same_host(&endpoint, &uri);
            let mut request = self.agent.get(uri.clone()).config().timeout_global(limit).build();
            if let (Some(token), true) = (&self.settings.token, is_hub) {
                request = request.header("authorization", token.header());
            }
            if let Some(from) = from {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().map_err(|e| unreachable(&address, &e))?;
            let headers = response.headers();
            linked = linked.or_else(|| text(headers, "x-linked-etag"));
            size = size.or_else(|| text(headers, "x-linked-size")?.parse().ok());
            let is_redirect = response.status().is_redirection();
            // the ETag of a redirect is of a pointer
            let etag = if is_redirect { linked.clone() } else { linked.clone().or_else(|| text(headers, "etag")) };
            let is_known = etag.as_deref().is_some_and(is_known);
            if is_known || !is_redirect {
                return Ok(HubResponse { http: response, address, etag, size, is_known, is_hub });
            }
            let target = text(headers, "location").and_then(|location| redirected(&uri, &location));
            uri = target
                .ok_or_else(|| Error::UnexpectedResponse { address, problem: "a redirect to no address".into() })?;
        }
        Err(Error::UnexpectedResponse { address: shown(&uri), problem: format!("more than {MAX_HOPS} redirects") })
    }

    /// Whether a response has the requested file or list.
    fn check(&self, response: &HubResponse, name: &RepoName, kind: RepoType, file: Option<&str>) -> Result<()> {
        let status = response.http.status();
        if status.is_success() {
            return Ok(());
        }
        let (repo, has_token) = (name.repo.clone(), self.settings.token.is_some());
        let endpoint = self.settings.endpoint.clone();
        let code = text(response.http.headers(), "x-error-code").unwrap_or_default();
        let folder = if matches!(kind, RepoType::Dataset) { "datasets/" } else { "" };
        if !response.is_hub {
            return Err(Error::Status { address: response.address.clone(), status: status.as_u16() });
        }
        Err(match (status.as_u16(), code.as_str(), file) {
            (401 | 403, "GatedRepo", _) | (403, _, _) => {
                Error::Gated { page: format!("{endpoint}/{folder}{repo}"), repo, has_token }
            }
            (404, "RevisionNotFound", _) => Error::NoRevision { repo, revision: name.revision.clone() },
            (404, code, Some(file)) if code != "RepoNotFound" => Error::NoFile { repo, file: file.into() },
            (401 | 404, _, _) => {
                let kind = if matches!(kind, RepoType::Dataset) { "dataset" } else { "model" };
                Error::NoRepo { repo, kind, endpoint, has_token }
            }
            (status, _, _) => Error::Status { address: response.address.clone(), status },
        })
    }
}

pub(crate) fn repo(name: &RepoName, kind: RepoType) -> Repo {
    Repo::with_revision(name.repo.clone(), kind, name.revision.clone())
}

/// Whether a file's name stays within the folder of its repository.
pub(crate) fn is_file_name(name: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    name.len() <= 1024 && name.split('/').all(is_part) && !name.contains(|c: char| c.is_control() || c == '\\')
}

/// A part of a path, escaped for an address.
fn escaped(part: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'=' | b'+' | b',');
    part.bytes().map(|b| if is_plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// An address for a message: without its query, which may be signed.
fn shown(uri: &Uri) -> String {
    let host = uri.authority().map_or("", |authority| authority.as_str().rsplit('@').next().unwrap_or_default());
    format!("{}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
}

fn unreachable(address: &str, error: &ureq::Error) -> Error {
    Error::Unreachable { address: address.into(), problem: error.to_string() }
}

/// A header as text.
pub(crate) fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(String::from)
}

/// Scheme, host and port of an address.
fn origin(uri: &Uri) -> Option<(String, String, u16)> {
    let scheme = uri.scheme_str()?.to_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_lowercase(), port))
}

fn is_same_host(a: &Uri, b: &Uri) -> bool {
    origin(a).is_some_and(|a| origin(b) == Some(a))
}

/// Where a redirect leads: another address, or another path of the same host; never from an encrypted address to an open one.
fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    let scheme = from.scheme_str()?;
    let to = match location {
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{}{location}", from.authority()?),
        _ => location.to_string(),
    };
    let uri: Uri = to.parse().ok()?;
    let to = uri.scheme_str()?;
    (to == "https" || (to == "http" && scheme == "http")).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_leads_to_an_address_or_nowhere() {
        let from: Uri = "https://hub.test/a/b?x=1".parse().expect("an address");
        let to = |location| redirected(&from, location).map(|uri| uri.to_string());
        assert_eq!(to("/c?d=1").as_deref(), Some("https://hub.test/c?d=1"));
        assert_eq!(to("//other.test/c").as_deref(), Some("https://other.test/c"));
        assert_eq!(to("https://other.test:1/c").as_deref(), Some("https://other.test:1/c"));
        for bad in ["http://hub.test/c", "file:///etc/passwd", "c", "", "ftp://x/"] {
            assert_eq!(to(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_hub_is_one_scheme_host_and_port() {
        let uri = |text: &str| text.parse::<Uri>().expect("an address");
        assert!(is_same_host(&uri("https://hub.test"), &uri("https://HUB.test:443/x")));
        for other in ["http://hub.test", "https://hub.test:444", "https://hub.test.evil", "https://cdn.hub.test"] {
            assert!(!is_same_host(&uri("https://hub.test"), &uri(other)), "{other}");
        }
        assert_eq!(shown(&uri("https://name:word@h.test/p?signature=secret")), "https://h.test/p");
    }

    #[test]
    fn names_of_files_stay_within_their_folder() {
        for name in ["config.json", "data/train-00000-of-00001.parquet", "a b/ü.csv"] {
            assert!(is_file_name(name), "{name}");
        }
        for name in ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b", "a\nb", "a/"] {
            assert!(!is_file_name(name), "{name}");
        }
        assert_eq!(escaped("a b#ü.json"), "a%20b%23%C3%BC.json");
    }
}
