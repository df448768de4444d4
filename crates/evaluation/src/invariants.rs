//! Invariants of every evaluation (ARCHITECTURE.md, What is checked while it runs).

use crate::{Error, ObjectiveTerms, Result};
use duel_training::invariants::finite;

/// Fails by name unless the condition holds, and as diverged if the value is not finite. The step is 0 until
/// [`Error::at_step`] sets it.
pub fn require(name: &'static str, holds: bool, what: &str, actual: f64, expected: &str) -> Result<()> {
    finite(0, what, actual)?;
    if holds {
        return Ok(());
    }
    Err(Error::Invariant { name, step: 0, what: what.into(), actual: actual.to_string(), expected: expected.into() })
}

/// The probabilities of all enumerated responses sum to 1, in f64 for logits of any precision.
pub fn probabilities_sum_to_one(total: f64) -> Result<()> {
    let holds = (total - 1.0).abs() <= 1e-9;
    require("probabilities_sum_to_one", holds, "the sum over all responses", total, "1 within 1e-9")
}

/// No KL by enumeration is negative: it is the difference of a cross-entropy and the `entropy`, in f64.
pub fn exact_kl_is_not_negative(kl: f64, entropy: f64) -> Result<()> {
    kl_is_not_negative(kl, 1e-12, 1.0 + 2.0 * entropy)
}

/// No KL of a sampled response is negative: a token's is a difference of log-probs of about ln V, rounded by up to 64 units
/// in the last place of an f32.
pub fn sampled_kl_is_not_negative(kl: f64, vocabulary: usize, tokens: usize) -> Result<()> {
    let token = (vocabulary as f64).ln().max(1.0);
    kl_is_not_negative(kl, 4e-6, token * tokens as f64)
}

/// No KL is negative; `size` is the magnitude of the terms that it is a difference of, nats, `share` their relative rounding
/// error.
fn kl_is_not_negative(kl: f64, share: f64, size: f64) -> Result<()> {
    let expected = format!("at least 0, but for {share:e} of {size} nats");
    require("kl_is_not_negative", kl >= -share * size, "the KL to the reference", kl, &expected)
}

/// No policy beats the exact optimum of the objective `gold − β·KL` at the same β by more than 1e-9 of the magnitude of gold
/// and β·KL, which is far above f64 rounding.
pub fn nobody_beats_the_optimum(policy: &ObjectiveTerms, best: &ObjectiveTerms) -> Result<()> {
    let size = 1.0 + policy.gold.abs() + best.gold.abs() + best.beta * (1.0 + policy.kl + best.kl);
    let (objective, optimum) = (policy.objective(), best.objective());
    let holds = objective <= optimum + 1e-9 * size;
    let expected = format!("at most {optimum} and 1e-9 of {size}, gold minus beta times KL");
    require("nobody_beats_the_optimum", holds, "the objective", objective, &expected)
}

/// The Rao-Blackwell KL and its cross-check k1 agree within four standard errors, plus a thousandth of a nat and of the KL.
pub fn kl_estimates_agree(rao_blackwell: f64, k1: f64, standard_error: f64) -> Result<()> {
    finite(0, "the Rao-Blackwell estimate of the KL", rao_blackwell)?;
    let holds = (rao_blackwell - k1).abs() <= 4.0 * standard_error + 1e-3 * (1.0 + rao_blackwell.abs());
    let expected = format!("{rao_blackwell} within 4 × {standard_error} and a thousandth of it");
    require("kl_estimates_agree", holds, "the k1 estimate of the KL", k1, &expected)
}

/// Repeats on other responses a check that chance breaks once in some thousand evaluations.
pub fn unless_by_chance(first: Result<()>, again: impl FnOnce() -> Result<()>) -> Result<()> {
    match first {
        Err(Error::Invariant { .. }) => again(),
        other => other,
    }
}

