//! The fused operations of `duel-kernels` as tensor operations with their own backward pass, through burn's extension
//! door. They run on the device `flex`; everywhere else models compose burn's operations.

use crate::counter::count;
use crate::frozen_weight::{FrozenRead, FrozenWeight};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::FlexTensor;
use duel_kernels::{
    BlockSaved, BlockShape, BlockWeights, FrozenMatrix, Gpt2Saved, Gpt2Shape, Gpt2Weights, LinearMatrix, LinearWeights,
    LmHead, LogpSaved, N_LINEAR, N_NORM, NormWeights, PooledBuffer, RopeAndPadding, RopeTables,
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
    /// A GPT-2 block's input `[B, L, D]` and its parameters, named as in [`Gpt2Weights`].
    Gpt2Tensors, 13, [x, norm1_gain, norm1_bias, qkv, qkv_bias, out, out_bias, norm2_gain, norm2_bias, up, up_bias, down, down_bias]
}

/// A GPT-2 block's sizes, and the padding before each sequence.
#[derive(Debug, Clone)]
pub struct Gpt2Plan {
    pub shape: Gpt2Shape,
    pub padding: Option<Arc<Vec<usize>>>,
    /// Whether what is between input and output is made again on the way back, and not kept. Chen et al. 2016.
    pub recompute: bool,
}

tensor_struct! {
    /// A block's input `[B, L, D]`, gain and bias of its norms, and matrix, bias and adapter of its maps, in the order of
    /// [`BlockWeights`]; what it does not have is [`nothing`].
    BlockTensors, 41, [
        x,
        norm1, norm1_bias, norm2, norm2_bias, norm3, norm3_bias, norm4, norm4_bias, norm5, norm5_bias, norm6, norm6_bias,
        q, q_bias, q_a, q_b, k, k_bias, k_a, k_b, v, v_bias, v_a, v_b, out, out_bias, out_a, out_b,
        gate, gate_bias, gate_a, gate_b, up, up_bias, up_a, up_b, down, down_bias, down_a, down_b,
    ]
}

/// In place of a parameter that a block does not have.
pub fn nothing(device: &Device) -> Tensor<1> {
    Tensor::empty([0], device)
}

/// A block's sizes and options, its adapters' scales `α/r`, its rotary tables, and the padding before each sequence.
#[derive(Debug, Clone)]
pub struct BlockPlan {
    pub shape: BlockShape,
    pub scales: [f32; N_LINEAR],
    /// Those matrices that are no tensors: the tensors of these are then read by nobody.
    pub frozen: [Option<FrozenWeight>; N_LINEAR],
    pub rope: Option<Arc<RopeTables>>,
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
    /// `[D, V]` where it is rounded: the weight is then read by nobody.
    pub frozen: Option<Arc<FrozenMatrix>>,
    /// `cap·tanh(logit/cap)`
    pub soft_cap: Option<f32>,
    /// `[T, V]`, true = cannot be said.
    pub hidden: Option<Arc<Vec<bool>>>,
    /// Bytes of logits that the forward pass keeps at most where there is a backward pass.
    pub logits_memory: usize,
}

/// The fused operations.
#[backend_extension(Flex, Autodiff)]
pub trait Fused: Backend {
    /// A GPT-2 block, `[B, L, D]`.
    fn gpt2(#[extension_type] tensors: Gpt2Tensors<Self>, plan: Gpt2Plan) -> FloatTensor<Self>;
    /// A block of any other family, or with adapters, `[B, L, D]`.
    fn block(#[extension_type] tensors: BlockTensors<Self>, plan: BlockPlan) -> FloatTensor<Self>;
    /// Layer norm of rows `[…, D]`, or RMS norm where the bias is empty.
    fn norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;
    /// Log-probs `[N]` of the plan's targets after states `[N, D]`.
    fn chosen_logp(states: FloatTensor<Self>, weight: FloatTensor<Self>, plan: LogpPlan) -> FloatTensor<Self>;
    /// Rows `[N, K]` times a rounded matrix `[K, M]`.
    fn frozen_product(x: FloatTensor<Self>, matrix: FrozenFactor) -> FloatTensor<Self>;
}

/// [`Fused::block`] on tensors.
pub fn gpt2(tensors: Gpt2Tensors<Dispatch>, plan: Gpt2Plan) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Fused>::gpt2(tensors, plan))
}

