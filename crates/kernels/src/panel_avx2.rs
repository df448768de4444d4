//! Tiles whose sums stay in registers of AVX2: six rows on half a panel take twelve of the sixteen, and each number that is
//! loaded is used in several products, so that the multiplications set the pace.
#![expect(unsafe_code, reason = "loads and stores of whole registers")]

use crate::matrix::{Accumulate, LhsTiles, PANEL, ROWS, RhsPanel};
use std::arch::x86_64::{
    _MM_HINT_T1, _mm_prefetch, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps,
    _mm256_setzero_ps, _mm256_storeu_ps,
};

/// Rows of a tile, and its columns.
const TILE_ROWS: usize = 6;
const HALF_PANEL: usize = PANEL / 2;

/// # Safety
/// The processor has AVX2 and FMA; `x` holds `[rows, depth]`, `w` `[depth, PANEL]`, `y` rows of `width` numbers.
#[target_feature(enable = "avx2,fma")]
pub unsafe fn panel(
    [rows, depth, width]: [usize; 3],
    x: LhsTiles<'_>,
    w: RhsPanel<'_>,
    y: &mut [f32],
    y_step: usize,
    over: Accumulate,
    scale: f32,
) {
    let params = TileParams { depth, input_step: x.input_step, w_step: w.step, over, scale };
    let tiles = rows.div_ceil(TILE_ROWS);
    let start = |row: usize| x.values.as_ptr().wrapping_add(row / ROWS * x.tile_step + row % ROWS * x.row_step);
    for first in (0..width).step_by(HALF_PANEL) {
        let columns = HALF_PANEL.min(width - first);
        let begin = w.values.as_ptr().wrapping_add(first);
        // tiles of nearly equal height: a low one loads as much for fewer products
        let tall = rows.div_ceil(tiles);
        for (i, row) in (0..rows).step_by(tall).enumerate() {
            let y = y.as_mut_ptr().wrapping_add(row * y_step + first);
            // each tile asks for its share of the next panel, evenly: memory has as long for it as the products take
            let share = (first / HALF_PANEL * tiles + i) * depth * HALF_PANEL / tiles;
            let ahead =
                Prefetch { at: w.values.as_ptr().wrapping_add(w.next + share), step: HALF_PANEL.div_ceil(tiles) };
            let out_tile = OutTile { y, y_step, columns };
            // SAFETY: the caller's: `count` rows from `row` on are there.
            unsafe {
                match tall.min(rows - row) {
                    1 => tile([start(row)], begin, ahead, out_tile, params),
                    2 => tile([start(row), start(row + 1)], begin, ahead, out_tile, params),
                    3 => tile(std::array::from_fn::<_, 3, _>(|i| start(row + i)), begin, ahead, out_tile, params),
                    4 => tile(std::array::from_fn::<_, 4, _>(|i| start(row + i)), begin, ahead, out_tile, params),
                    5 => tile(std::array::from_fn::<_, 5, _>(|i| start(row + i)), begin, ahead, out_tile, params),
                    _ => {
                        tile(std::array::from_fn::<_, TILE_ROWS, _>(|i| start(row + i)), begin, ahead, out_tile, params)
                    }
                }
            }
        }
    }
}

/// Where a tile's sums go.
#[derive(Clone, Copy)]
struct OutTile {
    y: *mut f32,
    y_step: usize,
    columns: usize,
}

/// What is asked of memory beforehand, a line an input.
#[derive(Clone, Copy)]
struct Prefetch {
    at: *const f32,
    step: usize,
}

/// What all tiles of a panel share.
#[derive(Clone, Copy)]
struct TileParams {
    depth: usize,
    input_step: usize,
    w_step: usize,
    over: Accumulate,
    scale: f32,
}

/// Rows that begin at `x`, on half a panel at `w`.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn tile<const M: usize>(x: [*const f32; M], w: *const f32, ahead: Prefetch, to: OutTile, params: TileParams) {
    let OutTile { y, y_step, columns } = to;
    let mut sums = [[_mm256_setzero_ps(); 2]; M];
    let (mut at, mut w, mut ahead_at) = (0, w, ahead.at);
    for _ in 0..params.depth {
        // SAFETY: the caller's: there are so many inputs.
        unsafe {
            let pair = [_mm256_loadu_ps(w), _mm256_loadu_ps(w.add(8))];
            for (x, sums) in x.iter().zip(&mut sums) {
                let x = _mm256_broadcast_ss(&*x.add(at));
                *sums = [_mm256_fmadd_ps(x, pair[0], sums[0]), _mm256_fmadd_ps(x, pair[1], sums[1])];
            }
            _mm_prefetch::<_MM_HINT_T1>(ahead_at.cast()); // reads nothing, wherever it points
        }
        ahead_at = ahead_at.wrapping_add(ahead.step);
        at = at.wrapping_add(params.input_step);
        w = w.wrapping_add(params.w_step);
    }
    let scale = _mm256_set1_ps(params.scale);
    for (i, sums) in sums.iter().enumerate() {
        let row = y.wrapping_add(i * y_step);
        // half a panel may reach past what is wanted: then the row passes through memory of its own
        let mut buffer = [0f32; HALF_PANEL];
        // SAFETY: the caller's; of a row no more than `columns` numbers are read and written.
        unsafe {
            let is_whole = columns == HALF_PANEL;
            if !is_whole && params.over == Accumulate::Add {
                std::ptr::copy_nonoverlapping(row, buffer.as_mut_ptr(), columns);
            }
            let to = if is_whole { row } else { buffer.as_mut_ptr() };
            for (half, sum) in sums.iter().enumerate() {
                let to = to.add(8 * half);
                let sum = match params.over {
                    Accumulate::Add => _mm256_fmadd_ps(*sum, scale, _mm256_loadu_ps(to)),
                    Accumulate::Write => _mm256_mul_ps(*sum, scale),
                };
                _mm256_storeu_ps(to, sum);
            }
            if !is_whole {
                std::ptr::copy_nonoverlapping(buffer.as_ptr(), row, columns);
            }
        }
    }
}
