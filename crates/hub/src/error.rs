//! What can go wrong between a name on the hub and files in its cache. No error holds a token, or the query of an address.

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

/// A name that leads to no files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{text}` is not a name on the hub")]
    Name { text: String, accepted: &'static str },
    #[error("the variable `{variable}` {problem}")]
    Variable { variable: &'static str, problem: &'static str, accepted: &'static str },
    #[error("`{}`, which `{variable}` names, cannot be used: {problem}", path.display())]
    Authorities { variable: &'static str, path: PathBuf, problem: String },
    #[error("the token of {from} holds what no token holds: spaces, control characters or letters beyond ASCII")]
    Token { from: String },
    #[error("`{repo}` is gated on the hub, and {}", who(*has_token, "may not read it"))]
    Gated { repo: String, page: String, has_token: bool },
    #[error("{endpoint} has no {kind} `{repo}` that {} sees", who(*has_token, ""))]
    NoRepo { repo: String, kind: &'static str, endpoint: String, has_token: bool },
    #[error("`{repo}` has no revision `{revision}` on the hub")]
    NoRevision { repo: String, revision: String },
    #[error("`{repo}` has no file `{file}` on the hub")]
    NoFile { repo: String, file: String },
    #[error("`{repo}` has no GGUF file `{file}` on the hub")]
    NoGguf { repo: String, file: String, accepted: String },
    #[error("{address} responds with status {status}")]
    Status { address: String, status: u16 },
    #[error("{address} cannot be read: {problem}")]
    Unreachable { address: String, problem: String },
    #[error("{address} does not respond as the hub does: {problem}")]
    UnexpectedResponse { address: String, problem: String },
    #[error("`{file}` has more than the {limit} bytes that are read")]
    TooLarge { file: String, limit: u64 },
    #[error(
        "`{file}` was downloaded twice, and is not what the hub announces: its hash is {actual}, and {expected} was announced"
    )]
    WrongHash { file: String, expected: String, actual: String },
    #[error("`{name}` is not in the cache `{}`, {lacking}, and HF_HUB_OFFLINE allows no download", cache.display())]
    Offline { name: String, cache: PathBuf, lacking: String },
    #[error("`{repo}` holds no model in safetensors: {found}")]
    NoWeights { repo: String, found: String },
    #[error("`{name}`: {problem}")]
    NoRows { name: String, problem: String, accepted: String },
    #[error("failed to {action} `{}`", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
}

/// Who asks the hub.
fn who(has_token: bool, what: &str) -> String {
    let who = if has_token { "the account of your token" } else { "nobody without a token" };
    match what {
        "" if has_token => who.into(),
        "" => "a reader without a token".into(),
        what if has_token => format!("{who} {what}"),
        _ => "no token is there".into(),
    }
}

impl Error {
    /// What the user can change.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Name { accepted, .. } | Self::Variable { accepted, .. } => Some(format!("accepted: {accepted}")),
            Self::Authorities { .. } => Some("accepted: a file of certificates in PEM".into()),
            Self::Token { .. } => Some("`hf auth login` writes a new one".into()),
            Self::Gated { page, has_token, .. } => Some(format!(
                "accept its conditions on {page}{}",
                if *has_token { ", with the account of that token" } else { ", then `hf auth login`, or set HF_TOKEN" }
            )),
            Self::NoRepo { has_token: false, .. } => {
                Some("look for a typing error; where it is private, `hf auth login`, or set HF_TOKEN".into())
            }
            Self::NoRepo { .. } => Some("look for a typing error; where it is private, use a token that may read it".into()),
            Self::NoRevision { .. } => Some("accepted: a branch, a tag or the 40 digits of a commit; without `@` it is `main`".into()),
            Self::Status { status: 429, .. } => Some("too many requests: try again later; with a token there may be more".into()),
            Self::Status { .. } | Self::Unreachable { .. } => Some(
                "if this is a path on this machine, there is no such file; otherwise run the same command again, which resumes the \
                 download. HF_ENDPOINT names another hub, HTTPS_PROXY a proxy, and HF_HUB_OFFLINE=1 reads only the cache"
                    .into(),
            ),
            Self::UnexpectedResponse { .. } => Some("HF_ENDPOINT, where it is set, must be the address of a hub".into()),
            Self::WrongHash { .. } => Some("the download was discarded; if this happens again, a proxy may alter it".into()),
            Self::Offline { .. } => Some("unset HF_HUB_OFFLINE, or fetch it elsewhere: `hf download NAME`".into()),
            Self::NoWeights { .. } => {
                Some(
                    "accepted: `model.safetensors`, in one piece or in several with their index; a GGUF file by its own name, \
                     `org/name/FILE.gguf`"
                        .into(),
                )
            }
            Self::NoRows { accepted, .. } | Self::NoGguf { accepted, .. } => Some(format!("accepted: {accepted}")),
            _ => None,
        }
    }
}
