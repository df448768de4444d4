//! Ids to hidden states.

use crate::config::TransformerConfig;
use crate::counter::count;
use crate::fused;
use crate::host_tensor::host;
use crate::init::{Init, normal};
use crate::mmap_matrix::MmapMatrix;
use crate::projection::Projection;
use crate::tensor_names::canonical_name;
use crate::tokens::Tokens;
use crate::transformer::attention::{AttentionContext, hidden_keys};
use crate::transformer::block::TransformerBlock;
use crate::transformer::fused_block::FusedContext;
use crate::transformer::kv_cache::KvCache;
use crate::transformer::norm::Norm;
use crate::transformer::positions::{Positions, Rotary, at_positions};
use crate::weights;
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Device, Tensor};
use std::collections::HashMap;
use std::sync::Arc;

/// A model without its head.
#[derive(Module, Debug)]
pub struct Backbone {
    pub tokens: Embedding,
    pub positions: Positions,
    pub blocks: Vec<TransformerBlock>,
    pub norm: Norm,
    pub epsilon: f64,
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

    /// [`weights::hash`] of a module with this body, of the matrices that stay in their file too: it does not depend on where
    /// they are.
    pub fn hash_of<M: Module>(&self, module: &M) -> String {
        let mut mapped = HashMap::new();
        let _ = self.clone().map_projections(|name, projection| {
            mapped.extend(projection.mapped().cloned().map(|matrix| (name, matrix)));
            projection
        });
        weights::hash_with(module, |ours| {
            let matrix: &Arc<MmapMatrix> = mapped.get(canonical_name(ours).strip_suffix(".weight")?)?;
            Some((matrix.dims(), matrix.values()))
        })
    }

    pub fn new(config: &TransformerConfig, rng: &mut Init<'_>, device: &Device) -> Self {
        let mut tokens = EmbeddingConfig::new(config.vocabulary, config.width).init(device);
        let std = 1.0 / (config.width as f64).sqrt();
        tokens.weight = normal([config.vocabulary, config.width], std, rng, device);
        let positions = Positions::new(config, std, rng, device);
        Self {
            tokens,
            positions,
            blocks: (0..config.layers).map(|_| TransformerBlock::new(config, rng, device)).collect(),
            norm: Norm::new(config, device),
            epsilon: config.epsilon(),
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
        let mut rotation = None;
        match &self.positions {
            Positions::Learned(table) => x = x + at_positions(&table.weight.val(), start, l, padding.as_deref()),
            Positions::Rotary(table) => {
                let rows_of = |t: &Tensor<2>| at_positions(t, start, l, padding.as_deref()).unsqueeze_dim::<4>(1);
                rotation = Some((rows_of(&table.cos), rows_of(&table.sin)));
            }
        }
        if cache.is_none() && fused::is_supported(&x) {
            let tables = match &self.positions {
                Positions::Learned(_) => None,
                Positions::Rotary(Rotary { cos, sin }) => Some([cos, sin].map(|table| Arc::new(host(table.clone())))),
            };
            let context = FusedContext { padding: padding.clone().map(Arc::new), recompute: self.recompute, tables };
            let all = self.blocks.iter().try_fold(x.clone(), |x, block| block.fused(&x, &context));
            if let Some(x) = all {
                return self.norm.forward(x, self.epsilon);
            }
        }
        let context = AttentionContext { hidden: hidden_keys(b, start, l, padding.as_deref(), &device), rotation };
        for (i, block) in self.blocks.iter().enumerate() {
            let past = cache.as_deref_mut().map(|cache| {
                if cache.layers.len() <= i {
                    let empty = || Tensor::empty([b, 1, 0, 1], &device);
                    cache.layers.push((empty(), empty()));
                }
                &mut cache.layers[i]
            });
            x = block.forward(x, &context, past);
        }
        if let Some(cache) = cache {
            cache.columns += l;
            cache.padding = padding;
        }
        self.norm.forward(x, self.epsilon)
    }
}
