//! All rows of a left side on one panel of a right side, both in bf16, with sums in f32.

use crate::matrix::{Accumulate, PANEL};
use crate::pair::{BLOCK_PAIRS, DEPTH_PAIRS, Pair, PairPanel, unpair};
#[cfg(target_arch = "x86_64")]
use crate::simd::has_fast_bf16_products;
use crate::simd::{VectorSet, simd_dispatch, vector_set};

/// Rows of a tile where no instruction multiplies bf16.
const PLAIN_ROWS: usize = 4;
/// Columns of such a tile.
const PLAIN_COLUMNS: usize = 16;

/// All rows on one panel, of which `width` columns are wanted: `x` are rows of `depth` pairs, `x_step` apart, `w` is
/// `[depth, PANEL]`, `y` rows `y_step` apart.
///
/// # Panics
/// If a slice is too short for its shape, or `depth` above [`DEPTH_PAIRS`].
pub fn panel(
    [rows, depth, width]: [usize; 3],
    x: &[Pair],
    x_step: usize,
    w: PairPanel<'_>,
    y: &mut [f32],
    y_step: usize,
    over: Accumulate,
) {
    let holds = (rows - 1) * x_step + depth <= x.len() && depth * PANEL <= w.values.len();
    assert!(holds && (rows - 1) * y_step + width <= y.len() && width <= PANEL, "a slice is too short");
    assert!(depth <= DEPTH_PAIRS, "more pairs than are worked on at a time");
    #[cfg(target_arch = "x86_64")]
    if vector_set() >= VectorSet::Avx512 {
        #[expect(unsafe_code, reason = "the tiles take pointers, and AVX-512")]
        // SAFETY: every entry that a tile touches lies within its slice, as asserted; `vector_set` asked the processor.
        unsafe {
            if has_fast_bf16_products() {
                crate::panel_avx512_bf16::panel([rows, depth, width], x, x_step, w, y, y_step, over);
            } else {
                crate::panel_avx512_pairs::panel([rows, depth, width], x, x_step, w, y, y_step, over);
            }
        }
        return;
    }
    plain_panel([rows, depth, width], x, x_step, w.values, y, y_step, over);
}

simd_dispatch! {
    /// As [`panel`], on any processor, with the same results.
    pub fn plain_panel(
        shape: [usize; 3],
        x: &[Pair],
        x_step: usize,
        w: &[Pair],
        y: &mut [f32],
        y_step: usize,
        over: Accumulate,
    ) {
        let [rows, depth, width] = shape;
        let fused = vector_set().is_fused();
        let w = &w.as_chunks::<PANEL>().0[..depth];
        for row in (0..rows).step_by(PLAIN_ROWS) {
            let count = PLAIN_ROWS.min(rows - row);
            let x: [&[Pair]; PLAIN_ROWS] = std::array::from_fn(|i| &x[(row + i.min(count - 1)) * x_step..][..depth]);
            for first in (0..width).step_by(PLAIN_COLUMNS) {
                let sums = if fused { tile::<true>(x, w, first) } else { tile::<false>(x, w, first) };
                for (i, sums) in sums.iter().take(count).enumerate() {
                    let columns = PLAIN_COLUMNS.min(width - first);
                    for (y, sum) in y[(row + i) * y_step + first..][..columns].iter_mut().zip(sums) {
                        *y = if over == Accumulate::Add { *y + sum } else { *sum };
                    }
                }
            }
        }
    }
}

/// The sums of some rows on some columns. Products are exact, so that `FUSED` changes no number; without an instruction for
/// it, `mul_add` would be a call.
#[inline(always)]
fn tile<const FUSED: bool>(
    x: [&[Pair]; PLAIN_ROWS],
    w: &[[Pair; PANEL]],
    first: usize,
) -> [[f32; PLAIN_COLUMNS]; PLAIN_ROWS] {
    let add = |sum: f32, x: f32, w: f32| if FUSED { x.mul_add(w, sum) } else { sum + x * w };
    let mut sums = [[0f32; PLAIN_COLUMNS]; PLAIN_ROWS];
    for (k, w) in w.iter().enumerate() {
        let w = &w[first..first + PLAIN_COLUMNS];
        for (sums, x) in sums.iter_mut().zip(x) {
            let [x_even, x_odd] = unpair(x[k]);
            for (sum, w) in sums.iter_mut().zip(w) {
                let [even, odd] = unpair(*w);
                *sum = add(add(*sum, x_odd, odd), x_even, even);
            }
        }
    }
    sums
}

/// The transpose of a block of 32 inputs and 32 columns: `[pair of inputs][column]` to `[pair of columns][input]`.
pub fn turn_block(from: &[Pair], to: &mut [Pair]) {
    let (from, to) = (from.as_chunks::<PANEL>().0, to.as_chunks_mut::<PANEL>().0);
    assert!(from.len() == BLOCK_PAIRS && to.len() == BLOCK_PAIRS, "a slice is too short");
    #[cfg(target_arch = "x86_64")]
    if vector_set() >= VectorSet::Avx512 {
        #[expect(unsafe_code, reason = "`vector_set` asked the processor for AVX-512")]
        // SAFETY: as the reason says.
        unsafe {
            crate::panel_avx512_bf16::turn_block(from, to);
        }
        return;
    }
    plain_turn_block(from, to);
}

