//! The methods and their settings; units and sources in `defaults.toml`.

mod common;
mod dpo;
mod rewards;

pub(crate) use common::Conflict;
pub use common::{CheckpointSelection, CommonSettings, LoraTargets};
pub use dpo::DpoSettings;
pub(crate) use rewards::REWARD_SOURCES;
pub use rewards::{MultiObjectiveAggregation, RewardSettings, RewardSource, RewardTerm};

use crate::defaults::typed_default;
use crate::pair_loss::PairInput;
use serde::{Deserialize, Serialize};

/// Where the KL penalty is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlPenalty {
    Reward,
    Loss,
}

/// The estimator of a token's KL; `duel_objectives` has the equations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlEstimator {
    K1,
    K2,
    K3,
    /// Exact, over the whole vocabulary at each position.
    Full,
}

/// How the KL coefficient changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlControl {
    Fixed,
    /// Ziegler et al. 2019, §2.2.
    Adaptive,
    /// Schulman et al. 2017, §4.
    Target,
}

/// The reference of the KL penalty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReferenceMode {
    Frozen,
    /// An exponential moving average of the policy.
    Ema,
    /// The policy that writes the rollout.
    Last,
}

/// How values are normalized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalization {
    Raw,
    /// Divided by the standard deviation.
    Scaled,
    /// The same, with the mean subtracted.
    White,
}

/// The treatment of responses cut off before EOS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TruncationHandling {
    Keep,
    Mask,
}

/// The mean that reduces a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossReduction {
    Tokens,
    Responses,
    /// The sum over a response's tokens, divided by the tokens of the longest possible one. Dr. GRPO.
    Constant,
    /// The sum over a response's tokens. LUSPO.
    Sum,
}

/// What is done about tokens whose log-prob and advantage are high together. Cui et al. 2025.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CovarianceControl {
    None,
    /// Clip-Cov: some of them have no advantage.
    Clip,
    /// KL-Cov: the KL of the largest to the rollout's policy is penalized.
    Kl,
}

/// The level of the ratio of a policy-gradient loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportanceSamplingLevel {
    Token,
    Sequence,
    SequenceToken,
}

/// What keeps the ratio of a policy-gradient loss near 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyObjective {
    Ppo,
    Cispo,
    Sapo,
}

/// The settings shared by all methods on rollouts; `[rollouts]` in `defaults.toml`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RolloutSettings {
    #[serde(flatten)]
    pub common: CommonSettings,
    pub beta: f64,
    pub reward: RewardSettings,
    pub multi_objective_aggregation: MultiObjectiveAggregation,
    pub iterations: usize,
    pub episodes: usize,
    pub temperature: f64,
    pub top_p: f64,
    pub importance_sampling_cap: f64,
    pub epochs: usize,
    pub minibatches: usize,
    pub learning_rate: f64,
    pub policy_loss: PolicyObjective,
    pub importance_sampling_level: ImportanceSamplingLevel,
    pub clip_range: f64,
    pub clip_range_high: f64,
    pub clip_dual: f64,
    pub sapo_temperature_pos: f64,
    pub sapo_temperature_neg: f64,
    pub off_policy_mask_threshold: f64,
    pub advantages: Normalization,
    pub top_entropy_quantile: f64,
    pub covariance_control: CovarianceControl,
    pub covariance_share: f64,
    pub clip_cov_low: f64,
    pub clip_cov_high: f64,
    pub kl_cov_coef: f64,
    pub target_kl: f64,
    pub kl: KlPenalty,
    pub kl_estimator: KlEstimator,
    pub kl_control: KlControl,
    pub kl_target: f64,
    pub kl_horizon: f64,
    pub reference: ReferenceMode,
    pub reference_decay: f64,
    pub scores: Normalization,
    pub score_clip: f64,
    pub eos_penalty: f64,
    pub overlong_buffer: usize,
    pub overlong_penalty: f64,
    pub dynamic_sampling_rounds: usize,
    pub truncated: TruncationHandling,
    pub entropy_coef: f64,
    pub loss_mean: LossReduction,
}

impl RolloutSettings {
    /// Whether responses are sampled from the policy itself, and not by another law.
    pub fn is_sampled_by_policy(&self) -> bool {
        self.temperature == 1.0 && self.top_p == 1.0
    }

