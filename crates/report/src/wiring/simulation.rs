//! A simulated run in which validation and test have nothing to do with each other.

use crate::analysis::hand_made_run::HandMadeRun;
use crate::analysis::run::Run;
use duel_ledger::Outcomes;
use duel_spec::metrics::{self, Metric};
use duel_spec::seeds::Rng as StdRng;
use duel_spec::{Cell, Clocks, OutcomeRow, seeds};
use rand::RngExt;

const EXPERIMENT: &str = r#"
    name = "simulated"
    seeds = 6
    tuning.kl = 1.5
    [world]
    kind = "grammar"
    [arms.p]
    method = "ppo"
    reward = "rm"
    grid.beta = [0.1, 0.2, 0.4, 0.8]
    [arms.d]
    method = "dpo"
    grid.beta = [0.1, 0.2, 0.4, 0.8]
"#;
pub(super) const ARMS: [&str; 2] = ["d", "p"]; // in the experiment's order
pub(super) const TEST: &str = "evaluation-test";
pub(super) const VALIDATION: &str = "evaluation-validation";
pub(super) const KLS: [f64; 4] = [0.25, 0.5, 1.0, 2.0];

/// A row as it was written.
pub(super) struct WrittenRow {
    pub(super) arm: String,
    pub(super) point: String,
    pub(super) stage: &'static str,
    pub(super) seed: u64,
    pub(super) clocks: Clocks,
    pub(super) metric: &'static str,
    pub(super) value: f64,
}

/// The run, and all rows that it was made of.
pub(super) struct SimulatedRun {
    pub(super) run: Run,
    pub(super) rows: Vec<WrittenRow>,
    pub(super) outcomes: Vec<Outcomes>,
}

struct Writer {
    run: HandMadeRun,
    rows: Vec<WrittenRow>,
    outcomes: Vec<Outcomes>,
}

impl Writer {
    fn row(
        &mut self,
        [arm, point]: [&str; 2],
        stage: &'static str,
        seed: u64,
        clocks: Clocks,
        metric: Metric,
        value: f64,
    ) {
        self.run.row([arm, point, stage], seed, clocks, metric, value);
        self.rows.push(WrittenRow {
            arm: arm.into(),
            point: point.into(),
            stage,
            seed,
            clocks,
            metric: metric.name,
            value,
        });
    }
}

fn uniform(rng: &mut StdRng, low: f64, high: f64) -> f64 {
    low + (high - low) * rng.random::<f64>()
}

impl Writer {
    /// What a policy earns on three prompts.
    fn outcomes(&mut self, rng: &mut StdRng, arm: &str, point: &str, seed: u64) {
        let mut all = vec![];
        for prompt in 0..3 {
            for share in [0.5, 0.25, 0.25] {
                all.push(OutcomeRow {
                    prompt,
                    gold_reward: f64::from(rng.random_range(0..5)),
                    tokens: rng.random_range(2..4),
                    share,
                });
            }
        }
        self.outcomes.push(Outcomes { arm: arm.into(), point: point.into(), seed, all });
    }

    /// The reference, and the optimum: rising and concave, another on each split.
    fn reference_and_optimum(&mut self, rng: &mut StdRng, seed: u64) {
        for (stage, gold) in [(VALIDATION, 1.0), (TEST, 3.0)] {
            let gold = gold + uniform(rng, -0.5, 0.5);
            for (metric, value) in [
                (metrics::KL, 0.0),
                (metrics::GOLD, gold),
                (metrics::GOLD_SD, uniform(rng, 0.5, 2.0)),
                (metrics::PROXY, uniform(rng, 0.0, 1.0)),
                (metrics::LENGTH, uniform(rng, 5.0, 6.0)),
            ] {
                self.row(["reference", "sft"], stage, seed, Clocks::default(), metric, value);
            }
            for (point, kl) in [("beta=2", 0.2), ("beta=1", 1.0), ("beta=0.5", 2.5), ("beta=0.1", 6.0)] {
                let kl = kl * uniform(rng, 0.9, 1.1);
                let best = gold + 3.0 * f64::sqrt(kl);
                self.row(["optimum", point], stage, seed, Clocks::default(), metrics::KL, kl);
                self.row(["optimum", point], stage, seed, Clocks::default(), metrics::GOLD, best);
            }
        }
        self.outcomes(rng, "reference", "sft", seed);
    }

