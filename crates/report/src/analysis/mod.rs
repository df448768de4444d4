//! The numbers of a report: what is measured, compared and judged. Knows neither charts nor pages.

pub(crate) mod best_of_n;
pub(crate) mod bradley_terry;
pub(crate) mod calibration;
#[cfg(test)]
mod claim_edge_cases;
pub(crate) mod cost_to_target;
pub(crate) mod costs;
pub(crate) mod effects;
pub(crate) mod finding;
pub(crate) mod frontier;
#[cfg(test)]
pub(crate) mod hand_made_run;
pub(crate) mod head_to_head;
pub(crate) mod idle;
pub(crate) mod length_control;
pub(crate) mod logistic;
pub(crate) mod merged_parts;
#[cfg(test)]
mod missing_cells;
pub(crate) mod over_optimization;
pub(crate) mod pair_bins;
pub(crate) mod points;
#[cfg(test)]
mod refusals;
pub(crate) mod run;
pub(crate) mod scaling_fit;
pub(crate) mod sensitivity;
pub(crate) mod statements;
pub mod stats;
pub(crate) mod tuning;
pub(crate) mod verdict;
pub(crate) mod win_rate;
