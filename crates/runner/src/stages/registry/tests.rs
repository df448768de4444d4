//! What the methods start from, and what they cost, keep and count.

use super::super::testing::{recorded, recorder};
use super::*;
use burn::module::Param;
use burn::tensor::Device;
use duel_data::World;
use duel_data::grammar::{GrammarWorld, token};
use duel_model::weights::number_count;
use duel_model::{ResponseReader, TransformerConfig, generate};
use duel_reward::{GrammarGold, LearnedReward, RewardNetwork};
use duel_spec::metrics::Metric;
use duel_spec::{
    BudgetSettings, BudgetUnit, DpoSettings, EnsembleScore, LearnerSettings, ModelNumbers, PairLoss, RewardTerm,
};
use duel_training::Splits;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

/// The sizes of a small model of the world `grammar`.
fn config() -> TransformerConfig {
    let space = GrammarWorld::new(0.02, 1).space().clone();
    TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true)
}

/// A new one, on the device without gradients.
fn policy(seed: u64) -> Policy {
    Policy::new(&config(), &mut seeds::derive(seed, "test", 0, "init"), &Device::flex())
}

/// An ensemble of networks with these bodies.
fn reward(networks: usize, body: impl Fn() -> Policy) -> LearnedReward {
    let network = || ScalarModel::with_head(body(), vec![0.5; 8], &Device::flex());
    let judges = (0..networks).map(|_| (RewardNetwork::Network(network()), 0.25)).collect();
    let reader = ResponseReader::new(GrammarWorld::new(0.02, 1).space(), &Device::flex());
    LearnedReward::new(judges, EnsembleScore::Mean, reader, 0.5, 2.0)
}

/// What a training starts from: small models of the world `grammar`, three networks as its reward, seven train rows and two
/// validation rows.
fn inputs() -> TrainingInputs<'static> {
    static STOP: AtomicBool = AtomicBool::new(false);
    static LEARNER: LazyLock<LearnerSettings> = LazyLock::new(LearnerSettings::defaults);
    let world = GrammarWorld::new(0.02, 1);
    let reader = ResponseReader::new(world.space(), &Device::flex());
    let row = |i: usize| {
        let split = if i < 7 { Split::Train } else { Split::Validation };
        let prompts = world.prompts(split);
        let [chosen, rejected] = [token::G, token::B].map(|symbol| vec![symbol, token::EOS]);
        PreferenceRow::new(split, prompts[i % prompts.len()].ids.clone(), chosen, rejected)
    };
    let rows: Vec<PreferenceRow> = (0..9).map(row).collect();
    let (on_train, on_validation) = rows.split_at(7);
    let logp = |rows: &[PreferenceRow]| ReferenceLogp::compute(&reader, &policy(1), rows);
    TrainingInputs {
        seed: 1,
        config: config(),
        pretrained: false,
        numbers: ModelNumbers::F32,
        learner: &LEARNER,
        budget: BudgetSettings { unit: BudgetUnit::None, amount: 0.0 },
        reference: policy(1),
        start: policy(1).train(),
        critic_start: policy(1).train(),
        train_reader: ResponseReader::new(world.space(), &Device::flex().autodiff()),
        gold: Arc::new(GrammarGold),
        rules: None,
        reward: reward(3, || policy(2)),
        reward_config: config(),
        reference_hash: policy(1).hash(),
        reference_logp: Some((logp(on_train), logp(on_validation))),
        curve_points: 3,
        splits: Splits::of(&world),
        stop: &STOP,
        world: Arc::new(world),
        reader,
        rows,
    }
}

/// One rollout of eight responses, and one update.
fn ppo_settings() -> PpoSettings {
    let mut settings = PpoSettings::defaults();
    settings.shared = RolloutSettings { iterations: 1, episodes: 8, epochs: 1, minibatches: 1, ..settings.shared };
    settings
}

/// The last value of a metric of a training.
fn last(recorder: &StageRecorder, metric: Metric) -> Result<f64> {
    let (table, _) = recorded(recorder)?;
    Ok(table.of("train", metric.name).last().unwrap_or_else(|| panic!("no {}", metric.name)).value)
}

#[test]
fn a_critic_starts_from_the_reward_model_that_its_arm_maximizes() {
    let inputs = inputs();
    let value_model = inputs.reward.value_model().expect("a network");
    let policy = ScalarModel::from_policy(inputs.critic_start.clone(), inputs.train_reader.device());
    let hash = |critic_start, reward| {
        let mut settings = PpoSettings { critic_start, ..ppo_settings() };
        settings.shared.reward = RewardSettings::One(reward);
        match critic(&settings, &inputs) {
            Critic::Separate(critic) => {
                assert_eq!(weights::trained(&critic).len(), weights::shapes(&critic).len(), "all of it is trained");
                critic.valid().hash()
            }
            Critic::Shared(_) => panic!("a critic of its own"),
        }
    };
    assert_eq!(hash(CriticStart::Scorer, RewardSource::Rm), value_model.hash());
    for (start, reward) in [
        (CriticStart::Scorer, RewardSource::Gold),
        (CriticStart::Sft, RewardSource::Rm),
        (CriticStart::Sft, RewardSource::Gold),
    ] {
        assert_eq!(hash(start, reward), policy.valid().hash(), "{start:?}, {reward:?}");
    }
}

