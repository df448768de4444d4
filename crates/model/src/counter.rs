//! What models cost, counted where they are read and gone back over: the second count beside the formula of [`Flops`](crate::Flops).

use std::cell::Cell;

/// Matrix-multiply FLOPs of this thread's models: blocks and heads, attention and adapters left out.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CountedFlops {
    /// Of blocks, 2 per parameter and column that was read, padding among them.
    pub blocks: f64,
    /// Of heads, 2 per parameter and row of states.
    pub heads: f64,
    /// The same of the way back: 2 for the inputs, and 2 for the parameters where they are trained. Counted where blocks and
    /// log-probs are one operation; what is made again on the way back is not.
    pub blocks_back: f64,
    pub heads_back: f64,
}

thread_local! {
    static COUNTED: Cell<CountedFlops> = const { Cell::new(CountedFlops { blocks: 0.0, heads: 0.0, blocks_back: 0.0, heads_back: 0.0 }) };
}

/// What was counted on this thread so far.
pub fn count_flops() -> CountedFlops {
    COUNTED.get()
}

/// Does some work that does not count.
pub fn without_counting<T>(work: impl FnOnce() -> T) -> T {
    let before = COUNTED.get();
    let done = work();
    COUNTED.set(before);
    done
}

pub(crate) fn count(add: impl FnOnce(&mut CountedFlops)) {
    let mut total = COUNTED.get();
    add(&mut total);
    COUNTED.set(total);
}
