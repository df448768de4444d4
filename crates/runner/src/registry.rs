//! The methods by name: one line in [`run`] and one function each. A new method is added here.

use crate::Result;
use crate::work::EpochSampler;
use burn::module::Module;
use duel_data::World;
use duel_data::pairs::PreferenceRow;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_evaluation::{EvalKind, EvalResult};
use duel_ledger::StageRecorder;
use duel_model::{Flops, Policy, Reader, ScalarModel, TransformerConfig, ValueHead, weights};
use duel_ppo::{ActorCritic, Baseline, Critic, CriticFree, OnlineDpo, Ppo, Raft, RolloutContext, planned};
use duel_reward::{LearnedReward, Scorer};
use duel_spec::seeds::{self, Stream};
use duel_spec::{
    CheckpointSelection, Clocks, CommonSettings, CriticBody, CriticStart, GrpoSettings, LearnerSettings, LoraTargets,
    MethodSettings, PairInput, Recorder, RewardSource, RlooSettings, RolloutSettings, Split, metrics,
};
use duel_training::{
    BestCheckpoint, Learner, PairBatch, Splits, TrainContext, TrainSchedule, curve_steps, invariants, train,
};
use rand::RngExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What every method is given: the same start, rows, prompts and judges.
pub struct TrainingInputs<'a> {
    pub seed: u64,
    pub world: Arc<dyn World>,
    pub config: TransformerConfig,
    /// Whether the model is one that somebody else has trained, and held once for all.
    pub pretrained: bool,
    pub learner: &'a LearnerSettings,
    /// The SFT policy, without gradient.
    pub reference: Policy,
    /// The same, ready to train.
    pub start: Policy,
    /// The same once more with parameters of its own, for a critic where no reward model gives one.
    pub critic_start: Policy,
    pub reader: Reader,
    pub train_reader: Reader,
    pub gold: Arc<dyn Scorer>,
    pub reward: LearnedReward,
    pub rows: Vec<PreferenceRow>,
    /// Of the reference's weights.
    pub reference_hash: String,
    /// Of train rows and of validation rows, for methods on pairs.
    pub reference_logp: Option<(ReferenceLogp, ReferenceLogp)>,
    pub curve_points: usize,
    /// Which prompts may be trained on.
    pub splits: Splits,
    pub stop: &'a AtomicBool,
}

/// Called on the policy without gradient at points of the curve; gives its marks on validation prompts.
pub type EvalCallback<'a> = &'a mut dyn FnMut(&Policy, Clocks, &mut dyn Recorder, EvalKind) -> Result<EvalResult>;

/// Trains one point; returns the policy without gradient, its adapters on, and its clocks. The last curve point is left to
/// the caller, who measures it in full.
pub fn run(
    method: &MethodSettings,
    work: TrainingInputs<'_>,
    look: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    match method {
        MethodSettings::Ppo(settings) => ppo(settings, work, look, recorder),
        MethodSettings::Reinforce(shared) => {
            critic_free(Baseline::Past { sum: 0.0, n: 0.0 }, shared, method.group(), work, look, recorder)
        }
        MethodSettings::Rloo(RlooSettings { shared, group }) => {
            critic_free(Baseline::LeaveOneOut { group: *group }, shared, *group, work, look, recorder)
        }
        MethodSettings::Grpo(GrpoSettings { shared, group, scale }) => {
            critic_free(Baseline::Group { group: *group, scale: *scale }, shared, *group, work, look, recorder)
        }
        MethodSettings::OnlineDpo(settings) => {
            let mut online = OnlineDpo::new(settings.clone(), setting(settings.shared.reward, &work));
            actor_alone(&mut online, &settings.shared, method.group(), work, look, recorder)
        }
        MethodSettings::Raft(settings) => {
            let mut raft = Raft::new(settings.clone(), setting(settings.shared.reward, &work));
            actor_alone(&mut raft, &settings.shared, settings.group, work, look, recorder)
        }
        MethodSettings::Dpo(settings) => dpo(settings, work, look, recorder),
    }
}

