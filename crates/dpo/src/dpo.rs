//! Direct preference optimisation. Rafailov et al. 2023, eq. 7. Deviations: none.

use crate::invariants;
use burn::tensor::{Tensor, TensorData};
use duel_data::pairs::{PreferenceRow, hash};
use duel_model::{Flops, Policy, Reader, TransformerConfig, weights, weights::host};
use duel_objectives::{ChosenRejected, PairLogp, PreferenceLoss, PreferenceOutcome, preference_loss};
use duel_spec::{Dpo as Settings, metrics};
use duel_training::invariants as always;
use duel_training::{Cost, Learner, Method, Metrics, PairBatch, Result, norm, pairs::accuracy, pairs::halves, sft};
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
        let logp = sft::sequence_logp(reader, reference, &pairs.both);
        Self {
            reference: weights::hash(reference),
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
    flops: Flops,
}

impl Dpo {
    /// `reader` is on the autodiff device; `reference` holds the rows that batches index.
    pub fn new(settings: Settings, reader: Reader, reference: ReferenceLogp, config: &TransformerConfig) -> Self {
        Self { settings, reader, reference, flops: Flops::policy(config) }
    }

    fn loss(&self) -> PreferenceLoss {
        PreferenceLoss::Sigmoid { label_smoothing: self.settings.label_smoothing }
    }

    /// Log-probs of both responses under a policy, `[N]` each.
    fn pair_logp(reader: &Reader, policy: &Policy, pairs: &PairBatch) -> ChosenRejected {
        let mask = sft::mask(reader, &pairs.both); // [2N, T]
        halves(mask.row_sums(sft::response_logp(reader, policy, &pairs.both)))
    }

    fn outcome(
        &self,
        reader: &Reader,
        policy: ChosenRejected,
        reference: ChosenRejected,
        pairs: &PairBatch,
    ) -> PreferenceOutcome {
        let lengths = halves(sft::mask(reader, &pairs.both).lengths());
        preference_loss(&self.loss(), &PairLogp { policy, reference, lengths }, self.settings.beta)
    }

    /// The invariants of step 0 that look at more than the first loss, each on the first batch.
    fn check_start(&self, pairs: &PairBatch, learner: &Learner<Policy>) -> Result<()> {
        always::eos_counts_and_pad_does_not(0, &self.reader, &pairs.both)?;
        always::reads_are_sound(0, &self.reader, learner.module(), &pairs.both)?;
        let (reader, module) = always::without_graph(&self.reader, learner.module());
        let reference = self.reference.batch(&pairs.rows, &reader);
        let policy = Self::pair_logp(&reader, &module, pairs);
        let live: Vec<f32> = host(policy.chosen.clone()).into_iter().chain(host(policy.rejected.clone())).collect();
        let cached: Vec<f32> =
            host(reference.chosen.clone()).into_iter().chain(host(reference.rejected.clone())).collect();
        invariants::cached_reference_is_live(&live, &cached)?;
        let margins = host(self.outcome(&reader, policy, reference.clone(), pairs).margins());
        let swapped = self.outcome(
            &reader,
            Self::pair_logp(&reader, &module, &pairs.swapped()),
            ChosenRejected { chosen: reference.rejected, rejected: reference.chosen },
            &pairs.swapped(),
        );
        invariants::a_swap_flips_the_margin(0, &margins, &host(swapped.margins()))?;
        let reference = self.reference.batch(&pairs.rows, &self.reader);
        let tied = self.outcome(
            &self.reader,
            Self::pair_logp(&self.reader, learner.module(), &pairs.tied()),
            ChosenRejected { chosen: reference.chosen.clone(), rejected: reference.chosen },
            &pairs.tied(),
        );
        let gradient = learner.gradient(tied.loss);
        invariants::equal_pairs_have_no_gradient(0, norm(&gradient))?;
        always::parts_make_the_same_gradient(learner, pairs.len(), |rows| {
            let part = pairs.select(rows);
            let reference = self.reference.batch(&part.rows, &self.reader);
            let policy = Self::pair_logp(&self.reader, learner.module(), &part);
            (self.outcome(&self.reader, policy, reference, &part).loss, part.len() as f64)
        })
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
        let logp = sft::sequence_logp(reader, policy, &pairs.both);
        let now = halves(Tensor::from_data(logp.as_slice(), reader.device()));
        let outcome = self.outcome(reader, now, reference.batch(&all, reader), &pairs);
        let margins = host(outcome.margins());
        Validation { loss: f64::from(host(outcome.loss)[0]), accuracy: accuracy(&margins) }
    }
}

impl Method for Dpo {
    type Module = Policy;
    type Batch = PairBatch;

    fn iteration(&mut self, pairs: &PairBatch, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut said = Metrics::default();
        if learner.step() == 0 {
            said.check(|| self.check_start(pairs, learner))?;
        }

        // 1. Log-probs of both responses; the reference's were computed once, before training.
        let policy = Self::pair_logp(&self.reader, learner.module(), pairs);
        let reference = self.reference.batch(&pairs.rows, &self.reader);

        // 2. How far has each response moved from the reference?
        let [chosen, rejected] = [&policy.chosen, &policy.rejected].map(|x| mean(&host(x.clone().inner())));
        let outcome = self.outcome(&self.reader, policy, reference, pairs);
        let margins = host(outcome.margins().inner()); // [N]
        if learner.step() == 0 {
            let loss = f64::from(host(outcome.loss.clone().inner())[0]);
            said.check(|| invariants::starts_at_ln_2(loss, &margins, accuracy(&margins)))?;
        }
        let rewards = [&outcome.rewards.chosen, &outcome.rewards.rejected].map(|x| mean(&host(x.clone().inner())));

        // 3. Improve.
        let update = learner.minimize(outcome.loss)?;
        let tokens = pairs.both.token_count();
        let cost = Cost { trained_tokens: tokens, flops: self.flops.train(tokens), ..Cost::default() };
        said.learned(update, cost);
        let centre = mean(&margins);
        let squares: Vec<f32> = margins.iter().map(|m| (m - centre as f32).powi(2)).collect();
        let saturated: Vec<f32> = margins.iter().map(|m| f32::from(1.0 / (1.0 + m.exp()) < 0.01)).collect();
        said.put(metrics::DPO_MARGIN, centre);
        said.put(metrics::DPO_MARGIN_SD, mean(&squares).sqrt());
        said.put(metrics::DPO_ACCURACY, accuracy(&margins));
        said.put(metrics::DPO_SATURATED, mean(&saturated));
        said.put(metrics::REWARD_CHOSEN, rewards[0]);
        said.put(metrics::REWARD_REJECTED, rewards[1]);
        said.put(metrics::LOGP_CHOSEN, chosen);
        said.put(metrics::LOGP_REJECTED, rejected);
        Ok(said)
    }
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x)).sum::<f64>() / values.len() as f64
}
