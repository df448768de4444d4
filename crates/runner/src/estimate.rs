//! The cost of a plan before it is run: FLOPs by one rule (docs/verdicts.md, FLOPs), memory by what must be held, time by how long
//! each step takes on this machine (`step_time.rs`).

use crate::error::Result;
use crate::iteration_estimate::{IterationEstimate, ModelSizes, reads, sampled_per_episode, update_reads};
use crate::plan::{Plan, Stage, StageKind};
use crate::sources;
use crate::step_time::{RolloutWork, StepKind, StepTimes};
use crate::world;
use duel_data::grammar::RESPONSES;
use duel_evaluation::HELD_OUT_PAIRS;
use duel_model::{Flops, Pretrained, TransformerConfig};
use duel_reward::{ModelPairJudge, PretrainedReward};
use duel_spec::{
    CriticBody, DpoSettings, Experiment, JudgeKind, MethodSettings, ModelNumbers, PairInput, PairwiseSettings,
    RewardSource, RmModel, RolloutSettings, TokenSpec, WorldKind,
};
use serde::Serialize;
use std::path::Path;

/// Responses of the world `grammar` to one prompt, and prompts of its two judged splits.
const ENUMERATED: f64 = RESPONSES as f64;
const GRAMMAR_PROMPTS: f64 = 12.0;
/// Ends of responses in an exact evaluation.
pub const EVALUATED_TOKENS: f64 = GRAMMAR_PROMPTS * ENUMERATED;
/// Seconds that a worker takes to start, read its inputs and write its tables (scripts/dev/check-plan).
const OVERHEAD: f64 = 0.03;
/// Exact evaluations that cost as much as the exact optima at 25 values of beta, twice, and 12 sizes of best-of-N.
const THEORY: f64 = 9.5;
/// Bytes of keys and values while a pretrained model writes, and of its words.
const PRETRAINED_MEMORY: f64 = 400e6;
/// Sequences that are sampled or read at once.
const BATCH: f64 = 64.0;
/// Tokens of a question to a judge of pairs, without prompt and responses.
const QUESTION_TOKENS: f64 = 60.0;
/// Copies of a model in training: weights, gradient, two moments and a spare.
pub const TRAINED: f64 = 5.0;
/// Bytes that a worker holds before it trains anything: the binary, its allocator, tables.
const BASE_MEMORY: f64 = 60e6;

/// What a stage costs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct StageCost {
    pub flops: f64,
    pub seconds: f64,
    /// Peak, of its worker; bytes.
    pub memory: f64,
}

/// The experiment's model and space as they will be.
#[derive(Debug, Clone)]
pub struct ShapeInfo {
    pub config: TransformerConfig,
    pub space: TokenSpec,
}

impl ShapeInfo {
    /// Without looking at any data.
    pub fn of(experiment: &Experiment) -> Result<Self> {
        let (space, config) = world::sizes(experiment)?;
        Ok(Self { config, space })
    }
}

/// What a model costs that scores responses, beside the policy.
#[derive(Debug, Clone, Copy, Default)]
struct ScorerCost {
    /// FLOPs of one token's forward pass.
    forward: f64,
    /// Seconds per token, of the policy's.
    relative_seconds: f64,
    /// Bytes of its weights.
    weights: f64,
    /// Bytes of activations of one row in training.
    activations: f64,
}

impl ScorerCost {
    /// A scalar head on the policy's body, whose weights are counted with the policy's.
    fn like_policy(policy: &ShapeInfo) -> Self {
        Self { forward: Flops::scalar(&policy.config).forward, relative_seconds: 1.0, ..Self::default() }
    }

    /// A classifier of its own files, `stages.rm.from` or `judge.model`; it reads about as many tokens as the policy.
    fn of_files(path: &str, policy: &ShapeInfo) -> Result<Self> {
        let config = PretrainedReward::open(&sources::model(Path::new(path))?)?.config()?;
        let forward = Flops::scalar(&config).forward;
        let columns = policy.space.context().min(config.context);
        Ok(Self {
            forward,
            relative_seconds: forward / Flops::scalar(&policy.config).forward,
            weights: 4.0 * config.num_params().unwrap_or(usize::MAX) as f64,
            activations: 40.0 * (columns * config.layers * config.width) as f64,
        })
    }

