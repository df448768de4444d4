//! How the parts of the methods on rollouts are connected: their cost by a second count, the random streams that they draw
//! from, the policies that they read, and when they start to learn.

use crate::rollout::{BehaviorAndCurrent, Rollout, RolloutCollector, RolloutContext};
use crate::sampling::RolloutPrompts;
use crate::{ActorCritic, Baseline, Critic, OnlineDpo, PolicyGradient, Ppo, Raft};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use duel_model::{CountedFlops, Flops, Policy, ResponseReader, Responses, ScalarModel, TransformerConfig, ValueHead};
use duel_model::{count_flops, generate, weights};
use duel_objectives::{ResponseMask, k1};
use duel_reward::{LearnedReward, RewardNetwork};
use duel_spec::ids::prompt_hash;
use duel_spec::metrics::{self, Metric};
use duel_spec::seeds::{self, Stream};
use duel_spec::{
    CriticBody, EnsembleScore, KlControl, KlEstimator, KlPenalty, LearnerSettings, Normalization, OnlineLoss,
    ReferenceMode, RewardSettings, RewardSource, RolloutSettings, TokenSpec,
};
use duel_testing_tensors::trajectory;
use duel_training::{Error, IterationCost, Learner, Method, Metrics, Result, logprobs};
use std::collections::HashSet;
use std::sync::Arc;

mod rewards;
mod sampling;

/// Tokens of a prompt and of a response.
pub(crate) const P: usize = 5;
pub(crate) const T: usize = 4;
/// Responses of a rollout, in groups of two where there are groups.
pub(crate) const ROWS: usize = 8;
pub(crate) const SEED: u64 = 11;

/// No response can end early, so that each has `T` tokens and all passes are of one size.
fn space() -> TokenSpec {
    TokenSpec { allowed_tokens: Some((3..12).collect()), ..trajectory::space(12, [0, 2], P, T) }
}

pub(crate) fn config() -> TransformerConfig {
    TransformerConfig::small(12, P + T, 2, 16, 2, true)
}

pub(crate) fn policy(seed: u64) -> Policy {
    Policy::new(&config(), &mut seeds::derive(seed, "test", 0, "init"), &Device::flex())
}

/// A network that scores, as a reward model does.
fn reward() -> LearnedReward {
    let head = (0..16).map(|i| if i % 2 == 0 { 1.0 } else { -0.5 }).collect();
    let network = ScalarModel::with_head(policy(3), head, &Device::flex()).no_grad();
    LearnedReward::new(vec![(RewardNetwork::Network(network), 0.0)], EnsembleScore::Mean, reader(), 0.0, 1.0)
}

fn reader() -> ResponseReader {
    ResponseReader::new(&space(), &Device::flex())
}

/// The reference is another policy than the one that trains.
pub(crate) fn context() -> RolloutContext {
    RolloutContext {
        reference: Some(policy(1).no_grad()),
        scorer: Arc::new(reward()),
        reader: reader(),
        train_reader: ResponseReader::new(&space(), &Device::flex().autodiff()),
        config: config(),
        scorer_flops: Flops::scalar(&config()).forward(1),
        seed: SEED,
    }
}

pub(crate) fn settings() -> RolloutSettings {
    RolloutSettings {
        beta: 0.1,
        reward: RewardSettings::One(RewardSource::Rm),
        iterations: 3,
        episodes: ROWS,
        epochs: 2,
        minibatches: 2,
        target_kl: f64::INFINITY,
        ..duel_spec::PpoSettings::defaults().shared
    }
}

/// Prompts, each `group` times in a row; neighbouring groups have different prompts.
fn prompts(group: usize) -> Vec<Vec<u32>> {
    (0..ROWS).map(|row| vec![1, 3 + (row / group) as u32, 4, 5, 6]).collect()
}

pub(crate) fn learner<M: Module>(module: M) -> Learner<M> {
    Learner::new(module, &LearnerSettings { warmup: 0.0, ..LearnerSettings::defaults() }, 1e-2, 100)
}

fn actor_critic(critic: CriticBody) -> ActorCritic {
    let device = Device::flex().autodiff();
    let critic = match critic {
        CriticBody::Separate => Critic::Separate(ScalarModel::from_policy(policy(4).train(), &device)),
        CriticBody::Shared => Critic::Shared(ValueHead::new(16, &device)),
    };
    ActorCritic { actor: policy(2).train(), critic }
}

