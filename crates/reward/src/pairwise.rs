//! A judge of pairs: it reads two responses to a prompt and says which is better. Each pair is shown in both orders, as a judge may
//! prefer what it reads first: Zheng et al. 2023, §3.4.

use crate::Result;
use crate::answer::{JudgeInput, excerpt};
use crate::command::CommandJudge;
use crate::judges::judge_input;
use duel_data::Detokenize;
use duel_model::Responses;
use duel_spec::JudgedText;
use serde::Serialize;
use std::sync::Arc;

/// The input of a judge of pairs: a prompt, and two responses to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JudgedPair {
    pub prompt: String,
    pub a: String,
    pub b: String,
}

/// Judges pairs of responses.
pub trait PairJudge: Send + Sync {
    /// For each pair the probability that `a` is better: 1 or 0 where the judge says which, ½ for a tie.
    fn prefer(&self, pairs: &[JudgedPair]) -> Result<Vec<f64>>;

    /// Called once after the last pair.
    ///
    /// # Errors
    /// What was wrong with earlier answers.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

impl PairJudge for CommandJudge {
    fn prefer(&self, pairs: &[JudgedPair]) -> Result<Vec<f64>> {
        self.ask_all(pairs, preference)
    }

    fn finish(&self) -> Result<()> {
        self.close()
    }
}

/// The probability that `a` is better, by the answer on a line.
fn preference(line: &str, _: &JudgedPair) -> std::result::Result<f64, String> {
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    let probability = match value["preferred"].as_str() {
        Some("a") => Some(1.0),
        Some("b") => Some(0.0),
        Some("tie") => Some(0.5),
        Some(_) => None,
        None => value["probability"].as_f64().filter(|p| (0.0..=1.0).contains(p)),
    };
    probability.ok_or_else(|| {
        let accepted = r#"{"preferred": "a", "b" or "tie"}, or {"probability": from 0 to 1 that a is better}"#;
        format!("it answered `{}`, not {accepted}", excerpt(line))
    })
}

/// What a judge says of one pair: the probability that the first policy's response is better, where it is shown as `a` and as `b`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairVerdict {
    pub as_a: f64,
    pub as_b: f64,
}

impl PairVerdict {
    /// The probability that the first policy's response is better, mean of both orders.
    pub fn preference(self) -> f64 {
        f64::midpoint(self.as_a, self.as_b)
    }
}

/// A judge of pairs of a world's responses.
pub struct PairScorer {
    pub judge: Arc<dyn PairJudge>,
    pub world: Arc<dyn Detokenize>,
    pub reads: JudgedText,
    /// Words, separated by whitespace, that are read at most of a response.
    pub judged_words: usize,
}

impl std::fmt::Debug for PairScorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PairScorer(first {} words)", self.judged_words)
    }
}

impl PairScorer {
    /// Compares rows of two batches with the same prompts, each pair in both orders.
    ///
    /// # Errors
    /// Ids that the tokenizer does not know; what the judge did wrong.
    pub fn compare(&self, first: &Responses, second: &Responses, rows: &[usize]) -> Result<Vec<PairVerdict>> {
        let input =
            |batch: &Responses, row: usize| judge_input(self.world.as_ref(), self.reads, self.judged_words, batch, row);
        let mut pairs = Vec::with_capacity(2 * rows.len());
        for &row in rows {
            let JudgeInput { prompt, response: first, .. } = input(first, row)?;
            let second = input(second, row)?.response;
            pairs.push(JudgedPair { prompt: prompt.clone(), a: first.clone(), b: second.clone() });
            pairs.push(JudgedPair { prompt, a: second, b: first });
        }
        let answers = self.judge.prefer(&pairs)?;
        Ok(answers.chunks_exact(2).map(|both| PairVerdict { as_a: both[0], as_b: 1.0 - both[1] }).collect())
    }

