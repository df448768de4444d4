//! The two layouts of rotary heads: pairs of halves `(i, i + E/2)`, as we and Hugging Face have them, and neighbouring
//! pairs `(2i, 2i + 1)`, as some GGUF files have them.

/// Rows of `heads` heads put from the order of neighbouring pairs `(2i, 2i + 1)` into that of halves `(i, i + E/2)`.
pub fn to_half_split(values: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    reorder_rows(values, heads, columns, half_split_row)
}

/// Which of the rows of heads of `e` rows each, kept as neighbouring pairs, is row `row` of halves.
pub fn half_split_row(e: usize, row: usize) -> usize {
    (row / e) * e + 2 * (row % e % (e / 2)) + row % e / (e / 2)
}

/// The inverse of [`to_half_split`].
pub fn to_interleaved(values: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    reorder_rows(values, heads, columns, |e, row| (row / e) * e + (row % e % 2) * (e / 2) + row % e / 2)
}

fn reorder_rows(values: &[f32], heads: usize, columns: usize, from: impl Fn(usize, usize) -> usize) -> Vec<f32> {
    let rows = values.len() / columns;
    let mut ordered = Vec::with_capacity(values.len());
    (0..rows).for_each(|row| ordered.extend_from_slice(&values[from(rows / heads, row) * columns..][..columns]));
    ordered
}
