//! `duel run`: an experiment, from its file to the page.

use crate::commands::args::{ExperimentArgs, concurrent_stages, seconds};
use crate::commands::report::{announce_files, announce_next};
use crate::error::{Error, Result};
use crate::executors::{EXECUTORS, ExecutorEntry, RunEvent, RunOptions, RunSummary, execute};
use crate::judge_files::{judge_files, judge_inputs};
use crate::log;
use crate::plan::{Plan, Stage, experiment_hash};
use crate::progress::ProgressReporter;
use crate::search;
use crate::sources;
use crate::sysinfo;
use crate::warnings;
use crate::world;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use duel_ledger::{Manifest, PlannedStage, RunDir, RunLock, RunSubset, write_atomically};
use duel_report::TuningResults;
use duel_spec::{Cell, Document, Experiment, FORMAT_VERSION, Trial};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// Stages to run at once, one thread each [default: the number of cores; on a cluster as many as it grants]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    #[arg(long, value_name = "NAME", default_value = EXECUTORS[0].name, value_parser = executor_parser(), help = executor_help())]
    pub executor: &'static ExecutorEntry,
    /// Stop at the first stage that fails
    ///
    /// By default only the stages that depend on a failed one are skipped; the rest run, and the exit code reports the failure.
    #[arg(long, conflicts_with = "keep_going")]
    pub fail_fast: bool,
    /// Keep going after a stage fails (the default)
    #[arg(long)]
    pub keep_going: bool,
    /// Seconds between checkpoints; an interrupted run loses at most this much work, and the result is the same
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    pub checkpoint_seconds: f64,
}

/// The stages that a run needs at its start: those of all earlier rounds, or of its first one.
fn first_stages(args: &ExperimentArgs, experiment: &Experiment) -> Result<BTreeMap<String, String>> {
    let cells = duel_ledger::cells_of(&args.out.join(&experiment.name), experiment).unwrap_or_default();
    let cells = match cells.is_empty() {
        true => search::next_round(experiment, &[], &TuningResults::default())?
            .map_or(vec![], |first| experiment.cells_for(&first)),
        false => cells,
    };
    let plan = Plan::new(experiment, &args.device, cells)?;
    Ok(plan.stages.iter().map(|stage| (stage.label(), stage.id.folder())).collect())
}

/// Runs an experiment to its page.
pub fn run(args: &RunArgs) -> Result<()> {
    let started = Instant::now();
    let (experiment, document) = args.experiment.load()?;
    let stop = stop_on_signals()?;
    let jobs = concurrent_stages(&experiment, args.jobs);
    // planned before anything is made: an experiment that cannot be planned leaves nothing
    let needed = first_stages(&args.experiment, &experiment)?;
    if experiment.is_pretrained() {
        world::sizes(&experiment)?; // sequences that the model's context cannot hold
    }
    let folder = args.experiment.out.join(&experiment.name);
    check_replaces_nothing(&folder, &document.to_toml())?;
    check_not_merged(folder)?;
    let run = RunDir::create(&args.experiment.out, &experiment.name)?;
    let _lock = RunLock::take(run.path())?;
    duel_ledger::sweep(run.path());
    log::write_to(run.path());
    tracing::info!(
        command = sysinfo::command().join(" "),
        commit = sysinfo::COMMIT,
        device = args.experiment.device,
        jobs,
        "run"
    );
    let before = Manifest::read(run.path());
    let mut manifest = Manifest { stages: needed, ..manifest(&experiment, &document, &args.experiment.device, jobs)? };

    let mut reporter = ProgressReporter::new(jobs);
    print_heading(&reporter, &experiment, before.as_ref().err());
    let options = RunOptions {
        run: &run,
        device: &args.experiment.device,
        jobs,
        requested_jobs: args.jobs.map(usize::from),
        checkpoint_seconds: args.checkpoint_seconds,
        fail_fast: args.fail_fast && !args.keep_going,
        stop: &stop,
    };
    let mut summary = RunSummary::default();
    let ran = rounds(&experiment, args.executor, &options, (&mut manifest, before.ok()), &mut reporter, &mut summary);
    let ran = ran.and_then(|plan| {
        reporter.print_line("writing the tables, charts and page");
        duel_ledger::merge(run.path(), &manifest, RunSubset::Comparison)?;
        if run.path().join("metrics.parquet").is_file() {
            duel_ledger::write_events(run.path(), manifest.started)?;
        }
        Ok(plan)
    });
    reporter.finish();
    let (made, reused) = (summary.made, summary.reused);
    tracing::info!(made, reused, seconds = started.elapsed().as_secs_f64(), ok = ran.is_ok(), "over");
    finish(&mut manifest, &summary, ran.as_ref().err(), started);
    if !manifest.plan.is_empty() {
        manifest.write(run.path())?; // what failed before it was planned leaves the run as it was
    }
    let RunSummary { reused, made, failures, left_out, peak_memory } = summary;
    ran?;
    print_totals(made, reused, peak_memory, started);
    let written = match duel_report::write(run.path()) {
        // the failed stages are the cause: there is nothing to report
        Err(_) if !failures.is_empty() => return Err(Error::Stages { failures, left_out: left_out.len() }),
        written => written?,
    };
    manifest.warnings.clone_from(&written.warnings);
    manifest.write(run.path())?;
    announce_files(written);
    announce_next(run.path(), experiment.claims.len());
    if failures.is_empty() { Ok(()) } else { Err(Error::Stages { failures, left_out: left_out.len() }) }
}