/// The policy that trains: the SFT policy, or its adapters.
fn start(every: &CommonSettings, work: &TrainingInputs<'_>) -> Policy {
    match (every.lora, work.pretrained) {
        (false, true) => weights::training(work.start.clone(), |_| true),
        _ => with_adapters(work.start.clone(), every, Stream::PolicyLora, work),
    }
}

/// A policy under fresh adapters, frozen beneath them; as it is where its arm asks for none.
fn with_adapters(policy: Policy, every: &CommonSettings, stream: Stream<'_>, work: &TrainingInputs<'_>) -> Policy {
    if !every.lora {
        return policy;
    }
    let wears = |name: &str| match every.lora_targets {
        LoraTargets::All => true,
        LoraTargets::Attention => name.contains(".attention."),
        LoraTargets::Mlp => name.contains(".mlp."),
    };
    let scale = every.lora_alpha / every.lora_rank as f64;
    let mut rng = seeds::stream(work.seed, stream, 0);
    policy.with_fresh_lora(every.lora_rank, scale, wears, &mut rng, work.train_reader.device())
}

/// Trains it as its arm says.
fn learner<M: Module>(
    module: M,
    every: &CommonSettings,
    learning_rate: f64,
    updates: u64,
    work: &TrainingInputs<'_>,
) -> Learner<M> {
    Learner::new(module, work.learner, learning_rate, updates).dropping(every.lora_dropout, work.seed)
}

/// By what a policy is chosen among those at the points of the curve: marks on validation prompts, or what its method's
/// loss is there. `None` where the last one is kept.
fn merit(every: &CommonSettings, marks: &EvalResult, loss: Option<f64>, step: u64) -> Result<Option<f64>> {
    if marks.split != Split::Validation {
        let (found, expected) = (marks.split.name().into(), Split::Validation.name().into());
        let what = "the split of the marks that a policy is chosen by";
        return Err(invariants::breach("chosen_on_validation", step, what, found, expected).into());
    }
    let by = match every.keep {
        CheckpointSelection::Last => return Ok(None),
        CheckpointSelection::Gold => marks.get(metrics::GOLD),
        CheckpointSelection::Proxy => marks.get(metrics::PROXY),
        CheckpointSelection::Loss => loss.map(|loss| -loss),
    };
    Ok(Some(by.unwrap_or(f64::NAN)))
}

/// The module to keep.
fn selected_module<M: Module>(keeper: BestCheckpoint, module: M, clocks: Clocks, recorder: &mut dyn Recorder) -> M {
    let (module, step) = keeper.restore(module);
    if let Some(step) = step {
        recorder.record("train", clocks, metrics::KEPT_STEP, step as f64);
    }
    module
}

/// What a method on rollouts is given, by whose score it climbs.
fn setting(reward: RewardSource, work: &TrainingInputs<'_>) -> RolloutContext {
    let (scorer, scorer_flops): (Arc<dyn Scorer>, f64) = match reward {
        RewardSource::Rm => {
            let networks = work.reward.networks() as f64;
            (Arc::new(work.reward.clone()), networks * Flops::scalar(&work.config).forward(1))
        }
        RewardSource::Gold => (work.gold.clone(), 0.0),
    };
    RolloutContext {
        reference: work.reference.clone(),
        scorer,
        reader: work.reader.clone(),
        train_reader: work.train_reader.clone(),
        config: work.config.clone(),
        scorer_flops,
        seed: work.seed,
    }
}

/// The prompts of an iteration, drawn from the training split; each `group` times in a row.
fn prompts_of(work: &TrainingInputs<'_>, iteration: u64, episodes: usize, group: usize) -> Vec<Vec<u32>> {
    let prompts = work.world.prompts(Split::Train);
    let mut rng = seeds::stream(work.seed, Stream::Prompts, iteration); // the same for every method on rollouts
    let drawn = (0..episodes / group).map(|_| prompts[rng.random_range(0..prompts.len())].ids.clone());
    drawn.flat_map(|prompt| std::iter::repeat_n(prompt, group)).collect()
}

