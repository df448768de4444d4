//! Losses on pairs of responses to one prompt.
//!
//! Letters: `Δw`, `Δl` log-ratios of chosen and rejected (policy over reference, summed over tokens),
//! `u = β(Δw − Δl)`, `e` label smoothing, `|y|` counted tokens. Log-probs in nats; `beta` is reward per nat.

use burn::tensor::activation::{log_sigmoid, sigmoid, softplus};
use burn::tensor::{Tensor, activation::relu};
use serde::{Deserialize, Serialize};

/// One number per pair for each of its two responses, so that chosen cannot pass for rejected.
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

/// What a preference loss reads of a batch of pairs.
#[derive(Debug, Clone)]
pub struct PairLogp {
    /// `log π` of each response, summed over its counted tokens.
    pub policy: ChosenRejected,
    /// `log π_ref`, likewise, without gradient.
    pub reference: ChosenRejected,
    /// Counted tokens `|y|`.
    pub lengths: ChosenRejected,
    /// Log-ratios of responses that answer other prompts, any number of them, without gradient: the KL of KTO.
    pub mismatched: Option<Tensor<1>>,
    /// 1 where the annotator could not tell, else 0, `[N]`; none of the pairs where there is nothing.
    pub tied: Option<Tensor<1>>,
}

impl PairLogp {
    /// How far each response has moved: `log π − log π_ref`.
    pub fn log_ratios(&self) -> ChosenRejected {
        self.policy.clone().zip(self.reference.clone(), Tensor::sub)
    }

    /// Log-ratio a token.
    fn averaged_log_ratios(&self) -> ChosenRejected {
        self.log_ratios().zip(self.lengths.clone(), Tensor::div)
    }

    /// Log-prob a token, no reference.
    fn averaged_policy(&self) -> ChosenRejected {
        self.policy.clone().zip(self.lengths.clone(), Tensor::div)
    }
}

/// The loss on a pair, with the settings that only it has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// `−(1−e) log σ(u) − e log σ(−u)`; e = 0 is Rafailov et al. 2023, eq. 7; e > 0 is conservative DPO.
    Sigmoid { label_smoothing: f64 },
    /// Sigmoid on log-ratios a token (TRL `sigmoid_norm`).
    SigmoidAveraged,
    /// `(−(1−e) log σ(u) + e log σ(−u)) / (1−2e)`: unbiased under label flips. Chowdhury et al. 2024, eq. 12.
    Robust { label_smoothing: f64 },
    /// `max(0, 1 − u)`. Zhao et al. 2023 (SLiC).
    Hinge,
    /// `(Δw − Δl − 1/(2β))²`. Azar et al. 2023, eq. 17, where β is τ.
    Ipo,
    /// The same on log-ratios a token, as TRL trains it.
    IpoAveraged,
    /// [`rao_kupper`] of u: ties are rows too. Chen et al. 2024 (DPO-RK), their ν = exp α.
    RaoKupper { alpha: f64 },
    /// Reverse KL between the policy's and the labels' law of the pair, labels smoothed by e. Ji et al. 2024, eq. 16.
    Exo { label_smoothing: f64 },
    /// `−log σ(βΔw) − ½ log σ(−βΔw) − ½ log σ(−βΔl)`. Chen et al. 2024 (NCA).
    Nca,
    /// `−log σ(βΔw − δ) − log σ(δ − βΔl)`, δ the reward shift. Jung et al. 2024 (BCO).
    Bco { shift: f64 },
    /// `(Δw − 1/(2β))² + (Δl + 1/(2β))²`. Wu et al. 2024 (SPPO, hard labels).
    Sppo,
    /// `1 − σ(βΔw) + σ(βΔl)`. D'Oosterlinck et al. 2024, eq. 7.
    ApoZero,
    /// `σ(βΔw) + 1 − σ(β(Δw − Δl))`. D'Oosterlinck et al. 2024, eq. 8.
    ApoDown,
    /// Sigmoid on the sorted margins of policy and of reference. Melnyk et al. 2024 (AOT, paired).
    Aot { label_smoothing: f64 },
    /// Sigmoid on the sorted log-ratios of chosen and of rejected. Melnyk et al. 2024 (AOT, unpaired).
    AotUnpaired { label_smoothing: f64 },
    /// Logistic and exponential loss, blended by `σ(u/τ)`. Lu et al. 2024 (DiscoPOP).
    DiscoPop { tau: f64 },
    /// Sigmoid on `−exp(−Δ)`: forward KL in place of reverse. Wang et al. 2024 (f-DPO).
    ForwardKl,
    /// Sigmoid on `(exp((α−1)Δ) − 1)/(α−1)`, the exponent at most 80. Wang et al. 2024.
    AlphaDivergence { alpha: f64 },
    /// Sigmoid on `Δ − softplus(Δ)`: Jensen–Shannon. Wang et al. 2024.
    JsDivergence,
    /// `−log σ(β(log π(y_w)/|y_w| − log π(y_l)/|y_l|) − γ)`, no reference. Meng et al. 2024, eq. 6.
    SimPo { gamma: f64 },
    /// `NLL − β log σ(log odds ratio)` of log-probs a token, no reference. Hong et al. 2024, eq. 6–7.
    Orpo,
    /// [`kto_loss`] with the mean of [`PairLogp::mismatched`], log-ratios of mismatched responses, for z.
    Kto { weights: KtoWeights },
    /// Each response against the other side's mean log-ratio, at least 0. Ethayarajh et al. 2024, batch form.
    KtoPair,
    /// `−log σ(u − λ max(0, −Δw))`: the chosen may not fall below the reference. Pal et al. 2024, eq. 3 (times β).
    Positive { lambda: f64 },
    /// `−log π(y_w)`: imitation of the chosen responses, no reference. Rafailov et al. 2023, §6 (Preferred-FT).
    PreferredFt,
    /// `−log π(y_w) + α log π(y_l)`, no reference. Welleck et al. 2020; Rafailov et al. 2023, §6.
    Unlikelihood { alpha: f64 },
}

