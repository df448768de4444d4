//! The stage `base`: the language model of running text.

use super::context::StageContext;
use super::files::POLICY;
use crate::error::Result;
use burn::module::Module;
use duel_ledger::StageRecorder;
use duel_model::{Policy, weights};
use duel_spec::seeds::{self, Rng, Stream};
use duel_spec::{Recorder, metrics};
use duel_training::sft::RunningText;
use duel_training::{Learner, invariants};
use rand::RngExt;
use std::path::Path;

/// Windows per pass over held-out text.
const BLOCK: usize = 64;

/// The language model of running text.
pub(super) fn run(context: &StageContext<'_>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let settings = &context.experiment.stages.base;
    let loaded = context.load_world()?;
    let world = loaded.reviews.as_ref().expect("only reviews has a base stage");
    let config = context.config(loaded.world.as_ref())?;
    let policy = context.fresh_policy(loaded.world.as_ref(), &mut seeds::stream(0, Stream::BaseInit, 0))?;
    let mut method = RunningText::new(context.train_reader(loaded.world.as_ref()), &config);
    let mut learner = Learner::new(policy, &context.experiment.learner, settings.learning_rate, settings.steps as u64);
    let stream = world.language();
    let batch = |step: u64| -> Result<_> {
        let mut rng = seeds::stream(0, Stream::BaseWindows, step);
        Ok((0..settings.batch_size).map(|_| window(stream, settings.window, &mut rng)).collect())
    };
    let clocks = context.train_alone("base", &mut method, &mut learner, settings.steps, batch, recorder)?;

    let policy = learner.into_module().valid();
    let reader = RunningText::new(context.reader(loaded.world.as_ref()), &config);
    let progress = |done, all| recorder.progress(done, all, "held-out text");
    let loss = mean_loss(&reader, &policy, world.language_heldout(), settings.window, progress);
    invariants::finite(clocks.step, "the loss on held-out text", loss)?;
    recorder.record("base", clocks, metrics::NLL_TOKEN, loss);
    weights::save(&policy, &to.join(POLICY))?;
    Ok(())
}

/// A random window of a stream: `size` tokens and their next ones.
fn window(stream: &[u32], size: usize, rng: &mut Rng) -> Vec<u32> {
    let start = rng.random_range(0..stream.len() - size);
    stream[start..=start + size].to_vec()
}

/// Mean negative log-likelihood per token of the whole windows of a stream, nats; `progress` is told how many were read of how many.
fn mean_loss(
    reader: &RunningText,
    policy: &Policy,
    stream: &[u32],
    size: usize,
    mut progress: impl FnMut(u64, u64),
) -> f64 {
    let windows: Vec<Vec<u32>> = stream.chunks_exact(size + 1).map(<[u32]>::to_vec).collect();
    let block_sum = |(block, w): (usize, &[Vec<u32>])| {
        progress((block * BLOCK) as u64, windows.len() as u64);
        f64::from(weights::host(reader.loss(policy, w))[0]) * w.len() as f64
    };
    windows.chunks(BLOCK).enumerate().map(block_sum).sum::<f64>() / windows.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_model::{ResponseReader, TransformerConfig};
    use duel_testing_tensors::trajectory::space;
    use duel_testing_tensors::unigram::unigram;
    use std::collections::BTreeSet;

    #[test]
    fn windows_are_drawn_from_the_whole_stream() {
        let stream: Vec<u32> = (0..20).collect();
        let mut rng = seeds::derive(0, "test", 0, "windows");
        let windows: Vec<Vec<u32>> = (0..400).map(|_| window(&stream, 4, &mut rng)).collect();
        assert!(windows.iter().all(|window| *window == (window[0]..window[0] + 5).collect::<Vec<_>>()));
        let starts: BTreeSet<u32> = windows.iter().map(|window| window[0]).collect();
        assert_eq!(starts, (0..=15).collect(), "the last window ends with the stream");
    }

    /// A policy without context costs −ln p of every token that is predicted: all but the first of a window.
    #[test]
    fn the_loss_is_a_mean_over_all_windows() {
        let probabilities = [0.5, 0.3, 0.2];
        let device = Device::flex();
        let policy = unigram(&probabilities.map(f32::ln), 2, &device);
        let config = TransformerConfig::small(3, 2, 1, 8, 2, false);
        let reader = RunningText::new(ResponseReader::new(&space(3, [0, 2], 1, 1), &device), &config);
        // more than a block of windows 2 1 0, a few of 2 1 1, and two tokens that fill no window
        let windows = [[2, 1, 0].repeat(BLOCK), [2, 1, 1].repeat(6), vec![2, 2]].concat();
        let [first, second] = [(0.3 * 0.5), (0.3 * 0.3)].map(|p: f64| -p.ln() / 2.0);
        let expected = (BLOCK as f64 * first + 6.0 * second) / (BLOCK as f64 + 6.0);
        let actual = mean_loss(&reader, &policy, &windows, 2, |_, _| ());
        assert!((actual - expected).abs() < 1e-6, "{actual}, expected {expected}");
    }
}
