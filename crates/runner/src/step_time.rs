//! Seconds of a step of training before it is run: what it is made of, times what each part costs.
//!
//! The costs are a table, measured on one machine ([`TABLE`]) and scaled by how fast this machine multiplies two matrices. Where
//! a model's own steps have been timed (`duel plan --measure`), their times take the table's place, and the table gives
//! only how a step's time changes with its size.

use crate::bench::{PRETRAINED, Shape, with_threads};
use crate::world::frozen_numbers;
use duel_model::TransformerConfig;
use duel_model::device::product_rate;
use duel_spec::ModelNumbers;

/// Kinds of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepKind {
    /// An update of a policy, and of a model with a scalar head.
    Train,
    TrainScalar,
    /// Log-probs of given tokens, and scores or values.
    Read,
    ReadScalar,
    Sample,
}

/// What the parts of a kind of step cost on one thread.
#[derive(Debug, Clone, Copy, PartialEq)]
struct StepCosts {
    /// Seconds of a FLOP of matrix products, times the FLOP/s of [`product_rate`].
    product: f64,
    /// Nanoseconds of a number that norms, activations and softmaxes write, or that is read from the cache of keys and values.
    element: f64,
    /// Nanoseconds of a parameter that is updated, packed, or read for the next token.
    weight: f64,
    /// Microseconds that a layer takes however little it does; of sampling, for each token.
    layer: f64,
}

/// The costs of every kind of step.
#[derive(Debug, Clone, Copy, PartialEq)]
struct CostTable {
    train: StepCosts,
    /// Training under LoRA.
    adapt: StepCosts,
    read: StepCosts,
    sample: StepCosts,
    /// Threads make a step faster by their number to this power.
    parallel: f64,
    /// Seconds of a token of an exact evaluation, over those of a token that is read.
    evaluated_token: f64,
}

/// Of an AMD EPYC (Zen 5) with AVX-512 and BF16, two cores, 2026-11-30: fitted to results/bench/scaling.csv by the test
/// `costs_that_fit_the_measured_steps`, which prints them.
const TABLE: CostTable = CostTable {
    train: StepCosts { product: 1.04, element: 0.54, weight: 1.44, layer: 59.9 },
    adapt: StepCosts { product: 1.38, element: 0.307, weight: 4.57, layer: 109.0 },
    read: StepCosts { product: 1.09, element: 0.399, weight: 0.214, layer: 13.8 },
    sample: StepCosts { product: 1.4, element: 0.27, weight: 0.105, layer: 0.157 },
    parallel: 0.9,
    evaluated_token: 0.95,
};
/// FLOP/s of [`product_rate`] on the table's machine.
const TABLE_RATE: f64 = 230e9;
const TABLE_RATE_BF16: f64 = 488e9;
const TABLE_RATE_Q8: f64 = 424e9;
/// Parameters that stay in a core's caches from token to token.
const CACHED_PARAMETERS: f64 = 4e6;
/// Sequences a thread from which on products cost more a sequence, and by how much, while tokens are sampled.
const MANY_ROWS: f64 = 16.0;
const MANY_ROWS_PRODUCT: f64 = 1.5;
/// Sequences that are read at once.
const READ_ROWS: f64 = 64.0;

/// FLOP/s of a matrix product on one thread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProductRates {
    pub f32: f64,
    /// Of what the frozen matrices are kept in.
    pub frozen: f64,
}

impl ProductRates {
    /// Of the table's machine.
    pub fn of_table(numbers: ModelNumbers) -> Self {
        let frozen = match numbers {
            ModelNumbers::F32 => TABLE_RATE,
            ModelNumbers::Bf16 => TABLE_RATE_BF16,
            ModelNumbers::Q8 => TABLE_RATE_Q8,
        };
        Self { f32: TABLE_RATE, frozen }
    }

    /// Of this machine, in ten or twenty milliseconds.
    pub fn measure(numbers: ModelNumbers) -> Self {
        with_threads(1, || {
            let f32 = product_rate(None);
            Self { f32, frozen: if numbers.is_f32() { f32 } else { product_rate(frozen_numbers(numbers)) } }
        })
    }
}

/// An iteration on rollouts.
#[derive(Debug, Clone, Copy)]
pub struct RolloutWork {
    pub episodes: f64,
    /// Responses sampled: more than the episodes with dynamic sampling.
    pub sampled: f64,
    pub minibatches: f64,
    pub epochs: f64,
    /// How often policies read each response, and models with a scalar head of the policy's size.
    pub reads: f64,
    pub scalar_reads: f64,
    /// Value models of their own that are trained, 0 or 1.
    pub critics: f64,
}

