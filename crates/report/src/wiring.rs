//! What is chosen on validation prompts and read on test prompts, first and last, cheapest and best: all that connects the statistics
//! is held against a second program, written from the definitions (docs/verdicts.md) and as plainly as it can be, on a simulated run in
//! which validation and test have nothing to do with each other.

use crate::canvas::{AnyChart, MarkStyle, Series};
use crate::effects::{PairedSample, RunArm, has_diverged, sample};
use crate::frontier::{self, at_equal_kl, gain_at, mark_at};
use crate::run::by_hand::HandMadeRun;
use crate::run::{EvalPoint, Run};
use crate::tuning::TuningResults;
use crate::{figures, over, reach, sensitivity, tables};
use duel_ledger::Outcomes;
use duel_spec::metrics::{self, Metric};
use duel_spec::seeds::Rng as StdRng;
use duel_spec::{Cell, ClaimMetric, Clocks, OutcomeRow, SelectionMetric, seeds};
use rand::RngExt;
use std::collections::BTreeSet;

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
const ARMS: [&str; 2] = ["d", "p"]; // in the experiment's order
const TEST: &str = "evaluation-test";
const VALIDATION: &str = "evaluation-validation";
const KLS: [f64; 4] = [0.25, 0.5, 1.0, 2.0];

/// A row as it was written.
struct WrittenRow {
    arm: String,
    point: String,
    stage: &'static str,
    seed: u64,
    clocks: Clocks,
    metric: &'static str,
    value: f64,
}

/// The run, and all rows that it was made of.
struct SimulatedRun {
    run: Run,
    rows: Vec<WrittenRow>,
    outcomes: Vec<Outcomes>,
}

struct Writer {
    run: HandMadeRun,
    rows: Vec<WrittenRow>,
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

fn simulated() -> SimulatedRun {
    let mut rng = seeds::derive(5, "wiring", 0, "report");
    let mut w = Writer { run: HandMadeRun::new(EXPERIMENT), rows: vec![] };
    let mut outcomes = vec![];
    let cells = w.run.run().cells.clone();
    let seed_list = w.run.run().experiment.seed_list();
    let mut earn = |rng: &mut StdRng, arm: &str, point: &str, seed: u64| {
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
        outcomes.push(Outcomes { arm: arm.into(), point: point.into(), seed, all });
    };
    for &seed in &seed_list {
        let uniform = |rng: &mut StdRng, low: f64, high: f64| low + (high - low) * rng.random::<f64>();
        // the reference, and the optimum: rising and concave, another on each side
        for (stage, gold) in [(VALIDATION, 1.0), (TEST, 3.0)] {
            let gold = gold + uniform(&mut rng, -0.5, 0.5);
            for (metric, value) in [
                (metrics::KL, 0.0),
                (metrics::GOLD, gold),
                (metrics::GOLD_SD, uniform(&mut rng, 0.5, 2.0)),
                (metrics::PROXY, uniform(&mut rng, 0.0, 1.0)),
                (metrics::LENGTH, uniform(&mut rng, 5.0, 6.0)),
            ] {
                w.row(["reference", "sft"], stage, seed, Clocks::default(), metric, value);
            }
            for (point, kl) in [("beta=2", 0.2), ("beta=1", 1.0), ("beta=0.5", 2.5), ("beta=0.1", 6.0)] {
                let kl = kl * uniform(&mut rng, 0.9, 1.1);
                let best = gold + 3.0 * f64::sqrt(kl);
                w.row(["optimum", point], stage, seed, Clocks::default(), metrics::KL, kl);
                w.row(["optimum", point], stage, seed, Clocks::default(), metrics::GOLD, best);
            }
        }
        earn(&mut rng, "reference", "sft", seed);
        // what stands before the arms' own training; the last row is not the dearest
        for (stage, scale) in [("rm", 40.0), ("reference", 7.0), ("sft", 100.0)] {
            for (step, part) in [(1, 0.5), (2, 1.0), (3, 0.25)] {
                let clocks = Clocks {
                    step,
                    tokens: step,
                    flops: scale * part * uniform(&mut rng, 0.9, 1.1),
                    wall_seconds: scale * part,
                };
                w.row(["shared", "-"], stage, seed, clocks, metrics::LOSS, part);
            }
        }
        for cell in cells.iter().filter(|cell| cell.seed == seed) {
            let place: [&str; 2] = [&cell.arm, &cell.point.label];
            let mut clocks = Clocks::default();
            for step in 1..=4u64 {
                let mut spend = |x: f64| uniform(&mut rng, 0.5, 1.5) * x;
                clocks = Clocks {
                    step: step * 10,
                    tokens: clocks.tokens + 1 + spend(100.0) as u64,
                    flops: clocks.flops + spend(10.0),
                    wall_seconds: clocks.wall_seconds + spend(3.0),
                };
                for stage in [VALIDATION, TEST] {
                    let far = uniform(&mut rng, 0.1, 1.0) * step as f64;
                    for (metric, value) in [
                        (metrics::KL, far),
                        (metrics::GOLD, 2.0 + uniform(&mut rng, -1.0, 4.0)),
                        (metrics::PROXY, uniform(&mut rng, 0.0, 9.0)),
                        (metrics::LENGTH, uniform(&mut rng, 3.0, 9.0)),
                        (metrics::LOG_RATIO_CHOSEN, uniform(&mut rng, -9.0, 1.0)),
                        (metrics::ORDERED_PAIRS, uniform(&mut rng, 0.0, 1.0)),
                        (metrics::ETA, uniform(&mut rng, 0.0, 1.0)),
                        (metrics::WIN_RATE, uniform(&mut rng, 0.0, 1.0)),
                    ] {
                        w.row(place, stage, seed, clocks, metric, value);
                    }
                }
                for (metric, value) in [
                    (metrics::KL_STEP, uniform(&mut rng, 0.001, 0.1)),
                    (metrics::MODELS_RESIDENT, rng.random_range(1..5).into()),
                    (metrics::SAMPLED_TOKENS, rng.random_range(1..900).into()),
                ] {
                    w.row(place, "train", seed, clocks, metric, value);
                }
            }
            w.row(place, "cell", seed, clocks, metrics::PEAK_RSS, uniform(&mut rng, 1e6, 9e6));
            earn(&mut rng, &cell.arm, &cell.point.label, seed);
        }
    }
    // one policy is far on test prompts alone, another on validation prompts alone
    for (seed, stage) in [(seed_list[1], TEST), (seed_list[2], VALIDATION)] {
        let clocks = Clocks { step: 50, tokens: 9000, flops: 99.0, wall_seconds: 30.0 };
        for side in [VALIDATION, TEST] {
            w.row(["d", "beta=0.2"], side, seed, clocks, metrics::KL, if side == stage { 60.0 } else { 1.7 });
            w.row(["d", "beta=0.2"], side, seed, clocks, metrics::GOLD, 2.5);
            w.row(["d", "beta=0.2"], side, seed, clocks, metrics::PROXY, 2.5);
            w.row(["d", "beta=0.2"], side, seed, clocks, metrics::LENGTH, 4.5);
        }
    }
    w.run.run().outcomes.clone_from(&outcomes);
    SimulatedRun { run: w.run.done(), rows: w.rows, outcomes }
}

/// A policy by the place of its rows: arm, point, seed and step.
type PolicyKey = (String, String, u64, u64);

/// The definitions, with the side that is chosen on and the one that is read: those of the report are validation and test.
struct NaiveReport<'a> {
    of: &'a SimulatedRun,
    chosen: &'static str,
    read: &'static str,
}

