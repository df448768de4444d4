//! What a reward model with a tokenizer of its own reads: prompt and response as text, through its chat template.

use crate::chat::{ChatTemplate, Message};
use crate::records::Content;
use crate::{Error, Result, TextTokenizer};

/// Encodes a prompt with a response as one sequence, whose last token carries the score.
#[derive(Debug)]
pub struct ScoredText {
    tokenizer: TextTokenizer,
    template: Option<ChatTemplate>,
    eos: Option<u32>,
    /// Rows of the model's embedding.
    vocabulary: usize,
}

impl ScoredText {
    /// Of a model with `vocabulary` rows in its embedding; `eos` ends text that is no conversation.
    pub fn new(tokenizer: TextTokenizer, template: Option<ChatTemplate>, eos: Option<u32>, vocabulary: usize) -> Self {
        Self { tokenizer, template, eos, vocabulary }
    }

    /// The ids: a conversation as the template writes it, with the response as the assistant's turn; text as it stands, EOS
    /// after it.
    ///
    /// # Source
    /// `RewardTrainer` of trl 1.16.
    ///
    /// # Errors
    /// A conversation where the model has no template, or that its template rejects; ids that the model does not have.
    pub fn encode(&self, prompt: &Content, response: &str) -> Result<Vec<u32>> {
        let ids = match prompt {
            Content::Text(text) => {
                let mut ids = self.tokenizer.encode_start(&format!("{text}{response}"))?;
                ids.extend(self.eos.filter(|eos| ids.last() != Some(eos)));
                ids
            }
            Content::Conversation(conversation) => {
                let template = self.template.as_ref().ok_or_else(|| Error::Template {
                    problem: "the prompts are conversations, but the reward model has no chat template".into(),
                })?;
                let answer = Message::new("assistant", response);
                let turns = [conversation.turns.as_slice(), &[answer]].concat();
                self.tokenizer.encode_part(&template.render(&turns, conversation.tools.as_ref(), false)?)?
            }
        };
        match ids.iter().find(|id| **id as usize >= self.vocabulary) {
            Some(id) => {
                let problem = format!("its tokenizer has the id {id}, its model only ids below {}", self.vocabulary);
                Err(Error::Unfit { problem })
            }
            None if ids.is_empty() => Err(Error::Unfit { problem: "the reward model is given no tokens".into() }),
            None => Ok(ids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_go_through_the_template_and_text_as_it_is() -> Result<()> {
        let tokenizer = TextTokenizer::train(["is it good user assistant very good"].into_iter(), 300)?;
        let ids = |text: &str| tokenizer.encode_part(text);
        let template = "{% for m in messages %}{{ m.role + ': ' + m.content + '<eos>' }}{% endfor %}{% if add_generation_prompt %}!{% endif %}";
        let scored = |template| ScoredText::new(tokenizer.clone(), template, Some(2), tokenizer.vocabulary());
        let with = scored(Some(ChatTemplate::new(template)?));
        let turns = Content::from(vec![Message::new("user", "is it")]);
        assert_eq!(with.encode(&turns, "good")?, ids("user: is it<eos>assistant: good<eos>")?);
        let text = Content::Text("is it".into());
        assert_eq!(with.encode(&text, " good")?, [ids("is it good")?, vec![2]].concat());
        assert_eq!(with.encode(&text, " good<eos>")?, [ids("is it good")?, vec![2]].concat(), "EOS once");
        let refused = scored(None).encode(&turns, "good").expect_err("no template").to_string();
        assert!(refused.contains("the reward model has no chat template"), "{refused}");
        let small = ScoredText::new(tokenizer.clone(), None, None, 5).encode(&text, "").expect_err("a small embedding");
        assert!(small.to_string().contains("only ids below 5"), "{small}");
        Ok(())
    }
}