/// Seconds of the steps of one model on sequences of one length.
#[derive(Debug, Clone)]
pub struct StepTimes {
    shape: Shape,
    rates: ProductRates,
    table: CostTable,
    /// Measured seconds over those of the table: of training, reading and sampling, with and without a scalar head.
    corrections: [f64; 5],
    /// Seconds of an exact evaluation, where it was measured.
    evaluation: Option<f64>,
}

impl StepTimes {
    /// By the table alone.
    pub fn of_table(shape: Shape, rates: ProductRates) -> Self {
        Self { shape, rates, table: TABLE, corrections: [1.0; 5], evaluation: None }
    }

    /// The same, corrected so that a step of these sequences takes so long.
    pub fn corrected(mut self, kind: StepKind, rows: f64, seconds: f64) -> Self {
        self.corrections[kind as usize] *= seconds / self.seconds(kind, rows);
        self
    }

    /// The same with the measured time of an exact evaluation.
    pub fn with_evaluation(self, seconds: f64) -> Self {
        Self { evaluation: Some(seconds), ..self }
    }

    /// The same on so many threads.
    pub fn with_threads(&self, threads: usize) -> Self {
        Self { shape: Shape { threads, ..self.shape.clone() }, ..self.clone() }
    }

    /// Seconds of a step on so many sequences.
    pub fn seconds(&self, kind: StepKind, rows: f64) -> f64 {
        let CostTable { train, adapt, read, sample, .. } = self.table;
        let StepCosts { product, element, weight, layer } = match kind {
            StepKind::Train | StepKind::TrainScalar if is_adapted(&self.shape) => adapt,
            StepKind::Train | StepKind::TrainScalar => train,
            StepKind::Read | StepKind::ReadScalar => read,
            StepKind::Sample => sample,
        };
        let parts = self.parts(kind, rows);
        let seconds: f64 = parts.iter().zip([product, element, weight, layer]).map(|(part, cost)| part * cost).sum();
        self.corrections[kind as usize] * seconds
    }

    /// Seconds for so many sequences, so many at once.
    pub fn seconds_in_batches(&self, kind: StepKind, rows: f64, batch: f64) -> f64 {
        let batch = batch.min(rows).max(1.0);
        rows / batch * self.seconds(kind, batch)
    }

    /// Seconds of an iteration: responses are sampled, read, scored and trained on.
    pub fn rollout(&self, work: &RolloutWork) -> f64 {
        let RolloutWork { episodes, sampled, minibatches, epochs, reads, scalar_reads, critics } = *work;
        let rows = episodes / minibatches;
        let update = self.seconds(StepKind::Train, rows) + critics * self.seconds(StepKind::TrainScalar, rows);
        self.seconds(StepKind::Sample, sampled)
            + reads * self.seconds_in_batches(StepKind::Read, episodes, READ_ROWS)
            + scalar_reads * self.seconds_in_batches(StepKind::ReadScalar, episodes, READ_ROWS)
            + epochs * minibatches * update
    }

    /// Seconds of an exact evaluation, in which so many tokens are read.
    pub fn evaluation(&self, tokens: f64) -> f64 {
        let token = self.seconds(StepKind::Read, READ_ROWS) / (READ_ROWS * self.shape.space.context() as f64);
        self.evaluation.unwrap_or(self.table.evaluated_token * tokens * token)
    }

