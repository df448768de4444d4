//! The numbers of a report by their definitions (docs/verdicts.md), as plainly as they can be computed.

use super::simulation::{SimulatedRun, TEST, VALIDATION, WrittenRow};
use duel_ledger::Outcomes;
use duel_spec::metrics::{self, Metric};
use duel_spec::{ClaimMetric, Clocks};
use std::collections::BTreeSet;

/// Identifies a policy: arm, point, seed and step.
pub(super) type PolicyKey = (String, String, u64, u64);

/// The definitions, with the split to choose on and the split to read.
pub(super) struct NaiveReport<'a> {
    pub(super) simulated: &'a SimulatedRun,
    pub(super) choose_on: &'static str,
    pub(super) read_on: &'static str,
}

impl<'a> NaiveReport<'a> {
    /// Chooses on validation and reads on test, as the report does.
    pub(super) fn new(simulated: &'a SimulatedRun) -> Self {
        Self { simulated, choose_on: VALIDATION, read_on: TEST }
    }

    pub(super) fn value(&self, (arm, point, seed, step): &PolicyKey, stage: &str, metric: Metric) -> Option<f64> {
        let is_row = |r: &&WrittenRow| {
            (&r.arm, &r.point, r.seed, r.clocks.step) == (arm, point, *seed, *step)
                && r.stage == stage
                && r.metric == metric.name
        };
        self.simulated.rows.iter().find(is_row).map(|r| r.value)
    }

    pub(super) fn clock(&self, policy: &PolicyKey, clock: fn(&Clocks) -> f64) -> f64 {
        let is_row = |r: &&WrittenRow| {
            (&r.arm, &r.point, r.seed, r.clocks.step) == (&policy.0, &policy.1, policy.2, policy.3) && r.stage == TEST
        };
        self.simulated.rows.iter().find(is_row).map(|r| clock(&r.clocks)).expect("a policy")
    }

    /// All policies of an arm at a seed, point by point and step by step.
    pub(super) fn policies(&self, arm: &str, seed: u64) -> Vec<PolicyKey> {
        let rows = self.simulated.rows.iter().filter(|r| r.arm == arm && r.seed == seed && r.stage == TEST);
        let all: BTreeSet<PolicyKey> = rows.map(|r| (r.arm.clone(), r.point.clone(), r.seed, r.clocks.step)).collect();
        all.into_iter().collect()
    }

    /// The last policy of every point.
    pub(super) fn finished(&self, arm: &str, seed: u64) -> Vec<PolicyKey> {
        let all = self.policies(arm, seed);
        all.iter().filter(|a| all.iter().all(|b| b.1 != a.1 || b.3 <= a.3)).cloned().collect()
    }

    pub(super) fn reference(&self, seed: u64) -> PolicyKey {
        ("reference".into(), "sft".into(), seed, 0)
    }

    pub(super) fn points(&self, arm: &str, seed: u64) -> BTreeSet<String> {
        self.policies(arm, seed).into_iter().map(|p| p.1).collect()
    }

