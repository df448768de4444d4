//! Which files of a repository are a model, or the rows of one split of a dataset.

use crate::name::RowsName;
use crate::readme::{DatasetConfig, configs, matching};
use crate::{Error, Result};
use serde_json::Value;
use std::collections::BTreeSet;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const WEIGHTS: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const README: &str = "README.md";
/// The files of a tokenizer: one of these, and its settings.
pub(crate) const VOCABULARIES: [&str; 3] = ["tokenizer.json", "tokenizer.model", "vocab.json"];
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

const MAX_SHARDS: usize = 4096;
/// The split that a name without one means.
const TRAIN: &str = "train";
/// The words by which files are known to be of a split, as the library `datasets` has them.
const SPLIT_WORDS: [&[&str]; 3] =
    [&["train", "training"], &["validation", "valid", "dev", "val"], &["test", "testing", "eval", "evaluation"]];
/// What rows are read from.
const ROW_FILES: [&str; 6] = ["parquet", "jsonl", "ndjson", "json", "csv", "tsv"];
/// Endings of text files that are packed, after those above: `rows.jsonl.gz`.
const PACKED: [&str; 4] = ["gz", "gzip", "zst", "zstd"];
/// JSON files that describe a dataset.
const DESCRIPTIONS: [&str; 4] = ["dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json"];

/// The files of weights that an index names.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn shards(index: &[u8]) -> std::result::Result<Vec<String>, String> {
    let index: Value = serde_json::from_slice(index).map_err(|e| e.to_string())?;
    let map = index["weight_map"].as_object().ok_or("it has no `weight_map`")?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let is_plain = |name: &&str| {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        name.len() <= 255 && !name.starts_with('.') && name.ends_with(".safetensors") && name.bytes().all(is_plain)
    };
    match names.iter().find(|name| !is_plain(name)) {
        Some(name) => Err(format!("it names {name:?}, which is not a safetensors file in the same folder")),
        None if names.is_empty() || names.len() > MAX_SHARDS => Err(format!("it names {} files", names.len())),
        None => Ok(names.into_iter().map(String::from).collect()),
    }
}

/// The weights of a repository without safetensors, as text.
pub(crate) fn other_weights(files: &[String]) -> String {
    let others: Vec<&str> = files
        .iter()
        .map(String::as_str)
        .filter(|file| {
            [".bin", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth"].iter().any(|end| file.ends_with(end))
        })
        .collect();
    match others.as_slice() {
        _ if files.iter().any(|file| file == "adapter_config.json") => {
            "it is an adapter; merge it into its base model first (peft: `merge_and_unload`)".into()
        }
        [] => format!("none of its {} files has weights that are known", files.len()),
        _ if others.iter().all(|file| file.ends_with(".gguf")) => {
            format!("it has GGUF files: {}", listed(&others.iter().map(|file| (*file).to_string()).collect::<Vec<_>>()))
        }
        [one] => format!("it has `{one}`"),
        [first, others @ ..] => format!("it has `{first}` and {} more of the kind", others.len()),
    }
}

/// The GGUF files of a repository.
pub(crate) fn ggufs(files: &[String]) -> String {
    listed(&files.iter().filter(|file| file.ends_with(".gguf")).cloned().collect::<Vec<_>>())
}

/// A GGUF file among those of a repository, with the other parts of its model where it is one of several
/// (`name-00001-of-00003.gguf`).
pub(crate) fn gguf_parts(file: &str, files: &[String]) -> Vec<String> {
    let set = |name: &str| {
        let (start, end) = name.rsplit_once("-of-")?;
        let (stem, number) = start.rsplit_once('-')?;
        is_number(number).then(|| (stem.to_owned(), end.to_owned()))
    };
    let own = set(file);
    let is_part = |other: &&String| *other == file || own.is_some() && set(other) == own;
    match files.iter().any(|other| other == file) {
        true => files.iter().filter(is_part).cloned().collect(),
        false => vec![],
    }
}

/// The files of rows among a dataset's files, in order.
///
/// # Errors
/// [`Error::NoRows`]: a configuration or split that is not there, with those that are.
pub(crate) fn row_files(rows: &RowsName, files: &[String], readme: Option<&str>) -> Result<Vec<String>> {
    let refuse = |problem: String, accepted: String| Error::NoRows { name: rows.to_string(), problem, accepted };
    let unreadable = "rows in parquet, JSON lines, JSON, CSV or TSV, as text also packed (.gz, .zst); of many others the hub keeps a copy: \
                      `hub:org/name@refs/convert/parquet/default:train`";
    let all: Vec<&str> = files.iter().map(String::as_str).filter(|file| is_row_file(file)).collect();
    if all.is_empty() {
        let problem = format!("it has {} files, and none of them with rows that are read", files.len());
        return Err(refuse(problem, unreadable.into()));
    }
    let split = rows.split.as_deref().unwrap_or(TRAIN);
    let metadata = readme.map_or(Ok(vec![]), configs).map_err(|problem| refuse(problem, unreadable.into()))?;
    let candidates = match metadata.is_empty() {
        true => by_folder(rows, &all).map_err(|(problem, accepted)| refuse(problem, accepted))?,
        false => {
            let config =
                choose(&metadata, rows.config.as_deref()).map_err(|(problem, accepted)| refuse(problem, accepted))?;
            by_config(config, &all)
        }
    };
    match candidates.into_iter().find(|(name, _)| name == split) {
        Some((_, files)) if !files.is_empty() => Ok(files.into_iter().map(String::from).collect()),
        Some(_) | None => {
            let splits = splits(rows, &all, &metadata);
            Err(refuse(format!("there is no split `{split}`"), listed(&splits)))
        }
    }
}

/// Files by the split that they are of.
type Splits<'a> = Vec<(String, Vec<&'a str>)>;
/// What is wrong, and what would be accepted.
type Refusal = (String, String);

