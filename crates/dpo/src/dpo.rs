//! Direct preference optimisation, Rafailov et al. 2023, eq. 7, and its relatives on the same rows by `loss`.
//! Deviations: none of DPO; those of the relatives are in METHODS.md.

use crate::first_step::FirstStep;
use crate::loss::preference_losses_of;
use crate::read::{PairReading, all_pair_logp, select};
use crate::reference::ReferenceLogp;
use crate::state::DpoState;
use crate::stats::{BatchStats, mean};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use duel_data::pairs::PreferenceRow;
use duel_model::{Flops, Policy, ResponseReader, Responses, TransformerConfig, weights, weights::host};
use duel_objectives::{
    ChosenRejected, PairLogp, PreferenceLoss, PreferenceOutcome, chosen_sequence_nll, dynamic_beta,
    mixed_preference_loss,
};
use duel_spec::seeds::{self, Stream};
use duel_spec::{DpoSettings as Settings, PairInput, metrics};
use duel_training::{
    IterationCost, Learner, Method, Metrics, PairBatch, Result, follow, logprobs, pairs::accuracy, pairs::halves,
    probes,
};

/// The method.
#[derive(Debug)]
pub struct Dpo {
    settings: Settings,
    /// The losses and their weights.
    losses: Vec<(PreferenceLoss, f64)>,
    /// On the autodiff device.
    reader: ResponseReader,
    reference: ReferenceLogp,
    /// The reference itself, where it is read in the training: mismatched responses, a reference that follows the policy.
    reference_policy: Option<Policy>,
    /// Whether it has been updated: then all its weights are in memory.
    is_synced: bool,
    state: DpoState,
    /// Of the pairs that β-DPO's filter draws.
    seed: u64,
    flops: Flops,
    head_flops: Flops,
}

/// Log-probs of some pairs under the policy and their reference, and what else a loss reads of them.
pub(crate) struct ReadPairs {
    /// As the loss reads them, `[N]`.
    pub policy: ChosenRejected,
    /// Of whole responses, `[N]`, where that is something else.
    pub whole: Option<ChosenRejected>,
    pub reference: ChosenRejected,
    /// Factors of the pairs' losses, `[N]`.
    pub weights: Option<Tensor<1>>,
    /// Log-ratios of responses to other prompts.
    pub mismatched: Option<Vec<f32>>,
}

impl ReadPairs {
    /// Nothing but log-probs.
    pub fn new(policy: ChosenRejected, reference: ChosenRejected) -> Self {
        Self { policy, whole: None, reference, weights: None, mismatched: None }
    }
}

impl Method for Dpo {
    type Module = Policy;
    type Batch = PairBatch;
    type State = DpoState;

    fn prompts(pairs: &PairBatch) -> Vec<u64> {
        pairs.both.prompt_hashes()
    }

    fn iteration(&mut self, pairs: &PairBatch, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut metrics = Metrics::default();
        let (step, first) = (learner.step(), learner.step() == 0);
        if first {
            metrics.check(|| self.start().check_batch(pairs, &self.reference, learner))?;
        }
        let mut stats = BatchStats::default();
        let update = learner.minimize_in_parts(
            pairs.len(),
            |rows| rows.len() as f64,
            |module, rows| {
                let mut part = pairs.select(rows);
                // 1. Forward both responses; the log-probs of a fixed reference were computed once, before training.
                let mut reading = PairReading::new(&self.settings, &self.reader, module, &part);
                let mut reference = self.reference_logp(&part);
                if let Some((margins, drawn)) = self.drawn(&reading.logp, &reference, step) {
                    part = part.select(&drawn);
                    reading = reading.select(&drawn);
                    reference = select(reference, &drawn);
                    stats.filter(margins, drawn);
                }
                let mismatched = self.settings.takes(PairInput::Mismatched).then(|| {
                    let (reader, module) = probes::without_graph(&self.reader, module);
                    self.mismatched_log_ratios(&reader, &module, &part)
                });

                // 2. Log-ratios Δ = log π − log π_ref, and the loss of u = β(Δw − Δl): of DPO −log σ(u).
                let PairReading { logp, whole, weights } = reading;
                stats.read(&whole, weights.as_ref());
                let inputs = ReadPairs {
                    policy: logp,
                    whole: (self.settings.ld_alpha != 1.0).then_some(whole),
                    reference,
                    weights,
                    mismatched: mismatched.flatten(),
                };
                let outcome = self.pair_loss(&self.reader, inputs, &part);
                stats.add(&outcome);
                outcome.loss
            },
        )?; // 3. Gradient and update.
        if first {
            let logp = stats.logp.concat();
            let trained = stats.trained_pairs(pairs);
            metrics.check(|| self.start().check_loss(update.loss, &trained, &logp, &stats.margins, &stats.weights))?;
        }
        metrics.record_update(update, self.cost(pairs, first));
        stats.record(&mut metrics);
        if self.settings.dynamic_beta != 0.0 {
            metrics.put(metrics::DPO_BETA, self.beta_at(mean(&stats.margins)));
        }
        // 4. What the next batch depends on: means of rewards and margins, and a reference that follows the policy.
        self.remember(&stats);
        self.sync_reference(learner);
        Ok(metrics)
    }

