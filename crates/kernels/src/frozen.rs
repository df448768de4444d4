//! Matrices that are not trained, rounded once to bf16 or to 8 bits, and their products: both sides in bf16, sums in f32.
//!
//! A product of two bf16 numbers is exact in f32. A sum runs over pairs of inputs, in each the odd input first, as
//! `vdpbf16ps` does it: without that instruction the same numbers come out, but for those below 2⁻¹²⁶, which it takes as 0.

use crate::buffer::{PairBuffer, PooledBuffer};
use crate::matrix::{Accumulate, FEW_ROWS, Matrix, PANEL};
use crate::pair::{BLOCK_PAIRS, DEPTH_PAIRS, Pair, PairPanel, pair, round_row, unpair};
use crate::panel_bf16::{self, turn_block};
use crate::simd::simd_dispatch;
use crate::threads::{columns_among_threads, write_panels};
use rayon::prelude::*;
use std::ops::Range;

/// Inputs that share a scale in 8 bits, as in GGUF's Q8_0.
const Q8_BLOCK: usize = 32;

/// What the numbers of a [`FrozenMatrix`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrozenNumbers {
    /// The nearest bf16 number.
    Bf16,
    /// An integer from −127 to 127 times the scale of its 32 inputs, which is the largest magnitude among them over 127.
    Q8,
}

/// A matrix `[K, N]` that is not trained, cut into panels of 32 columns.
#[derive(Debug)]
pub struct FrozenMatrix {
    panels: Panels,
    inputs: usize,
    outputs: usize,
}

/// Panel by panel, pair of inputs by pair of inputs; inputs and columns are filled up with zeros to multiples of 32.
#[derive(Debug)]
enum Panels {
    /// `[panel][pair][column]`
    Bf16(PairBuffer),
    /// Quants `[panel][pair][even, odd][column]`, scales `[panel][block][column]`.
    Q8 { quants: Vec<i8>, scales: Vec<f32> },
}

/// Rows of a left side `[N, K]`, rounded to bf16.
#[derive(Debug)]
pub struct Bf16Rows {
    pairs: PairBuffer,
    rows: usize,
    inputs: usize,
}

/// Pairs from one row to the next: a line more than the row, so that rows do not fall on the same lines of the first cache.
fn row_step(inputs: usize) -> usize {
    inputs.div_ceil(2).next_multiple_of(16) + 16
}

/// Pairs of a panel of so many inputs.
fn panel_pairs(inputs: usize) -> usize {
    inputs.next_multiple_of(PANEL) / 2
}

impl Bf16Rows {
    /// # Panics
    /// If the slice is too short for its shape, or columns do not stand one after another.
    pub fn new(x: Matrix<'_>, rows: usize, inputs: usize) -> Self {
        assert!(x.holds(rows, inputs) && x.column_step == 1, "a slice is too short");
        let step = row_step(inputs);
        let mut pairs = PairBuffer::new(rows * step);
        for (row, to) in pairs.chunks_exact_mut(step).enumerate() {
            round_row(&x.values[row * x.row_step..][..inputs], &mut to[..inputs.div_ceil(2)]);
        }
        Self { pairs, rows, inputs }
    }
}

/// Pairs of a panel of 8 bits: `quants` `[pair][even, odd][column]`, `scales` `[block][column]`.
fn dequantise(quants: &[i8], scales: &[f32], to: &mut [Pair]) {
    let (quants, to) = (quants.as_chunks::<{ 2 * PANEL }>().0, to.as_chunks_mut::<PANEL>().0);
    let scales = scales.as_chunks::<PANEL>().0;
    assert!(quants.len() == to.len() && to.len() <= scales.len() * BLOCK_PAIRS, "a slice is too short");
    #[cfg(target_arch = "x86_64")]
    if crate::simd::vector_set() == crate::simd::VectorSet::Avx512Bf16 {
        #[expect(unsafe_code, reason = "`vector_set` asked the processor for AVX-512 BF16")]
        // SAFETY: as the reason says.
        unsafe {
            crate::panel_avx512_bf16::dequantise(quants, scales, to);
        }
        return;
    }
    plain_dequantise(quants, scales, to);
}

