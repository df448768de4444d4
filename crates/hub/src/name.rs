//! Names of models and rows on the hub, as an experiment gives them.

use crate::{Error, Result};

/// What begins the name of rows on the hub, in place of a path.
pub const ROWS_PREFIX: &str = "hub:";

const MODEL_FORM: &str = "`org/name`, `org/name@revision`, or a file `org/name[@revision]/FILE.gguf`";
const ROWS_FORM: &str = "`hub:org/name[@revision][/config][:split]`";
/// The branch that a name without a revision means.
const MAIN: &str = "main";

/// A repository of the hub at a revision: a branch, a tag or a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName {
    /// `org/name`
    pub repo: String,
    pub revision: String,
}

impl RepoName {
    /// Reads `org/name` or `org/name@revision`.
    ///
    /// # Errors
    /// [`Error::Name`] for any other text.
    pub fn parse(text: &str) -> Result<Self> {
        let (repo, revision) = text.split_once('@').unwrap_or((text, MAIN));
        match is_repo(repo) && is_revision(revision) {
            true => Ok(Self { repo: repo.into(), revision: revision.into() }),
            false => Err(Error::Name { text: text.into(), accepted: MODEL_FORM }),
        }
    }

    /// The same repository at a commit.
    pub fn at(&self, commit: &str) -> Self {
        Self { repo: self.repo.clone(), revision: commit.into() }
    }
}

impl std::fmt::Display for RepoName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            MAIN => f.write_str(&self.repo),
            revision => write!(f, "{}@{revision}", self.repo),
        }
    }
}

/// A model on the hub: a repository, or one GGUF file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    pub name: RepoName,
    /// Its name in the repository.
    pub file: Option<String>,
}

impl ModelName {
    /// Reads `org/name[@revision]` or `org/name[@revision]/FILE.gguf`; of revisions with a slash before a file those that begin
    /// with `refs/`.
    ///
    /// # Errors
    /// [`Error::Name`] for any other text.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = || Error::Name { text: text.into(), accepted: MODEL_FORM };
        let mut parts: Vec<&str> = text.split('/').collect();
        let repo_parts = if parts.get(1).is_some_and(|name| name.ends_with("@refs")) { 4 } else { 2 };
        if parts.len() <= repo_parts || !text.ends_with(".gguf") {
            return Ok(Self { name: RepoName::parse(text)?, file: None });
        }
        let file = parts.split_off(repo_parts);
        match file.iter().all(|part| is_word(part)) {
            true => Ok(Self { name: RepoName::parse(&parts.join("/"))?, file: Some(file.join("/")) }),
            false => Err(refuse()),
        }
    }

    /// The same model at a commit.
    pub fn at(&self, commit: &str) -> Self {
        Self { name: self.name.at(commit), ..self.clone() }
    }
}

impl std::fmt::Display for ModelName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)?;
        self.file.iter().try_for_each(|file| write!(f, "/{file}"))
    }
}

/// Rows of a dataset on the hub: one split of one of its configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowsName {
    pub name: RepoName,
    pub config: Option<String>,
    pub split: Option<String>,
}

impl RowsName {
    /// Reads `hub:org/name[@revision][/config][:split]`; of revisions with a slash those that begin with `refs/`, such as
    /// `refs/convert/parquet`.
    ///
    /// # Errors
    /// [`Error::Name`] for any other text.
    pub fn parse(text: &str) -> Result<Self> {
        let refuse = || Error::Name { text: text.into(), accepted: ROWS_FORM };
        let rest = text.strip_prefix(ROWS_PREFIX).ok_or_else(refuse)?;
        let (path, split) = rest.split_once(':').map_or((rest, None), |(path, split)| (path, Some(split)));
        let mut parts = path.split('/');
        let (Some(org), Some(name)) = (parts.next(), parts.next()) else { return Err(refuse()) };
        let (name, mut revision) = match name.split_once('@') {
            Some((name, revision)) => (name, revision.to_string()),
            None => (name, MAIN.to_string()),
        };
        if revision == "refs" {
            for part in parts.by_ref().take(2) {
                revision = format!("{revision}/{part}");
            }
        }
        let config = parts.next();
        let name = RepoName { repo: format!("{org}/{name}"), revision };
        let is_valid = is_repo(&name.repo)
            && is_revision(&name.revision)
            && parts.next().is_none()
            && config.into_iter().chain(split).all(is_word);
        match is_valid {
            true => Ok(Self { name, config: config.map(String::from), split: split.map(String::from) }),
            false => Err(refuse()),
        }
    }

