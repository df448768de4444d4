//! The methods by name: one line in [`run`] and one function each. A new method is added here.

mod memory;

use self::memory::TrainingMemory;
use super::batches::EpochSampler;
use super::context::adapted;
use super::length::TrainingLength;
use super::reward_model;
use super::training_inputs::TrainingInputs;
use crate::error::Result;
use crate::iteration_estimate::{IterationEstimate, ModelSizes};
use burn::module::Module;
use duel_data::pairs::PreferenceRow;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_evaluation::{EvalKind, EvalResult};
use duel_ledger::StageRecorder;
use duel_model::{Flops, Policy, ScalarModel, ValueHead, weights};
use duel_ppo::{ActorCritic, Baseline, Critic, OnlineDpo, PolicyGradient, Ppo, Raft, RolloutContext};
use duel_reward::{ResponseLength, Scorer, WeightedReward};
use duel_spec::seeds::{self, Stream};
use duel_spec::{
    CheckpointSelection, Clocks, CommonSettings, CriticBody, CriticStart, GrpoSettings, LoraTargets, MethodSettings,
    PpoSettings, Recorder, RewardSettings, RewardSource, RlooSettings, RolloutSettings, Split, metrics,
};
use duel_training::{BestCheckpoint, Learner, PairBatch, TrainContext, invariants, train};
use rand::RngExt;
use std::sync::Arc;

/// Called on the policy without gradient at points of the curve; returns its score on validation prompts.
pub type EvalCallback<'a> = &'a mut dyn FnMut(&Policy, Clocks, &mut dyn Recorder, EvalKind) -> Result<EvalResult>;

/// Trains one point; returns the policy without gradient, its adapters on, and its clocks. The last curve point is evaluated by
/// the caller.
pub fn run(
    method: &MethodSettings,
    inputs: TrainingInputs<'_>,
    evaluate: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    match method {
        MethodSettings::Ppo(settings) => ppo(settings, inputs, evaluate, recorder),
        MethodSettings::Reinforce(shared) => {
            policy_gradient(Baseline::Past { sum: 0.0, n: 0.0 }, shared, method.group(), inputs, evaluate, recorder)
        }
        MethodSettings::Rloo(RlooSettings { shared, group }) => {
            policy_gradient(Baseline::LeaveOneOut { group: *group }, shared, *group, inputs, evaluate, recorder)
        }
        MethodSettings::Grpo(GrpoSettings { shared, group, scale }) => policy_gradient(
            Baseline::Group { group: *group, scale: *scale },
            shared,
            *group,
            inputs,
            evaluate,
            recorder,
        ),
        MethodSettings::OnlineDpo(settings) => {
            let mut online = OnlineDpo::new(settings.clone(), setting(&settings.shared, &inputs));
            actor_alone(&mut online, &settings.shared, method.group(), inputs, evaluate, recorder)
        }
        MethodSettings::Raft(settings) => {
            let mut raft = Raft::new(settings.clone(), setting(&settings.shared, &inputs));
            actor_alone(&mut raft, &settings.shared, settings.group, inputs, evaluate, recorder)
        }
        MethodSettings::Dpo(settings) => dpo(settings, inputs, evaluate, recorder),
    }
}

/// The policy that trains: the SFT policy, or its adapters.
fn start(common: &CommonSettings, inputs: &TrainingInputs<'_>) -> Policy {
    match (common.lora, inputs.pretrained) {
        (false, true) => weights::training(inputs.start.clone(), |_| true),
        _ => with_adapters(inputs.start.clone(), common, Stream::PolicyLora, inputs),
    }
}

/// A frozen policy with new adapters; unchanged if the arm has none.
fn with_adapters(policy: Policy, common: &CommonSettings, stream: Stream<'_>, inputs: &TrainingInputs<'_>) -> Policy {
    if !common.lora {
        return policy;
    }
    let is_adapted = |name: &str| match common.lora_targets {
        LoraTargets::All => true,
        LoraTargets::Attention => name.contains(".attention."),
        LoraTargets::Mlp => name.contains(".mlp."),
    };
    let mut rng = seeds::stream(inputs.seed, stream, 0);
    let rank_and_alpha = (common.lora_rank, common.lora_alpha);
    adapted(policy, rank_and_alpha, is_adapted, &mut rng, inputs.train_reader.device())
}

/// Trains it as its arm says.
fn learner<M: Module>(
    module: M,
    common: &CommonSettings,
    learning_rate: f64,
    updates: u64,
    inputs: &TrainingInputs<'_>,
) -> Learner<M> {
    Learner::new(module, inputs.learner, learning_rate, updates).with_dropout(common.lora_dropout, inputs.seed)
}

