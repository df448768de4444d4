//! The fused operations of `duel-kernels` as tensor operations with their own backward pass, through burn's extension
//! door. They run on the device `flex`; everywhere else, and where an adapter is on, models compose burn's operations.

use crate::counter::count;
use crate::mmap_matrix::MmapMatrix;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::FlexTensor;
use duel_kernels::{
    BlockSaved, BlockShape, BlockWeights, LinearWeights, LlamaSaved, LlamaShape, LlamaWeights, LmHead, N_LINEAR,
    PooledBuffer, RopeAndPadding,
};
use std::sync::Arc;

/// Defines a struct of tensors, and its fields in their order.
macro_rules! tensor_struct {
    ($(#[$doc:meta])* $name:ident, $count:literal, [$($field:ident),* $(,)?]) => {
        $(#[$doc])*
        #[derive(Debug, Clone, ExtensionType)]
        pub struct $name<B: Backend> {
            $(pub $field: FloatTensor<B>,)*
        }

        impl<B: Backend> $name<B> {
            /// From the tensors in the order of the fields.
            pub fn from_parts([$($field),*]: [FloatTensor<B>; $count]) -> Self {
                Self { $($field),* }
            }

            /// In the order of the fields.
            fn parts(self) -> [FloatTensor<B>; $count] {
                [$(self.$field),*]
            }
        }
    };
}

/// Whether fused operations can read this tensor.
pub fn is_supported<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device() == Device::flex()
}

tensor_struct! {
    /// A block's input `[B, L, D]` and its parameters, named as in [`BlockWeights`].
    BlockTensors, 13, [x, norm1_gain, norm1_bias, qkv, qkv_bias, out, out_bias, norm2_gain, norm2_bias, up, up_bias, down, down_bias]
}

/// A block's sizes, and the padding before each sequence.
#[derive(Debug, Clone)]
pub struct BlockPlan {
    pub shape: BlockShape,
    pub padding: Option<Arc<Vec<usize>>>,
    /// Whether what is between input and output is made again on the way back, and not kept. Chen et al. 2016.
    pub recompute: bool,
}

tensor_struct! {
    /// A Llama block's input `[B, L, D]` and its parameters, named as in [`LlamaWeights`]; where no adapter is on, `_a` and
    /// `_b` are not read.
    LlamaTensors, 24, [x, norm1, norm2, q, k, v, out, gate, up, down, q_a, q_b, k_a, k_b, v_a, v_b, out_a, out_b, gate_a, gate_b, up_a, up_b, down_a, down_b]
}

/// A Llama block's sizes, its rotary tables `[context, E/2]`, and the padding before each sequence.
#[derive(Debug, Clone)]
pub struct LlamaPlan {
    pub shape: LlamaShape,
    /// The block's matrices where they stay in their file: those of the tensors are then read by nobody.
    pub mapped: Option<[Arc<MmapMatrix>; N_LINEAR]>,
    pub cos: Arc<Vec<f32>>,
    pub sin: Arc<Vec<f32>>,
    pub padding: Option<Arc<Vec<usize>>>,
    pub recompute: bool,
}

/// Which log-probs are computed.
#[derive(Debug, Clone)]
pub struct LogpPlan {
    /// One a row of the states.
    pub targets: Arc<Vec<i32>>,
    pub vocabulary: usize,
    /// Whether the weight is `[V, D]` rather than `[D, V]`.
    pub tied: bool,
    /// `[T, V]`, true = cannot be said.
    pub hidden: Option<Arc<Vec<bool>>>,
}

/// The fused operations.
#[backend_extension(Flex, Autodiff)]
pub trait Fused: Backend {
    /// A transformer block, `[B, L, D]`.
    fn block(#[extension_type] tensors: BlockTensors<Self>, plan: BlockPlan) -> FloatTensor<Self>;
    /// A Llama block, `[B, L, D]`.
    fn llama(#[extension_type] tensors: LlamaTensors<Self>, plan: LlamaPlan) -> FloatTensor<Self>;
    /// Layer norm of rows `[…, D]`.
    fn layer_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
    /// Log-probs `[N]` of the plan's targets after states `[N, D]`.
    fn chosen_logp(states: FloatTensor<Self>, weight: FloatTensor<Self>, plan: LogpPlan) -> FloatTensor<Self>;
}

/// [`Fused::block`] on tensors.
pub fn block(tensors: BlockTensors<Dispatch>, plan: BlockPlan) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Fused>::block(tensors, plan))
}

/// [`Fused::llama`] on tensors.
pub fn llama(tensors: LlamaTensors<Dispatch>, plan: LlamaPlan) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Fused>::llama(tensors, plan))
}

