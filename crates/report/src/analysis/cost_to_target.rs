//! What it costs to get so far: the price of a first training that reaches a target (docs/verdicts.md, Cost to a target).

use crate::analysis::costs::upstream_cost;
use crate::analysis::frontier::{SplitAccessor, target};
use crate::analysis::points::{EvalPoint, MeasuredPoint};
use crate::analysis::run::Run;
use duel_spec::Clocks;
use duel_spec::metrics::GOLD;

/// Where a clock stands when a training first earns the target's gold, what must come before it included, on a straight line
/// between two looks; infinite where it never does.
fn first_crossing(
    run: &Run,
    point: &MeasuredPoint,
    seed: u64,
    target: f64,
    side: SplitAccessor,
    clock: fn(Clocks) -> f64,
) -> f64 {
    let first = upstream_cost(run, point).get(&seed).copied().unwrap_or_default();
    let start = run.reference_at(seed).and_then(|mark| side(mark, GOLD)).unwrap_or(f64::NAN);
    let mut last = (clock(Clocks::default()), start);
    for mark in point.seeds.get(&seed).into_iter().flatten() {
        let Some(gold) = side(mark, GOLD) else { continue };
        let now = (clock(mark.clocks), gold);
        if gold >= target {
            let share = if gold > last.1 { ((target - last.1) / (gold - last.1)).clamp(0.0, 1.0) } else { 1.0 };
            return clock(first) + last.0 + share * (now.0 - last.0);
        }
        last = now;
    }
    f64::INFINITY
}

/// What an arm must spend at one seed to reach half of the exact optimum's gain at a KL, or one standard deviation of gold: of the
/// point that gets there first on validation prompts, the price at which it does so on test prompts; infinite where none does.
pub(crate) fn cost_to_target(run: &Run, arm: &str, seed: u64, kl: f64, clock: fn(Clocks) -> f64) -> Option<f64> {
    let (aim, judged) = (target(run, seed, kl, EvalPoint::validation)?, target(run, seed, kl, EvalPoint::test)?);
    let on_validation = |point: &MeasuredPoint| first_crossing(run, point, seed, aim, EvalPoint::validation, clock);
    let ran = run.points_of(arm).filter(|point| point.seeds.contains_key(&seed));
    let cheapest = ran.min_by(|a, b| on_validation(a).total_cmp(&on_validation(b)))?;
    if on_validation(cheapest).is_infinite() {
        return Some(f64::INFINITY);
    }
    Some(first_crossing(run, cheapest, seed, judged, EvalPoint::test, clock))
}
