//! Tests of what surrounds a verdict: refusals, levels of families, budgets, and the words of a claim (docs/verdicts.md).

use crate::analysis::hand_made_run::HandMadeRun;
use crate::analysis::tuning::{TrialResult, TrialScore, TuningResults};
use crate::analysis::verdict::{ClaimResult, TrainingBudget, Verdict, judge};
use duel_ledger::Manifest;
use duel_spec::metrics::{self, GOLD, GOLD_SD, KL, KL_SE, LENGTH, PROXY};
use duel_spec::{Cell, Clocks};
use std::collections::BTreeMap;

/// Arms and claims of an experiment without a known optimum.
fn hand_made(seeds: u64, arms: &[(&str, &str)], claims: &[&str]) -> HandMadeRun {
    let arms: String = arms.iter().map(|(arm, keys)| format!("[arms.{arm}]\nmethod = 'dpo'\n{keys}\n")).collect();
    let claims: String = claims.iter().map(|claim| format!("[[claims]]\n{claim}\n")).collect();
    let mut run = HandMadeRun::new(&format!("name = 'claims'\nseeds = {seeds}\ntuning.kl = 1.0\n{arms}{claims}"));
    for seed in run.run().experiment.seed_list() {
        let reference = [(KL, 0.0), (GOLD, 0.0), (GOLD_SD, 1.0), (PROXY, 0.0), (LENGTH, 9.0)];
        run.evaluation("reference", "sft", seed, Clocks::default(), &reference);
    }
    run
}

/// Every training ends at KL 2 with this gold; at KL 1 its gain is half of it. Each costs 10 FLOPs.
fn trained(mut run: HandMadeRun, gold: impl Fn(&Cell) -> f64) -> HandMadeRun {
    for cell in run.run().cells.clone() {
        let clocks = Clocks { step: 1, flops: 10.0, ..Clocks::default() };
        let values = [(KL, 2.0), (GOLD, gold(&cell)), (PROXY, 1.0), (LENGTH, 9.0)];
        run.evaluation(&cell.arm, &cell.point.label, cell.seed, clocks, &values);
        run.row([&cell.arm, &cell.point.label, "train"], cell.seed, clocks, metrics::MODELS_RESIDENT, 2.0);
    }
    run
}

fn results(run: HandMadeRun) -> Vec<ClaimResult> {
    let run = run.finish();
    judge(&run, &TuningResults::of(&run))
}

const TWO_ARMS: [(&str, &str); 2] = [("a", ""), ("b", "")];

/// A claim about `a` and `b`.
fn claim(metric: &str) -> String {
    format!("id = '{metric}'\narms = ['a', 'b']\nmetric = '{metric}'\nkl = [1.0]\nsmallest = 0.05")
}

/// scipy 1.17: `ttest_1samp([.3, -.1, .4, .2, .5], 0)` has p = .065, and by flipped signs .125. By Holm's procedure with three tests the
/// clear effect is compared with α/3, this one with α/2, and the count, whose p counts as 1, with the level at which it failed.
#[test]
fn tests_of_a_family_have_holms_levels() {
    let family = ["id = 'unclear'\narms = ['a', 'reference']", "id = 'clear'\narms = ['b', 'reference']"]
        .map(|claim| format!("{claim}\nmetric = 'gain'\nkl = [1.0]\nfamily = 'f'\nsmallest = 0.05"));
    let count = "id = 'count'\narms = ['a', 'b']\nmetric = 'models'\nfamily = 'f'".to_string();
    let alone = family[0].replace("family = 'f'\n", "").replace("unclear", "alone");
    let other = family[1].replace("family = 'f'\n", "").replace("clear", "other");
    let run = hand_made(5, &TWO_ARMS, &[&family[0], &family[1], &count, &alone, &other]);
    let gains = |cell: &Cell| match cell.arm.as_str() {
        "a" => [0.3, -0.1, 0.4, 0.2, 0.5][cell.seed as usize],
        _ => [1.0, 1.1, 0.9, 1.05, 0.95][cell.seed as usize],
    };
    let results = results(trained(run, |cell| 2.0 * gains(cell)));
    let levels = [1.0 - 0.05 / 3.0, 0.975, 0.975, 0.95, 0.95];
    let tests = [1, 0, 2, 3, 4].map(|index| &results[index].tests[0]);
    for (test, level) in tests.into_iter().zip(levels) {
        assert!((test.level - level).abs() < 1e-12, "{test:?}, expected {level}");
    }
    for test in [tests[1], tests[3]] {
        assert!(test.p.is_some_and(|p| (p - 0.064_985_910_342_120_6).abs() < 1e-9), "{test:?}");
        assert!(test.p_sign_flip.is_some_and(|p| (p - 0.125).abs() < 1e-12), "{test:?}");
        assert!(test.effect.is_some_and(|effect| (effect - 0.26).abs() < 1e-12) && test.times.is_none(), "{test:?}");
        let [low, high] = test.interval.expect("five seeds");
        assert!(low < 0.0 && (low + high - 0.52).abs() < 1e-12, "{test:?}");
    }
    let judgements: Vec<Verdict> = results.iter().map(|result| result.judgement).collect();
    use Verdict::{Contradicted as No, Inconclusive as Open, Reproduced as Yes};
    assert_eq!(judgements, [Open, Yes, No, Open, Yes]);
    assert_eq!((results[2].tests[0].p, results[2].tests[0].p_sign_flip), (None, None));
}

