//! `duel data check` and `duel init`: a person's own rows, before anything is trained.

use crate::cli::{CheckArgs, ColumnArgs, InitArgs, OutputFormat};
use crate::scene::PretrainedModel as Model;
use crate::{Error, Result, host, log, print};
use duel_data::check::{self, CheckOptions, DataReport, InputFile, Lengths};
use duel_data::records::Columns;
use duel_spec::Split;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::path::Path;
use toml_edit::{DocumentMut, Item};

/// Says what is wrong with rows, and what would become of them.
///
/// # Errors
/// Rows that ought to be mended.
pub fn check(args: &CheckArgs) -> Result<()> {
    if args.format == OutputFormat::Json {
        // the answer names its files
        let files = [Some(&args.file), args.validation.as_ref(), args.test.as_ref()];
        files.into_iter().flatten().try_for_each(|file| as_text(file, "file of rows").map(drop))?;
    }
    let found = findings(args)?;
    print(&match args.format {
        OutputFormat::Json => crate::terminal::json(&found),
        OutputFormat::Text => text(&found, args),
    });
    if found.needs_fixing() { Err(Error::Rows { path: args.file.clone() }) } else { Ok(()) }
}

/// A path where only text will do.
fn as_text<'a>(path: &'a Path, what: &'static str) -> Result<&'a str> {
    path.to_str().ok_or_else(|| Error::NotText { what, path: path.into() })
}

fn findings(args: &CheckArgs) -> Result<DataReport> {
    let model = args.model.as_ref().map(|path| Model::open(as_text(path, "model")?)).transpose()?;
    let date = duel_spec::RowsSettings::defaults().date;
    let encoder = model.as_ref().map(|model| model.encoder(&date)).transpose()?;
    let alone = args.validation.is_none() && args.test.is_none();
    let mut files = vec![InputFile { path: args.file.clone(), split: (!alone).then_some(Split::Train) }];
    for (path, split) in [(&args.validation, Split::Validation), (&args.test, Split::Test)] {
        files.extend(path.iter().map(|path| InputFile { path: path.clone(), split: Some(split) }));
    }
    let ColumnArgs { prompt, chosen, rejected } = args.columns.clone();
    let asked = CheckOptions {
        columns: Columns { prompt, chosen, rejected },
        encoder: encoder.as_ref(),
        prompt_tokens: args.prompt_tokens.map_or(usize::MAX, |most| most as usize),
        response_tokens: args.response_tokens.map_or(usize::MAX, |most| most as usize),
    };
    let bar = match log::is_quiet() || host::is_dumb_terminal() {
        true => ProgressBar::hidden(),
        false => ProgressBar::new_spinner(),
    };
    if let Ok(style) = ProgressStyle::with_template("{human_pos} rows read  {elapsed}") {
        bar.set_style(style);
    }
    let found = check::check(&files, &asked, |rows| bar.set_position(rows as u64))?;
    bar.finish_and_clear();
    Ok(found)
}

