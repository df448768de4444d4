//! A decoder-only transformer in the GPT-2 manner: learned positions, pre-norm blocks, squared ReLU.
//! Radford et al. 2019; Xiong et al. 2020 (pre-norm); So et al. 2021 (squared ReLU: as good as GELU here at
//! a third less time a step).
//!
//! Letters: `B` rows, `L` tokens, `D` width, `H` heads, `E` = D/H, `V` vocabulary.

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};
use duel_spec::seeds::Rng;
use rand::RngExt;
use serde::{Deserialize, Serialize};

/// Sizes of a transformer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformerConfig {
    pub vocabulary: usize,
    /// Most tokens of a sequence.
    pub context: usize,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    /// Whether a policy's head shares the token embedding.
    pub tied: bool,
}

#[derive(Module, Debug)]
struct Block {
    norm_attention: LayerNorm,
    qkv: Linear,
    out: Linear,
    norm_mlp: LayerNorm,
    up: Linear,
    down: Linear,
    heads: usize,
}

/// Keys and values of every block for the tokens read so far, each `[B, H, L, E]`.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    layers: Vec<(Tensor<4>, Tensor<4>)>,
    /// Tokens read.
    tokens: usize,
}

impl Cache {
    /// The cache of some rows, in the given order; a row may be taken more than once.
    pub fn select(&self, rows: Tensor<1, Int>) -> Self {
        let pick = |x: &Tensor<4>| x.clone().select(0, rows.clone());
        Self { layers: self.layers.iter().map(|(k, v)| (pick(k), pick(v))).collect(), tokens: self.tokens }
    }
}

impl Block {
    fn new(config: &TransformerConfig, rng: &mut Rng, device: &Device) -> Self {
        let d = config.width;
        let std = 0.5 / (d as f64).sqrt();
        let residual = std / (2.0 * config.layers as f64).sqrt(); // GPT-2: residual projections start smaller
        Self {
            norm_attention: LayerNormConfig::new(d).init(device),
            qkv: linear(d, 3 * d, std, rng, device),
            out: linear(d, d, residual, rng, device),
            norm_mlp: LayerNormConfig::new(d).init(device),
            up: linear(d, 4 * d, std, rng, device),
            down: linear(4 * d, d, residual, rng, device),
            heads: config.heads,
        }
    }

    /// `x`: `[B, L, D]`; `hidden`: `[L, past + L]`, true = may not look; `past` grows by `L` tokens.
    fn forward(
        &self,
        x: Tensor<3>,
        hidden: Option<&Tensor<2, Bool>>,
        past: Option<&mut (Tensor<4>, Tensor<4>)>,
    ) -> Tensor<3> {
        let [b, l, d] = x.dims();
        let (h, e) = (self.heads, d / self.heads);
        let qkv = self.qkv.forward(self.norm_attention.forward(x.clone())).reshape([b, l, 3, h, e]);
        let part = |i: usize| qkv.clone().narrow(2, i, 1).reshape([b, l, h, e]).swap_dims(1, 2); // [B, H, L, E]
        let (q, mut k, mut v) = (part(0), part(1), part(2));
        if let Some(past) = past {
            if past.0.dims()[2] > 0 {
                k = Tensor::cat(vec![past.0.clone(), k], 2);
                v = Tensor::cat(vec![past.1.clone(), v], 2);
            }
            *past = (k.clone(), v.clone());
        }
        let mut scores = q.matmul(k.swap_dims(2, 3)) / (e as f64).sqrt(); // [B, H, L, past + L]
        if let Some(hidden) = hidden {
            let [_, keys] = hidden.dims();
            scores = scores.mask_fill(hidden.clone().unsqueeze::<4>().expand([b, h, l, keys]), -1e9);
        }
        let mixed = activation::softmax(scores, 3).matmul(v); // [B, H, L, E]
        let x = x + self.out.forward(mixed.swap_dims(1, 2).reshape([b, l, d]));
        let inner = activation::relu(self.up.forward(self.norm_mlp.forward(x.clone()))).square();
        x + self.down.forward(inner) // [B, L, D]
    }
}

