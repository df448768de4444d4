//! Tiles of bf16 whose sums stay in registers of AVX-512, multiplied as f32: where the processor has no `vdpbf16ps`, or a slow one.
#![expect(unsafe_code, reason = "loads and stores of whole registers")]

use crate::matrix::{Accumulate, PANEL, ROWS};
use crate::pair::{DEPTH_PAIRS, Pair, PairPanel};
use crate::panel_avx512::{ahead_step, mask};
use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T1, _mm_prefetch, _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_fmadd_ps,
    _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_epi32, _mm512_maskz_loadu_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};

/// A row of the left side as f32: its even numbers, then its odd ones, and a line that keeps rows apart in the cache.
type WideRow = [f32; 2 * DEPTH_PAIRS + 16];

/// The same bits as [`crate::panel_bf16::plain_panel`].
///
/// # Safety
/// The processor has AVX-512; `x` holds rows of `depth` pairs, at most [`DEPTH_PAIRS`], `w` `[depth, PANEL]`, `y` rows of `width` numbers.
#[target_feature(enable = "avx512f")]
pub unsafe fn panel(
    [rows, depth, width]: [usize; 3],
    x: &[Pair],
    x_step: usize,
    w: PairPanel<'_>,
    y: &mut [f32],
    y_step: usize,
    over: Accumulate,
) {
    let masks = [mask(width), mask(width.saturating_sub(16))];
    let tiles = rows.div_ceil(ROWS);
    let mut wide: [WideRow; ROWS] = [[0.0; 2 * DEPTH_PAIRS + 16]; ROWS];
    for (index, first) in (0..rows).step_by(ROWS).enumerate() {
        let count = ROWS.min(rows - first);
        for (row, wide) in wide[..count].iter_mut().enumerate() {
            widen_row(&x[(first + row) * x_step..][..depth], wide);
        }
        let step = ahead_step(index, tiles);
        let ahead = w.values.as_ptr().wrapping_add(w.next + index * depth * step);
        let params = TileParams { depth, masks, y_step, over, ahead, ahead_step: step };
        // SAFETY: the caller's.
        unsafe {
            let (w, y) = (w.values.as_ptr(), y.as_mut_ptr().add(first * y_step));
            match count {
                1 => tile::<1>(&wide, w, y, params),
                2 => tile::<2>(&wide, w, y, params),
                3 => tile::<3>(&wide, w, y, params),
                4 => tile::<4>(&wide, w, y, params),
                5 => tile::<5>(&wide, w, y, params),
                6 => tile::<6>(&wide, w, y, params),
                7 => tile::<7>(&wide, w, y, params),
                _ => tile::<ROWS>(&wide, w, y, params),
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
    /// What a tile asks of memory beforehand, `ahead_step` pairs an input pair.
    ahead: *const Pair,
    ahead_step: usize,
}

/// The even and the odd numbers of sixteen pairs.
#[target_feature(enable = "avx512f")]
#[inline]
fn widened(pairs: __m512i) -> [__m512; 2] {
    let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
    [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
}

/// A row of pairs as f32.
#[target_feature(enable = "avx512f")]
#[inline]
fn widen_row(row: &[Pair], wide: &mut WideRow) {
    for (index, pairs) in row.chunks(16).enumerate() {
        // SAFETY: lanes beyond the row are not read; both halves have room for whole registers.
        unsafe {
            let [even, odd] = widened(_mm512_maskz_loadu_epi32(mask(pairs.len()), pairs.as_ptr().cast()));
            let to = wide.as_mut_ptr().add(16 * index);
            _mm512_storeu_ps(to, even);
            _mm512_storeu_ps(to.add(DEPTH_PAIRS), odd);
        }
    }
}

/// The first `M` rows.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn tile<const M: usize>(x: &[WideRow; ROWS], w: *const Pair, y: *mut f32, params: TileParams) {
    let TileParams { depth, masks, y_step, over, ahead, ahead_step } = params;
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for k in 0..depth {
        // SAFETY: the caller's: there are so many pairs.
        unsafe {
            if ahead_step > 0 {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(k * ahead_step).cast()); // reads nothing, wherever it points
            }
            let w = w.add(k * PANEL);
            let w = [widened(_mm512_loadu_si512(w.cast())), widened(_mm512_loadu_si512(w.add(16).cast()))];
            for (row, sums) in x.iter().zip(&mut sums) {
                let even = _mm512_set1_ps(*row.get_unchecked(k));
                let odd = _mm512_set1_ps(*row.get_unchecked(DEPTH_PAIRS + k));
                // the odd product first, as `vdpbf16ps` adds them
                for (sum, [w_even, w_odd]) in sums.iter_mut().zip(w) {
                    *sum = _mm512_fmadd_ps(even, w_even, _mm512_fmadd_ps(odd, w_odd, *sum));
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (half, (sum, mask)) in sums.iter().zip(masks).enumerate() {
            // SAFETY: the caller's; lanes beyond the width are neither read nor written.
            unsafe {
                let y = y.wrapping_add(i * y_step + 16 * half);
                let sum = match over {
                    Accumulate::Add => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), *sum),
                    Accumulate::Write => *sum,
                };
                _mm512_mask_storeu_ps(y, mask, sum);
            }
        }
    }
}
