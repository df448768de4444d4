//! Judges of text that an experiment file can ask for: rules, a program of one's own, and a taste learned from pairs.

use crate::sentiment::{Sentiment, Taste};
use crate::{Error, Result, Scorer};
use duel_data::Texts;
use duel_model::Responses;
use duel_spec::{Reads, Rule};
use regex::Regex;
use serde::Serialize;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a text judge is asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asked {
    pub prompt: String,
    pub response: String,
}

/// Judges text.
pub trait TextJudge: Send + Sync {
    /// One number a text, higher is better.
    fn judge(&self, asked: &[Asked]) -> Result<Vec<f64>>;
}

/// The first words of a text, as they stand.
fn first_words(text: &str, limit: usize) -> &str {
    let end = text.split_inclusive(char::is_whitespace).take(limit).map(str::len).sum();
    &text[..end]
}

/// A text judge as a scorer of a world's responses.
pub struct TextGold {
    pub judge: Arc<dyn TextJudge>,
    pub world: Arc<dyn Texts>,
    pub reads: Reads,
    /// Words, as they stand between spaces, that are read at most.
    pub judged_words: usize,
}

impl std::fmt::Debug for TextGold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TextGold(first {} words)", self.judged_words)
    }
}

impl Scorer for TextGold {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        let asked = |(prompt, response): (&Vec<u32>, &Vec<u32>)| -> Result<Asked> {
            let read = match self.reads {
                Reads::Response => self.world.text(response)?,
                Reads::All => self.world.text(&[prompt.as_slice(), response].concat())?,
            };
            let response = first_words(&read, self.judged_words).to_owned();
            Ok(Asked { prompt: self.world.text(prompt)?, response })
        };
        let asked = batch.prompts.iter().zip(&batch.responses).map(asked).collect::<Result<Vec<_>>>()?;
        self.judge.judge(&asked)
    }
}

/// Log-odds of being positive, clipped.
#[derive(Debug)]
pub struct SentimentJudge {
    pub sentiment: Sentiment,
    /// Words that it reads at most.
    pub judged_words: usize,
    pub clip: f64,
}

impl TextJudge for SentimentJudge {
    fn judge(&self, asked: &[Asked]) -> Result<Vec<f64>> {
        let one = |one: &Asked| self.sentiment.logit(&one.response, self.judged_words).clamp(-self.clip, self.clip);
        Ok(asked.iter().map(one).collect())
    }
}

/// What people preferred, clipped.
#[derive(Debug)]
pub struct TasteJudge {
    pub taste: Taste,
    /// Words that it reads at most.
    pub judged_words: usize,
    pub clip: f64,
}

impl TextJudge for TasteJudge {
    fn judge(&self, asked: &[Asked]) -> Result<Vec<f64>> {
        Ok(asked
            .iter()
            .map(|one| self.taste.score(&one.response, self.judged_words).clamp(-self.clip, self.clip))
            .collect())
    }
}

/// A weighted sum of rules.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<(Rule, Option<Regex>)>,
}

impl Rules {
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn new(rules: &[Rule]) -> Result<Self> {
        let compiled = rules.iter().map(|rule| {
            let pattern = match rule {
                Rule::Regex { pattern, .. } => Some(
                    Regex::new(pattern)
                        .map_err(|e| Error::Pattern { pattern: pattern.clone(), problem: e.to_string() })?,
                ),
                _ => None,
            };
            Ok((rule.clone(), pattern))
        });
        Ok(Self { rules: compiled.collect::<Result<_>>()? })
    }

    fn score(&self, text: &str) -> f64 {
        let lower = text.to_lowercase();
        let is_word = |c: char| c.is_alphanumeric() || c == '\'';
        let words: Vec<&str> = lower.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).collect();
        let one = |(rule, pattern): &(Rule, Option<Regex>)| match rule {
            Rule::Length { words: wanted, per, weight } => -weight * (words.len() as f64 - wanted).abs() / per,
            Rule::Keyword { any, weight } => {
                let there = |wanted: &String| {
                    let wanted = wanted.to_lowercase();
                    if wanted.chars().all(is_word) { words.contains(&&*wanted) } else { lower.contains(&wanted) }
                };
                weight * any.iter().filter(|wanted| there(wanted)).count() as f64
            }
            Rule::Regex { weight, .. } => weight * f64::from(pattern.as_ref().is_some_and(|p| p.is_match(text))),
            Rule::Json { weight } => weight * f64::from(serde_json::from_str::<serde_json::Value>(text.trim()).is_ok()),
        };
        self.rules.iter().map(one).sum()
    }
}

impl TextJudge for Rules {
    fn judge(&self, asked: &[Asked]) -> Result<Vec<f64>> {
        Ok(asked.iter().map(|one| self.score(&one.response)).collect())
    }
}

/// A program that judges: it reads a JSON object a line and answers one a line, in order.
#[derive(Debug)]
pub struct External {
    command: Vec<String>,
    timeout: Duration,
    batch: usize,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.input = None; // it may end by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How often a batch is tried.
const TRIES: usize = 3;

impl External {
    /// The program starts when it is first asked.
    pub fn new(command: Vec<String>, timeout: Duration, batch: usize) -> Self {
        Self { command, timeout, batch: batch.max(1), running: Mutex::new(None) }
    }

    fn refuse(&self, problem: String) -> Error {
        Error::Command { command: self.command.join(" "), problem }
    }

