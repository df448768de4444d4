//! Matrices that stay in their file, and are decoded each time they are read.

use crate::Result;
use crate::file_dtype::FileDType;
use crate::file_tensor::RowOrder;
use crate::mapped_file::MappedFile;
use duel_kernels::PooledBuffer;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// A matrix that stays in its file, and is decoded each time it is read.
#[derive(Debug, Clone)]
pub struct MmapMatrix {
    pub(crate) file: Arc<MappedFile>,
    pub(crate) range: Range<usize>,
    pub(crate) kind: FileDType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) order: RowOrder,
}

/// Rows of a mapped matrix that one thread decodes at a time.
const BAND: usize = 32;

impl MmapMatrix {
    /// Inputs and outputs.
    pub fn dims(&self) -> [usize; 2] {
        [self.columns, self.rows]
    }

    /// The matrix `[out, in]`, row by row. Where the file was changed since it was opened, an error is thrown for [`crate::catching`].
    pub fn read(&self) -> PooledBuffer {
        let file = self.file.bytes().unwrap_or_else(|changed| std::panic::resume_unwind(Box::new(changed)));
        let (columns, [numbers, size]) = (self.columns, self.kind.block());
        let bytes = columns / numbers * size; // of a row, which is whole blocks
        let mut values = PooledBuffer::new(self.rows * columns);
        values.par_chunks_mut((BAND * columns).max(1)).enumerate().for_each(|(band, to)| {
            let mut row = Vec::with_capacity(columns);
            for (i, to) in to.chunks_exact_mut(columns).enumerate() {
                let from = self.range.start + self.file_row(band * BAND + i) * bytes;
                self.decode_row(&file[from..from + bytes], &mut row, to);
            }
        });
        values
    }

    /// The file's row, among those of this matrix, that is our `row`.
    pub(crate) fn file_row(&self, row: usize) -> usize {
        self.order.file_row(self.rows, row)
    }

    fn decode_row(&self, bytes: &[u8], row: &mut Vec<f32>, to: &mut [f32]) {
        let [_, size] = self.kind.block();
        row.clear();
        bytes.chunks_exact(size).for_each(|block| self.kind.decode_block(block, row));
        to.copy_from_slice(row);
    }

    /// Some rows, read from the file and not through its mapping, which would count as memory of this process.
    ///
    /// # Errors
    /// [`crate::Error::Changed`]
    pub(crate) fn copy_rows(&self, rows: Range<usize>, to: &mut [f32]) -> Result<()> {
        let [numbers, size] = self.kind.block();
        let bytes = self.columns / numbers * size; // of a row, which is whole blocks
        let copy = |row: usize, count: usize| {
            let first = self.range.start + row * bytes;
            self.file.copy(first..first + count * bytes)
        };
        let mut row = Vec::with_capacity(self.columns);
        if self.order == RowOrder::Same {
            let all = copy(rows.start, rows.len())?;
            let of_rows = all.chunks_exact(bytes.max(1)).zip(to.chunks_exact_mut(self.columns.max(1)));
            of_rows.for_each(|(bytes, to)| self.decode_row(bytes, &mut row, to));
            return Ok(());
        }
        for (index, to) in rows.zip(to.chunks_exact_mut(self.columns.max(1))) {
            self.decode_row(&copy(self.file_row(index), 1)?, &mut row, to);
        }
        Ok(())
    }
}
