//! Runs a plan: finished stages are found, the others go to worker processes, as many at once as jobs.

use crate::plan::{Plan, Stage};
use crate::progress::Board;
use crate::worker::Progress;
use crate::{Error, Result, host};
use duel_ledger::{RunDir, StageDir};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// How a plan is run.
#[derive(Debug)]
pub struct Settings<'a> {
    pub run: &'a RunDir,
    pub device: &'a str,
    pub jobs: usize,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
}

/// What came of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Outcome {
    pub reused: usize,
    pub made: usize,
    /// Largest sum of resident memory of this process and its workers, bytes.
    pub peak_memory: u64,
}

/// What the threads that listen to workers send.
enum News {
    Progress(usize, Progress),
    /// The worker's standard error, once it has closed.
    Said(usize, String),
}

struct Running {
    place: usize,
    child: Child,
    started: Instant,
}

/// Time that workers get to stop by themselves after Ctrl-C.
const GRACE: Duration = Duration::from_secs(3);

/// Runs all stages that are not finished.
///
/// # Errors
/// The first stage that fails ends the run, with its last words; [`Error::Interrupted`] on Ctrl-C.
pub fn execute(plan: &Plan, settings: &Settings<'_>, board: &mut Board) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut finished = vec![false; plan.stages.len()];
    for (place, stage) in plan.stages.iter().enumerate() {
        finished[place] = settings.run.find_stage(&stage.id)?.is_some();
        outcome.reused += usize::from(finished[place]);
    }
    board.start(plan, &finished);
    let (sender, receiver) = channel();
    let mut running = Workers::default();
    let mut started = finished.clone();
    let mut words: Vec<String> = vec![String::new(); plan.stages.len()];
    loop {
        if settings.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        while running.0.len() < settings.jobs {
            let ready = |&place: &usize| !started[place] && plan.stages[place].needs.iter().all(|&n| finished[n]);
            let Some(place) = (0..plan.stages.len()).find(ready) else { break };
            started[place] = true;
            let child = spawn(place, &plan.stages[place], settings, &sender)?;
            board.stage_started(place, &plan.stages[place]);
            running.0.push(Running { place, child, started: Instant::now() });
        }
        if running.0.is_empty() {
            return Ok(outcome);
        }
        listen(&receiver, &mut words, board);
        outcome.peak_memory = outcome.peak_memory.max(
            host::memory_of(std::process::id()) + running.0.iter().map(|r| host::memory_of(r.child.id())).sum::<u64>(),
        );
        let mut at = 0;
        while at < running.0.len() {
            let Some(status) = running.0[at].child.try_wait().map_err(|source| Error::Worker { source })? else {
                at += 1;
                continue;
            };
            let worker = running.0.swap_remove(at);
            let (place, stage) = (worker.place, &plan.stages[worker.place]);
            if status.success() && StageDir::open(&settings.run.stages(), &stage.id)?.is_some() {
                finished[place] = true;
                outcome.made += 1;
                board.stage_finished(place, stage, worker.started.elapsed());
                continue;
            }
            if settings.stop.load(Ordering::Relaxed) || status.code() == Some(130) {
                return Err(Error::Interrupted);
            }
            std::thread::sleep(Duration::from_millis(100)); // its last words may still be on their way
            listen(&receiver, &mut words, board);
            let mut tail = words[place].trim().to_string();
            if status.code().is_none() {
                tail = format!("{tail}\nthe worker was ended by {status} (out of memory?)").trim().to_string();
            }
            let exit = status.code().map_or(1, |code| code.clamp(1, 255) as u8);
            return Err(Error::Stage { stage: stage.label(), tail, exit });
        }
    }
}

/// Takes in what workers have said, waiting a moment for the first word.
fn listen(receiver: &Receiver<News>, words: &mut [String], board: &mut Board) {
    let mut wait = Duration::from_millis(50);
    while let Ok(news) = receiver.recv_timeout(wait) {
        wait = Duration::ZERO;
        match news {
            News::Progress(place, progress) => board.stage_progress(place, &progress),
            News::Said(place, text) => words[place] = text,
        }
    }
}

/// Starts a worker. A stage that stands alone in the plan gets every core, all others one thread, so that
/// results do not depend on the number of jobs.
fn spawn(place: usize, stage: &Stage, settings: &Settings<'_>, sender: &Sender<News>) -> Result<Child> {
    let threads = if stage.kind.is_shared() { host::cores() } else { 1 };
    let program = std::env::current_exe().map_err(|source| Error::Worker { source })?;
    let mut child = Command::new(program)
        .arg("worker")
        .arg("--run")
        .arg(settings.run.path())
        .args(["--stage", &place.to_string(), "--device", settings.device])
        .env("RAYON_NUM_THREADS", threads.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Worker { source })?;
    let (progress, said) = (sender.clone(), sender.clone());
    if let Some(stdout) = child.stdout.take() {
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                if let Ok(news) = serde_json::from_str(&line) {
                    let _ = progress.send(News::Progress(place, news));
                }
            }
        });
    }
    if let Some(mut stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            let _ = said.send(News::Said(place, String::from_utf8_lossy(&text).into_owned()));
        });
    }
    Ok(child)
}

/// The workers that run; whichever way the run ends, none outlives it. Closing their standard input asks them
/// to stop; those that do not are killed. Nothing is lost, as a stage appears whole or not at all.
#[derive(Default)]
struct Workers(Vec<Running>);

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(|r| drop(r.child.stdin.take()));
        let asked = Instant::now();
        while asked.elapsed() < GRACE && self.0.iter_mut().any(|r| matches!(r.child.try_wait(), Ok(None))) {
            std::thread::sleep(Duration::from_millis(20));
        }
        for worker in &mut self.0 {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}