simd_dispatch! {
    /// As [`dequantise`], on any processor, with the same results.
    fn plain_dequantise(quants: &[[i8; 2 * PANEL]], scales: &[[f32; PANEL]], to: &mut [[Pair; PANEL]]) {
        let blocks = quants.chunks(BLOCK_PAIRS).zip(to.chunks_mut(BLOCK_PAIRS)).zip(scales);
        for ((quants, to), scales) in blocks {
            for (quants, to) in quants.iter().zip(to) {
                for column in 0..PANEL {
                    let [even, odd] = [quants[column], quants[PANEL + column]].map(f32::from);
                    to[column] = pair(even * scales[column], odd * scales[column]);
                }
            }
        }
    }
}

/// Writes a panel of bf16 `[pair][column]`: the first columns of a matrix of so many inputs and columns, the rest 0.
fn round_panel(from: Matrix<'_>, [inputs, columns]: [usize; 2], to: &mut [Pair]) {
    let width = columns.min(PANEL);
    for (index, to) in to.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        let number = |input: usize, column: usize| match input < inputs {
            true => from.values[input * from.row_step + column * from.column_step],
            false => 0.0,
        };
        for (column, to) in to[..width].iter_mut().enumerate() {
            *to = pair(number(2 * index, column), number(2 * index + 1, column));
        }
        to[width..].fill(0);
    }
}

/// Writes a panel of 8 bits: quants `[pair][even, odd][column]` and scales `[block][column]`.
fn quantise_panel(
    from: Matrix<'_>,
    [inputs, columns]: [usize; 2],
    quants: &mut [[i8; PANEL]],
    scales: &mut [[f32; PANEL]],
) {
    let width = columns.min(PANEL);
    for ((block, quants), scales) in quants.chunks_mut(Q8_BLOCK).enumerate().zip(scales) {
        let rows = block * Q8_BLOCK..inputs.min((block + 1) * Q8_BLOCK);
        for column in 0..PANEL {
            let number = |input: usize| match rows.contains(&input) && column < width {
                true => from.values[input * from.row_step + column * from.column_step],
                false => 0.0,
            };
            let inputs = (block * Q8_BLOCK..).take(Q8_BLOCK);
            let scale = inputs.clone().map(|input| number(input).abs()).fold(0.0, f32::max) / 127.0;
            scales[column] = scale;
            for (quants, input) in quants.iter_mut().zip(inputs) {
                quants[column] = if scale > 0.0 { (number(input) / scale).round() as i8 } else { 0 };
            }
        }
    }
}

impl FrozenMatrix {
    /// # Panics
    /// If the slice is too short for its shape.
    pub fn new(from: Matrix<'_>, inputs: usize, outputs: usize, numbers: FrozenNumbers) -> Self {
        assert!(from.holds(inputs, outputs), "a slice is too short");
        Self::by_panels(inputs, outputs, numbers, |columns, pack| {
            let values = from.values.get(columns.start * from.column_step..).unwrap_or_default();
            pack(Matrix { values, ..from });
        })
    }

    /// A matrix that is never there as a whole in f32: `read` writes some columns as rows `[columns, K]`, 32 of them at a time.
    pub fn from_columns(
        inputs: usize,
        outputs: usize,
        numbers: FrozenNumbers,
        read: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) -> Self {
        Self::by_panels(inputs, outputs, numbers, |columns, pack| {
            let mut rows = PooledBuffer::new(columns.len() * inputs);
            read(columns, &mut rows);
            pack(Matrix::rows(&rows, inputs).t());
        })
    }

