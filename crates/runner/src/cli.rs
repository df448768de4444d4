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
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, Parser, Subcommand};
use std::path::PathBuf;

/// Where a newcomer begins.
const FIRST_STEPS: &str = "First steps:
  duel run experiments/smoke.toml            Compare PPO and DPO in a quarter of a minute
  duel run experiments/article.toml          The full comparison, in some minutes
  duel init mine --rows FILE --model MODEL   Set up a comparison on your own rows and model
  duel doctor                                Check what works on this machine";

/// Train a language model from human preferences with PPO and with DPO, side by side, and compare the results
#[derive(Debug, Parser)]
#[command(name = "duel", version, propagate_version = true, max_term_width = 100, after_help = FIRST_STEPS)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Print only errors and warnings to standard error
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print the run's log to standard error (-vv for more); RUST_LOG filters it by target
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run an experiment, or resume it
    ///
    /// Trains whatever is not finished, then merges the numbers into parquet files, draws the charts and writes the report page.
    /// Running the same command again reuses every finished stage.
    Run(RunArgs),
    /// Show what an experiment would run and how long it would take
    ///
    /// Lists the stages, which of them are already finished, and their cost. Times are estimated from a table of measured steps,
    /// scaled by this machine's speed; with `--measure` this model's own steps are timed here first, and later plans reuse those
    /// times.
    Plan(PlanArgs),
    /// Draw the charts, tables and page again from the parquet files
    ///
    /// With several runs, writes one page that compares them. With `--figure`, writes a single chart at paper size.
    Report(ReportArgs),
    /// Merge runs of one experiment that were made separately, with other seeds or other arms
    ///
    /// Reads run directories, or only their committed files (experiment.toml, manifest.json, tables.json and the parquet files).
    /// Results that several runs share must be equal. Seconds and memory are compared only within each run.
    Merge(MergeArgs),
    /// Generate responses from every arm of a run, side by side
    ///
    /// Shows each response's gold reward, proxy reward and KL, and colours each token by its log-ratio to the reference: blue if it
    /// is likelier than under the reference, orange if less likely.
    Sample(SampleArgs),
    /// Check your own preference rows
    #[command(subcommand)]
    Data(DataCommand),
    /// Write an experiment file for your rows and your model
    ///
    /// Chooses length limits that keep nine rows in ten. Everything else comes from the commented template
    /// experiments/own-data.toml.
    Init(InitArgs),
    /// Export a trained policy as a Hugging Face directory, a PEFT adapter or a GGUF file
    Export(ExportArgs),
    /// Describe a model's files, or convert them to another format
    ///
    /// Reads everything that `model.from` accepts: Hugging Face directories, GGUF files and names on the hub.
    Import(ImportArgs),
    /// Cancel a run's Slurm jobs
    ///
    /// Keeps finished stages and checkpoints; `duel run … --executor slurm` resumes from them.
    Cancel {
        /// The run directory, for example runs/article
        run: PathBuf,
    },
    /// Watch a run in the terminal
    ///
    /// Shows each stage with its state and time left, a curve of any metric for each arm, and completions of finished cells. Only
    /// reads the run's files, so it can be started and stopped at any time, also from another machine that sees them. Without a
    /// terminal it prints a line whenever a stage starts or ends.
    Watch(WatchArgs),
    /// List, explain or remove cached stages
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Print a hash of everything deterministic in a run
    ///
    /// Two runs of one experiment with the same binary on the same machine have the same hash, even if one was interrupted and
    /// resumed. Wall-clock times, memory, the manifest and the report are left out.
    Digest {
        /// The run directory, for example runs/article
        run: PathBuf,
        /// Print one hash per file
        #[arg(long)]
        detail: bool,
    },
    /// Judge the claims of a run
    ///
    /// Prints REPRODUCED, CONTRADICTED or INCONCLUSIVE for each of the experiment's `[[claims]]`, with the effect, its interval, the
    /// seeds, the budgets and the reasons. `--family exact` checks claims with a known answer instead. Exit code 3 if any claim is
    /// contradicted.
    Verify(VerifyArgs),
    /// Print the exact optimum of a small world at one KL coefficient
    Optimum(OptimumArgs),
    /// Benchmark training steps on this machine
    ///
    /// Each case runs the real training code, with warm-up rounds first. Prints medians, beside the speed of a plain matrix product
    /// measured in the same run.
    Bench(BenchArgs),
    /// Print every setting with its default, unit and source
    Defaults,
    /// Check what works on this machine, and explain what does not
    Doctor {
        /// The directory that holds your runs
        #[arg(long, value_name = "DIR", default_value = "runs")]
        out: PathBuf,
    },
    /// Print shell completions
    ///
    /// For example: duel completions bash > ~/.local/share/bash-completion/completions/duel
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write man pages
    Man {
        /// The directory to write to, for example ~/.local/share/man/man1
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

/// Edits between a mistyped command and the one that is suggested: exchanged, missing, wrong or additional letters.
const MAX_EDITS: usize = 2;

/// An answer to a mistyped command, with the command that was meant where clap finds none: `rnu` is not like `run` by its measure.
pub fn with_suggestion(mut answer: clap::Error, arguments: &[String]) -> clap::Error {
    let Some(ContextValue::String(word)) = answer.get(ContextKind::InvalidSubcommand).cloned() else { return answer };
    if answer.get(ContextKind::SuggestedSubcommand).is_some() {
        return answer;
    }
    let root = Cli::command();
    let before = arguments.iter().take_while(|argument| **argument != word);
    let parent = before.filter_map(|argument| root.find_subcommand(argument)).last().unwrap_or(&root);
    let edits = |command: &clap::Command| strsim::osa_distance(&word, command.get_name());
    let known = parent.get_subcommands().filter(|command| !command.is_hide_set());
    let nearest = known.min_by_key(|command| edits(command)).filter(|command| {
        let edits = edits(command);
        edits <= MAX_EDITS && 2 * edits < command.get_name().len()
    });
    if let Some(command) = nearest {
        let suggested = ContextValue::Strings(vec![command.get_name().to_owned()]);
        answer.insert(ContextKind::SuggestedSubcommand, suggested);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn a_mistyped_command_is_answered_with_the_one_that_was_meant() {
        let answer = |line: &str| {
            let words: Vec<String> = line.split(' ').map(String::from).collect();
            let refused = Cli::try_parse_from(std::iter::once("duel".to_string()).chain(words.clone()));
            with_suggestion(refused.expect_err("no such command"), &words).to_string()
        };
        for (line, meant) in [
            ("rnu e.toml", "'run'"),
            ("-q paln e.toml", "'plan'"),
            ("reprot runs/x", "'report'"),
            ("wacth runs/x", "'watch'"),
            ("cache lits", "'list'"),
            ("data chekc rows.jsonl", "'check'"),
        ] {
            assert!(answer(line).contains(meant), "{line}: {}", answer(line));
        }
        for line in ["experiments/smoke.toml", "xyz", "cache rnu"] {
            assert!(!answer(line).contains("similar"), "{line}: {}", answer(line));
        }
    }

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
