//! The cases of `duel bench`: each step of training, through the code that trains.

use super::shapes::{BenchShape, Shape};
use crate::error::Result;
use burn::module::Module;
use burn::tensor::Device;
use duel_data::grammar::GrammarWorld;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_evaluation::{ExactEvaluator, WorldTables};
use duel_model::{Policy, ResponseReader, ScalarModel, generate};
use duel_ppo::{ActorCritic, Critic, Ppo, RolloutContext};
use duel_reward::{LearnedReward, RewardModel, RewardNetwork};
use duel_spec::{DpoSettings, EnsembleScore, GrammarSettings, LearnerSettings, PpoSettings, RmStage, TokenSpec, seeds};
use duel_training::sft::Sft;
use duel_training::{Learner, Method, logprobs};
use std::hint::black_box;
use std::sync::Arc;

/// A step to time.
pub struct Case {
    /// Tokens and FLOPs of a run; FLOPs of the required arithmetic, so that recomputation is not counted.
    pub tokens: usize,
    pub flops: Option<f64>,
    pub run: Box<dyn FnMut() -> Result<()>>,
}

/// Every case, by name.
pub const CASES: [&str; 10] =
    ["sft", "reward", "dpo_cached", "dpo_live", "dpo_lora", "generate", "generate_mixed", "logp", "ppo", "evaluation"];
/// The shape of a pretrained model, of which only adapters are trained.
pub const PRETRAINED: &str = "pretrained";
/// Rank of the adapters.
pub const LORA_RANK: usize = 16;
/// Learning rate, and updates of the schedule: its end is far, so that the rate never reaches 0.
const SCHEDULE: (f64, u64) = (1e-4, 1 << 20);

/// Prepares a case of a shape; `None` where the shape has no such case. A training step is forward, backward,
/// clipping and AdamW.
pub fn case(shape: &Shape, name: &str) -> Result<Option<Case>> {
    let exists = match (shape.name, name) {
        (PRETRAINED, _) => matches!(name, "dpo_lora" | "generate" | "logp"),
        _ if shape.is_large() => matches!(name, "dpo_lora" | "generate" | "generate_mixed" | "logp" | "ppo"),
        (_, "dpo_lora" | "generate_mixed") => false,
        (_, "evaluation") => shape.name == "grammar" && shape.space == Shape::of(BenchShape::Grammar).space,
        _ => true,
    };
    if !exists {
        return Ok(None);
    }
    let cases = CaseBuilder::new(shape);
    Ok(Some(match name {
        "sft" => cases.sft(),
        "reward" => cases.reward(),
        "dpo_cached" => cases.dpo(false),
        "dpo_live" => cases.dpo(true),
        "dpo_lora" => cases.dpo_lora(),
        "generate" => cases.generate(),
        "generate_mixed" => cases.generate_mixed(),
        "logp" => cases.logp(),
        "ppo" => cases.ppo(),
        "evaluation" => cases.evaluation()?,
        _ => return Ok(None),
    }))
}

/// What the cases of a shape are made of.
struct CaseBuilder<'s> {
    shape: &'s Shape,
    device: Device,
    train_device: Device,
    reader: ResponseReader,
    train_reader: ResponseReader,
}

impl<'s> CaseBuilder<'s> {
    fn new(shape: &'s Shape) -> Self {
        let (device, train_device) = (Device::flex(), Device::flex().autodiff());
        let (reader, train_reader) =
            (ResponseReader::new(&shape.space, &device), ResponseReader::new(&shape.space, &train_device));
        Self { shape, device, train_device, reader, train_reader }
    }

    fn policy(&self) -> Policy {
        self.shape.policy(&self.train_device)
    }

    /// A policy with new adapters.
    fn adapted(&self, base: Policy, seed: u64) -> Policy {
        let mut rng = seeds::derive(0, "bench", seed, "lora");
        base.with_fresh_lora(LORA_RANK, 2.0, |_| true, &mut rng, &self.train_device)
    }