fn ppo(
    settings: &duel_spec::PpoSettings,
    work: TrainingInputs<'_>,
    look: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    let shared = &settings.shared;
    let device = work.train_reader.device();
    let climbs = (settings.critic_start == CriticStart::Scorer && shared.reward == RewardSource::Rm)
        .then(|| work.reward.value_model())
        .flatten();
    let critic = match (settings.critic, climbs) {
        (CriticBody::Shared, _) => Critic::Shared(ValueHead::new(work.config.width, device)),
        (CriticBody::Separate, Some(scorer)) => {
            let adapted = weights::shapes(&scorer).iter().any(|(name, _)| name.contains(".lora."));
            Critic::Separate(weights::training(scorer.train(), |name| !adapted || crate::rm::is_trained(name)))
        }
        (CriticBody::Separate, None) => {
            let body = work.critic_start.clone();
            let body =
                if work.pretrained { with_adapters(body, &shared.every, Stream::CriticLora, &work) } else { body };
            Critic::Separate(ScalarModel::from_policy(body, device))
        }
    };
    let resident = models_in_memory(shared, &work) + f64::from(settings.critic == CriticBody::Separate);
    let mut method = Ppo::new(settings.clone(), setting(shared.reward, &work));
    let module = ActorCritic { actor: start(&shared.every, &work), critic };
    let learner = learner(module, &shared.every, shared.learning_rate, planned(shared), &work);
    let learner = if settings.critic_warmup > 0 { learner.with_first_field_apart("actor") } else { learner };
    let actor = |module: &ActorCritic| module.actor.valid();
    let trained = on_rollouts(&mut method, learner, shared, 1, &work, actor, look, recorder)?;
    recorder.record("train", trained.1, metrics::MODELS_RESIDENT, resident);
    Ok(trained)
}

fn critic_free(
    baseline: Baseline,
    shared: &RolloutSettings,
    group: usize,
    work: TrainingInputs<'_>,
    look: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    let mut method = CriticFree::new(baseline, shared.clone(), setting(shared.reward, &work));
    actor_alone(&mut method, shared, group, work, look, recorder)
}

/// A method on rollouts that trains nothing but the policy.
fn actor_alone<M: duel_training::Method<Module = Policy, Batch = Vec<Vec<u32>>>>(
    method: &mut M,
    shared: &RolloutSettings,
    group: usize,
    work: TrainingInputs<'_>,
    look: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    let learner = learner(start(&shared.every, &work), &shared.every, shared.learning_rate, planned(shared), &work);
    let actor = |policy: &Policy| policy.valid();
    let trained = on_rollouts(method, learner, shared, group, &work, actor, look, recorder)?;
    recorder.record("train", trained.1, metrics::MODELS_RESIDENT, models_in_memory(shared, &work));
    Ok(trained)
}

/// Models in memory beside a critic: actor and reference, and the networks that score.
fn models_in_memory(shared: &RolloutSettings, work: &TrainingInputs<'_>) -> f64 {
    2.0 + if shared.reward == RewardSource::Rm { work.reward.networks() as f64 } else { 0.0 }
}

/// Trains on the policy's own completions; `actor` gives the policy without gradient and adapters.
#[expect(clippy::too_many_arguments, reason = "a training and all who look on")]
fn on_rollouts<M: duel_training::Method<Batch = Vec<Vec<u32>>>>(
    method: &mut M,
    mut learner: Learner<M::Module>,
    shared: &RolloutSettings,
    group: usize,
    work: &TrainingInputs<'_>,
    actor: impl Fn(&M::Module) -> Policy,
    look: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    let reward_hash = work.reward.hash();
    let iterations = shared.iterations as u64;
    let batch = |iteration| -> Result<_> { Ok(prompts_of(work, iteration, shared.episodes, group)) };
    let mut keeper = BestCheckpoint::new(shared.every.patience);
    let splits = Some(&work.splits);
    let mut watch =
        TrainContext { stage: "train", training: "train", recorder: &mut *recorder, splits, stop: work.stop };
    let points = points(&shared.every, iterations, work.curve_points);
    let course = TrainSchedule { iterations, eval_at: &points };
    let look = |module: &M::Module, clocks: Clocks, recorder: &mut dyn Recorder| {
        let marks = look(&actor(module).for_inference(), clocks, recorder, EvalKind::Curve)?;
        let loss = marks.get(metrics::PROXY).zip(marks.get(metrics::KL)).map(|(proxy, kl)| shared.beta * kl - proxy);
        merit(&shared.every, &marks, loss, clocks.step)
    };
    let clocks = train(method, &mut learner, &mut keeper, course, batch, &mut watch, look)?;
    invariants::frozen_weights_unchanged("the reward model", clocks.step, &reward_hash, &work.reward.hash())?;
    let module = selected_module(keeper, learner.into_module(), clocks, recorder);
    Ok((actor(&module), clocks))
}

