//! Edge cases of every rule and metric of a claim: equal arms, no variance, missing seeds, ties, infinite costs, rounding, NaN.
//! Evaluations are made so that an arm's value at a seed is known; expected verdicts follow from docs/verdicts.md, Rules, by hand.

use crate::analysis::hand_made_run::HandMadeRun;
use crate::analysis::tuning::TuningResults;
use crate::analysis::verdict::{ClaimResult, Verdict, judge};
use duel_ledger::Outcomes;
use duel_spec::metrics::{self, Metric};
use duel_spec::{Clocks, OutcomeRow};

use Verdict::{Contradicted as No, Inconclusive as Open, Reproduced as Yes};

const SEEDS: u64 = 8;
/// The KL at which claims are judged; every training ends there.
const LAST_KL: f64 = 1.0;

/// How a metric compares the two arms.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ComparisonKind {
    /// First minus second.
    More,
    /// Log of second over first, judged by its mean or (`Median`) its median.
    Less,
    Median,
    /// A count without randomness; fewer is ahead.
    Counted,
    /// Share of two points.
    Share,
    /// One response per prompt, which wins or does not.
    Wins,
    /// Log ratio of the standard deviations over seeds.
    Spread,
}

const METRICS: [(&str, ComparisonKind); 18] = [
    ("gain", ComparisonKind::More),
    ("length", ComparisonKind::More),
    ("peak", ComparisonKind::More),
    ("drop", ComparisonKind::More),
    ("displacement", ComparisonKind::More),
    ("ordered", ComparisonKind::More),
    ("flops", ComparisonKind::Median),
    ("seconds", ComparisonKind::Median),
    ("memory", ComparisonKind::Less),
    ("step", ComparisonKind::Less),
    ("spread_of_points", ComparisonKind::Less),
    ("models", ComparisonKind::Counted),
    ("training_bytes", ComparisonKind::Counted),
    ("sampled", ComparisonKind::Counted),
    ("diverged", ComparisonKind::Share),
    ("win_rate", ComparisonKind::Wins),
    ("win_rate_at_length", ComparisonKind::Wins),
    ("spread", ComparisonKind::Spread),
];

/// The values of both arms at a seed where the first is ahead, and the effect.
fn ahead(kind: ComparisonKind, seed: u64) -> ([f64; 2], f64) {
    let x = seed as f64;
    match kind {
        ComparisonKind::More => ([1.5 + x, 1.0 + x], 0.5),
        ComparisonKind::Less | ComparisonKind::Median => ([1.0 + x, 2.0 + 2.0 * x], 2f64.ln()),
        ComparisonKind::Counted => ([3.0 + x, 4.0 + x], 1.0),
        ComparisonKind::Share => ([0.5, 1.0], 0.5),
        ComparisonKind::Wins => ([2.0, 1.0], 0.5),
        ComparisonKind::Spread => ([x * x, 2.0 * x * x], 2f64.ln()),
    }
}

