//! The methods and their settings; units and sources in `defaults.toml`.

mod common;
mod dpo;
mod rewards;
mod rollouts;

pub(crate) use common::Conflict;
pub use common::{CheckpointSelection, CommonSettings, LoraTargets};
pub use dpo::DpoSettings;
pub(crate) use rewards::REWARD_SOURCES;
pub use rewards::{MultiObjectiveAggregation, RewardSettings, RewardSource, RewardTerm};
pub use rollouts::{
    CovarianceControl, ImportanceSamplingLevel, KlControl, KlEstimator, KlPenalty, LossReduction, Normalization,
    PolicyObjective, ReferenceMode, RolloutSettings, TrainedLaw, TruncationHandling,
};

use crate::defaults::typed_default;
use crate::pair_loss::PairInput;
use serde::{Deserialize, Serialize};

/// The loss of online DPO.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnlineLoss {
    Sigmoid,
    Hinge,
    Ipo,
}

/// Settings of [`MethodSettings::OnlineDpo`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OnlineDpoSettings {
    #[serde(flatten)]
    pub shared: RolloutSettings,
    pub pair_loss: OnlineLoss,
    pub label_temperature: f64,
    pub xpo_alpha: f64,
}

/// Settings that only the policy-gradient loss reads.
const POLICY_GRADIENT_KEYS: [&str; 31] = [
    "kl_to_come",
    "vespo_k_pos",
    "vespo_lambda_pos",
    "vespo_k_neg",
    "vespo_lambda_neg",
    "importance_sampling_cap",
    "covariance_control",
    "covariance_share",
    "clip_cov_low",
    "clip_cov_high",
    "kl_cov_coef",
    "advantages",
    "top_entropy_quantile",
    "policy_loss",
    "importance_sampling_level",
    "clip_range",
    "clip_range_high",
    "clip_dual",
    "sapo_temperature_pos",
    "sapo_temperature_neg",
    "off_policy_mask_threshold",
    "kl",
    "kl_estimator",
    "entropy_coef",
    "use_adaptive_entropy",
    "entropy_target",
    "entropy_coef_delta",
    "entropy_coef_min",
    "entropy_coef_max",
    "loss_mean",
    "truncated",
];

/// The body of PPO's critic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CriticBody {
    Separate,
    /// The policy's.
    Shared,
}

/// The initialization of PPO's separate critic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CriticStart {
    /// The reward model where it gives the reward, else the SFT policy.
    Scorer,
    Sft,
}

/// Settings of [`MethodSettings::Ppo`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PpoSettings {
    #[serde(flatten)]
    pub shared: RolloutSettings,
    pub value_clip_range: f64,
    pub value_coef: f64,
    pub gamma: f64,
    pub lambda: f64,
    pub rewards: Normalization,
    pub critic: CriticBody,
    pub critic_start: CriticStart,
    pub critic_warmup: usize,
}

impl PpoSettings {
    /// The values in `defaults.toml`.
    pub fn defaults() -> Self {
        typed_default(&["method", "ppo"])
    }
}

/// Settings of [`MethodSettings::Rloo`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RlooSettings {
    #[serde(flatten)]
    pub shared: RolloutSettings,
    pub group: usize,
}

/// Settings of [`MethodSettings::Raft`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RaftSettings {
    #[serde(flatten)]
    pub shared: RolloutSettings,
    pub group: usize,
}

/// Settings of [`MethodSettings::Grpo`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrpoSettings {
    #[serde(flatten)]
    pub shared: RolloutSettings,
    pub group: usize,
    pub scale: bool,
}

/// The settings of one point of an arm.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum MethodSettings {
    Ppo(PpoSettings),
    Reinforce(RolloutSettings),
    Rloo(RlooSettings),
    Grpo(GrpoSettings),
    OnlineDpo(OnlineDpoSettings),
    Raft(RaftSettings),
    Dpo(DpoSettings),
}

/// The names of [`MethodSettings`].
pub(crate) const METHODS: [&str; 7] = ["dpo", "grpo", "online_dpo", "ppo", "raft", "reinforce", "rloo"];

