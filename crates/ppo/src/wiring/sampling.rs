//! Dynamic sampling, the overlong penalty, and the weights of tokens.

use super::*;
use crate::sampling::ResponseSampler;
use duel_model::SamplingLaw;
use duel_spec::TrainedLaw;

/// Responses to a prompt whose second token is even all score the same, neighbours to others do not.
pub(super) struct EqualOnEven;

impl duel_reward::Scorer for EqualOnEven {
    fn score(&self, batch: &Responses) -> duel_reward::Result<Vec<f64>> {
        Ok(batch.prompts.iter().enumerate().map(|(row, prompt)| (row % 2 * (prompt[1] % 2) as usize) as f64).collect())
    }
}

/// Prompts in groups of two with these second tokens.
fn prompts_with(tokens: &[u32]) -> Prompts {
    tokens.iter().flat_map(|&token| [vec![1, token, 4, 5, 6], vec![1, token, 4, 5, 6]]).collect()
}

/// Groups without spread are replaced by those of the next spare prompts, in as many rounds as are allowed.
#[test]
fn groups_without_spread_are_replaced() -> Result<()> {
    // of 3, 4, 5 and 6 the second and the fourth: in the first round by 8, which has none, and 7; then by 10, then by 9
    let prompts = prompts_with(&[3, 4, 5, 6, 8, 7, 10, 9, 3, 3]);
    for (rounds, groups, replaced) in
        [(0, [3, 4, 5, 6], 0), (1, [3, 8, 5, 7], 2), (2, [3, 10, 5, 7], 3), (3, [3, 9, 5, 7], 4), (9, [3, 9, 5, 7], 4)]
    {
        let s = RolloutSettings { dynamic_sampling_rounds: rounds, ..settings() };
        let (mut metrics, mut seen) = (Metrics::default(), Default::default());
        let reader = reader();
        let mut sampler = ResponseSampler {
            settings: &s,
            policy: policy(2),
            second: None,
            scorer: &EqualOnEven,
            reader: &reader,
            seen: &mut seen,
            rng: seeds::stream(SEED, Stream::Rollout, 0),
            response_tokens: 0,
            tokens: 0,
        };
        let prompts = RolloutPrompts::with_spare(&prompts, ROWS, 2);
        let scored = sampler.sample(0, prompts, &mut metrics)?;
        assert_eq!(scored.responses.prompts, prompts_with(&groups), "{rounds} rounds");
        let again = duel_reward::Scorer::score(&EqualOnEven, &scored.responses).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!([&scored.raw, &scored.scores], [&again, &again]);
        let logp = logprobs::sequence_logp(&reader, &policy(2), &scored.responses);
        for (sampled, logp) in scored.responses.logp.iter().zip(logp) {
            assert!((sampled.iter().sum::<f32>() - logp).abs() < 1e-3, "the log-probs of a replaced response");
        }
        let sampled = (ROWS + 2 * replaced) as u64;
        assert_eq!([sampler.response_tokens, sampler.tokens], [sampled * T as u64, sampled * (P + T) as u64]);
        assert_eq!(value_of(&metrics, metrics::GROUPS_WITHOUT_SPREAD), 0.5, "as first sampled");
        let counted = metrics.values.iter().find(|(metric, _)| *metric == metrics::GROUPS_REPLACED);
        assert_eq!(counted.map(|(_, groups)| *groups), (rounds > 0).then_some(replaced as f64));
    }
    Ok(())
}

/// What is replaced was sampled and scored, and is paid for; it is not read again.
#[test]
fn replaced_groups_are_paid_for() -> Result<()> {
    let prompts = prompts_with(&[3, 4, 5, 6, 8, 7, 10, 9]);
    let cost = |dynamic_sampling_rounds| -> Result<IterationCost> {
        let context = RolloutContext { scorer: Arc::new(EqualOnEven), ..context() };
        let settings = RolloutSettings { dynamic_sampling_rounds, ..settings() };
        let mut method = PolicyGradient::new(Baseline::Group { group: 2, scale: true }, settings, context);
        Ok(method.iteration(&prompts, &mut learner(policy(2).train()))?.cost)
    };
    let (plain, dynamic) = (cost(0)?, cost(3)?);
    let rows = 2 * 4u64;
    let tokens = rows * (P + T) as u64;
    assert_eq!(dynamic.sampled_tokens - plain.sampled_tokens, rows * T as u64);
    assert_eq!(dynamic.scored_tokens - plain.scored_tokens, tokens);
    assert_eq!(dynamic.trained_tokens, plain.trained_tokens);
    let flops = Flops::policy(&config()).forward(tokens) + Flops::scalar(&config()).forward(tokens);
    assert!((dynamic.flops - plain.flops - flops).abs() < 1e-6 * flops, "{} more", dynamic.flops - plain.flops);
    Ok(())
}

