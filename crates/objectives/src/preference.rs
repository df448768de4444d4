//! Losses on pairs of responses to one prompt; their equations are in `pair_losses.rs`.

use burn::tensor::activation::{log_sigmoid, sigmoid, softplus};
use burn::tensor::{Tensor, activation::relu};
use serde::{Deserialize, Serialize};
use std::f64::consts::LN_2;

/// One number per pair for each of its two responses, so that chosen and rejected cannot be mixed up.
#[derive(Debug, Clone)]
pub struct ChosenRejected {
    /// `[N]`
    pub chosen: Tensor<1>,
    /// `[N]`
    pub rejected: Tensor<1>,
}

impl ChosenRejected {
    /// Both responses through one function.
    pub fn map(self, f: impl Fn(Tensor<1>) -> Tensor<1>) -> Self {
        Self { chosen: f(self.chosen), rejected: f(self.rejected) }
    }

    /// Both responses with their counterparts through one function.
    pub fn zip(self, other: Self, f: impl Fn(Tensor<1>, Tensor<1>) -> Tensor<1>) -> Self {
        Self { chosen: f(self.chosen, other.chosen), rejected: f(self.rejected, other.rejected) }
    }

    /// Chosen minus rejected, `[N]`.
    pub fn difference(self) -> Tensor<1> {
        self.chosen - self.rejected
    }
}

/// The inputs of a preference loss on a batch of pairs.
#[derive(Debug, Clone)]
pub struct PairLogp {
    /// `log π` of each response, summed over its counted tokens.
    pub policy: ChosenRejected,
    /// `log π_ref`, likewise, without gradient.
    pub reference: ChosenRejected,
    /// Counted tokens `|y|`.
    pub lengths: ChosenRejected,
    /// Log-ratios of responses to other prompts, any number of them, without gradient: for the KL of KTO.
    pub mismatched: Option<Tensor<1>>,
    /// 1 on ties, else 0, `[N]`; `None` without ties.
    pub tied: Option<Tensor<1>>,
    /// δ, the mean of the rewards so far, `[1]`, without gradient: BCO's. `None`: 0.
    pub reward_shift: Option<Tensor<1>>,
    /// Factors of the pairs' losses, `[N]`, without gradient: WPO's. `None`: 1.
    pub weights: Option<Tensor<1>>,
    /// Set by [`with_margin`](Self::with_margin), which has lowered `policy.chosen`.
    pub margin: Option<Margin>,
}

/// The margin of reward that the chosen response must have.
#[derive(Debug, Clone)]
pub struct Margin {
    /// m, `[N]`
    reward: Tensor<1>,
    /// `m/β`, `[N]`, nats.
    nats: Tensor<1>,
}

impl PairLogp {
    /// What most losses read.
    pub fn new(policy: ChosenRejected, reference: ChosenRejected, lengths: ChosenRejected) -> Self {
        let (mismatched, tied, reward_shift, weights, margin) = (None, None, None, None, None);
        Self { policy, reference, lengths, mismatched, tied, reward_shift, weights, margin }
    }

    /// Mean of the implicit rewards `β (log π − log π_ref)` of all responses, `[1]`, without gradient.
    pub fn mean_reward(&self, beta: f64) -> Tensor<1> {
        let ChosenRejected { chosen, rejected } = self.log_ratios();
        (Tensor::cat(vec![chosen, rejected], 0).mean() * beta).detach()
    }

    /// `u − m` in place of `u`: the log-prob of the chosen response counts as m/β nats less. ODPO, Amini et al. 2024, eq. 8.
    pub fn with_margin(self, reward: Tensor<1>, beta: f64) -> Self {
        let nats = reward.clone() / beta; // [N]
        let ChosenRejected { chosen, rejected } = self.policy;
        let policy = ChosenRejected { chosen: chosen - nats.clone(), rejected };
        Self { policy, margin: Some(Margin { reward, nats }), ..self }
    }

    /// How far each response has moved: `log π − log π_ref`.
    pub fn log_ratios(&self) -> ChosenRejected {
        self.policy.clone().zip(self.reference.clone(), Tensor::sub)
    }

    /// Log-prob per token, no reference.
    fn averaged_policy(&self) -> ChosenRejected {
        self.policy.clone().zip(self.lengths.clone(), Tensor::div)
    }
}

/// What the invariants of a training need to know of a loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossProperties {
    /// The loss while the policy is its reference; `None` where it reads no reference.
    pub at_reference: Option<f64>,
    /// Whether a tie costs twice as much there.
    pub doubles_on_ties: bool,
    /// Whether a pair of equal responses has no gradient while the policy is its reference.
    pub ignores_ties: bool,
    /// Whether it is made of squares, which near the reference are as small as 1/β².
    pub is_square: bool,
    /// Whether the loss is smaller where the chosen response is much likelier than where the rejected one is.
    pub falls_towards_the_chosen: bool,
}

