//! Direct preference optimisation, Rafailov et al. 2023, eq. 7, and its relatives on the same rows: IPO, hinge, robust,
//! SimPO and others by `loss`. Deviations: none of DPO; the relatives' stand in METHODS.md.

use crate::invariants;
use burn::tensor::{Tensor, TensorData};
use duel_data::pairs::{PreferenceRow, hash};
use duel_model::{Flops, Policy, Reader, Responses, TransformerConfig, weights::host};
use duel_objectives::{
    ChosenRejected, KtoWeights, PairLogp, PreferenceLoss, PreferenceOutcome, chosen_sequence_nll, preference_loss,
};
use duel_spec::{DpoSettings as Settings, PairLoss, metrics};
use duel_training::invariants::{self as always, largest};
use duel_training::{
    IterationCost, Learner, Method, Metrics, PairBatch, Result, logprobs, norm, pairs::accuracy, pairs::halves, probes,
};
use serde::{Deserialize, Serialize};

/// Log-probabilities of both responses of every row under the reference, computed once before training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReferenceLogp {
    /// Hash of the reference's weights.
    pub reference: String,
    /// Hash of the rows.
    pub rows: String,
    /// Per row, summed over tokens, nats.
    pub chosen: Vec<f32>,
    pub rejected: Vec<f32>,
    /// Tokens that the pass read: part of DPO's price.
    pub tokens: u64,
}

impl ReferenceLogp {
    /// One pass of the reference over all rows; `reader` and `reference` carry no gradient.
    pub fn compute(reader: &Reader, reference: &Policy, rows: &[PreferenceRow]) -> Self {
        let n = rows.len();
        let pairs = PairBatch::new(rows, &(0..n).collect::<Vec<_>>());
        let logp = logprobs::sequence_logp(reader, reference, &pairs.both);
        Self {
            reference: reference.hash(),
            rows: hash(rows),
            chosen: logp[..n].to_vec(),
            rejected: logp[n..].to_vec(),
            tokens: pairs.both.token_count(),
        }
    }

    /// The log-probs of a batch's rows as tensors `[N]`.
    fn batch(&self, rows: &[usize], reader: &Reader) -> ChosenRejected {
        let of = |all: &[f32]| {
            let values: Vec<f32> = rows.iter().map(|&r| all[r]).collect();
            Tensor::<1>::from_data(TensorData::new(values, [rows.len()]), reader.device())
        };
        ChosenRejected { chosen: of(&self.chosen), rejected: of(&self.rejected) }
    }

    /// Whether these are the log-probs of this reference on these rows.
    ///
    /// # Errors
    /// The broken invariant.
    pub fn check_origin(&self, reference: &str, rows: &[PreferenceRow]) -> Result<()> {
        invariants::cache_is_of("the reference", &self.reference, reference)?;
        invariants::cache_is_of("the rows", &self.rows, &hash(rows))
    }
}

/// Loss and accuracy on rows that are not trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Validation {
    pub loss: f64,
    pub accuracy: f64,
}

/// The method.
#[derive(Debug)]
pub struct Dpo {
    settings: Settings,
    /// On the autodiff device.
    reader: Reader,
    reference: ReferenceLogp,
    /// The reference itself, which KTO asks about responses that answer other prompts.
    judge: Option<Policy>,
    flops: Flops,
}

impl Dpo {
    /// `reader` is on the autodiff device; `reference` holds the rows that batches index.
    pub fn new(settings: Settings, reader: Reader, reference: ReferenceLogp, config: &TransformerConfig) -> Self {
        Self { settings, reader, reference, judge: None, flops: Flops::policy(config) }
    }

    /// With the reference itself, without gradient, where the loss asks it: KTO's does.
    pub fn with_reference(self, reference: &Policy) -> Self {
        let judge = (self.settings.loss == PairLoss::Kto).then(|| reference.clone());
        Self { judge, ..self }
    }

    /// Log-ratios `[2N]` of all responses, wanted and unwanted, each as the answer to its neighbour's prompt: what KTO takes the
    /// KL from. `reader` and `policy` carry no gradient.
    fn kl_log_ratios(&self, reader: &Reader, policy: &Policy, pairs: &PairBatch) -> Option<Vec<f32>> {
        let judge = self.judge.as_ref()?;
        let batch = mismatched_responses(pairs);
        let [now, then] = [policy, judge].map(|policy| logprobs::sequence_logp(reader, policy, &batch));
        Some(now.into_iter().zip(then).map(|(now, then)| now - then).collect())
    }

