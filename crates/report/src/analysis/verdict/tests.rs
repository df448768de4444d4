//! Tests of the rules by themselves.

use super::*;

fn effect(value: f64, half: f64) -> Effect {
    Effect { value, interval: Some([value - half, value + half]) }
}

#[test]
fn the_rule_of_the_catalogue() {
    let verdict_of = |mean, half| decide(ClaimRule::Ahead, &effect(mean, half), 0.05).0;
    assert_eq!(verdict_of(0.2, 0.1), Verdict::Reproduced);
    assert_eq!(verdict_of(-0.2, 0.1), Verdict::Contradicted);
    assert_eq!(verdict_of(0.01, 0.02), Verdict::Contradicted); // null
    assert_eq!(verdict_of(0.03, 0.01), Verdict::Contradicted); // significant, but smaller than the smallest effect
    assert_eq!(verdict_of(0.04, 0.03), Verdict::Inconclusive);
    assert_eq!(verdict_of(0.2, 0.3), Verdict::Inconclusive);
    let none = Effect { value: 1.0, interval: None };
    assert_eq!(decide(ClaimRule::Ahead, &none, 0.05).0, Verdict::Inconclusive);
    let endless = Effect { value: f64::INFINITY, interval: Some([0.1, f64::INFINITY]) };
    assert_eq!(decide(ClaimRule::Ahead, &endless, 0.05).0, Verdict::Reproduced);
}

#[test]
fn equality_is_shown_by_an_interval_within_the_smallest_effect() {
    let verdict_of = |mean, half| decide(ClaimRule::Equal, &effect(mean, half), 0.05).0;
    assert_eq!(verdict_of(0.01, 0.03), Verdict::Reproduced);
    assert_eq!(verdict_of(0.03, 0.01), Verdict::Reproduced); // significant, but smaller than the smallest effect
    assert_eq!(verdict_of(-0.2, 0.1), Verdict::Contradicted);
    assert_eq!(verdict_of(0.01, 0.2), Verdict::Inconclusive); // no detectable difference is not equality
    assert_eq!(verdict_of(0.06, 0.2), Verdict::Inconclusive);
}

#[test]
fn a_claim_at_several_distances_needs_as_many_as_it_says() {
    let claim: Claim = serde_json::from_str(
        r#"{"id":"B1","statement":"","source":"","family":"","arms":["a","b"],"metric":"gain","rule":"ahead",
        "kl":[0.5,1.0,2.0],"at_least":2,"smallest":0.05}"#,
    )
    .expect("a claim");
    let verdict_of = |all: [Verdict; 3], is_refused| {
        let test = |judgement| ClaimTest {
            kl: None,
            judgement,
            effect: None,
            times: None,
            interval: None,
            level: 0.95,
            p: None,
            p_sign_flip: None,
            seeds: 5,
            reason: None,
        };
        combine(&claim, &all.map(test), is_refused).0
    };
    use Verdict::{Contradicted as No, Inconclusive as Open, Reproduced as Yes};
    assert_eq!([verdict_of([Yes, Yes, Open], false), verdict_of([Yes, Yes, No], false)], [Yes, Yes]);
    assert_eq!([verdict_of([Yes, Open, Open], false), verdict_of([Yes, Open, No], false)], [Open, Open]);
    assert_eq!([verdict_of([Yes, No, No], false), verdict_of([Yes, Yes, Yes], true)], [No, Open]);
}

