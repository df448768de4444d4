//! A row's parts as prompt and completions: text as it stands, or conversations of which the prompt is the beginning.

use super::turns::{Content, before_last_answer, has_speakers, spoken_turns};
use crate::chat::{Conversation, Message};
use crate::json::Json;

/// What stands before the completions of a row.
#[derive(Debug, Clone, Default)]
pub(super) struct PromptParts {
    pub(super) prompt: Option<Content>,
    pub(super) input: Option<String>,
    pub(super) system: Option<String>,
    pub(super) tools: Option<Json>,
    /// Whether text becomes turns.
    pub(super) is_chat: bool,
}

/// A completion under the name of its column.
pub(super) type Named = (String, Content);

/// The prompt, and each completion without it.
///
/// # Errors
/// In words, what does not fit together.
pub(super) fn assemble(
    parts: PromptParts,
    completions: Vec<Named>,
) -> std::result::Result<(Content, Vec<Content>), String> {
    let PromptParts { prompt, input, system, tools, is_chat } = parts;
    let (prompt, completions) = match prompt {
        Some(prompt) => (with_input(prompt, input.as_deref())?, completions),
        None => implicit_prompt(completions)?,
    };
    let has_turns = |content: &Content| matches!(content, Content::Conversation(_));
    let is_text = !has_turns(&prompt) && !completions.iter().any(|(_, completion)| has_turns(completion));
    if is_text && !is_chat && system.is_none() && tools.is_none() {
        return Ok((prompt, completions.into_iter().map(|(_, completion)| completion).collect()));
    }
    let text = match &prompt {
        Content::Text(text) if !has_speakers(text) => Some(text.clone()),
        _ => None,
    };
    let is_spoken = matches!(&prompt, Content::Text(text) if has_speakers(text));
    let mut turns = as_turns(prompt, "user", is_spoken);
    let completions = completions.into_iter();
    let mut completions: Vec<(String, Vec<Message>)> =
        completions.map(|(name, completion)| (name, as_turns(completion, "assistant", is_spoken))).collect();
    match text {
        Some(text) => take_out_text(&mut turns, &text, &mut completions),
        None => take_out_turns(&mut turns, &mut completions)?,
    }
    completions.iter().try_for_each(|(name, turns)| check_completion(name, turns))?;
    add_system(&mut turns, system)?;
    let completions = completions.into_iter().map(|(_, turns)| turns.into()).collect();
    Ok((Content::Conversation(Conversation { turns, tools }), completions))
}

/// An instruction with what it is about.
fn with_input(prompt: Content, input: Option<&str>) -> std::result::Result<Content, String> {
    match (prompt, input) {
        (prompt, None | Some("")) => Ok(prompt),
        (Content::Text(text), Some(input)) => Ok(Content::Text(format!("{text}\n\n{input}"))),
        (Content::Conversation(_), Some(_)) => Err("an input beside a prompt of turns".into()),
    }
}

fn as_turns(content: Content, role: &str, is_spoken: bool) -> Vec<Message> {
    match content {
        Content::Conversation(conversation) => conversation.turns,
        Content::Text(text) if is_spoken => match text.starts_with("Human:") {
            true => spoken_turns(&format!("\n\n{text}")),
            false => spoken_turns(&text),
        },
        Content::Text(text) => vec![Message::new(role, &text)],
    }
}

fn is_system(turn: &Message) -> bool {
    matches!(turn.role(), "system" | "developer")
}

/// Takes the turns up to a text prompt out of completions that repeat it; the turns before it stay before it.
fn take_out_text(prompt: &mut Vec<Message>, text: &str, completions: &mut [(String, Vec<Message>)]) {
    let Some((_, first)) = completions.first() else { return };
    let is_prompt = |turn: &Message| turn.role() == "user" && turn.text().trim() == text.trim();
    let Some(end) = first.iter().position(is_prompt).map(|index| index + 1) else { return };
    let repeated = first[..end].to_vec();
    if completions.iter().all(|(_, turns)| turns.starts_with(&repeated)) {
        completions.iter_mut().for_each(|(_, turns)| drop(turns.drain(..end)));
        *prompt = repeated;
    }
}

