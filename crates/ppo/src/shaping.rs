//! From a score to the reward: scaling, clipping, the KL estimate and the KL coefficient.

use burn::tensor::Tensor;
use duel_model::weights::host;
use duel_objectives::{AdaptiveBeta, ResponseMask, k1, k2, k3, ppo_kl_penalty_update};
use duel_spec::{KlControl, KlEstimator, Normalization, RolloutSettings, metrics};
use duel_training::Metrics;
use serde::{Deserialize, Serialize};

/// Mean and spread of all numbers seen so far. Chan et al. 1979.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct RunningMoments {
    n: f64,
    mean: f64,
    /// Sum of squares around the mean.
    squares: f64,
}

impl RunningMoments {
    /// Adds numbers.
    pub fn add(&mut self, values: &[f64]) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|x| (x - mean).powi(2)).sum();
        let (delta, all) = (mean - self.mean, self.n + n);
        self.squares += squares + delta * delta * self.n * n / all;
        self.mean += delta * n / all;
        self.n = all;
    }

    /// Bessel-corrected, at least 1e-4.
    fn sd(&self) -> f64 {
        (self.squares / (self.n - 1.0).max(1.0)).sqrt().max(1e-4)
    }
}

/// Scores to rewards of whole responses: scaled by all scores so far, clipped, less the penalty for a missing EOS.
///
/// # Source
/// `trl 0.11 PPOTrainer` (`use_score_scaling`, `use_score_norm`, `score_clip`); `trl PPOConfig.missing_eos_penalty`.
pub fn shaped(
    s: &RolloutSettings,
    seen: &mut RunningMoments,
    scores: &[f64],
    ended: impl Fn(usize) -> bool,
) -> Vec<f64> {
    seen.add(scores);
    let scaled = |x: f64| match s.scores {
        Normalization::Raw => x,
        Normalization::Scaled => x / seen.sd(),
        Normalization::White => (x - seen.mean) / seen.sd(),
    };
    let penalty = |row: usize| if ended(row) { 0.0 } else { s.eos_penalty };
    scores.iter().enumerate().map(|(row, &x)| scaled(x).clamp(-s.score_clip, s.score_clip) - penalty(row)).collect()
}

/// What `scores` multiplies a score with, and with it each of its parts; what it subtracts is of the whole score.
pub fn score_scale(s: &RolloutSettings, seen: &RunningMoments) -> f64 {
    match s.scores {
        Normalization::Raw => 1.0,
        Normalization::Scaled | Normalization::White => 1.0 / seen.sd(),
    }
}

/// The soft overlong punishment of a response of `length` tokens where the longest has `longest`: it grows linearly over the last
/// `overlong_buffer` of them. Yu et al. 2025, eq. 13.
pub fn overlong_penalty(s: &RolloutSettings, length: usize, longest: usize) -> f64 {
    if s.overlong_buffer == 0 {
        return 0.0;
    }
    let excess = length as f64 - (longest as f64 - s.overlong_buffer as f64);
    s.overlong_penalty * (excess / s.overlong_buffer as f64).clamp(0.0, 1.0)
}

/// An estimate of each token's KL from log-probs, `[b, T]`; over the full vocabulary it is
/// [`full_kl`](duel_objectives::full_kl).
pub fn estimate_kl(estimator: KlEstimator, logp: Tensor<2>, ref_logp: Tensor<2>) -> Tensor<2> {
    match estimator {
        KlEstimator::K1 | KlEstimator::Full => k1(logp, ref_logp),
        KlEstimator::K2 => k2(logp, ref_logp),
        KlEstimator::K3 => k3(logp, ref_logp),
    }
}

/// The largest factor between a controlled KL coefficient and its initial value: a KL that never comes near its target would
/// double or halve it without limit.
const KL_COEF_RANGE: f64 = 1e6;

