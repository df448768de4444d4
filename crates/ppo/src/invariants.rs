//! What must hold of PPO in every run (ARCHITECTURE.md, What is checked while it runs).

use burn::tensor::Tensor;
use duel_model::weights::host;
use duel_objectives::{ResponseMask, WHITEN_EPS};
use duel_training::invariants::{Tolerance, breach, check_close, largest};
use duel_training::rounding::unless_rounding;
use duel_training::{Error, Result};

/// The log-probs stored while sampling are those that the policy has when it reads the response again; `reread` reads them
/// again with the last bit of each weight changed.
///
/// # Shapes
/// `logp` and the result of `reread`: `[B·T]`.
pub fn sampled_logp_is_the_policys(
    step: u64,
    sampled: &[Vec<f32>],
    logp: &[f32],
    columns: usize,
    reread: impl FnOnce() -> Vec<f32>,
) -> Result<()> {
    let counted = || sampled.iter().enumerate().flat_map(|(row, logp)| (0..logp.len()).map(move |t| (row, t)));
    let worst = largest(counted().map(|(row, t)| (sampled[row][t] - logp[row * columns + t]).abs()));
    let what = "the largest difference of a sampled log-prob from the one read again";
    let within = Tolerance { share: 1e-3, of: "a nat", scale: 1.0 };
    unless_rounding(check_close("sampled_logp_is_the_policys", step, what, worst, 0.0, within), worst, || {
        let nudged = reread();
        largest(counted().map(|(row, t)| (nudged[row * columns + t] - logp[row * columns + t]).abs()))
    })
}

/// The log-probs stored while sampling by another law are those of the policy at its temperature, `tempered`, raised by what the
/// nucleus leaves out: its mass is at least `top_p`.
///
/// # Shapes
/// `tempered` and the result of `reread`: `[B·T]`.
pub fn sampled_logp_is_of_its_law(
    step: u64,
    sampled: &[Vec<f32>],
    tempered: &[f32],
    columns: usize,
    top_p: f64,
    reread: impl FnOnce() -> Vec<f32>,
) -> Result<()> {
    let most = -top_p.ln() as f32;
    let beyond = |sampled: f32, tempered: f32| {
        let raised = sampled - tempered;
        raised - raised.clamp(0.0, most)
    };
    let bounds: Vec<f32> = sampled
        .iter()
        .enumerate()
        .flat_map(|(row, logp)| logp.iter().enumerate().map(move |(t, x)| (row * columns + t, *x)))
        .map(|(cell, x)| beyond(x, tempered[cell]).abs())
        .collect();
    let worst = largest(bounds.into_iter());
    let what = "the largest difference of a sampled log-prob from the one of its law";
    let within = Tolerance { share: 1e-3, of: "a nat", scale: 1.0 };
    unless_rounding(check_close("sampled_logp_is_of_its_law", step, what, worst, 0.0, within), worst, || {
        largest(reread().into_iter().zip(tempered).map(|(a, b)| (a - b).abs()))
    })
}

/// At the first minibatch of the first epoch the ratio is 1, and nothing is clipped that is nearer to 1 than `clip_range`;
/// `reread` computes the deviation once more with the last bit of each weight changed.
pub fn first_ratio_is_one(
    step: u64,
    deviation: f64,
    clip_share: f64,
    clip_range: f64,
    reread: impl FnOnce() -> f64,
) -> Result<()> {
    let what = "the largest |ratio − 1| of the first minibatch";
    let is_one = check_close("first_ratio_is_one", step, what, deviation, 0.0, Tolerance::absolute(1e-5));
    unless_rounding(is_one, deviation, reread)?;
    if deviation >= clip_range {
        return Ok(());
    }
    check_close(
        "first_ratio_is_one",
        step,
        "the clip share of the first minibatch",
        clip_share,
        0.0,
        Tolerance::EXACTLY,
    )
}

/// The KL coefficient is positive and finite.
pub fn kl_coef_is_positive(step: u64, kl_coef: f64) -> Result<()> {
    if kl_coef.is_finite() && kl_coef > 0.0 {
        return Ok(());
    }
    Err(breach("kl_coef_is_positive", step, "the KL coefficient", kl_coef.to_string(), "a number above 0".into()))
}

