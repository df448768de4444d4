//! Responses of the behavior policy with their scores, and the dynamic sampling of groups (Yu et al. 2025, §3.2).

use crate::shaping::{RunningMoments, overlong_penalty, score_scale, shaped};
use duel_model::{Policy, ResponseReader, Responses, SamplingLaw, generate_by};
use duel_reward::{RewardComponent, Scorer, TokenReward, weighted_parts, weighted_sum};
use duel_spec::{RolloutSettings, metrics, seeds};
use duel_training::invariants as training_invariants;
use duel_training::{Metrics, Result};

/// The prompts of a rollout, each `group` times in a row, and those that may replace some of them.
#[derive(Debug, Clone, Copy)]
pub struct RolloutPrompts<'a> {
    pub prompts: &'a [Vec<u32>],
    pub group: usize,
    /// As many times in a row.
    spare: &'a [Vec<u32>],
    /// Whether every second response is the reference's.
    pub reference_writes: bool,
}

impl<'a> RolloutPrompts<'a> {
    /// Prompts that are all sampled once.
    pub fn new(prompts: &'a [Vec<u32>], group: usize) -> Self {
        Self { prompts, group, spare: &[], reference_writes: false }
    }

    /// Prompts twice in a row, one response each of the policy and of the reference.
    pub fn of_both(prompts: &'a [Vec<u32>]) -> Self {
        Self { reference_writes: true, ..Self::new(prompts, 2) }
    }

    /// The first `episodes` of them, of which the others may replace some.
    pub fn with_spare(prompts: &'a [Vec<u32>], episodes: usize, group: usize) -> Self {
        let (prompts, spare) = prompts.split_at(episodes.min(prompts.len()));
        Self { prompts, group, spare, reference_writes: false }
    }
}

/// Responses with their rewards before the KL penalty: as the scorer gave them, and shaped, `[B]`.
#[derive(Debug, Clone)]
pub struct ScoredResponses {
    pub responses: Responses,
    /// Each of several rewards by itself, as its scorer gave it.
    pub components: Vec<RewardComponent>,
    pub raw: Vec<f64>,
    pub scores: Vec<f64>,
    /// Of each shaped score what is given at single tokens; the rest is given at the end.
    pub parts: Vec<Vec<TokenReward>>,
}

/// Samples and scores; counts the tokens.
pub struct ResponseSampler<'a> {
    pub settings: &'a RolloutSettings,
    /// Prepared for inference.
    pub policy: Policy,
    /// Writes every second response, if another policy does.
    pub second: Option<Policy>,
    pub scorer: &'a dyn Scorer,
    pub reader: &'a ResponseReader,
    /// Mean and variance of all scores so far.
    pub seen: &'a mut RunningMoments,
    pub rng: seeds::Rng,
    /// Tokens of the responses sampled so far, and with those of their prompts.
    pub response_tokens: u64,
    pub tokens: u64,
}

