//! `duel watch`: a live view of a run in the terminal, from its files alone, whichever process runs it.

use crate::error::{Error, Result};
use crate::plan::{Plan, Stage, StageKind};
use crate::sysinfo;
use crate::terminal::print;
use crate::terminal::sanitize;
use crate::terminal::{format_bytes, format_seconds};
use clap::Args;
use duel_ledger::{Live, Manifest, read_completions, read_metrics};
use duel_report::fixed;
use duel_spec::{Completion, Experiment};
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, GraphType, Paragraph, Wrap};
use ratatui::{Frame, Terminal};
use std::collections::{BTreeMap, HashMap};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// The run directory, for example runs/article
    pub run: PathBuf,
    /// Print the screen once and exit
    #[arg(long)]
    pub once: bool,
    /// Width in columns [default: the terminal's, or 80]
    #[arg(long, value_name = "N", requires = "once", value_parser = clap::value_parser!(u16).range(40..=500))]
    pub width: Option<u16>,
    /// Height in lines [default: the terminal's, or 24]
    #[arg(long, value_name = "N", requires = "once", value_parser = clap::value_parser!(u16).range(12..=300))]
    pub height: Option<u16>,
}

/// Seconds without an update after which a stage counts as idle, unless its worker is a running process of this machine.
const SILENT: f64 = 20.0;
/// Time without a running stage after which the run counts as stopped.
const ALONE: Duration = Duration::from_secs(60);
/// Time between two refreshes.
const PAUSE: Duration = Duration::from_millis(500);
/// Colors by arm (Okabe & Ito 2008).
const COLOURS: [Color; 6] = [
    Color::Rgb(0, 114, 178),
    Color::Rgb(213, 94, 0),
    Color::Rgb(204, 121, 167),
    Color::Rgb(230, 159, 0),
    Color::Rgb(86, 180, 233),
    Color::Rgb(0, 158, 115),
];
/// The curve that is shown first.
const FAVOURITE: &str = "evaluation-test/gold_reward";

/// Curves of a stage by `<stage>/<metric>`.
type Curves = BTreeMap<String, Vec<(u64, f64)>>;

/// The status of a stage.
#[derive(Debug)]
enum ViewedStatus {
    Waiting,
    Working(Box<Live>),
    Finished,
    Failed(String),
}

/// The state of a run at the last refresh.
struct RunView {
    path: PathBuf,
    experiment: Experiment,
    plan: Plan,
    manifest: Manifest,
    states: Vec<ViewedStatus>,
    /// Curves of finished cells, which no longer change.
    curves: HashMap<usize, Curves>,
    samples: HashMap<usize, Vec<Completion>>,
}

/// What is shown of it.
#[derive(Default)]
struct ViewState {
    metric: usize,
    scroll: usize,
    help: bool,
}

/// Watches until the user quits, or renders once.
pub fn watch(args: &WatchArgs) -> Result<()> {
    let mut view = RunView::open(&args.run)?;
    let mut state = ViewState::default();
    if args.once {
        let (width, height) = ratatui::crossterm::terminal::size().unwrap_or((80, 24));
        let (width, height) = (args.width.unwrap_or(width), args.height.unwrap_or(height));
        view.refresh()?;
        print(&render(&view, &state, width, height));
        return Ok(());
    }
    // the terminal is restored however this ends
    let stop = Arc::new(AtomicBool::new(false));
    for signal in sysinfo::ending_signals() {
        signal_hook::flag::register(signal, stop.clone()).map_err(|source| Error::Screen { source })?;
    }
    if !std::io::stdout().is_terminal() || sysinfo::is_dumb_terminal() {
        return follow_in_lines(&mut view, &stop);
    }
    let screen = |source| Error::Screen { source };
    let mut terminal = ratatui::try_init().map_err(screen)?;
    let outcome = follow(&mut view, &mut state, &mut terminal, &stop);
    ratatui::try_restore().map_err(screen)?;
    outcome
}

