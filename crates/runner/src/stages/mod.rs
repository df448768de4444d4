//! What each kind of stage does: the experiment's settings passed to the crates. No mathematics here.

mod base;
mod batches;
mod cell;
mod context;
mod corpus;
mod evaluator;
mod files;
mod length;
mod pairs;
mod reference;
mod registry;
mod reward_model;
mod sft;
#[cfg(test)]
mod testing;
mod training_inputs;

#[cfg(test)]
pub use batches::EpochSampler;
pub use context::StageContext;
pub(crate) use corpus::check_rows;
#[cfg(test)]
pub use files::{PROXY, REFERENCE, load_json};
pub use reward_model::learned_reward;

use crate::error::Result;
use crate::plan::StageKind;
use crate::sysinfo;
use duel_ledger::StageRecorder;
use duel_spec::{Clocks, Recorder, metrics};
use std::path::Path;

/// Runs the stage; its files are written to `to`.
pub fn run_stage(context: &StageContext<'_>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let done = match context.stage.kind {
        StageKind::Corpus => corpus::run(context, to, recorder),
        StageKind::Base => base::run(context, to, recorder),
        StageKind::Sft => sft::run(context, to, recorder),
        StageKind::Pairs => pairs::run(context, to, recorder),
        StageKind::Rm => reward_model::run(context, to, recorder),
        StageKind::Reference => reference::run(context, to, recorder),
        StageKind::Yardstick => evaluator::run(context, recorder),
        StageKind::Cell => cell::run(context, to, recorder),
    };
    done.map_err(|error| match learning_rate(context) {
        Some(rate) => error.at_rate(rate),
        None => error,
    })?;
    context.finish_judges()?;
    recorder.record(context.stage.kind.name(), Clocks::default(), metrics::PEAK_RSS, sysinfo::peak_memory() as f64);
    recorder.write(to)?;
    Ok(())
}

/// The peak rate of a stage that trains.
fn learning_rate(context: &StageContext<'_>) -> Option<f64> {
    let stages = &context.experiment.stages;
    match context.stage.kind {
        StageKind::Base => Some(stages.base.learning_rate),
        StageKind::Sft => Some(stages.sft.learning_rate),
        StageKind::Rm => Some(stages.rm.learning_rate),
        StageKind::Cell => context.stage.cell.as_ref().map(|cell| cell.point.method.learning_rate()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::testing::PlannedRun;
    use super::*;

    /// An error of divergence names the rate of the stage that diverged.
    #[test]
    fn each_training_has_its_rate() {
        let run = PlannedRun::new(
            "[world]\nkind = \"reviews\"\n[stages.base]\nlearning_rate = 1e-3\n[stages.sft]\nlearning_rate = 2e-3\n\
             [stages.rm]\nlearning_rate = 3e-3\n[arms.dpo]\nmethod = \"dpo\"\nlearning_rate = 4e-3\n\
             [arms.ppo]\nmethod = \"ppo\"\nlearning_rate = 5e-3\n",
        );
        let rates: Vec<(&str, Option<f64>)> =
            run.plan.stages.iter().map(|stage| (stage.kind.name(), learning_rate(&run.context(stage)))).collect();
        let expected = [
            ("corpus", None),
            ("base", Some(1e-3)),
            ("sft", Some(2e-3)),
            ("pairs", None),
            ("rm", Some(3e-3)),
            ("reference", None),
            ("yardstick", None),
            ("cell", Some(4e-3)),
            ("cell", Some(5e-3)),
        ];
        for stage in expected {
            assert!(rates.contains(&stage), "{stage:?}: {rates:?}");
        }
        assert!(rates.iter().all(|stage| expected.contains(stage)), "{rates:?}");
    }
}
