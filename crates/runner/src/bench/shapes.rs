//! The sizes that `duel bench` times: models, batches, and their data.

use crate::sysinfo;
use crate::world::frozen_numbers;
use burn::tensor::Device;
use clap::ValueEnum;
use duel_data::World;
use duel_data::grammar::GrammarWorld;
use duel_data::pairs::PreferenceRow;
use duel_model::{Activation, Architecture, Gpt2, Llama, Policy, Qwen2, Responses, TransformerConfig};
use duel_spec::{GrammarSettings, LearnerSettings, ModelNumbers, ModelShape, Split, TokenSpec, seeds};
use duel_training::PairBatch;
use rand::RngExt;

/// Sizes to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum BenchShape {
    /// 4 layers, width 128, vocabulary 4,096, 32 sequences of 16 + 48 tokens; every core
    S,
    /// 6 layers, width 384, vocabulary 8,192, 8 sequences of 32 + 96 tokens; every core
    M,
    /// A Llama of 135 M parameters (30 layers, width 576, vocabulary 49,152) under LoRA of rank 16, 8 pairs of 32 + 32
    /// tokens; every core
    #[value(name = "135M")]
    Llama,
    /// A Qwen2 of 494 M parameters (24 layers, width 896, 14 heads on 2 of keys and values, vocabulary 151,936) under
    /// LoRA of rank 16, 4 pairs of 64 + 64 tokens, 16 sequences in a PPO iteration; every core
    #[value(name = "qwen0.5B")]
    Qwen2,
    /// The default model of the world `grammar`, 64 sequences of 4 + 6 tokens; one thread
    #[value(name = "grammar")]
    Grammar,
}

/// Sizes of a model and of a batch.
#[derive(Debug, Clone)]
pub struct Shape {
    pub name: &'static str,
    pub config: TransformerConfig,
    pub space: TokenSpec,
    /// Sequences of an SFT step and of what is generated; pairs of the others.
    pub batch: usize,
    /// Responses of a PPO iteration.
    pub episodes: usize,
    pub threads: usize,
    /// Of the frozen matrices of a large model.
    pub numbers: ModelNumbers,
}

impl Shape {
    pub fn of(shape: BenchShape) -> Self {
        match shape {
            BenchShape::S => Self::gpt2("S", 4, [128, 4, 4096], [16, 48], 32),
            BenchShape::M => Self::gpt2("M", 6, [384, 6, 8192], [32, 96], 8),
            BenchShape::Llama => {
                let (head_width, inner, rope_theta, epsilon) = (64, 1536, 10_000.0, 1e-5);
                let architecture = Llama { key_value_heads: 3, head_width, inner, rope_theta, epsilon }.architecture();
                Self::adapted("135M", 30, [576, 9, 49_152], [32, 32], 8, architecture)
            }
            BenchShape::Qwen2 => {
                let (head_width, inner, rope_theta, epsilon) = (64, 4864, 1e6, 1e-6);
                let llama = Llama { key_value_heads: 2, head_width, inner, rope_theta, epsilon };
                let shape = Self::adapted("qwen0.5B", 24, [896, 14, 151_936], [64, 64], 4, Qwen2(llama).architecture());
                Self { episodes: 16, ..shape }
            }
            BenchShape::Grammar => {
                let world = GrammarWorld::new(GrammarSettings::defaults().rho, 1);
                let ModelShape { layers, width, heads, tied, .. } = ModelShape::defaults();
                let space = world.space().clone();
                let config = TransformerConfig::small(space.vocabulary, space.context(), layers, width, heads, tied);
                Self { name: "grammar", config, space, batch: 64, episodes: 64, threads: 1, numbers: ModelNumbers::F32 }
            }
        }
    }

    /// A GPT-2 of so many layers, of width, heads and vocabulary, for prompts and responses of so many tokens.
    fn gpt2(
        name: &'static str,
        layers: usize,
        [width, heads, vocabulary]: [usize; 3],
        tokens: [usize; 2],
        batch: usize,
    ) -> Self {
        let gpt2 = Gpt2 { activation: Activation::GeluTanh, inner: 4 * width, epsilon: 1e-5 };
        Self::of_architecture(
            name,
            layers,
            [width, heads, vocabulary],
            full_length(vocabulary, tokens, 1),
            batch,
            gpt2.architecture(),
        )
    }

    /// A model of which adapters alone are trained; its first three tokens are special.
    fn adapted(
        name: &'static str,
        layers: usize,
        sizes: [usize; 3],
        tokens: [usize; 2],
        batch: usize,
        architecture: Architecture,
    ) -> Self {
        Self::of_architecture(name, layers, sizes, full_length(sizes[2], tokens, 3), batch, architecture)
    }