    fn state(&self) -> DpoState {
        let follows = self.reference_policy.as_ref().filter(|_| self.is_synced);
        DpoState { reference: follows.map(weights::flatten), ..self.state.clone() }
    }

    fn resume(&mut self, mut state: DpoState) {
        if let (Some(weights), Some(policy)) = (state.reference.take(), &mut self.reference_policy) {
            *policy = weights::unflatten(policy.clone().merged(), &weights);
            self.is_synced = true;
        }
        self.state = state;
    }
}

impl Dpo {
    /// `reader` is on the autodiff device; `reference` holds the rows that batches index.
    pub fn new(
        settings: Settings,
        reader: ResponseReader,
        reference: ReferenceLogp,
        config: &TransformerConfig,
    ) -> Self {
        Self {
            losses: preference_losses_of(&settings),
            settings,
            reader,
            reference,
            reference_policy: None,
            is_synced: false,
            state: DpoState::default(),
            seed: 0,
            flops: Flops::policy(config),
            head_flops: Flops::head(config),
        }
    }

    /// With the reference itself, without gradient, where it is read in the training.
    pub fn with_reference(self, reference: &Policy) -> Self {
        let reference_policy = self.settings.holds_reference().then(|| reference.clone());
        Self { reference_policy, ..self }
    }

    /// Reproducible by `seed` where pairs are drawn.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The margins of a batch, and which of its pairs β-DPO's filter draws; `None` where it is off.
    fn drawn(&self, policy: &ChosenRejected, reference: &ChosenRejected, step: u64) -> Option<(Vec<f32>, Vec<usize>)> {
        let (s, usual) = (&self.settings, &self.state.margin);
        if s.dynamic_beta_filter == 1.0 {
            return None;
        }
        let margins = (policy.clone().difference() - reference.clone().difference()) * s.beta; // [N]
        let margins = host(margins.inner());
        let mut rng = seeds::stream(self.seed, Stream::DpoFilter, step);
        let drawn = usual.drawn(&margins, s.dynamic_beta_filter, s.dynamic_beta_momentum, &mut rng);
        Some((margins, drawn))
    }

    /// The reference's log-probs of a part of a batch, `[N]`: those of before the training, or those of a reference that follows.
    fn reference_logp(&self, part: &PairBatch) -> ChosenRejected {
        match &self.reference_policy {
            Some(policy) if self.settings.sync_ref_model => {
                let logp = all_pair_logp(&self.reader.valid(), policy, part, self.settings.ld_alpha);
                halves(Tensor::from_data(logp.as_slice(), self.reader.device())) // [N] each
            }
            _ => self.reference.for_loss(&self.settings, &part.rows, &self.reader),
        }
    }

    /// What a batch costs.
    fn cost(&self, pairs: &PairBatch, first: bool) -> IterationCost {
        let (s, tokens) = (&self.settings, pairs.both.token_count());
        // mismatched responses: both policies, every response once more; a reference that follows: every response
        let mismatched = if s.takes(PairInput::Mismatched) { 2 * tokens } else { 0 };
        let followed = if s.sync_ref_model { tokens } else { 0 };
        // log-probs that weigh tokens are of a pass of this training's own
        let own_pass = if first && s.ld_alpha != 1.0 { self.reference.tokens } else { 0 };
        let reread = mismatched + followed + own_pass;
        let logits = if s.use_weighting { tokens } else { 0 };
        let flops = self.flops.train(tokens) + self.flops.forward(reread) + self.head_flops.forward(logits);
        IterationCost { trained_tokens: tokens, scored_tokens: reread, flops, ..IterationCost::default() }
    }