#[test]
fn of_a_reward_model_on_adapters_the_critic_trains_adapters_and_head() {
    let mut inputs = inputs();
    let mut rng = seeds::derive(3, "test", 0, "init");
    let body = adapted(policy(2), (2, 16.0), |_| true, &mut rng, &Device::flex());
    inputs.reward = reward(1, || body.clone());
    let Critic::Separate(critic) = critic(&ppo_settings(), &inputs) else { panic!("a critic of its own") };
    let trained: Vec<String> = weights::trained(&critic).into_iter().map(|tensor| tensor.name).collect();
    let expected: Vec<String> = weights::shapes(&critic)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.contains(".lora.") || name.starts_with("head."))
        .collect();
    assert_eq!(trained, expected);
    assert!(trained.iter().any(|name| name.contains(".lora.")) && trained.contains(&"head.weight".to_owned()));
}

#[test]
fn an_adapter_counts_alpha_over_rank_times() {
    let (lora_targets, common) = (LoraTargets::Mlp, ppo_settings().shared.common);
    let common = CommonSettings { lora: true, lora_rank: 4, lora_alpha: 12.0, lora_targets, ..common };
    let mut adapters = vec![];
    start(&common, &inputs()).map_projections(|name, projection| {
        let rank = |a: &Param<burn::tensor::Tensor<2>>| a.dims()[1];
        adapters.extend(projection.lora.as_ref().map(|lora| (name, rank(&lora.a), lora.scale)));
        projection
    });
    assert!(!adapters.is_empty());
    assert!(adapters.iter().all(|(name, rank, scale)| name.contains(".mlp.") && (*rank, *scale) == (4, 3.0)));
}

/// An evaluation on validation prompts that gives these values.
fn result(values: &[(Metric, f64)]) -> EvalResult {
    EvalResult { split: Split::Validation, values: values.to_vec(), outcomes: vec![], prompts: vec![] }
}

/// An evaluation that measures nothing.
fn no_measure(_: &Policy, _: Clocks, _: &mut dyn Recorder, _: EvalKind) -> Result<EvalResult> {
    Ok(result(&[]))
}

#[test]
fn a_critic_that_warms_up_leaves_the_policy_as_it_was() -> Result<()> {
    let method = MethodSettings::Ppo(PpoSettings { critic_warmup: 1, ..ppo_settings() });
    let (trained, clocks) = super::run(&method, inputs(), &mut no_measure, &mut recorder())?;
    assert_eq!((trained.hash(), clocks.step), (policy(1).hash(), 1));
    Ok(())
}

#[test]
fn a_policy_is_selected_by_what_its_arm_names() -> Result<()> {
    let result = result(&[(metrics::GOLD, 2.0), (metrics::PROXY, 3.0)]);
    let merit = |keep, result: &EvalResult, loss| {
        merit(&CommonSettings { keep, ..ppo_settings().shared.common }, result, loss, 5)
    };
    assert_eq!(merit(CheckpointSelection::Last, &result, Some(7.0))?, None);
    assert_eq!(merit(CheckpointSelection::Gold, &result, Some(7.0))?, Some(2.0));
    assert_eq!(merit(CheckpointSelection::Proxy, &result, Some(7.0))?, Some(3.0));
    assert_eq!(merit(CheckpointSelection::Loss, &result, Some(7.0))?, Some(-7.0));
    assert!(merit(CheckpointSelection::Loss, &result, None)?.is_some_and(f64::is_nan));
    let on_test = EvalResult { split: Split::Test, ..result };
    let error = merit(CheckpointSelection::Last, &on_test, None).expect_err("test prompts").to_string();
    assert!(["chosen_on_validation", "step 5", "test"].iter().all(|words| error.contains(words)), "{error}");
    Ok(())
}

/// Of proxy − β KL with β = ½, at three points of the curve; the first is best by proxy − KL, the last by the proxy alone.
#[test]
fn a_policy_selected_by_its_loss_pays_for_its_kl() -> Result<()> {
    let mut settings = ppo_settings().shared;
    (settings.beta, settings.iterations, settings.common.keep) = (0.5, 3, CheckpointSelection::Loss);
    let mut points = [(1.6, 0.1), (3.0, 2.0), (3.5, 4.0)].into_iter();
    let mut evaluate = |_: &Policy, _: Clocks, _: &mut dyn Recorder, _: EvalKind| {
        let (proxy, kl) = points.next().expect("three points");
        Ok(result(&[(metrics::PROXY, proxy), (metrics::KL, kl)]))
    };
    let mut recorder = recorder();
    super::run(&MethodSettings::Reinforce(settings), inputs(), &mut evaluate, &mut recorder)?;
    assert_eq!(last(&recorder, metrics::KEPT_STEP)?, 2.0);
    Ok(())
}

