//! The interface of executors, which run the stages of a plan as worker processes, here or on a cluster.

use crate::error::{Error, Result, StageFailure};
use crate::plan::{Plan, Stage};
use duel_ledger::{Progress, RunDir, StageDir};
use duel_spec::Experiment;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// How a plan is run.
#[derive(Debug)]
pub struct RunOptions<'a> {
    pub run: &'a RunDir,
    pub device: &'a str,
    /// Stages at once on this machine: `--jobs`, by default the number of cores; 1 for a pretrained model, whose stages use
    /// every core. The executor `local` runs as many workers.
    pub jobs: usize,
    /// `--jobs` as given: on a cluster the most tasks of a job array at once; without it as many as the cluster grants.
    pub requested_jobs: Option<usize>,
    /// Minimum time between two checkpoints of a training.
    pub checkpoint_seconds: f64,
    /// Whether the first stage that fails ends the run.
    pub fail_fast: bool,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
}

/// The resources that an executor runs stages with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resources {
    /// Stages at once. `None` where a queue decides: it takes stages before those that they need are finished.
    pub slots: Option<usize>,
    /// Threads of a stage that may use every core; any other stage has one.
    pub shared_cores: usize,
    /// How often a stage is tried again whose worker was ended by the system.
    pub retries: usize,
    /// Seconds between two polls.
    pub poll_seconds: f64,
    /// Whether tasks continue when this process ends.
    pub is_detached: bool,
}

impl Resources {
    /// Threads of a stage. A stage of one thread gives the same result however many run at once.
    pub fn threads(&self, stage: &Stage) -> usize {
        if stage.wide { self.shared_cores } else { 1 }
    }
}

/// The state of the task that a stage was submitted as.
#[derive(Debug)]
pub enum TaskState {
    Pending,
    Running(Option<Progress>),
    /// The stage is finished.
    Finished,
    /// The task is gone without having finished its stage.
    Ended,
}

/// Why a task is gone without having finished its stage.
#[derive(Debug)]
pub enum TaskFailure {
    /// On request: the run ends.
    Cancelled,
    /// A stage that it needs was not finished: it is submitted again.
    MissingInput,
    /// By the system (memory, a signal, a time limit): it is submitted again, up to [`Resources::retries`] times.
    Killed {
        /// Shown to the user where it is submitted again.
        message: String,
        failure: StageFailure,
    },
    /// By itself: it would fail again.
    Failed(StageFailure),
}

/// What happens while a plan runs. Stages are given by their index in the plan.
#[derive(Debug)]
pub enum RunEvent<'a> {
    /// A line for the user and the log.
    Message(String),
    Planned {
        plan: &'a Plan,
        finished: Vec<bool>,
    },
    StageStarted(usize, &'a Stage),
    StageProgress(usize, Progress),
    /// Its worker is gone without having finished it.
    StageEnded(usize),
    StageFinished(usize, &'a Stage, Duration),
}

/// Where events go.
pub type Events<'a> = &'a mut dyn FnMut(RunEvent<'_>);

/// Runs stages of a plan, each as a task with one worker. Stages are given by their index in the plan.
pub trait Executor {
    /// Its resources.
    fn resources(&self) -> Resources;

    /// The waiting stages that tasks of an earlier command are still running.
    fn adopt(&mut self, _waiting: &[usize]) -> Result<Vec<usize>> {
        Ok(vec![])
    }

    /// Submits stages; returns the state that they are in then. `open` are all stages that are neither finished nor lost.
    fn submit(&mut self, stages: &[usize], open: &[usize], events: Events<'_>) -> Result<TaskState>;

    /// State changes of the submitted stages.
    fn poll(&mut self, submitted: &[usize]) -> Result<Vec<(usize, TaskState)>>;

    /// Why the task of a stage is gone, after so many attempts of this command.
    fn failure(&mut self, stage: usize, attempts: usize) -> Result<TaskFailure>;

    /// Ends all tasks.
    fn cancel(&mut self) -> Result<()>;

    /// Resident memory of all its processes on this machine, bytes.
    fn memory(&self) -> u64 {
        0
    }
}

/// An executor by name.
#[derive(Debug)]
pub struct ExecutorEntry {
    /// As `--executor` takes it.
    pub name: &'static str,
    /// Where stages run, for `--help`.
    pub about: &'static str,
    pub open: for<'a> fn(&'a Plan, &'a Experiment, &'a RunOptions<'a>) -> Result<Box<dyn Executor + 'a>>,
    /// Cancels the tasks of a run that another process has submitted; returns how many job arrays these were.
    pub cancel: Option<fn(&RunDir) -> Result<usize>>,
}

/// Whether a stage is finished, as the run directory says.
pub fn is_finished(run: &RunDir, stage: &Stage) -> Result<bool> {
    let folder = run.stages().join(stage.id.folder());
    Ok(folder.is_dir() && StageDir::open(&run.stages(), &stage.id)?.is_some())
}

/// The program that workers run: this one.
pub fn worker_program() -> Result<std::path::PathBuf> {
    std::env::current_exe().map_err(|source| Error::Worker { source })
}
