//! The name, the world, the judge, and the model against them.

use crate::columns::ColumnRole;
use crate::document::Document;
use crate::experiment::{Experiment, PairwiseSettings};
use crate::stages::SftStage;
use crate::world::{JudgeKind, JudgedText, RowPaths, RowsSettings, Rule, WorldKind};
use crate::{Error, Result};
use toml::Value;

/// Each rule of the judge by itself, so that an error can name it.
pub(super) fn check_rules(document: &Document) -> Result<()> {
    let rules = document.merged.get("judge").and_then(|judge| judge.get("rules")).and_then(Value::as_array);
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        if let Err(e) = rule.clone().try_into::<Rule>() {
            let value = format!("in rule {}: {}", index + 1, e.message());
            let (expected, span) = ("a list of rules as `duel defaults` shows them", document.span("judge.rules"));
            return Err(Error::WrongType { key: "judge.rules".into(), expected, found: value, span });
        }
    }
    Ok(())
}

/// The name of the experiment, which is that of a folder.
pub(super) fn check_name(experiment: &Experiment, document: &Document) -> Result<()> {
    let name = &experiment.name;
    let is_valid =
        !name.is_empty() && !name.starts_with('.') && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    let accepted = "letters, digits, `-`, `_` and `.`, since it names a folder";
    if is_valid { Ok(()) } else { Err(document.out_of_range("name", format!("`{name}`"), accepted)) }
}

pub(super) fn check_heads(experiment: &Experiment, document: &Document) -> Result<()> {
    let (heads, width) = (experiment.model.heads, experiment.model.width);
    if width.is_multiple_of(heads.max(1)) {
        return Ok(());
    }
    let value = format!("{heads} does not divide width {width}");
    Err(document.out_of_range("model.heads", value, "a divisor of model.width"))
}

/// The source of the model against the world; the judge; the SFT stage.
pub(super) fn check_world(experiment: &Experiment, document: &Document) -> Result<()> {
    let (kind, is_pretrained) = (experiment.world.kind, experiment.is_pretrained());
    match kind {
        WorldKind::Grammar if is_pretrained => {
            let why = "grammar has its own vocabulary, which no pretrained model knows";
            return Err(document.clash("model.from", "world.kind = \"grammar\"", why));
        }
        WorldKind::Rows if !is_pretrained => {
            let accepted =
                "with world.kind = \"rows\": a Hugging Face directory, a .gguf file or a model's name on the hub";
            return Err(document.missing("model.from", accepted));
        }
        WorldKind::Rows if experiment.world.rows.train.is_empty() => {
            return Err(document.missing("world.rows.train", "a file of preference rows"));
        }
        _ => {}
    }
    let rows = &experiment.world.rows;
    check_columns(rows, document)?;
    for (key, paths) in [("train", &rows.train), ("validation", &rows.validation), ("test", &rows.test)] {
        check_paths(&format!("world.rows.{key}"), paths, document)?;
    }
    check_judge(experiment, document)?;
    check_pairwise(experiment, document)?;
    if !is_date(&rows.date) {
        let accepted = "year, month and day, such as \"2024-07-26\"";
        return Err(document.out_of_range("world.rows.date", format!("`{}`", rows.date), accepted));
    }
    check_template_kwargs(&rows.template_kwargs, document)?;
    let may_have_preface = is_pretrained && kind == WorldKind::Reviews;
    if !experiment.world.reviews.preface.is_empty() && !may_have_preface {
        let why = "only a pretrained model on reviews reads a preface";
        return Err(document.clash("world.reviews.preface", "model.from = \"\"", why));
    }
    if experiment.model.mapped {
        check_frozen(experiment, document, "model.mapped", "stay in their file")?;
        if experiment.stages.sft.steps > 0 {
            return Err(document.clash("model.mapped", "stages.sft.steps", "the SFT policy is kept as full weights"));
        }
    }
    if !experiment.model.numbers.is_f32() {
        check_frozen(experiment, document, "model.numbers", "be rounded")?;
    }
    check_sft(experiment, document)
}

/// A list has paths, and none of the hub's names.
fn check_paths(key: &str, paths: &RowPaths, document: &Document) -> Result<()> {
    let RowPaths::Several(list) = paths else { return Ok(()) };
    match list.iter().find(|path| path.is_empty() || path.starts_with("hub:")) {
        Some(path) => {
            let accepted = "files, patterns and folders in a list; a name on the hub by itself";
            Err(document.out_of_range(key, format!("`{path}` in a list"), accepted))
        }
        None if list.is_empty() => Err(document.out_of_range(key, "an empty list", "one path or more")),
        None => Ok(()),
    }
}

