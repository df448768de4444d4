//! How fast this machine is at an experiment's model: by a table, or by steps of that model that were timed here.

use crate::bench::{PRETRAINED, Shape, seconds_per_token};
use crate::error::{Error, Result};
use crate::estimate::{ShapeInfo, TRAINED};
use crate::step_time::{ProductRates, StepKind, StepTimes};
use crate::sysinfo;
use crate::task_progress::TaskProgress;
use duel_ledger::write_atomically;
use duel_model::TransformerConfig;
use duel_spec::{Experiment, WorldKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The file of timed steps, in the folder of runs.
const FILE: &str = ".calibration.json";
/// Sequences or pairs of a timed step.
const BATCH: usize = 64;
/// The same of a pretrained model, and sequences that it samples at once: few rows wait for its weights.
const PRETRAINED_BATCH: usize = 4;
const PRETRAINED_SAMPLES: usize = 32;

/// Seconds a token of each timed step, on one thread or, of a pretrained model, on all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Training of a policy, and of a model with a scalar head.
    pub train: f64,
    pub train_scalar: f64,
    pub sample: f64,
    /// Log-probs of given tokens.
    pub read: f64,
    /// Seconds of one exact evaluation of a policy; 0 where the world is sampled.
    pub evaluation: f64,
}

/// Where the times of a plan come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeSource {
    /// A table of step times, scaled by one matrix product on this machine.
    Table,
    /// Steps of this model, timed on this machine.
    Measured,
}

/// The times of an experiment's steps: those that were timed here before, otherwise the table's.
pub fn known_times(experiment: &Experiment, sizes: &ShapeInfo, out: &Path) -> Result<(StepTimes, TimeSource)> {
    check_memory(experiment, &sizes.config)?;
    let shape = shape(experiment, sizes);
    let measured = read(out).get(&key(&shape)).copied().filter(Throughput::is_valid);
    Ok(match measured {
        Some(throughput) => (throughput.times(shape), TimeSource::Measured),
        None => {
            let rates = ProductRates::measure(shape.numbers);
            (StepTimes::of_table(shape, rates), TimeSource::Table)
        }
    })
}

/// Times them: two seconds in all, or a minute for a large model. The second value says why they could not be kept for later plans.
pub fn measure(experiment: &Experiment, sizes: &ShapeInfo, out: &Path) -> Result<(StepTimes, Option<String>)> {
    check_memory(experiment, &sizes.config)?;
    let shape = shape(experiment, sizes);
    let throughput = Throughput::measure(&shape, experiment.world.kind == WorldKind::Grammar)?;
    let problem = keep(&shape, throughput, out).err();
    Ok((throughput.times(shape), problem))
}

/// Adds what was timed to the file of this folder of runs; otherwise says what is in the way.
fn keep(shape: &Shape, throughput: Throughput, out: &Path) -> std::result::Result<(), String> {
    let mut all = read(out);
    all.insert(key(shape), throughput);
    let json = serde_json::to_vec_pretty(&all).expect("plain data");
    std::fs::create_dir_all(out).map_err(|e| format!("{}: {e}", out.display()))?;
    write_atomically(&out.join(FILE), &json).map_err(|e| e.to_string())
}

