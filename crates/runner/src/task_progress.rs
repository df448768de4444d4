//! The progress of a command that may take a while: a bar with the time left on a terminal, a line now and then elsewhere.

use crate::log;
use crate::sysinfo;
use crate::terminal::{format_seconds, sanitize};
use duel_ledger::Pace;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Minimum time between two plain lines.
pub(crate) const LINE_PAUSE: Duration = Duration::from_secs(15);
/// Time between two updates of a bar.
const BAR_PAUSE: Duration = Duration::from_millis(100);

/// Whether bars are drawn: on a terminal that can move its cursor, unless only errors are wanted.
pub(crate) fn draws_bars() -> bool {
    std::io::stderr().is_terminal() && !sysinfo::is_dumb_terminal() && !log::is_quiet()
}

/// `about 3 min left`.
pub(crate) fn time_left(seconds: f64) -> String {
    format!("about {} left", format_seconds(seconds))
}

/// The progress of one task; its bar is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct TaskProgress {
    name: String,
    bar: Option<ProgressBar>,
    pace: Pace,
    started: Instant,
    /// The last update of the bar, or the last line.
    shown: Instant,
}

impl TaskProgress {
    /// A task that begins now.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        let bar = draws_bars().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {percent}%  {elapsed}  {wide_msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(sanitize(&name).into_owned());
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { name, bar, pace: Pace::default(), started: Instant::now(), shown: Instant::now() }
    }

    /// So much is done of this total, which `message` says in its own unit.
    pub(crate) fn update(&mut self, done: u64, total: u64, message: impl FnOnce() -> String) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.pace.update(done, total, seconds);
        let pause = if self.bar.is_some() { BAR_PAUSE } else { LINE_PAUSE };
        if self.shown.elapsed() < pause {
            return;
        }
        self.shown = Instant::now();
        let left = self.pace.seconds_left(seconds).map(time_left);
        let words = std::iter::once(message()).chain(left).collect::<Vec<_>>().join(", ");
        let words = sanitize(&words);
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done.min(total));
            bar.set_message(words.into_owned());
        } else if !log::is_quiet() {
            let percent = 100.0 * done.min(total) as f64 / total.max(1) as f64;
            let _ = writeln!(std::io::stderr(), "{}: {percent:.0}%, {words}", sanitize(&self.name));
        }
    }
}

impl Drop for TaskProgress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Runs a task that writes so many bytes, about, to a path, and shows how many of them are there.
pub(crate) fn while_writing<T>(name: &str, path: &Path, bytes: u64, task: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (end, ended) = channel::<()>();
        scope.spawn(move || {
            let mut progress = TaskProgress::new(name);
            while ended.recv_timeout(BAR_PAUSE) == Err(RecvTimeoutError::Timeout) {
                let written = size_of(path);
                let message = || format!("{:.1} of {:.1} GB", written as f64 / 1e9, bytes as f64 / 1e9);
                progress.update(written, bytes, message);
            }
        });
        let result = task();
        drop(end);
        result
    })
}

/// Bytes of a file, or of the files of a folder.
pub(crate) fn size_of(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::metadata(path) else { return 0 };
    if metadata.is_file() {
        return metadata.len();
    }
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_counted_in_a_file_and_in_a_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(size_of(&folder.path().join("none")), 0);
        let written = while_writing("writing", folder.path(), 10, || {
            std::fs::write(folder.path().join("a"), [0; 7]).expect("written");
            std::fs::write(folder.path().join("b"), [0; 3]).expect("written");
            size_of(folder.path())
        });
        assert_eq!((written, size_of(&folder.path().join("a"))), (10, 7));
    }
}