impl LossProperties {
    /// The properties of most losses.
    const USUAL: Self = Self {
        at_reference: Some(LN_2),
        doubles_on_ties: false,
        ignores_ties: true,
        is_square: false,
        falls_towards_the_chosen: true,
    };
}

/// The symbols of the losses' equations.
struct PairLossInputs<'a> {
    logp: &'a PairLogp,
    beta: f64,
    /// `Δw`, `Δl`.
    ratios: ChosenRejected,
    /// `βΔw`, `βΔl`.
    rewards: ChosenRejected,
}

impl PairLossInputs<'_> {
    /// `β(Δw − Δl)`, `[N]`.
    fn u(&self) -> Tensor<1> {
        self.rewards.clone().difference()
    }

    /// Log-ratio per token.
    fn averaged_log_ratios(&self) -> ChosenRejected {
        self.logp.log_ratios().zip(self.logp.lengths.clone(), Tensor::div)
    }

    /// Log-prob per token, no reference.
    fn averaged_policy(&self) -> ChosenRejected {
        self.logp.averaged_policy()
    }
}

/// The result of an entry of the table.
struct PairLossOutput {
    /// `[N]`; per response, `[2N]`, of KTO.
    losses: Tensor<1>,
    /// The implicit rewards, where they are not `βΔ`.
    rewards: Option<ChosenRejected>,
    /// Added to the mean, `[1]`.
    extra: Option<Tensor<1>>,
}

impl From<Tensor<1>> for PairLossOutput {
    fn from(losses: Tensor<1>) -> Self {
        Self { losses, rewards: None, extra: None }
    }
}

