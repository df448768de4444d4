//! The cases of `duel bench`: each step of training, through the code that trains.

use crate::error::Result;
use crate::sysinfo;
use burn::module::Module;
use burn::tensor::Device;
use clap::ValueEnum;
use duel_data::World;
use duel_data::grammar::GrammarWorld;
use duel_data::pairs::PreferenceRow;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_evaluation::ExactEvaluator;
use duel_model::{Activation, Gpt2, Llama, Policy, Reader, Responses, ScalarModel, TransformerConfig, generate};
use duel_ppo::{ActorCritic, Critic, Ppo, RolloutContext};
use duel_reward::{LearnedReward, RewardModel, RewardNetwork};
use duel_spec::{EnsembleScore, GrammarSettings, LearnerSettings, ModelShape, RmStage, Split, TokenSpec, seeds};
use duel_training::sft::Sft;
use duel_training::{Learner, Method, PairBatch, logprobs};
use rand::RngExt;
use std::sync::Arc;

/// Sizes to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum BenchShape {
    /// 4 layers, width 128, vocabulary 4,096, 32 sequences of 16 + 48 tokens; every core
    S,
    /// 6 layers, width 384, vocabulary 8,192, 8 sequences of 32 + 96 tokens; every core
    M,
    /// A Llama of 135 M parameters (30 layers, width 576, vocabulary 49,152) under LoRA of rank 16, 8 pairs of 32 + 96
    /// tokens; every core
    #[value(name = "135M")]
    Llama,
    /// A Qwen2 of 494 M parameters (24 layers, width 896, 14 heads on 2 of keys and values, vocabulary 151,936) under
    /// LoRA of rank 16, 4 pairs of 64 + 64 tokens; every core
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
    /// Sequences of an SFT step and of a rollout; pairs of the others.
    pub batch: usize,
    pub threads: usize,
}

