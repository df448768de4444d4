//! Several rewards, and rewards of tokens.

use super::*;
use crate::sampling::{ResponseSampler, ScoredResponses};
use crate::shaped_rewards;
use duel_reward::{ResponseLength, RewardComponent, Scorer, TokenReward, WeightedReward};
use duel_spec::MultiObjectiveAggregation;

/// A score by the prompt's second token and the row.
struct ByPrompt(fn(u32, usize) -> f64);

impl Scorer for ByPrompt {
    fn score(&self, batch: &Responses) -> duel_reward::Result<Vec<f64>> {
        Ok(batch.prompts.iter().enumerate().map(|(row, prompt)| self.0(prompt[1], row)).collect())
    }
}

/// The prompt's second token as the score: all of it at the first token, twice as much at the third, which the last takes away.
struct InParts;

impl Scorer for InParts {
    fn score(&self, batch: &Responses) -> duel_reward::Result<Vec<f64>> {
        Ok(batch.prompts.iter().map(|prompt| f64::from(prompt[1])).collect())
    }

    fn components(&self, batch: &Responses) -> duel_reward::Result<Vec<RewardComponent>> {
        let scores = self.score(batch)?;
        let part = |token, reward| TokenReward { token, reward };
        let parts = scores.iter().map(|x| vec![part(0, *x), part(2, 2.0 * x), part(T - 1, -2.0 * x)]).collect();
        Ok(vec![RewardComponent { parts, ..RewardComponent::alone(scores) }])
    }
}

fn weighted(terms: [(RewardSource, f64, Arc<dyn Scorer>); 2]) -> RolloutContext {
    RolloutContext { scorer: Arc::new(WeightedReward::new(terms.into())), ..context() }
}

fn in_parts() -> RolloutContext {
    RolloutContext { scorer: Arc::new(InParts), ..context() }
}

fn gdpo() -> RolloutSettings {
    RolloutSettings {
        kl: KlPenalty::Loss,
        kl_estimator: KlEstimator::K3,
        multi_objective_aggregation: MultiObjectiveAggregation::NormalizeThenSum,
        ..settings()
    }
}

const GROUPS: Baseline = Baseline::Group { group: 2, scale: true };

/// A rollout under some settings, of groups of two.
fn roll_out(s: RolloutSettings, context: RolloutContext) -> Result<Rollout> {
    let actor = policy(2).train();
    let actors = BehaviorAndCurrent { behavior: &actor.valid(), current: &actor };
    let prompts = prompts(2);
    let prompts = RolloutPrompts::new(&prompts, 2);
    RolloutCollector::new(context, s).roll_out(actors, prompts, &[], 0, &mut Metrics::default())
}

/// Each is recorded as it was scored; what is trained on is their weighted sum.
#[test]
fn several_rewards_are_recorded_each() -> Result<()> {
    let past = Baseline::Past { sum: 0.0, n: 0.0 };
    let terms = || -> [(RewardSource, f64, Arc<dyn Scorer>); 2] {
        [(RewardSource::Gold, 2.0, Arc::new(CountFives)), (RewardSource::Length, -0.5, Arc::new(ResponseLength))]
    };
    let mut method = PolicyGradient::new(past, settings(), weighted(terms()));
    let metrics = method.iteration(&prompts(1), &mut learner(policy(2).train()))?;
    let gold = value_of(&metrics, metrics::ROLLOUT_REWARD_GOLD);
    assert!(gold > 0.0, "a response has a five");
    assert_eq!(value_of(&metrics, metrics::ROLLOUT_REWARD_LENGTH), T as f64);
    let proxy = value_of(&metrics, metrics::ROLLOUT_PROXY);
    assert!((proxy - (2.0 * gold - 0.5 * T as f64)).abs() < 1e-9, "{proxy}");
    let paid = value_of(&metrics, metrics::ROLLOUT_RETURN) + 0.1 * value_of(&metrics, metrics::ROLLOUT_KL);
    assert!((paid - proxy).abs() < 1e-6, "{paid}");

    let free = RolloutContext { scorer: Arc::new(CountFives), ..context() };
    let metrics =
        PolicyGradient::new(past, settings(), free).iteration(&prompts(1), &mut learner(policy(2).train()))?;
    assert!(metrics.values.iter().all(|(metric, _)| !metric.name.starts_with("rollout_reward_")), "a single reward");
    Ok(())
}

