//! A model that is read when it is needed.

use crate::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// Reads a model.
type OpenModel<T> = dyn Fn() -> Result<T> + Send + Sync;

/// A model of a judge, which is read when it is first asked, and then kept.
pub(crate) struct LazyModel<T> {
    open: Box<OpenModel<T>>,
    opened: Mutex<Option<Arc<T>>>,
}

impl<T> LazyModel<T> {
    /// The model that `open` reads.
    pub(crate) fn new(open: impl Fn() -> Result<T> + Send + Sync + 'static) -> Self {
        Self { open: Box::new(open), opened: Mutex::new(None) }
    }

    /// The model, read if it was not yet.
    ///
    /// # Errors
    /// What it cannot be read for.
    pub(crate) fn opened(&self) -> Result<Arc<T>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = opened.as_ref() {
            return Ok(model.clone());
        }
        Ok(opened.insert(Arc::new((self.open)()?)).clone())
    }
}
