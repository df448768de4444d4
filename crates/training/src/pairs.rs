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

/// Row numbers of one epoch, shuffled and cut into batches; with `drop_last` they are of equal size, and an incomplete last batch
/// is dropped unless it is the only one.
pub fn epoch_batches(rows: usize, batch_size: usize, drop_last: bool, rng: &mut Rng) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..rows).collect();
    order.shuffle(rng);
    let size = batch_size.min(rows);
    let full = if drop_last { rows - rows % size } else { rows };
    order[..full].chunks(size).map(<[usize]>::to_vec).collect()
}

/// The same without an incomplete last batch.
pub fn shuffled_batches(rows: usize, batch_size: usize, rng: &mut Rng) -> Vec<Vec<usize>> {
    epoch_batches(rows, batch_size, true, rng)
}

/// Share of positive margins, ties half.
pub fn accuracy(margins: &[f32]) -> f64 {
    let hits: f64 = margins.iter().map(|&m| if m == 0.0 { 0.5 } else { f64::from(m > 0.0) }).sum();
    hits / margins.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_model::weights;
    use duel_spec::{LossMask, Split, seeds};

    #[test]
    fn ties_count_half() {
        assert_eq!(accuracy(&[1.0, -1.0, 0.0, 2.0]), 0.625);
    }

    /// Three rows; all ids of row `i` are `10 i` and a little.
    fn rows() -> Vec<PreferenceRow> {
        let row = |i: u32| PreferenceRow {
            rejected_prompt: (i == 2).then(|| vec![10 * i + 4]),
            chosen_mask: (i == 1).then(|| LossMask::new([[0, 1]], 2)).flatten(),
            p_label: [0.5, 0.75, 1.0][i as usize],
            tie: i == 1,
            ..PreferenceRow::new(Split::Train, vec![10 * i + 1], vec![10 * i + 2, 2], vec![10 * i + 3, 2])
        };
        (0..3).map(row).collect()
    }

    #[test]
    fn chosen_responses_come_before_rejected_ones_and_parts_stay_pairs() {
        let all = rows();
        let batch = PairBatch::new(&all, &[2, 0, 1]);
        let first_ids = |batch: &PairBatch| batch.both.responses.iter().map(|ids| ids[0]).collect::<Vec<_>>();
        assert_eq!((batch.len(), batch.is_empty()), (3, false));
        assert_eq!(first_ids(&batch), [22, 2, 12, 23, 3, 13]);
        assert_eq!(batch.both.prompts.concat(), [21, 1, 11, 24, 1, 11]);
        assert_eq!(batch.both.masks.iter().filter(|mask| mask.is_some()).count(), 1);
        assert!(batch.both.mask(2).is_some(), "of the chosen response of row 1");
        // |ln(p / (1 − p))| / 3, at most 1
        let strength = 3f64.ln() / 3.0;
        assert!(batch.strengths.iter().zip([1.0, 0.0, strength]).all(|(a, b)| (a - b).abs() < 1e-12));
        assert_eq!((batch.rows.as_slice(), batch.ties.as_slice()), (&[2, 0, 1][..], &[false, false, true][..]));

        let part = batch.select(&[2, 0]);
        assert_eq!(first_ids(&part), [12, 22, 13, 23]);
        assert_eq!((part.rows.as_slice(), part.ties.as_slice()), (&[1, 2][..], &[true, false][..]));
        assert_eq!(part.strengths, [batch.strengths[2], 1.0]);
        assert_eq!(first_ids(&batch.swapped()), [23, 3, 13, 22, 2, 12]);
        assert_eq!(batch.swapped().both.prompts.concat(), [24, 1, 11, 21, 1, 11]);
        assert_eq!(first_ids(&batch.tied()), [22, 2, 12, 22, 2, 12]);
        assert!(batch.select(&[]).is_empty());

        let ChosenRejected { chosen, rejected } = halves(Tensor::from_data([1.0f32, 2.0, 3.0, 4.0], &Device::flex()));
        assert_eq!((weights::host(chosen), weights::host(rejected)), (vec![1.0, 2.0], vec![3.0, 4.0]));
    }

    #[test]
    fn an_epoch_has_full_batches_of_distinct_rows() {
        let mut rng = seeds::derive(1, "test", 0, "epoch");
        for (rows, batch_size, batches, size) in [(10, 3, 3, 3), (9, 3, 3, 3), (2, 3, 1, 2), (1, 1, 1, 1)] {
            let epoch = shuffled_batches(rows, batch_size, &mut rng);
            assert!(epoch.len() == batches && epoch.iter().all(|batch| batch.len() == size), "{epoch:?}");
            let mut seen = epoch.concat();
            seen.sort_unstable();
            seen.dedup();
            assert!(seen.len() == batches * size && seen.iter().all(|&row| row < rows), "{epoch:?}");
        }
        let kept = epoch_batches(10, 4, false, &mut rng);
        assert_eq!(kept.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        let mut seen = kept.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
        let [one, other] = [(); 2].map(|()| shuffled_batches(50, 50, &mut rng));
        assert_ne!(one, other, "another order each epoch");
    }
}
