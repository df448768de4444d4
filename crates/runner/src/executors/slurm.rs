//! The executor `slurm`: a plan's stages as Slurm job arrays over a shared directory, one array per layer of the plan, each
//! depending on the one before it. Submitted jobs are recorded, so that the submitting process may end at any time: the same
//! command finds the jobs again. Whether a stage is finished is read from the run directory; the queue only tells which tasks
//! are still running.

use super::executor::{
    Events, Executor, ExecutorEntry, Resources, RunEvent, RunOptions, TaskFailure, TaskState, is_finished,
};
use super::protocol::{EXIT_REPORTS, WorkerExitReport};
use super::script::{WorkerCommand, scriptable};
use crate::error::{Error, Result, StageFailure};
use crate::plan::{Plan, Stage};
use duel_ledger::{Live, RunDir, write_atomically};
use duel_spec::SlurmSettings;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

pub const ENTRY: ExecutorEntry = ExecutorEntry {
    name: "slurm",
    about: "as Slurm job arrays over a shared directory (`[slurm]` in the experiment)",
    open: |plan, experiment, options| Ok(Box::new(SlurmExecutor::new(plan, &experiment.slurm, options)?)),
    cancel: Some(cancel),
};

/// An array that was submitted.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Job {
    id: u64,
    /// Folder name of each task's stage, by its number.
    stages: Vec<String>,
}

/// `slurm/jobs.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Jobs {
    jobs: Vec<Job>,
    /// Whether all were cancelled on request since the last one was submitted.
    cancelled: bool,
}

/// The state of a task in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
enum QueueState {
    Pending,
    Running,
    /// `FAILED`, `TIMEOUT`, …; with the reason, where there is one.
    Ended(String),
}

impl Jobs {
    fn path(run: &Path) -> PathBuf {
        run.join("slurm/jobs.json")
    }

    fn read(run: &Path) -> Result<Self> {
        let path = Self::path(run);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| duel_ledger::Error::Damaged { path: path.clone(), problem: e.to_string() }.into()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(Error::Io { action: "read", path, source }),
        }
    }

    fn write(&self, run: &Path) -> Result<()> {
        Ok(write_atomically(&Self::path(run), &serde_json::to_vec_pretty(self).expect("plain data"))?)
    }

    /// The last task that a stage was given.
    fn task_of(&self, folder: &str) -> Option<String> {
        self.jobs.iter().rev().find_map(|job| {
            let task = job.stages.iter().position(|stage| stage == folder)?;
            Some(format!("{}_{task}", job.id))
        })
    }
}

/// The jobs of a plan.
struct SlurmExecutor<'a> {
    plan: &'a Plan,
    slurm: &'a SlurmSettings,
    options: &'a RunOptions<'a>,
    jobs: Jobs,
    /// The queue's last state of tasks that are gone, by stage; `None` if it no longer lists them.
    gone: BTreeMap<usize, Option<String>>,
}

impl<'a> SlurmExecutor<'a> {
    fn new(plan: &'a Plan, slurm: &'a SlurmSettings, options: &'a RunOptions<'a>) -> Result<Self> {
        let run = options.run.path();
        let folder = run.join(EXIT_REPORTS);
        std::fs::create_dir_all(&folder).map_err(|source| Error::Io { action: "create", path: folder, source })?;
        let mut jobs = Jobs::read(run)?;
        jobs.cancelled = false;
        jobs.write(run)?;
        Ok(Self { plan, slurm, options, jobs, gone: BTreeMap::new() })
    }

    fn run(&self) -> &Path {
        self.options.run.path()
    }

    fn stage(&self, index: usize) -> &Stage {
        &self.plan.stages[index]
    }

    /// The task that a stage was last submitted as.
    fn task_of(&self, stage: usize) -> Option<String> {
        self.jobs.task_of(&self.stage(stage).id.folder())
    }

