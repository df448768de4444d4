//! Where a file holds a parameter: its tensor's name, its orientation, and which of the rows are the parameter's, in which order.

use std::ops::Range;

/// Where a file holds one of our parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTensor {
    pub name: String,
    /// Whether the file has the matrix as `[out, in]`, where ours is `[in, out]`.
    pub is_transposed: bool,
    pub order: RowOrder,
    /// Where the tensor holds more than the parameter; `None`: its rows are all of the parameter.
    pub part: Option<RowPart>,
}

/// Some of a tensor's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPart {
    pub rows: Range<usize>,
    /// Rows of the whole tensor.
    pub of: usize,
}

/// The order in which a file holds the outputs of a projection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum RowOrder {
    /// As ours.
    #[default]
    Same,
    /// The units of rotary heads as neighbouring pairs `(2i, 2i + 1)`; ours are halves `(i, i + E/2)`.
    Interleaved { heads: usize },
    /// Queries of all heads, then keys, then values; ours are queries, keys and values of one head after another.
    ByKind { heads: usize },
}

impl FileTensor {
    /// A parameter that a file holds as we do.
    pub fn same(name: impl Into<String>) -> Self {
        Self::new(name.into(), false)
    }

    pub(crate) fn new(name: String, is_transposed: bool) -> Self {
        Self { name, is_transposed, order: RowOrder::Same, part: None }
    }

    /// The shape of the file's tensor for a parameter of this shape.
    pub(crate) fn shape(&self, mut ours: Vec<usize>) -> Vec<usize> {
        if self.is_transposed {
            ours.reverse();
        }
        if let (Some(part), Some(rows)) = (&self.part, ours.first_mut()) {
            *rows = part.of;
        }
        ours
    }

    /// Our rows of the file's values, in our order.
    pub(crate) fn rows_from_file(&self, values: Vec<f32>, columns: usize) -> Vec<f32> {
        let values = match &self.part {
            Some(RowPart { rows, .. }) => values[rows.start * columns..rows.end * columns].to_vec(),
            None => values,
        };
        self.order.as_ours(values, columns)
    }
}

impl RowOrder {
    /// The file's row that is our `row`, of `rows`.
    pub fn file_row(self, rows: usize, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleaved { heads } => {
                let e = rows / heads;
                row / e * e + 2 * (row % e % (e / 2)) + row % e / (e / 2)
            }
            Self::ByKind { heads } => {
                let e = rows / heads / 3;
                row / e % 3 * heads * e + row / (3 * e) * e + row % e
            }
        }
    }

    /// The inverse of [`Self::file_row`].
    fn our_row(self, rows: usize, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleaved { heads } => {
                let e = rows / heads;
                row / e * e + row % e % 2 * (e / 2) + row % e / 2
            }
            Self::ByKind { heads } => {
                let e = rows / heads / 3;
                row / e % heads * 3 * e + row / (heads * e) * e + row % e
            }
        }
    }

    /// Rows of a file in our order.
    pub(crate) fn as_ours(self, values: Vec<f32>, columns: usize) -> Vec<f32> {
        let rows = values.len() / columns.max(1);
        self.reordered(values, columns, |row| self.file_row(rows, row))
    }

    /// Our rows in the file's order.
    pub(crate) fn as_in_file(self, values: Vec<f32>, columns: usize) -> Vec<f32> {
        let rows = values.len() / columns.max(1);
        self.reordered(values, columns, |row| self.our_row(rows, row))
    }

    fn reordered(self, values: Vec<f32>, columns: usize, from: impl Fn(usize) -> usize) -> Vec<f32> {
        if self == Self::Same {
            return values;
        }
        let mut ordered = Vec::with_capacity(values.len());
        (0..values.len() / columns)
            .for_each(|row| ordered.extend_from_slice(&values[from(row) * columns..][..columns]));
        ordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_a_file_and_come_back() {
        // two heads of four units: pairs (0, 1), (2, 3) of the file are units 0, 2 and 1, 3 of ours
        let ours: Vec<f32> = (0..8).map(|row| row as f32).collect();
        let pairs = RowOrder::Interleaved { heads: 2 };
        assert_eq!(pairs.as_in_file(ours.clone(), 1), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        // two heads of q0 q1 k0 k1 v0 v1, where the file has all q, all k, all v
        let ours: Vec<f32> = (0..12).map(|row| row as f32).collect();
        let kinds = RowOrder::ByKind { heads: 2 };
        assert_eq!(kinds.as_in_file(ours.clone(), 1), [0.0, 1.0, 6.0, 7.0, 2.0, 3.0, 8.0, 9.0, 4.0, 5.0, 10.0, 11.0]);
        for order in [pairs, kinds, RowOrder::Same] {
            let values: Vec<f32> = (0..24).map(|x| x as f32).collect();
            assert_eq!(order.as_ours(order.as_in_file(values.clone(), 2), 2), values, "{order:?}");
        }
        let part = FileTensor { part: Some(RowPart { rows: 1..3, of: 3 }), ..FileTensor::same("x") };
        assert_eq!(part.rows_from_file(vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 2), [2.0, 3.0, 4.0, 5.0]);
    }
}
