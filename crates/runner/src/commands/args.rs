//! Arguments that several commands share.

use crate::error::Result;
use crate::plan::Plan;
use crate::search;
use crate::sources;
use crate::sysinfo;
use clap::{Args, ValueEnum};
use duel_ledger::read_rounds;
use duel_spec::{Document, Experiment};
use std::path::{Path, PathBuf};

/// The names of the columns of a row. Without one, those that published sets use; "none": no such column.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Columns")]
pub struct ColumnArgs {
    /// The column of prompts
    #[arg(long, value_name = "NAME")]
    pub prompt: Option<String>,
    /// The column of what an instruction is about
    #[arg(long, value_name = "NAME")]
    pub input: Option<String>,
    /// The column of system turns
    #[arg(long, value_name = "NAME")]
    pub system: Option<String>,
    /// The column of functions that may be called
    #[arg(long, value_name = "NAME")]
    pub tools: Option<String>,
    /// The column of what was preferred
    #[arg(long, value_name = "NAME")]
    pub chosen: Option<String>,
    /// The column of what was not
    #[arg(long, value_name = "NAME")]
    pub rejected: Option<String>,
    /// The column of single completions, with a label or a score
    #[arg(long, value_name = "NAME")]
    pub completion: Option<String>,
    /// The column that says whether a completion is desirable
    #[arg(long, value_name = "NAME")]
    pub label: Option<String>,
    /// The column of lists of completions, ranked or with scores
    #[arg(long, value_name = "NAME")]
    pub completions: Option<String>,
    /// The score of a completion: a field, a list beside them or a column
    #[arg(long, value_name = "NAME")]
    pub score: Option<String>,
    /// The column of the first of two completions
    #[arg(long, value_name = "NAME")]
    pub first: Option<String>,
    /// The column of the second of two completions
    #[arg(long, value_name = "NAME")]
    pub second: Option<String>,
    /// The column that says which of the two is better
    #[arg(long, value_name = "NAME")]
    pub preference: Option<String>,
    /// The column of the chosen completion's score
    #[arg(long, value_name = "NAME")]
    pub score_chosen: Option<String>,
    /// The column of the rejected completion's score
    #[arg(long, value_name = "NAME")]
    pub score_rejected: Option<String>,
    /// The column of the preference's strength, in log-odds
    #[arg(long, value_name = "NAME")]
    pub margin: Option<String>,
}

impl ColumnArgs {
    /// The names that were given, by their keys in `[world.rows]`.
    pub fn names(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let names = [
            ("prompt", &self.prompt),
            ("input", &self.input),
            ("system", &self.system),
            ("tools", &self.tools),
            ("chosen", &self.chosen),
            ("rejected", &self.rejected),
            ("completion", &self.completion),
            ("label", &self.label),
            ("completions", &self.completions),
            ("score", &self.score),
            ("first", &self.first),
            ("second", &self.second),
            ("preference", &self.preference),
            ("score_chosen", &self.score_chosen),
            ("score_rejected", &self.score_rejected),
            ("margin", &self.margin),
        ];
        names.into_iter().filter_map(|(key, name)| Some((key, name.as_deref()?)))
    }
}

/// Which experiment, with which changes.
#[derive(Debug, Args)]
pub struct ExperimentArgs {
    /// The experiment file, for example experiments/article.toml
    pub file: PathBuf,
    /// Override a value of the file; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Replications; the same as --set seeds=N
    #[arg(long, value_name = "N")]
    pub seeds: Option<u64>,
    /// Where runs stand; this one goes to DIR/<name>
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub out: PathBuf,
    /// Where tensors live: flex, ndarray, wgpu or cuda
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
