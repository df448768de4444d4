//! Matrices that stay in their file, and are decoded each time they are read.

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
                let from = self.range.start + self.order.file_row(self.rows, band * BAND + i) * bytes;
                row.clear();
                file[from..from + bytes].chunks_exact(size).for_each(|block| self.kind.decode_block(block, &mut row));
                to.copy_from_slice(&row);
            }
        });
        values
    }
}
