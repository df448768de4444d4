//! A run's merged tables of the metrics of its stages, and `tables.json`, which lists the stages they contain.
//!
//! A table is read only if every stage in it is in the run's plan. An experiment that was edited, interrupted and reported is
//! then read from its finished stages, never from the tables of its previous version.

use crate::error::{Error, Result};
use crate::files::{MAX_TEXT, hash_file, io, read_bounded, write_atomically};
use crate::manifest::{Manifest, PlannedStage};
use crate::stage::StageDir;
use crate::stage_id::StageId;
use crate::tables::merge_tables;
use duel_spec::FORMAT_VERSION;
use duel_spec::ids::hash_bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const TABLES: &str = "tables.json";
pub(crate) const METRICS: &str = "metrics.parquet";
pub(crate) const COMPLETIONS: &str = "completions.parquet";
pub(crate) const OUTCOMES: &str = "outcomes.parquet";
const TUNING: &str = "tuning.parquet";
/// The rounds of a search, which determine what is compared.
const ROUNDS: &str = "search.json";

/// A subset of a run's cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunSubset {
    /// The cells of the comparison.
    Comparison,
    /// The cells of the search for settings.
    Search,
}

impl RunSubset {
    fn name(self) -> &'static str {
        match self {
            Self::Comparison => "comparison",
            Self::Search => "search",
        }
    }

    /// The tables of a stage, and those of the run that they are merged into.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Comparison => &[(METRICS, METRICS), (COMPLETIONS, COMPLETIONS), (OUTCOMES, OUTCOMES)],
            Self::Search => &[(METRICS, TUNING)],
        }
    }

    /// Its stages: its cells, and the stages they share.
    fn stages(self, plan: &[PlannedStage]) -> Vec<&PlannedStage> {
        let is_in_subset = |stage: &&PlannedStage| stage.tuning.is_none_or(|tuning| tuning == (self == Self::Search));
        let cells = plan.iter().filter(|stage| stage.tuning.is_some()).filter(is_in_subset);
        let seeds: BTreeSet<u64> = cells.filter_map(|cell| cell.seed).collect();
        plan.iter().filter(is_in_subset).filter(|stage| stage.seed.is_none_or(|seed| seeds.contains(&seed))).collect()
    }
}

/// `tables.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct TablesManifest {
    format: u32,
    parts: BTreeMap<String, TableContents>,
}

/// The stages whose rows the tables of a subset contain.
#[derive(Debug, Serialize, Deserialize)]
struct TableContents {
    /// Hash of the experiment that was run.
    experiment: String,
    /// Folders of the stages, in order.
    stages: Vec<String>,
    /// Hash of each file.
    files: BTreeMap<String, String>,
}

impl TablesManifest {
    /// `None` where the run has none.
    fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join(TABLES);
        let bytes = match read_bounded(&path, MAX_TEXT) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("read", &path)(source)),
        };
        let tables: Self = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Damaged { path: path.clone(), problem: e.to_string() })?;
        if tables.format > FORMAT_VERSION {
            return Err(Error::Newer { path, found: tables.format, known: FORMAT_VERSION });
        }
        Ok(Some(tables))
    }

    fn write(&self, run: &Path) -> Result<()> {
        write_atomically(&run.join(TABLES), &serde_json::to_vec_pretty(self).expect("plain data"))
    }
}

/// A finished stage and the folder with its tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageTables {
    /// The name of the stage's folder.
    pub stage: String,
    /// Where `metrics.parquet` and the others are.
    pub path: PathBuf,
}

/// Merges the tables of a subset's finished stages, in the plan's order, and records their stages.
///
/// # Errors
/// A stage whose tables are damaged; a disk that cannot be written to.
pub fn merge(run: &Path, manifest: &Manifest, subset: RunSubset) -> Result<()> {
    let stages = finished_stages(run, &subset.stages(&manifest.plan), |stage, problem| match problem {
        None => Ok(()),
        Some(damage) => Err(Error::Damaged { path: run.join("stages").join(&stage.folder), problem: damage }),
    })?;
    let of_stage = |stage: &StageDir| StageTables { stage: name_of(stage.path()), path: stage.path().into() };
    merge_stages(run, manifest, subset, &stages.iter().map(of_stage).collect::<Vec<_>>())
}

