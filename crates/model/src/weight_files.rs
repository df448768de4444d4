//! Where a Hugging Face directory keeps its weights; and, where it has none that are read, what it has in their place.

use crate::config_reader::ConfigReader;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What a directory of an adapter holds.
pub(crate) const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER: [&str; 2] = [ADAPTER_CONFIG, "adapter_model.safetensors"];
/// What is accepted in place of an adapter.
const MERGED: &str = "a model: merge the adapter first (peft: `merge_and_unload`)";
/// How files of weights end that are not read, those first that transformers can turn into safetensors.
const OTHER_FORMATS: [&str; 9] =
    [".bin", ".bin.index.json", ".h5", ".msgpack", ".pth", ".pt", ".ckpt", ".onnx", ".nemo"];
/// Files of a trainer, which hold no model.
const OF_TRAINER: [&str; 4] = ["training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt"];

/// The safetensors files of a directory.
///
/// # Errors
/// Files that are missing; weights in another format.
pub(crate) fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (weights, index) = (folder.join(WEIGHTS), folder.join(INDEX));
    if weights.exists() {
        return Ok(vec![weights]);
    }
    if index.exists() {
        let files = shards(folder, &ConfigReader::open(index.clone())?)?;
        let missing: Vec<PathBuf> = files.iter().filter(|file| !file.exists()).cloned().collect();
        return match missing.is_empty() {
            true => Ok(files),
            false => Err(Error::MissingParts { path: index, count: files.len() + 1, missing }),
        };
    }
    Err(in_place_of_weights(folder, weights))
}

/// The safetensors files of a directory, and the index that names them where there is one.
pub(crate) fn weights_and_index(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = weight_files(folder)?;
    let index = folder.join(INDEX);
    files.extend(Some(index).filter(|index| index.is_file() && !folder.join(WEIGHTS).exists()));
    Ok(files)
}

/// The files that an index names, each once.
fn shards(folder: &Path, index: &ConfigReader) -> Result<Vec<PathBuf>> {
    let map = index.value("weight_map").as_object();
    let map = map.ok_or_else(|| index.unsupported("weight_map", "the file of each tensor"))?;
    let mut names = BTreeSet::new();
    for file in map.values() {
        // a name beside the index, and nothing that leads elsewhere
        let plain =
            file.as_str().filter(|name| Path::new(name).file_name().is_some_and(|file_name| file_name == *name));
        names.insert(plain.ok_or_else(|| index.unsupported("weight_map", "names of files in the same folder"))?);
    }
    if names.is_empty() {
        return Err(index.unsupported("weight_map", "the file of each tensor"));
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Whether a directory holds an adapter.
pub(crate) fn has_adapter(folder: &Path) -> bool {
    ADAPTER.iter().any(|name| folder.join(name).is_file())
}

/// What a directory without `config.json` is.
pub(crate) fn in_place_of_settings(folder: &Path, settings: PathBuf) -> Error {
    let unsupported = |found: String, accepted: String| {
        let key = "config.json".into();
        Error::Unsupported { path: folder.into(), key, found, accepted }
    };
    if has_adapter(folder) {
        return unsupported(format!("nothing, beside an adapter's `{}`", ADAPTER[0]), MERGED.into());
    }
    match names(folder).into_iter().find(|name| name.ends_with(".gguf")) {
        Some(file) => unsupported(format!("nothing, beside `{file}`"), format!("one, or the path of `{file}` itself")),
        None => missing(settings),
    }
}

/// What a directory with `config.json` has in place of weights.
fn in_place_of_weights(folder: &Path, weights: PathBuf) -> Error {
    let unsupported = |found: String, accepted: &str| {
        let key = "weights".into();
        Error::Unsupported { path: folder.into(), key, found, accepted: accepted.into() }
    };
    let names = names(folder);
    // 1. Parts without their index.
    if let Some((part, [index, count])) = names.iter().find_map(|name| Some((name, part_of(name)?))) {
        let stem = part.strip_suffix(&part_name(index, count)).unwrap_or_default();
        let parts = (1..=count).map(|index| folder.join(format!("{stem}{}", part_name(index, count))));
        let missing = parts.chain([folder.join(INDEX)]).filter(|path| !path.exists()).collect();
        return Error::MissingParts { path: folder.join(part), count: count + 1, missing };
    }
    // 2. An adapter, or a format that is not read.
    if has_adapter(folder) {
        return unsupported(format!("those of an adapter, `{}`", ADAPTER[1]), MERGED);
    }
    let other = OTHER_FORMATS
        .iter()
        .find_map(|end| names.iter().find(|name| name.ends_with(end) && !OF_TRAINER.contains(&name.as_str())));
    if let Some(other) = other {
        let accepted =
            format!("safetensors; transformers' `from_pretrained` and `save_pretrained` turn `{other}` into them");
        let is_known = OTHER_FORMATS[..4].iter().any(|end| other.ends_with(end));
        return unsupported(
            other.clone(),
            if is_known { &accepted } else { "safetensors, as transformers writes them" },
        );
    }
    match names.into_iter().find(|name| name.ends_with(".gguf") || name.ends_with(".safetensors")) {
        Some(name) if name.ends_with(".gguf") => {
            let accepted = format!("`{WEIGHTS}`, or the path of `{name}` itself");
            unsupported(name, &accepted)
        }
        Some(name) => unsupported(name, &format!("`{WEIGHTS}`, or parts that `{INDEX}` names")),
        None => missing(weights),
    }
}

fn missing(path: PathBuf) -> Error {
    let source = std::fs::metadata(&path).err().unwrap_or_else(|| std::io::ErrorKind::NotFound.into());
    Error::Read { path, source }
}

/// `-00001-of-00003.safetensors`
fn part_name(index: usize, count: usize) -> String {
    format!("-{index:05}-of-{count:05}.safetensors")
}

/// Index and count of a part by its name.
fn part_of(name: &str) -> Option<[usize; 2]> {
    const MOST_PARTS: usize = 9_999;
    let (before, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (_, index) = before.rsplit_once('-')?;
    let [index, count] = [index.parse().ok()?, count.parse().ok()?];
    ((1..=count).contains(&index) && count <= MOST_PARTS && name.ends_with(&part_name(index, count)))
        .then_some([index, count])
}

/// The names of a directory's files, in order.
fn names(folder: &Path) -> Vec<String> {
    const MOST_FILES: usize = 10_000;
    let entries = std::fs::read_dir(folder).into_iter().flatten().take(MOST_FILES).flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}