/// All that was timed in this folder of runs, by machine, binary and model.
fn read(out: &Path) -> BTreeMap<String, Throughput> {
    std::fs::read(out.join(FILE)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

fn key(shape: &Shape) -> String {
    let Shape { config, numbers, .. } = shape;
    format!("{} {} {config:?} {numbers:?}", sysinfo::COMMIT, sysinfo::describe().processor)
}

/// Refuses a new model that this machine cannot train.
fn check_memory(experiment: &Experiment, config: &TransformerConfig) -> Result<()> {
    if experiment.is_pretrained() {
        return Ok(());
    }
    let TransformerConfig { layers, width, vocabulary, context, .. } = *config;
    let parameters = layers as f64 * config.block_matrices() as f64 + (width * (vocabulary + context)) as f64;
    let (needed, available) = (TRAINED * 4.0 * parameters, sysinfo::memory());
    if needed > available {
        return Err(Error::TooLarge { layers, width, needed, available });
    }
    Ok(())
}

/// A worker's model: on one thread, or, a pretrained one, on all.
pub fn shape(experiment: &Experiment, ShapeInfo { config, space }: &ShapeInfo) -> Shape {
    let (name, batch, threads) = match experiment.is_pretrained() {
        true => (PRETRAINED, PRETRAINED_BATCH, sysinfo::cores()),
        false => ("experiment", BATCH, 1),
    };
    Shape {
        name,
        config: config.clone(),
        space: space.clone(),
        batch,
        episodes: batch,
        threads,
        numbers: experiment.model.numbers,
    }
}

impl Throughput {
    fn measure(shape: &Shape, is_grammar: bool) -> Result<Self> {
        let is_pretrained = shape.name == PRETRAINED;
        let sampled = if is_pretrained { PRETRAINED_SAMPLES } else { shape.batch };
        let (mut progress, mut done, all) =
            (TaskProgress::new("timing this model's steps"), 0, if is_grammar { 5 } else { 4 });
        let mut rate = |shape: &Shape, case: &str| {
            progress.update(done, all, || case.into());
            done += 1;
            seconds_per_token(shape, case)
        };
        Ok(Self {
            train: rate(shape, if is_pretrained { "dpo_lora" } else { "sft" })?,
            train_scalar: rate(shape, if is_pretrained { "dpo_lora" } else { "reward" })?,
            sample: rate(&Shape { batch: sampled, ..shape.clone() }, "generate")?,
            read: rate(shape, "logp")?,
            evaluation: match is_grammar {
                true => rate(&Shape { name: "grammar", ..shape.clone() }, "evaluation")?,
                false => 0.0,
            },
        })
    }

    fn is_valid(&self) -> bool {
        let Self { train, train_scalar, sample, read, evaluation } = *self;
        let is_positive = |x: f64| x.is_finite() && x > 0.0;
        [train, train_scalar, sample, read].into_iter().all(is_positive) && evaluation.is_finite() && evaluation >= 0.0
    }

    /// The times of steps of any size, from those of the timed ones.
    pub fn times(&self, shape: Shape) -> StepTimes {
        let batch = shape.batch as f64;
        let [prompt_and_response, response] = [shape.space.context(), shape.space.response_tokens].map(|n| n as f64);
        let (trained, sampled) = match shape.name == PRETRAINED {
            true => (2.0 * batch, PRETRAINED_SAMPLES as f64),
            false => (batch, batch),
        };
        let token = prompt_and_response;
        let rates = ProductRates::of_table(shape.numbers);
        let times = StepTimes::of_table(shape, rates)
            .corrected(StepKind::Train, trained, self.train * token * trained)
            .corrected(StepKind::TrainScalar, 2.0 * batch, self.train_scalar * token * 2.0 * batch)
            .corrected(StepKind::Sample, sampled, self.sample * response * sampled)
            .corrected(StepKind::Read, batch, self.read * token * batch)
            .corrected(StepKind::ReadScalar, batch, self.read * token * batch);
        if self.evaluation > 0.0 { times.with_evaluation(self.evaluation) } else { times }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::Document;

    fn experiment(settings: &[String]) -> Experiment {
        let document = Document::parse("tiny.toml", include_str!("tiny.toml"), settings).expect("valid");
        Experiment::from_document(&document).expect("valid")
    }

    fn known(experiment: &Experiment, out: &Path) -> (StepTimes, TimeSource) {
        known_times(experiment, &ShapeInfo::of(experiment).expect("grammar needs no files"), out).expect("it fits")
    }

    #[test]
    fn measured_times_are_used_by_later_plans_of_that_model() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("runs");
        let (experiment, wider) = (experiment(&[]), experiment(&["model.width=64".into()]));
        assert_eq!(known(&experiment, &out).1, TimeSource::Table);
        assert!(!out.exists(), "a plan writes nothing");
        let sizes = ShapeInfo::of(&experiment).expect("grammar needs no files");
        let (times, problem) = measure(&experiment, &sizes, &out).expect("it fits");
        assert_eq!(problem, None);
        let (later, source) = known(&experiment, &out);
        assert_eq!(source, TimeSource::Measured);
        for kind in [StepKind::Train, StepKind::TrainScalar, StepKind::Read, StepKind::ReadScalar, StepKind::Sample] {
            let [first, second] = [&times, &later].map(|times| times.seconds(kind, 10.0));
            assert!(first > 0.0 && (first / second - 1.0).abs() < 1e-9, "{kind:?}: {first} {second}");
        }
        assert_eq!(known(&wider, &out).1, TimeSource::Table);
    }

    #[test]
    fn times_that_cannot_be_kept_or_read_are_not_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path();
        let experiment = experiment(&[]);
        let shape = shape(&experiment, &ShapeInfo::of(&experiment).expect("grammar needs no files"));
        let good = Throughput { train: 1e-6, train_scalar: 1e-6, sample: 1e-6, read: 1e-6, evaluation: 0.0 };
        assert_eq!(keep(&shape, good, out), Ok(()));
        assert_eq!(known(&experiment, out).1, TimeSource::Measured);
        for damaged in [Throughput { train: 0.0, ..good }, Throughput { read: -1.0, ..good }] {
            assert_eq!(keep(&shape, damaged, out), Ok(()));
            assert_eq!(known(&experiment, out).1, TimeSource::Table, "{damaged:?}");
        }
        for text in ["", "{", "[1]", "{\"x\": 1}"] {
            std::fs::write(out.join(FILE), text).expect("written");
            assert_eq!(known(&experiment, out).1, TimeSource::Table, "{text}");
        }
        let problem = keep(&shape, good, &out.join(FILE).join("below")).expect_err("below a file");
        assert!(problem.contains(FILE), "{problem}");
    }
}
