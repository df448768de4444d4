//! The effect that a claim is about, seed by seed, with its interval and p-value.

use crate::analysis::frontier::{gain_at, metric_at, target};
use crate::analysis::points::{EvalPoint, MeasuredPoint};
use crate::analysis::run::{CellEnd, Run};
use crate::analysis::stats::{
    Estimate, difference, log_ratio, mean, median, median_interval, range, sd_above_rounding, sign_flip_test,
    sign_test, spread_ratio, t_test,
};
use crate::analysis::{cost_to_target, frontier, over_optimization, win_rate};
use duel_spec::metrics::{self, GOLD, GOLD_SD, KL, Metric};
use duel_spec::{Cell, ClaimMetric, Clocks, REFERENCE};
use std::collections::BTreeSet;

/// Seeds below which the sign-flip test is given beside the t-interval.
const FEW_SEEDS: usize = 8;
/// KL above which a training counts as diverged, nats.
const DIVERGED_KL: f64 = 50.0;
/// KL coefficient from which on a policy with less gold than its reference counts as diverged.
const HIGH_BETA: f64 = 0.5;

/// An arm of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunArm<'a> {
    pub(crate) run: &'a Run,
    pub(crate) name: &'a str,
}

/// The values of a claim's metric, seed by seed.
#[derive(Debug, Clone)]
pub(crate) enum PairedSample {
    /// Differences, judged by their mean.
    Mean(Vec<f64>),
    /// Log ratios that may be infinite, judged by their median.
    Median(Vec<f64>),
    /// Values of both arms, judged by the ratio of their standard deviations.
    Spread(Vec<(f64, f64)>),
    /// Counts without randomness.
    Counted(Vec<f64>),
}

/// An effect with its interval at some level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Effect {
    pub(crate) value: f64,
    pub(crate) interval: Option<[f64; 2]>,
}

impl PairedSample {
    pub(crate) fn seeds(&self) -> usize {
        match self {
            Self::Mean(x) | Self::Median(x) | Self::Counted(x) => x.len(),
            Self::Spread(x) => x.len(),
        }
    }

    /// Two-sided p-value of no effect; `None` where there is no test.
    pub(crate) fn p(&self) -> Option<f64> {
        match self {
            Self::Mean(x) => t_test(x),
            Self::Median(x) if x.is_empty() => None,
            Self::Median(x) => Some(sign_test(x)),
            Self::Spread(x) => spread_ratio(x, 0.95)?.p,
            Self::Counted(_) => None,
        }
    }

    /// The same by the sign-flip test, where seeds are few.
    pub(crate) fn p_sign_flip(&self) -> Option<f64> {
        match self {
            Self::Mean(x) if (2..FEW_SEEDS).contains(&x.len()) && x.iter().all(|x| x.is_finite()) => {
                Some(sign_flip_test(x))
            }
            _ => None,
        }
    }

    /// The effect with its interval at this confidence level.
    pub(crate) fn at_level(&self, level: f64) -> Option<Effect> {
        if self.seeds() == 0 {
            return None;
        }
        let effect = match self {
            Self::Mean(x) => Estimate::of_at(x, level)
                .map(|e| Effect { value: e.mean, interval: e.half_width.map(|h| [e.mean - h, e.mean + h]) }),
            Self::Median(x) => Some(Effect { value: median(x), interval: median_interval(x, level) }),
            Self::Spread(x) => {
                spread_ratio(x, level).map(|ratio| Effect { value: ratio.log_ratio, interval: ratio.interval })
            }
            Self::Counted(x) => Some(Effect { value: mean(x), interval: range(x) }),
        };
        effect.filter(|effect| !effect.value.is_nan()) // ∞ − ∞
    }

    /// Number of infinite values.
    pub(crate) fn infinite(&self) -> usize {
        match self {
            Self::Mean(x) | Self::Median(x) | Self::Counted(x) => x.iter().filter(|x| x.is_infinite()).count(),
            Self::Spread(_) => 0,
        }
    }
}

/// Value of a metric for an arm at a seed; `None` where it was not measured.
type SeedMetric<'a> = &'a dyn Fn(RunArm, u64) -> Option<f64>;

/// The arms of a claim with the seeds that are complete in both.
struct ArmPair<'a> {
    first: RunArm<'a>,
    /// `None` for a claim about one arm alone, which is compared with zero.
    second: Option<RunArm<'a>>,
    seeds: Vec<u64>,
}

impl<'a> ArmPair<'a> {
    fn new(first: RunArm<'a>, second: Option<RunArm<'a>>) -> Self {
        let mut seeds = first.run.experiment.seed_list();
        seeds.retain(complete_seeds(first));
        if let Some(second) = second {
            seeds.retain(complete_seeds(second));
        }
        Self { first, second, seeds }
    }

    /// The values of both arms, seed by seed.
    fn values(&self, metric: SeedMetric) -> Vec<(f64, f64)> {
        let second = |seed| self.second.map_or(Some(0.0), |second| metric(second, seed));
        let pair = |&seed: &u64| Some((metric(self.first, seed)?, second(seed)?));
        self.seeds.iter().filter_map(pair).collect()
    }