/// [`Fused::layer_norm`] on tensors.
pub fn layer_norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let (x, gain, bias) = (x.into_dispatch(), gain.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Fused>::layer_norm(x, gain, bias, epsilon as f32))
}

/// [`Fused::chosen_logp`] on tensors.
pub fn chosen_logp(states: Tensor<2>, weight: Tensor<2>, plan: LogpPlan) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Fused>::chosen_logp(states.into_dispatch(), weight.into_dispatch(), plan))
}

fn as_slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous f32, as `applies` and `contiguous` saw to")
}

fn tensor(values: Vec<f32>, like: &FlexTensor) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, like.shape()))
}

/// A block's input and its parameters in the order of [`BlockTensors`].
type BlockPrimitives<T> = [T; 13];

/// Places of a block's matrices among them.
const MATRICES: [usize; 4] = [3, 5, 9, 11];

/// Counts the way back through matrices: for the inputs always, for a matrix where it is asked for.
fn count_back<const N: usize>(x: &FlexTensor, matrices: [(&FlexTensor, bool); N]) {
    let shape = x.shape();
    let columns: usize = shape[0] * shape[1];
    let each = matrices.map(|(matrix, needed)| as_slice(matrix).len() * columns * if needed { 4 } else { 2 });
    count(|counted| counted.blocks_back += each.iter().sum::<usize>() as f64);
}

fn contiguous(parts: BlockPrimitives<&FlexTensor>) -> BlockPrimitives<FlexTensor> {
    parts.map(FlexTensor::to_contiguous)
}

fn block_weights(parts: &BlockPrimitives<FlexTensor>) -> BlockWeights<'_> {
    std::array::from_fn(|i| as_slice(&parts[i + 1])).into()
}

/// A Llama block's input and its parameters in the order of [`LlamaTensors`].
type LlamaParts<T> = [T; 24];

fn llama_weights<'a>(
    parts: &'a LlamaParts<FlexTensor>,
    decoded: Option<&'a [PooledBuffer; N_LINEAR]>,
) -> LlamaWeights<'a> {
    let of = |i: usize| as_slice(&parts[i]);
    let map = |i: usize| {
        let weight = decoded.map_or_else(|| of(3 + i), |decoded| &decoded[i][..]);
        LinearWeights { weight, turned: decoded.is_some(), a: of(10 + 2 * i), b: of(11 + 2 * i) }
    };
    LlamaWeights { norms: [of(1), of(2)], maps: std::array::from_fn(map) }
}

impl LlamaPlan {
    /// As [`count_back`], where the matrices may stay in their file.
    fn count_back(&self, parts: &LlamaParts<FlexTensor>, needed: [bool; N_LINEAR]) {
        let sizes = (0..N_LINEAR).map(|i| match &self.mapped {
            Some(mapped) => mapped[i].dims().iter().product(),
            None => as_slice(&parts[3 + i]).len(),
        });
        let columns = self.shape.sequences * self.shape.columns;
        let each = sizes.zip(needed).map(|(size, needed)| size * columns * if needed { 4 } else { 2 });
        count(|counted| counted.blocks_back += each.sum::<usize>() as f64);
    }

    fn rope(&self) -> RopeAndPadding<'_> {
        RopeAndPadding {
            cos: &self.cos,
            sin: &self.sin,
            padding: self.padding.as_ref().map(|padding| padding.as_slice()),
        }
    }

    fn forward(&self, parts: &LlamaParts<FlexTensor>) -> (FlexTensor, LlamaSaved) {
        let (x, decoded) = (&parts[0], self.decoded());
        let weights = llama_weights(parts, decoded.as_ref());
        let (y, saved) = duel_kernels::llama_forward(self.shape, weights, as_slice(x), self.rope());
        (tensor(y, x), saved)
    }

    /// The block's matrices `[out, in]` where they stay in their file.
    fn decoded(&self) -> Option<[PooledBuffer; N_LINEAR]> {
        self.mapped.as_ref().map(|mapped| mapped.each_ref().map(|mapped| mapped.read()))
    }

    /// Gradients of the parts, in their order; `None` where nobody asked for a matrix's, and where no adapter is on.
    fn backward(
        &self,
        parts: &LlamaParts<FlexTensor>,
        saved: &LlamaSaved,
        dy: &FlexTensor,
        needed: [bool; N_LINEAR],
    ) -> Vec<Option<FlexTensor>> {
        let decoded = self.decoded();
        let (weights, x) = (llama_weights(parts, decoded.as_ref()), as_slice(&parts[0]));
        let (dx, gradient) =
            duel_kernels::llama_backward(self.shape, weights, x, saved, self.rope(), as_slice(dy), needed);
        let adapters = gradient.a.into_iter().zip(gradient.b).flat_map(|(a, b)| [a, b]);
        let all = std::iter::once(dx).chain(gradient.norms).chain(gradient.weights).chain(adapters);
        all.zip(parts).map(|(values, like)| (!values.is_empty()).then(|| tensor(values, like))).collect()
    }
}

