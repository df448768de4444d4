//! Statistics over seeds, the unit of replication (docs/verdicts.md, Statistics).

use crate::format::fixed;
use duel_spec::metrics::Metric;
use duel_spec::seeds::{self, Stream};
use rand::RngExt;
use statrs::distribution::{Binomial, ContinuousCDF, DiscreteCDF, Normal, StudentsT};
use std::fmt;

/// Arithmetic mean; NaN if empty.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation with `n − 1`; NaN for fewer than two.
pub fn sd(values: &[f64]) -> f64 {
    let m = mean(values);
    (values.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0).max(0.0)).sqrt()
}

/// The difference that the order of summation can cause, as a share of the larger sum or of 1, the unit of every metric.
pub(crate) const ROUNDING: f64 = 1e-12;

/// `a − b`; 0 where they differ by rounding alone.
pub fn difference(a: f64, b: f64) -> f64 {
    let d = a - b;
    if d.is_finite() && d.abs() <= ROUNDING * a.abs().max(b.abs()).max(1.0) { 0.0 } else { d }
}

/// As [`sd`]; 0 where the values differ by rounding alone.
pub fn sd_above_rounding(values: &[f64]) -> f64 {
    let (s, largest) = (sd(values), values.iter().fold(1.0, |m: f64, x| m.max(x.abs())));
    if s <= ROUNDING * largest { 0.0 } else { s }
}

/// `ln(second / first)` of two costs or sizes; infinite where one of them is 0 or infinite (never reached), 0 where both are
/// equal. `None` where both are infinite, which says nothing about their order, and for negative values and NaN.
pub fn log_ratio(first: f64, second: f64) -> Option<f64> {
    if first.is_nan() || second.is_nan() || first < 0.0 || second < 0.0 {
        return None;
    }
    if first == second {
        return first.is_finite().then_some(0.0);
    }
    Some(difference(second.ln(), first.ln()))
}

/// The smallest and the largest value; `None` if empty.
pub fn range(values: &[f64]) -> Option<[f64; 2]> {
    let ends = |[low, high]: [f64; 2], &x: &f64| [low.min(x), high.max(x)];
    (!values.is_empty()).then(|| values.iter().fold([f64::INFINITY, f64::NEG_INFINITY], ends))
}

/// A mean over seeds with its 95% t-interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    /// Half width of the interval; `None` with fewer than two seeds, and where one is not finite.
    pub half_width: Option<f64>,
    pub n: usize,
}

impl Estimate {
    /// `mean ± t_{.975, n−1} · sd / √n`; `None` if empty.
    pub fn of(values: &[f64]) -> Option<Self> {
        Self::of_at(values, 0.95)
    }

    /// Of the differences `a − b`, paired by index.
    pub fn of_differences(a: &[f64], b: &[f64]) -> Option<Self> {
        Self::of(&a.iter().zip(b).map(|(a, b)| difference(*a, *b)).collect::<Vec<_>>())
    }

    /// As text; the interval by its ends where it would leave the range of the metric: a share has none beyond 1.
    pub(crate) fn text(&self, metric: Metric, places: usize) -> String {
        let Some((half, [least, most])) = self.half_width.filter(|half| *half > 0.0).zip(metric.range()) else {
            return format!("{self:.places$}");
        };
        let [low, high] = [self.mean - half, self.mean + half];
        // a mean beyond the range by an approximation stays as it is
        if !(least..=most).contains(&self.mean) || (low >= least && high <= most) {
            return format!("{self:.places$}");
        }
        let [mean, low, high] = [self.mean, low.max(least), high.min(most)].map(|x| fixed(x, places));
        format!("{mean} ({low} to {high})")
    }

    /// Whether the interval lies on one side of zero; `None` without an interval.
    pub fn excludes_zero(&self) -> Option<bool> {
        self.half_width.map(|h| self.mean.abs() > h)
    }
}

impl Estimate {
    /// As [`Self::of`], at another confidence level than 95%.
    pub fn of_at(values: &[f64], level: f64) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let (mean, spread) = (mean(values), sd_above_rounding(values));
        let half_width = spread.is_finite().then(|| {
            let t = StudentsT::new(0.0, 1.0, n as f64 - 1.0).expect("n - 1 > 0").inverse_cdf(0.5 + level / 2.0);
            t * spread / (n as f64).sqrt()
        });
        Some(Self { mean, half_width, n })
    }
}

