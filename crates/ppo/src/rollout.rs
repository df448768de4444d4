//! Rollouts: responses of the current policy, read by policy and reference and scored.

use crate::invariants;
use crate::law::{logp_from_logits, tempered, tempered_logp};
use crate::rows::{index, map_blocks};
use crate::sampling::{ResponseSampler, RolloutPrompts, ScoredResponses};
use crate::shaping::{RunningMoments, entropy_bonus, estimate_kl, next_kl_coef};
use crate::token_weights::SampledTokens;
use burn::tensor::{Device, Tensor, TensorData};
use duel_model::{Flops, Policy, ResponseReader, Responses, TransformerConfig, weights, weights::host};
use duel_objectives::{Reduction, ResponseMask, full_kl, k1};
use duel_reward::{RewardComponent, Scorer, TokenReward};
use duel_spec::metrics::{self, Metric};
use duel_spec::seeds::{self, Stream};
use duel_spec::{
    KlPenalty, LossReduction, ReferenceMode, RewardSource, RolloutSettings, TokenSpec, TruncationHandling,
};
use duel_training::invariants as training_invariants;
use duel_training::{Metrics, Result, follow, logprobs, probes};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

/// What a method on rollouts needs besides the module in training.
pub struct RolloutContext {
    /// The SFT policy, without gradient; `None` where `beta = 0` and nothing reads it.
    pub reference: Option<Policy>,
    /// Its score is the reward.
    pub scorer: Arc<dyn Scorer>,
    /// Reads without gradient.
    pub reader: ResponseReader,
    /// Reads on the autodiff device.
    pub train_reader: ResponseReader,
    pub config: TransformerConfig,
    /// FLOPs of the scorer's forward pass per token: 0 for gold.
    pub scorer_flops: f64,
    pub seed: u64,
}

impl std::fmt::Debug for RolloutContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RolloutContext(seed {})", self.seed)
    }
}

/// Responses of the behavior policy with their log-probs and scores, `[B, T]` each, without gradient.
#[derive(Debug, Clone)]
pub struct Rollout {
    pub responses: Responses,
    /// Which tokens the losses count.
    pub mask: ResponseMask,
    /// Log-probs under the policy that wrote the responses.
    pub logp: Tensor<2>,
    /// Log-probs under the reference; `None` where `beta = 0`.
    pub ref_logp: Option<Tensor<2>>,
    /// The estimate of each token's KL that is penalized; 0 where `beta = 0`.
    pub token_kl: Tensor<2>,
    /// The KL coefficient.
    pub beta: f64,
    /// The reward of each response before the KL penalty, `[B]`.
    pub scores: Vec<f64>,
    /// Each of several rewards by itself, before its weight.
    pub components: Vec<RewardComponent>,
    /// What of each score is given at a token, `[B, T]`, the rest at the end; `None`: every score is given whole.
    pub token_rewards: Option<Tensor<2>>,
    /// What multiplies each token's advantage, `[B, T]`; `None`: 1.
    pub token_weights: Option<Tensor<2>>,
    /// What multiplies the KL of each token to the policy that wrote it, as a penalty, `[B, T]`; `None`: 0.
    pub token_kl_coefs: Option<Tensor<2>>,
    /// The weight of the entropy bonus.
    pub entropy_coef: f64,
    /// Whether every second response is the reference's, and not the policy's.
    pub reference_writes: bool,
    /// The reference itself, where a loss reads its full distribution.
    pub reference: Option<Policy>,
}

/// The policy that writes the responses: its snapshot without gradient, and the module in training.
#[derive(Debug, Clone, Copy)]
pub struct BehaviorAndCurrent<'a> {
    pub behavior: &'a Policy,
    pub current: &'a Policy,
}

/// Rolls out once per iteration, and holds what changes between iterations: KL coefficient, reference, score moments.
#[derive(Debug)]
pub struct RolloutCollector {
    pub context: RolloutContext,
    settings: RolloutSettings,
    /// The policy that the KL is measured from, where `beta > 0`, and the KL coefficient.
    reference: Option<Policy>,
    beta: f64,
    /// The entropy coefficient.
    entropy_coef: f64,
    /// Mean and variance of all scores so far.
    seen: RunningMoments,
    /// Rollouts made.
    pub iteration: u64,
}

/// The state of a collector between iterations.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CollectorState {
    /// Weights of the reference, where it follows the policy.
    reference: Option<Vec<f32>>,
    beta: f64,
    entropy_coef: f64,
    seen: RunningMoments,
    iteration: u64,
}