/// Ids to hidden states.
#[derive(Module, Debug)]
struct Body {
    tokens: Embedding,
    positions: Param<Tensor<2>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

impl Body {
    fn new(config: &TransformerConfig, rng: &mut Rng, device: &Device) -> Self {
        let mut tokens = EmbeddingConfig::new(config.vocabulary, config.width).init(device);
        let std = 1.0 / (config.width as f64).sqrt();
        tokens.weight = normal([config.vocabulary, config.width], std, rng, device);
        Self {
            tokens,
            positions: normal([config.context, config.width], std, rng, device),
            blocks: (0..config.layers).map(|_| Block::new(config, rng, device)).collect(),
            norm: LayerNormConfig::new(config.width).init(device),
        }
    }

    /// Hidden states `[B, L, D]` of `ids` `[B, L]`, which follow the tokens of `cache` where one is given.
    fn forward(&self, ids: Tensor<2, Int>, mut cache: Option<&mut Cache>) -> Tensor<3> {
        let [b, l] = ids.dims();
        let device = ids.device();
        let start = cache.as_ref().map_or(0, |c| c.tokens);
        let positions = self.positions.val().narrow(0, start, l).unsqueeze::<3>(); // [1, L, D]
        let mut x = self.tokens.forward(ids) + positions;
        let hidden = (l > 1).then(|| Tensor::<2, Bool>::tril_mask([l, start + l], start as i64, &device));
        for (i, block) in self.blocks.iter().enumerate() {
            let past = cache.as_deref_mut().map(|cache| {
                if cache.layers.len() <= i {
                    let empty = || Tensor::empty([b, block.heads, 0, 1], &device);
                    cache.layers.push((empty(), empty()));
                }
                &mut cache.layers[i]
            });
            x = block.forward(x, hidden.as_ref(), past);
        }
        if let Some(cache) = cache {
            cache.tokens += l;
        }
        self.norm.forward(x)
    }
}

/// A language model.
#[derive(Module, Debug)]
pub struct Policy {
    body: Body,
    /// `None` where the head shares the token embedding.
    head: Option<Linear>,
}

impl Policy {
    /// A fresh model; every weight is drawn from `rng`.
    pub fn new(config: &TransformerConfig, rng: &mut Rng, device: &Device) -> Self {
        let body = Body::new(config, rng, device);
        let head = (!config.tied).then(|| {
            let weight = normal([config.width, config.vocabulary], 0.02, rng, device);
            let mut head = LinearConfig::new(config.width, config.vocabulary).with_bias(false).init(device);
            head.weight = weight;
            head
        });
        Self { body, head }
    }

    /// Logits after each token from position `from` on.
    ///
    /// # Shapes
    /// `ids`: `[B, L]`; returns `[B, L − from, V]`. Only those positions reach the head.
    pub fn logits(&self, ids: Tensor<2, Int>, from: usize) -> Tensor<3> {
        let [_, l] = ids.dims();
        let hidden = self.body.forward(ids, None).narrow(1, from, l - from);
        self.read_out(hidden)
    }

    /// Logits after the last of the new tokens, which follow those of `cache`.
    ///
    /// # Shapes
    /// `ids`: `[B, L]`; returns `[B, V]`. Without gradient in mind.
    pub fn next_logits(&self, ids: Tensor<2, Int>, cache: &mut Cache) -> Tensor<2> {
        let [_, l] = ids.dims();
        let hidden = self.body.forward(ids, Some(cache)).narrow(1, l - 1, 1);
        self.read_out(hidden).squeeze_dim::<2>(1)
    }

    fn read_out(&self, hidden: Tensor<3>) -> Tensor<3> {
        match &self.head {
            Some(head) => head.forward(hidden),
            None => {
                let [b, l, d] = hidden.dims();
                let embedding = self.body.tokens.weight.val(); // [V, D]
                let [v, _] = embedding.dims();
                hidden.reshape([b * l, d]).matmul(embedding.transpose()).reshape([b, l, v])
            }
        }
    }
}

/// A model of one number a token: reward model and value model.
#[derive(Module, Debug)]
pub struct Scalar {
    body: Body,
    head: Linear,
}

impl Scalar {
    /// The policy's body under a head that starts at zero.
    pub fn from_policy(policy: Policy, device: &Device) -> Self {
        let width = policy.body.positions.dims()[1];
        let mut head = LinearConfig::new(width, 1).init(device);
        head.weight = Param::from_tensor(Tensor::zeros([width, 1], device));
        head.bias = Some(Param::from_tensor(Tensor::zeros([1], device)));
        Self { body: policy.body, head }
    }

