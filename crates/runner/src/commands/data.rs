//! `duel data check` and `duel init`: a person's own rows, before anything is trained.

use crate::commands::args::{ColumnArgs, OutputFormat};
use crate::error::{Error, Result};
use crate::log;
use crate::sysinfo;
use crate::terminal::print;
use crate::world::PretrainedModel as Model;
use clap::{Args, Subcommand};
use duel_data::check::{self, CheckOptions, DataReport, InputFile, Lengths};
use duel_data::records::Columns;
use duel_spec::Split;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::path::Path;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Say line by line what is wrong with rows, how long they are, and what would be left out
    ///
    /// JSON lines, JSON, CSV or parquet; pairs, completions with a label, or prompts alone, as text or as conversations. Exit
    /// code 1 where rows ought to be mended.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The rows: .jsonl, .json, .csv, .tsv or .parquet
    pub file: PathBuf,
    /// The model whose tokenizer and chat template read them; lengths are in words without one
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub model: Option<PathBuf>,
    /// Validation rows, in a file of their own
    #[arg(long, value_name = "FILE")]
    pub validation: Option<PathBuf>,
    /// Test rows, in a file of their own
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,
    /// Rows with longer prompts are left out
    #[arg(long, value_name = "N", default_value = "256", value_parser = tokens())]
    pub prompt_tokens: Option<u32>,
    /// Rows with longer completions are left out
    #[arg(long, value_name = "N", default_value = "128", value_parser = tokens())]
    pub response_tokens: Option<u32>,
    #[command(flatten)]
    pub columns: ColumnArgs,
    #[arg(long, value_enum, default_value = "text")]
    pub format: OutputFormat,
}

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
    if found.are_bad() { Err(Error::Rows { path: args.file.clone() }) } else { Ok(()) }
}

/// A path where only text will do.
pub fn as_text<'a>(path: &'a Path, what: &'static str) -> Result<&'a str> {
    path.to_str().ok_or_else(|| Error::NotText { what, path: path.into() })
}

pub fn findings(args: &CheckArgs) -> Result<DataReport> {
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
    let bar = match log::is_quiet() || sysinfo::is_dumb_terminal() {
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

pub fn text(found: &DataReport, args: &CheckArgs) -> String {
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
    if found.are_prompts_alone() {
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

/// Tokens of a text, as the keys of the experiment accept them.
fn tokens() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 20)
}
