//! The language model.

use crate::Result;
use crate::architecture::LogitSpec;
use crate::config::TransformerConfig;
use crate::counter::count;
use crate::frozen_weight::{FrozenWeight, rounded_tensor};
use crate::fused::{self, LogpPlan};
use crate::host_tensor::host;
use crate::init::{Init, normal};
use crate::projection::{Lora, Projection};
use crate::tensor_view::TensorView;
use crate::tokens::Tokens;
use crate::transformer::backbone::Backbone;
use crate::transformer::block::TransformerBlock;
use crate::transformer::fused_block::gain_and_bias;
use crate::transformer::kv_cache::KvCache;
use crate::transformer::positions::{LearnedPositions, Positions};
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_kernels::{Decoder, DecoderHead, DecoderParts, FrozenMatrix, FrozenNumbers, LinearMatrix, NormWeights};
use duel_spec::seeds::Rng;
use std::sync::Arc;

/// A language model.
#[derive(Module, Debug)]
pub struct Policy {
    pub(super) body: Backbone,
    /// `None` where the head shares the token embedding.
    pub(super) head: Option<Linear>,
    /// The head's matrix `[D, V]` where it is rounded; `head` then holds none.
    #[module(skip)]
    frozen_head: Option<Arc<FrozenMatrix>>,
    #[module(skip)]
    logit_spec: LogitSpec,
    /// Bytes of logits that log-probs keep for their backward pass at most.
    logits_memory: usize,
}

impl Policy {
    /// A fresh model; every weight is drawn from `rng`.
    ///
    /// # Panics
    /// If the architecture has a choice that is not computed: see [`crate::Architecture::check`].
    pub fn new(config: &TransformerConfig, rng: &mut Rng, device: &Device) -> Self {
        Self::starting(config, &mut Init::Random(rng), None, device)
    }

    /// [`Policy::rounded`] of the same model, each matrix rounded as soon as it is drawn.
    ///
    /// # Panics
    /// As [`Policy::new`].
    pub fn new_rounded(config: &TransformerConfig, rng: &mut Rng, numbers: FrozenNumbers, device: &Device) -> Self {
        Self::starting(config, &mut Init::Random(rng), Some(numbers), device)
    }

    /// The shape of a model, whose weights are to be replaced.
    ///
    /// # Panics
    /// As [`Policy::new`].
    pub fn zeros(config: &TransformerConfig, device: &Device) -> Self {
        Self::starting(config, &mut Init::Zeros, None, device)
    }

    fn starting(
        config: &TransformerConfig,
        rng: &mut Init<'_>,
        numbers: Option<FrozenNumbers>,
        device: &Device,
    ) -> Self {
        if let Err(error) = config.architecture.check() {
            panic!("{error}");
        }
        let body = Backbone::new(config, rng, numbers, device);
        let head = (!config.tied).then(|| {
            let weight = normal([config.width, config.vocabulary], 0.02, rng, device);
            let mut head = LinearConfig::new(config.width, config.vocabulary).with_bias(false).init(device);
            head.weight = weight;
            if config.architecture.biases.head {
                head.bias = Some(Param::from_tensor(Tensor::zeros([config.vocabulary], device)));
            }
            head
        });
        let policy =
            Self { body, head, frozen_head: None, logit_spec: config.architecture.logits.clone(), logits_memory: 0 };
        match numbers {
            Some(numbers) => policy.rounded(numbers),
            None => policy,
        }
    }

    /// Logits after each token from column `from` on.
    ///
    /// # Shapes
    /// `tokens`: `[B, L]`; returns `[B, L − from, V]`. Only those columns reach the head.
    pub fn logits(&self, tokens: impl Into<Tokens>, from: usize) -> Tensor<3> {
        self.unembed(self.hidden_states(tokens, from))
    }

    /// Hidden states after each token from column `from` on: what the head reads.
    ///
    /// # Shapes
    /// `tokens`: `[B, L]`; returns `[B, L − from, D]`.
    pub fn hidden_states(&self, tokens: impl Into<Tokens>, from: usize) -> Tensor<3> {
        let tokens = tokens.into();
        let [_, l] = tokens.ids.dims();
        self.body.forward(tokens, None).narrow(1, from, l - from)
    }

