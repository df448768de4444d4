//! A run's tables: what its stages measured, merged; and `tables.json` beside them, which says what they are of.
//!
//! A table is read only where every stage in it is of the run's plan. An experiment that was edited, cut off and reported is
//! then told from its finished stages, never from the tables of the one before.

use crate::files::{MOST_TEXT, hash_file, io, read_bounded, write_atomically};
use crate::manifest::PlannedStage;
use crate::tables::merge_tables;
use crate::{Error, Manifest, Result, StageDir, StageId};
use duel_spec::FORMAT_VERSION;
use duel_spec::ids::hash_bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const NOTE: &str = "tables.json";
const METRICS: &str = "metrics.parquet";
const COMPLETIONS: &str = "completions.parquet";
const OUTCOMES: &str = "outcomes.parquet";
const TUNING: &str = "tuning.parquet";
/// The rounds of a search, which say what is compared.
const ROUNDS: &str = "search.json";

/// Which cells of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunSubset {
    /// What the arms are compared on.
    Comparison,
    /// What was tried for a choice before.
    Search,
}

impl RunSubset {
    fn name(self) -> &'static str {
        match self {
            Self::Comparison => "comparison",
            Self::Search => "search",
        }
    }

    /// Tables of a stage, and those of the run that they are merged into.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Comparison => &[(METRICS, METRICS), (COMPLETIONS, COMPLETIONS), (OUTCOMES, OUTCOMES)],
            Self::Search => &[(METRICS, TUNING)],
        }
    }

    /// Its stages: its cells, and what they share.
    fn of(self, plan: &[PlannedStage]) -> Vec<&PlannedStage> {
        let is_its = |stage: &&PlannedStage| stage.tuning.is_none_or(|tuning| tuning == (self == Self::Search));
        let cells = plan.iter().filter(|stage| stage.tuning.is_some()).filter(is_its);
        let seeds: BTreeSet<u64> = cells.filter_map(|cell| cell.seed).collect();
        plan.iter().filter(is_its).filter(|stage| stage.seed.is_none_or(|seed| seeds.contains(&seed))).collect()
    }
}

/// `tables.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
struct TablesManifest {
    format: u32,
    parts: BTreeMap<String, TableContents>,
}

/// What the tables of a part are of.
#[derive(Debug, Serialize, Deserialize)]
struct TableContents {
    /// Hash of the experiment as it was run.
    experiment: String,
    /// Folders of the stages whose rows they hold, in order.
    stages: Vec<String>,
    /// Hash of each file.
    files: BTreeMap<String, String>,
}

impl TablesManifest {
    /// `None` where the run has none.
    fn read(run: &Path) -> Result<Option<Self>> {
        let path = run.join(NOTE);
        let bytes = match read_bounded(&path, MOST_TEXT) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io("read", &path)(source)),
        };
        let note: Self = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Damaged { path: path.clone(), problem: e.to_string() })?;
        if note.format > FORMAT_VERSION {
            return Err(Error::Newer { path, found: note.format, known: FORMAT_VERSION });
        }
        Ok(Some(note))
    }

    fn write(&self, run: &Path) -> Result<()> {
        write_atomically(&run.join(NOTE), &serde_json::to_vec_pretty(self).expect("plain data"))
    }
}

/// Joins what the finished stages of a part measured, in the plan's order, and notes what the tables are of.
///
/// # Errors
/// A stage whose tables are damaged; a disk that takes nothing.
pub fn merge(run: &Path, manifest: &Manifest, part: RunSubset) -> Result<()> {
    // 1. A table that is being changed is of nothing.
    let mut note = TablesManifest::read(run).ok().flatten().unwrap_or_default();
    note.format = FORMAT_VERSION;
    note.parts.remove(part.name());
    note.write(run)?;

    // 2. The tables. One that no stage has is not left from an earlier experiment.
    let stages = finished_stages(run, &part.of(&manifest.plan), |stage, problem| match problem {
        None => Ok(()),
        Some(damage) => Err(Error::Damaged { path: run.join("stages").join(&stage.folder), problem: damage }),
    })?;
    let mut files = BTreeMap::new();
    for (file, to) in part.files() {
        let path = run.join(to);
        match merge_tables(&tables_named(&stages, file), &path)? {
            Some(hash) => drop(files.insert(to.to_string(), hash)),
            None if path.exists() => std::fs::remove_file(&path).map_err(io("remove", &path))?,
            None => {}
        }
    }
    if part == RunSubset::Comparison && run.join(ROUNDS).is_file() {
        files.insert(ROUNDS.into(), hash_file(&run.join(ROUNDS)).map_err(io("read", &run.join(ROUNDS)))?);
    }

    // 3. What they are of.
    let folders = stages.iter().map(|stage| name_of(stage.path())).collect();
    let experiment = hash_bytes(manifest.experiment.as_bytes());
    note.parts.insert(part.name().into(), TableContents { experiment, stages: folders, files });
    note.write(run)
}

/// Where the numbers of a part of a run are read from.
#[derive(Debug, Clone, Default)]
pub struct TableSource {
    pub metrics: Vec<PathBuf>,
    pub completions: Vec<PathBuf>,
    pub outcomes: Vec<PathBuf>,
    /// Cells that the part has in all.
    pub cells: usize,
    /// Those that are not in the tables, and why.
    pub missing: Vec<(String, String)>,
    /// Whether these are the run's merged tables.
    pub are_merged: bool,
}

