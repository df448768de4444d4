//! A9, A10: best of N, and estimates of KL from samples.

use super::claim::ExactClaim;
use super::theory::{doubles, host, normalised};
use crate::distribution::{RewardRanks, best_of_n as best_of_n_distribution};
use crate::{WorldTables, optimum};
use burn::tensor::{Device, Tensor};
use duel_objectives::{k1, k2, k3};

/// A9: the exact distribution of best-of-N, and the formula that bounds its KL.
pub fn best_of_n() -> ExactClaim {
    let s0 = WorldTables::bandit();
    let mut claim =
        ExactClaim::new("A9", "log N − (N−1)/N bounds the KL of best-of-N, N/(N+1) its win rate (Beirami et al. 2024)");
    let prompts = s0.gold.len() as f64;
    // without ties the bounds are nearly reached
    let rewards: Vec<f64> = (0..4096).map(f64::from).collect();
    let (uniform, ranks) = (normalised(vec![0.0; rewards.len()]), RewardRanks::new(&rewards));
    let fixtures = [
        (2, 0.18701, 0.66233),
        (4, 0.61774, 0.79283),
        (8, 1.16636, 0.88040),
        (16, 1.76416, 0.93264),
        (64, 3.05864, 0.98071),
    ];
    for (n, kl, win) in fixtures {
        let (mut found_kl, mut found_win) = (0.0, 0.0);
        for (q, r) in s0.reference.iter().zip(&s0.gold) {
            let ranks = RewardRanks::new(r);
            let best = best_of_n_distribution(q, &ranks, n);
            let (wins, ties) = best.beats(q, &ranks);
            found_kl += best.kl(q) / prompts;
            found_win += (wins + ties / 2.0) / prompts;
        }
        let best = best_of_n_distribution(&uniform, &ranks, n);
        let (wins, ties) = best.beats(&uniform, &ranks);
        let n = f64::from(n);
        let (kl_bound, win_bound) = (n.ln() - (n - 1.0) / n, n / (n + 1.0));
        claim = claim
            .near(format!("KL of best of {n}"), kl, found_kl, 1e-5)
            .near(format!("win rate of best of {n}"), win, found_win, 1e-5)
            .at_most(format!("KL of best of {n} under log N − (N−1)/N"), kl_bound, found_kl, 0.0)
            .at_most(format!("win rate of best of {n} under N/(N+1)"), win_bound, found_win, 0.0)
            .near(format!("KL of best of {n}, 4096 responses without ties"), kl_bound, best.kl(&uniform), 2e-5)
            .near(format!("win rate of best of {n}, 4096 responses without ties"), win_bound, wins + ties / 2.0, 1e-6);
    }
    claim
}

/// A10: k1 and k3 are unbiased, k2 is not, and k3 is useless per sequence beyond one nat.
pub fn kl_estimators() -> ExactClaim {
    let s0 = WorldTables::bandit();
    let mut claim =
        ExactClaim::new("A10", "k1 and k3 are unbiased, k2 is not; k3's spread explodes beyond a nat (Schulman 2020)");
    let fixtures = [
        (1.0, 0.4793, 0.5678, 0.9288, 0.9289),
        (0.5, 1.5077, 2.2762, 1.4554, 12.0553),
        (0.25, 3.1810, 6.3131, 1.4983, 10489.9094),
    ];
    for (beta, kl, of_k2, sd_k1, sd_k3) in fixtures {
        let (mut exact, mut means, mut spreads) = (0.0, [0.0; 3], [0.0; 3]);
        let prompts = s0.gold.len() as f64;
        for (q, r) in s0.reference.iter().zip(&s0.gold) {
            let distribution = optimum(q, r, beta);
            exact += distribution.kl(q) / prompts;
            let row = |values: &[f64]| doubles(values, &Device::flex()).unsqueeze::<2>();
            let (logp, ref_logp) = (row(&distribution.logp), row(&q.logp));
            for (i, estimator) in [k1, k2, k3 as fn(Tensor<2>, Tensor<2>) -> Tensor<2>].into_iter().enumerate() {
                let estimate = host(estimator(logp.clone(), ref_logp.clone()));
                let mean = distribution.expect(&estimate);
                let square = distribution.expect(&estimate.iter().map(|x| (x - mean).powi(2)).collect::<Vec<_>>());
                means[i] += mean / prompts;
                spreads[i] += square.sqrt() / prompts;
            }
        }
        claim = claim
            .near(format!("KL at β {beta}"), kl, exact, 1e-4)
            .near(format!("mean of k1 less the KL at β {beta}"), 0.0, means[0] - exact, 1e-10)
            .near(format!("mean of k2 at β {beta}"), of_k2, means[1], 1e-4)
            .near(format!("mean of k3 less the KL at β {beta}"), 0.0, means[2] - exact, 1e-8)
            .near(format!("sd of k1 at β {beta}"), sd_k1, spreads[0], 1e-4)
            .near(format!("sd of k3 at β {beta}"), sd_k3, spreads[2], 1e-4);
    }
    claim
}
