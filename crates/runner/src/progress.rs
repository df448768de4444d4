//! The display of a run's progress: a bar on a terminal, plain lines elsewhere.

use crate::executors::RunEvent;
use crate::log;
use crate::plan::{Plan, Stage, StageKind};
use crate::task_progress::{LINE_PAUSE, draws_bars, time_left};
use crate::terminal::{format_seconds, sanitize};
use duel_ledger::{Pace, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

/// The share of the time so far that the pause between two plain lines becomes: a run of a day has a hundred lines.
const PAUSE_SHARE: u32 = 20;

/// The progress of a run, shown from its events.
#[derive(Debug)]
pub struct ProgressReporter {
    bar: Option<ProgressBar>,
    jobs: usize,
    started: Instant,
    last_line: Instant,
    /// Stages finished since.
    unsaid: usize,
    total: usize,
    done: usize,
    cells: usize,
    cells_done: usize,
    running: BTreeMap<usize, RunningStage>,
    /// Stages not yet finished, by group, and seconds that finished ones took.
    remaining: BTreeMap<String, usize>,
    took: BTreeMap<String, Vec<f64>>,
}

/// A stage that a worker is at.
#[derive(Debug)]
struct RunningStage {
    label: String,
    started: Instant,
    progress: Progress,
    pace: Pace,
    /// The largest share done of any of its parts.
    share: f64,
}

impl RunningStage {
    fn new(label: String) -> Self {
        Self { label, started: Instant::now(), progress: Progress::default(), pace: Pace::default(), share: 0.0 }
    }

    fn update(&mut self, progress: &Progress) {
        self.progress = progress.clone();
        self.pace.update(progress.done, progress.total, self.started.elapsed().as_secs_f64());
        self.share = self.share.max(progress.done as f64 / progress.total.max(1) as f64);
    }

    /// Time left of its present part.
    fn time_left(&self) -> Option<String> {
        self.pace.seconds_left(self.started.elapsed().as_secs_f64()).map(time_left)
    }

    /// For a bar: a training by its share, anything else with its name.
    fn summary(&self) -> String {
        let Progress { done, total, message } = &self.progress;
        let percent = 100.0 * *done as f64 / (*total).max(1) as f64;
        let part = if message.is_empty() || message.starts_with("loss ") { "" } else { message };
        let part = if part.is_empty() { String::new() } else { format!(", {part}") };
        format!("{}{part} {percent:.0}%", self.label)
    }

    /// For a plain line.
    fn line(&self) -> String {
        let Progress { done, total, message } = &self.progress;
        let left = self.time_left().map_or(String::new(), |left| format!(", {left}"));
        format!("{}: {done}/{total} {message}{left}", self.label)
    }
}

/// Stages of one group take about as long.
fn group(stage: &Stage) -> String {
    stage.cell.as_ref().map_or_else(|| stage.kind.name().to_string(), |cell| format!("cell {}", cell.arm))
}

impl ProgressReporter {
    /// An empty board.
    pub fn new(jobs: usize) -> Self {
        let bar = draws_bars().then(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} stages  {elapsed}  {wide_msg}");
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self {
            bar,
            jobs,
            started: Instant::now(),
            last_line: Instant::now(),
            unsaid: 0,
            total: 0,
            done: 0,
            cells: 0,
            cells_done: 0,
            running: BTreeMap::new(),
            remaining: BTreeMap::new(),
            took: BTreeMap::new(),
        }
    }

    /// Takes in what has happened.
    pub fn handle(&mut self, event: RunEvent<'_>) {
        match event {
            RunEvent::Message(line) => self.print_line(&line),
            RunEvent::Planned { plan, finished } => self.start(plan, &finished),
            RunEvent::StageStarted(index, stage) => self.stage_started(index, stage),
            RunEvent::StageProgress(index, progress) => self.stage_progress(index, &progress),
            RunEvent::StageEnded(index) => self.stage_ended(index),
            RunEvent::StageFinished(index, stage, took) => self.stage_finished(index, stage, took),
        }
    }

    /// A line that stays, on the terminal and in the log.
    pub fn print_line(&self, line: &str) {
        tracing::info!("{line}");
        if !log::is_told() {
            self.show(line);
        }
    }

    /// A line that stays.
    fn show(&self, line: &str) {
        let line = sanitize(line);
        match &self.bar {
            Some(bar) => bar.println(line),
            None if log::is_quiet() => {}
            None => {
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        }
    }

    /// The plan is known.
    fn start(&mut self, plan: &Plan, finished: &[bool]) {
        self.total = plan.stages.len();
        self.done = finished.iter().filter(|f| **f).count();
        self.remaining.clear();
        for (stage, _) in plan.stages.iter().zip(finished).filter(|(_, finished)| !**finished) {
            *self.remaining.entry(group(stage)).or_insert(0) += 1;
        }
        let is_cell = |stage: &Stage| stage.kind == StageKind::Cell;
        self.cells = plan.stages.iter().filter(|s| is_cell(s)).count();
        self.cells_done = plan.stages.iter().zip(finished).filter(|(s, finished)| **finished && is_cell(s)).count();
        let cells = self.cells;
        let words = format!(
            "{} stages, {cells} of them cells; {} already finished; {} at once",
            self.total, self.done, self.jobs
        );
        self.print_line(&words);
        if let Some(bar) = &self.bar {
            bar.set_length(self.total as u64);
            bar.set_position(self.done as u64);
        }
    }

    fn stage_started(&mut self, index: usize, stage: &Stage) {
        tracing::info!(stage = stage.label(), folder = stage.id.folder(), "started");
        self.running.insert(index, RunningStage::new(stage.label()));
        self.draw();
    }

    fn stage_progress(&mut self, index: usize, progress: &Progress) {
        if let Some(stage) = self.running.get_mut(&index) {
            stage.update(progress);
        }
        self.draw();
        if self.is_time_for_a_line() {
            self.show_count(self.running.values().map(RunningStage::line).collect());
        }
    }

    fn is_time_for_a_line(&self) -> bool {
        self.bar.is_none() && self.last_line.elapsed() > LINE_PAUSE.max(self.started.elapsed() / PAUSE_SHARE)
    }

    /// A plain line with the stages that are finished, and these words.
    fn show_count(&mut self, words: Vec<String>) {
        (self.last_line, self.unsaid) = (Instant::now(), 0);
        self.show(&format!("{} {}", self.count(), self.and_time_left(words)));
    }

    /// A worker is gone without having finished its stage.
    fn stage_ended(&mut self, index: usize) {
        self.running.remove(&index);
        self.draw();
    }

    fn stage_finished(&mut self, index: usize, stage: &Stage, took: Duration) {
        tracing::info!(stage = stage.label(), folder = stage.id.folder(), seconds = took.as_secs_f64(), "done");
        self.running.remove(&index);
        self.done += 1;
        self.cells_done += usize::from(stage.kind == StageKind::Cell);
        let group = group(stage);
        if let Some(remaining) = self.remaining.get_mut(&group) {
            *remaining -= 1;
        }
        self.took.entry(group).or_default().push(took.as_secs_f64());
        let others = match self.unsaid {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        self.unsaid += 1;
        if self.is_time_for_a_line() || (self.bar.is_none() && self.done == self.total) {
            self.show_count(vec![format!("{} done in {}{others}", stage.label(), format_seconds(took.as_secs_f64()))]);
        }
        self.draw();
    }

    /// The run is over.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn draw(&self) {
        let Some(bar) = &self.bar else { return };
        bar.set_position(self.done as u64);
        let left = self.time_left();
        // until a stage of every group has finished, what the running ones will take is all that is known
        let of_stage = |stage: &RunningStage| {
            let left = if left.is_none() { stage.time_left() } else { None };
            stage.summary() + &left.map_or(String::new(), |left| format!(", {left}"))
        };
        let stages: Vec<String> = self.running.values().map(of_stage).collect();
        // the last part is cut off on a narrow terminal
        let cells = format!("{}/{} cells", self.cells_done, self.cells);
        let words: Vec<String> = std::iter::once(cells).chain(left).chain(stages).collect();
        bar.set_message(sanitize(&words.join("; ")).into_owned());
    }

    fn count(&self) -> String {
        format!("[{}/{} stages, {}/{} cells]", self.done, self.total, self.cells_done, self.cells)
    }

    fn and_time_left(&self, words: Vec<String>) -> String {
        words.into_iter().chain(self.time_left()).collect::<Vec<_>>().join("; ")
    }

    /// Time left, once a stage of every group has finished.
    fn time_left(&self) -> Option<String> {
        if self.done == self.total {
            return None;
        }
        let mut seconds = 0.0;
        for (group, remaining) in self.remaining.iter().filter(|(_, remaining)| **remaining > 0) {
            let took = self.took.get(group)?;
            seconds += *remaining as f64 * took.iter().sum::<f64>() / took.len() as f64;
        }
        // running stages have part of their time behind them
        let per_stage = seconds / self.remaining.values().sum::<usize>().max(1) as f64;
        seconds -= per_stage * self.running.values().map(|stage| stage.share).sum::<f64>();
        let seconds = (seconds / self.jobs as f64).max(0.0);
        Some(time_left(seconds))
    }
}
