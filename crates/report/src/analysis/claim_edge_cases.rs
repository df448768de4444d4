//! Every rule and metric of a claim where numbers run out: equal arms, no variance, missing seeds, ties, infinite costs, rounding, NaN.
//! Marks are made so that a side's value at a seed is known; the right answers are of the rules (docs/verdicts.md, Rules), by hand.

use crate::analysis::hand_made_run::HandMadeRun;
use crate::analysis::tuning::TuningResults;
use crate::analysis::verdict::{ClaimResult, Verdict, judge};
use duel_ledger::Outcomes;
use duel_spec::metrics::{self, Metric};
use duel_spec::{Clocks, OutcomeRow};

use Verdict::{Contradicted as No, Inconclusive as Open, Reproduced as Yes};

const SEEDS: u64 = 8;
/// The distance at which claims are judged, which every training ends at.
const LAST_KL: f64 = 1.0;

/// How a metric holds one side against the other.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ComparisonKind {
    /// The first's less the second's.
    More,
    /// Log of how many times less the first has; by its mean or its median.
    Less,
    Median,
    /// Fewer, without chance.
    Counted,
    /// Shares of two points.
    Share,
    /// One response a prompt: it wins or does not.
    Wins,
    /// Log of how many times less it scatters over seeds.
    Spread,
}

const METRICS: [(&str, ComparisonKind); 17] = [
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

/// Lays the rows of one arm at one seed down, so that `metric` has this value there.
fn lay(run: &mut HandMadeRun, metric: &str, arm: &str, seed: u64, value: f64) {
    let at = |step: u64, cost: f64| Clocks { step, tokens: step, flops: cost, wall_seconds: cost };
    let [early, late] = [at(1, 1.0), at(2, 2.0)];
    let label = |run: &mut HandMadeRun, place: usize| {
        run.run()
            .cells
            .iter()
            .filter(|c| c.arm == arm && c.seed == seed)
            .nth(place)
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
                (vec![], marks(LAST_KL, if value.is_infinite() { 0.5 } else { 2.0 }), at(2, 2.0 * value))
        }
        // the spread of 1 and 1 + √2·value is the value
        "spread_of_points" => {
            let other = label(run, 1);
            run.evaluation(arm, &other, seed, late, &marks(LAST_KL, 1.0 + 2f64.sqrt() * value));
        }
        // of two points, as many as the share says are far beyond what counts as near
        "diverged" => {
            let other = label(run, 1);
            let kl = |place: f64| if value > place { 100.0 } else { LAST_KL };
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

/// A claim of `a` and `b`; `None` is a cell that never ended.
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
                lay(&mut run, metric, arm, seed, value);
            }
        }
    }
    let run = run.finish();
    judge(&run, &TuningResults::of(&run)).remove(0)
}

/// What a claim comes to under `ahead` and under `equal`, with its seeds and its effect.
fn expect(
    what: &str,
    metric: &str,
    [by_ahead, by_equal]: [Verdict; 2],
    (seeds, effect): (usize, Option<f64>),
    values: impl Fn(u64) -> [Option<f64>; 2],
) {
    for (rule, expected) in [("ahead", by_ahead), ("equal", by_equal)] {
        let found = judged(metric, rule, 0.05, &values);
        let test = &found.tests[0];
        let near = match (test.effect, effect) {
            (Some(a), Some(b)) => a == b || (a - b).abs() < 1e-9,
            (a, b) => a == b,
        };
        assert!(
            (found.judgement, test.judgement, test.seeds) == (expected, expected, seeds) && near,
            "{metric}, {rule}, {what}: expected {expected} with {seeds} seeds and {effect:?}, found {found:#?}"
        );
        assert!(expected != Open || !found.reasons.is_empty(), "{metric}, {rule}, {what}: no reason given");
    }
}

/// What `ahead` says of arms between which there is nothing: a null, but for spreads, of which nothing can be tested there.
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

/// Both arms have the same values, summed in another order; with no smallest effect, so that nothing but the tolerance speaks.
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
        // a KL that is not a number has diverged, and is no missing mark
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