    /// Called once after the last pair.
    ///
    /// # Errors
    /// What was wrong with earlier answers.
    pub fn finish(&self) -> Result<()> {
        self.judge.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::time::Duration;

    fn pair(a: &str, b: &str) -> JudgedPair {
        JudgedPair { prompt: "p".into(), a: a.into(), b: b.into() }
    }

    fn command(command: &[&str]) -> CommandJudge {
        CommandJudge::new(command.iter().copied().map(str::to_owned).collect(), Duration::from_secs(20), 2)
    }

    #[test]
    fn an_answer_is_a_name_or_a_probability() {
        let of = |line: &str| preference(line, &pair("x", "y"));
        for (line, expected) in [
            (r#"{"preferred": "a"}"#, 1.0),
            (r#"{"preferred": "b", "why": "shorter"}"#, 0.0),
            (r#"{"preferred": "tie"}"#, 0.5),
            (r#"{"probability": 0.75}"#, 0.75),
            (r#"{"probability": 0}"#, 0.0),
            (r#" {"preferred": null, "probability": 1.0}"#, 1.0),
        ] {
            assert_eq!(of(line), Ok(expected), "{line}");
        }
        for line in
            [r#"{"preferred": "A"}"#, r#"{"probability": 1.01}"#, r#"{"probability": -0.1}"#, "a", "1", "{}", ""]
        {
            let problem = of(line).expect_err(line);
            assert!(problem.contains(&format!("it answered `{line}`")) && problem.contains("\"tie\""), "{problem}");
        }
    }

    /// The judge of docs/guides/judges.md, as it stands there: of two responses it prefers the one that is nearer to six words.
    #[test]
    fn the_judge_of_the_guide_works() -> Result<()> {
        let guide = include_str!("../../../docs/guides/judges.md");
        let mut scripts = guide.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
        let script = scripts.find(|script| script.contains("preferred")).expect("a judge of pairs");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pairwise.py");
        std::fs::write(&path, script).expect("written");
        let judge = command(&["python3", &path.display().to_string()]);
        let pairs = [pair("one", "one two three four five six"), pair("one two", "one"), pair("one", "two")];
        assert_eq!(judge.prefer(&pairs)?, [0.0, 1.0, 0.5]);
        PairJudge::finish(&judge)
    }

    #[test]
    fn a_wrong_answer_and_a_line_too_many_are_said() {
        let pairs = [pair("one", "two")];
        let judge = |script: &str| command(&["sh", "-c", script]);
        let error = judge("read -r a; echo '{\"preferred\": \"first\"}'; read -r b").prefer(&pairs);
        let error = error.expect_err("no choice").to_string();
        assert!(error.contains("it answered `{\"preferred\": \"first\"}`"), "{error}");
        let judge = judge("read -r a; echo '{\"preferred\": \"a\"}'; read -r b; echo '{\"preferred\": \"a\"}'");
        let error = judge.prefer(&pairs).and_then(|_| PairJudge::finish(&judge)).expect_err("one too many").to_string();
        assert!(error.contains("it prints more lines than it reads"), "{error}");
    }

    /// A world whose ids are letters.
    struct Letters;

    impl Detokenize for Letters {
        fn text(&self, ids: &[u32]) -> duel_data::Result<String> {
            Ok(ids.iter().map(|&id| if id == 0 { ' ' } else { char::from(b'a' + id as u8) }).collect())
        }
    }

    /// Prefers what it reads first with .75, except that a response with `z` always loses; it keeps what it reads.
    #[derive(Default)]
    struct PrefersFirst(Mutex<Vec<JudgedPair>>);

    impl PairJudge for PrefersFirst {
        fn prefer(&self, pairs: &[JudgedPair]) -> Result<Vec<f64>> {
            self.0.lock().expect("no panic").extend_from_slice(pairs);
            let one = |pair: &JudgedPair| match (pair.a.contains('z'), pair.b.contains('z')) {
                (true, _) => 0.0,
                (_, true) => 1.0,
                _ => 0.75,
            };
            Ok(pairs.iter().map(one).collect())
        }
    }

    #[test]
    fn pairs_are_shown_in_both_orders() -> Result<()> {
        let batch = |responses: [Vec<u32>; 2]| Responses {
            prompts: vec![vec![1, 0], vec![2, 0]],
            responses: responses.to_vec(),
            logp: vec![],
            masks: vec![],
        };
        let (first, second) = (batch([vec![3, 0, 4], vec![5]]), batch([vec![25], vec![6, 0, 7]]));
        let judge = Arc::new(PrefersFirst::default());
        let scorer =
            PairScorer { judge: judge.clone(), world: Arc::new(Letters), reads: JudgedText::Response, judged_words: 1 };
        let verdicts = scorer.compare(&first, &second, &[1, 0])?;
        assert_eq!(verdicts, [PairVerdict { as_a: 0.75, as_b: 0.25 }, PairVerdict { as_a: 1.0, as_b: 1.0 }]);
        assert_eq!(verdicts.iter().map(|verdict| verdict.preference()).collect::<Vec<_>>(), [0.5, 1.0]);
        let pair = |prompt: &str, a: &str, b: &str| JudgedPair { prompt: prompt.into(), a: a.into(), b: b.into() };
        let expected = [pair("c ", "f", "g "), pair("c ", "g ", "f"), pair("b ", "d ", "z"), pair("b ", "z", "d ")];
        assert_eq!(*judge.0.lock().expect("no panic"), expected);
        scorer.finish()
    }
}
