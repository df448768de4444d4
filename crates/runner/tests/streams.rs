//! What surrounds the binary: standard output that takes nothing, names that are no text, signals, terminals that cannot be
//! drawn on.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const TINY: &str = include_str!("../src/tiny.toml");
const DUEL: &str = env!("CARGO_BIN_EXE_duel");
/// No text in any encoding that is asked for.
const STRANGE: &[u8] = b"r\xff\xfen";

fn folder(experiment: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("e.toml"), experiment).unwrap();
    folder
}

fn duel(folder: &Path, args: &[&[u8]]) -> Output {
    let args = args.iter().map(|arg| OsStr::from_bytes(arg));
    Command::new(DUEL).current_dir(folder).args(args).env("NO_COLOR", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error_and_one_that_nobody_reads_is_none() {
    let folder = folder(TINY);
    for command in ["defaults", "--help", "--version", "run --help", "completions bash"] {
        let full = Command::new(DUEL)
            .current_dir(folder.path())
            .args(command.split(' '))
            .env("NO_COLOR", "1")
            .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        let message = text(&full.stderr);
        assert_eq!(full.status.code(), Some(1), "{command}: {message}");
        assert!(
            message.contains("standard output") && message.contains("No space left on device"),
            "{command}: {message}"
        );
        // the reading end is closed before anything is written
        let mut unread = Command::new(DUEL)
            .args(command.split(' '))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        drop(unread.stdout.take());
        let unread = unread.wait_with_output().unwrap();
        assert_eq!((unread.status.code(), text(&unread.stderr)), (Some(0), String::new()), "{command}");
    }
    // a mistake stays one, whatever becomes of the answer
    let wrong = Command::new(DUEL).arg("--nonsense").stdout(Stdio::null()).output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn names_that_are_no_text_are_used_or_refused_and_what_cannot_be_planned_leaves_nothing() {
    let folder = folder(TINY);
    let run = [STRANGE, b"/tiny"].concat();
    let made = duel(folder.path(), &[b"run", b"e.toml", b"--out", STRANGE]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    for args in [
        &[&b"digest"[..], &run][..],
        &[b"report", &run],
        &[b"watch", &run, b"--once"],
        &[b"watch", &run], // no terminal: a line
        &[b"cache", b"list", b"--out", STRANGE],
        &[b"cache", b"prune", b"--out", STRANGE],
        &[b"plan", b"e.toml", b"--out", STRANGE],
    ] {
        let out = duel(folder.path(), args);
        assert!(out.status.success(), "{}: {}", text(args[0]), text(&out.stderr));
        assert!(!out.stdout.contains(&0x1b), "{}", text(&out.stdout));
        assert!(!text(&out.stdout).contains("-0.0 GFLOP"), "{}", text(&out.stdout));
    }
    let again = duel(folder.path(), &[b"run", b"e.toml", b"--out", STRANGE]);
    assert!(text(&again.stdout).contains("0 stages made, 7 reused"), "{}", text(&again.stdout));

    for args in [
        &[&b"run"[..], b"no\xff.toml"][..],
        &[b"run", b"e.toml", b"--set", b"name=\xff"],
        &[b"run", b"e.toml", b"--device", b"\xff"],
        &[b"report", b"x", b"--figure", b"\xff"],
        &[b"run", b"e.toml", b"--checkpoint-seconds", b"1e300"],
        &[b"run", b"e.toml", b"--set", b"judge.timeout=1e300"],
        &[b"run", b"e.toml", b"--set", b"stages.pairs.rows=9223372036854775807"],
        &[b"plan", b"e.toml", b"--set", b"model.layers=16384"],
    ] {
        let out = duel(folder.path(), args);
        let message = text(&out.stderr);
        assert!(out.status.code() == Some(2) && !message.contains("panicked"), "{args:?}: {message}");
    }
    // a run that fails while it is planned
    let rows = "[world]\nkind = \"rows\"\n[world.rows]\ntrain = \"nowhere.jsonl\"\n[model]\nfrom = \"nowhere\"\n[arms.a]\nmethod = \"dpo\"\n";
    std::fs::write(folder.path().join("rows.toml"), rows).unwrap();
    let out = duel(folder.path(), &[b"run", b"rows.toml"]);
    assert!(!out.status.success() && !folder.path().join("runs").exists(), "{}", text(&out.stderr));
}

/// A training that does not end, once it is at work. `before` is of the shell.
fn long_run(folder: &Path, before: &str) -> Child {
    let long = format!("{before} {DUEL} run e.toml --set arms.ppo.iterations=100000 --jobs 1 --checkpoint-seconds 0");
    let child = Command::new("bash")
        .args(["-c", &long])
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .env("TERM", "dumb")
        .spawn()
        .unwrap();
    let stages = folder.join("runs/tiny/stages");
    let began = Instant::now();
    let is_kept = || {
        let stages = std::fs::read_dir(&stages).into_iter().flatten().flatten();
        stages.into_iter().any(|stage| stage.file_name().to_string_lossy().ends_with(".kept"))
    };
    while !is_kept() {
        assert!(began.elapsed() < Duration::from_secs(120), "waited in vain for a checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_terminal_that_is_gone_ends_a_run_cleanly_unless_it_was_told_not_to_mind() {
    let folder = folder(TINY);
    let child = long_run(folder.path(), "exec env --default-signal=HUP"); // whatever these tests run under
    send("-HUP", &child);
    let out = child.wait_with_output().unwrap();
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(130), "{message}");
    assert!(message.contains("run the same command again") && !message.contains('\u{1b}'), "{message}");
    let manifest = std::fs::read_to_string(folder.path().join("runs/tiny/manifest.json")).unwrap();
    assert!(manifest.contains("\"interrupted\""), "{manifest}");
    let watched = duel(folder.path(), &[b"watch", b"runs/tiny"]);
    assert!(text(&watched.stdout).contains("interrupted"), "{}", text(&watched.stdout));

    std::fs::remove_dir_all(folder.path().join("runs")).unwrap();
    let mut child = long_run(folder.path(), "trap '' HUP; exec"); // as nohup does
    send("-HUP", &child);
    std::thread::sleep(Duration::from_millis(500));
    assert!(child.try_wait().unwrap().is_none(), "it goes on");
    send("-TERM", &child);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
}
