//! The command line. Help is generated from here, never typed elsewhere.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Train a language model from human preferences by PPO and by DPO, side by side, and say which did better
#[derive(Debug, Parser)]
#[command(name = "duel", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an experiment, resuming stages that already finished
    ///
    /// Plans the experiment, trains what is missing, merges the numbers into parquet, draws the charts and
    /// writes the page. Running the same command again reuses every finished stage.
    Run(RunArgs),
    /// Show an experiment's stages and cells, and what is already there; run nothing
    Plan(ExperimentArgs),
    /// Draw charts, tables and the page again, from the parquet files alone
    Report {
        /// The run directory, for example runs/article
        run: PathBuf,
    },
    /// Print every key of an experiment file with its default, unit and source
    Defaults,
    /// Do one stage of a run (started by `duel run`)
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        run: PathBuf,
        #[arg(long)]
        stage: usize,
        #[arg(long)]
        device: String,
    },
}

/// Which experiment, with what changed.
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
    /// Where tensors live: flex, ndarray or wgpu
    #[arg(long, value_name = "NAME", default_value = "flex")]
    pub device: String,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// Stages at once, one thread each [default: the machine's cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub jobs: Option<u16>,
}

impl ExperimentArgs {
    /// All overrides of the command line.
    pub fn overrides(&self) -> Vec<String> {
        self.set.iter().cloned().chain(self.seeds.map(|n| format!("seeds={n}"))).collect()
    }
}
