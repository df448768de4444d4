//! What several runs are together: one experiment, one plan, one manifest.

use crate::error::{Error, Result};
use crate::merge::claims::{standing_claims, unite_claims};
use crate::merge::input::MergeInput;
use crate::plan::experiment_hash;
use crate::sysinfo;
use duel_ledger::{HostInfo, Manifest, PlannedStage, RunPart, assign_stages, unite_parts};
use duel_spec::{Document, Experiment, FORMAT_VERSION};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Seeds between those of two runs that may be missing.
const MAX_GAP: u64 = 1000;

/// A part's experiment, and a run that has the part.
struct PartExperiment<'a> {
    manifest: &'a Manifest,
    document: Document,
    path: &'a Path,
}

/// The manifest of the merged run, which is a function of the parts alone. Also each part of each run in it by its index.
///
/// # Errors
/// Runs of different experiments; a claim that differs; more arms and seeds than an experiment may have.
pub fn unite(inputs: &[MergeInput], name: &str) -> Result<(Manifest, Vec<Vec<usize>>)> {
    // 1. The parts, in an order of their own.
    let given: Vec<Vec<RunPart>> = inputs.iter().map(MergeInput::parts).collect();
    let counts: Vec<usize> = given.iter().map(Vec::len).collect();
    let (mut parts, places) = unite_parts(given.into_iter().flatten().collect());
    let mut rest = places.as_slice();
    let places: Vec<Vec<usize>> = counts
        .into_iter()
        .map(|count| {
            let (own, others) = rest.split_at(count);
            rest = others;
            own.to_vec()
        })
        .collect();

    // 2. They are of one experiment.
    let path_of = |index: usize| {
        let input = places.iter().position(|own| own.contains(&index)).expect("every part is of some run");
        inputs[input].path.as_path()
    };
    let mut experiments = vec![];
    for (index, RunPart { manifest, .. }) in parts.iter().enumerate() {
        let path = path_of(index);
        let name = format!("the experiment recorded in {}", path.join("manifest.json").display());
        let document = Document::parse(&name, &manifest.experiment, &[])?;
        experiments.push(PartExperiment { manifest, document, path });
    }
    check_same(&experiments)?;
    let documents: Vec<Document> = experiments.into_iter().map(|experiment| experiment.document).collect();

    // 3. Their union.
    check_gap(inputs)?;
    let names: BTreeSet<String> = inputs.iter().map(|input| input.experiment.name.clone()).collect();
    let name = if let [one] = &names.iter().collect::<Vec<_>>()[..] { one.as_str() } else { name };
    let document = Document::union(&documents, name, unite_claims(inputs, &documents)?)?;
    let experiment = Experiment::from_document(&document)?;
    let plan = merged_plan(&experiment, &parts);
    let with_documents: Vec<(&RunPart, &Document)> = parts.iter().zip(&documents).collect();
    let claims = standing_claims(&experiment.claims, &with_documents);
    assign_stages(&mut parts, &plan);
    let manifest = Manifest {
        experiment: document.to_toml(),
        claims: Some(claims),
        stages: plan.iter().map(|stage| (stage.label.clone(), stage.folder.clone())).collect(),
        plan,
        parts,
        ..Manifest::default()
    };
    Ok((with_summary(manifest, &experiment), places))
}

/// The seeds of a run follow one another: those between the runs' would be missing.
fn check_gap(inputs: &[MergeInput]) -> Result<()> {
    let mut ranges: Vec<(u64, u64, &MergeInput)> =
        inputs.iter().map(|input| (input.experiment.seed, input.experiment.seeds, input)).collect();
    ranges.sort_by_key(|(first, seeds, _)| (*first, *seeds)); // stable
    let mut end = ranges[0].0;
    for (first, seeds, input) in ranges {
        if first.saturating_sub(end) > MAX_GAP {
            let problem =
                format!("its seeds begin at {first}, and those of the other runs before it end at {}", end - 1);
            let hint = "the seeds of a run follow one another, and all between those of the parts would be missing: merge runs whose seeds are closer";
            return Err(Error::Unmergeable { path: input.path.clone(), problem, hint });
        }
        end = end.max(first.saturating_add(seeds));
    }
    Ok(())
}

/// Whether all parts are of one experiment, and have the same keys of what they have in common.
fn check_same(parts: &[PartExperiment]) -> Result<()> {
    for (index, other) in parts.iter().enumerate() {
        for first in &parts[..index] {
            let differences = differences(first, other);
            if !differences.is_empty() {
                let (first, other) = (first.path.into(), other.path.into());
                return Err(Error::OtherExperiment { first, other, differences });
            }
        }
    }
    Ok(())
}

