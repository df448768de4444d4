//! What an arm can reach at each KL: picked on validation prompts, read on test prompts (docs/verdicts.md, Frontier).

use crate::analysis::points::{EvalPoint, MeasuredPoint};
use crate::analysis::run::Run;
use crate::analysis::stats::{Estimate, difference};
use duel_spec::metrics::{GOLD, GOLD_SD, KL, Metric};
use duel_spec::{REFERENCE, WorldKind};

/// A policy by its KL to the reference and its gold reward.
pub(crate) type KlGold = (f64, f64);

/// Indices of the upper concave hull in KL, by rising KL: what mixtures of policies can reach, as gold is linear
/// in a mixture and KL convex.
fn upper_hull(points: &[KlGold]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| points[a].0.total_cmp(&points[b].0).then(points[b].1.total_cmp(&points[a].1)));
    let mut hull: Vec<usize> = Vec::new();
    for index in order {
        let (x, y) = points[index];
        while let [.., a, b] = hull[..] {
            let ((xa, ya), (xb, yb)) = (points[a], points[b]);
            if (yb - ya) * (x - xa) > (y - ya) * (xb - xa) {
                break;
            }
            hull.pop();
        }
        if hull.last().is_none_or(|&last| points[last].0 < x) {
            hull.push(index);
        }
    }
    hull
}

/// Gold at a KL, linear between neighbours; `None` outside what was reached.
pub(crate) fn gold_at(curve: &[KlGold], kl: f64) -> Option<f64> {
    curve.windows(2).find_map(|pair| {
        let [(x0, y0), (x1, y1)] = [pair[0], pair[1]];
        (x0 <= kl && kl <= x1 && x1 > x0).then(|| y0 + (y1 - y0) * (kl - x0) / (x1 - x0))
    })
}

/// The most gold that a mixture of policies reaches at no more than a KL. One of them has a KL of at most that.
pub(crate) fn within(points: &[KlGold], kl: f64) -> f64 {
    let hull: Vec<KlGold> = upper_hull(points).into_iter().map(|index| points[index]).collect();
    let below = hull.iter().filter(|point| point.0 <= kl).map(|point| point.1);
    below.chain(gold_at(&hull, kl)).fold(f64::NEG_INFINITY, f64::max)
}

/// A policy with its point.
pub(crate) type PointPolicy<'a> = (&'a MeasuredPoint, &'a EvalPoint);

/// The policies of one seed whose mixtures are an arm's frontier, the reference among them: the hull is picked on validation
/// prompts, and they are sorted by KL on test prompts.
fn hull_policies<'a>(
    run: &'a Run,
    seed: u64,
    policies: impl Iterator<Item = PointPolicy<'a>>,
) -> Vec<(f64, PointPolicy<'a>)> {
    let reference = run.reference().zip(run.reference_at(seed));
    let validation_point = |(_, evaluation): &PointPolicy| {
        let tested = evaluation.test(KL).and(evaluation.test(GOLD)).is_some();
        evaluation.validation(KL).zip(evaluation.validation(GOLD)).filter(|_| tested)
    };
    let (validation, policies): (Vec<KlGold>, Vec<PointPolicy>) =
        reference.into_iter().chain(policies).filter_map(|policy| Some((validation_point(&policy)?, policy))).unzip();
    let hull = upper_hull(&validation).into_iter().map(|index| policies[index]);
    let mut hull_policies: Vec<(f64, PointPolicy)> =
        hull.map(|policy| (policy.1.test(KL).unwrap_or(f64::NAN), policy)).collect();
    hull_policies.sort_by(|a, b| a.0.total_cmp(&b.0));
    hull_policies
}

/// All points and checkpoints of an arm at one seed.
pub(crate) fn all_policies<'a>(run: &'a Run, arm: &'a str, seed: u64) -> impl Iterator<Item = PointPolicy<'a>> {
    run.points_of(arm)
        .flat_map(move |p| p.seeds.get(&seed).into_iter().flatten().map(move |evaluation| (p, evaluation)))
}

