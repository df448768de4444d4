//! The stage `base`: the language model of running text.

use super::context::StageContext;
use super::files::POLICY;
use crate::error::Result;
use burn::module::Module;
use duel_ledger::StageRecorder;
use duel_model::weights;
use duel_spec::seeds::{self, Stream};
use duel_spec::{Recorder, metrics};
use duel_training::sft::RunningText;
use duel_training::{Learner, invariants};
use rand::RngExt;
use std::path::Path;

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
        Ok((0..settings.batch_size)
            .map(|_| {
                let start = rng.random_range(0..stream.len() - settings.window);
                stream[start..=start + settings.window].to_vec()
            })
            .collect())
    };
    let clocks = context.train_alone("base", &mut method, &mut learner, settings.steps, batch, recorder)?;

    let heldout: Vec<Vec<u32>> =
        world.language_heldout().chunks_exact(settings.window + 1).map(<[u32]>::to_vec).collect();
    let policy = learner.into_module().valid();
    let reader = RunningText::new(context.reader(loaded.world.as_ref()), &config);
    let losses: Vec<f64> =
        heldout.chunks(64).map(|w| f64::from(weights::host(reader.loss(&policy, w))[0]) * w.len() as f64).collect();
    let loss = losses.iter().sum::<f64>() / heldout.len() as f64;
    invariants::finite(clocks.step, "the loss on held-out text", loss)?;
    recorder.record("base", clocks, metrics::NLL_TOKEN, loss);
    weights::save(&policy, &to.join(POLICY))?;
    Ok(())
}