    /// A language model that is asked which of two responses is better; nothing where there is none. It answers by one token, so that its
    /// head is read once for a question.
    fn of_pair_judge(settings: &PairwiseSettings, policy: &ShapeInfo) -> Result<Self> {
        if !settings.is_model() {
            return Ok(Self::default());
        }
        let model = Pretrained::open(&sources::model(Path::new(&settings.model))?)?;
        let config = model.config_for(ModelPairJudge::context(model.config.context))?;
        let forward = Flops::scalar(&config).forward;
        Ok(Self {
            forward,
            relative_seconds: forward / Flops::policy(&policy.config).forward,
            weights: settings.numbers.bytes() * config.num_params().unwrap_or(usize::MAX) as f64,
            activations: 0.0,
        })
    }
}

/// Estimates the stages of one experiment.
#[derive(Debug)]
pub struct Estimator<'a> {
    experiment: &'a Experiment,
    sizes: ShapeInfo,
    times: StepTimes,
    cores: usize,
    reward: ScorerCost,
    /// The judge, where it is a model.
    judge: ScorerCost,
    /// The judge of pairs, where it is a model.
    pair_judge: ScorerCost,
}

impl<'a> Estimator<'a> {
    /// # Errors
    /// A model of the experiment that cannot be opened.
    pub fn new(experiment: &'a Experiment, sizes: ShapeInfo, times: StepTimes, cores: usize) -> Result<Self> {
        let (rm, judge) = (&experiment.stages.rm, &experiment.judge);
        let reward = match rm.is_pretrained() {
            true => ScorerCost::of_files(&rm.from, &sizes)?,
            false => ScorerCost::like_policy(&sizes),
        };
        let judge = match judge.kind {
            JudgeKind::Model => ScorerCost::of_files(&judge.model, &sizes)?,
            _ => ScorerCost::default(),
        };
        let pair_judge = ScorerCost::of_pair_judge(&experiment.evaluation.pairwise, &sizes)?;
        Ok(Self { experiment, sizes, times, cores, reward, judge, pair_judge })
    }

    /// Seconds to read so many sequences with the policy.
    fn read(&self, rows: f64) -> f64 {
        self.times.seconds_in_batches(StepKind::Read, rows, BATCH)
    }

    /// The same with a model of the policy's size with a scalar head.
    fn score(&self, rows: f64) -> f64 {
        self.times.seconds_in_batches(StepKind::ReadScalar, rows, BATCH)
    }

    /// Seconds to sample so many responses.
    fn sample(&self, rows: f64) -> f64 {
        self.times.seconds_in_batches(StepKind::Sample, rows, BATCH)
    }

