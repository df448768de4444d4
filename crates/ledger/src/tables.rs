//! `metrics.parquet`, `completions.parquet` and `outcomes.parquet`, written and read by polars; zstd.

use crate::error::{Error, Result};
use crate::files::{io, open, write_atomically};
use duel_spec::ids::hash_bytes;
use duel_spec::{Clocks, Completion, MetricRow, OutcomeRow};
use polars::prelude::*;
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Once};

fn table_error(action: &'static str, path: &Path) -> impl Fn(PolarsError) -> Error {
    let path = path.to_path_buf();
    move |e| Error::Table { action, path: path.clone(), problem: e.to_string() }
}

/// Writes a table and returns the hash of its file.
fn write(path: &Path, mut table: DataFrame) -> Result<String> {
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_compression(ParquetCompression::Zstd(None))
        .finish(&mut table)
        .map_err(table_error("written", path))?;
    write_atomically(path, &bytes)?;
    Ok(hash_bytes(&bytes))
}

/// Rows of a table: more than any run writes, to limit what a small damaged file can declare.
const MAX_ROWS: usize = 1 << 30;

/// Reads all rows of a file or a slice of them. A panic of the reader is an error of the file, as are columns of different
/// lengths.
fn read_rows(path: &Path, slice: Option<(usize, usize)>) -> Result<DataFrame> {
    let file = open(path).map_err(io("open", path))?;
    let rows = number_of_rows(path)?;
    let expected = slice.map_or(rows, |(from, most)| rows.saturating_sub(from).min(most));
    let table = fenced(path, || ParquetReader::new(file).with_slice(slice).finish())?;
    match table.columns().iter().find(|column| column.len() != expected) {
        None if table.height() == expected => Ok(table),
        column => {
            let (name, length) = column.map_or(("the table", table.height()), |c| (c.name().as_str(), c.len()));
            let problem = format!("{name} has {length} rows, but the file declares {expected}");
            Err(Error::Table { action: "read", path: path.into(), problem })
        }
    }
}

fn read(path: &Path) -> Result<DataFrame> {
    read_rows(path, None)
}

fn number_of_rows(path: &Path) -> Result<usize> {
    let file = open(path).map_err(io("open", path))?;
    match fenced(path, || ParquetReader::new(file).num_rows())? {
        rows if rows <= MAX_ROWS => Ok(rows),
        rows => {
            let problem = format!("it declares {rows} rows; the limit is {MAX_ROWS}");
            Err(Error::Table { action: "read", path: path.into(), problem })
        }
    }
}

/// Calls the reader; a panic becomes an error of the file.
fn fenced<T>(path: &Path, read: impl FnOnce() -> PolarsResult<T>) -> Result<T> {
    static QUIET: Once = Once::new();
    static FENCES: AtomicUsize = AtomicUsize::new(0);
    QUIET.call_once(|| {
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if FENCES.load(Ordering::Relaxed) == 0 {
                default_hook(panic);
            }
        }));
    });
    FENCES.fetch_add(1, Ordering::Relaxed);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(read));
    FENCES.fetch_sub(1, Ordering::Relaxed);
    outcome
        .unwrap_or_else(|_| Err(PolarsError::ComputeError("it is not a valid table".into())))
        .map_err(table_error("read", path))
}

