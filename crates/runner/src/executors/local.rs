//! The executor `local`: worker processes of this machine, as many at once as [`RunOptions::jobs`].

use super::executor::{
    Events, Executor, ExecutorEntry, Resources, RunOptions, TaskFailure, TaskState, is_finished, worker_program,
};
use crate::error::{Error, Result, StageFailure, WorkerEnd};
use crate::plan::{Plan, Stage};
use crate::sysinfo;
use duel_ledger::Progress;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

pub const ENTRY: ExecutorEntry = ExecutorEntry {
    name: "local",
    about: "on this machine",
    open: |plan, _, options| Ok(Box::new(LocalExecutor::new(plan, options))),
    cancel: None,
};

/// Time that workers get to stop by themselves after Ctrl-C.
const GRACE: Duration = Duration::from_secs(3);
/// How often a worker that the system ended is started again.
const RETRIES: usize = 2;
/// Longest wait for the first line of any worker.
const PAUSE: Duration = Duration::from_millis(50);

/// What the threads that read from workers send, with the stage's index.
enum WorkerEvent {
    Progress(usize, Progress),
    End(usize, WorkerEnd),
    /// The worker's standard error, once it has closed.
    Stderr(usize, String),
}

/// What a worker has written about its end.
#[derive(Debug, Clone, Default)]
struct WorkerOutput {
    stderr: String,
    end: Option<WorkerEnd>,
}

struct Worker {
    stage: usize,
    child: Child,
}

/// Worker processes of this machine. However the run ends, none outlives it.
struct LocalExecutor<'a> {
    plan: &'a Plan,
    options: &'a RunOptions<'a>,
    workers: Vec<Worker>,
    sender: Sender<WorkerEvent>,
    receiver: Receiver<WorkerEvent>,
    /// By stage.
    outputs: Vec<WorkerOutput>,
    /// Progress that was read since the last poll.
    progress: Vec<(usize, Progress)>,
    /// How the workers ended that have not finished their stages.
    exits: BTreeMap<usize, ExitStatus>,
}

impl<'a> LocalExecutor<'a> {
    fn new(plan: &'a Plan, options: &'a RunOptions<'a>) -> Self {
        let (sender, receiver) = channel();
        Self {
            plan,
            options,
            workers: vec![],
            sender,
            receiver,
            outputs: vec![WorkerOutput::default(); plan.stages.len()],
            progress: vec![],
            exits: BTreeMap::new(),
        }
    }

    /// Reads what workers have written, waiting a moment for the first line.
    fn listen(&mut self) {
        let mut wait = PAUSE;
        while let Ok(event) = self.receiver.recv_timeout(wait) {
            wait = Duration::ZERO;
            match event {
                WorkerEvent::Progress(stage, progress) => self.progress.push((stage, progress)),
                WorkerEvent::End(stage, end) => self.outputs[stage].end = Some(end),
                WorkerEvent::Stderr(stage, text) => self.outputs[stage].stderr = text,
            }
        }
    }

    /// Closing their standard input asks workers to stop; those that do not are killed. Nothing is lost, as a stage appears
    /// whole or not at all.
    fn stop_workers(&mut self) {
        self.workers.iter_mut().for_each(|worker| drop(worker.child.stdin.take()));
        let started = Instant::now();
        let is_running = |worker: &mut Worker| matches!(worker.child.try_wait(), Ok(None));
        while started.elapsed() < GRACE && self.workers.iter_mut().any(is_running) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for worker in &mut self.workers {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
        self.workers.clear();
    }
}

impl Executor for LocalExecutor<'_> {
    fn resources(&self) -> Resources {
        Resources {
            slots: Some(self.options.jobs),
            shared_cores: sysinfo::cores(),
            retries: RETRIES,
            poll_seconds: 0.0, // a poll waits for what workers write
            is_detached: false,
        }
    }

