//! The matrix of a linear map as it stands in memory, and ready for products.

use crate::frozen::{Bf16Rows, FrozenMatrix, FrozenNumbers};
use crate::matrix::{Accumulate, Matrix};
use crate::product::Packed;
use std::ops::Range;
use std::sync::Arc;

/// The matrix of a map `[inputs, outputs]`, as it stands in memory.
#[derive(Debug, Clone, Copy)]
pub enum LinearMatrix<'a> {
    /// Row by row; `turned`: as `[outputs, inputs]`, as files have it.
    F32 { values: &'a [f32], turned: bool },
    /// Not trained, and rounded.
    Frozen(&'a Arc<FrozenMatrix>),
}

impl Default for LinearMatrix<'_> {
    fn default() -> Self {
        Self::F32 { values: &[], turned: false }
    }
}

impl<'a> From<&'a [f32]> for LinearMatrix<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self::F32 { values, turned: false }
    }
}

/// Some columns of a matrix, ready for products.
#[derive(Debug)]
pub struct PackedColumns {
    /// Of the whole matrix.
    pub columns: Range<usize>,
    matrix: PackedMatrix,
    /// Where they are in the packed matrix.
    within: Range<usize>,
}

impl PackedColumns {
    /// `y (+)= x·W` of some rows on this thread; rows of `y` stand `y_step` apart.
    pub fn product(&self, x: &LeftRows<'_>, y: &mut [f32], y_step: usize, over: Accumulate) {
        match (&self.matrix, &x.rounded) {
            (PackedMatrix::Frozen(matrix), Some(x)) => matrix.product(x, self.within.clone(), y, y_step, over),
            (matrix, _) => matrix.product(x.count, x.values, y, y_step, over),
        }
    }
}

/// Rows that several [`PackedColumns`] of one matrix are multiplied with.
#[derive(Debug)]
pub struct LeftRows<'a> {
    pub values: Matrix<'a>,
    pub count: usize,
    /// Where the matrix is frozen.
    rounded: Option<Bf16Rows>,
}

impl<'a> LeftRows<'a> {
    pub fn new(values: Matrix<'a>, count: usize, inputs: usize, matrix: LinearMatrix<'_>) -> Self {
        let is_frozen = matches!(matrix, LinearMatrix::Frozen(_));
        Self { values, count, rounded: is_frozen.then(|| Bf16Rows::new(values, count, inputs)) }
    }
}

/// A matrix ready for products one way.
#[derive(Debug, Clone)]
pub enum PackedMatrix {
    F32(Packed),
    Frozen(Arc<FrozenMatrix>),
}

impl<'a> LinearMatrix<'a> {
    /// Numbers of the matrix.
    pub fn len(self) -> usize {
        match self {
            Self::F32 { values, .. } => values.len(),
            Self::Frozen(matrix) => matrix.inputs() * matrix.outputs(),
        }
    }