impl PreferenceLoss {
    /// What the loss is while the policy is its reference; `None` where it does not look at the reference.
    pub fn at_the_reference(&self, beta: f64) -> Option<f64> {
        let ln_2 = std::f64::consts::LN_2;
        Some(match *self {
            Self::Hinge | Self::ApoZero | Self::ApoDown => 1.0,
            Self::Ipo | Self::IpoAveraged => (0.5 / beta).powi(2),
            Self::Sppo => 2.0 * (0.5 / beta).powi(2),
            Self::RaoKupper { alpha } => (1.0 + alpha.exp()).ln(), // twice on a tie
            Self::Exo { label_smoothing } => {
                let e = exo_smoothing(label_smoothing);
                -ln_2 - 0.5 * ((1.0 - e).ln() + e.ln())
            }
            Self::Nca => 2.0 * ln_2,
            Self::Bco { shift } => (1.0 + shift.exp()).ln() + (1.0 + (-shift).exp()).ln(),
            Self::DiscoPop { .. } => 0.5 * ln_2 + 0.5,
            Self::Kto { weights } => 0.25 * (weights.desirable + weights.undesirable),
            Self::KtoPair => 0.5,
            Self::SimPo { .. } | Self::Orpo | Self::PreferredFt | Self::Unlikelihood { .. } => return None,
            Self::Sigmoid { .. }
            | Self::SigmoidAveraged
            | Self::Robust { .. }
            | Self::Aot { .. }
            | Self::AotUnpaired { .. }
            | Self::ForwardKl
            | Self::AlphaDivergence { .. }
            | Self::JsDivergence
            | Self::Positive { .. } => ln_2,
        })
    }

    /// Whether a pair of equal responses moves nothing while the policy is its reference.
    pub fn ignores_ties(&self) -> bool {
        match *self {
            Self::Bco { shift } => shift == 0.0,
            Self::Unlikelihood { alpha } => alpha == 1.0,
            Self::Kto { weights } => weights.desirable == weights.undesirable,
            Self::ApoDown | Self::Orpo | Self::PreferredFt => false,
            _ => true,
        }
    }