/// Its finished policies.
pub(crate) fn finished_policies<'a>(run: &'a Run, arm: &'a str, seed: u64) -> impl Iterator<Item = PointPolicy<'a>> {
    run.points_of(arm).filter_map(move |p| Some((p, p.seeds.get(&seed)?.last()?)))
}

/// An arm's frontier of one seed on test prompts: all its points and checkpoints, and the reference, the
/// hull picked on validation.
fn arm_frontier(run: &Run, arm: &str, seed: u64) -> Vec<KlGold> {
    let gold = |(kl, (_, evaluation)): (f64, PointPolicy)| (kl, evaluation.test(GOLD).unwrap_or(f64::NAN));
    hull_policies(run, seed, all_policies(run, arm, seed)).into_iter().map(gold).collect()
}

/// The two policies between which an arm's frontier is read at a KL, and the share of the second; `None` where the arm does not
/// reach it. The reference is its own frontier at every KL.
pub(crate) fn mixture_at<'a>(
    run: &'a Run,
    arm: &str,
    seed: u64,
    kl: f64,
    policies: impl Iterator<Item = PointPolicy<'a>>,
) -> Option<[(PointPolicy<'a>, f64); 2]> {
    if arm == REFERENCE {
        let reference = run.reference().zip(run.reference_at(seed))?;
        return Some([(reference, 1.0), (reference, 0.0)]);
    }
    hull_policies(run, seed, policies).windows(2).find_map(|pair| {
        let ((x0, a), (x1, b)) = (pair[0], pair[1]);
        let share = (kl - x0) / (x1 - x0);
        (x0 <= kl && kl <= x1 && x1 > x0).then_some([(a, 1.0 - share), (b, share)])
    })
}

/// A metric on test prompts along an arm's frontier, at one KL.
pub(crate) fn metric_at(run: &Run, arm: &str, seed: u64, kl: f64, metric: Metric) -> Option<f64> {
    let mixture = mixture_at(run, arm, seed, kl, all_policies(run, arm, seed))?;
    mixture.iter().map(|((_, evaluation), share)| Some(evaluation.test(metric)? * share)).sum()
}

/// Reads a metric on test or on validation prompts.
pub(crate) type SplitAccessor = fn(&EvalPoint, Metric) -> Option<f64>;

/// The exact optimum's curve of one seed, from the reference on.
fn optimum_curve(run: &Run, seed: u64, split: SplitAccessor) -> Vec<KlGold> {
    let policies: Vec<&MeasuredPoint> = run.reference().into_iter().chain(run.points_of("optimum")).collect();
    let mut curve: Vec<KlGold> = policies
        .iter()
        .filter_map(|p| p.seeds.get(&seed)?.last())
        .filter_map(|evaluation| Some((split(evaluation, KL)?, split(evaluation, GOLD)?)))
        .collect();
    curve.sort_by(|a, b| a.0.total_cmp(&b.0));
    curve
}

/// Gold above the reference, and what share that is of the exact optimum's gain.
pub(crate) type Gain = (f64, Option<f64>);

/// An arm's gain in gold over the reference at one KL of one seed, and what share it is of the exact optimum's, where that is
/// known; `None` where the arm does not reach it.
pub(crate) fn gain_at(run: &Run, arm: &str, seed: u64, kl: f64) -> Option<Gain> {
    let base = run.reference_at(seed)?.test(GOLD)?;
    let gain = gold_at(&arm_frontier(run, arm, seed), kl)? - base;
    let best = gold_at(&optimum_curve(run, seed, EvalPoint::test), kl).map(|best| difference(best, base));
    Some((gain, best.filter(|best| *best > 0.0).map(|best| gain / best)))
}

/// Whether the exact optimum is known at a seed.
pub(crate) fn has_optimum(run: &Run, seed: u64) -> bool {
    run.points_of("optimum").any(|point| point.seeds.contains_key(&seed))
}

/// Gold of a policy that is halfway from the reference to the exact optimum at one KL; one standard deviation of gold
/// above the reference where no optimum is known.
pub(crate) fn target(run: &Run, seed: u64, kl: f64, split: SplitAccessor) -> Option<f64> {
    let reference = run.reference_at(seed)?;
    let base = split(reference, GOLD)?;
    match gold_at(&optimum_curve(run, seed, split), kl) {
        Some(best) => Some(base + (best - base) / 2.0),
        None if has_optimum(run, seed) => None, // it is not known at this KL
        None => split(reference, GOLD_SD).filter(|&sd| sd > 0.0).map(|sd| base + sd),
    }
}

/// Lower and upper end of the 95% interval of an arm's frontier over seeds, at `steps + 1` KL values up to the largest that every
/// seed reaches: an interval over fewer of them would jump where one ends.
pub(crate) fn band(run: &Run, arm: &str, steps: usize) -> (Vec<KlGold>, Vec<KlGold>) {
    let seeds = run.experiment.seed_list();
    let frontiers: Vec<Vec<KlGold>> = seeds.iter().map(|&seed| arm_frontier(run, arm, seed)).collect();
    let ends = frontiers.iter().filter_map(|curve| curve.last().map(|last| last.0));
    // a seed without policies has the reference alone
    let Some(furthest) = ends.filter(|&kl| kl > 0.0).min_by(f64::total_cmp) else { return (vec![], vec![]) };
    let interval = |step: usize| {
        let kl = furthest * step as f64 / steps as f64;
        let golds: Vec<f64> = frontiers.iter().filter_map(|curve| gold_at(curve, kl)).collect();
        let Estimate { mean, half_width, .. } = Estimate::of(&golds)?;
        let half = half_width?;
        Some(((kl, mean - half), (kl, mean + half)))
    };
    (0..=steps).filter_map(interval).unzip()
}

/// One arm at one KL.
#[derive(Debug, Clone)]
pub struct ArmAtKl {
    pub arm: String,
    /// Gold above the reference's.
    pub gain: Estimate,
    /// The gain as a share of the exact optimum's at the same KL, where that is known.
    pub eta: Option<Estimate>,
    /// By seed, the same seeds for every arm: the share where it is known, else the gain.
    pub values: Vec<f64>,
}

/// All arms at one KL.
#[derive(Debug, Clone)]
pub struct Matched {
    pub kl: f64,
    /// In the arms' order; `None` where no seed of an arm reaches it.
    pub arms: Vec<Option<ArmAtKl>>,
    /// The second arm minus the first, paired by seed, over the seeds where both reach this KL.
    pub difference: Option<Estimate>,
}

impl Matched {
    /// In what the arms' difference is given: shares of the optimum's gain where those are known.
    pub(crate) fn unit(&self) -> &'static str {
        let has_optimum = self.arms.iter().flatten().all(|arm| arm.eta.is_some());
        if has_optimum { "of the optimum's gain" } else { "gold reward" }
    }

    /// How far its KL is from another, nats.
    pub(crate) fn distance(&self, kl: f64) -> f64 {
        (self.kl - kl).abs()
    }
}