/// Costs: whoever never arrives is behind whoever does; where neither does nothing is known. Other ratios to nothing have no mean, and
/// what is infinite otherwise was not measured.
#[test]
fn infinite_values_have_their_place_or_none() {
    let far = f64::INFINITY;
    for (metric, kind) in METRICS {
        let [one, other] = [1.0, 2.0].map(|x| move |seed: u64| x + seed as f64);
        match kind {
            ComparisonKind::Median => {
                expect("the other never", metric, [Yes, No], (8, Some(far)), |seed| [Some(one(seed)), Some(far)]);
                expect("the first never", metric, [No, No], (8, Some(-far)), |seed| [Some(far), Some(one(seed))]);
                expect("neither ever", metric, [Open, Open], (0, None), |_| [Some(far); 2]);
                // with eight seeds the interval of a median reaches from the least to the largest
                expect("once never", metric, [Open, Open], (8, Some(0.0)), |seed| {
                    [Some(one(seed)), Some(if seed == 2 { far } else { one(seed) })]
                });
                // four ahead without end, four behind without end: no median
                expect("half and half", metric, [Open, Open], (8, None), |seed| {
                    if seed % 2 == 0 { [Some(one(seed)), Some(far)] } else { [Some(far), Some(one(seed))] }
                });
                expect("free", metric, [Yes, No], (8, Some(far)), |seed| [Some(0.0), Some(one(seed))]);
                expect("both free", metric, [No, Yes], (8, Some(0.0)), |_| [Some(0.0); 2]);
            }
            ComparisonKind::Less => {
                expect("nothing once", metric, [Open, Open], (8, Some(far)), |seed| {
                    [Some(if seed == 2 { 0.0 } else { one(seed) }), Some(other(seed))]
                });
                expect("nothing against nothing", metric, [No, Yes], (8, Some(0.0)), |_| [Some(0.0); 2]);
            }
            ComparisonKind::Spread => {
                expect("one does not scatter", metric, [Open, Open], (8, Some(far)), |seed| {
                    [Some(1.0), Some(seed as f64)]
                });
                expect("neither scatters", metric, [Open, Yes], (8, Some(0.0)), |_| [Some(1.0), Some(2.0)]);
            }
            ComparisonKind::Share | ComparisonKind::Wins => {}
            ComparisonKind::More | ComparisonKind::Counted => {
                let effect = Some(ahead(kind, 1).1);
                expect("infinite once", metric, [Yes, No], (7, effect), |seed| {
                    let [a, b] = ahead(kind, seed).0;
                    [Some(if seed == 2 { far } else { a }), Some(b)]
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

/// `rule` is obeyed by what is counted, and by the words of a claim without a statement.
#[test]
fn counts_and_words_follow_the_rule() {
    let counted = |rule, smallest, values: fn(u64) -> [f64; 2]| {
        let found = judged("models", rule, smallest, |seed| values(seed).map(Some));
        (found.judgement, found.words, found.asked)
    };
    let asked = "8 seeds; asked for: equal at every seed".to_string();
    let words = "a and b are equal (models)".to_string();
    assert_eq!(counted("equal", 0.05, |_| [2.0, 2.0]), (Yes, words.clone(), asked.clone()));
    assert_eq!(counted("equal", 0.05, |seed| [2.0, 3.0 + seed as f64]), (No, words.clone(), asked.clone()));
    assert_eq!(counted("equal", 0.05, |seed| [2.0, 2.0 + (seed % 2) as f64]), (Open, words.clone(), asked.clone()));
    // apart at every seed, once this way and once that: their mean is none of it
    assert_eq!(
        counted("equal", 0.05, |seed| [2.0, if seed % 2 == 0 { 1.0 } else { 3.0 }]),
        (No, words.clone(), asked.clone())
    );
    assert_eq!(counted("equal", 3.0, |seed| [2.0, 2.0 + (seed % 3) as f64]), (Yes, words, asked));
    let asked = "8 seeds; asked for: fewer at every seed".to_string();
    assert_eq!(counted("ahead", 0.05, |_| [2.0, 2.0]), (No, "a is ahead of b (models)".into(), asked));
}

/// A run beside this one that cannot be read is the reason of the claims that name it, and of no other.
#[test]
fn a_claim_that_cannot_be_judged_costs_no_other() {
    let beside = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(beside.path().join("broken")).expect("a folder");
    std::fs::write(beside.path().join("broken/manifest.json"), "{ no json").expect("written");
    let mut run = HandMadeRun::new(
        "name = 'own'\nseeds = 8\n[arms.a]\nmethod = 'dpo'\n[arms.b]\nmethod = 'dpo'\n\
         [[claims]]\nid = 'broken'\narms = ['a', 'b@broken']\nmetric = 'models'\n\
         [[claims]]\nid = 'absent'\narms = ['a@nowhere', 'b@nowhere']\nmetric = 'gain'\n\
         [[claims]]\nid = 'whole'\narms = ['a', 'b']\nmetric = 'models'\n",
    );
    run.run().folder = beside.path().join("own");
    for seed in run.run().experiment.seed_list() {
        ["a", "b"].into_iter().zip([1.0, 4.0]).for_each(|(arm, models)| lay(&mut run, "models", arm, seed, models));
    }
    let run = run.finish();
    let found = judge(&run, &TuningResults::of(&run));
    assert_eq!(found.iter().map(|v| v.judgement).collect::<Vec<_>>(), [Open, Open, Yes]);
    assert!(
        found[0].reasons[0].starts_with("the run `broken` beside this one cannot be read: "),
        "{:?}",
        found[0].reasons
    );
    assert_eq!(found[1].reasons[0], "no run `nowhere` lies beside this one");
}
