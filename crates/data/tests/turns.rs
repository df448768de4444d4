//! Completions of several turns: the loss is on what the assistant says, whatever the template.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::chat::{ChatTemplate, Message};
use duel_data::records::{Content, Record};
use duel_data::{EncodedRow, Encoder, TextTokenizer};
use duel_spec::LossTurns::{All, Last};
use duel_spec::{LossMask, LossTurns};
use duel_testing::golden;
use serde::Deserialize;

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
/// The id of `<|im_start|>`.
const START: u32 = 1;
/// The id of `<|im_end|>`.
const END: u32 = 2;

/// Byte-level BPE with `<|endoftext|>`, `<|im_start|>`, `<|im_end|>`.
fn tokenizer() -> TextTokenizer {
    TextTokenizer::open(&golden::folder().join("turns/tokenizer.json")).unwrap()
}

fn encoder(template: &str, turns: LossTurns) -> Encoder {
    Encoder::new(tokenizer(), Some(ChatTemplate::new(template).unwrap()), END).for_model(330, 0).with_loss_on(turns)
}

/// What closes turns by the template, EOS first.
fn turn_ends(template: &str) -> Vec<u32> {
    ChatTemplate::new(template).unwrap().turn_ends(&tokenizer())
}

fn conversation(turns: &[(&str, &str)]) -> Content {
    Content::from(turns.iter().map(|(role, content)| Message::new(role, content)).collect::<Vec<_>>())
}

fn judged(prompt: &[(&str, &str)], completion: &[(&str, &str)]) -> Record {
    Record::Judged { prompt: conversation(prompt), completion: conversation(completion), desirable: true }
}

const PROMPT: [(&str, &str); 1] = [("user", "a?")];
const TWO: [(&str, &str); 3] = [("assistant", "It is Paris."), ("user", "Are you sure?"), ("assistant", "Yes")];

/// What is counted of a completion, turn by turn; `$` is the end token.
fn counted(row: &EncodedRow, completion: usize) -> Vec<String> {
    let ids = &row.completions[completion];
    let pieces = row.masks[completion].as_ref().map_or_else(|| vec![ids.as_slice()], |mask| mask.pieces(ids));
    let text = |piece: &[u32]| {
        let parts = piece.split_inclusive(|id| *id == END);
        parts
            .map(|part| tokenizer().decode(part).unwrap() + if part.last() == Some(&END) { "$" } else { "" })
            .collect::<String>()
    };
    pieces.into_iter().map(text).collect()
}

fn encode(template: &str, turns: LossTurns, completion: &[(&str, &str)]) -> Result<EncodedRow, String> {
    encoder(template, turns).encode(&judged(&PROMPT, completion)).map_err(|e| e.to_string())
}

fn said(template: &str, turns: LossTurns, completion: &[(&str, &str)]) -> Vec<String> {
    counted(&encode(template, turns, completion).unwrap(), 0)
}

#[test]
fn two_answers_by_hand() {
    let of = |turns| {
        let record = Record::Pair {
            prompt: conversation(&PROMPT),
            chosen: conversation(&TWO),
            rejected: conversation(&[("assistant", "No.")]),
            margin: None,
            scores: None,
        };
        encoder(CHATML, turns).encode(&record).unwrap()
    };
    let (all, last) = (of(All), of(Last));
    let text = |ids: &[u32]| tokenizer().decode(ids).unwrap();
    assert_eq!(text(&all.prompt), "user\na?\nassistant\n");
    // "It", " is", " Pa", "ris", ".", end; "\n", start, "user" …; "Yes", end
    let chosen = &all.completions[0];
    assert_eq!(text(chosen), "It is Paris.\nuser\nAre you sure?\nassistant\nYes");
    assert_eq!((chosen[5], chosen[7], *chosen.last().unwrap()), (END, START, END));
    let n = chosen.len();
    assert_eq!(all.masks, [LossMask::new([[0, 6], [n - 2, n]], n), None]);
    assert_eq!(last.masks, [LossMask::new([[n - 2, n]], n), None]);
    assert_eq!((&all.completions, all.is_cut, last.is_cut), (&last.completions, false, false));
    assert_eq!(counted(&all, 0), ["It is Paris.$", "Yes$"]);
    assert_eq!(counted(&all, 1), ["No.$"]);
}