/// Two-sided p of the t-test that the mean is zero; `None` with fewer than two values, or where one is not finite. Values that do
/// not differ give 0, or 1 if they are zero.
pub fn t_test(values: &[f64]) -> Option<f64> {
    let (n, m, s) = (values.len() as f64, mean(values), sd_above_rounding(values));
    if !s.is_finite() {
        return None;
    }
    if s == 0.0 {
        return Some(f64::from(u8::from(difference(m, 0.0) == 0.0)));
    }
    Some(two_sided(m / (s / n.sqrt()), n - 1.0))
}

/// Two-sided tail probability of Student's t.
fn two_sided(t: f64, freedom: f64) -> f64 {
    2.0 * StudentsT::new(0.0, 1.0, freedom).expect("at least two values more than were fitted").cdf(-t.abs())
}

/// Two-sided p of the test that flips the signs of paired differences, over all 2ⁿ flips; for few seeds, where the
/// t-test's assumption of normal values cannot be checked. For fewer than 32 values.
pub fn sign_flip_test(values: &[f64]) -> f64 {
    let observed = values.iter().sum::<f64>().abs();
    let flipped =
        |signs: u32| -> f64 { values.iter().enumerate().map(|(i, x)| if signs >> i & 1 == 1 { -x } else { *x }).sum() };
    let all = 1u32 << values.len();
    let as_far = (0..all).filter(|&signs| flipped(signs).abs() >= observed * (1.0 - 1e-12)).count();
    as_far as f64 / f64::from(all)
}

/// The level of each test of a family at which all of them together are wrong in no more than `alpha` of cases: Holm 1979.
/// The smallest p is compared with α/m, the next with α/(m − 1), and so on; after the first that is too large, all others
/// are compared with its level.
pub fn holm_levels(p: &[f64], alpha: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut levels = vec![alpha; p.len()];
    let mut stopped = None;
    for (rank, index) in order.into_iter().enumerate() {
        let level = stopped.unwrap_or(alpha / (p.len() - rank) as f64);
        levels[index] = level;
        if p[index] > level {
            stopped = Some(level);
        }
    }
    levels
}

/// The median; infinite values are ordered like all others. NaN if empty.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => sorted[n / 2 - 1] / 2.0 + sorted[n / 2] / 2.0,
    }
}

/// The confidence interval of a median without assumptions about the distribution: the narrowest one between order statistics
/// equally far from both ends that covers it with at least this probability; `None` for too few values. Values may be infinite.
pub fn median_interval(values: &[f64], level: f64) -> Option<[f64; 2]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let law = Binomial::new(0.5, sorted.len() as u64).ok()?;
    let holds = |from_end: usize| 1.0 - 2.0 * law.cdf(from_end as u64) >= level - 1e-12;
    let from_end = (0..sorted.len()).take_while(|&k| holds(k)).last()?;
    Some([sorted[from_end], sorted[sorted.len() - 1 - from_end]])
}

/// Two-sided p of the sign test that the median is zero; zeros are left out. 1 if empty.
pub fn sign_test(values: &[f64]) -> f64 {
    let (above, below) = (values.iter().filter(|x| **x > 0.0).count(), values.iter().filter(|x| **x < 0.0).count());
    let fewer = above.min(below) as u64;
    Binomial::new(0.5, (above + below) as u64).map_or(1.0, |law| (2.0 * law.cdf(fewer)).min(1.0))
}

/// The confidence interval of a share of independent draws: Wilson 1927, eq. 4.
pub fn wilson(wins: f64, n: f64, level: f64) -> [f64; 2] {
    let z = Normal::standard().inverse_cdf(0.5 + level / 2.0);
    let (share, z2) = (wins / n, z * z);
    let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    [centre - half, centre + half]
}

