//! The experiment written down: one TOML file merged with `defaults.toml`, ids and seeds, the
//! metric catalogue, and the [`Recorder`] through which every room reports numbers.
//!
//! Knows no tensor and no parquet.

mod checks;
mod claim;
mod document;
mod error;
mod experiment;
pub mod ids;
mod method;
pub mod metrics;
mod pair_loss;
mod record;
mod search;
pub mod seeds;
mod sizes;

pub use claim::{ArmRef, Claim, ClaimMetric, ClaimRule};
pub use document::{Document, Origin, SourceSpan, defaults_text};
pub use error::Error;
pub use experiment::{
    Arm, ArmPoint, BaseStage, Cell, EnsembleScore, EvaluationSettings, Experiment, GrammarSettings, JudgeKind,
    JudgeSettings, JudgedText, LearnerSettings, ModelShape, OptimizerKind, PairsStage, ReviewsSettings,
    RmCheckpointSelection, RmModel, RmStage, RmStart, RowsSettings, Rule, Schedule, ScorePooling, SftStage,
    SlurmSettings, Stages, Temperature, WorldKind, WorldSettings,
};
pub use method::{
    CheckpointSelection, CommonSettings, CriticBody, CriticStart, DpoSettings, GrpoSettings, KlControl, KlEstimator,
    KlPenalty, LoraTargets, LossReduction, MethodSettings, Normalization, OnlineDpoSettings, OnlineLoss, PpoSettings,
    RaftSettings, ReferenceMode, RewardSource, RlooSettings, RolloutSettings, TruncationHandling,
};
pub use pair_loss::{PairInput, PairLoss, PairLossEntry};
pub use record::{Clocks, Completion, MetricRow, NO_POINT, OutcomeRow, REFERENCE, Recorder, SHARED_ARM};
pub use search::{SampledSettings, Search, SearchDimension, SelectionMetric, Trial, TuningSettings, number};

/// Version of every file that Duel writes; part of each stage's hash.
pub const FORMAT_VERSION: u32 = 12;

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

mod space;
pub use space::{Split, TokenSpec};
