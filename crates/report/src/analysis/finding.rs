//! What a run found, in one sentence that a colleague can repeat.

use crate::analysis::costs;
use crate::analysis::frontier::{self, ArmAtKl, Matched};
use crate::analysis::points::MeasuredPoint;
use crate::analysis::run::Run;
use crate::analysis::stats::{Estimate, mean};
use crate::analysis::verdict::FEWEST_SEEDS;
use crate::format::{and_list, fixed, percent};
use duel_spec::metrics;

/// The finding: of two arms which earns more at equal KL, and at what cost; of several the best; of one its gain. An interval
/// that contains zero finds nothing.
pub(crate) fn finding(run: &Run) -> Option<String> {
    let seeds = run.experiment.seed_list().len();
    let found = difference(run)?;
    Some(match seeds < FEWEST_SEEDS {
        true => format!("{found} A first look: a verdict takes {FEWEST_SEEDS} seeds or more."),
        false => found,
    })
}

fn difference(run: &Run) -> Option<String> {
    let arms = run.arms();
    let matched = frontier::at_equal_kl(run);
    match &arms[..] {
        [] => None,
        [arm] => alone(run, arm),
        [a, b] => {
            let reward = of_two(run, [a, b], &matched);
            Some(cost(run).map_or(reward.clone() + ".", |cost| format!("{reward}; {cost}.")))
        }
        all => Some(of_several(run, all.len(), &matched)),
    }
}

/// KL, in nats, below which a policy is its reference for every purpose.
const UNMOVED: f64 = 1e-3;

fn alone(run: &Run, arm: &str) -> Option<String> {
    let (featured, reference) = (run.featured(arm)?, run.reference()?);
    let golds = |point: &MeasuredPoint| point.final_test(metrics::GOLD);
    let gain = Estimate::of_differences(&golds(featured), &golds(reference))?;
    let wins = percent(mean(&featured.final_test(metrics::WIN_RATE)));
    let kl = Estimate::of(&featured.final_test(metrics::KL))?;
    if kl.mean.abs() < UNMOVED {
        return Some(format!(
            "{} has hardly moved from its reference: KL {:.0e} nats ({}). More steps or a higher learning rate move it.",
            arm.to_uppercase(),
            kl.mean,
            seeds(kl.n)
        ));
    }
    Some(format!(
        "{} earns {gain:.2} more gold reward than its reference at KL {kl:.1}, and wins {wins} of comparisons with it ({}).",
        arm.to_uppercase(),
        seeds(gain.n)
    ))
}

/// The difference of two arms at equal KL, at the KL at which they are usually compared or the nearest to it.
fn of_two(run: &Run, [a, b]: [&str; 2], matched: &[Matched]) -> String {
    let [a, b] = [a, b].map(str::to_uppercase);
    let common = frontier::common_kl(run);
    let with_difference = || matched.iter().filter_map(|m| Some((m, m.difference?)));
    let nearest = |test: &dyn Fn(&Estimate) -> bool| {
        let tested = with_difference().filter(|(_, difference)| test(difference));
        tested.min_by(|(x, _), (y, _)| x.distance(common).total_cmp(&y.distance(common)))
    };
    let kls = |test: &dyn Fn(&Estimate) -> bool| -> Vec<String> {
        with_difference().filter(|(_, difference)| test(difference)).map(|(m, _)| m.kl.to_string()).collect()
    };
    // the difference is the second arm minus the first
    let first_ahead = |d: &Estimate| d.excludes_zero() == Some(true) && d.mean < 0.0;
    let second_ahead = |d: &Estimate| d.excludes_zero() == Some(true) && d.mean > 0.0;
    let undecided = |d: &Estimate| d.excludes_zero() == Some(false);
    let lead = |(m, d): (&Matched, Estimate)| {
        let (ahead, behind) = if d.mean < 0.0 { (&a, &b) } else { (&b, &a) };
        let size = Estimate { mean: d.mean.abs(), ..d };
        format!("{ahead} earns more than {behind} by {size:.2} {} at KL {} ({})", m.unit(), m.kl, seeds(d.n))
    };
    match (nearest(&first_ahead), nearest(&second_ahead)) {
        (Some(_), Some(_)) => format!(
            "Which arm earns more gold reward depends on the KL: {a} at KL {}, {b} at KL {}",
            and_list(&kls(&first_ahead)),
            and_list(&kls(&second_ahead))
        ),
        (Some(found), None) | (None, Some(found)) => {
            let open = kls(&undecided);
            let rest = match open.is_empty() {
                true => String::new(),
                false => format!(", with no detectable difference at KL {}", and_list(&open)),
            };
            format!("At equal KL, {}{rest}", lead(found))
        }
        (None, None) => match (nearest(&undecided), nearest(&|_| true)) {
            (Some((m, d)), _) => format!(
                "At equal KL, no difference in gold reward between {a} and {b} is detectable: {b} minus {a} is {d:.2} {} at KL {} ({})",
                m.unit(),
                m.kl,
                seeds(d.n)
            ),
            (None, Some(found)) => format!("At equal KL, {}, which says little without more seeds", lead(found)),
            (None, None) => {
                let kls: Vec<String> = frontier::matched_kls(run).iter().map(ToString::to_string).collect();
                format!(
                    "{a} and {b} do not both go as far from the reference as arms are compared, {} nats, so this run does not rank them",
                    and_list(&kls).replace(" and ", " or ")
                )
            }
        },
    }
}