    /// Jobs of earlier submissions that hold what these stages need.
    fn dependencies(&self, stages: &[usize], open: &[usize]) -> Vec<u64> {
        let needs = stages.iter().flat_map(|&stage| &self.stage(stage).needs).filter(|need| open.contains(need));
        self.jobs_of(needs.copied())
    }

    /// All jobs that any of these stages was submitted with.
    fn jobs_of(&self, stages: impl Iterator<Item = usize>) -> Vec<u64> {
        let folders: BTreeSet<String> = stages.map(|stage| self.stage(stage).id.folder()).collect();
        let holds = |job: &&Job| job.stages.iter().any(|stage| folders.contains(stage));
        self.jobs.jobs.iter().filter(holds).map(|job| job.id).collect()
    }

    fn submit_array(&mut self, stages: &[usize], cores: usize, after: &[u64]) -> Result<u64> {
        let number = self.jobs.jobs.len();
        let path = self.run().join(format!("slurm/{number}.sbatch"));
        let text = script(&JobArrayRequest {
            number,
            stages,
            cores,
            after,
            jobs: self.options.requested_jobs,
            worker: &WorkerCommand::new(self.options)?,
            slurm: self.slurm,
        })?;
        write_atomically(&path, text.as_bytes())?;
        let answer = call("sbatch", &["--parsable", &path.display().to_string()])?;
        let id = answer.trim().split(';').next().and_then(|id| id.parse().ok());
        let id =
            id.ok_or_else(|| Error::Cluster { program: "sbatch", problem: format!("answered `{}`", answer.trim()) })?;
        let stages = stages.iter().map(|&stage| self.stage(stage).id.folder()).collect();
        self.jobs.jobs.push(Job { id, stages });
        self.jobs.write(self.run())?;
        Ok(id)
    }

    /// The tasks of these stages that are in the queue, by `<job>_<task>`.
    fn queue(&self, stages: &[usize]) -> Result<BTreeMap<String, QueueState>> {
        let ids: Vec<String> = self.jobs_of(stages.iter().copied()).iter().map(u64::to_string).collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        // squeue reports an error if it has forgotten all of the requested jobs
        let answer = match call(
            "squeue",
            &["--noheader", "--array", "--states=all", "--format=%i %T", &format!("--jobs={}", ids.join(","))],
        ) {
            Err(Error::Cluster { problem, .. }) if problem.contains("Invalid job id") => String::new(),
            other => other?,
        };
        let task = |line: &str| {
            let (id, state) = line.trim().split_once(' ')?;
            let state = match state {
                "PENDING" | "REQUEUED" | "SUSPENDED" => QueueState::Pending,
                "RUNNING" | "COMPLETING" | "CONFIGURING" => QueueState::Running,
                ended => QueueState::Ended(ended.into()),
            };
            Some((id.to_string(), state))
        };
        Ok(answer.lines().filter_map(task).collect())
    }
}

