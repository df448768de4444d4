//! What must hold of DPO in every run (ARCHITECTURE.md, What is checked while it runs).

use duel_training::Result;
use duel_training::invariants::{Tolerance, breach, check_close, finite, largest};

/// Relative precision of a response's log-prob in f32, as a share of [`size`].
pub const LOGP_SHARE: f64 = 1e-6;

/// Magnitude of the numbers whose difference is a response's log-prob, nats: itself, plus that of a uniform policy.
pub fn size(logp: f32, tokens: usize, vocabulary: usize) -> f64 {
    f64::from(logp.abs()) + tokens as f64 * (vocabulary as f64).ln()
}

/// At step 0 the policy is its reference: the loss has its known value (ln 2 for DPO), all margins are 0, accuracy is ½. `rounded`
/// is how far the rounding of the log-probs moves the loss, `unit` the magnitude of its own rounding, `scale` the largest
/// β times [`size`].
pub fn starts_at_the_reference(
    loss: f64,
    expected: f64,
    [unit, rounded]: [f64; 2],
    margins: &[f32],
    scale: f64,
    accuracy: f64,
) -> Result<()> {
    let name = "starts_at_the_reference";
    let of = "what the loss is made of and what rounded log-probs make of it";
    check_close(name, 0, "the loss", loss, expected, Tolerance { share: 1e-5, of, scale: unit + rounded / 1e-5 })?;
    let margin = largest(margins.iter().map(|x| x.abs()));
    let within = Tolerance { share: LOGP_SHARE, of: "beta times the size of the log-probs", scale };
    check_close(name, 0, "the largest margin", margin, 0.0, within)?;
    if margins.iter().all(|&m| m == 0.0) {
        check_close(name, 0, "the accuracy", accuracy, 0.5, Tolerance::EXACTLY)?;
    }
    Ok(())
}

/// Exchanging chosen and rejected flips every margin; `scale` is the largest β times [`size`].
pub fn a_swap_flips_the_margin(step: u64, margins: &[f32], swapped: &[f32], scale: f64) -> Result<()> {
    let worst = largest(margins.iter().zip(swapped).map(|(a, b)| (a + b).abs()));
    let within = Tolerance { share: LOGP_SHARE, of: "beta times the size of the log-probs", scale };
    check_close("a_swap_flips_the_margin", step, "the largest |u + u(swapped)|", worst, 0.0, within)
}

/// The loss falls where the chosen response becomes likelier and the rejected one less likely: `towards` is the loss there,
/// `away` that in the opposite direction.
pub fn the_chosen_is_preferred(step: u64, towards: f64, away: f64) -> Result<()> {
    let what = "the loss where the chosen response is likelier";
    finite(step, what, towards)?;
    finite(step, "the loss where the rejected response is likelier", away)?;
    if towards < away {
        return Ok(());
    }
    Err(breach("the_chosen_is_preferred", step, what, towards.to_string(), format!("less than {away}")))
}

/// A pair of equal responses moves nothing: the gradients of its two sides cancel.
pub fn equal_pairs_have_no_gradient(step: u64, gradient_norm: f64, one_side: f64) -> Result<()> {
    check_close(
        "equal_pairs_have_no_gradient",
        step,
        "the gradient norm of pairs with chosen = rejected",
        gradient_norm,
        0.0,
        Tolerance { share: 1e-5, of: "the gradient norm of their chosen side alone", scale: one_side },
    )
}

/// A cache of log-probs carries the hashes of the checkpoint and of the rows that it was made from.
pub fn cache_is_of(what: &str, cached: &str, expected: &str) -> Result<()> {
    if cached == expected {
        return Ok(());
    }
    let what = format!("the hash of {what} that the cached log-probs were made from");
    Err(breach("cache_is_of", 0, &what, cached.into(), expected.into()))
}