/// `expected.json`; an unknown field fails the test.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Masks {
    #[serde(rename = "source")]
    _source: String,
    #[serde(rename = "schema")]
    _schema: String,
    cases: Vec<MaskCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MaskCase {
    name: String,
    template: String,
    prompt_turns: usize,
    messages: Vec<Message>,
    input_ids: Vec<u32>,
    assistant_masks: Vec<u32>,
}

#[test]
fn golden_masks_are_those_of_transformers() {
    let folder = golden::folder().join("turns");
    let file: Masks = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
    assert!(!file.cases.is_empty());
    for case in &file.cases {
        let with_blocks = std::fs::read_to_string(folder.join(&case.template)).unwrap();
        let (prompt, completion) = case.messages.split_at(case.prompt_turns);
        let (prompt, completion) = (Content::from(prompt.to_vec()), Content::from(completion.to_vec()));
        let record = Record::Judged { prompt, completion, desirable: true };
        let (ids, mask) = (&case.input_ids, &case.assistant_masks);
        let without = ["{%- generation %}", "{%- endgeneration %}", "{% generation %}", "{% endgeneration %}"];
        let without_blocks = without.iter().fold(with_blocks.clone(), |text, tag| text.replace(tag, ""));
        for (turns, template) in
            [(All, &with_blocks), (Last, &with_blocks), (All, &without_blocks), (Last, &without_blocks)]
        {
            let ends = turn_ends(template);
            let encoder = Encoder::new(tokenizer(), Some(ChatTemplate::new(template).unwrap()), ends[0]);
            let encoder = encoder.with_other_eos(&ends[1..]).for_model(330, 0).with_loss_on(turns);
            let row = encoder.encode(&record).unwrap();
            let (start, context) = (row.prompt.len(), format!("{}, {turns:?}", case.name));
            let mut expected = mask.clone();
            if turns == Last {
                // all before the last run of ones
                let end = mask.iter().rposition(|one| *one == 1).unwrap();
                let start = mask[..end].iter().rposition(|one| *one == 0).unwrap();
                expected[..=start].fill(0);
            }
            let end = ids.iter().rposition(|id| ends.contains(id)).unwrap() + 1;
            assert!(ids.len() - end < 2, "{context}: at most a line break follows");
            assert_eq!([row.prompt.clone(), row.completions[0].clone()].concat(), ids[..end], "{context}");
            let actual = |index: usize| u32::from(row.masks[0].as_ref().is_none_or(|mask| mask.contains(index)));
            let actual: Vec<u32> = (0..row.completions[0].len()).map(actual).collect();
            assert_eq!(actual, expected[start..end], "{context}");
        }
    }
}

/// What a template closes turns with: the last turn and those before it, by one token or by two (gpt-oss). The beginning of the next
/// turn closes none.
#[test]
fn a_template_says_what_closes_turns() {
    let header = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let turns = |end: &str| {
        format!("{{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{{{ m.content }}}}{end}{{% endfor %}}{header}")
    };
    for (template, expected) in [
        (CHATML.to_owned(), vec![END]),
        (turns("{{ '<|endoftext|>' if loop.last and m.role == 'assistant' else '<|im_end|>' }}"), vec![0, END]),
        (turns("{% if m.role == 'assistant' and loop.last %}<|im_end|>{% endif %}"), vec![END]),
        (turns("<|im_end|>\n").replace(header, "<|endoftext|>"), vec![END]),
        (turns(""), vec![]),
        (turns("</s>"), vec![]), // text, no token
        ("{{ raise_exception('no') }}".into(), vec![]),
    ] {
        assert_eq!(turn_ends(&template), expected, "{template}");
    }
}