/// [`Fused::block`] on tensors.
pub fn block(tensors: BlockTensors<Dispatch>, plan: BlockPlan) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Fused>::block(tensors, plan))
}

/// [`Fused::norm`] on tensors.
pub fn norm<const D: usize>(x: Tensor<D>, gain: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let (x, gain, bias) = (x.into_dispatch(), gain.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as Fused>::norm(x, gain, bias, epsilon as f32))
}

/// [`Fused::chosen_logp`] on tensors.
pub fn chosen_logp(states: Tensor<2>, weight: Tensor<2>, plan: LogpPlan) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Fused>::chosen_logp(states.into_dispatch(), weight.into_dispatch(), plan))
}

/// [`Fused::frozen_product`] on `[B, L, K]`.
pub fn frozen_product(x: Tensor<3>, matrix: Arc<FrozenMatrix>) -> Tensor<3> {
    let ([b, l, inputs], outputs) = (x.dims(), matrix.outputs());
    let rows = x.reshape([b * l, inputs]).into_dispatch();
    Tensor::<2>::from_dispatch(<Dispatch as Fused>::frozen_product(rows, FrozenFactor(matrix))).reshape([b, l, outputs])
}

fn as_slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous f32, as `applies` and `contiguous` saw to")
}

fn tensor(values: Vec<f32>, like: &FlexTensor) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, like.shape()))
}

/// A block's input and its parameters in the order of [`Gpt2Tensors`].
type Gpt2Parts<T> = [T; 13];

/// Places of a block's matrices among them.
const MATRICES: [usize; 4] = [3, 5, 9, 11];

/// Counts the way back through matrices: for the inputs always, for a matrix where it is asked for.
fn count_back<const N: usize>(x: &FlexTensor, matrices: [(&FlexTensor, bool); N]) {
    let shape = x.shape();
    let columns: usize = shape[0] * shape[1];
    let each = matrices.map(|(matrix, needed)| as_slice(matrix).len() * columns * if needed { 4 } else { 2 });
    count(|counted| counted.blocks_back += each.iter().sum::<usize>() as f64);
}

fn contiguous(parts: Gpt2Parts<&FlexTensor>) -> Gpt2Parts<FlexTensor> {
    parts.map(FlexTensor::to_contiguous)
}

fn gpt2_weights(parts: &Gpt2Parts<FlexTensor>) -> Gpt2Weights<'_> {
    std::array::from_fn(|i| as_slice(&parts[i + 1])).into()
}

/// A block's input and its parameters in the order of [`BlockTensors`].
type BlockParts<T> = [T; 41];

/// Where the parameters of a norm or of a map begin among them.
const NORMS: usize = 1;
const MAPS: usize = NORMS + 2 * N_NORM;

/// A block's matrices that are no tensors, read.
type FrozenMatrices = [Option<FrozenRead>; N_LINEAR];

impl BlockPlan {
    fn weights<'a>(&self, parts: &'a BlockParts<FlexTensor>, frozen: &'a FrozenMatrices) -> BlockWeights<'a> {
        let of = |i: usize| as_slice(&parts[i]);
        let norm = |i: usize| NormWeights { gain: of(NORMS + 2 * i), bias: of(NORMS + 2 * i + 1) };
        let map = |i: usize| {
            let first = MAPS + 4 * i;
            LinearWeights {
                matrix: frozen[i].as_ref().map_or_else(|| of(first).into(), FrozenRead::matrix),
                bias: of(first + 1),
                a: of(first + 2),
                b: of(first + 3),
                scale: self.scales[i],
            }
        };
        BlockWeights { norms: std::array::from_fn(norm), maps: std::array::from_fn(map) }
    }

