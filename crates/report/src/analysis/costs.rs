//! The cost of trainings, and their evaluations over any of the clocks.

use crate::analysis::merged_parts::seeds_within_parts;
use crate::analysis::points::{EvalPoint, MeasuredPoint};
use crate::analysis::run::Run;
use crate::analysis::stats::{Estimate, mean};
use duel_spec::metrics;
use duel_spec::{Clocks, RewardSource};
use std::collections::BTreeMap;

/// One of the clocks of a row.
pub(crate) type Clock = fn(Clocks) -> f64;

/// The threads that a training's seconds were measured with.
pub(crate) fn threads_label(run: &Run) -> &'static str {
    if run.experiment.is_pretrained() { "all cores" } else { "one thread" }
}

/// Clocks spent before a point's own training: on the reward model for methods that maximize it, on the cached reference
/// log-probs for methods that learn from pairs.
pub(crate) fn upstream_cost(run: &Run, point: &MeasuredPoint) -> BTreeMap<u64, Clocks> {
    match run.method_of(point) {
        Some(method) if method.maximizes(RewardSource::Rm) => run.shared_clocks("rm"),
        Some(method) if method.reads_reference_logp() => run.shared_clocks("reference"),
        _ => BTreeMap::new(),
    }
}

/// The k-th evaluations of all seeds: mean clock, and a metric's mean with its interval; `before` is added to each seed's clock,
/// except for steps, since steps of different stages do not add up.
pub(crate) fn eval_curve(
    point: &MeasuredPoint,
    before: &BTreeMap<u64, Clocks>,
    clock: Clock,
    metric: impl Fn(&EvalPoint) -> Option<f64>,
) -> Vec<(f64, Estimate)> {
    let length = point.seeds.values().map(Vec::len).min().unwrap_or(0);
    (0..length)
        .filter_map(|k| {
            let point_at = |seed: &u64, evaluations: &Vec<EvalPoint>| {
                let spent = before.get(seed).map_or(0.0, |c| clock(Clocks { step: 0, ..*c }));
                Some((clock(evaluations[k].clocks) + spent, metric(&evaluations[k])?))
            };
            let curve_points: Vec<(f64, f64)> =
                point.seeds.iter().filter_map(|(seed, evaluations)| point_at(seed, evaluations)).collect();
            let (xs, ys): (Vec<f64>, Vec<f64>) = curve_points.into_iter().unzip();
            Some((mean(&xs), Estimate::of(&ys)?))
        })
        .collect()
}

/// The cost of training one cell of an arm, mean over points and seeds.
#[derive(Debug, Clone)]
pub(crate) struct ArmCost {
    pub(crate) arm: String,
    pub(crate) models: f64,
    pub(crate) sampled: f64,
    pub(crate) flops: f64,
    pub(crate) seconds: f64,
    /// Of those, before the method's own training: reward model or reference log-probs.
    pub(crate) flops_before: f64,
    pub(crate) seconds_before: f64,
}

/// Costs of each arm; the reward model counts as PPO's, once per cell, as a single training would pay it.
/// Seconds are of the seeds at which they can be compared: not a number if there are none.
pub(crate) fn arm_costs(run: &Run) -> Vec<ArmCost> {
    let within = seeds_within_parts(run, &run.arms());
    run.arms()
        .into_iter()
        .filter_map(|arm| {
            let points: Vec<&MeasuredPoint> = run.points_of(arm).collect();
            let over =
                |f: &dyn Fn(&MeasuredPoint) -> Vec<f64>| mean(&points.iter().flat_map(|p| f(p)).collect::<Vec<_>>());
            let flops = over(&|p| p.finished().map(|(_, m)| m.clocks.flops).collect());
            let is_within = |(seed, _): &(u64, &EvalPoint)| within.contains(seed);
            let seconds = over(&|p| p.finished().filter(is_within).map(|(_, m)| m.clocks.wall_seconds).collect());
            let before = upstream_cost(run, points.first()?);
            let spent = |values: Vec<f64>| if before.is_empty() { 0.0 } else { mean(&values) };
            let flops_before = spent(before.values().map(|c| c.flops).collect());
            let comparable = before.iter().filter(|(seed, _)| within.contains(seed));
            let seconds_before = spent(comparable.map(|(_, c)| c.wall_seconds).collect());
            Some(ArmCost {
                arm: arm.into(),
                models: over(&|p| run.last_training_values(p, metrics::MODELS_RESIDENT)),
                sampled: over(&|p| run.last_training_values(p, metrics::SAMPLED_TOKENS)),
                flops: flops + flops_before,
                seconds: seconds + seconds_before,
                flops_before,
                seconds_before,
            })
        })
        .collect()
}