/// Whitened advantages have mean 0 over counted tokens, and standard deviation 1, or less by the epsilon under the
/// root where the raw ones hardly differ. `raw` are the advantages before, rounded relative to the largest of them.
pub fn advantages_are_white(
    step: u64,
    advantages: &Tensor<2>,
    raw: &Tensor<2>,
    raw_sd: f64,
    mask: &ResponseMask,
) -> Result<()> {
    let mean = f64::from(host(mask.mean(advantages.clone()))[0]);
    let size = largest(host(mask.apply(raw.clone())).into_iter().map(f32::abs));
    let expected = raw_sd / (raw_sd * raw_sd + WHITEN_EPS).sqrt();
    // in units of the whitened advantages, which f32 resolves to 1e-7
    let scale = 1.0 + size / (raw_sd * raw_sd + WHITEN_EPS).sqrt();
    let of = "1 and the largest advantage, over their spread";
    let what = "the mean of whitened advantages";
    check_close("advantages_are_white", step, what, mean, 0.0, Tolerance { share: 2e-5, of, scale })?;
    if raw_sd < 1e-4 || raw_sd < 1e-4 * size {
        return Ok(()); // rounding alone
    }
    let count: f32 = host(mask.tensor().sum())[0];
    let square = f64::from(host(mask.mean(advantages.clone().square()))[0]);
    let sd = (square * f64::from(count) / f64::from(count - 1.0)).sqrt();
    let what = "the standard deviation of whitened advantages";
    check_close("advantages_are_white", step, what, sd, expected, Tolerance { share: 1e-3, of: "1", scale: 1.0 })
}

/// Advantages within a group have mean 0.
pub fn groups_are_centred(step: u64, advantages: &[f64], group: usize) -> Result<()> {
    let sums = advantages.chunks(group).map(|group| {
        let size = group.iter().map(|x| x.abs()).sum::<f64>();
        (group.iter().sum::<f64>().abs() / size.max(f64::MIN_POSITIVE)) as f32
    });
    let what = "the largest sum of a group's advantages, over the sum of their sizes";
    check_close("groups_are_centred", step, what, largest(sums), 0.0, Tolerance::absolute(1e-5))
}

/// The scores of responses, `[B]`, and what of each is given at a token, `[B·T]`; `None`: every score is given whole.
#[derive(Debug, Clone, Copy)]
pub struct ScoreParts<'a> {
    pub scores: &'a [f64],
    pub token_rewards: Option<&'a [f32]>,
}

impl ScoreParts<'_> {
    /// What a counted token is given of its response's score: its part, and at the last of `length` what is left.
    fn at(&self, row: usize, t: usize, length: usize, columns: usize) -> f64 {
        let part = |t: usize| self.token_rewards.map_or(0.0, |rewards| f64::from(rewards[row * columns + t]));
        let left = || self.scores[row] - (0..length).map(part).sum::<f64>();
        if t + 1 == length { part(t) + left() } else { part(t) }
    }
}

/// The reward of every counted token is −β·k1, plus the score once, at the last of them, or its parts at theirs; nothing else is
/// rewarded.
///
/// # Shapes
/// `rewards`: `[B, T]`; `k1`: its host values, `[B·T]`; `lengths`: counted tokens, `[B]`.
pub fn reward_enters_once(
    step: u64,
    rewards: &Tensor<2>,
    scores: ScoreParts<'_>,
    k1: &[f32],
    beta: f64,
    lengths: &[usize],
) -> Result<()> {
    let [_, columns] = rewards.dims();
    for (index, reward) in host(rewards.clone()).into_iter().enumerate() {
        let (row, t) = (index / columns, index % columns);
        let is_counted = t < lengths[row];
        let penalty = if is_counted { -beta * f64::from(k1[index]) } else { 0.0 };
        let score = if is_counted { scores.at(row, t, lengths[row], columns) } else { 0.0 };
        let (what, reward) = ("the reward of a token", f64::from(reward));
        let of = "its KL penalty and its score, each at least 1";
        let within = Tolerance { share: 1e-5, of, scale: 2.0 + penalty.abs() + score.abs() };
        check_close("reward_enters_once", step, what, reward, penalty + score, within).map_err(
            |error| match error {
                Error::Invariant { actual, expected, .. } => {
                    breach("reward_enters_once", step, &format!("{what}, {t} of response {row},"), actual, expected)
                }
                other => other,
            },
        )?;
    }
    Ok(())
}

