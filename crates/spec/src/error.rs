//! Mistakes in an experiment file, each with its position and what would be accepted.

use crate::nearest::nearest;
use crate::span::SourceSpan;
use std::path::PathBuf;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A mistake in the experiment file or on the command line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the experiment file `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the experiment file is not valid TOML: {message}")]
    Syntax { message: String, span: Box<SourceSpan> },
    #[error("`{argument}` is not of the form key=value")]
    Override { argument: String },
    /// A mistake that the file alone does not have.
    #[error("{error} (caused by the command line)")]
    ByOverride { error: Box<Error>, overrides: Vec<String> },
    #[error("unknown key `{key}`")]
    UnknownKey { key: String, nearest: Option<String>, known: Vec<String>, span: Box<SourceSpan> },
    #[error("`{key}` should be {expected}, found {found}")]
    WrongType { key: String, expected: &'static str, found: String, span: Box<SourceSpan> },
    #[error("`{key}` is out of range: {found}")]
    OutOfRange { key: String, found: String, accepted: String, span: Box<SourceSpan> },
    #[error("`{key}` is missing")]
    Missing { key: String, accepted: String, span: Box<SourceSpan> },
    #[error("`{key}` has an unknown value, `{found}`")]
    UnknownChoice { key: String, found: String, accepted: Vec<&'static str>, span: Box<SourceSpan> },
    #[error("`{key}` conflicts with `{with}`: {why}")]
    Clash { key: String, with: String, why: String, span: Box<SourceSpan> },
    #[error("`{key}` is empty")]
    EmptyGrid { key: String, span: Box<SourceSpan> },
    #[error("`{key}` lists {found} twice")]
    GridRepeats { key: String, found: String, span: Box<SourceSpan> },
    #[error("`{arm}` is not a valid name for an arm")]
    ArmName { arm: String, span: Box<SourceSpan> },
    #[error("the experiment has no arms")]
    NoArms { span: Box<SourceSpan> },
    #[error("arm `{arm}` has no method")]
    NoMethod { arm: String, span: Box<SourceSpan> },
}

impl Error {
    /// The position of the mistake in the file or on the command line.
    pub fn span(&self) -> Option<&SourceSpan> {
        match self {
            Self::Read { .. } | Self::Override { .. } => None,
            Self::ByOverride { error, .. } => error.span(),
            Self::Syntax { span, .. }
            | Self::UnknownKey { span, .. }
            | Self::WrongType { span, .. }
            | Self::OutOfRange { span, .. }
            | Self::Missing { span, .. }
            | Self::UnknownChoice { span, .. }
            | Self::Clash { span, .. }
            | Self::EmptyGrid { span, .. }
            | Self::GridRepeats { span, .. }
            | Self::ArmName { span, .. }
            | Self::NoArms { span }
            | Self::NoMethod { span, .. } => Some(span),
        }
    }

    /// The label under the marked text: what would be accepted there.
    pub fn label(&self) -> String {
        match self {
            Self::UnknownKey { nearest: Some(near), .. } => format!("did you mean `{near}`?"),
            Self::UnknownKey { .. } => "not a key of this table".into(),
            Self::WrongType { expected, .. } => format!("expected {expected}"),
            Self::OutOfRange { accepted, .. } | Self::Missing { accepted, .. } => format!("expected {accepted}"),
            Self::UnknownChoice { accepted, .. } => {
                format!("expected {}", accepted.iter().map(|a| format!("`{a}`")).collect::<Vec<_>>().join(" or "))
            }
            Self::Clash { with, .. } => format!("conflicts with `{with}`"),
            Self::EmptyGrid { .. } => "give at least one value".into(),
            Self::GridRepeats { .. } => "list each value once".into(),
            Self::NoMethod { .. } | Self::ArmName { .. } => "this arm".into(),
            Self::Syntax { .. } => "here".into(),
            Self::ByOverride { error, .. } => error.label(),
            Self::Read { .. } | Self::Override { .. } | Self::NoArms { .. } => String::new(),
        }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Read { path, .. } if path.is_dir() => format!(
                "a folder is not an experiment file: did you mean `{}`?",
                path.join("experiment.toml").display()
            ),
            Self::Read { .. } => "the experiments that come with Duel are in `experiments/`".into(),
            Self::Override { .. } => "write for example `--set arms.dpo.beta=0.2`".into(),
            Self::ByOverride { error, overrides } => {
                format!("the file by itself is valid: change {}; {}", set_options(overrides), error.hint())
            }
            Self::Syntax { .. } => "TOML is described at https://toml.io; strings need quotes".into(),
            Self::UnknownKey { known, .. } => format!("known here: {}", known.join(", ")),
            Self::WrongType { key, found, .. } => several_values(key, found).unwrap_or_else(|| look_for(key)),
            Self::OutOfRange { key, .. } | Self::Missing { key, .. } => look_for(key),
            Self::UnknownChoice { found, accepted, .. } => match nearest(found, accepted) {
                Some(near) => format!("did you mean `{near}`? `duel defaults` explains each choice"),
                None => "`duel defaults` explains each choice".into(),
            },
            Self::Clash { .. } => {
                "remove one of the two, or change the other; METHODS.md lists the settings that each method reads".into()
            }
            Self::EmptyGrid { key, .. } if last(key) == "space" => {
                format!("write under `[{key}]` for example `beta = {{ low = 0.05, high = 1.0, log = true }}`")
            }
            Self::EmptyGrid { key, .. } => {
                format!("write for example `{} = [0.1, 0.5]`, or remove the key to train a single point", last(key))
            }
            Self::GridRepeats { .. } => "each value of a grid is one point; to repeat a point use `seeds`".into(),
            Self::ArmName { .. } => {
                "use letters, digits, `-` and `_`; `shared`, `reference`, `optimum`, `ppo-ideal`, `best-of-n` and `grid` are reserved"
                    .into()
            }
            Self::NoArms { .. } => "add for example `[arms.dpo]` with `method = \"dpo\"`".into(),
            Self::NoMethod { arm, .. } => {
                format!("add for example `method = \"dpo\"` under `[arms.{arm}]`; METHODS.md lists the methods")
            }
        }
    }
}

/// Overrides that a message lists.
const MAX_LISTED: usize = 3;

/// Overrides as they are given on the command line.
fn set_options(overrides: &[String]) -> String {
    if overrides.len() > MAX_LISTED {
        return format!("the {} settings of the command line", overrides.len());
    }
    overrides.iter().map(|setting| format!("`--set {setting}`")).collect::<Vec<_>>().join(" or ")
}

fn look_for(key: &str) -> String {
    format!("`duel defaults` prints every key with its default, unit and source; look for `{}`", last(key))
}

/// Where a list of values of an arm's setting goes.
fn several_values(key: &str, found: &str) -> Option<String> {
    let (arm, setting) = key.strip_prefix("arms.")?.split_once('.')?;
    let is_list = found.starts_with("an array") && !setting.contains('.');
    is_list.then(|| format!("to try several values, list them under [arms.{arm}.grid]: {setting} = [...]"))
}

/// The last part of a dotted key.
fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}
