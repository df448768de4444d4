//! `duel cache`: the stages under one root, why one is not reused, and which are no longer needed.

use crate::commands::args::ExperimentArgs;
use crate::error::{Error, Result};
use crate::plan::{Plan, Stage, StageKind};
use crate::task_progress::size_of;
use crate::terminal::format_bytes;
use crate::terminal::print;
use clap::Subcommand;
use duel_ledger::{Lease, Manifest, RunDir, RunLock, StageDir};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List every stage with its size and the runs that use it
    List {
        /// The directory that holds your runs
        #[arg(long, value_name = "DIR", default_value = "runs")]
        out: PathBuf,
    },
    /// Explain for each stage of an experiment whether it is reused, and if not, which settings differ
    Explain(ExperimentArgs),
    /// Remove stages that no run uses, and leftovers of damaged or unfinished ones
    ///
    /// Leaves runs in progress alone.
    Prune {
        /// The directory that holds your runs
        #[arg(long, value_name = "DIR", default_value = "runs")]
        out: PathBuf,
        /// Only print what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

/// Differences that are named before the rest is counted.
const NAMED: usize = 6;

/// Runs the subcommand.
pub fn cache(command: &CacheCommand) -> Result<()> {
    match command {
        CacheCommand::List { out } => list(out),
        CacheCommand::Explain(args) => explain(args),
        CacheCommand::Prune { out, dry_run } => prune(out, *dry_run),
    }
}

/// Every stage once, with its size and the runs that hold it.
fn list(out: &Path) -> Result<()> {
    let mut stages: BTreeMap<String, (u64, Vec<String>)> = BTreeMap::new();
    for stage in StageDir::all(out)? {
        let (folder, run) = (name(stage.path()), run_of(stage.path()));
        stages.entry(folder).or_insert_with(|| (size_of(stage.path()), vec![])).1.push(run);
    }
    let mut text = String::new();
    for (folder, (size, runs)) in &stages {
        text += &format!("{:>8}  {folder:<24}  {}\n", format_bytes(*size as f64), runs.join(", "));
    }
    let total: u64 = stages.values().map(|(size, _)| size).sum();
    text +=
        &format!("{:>8}  {} stages; runs beside each other share files\n", format_bytes(total as f64), stages.len());
    print(&text);
    Ok(())
}

/// Why stages of an experiment are not reused: which settings differ from the nearest stage of its kind.
fn explain(args: &ExperimentArgs) -> Result<()> {
    let (experiment, _) = args.load()?;
    let plan = args.whole_plan(&experiment)?;
    let run = RunDir::at(&args.out, &experiment.name);
    let all = StageDir::all(&args.out)?;
    let mut text = String::new();
    for stage in &plan.stages {
        if run.contains_stage(&stage.id)? {
            text += &format!("{}: reused, as {}\n", stage.label(), stage.id.folder());
        } else {
            text += &format!("{}: to be made, as {}\n", stage.label(), stage.id.folder());
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
        let mut different = vec![];
        let Ok(key) = other.key() else { continue }; // damaged: near to nothing
        differences("", &stage.key, &key, &mut different);
        if nearest.as_ref().is_none_or(|(known, _)| different.len() < known.len()) {
            nearest = Some((different, format!("{}/{folder}", run_of(other.path()))));
        }
    }
    let Some((different, folder)) = nearest else {
        return Ok(format!("  there is no stage `{}` yet\n", stage.kind.name()));
    };
    let mut text = format!("  nearest: {folder}, which differs in\n");
    for line in different.iter().take(NAMED) {
        text += &format!("    {line}\n");
    }
    if different.len() > NAMED {
        text += &format!("    and {} more\n", different.len() - NAMED);
    }
    if different.is_empty() {
        let needs: Vec<String> = stage.needs.iter().map(|&need| plan.stages[need].label()).collect();
        text += &format!(
            "    no setting: that stage is damaged or of another format, or what it needs differs: {}\n",
            needs.join(", ")
        );
    }
    Ok(text)
}

/// The leaves in which two keys differ.
fn differences(path: &str, here: &Value, there: &Value, paths: &mut Vec<String>) {
    if let (Value::Object(a), Value::Object(b)) = (here, there) {
        let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
        for key in keys {
            let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            differences(&below, a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null), paths);
        }
    } else if here != there {
        paths.push(format!("{path}: {here} here, {there} there"));
    }
}

/// Removes stages that no run's manifest names, and what killed workers left behind. What cannot be read, or cannot be told, is
/// needed.
fn prune(out: &Path, dry_run: bool) -> Result<()> {
    let io = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Io { action, path, source }
    };
    let entries = std::fs::read_dir(out).map_err(io("list", out))?;
    let mut runs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    runs.retain(|run| run.join("stages").is_dir());
    runs.sort();
    let needed = needed(&runs);
    let (mut freed, mut count) = (0, 0);
    for (run, needed_stages) in &needed {
        let needed_stages = match needed_stages {
            Ok(needed_stages) => needed_stages,
            Err(why) => {
                print(&format!("left alone {}: {why}\n", run.display()));
                continue;
            }
        };
        let _lock = match RunLock::take(run) {
            Ok(lock) => lock,
            Err(duel_ledger::Error::Locked { path, holder }) => {
                print(&format!("left alone {}: process {holder} is using it\n", path.display()));
                continue;
            }
            Err(other) => return Err(other.into()),
        };
        let stages = run.join("stages");
        for entry in std::fs::read_dir(&stages).map_err(io("list", &stages))?.flatten() {
            if !is_prunable(&stages, &entry.path(), needed_stages) {
                continue;
            }
            freed += size_of(&entry.path());
            count += 1;
            print(&format!("{} {}\n", if dry_run { "would remove" } else { "removed" }, entry.path().display()));
            if !dry_run {
                std::fs::remove_dir_all(entry.path()).map_err(io("remove", &entry.path()))?;
            }
        }
    }
    if !dry_run {
        duel_ledger::sweep(out);
    }
    print(&format!("{count} folders, {}\n", format_bytes(freed as f64)));
    Ok(())
}

