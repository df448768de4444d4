//! Tensors of weight files, by name, decoded one at a time when they are asked for: a model is read without a second copy of it.

use crate::file_dtype::FileDType;
use crate::file_tensor::FileTensor;
use crate::host_tensor::HostTensor;
use crate::mapped_file::MappedFile;
use crate::mmap_matrix::MmapMatrix;
use crate::{Error, Result};
use duel_kernels::{FrozenMatrix, FrozenNumbers, Matrix};
use safetensors::SafeTensorError;
use safetensors::tensor::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// A tensor of a file.
#[derive(Debug, Clone)]
struct TensorEntry {
    file: usize,
    shape: Vec<usize>,
    kind: FileDType,
    range: Range<usize>,
}

/// Name, shape, kind and bytes of a tensor.
pub(crate) type TensorPlacement = (String, Vec<usize>, FileDType, Range<usize>);

/// Tensors of one file or several.
#[derive(Debug)]
pub struct WeightStore {
    files: Vec<Arc<MappedFile>>,
    entries: HashMap<String, TensorEntry>,
}

impl WeightStore {
    /// Opens safetensors files, which together hold each tensor once.
    ///
    /// # Errors
    /// A file that is missing, damaged, or of other numbers than f32, f16 and bf16.
    pub fn safetensors(paths: &[PathBuf]) -> Result<Self> {
        let mut store = Self { files: vec![], entries: HashMap::new() };
        for path in paths {
            let mapped = MappedFile::open(path)?;
            let bytes = mapped.bytes()?;
            let damaged = |e| Error::Damaged { path: path.clone(), problem: safetensors_problem(&e, bytes) };
            let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
            let mut tensors = vec![];
            for (name, view) in file.tensors() {
                let kind = match view.dtype() {
                    Dtype::F32 => FileDType::F32,
                    Dtype::BF16 => FileDType::Bf16,
                    Dtype::F16 => FileDType::F16,
                    other => {
                        let (value, accepted) = (format!("of type {other:?}"), "F32, F16, BF16".into());
                        return Err(Error::Unsupported { path: path.clone(), key: name, found: value, accepted });
                    }
                };
                let from = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
                tensors.push((name, view.shape().to_vec(), kind, from..from + view.data().len()));
            }
            store.add(mapped, tensors)?;
        }
        Ok(store)
    }

    /// The tensors of files whose headers have been checked against their lengths.
    ///
    /// # Errors
    /// A tensor that is in two files.
    pub(crate) fn of_files(files: impl IntoIterator<Item = (MappedFile, Vec<TensorPlacement>)>) -> Result<Self> {
        let mut store = Self { files: vec![], entries: HashMap::new() };
        files.into_iter().try_for_each(|(file, tensors)| store.add(file, tensors))?;
        Ok(store)
    }

    fn add(&mut self, mapped: MappedFile, tensors: Vec<TensorPlacement>) -> Result<()> {
        let file = self.files.len();
        for (name, shape, kind, range) in tensors {
            if self.entries.insert(name.clone(), TensorEntry { file, shape, kind, range }).is_some() {
                return Err(Error::Damaged { path: mapped.path, problem: format!("`{name}` is in two files") });
            }
        }
        self.files.push(mapped.into());
        Ok(())
    }

