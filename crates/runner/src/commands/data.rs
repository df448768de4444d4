//! `duel data check`: a person's own rows, before anything is trained.

use crate::commands::args::{ColumnArgs, OutputFormat};
use crate::commands::row_report;
use crate::error::{Error, Result};
use crate::sources;
use crate::task_progress::TaskProgress;
use crate::terminal::{is_colored, print_styled, sanitize, warn};
use crate::world::{PretrainedModel, row_source, source_of};
use clap::{Args, Subcommand};
use duel_data::check::{self, DataReport};
use duel_data::rows::RowSource;
use duel_spec::{Document, Experiment, JudgeKind, RowsSettings, Split, WorldKind};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Check preference rows: errors line by line, lengths, and which rows a run would use
    ///
    /// Accepts JSON lines, JSON, CSV and parquet, with pairs, labelled completions or prompts alone, as text or conversations. Given an experiment file, checks its rows with its own settings. Exit code 1 if rows should be fixed.
    Check(CheckArgs),
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The rows: .jsonl, .json, .csv, .tsv or .parquet files, also compressed (.gz, .zst); folders or patterns; hub:org/name[/config][:split]; or an experiment file (.toml)
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// The model whose tokenizer and chat template are used; without it, lengths are counted in words
    #[arg(long, value_name = "DIR|FILE.gguf|NAME")]
    pub model: Option<PathBuf>,
    /// A separate file of validation rows
    #[arg(long, value_name = "FILE")]
    pub validation: Option<PathBuf>,
    /// A separate file of test rows
    #[arg(long, value_name = "FILE")]
    pub test: Option<PathBuf>,
    /// Maximum tokens of a prompt; the same as --set prompt_tokens=N
    #[arg(long, value_name = "N", value_parser = tokens())]
    pub prompt_tokens: Option<u32>,
    /// Maximum tokens of a completion; the same as --set response_tokens=N
    #[arg(long, value_name = "N", value_parser = tokens())]
    pub response_tokens: Option<u32>,
    /// Override a setting of [world.rows], for example long_prompts=cut; with an experiment file, any setting; repeatable
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    #[command(flatten)]
    pub columns: ColumnArgs,
    /// Print the first N usable rows token by token, showing which tokens the loss is on
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub show: u32,
    /// Exit code 1 for warnings too
    #[arg(long)]
    pub strict: bool,
    /// Output for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub format: OutputFormat,
}

/// What is checked: of files with settings from the command line, or of an experiment.
pub struct CheckInput {
    /// What was given, in words.
    pub name: String,
    pub source: RowSource,
    model: Option<String>,
    settings: RowsSettings,
    /// Whether these are the files and limits of a run.
    pub is_whole: bool,
    /// Whether that run learns its judge from them.
    is_judged_by_rows: bool,
}

/// Says what is wrong with rows, and what would become of them.
///
/// # Errors
/// Rows that should be fixed.
pub fn check(args: &CheckArgs) -> Result<()> {
    let input = args.input()?;
    if args.show > 0 && input.model.is_none() {
        let reason = "tokens are those of a model: give --model".into();
        return Err(Error::Unused { option: "--show".into(), reason });
    }
    let report = input.check(args.show as usize)?;
    print_styled(&match args.format {
        OutputFormat::Json => crate::terminal::json(&report),
        OutputFormat::Text => {
            let text = row_report::text(&report, &input.name, &input.source);
            sanitize(&text).into_owned() + &row_report::examples(&report.examples, is_colored())
        }
    });
    warn(input.judge_warning(&report).as_slice());
    let needs_fixing = report.needs_fixing(input.is_whole);
    if needs_fixing || (args.strict && report.has_findings()) {
        return Err(Error::Rows { of: input.name, needs_fixing });
    }
    Ok(())
}

/// A path where only text will do.
pub fn as_text<'a>(path: &'a Path, what: &'static str) -> Result<&'a str> {
    path.to_str().ok_or_else(|| Error::NotText { what, path: path.into() })
}

/// Paths in words, as they were given: the first of many, and how many files they are where these are more.
fn name_of(paths: &[&Path], source: &RowSource) -> String {
    const LISTED: usize = 4;
    let names = paths.iter().take(LISTED).map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
    let more = match paths.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let files = source.files.len();
    let count = if files > paths.len() { format!(" ({files} files)") } else { String::new() };
    format!("{names}{more}{count}")
}

/// `key=value` for `--set`, of any text.
fn assignment(key: &str, text: &str) -> String {
    format!("{key}={}", toml_edit::Value::from(text))
}

/// An experiment without rows of its own, for the settings of `[world.rows]`.
const ONLY_ROWS: &str =
    "[world]\nkind = \"rows\"\n[world.rows]\ntrain = \"-\"\n[model]\nfrom = \"-\"\n[arms.dpo]\nmethod = \"dpo\"\n";

impl CheckArgs {
    /// Reads the settings, and finds the files.
    fn input(&self) -> Result<CheckInput> {
        if self.format == OutputFormat::Json {
            // the answer names its files
            self.paths().try_for_each(|file| as_text(file, "file of rows").map(drop))?;
        }
        let is_experiment =
            |file: &&PathBuf| file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
        match self.files.iter().find(is_experiment) {
            Some(file) => self.experiment_input(file),
            None => self.file_input(),
        }
    }

