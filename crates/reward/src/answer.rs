//! What a judge of text reads of a response, and what it answers: a score, or scores of its tokens or of its steps.

use serde::Serialize;
use serde_json::Value;

/// Largest magnitude of a score: scores are squared and summed in f32.
const LARGEST: f64 = 1e9;

/// The input of a text judge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JudgeInput {
    pub prompt: String,
    pub response: String,
    /// Of each of its tokens, the number of characters of `response` after which it ends; empty where the judge does not ask for them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token_ends: Vec<usize>,
    /// Tokens of the response.
    #[serde(skip)]
    pub tokens: usize,
}

/// What a judge says of a response.
#[derive(Debug, Clone, PartialEq)]
pub enum JudgeAnswer {
    /// A score of the whole.
    Whole(f64),
    /// A score of each of its tokens.
    Tokens(Vec<f64>),
    /// A score of each of its steps, and the number of characters after which each ends.
    Steps { scores: Vec<f64>, ends: Vec<usize> },
}

impl JudgeAnswer {
    /// The score of the response: the sum of its parts.
    pub fn total(&self) -> f64 {
        match self {
            Self::Whole(score) => *score,
            Self::Tokens(scores) | Self::Steps { scores, .. } => scores.iter().sum(),
        }
    }
}

/// Reads the line that a judge has written for an input.
///
/// # Errors
/// What is wrong with it, and what would be accepted.
pub(crate) fn parse_answer(line: &str, input: &JudgeInput) -> Result<JudgeAnswer, String> {
    let value: Value = serde_json::from_str(line).unwrap_or_default();
    let said = || format!("it answered `{}`", excerpt(line));
    if let Value::Array(scores) = &value["scores"] {
        if !value["score"].is_null() {
            return Err(format!("{}, with `score` and `scores`: one of them is expected", said()));
        }
        return parse_scores(scores, &value["ends"], input).map_err(|problem| format!("{}: {problem}", said()));
    }
    let score = value.as_f64().or(value["score"].as_f64());
    let score = score.filter(|score| score.abs() <= LARGEST);
    score
        .map(JudgeAnswer::Whole)
        .ok_or_else(|| format!("{}, not {{\"score\": a number from -{LARGEST:e} to {LARGEST:e}}}", said()))
}

/// Scores of tokens or, where there are `ends`, of steps.
fn parse_scores(scores: &[Value], ends: &Value, input: &JudgeInput) -> Result<JudgeAnswer, String> {
    let is_bounded = |score: &f64| score.abs() <= LARGEST;
    let numbers: Option<Vec<f64>> = scores.iter().map(|score| score.as_f64().filter(is_bounded)).collect();
    let scores = numbers.filter(|scores| is_bounded(&scores.iter().sum()));
    let scores = scores
        .ok_or_else(|| format!("numbers are expected that are, as their sum, from -{LARGEST:e} to {LARGEST:e}"))?;
    if ends.is_null() {
        if scores.len() != input.tokens {
            return Err(format!(
                "{} scores for a response of {} tokens, where one for each token is expected, its end token included; or one for \
                 each step, and in `ends` the number of characters of `response` after which each step ends",
                scores.len(),
                input.tokens
            ));
        }
        return Ok(JudgeAnswer::Tokens(scores));
    }
    let ends = ends.as_array().and_then(|ends| ends.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>());
    let ends = ends.ok_or("`ends` should be a list of whole numbers, the characters after which each step ends")?;
    if ends.len() != scores.len() {
        return Err(format!(
            "{} scores and {} ends, where each step is expected to have both",
            scores.len(),
            ends.len()
        ));
    }
    let characters = input.response.chars().count() as u64;
    let increases = ends.windows(2).all(|pair| pair[0] < pair[1]);
    if !increases || ends.iter().any(|end| !(1..=characters).contains(end)) {
        return Err(format!(
            "`ends` should increase from at least 1 to at most {characters}, the number of characters of `response`"
        ));
    }
    Ok(JudgeAnswer::Steps { scores, ends: ends.into_iter().map(|end| end as usize).collect() })
}

/// The beginning of a line.
pub(crate) fn excerpt(line: &str) -> String {
    line.trim_end().chars().take(80).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five characters, of which one has two bytes, in three tokens.
    fn input() -> JudgeInput {
        JudgeInput { response: "aé cd".into(), tokens: 3, ..JudgeInput::default() }
    }

    #[test]
    fn scores_are_numbers_of_bounded_size() {
        let of = |line: &str| parse_answer(line, &input()).ok();
        assert_eq!(
            ["1e9", "-1e9", "{\"score\": -0.5}", " 3\n"].map(of),
            [1e9, -1e9, -0.5, 3.0].map(|score| Some(JudgeAnswer::Whole(score)))
        );
        assert_eq!(
            ["1.000001e9", "-1.000001e9", "null", "\"1\"", "{\"scores\": 1}", ""].map(of),
            [None, None, None, None, None, None]
        );
    }

    #[test]
    fn scores_are_of_every_token_or_of_steps() {
        let of = |line: &str| parse_answer(line, &input()).unwrap_or_else(|problem| panic!("{line}: {problem}"));
        let tokens = of("{\"scores\": [1, -0.5, 2]}");
        assert_eq!((tokens.clone(), tokens.total()), (JudgeAnswer::Tokens(vec![1.0, -0.5, 2.0]), 2.5));
        let steps = of("{\"scores\": [1, 0.25], \"ends\": [2, 5]}");
        let expected = JudgeAnswer::Steps { scores: vec![1.0, 0.25], ends: vec![2, 5] };
        assert_eq!((steps.clone(), steps.total()), (expected, 1.25));
        let none = of("{\"scores\": [], \"ends\": []}");
        assert_eq!(none.total(), 0.0, "a response without a step");
    }

    #[test]
    fn what_is_wrong_with_scores_is_said() {
        for (line, expected) in [
            ("{\"scores\": [1, 2]}", "2 scores for a response of 3 tokens"),
            ("{\"scores\": []}", "0 scores for a response of 3 tokens"),
            ("{\"scores\": [1, 2, \"3\"]}", "numbers are expected"),
            ("{\"scores\": [1, 2, 2e9]}", "from -1e9 to 1e9"),
            ("{\"scores\": [9e8, 9e8, 0]}", "as their sum"),
            ("{\"scores\": [1], \"ends\": 5}", "a list of whole numbers"),
            ("{\"scores\": [1], \"ends\": [2.5]}", "a list of whole numbers"),
            ("{\"scores\": [1], \"ends\": [-1]}", "a list of whole numbers"),
            ("{\"scores\": [1], \"ends\": [2, 5]}", "1 scores and 2 ends"),
            ("{\"scores\": [1, 2], \"ends\": [3, 3]}", "increase"),
            ("{\"scores\": [1], \"ends\": [0]}", "at least 1"),
            ("{\"scores\": [1], \"ends\": [6]}", "at most 5"),
            ("{\"score\": 1, \"scores\": [1, 2, 3]}", "`score` and `scores`"),
        ] {
            let problem = parse_answer(line, &input()).expect_err(line);
            assert!(problem.starts_with("it answered `{\"sc") && problem.contains(expected), "{line}: {problem}");
        }
    }
}
