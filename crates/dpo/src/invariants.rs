//! What must hold of DPO in every run (claims §8).

use duel_training::Result;
use duel_training::invariants::{breach, close, largest};

/// At step 0 the policy is its reference: the loss is what it is there (ln 2 of DPO), all margins 0, accuracy ½.
pub fn starts_at_the_reference(loss: f64, expected: f64, margins: &[f32], accuracy: f64) -> Result<()> {
    let name = "starts_at_the_reference";
    let margin = largest(margins.iter().map(|x| x.abs()));
    close(name, 0, "the loss", loss, expected, 1e-5 * expected.abs().max(1.0))?;
    close(name, 0, "the largest margin", margin, 0.0, 1e-4)?;
    if margins.iter().all(|&m| m == 0.0) {
        close(name, 0, "the accuracy", accuracy, 0.5, 0.0)?;
    }
    Ok(())
}

/// Exchanging chosen and rejected flips every margin.
pub fn a_swap_flips_the_margin(step: u64, margins: &[f32], swapped: &[f32]) -> Result<()> {
    let worst = largest(margins.iter().zip(swapped).map(|(a, b)| (a + b).abs()));
    close("a_swap_flips_the_margin", step, "the largest |u + u(swapped)|", worst, 0.0, 1e-4)
}

/// A pair of equal responses moves nothing.
pub fn equal_pairs_have_no_gradient(step: u64, gradient_norm: f64) -> Result<()> {
    close(
        "equal_pairs_have_no_gradient",
        step,
        "the gradient norm of pairs with chosen = rejected",
        gradient_norm,
        0.0,
        1e-5,
    )
}

/// A cache of log-probs carries the hashes of the checkpoint and of the rows that it was made from.
pub fn cache_is_of(what: &str, cached: &str, wanted: &str) -> Result<()> {
    if cached == wanted {
        return Ok(());
    }
    let what = format!("the hash of {what} that the cached log-probs were made from");
    Err(breach("cache_is_of", 0, &what, cached.into(), wanted.into()))
}

/// The cached reference log-probs are those of the reference itself.
pub fn cached_reference_is_live(live: &[f32], cached: &[f32]) -> Result<()> {
    if live.len() != cached.len() {
        let (found, expected) = (cached.len().to_string(), live.len().to_string());
        return Err(breach("cached_reference_is_live", 0, "the number of cached log-probs", found, expected));
    }
    let worst = largest(live.iter().zip(cached).map(|(a, b)| (a - b).abs() / a.abs().max(1.0)));
    close("cached_reference_is_live", 0, "the largest relative difference of a cached log-prob", worst, 0.0, 1e-6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_training::Error;

    fn breaks(name: &str, result: Result<()>) {
        match result {
            Err(Error::Invariant { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{name} should break, got {other:?}"),
        }
    }

    #[test]
    fn each_holds_where_it_should_and_breaks_where_it_should() {
        let ln_2 = std::f64::consts::LN_2;
        assert!(starts_at_the_reference(ln_2, ln_2, &[0.0, 0.0], 0.5).is_ok());
        breaks("starts_at_the_reference", starts_at_the_reference(0.7, ln_2, &[0.0, 0.0], 0.5));
        breaks("starts_at_the_reference", starts_at_the_reference(ln_2, ln_2, &[0.01, -0.01], 0.5));
        breaks("starts_at_the_reference", starts_at_the_reference(ln_2, ln_2, &[0.0, 0.0], 1.0));
        assert!(a_swap_flips_the_margin(0, &[0.3, -0.1], &[-0.3, 0.1]).is_ok());
        breaks("a_swap_flips_the_margin", a_swap_flips_the_margin(0, &[0.3], &[0.3]));
        assert!(equal_pairs_have_no_gradient(0, 1e-7).is_ok());
        breaks("equal_pairs_have_no_gradient", equal_pairs_have_no_gradient(0, 1e-2));
        assert!(cache_is_of("the rows", "ab", "ab").is_ok());
        breaks("cache_is_of", cache_is_of("the rows", "ab", "cd"));
        assert!(cached_reference_is_live(&[-5.0, -7.0], &[-5.0, -7.0]).is_ok());
        breaks("cached_reference_is_live", cached_reference_is_live(&[-5.0, -7.0], &[-7.0, -5.0]));
        breaks("cached_reference_is_live", cached_reference_is_live(&[-5.0, -7.0], &[-5.0]));
    }
}