    /// Whether it is made of squares, which near the reference are as small as 1/β².
    pub fn is_square(&self) -> bool {
        matches!(self, Self::Ipo | Self::IpoAveraged | Self::Sppo)
    }

    /// Whether the loss is less where the chosen response is much likelier than where the rejected one is: not of DiscoPOP,
    /// which rises again around the reference, nor where neither weighs anything.
    pub fn falls_towards_the_chosen(&self) -> bool {
        match self {
            Self::DiscoPop { .. } => false,
            Self::Kto { weights } => weights.desirable > 0.0 || weights.undesirable > 0.0,
            _ => true,
        }
    }

    /// Whether the loss of a batch is the mean of its pairs' losses, each of which stands alone.
    pub fn is_mean_of_pairs(&self) -> bool {
        !matches!(self, Self::Aot { .. } | Self::AotUnpaired { .. } | Self::Kto { .. } | Self::KtoPair | Self::Orpo)
    }
}

/// EXO's smoothing: log 0 otherwise, as in TRL.
fn exo_smoothing(e: f64) -> f64 {
    if e == 0.0 { 1e-3 } else { e }
}

/// What a preference loss says of a batch; all but `loss` carry no gradient worth following.
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

/// The loss on a batch of pairs.
///
/// # Source
/// For each kind beside its name; TRL 1.16 where the paper leaves a choice.
pub fn preference_loss(loss: &PreferenceLoss, pairs: &PairLogp, beta: f64) -> PreferenceOutcome {
    use PreferenceLoss as Kind;
    let ratios = pairs.log_ratios();
    let ChosenRejected { chosen, rejected } = ratios.clone(); // Δw, Δl: [N]
    let mut rewards = ratios.clone().map(|x| x * beta);
    let u = || rewards.clone().difference(); // [N]
    let losses = match *loss {
        Kind::Sigmoid { label_smoothing } => smoothed(u(), label_smoothing),
        Kind::SigmoidAveraged => log_sigmoid(pairs.averaged_log_ratios().difference() * beta).neg(),
        Kind::Robust { label_smoothing: e } => {
            (log_sigmoid(u().neg()) * e - log_sigmoid(u()) * (1.0 - e)) / (1.0 - 2.0 * e)
        }
        Kind::Hinge => relu(u().neg() + 1.0),
        Kind::Ipo => (ratios.difference() - 0.5 / beta).square(),
        Kind::RaoKupper { alpha } => rao_kupper(u(), pairs.tied.clone(), alpha),
        Kind::IpoAveraged => (pairs.averaged_log_ratios().difference() - 0.5 / beta).square(),
        Kind::Exo { label_smoothing: e } => {
            let e = exo_smoothing(e);
            sigmoid(u()) * (log_sigmoid(u()) - (1.0 - e).ln()) + sigmoid(u().neg()) * (log_sigmoid(u().neg()) - e.ln())
        }
        Kind::Nca => {
            let ChosenRejected { chosen, rejected } = rewards.clone();
            (log_sigmoid(chosen.clone()) + (log_sigmoid(chosen.neg()) + log_sigmoid(rejected.neg())) * 0.5).neg()
        }
        Kind::Bco { shift } => {
            let ChosenRejected { chosen, rejected } = rewards.clone();
            (log_sigmoid(chosen - shift) + log_sigmoid(rejected.neg() + shift)).neg()
        }
        Kind::Sppo => (chosen - 0.5 / beta).square() + (rejected + 0.5 / beta).square(),
        Kind::ApoZero => sigmoid(rejected * beta) - sigmoid(chosen * beta) + 1.0,
        Kind::ApoDown => sigmoid(chosen * beta) - sigmoid(u()) + 1.0,
        Kind::Aot { label_smoothing } => {
            let policy = pairs.policy.clone().difference().sort(0);
            let reference = pairs.reference.clone().difference().sort(0);
            smoothed((policy - reference) * beta, label_smoothing)
        }
        Kind::AotUnpaired { label_smoothing } => smoothed((chosen.sort(0) - rejected.sort(0)) * beta, label_smoothing),
        Kind::DiscoPop { tau } => {
            let blend = u() / tau; // [N]
            // exp(−u) σ(u/τ) as one exponential: apart, one overflows where the other is 0
            log_sigmoid(u()).neg() * (sigmoid(blend.clone()).neg() + 1.0) + (log_sigmoid(blend) - u()).exp()
        }
        Kind::ForwardKl => smoothed(ratios.map(|x| x.neg().exp().neg()).difference() * beta, 0.0),
        Kind::AlphaDivergence { alpha } => {
            let score = |x: Tensor<1>| ((x * (alpha - 1.0)).clamp_max(80.0).exp() - 1.0) / (alpha - 1.0);
            smoothed(ratios.map(score).difference() * beta, 0.0)
        }
        Kind::JsDivergence => smoothed(ratios.map(|x| x.clone() - softplus(x, 1.0)).difference() * beta, 0.0),
        Kind::SimPo { gamma } => {
            rewards = pairs.averaged_policy().map(|x| x * beta);
            log_sigmoid(rewards.clone().difference() - gamma).neg()
        }
        Kind::Orpo => {
            let averaged = pairs.averaged_policy();
            rewards = averaged.clone().map(|x| x * beta);
            // 1 − p is 0 in f32 where p is nearly 1, and its logarithm infinite
            let rest = |x: Tensor<1>| (x.exp().neg() + 1.0).clamp_min(f64::from(f32::EPSILON) / 2.0).log();
            let log_odds = averaged.map(|x| x.clone() - rest(x)).difference();
            log_sigmoid(log_odds) * -beta
        }
        Kind::Kto { weights } => {
            let kl = pairs.mismatched.clone().map_or_else(|| Tensor::zeros([1], &chosen.device()), Tensor::mean);
            return kto_loss(ratios, kl, weights, beta);
        }
        Kind::KtoPair => {
            let kl = ratios.map(|x| x.mean().clamp_min(0.0)); // [1] each
            let wins = sigmoid((chosen - kl.rejected) * beta);
            Tensor::cat(vec![wins, sigmoid((kl.chosen - rejected) * beta)], 0).neg() + 1.0 // [2N]
        }
        Kind::Positive { lambda } => log_sigmoid(u() - relu(chosen.neg()) * (beta * lambda)).neg(),
        Kind::PreferredFt => pairs.policy.chosen.clone().neg(),
        Kind::Unlikelihood { alpha } => pairs.policy.rejected.clone() * alpha - pairs.policy.chosen.clone(),
    };
    let mut mean = losses.clone().mean();
    if *loss == Kind::Orpo {
        mean = mean + chosen_nll(pairs);
    }
    PreferenceOutcome { loss: mean, losses, rewards }
}

/// `−(1−e) log σ(u) − e log σ(−u)`, `[N]`.
pub(crate) fn smoothed(u: Tensor<1>, e: f64) -> Tensor<1> {
    if e == 0.0 {
        return log_sigmoid(u).neg();
    }
    (log_sigmoid(u.clone()) * (1.0 - e) + log_sigmoid(u.neg()) * e).neg()
}

/// `−log σ(u − α)` of a pair that was told apart, `−log σ(u − α) − log σ(−u − α)` of a tie (`tied` is 1): the negative
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

/// Negative log-likelihood of the chosen responses a token, mean over all tokens of the batch, `[1]`:
/// what `NLL-augmented` losses add.
pub fn chosen_nll(pairs: &PairLogp) -> Tensor<1> {
    pairs.policy.chosen.clone().sum().neg() / pairs.lengths.chosen.clone().sum()
}

/// The same as a mean over pairs of each response's NLL a token, `[1]`. Pang et al. 2024, eq. 1.
pub fn chosen_sequence_nll(pairs: &PairLogp) -> Tensor<1> {
    pairs.averaged_policy().chosen.mean().neg()
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
