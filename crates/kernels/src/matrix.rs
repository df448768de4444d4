//! Matrix products on one thread, by the `gemm` crate, behind a door that checks lengths.

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

/// `c (+)= a·b·scale`: `a` is `[m, k]`, `b` `[k, n]`, `c` `[m, n]` with rows `c_step` apart.
///
/// # Panics
/// If a slice is too short for its shape.
#[expect(unsafe_code, reason = "the library takes pointers; the lengths are checked here")]
pub fn product(
    [m, k, n]: [usize; 3],
    c: &mut [f32],
    c_step: usize,
    add: bool,
    a: Matrix<'_>,
    b: Matrix<'_>,
    scale: f32,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(a.holds(m, k) && b.holds(k, n) && (m - 1) * c_step + n <= c.len() && c_step >= n, "a slice is too short");
    // SAFETY: every entry that the product touches lies within its slice, as asserted; `c` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_step as isize,
            add,
            a.values.as_ptr(),
            a.column_step as isize,
            a.row_step as isize,
            b.values.as_ptr(),
            b.column_step as isize,
            b.row_step as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
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
        product([2, 3, 2], &mut c, 3, true, Matrix::rows(&a, 3), Matrix::rows(&b, 2), 0.5);
        assert_eq!(c, [1.0 + 2.5, 1.0 + 5.5, 1.0, 1.0 + 7.0, 1.0 + 11.5, 1.0]);
        let mut square = [0.0; 4];
        product([2, 3, 2], &mut square, 2, false, Matrix::rows(&a, 3), Matrix::rows(&a, 3).t(), 1.0);
        assert_eq!(square, [14.0, 32.0, 32.0, 77.0]);
    }

    #[test]
    #[should_panic(expected = "too short")]
    fn a_short_slice_is_refused() {
        product([2, 2, 2], &mut [0.0; 3], 2, false, Matrix::rows(&[0.0; 4], 2), Matrix::rows(&[0.0; 4], 2), 1.0);
    }
}
