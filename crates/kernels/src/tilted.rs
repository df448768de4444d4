//! Sums over a distribution that is tilted by a reward, in f64.

use crate::simd::{LANES, exp_f64, simd_dispatch};

simd_dispatch! {
    /// `Z = Σ exp(q + g)` and `Σ exp(q + g)·g` of log-probs q and `g = (r − shift)·rate` of rewards r; `q + g` may be 700 at most.
    pub fn tilted_sums(logp: &[f64], reward: &[f64], shift: f64, rate: f64) -> [f64; 2] {
        let (mut z, mut sum) = ([0f64; LANES], [0f64; LANES]);
        let (q, r) = (logp.as_chunks::<LANES>(), reward.as_chunks::<LANES>());
        let mut add = |q: &[f64], r: &[f64]| {
            for (((z, sum), q), r) in z.iter_mut().zip(&mut sum).zip(q).zip(r) {
                let tilt = (r - shift) * rate;
                let weight = exp_f64(q + tilt);
                *z += weight;
                *sum += weight * tilt;
            }
        };
        q.0.iter().zip(r.0).for_each(|(q, r)| add(q, r));
        add(q.1, r.1);
        [z, sum].map(|lanes| lanes.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_plain_loops() {
        for n in [0, 1, 15, 16, 33, 1000] {
            let logp: Vec<f64> = (0..n).map(|i| -0.01 * f64::from(i)).collect();
            let reward: Vec<f64> = (0..n).map(|i| f64::from(i * i % 17)).collect();
            let [z, sum] = tilted_sums(&logp, &reward, 16.0, 0.5);
            let (mut expected_z, mut expected_sum) = (0.0, 0.0);
            for (q, r) in logp.iter().zip(&reward) {
                let tilt = (r - 16.0) / 2.0;
                expected_z += (q + tilt).exp();
                expected_sum += (q + tilt).exp() * tilt;
            }
            assert!((z - expected_z).abs() <= 1e-13 * expected_z, "{n}: {z}, {expected_z}");
            assert!((sum - expected_sum).abs() <= 1e-13 * expected_sum.abs(), "{n}: {sum}, {expected_sum}");
        }
        // what is impossible has no part
        assert_eq!(tilted_sums(&[f64::NEG_INFINITY, 0.0], &[2.0, 1.0], 1.0, 1.0), [1.0, 0.0]);
    }
}
