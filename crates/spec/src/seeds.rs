//! Every random choice comes from a generator derived here, never from global state, so that
//! resuming, reordering and parallel workers change nothing.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// The generator type used everywhere.
pub type Rng = ChaCha8Rng;

/// The generator of (experiment seed, stage, iteration, purpose).
pub fn derive(seed: u64, stage: &str, iteration: u64, purpose: &str) -> Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((stage.len() as u64).to_le_bytes());
    hash.update(stage);
    hash.update(iteration.to_le_bytes());
    hash.update(purpose);
    ChaCha8Rng::from_seed(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn each_coordinate_gives_its_own_stream() {
        let first =
            |seed, stage: &str, iteration, purpose: &str| derive(seed, stage, iteration, purpose).random::<u64>();
        let streams = [
            first(0, "sft", 0, "rows"),
            first(1, "sft", 0, "rows"),
            first(0, "rm", 0, "rows"),
            first(0, "sft", 1, "rows"),
            first(0, "sft", 0, "init"),
            first(0, "sf", 0, "trows"),
        ];
        let distinct: std::collections::HashSet<_> = streams.iter().collect();
        assert_eq!(distinct.len(), streams.len());
        assert_eq!(first(0, "sft", 0, "rows"), streams[0]);
    }
}