/// The last tokens up to the longest response take a share of the penalty each.
#[test]
fn long_responses_are_penalized() -> Result<()> {
    let scores = |overlong_buffer| -> Result<f64> {
        let s = RolloutSettings { overlong_buffer, overlong_penalty: 0.5, ..settings() };
        let mut method = ppo(s, CriticBody::Separate);
        let metrics = method.iteration(&prompts(1), &mut learner(actor_critic(CriticBody::Separate)))?;
        let kl = 0.1 * value_of(&metrics, metrics::ROLLOUT_KL);
        Ok(value_of(&metrics, metrics::ROLLOUT_RETURN) + kl - value_of(&metrics, metrics::ROLLOUT_PROXY))
    };
    assert!((scores(2)? + 0.5).abs() < 1e-6 && scores(0)?.abs() < 1e-6, "all responses have the most tokens");
    Ok(())
}

/// Of all tokens those of the highest entropy have an advantage; advantages are white over all of them (REINFORCE++).
#[test]
fn tokens_of_high_entropy_alone_have_an_advantage() -> Result<()> {
    let s = RolloutSettings {
        top_entropy_quantile: 0.25,
        advantages: Normalization::White,
        epochs: 1,
        minibatches: 1,
        ..settings()
    };
    let actor = policy(2).train();
    let rollout = RolloutCollector::new(context(), s.clone()).roll_out(
        BehaviorAndCurrent { behavior: &actor.valid(), current: &actor },
        RolloutPrompts::new(&prompts(1), 1),
        &[],
        0,
        &mut Metrics::default(),
    )?;
    let logits = reader().logits(&policy(2), &reader().tokens(&rollout.responses)); // [B, T, V]
    let entropies = weights::host(duel_objectives::entropy(logits));
    let mut sorted = entropies.clone();
    sorted.sort_by(f32::total_cmp);
    let token_weights = weights::host(rollout.token_weights.clone().expect("a weight for each token"));
    let by_hand: Vec<f32> = entropies.iter().map(|x| f32::from(*x >= sorted[ROWS * T - ROWS * T / 4])).collect();
    assert_eq!(token_weights, by_hand);
    assert_eq!(by_hand.iter().sum::<f32>(), (ROWS * T / 4) as f32);

    // before the first update the ratio is 1, and the loss minus the mean of the weighted advantages
    let past = Baseline::Past { sum: 0.0, n: 0.0 };
    let returns = weights::host(PolicyGradient::new(past, s.clone(), context()).advantages(&rollout));
    let mean = returns.iter().sum::<f32>() / ROWS as f32;
    let squares: f32 = returns.iter().map(|x| (x - mean).powi(2)).sum();
    let sd = (squares * T as f32 / (ROWS * T - 1) as f32).sqrt();
    let gains = by_hand.iter().enumerate().map(|(cell, one)| one * (returns[cell / T] - mean) / sd);
    let expected = -f64::from(gains.sum::<f32>()) / (ROWS * T) as f64;
    let metrics = PolicyGradient::new(past, s.clone(), context()).iteration(&prompts(1), &mut learner(actor))?;
    let loss = value_of(&metrics, metrics::LOSS);
    assert!((loss - expected).abs() < 1e-4 && loss.abs() > 0.01, "{loss}, by hand {expected}");

    let of_ppo = |top_entropy_quantile| -> Result<f64> {
        let mut method = ppo(RolloutSettings { top_entropy_quantile, ..s.clone() }, CriticBody::Separate);
        let metrics = method.iteration(&prompts(1), &mut learner(actor_critic(CriticBody::Separate)))?;
        Ok(value_of(&metrics, metrics::LOSS) - 0.1 * value_of(&metrics, metrics::VALUE_LOSS))
    };
    assert!(of_ppo(1.0)?.abs() < 1e-5 && of_ppo(0.25)?.abs() > 0.01, "white advantages have mean 0 over all tokens");
    Ok(())
}