pub(crate) fn ppo(shared: RolloutSettings, critic: CriticBody) -> Ppo {
    Ppo::new(
        duel_spec::PpoSettings { shared, critic, critic_warmup: 0, ..duel_spec::PpoSettings::defaults() },
        context(),
    )
}

pub(crate) fn online_dpo() -> OnlineDpo {
    OnlineDpo::new(
        duel_spec::OnlineDpoSettings {
            shared: settings(),
            pair_loss: OnlineLoss::Sigmoid,
            label_temperature: 0.0,
            xpo_alpha: 0.0,
        },
        context(),
    )
}

fn raft() -> Raft {
    Raft::new(duel_spec::RaftSettings { shared: settings(), group: 2 }, context())
}

type Prompts = Vec<Vec<u32>>;

/// Checks that one iteration costs by the formula what the models count: every pass of the formula is one of all `P + T` tokens, a
/// pass through the blocks leaves the last of them out, and a prompt repeated consecutively is prefilled once.
fn costs_what_is_counted<M: Method<Batch = Prompts>>(
    what: &str,
    mut method: M,
    module: M::Module,
    group: usize,
    uncounted: f64,
) {
    let mut learner = learner(module);
    let before = count_flops();
    let metrics = method.iteration(&prompts(group), &mut learner).unwrap_or_else(|e| panic!("{what}: {e}"));
    let now = count_flops();
    let since = |count: fn(CountedFlops) -> f64| count(now) - count(before);
    let blocks = (config().layers * config().block_matrices()) as f64;
    let saved = 2.0 * blocks * (P * (ROWS - ROWS / group)) as f64;
    let pass = 2.0 * blocks * ((P + T - 1) * ROWS) as f64;
    let (tokens, columns) = ((P + T) as f64, (P + T - 1) as f64);
    let counted = (since(|c| c.blocks + c.blocks_back) + saved - uncounted * pass) * tokens / columns
        + since(|c| c.heads + c.heads_back) * tokens / T as f64;
    // a score is computed on all tokens, and the heads of a critic and of an uncounted pass are not separated: 2% in all
    let error = (counted / metrics.cost.flops - 1.0).abs();
    assert!(error < 0.02, "{what}: {counted:e} FLOPs counted, {:e} by the formula", metrics.cost.flops);
}

/// Every pass is counted, and none twice: the smallest of them is 6% of the whole.
#[test]
fn every_method_costs_what_its_models_count() {
    let actor = || policy(2).train();
    let separate = || actor_critic(CriticBody::Separate);
    costs_what_is_counted("PPO", ppo(settings(), CriticBody::Separate), separate(), 1, 0.0);
    let full = RolloutSettings { kl_estimator: KlEstimator::Full, ..settings() };
    costs_what_is_counted("PPO, whole KL", ppo(full.clone(), CriticBody::Separate), separate(), 1, 0.0);
    let in_loss = RolloutSettings { kl: KlPenalty::Loss, ..full };
    costs_what_is_counted("PPO, whole KL in the loss", ppo(in_loss, CriticBody::Separate), separate(), 1, 0.0);
    let high_entropy = RolloutSettings { top_entropy_quantile: 0.2, ..settings() };
    costs_what_is_counted("PPO, entropies", ppo(high_entropy, CriticBody::Separate), separate(), 1, 0.0);
    let no_kl = RolloutSettings { beta: 0.0, ..settings() };
    costs_what_is_counted("PPO, beta = 0", ppo(no_kl, CriticBody::Separate), separate(), 1, 0.0);
    // a shared critic's values are those of the actor's pass, which is made once more for them
    let shared = actor_critic(CriticBody::Shared);
    costs_what_is_counted("PPO, shared critic", ppo(settings(), CriticBody::Shared), shared, 1, 1.0);
    for (what, baseline, group) in [
        ("REINFORCE", Baseline::Past { sum: 0.0, n: 0.0 }, 1),
        ("RLOO", Baseline::LeaveOneOut { group: 2 }, 2),
        ("GRPO", Baseline::Group { group: 2, scale: true }, 2),
    ] {
        costs_what_is_counted(what, PolicyGradient::new(baseline, settings(), context()), actor(), group, 0.0);
    }
    costs_what_is_counted("online DPO", online_dpo(), actor(), 2, 0.0);
    costs_what_is_counted("RAFT", raft(), actor(), 2, 0.0);
    let free = RolloutContext { scorer: Arc::new(CountFives), scorer_flops: 0.0, ..context() };
    let past = Baseline::Past { sum: 0.0, n: 0.0 };
    costs_what_is_counted("REINFORCE on gold", PolicyGradient::new(past, settings(), free), actor(), 1, 0.0);
}

