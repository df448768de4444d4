//! What a completion is worth: gold scorers, and the reward model learned from preferences.

mod collect;
mod error;
mod gold;
pub mod invariants;
mod model;
mod scorer;
mod sentiment;

pub use collect::{Candidate, collect, label};
pub use error::Error;
pub use gold::{GrammarGold, ReviewsGold};
pub use model::{LearnedReward, Quality, RewardModel, quality};
pub use scorer::Scorer;
pub use sentiment::{Sentiment, SentimentReport};

/// What a fallible call of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;
