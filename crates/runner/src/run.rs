//! `duel run` and `duel plan`.

use crate::cli::{Executor, ExperimentArgs, ReportArgs, RunArgs};
use crate::execute::{RunOptions, RunSummary, StageFailure, execute};
use crate::plan::{Plan, Stage, experiment_hash, judge_files, judge_inputs};
use crate::progress::ProgressReporter;
use crate::{Error, Result, host, log, planned, scene, search, slurm};
use duel_ledger::{Manifest, PlannedStage, RunDir, RunLock, RunSubset, read_rounds, write_atomically};
use duel_report::{ReportSummary, TuningResults};
use duel_spec::{Cell, Document, Experiment, FORMAT_VERSION, Trial};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The commit that the binary was built from.
pub const COMMIT: &str = match option_env!("DUEL_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Reads the experiment and checks what can be checked before anything is made.
pub(crate) fn prepare(args: &ExperimentArgs) -> Result<(Experiment, Document)> {
    let (experiment, document) = Experiment::load(&args.file, &args.overrides())?;
    duel_model::device::open(&args.device)?;
    if scene::reads_reviews(&experiment) {
        duel_data::reviews::check_present(Path::new(&experiment.world.reviews.data))?;
    }
    Ok((experiment, document))
}

/// All that an experiment will come to. Of a search that has not ended, as many points as it may try.
pub(crate) fn whole_plan(args: &ExperimentArgs, experiment: &Experiment) -> Result<Plan> {
    let there = read_rounds(&args.out.join(&experiment.name))?;
    let rounds = if experiment.is_tuned() && search::have_ended(&there) { there } else { search::preview(experiment) };
    Plan::new(experiment, &args.device, rounds.iter().flat_map(|round| experiment.cells_for(round)).collect())
}

/// What a run needs from its first moment on: the stages of all rounds that it has come to before, else of its first one.
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
    let (experiment, document) = prepare(&args.experiment)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in host::ending_signals() {
        // the first asks for a clean stop, the second ends at once
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())
            .map_err(|source| Error::Worker { source })?;
        signal_hook::flag::register(signal, stop.clone()).map_err(|source| Error::Worker { source })?;
    }
    let jobs = concurrent_stages(&experiment, args.jobs);
    // planned before anything is made: an experiment that cannot be planned leaves nothing
    let needed = first_stages(&args.experiment, &experiment)?;
    let run = RunDir::create(&args.experiment.out, &experiment.name)?;
    let _lock = RunLock::take(run.path())?;
    duel_ledger::sweep(run.path());
    log::write_to(run.path());
    tracing::info!(command = host::command().join(" "), commit = COMMIT, device = args.experiment.device, jobs, "run");
    let before = Manifest::read(run.path()).ok();
    let mut manifest = Manifest { stages: needed, ..manifest(&experiment, &document, &args.experiment.device, jobs)? };

    let mut board = ProgressReporter::new(jobs);
    board.print_line(&format!("{}: {}", experiment.name, experiment.question));
    for warning in planned::warnings(&experiment) {
        board.print_line(&format!("warning: {warning}"));
    }
    let settings = RunOptions {
        run: &run,
        device: &args.experiment.device,
        jobs,
        asked: args.jobs.map(usize::from),
        checkpoint_seconds: args.checkpoint_seconds,
        fail_fast: args.fail_fast && !args.keep_going,
        stop: &stop,
    };
    let mut outcome = RunSummary::default();
    let ran = rounds(&experiment, args.executor, &settings, (&mut manifest, before), &mut board, &mut outcome);
    let ran = ran.and_then(|plan| {
        board.print_line("merging and reporting");
        duel_ledger::merge(run.path(), &manifest, RunSubset::Comparison)?;
        if run.path().join("metrics.parquet").is_file() {
            duel_ledger::write_events(run.path(), manifest.started)?;
        }
        Ok(plan)
    });
    board.finish();
    let (made, reused) = (outcome.made, outcome.reused);
    tracing::info!(made, reused, seconds = started.elapsed().as_secs_f64(), ok = ran.is_ok(), "over");
    finish(&mut manifest, &outcome, ran.as_ref().err(), started);
    if !manifest.plan.is_empty() {
        manifest.write(run.path())?; // what failed before it was planned leaves the run as it was
    }
    let RunSummary { reused, made, failures, left_out, peak_memory } = outcome;
    ran?;
    crate::print(&format!(
        "{made} stages made, {reused} reused, {:.1} s, peak memory {:.0} MB\n",
        started.elapsed().as_secs_f64(),
        peak_memory as f64 / 1e6,
    ));
    let written = match duel_report::write(run.path()) {
        // what failed is the answer: why there is nothing to report follows from it
        Err(_) if !failures.is_empty() => return Err(Error::Stages { failures, left_out: left_out.len() }),
        written => written?,
    };
    manifest.warnings.clone_from(&written.warnings);
    manifest.write(run.path())?;
    announce_files(written);
    if failures.is_empty() { Ok(()) } else { Err(Error::Stages { failures, left_out: left_out.len() }) }
}

