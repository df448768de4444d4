//! Weights of any module as named host buffers: to and from safetensors, flat for the optimizer, hashed.

use crate::{Error, Result};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use duel_spec::{ids::hash_bytes, seeds::Rng};
use rand::RngExt;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// One parameter on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Every float parameter in the module's fixed order.
pub fn named<M: Module>(module: &M) -> Vec<Named> {
    collect(module, false)
}

/// The same without frozen ones; the module is on an autodiff device.
pub fn trained<M: Module>(module: &M) -> Vec<Named> {
    collect(module, true)
}

fn collect<M: Module>(module: &M, trained_only: bool) -> Vec<Named> {
    struct Collect {
        trained_only: bool,
        path: Vec<String>,
        out: Vec<Named>,
    }
    impl ModuleVisitor for Collect {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            if self.trained_only && !tensor.is_require_grad() {
                return;
            }
            let shape = tensor.dims().to_vec();
            self.out.push(Named { name: self.path.join("."), shape, values: host(tensor) });
        }
    }
    let mut collect = Collect { trained_only, path: vec![], out: vec![] };
    module.visit(&mut collect);
    collect.out
}

/// A float tensor's values on the host.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().expect("all models are f32")
}

/// Appends a float tensor's values.
pub fn append<const D: usize>(tensor: Tensor<D>, to: &mut Vec<f32>) {
    to.extend_from_slice(tensor.into_data().as_slice().expect("all models are f32"));
}

/// All parameters one after another.
pub fn flatten<M: Module>(module: &M) -> Vec<f32> {
    named(module).into_iter().flat_map(|n| n.values).collect()
}

/// The module with its parameters replaced by `flat`, in the order of [`flatten`].
pub fn unflatten<M: Module>(module: M, flat: &[f32]) -> M {
    fill(module, flat, false)
}

/// The same for the parameters of [`trained`].
pub fn with_trained<M: Module>(module: M, flat: &[f32]) -> M {
    fill(module, flat, true)
}

fn fill<M: Module>(module: M, flat: &[f32], trained_only: bool) -> M {
    struct Fill<'a> {
        trained_only: bool,
        flat: &'a [f32],
        place: usize,
    }
    impl ModuleMapper for Fill<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.trained_only && !param.val().is_require_grad() {
                return param;
            }
            let (id, tensor, mapper) = param.consume();
            let shape = tensor.shape();
            let values = self.flat[self.place..self.place + shape.num_elements()].to_vec();
            self.place += values.len();
            let mut fresh = Tensor::from_data(TensorData::new(values, shape), &tensor.device());
            if tensor.is_require_grad() {
                fresh = fresh.require_grad();
            }
            Param::from_mapped_value(id, fresh, mapper)
        }
    }
    module.map(&mut Fill { trained_only, flat, place: 0 })
}

/// Hash of all parameters, names and shapes included.
pub fn hash<M: Module>(module: &M) -> String {
    let mut bytes = Vec::new();
    for n in named(module) {
        bytes.extend(n.name.as_bytes());
        n.shape.iter().for_each(|s| bytes.extend(s.to_le_bytes()));
        n.values.iter().for_each(|v| bytes.extend(v.to_le_bytes()));
    }
    hash_bytes(&bytes)
}

/// Writes the module as safetensors.
pub fn save<M: Module>(module: &M, path: &Path) -> Result<()> {
    save_as(module, path, |ours| (ours.into(), false))
}

/// Writes the module as safetensors under other names; true: the matrix is written transposed.
pub fn save_as<M: Module>(module: &M, path: &Path, naming: impl Fn(&str) -> (String, bool)) -> Result<()> {
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = named(module)
        .into_iter()
        .map(|mut n| {
            let (name, turned) = naming(&n.name);
            if turned {
                n.values = transposed(&n.values, n.shape[0], n.shape[1]);
                n.shape.reverse();
            }
            (name, n.shape, n.values.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let damaged = |problem: String| Error::Damaged { path: path.into(), problem };
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| damaged(e.to_string()))?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<_>>()?;
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]); // transformers asks for it
    let bytes = safetensors::serialize(views, Some(format)).map_err(|e| damaged(e.to_string()))?;
    std::fs::write(path, bytes).map_err(|source| Error::Write { path: path.into(), source })
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Every tensor of a safetensors file, as f32.
///
/// # Errors
/// A file that is missing, damaged, or of other numbers than f32, f16 and bf16.
pub fn stored(path: &Path) -> Result<HashMap<String, Stored>> {
    let bytes = mapped(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let damaged = |problem: String| Error::Damaged { path: path.into(), problem };
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let convert = |(name, view): (String, TensorView)| {
        let halves = || view.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        let values = match view.dtype() {
            Dtype::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
            Dtype::BF16 => halves().map(|x| half::bf16::from_bits(x).to_f32()).collect(),
            Dtype::F16 => halves().map(|x| half::f16::from_bits(x).to_f32()).collect(),
            other => return Err(damaged(format!("`{name}` is of type {other:?}, not f32, f16 or bf16"))),
        };
        Ok((name, Stored { shape: view.shape().to_vec(), values }))
    };
    file.tensors().into_iter().map(convert).collect()
}

/// A file as memory that all processes which read it share.
#[expect(unsafe_code, reason = "a mapped file may change under its reader")]
fn mapped(path: &Path) -> std::io::Result<memmap2::Mmap> {
    let file = std::fs::File::open(path)?;
    // SAFETY: finished stages are never written again, only renamed or removed, which leaves a mapping whole; a model
    // directory of the user's is read once, when a run begins.
    unsafe { memmap2::Mmap::map(&file) }
}

/// Fills the module from safetensors.
///
/// # Errors
/// A file that is damaged, or whose names or shapes are not the module's.
pub fn load<M: Module>(module: M, path: &Path) -> Result<M> {
    load_as(module, path, |ours| (ours.into(), false), |_| false)
}

/// Fills the module from safetensors under other names; true: the matrix is stored transposed. Tensors that the
/// module has no place for must be `spare`.
pub fn load_as<M: Module>(
    module: M,
    path: &Path,
    naming: impl Fn(&str) -> (String, bool),
    spare: impl Fn(&str) -> bool,
) -> Result<M> {
    let mut stored = stored(path)?;
    let mut flat = Vec::new();
    for Named { name, shape, .. } in named(&module) {
        let (name, turned) = naming(&name);
        let Some(found) = stored.remove(&name) else { return Err(Error::Lacking { name }) };
        let expected = if turned { vec![shape[1], shape[0]] } else { shape };
        if found.shape != expected {
            return Err(Error::Shape { name, found: found.shape, expected });
        }
        if turned {
            flat.extend(transposed(&found.values, expected[0], expected[1]));
        } else {
            flat.extend(found.values);
        }
    }
    match stored.into_keys().filter(|name| !spare(name)).min() {
        Some(name) => Err(Error::Foreign { path: path.into(), name }),
        None => Ok(unflatten(module, &flat)),
    }
}

/// A matrix of the given rows and columns, row by row, turned over.
pub fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

/// Normal draws of mean 0 from the host's generator (Box–Muller).
pub(crate) fn normal(shape: [usize; 2], std: f64, rng: &mut Rng, device: &Device) -> Param<Tensor<2>> {
    let values: Vec<f32> = (0..shape[0] * shape[1])
        .map(|_| {
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos() * std) as f32
        })
        .collect();
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}
