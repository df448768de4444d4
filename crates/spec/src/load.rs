//! Reads an experiment file, checks it, and types it.

use crate::checks::{check_document, check_experiment};
use crate::document::Document;
use crate::experiment::Experiment;
use crate::{Error, Result};
use std::path::Path;

impl Experiment {
    /// Reads, merges and checks an experiment file.
    ///
    /// # Errors
    /// Every mistake of [`Document::load`], and values out of range; [`Error::ByOverride`] where the file alone has none.
    pub fn load(path: &Path, overrides: &[String]) -> Result<(Self, Document)> {
        let load = |overrides: &[String]| -> Result<(Self, Document)> {
            let document = Document::load(path, overrides)?;
            Ok((Self::from_document(&document)?, document))
        };
        load(overrides).map_err(|error| match error {
            Error::Read { .. } | Error::Override { .. } => error,
            // what the file alone does not have comes from the command line, whichever line it is found at
            error if !overrides.is_empty() && load(&[]).is_ok() => {
                Error::ByOverride { error: Box::new(error), overrides: overrides.to_vec() }
            }
            error => error,
        })
    }

    /// The typed view of a merged document.
    ///
    /// # Errors
    /// Values that are out of range, or that cannot be combined.
    pub fn from_document(document: &Document) -> Result<Self> {
        check_document(document)?;
        let experiment: Self = document.merged.clone().try_into().map_err(|e: toml::de::Error| Error::WrongType {
            key: "experiment".into(),
            expected: "a value that fits its key",
            found: e.message().to_string(),
            span: document.span(""),
        })?;
        check_experiment(&experiment, document)?;
        Ok(experiment)
    }
}
