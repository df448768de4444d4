//! The options of DPO that remember something from batch to batch or read more than log-probs, by hand and across a resume.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::Module;
use burn::tensor::Device;
use duel_data::pairs::PreferenceRow;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_model::{Policy, ResponseReader, TransformerConfig};
use duel_spec::metrics::{self, Metric};
use duel_spec::{DpoSettings as Settings, LearnerSettings, PairLoss, Split, seeds};
use duel_testing_tensors::trajectory;
use duel_training::{Learner, Method, Metrics, PairBatch, logprobs};

/// Tokens of a prompt, and at most of a response.
const P: usize = 2;
const T: usize = 5;
const PAIRS: usize = 6;

fn config() -> TransformerConfig {
    TransformerConfig::small(12, P + T, 1, 16, 2, true)
}

fn policy() -> Policy {
    Policy::new(&config(), &mut seeds::derive(1, "test", 0, "init"), &Device::flex())
}

fn reader(device: &Device) -> ResponseReader {
    ResponseReader::new(&trajectory::space(12, [0, 2], P, T), device)
}

/// Pairs whose responses differ in length: some chosen ones are longer, some shorter than the rejected one.
fn rows() -> Vec<PreferenceRow> {
    let row = |i: u32| {
        let (long, short) = (vec![3 + i, 7, 8, 4, 2], vec![9, 3 + i, 2]);
        let (chosen, rejected) = if i.is_multiple_of(2) { (long, short) } else { (short, long) };
        PreferenceRow { p_label: 0.7, ..PreferenceRow::new(Split::Train, vec![1, 3 + i], chosen, rejected) }
    };
    (0..PAIRS as u32).map(row).collect()
}

/// A batch of these rows.
fn batch(rows: &[usize]) -> PairBatch {
    PairBatch::new(&self::rows(), rows)
}

fn dpo(settings: Settings) -> Dpo {
    let reference = policy().no_grad();
    let cache = ReferenceLogp::compute(&reader(&Device::flex()), &reference, &rows());
    Dpo::new(settings, reader(&Device::flex().autodiff()), cache, &config()).with_reference(&reference)
}

fn learner(module: Policy, accumulate: usize) -> Learner<Policy> {
    let settings = LearnerSettings { warmup: 0.0, accumulate, ..LearnerSettings::defaults() };
    Learner::new(module, &settings, 2e-2, 10)
}

fn value(metrics: &Metrics, metric: Metric) -> f64 {
    metrics.values.iter().find(|(m, _)| *m == metric).unwrap().1
}

/// The log-ratios of a batch's responses to the first policy, `[2N]`, chosen ones first.
fn log_ratios(policy: &Policy, pairs: &PairBatch) -> Vec<f64> {
    let reader = reader(&Device::flex());
    let [logp, reference] =
        [policy.clone(), self::policy().no_grad()].map(|policy| logprobs::sequence_logp(&reader, &policy, &pairs.both));
    logp.iter().zip(reference).map(|(logp, reference)| f64::from(logp - reference)).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Three batches of a training with these settings; each time, `expected` gives the loss from the log-ratios before the update.
fn trains_by_hand(settings: &Settings, mut expected: impl FnMut(&[f64], &Metrics) -> f64) {
    let (mut method, mut learner) = (dpo(settings.clone()), learner(policy().train(), 1));
    for rows in [[0, 1, 2, 3], [2, 3, 4, 5], [5, 0, 3, 1]] {
        let pairs = batch(&rows);
        let ratios = log_ratios(&learner.module().valid(), &pairs);
        let metrics = method.iteration(&pairs, &mut learner).unwrap();
        let (actual, by_hand) = (value(&metrics, metrics::LOSS), expected(&ratios, &metrics));
        assert!((actual - by_hand).abs() < 2e-5, "{rows:?}: {actual}, by hand {by_hand}");
    }
}

/// A training that resumes from its state continues as one that never stopped, and not as one without the state.
fn resumes(settings: &Settings) {
    let (mut method, mut trained) = (dpo(settings.clone()), learner(policy().train(), 1));
    for rows in [[0, 1, 2, 3], [2, 3, 4, 5]] {
        method.iteration(&batch(&rows), &mut trained).unwrap();
    }
    let saved = serde_json::to_string(&method.state()).unwrap();
    let next = |mut method: Dpo| {
        let mut learner = learner(policy().train(), 1);
        assert!(learner.resume(trained.state().clone()));
        let metrics = method.iteration(&batch(&[5, 0, 3, 1]), &mut learner).unwrap();
        (metrics.values, metrics.cost, method.state())
    };
    let mut resumed = dpo(settings.clone());
    resumed.resume(serde_json::from_str(&saved).unwrap());
    let uninterrupted = next(method);
    assert_eq!(next(resumed), uninterrupted);
    assert_ne!(next(dpo(settings.clone())).0, uninterrupted.0, "the state matters");
}

/// `−log σ(r_w − δ) − log σ(δ − r_l)`, δ the mean of all batches' mean rewards (trl 0.11, `RunningMoments`).
#[test]
fn bco_subtracts_the_mean_reward_so_far() {
    let settings = Settings { loss: PairLoss::Bco, beta: 0.7, ..Settings::defaults() };
    let mut means = vec![];
    trains_by_hand(&settings, |ratios, _| {
        let rewards: Vec<f64> = ratios.iter().map(|ratio| 0.7 * ratio).collect();
        means.push(rewards.iter().sum::<f64>() / rewards.len() as f64);
        let shift = means.iter().sum::<f64>() / means.len() as f64;
        let (chosen, rejected) = rewards.split_at(ratios.len() / 2);
        let losses = chosen.iter().zip(rejected).map(|(w, l)| -sigmoid(w - shift).ln() - sigmoid(shift - l).ln());
        losses.sum::<f64>() / chosen.len() as f64
    });
    assert!(means[1].abs() > 0.01 && (means[2] - means[1]).abs() > 0.01, "a case with a shift: {means:?}");
    resumes(&settings);
}