/// The score by which one of the policies at the points of the curve is selected: on validation prompts, or its method's
/// validation loss. `None` if the last one is kept.
fn merit(common: &CommonSettings, result: &EvalResult, loss: Option<f64>, step: u64) -> Result<Option<f64>> {
    if result.split != Split::Validation {
        let (actual, expected) = (result.split.name().into(), Split::Validation.name().into());
        let what = "the split of the marks that a policy is chosen by";
        return Err(invariants::breach("chosen_on_validation", step, what, actual, expected).into());
    }
    let by = match common.keep {
        CheckpointSelection::Last => return Ok(None),
        CheckpointSelection::Gold => result.get(metrics::GOLD),
        CheckpointSelection::Proxy => result.get(metrics::PROXY),
        CheckpointSelection::Loss => loss.map(|loss| -loss),
    };
    Ok(Some(by.unwrap_or(f64::NAN)))
}

/// The module to keep.
fn selected_module<M: Module>(best: BestCheckpoint, module: M, clocks: Clocks, recorder: &mut dyn Recorder) -> M {
    let (module, step) = best.restore(module);
    if let Some(step) = step {
        recorder.record("train", clocks, metrics::KEPT_STEP, step as f64);
    }
    module
}

/// What gives a reward.
fn scorer_of(source: RewardSource, inputs: &TrainingInputs<'_>) -> Arc<dyn Scorer> {
    match source {
        RewardSource::Rm => Arc::new(inputs.reward.clone()),
        RewardSource::Gold => inputs.gold.clone(),
        RewardSource::Length => Arc::new(ResponseLength),
        RewardSource::Rules => inputs.rules.clone().expect("an arm with rules has opened them"),
    }
}

/// FLOPs per token of what scores responses: of the reward model, where it is among the rewards.
fn scorer_flops(shared: &RolloutSettings, inputs: &TrainingInputs<'_>) -> f64 {
    match shared.reward.weight(RewardSource::Rm) {
        Some(_) => inputs.reward.networks() as f64 * Flops::scalar(&inputs.reward_config).forward(1),
        None => 0.0,
    }
}

/// How long a method on rollouts is trained, with so many value models of their own.
fn rollout_length(shared: &RolloutSettings, critics: f64, inputs: &TrainingInputs<'_>) -> TrainingLength {
    let scorer = scorer_flops(shared, inputs);
    let sizes = ModelSizes { config: &inputs.config, space: inputs.world.space(), scorer };
    let each = IterationEstimate::of_rollout(shared, critics, sizes);
    TrainingLength::new(&shared.common, shared.iterations as u64, each, inputs.budget, inputs.curve_points)
}

/// The inputs of a method on rollouts, with its reward.
fn setting(shared: &RolloutSettings, inputs: &TrainingInputs<'_>) -> RolloutContext {
    let scorer = match &shared.reward {
        RewardSettings::One(source) => scorer_of(*source, inputs),
        RewardSettings::Sum(terms) => {
            let terms = terms.iter().map(|term| (term.from, term.weight, scorer_of(term.from, inputs)));
            Arc::new(WeightedReward::new(terms.collect()))
        }
    };
    RolloutContext {
        reference: (shared.beta > 0.0).then(|| inputs.reference.clone()),
        scorer,
        reader: inputs.reader.clone(),
        train_reader: inputs.train_reader.clone(),
        config: inputs.config.clone(),
        scorer_flops: scorer_flops(shared, inputs),
        seed: inputs.seed,
    }
}

/// The prompts of an iteration, drawn from the training split; each repeated `group` times.
fn prompts_of(inputs: &TrainingInputs<'_>, iteration: u64, episodes: usize, group: usize) -> Vec<Vec<u32>> {
    let prompts = inputs.world.prompts(Split::Train);
    let mut rng = seeds::stream(inputs.seed, Stream::Prompts, iteration); // the same for every method on rollouts
    let drawn = (0..episodes / group).map(|_| prompts[rng.random_range(0..prompts.len())].ids.clone());
    drawn.flat_map(|prompt| std::iter::repeat_n(prompt, group)).collect()
}

