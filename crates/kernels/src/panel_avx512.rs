//! Tiles whose sums stay in registers of AVX-512: left to itself the compiler makes vectors of the rows.
#![expect(unsafe_code, reason = "loads and stores of whole registers")]

use crate::matrix::{Accumulate, LhsTiles, PANEL, ROWS, RhsPanel};
use std::arch::x86_64::{
    __m512, _MM_HINT_T1, _mm_prefetch, _mm512_castpd_ps, _mm512_castps_pd, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};

/// Tiles that ask memory for what is read next.
const AHEAD_TILES: usize = 8;

/// # Safety
/// The processor has AVX-512; `x` holds `[rows, depth]`, `w` `[depth, PANEL]`, `y` rows of `width` numbers.
#[target_feature(enable = "avx512f")]
pub unsafe fn panel(
    [rows, depth, width]: [usize; 3],
    x: LhsTiles<'_>,
    w: RhsPanel<'_>,
    y: &mut [f32],
    y_step: usize,
    over: Accumulate,
    scale: f32,
) {
    let masks = [mask(width), mask(width.saturating_sub(16))];
    let tiles = rows.div_ceil(ROWS);
    for tile_at in 0..tiles {
        let ahead_step = if w.next > 0 { ahead_step(tile_at, tiles) } else { 0 };
        let ahead = w.values.as_ptr().wrapping_add(w.next + tile_at * depth * ahead_step);
        let params = TileParams { depth, masks, y_step, over, scale, ahead, ahead_step };
        // SAFETY: the caller's.
        unsafe {
            let x_tile = x.values.as_ptr().add(tile_at * x.tile_step);
            let y_tile = y.as_mut_ptr().add(tile_at * ROWS * y_step);
            match rows - tile_at * ROWS {
                1 => tile::<1, 2>(x_tile, x, w, y_tile, params),
                2 => tile::<2, 2>(x_tile, x, w, y_tile, params),
                3 => tile::<3, 2>(x_tile, x, w, y_tile, params),
                4 => tile::<4, 2>(x_tile, x, w, y_tile, params),
                5 => tile::<5, 2>(x_tile, x, w, y_tile, params),
                6 => tile::<6, 2>(x_tile, x, w, y_tile, params),
                7 => tile::<7, 2>(x_tile, x, w, y_tile, params),
                _ if width <= 16 => tile::<ROWS, 1>(x_tile, x, w, y_tile, params),
                _ => tile::<ROWS, 2>(x_tile, x, w, y_tile, params),
            }
        }
    }
}

/// What all tiles of a panel share.
#[derive(Clone, Copy)]
struct TileParams {
    depth: usize,
    masks: [u16; 2],
    y_step: usize,
    over: Accumulate,
    scale: f32,
    /// What a tile asks of memory beforehand, `ahead_step` numbers an input.
    ahead: *const f32,
    ahead_step: usize,
}

/// `M` rows from `x_tile` on; `H` halves of the panel are wanted.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn tile<const M: usize, const H: usize>(
    x_tile: *const f32,
    x: LhsTiles<'_>,
    w: RhsPanel<'_>,
    y: *mut f32,
    params: TileParams,
) {
    let TileParams { depth, masks, y_step, over, scale, ahead, ahead_step } = params;
    let mut sums = [[_mm512_setzero_ps(); H]; M];
    let (mut x_at, mut w_at) = (x_tile, w.values.as_ptr());
    for k in 0..depth {
        // SAFETY: the caller's: there are so many inputs.
        unsafe {
            if ahead_step > 0 {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(k * ahead_step).cast()); // reads nothing, wherever it points
            }
            let mut w = [_mm512_setzero_ps(); H];
            w.iter_mut().enumerate().for_each(|(half, w)| *w = _mm512_loadu_ps(w_at.add(16 * half)));
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_ps(*x_at.add(i * x.row_step));
                sums.iter_mut().zip(w).for_each(|(sum, w)| *sum = _mm512_fmadd_ps(x, w, *sum));
            }
        }
        x_at = x_at.wrapping_add(x.input_step);
        w_at = w_at.wrapping_add(w.step);
    }
    let scale = _mm512_set1_ps(scale);
    for (i, sums) in sums.iter().enumerate() {
        for (half, (sum, mask)) in sums.iter().zip(masks).enumerate() {
            // SAFETY: the caller's; lanes beyond the width are neither read nor written.
            unsafe {
                let y = y.wrapping_add(i * y_step + 16 * half);
                let sum = match over {
                    Accumulate::Add => _mm512_fmadd_ps(*sum, scale, _mm512_maskz_loadu_ps(mask, y)),
                    Accumulate::Write => _mm512_mul_ps(*sum, scale),
                };
                _mm512_mask_storeu_ps(y, mask, sum);
            }
        }
    }
}

