//! The time of each step of training, in Duel and in other programs.

mod cases;
pub mod peers;
mod shapes;

use crate::error::Result;
pub use cases::{CASES, Case, PRETRAINED, case};
pub use shapes::{BenchShape, Shape};
use std::time::Instant;

/// Seconds of one token of a case on the shape's threads, or of one run where no tokens are counted, measured for a third of a second.
pub fn seconds_per_token(shape: &Shape, name: &str) -> Result<f64> {
    with_threads(shape.threads, || {
        let mut case = case(shape, name)?.expect("a case that every shape has");
        let warm = Instant::now();
        for _ in 0..2 {
            (case.run)()?;
            if warm.elapsed().as_secs_f64() > 1.0 {
                break; // a large model is warm after one
            }
        }
        let (started, mut runs) = (Instant::now(), 0);
        while runs == 0 || started.elapsed().as_secs_f64() < 0.35 {
            (case.run)()?;
            runs += 1;
        }
        Ok(started.elapsed().as_secs_f64() / f64::from(runs) / case.tokens.max(1) as f64)
    })
}

/// Runs `work` with this many threads for all kernels.
pub fn with_threads<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(run),
        Err(_) => run(),
    }
}