/// Templates that write the past otherwise than the present, or close turns otherwise.
#[test]
fn every_kind_of_template_is_read() {
    let cases = [
        // nothing before an answer; a space belongs to it
        (
            "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% else %} {{ m.content }}<|im_end|>{% endif %}{% endfor %}",
            [" It is Paris.$", " Yes$"],
        ),
        // the end of the text behind the last turn, unless an answer follows (Phi-3)
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}",
            ["It is Paris.$", "Yes$"],
        ),
        // reasoning is opened for the next turn and left out of those before (Qwen3 without thinking, DeepSeek R1)
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}",
            ["It is Paris.$", "Yes$"],
        ),
        (
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
            ["It is Paris.$", "Yes$"],
        ),
        // the beginning of the next turn closes an answer (GLM)
        (
            "{% for m in messages %}{% if m.role == 'user' %}<|im_end|>{% else %}<|im_start|>{% endif %}\n{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|im_start|>\n{% endif %}",
            ["It is Paris.$", "Yes$"],
        ),
        // no end token: that of the tokenizer closes the last turn
        (
            "{% for m in messages %}{{ m.role }}\n{{ m.content }}\n\n{% endfor %}{% if add_generation_prompt %}assistant\n{% endif %}",
            ["It is Paris.\n\n", "Yes\n\n$"],
        ),
    ];
    for (template, expected) in cases {
        assert_eq!(said(template, All, &TWO), expected, "{template}");
        assert_eq!(said(template, Last, &TWO), expected[1..], "{template}");
    }
}

#[test]
fn blocks_of_the_template_come_before_its_headers() {
    // the header of an answer is within the block, the end token behind it
    let template = "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}A {{ m.content }}{% endgeneration %}{% else %}U {{ m.content }}{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}A {% endif %}";
    assert_eq!(said(template, All, &TWO), ["It is Paris.$", "A Yes$"]);
    // blocks that other turns are in, too, do not make these the assistant's of another turn
    let earlier = [("user", "a?"), ("assistant", "b"), ("user", "c?")];
    let blocks = encoder(&template.replace("A ", ""), Last).encode(&judged(&earlier, &TWO)).unwrap();
    assert_eq!(counted(&blocks, 0), ["Yes$"]);
    let blocks = encoder(&template.replace("A ", ""), All).encode(&judged(&earlier, &TWO)).unwrap();
    assert_eq!(counted(&blocks, 0), ["It is Paris.$", "Yes$"]);
}

/// A token that holds the end of a header and the beginning of an answer is context.
#[test]
fn a_token_across_a_seam_is_context() {
    // " Pa" is one token: of the header and of the answer
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let completion = [("assistant", "Paris."), ("user", "b"), ("assistant", "Paris")];
    assert_eq!(said(template, All, &completion), ["ris.$", "ris$"]);
    let row = encode(template, All, &completion).unwrap();
    assert!(row.is_merged, "the prompt ends before the first of them");
    assert_eq!(row.masks[0].as_ref().unwrap().spans()[0][0], 1);
}

#[test]
fn what_follows_the_last_answer_is_cut() {
    let short = encode(CHATML, All, &TWO).unwrap();
    let longer = [&TWO[..], &[("user", "And then?")]].concat();
    let row = encode(CHATML, All, &longer).unwrap();
    assert_eq!((&row.completions, &row.masks, row.is_cut), (&short.completions, &short.masks, true));
    // one answer, and a question that nobody answers: as an answer alone
    let row = encode(CHATML, All, &TWO[..2]).unwrap();
    assert_eq!((counted(&row, 0), &row.masks, row.is_cut), (vec!["It is Paris.$".to_owned()], &vec![None], true));
    // text behind an end token in the last turn, as in the only one
    let row = encode(CHATML, All, &[TWO[0], TWO[1], ("assistant", "Yes<|im_end|>No")]).unwrap();
    assert_eq!((counted(&row, 0), row.is_cut), (vec!["It is Paris.$".to_owned(), "Yes$".to_owned()], true));
    let row = encode(CHATML, All, &[("assistant", "Yes<|im_end|>No")]).unwrap();
    assert_eq!((counted(&row, 0), row.masks, row.is_cut), (vec!["Yes$".to_owned()], vec![None], true));
}

/// The prompt's own last turn, which the completion closes, is context.
#[test]
fn a_prompt_may_end_with_an_answer() {
    let prompt = [("user", "a?"), ("assistant", "b")];
    let blocks = CHATML.replace("m.content + '<|im_end|>'", "m.content }}{% if m.role == 'assistant' %}{% generation %}<|im_end|>{% endgeneration %}{% else %}<|im_end|>{% endif %}{{ ''");
    let written = |template: &str| {
        let row = encoder(template, All).encode(&judged(&prompt, &TWO[1..])).unwrap();
        assert_eq!(row.completions[0][0], END, "{template}");
        counted(&row, 0)
    };
    assert_eq!(written(CHATML), ["Yes$"]);
    assert_eq!(written(&blocks), ["$"]);
}