/// The claim in words and what it requires; at KL 4 and 5, which no arm reaches, there are no seeds.
#[test]
fn a_claim_is_put_into_words() {
    let two = "arms = ['a', 'b']\nsmallest = 0.05";
    let one = "arms = ['a']\nmetric = 'drop'\nsmallest = 0.05";
    let run = hand_made(
        5,
        &TWO_ARMS,
        &[
            &format!("id = '0'\nmetric = 'win_rate_at_length'\n{two}\nkl = [1.0]"),
            &format!("id = '1'\nmetric = 'gain'\nrule = 'equal'\n{two}\nkl = [0.5, 1.0, 4.0, 5.0]\nat_least = 2"),
            &format!("id = '2'\n{one}"),
            &format!("id = '3'\n{one}\nrule = 'equal'\nstatement = 'nothing is lost'"),
            &format!("id = '4'\n{one}\nrule = 'equal'"),
        ],
    );
    let results = results(trained(run, |cell| 1.0 + 0.01 * cell.seed as f64));
    let words: Vec<&str> = results.iter().map(|result| result.description.as_str()).collect();
    assert_eq!(
        words,
        [
            "a is ahead of b (win rate at length)",
            "a and b are equal (gain)",
            "drop of a is above zero",
            "nothing is lost",
            "drop of a is zero",
        ]
    );
    let requirements: Vec<&str> = results.iter().map(|result| result.requirement.as_str()).collect();
    assert_eq!(
        requirements[..3],
        [
            "0 seeds; required: at least 0.05 share",
            "0 to 5 seeds; required: within ±0.05 of the optimum's gain, at 2 of 4 distances",
            "0 seeds; required: at least 0.05 sd of the reference's gold",
        ]
    );
    assert_eq!(results[1].reasons, ["at KL 4, 5: 0 seeds with both arms there, and 5 are needed"]);
    assert_eq!(results[1].judgement, Verdict::Reproduced);
    assert!(results[0].reasons.contains(&"0 seeds with both arms there, and 5 are needed".to_string()), "{results:?}");
    assert!(results[2].reasons.contains(&"0 seeds measured, and 5 are needed".to_string()), "{results:?}");
    let single = results_of_seeds(1);
    assert_eq!(single[0].requirement, "1 seed; required: fewer at every seed");
    assert_eq!(single[0].reasons, ["1 seeds with both arms measured, and 5 are needed"]);
}

fn results_of_seeds(seeds: u64) -> Vec<ClaimResult> {
    results(trained(hand_made(seeds, &TWO_ARMS, &[&claim("models")]), |_| 1.0))
}

/// Counts: within the smallest effect excludes its end.
#[test]
fn five_seeds_are_enough_and_four_are_not() {
    assert_eq!(
        [4, 5].map(|seeds| results_of_seeds(seeds)[0].judgement),
        [Verdict::Inconclusive, Verdict::Contradicted]
    );
    for (smallest, expected) in [("1.0", Verdict::Contradicted), ("1.1", Verdict::Reproduced)] {
        let equal = format!("id = 'c'\narms = ['a', 'b']\nmetric = 'models'\nrule = 'equal'\nsmallest = {smallest}");
        let mut run = trained(hand_made(5, &TWO_ARMS, &[&equal]), |_| 1.0);
        for cell in run.run().cells.clone().into_iter().filter(|cell| cell.arm == "b") {
            let clocks = Clocks { step: 2, ..Clocks::default() };
            run.row(["b", &cell.point.label, "train"], cell.seed, clocks, metrics::MODELS_RESIDENT, 3.0);
        }
        assert_eq!(results(run)[0].judgement, expected, "{smallest}");
    }
}