impl RolloutCollector {
    /// What a resumed training needs.
    pub fn state(&self) -> CollectorState {
        let following = self.reference.as_ref().filter(|_| self.settings.reference == ReferenceMode::Ema);
        let reference = following.map(weights::flatten);
        let Self { beta, entropy_coef, seen, iteration, .. } = *self;
        CollectorState { reference, beta, entropy_coef, seen, iteration }
    }

    /// Continues from a state.
    pub fn resume(&mut self, state: CollectorState) {
        let CollectorState { reference, beta, entropy_coef, seen, iteration } = state;
        if let Some(weights) = reference {
            let unmerged = iteration == 0; // merged since the first iteration
            self.reference = self.reference.take().map(|policy| {
                let policy = if unmerged { policy } else { policy.merged() };
                weights::unflatten(policy, &weights)
            });
        }
        (self.beta, self.entropy_coef) = (beta, entropy_coef);
        (self.seen, self.iteration) = (seen, iteration);
    }

    /// `settings` in full; see `defaults.toml` for units and sources.
    pub fn new(mut context: RolloutContext, settings: RolloutSettings) -> Self {
        let beta = settings.beta;
        let reference = context.reference.take().filter(|_| beta > 0.0);
        assert_eq!(reference.is_some(), beta > 0.0, "a KL penalty needs its reference");
        let entropy_coef = settings.entropy_coef;
        Self { context, settings, reference, beta, entropy_coef, seen: RunningMoments::default(), iteration: 0 }
    }

    #[cfg(test)]
    pub(crate) fn reference(&self) -> Option<&Policy> {
        self.reference.as_ref()
    }

    /// Takes the policy that is about to write as the reference.
    pub fn set_reference(&mut self, policy: Policy) {
        self.reference = Some(policy);
    }

    /// Samples one response per prompt, scores it, and reads its log-probs under policy and reference. `blocks` are the
    /// minibatches of the first epoch.
    ///
    /// # Errors
    /// A broken invariant, and a scorer that fails.
    pub fn roll_out(
        &mut self,
        actors: BehaviorAndCurrent<'_>,
        prompts: RolloutPrompts<'_>,
        blocks: &[Vec<usize>],
        step: u64,
        metrics: &mut Metrics,
    ) -> Result<Rollout> {
        let RolloutContext { reader, scorer, seed, .. } = &self.context;
        let (s, space) = (&self.settings, reader.space());
        let mut sampler = ResponseSampler {
            settings: s,
            policy: actors.behavior.clone().for_inference(), // the fast path
            second: self.reference.clone().filter(|_| prompts.reference_writes).map(Policy::for_inference),
            scorer: scorer.as_ref(),
            reader,
            seen: &mut self.seen,
            rng: seeds::stream(*seed, Stream::Rollout, self.iteration),
            response_tokens: 0,
            tokens: 0,
        };
        let ScoredResponses { responses, components, raw, scores, parts } = sampler.sample(step, prompts, metrics)?;
        let (sampled_responses, sampled) = (sampler.response_tokens, sampler.tokens);
        let logp = map_blocks(&responses, blocks, |block| self.behavior_logp(actors, block)); // [B, T]
        let ref_logp = self.reference.as_ref().map(|reference| self.reference_logp(reference, &responses)); // [B, T]
        let sampled_tokens =
            SampledTokens { settings: s, reader, policy: actors.behavior, responses: &responses, logp: &logp };
        let second_logp = ref_logp.as_ref().filter(|_| prompts.reference_writes);
        metrics.check(|| self.check(step, actors.current, sampled_tokens, second_logp))?;

        self.record_cost(&responses, [sampled_responses, sampled], metrics);

        let mask = loss_mask(s, &responses, space, reader.device()); // [B, T]
        let entropies = sampled_tokens.entropies(); // [B, T]
        let token_weights = sampled_tokens.weights(&mask, entropies.as_ref(), metrics);
        let entropy_coef = entropy_bonus(s, &mut self.entropy_coef, entropies, &mask, metrics);
        let token_kl = self.token_kl(actors.behavior, &responses, &logp, ref_logp.as_ref());
        let rollout = Rollout {
            responses,
            mask,
            logp,
            ref_logp,
            token_kl,
            beta: self.beta,
            scores,
            components,
            token_rewards: rewards_of_tokens(&parts, space.response_tokens, reader.device()), // [B, T]
            token_weights,
            token_kl_coefs: None,
            entropy_coef,
            reference_writes: prompts.reference_writes,
            reference: self.reference.clone().filter(|_| s.needs_full_logits()),
        };
        if let Some(kl) = rollout.mean_kl() {
            training_invariants::finite(step, "the rollout's KL to the reference", kl)?;
            invariants::kl_coef_is_positive(step, self.beta)?;
        }
        rollout.record(&raw, reader, metrics);
        Ok(rollout)
    }

