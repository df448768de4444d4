//! The command line. Help is generated from here, never typed elsewhere.

use clap::{Args, Parser, Subcommand, ValueEnum};
use duel_spec::Split;
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
    /// Time is estimated from how fast each step is at the experiment's model on this machine: measured for two seconds,
    /// once for each model.
    Plan(PlanArgs),
    /// Draw charts, tables and the page again, from the parquet files alone
    ///
    /// Of several runs: one page that compares them. With `--figure`: one chart at paper size.
    Report(ReportArgs),
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
    /// Reads what `model.from` reads: Hugging Face directories of the Llama and GPT-2 families, and GGUF files.
    Import(ImportArgs),
    /// Cancel a run's jobs on the cluster
    ///
    /// What is finished or kept of a training stays; `duel run … --executor slurm` goes on from there.
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
    /// Print the exact optimum of a world at one price of KL
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
        /// It stands alone: its parent may end, and what it dies of is written down
        #[arg(long)]
        detached: bool,
    },
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The run directory, for example runs/article; of several, the page compares them
    #[arg(required = true)]
    pub runs: Vec<PathBuf>,
    /// Where the page of several runs goes
    #[arg(long, value_name = "DIR")]
    pub to: Option<PathBuf>,
    /// Draw this chart alone; `list` names those that there are
    #[arg(long, value_name = "NAME")]
    pub figure: Option<String>,
    /// How wide, for example 84mm, 3.3in, 240pt or 800px
    #[arg(long, default_value = "84mm", requires = "figure")]
    pub width: duel_report::Width,
    /// svg, png or pdf
    #[arg(long, default_value = "svg", requires = "figure")]
    pub format: duel_report::ChartFormat,
    /// light or dark
    #[arg(long, default_value = "light", requires = "figure")]
    pub theme: duel_report::Theme,
    /// The file that is written; by its default, NAME.FORMAT here
    #[arg(long, value_name = "FILE", requires = "figure")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct SampleArgs {
    /// The run directory, for example runs/article
    pub run: PathBuf,
    /// What to respond to; may be repeated. On reviews the beginning of a review. By default the first test prompts
    #[arg(long)]
    pub prompt: Vec<String>,
    /// Only these arms; `reference` is one
    #[arg(long)]
    pub arm: Vec<String>,
    /// The point of the arms, as `duel plan` writes it; by default each arm's best on validation prompts
    #[arg(long)]
    pub point: Option<String>,
    /// Whose policies: a seed of the experiment; its first by default
    #[arg(long)]
    pub seed: Option<u64>,
    /// Responses of each arm
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub responses: u16,
    /// Draws: another number, other responses
    #[arg(long, default_value_t = 0)]
    pub draw: u64,
    /// Have the run's judge score them where it is a program: `judge.command` of the run's experiment is then run
    #[arg(long)]
    pub judge: bool,
    /// Also write a page of them
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "text")]
    pub format: OutputFormat,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Say line by line what is wrong with rows, how long they are, and what would be left out
    ///
    /// JSON lines, JSON, CSV or parquet; pairs, completions with a label, or prompts alone, as text or as conversations. Exit
    /// code 1 where rows ought to be mended.
    Check(CheckArgs),
}

/// Under which names a row's parts stand.
#[derive(Debug, Clone, Args)]
pub struct ColumnArgs {
    /// The column of prompts
    #[arg(long, value_name = "NAME", default_value = "prompt")]
    pub prompt: String,
    /// The column of what was preferred
    #[arg(long, value_name = "NAME", default_value = "chosen")]
    pub chosen: String,
    /// The column of what was not
    #[arg(long, value_name = "NAME", default_value = "rejected")]
    pub rejected: String,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The rows: .jsonl, .json, .csv, .tsv or .parquet
    pub file: PathBuf,
    /// The model whose tokenizer and chat template read them; lengths are in words without one
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub model: Option<PathBuf>,
    /// Validation rows, in a file of their own
    #[arg(long, value_name = "FILE")]
    pub validation: Option<PathBuf>,
    /// Test rows, in a file of their own
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,
    /// Rows with longer prompts are left out
    #[arg(long, value_name = "N", default_value = "256", value_parser = tokens())]
    pub prompt_tokens: Option<u32>,
    /// Rows with longer completions are left out
    #[arg(long, value_name = "N", default_value = "128", value_parser = tokens())]
    pub response_tokens: Option<u32>,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[arg(long, value_enum, default_value = "text")]
    pub format: OutputFormat,
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where experiment.toml goes; its name is the experiment's
    pub folder: PathBuf,
    /// The rows, as `duel data check` reads them
    #[arg(long, value_name = "FILE")]
    pub rows: PathBuf,
    /// The model: a Hugging Face directory or a .gguf file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub model: PathBuf,
    #[command(flatten)]
    pub columns: ColumnArgs,
}

