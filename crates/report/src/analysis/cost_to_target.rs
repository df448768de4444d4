//! The cost of the cheapest training that reaches a target (docs/verdicts.md, Cost to a target).

use crate::analysis::costs::upstream_cost;
use crate::analysis::frontier::{SplitAccessor, target};
use crate::analysis::points::{EvalPoint, MeasuredPoint};
use crate::analysis::run::Run;
use duel_spec::Clocks;
use duel_spec::metrics::GOLD;

/// The value of a clock at which a training first reaches the target's gold, with the stages before it, interpolated linearly
/// between two evaluations; infinite where it never does.
fn first_crossing(
    run: &Run,
    point: &MeasuredPoint,
    seed: u64,
    target: f64,
    split: SplitAccessor,
    clock: fn(Clocks) -> f64,
) -> f64 {
    let upstream = upstream_cost(run, point).get(&seed).copied().unwrap_or_default();
    let start = run.reference_at(seed).and_then(|evaluation| split(evaluation, GOLD)).unwrap_or(f64::NAN);
    let mut previous = (clock(Clocks::default()), start);
    for evaluation in point.seeds.get(&seed).into_iter().flatten() {
        let Some(gold) = split(evaluation, GOLD) else { continue };
        let current = (clock(evaluation.clocks), gold);
        if gold >= target {
            // the reference may be there already
            let share = if previous.1 >= target { 0.0 } else { (target - previous.1) / (gold - previous.1) };
            return clock(upstream) + previous.0 + share * (current.0 - previous.0);
        }
        previous = current;
    }
    f64::INFINITY
}

/// What an arm must spend at one seed to reach half of the exact optimum's gain at a KL, or one standard deviation of gold: the cost on
/// test prompts of the point that is cheapest on validation prompts; infinite where none reaches it.
pub(crate) fn cost_to_target(run: &Run, arm: &str, seed: u64, kl: f64, clock: fn(Clocks) -> f64) -> Option<f64> {
    let (validation_target, test_target) =
        (target(run, seed, kl, EvalPoint::validation)?, target(run, seed, kl, EvalPoint::test)?);
    let on_validation =
        |point: &MeasuredPoint| first_crossing(run, point, seed, validation_target, EvalPoint::validation, clock);
    let trained = run.points_of(arm).filter(|point| point.seeds.contains_key(&seed));
    let cheapest = trained.min_by(|a, b| on_validation(a).total_cmp(&on_validation(b)))?;
    if on_validation(cheapest).is_infinite() {
        return Some(f64::INFINITY);
    }
    Some(first_crossing(run, cheapest, seed, test_target, EvalPoint::test, clock))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_spec::metrics::{GOLD_SD, KL};

    /// A target that the reference has reached, because its gold does not vary, costs nothing.
    #[test]
    fn a_target_that_the_reference_has_reached_costs_nothing() {
        for gold in [1.0, 2.0] {
            let mut run = HandMadeRun::new("name = 'free'\nseeds = 1\n[arms.a]\nmethod = 'dpo'");
            run.evaluation("reference", "sft", 0, Clocks::default(), &[(KL, 0.0), (GOLD, 1.0), (GOLD_SD, 0.0)]);
            run.evaluation("optimum", "1", 0, Clocks::default(), &[(KL, 1.0), (GOLD, 1.0)]);
            let label = run.run().cells[0].point.label.clone();
            run.evaluation("a", &label, 0, Clocks { step: 1, flops: 8.0, ..Clocks::default() }, &[(GOLD, gold)]);
            assert_eq!(cost_to_target(&run.finish(), "a", 0, 1.0, |clocks| clocks.flops), Some(0.0), "{gold}");
        }
    }

    /// Where every response of the reference earns the same, a standard deviation more than that is no target.
    #[test]
    fn without_an_optimum_and_without_a_spread_there_is_no_target() {
        for (sd, expected) in [(0.0, None), (0.5, Some(4.0))] {
            let mut run = HandMadeRun::new("name = 'none'\nseeds = 1\n[arms.a]\nmethod = 'dpo'");
            run.evaluation("reference", "sft", 0, Clocks::default(), &[(GOLD, 1.0), (GOLD_SD, sd)]);
            let label = run.run().cells[0].point.label.clone();
            run.evaluation("a", &label, 0, Clocks { step: 1, flops: 8.0, ..Clocks::default() }, &[(GOLD, 2.0)]);
            assert_eq!(cost_to_target(&run.finish(), "a", 0, 1.0, |clocks| clocks.flops), expected, "{sd}");
        }
    }
}