/// As [`merge`], of these stages in this order, wherever their tables are.
///
/// # Errors
/// As those of [`merge`].
pub fn merge_stages(run: &Path, manifest: &Manifest, subset: RunSubset, stages: &[StageTables]) -> Result<()> {
    // 1. While a table is being changed it has no entry.
    let mut tables = TablesManifest::read(run).ok().flatten().unwrap_or_default();
    tables.format = FORMAT_VERSION;
    tables.parts.remove(subset.name());
    tables.write(run)?;

    // 2. The tables. One that no stage has is removed: it is from an earlier experiment.
    let mut files = BTreeMap::new();
    for (file, to) in subset.files() {
        let path = run.join(to);
        let paths: Vec<PathBuf> = stages.iter().map(|stage| stage.path.join(file)).filter(|p| p.is_file()).collect();
        match merge_tables(&paths, &path)? {
            Some(hash) => drop(files.insert(to.to_string(), hash)),
            None if path.exists() => std::fs::remove_file(&path).map_err(io("remove", &path))?,
            None => {}
        }
    }
    if subset == RunSubset::Comparison && run.join(ROUNDS).is_file() {
        files.insert(ROUNDS.into(), hash_file(&run.join(ROUNDS)).map_err(io("read", &run.join(ROUNDS)))?);
    }

    // 3. Their stages.
    let folders = stages.iter().map(|stage| stage.stage.clone()).collect();
    let experiment = hash_bytes(manifest.experiment.as_bytes());
    tables.parts.insert(subset.name().into(), TableContents { experiment, stages: folders, files });
    tables.write(run)
}

/// The files from which a subset of a run is read.
#[derive(Debug, Clone, Default)]
pub struct TableSource {
    pub metrics: Vec<PathBuf>,
    pub completions: Vec<PathBuf>,
    pub outcomes: Vec<PathBuf>,
    /// Number of planned cells.
    pub cells: usize,
    /// The cells that are not in the tables, and why.
    pub missing: Vec<(String, String)>,
    /// Whether these are the run's merged tables.
    pub are_merged: bool,
    /// Folders of the stages that are in them; empty for runs of older formats.
    pub stages: Vec<String>,
}

impl TableSource {
    /// The run's merged tables, if they match its plan and contain every finished stage; else the tables of its finished stages.
    ///
    /// # Errors
    /// A table that does not match its hash; tables of another experiment, where no stage of this one exists.
    pub fn of(run: &Path, manifest: &Manifest, subset: RunSubset) -> Result<Self> {
        if manifest.is_of_older_format() {
            return Self::of_older_format(run, manifest, subset);
        }
        let planned = subset.stages(&manifest.plan);
        let tables = TablesManifest::read(run)?;
        let merged = tables.as_ref().and_then(|tables| tables.parts.get(subset.name()));
        let is_of_plan = |merged: &&TableContents| {
            merged.stages.iter().all(|name| planned.iter().any(|stage| stage.folder == *name))
        };
        let stages = run.join("stages");
        let is_finished = |stage: &&&PlannedStage| stages.join(&stage.folder).join("done.json").is_file();
        let is_complete = |merged: &&TableContents| {
            planned.iter().filter(is_finished).all(|stage| merged.stages.contains(&stage.folder))
        };

        // 1. The merged tables.
        if let Some(merged) = merged.filter(is_of_plan).filter(is_complete) {
            let are_present = merged.files.keys().all(|name| run.join(name).is_file());
            let can_use_stages = merged.stages.iter().all(|name| stages.join(name).join("done.json").is_file());
            if are_present || !can_use_stages {
                check_hashes(run, merged)?;
                let missing = planned.iter().filter(|stage| !merged.stages.contains(&stage.folder));
                let missing = missing.filter(|stage| stage.tuning.is_some());
                let missing = missing.map(|stage| (stage.label.clone(), manifest.why_missing(&stage.label))).collect();
                let paths = |from: &str| {
                    let names = subset.files().iter().filter(|(file, _)| *file == from).map(|(_, to)| *to);
                    names.filter(|to| merged.files.contains_key(*to)).map(|to| run.join(to)).collect()
                };
                let (metrics, completions, outcomes) = (paths(METRICS), paths(COMPLETIONS), paths(OUTCOMES));
                let cells = planned.iter().filter(|stage| stage.tuning.is_some()).count();
                let stages = merged.stages.clone();
                return Ok(Self { metrics, completions, outcomes, cells, missing, are_merged: true, stages });
            }
        }

        // 2. The tables of the finished stages.
        let mut missing = vec![];
        let finished = finished_stages(run, &planned, |stage, damage| {
            if stage.tuning.is_some() {
                let damage = damage.map(|damage| format!("its stage is damaged: {damage}"));
                missing.push((stage.label.clone(), damage.unwrap_or_else(|| manifest.why_missing(&stage.label))));
            }
            Ok(())
        })?;
        let stray = subset.files().iter().map(|(_, to)| run.join(to)).find(|path| path.is_file());
        if let (true, Some(stray)) = (finished.is_empty() && !stages.is_dir(), stray) {
            let problem = match merged {
                Some(_) => {
                    format!(
                        "`{}` contains other stages than the run's, and the run has no stages of its own",
                        name_of(&stray)
                    )
                }
                None => format!("{TABLES} has no entry for `{}`", name_of(&stray)),
            };
            return Err(Error::Foreign { path: run.into(), problem });
        }
        Ok(Self {
            metrics: tables_named(&finished, METRICS),
            completions: tables_named(&finished, COMPLETIONS),
            outcomes: tables_named(&finished, OUTCOMES),
            cells: planned.iter().filter(|stage| stage.tuning.is_some()).count(),
            missing,
            are_merged: false,
            stages: finished.iter().map(|stage| name_of(stage.path())).collect(),
        })
    }