impl Shape {
    pub fn of(shape: BenchShape) -> Self {
        let gpt2 = |name, layers, width: usize, heads, vocabulary: usize, prompt_tokens, response_tokens, batch| {
            let architecture =
                Gpt2 { activation: Activation::GeluTanh, inner: 4 * width, epsilon: 1e-5 }.architecture();
            let context = prompt_tokens + response_tokens;
            let config = TransformerConfig { vocabulary, context, layers, width, heads, tied: true, architecture };
            // sequences of full length: EOS is outside the vocabulary, and PAD is not allowed
            let actions = Some((1..vocabulary as u32).collect());
            let eos = vocabulary as u32;
            let space = TokenSpec {
                vocabulary,
                pad: 0,
                bos: 1,
                eos,
                other_eos: vec![],
                prompt_tokens,
                response_tokens,
                allowed_tokens: actions,
                force_eos: false,
            };
            Self { name, config, space, batch, threads: sysinfo::cores() }
        };
        let adapted = |name, vocabulary: usize, prompt_tokens, response_tokens, batch| {
            // sequences of full length, as above
            let (pad, bos, eos) = (0, 1, vocabulary as u32);
            let (allowed_tokens, force_eos) = (Some((3..vocabulary as u32).collect()), false);
            let space = TokenSpec {
                vocabulary,
                pad,
                bos,
                eos,
                other_eos: vec![],
                prompt_tokens,
                response_tokens,
                allowed_tokens,
                force_eos,
            };
            let context = space.context();
            move |layers, width, heads, architecture| {
                let config = TransformerConfig { vocabulary, context, layers, width, heads, tied: true, architecture };
                Self { name, config, space, batch, threads: sysinfo::cores() }
            }
        };
        match shape {
            BenchShape::S => gpt2("S", 4, 128, 4, 4096, 16, 48, 32),
            BenchShape::M => gpt2("M", 6, 384, 6, 8192, 32, 96, 8),
            BenchShape::Llama => {
                let (head_width, inner, rope_theta, epsilon) = (64, 1536, 10_000.0, 1e-5);
                let architecture = Llama { key_value_heads: 3, head_width, inner, rope_theta, epsilon }.architecture();
                adapted("135M", 49_152, 32, 32, 8)(30, 576, 9, architecture)
            }
            BenchShape::Qwen2 => {
                let (head_width, inner, rope_theta, epsilon) = (64, 4864, 1e6, 1e-6);
                let mut architecture =
                    Llama { key_value_heads: 2, head_width, inner, rope_theta, epsilon }.architecture();
                (architecture.family, architecture.biases.qkv) = ("qwen2", true);
                adapted("qwen0.5B", 151_936, 64, 64, 4)(24, 896, 14, architecture)
            }
            BenchShape::Grammar => {
                let world = GrammarWorld::new(GrammarSettings::defaults().rho, 1);
                let model = ModelShape::defaults();
                let space = world.space().clone();
                let config = TransformerConfig::small(
                    space.vocabulary,
                    space.context(),
                    model.layers,
                    model.width,
                    model.heads,
                    model.tied,
                );
                Self { name: "grammar", config, space, batch: 64, threads: 1 }
            }
        }
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
    fn forward(&self, tokens: usize, read_out: usize) -> f64 {
        let TransformerConfig { layers, width, vocabulary, .. } = self.config;
        let matrices = (layers * self.config.block_matrices()) as f64;
        let attention = (2 * layers * self.space.context() * width) as f64;
        tokens as f64 * (2.0 * matrices + attention) + (2 * vocabulary * width * read_out) as f64
    }

    fn policy(&self, device: &Device) -> Policy {
        Policy::new(&self.config, &mut seeds::derive(0, "bench", 0, "init"), device)
    }

    /// Responses of full length to random prompts.
    fn responses(&self, rows: usize) -> Responses {
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

    fn rows(&self) -> Vec<PreferenceRow> {
        let responses = self.responses(2 * self.batch);
        let n = self.batch;
        (0..n)
            .map(|i| PreferenceRow {
                split: Split::Train,
                prompt: responses.prompts[i].clone(),
                chosen: responses.responses[i].clone(),
                rejected: responses.responses[n + i].clone(),
                rejected_prompt: None,
                chosen_mask: None,
                rejected_mask: None,
                gold_chosen: 0.0,
                gold_rejected: 0.0,
                p_label: 0.5,
                tie: false,
            })
            .collect()
    }

    /// A batch of pairs.
    fn pairs(&self) -> PairBatch {
        PairBatch::new(&self.rows(), &(0..self.batch).collect::<Vec<_>>())
    }
}

/// A step to time.
pub struct Case<'a> {
    /// Tokens and FLOPs of a run; FLOPs of the required arithmetic, so that recomputation is not counted.
    pub tokens: usize,
    pub flops: Option<f64>,
    pub run: Box<dyn FnMut() -> Result<()> + 'a>,
}

/// Every case, by name.
pub const CASES: [&str; 9] =
    ["sft", "reward", "dpo_cached", "dpo_live", "dpo_lora", "generate", "logp", "ppo", "evaluation"];
/// The shape of a pretrained model, of which only adapters are trained.
pub const PRETRAINED: &str = "pretrained";
/// Rank of the adapters.
pub const LORA_RANK: usize = 16;

/// Prepares a case of a shape; `None` where the shape has no such case. A training step is forward, backward,
/// clipping and AdamW.
pub fn case<'a>(shape: &Shape, name: &str) -> Result<Option<Case<'a>>> {
    let (plain, train) = (Device::flex(), Device::flex().autodiff());
    let (reader, train_reader) = (Reader::new(&shape.space, &plain), Reader::new(&shape.space, &train));
    let settings = LearnerSettings::defaults();
    let config = &shape.config;
    let (batch, context, tokens) = (shape.batch, shape.space.context(), shape.space.response_tokens);
    let policy = || shape.policy(&train);
    let scalar = || ScalarModel::from_policy(policy(), &train);
    // far from the end of the schedule, so that the rate never reaches 0
    let (rate, updates) = (1e-4, 1 << 20);
    let exists = match (shape.name, name) {
        (PRETRAINED, _) => matches!(name, "dpo_lora" | "generate" | "logp"),
        _ if shape.is_large() => matches!(name, "dpo_lora" | "generate" | "logp" | "ppo"),
        (_, "dpo_lora") => false,
        (_, "evaluation") => shape.name == "grammar",
        _ => true,
    };
    if !exists {
        return Ok(None);
    }
    let case = match name {
        "dpo_lora" => {
            let base = policy();
            let cached = ReferenceLogp::compute(&reader, &base.valid(), &shape.rows());
            let adapted =
                base.with_fresh_lora(LORA_RANK, 2.0, |_| true, &mut seeds::derive(0, "bench", 0, "lora"), &train);
            let pairs = shape.pairs();
            let mut method = Dpo::new(duel_spec::DpoSettings::defaults(), train_reader, cached, config);
            let mut learner = Learner::new(adapted, &settings, rate, updates);
            Case {
                tokens: 2 * batch * context,
                // the frozen matrices have no gradient: forward, and backward to the input only
                flops: Some(2.0 * shape.forward(2 * batch * context, 2 * batch * tokens)),
                run: Box::new(move || Ok(method.iteration(&pairs, &mut learner).map(drop)?)),
            }
        }
        "sft" => {
            let texts = shape.responses(batch);
            let mut method = Sft::new(train_reader, config);
            let mut learner = Learner::new(policy(), &settings, rate, updates);
            Case {
                tokens: batch * context,
                flops: Some(3.0 * shape.forward(batch * context, batch * tokens)),
                run: Box::new(move || Ok(method.iteration(&texts, &mut learner).map(drop)?)),
            }
        }
        "reward" => {
            let pairs = shape.pairs();
            let mut method = RewardModel::new(RmStage::defaults(), train_reader, config);
            let mut learner = Learner::new(scalar(), &settings, rate, updates);
            Case {
                tokens: 2 * batch * context,
                flops: Some(3.0 * shape.forward(2 * batch * context, 0)),
                run: Box::new(move || Ok(method.iteration(&pairs, &mut learner).map(drop)?)),
            }
        }
        "dpo_cached" | "dpo_live" => {
            let live = name == "dpo_live";
            let (pairs, reference) = (shape.pairs(), policy().valid());
            let cached = ReferenceLogp::compute(&reader, &reference, &shape.rows());
            let mut method = Dpo::new(duel_spec::DpoSettings::defaults(), train_reader, cached, config);
            let mut learner = Learner::new(policy(), &settings, rate, updates);
            let passes = if live { 4.0 } else { 3.0 };
            Case {
                tokens: 2 * batch * context,
                flops: Some(passes * shape.forward(2 * batch * context, 2 * batch * tokens)),
                run: Box::new(move || {
                    if live {
                        std::hint::black_box(logprobs::sequence_logp(&reader, &reference, &pairs.both));
                    }
                    Ok(method.iteration(&pairs, &mut learner).map(drop)?)
                }),
            }
        }
        "generate" => {
            let batch = shape.rollout();
            let (prompts, space, sampler_policy) =
                (shape.responses(batch).prompts, shape.space.clone(), policy().valid());
            let mut round = 0;
            Case {
                tokens: batch * tokens,
                flops: None,
                run: Box::new(move || {
                    round += 1;
                    let mut rng = seeds::derive(round, "bench", 0, "generate");
                    std::hint::black_box(generate(&sampler_policy, &space, prompts.clone(), &mut rng, &plain));
                    Ok(())
                }),
            }
        }
        "logp" => {
            let (texts, model) = (shape.responses(batch), policy().valid());
            Case {
                tokens: batch * context,
                flops: Some(shape.forward(batch * context, batch * tokens)),
                run: Box::new(move || {
                    std::hint::black_box(logprobs::sequence_logp(&reader, &model, &texts));
                    Ok(())
                }),
            }
        }
        "ppo" => {
            let base = if shape.is_large() { policy().no_grad() } else { policy() };
            let network = |of: u64| match shape.is_large() {
                true => {
                    let mut rng = seeds::derive(0, "bench", of, "lora");
                    base.clone().with_fresh_lora(LORA_RANK, 2.0, |_| true, &mut rng, &train)
                }
                false => policy(),
            };
            let scalar = |of: u64| ScalarModel::from_policy(network(of), &train);
            let rollout_context = RolloutContext {
                reference: base.valid(),
                scorer: Arc::new(LearnedReward::new(
                    vec![(RewardNetwork::Network(scalar(2).valid()), 0.0)],
                    EnsembleScore::Mean,
                    reader.clone(),
                    0.0,
                    1.0,
                )),
                reader,
                train_reader,
                config: config.clone(),
                scorer_flops: 1.0,
                seed: 0,
            };
            // every minibatch is trained on, as in the peers' loop
            let mut ppo = duel_spec::PpoSettings::defaults();
            (ppo.shared.target_kl, ppo.shared.episodes) = (f64::INFINITY, batch);
            let (prompts, mut method) = (shape.responses(batch).prompts, Ppo::new(ppo, rollout_context));
            let module = ActorCritic { actor: network(0), critic: Critic::Separate(scalar(1)) };
            let mut learner = Learner::new(module, &settings, 1e-5, updates);
            Case {
                tokens: batch * tokens,
                flops: None,
                run: Box::new(move || Ok(method.iteration(&prompts, &mut learner).map(drop)?)),
            }
        }
        "evaluation" => {
            let (world, reference) = (GrammarWorld::new(GrammarSettings::defaults().rho, 1), policy().valid());
            let evaluator = ExactEvaluator::new(&world, reader, &reference, None)?;
            Case {
                tokens: 0,
                flops: None,
                run: Box::new(move || {
                    std::hint::black_box(evaluator.measure(&reference, Some(0.5))?);
                    Ok(())
                }),
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(case))
}