/// What the run made, in how long.
fn print_totals(made: usize, reused: usize, peak_memory: u64, started: Instant) {
    let memory = if made > 0 { format!(", peak memory {:.0} MB", peak_memory as f64 / 1e6) } else { String::new() };
    let seconds = started.elapsed().as_secs_f64();
    crate::terminal::print(&format!("{made} stages made, {reused} reused, {seconds:.1} s{memory}\n"));
}

/// A merged run would lose where its results are from.
fn check_not_merged(path: PathBuf) -> Result<()> {
    match Manifest::read(&path).ok().filter(Manifest::is_merged) {
        Some(merged) => Err(Error::MergedRun { path, parts: merged.parts.len() }),
        None => Ok(()),
    }
}

/// A run keeps its settings as `experiment.toml` of its folder: one that a person wrote there is not replaced.
fn check_replaces_nothing(run: &Path, settings: &str) -> Result<()> {
    let path = run.join("experiment.toml");
    match std::fs::read_to_string(&path) {
        Ok(text) if text != settings && !run.join("manifest.json").exists() => Err(Error::Occupied {
            path,
            problem: "was not written by a run, and the run would replace it with its own settings".into(),
            hint: "choose another folder with `--out`, or another `name`",
        }),
        _ => Ok(()),
    }
}

/// Prints the experiment's question and its warnings.
fn print_heading(reporter: &ProgressReporter, experiment: &Experiment, manifest_error: Option<&duel_ledger::Error>) {
    reporter.print_line(&experiment.title());
    for warning in warnings::warnings(experiment) {
        reporter.print_line(&format!("warning: {warning}"));
    }
    if let Some(damage @ duel_ledger::Error::Damaged { .. }) = manifest_error {
        reporter.print_line(&format!("warning: {damage}; its claims count as added after the run"));
    }
}

/// Set by a signal that asks this process to end. The first asks for a clean stop, the second ends at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in sysinfo::ending_signals() {
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())
            .map_err(|source| Error::Worker { source })?;
        signal_hook::flag::register(signal, stop.clone()).map_err(|source| Error::Worker { source })?;
    }
    Ok(stop)
}

