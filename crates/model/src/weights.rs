//! Weights of any module as named host buffers: to and from safetensors, flat for the optimizer, hashed.

use crate::{Error, Result};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};
use duel_spec::ids::hash_bytes;
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
    struct Collect {
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
            let shape = tensor.dims().to_vec();
            self.out.push(Named { name: self.path.join("."), shape, values: host(tensor) });
        }
    }
    let mut collect = Collect { path: vec![], out: vec![] };
    module.visit(&mut collect);
    collect.out
}

/// A float tensor's values on the host.
pub fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().expect("all models are f32")
}

/// All parameters one after another.
pub fn flatten<M: Module>(module: &M) -> Vec<f32> {
    named(module).into_iter().flat_map(|n| n.values).collect()
}

/// The module with its parameters replaced by `flat`, in the order of [`flatten`].
pub fn unflatten<M: Module>(module: M, flat: &[f32]) -> M {
    struct Fill<'a> {
        flat: &'a [f32],
        place: usize,
    }
    impl ModuleMapper for Fill<'_> {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
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
    module.map(&mut Fill { flat, place: 0 })
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
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = named(module)
        .into_iter()
        .map(|n| (n.name, n.shape, n.values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let damaged = |problem: String| Error::Damaged { path: path.into(), problem };
    let views: Vec<(&str, TensorView)> = tensors
        .iter()
        .map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|e| damaged(e.to_string()))?;
            Ok((name.as_str(), view))
        })
        .collect::<Result<_>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|e| damaged(e.to_string()))?;
    std::fs::write(path, bytes).map_err(|source| Error::Write { path: path.into(), source })
}

/// Fills the module from safetensors.
///
/// # Errors
/// A file that is damaged, or whose names or shapes are not the module's.
pub fn load<M: Module>(module: M, path: &Path) -> Result<M> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })?;
    let damaged = |problem: String| Error::Damaged { path: path.into(), problem };
    let file = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let stored: HashMap<String, TensorView> = file.tensors().into_iter().collect();
    let mut flat = Vec::new();
    for Named { name, shape, .. } in named(&module) {
        let Some(view) = stored.get(&name) else { return Err(Error::Lacking { name }) };
        if view.shape() != shape || view.dtype() != Dtype::F32 {
            return Err(Error::Shape { name, found: view.shape().to_vec(), expected: shape });
        }
        flat.extend(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    }
    Ok(unflatten(module, &flat))
}