impl ResponseSampler<'_> {
    /// One response to each prompt; of groups, those whose scores are all the same are replaced as `dynamic_sampling_rounds` says.
    ///
    /// # Errors
    /// Logits that are not finite, and a scorer that fails.
    pub fn sample(&mut self, step: u64, prompts: RolloutPrompts<'_>, metrics: &mut Metrics) -> Result<ScoredResponses> {
        let RolloutPrompts { prompts, group, spare, .. } = prompts;
        let mut scored = self.sample_once(step, prompts.to_vec())?;
        if group == 1 {
            return Ok(scored);
        }
        let mut equal = scored.groups_without_spread(group, self.settings);
        let groups = prompts.len() / group;
        metrics.put(metrics::GROUPS_WITHOUT_SPREAD, equal.len() as f64 / groups as f64);
        let rounds = self.settings.dynamic_sampling_rounds;
        let (mut spare, mut replaced) = (spare.chunks(group), 0);
        for _ in 0..rounds {
            let next: Vec<&[Vec<u32>]> = spare.by_ref().take(equal.len()).collect();
            if next.is_empty() {
                break;
            }
            let fresh = self.sample_once(step, next.concat())?;
            for (index, &target) in equal.iter().take(next.len()).enumerate() {
                scored.replace_group(target, group, &fresh, index);
            }
            replaced += next.len();
            equal = scored.groups_without_spread(group, self.settings);
        }
        if rounds > 0 {
            metrics.put(metrics::GROUPS_REPLACED, replaced as f64);
        }
        Ok(scored)
    }

    fn sample_once(&mut self, step: u64, prompts: Vec<Vec<u32>>) -> Result<ScoredResponses> {
        let (s, space) = (self.settings, self.reader.space());
        let device = self.reader.device();
        let mut write = |policy: &Policy, prompts: Vec<_>| {
            generate_by(sampling_law(s), policy, space, prompts, &mut self.rng, device)
        };
        let responses = match &self.second {
            None => write(&self.policy, prompts),
            Some(second) => {
                let of = |first| -> Vec<_> { prompts.iter().skip(first).step_by(2).cloned().collect() };
                let own = write(&self.policy, of(0));
                alternating(own, write(second, of(1)))
            }
        };
        training_invariants::sampled_from_finite(step, &responses)?;
        self.response_tokens += responses.response_tokens();
        self.tokens += responses.token_count();
        let mut components = self.scorer.components(&responses).map_err(unscored)?;
        let raw = weighted_sum(&components); // [B]
        let mut scores = shaped(s, self.seen, &raw, |row| responses.ended(row, space));
        for (score, response) in scores.iter_mut().zip(&responses.responses) {
            *score -= overlong_penalty(s, response.len(), space.response_tokens);
        }
        let scale = score_scale(s, self.seen);
        let scaled = |part: TokenReward| TokenReward { reward: part.reward * scale, ..part };
        let parts_of = |row| weighted_parts(&components, row).into_iter().map(scaled).collect();
        let parts = (0..responses.len()).map(parts_of).collect();
        components.iter_mut().for_each(|component| component.parts.clear());
        Ok(ScoredResponses { responses, components, raw, scores, parts })
    }
}

impl ScoredResponses {
    /// The groups of consecutive responses whose scores are all the same; where each reward is normalized, those of every reward.
    fn groups_without_spread(&self, group: usize, s: &RolloutSettings) -> Vec<usize> {
        let is_equal = |scores: &[f64]| scores.iter().all(|score| *score == scores[0]);
        let has_spread = |index: usize| {
            let varies = |scores: &Vec<f64>| !is_equal(&scores[index * group..(index + 1) * group]);
            s.normalizes_each_reward() && self.components.iter().any(|component| varies(&component.scores))
        };
        let groups = self.scores.chunks(group).enumerate();
        let groups = groups.filter(|(_, scores)| is_equal(scores)).map(|(index, _)| index);
        groups.filter(|index| !has_spread(*index)).collect()
    }

    /// Puts the group `from` of other responses into the place of the group `target`.
    fn replace_group(&mut self, target: usize, group: usize, other: &Self, from: usize) {
        for row in 0..group {
            let (to, from) = (target * group + row, from * group + row);
            self.responses.prompts[to].clone_from(&other.responses.prompts[from]);
            self.responses.responses[to].clone_from(&other.responses.responses[from]);
            self.responses.logp[to].clone_from(&other.responses.logp[from]);
            (self.raw[to], self.scores[to]) = (other.raw[from], other.scores[from]);
            self.parts[to].clone_from(&other.parts[from]);
            for (component, fresh) in self.components.iter_mut().zip(&other.components) {
                component.scores[to] = fresh.scores[from];
            }
        }
    }
}

/// The responses of two policies, one of each in turn.
fn alternating(first: Responses, second: Responses) -> Responses {
    let merge = |a: Vec<Vec<u32>>, b: Vec<Vec<u32>>| a.into_iter().zip(b).flat_map(|(a, b)| [a, b]).collect();
    Responses {
        prompts: merge(first.prompts, second.prompts),
        responses: merge(first.responses, second.responses),
        logp: first.logp.into_iter().zip(second.logp).flat_map(|(a, b)| [a, b]).collect(),
        masks: vec![],
    }
}

/// The law that a rollout is sampled from.
pub fn sampling_law(s: &RolloutSettings) -> SamplingLaw {
    SamplingLaw { temperature: s.temperature, top_p: s.top_p }
}

/// A scorer's error as a training's: one of the reward model passes through, any other keeps its message.
fn unscored(error: duel_reward::Error) -> duel_training::Error {
    match error {
        duel_reward::Error::Training(error) => error,
        duel_reward::Error::Model(error) => error.into(),
        duel_reward::Error::Data(error) => error.into(),
        scorer => duel_training::Error::Unscored { source: Box::new(scorer) },
    }
}
