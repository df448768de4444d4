//! What a completion is worth: gold scorers, and the reward model learned from preferences.

mod collect;
mod command;
mod error;
mod gold;
pub mod invariants;
mod judges;
mod learned;
mod linear;
mod model;
mod quality;
mod scorer;
mod sentiment;

pub use collect::{Candidate, Wanted, collect, label};
pub use command::External;
pub use error::Error;
pub use gold::GrammarGold;
pub use judges::{Asked, Rules, SentimentJudge, TasteJudge, TextGold, TextJudge};
pub use learned::{Judge, LearnedReward};
pub use linear::Linear;
pub use model::RewardModel;
pub use quality::{Bin, Calibration, Quality, quality};
pub use scorer::Scorer;
pub use sentiment::{Sentiment, SentimentReport, Taste};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
