//! A plan's stages as Slurm job arrays over a shared directory: one array for each layer of the plan, each after the one
//! before it. What is submitted is written down, so that the process that submits may end at any time: the same command finds
//! the jobs again. What becomes of a stage is told by the run directory itself; the queue only says who is still at it.

use crate::execute::{RunOptions, RunSummary, StageFailure, StageStatus, initial_statuses, with_dependents};
use crate::plan::{Plan, Stage};
use crate::progress::ProgressReporter;
use crate::worker::{Progress, WorkerEnd};
use crate::{Error, Result};
use duel_ledger::{Live, RunDir, RunLock, StageDir, write_atomically};
use duel_spec::SlurmSettings;
use serde::{Deserialize, Serialize};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

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

/// What a worker of the cluster ended for, as it says itself: `slurm/failed/<stage>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct WorkerExitReport {
    exit: u8,
    tail: String,
    /// Whether it only lacked what it needs.
    in_vain: bool,
    ended: Option<WorkerEnd>,
}

/// What the cluster says of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TaskState {
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

/// Runs all stages that are not finished as jobs; as [`crate::execute::execute`] does on this machine.
///
/// # Errors
/// [`Error::Detached`] on Ctrl-C: the jobs go on. A cluster that refuses a job.
pub fn execute(
    plan: &Plan,
    from: usize,
    slurm: &SlurmSettings,
    settings: &RunOptions<'_>,
    board: &mut ProgressReporter,
    outcome: &mut RunSummary,
) -> Result<()> {
    let run = settings.run.path();
    let folder = run.join("slurm/failed");
    std::fs::create_dir_all(&folder).map_err(|source| Error::Io { action: "create", path: folder, source })?;
    let mut jobs = Jobs::read(run)?;
    jobs.cancelled = false;
    jobs.write(run)?;
    let mut follower = JobMonitor {
        plan,
        slurm,
        settings,
        jobs,
        open: BTreeSet::new(),
        began: BTreeMap::new(),
        given: BTreeMap::new(),
    };
    let states = initial_statuses(plan, from, settings.run, board, outcome)?;
    follower.open = (0..states.len()).filter(|&place| matches!(states[place], StageStatus::Waiting { .. })).collect();
    board.start(plan, &states.iter().map(|state| *state == StageStatus::Finished).collect::<Vec<_>>());
    follower.begin(board)?;
    while !follower.open.is_empty() {
        follower.wait()?;
        follower.poll(board, outcome)?;
        if settings.fail_fast && !outcome.failures.is_empty() {
            cancel_all(run, &follower.jobs)?;
            break;
        }
    }
    Ok(())
}

/// Follows the jobs of a plan.
struct JobMonitor<'a> {
    plan: &'a Plan,
    slurm: &'a SlurmSettings,
    settings: &'a RunOptions<'a>,
    jobs: Jobs,
    /// Places of the stages that are neither finished nor lost.
    open: BTreeSet<usize>,
    /// When each was first seen at work.
    began: BTreeMap<usize, Instant>,
    /// How often each was asked for that was not in vain.
    given: BTreeMap<usize, usize>,
}