    /// Adds a batch to what is remembered.
    fn remember(&mut self, stats: &BatchStats) {
        let s = &self.settings;
        if s.takes(PairInput::RewardShift) {
            self.state.rewards.add(mean(&stats.rewards.concat()));
        }
        if s.follows_margins() {
            self.state.margin.add(stats.all_margins(), s.dynamic_beta_momentum);
        }
    }

    /// Updates a reference that follows the policy, every `ref_model_sync_steps` steps. Gorbatovski et al. 2024.
    fn sync_reference(&mut self, learner: &Learner<Policy>) {
        let s = &self.settings;
        if let Some(reference) = &mut self.reference_policy
            && s.sync_ref_model
            && learner.step().is_multiple_of(s.ref_model_sync_steps)
        {
            *reference = follow(reference, &learner.module().valid(), 1.0 - s.ref_model_mixup_alpha);
            self.is_synced = true;
        }
    }

    /// β of a batch with this mean margin.
    fn beta_at(&self, margin: f64) -> f64 {
        match self.settings.dynamic_beta {
            0.0 => self.settings.beta,
            alpha => dynamic_beta(self.settings.beta, alpha, margin, self.state.margin.mean()),
        }
    }

    /// The loss of pairs from their log-probs `[N]` under policy and reference: `preference_loss` in `objectives`, its
    /// equations in `objectives/src/pair_losses.rs`.
    fn pair_loss(&self, reader: &ResponseReader, inputs: ReadPairs, pairs: &PairBatch) -> PreferenceOutcome {
        let s = &self.settings;
        let column = |x: Vec<f32>| {
            let rows = x.len();
            Tensor::<1>::from_data(TensorData::new(x, [rows]), reader.device()) // [N]
        };
        let ReadPairs { policy, whole, reference, weights, mismatched } = inputs;
        let lengths = halves(logprobs::mask(reader, &pairs.both).lengths());
        let tied = pairs.ties.contains(&true).then(|| column(pairs.ties.iter().map(|&tie| f32::from(tie)).collect()));
        let mismatched = mismatched.map(column);
        let whole = whole.map(|whole| PairLogp::new(whole, reference.clone(), lengths.clone()));
        let mut logp = PairLogp { mismatched, tied, weights, ..PairLogp::new(policy, reference, lengths) };
        if s.takes(PairInput::RewardShift) {
            logp.reward_shift = Some(self.state.rewards.with(logp.mean_reward(s.beta)));
        }
        let beta = match s.dynamic_beta {
            0.0 => s.beta,
            _ => self.beta_at(f64::from(host(logp.log_ratios().difference().mean().detach())[0]) * s.beta),
        };
        if s.margin != 0.0 {
            let margin = column(pairs.strengths.iter().map(|strength| (s.margin * strength) as f32).collect());
            logp = logp.with_margin(margin, beta);
        }
        let mut outcome = mixed_preference_loss(&self.losses, &logp, beta);
        if beta != s.beta {
            outcome.rewards = outcome.rewards.map(|reward| reward * (s.beta / beta));
        }
        if s.nll_coef != 0.0 {
            outcome.loss = outcome.loss + chosen_sequence_nll(whole.as_ref().unwrap_or(&logp)) * s.nll_coef;
        }
        outcome
    }

    /// Log-ratios `[2N]` of all responses, each as the answer to its neighbour's prompt: KTO takes its KL from them. `reader`
    /// and `policy` carry no gradient.
    fn mismatched_log_ratios(&self, reader: &ResponseReader, policy: &Policy, pairs: &PairBatch) -> Option<Vec<f32>> {
        let reference = self.reference_policy.as_ref()?;
        let batch = mismatched_responses(pairs);
        let [current, reference] = [policy, reference].map(|policy| logprobs::sequence_logp(reader, policy, &batch));
        Some(current.into_iter().zip(reference).map(|(current, reference)| current - reference).collect())
    }

    /// The inputs of the checks at step 0.
    fn start(
        &self,
    ) -> FirstStep<'_, impl Fn(&ResponseReader, ChosenRejected, ChosenRejected, &PairBatch) -> PreferenceOutcome + '_>
    {
        let outcome = |reader: &ResponseReader, policy, reference, pairs: &PairBatch| {
            self.pair_loss(reader, ReadPairs::new(policy, reference), pairs)
        };
        FirstStep { settings: &self.settings, losses: &self.losses, reader: &self.reader, outcome }
    }