    /// The policies that no mixture of two others beats at the same KL, on the split to choose on.
    pub(super) fn best_mixtures(&self, policies: Vec<PolicyKey>, stage: &str) -> Vec<PolicyKey> {
        let kl_and_gold = |p: &PolicyKey| {
            (self.value(p, stage, metrics::KL).expect("KL"), self.value(p, stage, metrics::GOLD).expect("gold"))
        };
        let all: Vec<(f64, f64)> = policies.iter().map(kl_and_gold).collect();
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

    pub(super) fn frontier(&self, arm: &str, seed: u64, only_finished: bool) -> Vec<PolicyKey> {
        let mut all = if only_finished { self.finished(arm, seed) } else { self.policies(arm, seed) };
        all.push(self.reference(seed));
        self.best_mixtures(all, self.choose_on)
    }

    /// The policies of a list on either side of a KL, with their weights.
    pub(super) fn around(&self, policies: &[PolicyKey], stage: &str, kl: f64) -> Option<[(PolicyKey, f64); 2]> {
        let x = |p: &&PolicyKey| self.value(p, stage, metrics::KL).expect("KL");
        let left = policies.iter().filter(|p| x(p) <= kl).max_by(|a, b| x(a).total_cmp(&x(b)))?;
        let right = policies.iter().filter(|p| x(p) > kl).min_by(|a, b| x(a).total_cmp(&x(b)))?;
        let share = (kl - x(&left)) / (x(&right) - x(&left));
        Some([(left.clone(), 1.0 - share), (right.clone(), share)])
    }

    pub(super) fn at(&self, policies: &[PolicyKey], stage: &str, kl: f64, metric: Metric) -> Option<f64> {
        let around = self.around(policies, stage, kl)?;
        around.iter().map(|(p, share)| Some(share * self.value(p, stage, metric)?)).sum()
    }

    pub(super) fn optimum_gain(&self, seed: u64, stage: &str, kl: f64) -> Option<f64> {
        let all = [vec![self.reference(seed)], self.policies("optimum", seed)].concat();
        Some(self.at(&all, stage, kl, metrics::GOLD)? - self.value(&self.reference(seed), stage, metrics::GOLD)?)
    }

    /// Gold above the reference, and as a share of the optimum's.
    pub(super) fn gain(&self, arm: &str, seed: u64, kl: f64) -> Option<(f64, f64)> {
        let gold = self.at(&self.frontier(arm, seed, false), self.read_on, kl, metrics::GOLD)?;
        let gain = gold - self.value(&self.reference(seed), self.read_on, metrics::GOLD)?;
        Some((gain, gain / self.optimum_gain(seed, self.read_on, kl)?))
    }

    /// Cost at which a straight line between the evaluations of a training first has half of the optimum's gain at a KL.
    pub(super) fn cost_of_training(
        &self,
        arm: &str,
        point: &str,
        seed: u64,
        stage: &str,
        kl: f64,
        clock: fn(&Clocks) -> f64,
    ) -> f64 {
        let start = self.value(&self.reference(seed), stage, metrics::GOLD).expect("gold");
        let target = start + self.optimum_gain(seed, stage, kl).expect("known") / 2.0;
        let mut evaluations = vec![(0.0, start)];
        for policy in self.policies(arm, seed).into_iter().filter(|p| p.1 == point) {
            evaluations.push((self.clock(&policy, clock), self.value(&policy, stage, metrics::GOLD).expect("gold")));
        }
        for i in 1..evaluations.len() {
            let ((x0, y0), (x1, y1)) = (evaluations[i - 1], evaluations[i]);
            if y1 >= target {
                return if y0 >= target { x0 } else { x0 + (x1 - x0) * (target - y0) / (y1 - y0) };
            }
        }
        f64::INFINITY
    }

    /// The cost before the training: the most expensive row of the shared stage.
    pub(super) fn before(&self, arm: &str, seed: u64, clock: fn(&Clocks) -> f64) -> f64 {
        let stage = if arm == "p" { "rm" } else { "reference" };
        let rows = self.simulated.rows.iter().filter(|r| r.arm == "shared" && r.stage == stage && r.seed == seed);
        rows.max_by(|a, b| a.clocks.flops.total_cmp(&b.clocks.flops)).map(|r| clock(&r.clocks)).expect("a shared stage")
    }

    pub(super) fn cost_to_target(&self, arm: &str, seed: u64, kl: f64, clock: fn(&Clocks) -> f64) -> f64 {
        let mut cheapest = (f64::INFINITY, String::new());
        for point in self.points(arm, seed) {
            let cost = self.cost_of_training(arm, &point, seed, self.choose_on, kl, clock);
            if cost < cheapest.0 {
                cheapest = (cost, point);
            }
        }
        if cheapest.0.is_infinite() {
            return f64::INFINITY;
        }
        self.before(arm, seed, clock) + self.cost_of_training(arm, &cheapest.1, seed, self.read_on, kl, clock)
    }

    /// The policies with the most gold and with the largest KL, on the split to choose on.
    pub(super) fn peak_and_furthest(&self, policies: &[PolicyKey]) -> [PolicyKey; 2] {
        [metrics::GOLD, metrics::KL].map(|metric| {
            let value = |p: &&PolicyKey| self.value(p, self.choose_on, metric).expect("measured");
            policies.iter().max_by(|a, b| value(a).total_cmp(&value(b))).expect("policies").clone()
        })
    }

    pub(super) fn mean_finished(&self, arm: &str, seed: u64, metric: Metric) -> f64 {
        average(self.finished(arm, seed).iter().filter_map(|p| self.value(p, self.read_on, metric)).collect())
    }

    /// Mean over points of a metric that a training recorded: its last value, or its mean over steps.
    pub(super) fn logged(&self, arm: &str, seed: u64, stage: &str, metric: Metric, is_last: bool) -> f64 {
        let value_of = |point: String| {
            let rows = self
                .simulated
                .rows
                .iter()
                .filter(|r| r.arm == arm && r.point == point && r.seed == seed && r.stage == stage);
            let mut all: Vec<&WrittenRow> = rows.filter(|r| r.metric == metric.name).collect();
            all.sort_by_key(|r| r.clocks.step);
            if is_last { all.last().expect("written").value } else { average(all.iter().map(|r| r.value).collect()) }
        };
        average(self.points(arm, seed).into_iter().map(value_of).collect())
    }

    /// The most gold of a mixture of some policies and the reference within the budget's KL, less the reference's.
    pub(super) fn best_within(&self, policies: Vec<PolicyKey>, seed: u64, stage: &str, kl: f64) -> f64 {
        let all = self.best_mixtures([policies, vec![self.reference(seed)]].concat(), stage);
        let within_kl = all.iter().filter(|p| self.value(p, stage, metrics::KL).expect("KL") <= kl);
        let golds = within_kl.map(|p| self.value(p, stage, metrics::GOLD).expect("gold")).chain(self.at(
            &all,
            stage,
            kl,
            metrics::GOLD,
        ));
        golds.fold(f64::NEG_INFINITY, f64::max) - self.value(&self.reference(seed), stage, metrics::GOLD).expect("gold")
    }

    pub(super) fn training(&self, arm: &str, point: &str, seed: u64) -> Vec<PolicyKey> {
        self.policies(arm, seed).into_iter().filter(|p| p.1 == point).collect()
    }

    pub(super) fn point_merit(&self, arm: &str, point: &str, seed: u64) -> f64 {
        let half = self.optimum_gain(seed, self.read_on, 1.5).expect("known") / 2.0;
        self.best_within(self.training(arm, point, seed), seed, self.read_on, 1.5) / half
    }

    pub(super) fn spread_of_points(&self, arm: &str, seed: u64) -> f64 {
        deviation(self.points(arm, seed).iter().map(|point| self.point_merit(arm, point, seed)).collect())
    }

    pub(super) fn has_diverged(&self, arm: &str, point: &str, seed: u64) -> bool {
        let last = self.finished(arm, seed).into_iter().find(|p| p.1 == point).expect("finished");
        let gold = |p: &PolicyKey| self.value(p, self.read_on, metrics::GOLD).expect("gold");
        self.value(&last, self.read_on, metrics::KL).expect("KL") > 50.0
            || (point == "beta=0.8" && gold(&last) < gold(&self.reference(seed)))
    }

    pub(super) fn diverged(&self, arm: &str, seed: u64) -> f64 {
        average(
            self.points(arm, seed)
                .iter()
                .map(|point| f64::from(u8::from(self.has_diverged(arm, point, seed))))
                .collect(),
        )
    }

    /// Responses of the mixture of finished policies of an arm at a KL, or of the reference: prompt, gold, tokens, probability.
    pub(super) fn responses(&self, arm: &str, seed: u64, kl: f64) -> Option<Vec<(u32, f64, u32, f64)>> {
        let mixture = match arm {
            "reference" => vec![(self.reference(seed), 1.0)],
            _ => self.around(&self.frontier(arm, seed, true), self.read_on, kl)?.to_vec(),
        };
        let mut responses = vec![];
        for (policy, weight) in mixture {
            let is_policy = |o: &&Outcomes| (&*o.arm, &*o.point, o.seed) == (&*policy.0, &*policy.1, seed);
            let outcomes = self.simulated.outcomes.iter().find(is_policy).expect("outcomes");
            responses
                .extend(outcomes.all.iter().map(|o| (o.prompt, o.gold_reward, o.tokens, f64::from(o.share) * weight)));
        }
        Some(responses)
    }

    /// Probability that a draw of the mixture of finished policies of one arm has more gold than one of the other's, ties half, by prompt.
    pub(super) fn win_rate(&self, seed: u64, kl: f64, at_length: bool) -> Option<f64> {
        let (a, b) = (self.responses("p", seed, kl)?, self.responses("d", seed, kl)?);
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

    /// The effect of a claim about `p` and `d` at every seed.
    pub(super) fn effects(&self, metric: ClaimMetric, kl: f64) -> Vec<f64> {
        let seeds = self.simulated.run.experiment.seed_list();
        let two = |value: &dyn Fn(&str, u64) -> Option<f64>, join: fn(f64, f64) -> f64| -> Vec<f64> {
            seeds
                .iter()
                .filter_map(|&seed| Some(join(value("p", seed)?, value("d", seed)?)))
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
                .map(|p| self.value(&p, self.read_on, metrics::GOLD).expect("gold"))
        };
        let sd = |seed: u64| self.value(&self.reference(seed), self.read_on, metrics::GOLD_SD).expect("sd");
        match metric {
            ClaimMetric::Gain => two(&|arm, seed| Some(self.gain(arm, seed, kl)?.1), more),
            ClaimMetric::WinRate => seeds.iter().filter_map(|&seed| self.win_rate(seed, kl, false)).collect(),
            ClaimMetric::WinRateAtLength => seeds.iter().filter_map(|&seed| self.win_rate(seed, kl, true)).collect(),
            ClaimMetric::Length => {
                two(&|arm, seed| self.at(&self.frontier(arm, seed, false), self.read_on, kl, metrics::LENGTH), more)
            }
            ClaimMetric::Peak => two(&|arm, seed| Some(ends(arm, seed)[0] / sd(seed)), more),
            ClaimMetric::Drop => two(&|arm, seed| Some((ends(arm, seed)[0] - ends(arm, seed)[1]) / sd(seed)), more),
            ClaimMetric::Displacement => {
                two(&|arm, seed| Some(-self.mean_finished(arm, seed, metrics::LOG_RATIO_CHOSEN)), more)
            }
            ClaimMetric::Ordered => two(&|arm, seed| Some(self.mean_finished(arm, seed, metrics::ORDERED_PAIRS)), more),
            ClaimMetric::Flops => two(&|arm, seed| Some(self.cost_to_target(arm, seed, kl, |c| c.flops)), times),
            ClaimMetric::Seconds => {
                two(&|arm, seed| Some(self.cost_to_target(arm, seed, kl, |c| c.wall_seconds)), times)
            }
            ClaimMetric::Memory => {
                two(&|arm, seed| Some(self.logged(arm, seed, "cell", metrics::PEAK_RSS, true)), times)
            }
            ClaimMetric::Models => {
                two(&|arm, seed| Some(self.logged(arm, seed, "train", metrics::MODELS_RESIDENT, true)), fewer)
            }
            ClaimMetric::TrainingBytes => {
                two(&|arm, seed| Some(self.logged(arm, seed, "train", metrics::TRAINING_BYTES, true)), fewer)
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

pub(super) fn average(values: Vec<f64>) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

pub(super) fn deviation(values: Vec<f64>) -> f64 {
    let middle = average(values.clone());
    (values.iter().map(|x| (x - middle) * (x - middle)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

pub(super) fn near(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}

/// Equal lists, up to rounding.
pub(super) fn assert_same(what: &str, actual: &[f64], expected: &[f64]) {
    let same = actual.len() == expected.len() && actual.iter().zip(expected).all(|(a, b)| near(*a, *b));
    assert!(same, "{what}: {actual:?}, expected {expected:?}");
}