    /// Whether there is no matrix.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Columns `from..` of values `[inputs, outputs]`, however they stand.
    fn matrix(values: &'a [f32], turned: bool, [inputs, outputs]: [usize; 2], from: usize) -> Matrix<'a> {
        match turned {
            true => Matrix::rows(&values[from * inputs..], inputs).t(),
            false => Matrix::rows(&values[from..], outputs),
        }
    }

    /// Ready for `x·W`.
    pub(crate) fn packed(self, [inputs, outputs]: [usize; 2]) -> PackedMatrix {
        match self {
            Self::F32 { values, turned } => {
                let from = Self::matrix(values, turned, [inputs, outputs], 0);
                PackedMatrix::F32(Packed::new(from, inputs, outputs))
            }
            Self::Frozen(matrix) => PackedMatrix::Frozen(matrix.clone()),
        }
    }

    /// Ready for `x·W` of many rows, for which 8 bits are decoded once.
    pub(crate) fn packed_for_many(self, sizes @ [_, outputs]: [usize; 2]) -> PackedMatrix {
        match self {
            Self::Frozen(matrix) if matrix.numbers() == FrozenNumbers::Q8 => {
                PackedMatrix::Frozen(Arc::new(matrix.in_bf16(0..outputs)))
            }
            _ => self.packed(sizes),
        }
    }

    /// Ready for `x·W` of many rows on some columns, of which the first begins a panel.
    pub(crate) fn packed_columns(self, sizes @ [inputs, _]: [usize; 2], columns: Range<usize>) -> PackedColumns {
        let (matrix, first) = match self {
            Self::F32 { values, turned } => {
                let from = Self::matrix(values, turned, sizes, columns.start);
                (PackedMatrix::F32(Packed::new(from, inputs, columns.len())), 0)
            }
            Self::Frozen(matrix) if matrix.numbers() == FrozenNumbers::Bf16 => {
                (PackedMatrix::Frozen(matrix.clone()), columns.start)
            }
            Self::Frozen(matrix) => (PackedMatrix::Frozen(Arc::new(matrix.in_bf16(columns.clone()))), 0),
        };
        PackedColumns { matrix, within: first..first + columns.len(), columns }
    }

    /// Ready for `dy·Wᵀ` from some columns, of which the first begins a panel.
    pub(crate) fn packed_back(self, sizes @ [inputs, _]: [usize; 2], columns: Range<usize>) -> PackedMatrix {
        match self {
            Self::F32 { values, turned } => {
                let from = Self::matrix(values, turned, sizes, columns.start);
                PackedMatrix::F32(Packed::new(from.t(), columns.len(), inputs))
            }
            Self::Frozen(matrix) => PackedMatrix::Frozen(Arc::new(matrix.turned(columns))),
        }
    }
}

impl PackedMatrix {
    /// Numbers of the matrix.
    pub fn numbers(&self) -> usize {
        match self {
            Self::F32(packed) => packed.inputs() * packed.outputs,
            Self::Frozen(matrix) => matrix.inputs() * matrix.outputs(),
        }
    }

    /// Adds a column times a factor to `x`.
    pub fn add_column(&self, column: usize, factor: f32, x: &mut [f32]) {
        match self {
            Self::F32(packed) => x.iter_mut().zip(packed.column(column)).for_each(|(x, w)| *x += factor * w),
            Self::Frozen(matrix) => matrix.add_column(column, factor, x),
        }
    }

    /// Rows `[count, inputs]` for products with some of its columns at a time.
    pub fn left_rows<'a>(&self, values: Matrix<'a>, count: usize) -> LeftRows<'a> {
        let rounded = match self {
            Self::F32(_) => None,
            Self::Frozen(matrix) => Some(Bf16Rows::new(values, count, matrix.inputs())),
        };
        LeftRows { values, count, rounded }
    }

    /// `y (+)= x·W` on this thread with some of the columns, of which the first begins a panel; rows of `y` stand `y_step` apart.
    ///
    /// # Panics
    /// If a slice is too short for its shape, or the rows are not [`Self::left_rows`] of such a matrix.
    pub fn columns_product(
        &self,
        x: &LeftRows<'_>,
        columns: Range<usize>,
        y: &mut [f32],
        y_step: usize,
        over: Accumulate,
    ) {
        match (self, &x.rounded) {
            (Self::F32(packed), _) => packed.columns_product((x.count, columns), x.values, y, y_step, over),
            (Self::Frozen(matrix), Some(x)) => matrix.product(x, columns, y, y_step, over),
            (Self::Frozen(_), None) => panic!("rows of another kind of matrix"),
        }
    }

    /// `y (+)= x·W` of `n` rows on this thread; rows of `y` stand `y_step` apart.
    pub fn product(&self, n: usize, x: Matrix<'_>, y: &mut [f32], y_step: usize, over: Accumulate) {
        match self {
            Self::F32(packed) => {
                packed.gemm_range((n, 0..packed.inputs(), packed.outputs), x, y, y_step, over, 1.0);
            }
            Self::Frozen(matrix) => {
                let x = Bf16Rows::new(x, n, matrix.inputs());
                matrix.product(&x, 0..matrix.outputs(), y, y_step, over);
            }
        }
    }
}