/// Which stages each run needs, or why that is not known. Runs whose `stages` are one folder (by a link) need what any of them
/// needs.
fn needed(runs: &[PathBuf]) -> Vec<(PathBuf, std::result::Result<BTreeSet<String>, String>)> {
    let needed_stages = |run: &PathBuf| match Manifest::read(run) {
        Ok(manifest) if manifest.stages.is_empty() => Err("its manifest names no stage".to_string()),
        Ok(manifest) => Ok(manifest.stages.into_values().collect::<BTreeSet<String>>()),
        Err(error) => Err(error.to_string()),
    };
    let of_each: Vec<_> = runs.iter().map(needed_stages).collect();
    let canonical = |run: &PathBuf| std::fs::canonicalize(run.join("stages")).ok();
    let all_of = |run: &PathBuf| {
        let mut all = BTreeSet::new();
        for (_, needed_stages) in runs.iter().zip(&of_each).filter(|(other, _)| canonical(other) == canonical(run)) {
            all.extend(needed_stages.clone()?);
        }
        Ok(all)
    };
    runs.iter().map(|run| (run.clone(), all_of(run))).collect()
}

/// Whether a folder under `stages` is a stage, or what is left of one, that is of no use to anybody.
fn is_prunable(stages: &Path, path: &Path, needed_stages: &BTreeSet<String>) -> bool {
    let folder = name(path);
    let (stage, rest) = folder.split_once('.').unwrap_or((&folder, ""));
    let is_stage = stage.split_once('-').is_some_and(|(kind, hash)| {
        StageKind::ALL.iter().any(|known| known.name() == kind) && hash.chars().all(|c| c.is_ascii_hexdigit())
    });
    if !is_stage || !path.is_dir() || Lease::is_held(stages, stage) {
        return false; // in use by another machine, or by a worker of a cluster
    }
    match rest {
        "" => !needed_stages.contains(stage),
        // checkpoints of an unfinished stage let its run resume
        "kept" => !needed_stages.contains(stage) || stages.join(stage).join("done.json").is_file(),
        "damaged" => true,
        _ => StageDir::is_left_behind(path),
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Name of the run whose stage this is.
fn run_of(stage: &Path) -> String {
    stage.parent().and_then(Path::parent).map_or(String::new(), name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_are_named_by_their_path() {
        let mut paths = vec![];
        let (here, there) = (json!({"a": {"b": 1, "c": 2}, "d": [1]}), json!({"a": {"b": 1, "c": 3}, "e": "x"}));
        differences("", &here, &there, &mut paths);
        assert_eq!(paths, ["a.c: 2 here, 3 there", "d: [1] here, null there", "e: null here, \"x\" there"]);
    }

    /// A run with finished stages of these folder names, and a manifest that names some of them.
    fn run(out: &Path, name: &str, stages: &[&str], needed_stages: &[&str]) -> PathBuf {
        let run = out.join(name);
        std::fs::create_dir_all(&run).expect("made");
        for stage in stages {
            std::fs::create_dir_all(run.join("stages").join(stage)).expect("made");
            std::fs::write(run.join("stages").join(stage).join("done.json"), b"{}").expect("written");
        }
        let stages = needed_stages.iter().map(|name| ((*name).to_string(), (*name).to_string())).collect();
        Manifest { stages, ..Manifest::default() }.write(&run).expect("written");
        run
    }

    /// Names that are left under `stages`.
    fn left(run: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(run.join("stages"))
            .expect("a folder")
            .flatten()
            .map(|entry| name(&entry.path()))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_named_kept_held_or_strange_stays_and_the_rest_goes() {
        let out = tempfile::tempdir().expect("a folder");
        let stages = [
            "sft-0a",
            "sft-0b",
            "cell-0c.kept",
            "cell-0d.kept",
            "rm-0e.damaged",
            "rm-0f",
            "sft-0a.kept",
            ".ipynb_checkpoints",
        ];
        let run = run(out.path(), "a", &stages, &["sft-0a", "cell-0c"]);
        std::fs::write(run.join("stages/.DS_Store"), b"x").expect("written");
        std::fs::write(run.join("stages/rm-0f.lease"), b"somebody's, just now").expect("written");
        std::fs::create_dir(out.path().join("lost+found")).expect("made");
        std::fs::write(out.path().join("notes.txt"), b"x").expect("written");
        prune(out.path(), true).expect("looked at");
        assert_eq!(left(&run).len(), 10);
        prune(out.path(), false).expect("pruned");
        let expected = [".DS_Store", ".ipynb_checkpoints", "cell-0c.kept", "rm-0f", "rm-0f.lease", "sft-0a"];
        assert_eq!(left(&run), expected);
    }

    #[test]
    fn what_cannot_be_read_is_needed() {
        let damage: [fn(&Path); 5] = [
            |manifest| std::fs::write(manifest, b"{").expect("written"),
            |manifest| std::fs::write(manifest, [0xff, 0xfe]).expect("written"),
            |manifest| std::fs::remove_file(manifest).expect("removed"),
            |manifest| {
                std::fs::remove_file(manifest).expect("removed");
                std::fs::create_dir(manifest).expect("made");
            },
            // as a run had it that failed while it planned
            |manifest| Manifest::default().write(manifest.parent().expect("a run")).expect("written"),
        ];
        for damage in damage {
            let out = tempfile::tempdir().expect("a folder");
            let first = run(out.path(), "a", &["sft-0a", "sft-0b"], &["sft-0a"]);
            let second = run(out.path(), "b", &["sft-0a", "sft-0c"], &["sft-0c"]);
            damage(&first.join("manifest.json"));
            prune(out.path(), false).expect("pruned");
            assert_eq!((left(&first), left(&second)), (vec!["sft-0a".into(), "sft-0b".into()], vec!["sft-0c".into()]));
        }
    }

    #[cfg(unix)]
    #[test]
    fn runs_that_share_their_stages_need_what_any_of_them_needs() {
        let out = tempfile::tempdir().expect("a folder");
        let first = run(out.path(), "a", &["sft-0a", "sft-0b", "sft-0c"], &["sft-0a"]);
        let second = run(out.path(), "b", &[], &["sft-0b"]);
        std::os::unix::fs::symlink("../a/stages", second.join("stages")).expect("linked");
        prune(out.path(), false).expect("pruned");
        assert_eq!(left(&first), ["sft-0a", "sft-0b"]);
    }
}
