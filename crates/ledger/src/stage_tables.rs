//! A run's merged tables, split into those of its stages; and the comparison of a stage's results in two runs.

use crate::error::{Error, Result};
use crate::files::{create_folder, write_volatile};
use crate::manifest::{Manifest, PlannedStage};
use crate::merged::{COMPLETIONS, METRICS, OUTCOMES, TableSource};
use crate::stage::StageDir;
use crate::stage_id::StageId;
use crate::tables::{SCAN_ROWS, SharedMetricRow, corrupt, open, read_completions, read_metrics, read_outcomes};
use duel_spec::{Experiment, SHARED_ARM, metrics};
use duel_tables::TableWriter;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::path::{Path, PathBuf};

/// Differences that a comparison lists.
pub const MAX_DIFFERENCES: usize = 6;
/// Stages whose rows of single steps may have been thinned out (`scripts/dev/keep-results --thin`).
const STEP_BY_STEP: [&str; 4] = ["train", "rm", "sft", "base"];
/// The stage with the rows of arms that are not trained.
const YARDSTICK: &str = "yardstick";

/// The folder of the stage that a row is from, by what the row says of itself.
struct RowStages {
    /// By arm, point and seed.
    cells: HashMap<(String, String, u64), String>,
    /// By kind and seed; `None` for all seeds.
    shared: HashMap<(String, Option<u64>), String>,
}

impl RowStages {
    fn new(manifest: &Manifest, experiment: &Experiment) -> Self {
        let cells = experiment.cells_for(&experiment.trials()).into_iter();
        let cells = cells.filter_map(|cell| {
            let folder = manifest.stages.get(&cell.label())?.clone();
            Some(((cell.arm, cell.point.label, cell.seed), folder))
        });
        let is_shared = |stage: &&PlannedStage| stage.tuning.is_none();
        let shared =
            manifest.plan.iter().filter(is_shared).filter_map(|stage| {
                Some(((StageId::of_folder(&stage.folder)?.kind, stage.seed), stage.folder.clone()))
            });
        Self { cells: cells.collect(), shared: shared.collect() }
    }

    /// `stage` is that of a row of metrics.
    fn of(&self, arm: &str, point: &str, seed: u64, stage: Option<&str>) -> Option<&String> {
        if let Some(folder) = self.cells.get(&(arm.into(), point.into(), seed)) {
            return Some(folder);
        }
        let kind = match stage {
            Some(stage) if arm == SHARED_ARM => stage.split('-').next()?, // `rm-calibration` is of `rm`
            _ => YARDSTICK,
        };
        [None, Some(seed)].iter().find_map(|seed| self.shared.get(&(kind.into(), *seed)))
    }
}

/// Writes the rows that each stage has in the run's merged tables into `to`/`<stage>`.
///
/// # Errors
/// A row of no planned stage, or rows of a stage that are not together.
pub fn split_tables(source: &TableSource, manifest: &Manifest, experiment: &Experiment, to: &Path) -> Result<()> {
    let stages = RowStages::new(manifest, experiment);
    for (paths, name) in [(&source.metrics, METRICS), (&source.completions, COMPLETIONS), (&source.outcomes, OUTCOMES)]
    {
        for path in paths {
            split_table(path, &stages, name, to)?;
        }
    }
    Ok(())
}

fn split_table(path: &Path, stages: &RowStages, name: &str, to: &Path) -> Result<()> {
    let mut reader = open(path)?;
    let mut current: Option<(String, TableWriter)> = None;
    let finish = |(stage, writer): (String, TableWriter)| -> Result<()> {
        let folder = to.join(&stage);
        create_folder(&folder)?;
        let target = folder.join(name);
        if target.exists() {
            let problem = format!("the rows of stage {stage} are not together");
            return Err(Error::Table { action: "read", path: path.into(), problem });
        }
        write_volatile(&target, &writer.finish().map_err(corrupt("written", &target))?)
    };
    while let Some(piece) = reader.read(SCAN_ROWS).map_err(corrupt("read", path))? {
        let columns = || -> duel_tables::Result<_> {
            Ok((piece.text("arm")?, piece.text("point")?, piece.u64("seed")?, piece.text("stage").ok()))
        };
        let (arms, points, seeds, row_stages) = columns().map_err(corrupt("read", path))?;
        let key = |row: usize| (&arms[row], &points[row], seeds[row], row_stages.map(|all| &all[row]));
        let mut begin = 0;
        for row in 0..piece.rows() {
            if row + 1 < piece.rows() && key(row) == key(row + 1) {
                continue;
            }
            let (arm, point, seed, stage) = key(row);
            let Some(folder) = stages.of(arm, point, seed, stage.map(|stage| &**stage)) else {
                let problem = format!("it has rows of {arm} {point}, seed {seed}, which the run did not plan");
                return Err(Error::Table { action: "read", path: path.into(), problem });
            };
            if current.as_ref().is_none_or(|(of, _)| of != folder) {
                current.take().map_or(Ok(()), finish)?;
                current = Some((folder.clone(), TableWriter::default()));
            }
            let (_, writer) = current.as_mut().expect("there is one now");
            writer.write(piece.slice(begin..row + 1)).map_err(corrupt("read", path))?;
            begin = row + 1;
        }
    }
    current.map_or(Ok(()), finish)
}

