//! The fused operations of `duel-kernels` as tensor operations with their own backward pass, through burn's extension
//! door. They run on the device `flex`; everywhere else, and where an adapter is on, models compose burn's operations.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, ExtensionType, Flex, TensorMetadata as _, backend_extension};
use burn::tensor::{DType, Device, Tensor, TensorData};
use burn_autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_flex::FlexTensor;
use duel_kernels::{BlockGradient, BlockSaved, BlockShape, BlockWeights, Head};
use std::sync::Arc;

/// Whether fused operations can read this tensor.
pub fn applies<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && x.device() == Device::flex()
}

/// A block's input `[B, L, D]` and its parameters, named as in [`BlockWeights`].
#[derive(Debug, Clone, ExtensionType)]
pub struct BlockTensors<B: Backend> {
    pub x: FloatTensor<B>,
    pub norm1_gain: FloatTensor<B>,
    pub norm1_bias: FloatTensor<B>,
    pub qkv: FloatTensor<B>,
    pub qkv_bias: FloatTensor<B>,
    pub out: FloatTensor<B>,
    pub out_bias: FloatTensor<B>,
    pub norm2_gain: FloatTensor<B>,
    pub norm2_bias: FloatTensor<B>,
    pub up: FloatTensor<B>,
    pub up_bias: FloatTensor<B>,
    pub down: FloatTensor<B>,
    pub down_bias: FloatTensor<B>,
}

/// A block's sizes, and the padding before each sequence.
#[derive(Debug, Clone)]
pub struct BlockPlan {
    pub shape: BlockShape,
    pub left: Option<Arc<Vec<usize>>>,
}

/// Which log-probs are asked for.
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
    /// Log-probs `[N]` of the plan's targets after states `[N, D]`.
    fn chosen_logp(states: FloatTensor<Self>, weight: FloatTensor<Self>, plan: LogpPlan) -> FloatTensor<Self>;
}

/// [`Fused::block`] on tensors.
pub fn block(tensors: BlockTensors<Dispatch>, plan: BlockPlan) -> Tensor<3> {
    Tensor::from_dispatch(<Dispatch as Fused>::block(tensors, plan))
}

/// [`Fused::chosen_logp`] on tensors.
pub fn chosen_logp(states: Tensor<2>, weight: Tensor<2>, plan: LogpPlan) -> Tensor<1> {
    Tensor::from_dispatch(<Dispatch as Fused>::chosen_logp(states.into_dispatch(), weight.into_dispatch(), plan))
}

fn numbers(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("contiguous f32, as `applies` and `contiguous` saw to")
}

fn tensor(values: Vec<f32>, like: &FlexTensor) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, like.shape()))
}

impl BlockTensors<Flex> {
    fn contiguous(self) -> Self {
        Self {
            x: self.x.to_contiguous(),
            norm1_gain: self.norm1_gain.to_contiguous(),
            norm1_bias: self.norm1_bias.to_contiguous(),
            qkv: self.qkv.to_contiguous(),
            qkv_bias: self.qkv_bias.to_contiguous(),
            out: self.out.to_contiguous(),
            out_bias: self.out_bias.to_contiguous(),
            norm2_gain: self.norm2_gain.to_contiguous(),
            norm2_bias: self.norm2_bias.to_contiguous(),
            up: self.up.to_contiguous(),
            up_bias: self.up_bias.to_contiguous(),
            down: self.down.to_contiguous(),
            down_bias: self.down_bias.to_contiguous(),
        }
    }

    fn weights(&self) -> BlockWeights<'_> {
        BlockWeights {
            norm1_gain: numbers(&self.norm1_gain),
            norm1_bias: numbers(&self.norm1_bias),
            qkv: numbers(&self.qkv),
            qkv_bias: numbers(&self.qkv_bias),
            out: numbers(&self.out),
            out_bias: numbers(&self.out_bias),
            norm2_gain: numbers(&self.norm2_gain),
            norm2_bias: numbers(&self.norm2_bias),
            up: numbers(&self.up),
            up_bias: numbers(&self.up_bias),
            down: numbers(&self.down),
            down_bias: numbers(&self.down_bias),
        }
    }

    fn forward(&self, plan: &BlockPlan) -> (FlexTensor, BlockSaved) {
        let left = plan.left.as_ref().map(|left| left.as_slice());
        let (y, saved) = duel_kernels::block_forward(plan.shape, self.weights(), numbers(&self.x), left);
        (tensor(y, &self.x), saved)
    }

    /// Gradients in the order of the fields.
    fn backward(&self, plan: &BlockPlan, saved: &BlockSaved, dy: &FlexTensor) -> [FlexTensor; 13] {
        let left = plan.left.as_ref().map(|left| left.as_slice());
        let (x, dy) = (numbers(&self.x), numbers(dy));
        let (dx, g) = duel_kernels::block_backward(plan.shape, self.weights(), x, saved, left, dy);
        let BlockGradient {
            norm1_gain,
            norm1_bias,
            qkv,
            qkv_bias,
            out,
            out_bias,
            norm2_gain,
            norm2_bias,
            up,
            up_bias,
            down,
            down_bias,
        } = g;
        [
            tensor(dx, &self.x),
            tensor(norm1_gain, &self.norm1_gain),
            tensor(norm1_bias, &self.norm1_bias),
            tensor(qkv, &self.qkv),
            tensor(qkv_bias, &self.qkv_bias),
            tensor(out, &self.out),
            tensor(out_bias, &self.out_bias),
            tensor(norm2_gain, &self.norm2_gain),
            tensor(norm2_bias, &self.norm2_bias),
            tensor(up, &self.up),
            tensor(up_bias, &self.up_bias),
            tensor(down, &self.down),
            tensor(down_bias, &self.down_bias),
        ]
    }
}