/// Of a log ratio the factor is given too, and the number of seeds at which it is infinite is named.
#[test]
fn a_log_ratio_is_a_factor_unless_it_is_infinite() {
    for (zeros, reason) in [(0, None), (2, Some("one of the two is zero at 2 of 6 seeds: such ratios have no mean"))] {
        let mut run = trained(hand_made(6, &TWO_ARMS, &[&claim("memory")]), |_| 1.0);
        for cell in run.run().cells.clone() {
            let bytes = match cell.arm.as_str() {
                "a" if cell.seed < zeros => 0.0,
                "a" => 100.0,
                _ => 300.0,
            };
            run.row([&cell.arm, &cell.point.label, "cell"], cell.seed, Clocks::default(), metrics::PEAK_RSS, bytes);
        }
        let result = results(run).remove(0);
        let times = result.tests[0].times.expect("a factor");
        assert!(if zeros == 0 { (times - 3.0).abs() < 1e-9 } else { times.is_infinite() }, "{times}");
        assert_eq!(result.tests[0].reason.as_deref(), reason);
        assert_eq!(result.judgement, if zeros == 0 { Verdict::Reproduced } else { Verdict::Inconclusive });
    }
}

/// More than a twentieth of the larger number of points.
#[test]
fn budgets_that_differ_by_more_than_five_percent_are_refused() {
    let reasons = |points: [usize; 2]| {
        let grid = points.map(|n| format!("grid.beta = [{}]", (1..=n).map(|i| format!("{i}.0, ")).collect::<String>()));
        let run = hand_made(5, &[("a", &grid[0]), ("b", &grid[1])], &[&claim("models")]);
        results(trained(run, |_| 1.0)).remove(0).reasons
    };
    let refusal = |a: usize, b: usize| format!("unequal budgets: {a} points of a, {b} of b");
    assert!(reasons([18, 19]).contains(&refusal(18, 19)) && reasons([3, 2]).contains(&refusal(3, 2)));
    assert_eq!(
        [reasons([19, 20]), reasons([21, 20]), reasons([2, 2])],
        [const { vec![] }; 3].map(|_: Vec<String>| vec!["at no seed".to_string()])
    );
}

/// Three values of which the first is the best: a claim at a KL is refused, but not one about lengths or peaks, nor one about
/// other arms.
#[test]
fn claims_at_a_kl_are_refused_where_the_best_value_is_at_an_edge() {
    let grids = [
        ("a", "grid.beta = [0.1, 0.2, 0.4]"),
        ("ab", "grid.beta = [0.1, 0.2, 0.4]"),
        ("b", "grid.beta = [0.1, 0.2, 0.4]"),
    ];
    let mut claims: Vec<String> = ["gain", "spread", "length", "peak"].map(claim).to_vec();
    claims.push(claim("gain").replace("'a'", "'ab'").replace("id = 'gain'", "id = 'other arms'"));
    let run = hand_made(5, &grids, &claims.iter().map(String::as_str).collect::<Vec<_>>());
    // the best of `a` is its first point, that of the others the second
    let gold = |cell: &Cell| match (cell.arm.as_str(), cell.point.label.as_str()) {
        ("a", "beta=0.1") | ("ab" | "b", "beta=0.2") => 3.0,
        _ => 1.0,
    };
    let edge = "arms.a.grid.beta: the best value by what is gained within 1 nat, 0.1, is at the lower end of what was tried (0.1 to 0.4); a smaller one may be better";
    let refused: Vec<bool> =
        results(trained(run, gold)).iter().map(|result| result.reasons.iter().any(|reason| reason == edge)).collect();
    assert_eq!(refused, [true, true, false, false, false]);
}

/// More than a fifth of ten trainings; not where divergence is the claim, or does not matter.
#[test]
fn an_arm_that_diverges_often_is_refused() {
    let reasons = |diverged: u64| {
        let claims = ["peak", "diverged", "models"].map(claim);
        let mut run = hand_made(10, &TWO_ARMS, &claims.each_ref().map(String::as_str));
        run = trained(run, |_| 1.0);
        for cell in run.run().cells.clone().into_iter().filter(|cell| cell.arm == "b" && cell.seed < diverged) {
            let clocks = Clocks { step: 2, ..Clocks::default() };
            run.evaluation("b", &cell.point.label, cell.seed, clocks, &[(KL, 60.0), (GOLD, 1.0), (PROXY, 1.0)]);
        }
        results(run).into_iter().map(|result| result.reasons).collect::<Vec<_>>()
    };
    let refusal = "3 of 10 trainings of b diverged, and that is the result".to_string();
    let [peak, diverged, models] = &reasons(3)[..] else { panic!("three claims") };
    assert!(peak.contains(&refusal) && !diverged.contains(&refusal) && !models.contains(&refusal), "{peak:?}");
    assert!(reasons(2).iter().flatten().all(|reason| !reason.contains("that is the result")));
}

