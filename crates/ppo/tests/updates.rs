//! The updates on a rollout, for every method: all that were planned, the same in one part or in many, none where no response
//! counts, and none of the policy while its critic warms up.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::Module;
use burn::tensor::Device;
use duel_model::{Policy, ResponseReader, Responses, ScalarModel, TransformerConfig, ValueHead, weights};
use duel_ppo::{ActorCritic, Baseline, Critic, OnlineDpo, PolicyGradient, Ppo, Raft, RolloutContext, planned};
use duel_reward::Scorer;
use duel_spec::{
    Document, Experiment, GrpoSettings, LearnerSettings, MethodSettings, RlooSettings, TokenSpec, metrics, seeds,
};
use duel_testing_tensors::trajectory;
use duel_training::{Learner, Method as _, Metrics, rate};
use std::sync::Arc;

/// Tokens 3 to 5 are good.
struct Count;

impl Scorer for Count {
    fn score(&self, batch: &Responses) -> duel_reward::Result<Vec<f64>> {
        let count = |response: &Vec<u32>| response.iter().filter(|id| (3..=5).contains(*id)).count() as f64;
        Ok(batch.responses.iter().map(count).collect())
    }
}

/// A world in which most responses are cut off before EOS.
fn space() -> TokenSpec {
    TokenSpec { allowed_tokens: Some((2..12).collect()), ..trajectory::space(12, [0, 2], 3, 4) }
}

fn policy() -> Policy {
    let config = TransformerConfig::small(12, 7, 1, 8, 2, true);
    Policy::new(&config, &mut seeds::derive(3, "test", 0, "init"), &Device::flex().autodiff())
}

fn context() -> RolloutContext {
    RolloutContext {
        reference: Some(policy().valid()),
        scorer: Arc::new(Count),
        reader: ResponseReader::new(&space(), &Device::flex()),
        train_reader: ResponseReader::new(&space(), &Device::flex().autodiff()),
        config: TransformerConfig::small(12, 7, 1, 8, 2, true),
        scorer_flops: 0.0,
        seed: 7,
    }
}

/// The method of an arm; `None` where the experiment is refused.
fn method(arm: &str) -> Option<MethodSettings> {
    let document = Document::parse("t", &format!("[arms.a]\n{arm}\n"), &[]).unwrap();
    let experiment = Experiment::from_document(&document).ok()?;
    Some(experiment.cells_for(&experiment.trials())[0].point.method.clone())
}

/// Prompts of an iteration, each `group` times in a row.
fn prompts(episodes: usize, group: usize) -> Vec<Vec<u32>> {
    (0..episodes).map(|row| vec![1, 3 + (row / group % 8) as u32, 4]).collect()
}

/// Trains for all iterations, each under its own dropout mask.
fn trained<M: duel_training::Method<Batch = Vec<Vec<u32>>>>(
    mut method: M,
    learner: &mut Learner<M::Module>,
    iterations: usize,
    prompts: &Vec<Vec<u32>>,
) -> Vec<Metrics> {
    (0..iterations as u64)
        .map(|iteration| {
            learner.apply_dropout(iteration);
            let metrics = method.iteration(prompts, learner).unwrap();
            learner.remove_dropout();
            metrics
        })
        .collect()
}

/// The updates of a whole training.
struct TrainingOutcome {
    made: u64,
    left_out: u64,
    moved: u64,
    planned: u64,
    metrics: Vec<Metrics>,
}

/// Trains a method from the same start.
fn end_of(method: &MethodSettings, settings: &LearnerSettings) -> TrainingOutcome {
    let shared = method.on_policy().unwrap();
    let prompts = prompts(shared.episodes * (1 + shared.dynamic_sampling_rounds), method.group());
    let planned = planned(shared);
    let (iterations, context) = (shared.iterations, context());
    fn outcome<M: Module>(learner: &Learner<M>, planned: u64, metrics: Vec<Metrics>) -> TrainingOutcome {
        TrainingOutcome {
            made: learner.step(),
            left_out: learner.skipped(),
            moved: learner.updates_made(),
            planned,
            metrics,
        }
    }
    if let MethodSettings::Ppo(ppo) = method {
        let module = actor_critic(true, false);
        let mut learner = Learner::new(module, settings, shared.learning_rate, planned);
        let metrics = trained(Ppo::new(ppo.clone(), context), &mut learner, iterations, &prompts);
        return outcome(&learner, planned, metrics);
    }
    let mut learner = Learner::new(policy(), settings, shared.learning_rate, planned);
    let free = |baseline, context| PolicyGradient::new(baseline, shared.clone(), context);
    let metrics = match method {
        MethodSettings::OnlineDpo(online) => {
            trained(OnlineDpo::new(online.clone(), context), &mut learner, iterations, &prompts)
        }
        MethodSettings::Raft(raft) => trained(Raft::new(raft.clone(), context), &mut learner, iterations, &prompts),
        MethodSettings::Rloo(RlooSettings { group, .. }) => {
            trained(free(Baseline::LeaveOneOut { group: *group }, context), &mut learner, iterations, &prompts)
        }
        MethodSettings::Grpo(GrpoSettings { group, scale, .. }) => {
            let baseline = Baseline::Group { group: *group, scale: *scale };
            trained(free(baseline, context), &mut learner, iterations, &prompts)
        }
        _ => trained(free(Baseline::Past { sum: 0.0, n: 0.0 }, context), &mut learner, iterations, &prompts),
    };
    outcome(&learner, planned, metrics)
}