/// Responses that are sampled by another law have the weights of the policy's.
#[test]
fn another_law_of_sampling_is_weighed() -> Result<()> {
    let actor = policy(2).train();
    let behavior = actor.valid();
    for (temperature, top_p, cap) in [(0.5, 1.0, 3.0), (2.0, 1.0, 1.2), (1.0, 0.6, 3.0)] {
        let s = RolloutSettings { temperature, top_p, importance_sampling_cap: cap, ..settings() };
        let mut metrics = Metrics::default();
        let rollout = RolloutCollector::new(context(), s).roll_out(
            BehaviorAndCurrent { behavior: &behavior, current: &actor },
            RolloutPrompts::new(&prompts(1), 1),
            &[],
            0,
            &mut metrics,
        )?;
        let logits = reader().logits(&behavior, &reader().tokens(&rollout.responses)); // [B, T, V]
        let [_, _, vocabulary] = logits.dims();
        let weights = weights::host(rollout.token_weights.expect("a weight for each token"));
        let mut capped = 0.0;
        for (cell, logits) in weights::host(logits).chunks(vocabulary).enumerate() {
            let token = rollout.responses.responses[cell / T][cell % T] as usize;
            let p = |law: SamplingLaw| law.probabilities(logits)[token];
            let ratio = p(SamplingLaw::POLICY) / p(SamplingLaw { temperature, top_p });
            let weight = f64::from(weights[cell]);
            assert!((weight - ratio.min(cap)).abs() < 1e-4, "{temperature}, {top_p}: {weight}, by hand {ratio}");
            capped += f64::from(ratio > cap);
        }
        assert!((value_of(&metrics, metrics::IMPORTANCE_CAPPED) - capped / (ROWS * T) as f64).abs() < 1e-9);
        assert!(weights.iter().any(|weight| (weight - 1.0).abs() > 0.05), "{weights:?}");
    }
    Ok(())
}