    /// The formats of the tensors' numbers, by name, those of the most tensors first.
    pub(crate) fn dtypes(&self) -> Vec<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for entry in self.entries.values() {
            *counts.entry(entry.kind.name()).or_default() += 1;
        }
        let mut names: Vec<(String, usize)> = counts.into_iter().collect();
        names.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        names.into_iter().map(|(name, _)| name).collect()
    }

    /// A tensor's shape; `None` where there is no such tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// A tensor as f32; `None` where there is no such tensor.
    ///
    /// # Errors
    /// A file that was changed since it was opened; a number that is infinite or NaN.
    pub fn get(&self, name: &str) -> Result<Option<HostTensor>> {
        let Some(TensorEntry { file, shape, kind, range }) = self.entries.get(name) else { return Ok(None) };
        let file = &self.files[*file];
        let values = kind.decode(&file.copy(range.clone())?);
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let problem = format!("number {index} of `{name}` is {}", values[index]);
            return Err(Error::Damaged { path: file.path.clone(), problem });
        }
        Ok(Some(HostTensor { shape: shape.clone(), values }))
    }

    /// Whether two tensors are there, and are the same.
    ///
    /// # Errors
    /// A file that was changed since it was opened.
    pub(crate) fn is_same(&self, one: &str, other: &str) -> Result<bool> {
        let [Some(a), Some(b)] = [one, other].map(|name| self.entries.get(name)) else { return Ok(false) };
        if a.shape != b.shape {
            return Ok(false);
        }
        if a.kind == b.kind {
            let bytes = |entry: &TensorEntry| Ok(&self.files[entry.file].bytes()?[entry.range.clone()]);
            return Ok(bytes(a)? == bytes(b)?);
        }
        Ok(self.get(one)? == self.get(other)?)
    }

    /// Whether a tensor is where a parameter of this shape is to be read from.
    ///
    /// # Errors
    /// [`Error::Lacking`], [`Error::Shape`].
    pub(crate) fn check_shape(&self, file_tensor: &FileTensor, ours: Vec<usize>) -> Result<()> {
        let name = &file_tensor.name;
        let Some(shape) = self.shape(name) else { return Err(Error::Lacking { name: name.clone() }) };
        let expected = file_tensor.shape(ours);
        if shape != expected {
            return Err(Error::Shape { name: name.clone(), found: shape.to_vec(), expected });
        }
        Ok(())
    }

    /// A matrix `[out, in]` that stays in its file, of a shape that [`Self::check_shape`] found; `None` where there is none.
    pub(crate) fn mapped(&self, file_tensor: &FileTensor) -> Option<MmapMatrix> {
        let TensorEntry { file, shape, kind, range } = self.entries.get(&file_tensor.name)?;
        let [rows, columns] = shape[..] else { return None };
        let part = file_tensor.part.as_ref().map_or(0..rows, |part| part.rows.clone());
        let [numbers, size] = kind.block();
        let bytes = columns / numbers * size; // of a row, which is whole blocks
        let range = range.start + part.start * bytes..range.start + part.end * bytes;
        let (file, rows, order) = (self.files[*file].clone(), part.len(), file_tensor.order);
        Some(MmapMatrix { file, range, kind: *kind, rows, columns, order })
    }

    /// A matrix rounded as it is read, of a shape that [`Self::check_shape`] found: some outputs at a time where the file has it
    /// `[out, in]`, as a whole where it has it `[in, out]`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub(crate) fn rounded(
        &self,
        file_tensor: &FileTensor,
        is_by_output: bool,
        numbers: FrozenNumbers,
    ) -> Result<FrozenMatrix> {
        let name = &file_tensor.name;
        let lacking = || Error::Lacking { name: name.clone() };
        if !is_by_output {
            let HostTensor { shape, values } = self.get(name)?.ok_or_else(lacking)?;
            let outputs = shape.get(1).copied().unwrap_or(1);
            let values = file_tensor.rows_from_file(values, outputs);
            return Ok(FrozenMatrix::new(
                Matrix::rows(&values, outputs),
                values.len() / outputs.max(1),
                outputs,
                numbers,
            ));
        }
        let matrix = self.mapped(file_tensor).ok_or_else(lacking)?;
        let [inputs, outputs] = matrix.dims();
        let first = file_tensor.part.as_ref().map_or(0, |part| part.rows.start);
        let read = |rows: Range<usize>, to: &mut [f32]| {
            matrix.copy_rows(rows.clone(), to)?;
            let Some(index) = to.iter().position(|value| !value.is_finite()) else { return Ok(()) };
            let number = (first + matrix.file_row(rows.start + index / inputs)) * inputs + index % inputs;
            let problem = format!("number {number} of `{name}` is {}", to[index]);
            Err(Error::Damaged { path: self.path_of(name), problem })
        };
        let problem = OnceLock::new();
        let rounded = FrozenMatrix::from_columns(inputs, outputs, numbers, |rows, to| {
            if problem.get().is_none() {
                read(rows, to).unwrap_or_else(|error| drop(problem.set(error)));
            }
        });
        problem.into_inner().map_or(Ok(rounded), Err)
    }

    /// Numbers of all tensors together.
    pub fn numbers(&self) -> usize {
        let of = |entry: &TensorEntry| entry.shape.iter().product::<usize>();
        self.entries.values().map(of).fold(0, usize::saturating_add)
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The bytes of the first of the files.
    ///
    /// # Errors
    /// A file that was changed since it was opened.
    pub(crate) fn bytes_of_first(&self) -> Result<&[u8]> {
        self.files.first().map_or(Ok(&[]), |file| file.bytes())
    }

    /// The first of the files.
    pub fn path(&self) -> PathBuf {
        self.files.first().map(|file| file.path.clone()).unwrap_or_default()
    }

    /// The file that holds a tensor, for errors that name it.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.entries.get(name).map(|entry| self.files[entry.file].path.clone()).unwrap_or_default()
    }
}

/// What is wrong with a safetensors file.
fn safetensors_problem(error: &SafeTensorError, bytes: &[u8]) -> String {
    const SHOWN: usize = 16;
    let size = bytes.len();
    match error {
        SafeTensorError::HeaderTooSmall => format!("it has {size} bytes, too few for a header"),
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            let start = String::from_utf8_lossy(&bytes[..SHOWN.min(size)]);
            format!("it begins with {start:?}, which is no header of safetensors, or one longer than its {size} bytes")
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!(
                "it has {size} bytes, which are not as many as its header says: it was cut off, or something was added"
            )
        }
        other => other.to_string(),
    }
}