fn ppo(
    settings: &PpoSettings,
    inputs: TrainingInputs<'_>,
    evaluate: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    let shared = &settings.shared;
    let critics = f64::from(settings.critic == CriticBody::Separate);
    let length = rollout_length(shared, critics, &inputs);
    let mut method = Ppo::new(settings.clone(), setting(shared, &inputs));
    let module = ActorCritic { actor: start(&shared.common, &inputs), critic: critic(settings, &inputs) };
    let memory = TrainingMemory::of_rollouts(&module, critics, shared, &inputs);
    let learner = learner(module, &shared.common, shared.learning_rate, length.planned_updates(), &inputs);
    let learner = if settings.critic_warmup > 0 { learner.with_own_optimizer("actor") } else { learner };
    let actor = |module: &ActorCritic| module.actor.valid();
    let trained = on_rollouts(&mut method, learner, shared, &length, 1, &inputs, actor, evaluate, recorder)?;
    record_memory(memory, trained.1, recorder);
    Ok(trained)
}

/// The value model at the start: a head on the policy's body, or a model of its own from the reward model or the SFT policy.
fn critic(settings: &PpoSettings, inputs: &TrainingInputs<'_>) -> Critic {
    let (shared, device) = (&settings.shared, inputs.train_reader.device());
    let weight = shared.reward.weight(RewardSource::Rm).filter(|weight| *weight > 0.0);
    let value_start = weight
        .filter(|_| settings.critic_start == CriticStart::Scorer)
        .and_then(|weight| inputs.reward.weighted_value_model(weight));
    match (settings.critic, value_start) {
        (CriticBody::Shared, _) => Critic::Shared(ValueHead::new(inputs.config.width, device)),
        (CriticBody::Separate, Some(scorer)) => {
            let adapted = weights::shapes(&scorer).iter().any(|(name, _)| name.contains(".lora."));
            Critic::Separate(weights::training(scorer.train(), |name| !adapted || reward_model::is_trained(name)))
        }
        (CriticBody::Separate, None) => {
            let body = inputs.critic_start.clone();
            let body =
                if inputs.pretrained { with_adapters(body, &shared.common, Stream::CriticLora, inputs) } else { body };
            Critic::Separate(ScalarModel::from_policy(body, device))
        }
    }
}

fn policy_gradient(
    baseline: Baseline,
    shared: &RolloutSettings,
    group: usize,
    inputs: TrainingInputs<'_>,
    evaluate: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    let mut method = PolicyGradient::new(baseline, shared.clone(), setting(shared, &inputs));
    actor_alone(&mut method, shared, group, inputs, evaluate, recorder)
}

/// A method on rollouts that trains only the policy.
fn actor_alone<M: duel_training::Method<Module = Policy, Batch = Vec<Vec<u32>>>>(
    method: &mut M,
    shared: &RolloutSettings,
    group: usize,
    inputs: TrainingInputs<'_>,
    evaluate: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    let length = rollout_length(shared, 0.0, &inputs);
    let policy = start(&shared.common, &inputs);
    let memory = TrainingMemory::of_rollouts(&policy, 0.0, shared, &inputs);
    let learner = learner(policy, &shared.common, shared.learning_rate, length.planned_updates(), &inputs);
    let actor = |policy: &Policy| policy.valid();
    let trained = on_rollouts(method, learner, shared, &length, group, &inputs, actor, evaluate, recorder)?;
    record_memory(memory, trained.1, recorder);
    Ok(trained)
}

fn record_memory(memory: TrainingMemory, clocks: Clocks, recorder: &mut StageRecorder) {
    recorder.record("train", clocks, metrics::MODELS_RESIDENT, memory.models);
    recorder.record("train", clocks, metrics::TRAINING_BYTES, memory.bytes);
}

/// Trains on the policy's own completions; `actor` gives the policy without gradient and adapters.
#[expect(clippy::too_many_arguments, reason = "a training and all who look on")]
fn on_rollouts<M: duel_training::Method<Batch = Vec<Vec<u32>>>>(
    method: &mut M,
    mut learner: Learner<M::Module>,
    shared: &RolloutSettings,
    length: &TrainingLength,
    group: usize,
    inputs: &TrainingInputs<'_>,
    actor: impl Fn(&M::Module) -> Policy,
    evaluate: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    let reward_hash = inputs.reward.hash();
    let episodes = shared.episodes * (1 + shared.dynamic_sampling_rounds); // the others are spare
    let batch = |iteration| -> Result<_> { Ok(prompts_of(inputs, iteration, episodes, group)) };
    let mut best = BestCheckpoint::new(shared.common.patience);
    let splits = Some(&inputs.splits);
    let mut context =
        TrainContext { stage: "train", training: "train", recorder: &mut *recorder, splits, stop: inputs.stop };
    let evaluate = |module: &M::Module, clocks: Clocks, recorder: &mut dyn Recorder| {
        let result = evaluate(&actor(module).for_inference(), clocks, recorder, EvalKind::Curve)?;
        let loss = result.get(metrics::PROXY).zip(result.get(metrics::KL)).map(|(proxy, kl)| shared.beta * kl - proxy);
        merit(&shared.common, &result, loss, clocks.step)
    };
    let clocks = train(method, &mut learner, &mut best, length.schedule(), batch, &mut context, evaluate)?;
    invariants::frozen_weights_unchanged("the reward model", clocks.step, &reward_hash, &inputs.reward.hash())?;
    let module = selected_module(best, learner.into_module(), clocks, recorder);
    Ok((actor(&module), clocks))
}

