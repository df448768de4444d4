//! Where rows are: a file, a pattern, or a folder of shards.

use super::compressed::endings;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files that one path may stand for.
const MAX_FILES: usize = 100_000;

const FORMATS: [&str; 6] = ["parquet", "jsonl", "ndjson", "json", "csv", "tsv"];

/// Files of a dataset that are no rows.
const NO_ROWS: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// The splits that names of shards begin with.
const SPLITS: [&str; 6] = ["train", "test", "validation", "valid", "val", "dev"];

/// The files that a path stands for, in order: a file itself, what a pattern matches, or the shards in a folder.
///
/// # Errors
/// A pattern that matches nothing; a folder without rows, or with rows of several formats or splits.
pub fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    let text = path.to_string_lossy();
    let refuse = |problem: String| Error::Paths { path: path.into(), problem };
    if path.is_dir() {
        return shards(path);
    }
    if path.exists() || !text.contains(['*', '?', '[']) {
        return Ok(vec![path.into()]);
    }
    let matches = glob::glob(&text).map_err(|e| refuse(format!("the pattern is not valid: {e}")))?;
    let mut files = vec![];
    for file in matches.take(MAX_FILES) {
        let file = file.map_err(|e| Error::Read { path: e.path().into(), source: e.into() })?;
        if file.is_file() && !is_hidden(&file) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() { Err(refuse("the pattern matches no file".into())) } else { Ok(files) }
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn is_hidden(path: &Path) -> bool {
    name_of(path).starts_with(['.', '_'])
}

/// The files of rows in a folder, of one format and one split.
fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = |source| Error::Read { path: folder.into(), source };
    let refuse = |problem: String| Error::Paths { path: folder.into(), problem };
    let mut formats: BTreeMap<&str, Vec<PathBuf>> = BTreeMap::new();
    let mut arrow = false;
    for entry in std::fs::read_dir(folder).map_err(read)?.take(MAX_FILES) {
        let path = entry.map_err(read)?.path();
        if is_hidden(&path) || NO_ROWS.contains(&name_of(&path)) || !path.is_file() {
            continue;
        }
        let (ending, _) = endings(&path);
        arrow |= ending == "arrow";
        if let Some(format) = FORMATS.iter().find(|format| **format == ending) {
            formats.entry(format).or_default().push(path);
        }
    }
    let names = formats.keys().map(|format| format!(".{format}")).collect::<Vec<_>>().join(", ");
    let mut formats = formats.into_values();
    let Some(mut files) = formats.next() else {
        let problem =
            if arrow { "arrow is not read: write it as parquet or JSON lines" } else { "no file of rows in it" };
        return Err(refuse(problem.into()));
    };
    if formats.next().is_some() {
        return Err(refuse(format!("files of several formats ({names}): name those of one by a pattern")));
    }
    files.sort();
    let mut splits: Vec<&str> = files.iter().filter_map(|file| split_of(name_of(file))).collect();
    splits.sort_unstable();
    splits.dedup();
    match splits.as_slice() {
        [one, other, ..] => {
            let pattern = folder.join(format!("{one}*"));
            let problem = format!(
                "files of several splits (`{one}`, `{other}`): name those of one by a pattern, such as {}",
                pattern.display()
            );
            Err(refuse(problem))
        }
        _ => Ok(files),
    }
}

/// The split that the name of a shard begins with.
fn split_of(name: &str) -> Option<&'static str> {
    let is_word = |split: &str| {
        name.strip_prefix(split).is_some_and(|rest| rest.starts_with(|c: char| !c.is_ascii_alphanumeric()))
    };
    SPLITS.into_iter().find(|split| is_word(split))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns_stand_for_their_files_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |names: &[&str]| {
            for name in names {
                let path = folder.path().join(name);
                std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
                std::fs::write(path, "").expect("written");
            }
        };
        let expanded = |path: &str| -> std::result::Result<Vec<String>, String> {
            let files = expand(&folder.path().join(path)).map_err(|e| format!("{e}"))?;
            let short = |file: &PathBuf| file.strip_prefix(folder.path()).unwrap_or(file).display().to_string();
            Ok(files.iter().map(short).collect())
        };
        write(&[
            "a/train-1.jsonl",
            "a/train-0.jsonl.gz",
            "a/.hidden.jsonl",
            "a/_x.jsonl",
            "a/README.md",
            "a/dataset_info.json",
        ]);
        assert_eq!(expanded("a"), Ok(vec!["a/train-0.jsonl.gz".into(), "a/train-1.jsonl".into()]));
        write(&[
            "b/train-0.parquet",
            "b/test-0.parquet",
            "c/x.csv",
            "c/y.json",
            "d/data-0.arrow",
            "d/state.json",
            "e/z.txt",
        ]);
        assert_eq!(expanded("b/tr*.parquet"), Ok(vec!["b/train-0.parquet".into()]));
        assert_eq!(expanded("*/t*.parquet"), Ok(vec!["b/test-0.parquet".into(), "b/train-0.parquet".into()]));
        assert_eq!(expanded("a/train-1.jsonl"), Ok(vec!["a/train-1.jsonl".into()]));
        for (path, problem) in [
            ("b", "files of several splits (`test`, `train`)"),
            ("c", "files of several formats (.csv, .json)"),
            ("d", "arrow is not read"),
            ("e", "no file of rows in it"),
            ("a/*.csv", "the pattern matches no file"),
            ("a/[", "the pattern is not valid"),
        ] {
            let error = expanded(path).expect_err(path);
            assert!(error.contains(problem), "{path}: {error}");
        }
    }
}
