//! Calls of libraries that panic on some inputs.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local!(static IS_FENCED: Cell<bool> = const { Cell::new(false) });

/// Calls a library; `None` if it panics, which is not printed.
pub fn catch_panic<T>(call: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let default_hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !IS_FENCED.get() {
                default_hook(panic);
            }
        }));
    });
    let before = IS_FENCED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(call));
    IS_FENCED.set(before);
    result.ok()
}
