//! How far rounding alone moves a reading of a model: the second opinion on a check that failed.

use crate::{Error, Result, invariants::diverged};
use burn::module::Module;
use duel_model::weights;

/// A reading may be off by this many times the change that one rounding of the weights causes: there are as many roundings
/// between weights and reading as there are weights.
const ROUNDINGS: f64 = 16.0;
/// A reading that changes by this much, in nats or relatively, with the last bit of the weights is meaningless.
const LOST: f64 = 1e-2;

/// The module with each weight moved by its last bit, up or down by a fixed pattern.
pub fn nudged<M: Module>(module: &M) -> M {
    let mut weights = weights::flatten(module);
    for (i, w) in weights.iter_mut().enumerate() {
        let up = (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 1; // Fibonacci hashing: no row or column is all up
        *w *= if up { 1.0 + f32::EPSILON } else { 1.0 - f32::EPSILON };
    }
    weights::unflatten(module.clone(), &weights)
}

/// Excuses a failed check if rounding explains it: `nudge_change` is how far the reading, off by `error`, moves when the
/// weights are [`nudged`].
///
/// # Errors
/// The failed check if it is more than rounding; [`Error::Diverged`] if the weights are so large that f32 readings of them
/// are meaningless.
pub fn unless_rounding(result: Result<()>, error: f64, nudge_change: impl FnOnce() -> f64) -> Result<()> {
    let Err(Error::Invariant { step, what, .. }) = &result else { return result };
    let change = nudge_change();
    if error > ROUNDINGS * change {
        return result;
    }
    if change <= LOST {
        return Ok(());
    }
    Err(diverged(*step, &format!("{what}, already when the last bit of each weight changes,"), change))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::{Tolerance, check_close};
    use burn::module::Param;
    use burn::tensor::{Device, Tensor, TensorData};

    #[test]
    fn a_breach_is_rounding_a_divergence_or_a_breach() {
        let check = |error, change: f64| {
            let result = check_close("test", 3, "a reading", error, 0.0, Tolerance::absolute(1e-5));
            unless_rounding(result, error, || change)
        };
        assert!(check(1e-6, f64::NAN).is_ok(), "a check that holds does not look at rounding");
        assert!(check(1e-3, 1e-4).is_ok());
        assert!(matches!(check(1e-3, 1e-5), Err(Error::Invariant { name: "test", step: 3, .. })));
        assert!(matches!(check(0.3, 0.1), Err(Error::Diverged { step: 3, .. })));
        assert!(matches!(check(0.3, f64::NAN), Err(Error::Diverged { .. })), "a nudge makes it NaN");
        assert!(matches!(check(f64::NAN, 0.0), Err(Error::Diverged { .. })), "finite first");
        // 16 times the change is excused and no more; so is a change of .01 and no larger one
        let change = 2f64.powi(-10);
        assert!(check(16.0 * change, change).is_ok());
        assert!(matches!(check(16.001 * change, change), Err(Error::Invariant { .. })));
        assert!(check(0.1, 0.01).is_ok());
        match check(0.1, 0.0101) {
            Err(Error::Diverged { value, what, .. }) => {
                assert!(value == 0.0101 && what.starts_with("a reading, already"))
            }
            other => panic!("{other:?}"),
        }
    }

    #[derive(Module, Debug)]
    struct Square {
        w: Param<Tensor<2>>,
    }

    #[test]
    fn a_nudge_moves_every_weight_by_its_last_bit_in_no_regular_pattern() {
        let n = 16;
        let before: Vec<f32> = (0..n * n).map(|i| [1.0, -3.0, 0.5, 1e-3][i % 4] * (1.0 + i as f32)).collect();
        let data = TensorData::new(before.clone(), [n, n]);
        let module = nudged(&Square { w: Param::from_tensor(Tensor::from_data(data, &Device::flex())) });
        let after = weights::flatten(&module);
        let steps = before.iter().zip(&after).map(|(a, b)| i64::from(b.to_bits()) - i64::from(a.to_bits()));
        let steps: Vec<i64> = steps.collect();
        assert!(steps.iter().all(|step| (1..=2).contains(&step.abs())), "{steps:?}");
        let is_mixed = |line: &[i64]| line.iter().any(|&step| step > 0) && line.iter().any(|&step| step < 0);
        let columns: Vec<Vec<i64>> = (0..n).map(|j| (0..n).map(|i| steps[i * n + j]).collect()).collect();
        assert!(steps.chunks(n).all(is_mixed) && columns.iter().all(|column| is_mixed(column)), "{steps:?}");
        // Fibonacci hashing: up where the fractional part of i/φ is at least a half
        let is_up = |i: usize| (i as f64 * (5f64.sqrt() - 1.0) / 2.0).fract() >= 0.5;
        assert!(steps.iter().enumerate().all(|(i, &step)| (step > 0) == is_up(i)), "{steps:?}");
        let up = steps.iter().filter(|&&step| step > 0).count();
        assert!((96..=160).contains(&up), "{up} of 256 up");
        let zero = Square { w: Param::from_tensor(Tensor::zeros([2, 2], &Device::flex())) };
        assert_eq!(weights::flatten(&nudged(&zero)), [0.0; 4]);
    }
}
