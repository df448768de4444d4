//! Judges of text that an experiment file can name: rules, and preferences learned from pairs. External programs are in
//! `command.rs`.

use crate::answer::{JudgeAnswer, JudgeInput};
use crate::scorer::{RewardComponent, TokenReward};
use crate::sentiment::{BagOfWordsPreference, Sentiment};
use crate::{Error, Result, Scorer};
use duel_data::Detokenize;
use duel_model::Responses;
use duel_spec::{JudgedText, Rule};
use regex::Regex;
use std::sync::Arc;

/// Judges text.
pub trait TextJudge: Send + Sync {
    /// One score per text, higher is better.
    fn judge(&self, inputs: &[JudgeInput]) -> Result<Vec<f64>>;

    /// The same, with the parts that scores are given in.
    ///
    /// # Errors
    /// Those of [`Self::judge`].
    fn answers(&self, inputs: &[JudgeInput]) -> Result<Vec<JudgeAnswer>> {
        Ok(self.judge(inputs)?.into_iter().map(JudgeAnswer::Whole).collect())
    }

    /// Called once after the last input.
    ///
    /// # Errors
    /// What was wrong with earlier scores.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// The first words of a text, unchanged.
pub(crate) fn first_words(text: &str, limit: usize) -> &str {
    let end = text.split_inclusive(char::is_whitespace).take(limit).map(str::len).sum();
    &text[..end]
}

/// The text of a response; of several turns, those of the assistant.
///
/// # Errors
/// Ids that the tokenizer does not know.
pub fn response_text(world: &dyn Detokenize, batch: &Responses, row: usize) -> duel_data::Result<String> {
    let turns = batch.counted(row).into_iter().map(|ids| world.text(ids));
    Ok(turns.collect::<duel_data::Result<Vec<_>>>()?.join("\n"))
}

/// What a judge reads of a batch's row: of the response, or of prompt and response together, no more than these words, separated by
/// whitespace.
///
/// # Errors
/// Ids that the tokenizer does not know.
pub(crate) fn judge_input(
    world: &dyn Detokenize,
    reads: JudgedText,
    judged_words: usize,
    batch: &Responses,
    row: usize,
) -> Result<JudgeInput> {
    let tokens = batch.responses[row].len();
    let text = judged_text(world, reads, batch, row, tokens)?;
    let response = first_words(&text, judged_words).to_owned();
    Ok(JudgeInput { prompt: world.text(&batch.prompts[row])?, response, token_ends: vec![], tokens })
}

/// What a judge would read of a response, if it had no more words than are read, and only so many tokens.
fn judged_text(
    world: &dyn Detokenize,
    reads: JudgedText,
    batch: &Responses,
    row: usize,
    tokens: usize,
) -> duel_data::Result<String> {
    let (prompt, response) = (&batch.prompts[row], &batch.responses[row]);
    match reads {
        JudgedText::Response if tokens < response.len() => world.text(&response[..tokens]),
        JudgedText::Response => response_text(world, batch, row),
        JudgedText::All => world.text(&[prompt.as_slice(), &response[..tokens]].concat()),
    }
}

/// A text judge as a scorer of a world's responses.
pub struct TextScorer {
    pub judge: Arc<dyn TextJudge>,
    pub world: Arc<dyn Detokenize>,
    pub reads: JudgedText,
    /// Words, separated by whitespace, that are read at most.
    pub judged_words: usize,
    /// Whether it is told where tokens end.
    pub token_ends: bool,
}

impl std::fmt::Debug for TextScorer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TextScorer(first {} words)", self.judged_words)
    }
}

impl TextScorer {
    /// The characters of its first tokens, without those of which only the first bytes are there.
    fn characters(&self, batch: &Responses, row: usize, tokens: usize) -> Result<usize> {
        let text = judged_text(self.world.as_ref(), self.reads, batch, row, tokens)?;
        Ok(text.trim_end_matches(char::REPLACEMENT_CHARACTER).chars().count())
    }

    fn input(&self, batch: &Responses, row: usize) -> Result<JudgeInput> {
        let input = judge_input(self.world.as_ref(), self.reads, self.judged_words, batch, row)?;
        if !self.token_ends {
            return Ok(input);
        }
        let most = input.response.chars().count();
        let end = |count| -> Result<usize> {
            Ok(if count == input.tokens { most } else { self.characters(batch, row, count)?.min(most) })
        };
        Ok(JudgeInput { token_ends: (1..=input.tokens).map(end).collect::<Result<_>>()?, ..input })
    }