    /// Generate, old log-probs, reference and score passes: one forward each (docs/verdicts.md, FLOPs). So many tokens were sampled, alone
    /// and with their prompts.
    fn record_cost(&self, responses: &Responses, [sampled_responses, sampled]: [u64; 2], metrics: &mut Metrics) {
        let RolloutContext { config, scorer_flops, .. } = &self.context;
        let (tokens, policy, passes) = (responses.token_count(), Flops::policy(config), self.passes());
        let replaced = sampled - tokens; // sampled and scored, and not read again
        metrics.cost.sampled_tokens += sampled_responses;
        metrics.cost.scored_tokens += tokens * (passes - 1) + sampled * u64::from(*scorer_flops > 0.0);
        metrics.cost.flops += passes as f64 * policy.forward(tokens) + policy.forward(replaced);
        metrics.cost.flops += scorer_flops * sampled as f64;
    }

    /// The responses are read soundly, and are those that were sampled; `second_logp` `[B, T]`: of the reference, where it writes every
    /// second one.
    fn check(
        &self,
        step: u64,
        current: &Policy,
        sampled: SampledTokens<'_>,
        second_logp: Option<&Tensor<2>>,
    ) -> Result<()> {
        let RolloutContext { reader, train_reader, .. } = &self.context;
        if self.iteration == 0 {
            training_invariants::eos_counts_and_pad_does_not(step, reader, sampled.responses)?;
            probes::reads_are_sound(step, train_reader, current, sampled.responses)?;
        }
        match (&self.reference, second_logp) {
            (Some(reference), Some(logp)) => sampled.check_alternating(step, reference, logp),
            _ => sampled.check(step),
        }
    }

    /// Log-probs of some responses under the policy that wrote them, `[b, T]`.
    ///
    /// They are read in the minibatches of the first epoch: the same arithmetic, so the ratios start at 1 to the last bit. Where the
    /// device has no fused log-probs, and at a temperature, the training module reads: autodiff composes its softmax.
    fn behavior_logp(&self, actors: BehaviorAndCurrent<'_>, block: &Responses) -> Tensor<2> {
        let RolloutContext { reader, train_reader, .. } = &self.context;
        match self.settings.trained_temperature() {
            1.0 => reader
                .token_logprobs(actors.behavior, &reader.tokens(block))
                .unwrap_or_else(|| logprobs::response_logp(train_reader, actors.current, block).inner()),
            temperature => logp_from_logits(train_reader, actors.current, block, temperature).inner(),
        }
    }

    /// Log-probs of all responses under the reference, `[B, T]`.
    fn reference_logp(&self, reference: &Policy, responses: &Responses) -> Tensor<2> {
        match self.settings.trained_temperature() {
            1.0 => logprobs::response_logp(&self.context.reader, reference, responses),
            temperature => tempered_logp(&self.context.reader, reference, responses, temperature),
        }
    }

    /// Forward passes of a policy over the responses of a rollout, sampling included.
    fn passes(&self) -> u64 {
        let s = &self.settings;
        let passes = if self.reference.is_some() { 3 } else { 2 };
        let full_kl = if s.penalizes_full_kl(KlPenalty::Reward) { 2 } else { 0 }; // of policy and reference
        let entropies = u64::from(s.reads_entropies());
        passes + full_kl + entropies
    }

    /// The estimate of each token's KL to the reference, `[B, T]`; 0 without one.
    fn token_kl(
        &self,
        behavior: &Policy,
        responses: &Responses,
        logp: &Tensor<2>,
        ref_logp: Option<&Tensor<2>>,
    ) -> Tensor<2> {
        let (s, reader) = (&self.settings, &self.context.reader);
        match (&self.reference, ref_logp) {
            (Some(reference), _) if s.penalizes_full_kl(KlPenalty::Reward) => {
                let temperature = s.trained_temperature();
                let read = |policy, block: &Responses| {
                    tempered(reader.logits(policy, &reader.tokens(block)), temperature) // [b, T, V]
                };
                let each = logprobs::blocks_of_logits(reader, responses)
                    .map(|b| full_kl(read(behavior, &b), read(reference, &b)));
                Tensor::cat(each.collect(), 0)
            }
            (_, Some(ref_logp)) => estimate_kl(s.kl_estimator, logp.clone(), ref_logp.clone()),
            (_, None) => logp.zeros_like(),
        }
    }

