//! `duel init`: an experiment fitted to a file of rows and a model.

use crate::commands::args::ColumnArgs;
use crate::commands::data::{CheckInput, as_text};
use crate::commands::export::unused;
use crate::commands::row_report::text;
use crate::error::{Error, Result};
use crate::executors::shell_quoted;
use crate::sources;
use crate::terminal::{print, warn};
use clap::Args;
use duel_model::Pretrained;
use duel_spec::{Document, Experiment};
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item};

#[derive(Debug, Args)]
pub struct InitArgs {
    /// The folder to write experiment.toml to; its name becomes the experiment's
    pub folder: PathBuf,
    /// The rows: files, folders or patterns, as `duel data check` reads them
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    pub rows: Vec<PathBuf>,
    /// The model: a Hugging Face directory, a .gguf file, or its name on the hub
    #[arg(long, value_name = "DIR|FILE.gguf|NAME")]
    pub model: PathBuf,
    /// A setting of [world.rows], for example chat=never; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub columns: ColumnArgs,
}

/// The template that `duel init` fits, commented as a person would want it.
const TEMPLATE: &str = include_str!("../../../../experiments/own-data.toml");

const INIT_HINT: &str =
    "copy experiments/own-data.toml, name the file as world.rows.train, and choose a [judge] that is not \"world\"";

/// A line of the template, and what stands for it where the loss couples the pairs of a batch.
const IN_PARTS: &str = "accumulate = 4                  # parts that a batch is read in: the same update in less memory. `recompute = true` does with less still";
const WHOLE: &str = "recompute = true                # less memory; kto's batches may not be read in parts";

/// A path as a person may copy it into a shell.
fn word(path: &str) -> String {
    let is_plain = path.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    if is_plain { path.into() } else { shell_quoted(path) }
}

/// An experiment's name for a folder.
fn name_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    if name.is_empty() { "own-data".into() } else { name }
}

