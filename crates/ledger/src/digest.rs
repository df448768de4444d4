//! One hash over everything deterministic in a run: equal for two runs of one experiment, however they were interrupted.

use crate::error::{Error, Result};
use crate::files::io;
use crate::manifest::Manifest;
use crate::merged::{RunSubset, TableSource};
use crate::stage::StageDir;
use crate::tables::{read_completions, read_outcomes, scan_metrics};
use duel_spec::ids::hash_bytes;
use duel_spec::metrics;
use std::path::Path;

/// A file of a run, by its path in the run, and the hash of its deterministic content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Digest {
    pub file: String,
    pub hash: String,
}

/// The digests of a run's files.
#[derive(Debug, Clone, Default)]
pub struct Digests {
    pub all: Vec<Digest>,
    /// Labels of the unfinished stages, which have no digest.
    pub missing: Vec<String>,
}

/// Digests of all files of a run: its experiment, its tables, every finished stage. Times and memory are left out: `done.json`,
/// the column `wall_seconds`, metrics in seconds and bytes, the manifest, the report.
///
/// # Errors
/// A table that is damaged.
pub fn file_digests(run: &Path) -> Result<Digests> {
    let manifest = Manifest::read(run)?;
    let (mut files, mut missing) = (vec!["experiment.toml".to_string()], vec![]);
    files.extend(Some("search.json".to_string()).filter(|file| run.join(file).is_file()));
    for subset in [RunSubset::Comparison, RunSubset::Search] {
        // an unfinished run may hold the tables of an earlier one
        let tables = match TableSource::of(run, &manifest, subset) {
            Ok(tables) if tables.are_merged || manifest.is_of_older_format() => tables,
            Ok(_) | Err(Error::Foreign { .. }) => continue,
            Err(other) => return Err(other),
        };
        let paths = tables.metrics.iter().chain(&tables.completions).chain(&tables.outcomes);
        files.extend(paths.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())));
    }
    let older = manifest.is_of_older_format().then_some(&manifest.stages).into_iter().flatten();
    let planned = manifest.plan.iter().map(|stage| (&stage.label, &stage.folder));
    for (label, folder) in planned.chain(older) {
        let path = run.join("stages").join(folder);
        if !path.join("done.json").is_file() {
            missing.push(label.clone());
            continue;
        }
        files.extend(StageDir::at(&path).files()?.into_iter().map(|name| format!("stages/{folder}/{name}")));
    }
    files.sort();
    let all = files.into_iter().map(|file| Ok(Digest { hash: hash(&run.join(&file))?, file }));
    Ok(Digests { all: all.collect::<Result<_>>()?, missing })
}

/// One hash over all of them.
pub fn digest(files: &[Digest]) -> String {
    let lines: String = files.iter().map(|digest| format!("{}  {}\n", digest.hash, digest.file)).collect();
    hash_bytes(lines.as_bytes())
}

/// The hash of a file's deterministic content.
fn hash(path: &Path) -> Result<String> {
    let name = path.file_name().unwrap_or_default();
    let mut text = String::new();
    let bits = |x: f64| if x.is_nan() { f64::NAN.to_bits() } else { x.to_bits() };
    if name == "metrics.parquet" || name == "tuning.parquet" {
        scan_metrics(path, |row| {
            if metrics::find(&row.metric).is_some_and(|metric| metric.is_machine_dependent()) {
                return;
            }
            let names = [&row.arm, &row.method, &row.point, &row.stage, &row.metric].map(|name| &**name).join("\t");
            let numbers = [row.seed, row.clocks.step, row.clocks.tokens, bits(row.clocks.flops), bits(row.value)];
            text += &format!("{names}\t{numbers:?}\n");
        })?;
    } else if name == "outcomes.parquet" {
        for policy in read_outcomes(path)? {
            text += &format!("{} {} {}\n", policy.arm, policy.point, policy.seed);
            for outcome in policy.all {
                let bits = (outcome.gold_reward.to_bits(), outcome.share.to_bits());
                text += &format!("{} {} {bits:?}\n", outcome.prompt, outcome.tokens);
            }
        }
    } else if name == "completions.parquet" {
        for row in read_completions(path)? {
            let numbers = [row.gold_reward, row.proxy_reward, row.kl].map(bits);
            text += &format!(
                "{:?}\n",
                (
                    (row.arm, row.point, row.seed, row.step, row.split),
                    (row.prompt, row.completion, numbers, row.tokens, row.ended)
                )
            );
        }
    } else {
        return Ok(hash_bytes(&std::fs::read(path).map_err(io("read", path))?));
    }
    Ok(hash_bytes(text.as_bytes()))
}