#[test]
fn each_prompt_is_repeated_for_its_group() {
    let (inputs, world) = (inputs(), GrammarWorld::new(0.02, 1));
    let (all, groups) = (prompts_of(&inputs, 0, 12, 1), prompts_of(&inputs, 0, 12, 4));
    assert_eq!((all.len(), groups.len()), (12, 12));
    assert!(all.iter().all(|ids| world.prompts(Split::Train).iter().any(|prompt| prompt.ids == *ids)));
    assert!(groups.chunks(4).zip(&all).all(|(group, prompt)| group.iter().all(|ids| ids == prompt)), "{groups:?}");
    assert_ne!(all, prompts_of(&inputs, 1, 12, 1), "other prompts in the next iteration");
}

/// Each network of the ensemble reads every token; gold costs nothing.
#[test]
fn a_score_costs_a_pass_of_each_network() -> Result<()> {
    let inputs = inputs();
    let flops = |reward| {
        let shared = RolloutSettings { reward: RewardSettings::One(reward), ..ppo_settings().shared };
        setting(&shared, &inputs).scorer_flops
    };
    let prompts = prompts_of(&inputs, 0, 4, 1);
    let mut rng = seeds::derive(1, "test", 0, "responses");
    let responses = generate(&policy(1), inputs.world.space(), prompts, &mut rng, &Device::flex());
    let before = duel_model::count_flops();
    inputs.reward.score(&responses)?;
    let after = duel_model::count_flops();
    let read = (4 * inputs.world.space().context()) as f64; // in a batch that is padded
    let counted = (after.blocks - before.blocks + after.heads - before.heads) / read;
    assert!((flops(RewardSource::Rm) / counted - 1.0).abs() < 1e-6, "{} {counted}", flops(RewardSource::Rm));
    assert_eq!(flops(RewardSource::Gold), 0.0);
    Ok(())
}

/// Of several rewards each scores every response, and the networks of the reward model are what costs.
#[test]
fn every_reward_of_a_sum_scores_and_networks_cost() -> Result<()> {
    let inputs = inputs();
    let term = |from, weight| RewardTerm { from, weight, rules: vec![] };
    let terms = vec![term(RewardSource::Gold, 2.0), term(RewardSource::Length, -0.1), term(RewardSource::Rm, 0.5)];
    let shared = |reward| RolloutSettings { reward, ..ppo_settings().shared };
    let sum = shared(RewardSettings::Sum(terms.clone()));
    let (of_sum, of_rm) = (setting(&sum, &inputs), setting(&ppo_settings().shared, &inputs));
    assert_eq!((of_sum.scorer_flops, of_rm.scorer_flops > 0.0), (of_rm.scorer_flops, true));
    let memory = |shared: &RolloutSettings| TrainingMemory::of_rollouts(&policy(1).train(), 0.0, shared, &inputs);
    assert_eq!(memory(&sum), memory(&ppo_settings().shared));
    let free = shared(RewardSettings::Sum(terms[..2].to_vec()));
    assert_eq!((setting(&free, &inputs).scorer_flops, memory(&free).models), (0.0, 2.0));

    let mut rng = seeds::derive(1, "test", 0, "responses");
    let prompts = prompts_of(&inputs, 0, 6, 1);
    let responses = generate(&policy(1), inputs.world.space(), prompts, &mut rng, &Device::flex());
    let components = of_sum.scorer.components(&responses)?;
    let lengths: Vec<f64> = responses.responses.iter().map(|response| response.len() as f64).collect();
    let expected = [
        (RewardSource::Gold, GrammarGold.score(&responses)?),
        (RewardSource::Length, lengths),
        (RewardSource::Rm, inputs.reward.score(&responses)?),
    ];
    assert_eq!(components.len(), expected.len());
    for ((component, (source, scores)), term) in components.iter().zip(expected).zip(&terms) {
        assert_eq!((component.source, component.weight), (Some(source), term.weight));
        assert_eq!(component.scores, scores, "{source:?}");
    }
    Ok(())
}

