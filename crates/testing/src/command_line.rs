//! The output of a program, for tests.

use std::process::Command;

/// The standard output of a command that succeeds.
///
/// # Panics
/// If the command fails.
pub fn stdout_of(command: &mut Command) -> String {
    let output = command.output().expect("a program that can be started");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    stdout
}

/// The exit code and the message of a command that fails, whose lines are joined.
///
/// # Panics
/// If the command succeeds or panics.
pub fn refusal_of(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().expect("a program that can be started");
    let stderr = String::from_utf8_lossy(&output.stderr).replace('│', " ");
    let message = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(!output.status.success() && !message.contains("panicked"), "{command:?}: {message}");
    (output.status.code(), message)
}
