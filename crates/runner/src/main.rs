//! The binary `duel`: from an experiment file to stages, cells, parquet and the page.

mod bench;
mod cli;
mod error;
mod execute;
mod host;
mod plan;
mod progress;
mod registry;
mod render;
mod run;
mod theory;
mod work;
mod worker;

use clap::Parser;
use cli::{Cli, Command};
use error::Error;
use std::io::Write;
use std::process::ExitCode;

/// What a fallible call of this crate returns.
type Result<T> = std::result::Result<T, Error>;

/// Training makes and drops many tensors of one size; this allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{}", render::render(&error));
            ExitCode::from(error.exit())
        }
    }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => run::plan(&args),
        Command::Report { run } => {
            let page = duel_report::write(&run)?;
            print(&format!("{}\n", page.display()));
            Ok(())
        }
        Command::Verify(args) => theory::verify(&args),
        Command::Optimum(args) => theory::optimum(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Defaults => {
            print(duel_spec::defaults_text());
            Ok(())
        }
        Command::Worker { run, stage, device } => worker::work(&run, stage, &device),
    }
}

/// Standard output; a closed pipe is no error.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