    /// The tables of a run before format 12, which has no `tables.json`. They are not used if the run was interrupted, since they
    /// may then be those of an earlier one.
    fn of_older_format(run: &Path, manifest: &Manifest, subset: RunSubset) -> Result<Self> {
        let existing = |file: &str| Some(run.join(file)).filter(|path| path.is_file());
        let paths = |from: &str| -> Vec<PathBuf> {
            subset.files().iter().filter(|(file, _)| *file == from).filter_map(|(_, to)| existing(to)).collect()
        };
        let metrics = paths(METRICS);
        let problem = match manifest.exit.as_str() {
            "complete" | "failed" if !metrics.is_empty() => {
                return Ok(Self {
                    metrics,
                    completions: paths(COMPLETIONS),
                    outcomes: paths(OUTCOMES),
                    ..Self::default()
                });
            }
            "complete" | "failed" => format!("there is no {}", subset.files()[0].1),
            exit => {
                format!("the run (format {}) is `{exit}`, so they may be those of an earlier run", manifest.format)
            }
        };
        Err(Error::Foreign { path: run.into(), problem })
    }
}

/// The finished stages with undamaged tables; `absent` is called for every other stage, with the damage if there is any.
fn finished_stages(
    run: &Path,
    planned: &[&PlannedStage],
    mut absent: impl FnMut(&PlannedStage, Option<String>) -> Result<()>,
) -> Result<Vec<StageDir>> {
    let mut finished = vec![];
    for stage in planned {
        let id =
            StageId::of_folder(&stage.folder).unwrap_or(StageId { kind: stage.folder.clone(), hash: String::new() });
        match StageDir::find_tables(&run.join("stages"), &id) {
            Ok(Some(stage)) => finished.push(stage),
            Ok(None) => absent(stage, None)?,
            Err(Error::Damaged { problem, .. }) => absent(stage, Some(problem))?,
            Err(other) => return Err(other),
        }
    }
    Ok(finished)
}

/// The table of this name of each stage that has it.
fn tables_named(stages: &[StageDir], file: &str) -> Vec<PathBuf> {
    stages.iter().map(|stage| stage.file(file)).filter(|path| path.is_file()).collect()
}

fn check_hashes(run: &Path, merged: &TableContents) -> Result<()> {
    for (name, hash) in &merged.files {
        let path = run.join(name);
        let problem = match hash_file(&path) {
            Ok(actual) if actual == *hash => continue,
            Ok(_) => format!("it does not match its hash in {TABLES}"),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => format!("it is listed in {TABLES} but missing"),
            Err(source) => return Err(io("read", &path)(source)),
        };
        return Err(Error::Damaged { path, problem });
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