/// The sampler draws responses with the model's probabilities: Pearson's chi-square over responses expected
/// at least 5 times, the rest pooled; at most the quantile five standard deviations out.
pub fn sampler_follows_the_model(counts: &[f64], expected: &[f64]) -> Result<()> {
    let pairs = counts.iter().copied().zip(expected.iter().copied());
    let (mut cells, rare): (Vec<(f64, f64)>, Vec<_>) = pairs.partition(|(_, expect)| *expect >= 5.0);
    let pooled = rare.iter().fold((0.0, 0.0), |(count, expect), (c, e)| (count + c, expect + e));
    if pooled != (0.0, 0.0) {
        cells.push(pooled);
    }
    let statistic: f64 = cells.iter().map(|(count, expect)| (count - expect).powi(2) / expect.max(1.0)).sum();
    // Wilson–Hilferty: (χ²/k)^⅓ is about normal with mean 1 − 2/9k and variance 2/9k.
    let k = f64::max(cells.len() as f64 - 1.0, 1.0);
    let limit = k * (1.0 - 2.0 / (9.0 * k) + 5.0 * (2.0 / (9.0 * k)).sqrt()).powi(3);
    let what = "the chi-square of sampled against predicted responses";
    require("sampler_follows_the_model", statistic <= limit, what, statistic, &format!("at most {limit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaks(name: &str, result: Result<()>) {
        match result {
            Err(Error::Invariant { name: broken, .. }) => assert_eq!(broken, name),
            other => panic!("{name} should break, got {other:?}"),
        }
    }

    #[test]
    fn each_holds_where_it_should_and_breaks_where_it_should() {
        assert!(probabilities_sum_to_one(1.0 - 1e-12).is_ok());
        breaks("probabilities_sum_to_one", probabilities_sum_to_one(0.999));
        assert!(kl_is_not_negative(0.0, 1e-6, 30.0).is_ok() && kl_is_not_negative(-2e-5, 1e-6, 30.0).is_ok());
        breaks("kl_is_not_negative", kl_is_not_negative(-0.01, 1e-6, 30.0));
        breaks("kl_is_not_negative", kl_is_not_negative(-2e-5, 1e-12, 30.0));
        let diverged = |result| matches!(result, Err(Error::Training(duel_training::Error::Diverged { .. })));
        assert!(diverged(probabilities_sum_to_one(f64::NAN)) && diverged(kl_estimates_agree(f64::NAN, 0.0, 1.0)));
        assert!(diverged(kl_is_not_negative(f64::INFINITY, 1e-6, 1.0)));
        assert!(kl_estimates_agree(2.0, 2.3, 0.1).is_ok());
        breaks("kl_estimates_agree", kl_estimates_agree(2.0, 2.5, 0.1));
        let twice = |first: f64, again: f64| {
            unless_by_chance(kl_estimates_agree(2.0, first, 0.1), || kl_estimates_agree(2.0, again, 0.1))
        };
        assert!(twice(2.5, 2.1).is_ok(), "chance");
        assert!(twice(2.1, 9.0).is_ok(), "no repetition where it holds");
        breaks("kl_estimates_agree", twice(2.5, 2.5));
        assert!(diverged(twice(f64::NAN, 2.0)));
        // a thousand draws of four responses, or of three and the rest
        assert!(sampler_follows_the_model(&[510.0, 290.0, 195.0, 5.0], &[500.0, 300.0, 196.0, 4.0]).is_ok());
        breaks(
            "sampler_follows_the_model",
            sampler_follows_the_model(&[300.0, 500.0, 195.0, 5.0], &[500.0, 300.0, 196.0, 4.0]),
        );
        breaks(
            "sampler_follows_the_model",
            sampler_follows_the_model(&[500.0, 300.0, 100.0, 100.0], &[500.0, 300.0, 196.0, 4.0]),
        );
    }

    #[test]
    fn a_sum_may_be_off_by_a_billionth() {
        for sign in [-1.0, 1.0] {
            assert!(probabilities_sum_to_one(1.0 + sign * 0.99e-9).is_ok());
            breaks("probabilities_sum_to_one", probabilities_sum_to_one(1.0 + sign * 1.01e-9));
        }
    }

    #[test]
    fn a_kl_is_rounded_as_the_terms_that_it_is_a_difference_of() {
        // an entropy of 3 and a cross-entropy as large, each with an error of 1e-12 of itself, and 1e-12 more
        assert!(exact_kl_is_not_negative(-0.99 * 7e-12, 3.0).is_ok());
        breaks("kl_is_not_negative", exact_kl_is_not_negative(-1.01 * 7e-12, 3.0));
        // five tokens, each of ln V and at least one nat
        for (vocabulary, nats) in [(20, 20f64.ln()), (2, 1.0)] {
            assert!(sampled_kl_is_not_negative(-0.99 * 4e-6 * 5.0 * nats, vocabulary, 5).is_ok());
            breaks("kl_is_not_negative", sampled_kl_is_not_negative(-1.01 * 4e-6 * 5.0 * nats, vocabulary, 5));
        }
    }

    #[test]
    fn an_objective_is_rounded_as_its_terms() {
        let terms = |beta, gold, kl| ObjectiveTerms { beta, gold, kl };
        // J = 2 of both: |8| + |5| of gold, 2 (3 + 1.5) of β KL, and 1 and β more; J = −8; J = −30000, where β KL counts
        for (policy, best, size) in [
            (terms(2.0, 8.0, 3.0), terms(2.0, 5.0, 1.5), 25.0),
            (terms(2.0, -7.0, 0.5), terms(2.0, -5.0, 1.5), 19.0),
            (terms(1e3, 3.0, 30.003), terms(1e3, 2.0, 30.002), 61_011.0),
        ] {
            let raised = |share: f64| terms(policy.beta, policy.gold + share * 1e-9 * size, policy.kl);
            assert!(nobody_beats_the_optimum(&raised(0.99), &best).is_ok(), "{policy:?}");
            breaks("nobody_beats_the_optimum", nobody_beats_the_optimum(&raised(1.01), &best));
        }
    }

    #[test]
    fn kl_estimates_agree_within_four_standard_errors_and_a_thousandth() {
        // 4 × 0.1, a thousandth of a nat, and of 2
        for sign in [-1.0, 1.0] {
            assert!(kl_estimates_agree(2.0, 2.0 + sign * 0.4029, 0.1).is_ok());
            breaks("kl_estimates_agree", kl_estimates_agree(2.0, 2.0 + sign * 0.4031, 0.1));
        }
    }

    /// The limit of Wilson and Hilferty for two degrees of freedom: `2 (1 − 1/9 + 5/3)³`.
    #[test]
    fn chi_square_is_limited_five_standard_deviations_out() {
        let limit = 2.0 * (23.0f64 / 9.0).powi(3);
        for (share, holds) in [(0.999, true), (1.001, false)] {
            let check = |counts: &[f64], expected: &[f64]| match sampler_follows_the_model(counts, expected) {
                result if holds => assert!(result.is_ok(), "{result:?}"),
                result => breaks("sampler_follows_the_model", result),
            };
            let chi_square = share * limit;
            // three frequent responses: d²/100 + d²/100
            let d = (chi_square * 50.0).sqrt();
            check(&[100.0 + d, 100.0 - d, 50.0], &[100.0, 100.0, 50.0]);
            // two of them at the least number: d²/5 + d²/100
            let d = (chi_square / 0.21).sqrt();
            check(&[5.0 + d, 5.0, 100.0 - d], &[5.0, 5.0, 100.0]);
            // two, and 25 rare ones that are too few or too many together: d²/100 + d²/50
            let d = (chi_square * 100.0 / 3.0).sqrt();
            let expected = [vec![100.0, 100.0], vec![2.0; 25]].concat();
            for d in [-d, d] {
                check(&[vec![100.0 - d, 100.0], vec![2.0 + d / 25.0; 25]].concat(), &expected);
            }
            // two, and 10 rare ones expected less than once together: d²/100 + d²/1
            let d = (chi_square / 1.01).sqrt();
            let expected = [vec![100.0, 100.0], vec![0.05; 10]].concat();
            check(&[vec![100.0 - d, 100.0], vec![0.05 + d / 10.0; 10]].concat(), &expected);
            // two, and impossible ones
            check(&[100.0 - d, 100.0, d / 2.0, d / 2.0], &[100.0, 100.0, 0.0, 0.0]);
        }
    }
}
