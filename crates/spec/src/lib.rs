//! The experiment: one TOML file merged with `defaults.toml`, ids and seeds, the metric catalogue, and the [`Recorder`]
//! through which every crate reports numbers.
//!
//! Depends on no tensor and no parquet.

mod arm;
mod budget;
mod checks;
mod claim;
mod columns;
mod defaults;
mod document;
mod error;
mod experiment;
pub mod ids;
mod learner;
mod load;
mod loss_mask;
mod method;
pub mod metrics;
mod nearest;
mod pair_bins;
mod pair_loss;
mod parse;
mod record;
mod resolve;
mod search;
pub mod seeds;
mod space;
mod span;
mod stages;
#[cfg(test)]
mod tests;
mod union;
mod values;
mod world;

pub use arm::{Arm, ArmPoint, Cell};
pub use budget::{BudgetSettings, BudgetUnit};
pub use claim::{ArmRef, Claim, ClaimMetric, ClaimRule};
pub use columns::ColumnRole;
pub use defaults::defaults_text;
pub use document::{Document, Origin};
pub use error::{Error, Result};
pub use experiment::{EvaluationSettings, Experiment, PairwiseSettings, SlurmSettings};
pub use ids::FORMAT_VERSION;
pub use learner::{LearnerSettings, ModelNumbers, ModelShape, OptimizerKind, Schedule};
pub use loss_mask::LossMask;
pub use method::{
    CheckpointSelection, CommonSettings, CovarianceControl, CriticBody, CriticStart, DpoSettings, GrpoSettings,
    ImportanceSamplingLevel, KlControl, KlEstimator, KlPenalty, LoraTargets, LossReduction, MethodSettings,
    MultiObjectiveAggregation, Normalization, OnlineDpoSettings, OnlineLoss, PolicyObjective, PpoSettings,
    RaftSettings, ReferenceMode, RewardSettings, RewardSource, RewardTerm, RlooSettings, RolloutSettings, TrainedLaw,
    TruncationHandling,
};
pub use pair_bins::{LENGTH_BINS, MARGIN_BINS, PairDivision, bins_of_stage, bins_stage};
pub use pair_loss::{PairInput, PairLoss, PairLossEntry};
pub use record::{Clocks, Completion, MetricRow, NO_POINT, OutcomeRow, REFERENCE, Recorder, SHARED_ARM};
pub use search::{SampledSettings, Search, SearchDimension, SelectionMetric, Trial, TuningSettings};
pub use space::{Split, TokenSpec};
pub use span::SourceSpan;
pub use stages::{
    BaseStage, EnsembleScore, PairsStage, RmCheckpointSelection, RmModel, RmStage, RmStart, ScorePooling, SftStage,
    Stages, Temperature,
};
pub use values::number;
pub use world::{
    ChatFormat, GrammarSettings, JudgeKind, JudgeSettings, JudgedText, LossTurns, Overlong, ReviewsSettings, RowPaths,
    RowsSettings, Rule, WorldKind, WorldSettings,
};