/// Adds rows of one arm at one seed such that `metric` has this value.
fn add_rows(run: &mut HandMadeRun, metric: &str, arm: &str, seed: u64, value: f64) {
    let clocks_at = |step: u64, cost: f64| Clocks { step, tokens: step, flops: cost, wall_seconds: cost };
    let [early, late] = [clocks_at(1, 1.0), clocks_at(2, 2.0)];
    let label = |run: &mut HandMadeRun, index: usize| {
        run.run()
            .cells
            .iter()
            .filter(|c| c.arm == arm && c.seed == seed)
            .nth(index)
            .expect("a cell")
            .point
            .label
            .clone()
    };
    let point = label(run, 0);
    let marks = |kl: f64, gold: f64| vec![(metrics::KL, kl), (metrics::GOLD, gold), (metrics::PROXY, kl)];
    let mut extra: Vec<(Metric, f64)> = vec![];
    let (mut first, mut last, mut clocks) = (marks(LAST_KL / 2.0, 0.5), marks(LAST_KL, 1.0), late);
    match metric {
        "gain" | "spread" => last = marks(LAST_KL, value),
        "peak" => last = marks(LAST_KL, value),
        "drop" => (first, last) = (marks(LAST_KL / 2.0, value), marks(LAST_KL, 0.0)),
        "length" => extra.push((metrics::LENGTH, value)),
        "displacement" => extra.push((metrics::LOG_RATIO_CHOSEN, -value)),
        "ordered" => extra.push((metrics::ORDERED_PAIRS, value)),
        // the target is one standard deviation of the reference's gold, 1: half way on a line from 0 to 2
        "flops" | "seconds" => {
            (first, last, clocks) =
                (vec![], marks(LAST_KL, if value.is_infinite() { 0.5 } else { 2.0 }), clocks_at(2, 2.0 * value))
        }
        // the spread of 1 and 1 + √2·value is the value
        "spread_of_points" => {
            let other = label(run, 1);
            run.evaluation(arm, &other, seed, late, &marks(LAST_KL, 1.0 + 2f64.sqrt() * value));
        }
        // two points, of which this share diverged
        "diverged" => {
            let other = label(run, 1);
            let kl = |limit: f64| if value > limit { 100.0 } else { LAST_KL };
            run.evaluation(arm, &other, seed, late, &marks(kl(0.5), 1.0));
            last = marks(kl(0.0), 1.0);
        }
        "memory" => {
            run.row([arm, &point, "cell"], seed, late, metrics::PEAK_RSS, value);
        }
        "step" => {
            run.row([arm, &point, "train"], seed, late, metrics::KL_STEP, value);
        }
        "models" => {
            run.row([arm, &point, "train"], seed, late, metrics::MODELS_RESIDENT, value);
        }
        "training_bytes" => {
            run.row([arm, &point, "train"], seed, late, metrics::TRAINING_BYTES, value);
        }
        "sampled" => {
            run.row([arm, &point, "train"], seed, late, metrics::SAMPLED_TOKENS, value);
        }
        "win_rate" | "win_rate_at_length" => {
            let all = vec![OutcomeRow { prompt: 0, gold_reward: value, tokens: 5, share: 1.0 }];
            run.run().outcomes.push(Outcomes { arm: arm.into(), point: point.as_str().into(), seed, all });
        }
        other => panic!("no rows for {other}"),
    }
    if !first.is_empty() {
        run.evaluation(arm, &point, seed, early, &first);
    }
    last.extend(extra);
    run.evaluation(arm, &point, seed, clocks, &last);
}

/// The result of a claim about `a` and `b`; `None` is a cell without a result.
fn judged(metric: &str, rule: &str, smallest: f64, values: impl Fn(u64) -> [Option<f64>; 2]) -> ClaimResult {
    let grid = if ["diverged", "spread_of_points"].contains(&metric) { "grid.beta = [0.1, 0.2]" } else { "" };
    let mut run = HandMadeRun::new(&format!(
        "name = 'edges'\nseeds = {SEEDS}\ntuning.kl = {LAST_KL:?}\n[arms.a]\nmethod = 'dpo'\n{grid}\n[arms.b]\nmethod = 'dpo'\n{grid}\n\
         [[claims]]\nid = 'c'\narms = ['a', 'b']\nmetric = '{metric}'\nrule = '{rule}'\nkl = [{LAST_KL:?}]\nsmallest = {smallest:?}\n"
    ));
    for seed in run.run().experiment.seed_list() {
        let reference = [
            (metrics::KL, 0.0),
            (metrics::GOLD, 0.0),
            (metrics::GOLD_SD, 1.0),
            (metrics::PROXY, 0.0),
            (metrics::LENGTH, 9.0),
        ];
        run.evaluation("reference", "sft", seed, Clocks::default(), &reference);
        run.run().outcomes.push(Outcomes { arm: "reference".into(), point: "sft".into(), seed, all: vec![] });
        for (arm, value) in ["a", "b"].into_iter().zip(values(seed)) {
            if let Some(value) = value {
                add_rows(&mut run, metric, arm, seed, value);
            }
        }
    }
    let run = run.finish();
    judge(&run, &TuningResults::of(&run)).remove(0)
}