/// Says where a page is, and what to know before it is believed.
fn announce_files(ReportSummary { page, warnings }: ReportSummary) {
    let warnings: String = warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    crate::print(&format!("{warnings}{}\n", page.display()));
}

/// Writes the report of a run, one chart of it, or the page that compares several.
pub fn report(args: &ReportArgs) -> Result<()> {
    match (&args.runs[..], &args.figure) {
        ([run], None) => announce_files(duel_report::write(run)?),
        ([run], Some(name)) if name == "list" => crate::print(&(duel_report::figures(run)?.join("\n") + "\n")),
        ([run], Some(name)) => {
            let (bytes, warnings) = duel_report::figure(run, name, args.width, args.format, args.theme)?;
            crate::warn(&warnings);
            let path = args.output.clone().unwrap_or_else(|| format!("{name}.{}", args.format).into());
            duel_ledger::write_atomically(&path, &bytes)?;
            crate::print(&format!("{}\n", path.display()));
        }
        (runs, _) => {
            let beside = runs[0].parent().unwrap_or(Path::new("."));
            let to = args.to.clone().unwrap_or_else(|| beside.join("comparison"));
            announce_files(duel_report::compare(runs, &to)?);
        }
    }
    Ok(())
}

/// Runs what an experiment asks for, round after round: one where nothing is searched. The manifest of an earlier invocation
/// says which of the same stages have diverged.
fn rounds(
    experiment: &Experiment,
    executor: Executor,
    settings: &RunOptions<'_>,
    (manifest, before): (&mut Manifest, Option<Manifest>),
    board: &mut ProgressReporter,
    outcome: &mut RunSummary,
) -> Result<Plan> {
    let (run, mut rounds, mut found) = (settings.run, vec![], TuningResults::default());
    let mut plan = Plan { stages: vec![] };
    while let Some(round) = search::next_round(experiment, &rounds, &found)? {
        if experiment.is_tuned() {
            board.print_line(&round_summary(&round, rounds.len() + 1));
        }
        rounds.push(round);
        let cells: Vec<Cell> = rounds.iter().flat_map(|round| experiment.cells_for(round)).collect();
        let from = plan.stages.len();
        plan = Plan::new(experiment, settings.device, cells.clone())?;
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
        match executor {
            Executor::Local => execute(&plan, from, settings, board, outcome)?,
            Executor::Slurm => slurm::execute(&plan, from, &experiment.slurm, settings, board, outcome)?,
        }
        if settings.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        if settings.fail_fast && !outcome.failures.is_empty() {
            break;
        }
        if experiment.is_tuned() {
            duel_ledger::merge(run.path(), manifest, RunSubset::Search)?;
            found = TuningResults::read(run.path(), experiment, &cells)?;
        }
    }
    Ok(plan)
}