impl Executor for SlurmExecutor<'_> {
    fn resources(&self) -> Resources {
        Resources {
            slots: None,
            shared_cores: self.slurm.shared_cores,
            retries: self.slurm.retries,
            poll_seconds: self.slurm.poll,
            is_detached: true,
        }
    }

    fn adopt(&mut self, waiting: &[usize]) -> Result<Vec<usize>> {
        let queue = self.queue(waiting)?;
        let is_held = |stage: &usize| {
            let state = self.task_of(*stage).and_then(|task| queue.get(&task));
            matches!(state, Some(QueueState::Pending | QueueState::Running))
        };
        Ok(waiting.iter().copied().filter(is_held).collect())
    }

    /// Layer by layer: an array starts when those that it needs have ended, successfully or not; its tasks check that what they
    /// need is there.
    fn submit(&mut self, stages: &[usize], open: &[usize], events: Events<'_>) -> Result<TaskState> {
        let mut depth: BTreeMap<usize, usize> = BTreeMap::new();
        for &stage in stages {
            let deepest = self.stage(stage).needs.iter().filter_map(|need| depth.get(need)).max();
            depth.insert(stage, deepest.map_or(0, |d| d + 1));
        }
        let mut after: Vec<u64> = self.dependencies(stages, open);
        for layer in 0..=depth.values().copied().max().unwrap_or(0) {
            let all: Vec<usize> = stages.iter().copied().filter(|stage| depth[stage] == layer).collect();
            let mut ids = vec![];
            for (group, cores) in by_threads(self.plan, all, &self.resources()) {
                let ([first, ..], [.., last]) = (&group[..], &group[..]) else { continue };
                let id = self.submit_array(&group, cores, &after)?;
                let [first, last] = [first, last].map(|&stage| self.stage(stage).label());
                events(RunEvent::Message(format!("job {id}: {} stages, {first} to {last}", group.len())));
                ids.push(id);
            }
            if !ids.is_empty() {
                after = ids;
            }
        }
        Ok(TaskState::Pending)
    }

    fn poll(&mut self, submitted: &[usize]) -> Result<Vec<(usize, TaskState)>> {
        let queue = self.queue(submitted)?; // before the stages: one that is gone from it has finished by now, or will not
        let mut changes = vec![];
        for &index in submitted {
            let stage = self.stage(index);
            let state = if is_finished(self.options.run, stage)? {
                TaskState::Finished
            } else {
                match self.task_of(index).and_then(|task| queue.get(&task)) {
                    Some(QueueState::Pending) => TaskState::Pending,
                    Some(QueueState::Running) => {
                        let live = Live::read(self.run(), &stage.id.folder());
                        TaskState::Running(live.map(|(live, _)| live.progress))
                    }
                    Some(QueueState::Ended(reason)) => {
                        self.gone.insert(index, Some(reason.clone()));
                        TaskState::Ended
                    }
                    None => {
                        self.gone.insert(index, None);
                        TaskState::Ended
                    }
                }
            };
            changes.push((index, state));
        }
        Ok(changes)
    }

    fn failure(&mut self, stage: usize, attempts: usize) -> Result<TaskFailure> {
        let task = self.task_of(stage).unwrap_or_default();
        let reason = self.gone.remove(&stage).flatten().unwrap_or_else(|| exit_reason(&task));
        let is_cancelled = reason.starts_with("CANCELLED");
        if is_cancelled && Jobs::read(self.run())?.cancelled {
            return Ok(TaskFailure::Cancelled);
        }
        let label = self.stage(stage).label();
        let message = format!("{label}: its job {task} ended ({reason}); submitted again from its last checkpoint");
        Ok(match WorkerExitReport::take(self.run(), &self.stage(stage).id.folder()) {
            Some(report) if report.needs_missing => TaskFailure::MissingInput,
            Some(WorkerExitReport { exit, tail, ended, .. }) => {
                TaskFailure::Failed(StageFailure { stage: label, tail, exit, ended })
            }
            None => {
                let tail = format!("job {task} ended: {reason}");
                let failure = StageFailure { stage: label, tail, exit: 1, ended: None };
                // one that was cancelled before this command was given is submitted again
                match is_cancelled && attempts > 0 {
                    true => TaskFailure::Failed(failure),
                    false => TaskFailure::Killed { message, failure },
                }
            }
        })
    }

    fn cancel(&mut self) -> Result<()> {
        cancel_all(&self.jobs)
    }
}

/// The stages that may use every core, then those of one thread, each group with its threads.
fn by_threads(plan: &Plan, stages: Vec<usize>, resources: &Resources) -> Vec<(Vec<usize>, usize)> {
    let (wide, single): (Vec<usize>, Vec<usize>) = stages.into_iter().partition(|&stage| plan.stages[stage].wide);
    let threads = |group: &Vec<usize>| group.first().map(|&stage| resources.threads(&plan.stages[stage]));
    [wide, single].into_iter().filter_map(|group| threads(&group).map(|threads| (group, threads))).collect()
}