    fn submit(&mut self, stages: &[usize], _open: &[usize], _events: Events<'_>) -> Result<TaskState> {
        for &stage in stages {
            let threads = self.resources().threads(&self.plan.stages[stage]);
            let child = spawn(stage, threads, self.options, &self.sender)?;
            self.workers.push(Worker { stage, child });
        }
        Ok(TaskState::Running(None))
    }

    /// Returns at most one ended stage: its consequences are handled before the next one is reported.
    fn poll(&mut self, _submitted: &[usize]) -> Result<Vec<(usize, TaskState)>> {
        self.listen();
        let mut changes: Vec<(usize, TaskState)> =
            self.progress.drain(..).map(|(stage, progress)| (stage, TaskState::Running(Some(progress)))).collect();
        for index in 0..self.workers.len() {
            let status = self.workers[index].child.try_wait().map_err(|source| Error::Worker { source })?;
            let Some(status) = status else { continue };
            let stage = self.workers.swap_remove(index).stage;
            let is_done = status.success() && is_finished(self.options.run, &self.plan.stages[stage])?;
            if !is_done {
                self.exits.insert(stage, status);
            }
            changes.push((stage, if is_done { TaskState::Finished } else { TaskState::Ended }));
            break;
        }
        Ok(changes)
    }

    fn failure(&mut self, stage: usize, attempts: usize) -> Result<TaskFailure> {
        let status = self.exits.remove(&stage).unwrap_or_default();
        if self.options.stop.load(Ordering::Relaxed) || status.code() == Some(130) {
            return Ok(TaskFailure::Cancelled);
        }
        std::thread::sleep(Duration::from_millis(100)); // its last lines may still be on their way
        self.listen();
        let failure = stage_failure(&self.plan.stages[stage], &self.outputs[stage], status);
        if status.code().is_some() {
            return Ok(TaskFailure::Failed(failure));
        }
        let message = format!(
            "{}: its worker was ended by {status}; restarted from its last checkpoint, alone ({} of {})",
            failure.stage,
            attempts + 1,
            RETRIES + 1
        );
        Ok(TaskFailure::Killed { message, failure })
    }

    fn cancel(&mut self) -> Result<()> {
        self.stop_workers();
        Ok(())
    }

    fn memory(&self) -> u64 {
        let workers = self.workers.iter().map(|worker| sysinfo::memory_of(worker.child.id()));
        sysinfo::memory_of(std::process::id()) + workers.sum::<u64>()
    }
}

impl Drop for LocalExecutor<'_> {
    fn drop(&mut self) {
        self.stop_workers();
    }
}

/// Why a worker did not finish its stage.
fn stage_failure(stage: &Stage, output: &WorkerOutput, status: ExitStatus) -> StageFailure {
    let mut tail = output.stderr.trim().to_string();
    if status.code().is_none() {
        tail = format!("{tail}\nthe worker was ended by {status} (out of memory?)").trim().to_string();
    }
    let exit = status.code().map_or(1, |code| code.clamp(1, 255) as u8);
    StageFailure { stage: stage.label(), tail, exit, ended: output.end.clone() }
}

/// Starts the worker of a stage, and the threads that read what it writes.
fn spawn(stage: usize, threads: usize, options: &RunOptions<'_>, sender: &Sender<WorkerEvent>) -> Result<Child> {
    let mut child = Command::new(worker_program()?)
        .arg("worker")
        .arg("--run")
        .arg(options.run.path())
        .args(["--stage", &stage.to_string(), "--device", options.device])
        .args(["--checkpoint-seconds", &options.checkpoint_seconds.to_string()])
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Worker { source })?;
    let (of_stdout, of_stderr) = (sender.clone(), sender.clone());
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                if let Ok(progress) = serde_json::from_str(&line) {
                    let _ = of_stdout.send(WorkerEvent::Progress(stage, progress));
                } else if let Ok(end) = serde_json::from_str(&line) {
                    let _ = of_stdout.send(WorkerEvent::End(stage, end));
                }
            }
        });
    }
    if let Some(mut stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            let _ = of_stderr.send(WorkerEvent::Stderr(stage, String::from_utf8_lossy(&text).into_owned()));
        });
    }
    Ok(child)
}