impl NaiveReport<'_> {
    fn value(&self, (arm, point, seed, step): &PolicyKey, stage: &str, metric: Metric) -> Option<f64> {
        let its = |r: &&WrittenRow| {
            (&r.arm, &r.point, r.seed, r.clocks.step) == (arm, point, *seed, *step)
                && r.stage == stage
                && r.metric == metric.name
        };
        self.of.rows.iter().find(its).map(|r| r.value)
    }

    fn clock(&self, policy: &PolicyKey, of: fn(&Clocks) -> f64) -> f64 {
        let its = |r: &&WrittenRow| {
            (&r.arm, &r.point, r.seed, r.clocks.step) == (&policy.0, &policy.1, policy.2, policy.3) && r.stage == TEST
        };
        self.of.rows.iter().find(its).map(|r| of(&r.clocks)).expect("a policy")
    }

    /// All policies of an arm at a seed, point by point and step by step.
    fn policies(&self, arm: &str, seed: u64) -> Vec<PolicyKey> {
        let its = self.of.rows.iter().filter(|r| r.arm == arm && r.seed == seed && r.stage == TEST);
        let all: BTreeSet<PolicyKey> = its.map(|r| (r.arm.clone(), r.point.clone(), r.seed, r.clocks.step)).collect();
        all.into_iter().collect()
    }

    /// The last policy of every point.
    fn finished(&self, arm: &str, seed: u64) -> Vec<PolicyKey> {
        let all = self.policies(arm, seed);
        all.iter().filter(|a| all.iter().all(|b| b.1 != a.1 || b.3 <= a.3)).cloned().collect()
    }

    fn reference(&self, seed: u64) -> PolicyKey {
        ("reference".into(), "sft".into(), seed, 0)
    }

    fn points(&self, arm: &str, seed: u64) -> BTreeSet<String> {
        self.policies(arm, seed).into_iter().map(|p| p.1).collect()
    }

    /// The policies that no mixture of two others beats at the same KL, on the side that is chosen on.
    fn best_mixtures(&self, policies: Vec<PolicyKey>, stage: &str) -> Vec<PolicyKey> {
        let at = |p: &PolicyKey| {
            (self.value(p, stage, metrics::KL).expect("KL"), self.value(p, stage, metrics::GOLD).expect("gold"))
        };
        let all: Vec<(f64, f64)> = policies.iter().map(at).collect();
        let stays = |i: usize| {
            let (x, y) = all[i];
            let beaten = |a: usize, b: usize| {
                let ((xa, ya), (xb, yb)) = (all[a], all[b]);
                a != i && b != i && xa < x && x < xb && ya + (yb - ya) * (x - xa) / (xb - xa) >= y
            };
            !(0..all.len()).any(|a| (0..all.len()).any(|b| beaten(a, b)))
        };
        (0..all.len()).filter(|&i| stays(i)).map(|i| policies[i].clone()).collect()
    }

    fn frontier(&self, arm: &str, seed: u64, only_finished: bool) -> Vec<PolicyKey> {
        let mut all = if only_finished { self.finished(arm, seed) } else { self.policies(arm, seed) };
        all.push(self.reference(seed));
        self.best_mixtures(all, self.chosen)
    }

    /// The policies of a list on either side of a KL, with their weights.
    fn around(&self, policies: &[PolicyKey], stage: &str, kl: f64) -> Option<[(PolicyKey, f64); 2]> {
        let x = |p: &&PolicyKey| self.value(p, stage, metrics::KL).expect("KL");
        let left = policies.iter().filter(|p| x(p) <= kl).max_by(|a, b| x(a).total_cmp(&x(b)))?;
        let right = policies.iter().filter(|p| x(p) > kl).min_by(|a, b| x(a).total_cmp(&x(b)))?;
        let share = (kl - x(&left)) / (x(&right) - x(&left));
        Some([(left.clone(), 1.0 - share), (right.clone(), share)])
    }

    fn at(&self, policies: &[PolicyKey], stage: &str, kl: f64, metric: Metric) -> Option<f64> {
        let around = self.around(policies, stage, kl)?;
        around.iter().map(|(p, share)| Some(share * self.value(p, stage, metric)?)).sum()
    }

    fn optimum_gain(&self, seed: u64, stage: &str, kl: f64) -> Option<f64> {
        let all = [vec![self.reference(seed)], self.policies("optimum", seed)].concat();
        Some(self.at(&all, stage, kl, metrics::GOLD)? - self.value(&self.reference(seed), stage, metrics::GOLD)?)
    }

    /// Gold above the reference, and as a share of the optimum's.
    fn gain(&self, arm: &str, seed: u64, kl: f64) -> Option<(f64, f64)> {
        let gold = self.at(&self.frontier(arm, seed, false), self.read, kl, metrics::GOLD)?;
        let gain = gold - self.value(&self.reference(seed), self.read, metrics::GOLD)?;
        Some((gain, gain / self.optimum_gain(seed, self.read, kl)?))
    }

    /// Cost at which a straight line between the looks at a training first has half of the optimum's gain at a KL.
    fn arrival(&self, arm: &str, point: &str, seed: u64, stage: &str, kl: f64, of: fn(&Clocks) -> f64) -> f64 {
        let start = self.value(&self.reference(seed), stage, metrics::GOLD).expect("gold");
        let target = start + self.optimum_gain(seed, stage, kl).expect("known") / 2.0;
        let mut looks = vec![(0.0, start)];
        for policy in self.policies(arm, seed).into_iter().filter(|p| p.1 == point) {
            looks.push((self.clock(&policy, of), self.value(&policy, stage, metrics::GOLD).expect("gold")));
        }
        for i in 1..looks.len() {
            let ((x0, y0), (x1, y1)) = (looks[i - 1], looks[i]);
            if y1 >= target {
                return if y0 >= target { x0 } else { x0 + (x1 - x0) * (target - y0) / (y1 - y0) };
            }
        }
        f64::INFINITY
    }

    /// What stands before the training: the dearest row of the shared stage.
    fn before(&self, arm: &str, seed: u64, of: fn(&Clocks) -> f64) -> f64 {
        let stage = if arm == "p" { "rm" } else { "reference" };
        let its = self.of.rows.iter().filter(|r| r.arm == "shared" && r.stage == stage && r.seed == seed);
        its.max_by(|a, b| a.clocks.flops.total_cmp(&b.clocks.flops)).map(|r| of(&r.clocks)).expect("a shared stage")
    }

    fn price(&self, arm: &str, seed: u64, kl: f64, of: fn(&Clocks) -> f64) -> f64 {
        let mut cheapest = (f64::INFINITY, String::new());
        for point in self.points(arm, seed) {
            let cost = self.arrival(arm, &point, seed, self.chosen, kl, of);
            if cost < cheapest.0 {
                cheapest = (cost, point);
            }
        }
        if cheapest.0.is_infinite() {
            return f64::INFINITY;
        }
        self.before(arm, seed, of) + self.arrival(arm, &cheapest.1, seed, self.read, kl, of)
    }

    /// Of most gold and of the largest KL, on the side that is chosen on.
    fn peak_and_furthest(&self, policies: &[PolicyKey]) -> [PolicyKey; 2] {
        [metrics::GOLD, metrics::KL].map(|metric| {
            let of = |p: &&PolicyKey| self.value(p, self.chosen, metric).expect("measured");
            policies.iter().max_by(|a, b| of(a).total_cmp(&of(b))).expect("policies").clone()
        })
    }

    fn mean_finished(&self, arm: &str, seed: u64, metric: Metric) -> f64 {
        average(self.finished(arm, seed).iter().filter_map(|p| self.value(p, self.read, metric)).collect())
    }

    /// Mean over points of what a training wrote: its last value, or its mean over steps.
    fn logged(&self, arm: &str, seed: u64, stage: &str, metric: Metric, is_last: bool) -> f64 {
        let of = |point: String| {
            let its =
                self.of.rows.iter().filter(|r| r.arm == arm && r.point == point && r.seed == seed && r.stage == stage);
            let mut all: Vec<&WrittenRow> = its.filter(|r| r.metric == metric.name).collect();
            all.sort_by_key(|r| r.clocks.step);
            if is_last { all.last().expect("written").value } else { average(all.iter().map(|r| r.value).collect()) }
        };
        average(self.points(arm, seed).into_iter().map(of).collect())
    }

    /// The most gold of a mixture of some policies and the reference within the budget's KL, less the reference's.
    fn best_within(&self, policies: Vec<PolicyKey>, seed: u64, stage: &str, kl: f64) -> f64 {
        let all = self.best_mixtures([policies, vec![self.reference(seed)]].concat(), stage);
        let near = all.iter().filter(|p| self.value(p, stage, metrics::KL).expect("KL") <= kl);
        let golds = near.map(|p| self.value(p, stage, metrics::GOLD).expect("gold")).chain(self.at(
            &all,
            stage,
            kl,
            metrics::GOLD,
        ));
        golds.fold(f64::NEG_INFINITY, f64::max) - self.value(&self.reference(seed), stage, metrics::GOLD).expect("gold")
    }

    fn training(&self, arm: &str, point: &str, seed: u64) -> Vec<PolicyKey> {
        self.policies(arm, seed).into_iter().filter(|p| p.1 == point).collect()
    }

    fn spread_of_points(&self, arm: &str, seed: u64) -> f64 {
        let half = self.optimum_gain(seed, self.read, 1.5).expect("known") / 2.0;
        let worth = |point: String| self.best_within(self.training(arm, &point, seed), seed, self.read, 1.5) / half;
        deviation(self.points(arm, seed).into_iter().map(worth).collect())
    }

    fn has_diverged(&self, arm: &str, point: &str, seed: u64) -> bool {
        let last = self.finished(arm, seed).into_iter().find(|p| p.1 == point).expect("finished");
        let gold = |p: &PolicyKey| self.value(p, self.read, metrics::GOLD).expect("gold");
        self.value(&last, self.read, metrics::KL).expect("KL") > 50.0
            || (point == "beta=0.8" && gold(&last) < gold(&self.reference(seed)))
    }

    fn diverged(&self, arm: &str, seed: u64) -> f64 {
        average(
            self.points(arm, seed)
                .iter()
                .map(|point| f64::from(u8::from(self.has_diverged(arm, point, seed))))
                .collect(),
        )
    }

    /// Chance that a draw of the mixture of finished policies of one arm has more gold than one of the other's, ties half, by prompt.
    fn win_rate(&self, seed: u64, kl: f64, at_length: bool) -> Option<f64> {
        let law = |arm: &str| -> Option<Vec<(u32, f64, u32, f64)>> {
            let mixture = self.around(&self.frontier(arm, seed, true), self.read, kl)?;
            let mut law = vec![];
            for (policy, weight) in mixture {
                let its = |o: &&Outcomes| (&*o.arm, &*o.point, o.seed) == (&*policy.0, &*policy.1, seed);
                let of = self.of.outcomes.iter().find(its).expect("outcomes");
                law.extend(of.all.iter().map(|o| (o.prompt, o.gold_reward, o.tokens, f64::from(o.share) * weight)));
            }
            Some(law)
        };
        let (a, b) = (law("p")?, law("d")?);
        let mut rates = vec![];
        for prompt in 0..3 {
            let (mut won, mut all) = (0.0, 0.0);
            for x in a.iter().filter(|x| x.0 == prompt) {
                for y in b.iter().filter(|y| y.0 == prompt && (!at_length || x.2 == y.2)) {
                    let worth = if x.1 > y.1 {
                        1.0
                    } else if x.1 == y.1 {
                        0.5
                    } else {
                        0.0
                    };
                    won += x.3 * y.3 * worth;
                    all += x.3 * y.3;
                }
            }
            if all > 0.0 {
                rates.push(won / all);
            }
        }
        (!rates.is_empty()).then(|| average(rates) - 0.5)
    }

    /// What a claim of `p` and `d` finds at every seed.
    fn effects(&self, metric: ClaimMetric, kl: f64) -> Vec<f64> {
        let seeds = self.of.run.experiment.seed_list();
        let two = |of: &dyn Fn(&str, u64) -> Option<f64>, join: fn(f64, f64) -> f64| -> Vec<f64> {
            seeds
                .iter()
                .filter_map(|&seed| Some(join(of("p", seed)?, of("d", seed)?)))
                .filter(|x| !x.is_nan())
                .collect()
        };
        let more = |a: f64, b: f64| a - b;
        let fewer = |a: f64, b: f64| b - a;
        let times = |a: f64, b: f64| match (a.is_infinite(), b.is_infinite()) {
            (true, true) => f64::NAN,
            _ => (b / a).ln(),
        };
        let ends = |arm: &str, seed: u64| {
            self.peak_and_furthest(&self.policies(arm, seed))
                .map(|p| self.value(&p, self.read, metrics::GOLD).expect("gold"))
        };
        let sd = |seed: u64| self.value(&self.reference(seed), self.read, metrics::GOLD_SD).expect("sd");
        match metric {
            ClaimMetric::Gain => two(&|arm, seed| Some(self.gain(arm, seed, kl)?.1), more),
            ClaimMetric::WinRate => seeds.iter().filter_map(|&seed| self.win_rate(seed, kl, false)).collect(),
            ClaimMetric::WinRateAtLength => seeds.iter().filter_map(|&seed| self.win_rate(seed, kl, true)).collect(),
            ClaimMetric::Length => {
                two(&|arm, seed| self.at(&self.frontier(arm, seed, false), self.read, kl, metrics::LENGTH), more)
            }
            ClaimMetric::Peak => two(&|arm, seed| Some(ends(arm, seed)[0] / sd(seed)), more),
            ClaimMetric::Drop => two(&|arm, seed| Some((ends(arm, seed)[0] - ends(arm, seed)[1]) / sd(seed)), more),
            ClaimMetric::Displacement => {
                two(&|arm, seed| Some(-self.mean_finished(arm, seed, metrics::LOG_RATIO_CHOSEN)), more)
            }
            ClaimMetric::Ordered => two(&|arm, seed| Some(self.mean_finished(arm, seed, metrics::ORDERED_PAIRS)), more),
            ClaimMetric::Flops => two(&|arm, seed| Some(self.price(arm, seed, kl, |c| c.flops)), times),
            ClaimMetric::Seconds => two(&|arm, seed| Some(self.price(arm, seed, kl, |c| c.wall_seconds)), times),
            ClaimMetric::Memory => {
                two(&|arm, seed| Some(self.logged(arm, seed, "cell", metrics::PEAK_RSS, true)), times)
            }
            ClaimMetric::Models => {
                two(&|arm, seed| Some(self.logged(arm, seed, "train", metrics::MODELS_RESIDENT, true)), fewer)
            }
            ClaimMetric::Sampled => {
                two(&|arm, seed| Some(self.logged(arm, seed, "train", metrics::SAMPLED_TOKENS, true)), fewer)
            }
            ClaimMetric::Step => {
                two(&|arm, seed| Some(self.logged(arm, seed, "train", metrics::KL_STEP, false)), times)
            }
            ClaimMetric::Spread => two(&|arm, seed| Some(self.gain(arm, seed, kl)?.1), more), // of its pairs
            ClaimMetric::SpreadOfPoints => two(&|arm, seed| Some(self.spread_of_points(arm, seed)), times),
            ClaimMetric::Diverged => two(&|arm, seed| Some(self.diverged(arm, seed)), fewer),
        }
    }
}