/// Sets a key of the template, with its comment where it was; one that the template leaves to its default is added.
fn set(document: &mut DocumentMut, key: &str, value: toml_edit::Value) {
    let (tables, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut table = document.as_table_mut();
    for below in tables.split('.').filter(|below| !below.is_empty()) {
        table = table[below].as_table_mut().expect("the template is tested to have its tables");
    }
    let Some(old) = table.get_mut(name).and_then(Item::as_value_mut) else {
        table.insert(name, Item::Value(value));
        return;
    };
    let text = |value: &toml_edit::Value| value.clone().decorated("", "").to_string().chars().count();
    let suffix = old.decor().suffix().and_then(|suffix| suffix.as_str()).unwrap_or_default();
    let comment = suffix.trim_start_matches(' ');
    let column = text(old) + suffix.len() - comment.len();
    let gap = if comment.is_empty() { 0 } else { column.saturating_sub(text(&value)).max(1) };
    let suffix = " ".repeat(gap) + comment;
    *old = value.decorated(" ", suffix);
}

/// The template, for pairs or for single completions with a label.
fn template(is_unpaired: bool) -> String {
    let replacements = match is_unpaired {
        true => [("# columns\n", ""), (IN_PARTS, WHOLE), ("# loss = \"kto\"  ", "loss = \"kto\"    ")].as_slice(),
        false => &[("# columns\n", "")],
    };
    replacements.iter().fold(TEMPLATE.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Tokens of prompts and of responses that a context holds: responses give way down to half of it, then prompts.
fn within_context([prompt, response]: [usize; 2], context: usize) -> [usize; 2] {
    if prompt + response <= context {
        return [prompt, response];
    }
    let response = response.min(context.saturating_sub(prompt).max(context / 2)).max(1);
    [context.saturating_sub(response).max(1), response]
}

/// A setting of `[world.rows]`, which was checked with the rows, as key and value of the file.
fn row_setting(setting: &str) -> Result<(String, toml_edit::Value)> {
    let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
    let key = key.trim().trim_start_matches("world.rows.");
    if key.contains('.') {
        return Err(unused(&format!("--set {key}"), "only keys of [world.rows] are; write others into the file"));
    }
    let value: toml_edit::Value = value.parse().unwrap_or_else(|_| value.into());
    let value = match value.as_str() {
        Some(file) if key == "chat_template" && !file.is_empty() => absolute(Path::new(file), "chat template")?.into(),
        _ => value,
    };
    Ok((format!("world.rows.{key}"), value))
}

/// Writes `experiment.toml` into a folder that has none.
fn write_new(folder: &Path, text: &str) -> Result<PathBuf> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    std::fs::create_dir_all(folder).map_err(io("create", folder))?;
    let to = folder.join("experiment.toml");
    let mut file = std::fs::File::create_new(&to).map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => Error::Occupied {
            path: to.clone(),
            problem: "exists already".into(),
            hint: "choose another folder, or remove the file: `duel init` replaces nothing",
        },
        _ => io("create", &to)(source),
    })?;
    std::io::Write::write_all(&mut file, text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write", &to))?;
    Ok(to)
}

/// A path from the root, or a name on the hub, as text.
fn absolute(path: &Path, what: &'static str) -> Result<String> {
    let absolute = std::path::absolute(path).ok().filter(|_| !sources::is_hub_name(path));
    as_text(absolute.as_deref().unwrap_or(path), what).map(String::from)
}

/// Paths of rows as `world.rows.train` has them: one by itself, several as a list.
fn rows_value(rows: &[PathBuf]) -> Result<toml_edit::Value> {
    let paths = rows.iter().map(|path| absolute(path, "file of rows")).collect::<Result<Vec<_>>>()?;
    Ok(match paths.as_slice() {
        [one] => one.into(),
        several => several.iter().collect::<toml_edit::Array>().into(),
    })
}

/// Writes an experiment fitted to rows and a model.
///
/// # Errors
/// Rows of which too few can be used; an experiment that is there already.
pub fn init(args: &InitArgs) -> Result<()> {
    // 1. What the rows are like, with nothing left out for its length.
    let input = CheckInput::unlimited(&args.rows, &args.set, &args.model, &args.columns)?;
    let report = input.check(0)?;
    if report.stats.has_only_prompts() {
        print(&text(&report, &input.name, &input.source));
        return Err(Error::OnlyPrompts { what: "an experiment fitted to rows", hint: INIT_HINT });
    }
    let lengths = (report.prompt, report.chosen, report.rejected);
    let (Some(prompt), Some(chosen), Some(rejected), true) = (lengths.0, lengths.1, lengths.2, report.stats.kept > 0)
    else {
        print(&text(&report, &input.name, &input.source));
        return Err(Error::Rows { of: input.name, needs_fixing: true });
    };

    // 2. Sizes that hold nine of ten, or as many as the model's context does, and the hold-out, in round numbers.
    let round = |n: usize| n.next_multiple_of(8).max(8);
    let lengths = [prompt.ninety, chosen.ninety.max(rejected.ninety)].map(round);
    let context = Pretrained::open(&sources::model(&args.model)?)?.config.context;
    let [prompt_tokens, response_tokens] = within_context(lengths, context);
    if [prompt_tokens, response_tokens] != lengths {
        warn(&[format!(
            "nine of ten prompts have up to {} tokens and nine of ten completions up to {}, but the model's context is {context}: \
             prompt_tokens = {prompt_tokens}, response_tokens = {response_tokens}",
            lengths[0], lengths[1]
        )]);
    }
    let (usable, is_unpaired) = (report.stats.kept, report.stats.usable_single() != [0, 0]);
    let holdout = (usable / 10).clamp(2, 256);
    let rows = usable.saturating_sub(2 * holdout).clamp(2, 4096);
    let batch = if rows >= 64 { 16 } else { 4 };
    let folder = absolute(&args.folder, "folder")?;
    let settings = args.set.iter().map(|setting| row_setting(setting)).collect::<Result<Vec<_>>>()?;
    let columns = args.columns.0.iter().map(|(role, name)| (format!("world.rows.{role}"), name.into()));
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX).into();
    let values: [(&str, toml_edit::Value); 11] = [
        ("name", name_of(Path::new(&folder)).into()),
        ("world.rows.train", rows_value(&args.rows)?),
        ("world.rows.prompt_tokens", number(prompt_tokens)),
        ("world.rows.response_tokens", number(response_tokens)),
        ("model.from", absolute(&args.model, "model")?.into()),
        ("stages.pairs.rows", number(rows)),
        ("stages.pairs.holdout_rows", number(holdout)),
        ("stages.rm.steps", number((3 * rows / batch).clamp(8, 400))),
        ("stages.rm.batch_size", number(batch)),
        ("arms.dpo.batch_size", number(batch)),
        ("evaluation.prompts", number(holdout.min(64))),
    ];
    let mut fitted: DocumentMut = template(is_unpaired).parse().expect("the template is tested to parse");
    columns.for_each(|(key, name)| set(&mut fitted, &key, name));
    values.into_iter().for_each(|(key, value)| set(&mut fitted, key, value));
    settings.into_iter().for_each(|(key, value)| set(&mut fitted, &key, value));
    let fitted = fitted.to_string();
    let experiment = Experiment::from_document(&Document::parse("experiment.toml", &fitted, &[])?)?;

    // 3. The file, where none is; and what a run of it would use.
    let to = write_new(&args.folder, &fitted)?;
    let name = input.name;
    let input = CheckInput::of_experiment(experiment, &to)?;
    let report = input.check(0)?;
    print(&text(&report, &name, &input.source));
    warn(input.judge_warning(&report).as_slice());
    print(&format!(
        "\nwrote {0}; next:\n  duel plan {0}    what it will cost here\n  duel run {0}     both arms, to the page\n",
        word(&to.to_string_lossy())
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::{ColumnRole, RowPaths};

    #[test]
    fn sizes_are_within_the_context() {
        assert_eq!(within_context([64, 64], 128), [64, 64]);
        assert_eq!(within_context([40, 200], 128), [40, 88], "the prompts stay whole");
        assert_eq!(within_context([100, 60], 128), [68, 60], "responses of less than half stay whole");
        assert_eq!(within_context([500, 500], 128), [64, 64]);
    }

    #[test]
    fn names_and_paths_of_any_letters_are_written_as_toml() {
        let hostile = [
            "plain",
            "with space",
            "C:\\rows\\new\\x.jsonl",
            "quo\"te's",
            "tab\tand\nline",
            "naïve–ключ–行",
            "\u{1}\u{7f}\u{200b}",
            "\"\"\"",
            "'''",
            "# no comment",
        ];
        for text in hostile {
            let mut document: DocumentMut = TEMPLATE.parse().expect("the template parses");
            for key in ["world.rows.train", "world.rows.chosen", "model.from"] {
                set(&mut document, key, text.into());
            }
            set(&mut document, "name", name_of(Path::new(text)).into());
            set(&mut document, "stages.pairs.rows", 77.into());
            let written = document.to_string();
            let read = Document::parse("t", &written, &[]).and_then(|document| Experiment::from_document(&document));
            let experiment = read.unwrap_or_else(|e| panic!("{text:?}: {e}\n{written}"));
            let rows = &experiment.world.rows;
            assert_eq!(rows.train, RowPaths::One(text.into()));
            assert_eq!([rows.column(ColumnRole::Chosen), Some(&experiment.model.from)], [Some(text); 2]);
            assert_eq!((experiment.stages.pairs.rows, rows.column(ColumnRole::Prompt)), (77, None));
            assert!(
                written.contains("\nrows = 77                       # of the training rows, at most\n"),
                "{written}"
            );
        }
        assert_eq!(name_of(Path::new("/")), "own-data");
        assert_eq!([word("a/b-1.toml"), word("it's here")], ["a/b-1.toml", "'it'\\''s here'"]);
    }
}