/// A configuration of the metadata by its name; without one the default, or the only one.
fn choose<'a>(configs: &'a [DatasetConfig], name: Option<&str>) -> std::result::Result<&'a DatasetConfig, Refusal> {
    let names: Vec<String> = configs.iter().map(|config| config.name.clone()).collect();
    let only = || configs.first().filter(|_| configs.len() == 1);
    let default = || configs.iter().find(|config| config.name == "default");
    match name {
        Some(name) => {
            let config = configs.iter().find(|config| config.name == name);
            config.ok_or_else(|| (format!("there is no configuration `{name}`"), listed(&names)))
        }
        None => configs.iter().find(|config| config.is_default).or_else(default).or_else(only).ok_or_else(|| {
            ("it has several configurations, none of them the default: name one after a slash".into(), listed(&names))
        }),
    }
}

fn by_config<'a>(config: &DatasetConfig, all: &[&'a str]) -> Splits<'a> {
    let folder = config.folder.as_ref().filter(|folder| !folder.is_empty()).map(|folder| format!("{folder}/"));
    let within: Vec<&str> = all
        .iter()
        .copied()
        .filter(|file| folder.as_ref().is_none_or(|folder| file.starts_with(folder.as_str())))
        .collect();
    let prefix = folder.as_ref().map_or(0, String::len);
    if config.files.is_empty() {
        return by_name(&within, prefix);
    }
    let matching_all = |patterns: &[String]| -> Vec<&'a str> {
        let patterns = patterns.iter().map(|pattern| folder.clone().unwrap_or_default() + pattern);
        let files: BTreeSet<&str> = patterns.flat_map(|pattern| matching(&pattern, &within)).collect();
        files.into_iter().collect()
    };
    config.files.iter().map(|(split, patterns)| (split.clone(), matching_all(patterns))).collect()
}

/// A dataset without metadata: a configuration is a folder; without one it is what lies at the top or in `data`.
fn by_folder<'a>(rows: &RowsName, all: &[&'a str]) -> std::result::Result<Splits<'a>, Refusal> {
    let in_folder = |folder: &str| -> Vec<&'a str> {
        let is_within = |file: &&str| file.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        all.iter().copied().filter(is_within).collect()
    };
    let folders: BTreeSet<&str> = all.iter().filter_map(|file| Some(file.split_once('/')?.0)).collect();
    let names: Vec<String> = folders.iter().map(|folder| (*folder).to_string()).collect();
    if let Some(config) = &rows.config {
        let files = in_folder(config);
        return match files.is_empty() {
            true => Err((format!("there is no configuration `{config}`"), listed(&names))),
            false => Ok(by_name(&files, config.len() + 1)),
        };
    }
    let top: Vec<&str> = all.iter().copied().filter(|file| !file.contains('/') || file.starts_with("data/")).collect();
    let are_splits = folders.iter().all(|folder| split_of(folder).is_some());
    match (top.is_empty(), folders.len()) {
        (false, _) => Ok(by_name(&top, 0)),
        (true, 1) if !are_splits => Ok(by_name(all, folders.first().map_or(0, |folder| folder.len() + 1))),
        (true, _) if are_splits => Ok(by_name(all, 0)),
        (true, _) => Err(("it has several configurations: name one after a slash".into(), listed(&names))),
    }
}

