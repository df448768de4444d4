//! Working memory that comes back: a buffer's pages are kept and used again, so that no step clears them anew.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

/// Free buffers, the one that came back last at the end.
static FREE: LazyLock<Mutex<BufferPool>> = LazyLock::new(Mutex::default);
/// Updates so far.
static UPDATE: AtomicU64 = AtomicU64::new(0);
/// Updates that a buffer waits for its next use before its pages go back to the system.
const PATIENCE: u64 = 64;
/// Numbers, 256 MB, by which those that wait and those in use may exceed the most that were in use at once: beyond it those go back
/// that have waited longest.
const MOST: usize = 1 << 26;
/// Numbers of a model, 1 GB, from which on the free buffers make room for it.
const MANY: usize = 4 * MOST;

#[derive(Default)]
struct BufferPool {
    /// Each with the update that it was last used in.
    buffers: VecDeque<(u64, Vec<f32>)>,
    /// Numbers in all of them.
    held: usize,
    /// Numbers in use, and the most that were in use at once.
    used: usize,
    most_used: usize,
}

impl BufferPool {
    fn take(&mut self, length: usize) -> Option<Vec<f32>> {
        self.used += length;
        self.most_used = self.most_used.max(self.used);
        let index = self.buffers.iter().rposition(|(_, numbers)| numbers.len() == length)?;
        self.held -= length;
        self.buffers.remove(index).map(|(_, numbers)| numbers)
    }

    fn put(&mut self, update: u64, numbers: Vec<f32>) {
        self.used = self.used.saturating_sub(numbers.len());
        self.held += numbers.len();
        self.buffers.push_back((update, numbers));
        let most = MOST + self.most_used - self.used;
        self.evict(|held, _| held > most);
    }

    /// Lets go of those that have waited longest, as long as their number of numbers or their last use is such.
    fn evict(&mut self, is_too_much: impl Fn(usize, u64) -> bool) {
        while self.buffers.front().is_some_and(|(used, _)| is_too_much(self.held, *used)) {
            self.held -= self.buffers.pop_front().map_or(0, |(_, numbers)| numbers.len());
        }
    }
}

/// Says that an update is made: what none of the last ones used goes back to the system.
pub fn pool_tick() {
    let now = UPDATE.fetch_add(1, Ordering::Relaxed);
    if let Ok(mut free) = FREE.lock() {
        free.evict(|_, used| used + PATIENCE <= now);
    }
}

/// Gives free buffers beyond [`MOST`] back to the system, since what comes next uses others: a decoder of so many `numbers`. Next to one
/// so large that they would raise the peak of memory, and that the cost of clearing their pages again is small, all of them.
pub fn pool_make_room(numbers: usize) {
    if let Ok(mut free) = FREE.lock() {
        free.most_used = free.used;
        free.evict(|held, _| numbers >= MANY || held > MOST);
    }
}

/// Numbers that must be written before they are read: a buffer holds what its last user left.
#[derive(Debug)]
pub struct PooledBuffer(Vec<f32>);

impl PooledBuffer {
    /// A buffer of some length.
    pub fn new(length: usize) -> Self {
        let numbers = FREE.lock().ok().and_then(|mut free| free.take(length));
        Self(numbers.unwrap_or_else(|| vec![0.0; length]))
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let numbers = std::mem::take(&mut self.0);
        if let Ok(mut free) = FREE.lock() {
            free.put(UPDATE.load(Ordering::Relaxed), numbers);
        }
    }
}

impl Clone for PooledBuffer {
    fn clone(&self) -> Self {
        let mut copy = Self::new(self.len());
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for PooledBuffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

/// The same for pairs of 16-bit numbers.
#[derive(Debug)]
pub struct PairBuffer(PooledBuffer);

impl PairBuffer {
    /// A buffer of some length.
    pub fn new(length: usize) -> Self {
        Self(PooledBuffer::new(length))
    }
}

impl Deref for PairBuffer {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        bytemuck::cast_slice(&self.0)
    }
}

impl DerefMut for PairBuffer {
    fn deref_mut(&mut self) -> &mut [u32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_until_it_has_waited_long() {
        let length = 12_345; // nobody else's
        let free_count =
            || FREE.lock().map_or(0, |free| free.buffers.iter().filter(|(_, of)| of.len() == length).count());
        drop([PooledBuffer::new(length), PooledBuffer::new(length)]);
        assert_eq!(free_count(), 2);
        let one = PooledBuffer::new(length);
        assert_eq!((one.len(), free_count()), (length, 1));
        drop(one);
        (0..=PATIENCE).for_each(|_| pool_tick());
        assert_eq!(free_count(), 0);
    }

    #[test]
    fn a_large_model_takes_the_place_of_what_waits() {
        let length = 12_347; // nobody else's
        let free_count =
            || FREE.lock().map_or(0, |free| free.buffers.iter().filter(|(_, of)| of.len() == length).count());
        drop(PooledBuffer::new(length));
        pool_make_room(MANY - 1);
        assert_eq!(free_count(), 1);
        pool_make_room(MANY);
        assert_eq!(free_count(), 0);
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut free = BufferPool::default();
        let third = MOST / 3;
        // three in use at once, then others one after another: the most that were in use, and as many as MOST
        (0..3).for_each(|i| assert!(free.take(third - i).is_none()));
        (0..3).for_each(|i| free.put(0, vec![0.0; third - i]));
        assert_eq!((free.buffers.len(), free.used, free.most_used), (3, 0, 3 * third - 3));
        for i in 3..9 {
            assert!(free.take(third - i).is_none());
            free.put(i as u64, vec![0.0; third - i]);
        }
        assert_eq!(free.buffers.iter().map(|(update, _)| *update).collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8]);
        assert_eq!(free.held, 6 * third - 33);
        assert!(free.take(third - 8).is_some() && free.take(third + 1).is_none());
        assert_eq!(free.held, 5 * third - 25);
    }
}
