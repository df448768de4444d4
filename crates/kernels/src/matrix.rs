//! Matrix products on one thread, for the shapes of small models: few inputs, many rows. The right side is packed into
//! panels of columns, which many products may share; the left side is read where it stands.
//!
//! With AVX-512 a tile of eight rows and 32 columns is summed in registers; elsewhere the compiler makes what it can of
//! plain loops. Every entry is summed in the order of the inputs whatever rows stand beside it.

use crate::buffer::PooledBuffer;
use crate::simd::simd_dispatch;
use rayon::prelude::*;
use std::ops::Range;

/// A matrix within a slice: where an entry stands is `row · row_step + column · column_step`.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    pub values: &'a [f32],
    pub row_step: usize,
    pub column_step: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major, rows `step` apart.
    pub fn rows(values: &'a [f32], step: usize) -> Self {
        Self { values, row_step: step, column_step: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { row_step: self.column_step, column_step: self.row_step, ..self }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row_step + (columns - 1) * self.column_step < self.values.len()
    }
}

/// Columns of a panel: two registers of AVX-512.
const PANEL: usize = 32;
/// Inputs of a panel worked on at a time: `[DEPTH, PANEL]` stays in the first cache.
const DEPTH: usize = 256;
/// Rows of a tile.
const ROWS: usize = 8;
/// Rows so few that packing the right side would cost more than it saves.
const FEW: usize = 64;
/// Numbers between two packed tiles, so that the tiles do not fall on the same lines of the first cache.
const APART: usize = 16;
/// Numbers that one thread packs alone.
const ALONE: usize = 1 << 15;

/// What becomes of the numbers that a product's result is written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// They are added to.
    Add,
    /// They are not read.
    Write,
}

/// A matrix `[K, N]` cut into panels of columns, each contiguous.
#[derive(Debug, Clone)]
pub struct Packed {
    panels: PooledBuffer,
    inputs: usize,
    pub outputs: usize,
}

impl Packed {
    /// # Panics
    /// If the slice is too short for its shape.
    pub fn new(from: Matrix<'_>, inputs: usize, outputs: usize) -> Self {
        let mut packed = Self::empty();
        packed.fill(from, inputs, outputs);
        packed
    }

    /// `K`
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// To be filled.
    pub fn empty() -> Self {
        Self { panels: PooledBuffer::new(0), inputs: 0, outputs: 0 }
    }

    /// Holds this matrix from now on, in the memory of the last where that is enough.
    ///
    /// # Panics
    /// If the slice is too short for its shape.
    pub fn fill(&mut self, from: Matrix<'_>, inputs: usize, outputs: usize) {
        assert!(from.holds(inputs, outputs), "a slice is too short");
        (self.inputs, self.outputs) = (inputs, outputs);
        let size = inputs * outputs.next_multiple_of(PANEL);
        if self.panels.len() < size {
            self.panels = PooledBuffer::new(size);
        }
        let pack = |(panel, to): (usize, &mut [f32])| {
            let first = panel * PANEL;
            pack_panel(from, first, PANEL.min(outputs - first), to.as_chunks_mut().0);
        };
        match inputs * PANEL {
            0 => {}
            panel if size < ALONE => self.panels[..size].chunks_exact_mut(panel).enumerate().for_each(pack),
            panel => self.panels[..size].par_chunks_exact_mut(panel).enumerate().for_each(pack),
        }
    }

    /// `y (+)= x·w·scale` with some of the matrix's inputs and its first columns: `x` is `[rows, inputs]`, `y`
    /// `[rows, columns]` with rows `y_step` apart.
    ///
    /// # Panics
    /// If a slice is too short for its shape.
    pub fn gemm_range(
        &self,
        (rows, inputs, columns): (usize, Range<usize>, usize),
        x: Matrix<'_>,
        y: &mut [f32],
        y_step: usize,
        over: Accumulate,
        scale: f32,
    ) {
        if rows == 0 || columns == 0 {
            return;
        }
        let fits = (rows - 1) * y_step + columns <= y.len() && y_step >= columns && columns <= self.outputs;
        assert!(x.holds(rows, inputs.len()) && inputs.end <= self.inputs && fits, "a slice is too short");
        if inputs.is_empty() && over == Accumulate::Write {
            y.chunks_mut(y_step).take(rows).for_each(|row| row[..columns].fill(0.0));
        }
        panels_product(&self.panels, self.inputs, (rows, inputs, columns), x, y, y_step, over, scale);
    }

