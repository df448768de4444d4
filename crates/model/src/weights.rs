//! Weights of any module as named host buffers: to and from safetensors, flat for the optimizer, hashed.

use crate::file_dtype::FileDType;
use crate::file_tensor::FileTensor;
pub use crate::host_tensor::{HostTensor, NamedTensor, concatenate, host, transposed};
use crate::weight_store::WeightStore;
use crate::{Error, Result};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use duel_spec::ids::Hasher;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Write;
use std::path::Path;

/// Every float parameter in the module's fixed order.
pub fn named_params<M: Module>(module: &M) -> Vec<NamedTensor> {
    collect(module, false)
}

/// The same without frozen ones; the module is on an autodiff device.
pub fn trained<M: Module>(module: &M) -> Vec<NamedTensor> {
    collect(module, true)
}

fn collect<M: Module>(module: &M, trained_only: bool) -> Vec<NamedTensor> {
    struct CollectParams {
        trained_only: bool,
        path: Vec<String>,
        out: Vec<NamedTensor>,
    }
    impl ModuleVisitor for CollectParams {
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
            self.out.push(NamedTensor { name: self.path.join("."), shape, values: host(tensor) });
        }
    }
    let mut collect = CollectParams { trained_only, path: vec![], out: vec![] };
    module.visit(&mut collect);
    collect.out
}

/// All parameters one after another.
pub fn flatten<M: Module>(module: &M) -> Vec<f32> {
    named_params(module).into_iter().flat_map(|n| n.values).collect()
}

/// The parameters of [`trained`] one after another.
pub fn flatten_trained<M: Module>(module: &M) -> Vec<f32> {
    trained(module).into_iter().flat_map(|n| n.values).collect()
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
    struct FillParams {
        trained_only: bool,
        values: VecDeque<Vec<f32>>,
    }
    impl ModuleMapper for FillParams {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if self.trained_only && !param.val().is_require_grad() {
                return param;
            }
            let (id, tensor, mapper) = param.consume();
            let shape = tensor.shape();
            let values = self.values.pop_front().expect("values of every parameter");
            let mut fresh = Tensor::from_data(TensorData::new(values, shape), &tensor.device());
            if tensor.is_require_grad() {
                fresh = fresh.require_grad();
            }
            Param::from_mapped_value(id, fresh, mapper)
        }
    }
    let mut rest = flat;
    let counts = counts(&module, trained_only).into_iter();
    let parts: Vec<&[f32]> = counts.map(|count| rest.split_off(..count).expect("numbers of every parameter")).collect();
    let values: Vec<Vec<f32>> = parts.into_par_iter().map(<[f32]>::to_vec).collect();
    module.map(&mut FillParams { trained_only, values: values.into() })
}

/// Numbers of each parameter, in the order of [`flatten`] or [`flatten_trained`].
fn counts<M: Module>(module: &M, trained_only: bool) -> Vec<usize> {
    struct CountNumbers {
        trained_only: bool,
        counts: Vec<usize>,
    }
    impl ModuleVisitor for CountNumbers {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if !self.trained_only || param.val().is_require_grad() {
                self.counts.push(param.shape().num_elements());
            }
        }
    }
    let mut numbers = CountNumbers { trained_only, counts: vec![] };
    module.visit(&mut numbers);
    numbers.counts
}

/// Numbers in all parameters; those of [`trained`] with `trained_only`.
pub fn number_count<M: Module>(module: &M, trained_only: bool) -> usize {
    counts(module, trained_only).iter().sum()
}

/// Name and shape of every float parameter in the module's fixed order.
pub fn shapes<M: Module>(module: &M) -> Vec<(String, Vec<usize>)> {
    struct CollectShapes {
        path: Vec<String>,
        out: Vec<(String, Vec<usize>)>,
    }
    impl ModuleVisitor for CollectShapes {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.out.push((self.path.join("."), param.val().dims().to_vec()));
        }
    }
    let mut shapes = CollectShapes { path: vec![], out: vec![] };
    module.visit(&mut shapes);
    shapes.out
}

