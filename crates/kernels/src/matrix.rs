//! What a matrix product reads and writes: matrices within slices, the tiles of its left side, the panels of its right side.

use crate::buffer::PooledBuffer;

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

    pub fn holds(&self, rows: usize, columns: usize) -> bool {
        rows == 0 || columns == 0 || (rows - 1) * self.row_step + (columns - 1) * self.column_step < self.values.len()
    }
}

/// Columns of a panel: two registers of AVX-512.
pub const PANEL: usize = 32;
/// Inputs of a panel worked on at a time: `[DEPTH, PANEL]` stays in the first cache.
pub const DEPTH: usize = 256;
/// Rows of a tile.
pub const ROWS: usize = 8;
/// Rows so few that they wait for the right side: it is not packed for them, and read from one end to the other.
pub const FEW_ROWS: usize = 64;
/// Numbers between two packed tiles, so that the tiles do not fall on the same lines of the first cache.
const TILE_PAD: usize = 16;

/// What becomes of the numbers that a product's result is written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// They are added to.
    Add,
    /// They are not read.
    Write,
}

/// Rows of a left side, tile by tile: where an entry stands is `row / ROWS · tile_step + row % ROWS · row_step +
/// input · input_step`.
#[derive(Debug, Clone, Copy)]
pub struct LhsTiles<'a> {
    pub values: &'a [f32],
    pub tile_step: usize,
    pub row_step: usize,
    pub input_step: usize,
}

/// A panel: rows of 32 numbers, `step` apart.
#[derive(Debug, Clone, Copy)]
pub struct RhsPanel<'a> {
    pub values: &'a [f32],
    pub step: usize,
    /// How far on the panel begins that will be read next: it comes from memory while this one is worked on. 0: there is none.
    pub next: usize,
}

/// Where a left side is packed, made when it is needed.
pub type PackBuffer = Option<PooledBuffer>;

impl<'a> LhsTiles<'a> {
    /// Inputs `from..` of a matrix. A transposed one is copied tile by tile where many columns will read it: its entries
    /// stand so far apart that the first cache cannot hold them.
    pub fn new(
        x: Matrix<'a>,
        from: usize,
        [rows, depth]: [usize; 2],
        columns: usize,
        scratch: &'a mut PackBuffer,
    ) -> Self {
        let values = &x.values[from * x.column_step..];
        if x.row_step != 1 || x.column_step == 1 || depth * columns <= DEPTH * PANEL / 2 {
            return Self { values, tile_step: ROWS * x.row_step, row_step: x.row_step, input_step: x.column_step };
        }
        let (tiles, tile_step) = (rows.div_ceil(ROWS), ROWS * depth + TILE_PAD);
        let packed = scratch.get_or_insert_with(|| PooledBuffer::new(tiles * (ROWS * DEPTH + TILE_PAD)));
        for input in 0..depth {
            let row = &values[input * x.column_step..][..rows];
            let mut offset = input * ROWS;
            let (eights, rest) = row.as_chunks::<ROWS>();
            for eight in eights {
                packed[offset..offset + ROWS].copy_from_slice(eight);
                offset += tile_step;
            }
            if !rest.is_empty() {
                packed[offset..offset + rest.len()].copy_from_slice(rest);
            }
        }
        Self { values: packed, tile_step, row_step: 1, input_step: ROWS }
    }

    pub fn holds(&self, rows: usize, inputs: usize) -> bool {
        let (tile, row) = ((rows - 1) / ROWS, (rows - 1) % ROWS);
        let whole = if tile > 0 { (tile - 1) * self.tile_step + (ROWS - 1) * self.row_step } else { 0 };
        let last = whole.max(tile * self.tile_step + row * self.row_step);
        inputs == 0 || last + (inputs - 1) * self.input_step < self.values.len()
    }
}
