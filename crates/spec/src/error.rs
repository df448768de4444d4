//! What can be wrong with an experiment file, each with the place and what would be accepted.

use crate::document::SourceSpan;
use std::path::PathBuf;

/// A mistake in the experiment file or on the command line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the experiment file `{}`", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the experiment file is not valid TOML: {message}")]
    Syntax { message: String, place: Box<SourceSpan> },
    #[error("`{given}` is not of the form key=value")]
    Override { given: String },
    #[error("unknown key `{key}`")]
    UnknownKey { key: String, nearest: Option<String>, known: Vec<String>, place: Box<SourceSpan> },
    #[error("`{key}` should be {expected}, found {found}")]
    WrongType { key: String, expected: &'static str, found: String, place: Box<SourceSpan> },
    #[error("`{key}` is out of range: {found}")]
    OutOfRange { key: String, found: String, accepted: String, place: Box<SourceSpan> },
    #[error("`{key}` is missing")]
    Missing { key: String, accepted: String, place: Box<SourceSpan> },
    #[error("`{key}` has an unknown value, `{found}`")]
    UnknownChoice { key: String, found: String, accepted: Vec<&'static str>, place: Box<SourceSpan> },
    #[error("`{key}` and `{with}` do not go together: {why}")]
    Clash { key: String, with: String, why: String, place: Box<SourceSpan> },
    #[error("`{key}` is empty")]
    EmptyGrid { key: String, place: Box<SourceSpan> },
    #[error("the grid of `{key}` lists {found} twice")]
    GridRepeats { key: String, found: String, place: Box<SourceSpan> },
    #[error("an arm cannot be called `{arm}`")]
    ArmName { arm: String, place: Box<SourceSpan> },
    #[error("the experiment has no arms")]
    NoArms { place: Box<SourceSpan> },
    #[error("arm `{arm}` names no method")]
    NoMethod { arm: String, place: Box<SourceSpan> },
}

impl Error {
    /// Where in the file or on the command line the mistake stands.
    pub fn place(&self) -> Option<&SourceSpan> {
        match self {
            Self::Read { .. } | Self::Override { .. } => None,
            Self::Syntax { place, .. }
            | Self::UnknownKey { place, .. }
            | Self::WrongType { place, .. }
            | Self::OutOfRange { place, .. }
            | Self::Missing { place, .. }
            | Self::UnknownChoice { place, .. }
            | Self::Clash { place, .. }
            | Self::EmptyGrid { place, .. }
            | Self::GridRepeats { place, .. }
            | Self::ArmName { place, .. }
            | Self::NoArms { place }
            | Self::NoMethod { place, .. } => Some(place),
        }
    }

    /// What stands under the marked text: what would be accepted there.
    pub fn label(&self) -> String {
        match self {
            Self::UnknownKey { nearest: Some(near), .. } => format!("did you mean `{near}`?"),
            Self::UnknownKey { .. } => "not a key of this table".into(),
            Self::WrongType { expected, .. } => format!("expected {expected}"),
            Self::OutOfRange { accepted, .. } | Self::Missing { accepted, .. } => format!("expected {accepted}"),
            Self::UnknownChoice { accepted, .. } => {
                format!("expected {}", accepted.iter().map(|a| format!("`{a}`")).collect::<Vec<_>>().join(" or "))
            }
            Self::Clash { with, .. } => format!("of no use with `{with}`"),
            Self::EmptyGrid { .. } => "give at least one value".into(),
            Self::GridRepeats { .. } => "each value once".into(),
            Self::NoMethod { .. } | Self::ArmName { .. } => "this arm".into(),
            Self::Syntax { .. } => "here".into(),
            Self::Read { .. } | Self::Override { .. } | Self::NoArms { .. } => String::new(),
        }
    }

    /// What the person can change.
    pub fn hint(&self) -> String {
        match self {
            Self::Read { .. } => "the experiments that come with Duel stand in `experiments/`".into(),
            Self::Override { .. } => "write for example `--set arms.dpo.beta=0.2`".into(),
            Self::Syntax { .. } => "TOML is described at https://toml.io; strings need quotes".into(),
            Self::UnknownKey { known, .. } => format!("known here: {}", known.join(", ")),
            Self::WrongType { key, .. } | Self::OutOfRange { key, .. } | Self::Missing { key, .. } => {
                format!("`duel defaults` prints every key with its default, unit and source; look for `{}`", last(key))
            }
            Self::UnknownChoice { .. } => "`duel defaults` prints what each choice means".into(),
            Self::Clash { .. } => "take one of the two out; METHODS.md says what each method reads".into(),
            Self::EmptyGrid { key, .. } if last(key) == "space" => {
                format!("write under `[{key}]` for example `beta = {{ low = 0.05, high = 1.0, log = true }}`")
            }
            Self::EmptyGrid { key, .. } => {
                format!("write for example `{} = [0.1, 0.5]`, or leave the key out to train one point", last(key))
            }
            Self::GridRepeats { .. } => "each value of a grid is one point; repeat with `seeds`".into(),
            Self::ArmName { .. } => {
                "use letters, digits, `-` and `_`; `shared`, `reference`, `optimum`, `ppo-ideal`, `best-of-n` and `grid` are taken"
                    .into()
            }
            Self::NoArms { .. } => "add for example `[arms.dpo]` with `method = \"dpo\"`".into(),
            Self::NoMethod { arm, .. } => {
                format!("add for example `method = \"dpo\"` under `[arms.{arm}]`; METHODS.md lists the methods")
            }
        }
    }
}

fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}