impl TableSource {
    /// The run's merged tables, where they are of its plan and hold all that is finished; else the tables of its finished
    /// stages.
    ///
    /// # Errors
    /// A table without its hash; tables of another experiment, where there is no stage of this one.
    pub fn of(run: &Path, manifest: &Manifest, part: RunSubset) -> Result<Self> {
        if manifest.is_of_older_format() {
            return Self::of_older_format(run, manifest, part);
        }
        let wanted = part.of(&manifest.plan);
        let note = TablesManifest::read(run)?;
        let merged = note.as_ref().and_then(|note| note.parts.get(part.name()));
        let is_of_plan =
            |merged: &&TableContents| merged.stages.iter().all(|name| wanted.iter().any(|w| w.folder == *name));
        let stages = run.join("stages");
        let is_finished = |stage: &&&PlannedStage| stages.join(&stage.folder).join("done.json").is_file();
        let holds_all =
            |merged: &&TableContents| wanted.iter().filter(is_finished).all(|w| merged.stages.contains(&w.folder));

        // 1. What is merged.
        if let Some(merged) = merged.filter(is_of_plan).filter(holds_all) {
            let is_there = merged.files.keys().all(|name| run.join(name).is_file());
            let can_do_without = merged.stages.iter().all(|name| stages.join(name).join("done.json").is_file());
            if is_there || !can_do_without {
                check_hashes(run, merged)?;
                let missing = wanted.iter().filter(|stage| !merged.stages.contains(&stage.folder));
                let missing = missing.filter(|stage| stage.tuning.is_some());
                let missing = missing.map(|stage| (stage.label.clone(), manifest.why_missing(&stage.label))).collect();
                let of = |from: &str| {
                    let its = part.files().iter().filter(|(file, _)| *file == from).map(|(_, to)| *to);
                    its.filter(|to| merged.files.contains_key(*to)).map(|to| run.join(to)).collect()
                };
                let (metrics, completions, outcomes) = (of(METRICS), of(COMPLETIONS), of(OUTCOMES));
                let cells = wanted.iter().filter(|stage| stage.tuning.is_some()).count();
                return Ok(Self { metrics, completions, outcomes, cells, missing, are_merged: true });
            }
        }

        // 2. What is finished.
        let mut missing = vec![];
        let found = finished_stages(run, &wanted, |stage, damage| {
            if stage.tuning.is_some() {
                let damage = damage.map(|damage| format!("its stage is damaged: {damage}"));
                missing.push((stage.label.clone(), damage.unwrap_or_else(|| manifest.why_missing(&stage.label))));
            }
            Ok(())
        })?;
        let stray = part.files().iter().map(|(_, to)| run.join(to)).find(|path| path.is_file());
        if let (true, Some(stray)) = (found.is_empty() && !stages.is_dir(), stray) {
            let problem = match merged {
                Some(_) => {
                    format!("`{}` is of other stages than the run's, and none of its own is there", name_of(&stray))
                }
                None => format!("`{}` has no {NOTE} beside it that would say what it is of", name_of(&stray)),
            };
            return Err(Error::Foreign { path: run.into(), problem });
        }
        Ok(Self {
            metrics: tables_named(&found, METRICS),
            completions: tables_named(&found, COMPLETIONS),
            outcomes: tables_named(&found, OUTCOMES),
            cells: wanted.iter().filter(|stage| stage.tuning.is_some()).count(),
            missing,
            are_merged: false,
        })
    }

    /// Of a run that was written before tables said what they are of: they are taken as they are, unless the run was cut off,
    /// which may have left those of an earlier one.
    fn of_older_format(run: &Path, manifest: &Manifest, part: RunSubset) -> Result<Self> {
        let there = |file: &str| Some(run.join(file)).filter(|path| path.is_file());
        let of = |from: &str| -> Vec<PathBuf> {
            part.files().iter().filter(|(file, _)| *file == from).filter_map(|(_, to)| there(to)).collect()
        };
        let metrics = of(METRICS);
        let problem = match manifest.exit.as_str() {
            "complete" | "failed" if !metrics.is_empty() => {
                return Ok(Self { metrics, completions: of(COMPLETIONS), outcomes: of(OUTCOMES), ..Self::default() });
            }
            "complete" | "failed" => format!("there is no {}", part.files()[0].1),
            exit => {
                format!("the run, of format {}, is `{exit}`, so that they may be of one before it", manifest.format)
            }
        };
        Err(Error::Foreign { path: run.into(), problem })
    }
}

/// The stages of a plan that are finished, with sound tables; `absent` is told of every other, and what is damaged in it.
fn finished_stages(
    run: &Path,
    wanted: &[&PlannedStage],
    mut absent: impl FnMut(&PlannedStage, Option<String>) -> Result<()>,
) -> Result<Vec<StageDir>> {
    let mut found = vec![];
    for stage in wanted {
        let id =
            StageId::of_folder(&stage.folder).unwrap_or(StageId { kind: stage.folder.clone(), hash: String::new() });
        match StageDir::find_tables(&run.join("stages"), &id) {
            Ok(Some(there)) => found.push(there),
            Ok(None) => absent(stage, None)?,
            Err(Error::Damaged { problem, .. }) => absent(stage, Some(problem))?,
            Err(other) => return Err(other),
        }
    }
    Ok(found)
}

/// A table of each stage that has it.
fn tables_named(stages: &[StageDir], file: &str) -> Vec<PathBuf> {
    stages.iter().map(|stage| stage.file(file)).filter(|path| path.is_file()).collect()
}

fn check_hashes(run: &Path, merged: &TableContents) -> Result<()> {
    for (name, hash) in &merged.files {
        let path = run.join(name);
        let problem = match hash_file(&path) {
            Ok(found) if found == *hash => continue,
            Ok(_) => format!("it does not have the hash that {NOTE} gives"),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => format!("{NOTE} names it, and it is not there"),
            Err(source) => return Err(io("read", &path)(source)),
        };
        return Err(Error::Damaged { path, problem });
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