    /// What a stage of the plan costs.
    pub fn cost(&self, stage: &Stage) -> StageCost {
        let Experiment { stages, evaluation, learner, .. } = self.experiment;
        let policy = Flops::policy(&self.sizes.config);
        let Self { reward, judge, times, .. } = self;
        let (columns, response_tokens) = (self.sizes.space.context() as f64, self.sizes.space.response_tokens as f64);
        let rows = (stages.pairs.rows + 2 * stages.pairs.holdout_rows) as f64;
        let exact = self.experiment.world.kind == WorldKind::Grammar;
        let models = |n: f64, batch: f64| self.memory(n, batch / learner.accumulate as f64);
        let (flops, seconds, memory) = match (stage.kind, &stage.cell) {
            (StageKind::Corpus, _) if self.experiment.is_pretrained() => (0.0, 20.0, 600e6), // as below, without a tokenizer to learn
            (StageKind::Corpus, _) => (0.0, 60.0, 400e6), // measured once; it depends on the text, not on the experiment
            (StageKind::Base, _) => {
                let tokens = (stages.base.steps * stages.base.batch_size * stages.base.window) as f64;
                let rows = (stages.base.batch_size * stages.base.window) as f64 / columns;
                let step = times.with_threads(self.cores).seconds(StepKind::Train, rows);
                (3.0 * policy.forward * tokens, stages.base.steps as f64 * step, models(1.0, rows))
            }
            (StageKind::Sft, _) => {
                let (steps, rows) = (stages.sft.steps as f64, stages.sft.batch_size as f64);
                let seconds = steps * times.seconds(StepKind::Train, rows);
                (3.0 * policy.forward * steps * rows * columns, seconds, models(1.0, rows))
            }
            (StageKind::Pairs, _) => {
                let is_read = self.experiment.world.kind == WorldKind::Rows; // which are read, not sampled
                let sampled = if is_read { 0.0 } else { 2.0 * rows };
                let flops = policy.forward * sampled * response_tokens + judge.forward * 2.0 * rows * columns;
                let seconds = self.sample(sampled) + judge.relative_seconds * self.score(2.0 * rows);
                (flops, seconds, models(0.3, 512.0) + judge.weights)
            }
            (StageKind::Rm, _) => self.reward_model_cost(rows),
            (StageKind::Reference, _) => {
                let tokens = 2.0 * rows * columns;
                (policy.forward * tokens, self.read(2.0 * rows), models(0.3, 512.0))
            }
            (StageKind::Yardstick, _) => {
                // best-of-N: samples of both splits, and as many to compare them with, which the judge alone reads
                let best = if exact || evaluation.best_of == 1 {
                    0.0
                } else {
                    4.0 * (evaluation.largest_best_of() * evaluation.best_of_prompts()) as f64
                };
                let scored = columns * (reward.forward * best / 2.0 + judge.forward * best);
                let scoring =
                    reward.relative_seconds * self.score(best / 2.0) + judge.relative_seconds * self.score(best);
                let (flops, seconds) = self.evaluation(1.0);
                let theory = if exact { THEORY * seconds } else { 0.0 };
                (
                    flops + best * response_tokens * policy.forward + scored,
                    seconds + theory + self.sample(best) + scoring,
                    models(0.3, 512.0) + reward.weights + judge.weights + self.pair_judge.weights,
                )
            }
            (StageKind::Cell, None) => (0.0, 0.0, 0.0),
            (StageKind::Cell, Some(cell)) => {
                let method = &cell.point.method;
                let (flops, seconds, memory) = match method {
                    MethodSettings::Dpo(dpo) => self.dpo_cost(dpo),
                    other => self.rollout_cost(other, other.on_policy().expect("all others write their own rows")),
                };
                let (evaluation_flops, evaluation_seconds) = self.evaluation(evaluation.curve_points as f64);
                // both responses of the held-out pairs of two splits, by the reference and at each evaluation
                let pairs = stages.pairs.holdout_rows.min(HELD_OUT_PAIRS) as f64;
                let held_out = 4.0 * pairs * (evaluation.curve_points as f64 + 1.0);
                let evaluation_flops = evaluation_flops + policy.forward * held_out * columns;
                let memory = memory + reward.weights + judge.weights + self.pair_judge.weights;
                (flops + evaluation_flops, seconds + evaluation_seconds + self.read(held_out), memory)
            }
        };
        StageCost { flops, seconds: seconds + OVERHEAD, memory: memory + BASE_MEMORY }
    }

    /// Training of the reward model, and its scores of all `rows` and, on grammar, of every response.
    fn reward_model_cost(&self, rows: f64) -> (f64, f64, f64) {
        let (settings, reward) = (&self.experiment.stages.rm, &self.reward);
        let (columns, members) = (self.sizes.space.context() as f64, settings.ensemble as f64);
        let steps = match settings.model {
            RmModel::Linear => 0.0,
            RmModel::Transformer => members * settings.steps as f64,
        };
        let exact = self.experiment.world.kind == WorldKind::Grammar;
        let table = if exact { EVALUATED_TOKENS } else { 0.0 };
        let (trained, scored) = (2.0 * settings.batch_size as f64, members * (2.0 * rows + table));
        let flops = reward.forward * columns * (3.0 * steps * trained + scored);
        let step = self.times.seconds(StepKind::TrainScalar, trained);
        let seconds = reward.relative_seconds * (steps * step + self.score(scored));
        // weights of its own, in training or frozen; those of the policy's shape are counted with it
        let in_full = settings.steps > 0 && !settings.lora;
        let copies = if in_full { TRAINED + members - 1.0 } else { 1.0 };
        let batch = 2.0 * settings.batch_size as f64 / self.experiment.learner.accumulate as f64;
        let memory = self.memory(members, batch) + copies * reward.weights + reward.activations * batch;
        (flops, seconds, memory)
    }