    /// First minus second, where the difference is finite.
    fn first_minus_second(&self, metric: SeedMetric) -> Vec<f64> {
        self.values(metric).into_iter().map(|(a, b)| difference(a, b)).filter(|x| x.is_finite()).collect()
    }

    /// Second minus first: positive where the first has less.
    fn second_minus_first(&self, metric: SeedMetric) -> Vec<f64> {
        self.values(metric).into_iter().map(|(a, b)| difference(b, a)).filter(|x| x.is_finite()).collect()
    }

    /// Log of second over first, of finite values.
    fn log_ratios(&self, metric: SeedMetric) -> Vec<f64> {
        let finite = self.values(metric).into_iter().filter(|(a, b)| a.is_finite() && b.is_finite());
        finite.filter_map(|(a, b)| log_ratio(a, b)).collect()
    }

    /// Log ratios of the costs to the target, which may be infinite.
    fn cost_ratios(&self, kl: f64, clock: fn(Clocks) -> f64) -> PairedSample {
        let cost = |arm: RunArm, seed| cost_to_target::cost_to_target(arm.run, arm.name, seed, kl, clock);
        PairedSample::Median(self.values(&cost).into_iter().filter_map(|(a, b)| log_ratio(a, b)).collect())
    }

    /// Win rates of the first arm above one half.
    fn win_rates(&self, kl: f64, equal_length: bool) -> PairedSample {
        let rate = |seed: &u64| win_rate(self.first, self.second?, *seed, kl, equal_length);
        PairedSample::Mean(self.seeds.iter().filter_map(rate).map(|rate| difference(rate, 0.5)).collect())
    }
}

/// The first arm minus the second over the seeds that both have; for a claim about one arm, that arm alone.
pub(crate) fn sample(metric: ClaimMetric, kl: f64, first: RunArm, second: Option<RunArm>) -> PairedSample {
    let pair = ArmPair::new(first, second);
    match metric {
        ClaimMetric::Gain => PairedSample::Mean(pair.first_minus_second(&|arm, seed| gain(arm, seed, kl))),
        ClaimMetric::WinRate => pair.win_rates(kl, false),
        ClaimMetric::WinRateAtLength => pair.win_rates(kl, true),
        ClaimMetric::Length => PairedSample::Mean(
            pair.first_minus_second(&|arm, seed| metric_at(arm.run, arm.name, seed, kl, metrics::LENGTH)),
        ),
        ClaimMetric::Peak => PairedSample::Mean(pair.first_minus_second(&|arm, seed| {
            let gold_sd = arm.run.reference_at(seed)?.test(GOLD_SD)?;
            Some(over_optimization::for_seed(arm.run, arm.name, seed)?.peak_gold.first()? / gold_sd)
        })),
        ClaimMetric::Drop => PairedSample::Mean(pair.first_minus_second(&|arm, seed| {
            over_optimization::for_seed(arm.run, arm.name, seed)?.drop.first().copied()
        })),
        ClaimMetric::Displacement => PairedSample::Mean(
            pair.first_minus_second(&|arm, seed| mean_finished(arm, seed, metrics::LOG_RATIO_CHOSEN).map(|x| -x)),
        ),
        ClaimMetric::Ordered => {
            PairedSample::Mean(pair.first_minus_second(&|arm, seed| mean_finished(arm, seed, metrics::ORDERED_PAIRS)))
        }
        ClaimMetric::Flops => pair.cost_ratios(kl, |clocks| clocks.flops),
        ClaimMetric::Seconds => pair.cost_ratios(kl, |clocks| clocks.wall_seconds),
        ClaimMetric::Memory => {
            PairedSample::Mean(pair.log_ratios(&|arm, seed| mean_last(arm, seed, "cell", metrics::PEAK_RSS)))
        }
        ClaimMetric::Models => PairedSample::Counted(
            pair.second_minus_first(&|arm, seed| mean_last(arm, seed, "train", metrics::MODELS_RESIDENT)),
        ),
        ClaimMetric::Sampled => PairedSample::Counted(
            pair.second_minus_first(&|arm, seed| mean_last(arm, seed, "train", metrics::SAMPLED_TOKENS)),
        ),
        ClaimMetric::Spread => {
            let mut gains = pair.values(&|arm, seed| gain(arm, seed, kl));
            gains.retain(|(a, b)| a.is_finite() && b.is_finite());
            PairedSample::Spread(gains)
        }
        ClaimMetric::SpreadOfPoints => PairedSample::Mean(pair.log_ratios(&spread_of_points)),
        ClaimMetric::Diverged => PairedSample::Mean(pair.second_minus_first(&diverged_share)),
        ClaimMetric::Step => PairedSample::Mean(pair.log_ratios(&|arm, seed| {
            mean_over_points(arm, |point| arm.run.training_curve(point, metrics::KL_STEP)?.mean_of(seed))
        })),
    }
}

