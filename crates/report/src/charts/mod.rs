//! Charts: how they are drawn, and which a run has. Knows the analysis, and no page.
//!
//! Drawing, from the leaf up: `theme` (colors), `chart` (what every chart can do), `axes`, `marks`, `legend`, the kinds of chart
//! (`plot`, `bars`, `heatmap`, `parallel`), `pdf` and `output` (SVG, PNG, PDF). Figures by group: `over_kl`, `training_curves`,
//! `cost_charts`, `arm_comparison`, `reward_model`, `pair_bins`, `best_of_n`, `settings`; `catalog` lists them all.

mod arm_comparison;
mod axes;
mod bars;
mod best_of_n;
pub(crate) mod catalog;
pub(crate) mod chart;
mod cost_charts;
pub(crate) mod figure;
mod heatmap;
mod legend;
pub(crate) mod marks;
pub(crate) mod output;
pub(crate) mod over_kl;
mod pair_bins;
mod parallel;
mod pdf;
mod plot;
mod reward_model;
mod scaling_fit;
mod settings;
pub(crate) mod theme;
mod training_curves;
