//! The generated pages of docs/reference: every command, every setting, every metric, and the columns of the tables of a run.

use crate::cli::Cli;
use clap::{Arg, Command, CommandFactory};
use duel_spec::{defaults_text, metrics};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A cell of a Markdown table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let rule = vec!["---".to_owned(); head.len()];
    [line(&head), line(&rule)].into_iter().chain(rows.iter().map(|row| line(row))).collect()
}

// commands

/// How an argument is written: `--set KEY=VALUE`, `FILE`.
fn argument(arg: &Arg) -> String {
    let values: Vec<String> = arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let takes_value = arg.get_action().takes_values();
    let names = [arg.get_short().map(|short| format!("-{short}")), arg.get_long().map(|long| format!("--{long}"))];
    let option = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let values = values.join(" ").replace('|', "\\|");
    match (option.is_empty(), takes_value) {
        (true, _) => format!("`{}`", values),
        (false, true) => format!("`{option} {values}`"),
        (false, false) => format!("`{option}`"),
    }
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let choices: Vec<String> = match arg.get_action().takes_values() {
        true => arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect(),
        false => vec![],
    };
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let mut text = cell(&help);
    if !choices.is_empty() {
        text += &format!("; one of {}", choices.join(", "));
    }
    if !defaults.is_empty() && arg.get_action().takes_values() {
        text += &format!("; default {}", defaults.join(" "));
    }
    text
}

fn describe(page: &mut String, name: &str, command: &mut Command) {
    let about = command.get_long_about().or_else(|| command.get_about()).map(ToString::to_string).unwrap_or_default();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim();
    write!(page, "\n## {name}\n\n{about}\n\n```console\n$ {usage}\n```\n").expect("text");
    let is_own = |arg: &&Arg| {
        !arg.is_hide_set() && !arg.is_global_set() && !["help", "version"].contains(&arg.get_id().as_str())
    };
    let rows: Vec<Vec<String>> =
        command.get_arguments().filter(is_own).map(|arg| vec![argument(arg), meaning(arg)]).collect();
    if !rows.is_empty() {
        write!(page, "\n{}", table(&["argument", "meaning"], &rows)).expect("text");
    }
    let inner: Vec<Command> = command.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned().collect();
    for mut inner in inner.into_iter().filter(|inner| inner.get_name() != "help") {
        let name = format!("{name} {}", inner.get_name());
        describe(page, &name, &mut inner);
    }
}

fn commands() -> String {
    let mut duel = Cli::command();
    duel.build();
    let globals: Vec<Vec<String>> = duel
        .get_arguments()
        .filter(|arg| arg.is_global_set() && !arg.is_hide_set())
        .map(|arg| vec![argument(arg), meaning(arg)])
        .collect();
    let mut page = format!(
        "# Commands\n\nThis page is written by the command line itself; `duel help COMMAND` prints the same.\n\n\
         Every command takes:\n\n{}",
        table(&["argument", "meaning"], &globals)
    );
    let inner: Vec<Command> = duel.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned().collect();
    for mut inner in inner.into_iter().filter(|inner| inner.get_name() != "help") {
        let name = format!("duel {}", inner.get_name());
        describe(&mut page, &name, &mut inner);
    }
    page
}

// settings

/// A block of defaults.toml: its header, what its comment says, and its keys with value and comment.
#[derive(Default)]
struct Block {
    name: String,
    about: String,
    keys: Vec<[String; 3]>,
}

/// Value and comment of what follows `=`; a `#` inside quotes begins no comment.
fn value_and_comment(text: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => quoted = !quoted,
            '#' if !quoted => return (text[..at].trim(), text[at + 1..].trim()),
            _ => {}
        }
    }
    (text.trim(), "")
}

fn blocks() -> Vec<Block> {
    let mut blocks = vec![Block::default()];
    for line in defaults_text().lines().skip_while(|line| line.starts_with('#')) {
        let block = blocks.last_mut().expect("the first stands there");
        if let Some(rest) = line.strip_prefix('[') {
            let (name, about) = rest.split_once(']').expect("a header ends with a bracket");
            let about = about.trim().trim_start_matches('#').trim().to_owned();
            blocks.push(Block { name: name.to_owned(), about, keys: vec![] });
        } else if let Some(more) = line.trim().strip_prefix('#') {
            let [_, _, comment] = block.keys.last_mut().expect("a comment goes on");
            *comment += &format!(" {}", more.trim());
        } else if let Some((key, rest)) = line.split_once(" = ") {
            let (value, comment) = value_and_comment(rest);
            block.keys.push([key.trim(), value, comment].map(str::to_owned));
        }
    }
    blocks
}

