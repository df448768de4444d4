//! What every method shares: [`Method`], [`Learner`] (optimizer, schedule, clipping, NaN guard), the training loop, log-probs
//! of responses, supervised fine-tuning. Knows no particular preference method.

mod best_checkpoint;
mod budget;
mod dropout;
mod error;
mod following_reference;
pub mod invariants;
mod learner;
pub mod logprobs;
mod method;
mod optimizer;
pub mod pairs;
pub mod probes;
pub mod rounding;
mod schedule;
pub mod sft;
mod splits;

pub use best_checkpoint::BestCheckpoint;
pub use budget::BudgetSchedule;
pub use error::{Error, FAULT_OF_DUEL};
pub use following_reference::follow;
pub use learner::{Learner, LearnerState, Update, norm};
pub use method::{IterationCost, Method, Metrics, TrainContext, TrainSchedule, curve_steps, train};
pub use optimizer::{AdamW, Lion, Optimizer, RmsProp};
pub use pairs::PairBatch;
pub use schedule::rate;
pub use splits::Splits;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;