    /// Updates what the next rollout depends on: the KL coefficient by the KL of this one, and a reference that follows.
    pub fn next(&mut self, rollout: &Rollout, actor: &Policy) {
        let s = &self.settings;
        if let Some(kl) = rollout.mean_kl() {
            self.beta = next_kl_coef(s, self.beta, kl, rollout.responses.len());
        }
        if s.reference == ReferenceMode::Ema {
            self.reference = self.reference.take().map(|reference| follow(&reference, actor, s.reference_decay));
        }
        self.iteration += 1;
    }
}

impl Rollout {
    /// Every token of the responses, whether or not a loss counts it.
    fn all_tokens(&self) -> ResponseMask {
        let [_, columns] = self.logp.dims();
        ResponseMask::from_lengths(&self.responses.lengths(), columns, &self.logp.device()) // [B, T]
    }

    /// k1 of each response, nats, `[B]`: also of those that no loss counts, since the policy sampled them. `None` without a
    /// reference.
    fn kl(&self) -> Option<Tensor<1>> {
        let ref_logp = self.ref_logp.clone()?;
        Some(self.all_tokens().row_sums(k1(self.logp.clone(), ref_logp)))
    }

    /// The penalized KL of each response, `[B]`.
    pub fn penalized_kl(&self) -> Tensor<1> {
        self.all_tokens().row_sums(self.token_kl.clone())
    }

    /// Advantages `[B, T]` times the weight of each token.
    pub fn weighted(&self, advantages: &Tensor<2>) -> Tensor<2> {
        match &self.token_weights {
            Some(weights) => advantages.clone() * weights.clone(),
            None => advantages.clone(),
        }
    }

    /// The mask of some rows, on the autodiff device.
    pub fn mask_of(&self, rows: &[usize]) -> ResponseMask {
        let mask = self.mask.tensor();
        let rows = index(rows, &mask);
        self.mask.clone().map(|ones| Tensor::from_inner(ones.select(0, rows)))
    }

    /// Number of the items in some rows that the losses average over: counted tokens, or responses that count.
    pub fn weight(&self, rows: &[usize]) -> f64 {
        let lengths = self.counted(rows);
        match self.mask.reduction() {
            Reduction::Tokens => lengths.iter().sum(),
            Reduction::Responses | Reduction::Sums { .. } => {
                lengths.iter().filter(|&&tokens| tokens > 0.0).count() as f64
            }
        }
    }

    /// Counted tokens of some rows: a share of tokens, or a KL per token, is a mean over them.
    pub fn tokens(&self, rows: &[usize]) -> f64 {
        self.counted(rows).iter().sum()
    }

    /// Counted tokens of each of some rows.
    fn counted(&self, rows: &[usize]) -> Vec<f64> {
        let [_, columns] = self.mask.tensor().dims();
        let ones = host(self.mask.tensor());
        rows.iter().map(|row| ones[row * columns..][..columns].iter().map(|&one| f64::from(one)).sum()).collect()
    }

    /// `[B]`
    pub fn score_tensor(&self) -> Tensor<1> {
        tensor_of(&self.scores, &self.logp.device())
    }

    /// The scores by each of several rewards, `[B]` each, with their weights.
    pub fn component_tensors(&self) -> Vec<(Tensor<1>, f64)> {
        let device = self.logp.device();
        self.components.iter().map(|term| (tensor_of(&term.scores, &device), term.weight)).collect()
    }

    /// The rows of the policy's own responses.
    fn own_rows(&self) -> Vec<usize> {
        (0..self.responses.len()).step_by(if self.reference_writes { 2 } else { 1 }).collect()
    }