/// With `trained_law = "sampled"` log-probs of policy and reference are those at the temperature, the ratio starts at 1, and nothing is
/// weighed but the nucleus.
#[test]
fn the_law_of_the_samples_is_trained() -> Result<()> {
    let actor = policy(2).train();
    let behavior = actor.valid();
    for (temperature, top_p, kl_estimator) in
        [(0.5, 1.0, KlEstimator::K1), (2.0, 1.0, KlEstimator::Full), (2.0, 0.6, KlEstimator::K1)]
    {
        let trained_law = TrainedLaw::Sampled;
        let s = RolloutSettings { temperature, top_p, trained_law, kl_estimator, ..settings() };
        let rollout = RolloutCollector::new(context(), s.clone()).roll_out(
            BehaviorAndCurrent { behavior: &behavior, current: &actor },
            RolloutPrompts::new(&prompts(1), 1),
            &[],
            0,
            &mut Metrics::default(),
        )?;
        let logits = |policy: &Policy| {
            let logits = reader().logits(policy, &reader().tokens(&rollout.responses)); // [B, T, V]
            let [_, _, vocabulary] = logits.dims();
            weights::host(logits).chunks(vocabulary).map(<[f32]>::to_vec).collect::<Vec<_>>()
        };
        let law = SamplingLaw { temperature, top_p: 1.0 };
        let [by_policy, by_reference] = [&behavior, &policy(1)].map(logits);
        let logp = weights::host(rollout.logp.clone());
        let ref_logp = weights::host(rollout.ref_logp.clone().expect("a reference"));
        let token_kl = weights::host(rollout.token_kl.clone());
        for cell in 0..ROWS * T {
            let token = rollout.responses.responses[cell / T][cell % T] as usize;
            let [p, q] = [&by_policy[cell], &by_reference[cell]].map(|logits| law.probabilities(logits));
            let kl: f64 = match kl_estimator {
                KlEstimator::Full => p.iter().zip(&q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum(),
                _ => (p[token] / q[token]).ln(),
            };
            for (actual, expected) in
                [(logp[cell], p[token].ln()), (ref_logp[cell], q[token].ln()), (token_kl[cell], kl)]
            {
                assert!((f64::from(actual) - expected).abs() < 1e-4, "{temperature}: {actual}, by hand {expected}");
            }
            if top_p == 1.0 {
                let sampled = rollout.responses.logp[cell / T][cell % T];
                assert!((logp[cell] - sampled).abs() < 1e-4, "the law of the samples: {} {sampled}", logp[cell]);
            }
        }
        match rollout.token_weights {
            None => assert_eq!(top_p, 1.0),
            // what the nucleus is of the tempered law, which is less than all
            Some(weights) => assert!(weights::host(weights).iter().all(|weight| (0.5..1.0 + 1e-4).contains(weight))),
        }
        // the training reads the same: every invariant of an iteration holds, the first ratio among them
        let mut method = ppo(s.clone(), CriticBody::Separate);
        let metrics = method.iteration(&prompts(1), &mut learner(actor_critic(CriticBody::Separate)))?;
        let is_weighed = metrics.values.iter().any(|(metric, _)| *metric == metrics::IMPORTANCE_CAPPED);
        assert_eq!(is_weighed, top_p < 1.0);
        for module in [CriticBody::Shared, CriticBody::Separate] {
            let s = RolloutSettings {
                entropy_coef: 0.1,
                kl: KlPenalty::Loss,
                kl_estimator: KlEstimator::Full,
                ..s.clone()
            };
            ppo(s, module).iteration(&prompts(1), &mut learner(actor_critic(module)))?;
        }
    }
    Ok(())
}

/// The bonus counts from the rollout on whose policy has too low an entropy; the coefficient rises there, and falls elsewhere.
#[test]
fn the_entropy_bonus_follows_the_entropy_of_the_policy() -> Result<()> {
    let adaptive = |entropy_target| RolloutSettings {
        use_adaptive_entropy: true,
        entropy_target,
        entropy_coef: 0.5,
        entropy_coef_delta: 0.25,
        entropy_coef_max: 0.9,
        ..settings()
    };
    let past = Baseline::Past { sum: 0.0, n: 0.0 };
    for (target, coefs) in [(100.0, [0.5, 0.75, 0.9]), (1e-3, [0.0; 3])] {
        let mut learner = learner(policy(2).train());
        let mut method = PolicyGradient::new(past, adaptive(target), context());
        for (iteration, coef) in coefs.into_iter().enumerate() {
            let behavior = learner.module().valid();
            let metrics = method.iteration(&prompts(1), &mut learner)?;
            assert_eq!(value_of(&metrics, metrics::ENTROPY_COEF), coef, "{target}");
            let responses = {
                let mut rng = seeds::stream(SEED, Stream::Rollout, iteration as u64);
                generate(&behavior, &space(), prompts(1), &mut rng, &Device::flex())
            };
            let logits = reader().logits(&behavior, &reader().tokens(&responses)); // [B, T, V]
            let entropies = weights::host(duel_objectives::entropy(logits));
            let entropy = entropies.iter().map(|&x| f64::from(x)).sum::<f64>() / (ROWS * T) as f64;
            let measured = value_of(&metrics, metrics::POLICY_ENTROPY);
            assert!((measured - entropy).abs() < 1e-4, "{measured}, by hand {entropy}");
        }
    }
    // the bonus itself, and the pass that reads the entropies
    let loss = |s: RolloutSettings| -> Result<(f64, u64)> {
        let metrics =
            PolicyGradient::new(past, s, context()).iteration(&prompts(1), &mut learner(policy(2).train()))?;
        Ok((value_of(&metrics, metrics::LOSS), metrics.cost.scored_tokens))
    };
    let one_update = |s| RolloutSettings { epochs: 1, minibatches: 1, ..s };
    let (plain, fixed) = (loss(one_update(settings()))?, RolloutSettings { entropy_coef: 0.5, ..settings() });
    let (low, high) = (loss(one_update(adaptive(100.0)))?, loss(one_update(adaptive(1e-3)))?);
    assert!((low.0 - loss(one_update(fixed))?.0).abs() < 1e-5 && (high.0 - plain.0).abs() < 1e-5);
    assert!((low.0 - plain.0).abs() > 0.1, "{low:?} {plain:?}");
    assert_eq!(low.1 - plain.1, (ROWS * (P + T)) as u64);
    Ok(())
}

/// XPO: of two responses to a prompt the second is the reference's; what a rollout reports is of the policy's own.
#[test]
fn every_second_response_is_of_the_reference() -> Result<()> {
    let prompts = prompts(2);
    for (temperature, trained_law) in [(1.0, TrainedLaw::Policy), (0.5, TrainedLaw::Policy), (0.5, TrainedLaw::Sampled)]
    {
        let (actor, shared) = (policy(2).train(), RolloutSettings { temperature, trained_law, ..settings() });
        let behavior = actor.valid();
        let mut metrics = Metrics::default();
        let rollout = RolloutCollector::new(context(), shared.clone()).roll_out(
            BehaviorAndCurrent { behavior: &behavior, current: &actor },
            RolloutPrompts::of_both(&prompts),
            &[],
            0,
            &mut metrics,
        )?;
        let law = SamplingLaw { temperature, top_p: 1.0 };
        let mut rng = seeds::stream(SEED, Stream::Rollout, 0);
        let [own, second] = [&behavior, &policy(1)].map(|policy| {
            let of_half = prompts.iter().step_by(2).cloned().collect();
            duel_model::generate_by(law, policy, &space(), of_half, &mut rng, &Device::flex())
        });
        for pair in 0..ROWS / 2 {
            let responses = [&rollout.responses.responses[2 * pair], &rollout.responses.responses[2 * pair + 1]];
            assert_eq!(responses, [&own.responses[pair], &second.responses[pair]], "pair {pair}");
        }
        let scores = duel_reward::Scorer::score(&reward(), &own).unwrap_or_else(|e| panic!("{e}"));
        let score = scores.iter().sum::<f64>() / scores.len() as f64;
        assert!((value_of(&metrics, metrics::ROLLOUT_PROXY) - score).abs() < 1e-5);
        let at = |policy| crate::law::tempered_logp(&reader(), policy, &own, shared.trained_temperature());
        let [logp, ref_logp] = [at(&behavior), at(&policy(1))].map(|logp| f64::from(weights::host(logp.sum())[0]));
        let kl = (logp - ref_logp) / (ROWS / 2) as f64;
        let [reported, returned] = [value_of(&metrics, metrics::ROLLOUT_KL), rollout.mean_return()];
        assert!(
            (reported - kl).abs() < 1e-4 && (returned - (score - 0.1 * kl)).abs() < 1e-4,
            "{reported}, by hand {kl}"
        );

        let pair_loss = OnlineLoss::Sigmoid;
        let online = duel_spec::OnlineDpoSettings { shared, pair_loss, label_temperature: 0.0, xpo_alpha: 0.1 };
        let mut learner = learner(actor);
        let metrics = OnlineDpo::new(online.clone(), context()).iteration(&prompts, &mut learner)?;
        // before the first update, of a single minibatch: u = β (Δ first − Δ second), with its sign by the label
        let one = RolloutSettings { epochs: 1, minibatches: 1, ..online.shared.clone() };
        let plain = duel_spec::OnlineDpoSettings { shared: one, ..online.clone() };
        let loss = |xpo_alpha| -> Result<f64> {
            let method = duel_spec::OnlineDpoSettings { xpo_alpha, ..plain.clone() };
            let mut learner = self::learner(policy(2).train());
            let metrics = OnlineDpo::new(method, context()).iteration(&prompts, &mut learner)?;
            Ok(value_of(&metrics, metrics::LOSS))
        };
        let of_second = crate::law::tempered_logp(&reader(), &behavior, &second, plain.shared.trained_temperature());
        let bonus = f64::from(weights::host(of_second.sum())[0]) / (ROWS / 2) as f64;
        assert!((loss(0.3)? - loss(0.1)? - 0.2 * bonus).abs() < 1e-4, "α times log π of the second responses");
        assert!(value_of(&metrics, metrics::LOSS).is_finite());
    }
    Ok(())
}
