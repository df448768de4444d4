//! `metrics.parquet`, `completions.parquet` and `outcomes.parquet`.

use crate::{Error, Result, write_atomically};
use duel_spec::ids::hash_bytes;
use duel_spec::{Clocks, Completion, MetricRow, OutcomeRow};
use duel_tables::{Column, ColumnTable, TableReader, TableWriter};
use std::path::Path;
use std::sync::Arc;

/// Rows of a `metrics.parquet` that are in memory at a time.
pub(crate) const SCAN_ROWS: usize = 1 << 16;

pub(crate) fn corrupt(action: &'static str, path: &Path) -> impl Fn(duel_tables::Error) -> Error {
    let path = path.to_path_buf();
    move |e| Error::Table { action, path: path.clone(), problem: e.to_string() }
}

/// Writes a table.
fn write(path: &Path, table: ColumnTable) -> Result<()> {
    let mut writer = TableWriter::default();
    writer.write(table).map_err(corrupt("written", path))?;
    write_atomically(path, &writer.finish().map_err(corrupt("written", path))?)
}

pub(crate) fn open(path: &Path) -> Result<TableReader> {
    let file = crate::files::open(path).map_err(crate::files::io("open", path))?;
    TableReader::open(file).map_err(corrupt("read", path))
}

fn read(path: &Path) -> Result<ColumnTable> {
    open(path)?.read_all().map_err(corrupt("read", path))
}

/// Writes the rows of a `metrics.parquet`.
pub fn write_metrics(path: &Path, rows: &[MetricRow]) -> Result<()> {
    let table = ColumnTable::default()
        .with_text("arm", rows.iter().map(|r| &*r.arm))
        .with_text("method", rows.iter().map(|r| &*r.method))
        .with_text("point", rows.iter().map(|r| &*r.point))
        .with("seed", Column::U64(rows.iter().map(|r| r.seed).collect()))
        .with_text("stage", rows.iter().map(|r| &*r.stage))
        .with("step", Column::U64(rows.iter().map(|r| r.clocks.step).collect()))
        .with("tokens", Column::U64(rows.iter().map(|r| r.clocks.tokens).collect()))
        .with("flops", Column::F64(rows.iter().map(|r| r.clocks.flops).collect()))
        .with("wall_seconds", Column::F64(rows.iter().map(|r| r.clocks.wall_seconds).collect()))
        .with_text("metric", rows.iter().map(|r| &*r.metric))
        .with("value", Column::F64(rows.iter().map(|r| r.value).collect()));
    write(path, table)
}

/// A row of `metrics.parquet` with its names shared.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedMetricRow {
    pub arm: Arc<str>,
    pub method: Arc<str>,
    pub point: Arc<str>,
    pub seed: u64,
    pub stage: Arc<str>,
    pub clocks: Clocks,
    pub metric: Arc<str>,
    pub value: f64,
}

/// All rows of a `metrics.parquet`.
#[derive(Debug, Clone, Default)]
pub struct MetricTable {
    pub rows: Vec<SharedMetricRow>,
}

impl MetricTable {
    /// The rows of one metric of one stage.
    pub fn of<'a>(&'a self, stage: &'a str, metric: &'a str) -> impl Iterator<Item = &'a SharedMetricRow> {
        self.rows.iter().filter(move |r| &*r.stage == stage && &*r.metric == metric)
    }
}

/// Reads a `metrics.parquet` piece by piece, row after row. Equal names share their memory.
pub fn scan_metrics(path: &Path, mut each: impl FnMut(SharedMetricRow)) -> Result<()> {
    let mut reader = open(path)?;
    let mut scan = || -> duel_tables::Result<()> {
        while let Some(table) = reader.read(SCAN_ROWS)? {
            let [arm, method, point, stage, metric] =
                ["arm", "method", "point", "stage", "metric"].map(|c| table.text(c));
            let (arm, method, point, stage, metric) = (arm?, method?, point?, stage?, metric?);
            let (seed, step, tokens) = (table.u64("seed")?, table.u64("step")?, table.u64("tokens")?);
            let (flops, wall_seconds, value) = (table.f64("flops")?, table.f64("wall_seconds")?, table.f64("value")?);
            for i in 0..table.rows() {
                each(SharedMetricRow {
                    arm: arm[i].clone(),
                    method: method[i].clone(),
                    point: point[i].clone(),
                    seed: seed[i],
                    stage: stage[i].clone(),
                    clocks: Clocks { step: step[i], tokens: tokens[i], flops: flops[i], wall_seconds: wall_seconds[i] },
                    metric: metric[i].clone(),
                    value: value[i],
                });
            }
        }
        Ok(())
    };
    scan().map_err(corrupt("read", path))
}

/// Reads all of a `metrics.parquet`.
pub fn read_metrics(path: &Path) -> Result<MetricTable> {
    let mut rows = Vec::new();
    scan_metrics(path, |row| rows.push(row))?;
    Ok(MetricTable { rows })
}

/// Writes the rows of a `completions.parquet`.
pub fn write_completions(path: &Path, rows: &[Completion]) -> Result<()> {
    let table = ColumnTable::default()
        .with_text("arm", rows.iter().map(|r| &*r.arm))
        .with_text("point", rows.iter().map(|r| &*r.point))
        .with("seed", Column::U64(rows.iter().map(|r| r.seed).collect()))
        .with("step", Column::U64(rows.iter().map(|r| r.step).collect()))
        .with_text("split", rows.iter().map(|r| &*r.split))
        .with_text("prompt", rows.iter().map(|r| &*r.prompt))
        .with_text("completion", rows.iter().map(|r| &*r.completion))
        .with("gold_reward", Column::F64(rows.iter().map(|r| r.gold_reward).collect()))
        .with("proxy_reward", Column::F64(rows.iter().map(|r| r.proxy_reward).collect()))
        .with("kl", Column::F64(rows.iter().map(|r| r.kl).collect()))
        .with("tokens", Column::U32(rows.iter().map(|r| r.tokens).collect()))
        .with("ended", Column::Bool(rows.iter().map(|r| r.ended).collect()));
    write(path, table)
}