    /// The policy's own responses.
    fn own(&self) -> Cow<'_, Self> {
        if !self.reference_writes {
            return Cow::Borrowed(self);
        }
        let rows = self.own_rows();
        let select = |x: &Tensor<2>| x.clone().select(0, index(&rows, x));
        Cow::Owned(Self {
            responses: self.responses.select(&rows),
            mask: self.mask.clone().map(|ones| select(&ones)),
            logp: select(&self.logp),
            ref_logp: self.ref_logp.as_ref().map(select),
            token_kl: select(&self.token_kl),
            scores: rows.iter().map(|&row| self.scores[row]).collect(),
            components: self.components.iter().map(|term| term.select(&rows)).collect(),
            token_rewards: self.token_rewards.as_ref().map(select),
            token_weights: self.token_weights.as_ref().map(select),
            token_kl_coefs: self.token_kl_coefs.as_ref().map(select),
            reference: self.reference.clone(),
            reference_writes: false,
            ..*self
        })
    }

    /// Mean of score minus KL penalty, of the policy's own responses.
    pub fn mean_return(&self) -> f64 {
        mean(self.own().scores.iter().copied()) - self.mean_kl().map_or(0.0, |kl| self.beta * kl)
    }

    fn mean_kl(&self) -> Option<f64> {
        self.own().kl().map(|kl| mean(host(kl).into_iter().map(f64::from)))
    }

    /// Of the policy's own responses.
    fn record(&self, raw: &[f64], reader: &ResponseReader, metrics: &mut Metrics) {
        let own = self.own();
        let raw: Vec<f64> = self.own_rows().into_iter().map(|row| raw[row]).collect();
        let Self { responses, logp, .. } = own.as_ref();
        let n = responses.len() as f64;
        let distinct: HashSet<_> = responses.prompts.iter().zip(&responses.responses).collect();
        let unended = (0..responses.len()).filter(|&row| !responses.ended(row, reader.space())).count();
        metrics.put(metrics::ROLLOUT_PROXY, mean(raw.iter().copied()));
        for RewardComponent { source, scores, .. } in &own.components {
            if let Some(source) = source {
                metrics.put(metric_of(*source), mean(scores.iter().copied()));
            }
        }
        metrics.put(metrics::KL_PRICE, self.beta);
        if let Some(kl) = self.mean_kl() {
            metrics.put(metrics::ROLLOUT_KL, kl);
        }
        metrics.put(metrics::ROLLOUT_LENGTH, responses.response_tokens() as f64 / n);
        metrics.put(metrics::ROLLOUT_ENTROPY, -f64::from(host(own.all_tokens().mean(logp.clone()))[0]));
        metrics.put(metrics::ROLLOUT_UNENDED, unended as f64 / n);
        metrics.put(metrics::ROLLOUT_UNIQUE, distinct.len() as f64 / n);
    }
}

/// The tokens that the losses count, `[B, T]`: none of a response that is cut off, where `truncated` masks it.
fn loss_mask(s: &RolloutSettings, responses: &Responses, space: &TokenSpec, device: &Device) -> ResponseMask {
    let counted: Vec<usize> = (0..responses.len())
        .map(|row| {
            if s.truncated == TruncationHandling::Mask && !responses.ended(row, space) {
                0
            } else {
                responses.responses[row].len()
            }
        })
        .collect();
    let average = match s.loss_mean {
        LossReduction::Tokens => Reduction::Tokens,
        LossReduction::Responses => Reduction::Responses,
        LossReduction::Constant => Reduction::Sums { per: space.response_tokens },
        LossReduction::Sum => Reduction::Sums { per: 1 },
    };
    ResponseMask::from_lengths(&counted, space.response_tokens, device).averaging(average) // [B, T]
}

/// What is given at single tokens, `[B, T]`; `None` where every score is given whole.
fn rewards_of_tokens(parts: &[Vec<TokenReward>], columns: usize, device: &Device) -> Option<Tensor<2>> {
    if parts.iter().all(Vec::is_empty) {
        return None;
    }
    let mut cells = vec![0f32; parts.len() * columns];
    for (row, parts) in parts.iter().enumerate() {
        parts.iter().for_each(|part| cells[row * columns + part.token] += part.reward as f32);
    }
    Some(Tensor::from_data(TensorData::new(cells, [parts.len(), columns]), device)) // [B, T]
}

/// The metric of one of several rewards.
fn metric_of(source: RewardSource) -> Metric {
    match source {
        RewardSource::Rm => metrics::ROLLOUT_REWARD_RM,
        RewardSource::Gold => metrics::ROLLOUT_REWARD_GOLD,
        RewardSource::Length => metrics::ROLLOUT_REWARD_LENGTH,
        RewardSource::Rules => metrics::ROLLOUT_REWARD_RULES,
    }
}

