//! Conversations as the text that a model was trained on: its chat template, in Jinja.

use crate::bounded::{BLOCK_MARKS, MeteredTemplate};
use crate::json::Json;
use crate::{Error, Result};
use indexmap::IndexMap;
use minijinja::{Environment, ErrorKind, Value};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ops::Range;

/// Bytes of a date format; the longest in use have about twenty.
const MAX_DATE_FORMAT: usize = 256;

/// One turn of a conversation: role, content, and whatever else its row says, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message(IndexMap<String, Json>);

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(&self.0)
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Json::deserialize(deserializer)? {
            Json::Object(fields) => Ok(Self(fields)),
            other => Err(serde::de::Error::custom(format!("a turn is an object, not {}", other.type_name()))),
        }
    }
}

impl Message {
    /// A turn of text.
    pub fn new(role: &str, content: &str) -> Self {
        let field = |name: &str, text: &str| (name.to_owned(), Json::Text(text.to_owned()));
        Self(IndexMap::from([field("role", role), field("content", content)]))
    }

    /// A turn with all its fields, of which `role` is text.
    pub fn from_fields(fields: IndexMap<String, Json>) -> Self {
        Self(fields)
    }

    /// A turn that the template may read under every name that reasoning goes by: `reasoning_content`, and `thinking` and
    /// `reasoning` before it. As transformers does.
    fn with_reasoning(&self) -> IndexMap<String, Json> {
        const NAMES: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
        let mut fields = self.0.clone();
        let reasoning = NAMES.iter().find_map(|name| fields.get(*name).filter(|value| **value != Json::Null).cloned());
        if let Some(reasoning) = reasoning {
            let thinking = fields.shift_remove("thinking").unwrap_or_else(|| reasoning.clone());
            fields.shift_insert(0, "thinking".into(), thinking);
            fields.insert("reasoning_content".into(), reasoning);
        }
        fields
    }

    /// The turn with a tag after its text, and that text without it.
    fn with_tag(&self, tag: &str) -> Option<(Self, String)> {
        let mut fields = self.0.clone();
        let text = match fields.get_mut("content")? {
            Json::Text(text) => text,
            Json::List(parts) => parts.iter_mut().rev().find_map(|part| match part {
                Json::Object(part) => match part.get_mut("text") {
                    Some(Json::Text(text)) => Some(text),
                    _ => None,
                },
                _ => None,
            })?,
            _ => return None,
        };
        let before = text.clone();
        text.push_str(tag);
        Some((Self(fields), before))
    }

    /// The turn with another's text behind its own, and the other's fields that it lacks. `None` where its content has no text.
    fn continued_by(&self, other: &Self) -> Option<Self> {
        let (mut turn, _) = self.with_tag(&other.text())?;
        for (name, value) in &other.0 {
            turn.0.entry(name.clone()).or_insert_with(|| value.clone());
        }
        Some(turn)
    }

    /// Who speaks.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Json::as_str).unwrap_or_default()
    }

    /// The text of its content: of a list of parts, those that are text.
    pub fn text(&self) -> String {
        let part = |part: &Json| part.get("text").and_then(Json::as_str).map(str::to_owned);
        match self.0.get("content") {
            Some(Json::Text(text)) => text.clone(),
            Some(Json::List(parts)) => parts.iter().filter_map(part).collect(),
            _ => String::new(),
        }
    }

    /// Every field, in order.
    pub fn fields(&self) -> &IndexMap<String, Json> {
        &self.0
    }
}

/// The turns of a conversation, and the tools that it may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    pub turns: Vec<Message>,
    /// Descriptions of functions, as the template reads them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Json>,
}

impl From<Vec<Message>> for Conversation {
    fn from(turns: Vec<Message>) -> Self {
        Self { turns, tools: None }
    }
}

impl TryFrom<Json> for Message {
    type Error = Error;

    fn try_from(value: Json) -> Result<Self> {
        match value {
            Json::Object(fields) => Ok(Self(fields)),
            other => Err(Error::Template { problem: format!("a turn is an object, not {}", other.type_name()) }),
        }
    }
}

/// The text of a prompt, and of each answer after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitConversation {
    pub prompt: String,
    pub answers: Vec<String>,
    /// Whether an answer changes the prompt's text, which then ends earlier.
    pub is_shortened: bool,
}

/// A chat template with the variables that it may read.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    program: MeteredTemplate,
    variables: IndexMap<String, Json>,
    /// Whether it mentions `tools`.
    pub(crate) reads_tools: bool,
}

