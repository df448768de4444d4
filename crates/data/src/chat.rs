//! Conversations as the text that a model was taught to read: its chat template, in Jinja.

use crate::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// A chat template with the special tokens that it may write.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

const NAME: &str = "chat template";

impl ChatTemplate {
    /// Reads a template as transformers does: blocks trimmed, with Python's methods, `raise_exception`, `strftime_now`,
    /// `tojson`, `break` and `continue`.
    ///
    /// # Errors
    /// A template that is no Jinja.
    pub fn new(source: &str, bos: Option<String>, eos: Option<String>) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(refused)?;
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| chrono_now(&format));
        // marks of what the assistant says, which change no text
        let marks = regex::Regex::new(r"\{%-?\s*(end)?generation\s*-?%\}").expect("a fixed pattern");
        let source = marks.replace_all(source, "").into_owned();
        environment.add_template_owned(NAME, source).map_err(refused)?;
        Ok(Self { environment, bos: bos.unwrap_or_default(), eos: eos.unwrap_or_default() })
    }

    /// The conversation as text; `answer`: with what comes before the assistant's next turn.
    ///
    /// # Errors
    /// What the template itself refuses, such as roles out of order.
    pub fn render(&self, messages: &[Message], answer: bool) -> Result<String> {
        let template = self.environment.get_template(NAME).map_err(refused)?;
        let values = context! {
            messages => Serde(messages),
            add_generation_prompt => answer,
            bos_token => self.bos.clone(),
            eos_token => self.eos.clone(),
        };
        template.render(values).map_err(refused)
    }

    /// A prompt as text, and what an answer to it adds: the whole conversation less the prompt.
    ///
    /// # Errors
    /// As [`Self::render`]; a template under which an answer changes what stands before it.
    pub fn split(&self, prompt: &[Message], answer: &[Message]) -> Result<(String, String)> {
        let before = self.render(prompt, true)?;
        let whole = self.render(&[prompt, answer].concat(), false)?;
        match whole.strip_prefix(&before) {
            Some(rest) => Ok((before, rest.to_owned())),
            None => Err(Error::Template { problem: "an answer changes the text of the prompt before it".into() }),
        }
    }
}

fn refused(e: minijinja::Error) -> Error {
    let mut problem = e.detail().map_or_else(|| e.to_string(), str::to_owned);
    if let Some(line) = e.line() {
        problem = format!("{problem} (line {line})");
    }
    Error::Template { problem }
}

fn chrono_now(format: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let now = chrono::DateTime::from_timestamp(now.as_secs() as i64, 0).unwrap_or_default();
    let mut text = String::new();
    // a format that chrono does not know is written as it is
    match std::fmt::Write::write_fmt(&mut text, format_args!("{}", now.format(format))) {
        Ok(()) => text,
        Err(_) => format.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn message(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    #[test]
    fn a_conversation_is_cut_where_the_answer_begins() -> Result<()> {
        let template = ChatTemplate::new(CHATML, None, None)?;
        let (prompt, answer) = template.split(&[message("user", "Hi")], &[message("assistant", "Hello")])?;
        let expected =
            "<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!((prompt.as_str(), answer.as_str()), (expected, "Hello<|im_end|>\n"));
        Ok(())
    }

    #[test]
    fn what_templates_use_is_there() -> Result<()> {
        let cases = [
            ("{{ messages[0].content.strip().upper() }}", "HI"),
            ("{{ messages | tojson }}", r#"[{"role": "user", "content": "hi"}]"#),
            ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}{{ bos_token }}", "<s>"),
            ("{%- generation %}a{% endgeneration -%}", "a"),
            ("  {% if true %}\nb\n  {% endif %}\n", "b\n"),
            ("{{ messages[0]['content'].startswith('h') and 'tools' not in messages[0] }}", "True"),
            (
                "{%- set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "1",
            ),
        ];
        for (source, expected) in cases {
            let found = ChatTemplate::new(source, Some("<s>".into()), None)?.render(&[message("user", "hi")], false)?;
            assert_eq!(found, expected, "{source}");
        }
        let year = ChatTemplate::new("{{ strftime_now('%Y') }}", None, None)?.render(&[], false)?;
        assert!(year.len() == 4 && year.starts_with("20"), "{year}");
        Ok(())
    }

    #[test]
    fn a_template_may_refuse() -> Result<()> {
        let template = ChatTemplate::new("{{ raise_exception('roles must alternate') }}", None, None)?;
        let error = template.render(&[], false).expect_err("it refuses").to_string();
        assert!(error.contains("roles must alternate"), "{error}");
        assert!(ChatTemplate::new("{% if %}", None, None).is_err());
        Ok(())
    }
}