/// The cached reference log-probs are those of the reference itself; `sizes` are their [`size`]s.
pub fn cached_reference_is_live(live: &[f32], cached: &[f32], sizes: &[f64]) -> Result<()> {
    if live.len() != cached.len() {
        let (actual, expected) = (cached.len().to_string(), live.len().to_string());
        return Err(breach("cached_reference_is_live", 0, "the number of cached log-probs", actual, expected));
    }
    let error = |((live, cached), size): ((&f32, &f32), &f64)| (live - cached).abs() / *size as f32;
    let worst = largest(live.iter().zip(cached).zip(sizes).map(error));
    let what = "the largest difference of a cached log-prob, as a share of the size of what it is the difference of,";
    check_close("cached_reference_is_live", 0, what, worst, 0.0, Tolerance::absolute(LOGP_SHARE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_training::Error;

    fn breaks(name: &str, result: Result<()>) {
        match result {
            Err(Error::Invariant { name: actual, .. }) => assert_eq!(actual, name),
            other => panic!("{name} should break, got {other:?}"),
        }
    }

    #[test]
    fn each_holds_where_it_should_and_breaks_where_it_should() {
        let ln_2 = std::f64::consts::LN_2;
        // responses of -20 nats over 10 tokens of e^2: of size 40; β = .1
        assert!((size(-20.0, 10, 7) - (20.0 + 10.0 * 7f64.ln())).abs() < 1e-9);
        let starts = |loss, margins: &[f32], accuracy| {
            starts_at_the_reference(loss, ln_2, [1.0, 0.0], margins, 0.1 * 40.0, accuracy)
        };
        assert!(starts(ln_2, &[0.0, 0.0], 0.5).is_ok());
        breaks("starts_at_the_reference", starts(0.7, &[0.0, 0.0], 0.5));
        breaks("starts_at_the_reference", starts(ln_2, &[0.01, -0.01], 0.5));
        breaks("starts_at_the_reference", starts(ln_2, &[0.0, 0.0], 1.0));
        // IPO at β = 1000 starts at 2.5e-7: three times that is a violation, its rounding error is not
        let ipo = |loss, rounded| starts_at_the_reference(loss, 2.5e-7, [2.5e-7, rounded], &[0.0], 1e3 * 40.0, 0.5);
        breaks("starts_at_the_reference", ipo(7.5e-7, 1e-8));
        assert!(ipo(2.58e-7, 1e-8).is_ok());
        assert!(a_swap_flips_the_margin(0, &[0.3, -0.1], &[-0.3, 0.1], 4.0).is_ok());
        breaks("a_swap_flips_the_margin", a_swap_flips_the_margin(0, &[0.3], &[0.3], 4.0));
        // at β = 1000 margins are as much larger as their rounding
        assert!(a_swap_flips_the_margin(0, &[3000.0], &[-3000.01], 4e4).is_ok());
        breaks("a_swap_flips_the_margin", a_swap_flips_the_margin(0, &[3000.0], &[-2970.0], 4e4));
        assert!(the_chosen_is_preferred(0, 0.6, 0.7).is_ok());
        breaks("the_chosen_is_preferred", the_chosen_is_preferred(0, 0.7, 0.6));
        breaks("the_chosen_is_preferred", the_chosen_is_preferred(0, 0.6, 0.6));
        for beta in [1e-3, 0.1, 1e3] {
            assert!(equal_pairs_have_no_gradient(0, 1e-6 * beta, beta).is_ok());
            breaks("equal_pairs_have_no_gradient", equal_pairs_have_no_gradient(0, 1e-2 * beta, beta));
        }
        assert!(cache_is_of("the rows", "ab", "ab").is_ok());
        breaks("cache_is_of", cache_is_of("the rows", "ab", "cd"));
        let live = |live: &[f32], cached: &[f32]| cached_reference_is_live(live, cached, &[20.0, 20.0]);
        assert!(live(&[-5.0, -7.0], &[-5.0, -7.000_01]).is_ok());
        breaks("cached_reference_is_live", live(&[-5.0, -7.0], &[-7.0, -5.0]));
        breaks("cached_reference_is_live", live(&[-5.0, -7.0], &[-5.0, -7.07])); // one percent off
        breaks("cached_reference_is_live", live(&[-5.0, -7.0], &[-5.0]));
        // a value that is not finite is not a violation
        let diverged = |result| matches!(result, Err(Error::Diverged { .. }));
        assert!(diverged(starts(f64::NAN, &[0.0], 0.5)) && diverged(starts(ln_2, &[f32::NAN], 0.5)));
        assert!(diverged(equal_pairs_have_no_gradient(0, f64::INFINITY, 1.0)));
        assert!(diverged(live(&[f32::NAN, 0.0], &[0.0, 0.0])) && diverged(the_chosen_is_preferred(0, f64::NAN, 0.0)));
    }

    /// One per cent inside its tolerance each holds, one per cent outside it breaks.
    #[test]
    fn each_is_as_strict_as_its_scale_says() {
        for (factor, holds) in [(0.99, true), (1.01, false)] {
            let of = |share: f64, scale: f64| factor * share * scale;
            let reward = of(LOGP_SHARE, 4.0) as f32;
            assert_eq!(a_swap_flips_the_margin(0, &[0.0, 0.0], &[0.0, -reward], 4.0).is_ok(), holds);
            assert_eq!(equal_pairs_have_no_gradient(0, of(1e-5, 0.3), 0.3).is_ok(), holds);
            let nats = of(LOGP_SHARE, 40.0) as f32;
            assert_eq!(cached_reference_is_live(&[0.0, 0.0], &[0.0, nats], &[20.0, 40.0]).is_ok(), holds);
            // of a loss of 2.5e-7 that rounded log-probs move by 1e-12: both are allowed
            let loss = 2.5e-7 + factor * (1e-5 * 2.5e-7 + 1e-12);
            let starts = |loss, margin| starts_at_the_reference(loss, 2.5e-7, [2.5e-7, 1e-12], &[margin], 4.0, 0.5);
            assert_eq!(starts(loss, 0.0).is_ok(), holds);
            assert_eq!(starts(2.5e-7, reward).is_ok(), holds);
        }
    }
}