/// The KL coefficient after `episodes` responses that were on average `kl` nats from the reference.
pub fn next_kl_coef(s: &RolloutSettings, beta: f64, kl: f64, episodes: usize) -> f64 {
    let next = match s.kl_control {
        KlControl::Fixed => return beta,
        KlControl::Adaptive => {
            let mut control = AdaptiveBeta { beta, target: s.kl_target, horizon: s.kl_horizon };
            control.update(kl, episodes);
            control.beta
        }
        KlControl::Target => ppo_kl_penalty_update(beta, kl, s.kl_target),
    };
    next.clamp(s.beta / KL_COEF_RANGE, s.beta * KL_COEF_RANGE)
}

/// The entropy coefficient of the updates on a rollout of this `entropy`, in nats per token, and that of the next rollout: where the
/// entropy is at or below its target it counts and rises, else it counts as 0 and falls.
///
/// # Source
/// He et al. 2025 (Skywork-OR1), adaptive entropy control; the bounds are trl's.
fn adaptive_entropy_coef(s: &RolloutSettings, coef: f64, entropy: f64) -> (f64, f64) {
    let is_low = entropy <= s.entropy_target;
    let step = if is_low { s.entropy_coef_delta } else { -s.entropy_coef_delta };
    (if is_low { coef } else { 0.0 }, (coef + step).clamp(s.entropy_coef_min, s.entropy_coef_max))
}