    /// What comes before the arms' own training; the last row is not the most expensive.
    fn shared_stages(&mut self, rng: &mut StdRng, seed: u64) {
        for (stage, scale) in [("rm", 40.0), ("reference", 7.0), ("sft", 100.0)] {
            for (step, part) in [(1, 0.5), (2, 1.0), (3, 0.25)] {
                let clocks = Clocks {
                    step,
                    tokens: step,
                    flops: scale * part * uniform(rng, 0.9, 1.1),
                    wall_seconds: scale * part,
                };
                self.row(["shared", "-"], stage, seed, clocks, metrics::LOSS, part);
            }
        }
    }

    /// The training of a cell, with four evaluations.
    fn training(&mut self, rng: &mut StdRng, cell: &Cell) {
        let (seed, arm_and_point) = (cell.seed, [cell.arm.as_str(), cell.point.label.as_str()]);
        let mut clocks = Clocks::default();
        for step in 1..=4u64 {
            let mut spend = |x: f64| uniform(rng, 0.5, 1.5) * x;
            clocks = Clocks {
                step: step * 10,
                tokens: clocks.tokens + 1 + spend(100.0) as u64,
                flops: clocks.flops + spend(10.0),
                wall_seconds: clocks.wall_seconds + spend(3.0),
            };
            for stage in [VALIDATION, TEST] {
                let kl = uniform(rng, 0.1, 1.0) * step as f64;
                for (metric, value) in [
                    (metrics::KL, kl),
                    (metrics::GOLD, 2.0 + uniform(rng, -1.0, 4.0)),
                    (metrics::PROXY, uniform(rng, 0.0, 9.0)),
                    (metrics::LENGTH, uniform(rng, 3.0, 9.0)),
                    (metrics::LOG_RATIO_CHOSEN, uniform(rng, -9.0, 1.0)),
                    (metrics::ORDERED_PAIRS, uniform(rng, 0.0, 1.0)),
                    (metrics::ETA, uniform(rng, 0.0, 1.0)),
                    (metrics::WIN_RATE, uniform(rng, 0.0, 1.0)),
                ] {
                    self.row(arm_and_point, stage, seed, clocks, metric, value);
                }
            }
            for (metric, value) in [
                (metrics::KL_STEP, uniform(rng, 0.001, 0.1)),
                (metrics::MODELS_RESIDENT, rng.random_range(1..5).into()),
                // no random number of its own: those of the others stay what they are
                (metrics::TRAINING_BYTES, 1000.0 * (seed + 1) as f64 * f64::from(cell.arm.as_bytes()[0])),
                (metrics::SAMPLED_TOKENS, rng.random_range(1..900).into()),
            ] {
                self.row(arm_and_point, "train", seed, clocks, metric, value);
            }
        }
        self.row(arm_and_point, "cell", seed, clocks, metrics::PEAK_RSS, uniform(rng, 1e6, 9e6));
        self.outcomes(rng, &cell.arm, &cell.point.label, seed);
    }

    /// One policy has a large KL on test prompts alone, another on validation prompts alone.
    fn outliers(&mut self, seeds: &[u64]) {
        for (seed, stage) in [(seeds[1], TEST), (seeds[2], VALIDATION)] {
            let clocks = Clocks { step: 50, tokens: 9000, flops: 99.0, wall_seconds: 30.0 };
            for split in [VALIDATION, TEST] {
                let kl = if split == stage { 60.0 } else { 1.7 };
                self.row(["d", "beta=0.2"], split, seed, clocks, metrics::KL, kl);
                self.row(["d", "beta=0.2"], split, seed, clocks, metrics::GOLD, 2.5);
                self.row(["d", "beta=0.2"], split, seed, clocks, metrics::PROXY, 2.5);
                self.row(["d", "beta=0.2"], split, seed, clocks, metrics::LENGTH, 4.5);
            }
        }
    }
}

pub(super) fn simulated() -> SimulatedRun {
    let mut rng = seeds::derive(5, "wiring", 0, "report");
    let mut w = Writer { run: HandMadeRun::new(EXPERIMENT), rows: vec![], outcomes: vec![] };
    let cells = w.run.run().cells.clone();
    let seed_list = w.run.run().experiment.seed_list();
    for &seed in &seed_list {
        w.reference_and_optimum(&mut rng, seed);
        w.shared_stages(&mut rng, seed);
        for cell in cells.iter().filter(|cell| cell.seed == seed) {
            w.training(&mut rng, cell);
        }
    }
    w.outliers(&seed_list);
    w.run.run().outcomes.clone_from(&w.outcomes);
    SimulatedRun { run: w.run.finish(), rows: w.rows, outcomes: w.outcomes }
}