    /// `y (+)= x·w` of rows that stand one after another.
    pub fn product(&self, x: &[f32], y: &mut [f32], over: Accumulate) {
        self.gemm_parallel(x, y, over, false);
    }

    /// The same on this thread or, `split`, with the columns shared among all; which of both changes no number.
    pub fn gemm_parallel(&self, x: &[f32], y: &mut [f32], over: Accumulate, split: bool) {
        let rows = y.len() / self.outputs.max(1);
        let threads = rayon::current_num_threads();
        if !split || threads == 1 || self.outputs < 2 * PANEL {
            self.gemm_range(
                (rows, 0..self.inputs, self.outputs),
                Matrix::rows(x, self.inputs),
                y,
                self.outputs,
                over,
                1.0,
            );
            return;
        }
        let panels = self.outputs.div_ceil(PANEL).div_ceil(threads);
        let size = panels * PANEL * self.inputs;
        let before = &*y;
        let parts: Vec<(usize, usize, PooledBuffer)> = (0..self.outputs.div_ceil(panels * PANEL))
            .into_par_iter()
            .map(|part| {
                let first = part * panels * PANEL;
                let columns = (panels * PANEL).min(self.outputs - first);
                let mut out = PooledBuffer::new(rows * columns);
                if over == Accumulate::Add {
                    let from = before.chunks_exact(self.outputs).zip(out.chunks_exact_mut(columns));
                    from.for_each(|(y, out)| out.copy_from_slice(&y[first..][..columns]));
                }
                let held = &self.panels[part * size..(part * size + size).min(self.panels.len())];
                panels_product(
                    held,
                    self.inputs,
                    (rows, 0..self.inputs, columns),
                    Matrix::rows(x, self.inputs),
                    &mut out,
                    columns,
                    over,
                    1.0,
                );
                (first, columns, out)
            })
            .collect();
        for (first, columns, part) in parts {
            for (y, part) in y.chunks_exact_mut(self.outputs).zip(part.chunks_exact(columns)) {
                y[first..][..columns].copy_from_slice(part);
            }
        }
    }

    /// One column of the matrix.
    pub fn column(&self, column: usize) -> impl Iterator<Item = &f32> {
        let panel = &self.panels[column / PANEL * PANEL * self.inputs..][..PANEL * self.inputs];
        panel[column % PANEL..].iter().step_by(PANEL)
    }
}

/// [`Packed::part`] on panels that stand one after another.
#[expect(clippy::too_many_arguments, reason = "what a product is made of")]
fn panels_product(
    panels: &[f32],
    k: usize,
    (rows, inputs, columns): (usize, Range<usize>, usize),
    x: Matrix<'_>,
    y: &mut [f32],
    y_step: usize,
    over: Accumulate,
    scale: f32,
) {
    let mut on = |(panel, w): (usize, &[f32]), from: usize, left: LhsTiles<'_>, next: usize| {
        let (depth, first) = (DEPTH.min(inputs.end - from), panel * PANEL);
        let over = if from == inputs.start { over } else { Accumulate::Add };
        let right = RhsPanel { values: &w[from * PANEL..(from + depth) * PANEL], step: PANEL, next };
        panel_product([rows, depth, PANEL.min(columns - first)], left, right, &mut y[first..], y_step, over, scale);
    };
    let mut scratch: PackBuffer = None;
    let panels = panels.chunks_exact(k * PANEL).take(columns.div_ceil(PANEL)).enumerate();
    if rows <= FEW && x.column_step == 1 {
        // few rows wait for memory, which gives most where it is read from one end to the other
        for panel in panels {
            for from in inputs.clone().step_by(DEPTH) {
                let depth = DEPTH.min(inputs.end - from);
                on(
                    panel,
                    from,
                    LhsTiles::new(x, from - inputs.start, [rows, depth], columns, &mut scratch),
                    depth * PANEL,
                );
            }
        }
        return;
    }
    for from in inputs.clone().step_by(DEPTH) {
        let depth = DEPTH.min(inputs.end - from);
        let left = LhsTiles::new(x, from - inputs.start, [rows, depth], columns, &mut scratch);
        panels.clone().for_each(|panel| on(panel, from, left, k * PANEL));
    }
}