    fn start(&self) -> Result<Running> {
        let (program, arguments) =
            self.command.split_first().ok_or_else(|| self.refuse("there is no program".into()))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|e| self.refuse(format!("it cannot be started: {e}")))?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or_else(|| self.refuse("it has no output".into()))?;
        let (send, answers) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                if !line.trim().is_empty() && send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Running { child, input, answers })
    }

    /// Writes a batch and reads its answers.
    fn ask(&self, running: &mut Running, asked: &[Asked]) -> Result<Vec<f64>> {
        let ends = Instant::now() + self.timeout;
        let lines: String = asked.iter().map(|one| serde_json::to_string(one).unwrap_or_default() + "\n").collect();
        let mut input = running.input.take().ok_or_else(|| self.refuse("it takes no input".into()))?;
        // by a thread of its own: a program that answers before it has read all would otherwise wait for us, and we for it
        let writer = std::thread::spawn(move || {
            let written = input.write_all(lines.as_bytes()).and_then(|()| input.flush());
            written.map(|()| input)
        });
        let mut scores = Vec::with_capacity(asked.len());
        for place in 0..asked.len() {
            let left = ends.saturating_duration_since(Instant::now());
            let line = running.answers.recv_timeout(left).map_err(|e| match e {
                RecvTimeoutError::Timeout => {
                    self.refuse(format!("{place} of {} answers came within {:?}", asked.len(), self.timeout))
                }
                RecvTimeoutError::Disconnected => {
                    self.refuse(format!("it ended after {place} of {} answers", asked.len()))
                }
            })?;
            scores.push(self.read(&line)?);
        }
        match writer.join() {
            Ok(Ok(input)) => running.input = Some(input),
            _ => return Err(self.refuse("it stopped reading".into())),
        }
        Ok(scores)
    }

    fn read(&self, line: &str) -> Result<f64> {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let score = value.as_f64().or(value["score"].as_f64());
        score.filter(|x| x.is_finite()).ok_or_else(|| {
            let shown: String = line.chars().take(80).collect();
            self.refuse(format!("it answered `{shown}`, not {{\"score\": number}}"))
        })
    }
}

impl TextJudge for External {
    fn judge(&self, asked: &[Asked]) -> Result<Vec<f64>> {
        let mut running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut scores = Vec::with_capacity(asked.len());
        for batch in asked.chunks(self.batch) {
            let mut last = None;
            for _ in 0..TRIES {
                let mut program = match running.take() {
                    Some(program) => program,
                    None => self.start()?,
                };
                match self.ask(&mut program, batch) {
                    Ok(found) => {
                        *running = Some(program);
                        scores.extend(found);
                        last = None;
                        break;
                    }
                    Err(e) => last = Some(e), // the program goes, and is started again
                }
            }
            if let Some(e) = last {
                return Err(e);
            }
        }
        Ok(scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(response: &str) -> Asked {
        Asked { prompt: "p".into(), response: response.into() }
    }

    #[test]
    fn rules_by_hand() -> Result<()> {
        let rules = Rules::new(&[
            Rule::Length { words: 3.0, per: 2.0, weight: 1.0 },
            Rule::Keyword { any: vec!["good".into(), "very fine".into()], weight: 2.0 },
            Rule::Regex { pattern: r"\d{4}".into(), weight: 4.0 },
            Rule::Json { weight: 8.0 },
        ])?;
        let scores = rules.judge(&["A good film", "goodness", "very fine 1999 stuff", "[1]"].map(asked))?;
        assert_eq!(scores, [2.0, -1.0, -0.5 + 2.0 + 4.0, -1.0 + 8.0]);
        assert!(Rules::new(&[Rule::Regex { pattern: "(".into(), weight: 1.0 }]).is_err());
        Ok(())
    }

    #[test]
    fn a_program_judges_and_is_started_again() -> Result<()> {
        let shell = |script: &str, timeout| {
            External::new(["sh", "-c", script].map(str::to_owned).to_vec(), Duration::from_secs_f64(timeout), 2)
        };
        let texts = ["one", "two", "three"].map(asked);
        // the length of each line, in order
        let judge = shell(r#"while read -r line; do echo "{\"score\": ${#line}}"; done"#, 20.0);
        let found = judge.judge(&texts)?;
        assert_eq!(found, [31.0, 31.0, 33.0]);
        // one that ends after every batch is started for the next
        let judge = shell("read -r a; echo 1; read -r b && echo 2", 20.0);
        assert_eq!(judge.judge(&texts)?, [1.0, 2.0, 1.0]);
        for (script, expected) in [
            ("echo nothing", "it answered `nothing`"),
            ("sleep 5", "0 of 2 answers came within"),
            ("true", "it ended after 0 of 2 answers"),
        ] {
            let error = shell(script, 0.2).judge(&texts).expect_err(script).to_string();
            assert!(error.contains(expected), "{script}: {error}");
        }
        let error = External::new(vec!["no-such-program".into()], Duration::from_secs(1), 1).judge(&texts);
        assert!(error.expect_err("no such program").to_string().contains("it cannot be started"));
        Ok(())
    }

    #[test]
    fn only_the_first_words_are_read() {
        assert_eq!(first_words("one two  three", 2), "one two ");
        assert_eq!(first_words("one", 5), "one");
    }
}