    /// As [`count_back`], where matrices may be no tensors.
    fn count_back(&self, parts: &BlockParts<FlexTensor>, needed: [bool; N_LINEAR]) {
        let sizes = (0..N_LINEAR).map(|i| match &self.frozen[i] {
            Some(frozen) => frozen.dims().iter().product(),
            None => as_slice(&parts[MAPS + 4 * i]).len(),
        });
        let columns = self.shape.sequences * self.shape.columns;
        let each = sizes.zip(needed).map(|(size, needed)| size * columns * if needed { 4 } else { 2 });
        count(|counted| counted.blocks_back += each.sum::<usize>() as f64);
    }

    fn positions(&self) -> RopeAndPadding<'_> {
        let padding = self.padding.as_ref().map(|padding| padding.as_slice());
        RopeAndPadding { rope: self.rope.as_deref(), padding }
    }

    fn frozen(&self) -> FrozenMatrices {
        self.frozen.each_ref().map(|frozen| frozen.as_ref().map(FrozenWeight::read))
    }

    fn forward(&self, parts: &BlockParts<FlexTensor>) -> (FlexTensor, BlockSaved) {
        let (x, frozen) = (&parts[0], self.frozen());
        let weights = self.weights(parts, &frozen);
        let (y, saved) = duel_kernels::block_forward(self.shape, weights, as_slice(x), self.positions());
        (tensor(y, x), saved)
    }

    /// Gradients of the parts, in their order; `None` where a matrix's is not needed, and where there is no such part.
    fn backward(
        &self,
        parts: &BlockParts<FlexTensor>,
        saved: &BlockSaved,
        dy: &FlexTensor,
        needed: [bool; N_LINEAR],
    ) -> Vec<Option<FlexTensor>> {
        let frozen = self.frozen();
        let (weights, x) = (self.weights(parts, &frozen), as_slice(&parts[0]));
        let (dx, gradient) =
            duel_kernels::block_backward(self.shape, weights, x, saved, self.positions(), as_slice(dy), needed);
        let norms = gradient.norms.into_iter().flat_map(|norm| [norm.gain, norm.bias]);
        let maps = gradient.maps.into_iter().flat_map(|map| [map.weight, map.bias, map.a, map.b]);
        let all = std::iter::once(dx).chain(norms).chain(maps);
        all.zip(parts).map(|(values, like)| (!values.is_empty()).then(|| tensor(values, like))).collect()
    }
}

impl Gpt2Plan {
    fn padding(&self) -> Option<&[usize]> {
        self.padding.as_ref().map(|padding| padding.as_slice())
    }

    fn forward(&self, parts: &Gpt2Parts<FlexTensor>) -> (FlexTensor, Gpt2Saved) {
        let x = &parts[0];
        let (y, saved) = duel_kernels::gpt2_forward(self.shape, gpt2_weights(parts), as_slice(x), self.padding());
        (tensor(y, x), saved)
    }

    /// Gradients of the parts, in their order.
    fn backward(&self, parts: &Gpt2Parts<FlexTensor>, saved: &Gpt2Saved, dy: &FlexTensor) -> Vec<FlexTensor> {
        let (weights, x) = (gpt2_weights(parts), as_slice(&parts[0]));
        let (dx, gradient) = duel_kernels::gpt2_backward(self.shape, weights, x, saved, self.padding(), as_slice(dy));
        let gradients = std::iter::once(dx).chain(gradient.into_parts());
        gradients.zip(parts).map(|(gradient, like)| tensor(gradient, like)).collect()
    }
}