/// Whole blocks of 16 inputs of a panel whose columns stand contiguous, `step` apart; returns the inputs done.
#[target_feature(enable = "avx512f")]
pub fn transpose_block(columns: &[f32], step: usize, to: &mut [[f32; PANEL]]) -> usize {
    let blocks = to.as_chunks_mut::<16>().0;
    for (block, to) in blocks.iter_mut().enumerate() {
        for half in [0, 16] {
            let mut x = [_mm512_setzero_ps(); 16];
            for (column, x) in x.iter_mut().enumerate() {
                let sixteen = &columns[(half + column) * step + block * 16..][..16];
                // SAFETY: sixteen numbers.
                *x = unsafe { _mm512_loadu_ps(sixteen.as_ptr()) };
            }
            for (row, x) in to.iter_mut().zip(transposed(x)) {
                // SAFETY: half a panel's row.
                unsafe { _mm512_storeu_ps(row[half..half + 16].as_mut_ptr(), x) };
            }
        }
    }
    blocks.len() * 16
}

/// The transpose of 16 × 16 numbers, in memory.
#[target_feature(enable = "avx512f")]
pub fn transpose_lanes(block: &mut [[f32; 16]; 16]) {
    // SAFETY: sixteen numbers each.
    let rows = block.each_ref().map(|row| unsafe { _mm512_loadu_ps(row.as_ptr()) });
    for (row, x) in block.iter_mut().zip(transposed(rows)) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(row.as_mut_ptr(), x) };
    }
}

/// The transpose of 16 × 16 numbers: pairs, pairs of pairs, then the quarters of the registers.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(x: [__m512; 16]) -> [__m512; 16] {
    let mut quads = x;
    for g in (0..16).step_by(4) {
        let [a, b, c, d] = [x[g], x[g + 1], x[g + 2], x[g + 3]];
        let [low, low2] = [_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d)].map(|x| _mm512_castps_pd(x));
        let [high, high2] = [_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d)].map(|x| _mm512_castps_pd(x));
        quads[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2));
        quads[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2));
        quads[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2));
        quads[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2));
    }
    let mut out = quads;
    for j in 0..4 {
        let [a, b, c, d] = [quads[j], quads[4 + j], quads[8 + j], quads[12 + j]];
        let [even, even2] = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d)];
        let [odd, odd2] = [_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d)];
        out[j] = _mm512_shuffle_f32x4::<0x88>(even, even2);
        out[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd, odd2);
        out[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even, even2);
        out[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd, odd2);
    }
    out
}

/// Numbers that a tile asks of memory an input: each of the first tiles its share of what is read next, while one alone waits for
/// memory in any case.
pub fn ahead_step(tile: usize, tiles: usize) -> usize {
    let asking = tiles.min(AHEAD_TILES);
    if tiles > 1 && tile < asking { PANEL.div_ceil(asking) } else { 0 }
}

/// The first so many lanes of a register.
pub fn mask(lanes: usize) -> u16 {
    if lanes >= 16 { u16::MAX } else { (1 << lanes) - 1 }
}
