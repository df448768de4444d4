//! Matrix products on one thread, for the shapes of small models: few inputs, many rows. The right side is packed into
//! panels of columns, which many products may share; the left side is read where it is.

use crate::buffer::PooledBuffer;
use crate::matrix::{Accumulate, DEPTH, FEW_ROWS, LhsTiles, Matrix, PANEL, PackBuffer, RhsPanel};
use crate::panel::{pack_panel, panel_product};
use crate::threads::{columns_among_threads, write_panels};
use std::ops::Range;

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
        write_panels(&mut self.panels[..size], inputs * PANEL, pack);
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
        let x = Matrix::rows(x, self.inputs);
        columns_among_threads([rows, self.outputs], y, self.outputs, over, split, |columns, y, y_step| {
            self.columns_product((rows, columns), x, y, y_step, over);
        });
    }

    /// `y (+)= x·w` on this thread with some of the columns, of which the first begins a panel; rows of `y` stand `y_step` apart.
    ///
    /// # Panics
    /// If a slice is too short for its shape.
    pub fn columns_product(
        &self,
        (rows, columns): (usize, Range<usize>),
        x: Matrix<'_>,
        y: &mut [f32],
        y_step: usize,
        over: Accumulate,
    ) {
        if columns == (0..self.outputs) {
            return self.gemm_range((rows, 0..self.inputs, self.outputs), x, y, y_step, over, 1.0);
        }
        let (inputs, width) = (self.inputs, columns.len());
        let fits = columns.start.is_multiple_of(PANEL) && columns.end <= self.outputs && y_step >= width;
        assert!(fits && x.holds(rows, inputs) && (rows - 1) * y_step + width <= y.len(), "a slice is too short");
        panels_product(
            &self.panels[columns.start * inputs..],
            inputs,
            (rows, 0..inputs, width),
            x,
            y,
            y_step,
            over,
            1.0,
        );
    }

    /// One column of the matrix.
    pub fn column(&self, column: usize) -> impl Iterator<Item = &f32> {
        let panel = &self.panels[column / PANEL * PANEL * self.inputs..][..PANEL * self.inputs];
        panel[column % PANEL..].iter().step_by(PANEL)
    }
}

/// [`Packed::gemm_range`] on consecutive panels.
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
    if rows <= FEW_ROWS && x.column_step == 1 {
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
            let right = if m <= FEW_ROWS && b.column_step == 1 && width == PANEL {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::panel::plain_panel;
    use crate::testing::numbers;

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

    #[test]
    fn every_shape_and_layout_is_the_sum_in_f64() {
        for [m, k, n] in
            [[1, 1, 1], [3, 5, 7], [8, 32, 32], [9, 33, 65], [17, 300, 40], [23, 600, 31], [70, 300, 64], [2, 0, 3]]
        {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            for (a_turned, b_turned) in [(false, false), (true, false), (false, true), (true, true)] {
                let a = if a_turned { Matrix::rows(&a, m).t() } else { Matrix::rows(&a, k) };
                let b = if b_turned { Matrix::rows(&b, k).t() } else { Matrix::rows(&b, n) };
                let entry = |x: Matrix<'_>, i: usize, j: usize| f64::from(x.values[i * x.row_step + j * x.column_step]);
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
                    for (at_c, (actual, before)) in c.iter().zip(&before).enumerate() {
                        let (i, j) = (at_c / (n + 3), at_c % (n + 3));
                        if j >= n {
                            assert_eq!(actual, before);
                            continue;
                        }
                        let sum: f64 = (0..k).map(|l| entry(a, i, l) * entry(b, l, j)).sum();
                        let initial = if over == Accumulate::Add { f64::from(*before) } else { 0.0 };
                        let expected = initial + 0.25 * sum;
                        assert!((f64::from(*actual) - expected).abs() < 1e-5, "{m} {k} {n}: {actual}, {expected}");
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