/// The interval of a mean over prompts and seeds by resampling prompts, the same ones at every seed: Efron & Tibshirani 1993,
/// §13.3. It covers other prompts, not other trainings: seeds are not resampled. `by_seed[s][p]`, as many prompts for each seed.
pub fn prompt_bootstrap(by_seed: &[Vec<f64>], level: f64, draws: usize) -> Option<[f64; 2]> {
    let prompts = by_seed.first()?.len();
    if prompts < 2 || by_seed.iter().any(|values| values.len() != prompts) {
        return None;
    }
    let of_prompt = |p: usize| mean(&by_seed.iter().map(|values| values[p]).collect::<Vec<_>>());
    let of_prompts: Vec<f64> = (0..prompts).map(of_prompt).collect();
    let resampled_mean =
        |resampled: &[usize]| vec![resampled.iter().map(|&p| of_prompts[p]).sum::<f64>() / prompts as f64];
    bootstrap(prompts, level, draws, resampled_mean)?.first().copied()
}

/// The intervals of some statistics of prompts between quantiles over resamples of the prompts, given by their indices: Efron &
/// Tibshirani 1993, §13.3. `None` for fewer than two prompts, and where there is no draw.
pub fn bootstrap(
    prompts: usize,
    level: f64,
    draws: usize,
    statistics: impl Fn(&[usize]) -> Vec<f64>,
) -> Option<Vec<[f64; 2]>> {
    if prompts < 2 || draws == 0 {
        return None;
    }
    let mut rng = seeds::stream(0, Stream::PromptBootstrap, 0);
    let mut resampled = || statistics(&(0..prompts).map(|_| rng.random_range(0..prompts)).collect::<Vec<usize>>());
    let values: Vec<Vec<f64>> = (0..draws).map(|_| resampled()).collect(); // [draws][statistics]
    let interval = |index: usize| {
        let mut sorted: Vec<f64> = values.iter().map(|statistics| statistics[index]).collect();
        sorted.sort_by(f64::total_cmp);
        let quantile = |share: f64| sorted[((draws - 1) as f64 * share).round() as usize];
        [quantile((1.0 - level) / 2.0), quantile(0.5 + level / 2.0)]
    };
    Some((0..values[0].len()).map(interval).collect())
}

/// How the spreads of two paired lists compare.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpreadRatio {
    /// `ln sd(b) − ln sd(a)`; infinite where one of them has no spread.
    pub log_ratio: f64,
    /// `None` for an infinite ratio.
    pub interval: Option<[f64; 2]>,
    /// Two-sided p of equal spreads; `None` for an infinite ratio.
    pub p: Option<f64>,
}