    /// Log-probs `[B, T]` of `targets` `[B, T]`, the tokens after `states` `[B, T, D]`, as one operation; `None` where that
    /// cannot be computed. `hidden` tokens `[T, V]` cannot be sampled. The states are computed only where it can.
    pub fn token_logprobs(
        &self,
        states: impl FnOnce() -> Tensor<3>,
        targets: Tensor<2, Int>,
        hidden: Option<Arc<Vec<bool>>>,
    ) -> Option<Tensor<2>> {
        let (weight, tied) = match &self.head {
            Some(head) if head.bias.is_some() => return None,
            Some(head) => (head.weight.val(), false),
            None => (self.body.tokens.weight.val(), true),
        };
        let frozen = self.frozen_matrix().cloned();
        if !fused::is_supported(&weight) {
            return None;
        }
        let [vocabulary, _] = self.body.tokens.dims();
        let mut states = states(); // [B, T, D]
        if self.logit_spec.multiplier != 1.0 {
            states = states * self.logit_spec.multiplier;
        }
        let [b, t, width] = states.dims();
        count(|counted| counted.heads += (2 * width * vocabulary * b * t) as f64);
        let targets = Arc::new(targets.into_data().iter::<i32>().collect());
        let soft_cap = self.logit_spec.soft_cap.map(|cap| cap as f32);
        let logits_memory = self.logits_memory;
        let plan = LogpPlan { targets, vocabulary, tied, frozen, soft_cap, hidden, logits_memory };
        Some(fused::chosen_logp(states.reshape([b * t, width]), weight, plan).reshape([b, t]))
    }

    /// Logits after the last of the new tokens, which follow those of `cache`.
    ///
    /// # Shapes
    /// `tokens`: `[B, L]`; returns `[B, V]`. Without gradient in mind.
    pub fn next_logits(&self, tokens: impl Into<Tokens>, cache: &mut KvCache) -> Tensor<2> {
        let tokens = tokens.into();
        let [_, l] = tokens.ids.dims();
        let hidden = self.body.forward(tokens, Some(cache)).narrow(1, l - 1, 1);
        self.unembed(hidden).squeeze_dim::<2>(1)
    }

    /// The model with its weights packed for decoding and its adapters merged, on a device that has such an operation.
    pub fn decoder(&self) -> Option<Decoder> {
        let Backbone { tokens, positions, blocks, norm, epsilon, embedding_multiplier, .. } = &self.body;
        if !fused::is_supported(&tokens.weight.val()) {
            return None;
        }
        let (first, context) = (blocks.first()?, self.body.context());
        let numbers = self.body.matrices() + tokens.dims().iter().product::<usize>();
        duel_kernels::pool_make_room(numbers); // training leaves buffers
        let positions = match positions {
            Positions::Learned(LearnedPositions { weight, offset }) => host(weight.val().narrow(0, *offset, context)),
            Positions::Rotary(_) => vec![],
        };
        let (gain, bias) = gain_and_bias(norm);
        let (gain, bias) = (host(gain), bias.map(host).unwrap_or_default());
        let head = match &self.head {
            Some(head) => Some(TensorView::new(head.weight.val())?), // [D, V]
            None => None,
        };
        let matrix = match (&self.frozen_head, &head) {
            (Some(matrix), _) => Some(LinearMatrix::Frozen(matrix)),
            (None, head) => head.as_ref().map(|head| head.values().into()),
        };
        let head_bias = self.head.as_ref().and_then(|head| head.bias.as_ref()).map(|bias| host(bias.val()));
        let embedding = TensorView::new(tokens.weight.val())?; // [V, D]
        let mut decoder = Decoder::new(DecoderParts {
            width: tokens.dims()[1],
            heads: first.attention.heads,
            key_value_heads: first.attention.key_value_heads,
            head_width: first.attention.head_width,
            inner: first.mlp.inner(),
            epsilon: *epsilon as f32,
            tokens: match tokens.frozen() {
                Some(matrix) => LinearMatrix::Frozen(matrix),
                None => LinearMatrix::F32 { values: embedding.values(), turned: true },
            },
            embedding_multiplier: *embedding_multiplier as f32,
            positions,
            norm: NormWeights { gain: &gain, bias: &bias },
            head: DecoderHead {
                matrix,
                bias: head_bias.as_deref().unwrap_or_default(),
                multiplier: self.logit_spec.multiplier as f32,
                soft_cap: self.logit_spec.soft_cap.map(|cap| cap as f32),
            },
        });
        for (block, positions) in blocks.iter().zip(self.body.layer_positions(context)) {
            block.pack(&mut decoder, &positions)?;
        }
        duel_kernels::pool_make_room(numbers); // and so does packing
        Some(decoder)
    }