/// What an export writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportAs {
    /// A Hugging Face directory, adapters worked in
    Merged,
    /// A PEFT directory, to be put onto the model that the run began from
    Adapter,
    /// A GGUF file
    Gguf,
}

/// The numbers of matrices that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileNumbers {
    F32,
    F16,
    Bf16,
    /// GGUF only: eight bits and a scale for 32 numbers
    Q8,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The run directory, for example runs/smollm
    pub run: PathBuf,
    /// Whose policy; `reference` is one
    #[arg(long)]
    pub arm: String,
    /// The arm's point, as `duel plan` writes it; by default its best on validation prompts
    #[arg(long)]
    pub point: Option<String>,
    /// A seed of the experiment; its first by default
    #[arg(long)]
    pub seed: Option<u64>,
    /// The directory, or the .gguf file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub to: PathBuf,
    #[arg(long = "as", value_enum, default_value = "merged")]
    pub form: ExportAs,
    /// f32 by default
    #[arg(long, value_enum)]
    pub numbers: Option<FileNumbers>,
    /// Replace an earlier export that stands there, as a whole
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A Hugging Face directory or a .gguf file
    pub from: PathBuf,
    /// Where it is written: a directory, or a .gguf file
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub to: Option<PathBuf>,
    /// f32 by default
    #[arg(long, value_enum)]
    pub numbers: Option<FileNumbers>,
    /// Replace an earlier export that stands there, as a whole
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// Every stage with its size and the runs that hold it
    List {
        /// Where runs stand
        #[arg(long, value_name = "DIR", default_value = "runs")]
        out: PathBuf,
    },
    /// Say of each stage of an experiment whether it is reused, and if not, which settings differ from the nearest one
    Explain(ExperimentArgs),
    /// Remove stages that no run names any more, and what is left of damaged and unfinished ones
    ///
    /// Runs that go on are left alone.
    Prune {
        /// Where runs stand
        #[arg(long, value_name = "DIR", default_value = "runs")]
        out: PathBuf,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
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
    /// Where tensors live: flex, ndarray, wgpu or cuda
    #[arg(long, value_name = "NAME", default_value = "flex")]
    pub device: String,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// The run directory, for example runs/article
    pub run: PathBuf,
    /// Print the screen once as text
    #[arg(long)]
    pub once: bool,
    /// Columns of the text [default: the terminal's, or 80]
    #[arg(long, value_name = "N", requires = "once", value_parser = clap::value_parser!(u16).range(40..=500))]
    pub width: Option<u16>,
    /// Lines of the text [default: the terminal's, or 24]
    #[arg(long, value_name = "N", requires = "once", value_parser = clap::value_parser!(u16).range(12..=300))]
    pub height: Option<u16>,
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// Stages at once, one thread each [default: the machine's cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// Every setting as resolved, and where it comes from
    #[arg(long)]
    pub settings: bool,
    #[arg(long, default_value = "text")]
    pub format: OutputFormat,
}

#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// Stages at once, one thread each [default: the machine's cores; on a cluster as many as it grants]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// Where stages run: on this machine, or as Slurm job arrays over a shared directory (`[slurm]` in the experiment)
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub executor: Executor,
    /// End at the first stage that fails
    ///
    /// Without it a failed stage costs itself and what needs it; the rest goes on, and the exit code says so at the end.
    #[arg(long, conflicts_with = "keep_going")]
    pub fail_fast: bool,
    /// Go on after a stage has failed, which is the default
    #[arg(long)]
    pub keep_going: bool,
    /// Seconds between checkpoints of a training: no more than this much work is lost to a kill, and none of the result
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    pub checkpoint_seconds: f64,
}

/// Who runs stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Executor {
    Local,
    Slurm,
}

/// How a machine or a person reads the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Text,
    Json,
}

/// Claims that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClaimFamily {
    /// A1 to A11, C1 and C7: the equations, on worlds whose answers are known
    Exact,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["run", "family"]))]
pub struct VerifyArgs {
    /// The run directory whose `[[claims]]` are judged, for example runs/article
    pub run: Option<PathBuf>,
    /// Which claims with known answers
    #[arg(long)]
    pub family: Option<ClaimFamily>,
    /// Only this claim of the run; may be repeated
    #[arg(long, value_name = "ID", requires = "run")]
    pub claim: Vec<String>,
    /// Exit code 3 also where a claim is inconclusive
    #[arg(long, requires = "run")]
    pub strict: bool,
    #[arg(long, default_value = "text")]
    pub format: OutputFormat,
}