fn average(values: Vec<f64>) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn deviation(values: Vec<f64>) -> f64 {
    let middle = average(values.clone());
    (values.iter().map(|x| (x - middle) * (x - middle)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

fn near(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

/// Numbers where both have one, at the same places.
fn assert_same(what: &str, found: &[f64], expected: &[f64]) {
    let same = found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| near(*a, *b));
    assert!(same, "{what}: found {found:?}, expected {expected:?}");
}

const CLAIMS: [ClaimMetric; 16] = [
    ClaimMetric::Gain,
    ClaimMetric::WinRate,
    ClaimMetric::WinRateAtLength,
    ClaimMetric::Length,
    ClaimMetric::Peak,
    ClaimMetric::Drop,
    ClaimMetric::Displacement,
    ClaimMetric::Ordered,
    ClaimMetric::Flops,
    ClaimMetric::Seconds,
    ClaimMetric::Memory,
    ClaimMetric::Models,
    ClaimMetric::Sampled,
    ClaimMetric::Step,
    ClaimMetric::SpreadOfPoints,
    ClaimMetric::Diverged,
];

fn found(run: &Run, metric: ClaimMetric, kl: f64) -> Vec<f64> {
    let [p, d] = ["p", "d"].map(|name| RunArm { run, name });
    match sample(metric, kl, p, Some(d)) {
        PairedSample::Mean(x) | PairedSample::Median(x) | PairedSample::Counted(x) => x,
        PairedSample::Spread(pairs) => pairs.into_iter().map(|(a, b)| a - b).collect(),
    }
}

#[test]
fn effects_are_those_of_their_definitions() {
    let simulated = simulated();
    let naive = NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST };
    let mut seen = 0;
    for metric in CLAIMS.into_iter().chain([ClaimMetric::Spread]) {
        for kl in KLS.into_iter().filter(|kl| metric.is_at_kl() || *kl == 1.0) {
            let expected = naive.effects(metric, kl);
            assert_same(&format!("{metric:?} at {kl}"), &found(&simulated.run, metric, kl), &expected);
            seen += expected.len();
        }
    }
    assert!(seen > 150, "{seen} numbers");
}

/// The run is one that tells an exchange: choosing on the other side, or reading on it, gives other numbers.
#[test]
fn the_simulated_run_tells_validation_from_test() {
    let simulated = simulated();
    let right = NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST };
    for (chosen, read) in [(TEST, VALIDATION), (TEST, TEST), (VALIDATION, VALIDATION)] {
        let other = NaiveReport { of: &simulated, chosen, read };
        for metric in [
            ClaimMetric::Gain,
            ClaimMetric::WinRate,
            ClaimMetric::Length,
            ClaimMetric::Peak,
            ClaimMetric::Drop,
            ClaimMetric::Flops,
        ] {
            assert_ne!(right.effects(metric, 1.0), other.effects(metric, 1.0), "{metric:?} {chosen} {read}");
        }
    }
}

#[test]
fn frontiers_and_arms_at_equal_kl_are_those_of_their_definitions() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST });
    let seeds = run.experiment.seed_list();
    for arm in ARMS {
        for (kl, &seed) in KLS.iter().flat_map(|kl| seeds.iter().map(move |seed| (*kl, seed))) {
            let pair = gain_at(run, arm, seed, kl).map(|(gain, share)| [gain, share.expect("the optimum is known")]);
            let expected = naive.gain(arm, seed, kl).map(|(gain, share)| [gain, share]);
            assert_same(
                &format!("gain of {arm}, seed {seed}, at {kl}"),
                pair.as_ref().map_or(&[], |x| &x[..]),
                expected.as_ref().map_or(&[], |x| &x[..]),
            );
            let length = mark_at(run, arm, seed, kl, metrics::LENGTH);
            let expected = naive.at(&naive.frontier(arm, seed, false), TEST, kl, metrics::LENGTH);
            assert_same("length", &Vec::from_iter(length), &Vec::from_iter(expected));
        }
    }
    // all arms at one KL, over the seeds where both get there
    let all = at_equal_kl(run);
    assert_eq!(all.iter().map(|m| m.kl).collect::<Vec<_>>(), KLS);
    for m in &all {
        let both: Vec<[(f64, f64); 2]> =
            seeds.iter().filter_map(|&s| Some([naive.gain("d", s, m.kl)?, naive.gain("p", s, m.kl)?])).collect();
        for (place, reached) in m.arms.iter().enumerate() {
            let reached = reached.as_ref().expect("reached");
            let [gain, share] = [|x: &(f64, f64)| x.0, |x: &(f64, f64)| x.1]
                .map(|of| average(both.iter().map(|pair| of(&pair[place])).collect()));
            assert_eq!((reached.arm.as_str(), reached.gain.n), (ARMS[place], both.len()));
            assert_same("at equal KL", &[reached.gain.mean, reached.eta.expect("known").mean], &[gain, share]);
        }
        let difference = average(both.iter().map(|[d, p]| p.1 - d.1).collect());
        assert_same("difference", &[m.difference.expect("both").mean], &[difference]);
    }
    // the interval of the frontier: its middle is the mean of the seeds that get there, as far as four of five do
    let (low, high) = frontier::band(run, "p", 6);
    let ends = |&seed: &u64| {
        naive
            .frontier("p", seed, false)
            .iter()
            .map(|p| naive.value(p, TEST, metrics::KL).expect("KL"))
            .fold(0.0, f64::max)
    };
    let mut ends: Vec<f64> = seeds.iter().map(ends).collect();
    ends.sort_by(f64::total_cmp);
    for (step, (low, high)) in low.iter().zip(&high).enumerate().take(6) {
        let kl = ends[1] * step as f64 / 6.0;
        let golds =
            seeds.iter().filter_map(|&seed| naive.at(&naive.frontier("p", seed, false), TEST, kl, metrics::GOLD));
        assert_same("band", &[low.0, f64::midpoint(low.1, high.1)], &[kl, average(golds.collect())]);
    }
    assert!(low.len() >= 6 && high.iter().zip(&low).all(|(high, low)| high.1 > low.1));
}