/// A failure of a stage of `a`; one of `ab` is not of `a`.
#[test]
fn an_arm_with_a_failed_stage_is_refused() {
    let reasons = |stage: &str| {
        let claims = ["peak", "diverged", "models"].map(claim);
        let mut run = trained(hand_made(5, &TWO_ARMS, &claims.each_ref().map(String::as_str)), |_| 1.0);
        run.run().manifest.failed.insert(stage.into(), "invariant `x` failed at step 1".into());
        let is_refused =
            |result: &ClaimResult| result.reasons.contains(&format!("{stage} failed: invariant `x` failed at step 1"));
        results(run).iter().map(is_refused).collect::<Vec<_>>()
    };
    assert_eq!(reasons("a beta=0.3, seed 3"), [true, false, false]);
    assert_eq!(reasons("ab beta=0.3, seed 3"), [false; 3]);
}

/// A standard error of over a tenth of the KL, here 2.
#[test]
fn an_uncertain_kl_is_refused_where_it_is_read() {
    let refused = |error: f64| {
        let claims = ["gain", "peak"].map(claim);
        let mut run = trained(hand_made(5, &TWO_ARMS, &claims.each_ref().map(String::as_str)), |_| 1.0);
        let label = run.run().cells[0].point.label.clone();
        run.evaluation("b", &label, 3, Clocks { step: 1, flops: 10.0, ..Clocks::default() }, &[(KL_SE, error)]);
        let is_refused = |result: &ClaimResult| {
            result
                .reasons
                .iter()
                .any(|reason| reason.starts_with("the standard error of b's KL at ") && reason.contains(&label))
        };
        results(run).iter().map(is_refused).collect::<Vec<_>>()
    };
    assert_eq!([refused(0.2), refused(0.21)], [[false, false], [true, false]]);
}

/// The proxy at the largest KL minus that at the peak of gold, mean over seeds, must be above zero.
#[test]
fn a_drop_is_refused_where_the_proxy_does_not_rise() {
    let refusal = |rises: [f64; 5]| {
        let mut run = hand_made(5, &TWO_ARMS[..1], &["id = 'drop'\narms = ['a']\nmetric = 'drop'\nsmallest = 0.05"]);
        for cell in run.run().cells.clone() {
            let proxy = 1.0 + rises[cell.seed as usize];
            for (step, values) in
                [(1, [(KL, 1.0), (GOLD, 2.0), (PROXY, 1.0)]), (2, [(KL, 2.0), (GOLD, 1.0), (PROXY, proxy)])]
            {
                run.evaluation("a", &cell.point.label, cell.seed, Clocks { step, ..Clocks::default() }, &values);
            }
        }
        results(run).remove(0).reasons.into_iter().find(|reason| reason.starts_with("manipulation check"))
    };
    assert_eq!([refusal([0.5; 5]), refusal([1.0, 1.0, -0.5, -0.5, -0.5])], [None, None]);
    let text = |rise: &str| Some(format!("manipulation check: beyond the peak a's proxy does not rise ({rise})"));
    assert_eq!(
        [refusal([0.0; 5]), refusal([-0.25; 5]), refusal([f64::NAN; 5])],
        [text("0.00"), text("-0.25"), text("–")]
    );
}

/// Two points at five seeds with 10 FLOPs each; the reference is not trained.
#[test]
fn a_budget_counts_points_trainings_and_flops() {
    let claims = [claim("models"), claim("gain").replace("'b'", "'reference'")];
    let run = hand_made(5, &[("a", "grid.beta = [0.1, 0.2]"), ("b", "")], &claims.each_ref().map(String::as_str));
    let results = results(trained(run, |_| 1.0));
    let [a, b] =
        [(2, 10, 100.0), (1, 5, 50.0)].map(|(points, trainings, flops)| TrainingBudget { points, trainings, flops });
    assert_eq!(results[0].budgets, BTreeMap::from([("a".to_string(), a), ("b".to_string(), b)]));
    assert_eq!(results[1].budgets, BTreeMap::from([("a".to_string(), a)]));
}

