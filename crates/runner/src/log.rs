//! What happened when: every line of `log.jsonl` in the run directory is an event with its fields, and `-v` or `RUST_LOG` put
//! the same on standard error.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::prelude::*;

/// The run's own file, once a run is known.
static FILE: OnceLock<File> = OnceLock::new();
static QUIET: AtomicBool = AtomicBool::new(false);
/// Whether events go to standard error.
static TOLD: AtomicBool = AtomicBool::new(false);

/// Listens to events from here on; `verbose` counts how often `-v` was given.
pub fn start(quiet: bool, verbose: u8) {
    QUIET.store(quiet, Ordering::Relaxed);
    let requested = match verbose {
        0 => None,
        1 => Some(LevelFilter::INFO),
        2 => Some(LevelFilter::DEBUG),
        _ => Some(LevelFilter::TRACE),
    };
    let by_environment = || std::env::var_os("RUST_LOG").and_then(|_| EnvFilter::try_from_default_env().ok());
    let filter = match requested {
        Some(level) => Some(EnvFilter::default().add_directive(level.into())),
        None => by_environment(),
    };
    let shown = filter
        .map(|filter| tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false).with_filter(filter));
    let written = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_target(false)
        .with_writer(|| RunLogWriter)
        .with_filter(by_environment().unwrap_or_else(|| EnvFilter::default().add_directive(LevelFilter::DEBUG.into())));
    // a second call, as in tests, finds the first one's
    let _ = tracing_subscriber::registry().with(shown).with(written).try_init();
}

/// Writes events to this run's file, too. A log is a comfort: one that cannot be written stops nothing.
pub fn write_to(run: &Path) {
    if let Ok(file) = File::options().create(true).append(true).open(run.join("log.jsonl")) {
        let _ = FILE.set(file);
    }
}

/// Whether only errors and results are printed.
pub fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Whether a person sees events as they come.
pub fn is_told() -> bool {
    TOLD.load(Ordering::Relaxed)
}

/// The run's file, or nowhere.
struct RunLogWriter;

impl Write for RunLogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        FILE.get().map_or(Ok(bytes.len()), |mut file| file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