impl BlockPlan {
    fn padding(&self) -> Option<&[usize]> {
        self.padding.as_ref().map(|padding| padding.as_slice())
    }

    fn forward(&self, parts: &BlockPrimitives<FlexTensor>) -> (FlexTensor, BlockSaved) {
        let x = &parts[0];
        let (y, saved) = duel_kernels::block_forward(self.shape, block_weights(parts), as_slice(x), self.padding());
        (tensor(y, x), saved)
    }

    /// Gradients of the parts, in their order.
    fn backward(&self, parts: &BlockPrimitives<FlexTensor>, saved: &BlockSaved, dy: &FlexTensor) -> Vec<FlexTensor> {
        let (weights, x) = (block_weights(parts), as_slice(&parts[0]));
        let (dx, gradient) = duel_kernels::block_backward(self.shape, weights, x, saved, self.padding(), as_slice(dy));
        let gradients = std::iter::once(dx).chain(gradient.into_parts());
        gradients.zip(parts).map(|(gradient, like)| tensor(gradient, like)).collect()
    }
}

impl LogpPlan {
    fn head<'a>(&'a self, weight: &'a FlexTensor) -> LmHead<'a> {
        let hidden = self.hidden.as_ref().map(|hidden| hidden.as_slice());
        LmHead { weight: as_slice(weight), vocabulary: self.vocabulary, tied: self.tied, hidden }
    }
}

impl Fused for Flex {
    fn block(tensors: BlockTensors<Self>, plan: BlockPlan) -> FloatTensor<Self> {
        plan.forward(&contiguous(tensors.parts().each_ref())).0
    }

    fn llama(tensors: LlamaTensors<Self>, plan: LlamaPlan) -> FloatTensor<Self> {
        plan.forward(&tensors.parts().map(|part| part.to_contiguous())).0
    }

    fn layer_norm(x: FlexTensor, gain: FlexTensor, bias: FlexTensor, epsilon: f32) -> FlexTensor {
        let x = x.to_contiguous();
        let (y, _) = duel_kernels::layer_norm(as_slice(&x), as_slice(&gain), as_slice(&bias), epsilon);
        tensor(y, &x)
    }