/// Of a search, the points that were tried count, with the trainings and FLOPs of both.
#[test]
fn the_budget_of_a_search_is_what_it_tried() {
    let mut run = trained(hand_made(5, &TWO_ARMS, &[&claim("models")]), |_| 1.0);
    run.run().experiment.tuning.configurations = 2;
    let trial = |arm: &str, label: &str| TrialResult {
        arm: arm.into(),
        label: label.into(),
        settings: BTreeMap::new(),
        seeds: (100..103).map(|seed| (seed, Some(TrialScore { gold: 1.0, proxy: 1.0, flops: 7.0 }))).collect(),
    };
    let trials = vec![trial("a", "x"), trial("a", "y"), trial("b", "x")];
    let run = run.finish();
    let tuning = TuningResults { trials, reward_model: BTreeMap::new(), is_share: false };
    let result = judge(&run, &tuning).remove(0);
    // five trainings of the comparison with 10 FLOPs, and three of each point of the search with 7
    let [a, b] =
        [(2, 11, 92.0), (1, 8, 71.0)].map(|(points, trainings, flops)| TrainingBudget { points, trainings, flops });
    assert_eq!(result.budgets, BTreeMap::from([("a".to_string(), a), ("b".to_string(), b)]));
    assert!(result.reasons.contains(&"unequal budgets: 2 points of a, 1 of b".to_string()), "{:?}", result.reasons);
    // nothing spent is 0, not −0
    let mut untrained = hand_made(5, &TWO_ARMS, &[&claim("models")]);
    untrained.run().experiment.tuning.configurations = 2;
    let budgets = judge(&untrained.finish(), &TuningResults::default()).remove(0).budgets;
    assert!(
        budgets.len() == 2 && budgets.values().all(|budget| budget.flops == 0.0 && budget.flops.is_sign_positive())
    );
}

/// The manifest has the claims that were there before any training was finished.
#[test]
fn a_claim_that_the_manifest_lacks_was_added_after_the_run() {
    let mut run = trained(hand_made(5, &TWO_ARMS, &[&claim("models"), &claim("peak")]), |_| 1.0);
    let recorded = run.run().experiment.claims.iter().take(1).map(|claim| serde_json::json!(claim)).collect();
    run.run().manifest.claims = Some(recorded);
    assert_eq!(results(run).iter().map(|result| result.added_after_run).collect::<Vec<_>>(), [false, true]);
}

/// A sibling folder must have the run that it is named after; one that does is read, and lacks its training.
#[test]
fn a_run_in_a_folder_of_another_name_is_refused() {
    for (name, missing) in [("stranger", 0), ("other", 1)] {
        let runs = tempfile::tempdir().expect("a folder");
        let folder = runs.path().join("other");
        std::fs::create_dir(&folder).expect("a folder");
        let text = format!("name = '{name}'\nseeds = 1\n[arms.b]\nmethod = 'dpo'\nbeta = 0.3\n");
        std::fs::write(folder.join("experiment.toml"), &text).expect("written");
        let document = duel_spec::Document::parse("experiment.toml", &text, &[]).expect("a document");
        let manifest = Manifest { exit: "complete".into(), experiment: document.to_toml(), ..Manifest::default() };
        manifest.write(&folder).expect("written");
        let mut run = trained(hand_made(5, &TWO_ARMS, &[&claim("models").replace("'b'", "'b@other'")]), |_| 1.0);
        run.run().folder = runs.path().join("own");
        let result = results(run).remove(0);
        assert_eq!((result.judgement, result.tests[0].seeds), (Verdict::Inconclusive, 0));
        let is_refused = result.reasons[0] == format!("the folder `other` beside this one holds the run `{name}`");
        assert_eq!((is_refused, result.missing.len()), (name == "stranger", missing), "{result:?}");
    }
}

/// A claim lists the missing trainings of its own arms: here `c` has none of its five.
#[test]
fn missing_trainings_of_other_arms_are_not_listed() {
    let claims = [claim("models"), claim("peak").replace("'b'", "'c'")];
    let run = hand_made(5, &[("a", ""), ("b", ""), ("c", "")], &claims.each_ref().map(String::as_str));
    let mut run = trained(run, |_| 1.0);
    run.run().manifest.exit = "interrupted".into();
    for cell in &mut run.run().cells {
        if cell.arm == "c" {
            cell.point.label = "never trained".into();
        }
    }
    let missing: Vec<usize> = results(run).iter().map(|result| result.missing.len()).collect();
    assert_eq!(missing, [0, 5]);
}

/// The gains of `a` do not vary.
#[test]
fn a_spread_beside_none_is_undefined() {
    let run = hand_made(5, &TWO_ARMS, &[&claim("spread")]);
    let result = results(trained(run, |cell| if cell.arm == "a" { 1.0 } else { cell.seed as f64 })).remove(0);
    assert_eq!(result.reasons, ["one arm has no spread at all, so that the ratio is undefined"]);
    assert_eq!(result.tests[0].effect, Some(f64::INFINITY));
}