/// Writes the rows of a `metrics.parquet`.
pub fn write_metrics(path: &Path, rows: &[MetricRow]) -> Result<()> {
    let text = |f: fn(&MetricRow) -> &str| rows.iter().map(f).collect::<Vec<&str>>();
    let table = df!(
        "arm" => text(|r| &r.arm),
        "method" => text(|r| &r.method),
        "point" => text(|r| &r.point),
        "seed" => rows.iter().map(|r| r.seed).collect::<Vec<_>>(),
        "stage" => text(|r| &r.stage),
        "step" => rows.iter().map(|r| r.clocks.step).collect::<Vec<_>>(),
        "tokens" => rows.iter().map(|r| r.clocks.tokens).collect::<Vec<_>>(),
        "flops" => rows.iter().map(|r| r.clocks.flops).collect::<Vec<_>>(),
        "wall_seconds" => rows.iter().map(|r| r.clocks.wall_seconds).collect::<Vec<_>>(),
        "metric" => text(|r| &r.metric),
        "value" => rows.iter().map(|r| r.value).collect::<Vec<_>>(),
    )
    .map_err(table_error("written", path))?;
    write(path, table).map(drop)
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

/// Keeps one copy of every name.
#[derive(Default)]
struct NameInterner(HashMap<String, Arc<str>>);

impl NameInterner {
    fn shared(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.get(name) {
            return known.clone();
        }
        let fresh: Arc<str> = name.into();
        self.0.insert(name.into(), fresh.clone());
        fresh
    }
}

fn texts(table: &DataFrame, column: &str, names: &mut NameInterner) -> PolarsResult<Vec<Arc<str>>> {
    let mut last: Arc<str> = names.shared("");
    let shared = |text: Option<&str>| {
        let text = text.unwrap_or_default();
        if *last != *text {
            last = names.shared(text);
        }
        last.clone()
    };
    Ok(table.column(column)?.str()?.iter().map(shared).collect())
}

fn floats(table: &DataFrame, column: &str) -> PolarsResult<Vec<f64>> {
    Ok(table.column(column)?.f64()?.iter().map(|x| x.unwrap_or(f64::NAN)).collect())
}

fn integers(table: &DataFrame, column: &str) -> PolarsResult<Vec<u64>> {
    Ok(table.column(column)?.u64()?.iter().map(Option::unwrap_or_default).collect())
}

/// Rows of a `metrics.parquet` that are read at a time: as many as are written in one row group.
const BLOCK_ROWS: usize = 1 << 18;

/// Reads a `metrics.parquet` in blocks, row by row. All rows share one `Arc` per name.
pub fn scan_metrics(path: &Path, mut each: impl FnMut(SharedMetricRow)) -> Result<()> {
    let mut names = NameInterner::default();
    let mut read_block = |table: &DataFrame| -> PolarsResult<()> {
        let mut text = |column| texts(table, column, &mut names);
        let (arm, method, point, stage, metric) =
            (text("arm")?, text("method")?, text("point")?, text("stage")?, text("metric")?);
        let (seed, step, tokens) = (integers(table, "seed")?, integers(table, "step")?, integers(table, "tokens")?);
        let (flops, wall, value) = (floats(table, "flops")?, floats(table, "wall_seconds")?, floats(table, "value")?);
        for i in 0..table.height() {
            each(SharedMetricRow {
                arm: arm[i].clone(),
                method: method[i].clone(),
                point: point[i].clone(),
                seed: seed[i],
                stage: stage[i].clone(),
                clocks: Clocks { step: step[i], tokens: tokens[i], flops: flops[i], wall_seconds: wall[i] },
                metric: metric[i].clone(),
                value: value[i],
            });
        }
        Ok(())
    };
    for from in (0..number_of_rows(path)?).step_by(BLOCK_ROWS) {
        let table = read_rows(path, Some((from, BLOCK_ROWS)))?;
        read_block(&table).map_err(table_error("read", path))?;
    }
    Ok(())
}

/// Reads all of a `metrics.parquet`.
pub fn read_metrics(path: &Path) -> Result<MetricTable> {
    let mut rows = Vec::new();
    scan_metrics(path, |row| rows.push(row))?;
    Ok(MetricTable { rows })
}

/// Writes the rows of a `completions.parquet`.
pub fn write_completions(path: &Path, rows: &[Completion]) -> Result<()> {
    let text = |f: fn(&Completion) -> &str| rows.iter().map(f).collect::<Vec<&str>>();
    let number = |f: fn(&Completion) -> f64| rows.iter().map(f).collect::<Vec<f64>>();
    let table = df!(
        "arm" => text(|r| &r.arm),
        "point" => text(|r| &r.point),
        "seed" => rows.iter().map(|r| r.seed).collect::<Vec<_>>(),
        "step" => rows.iter().map(|r| r.step).collect::<Vec<_>>(),
        "split" => text(|r| &r.split),
        "prompt" => text(|r| &r.prompt),
        "completion" => text(|r| &r.completion),
        "gold_reward" => number(|r| r.gold_reward),
        "proxy_reward" => number(|r| r.proxy_reward),
        "kl" => number(|r| r.kl),
        "tokens" => rows.iter().map(|r| r.tokens).collect::<Vec<_>>(),
        "ended" => rows.iter().map(|r| r.ended).collect::<Vec<_>>(),
    )
    .map_err(table_error("written", path))?;
    write(path, table).map(drop)
}

/// Reads a `completions.parquet`.
pub fn read_completions(path: &Path) -> Result<Vec<Completion>> {
    let table = read(path)?;
    let columns = || -> PolarsResult<Vec<Completion>> {
        let text = |column: &str| -> PolarsResult<Vec<String>> {
            Ok(table.column(column)?.str()?.iter().map(|x| x.unwrap_or_default().to_string()).collect())
        };
        let (arm, point, split, prompt, completion) =
            (text("arm")?, text("point")?, text("split")?, text("prompt")?, text("completion")?);
        let (seed, step) = (integers(&table, "seed")?, integers(&table, "step")?);
        let tokens: Vec<u32> = table.column("tokens")?.u32()?.iter().map(Option::unwrap_or_default).collect();
        let ended: Vec<bool> = table.column("ended")?.bool()?.iter().map(Option::unwrap_or_default).collect();
        let (gold, proxy, kl) =
            (floats(&table, "gold_reward")?, floats(&table, "proxy_reward")?, floats(&table, "kl")?);
        Ok((0..table.height())
            .map(|i| Completion {
                arm: arm[i].clone(),
                point: point[i].clone(),
                seed: seed[i],
                step: step[i],
                split: split[i].clone(),
                prompt: prompt[i].clone(),
                completion: completion[i].clone(),
                gold_reward: gold[i],
                proxy_reward: proxy[i],
                kl: kl[i],
                tokens: tokens[i],
                ended: ended[i],
            })
            .collect())
    };
    columns().map_err(table_error("read", path))
}

/// The outcomes of the finished policy of one arm, point and seed.
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
    let table = df!(
        "arm" => rows().map(|(policy, _)| &*policy.arm).collect::<Vec<&str>>(),
        "point" => rows().map(|(policy, _)| &*policy.point).collect::<Vec<&str>>(),
        "seed" => rows().map(|(policy, _)| policy.seed).collect::<Vec<_>>(),
        "prompt" => rows().map(|(_, outcome)| outcome.prompt).collect::<Vec<_>>(),
        "gold_reward" => rows().map(|(_, outcome)| outcome.gold_reward).collect::<Vec<_>>(),
        "tokens" => rows().map(|(_, outcome)| outcome.tokens).collect::<Vec<_>>(),
        "share" => rows().map(|(_, outcome)| outcome.share).collect::<Vec<_>>(),
    )
    .map_err(table_error("written", path))?;
    write(path, table).map(drop)
}