/// Runs the rounds of an experiment: one if nothing is searched. The manifest of an earlier invocation
/// says which of the same stages have diverged.
fn rounds(
    experiment: &Experiment,
    executor: &ExecutorEntry,
    options: &RunOptions<'_>,
    (manifest, before): (&mut Manifest, Option<Manifest>),
    reporter: &mut ProgressReporter,
    summary: &mut RunSummary,
) -> Result<Plan> {
    let (run, mut rounds, mut results) = (options.run, vec![], TuningResults::default());
    let mut plan = Plan { stages: vec![] };
    while let Some(round) = search::next_round(experiment, &rounds, &results)? {
        if experiment.is_tuned() {
            reporter.print_line(&round_summary(&round, rounds.len() + 1));
        }
        rounds.push(round);
        let cells: Vec<Cell> = rounds.iter().flat_map(|round| experiment.cells_for(round)).collect();
        let from = plan.stages.len();
        plan = Plan::new(experiment, options.device, cells.clone())?;
        manifest.stages.extend(plan.stages.iter().map(|s| (s.label(), s.id.folder())));
        manifest.plan = plan.stages.iter().map(Stage::planned).collect();
        if let Some(before) = &before {
            let is_same = |label: &&String| before.stages.get(*label) == manifest.stages.get(*label);
            manifest.diverged = before.diverged.iter().filter(is_same).cloned().collect();
        }
        if rounds.len() == 1 {
            begin(run, experiment, manifest, before.as_ref())?;
        }
        if experiment.is_tuned() {
            duel_ledger::write_rounds(run.path(), &rounds)?;
        }
        manifest.write(run.path())?;
        {
            let mut executor = (executor.open)(&plan, experiment, options)?;
            let mut events = |event: RunEvent<'_>| reporter.handle(event);
            execute(&plan, from, executor.as_mut(), options, summary, &mut events)?;
        }
        if options.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if options.fail_fast && !summary.failures.is_empty() {
            break;
        }
        if experiment.is_tuned() {
            duel_ledger::merge(run.path(), manifest, RunSubset::Search)?;
            results = TuningResults::read(run.path(), experiment, &cells)?;
        }
    }
    Ok(plan)
}

/// Records the experiment once it can be planned: one that cannot be planned leaves the run of an earlier one
/// unchanged. The rounds of a search over other settings are removed.
fn begin(run: &RunDir, experiment: &Experiment, manifest: &mut Manifest, before: Option<&Manifest>) -> Result<()> {
    manifest.claims = Some(standing_claims(run, experiment, manifest, before));
    if before.is_none_or(|before| before.experiment != manifest.experiment) {
        duel_ledger::forget_rounds(run.path())?;
    }
    Ok(write_atomically(&run.path().join("experiment.toml"), manifest.experiment.as_bytes())?)
}

