//! `duel run` and `duel plan`.

use crate::cli::{ExperimentArgs, RunArgs};
use crate::execute::{Outcome, Settings, execute};
use crate::plan::{Kind, Plan, experiment_hash};
use crate::progress::Board;
use crate::{Error, Result, host};
use duel_ledger::{Manifest, RunDir, RunLock, merge_tables, write_atomically};
use duel_spec::{Document, Experiment, FORMAT_VERSION, WorldKind};
use std::collections::BTreeMap;
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
pub(crate) fn prepare(args: &ExperimentArgs) -> Result<(Experiment, Document, Plan)> {
    let (experiment, document) = Experiment::load(&args.file, &args.overrides())?;
    duel_model::device::open(&args.device)?;
    if experiment.world.kind == WorldKind::Reviews {
        duel_data::reviews::check_present(Path::new(&experiment.world.reviews.data))?;
    }
    let plan = Plan::new(&experiment, &args.device)?;
    Ok((experiment, document, plan))
}

/// Runs an experiment to its page.
pub fn run(args: &RunArgs) -> Result<()> {
    let started = Instant::now();
    let (experiment, document, plan) = prepare(&args.experiment)?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // the first asks for a clean stop, the second ends at once
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())
            .map_err(|source| Error::Worker { source })?;
        signal_hook::flag::register(signal, stop.clone()).map_err(|source| Error::Worker { source })?;
    }
    let jobs = args.jobs.map_or_else(host::cores, usize::from);
    let run = RunDir::create(&args.experiment.out, &experiment.name)?;
    let _lock = RunLock::take(run.path())?;
    write_atomically(&run.path().join("experiment.toml"), document.to_toml().as_bytes())?;
    let mut manifest = manifest(&experiment, &plan, &args.experiment.device, jobs);
    manifest.write(run.path())?;

    let mut board = Board::new(jobs);
    board.say(&format!("{}: {}", experiment.name, experiment.question));
    let settings = Settings {
        run: &run,
        device: &args.experiment.device,
        jobs,
        checkpoint_seconds: args.checkpoint_seconds,
        fail_fast: args.fail_fast && !args.keep_going,
        stop: &stop,
    };
    let outcome = execute(&plan, &settings, &mut board).and_then(|outcome| {
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        board.say("merging and reporting");
        merge(&run, &plan)?;
        if run.path().join("metrics.parquet").is_file() {
            duel_ledger::write_events(run.path(), manifest.started)?;
        }
        Ok(outcome)
    });
    board.finish();
    finish(&mut manifest, &outcome, started);
    manifest.write(run.path())?;
    let Outcome { reused, made, failures, left_out, peak_memory } = outcome?;
    let has_cells = plan.stages.iter().any(|s| s.kind == Kind::Cell && run.stages().join(s.id.folder()).is_dir());
    if !failures.is_empty() && !has_cells {
        return Err(Error::Stages { failures, left_out: left_out.len() }); // nothing to report
    }
    let page = duel_report::write(run.path())?;
    crate::print(&format!(
        "{} stages made, {} reused, {:.1} s, peak memory {:.0} MB\n{}\n",
        made,
        reused,
        started.elapsed().as_secs_f64(),
        peak_memory as f64 / 1e6,
        page.display()
    ));
    if failures.is_empty() { Ok(()) } else { Err(Error::Stages { failures, left_out: left_out.len() }) }
}

fn manifest(experiment: &Experiment, plan: &Plan, device: &str, jobs: usize) -> Manifest {
    let mut inputs = BTreeMap::from([("experiment".to_string(), experiment_hash(experiment))]);
    if experiment.world.kind == WorldKind::Reviews {
        inputs.extend(duel_data::reviews::FILES.map(|(name, hash)| (name.to_string(), hash.to_string())));
    }
    Manifest {
        format: FORMAT_VERSION,
        duel: env!("CARGO_PKG_VERSION").into(),
        commit: COMMIT.into(),
        host: host::describe(),
        device: device.into(),
        jobs,
        threads_per_job: 1,
        command: std::env::args().collect(),
        inputs,
        stages: plan.stages.iter().map(|s| (s.label(), s.id.folder())).collect(),
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        exit: "running".into(),
        ..Manifest::default()
    }
}

fn finish(manifest: &mut Manifest, outcome: &Result<Outcome>, started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    manifest.ended = Some(manifest.started + seconds as u64);
    manifest.wall_seconds = Some(seconds);
    manifest.exit = match outcome {
        Ok(outcome) if outcome.failures.is_empty() => "complete",
        Err(Error::Interrupted) => "interrupted",
        Ok(_) | Err(_) => "failed",
    }
    .into();
    if let Ok(outcome) = outcome {
        manifest.stages_reused = outcome.reused;
        manifest.stages_made = outcome.made;
        manifest.peak_memory = outcome.peak_memory;
        let last = |tail: &str| {
            let told = tail.lines().find(|line| line.contains('×')).or(tail.lines().last()).unwrap_or_default();
            told.trim_matches([' ', '×']).to_string()
        };
        manifest.failed = outcome.failures.iter().map(|f| (f.stage.clone(), last(&f.tail))).collect();
        manifest.failed.extend(outcome.left_out.iter().map(|stage| (stage.clone(), "needs what failed".into())));
    }
}

/// Joins what the stages measured, in the plan's order.
fn merge(run: &RunDir, plan: &Plan) -> Result<()> {
    for file in ["metrics.parquet", "completions.parquet"] {
        let parts: Vec<_> = plan
            .stages
            .iter()
            .map(|s| run.stages().join(s.id.folder()).join(file))
            .filter(|path| path.is_file())
            .collect();
        merge_tables(&parts, &run.path().join(file))?;
    }
    Ok(())
}
