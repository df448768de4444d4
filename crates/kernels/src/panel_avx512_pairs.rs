//! Tiles of bf16 whose sums stay in registers of AVX-512, multiplied as f32: where the processor has no `vdpbf16ps`, or a slow one.
#![expect(unsafe_code, reason = "loads and stores of whole registers")]

use crate::matrix::{Accumulate, PANEL, ROWS};
use crate::pair::{DEPTH_PAIRS, Pair, PairPanel};
use crate::panel_avx512::mask;
use crate::panel_avx512_bf16::TileParams;
use std::arch::x86_64::{
    __m512, __m512i, _mm512_and_si512, _mm512_castsi512_ps, _mm512_fmadd_ps, _mm512_loadu_si512,
    _mm512_maskz_loadu_epi32, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32,
    _mm512_storeu_ps,
};
use std::mem::MaybeUninit;

/// A row of the left side as f32: its even numbers, then its odd ones, and a line that keeps rows apart in the cache.
type WideRow = MaybeUninit<[f32; 2 * DEPTH_PAIRS + 16]>;

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
    let mut wide = [WideRow::uninit(); ROWS];
    for (index, first) in (0..rows).step_by(ROWS).enumerate() {
        let count = ROWS.min(rows - first);
        for (row, wide) in wide[..count].iter_mut().enumerate() {
            widen_row(&x[(first + row) * x_step..][..depth], wide);
        }
        let params = TileParams::new([rows, depth, width], index, w, y_step, over);
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
            let to = wide.as_mut_ptr().cast::<f32>().add(16 * index);
            _mm512_storeu_ps(to, even);
            _mm512_storeu_ps(to.add(DEPTH_PAIRS), odd);
        }
    }
}

/// The first `M` rows, of which `depth` pairs are widened.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn tile<const M: usize>(x: &[WideRow; ROWS], w: *const Pair, y: *mut f32, params: TileParams) {
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for k in 0..params.depth {
        params.ask_ahead(k);
        // SAFETY: the caller's: there are so many pairs.
        unsafe {
            let w = w.add(k * PANEL);
            let w = [widened(_mm512_loadu_si512(w.cast())), widened(_mm512_loadu_si512(w.add(16).cast()))];
            for (row, sums) in x.iter().zip(&mut sums) {
                let x = row.as_ptr().cast::<f32>().add(k);
                let [even, odd] = [_mm512_set1_ps(*x), _mm512_set1_ps(*x.add(DEPTH_PAIRS))];
                // the odd product first, as `vdpbf16ps` adds them
                for (sum, [w_even, w_odd]) in sums.iter_mut().zip(w) {
                    *sum = _mm512_fmadd_ps(even, w_even, _mm512_fmadd_ps(odd, w_odd, *sum));
                }
            }
        }
    }
    // SAFETY: the caller's.
    unsafe { params.write(&sums, y) };
}
