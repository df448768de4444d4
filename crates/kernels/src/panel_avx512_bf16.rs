//! Tiles whose sums stay in registers of AVX-512, multiplied by `vdpbf16ps`; and the transpose of a block.
#![expect(unsafe_code, reason = "loads and stores of whole registers")]

use crate::matrix::{Accumulate, PANEL, ROWS};
use crate::pair::{BLOCK_PAIRS, Pair, PairPanel};
use crate::panel_avx512::{ahead_step, mask};
use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_HINT_T1, _mm_loadu_si128, _mm_prefetch, _mm_set_epi8, _mm512_add_ps,
    _mm512_broadcast_i32x4, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
    _mm512_permutexvar_epi16, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_epi8,
    _mm512_shuffle_i64x2, _mm512_storeu_si512, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

/// # Safety
/// The processor has AVX-512 BF16; `x` holds rows of `depth` pairs, `w` `[depth, PANEL]`, `y` rows of `width` numbers.
#[target_feature(enable = "avx512f,avx512bf16")]
pub unsafe fn panel(
    [rows, depth, width]: [usize; 3],
    x: &[Pair],
    x_step: usize,
    w: PairPanel<'_>,
    y: &mut [f32],
    y_step: usize,
    over: Accumulate,
) {
    for (index, first) in (0..rows).step_by(ROWS).enumerate() {
        let params = TileParams::new([rows, depth, width], index, w, y_step, over);
        // SAFETY: the caller's.
        unsafe {
            let (x, w, y) = (x.as_ptr().add(first * x_step), w.values.as_ptr(), y.as_mut_ptr().add(first * y_step));
            match rows - first {
                1 => tile::<1>(x, x_step, w, y, params),
                2 => tile::<2>(x, x_step, w, y, params),
                3 => tile::<3>(x, x_step, w, y, params),
                4 => tile::<4>(x, x_step, w, y, params),
                5 => tile::<5>(x, x_step, w, y, params),
                6 => tile::<6>(x, x_step, w, y, params),
                7 => tile::<7>(x, x_step, w, y, params),
                _ => tile::<ROWS>(x, x_step, w, y, params),
            }
        }
    }
}

/// What a tile of pairs needs beside its numbers.
#[derive(Clone, Copy)]
pub struct TileParams {
    pub depth: usize,
    masks: [u16; 2],
    y_step: usize,
    over: Accumulate,
    /// What it asks of memory beforehand, `ahead_step` pairs an input pair.
    ahead: *const Pair,
    ahead_step: usize,
}

impl TileParams {
    /// Of the tile of this index.
    pub fn new(
        [rows, depth, width]: [usize; 3],
        index: usize,
        w: PairPanel<'_>,
        y_step: usize,
        over: Accumulate,
    ) -> Self {
        let masks = [mask(width), mask(width.saturating_sub(16))];
        let ahead_step = ahead_step(index, rows.div_ceil(ROWS));
        let ahead = w.values.as_ptr().wrapping_add(w.next + index * depth * ahead_step);
        Self { depth, masks, y_step, over, ahead, ahead_step }
    }

    /// Asks memory for what is read next, while the pairs of input pair `k` are multiplied.
    #[inline(always)]
    pub fn ask_ahead(&self, k: usize) {
        if self.ahead_step > 0 {
            // SAFETY: it reads nothing, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.ahead.wrapping_add(k * self.ahead_step).cast()) };
        }
    }

    /// Writes the sums of `M` rows.
    ///
    /// # Safety
    /// `y` holds rows of the panel's width, `y_step` apart.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub unsafe fn write<const M: usize>(&self, sums: &[[__m512; 2]; M], y: *mut f32) {
        for (i, sums) in sums.iter().enumerate() {
            for (half, (sum, mask)) in sums.iter().zip(self.masks).enumerate() {
                // SAFETY: the caller's; lanes beyond the width are neither read nor written.
                unsafe {
                    let y = y.wrapping_add(i * self.y_step + 16 * half);
                    let sum = match self.over {
                        Accumulate::Add => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), *sum),
                        Accumulate::Write => *sum,
                    };
                    _mm512_mask_storeu_ps(y, mask, sum);
                }
            }
        }
    }
}

/// The bits as pairs of bf16.
fn bf16(bits: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, of which every pattern is a value.
    unsafe { std::mem::transmute(bits) }
}

/// `M` rows from `x` on.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
unsafe fn tile<const M: usize>(x: *const Pair, x_step: usize, w: *const Pair, y: *mut f32, params: TileParams) {
    let mut sums = [[_mm512_setzero_ps(); 2]; M];
    for k in 0..params.depth {
        params.ask_ahead(k);
        // SAFETY: the caller's: there are so many pairs.
        unsafe {
            let w = w.add(k * PANEL);
            let w = [bf16(_mm512_loadu_si512(w.cast())), bf16(_mm512_loadu_si512(w.add(16).cast()))];
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = bf16(_mm512_set1_epi32(*x.add(i * x_step + k) as i32));
                *sums = [_mm512_dpbf16_ps(sums[0], x, w[0]), _mm512_dpbf16_ps(sums[1], x, w[1])];
            }
        }
    }
    // SAFETY: the caller's.
    unsafe { params.write(&sums, y) };
}