    /// Rounds panel by panel: `panel` takes columns, and what to call with a matrix that begins with them.
    fn by_panels(
        inputs: usize,
        outputs: usize,
        numbers: FrozenNumbers,
        panel: impl Fn(Range<usize>, &mut dyn FnMut(Matrix<'_>)) + Sync,
    ) -> Self {
        let (pairs, count) = (panel_pairs(inputs), outputs.div_ceil(PANEL));
        let columns = |index: usize| index * PANEL..outputs.min((index + 1) * PANEL);
        let panels = match numbers {
            FrozenNumbers::Bf16 => {
                let mut all = PairBuffer::new(count * pairs * PANEL);
                write_panels(&mut all, pairs * PANEL, |(index, to)| {
                    let columns = columns(index);
                    panel(columns.clone(), &mut |from| round_panel(from, [inputs, columns.len()], to));
                });
                Panels::Bf16(all)
            }
            FrozenNumbers::Q8 => {
                let blocks = pairs * 2 / Q8_BLOCK;
                let mut quants = vec![0i8; count * pairs * 2 * PANEL];
                let mut scales = vec![0f32; count * blocks * PANEL];
                if inputs > 0 {
                    let of_panels = quants.par_chunks_exact_mut(pairs * 2 * PANEL);
                    let of_panels = of_panels.zip(scales.par_chunks_exact_mut(blocks * PANEL)).enumerate();
                    of_panels.for_each(|(index, (quants, scales))| {
                        let (columns, quants, scales) =
                            (columns(index), quants.as_chunks_mut().0, scales.as_chunks_mut().0);
                        panel(columns.clone(), &mut |from| {
                            quantise_panel(from, [inputs, columns.len()], quants, scales);
                        });
                    });
                }
                Panels::Q8 { quants, scales }
            }
        };
        Self { panels, inputs, outputs }
    }

    /// `K`
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// `N`
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub fn numbers(&self) -> FrozenNumbers {
        match self.panels {
            Panels::Bf16(_) => FrozenNumbers::Bf16,
            Panels::Q8 { .. } => FrozenNumbers::Q8,
        }
    }

    /// The matrix `[K, N]` in f32, row by row.
    pub fn values(&self) -> Vec<f32> {
        self.rows(0..self.inputs)
    }

    /// Some rows of the matrix `[K, N]` in f32.
    pub fn rows(&self, inputs: Range<usize>) -> Vec<f32> {
        let mut values = vec![0f32; inputs.len() * self.outputs];
        let mut scratch = None;
        let first = inputs.start / Q8_BLOCK * BLOCK_PAIRS; // whole blocks, so that 8 bits can be decoded
        let pairs = first..inputs.end.next_multiple_of(Q8_BLOCK) / 2;
        for panel in 0..self.outputs.div_ceil(PANEL) {
            let columns = panel * PANEL..self.outputs.min((panel + 1) * PANEL);
            let rows = self.pairs(panel, pairs.clone(), &mut scratch).as_chunks::<PANEL>().0;
            for (input, to) in inputs.clone().zip(values.chunks_exact_mut(self.outputs.max(1))) {
                for (to, pair) in to[columns.clone()].iter_mut().zip(&rows[input / 2 - first]) {
                    *to = unpair(*pair)[input % 2];
                }
            }
        }
        values
    }

    /// Some columns in f32, one after another, `[columns, K]`.
    pub fn columns(&self, columns: Range<usize>) -> Vec<f32> {
        let mut values = vec![0f32; columns.len() * self.inputs];
        for (column, to) in columns.zip(values.chunks_exact_mut(self.inputs.max(1))) {
            self.add_column(column, 1.0, to);
        }
        values
    }

    /// The matrix with its columns in another order, as many or fewer.
    pub fn with_columns(&self, order: &[usize]) -> Self {
        let pairs = panel_pairs(self.inputs);
        let panels = match &self.panels {
            Panels::Bf16(from) => Panels::Bf16({
                let mut to = PairBuffer::new(order.len().div_ceil(PANEL) * pairs * PANEL);
                take_columns(from, pairs, order, &mut to);
                to
            }),
            Panels::Q8 { quants: from, scales: from_scales } => {
                let (blocks, panels) = (pairs * 2 / Q8_BLOCK, order.len().div_ceil(PANEL));
                let mut quants = vec![0; panels * pairs * 2 * PANEL];
                let mut scales = vec![0.0; panels * blocks * PANEL];
                take_columns(from, pairs * 2, order, &mut quants);
                take_columns(from_scales, blocks, order, &mut scales);
                Panels::Q8 { quants, scales }
            }
        };
        Self { panels, inputs: self.inputs, outputs: order.len() }
    }

    /// Adds a column times a factor to `x` `[K]`.
    pub fn add_column(&self, column: usize, factor: f32, x: &mut [f32]) {
        let (panel, place, pairs) = (column / PANEL, column % PANEL, panel_pairs(self.inputs));
        let number = |input: usize| match &self.panels {
            Panels::Bf16(all) => unpair(all[(panel * pairs + input / 2) * PANEL + place])[input % 2],
            Panels::Q8 { quants, scales } => {
                let scale = scales[(panel * pairs * 2 / Q8_BLOCK + input / Q8_BLOCK) * PANEL + place];
                let quant = quants[(panel * pairs * 2 + input) * PANEL + place];
                unpair(pair(f32::from(quant) * scale, 0.0))[0]
            }
        };
        x.iter_mut().enumerate().for_each(|(input, x)| *x += factor * number(input));
    }

    /// Some pairs of a panel; those of 8 bits are decoded into `scratch`.
    fn pairs<'a>(&'a self, panel: usize, range: Range<usize>, scratch: &'a mut Option<PairBuffer>) -> &'a [Pair] {
        let first = panel * panel_pairs(self.inputs);
        let numbers = (first + range.start) * PANEL..(first + range.end) * PANEL;
        match &self.panels {
            Panels::Bf16(pairs) => &pairs[numbers],
            Panels::Q8 { quants, scales } => {
                let most = panel_pairs(self.inputs).max(DEPTH_PAIRS) * PANEL;
                let to = &mut scratch.get_or_insert_with(|| PairBuffer::new(most))[..range.len() * PANEL];
                let scales = &scales[numbers.start * 2 / Q8_BLOCK..];
                dequantise(&quants[2 * numbers.start..2 * numbers.end], scales, to);
                to
            }
        }
    }

    /// Some columns in bf16; the range begins at a panel.
    pub fn in_bf16(&self, columns: Range<usize>) -> Self {
        let pairs = panel_pairs(self.inputs);
        let mut all = PairBuffer::new(columns.len().div_ceil(PANEL) * pairs * PANEL);
        write_panels(&mut all, pairs * PANEL, |(panel, to)| match &self.panels {
            Panels::Bf16(from) => {
                to.copy_from_slice(&from[(columns.start / PANEL + panel) * pairs * PANEL..][..pairs * PANEL]);
            }
            Panels::Q8 { quants, scales } => {
                let first = (columns.start / PANEL + panel) * pairs * PANEL;
                dequantise(&quants[2 * first..][..2 * pairs * PANEL], &scales[2 * first / Q8_BLOCK..], to);
            }
        });
        Self { panels: Panels::Bf16(all), inputs: self.inputs, outputs: columns.len() }
    }

    /// The transpose of some columns, in bf16: `[columns, K]`. The range begins at a panel.
    pub fn turned(&self, columns: Range<usize>) -> Self {
        let from = match &self.panels {
            Panels::Bf16(all) => &all[columns.start / PANEL * panel_pairs(self.inputs) * PANEL..],
            Panels::Q8 { .. } => return self.in_bf16(columns.clone()).turned(0..columns.len()),
        };
        let (panel, pairs) = (panel_pairs(self.inputs) * PANEL, panel_pairs(columns.len()));
        let mut all = PairBuffer::new(self.inputs.div_ceil(PANEL) * pairs * PANEL);
        write_panels(&mut all, pairs * PANEL, |(inputs, to)| {
            // 32 inputs' panel of the transpose takes one block of each panel of columns
            for (from, to) in from.chunks_exact(panel).zip(to.chunks_exact_mut(BLOCK_PAIRS * PANEL)) {
                turn_block(&from[inputs * BLOCK_PAIRS * PANEL..][..BLOCK_PAIRS * PANEL], to);
            }
        });
        Self { panels: Panels::Bf16(all), inputs: columns.len(), outputs: self.inputs }
    }

    /// `y (+)= x·w` on this thread with some of the columns; rows of `y` stand `y_step` apart. The range begins at a panel.
    ///
    /// # Panics
    /// If a slice is too short for its shape.
    pub fn product(&self, x: &Bf16Rows, columns: Range<usize>, y: &mut [f32], y_step: usize, over: Accumulate) {
        let (rows, width) = (x.rows, columns.len());
        if rows == 0 || width == 0 {
            return;
        }
        let fits = (rows - 1) * y_step + width <= y.len() && y_step >= width && columns.end <= self.outputs;
        assert!(fits && x.inputs == self.inputs && columns.start.is_multiple_of(PANEL), "a slice is too short");
        if self.inputs == 0 && over == Accumulate::Write {
            y.chunks_mut(y_step).take(rows).for_each(|row| row[..width].fill(0.0));
        }
        let (pairs, first, is_few) = (self.inputs.div_ceil(2), columns.start / PANEL, rows <= FEW_ROWS);
        let mut scratch = None;
        let mut on = |panel: usize, from: usize| {
            let to = pairs.min(from + DEPTH_PAIRS);
            let over = if from == 0 { over } else { Accumulate::Add };
            // whole blocks, so that 8 bits can be decoded
            let w = self.pairs(first + panel, from..to.next_multiple_of(BLOCK_PAIRS), &mut scratch);
            let shape = [rows, to - from, PANEL.min(width - panel * PANEL)];
            let next = if is_few { w.len() } else { panel_pairs(self.inputs) * PANEL };
            let w = PairPanel { values: w, next };
            panel_bf16::panel(shape, &x.pairs[from..], row_step(x.inputs), w, &mut y[panel * PANEL..], y_step, over);
        };
        let (panels, depths) = (0..width.div_ceil(PANEL), (0..pairs).step_by(DEPTH_PAIRS));
        if is_few {
            panels.for_each(|panel| depths.clone().for_each(|from| on(panel, from)));
        } else {
            depths.for_each(|from| panels.clone().for_each(|panel| on(panel, from)));
        }
    }

    /// The same with all columns, shared among threads if `split`; which changes no number.
    pub fn product_split(&self, x: &Bf16Rows, y: &mut [f32], y_step: usize, over: Accumulate, split: bool) {
        columns_among_threads([x.rows, self.outputs], y, y_step, over, split, |columns, y, y_step| {
            self.product(x, columns, y, y_step, over);
        });
    }

    /// `x·w` of rows that stand one after another, shared among threads.
    pub fn rows_product(&self, x: &[f32]) -> Vec<f32> {
        let rows = x.len() / self.inputs.max(1);
        let mut y = vec![0f32; rows * self.outputs];
        let band = rows.div_ceil(rayon::current_num_threads()).max(1);
        y.par_chunks_mut((band * self.outputs).max(1)).zip(x.par_chunks((band * self.inputs).max(1))).for_each(
            |(y, x)| {
                let rounded = Bf16Rows::new(Matrix::rows(x, self.inputs), x.len() / self.inputs, self.inputs);
                self.product(&rounded, 0..self.outputs, y, self.outputs, Accumulate::Write);
            },
        );
        y
    }
}

/// Columns of panels of so many rows in this order; what is beyond them is zero.
fn take_columns<T: Copy + Default>(from: &[T], rows: usize, order: &[usize], to: &mut [T]) {
    to.fill(T::default());
    for (column, source) in order.iter().enumerate() {
        for row in 0..rows {
            let at = |column: usize| (column / PANEL * rows + row) * PANEL + column % PANEL;
            to[at(column)] = from[at(*source)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::numbers;

    const SHAPES: [[usize; 3]; 9] = [
        [1, 1, 1],
        [3, 5, 7],
        [8, 32, 32],
        [9, 33, 65],
        [17, 300, 40],
        [23, 600, 31],
        [70, 1100, 64],
        [2, 0, 3],
        [66, 64, 200],
    ];

    fn rounded(x: f32) -> f32 {
        unpair(pair(x, 0.0))[0]
    }

    #[test]
    fn a_matrix_is_within_its_rounding_and_rounding_again_changes_nothing() {
        for [_, k, n] in SHAPES {
            let w = numbers(k * n, 2);
            // half a step of 8 bits, and of bf16
            let half_steps = [(FrozenNumbers::Bf16, 2f32.powi(-9)), (FrozenNumbers::Q8, 0.5 / 127.0 + 2f32.powi(-9))];
            for (kind, error) in half_steps {
                let matrix = FrozenMatrix::new(Matrix::rows(&w, n), k, n, kind);
                assert_eq!((matrix.inputs(), matrix.outputs(), matrix.numbers()), (k, n, kind));
                let values = matrix.values();
                assert!(w.iter().zip(&values).all(|(w, v)| (w - v).abs() <= error), "{kind:?} {k} {n}");
                let turned = Matrix::rows(&values, n);
                assert_eq!(FrozenMatrix::new(turned, k, n, FrozenNumbers::Bf16).values(), values);
                let mut column = vec![1.0; k];
                matrix.add_column(n - 1, 2.0, &mut column);
                assert!((0..k).all(|i| column[i] == 1.0 + 2.0 * values[i * n + n - 1]));
                let order: Vec<usize> = (0..n).map(|j| (7 * j + 3) % n).take(n.div_ceil(2)).collect();
                let (some, width) = (matrix.with_columns(&order), order.len());
                let of_some = some.values();
                assert!(
                    (0..k * width).all(|i| of_some[i] == values[i / width * n + order[i % width]]),
                    "{kind:?} {k} {n}"
                );
                let back = matrix.turned(0..n);
                assert_eq!((back.inputs(), back.outputs()), (n, k));
                let of_back = back.values();
                assert!((0..k * n).all(|i| of_back[i % n * k + i / n] == values[i]), "{kind:?} {k} {n}");
            }
        }
    }

    #[test]
    fn every_product_is_the_sum_in_f64_of_rounded_numbers() {
        for [m, k, n] in SHAPES {
            let (x, w) = (numbers(m * (k + 2), 1), numbers(k * n, 2));
            for kind in [FrozenNumbers::Bf16, FrozenNumbers::Q8] {
                let matrix = FrozenMatrix::new(Matrix::rows(&w, k).t(), k, n, kind); // stored [N, K]
                let (values, rows) = (matrix.values(), Bf16Rows::new(Matrix::rows(&x, k + 2), m, k));
                for over in [Accumulate::Add, Accumulate::Write] {
                    let before = numbers(m * (n + 3), 3);
                    let [mut all, mut split, mut parts] = [before.clone(), before.clone(), before.clone()];
                    matrix.product(&rows, 0..n, &mut all, n + 3, over);
                    matrix.product_split(&rows, &mut split, n + 3, over, true);
                    for first in (0..n).step_by(PANEL) {
                        matrix.product(&rows, first..n.min(first + PANEL), &mut parts[first..], n + 3, over);
                    }
                    assert!(all == split && all == parts, "{m} {k} {n}");
                    for (index, (actual, before)) in all.iter().zip(&before).enumerate() {
                        let (i, j) = (index / (n + 3), index % (n + 3));
                        if j >= n {
                            assert_eq!(actual, before);
                            continue;
                        }
                        let product = |l: usize| f64::from(rounded(x[i * (k + 2) + l])) * f64::from(values[l * n + j]);
                        let initial = if over == Accumulate::Add { f64::from(*before) } else { 0.0 };
                        let expected = initial + (0..k).map(product).sum::<f64>();
                        assert!((f64::from(*actual) - expected).abs() < 2e-5, "{m} {k} {n}: {actual}, {expected}");
                    }
                }
                let packed: Vec<f32> = x.chunks(k + 2).flat_map(|row| row[..k].to_vec()).collect();
                let mut plain = vec![0f32; m * n];
                matrix.product(&rows, 0..n, &mut plain, n, Accumulate::Write);
                assert!(k == 0 || matrix.rows_product(&packed) == plain);
            }
        }
    }

    #[test]
    fn it_is_rounded_and_read_in_parts_as_a_whole() {
        for [_, k, n] in SHAPES {
            let w = numbers(k * n, 5);
            for kind in [FrozenNumbers::Bf16, FrozenNumbers::Q8] {
                let whole = FrozenMatrix::new(Matrix::rows(&w, k).t(), k, n, kind); // stored [N, K]
                let read = |columns: Range<usize>, to: &mut [f32]| {
                    assert!(columns.len() <= PANEL);
                    to.copy_from_slice(&w[columns.start * k..columns.end * k]);
                };
                let values = whole.values();
                assert_eq!(FrozenMatrix::from_columns(k, n, kind, read).values(), values, "{kind:?} {k} {n}");
                for rows in [0..k, 0..k.min(3), k / 2..k, k..k] {
                    assert_eq!(whole.rows(rows.clone()), values[rows.start * n..rows.end * n], "{kind:?} {k} {n}");
                }
                let columns = whole.columns(n / 3..n);
                assert!(
                    (0..columns.len()).all(|i| columns[i] == values[i % k * n + n / 3 + i / k]),
                    "{kind:?} {k} {n}"
                );
            }
        }
    }

    #[test]
    fn eight_bits_are_decoded_to_the_same_bits_everywhere() {
        let quants: Vec<i8> = (0..40 * 2 * PANEL).map(|i| (i * 37 % 255) as u8 as i8).collect();
        let mut scales = numbers(3 * PANEL, 6);
        scales[..4].copy_from_slice(&[0.0, 1e-40, 3e38, f32::MIN_POSITIVE / 3.0]); // zero, denormal, overflow
        let [mut wide, mut plain] = [vec![0; 40 * PANEL], vec![0; 40 * PANEL]];
        dequantise(&quants, &scales, &mut wide);
        plain_dequantise(quants.as_chunks().0, scales.as_chunks().0, plain.as_chunks_mut().0);
        assert_eq!(wide, plain);
        let (pair_of, column) = (17, 9);
        let scale = scales[PANEL + column];
        let [even, odd] = [0, 1].map(|half| f32::from(quants[(2 * pair_of + half) * PANEL + column]) * scale);
        assert_eq!(wide[pair_of * PANEL + column], pair(even, odd));
    }

    #[test]
    fn some_columns_turned_are_the_transpose_of_these() {
        let (k, n) = (70, 150);
        let w = numbers(k * n, 4);
        for kind in [FrozenNumbers::Bf16, FrozenNumbers::Q8] {
            let matrix = FrozenMatrix::new(Matrix::rows(&w, n), k, n, kind);
            let (values, part) = (matrix.values(), matrix.turned(64..111));
            let of_part = part.values(); // [47, K]
            assert_eq!((part.inputs(), part.outputs()), (47, k));
            assert!((0..47 * k).all(|i| of_part[i] == values[i % k * n + 64 + i / k]), "{kind:?}");
        }
    }

    #[test]
    #[should_panic(expected = "too short")]
    fn a_short_slice_is_refused() {
        let matrix = FrozenMatrix::new(Matrix::rows(&[0.0; 4], 2), 2, 2, FrozenNumbers::Bf16);
        let rows = Bf16Rows::new(Matrix::rows(&[0.0; 4], 2), 2, 2);
        matrix.product(&rows, 0..2, &mut [0.0; 3], 2, Accumulate::Write);
    }
}