/// A critic predicts what the reward model counts for; one that is counted against gives no start.
#[test]
fn a_critic_starts_from_the_weighted_reward_model() {
    let inputs = inputs();
    let policy = ScalarModel::from_policy(inputs.critic_start.clone(), inputs.train_reader.device()).valid().hash();
    let half = inputs.reward.weighted_value_model(0.5).expect("a network").hash();
    assert_ne!(half, inputs.reward.value_model().expect("a network").hash());
    for (weight, expected) in [(0.5, &half), (-1.0, &policy), (0.0, &policy)] {
        let mut settings = ppo_settings();
        let term = |from, weight| RewardTerm { from, weight, rules: vec![] };
        settings.shared.reward =
            RewardSettings::Sum(vec![term(RewardSource::Length, 1.0), term(RewardSource::Rm, weight)]);
        let Critic::Separate(critic) = critic(&settings, &inputs) else { panic!("a critic of its own") };
        assert_eq!(&critic.valid().hash(), expected, "weight {weight}");
    }
}

/// Actor, reference where a KL is penalized, three networks that score, and a critic with a body of its own.
#[test]
fn the_memory_of_ppo_has_each_model_once() -> Result<()> {
    for (critic, reward, beta, expected) in [
        (CriticBody::Separate, RewardSource::Rm, 0.1, 6.0),
        (CriticBody::Shared, RewardSource::Rm, 0.1, 5.0),
        (CriticBody::Separate, RewardSource::Gold, 0.1, 3.0),
        (CriticBody::Shared, RewardSource::Gold, 0.1, 2.0),
        (CriticBody::Separate, RewardSource::Rm, 0.0, 5.0),
        (CriticBody::Shared, RewardSource::Gold, 0.0, 1.0),
    ] {
        let mut settings = PpoSettings { critic, ..ppo_settings() };
        (settings.shared.reward, settings.shared.beta) = (RewardSettings::One(reward), beta);
        assert_eq!(setting(&settings.shared, &inputs()).reference.is_some(), beta > 0.0);
        let mut recorder = recorder();
        let value = number_count(&super::critic(&settings, &inputs()), false);
        super::run(&MethodSettings::Ppo(settings), inputs(), &mut no_measure, &mut recorder)?;
        assert_eq!(last(&recorder, metrics::MODELS_RESIDENT)?, expected, "{critic:?}, {reward:?}, beta {beta}");
        // sixteen bytes for each number that is trained, four for each that is only read
        let inputs = inputs();
        let policy = number_count(&inputs.reference, false);
        let networks = if reward == RewardSource::Rm { 3 * (policy + 8) } else { 0 }; // heads of the width, without bias
        let read = if beta > 0.0 { policy } else { 0 } + networks;
        let bytes = (16 * (policy + value) + 4 * read) as f64;
        assert_eq!(last(&recorder, metrics::TRAINING_BYTES)?, bytes, "{critic:?}, {reward:?}, beta {beta}");
    }
    Ok(())
}

#[test]
fn the_memory_of_dpo_has_the_reference_where_its_loss_needs_it() {
    let (inputs, policy) = (inputs(), inputs().reference);
    let of = |loss, sync_ref_model| {
        let settings = DpoSettings { loss, sync_ref_model, ..DpoSettings::defaults() };
        TrainingMemory::of_pairs(&policy.clone().train(), &settings, &inputs)
    };
    let bytes = |trained: f64, read: f64| number_count(&policy, false) as f64 * (trained + read) + 9.0 * 8.0; // two log-probs of a row
    let [alone, held] =
        [(1.0, bytes(16.0, 0.0)), (2.0, bytes(16.0, 4.0))].map(|(models, bytes)| TrainingMemory { models, bytes });
    assert_eq!(
        [of(PairLoss::Sigmoid, false), of(PairLoss::Kto, false), of(PairLoss::Sigmoid, true)],
        [alone, held, held]
    );
}

/// Of seven rows three full batches of two are trained on in an epoch, or one batch of them all.
#[test]
fn dpo_makes_a_step_for_each_full_batch() -> Result<()> {
    let defaults = |batch_size| DpoSettings { batch_size, epochs: 3.0, ..DpoSettings::defaults() };
    let kept = DpoSettings { drop_last: false, ..defaults(2) };
    for (settings, steps, left_out) in [
        (defaults(2), 9, 1.0 / 7.0),
        (defaults(7), 3, 0.0),
        (defaults(10), 3, 0.0),
        (DpoSettings { epochs: 0.5, ..defaults(2) }, 2, 1.0 / 7.0),
        (DpoSettings { max_steps: 5, ..defaults(2) }, 5, 1.0 / 7.0),
        (kept.clone(), 12, 0.0),
        (DpoSettings { epochs: 1.25, ..kept }, 5, 0.0),
    ] {
        let mut recorder = recorder();
        let what = format!("{settings:?}");
        let (_, clocks) = super::run(&MethodSettings::Dpo(settings), inputs(), &mut no_measure, &mut recorder)?;
        assert_eq!((clocks.step, last(&recorder, metrics::ROWS_LEFT_OUT)?), (steps, left_out), "{what}");
    }
    Ok(())
}
