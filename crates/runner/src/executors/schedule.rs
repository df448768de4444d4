//! Runs a plan through an executor: finished stages are reused, the others are submitted, polled and retried.

use super::executor::{Events, Executor, Resources, RunEvent, RunOptions, TaskFailure, TaskState};
use crate::error::{Error, Result, StageFailure};
use crate::plan::Plan;
use duel_ledger::RunDir;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The outcome of a run.
#[derive(Debug, Default)]
pub struct RunSummary {
    pub reused: usize,
    pub made: usize,
    pub failures: Vec<StageFailure>,
    /// Stages that were not started, because one that they need failed.
    pub left_out: Vec<String>,
    /// Largest sum of resident memory of this process and its workers, bytes.
    pub peak_memory: u64,
}

/// The status of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StageStatus {
    Waiting,
    /// Submitted, not yet running.
    Pending,
    Running {
        since: Instant,
    },
    Finished,
    /// It failed, or one that it needs did.
    Lost,
}

/// Longest sleep between two checks of the stop flag.
const MAX_SLEEP: Duration = Duration::from_millis(100);

/// Runs all stages that are not finished. A failed stage takes down those that need it; the others continue. Stages before
/// index `from` were run by an earlier round: those that are not finished have failed. `summary` is filled even on an error.
///
/// # Errors
/// On Ctrl-C [`Error::Detached`] if the tasks continue, else [`Error::Interrupted`]; a run directory that cannot be used; a
/// cluster that refuses a job.
pub fn execute(
    plan: &Plan,
    from: usize,
    executor: &mut dyn Executor,
    options: &RunOptions<'_>,
    summary: &mut RunSummary,
    events: Events<'_>,
) -> Result<()> {
    let resources = executor.resources();
    let mut schedule = Schedule::new(plan, from, options.run, summary, events)?;
    let finished = schedule.statuses.iter().map(|status| *status == StageStatus::Finished).collect();
    events(RunEvent::Planned { plan, finished });
    schedule.adopt(executor, events)?;
    loop {
        check_stop(options.stop, &resources)?;
        schedule.submit(executor, &resources, events)?;
        let submitted = schedule.submitted();
        if submitted.is_empty() {
            return Ok(());
        }
        wait(&resources, options.stop)?;
        summary.peak_memory = summary.peak_memory.max(executor.memory());
        for (stage, state) in executor.poll(&submitted)? {
            schedule.update(stage, state, executor, &resources, summary, events)?;
        }
        if options.fail_fast && !summary.failures.is_empty() {
            return executor.cancel();
        }
    }
}

fn check_stop(stop: &AtomicBool, resources: &Resources) -> Result<()> {
    match (stop.load(Ordering::Relaxed), resources.is_detached) {
        (false, _) => Ok(()),
        (true, true) => Err(Error::Detached),
        (true, false) => Err(Error::Interrupted),
    }
}

/// Sleeps until the next poll.
fn wait(resources: &Resources, stop: &AtomicBool) -> Result<()> {
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < resources.poll_seconds {
        check_stop(stop, resources)?;
        std::thread::sleep(MAX_SLEEP);
    }
    Ok(())
}

/// The status of every stage of a plan.
struct Schedule<'a> {
    plan: &'a Plan,
    statuses: Vec<StageStatus>,
    /// Submissions of each stage by this command, except those that found a needed stage missing.
    attempts: Vec<usize>,
}

