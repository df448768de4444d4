//! Preference rows as a batch: both responses of every pair in one forward pass.

use burn::tensor::Tensor;
use duel_data::pairs::PreferenceRow;
use duel_model::Responses;
use duel_objectives::ChosenRejected;
use duel_spec::seeds::Rng;
use rand::seq::SliceRandom;

/// `N` pairs. Rows 0..N of `both` are the chosen responses, rows N..2N the rejected ones.
#[derive(Debug, Clone)]
pub struct PairBatch {
    /// Which preference rows these are, for caches over all rows.
    pub rows: Vec<usize>,
    pub both: Responses,
    /// How sure the annotator was of each pair, 0 to 1.
    pub strengths: Vec<f64>,
    /// Which pairs the annotator called a tie.
    pub ties: Vec<bool>,
}

impl PairBatch {
    /// A batch of some of the preference rows.
    pub fn new(all: &[PreferenceRow], rows: &[usize]) -> Self {
        let mut both = Responses::default();
        for &row in rows {
            both.prompts.push(all[row].prompt.clone());
            both.responses.push(all[row].chosen.clone());
            both.masks.push(all[row].chosen_mask.clone());
        }
        for &row in rows {
            both.prompts.push(all[row].prompt_of_rejected().clone());
            both.responses.push(all[row].rejected.clone());
            both.masks.push(all[row].rejected_mask.clone());
        }
        let strengths = rows.iter().map(|&row| all[row].strength()).collect();
        Self { rows: rows.to_vec(), both, strengths, ties: rows.iter().map(|&row| all[row].tie).collect() }
    }

    /// Pairs, `N`.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Some of the pairs.
    pub fn select(&self, pairs: &[usize]) -> Self {
        let both: Vec<usize> = pairs.iter().copied().chain(pairs.iter().map(|p| p + self.len())).collect();
        Self {
            rows: pairs.iter().map(|&p| self.rows[p]).collect(),
            both: self.both.select(&both),
            strengths: pairs.iter().map(|&p| self.strengths[p]).collect(),
            ties: pairs.iter().map(|&p| self.ties[p]).collect(),
        }
    }

    /// The same pairs with chosen and rejected swapped.
    pub fn swapped(&self) -> Self {
        let n = self.len();
        let order: Vec<usize> = (n..2 * n).chain(0..n).collect();
        Self { both: self.both.select(&order), ..self.clone() }
    }

    /// The same pairs with the chosen response on both sides.
    pub fn tied(&self) -> Self {
        let order: Vec<usize> = (0..self.len()).chain(0..self.len()).collect();
        Self { both: self.both.select(&order), ..self.clone() }
    }
}

/// Splits values of [`PairBatch::both`], `[2N]`: rows 0..N are the chosen responses, rows N..2N the rejected ones.
pub fn halves(both: Tensor<1>) -> ChosenRejected {
    let n = both.dims()[0] / 2;
    ChosenRejected { chosen: both.clone().narrow(0, 0, n), rejected: both.narrow(0, n, n) }
}

/// Row numbers of one epoch, shuffled and cut into batches of equal size; an incomplete last batch is dropped unless it is
/// the only one.
pub fn shuffled_batches(rows: usize, batch_size: usize, rng: &mut Rng) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(rng);
    let size = batch_size.min(rows);
    order.chunks_exact(size).map(<[usize]>::to_vec).collect()
}

/// Share of positive margins, ties half.
pub fn accuracy(margins: &[f32]) -> f64 {
    let hits: f64 = margins.iter().map(|&m| if m == 0.0 { 0.5 } else { f64::from(m > 0.0) }).sum();
    hits / margins.len() as f64
}

#[cfg(test)]
mod tests {
    use super::accuracy;

    #[test]
    fn ties_count_half() {
        assert_eq!(accuracy(&[1.0, -1.0, 0.0, 2.0]), 0.625);
    }
}