/// Tokens that are sampled, trained on and only read, in passes over all responses.
#[test]
fn every_method_counts_its_tokens() {
    fn cost_of<M: Method<Batch = Prompts>>(mut method: M, module: M::Module, group: usize) -> IterationCost {
        let metrics = method.iteration(&prompts(group), &mut learner(module)).unwrap_or_else(|e| panic!("{e}"));
        metrics.cost
    }
    let actor = || policy(2).train();
    let of_ppo = |shared, critic| cost_of(ppo(shared, critic), actor_critic(critic), 1);
    let group = |baseline, context| cost_of(PolicyGradient::new(baseline, settings(), context), actor(), 2);
    let (separate, shared) = (CriticBody::Separate, CriticBody::Shared);
    let full = RolloutSettings { kl_estimator: KlEstimator::Full, ..settings() };
    let in_loss = RolloutSettings { kl: KlPenalty::Loss, ..settings() };
    let high_entropy = RolloutSettings { top_entropy_quantile: 0.2, ..settings() };
    let free_of_kl = |kl| RolloutSettings { beta: 0.0, kl, ..full.clone() };
    let free = RolloutContext { scorer: Arc::new(CountFives), scorer_flops: 0.0, ..context() };
    let others = Baseline::LeaveOneOut { group: 2 };
    for (what, cost, read) in [
        // the policy itself, the reference, the reward model and the critic
        ("PPO", of_ppo(settings(), separate), 4),
        ("PPO, shared critic", of_ppo(settings(), shared), 3),
        // policy and reference once more, for all their logits; in the loss the reference, in both epochs
        ("PPO, whole KL", of_ppo(full.clone(), separate), 6),
        ("PPO, KL in the loss", of_ppo(in_loss.clone(), separate), 4),
        ("PPO, whole KL in the loss", of_ppo(RolloutSettings { kl: KlPenalty::Loss, ..full.clone() }, separate), 6),
        ("RLOO", group(others, context()), 3),
        ("RLOO on gold", group(others, free), 2),
        // the policy once more, for its entropies
        ("PPO, high-entropy tokens", of_ppo(high_entropy, shared), 4),
        // the policy itself and the reward model: with beta = 0 there is no reference, whatever the estimator
        ("PPO, beta = 0", of_ppo(free_of_kl(KlPenalty::Reward), shared), 2),
        ("PPO, beta = 0 in the loss", of_ppo(free_of_kl(KlPenalty::Loss), shared), 2),
        ("online DPO", cost_of(online_dpo(), actor(), 2), 3),
        ("RAFT", cost_of(raft(), actor(), 2), 3),
    ] {
        let pass = ((P + T) * ROWS) as u64;
        let tokens = [cost.sampled_tokens, cost.trained_tokens, cost.scored_tokens];
        assert_eq!(tokens, [(T * ROWS) as u64, 2 * pass, read * pass], "{what}");
    }
}

#[test]
fn every_method_knows_its_prompts() {
    let prompts = prompts(2);
    let hashes: Vec<u64> = prompts.iter().map(|prompt| prompt_hash(prompt)).collect();
    for actual in [
        Ppo::prompts(&prompts),
        PolicyGradient::prompts(&prompts),
        OnlineDpo::prompts(&prompts),
        Raft::prompts(&prompts),
    ] {
        assert_eq!(actual, hashes);
    }
}