    fn of_architecture(
        name: &'static str,
        layers: usize,
        [width, heads, vocabulary]: [usize; 3],
        space: TokenSpec,
        batch: usize,
        architecture: Architecture,
    ) -> Self {
        let context = space.context();
        let config = TransformerConfig { vocabulary, context, layers, width, heads, tied: true, architecture };
        Self { name, config, space, batch, episodes: batch, threads: sysinfo::cores(), numbers: ModelNumbers::F32 }
    }

    /// The same model on so many sequences or pairs, on prompts and responses of so many tokens.
    pub fn resized(mut self, batch: Option<usize>, tokens: Option<[usize; 2]>) -> Self {
        self.batch = batch.unwrap_or(self.batch);
        if let Some([prompt_tokens, response_tokens]) = tokens {
            self.space = TokenSpec { prompt_tokens, response_tokens, ..self.space };
            self.config.context = self.space.context();
        }
        self
    }

    /// Sequences that are generated at a time; for the large model as many as a step on pairs reads.
    pub fn rollout(&self) -> usize {
        if self.is_large() { 2 * self.batch } else { self.batch }
    }

    /// Whether adapters alone are trained, on one frozen copy.
    pub fn is_large(&self) -> bool {
        ["135M", "qwen0.5B"].contains(&self.name)
    }

    /// FLOPs of a forward pass over this many tokens, of which `read_out` go through the head.
    pub(super) fn forward(&self, tokens: usize, read_out: usize) -> f64 {
        let TransformerConfig { layers, width, vocabulary, .. } = self.config;
        let matrices = (layers * self.config.block_matrices()) as f64;
        let attention = (2 * layers * self.space.context() * width) as f64;
        tokens as f64 * (2.0 * matrices + attention) + (2 * vocabulary * width * read_out) as f64
    }

    pub(super) fn policy(&self, device: &Device) -> Policy {
        let mut rng = seeds::derive(0, "bench", 0, "init");
        let policy = match frozen_numbers(self.numbers) {
            Some(numbers) => Policy::new_rounded(&self.config, &mut rng, numbers, device),
            None => Policy::new(&self.config, &mut rng, device),
        };
        policy.with_logits_memory(LearnerSettings::defaults().logits_bytes())
    }

    /// Responses of full length to random prompts.
    pub(super) fn responses(&self, rows: usize) -> Responses {
        let mut rng = seeds::derive(0, "bench", rows as u64, "tokens");
        let TokenSpec { prompt_tokens, response_tokens, allowed_tokens: actions, force_eos: ends, eos, .. } =
            &self.space;
        let tokens = actions.clone().unwrap_or_default();
        let tokens: Vec<u32> = tokens.into_iter().filter(|id| id != eos).collect();
        let mut sample = |n: usize| -> Vec<u32> { (0..n).map(|_| tokens[rng.random_range(0..tokens.len())]).collect() };
        let prompts = (0..rows).map(|_| sample(*prompt_tokens)).collect();
        let responses = (0..rows)
            .map(|_| {
                let mut response = sample(*response_tokens);
                if *ends {
                    response[response_tokens - 1] = *eos;
                }
                response
            })
            .collect();
        Responses { prompts, responses, logp: vec![], masks: vec![] }
    }

    pub(super) fn rows(&self) -> Vec<PreferenceRow> {
        let responses = self.responses(2 * self.batch);
        let n = self.batch;
        (0..n)
            .map(|i| PreferenceRow {
                p_label: 0.5,
                ..PreferenceRow::new(
                    Split::Train,
                    responses.prompts[i].clone(),
                    responses.responses[i].clone(),
                    responses.responses[n + i].clone(),
                )
            })
            .collect()
    }

    /// A batch of pairs.
    pub(super) fn pairs(&self) -> PairBatch {
        PairBatch::new(&self.rows(), &(0..self.batch).collect::<Vec<_>>())
    }
}

/// Sequences of full length: EOS is outside the vocabulary, and no token below `first` is allowed.
fn full_length(vocabulary: usize, [prompt_tokens, response_tokens]: [usize; 2], first: u32) -> TokenSpec {
    TokenSpec {
        vocabulary,
        pad: 0,
        bos: 1,
        eos: vocabulary as u32,
        other_eos: vec![],
        prompt_tokens,
        response_tokens,
        allowed_tokens: Some((first..vocabulary as u32).collect()),
        force_eos: false,
    }
}
