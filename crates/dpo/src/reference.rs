//! Log-probs of both responses: under the current policy, and under the reference, computed once before training.

use crate::invariants;
use crate::read::all_pair_logp;
use burn::tensor::{Tensor, TensorData};
use duel_data::pairs::{PreferenceRow, hash};
use duel_model::{Policy, ResponseReader};
use duel_objectives::ChosenRejected;
use duel_spec::DpoSettings as Settings;
use duel_training::{PairBatch, Result};
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
    /// Tokens that the pass read: part of DPO's cost.
    pub tokens: u64,
}

impl ReferenceLogp {
    /// One pass of the reference over all rows; `reader` and `reference` carry no gradient.
    pub fn compute(reader: &ResponseReader, reference: &Policy, rows: &[PreferenceRow]) -> Self {
        Self::desensitized(reader, reference, rows, 1.0)
    }

    /// The same with `ld_alpha` times the log-probs of tokens past the length of the pair's shorter response.
    pub fn desensitized(reader: &ResponseReader, reference: &Policy, rows: &[PreferenceRow], ld_alpha: f64) -> Self {
        let n = rows.len();
        let pairs = PairBatch::new(rows, &(0..n).collect::<Vec<_>>());
        let logp = all_pair_logp(reader, reference, &pairs, ld_alpha);
        Self {
            reference: reference.hash(),
            rows: hash(rows),
            chosen: logp[..n].to_vec(),
            rejected: logp[n..].to_vec(),
            tokens: pairs.both.token_count(),
        }
    }

    /// The log-probs of a batch's rows as tensors `[N]`.
    pub(crate) fn batch(&self, rows: &[usize], reader: &ResponseReader) -> ChosenRejected {
        let rows_of = |all: &[f32]| {
            let values: Vec<f32> = rows.iter().map(|&r| all[r]).collect();
            Tensor::<1>::from_data(TensorData::new(values, [rows.len()]), reader.device())
        };
        ChosenRejected { chosen: rows_of(&self.chosen), rejected: rows_of(&self.rejected) }
    }

    /// The same as the loss reads them: 0 with `reference_free`.
    pub(crate) fn for_loss(&self, s: &Settings, rows: &[usize], reader: &ResponseReader) -> ChosenRejected {
        let logp = self.batch(rows, reader);
        if s.reference_free { logp.map(|x| x.zeros_like()) } else { logp }
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

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::Split;
    use duel_training::Error;

    #[test]
    fn a_cache_is_of_one_reference_and_of_the_rows_in_their_order() {
        let row = |id| PreferenceRow::new(Split::Train, vec![1], vec![id, 2], vec![5, 2]);
        let rows = [row(3), row(4)];
        let cache =
            ReferenceLogp { reference: "ab".into(), rows: hash(&rows), chosen: vec![], rejected: vec![], tokens: 0 };
        assert!(cache.check_origin("ab", &rows).is_ok());
        for (reference, rows, of) in [("cd", rows.clone(), "the reference"), ("ab", [row(4), row(3)], "the rows")] {
            let result = cache.check_origin(reference, &rows);
            assert!(
                matches!(&result, Err(Error::Invariant { name: "cache_is_of", what, .. }) if what.contains(of)),
                "{of}: {result:?}"
            );
        }
    }
}
