//! `duel worker`: one process, one stage. It reports progress as JSON lines on standard output and stops when its parent is
//! gone, unless it is detached.

use crate::error::{Error, Result, WorkerEnd};
use crate::executors::WorkerExitReport;
use crate::log;
use crate::plan::{Plan, Stage};
use crate::stages::{StageContext, run_stage};
use crate::sysinfo;
use duel_ledger::{Lease, Manifest, Pace, Progress, RunDir, StageDir, StageRecorder};
use duel_spec::{Experiment, FORMAT_VERSION, NO_POINT, Recorder, SHARED_ARM};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Runs one stage. A failure is reported to the parent or, if the worker is detached, written to a file.
pub fn worker(run: &Path, stage: usize, device: &str, checkpoint_seconds: f64, detached: bool) -> Result<()> {
    let done = work(run, stage, device, Duration::from_secs_f64(checkpoint_seconds), detached);
    match &done {
        Ok(()) => {}
        Err(error) if detached => WorkerExitReport::write(run, stage, error),
        Err(error) => report_end(error),
    }
    done
}

/// Tells the parent why a stage was not finished.
fn report_end(error: &Error) {
    let line = serde_json::to_string(&WorkerEnd::by(error)).expect("plain data");
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Least time between two lines of progress.
const PAUSE: Duration = Duration::from_millis(200);

/// Does the stage of this index in the run's plan.
fn work(run: &Path, index: usize, device: &str, checkpoints: Duration, detached: bool) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in sysinfo::ending_signals() {
        signal_hook::flag::register(signal, stop.clone()).map_err(|source| Error::Worker { source })?;
    }
    if !detached {
        log::write_to(run);
        stop_with_parent(stop.clone());
    }
    let (experiment, _) = Experiment::load(&run.join("experiment.toml"), &[])?;
    sysinfo::set_purge_delay(sysinfo::purge_milliseconds(experiment.is_pretrained(), experiment.model.numbers));
    let plan = Plan::new(&experiment, device, duel_ledger::cells_of(run, &experiment)?)?;
    let Some(stage) = plan.stages.get(index) else {
        return Err(Error::StrayWorker { place: index, name: experiment.name });
    };
    // what lies outside the experiment's file may have changed since the run was planned
    if let Ok(manifest) = Manifest::read(run)
        && manifest.stages.get(&stage.label()).is_some_and(|planned| *planned != stage.id.folder())
    {
        return Err(Error::Changed { stage: stage.label() });
    }
    let run = RunDir::create(run.parent().unwrap_or(Path::new(".")), &experiment.name)?;
    if let Some(missing) = stage.needs.iter().find(|&&need| !run.stages().join(plan.stages[need].id.folder()).is_dir())
    {
        return Err(Error::Missing { stage: stage.label(), needs: plan.stages[*missing].label() });
    }
    let _lease = take_lease(&run, stage, &stop)?;
    if run.find_stage(&stage.id)?.is_some() {
        tracing::debug!(stage = stage.label(), "was finished by another");
        return Ok(());
    }
    let (arm, method, point) = match &stage.cell {
        Some(cell) => (cell.arm.as_str(), cell.point.method.name(), cell.point.label.as_str()),
        None => (SHARED_ARM, stage.kind.name(), NO_POINT),
    };
    let (mut last, mut pace) = (Instant::now() - PAUSE, Pace::default());
    let report = move |done, total, message: &str| {
        let is_new = pace.update(done, total, 0.0);
        if detached || (last.elapsed() < PAUSE && done < total && !is_new) {
            return; // nobody reads it, or the last line is recent
        }
        last = Instant::now();
        let line = serde_json::to_string(&Progress { done, total, message: message.into() }).expect("plain data");
        let _ = writeln!(std::io::stdout(), "{line}");
    };
    let tag = format!("{FORMAT_VERSION} {} {device}", sysinfo::COMMIT);
    let resumes = run.stages().join(stage.id.checkpoint_dir()).is_dir();
    tracing::debug!(stage = stage.label(), process = std::process::id(), resumes, "running");
    let mut recorder = StageRecorder::new(arm, method, point, stage.seed, Box::new(report)).with_checkpoints(
        &run.stages(),
        &stage.id,
        &tag,
        checkpoints,
    );
    recorder = recorder.with_live_file(run.path(), &stage.id.folder());
    recorder.progress(0, 1, "started");
    let context = StageContext::new(&experiment, &plan, stage, &run, duel_model::device::open(device)?, &stop);
    StageDir::make(&run.stages(), &stage.id, &stage.key, |to| {
        duel_model::catching(|| run_stage(&context, to, &mut recorder))
    })?;
    Ok(())
}

/// Waits for the lease of a stage: another process that runs it may finish first.
fn take_lease(run: &RunDir, stage: &Stage, stop: &Arc<AtomicBool>) -> Result<Lease> {
    tracing::debug!(stage = stage.label(), process = std::process::id(), "waits for the lease");
    loop {
        if let Some(lease) = Lease::take(&run.stages(), &stage.id, stop.clone())? {
            return Ok(lease);
        }
        if stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The parent holds the other end of standard input; when it closes, the parent is gone.
fn stop_with_parent(stop: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|n| n > 0) {}
        stop.store(true, Ordering::Relaxed);
        // a stage that does not ask whether to stop is left where it is: it is not yet renamed into place
        std::thread::sleep(Duration::from_secs(2));
        std::process::exit(130);
    });
}