#[test]
fn prices_are_those_of_their_definitions() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST });
    let mut finite = 0;
    for (arm, kl) in ARMS.into_iter().flat_map(|arm| [0.5, 1.0, 2.0].map(|kl| (arm, kl))) {
        for seed in run.experiment.seed_list() {
            let found = [
                reach::cost_to_target(run, arm, seed, kl, |c| c.flops),
                reach::cost_to_target(run, arm, seed, kl, |c| c.wall_seconds),
            ];
            let expected = [naive.price(arm, seed, kl, |c| c.flops), naive.price(arm, seed, kl, |c| c.wall_seconds)];
            assert_same("price", &found.map(|x| x.expect("known")), &expected);
            finite += usize::from(expected[0].is_finite());
        }
    }
    assert!(finite > 20, "{finite}");
}

#[test]
fn what_is_shown_of_an_arm_is_chosen_on_validation_and_told_from_test() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST });
    let seeds = run.experiment.seed_list();
    let mean_of = |arm: &str, point: &str, stage: &'static str, metric: Metric| {
        let of = |&seed: &u64| {
            naive.finished(arm, seed).into_iter().find(|p| p.1 == point).and_then(|p| naive.value(&p, stage, metric))
        };
        average(seeds.iter().filter_map(of).collect())
    };
    for arm in ARMS {
        let points: Vec<String> = naive.points(arm, seeds[0]).into_iter().collect();
        let best = points.iter().max_by(|a, b| {
            mean_of(arm, a, VALIDATION, metrics::GOLD).total_cmp(&mean_of(arm, b, VALIDATION, metrics::GOLD))
        });
        assert_eq!(run.featured(arm).map(|p| &p.label), best, "{arm}");
    }
    // the tables: the same columns on either side
    let of = |table: &tables::TextTable, arm: &str, point: &str, column: &str| {
        let place = table.head.iter().position(|head| head == column).expect("a column");
        let row = table.rows.iter().find(|row| row[0] == arm && row[1] == point).expect("a row");
        row[place].split(' ').next().and_then(|mean| mean.parse::<f64>().ok()).expect("a number")
    };
    let [test, validation] = tables::both_points(run);
    for (arm, point) in
        ARMS.into_iter().flat_map(|arm| naive.points(arm, seeds[0]).into_iter().map(move |point| (arm, point)))
    {
        for (column, metric) in
            [("gold", metrics::GOLD), ("KL", metrics::KL), ("η", metrics::ETA), ("win rate", metrics::WIN_RATE)]
        {
            let [on_test, on_validation] = [TEST, VALIDATION].map(|stage| mean_of(arm, &point, stage, metric));
            assert!((of(&test, arm, &point, column) - on_test).abs() < 6e-4, "{arm} {point} {column}");
            assert!((of(&validation, arm, &point, column) - on_validation).abs() < 6e-4, "{arm} {point} {column}");
        }
    }
}

