//! Numbers of bf16, two of neighbouring inputs side by side.

use crate::matrix::PANEL;
use crate::simd::simd_dispatch;

/// Two bf16 numbers of neighbouring inputs, the even one in the low half.
pub type Pair = u32;

/// Pairs of inputs of a block that can be turned.
pub const BLOCK_PAIRS: usize = PANEL / 2;

/// Pairs of inputs of a panel worked on at a time: they stay in the first cache.
pub const DEPTH_PAIRS: usize = 256;

/// A panel: rows of 32 pairs.
#[derive(Debug, Clone, Copy)]
pub struct PairPanel<'a> {
    pub values: &'a [Pair],
    /// How far on the panel begins that will be read next: it comes from memory while this one is worked on.
    pub next: usize,
}

/// The bits of the nearest bf16 number, ties to even; 0 for numbers below 2⁻¹²⁶.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let rounded = if bits & 0x7f80_0000 == 0 { rounded & 0x8000 } else { rounded };
    if x.is_nan() { 0x7fc0 } else { rounded }
}

/// The two numbers of a pair.
#[inline(always)]
pub fn unpair(pair: Pair) -> [f32; 2] {
    [f32::from_bits(pair << 16), f32::from_bits(pair & 0xffff_0000)]
}

/// Two numbers rounded.
#[inline(always)]
pub fn pair(even: f32, odd: f32) -> Pair {
    bf16_bits(even) | bf16_bits(odd) << 16
}

simd_dispatch! {
    /// A row rounded; an odd one ends with a zero.
    pub fn round_row(row: &[f32], to: &mut [Pair]) {
        let (twos, rest) = row.as_chunks::<2>();
        for (to, [even, odd]) in to.iter_mut().zip(twos) {
            *to = pair(*even, *odd);
        }
        if let ([last], Some(to)) = (rest, to.last_mut()) {
            *to = pair(*last, 0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounded(x: f32) -> f32 {
        unpair(pair(x, 0.0))[0]
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        let one_and_a_half_steps = 1.0 + 1.5 * 2f32.powi(-7);
        for (x, expected) in [
            (0.0, 0.0),
            (-0.0, -0.0),
            (1.0, 1.0),
            (-2.5, -2.5),
            (1.0 + 2f32.powi(-9), 1.0),
            (1.0 + 2f32.powi(-8), 1.0), // a tie, to even
            (one_and_a_half_steps, 1.0 + 2.0 * 2f32.powi(-7)),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
            (f32::MIN_POSITIVE, f32::MIN_POSITIVE),
            (f32::MIN_POSITIVE / 2.0, 0.0),
            (f32::MIN_POSITIVE.next_down(), 0.0), // which would be rounded up
            (-1e-40, -0.0),
        ] {
            assert_eq!(rounded(x).to_bits(), f32::to_bits(expected), "{x}");
        }
        assert!(rounded(f32::NAN).is_nan() && rounded(f32::from_bits(0x7fff_ffff)).is_nan());
    }

    #[test]
    fn a_row_is_rounded_in_pairs() {
        let mut to = [u32::MAX; 2];
        round_row(&[1.0, -2.5, 1.0 + 2f32.powi(-9)], &mut to);
        assert_eq!(to.map(unpair), [[1.0, -2.5], [1.0, 0.0]]);
    }
}
