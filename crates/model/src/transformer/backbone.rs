//! Ids to hidden states.

use crate::config::TransformerConfig;
use crate::counter::count;
use crate::frozen_weight::FrozenWeight;
use crate::fused;
use crate::host_tensor::host;
use crate::init::{Init, normal};
use crate::projection::Projection;
use crate::tensor_names::canonical_name;
use crate::tokens::Tokens;
use crate::transformer::attention::{AttentionContext, hidden_keys};
use crate::transformer::block::TransformerBlock;
use crate::transformer::fused_block::{FusedContext, LayerPositions, gain_and_bias};
use crate::transformer::kv_cache::KvCache;
use crate::transformer::norm::Norm;
use crate::transformer::positions::{LearnedPositions, Positions, Rotary, RotaryTable, at_positions};
use crate::transformer::token_embedding::TokenEmbedding;
use crate::weights::{self, ValueParts};
use burn::module::Module;
use burn::tensor::{Bool, Device, Tensor};
use duel_kernels::{FrozenMatrix, FrozenNumbers, RopeTables};
use std::collections::HashMap;
use std::sync::Arc;

/// Rows of a rounded matrix that are hashed at a time.
const HASHED_ROWS: usize = 128;

/// A model without its head.
#[derive(Module, Debug)]
pub struct Backbone {
    pub tokens: TokenEmbedding,
    pub positions: Positions,
    pub blocks: Vec<TransformerBlock>,
    pub norm: Norm,
    pub epsilon: f64,
    /// Factor of the token embedding.
    pub embedding_multiplier: f64,
    /// Tokens that each layer looks back, `None`: all.
    #[module(skip)]
    pub windows: Vec<Option<usize>>,
    /// Whether fused blocks keep nothing between their input and their output.
    pub recompute: bool,
}

impl Backbone {
    /// The body with each projection of its blocks replaced, by name (`blocks.0.attention.q`).
    pub fn map_projections(mut self, mut f: impl FnMut(String, Projection) -> Projection) -> Self {
        let blocks = self.blocks.into_iter().enumerate();
        let map = |(i, block): (usize, TransformerBlock)| {
            block.map_projections(|part, projection| f(format!("blocks.{i}.{part}"), projection))
        };
        self.blocks = blocks.map(map).collect();
        self
    }

    /// [`weights::hash`] of a module with this body and this rounded head, of the matrices that are no tensors too: it does not
    /// depend on where they are.
    pub fn hash_of<M: Module>(&self, module: &M, head: Option<&Arc<FrozenMatrix>>) -> String {
        let mut frozen = HashMap::new();
        let _ = self.clone().map_projections(|name, projection| {
            frozen.extend(projection.frozen().cloned().map(|matrix| (name, matrix)));
            projection
        });
        let part = |first: usize, length: usize| first..length.min(first + HASHED_ROWS);
        weights::hash_with(module, |ours| match canonical_name(ours).strip_suffix(".weight")? {
            "tokens" => {
                let matrix = self.tokens.frozen()?.clone(); // [D, V]
                let v = matrix.outputs();
                let parts = (0..v).step_by(HASHED_ROWS).map(move |first| matrix.columns(part(first, v)));
                Some((self.tokens.dims(), Box::new(parts) as ValueParts))
            }
            "head" => {
                let matrix = head?.clone();
                let (dims, d) = ([matrix.inputs(), matrix.outputs()], matrix.inputs());
                let parts = (0..d).step_by(HASHED_ROWS).map(move |first| matrix.rows(part(first, d)));
                Some((dims, Box::new(parts) as ValueParts))
            }
            stem => {
                let matrix: FrozenWeight = frozen.get(stem)?.clone();
                Some((matrix.dims(), Box::new(std::iter::once_with(move || matrix.values())) as ValueParts))
            }
        })
    }

    /// The body with its matrices and its embedding rounded, no longer to be trained.
    pub fn rounded(mut self, numbers: FrozenNumbers) -> Self {
        self.tokens = self.tokens.rounded(numbers);
        self.map_projections(|_, projection| projection.rounded(numbers))
    }

    /// The body with all its matrices as tensors, adapters merged.
    pub fn merged(mut self) -> Self {
        self.tokens = self.tokens.in_memory();
        self.map_projections(|_, projection| projection.merge_lora())
    }

    /// Matrices are rounded to `numbers` as soon as they are made.
    pub fn new(
        config: &TransformerConfig,
        rng: &mut Init<'_>,
        numbers: Option<FrozenNumbers>,
        device: &Device,
    ) -> Self {
        let std = 1.0 / (config.width as f64).sqrt();
        let tokens = TokenEmbedding::new(normal([config.vocabulary, config.width], std, rng, device));
        let tokens = match numbers {
            Some(numbers) => tokens.rounded(numbers),
            None => tokens,
        };
        let positions = Positions::new(config, std, rng, device);
        let block = |_| {
            let block = TransformerBlock::new(config, rng, device);
            match numbers {
                Some(numbers) => block.map_projections(|_, projection| projection.rounded(numbers)),
                None => block,
            }
        };
        let blocks = (0..config.layers).map(block).collect();
        Self {
            tokens,
            positions,
            blocks,
            norm: Norm::new(config.architecture.norm.kind, config.width, config.epsilon(), device),
            epsilon: config.epsilon(),
            embedding_multiplier: config.architecture.embedding_multiplier,
            windows: (0..config.layers).map(|layer| config.architecture.window(layer)).collect(),
            recompute: false,
        }
    }

