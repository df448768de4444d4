//! What is wrong with the columns of a file.

/// Why columns cannot be planned, and what would help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnProblem {
    pub(super) problem: String,
    pub(super) hint: String,
}
