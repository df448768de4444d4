//! The cost of trainings, and their evaluations over any of the clocks.

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
        Some(method) if method.reward_source() == Some(RewardSource::Rm) => run.shared_clocks("rm"),
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
pub(crate) fn arm_costs(run: &Run) -> Vec<ArmCost> {
    run.arms()
        .into_iter()
        .filter_map(|arm| {
            let points: Vec<&MeasuredPoint> = run.points_of(arm).collect();
            let over =
                |f: &dyn Fn(&MeasuredPoint) -> Vec<f64>| mean(&points.iter().flat_map(|p| f(p)).collect::<Vec<_>>());
            let ends = |f: Clock| over(&|p| p.finished().map(|(_, m)| f(m.clocks)).collect());
            let before: Vec<Clocks> = upstream_cost(run, points.first()?).into_values().collect();
            let spent = |f: fn(&Clocks) -> f64| {
                if before.is_empty() { 0.0 } else { mean(&before.iter().map(f).collect::<Vec<_>>()) }
            };
            let (flops_before, seconds_before) = (spent(|c| c.flops), spent(|c| c.wall_seconds));
            Some(ArmCost {
                arm: arm.into(),
                models: over(&|p| run.last_training_values(p, metrics::MODELS_RESIDENT)),
                sampled: over(&|p| run.last_training_values(p, metrics::SAMPLED_TOKENS)),
                flops: ends(|c| c.flops) + flops_before,
                seconds: ends(|c| c.wall_seconds) + seconds_before,
                flops_before,
                seconds_before,
            })
        })
        .collect()
}
