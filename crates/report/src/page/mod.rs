//! What a report writes: the page, the tables, the files of the charts, single charts, pages of runs and of responses.

pub(crate) mod compare;
pub(crate) mod export;
#[cfg(test)]
mod large_page;
mod rendering;
pub(crate) mod report;
mod run_page;
pub(crate) mod sample_page;
pub(crate) mod tables;
mod template;
pub(crate) mod text_table;
