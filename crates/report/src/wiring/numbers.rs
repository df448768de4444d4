//! Effects, frontiers, costs to targets, choices and edges against their definitions.

use super::definitions::{NaiveReport, assert_same, average};
use super::simulation::{ARMS, KLS, TEST, VALIDATION, simulated};
use crate::analysis::cost_to_target::cost_to_target;
use crate::analysis::effects::{PairedSample, RunArm, checkpoint_merit, has_diverged, sample};
use crate::analysis::frontier::{self, at_equal_kl, gain_at, metric_at};
use crate::analysis::over_optimization::over_optimization;
use crate::analysis::run::Run;
use crate::analysis::sensitivity;
use crate::analysis::tuning::TuningResults;
use crate::page::{tables, text_table};
use duel_spec::metrics::{self, Metric};
use duel_spec::{Cell, ClaimMetric, SelectionMetric};

const CLAIMS: [ClaimMetric; 17] = [
    ClaimMetric::Gain,
    ClaimMetric::WinRate,
    ClaimMetric::WinRateAtLength,
    ClaimMetric::Length,
    ClaimMetric::Peak,
    ClaimMetric::Drop,
    ClaimMetric::Displacement,
    ClaimMetric::Ordered,
    ClaimMetric::Flops,
    ClaimMetric::Seconds,
    ClaimMetric::Memory,
    ClaimMetric::Models,
    ClaimMetric::TrainingBytes,
    ClaimMetric::Sampled,
    ClaimMetric::Step,
    ClaimMetric::SpreadOfPoints,
    ClaimMetric::Diverged,
];

fn effects(run: &Run, metric: ClaimMetric, kl: f64) -> Vec<f64> {
    let [p, d] = ["p", "d"].map(|name| RunArm { run, name });
    match sample(metric, kl, p, Some(d)) {
        PairedSample::Mean(x) | PairedSample::Median(x) | PairedSample::Counted(x) => x,
        PairedSample::Spread(pairs) => pairs.into_iter().map(|(a, b)| a - b).collect(),
    }
}

#[test]
fn effects_are_those_of_their_definitions() {
    let simulated = simulated();
    let naive = NaiveReport::new(&simulated);
    let mut count = 0;
    for metric in CLAIMS.into_iter().chain([ClaimMetric::Spread]) {
        for kl in KLS.into_iter().filter(|kl| metric.is_at_kl() || *kl == 1.0) {
            let expected = naive.effects(metric, kl);
            assert_same(&format!("{metric:?} at {kl}"), &effects(&simulated.run, metric, kl), &expected);
            count += expected.len();
        }
    }
    assert!(count > 150, "{count} numbers");
}

/// The scale of a merit cancels from the spread of points of one run, but not between two runs: each merit by itself.
#[test]
fn merits_of_points_are_those_of_test_prompts() {
    let simulated = simulated();
    let naive = NaiveReport::new(&simulated);
    let mut count = 0;
    for arm in ["p", "d"] {
        for point in simulated.run.points_of(arm) {
            for &seed in point.seeds.keys() {
                let merit = checkpoint_merit(&simulated.run, point, seed).expect("a merit");
                assert_same("merit", &[merit], &[naive.point_merit(arm, &point.label, seed)]);
                count += 1;
            }
        }
    }
    assert!(count > 10, "{count} points");
}

/// The run detects an exchange: choosing on the other split, or reading on it, gives other numbers.
#[test]
fn the_simulated_run_distinguishes_validation_from_test() {
    let simulated = simulated();
    let correct = NaiveReport::new(&simulated);
    for (choose_on, read_on) in [(TEST, VALIDATION), (TEST, TEST), (VALIDATION, VALIDATION)] {
        let exchanged = NaiveReport { simulated: &simulated, choose_on, read_on };
        for metric in [
            ClaimMetric::Gain,
            ClaimMetric::WinRate,
            ClaimMetric::Length,
            ClaimMetric::Peak,
            ClaimMetric::Drop,
            ClaimMetric::Flops,
        ] {
            assert_ne!(
                correct.effects(metric, 1.0),
                exchanged.effects(metric, 1.0),
                "{metric:?} {choose_on} {read_on}"
            );
        }
    }
}

