//! Working memory that comes back: a buffer's pages are kept and used again, so that no step clears them anew.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::{LazyLock, Mutex};

/// Free buffers by length.
static FREE: LazyLock<Mutex<HashMap<usize, Vec<Vec<f32>>>>> = LazyLock::new(Mutex::default);

/// Numbers that must be written before they are read: a buffer holds what its last user left.
#[derive(Debug)]
pub struct Buffer(Vec<f32>);

impl Buffer {
    /// A buffer of some length.
    pub fn new(length: usize) -> Self {
        let kept = FREE.lock().ok().and_then(|mut free| free.get_mut(&length)?.pop());
        Self(kept.unwrap_or_else(|| vec![0.0; length]))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.0);
        if let Ok(mut free) = FREE.lock() {
            free.entry(numbers.len()).or_default().push(numbers);
        }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