    /// Log-probs of both responses under a policy, `[N]` each.
    fn pair_logp(reader: &Reader, policy: &Policy, pairs: &PairBatch) -> ChosenRejected {
        let mask = logprobs::mask(reader, &pairs.both); // [2N, T]
        halves(mask.row_sums(logprobs::response_logp(reader, policy, &pairs.both)))
    }

    fn outcome(
        &self,
        reader: &Reader,
        policy: ChosenRejected,
        reference: ChosenRejected,
        pairs: &PairBatch,
        mismatched: Option<Vec<f32>>,
    ) -> PreferenceOutcome {
        let lengths = halves(logprobs::mask(reader, &pairs.both).lengths());
        let column = |x: Vec<f32>| {
            let rows = x.len();
            Tensor::<1>::from_data(TensorData::new(x, [rows]), reader.device()) // [N]
        };
        let tied = pairs.ties.contains(&true).then(|| column(pairs.ties.iter().map(|&tie| f32::from(tie)).collect()));
        let mut logp = PairLogp { policy, reference, lengths, mismatched: mismatched.map(column), tied };
        // a margin m asked for is u − m in place of u
        let margin = (self.settings.margin > 0.0)
            .then(|| column(pairs.strengths.iter().map(|s| (self.settings.margin * s) as f32).collect()));
        if let Some(margin) = &margin {
            logp.policy.chosen = logp.policy.chosen - margin.clone() / self.settings.beta;
        }
        let mut outcome = preference_loss(&loss(&self.settings), &logp, self.settings.beta);
        if let Some(margin) = margin {
            outcome.rewards.chosen = outcome.rewards.chosen + margin.clone();
            logp.policy.chosen = logp.policy.chosen + margin / self.settings.beta;
        }
        if self.settings.nll_coef > 0.0 {
            outcome.loss = outcome.loss + chosen_sequence_nll(&logp) * self.settings.nll_coef;
        }
        outcome
    }

    /// The reference's log-probs of a batch, `[N]` each; 0 where it does without.
    fn reference(&self, reference: &ReferenceLogp, rows: &[usize], reader: &Reader) -> ChosenRejected {
        let logp = reference.batch(rows, reader);
        if self.settings.reference_free { logp.map(|x| x.zeros_like()) } else { logp }
    }

    /// The loss of a batch while the policy is its reference, where that is known.
    fn first_loss(&self, pairs: &PairBatch) -> Option<f64> {
        let loss = loss(&self.settings);
        let twice = |tie: bool| f64::from(tie && matches!(loss, PreferenceLoss::RaoKupper { .. }));
        let ties = pairs.ties.iter().map(|&tie| twice(tie)).sum::<f64>() / pairs.len() as f64;
        let known = loss.at_the_reference(self.settings.beta).map(|loss| loss * (1.0 + ties));
        let Settings { reference_free, nll_coef, margin, .. } = self.settings;
        known.filter(|_| !reference_free && nll_coef == 0.0 && margin == 0.0)
    }

