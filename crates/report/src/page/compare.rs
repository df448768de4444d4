//! Several runs on one page: their frontiers, what they reach at equal KL, what they cost, what they claim, and how they differ.

use crate::analysis::costs::{ArmCost, arm_costs};
use crate::analysis::frontier::{gain_at, matched_kls};
use crate::analysis::run::Run;
use crate::analysis::stats::Estimate;
use crate::analysis::tuning::TuningResults;
use crate::analysis::{calibration, sensitivity, verdict};
use crate::charts::figure::Figure;
use crate::charts::output::AnyChart;
use crate::charts::over_kl::{arms, frontiers};
use crate::error::{Error, Result};
use crate::format::{fixed, seconds, si};
use crate::page::rendering::render;
use crate::page::report::ReportSummary;
use crate::page::template::fill_template;
use crate::page::text_table::TextTable;
use minijinja::context;
use minijinja::value::Serde;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Writes a page that compares runs, its charts beside it.
///
/// # Errors
/// Runs whose parquet files are missing or damaged; a folder that cannot be written.
pub fn compare(folders: &[PathBuf], to: &Path) -> Result<ReportSummary> {
    let mut runs: Vec<Run> = folders.iter().map(|folder| Run::read(folder)).collect::<Result<_>>()?;
    // runs with the same name are shown by their folders
    let names: Vec<String> = runs.iter().map(|run| run.experiment.name.clone()).collect();
    for run in &mut runs {
        if names.iter().filter(|name| **name == run.experiment.name).count() > 1 {
            run.experiment.name = run.folder.display().to_string();
        }
    }
    let (mut notes, mut warnings, mut verdicts) = (vec![], vec![], vec![]);
    for run in &runs {
        let tuning = TuningResults::for_run(run)?;
        let name = &run.experiment.name;
        notes.extend(run.notes().into_iter().map(|note| format!("{name}: {note}")));
        warnings.extend(sensitivity::edges(run, &tuning).into_iter().map(|edge| format!("{name}: {edge}")));
        let missing = verdict::missing_lines(&run.missing());
        warnings.extend(missing.into_iter().map(|cells| format!("{name}: {cells}")));
        warnings.extend(calibration::at_chance(run).into_iter().map(|weak| format!("{name}: {weak}")));
        verdicts.extend(verdict::judge(run, &tuning).into_iter().map(|verdict| (name.clone(), verdict)));
    }
    let charts = to.join("charts");
    std::fs::create_dir_all(&charts).map_err(|source| Error::Write { path: charts.clone(), source })?;
    let chart = Figure {
        name: "frontiers".into(),
        group: "frontier",
        alt: "Gold reward over KL from the reference for every arm of every run".into(),
        chart: AnyChart::Plot(frontiers(&runs)),
    };
    let filled = fill_template(
        "compare.html",
        context! {
            names => runs.iter().map(|run| run.experiment.name.clone()).collect::<Vec<_>>(),
            questions => runs.iter().map(|run| run.experiment.question.clone()).collect::<Vec<_>>(),
            chart => Serde(render(chart, &charts)?),
            reached => Serde(reached(&runs)),
            costs => Serde(costs(&runs)),
            settings => Serde(settings(&runs)),
            verdicts => Serde(verdicts),
            notes => notes.clone(),
        },
    )?;
    let page = to.join("index.html");
    duel_ledger::write_atomically(&page, filled.as_bytes())?;
    notes.extend(warnings);
    Ok(ReportSummary { page, finding: None, warnings: notes })
}

/// What every arm gains at each preset KL, over the seeds that reach it.
fn reached(runs: &[Run]) -> TextTable {
    let arms = arms(runs);
    let head = std::iter::once("KL".to_string()).chain(arms.iter().map(|(.., name)| name.clone())).collect();
    let row = |&kl: &f64| {
        let cell = |(run, arm, _): &(&Run, &str, String)| {
            let all = run.experiment.seed_list().into_iter().filter_map(|seed| gain_at(run, arm, seed, kl));
            let gains: Vec<f64> = all.map(|(gain, share)| share.unwrap_or(gain)).collect();
            Estimate::of(&gains).map_or("–".into(), |e| format!("{e:.3} ({})", e.n))
        };
        std::iter::once(kl.to_string()).chain(arms.iter().map(cell)).collect()
    };
    TextTable { name: "reached", head, rows: matched_kls(&runs[0]).iter().map(row).collect() }
}

fn costs(runs: &[Run]) -> TextTable {
    let head = ["run", "arm", "models in memory", "tokens sampled", "FLOPs", "seconds"].map(String::from).to_vec();
    let rows_of = |run: &Run| -> Vec<Vec<String>> {
        let row = |c: ArmCost| {
            vec![run.name().into(), c.arm, fixed(c.models, 0), si(c.sampled), si(c.flops), seconds(c.seconds)]
        };
        arm_costs(run).into_iter().map(row).collect()
    };
    TextTable { name: "costs", head, rows: runs.iter().flat_map(rows_of).collect() }
}

/// The settings in which the experiments differ.
fn settings(runs: &[Run]) -> TextTable {
    let all: Vec<Vec<(String, String)>> = runs.iter().map(Run::settings).collect();
    let keys: BTreeSet<&String> = all.iter().flatten().map(|(key, _)| key).collect();
    let row = |key: &&String| {
        let value_in = |settings: &Vec<(String, String)>| {
            settings.iter().find(|(other, _)| other == *key).map_or("–".to_string(), |(_, value)| value.clone())
        };
        let values: Vec<String> = all.iter().map(value_in).collect();
        values.iter().any(|v| *v != values[0]).then(|| std::iter::once((*key).clone()).chain(values).collect())
    };
    let head = std::iter::once("setting".to_string()).chain(runs.iter().map(|run| run.name().to_string())).collect();
    let hidden = |key: &&&String| !key.starts_with("claims") && !matches!(key.as_str(), "name" | "question");
    TextTable { name: "settings", head, rows: keys.iter().filter(hidden).filter_map(row).collect() }
}