    fn learner<M: Module>(&self, module: M) -> Learner<M> {
        let (rate, updates) = SCHEDULE;
        Learner::new(module, &LearnerSettings::defaults(), rate, updates)
    }

    /// Tokens of a step on pairs, and those of their responses.
    fn pair_tokens(&self) -> [usize; 2] {
        let Shape { batch, space, .. } = self.shape;
        [2 * batch * space.context(), 2 * batch * space.response_tokens]
    }

    fn sft(self) -> Case {
        let Shape { batch, space, config, .. } = self.shape;
        let (tokens, responses) = (batch * space.context(), self.shape.responses(*batch));
        let mut learner = self.learner(self.policy());
        let flops = 3.0 * self.shape.forward(tokens, batch * space.response_tokens);
        let mut method = Sft::new(self.train_reader, config);
        let run = move || Ok(method.iteration(&responses, &mut learner).map(drop)?);
        Case { tokens, flops: Some(flops), run: Box::new(run) }
    }

    fn reward(self) -> Case {
        let [tokens, _] = self.pair_tokens();
        let (pairs, flops) = (self.shape.pairs(), 3.0 * self.shape.forward(tokens, 0));
        let mut learner = self.learner(ScalarModel::from_policy(self.policy(), &self.train_device));
        let mut method = RewardModel::new(RmStage::defaults(), self.train_reader, &self.shape.config);
        let run = move || Ok(method.iteration(&pairs, &mut learner).map(drop)?);
        Case { tokens, flops: Some(flops), run: Box::new(run) }
    }

    /// DPO with the reference's log-probs from a cache, or read in each step (`is_live`).
    fn dpo(self, is_live: bool) -> Case {
        let [tokens, response_tokens] = self.pair_tokens();
        let (pairs, reference) = (self.shape.pairs(), self.policy().valid());
        let cached = ReferenceLogp::compute(&self.reader, &reference, &self.shape.rows());
        let mut learner = self.learner(self.policy());
        let passes = if is_live { 4.0 } else { 3.0 };
        let flops = passes * self.shape.forward(tokens, response_tokens);
        let mut method = Dpo::new(DpoSettings::defaults(), self.train_reader, cached, &self.shape.config);
        let reader = self.reader;
        let run = move || {
            if is_live {
                black_box(logprobs::sequence_logp(&reader, &reference, &pairs.both));
            }
            Ok(method.iteration(&pairs, &mut learner).map(drop)?)
        };
        Case { tokens, flops: Some(flops), run: Box::new(run) }
    }

    fn dpo_lora(self) -> Case {
        let [tokens, response_tokens] = self.pair_tokens();
        let (base, pairs) = (self.policy(), self.shape.pairs());
        let cached = ReferenceLogp::compute(&self.reader, &base.valid(), &self.shape.rows());
        let mut learner = self.learner(self.adapted(base, 0));
        // the frozen matrices have no gradient: forward, and backward to the input only
        let flops = 2.0 * self.shape.forward(tokens, response_tokens);
        let mut method = Dpo::new(DpoSettings::defaults(), self.train_reader, cached, &self.shape.config);
        let run = move || Ok(method.iteration(&pairs, &mut learner).map(drop)?);
        Case { tokens, flops: Some(flops), run: Box::new(run) }
    }

    fn generate(self) -> Case {
        let batch = self.shape.rollout();
        let (prompts, policy) = (self.shape.responses(batch).prompts, self.policy().valid());
        let (space, device) = (self.shape.space.clone(), self.device);
        let tokens = batch * space.response_tokens;
        let mut round = 0;
        let run = move || {
            round += 1;
            let mut rng = seeds::derive(round, "bench", 0, "generate");
            black_box(generate(&policy, &space, prompts.clone(), &mut rng, &device));
            Ok(())
        };
        Case { tokens, flops: None, run: Box::new(run) }
    }