impl MethodSettings {
    /// Name as written in the experiment file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ppo(_) => "ppo",
            Self::Reinforce(_) => "reinforce",
            Self::Rloo(_) => "rloo",
            Self::Grpo(_) => "grpo",
            Self::OnlineDpo(_) => "online_dpo",
            Self::Raft(_) => "raft",
            Self::Dpo(_) => "dpo",
        }
    }

    /// The rollout settings of an on-policy method; `None` for DPO.
    pub fn on_policy(&self) -> Option<&RolloutSettings> {
        match self {
            Self::Ppo(PpoSettings { shared, .. })
            | Self::Rloo(RlooSettings { shared, .. })
            | Self::Grpo(GrpoSettings { shared, .. })
            | Self::OnlineDpo(OnlineDpoSettings { shared, .. })
            | Self::Raft(RaftSettings { shared, .. })
            | Self::Reinforce(shared) => Some(shared),
            Self::Dpo(_) => None,
        }
    }

    /// The peak learning rate.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Dpo(dpo) => dpo.learning_rate,
            other => other.on_policy().map_or(f64::NAN, |shared| shared.learning_rate),
        }
    }

    /// The settings of every method.
    pub fn common(&self) -> &CommonSettings {
        match self {
            Self::Ppo(PpoSettings { shared, .. })
            | Self::Rloo(RlooSettings { shared, .. })
            | Self::Grpo(GrpoSettings { shared, .. })
            | Self::OnlineDpo(OnlineDpoSettings { shared, .. })
            | Self::Raft(RaftSettings { shared, .. })
            | Self::Reinforce(shared) => &shared.common,
            Self::Dpo(dpo) => &dpo.common,
        }
    }

    /// The settings that say how long it is trained, where there is no budget.
    pub(crate) fn length_keys(&self) -> &'static [&'static str] {
        match self {
            Self::Dpo(_) => &["epochs", "max_steps"],
            _ => &["iterations"],
        }
    }

    /// Responses per prompt in a rollout.
    pub fn group(&self) -> usize {
        match self {
            Self::Rloo(RlooSettings { group, .. })
            | Self::Grpo(GrpoSettings { group, .. })
            | Self::Raft(RaftSettings { group, .. }) => *group,
            Self::OnlineDpo(_) => 2,
            Self::Ppo(_) | Self::Reinforce(_) | Self::Dpo(_) => 1,
        }
    }

    /// Responses that must stay in one minibatch, and what they form: a loss on pairs reads both responses, and RAFT keeps one
    /// response per group.
    pub fn unit(&self) -> (usize, &'static str) {
        match self {
            Self::OnlineDpo(_) => (2, "pairs"),
            Self::Raft(RaftSettings { group, .. }) => (*group, "groups"),
            _ => (1, "episodes"),
        }
    }

    /// Whether a reward is among those that it maximizes.
    pub fn maximizes(&self, source: RewardSource) -> bool {
        self.on_policy().is_some_and(|shared| shared.reward.weight(source).is_some())
    }

    /// Whether it needs the reference's log-probs of preference rows.
    pub fn reads_reference_logp(&self) -> bool {
        // a reference that moves, and log-probs that weigh tokens, are read in the training itself
        matches!(self, Self::Dpo(dpo) if dpo.takes(PairInput::Reference)
            && !dpo.reference_free && !dpo.sync_ref_model && dpo.ld_alpha == 1.0)
    }

    /// If a setting of its block is not used: the setting because of which it is not.
    pub(crate) fn inactive_because(&self, key: &str) -> Option<String> {
        match self {
            Self::Dpo(dpo) if dpo.ignores(key).is_some() => dpo.ignores(key),
            Self::Ppo(ppo) if key == "critic_start" && ppo.critic == CriticBody::Shared => {
                Some("critic = \"shared\"".into())
            }
            Self::Ppo(_) if key == "kl_to_come" => Some("method = \"ppo\"".into()),
            Self::Ppo(_) | Self::Reinforce(_) | Self::OnlineDpo(_) | Self::Raft(_)
                if key == "dynamic_sampling_rounds" =>
            {
                Some(format!("method = \"{}\"", self.name()))
            }
            Self::OnlineDpo(_) | Self::Raft(_) if POLICY_GRADIENT_KEYS.contains(&key) => {
                Some(format!("method = \"{}\"", self.name()))
            }
            _ if key == "multi_objective_aggregation" => self.on_policy().and_then(|shared| shared.reward.alone()),
            _ => {
                let shared = self.on_policy().and_then(|shared| shared.ignores(key));
                shared.or_else(|| self.common().ignores(key)).map(str::to_string)
            }
        }
    }

    /// Settings that are both used and cannot be combined.
    pub(crate) fn conflict(&self) -> Option<Conflict> {
        if let Some(shared) = self.on_policy()
            && let Some(conflict) = shared.conflict_with_no_kl()
        {
            return Some(conflict);
        }
        if let Some(RolloutSettings { kl: KlPenalty::Loss, kl_estimator: KlEstimator::K1, .. }) = self.on_policy() {
            let why = "the gradient of k1 has mean 0, so it would penalize nothing";
            return Some(Conflict { key: "kl_estimator", with: "kl = \"loss\"".into(), why });
        }
        if let Some(RolloutSettings { policy_loss: PolicyObjective::Vespo, importance_sampling_level, .. }) =
            self.on_policy()
            && *importance_sampling_level != ImportanceSamplingLevel::Token
        {
            let why = "it weighs whole responses by the product of their tokens' ratios, whatever the level";
            return Some(Conflict {
                key: "importance_sampling_level",
                with: PolicyObjective::Vespo.as_written().into(),
                why,
            });
        }
        if let Self::Ppo(PpoSettings { shared, .. }) = self
            && shared.importance_sampling_level == ImportanceSamplingLevel::Sequence
        {
            let why = "one ratio for a response has one advantage, and a value model gives one to each token; \
                       \"sequence_token\" takes those";
            return Some(Conflict { key: "importance_sampling_level", with: "method = \"ppo\"".into(), why });
        }
        if let Some(RolloutSettings { reference: ReferenceMode::Last, kl_control, .. }) = self.on_policy() {
            let method = format!("method = \"{}\"", self.name());
            let why = "the KL of a rollout to the policy that wrote it is 0";
            if !matches!(self, Self::OnlineDpo(_)) {
                return Some(Conflict { key: "reference", with: method, why });
            }
            if matches!(self, Self::OnlineDpo(online) if online.xpo_alpha > 0.0) {
                let why = "the last policy and the policy are the same at the beginning of a round, so that the second response explores nothing";
                return Some(Conflict { key: "xpo_alpha", with: "reference = \"last\"".into(), why });
            }
            if *kl_control != KlControl::Fixed {
                return Some(Conflict { key: "kl_control", with: "reference = \"last\"".into(), why });
            }
        }
        match self {
            Self::Dpo(dpo) => dpo.conflict(),
            _ => self.on_policy().and_then(|shared| shared.conflict_of_rewards(self.name())),
        }
    }

    /// The KL coefficient, the one hyperparameter that all methods share.
    pub fn beta(&self) -> f64 {
        match self {
            Self::Dpo(dpo) => dpo.beta,
            _ => self.on_policy().map_or(0.0, |shared| shared.beta),
        }
    }
}
