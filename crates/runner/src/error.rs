//! Every error of the program, with its exit code and its hint, and how a stage failed.

use crate::terminal::format_bytes;
use duel_ledger::{MAX_DIFFERENCES, first_and_more};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What can end `duel`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Spec(#[from] duel_spec::Error),
    #[error(transparent)]
    Data(#[from] duel_data::Error),
    #[error(transparent)]
    Model(#[from] duel_model::Error),
    #[error(transparent)]
    Training(#[from] duel_training::Error),
    #[error(transparent)]
    Reward(#[from] duel_reward::Error),
    #[error(transparent)]
    Evaluation(#[from] duel_evaluation::Error),
    #[error(transparent)]
    Ledger(#[from] duel_ledger::Error),
    #[error(transparent)]
    Report(#[from] duel_report::Error),
    #[error("there is no {what} `{from}` on this machine, and it could not be found on the hub")]
    NotHere { what: &'static str, from: String, source: Box<duel_hub::Error> },
    #[error("interrupted; finished stages are kept")]
    Interrupted,
    #[error("{}", failed(failures, *left_out))]
    Stages { failures: Vec<StageFailure>, left_out: usize },
    #[error("`{}` {}", run.display(), if id.is_empty() { "makes no claim".to_string() } else { format!("has no claim `{id}`") })]
    NoClaim { run: PathBuf, id: String, known: Vec<String> },
    #[error("no point of arm `{arm}` ran on every tuning seed, so that none can be chosen")]
    NothingToChoose { arm: String },
    #[error("there is no {what} `{name}`")]
    NoSuch { what: &'static str, name: String, accepted: String },
    #[error("{contradicted} of {claims} {} contradicted", if *contradicted == 1 { "claims is" } else { "claims are" })]
    Contradicted { contradicted: usize, claims: usize },
    #[error("`{}` is a run of the world {world}, which cannot be enumerated", path.display())]
    NotExact { path: PathBuf, world: &'static str },
    #[error("the run `{}` has no seed {seed}", path.display())]
    NoSeed { path: PathBuf, seed: u64 },
    #[error("`{key}` names the folder `{}`, which has more than {files} files or {gib} GiB", path.display())]
    JudgeFolder { key: &'static str, path: PathBuf, files: usize, gib: u64 },
    #[error("the terminal cannot be drawn on")]
    Screen { source: std::io::Error },
    #[error("failed to write to standard output")]
    Output { source: std::io::Error },
    #[error("failed to start a worker")]
    Worker { source: std::io::Error },
    #[error("the worker was started for stage {place} of {name}, which the run's experiment.toml does not have")]
    StrayWorker { place: usize, name: String },
    #[error("the inputs of `{stage}` have changed since the run was planned")]
    Changed { stage: String },
    #[error("{finished} of {cells} cells of `{}` are finished, and {what} is not among them: {why}", path.display())]
    Unfinished { path: PathBuf, what: String, finished: usize, cells: usize, why: String },
    #[error("`{stage}` needs `{needs}`, which is not finished")]
    Missing { stage: String, needs: String },
    #[error("{program} {}", problem.trim())]
    Cluster { program: &'static str, problem: String },
    #[error("{what} {path:?} cannot be used in a Slurm script: {why}")]
    Unscriptable { what: &'static str, path: String, why: &'static str },
    #[error("`{}` {problem}", path.display())]
    Occupied { path: PathBuf, problem: String, hint: &'static str },
    #[error("the {what} `{}` is not UTF-8, and has to be written as text", path.display())]
    NotText { what: &'static str, path: PathBuf },
    #[error(
        "a model of {layers} layers of width {width} takes {} of memory to train, and this machine has {}",
        format_bytes(*needed), format_bytes(*available)
    )]
    TooLarge { layers: usize, width: usize, needed: f64, available: f64 },
    #[error("the run continues as jobs of the cluster")]
    Detached,
    #[error("the peer `{name}` cannot be timed: {problem}")]
    Peer { name: &'static str, problem: String },
    #[error(
        "arm `{arm}` compares two responses to one prompt, but {rows} pairs were made of single completions with a label, whose prompts differ"
    )]
    Unpaired { arm: String, rows: usize },
    #[error("the rows are prompts alone, and {what} needs completions")]
    OnlyPrompts { what: &'static str, hint: &'static str },
    #[error("rows of `{of}` {}", if *needs_fixing { "should be fixed" } else { "have findings" })]
    Rows { of: String, needs_fixing: bool },
    #[error("`{}` is, contains or is in `{}`, which the model is read from", to.display(), from.display())]
    OntoModel { to: PathBuf, from: PathBuf },
    #[error("`{}` cannot be merged: {problem}", path.display())]
    Unmergeable { path: PathBuf, problem: String, hint: &'static str },
    #[error("nothing can be merged into `{}`: {problem}", path.display())]
    MergeTarget { path: PathBuf, problem: String, hint: &'static str },
    #[error(
        "`{}` and `{}` are not runs of one experiment: {}",
        first.display(), other.display(), first_and_more(differences, MAX_DIFFERENCES)
    )]
    OtherExperiment { first: PathBuf, other: PathBuf, differences: Vec<String> },
    #[error(
        "the claim {id} is not the same in `{}` and in `{}`: {}",
        first.display(), other.display(), first_and_more(differences, MAX_DIFFERENCES)
    )]
    ClaimsDiffer { id: String, first: PathBuf, other: PathBuf, differences: Vec<String> },
    #[error(
        "the results of `{stage}` are not the same in `{}` and in `{}`: {}",
        first.display(), other.display(), first_and_more(differences, MAX_DIFFERENCES)
    )]
    UnequalStage { stage: String, first: PathBuf, other: PathBuf, differences: Vec<String> },
    #[error("`{}` was merged from {parts} runs, and cannot be continued", path.display())]
    MergedRun { path: PathBuf, parts: usize },
    #[error("`{}` has the numbers of `{stage}` and no folder of that stage, as they were read from tables alone", path.display())]
    NumbersAlone { path: PathBuf, stage: String },
    #[error("`{option}` cannot be used: {reason}")]
    Unused { option: String, reason: String },
    #[error("failed to {action} `{}`", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("`{}` was not written by stage `{stage}`: {problem}", path.display())]
    Foreign { stage: &'static str, path: PathBuf, problem: String },
}

/// Stages that failed in the same way and are named.
const MAX_STAGES: usize = 6;

/// A stage that could not be made.
#[derive(Debug, Clone)]
pub struct StageFailure {
    pub stage: String,
    /// The last lines of its worker.
    pub tail: String,
    pub exit: u8,
    /// What the worker itself wrote about its end, where it could.
    pub ended: Option<WorkerEnd>,
}

/// The last line of a worker that could not finish its stage.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerEnd {
    /// Whether the training diverged.
    pub diverged: bool,
    /// The error with its causes, in one line; `words` in earlier versions.
    #[serde(alias = "words")]
    pub message: String,
}

impl WorkerEnd {
    /// The end of a worker with this error.
    pub fn by(error: &Error) -> Self {
        let causes = std::iter::successors(std::error::Error::source(error), |cause| (*cause).source());
        let messages: Vec<String> = std::iter::once(error.to_string()).chain(causes.map(ToString::to_string)).collect();
        let message = messages.join(": ").split_whitespace().collect::<Vec<_>>().join(" ");
        Self { diverged: error.is_divergence(), message }
    }
}

impl StageFailure {
    /// Why, in one line.
    pub fn reason(&self) -> String {
        if let Some(ended) = &self.ended {
            return ended.message.clone();
        }
        let line = self.tail.lines().find(|line| line.contains('×')).or(self.tail.lines().last()).unwrap_or_default();
        line.trim_matches([' ', '×']).to_string()
    }
}

/// The failed stages with their last lines of output; those that failed in the same way together.
fn failed(failures: &[StageFailure], left_out: usize) -> String {
    let mut groups: Vec<(&str, Vec<String>)> = vec![];
    for StageFailure { stage, tail, .. } in failures {
        let stage = format!("`{stage}`");
        match groups.iter_mut().find(|(known, _)| known == tail) {
            Some((_, stages)) => stages.push(stage),
            None => groups.push((tail, vec![stage])),
        }
    }
    let each = groups.into_iter().map(|(tail, stages)| {
        let plural = if stages.len() == 1 { "" } else { "s" };
        let stages = format!("stage{plural} {}", first_and_more(&stages, MAX_STAGES));
        if tail.is_empty() { format!("{stages} failed") } else { format!("{stages} failed:\n{tail}") }
    });
    let mut text = each.collect::<Vec<_>>().join("\n");
    if left_out > 0 {
        text += &format!("\nleft out, as they need what failed: {left_out} stages");
    }
    text
}

impl Error {
    /// Whether a training diverged, which is a result of its settings, unlike any other failure of a stage.
    pub fn is_divergence(&self) -> bool {
        matches!(self.training(), Some(duel_training::Error::Diverged { .. }))
    }

    /// The process's exit code (docs/commands.md).
    pub fn exit(&self) -> u8 {
        match self {
            Self::Spec(_)
            | Self::NotExact { .. }
            | Self::NoSeed { .. }
            | Self::NoClaim { .. }
            | Self::NoSuch { .. }
            | Self::JudgeFolder { .. }
            | Self::Unused { .. }
            | Self::NotText { .. }
            | Self::TooLarge { .. }
            | Self::OtherExperiment { .. }
            | Self::ClaimsDiffer { .. }
            | Self::MergedRun { .. }
            | Self::Unscriptable { .. } => 2,
            Self::Data(duel_data::Error::NoPrompt { .. } | duel_data::Error::Question { .. })
            | Self::Report(duel_report::Error::NoFigure { .. } | duel_report::Error::Statements { .. }) => 2,
            Self::Contradicted { .. } => 3,
            Self::Model(duel_model::Error::UnknownDevice { .. } | duel_model::Error::DeviceNotBuilt { .. }) => 2,
            Self::Evaluation(duel_evaluation::Error::Invariant { .. }) => 4,
            Self::Interrupted | Self::Detached => 130,
            // that a training diverged says most
            Self::Stages { failures, .. } => {
                failures.iter().find(|f| f.exit == 4).or(failures.first()).map_or(1, |f| f.exit)
            }
            _ => match self.training() {
                Some(duel_training::Error::Diverged { .. } | duel_training::Error::Invariant { .. }) => 4,
                Some(duel_training::Error::Interrupted) => 130,
                _ => 1,
            },
        }
    }

    /// The training's own error, whichever crate it came through.
    fn training(&self) -> Option<&duel_training::Error> {
        use duel_evaluation::Error as Evaluation;
        use duel_reward::Error as Reward;
        match self {
            Self::Training(error)
            | Self::Reward(Reward::Training(error))
            | Self::Evaluation(Evaluation::Training(error) | Evaluation::Reward(Reward::Training(error))) => {
                Some(error)
            }
            _ => None,
        }
    }

    /// The same error, of a stage that trains at a (peak) learning rate.
    pub fn at_rate(self, rate: f64) -> Self {
        use duel_evaluation::Error as Evaluation;
        use duel_reward::Error as Reward;
        match self {
            Self::Training(error)
            | Self::Reward(Reward::Training(error))
            | Self::Evaluation(Evaluation::Training(error) | Evaluation::Reward(Reward::Training(error))) => {
                Self::Training(error.at_rate(rate))
            }
            other => other,
        }
    }

    /// What the person can change.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Spec(e) => Some(e.hint()),
            Self::Data(e) | Self::Reward(duel_reward::Error::Data(e)) => e.hint(),
            Self::Reward(duel_reward::Error::Unsettled { .. }) => Some("raise `stages.rm.ridge`".into()),
            Self::Model(e) => e.hint(),
            Self::NotHere { source, .. } if matches!(**source, duel_hub::Error::Name { .. }) => source
                .hint()
                .map(|hint| format!("{hint}; relative paths are those of the folder where `duel` was started")),
            Self::NotHere { source, .. } => source.hint(),
            Self::Ledger(e) | Self::Report(duel_report::Error::Ledger(e)) => e.hint(),
            Self::NotExact { .. } => Some("the grammar is the only world whose runs can be enumerated".into()),
            Self::NoSeed { .. } => Some("--seed counts from 0; `duel plan` shows a run's seeds".into()),
            Self::JudgeFolder { .. } => {
                Some("name in it only the files that decide its answers, or start it by a script that names the folder, and give the judge a `version`".into())
            }
            Self::NoSuch { accepted, .. } => Some(format!("there are: {accepted}")),
            Self::Contradicted { .. } => Some("the lines above say which".into()),
            Self::Peer { .. } => Some("run this from the repository's root; `scripts/bench/bench-peers` says how to try a peer alone".into()),
            Self::Stages { .. } => Some("all others are kept: run the same command again to try only what is missing".into()),
            Self::NoClaim { known, .. } if known.is_empty() => {
                Some("write for example `[[claims]]` with `id`, `arms = [\"dpo\", \"ppo\"]` and `kl` into the experiment".into())
            }
            Self::NoClaim { known, .. } => Some(format!("its claims: {}", known.join(", "))),
            Self::NothingToChoose { arm } => {
                Some(format!("the reasons stand above; narrow `arms.{arm}.space`, or give `tuning.configurations` a larger number"))
            }
            Self::Output { .. } => Some("the output is incomplete; write it to a disk that has space".into()),
            Self::Unscriptable { .. } => Some("give the run another `--out`, on a path of ordinary characters".into()),
            Self::NotText { .. } => Some("rename it, or name a link to it".into()),
            Self::TooLarge { .. } => Some("lower `model.layers` or `model.width`".into()),
            Self::Changed { .. } => Some("rows, a model's files or the judge's program were changed while the run was going on: run the same command again".into()),
            Self::Unfinished { .. } => Some("`duel run` with the run's experiment resumes it".into()),
            Self::Screen { .. } => Some("`duel watch RUN --once` prints the same as text".into()),
            Self::Cluster { .. } => Some("`sinfo` says whether this machine belongs to a Slurm cluster; the run's folder `slurm/` has what was submitted".into()),
            Self::Detached => Some("run the same command again to follow them and to report; `duel cancel RUN` cancels them".into()),
            Self::Rows { needs_fixing: true, .. } => {
                Some("the lines above say which; unreadable and equal ones are left out of a training".into())
            }
            Self::Rows { .. } => Some("the lines above say which; without --strict these are no reason to fail".into()),
            Self::Unpaired { .. } => Some("give the arm loss = \"kto\", \"bco\" or \"aot_unpaired\", which look at each response by itself, or rows with `chosen` and `rejected`".into()),
            Self::OnlyPrompts { hint, .. } => Some((*hint).into()),
            Self::Reward(duel_reward::Error::Command { .. })
            | Self::Evaluation(duel_evaluation::Error::Reward(duel_reward::Error::Command { .. })) => {
                Some("try the program alone: for each line {\"prompt\": …, \"response\": …} that it reads it prints one line, and nothing else".into())
            }
            Self::OntoModel { .. } => Some("give --to a place of its own".into()),
            Self::Occupied { hint, .. } => Some((*hint).into()),
            Self::Unmergeable { hint, .. } | Self::MergeTarget { hint, .. } => Some((*hint).into()),
            Self::OtherExperiment { .. } => {
                Some("runs of one experiment differ in nothing but seeds, and arms that only one of them has".into())
            }
            Self::ClaimsDiffer { .. } => {
                Some("write it alike into the `experiment.toml` of both; where it is changed it then counts as added after the run".into())
            }
            Self::UnequalStage { .. } => Some("what two runs have in common has to be equal, as it is for one binary and one kind of processor: merge one of the two, or make what the other adds again".into()),
            Self::MergedRun { .. } => {
                Some("run it with another `--out` or `name`, and merge that run with this one".into())
            }
            Self::NumbersAlone { .. } => Some("use the run directory in which it was trained; `duel report` draws the page from the numbers".into()),
            Self::Interrupted => Some("run the same command again to resume".into()),
            Self::Evaluation(duel_evaluation::Error::Invariant { .. }) => Some(duel_training::FAULT_OF_DUEL.into()),
            _ => self.training().and_then(duel_training::Error::hint),
        }
    }
}