/// Of two arms the one with fewer FLOPs, and the other; `None` where the first has none at all.
pub(crate) fn by_flops(costs: &[ArmCost]) -> Option<[&ArmCost; 2]> {
    let [a, b] = costs else { return None };
    let [cheap, expensive] = if a.flops <= b.flops { [a, b] } else { [b, a] };
    (cheap.flops > 0.0).then_some([cheap, expensive])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_spec::{NO_POINT, SHARED_ARM};

    const EXPERIMENT: &str = "
        name = 'costs'
        seeds = 2
        [arms.ppo]
        method = 'ppo'
        reward = 'rm'
        grid.beta = [0.1, 0.2]
        [arms.dpo]
        method = 'dpo'
        [arms.simpo]
        method = 'dpo'
        loss = 'simpo'
        [arms.untrained]
        method = 'dpo'
    ";

    /// By hand: two seeds, 8 FLOPs per second everywhere; SFT counts for no arm.
    #[test]
    fn an_arm_pays_for_the_stages_that_it_needs() {
        let mut run = HandMadeRun::new(EXPERIMENT);
        let clocks = |flops: f64| Clocks { step: 1, tokens: 1, flops, wall_seconds: flops / 8.0 };
        for seed in [0, 1] {
            for (stage, flops) in [("sft", 900.0), ("rm", 100.0), ("reference", 20.0)] {
                let flops = flops * (seed + 1) as f64;
                run.row([SHARED_ARM, NO_POINT, stage], seed, clocks(flops), metrics::LOSS, 0.0);
            }
        }
        for cell in run.run().cells.clone().into_iter().filter(|cell| cell.arm != "untrained") {
            let (arm, label) = (cell.arm.as_str(), cell.point.label.as_str());
            let flops = 8.0 + cell.seed as f64 + if label == "beta=0.2" { 4.0 } else { 0.0 };
            run.evaluation(arm, label, cell.seed, clocks(flops / 2.0), &[(metrics::KL, 0.5)]);
            run.evaluation(arm, label, cell.seed, Clocks { step: 2, ..clocks(flops) }, &[(metrics::KL, 1.0)]);
            for (metric, value) in [(metrics::MODELS_RESIDENT, 4.0), (metrics::SAMPLED_TOKENS, 30.0 * flops)] {
                run.row([arm, label, "train"], cell.seed, clocks(flops), metric, value);
            }
        }
        let run = run.finish();
        let costs: Vec<(String, [f64; 6])> = arm_costs(&run)
            .into_iter()
            .map(|c| (c.arm, [c.models, c.sampled, c.flops, c.seconds, c.flops_before, c.seconds_before]))
            .collect();
        assert_eq!(
            costs,
            [
                ("dpo".to_string(), [4.0, 255.0, 38.5, 4.8125, 30.0, 3.75]),
                ("ppo".to_string(), [4.0, 315.0, 160.5, 20.0625, 150.0, 18.75]),
                ("simpo".to_string(), [4.0, 255.0, 8.5, 1.0625, 0.0, 0.0]),
            ]
        );
    }

    #[test]
    fn seconds_are_of_one_thread_unless_the_model_is_pretrained() {
        let mut run = HandMadeRun::new(EXPERIMENT);
        assert_eq!(threads_label(run.run()), "one thread");
        run.run().experiment.model.from = "smollm".into();
        assert_eq!(threads_label(run.run()), "all cores");
    }
}
