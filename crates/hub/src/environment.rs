//! Where the hub and its cache are, by the variables that `huggingface_hub` reads.

use crate::{Error, Result};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, parse_pem};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Most bytes of a file that holds a token.
const MAX_TOKEN: u64 = 4096;
/// Most bytes of a file of certificates.
const MAX_AUTHORITIES: u64 = 16 << 20;
/// Seconds without a byte after which a download is given up: the default, and the largest accepted value.
const PATIENCE: u64 = 30;
const MAX_PATIENCE: u64 = 600;

/// A secret: shown nowhere.
#[derive(Clone)]
pub struct AccessToken(String);

impl AccessToken {
    /// The header that carries it.
    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessToken(…)")
    }
}

/// Addresses of the hub and its cache, and the settings of requests.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The folder of `models--org--name`.
    pub cache: PathBuf,
    pub endpoint: String,
    pub token: Option<AccessToken>,
    /// Whether the cache alone is read.
    pub offline: bool,
    /// Time without a byte after which a download is given up.
    pub patience: Duration,
    /// The authorities whose certificates are trusted; `None`: Mozilla's.
    pub authorities: Option<Vec<Certificate<'static>>>,
}

impl HubSettings {
    /// The settings of this process's environment.
    ///
    /// # Errors
    /// A variable or token that cannot be used.
    pub fn from_env() -> Result<Self> {
        Self::read(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// The settings of an environment whose variables are these.
    ///
    /// # Errors
    /// As [`Self::from_env`].
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let user = variable("HOME").map(PathBuf::from);
        let path = |name: &str| variable(name).map(|text| expanded(&text, user.as_deref()));
        let caches = path("XDG_CACHE_HOME").or_else(|| Some(user.as_ref()?.join(".cache")));
        let home = path("HF_HOME").or_else(|| Some(caches?.join("huggingface")));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or(Error::Variable {
            variable: "HOME",
            problem: "is not set, so the hub's cache has no folder",
            accepted: "a folder as HF_HOME",
        })?;
        let is_on = |name: &str| {
            variable(name).is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
        };
        let token = match is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            true => None,
            false => read_token(&variable, path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token"))))?,
        };
        let patience = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.parse().ok()).unwrap_or(PATIENCE);
        Ok(Self {
            cache: std::path::absolute(&cache).unwrap_or(cache),
            endpoint: endpoint(variable("HF_ENDPOINT"))?,
            token,
            offline: is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE"),
            patience: Duration::from_secs(patience.clamp(1, MAX_PATIENCE)),
            authorities: authorities(&variable)?,
        })
    }
}

/// The certificates of a file that a variable names, in the order in which Python's clients look for one.
fn authorities(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Vec<Certificate<'static>>>> {
    let named = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"].into_iter();
    let Some((variable, path)) = named.filter_map(|name| Some((name, PathBuf::from(variable(name)?)))).next() else {
        return Ok(None);
    };
    let refuse = |problem: String| Error::Authorities { variable, path: path.clone(), problem };
    let mut bytes = vec![];
    let file = std::fs::File::open(&path).and_then(|file| file.take(MAX_AUTHORITIES).read_to_end(&mut bytes));
    file.map_err(|e| refuse(e.to_string()))?;
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(problem) => Some(Err(refuse(ureq::Error::to_string(&problem)))),
    };
    let certificates = parse_pem(&bytes).filter_map(certificate).collect::<Result<Vec<_>>>()?;
    match certificates.is_empty() {
        true => Err(refuse("it holds no certificate".into())),
        false => Ok(Some(certificates)),
    }
}

/// A path, whose leading `~` is the user's folder.
fn expanded(text: &str, user: Option<&Path>) -> PathBuf {
    match (text.strip_prefix('~'), user) {
        (Some(rest), Some(user)) if rest.is_empty() || rest.starts_with('/') => user.join(rest.trim_start_matches('/')),
        _ => PathBuf::from(text),
    }
}

