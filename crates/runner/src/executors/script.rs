//! What scripts for a cluster have in common: the command of a worker, quoted words and paths.

use super::executor::{RunOptions, worker_program};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The command of a detached worker.
#[derive(Debug)]
pub struct WorkerCommand<'a> {
    pub program: PathBuf,
    pub run: PathBuf,
    pub device: &'a str,
    pub checkpoint_seconds: f64,
}

impl<'a> WorkerCommand<'a> {
    /// # Errors
    /// A run directory that cannot be found.
    pub fn new(options: &RunOptions<'a>) -> Result<Self> {
        let path = options.run.path();
        let run =
            std::fs::canonicalize(path).map_err(|source| Error::Io { action: "find", path: path.into(), source })?;
        let RunOptions { device, checkpoint_seconds, .. } = *options;
        Ok(Self { program: worker_program()?, run, device, checkpoint_seconds })
    }

    /// As a line of the shell; `stage` is an expression of the shell.
    ///
    /// # Errors
    /// A path with a control character, or that is not text.
    pub fn line(&self, stage: &str) -> Result<String> {
        let program = shell_quoted(scriptable("the program", &self.program)?);
        let run = shell_quoted(scriptable("the run directory", &self.run)?);
        let (device, seconds) = (shell_quoted(self.device), self.checkpoint_seconds);
        Ok(format!(
            "{program} worker --detached --run {run} --stage {stage} --device {device} --checkpoint-seconds {seconds}"
        ))
    }
}

/// As one word of the shell.
pub fn shell_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A path that can be part of a script: text without control characters.
pub fn scriptable<'a>(what: &'static str, path: &'a Path) -> Result<&'a str> {
    let refuse = |why| Err(Error::Unscriptable { what, path: path.to_string_lossy().into_owned(), why });
    match path.to_str() {
        None => refuse("it is not UTF-8"),
        Some(text) if text.chars().any(char::is_control) => refuse("it has a control character"),
        Some(text) => Ok(text),
    }
}