/// For each entry: a variant, its properties and its equation.
macro_rules! pair_losses {
    ($(
        $variant:ident $({ $($field:ident: $type:ty),* })?
        $(experiment $word:literal {
            costs: $costs:literal, paper: $paper:literal, couples_pairs: $couples:literal, $($rest:tt)*
        } $(from $from:tt)?)?
        golden $golden:tt
        $(properties { |$beta:pat_param| $($property:tt)* })?
        loss { |$pair:ident| $($loss:tt)* }
    )*) => {
        /// The loss on a pair, with the parameters that only it has; the entries are in `pair_losses.rs`.
        #[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "kind", rename_all = "snake_case")]
        pub enum PreferenceLoss {
            $($(#[doc = $costs] #[doc = ""] #[doc = $paper])? $variant $({ $($field: $type),* })?,)*
        }

        impl PreferenceLoss {
            /// What holds of it at this β.
            #[expect(unused_variables, reason = "most properties depend on no parameter")]
            pub fn properties(&self, beta: f64) -> LossProperties {
                match *self {
                    $(Self::$variant $({ $($field),* })? => {
                        $(let $beta = beta;)?
                        LossProperties { $($($property)*)? ..LossProperties::USUAL }
                    })*
                }
            }

            /// Whether a batch's loss is more than the mean of its pairs' losses.
            pub fn couples_pairs(&self) -> bool {
                match self {
                    $(Self::$variant { .. } => false $(|| $couples)?,)*
                }
            }

            /// The loss of each pair.
            fn compute(self, inputs: PairLossInputs<'_>) -> PairLossOutput {
                match self {
                    $(Self::$variant $({ $($field),* })? => {
                        let $pair = inputs;
                        { $($loss)* }.into()
                    })*
                }
            }
        }
    };
}
include!("pair_losses.rs");

/// EXO's smoothing: log 0 otherwise, as in TRL.
fn exo_smoothing(e: f64) -> f64 {
    if e == 0.0 { 1e-3 } else { e }
}

/// A preference loss of a batch; only `loss` is meant to be differentiated.
#[derive(Debug, Clone)]
pub struct PreferenceOutcome {
    /// Mean over pairs, `[1]`.
    pub loss: Tensor<1>,
    /// Per pair, `[N]`; per response, `[2N]`, chosen first, from KTO.
    pub losses: Tensor<1>,
    /// `β (log π − log π_ref)` of each response, `[N]`; β times the mean log-prob where there is no reference.
    pub rewards: ChosenRejected,
}

impl PreferenceOutcome {
    /// `u`: implicit reward of chosen minus rejected, `[N]`.
    pub fn margins(&self) -> Tensor<1> {
        self.rewards.clone().difference()
    }
}

/// The loss of a batch of pairs: the mean of its entry's equation in `pair_losses.rs`.
///
/// # Source
/// In each entry; TRL 1.16 where the paper leaves a choice.
pub fn preference_loss(loss: &PreferenceLoss, pairs: &PairLogp, beta: f64) -> PreferenceOutcome {
    let ratios = pairs.log_ratios();
    let rewards = ratios.clone().map(|x| x * beta);
    let output = loss.compute(PairLossInputs { logp: pairs, beta, ratios, rewards: rewards.clone() });
    let mut rewards = output.rewards.unwrap_or(rewards);
    if let Some(margin) = &pairs.margin {
        rewards.chosen = rewards.chosen + margin.reward.clone();
    }
    let losses = match pairs.weights.clone() {
        Some(weights) => output.losses * weights, // [N]
        None => output.losses,
    };
    let mean = losses.clone().mean();
    let loss = match output.extra {
        Some(extra) => mean + extra,
        None => mean,
    };
    PreferenceOutcome { loss, losses, rewards }
}

/// The weighted sum of several losses of the same pairs; `losses` and `rewards` are those of the first.
///
/// # Source
/// MPO, Wang et al. 2024; trl 1.16 `loss_weights`.
pub fn mixed_preference_loss(losses: &[(PreferenceLoss, f64)], pairs: &PairLogp, beta: f64) -> PreferenceOutcome {
    let (first, first_weight) = &losses[0];
    let mut outcome = preference_loss(first, pairs, beta);
    if *first_weight != 1.0 {
        outcome.loss = outcome.loss * *first_weight;
    }
    for (loss, weight) in &losses[1..] {
        outcome.loss = outcome.loss + preference_loss(loss, pairs, beta).loss * *weight;
    }
    outcome
}

/// β of a batch whose mean margin is `margin` where it was `usual` so far: `β (1 + α (margin − usual))`, but at least β/100.
///
/// # Source
/// β-DPO, Wu et al. 2024 (dynamic β by batch).
pub fn dynamic_beta(beta: f64, alpha: f64, margin: f64, usual: f64) -> f64 {
    beta * (1.0 + alpha * (margin - usual)).max(0.01)
}

/// `−(1−e) log σ(u) − e log σ(−u)`, `[N]`.
pub(crate) fn smoothed(u: Tensor<1>, e: f64) -> Tensor<1> {
    if e == 0.0 {
        return log_sigmoid(u).neg();
    }
    (log_sigmoid(u.clone()) * (1.0 - e) + log_sigmoid(u.neg()) * e).neg()
}

/// `−log σ(u − α)` of a pair with a preference, `−log σ(u − α) − log σ(−u − α)` of a tie (`tied` is 1): the negative
/// log-likelihood of the label less a constant of α, `[N]`.
///
/// # Source
/// Rao & Kupper 1967, eq. 2.1–2.3, at worths exp u to 1 and ν = exp α.
pub fn rao_kupper(u: Tensor<1>, tied: Option<Tensor<1>>, alpha: f64) -> Tensor<1> {
    let ahead = log_sigmoid(u.clone() - alpha).neg();
    match tied {
        Some(tied) => ahead - log_sigmoid(u.neg() - alpha) * tied,
        None => ahead,
    }
}

/// Negative log-likelihood of the chosen responses per token, mean over all tokens of the batch, `[1]`:
/// what `NLL-augmented` losses add.
pub fn chosen_nll(pairs: &PairLogp) -> Tensor<1> {
    pairs.policy.chosen.clone().sum().neg() / pairs.lengths.chosen.clone().sum()
}

/// The same as a mean over pairs of each response's NLL per token, `[1]`. Pang et al. 2024, eq. 1.
pub fn chosen_sequence_nll(pairs: &PairLogp) -> Tensor<1> {
    let chosen = pairs.policy.chosen.clone();
    let logp = match &pairs.margin {
        Some(margin) => chosen + margin.nats.clone(),
        None => chosen,
    };
    (logp / pairs.lengths.chosen.clone()).mean().neg()
}

/// KTO's weights of the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KtoWeights {
    pub desirable: f64,
    pub undesirable: f64,
}

/// `w_D (1 − σ(β(Δ − z)))` on desirable and `w_U (1 − σ(β(z − Δ)))` on undesirable responses, which need not be
/// pairs; z is the policy's KL on mismatched responses, at least 0, without gradient.
///
/// # Shapes
/// `log_ratios`: any number on either side; `kl`: `[1]`; `losses` and `loss` are over both sides together.
/// # Source
/// Ethayarajh et al. 2024, eq. 7–8.
pub fn kto_loss(log_ratios: ChosenRejected, kl: Tensor<1>, weights: KtoWeights, beta: f64) -> PreferenceOutcome {
    let kl = kl.detach().clamp_min(0.0);
    let rewards = log_ratios.clone().map(|x| x * beta);
    let desirable = sigmoid((log_ratios.chosen - kl.clone()) * beta).neg() + 1.0;
    let undesirable = sigmoid((kl - log_ratios.rejected) * beta).neg() + 1.0;
    let losses = Tensor::cat(vec![desirable * weights.desirable, undesirable * weights.undesirable], 0);
    PreferenceOutcome { loss: losses.clone().mean(), losses, rewards }
}