/// GAE at γ = λ = 1, `advantages`, is the return minus the value.
pub fn gae_at_one_is_return_minus_value(
    step: u64,
    advantages: &Tensor<2>,
    rewards: &Tensor<2>,
    values: &Tensor<2>,
    mask: &ResponseMask,
) -> Result<()> {
    let [_, columns] = rewards.dims();
    let [advantages, rewards, values, counts] =
        [advantages.clone(), rewards.clone(), values.clone(), mask.tensor()].map(host);
    let mut errors = vec![];
    for row in 0..counts.len() / columns {
        let (mut to_go, mut size) = (0f32, 0f32);
        for t in (0..columns).rev() {
            let index = row * columns + t;
            if counts[index] > 0.0 {
                to_go += rewards[index];
                size += rewards[index].abs() + values[index].abs();
                errors.push((advantages[index] - (to_go - values[index])).abs() / size.max(1.0));
            }
        }
    }
    let what = "the largest difference of GAE(1, 1) from return − value, over the sizes of what they sum (at least 1)";
    check_close(
        "gae_at_one_is_return_minus_value",
        step,
        what,
        largest(errors.into_iter()),
        0.0,
        Tolerance::absolute(1e-4),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn breaks(name: &str, result: Result<()>) {
        match result {
            Err(Error::Invariant { name: actual, .. }) => assert_eq!(actual, name),
            other => panic!("{name} should break, got {other:?}"),
        }
    }

    fn row(values: [f32; 3]) -> Tensor<2> {
        Tensor::from_data([values], &Device::flex())
    }

    #[test]
    fn each_holds_where_it_should_and_breaks_where_it_should() {
        let mask = ResponseMask::from_lengths(&[2], 3, &Device::flex());
        // two counted tokens; the third column is padding
        let sampled = |logp: &[f32], nudge| {
            let reread = || logp.iter().map(|logp| logp + nudge).collect();
            sampled_logp_is_the_policys(0, &[vec![-1.0, -2.0]], logp, 3, reread)
        };
        assert!(sampled(&[-1.0, -2.0, 9.0], 0.0).is_ok());
        breaks("sampled_logp_is_the_policys", sampled(&[-1.0, -2.1, 9.0], 1e-4));
        let diverged = |error| matches!(error, Err(Error::Diverged { .. }));
        assert!(diverged(sampled(&[-1.0, f32::NAN, 9.0], 0.0)));
        assert!(diverged(sampled(&[-1.0, -2.1, 9.0], 0.05)), "rounding explains it, but is too large");
        let first = |deviation, clip_share, nudge| first_ratio_is_one(0, deviation, clip_share, 0.2, || nudge);
        assert!(first(5e-6, 0.0, f64::NAN).is_ok());
        breaks("first_ratio_is_one", first(1e-3, 0.0, 1e-6));
        assert!(first(1e-3, 0.0, 1e-4).is_ok(), "rounding does as much");
        assert!(diverged(first(0.1, 0.0, 0.05)), "rounding explains it, but is too large");
        breaks("first_ratio_is_one", first(0.0, 0.01, 0.0));
        assert!(
            first_ratio_is_one(0, 5e-6, 0.01, 1e-6, || 0.0).is_ok(),
            "a clip that is nearer than f32 holds the ratio"
        );
        assert!(kl_coef_is_positive(0, 1e-9).is_ok());
        for kl_coef in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            breaks("kl_coef_is_positive", kl_coef_is_positive(0, kl_coef));
        }
        let white = 0.5f32.sqrt(); // ±√½ has variance 1 with n − 1
        let is_white =
            |advantages, raw: f32, sd| advantages_are_white(0, &row(advantages), &row([raw, -raw, 9.0]), sd, &mask);
        assert!(is_white([white, -white, 0.0], 2.0, 2.0).is_ok());
        breaks("advantages_are_white", is_white([white, white, 0.0], 2.0, 2.0));
        // raw advantages of .002 are scaled to .9988; 1 would be a fault
        let small = white * 0.998_752;
        assert!(is_white([small, -small, 0.0], 2e-3, 2e-3).is_ok());
        breaks("advantages_are_white", is_white([white, -white, 0.0], 2e-3, 2e-3));
        breaks("advantages_are_white", is_white([3.0, -3.0, 0.0], 2.0, 2.0));
        // advantages of 1000 ± .1 are rounded to a few 1e-4 of their spread
        assert!(is_white([white + 5e-4, -white + 5e-4, 0.0], 1e3, 0.1).is_ok());
        assert!(groups_are_centred(0, &[1.0, -1.0, 0.0, 0.0], 2).is_ok());
        breaks("groups_are_centred", groups_are_centred(0, &[1.0, -1.0, 0.0, 0.1], 2));
        breaks("groups_are_centred", groups_are_centred(0, &[1e-6, -0.9e-6, 0.0, 0.0], 2));
        // score 2, k1 .5 then 0, β .2
        let whole = ScoreParts { scores: &[2.0], token_rewards: None };
        let entered = |rewards| reward_enters_once(0, &row(rewards), whole, &[0.5, 0.0, 9.0], 0.2, &[2]);
        assert!(entered([-0.1, 2.0, 0.0]).is_ok());
        breaks("reward_enters_once", entered([1.9, 2.0, 0.0])); // twice
        breaks("reward_enters_once", entered([1.9, 0.0, 0.0])); // on the first token: the sum is the same
        breaks("reward_enters_once", entered([0.1, 2.0, 0.0])); // the penalty paid out
        breaks("reward_enters_once", entered([-0.1, 2.0, -1.8])); // padding is penalized too
        // of the score of 2, 1.5 at the first token and 3 at padding, which counts nowhere
        let parts = ScoreParts { scores: &[2.0], token_rewards: Some(&[1.5, 0.0, 3.0]) };
        let entered = |rewards| reward_enters_once(0, &row(rewards), parts, &[0.5, 0.0, 9.0], 0.2, &[2]);
        assert!(entered([1.4, 0.5, 0.0]).is_ok());
        breaks("reward_enters_once", entered([-0.1, 2.0, 0.0])); // all at the end
        breaks("reward_enters_once", entered([1.4, 2.0, 0.0])); // the part and the whole
        breaks("reward_enters_once", entered([1.4, 0.5, 3.0])); // padding is rewarded
    }

    #[test]
    fn a_law_raises_log_probs_by_what_its_nucleus_leaves_out() {
        let check = |sampled: [f32; 2], top_p| {
            sampled_logp_is_of_its_law(0, &[sampled.to_vec()], &[-1.0, -2.0, 9.0], 3, top_p, || vec![-1.0, -2.0, 9.0])
        };
        assert!(check([-1.0, -2.0], 1.0).is_ok() && check([-1.0005, -1.9995], 1.0).is_ok());
        breaks("sampled_logp_is_of_its_law", check([-1.0, -2.002], 1.0));
        breaks("sampled_logp_is_of_its_law", check([-0.9, -2.0], 1.0));
        // a nucleus of at least half of the mass: by ln 2 at most
        assert!(check([-0.4, -1.31], 0.5).is_ok());
        breaks("sampled_logp_is_of_its_law", check([-0.3, -2.0], 0.5));
        breaks("sampled_logp_is_of_its_law", check([-1.0, -2.1], 0.5));
    }

    #[test]
    fn every_response_is_read_again_at_its_own_tokens() {
        let sampled = [vec![-1.0, -2.0], vec![-3.0, -5.0]];
        let check = |logp: [f32; 6], nudge: f32| {
            // rounding moves the second response alone
            let reread = || logp.iter().enumerate().map(|(i, x)| if i < 3 { *x } else { x + nudge }).collect();
            sampled_logp_is_the_policys(0, &sampled, &logp, 3, reread)
        };
        assert!(check([-1.0, -2.0, 9.0, -3.000_9, -5.0, 9.0], 0.0).is_ok());
        breaks("sampled_logp_is_the_policys", check([-1.0, -2.0, 9.0, -3.001_1, -5.0, 9.0], 0.0));
        assert!(check([-1.0, -2.0, 9.0, -3.001_1, -5.0, 9.0], 1e-4).is_ok(), "rounding does a sixteenth of it");
    }

    /// Whitened advantages of this mean and standard deviation, of raw ones that are ±`size` and whose spread is `raw_sd`.
    fn white(mean: f32, sd: f32, size: f32, raw_sd: f64) -> Result<()> {
        let mask = ResponseMask::from_lengths(&[2], 3, &Device::flex());
        let x = sd * 0.5f32.sqrt();
        advantages_are_white(0, &row([x + mean, -x + mean, 0.0]), &row([size, -size, 9.0]), raw_sd, &mask)
    }

    #[test]
    fn the_mean_of_white_advantages_is_as_precise_as_f32_has_it() {
        // in units of the spread: 2e-5 of 1 + 1/1, and of 1 + 2000/.1 (whose standard deviation is rounding)
        for (size, raw_sd, tolerance) in [(1.0, 1.0, 4e-5), (2000.0, 0.1, 0.400_02)] {
            for side in [-1.0, 1.0] {
                assert!(white(side * 0.98 * tolerance, 1.0, size, raw_sd).is_ok());
                breaks("advantages_are_white", white(side * 1.02 * tolerance, 1.0, size, raw_sd));
            }
        }
    }

    #[test]
    fn the_spread_of_white_advantages_is_checked_where_it_is_not_rounding() {
        // raw advantages spread by 1e-4, by 1e-4 of the largest, and by less than either
        for (size, raw_sd, is_checked) in
            [(0.5, 0.99e-4, false), (0.5, 1e-4, true), (2.0, 1.99e-4, false), (2.0, 2e-4, true), (0.5, 2e-4, true)]
        {
            let result = white(0.0, 3.0, size, raw_sd);
            assert_eq!(result.is_err(), is_checked, "{size}, {raw_sd}: {result:?}");
        }
        for (sd, holds) in [(0.998, false), (0.999_1, true), (1.000_9, true), (1.002, false)] {
            assert_eq!(white(0.0, sd, 1.0, 1.0).is_ok(), holds, "{sd}");
        }
    }

    #[test]
    fn rewards_and_returns_are_as_precise_as_their_terms() {
        for (factor, holds) in [(0.97, true), (1.03, false)] {
            // a penalty of −.2 · 50 and a score of 3: 1e-5 of 2 + 10, and of 2 + 3
            for (t, tolerance) in [(0, 1.2e-4), (1, 5e-5)] {
                let mut rewards = [-10.0, 3.0, 0.0];
                rewards[t] += factor * tolerance;
                let whole = ScoreParts { scores: &[3.0], token_rewards: None };
                let result = reward_enters_once(0, &row(rewards), whole, &[50.0, 0.0, 9.0], 0.2, &[2]);
                assert_eq!(result.is_ok(), holds, "token {t}: {result:?}");
            }
            // 1e-4 of the sizes from a token to the end: of 2 + 4 + 1 + 3, and of 2 + 4
            let mask = ResponseMask::from_lengths(&[2], 3, &Device::flex());
            for (t, tolerance) in [(0, 1e-3), (1, 6e-4)] {
                let mut advantages = [-4.0, -6.0, 0.0];
                advantages[t] -= factor * tolerance;
                let (rewards, values) = (row([1.0, -2.0, 9.0]), row([3.0, 4.0, 9.0]));
                let result = gae_at_one_is_return_minus_value(0, &row(advantages), &rewards, &values, &mask);
                assert_eq!(result.is_ok(), holds, "token {t}: {result:?}");
            }
            // sizes below 1 count as 1
            let (rewards, values) = (row([0.0, 0.1, 9.0]), row([0.2, 0.2, 9.0]));
            let advantages = row([-0.1 + factor * 1e-4, -0.1, 0.0]);
            assert_eq!(gae_at_one_is_return_minus_value(0, &advantages, &rewards, &values, &mask).is_ok(), holds);
        }
    }
}
