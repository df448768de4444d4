//! The binary `duel`: from an experiment file to stages, cells, parquet and the page.

mod bench;
mod cache;
mod cli;
mod data;
mod doctor;
mod error;
mod estimate;
mod execute;
mod export;
mod host;
mod log;
mod parzen;
mod plan;
mod planned;
mod progress;
mod registry;
mod render;
mod rm;
mod run;
mod sample;
mod scene;
mod search;
mod show;
mod slurm;
mod target;
mod terminal;
mod theory;
mod watch;
#[cfg(test)]
mod wiring;
mod work;
mod worker;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use duel_ledger::Digests;
use error::Error;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

/// What a fallible call of this crate returns.
type Result<T> = std::result::Result<T, Error>;

/// Training makes and drops many tensors of one size; this allocator keeps their pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, for which the binding has no name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
/// Milliseconds that free pages are kept: longer than a step, so that none clears pages that the last one had.
const KEPT: std::ffi::c_long = 60_000;
/// The same of a pretrained model: what one part of its work drops would lie beside what the next one takes.
const KEPT_OF_LARGE: std::ffi::c_long = 500;

fn main() -> ExitCode {
    keep_pages(KEPT);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // help and version are printed as any other answer; mistakes go to standard error
        Err(answer) => {
            note_unprinted(answer.print());
            return finish(u8::try_from(answer.exit_code()).unwrap_or(2), None);
        }
    };
    log::start(cli.quiet, cli.verbose);
    let error = duel_model::catching(|| dispatch(cli.command)).err();
    finish(error.as_ref().map_or(0, Error::exit), error.as_ref())
}

/// Tells of an error, or, where there is none, of an answer that could not be printed.
fn finish(exit: u8, error: Option<&Error>) -> ExitCode {
    let unprinted = UNPRINTED.lock().ok().and_then(|mut unprinted| unprinted.take());
    let unprinted = unprinted.filter(|_| exit == 0).map(|source| Error::Output { source });
    let Some(error) = error.or(unprinted.as_ref()) else { return ExitCode::from(exit) };
    tracing::error!(exit = error.exit(), "{error}");
    let _ = writeln!(std::io::stderr(), "{}", render::render(error));
    ExitCode::from(error.exit())
}

/// Pages stay with the process between steps, unless the environment's `MIMALLOC_PURGE_DELAY` says otherwise.
#[expect(unsafe_code, reason = "a call into the allocator")]
fn keep_pages(milliseconds: std::ffi::c_long) {
    // SAFETY: sets a number within the allocator's table of options.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, milliseconds) }
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Plan(args) => show::plan(&args),
        Command::Report(args) => run::report(&args),
        Command::Sample(args) => sample::sample(&args),
        Command::Cache(command) => cache::cache(&command),
        Command::Data(cli::DataCommand::Check(args)) => data::check(&args),
        Command::Init(args) => data::init(&args),
        Command::Export(args) => export::export(&args),
        Command::Import(args) => export::import(&args),
        Command::Watch(args) => watch::watch(&args),
        Command::Digest { run, detail } => {
            let Digests { all: digests, missing } = duel_ledger::file_digests(&run)?;
            if !missing.is_empty() {
                let finished = format!("the run is not finished: this is of all but {} stages", missing.len());
                warn(&[format!("{finished}: {}", missing.join("; "))]);
            }
            if detail {
                digests.iter().for_each(|digest| print(&format!("{}  {}\n", digest.hash, digest.file)));
            } else {
                print(&format!("{}\n", duel_ledger::digest(&digests)));
            }
            Ok(())
        }
        Command::Verify(args) => theory::verify(&args),
        Command::Optimum(args) => theory::optimum(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Doctor { out } => doctor::doctor(&out),
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
        Command::Cancel { run } => slurm::cancel(&run),
        Command::Worker { run, stage, device, checkpoint_seconds, detached } => {
            let checkpoints = Duration::from_secs_f64(checkpoint_seconds);
            let done = worker::work(&run, stage, &device, checkpoints, detached);
            match &done {
                Ok(()) => {}
                Err(error) if detached => slurm::note_failure(&run, stage, error),
                Err(error) => worker::report_end(error),
            }
            done
        }
    }
}

/// What to know of an answer before it is believed, on standard error.
fn warn(warnings: &[String]) {
    for warning in warnings {
        let _ = writeln!(std::io::stderr(), "warning: {}", terminal::sanitize(warning));
    }
}

/// Standard output. A closed pipe is no error; what else keeps it from being written is told when all is done.
fn print(text: &str) {
    print_styled(&terminal::sanitize(text));
}

/// As [`print`], of text with colours of our own; what came from outside has passed [`terminal::shown`] by itself.
fn print_styled(text: &str) {
    let mut out = std::io::stdout().lock();
    note_unprinted(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Why standard output took no more, unless it is that nobody listens.
static UNPRINTED: Mutex<Option<std::io::Error>> = Mutex::new(None);

fn note_unprinted(written: std::io::Result<()>) {
    if let (Err(error), Ok(mut unprinted)) = (written, UNPRINTED.lock())
        && error.kind() != ErrorKind::BrokenPipe
    {
        unprinted.get_or_insert(error);
    }
}