/// A method that resumes from its state continues as one that never stopped: with its number of rollouts, the KL coefficient,
/// the reference, the moments of scores and the mean return.
#[test]
fn every_method_resumes_from_its_state() {
    fn resumes<M: Method<Batch = Prompts>>(what: &str, new: impl Fn() -> M, module: M::Module) {
        let (mut method, mut learner_so_far) = (new(), learner(module));
        for _ in 0..2 {
            method.iteration(&prompts(2), &mut learner_so_far).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        let module = learner_so_far.into_module();
        let mut resumed = new();
        resumed.resume(method.state());
        let next = |mut method: M| {
            let mut learner = learner(module.clone());
            let metrics = method.iteration(&prompts(2), &mut learner).unwrap_or_else(|e| panic!("{what}: {e}"));
            (metrics.values, metrics.cost, serde_json::to_string(&method.state()).expect("a state"))
        };
        assert_eq!(next(method), next(resumed), "{what}");
    }
    let settings = || RolloutSettings {
        reference: ReferenceMode::Ema,
        reference_decay: 0.5,
        kl_control: KlControl::Target,
        scores: Normalization::White,
        ..settings()
    };
    let actor = || policy(2).train();
    resumes("PPO", || ppo(settings(), CriticBody::Separate), actor_critic(CriticBody::Separate));
    let past = Baseline::Past { sum: 0.0, n: 0.0 };
    resumes("REINFORCE", || PolicyGradient::new(past, settings(), context()), actor());
    let online = || duel_spec::OnlineDpoSettings {
        shared: settings(),
        pair_loss: OnlineLoss::Sigmoid,
        label_temperature: 1.0,
        xpo_alpha: 0.0,
    };
    resumes("online DPO", || OnlineDpo::new(online(), context()), actor());
    let xpo = || duel_spec::OnlineDpoSettings { xpo_alpha: 0.1, ..online() };
    resumes("XPO", || OnlineDpo::new(xpo(), context()), actor());
    let no_kl = || RolloutSettings { beta: 0.0, scores: Normalization::White, ..self::settings() };
    resumes("REINFORCE without a reference", || PolicyGradient::new(past, no_kl(), context()), actor());
    let dynamic = || RolloutSettings { dynamic_sampling_rounds: 2, episodes: 4, ..settings() };
    let group = Baseline::Group { group: 2, scale: true };
    let even = || RolloutContext { scorer: Arc::new(sampling::EqualOnEven), ..context() };
    resumes("GRPO with dynamic sampling", || PolicyGradient::new(group, dynamic(), even()), actor());
    let adaptive =
        || RolloutSettings { use_adaptive_entropy: true, entropy_target: 9.0, entropy_coef: 0.1, ..settings() };
    resumes("REINFORCE with adaptive entropy", || PolicyGradient::new(past, adaptive(), context()), actor());
    resumes("RAFT", || Raft::new(duel_spec::RaftSettings { shared: settings(), group: 2 }, context()), actor());
}

/// EOS must differ from PAD, or be told from it by the tokens that may be sampled: seen at the first rollout.
#[test]
fn the_first_rollout_is_checked() {
    let space = trajectory::space(12, [2, 2], P, T);
    let context = RolloutContext {
        reader: ResponseReader::new(&space, &Device::flex()),
        train_reader: ResponseReader::new(&space, &Device::flex().autodiff()),
        ..context()
    };
    assert!(format!("{context:?}").contains("seed 11"));
    let mut collector = RolloutCollector::new(context, settings());
    let current = policy(2).train();
    let behavior = current.valid();
    let mut roll_out = |iteration| {
        collector.iteration = iteration;
        let actors = BehaviorAndCurrent { behavior: &behavior, current: &current };
        collector.roll_out(actors, RolloutPrompts::new(&prompts(1), 1), &[], 0, &mut Metrics::default()).map(|_| ())
    };
    let result = roll_out(0);
    let name = "eos_counts_and_pad_does_not";
    assert!(matches!(&result, Err(Error::Invariant { name: broken, .. }) if *broken == name), "{result:?}");
    assert!(roll_out(1).is_ok());
}

/// The share of a response that is the token 5.
struct CountFives;

impl duel_reward::Scorer for CountFives {
    fn score(&self, batch: &Responses) -> duel_reward::Result<Vec<f64>> {
        let share = |response: &Vec<u32>| response.iter().filter(|&&id| id == 5).count() as f64 / T as f64;
        Ok(batch.responses.iter().map(share).collect())
    }
}

/// Each iteration draws from each of its streams once, at its own number and the configured seed; no two methods share one
/// except the rollout's.
#[test]
fn no_stream_is_drawn_twice() {
    fn streams_of<M: Method<Batch = Prompts>>(mut method: M, module: M::Module, group: usize) -> Vec<seeds::Taken> {
        let mut learner = learner(module);
        let (_, drawn) = seeds::taken_by(|| {
            for _ in 0..3 {
                method.iteration(&prompts(group), &mut learner).unwrap_or_else(|e| panic!("{e}"));
            }
        });
        drawn
    }
    let actor = || policy(2).train();
    let past = PolicyGradient::new(Baseline::Past { sum: 0.0, n: 0.0 }, settings(), context());
    let all = [
        (streams_of(ppo(settings(), CriticBody::Separate), actor_critic(CriticBody::Separate), 1), 2),
        (streams_of(past, actor(), 1), 2),
        (streams_of(online_dpo(), actor(), 2), 3),
        (streams_of(raft(), actor(), 2), 2),
    ];
    let mut others = HashSet::new();
    for (drawn, streams) in all {
        assert_eq!(drawn.len(), 3 * streams, "{drawn:?}");
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len(), "{drawn:?}");
        assert!(drawn.iter().all(|t| t.seed == SEED), "{drawn:?}");
        for iteration in 0..3 {
            assert_eq!(drawn.iter().filter(|t| t.iteration == iteration).count(), streams, "{drawn:?}");
        }
        assert!(drawn.iter().filter(|t| t.purpose != "rollout").all(|t| others.insert(t.clone())), "{drawn:?}");
    }
}