/// Pairs of a panel of 8 bits: `quants` `[pair][even, odd, column]`, `scales` `[block][column]`.
///
/// # Safety
/// The processor has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub unsafe fn dequantise(quants: &[[i8; 2 * PANEL]], scales: &[[f32; PANEL]], to: &mut [[Pair; PANEL]]) {
    // the even numbers come out in the first half of a register, and the odd ones in the second
    let order: [u16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as u16);
    // SAFETY: 64 bytes.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    let blocks = quants.chunks(BLOCK_PAIRS).zip(to.chunks_mut(BLOCK_PAIRS)).zip(scales);
    for ((quants, to), scales) in blocks {
        for half in [0, 16] {
            // SAFETY: half a row.
            let scale = unsafe { _mm512_loadu_ps(scales[half..half + 16].as_ptr()) };
            for (quants, to) in quants.iter().zip(&mut *to) {
                let [even, odd] = [half, PANEL + half].map(|first| sixteen(&quants[first..first + 16], scale));
                let rounded = _mm512_cvtne2ps_pbh(odd, even);
                // SAFETY: both are 64 bytes, of which every pattern is a value; half a row.
                unsafe {
                    let pairs = _mm512_permutexvar_epi16(order, std::mem::transmute::<__m512bh, __m512i>(rounded));
                    _mm512_storeu_si512(to[half..half + 16].as_mut_ptr().cast(), pairs);
                }
            }
        }
    }
}

/// Sixteen integers times their scales.
#[target_feature(enable = "avx512f")]
#[inline]
fn sixteen(quants: &[i8], scale: __m512) -> __m512 {
    let quants: &[i8; 16] = quants.try_into().expect("sixteen");
    // SAFETY: 16 bytes.
    let quants = unsafe { _mm_loadu_si128(quants.as_ptr().cast()) };
    _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(quants)), scale)
}

/// As [`crate::panel_bf16::turn_block`]: first the 2 × 2 numbers of two neighbouring columns, which are 64 bits, then four
/// transposes of 8 × 8 of these.
///
/// # Safety
/// The processor has AVX-512 with BW; both have 16 rows.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn turn_block(from: &[[Pair; PANEL]], to: &mut [[Pair; PANEL]]) {
    let swap = _mm512_broadcast_i32x4(_mm_set_epi8(15, 14, 11, 10, 13, 12, 9, 8, 7, 6, 3, 2, 5, 4, 1, 0));
    for top in [0, 8] {
        for left in [0, 16] {
            let mut rows = [_mm512_setzero_si512(); 8];
            for (row, from) in rows.iter_mut().zip(&from[top..top + 8]) {
                // SAFETY: half a row.
                let eight = unsafe { _mm512_loadu_si512(from[left..left + 16].as_ptr().cast()) };
                *row = _mm512_shuffle_epi8(eight, swap);
            }
            for (row, to) in transposed(rows).into_iter().zip(&mut to[left / 2..left / 2 + 8]) {
                // SAFETY: half a row.
                unsafe { _mm512_storeu_si512(to[2 * top..2 * top + 16].as_mut_ptr().cast(), row) };
            }
        }
    }
}

/// The transpose of 8 × 8 numbers of 64 bits: pairs, then the quarters of the registers.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(x: [__m512i; 8]) -> [__m512i; 8] {
    let mut twos = x;
    for i in (0..8).step_by(2) {
        twos[i] = _mm512_unpacklo_epi64(x[i], x[i + 1]);
        twos[i + 1] = _mm512_unpackhi_epi64(x[i], x[i + 1]);
    }
    // quarter q of twos[i] has columns 2q + i % 2 of rows i, i + 1
    let mut out = twos;
    for odd in 0..2 {
        let [a, b, c, d] = [twos[odd], twos[2 + odd], twos[4 + odd], twos[6 + odd]];
        let [even, even2] = [_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0x88>(c, d)];
        let [odds, odds2] = [_mm512_shuffle_i64x2::<0xdd>(a, b), _mm512_shuffle_i64x2::<0xdd>(c, d)];
        out[odd] = _mm512_shuffle_i64x2::<0x88>(even, even2);
        out[4 + odd] = _mm512_shuffle_i64x2::<0xdd>(even, even2);
        out[2 + odd] = _mm512_shuffle_i64x2::<0x88>(odds, odds2);
        out[6 + odd] = _mm512_shuffle_i64x2::<0xdd>(odds, odds2);
    }
    out
}
