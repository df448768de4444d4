//! The stage `pairs`: preference rows.

use super::context::{StageContext, check_unpaired, count_unpaired};
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
    if let Some(rows @ [_, ..]) = loaded.rows.as_ref().map(|world| world.rows()) {
        check_unpaired(context.experiment, count_unpaired(rows))?;
        return save_rows(judge_rows(rows, gold.as_ref())?, to);
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

#[cfg(test)]
mod tests {
    use super::super::testing::PlannedRun;
    use super::*;
    use crate::plan::StageKind;
    use duel_model::Responses;

    /// A judge that adds up ids: a hundred times those of the prompt, and those of the response.
    struct SumOfIds;

    impl Scorer for SumOfIds {
        fn score(&self, batch: &Responses) -> duel_reward::Result<Vec<f64>> {
            let sum = |ids: &[u32]| f64::from(ids.iter().sum::<u32>());
            let rows = batch.prompts.iter().zip(&batch.responses);
            Ok(rows.map(|(prompt, response)| 100.0 * sum(prompt) + sum(response)).collect())
        }
    }

    #[test]
    fn rows_of_ones_own_have_the_scores_of_both_sides() -> Result<()> {
        let row = |i: u32| PreferenceRow {
            rejected_prompt: (i == 2).then(|| vec![9]),
            ..PreferenceRow::new(Split::Train, vec![i], vec![10 * i, 2], vec![20 * i, 2])
        };
        let rows = [row(1), row(2), row(3)];
        let judged = judge_rows(&rows, &SumOfIds)?;
        let scores: Vec<[f64; 2]> = judged.iter().map(|row| [row.gold_chosen, row.gold_rejected]).collect();
        assert_eq!(scores, [[112.0, 122.0], [222.0, 942.0], [332.0, 362.0]]);
        let as_before = |row: &PreferenceRow| PreferenceRow { gold_chosen: 0.0, gold_rejected: 0.0, ..row.clone() };
        assert_eq!(judged.iter().map(as_before).collect::<Vec<_>>(), rows);
        Ok(())
    }

    /// Of the test rows alone: the mean of the larger label probability, and the temperature.
    #[test]
    fn the_best_possible_accuracy_is_that_of_test_rows() -> Result<()> {
        let run = PlannedRun::new(
            "[model]\nlayers = 1\nwidth = 8\nheads = 2\n[stages.sft]\nsteps = 1\nbatch_size = 8\n\
             [stages.pairs]\nrows = 8\nholdout_rows = 6\ntemperature = \"fixed\"\ntau = 0.75\n[arms.a]\nmethod = \"dpo\"\n",
        );
        run.make(StageKind::Sft)?;
        let table = duel_ledger::read_metrics(&run.make(StageKind::Pairs)?.file("metrics.parquet"))?;
        let of = |metric: metrics::Metric| table.of("pairs", metric.name).map(|row| row.value).collect::<Vec<f64>>();
        let rows = run.context(run.stage(StageKind::Rm)).rows()?;
        let larger = rows.iter().filter(|row| row.split == Split::Test).map(|row| row.p_label.max(1.0 - row.p_label));
        assert_eq!(of(metrics::TAU), [0.75]);
        assert!(
            matches!(of(metrics::BAYES_ACCURACY)[..], [actual] if (actual - larger.sum::<f64>() / 6.0).abs() < 1e-12)
        );
        Ok(())
    }
}