    /// Epochs over the train rows, or as many steps as the budget lasts for, and the loss on validation rows at each point of the curve.
    fn dpo_cost(&self, dpo: &DpoSettings) -> (f64, f64, f64) {
        let Experiment { stages, evaluation, learner, budget, .. } = self.experiment;
        let rows = stages.pairs.rows;
        let each = IterationEstimate::of_pairs(dpo, rows, self.model_sizes(0.0));
        let sequences = (2 * dpo.batch_size.min(rows)) as f64;
        // mismatched responses are read by policy and reference, those of a batch by a reference that follows the policy, and
        // every row once by the reference where its log-probs weigh tokens
        let scored = sequences * (2.0 * f64::from(dpo.takes(PairInput::Mismatched)) + f64::from(dpo.sync_ref_model));
        let step = |steps: f64| {
            let training =
                self.times.seconds_in_batches(StepKind::Train, sequences * steps, 2.0 * dpo.batch_size as f64);
            training + self.read(scored * steps)
        };
        let steps = match budget.is_set() {
            true => each.iterations(*budget, step(1.0)),
            false => dpo.steps(rows) as f64,
        };
        let own_pass = if dpo.ld_alpha == 1.0 { 0.0 } else { 2.0 * rows as f64 };
        let evaluated = evaluation.curve_points as f64 * 2.0 * stages.pairs.holdout_rows as f64;
        let columns = self.sizes.space.context() as f64;
        let flops = steps * each.flops + Flops::policy(&self.sizes.config).forward * own_pass * columns;
        let seconds = step(steps) + self.read(own_pass + evaluated);
        let models = 1.0 + f64::from(dpo.holds_reference()) * 0.3;
        // the reference that follows a pretrained model on adapters has weights of its own
        let copied = dpo.sync_ref_model && self.experiment.is_pretrained();
        let parameters = self.sizes.config.num_params().unwrap_or(usize::MAX) as f64;
        let copy = if copied { 4.0 * parameters } else { 0.0 };
        let memory = self.memory(models, 2.0 * dpo.batch_size as f64 / learner.accumulate as f64);
        (flops, seconds, memory + copy)
    }

    /// Iterations of rolling out, reading, scoring and updating.
    fn rollout_cost(&self, method: &MethodSettings, shared: &RolloutSettings) -> (f64, f64, f64) {
        let critic = match method {
            MethodSettings::Ppo(ppo) if ppo.critic == CriticBody::Separate => 1.0,
            _ => 0.0,
        };
        // each of several rewards reads every response; length and rules cost nothing beside a model
        let passes = |source, networks: f64| if shared.reward.weight(source).is_some() { networks } else { 0.0 };
        let learned = passes(RewardSource::Rm, self.experiment.stages.rm.ensemble as f64);
        let judged = passes(RewardSource::Gold, 1.0);
        let scoring = self.reward.forward * learned + self.judge.forward * judged;
        let relative_seconds = self.reward.relative_seconds * learned + self.judge.relative_seconds * judged;
        // of the policy's shape, whose memory is counted with the policy's
        let judges = if self.reward.weights == 0.0 { learned } else { 0.0 };
        let each = IterationEstimate::of_rollout(shared, critic, self.model_sizes(scoring));
        let iteration = RolloutWork {
            episodes: shared.episodes as f64,
            sampled: shared.episodes as f64 * sampled_per_episode(shared),
            minibatches: shared.minibatches as f64,
            epochs: shared.epochs as f64,
            reads: reads(shared) + update_reads(shared) * shared.epochs as f64,
            scalar_reads: relative_seconds * sampled_per_episode(shared) + critic,
            critics: critic,
        };
        let seconds = self.times.rollout(&iteration);
        let budget = self.experiment.budget;
        let iterations = match budget.is_set() {
            true => each.iterations(budget, seconds),
            false => shared.iterations as f64,
        };
        let batch = (shared.episodes / shared.minibatches) as f64 / self.experiment.learner.accumulate as f64;
        let memory = self.memory(1.0 + critic + 0.3 * (1.0 + judges), batch.max(64.0));
        (iterations * each.flops, iterations * seconds, memory)
    }