pub(crate) fn value_of(metrics: &Metrics, metric: Metric) -> f64 {
    metrics.values.iter().find(|(m, _)| *m == metric).unwrap_or_else(|| panic!("no {metric}")).1
}

/// The responses are the old policy's, from the rollout's own stream; KL is from it to the reference; the return is the score
/// minus the KL penalty.
#[test]
fn a_rollout_is_of_the_policy_and_its_kl_is_to_the_reference() -> Result<()> {
    let mut method = ppo(settings(), CriticBody::Separate);
    let mut learner = learner(actor_critic(CriticBody::Separate));
    for iteration in 0..2 {
        let now = learner.module().actor.valid();
        let metrics = method.iteration(&prompts(1), &mut learner)?;
        let mut rng = seeds::stream(SEED, Stream::Rollout, iteration);
        let batch = generate(&now, &space(), prompts(1), &mut rng, &Device::flex());
        let [policy_logp, reference] =
            [&now, &policy(1)].map(|policy| logprobs::sequence_logp(&reader(), policy, &batch));
        let kl = policy_logp
            .iter()
            .zip(reference)
            .map(|(policy_logp, reference)| f64::from(policy_logp - reference))
            .sum::<f64>()
            / ROWS as f64;
        let scores = duel_reward::Scorer::score(&reward(), &batch).unwrap_or_else(|e| panic!("{e}"));
        let score = scores.iter().sum::<f64>() / ROWS as f64;
        for (metric, expected) in [
            (metrics::ROLLOUT_KL, kl),
            (metrics::ROLLOUT_PROXY, score),
            (metrics::ROLLOUT_RETURN, score - 0.1 * kl),
            (metrics::ROLLOUT_ENTROPY, -policy_logp.iter().map(|&x| f64::from(x)).sum::<f64>() / (ROWS * T) as f64),
        ] {
            let actual = value_of(&metrics, metric);
            assert!((actual - expected).abs() < 1e-4, "iteration {iteration}, {metric}: {actual}, by hand {expected}");
        }
        assert!(kl.abs() > 0.05, "the sign of the KL would not show: {kl}");
    }
    Ok(())
}

/// While the critic warms up, it alone learns.
#[test]
fn the_policy_waits_for_its_critic() -> Result<()> {
    let warm = duel_spec::PpoSettings { shared: settings(), critic_warmup: 2, ..duel_spec::PpoSettings::defaults() };
    let mut method = Ppo::new(warm, context());
    let mut learner = learner(actor_critic(CriticBody::Separate)).with_own_optimizer("actor");
    let weights_of = |module: &ActorCritic| {
        let Critic::Separate(critic) = &module.critic else { panic!("a critic of its own") };
        (weights::flatten(&module.actor), weights::flatten(critic))
    };
    let mut before = weights_of(learner.module());
    for waits in [true, true, false] {
        method.iteration(&prompts(1), &mut learner)?;
        let now = weights_of(learner.module());
        assert_eq!(now.0 == before.0, waits, "the policy");
        assert_ne!(now.1, before.1, "the critic");
        before = now;
    }
    Ok(())
}

