//! What a claim is about, seed by seed, and how sure that is.

use crate::analysis::frontier::{gain_at, mark_at, target};
use crate::analysis::points::{EvalPoint, MeasuredPoint};
use crate::analysis::run::{CellEnd, Run};
use crate::analysis::stats::{
    Estimate, difference, log_ratio, mean, median, median_interval, range, scatter, sign_flip_test, sign_test,
    spread_ratio, t_test,
};
use crate::analysis::{cost_to_target, frontier, over_optimization, win_rate};
use duel_spec::metrics::{self, GOLD, GOLD_SD, KL, Metric};
use duel_spec::{Cell, ClaimMetric, Clocks, REFERENCE};
use std::collections::BTreeSet;

/// Seeds below which the test that flips signs stands beside the t-interval.
const FEW_SEEDS: usize = 8;
/// KL beyond which a training counts as diverged, nats.
const FAR: f64 = 50.0;
/// Price of KL from which on a policy below its reference counts as diverged.
const DEAR: f64 = 0.5;

/// An arm of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunArm<'a> {
    pub(crate) run: &'a Run,
    pub(crate) name: &'a str,
}

/// What was found at each seed.
#[derive(Debug, Clone)]
pub(crate) enum PairedSample {
    /// Differences, judged by their mean.
    Mean(Vec<f64>),
    /// Log ratios that may be infinite, judged by their median.
    Median(Vec<f64>),
    /// Values of both arms, judged by how much they scatter.
    Spread(Vec<(f64, f64)>),
    /// Counts, without chance.
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

    /// Two-sided p that there is nothing; `None` where nothing can be said.
    pub(crate) fn p(&self) -> Option<f64> {
        match self {
            Self::Mean(x) => t_test(x),
            Self::Median(x) if x.is_empty() => None,
            Self::Median(x) => Some(sign_test(x)),
            Self::Spread(x) => spread_ratio(x, 0.95)?.p,
            Self::Counted(_) => None,
        }
    }

    /// The same by flipping signs, where seeds are few.
    pub(crate) fn p_sign_flip(&self) -> Option<f64> {
        match self {
            Self::Mean(x) if (2..FEW_SEEDS).contains(&x.len()) && x.iter().all(|x| x.is_finite()) => {
                Some(sign_flip_test(x))
            }
            _ => None,
        }
    }

    /// The effect with the interval that holds it with this chance.
    pub(crate) fn at_level(&self, level: f64) -> Option<Effect> {
        if self.seeds() == 0 {
            return None;
        }
        let found = match self {
            Self::Mean(x) => Estimate::of_at(x, level)
                .map(|e| Effect { value: e.mean, interval: e.half_width.map(|h| [e.mean - h, e.mean + h]) }),
            Self::Median(x) => Some(Effect { value: median(x), interval: median_interval(x, level) }),
            Self::Spread(x) => {
                spread_ratio(x, level).map(|found| Effect { value: found.log_ratio, interval: found.interval })
            }
            Self::Counted(x) => Some(Effect { value: mean(x), interval: range(x) }),
        };
        found.filter(|effect| !effect.value.is_nan()) // ∞ less ∞
    }

    /// Values that are infinite.
    pub(crate) fn infinite(&self) -> usize {
        match self {
            Self::Mean(x) | Self::Median(x) | Self::Counted(x) => x.iter().filter(|x| x.is_infinite()).count(),
            Self::Spread(_) => 0,
        }
    }
}

