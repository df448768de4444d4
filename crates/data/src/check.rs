//! Checks the user's rows line by line, and reports which of them a run would use. Memory grows by three bytes per row,
//! not with the size of a file.

use crate::Result;
use crate::encode::Encoder;
use crate::records::{self, BytesRead, ColumnPlan, Record};
use crate::rows::reader::{DecidedRow, RowSource, read_rows};
use crate::rows::{FindingKind, RowStats, RowTokens};
use serde::Serialize;
use std::path::PathBuf;

/// Longer texts are counted as of this length.
const MAX_LENGTH: usize = 1 << 16;

/// Quantiles of lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Lengths {
    pub median: usize,
    /// The 90th percentile.
    pub ninety: usize,
    pub ninety_nine: usize,
    pub most: usize,
}

/// What the columns of files are taken for.
#[derive(Debug, Clone, Serialize)]
pub struct FileColumns {
    /// Files that have one plan.
    pub files: Vec<PathBuf>,
    #[serde(flatten)]
    pub plan: ColumnPlan,
}

/// The result of a check.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DataReport {
    #[serde(flatten)]
    pub stats: RowStats,
    /// What the columns of the files are taken for.
    pub columns: Vec<FileColumns>,
    /// `tokens`, or `words` without a model.
    pub unit: &'static str,
    /// Before anything is cut.
    pub prompt: Option<Lengths>,
    pub chosen: Option<Lengths>,
    pub rejected: Option<Lengths>,
    /// Why a run would refuse these rows.
    pub refusal: Option<String>,
    /// The first rows that are used, token by token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<RowTokens>,
}

impl DataReport {
    /// How many rows have a kind of finding.
    pub fn count(&self, kind: FindingKind) -> usize {
        self.stats.count(kind)
    }

    /// Whether the rows should be fixed before training: some cannot be trained on, or none is left. `is_whole`: these are the
    /// files and settings of a run, which may also refuse them for a split without rows.
    pub fn needs_fixing(&self, is_whole: bool) -> bool {
        let is_empty = self.stats.kept == 0 && !self.stats.has_only_prompts();
        self.stats.findings.keys().any(|kind| kind.is_error()) || is_empty || (is_whole && self.refusal.is_some())
    }

    /// Whether anything was found.
    pub fn has_findings(&self) -> bool {
        !self.stats.findings.is_empty()
    }
}

/// A histogram of lengths.
#[derive(Debug, Default)]
struct LengthCounts {
    counts: Vec<u32>,
    most: usize,
}

impl LengthCounts {
    fn add(&mut self, length: usize) {
        let index = length.min(MAX_LENGTH);
        if self.counts.len() <= index {
            self.counts.resize(index + 1, 0);
        }
        self.counts[index] += 1;
        self.most = self.most.max(length);
    }

    fn lengths(&self) -> Option<Lengths> {
        let total: u64 = self.counts.iter().map(|n| u64::from(*n)).sum();
        let quantile = |share: f64| {
            let rank = (share * total as f64).ceil() as u64;
            let mut sum = 0;
            self.counts.iter().position(|n| {
                sum += u64::from(*n);
                sum >= rank.max(1)
            })
        };
        let (median, ninety, ninety_nine) = (quantile(0.5)?, quantile(0.9)?, quantile(0.99)?);
        Some(Lengths { median, ninety, ninety_nine, most: self.most })
    }
}

/// Checks files row by row; `on_row` is called with the rows and the bytes of the files that were read so far. With an encoder the first `examples` rows
/// that are used are given token by token.
///
/// # Errors
/// A file that is missing or in another format; problems within a file are part of the report.
pub fn check(
    source: &RowSource,
    encoder: Option<&Encoder>,
    examples: usize,
    mut on_row: impl FnMut(usize, u64),
) -> Result<DataReport> {
    let unit = if encoder.is_some() { "tokens" } else { "words" };
    let mut report = DataReport { unit, columns: plans(source, encoder)?, ..DataReport::default() };
    let mut lengths: [LengthCounts; 3] = Default::default(); // of prompts, chosen and rejected completions
    let mut example_error = None;
    let bytes = BytesRead::default();
    report.stats = read_rows(source, encoder, &bytes, |row, stats| {
        on_row(stats.read, bytes.get());
        add_lengths(&mut lengths, &row);
        if let Some(encoder) = encoder.filter(|_| report.examples.len() < examples) {
            match RowTokens::of(&row, source, encoder.tokenizer()) {
                Ok(tokens) => report.examples.extend(tokens),
                Err(e) => example_error = Some(e),
            }
        }
    })?;
    if let Some(error) = example_error {
        return Err(error);
    }
    report.refusal = report.stats.check().err().map(|e| e.to_string());
    let [prompt, chosen, rejected] = lengths.map(|counts| counts.lengths());
    Ok(DataReport { prompt, chosen, rejected, ..report })
}

/// The plans of the files' columns. Of plans that read alike the first stands for all.
fn plans(source: &RowSource, encoder: Option<&Encoder>) -> Result<Vec<FileColumns>> {
    let mut plans: Vec<FileColumns> = vec![];
    for (_, path) in &source.files {
        let mut plan = records::plan(path, &source.columns)?;
        if plan.has_tools() && encoder.is_some_and(|encoder| !encoder.reads_tools()) {
            plan.notes.push("the model's chat template does not read `tools`: they change nothing".into());
        }
        match plans.iter_mut().find(|other| other.plan.is_like(&plan)) {
            Some(other) => other.files.push(path.clone()),
            None => plans.push(FileColumns { files: vec![path.clone()], plan }),
        }
    }
    Ok(plans)
}

fn add_lengths(lengths: &mut [LengthCounts; 3], row: &DecidedRow) {
    lengths[0].add(row.lengths[0]);
    let side = if matches!(row.record, Record::Judged { desirable: false, .. }) { 2 } else { 1 };
    row.lengths[1..].iter().zip(&mut lengths[side..]).for_each(|(length, counts)| counts.add(*length));
}
