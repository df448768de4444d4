//! `duel cache`: the stages under one root, why one is not reused, and which nobody needs any more.

use crate::cli::{CacheCommand, ExperimentArgs};
use crate::plan::{Plan, Stage};
use crate::run::{prepare, whole_plan};
use crate::show::bytes;
use crate::{Error, Result, print};
use duel_ledger::{Manifest, RunDir, RunLock, StageDir};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Differences that are named before the rest is counted.
const NAMED: usize = 6;

/// Does what was asked.
pub fn cache(command: &CacheCommand) -> Result<()> {
    match command {
        CacheCommand::List { out } => list(out),
        CacheCommand::Explain(args) => explain(args),
        CacheCommand::Prune { out, dry_run } => prune(out, *dry_run),
    }
}

/// Every stage once, with its size and the runs that hold it.
fn list(out: &Path) -> Result<()> {
    let mut held: BTreeMap<String, (u64, Vec<String>)> = BTreeMap::new();
    for stage in StageDir::all(out)? {
        let (folder, run) = (name(stage.path()), run_of(stage.path()));
        held.entry(folder).or_insert((size(stage.path())?, vec![])).1.push(run);
    }
    let mut text = String::new();
    for (folder, (size, runs)) in &held {
        text += &format!("{:>8}  {folder:<24}  {}\n", bytes(*size as f64), runs.join(", "));
    }
    let total: u64 = held.values().map(|(size, _)| size).sum();
    text += &format!("{:>8}  {} stages; runs beside each other share files\n", bytes(total as f64), held.len());
    print(&text);
    Ok(())
}

/// Why stages of an experiment are not reused: which settings differ from the nearest stage of its kind.
fn explain(args: &ExperimentArgs) -> Result<()> {
    let (experiment, _) = prepare(args)?;
    let plan = whole_plan(args, &experiment)?;
    let run = RunDir::at(&args.out, &experiment.name);
    let all = StageDir::all(&args.out)?;
    let mut text = String::new();
    for stage in &plan.stages {
        if run.has_stage(&stage.id)? {
            text += &format!("{}: reused, as {}\n", stage.label(), stage.id.folder());
        } else {
            text += &format!("{}: made anew, as {}\n", stage.label(), stage.id.folder());
            text += &why(&plan, stage, &all)?;
        }
    }
    print(&text);
    Ok(())
}

/// What sets a stage apart from the one that is most like it.
fn why(plan: &Plan, stage: &Stage, all: &[StageDir]) -> Result<String> {
    let mut nearest: Option<(Vec<String>, String)> = None;
    for other in all {
        let folder = name(other.path());
        if !folder.starts_with(&format!("{}-", stage.kind.name())) {
            continue;
        }
        let mut apart = vec![];
        differences("", &stage.key, &other.key()?, &mut apart);
        if nearest.as_ref().is_none_or(|(known, _)| apart.len() < known.len()) {
            nearest = Some((apart, format!("{}/{folder}", run_of(other.path()))));
        }
    }
    let Some((apart, folder)) = nearest else {
        return Ok(format!("  there is no stage `{}` yet\n", stage.kind.name()));
    };
    let mut text = format!("  nearest: {folder}, which differs in\n");
    for line in apart.iter().take(NAMED) {
        text += &format!("    {line}\n");
    }
    if apart.len() > NAMED {
        text += &format!("    and {} more\n", apart.len() - NAMED);
    }
    if apart.is_empty() {
        let needs: Vec<String> = stage.needs.iter().map(|&need| plan.stages[need].label()).collect();
        text += &format!(
            "    nothing that is written down: it is damaged, or of another format; it needs {}\n",
            needs.join(", ")
        );
    }
    Ok(text)
}

/// The leaves in which two keys differ.
fn differences(path: &str, here: &Value, there: &Value, found: &mut Vec<String>) {
    if let (Value::Object(a), Value::Object(b)) = (here, there) {
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for key in keys {
            let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            differences(&below, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), found);
        }
    } else if here != there {
        found.push(format!("{path}: {here} here, {there} there"));
    }
}

/// Removes stages that no run's manifest names, and what interrupted runs left behind of stages that none names.
fn prune(out: &Path, dry_run: bool) -> Result<()> {
    let (mut freed, mut gone) = (0, 0);
    let io = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    };
    let Ok(runs) = std::fs::read_dir(out) else { return Err(io("list", out)(std::io::ErrorKind::NotFound.into())) };
    for run in runs.flatten().map(|entry| entry.path()).filter(|path| path.join("stages").is_dir()) {
        let _lock = match RunLock::take(&run) {
            Ok(lock) => lock,
            Err(duel_ledger::Error::Locked { path, holder }) => {
                print(&format!("left alone {}: process {holder} is at it\n", path.display()));
                continue;
            }
            Err(other) => return Err(other.into()),
        };
        let named: BTreeSet<String> = match Manifest::read(&run) {
            Ok(manifest) => manifest.stages.into_values().collect(),
            Err(_) => BTreeSet::new(),
        };
        let stages = run.join("stages");
        for entry in std::fs::read_dir(&stages).map_err(io("list", &stages))?.flatten() {
            let folder = name(&entry.path());
            let (stage, rest) = folder.split_once('.').unwrap_or((&folder, ""));
            // what is kept of a stage that is not finished lets its run go on; a worker of a cluster may be at one
            let at_work = stages.join(format!("{stage}.lease")).is_file();
            if named.contains(stage) && (rest.is_empty() || rest == "kept" || at_work) || rest.starts_with("lease") {
                continue;
            }
            freed += size(&entry.path())?;
            gone += 1;
            print(&format!("{} {}\n", if dry_run { "would remove" } else { "removed" }, entry.path().display()));
            if !dry_run {
                std::fs::remove_dir_all(entry.path()).map_err(io("remove", &entry.path()))?;
            }
        }
    }
    print(&format!("{gone} folders, {}\n", bytes(freed as f64)));
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Name of the run whose stage this is.
fn run_of(stage: &Path) -> String {
    stage.parent().and_then(Path::parent).map_or(String::new(), name)
}

/// Bytes of a folder's files.
fn size(folder: &Path) -> Result<u64> {
    let io = |path: PathBuf| move |source| Error::Io { action: "list", path, source };
    let mut total = 0;
    for entry in std::fs::read_dir(folder).map_err(io(folder.into()))? {
        let entry = entry.map_err(io(folder.into()))?;
        total += entry.metadata().map_err(io(entry.path()))?.len();
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_named_by_their_path() {
        let mut found = vec![];
        let (here, there) = (json!({"a": {"b": 1, "c": 2}, "d": [1]}), json!({"a": {"b": 1, "c": 3}, "e": "x"}));
        differences("", &here, &there, &mut found);
        assert_eq!(found, ["a.c: 2 here, 3 there", "d: [1] here, null there", "e: null here, \"x\" there"]);
    }
}