/// The claims made before any result was known: all of them if this run has no finished cell; otherwise those that
/// it has recorded. If every cell is from another run, those recorded there too.
fn standing_claims(
    run: &RunDir,
    experiment: &Experiment,
    manifest: &Manifest,
    before: Option<&Manifest>,
) -> Vec<serde_json::Value> {
    let folders = |plan: &[PlannedStage]| -> BTreeSet<String> {
        plan.iter().filter(|stage| stage.tuning.is_some()).map(|cell| cell.folder.clone()).collect()
    };
    let cells = folders(&manifest.plan);
    let is_finished = |run: &Path, cell: &String| run.join("stages").join(cell).join("done.json").is_file();
    let has_finished = |run: &Path| cells.iter().any(|cell| is_finished(run, cell));
    let has_all = |run: &Path| !cells.is_empty() && cells.iter().all(|cell| is_finished(run, cell));
    let claims_now: Vec<_> = experiment.claims.iter().map(|claim| serde_json::json!(claim)).collect();
    let recorded = before.and_then(|before| before.claims.clone());
    match recorded {
        Some(claims) if has_finished(run.path()) => return claims,
        None if has_finished(run.path()) => return vec![],
        _ => {}
    }
    let siblings = std::fs::read_dir(run.path().parent().unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    let siblings: Vec<_> = siblings.map(|entry| entry.path()).filter(|path| has_all(path)).collect();
    if siblings.is_empty() {
        return claims_now;
    }
    let sibling_claims = siblings.iter().filter_map(|path| Manifest::read(path).ok()?.claims).flatten();
    sibling_claims
        .filter(|claim| claims_now.contains(claim))
        .chain(before.and_then(|before| before.claims.clone()).into_iter().flatten())
        .collect()
}

/// A round in one line.
fn round_summary(round: &[Trial], number: usize) -> String {
    if round.iter().all(|trial| !trial.tuning) {
        let chosen: Vec<String> = round
            .iter()
            .map(|trial| {
                let set: Vec<String> = trial.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
                format!("{}: {}", trial.arm, set.join(", "))
            })
            .collect();
        return format!("chosen on validation prompts, and now on fresh seeds: {}", chosen.join("; "));
    }
    let mut points: BTreeMap<&str, usize> = BTreeMap::new();
    round.iter().for_each(|trial| *points.entry(&trial.arm).or_default() += 1);
    let points: Vec<String> = points.iter().map(|(arm, n)| format!("{n} of {arm}")).collect();
    format!("search, round {number}: points {}", points.join(", "))
}

fn manifest(experiment: &Experiment, document: &Document, device: &str, jobs: usize) -> Result<Manifest> {
    let mut inputs = BTreeMap::from([("experiment".to_string(), experiment_hash(experiment))]);
    inputs.extend(judge_inputs(&judge_files(experiment)?));
    inputs.extend(sources::inputs(experiment)?);
    if world::reads_reviews(experiment) {
        inputs.extend(duel_data::reviews::FILES.map(|(name, hash)| (name.to_string(), hash.to_string())));
    }
    Ok(Manifest {
        format: FORMAT_VERSION,
        duel: env!("CARGO_PKG_VERSION").into(),
        commit: sysinfo::COMMIT.into(),
        host: sysinfo::describe(),
        device: device.into(),
        jobs,
        threads_per_job: if experiment.is_pretrained() { sysinfo::cores() } else { 1 },
        command: sysinfo::command(),
        inputs,
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        exit: "running".into(),
        experiment: document.to_toml(),
        ..Manifest::default()
    })
}

fn finish(manifest: &mut Manifest, summary: &RunSummary, ended_by: Option<&Error>, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    manifest.ended = Some(manifest.started + seconds as u64);
    manifest.wall_seconds = Some(seconds);
    manifest.exit = match ended_by {
        None if summary.failures.is_empty() => "complete",
        Some(Error::Interrupted) => "interrupted",
        Some(Error::Detached) => "running",
        None | Some(_) => "failed",
    }
    .into();
    manifest.stages_reused = summary.reused;
    manifest.stages_made = summary.made;
    manifest.peak_memory = summary.peak_memory;
    manifest.failed = summary.failures.iter().map(|f| (f.stage.clone(), f.reason())).collect();
    manifest.failed.extend(summary.left_out.iter().map(|stage| (stage.clone(), "needs what failed".into())));
    manifest.diverged.extend(
        summary
            .failures
            .iter()
            .filter(|f| f.exit == 4 && f.ended.as_ref().is_some_and(|ended| ended.diverged))
            .map(|f| f.stage.clone()),
    );
}

/// Accepts the names of [`EXECUTORS`].
fn executor_parser() -> impl TypedValueParser<Value = &'static ExecutorEntry> {
    let find = |name: String| EXECUTORS.iter().find(|executor| executor.name == name);
    PossibleValuesParser::new(EXECUTORS.iter().map(|executor| executor.name))
        .map(move |name| find(name).expect("clap accepts no other name"))
}

fn executor_help() -> String {
    let places: Vec<&str> = EXECUTORS.iter().map(|executor| executor.about).collect();
    format!("Where to run stages: {}", places.join(", or "))
}