    /// The invariants of step 0 that look at more than the first loss, each on the first batch.
    fn check_start(&self, pairs: &PairBatch, learner: &Learner<Policy>) -> Result<()> {
        always::eos_counts_and_pad_does_not(0, &self.reader, &pairs.both)?;
        probes::reads_are_sound(0, &self.reader, learner.module(), &pairs.both)?;
        let (reader, module) = probes::without_graph(&self.reader, learner.module());
        let cached = self.reference.batch(&pairs.rows, &reader);
        let policy = Self::pair_logp(&reader, &module, pairs);
        let both = |x: &ChosenRejected| [host(x.chosen.clone()), host(x.rejected.clone())].concat();
        let live = both(&policy);
        invariants::cached_reference_is_live(&live, &both(&cached), &self.sizes(&live, pairs))?;

        // against no reference, so that there is a margin
        let nothing = || policy.clone().map(|x| x.zeros_like());
        let margins = host(self.outcome(&reader, policy.clone(), nothing(), pairs, None).margins());
        let swapped = Self::pair_logp(&reader, &module, &pairs.swapped());
        let swapped = host(self.outcome(&reader, swapped, nothing(), &pairs.swapped(), None).margins());
        invariants::a_swap_flips_the_margin(0, &margins, &swapped, self.scale(&live, pairs))?;
        let loss = loss(&self.settings);
        let (beta, longest) = (self.settings.beta, largest(live.iter().map(|x| x.abs())));
        let step = (1.0 / beta).min(10.0); // a margin of 2, unless that asks for too many nats
        if loss.falls_towards_the_chosen() && step * beta > 1e-5 && step > 4.0 * f64::from(f32::EPSILON) * longest {
            let [towards, away] = [step, -step].map(|step| self.loss_apart(&reader, &policy, step, pairs));
            invariants::the_chosen_is_preferred(0, towards, away)?;
        }

        let most = pairs.len().min(probes::probe_rows(reader.space()));
        if loss.ignores_ties() && self.settings.nll_coef == 0.0 {
            let some = pairs.select(&(0..most).collect::<Vec<_>>()).tied();
            // the policy is its own reference to the last bit, so that all that is left is the loss's own
            let gradient = |of: fn(ChosenRejected) -> ChosenRejected| {
                let policy = Self::pair_logp(&self.reader, learner.module(), &some);
                let reference = policy.clone().map(Tensor::detach);
                norm(&learner.gradient(self.outcome(&self.reader, of(policy), reference, &some, None).loss))
            };
            let one_side = gradient(|x| ChosenRejected { rejected: x.rejected.detach(), ..x });
            invariants::equal_pairs_have_no_gradient(0, gradient(|x| x), one_side)?;
        }
        if !loss.is_mean_of_pairs() {
            return Ok(());
        }
        probes::parts_make_the_same_gradient(learner, most, |module, rows| {
            let part = pairs.select(rows);
            let reference = self.reference(&self.reference, &part.rows, &self.reader);
            let policy = Self::pair_logp(&self.reader, module, &part);
            (self.outcome(&self.reader, policy, reference, &part, None).loss, part.len() as f64)
        })
    }

    /// The loss where every chosen response is `step` nats likelier than the reference has it, and every rejected one as much
    /// less likely; no model is asked. `policy` carries no gradient.
    fn loss_apart(&self, reader: &Reader, policy: &ChosenRejected, step: f64, pairs: &PairBatch) -> f64 {
        let ChosenRejected { chosen, rejected } = policy.clone();
        let moved = ChosenRejected { chosen: chosen + step, rejected: rejected - step };
        f64::from(host(self.outcome(reader, moved, policy.clone(), pairs, None).loss)[0])
    }

    /// How far the loss at the reference moves when every log-prob `[2N]` is rounded for or against it.
    fn rounding(&self, logp: &[f32], scale: f64, pairs: &PairBatch, expected: f64) -> f64 {
        let reader = self.reader.valid();
        let policy = halves(Tensor::from_data(logp, reader.device()));
        let step = invariants::LOGP_SHARE * scale / self.settings.beta;
        let moved = |step| (self.loss_apart(&reader, &policy, step, pairs) - expected).abs();
        moved(step).max(moved(-step))
    }

    /// The size of each response's log-prob, `[2N]`.
    fn sizes(&self, logp: &[f32], pairs: &PairBatch) -> Vec<f64> {
        let vocabulary = self.reader.space().vocabulary;
        let responses = logp.iter().zip(&pairs.both.responses);
        responses.map(|(&logp, response)| invariants::size(logp, response.len(), vocabulary)).collect()
    }

    /// The size of the largest reward: what margins are differences of. A margin that is asked for passes through it.
    fn scale(&self, logp: &[f32], pairs: &PairBatch) -> f64 {
        self.settings.beta * self.sizes(logp, pairs).into_iter().fold(0.0, f64::max) + self.settings.margin
    }

    /// Loss and accuracy of a policy without gradient on rows with their own reference log-probs.
    pub fn validate(
        &self,
        reader: &Reader,
        policy: &Policy,
        rows: &[PreferenceRow],
        reference: &ReferenceLogp,
    ) -> Validation {
        let all: Vec<usize> = (0..rows.len()).collect();
        let pairs = PairBatch::new(rows, &all);
        let logp = logprobs::sequence_logp(reader, policy, &pairs.both);
        let now = halves(Tensor::from_data(logp.as_slice(), reader.device()));
        let mismatched = self.kl_log_ratios(reader, policy, &pairs);
        let outcome = self.outcome(reader, now, self.reference(reference, &all, reader), &pairs, mismatched);
        let margins = host(outcome.margins());
        Validation { loss: f64::from(host(outcome.loss)[0]), accuracy: accuracy(&margins) }
    }
}