/// A prompt may begin the answer, which goes on in the same turn.
#[test]
fn a_prompt_may_begin_the_answer() {
    let prompt = [("user", "a?"), ("assistant", "Sure:")];
    let row = encoder(CHATML, All).encode(&judged(&prompt, &[("assistant", " It is Paris.")])).unwrap();
    assert_eq!(tokenizer().decode(&row.prompt).unwrap(), "user\na?\nassistant\nSure:");
    assert_eq!((counted(&row, 0), row.is_cut), (vec![" It is Paris.$".to_owned()], false));
    let blocks = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    for template in [CHATML, blocks] {
        let row = encoder(template, All).encode(&judged(&prompt, &TWO)).unwrap();
        assert_eq!(counted(&row, 0), ["It is Paris.$", "Yes$"], "{template}");
        let row = encoder(template, Last).encode(&judged(&prompt, &TWO)).unwrap();
        assert_eq!(counted(&row, 0), ["Yes$"], "{template}");
    }
}

#[test]
fn one_turn_is_as_without_masks() {
    let turn = encode(CHATML, All, &[("assistant", "It is Paris.")]).unwrap();
    let record = Record::Judged {
        prompt: conversation(&PROMPT),
        completion: Content::Text("It is Paris.".into()),
        desirable: true,
    };
    assert_eq!(encoder(CHATML, Last).encode(&record).unwrap(), turn);
    assert_eq!(turn.masks, [None]);
}

#[test]
fn rows_whose_turns_cannot_be_told_are_refused() {
    let problem = |template: &str, completion: &[(&str, &str)]| encode(template, All, completion).unwrap_err();
    let inner = [("assistant", "It<|im_end|>is"), TWO[1], TWO[2]];
    assert!(problem(CHATML, &inner).contains("`completion` has an end token in the text of a turn that others follow"));
    assert!(encode(CHATML, Last, &inner).is_ok(), "context");
    let users = [("user", "b"), ("tool", "c")];
    assert!(problem(CHATML, &users).contains("`completion` has no turn whose `role` is \"assistant\""));
    // control tokens: where the assistant says them, but not in what it is told
    let control = [("assistant", "It <|im_start|> is"), TWO[1], TWO[2]];
    assert!(problem(CHATML, &control).contains("the control token `<|im_start|>` (id 1)"));
    assert!(encode(CHATML, All, &[TWO[0], ("user", "b <|im_start|> <|endoftext|> <|im_end|> c"), TWO[2]]).is_ok());
    // a template that writes the number of turns before them
    let counts = "{{ messages|length }}{% for m in messages %}\n{{ m.content }}<|im_end|>{% endfor %}";
    let message = problem(counts, &TWO);
    assert!(message.contains("a turn 1 whose beginning cannot be told"), "{message}");
    // an answer without an end, whose text changes when others follow
    let open = "{% for m in messages %}{{ m.role }}
{{ m.content }}{% if m.role == 'assistant' %}{{ '!' if loop.last else '?' }}{% endif %}{% endfor %}{% if add_generation_prompt %}assistant
{% endif %}";
    let message = problem(open, &TWO);
    assert!(message.contains("a turn of the assistant that no end token closes"), "{message}");
    // too many to render again and again
    let many: Vec<(&str, &str)> = std::iter::repeat_n([TWO[0], TWO[1]], 300).flatten().chain([TWO[2]]).collect();
    let message = problem(CHATML, &many);
    assert!(message.contains("has 601 turns and") && message.contains("too many to tell the turns apart"), "{message}");
}

#[test]
fn a_row_cut_to_a_length_keeps_the_mask_of_what_is_left() {
    let row = encode(CHATML, All, &TWO).unwrap();
    let mut cut = row.clone();
    assert!(cut.truncate_completions(3));
    assert_eq!((cut.completions[0].len(), cut.masks[0].as_ref().unwrap().spans()), (3, &[[0, 3]][..]));
    let mut cut = encode(CHATML, Last, &TWO).unwrap();
    assert!(!cut.truncate_completions(8), "nothing that counts is left");
}
