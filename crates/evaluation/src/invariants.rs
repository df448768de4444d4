//! Invariants of every evaluation (ARCHITECTURE.md, What is checked while it runs).

use crate::{Error, Result};
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

/// No KL is negative; `size` is the magnitude of the terms that it is a difference of, nats, `share` their relative rounding
/// error.
pub fn kl_is_not_negative(kl: f64, share: f64, size: f64) -> Result<()> {
    let expected = format!("at least 0, but for {share:e} of {size} nats");
    require("kl_is_not_negative", kl >= -share * size, "the KL to the reference", kl, &expected)
}

/// No policy beats the exact optimum of the objective `gold − β·KL`; `size` is the magnitude of gold and β·KL, of which 1e-9
/// is far above f64 rounding.
pub fn nobody_beats_the_optimum(objective: f64, optimum: f64, size: f64) -> Result<()> {
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
    let (mut statistic, mut cells) = (0.0, 0.0);
    let (mut pooled_count, mut pooled_expected) = (0.0, 0.0);
    for (&count, &expect) in counts.iter().zip(expected) {
        if expect >= 5.0 {
            statistic += (count - expect).powi(2) / expect;
            cells += 1.0;
        } else {
            pooled_count += count;
            pooled_expected += expect;
        }
    }
    if pooled_expected > 0.0 {
        statistic += (pooled_count - pooled_expected).powi(2) / pooled_expected.max(1.0);
        cells += 1.0;
    }
    // Wilson–Hilferty: (χ²/k)^⅓ is about normal with mean 1 − 2/9k and variance 2/9k.
    let k = f64::max(cells - 1.0, 1.0);
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
        assert!(nobody_beats_the_optimum(0.9, 0.9, 3.0).is_ok());
        breaks("nobody_beats_the_optimum", nobody_beats_the_optimum(0.91, 0.9, 3.0));
        // at β = 1000 the objective is rounded as β·KL is
        assert!(nobody_beats_the_optimum(-3e4 + 1e-6, -3e4, 3e4).is_ok());
        breaks("nobody_beats_the_optimum", nobody_beats_the_optimum(-2.9e4, -3e4, 3e4));
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
        // a thousand draws of three responses and the rest
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
}