/// Without an effect, the rule finds one in at most 2.5% of cases; a family of four finds any in at most 2.5%.
#[test]
fn a_null_effect_is_rarely_reproduced() {
    use rand::RngExt;
    let mut rng = duel_spec::seeds::derive(7, "null", 0, "verdict");
    let mut normal = || {
        let (a, b): (f64, f64) = (rng.random(), rng.random());
        (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    };
    for (seeds, family) in [(5, 1), (10, 1), (5, 4)] {
        let mut reproduced_count = 0;
        for _ in 0..100_000 {
            let effects: Vec<Vec<f64>> = (0..family).map(|_| (0..seeds).map(|_| normal()).collect()).collect();
            let effects: Vec<PairedSample> = effects.into_iter().map(PairedSample::Mean).collect();
            let p: Vec<f64> = effects.iter().map(|e| e.p().unwrap_or(1.0)).collect();
            let reproduced = effects.iter().zip(holm_levels(&p, ALPHA)).any(|(effects, level)| {
                let effect = effects.at_level(1.0 - level);
                effect.is_some_and(|e| decide(ClaimRule::Ahead, &e, 0.05).0 == Verdict::Reproduced)
            });
            reproduced_count += usize::from(reproduced);
        }
        // 2,500, plus three standard deviations of the count
        assert!(reproduced_count <= 2_650, "{seeds} seeds, {family} claims: {reproduced_count} of 100,000");
    }
}

/// An interval that ends on a bound: within (−d, d) excludes its ends, an interval that touches zero does not exclude it, and an
/// effect of exactly d is large enough.
#[test]
fn the_bounds_of_the_rules_are_those_of_the_catalogue() {
    use Verdict::{Contradicted as No, Inconclusive as Open, Reproduced as Yes};
    let verdicts = |value: f64, low: f64, high: f64| {
        let effect = Effect { value, interval: Some([low, high]) };
        [ClaimRule::Ahead, ClaimRule::Equal].map(|rule| decide(rule, &effect, 0.25).0)
    };
    assert_eq!([verdicts(0.25, 0.125, 0.375), verdicts(0.25, 0.0, 0.5)], [[Yes, No], [Open, Open]]);
    assert_eq!([verdicts(-0.25, -0.375, -0.125), verdicts(-0.25, -0.5, 0.0)], [[No, No], [Open, Open]]);
    assert_eq!([verdicts(0.0, -0.25, 0.125), verdicts(0.0, -0.125, 0.25)], [[Open, Open]; 2]);
    assert_eq!(verdicts(0.0, -0.2, 0.2), [No, Yes]);
    // without a smallest effect only zero itself is a null
    let zero = |low: f64, high: f64| {
        let effect = Effect { value: 0.0, interval: Some([low, high]) };
        [ClaimRule::Ahead, ClaimRule::Equal].map(|rule| decide(rule, &effect, 0.0).0)
    };
    assert_eq!(
        [zero(0.0, 0.0), zero(0.0, 0.1), zero(-0.1, 0.0), zero(-0.1, 0.1)],
        [[No, Yes], [Open; 2], [Open; 2], [Open; 2]]
    );
}

#[test]
fn reasons_say_which_arm_is_ahead_and_what_is_unknown() {
    let reason = |rule, value: f64, half: f64| decide(rule, &effect(value, half), 0.05).1.unwrap_or_default();
    assert_eq!(reason(ClaimRule::Equal, 0.2, 0.1), "ahead by 0.05 or more");
    assert_eq!(reason(ClaimRule::Equal, -0.2, 0.1), "behind by 0.05 or more");
    assert_eq!(reason(ClaimRule::Equal, 0.2, 0.3), "the interval reaches beyond ±0.05");
    assert_eq!(reason(ClaimRule::Ahead, 0.01, 0.02), "no difference: the whole interval lies within ±0.05");
    assert_eq!(reason(ClaimRule::Ahead, 0.04, 0.03), "ahead, but by less than 0.05");
    let unclear = "the interval contains zero and effects larger than the smallest";
    assert_eq!([reason(ClaimRule::Ahead, 0.2, 0.3), reason(ClaimRule::Ahead, 0.06, 0.06)], [unclear; 2]);
    let without = |value: f64| decide(ClaimRule::Ahead, &Effect { value, interval: None }, 0.05).1;
    assert_eq!(
        [without(1.0), without(f64::INFINITY)].map(Option::unwrap),
        ["too few seeds for an interval", "the effect is not finite"]
    );
}

#[test]
fn verdicts_are_in_capitals() {
    let all = [Verdict::Reproduced, Verdict::Contradicted, Verdict::Inconclusive];
    assert_eq!(all.map(|verdict| verdict.to_string()), ["REPRODUCED", "CONTRADICTED", "INCONCLUSIVE"]);
}
