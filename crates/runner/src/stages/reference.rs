//! The stage `reference`: the log-probs of all rows under the reference.

use super::context::StageContext;
use super::files::{REFERENCE, save_json};
use crate::error::Result;
use duel_data::pairs::PreferenceRow;
use duel_ledger::StageRecorder;
use duel_model::Flops;
use duel_spec::{Clocks, Recorder, Split, metrics};
use std::path::Path;
use std::time::Instant;

/// The reference's log-probs of all rows, once for every point of every DPO arm. The clocks are those of
/// the train rows: the others serve validation only.
pub(super) fn run(context: &StageContext<'_>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let loaded = context.load_world()?;
    let world = loaded.world.as_ref();
    let policy = context.sft_policy(world)?;
    let rows = context.rows()?;
    let reader = context.reader(world);
    let logp_of = |split| {
        let rows: Vec<PreferenceRow> = rows.iter().filter(|r| r.split == split).cloned().collect();
        duel_dpo::ReferenceLogp::compute(&reader, &policy, &rows)
    };
    recorder.progress(0, 2, "training rows");
    let started = Instant::now();
    let train = logp_of(Split::Train);
    let clocks = Clocks {
        step: 0,
        tokens: train.tokens,
        flops: Flops::policy(&context.config(world)?).forward(train.tokens),
        wall_seconds: started.elapsed().as_secs_f64(),
    };
    recorder.record("reference", clocks, metrics::STAGE_SECONDS, clocks.wall_seconds);
    recorder.progress(1, 2, "validation rows");
    save_json(&to.join(REFERENCE), &(train, logp_of(Split::Validation)))
}