#[test]
fn over_optimisation_is_picked_on_validation_and_read_on_test() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST });
    let all = over::over_optimization(run);
    let mut expected = vec![];
    for arm in ARMS {
        expected.push((arm.to_string(), arm, None));
    }
    // along the trainings of rows alone: p has points enough to be held against each other
    expected.extend(
        naive
            .points("d", run.experiment.seed)
            .into_iter()
            .map(|point| (format!("d {point}, its training"), "d", Some(point))),
    );
    assert_eq!(all.iter().map(|d| &d.along).collect::<Vec<_>>(), expected.iter().map(|e| &e.0).collect::<Vec<_>>());
    for (drops, (along, arm, point)) in all.iter().zip(&expected) {
        let mut columns: [Vec<f64>; 6] = Default::default();
        for seed in run.experiment.seed_list() {
            let policies =
                point.as_ref().map_or_else(|| naive.finished(arm, seed), |point| naive.training(arm, point, seed));
            let ends = naive.peak_and_furthest(&policies);
            let of = |metric| ends.clone().map(|p| naive.value(&p, TEST, metric).expect("measured"));
            let ([kl, far], [peak, there], [proxy, later]) = (of(metrics::KL), of(metrics::GOLD), of(metrics::PROXY));
            let sd = naive.value(&naive.reference(seed), TEST, metrics::GOLD_SD).expect("sd");
            columns
                .iter_mut()
                .zip([kl, peak, far, there, (peak - there) / sd, later - proxy])
                .for_each(|(column, x)| column.push(x));
        }
        let found = [&drops.peak_kl, &drops.peak_gold, &drops.kl, &drops.gold, &drops.drop, &drops.proxy];
        found.iter().zip(&columns).for_each(|(found, expected)| assert_same(along, found, expected));
    }
}