/// The module with those parameters trained for whose names `is_trained` is true, and all others frozen; it is on an autodiff device.
pub fn training<M: Module>(module: M, is_trained: impl Fn(&str) -> bool) -> M {
    struct SelectTrained<F> {
        path: Vec<String>,
        is_trained: F,
    }
    impl<F: Fn(&str) -> bool> ModuleMapper for SelectTrained<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let trained = (self.is_trained)(&self.path.join("."));
            let (id, tensor, mapper) = param.consume();
            Param::from_mapped_value(id, tensor.set_require_grad(trained), mapper).set_require_grad(trained)
        }
    }
    module.map(&mut SelectTrained { path: vec![], is_trained })
}

/// Hash of all parameters, names and shapes included.
pub fn hash<M: Module>(module: &M) -> String {
    hash_with(module, |_| None)
}

/// The values of a parameter, one part after another.
pub(crate) type ValueParts = Box<dyn Iterator<Item = Vec<f32>>>;

/// The same with some parameters, by name, of other shapes and values than the module holds.
pub(crate) fn hash_with<M: Module>(module: &M, other: impl Fn(&str) -> Option<([usize; 2], ValueParts)>) -> String {
    struct HashParams<F> {
        path: Vec<String>,
        other: F,
        hasher: Hasher,
    }
    impl<F> HashParams<F> {
        fn begin(&mut self, name: &str, shape: &[usize]) {
            self.hasher.add(name.as_bytes());
            shape.iter().for_each(|size| self.hasher.add(&size.to_le_bytes()));
        }

        fn add(&mut self, values: &[f32]) {
            let mut bytes = Vec::with_capacity(4 * values.len().min(BLOCK));
            for block in values.chunks(BLOCK) {
                bytes.clear();
                bytes.extend(block.iter().flat_map(|v| v.to_le_bytes()));
                self.hasher.add(&bytes);
            }
        }
    }
    impl<F: Fn(&str) -> Option<([usize; 2], ValueParts)>> ModuleVisitor for HashParams<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let name = self.path.join(".");
            if let Some((shape, parts)) = (self.other)(&name) {
                self.begin(&name, &shape);
                return parts.for_each(|values| self.add(&values));
            }
            let tensor = param.val();
            self.begin(&name, &tensor.dims());
            self.add(tensor.into_data().as_slice().expect("all models are f32"));
        }
    }
    const BLOCK: usize = 1 << 16; // numbers that are turned into bytes at once
    let mut hash = HashParams { path: vec![], other, hasher: Hasher::default() };
    module.visit(&mut hash);
    hash.hasher.finish()
}

/// Writes the module as safetensors.
pub fn save<M: Module>(module: &M, path: &Path) -> Result<()> {
    save_some(module, path, |ours| Some(FileTensor::same(ours)))
}

/// The same for those parameters that are given a place.
pub fn save_some<M: Module>(module: &M, path: &Path, naming: impl Fn(&str) -> Option<FileTensor>) -> Result<()> {
    save_in(FileDType::F32, module, path, naming)
}

/// The same as f32, f16 or bf16.
pub fn save_in<M: Module>(
    kind: FileDType,
    module: &M,
    path: &Path,
    naming: impl Fn(&str) -> Option<FileTensor>,
) -> Result<()> {
    let dtype = match kind {
        FileDType::F16 => Dtype::F16,
        FileDType::Bf16 => Dtype::BF16,
        _ => Dtype::F32,
    };
    let kind = if dtype == Dtype::F32 { FileDType::F32 } else { kind };
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = named_params(module)
        .into_iter()
        .filter_map(|n| {
            let file_tensor = naming(&n.name)?;
            let (shape, values) = to_file(&file_tensor, n.shape, n.values);
            Some(kind.encode_all(path, &file_tensor.name, &values).map(|bytes| (file_tensor.name, shape, bytes)))
        })
        .collect::<Result<_>>()?;
    let damaged = |problem: String| Error::Damaged { path: path.into(), problem };
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(dtype, shape.clone(), bytes).map_err(|e| damaged(e.to_string()))?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<_>>()?;
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]); // transformers asks for it
    let bytes = safetensors::serialize(views, Some(format)).map_err(|e| damaged(e.to_string()))?;
    write_synced(path, &bytes)
}