/// Writes down what is run, once it is known that it can be planned: an experiment that cannot leaves the run of an earlier one
/// as it was. What a search of other settings asked for is no part of this one.
fn begin(run: &RunDir, experiment: &Experiment, manifest: &mut Manifest, before: Option<&Manifest>) -> Result<()> {
    manifest.claims = Some(standing_claims(run, experiment, manifest, before));
    if before.is_none_or(|before| before.experiment != manifest.experiment) {
        duel_ledger::forget_rounds(run.path())?;
    }
    Ok(write_atomically(&run.path().join("experiment.toml"), manifest.experiment.as_bytes())?)
}

/// The claims that stood before their answer could be known: all of them where this run has no finished cell; else those that
/// it has on record. Where every cell is another run's, those that stood there too.
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
    let asked: Vec<_> = experiment.claims.iter().map(|claim| serde_json::json!(claim)).collect();
    let own = before.and_then(|before| before.claims.clone());
    match own {
        Some(claims) if has_finished(run.path()) => return claims,
        None if has_finished(run.path()) => return vec![],
        _ => {}
    }
    let beside = std::fs::read_dir(run.path().parent().unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    let beside: Vec<_> = beside.map(|entry| entry.path()).filter(|path| has_all(path)).collect();
    if beside.is_empty() {
        return asked;
    }
    let theirs = beside.iter().filter_map(|path| Manifest::read(path).ok()?.claims).flatten();
    theirs
        .filter(|claim| asked.contains(claim))
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

/// Stages at once: as many as were asked for, or as there are cores. A pretrained model is held once: its stages run one by one, on
/// every core.
pub fn concurrent_stages(experiment: &Experiment, asked: Option<u16>) -> usize {
    if experiment.is_pretrained() { 1 } else { asked.map_or_else(host::cores, usize::from) }
}

fn manifest(experiment: &Experiment, document: &Document, device: &str, jobs: usize) -> Result<Manifest> {
    let mut inputs = BTreeMap::from([("experiment".to_string(), experiment_hash(experiment))]);
    inputs.extend(judge_inputs(&judge_files(experiment)?));
    if scene::reads_reviews(experiment) {
        inputs.extend(duel_data::reviews::FILES.map(|(name, hash)| (name.to_string(), hash.to_string())));
    }
    Ok(Manifest {
        format: FORMAT_VERSION,
        duel: env!("CARGO_PKG_VERSION").into(),
        commit: COMMIT.into(),
        host: host::describe(),
        device: device.into(),
        jobs,
        threads_per_job: if experiment.is_pretrained() { host::cores() } else { 1 },
        command: host::command(),
        inputs,
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        exit: "running".into(),
        experiment: document.to_toml(),
        ..Manifest::default()
    })
}

fn finish(manifest: &mut Manifest, outcome: &RunSummary, ended_by: Option<&Error>, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    manifest.ended = Some(manifest.started + seconds as u64);
    manifest.wall_seconds = Some(seconds);
    manifest.exit = match ended_by {
        None if outcome.failures.is_empty() => "complete",
        Some(Error::Interrupted) => "interrupted",
        Some(Error::Detached) => "running",
        None | Some(_) => "failed",
    }
    .into();
    manifest.stages_reused = outcome.reused;
    manifest.stages_made = outcome.made;
    manifest.peak_memory = outcome.peak_memory;
    let last = |tail: &str| {
        let told = tail.lines().find(|line| line.contains('×')).or(tail.lines().last()).unwrap_or_default();
        told.trim_matches([' ', '×']).to_string()
    };
    let words = |f: &StageFailure| f.ended.as_ref().map_or_else(|| last(&f.tail), |ended| ended.words.clone());
    manifest.failed = outcome.failures.iter().map(|f| (f.stage.clone(), words(f))).collect();
    manifest.failed.extend(outcome.left_out.iter().map(|stage| (stage.clone(), "needs what failed".into())));
    manifest.diverged.extend(
        outcome
            .failures
            .iter()
            .filter(|f| f.exit == 4 && f.ended.as_ref().is_some_and(|ended| ended.diverged))
            .map(|f| f.stage.clone()),
    );
}
