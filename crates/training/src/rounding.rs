//! How far rounding alone moves what is read of a model: the last word on a check that failed.

use crate::{Error, Result, invariants::diverged};
use burn::module::Module;
use duel_model::weights;

/// A reading may stray so many times as far as one rounding of the weights moves it: there are as many roundings on the
/// way from weights to readings as there are weights.
const ROUNDINGS: f64 = 16.0;
/// From here on, in nats or as a share, a reading that moves so far with the last bit of the weights says nothing.
const LOST: f64 = 1e-2;

/// The module with each weight moved by its last bit, up or down by a pattern.
pub fn nudged<M: Module>(module: &M) -> M {
    let mut weights = weights::flatten(module);
    for (i, w) in weights.iter_mut().enumerate() {
        let up = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 1; // Fibonacci hashing: no row or column is all up
        *w *= if up { 1.0 + f32::EPSILON } else { 1.0 - f32::EPSILON };
    }
    weights::unflatten(module.clone(), &weights)
}

/// A check, and where it fails, whether that is rounding: `moved` is how far what was `found` moves when the weights are
/// [`nudged`]. If it is, the check holds while readings are still worth something.
///
/// # Errors
/// The breach, if it is more than rounding; [`Error::Diverged`] if the weights have grown so far that nothing can be read of
/// them in f32.
pub fn unless_rounding(checked: Result<()>, found: f64, moved: impl FnOnce() -> f64) -> Result<()> {
    let Err(Error::Invariant { step, what, .. }) = &checked else { return checked };
    let moved = moved();
    if found > ROUNDINGS * moved {
        return checked;
    }
    if moved <= LOST {
        return Ok(());
    }
    Err(diverged(*step, &format!("{what}, already when the last bit of each weight changes,"), moved))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::{Tolerance, check_close};

    #[test]
    fn a_breach_is_rounding_a_divergence_or_a_breach() {
        let check = |found, moved: f64| {
            let checked = check_close("test", 3, "a reading", found, 0.0, Tolerance::absolute(1e-5));
            unless_rounding(checked, found, || moved)
        };
        assert!(check(1e-6, f64::NAN).is_ok(), "holds: nobody asks what rounding does");
        assert!(check(1e-3, 1e-4).is_ok());
        assert!(matches!(check(1e-3, 1e-5), Err(Error::Invariant { name: "test", step: 3, .. })));
        assert!(matches!(check(0.3, 0.1), Err(Error::Diverged { step: 3, .. })));
        assert!(matches!(check(0.3, f64::NAN), Err(Error::Diverged { .. })), "a nudge makes it NaN");
        assert!(matches!(check(f64::NAN, 0.0), Err(Error::Diverged { .. })), "finite first");
    }
}