fn of_several(run: &Run, arms: usize, matched: &[Matched]) -> String {
    let common = frontier::common_kl(run);
    let Some(m) = matched.iter().min_by(|x, y| x.distance(common).total_cmp(&y.distance(common))) else {
        return "No two arms go as far from the reference as arms are compared, so this run does not rank them.".into();
    };
    let value = |arm: &ArmAtKl| arm.eta.unwrap_or(arm.gain);
    let mut ranked: Vec<&ArmAtKl> = m.arms.iter().flatten().collect();
    ranked.sort_by(|x, y| value(y).mean.total_cmp(&value(x).mean));
    let described = |arm: &ArmAtKl| format!("{} with {:.2}", arm.arm.to_uppercase(), value(arm));
    let [first, second, ..] = &ranked[..] else { return String::new() };
    let is_level = |arm: &&&ArmAtKl| {
        Estimate::of_differences(&first.values, &arm.values).and_then(|less| less.excludes_zero()) == Some(false)
    };
    let level: Vec<String> = ranked[1..].iter().filter(is_level).map(|arm| arm.arm.to_uppercase()).collect();
    let others = match &level[..] {
        [] => format!("ahead of {}", described(second)),
        level => format!("with no detectable difference from {}", and_list(level)),
    };
    format!(
        "Of {arms} arms at KL {}, {} {} earns the most gold reward, {others} ({}).",
        m.kl,
        described(first),
        m.unit(),
        seeds(value(first).n)
    )
}

/// How many times the FLOPs of the cheaper of two arms the other takes.
fn cost(run: &Run) -> Option<String> {
    let costs = costs::arm_costs(run);
    let [cheap, expensive] = costs::by_flops(&costs)?;
    let times = expensive.flops / cheap.flops;
    (times >= 1.05).then(|| {
        format!(
            "a training of {} takes {} times the FLOPs of one of {}",
            expensive.arm.to_uppercase(),
            fixed(times, if times < 10.0 { 1 } else { 0 }),
            cheap.arm.to_uppercase()
        )
    })
}