    fn model_sizes(&self, scorer: f64) -> ModelSizes<'_> {
        ModelSizes { config: &self.sizes.config, space: &self.sizes.space, scorer }
    }

    /// Measuring a policy so often on a curve, and once at its end.
    fn evaluation(&self, times: f64) -> (f64, f64) {
        let policy = Flops::policy(&self.sizes.config);
        if self.experiment.world.kind == WorldKind::Grammar {
            // a prefix of the tree is read once
            return (times * EVALUATED_TOKENS * policy.forward, times * self.times.evaluation(EVALUATED_TOKENS));
        }
        let settings = &self.experiment.evaluation;
        let (columns, response_tokens) = (self.sizes.space.context() as f64, self.sizes.space.response_tokens as f64);
        let checkpoint = settings.curve_prompts.min(settings.prompts) * settings.curve_samples_per_prompt;
        let end = settings.prompts * settings.samples_per_prompt;
        let rows = 2.0 * ((times - 1.0) * checkpoint as f64 + end as f64); // of both splits
        // policy and reference, the reward model and the judge read each response
        let Self { reward, judge, .. } = self;
        let scored = columns * (reward.forward + judge.forward);
        let scalar_reads = (reward.relative_seconds + judge.relative_seconds) * self.score(rows);
        let seconds = 2.0 * self.sample(rows) + 2.0 * self.read(rows) + scalar_reads;
        let flops = rows * (policy.forward * (2.0 * response_tokens + 2.0 * columns) + scored);
        let (asked_flops, asked_seconds) = self.pairwise();
        (flops + asked_flops, seconds + asked_seconds)
    }

    /// Asking the model that judges pairs about a finished policy, where there is one: both orders of each pair. A question has the tokens of a
    /// prompt and two responses, and those of its own text, about.
    fn pairwise(&self) -> (f64, f64) {
        let (settings, judge) = (&self.experiment.evaluation, &self.pair_judge);
        let (columns, response_tokens) = (self.sizes.space.context() as f64, self.sizes.space.response_tokens as f64);
        let questions = 2.0 * settings.pairwise.prompts.min(settings.prompts) as f64;
        let tokens = questions * (columns + response_tokens + QUESTION_TOKENS);
        (judge.forward * tokens, judge.relative_seconds * self.read(tokens / columns))
    }

    /// Bytes of so many models in training on batches of so many rows. A pretrained
    /// model lies there once, frozen, where it does not stay in its file, and again as a decoder has it; what its adapters take is
    /// little beside that.
    fn memory(&self, models: f64, batch: f64) -> f64 {
        let TransformerConfig { layers, width, vocabulary, context, .. } = self.sizes.config;
        if self.experiment.is_pretrained() {
            let parameters = (layers * self.sizes.config.block_matrices() + width * vocabulary) as f64;
            let a_token = if self.experiment.learner.recompute { 1.0 } else { 10.0 }; // vectors of the width a layer
            let activations = batch.min(64.0) * (self.sizes.space.context() * layers * width) as f64 * a_token;
            let bytes = match self.experiment.model.numbers {
                ModelNumbers::F32 if !self.experiment.model.mapped => 8.0, // a decoder has its own
                numbers => numbers.bytes(),
            };
            return bytes * parameters + 4.0 * activations + self.logits_memory(batch.min(64.0)) + PRETRAINED_MEMORY;
        }
        let parameters = (layers * self.sizes.config.block_matrices() + width * (vocabulary + context)) as f64;
        let tokens = batch * self.sizes.space.context() as f64;
        let vectors = if self.experiment.learner.recompute { 2.0 } else { 14.0 }; // vectors of the width a layer and token
        let activations = tokens * (layers * width) as f64 * vectors;
        4.0 * (TRAINED * models * parameters + activations) + self.logits_memory(batch)
    }

    /// Bytes of the logits of so many rows that a step keeps for its backward pass.
    fn logits_memory(&self, batch: f64) -> f64 {
        let logits = batch * (self.sizes.space.response_tokens * self.sizes.config.vocabulary) as f64;
        (4.0 * logits).min(self.experiment.learner.logits_bytes() as f64)
    }
}

