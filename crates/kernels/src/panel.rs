//! All rows of a left side on one panel of the right side, with the widest vectors of the processor; and how a panel is packed.
//!
//! With AVX-512 a tile of eight rows and 32 columns is summed in registers; elsewhere the compiler makes what it can of
//! plain loops. Every entry is summed in the order of the inputs, whatever rows are computed beside it.

use crate::matrix::{Accumulate, LhsTiles, Matrix, PANEL, ROWS, RhsPanel};
use crate::simd::{VectorSet, simd_dispatch, vector_set};
#[cfg(target_arch = "x86_64")]
use crate::{panel_avx2, panel_avx512};

/// Columns `first..first + width` of a matrix, the rest of the panel 0.
pub fn pack_panel(from: Matrix<'_>, first: usize, width: usize, to: &mut [[f32; PANEL]]) {
    if from.column_step == 1 {
        for (row, to) in to.iter_mut().enumerate() {
            let row = &from.values[row * from.row_step + first..][..width];
            if width == PANEL {
                to.copy_from_slice(row);
            } else {
                to[..width].copy_from_slice(row);
                to[width..].fill(0.0);
            }
        }
        return;
    }
    if width < PANEL {
        to.as_flattened_mut().fill(0.0);
    }
    #[cfg(target_arch = "x86_64")]
    let turned = if from.row_step == 1 && width == PANEL && vector_set() >= VectorSet::Avx512 {
        #[expect(unsafe_code, reason = "`vector_set` asked the processor for AVX-512")]
        // SAFETY: as the reason says.
        unsafe {
            panel_avx512::transpose_block(&from.values[first * from.column_step..], from.column_step, to)
        }
    } else {
        0
    };
    #[cfg(not(target_arch = "x86_64"))]
    let turned = 0;
    for (row, to) in to.iter_mut().enumerate().skip(turned) {
        for (column, to) in to[..width].iter_mut().enumerate() {
            *to = from.values[row * from.row_step + (first + column) * from.column_step];
        }
    }
}

/// The transpose of 16 × 16 numbers.
pub fn transpose_lanes(block: &mut [[f32; 16]; 16]) {
    #[cfg(target_arch = "x86_64")]
    if vector_set() >= VectorSet::Avx512 {
        #[expect(unsafe_code, reason = "`vector_set` asked the processor for AVX-512")]
        // SAFETY: as the reason says.
        unsafe {
            panel_avx512::transpose_lanes(block);
        }
        return;
    }
    for row in 1..block.len() {
        let (above, below) = block.split_at_mut(row);
        for (column, above) in above.iter_mut().enumerate() {
            std::mem::swap(&mut above[row], &mut below[0][column]);
        }
    }
}

/// All rows on one panel, of which `width` columns are wanted.
pub fn panel_product(
    [rows, depth, width]: [usize; 3],
    x: LhsTiles<'_>,
    w: RhsPanel<'_>,
    y: &mut [f32],
    y_step: usize,
    over: Accumulate,
    scale: f32,
) {
    let right_holds = depth == 0 || (depth - 1) * w.step + PANEL <= w.values.len();
    assert!(x.holds(rows, depth) && right_holds && (rows - 1) * y_step + width <= y.len() && width <= PANEL);
    #[cfg(target_arch = "x86_64")]
    if vector_set() >= VectorSet::Avx512 {
        #[expect(unsafe_code, reason = "the tiles take pointers, and AVX-512")]
        // SAFETY: every entry that a tile touches lies within its slice, as asserted; `vector_set` asked the processor.
        unsafe {
            panel_avx512::panel([rows, depth, width], x, w, y, y_step, over, scale);
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if vector_set() == VectorSet::Avx2 {
        #[expect(unsafe_code, reason = "the tiles take pointers, and AVX2")]
        // SAFETY: as above.
        unsafe {
            panel_avx2::panel([rows, depth, width], x, w, y, y_step, over, scale);
        }
        return;
    }
    plain_panel([rows, depth, width], x, w, y, y_step, over, scale);
}

simd_dispatch! {
    /// As [`panel_product`], on any processor: two rows at a time, which fill the registers of AVX2.
    pub fn plain_panel(
        shape: [usize; 3],
        x: LhsTiles<'_>,
        w: RhsPanel<'_>,
        y: &mut [f32],
        y_step: usize,
        over: Accumulate,
        scale: f32,
    ) {
        let [rows, depth, width] = shape;
        let start = |row: usize| row / ROWS * x.tile_step + row % ROWS * x.row_step;
        let fused = vector_set().is_fused();
        let mut row = 0;
        while row < rows {
            let count = 2.min(rows - row);
            let starts = [start(row), start(row + count - 1)];
            let sums = if fused { two_rows::<true>(depth, x, starts, w) } else { two_rows::<false>(depth, x, starts, w) };
            for (i, sums) in sums.iter().take(count).enumerate() {
                for (y, sum) in y[(row + i) * y_step..][..width].iter_mut().zip(sums) {
                    *y = if over == Accumulate::Add { *y + sum * scale } else { sum * scale };
                }
            }
            row += count;
        }
    }
}

/// The sums of two rows on a panel; without an instruction for it, `mul_add` would be a call.
#[inline(always)]
fn two_rows<const FUSED: bool>(
    depth: usize,
    x: LhsTiles<'_>,
    starts: [usize; 2],
    w: RhsPanel<'_>,
) -> [[f32; PANEL]; 2] {
    let mut sums = [[0f32; PANEL]; 2];
    for k in 0..depth {
        let w = &w.values[k * w.step..][..PANEL];
        for (sums, start) in sums.iter_mut().zip(starts) {
            let x = x.values[start + k * x.input_step];
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = if FUSED { x.mul_add(*w, *sum) } else { *sum + x * w };
            }
        }
    }
    sums
}