/// Mean over points of the last value that a stage of the cell recorded.
fn mean_last(arm: RunArm, seed: u64, stage: &str, metric: Metric) -> Option<f64> {
    mean_over_points(arm, |point| arm.run.last_value(point, stage, metric, seed))
}

/// Mean over points of a metric of the finished policies on test prompts.
fn mean_finished(arm: RunArm, seed: u64, metric: Metric) -> Option<f64> {
    if arm.name == REFERENCE {
        return (metric == metrics::LOG_RATIO_CHOSEN).then_some(0.0); // by definition
    }
    mean_over_points(arm, |point| point.seeds.get(&seed)?.last()?.test(metric))
}

/// Standard deviation over points of what their checkpoints reach.
fn spread_of_points(arm: RunArm, seed: u64) -> Option<f64> {
    let merits = arm.run.points_of(arm.name).filter_map(|point| checkpoint_merit(arm.run, point, seed));
    let merits: Vec<f64> = merits.filter(|merit| merit.is_finite()).collect();
    (merits.len() > 1).then(|| sd_above_rounding(&merits))
}

/// Share of an arm's trainings at a seed that diverged.
fn diverged_share(arm: RunArm, seed: u64) -> Option<f64> {
    let is_of_seed = |cell: &&Cell| cell.arm == arm.name && cell.seed == seed;
    let diverged = |cell: &Cell| has_diverged(arm.run, cell).map(|diverged| f64::from(u8::from(diverged)));
    let all: Vec<f64> = arm.run.cells.iter().filter(is_of_seed).filter_map(diverged).collect();
    (!all.is_empty()).then(|| mean(&all))
}

/// Mean over the arm's points that have it; `None` where none has.
fn mean_over_points(arm: RunArm, value: impl Fn(&MeasuredPoint) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = arm.run.points_of(arm.name).filter_map(value).collect();
    (!values.is_empty()).then(|| mean(&values))
}

/// Gold above the reference at one KL: as a share of the exact optimum's, or in standard deviations of the reference's gold.
fn gain(arm: RunArm, seed: u64, kl: f64) -> Option<f64> {
    if arm.name == REFERENCE {
        return Some(0.0);
    }
    let (gain, share) = gain_at(arm.run, arm.name, seed, kl)?;
    let spread = arm.run.reference_at(seed)?.test(GOLD_SD)?;
    if frontier::has_optimum(arm.run, seed) { share } else { Some(gain / spread) }
}

/// Probability that the first has more gold than the second at one KL, mean over prompts; mixtures of finished policies.
fn win_rate(first: RunArm, second: RunArm, seed: u64, kl: f64, equal_length: bool) -> Option<f64> {
    let outcomes = |arm: RunArm| win_rate::outcomes_at(arm.run, arm.name, seed, kl);
    let rates = win_rate::by_prompt(&outcomes(first)?, &outcomes(second)?, equal_length);
    (!rates.is_empty()).then(|| mean(&rates))
}

/// What a point's checkpoints reach on test prompts within the KL of the experiment's tuning.
pub(crate) fn checkpoint_merit(run: &Run, point: &MeasuredPoint, seed: u64) -> Option<f64> {
    let kl = run.experiment.tuning.kl;
    let reference = run.reference_at(seed)?;
    let base = reference.test(GOLD)?;
    let kl_gold = |e: &EvalPoint| Some((e.test(KL)?, e.test(GOLD)?));
    let mut checkpoints: Vec<frontier::KlGold> = point.seeds.get(&seed)?.iter().filter_map(kl_gold).collect();
    if checkpoints.is_empty() {
        return None;
    }
    checkpoints.extend(kl_gold(reference));
    let half = target(run, seed, kl, EvalPoint::test)? - base;
    Some((frontier::within(&checkpoints, kl) - base) / half)
}

/// Whether a training diverged, by the manifest or by its finished policy; `None` for a missing cell.
pub(crate) fn has_diverged(run: &Run, cell: &Cell) -> Option<bool> {
    let evaluation = match run.cell_end(cell) {
        CellEnd::Finished(evaluation) => evaluation,
        CellEnd::Diverged => return Some(true),
        CellEnd::Missing(_) => return None,
    };
    let base = run.reference_at(cell.seed).and_then(|reference| reference.test(GOLD));
    let is_below = evaluation.test(GOLD).zip(base).is_some_and(|(gold, base)| gold < base);
    Some(evaluation.test(KL).is_none_or(|kl| kl > DIVERGED_KL) || (cell.point.method.beta() >= HIGH_BETA && is_below))
}

/// Seeds at which every cell of the arm is finished or diverged: claims use these alone, so that means over points are over the
/// same points at every seed.
fn complete_seeds(arm: RunArm) -> impl Fn(&u64) -> bool {
    let missing: BTreeSet<u64> =
        arm.run.missing().into_iter().filter(|cell| cell.arm == arm.name).map(|cell| cell.seed).collect();
    move |seed| !missing.contains(seed)
}