    /// What each part of a step takes where the table's costs are 1.
    fn parts(&self, kind: StepKind, rows: f64) -> [f64; 4] {
        let Shape { config, space, threads, numbers, .. } = &self.shape;
        let TransformerConfig { layers, width, vocabulary, .. } = *config;
        let is_adapted = is_adapted(&self.shape);
        let (tokens, responses) = (rows * space.context() as f64, rows * space.response_tokens as f64);
        let parameters = config.num_params().unwrap_or(usize::MAX) as f64;
        // 1. Passes through the blocks and the head: logits are made again on the way back, and what is frozen has no gradient.
        let (passes, head_passes) = match kind {
            StepKind::Train | StepKind::TrainScalar if is_adapted => (2.0, 3.0),
            StepKind::Train | StepKind::TrainScalar => (3.0, 4.0),
            StepKind::Read | StepKind::ReadScalar | StepKind::Sample => (1.0, 1.0),
        };
        let head = if matches!(kind, StepKind::TrainScalar | StepKind::ReadScalar) { 0.0 } else { vocabulary as f64 };
        // 2. FLOPs, and numbers written or read from the cache.
        let a_token = (2 * layers * (config.block_matrices() + space.context() * width)) as f64;
        let is_slow = kind == StepKind::Sample && rows > MANY_ROWS * self.shape.threads as f64;
        let slower = if is_slow { MANY_ROWS_PRODUCT } else { 1.0 };
        let flops = passes * tokens * a_token + head_passes * 2.0 * responses * head * width as f64;
        let numbers_of_a_token = (layers * (6 * width + 2 * config.inner())) as f64;
        let columns_before = space.prompt_tokens as f64 + 0.5 * space.response_tokens as f64; // of a sampled token, on average
        let cached = (2 * layers * config.key_value_heads() * config.head_width()) as f64 * columns_before;
        let elements = passes * (tokens * numbers_of_a_token + responses * head);
        // 3. On this machine. A sampled token reads the weights that no cache holds, and each row's attention is by itself.
        let (slowness, threads) = (TABLE_RATE / self.rates.f32, (*threads as f64).powf(self.table.parallel));
        let (elements, weights, layer_calls) = match kind {
            StepKind::Sample => {
                let weights = (parameters - CACHED_PARAMETERS).max(0.0) * space.response_tokens as f64;
                (elements + responses * cached, weights, responses / threads)
            }
            _ => (elements, parameters, 1.0),
        };
        let bytes = match numbers {
            ModelNumbers::F32 => 1.0,
            ModelNumbers::Bf16 => 0.5,
            ModelNumbers::Q8 => 0.25,
        };
        let rate = if is_adapted { self.rates.frozen } else { self.rates.f32 };
        [
            slower * flops / rate / threads,
            1e-9 * elements * slowness / threads,
            1e-9 * weights * bytes * slowness / threads,
            1e-6 * (layers + 1) as f64 * layer_calls * slowness,
        ]
    }
}