/// Each column has one meaning, and those that belong together are named together.
fn check_columns(rows: &RowsSettings, document: &Document) -> Result<()> {
    let named: Vec<(ColumnRole, &str)> = rows
        .columns
        .iter()
        .map(|(role, name)| (*role, name.as_str()))
        .filter(|(_, name)| !["", "none"].contains(name))
        .collect();
    for (index, (role, column)) in named.iter().enumerate() {
        if let Some((other, _)) = named[..index].iter().find(|(_, earlier)| earlier == column) {
            let why = format!("both name the column `{column}`, which has one meaning");
            return Err(document.clash(format!("world.rows.{role}"), format!("world.rows.{other}"), why));
        }
    }
    use ColumnRole as Role;
    let is_none = |role| rows.column(role) == Some("none");
    for (one, other) in
        [(Role::Chosen, Role::Rejected), (Role::First, Role::Second), (Role::ScoreChosen, Role::ScoreRejected)]
    {
        if is_none(one) != is_none(other) {
            let why = "one without the other has no meaning";
            return Err(document.clash(format!("world.rows.{one}"), format!("world.rows.{other}"), why));
        }
    }
    Ok(())
}

/// Arguments of `apply_chat_template` that are no variables of a template.
const NOT_VARIABLES: [&str; 10] = [
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "messages",
    "padding",
    "return_dict",
    "return_tensors",
    "tokenize",
    "truncation",
];

fn check_template_kwargs(kwargs: &toml::Table, document: &Document) -> Result<()> {
    fn is_finite(value: &toml::Value) -> bool {
        match value {
            toml::Value::Float(x) => x.is_finite(),
            toml::Value::Array(items) => items.iter().all(is_finite),
            toml::Value::Table(table) => table.values().all(is_finite),
            _ => true,
        }
    }
    for (name, value) in kwargs {
        let key = format!("world.rows.template_kwargs.{name}");
        if NOT_VARIABLES.contains(&name.as_str()) {
            let accepted = "variables that a chat template reads, such as `enable_thinking`; Duel gives it the rest";
            return Err(document.out_of_range(key, format!("`{name}`"), accepted));
        }
        if !is_finite(value) {
            return Err(document.out_of_range(key, format!("`{value}`"), "finite numbers"));
        }
    }
    Ok(())
}

fn check_judge(experiment: &Experiment, document: &Document) -> Result<()> {
    let judge = &experiment.judge;
    if experiment.world.kind == WorldKind::Grammar && judge.kind != JudgeKind::World {
        let why = "the judge of grammar is its gold formula";
        return Err(document.clash("judge.kind", "world.kind = \"grammar\"", why));
    }
    if judge.kind == JudgeKind::Rules && judge.rules.is_empty() {
        return Err(document.missing("judge.rules", "at least one rule"));
    }
    if judge.kind == JudgeKind::Command && judge.command.is_empty() {
        return Err(document.missing("judge.command", "a program and its arguments"));
    }
    let is_model = judge.kind == JudgeKind::Model;
    if is_model && judge.model.is_empty() {
        return Err(document.missing("judge.model", "the directory of a sequence classifier with one label"));
    }
    if !is_model && !judge.model.is_empty() {
        return Err(document.clash("judge.model", "judge.kind", "only judge.kind = \"model\" reads it"));
    }
    if is_model && judge.reads == JudgedText::All {
        let why = "a reward model always reads prompt and response, as its own template writes them";
        return Err(document.clash("judge.reads", "judge.kind = \"model\"", why));
    }
    if judge.kind != JudgeKind::Command && judge.token_ends {
        let why = "only a \"command\" reads lines, and may score tokens";
        return Err(document.clash("judge.token_ends", "judge.kind", why));
    }
    if judge.kind != JudgeKind::Command && !judge.version.is_empty() {
        let why = "only a \"command\" has a version; the other judges are hashed completely";
        return Err(document.clash("judge.version", "judge.kind", why));
    }
    Ok(())
}

