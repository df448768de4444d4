//! Curves, costs and charts against their definitions.

use super::definitions::{NaiveReport, PolicyKey, assert_same, average};
use super::simulation::{ARMS, TEST, simulated};
use crate::analysis::costs::{arm_costs, eval_curve, upstream_cost};
use crate::analysis::points::EvalPoint;
use crate::analysis::tuning::TuningResults;
use crate::charts::catalog::all_figures;
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::output::AnyChart;
use duel_spec::Clocks;
use duel_spec::metrics::{self, Metric};

/// Curves: the k-th evaluation of every seed, each seed's clock with the stages before it; costs: those of the last evaluation.
#[test]
fn curves_and_costs_include_the_stages_before_them() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport::new(&simulated));
    let seeds = run.experiment.seed_list();
    /// As the charts read it, as the naive program does, and whether the stages before an arm add to it.
    type Clock = (fn(Clocks) -> f64, fn(&Clocks) -> f64, f64);
    let clocks: [Clock; 4] = [
        (|c| c.step as f64, |c| c.step as f64, 0.0), // steps of different stages do not add up
        (|c| c.tokens as f64, |c| c.tokens as f64, 1.0),
        (|c| c.flops, |c| c.flops, 1.0),
        (|c| c.wall_seconds, |c| c.wall_seconds, 1.0),
    ];
    for (point, (clock, naive_clock, counts)) in
        run.points_of("p").chain(run.points_of("d")).flat_map(|p| clocks.map(|c| (p, c)))
    {
        let curve = eval_curve(point, &upstream_cost(run, point), clock, |m: &EvalPoint| m.test(metrics::GOLD));
        let shortest = seeds.iter().map(|&s| naive.training(&point.arm, &point.label, s).len()).min().expect("seeds");
        assert_eq!((curve.len(), shortest), (4, 4));
        for (k, (x, y)) in curve.iter().enumerate() {
            let policy = |seed: u64| naive.training(&point.arm, &point.label, seed)[k].clone();
            let expected = seeds
                .iter()
                .map(|&s| naive.clock(&policy(s), naive_clock) + counts * naive.before(&point.arm, s, naive_clock))
                .collect();
            let golds = seeds.iter().map(|&s| naive.value(&policy(s), TEST, metrics::GOLD).expect("gold")).collect();
            assert_same("look", &[*x, y.mean], &[average(expected), average(golds)]);
        }
    }
    for cost in arm_costs(run) {
        let over = |value: &dyn Fn(u64) -> Vec<f64>| average(seeds.iter().flat_map(|&seed| value(seed)).collect());
        let ends = |clock: fn(&Clocks) -> f64| {
            over(&|seed| naive.finished(&cost.arm, seed).iter().map(|p| naive.clock(p, clock)).collect())
        };
        let before = |clock: fn(&Clocks) -> f64| over(&|seed| vec![naive.before(&cost.arm, seed, clock)]);
        let logged = |metric| over(&|seed| vec![naive.logged(&cost.arm, seed, "train", metric, true)]);
        let actual = [cost.models, cost.sampled, cost.flops_before, cost.seconds_before, cost.flops, cost.seconds];
        let [flops, seconds] = [before(|c| c.flops), before(|c| c.wall_seconds)];
        let expected = [
            logged(metrics::MODELS_RESIDENT),
            logged(metrics::SAMPLED_TOKENS),
            flops,
            seconds,
            flops + ends(|c| c.flops),
            seconds + ends(|c| c.wall_seconds),
        ];
        assert_same(&cost.arm, &actual, &expected);
    }
}