fn differences(first: &PartExperiment, other: &PartExperiment) -> Vec<String> {
    let [one, two] = [first.manifest, other.manifest];
    let conflicts = first.document.union_conflicts(&other.document).into_iter();
    let mut differences: Vec<String> =
        conflicts.map(|(key, here, there)| format!("{key} is {here} and {there}")).collect();
    if one.device != two.device {
        differences.push(format!("the device is `{}` and `{}`", one.device, two.device));
    }
    let inputs = one.inputs.iter().filter(|(name, _)| *name != "experiment");
    let other_hash = |name: &String, hash: &String| two.inputs.get(name).filter(|other| *other != hash);
    differences.extend(inputs.filter_map(|(name, hash)| {
        Some(format!("the file {name} has the hash {hash:.12} and {:.12}", other_hash(name, hash)?))
    }));
    differences.extend(different_keys(one, two));
    differences
}

/// Stages of the same name with different keys.
fn different_keys(one: &Manifest, two: &Manifest) -> Vec<String> {
    let pairs = one.stages.iter().filter_map(|(label, folder)| Some((label, folder, two.stages.get(label)?)));
    let differing = pairs.filter(|(_, here, there)| here != there);
    differing.map(|(label, here, there)| format!("the stage `{label}` has the key {here} and {there}")).collect()
}

/// The stages that the parts planned, in the order of a plan of the whole experiment.
fn merged_plan(experiment: &Experiment, parts: &[RunPart]) -> Vec<PlannedStage> {
    let mut stages: Vec<&PlannedStage> = vec![];
    let mut labels = BTreeSet::new();
    for stage in parts.iter().flat_map(|part| &part.manifest.plan) {
        if labels.insert(&stage.label) {
            stages.push(stage);
        }
    }
    let cells: BTreeMap<String, usize> =
        experiment.cells_for(&experiment.trials()).iter().map(|cell| cell.label()).zip(0..).collect();
    // first what all seeds share, then seed by seed what its cells need, and its cells
    stages.sort_by_key(|stage| (stage.seed, cells.get(&stage.label))); // stable
    stages.into_iter().cloned().collect()
}

/// What the whole run has of its parts.
fn with_summary(manifest: Manifest, experiment: &Experiment) -> Manifest {
    let of_parts = || manifest.parts.iter().map(|part| &part.manifest);
    let text = |of: &dyn Fn(&Manifest) -> &str| {
        let all: BTreeSet<&str> = of_parts().map(of).filter(|text| !text.is_empty()).collect();
        all.into_iter().collect::<Vec<_>>().join(", ")
    };
    let host = HostInfo {
        name: text(&|part| &part.host.name),
        processor: text(&|part| &part.host.processor),
        cores: of_parts().map(|part| part.host.cores).max().unwrap_or(0),
        system: text(&|part| &part.host.system),
    };
    let inputs = of_parts().rev().flat_map(|part| part.inputs.clone());
    let mut inputs: BTreeMap<String, String> = inputs.collect();
    inputs.insert("experiment".into(), experiment_hash(experiment));
    let is_finished = |label: &String| {
        manifest
            .stages
            .get(label)
            .is_some_and(|folder| manifest.parts.iter().any(|part| part.finished.contains(folder)))
    };
    let failed = of_parts().rev().flat_map(|part| part.failed.clone()).filter(|(label, _)| !is_finished(label));
    let diverged = of_parts().flat_map(|part| part.diverged.clone()).filter(|label| !is_finished(label));
    let (failed, diverged): (BTreeMap<String, String>, BTreeSet<String>) = (failed.collect(), diverged.collect());
    let cells = experiment.cells_for(&experiment.trials());
    let is_complete =
        cells.iter().map(|cell| cell.label()).all(|label| is_finished(&label) || diverged.contains(&label));
    let wall_seconds = of_parts().map(|part| part.wall_seconds).sum();
    Manifest {
        format: FORMAT_VERSION,
        duel: text(&|part| &part.duel),
        commit: text(&|part| &part.commit),
        host,
        device: text(&|part| &part.device),
        jobs: of_parts().map(|part| part.jobs).max().unwrap_or(0),
        threads_per_job: of_parts().map(|part| part.threads_per_job).max().unwrap_or(0),
        command: sysinfo::command(),
        inputs,
        started: of_parts().map(|part| part.started).min().unwrap_or(0),
        ended: of_parts().filter_map(|part| part.ended).max(),
        exit: if is_complete { "complete" } else { "interrupted" }.into(),
        wall_seconds,
        stages_reused: of_parts().map(|part| part.stages_reused).sum(),
        stages_made: of_parts().map(|part| part.stages_made).sum(),
        failed,
        diverged,
        peak_memory: of_parts().map(|part| part.peak_memory).max().unwrap_or(0),
        ..manifest.clone()
    }
}