/// The parameters of a job array.
struct JobArrayRequest<'a> {
    number: usize,
    stages: &'a [usize],
    cores: usize,
    after: &'a [u64],
    /// Most tasks at once ([`RunOptions::requested_jobs`]).
    jobs: Option<usize>,
    worker: &'a WorkerCommand<'a>,
    slurm: &'a SlurmSettings,
}

/// The text of a script for `sbatch`. Slurm sends SIGTERM a minute before the time limit, for a last checkpoint.
///
/// # Errors
/// A path with a control character, or that is not text.
fn script(request: &JobArrayRequest<'_>) -> Result<String> {
    let JobArrayRequest { number, stages, cores, after, jobs, worker, slurm } = *request;
    let run = scriptable("the run directory", &worker.run)?;
    let SlurmSettings { partition, time, memory, setup, extra, .. } = slurm;
    let last = stages.len() - 1;
    let limit = jobs.map_or(String::new(), |jobs| format!("%{jobs}"));
    let log = format!("{}/slurm/{number}_%a.log", run.replace('%', "%%"));
    let mut options = vec![
        format!("--job-name=duel-{number}"),
        format!("--array=0-{last}{limit}"),
        format!("--output={}", quoted_for_sbatch(&log)),
        "--open-mode=append".into(),
        format!("--cpus-per-task={cores}"),
        format!("--time={}", quoted_for_sbatch(time)),
        format!("--mem={}", quoted_for_sbatch(memory)),
        "--signal=B:TERM@60".into(),
    ];
    if !partition.is_empty() {
        options.push(format!("--partition={}", quoted_for_sbatch(partition)));
    }
    if !after.is_empty() {
        let ids: Vec<String> = after.iter().map(u64::to_string).collect();
        options.push(format!("--dependency=afterany:{}", ids.join(":")));
    }
    options.extend(extra.iter().cloned());
    let options: String = options.iter().map(|option| format!("#SBATCH {option}\n")).collect();
    let numbers: Vec<String> = stages.iter().map(usize::to_string).collect();
    Ok(format!(
        "#!/bin/bash\n{options}\n{setup}\nstages=({})\nexport RAYON_NUM_THREADS={cores}\n\
         exec {}\n",
        numbers.join(" "),
        worker.line(r#""${stages[$SLURM_ARRAY_TASK_ID]}""#)?,
    ))
}

/// As a word of an `#SBATCH` line, which sbatch splits by its own rules: in double quotes, with backslash escapes.
fn quoted_for_sbatch(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// How a task ended that the queue no longer lists: from the controller, or from accounting.
fn exit_reason(task: &str) -> String {
    if let Ok(answer) = call("scontrol", &["show", "job", "--oneliner", task]) {
        let field = |name: &str| answer.split_whitespace().find_map(|word| word.strip_prefix(name)).map(String::from);
        if let Some(state) = field("JobState=") {
            return format!("{state}, {}", field("ExitCode=").unwrap_or_default());
        }
    }
    match call("sacct", &["--noheader", "--parsable2", "--allocations", "--format=State,ExitCode", "--jobs", task]) {
        Ok(answer) if !answer.trim().is_empty() => answer.trim().replace('|', ", "),
        _ => "the cluster does not say how".into(),
    }
}

/// Runs a program of Slurm's and returns what it prints.
fn call(program: &'static str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|e| Error::Cluster { program, problem: format!("cannot be run: {e}") })?;
    if !output.status.success() {
        let problem = String::from_utf8_lossy(&output.stderr).trim().to_string();
        return Err(Error::Cluster { program, problem: format!("refused: {problem}") });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Cancels the jobs of a run, for `duel cancel`.
fn cancel(run: &RunDir) -> Result<usize> {
    let mut jobs = Jobs::read(run.path())?;
    jobs.cancelled = true;
    jobs.write(run.path())?;
    cancel_all(&jobs)?;
    Ok(jobs.jobs.len())
}

fn cancel_all(jobs: &Jobs) -> Result<()> {
    let ids: Vec<String> = jobs.jobs.iter().map(|job| job.id.to_string()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    // jobs that have ended are no error
    match call("scancel", &ids.iter().map(String::as_str).collect::<Vec<_>>()) {
        Err(Error::Cluster { problem, .. }) if problem.contains("Invalid job id") => Ok(()),
        other => other.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::{Document, Experiment};

    fn slurm(more: &str) -> SlurmSettings {
        let text = format!("[slurm]\n{more}\n[arms.a]\nmethod = \"dpo\"\n");
        let document = Document::parse("t", &text, &[]).expect("parses");
        Experiment::from_document(&document).expect("valid").slurm
    }

    fn script_of(run: &str, slurm: &SlurmSettings) -> Result<String> {
        let (program, run) = ("/opt/my programs/duel".into(), run.into());
        let worker = &WorkerCommand { program, run, device: "flex", checkpoint_seconds: 30.0 };
        script(&JobArrayRequest { number: 0, stages: &[3, 5], cores: 8, after: &[17], jobs: Some(2), worker, slurm })
    }

    #[test]
    fn each_value_is_one_word_of_the_script() {
        let slurm = slurm("partition = \"big\"\nextra = [\"--account=lab\"]\nsetup = \"module load x\"");
        let run = "/data/it's 50% \"new\" \\ $(touch x) `y`/run";
        let text = script_of(run, &slurm).expect("a script");
        let expected = r##"#!/bin/bash
#SBATCH --job-name=duel-0
#SBATCH --array=0-1%2
#SBATCH --output="/data/it's 50%% \"new\" \\ $(touch x) `y`/run/slurm/0_%a.log"
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=8
#SBATCH --time="04:00:00"
#SBATCH --mem="4G"
#SBATCH --signal=B:TERM@60
#SBATCH --partition="big"
#SBATCH --dependency=afterany:17
#SBATCH --account=lab

module load x
stages=(3 5)
export RAYON_NUM_THREADS=8
exec '/opt/my programs/duel' worker --detached --run '/data/it'\''s 50% "new" \ $(touch x) `y`/run' --stage "${stages[$SLURM_ARRAY_TASK_ID]}" --device 'flex' --checkpoint-seconds 30
"##;
        assert_eq!(text, expected, "\n{text}");
        // the shell splits it into the same words
        let printed = text.replace("module load x", "").replace("exec ", "printf '%s\\n' ");
        let out =
            Command::new("bash").args(["-c", &printed]).env("SLURM_ARRAY_TASK_ID", "1").output().expect("bash runs");
        let printed = String::from_utf8(out.stdout).expect("text");
        let words: Vec<&str> = printed.lines().collect();
        assert_eq!([words[0], words[4], words[6]], ["/opt/my programs/duel", run, "5"]);
    }

    #[test]
    fn a_stage_that_uses_every_core_requests_them() {
        let document = Document::parse("t", "seeds = 1\n[arms.a]\nmethod = \"dpo\"\n", &[]).expect("parses");
        let experiment = Experiment::from_document(&document).expect("valid");
        let mut plan = Plan::new(&experiment, "flex", experiment.cells_for(&experiment.trials())).expect("plans");
        plan.stages[1].wide = true; // as all stages of a pretrained model are
        let resources = Resources { slots: None, shared_cores: 8, retries: 0, poll_seconds: 1.0, is_detached: true };
        assert_eq!(by_threads(&plan, vec![0, 1, 2], &resources), [(vec![1], 8), (vec![0, 2], 1)]);
    }

    #[test]
    fn a_path_that_would_end_a_line_is_refused() {
        let slurm = slurm("");
        for run in ["/data/a\nb", "/data/a\rb", "/data/\u{1b}[2J", "/data/\u{85}"] {
            assert!(matches!(script_of(run, &slurm), Err(Error::Unscriptable { .. })), "{run:?}");
        }
    }
}
