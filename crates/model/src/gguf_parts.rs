//! The files of a GGUF model: one, or parts that are called `name-00001-of-00003.gguf`, of which the first has the settings.

use crate::file_dtype::{FileDType, ggml_name};
use crate::gguf_header::{GgufHeader, MAGIC};
use crate::mapped_file::MappedFile;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// More parts than any model has.
const MOST_PARTS: i128 = 9_999;

/// One file, and what it says of itself.
#[derive(Debug)]
pub(crate) struct GgufPart {
    pub file: MappedFile,
    pub header: GgufHeader,
}

impl GgufPart {
    fn open(path: &Path) -> Result<Self> {
        let file = MappedFile::open(path)?;
        check_version(path, file.bytes()?)?;
        let header = GgufHeader::parse(file.bytes()?);
        let header = header.map_err(|problem| Error::Damaged { path: path.into(), problem })?;
        Ok(Self { file, header })
    }

    fn unsupported(&self, key: &str, value: String, accepted: String) -> Error {
        Error::Unsupported { path: self.file.path.clone(), key: key.into(), found: value, accepted }
    }

    /// A number that says how the model is split.
    fn number(&self, key: &str) -> Result<Option<i128>> {
        let number = self.header.as_int(key);
        if number.is_none() && self.header.values.contains_key(key) {
            return Err(self.unsupported(key, "no whole number".into(), "a whole number".into()));
        }
        Ok(number)
    }

    /// How many files the model has.
    fn count(&self) -> Result<usize> {
        match self.number("split.count")? {
            None | Some(0 | 1) => Ok(1),
            Some(count @ 2..=MOST_PARTS) => Ok(count as usize),
            Some(count) => Err(self.unsupported("split.count", count.to_string(), format!("at most {MOST_PARTS}"))),
        }
    }

    /// Every tensor is of a kind that is read.
    fn check_kinds(&self) -> Result<()> {
        match &self.header.unread {
            None => Ok(()),
            Some((name, code)) => {
                let value = format!("of kind {}", ggml_name(*code));
                Err(self.unsupported(name, value, FileDType::all_names()))
            }
        }
    }
}

/// Versions that are read; what is no GGUF file has none.
fn check_version(path: &Path, bytes: &[u8]) -> Result<()> {
    let Some(version) = bytes.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk()) else { return Ok(()) };
    let found = match (u32::from_le_bytes(*version), u32::from_be_bytes(*version)) {
        (version, _) if GgufHeader::VERSIONS.contains(&version) => return Ok(()),
        (_, version) if GgufHeader::VERSIONS.contains(&version) => {
            format!("{version}, with its bytes in big-endian order")
        }
        (version, _) => version.to_string(),
    };
    let accepted = "2 and 3, in little-endian order".into();
    Err(Error::Unsupported { path: path.into(), key: "GGUF version".into(), found, accepted })
}

/// The files of a model by the name of one of them, in their order.
fn paths(part: &GgufPart) -> Result<Vec<PathBuf>> {
    let path = &part.file.path;
    let count = part.count()?;
    if count == 1 {
        return Ok(vec![path.clone()]);
    }
    let part_index = part.number("split.no")?.unwrap_or(-1);
    let name = |number: i128| format!("-{number:05}-of-{count:05}.gguf");
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(stem) = file_name.strip_suffix(name(part_index + 1).as_str()) else {
        let value = format!("part {} of {count}, in a file of another name", part_index + 1);
        let accepted =
            format!("a name that ends in `{}`, with the other parts in the same folder", name((part_index + 1).max(1)));
        return Err(part.unsupported("split.no", value, accepted));
    };
    let paths: Vec<PathBuf> =
        (1..=count).map(|number| path.with_file_name(format!("{stem}{}", name(number as i128)))).collect();
    let missing: Vec<PathBuf> = paths.iter().filter(|path| !path.exists()).cloned().collect();
    match missing.is_empty() {
        true => Ok(paths),
        false => Err(Error::MissingParts { path: path.clone(), count, missing }),
    }
}

/// The files of the model to which one belongs.
///
/// # Errors
/// As [`open`].
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    paths(&GgufPart::open(path)?)
}

/// All files of the model to which one belongs, in their order.
///
/// # Errors
/// A part that is missing, damaged or of another model; numbers of a kind that is not read.
pub(crate) fn open(path: &Path) -> Result<Vec<GgufPart>> {
    let named = GgufPart::open(path)?;
    let paths = paths(&named)?;
    if let [_] = paths[..] {
        named.check_kinds()?;
        return Ok(vec![named]);
    }
    let parts = paths.iter().map(|path| GgufPart::open(path)).collect::<Result<Vec<_>>>()?;
    // before tensors are counted: one of an unread kind is not among them
    parts.iter().try_for_each(GgufPart::check_kinds)?;
    let tensors: usize = parts.iter().map(|part| part.header.tensors.len()).sum();
    for (part, index) in parts.iter().zip(0..) {
        let expected = [("split.no", index), ("split.count", parts.len()), ("split.tensors.count", tensors)];
        for (key, expected) in expected {
            let number = part.number(key)?;
            if number != Some(expected as i128) {
                let value = number.map_or("missing".into(), |number| number.to_string());
                let problem = format!("its `{key}` is {value}, where its name and the other parts say {expected}");
                return Err(Error::Damaged { path: part.file.path.clone(), problem });
            }
        }
    }
    Ok(parts)
}
