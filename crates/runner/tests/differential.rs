//! Devices that share no kernel agree on every model and every method: the forward pass, the gradient, and ten training
//! steps. ndarray with flex to 1e-4; wgpu and cuda, where they are built in (`scripts/dev/wgpu`), to 1e-3.
#![cfg(any(feature = "ndarray", feature = "wgpu", feature = "cuda"))]
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::Module;
use burn::tensor::Device;
use duel_data::World;
use duel_data::grammar::GrammarWorld;
use duel_data::pairs::PreferenceRow;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_model::{
    Activation, Gpt2, Llama, Policy, ResponseReader, Responses, ScalarModel, TransformerConfig, device, weights,
};
use duel_ppo::{ActorCritic, Critic, Ppo, RolloutContext};
use duel_reward::{LearnedReward, RewardModel, RewardNetwork};
use duel_spec::{EnsembleScore, LearnerSettings, RmStage, RolloutSettings, Split, TokenSpec, metrics, seeds};
use duel_training::sft::{RunningText, Sft};
use duel_training::{Learner, Method, PairBatch, logprobs};
use std::sync::Arc;

const STEPS: u64 = 10;

/// Every shape of model that Duel trains: its own with a tied and an untied head, GPT-2, and Llama with grouped queries,
/// whole and frozen under adapters (true).
fn configs(space: &TokenSpec) -> Vec<(&'static str, TransformerConfig, bool)> {
    let own = |tied| TransformerConfig::small(space.vocabulary, space.context() + 3, 2, 16, 4, tied);
    let gelu = Gpt2 { activation: Activation::GeluTanh, inner: 40, epsilon: 1e-5 }.architecture();
    let llama =
        Llama { key_value_heads: 2, head_width: 8, inner: 24, rope_theta: 10_000.0, epsilon: 1e-6 }.architecture();
    vec![
        ("tied", own(true), false),
        ("untied", own(false), false),
        ("gpt2", TransformerConfig { architecture: gelu, ..own(true) }, false),
        ("llama", TransformerConfig { architecture: llama.clone(), ..own(false) }, false),
        ("llama with adapters", TransformerConfig { architecture: llama, ..own(true) }, true),
    ]
}

/// A policy with the same weights on every device.
fn policy(config: &TransformerConfig, adapters: bool, device: &Device) -> Policy {
    let mut rng = seeds::derive(3, "test", 0, "init");
    let policy = Policy::new(config, &mut rng, device);
    let policy = if adapters { policy.with_fresh_lora(3, 2.0, |_| true, &mut rng, device) } else { policy };
    let some = |i: usize| (i % 7) as f32 * 0.01 - 0.03; // adapters start at zero
    let wide = weights::flatten(&policy).iter().enumerate().map(|(i, w)| 2.0 * w + some(i)).collect::<Vec<_>>();
    weights::unflatten(policy, &wide) // far from zero, so that every kernel has something to do
}

fn rows(world: &GrammarWorld) -> Vec<PreferenceRow> {
    let rows = world.sft_rows(&mut seeds::derive(3, "test", 0, "rows"));
    let pairs = rows.chunks_exact(2).filter(|two| two[0].response != two[1].response).take(64);
    pairs
        .map(|two| PreferenceRow {
            gold_chosen: 1.0,
            p_label: 0.7,
            ..PreferenceRow::new(Split::Train, two[0].prompt.clone(), two[0].response.clone(), two[1].response.clone())
        })
        .collect()
}

/// What is compared: numbers under a name, in the order in which they came to be.
type Trace = Vec<(String, Vec<f32>)>;

/// The losses and the weights of ten iterations.
fn ten_steps<M: Method>(name: &str, method: &mut M, module: M::Module, batches: &[M::Batch]) -> Trace {
    let settings = LearnerSettings { warmup: 0.0, adam_epsilon: 1e-4, ..LearnerSettings::defaults() };
    let mut learner = Learner::new(module, &settings, 1e-3, 1000);
    let mut trace = Trace::new();
    for step in 0..STEPS as usize {
        let report = method.iteration(&batches[step % batches.len()], &mut learner).unwrap();
        let values = report.values.iter().filter(|(metric, _)| [metrics::LOSS, metrics::GRAD_NORM].contains(metric));
        trace
            .push((format!("{name}, loss and gradient norm of step {step}"), values.map(|(_, x)| *x as f32).collect()));
    }
    trace.push((format!("{name}, weights after {STEPS} steps"), weights::flatten(learner.module())));
    trace
}