/// Sizes to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum BenchShape {
    /// 4 layers, width 128, vocabulary 4,096, 32 sequences of 16 + 48 tokens; every core
    S,
    /// 6 layers, width 384, vocabulary 8,192, 8 sequences of 32 + 96 tokens; every core
    M,
    /// A Llama of 135 M parameters (30 layers, width 576, vocabulary 49,152) under LoRA of rank 16, 8 pairs of 32 + 96
    /// tokens; every core
    #[value(name = "135M")]
    Llama,
    /// The default model of the world `grammar`, 64 sequences of 4 + 6 tokens; one thread
    #[value(name = "grammar")]
    Grammar,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Which sizes; may be repeated
    #[arg(long, default_values = ["S"])]
    pub config: Vec<BenchShape>,
    /// Only this case; may be repeated. `evaluation` is of the world `grammar` alone
    #[arg(long, value_parser = crate::bench::CASES)]
    pub case: Vec<String>,
    /// Timed runs of each case
    #[arg(long, value_name = "N", default_value = "7", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Beside PyTorch and TRL, in turn with ours; builds them with pip the first time (scripts/bench/bench-peers)
    #[arg(long)]
    pub peers: bool,
    #[arg(long, default_value = "text")]
    pub format: BenchFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    Text,
    Json,
    /// The README's table
    Markdown,
}

/// A world that can be enumerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExactWorld {
    /// Tiny film reviews: 24 prompts, responses of up to five tokens
    Grammar,
    /// Four prompts, 64 responses, a table
    Bandit,
}

/// A reward that is climbed in place of gold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProxyKind {
    /// What a reward model learns from pairs that never show the trap: "more is better"
    Excitement,
}

#[derive(Debug, Args)]
pub struct OptimumArgs {
    #[arg(long)]
    pub world: ExactWorld,
    /// Price of a nat of KL, from 1e-6 to 1e6
    #[arg(long, value_parser = positive)]
    pub beta: f64,
    /// Prompts of the grammar; the bandit has only one set
    #[arg(long, default_value = "test", value_parser = split)]
    pub split: Split,
    /// Climb this reward instead of gold; gold still judges
    #[arg(long)]
    pub proxy: Option<ProxyKind>,
    /// `grammar` itself, or a run directory whose SFT policy is the reference
    #[arg(long, value_name = "grammar|RUN", default_value = "grammar")]
    pub reference: String,
    /// Which seed's SFT policy, where the reference is a run's
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    #[arg(long, default_value = "text")]
    pub format: OutputFormat,
}

/// Tokens of a text, as the keys of the experiment accept them.
fn tokens() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 20)
}

/// Longest time between two checkpoints: a month.
const LONGEST: f64 = 30.0 * 86_400.0;

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (0.0..=LONGEST).contains(&x) => Ok(x),
        _ => Err(format!("a number from 0 to {LONGEST} is wanted")),
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (1e-6..=1e6).contains(&x) => Ok(x),
        _ => Err("a number from 1e-6 to 1e6 is wanted".into()),
    }
}

fn split(text: &str) -> Result<Split, String> {
    [Split::Train, Split::Validation, Split::Test]
        .into_iter()
        .find(|split| split.name() == text)
        .ok_or_else(|| "train, validation or test is wanted".into())
}

impl ExperimentArgs {
    /// All overrides of the command line.
    pub fn overrides(&self) -> Vec<String> {
        self.set.iter().cloned().chain(self.seeds.map(|n| format!("seeds={n}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use std::any::TypeId;

    /// Every option that takes a number, behind a command line that lacks nothing else.
    const NUMERIC: [(&str, &str); 20] = [
        ("bench", "--runs"),
        ("cache explain e.toml", "--seeds"),
        ("data check rows.jsonl", "--prompt-tokens"),
        ("data check rows.jsonl", "--response-tokens"),
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
    fn numeric(command: &clap::Command, path: &str, found: &mut Vec<String>) {
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
                found.push(format!("{path} --{}", option.get_long().unwrap_or_default()).trim().to_string());
            }
        }
        for below in command.get_subcommands() {
            numeric(below, &format!("{path} {}", below.get_name()), found);
        }
    }

    #[test]
    fn no_number_on_the_command_line_is_too_absurd_to_be_refused_by_its_option() {
        let mut found = vec![];
        numeric(&Cli::command(), "", &mut found);
        found.sort();
        let commands = ["check", "explain"]; // of two words
        let known = NUMERIC.map(|(line, option)| {
            let words: Vec<&str> = line.split(' ').collect();
            let of = if commands.contains(words.get(1).unwrap_or(&"")) { 2 } else { 1 };
            format!("{} {option}", words[..of].join(" "))
        });
        let mut known = known.to_vec();
        known.sort();
        assert_eq!(found, known, "an option that takes a number is not tried");
        let absurd = [
            "-1",
            "0",
            "-0.0",
            "1e300",
            "-1e300",
            "1e-320",
            "nan",
            "inf",
            "-inf",
            "1.5",
            "",
            " 1",
            "1_000",
            "0x10",
            "65536",
            "4294967296",
            "18446744073709551615",
            "18446744073709551616",
            "99999999999999999999",
            "1e300mm",
            "nanpx",
            "-3in",
            "0pt",
        ];
        for (line, option) in NUMERIC {
            for value in absurd {
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