/// A rollout of eight responses whose every token has log-probs −1, and −1 − `apart` under the reference.
pub(crate) fn rollout(scores: [f64; ROWS], apart: [f64; ROWS], beta: f64) -> Rollout {
    let device = Device::flex();
    let flat: Vec<f32> = apart.iter().flat_map(|&apart| [-1.0 - apart as f32; T]).collect();
    let logp = Tensor::<2>::ones([ROWS, T], &device).neg();
    let ref_logp = Tensor::<1>::from_data(flat.as_slice(), &device).reshape([ROWS, T]);
    Rollout {
        responses: Responses {
            prompts: prompts(2),
            responses: vec![vec![3, 4, 5, 6]; ROWS],
            logp: vec![],
            masks: vec![],
        },
        mask: ResponseMask::from_lengths(&[T; ROWS], T, &device),
        token_kl: k1(logp.clone(), ref_logp.clone()),
        logp,
        ref_logp: Some(ref_logp),
        beta,
        scores: scores.into(),
        components: vec![],
        token_rewards: None,
        token_weights: None,
        token_kl_coefs: None,
        entropy_coef: 0.0,
        reference_writes: false,
        reference: None,
    }
}

/// RAFT imitates the response of a group with the largest score − β·KL.
#[test]
fn the_best_of_a_group_has_the_largest_return() {
    // a KL of .5 · 4 tokens at β = 1 outweighs a score that is 1 higher
    let (scores, apart) = ([1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0]);
    let winners = raft().winners(rollout(scores, apart, 1.0));
    let lengths = weights::host(winners.mask.lengths());
    assert_eq!(lengths, [0.0, 4.0, 4.0, 0.0, 4.0, 0.0, 0.0, 4.0]);
    // at β = ⅛ it does not
    let winners = raft().winners(rollout(scores, apart, 0.125));
    assert_eq!(weights::host(winners.mask.lengths())[4..6], [0.0, 4.0]);
}

/// Online DPO's label is whether the first of two has the higher score.
#[test]
fn the_preferred_of_two_has_the_higher_score() {
    let method = online_dpo();
    let labels = method.labels(&rollout([1.0, 2.0, 2.0, 1.0, 0.0, 0.5, 3.0, -1.0], [0.0; ROWS], 0.1));
    assert_eq!(labels, [false, true, false, true]);
}

