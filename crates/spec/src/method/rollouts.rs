//! The settings of the methods on rollouts; units and sources in `defaults.toml`.

use super::common::{CommonSettings, Conflict};
use super::rewards::{MultiObjectiveAggregation, RewardSettings};
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

/// The law whose log-probs are trained, where responses are sampled at a temperature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainedLaw {
    /// The policy at temperature 1.
    Policy,
    /// The policy at the temperature of the samples.
    Sampled,
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
    Vespo,
}

impl PolicyObjective {
    /// As the experiment file has it.
    pub(super) fn as_written(self) -> &'static str {
        match self {
            Self::Ppo => "policy_loss = \"ppo\"",
            Self::Cispo => "policy_loss = \"cispo\"",
            Self::Sapo => "policy_loss = \"sapo\"",
            Self::Vespo => "policy_loss = \"vespo\"",
        }
    }
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
    pub trained_law: TrainedLaw,
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
    pub vespo_k_pos: f64,
    pub vespo_lambda_pos: f64,
    pub vespo_k_neg: f64,
    pub vespo_lambda_neg: f64,
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
    pub kl_to_come: bool,
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
    pub use_adaptive_entropy: bool,
    pub entropy_target: f64,
    pub entropy_coef_delta: f64,
    pub entropy_coef_min: f64,
    pub entropy_coef_max: f64,
    pub loss_mean: LossReduction,
}

impl RolloutSettings {
    /// What divides the logits of policy and reference where the training reads them.
    pub fn trained_temperature(&self) -> f64 {
        match self.trained_law {
            TrainedLaw::Policy => 1.0,
            TrainedLaw::Sampled => self.temperature,
        }
    }

    /// Whether responses are sampled from the law whose log-probs are trained, and not from another.
    pub fn samples_trained_law(&self) -> bool {
        self.temperature == self.trained_temperature() && self.top_p == 1.0
    }

    /// Whether a rollout is read for the entropies of its tokens.
    pub fn reads_entropies(&self) -> bool {
        self.top_entropy_quantile < 1.0 || self.use_adaptive_entropy
    }

    /// How far above 1 the ratio may be before it is clipped.
    pub fn upper_clip_range(&self) -> f64 {
        if self.clip_range_high == 0.0 { self.clip_range } else { self.clip_range_high }
    }

    /// Whether a loss needs the policy's full distribution at each position.
    pub fn needs_full_logits(&self) -> bool {
        self.entropy_coef != 0.0 || self.use_adaptive_entropy || self.penalizes_full_kl(KlPenalty::Loss)
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
    pub(super) fn ignores(&self, key: &str) -> Option<&'static str> {
        match key {
            "kl_target" | "kl_horizon" if self.kl_control == KlControl::Fixed => Some("kl_control = \"fixed\""),
            "kl_horizon" if self.kl_control == KlControl::Target => Some("kl_control = \"target\""),
            "reference_decay" if self.reference == ReferenceMode::Frozen => Some("reference = \"frozen\""),
            "reference_decay" if self.reference == ReferenceMode::Last => Some("reference = \"last\""),
            "kl" | "kl_estimator" | "kl_to_come" if self.beta == 0.0 => Some("beta = 0"),
            "kl_to_come" if self.kl == KlPenalty::Loss => Some("kl = \"loss\""),
            "clip_range" | "clip_range_high" | "clip_dual" if self.policy_loss == PolicyObjective::Sapo => {
                Some("policy_loss = \"sapo\"")
            }
            "clip_range" | "clip_range_high" | "clip_dual" if self.policy_loss == PolicyObjective::Vespo => {
                Some("policy_loss = \"vespo\"")
            }
            "clip_dual" if self.policy_loss == PolicyObjective::Cispo => Some("policy_loss = \"cispo\""),
            "sapo_temperature_pos" | "sapo_temperature_neg" if self.policy_loss != PolicyObjective::Sapo => {
                Some(self.policy_loss.as_written())
            }
            "vespo_k_pos" | "vespo_lambda_pos" | "vespo_k_neg" | "vespo_lambda_neg"
                if self.policy_loss != PolicyObjective::Vespo =>
            {
                Some(self.policy_loss.as_written())
            }
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
            "trained_law" if self.temperature == 1.0 => Some("temperature = 1"),
            "importance_sampling_cap" if self.temperature == 1.0 && self.top_p == 1.0 => {
                Some("temperature = 1 and top_p = 1")
            }
            "importance_sampling_cap" if self.samples_trained_law() => Some("trained_law = \"sampled\""),
            "entropy_target" | "entropy_coef_delta" | "entropy_coef_min" | "entropy_coef_max"
                if !self.use_adaptive_entropy =>
            {
                Some("use_adaptive_entropy = false")
            }
            "overlong_penalty" if self.overlong_buffer == 0 => Some("overlong_buffer = 0"),
            "eos_penalty" if self.truncated == TruncationHandling::Mask => Some("truncated = \"mask\""),
            _ => self.multi_objective_aggregation.ignores(key),
        }
    }
}

impl RolloutSettings {
    /// Settings that cannot be combined with how several rewards are summed.
    pub(super) fn conflict_of_rewards(&self, method: &str) -> Option<Conflict> {
        self.multi_objective_aggregation.conflict(method, self.kl == KlPenalty::Reward && self.beta > 0.0)
    }

    /// A setting of the KL penalty that cannot be without one.
    pub(super) fn conflict_with_no_kl(&self) -> Option<Conflict> {
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