/// A number with commas.
fn many(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn text(found: &DataReport, args: &CheckArgs) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let kinds = [
        (found.pairs, "pairs"),
        (found.judged, "completions with a label"),
        (found.prompts_alone, "prompts alone"),
        (found.unreadable, "unreadable"),
    ];
    let kinds: Vec<String> =
        kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{} {kind}", many(*n))).collect();
    line(format!("{}: {} rows: {}", args.file.display(), many(found.rows), kinds.join(", ")));
    if found.with_margin + found.with_scores > 0 {
        line(format!("  {} with a margin, {} with scores", many(found.with_margin), many(found.with_scores)));
    }
    if !found.first.is_empty() {
        line("what is wrong".into());
        for problem in &found.first {
            line(format!("  {}:{}: {}", problem.file.display(), problem.line, problem.what));
        }
        let all: usize = found.problems.values().sum();
        if all > found.first.len() {
            line(format!("  and {} more; in all:", many(all - found.first.len())));
            for (kind, n) in &found.problems {
                line(format!("  {:>8}  {kind}", many(*n)));
            }
        }
    }
    line(format!("lengths, {:<14} median    90 %    99 %    most", found.unit));
    for (name, lengths) in [("prompt", found.prompt), ("chosen", found.chosen), ("rejected", found.rejected)] {
        if let Some(Lengths { median, ninety, ninety_nine, most }) = lengths {
            line(format!("  {name:<20} {median:>7} {ninety:>7} {ninety_nine:>7} {most:>7}"));
        }
    }
    if args.model.is_some() {
        let too_long = [
            (found.prompts_too_long, "prompts", args.prompt_tokens, "--prompt-tokens"),
            (found.responses_too_long, "completions", args.response_tokens, "--response-tokens"),
        ];
        for (n, what, most, option) in too_long {
            let Some(most) = most else { continue };
            line(format!("  {} rows have {what} of more than {most} tokens and are left out ({option})", many(n)));
        }
        line(format!(
            "  {} rows change tokens where prompt and completion are joined{}",
            many(found.boundaries),
            if found.boundaries > 0 { ": end prompts without a space, begin completions with it" } else { "" }
        ));
        for (n, what) in [
            (found.cut, "have a completion that goes on after its first end token, and is cut there"),
            (found.empty, "have a completion that is empty"),
        ] {
            if n > 0 {
                line(format!("  {} rows {what}", many(n)));
            }
        }
    } else {
        line("  give --model to count tokens, and to see what is too long for it".into());
    }
    line(format!("{} prompts, {} of them in more than one split", many(found.prompts), many(found.leaks)));
    line(format!("{} duplicates, {} pairs whose completions are the same", many(found.duplicates), many(found.same)));
    if found.has_only_prompts() {
        line("prompts alone: the model writes two completions to each, and the judge labels them; choose one that is not \"world\"".into());
    } else if found.pairs > 0 || found.judged == 0 {
        line(format!("{} pairs can be used", many(found.usable)));
    }
    if found.judged > 0 {
        let [wanted, unwanted] = [found.usable_wanted, found.usable_unwanted].map(many);
        line(format!(
            "{wanted} wanted and {unwanted} unwanted completions can be used, with loss = \"kto\" or \"aot_unpaired\""
        ));
    }
    out
}

/// The template that `duel init` fits, commented as a person would want it.
const TEMPLATE: &str = include_str!("../../../experiments/own-data.toml");

const INIT_HINT: &str =
    "copy experiments/own-data.toml, name the file as world.rows.train, and choose a [judge] that is not \"world\"";

/// A line of the template, and what stands for it where the loss couples the pairs of a batch.
const IN_PARTS: &str = "accumulate = 4                  # parts that a batch is read in: the same update in less memory. `recompute = true` does with less still";
const WHOLE: &str = "recompute = true                # less memory; kto's batches may not be read in parts";

/// A path as a person may copy it into a shell.
fn word(path: &str) -> String {
    let is_plain = path.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    if is_plain { path.into() } else { crate::slurm::quoted(path) }
}

/// An experiment's name for a folder.
fn name_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    if name.is_empty() { "own-data".into() } else { name }
}

