//! `duel data check` and `duel init`: a person's own rows, before anything is trained.

use crate::commands::args::{ColumnArgs, OutputFormat};
use crate::error::{Error, Result};
use crate::log;
use crate::sources;
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
    /// The rows: .jsonl, .json, .csv, .tsv or .parquet, or hub:org/name[/config][:split]
    pub file: PathBuf,
    /// The model whose tokenizer and chat template read them; lengths are in words without one
    #[arg(long, value_name = "DIR|FILE.gguf|NAME")]
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
    let report = findings(args)?;
    print(&match args.format {
        OutputFormat::Json => crate::terminal::json(&report),
        OutputFormat::Text => text(&report, args),
    });
    if report.needs_fixing() { Err(Error::Rows { path: args.file.clone() }) } else { Ok(()) }
}

/// A path where only text will do.
pub fn as_text<'a>(path: &'a Path, what: &'static str) -> Result<&'a str> {
    path.to_str().ok_or_else(|| Error::NotText { what, path: path.into() })
}

pub fn findings(args: &CheckArgs) -> Result<DataReport> {
    let model = args.model.as_ref().map(|path| Model::open(as_text(path, "model")?)).transpose()?;
    let rows = duel_spec::RowsSettings::defaults();
    let encoder = model.as_ref().map(|model| model.encoder(&rows)).transpose()?;
    let alone = args.validation.is_none() && args.test.is_none();
    let mut files = vec![];
    let named = [
        (Some(&args.file), Split::Train),
        (args.validation.as_ref(), Split::Validation),
        (args.test.as_ref(), Split::Test),
    ];
    for (from, split) in named.into_iter().filter_map(|(from, split)| Some((from?, split))) {
        let split = (!alone).then_some(split);
        files.extend(sources::rows(from)?.into_iter().map(|path| InputFile { path, split }));
    }
    let ColumnArgs { prompt, chosen, rejected } = args.columns.clone();
    let options = CheckOptions {
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
    let report = check::check(&files, &options, |rows| bar.set_position(rows as u64))?;
    bar.finish_and_clear();
    Ok(report)
}

/// A number with commas.
fn with_commas(n: usize) -> String {
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

/// What would be left out or change when rows become tokens of the model.
fn token_lines(report: &DataReport, args: &CheckArgs) -> Vec<String> {
    let mut lines = vec![];
    let too_long = [
        (report.prompts_too_long, "prompts", args.prompt_tokens, "--prompt-tokens"),
        (report.responses_too_long, "completions", args.response_tokens, "--response-tokens"),
    ];
    for (n, what, most, option) in too_long {
        let Some(most) = most else { continue };
        lines.push(format!(
            "  {} rows have {what} of more than {most} tokens and are left out ({option})",
            with_commas(n)
        ));
    }
    lines.push(format!(
        "  {} rows whose prompt ends before a token that holds the beginning of a completion{}",
        with_commas(report.merged),
        if report.merged > 0 { ": end prompts without a space, begin completions with it" } else { "" }
    ));
    for (n, what) in [
        (
            report.shortened,
            "have a completion that changes the text of its prompt, which then ends where both still agree",
        ),
        (report.cut, "have a completion that goes on after its first end token, and is cut there"),
        (report.empty, "have a completion that is empty"),
    ] {
        if n > 0 {
            lines.push(format!("  {} rows {what}", with_commas(n)));
        }
    }
    lines
}

pub fn text(report: &DataReport, args: &CheckArgs) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    let kinds = [
        (report.pairs, "pairs"),
        (report.judged, "completions with a label"),
        (report.prompts_alone, "prompts alone"),
        (report.unreadable, "unreadable"),
    ];
    let kinds: Vec<String> =
        kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{} {kind}", with_commas(*n))).collect();
    line(format!("{}: {} rows: {}", args.file.display(), with_commas(report.rows), kinds.join(", ")));
    if report.with_margin + report.with_scores > 0 {
        line(format!(
            "  {} with a margin, {} with scores",
            with_commas(report.with_margin),
            with_commas(report.with_scores)
        ));
    }
    if !report.first.is_empty() {
        line("what is wrong".into());
        for problem in &report.first {
            line(format!("  {}:{}: {}", problem.file.display(), problem.line, problem.what));
        }
        let all: usize = report.problems.values().sum();
        if all > report.first.len() {
            line(format!("  and {} more; in all:", with_commas(all - report.first.len())));
            for (kind, n) in &report.problems {
                line(format!("  {:>8}  {kind}", with_commas(*n)));
            }
        }
    }
    line(format!("lengths, {:<14} median    90 %    99 %    most", report.unit));
    for (name, lengths) in [("prompt", report.prompt), ("chosen", report.chosen), ("rejected", report.rejected)] {
        if let Some(Lengths { median, ninety, ninety_nine, most }) = lengths {
            line(format!("  {name:<20} {median:>7} {ninety:>7} {ninety_nine:>7} {most:>7}"));
        }
    }
    if args.model.is_some() {
        token_lines(report, args).into_iter().for_each(&mut line);
    } else {
        line("  give --model to count tokens, and to see what is too long for it".into());
    }
    line(format!(
        "{} prompts, {} of them in more than one split",
        with_commas(report.prompts),
        with_commas(report.leaks)
    ));
    line(format!(
        "{} duplicates, {} pairs whose completions are the same",
        with_commas(report.duplicates),
        with_commas(report.same)
    ));
    if report.has_only_prompts() {
        line("prompts alone: the model writes two completions to each, and the judge labels them; choose one that is not \"world\"".into());
    } else if report.pairs > 0 || report.judged == 0 {
        line(format!("{} pairs can be used", with_commas(report.usable)));
    }
    if report.judged > 0 {
        let [wanted, unwanted] = [report.usable_wanted, report.usable_unwanted].map(with_commas);
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
