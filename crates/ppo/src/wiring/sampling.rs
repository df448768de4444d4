//! Dynamic sampling, the overlong penalty, and the weights of tokens.

use super::*;
use crate::sampling::ResponseSampler;
use duel_model::SamplingLaw;

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
