//! The binary `duel`: from an experiment file to stages, cells, parquet and the page.

mod bench;
mod calibration;
mod cli;
mod commands;
mod error;
mod estimate;
mod executors;
mod iteration_estimate;
mod judge_files;
mod log;
mod merge;
mod plan;
mod progress;
#[cfg(test)]
mod reference_pages;
mod render;
mod search;
mod sources;
mod stages;
mod step_time;
mod sysinfo;
mod target;
mod task_progress;
mod terminal;
mod warnings;
#[cfg(test)]
mod wiring;
mod world;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use commands::data::DataCommand;
use error::{Error, Result};
use std::io::Write;
use std::process::ExitCode;
use terminal::{note_unprinted, print};

/// Training makes and drops many tensors of one size; this allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sysinfo::set_purge_delay(sysinfo::PURGE_MILLISECONDS);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // help and version are printed as any other answer; mistakes go to standard error
        Err(answer) => {
            let typed: Vec<_> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
            let answer = cli::with_suggestion(answer, &typed);
            note_unprinted(answer.print());
            return finish(u8::try_from(answer.exit_code()).unwrap_or(2), None);
        }
    };
    log::start(cli.quiet, cli.verbose);
    let error = duel_model::catching(|| dispatch(cli.command)).err();
    finish(error.as_ref().map_or(0, Error::exit), error.as_ref())
}

/// Prints the error, or, where there is none, that an answer could not be printed.
fn finish(exit: u8, error: Option<&Error>) -> ExitCode {
    let unprinted = terminal::take_unprinted().filter(|_| exit == 0).map(|source| Error::Output { source });
    let Some(error) = error.or(unprinted.as_ref()) else { return ExitCode::from(exit) };
    tracing::error!(exit = error.exit(), "{error}");
    let _ = writeln!(std::io::stderr(), "{}", render::render(error));
    ExitCode::from(error.exit())
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => commands::run::run(&args),
        Command::Plan(args) => commands::plan::plan(&args),
        Command::Report(args) => commands::report::report(&args),
        Command::Merge(args) => commands::merge::merge(&args),
        Command::Sample(args) => commands::sample::sample(&args),
        Command::Cache(command) => commands::cache::cache(&command),
        Command::Data(DataCommand::Check(args)) => commands::data::check(&args),
        Command::Init(args) => commands::init::init(&args),
        Command::Export(args) if args.reward_model => commands::export_reward::export_reward_model(&args),
        Command::Export(args) => commands::export::export(&args),
        Command::Import(args) => commands::import::import(&args),
        Command::Watch(args) => commands::watch::watch(&args),
        Command::Digest { run, detail } => commands::digest::digest(&run, detail),
        Command::Verify(args) => commands::verify::verify(&args),
        Command::Optimum(args) => commands::optimum::optimum(&args),
        Command::Bench(args) => commands::bench::bench(&args),
        Command::Doctor { out } => commands::doctor::doctor(&out),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "duel", &mut text);
            print(&String::from_utf8_lossy(&text));
            Ok(())
        }
        Command::Man { to } => {
            let io = |action| {
                let path = to.clone();
                move |source| Error::Io { action, path, source }
            };
            std::fs::create_dir_all(&to).map_err(io("create"))?;
            clap_mangen::generate_to(Cli::command(), &to).map_err(io("write"))?;
            Ok(())
        }
        Command::Defaults => {
            print(duel_spec::defaults_text());
            Ok(())
        }
        Command::Cancel { run } => commands::cancel::cancel(&run),
        Command::Worker { run, stage, device, checkpoint_seconds, detached } => {
            commands::worker::worker(&run, stage, &device, checkpoint_seconds, detached)
        }
    }
}
