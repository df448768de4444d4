//! The command line. Help is generated from here, never typed elsewhere.

use crate::commands::args::seconds;
use crate::commands::bench::BenchArgs;
use crate::commands::cache::CacheCommand;
use crate::commands::data::DataCommand;
use crate::commands::export::ExportArgs;
use crate::commands::import::ImportArgs;
use crate::commands::init::InitArgs;
use crate::commands::merge::MergeArgs;
use crate::commands::optimum::OptimumArgs;
use crate::commands::plan::PlanArgs;
use crate::commands::report::ReportArgs;
use crate::commands::run::RunArgs;
use crate::commands::sample::SampleArgs;
use crate::commands::verify::VerifyArgs;
use crate::commands::watch::WatchArgs;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Train a language model from human preferences by PPO and by DPO, side by side, and say which did better
#[derive(Debug, Parser)]
#[command(name = "duel", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Say nothing on standard error but what is wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say on standard error what happens, as in a run's log.jsonl; twice for more. RUST_LOG does the same by target
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an experiment, resuming stages that already finished
    ///
    /// Plans the experiment, trains what is missing, merges the numbers into parquet, draws the charts and
    /// writes the page. Running the same command again reuses every finished stage.
    Run(RunArgs),
    /// Show an experiment's stages and cells, what they cost and what is already there; run nothing
    ///
    /// Times are estimated from a table of step times, scaled by how fast this machine multiplies two matrices. With `--measure`
    /// the steps of the experiment's model are timed here, once for each model, and later plans use those times.
    Plan(PlanArgs),
    /// Draw charts, tables and the page again, from the parquet files alone
    ///
    /// Of several runs: one page that compares them. With `--figure`: one chart at paper size.
    Report(ReportArgs),
    /// Merge runs of one experiment that were made apart: other seeds, or other arms
    ///
    /// Reads run directories, or their committed files alone (experiment.toml, manifest.json, tables.json and the parquet files). What
    /// several runs have is compared number by number; seconds and memory are compared within each run only.
    Merge(MergeArgs),
    /// Let all arms of a run respond to a prompt, side by side
    ///
    /// Each response with its gold and proxy reward and its KL; each token in the colour of its log-ratio to the reference:
    /// likelier than under the reference in blue, less likely in orange.
    Sample(SampleArgs),
    /// A person's own preference rows
    #[command(subcommand)]
    Data(DataCommand),
    /// Write an experiment fitted to a file of rows and a model
    ///
    /// Its lengths hold nine rows of ten; everything else is the commented template of experiments/own-data.toml.
    Init(InitArgs),
    /// Write a policy of a run for others: a Hugging Face directory, a PEFT adapter or a GGUF file
    Export(ExportArgs),
    /// Say what a model's files hold, and write them in another format
    ///
    /// Reads what `model.from` reads: Hugging Face directories, GGUF files, and names on the hub.
    Import(ImportArgs),
    /// Cancel a run's jobs on the cluster
    ///
    /// Finished stages and checkpoints stay; `duel run … --executor slurm` resumes from them.
    Cancel {
        /// The run directory, for example runs/article
        run: PathBuf,
    },
    /// Watch a run in the terminal as it goes
    ///
    /// Stages with their state and time left, curves of any metric by arm, what finished cells write. Reads the run's files
    /// alone: it may be started and left at any time, and from another machine that sees them. Where no terminal can be drawn on,
    /// a line whenever a stage begins or ends, until the run has ended.
    Watch(WatchArgs),
    /// The finished stages under one root
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Print one hash over all that is deterministic in a run
    ///
    /// Two runs of one experiment by one binary on one machine have the same, however often either was killed. Left out is
    /// what tells of time and memory: wall clocks, metrics in seconds and bytes, the manifest, the report.
    Digest {
        /// The run directory, for example runs/article
        run: PathBuf,
        /// One hash a file in place of one in all
        #[arg(long)]
        detail: bool,
    },
    /// Judge a run's claims, or those with known answers
    ///
    /// With a run directory: each of its experiment's `[[claims]]` is REPRODUCED, CONTRADICTED or INCONCLUSIVE, with the effect, its
    /// interval, seeds, budgets and reasons. With `--family exact`: expected and found numbers of every claim whose answer is
    /// known. Exit code 3 if one is contradicted.
    Verify(VerifyArgs),
    /// Print the exact optimum of a world at one KL coefficient
    Optimum(OptimumArgs),
    /// Time each step of training on this machine
    ///
    /// Every case runs the code that trains, twice to warm up and then as often as asked; medians stand beside the
    /// machine's own matrix product, measured in the same run.
    Bench(BenchArgs),
    /// Print every key of an experiment file with its default, unit and source
    Defaults,
    /// Say what will run on this machine and what will not, and why
    Doctor {
        /// Where runs are to stand
        #[arg(long, value_name = "DIR", default_value = "runs")]
        out: PathBuf,
    },
    /// Print a shell's completions
    ///
    /// For example: duel completions bash > ~/.local/share/bash-completion/completions/duel
    Completions { shell: clap_complete::Shell },
    /// Write the man pages, one a command
    Man {
        /// Where they go, for example ~/.local/share/man/man1
        to: PathBuf,
    },
    /// Do one stage of a run (started by `duel run`)
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        run: PathBuf,
        #[arg(long)]
        stage: usize,
        #[arg(long)]
        device: String,
        #[arg(long, value_parser = seconds)]
        checkpoint_seconds: f64,
        /// Its parent may end; a failure is written to a file
        #[arg(long)]
        detached: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use duel_testing::EXTREME_NUMBERS;
    use std::any::TypeId;

    /// Every option that takes a number, behind a command line that lacks nothing else.
    const NUMERIC: [(&str, &str); 24] = [
        ("bench", "--batch"),
        ("bench", "--threads"),
        ("bench", "--warm"),
        ("bench", "--runs"),
        ("cache explain e.toml", "--seeds"),
        ("data check rows.jsonl", "--prompt-tokens"),
        ("data check rows.jsonl", "--response-tokens"),
        ("data check rows.jsonl", "--show"),
        ("export run --arm a --to folder", "--seed"),
        ("optimum --world grammar", "--beta"),
        ("optimum --world grammar --beta 1", "--seed"),
        ("plan e.toml", "--jobs"),
        ("plan e.toml", "--seeds"),
        ("report run --figure frontier", "--width"),
        ("run e.toml", "--checkpoint-seconds"),
        ("run e.toml", "--jobs"),
        ("run e.toml", "--seeds"),
        ("sample run", "--draw"),
        ("sample run", "--responses"),
        ("sample run", "--seed"),
        ("watch run --once", "--height"),
        ("watch run --once", "--width"),
        ("worker --run run --stage 0 --device flex", "--checkpoint-seconds"),
        ("worker --run run --checkpoint-seconds 1 --device flex", "--stage"),
    ];

    /// Commands and their options of these types.
    fn numeric(command: &clap::Command, path: &str, options: &mut Vec<String>) {
        let types = [
            TypeId::of::<u16>(),
            TypeId::of::<u32>(),
            TypeId::of::<u64>(),
            TypeId::of::<usize>(),
            TypeId::of::<f64>(),
            TypeId::of::<duel_report::Width>(),
        ];
        for option in command.get_arguments().filter(|option| option.get_action().takes_values()) {
            if types.iter().any(|number| option.get_value_parser().type_id() == *number) {
                options.push(format!("{path} --{}", option.get_long().unwrap_or_default()).trim().to_string());
            }
        }
        for below in command.get_subcommands() {
            numeric(below, &format!("{path} {}", below.get_name()), options);
        }
    }

    #[test]
    fn an_extreme_number_on_the_command_line_is_accepted_or_refused_by_its_option() {
        let mut options = vec![];
        numeric(&Cli::command(), "", &mut options);
        options.sort();
        let commands = ["check", "explain"]; // of two words
        let known = NUMERIC.map(|(line, option)| {
            let words: Vec<&str> = line.split(' ').collect();
            let of = if commands.contains(words.get(1).unwrap_or(&"")) { 2 } else { 1 };
            format!("{} {option}", words[..of].join(" "))
        });
        let mut known = known.to_vec();
        known.sort();
        assert_eq!(options, known, "an option that takes a number is not tried");
        let not_numbers = ["", " 1", "1_000", "0x10", "1e300mm", "nanpx", "-3in", "0pt"];
        for (line, option) in NUMERIC {
            for value in EXTREME_NUMBERS.into_iter().chain(not_numbers) {
                let words = ["duel"].into_iter().chain(line.split(' ')).map(String::from);
                match Cli::try_parse_from(words.chain([format!("{option}={value}")])) {
                    Err(refused) => {
                        assert_eq!(refused.exit_code(), 2);
                        assert!(refused.to_string().contains(option), "{line} {option}={value}: {refused}");
                    }
                    Ok(_) => assert!(!value.contains("e300") && !value.contains("n"), "{line} {option}={value}"),
                }
            }
        }
    }
}