/// Everything that one device makes of one model.
fn trace(config: &TransformerConfig, adapters: bool, plain: &Device) -> Trace {
    let world = GrammarWorld::new(0.02, 400);
    let train = plain.clone().autodiff();
    let (reader, train_reader) =
        (ResponseReader::new(world.space(), plain), ResponseReader::new(world.space(), &train));
    let rows = rows(&world);
    let fresh = || policy(config, adapters, &train);
    let reference = fresh().valid();
    let pairs: Vec<PairBatch> =
        (0..4).map(|i| PairBatch::new(&rows, &(16 * i..16 * (i + 1)).collect::<Vec<_>>())).collect();
    let texts: Vec<Responses> = pairs.iter().map(|p| p.both.clone()).collect();
    let mut trace = Trace::new();

    // forward and gradient
    let logp = logprobs::response_logp(&train_reader, &fresh(), &texts[0]);
    trace.push(("log-probs".into(), weights::host(logp.inner())));
    let learner = Learner::new(fresh(), &LearnerSettings::defaults(), 1e-3, 1);
    let mask = logprobs::mask(&train_reader, &texts[0]);
    let loss = mask.mean(logprobs::response_logp(&train_reader, learner.module(), &texts[0])).neg();
    trace.push(("gradient".into(), learner.gradient(loss)));

    // ten steps of every method
    trace.extend(ten_steps("SFT", &mut Sft::new(train_reader.clone(), config), fresh(), &texts));
    let windows: Vec<Vec<Vec<u32>>> =
        vec![rows.iter().map(|r| [r.prompt.clone(), r.chosen[..1].to_vec()].concat()).collect()];
    trace.extend(ten_steps("running text", &mut RunningText::new(train_reader.clone(), config), fresh(), &windows));
    let scalar = || ScalarModel::from_policy(fresh(), &train);
    trace.extend(ten_steps(
        "reward model",
        &mut RewardModel::new(RmStage::defaults(), train_reader.clone(), config),
        scalar(),
        &pairs,
    ));

    // iterations of two updates each, none left out
    let mut ppo = duel_spec::PpoSettings::defaults();
    ppo.shared = RolloutSettings { epochs: 1, minibatches: 2, target_kl: 10.0, beta: 0.2, ..ppo.shared };
    let dpo = duel_spec::DpoSettings::defaults();
    let cached = ReferenceLogp::compute(&reader, &reference, &rows);
    trace.extend(ten_steps("DPO", &mut Dpo::new(dpo, train_reader.clone(), cached, config), fresh(), &pairs));

    let prompts: Vec<Vec<Vec<u32>>> = vec![rows.iter().take(32).map(|r| r.prompt.clone()).collect()];
    let head = (0..config.width).map(|i| (i as f32 * 0.7).sin() * 0.3).collect();
    let judge = RewardNetwork::Network(ScalarModel::with_head(fresh(), head, &train).valid());
    let learned = LearnedReward::new(vec![(judge, 0.0)], EnsembleScore::Mean, reader.clone(), 0.0, 1.0);
    let context = RolloutContext {
        reference: Some(reference.clone()),
        scorer: Arc::new(learned),
        reader: reader.clone(),
        train_reader: train_reader.clone(),
        config: config.clone(),
        scorer_flops: 1.0,
        seed: 3,
    };
    let module = ActorCritic { actor: fresh(), critic: Critic::Separate(scalar()) };
    trace.extend(ten_steps("PPO", &mut Ppo::new(ppo, context), module, &prompts));
    trace
}

/// Holds a device against flex, to a share of the largest entry of each tensor.
fn agrees_with_flex(other: &str, tolerance: f32) {
    let devices = ["flex", other].map(|name| device::open(name).unwrap());
    let world = GrammarWorld::new(0.02, 400);
    for (name, config, adapters) in configs(world.space()) {
        let [a, b] = devices.each_ref().map(|device| trace(&config, adapters, device));
        assert_eq!(a.len(), b.len());
        for ((what, a), (_, b)) in a.iter().zip(&b) {
            assert_eq!(a.len(), b.len(), "{name}: {what}");
            assert!(!a.is_empty(), "{name}: {what} is empty");
            // to the largest of the tensor: entries that cancel to nearly 0 have no relative precision
            let size = a.iter().fold(0f32, |m, x| m.max(x.abs()));
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                assert!((a - b).abs() <= tolerance * size, "{name}: {what}, entry {i}: flex {a}, {other} {b}");
            }
        }
    }
}

#[cfg(feature = "ndarray")]
#[test]
fn flex_and_ndarray_agree() {
    agrees_with_flex("ndarray", 1e-4);
}

#[cfg(feature = "wgpu")]
#[test]
fn flex_and_wgpu_agree() {
    agrees_with_flex("wgpu", 1e-3);
}

#[cfg(feature = "cuda")]
#[test]
fn flex_and_cuda_agree() {
    agrees_with_flex("cuda", 1e-3);
}