#[test]
fn frontiers_and_arms_at_equal_kl_are_those_of_their_definitions() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport::new(&simulated));
    let seeds = run.experiment.seed_list();
    for arm in ARMS {
        for (kl, &seed) in KLS.iter().flat_map(|kl| seeds.iter().map(move |seed| (*kl, seed))) {
            let pair = gain_at(run, arm, seed, kl).map(|(gain, share)| [gain, share.expect("the optimum is known")]);
            let expected = naive.gain(arm, seed, kl).map(|(gain, share)| [gain, share]);
            assert_same(
                &format!("gain of {arm}, seed {seed}, at {kl}"),
                pair.as_ref().map_or(&[], |x| &x[..]),
                expected.as_ref().map_or(&[], |x| &x[..]),
            );
            let length = metric_at(run, arm, seed, kl, metrics::LENGTH);
            let expected = naive.at(&naive.frontier(arm, seed, false), TEST, kl, metrics::LENGTH);
            assert_same("length", &Vec::from_iter(length), &Vec::from_iter(expected));
        }
    }
    // all arms at one KL, over the seeds where both reach it
    let all = at_equal_kl(run);
    assert_eq!(all.iter().map(|m| m.kl).collect::<Vec<_>>(), KLS);
    for m in &all {
        let both: Vec<[(f64, f64); 2]> =
            seeds.iter().filter_map(|&s| Some([naive.gain("d", s, m.kl)?, naive.gain("p", s, m.kl)?])).collect();
        for (index, reached) in m.arms.iter().enumerate() {
            let reached = reached.as_ref().expect("reached");
            let [gain, share] = [|x: &(f64, f64)| x.0, |x: &(f64, f64)| x.1]
                .map(|part| average(both.iter().map(|pair| part(&pair[index])).collect()));
            assert_eq!((reached.arm.as_str(), reached.gain.n), (ARMS[index], both.len()));
            assert_same("at equal KL", &[reached.gain.mean, reached.eta.expect("known").mean], &[gain, share]);
        }
        let difference = average(both.iter().map(|[d, p]| p.1 - d.1).collect());
        assert_same("difference", &[m.difference.expect("both").mean], &[difference]);
    }
    // the interval of the frontier: its middle is the mean of the seeds that reach a KL, as far as all of them reach
    let (low, high) = frontier::band(run, "p", 6);
    let ends = |&seed: &u64| {
        naive
            .frontier("p", seed, false)
            .iter()
            .map(|p| naive.value(p, TEST, metrics::KL).expect("KL"))
            .fold(0.0, f64::max)
    };
    let furthest = seeds.iter().map(ends).fold(f64::INFINITY, f64::min);
    for (step, (low, high)) in low.iter().zip(&high).enumerate().take(6) {
        let kl = furthest * step as f64 / 6.0;
        let golds =
            seeds.iter().filter_map(|&seed| naive.at(&naive.frontier("p", seed, false), TEST, kl, metrics::GOLD));
        assert_same("band", &[low.0, f64::midpoint(low.1, high.1)], &[kl, average(golds.collect())]);
    }
    assert!(low.len() >= 6 && high.iter().zip(&low).all(|(high, low)| high.1 > low.1));
}

#[test]
fn costs_to_targets_are_those_of_their_definitions() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport::new(&simulated));
    let mut finite = 0;
    for (arm, kl) in ARMS.into_iter().flat_map(|arm| [0.5, 1.0, 2.0].map(|kl| (arm, kl))) {
        for seed in run.experiment.seed_list() {
            let actual = [
                cost_to_target(run, arm, seed, kl, |c| c.flops),
                cost_to_target(run, arm, seed, kl, |c| c.wall_seconds),
            ];
            let expected = [
                naive.cost_to_target(arm, seed, kl, |c| c.flops),
                naive.cost_to_target(arm, seed, kl, |c| c.wall_seconds),
            ];
            assert_same("cost to target", &actual.map(|x| x.expect("known")), &expected);
            finite += usize::from(expected[0].is_finite());
        }
    }
    assert!(finite > 20, "{finite}");
}

#[test]
fn the_point_shown_of_an_arm_is_chosen_on_validation_and_reported_on_test() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport::new(&simulated));
    let seeds = run.experiment.seed_list();
    let mean_of = |arm: &str, point: &str, stage: &'static str, metric: Metric| {
        let value = |&seed: &u64| {
            naive.finished(arm, seed).into_iter().find(|p| p.1 == point).and_then(|p| naive.value(&p, stage, metric))
        };
        average(seeds.iter().filter_map(value).collect())
    };
    for arm in ARMS {
        let points: Vec<String> = naive.points(arm, seeds[0]).into_iter().collect();
        let best = points.iter().max_by(|a, b| {
            mean_of(arm, a, VALIDATION, metrics::GOLD).total_cmp(&mean_of(arm, b, VALIDATION, metrics::GOLD))
        });
        assert_eq!(run.featured(arm).map(|p| &p.label), best, "{arm}");
    }
    // the tables: the same columns on both splits
    let value_in = |table: &text_table::TextTable, arm: &str, point: &str, column: &str| {
        let index = table.head.iter().position(|head| head == column).expect("a column");
        let row = table.rows.iter().find(|row| row[0] == arm && row[1] == point).expect("a row");
        row[index].split(' ').next().and_then(|mean| mean.parse::<f64>().ok()).expect("a number")
    };
    let [test, validation] = tables::both_points(run);
    for (arm, point) in
        ARMS.into_iter().flat_map(|arm| naive.points(arm, seeds[0]).into_iter().map(move |point| (arm, point)))
    {
        for (column, metric) in
            [("gold", metrics::GOLD), ("KL", metrics::KL), ("η", metrics::ETA), ("win rate", metrics::WIN_RATE)]
        {
            let [on_test, on_validation] = [TEST, VALIDATION].map(|stage| mean_of(arm, &point, stage, metric));
            assert!((value_in(&test, arm, &point, column) - on_test).abs() < 6e-4, "{arm} {point} {column}");
            assert!(
                (value_in(&validation, arm, &point, column) - on_validation).abs() < 6e-4,
                "{arm} {point} {column}"
            );
        }
    }
}