fn dpo(
    settings: &duel_spec::DpoSettings,
    inputs: TrainingInputs<'_>,
    evaluate: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    let policy = start(&settings.common, &inputs);
    let memory = TrainingMemory::of_pairs(&policy, settings, &inputs);
    let (on_train, on_validation) =
        inputs.reference_logp.clone().expect("the plan gives DPO the reference's log-probs");
    let of_split = |split| inputs.rows.iter().filter(|r| r.split == split).cloned().collect::<Vec<_>>();
    let (rows, validation) = (of_split(Split::Train), of_split(Split::Validation));
    on_train.check_origin(&inputs.reference_hash, &rows)?;
    on_validation.check_origin(&inputs.reference_hash, &validation)?;
    // log-probs that weigh the tokens of a pair are of a pass of this arm's own
    let desensitized = |rows: &[PreferenceRow]| {
        ReferenceLogp::desensitized(&inputs.reader, &inputs.reference, rows, settings.ld_alpha)
    };
    let (on_train, on_validation) = match settings.ld_alpha {
        1.0 => (on_train, on_validation),
        _ => (desensitized(&rows), desensitized(&validation)),
    };
    let dpo_with = |logp| Dpo::new(settings.clone(), inputs.train_reader.clone(), logp, &inputs.config);
    let mut method = dpo_with(on_train.clone()).with_reference(&inputs.reference).with_seed(inputs.seed);
    let validator = dpo_with(on_train).with_reference(&inputs.reference);
    let sizes = ModelSizes { config: &inputs.config, space: inputs.world.space(), scorer: 0.0 };
    let each = IterationEstimate::of_pairs(settings, rows.len(), sizes);
    let steps = settings.steps(rows.len());
    let length = TrainingLength::new(&settings.common, steps, each, inputs.budget, inputs.curve_points);
    let mut learner = learner(policy, &settings.common, settings.learning_rate, length.planned_updates(), &inputs);
    let sampler = EpochSampler::new(rows.len(), settings.batch_size, inputs.seed, Stream::DpoRows);
    let mut sampler = sampler.dropping_last(settings.drop_last);
    let left_out = sampler.left_out();
    let batch = |step| -> Result<_> { Ok(PairBatch::new(&rows, sampler.at(step))) };
    let validate = |policy: &Policy, clocks: Clocks, recorder: &mut dyn Recorder| {
        let quality = validator.validate(&inputs.reader, policy, &validation, &on_validation);
        recorder.record("train", clocks, metrics::DPO_LOSS_VALIDATION, quality.loss);
        recorder.record("train", clocks, metrics::DPO_ACCURACY_VALIDATION, quality.accuracy);
        quality.loss
    };
    let mut best = BestCheckpoint::new(settings.common.patience);
    let splits = Some(&inputs.splits);
    let mut context =
        TrainContext { stage: "train", training: "train", recorder: &mut *recorder, splits, stop: inputs.stop };
    let evaluate_at = |module: &Policy, clocks: Clocks, recorder: &mut dyn Recorder| {
        let policy = module.valid().for_inference();
        let loss = validate(&policy, clocks, recorder);
        let result = evaluate(&policy, clocks, recorder, EvalKind::Curve)?;
        merit(&settings.common, &result, Some(loss), clocks.step)
    };
    let clocks = train(&mut method, &mut learner, &mut best, length.schedule(), batch, &mut context, evaluate_at)?;
    recorder.record("train", clocks, metrics::ROWS_LEFT_OUT, left_out);
    let policy = selected_module(best, learner.into_module(), clocks, recorder).valid();
    validate(&policy.clone().for_inference(), clocks, recorder);
    record_memory(memory, clocks, recorder);
    Ok((policy, clocks))
}

#[cfg(test)]
mod tests;