/// An actor, with LoRA or without, and a critic with its own body or on the actor's.
fn actor_critic(separate: bool, lora: bool) -> ActorCritic {
    let device = Device::flex().autodiff();
    let actor = match lora {
        true => policy().with_fresh_lora(2, 2.0, |_| true, &mut seeds::derive(3, "test", 0, "lora"), &device),
        false => policy(),
    };
    let critic = match separate {
        true => Critic::Separate(ScalarModel::from_policy(policy(), &device)),
        false => Critic::Shared(ValueHead::new(8, &device)),
    };
    ActorCritic { actor, critic }
}

fn all_of(metrics: &[Metrics], metric: metrics::Metric) -> Vec<f64> {
    metrics
        .iter()
        .filter_map(|m| m.values.iter().find(|(known, _)| *known == metric))
        .map(|(_, value)| *value)
        .collect()
}

#[test]
fn every_update_that_is_planned_is_made_at_the_rate_of_its_schedule() {
    let settings = LearnerSettings::defaults();
    let (mut accepted, mut refused) = (0, 0);
    for (word, group) in [
        ("ppo", 0),
        ("reinforce", 0),
        ("online_dpo", 0),
        ("rloo", 2),
        ("rloo", 3),
        ("grpo", 4),
        ("raft", 2),
        ("raft", 3),
    ] {
        for episodes in [12, 18] {
            for minibatches in [1, 2, 3, 4, 6] {
                for accumulate in [1, 2, 5] {
                    let group = if group > 0 { format!("group = {group}\n") } else { String::new() };
                    let arm = format!(
                        "method = \"{word}\"\niterations = 2\nepochs = 2\nepisodes = {episodes}\nminibatches = {minibatches}\n\
                         target_kl = inf\nlearning_rate = 1e-3\n{group}"
                    );
                    let Some(method) = method(&arm) else {
                        refused += 1;
                        continue;
                    };
                    let end = end_of(&method, &LearnerSettings { accumulate, ..settings.clone() });
                    assert_eq!((end.made, end.left_out), (end.planned, 0), "{arm}accumulate = {accumulate}");
                    let due = (0..end.planned).filter(|&step| rate(&settings, 1.0, step, end.planned) > 0.0).count();
                    assert_eq!((end.planned, end.moved), (4 * minibatches as u64, due as u64), "{arm}");
                    accepted += 1;
                }
            }
        }
    }
    // refused: minibatches that do not divide the episodes, pairs or groups, and groups that do not divide the episodes
    assert!(accepted > 100 && refused > 20, "{accepted} accepted, {refused} refused");
}

#[test]
fn metrics_and_the_stop_do_not_depend_on_the_parts() {
    // the last one learns to avoid EOS: no response of its second rollout counts
    for (arm, leaves_some_out) in [
        ("method = \"ppo\"\nloss_mean = \"responses\"\nlearning_rate = 0.3\ntarget_kl = 2e-4", true),
        (
            "method = \"grpo\"\nloss_mean = \"responses\"\ngroup = 4\nlearning_rate = 0.1\nentropy_coef = 0.01\ntarget_kl = inf",
            false,
        ),
        ("method = \"grpo\"\nbeta = 0\ngroup = 4\nlearning_rate = 0.1\ntarget_kl = inf\nclip_range_high = 0.28", false),
        (
            "method = \"grpo\"\nimportance_sampling_level = \"sequence\"\nclip_range = 1e-2\nloss_mean = \"sum\"\ngroup = 4\nlearning_rate = 0.1\ntarget_kl = inf",
            false,
        ),
        (
            "method = \"ppo\"\nimportance_sampling_level = \"sequence_token\"\nloss_mean = \"constant\"\nclip_dual = 1.5\nlearning_rate = 0.1\ntarget_kl = inf",
            false,
        ),
        (
            "method = \"rloo\"\npolicy_loss = \"cispo\"\nadvantages = \"white\"\ntop_entropy_quantile = 0.5\ngroup = 4\nlearning_rate = 0.1\noff_policy_mask_threshold = 1e-3\ntarget_kl = inf",
            false,
        ),
        (
            "method = \"grpo\"\nbeta = 0\ngroup = 2\ndynamic_sampling_rounds = 2\noverlong_buffer = 2\nlearning_rate = 0.1\ntarget_kl = inf",
            false,
        ),
        (
            "method = \"ppo\"\ncovariance_control = \"kl\"\ncovariance_share = 0.1\nlearning_rate = 0.1\ntarget_kl = inf",
            false,
        ),
        (
            "method = \"grpo\"\ncovariance_control = \"clip\"\ncovariance_share = 0.1\nclip_cov_low = 0.01\ngroup = 4\nlearning_rate = 0.1\ntarget_kl = inf",
            false,
        ),
        ("method = \"ppo\"\ntemperature = 0.8\ntop_p = 0.9\nlearning_rate = 0.1\ntarget_kl = inf", false),
        ("method = \"grpo\"\npolicy_loss = \"sapo\"\ngroup = 4\nlearning_rate = 0.1\ntarget_kl = inf", false),
        ("method = \"online_dpo\"\nlearning_rate = 0.1\nepochs = 2\ntarget_kl = inf", false),
        ("method = \"raft\"\ngroup = 4\nlearning_rate = 0.1", true),
        ("method = \"reinforce\"\nlearning_rate = 0.1\ntruncated = \"mask\"\ntarget_kl = inf", true),
    ] {
        let method = method(&format!("{arm}\niterations = 2\nepisodes = 24\nminibatches = 2")).unwrap();
        // a large epsilon: the weights then follow the gradient smoothly, and rounding stays rounding
        let train_in = |accumulate| {
            let settings =
                LearnerSettings { accumulate, adam_epsilon: 1.0, warmup: 0.0, ..LearnerSettings::defaults() };
            end_of(&method, &settings)
        };
        let whole = train_in(1);
        assert_eq!(whole.left_out > 0, leaves_some_out, "{arm}: {} left out", whole.left_out);
        for accumulate in [3, 12] {
            let parts = train_in(accumulate);
            assert_eq!((whole.made, whole.left_out), (parts.made, parts.left_out), "{arm}");
            for (one, other) in whole.metrics.iter().zip(&parts.metrics) {
                for ((metric, a), (_, b)) in one.values.iter().zip(&other.values) {
                    let close = (a - b).abs() <= 1e-4 * a.abs().max(1e-3);
                    assert!(close, "{arm}: {metric} is {a} in one part and {b} in {accumulate}");
                }
            }
        }
    }
}

