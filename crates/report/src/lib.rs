//! Statistics, charts, tables and the page, from ledgers alone. Never compiles a tensor.
//!
//! `analysis` has the numbers, `charts` draws them, `page` writes them down; each knows only those before it.

mod analysis;
mod charts;
mod error;
mod format;
mod page;
#[cfg(test)]
mod wiring;

pub use analysis::calibration::weak_judge;
pub use analysis::idle::ROWS_LEFT_OUT_WARNING;
pub use analysis::points::{EvalPoint, MeasuredPoint};
pub use analysis::run::{MissingCell, Run};
pub use analysis::statements::{JudgedStatement, JudgedStatementClaim, JudgedStatements, judge_statements};
pub use analysis::stats;
pub use analysis::tuning::{TrialResult, TrialScore, TuningResults};
pub use analysis::verdict::{
    ClaimResult, ClaimTest, FEWEST_SEEDS, JudgedClaims, TrainingBudget, Verdict, judge_folder as judge,
};
pub use error::{Error, Result};
pub use format::{fixed, signed};
pub use page::compare::compare;
pub use page::export::{ChartFormat, Theme, Width, figure, figures};
pub use page::report::{ReportSummary, write};
pub use page::sample_page::{SampledResponse, TokenSpan, page as sample_page};