/// Reads an `outcomes.parquet`.
pub fn read_outcomes(path: &Path) -> Result<Vec<Outcomes>> {
    let table = read(path)?;
    let mut names = NameInterner::default();
    let mut policies = || -> PolarsResult<Vec<Outcomes>> {
        let (arm, point) = (texts(&table, "arm", &mut names)?, texts(&table, "point", &mut names)?);
        let (seed, gold) = (integers(&table, "seed")?, floats(&table, "gold_reward")?);
        let small = |column: &str| -> PolarsResult<Vec<u32>> {
            Ok(table.column(column)?.u32()?.iter().map(Option::unwrap_or_default).collect())
        };
        let (prompt, tokens) = (small("prompt")?, small("tokens")?);
        let share: Vec<f32> = table.column("share")?.f32()?.iter().map(Option::unwrap_or_default).collect();
        let mut policies: Vec<Outcomes> = vec![];
        for i in 0..table.height() {
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
    policies().map_err(table_error("read", path))
}

/// Concatenates tables, in the given order, into one file, and returns its hash; `None` if there are none.
pub fn merge_tables(from: &[std::path::PathBuf], to: &Path) -> Result<Option<String>> {
    let mut merged: Option<DataFrame> = None;
    for path in from {
        let table = read(path)?;
        merged = Some(match merged {
            None => table,
            Some(mut all) => {
                all.vstack_mut_owned(table).map_err(table_error("merged", path))?;
                all
            }
        });
    }
    merged.map(|table| write(to, table)).transpose()
}
