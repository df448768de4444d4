//! Working memory that comes back: a buffer's pages are kept and used again, so that no step clears them anew.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

/// A free buffer, and the update that it was last used in.
type Kept = (u64, Vec<f32>);
/// Free buffers by length.
static FREE: LazyLock<Mutex<HashMap<usize, Vec<Kept>>>> = LazyLock::new(Mutex::default);
/// Updates so far.
static UPDATE: AtomicU64 = AtomicU64::new(0);
/// Updates that a buffer waits for its next use before its pages go back to the system.
const PATIENCE: u64 = 64;

/// Says that an update is made: what none of the last ones used goes back to the system.
pub fn updated() {
    let now = UPDATE.fetch_add(1, Ordering::Relaxed);
    if now.is_multiple_of(PATIENCE)
        && let Ok(mut free) = FREE.lock()
    {
        free.retain(|_, buffers| {
            buffers.retain(|(used, _)| used + PATIENCE > now);
            !buffers.is_empty()
        });
    }
}

/// Numbers that must be written before they are read: a buffer holds what its last user left.
#[derive(Debug)]
pub struct Buffer(Vec<f32>);

impl Buffer {
    /// A buffer of some length.
    pub fn new(length: usize) -> Self {
        let kept = FREE.lock().ok().and_then(|mut free| free.get_mut(&length)?.pop());
        Self(kept.map_or_else(|| vec![0.0; length], |(_, numbers)| numbers))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.0);
        if let Ok(mut free) = FREE.lock() {
            let used = UPDATE.load(Ordering::Relaxed);
            free.entry(numbers.len()).or_default().push((used, numbers));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_until_it_has_waited_long() {
        let length = 12_345; // nobody else's
        let kept = || FREE.lock().map_or(0, |free| free.get(&length).map_or(0, Vec::len));
        drop([Buffer::new(length), Buffer::new(length)]);
        assert_eq!(kept(), 2);
        let one = Buffer::new(length);
        assert_eq!((one.len(), kept()), (length, 1));
        drop(one);
        (0..2 * PATIENCE).for_each(|_| updated());
        assert_eq!(kept(), 0);
    }
}