/// Checks a claim's verdict under `ahead` and under `equal`, its seeds and its effect.
fn expect(
    what: &str,
    metric: &str,
    [by_ahead, by_equal]: [Verdict; 2],
    (seeds, effect): (usize, Option<f64>),
    values: impl Fn(u64) -> [Option<f64>; 2],
) {
    for (rule, expected) in [("ahead", by_ahead), ("equal", by_equal)] {
        let result = judged(metric, rule, 0.05, &values);
        let test = &result.tests[0];
        let same_effect = match (test.effect, effect) {
            (Some(a), Some(b)) => a == b || (a - b).abs() < 1e-9,
            (a, b) => a == b,
        };
        assert!(
            (result.judgement, test.judgement, test.seeds) == (expected, expected, seeds) && same_effect,
            "{metric}, {rule}, {what}: expected {expected} with {seeds} seeds and {effect:?}, found {result:#?}"
        );
        assert!(expected != Open || !result.reasons.is_empty(), "{metric}, {rule}, {what}: no reason given");
    }
}

/// The verdict of `ahead` on equal arms: contradicted, except for spreads, which cannot be tested there.
fn null_of(kind: ComparisonKind) -> Verdict {
    if kind == ComparisonKind::Spread { Open } else { No }
}

#[test]
fn an_arm_that_is_ahead_by_the_same_at_every_seed_is_ahead() {
    for (metric, kind) in METRICS {
        let effect = Some(ahead(kind, 1).1);
        expect("zero variance", metric, [Yes, No], (8, effect), |seed| ahead(kind, seed).0.map(Some));
        let behind = effect.map(|x| -x);
        expect("behind", metric, [No, No], (8, behind), |seed| {
            let [a, b] = ahead(kind, seed).0;
            [b, a].map(Some)
        });
    }
}

#[test]
fn equal_arms_are_equal() {
    for (metric, kind) in METRICS {
        expect("equal arms", metric, [null_of(kind), Yes], (8, Some(0.0)), |seed| [Some(ahead(kind, seed).0[0]); 2]);
        expect("all ties", metric, [null_of(kind), Yes], (8, Some(0.0)), |_| [Some(ahead(kind, 1).0[0]); 2]);
    }
}

/// Both arms have the same values, summed in a different order; without a smallest effect, so that only the tolerance decides.
#[test]
fn rounding_puts_nobody_ahead() {
    for (metric, kind) in METRICS {
        let noisy = |seed: u64| {
            let value = ahead(kind, seed).0[0];
            [value * (1.0 + 3e-16 * (seed % 3) as f64), value * (1.0 - 2e-16 * (seed % 2) as f64)].map(Some)
        };
        let noisy = |seed| if kind == ComparisonKind::Share { [Some(0.5); 2] } else { noisy(seed) };
        expect("rounding noise", metric, [null_of(kind), Yes], (8, Some(0.0)), noisy);
        for (rule, expected) in [("ahead", null_of(kind)), ("equal", Yes)] {
            assert_eq!(judged(metric, rule, 0.0, noisy).judgement, expected, "{metric}, {rule}, no smallest effect");
        }
    }
}

#[test]
fn a_seed_that_is_missing_or_not_a_number_is_left_out() {
    for (metric, kind) in METRICS {
        let effect = Some(ahead(kind, 1).1);
        expect("one seed missing", metric, [Yes, No], (7, effect), |seed| {
            let [a, b] = ahead(kind, seed).0;
            [Some(a), Some(b).filter(|_| seed != 3)]
        });
        // a KL that is not a number means divergence, not a missing evaluation
        if kind != ComparisonKind::Share {
            expect("one NaN", metric, [Yes, No], (7, effect), |seed| {
                let [a, b] = ahead(kind, seed).0;
                [Some(a), Some(if seed == 3 { f64::NAN } else { b })]
            });
        }
    }
}