/// Prints a line per change, for a terminal that cannot be drawn on, or a file; until the run has stopped.
fn follow_in_lines(view: &mut RunView, stop: &AtomicBool) -> Result<()> {
    let (mut last, mut alone_since) = (None, Instant::now());
    while !stop.load(Ordering::Relaxed) {
        view.refresh()?;
        let running = view.count(|state| matches!(state, ViewedStatus::Working(_)));
        let now = (view.count(|state| matches!(state, ViewedStatus::Finished)), running, view.manifest.exit.clone());
        if last.as_ref() != Some(&now) {
            print(&format!("{}: {}\n", view.experiment.name, status_line(view)));
            last = Some(now);
        }
        if running > 0 {
            alone_since = Instant::now();
        }
        if view.manifest.exit != "running" {
            return Ok(());
        }
        if alone_since.elapsed() > ALONE {
            print("no process has worked on it for a minute: run the same `duel run` to resume\n");
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn follow(
    view: &mut RunView,
    state: &mut ViewState,
    terminal: &mut ratatui::DefaultTerminal,
    stop: &AtomicBool,
) -> Result<()> {
    let screen = |source| Error::Screen { source };
    loop {
        view.refresh()?;
        terminal.draw(|frame| draw(frame, view, state)).map_err(screen)?;
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
        while event::poll(PAUSE).map_err(screen)? {
            if let Event::Key(key) = event::read().map_err(screen)?
                && key.kind == KeyEventKind::Press
            {
                match key.code {
                    KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Ok(()),
                    KeyCode::Right | KeyCode::Char('m') => state.metric += 1,
                    KeyCode::Left => state.metric = state.metric.saturating_sub(1),
                    KeyCode::Down | KeyCode::Char('j') => state.scroll += 1,
                    KeyCode::Up | KeyCode::Char('k') => state.scroll = state.scroll.saturating_sub(1),
                    KeyCode::Char('?') => state.help = !state.help,
                    _ => {}
                }
            }
            terminal.draw(|frame| draw(frame, view, state)).map_err(screen)?;
        }
    }
}

/// The screen as text.
fn render(view: &RunView, state: &ViewState, width: u16, height: u16) -> String {
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| draw(frame, view, state));
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_string() + "\n";
    (0..height).map(row).collect()
}

impl RunView {
    fn open(path: &std::path::Path) -> Result<Self> {
        let (manifest, experiment, plan) = Plan::of_run(path)?;
        Ok(Self {
            path: path.into(),
            experiment,
            plan,
            manifest,
            states: vec![],
            curves: HashMap::new(),
            samples: HashMap::new(),
        })
    }

    /// Reads what has changed.
    fn refresh(&mut self) -> Result<()> {
        self.manifest = Manifest::read(&self.path)?;
        if self.experiment.is_tuned() {
            // a search adds cells while it runs
            (self.manifest, self.experiment, self.plan) = Plan::of_run(&self.path)?;
        }
        self.states = self.plan.stages.iter().map(|stage| self.state(stage)).collect();
        for (index, stage) in self.plan.stages.iter().enumerate() {
            let fresh = matches!(self.states[index], ViewedStatus::Finished) && !self.curves.contains_key(&index);
            if stage.kind != StageKind::Cell || !fresh {
                continue;
            }
            let folder = self.path.join("stages").join(stage.id.folder());
            let mut curves = Curves::new();
            for row in read_metrics(&folder.join("metrics.parquet"))?.rows {
                curves.entry(format!("{}/{}", row.stage, row.metric)).or_default().push((row.clocks.step, row.value));
            }
            self.curves.insert(index, curves);
            let samples = folder.join("completions.parquet");
            if samples.is_file() {
                self.samples.insert(index, read_completions(&samples)?);
            }
        }
        Ok(())
    }

    fn state(&self, stage: &Stage) -> ViewedStatus {
        let folder = stage.id.folder();
        if self.path.join("stages").join(&folder).join("done.json").is_file() {
            return ViewedStatus::Finished;
        }
        match Live::read(&self.path, &folder) {
            Some((live, age)) if age < SILENT || live.is_here() => ViewedStatus::Working(Box::new(live)),
            _ => self
                .manifest
                .failed
                .get(&stage.label())
                .map_or(ViewedStatus::Waiting, |why| ViewedStatus::Failed(why.clone())),
        }
    }

    /// Curves of a cell, finished or not.
    fn curves_of(&self, index: usize) -> Option<&Curves> {
        match &self.states[index] {
            ViewedStatus::Working(live) => Some(&live.curves),
            _ => self.curves.get(&index),
        }
    }

    /// Names of all curves, the default first, then evaluations, then trainings.
    fn metrics(&self) -> Vec<String> {
        let cells = (0..self.plan.stages.len()).filter(|&index| self.plan.stages[index].kind == StageKind::Cell);
        let mut names: Vec<String> =
            cells.filter_map(|index| self.curves_of(index)).flat_map(|c| c.keys().cloned()).collect();
        names.sort_by_key(|name| (name != FAVOURITE, !name.starts_with("evaluation-test"), name.clone()));
        names.dedup();
        names
    }

    fn count(&self, is: fn(&ViewedStatus) -> bool) -> usize {
        self.states.iter().filter(|state| is(state)).count()
    }
}

fn draw(frame: &mut Frame<'_>, view: &RunView, state: &ViewState) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(3), Constraint::Min(6), Constraint::Length(1)]).areas(frame.area());
    draw_head(frame, head, view);
    let wide = body.width >= 100;
    let (cells, chart, samples) = if wide {
        let [left, right] = Layout::horizontal([Constraint::Percentage(42), Constraint::Min(40)]).areas(body);
        let [chart, samples] = Layout::vertical([Constraint::Min(8), Constraint::Length(10)]).areas(right);
        (left, chart, Some(samples))
    } else {
        let [top, bottom] = Layout::vertical([Constraint::Percentage(45), Constraint::Min(6)]).areas(body);
        (top, bottom, None)
    };
    draw_cells(frame, cells, view, state);
    draw_chart(frame, chart, view, state);
    if let Some(samples) = samples {
        draw_samples(frame, samples, view);
    }
    let keys = if state.help {
        "← → or m: another curve   ↑ ↓ or j k: scroll the stages   ?: less   q: leave; the run continues"
    } else {
        "q leave   ← → curve   ↑ ↓ scroll   ? help"
    };
    frame.render_widget(Paragraph::new(keys).dim(), foot);
}

/// Whether the run has ended, and none of its stages are here: a copy of its tables.
fn has_numbers_alone(view: &RunView) -> bool {
    view.manifest.exit == "complete" && view.count(|state| !matches!(state, ViewedStatus::Waiting)) == 0
}

/// The status of a run in one line.
fn status_line(view: &RunView) -> String {
    let manifest = &view.manifest;
    let all = view.states.len();
    let finished = view.count(|s| matches!(s, ViewedStatus::Finished));
    let (running, failed) =
        (view.count(|s| matches!(s, ViewedStatus::Working(_))), view.count(|s| matches!(s, ViewedStatus::Failed(_))));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let elapsed = manifest.ended.unwrap_or(now).saturating_sub(manifest.started) as f64;
    let memory: u64 = view
        .states
        .iter()
        .map(|s| match s {
            ViewedStatus::Working(live) if live.is_here() => sysinfo::memory_of(live.process),
            _ => 0,
        })
        .sum();
    let mut line = match has_numbers_alone(view) {
        true => format!("the numbers of {all} stages, without their weights"),
        false => format!("{finished} of {all} stages, {running} running"),
    };
    if failed > 0 {
        line += &format!(", {failed} failed");
    }
    line += &format!(" · {} · {}", manifest.exit, format_seconds(elapsed));
    if let Some(left) = time_left(view) {
        line += &format!(", about {} left", format_seconds(left));
    }
    if memory > 0 {
        line += &format!(" · {}", format_bytes(memory as f64));
    }
    line
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, view: &RunView) {
    let finished = view.count(|s| matches!(s, ViewedStatus::Finished));
    let (all, line) = (view.states.len(), status_line(view));
    let share = finished as f64 / all.max(1) as f64;
    let filled = (share * f64::from(area.width.saturating_sub(1))) as usize;
    let bar = "━".repeat(filled) + &"─".repeat(usize::from(area.width).saturating_sub(filled));
    let title = Line::from(vec![
        Span::from(view.experiment.name.clone()).bold(),
        "  ".into(),
        sanitize(&view.experiment.question).into_owned().into(),
    ]);
    frame.render_widget(Paragraph::new(vec![title, line.into(), Line::from(bar).dim()]), area);
}

/// Seconds until the run is done, from the time that running stages will take.
fn time_left(view: &RunView) -> Option<f64> {
    let mut running = 0.0f64;
    let mut durations: Vec<f64> = vec![];
    for state in &view.states {
        if let ViewedStatus::Working(live) = state
            && let Some(left) = live.pace.seconds_left(live.seconds)
        {
            running = running.max(left);
            durations.push(live.seconds + left);
        }
    }
    if durations.is_empty() {
        return None;
    }
    let mean = durations.iter().sum::<f64>() / durations.len() as f64;
    let waiting = view.count(|s| matches!(s, ViewedStatus::Waiting)) as f64;
    Some(running + waiting * mean / view.manifest.jobs.max(1) as f64)
}

fn draw_cells(frame: &mut Frame<'_>, area: Rect, view: &RunView, state: &ViewState) {
    // running and failed stages first
    let rank = |state: &ViewedStatus| match state {
        ViewedStatus::Failed(_) => 0,
        ViewedStatus::Working(_) => 1,
        ViewedStatus::Waiting => 2,
        ViewedStatus::Finished => 3,
    };
    let mut order: Vec<usize> = (0..view.states.len()).collect();
    order.sort_by_key(|&index| (rank(&view.states[index]), index));
    let is_copy = has_numbers_alone(view);
    let line = |index: usize| {
        let stage = &view.plan.stages[index];
        let label = format!("{:<30}", stage.label());
        match &view.states[index] {
            ViewedStatus::Waiting if is_copy => Line::from(format!("· {label} not here")).dim(),
            ViewedStatus::Waiting => Line::from(format!("· {label} waits")).dim(),
            ViewedStatus::Finished => Line::from(format!("✓ {label} done")).green(),
            ViewedStatus::Failed(why) => Line::from(format!("✗ {label} {}", sanitize(why))).red(),
            ViewedStatus::Working(live) => {
                let share = live.progress.done as f64 / live.progress.total.max(1) as f64;
                let left = live.pace.seconds_left(live.seconds).map_or("–".into(), format_seconds);
                Line::from(format!(
                    "▶ {label} {:>3.0}%  {left} left  {}",
                    share * 100.0,
                    sanitize(&live.progress.message)
                ))
                .bold()
            }
        }
    };
    let height = usize::from(area.height.saturating_sub(2));
    let from = state.scroll.min(order.len().saturating_sub(height));
    let lines: Vec<Line<'_>> = order.into_iter().skip(from).take(height).map(line).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" stages ")), area);
}

fn draw_chart(frame: &mut Frame<'_>, area: Rect, view: &RunView, state: &ViewState) {
    let names = view.metrics();
    let Some(name) = names.get(state.metric.min(names.len().saturating_sub(1))) else {
        let none = Paragraph::new(if has_numbers_alone(view) {
            "`duel report` draws them"
        } else {
            "no curve yet: no cell has started"
        })
        .block(Block::bordered().title(" curves "));
        frame.render_widget(none, area);
        return;
    };
    let arms: Vec<&String> = view.experiment.arms.keys().collect();
    let mut series: Vec<Vec<(f64, f64)>> = vec![vec![]; arms.len()];
    for (index, stage) in view.plan.stages.iter().enumerate() {
        let Some(cell) = &stage.cell else { continue };
        let (Some(arm), Some(curve)) =
            (arms.iter().position(|arm| **arm == cell.arm), view.curves_of(index).and_then(|all| all.get(name)))
        else {
            continue;
        };
        series[arm].extend(curve.iter().filter(|(_, y)| y.is_finite()).map(|&(x, y)| (x as f64, y)));
    }
    let bounds = |coordinate: fn(&(f64, f64)) -> f64| {
        let ends = series
            .iter()
            .flatten()
            .map(coordinate)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
        match ends {
            (low, high) if low < high => ends,
            (low, high) if low == high => (low - 0.5, low + 0.5),
            _ => (0.0, 1.0),
        }
    };
    let (x, y) = (bounds(|p| p.0), bounds(|p| p.1));
    let datasets = arms.iter().zip(&series).enumerate().map(|(i, (arm, points))| {
        let style = Style::default().fg(COLOURS[i % COLOURS.len()]);
        Dataset::default()
            .name(arm.as_str())
            .marker(Marker::Braille)
            .graph_type(GraphType::Scatter)
            .style(style)
            .data(points)
    });
    let labels = |(low, high): (f64, f64)| labels([low, low / 2.0 + high / 2.0, high]).map(Line::from);
    let chart = Chart::new(datasets.collect())
        .block(Block::bordered().title(format!(
            " {name} over steps, every point and seed ({} of {}) ",
            state.metric.min(names.len() - 1) + 1,
            names.len()
        )))
        .x_axis(Axis::default().bounds([x.0, x.1]).labels(labels(x)))
        .y_axis(Axis::default().bounds([y.0, y.1]).labels(labels(y)));
    frame.render_widget(chart, area);
}

/// Labels of an axis, with as many digits as make them distinct.
fn labels(values: [f64; 3]) -> [String; 3] {
    let short = |value: f64, more: usize| match value.abs() {
        v if v >= 1e5 || (v < 1e-3 && v > 0.0) => format!("{value:.0$e}", 1 + more),
        v if v >= 100.0 => fixed(value, more),
        _ => fixed(value, 3 + more),
    };
    let mut labels = values.map(|value| short(value, 0));
    for more in 1..=12 {
        if labels[0] != labels[1] && labels[1] != labels[2] {
            break;
        }
        labels = values.map(|value| short(value, more));
    }
    labels
}

fn draw_samples(frame: &mut Frame<'_>, area: Rect, view: &RunView) {
    let last = view.samples.iter().max_by_key(|(index, _)| **index);
    let lines: Vec<Line<'_>> = last
        .into_iter()
        .flat_map(|(_, samples)| samples.iter().take(8))
        .map(|c| {
            let (gold, proxy) = (fixed(c.gold_reward, 2), fixed(c.proxy_reward, 2));
            let (prompt, completion) = (sanitize(&c.prompt), sanitize(&c.completion));
            Line::from(format!("{} | {prompt} → {completion}  (gold {gold}, proxy {proxy})", c.arm))
        })
        .collect();
    let block = Block::bordered().title(" what the last finished cell writes ");
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }).block(block), area);
}