    fn chosen_logp(states: FloatTensor<Self>, weight: FloatTensor<Self>, plan: LogpPlan) -> FloatTensor<Self> {
        let (states, weight) = (states.to_contiguous(), weight.to_contiguous());
        let logp = duel_kernels::logp_forward(plan.head(&weight), as_slice(&states), &plan.targets).logp;
        FlexTensor::from_data(TensorData::new(logp, [plan.targets.len()]))
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn block(tensors: BlockTensors<Self>, plan: BlockPlan) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct BlockBackward;
        impl Backward<Flex, 13> for BlockBackward {
            type State = (BlockPrimitives<FlexTensor>, BlockPlan, Option<BlockSaved>);

            fn backward(self, ops: Ops<Self::State, 13>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let dy = gradients.consume::<Flex>(&ops.node).to_contiguous();
                let (parts, plan, saved) = ops.state;
                let saved = saved.unwrap_or_else(|| plan.forward(&parts).1);
                count_back(&parts[0], MATRICES.map(|i| (&parts[i], ops.parents[i].is_some())));
                for (node, gradient) in ops.parents.into_iter().zip(plan.backward(&parts, &saved, &dy)) {
                    if let Some(node) = node {
                        gradients.register::<Flex>(node.id, gradient);
                    }
                }
            }
        }
        let parts = tensors.parts();
        let nodes = parts.each_ref().map(|part| part.node());
        let parts = contiguous(parts.each_ref().map(|part| part.primitive()));
        let (y, saved) = plan.forward(&parts);
        match BlockBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = (!plan.recompute).then_some(saved);
                prep.finish((parts, plan, saved), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn llama(tensors: LlamaTensors<Self>, plan: LlamaPlan) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LlamaBlockBackward;
        impl Backward<Flex, 24> for LlamaBlockBackward {
            type State = (LlamaParts<FlexTensor>, LlamaPlan, Option<LlamaSaved>);

            fn backward(self, ops: Ops<Self::State, 24>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let dy = gradients.consume::<Flex>(&ops.node).to_contiguous();
                let (parts, plan, saved) = ops.state;
                let saved = saved.unwrap_or_else(|| plan.forward(&parts).1);
                let needed = std::array::from_fn(|map| ops.parents[3 + map].is_some());
                plan.count_back(&parts, needed);
                let found = plan.backward(&parts, &saved, &dy, needed);
                for (node, gradient) in ops.parents.into_iter().zip(found) {
                    if let (Some(node), Some(gradient)) = (node, gradient) {
                        gradients.register::<Flex>(node.id, gradient);
                    }
                }
            }
        }
        let parts = tensors.parts();
        let nodes = parts.each_ref().map(|part| part.node());
        let parts = parts.map(|part| part.primitive().to_contiguous());
        let (y, saved) = plan.forward(&parts);
        match LlamaBlockBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = (!plan.recompute).then_some(saved);
                prep.finish((parts, plan, saved), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn layer_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LayerNormBackward;
        impl Backward<Flex, 3> for LayerNormBackward {
            type State = (FlexTensor, FlexTensor, PooledBuffer);

            fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let dy = gradients.consume::<Flex>(&ops.node).to_contiguous();
                let (x, gain, statistics) = ops.state;
                let found =
                    duel_kernels::layer_norm_backward(as_slice(&dy), as_slice(&x), &statistics, as_slice(&gain));
                let found = found.into_iter().zip([&x, &gain, &gain]);
                for (node, (gradient, like)) in ops.parents.into_iter().zip(found) {
                    if let Some(node) = node {
                        gradients.register::<Flex>(node.id, tensor(gradient, like));
                    }
                }
            }
        }
        let nodes = [x.node(), gain.node(), bias.node()];
        let (x, gain, bias) =
            (x.primitive().to_contiguous(), gain.primitive().to_contiguous(), bias.primitive().clone());
        let (y, statistics) = duel_kernels::layer_norm(as_slice(&x), as_slice(&gain), as_slice(&bias), epsilon);
        let y = tensor(y, &x);
        match LayerNormBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, gain, statistics), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn chosen_logp(states: FloatTensor<Self>, weight: FloatTensor<Self>, plan: LogpPlan) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct TokenLogpBackward;
        impl Backward<Flex, 2> for TokenLogpBackward {
            type State = (FlexTensor, FlexTensor, LogpPlan, Vec<f32>);

            fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
                let (states, weight, plan, log_z) = ops.state;
                let [for_states, for_weight] = ops.parents;
                let (head, targets) = (plan.head(&weight), &plan.targets);
                let (states_numbers, needed) = (as_slice(&states), for_weight.is_some());
                let forward = 2.0 * (as_slice(&weight).len() * targets.len()) as f64;
                count(|counted| counted.heads_back += forward * if needed { 2.0 } else { 1.0 });
                let found =
                    duel_kernels::logp_backward(head, states_numbers, targets, &log_z, as_slice(&gradient), needed);
                if let Some(node) = for_states {
                    gradients.register::<Flex>(node.id, tensor(found.states, &states));
                }
                if let (Some(node), Some(values)) = (for_weight, found.weight) {
                    gradients.register::<Flex>(node.id, tensor(values, &weight));
                }
            }
        }
        let nodes = [states.node(), weight.node()];
        let (states, weight) = (states.primitive().to_contiguous(), weight.primitive().to_contiguous());
        let found = duel_kernels::logp_forward(plan.head(&weight), as_slice(&states), &plan.targets);
        let logp = FlexTensor::from_data(TensorData::new(found.logp, [plan.targets.len()]));
        match TokenLogpBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((states, weight, plan, found.log_z), logp),
            OpsKind::UnTracked(prep) => prep.finish(logp),
        }
    }
}
