//! The configurations of a dataset, as the metadata of its `README.md` name them.

use glob::{MatchOptions, Pattern};
use yaml_rust2::parser::{Event, Parser};
use yaml_rust2::{Yaml, YamlLoader};

/// Most bytes of the metadata, and most levels of it.
const MAX_METADATA: usize = 1 << 20;
const MAX_DEPTH: usize = 32;
/// Longest pattern, and most wildcards in it.
const MAX_PATTERN: usize = 256;
const MAX_WILDCARDS: usize = 8;

/// One entry of `configs:`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DatasetConfig {
    pub(crate) name: String,
    pub(crate) is_default: bool,
    /// Where its files are.
    pub(crate) folder: Option<String>,
    /// Patterns of files, with their split; empty: laid out as any dataset.
    pub(crate) files: Vec<(String, Vec<String>)>,
}

/// The configurations of a `README.md`; none where it names none.
///
/// # Errors
/// Metadata that are no YAML, or more than is read.
pub(crate) fn configs(readme: &str) -> Result<Vec<DatasetConfig>, String> {
    let readme = readme.trim_start_matches('\u{feff}').replace("\r\n", "\n");
    let Some(metadata) = readme.strip_prefix("---\n").and_then(|rest| Some(rest.split_once("\n---")?.0)) else {
        return Ok(vec![]);
    };
    if metadata.len() > MAX_METADATA {
        return Err(format!("the metadata of README.md have {} bytes; up to {MAX_METADATA} are read", metadata.len()));
    }
    let damaged = |e: yaml_rust2::ScanError| format!("the metadata of README.md are no YAML: {e}");
    check_size(metadata).map_err(damaged)??;
    let documents = YamlLoader::load_from_str(metadata).map_err(damaged)?;
    let Some(configs) = documents.first().and_then(|document| document["configs"].as_vec()) else { return Ok(vec![]) };
    Ok(configs.iter().map(read_config).collect())
}

/// Refuses what would take more memory than its text: anchors that are named again, and deep nesting.
fn check_size(metadata: &str) -> Result<Result<(), String>, yaml_rust2::ScanError> {
    let mut parser = Parser::new_from_str(metadata);
    let mut depth = 0usize;
    loop {
        match parser.next_token()?.0 {
            Event::StreamEnd => return Ok(Ok(())),
            Event::Alias(_) => {
                return Ok(Err("the metadata of README.md name an anchor again, which is not read".into()));
            }
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Ok(Err(format!("the metadata of README.md are nested more than {MAX_DEPTH} levels deep")));
        }
    }
}

fn read_config(config: &Yaml) -> DatasetConfig {
    let strings = |value: &Yaml| -> Vec<String> {
        match value {
            Yaml::String(one) => vec![one.clone()],
            Yaml::Array(several) => several.iter().filter_map(|one| one.as_str().map(String::from)).collect(),
            _ => vec![],
        }
    };
    let files = match &config["data_files"] {
        // train: data/train-*
        Yaml::Hash(map) => {
            map.iter().filter_map(|(split, paths)| Some((split.as_str()?.to_string(), strings(paths)))).collect()
        }
        // - split: train
        //   path: data/train-*
        Yaml::Array(list) if list.iter().any(|one| one.as_hash().is_some()) => list
            .iter()
            .map(|one| (one["split"].as_str().unwrap_or("train").to_string(), strings(&one["path"])))
            .collect(),
        Yaml::BadValue | Yaml::Null => vec![],
        paths => vec![("train".to_string(), strings(paths))],
    };
    DatasetConfig {
        name: config["config_name"].as_str().unwrap_or("default").to_string(),
        is_default: config["default"].as_bool().unwrap_or(false),
        folder: config["data_dir"].as_str().map(|folder| folder.trim_matches('/').to_string()),
        files,
    }
}

/// The names that a pattern of `data_files` fits: a file, a folder with all in it, or with wildcards.
pub(crate) fn matching<'a>(pattern: &str, names: &[&'a str]) -> Vec<&'a str> {
    let pattern = pattern.trim_start_matches("./").trim_end_matches('/');
    let wildcards = pattern.bytes().filter(|b| b"*?[".contains(b)).count();
    if pattern.len() > MAX_PATTERN || wildcards > MAX_WILDCARDS {
        return vec![];
    }
    let options = MatchOptions { require_literal_separator: true, ..MatchOptions::new() };
    let Ok(compiled) = Pattern::new(pattern) else { return vec![] };
    let is_within = |name: &str| name.strip_prefix(pattern).is_some_and(|rest| rest.starts_with('/'));
    names.iter().copied().filter(|name| compiled.matches_with(name, options) || is_within(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_are_read_in_every_form_that_the_hub_takes() {
        let readme = "---\r\nlicense: mit\r\nconfigs:\r\n- config_name: a\r\n  default: true\r\n  data_files:\r\n  - split: train\r\n    path: data/train-*\r\n  - split: test\r\n    path:\r\n    - x.csv\r\n    - y.csv\r\n- config_name: b\r\n  data_dir: b/\r\n- config_name: c\r\n  data_files: all.jsonl\r\n- config_name: d\r\n  data_files:\r\n    dev: d/dev.csv\r\n---\r\n# words\r\n";
        let files = |split: &str, paths: &[&str]| (split.to_string(), paths.iter().map(|p| (*p).to_string()).collect());
        let actual = configs(readme).expect("YAML");
        let expected: [DatasetConfig; 4] = [
            DatasetConfig {
                name: "a".into(),
                is_default: true,
                files: vec![files("train", &["data/train-*"]), files("test", &["x.csv", "y.csv"])],
                folder: None,
            },
            DatasetConfig { name: "b".into(), folder: Some("b".into()), ..DatasetConfig::default() },
            DatasetConfig { name: "c".into(), files: vec![files("train", &["all.jsonl"])], ..DatasetConfig::default() },
            DatasetConfig { name: "d".into(), files: vec![files("dev", &["d/dev.csv"])], ..DatasetConfig::default() },
        ];
        assert_eq!(actual, expected);
        assert_eq!(configs("# no metadata").expect("none"), []);
        assert_eq!(configs("---\nlicense: mit\n---\n").expect("none"), []);
    }

    #[test]
    fn metadata_that_would_grow_are_refused() {
        let bomb =
            format!("---\na: &a [1]\n{}\n---\n", (1..9).map(|i| format!("b{i}: &b{i} [*a, *a]\n")).collect::<String>());
        assert!(configs(&bomb).expect_err("anchors").contains("anchor"));
        let deep = format!("---\na: {}\n---\n", "[".repeat(100_000));
        assert!(configs(&deep).is_err());
        assert!(configs("---\na: [\n---\n").is_err());
        assert!(configs(&format!("---\na: {}\n---\n", "x".repeat(MAX_METADATA))).is_err());
    }

    #[test]
    fn patterns_fit_as_the_hub_means_them() {
        let names = ["data/train-0.parquet", "data/train-1.parquet", "data/x/train-2.parquet", "all.jsonl"];
        assert_eq!(matching("data/train-*", &names), names[..2]);
        assert_eq!(matching("data/**", &names), names[..3]);
        assert_eq!(matching("data/**/train-*", &names), names[..3]);
        assert_eq!(matching("data", &names), names[..3]);
        assert_eq!(matching("./all.jsonl", &names), names[3..]);
        assert_eq!(matching(&"*a".repeat(20), &names), [""; 0]);
    }
}