/// A parameter's shape and values as a file holds them.
pub(crate) fn to_file(file_tensor: &FileTensor, mut shape: Vec<usize>, mut values: Vec<f32>) -> (Vec<usize>, Vec<f32>) {
    if file_tensor.is_transposed {
        values = transposed(&values, shape[0], shape[1]);
        shape.reverse();
    }
    let columns = shape.get(1).copied().unwrap_or(1);
    (shape, file_tensor.order.as_in_file(values, columns))
}

/// Writes a file, and waits until it is on the disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut file = std::fs::File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|source| Error::Write { path: path.into(), source })
}

/// Every tensor of a safetensors file, as f32.
///
/// # Errors
/// As [`WeightStore::safetensors`].
pub fn to_host(path: &Path) -> Result<HashMap<String, HostTensor>> {
    let store = WeightStore::safetensors(&[path.into()])?;
    let tensor = |name: &str| Ok(store.get(name)?.map(|tensor| (name.to_owned(), tensor)));
    store.names().filter_map(|name| tensor(name).transpose()).collect()
}

/// Fills the module from safetensors.
///
/// # Errors
/// A file that is damaged, or whose names or shapes are not the module's.
pub fn load<M: Module>(module: M, path: &Path) -> Result<M> {
    let store = WeightStore::safetensors(&[path.into()])?;
    load_from(module, &store, |ours| Some(FileTensor::same(ours)), |_, tensor| tensor, |_| false)
}

/// Fills those parameters of the module that a safetensors file holds, under our names.
///
/// # Errors
/// A file that is damaged, or that holds what the module does not have.
pub fn load_some<M: Module>(module: M, path: &Path) -> Result<M> {
    let store = WeightStore::safetensors(&[path.into()])?;
    load_from(module, &store, |ours| store.shape(ours).map(|_| FileTensor::same(ours)), |_, tensor| tensor, |_| false)
}

/// Fills the module's parameters that are given a name from a store, one after another, each `adjusted` before it is transposed.
pub fn load_from<M: Module>(
    module: M,
    store: &WeightStore,
    naming: impl Fn(&str) -> Option<FileTensor>,
    adjusted: impl Fn(&str, HostTensor) -> HostTensor,
    spare: impl Fn(&str) -> bool,
) -> Result<M> {
    // 1. Everything fits before anything is replaced.
    let mut foreign: HashSet<&str> = store.names().collect();
    let mut plan = VecDeque::new();
    for (ours, shape) in shapes(&module) {
        let Some(file_tensor) = naming(&ours) else {
            plan.push_back(None);
            continue;
        };
        store.check_shape(&file_tensor, shape)?;
        foreign.remove(file_tensor.name.as_str());
        plan.push_back(Some((ours, file_tensor)));
    }
    if let Some(name) = foreign.into_iter().filter(|name| !spare(name)).min() {
        return Err(Error::Foreign { path: store.path_of(name), name: name.into() });
    }

    // 2. Parameter by parameter.
    struct WriteParams<'a, F> {
        store: &'a WeightStore,
        plan: VecDeque<Option<(String, FileTensor)>>,
        adjusted: F,
        problem: Option<Error>,
    }
    impl<F: Fn(&str, HostTensor) -> HostTensor> ModuleMapper for WriteParams<'_, F> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some((ours, file_tensor)) = self.plan.pop_front().flatten() else { return param };
            let tensor = match self.store.get(&file_tensor.name) {
                Ok(Some(tensor)) => tensor,
                Ok(None) => return param,
                Err(problem) => {
                    self.problem.get_or_insert(problem);
                    return param;
                }
            };
            let HostTensor { shape, values } = (self.adjusted)(&ours, tensor);
            let columns = shape.get(1).copied().unwrap_or(1);
            let mut values = file_tensor.rows_from_file(values, columns);
            if file_tensor.is_transposed {
                values = transposed(&values, values.len() / columns, columns);
            }
            let (id, tensor, mapper) = param.consume();
            let mut fresh = Tensor::from_data(TensorData::new(values, tensor.shape()), &tensor.device());
            if tensor.is_require_grad() {
                fresh = fresh.require_grad();
            }
            Param::from_mapped_value(id, fresh, mapper)
        }
    }
    let mut writer = WriteParams { store, plan, adjusted, problem: None };
    let module = module.map(&mut writer);
    writer.problem.map_or(Ok(module), Err)
}