#[test]
fn worths_of_a_choice_are_of_validation_prompts() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST });
    let tuning = TuningResults::of(run);
    assert!(tuning.is_share && tuning.tried.len() == 8);
    for tried in &tuning.tried {
        for (&seed, worth) in &tried.seeds {
            let worth = worth.expect("finished");
            let training = naive.training(&tried.arm, &tried.label, seed);
            let gold = naive.best_within(training.clone(), seed, VALIDATION, 1.5)
                / naive.optimum_gain(seed, VALIDATION, 1.5).expect("known");
            let last = training.last().expect("looks");
            assert_same("worth", &[worth.gold, worth.flops], &[gold, naive.clock(last, |c| c.flops)]);
        }
    }
    let ranked = tuning.ranked("p", &run.experiment.seed_list(), SelectionMetric::Gold);
    let merit = |label: &str| {
        average(
            run.experiment
                .seed_list()
                .iter()
                .map(|&seed| {
                    naive.best_within(naive.training("p", label, seed), seed, VALIDATION, 1.5)
                        / naive.optimum_gain(seed, VALIDATION, 1.5).expect("known")
                })
                .collect(),
        )
    };
    assert!(ranked.windows(2).all(|pair| merit(&pair[0].label) >= merit(&pair[1].label)));
}