const NAME: &str = "chat template";

impl ChatTemplate {
    /// Reads a template as transformers does: blocks trimmed, with Python's methods, `raise_exception`, `strftime_now`,
    /// `tojson`, `generation`, `break` and `continue`. The time and memory of rendering are bounded.
    ///
    /// # Errors
    /// A template that is not valid Jinja, or that is too large.
    pub fn new(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        environment.add_function("raise_exception", |message: String| -> std::result::Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |_: String| -> std::result::Result<Value, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, "it asks for the date, but none is set"))
        });
        let program = MeteredTemplate::new(&mut environment, NAME, source).map_err(template_error)?;
        Ok(Self { environment, program, variables: IndexMap::new(), reads_tools: source.contains("tools") })
    }

    /// Adds variables over those that are there: special tokens (`bos_token`), then `template_kwargs`. `documents` is none unless
    /// given; `tools` are those of the conversation, else those given.
    #[must_use]
    pub fn with_variables(mut self, variables: impl IntoIterator<Item = (String, Json)>) -> Self {
        self.variables.extend(variables);
        self
    }

    /// Sets the date that `strftime_now` formats (`2024-07-26`, at midnight). The clock is never read, so that the same rows
    /// always give the same text.
    ///
    /// # Errors
    /// A date that does not exist.
    pub fn dated(mut self, date: &str) -> Result<Self> {
        let problem = || Error::Template { problem: format!("`{date}` is not a date") };
        let day: chrono::NaiveDate = date.parse().map_err(|_| problem())?;
        let midnight = day.and_time(chrono::NaiveTime::MIN).and_utc();
        self.environment.add_function("strftime_now", move |format: String| format_date(midnight, &format));
        Ok(self)
    }

    /// The turns as text; `answer`: with the start of the assistant's next turn.
    ///
    /// # Errors
    /// What the template itself rejects, such as roles out of order.
    pub fn render(&self, messages: &[Message], tools: Option<&Json>, answer: bool) -> Result<String> {
        let (values, bytes) = self.values(messages, tools, answer);
        self.program.render(&self.environment, values, bytes).map_err(template_error)
    }

    /// The text of a template that reads these variables and no conversation.
    ///
    /// # Errors
    /// What the template itself rejects.
    pub fn fill(&self, variables: &[(&str, &str)]) -> Result<String> {
        let bytes = variables.iter().map(|(_, text)| text.len()).sum();
        let values: IndexMap<Value, Value> =
            variables.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
        self.program.render(&self.environment, Value::from_object(values), bytes).map_err(template_error)
    }

    /// The ranges of bytes in the rendered turns that `{% generation %}` blocks wrote, in order; `None` where the template has no
    /// such blocks, or where they cannot be told (text with the marks in it, blocks left by `break`).
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn generated(&self, messages: &[Message], tools: Option<&Json>) -> Result<Option<Vec<Range<usize>>>> {
        let (values, bytes) = self.values(messages, tools, false);
        let marked = self.program.render_marked(&self.environment, values, bytes).map_err(template_error)?;
        let Some((text, blocks)) = marked.as_deref().and_then(without_marks) else { return Ok(None) };
        Ok((text == self.render(messages, tools, false)?).then_some(blocks))
    }

    /// What the template may read, and the bytes of its text.
    fn values(&self, messages: &[Message], tools: Option<&Json>, answer: bool) -> (Value, usize) {
        let messages: Vec<Json> = messages.iter().map(|message| Json::Object(message.with_reasoning())).collect();
        let messages = Json::List(messages);
        let bytes = messages.size() + self.variables.values().chain(tools).map(Json::size).sum::<usize>();
        let none = Value::from(());
        let mut values = IndexMap::from([("tools", none.clone()), ("documents", none)]);
        values.extend(self.variables.iter().map(|(name, value)| (name.as_str(), Value::from(value))));
        values.extend(tools.map(|tools| ("tools", Value::from(tools))));
        values.extend([("messages", Value::from(&messages)), ("add_generation_prompt", Value::from(answer))]);
        let values: IndexMap<Value, Value> = values.into_iter().map(|(name, value)| (name.into(), value)).collect();
        (Value::from_object(values), bytes)
    }

    /// A prompt as text, up to where its answer begins. Where the assistant speaks last, the answer continues its turn.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn prompt(&self, prompt: &Conversation) -> Result<String> {
        let tools = prompt.tools.as_ref();
        match prompt.turns.split_last() {
            Some((last, before)) if last.role() == "assistant" => self.continued(before, last, tools),
            _ => self.render(&prompt.turns, tools, true),
        }
    }

    /// The conversation up to the end of its last turn's text: `continue_final_message` of transformers.
    fn continued(&self, before: &[Message], last: &Message, tools: Option<&Json>) -> Result<String> {
        const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
        let lost =
            || Error::Template { problem: "the text of the prompt's last turn, which is continued, is lost".into() };
        let (tagged, text) = last.with_tag(TAG).ok_or_else(lost)?;
        let text_with_tag = self.render(&[before, &[tagged]].concat(), tools, false)?;
        if !text_with_tag.contains(text.trim()) {
            return Err(lost());
        }
        let (start, rest) = text_with_tag.rsplit_once(TAG.trim_end()).ok_or_else(lost)?;
        // a template that trims the turn has trimmed the tag
        Ok(if rest.starts_with(' ') { start } else { start.trim_end() }.to_owned())
    }

    /// A prompt as text, and what each answer adds to it. Where an answer changes the text before it, as templates of reasoning
    /// models do, the prompt ends where all of them still agree (TRL, `apply_chat_template`).
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn split(&self, prompt: &Conversation, answers: &[&[Message]]) -> Result<SplitConversation> {
        let mut before = self.prompt(prompt)?;
        let length = before.len();
        let mut rendered_texts = vec![];
        for answer in answers {
            let rendered_text = self.render(&joined(prompt, answer), prompt.tools.as_ref(), false)?;
            let same =
                before.chars().zip(rendered_text.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
            before.truncate(same);
            rendered_texts.push(rendered_text);
        }
        let answers = rendered_texts.iter().map(|text| text[before.len()..].to_owned()).collect();
        Ok(SplitConversation { is_shortened: before.len() < length, prompt: before, answers })
    }
}