    /// The projections of all blocks.
    pub fn projections(&self) -> impl Iterator<Item = &Projection> {
        self.blocks.iter().flat_map(|block| block.projections().into_iter().map(|(_, map)| map))
    }

    /// Parameters of the blocks' matrices.
    pub fn matrices(&self) -> usize {
        self.projections().map(|map| map.dims().iter().product::<usize>()).sum()
    }

    /// Hidden states `[B, L, D]` of tokens, which follow those of `cache` where one is given.
    pub fn forward(&self, tokens: Tokens, mut cache: Option<&mut KvCache>) -> Tensor<3> {
        let [b, l] = tokens.ids.dims();
        count(|counted| counted.blocks += (2 * self.matrices() * b * l) as f64);
        let device = tokens.ids.device();
        let start = cache.as_ref().map_or(0, |c| c.columns);
        let padding = cache.as_ref().and_then(|c| c.padding.clone()).or(tokens.left_padding);
        let mut x = self.tokens.forward(tokens.ids); // [B, L, D]
        if self.embedding_multiplier != 1.0 {
            x = x * self.embedding_multiplier;
        }
        if let Positions::Learned(LearnedPositions { weight, offset }) = &self.positions {
            let rows = weight.dims()[0] - offset;
            let table = if *offset == 0 { weight.val() } else { weight.val().narrow(0, *offset, rows) };
            x = x + at_positions(&table, start, l, padding.as_deref());
        }
        if cache.is_none() && fused::is_supported(&x) {
            let context = FusedContext { padding: padding.clone().map(Arc::new), recompute: self.recompute };
            let mut layers = self.blocks.iter().zip(self.layer_positions(l));
            let all = layers.try_fold(x.clone(), |x, (block, positions)| block.fused(&x, &context, &positions));
            if let Some(x) = all {
                if self.tokens.frozen().is_none() {
                    return self.norm.forward(x, self.epsilon);
                }
                // as a decoder norms: another last bit may be rounded to another number of bf16
                let (gain, bias) = gain_and_bias(&self.norm);
                let bias = bias.unwrap_or_else(|| fused::nothing(&device));
                return fused::norm(x, gain, bias, self.epsilon);
            }
        }
        let contexts = self.attention_contexts(b, start, l, padding.as_deref(), &device);
        for (i, block) in self.blocks.iter().enumerate() {
            let past = cache.as_deref_mut().map(|cache| {
                if cache.layers.len() <= i {
                    let empty = || Tensor::empty([b, 1, 0, 1], &device);
                    cache.layers.push((empty(), empty()));
                }
                &mut cache.layers[i]
            });
            x = block.forward(x, &contexts[i], past);
        }
        if let Some(cache) = cache {
            cache.columns += l;
            cache.padding = padding;
        }
        self.norm.forward(x, self.epsilon)
    }

    /// Windows and rotary tables of the first `columns` positions, layer by layer. Rows with padding before them may have more
    /// columns than the model has positions.
    pub fn layer_positions(&self, columns: usize) -> Vec<LayerPositions> {
        let tables: Vec<Arc<RopeTables>> = match &self.positions {
            Positions::Learned(_) => vec![],
            Positions::Rotary(Rotary { tables, .. }) => {
                let rows_of = |table: &Tensor<2>| host(table.clone().narrow(0, 0, columns.min(table.dims()[0])));
                let table = |table: &RotaryTable| RopeTables {
                    cos: rows_of(&table.cos),
                    sin: rows_of(&table.sin),
                    units: 2 * table.cos.dims()[1],
                };
                tables.iter().map(|rotary| Arc::new(table(rotary))).collect()
            }
        };
        let layer = |(layer, window): (usize, &Option<usize>)| {
            let table = match &self.positions {
                Positions::Learned(_) => None,
                Positions::Rotary(Rotary { layers, .. }) => layers[layer],
            };
            LayerPositions { window: *window, rope: table.map(|table| Arc::clone(&tables[table])) }
        };
        self.windows.iter().enumerate().map(layer).collect()
    }

    /// Positions that the model has.
    pub fn context(&self) -> usize {
        match &self.positions {
            Positions::Learned(LearnedPositions { weight, offset }) => weight.dims()[0] - offset,
            Positions::Rotary(Rotary { tables, .. }) => tables.first().map_or(0, |table| table.cos.dims()[0]),
        }
    }

    /// What attention must know of `l` columns after `start`, layer by layer.
    fn attention_contexts(
        &self,
        b: usize,
        start: usize,
        l: usize,
        padding: Option<&[usize]>,
        device: &Device,
    ) -> Vec<AttentionContext> {
        let rotations: Vec<(Tensor<4>, Tensor<4>)> = match &self.positions {
            Positions::Learned(_) => vec![],
            Positions::Rotary(Rotary { tables, .. }) => {
                let rows_of = |table: &Tensor<2>| at_positions(table, start, l, padding).unsqueeze_dim::<4>(1);
                tables.iter().map(|RotaryTable { cos, sin }| (rows_of(cos), rows_of(sin))).collect()
            }
        };
        let mut masks: HashMap<Option<usize>, Option<Tensor<4, Bool>>> = HashMap::new();
        let mut context = |layer: usize| {
            let window = self.windows[layer];
            let hidden = masks.entry(window).or_insert_with(|| hidden_keys(b, start, l, padding, window, device));
            let rotation = match &self.positions {
                Positions::Learned(_) => None,
                Positions::Rotary(Rotary { layers, .. }) => layers[layer].map(|table| rotations[table].clone()),
            };
            AttentionContext { hidden: hidden.clone(), rotation }
        };
        (0..self.blocks.len()).map(&mut context).collect()
    }
}
