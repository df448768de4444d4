//! The order in which rows are trained on.

use duel_spec::seeds::{self, Stream};
use duel_training::pairs::epoch_batches;

/// Row numbers, epoch after epoch, each shuffled by its own generator.
pub struct EpochSampler {
    rows: usize,
    batch_size: usize,
    seed: u64,
    stream: Stream<'static>,
    drop_last: bool,
    epoch: Option<u64>,
    batches: Vec<Vec<usize>>,
}

impl EpochSampler {
    /// Batches of `batch_size` of `rows` rows, shuffled by a stream at each epoch.
    pub fn new(rows: usize, batch_size: usize, seed: u64, stream: Stream<'static>) -> Self {
        Self { rows, batch_size, seed, stream, drop_last: true, epoch: None, batches: vec![] }
    }

    /// With an incomplete last batch in each epoch, unless it is dropped.
    pub fn dropping_last(self, drop_last: bool) -> Self {
        Self { drop_last, ..self }
    }

    /// Share of the rows that are in no batch of an epoch; they differ between epochs.
    pub fn left_out(&self) -> f64 {
        let rest = if self.drop_last { self.rows % self.batch_size.min(self.rows) } else { 0 };
        rest as f64 / self.rows as f64
    }

    /// The batch of a step: always the same one.
    pub fn at(&mut self, step: u64) -> &[usize] {
        let size = self.batch_size.min(self.rows);
        let batches = if self.drop_last { self.rows / size } else { self.rows.div_ceil(size) };
        let (epoch, index) = (step / batches as u64, (step % batches as u64) as usize);
        if self.epoch != Some(epoch) {
            let mut rng = seeds::stream(self.seed, self.stream, epoch);
            self.batches = epoch_batches(self.rows, self.batch_size, self.drop_last, &mut rng);
            self.epoch = Some(epoch);
        }
        &self.batches[index]
    }
}