/// Seconds until a plan is done, its stages as long as they are estimated, so many at once; those that are there take none.
pub fn makespan(plan: &Plan, costs: &[StageCost], finished: &[bool], jobs: usize) -> f64 {
    let mut ends = vec![f64::NAN; plan.stages.len()];
    let mut free = vec![0.0f64; jobs.max(1)];
    for (place, stage) in plan.stages.iter().enumerate() {
        let ready = stage.needs.iter().map(|&need| ends[need]).fold(0.0, f64::max);
        if finished[place] {
            ends[place] = 0.0;
            continue;
        }
        let slot = (0..free.len()).min_by(|&a, &b| free[a].total_cmp(&free[b])).unwrap_or(0);
        ends[place] = free[slot].max(ready) + costs[place].seconds;
        free[slot] = ends[place];
    }
    ends.into_iter().fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::{Throughput, shape};
    use duel_spec::Document;

    /// A reward model and a judge that is a model read every response; the length of one is known.
    #[test]
    fn several_rewards_cost_the_passes_of_each() {
        let arms = [
            ("rm", "\"rm\""),
            ("gold", "\"gold\""),
            ("both", "[{ from = \"rm\" }, { from = \"gold\", weight = 0.2 }]"),
            ("free", "[{ from = \"gold\" }, { from = \"length\", weight = -0.1 }]"),
        ];
        let arms = arms.map(|(name, reward)| format!("[arms.{name}]\nmethod = \"grpo\"\nreward = {reward}\n"));
        let document = Document::parse("t", &format!("[stages.rm]\nensemble = 3\n{}", arms.concat()), &[]);
        let experiment = Experiment::from_document(&document.expect("valid")).expect("valid");
        let throughput = Throughput { train: 4e-6, train_scalar: 4e-6, sample: 3e-6, read: 1e-6, evaluation: 0.02 };
        let sizes = ShapeInfo::of(&experiment).expect("grammar needs no files");
        let times = throughput.times(shape(&experiment, &sizes));
        let mut estimator = Estimator::new(&experiment, sizes, times, 2).expect("no models");
        estimator.judge = ScorerCost { forward: 7.0, relative_seconds: 0.5, ..ScorerCost::default() };
        let cost = |arm: &str| {
            let method = &experiment.arms[arm].representative_points()[0].method;
            estimator.rollout_cost(method, method.on_policy().expect("on rollouts"))
        };
        let [rm, gold, both, free] = ["rm", "gold", "both", "free"].map(cost);
        assert_eq!(free, gold);
        let sampled = (80 * 256 * estimator.sizes.space.context()) as f64;
        let of_gold = 7.0 * sampled;
        assert!((both.0 - rm.0 - of_gold).abs() < 1e-6 * of_gold, "{} more", both.0 - rm.0);
        let of_rm = 3.0 * estimator.reward.forward * sampled;
        assert!((both.0 - gold.0 - of_rm).abs() < 1e-6 * of_rm, "{} more", both.0 - gold.0);
        assert!(both.1 > rm.1 && rm.1 > gold.1, "{} s, {} s, {} s", both.1, rm.1, gold.1);
        assert_eq!((both.2, free.2), (rm.2, gold.2), "weights of a judge are counted beside it");
    }
}
