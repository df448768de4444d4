//! Source positions: which part of the user's text a key's value came from.

use std::collections::BTreeMap;
use std::ops::Range;

/// A range of the user's text, for error messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpan {
    /// Name shown to the user: the file, or the command-line argument.
    pub name: String,
    /// The whole text that `span` points into.
    pub text: String,
    /// Bytes of `text`.
    pub span: Range<usize>,
}

/// The span of each key of an experiment file, overrides included.
#[derive(Debug, Clone)]
pub(crate) struct SourceMap {
    /// Of values, and of the headers of tables.
    spans: BTreeMap<String, SourceSpan>,
    /// Of the keys themselves.
    names: BTreeMap<String, SourceSpan>,
    file: SourceSpan,
}

impl SourceMap {
    /// No keys yet; `file` is the span of keys that are not found.
    pub(crate) fn new(file: SourceSpan) -> Self {
        Self { spans: BTreeMap::new(), names: BTreeMap::new(), file }
    }

    pub(crate) fn insert(&mut self, key: String, span: SourceSpan) {
        self.spans.insert(key, span);
    }

    /// The span of an override: of its key, by value and by name, and of the tables around it that the file does not have.
    pub(crate) fn insert_override(&mut self, key: &str, span: &SourceSpan) {
        self.insert(key.into(), span.clone());
        self.names.remove(key);
        for (dot, _) in key.match_indices('.') {
            self.spans.entry(key[..dot].into()).or_insert_with(|| span.clone());
        }
    }

    pub(crate) fn insert_name(&mut self, key: String, span: SourceSpan) {
        self.names.insert(key, span);
    }

    /// The span of the name of `key`, or else of its value.
    pub(crate) fn name_span(&self, key: &str) -> Box<SourceSpan> {
        self.names.get(key).map_or_else(|| self.span(key), |span| Box::new(span.clone()))
    }

    /// The span of the value of `key`, or of the nearest table around it.
    pub(crate) fn span(&self, key: &str) -> Box<SourceSpan> {
        let mut key = key;
        loop {
            if let Some(span) = self.spans.get(key) {
                return Box::new(span.clone());
            }
            match key.rfind('.') {
                Some(dot) => key = &key[..dot],
                None => return self.file(),
            }
        }
    }

    /// The file as a whole.
    pub(crate) fn file(&self) -> Box<SourceSpan> {
        Box::new(self.file.clone())
    }
}