#[test]
fn one_seed_or_none_is_no_evidence() {
    for (metric, kind) in METRICS {
        let effect = Some(ahead(kind, 1).1).filter(|_| kind != ComparisonKind::Spread);
        expect("one seed", metric, [Open, Open], (1, effect), |seed| {
            ahead(kind, seed).0.map(|x| Some(x).filter(|_| seed == 1))
        });
        expect("four seeds", metric, [Open, Open], (4, Some(ahead(kind, 1).1)), |seed| {
            ahead(kind, seed).0.map(|x| Some(x).filter(|_| seed < 4))
        });
        expect("no seeds", metric, [Open, Open], (0, None), |seed| [Some(ahead(kind, seed).0[0]), None]);
    }
}

/// Costs: an arm that never reaches the target is behind one that does; where neither does, nothing is known. Other ratios with
/// zero have no mean, and any other infinite value was not measured.
#[test]
fn infinite_costs_are_ordered_and_other_infinite_values_refused() {
    let infinite = f64::INFINITY;
    for (metric, kind) in METRICS {
        let [one, other] = [1.0, 2.0].map(|x| move |seed: u64| x + seed as f64);
        match kind {
            ComparisonKind::Median => {
                expect("the other never", metric, [Yes, No], (8, Some(infinite)), |seed| {
                    [Some(one(seed)), Some(infinite)]
                });
                expect("the first never", metric, [No, No], (8, Some(-infinite)), |seed| {
                    [Some(infinite), Some(one(seed))]
                });
                expect("neither ever", metric, [Open, Open], (0, None), |_| [Some(infinite); 2]);
                // with eight seeds the interval of a median reaches from the smallest to the largest
                expect("once never", metric, [Open, Open], (8, Some(0.0)), |seed| {
                    [Some(one(seed)), Some(if seed == 2 { infinite } else { one(seed) })]
                });
                // four at +∞, four at −∞: no median
                expect("half and half", metric, [Open, Open], (8, None), |seed| {
                    if seed % 2 == 0 { [Some(one(seed)), Some(infinite)] } else { [Some(infinite), Some(one(seed))] }
                });
                expect("free", metric, [Yes, No], (8, Some(infinite)), |seed| [Some(0.0), Some(one(seed))]);
                expect("both free", metric, [No, Yes], (8, Some(0.0)), |_| [Some(0.0); 2]);
            }
            ComparisonKind::Less => {
                expect("nothing once", metric, [Open, Open], (8, Some(infinite)), |seed| {
                    [Some(if seed == 2 { 0.0 } else { one(seed) }), Some(other(seed))]
                });
                expect("nothing against nothing", metric, [No, Yes], (8, Some(0.0)), |_| [Some(0.0); 2]);
                for first in [true, false] {
                    expect("infinite once", metric, [Yes, No], (7, Some(2f64.ln())), |seed| {
                        let [a, b] = ahead(kind, seed).0;
                        if seed != 2 {
                            [a, b].map(Some)
                        } else if first {
                            [Some(infinite), Some(b)]
                        } else {
                            [Some(a), Some(infinite)]
                        }
                    });
                }
            }
            ComparisonKind::Spread => {
                expect("one has no spread", metric, [Open, Open], (8, Some(infinite)), |seed| {
                    [Some(1.0), Some(seed as f64)]
                });
                expect("neither has spread", metric, [Open, Yes], (8, Some(0.0)), |_| [Some(1.0), Some(2.0)]);
            }
            ComparisonKind::Share | ComparisonKind::Wins => {}
            ComparisonKind::More | ComparisonKind::Counted => {
                let effect = Some(ahead(kind, 1).1);
                expect("infinite once", metric, [Yes, No], (7, effect), |seed| {
                    let [a, b] = ahead(kind, seed).0;
                    [Some(if seed == 2 { infinite } else { a }), Some(b)]
                });
            }
        }
    }
}