/// KL values at which arms are compared, nats per response (docs/verdicts.md, Matched KL).
pub(crate) fn matched_kls(run: &Run) -> &'static [f64] {
    match run.experiment.world.kind {
        WorldKind::Grammar => &[0.25, 0.5, 1.0, 2.0],
        WorldKind::Reviews | WorldKind::Rows => &[3.0, 6.0, 9.0],
    }
}

/// The KL at which arms are compared where a single one is needed: that of the experiment's tuning, or the largest preset that
/// most seeds of all arms reach.
pub(crate) fn common_kl(run: &Run) -> f64 {
    let arms_at_kl = |kl: &f64| {
        let arms = run.arms();
        let seeds = run.experiment.seed_list();
        let policies = |seed: &u64| arms.iter().all(|arm| gain_at(run, arm, *seed, *kl).is_some());
        2 * seeds.iter().filter(|seed| policies(seed)).count() > seeds.len()
    };
    let preset = run.experiment.tuning.kl;
    if arms_at_kl(&preset) {
        return preset;
    }
    matched_kls(run).iter().copied().rfind(arms_at_kl).unwrap_or(preset)
}

/// The arms at equal KL, over the seeds at which every arm reaches it that does so at any seed; KL values that fewer than
/// two arms reach at one seed are left out.
pub fn at_equal_kl(run: &Run) -> Vec<Matched> {
    let arms = run.arms();
    let seeds = run.experiment.seed_list();
    matched_kls(run)
        .iter()
        .filter_map(|&kl| {
            let gains_of = |seed: u64| arms.iter().map(|arm| gain_at(run, arm, seed, kl)).collect();
            let gains_by_seed: Vec<Vec<Option<Gain>>> = seeds.iter().map(|&seed| gains_of(seed)).collect(); // by seed, then arm
            let reaches: Vec<bool> =
                (0..arms.len()).map(|arm| gains_by_seed.iter().any(|seed| seed[arm].is_some())).collect();
            let mut gains: Vec<Vec<f64>> = vec![vec![]; arms.len()];
            let mut shares: Vec<Vec<f64>> = vec![vec![]; arms.len()];
            for seed in &gains_by_seed {
                let below = (0..arms.len()).filter(|&arm| reaches[arm]);
                let together: Option<Vec<(usize, Gain)>> = below.map(|arm| Some((arm, seed[arm]?))).collect();
                for (arm, (gain, share)) in together.into_iter().flatten() {
                    gains[arm].push(gain);
                    shares[arm].extend(share);
                }
            }
            let arms_at_kl: Vec<Option<ArmAtKl>> = arms
                .iter()
                .zip(&gains)
                .zip(&shares)
                .map(|((arm, gain), eta)| {
                    let values = if eta.is_empty() { gain.clone() } else { eta.clone() };
                    Some(ArmAtKl { arm: arm.to_string(), gain: Estimate::of(gain)?, eta: Estimate::of(eta), values })
                })
                .collect();
            if arms_at_kl.iter().flatten().count() < 2 {
                return None;
            }
            let difference = match (&gains[..], &shares[..]) {
                (_, [a, b]) if !a.is_empty() => Estimate::of_differences(b, a),
                ([a, b], _) => Estimate::of_differences(b, a),
                _ => None,
            };
            Some(Matched { kl, arms: arms_at_kl, difference })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_spec::Clocks;

    #[test]
    fn the_hull_keeps_what_mixing_cannot_beat() {
        // (1, 1) lies under the line from (0, 0) to (2, 3); (3, 2) is past the top but still a corner
        let points = [(0.0, 0.0), (1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (2.5, 2.0)];
        assert_eq!(upper_hull(&points), vec![0, 2, 3]);
    }

    #[test]
    fn within_a_kl_the_best_mixture_counts() {
        let points = [(0.0, 1.0), (2.0, 3.0), (4.0, 2.0)];
        assert_eq!([0.0, 1.0, 2.0, 3.0, 9.0].map(|kl| within(&points, kl)), [1.0, 2.0, 3.0, 3.0, 3.0]);
    }

    #[test]
    fn of_two_policies_at_equal_kl_the_better_is_kept() {
        assert_eq!(upper_hull(&[(1.0, 1.0), (1.0, 2.0), (0.0, 0.0)]), vec![2, 1]);
    }

    #[test]
    fn gold_is_read_between_neighbours_and_never_beyond() {
        let curve = [(0.0, 1.0), (2.0, 3.0), (4.0, 2.0)];
        assert_eq!(gold_at(&curve, 1.0), Some(2.0));
        assert_eq!(gold_at(&curve, 3.0), Some(2.5));
        assert_eq!(gold_at(&curve, 4.5), None);
        // two policies at one KL are no line
        assert_eq!(gold_at(&[(1.0, 1.0), (1.0, 3.0), (2.0, 5.0)], 1.0), Some(3.0));
        assert_eq!(gold_at(&[(1.0, 1.0), (1.0, 3.0)], 1.0), None);
    }

    /// Trained arms of a hand-made run end at `(arm, KL, gold)` for each seed; the reference is at KL 0 and gold 1 with a standard
    /// deviation of 2, and the optimum, if any, is at the KL and gold that `optimum` has.
    fn run_with(
        header: &str,
        seeds: u64,
        optimum: &[KlGold],
        ends: impl Fn(u64) -> Vec<(&'static str, f64, f64)>,
    ) -> Run {
        let arms = ["a", "b", "c"].map(|arm| format!("[arms.{arm}]\nmethod = 'dpo'\n")).concat();
        let mut run = HandMadeRun::new(&format!("name = 'ends'\nseeds = {seeds}\n{header}\n{arms}"));
        let label = run.run().cells[0].point.label.clone();
        for seed in 0..seeds {
            let reference = [(KL, 0.0), (GOLD, 1.0), (GOLD_SD, 2.0)];
            run.evaluation("reference", "sft", seed, Clocks::default(), &reference);
            for (index, &(kl, gold)) in optimum.iter().enumerate() {
                run.evaluation("optimum", &index.to_string(), seed, Clocks::default(), &[(KL, kl), (GOLD, gold)]);
            }
            for (arm, kl, gold) in ends(seed) {
                run.evaluation(arm, &label, seed, Clocks { step: 1, ..Clocks::default() }, &[(KL, kl), (GOLD, gold)]);
            }
        }
        run.finish()
    }

    /// Policies whose KL is the same on test prompts, though not on validation prompts, have no line between them.
    #[test]
    fn a_mixture_of_two_policies_at_one_kl_is_not_read() {
        let mut run = HandMadeRun::new("name = 'tie'\nseeds = 1\n[arms.a]\nmethod = 'dpo'\ngrid.beta = [0.1, 0.2]");
        for (arm, label, kls, gold) in [
            ("reference", "sft", [0.0, 0.0], 1.0),
            ("a", "beta=0.2", [1.0, 0.0], 3.0),
            ("a", "beta=0.1", [2.0, 2.0], 4.0),
        ] {
            for (stage, kl) in ["evaluation-validation", "evaluation-test"].into_iter().zip(kls) {
                run.row([arm, label, stage], 0, Clocks::default(), KL, kl);
                run.row([arm, label, stage], 0, Clocks::default(), GOLD, gold);
            }
        }
        let run = run.finish();
        assert_eq!([0.0, 1.0, 2.0].map(|kl| metric_at(&run, "a", 0, kl, GOLD)), [Some(3.0), Some(3.5), Some(4.0)]);
    }

    /// On the exact optimum's curve from (0, 1) to (1, 5): half of its gain at KL .5 is 1. Beyond it nothing is known; without any
    /// optimum the target is one standard deviation of the reference's gold.
    #[test]
    fn a_target_is_half_of_the_optimums_gain_where_an_optimum_exists() {
        let known = run_with("", 1, &[(1.0, 5.0)], |_| vec![]);
        assert_eq!(target(&known, 0, 0.5, EvalPoint::test), Some(2.0));
        assert_eq!(target(&known, 0, 1.5, EvalPoint::test), None);
        let unknown = run_with("", 1, &[], |_| vec![]);
        assert_eq!([0.5, 1.5].map(|kl| target(&unknown, 0, kl, EvalPoint::test)), [Some(3.0); 2]);
    }

    /// At the reference itself the optimum gains nothing, so that no share of it exists.
    #[test]
    fn a_gain_is_a_share_where_the_optimum_gains() {
        let run = run_with("", 1, &[(1.0, 5.0)], |_| vec![("a", 1.0, 4.0)]);
        let gains = [0.0, 0.5, 1.0].map(|kl| gain_at(&run, "a", 0, kl));
        assert_eq!(gains, [Some((0.0, None)), Some((1.5, Some(0.75))), Some((3.0, Some(0.75)))]);
    }

    /// `tuning.kl` where more than half of the seeds of every arm reach it, else the largest preset that they reach.
    #[test]
    fn the_common_kl_is_reached_at_most_seeds() {
        let reached = |kl: f64, at_seeds: u64| {
            let ends = move |seed| {
                let end = if seed < at_seeds { kl } else { 0.3 };
                vec![("a", 9.0, 2.0), ("b", 9.0, 2.0), ("c", end, 2.0)]
            };
            common_kl(&run_with("tuning.kl = 1.7", 6, &[], ends))
        };
        assert_eq!([reached(1.8, 6), reached(1.8, 4), reached(1.8, 3)], [1.7, 1.7, 0.25]);
        assert_eq!([reached(1.6, 6), reached(0.6, 4), reached(0.6, 2)], [1.0, 0.5, 0.25]);
        let none = run_with("tuning.kl = 1.7", 6, &[], |_| vec![("a", 9.0, 2.0), ("b", 9.0, 2.0), ("c", 0.1, 2.0)]);
        assert_eq!(common_kl(&none), 1.7, "a preset that no arm reaches is not better than the experiment's own");
    }

    /// Without an optimum two arms differ in gold; a KL that only one of them reaches is left out.
    #[test]
    fn two_arms_at_equal_kl_differ_in_gold_where_no_optimum_is_known() {
        let golds = |seed: u64| vec![("a", 1.2, 2.2), ("b", 0.6, 1.9 + 0.6 * seed as f64)];
        let mut run = run_with("", 2, &[], golds);
        run.experiment.arms.remove("c");
        let matched = at_equal_kl(&run);
        assert_eq!(matched.iter().map(|m| m.kl).collect::<Vec<_>>(), [0.25, 0.5]);
        // at KL .5: a gains .5; b gains .75 and 1.25
        let difference = matched[1].difference.expect("two arms");
        assert!((difference.mean - 0.5).abs() < 1e-12 && difference.n == 2, "{difference:?}");
        let arms: Vec<&ArmAtKl> = matched[1].arms.iter().flatten().collect();
        assert!(arms.len() == 2 && arms.iter().all(|arm| arm.eta.is_none()));
        assert!((arms[0].gain.mean - 0.5).abs() < 1e-12 && (arms[1].gain.mean - 1.0).abs() < 1e-12);
    }

    /// With three arms no difference is formed, and KL values that two or three of them reach are compared.
    #[test]
    fn three_arms_at_equal_kl_have_no_difference() {
        let run = run_with("", 2, &[(3.0, 7.0)], |_| vec![("a", 2.5, 2.0), ("b", 0.6, 2.0), ("c", 1.5, 2.0)]);
        let matched = at_equal_kl(&run);
        assert_eq!(matched.iter().map(|m| m.kl).collect::<Vec<_>>(), [0.25, 0.5, 1.0]);
        let numbers = matched.iter().map(|m| m.arms.iter().flatten().count());
        assert_eq!(numbers.collect::<Vec<_>>(), [3, 3, 2]);
        assert!(matched.iter().all(|m| m.difference.is_none()));
    }

    /// Ten frontiers that end at 3, 4, ..., 12 nats.
    #[test]
    fn a_band_reaches_as_far_as_every_seed() {
        let run = run_with("", 10, &[], |seed| vec![("a", seed as f64 + 3.0, 2.0 + (seed % 2) as f64)]);
        let (low, high) = band(&run, "a", 6);
        assert_eq!(low.iter().map(|p| p.0).collect::<Vec<_>>(), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
        assert!(low[0].1 == 1.0 && high[0].1 == 1.0 && low.iter().zip(&high).skip(1).all(|(l, h)| l.1 < h.1));
        assert_eq!(band(&run, "b", 6), (vec![], vec![]));
        // a seed without a policy ends no band
        let run = run_with("", 5, &[], |seed| if seed == 4 { vec![] } else { vec![("a", 3.0, 2.0 + seed as f64)] });
        assert_eq!(band(&run, "a", 6).0.last().map(|p| p.0), Some(3.0));
    }
}