/// The judge of pairs reads text; a program or a model reads its own settings alone, and without either nothing reads any.
fn check_pairwise(experiment: &Experiment, document: &Document) -> Result<()> {
    let (pairwise, defaults) = (&experiment.evaluation.pairwise, PairwiseSettings::default());
    let key = |name: &str| format!("evaluation.pairwise.{name}");
    if pairwise.is_model() && !pairwise.command.is_empty() {
        let why = "there is one judge of pairs: a program or a model; leave one of the two out";
        return Err(document.clash(key("model"), key("command"), why));
    }
    if !pairwise.is_off() && experiment.world.kind == WorldKind::Grammar {
        let judge = if pairwise.is_model() { "model" } else { "command" };
        let why = "its responses are no text; `win_rate` compares all of them exactly, by gold";
        return Err(document.clash(key(judge), "world.kind = \"grammar\"", why));
    }
    let of_program =
        [("timeout", pairwise.timeout != defaults.timeout), ("version", pairwise.version != defaults.version)];
    let of_model =
        [("numbers", pairwise.numbers != defaults.numbers), ("question", pairwise.question != defaults.question)];
    let of_both = [("prompts", pairwise.prompts != defaults.prompts), ("batch", pairwise.batch != defaults.batch)];
    let (unused, with, why) = match (pairwise.is_off(), pairwise.is_model()) {
        (true, _) => {
            let why = "without a program or a model nothing is compared in pairs; name one, or leave this out";
            ([of_both, of_program, of_model].concat(), key("command = []"), why)
        }
        (_, true) => {
            let why = "only a program is waited for, and has a version; a model is hashed completely: leave this out";
            (of_program.to_vec(), key("model"), why)
        }
        _ => {
            let why = "only a model is asked a question, and kept in memory; a program is given the pair as it is: leave this out";
            (of_model.to_vec(), key("command"), why)
        }
    };
    match unused.into_iter().find(|(_, is_set)| *is_set) {
        Some((name, _)) => Err(document.clash(key(name), with, why)),
        None => Ok(()),
    }
}

/// A model whose matrices are mapped or rounded needs adapters everywhere.
fn check_frozen(experiment: &Experiment, document: &Document, key: &str, cannot: &str) -> Result<()> {
    let clash = |with: &str, why: &str| Err(document.clash(key, with, why));
    let why = &format!("weights that are trained in full cannot {cannot}");
    if !experiment.is_pretrained() {
        return clash("model.from = \"\"", "a fresh model is trained in full");
    }
    let full = experiment
        .arms
        .iter()
        .find(|(_, arm)| arm.representative_points().iter().any(|point| !point.method.common().lora));
    if let Some((name, _)) = full {
        return clash(&format!("arms.{name}.lora = false"), why);
    }
    if !experiment.stages.rm.lora && !experiment.stages.rm.is_pretrained() {
        return clash("stages.rm.lora = false", why);
    }
    Ok(())
}

fn check_sft(experiment: &Experiment, document: &Document) -> Result<()> {
    let (sft, defaults) = (&experiment.stages.sft, SftStage::defaults());
    let clash = |key: &str, with: &str, why: &str| Err(document.clash(format!("stages.sft.{key}"), with, why));
    if sft.steps == 0 && experiment.world.kind == WorldKind::Grammar {
        return clash(
            "steps",
            "world.kind = \"grammar\"",
            "grammar has no base model to use in place of the SFT policy",
        );
    }
    if sft.steps == 0 && sft.lora {
        return clash("lora", "stages.sft.steps = 0", "nothing is trained");
    }
    if sft.steps == 0 && !sft.drop_last {
        return clash("drop_last", "stages.sft.steps = 0", "nothing is trained");
    }
    if !sft.lora && sft.lora_rank != defaults.lora_rank {
        return clash("lora_rank", "stages.sft.lora = false", "it is not used");
    }
    if !sft.lora && sft.lora_alpha != defaults.lora_alpha {
        return clash("lora_alpha", "stages.sft.lora = false", "it is not used");
    }
    Ok(())
}

/// The window of the base model against the prompts and responses of `reviews`.
pub(super) fn check_window(experiment: &Experiment, document: &Document) -> Result<()> {
    let (reviews, window) = (&experiment.world.reviews, experiment.stages.base.window);
    let needed = 1 + reviews.prompt_tokens + reviews.response_tokens;
    if experiment.world.kind != WorldKind::Reviews || experiment.is_pretrained() || needed <= window {
        return Ok(());
    }
    let accepted = format!("at least 1 + prompt_tokens + response_tokens = {needed}");
    Err(document.out_of_range("stages.base.window", format!("{window} tokens"), accepted))
}

/// Whether a text is a day of the calendar, as `2024-07-26`.
fn is_date(text: &str) -> bool {
    let number = |range: std::ops::Range<usize>| {
        text.get(range).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))?.parse::<u32>().ok()
    };
    let (Some(year), Some(month), Some(day)) = (number(0..4), number(5..7), number(8..10)) else { return false };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    text.len() == 10
        && &text[4..5] == "-"
        && &text[7..8] == "-"
        && (1..=12).contains(&month)
        && (1..=days).contains(&day)
}