/// `c (+)= a·b·scale`: `a` is `[m, k]`, `b` `[k, n]`, `c` `[m, n]` with rows `c_step` apart.
///
/// # Panics
/// If a slice is too short for its shape.
pub fn product(
    [m, k, n]: [usize; 3],
    c: &mut [f32],
    c_step: usize,
    over: Accumulate,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.holds(m, k) && b.holds(k, n) && (m - 1) * c_step + n <= c.len() && c_step >= n, "a slice is too short");
    if k == 0 && over == Accumulate::Write {
        c.chunks_mut(c_step).take(m).for_each(|row| row[..n].fill(0.0));
    }
    let (mut scratch, mut panel): (PackBuffer, _) = (None, PooledBuffer::new(DEPTH * PANEL));
    for from in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - from);
        let over = if from == 0 { over } else { Accumulate::Add };
        let left = LhsTiles::new(a, from, [m, depth], n, &mut scratch);
        for first in (0..n).step_by(PANEL) {
            let width = PANEL.min(n - first);
            // few rows read a panel where it stands; more of them share a copy that stays in the first cache
            let right = if m <= FEW && b.column_step == 1 && width == PANEL {
                RhsPanel { values: &b.values[from * b.row_step + first..], step: b.row_step, next: 0 }
            } else {
                let here = Matrix { values: &b.values[from * b.row_step..], ..b };
                pack_panel(here, first, width, panel[..depth * PANEL].as_chunks_mut().0);
                RhsPanel { values: &panel[..depth * PANEL], step: PANEL, next: 0 }
            };
            panel_product([m, depth, width], left, right, &mut c[first..], c_step, over, scale);
        }
    }
}

/// Rows of a left side, tile by tile: where an entry stands is `row / ROWS · tile_step + row % ROWS · row_step +
/// input · input_step`.
#[derive(Debug, Clone, Copy)]
struct LhsTiles<'a> {
    values: &'a [f32],
    tile_step: usize,
    row_step: usize,
    input_step: usize,
}

/// A panel: rows of 32 numbers, `step` apart.
#[derive(Debug, Clone, Copy)]
struct RhsPanel<'a> {
    values: &'a [f32],
    step: usize,
    /// How far on the panel begins that will be read next: it comes from memory while this one is worked on. 0: there is none.
    next: usize,
}

/// Where a left side is packed, made when it is needed.
type PackBuffer = Option<PooledBuffer>;

impl<'a> LhsTiles<'a> {
    /// Inputs `from..` of a matrix. A transposed one is copied tile by tile where many columns will read it: its entries
    /// stand so far apart that the first cache cannot hold them.
    fn new(x: Matrix<'a>, from: usize, [rows, depth]: [usize; 2], columns: usize, scratch: &'a mut PackBuffer) -> Self {
        let values = &x.values[from * x.column_step..];
        if x.row_step != 1 || x.column_step == 1 || depth * columns <= DEPTH * PANEL / 2 {
            return Self { values, tile_step: ROWS * x.row_step, row_step: x.row_step, input_step: x.column_step };
        }
        let (tiles, tile_step) = (rows.div_ceil(ROWS), ROWS * depth + APART);
        let packed = scratch.get_or_insert_with(|| PooledBuffer::new(tiles * (ROWS * DEPTH + APART)));
        for input in 0..depth {
            let row = &values[input * x.column_step..][..rows];
            let mut at = input * ROWS;
            let (eights, rest) = row.as_chunks::<ROWS>();
            for eight in eights {
                packed[at..at + ROWS].copy_from_slice(eight);
                at += tile_step;
            }
            if !rest.is_empty() {
                packed[at..at + rest.len()].copy_from_slice(rest);
            }
        }
        Self { values: packed, tile_step, row_step: 1, input_step: ROWS }
    }

