//! What every method starts from.

use duel_data::World;
use duel_data::pairs::PreferenceRow;
use duel_dpo::ReferenceLogp;
use duel_model::{Policy, ResponseReader, TransformerConfig};
use duel_reward::{LearnedReward, Scorer};
use duel_spec::{BudgetSettings, LearnerSettings, ModelNumbers};
use duel_training::Splits;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The inputs of every method: the same start, rows, prompts and judges.
pub struct TrainingInputs<'a> {
    pub seed: u64,
    pub world: Arc<dyn World>,
    pub config: TransformerConfig,
    /// Whether the model is pretrained, with one copy of its weights for all.
    pub pretrained: bool,
    /// What its frozen matrices are kept in.
    pub numbers: ModelNumbers,
    pub learner: &'a LearnerSettings,
    pub budget: BudgetSettings,
    /// The SFT policy, without gradient.
    pub reference: Policy,
    /// The same, ready to train.
    pub start: Policy,
    /// A separate copy with its own parameters, for a critic if there is no reward model to start it from.
    pub critic_start: Policy,
    pub reader: ResponseReader,
    pub train_reader: ResponseReader,
    pub gold: Arc<dyn Scorer>,
    /// The arm's own rules, where they are among its rewards.
    pub rules: Option<Arc<dyn Scorer>>,
    pub reward: LearnedReward,
    /// The sizes of its networks.
    pub reward_config: TransformerConfig,
    pub rows: Vec<PreferenceRow>,
    /// Of the reference's weights.
    pub reference_hash: String,
    /// Of train rows and of validation rows, for methods on pairs.
    pub reference_logp: Option<(ReferenceLogp, ReferenceLogp)>,
    pub curve_points: usize,
    /// Which prompts may be trained on.
    pub splits: Splits,
    pub stop: &'a AtomicBool,
}
