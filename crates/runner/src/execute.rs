//! Runs a plan: finished stages are found, the others go to worker processes, as many at once as jobs.

use crate::plan::{Plan, Stage};
use crate::progress::ProgressReporter;
use crate::worker::{Progress, WorkerEnd};
use crate::{Error, Result, host};
use duel_ledger::{RunDir, StageDir};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How a plan is run.
#[derive(Debug)]
pub struct RunOptions<'a> {
    pub run: &'a RunDir,
    pub device: &'a str,
    pub jobs: usize,
    /// What `--jobs` said.
    pub asked: Option<usize>,
    /// Least time between two checkpoints of a training.
    pub checkpoint_seconds: f64,
    /// Whether the first stage that fails ends the run.
    pub fail_fast: bool,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct RunSummary {
    pub reused: usize,
    pub made: usize,
    pub failures: Vec<StageFailure>,
    /// Stages that were not begun, as one that they need has failed.
    pub left_out: Vec<String>,
    /// Largest sum of resident memory of this process and its workers, bytes.
    pub peak_memory: u64,
}

/// A stage that could not be made.
#[derive(Debug, Clone)]
pub struct StageFailure {
    pub stage: String,
    /// The last words of its worker.
    pub tail: String,
    pub exit: u8,
    /// What the worker itself says of its end, where it could.
    pub ended: Option<WorkerEnd>,
}

/// What the threads that listen to workers send.
enum WorkerEvent {
    Progress(usize, Progress),
    Ended(usize, WorkerEnd),
    /// The worker's standard error, once it has closed.
    Said(usize, String),
}

/// What a worker has said of its end.
#[derive(Debug, Clone, Default)]
struct WorkerOutcome {
    text: String,
    ended: Option<WorkerEnd>,
}

struct Running {
    place: usize,
    child: Child,
    started: Instant,
}

/// Where a stage stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageStatus {
    /// How often its worker was ended by the system.
    Waiting {
        killed: usize,
    },
    Running {
        killed: usize,
    },
    Finished,
    /// It failed, or one that it needs did.
    Lost,
}

/// Time that workers get to stop by themselves after Ctrl-C.
const GRACE: Duration = Duration::from_secs(3);
/// How often a worker that the system ended is started again. A training that fails by itself would fail again.
const RETRIES: usize = 2;

/// Runs all stages that are not finished. One that fails costs itself and what needs it; the rest goes on. Those up to
/// `from` were run before: what of them is not finished has failed. What came of it is in `outcome` however it ends.
///
/// # Errors
/// [`Error::Interrupted`] on Ctrl-C; a run directory that cannot be used.
pub fn execute(
    plan: &Plan,
    from: usize,
    settings: &RunOptions<'_>,
    board: &mut ProgressReporter,
    outcome: &mut RunSummary,
) -> Result<()> {
    let mut states = initial_statuses(plan, from, settings.run, board, outcome)?;
    board.start(plan, &states.iter().map(|state| *state == StageStatus::Finished).collect::<Vec<_>>());
    let (sender, receiver) = channel();
    let mut running = Workers::default();
    let mut words = vec![WorkerOutcome::default(); plan.stages.len()];
    loop {
        if settings.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        // 1. Start what can be started. A worker that was killed, perhaps for memory, works alone the next time.
        while let Some((place, killed)) = next(plan, &states, settings.jobs) {
            states[place] = StageStatus::Running { killed };
            let child = spawn(place, &plan.stages[place], settings, &sender)?;
            board.stage_started(place, &plan.stages[place]);
            running.0.push(Running { place, child, started: Instant::now() });
        }
        if running.0.is_empty() {
            return Ok(());
        }

        // 2. Listen.
        listen(&receiver, &mut words, board);
        outcome.peak_memory = outcome.peak_memory.max(
            host::memory_of(std::process::id()) + running.0.iter().map(|r| host::memory_of(r.child.id())).sum::<u64>(),
        );

        // 3. See who has ended, and how.
        let mut at = 0;
        while at < running.0.len() {
            let Some(status) = running.0[at].child.try_wait().map_err(|source| Error::Worker { source })? else {
                at += 1;
                continue;
            };
            let worker = running.0.swap_remove(at);
            let (place, stage) = (worker.place, &plan.stages[worker.place]);
            if status.success() && StageDir::open(&settings.run.stages(), &stage.id)?.is_some() {
                states[place] = StageStatus::Finished;
                outcome.made += 1;
                board.stage_finished(place, stage, worker.started.elapsed());
                continue;
            }
            if settings.stop.load(Ordering::Relaxed) || status.code() == Some(130) {
                return Err(Error::Interrupted);
            }
            let killed = if let StageStatus::Running { killed } = states[place] { killed } else { 0 };
            if status.code().is_none() && killed < RETRIES {
                states[place] = StageStatus::Waiting { killed: killed + 1 };
                board.stage_ended(place);
                let (label, again) = (stage.label(), killed + 2);
                board.print_line(&format!(
                    "{label}: its worker was ended by {status}; begun again from its last checkpoint, alone ({again} of {})",
                    RETRIES + 1
                ));
                continue;
            }
            std::thread::sleep(Duration::from_millis(100)); // its last words may still be on their way
            listen(&receiver, &mut words, board);
            let failure = failure(stage, &words[place], status);
            tracing::warn!(stage = failure.stage, exit = failure.exit, "failed");
            board.stage_ended(place);
            board.print_line(&format!("{} failed:\n{}", failure.stage, failure.tail));
            outcome.failures.push(failure);
            for lost in with_dependents(plan, place) {
                // one that needs two stages that failed is left out once
                if lost != place && states[lost] != StageStatus::Lost {
                    outcome.left_out.push(plan.stages[lost].label());
                }
                states[lost] = StageStatus::Lost;
            }
            if settings.fail_fast {
                return Ok(());
            }
        }
    }
}