    /// Loss and accuracy of a policy without gradient on rows with their own reference log-probs. Pairs count alike, and the
    /// reference is the one that the training started from.
    pub fn validate(
        &self,
        reader: &ResponseReader,
        policy: &Policy,
        rows: &[PreferenceRow],
        reference: &ReferenceLogp,
    ) -> Validation {
        let all: Vec<usize> = (0..rows.len()).collect();
        let pairs = PairBatch::new(rows, &all);
        let logp = all_pair_logp(reader, policy, &pairs, self.settings.ld_alpha);
        let current = halves(Tensor::from_data(logp.as_slice(), reader.device()));
        let takes_mismatched = self.settings.takes(PairInput::Mismatched);
        let mismatched = takes_mismatched.then(|| self.mismatched_log_ratios(reader, policy, &pairs)).flatten();
        let reference = reference.for_loss(&self.settings, &all, reader);
        let inputs = ReadPairs { mismatched, ..ReadPairs::new(current, reference) };
        let outcome = self.pair_loss(reader, inputs, &pairs);
        let margins = host(outcome.margins());
        Validation { loss: f64::from(host(outcome.loss)[0]), accuracy: accuracy(&margins) }
    }
}

/// Loss and accuracy on rows that are not trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Validation {
    pub loss: f64,
    pub accuracy: f64,
}