fn dpo(
    settings: &duel_spec::DpoSettings,
    work: TrainingInputs<'_>,
    look: EvalCallback<'_>,
    recorder: &mut StageRecorder,
) -> Result<(Policy, Clocks)> {
    let policy = start(&settings.every, &work);
    let (on_train, on_validation) = work.reference_logp.clone().expect("the plan gives DPO the reference's log-probs");
    let of = |split| work.rows.iter().filter(|r| r.split == split).cloned().collect::<Vec<_>>();
    let (rows, validation) = (of(Split::Train), of(Split::Validation));
    on_train.check_origin(&work.reference_hash, &rows)?;
    on_validation.check_origin(&work.reference_hash, &validation)?;
    let made = |logp| Dpo::new(settings.clone(), work.train_reader.clone(), logp, &work.config);
    let mut method = made(on_train.clone()).with_reference(&work.reference);
    let validator = made(on_train).with_reference(&work.reference);
    let steps = (settings.epochs * (rows.len() / settings.batch_size.min(rows.len()))) as u64;
    let mut learner = learner(policy, &settings.every, settings.learning_rate, steps, &work);
    let mut queue = EpochSampler::new(rows.len(), settings.batch_size, work.seed, Stream::DpoRows);
    let left_out = queue.left_out();
    let batch = |step| -> Result<_> { Ok(PairBatch::new(&rows, queue.at(step))) };
    let validate = |policy: &Policy, clocks: Clocks, recorder: &mut dyn Recorder| {
        let found = validator.validate(&work.reader, policy, &validation, &on_validation);
        recorder.record("train", clocks, metrics::DPO_LOSS_VALIDATION, found.loss);
        recorder.record("train", clocks, metrics::DPO_ACCURACY_VALIDATION, found.accuracy);
        found.loss
    };
    let mut keeper = BestCheckpoint::new(settings.every.patience);
    let splits = Some(&work.splits);
    let mut watch =
        TrainContext { stage: "train", training: "train", recorder: &mut *recorder, splits, stop: work.stop };
    let points = points(&settings.every, steps, work.curve_points);
    let course = TrainSchedule { iterations: steps, eval_at: &points };
    let looked = |module: &Policy, clocks: Clocks, recorder: &mut dyn Recorder| {
        let policy = module.valid().for_inference();
        let loss = validate(&policy, clocks, recorder);
        let marks = look(&policy, clocks, recorder, EvalKind::Curve)?;
        merit(&settings.every, &marks, Some(loss), clocks.step)
    };
    let clocks = train(&mut method, &mut learner, &mut keeper, course, batch, &mut watch, looked)?;
    recorder.record("train", clocks, metrics::ROWS_LEFT_OUT, left_out);
    let policy = selected_module(keeper, learner.into_module(), clocks, recorder).valid();
    validate(&policy.clone().for_inference(), clocks, recorder);
    let resident = 1.0 + f64::from(settings.loss.takes(PairInput::Mismatched)); // the others' reference is in the cache
    recorder.record("train", clocks, metrics::MODELS_RESIDENT, resident);
    Ok((policy, clocks))
}

/// When a training is looked at. Its end is measured in full by the caller, and needs a look only where policies are held
/// against each other.
fn points(every: &CommonSettings, iterations: u64, points: usize) -> Vec<u64> {
    let mut steps = curve_steps(iterations, points);
    if every.keep == CheckpointSelection::Last {
        steps.pop();
    }
    steps
}