/// How the results of one stage differ in two folders, at most [`MAX_DIFFERENCES`] lines: numbers by their keys, other files by their
/// hashes. Times and memory are not compared, nor rows of single steps that only one of the two has.
///
/// # Errors
/// A table that cannot be read.
pub fn stage_differences(here: &Path, there: &Path) -> Result<Vec<String>> {
    let mut differences = differences_of_metrics(here, there)?;
    differences.extend(differences_of_rows(here, there, COMPLETIONS, |path| {
        let row = |r: duel_spec::Completion| (format!("{:?}", (&r.arm, &r.point, r.step, &r.split, &r.prompt)), r);
        Ok(read_completions(path)?.into_iter().map(row).collect())
    })?);
    differences.extend(differences_of_rows(here, there, OUTCOMES, |path| {
        let policies = read_outcomes(path)?.into_iter();
        let rows = policies.flat_map(|policy| {
            let name = format!("{} {}", policy.arm, policy.point);
            policy.all.into_iter().map(move |outcome| (format!("{name}, prompt {}", outcome.prompt), outcome))
        });
        Ok(rows.collect())
    })?);
    let hashes = |path: &Path| StageDir::at(path).file_hashes().ok();
    if let (Some(here), Some(there)) = (hashes(here), hashes(there)) {
        let is_table = |name: &str| [METRICS, COMPLETIONS, OUTCOMES].contains(&name);
        let names: BTreeSet<&String> = here.keys().chain(there.keys()).filter(|name| !is_table(name)).collect();
        let hash = |of: &BTreeMap<String, String>, name| {
            of.get(name).map_or("none".into(), |hash: &String| hash[..12].to_string())
        };
        let differing = names.into_iter().filter(|name| here.get(*name) != there.get(*name));
        differences
            .extend(differing.map(|name| format!("`{name}`: hash {} and {}", hash(&here, name), hash(&there, name))));
    }
    differences.truncate(MAX_DIFFERENCES);
    Ok(differences)
}

/// Arm, point, stage, metric and step of a row, and its number among those with the same.
type RowKey = ((String, String, String, String, u64), usize);

fn differences_of_metrics(here: &Path, there: &Path) -> Result<Vec<String>> {
    let read = |folder: &Path| -> Result<BTreeMap<RowKey, SharedMetricRow>> {
        let (mut rows, mut counts) = (BTreeMap::new(), HashMap::<_, usize>::new());
        let is_compared = |row: &SharedMetricRow| !metrics::find(&row.metric).is_some_and(|m| m.is_machine_dependent());
        for row in read_metrics(&folder.join(METRICS))?.rows.into_iter().filter(is_compared) {
            let [arm, point, stage, metric] = [&row.arm, &row.point, &row.stage, &row.metric].map(ToString::to_string);
            let name = (arm, point, stage, metric, row.clocks.step);
            let number = counts.entry(name.clone()).or_default();
            rows.insert((name, *number), row);
            *number += 1;
        }
        Ok(rows)
    };
    let (here, there) = (read(here)?, read(there)?);
    let numbers = |row: &SharedMetricRow| {
        let bits = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
        (bits(row.value), row.clocks.tokens, bits(row.clocks.flops))
    };
    let keys: BTreeSet<&RowKey> = here.keys().chain(there.keys()).collect();
    let differing = keys.into_iter().filter_map(|key| {
        let ((arm, point, stage, metric, step), _) = key;
        let name = format!("{metric} of {arm} {point}, {stage}, step {step}");
        match (here.get(key), there.get(key)) {
            (Some(a), Some(b)) if numbers(a) == numbers(b) => None,
            (Some(a), Some(b)) if a.value.to_bits() == b.value.to_bits() => Some(format!(
                "clocks of {name}: {} tokens, {} FLOPs and {} tokens, {} FLOPs",
                a.clocks.tokens, a.clocks.flops, b.clocks.tokens, b.clocks.flops
            )),
            (Some(a), Some(b)) => Some(format!("{name}: {} and {}", a.value, b.value)),
            _ if STEP_BY_STEP.contains(&stage.as_str()) => None,
            (a, _) => Some(format!("{name}: only the {} has it", if a.is_some() { "first" } else { "second" })),
        }
    });
    Ok(differing.take(MAX_DIFFERENCES).collect())
}

/// Rows of the same table one by one, by their names.
fn differences_of_rows<R: Debug + PartialEq>(
    here: &Path,
    there: &Path,
    file: &str,
    read: impl Fn(&Path) -> Result<Vec<(String, R)>>,
) -> Result<Vec<String>> {
    let rows = |folder: &Path| -> Result<Vec<(String, R)>> {
        let path: PathBuf = folder.join(file);
        if path.is_file() { read(&path) } else { Ok(vec![]) }
    };
    let (here, there) = (rows(here)?, rows(there)?);
    if here.len() != there.len() {
        return Ok(vec![format!("`{file}`: {} rows and {}", here.len(), there.len())]);
    }
    // as text, so that NaN is equal to itself
    let differs = |((_, a), (_, b)): &(&(String, R), &(String, R))| a != b && format!("{a:?}") != format!("{b:?}");
    let line = |((name, a), (_, b)): (&(String, R), &(String, R))| format!("{name}: {a:?} and {b:?}");
    Ok(here.iter().zip(&there).filter(differs).map(line).take(MAX_DIFFERENCES).collect())
}