/// A rounded matrix that rows are multiplied by.
#[derive(Debug, Clone)]
pub struct FrozenFactor(Arc<FrozenMatrix>);

impl FrozenFactor {
    /// `x·W`
    fn times(matrix: &FrozenMatrix, x: &FlexTensor) -> FlexTensor {
        let values = matrix.rows_product(as_slice(x));
        let rows = values.len() / matrix.outputs().max(1);
        FlexTensor::from_data(TensorData::new(values, [rows, matrix.outputs()]))
    }
}

impl LogpPlan {
    fn head<'a>(&'a self, weight: &'a FlexTensor) -> LmHead<'a> {
        let hidden = self.hidden.as_ref().map(|hidden| hidden.as_slice());
        let Self { vocabulary, tied, soft_cap, .. } = *self;
        let matrix = match &self.frozen {
            Some(matrix) => LinearMatrix::Frozen(matrix),
            None => LinearMatrix::F32 { values: as_slice(weight), turned: tied },
        };
        LmHead { matrix, vocabulary, soft_cap, hidden }
    }

    /// Log-probs `[N]`, and what the backward pass needs.
    fn forward(&self, states: &FlexTensor, weight: &FlexTensor, logits_memory: usize) -> (FlexTensor, LogpSaved) {
        let (head, targets) = (self.head(weight), &self.targets);
        let (logp, saved) = duel_kernels::logp_forward(head, as_slice(states), targets, logits_memory);
        (FlexTensor::from_data(TensorData::new(logp, [targets.len()])), saved)
    }
}

impl Fused for Flex {
    fn gpt2(tensors: Gpt2Tensors<Self>, plan: Gpt2Plan) -> FloatTensor<Self> {
        plan.forward(&contiguous(tensors.parts().each_ref())).0
    }

    fn block(tensors: BlockTensors<Self>, plan: BlockPlan) -> FloatTensor<Self> {
        plan.forward(&tensors.parts().map(|part| part.to_contiguous())).0
    }

    fn norm(x: FlexTensor, gain: FlexTensor, bias: FlexTensor, epsilon: f32) -> FlexTensor {
        let x = x.to_contiguous();
        let weights = NormWeights { gain: as_slice(&gain), bias: as_slice(&bias) };
        tensor(weights.forward_rows(as_slice(&x), epsilon).0, &x)
    }

    fn chosen_logp(states: FloatTensor<Self>, weight: FloatTensor<Self>, plan: LogpPlan) -> FloatTensor<Self> {
        plan.forward(&states.to_contiguous(), &weight.to_contiguous(), 0).0
    }