/// Every response of a batch as the answer to the prompt after its own, chosen ones first.
///
/// # Source
/// Ethayarajh et al. 2024, §4.1; trl's `_get_kl_completion_ids`: each prompt with the completion before it, whatever its label.
fn mismatched_responses(pairs: &PairBatch) -> Responses {
    let mut batch = pairs.both.clone();
    batch.responses.rotate_right(1);
    if !batch.masks.is_empty() {
        batch.masks.rotate_right(1);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_model::{CountedFlops, count_flops};
    use duel_spec::ids::prompt_hash;
    use duel_spec::{LearnerSettings, LossMask, PairLoss, Split, seeds};
    use duel_testing_tensors::trajectory;

    #[test]
    fn kto_pairs_every_response_with_the_next_prompt() {
        let row = |id: u32| PreferenceRow::new(Split::Train, vec![id], vec![10 + id], vec![20 + id]);
        let masked = PreferenceRow { chosen: vec![11, 0], chosen_mask: LossMask::new([[0, 1]], 2), ..row(1) };
        let batch = mismatched_responses(&PairBatch::new(&[masked.clone(), row(2)], &[0, 1]));
        assert_eq!(
            (&batch.responses[1], batch.mask(1)),
            (&masked.chosen, masked.chosen_mask.as_ref()),
            "with its mask"
        );
        let pairs = PairBatch::new(&[row(1), row(2), row(3)], &[0, 1, 2]);
        // as trl on the rows (1, 11), (2, 12), (3, 13), (1, 21), (2, 22), (3, 23)
        let Responses { prompts, responses, .. } = mismatched_responses(&pairs);
        assert_eq!(prompts, [1, 2, 3, 1, 2, 3].map(|id| vec![id]));
        assert_eq!(responses, [23, 11, 12, 13, 21, 22].map(|id| vec![id]));
        let answers_its_prompt = |(prompt, response): (&Vec<u32>, &Vec<u32>)| prompt[0] == response[0] % 10;
        assert!(!prompts.iter().zip(&responses).any(answers_its_prompt), "no response may answer its own prompt");
    }

    /// Tokens of a prompt and of a response; all are of one length.
    const P: usize = 5;
    const T: usize = 4;
    const PAIRS: usize = 6;

    fn reader(device: &Device) -> ResponseReader {
        let space = trajectory::space(12, [0, 2], P, T);
        ResponseReader::new(&space, device)
    }

    fn config() -> TransformerConfig {
        TransformerConfig::small(12, P + T, 2, 16, 2, true)
    }

    fn policy(seed: u64) -> Policy {
        Policy::new(&config(), &mut seeds::derive(seed, "test", 0, "init"), &Device::flex())
    }

    fn rows() -> Vec<PreferenceRow> {
        let row = |i: u32| PreferenceRow {
            p_label: 0.5,
            ..PreferenceRow::new(Split::Train, vec![1, 3 + i, 4, 5, 6], vec![3 + i, 7, 8, 2], vec![9, 10, 3 + i, 2])
        };
        (0..PAIRS as u32).map(row).collect()
    }

    fn dpo(loss: PairLoss, reference: &Policy) -> Dpo {
        dpo_with(Settings { loss, beta: 0.7, label_smoothing: 0.0, ..Settings::defaults() }, reference)
    }

    fn dpo_with(settings: Settings, reference: &Policy) -> Dpo {
        let cache = ReferenceLogp::compute(&reader(&Device::flex()), reference, &rows());
        Dpo::new(settings, reader(&Device::flex().autodiff()), cache, &config()).with_reference(reference)
    }

    /// DPO costs training on both responses; for KTO, policy and reference read mismatched responses too, and a reference that
    /// follows reads both. WPO's weights cost the head once more.
    #[test]
    fn a_step_costs_what_its_models_count() -> Result<()> {
        let plain = |loss| (loss, false, false);
        let losses = [PairLoss::Sigmoid, PairLoss::Ipo, PairLoss::Kto].map(plain);
        let options = [(PairLoss::Sigmoid, true, false), (PairLoss::Sigmoid, false, true), (PairLoss::Ipo, true, true)];
        for (loss, use_weighting, sync_ref_model) in losses.into_iter().chain(options) {
            let settings = Settings { loss, use_weighting, sync_ref_model, beta: 0.7, ..Settings::defaults() };
            let mut method = dpo_with(settings, &policy(1).no_grad());
            let settings = LearnerSettings { warmup: 0.0, ..LearnerSettings::defaults() };
            let mut learner = Learner::new(policy(1).train(), &settings, 1e-2, 10);
            let batch = PairBatch::new(&rows(), &(0..PAIRS).collect::<Vec<_>>());
            let before = count_flops();
            let metrics = method.iteration(&batch, &mut learner)?;
            let after = count_flops();
            let since = |count: fn(CountedFlops) -> f64| count(after) - count(before);
            // a pass omits the last token, and its head reads responses only
            let counted = since(|c| c.blocks + c.blocks_back) * (P + T) as f64 / (P + T - 1) as f64
                + since(|c| c.heads + c.heads_back) * (P + T) as f64 / T as f64;
            assert!(
                (counted / metrics.cost.flops - 1.0).abs() < 1e-6,
                "{loss:?}: {counted:e}, {:e}",
                metrics.cost.flops
            );
            // KTO's policy and reference read every response again
            let tokens = (2 * PAIRS * (P + T)) as u64;
            let scored = tokens * if loss == PairLoss::Kto { 2 } else { u64::from(sync_ref_model) };
            assert_eq!((metrics.cost.trained_tokens, metrics.cost.scored_tokens), (tokens, scored), "{loss:?}");
            let prompts: Vec<u64> = rows().iter().map(|row| prompt_hash(&row.prompt)).collect();
            assert_eq!(Dpo::prompts(&batch), [prompts.as_slice(), &prompts].concat());
        }
        Ok(())
    }

    /// Validation compares a policy with the reference's log-probs of the same rows, chosen with rejected.
    #[test]
    fn validation_by_hand() {
        let (policy_to_train, reference) = (policy(2), policy(1).no_grad());
        let plain = reader(&Device::flex());
        // other rows than those that the method trains on
        let swapped = |row: PreferenceRow| PreferenceRow { chosen: row.rejected, rejected: row.chosen, ..row };
        let validation_rows: Vec<PreferenceRow> = rows().into_iter().rev().map(swapped).collect();
        let cache = ReferenceLogp::compute(&plain, &reference, &validation_rows);
        let both = PairBatch::new(&validation_rows, &(0..PAIRS).collect::<Vec<_>>()).both;
        let [policy_logp, reference_logp] =
            [&policy_to_train, &reference].map(|policy| logprobs::sequence_logp(&plain, policy, &both));
        let ratio = |row: usize| f64::from(policy_logp[row] - reference_logp[row]);
        let margins: Vec<f64> = (0..PAIRS).map(|i| 0.7 * (ratio(i) - ratio(PAIRS + i))).collect();
        let loss = margins.iter().map(|u| (1.0 + (-u).exp()).ln()).sum::<f64>() / PAIRS as f64;
        let right = margins.iter().filter(|&&u| u > 0.0).count() as f64 / PAIRS as f64;
        let validation =
            dpo(PairLoss::Sigmoid, &reference).validate(&plain, &policy_to_train, &validation_rows, &cache);
        assert!((validation.loss - loss).abs() < 1e-4, "{} by hand {loss}", validation.loss);
        assert_eq!(validation.accuracy, right);
        assert!(
            (loss - std::f64::consts::LN_2).abs() > 0.01 && right != 0.5,
            "a case that shows its sides: {loss}, {right}"
        );
        assert_eq!(cache.tokens, (2 * PAIRS * (P + T)) as u64);
    }

    /// A loss of u − margin · strength (Amini et al. 2024, eq. 8) and the NLL per token of the chosen responses (Pang et al.
    /// 2024, eq. 1), each by its setting.
    #[test]
    fn a_margin_and_an_nll_by_hand() {
        let method = |margin, nll_coef| {
            let method = dpo(PairLoss::Sigmoid, &policy(1).no_grad());
            Dpo { settings: Settings { margin, nll_coef, ..method.settings.clone() }, ..method }
        };
        let pairs = PairBatch { strengths: vec![0.5, 1.0], ..PairBatch::new(&rows(), &[0, 1]) };
        let reader = reader(&Device::flex());
        let column = |x: [f32; 2]| Tensor::<1>::from_data(x, reader.device());
        let outcome = |margin, nll_coef| {
            let policy = ChosenRejected { chosen: column([-3.0, -6.0]), rejected: column([-4.0, -4.0]) };
            let reference = policy.clone().map(|_| column([-4.0, -4.0]));
            method(margin, nll_coef).pair_loss(&reader, ReadPairs::new(policy, reference), &pairs)
        };
        // β = 0.7: u is 0.7 and −1.4
        let logistic = |u: f64| (1.0 + (-u).exp()).ln();
        let nll = (3.0 / T as f64 + 6.0 / T as f64) / 2.0;
        for (margin, nll_coef) in [(0.0, 0.0), (0.4, 0.0), (0.0, 0.25), (0.4, 0.25)] {
            let outcome = outcome(margin, nll_coef);
            let expected = (logistic(0.7 - 0.5 * margin) + logistic(-1.4 - margin)) / 2.0 + nll_coef * nll;
            let actual = f64::from(host(outcome.loss.clone())[0]);
            assert!((actual - expected).abs() < 1e-6, "margin {margin}, nll {nll_coef}: {actual}, by hand {expected}");
            let margins = host(outcome.margins());
            assert!((margins[0] - 0.7).abs() < 1e-6 && (margins[1] + 1.4).abs() < 1e-6, "{margins:?}");
        }
    }

    /// KTO's z is the mean log-ratio of the responses as answers to the next prompt (Ethayarajh et al. 2024, eq. 7–8).
    #[test]
    fn validation_of_kto_by_hand() {
        let (policy_to_train, reference) = (policy(2), policy(1).no_grad());
        let plain = reader(&Device::flex());
        let both = PairBatch::new(&rows(), &(0..PAIRS).collect::<Vec<_>>()).both;
        let n = both.len();
        let mismatched_batch = Responses {
            responses: (0..n).map(|row| both.responses[(row + n - 1) % n].clone()).collect(),
            ..both.clone()
        };
        let log_ratios = |[policy, reference]: [&Policy; 2], batch: &Responses| -> Vec<f64> {
            let [logp, ref_logp] = [policy, reference].map(|policy| logprobs::sequence_logp(&plain, policy, batch));
            logp.iter().zip(ref_logp).map(|(logp, ref_logp)| f64::from(logp - ref_logp)).collect()
        };
        let mut kls = vec![];
        for models in [[&policy_to_train, &reference], [&reference, &policy_to_train]] {
            let (ratios, mismatched) = (log_ratios(models, &both), log_ratios(models, &mismatched_batch));
            let kl = (mismatched.iter().sum::<f64>() / n as f64).max(0.0);
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let chosen = ratios[..PAIRS].iter().map(|ratio| 1.0 - sigmoid(0.7 * (ratio - kl)));
            let rejected = ratios[PAIRS..].iter().map(|ratio| 1.0 - sigmoid(0.7 * (kl - ratio)));
            let expected = chosen.chain(rejected).sum::<f64>() / n as f64;
            let method = dpo(PairLoss::Kto, models[1]);
            let method = Dpo {
                settings: Settings { kto_desirable: 1.0, kto_undesirable: 1.0, ..method.settings.clone() },
                ..method
            };
            let cache = ReferenceLogp::compute(&plain, models[1], &rows());
            let validation = method.validate(&plain, models[0], &rows(), &cache);
            assert!((validation.loss - expected).abs() < 1e-5, "{} by hand {expected}", validation.loss);
            kls.push(kl);
        }
        assert!(kls.contains(&0.0) && kls.iter().any(|&kl| kl > 0.02), "one that counts and one below zero: {kls:?}");
    }
}