    /// How far above 1 the ratio may be before it is clipped.
    pub fn upper_clip_range(&self) -> f64 {
        if self.clip_range_high == 0.0 { self.clip_range } else { self.clip_range_high }
    }

    /// Whether a loss needs the policy's full distribution at each position.
    pub fn needs_full_logits(&self) -> bool {
        self.entropy_coef != 0.0 || self.penalizes_full_kl(KlPenalty::Loss)
    }

    /// Whether a KL over the whole vocabulary is penalized there.
    pub fn penalizes_full_kl(&self, kl: KlPenalty) -> bool {
        self.beta > 0.0 && self.kl == kl && self.kl_estimator == KlEstimator::Full
    }

    /// Whether each of several rewards is normalized by itself.
    pub fn normalizes_each_reward(&self) -> bool {
        self.multi_objective_aggregation == MultiObjectiveAggregation::NormalizeThenSum
    }

    /// The setting, if any, because of which `key` is not used.
    fn ignores(&self, key: &str) -> Option<&'static str> {
        match key {
            "kl_target" | "kl_horizon" if self.kl_control == KlControl::Fixed => Some("kl_control = \"fixed\""),
            "kl_horizon" if self.kl_control == KlControl::Target => Some("kl_control = \"target\""),
            "reference_decay" if self.reference == ReferenceMode::Frozen => Some("reference = \"frozen\""),
            "reference_decay" if self.reference == ReferenceMode::Last => Some("reference = \"last\""),
            "kl" | "kl_estimator" if self.beta == 0.0 => Some("beta = 0"),
            "clip_range" | "clip_range_high" | "clip_dual" if self.policy_loss == PolicyObjective::Sapo => {
                Some("policy_loss = \"sapo\"")
            }
            "clip_dual" if self.policy_loss == PolicyObjective::Cispo => Some("policy_loss = \"cispo\""),
            "sapo_temperature_pos" | "sapo_temperature_neg" => match self.policy_loss {
                PolicyObjective::Ppo => Some("policy_loss = \"ppo\""),
                PolicyObjective::Cispo => Some("policy_loss = \"cispo\""),
                PolicyObjective::Sapo => None,
            },
            "covariance_share" | "clip_cov_low" | "clip_cov_high" | "kl_cov_coef"
                if self.covariance_control == CovarianceControl::None =>
            {
                Some("covariance_control = \"none\"")
            }
            "clip_cov_low" | "clip_cov_high" if self.covariance_control == CovarianceControl::Kl => {
                Some("covariance_control = \"kl\"")
            }
            "kl_cov_coef" if self.covariance_control == CovarianceControl::Clip => {
                Some("covariance_control = \"clip\"")
            }
            "importance_sampling_cap" if self.is_sampled_by_policy() => Some("temperature = 1 and top_p = 1"),
            "overlong_penalty" if self.overlong_buffer == 0 => Some("overlong_buffer = 0"),
            "eos_penalty" if self.truncated == TruncationHandling::Mask => Some("truncated = \"mask\""),
            _ => self.multi_objective_aggregation.ignores(key),
        }
    }
}

impl RolloutSettings {
    /// Settings that cannot be combined with how several rewards are summed.
    fn conflict_of_rewards(&self, method: &str) -> Option<Conflict> {
        self.multi_objective_aggregation.conflict(method, self.kl == KlPenalty::Reward && self.beta > 0.0)
    }

    /// A setting of the KL penalty that cannot be without one.
    fn conflict_with_no_kl(&self) -> Option<Conflict> {
        let (key, why) = match (self.kl_control, self.reference) {
            _ if self.beta > 0.0 => return None,
            (KlControl::Adaptive | KlControl::Target, _) => {
                ("kl_control", "a coefficient of 0 stays 0, whatever it is multiplied by")
            }
            (_, ReferenceMode::Ema | ReferenceMode::Last) => ("reference", "without a KL penalty no reference is read"),
            _ => return None,
        };
        Some(Conflict { key, with: "beta = 0".into(), why })
    }
}

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
}

/// Settings that only the policy-gradient loss reads.
const POLICY_GRADIENT_KEYS: [&str; 21] = [
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