    /// All paths, training rows first.
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.iter().chain(&self.validation).chain(&self.test)
    }

    /// Options that stand for a setting of `[world.rows]`.
    fn row_settings(&self) -> Vec<String> {
        let columns = self.columns.0.iter();
        let limits = [("prompt_tokens", self.prompt_tokens), ("response_tokens", self.response_tokens)];
        let limits = limits.into_iter().filter_map(|(key, most)| Some(format!("world.rows.{key}={}", most?)));
        columns.map(|(role, name)| assignment(&format!("world.rows.{role}"), name)).chain(limits).collect()
    }

    fn experiment_input(&self, file: &Path) -> Result<CheckInput> {
        if let Some(path) = self.files.iter().find(|path| *path != file) {
            let reason = "an experiment names its files of rows itself".into();
            return Err(Error::Unused { option: path.display().to_string(), reason });
        }
        let mut settings = self.set.clone();
        settings.extend(self.row_settings());
        for (key, path, what) in [
            ("model.from", &self.model, "model"),
            ("world.rows.validation", &self.validation, "file of rows"),
            ("world.rows.test", &self.test, "file of rows"),
        ] {
            if let Some(path) = path {
                settings.push(assignment(key, as_text(path, what)?));
            }
        }
        let (experiment, _) = Experiment::load(file, &settings)?;
        if experiment.world.kind != WorldKind::Rows {
            let (option, reason) = (file.display().to_string(), "only world.kind = \"rows\" has rows to check");
            return Err(Error::Unused { option, reason: reason.into() });
        }
        CheckInput::of_experiment(experiment, file)
    }

    fn file_input(&self) -> Result<CheckInput> {
        let full_key = |setting: &String| match setting.starts_with("world.") {
            true => setting.clone(),
            false => format!("world.rows.{setting}"),
        };
        let settings: Vec<String> = self.set.iter().map(full_key).chain(self.row_settings()).collect();
        let document = Document::parse("the settings of `duel data check`", ONLY_ROWS, &settings)?;
        let settings = Experiment::from_document(&document)?.world.rows;
        let is_split = self.validation.is_some() && self.test.is_some();
        let train = self.files.iter().map(|from| (from, is_split.then_some(Split::Train)));
        let others = [(&self.validation, Split::Validation), (&self.test, Split::Test)];
        let others = others.into_iter().filter_map(|(from, split)| Some((from.as_ref()?, Some(split))));
        let mut files = vec![];
        for (from, split) in train.chain(others) {
            files.extend(sources::rows(from)?.into_iter().map(|path| (split, path)));
        }
        let model = self.model.as_ref().map(|path| as_text(path, "model").map(String::from)).transpose()?;
        let source = source_of(&settings, files, [usize::MAX; 2]);
        let name = name_of(&self.paths().map(PathBuf::as_path).collect::<Vec<_>>(), &source);
        Ok(CheckInput { name, source, model, settings, is_whole: false, is_judged_by_rows: false })
    }
}

impl CheckInput {
    /// Of files of rows, settings of `[world.rows]` and a model, with nothing too long.
    pub fn unlimited(rows: &[PathBuf], set: &[String], model: &Path, columns: &ColumnArgs) -> Result<Self> {
        let args = CheckArgs {
            files: rows.into(),
            model: Some(model.into()),
            validation: None,
            test: None,
            prompt_tokens: None,
            response_tokens: None,
            set: set.into(),
            columns: columns.clone(),
            show: 0,
            strict: false,
            format: OutputFormat::Text,
        };
        let mut input = args.file_input()?;
        (input.source.prompt_tokens, input.source.response_tokens) = (usize::MAX, usize::MAX);
        Ok(input)
    }

    /// Of the experiment in a file.
    pub fn of_experiment(experiment: Experiment, file: &Path) -> Result<Self> {
        let source = row_source(&experiment)?;
        let is_judged_by_rows = experiment.judge.kind == JudgeKind::World;
        let (model, settings) = (Some(experiment.model.from.clone()), experiment.world.rows);
        Ok(Self { name: name_of(&[file], &source), source, model, settings, is_whole: true, is_judged_by_rows })
    }

    /// What is to be said of the judge of a run of these rows.
    pub fn judge_warning(&self, report: &DataReport) -> Option<String> {
        let [_, validation, test] = report.stats.kept_by_split;
        self.is_judged_by_rows.then(|| duel_report::weak_judge(validation + test)).flatten()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let size = |(_, path): &(Option<Split>, PathBuf)| std::fs::metadata(path).map_or(0, |file| file.len());
        self.source.files.iter().map(size).sum()
    }

    /// Reads all rows.
    pub fn check(&self, examples: usize) -> Result<DataReport> {
        let open = |from| PretrainedModel::with_template(from, &self.settings.chat_template);
        let model = self.model.as_deref().map(open).transpose()?;
        let encoder = model.as_ref().map(|model| model.encoder(&self.settings)).transpose()?;
        let all = self.bytes();
        let mut progress = TaskProgress::new("reading rows");
        let on_row = |rows, bytes| progress.update(bytes, all, || format!("{} rows", row_report::with_commas(rows)));
        Ok(check::check(&self.source, encoder.as_ref(), examples, on_row)?)
    }
}

/// Tokens of a text, as the keys of the experiment accept them.
fn tokens() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_are_named_or_counted() {
        let named = |paths: &[&str], files: usize| {
            let mut source = source_of(&RowsSettings::defaults(), vec![], [1, 1]);
            source.files = vec![(None, PathBuf::new()); files];
            name_of(&paths.iter().map(Path::new).collect::<Vec<_>>(), &source)
        };
        assert_eq!(named(&["a.jsonl"], 1), "a.jsonl");
        assert_eq!(named(&["a.jsonl", "b/c.csv"], 2), "a.jsonl, b/c.csv");
        assert_eq!(named(&["rows"], 12), "rows (12 files)");
        assert_eq!(named(&["a", "b", "c", "d", "e", "f"], 9), "a, b, c, d and 2 more (9 files)");
    }
}