#[test]
fn divergence_is_read_on_test_prompts() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST });
    let expected = |cell: &Cell| Some(naive.has_diverged(&cell.arm, &cell.point.label, cell.seed));
    let found: Vec<Option<bool>> = run.cells.iter().map(|cell| has_diverged(run, cell)).collect();
    assert_eq!(found, run.cells.iter().map(expected).collect::<Vec<_>>());
    let other = NaiveReport { of: &simulated, chosen: VALIDATION, read: VALIDATION };
    assert!(
        run.cells.iter().any(|c| naive.has_diverged(&c.arm, &c.point.label, c.seed)
            != other.has_diverged(&c.arm, &c.point.label, c.seed))
    );
}

/// Curves: the k-th look of every seed, each seed's clock with what stands before it; costs: the last look's.
#[test]
fn curves_and_costs_begin_where_their_clocks_do() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST });
    let seeds = run.experiment.seed_list();
    /// As the charts read it, as the naive program does, and whether what stands before an arm adds to it.
    type Clock = (fn(Clocks) -> f64, fn(&Clocks) -> f64, f64);
    let clocks: [Clock; 4] = [
        (|c| c.step as f64, |c| c.step as f64, 0.0), // steps of different stages do not add
        (|c| c.tokens as f64, |c| c.tokens as f64, 1.0),
        (|c| c.flops, |c| c.flops, 1.0),
        (|c| c.wall_seconds, |c| c.wall_seconds, 1.0),
    ];
    for (point, (clock, of, counts)) in
        run.points_of("p").chain(run.points_of("d")).flat_map(|p| clocks.map(|c| (p, c)))
    {
        let found = figures::eval_curve(point, &figures::upstream_cost(run, point), clock, |m: &EvalPoint| {
            m.test(metrics::GOLD)
        });
        let least = seeds.iter().map(|&s| naive.training(&point.arm, &point.label, s).len()).min().expect("seeds");
        assert_eq!((found.len(), least), (4, 4));
        for (k, (x, y)) in found.iter().enumerate() {
            let look = |seed: u64| naive.training(&point.arm, &point.label, seed)[k].clone();
            let expected =
                seeds.iter().map(|&s| naive.clock(&look(s), of) + counts * naive.before(&point.arm, s, of)).collect();
            let golds = seeds.iter().map(|&s| naive.value(&look(s), TEST, metrics::GOLD).expect("gold")).collect();
            assert_same("look", &[*x, y.mean], &[average(expected), average(golds)]);
        }
    }
    for cost in figures::arm_costs(run) {
        let over = |of: &dyn Fn(u64) -> Vec<f64>| average(seeds.iter().flat_map(|&seed| of(seed)).collect());
        let ends = |of: fn(&Clocks) -> f64| {
            over(&|seed| naive.finished(&cost.arm, seed).iter().map(|p| naive.clock(p, of)).collect())
        };
        let before = |of: fn(&Clocks) -> f64| over(&|seed| vec![naive.before(&cost.arm, seed, of)]);
        let logged = |metric| over(&|seed| vec![naive.logged(&cost.arm, seed, "train", metric, true)]);
        let found = [cost.models, cost.sampled, cost.flops_before, cost.seconds_before, cost.flops, cost.seconds];
        let [flops, seconds] = [before(|c| c.flops), before(|c| c.wall_seconds)];
        let expected = [
            logged(metrics::MODELS_RESIDENT),
            logged(metrics::SAMPLED_TOKENS),
            flops,
            seconds,
            flops + ends(|c| c.flops),
            seconds + ends(|c| c.wall_seconds),
        ];
        assert_same(&cost.arm, &found, &expected);
    }
}