impl LogpPlan {
    fn head<'a>(&'a self, weight: &'a FlexTensor) -> Head<'a> {
        let hidden = self.hidden.as_ref().map(|hidden| hidden.as_slice());
        Head { weight: numbers(weight), vocabulary: self.vocabulary, tied: self.tied, hidden }
    }
}

impl Fused for Flex {
    fn block(tensors: BlockTensors<Self>, plan: BlockPlan) -> FloatTensor<Self> {
        tensors.contiguous().forward(&plan).0
    }

    fn chosen_logp(states: FloatTensor<Self>, weight: FloatTensor<Self>, plan: LogpPlan) -> FloatTensor<Self> {
        let (states, weight) = (states.to_contiguous(), weight.to_contiguous());
        let logp = duel_kernels::logp_forward(plan.head(&weight), numbers(&states), &plan.targets).logp;
        FlexTensor::from_data(TensorData::new(logp, [plan.targets.len()]))
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn block(tensors: BlockTensors<Self>, plan: BlockPlan) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Back;
        impl Backward<Flex, 13> for Back {
            type State = (BlockTensors<Flex>, BlockPlan, BlockSaved);

            fn backward(self, ops: Ops<Self::State, 13>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let dy = gradients.consume::<Flex>(&ops.node).to_contiguous();
                let (tensors, plan, saved) = ops.state;
                let found = tensors.backward(&plan, &saved, &dy);
                for (node, gradient) in ops.parents.into_iter().zip(found) {
                    if let Some(node) = node {
                        gradients.register::<Flex>(node.id, gradient);
                    }
                }
            }
        }
        let t = &tensors;
        let parts = [
            &t.x,
            &t.norm1_gain,
            &t.norm1_bias,
            &t.qkv,
            &t.qkv_bias,
            &t.out,
            &t.out_bias,
            &t.norm2_gain,
            &t.norm2_bias,
            &t.up,
            &t.up_bias,
            &t.down,
            &t.down_bias,
        ];
        let nodes = parts.map(|part| part.node());
        let [x, a, b, c, d, e, f, g, h, i, j, k, l] = parts.map(|part| part.primitive().clone());
        let plain = BlockTensors::<Flex> {
            x,
            norm1_gain: a,
            norm1_bias: b,
            qkv: c,
            qkv_bias: d,
            out: e,
            out_bias: f,
            norm2_gain: g,
            norm2_bias: h,
            up: i,
            up_bias: j,
            down: k,
            down_bias: l,
        }
        .contiguous();
        let (y, saved) = plain.forward(&plan);
        match Back.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((plain, plan, saved), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn chosen_logp(states: FloatTensor<Self>, weight: FloatTensor<Self>, plan: LogpPlan) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Back;
        impl Backward<Flex, 2> for Back {
            type State = (FlexTensor, FlexTensor, LogpPlan, Vec<f32>);

            fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
                let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
                let (states, weight, plan, log_z) = ops.state;
                let [for_states, for_weight] = ops.parents;
                let (head, targets) = (plan.head(&weight), &plan.targets);
                let (states_numbers, asked) = (numbers(&states), for_weight.is_some());
                let found =
                    duel_kernels::logp_backward(head, states_numbers, targets, &log_z, numbers(&gradient), asked);
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
        let found = duel_kernels::logp_forward(plan.head(&weight), numbers(&states), &plan.targets);
        let logp = FlexTensor::from_data(TensorData::new(found.logp, [plan.targets.len()]));
        match Back.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((states, weight, plan, found.log_z), logp),
            OpsKind::UnTracked(prep) => prep.finish(logp),
        }
    }
}