impl JobMonitor<'_> {
    fn run(&self) -> &Path {
        self.settings.run.path()
    }

    fn stage(&self, place: usize) -> &Stage {
        &self.plan.stages[place]
    }

    /// Asks for all that no job of an earlier submission is at.
    fn begin(&mut self, board: &ProgressReporter) -> Result<()> {
        let queue = self.queue()?;
        let at_work = |follower: &Self, place: usize| {
            let task = follower.jobs.task_of(&follower.stage(place).id.folder());
            task.is_some_and(|task| matches!(queue.get(&task), Some(TaskState::Pending | TaskState::Running)))
        };
        let (there, missing): (Vec<usize>, Vec<usize>) = self.open.iter().partition(|&&place| at_work(self, place));
        if !there.is_empty() {
            board.print_line(&format!("{} stages are with jobs that were submitted before", there.len()));
        }
        self.submit(&missing, board)
    }

    /// Asks for these stages, layer by layer: an array begins when those that it needs have ended, well or not; its tasks look
    /// for themselves whether what they need is there.
    fn submit(&mut self, places: &[usize], board: &ProgressReporter) -> Result<()> {
        let mut depth: BTreeMap<usize, usize> = BTreeMap::new();
        for &place in places {
            let deepest = self.stage(place).needs.iter().filter_map(|need| depth.get(need)).max();
            depth.insert(place, deepest.map_or(0, |d| d + 1));
        }
        let mut before: Vec<u64> = self.holding(places);
        for layer in 0..=depth.values().copied().max().unwrap_or(0) {
            let all: Vec<usize> = places.iter().copied().filter(|place| depth[place] == layer).collect();
            let mut here = vec![];
            for (group, cores) in by_cores(self.plan, all, self.slurm.shared_cores) {
                if group.is_empty() {
                    continue;
                }
                let id = self.submit_array(&group, cores, &before)?;
                board.print_line(&format!(
                    "job {id}: {} stages, {} to {}",
                    group.len(),
                    self.stage(group[0]).label(),
                    self.stage(group[group.len() - 1]).label()
                ));
                here.push(id);
            }
            if !here.is_empty() {
                before = here;
            }
        }
        Ok(())
    }

    /// Jobs of earlier submissions that hold what these stages need.
    fn holding(&self, places: &[usize]) -> Vec<u64> {
        let needed = places.iter().flat_map(|&place| &self.stage(place).needs).filter(|need| self.open.contains(need));
        let folders: BTreeSet<String> = needed.map(|&need| self.stage(need).id.folder()).collect();
        let holds = |job: &&Job| job.stages.iter().any(|stage| folders.contains(stage));
        self.jobs.jobs.iter().filter(holds).map(|job| job.id).collect()
    }

    fn submit_array(&mut self, places: &[usize], cores: usize, after: &[u64]) -> Result<u64> {
        let number = self.jobs.jobs.len();
        let script = self.run().join(format!("slurm/{number}.sbatch"));
        let text = self.script(number, places, cores, after)?;
        write_atomically(&script, text.as_bytes())?;
        let said = call("sbatch", &["--parsable", &script.display().to_string()])?;
        let id = said.trim().split(';').next().and_then(|id| id.parse().ok());
        let id =
            id.ok_or_else(|| Error::Cluster { program: "sbatch", problem: format!("answered `{}`", said.trim()) })?;
        let stages = places.iter().map(|&place| self.stage(place).id.folder()).collect();
        places.iter().for_each(|&place| *self.given.entry(place).or_default() += 1);
        self.jobs.jobs.push(Job { id, stages });
        self.jobs.write(self.run())?;
        Ok(id)
    }

    /// What `sbatch` is given. Slurm sends SIGTERM a minute before the time is over, for a last checkpoint.
    fn script(&self, number: usize, places: &[usize], cores: usize, after: &[u64]) -> Result<String> {
        let io = |action, path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::Io { action, path, source }
        };
        let run = std::fs::canonicalize(self.run()).map_err(io("find", self.run()))?;
        let program = std::env::current_exe().map_err(|source| Error::Worker { source })?;
        script(&JobArrayRequest {
            number,
            places,
            cores,
            after,
            at_once: self.settings.asked,
            run: &run,
            program: &program,
            device: self.settings.device,
            checkpoint_seconds: self.settings.checkpoint_seconds,
            slurm: self.slurm,
        })
    }

    /// Sleeps until the next look.
    fn wait(&self) -> Result<()> {
        let began = Instant::now();
        while began.elapsed().as_secs_f64() < self.slurm.poll {
            if self.settings.stop.load(Ordering::Relaxed) {
                return Err(Error::Detached);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Takes in what has become of each open stage.
    fn poll(&mut self, board: &mut ProgressReporter, outcome: &mut RunSummary) -> Result<()> {
        let queue = self.queue()?; // before the stages are looked at: one that is gone from it has finished by now, or will not
        let mut again: Vec<usize> = vec![];
        for place in self.open.clone() {
            if !self.open.contains(&place) {
                continue; // lost with another
            }
            let (id, folder) = (self.stage(place).id.clone(), self.stage(place).id.folder());
            if self.settings.run.stages().join(&folder).is_dir()
                && StageDir::open(&self.settings.run.stages(), &id)?.is_some()
            {
                self.open.remove(&place);
                outcome.made += 1;
                let took = self.began.get(&place).map_or(Duration::ZERO, Instant::elapsed);
                board.stage_finished(place, &self.plan.stages[place], took);
                continue;
            }
            let task = self.jobs.task_of(&folder).unwrap_or_default();
            match queue.get(&task) {
                Some(TaskState::Pending) => {}
                Some(TaskState::Running) => {
                    if let Entry::Vacant(first) = self.began.entry(place) {
                        first.insert(Instant::now());
                        board.stage_started(place, &self.plan.stages[place]);
                    }
                    if let Some((live, _)) = Live::read(self.run(), &folder) {
                        board
                            .stage_progress(place, &Progress { done: live.done, total: live.total, words: live.words });
                    }
                }
                gone => {
                    let why = match gone {
                        Some(TaskState::Ended(why)) => why.clone(),
                        _ => exit_reason(&task),
                    };
                    if why.starts_with("CANCELLED") && Jobs::read(self.run())?.cancelled {
                        return Err(Error::Interrupted);
                    }
                    board.stage_ended(place);
                    self.began.remove(&place);
                    // what a training dies of by itself it would die of again; what the cluster does to it, perhaps not.
                    let note = self.exit_report(&folder);
                    if note.as_ref().is_some_and(|note| note.in_vain) {
                        self.given.entry(place).and_modify(|times| *times -= 1);
                        again.push(place);
                        continue;
                    }
                    // one that was cancelled before this command was given is not
                    let cancelled = why.starts_with("CANCELLED") && self.given.contains_key(&place);
                    let by_itself = note.is_some() || cancelled;
                    let times = self.given.get(&place).copied().unwrap_or(1);
                    if !by_itself && times <= self.slurm.retries {
                        let label = self.stage(place).label();
                        board.print_line(&format!(
                            "{label}: its job {task} ended ({why}); asked for again, from its last checkpoint"
                        ));
                        again.push(place);
                        continue;
                    }
                    let tail = note.as_ref().map_or(format!("job {task} ended: {why}"), |note| note.tail.clone());
                    let (exit, ended) = note.map_or((1, None), |note| (note.exit, note.ended));
                    let failure = StageFailure { stage: self.stage(place).label(), tail, exit, ended };
                    board.print_line(&format!("{} failed:\n{}", failure.stage, failure.tail));
                    outcome.failures.push(failure);
                    for lost in with_dependents(self.plan, place) {
                        if self.open.remove(&lost) && lost != place {
                            outcome.left_out.push(self.stage(lost).label());
                        }
                        again.retain(|&p| p != lost);
                    }
                }
            }
        }
        if again.is_empty() { Ok(()) } else { self.submit(&again, board) }
    }

    /// What the worker of a stage says that it ended for.
    fn exit_report(&self, folder: &str) -> Option<WorkerExitReport> {
        let path = self.run().join(format!("slurm/failed/{folder}.json"));
        let note = serde_json::from_slice(&std::fs::read(&path).ok()?).ok();
        let _ = std::fs::remove_file(path);
        note
    }

    /// The tasks of our jobs that are in the queue, by `<job>_<task>`.
    fn queue(&self) -> Result<BTreeMap<String, TaskState>> {
        let folders: BTreeSet<String> = self.open.iter().map(|&place| self.stage(place).id.folder()).collect();
        let ours = |job: &&Job| job.stages.iter().any(|stage| folders.contains(stage));
        let ids: Vec<String> = self.jobs.jobs.iter().filter(ours).map(|job| job.id.to_string()).collect();
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        // of jobs that it has forgotten squeue speaks as of an error, where it is asked for no other
        let said = match call(
            "squeue",
            &["--noheader", "--array", "--states=all", "--format=%i %T", &format!("--jobs={}", ids.join(","))],
        ) {
            Err(Error::Cluster { problem, .. }) if problem.contains("Invalid job id") => String::new(),
            other => other?,
        };
        let task = |line: &str| {
            let (id, state) = line.trim().split_once(' ')?;
            let state = match state {
                "PENDING" | "REQUEUED" | "SUSPENDED" => TaskState::Pending,
                "RUNNING" | "COMPLETING" | "CONFIGURING" => TaskState::Running,
                ended => TaskState::Ended(ended.into()),
            };
            Some((id.to_string(), state))
        };
        Ok(said.lines().filter_map(task).collect())
    }
}

/// Stages that may use every core, which are asked for by themselves, with how many they get; and those of one thread.
fn by_cores(plan: &Plan, places: Vec<usize>, shared_cores: usize) -> [(Vec<usize>, usize); 2] {
    let (wide, single) = places.into_iter().partition(|&place| plan.stages[place].wide);
    [(wide, shared_cores), (single, 1)]
}

/// What an array of jobs is asked for with.
struct JobArrayRequest<'a> {
    number: usize,
    places: &'a [usize],
    cores: usize,
    after: &'a [u64],
    at_once: Option<usize>,
    run: &'a Path,
    program: &'a Path,
    device: &'a str,
    checkpoint_seconds: f64,
    slurm: &'a SlurmSettings,
}

/// The text of a script for `sbatch`.
///
/// # Errors
/// A path with a letter that no quotes keep together, or that is no text.
fn script(asked: &JobArrayRequest<'_>) -> Result<String> {
    let JobArrayRequest { number, places, cores, after, at_once, run, program, device, checkpoint_seconds, slurm } =
        *asked;
    let run = scriptable("the run directory", run)?;
    let program = scriptable("the program", program)?;
    let SlurmSettings { partition, time, memory, setup, extra, .. } = slurm;
    let last = places.len() - 1;
    let at_once = at_once.map_or(String::new(), |jobs| format!("%{jobs}"));
    let log = format!("{}/slurm/{number}_%a.log", run.replace('%', "%%"));
    let mut options = vec![
        format!("--job-name=duel-{number}"),
        format!("--array=0-{last}{at_once}"),
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
    let numbers: Vec<String> = places.iter().map(usize::to_string).collect();
    Ok(format!(
        "#!/bin/bash\n{options}\n{setup}\nstages=({})\nexport RAYON_NUM_THREADS={cores}\n\
         exec {} worker --detached --run {} --stage \"${{stages[$SLURM_ARRAY_TASK_ID]}}\" --device {} --checkpoint-seconds {}\n",
        numbers.join(" "),
        quoted(program),
        quoted(run),
        quoted(device),
        checkpoint_seconds,
    ))
}

/// A path that can stand in a script: text without control characters.
fn scriptable<'a>(what: &'static str, path: &'a Path) -> Result<&'a str> {
    let refuse = |why| Err(Error::Unscriptable { what, found: path.to_string_lossy().into_owned(), why });
    match path.to_str() {
        None => refuse("it is not UTF-8"),
        Some(text) if text.chars().any(char::is_control) => refuse("it has a control character"),
        Some(text) => Ok(text),
    }
}

/// As a word of an `#SBATCH` line, which sbatch takes apart by itself: in double quotes, where a backslash keeps what follows.
fn quoted_for_sbatch(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// How a task ended that the queue has forgotten: by the controller's memory, or the accounts.
fn exit_reason(task: &str) -> String {
    if let Ok(said) = call("scontrol", &["show", "job", "--oneliner", task]) {
        let field = |name: &str| said.split_whitespace().find_map(|word| word.strip_prefix(name)).map(String::from);
        if let Some(state) = field("JobState=") {
            return format!("{state}, {}", field("ExitCode=").unwrap_or_default());
        }
    }
    match call("sacct", &["--noheader", "--parsable2", "--allocations", "--format=State,ExitCode", "--jobs", task]) {
        Ok(said) if !said.trim().is_empty() => said.trim().replace('|', ", "),
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

/// As a word of the shell.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Writes down what a worker ends for, for whoever follows the run, unless it was asked to.
pub fn note_failure(run: &Path, place: usize, error: &Error) {
    if error.exit() == 130 {
        return;
    }
    let told = || -> Result<()> {
        let (experiment, _) = duel_spec::Experiment::load(&run.join("experiment.toml"), &[])?;
        let device = duel_ledger::Manifest::read(run)?.device;
        let plan = Plan::new(&experiment, &device, duel_ledger::cells_of(run, &experiment)?)?;
        let Some(stage) = plan.stages.get(place) else { return Ok(()) };
        let in_vain = matches!(error, Error::Missing { .. });
        let note = WorkerExitReport {
            exit: error.exit(),
            tail: crate::render::render(error),
            in_vain,
            ended: Some(WorkerEnd::by(error)),
        };
        let path = run.join(format!("slurm/failed/{}.json", stage.id.folder()));
        Ok(write_atomically(&path, &serde_json::to_vec_pretty(&note).expect("plain data"))?)
    };
    let _ = told(); // the log has it too
}

/// `duel cancel`.
pub fn cancel(path: &Path) -> Result<()> {
    let run = RunDir::open(path)?;
    let mut jobs = Jobs::read(run.path())?;
    let count = jobs.jobs.len();
    jobs.cancelled = true;
    jobs.write(run.path())?;
    cancel_all(run.path(), &jobs)?;
    let followed = RunLock::take(run.path()).is_err();
    crate::print(&format!(
        "{count} jobs cancelled{}; what is finished stays\n",
        if followed { ", and whoever follows them told so" } else { "" }
    ));
    Ok(())
}

fn cancel_all(run: &Path, jobs: &Jobs) -> Result<()> {
    let ids: Vec<String> = jobs.jobs.iter().map(|job| job.id.to_string()).collect();
    if ids.is_empty() {
        crate::print(&format!("`{}` has no jobs\n", run.display()));
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

    fn asked<'a>(run: &'a Path, slurm: &'a SlurmSettings) -> JobArrayRequest<'a> {
        JobArrayRequest {
            number: 0,
            places: &[3, 5],
            cores: 8,
            after: &[17],
            at_once: Some(2),
            run,
            program: Path::new("/opt/my programs/duel"),
            device: "flex",
            checkpoint_seconds: 30.0,
            slurm,
        }
    }

    #[test]
    fn a_script_holds_each_value_as_one_word() {
        let slurm = slurm("partition = \"big\"\nextra = [\"--account=lab\"]\nsetup = \"module load x\"");
        let run = "/data/it's 50% \"new\" \\ $(touch x) `y`/run";
        let text = script(&asked(Path::new(run), &slurm)).expect("a script");
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
        // the shell takes it apart as it was put together
        let printed = text.replace("module load x", "").replace("exec ", "printf '%s\\n' ");
        let out =
            Command::new("bash").args(["-c", &printed]).env("SLURM_ARRAY_TASK_ID", "1").output().expect("bash runs");
        let printed = String::from_utf8(out.stdout).expect("text");
        let words: Vec<&str> = printed.lines().collect();
        assert_eq!([words[0], words[4], words[6]], ["/opt/my programs/duel", run, "5"]);
    }

    #[test]
    fn a_stage_that_uses_every_core_asks_for_them() {
        let document = Document::parse("t", "seeds = 1\n[arms.a]\nmethod = \"dpo\"\n", &[]).expect("parses");
        let experiment = Experiment::from_document(&document).expect("valid");
        let mut plan = Plan::new(&experiment, "flex", experiment.cells_for(&experiment.trials())).expect("plans");
        plan.stages[1].wide = true; // as those of a pretrained model are, whatever their kind
        assert_eq!(by_cores(&plan, vec![0, 1, 2], 8), [(vec![1], 8), (vec![0, 2], 1)]);
    }

    #[test]
    fn a_path_that_would_end_a_line_is_refused() {
        let slurm = slurm("");
        for run in ["/data/a\nb", "/data/a\rb", "/data/\u{1b}[2J", "/data/\u{85}"] {
            assert!(matches!(script(&asked(Path::new(run), &slurm)), Err(Error::Unscriptable { .. })), "{run:?}");
        }
    }
}
