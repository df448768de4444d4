//! An external program as a judge: it reads one JSON object per line and writes one answer per line, in order: a score, or which of
//! two responses is better (`pairwise.rs`).
//!
//! Lines carry no number, so an extra line would shift the answers about all later responses by one. Three checks match answers to
//! inputs: no answer may arrive before its input was sent; nothing follows the last answer of a call; and nothing follows after
//! the program's input is closed. The last check runs before the stage is finished, so no shifted answer is stored.

use crate::answer::{JudgeAnswer, JudgeInput, excerpt, parse_answer};
use crate::judges::TextJudge;
use crate::{Error, Result};
use serde::Serialize;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Attempts per batch if the program exits before it has answered.
const TRIES: usize = 3;
/// Longest line that is read, in bytes.
const LONGEST: usize = 1 << 16;
/// Unread lines that are buffered; then the program blocks.
const WAITING: usize = 64;
/// How long to wait for extra output after the last answer of a call.
const SILENCE: Duration = Duration::from_millis(10);
/// Shortest time for a program to exit after its input was closed.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Longer than any timeout.
const DAY: Duration = Duration::from_secs(86_400);
/// An environment variable of the program, which its child processes inherit.
const MARK: &str = "DUEL_JUDGE";
/// Kills the process group `$0` when its own input closes, which the system does however this process exits; on Linux also
/// processes that have left the group, in whose environment `$1` is. Those may start others meanwhile, so it looks again.
const GUARD: &str = r#"trap '' HUP INT QUIT TERM; read -r _; kill -s KILL -- "-$0"
for _ in 1 2 3 4 5 6 7 8; do
    files=$(grep -lsF -- "$1" /proc/[0-9]*/environ)
    [ -n "$files" ] || break
    for file in $files; do
        process=${file#/proc/}
        kill -s KILL "${process%/environ}"
    done
done"#;

/// A judge that runs an external program.
#[derive(Debug)]
pub struct CommandJudge {
    command: Vec<String>,
    timeout: Duration,
    batch: usize,
    running: Mutex<Option<JudgeProcess>>,
}

/// A line of the program's output.
#[derive(Debug)]
enum ProgramLine {
    Answer(String),
    /// It arrived before its input was sent.
    Unexpected(String),
    TooLong,
}

impl ProgramLine {
    /// Its text, where it is an answer.
    fn answer(self) -> std::result::Result<String, String> {
        match self {
            Self::Answer(line) => Ok(line),
            Self::Unexpected(line) => Err(format!("it printed `{}` before it got any input", excerpt(&line))),
            Self::TooLong => Err(too_long()),
        }
    }
}

/// Reads the answer about an input on a line, or says what is wrong with it.
type ReadAnswer<I, T> = fn(&str, &I) -> std::result::Result<T, String>;

/// Why a batch has no answers.
enum BatchFailure {
    /// The program exited; a restart may help.
    Ended(String),
    /// Wrong output, or a timeout.
    Wrong(String),
}

/// The program and its child processes, killed when this is dropped.
#[derive(Debug)]
struct JudgeProcess {
    child: Child,
    /// A shell that runs [`GUARD`].
    guard: Child,
    /// Batches for the writer thread; `None` once the input is closed.
    inputs: Option<Sender<Vec<String>>>,
    /// One message per written batch.
    written: Receiver<()>,
    output: Receiver<ProgramLine>,
    /// Answers so far.
    answered: usize,
    /// The longest wait for an answer so far.
    slowest: Duration,
}

impl Drop for JudgeProcess {
    fn drop(&mut self) {
        self.inputs = None;
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
        // last: until here its process number, which is also its group's, cannot be reused
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl JudgeProcess {
    fn start(command: &[String]) -> std::result::Result<Self, String> {
        use std::os::unix::process::CommandExt;
        let cannot = |e: std::io::Error| format!("it cannot be started: {e}");
        let (program, arguments) = command.split_first().ok_or("there is no program")?;
        let mark = unique_mark();
        let mut child = Command::new(program)
            .args(arguments)
            .env(MARK, &mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(cannot)?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let guard = Command::new("sh")
            .args(["-c", GUARD, &child.id().to_string(), &format!("{MARK}={mark}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let (Some(input), Some(output), Ok(guard)) = (input, output, guard) else {
            let _ = child.kill();
            let _ = child.wait();
            return Err("it cannot be started: there is no `sh` that would end it".into());
        };
        let sent = Arc::new(AtomicUsize::new(0));
        let (inputs, batches) = channel();
        let (written_sender, written) = channel();
        let (line_sender, lines) = sync_channel(WAITING);
        let count = sent.clone();
        std::thread::spawn(move || write(input, &batches, &count, &written_sender));
        std::thread::spawn(move || listen(output, &sent, &line_sender));
        Ok(Self { child, guard, inputs: Some(inputs), written, output: lines, answered: 0, slowest: Duration::ZERO })
    }

    /// The answers to some inputs.
    fn ask<I: Serialize, T>(
        &mut self,
        batch: &[I],
        read: ReadAnswer<I, T>,
        ends: Instant,
    ) -> std::result::Result<Vec<T>, BatchFailure> {
        let lines = batch.iter().map(|input| serde_json::to_string(input).unwrap_or_default() + "\n").collect();
        let is_sent = self.inputs.as_ref().is_some_and(|inputs| inputs.send(lines).is_ok());
        if !is_sent {
            return Err(BatchFailure::Ended("it stopped reading".into()));
        }
        let mut answers = Vec::with_capacity(batch.len());
        while let Some(input) = batch.get(answers.len()) {
            let (began, done) = (Instant::now(), answers.len());
            let line = self.output.recv_timeout(ends.saturating_duration_since(began)).map_err(|e| match e {
                RecvTimeoutError::Timeout => BatchFailure::Wrong(format!("{done} of {} answers came", batch.len())),
                RecvTimeoutError::Disconnected => {
                    BatchFailure::Ended(format!("it ended after {done} of {} answers", batch.len()))
                }
            })?;
            self.answered += 1;
            let line = line.answer().map_err(BatchFailure::Wrong)?;
            let answer = read(&line, input);
            let wrong = |problem| BatchFailure::Wrong(format!("{problem} (line {} of its output)", self.answered));
            answers.push(answer.map_err(wrong)?);
            self.slowest = self.slowest.max(began.elapsed());
        }
        match self.written.recv_timeout(ends.saturating_duration_since(Instant::now())) {
            Ok(()) => Ok(answers),
            Err(_) => Err(BatchFailure::Wrong("it answers without reading its input".into())),
        }
    }

    /// Whether it writes nothing for this long; `false` if it has exited.
    fn is_silent(&self, wait: Duration) -> std::result::Result<bool, String> {
        match self.output.recv_timeout(wait) {
            Ok(line) => Err(match line {
                ProgramLine::Answer(line) | ProgramLine::Unexpected(line) => too_many_lines(&line),
                ProgramLine::TooLong => too_long(),
            }),
            Err(RecvTimeoutError::Timeout) => Ok(true),
            Err(RecvTimeoutError::Disconnected) => Ok(false),
        }
    }
}

/// How long to wait for the exit of a program whose input is closed: a multiple of its slowest answer.
fn last_wait(slowest: Duration, timeout: Duration) -> Duration {
    (4 * slowest).max(LAST_WORDS).min(timeout)
}

/// A text that no other process has in its environment.
fn unique_mark() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{}-{time}-{}.", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Writes all batches; each input is counted before it can be read.
fn write(mut input: ChildStdin, batches: &Receiver<Vec<String>>, sent: &AtomicUsize, written: &Sender<()>) {
    for lines in batches {
        for line in lines {
            sent.fetch_add(1, Ordering::SeqCst);
            if input.write_all(line.as_bytes()).and_then(|()| input.flush()).is_err() {
                return;
            }
        }
        if written.send(()).is_err() {
            return;
        }
    }
}

/// Reads lines until the receiver is dropped.
fn listen(output: ChildStdout, sent: &AtomicUsize, lines: &SyncSender<ProgramLine>) {
    let mut output = BufReader::new(output);
    let mut count = 0;
    loop {
        let mut bytes = vec![];
        let read = (&mut output).take(LONGEST as u64 + 1).read_until(b'\n', &mut bytes);
        if !matches!(read, Ok(1..)) {
            return;
        }
        let text = String::from_utf8_lossy(&bytes);
        if text.trim().is_empty() {
            continue;
        }
        let line = match () {
            () if bytes.len() > LONGEST => ProgramLine::TooLong,
            () if count >= sent.load(Ordering::SeqCst) => ProgramLine::Unexpected(text.into_owned()),
            () => ProgramLine::Answer(text.into_owned()),
        };
        count += 1;
        if lines.send(line).is_err() {
            return;
        }
    }
}

fn too_many_lines(line: &str) -> String {
    format!("it prints more lines than it reads, `{}`: one line for each line of input is expected", excerpt(line))
}

fn too_long() -> String {
    format!("it wrote a line of more than {LONGEST} bytes")
}

impl CommandJudge {
    /// The program is started for the first batch. A batch, its retries included, takes no longer than `timeout`.
    pub fn new(command: Vec<String>, timeout: Duration, batch: usize) -> Self {
        Self { command, timeout: timeout.min(DAY), batch: batch.max(1), running: Mutex::new(None) }
    }

    fn refuse(&self, problem: String) -> Error {
        Error::Command { command: self.command.join(" "), problem }
    }

    /// Answers about a batch. The program is started if it is not running.
    fn ask<I: Serialize, T>(
        &self,
        running: &mut Option<JudgeProcess>,
        batch: &[I],
        read: ReadAnswer<I, T>,
    ) -> std::result::Result<Vec<T>, String> {
        let ends = Instant::now() + self.timeout;
        let mut last = String::new();
        for _ in 0..TRIES {
            let mut program = match running.take() {
                Some(program) => program,
                None => JudgeProcess::start(&self.command)?,
            };
            match program.ask(batch, read, ends) {
                Ok(answers) => {
                    *running = Some(program);
                    return Ok(answers);
                }
                Err(BatchFailure::Ended(problem)) => last = problem,
                Err(BatchFailure::Wrong(problem)) if Instant::now() >= ends => {
                    return Err(format!("{problem} within {:?}", self.timeout));
                }
                Err(BatchFailure::Wrong(problem)) => return Err(problem),
            }
        }
        Err(last)
    }

    /// One answer for each input, in order.
    ///
    /// # Errors
    /// What the program did wrong, or an answer that `read` does not take.
    pub(crate) fn ask_all<I: Serialize, T>(&self, inputs: &[I], read: ReadAnswer<I, T>) -> Result<Vec<T>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers = Vec::with_capacity(inputs.len());
        for batch in inputs.chunks(self.batch) {
            answers.extend(self.ask(&mut running, batch, read).map_err(|problem| self.refuse(problem))?);
        }
        // a program that has exited is restarted for the next input
        if let Some(program) = running.take()
            && program.is_silent(SILENCE).map_err(|problem| self.refuse(problem))?
        {
            *running = Some(program);
        }
        Ok(answers)
    }

    /// Closes the program's input and waits for its exit.
    ///
    /// # Errors
    /// What it prints after its last answer.
    pub(crate) fn close(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut program) = running.take() else { return Ok(()) };
        program.inputs = None; // closes its input
        let wait = last_wait(program.slowest, self.timeout);
        program.is_silent(wait).map(|_| ()).map_err(|problem| self.refuse(problem))
    }
}

impl TextJudge for CommandJudge {
    fn judge(&self, inputs: &[JudgeInput]) -> Result<Vec<f64>> {
        Ok(self.answers(inputs)?.iter().map(JudgeAnswer::total).collect())
    }

    fn answers(&self, inputs: &[JudgeInput]) -> Result<Vec<JudgeAnswer>> {
        self.ask_all(inputs, parse_answer)
    }

    fn finish(&self) -> Result<()> {
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(response: &str) -> JudgeInput {
        JudgeInput { prompt: "p".into(), response: response.into(), ..JudgeInput::default() }
    }

    /// A shell script, with batches of two.
    fn shell(script: &str, timeout: f64) -> CommandJudge {
        CommandJudge::new(["sh", "-c", script].map(str::to_owned).to_vec(), Duration::from_secs_f64(timeout), 2)
    }

    #[test]
    fn a_program_judges_and_is_started_again() -> Result<()> {
        let texts = ["one", "two", "three"].map(input);
        // the length of each line, in order
        let judge = shell(r#"while read -r line; do echo "{\"score\": ${#line}}"; done"#, 20.0);
        let scores = judge.judge(&texts)?;
        assert_eq!(scores, [31.0, 31.0, 33.0]);
        assert_eq!(judge.judge(&texts)?, scores, "the same program answers again");
        judge.finish()?;
        // one that exits after every batch is restarted for the next
        let judge = shell("read -r a; echo 1; read -r b && echo 2", 20.0);
        assert_eq!(judge.judge(&texts)?, [1.0, 2.0, 1.0]);
        let error = CommandJudge::new(vec!["no-such-program".into()], Duration::from_secs(1), 1).judge(&texts);
        assert!(error.expect_err("no such program").to_string().contains("it cannot be started"));
        Ok(())
    }

    /// Wrong output, timeouts and unread input are reported, and no process is left running.
    #[test]
    fn what_a_program_does_wrong_is_said() {
        let long = "x".repeat(40_000); // two of them are more than a pipe holds
        let large = [long.as_str(), &long].map(input);
        let small = ["one", "two", "three"].map(input);
        let answer = "while read -r line; do echo 1; done";
        for (script, texts, timeout, expected) in [
            ("while read -r line; do echo '{\"score\": 1e308}'; done", &small[..], 20.0, "`{\"score\": 1e308}`"),
            ("while read -r line; do echo -2e9; done", &small, 20.0, "from -1e9 to 1e9"),
            ("while read -r line; do echo NaN; done", &small, 20.0, "it answered `NaN`"),
            ("sh -c 'sleep 777; :'; true", &small, 0.3, "0 of 2 answers came within 300ms"),
            ("read -r line; echo 1; sleep 777", &small, 3.0, "1 of 2 answers came within 3s"),
            ("true", &small, 20.0, "it ended after 0 of 2 answers"),
            ("echo 0; echo 0; sleep 777", &large, 0.5, "without reading|before it got any input"),
            ("yes 1", &small, 20.0, "more lines than it reads|before it got any input"),
            ("yes ''", &small, 0.3, "0 of 2 answers came within"),
            ("while :; do printf 1; done", &small, 20.0, "a line of more than 65536 bytes"),
            (&format!("echo 0; {answer}"), &small, 20.0, "more lines than it reads|before it got any input"),
        ] {
            let judge = shell(script, timeout);
            let error = judge.judge(texts).expect_err(script).to_string();
            assert!(expected.split('|').any(|words| error.contains(words)), "{script}: {error}");
            let [is_late, expected_late] = [&error, expected].map(|text| text.contains("came within"));
            assert!(
                is_late == expected_late && error.contains(" within ") <= (is_late || expected.contains('|')),
                "{error}"
            );
            assert!(judge.running.lock().expect("no panic").is_none(), "{script} is left running");
        }
    }

    #[test]
    fn a_late_answer_is_told_from_a_wrong_one() {
        let error = |script, timeout| shell(script, timeout).judge(&[input("one")]).expect_err(script).to_string();
        let late = error("sleep 777", 0.2);
        assert!(late.contains("0 of 1 answers came within 200ms"), "{late}");
        let wrong = error("echo nothing; sleep 9", 20.0);
        assert!(!wrong.contains("within"), "{wrong}");
        let wrong = error("read -r line; echo nothing; sleep 9", 20.0);
        assert!(wrong.contains("it answered `nothing`") && !wrong.contains("within"), "{wrong}");
    }

    /// A killed program is waited for.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_dropped_program_leaves_no_zombie() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pid");
        let judge = shell(&format!("echo $$ > {}; while read -r line; do echo 1; done", path.display()), 20.0);
        judge.judge(&[input("one")]).expect("a score");
        let pid = std::fs::read_to_string(&path).expect("the script has begun");
        let process = std::path::Path::new("/proc").join(pid.trim());
        assert!(process.exists());
        drop(judge);
        assert!(!process.exists());
    }

    /// An extra line shifts all later scores: it is reported at the latest when the stage ends.
    #[test]
    fn a_line_too_many_is_found() {
        let texts = ["one", "two"].map(input);
        let more = "it prints more lines than it reads";
        for script in [
            "read -r a; echo 1; read -r b; echo 2; echo 64; read -r c", // after a batch
            "echo ready; read -r a; echo 1; read -r b; echo 2; read -r c",
            "read -r a; echo 1; read -r b; echo 2; read -r c; echo 64", // after the last
            "echo 0; read -r a; sleep .2; echo 1; read -r b; sleep .2; echo 2; read -r c", // late, and one before
        ] {
            let judge = shell(script, 20.0);
            let error = judge.judge(&texts).and_then(|_| judge.finish()).expect_err(script).to_string();
            assert!(
                error.contains(more) || error.contains("`ready`") || error.contains("before it got any input"),
                "{error}"
            );
        }
        // a program that does not exit is killed, which is no error
        let judge = shell("while read -r line; do echo 1; done; sleep 777", 3.0);
        assert_eq!(judge.judge(&texts).expect("scores"), [1.0, 1.0]);
        judge.finish().expect("nothing more was said");
    }

    /// The program's child processes are killed with it.
    #[test]
    fn nothing_is_left_running() {
        let rest = "echo $! > PID; while read -r line; do echo 1; done; wait";
        is_ended(&format!("sleep 777 & {rest}"));
        is_ended(&format!("env -i sleep 777 & {rest}")); // found by its process group alone
        // a program that ignores signals and the end of its input
        is_ended("trap '' HUP INT TERM; echo $$ > PID; while :; do read -r line && echo 1 || sleep 1; done");
    }

    /// Nor are processes that leave the program's process group, even once their parent has exited.
    #[cfg(target_os = "linux")]
    #[test]
    fn nothing_is_left_running_in_another_session() {
        let sleeps = "setsid sh -c 'echo $$ > PID; exec sleep 777'";
        let starts = |daemon: &str| {
            format!("{daemon}\nuntil [ -s PID ]; do sleep .01; done; while read -r line; do echo 1; done")
        };
        is_ended(&starts(&format!("{sleeps} &")));
        is_ended(&starts(&format!("({sleeps} &)")));
        is_ended(&starts("setsid sh -c 'setsid sh -c \"echo \\$\\$ > PID; sleep 777; :\" & sleep 777' &"));
    }

    /// Runs a script that writes the number of a process to `PID`, and checks that the process ends with the judge.
    fn is_ended(script: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pid");
        let script = script.replace("PID", &path.display().to_string());
        let is_running = || {
            let pid = std::fs::read_to_string(&path).expect("the script has begun");
            let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            // an exited process that was not waited for is a zombie
            state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
        };
        // a signal takes a moment
        let ends = || {
            (0..500).any(|_| {
                !is_running() || {
                    std::thread::sleep(Duration::from_millis(20));
                    false
                }
            })
        };
        let judge = shell(&script, 4.0);
        judge.judge(&[input("one")]).expect("a score");
        assert!(is_running(), "{script}");
        drop(judge);
        assert!(ends(), "dropped: {script}");
        std::fs::remove_file(&path).expect("removed");
        let judge = shell(&script, 4.0);
        judge.judge(&[input("one")]).expect("a score");
        judge.finish().expect("nothing more was said");
        assert!(ends(), "finished: {script}");
    }

    /// The lines of a script's output, where this many inputs were sent before.
    fn lines(script: &str, sent: usize) -> Vec<ProgramLine> {
        let mut child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("a shell");
        let (sender, lines) = sync_channel(WAITING);
        listen(child.stdout.take().expect("piped"), &AtomicUsize::new(sent), &sender);
        child.wait().expect("ended");
        drop(sender);
        lines.iter().collect()
    }

    #[test]
    fn an_answer_to_no_input_is_unexpected() {
        let kinds = |sent| -> String {
            let kind = |line: &ProgramLine| match line {
                ProgramLine::Answer(_) => 'a',
                ProgramLine::Unexpected(_) => 'u',
                ProgramLine::TooLong => 'l',
            };
            lines("echo 1; echo; echo 2; echo ' '; echo 3", sent).iter().map(kind).collect()
        };
        assert_eq!([0, 1, 2, 3, 4].map(kinds), ["uuu", "auu", "aau", "aaa", "aaa"], "empty lines are no answers");
    }

    #[test]
    fn a_line_has_at_most_65536_bytes() {
        // the number, spaces and the end of the line
        let of = |length: usize| lines(&format!("printf '%{}d\\n' 7", length - 1), 9);
        assert!(matches!(&of(LONGEST)[..], [ProgramLine::Answer(line)] if line.len() == LONGEST));
        assert!(matches!(&of(LONGEST + 1)[..], [ProgramLine::TooLong]));
        assert_eq!(parse_answer(&format!("{:>65535}", 7), &JudgeInput::default()), Ok(JudgeAnswer::Whole(7.0)));
    }

    /// Steps are of the response that is read; a wrong number of them is told with its line.
    #[test]
    fn a_program_scores_tokens_or_steps() -> Result<()> {
        let three = JudgeInput { tokens: 3, ..input("a b c") };
        let script = |answer: &str| format!("while read -r line; do echo '{answer}'; done");
        let judge = shell(&script("{\"scores\": [1, 0.5, -1]}"), 20.0);
        assert_eq!(judge.answers(std::slice::from_ref(&three))?, [JudgeAnswer::Tokens(vec![1.0, 0.5, -1.0])]);
        assert_eq!(judge.judge(std::slice::from_ref(&three))?, [0.5], "their sum");
        let judge = shell(&script("{\"scores\": [2, -1], \"ends\": [1, 5]}"), 20.0);
        let steps = JudgeAnswer::Steps { scores: vec![2.0, -1.0], ends: vec![1, 5] };
        assert_eq!(judge.answers(&[three.clone(), three.clone(), three.clone()])?, vec![steps; 3]);
        let short = JudgeInput { tokens: 2, ..input("a b") };
        let error = judge.answers(&[three, short]).expect_err("a step beyond the response").to_string();
        assert!(error.contains("at most 3") && error.contains("line 5 of its output"), "{error}");
        Ok(())
    }

    /// A program that exits is started three times for a batch, each of which has at least one input.
    #[test]
    fn a_program_is_tried_three_times() {
        let folder = tempfile::tempdir().expect("a folder");
        let starts = folder.path().join("starts");
        let judge = |script: String| CommandJudge::new(["sh".into(), "-c".into(), script].to_vec(), DAY, 0);
        let error = judge(format!("echo start >> {}", starts.display())).judge(&[input("one")]);
        assert!(error.expect_err("it ends").to_string().contains("it ended after 0 of 1 answers"));
        assert_eq!(std::fs::read_to_string(&starts).expect("started").lines().count(), 3);
        // the third attempt answers
        let script = format!(
            "echo start >> {0}; [ $(wc -l < {0}) -ge 6 ] && while read -r line; do echo 5; done",
            starts.display()
        );
        assert_eq!(judge(script).judge(&[input("one"), input("two")]).expect("scores"), [5.0, 5.0]);
    }

    #[test]
    fn a_slow_program_has_longer_to_exit() {
        let seconds = |slowest: f64, timeout| last_wait(Duration::from_secs_f64(slowest), Duration::from_secs(timeout));
        let actual = [seconds(3.0, 60), seconds(1.0, 60), seconds(3.0, 10), seconds(0.0, 2)];
        assert_eq!(actual, [12, 5, 10, 2].map(Duration::from_secs));
    }

    #[test]
    fn no_two_programs_have_one_mark() {
        let marks = [unique_mark(), unique_mark()];
        let own = format!("{}-", std::process::id());
        assert!(
            marks[0] != marks[1] && marks.iter().all(|mark| mark.starts_with(&own) && mark.ends_with('.')),
            "{marks:?}"
        );
    }
}