impl Method for Dpo {
    type Module = Policy;
    type Batch = PairBatch;
    type State = ();

    fn prompts(pairs: &PairBatch) -> Vec<u64> {
        pairs.both.prompt_hashes()
    }

    fn iteration(&mut self, pairs: &PairBatch, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut said = Metrics::default();
        let first = learner.step() == 0;
        if first {
            said.check(|| self.check_start(pairs, learner))?;
        }
        let mut read = BatchStats::default();
        let update = learner.minimize_in_parts(
            pairs.len(),
            |rows| rows.len() as f64,
            |module, rows| {
                let part = pairs.select(rows);
                // 1. Log-probs of both responses; the reference's were computed once, before training.
                let policy = Self::pair_logp(&self.reader, module, &part);
                let reference = self.reference(&self.reference, &part.rows, &self.reader);

                // 2. How far has each response moved from the reference?
                let mismatched = self.judge.as_ref().and_then(|_| {
                    let (reader, module) = probes::without_graph(&self.reader, module);
                    self.kl_log_ratios(&reader, &module, &part)
                });
                let outcome = self.outcome(&self.reader, policy.clone(), reference, &part, mismatched);
                read.add(&policy, &outcome);

                // 3. Improve.
                outcome.loss
            },
        )?;
        let BatchStats { margins, rewards, logp } = read;
        if first && let Some(expected) = self.first_loss(pairs) {
            said.check(|| {
                let logp = [logp[0].as_slice(), &logp[1]].concat();
                let scale = self.scale(&logp, pairs);
                let rounded = self.rounding(&logp, scale, pairs, expected);
                // a square is as small as it is; logarithms and sigmoids are rounded as ln 2 is
                let unit = if loss(&self.settings).is_square() { expected } else { expected.abs().max(1.0) };
                let accuracy = accuracy(&margins);
                invariants::starts_at_the_reference(update.loss, expected, [unit, rounded], &margins, scale, accuracy)
            })?;
        }
        let tokens = pairs.both.token_count();
        let asked = if self.judge.is_some() { 2 * tokens } else { 0 }; // both policies read every response once more
        let flops = self.flops.train(tokens) + self.flops.forward(asked);
        said.record_update(
            update,
            IterationCost { trained_tokens: tokens, scored_tokens: asked, flops, ..IterationCost::default() },
        );
        let centre = mean(&margins);
        let squares: Vec<f32> = margins.iter().map(|m| (m - centre as f32).powi(2)).collect();
        let saturated: Vec<f32> = margins.iter().map(|m| f32::from(1.0 / (1.0 + m.exp()) < 0.01)).collect();
        said.put(metrics::DPO_MARGIN, centre);
        said.put(metrics::DPO_MARGIN_SD, mean(&squares).sqrt());
        said.put(metrics::DPO_ACCURACY, accuracy(&margins));
        said.put(metrics::DPO_SATURATED, mean(&saturated));
        said.put(metrics::REWARD_CHOSEN, mean(&rewards[0]));
        said.put(metrics::REWARD_REJECTED, mean(&rewards[1]));
        said.put(metrics::LOGP_CHOSEN, mean(&logp[0]));
        said.put(metrics::LOGP_REJECTED, mean(&logp[1]));
        Ok(said)
    }

    fn state(&self) {}

    fn resume(&mut self, (): ()) {}
}

/// Every response of a batch as the answer to the prompt after its own, chosen ones first.
///
/// # Source
/// Ethayarajh et al. 2024, §4.1; trl's `_get_kl_completion_ids`: each prompt with the completion before it, whatever its label.
fn mismatched_responses(pairs: &PairBatch) -> Responses {
    let mut batch = pairs.both.clone();
    batch.responses.rotate_right(1);
    batch
}

/// What the parts of a batch say, pair by pair; of both responses, the chosen one first.
#[derive(Default)]
struct BatchStats {
    margins: Vec<f32>,
    rewards: [Vec<f32>; 2],
    logp: [Vec<f32>; 2],
}

