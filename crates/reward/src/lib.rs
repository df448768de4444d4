//! The reward of a completion: gold scorers, and the reward model learned from preferences.

mod agreement;
mod answer;
mod collect;
mod command;
mod error;
mod gold;
pub mod invariants;
mod judges;
mod lazy_model;
mod learned;
mod linear;
mod model;
mod model_pairs;
mod pair_bins;
mod pairwise;
mod pretrained;
mod quality;
mod ranks;
mod scorer;
mod sentiment;
mod text_input;

pub use agreement::Agreement;
pub use answer::{JudgeAnswer, JudgeInput};
pub use collect::{Candidate, PairFilter, collect, label};
pub use command::CommandJudge;
pub use error::Error;
pub use gold::GrammarGold;
pub use judges::{PreferenceJudge, RulesJudge, SentimentJudge, TextJudge, TextScorer, response_text};
pub use learned::{LearnedReward, ModelJudge, RewardNetwork};
pub use linear::Linear;
pub use model::RewardModel;
pub use model_pairs::ModelPairJudge;
pub use pair_bins::{PairBin, PairBins, PairFacts};
pub use pairwise::{JudgedPair, PairJudge, PairScorer, PairVerdict};
pub use pretrained::{PretrainedReward, template_tokens};
pub use quality::{Calibration, CalibrationBin, EnsembleQuality, Quality, quality};
pub use scorer::{ResponseLength, RewardComponent, Scorer, TokenReward, WeightedReward, weighted_parts, weighted_sum};
pub use sentiment::{BagOfWordsPreference, PREFERENCE_VERSION, Sentiment, SentimentReport};
pub use text_input::{RewardReader, TextInput};

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;
