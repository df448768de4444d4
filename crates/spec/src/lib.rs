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
mod record;
mod search;
pub mod seeds;
mod sizes;

pub use claim::{Claim, ClaimMetric, ClaimRule, Side};
pub use document::{Document, Origin, Place, defaults_text};
pub use error::Error;
pub use experiment::{
    Arm, BaseStage, Cell, EnsembleScore, Evaluation, Experiment, Grammar, Judge, JudgeKind, LearnerSettings,
    ModelShape, Optimizer, PairsStage, Point, Reads, Reviews, RmKeep, RmModel, RmStage, RmStart, Rows, Rule, Schedule,
    ScoreOf, SftStage, Slurm, Stages, Temperature, World, WorldKind,
};
pub use method::{
    CriticBody, CriticStart, Dpo, Every, Grpo, Keep, KlControl, KlEstimator, KlPlace, LoraTargets, LossMean, Method,
    OnPolicy, OnlineDpo, OnlineLoss, PairLoss, Ppo, Raft, Reference, RewardSource, Rloo, Scaling, Truncated,
};
pub use record::{Clocks, Completion, MetricRow, NO_POINT, Outcome, REFERENCE, Recorder, SHARED_ARM};
pub use search::{Axis, Choose, Drawn, Search, Trial, Tuning, number};

/// Version of every file that Duel writes; part of each stage's hash.
pub const FORMAT_VERSION: u32 = 12;

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

mod space;
pub use space::{Space, Split};