impl BatchStats {
    fn add(&mut self, policy: &ChosenRejected, outcome: &PreferenceOutcome) {
        let told = |x: &Tensor<1>| host(x.clone().inner());
        self.margins.extend(told(&outcome.margins()));
        let both = [(&policy.chosen, &outcome.rewards.chosen), (&policy.rejected, &outcome.rewards.rejected)];
        for (side, (logp, reward)) in both.into_iter().enumerate() {
            self.logp[side].extend(told(logp));
            self.rewards[side].extend(told(reward));
        }
    }
}

/// The settings' loss with what only it reads.
pub fn loss(settings: &Settings) -> PreferenceLoss {
    use PreferenceLoss as Loss;
    let label_smoothing = settings.label_smoothing;
    match settings.loss {
        PairLoss::Sigmoid => Loss::Sigmoid { label_smoothing },
        PairLoss::SigmoidAveraged => Loss::SigmoidAveraged,
        PairLoss::Robust => Loss::Robust { label_smoothing },
        PairLoss::Hinge => Loss::Hinge,
        PairLoss::Ipo => Loss::Ipo,
        PairLoss::IpoAveraged => Loss::IpoAveraged,
        PairLoss::RaoKupper => Loss::RaoKupper { alpha: settings.tie_margin },
        PairLoss::Exo => Loss::Exo { label_smoothing },
        PairLoss::Nca => Loss::Nca,
        PairLoss::Sppo => Loss::Sppo,
        PairLoss::ApoZero => Loss::ApoZero,
        PairLoss::ApoDown => Loss::ApoDown,
        PairLoss::Aot => Loss::Aot { label_smoothing },
        PairLoss::AotUnpaired => Loss::AotUnpaired { label_smoothing },
        PairLoss::Discopop => Loss::DiscoPop { tau: settings.discopop_tau },
        PairLoss::ForwardKl => Loss::ForwardKl,
        PairLoss::AlphaDivergence => Loss::AlphaDivergence { alpha: settings.alpha },
        PairLoss::JsDivergence => Loss::JsDivergence,
        PairLoss::Simpo => Loss::SimPo { gamma: settings.simpo_margin },
        PairLoss::Orpo => Loss::Orpo,
        PairLoss::Kto => {
            let (desirable, undesirable) = (settings.kto_desirable, settings.kto_undesirable);
            Loss::Kto { weights: KtoWeights { desirable, undesirable } }
        }
        PairLoss::KtoPair => Loss::KtoPair,
        PairLoss::Positive => Loss::Positive { lambda: settings.positive_lambda },
        PairLoss::PreferredFt => Loss::PreferredFt,
        PairLoss::Unlikelihood => Loss::Unlikelihood { alpha: settings.unlikelihood_alpha },
    }
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Module;
    use burn::tensor::Device;
    use duel_model::{CountedFlops, count_flops};
    use duel_spec::{LearnerSettings, Split, TokenSpec, seeds};

    #[test]
    fn ktos_kl_is_of_all_responses_to_the_prompts_after_their_own() {
        let row = |id: u32| PreferenceRow {
            split: Split::Train,
            prompt: vec![id],
            chosen: vec![10 + id],
            rejected: vec![20 + id],
            rejected_prompt: None,
            gold_chosen: 0.0,
            gold_rejected: 0.0,
            p_label: 1.0,
            tie: false,
        };
        let pairs = PairBatch::new(&[row(1), row(2), row(3)], &[0, 1, 2]);
        // trl, on the rows (1, 11), (2, 12), (3, 13), (1, 21), (2, 22), (3, 23)
        let Responses { prompts, responses, .. } = mismatched_responses(&pairs);
        assert_eq!(prompts, [1, 2, 3, 1, 2, 3].map(|id| vec![id]));
        assert_eq!(responses, [23, 11, 12, 13, 21, 22].map(|id| vec![id]));
        let own = |(prompt, response): (&Vec<u32>, &Vec<u32>)| prompt[0] == response[0] % 10;
        assert!(!prompts.iter().zip(&responses).any(own), "no response may answer its own prompt");
    }

    /// Tokens of a prompt and of a response; all are of one length.
    const P: usize = 5;
    const T: usize = 4;
    const PAIRS: usize = 6;

    fn reader(device: &Device) -> Reader {
        let space = TokenSpec {
            vocabulary: 12,
            pad: 0,
            bos: 1,
            eos: 2,
            prompt_tokens: P,
            response_tokens: T,
            allowed_tokens: None,
            force_eos: false,
        };
        Reader::new(&space, device)
    }

    fn config() -> TransformerConfig {
        TransformerConfig::small(12, P + T, 2, 16, 2, true)
    }

    fn policy(seed: u64) -> Policy {
        Policy::new(&config(), &mut seeds::derive(seed, "test", 0, "init"), &Device::flex())
    }

    fn rows() -> Vec<PreferenceRow> {
        let row = |i: u32| PreferenceRow {
            split: Split::Train,
            prompt: vec![1, 3 + i, 4, 5, 6],
            chosen: vec![3 + i, 7, 8, 2],
            rejected: vec![9, 10, 3 + i, 2],
            rejected_prompt: None,
            gold_chosen: 0.0,
            gold_rejected: 0.0,
            p_label: 0.5,
            tie: false,
        };
        (0..PAIRS as u32).map(row).collect()
    }

    fn dpo(loss: PairLoss, reference: &Policy) -> Dpo {
        let settings = Settings { loss, beta: 0.7, label_smoothing: 0.0, ..Settings::defaults() };
        let cache = ReferenceLogp::compute(&reader(&Device::flex()), reference, &rows());
        Dpo::new(settings, reader(&Device::flex().autodiff()), cache, &config()).with_reference(reference)
    }

    /// Training on both responses is all that DPO costs; KTO asks the policy and its reference about mismatched ones too.
    #[test]
    fn a_step_costs_what_its_models_count() -> Result<()> {
        for loss in [PairLoss::Sigmoid, PairLoss::Ipo, PairLoss::Kto] {
            let mut method = dpo(loss, &policy(1).no_grad());
            let settings = LearnerSettings { warmup: 0.0, ..LearnerSettings::defaults() };
            let mut learner = Learner::new(policy(1).train(), &settings, 1e-2, 10);
            let batch = PairBatch::new(&rows(), &(0..PAIRS).collect::<Vec<_>>());
            let before = count_flops();
            let said = method.iteration(&batch, &mut learner)?;
            let now = count_flops();
            let since = |of: fn(CountedFlops) -> f64| of(now) - of(before);
            // a pass leaves the last token out, and its head reads responses alone
            let found = since(|c| c.blocks + c.blocks_back) * (P + T) as f64 / (P + T - 1) as f64
                + since(|c| c.heads + c.heads_back) * (P + T) as f64 / T as f64;
            assert!((found / said.cost.flops - 1.0).abs() < 1e-6, "{loss:?}: {found:e}, {:e}", said.cost.flops);
        }
        Ok(())
    }

    /// Validation holds a policy against the reference's log-probs of the rows it is given, chosen against rejected.
    #[test]
    fn validation_by_hand() {
        let (own, reference) = (policy(2), policy(1).no_grad());
        let plain = reader(&Device::flex());
        // other rows than those that the method trains on
        let swapped = |row: PreferenceRow| PreferenceRow { chosen: row.rejected, rejected: row.chosen, ..row };
        let held_out: Vec<PreferenceRow> = rows().into_iter().rev().map(swapped).collect();
        let cache = ReferenceLogp::compute(&plain, &reference, &held_out);
        let both = PairBatch::new(&held_out, &(0..PAIRS).collect::<Vec<_>>()).both;
        let [ours, theirs] = [&own, &reference].map(|policy| logprobs::sequence_logp(&plain, policy, &both));
        let ratio = |row: usize| f64::from(ours[row] - theirs[row]);
        let margins: Vec<f64> = (0..PAIRS).map(|i| 0.7 * (ratio(i) - ratio(PAIRS + i))).collect();
        let loss = margins.iter().map(|u| (1.0 + (-u).exp()).ln()).sum::<f64>() / PAIRS as f64;
        let right = margins.iter().filter(|&&u| u > 0.0).count() as f64 / PAIRS as f64;
        let found = dpo(PairLoss::Sigmoid, &reference).validate(&plain, &own, &held_out, &cache);
        assert!((found.loss - loss).abs() < 1e-4, "{} by hand {loss}", found.loss);
        assert_eq!(found.accuracy, right);
        assert!(
            (loss - std::f64::consts::LN_2).abs() > 0.01 && right != 0.5,
            "a case that shows its sides: {loss}, {right}"
        );
        assert_eq!(cache.tokens, (2 * PAIRS * (P + T)) as u64);
    }
}