#[test]
fn over_optimisation_is_picked_on_validation_and_read_on_test() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport::new(&simulated));
    let all = over_optimization(run);
    let mut expected = vec![];
    for arm in ARMS {
        expected.push((arm.to_string(), arm, None));
    }
    // along the trainings of d alone: p has enough points to compare them with each other
    expected.extend(
        naive
            .points("d", run.experiment.seed)
            .into_iter()
            .map(|point| (format!("d {point}, its training"), "d", Some(point))),
    );
    assert_eq!(all.iter().map(|d| &d.along).collect::<Vec<_>>(), expected.iter().map(|e| &e.0).collect::<Vec<_>>());
    for (drops, (along, arm, point)) in all.iter().zip(&expected) {
        let mut columns: [Vec<f64>; 6] = Default::default();
        for seed in run.experiment.seed_list() {
            let policies =
                point.as_ref().map_or_else(|| naive.finished(arm, seed), |point| naive.training(arm, point, seed));
            let ends = naive.peak_and_furthest(&policies);
            let on_test = |metric| ends.clone().map(|p| naive.value(&p, TEST, metric).expect("measured"));
            let ([kl, last_kl], [peak, last_gold], [proxy, last_proxy]) =
                (on_test(metrics::KL), on_test(metrics::GOLD), on_test(metrics::PROXY));
            let sd = naive.value(&naive.reference(seed), TEST, metrics::GOLD_SD).expect("sd");
            columns
                .iter_mut()
                .zip([kl, peak, last_kl, last_gold, (peak - last_gold) / sd, last_proxy - proxy])
                .for_each(|(column, x)| column.push(x));
        }
        let actual = [&drops.peak_kl, &drops.peak_gold, &drops.kl, &drops.gold, &drops.drop, &drops.proxy];
        actual.iter().zip(&columns).for_each(|(actual, expected)| assert_same(along, actual, expected));
    }
}

#[test]
fn scores_of_a_search_are_of_validation_prompts() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport::new(&simulated));
    let tuning = TuningResults::of(run);
    assert!(tuning.is_share && tuning.trials.len() == 8);
    for trial in &tuning.trials {
        for (&seed, score) in &trial.seeds {
            let score = score.expect("finished");
            let training = naive.training(&trial.arm, &trial.label, seed);
            let gold = naive.best_within(training.clone(), seed, VALIDATION, 1.5)
                / naive.optimum_gain(seed, VALIDATION, 1.5).expect("known");
            let last = training.last().expect("evaluations");
            assert_same("score", &[score.gold, score.flops], &[gold, naive.clock(last, |c| c.flops)]);
        }
    }
    let ranked = tuning.ranked("p", &run.experiment.seed_list(), SelectionMetric::Gold);
    let merit = |label: &str| {
        average(
            run.experiment
                .seed_list()
                .iter()
                .map(|&seed| {
                    naive.best_within(naive.training("p", label, seed), seed, VALIDATION, 1.5)
                        / naive.optimum_gain(seed, VALIDATION, 1.5).expect("known")
                })
                .collect(),
        )
    };
    assert!(ranked.windows(2).all(|pair| merit(&pair[0].label) >= merit(&pair[1].label)));
}

#[test]
fn divergence_is_read_on_test_prompts() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport::new(&simulated));
    let expected = |cell: &Cell| Some(naive.has_diverged(&cell.arm, &cell.point.label, cell.seed));
    let actual: Vec<Option<bool>> = run.cells.iter().map(|cell| has_diverged(run, cell)).collect();
    assert_eq!(actual, run.cells.iter().map(expected).collect::<Vec<_>>());
    let other = NaiveReport { read_on: VALIDATION, ..NaiveReport::new(&simulated) };
    assert!(
        run.cells.iter().any(|c| naive.has_diverged(&c.arm, &c.point.label, c.seed)
            != other.has_diverged(&c.arm, &c.point.label, c.seed))
    );
}

/// A setting whose best value, by its score on validation prompts, is the first or the last of its grid.
#[test]
fn edges_are_of_the_best_on_validation() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport::new(&simulated));
    let edges = sensitivity::edges(run, &TuningResults::of(run));
    for arm in ARMS {
        let merit = |stage: &'static str, point: &String| {
            let score = |&seed: &u64| {
                naive.best_within(naive.training(arm, point, seed), seed, stage, 1.5)
                    / naive.optimum_gain(seed, stage, 1.5).expect("known")
            };
            average(run.experiment.seed_list().iter().map(score).collect())
        };
        let points: Vec<String> = naive.points(arm, run.experiment.seed).into_iter().collect();
        let best = |stage| points.iter().max_by(|a, b| merit(stage, a).total_cmp(&merit(stage, b))).expect("points");
        let is_edge = ["beta=0.1", "beta=0.8"].contains(&best(VALIDATION).as_str());
        assert_eq!(edges.iter().any(|edge| edge.starts_with(&format!("arms.{arm}."))), is_edge, "{arm}: {edges:?}");
    }
}