/// Sets a key of the template, with its comment where it was; one that the template leaves to its default is added where the
/// value is another.
fn set(document: &mut DocumentMut, key: &str, value: toml_edit::Value) {
    let (tables, name) = key.rsplit_once('.').unwrap_or(("", key));
    let mut table = document.as_table_mut();
    for below in tables.split('.').filter(|below| !below.is_empty()) {
        table = table[below].as_table_mut().expect("the template is tested to have its tables");
    }
    let Some(old) = table.get_mut(name).and_then(Item::as_value_mut) else {
        if value.as_str() != Some(name) {
            table.insert(name, Item::Value(value));
        }
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

/// Writes an experiment fitted to rows and a model.
///
/// # Errors
/// Rows of which too few can be used; an experiment that is there already.
pub fn init(args: &InitArgs) -> Result<()> {
    // 1. What the rows are like, with nothing left out for its length.
    let asked = CheckArgs {
        file: args.rows.clone(),
        model: Some(args.model.clone()),
        validation: None,
        test: None,
        prompt_tokens: None,
        response_tokens: None,
        columns: args.columns.clone(),
        format: OutputFormat::Text,
    };
    let found = findings(&asked)?;
    if found.has_only_prompts() {
        print(&text(&found, &asked));
        return Err(Error::OnlyPrompts { what: "an experiment fitted to rows", hint: INIT_HINT });
    }
    let (Some(prompt), Some(chosen), Some(rejected)) = (found.prompt, found.chosen, found.rejected) else {
        print(&text(&found, &asked));
        return Err(Error::Rows { path: args.rows.clone() });
    };

    // 2. Sizes that hold nine of ten, and the hold-out, in round numbers.
    let round = |n: usize| n.next_multiple_of(8).max(8);
    let (usable, is_unpaired) = (found.usable_rows(), found.usable_wanted > 0);
    let holdout = (usable / 10).clamp(2, 256);
    let rows = usable.saturating_sub(2 * holdout).clamp(2, 4096);
    let batch = if rows >= 64 { 16 } else { 4 };
    let is = |plain: &str, unpaired: &str| if is_unpaired { unpaired.to_string() } else { plain.to_string() };
    let lines = [
        ("# columns\n", String::new()),
        (IN_PARTS, is(IN_PARTS, WHOLE)),
        ("# loss = \"kto\"  ", is("# loss = \"kto\"  ", "loss = \"kto\"    ")),
    ];
    let template = lines.into_iter().fold(TEMPLATE.to_owned(), |text, (from, to)| text.replace(from, &to));
    let whole = |path: &Path, what| {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.into());
        as_text(&whole, what).map(String::from)
    };
    let folder = whole(&args.folder, "folder")?;
    let columns = &args.columns;
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX).into();
    let values: [(&str, toml_edit::Value); 14] = [
        ("name", name_of(Path::new(&folder)).into()),
        ("world.rows.train", whole(&args.rows, "file of rows")?.into()),
        ("world.rows.prompt", columns.prompt.as_str().into()),
        ("world.rows.chosen", columns.chosen.as_str().into()),
        ("world.rows.rejected", columns.rejected.as_str().into()),
        ("world.rows.prompt_tokens", number(round(prompt.ninety))),
        ("world.rows.response_tokens", number(round(chosen.ninety.max(rejected.ninety)))),
        ("model.from", whole(&args.model, "model")?.into()),
        ("stages.pairs.rows", number(rows)),
        ("stages.pairs.holdout_rows", number(holdout)),
        ("stages.rm.steps", number((3 * rows / batch).clamp(8, 400))),
        ("stages.rm.batch_size", number(batch)),
        ("arms.dpo.batch_size", number(batch)),
        ("evaluation.prompts", number(holdout.min(64))),
    ];
    let mut fitted: DocumentMut = template.parse().expect("the template is tested to parse");
    values.into_iter().for_each(|(key, value)| set(&mut fitted, key, value));
    let fitted = fitted.to_string();
    duel_spec::Experiment::from_document(&duel_spec::Document::parse("experiment.toml", &fitted, &[])?)?;

    // 3. The file, where none is.
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { action, path, source }
    };
    std::fs::create_dir_all(&args.folder).map_err(io("create", &args.folder))?;
    let to = args.folder.join("experiment.toml");
    let mut file = std::fs::File::create_new(&to).map_err(io("create", &to))?;
    std::io::Write::write_all(&mut file, fitted.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write", &to))?;
    print(&text(&found, &asked));
    print(&format!(
        "\nwrote {0}; next:\n  duel plan {0}    what it will cost here\n  duel run {0}     both arms, to the page\n",
        word(&to.to_string_lossy())
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::{Document, Experiment};

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
            assert_eq!([&rows.train, &rows.chosen, &experiment.model.from], [text; 3]);
            assert_eq!((experiment.stages.pairs.rows, rows.prompt.as_str()), (77, "prompt"));
            assert!(
                written.contains("\nrows = 77                       # of the training rows, at most\n"),
                "{written}"
            );
        }
        assert_eq!(name_of(Path::new("/")), "own-data");
        assert_eq!([word("a/b-1.toml"), word("it's here")], ["a/b-1.toml", "'it'\\''s here'"]);
    }
}
