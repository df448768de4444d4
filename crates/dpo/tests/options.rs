//! The options of DPO that remember something from batch to batch or read more than log-probs, by hand and across a resume.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::Module;
use burn::tensor::Device;
use duel_data::pairs::PreferenceRow;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_model::{CountedFlops, Responses, count_flops, weights};
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

/// A training that resumes from its state, as checkpoints hold it, continues as one that never stopped, and not as one without the state.
fn resumes(settings: &Settings) {
    let (mut method, mut trained) = (dpo(settings.clone()), learner(policy().train(), 1));
    for rows in [[0, 1, 2, 3], [2, 3, 4, 5]] {
        method.iteration(&batch(&rows), &mut trained).unwrap();
    }
    let saved = postcard::to_stdvec(&method.state()).unwrap();
    let next = |mut method: Dpo| {
        let mut learner = learner(policy().train(), 1);
        assert!(learner.resume(trained.state().clone()));
        let metrics = method.iteration(&batch(&[5, 0, 3, 1]), &mut learner).unwrap();
        (metrics.values, metrics.cost, method.state())
    };
    let mut resumed = dpo(settings.clone());
    resumed.resume(postcard::from_bytes(&saved).unwrap());
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

/// A policy's log-probs of each counted token of each response.
fn token_logp(policy: &Policy, both: &Responses) -> Vec<Vec<f64>> {
    let reader = reader(&Device::flex());
    let logp = weights::host(logprobs::response_logp(&reader, policy, both)); // [2N, T]
    let row = |row: usize| both.responses[row].iter().enumerate().map(move |(t, _)| (row, t));
    (0..both.len()).map(|i| row(i).map(|(row, t)| f64::from(logp[row * T + t])).collect()).collect()
}

/// LD-DPO: of the longer response, tokens past the length of the shorter one count a fraction, under policy and reference.
#[test]
fn ld_alpha_weighs_the_longer_response() {
    let settings = Settings { ld_alpha: 0.3, nll_coef: 0.2, beta: 0.7, ..Settings::defaults() };
    let reference = policy().no_grad();
    let cache = ReferenceLogp::desensitized(&reader(&Device::flex()), &reference, &rows(), 0.3);
    let mut method = Dpo::new(settings, reader(&Device::flex().autodiff()), cache, &config());
    let mut learner = learner(policy().train(), 1);
    for (step, rows) in [[0, 1, 2, 3], [2, 3, 4, 5], [5, 0, 3, 1]].into_iter().enumerate() {
        let (pairs, n) = (batch(&rows), rows.len());
        let [logp, ref_logp] =
            [learner.module().valid(), policy().no_grad()].map(|policy| token_logp(&policy, &pairs.both));
        let ratio = |i: usize| -> f64 {
            let shorter = pairs.both.responses[i % n].len().min(pairs.both.responses[i % n + n].len());
            let tokens = logp[i].iter().zip(&ref_logp[i]).enumerate();
            tokens.map(|(t, (a, b))| (a - b) * if t < shorter { 1.0 } else { 0.3 }).sum()
        };
        let loss = (0..n).map(|i| -sigmoid(0.7 * (ratio(i) - ratio(i + n))).ln()).sum::<f64>() / n as f64;
        // the NLL is of whole responses
        let nll = (0..n).map(|i| -logp[i].iter().sum::<f64>() / logp[i].len() as f64).sum::<f64>() / n as f64;
        let metrics = method.iteration(&pairs, &mut learner).unwrap();
        let (actual, by_hand) = (value(&metrics, metrics::LOSS), loss + 0.2 * nll);
        assert!((actual - by_hand).abs() < 2e-5, "step {step}: {actual}, by hand {by_hand}");
        let whole = (0..n).map(|i| logp[i].iter().sum::<f64>()).sum::<f64>() / n as f64;
        assert!((value(&metrics, metrics::LOGP_CHOSEN) - whole).abs() < 1e-4, "whole responses are reported");
        // the pass of the reference over all rows is of the first step
        let all: usize =
            self::rows().iter().map(|row| 2 * row.prompt.len() + row.chosen.len() + row.rejected.len()).sum();
        assert_eq!(metrics.cost.scored_tokens, if step == 0 { all as u64 } else { 0 });
    }
    let validation_rows = self::rows();
    let cache = ReferenceLogp::desensitized(&reader(&Device::flex()), &policy().no_grad(), &validation_rows, 0.3);
    let start = method.validate(&reader(&Device::flex()), &policy().no_grad(), &validation_rows, &cache);
    assert_eq!(start.accuracy, 0.5, "margins of a policy that is its reference");
}

/// WPO: each pair's loss counts exp of the mean alignment of both responses' tokens.
#[test]
fn weights_of_pairs_by_hand() {
    let settings = Settings { use_weighting: true, beta: 0.7, ..Settings::defaults() };
    for accumulate in [1, 2] {
        let (mut method, mut learner) = (dpo(settings.clone()), learner(policy().train(), accumulate));
        for rows in [[0, 1, 2, 3], [2, 3, 4, 5], [5, 0, 3, 1]] {
            let (pairs, n) = (batch(&rows), rows.len());
            let current = learner.module().valid();
            let plain = reader(&Device::flex());
            let logits = weights::host(plain.logits(&current, &plain.tokens(&pairs.both))); // [2N, T, V]
            let vocabulary = logits.len() / (2 * n * T);
            let logp = token_logp(&current, &pairs.both);
            let alignment = |i: usize| -> f64 {
                let at = |t: usize| {
                    let logits = &logits[(i * T + t) * vocabulary..][..vocabulary];
                    let sum = |power: f64| logits.iter().map(|&x| (power * f64::from(x)).exp()).sum::<f64>();
                    logp[i][t] - (sum(2.0).ln() - 2.0 * sum(1.0).ln())
                };
                (0..logp[i].len()).map(at).sum::<f64>() / logp[i].len() as f64
            };
            let ratios = log_ratios(&current, &pairs);
            let loss = |i: usize| {
                let weight = (alignment(i) + alignment(i + n)).exp();
                -weight * sigmoid(0.7 * (ratios[i] - ratios[i + n])).ln()
            };
            let by_hand = (0..n).map(loss).sum::<f64>() / n as f64;
            let metrics = method.iteration(&pairs, &mut learner).unwrap();
            let actual = value(&metrics, metrics::LOSS);
            assert!((actual - by_hand).abs() < 2e-5, "{rows:?}: {actual}, by hand {by_hand}");
        }
    }
}

/// β-DPO: β(1 + α(M − M₀)), M the batch's mean margin at β, M₀ its moving average of the batches before.
#[test]
fn dynamic_beta_by_hand() {
    let settings =
        Settings { dynamic_beta: 3.0, dynamic_beta_momentum: 0.6, beta: 0.7, margin: 0.1, ..Settings::defaults() };
    let (mut usual, mut betas) = (0.0, vec![]);
    let strength = rows()[0].strength();
    trains_by_hand(&settings, |ratios, metrics| {
        let n = ratios.len() / 2;
        let differences: Vec<f64> = (0..n).map(|i| ratios[i] - ratios[i + n]).collect();
        let margin = 0.7 * differences.iter().sum::<f64>() / n as f64;
        let beta = 0.7 * (1.0 + 3.0 * (margin - usual));
        usual = 0.6 * usual + 0.4 * margin;
        betas.push(beta);
        assert!((value(metrics, metrics::DPO_BETA) - beta).abs() < 1e-5);
        assert!((value(metrics, metrics::DPO_MARGIN) - margin).abs() < 1e-5, "margins are reported at β itself");
        differences.iter().map(|difference| -sigmoid(beta * difference - 0.1 * strength).ln()).sum::<f64>() / n as f64
    });
    assert!((betas[1] - 0.7).abs() > 0.05 && (betas[2] - betas[1]).abs() > 0.01, "a case that shows it: {betas:?}");
    resumes(&settings);
}

/// β-DPO's filter: the loss is the mean over the pairs that were drawn, β is of their mean margin, and M₀ of all margins.
#[test]
fn filtered_pairs_by_hand() {
    let settings = Settings {
        dynamic_beta: 3.0,
        dynamic_beta_momentum: 0.6,
        dynamic_beta_filter: 0.5,
        beta: 0.7,
        ..Settings::defaults()
    };
    let (mut usual, mut left_out) = (0.0, 0.0f64);
    trains_by_hand(&settings, |ratios, metrics| {
        let n = ratios.len() / 2;
        let margins: Vec<f64> = (0..n).map(|i| 0.7 * (ratios[i] - ratios[i + n])).collect();
        let all = margins.iter().sum::<f64>() / n as f64;
        // of four pairs the two whose mean margin is the one reported
        let reported = value(metrics, metrics::DPO_MARGIN);
        let two = (0..n).flat_map(|a| (0..a).map(move |b| [a, b]));
        let drawn = two.min_by(|x, y| {
            let error = |[a, b]: [usize; 2]| ((margins[a] + margins[b]) / 2.0 - reported).abs();
            error(*x).total_cmp(&error(*y))
        });
        let drawn = drawn.unwrap().map(|pair| margins[pair]);
        assert!(((drawn[0] + drawn[1]) / 2.0 - reported).abs() < 1e-5, "two of the batch: {reported}");
        let beta = 0.7 * (1.0 + 3.0 * (reported - usual)).max(0.01);
        assert!((value(metrics, metrics::DPO_BETA) - beta).abs() < 1e-5);
        usual = 0.6 * usual + 0.4 * all;
        left_out = left_out.max((all - reported).abs());
        drawn.iter().map(|margin| -sigmoid(beta * margin / 0.7).ln()).sum::<f64>() / 2.0
    });
    assert!(left_out > 0.01, "a case that shows it: {left_out}");
    resumes(&settings);
}

/// TR-DPO: every second step the reference becomes `(1 − α)` of itself and `α` of the policy.
#[test]
fn the_reference_follows_the_policy() {
    for alpha in [0.6, 1.0] {
        let settings = Settings {
            sync_ref_model: true,
            ref_model_mixup_alpha: alpha,
            ref_model_sync_steps: 2,
            beta: 0.7,
            ..Settings::defaults()
        };
        let (mut method, mut learner) = (dpo(settings.clone()), learner(policy().train(), 1));
        let mut reference = policy().no_grad();
        let plain = reader(&Device::flex());
        for (step, rows) in [[0, 1, 2, 3], [2, 3, 4, 5], [5, 0, 3, 1], [4, 2, 1, 0]].into_iter().enumerate() {
            let (pairs, n) = (batch(&rows), rows.len());
            let [logp, ref_logp] = [&learner.module().valid(), &reference]
                .map(|policy| logprobs::sequence_logp(&plain, policy, &pairs.both));
            let ratio = |i: usize| f64::from(logp[i] - ref_logp[i]);
            let by_hand = (0..n).map(|i| -sigmoid(0.7 * (ratio(i) - ratio(i + n))).ln()).sum::<f64>() / n as f64;
            let before = count_flops();
            let metrics = method.iteration(&pairs, &mut learner).unwrap();
            let actual = value(&metrics, metrics::LOSS);
            assert!((actual - by_hand).abs() < 2e-5, "step {step}: {actual}, by hand {by_hand}");
            if alpha == 1.0 && step == 2 {
                assert!((actual - std::f64::consts::LN_2).abs() < 1e-5, "the policy is its reference again: {actual}");
            }
            // the reference reads every response once
            let tokens = pairs.both.token_count();
            assert_eq!(metrics.cost.scored_tokens, tokens);
            let since = |count: fn(CountedFlops) -> f64| count(count_flops()) - count(before);
            assert!(since(|c| c.blocks) > 0.0);
            if step == 1 || step == 3 {
                let [old, new] = [&reference, &learner.module().valid()].map(weights::flatten);
                let mixed: Vec<f32> =
                    old.iter().zip(new).map(|(old, new)| ((1.0 - alpha) as f32) * old + (alpha as f32) * new).collect();
                reference = weights::unflatten(reference, &mixed);
            }
        }
        resumes(&settings);
    }
}

/// MPO: the weighted sum of the losses, those that remember something among them.
#[test]
fn a_mixture_is_a_weighted_sum() {
    let loss_weights = [(PairLoss::Sigmoid, 0.8), (PairLoss::Bco, 0.2), (PairLoss::PreferredFt, 0.05)].into();
    let settings = Settings { loss_weights, beta: 0.7, ..Settings::defaults() };
    let mut means = vec![];
    trains_by_hand(&settings, |ratios, metrics| {
        let rewards: Vec<f64> = ratios.iter().map(|ratio| 0.7 * ratio).collect();
        means.push(rewards.iter().sum::<f64>() / rewards.len() as f64);
        let shift = means.iter().sum::<f64>() / means.len() as f64;
        let (chosen, rejected) = rewards.split_at(ratios.len() / 2);
        let loss = |(w, l): (&f64, &f64)| {
            -0.8 * sigmoid(w - l).ln() - 0.2 * (sigmoid(w - shift).ln() + sigmoid(shift - l).ln())
        };
        chosen.iter().zip(rejected).map(loss).sum::<f64>() / chosen.len() as f64
            - 0.05 * value(metrics, metrics::LOGP_CHOSEN)
    });
    resumes(&settings);
}

/// A batch that is read in parts makes the same training, with every option that allows it, the state of the reference included.
#[test]
fn parts_of_a_batch_make_the_same_training() {
    let mixture = [(PairLoss::Sigmoid, 0.8), (PairLoss::Hinge, 0.2), (PairLoss::PreferredFt, 0.05)];
    let settings = Settings {
        loss_weights: mixture.into(),
        use_weighting: true,
        sync_ref_model: true,
        ref_model_sync_steps: 1,
        nll_coef: 0.1,
        ..Settings::defaults()
    };
    let train = |accumulate| {
        let learner = LearnerSettings { warmup: 0.0, accumulate, adam_epsilon: 1.0, ..LearnerSettings::defaults() };
        let (mut method, mut learner) = (dpo(settings.clone()), Learner::new(policy().train(), &learner, 0.5, 10));
        let mut losses = vec![];
        for rows in [[0, 1, 2, 3], [2, 3, 4, 5], [5, 0, 3, 1]] {
            let metrics = method.iteration(&batch(&rows), &mut learner).unwrap();
            losses.push(value(&metrics, metrics::LOSS) as f32);
        }
        (weights::flatten(&learner.module().valid()), losses)
    };
    let (whole, losses) = train(1);
    let start = weights::flatten(&policy());
    let largest = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let moved = largest(&whole, &start);
    assert!(moved > 1e-2, "{moved}");
    for accumulate in [2, 4] {
        let (parts, losses_of_parts) = train(accumulate);
        assert!(largest(&parts, &whole) < 1e-3 * moved && largest(&losses_of_parts, &losses) < 1e-5, "{accumulate}");
    }
}