/// As [`turn_block`], on any processor.
fn plain_turn_block(from: &[[Pair; PANEL]], to: &mut [[Pair; PANEL]]) {
    for (inputs, row) in from.iter().enumerate() {
        for (columns, [left, right]) in row.as_chunks::<2>().0.iter().enumerate() {
            to[columns][2 * inputs] = left & 0xffff | right << 16;
            to[columns][2 * inputs + 1] = left >> 16 | right & 0xffff_0000;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(n: usize, seed: u32) -> Vec<Pair> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((120 + (state >> 12) % 16) << 7) | (state >> 16) & 0x807f // from 2⁻⁷ to 2⁹, so that sums are rounded in every order
        };
        (0..n).map(|_| next() | next() << 16).collect()
    }

    type Tiles = fn([usize; 3], &[Pair], usize, PairPanel<'_>, &mut [f32], usize, Accumulate);

    /// The one that is chosen, and each that the processor could run.
    fn tiles_of_this_processor() -> Vec<Tiles> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "others exist on x86-64"))]
        let mut tiles: Vec<Tiles> = vec![panel];
        #[cfg(target_arch = "x86_64")]
        {
            #[expect(unsafe_code, reason = "`vector_set` asked the processor")]
            if vector_set() >= VectorSet::Avx512 {
                // SAFETY: as the reason says; slices as `panel` asserts.
                tiles.push(|shape, x, x_step, w, y, y_step, over| unsafe {
                    crate::panel_avx512_pairs::panel(shape, x, x_step, w, y, y_step, over);
                });
            }
            #[expect(unsafe_code, reason = "`vector_set` asked the processor")]
            if vector_set() == VectorSet::Avx512Bf16 {
                // SAFETY: as above.
                tiles.push(|shape, x, x_step, w, y, y_step, over| unsafe {
                    crate::panel_avx512_bf16::panel(shape, x, x_step, w, y, y_step, over);
                });
            }
        }
        tiles
    }

    #[test]
    fn every_way_to_sum_gives_the_same_bits() {
        for [rows, depth, width] in [[1, 1, 1], [3, 5, 7], [8, 16, 32], [9, 33, 31], [17, 256, 32], [5, 100, 16]] {
            let (x, w) = (pairs(rows * (depth + 3), 1), pairs(depth * PANEL, 2));
            for over in [Accumulate::Add, Accumulate::Write] {
                let before: Vec<f32> = (0..rows * 40).map(|i| i as f32 / 7.0).collect();
                let mut plain = before.clone();
                plain_panel([rows, depth, width], &x, depth + 3, &w, &mut plain, 40, over);
                for tile in tiles_of_this_processor() {
                    let mut wide = before.clone();
                    tile([rows, depth, width], &x, depth + 3, PairPanel { values: &w, next: 0 }, &mut wide, 40, over);
                    assert_eq!(wide, plain, "{rows} {depth} {width}");
                }
                let products = |i: usize, j: usize| -> Vec<f64> {
                    let pairs = (0..depth).map(|k| (unpair(x[i * (depth + 3) + k]), unpair(w[k * PANEL + j])));
                    pairs.flat_map(|(x, w)| (0..2).map(move |half| f64::from(x[half]) * f64::from(w[half]))).collect()
                };
                for (index, (actual, before)) in plain.iter().zip(&before).enumerate() {
                    let (i, j) = (index / 40, index % 40);
                    let initial = if over == Accumulate::Add { f64::from(*before) } else { 0.0 };
                    if j >= width {
                        assert_eq!(actual, before);
                        continue;
                    }
                    let products = products(i, j);
                    let expected = initial + products.iter().sum::<f64>();
                    let scale = initial.abs() + products.iter().map(|x| x.abs()).sum::<f64>();
                    assert!((f64::from(*actual) - expected).abs() <= 1e-6 * scale, "{i} {j}: {actual}, {expected}");
                }
            }
        }
    }

    #[test]
    fn a_block_turns_to_the_same_bits_everywhere() {
        let from = pairs(BLOCK_PAIRS * PANEL, 3);
        let [mut wide, mut plain] = [vec![0; from.len()], vec![0; from.len()]];
        turn_block(&from, &mut wide);
        plain_turn_block(from.as_chunks().0, plain.as_chunks_mut().0);
        assert_eq!(wide, plain);
        let number = |pairs: &[Pair], input: usize, column: usize| unpair(pairs[input / 2 * PANEL + column])[input % 2];
        for (input, column) in [(0, 0), (1, 0), (0, 1), (31, 30), (7, 20)] {
            assert_eq!(number(&from, input, column), number(&plain, column, input));
        }
    }
}