    /// Logits `[B, T, V]` after hidden states `[B, T, D]`.
    pub fn unembed(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.count_heads(hidden.dims()[0] * hidden.dims()[1]);
        let mut logits = match (&self.head, self.frozen_matrix()) {
            (head, Some(matrix)) => {
                let logits = match fused::is_supported(&hidden) {
                    true => fused::frozen_product(hidden, matrix.clone()),
                    false => hidden.clone().matmul(as_tensor(matrix, &hidden.device()).unsqueeze()),
                };
                match head.as_ref().and_then(|head| head.bias.as_ref()) {
                    Some(bias) => logits + bias.val().unsqueeze(),
                    None => logits,
                }
            }
            (Some(head), None) => head.forward(hidden),
            (None, None) => {
                let [b, l, d] = hidden.dims();
                let embedding = self.body.tokens.weight.val(); // [V, D]
                let [v, _] = embedding.dims();
                hidden.reshape([b * l, d]).matmul(embedding.transpose()).reshape([b, l, v])
            }
        };
        let LogitSpec { multiplier, soft_cap } = self.logit_spec;
        if multiplier != 1.0 {
            logits = logits * multiplier;
        }
        match soft_cap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// Counts the head's reading of so many states.
    fn count_heads(&self, states: usize) {
        let [v, d] = self.body.tokens.dims();
        count(|counted| counted.heads += (2 * d * v * states) as f64);
    }

    /// Counts what a decoder reads elsewhere: columns through the blocks, and states through the head.
    pub(crate) fn count_decoded(&self, columns: usize, states: usize) {
        count(|counted| counted.blocks += (2 * self.body.matrices() * columns) as f64);
        self.count_heads(states);
    }

    /// The model with each projection of its blocks replaced, by name (`blocks.0.attention.q`, `blocks.0.mlp.up`).
    pub fn map_projections(mut self, f: impl FnMut(String, Projection) -> Projection) -> Self {
        self.body = self.body.map_projections(f);
        self
    }

    /// The model frozen, with a fresh adapter of the given rank and `scale` (α/r) on each projection of its blocks whose
    /// name `adapts` is true of: all that is trained. An adapter starts as no change. Hu et al. 2021, as PEFT starts it.
    pub fn with_fresh_lora(
        self,
        rank: usize,
        scale: f64,
        adapts: impl Fn(&str) -> bool,
        rng: &mut Rng,
        device: &Device,
    ) -> Self {
        self.no_grad().map_projections(|name, projection| {
            if !adapts(&name) {
                return projection;
            }
            let [inputs, outputs] = projection.dims();
            let spread = 1.0 / (3.0 * inputs as f64).sqrt();
            let a = normal([inputs, rank], spread, &mut Init::Random(rng), device);
            let b = Param::from_tensor(Tensor::zeros([rank, outputs], device));
            projection.with_lora(Lora { a, b, scale })
        })
    }

    /// The model whose fused blocks make again on the way back what lies within them: less memory, a forward pass more.
    /// Blocks of composed operations keep what they made.
    pub fn with_recomputed_blocks(mut self) -> Self {
        self.body.recompute = true;
        self
    }

    /// The model whose fused log-probs keep so many bytes of logits at most for the backward pass, which makes the others again.
    pub fn with_logits_memory(mut self, bytes: usize) -> Self {
        self.logits_memory = bytes;
        self
    }

    /// Whether an adapter is on.
    pub fn has_lora(&self) -> bool {
        self.body.projections().any(|map| map.lora.is_some())
    }

    /// A hash of all weights, those that are no tensors too.
    pub fn hash(&self) -> String {
        self.body.hash_of(self, self.frozen_head.as_ref())
    }

    /// The model as it is read fastest: adapters stay on, so that the frozen weights are not copied; those of GPT-2's block are
    /// merged, since its own operation has none, unless its matrices are no tensors.
    pub fn for_inference(self) -> Self {
        let Backbone { positions, blocks, .. } = &self.body;
        let is_gpt2 = matches!(positions, Positions::Learned(_)) && blocks.iter().all(TransformerBlock::is_gpt2);
        if is_gpt2 && self.body.projections().all(|map| map.frozen().is_none()) { self.merged() } else { self }
    }

    /// The model with its adapters merged into its matrices, all of which are tensors.
    pub fn merged(mut self) -> Self {
        self.body = self.body.merged();
        if let (Some(head), Some(matrix)) = (&mut self.head, self.frozen_head.take()) {
            head.weight = Param::from_tensor(as_tensor(&matrix, &head.weight.device()));
        }
        self
    }

    /// The model with its matrices, its embedding and its head rounded, no longer to be trained. Products with them round
    /// the other side to bf16 too.
    pub fn rounded(mut self, numbers: FrozenNumbers) -> Self {
        self.body = self.body.rounded(numbers);
        if let Some(head) = self.head.as_ref().filter(|_| self.frozen_head.is_none()) {
            let matrix = rounded_tensor(head.weight.val(), false, numbers);
            self = self.with_frozen_head(matrix);
        }
        self
    }

    /// [`Policy::rounded`] of the model with its adapters merged, of which each matrix is rounded as soon as it is merged.
    pub fn merged_and_rounded(self, numbers: FrozenNumbers) -> Self {
        let merge = |projection: Projection| match projection.lora {
            Some(_) => projection.merge_lora().rounded(numbers),
            None => projection,
        };
        self.map_projections(|_, projection| merge(projection)).rounded(numbers)
    }

    fn with_frozen_head(mut self, matrix: Arc<FrozenMatrix>) -> Self {
        if let Some(head) = &mut self.head {
            head.weight = Param::from_tensor(Tensor::zeros([1, 1], &head.weight.device()));
            self.frozen_head = Some(matrix);
        }
        self
    }

    /// The model with those matrices that `matrix` gives by their names (`tokens`, `head`, `blocks.0.attention.q`), no longer to be
    /// trained. The embedding and the head are in memory.
    pub(crate) fn with_frozen(mut self, mut matrix: impl FnMut(&str) -> Result<Option<FrozenWeight>>) -> Result<Self> {
        if let Some(FrozenWeight::Memory(matrix)) = matrix("tokens")? {
            self.body.tokens = self.body.tokens.with_frozen(matrix);
        }
        if let Some(FrozenWeight::Memory(matrix)) = matrix("head")? {
            self = self.with_frozen_head(matrix);
        }
        let mut problem = None;
        let policy = self.map_projections(|name, projection| match problem.is_some() {
            true => projection,
            false => match matrix(&name) {
                Ok(Some(frozen)) => projection.with_frozen(frozen),
                Ok(None) => projection,
                Err(error) => {
                    problem = Some(error);
                    projection
                }
            },
        });
        problem.map_or(Ok(policy), Err)
    }

    /// What the head reads with, `[D, V]`, where it is rounded.
    fn frozen_matrix(&self) -> Option<&Arc<FrozenMatrix>> {
        if self.head.is_some() { self.frozen_head.as_ref() } else { self.body.tokens.frozen() }
    }
}

/// A rounded matrix as a tensor `[in, out]`.
fn as_tensor(matrix: &FrozenMatrix, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(matrix.values(), [matrix.inputs(), matrix.outputs()]), device)
}
