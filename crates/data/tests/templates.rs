//! Small templates as transformers renders them, feature by feature (`snippets.json`), and what a template costs and may not do.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::Json;
use duel_data::chat::{ChatTemplate, Message, SplitConversation};
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Snippets {
    #[serde(rename = "source")]
    _source: String,
    messages: Vec<Json>,
    variables: BTreeMap<String, Json>,
    cases: Vec<Snippet>,
}

/// A text, an error, or what transformers renders and Duel refuses.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Snippet {
    template: String,
    text: Option<String>,
    error: Option<String>,
    refused: Option<bool>,
}

#[test]
fn every_snippet_is_the_text_of_transformers_or_an_error() {
    let file: Snippets = serde_json::from_str(include_str!("snippets.json")).unwrap();
    let messages: Vec<Message> = file.messages.into_iter().map(|one| Message::try_from(one).unwrap()).collect();
    let mut counts = [0; 3];
    for Snippet { template, text, error, refused } in file.cases {
        let actual = ChatTemplate::new(&template)
            .and_then(|it| it.with_variables(file.variables.clone()).dated("2024-07-26"))
            .and_then(|it| it.render(&messages, None, true));
        match (text, error, refused) {
            (Some(text), None, None) => {
                assert_eq!(actual.map_err(|e| e.to_string()), Ok(text), "{template}");
                counts[0] += 1;
            }
            (None, Some(error), None) => {
                assert!(actual.is_err(), "{template}: {actual:?}; in Python: {error}");
                counts[1] += 1;
            }
            (None, None, Some(true)) => {
                assert!(actual.is_err(), "{template}: {actual:?}, though nobody knows that it is right");
                counts[2] += 1;
            }
            _ => panic!("{template}: one of text, error and refused"),
        }
    }
    assert!(counts[0] > 600 && counts[1] > 60 && counts[2] < 70, "{counts:?}");
}

#[test]
fn errors_name_the_line() {
    let cases = [
        ("{% if true %}\n\n{{ x | wordcount }}{% endif %}", "filter wordcount is unknown (line 3 of the template)"),
        ("\r\n{% do 1 %}", "the statement `do` is not supported (line 2 of the template)"),
        ("{#\n\n#}{% set a = 1 %}\n{{ a.b.c }}", "(line 4 of the template)"),
        ("\n{{ ['a\n', 1] | sort }}", "have no order (line"),
        (
            "{% for m in messages %}\n{{ raise_exception('roles: ' ~ m.role) }}{% endfor %}",
            "roles: user (line 2 of the template)",
        ),
        ("{% autoescape true %}{% endautoescape %}", "`autoescape` is not supported (line 1 of the template)"),
        ("{% macro m(a) %}{{ a }}{% endmacro %}\n{{ m(1, 2) }}", "(line 2 of the template)"),
        ("a\n{{ '\\N{BULLET}' }}", "the escape `\\N` is not supported (line 2 of the template)"),
        ("\n{{ 'a'.casefold() }}", "casefold (line 2 of the template)"),
        ("\n{{ self.x }}", "are not supported (line 2 of the template)"),
        (
            "{{ ('a' | e) + 'b' }}",
            "`+` of text that is marked safe or escaped is not supported (line 1 of the template)",
        ),
    ];
    for (source, expected) in cases {
        let result = ChatTemplate::new(source).and_then(|it| it.render(&[Message::new("user", "hi")], None, false));
        let error = result.expect_err(source).to_string();
        assert!(error.contains(expected), "{source:?}: {error}");
    }
}

/// A template that drops the reasoning of earlier turns and opens that of the next (as Qwen 3 and DeepSeek R1 do).
const REASONING: &str = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content.split('</think>')[-1] if not loop.last else m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}</>{% endfor %}{% if add_generation_prompt %}<assistant><think>\n{% endif %}";

#[test]
fn an_answer_that_changes_the_text_before_it_shortens_the_prompt() {
    let template = ChatTemplate::new(REASONING).unwrap();
    let answer = |text: &str| vec![Message::new("assistant", text)];
    let split = |answers: [&str; 2]| {
        let answers = answers.map(answer);
        template.split(&vec![Message::new("user", "Q")].into(), &[&answers[0], &answers[1]]).unwrap()
    };
    let expected = |prompt: &str, answers: [&str; 2], is_shortened| SplitConversation {
        prompt: prompt.into(),
        answers: answers.map(str::to_owned).to_vec(),
        is_shortened,
    };
    let both = split(["<think>\na</think>A", "<think>\nb</think>B"]);
    assert_eq!(both, expected("<user>Q</><assistant><think>\n", ["a</think>A</>", "b</think>B</>"], false));
    // one of the two says nothing of its reasoning: the prompt is what all three share
    let one = split(["<think>\na</think>A", "<no>B"]);
    assert_eq!(one, expected("<user>Q</><assistant><", ["think>\na</think>A</>", "no>B</>"], true));
    let none = split(["A", "B"]);
    assert_eq!(none, expected("<user>Q</><assistant>", ["A</>", "B</>"], true));
}

