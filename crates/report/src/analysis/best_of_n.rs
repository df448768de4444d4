//! Best-of-N: learned and gold reward of the best of N responses of the reference, over N (docs/claims.md, B6).

use crate::analysis::points::{EvalPoint, MeasuredPoint};
use crate::analysis::run::Run;
use crate::analysis::stats::difference;
use duel_spec::metrics::{GOLD, KL, PROXY, WIN_RATE};

/// The pseudo-arm.
pub(crate) const BEST_OF_N: &str = "best-of-n";

/// The best of so many responses on test prompts; one value per seed.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct BestOfN {
    pub(crate) n: u64,
    pub(crate) kl: Vec<f64>,
    /// Learned and gold reward above those of a single response.
    pub(crate) proxy: Vec<f64>,
    pub(crate) gold: Vec<f64>,
    pub(crate) win_rate: Vec<f64>,
}

impl BestOfN {
    /// `log N − (N − 1)/N`: an upper bound on the KL. Beirami et al. 2024, thm. 1.
    pub(crate) fn kl_bound(&self) -> f64 {
        let n = self.n as f64;
        n.ln() - (n - 1.0) / n
    }

    /// `N / (N + 1)`: an upper bound on the win rate against a single response. Beirami et al. 2024.
    pub(crate) fn win_rate_bound(&self) -> f64 {
        self.n as f64 / (self.n as f64 + 1.0)
    }
}

/// The policy from which best-of-N departs: a single response on the prompts that it was sampled on; where it is exact, the reference.
pub(crate) fn origin<'a>(run: &'a Run, arm: &'a str) -> Option<&'a MeasuredPoint> {
    let single = run.points_of(arm).find(|point| arm == BEST_OF_N && n_of(point) == Some(1));
    single.or_else(|| run.reference())
}

/// Every N that was measured, the smallest first, one response left out.
pub(crate) fn best_of_n(run: &Run) -> Vec<BestOfN> {
    let Some(origin) = origin(run, BEST_OF_N) else { return vec![] };
    let at_n = |point: &MeasuredPoint| {
        let n = n_of(point).filter(|n| *n > 1)?;
        let mut all = BestOfN { n, ..BestOfN::default() };
        for (seed, best) in point.finished() {
            let values = |of: &EvalPoint| Some([of.test(PROXY)?, of.test(GOLD)?]);
            let single = origin.seeds.get(&seed).and_then(|evaluations| values(evaluations.last()?));
            let (Some([proxy, gold]), Some(single)) = (values(best), single) else { continue };
            all.proxy.push(difference(proxy, single[0]));
            all.gold.push(difference(gold, single[1]));
            all.kl.extend(best.test(KL));
            all.win_rate.extend(best.test(WIN_RATE));
        }
        (!all.gold.is_empty()).then_some(all)
    };
    let mut all: Vec<BestOfN> = run.points_of(BEST_OF_N).filter_map(at_n).collect();
    all.sort_by_key(|best| best.n);
    all
}

/// The N of a point's label, `n=8`.
fn n_of(point: &MeasuredPoint) -> Option<u64> {
    point.label.strip_prefix("n=")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_spec::{Clocks, REFERENCE};

    fn evaluated(points: &[(&str, &str, u64, [f64; 3])]) -> Run {
        let mut run = HandMadeRun::new("name = 'n'\nseeds = 2\n[arms.a]\nmethod = 'dpo'");
        for (arm, label, seed, [kl, proxy, gold]) in points {
            let values = [(KL, *kl), (PROXY, *proxy), (GOLD, *gold), (WIN_RATE, 0.5 + kl / 10.0)];
            run.evaluation(arm, label, *seed, Clocks::default(), &values);
        }
        run.finish()
    }

    /// Gains are paired by seed with a single response on the same prompts, not with the reference on all of them.
    #[test]
    fn gains_are_over_a_single_response() {
        let mut points = vec![
            (REFERENCE, "sft", 0, [0.0, 0.0, 10.0]),
            (REFERENCE, "sft", 1, [0.0, 0.0, 20.0]),
            (BEST_OF_N, "n=16", 0, [2.0, 3.0, 10.5]),
            (BEST_OF_N, "n=2", 0, [0.2, 1.0, 11.0]),
            (BEST_OF_N, "n=2", 1, [0.2, 2.0, 22.0]),
        ];
        let all = best_of_n(&evaluated(&points));
        let gains: Vec<(u64, &[f64], &[f64])> =
            all.iter().map(|best| (best.n, &best.proxy[..], &best.gold[..])).collect();
        assert_eq!(gains, [(2, &[1.0, 2.0][..], &[1.0, 2.0][..]), (16, &[3.0][..], &[0.5][..])]);
        assert_eq!((&all[0].kl, &all[0].win_rate), (&vec![0.2, 0.2], &vec![0.52, 0.52]));
        points.extend([(BEST_OF_N, "n=1", 0, [0.0, 0.5, 12.0]), (BEST_OF_N, "n=1", 1, [0.0, 0.5, 12.0])]);
        let all = best_of_n(&evaluated(&points));
        assert_eq!(all.iter().map(|best| best.n).collect::<Vec<_>>(), [2, 16]);
        assert_eq!((&all[0].gold, &all[1].proxy), (&vec![-1.0, 10.0], &vec![2.5]));
        let run = evaluated(&points);
        let labels = ["a", BEST_OF_N].map(|arm| origin(&run, arm).map(|point| point.label.clone()));
        assert_eq!(labels, [Some("sft".to_string()), Some("n=1".to_string())]);
    }

    #[test]
    fn a_run_without_best_of_n_has_none() {
        assert!(best_of_n(&evaluated(&[(REFERENCE, "sft", 0, [0.0, 0.0, 1.0])])).is_empty());
        assert!(best_of_n(&evaluated(&[])).is_empty());
        assert!(best_of_n(&evaluated(&[(BEST_OF_N, "n=2", 0, [0.2, 1.0, 11.0])])).is_empty(), "above what?");
    }

    /// docs/claims.md, A9: 4,096 equally likely responses without ties reach the bounds.
    #[test]
    fn bounds_by_hand() {
        let best = BestOfN { n: 4, ..BestOfN::default() };
        assert!((best.kl_bound() - (4f64.ln() - 0.75)).abs() < 1e-15 && best.win_rate_bound() == 0.8);
        assert_eq!(BestOfN { n: 1, ..best }.kl_bound(), 0.0);
    }
}