/// The weight of the entropy bonus in the updates on a rollout with these entropies `[B, T]`; `coef` becomes that of the next.
pub fn entropy_bonus(
    s: &RolloutSettings,
    coef: &mut f64,
    entropies: Option<Tensor<2>>,
    mask: &ResponseMask,
    metrics: &mut Metrics,
) -> f64 {
    let Some(entropies) = entropies.filter(|_| s.use_adaptive_entropy) else { return s.entropy_coef };
    let entropy = f64::from(host(mask.mean(entropies))[0]);
    let (now, next) = adaptive_entropy_coef(s, *coef, entropy);
    *coef = next;
    metrics.put(metrics::POLICY_ENTROPY, entropy);
    metrics.put(metrics::ENTROPY_COEF, now);
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> RolloutSettings {
        duel_spec::PpoSettings::defaults().shared
    }

    #[test]
    fn moments_are_those_of_all_numbers_together() {
        let mut moments = RunningMoments::default();
        moments.add(&[1.0, 2.0]);
        moments.add(&[6.0]);
        assert!((moments.mean - 3.0).abs() < 1e-12 && (moments.sd() - 7f64.sqrt()).abs() < 1e-12); // (4 + 1 + 9) / 2
        moments.add(&[7.0, 9.0, 5.0]);
        let sd = (46f64 / 5.0).sqrt(); // 16 + 9 + 1 + 4 + 16 + 0
        assert!((moments.mean - 5.0).abs() < 1e-12 && (moments.sd() - sd).abs() < 1e-12);
    }

    #[test]
    fn scores_by_hand() {
        let all = |s: &RolloutSettings| shaped(s, &mut RunningMoments::default(), &[1.0, 2.0, 6.0], |row| row != 0);
        assert_eq!(all(&settings()), [1.0, 2.0, 6.0]);
        assert_eq!(all(&RolloutSettings { score_clip: 1.5, eos_penalty: 0.5, ..settings() }), [0.5, 1.5, 1.5]);
        let sd = 7f64.sqrt();
        assert_eq!(
            all(&RolloutSettings { scores: Normalization::Scaled, ..settings() }),
            [1.0 / sd, 2.0 / sd, 6.0 / sd]
        );
        assert_eq!(
            all(&RolloutSettings { scores: Normalization::White, ..settings() }),
            [-2.0 / sd, -1.0 / sd, 3.0 / sd]
        );
    }

    #[test]
    fn the_parts_of_a_score_are_scaled_with_it() {
        let mut seen = RunningMoments::default();
        seen.add(&[1.0, 2.0, 6.0]);
        let scale = |scores| score_scale(&RolloutSettings { scores, ..settings() }, &seen);
        let one_over_sd = 1.0 / 7f64.sqrt();
        assert_eq!(scale(Normalization::Raw), 1.0);
        for scores in [Normalization::Scaled, Normalization::White] {
            assert!((scale(scores) - one_over_sd).abs() < 1e-12);
        }
    }

    /// trl 1.16 `get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=5)`
    #[test]
    fn the_overlong_penalty_grows_over_its_buffer() {
        let s = |overlong_penalty| RolloutSettings { overlong_buffer: 5, overlong_penalty, ..settings() };
        for (length, expected) in [(1, 0.0), (14, 0.0), (15, 0.0), (16, 0.2), (18, 0.6), (20, 1.0), (21, 1.0)] {
            assert!((overlong_penalty(&s(1.0), length, 20) - expected).abs() < 1e-12, "{length}");
            assert!((overlong_penalty(&s(0.5), length, 20) - 0.5 * expected).abs() < 1e-12, "{length}");
        }
        assert_eq!(overlong_penalty(&settings(), 20, 20), 0.0);
    }

    #[test]
    fn the_kl_coefficient_follows_its_control() {
        let next = |kl_control, kl| next_kl_coef(&RolloutSettings { kl_control, ..settings() }, 0.1, kl, 256);
        assert_eq!(next(KlControl::Fixed, 9.0), 0.1);
        assert_eq!(next(KlControl::Target, 9.0), 0.2);
        // 9/3 − 1 is clipped to .2; 256 of 10,000 episodes
        assert!((next(KlControl::Adaptive, 9.0) - 0.1 * (1.0 + 0.2 * 0.0256)).abs() < 1e-12);
        assert!((next(KlControl::Adaptive, 2.7) - 0.1 * (1.0 - 0.1 * 0.0256)).abs() < 1e-12);
    }

    /// trl 1.16 `GRPOTrainer`, with the entropy of the rollout in place of that of the last optimizer step.
    #[test]
    fn the_entropy_coefficient_follows_its_target() {
        let s = RolloutSettings {
            entropy_target: 0.5,
            entropy_coef_delta: 0.25,
            entropy_coef_min: 0.25,
            entropy_coef_max: 1.0,
            ..settings()
        };
        for (coef, entropy, expected) in [
            (0.5, 0.4, (0.5, 0.75)),
            (0.5, 0.5, (0.5, 0.75)),
            (0.5, 0.6, (0.0, 0.25)),
            (0.25, 2.0, (0.0, 0.25)),
            (1.0, 0.1, (1.0, 1.0)),
        ] {
            assert_eq!(adaptive_entropy_coef(&s, coef, entropy), expected, "{coef} at {entropy}");
        }
    }

    #[test]
    fn a_kl_coefficient_stays_positive_however_long_its_target_is_missed() {
        for kl_control in [KlControl::Adaptive, KlControl::Target] {
            // the shortest horizon that is accepted: a rollout of 256 moves the coefficient by a fifth
            let s = RolloutSettings { kl_control, kl_horizon: 256.0, beta: 0.1, ..settings() };
            for (kl, bound) in [(0.0, 0.1 / KL_COEF_RANGE), (-3.0, 0.1 / KL_COEF_RANGE), (1e9, 0.1 * KL_COEF_RANGE)] {
                let limit = if kl_control == KlControl::Target { 2.0 } else { 1.25 }; // 1/0.8; upwards it is 1.2
                let mut kl_coef = s.beta;
                for _ in 0..3000 {
                    let next = next_kl_coef(&s, kl_coef, kl, 256);
                    let factor = (next / kl_coef).max(kl_coef / next);
                    assert!(factor < limit + 1e-9, "{kl_control:?} at {kl}: {factor}");
                    kl_coef = next;
                }
                assert!((kl_coef / bound - 1.0).abs() < 1e-9, "{kl_control:?} at {kl}: {kl_coef}");
            }
        }
    }
}