/// Numbers as a tensor of f32, `[B]`.
fn tensor_of(values: &[f64], device: &Device) -> Tensor<1> {
    let values: Vec<f32> = values.iter().map(|&x| x as f32).collect();
    Tensor::from_data(values.as_slice(), device)
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn responses_that_no_loss_counts_still_count_in_the_kl() {
        let device = Device::flex();
        let table = |x: [[f32; 2]; 2]| Tensor::<2>::from_data(x, &device);
        let (logp, ref_logp) = (table([[-1.0, -1.0], [-1.0, -1.0]]), table([[-2.0, -2.0], [-3.0, -3.0]]));
        let rollout = Rollout {
            responses: Responses {
                prompts: vec![vec![1], vec![1]],
                responses: vec![vec![5, 2], vec![6, 7]],
                logp: vec![],
                masks: vec![],
            },
            mask: ResponseMask::from_lengths(&[2, 0], 2, &device).averaging(Reduction::Responses), // the second was cut off
            token_kl: k1(logp.clone(), ref_logp.clone()),
            logp,
            ref_logp: Some(ref_logp),
            beta: 0.5,
            scores: vec![1.0, 2.0],
            components: vec![],
            token_rewards: None,
            token_weights: None,
            token_kl_coefs: None,
            entropy_coef: 0.0,
            reference_writes: false,
            reference: None,
        };
        assert_eq!(rollout.mean_kl(), Some(3.0)); // (1 + 1 + 2 + 2) / 2
        assert_eq!(host(rollout.penalized_kl()), [2.0, 4.0]);
        assert_eq!(rollout.mean_return(), 0.0); // 1.5 − 0.5 · 3
        assert_eq!((rollout.weight(&[0, 1]), rollout.tokens(&[0, 1])), (1.0, 2.0));
        assert_eq!((rollout.weight(&[1]), rollout.tokens(&[1])), (0.0, 0.0));
        let without_reference = Rollout { ref_logp: None, beta: 0.0, ..rollout };
        assert_eq!((without_reference.mean_kl(), without_reference.mean_return()), (None, 1.5));
    }

    #[test]
    fn statistics_of_a_rollout_by_hand() {
        let device = Device::flex();
        // of four responses two are the same, and one has no EOS
        let responses = Responses {
            prompts: vec![vec![1]; 4],
            responses: vec![vec![5, 2], vec![5, 2], vec![6, 7, 8], vec![2]],
            logp: vec![],
            masks: vec![],
        };
        let logp = Tensor::<2>::from_data(
            [[-1.0f32, -2.0, 9.0], [-1.0, -2.0, 9.0], [-3.0, -4.0, -2.0], [-1.0, 9.0, 9.0]],
            &device,
        );
        let rollout = Rollout {
            mask: ResponseMask::from_lengths(&[2, 2, 0, 1], 3, &device),
            token_kl: logp.zeros_like(),
            ref_logp: Some(logp.clone() - 0.5),
            logp,
            responses,
            beta: 0.25,
            scores: vec![0.0; 4],
            components: vec![],
            token_rewards: None,
            token_weights: None,
            token_kl_coefs: None,
            entropy_coef: 0.0,
            reference_writes: false,
            reference: None,
        };
        let space = TokenSpec {
            vocabulary: 12,
            pad: 0,
            bos: 1,
            eos: 2,
            other_eos: vec![],
            prompt_tokens: 1,
            response_tokens: 3,
            allowed_tokens: None,
            force_eos: false,
        };
        let mut metrics = Metrics::default();
        rollout.record(&[1.0, 2.0, 3.0, 6.0], &ResponseReader::new(&space, &device), &mut metrics);
        let by_hand = [
            (metrics::ROLLOUT_PROXY, 3.0),
            (metrics::KL_PRICE, 0.25),
            (metrics::ROLLOUT_KL, 1.0),      // .5 · 8 tokens / 4
            (metrics::ROLLOUT_LENGTH, 2.0),  // 8 tokens
            (metrics::ROLLOUT_ENTROPY, 2.0), // (3 + 3 + 9 + 1) / 8
            (metrics::ROLLOUT_UNENDED, 0.25),
            (metrics::ROLLOUT_UNIQUE, 0.75),
        ];
        assert_eq!(metrics.values, by_hand);
    }
}