fn seeds(n: usize) -> String {
    format!("{n} seed{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_spec::Clocks;

    /// The finding of a run whose arms end at `(KL, gold)` for each seed, with these FLOPs; the reference is at KL 0 and gold 1, and
    /// the optimum at KL 1 and gold 5.
    fn of(arms: &[&str], seeds: u64, flops: &[f64], ends: impl Fn(u64) -> Vec<(f64, f64)>) -> String {
        of_curves(arms, seeds, flops, |seed| ends(seed).into_iter().map(|end| vec![end]).collect())
    }

    /// The same of arms that go through several `(KL, gold)`.
    fn of_curves(arms: &[&str], seeds: u64, flops: &[f64], curves: impl Fn(u64) -> Vec<Vec<(f64, f64)>>) -> String {
        let blocks: String = arms.iter().map(|arm| format!("[arms.{arm}]\nmethod = 'dpo'\n")).collect();
        let mut run = HandMadeRun::new(&format!("name = 'ends'\nseeds = {seeds}\n{blocks}"));
        let label = run.run().cells[0].point.label.clone();
        let at = |step: u64, flops: f64| Clocks { step, flops, ..Clocks::default() };
        for seed in 0..seeds {
            let golds = |kl: f64, gold: f64| [(metrics::KL, kl), (metrics::GOLD, gold), (metrics::WIN_RATE, 0.75)];
            run.evaluation("reference", "sft", seed, at(0, 0.0), &golds(0.0, 1.0));
            run.evaluation("reference", "sft", seed, at(0, 0.0), &[(metrics::GOLD_SD, 2.0)]);
            run.evaluation("optimum", "1", seed, at(0, 0.0), &golds(1.0, 5.0));
            for ((arm, &flops), curve) in arms.iter().zip(flops).zip(curves(seed)) {
                for (step, (kl, gold)) in (1..).zip(curve) {
                    run.evaluation(arm, &label, seed, at(step, flops), &golds(kl, gold));
                }
            }
        }
        finding(&run.finish()).expect("an arm")
    }

    /// At KL 1 the shares of the optimum's gain are half and three quarters, with a little noise.
    #[test]
    fn of_two_arms_the_one_ahead_is_named_with_its_lead_and_the_cost() {
        let ends = |seed: u64| vec![(1.0, 3.0), (1.0, 4.0 + 0.04 * seed as f64)];
        assert_eq!(
            of(&["dpo", "ppo"], 3, &[1e9, 6e9], ends),
            "At equal KL, PPO earns more than DPO by 0.26 ± 0.02 of the optimum's gain at KL 1 (3 seeds); a training of PPO takes 6.0 times the FLOPs of one of DPO. A first look: a verdict takes 5 seeds or more."
        );
        assert!(
            of(&["b", "c"], 3, &[6e9, 1e9], |seed| ends(seed).into_iter().rev().collect())
                .starts_with("At equal KL, B earns more than C")
        );
    }

    #[test]
    fn what_an_interval_does_not_tell_is_no_finding() {
        let apart = |seed: u64| vec![(1.0, 3.0), (1.0, if seed == 0 { 4.0 } else { 2.4 })];
        let expected = "At equal KL, no difference in gold reward between DPO and PPO is detectable: PPO minus DPO is 0.05 ± 2.54 of the \
                        optimum's gain at KL 1 (2 seeds). A first look: a verdict takes 5 seeds or more.";
        assert_eq!(of(&["dpo", "ppo"], 2, &[1.0, 1.0], apart), expected);
        let one = of(&["dpo", "ppo"], 1, &[1.0, 1.0], |_| vec![(1.0, 3.0), (1.0, 4.0)]);
        assert_eq!(
            one,
            "At equal KL, PPO earns more than DPO by 0.25 of the optimum's gain at KL 1 (1 seed), which says little without more seeds. A first look: a verdict takes 5 seeds or more."
        );
        let none = of(&["dpo", "ppo"], 2, &[1.0, 1.0], |_| vec![(0.1, 3.0), (1.0, 4.0)]);
        assert_eq!(
            none,
            "DPO and PPO do not both go as far from the reference as arms are compared, 0.25, 0.5, 1 or 2 nats, so this run does not rank them. A first look: a verdict takes 5 seeds or more."
        );
    }

    /// One frontier rises early and then hardly any more, the other is a line: they cross between .5 and 1.
    #[test]
    fn arms_that_change_places_are_named_with_their_kl() {
        let curves = |seed: u64| {
            let noise = 0.001 * seed as f64;
            vec![vec![(0.25, 3.0 + noise), (1.0, 3.2 + noise)], vec![(1.0, 5.0 + 2.0 * noise)]]
        };
        assert_eq!(
            of_curves(&["dpo", "ppo"], 3, &[1.0, 1.0], curves),
            "Which arm earns more gold reward depends on the KL: DPO at KL 0.25 and 0.5, PPO at KL 1. A first look: a verdict takes 5 seeds or more."
        );
    }

    /// Nothing is read beyond the end of a frontier.
    #[test]
    fn arms_are_compared_as_far_as_both_go() {
        let found = of(&["dpo", "ppo"], 3, &[1.0, 1.0], |seed| {
            let noise = 0.001 * seed as f64;
            vec![(0.25, 3.0 + noise), (2.0, 5.0 + 2.0 * noise)]
        });
        assert!(found.starts_with("At equal KL, DPO earns more than PPO"), "{found}");
    }

    #[test]
    fn one_arm_is_compared_with_its_reference_and_several_are_ranked() {
        let alone = of(&["dpo"], 2, &[1.0], |_| vec![(1.0, 3.0)]);
        assert_eq!(
            alone,
            "DPO earns 2.00 more gold reward than its reference at KL 1.0, and wins 75% of comparisons with it (2 seeds). A first look: a verdict takes 5 seeds or more."
        );
        let unmoved = of(&["dpo"], 2, &[1.0], |_| vec![(1e-5, 3.0)]);
        assert!(unmoved.starts_with("DPO has hardly moved from its reference: KL 1e-5 nats (2 seeds)."), "{unmoved}");
        let three = of(&["a", "b", "c"], 2, &[1.0; 3], |_| vec![(1.0, 3.0), (1.0, 4.0), (1.0, 2.0)]);
        assert_eq!(
            three,
            "Of 3 arms at KL 1, B with 0.75 of the optimum's gain earns the most gold reward, ahead of A with 0.50 (2 seeds). A first look: a verdict takes 5 seeds or more."
        );
        // a and b change places from seed to seed
        let level = of(&["a", "b", "c"], 4, &[1.0; 3], |seed| {
            let sign = if seed % 2 == 0 { 0.1 } else { -0.1 };
            vec![(1.0, 4.0 + sign), (1.0, 4.01 - sign), (1.0, 2.0 + sign)]
        });
        assert!(
            level.contains(" earns the most gold reward, with no detectable difference from A (4 seeds)"),
            "{level}"
        );
    }
}