/// Whether adapters alone are trained.
fn is_adapted(shape: &Shape) -> bool {
    shape.is_large() || shape.name == PRETRAINED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::BenchShape;
    use crate::estimate::EVALUATED_TOKENS;
    use clap::ValueEnum;
    use duel_spec::PpoSettings;
    use std::collections::BTreeMap;

    const MEASURED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../results/bench/scaling.csv");
    /// By how much the plan may be wrong, either way.
    const RIGHT: f64 = 1.3;

    /// A line of the measurements.
    struct MeasuredStep {
        fields: BTreeMap<String, String>,
        shape: Shape,
        rates: ProductRates,
        seconds: f64,
    }

    impl MeasuredStep {
        fn all() -> Vec<Self> {
            let text = std::fs::read_to_string(MEASURED).expect("the measured steps");
            let mut lines = text.lines().map(|line| line.split(',').map(String::from));
            let header: Vec<String> = lines.next().expect("a header").collect();
            lines.map(|line| Self::new(header.iter().cloned().zip(line).collect())).collect()
        }

        fn new(fields: BTreeMap<String, String>) -> Self {
            let number = |name: &str| fields[name].parse::<f64>().expect(name);
            let size = BenchShape::from_str(&fields["config"], false).expect("a size");
            let numbers = serde_json::from_value(fields["numbers"].as_str().into()).expect("numbers");
            let tokens = ["prompt_tokens", "response_tokens"].map(|name| number(name) as usize);
            let shape = Shape::of(size).resized(Some(number("batch") as usize), Some(tokens));
            let shape = Shape { threads: number("threads") as usize, numbers, ..shape };
            assert_eq!(shape.config.num_params(), Some(number("parameters") as usize));
            let rates =
                ProductRates { f32: 1e9 * number("product_gflops_f32"), frozen: 1e9 * number("product_gflops") };
            let seconds = number("seconds");
            Self { fields, shape, rates, seconds }
        }

        /// What the plan expects of it.
        fn expected(&self, times: &StepTimes) -> f64 {
            let batch = self.shape.batch as f64;
            match self.fields["case"].as_str() {
                "sft" => times.seconds(StepKind::Train, batch),
                "reward" => times.seconds(StepKind::TrainScalar, 2.0 * batch),
                "dpo_cached" | "dpo_lora" => times.seconds(StepKind::Train, 2.0 * batch),
                "generate" => times.seconds(StepKind::Sample, self.shape.rollout() as f64),
                "logp" => times.seconds(StepKind::Read, batch),
                "evaluation" => times.evaluation(EVALUATED_TOKENS),
                "ppo" => {
                    let settings = PpoSettings::defaults().shared;
                    times.rollout(&RolloutWork {
                        episodes: batch,
                        sampled: batch,
                        minibatches: settings.minibatches as f64,
                        epochs: settings.epochs as f64,
                        reads: 2.0,
                        scalar_reads: 2.0,
                        critics: 1.0,
                    })
                }
                other => panic!("{other}"),
            }
        }

        /// The table's times of this model; by the processors' clock no thread waits for another.
        fn times(&self, table: CostTable) -> StepTimes {
            let parallel = if self.fields["clock"] == "processor" { 1.0 } else { table.parallel };
            let table = CostTable { parallel, ..table };
            StepTimes { table, ..StepTimes::of_table(self.shape.clone(), self.rates) }
        }

        fn by_table(&self, table: CostTable) -> f64 {
            self.expected(&self.times(table))
        }

        /// The same model on sequences of this length and as many threads, in one worker and the size's own batch.
        fn calibrates(&self, other: &Self) -> bool {
            let same = ["clock", "config", "numbers", "prompt_tokens", "response_tokens", "threads"];
            let size = BenchShape::from_str(&self.fields["config"], false).expect("a size");
            same.iter().all(|name| self.fields[*name] == other.fields[*name])
                && self.fields["workers"] == "1"
                && self.shape.batch == Shape::of(size).batch
                && !["ppo", "dpo_cached"].contains(&self.fields["case"].as_str())
        }

        /// By the steps of this model that are timed before a plan; `None` where they are this step, or were not measured.
        fn by_calibration(&self, all: &[Self]) -> Option<f64> {
            let calibration: Vec<&Self> = all.iter().filter(|step| step.calibrates(self)).collect();
            if calibration.is_empty() || calibration.iter().any(|step| std::ptr::eq(*step, self)) {
                return None;
            }
            let mut times = self.times(TABLE);
            for step in calibration {
                let batch = step.shape.batch as f64;
                let kinds = match step.fields["case"].as_str() {
                    "sft" => vec![(StepKind::Train, batch)],
                    "reward" => vec![(StepKind::TrainScalar, 2.0 * batch)],
                    "dpo_lora" => vec![(StepKind::Train, 2.0 * batch), (StepKind::TrainScalar, 2.0 * batch)],
                    "generate" => vec![(StepKind::Sample, step.shape.rollout() as f64)],
                    "logp" => vec![(StepKind::Read, batch), (StepKind::ReadScalar, batch)],
                    _ => vec![],
                };
                for (kind, rows) in kinds {
                    times = times.corrected(kind, rows, step.seconds);
                }
            }
            Some(self.expected(&times))
        }

        fn name(&self) -> String {
            let names =
                ["config", "numbers", "case", "batch", "prompt_tokens", "response_tokens", "threads", "workers"];
            names.map(|name| self.fields[name].as_str()).join(" ")
        }
    }

    /// Writes what the plan expects beside what was measured, in the last two columns.
    fn write(expected: &[(f64, Option<f64>)]) {
        let before = std::fs::read_to_string(MEASURED).expect("the measured steps");
        let mut text = format!("{}\n", before.lines().next().expect("a header"));
        for (line, (table, calibration)) in before.lines().skip(1).zip(expected) {
            let measured = line.rsplitn(3, ',').last().expect("a line");
            let calibration = calibration.map_or(String::new(), |seconds| format!("{seconds:.6}"));
            text += &format!("{measured},{table:.6},{calibration}\n");
        }
        std::fs::write(MEASURED, text).expect("the table can be written");
    }

    /// `DUEL_WRITE_SCALING=1` writes what the plan expects beside what was measured.
    #[test]
    fn every_measured_step_is_planned_within_a_third() {
        let all = MeasuredStep::all();
        assert!(all.len() > 70, "{} steps", all.len());
        let expected: Vec<(f64, Option<f64>)> =
            all.iter().map(|step| (step.by_table(TABLE), step.by_calibration(&all))).collect();
        if std::env::var_os("DUEL_WRITE_SCALING").is_some() {
            write(&expected);
        }
        let mut wrong = vec![];
        for (step, (table, calibration)) in all.iter().zip(&expected) {
            for (source, seconds) in [("table", Some(*table)), ("measured", *calibration)] {
                let ratio = seconds.unwrap_or(step.seconds) / step.seconds;
                if !(1.0 / RIGHT..=RIGHT).contains(&ratio) {
                    wrong.push(format!("{} by {source}: {ratio:.2}", step.name()));
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    }

    #[test]
    fn the_committed_table_has_what_the_plan_expects() {
        let all = MeasuredStep::all();
        for step in &all {
            let is = |name: &str, seconds: f64| {
                let written: f64 = step.fields[name].parse().unwrap_or(f64::NAN);
                assert!((seconds - written).abs() <= 1e-6 + 1e-3 * seconds, "{} {name}: {seconds}", step.name());
            };
            is("estimated_seconds", step.by_table(TABLE));
            match step.by_calibration(&all) {
                Some(seconds) => is("calibrated_seconds", seconds),
                None => assert_eq!(step.fields["calibrated_seconds"], ""),
            }
        }
    }

    /// Of a machine twice as fast at products every part is, and two threads share all but what a layer takes by itself.
    #[test]
    fn times_scale_with_the_machine() {
        let shape = Shape { threads: 1, ..Shape::of(BenchShape::S) };
        let rates = ProductRates::of_table(ModelNumbers::F32);
        let twice = ProductRates { f32: 2.0 * rates.f32, frozen: 2.0 * rates.frozen };
        let [times, faster] = [rates, twice].map(|rates| StepTimes::of_table(shape.clone(), rates));
        for kind in [StepKind::Train, StepKind::TrainScalar, StepKind::Read, StepKind::ReadScalar, StepKind::Sample] {
            let [slow, fast] = [&times, &faster].map(|times| times.seconds(kind, 16.0));
            assert!((slow / fast - 2.0).abs() < 1e-9, "{kind:?}");
            let shared = times.with_threads(2).seconds(kind, 16.0);
            assert!(shared > 0.5 * slow && shared < slow, "{kind:?}");
            let corrected = times.clone().corrected(kind, 16.0, 3.0 * slow);
            assert!((corrected.seconds(kind, 16.0) / slow - 3.0).abs() < 1e-9, "{kind:?}");
            assert!(corrected.seconds(kind, 64.0) > corrected.seconds(kind, 16.0), "{kind:?}");
        }
    }

    impl CostTable {
        fn from_numbers(numbers: [f64; 18]) -> Self {
            let steps = |kind: usize| StepCosts {
                product: numbers[4 * kind],
                element: numbers[4 * kind + 1],
                weight: numbers[4 * kind + 2],
                layer: numbers[4 * kind + 3],
            };
            let [train, adapt, read, sample] = [0, 1, 2, 3].map(steps);
            Self { train, adapt, read, sample, parallel: numbers[16], evaluated_token: numbers[17] }
        }

        fn numbers(self) -> [f64; 18] {
            let Self { train, adapt, read, sample, parallel, evaluated_token } = self;
            let mut numbers = [parallel; 18];
            for (kind, StepCosts { product, element, weight, layer }) in [train, adapt, read, sample].iter().enumerate()
            {
                numbers[4 * kind..][..4].copy_from_slice(&[*product, *element, *weight, *layer]);
            }
            numbers[17] = evaluated_token;
            numbers
        }
    }

    /// Prints the costs for [`TABLE`]: the least sum of twelfth powers of the logarithms of expected over measured, which is
    /// nearly the least largest one; one cost at a time.
    #[test]
    #[ignore = "prints a table of costs, to be written above after new measurements"]
    fn costs_that_fit_the_measured_steps() {
        let all = MeasuredStep::all();
        let loss = |numbers: [f64; 18]| -> f64 {
            let table = CostTable::from_numbers(numbers);
            all.iter().map(|step| (step.by_table(table) / step.seconds).ln().powi(12)).sum()
        };
        let mut best = TABLE.numbers();
        let (mut least, mut step) = (loss(best), 2.0);
        while step > 1.002 {
            let before = least;
            for index in 0..best.len() {
                for factor in [step, 1.0 / step] {
                    let mut numbers = best;
                    numbers[index] *= factor;
                    let trial = loss(numbers);
                    if trial < least {
                        (best, least) = (numbers, trial);
                    }
                }
            }
            if least > 0.9999 * before {
                step = step.sqrt();
            }
        }
        for step in &all {
            eprintln!("{:5.2} {}", step.by_table(CostTable::from_numbers(best)) / step.seconds, step.name());
        }
        let rate = |numbers: &str| {
            let of_numbers = all.iter().filter(|step| step.fields["numbers"] == numbers);
            let mut rates: Vec<f64> = of_numbers.map(|step| step.rates.frozen / 1e9).collect();
            rates.sort_by(f64::total_cmp);
            rates.get(rates.len() / 2).copied()
        };
        eprintln!("{:#.3?}\nloss {least:.4}", CostTable::from_numbers(best));
        eprintln!("GFLOP/s: f32 {:?}, bf16 {:?}, q8 {:?}", rate("f32"), rate("bf16"), rate("q8"));
    }
}