/// Two rewards of pairs: one says ±½ of 1, the other ±½ of the prompt's second token, the other way round.
#[test]
fn each_reward_is_normalized_within_its_group() -> Result<()> {
    let opposite = || -> [(RewardSource, f64, Arc<dyn Scorer>); 2] {
        let one = |_: u32, row: usize| (row % 2) as f64;
        let by_prompt = |token: u32, row: usize| -f64::from(token - 3) * (row % 2) as f64;
        [(RewardSource::Rm, 1.0, Arc::new(ByPrompt(one))), (RewardSource::Gold, 0.25, Arc::new(ByPrompt(by_prompt)))]
    };
    let mut method = PolicyGradient::new(GROUPS, gdpo(), weighted(opposite()));
    let advantages = weights::host(method.advantages(&roll_out(gdpo(), weighted(opposite()))?));
    // the second reward has no spread in the first group, and the same one in the others, whatever its size
    let half = 0.5f64.sqrt();
    let sums = [half, half, 0.75 * half, 0.75 * half, 0.75 * half, 0.75 * half, 0.75 * half, 0.75 * half];
    let sd = (sums.iter().map(|x| x * x).sum::<f64>() / 7.0).sqrt();
    for (row, (actual, size)) in advantages.iter().zip(sums).enumerate() {
        let expected = size / sd * if row % 2 == 0 { -1.0 } else { 1.0 };
        assert!((f64::from(*actual) - expected).abs() < 1e-3, "{row}: {actual}, by hand {expected}");
    }
    // a sum that is normalized has advantages of one size where it has a spread
    let summed = RolloutSettings { kl: KlPenalty::Loss, kl_estimator: KlEstimator::K3, ..settings() };
    let mut method = PolicyGradient::new(GROUPS, summed.clone(), weighted(opposite()));
    let advantages = weights::host(method.advantages(&roll_out(summed, weighted(opposite()))?));
    assert!((f64::from(advantages[1]) - half).abs() < 1e-3, "{advantages:?}");
    Ok(())
}

/// Rewards that cancel in their sum leave no spread in it, but each has one.
#[test]
fn a_spread_is_that_of_what_is_normalized() -> Result<()> {
    let cancelling = || -> [(RewardSource, f64, Arc<dyn Scorer>); 2] {
        let (up, down) = (|_: u32, row: usize| (row % 2) as f64, |_: u32, row: usize| -((row % 2) as f64));
        [(RewardSource::Rm, 1.0, Arc::new(ByPrompt(up))), (RewardSource::Gold, 1.0, Arc::new(ByPrompt(down)))]
    };
    let without_spread = |s: RolloutSettings| -> Result<f64> {
        let mut method = PolicyGradient::new(GROUPS, s, weighted(cancelling()));
        let metrics = method.iteration(&prompts(2), &mut learner(policy(2).train()))?;
        Ok(value_of(&metrics, metrics::GROUPS_WITHOUT_SPREAD))
    };
    assert_eq!(without_spread(gdpo())?, 0.0);
    assert_eq!(without_spread(settings())?, 1.0);
    Ok(())
}

