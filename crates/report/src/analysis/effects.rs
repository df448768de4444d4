//! The effect that a claim is about, seed by seed, with its interval and p-value.

use crate::analysis::frontier::{gain_at, metric_at, target};
use crate::analysis::merged_parts::seeds_within_parts;
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

    /// Only the seeds at which both arms of one run were measured in one part of it.
    fn retain_seeds_within_parts(&mut self) {
        if let Some(second) = self.second.filter(|second| std::ptr::eq(second.run, self.first.run)) {
            let within = seeds_within_parts(self.first.run, &[self.first.name, second.name]);
            self.seeds.retain(|seed| within.contains(seed));
        }
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
    let mut pair = ArmPair::new(first, second);
    if metric.is_of_machine() {
        pair.retain_seeds_within_parts();
    }
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
        ClaimMetric::TrainingBytes => PairedSample::Counted(
            pair.second_minus_first(&|arm, seed| mean_last(arm, seed, "train", metrics::TRAINING_BYTES)),
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

/// Standard deviation over points of what their checkpoints reach; NaN for fewer than two.
fn spread_of_points(arm: RunArm, seed: u64) -> Option<f64> {
    let merits = arm.run.points_of(arm.name).filter_map(|point| checkpoint_merit(arm.run, point, seed));
    let merits: Vec<f64> = merits.filter(|merit| merit.is_finite()).collect();
    Some(sd_above_rounding(&merits))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;

    fn near(a: Option<f64>, b: f64) -> bool {
        a.is_some_and(|a| (a - b).abs() < 1e-9)
    }

    /// scipy 1.17: `ttest_1samp(x, 0)`, `permutation_test((x,), sum, permutation_type="samples")`, `t.interval(.99, ...)`,
    /// `quantile_test(x, q=0, p=.5)`, and of the spreads `pearsonr(x + y, y - x)`.
    #[test]
    fn each_kind_of_sample_has_its_own_test_and_interval() {
        let x = [0.3, -0.1, 0.4, 0.2, 0.5, 0.9, 0.35];
        let y = [0.1, 0.4, -0.8, 0.6, 1.9, -0.7, 0.2];
        let means = PairedSample::Mean(x[..5].to_vec());
        assert!(near(means.p(), 0.064_985_910_342_120_6) && near(means.p_sign_flip(), 0.125));
        let Some(Effect { value, interval: Some([low, high]) }) = means.at_level(0.99) else { panic!("five values") };
        let half = 0.474_020_579_294_346_4;
        assert!(near(Some(value), 0.26) && near(Some(low), 0.26 - half) && near(Some(high), 0.26 + half));

        let medians = PairedSample::Median(x.to_vec());
        assert!(near(medians.p(), 0.125) && medians.p_sign_flip().is_none());
        assert_eq!(medians.at_level(0.95), Some(Effect { value: 0.35, interval: Some([-0.1, 0.9]) }));
        let spreads = PairedSample::Spread(x.into_iter().zip(y).collect());
        assert!(near(spreads.p(), 0.028_089_086_110_984_107) && spreads.p_sign_flip().is_none());
        assert!(near(spreads.at_level(0.95).map(|effect| effect.value), 1.090_008_215_462_134_2));
        let counts = PairedSample::Counted(vec![3.0, 1.0, 2.0]);
        assert_eq!((counts.p(), counts.p_sign_flip()), (None, None));
        assert_eq!(counts.at_level(0.95), Some(Effect { value: 2.0, interval: Some([1.0, 3.0]) }));
        for empty in [PairedSample::Mean(vec![]), PairedSample::Median(vec![]), PairedSample::Spread(vec![])] {
            assert_eq!((empty.p(), empty.at_level(0.95)), (None, None), "{empty:?}");
        }
    }

    /// Over all signs of equal values, the sum is as far from zero in 2 of 2^n cases.
    #[test]
    fn signs_are_flipped_with_two_to_seven_finite_values() {
        let p = |n: usize| PairedSample::Mean(vec![0.5; n]).p_sign_flip();
        assert_eq!([p(0), p(1), p(8), p(9)], [None; 4]);
        assert_eq!([p(2), p(7)], [Some(0.5), Some(1.0 / 64.0)]);
        assert_eq!(PairedSample::Mean(vec![0.5, 0.5, f64::INFINITY]).p_sign_flip(), None);
    }

    const EXPERIMENT: &str = "
        name = 'effects'
        seeds = 6
        [arms.a]
        method = 'dpo'
        beta = 0.5
        [arms.b]
        method = 'dpo'
        beta = 0.4
        [arms.c]
        method = 'dpo'
    ";

    /// `a` and `b` end with these values at each seed, and `c` was never trained; the reference's gold is 1.
    fn run_with(values: impl Fn(&str, u64) -> Vec<(Metric, f64)>, gold_sd: impl Fn(u64) -> f64) -> Run {
        let mut run = HandMadeRun::new(EXPERIMENT);
        let clocks = Clocks { step: 1, ..Clocks::default() };
        for cell in run.run().cells.clone() {
            match cell.arm.as_str() {
                "c" => {
                    let reference = [(KL, 0.0), (GOLD, 1.0), (GOLD_SD, gold_sd(cell.seed))];
                    run.evaluation("reference", "sft", cell.seed, Clocks::default(), &reference);
                }
                arm => drop(run.evaluation(arm, &cell.point.label, cell.seed, clocks, &values(arm, cell.seed))),
            }
        }
        run.finish()
    }

    fn sample_of(run: &Run, metric: ClaimMetric, arms: [&str; 2]) -> PairedSample {
        let [first, second] = arms.map(|name| RunArm { run, name });
        sample(metric, 1.0, first, Some(second))
    }

    /// Gold 4 at KL 2 is gold 2.5 at KL 1: three quarters of a standard deviation of 2 above the reference.
    #[test]
    fn a_gain_without_an_optimum_is_in_standard_deviations_of_the_references_gold() {
        let run = run_with(|_, _| vec![(KL, 2.0), (GOLD, 4.0)], |_| 2.0);
        let PairedSample::Mean(gains) = sample_of(&run, ClaimMetric::Gain, ["a", "reference"]) else {
            panic!("a mean")
        };
        assert_eq!(gains, [0.75; 6]);
    }

    /// Where the reference's gold does not vary, a gain has no unit, and the seed counts in no mean and no spread.
    #[test]
    fn a_gain_in_units_of_zero_is_left_out() {
        let run = run_with(|_, _| vec![(KL, 2.0), (GOLD, 4.0)], |seed| if seed == 3 { 0.0 } else { 2.0 });
        let PairedSample::Spread(pairs) = sample_of(&run, ClaimMetric::Spread, ["a", "reference"]) else {
            panic!("a spread")
        };
        assert_eq!(pairs, [(0.75, 0.0); 5]);
        assert_eq!(sample_of(&run, ClaimMetric::Gain, ["a", "reference"]).seeds(), 5);
    }

    /// The log ratio of the reference to itself is zero; which pairs it orders was not measured.
    #[test]
    fn the_reference_displaces_nothing() {
        let values = |_: &str, _| {
            vec![(KL, 2.0), (GOLD, 4.0), (metrics::LOG_RATIO_CHOSEN, -0.5), (metrics::ORDERED_PAIRS, 0.75)]
        };
        let run = run_with(values, |_| 1.0);
        let PairedSample::Mean(decreases) = sample_of(&run, ClaimMetric::Displacement, ["a", "reference"]) else {
            panic!("a mean")
        };
        assert_eq!(decreases, [0.5; 6]);
        assert_eq!(sample_of(&run, ClaimMetric::Ordered, ["a", "reference"]).seeds(), 0);
    }

    /// No cell of `c` was trained: that leaves a claim about `c` without seeds, and all six to a claim about `a` and `b`.
    #[test]
    fn a_missing_cell_of_another_arm_leaves_the_seeds_of_a_claim() {
        let run = run_with(|_, _| vec![(KL, 2.0), (GOLD, 4.0)], |_| 1.0);
        assert_eq!(sample_of(&run, ClaimMetric::Gain, ["a", "b"]).seeds(), 6);
        assert_eq!(sample_of(&run, ClaimMetric::Gain, ["a", "c"]).seeds(), 0);
    }

    /// Beyond 50 nats, or below the reference's gold of 1 at a KL coefficient of .5 or more.
    #[test]
    fn divergence_begins_beyond_its_bounds() {
        let ends = [(50.0, 4.0), (50.1, 4.0), (2.0, 1.0), (2.0, 0.9), (2.0, 1.1), (f64::NAN, 4.0)];
        let of_seed = |_: &str, seed: u64| {
            let (kl, gold) = ends[seed as usize];
            vec![(KL, kl), (GOLD, gold)]
        };
        let run = run_with(of_seed, |_| 1.0);
        for (arm, expected) in
            [("a", [false, true, false, true, false, true]), ("b", [false, true, false, false, false, true])]
        {
            let cells = run.cells.iter().filter(|cell| cell.arm == arm);
            assert_eq!(cells.map(|cell| has_diverged(&run, cell)).collect::<Vec<_>>(), expected.map(Some), "{arm}");
        }
    }
}