    /// The same rows at a commit.
    pub fn at(&self, commit: &str) -> Self {
        Self { name: self.name.at(commit), ..self.clone() }
    }
}

impl std::fmt::Display for RowsName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{ROWS_PREFIX}{}", self.name)?;
        self.config.iter().try_for_each(|config| write!(f, "/{config}"))?;
        self.split.iter().try_for_each(|split| write!(f, ":{split}"))
    }
}

/// Whether a text is the hash of a commit.
pub(crate) fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// Whether a text is this many lower-case hexadecimal digits.
pub(crate) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether a text is a name that is one part of a path, and no other than itself there.
fn is_word(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'=' | b'+');
    (1..=96).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && !text.contains("..")
        && text.bytes().all(is_plain)
}

/// Whether a text is `org/name` by the rules of the hub; `--` is the slash in the names of the cache's folders.
fn is_repo(text: &str) -> bool {
    let mut parts = text.split('/');
    let is_part = |part: &str| is_word(part) && !part.contains("--") && !part.contains(['=', '+']);
    text.len() <= 96
        && [parts.next(), parts.next()].into_iter().all(|part| part.is_some_and(is_part))
        && parts.next().is_none()
}

fn is_revision(text: &str) -> bool {
    text.len() <= 200 && text.split('/').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_back() {
        for text in
            ["org/name", "org/name@v1.0", "o-r_g/n.a-me@refs/pr/3", "org/name@0123456789abcdef0123456789abcdef01234567"]
        {
            assert_eq!(RepoName::parse(text).expect("a name").to_string(), text);
        }
        let forms = [
            "hub:org/name",
            "hub:org/name/config",
            "hub:org/name:test",
            "hub:org/name@v1/config:train_prefs",
            "hub:org/name@refs/convert/parquet/default:train",
        ];
        for text in forms {
            assert_eq!(RowsName::parse(text).expect("a name").to_string(), text);
        }
        let rows = RowsName::parse("hub:org/name@refs/convert/parquet/default:train").expect("a name");
        assert_eq!((rows.name.revision.as_str(), rows.config.as_deref()), ("refs/convert/parquet", Some("default")));
    }

    #[test]
    fn a_gguf_file_is_named_in_its_repository() {
        for (text, revision, file) in [
            ("org/name", "main", None),
            ("org/name.gguf", "main", None),
            ("org/name@v1.gguf", "v1.gguf", None),
            ("org/name/m.Q4_K_M.gguf", "main", Some("m.Q4_K_M.gguf")),
            ("org/name@v1/q4/m-00001-of-00002.gguf", "v1", Some("q4/m-00001-of-00002.gguf")),
            ("org/name@refs/pr/3/m.gguf", "refs/pr/3", Some("m.gguf")),
        ] {
            let name = ModelName::parse(text).expect("a name");
            assert_eq!((name.to_string().as_str(), name.name.revision.as_str()), (text, revision));
            assert_eq!(name.file.as_deref(), file, "{text}");
        }
        for text in ["org/name/m.bin", "org/name/../m.gguf", "org/name//m.gguf", "org/name/.m.gguf", "name/.gguf"] {
            assert!(ModelName::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_leads_out_of_the_cache_is_no_name() {
        let long = format!("org/{}", "n".repeat(100));
        let models = [
            "",
            "name",
            "/name",
            "org/",
            "org/name/more",
            "../name",
            "org/..",
            "org/a--b",
            "org/.git",
            "org/name@",
            "org/name@../x",
            "org/name@a//b",
            "org/name@a/../b",
            "org/na me",
            "org/na\nme",
            "org/name@main?x=1",
            "org/name#x",
            "o:rg/name",
            &long,
        ];
        for text in models {
            assert!(RepoName::parse(text).is_err(), "{text:?}");
        }
        let rows = [
            "org/name",
            "hub:name",
            "hub:org/name/..",
            "hub:org/name:",
            "hub:org/name:train[:10%]",
            "hub:org/name/a/b",
            "hub:org/name/:x",
        ];
        for text in rows {
            assert!(RowsName::parse(text).is_err(), "{text:?}");
        }
    }
}