fn settings() -> String {
    let mut page = String::from(
        "# Settings\n\nEvery key that an experiment file may hold, with its default: `duel defaults` prints the same as one file.\n\
         A file holds only what differs. A key that is not here is an error, and a value must have the type of the default.\n",
    );
    for Block { name, about, keys } in blocks() {
        let rows: Vec<Vec<String>> = keys
            .iter()
            .filter(|[key, ..]| key != "like")
            .map(|[key, value, comment]| vec![format!("`{key}`"), format!("`{}`", cell(value)), cell(comment)])
            .collect();
        let heading = if name.is_empty() { "Top of the file".to_owned() } else { format!("[{name}]") };
        let like = keys.iter().find(|[key, ..]| key == "like").map(|[_, value, _]| value.trim_matches('"'));
        let about = match like {
            Some(block) => format!(
                "{about}. It also has the keys of [\\[{block}\\]](#{block}); those below have another default or are its own"
            ),
            None => about,
        };
        let about = if about.is_empty() { String::new() } else { format!("{about}\n\n") };
        write!(page, "\n## {heading}\n\n{about}{}", table(&["key", "default", "meaning"], &rows)).expect("text");
    }
    page
}

// metrics

fn metrics_page() -> String {
    let rows: Vec<Vec<String>> = metrics::ALL
        .iter()
        .map(|metric| vec![format!("`{}`", metric.name), cell(metric.unit), cell(metric.meaning)])
        .collect();
    format!(
        "# Metrics\n\nEvery name of the column `metric` of `metrics.parquet`, with its unit and its formula.\n\
         [Files](files.md) shows how to read it.\n\n{}",
        table(&["metric", "unit", "meaning"], &rows)
    )
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference")
}

#[test]
fn the_reference_is_what_the_binary_has() {
    for (name, text) in [("commands.md", commands()), ("settings.md", settings()), ("metrics.md", metrics_page())] {
        let path = folder().join(name);
        if std::env::var_os("DUEL_WRITE_REFERENCE").is_some() {
            std::fs::write(&path, &text).expect("written");
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        let hint = "`DUEL_WRITE_REFERENCE=1 cargo test --release -p duel-runner --bin duel the_reference` writes it";
        assert!(page == text, "docs/reference/{name} differs from the binary: {hint}");
    }
}

#[test]
fn a_comment_of_a_setting_begins_outside_its_quotes() {
    assert_eq!(value_and_comment("\"a # b\"   # what"), ("\"a # b\"", "what"));
    assert_eq!(value_and_comment("3"), ("3", ""));
}

/// Every key of every block, a comment for each.
#[test]
fn every_setting_has_a_meaning() {
    let document: toml::Table = toml::from_str(defaults_text()).expect("TOML");
    let of_file = |name: &str| {
        name.split('.').filter(|part| !part.is_empty()).try_fold(&document, |table, part| table.get(part)?.as_table())
    };
    let headers: Vec<String> = blocks().into_iter().map(|block| block.name).collect();
    for Block { name, keys, .. } in blocks() {
        let table = of_file(&name).unwrap_or_else(|| panic!("[{name}]"));
        let is_block =
            |key: &String| headers.contains(&if name.is_empty() { key.clone() } else { format!("{name}.{key}") });
        let holds_blocks = |key: &String| headers.iter().any(|header| header.starts_with(&format!("{key}.")));
        let is_key = |key: &&String| !(is_block(key) || (name.is_empty() && holds_blocks(key)));
        let mut expected: Vec<&String> = table.keys().filter(is_key).collect();
        let mut actual: Vec<&String> = keys.iter().map(|[key, ..]| key).collect();
        actual.sort();
        expected.sort();
        assert_eq!(actual, expected, "[{name}]");
        for [key, _, comment] in &keys {
            assert!(
                !comment.is_empty() || ["like"].contains(&key.as_str()) || key == "loss",
                "[{name}] {key} has no comment"
            );
        }
    }
}