/// Whatever reward its parts are of, PPO gives them at their tokens; the score of a response is their sum.
#[test]
fn parts_of_a_score_are_given_at_their_tokens() -> Result<()> {
    for (s, scale) in [
        (settings(), 1.0),
        (RolloutSettings { eos_penalty: 0.75, ..settings() }, 1.0),
        (RolloutSettings { scores: Normalization::Scaled, ..settings() }, f64::NAN),
    ] {
        let ppo = duel_spec::PpoSettings { shared: s.clone(), ..duel_spec::PpoSettings::defaults() };
        let rollout = roll_out(s.clone(), in_parts())?;
        let raw: Vec<f64> = rollout.responses.prompts.iter().map(|prompt| f64::from(prompt[1])).collect();
        let scale = if scale.is_nan() { rollout.scores[0] / raw[0] } else { scale };
        let rewards = weights::host(shaped_rewards(&ppo, &rollout));
        let kl = weights::host(rollout.token_kl.clone());
        for (row, x) in raw.iter().map(|x| scale * x).enumerate() {
            assert!((rollout.scores[row] - (x - s.eos_penalty)).abs() < 1e-9, "no response ends");
            for (t, part) in [x, 0.0, 2.0 * x, -2.0 * x - s.eos_penalty].into_iter().enumerate() {
                let expected = part - 0.1 * f64::from(kl[row * T + t]);
                let actual = f64::from(rewards[row * T + t]);
                assert!((actual - expected).abs() < 1e-5, "token {t} of {row}: {actual}, by hand {expected}");
            }
        }
        // and every invariant holds
        Ppo::new(ppo, in_parts()).iteration(&prompts(1), &mut learner(actor_critic(CriticBody::Separate)))?;
    }
    Ok(())
}

/// Where a response is one action its return is the whole score, in whatever parts.
#[test]
fn without_a_critic_a_score_is_the_sum_of_its_parts() -> Result<()> {
    let whole = || RolloutContext { scorer: Arc::new(ByPrompt(|token, _| f64::from(token))), ..context() };
    for baseline in [Baseline::Past { sum: 0.0, n: 0.0 }, Baseline::LeaveOneOut { group: 2 }, GROUPS] {
        let advantages = |context: fn() -> RolloutContext| -> Result<Vec<f32>> {
            let rollout = roll_out(settings(), context())?;
            Ok(weights::host(PolicyGradient::new(baseline, settings(), context()).advantages(&rollout)))
        };
        assert_eq!(advantages(in_parts)?, advantages(whole)?);
    }
    Ok(())
}

/// A group that dynamic sampling puts in place of another brings its rewards along.
#[test]
fn replaced_groups_bring_their_rewards() -> Result<()> {
    /// As [`super::sampling::EqualOnEven`], in parts and beside the prompt's second token.
    struct Both;

    impl Scorer for Both {
        fn score(&self, batch: &Responses) -> duel_reward::Result<Vec<f64>> {
            super::sampling::EqualOnEven.score(batch)
        }

        fn components(&self, batch: &Responses) -> duel_reward::Result<Vec<RewardComponent>> {
            let token = InParts.components(batch)?.remove(0);
            let parts = token.parts.clone();
            Ok(vec![
                RewardComponent { parts, ..RewardComponent::alone(self.score(batch)?) },
                RewardComponent { weight: 0.0, parts: vec![], ..token },
            ])
        }
    }
    let s = RolloutSettings { dynamic_sampling_rounds: 1, ..settings() };
    let (reader, mut seen) = (reader(), Default::default());
    let mut sampler = ResponseSampler {
        settings: &s,
        policy: policy(2),
        second: None,
        scorer: &Both,
        reader: &reader,
        seen: &mut seen,
        rng: seeds::stream(SEED, Stream::Rollout, 0),
        response_tokens: 0,
        tokens: 0,
    };
    let prompts: Prompts = [3, 4, 5, 6, 7, 9].into_iter().flat_map(|token| vec![vec![1, token, 4, 5, 6]; 2]).collect();
    let prompts = RolloutPrompts::with_spare(&prompts, ROWS, 2);
    let ScoredResponses { responses, components, parts, .. } = sampler.sample(0, prompts, &mut Metrics::default())?;
    assert_eq!(responses.prompts[2][1], 7, "the second group is replaced");
    let tokens: Vec<f64> = responses.prompts.iter().map(|prompt| f64::from(prompt[1])).collect();
    assert_eq!(components[1].scores, tokens);
    assert_eq!(parts.iter().map(|parts| parts[0].reward).collect::<Vec<_>>(), tokens);
    Ok(())
}
