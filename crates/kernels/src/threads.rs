//! Panels and columns that threads share.

use crate::buffer::PooledBuffer;
use crate::matrix::{Accumulate, PANEL};
use rayon::prelude::*;
use std::ops::Range;

/// Numbers that one thread packs alone.
const SERIAL_PACK_MAX: usize = 1 << 15;

/// Writes each panel of so many numbers.
pub fn write_panels<T: Send>(all: &mut [T], panel: usize, write: impl Fn((usize, &mut [T])) + Sync + Send) {
    match panel {
        0 => {}
        _ if all.len() < SERIAL_PACK_MAX => all.chunks_exact_mut(panel).enumerate().for_each(write),
        _ => all.par_chunks_exact_mut(panel).enumerate().for_each(write),
    }
}

/// A product's columns on this thread or, `split`, shared among all; which of both changes no number. `product` takes columns, of
/// which the first begins a panel, where they go, and how far apart their rows stand there.
pub fn columns_among_threads(
    [rows, outputs]: [usize; 2],
    y: &mut [f32],
    y_step: usize,
    over: Accumulate,
    split: bool,
    product: impl Fn(Range<usize>, &mut [f32], usize) + Sync,
) {
    let threads = rayon::current_num_threads();
    if !split || threads == 1 || outputs < 2 * PANEL {
        return product(0..outputs, y, y_step);
    }
    let share = outputs.div_ceil(PANEL).div_ceil(threads) * PANEL;
    let before = &*y;
    let parts: Vec<(Range<usize>, PooledBuffer)> = (0..outputs.div_ceil(share))
        .into_par_iter()
        .map(|part| {
            let columns = part * share..outputs.min((part + 1) * share);
            let width = columns.len();
            let mut out = PooledBuffer::new(rows * width);
            if over == Accumulate::Add {
                let rows = before.chunks(y_step).zip(out.chunks_exact_mut(width));
                rows.for_each(|(y, out)| out.copy_from_slice(&y[columns.clone()]));
            }
            product(columns.clone(), &mut out, width);
            (columns, out)
        })
        .collect();
    for (columns, part) in parts {
        for (y, part) in y.chunks_mut(y_step).zip(part.chunks_exact(columns.len())) {
            y[columns.clone()].copy_from_slice(part);
        }
    }
}