/// Takes the prompt's turns out of completions that begin with them. A system turn may stand in one of the two alone.
fn take_out_turns(
    prompt: &mut Vec<Message>,
    completions: &mut [(String, Vec<Message>)],
) -> std::result::Result<(), String> {
    let own_system = prompt.iter().take_while(|turn| is_system(turn)).count();
    let rest = &prompt[own_system..];
    // the turns of a completion up to the end of the prompt
    let repeated = |turns: &[Message]| {
        let system = turns.iter().take_while(|turn| is_system(turn)).count();
        let same_system = system == 0 || own_system == 0 || turns[..system] == prompt[..own_system];
        (same_system && !rest.is_empty() && turns[system..].starts_with(rest)).then_some(system + rest.len())
    };
    let ends: Vec<Option<usize>> = completions.iter().map(|(_, turns)| repeated(turns)).collect();
    let Some(end) = ends.iter().flatten().next().copied() else { return Ok(()) };
    let first = completions[0].1.get(..end).map(<[Message]>::to_vec).unwrap_or_default();
    for ((name, turns), own_end) in completions.iter().zip(&ends) {
        if *own_end != Some(end) || !turns.starts_with(&first) {
            return Err(format!("`{name}` does not begin with the turns of the prompt, as the other completion does"));
        }
    }
    completions.iter_mut().for_each(|(_, turns)| drop(turns.drain(..end)));
    if own_system == 0 {
        *prompt = first;
    }
    Ok(())
}

/// A completion begins and ends with the assistant.
fn check_completion(name: &str, turns: &[Message]) -> std::result::Result<(), String> {
    match (turns.first().map(Message::role), turns.last().map(Message::role)) {
        (Some("assistant"), Some("assistant")) => Ok(()),
        (Some("assistant"), Some(role)) => Err(format!("`{name}` ends with a turn of the {role}, not the assistant")),
        (Some(role), _) => Err(format!(
            "`{name}` begins with a turn of the {role}, not the assistant: it repeats no prompt of this row"
        )),
        (None, _) => Err(format!("`{name}` has no turns after those of the prompt")),
    }
}

fn add_system(turns: &mut Vec<Message>, system: Option<String>) -> std::result::Result<(), String> {
    let Some(system) = system.filter(|system| !system.is_empty()) else { return Ok(()) };
    match turns.first() {
        Some(first) if is_system(first) && first.text() == system => Ok(()),
        Some(first) if is_system(first) => {
            Err("the prompt has a system turn of its own, which differs from the column's".into())
        }
        _ => {
            turns.insert(0, Message::new("system", &system));
            Ok(())
        }
    }
}

/// The prompt that both completions begin with: TRL's implicit prompts.
fn implicit_prompt(completions: Vec<Named>) -> std::result::Result<(Content, Vec<Named>), String> {
    let [(chosen_name, chosen), (rejected_name, rejected)] =
        <[Named; 2]>::try_from(completions).map_err(|_| "there is no prompt".to_owned())?;
    let missing =
        || format!("there is no `prompt`, and `{chosen_name}` and `{rejected_name}` have no common beginning");
    let (prompt, chosen, rejected): (Content, Content, Content) = match (chosen, rejected) {
        (Content::Conversation(chosen), Content::Conversation(rejected)) => {
            let (chosen, rejected) = (chosen.turns, rejected.turns);
            let same = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
            // both end with the assistant's turn, even where they are the same
            let cut = same.min(chosen.len().min(rejected.len()).saturating_sub(1));
            if cut == 0 {
                return Err(missing());
            }
            let rest = |turns: &[Message]| Content::from(turns[cut..].to_vec());
            (chosen[..cut].to_vec().into(), rest(&chosen), rest(&rejected))
        }
        (Content::Text(chosen), Content::Text(rejected)) => {
            let pairs = chosen.chars().zip(rejected.chars());
            let same: usize = pairs.take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
            let are_spoken = has_speakers(&chosen) && has_speakers(&rejected);
            let cut = match before_last_answer(&chosen[..same]).filter(|_| are_spoken) {
                Some(end) => end,
                // the space before a word belongs to the word
                None => chosen[..same].trim_end().len(),
            };
            if cut == 0 {
                return Err(missing());
            }
            let rest = |text: &str| Content::Text(text[cut..].to_owned());
            (Content::Text(chosen[..cut].to_owned()), rest(&chosen), rest(&rejected))
        }
        _ => return Err(format!("one of `{chosen_name}` and `{rejected_name}` is text and the other a list of turns")),
    };
    Ok((prompt, vec![(chosen_name, chosen), (rejected_name, rejected)]))
}