impl<'a> Schedule<'a> {
    /// Before anything is submitted. Stages before `from` were checked by an earlier round: those without a folder are lost,
    /// with all that need them.
    fn new(
        plan: &'a Plan,
        from: usize,
        run: &RunDir,
        summary: &mut RunSummary,
        events: &mut dyn FnMut(RunEvent<'_>),
    ) -> Result<Self> {
        let mut statuses = Vec::<StageStatus>::with_capacity(plan.stages.len());
        for (index, stage) in plan.stages.iter().enumerate() {
            let status = if index < from {
                let is_there = run.stages().join(stage.id.folder()).is_dir();
                if is_there { StageStatus::Finished } else { StageStatus::Lost }
            } else {
                let (stage_dir, damage) = run.find_or_quarantine(&stage.id)?;
                damage.iter().for_each(|damage| events(RunEvent::Message(damage.clone())));
                if stage_dir.is_some() {
                    summary.reused += 1;
                    StageStatus::Finished
                } else if stage.needs.iter().any(|&need| statuses[need] == StageStatus::Lost) {
                    summary.left_out.push(stage.label());
                    StageStatus::Lost
                } else {
                    StageStatus::Waiting
                }
            };
            statuses.push(status);
        }
        Ok(Self { plan, statuses, attempts: vec![0; plan.stages.len()] })
    }

    fn stages_where(&self, is: impl Fn(StageStatus) -> bool) -> Vec<usize> {
        (0..self.statuses.len()).filter(|&stage| is(self.statuses[stage])).collect()
    }

    fn waiting(&self) -> Vec<usize> {
        self.stages_where(|status| status == StageStatus::Waiting)
    }

    fn submitted(&self) -> Vec<usize> {
        self.stages_where(|status| matches!(status, StageStatus::Pending | StageStatus::Running { .. }))
    }

    /// Neither finished nor lost.
    fn is_open(&self, stage: usize) -> bool {
        !matches!(self.statuses[stage], StageStatus::Finished | StageStatus::Lost)
    }

    /// Takes over tasks that an earlier command submitted.
    fn adopt(&mut self, executor: &mut dyn Executor, events: Events<'_>) -> Result<()> {
        let adopted = executor.adopt(&self.waiting())?;
        adopted.iter().for_each(|&stage| self.statuses[stage] = StageStatus::Pending);
        if !adopted.is_empty() {
            events(RunEvent::Message(format!("{} stages are with jobs that were submitted before", adopted.len())));
        }
        Ok(())
    }

    /// Submits every waiting stage to a queue, or as many stages as there are slots.
    fn submit(&mut self, executor: &mut dyn Executor, resources: &Resources, events: Events<'_>) -> Result<()> {
        loop {
            let stages = match resources.slots {
                None => self.waiting(),
                Some(slots) => self.next(slots).into_iter().collect(),
            };
            if stages.is_empty() {
                return Ok(());
            }
            let open: Vec<usize> = (0..self.statuses.len()).filter(|&stage| self.is_open(stage)).collect();
            let is_running = matches!(executor.submit(&stages, &open, events)?, TaskState::Running(_));
            for stage in stages {
                self.attempts[stage] += 1;
                self.statuses[stage] = StageStatus::Pending;
                if is_running {
                    self.start(stage, events);
                }
            }
        }
    }

    /// The next stage that can start on this machine. One whose worker was killed, perhaps for memory, runs alone.
    fn next(&self, slots: usize) -> Option<usize> {
        let running = self.submitted();
        let is_alone = |&stage: &usize| self.attempts[stage] > 1 || self.plan.stages[stage].wide;
        if running.len() >= slots || running.iter().any(is_alone) {
            return None;
        }
        let needs_are_finished = |stage: &usize| {
            self.plan.stages[*stage].needs.iter().all(|&need| self.statuses[need] == StageStatus::Finished)
        };
        let mut ready: Vec<usize> = self.waiting().into_iter().filter(needs_are_finished).collect();
        ready.sort_by_key(|&stage| (self.attempts[stage] > 0, stage)); // those that were killed wait until they can be alone
        let can_start =
            |&stage: &usize| running.is_empty() || (self.attempts[stage] == 0 && !self.plan.stages[stage].wide);
        ready.into_iter().find(can_start)
    }

    fn start(&mut self, stage: usize, events: Events<'_>) {
        self.statuses[stage] = StageStatus::Running { since: Instant::now() };
        events(RunEvent::StageStarted(stage, &self.plan.stages[stage]));
    }

    /// Applies the new state of a submitted stage.
    fn update(
        &mut self,
        stage: usize,
        state: TaskState,
        executor: &mut dyn Executor,
        resources: &Resources,
        summary: &mut RunSummary,
        events: Events<'_>,
    ) -> Result<()> {
        if !self.is_open(stage) {
            return Ok(()); // lost with another
        }
        match state {
            TaskState::Pending => {}
            TaskState::Running(progress) => {
                if self.statuses[stage] == StageStatus::Pending {
                    self.start(stage, events);
                }
                if let Some(progress) = progress {
                    events(RunEvent::StageProgress(stage, progress));
                }
            }
            TaskState::Finished => {
                let took = match self.statuses[stage] {
                    StageStatus::Running { since } => since.elapsed(),
                    _ => Duration::ZERO,
                };
                self.statuses[stage] = StageStatus::Finished;
                summary.made += 1;
                events(RunEvent::StageFinished(stage, &self.plan.stages[stage], took));
            }
            TaskState::Ended => self.end(stage, executor, resources, summary, events)?,
        }
        Ok(())
    }

    /// Retries a stage whose task is gone, or gives it up with all that need it. A training that failed by itself would fail
    /// again; one that the system killed might not.
    fn end(
        &mut self,
        stage: usize,
        executor: &mut dyn Executor,
        resources: &Resources,
        summary: &mut RunSummary,
        events: Events<'_>,
    ) -> Result<()> {
        let failure = executor.failure(stage, self.attempts[stage])?;
        if !matches!(failure, TaskFailure::Cancelled) {
            events(RunEvent::StageEnded(stage));
        }
        let failure = match failure {
            TaskFailure::Cancelled => return Err(Error::Interrupted),
            TaskFailure::MissingInput => {
                self.attempts[stage] = self.attempts[stage].saturating_sub(1);
                self.statuses[stage] = StageStatus::Waiting;
                return Ok(());
            }
            TaskFailure::Killed { message, .. } if self.attempts[stage].max(1) <= resources.retries => {
                events(RunEvent::Message(message));
                self.statuses[stage] = StageStatus::Waiting;
                return Ok(());
            }
            TaskFailure::Killed { failure, .. } | TaskFailure::Failed(failure) => failure,
        };
        tracing::warn!(stage = failure.stage, exit = failure.exit, "failed");
        // in full where the run ends
        events(RunEvent::Message(format!("{} failed: {}", failure.stage, failure.reason())));
        summary.failures.push(failure);
        for lost in self.with_dependents(stage) {
            // a stage that needs two failed ones is listed once
            if lost != stage && self.is_open(lost) {
                summary.left_out.push(self.plan.stages[lost].label());
            }
            self.statuses[lost] = StageStatus::Lost;
        }
        Ok(())
    }

    /// A stage and all that need it.
    fn with_dependents(&self, stage: usize) -> Vec<usize> {
        let mut dependents = vec![stage];
        for later in stage + 1..self.plan.stages.len() {
            if self.plan.stages[later].needs.iter().any(|need| dependents.contains(need)) {
                dependents.push(later);
            }
        }
        dependents
    }
}