#[test]
fn a_minibatch_without_counted_responses_is_skipped_and_counted() {
    let arm =
        "group = 2\nepochs = 1\niterations = 4\nepisodes = 8\nminibatches = 4\ntruncated = \"mask\"\ntarget_kl = inf";
    for word in ["grpo", "rloo", "ppo"] {
        let arm = arm.replace("group = 2\n", if word == "ppo" { "" } else { "group = 2\n" });
        let method = method(&format!("method = \"{word}\"\n{arm}")).unwrap();
        for accumulate in [1, 2] {
            let end = end_of(&method, &LearnerSettings { accumulate, ..LearnerSettings::defaults() });
            let empty: f64 = all_of(&end.metrics, metrics::UPDATES_EMPTY).iter().map(|share| share * 4.0).sum();
            assert!(empty > 0.0 && empty < 16.0, "{word}: {empty} of 16 minibatches");
            assert_eq!((end.made + end.left_out, end.left_out), (16, empty as u64), "{word}");
            assert!(all_of(&end.metrics, metrics::UPDATES_SKIPPED).iter().all(|&share| share == 0.0));
            // statistics of the policy are of all its responses: about half of them would be cut off
            assert!(all_of(&end.metrics, metrics::ROLLOUT_ENTROPY).iter().all(|&nats| nats > 1.5));
        }
    }
}

#[test]
fn the_policy_is_unchanged_to_the_bit_while_its_critic_warms_up() {
    for (separate, lora) in [(false, false), (true, false), (false, true), (true, true)] {
        let Some(MethodSettings::Ppo(mut ppo)) = method(
            "method = \"ppo\"\niterations = 3\nepisodes = 8\nminibatches = 2\nepochs = 2\ncritic_warmup = 2\nlearning_rate = 1e-2",
        ) else {
            panic!("accepted")
        };
        if !separate {
            ppo.critic = duel_spec::CriticBody::Shared;
        }
        let settings =
            LearnerSettings { weight_decay: 0.1, decay_vectors: true, warmup: 0.0, ..LearnerSettings::defaults() };
        let dropout = if lora { 0.3 } else { 0.0 };
        let mut learner = Learner::new(actor_critic(separate, lora), &settings, 1e-2, planned(&ppo.shared))
            .with_dropout(dropout, 5)
            .with_own_optimizer("actor");
        let bits = |learner: &Learner<ActorCritic>| {
            let ActorCritic { actor, critic } = learner.module();
            let bits = |weights: Vec<f32>| weights.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            [bits(weights::flatten(actor)), bits(weights::flatten(critic))]
        };
        let mut method = Ppo::new(ppo, context());
        let [actor, mut critic] = bits(&learner);
        for iteration in 0..3 {
            learner.apply_dropout(iteration);
            method.iteration(&prompts(8, 1), &mut learner).unwrap();
            learner.remove_dropout();
            let [now, its_critic] = bits(&learner);
            assert_eq!(now == actor, iteration < 2, "iteration {iteration}, separate {separate}, lora {lora}");
            assert!(its_critic != critic, "the critic trains in iteration {iteration}");
            critic = its_critic;
        }
        assert_eq!(learner.updates_made(), 4, "the updates of the third iteration alone move both");
    }
}