/// The first less the second over the seeds that both have; of an arm alone, against what its metric says.
pub(crate) fn sample(metric: ClaimMetric, kl: f64, first: RunArm, second: Option<RunArm>) -> PairedSample {
    let mut seeds = first.run.experiment.seed_list();
    seeds.retain(whole_seeds(first));
    if let Some(second) = second {
        seeds.retain(whole_seeds(second));
    }
    let each = |of: &dyn Fn(RunArm, u64) -> Option<f64>| -> Vec<(f64, f64)> {
        let pair = |&seed: &u64| Some((of(first, seed)?, second.map_or(Some(0.0), |second| of(second, seed))?));
        seeds.iter().filter_map(pair).collect()
    };
    let differences = |of: &dyn Fn(RunArm, u64) -> Option<f64>| -> Vec<f64> {
        each(of).into_iter().map(|(a, b)| difference(a, b)).filter(|x| x.is_finite()).collect()
    };
    let less = |of: &dyn Fn(RunArm, u64) -> Option<f64>| -> Vec<f64> {
        each(of).into_iter().map(|(a, b)| difference(b, a)).filter(|x| x.is_finite()).collect()
    };
    let log_less = |of: &dyn Fn(RunArm, u64) -> Option<f64>| -> Vec<f64> {
        each(of)
            .into_iter()
            .filter(|(a, b)| a.is_finite() && b.is_finite())
            .filter_map(|(a, b)| log_ratio(a, b))
            .collect()
    };
    let price = |clock: fn(Clocks) -> f64| {
        let of = |arm: RunArm, seed| cost_to_target::cost_to_target(arm.run, arm.name, seed, kl, clock);
        PairedSample::Median(each(&of).into_iter().filter_map(|(own, theirs)| log_ratio(own, theirs)).collect())
    };
    let trained = |arm: RunArm, seed, metric: Metric| {
        mean_over_points(arm, |point| arm.run.last_at(point, "train", metric, seed))
    };
    let finished = |arm: RunArm, seed, metric: Metric| {
        if arm.name == REFERENCE {
            return (metric == metrics::LOG_RATIO_CHOSEN).then_some(0.0); // by what it is
        }
        mean_over_points(arm, |point| point.seeds.get(&seed)?.last()?.test(metric))
    };
    match metric {
        ClaimMetric::Gain => PairedSample::Mean(differences(&|arm, seed| gain(arm, seed, kl))),
        ClaimMetric::WinRate | ClaimMetric::WinRateAtLength => {
            let equal_length = metric == ClaimMetric::WinRateAtLength;
            let of = |seed: &u64| win_rate(first, second?, *seed, kl, equal_length);
            PairedSample::Mean(seeds.iter().filter_map(of).map(|share| difference(share, 0.5)).collect())
        }
        ClaimMetric::Length => {
            PairedSample::Mean(differences(&|arm, seed| mark_at(arm.run, arm.name, seed, kl, metrics::LENGTH)))
        }
        ClaimMetric::Peak => PairedSample::Mean(differences(&|arm, seed| {
            let spread = arm.run.reference_at(seed)?.test(GOLD_SD)?;
            Some(over_optimization::for_seed(arm.run, arm.name, seed)?.peak_gold.first()? / spread)
        })),
        ClaimMetric::Drop => PairedSample::Mean(differences(&|arm, seed| {
            over_optimization::for_seed(arm.run, arm.name, seed)?.drop.first().copied()
        })),
        ClaimMetric::Displacement => {
            PairedSample::Mean(differences(&|arm, seed| finished(arm, seed, metrics::LOG_RATIO_CHOSEN).map(|x| -x)))
        }
        ClaimMetric::Ordered => {
            PairedSample::Mean(differences(&|arm, seed| finished(arm, seed, metrics::ORDERED_PAIRS)))
        }
        ClaimMetric::Flops => price(|clocks| clocks.flops),
        ClaimMetric::Seconds => price(|clocks| clocks.wall_seconds),
        ClaimMetric::Memory => PairedSample::Mean(log_less(&|arm, seed| {
            mean_over_points(arm, |point| arm.run.last_at(point, "cell", metrics::PEAK_RSS, seed))
        })),
        ClaimMetric::Models => PairedSample::Counted(less(&|arm, seed| trained(arm, seed, metrics::MODELS_RESIDENT))),
        ClaimMetric::Sampled => PairedSample::Counted(less(&|arm, seed| trained(arm, seed, metrics::SAMPLED_TOKENS))),
        ClaimMetric::Spread => {
            let mut gains = each(&|arm, seed| gain(arm, seed, kl));
            gains.retain(|(a, b)| a.is_finite() && b.is_finite());
            PairedSample::Spread(gains)
        }
        ClaimMetric::SpreadOfPoints => PairedSample::Mean(log_less(&|arm, seed| {
            let worths = arm.run.points_of(arm.name).filter_map(|point| checkpoint_merit(arm.run, point, seed));
            let worths: Vec<f64> = worths.filter(|worth| worth.is_finite()).collect();
            (worths.len() > 1).then(|| scatter(&worths))
        })),
        ClaimMetric::Diverged => PairedSample::Mean(less(&|arm, seed| {
            let of_seed = |cell: &&Cell| cell.arm == arm.name && cell.seed == seed;
            let lost = |cell: &Cell| has_diverged(arm.run, cell).map(|lost| f64::from(u8::from(lost)));
            let all: Vec<f64> = arm.run.cells.iter().filter(of_seed).filter_map(lost).collect();
            (!all.is_empty()).then(|| mean(&all))
        })),
        ClaimMetric::Step => PairedSample::Mean(log_less(&|arm, seed| {
            mean_over_points(arm, |point| arm.run.along(point, metrics::KL_STEP)?.mean_of(seed))
        })),
    }
}

