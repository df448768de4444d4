//! The stage `pairs`: preference rows.

use super::context::{StageContext, check_unpaired};
use super::files::ROWS;
use crate::error::Result;
use duel_data::pairs::{Annotator, PreferenceRow, bayes_accuracy, solve_tau};
use duel_ledger::StageRecorder;
use duel_reward::{PairFilter, Scorer, collect, label};
use duel_spec::seeds::{self, Stream};
use duel_spec::{Clocks, Recorder, Split, Temperature, metrics};
use duel_training::{PairBatch, invariants};
use std::path::Path;

/// Preference rows on train prompts to learn from, on validation and test prompts to judge by.
pub(super) fn run(context: &StageContext<'_>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let (settings, seed) = (&context.experiment.stages.pairs, context.stage.seed);
    let loaded = context.load_world()?;
    let world = loaded.world.as_ref();
    invariants::splits_are_disjoint(world)?;
    let gold = &loaded.gold;
    if let Some(rows) = loaded.rows.as_ref().filter(|rows| !rows.rows().is_empty()) {
        check_unpaired(context.experiment, rows.rows())?;
        return save_rows(judge_rows(rows.rows(), gold.as_ref())?, to);
    }
    let policy = context.sft_policy(world)?;
    let reader = context.reader(world);
    let mut candidates = Vec::new();
    for (split, count) in [
        (Split::Train, settings.rows),
        (Split::Validation, settings.holdout_rows),
        (Split::Test, settings.holdout_rows),
    ] {
        recorder.progress(split as u64, 3, split.name());
        let mut rng = seeds::stream(seed, Stream::PairResponses, split as u64);
        let filter = PairFilter { trap_rows: settings.trap_rows, max_edits: settings.max_edits };
        candidates.push((split, collect(&policy, &reader, world, gold.as_ref(), split, count, filter, &mut rng)?));
    }
    let tau = match settings.temperature {
        Temperature::Fixed => settings.tau,
        Temperature::Bayes => {
            let differences: Vec<f64> = candidates[0].1.iter().map(|c| c.gold[0] - c.gold[1]).collect();
            solve_tau(&differences, settings.bayes_accuracy)
        }
    };
    let (flips, length_bias, ties) = (settings.label_flips, settings.length_bias, settings.ties);
    let annotator = Annotator { tau, flips, length_bias, ties };
    let mut all = vec![];
    for (split, candidates) in candidates {
        let mut rng = seeds::stream(seed, Stream::PairLabels, split as u64);
        let rows = label(candidates, split, &annotator, &mut rng);
        if split == Split::Test {
            recorder.record("pairs", Clocks::default(), metrics::BAYES_ACCURACY, bayes_accuracy(&rows));
            recorder.record("pairs", Clocks::default(), metrics::TAU, tau);
        }
        all.extend(rows);
    }
    save_rows(all, to)
}

/// The user's rows with the judge's scores of both completions.
fn judge_rows(rows: &[PreferenceRow], gold: &dyn Scorer) -> Result<Vec<PreferenceRow>> {
    let all: Vec<usize> = (0..rows.len()).collect();
    let mut chosen = gold.score(&PairBatch::new(rows, &all).both)?;
    let rejected = chosen.split_off(rows.len());
    let with = |((row, gold_chosen), gold_rejected): ((&PreferenceRow, f64), f64)| PreferenceRow {
        gold_chosen,
        gold_rejected,
        ..row.clone()
    };
    Ok(rows.iter().zip(chosen).zip(rejected).map(with).collect())
}

fn save_rows(rows: Vec<PreferenceRow>, to: &Path) -> Result<()> {
    let mut lines = String::new();
    for row in rows {
        lines += &serde_json::to_string(&row).expect("a row is plain data");
        lines.push('\n');
    }
    Ok(duel_ledger::write_atomically(&to.join(ROWS), lines.as_bytes())?)
}