    /// The same model giving `(x − centre) / scale` where it gave x.
    pub fn rescaled(mut self, centre: f64, scale: f64) -> Self {
        self.head.weight = self.head.weight.map(|w| w / scale);
        self.head.bias = self.head.bias.map(|b| b.map(|b| (b - centre) / scale));
        self
    }

    /// One number after each token of `ids`.
    ///
    /// # Shapes
    /// `ids`: `[B, L]`; returns `[B, L]`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        self.head.forward(self.body.forward(ids, None)).squeeze_dim::<2>(2)
    }
}

fn linear(inputs: usize, outputs: usize, std: f64, rng: &mut Rng, device: &Device) -> Linear {
    let mut linear = LinearConfig::new(inputs, outputs).init(device);
    linear.weight = normal([inputs, outputs], std, rng, device);
    linear.bias = Some(Param::from_tensor(Tensor::zeros([outputs], device)));
    linear
}

/// Normal draws of mean 0 from the host's generator (Box–Muller).
fn normal(shape: [usize; 2], std: f64, rng: &mut Rng, device: &Device) -> Param<Tensor<2>> {
    let values: Vec<f32> = (0..shape[0] * shape[1])
        .map(|_| {
            let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
            (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos() * std) as f32
        })
        .collect();
    Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Reader, Responses, generate, weights};
    use burn::module::Module;
    use duel_spec::{Space, seeds};

    fn config(tied: bool) -> TransformerConfig {
        TransformerConfig { vocabulary: 11, context: 10, layers: 2, width: 16, heads: 2, tied }
    }

    fn space() -> Space {
        Space {
            vocabulary: 11,
            pad: 0,
            bos: 1,
            eos: 2,
            prompt_tokens: 4,
            response_tokens: 6,
            actions: None,
            ends: false,
        }
    }

    fn policy(tied: bool) -> Policy {
        Policy::new(&config(tied), &mut seeds::derive(7, "test", 0, "init"), &Device::flex())
    }

    fn ids(rows: &[&[i32]]) -> Tensor<2, Int> {
        let shape = [rows.len(), rows[0].len()];
        Tensor::from_data(TensorData::new(rows.concat(), shape), &Device::flex())
    }

    fn apart(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn a_token_changes_nothing_before_it() {
        for tied in [true, false] {
            let policy = policy(tied);
            let logits = weights::host(policy.logits(ids(&[&[1, 5, 6, 7, 8], &[1, 5, 6, 9, 10]]), 0)); // [2, 5, V]
            let (a, b) = logits.split_at(5 * 11);
            assert_eq!(apart(&a[..3 * 11], &b[..3 * 11]), 0.0);
            assert!(apart(&a[3 * 11..4 * 11], &b[3 * 11..4 * 11]) > 1e-4);
        }
    }

    #[test]
    fn the_cache_gives_what_reading_anew_gives() {
        let policy = policy(true);
        let whole = weights::host(policy.logits(ids(&[&[1, 5, 6, 7, 8], &[1, 3, 3, 9, 4]]), 0)); // [2, 5, V]
        let mut cache = Cache::default();
        let mut found = vec![weights::host(policy.next_logits(ids(&[&[1, 5, 6], &[1, 3, 3]]), &mut cache))];
        found.push(weights::host(policy.next_logits(ids(&[&[7], &[9]]), &mut cache)));
        // the second row alone goes on
        let mut cache = cache.select(Tensor::from_data([1], &Device::flex()));
        found.push(weights::host(policy.next_logits(ids(&[&[4]]), &mut cache)));
        let at = |row: usize, token: usize| &whole[(row * 5 + token) * 11..(row * 5 + token + 1) * 11];
        assert!(apart(&found[0], &[at(0, 2), at(1, 2)].concat()) < 1e-5);
        assert!(apart(&found[1], &[at(0, 3), at(1, 3)].concat()) < 1e-5);
        assert!(apart(&found[2], at(1, 4)) < 1e-5);
    }

    #[test]
    fn sampling_keeps_the_models_log_probs_and_does_not_depend_on_the_company() {
        let (policy, space) = (policy(true), space());
        let prompts: Vec<Vec<u32>> = (3..9).map(|t| vec![1, t, t + 1, 4]).collect();
        let draw = |prompts: Vec<Vec<u32>>| {
            generate(&policy, &space, prompts, &mut seeds::derive(1, "test", 0, "draw"), &Device::flex())
        };
        let batch = draw(prompts.clone());
        let reader = Reader::new(&space, &Device::flex());
        let logits = reader.logits(&policy, reader.ids(&batch)); // [B, T, V]
        let logp = weights::host(activation::log_softmax(logits, 2));
        for (row, response) in batch.responses.iter().enumerate() {
            for (column, &token) in response.iter().enumerate() {
                let read = logp[(row * space.response_tokens + column) * 11 + token as usize];
                assert!((read - batch.logp[row][column]).abs() < 1e-5);
            }
        }
        assert_eq!(draw(prompts[..2].to_vec()).responses, batch.responses[..2].to_vec());
    }

    #[test]
    fn hidden_tokens_are_never_written_and_the_last_column_ends() {
        let policy = policy(true);
        let space = Space { actions: Some(vec![2, 5, 6]), ends: true, ..space() };
        let prompts = vec![vec![1, 7, 8, 9]; 64];
        let batch = generate(&policy, &space, prompts, &mut seeds::derive(2, "test", 0, "draw"), &Device::flex());
        for (row, response) in batch.responses.iter().enumerate() {
            assert!(response.iter().all(|t| [2, 5, 6].contains(t)) && batch.ended(row, &space));
        }
        let reader = Reader::new(&space, &Device::flex());
        let logits = weights::host(reader.logits(&policy, reader.ids(&batch)));
        let last = (space.response_tokens - 1) * 11;
        assert!(logits[last + 5] < -1e29 && logits[last + 2] > -1e3);
    }

    #[test]
    fn weights_go_to_disk_and_back_and_foreign_ones_are_refused() {
        let folder = std::env::temp_dir().join(format!("duel-model-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a writable folder");
        let path = folder.join("policy.safetensors");
        let policy = policy(false);
        weights::save(&policy, &path).expect("a writable folder");
        let other = Policy::new(&config(false), &mut seeds::derive(8, "test", 0, "init"), &Device::flex());
        assert_ne!(weights::hash(&other), weights::hash(&policy));
        assert_eq!(weights::hash(&weights::load(other, &path).expect("a writable folder")), weights::hash(&policy));
        let wide = Policy::new(
            &TransformerConfig { width: 32, ..config(false) },
            &mut seeds::derive(8, "test", 0, "init"),
            &Device::flex(),
        );
        assert!(matches!(weights::load(wide, &path), Err(crate::Error::Shape { .. })));
        std::fs::write(&path, b"not weights").expect("a writable folder");
        assert!(matches!(weights::load(policy, &path), Err(crate::Error::Damaged { .. })));
        std::fs::remove_dir_all(folder).expect("a writable folder");
    }

    #[test]
    fn values_and_scores_stand_on_the_same_columns() {
        let space = space();
        let critic = Scalar::from_policy(policy(true), &Device::flex());
        // a head that is not zero, so that the numbers say something
        let flat: Vec<f32> =
            weights::flatten(&critic).iter().enumerate().map(|(i, w)| w + (i % 7) as f32 * 0.01).collect();
        let critic = weights::unflatten(critic, &flat);
        let reader = Reader::new(&space, &Device::flex());
        let batch =
            Responses { prompts: vec![vec![1, 5, 6, 7]; 2], responses: vec![vec![8, 9, 2], vec![8, 2]], logp: vec![] };
        let all = weights::host(critic.forward(reader.ids(&batch))); // [2, 10]
        let values = weights::host(reader.values(&critic, reader.ids(&batch))); // [2, 6]
        let scores = weights::host(reader.scores(&critic, &batch)); // [2]
        assert_eq!(&values[..3], &all[3..6]); // before tokens 8, 9, EOS
        assert_eq!(scores, vec![all[6], all[10 + 5]]); // on each EOS
        let rescaled = critic.rescaled(1.5, 2.0);
        let again = weights::host(reader.scores(&rescaled.valid(), &batch));
        assert!(apart(&again, &[(scores[0] - 1.5) / 2.0, (scores[1] - 1.5) / 2.0]) < 1e-5);
    }
}