    fn holds(&self, rows: usize, inputs: usize) -> bool {
        let (tile, row) = ((rows - 1) / ROWS, (rows - 1) % ROWS);
        let whole = if tile > 0 { (tile - 1) * self.tile_step + (ROWS - 1) * self.row_step } else { 0 };
        let last = whole.max(tile * self.tile_step + row * self.row_step);
        inputs == 0 || last + (inputs - 1) * self.input_step < self.values.len()
    }
}

/// Columns `first..first + width` of a matrix, the rest of the panel 0.
fn pack_panel(from: Matrix<'_>, first: usize, width: usize, to: &mut [[f32; PANEL]]) {
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
    let turned = if from.row_step == 1 && width == PANEL && crate::simd::simd_level() == 4 {
        #[expect(unsafe_code, reason = "`level` asked the processor for AVX-512")]
        // SAFETY: as the reason says.
        unsafe {
            v4::transpose_block(&from.values[first * from.column_step..], from.column_step, to)
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

/// All rows on one panel, of which `width` columns are wanted.
fn panel_product(
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
    if crate::simd::simd_level() == 4 {
        #[expect(unsafe_code, reason = "the tiles take pointers, and AVX-512")]
        // SAFETY: every entry that a tile touches lies within its slice, as asserted; `level` asked the processor.
        unsafe {
            v4::panel([rows, depth, width], x, w, y, y_step, over, scale);
        }
        return;
    }
    #[cfg(target_arch = "x86_64")]
    if crate::simd::simd_level() == 3 {
        #[expect(unsafe_code, reason = "the tiles take pointers, and AVX2")]
        // SAFETY: as above.
        unsafe {
            v3::panel([rows, depth, width], x, w, y, y_step, over, scale);
        }
        return;
    }
    plain_panel([rows, depth, width], x, w, y, y_step, over, scale);
}

simd_dispatch! {
    /// As [`panel_product`], on any processor: two rows at a time, which fill the registers of AVX2.
    fn plain_panel(
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
        let fused = cfg!(not(target_arch = "x86_64")) || crate::simd::simd_level() >= 3;
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

/// Tiles whose sums stand in registers of AVX2: six rows on half a panel take twelve of the sixteen, and each number that is
/// loaded is used in several products, so that the multiplications set the pace.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "loads and stores of whole registers")]
mod v3 {
    use super::{Accumulate, LhsTiles, PANEL, ROWS, RhsPanel};
    use std::arch::x86_64::{
        _MM_HINT_T1, _mm_prefetch, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps,
        _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    /// Rows of a tile, and its columns.
    const TALL: usize = 6;
    const HALF: usize = PANEL / 2;

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
        let how = How { depth, input_step: x.input_step, w_step: w.step, over, scale };
        let tiles = rows.div_ceil(TALL);
        let start = |row: usize| x.values.as_ptr().wrapping_add(row / ROWS * x.tile_step + row % ROWS * x.row_step);
        for first in (0..width).step_by(HALF) {
            let columns = HALF.min(width - first);
            let begin = w.values.as_ptr().wrapping_add(first);
            // tiles of nearly equal height: a low one loads as much for fewer products
            let tall = rows.div_ceil(tiles);
            for (i, row) in (0..rows).step_by(tall).enumerate() {
                let y = y.as_mut_ptr().wrapping_add(row * y_step + first);
                // each tile asks for its share of the next panel, evenly: memory has as long for it as the products take
                let share = (first / HALF * tiles + i) * depth * HALF / tiles;
                let ahead = Prefetch { at: w.values.as_ptr().wrapping_add(w.next + share), step: HALF.div_ceil(tiles) };
                let at = OutTile { y, y_step, columns };
                // SAFETY: the caller's: `count` rows from `row` on are there.
                unsafe {
                    match tall.min(rows - row) {
                        1 => tile([start(row)], begin, ahead, at, how),
                        2 => tile([start(row), start(row + 1)], begin, ahead, at, how),
                        3 => tile(std::array::from_fn::<_, 3, _>(|i| start(row + i)), begin, ahead, at, how),
                        4 => tile(std::array::from_fn::<_, 4, _>(|i| start(row + i)), begin, ahead, at, how),
                        5 => tile(std::array::from_fn::<_, 5, _>(|i| start(row + i)), begin, ahead, at, how),
                        _ => tile(std::array::from_fn::<_, TALL, _>(|i| start(row + i)), begin, ahead, at, how),
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
    struct How {
        depth: usize,
        input_step: usize,
        w_step: usize,
        over: Accumulate,
        scale: f32,
    }

    /// Rows that begin at `x`, on half a panel at `w`.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    unsafe fn tile<const M: usize>(x: [*const f32; M], w: *const f32, ahead: Prefetch, to: OutTile, how: How) {
        let OutTile { y, y_step, columns } = to;
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        let (mut at, mut w, mut ahead_at) = (0, w, ahead.at);
        for _ in 0..how.depth {
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
            at = at.wrapping_add(how.input_step);
            w = w.wrapping_add(how.w_step);
        }
        let scale = _mm256_set1_ps(how.scale);
        for (i, sums) in sums.iter().enumerate() {
            let row = y.wrapping_add(i * y_step);
            // half a panel may reach past what is wanted: then the row passes through memory of its own
            let mut own = [0f32; HALF];
            // SAFETY: the caller's; of a row no more than `columns` numbers are read and written.
            unsafe {
                let whole = columns == HALF;
                if !whole && how.over == Accumulate::Add {
                    std::ptr::copy_nonoverlapping(row, own.as_mut_ptr(), columns);
                }
                let to = if whole { row } else { own.as_mut_ptr() };
                for (half, sum) in sums.iter().enumerate() {
                    let to = to.add(8 * half);
                    let sum = match how.over {
                        Accumulate::Add => _mm256_fmadd_ps(*sum, scale, _mm256_loadu_ps(to)),
                        Accumulate::Write => _mm256_mul_ps(*sum, scale),
                    };
                    _mm256_storeu_ps(to, sum);
                }
                if !whole {
                    std::ptr::copy_nonoverlapping(own.as_ptr(), row, columns);
                }
            }
        }
    }
}

/// Tiles whose sums stand in registers of AVX-512: left to itself the compiler makes vectors of the rows.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "loads and stores of whole registers")]
mod v4 {
    use super::{Accumulate, LhsTiles, PANEL, ROWS, RhsPanel};
    use std::arch::x86_64::{
        __m512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_shuffle_f32x4,
        _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

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
        let how = How { depth, masks: [mask(width), mask(width.saturating_sub(16))], y_step, over, scale };
        for tile_at in 0..rows.div_ceil(ROWS) {
            // SAFETY: the caller's.
            unsafe {
                let x_tile = x.values.as_ptr().add(tile_at * x.tile_step);
                let y_tile = y.as_mut_ptr().add(tile_at * ROWS * y_step);
                match rows - tile_at * ROWS {
                    1 => tile::<1>(x_tile, x, w, y_tile, how),
                    2 => tile::<2>(x_tile, x, w, y_tile, how),
                    3 => tile::<3>(x_tile, x, w, y_tile, how),
                    4 => tile::<4>(x_tile, x, w, y_tile, how),
                    5 => tile::<5>(x_tile, x, w, y_tile, how),
                    6 => tile::<6>(x_tile, x, w, y_tile, how),
                    7 => tile::<7>(x_tile, x, w, y_tile, how),
                    _ => tile::<ROWS>(x_tile, x, w, y_tile, how),
                }
            }
        }
    }

    /// What all tiles of a panel share.
    #[derive(Clone, Copy)]
    struct How {
        depth: usize,
        masks: [u16; 2],
        y_step: usize,
        over: Accumulate,
        scale: f32,
    }

    /// `M` rows from `x_tile` on.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn tile<const M: usize>(x_tile: *const f32, x: LhsTiles<'_>, w: RhsPanel<'_>, y: *mut f32, how: How) {
        let How { depth, masks, y_step, over, scale } = how;
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        let (mut x_at, mut w_at) = (x_tile, w.values.as_ptr());
        for _ in 0..depth {
            // SAFETY: the caller's: there are so many inputs.
            unsafe {
                let w = [_mm512_loadu_ps(w_at), _mm512_loadu_ps(w_at.add(16))];
                for (i, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*x_at.add(i * x.row_step));
                    *sums = [_mm512_fmadd_ps(x, w[0], sums[0]), _mm512_fmadd_ps(x, w[1], sums[1])];
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

    /// The first so many lanes of a register.
    fn mask(lanes: usize) -> u16 {
        if lanes >= 16 { u16::MAX } else { (1 << lanes) - 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_by_hand() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // [2, 3]
        let b = [1.0, 0.0, 2.0, 1.0, 0.0, 3.0]; // [3, 2]
        let mut c = [1.0; 6];
        product([2, 3, 2], &mut c, 3, Accumulate::Add, Matrix::rows(&a, 3), Matrix::rows(&b, 2), 0.5);
        assert_eq!(c, [1.0 + 2.5, 1.0 + 5.5, 1.0, 1.0 + 7.0, 1.0 + 11.5, 1.0]);
        let mut square = [0.0; 4];
        product([2, 3, 2], &mut square, 2, Accumulate::Write, Matrix::rows(&a, 3), Matrix::rows(&a, 3).t(), 1.0);
        assert_eq!(square, [14.0, 32.0, 32.0, 77.0]);
    }

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn every_shape_and_layout_is_the_sum_in_f64() {
        for [m, k, n] in
            [[1, 1, 1], [3, 5, 7], [8, 32, 32], [9, 33, 65], [17, 300, 40], [23, 600, 31], [70, 300, 64], [2, 0, 3]]
        {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            for (a_turned, b_turned) in [(false, false), (true, false), (false, true), (true, true)] {
                let a = if a_turned { Matrix::rows(&a, m).t() } else { Matrix::rows(&a, k) };
                let b = if b_turned { Matrix::rows(&b, k).t() } else { Matrix::rows(&b, n) };
                let at = |x: Matrix<'_>, i: usize, j: usize| f64::from(x.values[i * x.row_step + j * x.column_step]);
                for over in [Accumulate::Add, Accumulate::Write] {
                    let before = numbers(m * (n + 3), 3);
                    let mut c = before.clone();
                    product([m, k, n], &mut c, n + 3, over, a, b, 0.25);
                    let mut plain = before.clone();
                    if k > 0 {
                        let packed = Packed::new(b, k, n);
                        for (panel, w) in packed.panels.chunks_exact(k * PANEL).enumerate() {
                            let (first, width) = (panel * PANEL, PANEL.min(n - panel * PANEL));
                            let mut none = None;
                            let (left, right) = (
                                LhsTiles::new(a, 0, [m, k], 0, &mut none),
                                RhsPanel { values: w, step: PANEL, next: 0 },
                            );
                            plain_panel([m, k, width], left, right, &mut plain[first..], n + 3, over, 0.25);
                        }
                    }
                    for (at_c, (found, before)) in c.iter().zip(&before).enumerate() {
                        let (i, j) = (at_c / (n + 3), at_c % (n + 3));
                        if j >= n {
                            assert_eq!(found, before);
                            continue;
                        }
                        let sum: f64 = (0..k).map(|l| at(a, i, l) * at(b, l, j)).sum();
                        let kept = if over == Accumulate::Add { f64::from(*before) } else { 0.0 };
                        let expected = kept + 0.25 * sum;
                        assert!((f64::from(*found) - expected).abs() < 1e-5, "{m} {k} {n}: {found}, {expected}");
                        assert!(k == 0 || (f64::from(plain[at_c]) - expected).abs() < 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "too short")]
    fn a_short_slice_is_refused() {
        product(
            [2, 2, 2],
            &mut [0.0; 3],
            2,
            Accumulate::Write,
            Matrix::rows(&[0.0; 4], 2),
            Matrix::rows(&[0.0; 4], 2),
            1.0,
        );
    }
}
