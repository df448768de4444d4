//! Libraries that panic on some bytes.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local!(static IS_FENCED: Cell<bool> = const { Cell::new(false) });

/// Calls a library; `None` where it panics, which is not printed.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_FENCED.get() {
                usual(panic);
            }
        }));
    });
    let before = IS_FENCED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_FENCED.set(before);
    done.ok()
}