/// Reads a `completions.parquet`.
pub fn read_completions(path: &Path) -> Result<Vec<Completion>> {
    let table = read(path)?;
    let completions = || -> duel_tables::Result<Vec<Completion>> {
        let [arm, point, split, prompt, completion] =
            ["arm", "point", "split", "prompt", "completion"].map(|c| table.text(c));
        let (arm, point, split, prompt, completion) = (arm?, point?, split?, prompt?, completion?);
        let (seed, step, tokens, ended) =
            (table.u64("seed")?, table.u64("step")?, table.u32("tokens")?, table.bool("ended")?);
        let (gold, proxy, kl) = (table.f64("gold_reward")?, table.f64("proxy_reward")?, table.f64("kl")?);
        let row = |i: usize| Completion {
            arm: arm[i].to_string(),
            point: point[i].to_string(),
            seed: seed[i],
            step: step[i],
            split: split[i].to_string(),
            prompt: prompt[i].to_string(),
            completion: completion[i].to_string(),
            gold_reward: gold[i],
            proxy_reward: proxy[i],
            kl: kl[i],
            tokens: tokens[i],
            ended: ended[i],
        };
        Ok((0..table.rows()).map(row).collect())
    };
    completions().map_err(corrupt("read", path))
}

/// What the finished policies of one arm, point and seed earn.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcomes {
    pub arm: Arc<str>,
    pub point: Arc<str>,
    pub seed: u64,
    pub all: Vec<OutcomeRow>,
}

/// Writes the rows of an `outcomes.parquet`.
pub fn write_outcomes(path: &Path, policies: &[Outcomes]) -> Result<()> {
    let rows = || policies.iter().flat_map(|policy| policy.all.iter().map(move |outcome| (policy, outcome)));
    let table = ColumnTable::default()
        .with_text("arm", rows().map(|(policy, _)| &*policy.arm))
        .with_text("point", rows().map(|(policy, _)| &*policy.point))
        .with("seed", Column::U64(rows().map(|(policy, _)| policy.seed).collect()))
        .with("prompt", Column::U32(rows().map(|(_, outcome)| outcome.prompt).collect()))
        .with("gold_reward", Column::F64(rows().map(|(_, outcome)| outcome.gold_reward).collect()))
        .with("tokens", Column::U32(rows().map(|(_, outcome)| outcome.tokens).collect()))
        .with("share", Column::F32(rows().map(|(_, outcome)| outcome.share).collect()));
    write(path, table)
}

/// Reads an `outcomes.parquet`.
pub fn read_outcomes(path: &Path) -> Result<Vec<Outcomes>> {
    let table = read(path)?;
    let policies = || -> duel_tables::Result<Vec<Outcomes>> {
        let (arm, point, seed) = (table.text("arm")?, table.text("point")?, table.u64("seed")?);
        let (prompt, tokens) = (table.u32("prompt")?, table.u32("tokens")?);
        let (gold, share) = (table.f64("gold_reward")?, table.f32("share")?);
        let mut policies: Vec<Outcomes> = vec![];
        for i in 0..table.rows() {
            let outcome = OutcomeRow { prompt: prompt[i], gold_reward: gold[i], tokens: tokens[i], share: share[i] };
            match policies.last_mut() {
                Some(last) if last.arm == arm[i] && last.point == point[i] && last.seed == seed[i] => {
                    last.all.push(outcome);
                }
                _ => {
                    let (arm, point) = (arm[i].clone(), point[i].clone());
                    policies.push(Outcomes { arm, point, seed: seed[i], all: vec![outcome] });
                }
            }
        }
        Ok(policies)
    };
    policies().map_err(corrupt("read", path))
}

/// Joins the tables of finished stages, in the given order, into one file, and returns its hash; `None` where there is none.
pub fn merge_tables(from: &[std::path::PathBuf], to: &Path) -> Result<Option<String>> {
    if from.is_empty() {
        return Ok(None);
    }
    let mut writer = TableWriter::default();
    for path in from {
        let mut reader = open(path)?;
        writer.write(reader.empty()).map_err(corrupt("joined", path))?;
        while let Some(piece) = reader.read(SCAN_ROWS).map_err(corrupt("read", path))? {
            writer.write(piece).map_err(corrupt("joined", path))?;
        }
    }
    let bytes = writer.finish().map_err(corrupt("written", to))?;
    write_atomically(to, &bytes)?;
    Ok(Some(hash_bytes(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of docs/reference/files.md have the columns of the files, in their order.
    #[test]
    fn the_columns_are_those_of_the_reference() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        write_metrics(&path("metrics.parquet"), &[])?;
        write_completions(&path("completions.parquet"), &[])?;
        write_outcomes(&path("outcomes.parquet"), &[])?;
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/files.md");
        let page = std::fs::read_to_string(page).expect("the page");
        for name in ["metrics.parquet", "completions.parquet", "outcomes.parquet"] {
            let section = page.split(&format!("## {name}\n")).nth(1).expect("a section").split("\n## ").next();
            let rows =
                section.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
            let expected: Vec<String> = rows
                .map(|(column, rest)| format!("{column} {}", rest.split(" |").next().unwrap_or_default()))
                .collect();
            let table = open(&path(name))?.empty();
            let actual: Vec<String> = table.columns().map(|(column, kind)| format!("{column} {kind}")).collect();
            assert_eq!(actual, expected, "{name}");
        }
        Ok(())
    }
}