/// The charts: finished policies on test prompts, means over seeds; lines of the featured points, which are chosen on validation.
#[test]
fn charts_show_finished_policies_on_test_prompts() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST });
    let (seeds, kl) = (run.experiment.seed_list(), 1.0); // of the presets the furthest that most seeds of both reach
    let all = figures::all(run, &TuningResults::of(run));
    let plot = |name: &str| match all.iter().find(|chart| chart.name == name).map(|chart| &chart.drawing) {
        Some(AnyChart::Plot(plot)) => plot,
        other => panic!("{name}: {other:?}"),
    };
    let rings = |name: &str, arm: &str| {
        let its = |s: &&Series| matches!(s.look, MarkStyle::Rings { .. }) && s.about.starts_with(&arm.to_uppercase());
        plot(name).series.iter().find(its).map(|s| s.data.clone()).expect("rings")
    };
    let flat = |points: Vec<(f64, f64)>| points.into_iter().flat_map(|(x, y)| [x, y]).collect::<Vec<f64>>();
    let mean_finished = |arm: &str, point: &str, metric: Metric| {
        let of = |&seed: &u64| {
            naive.finished(arm, seed).into_iter().find(|p| p.1 == point).and_then(|p| naive.value(&p, TEST, metric))
        };
        average(seeds.iter().filter_map(of).collect())
    };
    for arm in ARMS {
        for (chart, metric) in [("frontier", metrics::GOLD), ("length", metrics::LENGTH)] {
            let points = naive.points(arm, seeds[0]).into_iter();
            let mut expected: Vec<(f64, f64)> =
                points.map(|p| (mean_finished(arm, &p, metrics::KL), mean_finished(arm, &p, metric))).collect();
            expected.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert_same(chart, &flat(rings(chart, arm)), &flat(expected));
        }
        // chosen responses' log-ratios along the featured training
        let point = run.featured(arm).expect("an arm").label.clone();
        let name = format!("{} chosen", arm.to_uppercase());
        let line = &plot("displacement").series.iter().find(|s| s.name == name).expect("a line").data;
        let look = |k: usize, seed: u64| naive.training(arm, &point, seed)[k].clone();
        let mean_of = |k: usize, of: &dyn Fn(&PolicyKey) -> Option<f64>| {
            average(seeds.iter().filter_map(|&seed| of(&look(k, seed))).collect())
        };
        let at = |k: usize| {
            (
                mean_of(k, &|p| Some(naive.clock(p, |c| c.step as f64))),
                mean_of(k, &|p| naive.value(p, TEST, metrics::LOG_RATIO_CHOSEN)),
            )
        };
        assert_same("displacement", &flat(line.clone()), &flat([vec![(0.0, 0.0)], (0..4).map(at).collect()].concat()));
        // the gain by seed at the common KL, and the price of every seed that arrives
        let dots = |name: &str| {
            let its = |s: &&Series| s.about == format!("{}, a seed", arm.to_uppercase());
            plot(name).series.iter().find(its).expect("dots").data.iter().map(|p| p.0).collect::<Vec<f64>>()
        };
        let gains: Vec<f64> = seeds.iter().filter_map(|&seed| Some(naive.gain(arm, seed, kl)?.1)).collect();
        assert_same("stability", &dots("stability"), &gains);
        let prices = seeds.iter().map(|&seed| naive.price(arm, seed, run.experiment.tuning.kl, |c| c.flops));
        assert_same("reach", &dots("reach-flops"), &prices.filter(|x| x.is_finite()).collect::<Vec<_>>());
    }
    let Some(AnyChart::Matrix(wins)) = all.iter().find(|chart| chart.name == "win-rates").map(|chart| &chart.drawing)
    else {
        panic!("no matrix")
    };
    let rates: Vec<f64> =
        seeds.iter().filter_map(|&seed| naive.win_rate(seed, kl, false)).map(|rate| rate + 0.5).collect();
    assert_same("wins of p against d", &[wins.shares[1][0].expect("known")], &[average(rates)]);
}

/// A setting whose best value, by its worth on validation prompts, is the first or the last of its grid.
#[test]
fn edges_are_of_the_best_on_validation() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport { of: &simulated, chosen: VALIDATION, read: TEST });
    let edges = sensitivity::edges(run, &TuningResults::of(run));
    for arm in ARMS {
        let merit = |stage: &'static str, point: &String| {
            let worth = |&seed: &u64| {
                naive.best_within(naive.training(arm, point, seed), seed, stage, 1.5)
                    / naive.optimum_gain(seed, stage, 1.5).expect("known")
            };
            average(run.experiment.seed_list().iter().map(worth).collect())
        };
        let points: Vec<String> = naive.points(arm, run.experiment.seed).into_iter().collect();
        let best = |stage| points.iter().max_by(|a, b| merit(stage, a).total_cmp(&merit(stage, b))).expect("points");
        let is_edge = ["beta=0.1", "beta=0.8"].contains(&best(VALIDATION).as_str());
        assert_eq!(edges.iter().any(|edge| edge.starts_with(&format!("arms.{arm}."))), is_edge, "{arm}: {edges:?}");
    }
}
