//! The order in which rows are trained on.

use duel_spec::seeds::{self, Stream};
use duel_training::pairs::shuffled_batches;

/// Row numbers, epoch after epoch, each shuffled by its own generator.
pub struct EpochSampler {
    rows: usize,
    batch_size: usize,
    seed: u64,
    stream: Stream<'static>,
    epoch: Option<u64>,
    batches: Vec<Vec<usize>>,
}

impl EpochSampler {
    /// Batches of `batch_size` of `rows` rows, shuffled by a stream at each epoch.
    pub fn new(rows: usize, batch_size: usize, seed: u64, stream: Stream<'static>) -> Self {
        Self { rows, batch_size, seed, stream, epoch: None, batches: vec![] }
    }

    /// Share of the rows that are in no batch of an epoch; they differ between epochs.
    pub fn left_out(&self) -> f64 {
        (self.rows % self.batch_size.min(self.rows)) as f64 / self.rows as f64
    }

    /// The batch of a step: always the same one.
    pub fn at(&mut self, step: u64) -> &[usize] {
        let an_epoch = (self.rows / self.batch_size.min(self.rows)) as u64;
        let (epoch, place) = (step / an_epoch, (step % an_epoch) as usize);
        if self.epoch != Some(epoch) {
            let mut rng = seeds::stream(self.seed, self.stream, epoch);
            self.batches = shuffled_batches(self.rows, self.batch_size, &mut rng);
            self.epoch = Some(epoch);
        }
        &self.batches[place]
    }
}