    /// Prompts of a quarter of their length to all of it, and responses that end at each token with the same chance, on average
    /// after a quarter of the length; eight times as many rows as in `generate`.
    fn generate_mixed(self) -> Case {
        let Shape { space, .. } = self.shape;
        let (rows, quarter) = (8 * self.shape.rollout(), (space.response_tokens / 4).max(1));
        let ends = (0..space.vocabulary as u32).filter(|id| (*id as usize).is_multiple_of(quarter)).collect();
        let space = TokenSpec { other_eos: ends, ..space.clone() };
        let mut prompts = self.shape.responses(rows).prompts;
        for (row, prompt) in prompts.iter_mut().enumerate() {
            prompt.truncate(prompt.len() * (1 + row % 4) / 4);
        }
        let (policy, device) = (self.policy().valid(), self.device);
        let write = move |round| {
            let mut rng = seeds::derive(round, "bench", 0, "generate");
            generate(&policy, &space, prompts.clone(), &mut rng, &device)
        };
        let tokens = write(0).responses.iter().map(Vec::len).sum();
        let run = move || {
            black_box(write(0)); // the same lengths each time
            Ok(())
        };
        Case { tokens, flops: None, run: Box::new(run) }
    }

    fn logp(self) -> Case {
        let Shape { batch, space, .. } = self.shape;
        let (responses, policy) = (self.shape.responses(*batch), self.policy().valid());
        let tokens = batch * space.context();
        let flops = self.shape.forward(tokens, batch * space.response_tokens);
        let reader = self.reader;
        let run = move || {
            black_box(logprobs::sequence_logp(&reader, &policy, &responses));
            Ok(())
        };
        Case { tokens, flops: Some(flops), run: Box::new(run) }
    }

    /// An iteration of PPO; of a large model all networks are adapters on one frozen copy.
    fn ppo(self) -> Case {
        let (shape, is_large) = (self.shape, self.shape.is_large());
        let base = if is_large { self.policy().no_grad() } else { self.policy() };
        let network = |seed: u64| if is_large { self.adapted(base.clone(), seed) } else { self.policy() };
        let scalar = |seed: u64| ScalarModel::from_policy(network(seed), &self.train_device);
        let networks = vec![(RewardNetwork::Network(scalar(2).valid()), 0.0)];
        let module = ActorCritic { actor: network(0), critic: Critic::Separate(scalar(1)) };
        let context = RolloutContext {
            reference: Some(base.valid()),
            scorer: Arc::new(LearnedReward::new(networks, EnsembleScore::Mean, self.reader.clone(), 0.0, 1.0)),
            reader: self.reader.clone(),
            train_reader: self.train_reader.clone(),
            config: shape.config.clone(),
            scorer_flops: 1.0,
            seed: 0,
        };
        // every minibatch is trained on, as in the peers' loop
        let mut settings = PpoSettings::defaults();
        (settings.shared.target_kl, settings.shared.episodes) = (f64::INFINITY, shape.episodes);
        let (prompts, mut method) = (shape.responses(shape.episodes).prompts, Ppo::new(settings, context));
        let mut learner = Learner::new(module, &LearnerSettings::defaults(), 1e-5, SCHEDULE.1);
        let tokens = shape.episodes * shape.space.response_tokens;
        let run = move || Ok(method.iteration(&prompts, &mut learner).map(drop)?);
        Case { tokens, flops: None, run: Box::new(run) }
    }

    /// A point of a learning curve: a policy far from its reference, with a learned reward.
    fn evaluation(self) -> Result<Case> {
        let (world, reference) = (GrammarWorld::new(GrammarSettings::defaults().rho, 1), self.policy().valid());
        let proxy = |split| WorldTables::grammar(&world, split).proxy;
        let evaluator = ExactEvaluator::new(&world, self.reader, &reference, Some(&proxy));
        let policy = Policy::new(&self.shape.config, &mut seeds::derive(0, "bench", 1, "init"), &self.device);
        let run = move || {
            black_box(evaluator.measure(&policy, Some(0.5))?);
            Ok(())
        };
        Ok(Case { tokens: 0, flops: None, run: Box::new(run) })
    }
}