/// Mean over the arm's points that have it; `None` where none has.
fn mean_over_points(arm: RunArm, of: impl Fn(&MeasuredPoint) -> Option<f64>) -> Option<f64> {
    let values: Vec<f64> = arm.run.points_of(arm.name).filter_map(of).collect();
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

/// Chance that the first earns more than the second at one KL, mean over prompts; mixtures of finished policies.
fn win_rate(first: RunArm, second: RunArm, seed: u64, kl: f64, equal_length: bool) -> Option<f64> {
    let laws = |arm: RunArm| win_rate::outcomes_at(arm.run, arm.name, seed, kl);
    let rates = win_rate::by_prompt(&laws(first)?, &laws(second)?, equal_length);
    (!rates.is_empty()).then(|| mean(&rates))
}

/// What a point's checkpoints reach on test prompts within the KL of the experiment's tuning.
fn checkpoint_merit(run: &Run, point: &MeasuredPoint, seed: u64) -> Option<f64> {
    let kl = run.experiment.tuning.kl;
    let reference = run.reference_at(seed)?;
    let base = reference.test(GOLD)?;
    let at = |mark: &EvalPoint| Some((mark.test(KL)?, mark.test(GOLD)?));
    let mut marks: Vec<frontier::KlGold> = point.seeds.get(&seed)?.iter().filter_map(at).collect();
    if marks.is_empty() {
        return None;
    }
    marks.extend(at(reference));
    let half = target(run, seed, kl, EvalPoint::test)? - base;
    Some((frontier::within(&marks, kl) - base) / half)
}

/// Whether a training diverged, or its policy went where none should; `None` of a cell of which nothing is known.
pub(crate) fn has_diverged(run: &Run, cell: &Cell) -> Option<bool> {
    let mark = match run.ending(cell) {
        CellEnd::Finished(mark) => mark,
        CellEnd::Diverged => return Some(true),
        CellEnd::Missing(_) => return None,
    };
    let base = run.reference_at(cell.seed).and_then(|mark| mark.test(GOLD));
    let below = mark.test(GOLD).zip(base).is_some_and(|(gold, base)| gold < base);
    Some(mark.test(KL).is_none_or(|kl| kl > FAR) || (cell.point.method.beta() >= DEAR && below))
}

/// Seeds at which every cell of the arm has ended, by itself or as it diverged: claims are about these alone. What is over
/// points would else be over other points here than there.
fn whole_seeds(arm: RunArm) -> impl Fn(&u64) -> bool {
    let missing: BTreeSet<u64> =
        arm.run.missing().into_iter().filter(|cell| cell.arm == arm.name).map(|cell| cell.seed).collect();
    move |seed| !missing.contains(seed)
}