/// A return is the score minus the KL penalty; the advantage is the return minus its baseline.
#[test]
fn advantages_by_hand() {
    let advantages = |baseline, rollouts: &[Rollout]| -> Vec<Vec<f32>> {
        let mut method = PolicyGradient::new(baseline, settings(), context());
        rollouts.iter().map(|rollout| weights::host(method.advantages(rollout))).collect()
    };
    // returns 1, 3 − 2, and so on by twos: a KL of 1 per token at β = ½ is 2
    let penalized = rollout([1.0, 3.0, 2.0, 2.0, 0.0, 4.0, 5.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 0.5);
    let returns = [1.0, 1.0, 2.0, 2.0, 0.0, 4.0, 5.0, 1.0];
    let group = advantages(Baseline::Group { group: 2, scale: false }, std::slice::from_ref(&penalized));
    assert_eq!(group[0], [0.0, 0.0, 0.0, 0.0, -2.0, 2.0, 2.0, -2.0]);
    let others = advantages(Baseline::LeaveOneOut { group: 2 }, std::slice::from_ref(&penalized));
    assert_eq!(others[0], [0.0, 0.0, 0.0, 0.0, -4.0, 4.0, 4.0, -4.0]);
    // the baseline of the first rollout is its own mean, 2; that of the second the mean of the first alone
    let next = rollout([6.0; ROWS], [0.0; ROWS], 0.5);
    let past = advantages(Baseline::Past { sum: 0.0, n: 0.0 }, &[penalized, next]);
    assert_eq!(past[0], returns.map(|x| x - 2.0));
    assert_eq!(past[1], [4.0; ROWS]);
}

/// With `kl_to_come` the baseline is of scores, and each token pays for itself and those after it.
#[test]
fn the_kl_to_come_by_hand() {
    let rollout = rollout([1.0, 3.0, 2.0, 2.0, 0.0, 4.0, 5.0, 1.0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -0.5, 0.0], 0.5);
    let settings = RolloutSettings { kl_to_come: true, ..settings() };
    for baseline in [Baseline::Group { group: 2, scale: false }, Baseline::Past { sum: 4.0, n: 2.0 }] {
        let mut method = PolicyGradient::new(baseline, settings.clone(), context());
        let advantages = method.advantages(&rollout);
        let tokens = weights::host(method.of_tokens(advantages, &rollout));
        let of_scores: Vec<f32> = match baseline {
            Baseline::Past { .. } => rollout.scores.iter().map(|score| *score as f32 - 2.0).collect(),
            _ => vec![-1.0, 1.0, 0.0, 0.0, -2.0, 2.0, 2.0, -2.0],
        };
        for (cell, actual) in tokens.into_iter().enumerate() {
            let to_come = (T - cell % T) as f32;
            let penalty = [0.0, 0.5, 0.0, 0.0, 0.0, 0.0, -0.25, 0.0][cell / T] * to_come;
            let expected = of_scores[cell / T] - penalty;
            assert!((actual - expected).abs() < 1e-6, "{baseline:?}, {cell}: {actual}, by hand {expected}");
        }
    }
}

/// GRPO's advantages in groups of two are ±√½: half a difference over its standard deviation.
#[test]
fn the_spread_of_scaled_advantages_is_that_of_their_groups() -> Result<()> {
    let in_loss = RolloutSettings { kl: KlPenalty::Loss, ..settings() };
    let mut method = PolicyGradient::new(Baseline::Group { group: 2, scale: true }, in_loss, context());
    let metrics = method.iteration(&prompts(2), &mut learner(policy(2).train()))?;
    let sd = value_of(&metrics, metrics::ADVANTAGE_SD);
    assert!((sd - 0.5f64.sqrt()).abs() < 0.01, "{sd}");
    Ok(())
}

/// A reference that follows keeps `reference_decay` of itself at each step, and takes the rest from the policy; one that does
/// not stays.
#[test]
fn a_reference_that_follows_moves_by_one_minus_its_decay() {
    let rollout = rollout([0.0; ROWS], [0.0; ROWS], 0.1);
    let after = |reference| {
        let settings = RolloutSettings { reference, reference_decay: 0.75, ..settings() };
        let mut collector = RolloutCollector::new(context(), settings);
        collector.next(&rollout, &policy(2));
        assert_eq!(collector.iteration, 1);
        weights::flatten(collector.reference().expect("beta is above 0"))
    };
    let [old, new] = [policy(1), policy(2)].map(|policy| weights::flatten(&policy));
    assert_eq!(after(ReferenceMode::Frozen), old);
    let blend: Vec<f32> = old.iter().zip(new).map(|(old, new)| 0.75 * old + 0.25 * new).collect();
    assert_eq!(after(ReferenceMode::Ema), blend);
}

/// Iterative DPO: each round's reference is the policy that writes its pairs, in a resumed training too.
#[test]
fn the_last_policy_is_the_reference_of_a_round() {
    for (reference, is_last) in [(ReferenceMode::Last, true), (ReferenceMode::Frozen, false)] {
        let shared = RolloutSettings { reference, ..settings() };
        let settings = duel_spec::OnlineDpoSettings {
            shared,
            pair_loss: OnlineLoss::Sigmoid,
            label_temperature: 0.0,
            xpo_alpha: 0.0,
        };
        let (mut method, mut learner) = (OnlineDpo::new(settings, context()), learner(policy(2).train()));
        for round in 0..3 {
            let metrics = method.iteration(&prompts(2), &mut learner).unwrap_or_else(|e| panic!("{e}"));
            let kl = metrics.values.iter().find(|(m, _)| *m == metrics::ROLLOUT_KL).expect("a KL").1;
            assert_eq!(kl.abs() < 1e-5, is_last, "{reference:?}, round {round}: {kl}");
        }
    }
}