/// The turns of a prompt and of an answer to it, as they are rendered; the answer's are the last. Where the assistant speaks last in
/// the prompt and first in the answer, that is one turn.
pub(crate) fn joined(prompt: &Conversation, answer: &[Message]) -> Vec<Message> {
    let is_assistant = |turn: &&Message| turn.role() == "assistant";
    let (last, first) = (prompt.turns.last().filter(is_assistant), answer.first().filter(is_assistant));
    match last.zip(first).and_then(|(last, first)| last.continued_by(first)) {
        Some(turn) => [&prompt.turns[..prompt.turns.len() - 1], &[turn], &answer[1..]].concat(),
        None => [&prompt.turns, answer].concat(),
    }
}

/// A marked rendering without its marks, and the ranges between them; `None` where they do not alternate.
fn without_marks(marked: &str) -> Option<(String, Vec<Range<usize>>)> {
    let [start_mark, end_mark] = BLOCK_MARKS;
    let (mut text, mut blocks) = (String::with_capacity(marked.len()), vec![]);
    let mut pieces = marked.split(start_mark);
    text.push_str(pieces.next()?);
    for piece in pieces {
        let (block, rest) = piece.split_once(end_mark)?;
        blocks.push(text.len()..text.len() + block.len());
        text.push_str(block);
        text.push_str(rest);
    }
    (!text.contains(end_mark)).then_some((text, blocks))
}

fn template_error(e: minijinja::Error) -> Error {
    if e.kind() == ErrorKind::OutOfFuel {
        let problem = "it exceeds the limit on work and output".into();
        return Error::Template { problem };
    }
    let mut problem = e.detail().map_or_else(|| e.to_string(), str::to_owned);
    if let Some(line) = e.line() {
        problem = format!("{problem} (line {line} of the template)");
    }
    Error::Template { problem }
}

