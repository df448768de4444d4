//! The two layouts of rotary heads: pairs of halves `(i, i + E/2)`, as we and Hugging Face have them, and neighbouring
//! pairs `(2i, 2i + 1)`, as some GGUF files have them.

/// Rows of `heads` heads put from the order of neighbouring pairs `(2i, 2i + 1)` into that of halves `(i, i + E/2)`.
pub fn to_half_split(values: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    let e = values.len() / columns / heads;
    reorder_rows(values, columns, |row| half_split_row(e, row))
}

/// Which of the rows of heads of `e` rows each, kept as neighbouring pairs, is row `row` of halves.
pub fn half_split_row(e: usize, row: usize) -> usize {
    (row / e) * e + 2 * (row % e % (e / 2)) + row % e / (e / 2)
}

/// The inverse of [`to_half_split`].
pub fn to_interleaved(values: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    let e = values.len() / columns / heads;
    reorder_rows(values, columns, |row| (row / e) * e + (row % e % 2) * (e / 2) + row % e / 2)
}

/// Rows in another order: `from` says which row becomes row r.
pub fn reorder_rows(values: &[f32], columns: usize, from: impl Fn(usize) -> usize) -> Vec<f32> {
    let mut ordered = Vec::with_capacity(values.len());
    (0..values.len() / columns).for_each(|row| ordered.extend_from_slice(&values[from(row) * columns..][..columns]));
    ordered
}