/// The charts: finished policies on test prompts, means over seeds; lines of the featured points, which are chosen on validation.
#[test]
fn charts_show_finished_policies_on_test_prompts() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport::new(&simulated));
    let (seeds, kl) = (run.experiment.seed_list(), 1.0); // the largest preset that most seeds of both arms reach
    let all = all_figures(run, &TuningResults::of(run));
    let plot = |name: &str| match all.iter().find(|chart| chart.name == name).map(|chart| &chart.chart) {
        Some(AnyChart::Plot(plot)) => plot,
        other => panic!("{name}: {other:?}"),
    };
    let rings = |name: &str, arm: &str| {
        let is_arm =
            |s: &&Series| matches!(s.style, MarkStyle::Rings { .. }) && s.description.starts_with(&arm.to_uppercase());
        plot(name).series.iter().find(is_arm).map(|s| s.data.clone()).expect("rings")
    };
    let flat = |points: Vec<(f64, f64)>| points.into_iter().flat_map(|(x, y)| [x, y]).collect::<Vec<f64>>();
    let mean_finished = |arm: &str, point: &str, metric: Metric| {
        let value = |&seed: &u64| {
            naive.finished(arm, seed).into_iter().find(|p| p.1 == point).and_then(|p| naive.value(&p, TEST, metric))
        };
        average(seeds.iter().filter_map(value).collect())
    };
    for arm in ARMS {
        for (chart, metric) in [("frontier", metrics::GOLD), ("length", metrics::LENGTH)] {
            let points = naive.points(arm, seeds[0]).into_iter();
            let mut expected: Vec<(f64, f64)> =
                points.map(|p| (mean_finished(arm, &p, metrics::KL), mean_finished(arm, &p, metric))).collect();
            expected.sort_by(|a, b| a.0.total_cmp(&b.0));
            assert_same(chart, &flat(rings(chart, arm)), &flat(expected));
        }
        // chosen responses' log-ratios along the featured training
        let point = run.featured(arm).expect("an arm").label.clone();
        let name = format!("{} chosen", arm.to_uppercase());
        let line = &plot("displacement").series.iter().find(|s| s.name == name).expect("a line").data;
        let policy = |k: usize, seed: u64| naive.training(arm, &point, seed)[k].clone();
        let mean_of = |k: usize, value: &dyn Fn(&PolicyKey) -> Option<f64>| {
            average(seeds.iter().filter_map(|&seed| value(&policy(k, seed))).collect())
        };
        let point_at = |k: usize| {
            (
                mean_of(k, &|p| Some(naive.clock(p, |c| c.step as f64))),
                mean_of(k, &|p| naive.value(p, TEST, metrics::LOG_RATIO_CHOSEN)),
            )
        };
        assert_same(
            "displacement",
            &flat(line.clone()),
            &flat([vec![(0.0, 0.0)], (0..4).map(point_at).collect()].concat()),
        );
        // the gain by seed at the common KL, and the cost of every seed that reaches the target
        let dots = |name: &str| {
            let is_arm = |s: &&Series| s.description == format!("{}, one seed", arm.to_uppercase());
            plot(name).series.iter().find(is_arm).expect("dots").data.iter().map(|p| p.0).collect::<Vec<f64>>()
        };
        let gains: Vec<f64> = seeds.iter().filter_map(|&seed| Some(naive.gain(arm, seed, kl)?.1)).collect();
        assert_same("stability", &dots("stability"), &gains);
        let costs = seeds.iter().map(|&seed| naive.cost_to_target(arm, seed, run.experiment.tuning.kl, |c| c.flops));
        assert_same("reach", &dots("reach-flops"), &costs.filter(|x| x.is_finite()).collect::<Vec<_>>());
    }
    let Some(AnyChart::Heatmap(wins)) = all.iter().find(|chart| chart.name == "win-rates").map(|chart| &chart.chart)
    else {
        panic!("no matrix")
    };
    let rates: Vec<f64> =
        seeds.iter().filter_map(|&seed| naive.win_rate(seed, kl, false)).map(|rate| rate + 0.5).collect();
    assert_same("wins of p against d", &[wins.shares[1][0].expect("known")], &[average(rates)]);
}