/// An address without a slash at its end. One with a name and a password is refused: they would be in messages.
fn endpoint(text: Option<String>) -> Result<String> {
    let text = text.unwrap_or_else(|| DEFAULT_ENDPOINT.into());
    let text = text.trim_end_matches('/');
    let is_address = text.parse::<Uri>().is_ok_and(|uri| {
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        is_http && uri.query().is_none() && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    match is_address {
        true => Ok(text.into()),
        false => Err(Error::Variable {
            variable: "HF_ENDPOINT",
            problem: "is not the address of a hub",
            accepted: "https://host[:port][/path], without a user's name",
        }),
    }
}

/// The token of the environment, else of the file that `hf auth login` writes.
fn read_token(variable: &impl Fn(&str) -> Option<String>, file: Option<PathBuf>) -> Result<Option<AccessToken>> {
    let named =
        ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(|name| Some((name.into(), variable(name)?)));
    let from_file = || {
        let file = file?;
        let mut text = String::new();
        std::fs::File::open(&file).ok()?.take(MAX_TOKEN).read_to_string(&mut text).ok()?;
        Some((format!("`{}`", file.display()), text))
    };
    let Some((from, text)) = named.or_else(from_file) else { return Ok(None) };
    let text = text.trim();
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Error::Token { from });
    }
    Ok((!text.is_empty()).then(|| AccessToken(text.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<HubSettings> {
        HubSettings::read(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_string()))
    }

    #[test]
    fn the_cache_is_where_the_hubs_own_library_looks() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("HOME", "/u")], "/u/.cache/huggingface/hub"),
            (&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HOME", "/u"), ("HF_HOME", "/h")], "/h/hub"),
            (&[("HOME", "/u"), ("HF_HOME", "~/h")], "/u/h/hub"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/c")], "/c"),
        ];
        for (variables, expected) in cases {
            assert_eq!(settings(variables).expect("settings").cache, Path::new(expected), "{variables:?}");
        }
        assert!(settings(&[]).is_err());
    }

    #[test]
    fn offline_and_endpoint_are_read_as_words() {
        for (value, expected) in [("1", true), ("yes", true), ("0", false), ("off", false)] {
            assert_eq!(settings(&[("HOME", "/u"), ("HF_HUB_OFFLINE", value)]).expect("settings").offline, expected);
        }
        assert_eq!(
            settings(&[("HOME", "/u"), ("HF_ENDPOINT", "http://h:1/x/")]).expect("settings").endpoint,
            "http://h:1/x"
        );
        for bad in ["ftp://h", "h", "https://name:word@h", "https://h?x"] {
            let error = settings(&[("HOME", "/u"), ("HF_ENDPOINT", bad)]).expect_err("no address");
            assert!(!error.to_string().contains("word"), "{error}");
        }
    }

    #[test]
    fn authorities_are_those_of_the_file_that_a_variable_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        // the bytes are parsed when a connection is made
        let pem = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
        let (one, two) = (write("one.pem", pem), write("two.pem", &pem.repeat(2)));
        let none = write("none.pem", "no certificate");
        let count = |variables: &[(&str, &str)]| {
            let variables = [&[("HOME", "/u")], variables].concat();
            settings(&variables).map(|settings| settings.authorities.map(|certificates| certificates.len()))
        };
        assert_eq!(count(&[]).expect("settings"), None);
        assert_eq!(count(&[("SSL_CERT_FILE", &two)]).expect("settings"), Some(2));
        assert_eq!(count(&[("SSL_CERT_FILE", &two), ("REQUESTS_CA_BUNDLE", &one)]).expect("settings"), Some(1));
        for bad in [none.as_str(), "/nowhere.pem"] {
            let error = count(&[("CURL_CA_BUNDLE", bad)]).expect_err("no certificate");
            assert!(error.to_string().contains("CURL_CA_BUNDLE") && error.to_string().contains(bad), "{error}");
        }
    }

    #[test]
    fn a_token_is_found_in_its_places_and_shown_nowhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "hf_file\n").expect("written");
        let home = folder.path().to_str().expect("text");
        let token =
            |variables: &[(&str, &str)]| settings(variables).expect("settings").token.map(|token| token.header());
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("Bearer hf_file"));
        let other = folder.path().join("other");
        std::fs::write(&other, "hf_other").expect("written");
        let other = other.to_str().expect("text");
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN_PATH", other)]).as_deref(), Some("Bearer hf_other"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", "hf_secret")]).as_deref(), Some("Bearer hf_secret"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN", " ")]), None);
        assert_eq!(token(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let settings = |token| settings(&[("HF_HOME", home), ("HF_TOKEN", token)]);
        assert!(!format!("{:?}", settings("hf_secret")).contains("secret"));
        let error = settings("hf_secret\r\nx: y").expect_err("no token");
        assert!(!format!("{error:?} {error}").contains("secret"));
    }
}
