//! Writes a merged run: the results of every finished stage, from the part that has them.

use crate::error::{Error, Result};
use crate::merge::input::MergeInput;
use duel_ledger::{
    Manifest, RunSubset, StageId, StageTables, merge_stages, split_tables, stage_differences, write_atomically,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The results of a stage in one of the runs.
#[derive(Debug, Clone)]
struct StageCopy {
    input: usize,
    part: usize,
    tables: PathBuf,
}

/// Writes the run into the new folder `to`, and temporary tables into `scratch`. `places`: the index of each part of each run.
///
/// # Errors
/// [`Error::UnequalStage`] where two runs have different results of one stage; a file that cannot be read or written.
pub fn assemble(
    to: &Path,
    scratch: &Path,
    inputs: &[MergeInput],
    manifest: &mut Manifest,
    places: &[Vec<usize>],
) -> Result<()> {
    let copies = copies(scratch, inputs, places)?;
    check_equal(inputs, manifest, &copies)?;
    check_ended_alike(inputs, manifest)?;

    // 1. Whatever is finished, in the plan's order.
    let (folders, mut stages) = (to.join("stages"), vec![]);
    for stage in manifest.plan.iter().map(|stage| stage.folder.clone()).collect::<Vec<_>>() {
        let Some(of_stage) = copies.get(&stage) else { continue };
        let is_chosen = |copy: &&StageCopy| manifest.parts[copy.part].used.contains(&stage);
        let has_folder = |copy: &&StageCopy| inputs[copy.input].folders.contains_key(&stage);
        let chosen = of_stage.iter().filter(is_chosen).find(has_folder);
        let chosen = chosen.or(of_stage.iter().find(is_chosen)).unwrap_or(&of_stage[0]);
        manifest.parts.iter_mut().for_each(|part| part.used.retain(|other| *other != stage));
        manifest.parts[chosen.part].used.insert(stage.clone());
        if let (Some(folder), Some(id)) = (inputs[chosen.input].folders.get(&stage), StageId::of_folder(&stage)) {
            let io = |source| Error::Io { action: "create", path: folders.clone(), source };
            std::fs::create_dir_all(&folders).map_err(io)?;
            folder.adopt(&folders, &id)?;
        }
        stages.push(StageTables { stage, path: chosen.tables.clone() });
    }

    // 2. Tables, experiment, and last the manifest.
    merge_stages(to, manifest, RunSubset::Comparison, &stages)?;
    write_atomically(&to.join("experiment.toml"), manifest.experiment.as_bytes())?;
    duel_ledger::write_events(to, manifest.started)?;
    Ok(manifest.write(to)?)
}

/// Every copy of every finished stage, by the stage's folder.
fn copies(scratch: &Path, inputs: &[MergeInput], places: &[Vec<usize>]) -> Result<BTreeMap<String, Vec<StageCopy>>> {
    let mut copies: BTreeMap<String, Vec<StageCopy>> = BTreeMap::new();
    for (index, input) in inputs.iter().enumerate() {
        let split = scratch.join(index.to_string());
        if input.has_stages_without_folder() {
            split_tables(&input.tables, &input.manifest, &input.experiment, &split)?;
        }
        let parts = input.parts();
        for stage in &input.tables.stages {
            let Some(own) = parts.iter().position(|part| part.used.contains(stage)) else {
                let problem = format!("no part has the results of {stage}");
                return Err(duel_ledger::Error::Damaged { path: input.path.join("manifest.json"), problem }.into());
            };
            let folder = input.folders.get(stage).map(|folder| folder.path().to_path_buf());
            let tables = folder.unwrap_or_else(|| split.join(stage));
            if !tables.join("metrics.parquet").is_file() {
                let problem = format!("it has no rows of {stage}, which `tables.json` lists");
                let path = input.path.join("metrics.parquet");
                return Err(duel_ledger::Error::Damaged { path, problem }.into());
            }
            let copy = StageCopy { input: index, part: places[index][own], tables };
            copies.entry(stage.clone()).or_default().push(copy);
        }
    }
    Ok(copies)
}

/// Whether all runs that have a stage have the same results of it.
fn check_equal(inputs: &[MergeInput], manifest: &Manifest, copies: &BTreeMap<String, Vec<StageCopy>>) -> Result<()> {
    for stage in &manifest.plan {
        let Some((first, others)) = copies.get(&stage.folder).and_then(|all| all.split_first()) else { continue };
        for other in others {
            let differences = stage_differences(&first.tables, &other.tables)?;
            if !differences.is_empty() {
                return Err(Error::UnequalStage {
                    stage: stage.label.clone(),
                    first: inputs[first.input].path.clone(),
                    other: inputs[other.input].path.clone(),
                    differences,
                });
            }
        }
    }
    Ok(())
}

/// No training diverged in one run and finished in another.
fn check_ended_alike(inputs: &[MergeInput], manifest: &Manifest) -> Result<()> {
    for input in inputs {
        for label in &input.manifest.diverged {
            let Some(folder) = manifest.stages.get(label) else { continue };
            if let Some(other) = inputs.iter().find(|other| other.tables.stages.contains(folder)) {
                return Err(Error::UnequalStage {
                    stage: label.clone(),
                    first: input.path.clone(),
                    other: other.path.clone(),
                    differences: vec!["its training diverged in the first and ended in the second".into()],
                });
            }
        }
    }
    Ok(())
}