/// Values at which sums overflow: no test, a reason, no panic.
#[test]
fn huge_values_are_judged_or_refused() {
    for (metric, _) in
        METRICS.into_iter().filter(|(_, kind)| [ComparisonKind::More, ComparisonKind::Spread].contains(kind))
    {
        for rule in ["ahead", "equal"] {
            let huge = |seed: u64| [Some(f64::MAX / (1.0 + (seed % 2) as f64)), Some(-f64::MAX / 2.0)];
            assert_eq!(judged(metric, rule, 0.05, huge).judgement, Open, "{metric}, {rule}");
        }
    }
}

/// Counts follow `rule`, and so does the text of a claim without a statement.
#[test]
fn counts_and_default_statements_follow_the_rule() {
    let counted = |rule, smallest, values: fn(u64) -> [f64; 2]| {
        let result = judged("models", rule, smallest, |seed| values(seed).map(Some));
        (result.judgement, result.description, result.requirement)
    };
    let required = "8 seeds; required: equal at every seed".to_string();
    let statement = "a and b are equal (models)".to_string();
    assert_eq!(counted("equal", 0.05, |_| [2.0, 2.0]), (Yes, statement.clone(), required.clone()));
    assert_eq!(counted("equal", 0.05, |seed| [2.0, 3.0 + seed as f64]), (No, statement.clone(), required.clone()));
    assert_eq!(
        counted("equal", 0.05, |seed| [2.0, 2.0 + (seed % 2) as f64]),
        (Open, statement.clone(), required.clone())
    );
    // different at every seed, in both directions: the mean is not what is judged
    assert_eq!(
        counted("equal", 0.05, |seed| [2.0, if seed % 2 == 0 { 1.0 } else { 3.0 }]),
        (No, statement.clone(), required.clone())
    );
    assert_eq!(counted("equal", 3.0, |seed| [2.0, 2.0 + (seed % 3) as f64]), (Yes, statement, required));
    let required = "8 seeds; required: fewer at every seed".to_string();
    assert_eq!(counted("ahead", 0.05, |_| [2.0, 2.0]), (No, "a is ahead of b (models)".into(), required));
}

/// A sibling run that cannot be read affects only the claims that name it.
#[test]
fn a_claim_that_cannot_be_judged_affects_no_other() {
    let runs = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(runs.path().join("broken")).expect("a folder");
    std::fs::write(runs.path().join("broken/manifest.json"), "{ no json").expect("written");
    let mut run = HandMadeRun::new(
        "name = 'own'\nseeds = 8\n[arms.a]\nmethod = 'dpo'\n[arms.b]\nmethod = 'dpo'\n\
         [[claims]]\nid = 'broken'\narms = ['a', 'b@broken']\nmetric = 'models'\n\
         [[claims]]\nid = 'absent'\narms = ['a@nowhere', 'b@nowhere']\nmetric = 'gain'\n\
         [[claims]]\nid = 'whole'\narms = ['a', 'b']\nmetric = 'models'\n",
    );
    run.run().folder = runs.path().join("own");
    for seed in run.run().experiment.seed_list() {
        ["a", "b"]
            .into_iter()
            .zip([1.0, 4.0])
            .for_each(|(arm, models)| add_rows(&mut run, "models", arm, seed, models));
    }
    let run = run.finish();
    let results = judge(&run, &TuningResults::of(&run));
    assert_eq!(results.iter().map(|v| v.judgement).collect::<Vec<_>>(), [Open, Open, Yes]);
    assert!(
        results[0].reasons[0].starts_with("the run `broken` beside this one cannot be read: "),
        "{:?}",
        results[0].reasons
    );
    assert_eq!(results[1].reasons[0], "no run `nowhere` is in the same folder as this one");
}
