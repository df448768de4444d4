//! What must hold of PPO in every run (claims §8).

use burn::tensor::Tensor;
use duel_model::weights::host;
use duel_objectives::{ResponseMask, UNDER_THE_ROOT, gae};
use duel_training::Result;
use duel_training::invariants::{breach, close, largest};

/// The log-probs kept while sampling are those that the policy gives when it reads the response again.
pub fn sampled_logp_is_the_policys(step: u64, sampled: &[Vec<f32>], read: &[f32], columns: usize) -> Result<()> {
    let worst =
        largest(sampled.iter().enumerate().flat_map(|(row, kept)| {
            kept.iter().enumerate().map(move |(t, logp)| (logp - read[row * columns + t]).abs())
        }));
    let what = "the largest difference of a sampled log-prob from the one read again";
    close("sampled_logp_is_the_policys", step, what, worst, 0.0, 1e-3)
}

/// At the first minibatch of the first epoch the ratio is 1 and nothing is clipped.
pub fn first_ratio_is_one(step: u64, deviation: f64, clip_share: f64) -> Result<()> {
    close("first_ratio_is_one", step, "the largest |ratio − 1| of the first minibatch", deviation, 0.0, 1e-5)?;
    close("first_ratio_is_one", step, "the clip share of the first minibatch", clip_share, 0.0, 0.0)
}

/// Whitened advantages have mean 0 over counted tokens, and standard deviation 1, or as much less as what stands under the root makes
/// it where the raw ones hardly differ.
pub fn advantages_are_white(step: u64, advantages: &Tensor<2>, raw_sd: f64, mask: &ResponseMask) -> Result<()> {
    let mean = f64::from(host(mask.mean(advantages.clone()))[0]);
    close("advantages_are_white", step, "the mean of whitened advantages", mean, 0.0, 1e-4)?;
    if raw_sd < 1e-4 {
        return Ok(()); // rounding alone
    }
    let expected = raw_sd / (raw_sd * raw_sd + UNDER_THE_ROOT).sqrt();
    let count: f32 = host(mask.tensor().sum())[0];
    let square = f64::from(host(mask.mean(advantages.clone().square()))[0]);
    let sd = (square * f64::from(count) / f64::from(count - 1.0)).sqrt();
    close("advantages_are_white", step, "the standard deviation of whitened advantages", sd, expected, 1e-3)
}

/// Advantages within a group have mean 0.
pub fn groups_are_centred(step: u64, advantages: &[f64], group: usize) -> Result<()> {
    let sums = advantages.chunks(group).map(|group| {
        let size = group.iter().map(|x| x.abs()).sum::<f64>();
        (group.iter().sum::<f64>().abs() / size.max(1.0)) as f32
    });
    close(
        "groups_are_centred",
        step,
        "the largest sum of a group's advantages, over their size",
        largest(sums),
        0.0,
        1e-5,
    )
}

/// Every counted token pays β·k1, and the score enters once, at the last of them; nothing else is rewarded.
///
/// # Shapes
/// `rewards`: `[B, T]`; `k1`: its host values, `[B·T]`; `lengths`: counted tokens, `[B]`.
pub fn reward_enters_once(
    step: u64,
    rewards: &Tensor<2>,
    scores: &[f64],
    k1: &[f32],
    beta: f64,
    lengths: &[usize],
) -> Result<()> {
    let [_, columns] = rewards.dims();
    for (at, reward) in host(rewards.clone()).into_iter().enumerate() {
        let (row, t) = (at / columns, at % columns);
        let toll = if t < lengths[row] { -beta * f64::from(k1[at]) } else { 0.0 };
        let expected = toll + if t + 1 == lengths[row] { scores[row] } else { 0.0 };
        if (f64::from(reward) - expected).abs() > 1e-4 * (1.0 + expected.abs()) || reward.is_nan() {
            let what = format!("the reward of token {t} of response {row}");
            return Err(breach("reward_enters_once", step, &what, reward.to_string(), expected.to_string()));
        }
    }
    Ok(())
}

/// GAE at γ = λ = 1 is the return minus the value.
pub fn gae_at_one_is_return_minus_value(
    step: u64,
    rewards: &Tensor<2>,
    values: &Tensor<2>,
    mask: &ResponseMask,
) -> Result<()> {
    let [_, columns] = rewards.dims();
    let found = host(gae(rewards.clone(), values.clone(), 1.0, 1.0, mask).advantages);
    let (rewards, values, counts) = (host(rewards.clone()), host(values.clone()), host(mask.tensor()));
    let mut worst = 0f32;
    for row in 0..counts.len() / columns {
        let mut to_go = 0f32;
        for t in (0..columns).rev() {
            let at = row * columns + t;
            if counts[at] > 0.0 {
                to_go += rewards[at];
                worst = worst.max((found[at] - (to_go - values[at])).abs());
            }
        }
    }
    let what = "the largest difference of GAE(1, 1) from return − value";
    close("gae_at_one_is_return_minus_value", step, what, f64::from(worst), 0.0, 1e-3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_training::Error;

    fn breaks(name: &str, result: Result<()>) {
        match result {
            Err(Error::Invariant { name: found, .. }) => assert_eq!(found, name),
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
        assert!(sampled_logp_is_the_policys(0, &[vec![-1.0, -2.0]], &[-1.0, -2.0, 9.0], 3).is_ok());
        breaks(
            "sampled_logp_is_the_policys",
            sampled_logp_is_the_policys(0, &[vec![-1.0, -2.0]], &[-1.0, -2.1, 9.0], 3),
        );
        assert!(first_ratio_is_one(0, 5e-6, 0.0).is_ok());
        breaks("first_ratio_is_one", first_ratio_is_one(0, 1e-3, 0.0));
        breaks("first_ratio_is_one", first_ratio_is_one(0, 0.0, 0.01));
        let white = 0.5f32.sqrt(); // ±√½ has variance 1 with n − 1
        assert!(advantages_are_white(0, &row([white, -white, 0.0]), 2.0, &mask).is_ok());
        breaks("advantages_are_white", advantages_are_white(0, &row([white, white, 0.0]), 2.0, &mask));
        // raw ones of .002 come to .9988, and to 1 by a fault alone
        let small = white * 0.998_752;
        assert!(advantages_are_white(0, &row([small, -small, 0.0]), 2e-3, &mask).is_ok());
        breaks("advantages_are_white", advantages_are_white(0, &row([white, -white, 0.0]), 2e-3, &mask));
        breaks("advantages_are_white", advantages_are_white(0, &row([3.0, -3.0, 0.0]), 2.0, &mask));
        assert!(groups_are_centred(0, &[1.0, -1.0, 0.0, 0.0], 2).is_ok());
        breaks("groups_are_centred", groups_are_centred(0, &[1.0, -1.0, 0.0, 0.1], 2));
        // score 2, k1 .5 then 0, β .2
        let entered = |rewards| reward_enters_once(0, &row(rewards), &[2.0], &[0.5, 0.0, 9.0], 0.2, &[2]);
        assert!(entered([-0.1, 2.0, 0.0]).is_ok());
        breaks("reward_enters_once", entered([1.9, 2.0, 0.0])); // twice
        breaks("reward_enters_once", entered([1.9, 0.0, 0.0])); // on the first token: the sum is the same
        breaks("reward_enters_once", entered([0.1, 2.0, 0.0])); // the toll paid out
        breaks("reward_enters_once", entered([-0.1, 2.0, -1.8])); // padding pays too
        assert!(gae_at_one_is_return_minus_value(0, &row([0.1, 1.0, 0.0]), &row([0.3, 0.6, 7.0]), &mask).is_ok());
    }
}