/// `continue_final_message` of transformers: the prompt's last turn is the assistant's, and is not closed.
#[test]
fn a_prompt_that_ends_with_the_assistant_is_continued() {
    let turns = |answer: &str| vec![Message::new("user", "Q"), Message::new("assistant", answer)];
    let template = |content: &str| {
        let source = format!("{{% for m in messages %}}<{{{{ m.role }}}}>{{{{ m.{content} }}}}</>{{% endfor %}}");
        ChatTemplate::new(&source).unwrap()
    };
    assert_eq!(template("content").prompt(&turns("It is ").into()).unwrap(), "<user>Q</><assistant>It is ");
    assert_eq!(template("content.strip()").prompt(&turns("It is ").into()).unwrap(), "<user>Q</><assistant>It is");
    assert_eq!(template("content").prompt(&vec![Message::new("system", "S")].into()).unwrap(), "<system>S</>");
    let error = template("role").prompt(&turns("It is").into()).expect_err("the turn is lost").to_string();
    assert!(error.contains("the text of the prompt's last turn"), "{error}");
    let parts: Json = serde_json::from_str(
        r#"{"role": "assistant", "content": [{"type": "text", "text": "So"}, {"type": "image"}]}"#,
    )
    .unwrap();
    let parts = vec![Message::new("user", "Q"), Message::try_from(parts).unwrap()];
    let joined = "content if m.content is string else m.content | map(attribute='text') | select | join";
    assert_eq!(template(joined).prompt(&parts.into()).unwrap(), "<user>Q</><assistant>So");
}

/// Names that reasoning goes by, in the order in which transformers gives them.
#[test]
fn reasoning_is_read_under_each_of_its_names() {
    let render = |message: &str| {
        let message = Message::try_from(serde_json::from_str::<Json>(message).unwrap()).unwrap();
        ChatTemplate::new("{{ messages[0] | tojson }}").unwrap().render(&[message], None, false).unwrap()
    };
    assert_eq!(
        render(r#"{"role": "assistant", "content": "A", "reasoning": "R"}"#),
        r#"{"thinking": "R", "role": "assistant", "content": "A", "reasoning": "R", "reasoning_content": "R"}"#
    );
    assert_eq!(
        render(r#"{"role": "a", "thinking": "T", "reasoning_content": "R", "content": "A"}"#),
        r#"{"thinking": "T", "role": "a", "reasoning_content": "R", "content": "A"}"#
    );
    assert_eq!(render(r#"{"role": "a", "thinking": null}"#), r#"{"role": "a", "thinking": null}"#);
}

/// Each of these would take all time or all memory by what is Duel's own of the environment.
#[test]
fn what_pythons_methods_and_filters_may_take_is_bounded() {
    let sources = [
        "{{ 'a'.center(999999999999) }}",
        "{{ 'a'.ljust(99999999999) }}",
        "{{ '1'.zfill(99999999999) }}",
        "{{ 'a' | center(99999999999) }}",
        "{{ 'a\nb' | indent('x' * 99999999) }}",
        "{{ 'a\nb' | indent(99999999999) }}",
        "{{ [[[[1]]]] | tojson(indent=99999999999) }}",
        "{% set ns = namespace(a=[1]) %}{% for i in range(20) %}{% set ns.a = [ns.a] %}{% endfor %}{% for i in range(99999) %}{% set t = ns.a | tojson(indent=60000) %}{% endfor %}",
        "{{ '%99999999999d' % 1 }}",
        "{{ '%65000d' * 60000 % 1 }}",
        "{% for i in range(99999) %}{% set t = '%65000d' % 1 %}{% endfor %}",
        "{% for i in range(99999) %}{% set t = '{:65000d}'.format(1) %}{% endfor %}",
        "{% set x = 'ab' * 9999 %}{% for i in range(99999) %}{% set t = x.split('a') %}{% endfor %}",
        "{% set x = 'a ' * 9999 %}{% for i in range(99999) %}{% set t = x.split() | sort %}{% endfor %}",
        "{% set x = 'a' * 9999 %}{% for i in range(99999) %}{% set t = x.count('a') + x.find('b') %}{% endfor %}",
        "{% set x = 'a' * 9999 %}{% for i in range(99999) %}{% set t = x ~ x ~ i %}{% endfor %}",
        "{% set x = '<' * 9999 %}{% for i in range(99999) %}{% set t = x | e %}{% endfor %}",
        "{% set x = range(9999) | list %}{% for i in range(99999) %}{% set t = x | map('string') | join %}{% endfor %}",
        "{% set x = range(9999) | list %}{% for i in range(99999) %}{% set t = 5 in x or x < x or x | unique %}{% endfor %}",
        "{% set x = range(9999) | list %}{% for i in range(99999) %}{% set t = x | groupby(0) or x | max or x | first %}{% endfor %}",
        "{% macro m(n=1) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m() }}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% with %}{% continue %}{% endwith %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% set x %}{% break %}{% endset %}{% endfor %}{% endfor %}{% for i in range(99999) %}{% for j in range(9) %}{% endfor %}{% endfor %}",
    ];
    for source in sources {
        let result = ChatTemplate::new(source).and_then(|template| template.render(&[], None, false));
        assert!(result.is_err(), "{source}: {:?}", result.map(|text| text.len()));
    }
}
