//! A run that is to be merged: what it is, and the stages whose results can be read from it.

use crate::error::{Error, Result};
use duel_ledger::{Manifest, RunPart, RunSubset, StageDir, StageId, TableSource};
use duel_spec::{Document, Experiment, FORMAT_VERSION};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A run directory, or the files of it that were committed.
#[derive(Debug)]
pub struct MergeInput {
    pub path: PathBuf,
    pub manifest: Manifest,
    pub experiment: Experiment,
    pub document: Document,
    /// Its tables, and the finished stages that are in them.
    pub tables: TableSource,
    /// The stages whose folders are there, by name.
    pub folders: BTreeMap<String, StageDir>,
}

impl MergeInput {
    /// Reads what a run is.
    ///
    /// # Errors
    /// No run, a damaged file, a run of another format or with a search, or one without a finished stage.
    pub fn read(path: &Path) -> Result<Self> {
        let unmergeable = |problem: String, hint| Err(Error::Unmergeable { path: path.into(), problem, hint });
        let manifest = Manifest::read(path)?;
        if manifest.format > FORMAT_VERSION {
            let path = path.join("manifest.json");
            return Err(duel_ledger::Error::Newer { path, found: manifest.format, known: FORMAT_VERSION }.into());
        }
        if manifest.is_of_older_format() || manifest.format < FORMAT_VERSION {
            let problem = format!("it has format {}, and runs of format {FORMAT_VERSION} are merged", manifest.format);
            return unmergeable(problem, "run the experiment again with this version");
        }
        let (experiment, document) = Experiment::load(&path.join("experiment.toml"), &[])?;
        manifest.check_experiment(path, &document)?;
        if experiment.is_tuned() {
            let problem = "it searches for settings (`tuning.configurations`), which is not supported";
            return unmergeable(
                problem.into(),
                "compare the settings that it chose in an experiment of its own; runs of that can be merged",
            );
        }
        let tables = TableSource::of(path, &manifest, RunSubset::Comparison)?;
        if tables.stages.is_empty() {
            let hint = "`duel run` with its experiment continues it; merge it when a stage is finished";
            return unmergeable("none of its stages is finished".into(), hint);
        }
        let mut folders = BTreeMap::new();
        for name in &tables.stages {
            let id = StageId::of_folder(name).unwrap_or(StageId { kind: name.clone(), hash: String::new() });
            if let Some(stage) = StageDir::find(&path.join("stages"), &id)? {
                folders.insert(name.clone(), stage);
            }
        }
        Ok(Self { path: path.into(), manifest, experiment, document, tables, folders })
    }

    /// The runs that it consists of: itself, or those that it was merged from.
    pub fn parts(&self) -> Vec<RunPart> {
        if self.manifest.is_merged() {
            return self.manifest.parts.clone();
        }
        let finished: BTreeSet<String> = self.tables.stages.iter().cloned().collect();
        vec![RunPart { manifest: self.manifest.clone(), used: finished.clone(), finished }]
    }

    /// Whether the results of some stage are in its tables alone.
    pub fn has_stages_without_folder(&self) -> bool {
        self.folders.len() < self.tables.stages.len()
    }
}