    fn inputs(&self, batch: &Responses) -> Result<Vec<JudgeInput>> {
        (0..batch.len()).map(|row| self.input(batch, row)).collect()
    }

    /// The token of a response with which so many characters are written.
    fn token_at(&self, batch: &Responses, row: usize, end: usize) -> Result<usize> {
        let (mut low, mut high) = (0, batch.responses[row].len() - 1);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.characters(batch, row, middle + 1)? >= end {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    /// The tokens at which an answer's scores are given; none where it is a score of the whole.
    fn parts(&self, batch: &Responses, row: usize, answer: JudgeAnswer) -> Result<Vec<TokenReward>> {
        match answer {
            JudgeAnswer::Whole(_) => Ok(vec![]),
            JudgeAnswer::Tokens(scores) => {
                Ok(scores.into_iter().enumerate().map(|(token, reward)| TokenReward { token, reward }).collect())
            }
            JudgeAnswer::Steps { scores, ends } => {
                let part = |(reward, end)| -> Result<TokenReward> {
                    Ok(TokenReward { token: self.token_at(batch, row, end)?, reward })
                };
                scores.into_iter().zip(ends).map(part).collect()
            }
        }
    }
}

impl Scorer for TextScorer {
    fn score(&self, batch: &Responses) -> Result<Vec<f64>> {
        self.judge.judge(&self.inputs(batch)?)
    }

    fn components(&self, batch: &Responses) -> Result<Vec<RewardComponent>> {
        let answers = self.judge.answers(&self.inputs(batch)?)?;
        let scores = answers.iter().map(JudgeAnswer::total).collect();
        let parts = answers.into_iter().enumerate().map(|(row, answer)| self.parts(batch, row, answer));
        Ok(vec![RewardComponent { parts: parts.collect::<Result<_>>()?, ..RewardComponent::alone(scores) }])
    }

    fn finish(&self) -> Result<()> {
        self.judge.finish()
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
    fn judge(&self, inputs: &[JudgeInput]) -> Result<Vec<f64>> {
        let one =
            |input: &JudgeInput| self.sentiment.logit(&input.response, self.judged_words).clamp(-self.clip, self.clip);
        Ok(inputs.iter().map(one).collect())
    }
}

/// Preference learned from human pairs, clipped.
#[derive(Debug)]
pub struct PreferenceJudge {
    pub preference: BagOfWordsPreference,
    /// Words that it reads at most.
    pub judged_words: usize,
    pub clip: f64,
}

impl TextJudge for PreferenceJudge {
    fn judge(&self, inputs: &[JudgeInput]) -> Result<Vec<f64>> {
        Ok(inputs
            .iter()
            .map(|input| self.preference.score(&input.response, self.judged_words).clamp(-self.clip, self.clip))
            .collect())
    }
}

/// A weighted sum of rules.
#[derive(Debug)]
pub struct RulesJudge {
    rules: Vec<(Rule, Option<Regex>)>,
}

impl RulesJudge {
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
            Rule::Length { words: target, per, weight } => -weight * (words.len() as f64 - target).abs() / per,
            Rule::Keyword { any, weight } => {
                let contains = |keyword: &String| {
                    let keyword = keyword.to_lowercase();
                    if keyword.chars().all(is_word) { words.contains(&&*keyword) } else { lower.contains(&keyword) }
                };
                weight * any.iter().filter(|keyword| contains(keyword)).count() as f64
            }
            Rule::Regex { weight, .. } => weight * f64::from(pattern.as_ref().is_some_and(|p| p.is_match(text))),
            Rule::Json { weight } => weight * f64::from(serde_json::from_str::<serde_json::Value>(text.trim()).is_ok()),
        };
        self.rules.iter().map(one).sum()
    }
}

impl TextJudge for RulesJudge {
    fn judge(&self, inputs: &[JudgeInput]) -> Result<Vec<f64>> {
        Ok(inputs.iter().map(|input| self.score(&input.response)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(response: &str) -> JudgeInput {
        JudgeInput { prompt: "p".into(), response: response.into(), ..JudgeInput::default() }
    }

    #[test]
    fn rules_by_hand() -> Result<()> {
        let rules = RulesJudge::new(&[
            Rule::Length { words: 3.0, per: 2.0, weight: 1.0 },
            Rule::Keyword { any: vec!["good".into(), "very fine".into()], weight: 2.0 },
            Rule::Regex { pattern: r"\d{4}".into(), weight: 4.0 },
            Rule::Json { weight: 8.0 },
        ])?;
        let scores = rules.judge(&["A good film", "goodness", "very fine 1999 stuff", "[1]"].map(input))?;
        assert_eq!(scores, [2.0, -1.0, -0.5 + 2.0 + 4.0, -1.0 + 8.0]);
        assert!(RulesJudge::new(&[Rule::Regex { pattern: "(".into(), weight: 1.0 }]).is_err());
        Ok(())
    }

    #[test]
    fn only_the_first_words_are_read() {
        assert_eq!(first_words("one two  three", 2), "one two ");
        assert_eq!(first_words("one", 5), "one");
    }

    #[test]
    fn weights_multiply_and_words_are_runs_of_letters_digits_and_apostrophes() -> Result<()> {
        let rules = RulesJudge::new(&[
            Rule::Length { words: 2.0, per: 4.0, weight: 3.0 },
            Rule::Keyword { any: vec!["Don't".into(), "a-b".into(), "no".into()], weight: 0.5 },
        ])?;
        // one word less and two more than two cost 3/4 and 6/4
        let scores = rules.judge(&["x", "don't", "A-B x y", "not -no- 'no'"].map(input))?;
        assert_eq!(scores, [-0.75, -0.75 + 0.5, -1.5 + 0.5, -0.75 + 0.5]);
        let none = RulesJudge::new(&[Rule::Regex { pattern: "a".into(), weight: 2.0 }, Rule::Json { weight: 3.0 }])?;
        assert_eq!(none.judge(&["b", "a", " {} "].map(input))?, [0.0, 2.0, 3.0]);
        none.finish()
    }

    /// A world whose ids are letters, and a judge that keeps what it reads.
    struct Letters;

    impl Detokenize for Letters {
        fn text(&self, ids: &[u32]) -> duel_data::Result<String> {
            Ok(ids.iter().map(|&id| if id == 0 { ' ' } else { char::from(b'a' + id as u8) }).collect())
        }
    }

    #[derive(Default)]
    struct Reads(std::sync::Mutex<Vec<JudgeInput>>);

    impl TextJudge for Reads {
        fn judge(&self, inputs: &[JudgeInput]) -> Result<Vec<f64>> {
            self.0.lock().expect("no panic").extend_from_slice(inputs);
            Ok((0..inputs.len()).map(|i| i as f64).collect())
        }

        fn finish(&self) -> Result<()> {
            Err(Error::Command { command: "judge".into(), problem: "late".into() })
        }
    }

    #[test]
    fn a_judge_reads_the_response_or_all_of_it() -> Result<()> {
        let batch = Responses {
            prompts: vec![vec![1, 0], vec![2, 0]],
            responses: vec![vec![3, 0, 4, 0, 5], vec![6]],
            logp: vec![],
            masks: vec![],
        };
        for (reads, expected) in [(JudgedText::Response, ["d e ", "g"]), (JudgedText::All, ["b d ", "c g"])] {
            let judge = Arc::new(Reads::default());
            let world = Arc::new(Letters);
            let scorer = TextScorer { judge: judge.clone(), world, reads, judged_words: 2, token_ends: false };
            assert_eq!(scorer.score(&batch)?, [0.0, 1.0]);
            let inputs = judge.0.lock().expect("no panic").clone();
            assert_eq!(inputs.iter().map(|input| input.response.as_str()).collect::<Vec<_>>(), expected);
            assert_eq!(inputs.iter().map(|input| input.prompt.as_str()).collect::<Vec<_>>(), ["b ", "c "]);
            assert!(scorer.finish().is_err(), "what the judge says at the end is passed on");
        }
        Ok(())
    }

    /// Answers as it is told to.
    struct Answers(Vec<JudgeAnswer>);

    impl TextJudge for Answers {
        fn judge(&self, inputs: &[JudgeInput]) -> Result<Vec<f64>> {
            Ok(self.answers(inputs)?.iter().map(JudgeAnswer::total).collect())
        }

        fn answers(&self, inputs: &[JudgeInput]) -> Result<Vec<JudgeAnswer>> {
            assert_eq!(inputs.iter().map(|input| input.tokens).collect::<Vec<_>>(), [4, 2]);
            Ok(self.0.clone())
        }
    }

    /// A world whose tokens are bytes of UTF-8; 0 ends a text.
    struct Bytes;

    impl Detokenize for Bytes {
        fn text(&self, ids: &[u32]) -> duel_data::Result<String> {
            let bytes: Vec<u8> = ids.iter().filter(|&&id| id > 0).map(|&id| id as u8).collect();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
    }

    /// The responses "aé" and "b", with their ends, in four tokens and in two.
    fn two_responses() -> Responses {
        let responses = vec![vec![b'a'.into(), 0xc3, 0xa9, 0], vec![b'b'.into(), 0]];
        Responses { prompts: vec![vec![b'p'.into()]; 2], responses, logp: vec![], masks: vec![] }
    }

    #[test]
    fn a_step_counts_at_the_token_that_ends_it() -> Result<()> {
        let part = |token, reward| TokenReward { token, reward };
        let components = |answers: [JudgeAnswer; 2], reads| {
            let judge = Arc::new(Answers(answers.to_vec()));
            TextScorer { judge, world: Arc::new(Bytes), reads, judged_words: 9, token_ends: false }
                .components(&two_responses())
        };
        let steps =
            |scores: &[f64], ends: &[usize]| JudgeAnswer::Steps { scores: scores.to_vec(), ends: ends.to_vec() };
        let answers = [steps(&[1.0, -2.0], &[1, 2]), JudgeAnswer::Whole(5.0)];
        let response = components(answers, JudgedText::Response)?;
        assert_eq!((response.len(), &response[0].scores), (1, &vec![-1.0, 5.0]));
        assert_eq!(response[0].parts, [vec![part(0, 1.0), part(2, -2.0)], vec![]], "é ends with its second byte");
        // of prompt and response a step in the prompt counts at the first token
        let answers = [steps(&[1.0, -2.0, 3.0], &[1, 2, 3]), JudgeAnswer::Tokens(vec![0.5, 0.25])];
        let all = components(answers, JudgedText::All)?;
        assert_eq!(all[0].scores, [2.0, 0.75]);
        assert_eq!(all[0].parts[0], [part(0, 1.0), part(0, -2.0), part(2, 3.0)]);
        assert_eq!(all[0].parts[1], [part(0, 0.5), part(1, 0.25)]);
        Ok(())
    }

    #[test]
    fn a_judge_may_be_told_where_tokens_end() -> Result<()> {
        for (reads, judged_words, expected) in [
            (JudgedText::Response, 9, [vec![1, 1, 2, 2], vec![1, 1]]),
            (JudgedText::All, 9, [vec![2, 2, 3, 3], vec![2, 2]]),
            (JudgedText::Response, 0, [vec![0; 4], vec![0; 2]]),
        ] {
            let judge = Arc::new(Reads::default());
            let world = Arc::new(Bytes);
            TextScorer { judge: judge.clone(), world, reads, judged_words, token_ends: true }.score(&two_responses())?;
            let inputs = judge.0.lock().expect("no panic").clone();
            assert_eq!([&inputs[0].token_ends, &inputs[1].token_ends], [&expected[0], &expected[1]]);
            let line = serde_json::to_string(&inputs[1]).expect("JSON");
            assert!(line.contains("\"token_ends\":[") && !line.contains("tokens\""), "{line}");
        }
        Ok(())
    }

    #[test]
    fn learned_judges_are_clipped_on_both_sides() -> Result<()> {
        let preference = BagOfWordsPreference::fit(&["fine", "dull", "fine", "dull"], &[(0, 1, 0.95), (2, 3, 0.95)]);
        let score = |text: &str| preference.score(text, 1);
        assert!(score("fine") > 0.5 && score("dull") < -0.5, "{} {}", score("fine"), score("dull"));
        let judge = |clip| PreferenceJudge { preference: preference.clone(), judged_words: 1, clip };
        let texts = ["fine", "dull", "fine dull"].map(input);
        assert_eq!(judge(0.5).judge(&texts)?, [0.5, -0.5, 0.5]);
        assert_eq!(judge(9.0).judge(&texts)?, [score("fine"), score("dull"), score("fine")]);

        let review = |text: &str, positive| duel_data::reviews::Review { text: text.into(), positive };
        let corpus: Vec<_> = (0..40).flat_map(|_| [review("fine", true), review("dull", false)]).collect();
        let sentiment = Sentiment::train(&corpus, 1);
        let logit = ["fine", "dull"].map(|text| sentiment.logit(text, 1));
        assert!(logit[0] > 0.1 && logit[1] < -0.1, "{logit:?}");
        let judge = |clip| SentimentJudge { sentiment: sentiment.clone(), judged_words: 1, clip };
        assert_eq!(judge(0.1).judge(&texts[..2])?, [0.1, -0.1]);
        assert_eq!(judge(1e3).judge(&texts[..2])?, logit);
        Ok(())
    }
}