/// Where every stage stands before anything is begun. Stages up to `from` were run by an earlier round, which has looked into
/// them: what of them is not there is lost, with all that need it.
pub fn initial_statuses(
    plan: &Plan,
    from: usize,
    run: &RunDir,
    board: &ProgressReporter,
    outcome: &mut RunSummary,
) -> Result<Vec<StageStatus>> {
    let mut states = Vec::<StageStatus>::with_capacity(plan.stages.len());
    for (place, stage) in plan.stages.iter().enumerate() {
        let state = if place < from {
            if run.stages().join(stage.id.folder()).is_dir() { StageStatus::Finished } else { StageStatus::Lost }
        } else {
            let (there, damage) = run.find_or_quarantine(&stage.id)?;
            damage.iter().for_each(|damage| board.print_line(damage));
            if there.is_some() {
                outcome.reused += 1;
                StageStatus::Finished
            } else if stage.needs.iter().any(|&need| states[need] == StageStatus::Lost) {
                outcome.left_out.push(stage.label());
                StageStatus::Lost
            } else {
                StageStatus::Waiting { killed: 0 }
            }
        };
        states.push(state);
    }
    Ok(states)
}

/// The next stage that can be started, and how often it was killed.
fn next(plan: &Plan, states: &[StageStatus], jobs: usize) -> Option<(usize, usize)> {
    let running = states.iter().filter(|state| matches!(state, StageStatus::Running { .. })).count();
    let alone = states.iter().any(|state| matches!(state, StageStatus::Running { killed: 1.. }));
    let wide = states
        .iter()
        .zip(&plan.stages)
        .any(|(state, stage)| matches!(state, StageStatus::Running { .. }) && stage.wide);
    if running >= jobs || alone || wide {
        return None;
    }
    let ready = |place: usize| match states[place] {
        StageStatus::Waiting { killed }
            if plan.stages[place].needs.iter().all(|&n| states[n] == StageStatus::Finished) =>
        {
            Some((place, killed))
        }
        _ => None,
    };
    let mut ready: Vec<(usize, usize)> = (0..plan.stages.len()).filter_map(ready).collect();
    ready.sort_by_key(|&(place, killed)| (killed > 0, place)); // those that were killed wait until they can be alone
    ready.into_iter().find(|&(place, killed)| (killed == 0 && !plan.stages[place].wide) || running == 0)
}

/// A stage and all that need it.
pub fn with_dependents(plan: &Plan, place: usize) -> Vec<usize> {
    let mut lost = vec![place];
    for later in place + 1..plan.stages.len() {
        if plan.stages[later].needs.iter().any(|need| lost.contains(need)) {
            lost.push(later);
        }
    }
    lost
}

/// What is known of a worker that did not finish its stage.
fn failure(stage: &Stage, words: &WorkerOutcome, status: ExitStatus) -> StageFailure {
    let mut tail = words.text.trim().to_string();
    if status.code().is_none() {
        tail = format!("{tail}\nthe worker was ended by {status} (out of memory?)").trim().to_string();
    }
    let exit = status.code().map_or(1, |code| code.clamp(1, 255) as u8);
    StageFailure { stage: stage.label(), tail, exit, ended: words.ended.clone() }
}

/// Takes in what workers have said, waiting a moment for the first word.
fn listen(receiver: &Receiver<WorkerEvent>, words: &mut [WorkerOutcome], board: &mut ProgressReporter) {
    let mut wait = Duration::from_millis(50);
    while let Ok(news) = receiver.recv_timeout(wait) {
        wait = Duration::ZERO;
        match news {
            WorkerEvent::Progress(place, progress) => board.stage_progress(place, &progress),
            WorkerEvent::Ended(place, ended) => words[place].ended = Some(ended),
            WorkerEvent::Said(place, text) => words[place].text = text,
        }
    }
}

/// Starts a worker. A stage that stands alone in the plan gets every core, all others one thread, so that
/// results do not depend on the number of jobs.
fn spawn(place: usize, stage: &Stage, settings: &RunOptions<'_>, sender: &Sender<WorkerEvent>) -> Result<Child> {
    let threads = if stage.wide { host::cores() } else { 1 };
    let program = std::env::current_exe().map_err(|source| Error::Worker { source })?;
    let mut child = Command::new(program)
        .arg("worker")
        .arg("--run")
        .arg(settings.run.path())
        .args(["--stage", &place.to_string(), "--device", settings.device])
        .args(["--checkpoint-seconds", &settings.checkpoint_seconds.to_string()])
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Worker { source })?;
    let (progress, said) = (sender.clone(), sender.clone());
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                if let Ok(news) = serde_json::from_str(&line) {
                    let _ = progress.send(WorkerEvent::Progress(place, news));
                } else if let Ok(ended) = serde_json::from_str(&line) {
                    let _ = progress.send(WorkerEvent::Ended(place, ended));
                }
            }
        });
    }
    if let Some(mut stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            let _ = said.send(WorkerEvent::Said(place, String::from_utf8_lossy(&text).into_owned()));
        });
    }
    Ok(child)
}

/// The workers that run; whichever way the run ends, none outlives it. Closing their standard input asks them
/// to stop; those that do not are killed. Nothing is lost, as a stage appears whole or not at all.
#[derive(Default)]
struct Workers(Vec<Running>);

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|r| drop(r.child.stdin.take()));
        let asked = Instant::now();
        while asked.elapsed() < GRACE && self.0.iter_mut().any(|r| matches!(r.child.try_wait(), Ok(None))) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for worker in &mut self.0 {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}