/// Files by the splits in their names behind `prefix` bytes: `train-00000-of-00002.parquet`, `train/0000.parquet`, `train.jsonl`,
/// or a word of a split anywhere. Files without any are of `train`.
fn by_name<'a>(files: &[&'a str], prefix: usize) -> Splits<'a> {
    let mut splits: Splits<'a> = vec![];
    let mut add = |split: &str, file: &'a str| match splits.iter_mut().find(|(name, _)| name == split) {
        Some((_, files)) => files.push(file),
        None => splits.push((split.to_string(), vec![file])),
    };
    let is_named =
        files.iter().any(|file| exact_split(&file[prefix..]).is_some() || split_of(&file[prefix..]).is_some());
    for &file in files {
        let name = &file[prefix..];
        match exact_split(name).or_else(|| split_of(name)) {
            Some(split) => add(split, file),
            None if !is_named => add(TRAIN, file),
            None => {}
        }
    }
    splits
}

/// The split of `data/<split>-00000-of-00002.parquet`, by any name, and of `<split>/0000.parquet`.
fn exact_split(name: &str) -> Option<&str> {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    let stem = file.split_once('.').map_or(file, |(stem, _)| stem);
    if let Some((start, _)) = stem.split_once("-of-")
        && let Some((split, shard)) = start.rsplit_once('-')
        && is_number(shard)
    {
        return Some(split);
    }
    let is_part = is_number(stem) && !folder.is_empty() && file.ends_with(".parquet");
    is_part.then(|| folder.rsplit('/').next().unwrap_or(folder))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// The split named by a word of the file's name, else of its folders' names.
fn split_of(name: &str) -> Option<&'static str> {
    name.rsplit('/').find_map(|part| {
        let words: Vec<String> = part.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_lowercase).collect();
        let known = SPLIT_WORDS.iter().find(|known| words.iter().any(|word| known.contains(&word.as_str())));
        known.map(|known| known[0])
    })
}

/// The splits that a configuration has, for a message.
fn splits(rows: &RowsName, all: &[&str], metadata: &[DatasetConfig]) -> Vec<String> {
    let splits = match choose(metadata, rows.config.as_deref()) {
        Ok(config) => by_config(config, all),
        Err(_) => by_folder(rows, all).unwrap_or_default(),
    };
    splits.into_iter().filter(|(_, files)| !files.is_empty()).map(|(split, _)| split).collect()
}

/// The first of some names.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let first: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len() {
        0 => "none".into(),
        n if n > SHOWN => format!("{} and {} more", first.join(", "), n - SHOWN),
        _ => first.join(", "),
    }
}

fn is_row_file(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let is_hidden = file.split('/').any(|part| part.starts_with(['.', '_']));
    let ending = |name: &'_ str| name.rsplit_once('.').map(|(stem, ending)| (stem.to_owned(), ending.to_lowercase()));
    let format = match ending(name) {
        Some((stem, packed)) if PACKED.contains(&packed.as_str()) => {
            ending(&stem).map(|(_, format)| format).filter(|format| format != "parquet")
        }
        plain => plain.map(|(_, format)| format),
    };
    !is_hidden && !DESCRIPTIONS.contains(&name) && format.is_some_and(|format| ROW_FILES.contains(&format.as_str()))
}

