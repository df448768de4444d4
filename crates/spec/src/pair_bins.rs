//! The bins into which held-out pairs are divided, and where their rows stand in `metrics.parquet`.

use crate::space::Split;

/// By what pairs are divided into bins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PairDivision {
    /// Not at all: one bin.
    Whole,
    /// Quarters by the size of the difference of gold.
    GoldMargin,
    /// The same by the label's strength, where gold is the same for all responses.
    LabelStrength,
    /// The same by the size of the reward's own margin, where labels have no strengths either.
    OwnMargin,
    /// By tokens of chosen minus rejected, see [`LENGTH_BINS`].
    Length,
}

/// Bins of a margin.
pub const MARGIN_BINS: usize = 4;

/// The bins of [`PairDivision::Length`]; "much" is more than the median difference of the pairs whose lengths differ.
pub const LENGTH_BINS: [&str; 5] = ["much shorter", "shorter", "equal", "longer", "much longer"];

impl PairDivision {
    pub const ALL: [Self; 5] = [Self::Whole, Self::GoldMargin, Self::LabelStrength, Self::OwnMargin, Self::Length];

    /// As written in the column `stage`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::GoldMargin => "gold-margin",
            Self::LabelStrength => "label-strength",
            Self::OwnMargin => "own-margin",
            Self::Length => "length",
        }
    }
}

const INFIX: &str = "-pairs-";

/// The `stage` of the rows of a division's bins, one bin per step: `rm-pairs-test-gold-margin` of the reward model that the stage
/// `rm` trains, `cell-pairs-test-gold-margin` of a cell's finished policy.
pub fn bins_stage(of: &str, split: Split, by: PairDivision) -> String {
    format!("{of}{INFIX}{}-{}", split.name(), by.name())
}

/// The split and the division of such rows; `None` of others.
pub fn bins_of_stage(stage: &str) -> Option<(Split, PairDivision)> {
    let (split, by) = stage.split_once(INFIX)?.1.split_once('-')?;
    let split = Split::ALL.into_iter().find(|known| known.name() == split)?;
    Some((split, PairDivision::ALL.into_iter().find(|known| known.name() == by)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_names_its_split_and_division() {
        assert_eq!(bins_stage("rm", Split::Test, PairDivision::GoldMargin), "rm-pairs-test-gold-margin");
        for (split, by) in Split::ALL.into_iter().flat_map(|split| PairDivision::ALL.map(|by| (split, by))) {
            assert_eq!(bins_of_stage(&bins_stage("cell", split, by)), Some((split, by)));
        }
        for other in ["rm", "rm-calibration", "pairs", "rm-pairs-test", "rm-pairs-test-size", "rm-pairs-all-whole"] {
            assert_eq!(bins_of_stage(other), None, "{other}");
        }
    }
}