    fn frozen_product(x: FloatTensor<Self>, matrix: FrozenFactor) -> FloatTensor<Self> {
        FrozenFactor::times(&matrix.0, &x.to_contiguous())
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn frozen_product(x: FloatTensor<Self>, matrix: FrozenFactor) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct FrozenProductBackward;
        impl Backward<Flex, 1> for FrozenProductBackward {
            type State = FrozenFactor;

            fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let dy = gradients.consume::<Flex>(&ops.node).to_contiguous();
                let FrozenFactor(matrix) = ops.state;
                if let [Some(node)] = ops.parents {
                    let turned = matrix.turned(0..matrix.outputs());
                    gradients.register::<Flex>(node.id, FrozenFactor::times(&turned, &dy));
                }
            }
        }
        let y = FrozenFactor::times(&matrix.0, &x.primitive().to_contiguous());
        match FrozenProductBackward.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(matrix, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn gpt2(tensors: Gpt2Tensors<Self>, plan: Gpt2Plan) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Gpt2Backward;
        impl Backward<Flex, 13> for Gpt2Backward {
            type State = (Gpt2Parts<FlexTensor>, Gpt2Plan, Option<Gpt2Saved>);

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
        match Gpt2Backward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = (!plan.recompute).then_some(saved);
                prep.finish((parts, plan, saved), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn block(tensors: BlockTensors<Self>, plan: BlockPlan) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct BlockBackward;
        impl Backward<Flex, 41> for BlockBackward {
            type State = (BlockParts<FlexTensor>, BlockPlan, Option<BlockSaved>);

            fn backward(self, ops: Ops<Self::State, 41>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let dy = gradients.consume::<Flex>(&ops.node).to_contiguous();
                let (parts, plan, saved) = ops.state;
                let saved = saved.unwrap_or_else(|| plan.forward(&parts).1);
                let needed = std::array::from_fn(|map| ops.parents[MAPS + 4 * map].is_some());
                plan.count_back(&parts, needed);
                let of_parts = plan.backward(&parts, &saved, &dy, needed);
                for (node, gradient) in ops.parents.into_iter().zip(of_parts) {
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
        match BlockBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let saved = (!plan.recompute).then_some(saved);
                prep.finish((parts, plan, saved), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn norm(x: FloatTensor<Self>, gain: FloatTensor<Self>, bias: FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct NormBackward;
        impl Backward<Flex, 3> for NormBackward {
            type State = ([FlexTensor; 3], PooledBuffer);

            fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let dy = gradients.consume::<Flex>(&ops.node).to_contiguous();
                let ([x, gain, bias], statistics) = ops.state;
                let weights = NormWeights { gain: as_slice(&gain), bias: as_slice(&bias) };
                let (dx, gradient) = weights.backward_rows(as_slice(&dy), as_slice(&x), &statistics);
                let of_parts = [(dx, &x), (gradient.gain, &gain), (gradient.bias, &bias)];
                for (node, (gradient, like)) in ops.parents.into_iter().zip(of_parts) {
                    if let Some(node) = node {
                        gradients.register::<Flex>(node.id, tensor(gradient, like));
                    }
                }
            }
        }
        let nodes = [x.node(), gain.node(), bias.node()];
        let (x, gain, bias) =
            (x.primitive().to_contiguous(), gain.primitive().to_contiguous(), bias.primitive().clone());
        let weights = NormWeights { gain: as_slice(&gain), bias: as_slice(&bias) };
        let (y, statistics) = weights.forward_rows(as_slice(&x), epsilon);
        let y = tensor(y, &x);
        match NormBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([x, gain, bias], statistics), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn chosen_logp(states: FloatTensor<Self>, weight: FloatTensor<Self>, plan: LogpPlan) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct TokenLogpBackward;
        impl Backward<Flex, 2> for TokenLogpBackward {
            type State = (FlexTensor, FlexTensor, LogpPlan, LogpSaved);

            fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
                let (states, weight, plan, saved) = ops.state;
                let [for_states, for_weight] = ops.parents;
                let (head, targets) = (plan.head(&weight), &plan.targets);
                let (states_numbers, needed) = (as_slice(&states), for_weight.is_some());
                let forward = 2.0 * (head.matrix.len() * targets.len()) as f64;
                count(|counted| counted.heads_back += forward * if needed { 2.0 } else { 1.0 });
                let backward =
                    duel_kernels::logp_backward(head, states_numbers, targets, saved, as_slice(&gradient), needed);
                if let Some(node) = for_states {
                    gradients.register::<Flex>(node.id, tensor(backward.states, &states));
                }
                if let (Some(node), Some(values)) = (for_weight, backward.weight) {
                    gradients.register::<Flex>(node.id, tensor(values, &weight));
                }
            }
        }
        let nodes = [states.node(), weight.node()];
        let (states, weight) = (states.primitive().to_contiguous(), weight.primitive().to_contiguous());
        match TokenLogpBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (logp, saved) = plan.forward(&states, &weight, plan.logits_memory);
                prep.finish((states, weight, plan, saved), logp)
            }
            OpsKind::UnTracked(prep) => prep.finish(plan.forward(&states, &weight, 0).0),
        }
    }
}