/// Whether all shards exist of files whose names give their number: `train-00000-of-00002.parquet`.
pub(crate) fn are_whole(files: &[String]) -> bool {
    files.iter().all(|file| {
        // "train", "00000", "00002.parquet"
        let Some((start, end)) = file.rsplit_once("-of-") else { return true };
        let Some((split, _)) = start.rsplit_once('-').filter(|(_, shard)| is_number(shard)) else { return true };
        let digits = end.find(|c: char| !c.is_ascii_digit()).unwrap_or(end.len());
        let Ok(count) = end[..digits].parse::<usize>() else { return true };
        let (prefix, of) = (format!("{split}-"), format!("-of-{}", &end[..digits]));
        files.iter().filter(|other| other.starts_with(&prefix) && other.contains(&of)).count() >= count
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, files: &[&str], readme: Option<&str>) -> Result<Vec<String>> {
        let files: Vec<String> = files.iter().map(|file| (*file).to_string()).collect();
        row_files(&RowsName::parse(name).expect("a name"), &files, readme)
    }

    #[test]
    fn rows_are_found_where_the_hub_lays_them() {
        let sharded = [
            "README.md",
            "data/test-00000-of-00001.parquet",
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
        ];
        let custom = [
            "data/test_prefs-00000-of-00001.parquet",
            "data/train_prefs-00000-of-00001.parquet",
            "data/train_sft-00000-of-00001.parquet",
        ];
        let folders =
            ["a/train-00000-of-00001.parquet", "b/train-00000-of-00001.parquet", "b/test-00000-of-00001.parquet"];
        let converted = ["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"];
        let plain = ["train.jsonl", "test.jsonl", "dataset_infos.json", ".gitattributes"];
        let packed = ["data/train.jsonl.gz", "data/train.CSV.zst", "data/test.jsonl.gz", "data/test.parquet.gz"];
        let cases: [(&str, &[&str], &[&str]); 18] = [
            ("hub:o/n", &packed, &packed[..2]),
            ("hub:o/n:test", &packed, &packed[2..3]),
            ("hub:o/n", &sharded, &sharded[2..]),
            ("hub:o/n:test", &sharded, &sharded[1..2]),
            ("hub:o/n:train_prefs", &custom, &custom[1..2]),
            ("hub:o/n/b", &folders, &folders[1..2]),
            ("hub:o/n/b:test", &folders, &folders[2..]),
            ("hub:o/n@refs/convert/parquet/default:train", &converted, &converted[..2]),
            ("hub:o/n:test", &converted, &converted[2..]),
            ("hub:o/n", &plain, &plain[..1]),
            ("hub:o/n", &["rows.csv", "LICENSE"], &["rows.csv"]),
            ("hub:o/n:validation", &["x-dev.csv", "x-train.csv"], &["x-dev.csv"]),
            ("hub:o/n:test", &["test/a.jsonl", "train/a.jsonl"], &["test/a.jsonl"]),
            ("hub:o/n:train", &["train.jsonl.gz", "test.jsonl.gz", "x.tar.gz"], &["train.jsonl.gz"]),
            ("hub:o/n:train", &["train-00000-of-00001.csv.zst"], &["train-00000-of-00001.csv.zst"]),
            ("hub:o/n:train", &["helpful/train.jsonl", "helpful/test.jsonl"], &["helpful/train.jsonl"]),
            ("hub:o/n", &["validation.csv", "training.csv"], &["training.csv"]),
            ("hub:o/n", &["2024-05-01.csv", "v1-2.csv"], &["2024-05-01.csv", "v1-2.csv"]),
        ];
        for (name, files, expected) in cases {
            assert_eq!(found(name, files, None).expect("rows"), expected, "{name} of {files:?}");
        }
    }

    #[test]
    fn metadata_come_before_names() {
        let files = ["x/1.csv", "x/2.csv", "train.csv", "y/train.csv"];
        let readme = "---\nconfigs:\n- config_name: first\n  data_files:\n  - split: train\n    path: x/*.csv\n- config_name: second\n  data_dir: y\n---\n";
        assert_eq!(found("hub:o/n/first", &files, Some(readme)).expect("rows"), files[..2]);
        assert_eq!(found("hub:o/n/second:train", &files, Some(readme)).expect("rows"), files[3..]);
        let error = found("hub:o/n", &files, Some(readme)).expect_err("two, none the default");
        assert_eq!(error.hint().expect("a hint"), "accepted: first, second");
        let error = found("hub:o/n/third", &files, Some(readme)).expect_err("no such");
        assert!(error.to_string().contains("third"), "{error}");
        let error = found("hub:o/n/first:test", &files, Some(readme)).expect_err("no such split");
        assert_eq!(error.hint().expect("a hint"), "accepted: train");
        let leaving = "---\nconfigs:\n- config_name: a\n  data_files: ../../etc/*.csv\n---\n";
        assert!(found("hub:o/n/a", &files, Some(leaving)).is_err());
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let error = found("hub:o/n", &["a/train.csv", "b/train.csv"], None).expect_err("two folders");
        assert_eq!(error.hint().expect("a hint"), "accepted: a, b");
        let error = found("hub:o/n:dpo", &["train.csv", "test.csv"], None).expect_err("no such split");
        assert_eq!(error.hint().expect("a hint"), "accepted: train, test");
        let unread = ["train.jsonl.xz", "train.parquet.gz", "notes.gz", "script.py"];
        let error = found("hub:o/n", &unread, None).expect_err("nothing to read");
        assert!(error.hint().expect("a hint").contains("refs/convert/parquet"), "{error}");
    }

    #[test]
    fn shards_that_lack_one_are_not_whole() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_string()).collect::<Vec<_>>();
        assert!(are_whole(&names(&["a-00000-of-00002.parquet", "a-00001-of-00002.parquet", "b.csv"])));
        assert!(!are_whole(&names(&["a-00001-of-00002.parquet"])));
        for name in
            ["a-1-of-1.csv", "-of-", "a-of-2", "ü-0-of-1", "1-of-", "a-00000-of-00001-2f.parquet", "x-of-y-of-z.csv"]
        {
            assert!(are_whole(&names(&[name])), "{name}");
        }
        let index = |text: &str| shards(text.as_bytes());
        assert_eq!(
            index(r#"{"weight_map": {"a": "m-1.safetensors", "b": "m-1.safetensors"}}"#).expect("one"),
            ["m-1.safetensors"]
        );
        for bad in [
            r#"{}"#,
            "x",
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"a": "../m.safetensors"}}"#,
            r#"{"weight_map": {"a": "m.bin"}}"#,
        ] {
            assert!(index(bad).is_err(), "{bad}");
        }
    }
}
