//! What a language model is asked as a judge of pairs: which of two responses to a prompt is better.

use crate::chat::{ChatTemplate, Message};
use crate::{Error, Result, TextTokenizer};

/// The answers: that `a` is better, and that `b` is.
const ANSWERS: [&str; 2] = ["A", "B"];
/// What stands for the responses where a question is tried: text that case and trimming leave as it is.
const TRIED: [&str; 2] = ["10203", "40506"];

/// A question as ids, up to the token that answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedQuestion {
    pub ids: Vec<u32>,
    /// The first tokens of the two answers: that `a` is better, and that `b` is.
    pub answers: [u32; 2],
    /// Whether texts were cut.
    pub is_cut: bool,
}

/// Asks a language model about pairs of responses.
#[derive(Debug)]
pub struct PairQuestion {
    question: ChatTemplate,
    tokenizer: TextTokenizer,
    template: Option<ChatTemplate>,
    /// Rows of the model's embedding.
    vocabulary: usize,
    /// The most tokens that it reads.
    context: usize,
}

impl PairQuestion {
    /// `question`: a Jinja template with `prompt`, `a` and `b`; `template`: the model's chat template, in which the question is a user's
    /// turn; without one the question is followed by a line break.
    ///
    /// # Errors
    /// [`Error::Question`]: a template that is not valid Jinja or does not write both responses; a question that is longer than the
    /// context without any text in it; a tokenizer by which both answers begin with the same token. What the chat template rejects.
    pub fn new(
        question: &str,
        tokenizer: TextTokenizer,
        template: Option<ChatTemplate>,
        [vocabulary, context]: [usize; 2],
    ) -> Result<Self> {
        let question = Self { question: read(question)?, tokenizer, template, vocabulary, context };
        let empty = question.ids("", ["", ""])?;
        if empty.ids.len() > context { Err(question.too_long(&empty)) } else { Ok(question) }
    }

    /// The most tokens that are read.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The question about two responses. Where it has more tokens than are read, the beginning of the prompt and the ends of the
    /// responses are cut, so that no text has more than the same number of characters: the largest with which it fits.
    ///
    /// # Errors
    /// What either template rejects; ids that the model does not have.
    pub fn encode(&self, prompt: &str, [a, b]: [&str; 2]) -> Result<EncodedQuestion> {
        let whole = self.ids(prompt, [a, b])?;
        if whole.ids.len() <= self.context {
            return Ok(whole);
        }
        let longest = [prompt, a, b].map(|text| text.chars().count()).into_iter().max().unwrap_or(0);
        // of so many characters it fits, of so many it does not
        let (mut fitting, mut low, mut high) = (None, 0, longest);
        while low < high {
            let middle = usize::midpoint(low, high);
            let question = self.ids(ending(prompt, middle), [a, b].map(|text| beginning(text, middle)))?;
            if question.ids.len() <= self.context {
                (fitting, low) = (Some(question), middle + 1);
            } else {
                high = middle;
            }
        }
        let cut = fitting.ok_or_else(|| self.too_long(&whole))?;
        Ok(EncodedQuestion { is_cut: true, ..cut })
    }

    /// The question about these texts, however long.
    fn ids(&self, prompt: &str, responses: [&str; 2]) -> Result<EncodedQuestion> {
        let question = fill(&self.question, prompt, responses)?;
        let text = match &self.template {
            Some(template) => template.render(&[Message::new("user", &question)], None, true)?,
            None => format!("{question}\n"),
        };
        let own = self.tokenizer.encode_start(&text)?.len();
        let [first, second] = ANSWERS.map(|answer| self.tokenizer.encode_start(&format!("{text}{answer}")));
        let (mut ids, second) = (first?, second?);
        // a token may hold the seam of the question and its answer: the question then ends before it
        let shared = ids.iter().zip(&second).take_while(|(a, b)| a == b).count();
        let answers = match (ids.get(shared), second.get(shared)) {
            (Some(&a), Some(&b)) if (1..=own).contains(&shared) => [a, b],
            _ => {
                let problem = "its answers, A and B, begin with the same token of the model's tokenizer, so that no token says which";
                return Err(Error::Question { problem: problem.into() });
            }
        };
        ids.truncate(shared);
        match ids.iter().chain(&answers).find(|id| **id as usize >= self.vocabulary) {
            Some(id) => {
                let problem = format!(
                    "the tokenizer of the judge of pairs has the id {id}, its model only ids below {}",
                    self.vocabulary
                );
                Err(Error::Unfit { problem })
            }
            None => Ok(EncodedQuestion { ids, answers, is_cut: false }),
        }
    }

    fn too_long(&self, question: &EncodedQuestion) -> Error {
        let (tokens, context) = (question.ids.len(), self.context);
        Error::Question { problem: format!("it has {tokens} tokens, and the model reads at most {context}") }
    }
}

/// Reads the template of a question.
fn read(question: &str) -> Result<ChatTemplate> {
    let template = ChatTemplate::new(question).map_err(of_question)?;
    let text = fill(&template, "", TRIED)?;
    match TRIED.iter().zip(["a", "b"]).find(|(response, _)| !text.contains(**response)) {
        Some((_, name)) => Err(Error::Question { problem: format!("it does not write `{{{{ {name} }}}}`") }),
        None => Ok(template),
    }
}

fn fill(question: &ChatTemplate, prompt: &str, [a, b]: [&str; 2]) -> Result<String> {
    question.fill(&[("prompt", prompt), ("a", a), ("b", b)]).map_err(of_question)
}

/// An error of a template as one of the question.
fn of_question(error: Error) -> Error {
    match error {
        Error::Template { problem } => Error::Question { problem },
        other => other,
    }
}