/// Log of the ratio of the standard deviations of two paired lists with its interval: Pitman 1939 and Morgan 1939, exact for normal
/// values, whatever their correlation. Lists that differ by a constant, and lists without spread, have the same spread and
/// nothing is tested: 0, from 0 to 0. `None` with fewer than three pairs, or where a value is not finite.
pub fn spread_ratio(pairs: &[(f64, f64)], level: f64) -> Option<SpreadRatio> {
    let n = pairs.len() as f64;
    let (a, b): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let [sa, sb] = [sd_above_rounding(&a), sd_above_rounding(&b)];
    if n < 3.0 || !sa.is_finite() || !sb.is_finite() {
        return None;
    }
    let (sums, differences): (Vec<f64>, Vec<f64>) = pairs.iter().map(|&(a, b)| (a + b, difference(b, a))).unzip();
    if sd_above_rounding(&sums) == 0.0 || sd_above_rounding(&differences) == 0.0 {
        return Some(SpreadRatio { log_ratio: 0.0, interval: Some([0.0, 0.0]), p: Some(1.0) });
    }
    if sa == 0.0 || sb == 0.0 {
        return Some(SpreadRatio { log_ratio: log_ratio(sa, sb)?, interval: None, p: None });
    }
    let ratio = (sb / sa).ln();
    let law = StudentsT::new(0.0, 1.0, n - 2.0).expect("n - 2 > 0");
    let correlation = |x: &[f64], y: &[f64]| {
        let (mx, my) = (mean(x), mean(y));
        let sum: f64 = x.iter().zip(y).map(|(x, y)| (x - mx) * (y - my)).sum();
        sum / ((n - 1.0) * sd(x) * sd(y))
    };
    let r = correlation(&a, &b).clamp(-1.0, 1.0);
    let t = law.inverse_cdf(0.5 + level / 2.0);
    let k = 1.0 + 2.0 * (1.0 - r * r) * t * t / (n - 2.0);
    let half = (k + (k * k - 1.0).sqrt()).ln() / 2.0;
    let tied = correlation(&sums, &differences).clamp(-1.0, 1.0);
    let statistic = tied * ((n - 2.0) / (1.0 - tied * tied).max(f64::MIN_POSITIVE)).sqrt();
    Some(SpreadRatio {
        log_ratio: ratio,
        interval: Some([ratio - half, ratio + half]),
        p: Some(two_sided(statistic, n - 2.0)),
    })
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(2);
        match self.half_width {
            // a value that is the same for every seed was set, not measured
            Some(h) if h > 0.0 => write!(f, "{} ± {}", fixed(self.mean, places), fixed(h, places)),
            _ => f.write_str(&fixed(self.mean, places)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::metrics;

    /// Half widths: 12.706 · .05 of two seeds .55 and .65, and .0127 of .98 and .982.
    #[test]
    fn an_interval_ends_where_the_values_of_its_metric_do() {
        let text = |values: &[f64], metric| Estimate::of(values).expect("two values").text(metric, 3);
        assert_eq!(text(&[0.55, 0.65], metrics::WIN_RATE), "0.600 (0.000 to 1.000)");
        assert_eq!(text(&[0.55, 0.65], metrics::ETA), "0.600 (-0.035 to 1.000)");
        assert_eq!(text(&[0.55, 0.65], metrics::GOLD), "0.600 ± 0.635");
        assert_eq!(text(&[0.98, 0.982], metrics::WIN_RATE), "0.981 ± 0.013");
        assert_eq!(text(&[1.0, 1.0], metrics::WIN_RATE), "1.000", "set, not measured");
    }

    /// By hand: values 1, 2, 4, 5 have mean 3, sd √(10/3) = 1.825742, t_{.975,3} = 3.182446,
    /// half width 3.182446 · 1.825742 / 2 = 2.905162.
    #[test]
    fn a_t_interval_by_hand() {
        let estimate = Estimate::of(&[1.0, 2.0, 4.0, 5.0]).expect("four values");
        assert!((estimate.mean - 3.0).abs() < 1e-12);
        assert!((estimate.half_width.expect("two or more") - 2.905162).abs() < 1e-5);
        assert_eq!(estimate.excludes_zero(), Some(true));
        assert_eq!(format!("{estimate:.1}"), "3.0 ± 2.9");
    }

    /// scipy 1.17: `ttest_1samp([.3, -.1, .4, .2, .5], 0)`, `permutation_test((x,), sum, permutation_type="samples")`,
    /// `t.interval(.99, …)`.
    #[test]
    fn tests_are_those_of_scipy() {
        let x = [0.3, -0.1, 0.4, 0.2, 0.5];
        assert!((t_test(&x).expect("five") - 0.064_985_910_342_120_6).abs() < 1e-9);
        assert!((sign_flip_test(&x) - 0.125).abs() < 1e-12);
        assert!(
            (Estimate::of_at(&x, 0.99).and_then(|e| e.half_width).expect("five") - 0.474_020_579_294_346_4).abs()
                < 1e-9
        );
        assert_eq!([t_test(&[1.0]), t_test(&[0.0, 0.0]), t_test(&[2.0, 2.0])], [None, Some(1.0), Some(0.0)]);
    }

    /// R: `p.adjust(c(.01, .04, .03, .005), "holm")` is .03 .06 .06 .02: at 5% the first and the last are rejected.
    #[test]
    fn a_family_shares_its_five_percent() {
        let p = [0.01, 0.04, 0.03, 0.005];
        let levels = holm_levels(&p, 0.05);
        let rejected: Vec<bool> = p.iter().zip(&levels).map(|(p, level)| p <= level).collect();
        assert_eq!(rejected, [true, false, false, true]);
        assert_eq!(levels, [0.05 / 3.0, 0.025, 0.025, 0.0125]);
    }

    /// scipy 1.17: `quantile_test(x, q=0, p=.5)` with `confidence_interval(.95)`, `binomtest(1, 7, .5)`,
    /// `binomtest(37, 50).proportion_ci(.95, "wilson")`.
    #[test]
    fn medians_and_shares_are_those_of_scipy() {
        let x = [0.3, -0.1, 0.4, 0.2, 0.5, 0.9, 0.35];
        assert!((sign_test(&x) - 0.125).abs() < 1e-12);
        assert_eq!((median(&x), median_interval(&x, 0.95)), (0.35, Some([-0.1, 0.9])));
        let ten: Vec<f64> = (1..=10).map(f64::from).collect();
        assert_eq!((median(&ten), median_interval(&ten, 0.95)), (5.5, Some([2.0, 9.0])));
        assert_eq!(median_interval(&ten, 0.99), Some([1.0, 10.0]));
        // five values hold the median with 1 − 2/32 at most
        assert_eq!(median_interval(&x[..5], 0.95), None);
        let [low, high] = wilson(37.0, 50.0, 0.95);
        assert!((low - 0.604_468_427_351_511_5).abs() < 1e-9 && (high - 0.841_284_725_064_476_2).abs() < 1e-9);
        assert_eq!([sign_test(&[]), sign_test(&[0.0, 0.0])], [1.0, 1.0]);
    }

    /// Censored values are larger than all others, and the median is known all the same.
    #[test]
    fn censored_values_keep_their_place() {
        let infinite = f64::INFINITY;
        assert_eq!(median(&[1.0, infinite, 2.0, infinite, 3.0]), 3.0);
        assert_eq!(median(&[infinite, infinite, 1.0]), infinite);
        assert_eq!(median_interval(&[infinite, 1.0, 2.0, 3.0, 4.0, 5.0], 0.95), Some([1.0, infinite]));
        assert!((sign_test(&[infinite; 5]) - 0.0625).abs() < 1e-12);
    }

    /// scipy 1.17: `pearsonr(x + y, y − x).pvalue`; the ends are the ratios at which that test, with x scaled by them, has p = .05
    /// (`optimize.brentq`).
    #[test]
    fn the_ratio_of_paired_spreads_is_pitmans_and_morgans() {
        let x = [0.3, -0.1, 0.4, 0.2, 0.5, 0.9, 0.35];
        let y = [0.1, 0.4, -0.8, 0.6, 1.9, -0.7, 0.2];
        let pairs: Vec<(f64, f64)> = x.into_iter().zip(y).collect();
        let SpreadRatio { log_ratio: ratio, interval: Some([low, high]), p: Some(p) } =
            spread_ratio(&pairs, 0.95).expect("seven pairs")
        else {
            panic!("both have spread")
        };
        assert!((ratio - 1.090_008_215_462_134_2).abs() < 1e-9 && (p - 0.028_089_086_110_984_107).abs() < 1e-9);
        assert!((low - 0.134_338_983_495_470_13).abs() < 1e-8 && (high - 2.045_677_447_428_798_4).abs() < 1e-8);
        assert_eq!(spread_ratio(&pairs[..2], 0.95), None);
        let only_one = SpreadRatio { log_ratio: f64::INFINITY, interval: None, p: None };
        assert_eq!(spread_ratio(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)], 0.95), Some(only_one));
    }

    fn normals(stage: &str) -> impl FnMut() -> f64 {
        let mut rng = duel_spec::seeds::derive(7, stage, 0, "stats");
        move || {
            let (a, b): (f64, f64) = (rng.random(), rng.random());
            (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
        }
    }

    /// 10,000 experiments of 5 and of 10 seeds whose true difference is .3, and whose paired spreads differ by a factor of 2: how
    /// often the intervals contain the true value.
    #[test]
    fn intervals_cover_what_they_promise() {
        for seeds in [5, 10] {
            let mut normal = normals("coverage");
            let holds = |values: Vec<f64>| {
                Estimate::of(&values).is_some_and(|e| e.half_width.is_some_and(|h| (e.mean - 0.3).abs() <= h))
            };
            let covered = (0..10_000).filter(|_| holds((0..seeds).map(|_| 0.3 + normal()).collect())).count();
            assert!((9_300..=9_700).contains(&covered), "{seeds} seeds: {covered}");
            let mut pair = || {
                let shared = normal();
                (shared + normal(), 2.0 * (shared + normal()))
            };
            let ratio = |pairs: Vec<(f64, f64)>| {
                let interval = spread_ratio(&pairs, 0.95).and_then(|ratio| ratio.interval);
                interval.is_some_and(|[low, high]| (low..=high).contains(&2f64.ln()))
            };
            let covered = (0..10_000).filter(|_| ratio((0..seeds).map(|_| pair()).collect())).count();
            assert!((9_300..=9_700).contains(&covered), "{seeds} seeds, spreads: {covered}");
        }
    }

    /// The interval of a median lies between two of the values, so that its coverage comes in steps: with ten, 1 − 22/1024.
    #[test]
    fn the_interval_of_a_median_covers_at_least_what_it_promises() {
        let mut normal = normals("medians");
        // a skewed distribution: the median of exp(z) is 1
        let holds =
            |values: Vec<f64>| median_interval(&values, 0.95).is_some_and(|[low, high]| (low..=high).contains(&1.0));
        let covered = (0..10_000).filter(|_| holds((0..10).map(|_| normal().exp()).collect())).count();
        assert!((9_740..=9_830).contains(&covered), "{covered}");
    }

    #[test]
    fn intervals_of_win_rates_cover_what_they_promise() {
        let mut rng = duel_spec::seeds::derive(7, "wins", 0, "stats");
        let mut covered = [0, 0];
        for _ in 0..2_000 {
            let wins: Vec<f64> = (0..200).map(|_| f64::from(u8::from(rng.random_bool(0.7)))).collect();
            let [low, high] = wilson(wins.iter().sum(), 200.0, 0.95);
            covered[0] += usize::from((low..=high).contains(&0.7));
            // three seeds on the same prompts: prompts differ in how easy they are, each seed draws again
            let ease: Vec<f64> = (0..100).map(|_| rng.random_range(0.4..1.0)).collect();
            let seeds: Vec<Vec<f64>> =
                (0..3).map(|_| ease.iter().map(|&p| f64::from(u8::from(rng.random_bool(p)))).collect()).collect();
            let [low, high] = prompt_bootstrap(&seeds, 0.95, 400).expect("100 prompts");
            covered[1] += usize::from((low..=high).contains(&0.7));
        }
        assert!(covered.iter().all(|covered| (1_860..=1_950).contains(covered)), "{covered:?}");
        assert_eq!(prompt_bootstrap(&[vec![1.0]], 0.95, 10), None);
        assert_eq!(prompt_bootstrap(&[vec![1.0, 0.0], vec![1.0]], 0.95, 10), None);
    }

    /// Values that differ by a constant, or by their sign, have the same spread; 0.1 + 0.2 differs from 0.3 by rounding alone.
    #[test]
    fn values_that_differ_by_a_constant_have_equal_spreads() {
        let equal = Some(SpreadRatio { log_ratio: 0.0, interval: Some([0.0, 0.0]), p: Some(1.0) });
        let x = [0.1, 0.4, -0.3, 0.2, 0.6];
        let with = |map: fn(f64) -> f64| spread_ratio(&x.map(|x| (x, map(x))), 0.95);
        assert_eq!([with(|x| x), with(|x| x + 3.0), with(|x| 1.0 - x), with(|x| (x + 0.2) - 0.2)], [equal; 4]);
        assert_eq!(spread_ratio(&[(2.0, 3.0); 5], 0.95), equal);
        let twice = with(|x| 2.0 * x).expect("both have spread");
        assert!((twice.log_ratio - 2f64.ln()).abs() < 1e-12 && twice.p.is_some_and(|p| p < 1e-9), "{twice:?}");
        assert_eq!(with(|_| 7.0), Some(SpreadRatio { log_ratio: f64::NEG_INFINITY, interval: None, p: None }));
        assert_eq!(
            [with(|x| if x > 0.5 { f64::NAN } else { x }), with(|x| if x > 0.5 { f64::INFINITY } else { x })],
            [None; 2]
        );
    }

    #[test]
    fn values_that_are_not_finite_have_no_test() {
        for x in [f64::NAN, f64::INFINITY, f64::MAX] {
            let values = [x, x, 1.0, 2.0, 3.0];
            assert_eq!(t_test(&values), None, "{x}");
            assert_eq!(Estimate::of(&values).and_then(|e| e.half_width), None, "{x}");
        }
        assert_eq!(t_test(&[]), None);
    }

    /// Sums of the same parts in a different order: the remainder is no effect, however significant it looks.
    #[test]
    fn rounding_is_no_difference() {
        let noise = [0.1 + 0.2 - 0.3, 0.7 - 0.1 - 0.6, 1e-16, 2e-16, 3e-16];
        assert!(t_test(&noise) == Some(1.0) && Estimate::of(&noise).is_some_and(|e| e.half_width == Some(0.0)));
        assert_eq!([difference(0.1 + 0.2, 0.3), difference(1e9 + 1e-4, 1e9), difference(2.0, 0.5)], [0.0, 0.0, 1.5]);
        assert_eq!(difference(1e9 + 0.1, 1e9), 1e9 + 0.1 - 1e9);
        let estimate = Estimate::of_differences(&[0.1 + 0.2, 1.1], &[0.3, 0.6 + 0.5]).expect("two");
        assert_eq!((estimate.mean, estimate.excludes_zero()), (0.0, Some(false)));
    }

    #[test]
    fn a_cost_that_is_never_reached_is_larger_than_any_other() {
        let infinite = f64::INFINITY;
        assert_eq!([log_ratio(1.0, 1.0), log_ratio(0.0, 0.0)], [Some(0.0); 2]);
        assert_eq!([log_ratio(1.0, infinite), log_ratio(infinite, 1.0)], [Some(infinite), Some(-infinite)]);
        assert_eq!([log_ratio(0.0, 1.0), log_ratio(1.0, 0.0)], [Some(infinite), Some(-infinite)]);
        assert_eq!([log_ratio(infinite, infinite), log_ratio(f64::NAN, 1.0), log_ratio(-1.0, 1.0)], [None; 3]);
        assert!((log_ratio(2.0, 6.0).expect("both") - 3f64.ln()).abs() < 1e-15);
    }

    /// Up to a part in 10^12 of the larger value, or of 1, both ends included.
    #[test]
    fn the_tolerance_for_rounding_has_its_ends() {
        assert_eq!([difference(1e-12, 0.0), difference(0.0, 1e-12), difference(-1e-12, 0.0)], [0.0; 3]);
        assert_eq!([difference(1.1e-12, 0.0), difference(0.0, 1.1e-12)], [1.1e-12, -1.1e-12]);
        assert_eq!(difference(f64::INFINITY, 1.0), f64::INFINITY);
        // of -x, 0 and x the standard deviation is x
        assert_eq!(sd_above_rounding(&[-1e-12, 0.0, 1e-12]), 0.0);
        assert!((sd_above_rounding(&[-2e-12, 0.0, 2e-12]) - 2e-12).abs() < 1e-20);
        assert_eq!(sd_above_rounding(&[1e6 - 1e-7, 1e6, 1e6 + 1e-7]), 0.0);
        assert_eq!(sd_above_rounding(&[1e6 - 1e-7, 1e6, 1e6 + 1e-7].map(|x| -x)), 0.0);
        assert!(sd_above_rounding(&[1e6 - 1e-5, 1e6, 1e6 + 1e-5]) > 9e-6);
    }

    #[test]
    fn fewer_than_two_values_have_no_spread() {
        assert!(sd(&[]).is_nan() && sd(&[3.0]).is_nan() && sd_above_rounding(&[]).is_nan() && mean(&[]).is_nan());
        assert_eq!(sd(&[3.0, 5.0]), 2f64.sqrt());
        assert_eq!([range(&[]), range(&[2.0, -1.0, 3.0])], [None, Some([-1.0, 3.0])]);
        assert_eq!([log_ratio(1.0, f64::NAN), log_ratio(1.0, -1.0), log_ratio(-1.0, -1.0)], [None; 3]);
        let x = [0.1, 0.4, -0.3, 0.2, 0.6];
        let not_finite = |bad: f64| spread_ratio(&x.map(|x| (if x > 0.5 { bad } else { x }, 2.0 * x)), 0.95);
        assert_eq!([not_finite(f64::NAN), not_finite(f64::INFINITY)], [None; 2]);
    }

    /// By hand: all flips of zeros are as far from zero; 5 positive of 5 that are not zero are 2 of 32; a p that equals its level is
    /// rejected, and the next one has the next level.
    #[test]
    fn ties_count_in_tests_as_their_definitions_say() {
        assert_eq!([sign_flip_test(&[0.0, 0.0]), sign_flip_test(&[1.0, 1.0, 1.0, 1.0])], [1.0, 0.125]);
        assert!((sign_test(&[0.0, 1.0, 2.0, 0.0, 3.0, 4.0, 5.0]) - 0.0625).abs() < 1e-12);
        assert!((sign_test(&[0.0, -1.0, -2.0, 0.0, -3.0, -4.0, -5.0]) - 0.0625).abs() < 1e-12);
        assert_eq!([sign_test(&[1.0, -1.0]), sign_test(&[1.0, -1.0, 0.0])], [1.0; 2]);
        assert_eq!(holm_levels(&[0.025, 0.05], 0.05), [0.025, 0.05]);
        assert_eq!(holm_levels(&[0.026, 0.05], 0.05), [0.025, 0.025]);
    }

    /// Five values cover their median between the first and the last with exactly 1 − 2/32.
    #[test]
    fn the_interval_of_a_median_has_the_level_that_it_covers() {
        let x = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median_interval(&x, 0.9375), Some([1.0, 5.0]));
        assert_eq!(median_interval(&x, 0.9375 + 1e-9), None);
        // between the second and the fourth: 1 − 2 · 6/32
        assert_eq!([0.625, 0.625 + 1e-9].map(|level| median_interval(&x, level)), [Some([2.0, 4.0]), Some([1.0, 5.0])]);
        assert_eq!(
            [median(&[f64::INFINITY; 2]), median(&[1e308, 1.6e308]), median(&[2.0, 1.0])],
            [f64::INFINITY, 1.3e308, 1.5]
        );
        assert!(median(&[]).is_nan());
    }

    /// One draw is both ends. Of a prompt with 0 and one with 1 the mean of two draws is 0, ½ or 1, with ¼, ½ and ¼.
    #[test]
    fn resampled_prompts_have_the_quantiles_of_their_mean() {
        let [low, high] = prompt_bootstrap(&[vec![0.0, 1.0]], 0.95, 1).expect("two prompts");
        assert!(low == high && [0.0, 0.5, 1.0].contains(&low));
        assert_eq!(prompt_bootstrap(&[vec![0.0, 1.0]], 0.95, 2000), Some([0.0, 1.0]));
        assert_eq!(prompt_bootstrap(&[vec![0.0, 1.0]], 0.4, 2000), Some([0.5, 0.5]));
        assert_eq!(prompt_bootstrap(&[vec![0.0, 1.0], vec![1.0, 0.0]], 0.95, 100), Some([0.5, 0.5]));
        assert_eq!([prompt_bootstrap(&[], 0.95, 10), prompt_bootstrap(&[vec![]], 0.95, 10)], [None; 2]);
    }

    #[test]
    fn an_estimate_without_width_is_shown_as_its_mean() {
        let shown = |values: &[f64]| Estimate::of(values).expect("values").to_string();
        assert_eq!([shown(&[2.0]), shown(&[2.0, 2.0]), shown(&[2.0, 2.0, 2.3])], ["2.00", "2.00", "2.10 ± 0.43"]);
    }

    #[test]
    fn one_seed_has_no_interval() {
        let estimate = Estimate::of(&[2.0]).expect("one value");
        assert_eq!((estimate.half_width, estimate.excludes_zero()), (None, None));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn pairing_removes_what_seeds_share() {
        let estimate = Estimate::of_differences(&[1.5, 10.5, -3.5], &[1.0, 10.0, -4.0]).expect("three pairs");
        assert!((estimate.mean - 0.5).abs() < 1e-12 && estimate.half_width.expect("three") < 1e-12);
    }
}
