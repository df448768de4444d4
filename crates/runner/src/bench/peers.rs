//! The other programs of `duel bench --peers`, which make one step per request.

use super::cases::LORA_RANK;
use super::shapes::Shape;
use crate::error::{Error, Result};
use duel_model::Activation;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The script that runs the peers, from the repository's root.
const SCRIPT: &str = "scripts/bench/bench-peers";

/// A running peer that makes steps of one case.
#[derive(Debug)]
pub struct Peer {
    pub name: &'static str,
    /// Versions of its libraries.
    pub versions: BTreeMap<String, String>,
    process: Child,
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PeerReply {
    Step { seconds: f64 },
    Ready { versions: BTreeMap<String, String> },
}

/// The peers of a case: a plain PyTorch loop, and TRL (or Hugging Face's models alone where TRL has nothing of its own).
pub fn start(shape: &Shape, case: &str) -> Result<Vec<Peer>> {
    let names: &[&'static str] = match case {
        "evaluation" | "generate_mixed" => &[],
        _ if shape.is_large() => &["trl"],
        _ => &["torch", "trl"],
    };
    names.iter().map(|name| Peer::start(name, shape, case)).collect()
}

/// Installs what the peers need, unless that has been done.
pub fn set_up() -> Result<()> {
    if !Path::new(SCRIPT).exists() {
        return Err(Error::Peer { name: "setup", problem: format!("there is no `{SCRIPT}` here") });
    }
    let status = Command::new(SCRIPT).arg("--setup").stdout(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Error::Peer { name: "setup", problem: format!("`{SCRIPT} --setup` ended with {status}") }),
        Err(e) => Err(Error::Peer { name: "setup", problem: e.to_string() }),
    }
}

impl Peer {
    fn start(name: &'static str, shape: &Shape, case: &str) -> Result<Self> {
        let fails = |problem: String| Error::Peer { name, problem };
        let threads = shape.threads.to_string();
        let sizes = sizes(shape).to_string();
        let mut process = Command::new(SCRIPT)
            .args(["--case", case, "--impl", name, "--threads", &threads, "--shape", &sizes])
            .env("OMP_NUM_THREADS", &threads)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|e| fails(e.to_string()))?;
        let (asks, answers) = (process.stdin.take(), process.stdout.take());
        let answers = answers.ok_or_else(|| fails("its output could not be opened".into()))?;
        let mut peer = Self { name, versions: BTreeMap::new(), process, asks, answers: BufReader::new(answers) };
        match peer.answer()? {
            PeerReply::Ready { versions } => peer.versions = versions,
            PeerReply::Step { .. } => return Err(fails("it printed before it got any input".into())),
        }
        Ok(peer)
    }

    /// Seconds of one step.
    pub fn step(&mut self) -> Result<f64> {
        let fails = |problem: String| Error::Peer { name: self.name, problem };
        let asks = self.asks.as_mut().ok_or_else(|| fails("its input is closed".into()))?;
        writeln!(asks, "run").and_then(|()| asks.flush()).map_err(|e| fails(e.to_string()))?;
        match self.answer()? {
            PeerReply::Step { seconds } => Ok(seconds),
            PeerReply::Ready { .. } => Err(Error::Peer { name: self.name, problem: "it is ready twice".into() }),
        }
    }

    fn answer(&mut self) -> Result<PeerReply> {
        let fails = |problem: String| Error::Peer { name: self.name, problem };
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err(fails("it ended without an answer".into())),
            Ok(_) => serde_json::from_str(&line).map_err(|e| fails(format!("`{}`: {e}", line.trim()))),
            Err(e) => Err(fails(e.to_string())),
        }
    }
}

impl Drop for Peer {
    /// Closes its input, which ends the peer.
    fn drop(&mut self) {
        self.asks = None;
        let _ = self.process.wait();
    }
}

/// A shape, with the peers' names of its fields.
fn sizes(shape: &Shape) -> serde_json::Value {
    let config = &shape.config;
    let gelu = config.architecture.mlp.activation == Activation::GeluTanh;
    serde_json::json!({
        "family": config.architecture.family, "gelu": gelu, "inner": config.inner(), "layers": config.layers, "width": config.width,
        "heads": config.heads, "key_value_heads": config.key_value_heads(), "vocabulary": config.vocabulary,
        "lora_rank": if shape.is_large() { LORA_RANK } else { 0 }, "prompt": shape.space.prompt_tokens, "response": shape.space.response_tokens, "batch": shape.batch, "rollout": shape.rollout(), "episodes": shape.episodes,
        "numbers": shape.numbers,
    })
}