/// The first characters of a text.
fn beginning(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

/// The last characters of a text.
fn ending(text: &str, characters: usize) -> &str {
    let skipped = text.chars().count().saturating_sub(characters);
    text.char_indices().nth(skipped).map_or("", |(start, _)| &text[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &str = "{{ prompt }}: {{ a }} or {{ b }}?";
    const CHAT: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}";

    fn tokenizer() -> TextTokenizer {
        TextTokenizer::train(["is it good or bad"].into_iter(), 300).expect("trains")
    }

    fn question(text: &str, template: Option<&str>, context: usize) -> Result<PairQuestion> {
        let (tokenizer, template) = (tokenizer(), template.map(ChatTemplate::new).transpose()?);
        let vocabulary = tokenizer.vocabulary();
        PairQuestion::new(text, tokenizer, template, [vocabulary, context])
    }

    #[test]
    fn a_question_is_a_users_turn_or_a_line_of_text() -> Result<()> {
        let ids = |text: &str| tokenizer().encode_part(text);
        let answers = [ids("A")?[0], ids("B")?[0]];
        for (template, text) in [(Some(CHAT), "[user]is it: good or bad?[assistant]"), (None, "is it: good or bad?\n")]
        {
            let encoded = question(QUESTION, template, 99)?.encode("is it", ["good", "bad"])?;
            assert_eq!(encoded, EncodedQuestion { ids: ids(text)?, answers, is_cut: false });
        }
        Ok(())
    }

    /// Texts are cut to the same number of characters, the prompt at its beginning; shorter ones are left as they are.
    #[test]
    fn what_is_too_long_is_cut_to_the_most_that_fits() -> Result<()> {
        // digits, of which each is a token
        let (prompt, a, b) = ("9876543210", "012345", "01");
        let whole = question(QUESTION, None, 99)?.encode(prompt, [a, b])?;
        let text = |encoded: &EncodedQuestion| tokenizer().decode(&encoded.ids);
        assert_eq!((text(&whole)?.as_str(), whole.is_cut), ("9876543210: 012345 or 01?\n", false));
        let tokens = whole.ids.len();
        for (less, expected) in [
            (0, "9876543210: 012345 or 01?\n"),
            (1, "876543210: 012345 or 01?\n"),
            (4, "543210: 012345 or 01?\n"),
            (5, "43210: 01234 or 01?\n"), // six characters are one too many, and five one less than they may be
            (6, "43210: 01234 or 01?\n"),
            (18, ":  or ?\n"),
        ] {
            let encoded = question(QUESTION, None, tokens - less)?.encode(prompt, [a, b])?;
            assert_eq!((text(&encoded)?.as_str(), encoded.is_cut), (expected, less > 0), "{less} tokens less");
        }
        let refused = question(QUESTION, None, tokens - 19).expect_err("too long without any text").to_string();
        assert!(refused.contains("the model reads at most"), "{refused}");
        assert_eq!(["aé", "é"].map(|text| ending(text, 1)), ["é"; 2]);
        assert_eq!([beginning("éa", 1), beginning("éa", 9), ending("éa", 9), ending("a", 0)], ["é", "éa", "éa", ""]);
        Ok(())
    }

    #[test]
    fn a_question_that_asks_nothing_is_refused() {
        for (text, says) in [
            ("{{ prompt }} {{ a }}", "it does not write `{{ b }}`"),
            ("{{ prompt }} {{ response }} {{ b }}", "it does not write `{{ a }}`"),
            ("{{ a }} {{ b }", "the question to the judge of pairs cannot be used"),
            ("{{ a }} {{ b }} {{ raise_exception('no') }}", "cannot be used: no"),
        ] {
            let refused = question(text, None, 99).expect_err(text);
            assert!(matches!(refused, Error::Question { .. }) && refused.to_string().contains(says), "{refused}");
            assert!(refused.hint().is_some_and(|hint| hint.contains("evaluation.pairwise.question")));
        }
        assert!(question("{{ a | upper }} {{ b | trim }}", None, 99).is_ok());
    }

    /// A tokenizer without the letters A and B, with or without a token for what it does not know.
    #[test]
    fn answers_that_begin_with_the_same_token_are_refused() {
        for unknown in [serde_json::json!("a"), serde_json::Value::Null] {
            let json = serde_json::json!({
                "version": "1.0", "added_tokens": [],
                "model": {"type": "BPE", "unk_token": unknown, "vocab": {"a": 0, "b": 1}, "merges": []}
            });
            let tokenizer = TextTokenizer::from_bytes(json.to_string().as_bytes()).expect("opens");
            let refused = PairQuestion::new("a{{ a }}{{ b }}", tokenizer, None, [2, 99]).expect_err("no answers");
            assert!(refused.to_string().contains("begin with the same token"), "{refused}");
        }
        // or with the letters as two tokens each, of which the first is the same
        let replace =
            |from: &str, to: &str| serde_json::json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let json = serde_json::json!({
            "version": "1.0", "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": [replace("A", "ba"), replace("B", "bb")]},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
        });
        let spelled = TextTokenizer::from_bytes(json.to_string().as_bytes()).expect("opens");
        assert_eq!(["A", "B"].map(|text| spelled.encode_part(text).expect("encodes")), [[1, 0], [1, 1]]);
        let refused = PairQuestion::new("a{{ a }}{{ b }}", spelled, None, [2, 99]).expect_err("no answers");
        assert!(refused.to_string().contains("begin with the same token"), "{refused}");
        let few = PairQuestion::new(QUESTION, tokenizer(), None, [20, 99]).expect_err("a small embedding");
        assert!(few.to_string().contains("only ids below 20"), "{few}");
    }
}