fn format_date(day: chrono::DateTime<chrono::Utc>, format: &str) -> std::result::Result<String, minijinja::Error> {
    // a formatted date may be many times longer than its format
    if format.len() > MAX_DATE_FORMAT {
        let problem = format!("strftime_now: a format of {} bytes; the limit is {MAX_DATE_FORMAT}", format.len());
        return Err(minijinja::Error::new(ErrorKind::InvalidOperation, problem));
    }
    let mut text = String::new();
    // a format that chrono does not know is returned as it is
    match std::fmt::Write::write_fmt(&mut text, format_args!("{}", day.format(format))) {
        Ok(()) => Ok(text),
        Err(_) => Ok(format.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn message(role: &str, content: &str) -> Message {
        Message::new(role, content)
    }

    #[test]
    fn a_conversation_is_cut_where_the_answer_begins() -> Result<()> {
        let template = ChatTemplate::new(CHATML)?;
        let split = template.split(&vec![message("user", "Hi")].into(), &[&[message("assistant", "Hello")]])?;
        let expected =
            "<|im_start|>system\nYou are kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        let expected = SplitConversation {
            prompt: expected.into(),
            answers: vec!["Hello<|im_end|>\n".into()],
            is_shortened: false,
        };
        assert_eq!(split, expected);
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
            let actual = ChatTemplate::new(source)?
                .with_variables([("bos_token".to_owned(), Json::Text("<s>".into()))])
                .render(&[message("user", "hi")], None, false)?;
            assert_eq!(actual, expected, "{source}");
        }
        Ok(())
    }

    #[test]
    fn the_date_is_given_and_never_the_clocks() -> Result<()> {
        let dated = || ChatTemplate::new("{{ strftime_now('%d %b %Y, %H:%M:%S') }}");
        assert_eq!(dated()?.dated("2024-02-29")?.render(&[], None, false)?, "29 Feb 2024, 00:00:00");
        assert!(dated()?.render(&[], None, false).is_err(), "no date was given");
        assert!(dated()?.dated("2023-02-29").is_err());
        let long = ChatTemplate::new("{{ strftime_now('%c' * 200) }}")?.dated("2024-02-29")?;
        let error = long.render(&[], None, false).expect_err("a long format").to_string();
        assert!(error.contains("a format of 400 bytes; the limit is 256"), "{error}");
        Ok(())
    }

    /// Each of these would take all time, all memory or all of the stack.
    #[test]
    fn what_a_template_may_take_is_bounded() {
        let doubled = |what: &str, then: &str| {
            format!(
                "{{% set ns = namespace(s={what}) %}}{{% for i in range(90000) %}}{{% set ns.s = {then} %}}{{% endfor %}}{{{{ ns.s|string|length }}}}"
            )
        };
        let mut sources: Vec<String> = [
            "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "{{ range(99999999999)|list|length }}",
            "{{ 'x\ny'|indent(100000000000) }}",
            "{{ '%99999999999d'|format(1) }}",
            "{{ '%.99999999f'|format(1.5) }}",
            "{{ '{:99999999999}'.format(1) }}",
            "{{ '{:{}}'.format(1, 999999999) }}",
            "{% set x = 'ab' * 9999 %}{% set y = x.replace('', x) %}{{ y.replace('', y)|length }}",
            "{% set x = 'ab' * 9999 %}{% set y = x|replace('', x) %}{{ y|replace('', y)|length }}",
            "{% set x = range(9999)|join('ab' * 999) %}{{ range(9999)|join(x) }}",
            "{% set x = ('ab' * 999).join(range(9999)) %}{{ x.join(range(9999)) }}",
            "{{ 'a' * 9999999999 }}",
            "{{ ([1] * 99999999) ~ 1 }}",
            "{{ 9999 * (1, 2) }}",
            "{{ [1]|batch(9999999999, 0)|list }}",
            "{{ 'a'.center(999999999) }}",
            "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
            "{% macro m(x, n) %}{% if n %}{{ m([x, x], n - 1) }}{% else %}{{ x }}{% endif %}{% endmacro %}{{ m(1, 60) }}",
            "{% include 'chat template' %}",
            "{% block a %}{{ self.a() }}{% endblock %}",
            "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
            "{% set a = namespace() %}{% set a.s = a %}{{ a }}",
            "{% set a = namespace() %}{% set b = namespace(x=a) %}{% set a.y = [b] %}{{ a == b }}",
        ]
        .map(str::to_owned)
        .into();
        for then in ["ns.s ~ ns.s", "ns.s + ns.s", "ns.s * 2", "ns.s.replace('a', 'aa')"] {
            sources.push(doubled("'aaaa'", then));
        }
        for then in [
            "ns.s + ns.s",
            "[ns.s, ns.s]",
            "(ns.s, ns.s)",
            "{1: ns.s, 2: ns.s}",
            "[ns.s]",
            "namespace(s=ns.s)",
            "ns.s * 2",
        ] {
            sources.push(doubled("[1]", then));
        }
        sources.extend([
            doubled("[1]", "ns.s|map('list')|list"),
            doubled("[1]", "ns.s[:]"),
            doubled("[1]", "ns.s|reverse"),
        ]);
        sources.extend(
            ["(", "-", "not ", "[", "{% if 1 %}"]
                .map(|deep| format!("{{{{ {}1 }}}}", deep.repeat(60_000 / deep.len()))),
        );
        for source in sources {
            let result = ChatTemplate::new(&source).and_then(|template| template.render(&[], None, false));
            let is_small = result.as_ref().is_ok_and(|text| text.len() < 100); // what is deep, but no work
            assert!(result.is_err() || (is_small && source.len() > 10_000), "{:.100}: {result:?}", source);
        }
        assert!(ChatTemplate::new(&" ".repeat(70_000)).is_err());
    }

    /// What pays for its work is what it was: Python's methods, macros, loops that are left, maps, namespaces.
    #[test]
    fn what_templates_do_is_not_changed_by_its_price() -> Result<()> {
        let messages = [
            message("system", "Be kind."),
            message("user", "Hi"),
            message("assistant", "Hello"),
            message("user", "Bye"),
        ];
        let cases = [
            ("{% set rest = messages[1:] %}{{ rest[0].content }}{{ rest|length }}{{ rest[-1]['content'] }}", "Hi3Bye"),
            ("{{ (messages|selectattr('role', 'equalto', 'user')|list)[1].content }}", "Bye"),
            ("{{ messages[1:2]|tojson }}", r#"[{"role": "user", "content": "Hi"}]"#),
            ("{{ messages|map(attribute='role')|join(',') }}", "system,user,assistant,user"),
            (
                "{% macro say(m, mark='#') %}{{ mark ~ m.content }}{% endmacro %}{{ say(messages[1]) }}{{ say(messages[2], mark='$') }}",
                "#Hi$Hello",
            ),
            (
                "{% set ns = namespace(all=[], n=0) %}{% for m in messages if m.role == 'user' %}{% set ns.all = ns.all + [m] %}{% set ns.n = ns.n + loop.index %}{% endfor %}{{ ns.n }}{{ ns.all[1].content }}",
                "3Bye",
            ),
            (
                "{% for m in [{'content': 'a'}] + messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}{{ m['content'] }}{% else %}none{% endfor %}",
                "aBe kind.",
            ),
            (
                "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 1) %}{{ raise_exception('order') }}{% endif %}{{ loop.last }}{% endfor %}",
                "FalseFalseFalseTrue",
            ),
            (
                "{% set d = {'b': 1, 'a': [1, 2]} %}{{ d.a[1] }}{{ d.get('c', 'no') }}{% for k, v in d.items() %}{{ k }}{% endfor %}{{ 'a' in d }}{{ d|tojson }}",
                r#"2nobaTrue{"b": 1, "a": [1, 2]}"#,
            ),
            (
                "{{ (1, 'a') }}{{ [1, (2,)] == [1, (2,)] }}{{ 1 < 2 < 3 }}{{ 'x' if messages is defined and 3 not in [1, 2] else 'y' }}",
                "(1, 'a')TrueTruex",
            ),
            (
                "{{ '{} {:>3}|%s'.format('a', 2) }}{{ '%5.1f'|format(2.25) }}{{ 'a,b'.split(',')[1] }}{{ 2 * 3 }}{{ 'ab' * 2 }}",
                "a   2|%s  2.2b6abab",
            ),
            (
                "{% set text %}{% for m in messages %}{{ m.role[0] }}{% endfor %}{% endset %}{{ text|upper }}{% filter lower %}{{ text }}X{% endfilter %}",
                "SUAUsuaux",
            ),
            (
                "{% macro each() %}{{ caller(1) }}{{ caller(2) }}{% endmacro %}{% call(x) each() %}{{ x }}!{% endcall %}",
                "1!2!",
            ),
        ];
        for (source, expected) in cases {
            let actual = ChatTemplate::new(source)?.render(&messages, None, false);
            assert_eq!(actual.map_err(|e| e.to_string()), Ok(expected.into()), "{source}");
        }
        Ok(())
    }

    #[test]
    fn a_template_may_refuse() -> Result<()> {
        let template = ChatTemplate::new("{{ raise_exception('roles must alternate') }}")?;
        let error = template.render(&[], None, false).expect_err("it refuses").to_string();
        assert!(error.contains("roles must alternate"), "{error}");
        assert!(ChatTemplate::new("{% if %}").is_err());
        Ok(())
    }
}
