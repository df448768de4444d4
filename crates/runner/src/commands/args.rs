//! Arguments that several commands share.

use crate::error::Result;
use crate::plan::Plan;
use crate::search;
use crate::sources;
use crate::sysinfo;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use duel_ledger::read_rounds;
use duel_spec::{ColumnRole, Document, Experiment};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The names of the columns of a row, an option for each. Without one, those that published sets use; "none": no such column.
#[derive(Debug, Clone, Default)]
pub struct ColumnArgs(pub BTreeMap<ColumnRole, String>);

impl FromArgMatches for ColumnArgs {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let name = |role: ColumnRole| Some((role, matches.get_one::<String>(role.key())?.clone()));
        Ok(Self(ColumnRole::all().filter_map(name).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        self.0.extend(Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

impl Args for ColumnArgs {
    fn augment_args(command: Command) -> Command {
        let option = |role: ColumnRole| {
            let option = Arg::new(role.key()).long(role.key().replace('_', "-"));
            option.value_name("NAME").help(role.description()).help_heading("Columns")
        };
        command.args(ColumnRole::all().map(option))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Which experiment, with which changes.
#[derive(Debug, Args)]
pub struct ExperimentArgs {
    /// The experiment file, for example experiments/article.toml
    pub file: PathBuf,
    /// Override a setting of the file; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Number of seeds; the same as --set seeds=N
    #[arg(long, value_name = "N")]
    pub seeds: Option<u64>,
    /// The directory that holds your runs; this one is DIR/<name>
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub out: PathBuf,
    /// Compute device: flex (the CPU), ndarray, wgpu or cuda
    #[arg(long, value_name = "NAME", default_value = "flex")]
    pub device: String,
}

/// How the answer is printed: for a person or for a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

impl ExperimentArgs {
    /// All overrides of the command line.
    fn overrides(&self) -> Vec<String> {
        self.set.iter().cloned().chain(self.seeds.map(|n| format!("seeds={n}"))).collect()
    }

    /// Reads the experiment and checks what can be checked before anything is made.
    pub fn load(&self) -> Result<(Experiment, Document)> {
        let mut overrides = self.overrides();
        let (mut experiment, mut document) = Experiment::load(&self.file, &overrides)?;
        overrides.extend(sources::pins(&experiment)?);
        if overrides.len() > self.overrides().len() {
            (experiment, document) = Experiment::load(&self.file, &overrides)?;
        }
        duel_model::device::open(&self.device)?;
        if crate::world::reads_reviews(&experiment) {
            duel_data::reviews::check_present(Path::new(&experiment.world.reviews.data))?;
        }
        Ok((experiment, document))
    }

    /// The plan of all rounds: of a search that has not ended, as many points as it may try.
    pub fn whole_plan(&self, experiment: &Experiment) -> Result<Plan> {
        let rounds = read_rounds(&self.out.join(&experiment.name))?;
        let has_ended = experiment.is_tuned() && search::have_ended(&rounds);
        let rounds = if has_ended { rounds } else { search::preview(experiment) };
        Plan::new(experiment, &self.device, rounds.iter().flat_map(|round| experiment.cells_for(round)).collect())
    }
}

/// Longest time between two checkpoints: a month.
const LONGEST: f64 = 30.0 * 86_400.0;

/// Parses the time between two checkpoints.
pub fn seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..=LONGEST).contains(&x) => Ok(x),
        _ => Err(format!("expected a number from 0 to {LONGEST}")),
    }
}

/// Stages at once on this machine: `--jobs`, by default the number of cores. A pretrained model is held once: its stages run one
/// by one, on every core.
pub fn concurrent_stages(experiment: &Experiment, jobs: Option<u16>) -> usize {
    if experiment.is_pretrained() { 1 } else { jobs.map_or_else(sysinfo::cores, usize::from) }
}
