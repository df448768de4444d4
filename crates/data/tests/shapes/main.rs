//! Rows as published sets have them, each shape with contents of its own: what is made of them, and the plan of their columns.
#![expect(clippy::unwrap_used, reason = "tests")]

mod conversations;
mod files;
mod row_file;
mod scored;
