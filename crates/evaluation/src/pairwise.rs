//! What a judge of pairs says of a policy against the reference, and how far the judge can be relied on.

use crate::distribution::is_tie;
use duel_reward::{PairScorer, PairVerdict};
use duel_spec::metrics::{self, Metric};
use std::sync::Arc;

/// A judge of pairs, and how many prompts it compares responses to.
#[derive(Debug, Clone)]
pub struct PairwiseEvaluation {
    pub scorer: Arc<PairScorer>,
    pub prompts: usize,
}

impl PairwiseEvaluation {
    /// The rows that are compared, of a batch with `samples` responses to each of `prompts` prompts: the first response to each of
    /// some prompts, evenly spread.
    pub(crate) fn rows(&self, prompts: usize, samples: usize) -> Vec<usize> {
        let n = self.prompts.min(prompts);
        (0..n).map(|i| i * prompts / n * samples).collect()
    }
}

/// Metrics of the verdicts on some pairs; `golds` are those of the policy's response and the reference's, NaN where not measured.
pub(crate) fn pairwise_metrics(verdicts: &[PairVerdict], golds: &[(f64, f64)]) -> Vec<(Metric, f64)> {
    let n = verdicts.len() as f64;
    if verdicts.is_empty() {
        return vec![];
    }
    let mean = |value: &dyn Fn(&PairVerdict) -> f64| verdicts.iter().map(value).sum::<f64>() / n;
    let share = |holds: &dyn Fn(&PairVerdict) -> bool| mean(&|verdict| f64::from(u8::from(holds(verdict))));
    let win_rate = mean(&|verdict| verdict.preference());
    let variance = verdicts.iter().map(|v| (v.preference() - win_rate).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let half_if = |tie: bool, wins: bool| if tie { 0.5 } else { f64::from(u8::from(wins)) };
    let mut values = vec![
        (metrics::PAIRWISE_WIN_RATE, win_rate),
        (metrics::PAIRWISE_WIN_RATE_SE, (variance / n).sqrt()),
        (metrics::PAIRWISE_TIE_RATE, mean(&|v| [v.as_a, v.as_b].iter().filter(|p| **p == 0.5).count() as f64 / 2.0)),
        (metrics::PAIRWISE_ORDER_DECIDES, share(&|v| (v.as_a - 0.5) * (v.as_b - 0.5) < 0.0)),
        (metrics::PAIRWISE_FIRST_RATE, mean(&|v| f64::midpoint(v.as_a, 1.0 - v.as_b))),
    ];
    let known = || verdicts.iter().zip(golds).filter(|(_, (a, b))| a.is_finite() && b.is_finite());
    let wins: Vec<f64> = known().map(|(_, (a, b))| half_if(is_tie(*a, *b), a > b)).collect();
    let decided = known().filter(|(_, (a, b))| !is_tie(*a, *b));
    let agrees = |(verdict, (a, b)): (&PairVerdict, &(f64, f64))| {
        let preference = verdict.preference();
        half_if(preference == 0.5, (preference > 0.5) == (a > b))
    };
    let agreements: Vec<f64> = decided.map(agrees).collect();
    for (metric, shares) in [(metrics::PAIRWISE_GOLD_WIN_RATE, wins), (metrics::PAIRWISE_GOLD_AGREEMENT, agreements)] {
        let count = shares.len() as f64;
        values.extend((count > 0.0).then(|| (metric, shares.iter().sum::<f64>() / count)));
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(all: &[(f64, f64)]) -> Vec<PairVerdict> {
        all.iter().map(|&(as_a, as_b)| PairVerdict { as_a, as_b }).collect()
    }

    fn value(values: &[(Metric, f64)], metric: Metric) -> Option<f64> {
        values.iter().find(|(m, _)| *m == metric).map(|(_, value)| *value)
    }

    /// Five pairs: won in both orders, lost in both, the first shown twice, the second shown twice, and a tie in one order with
    /// .75 in the other. Preferences 1, 0, ½, ½, .625.
    #[test]
    fn the_metrics_by_hand() {
        let verdicts = verdicts(&[(1.0, 1.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.75)]);
        let golds = [(2.0, 1.0), (2.0, 1.0), (0.0, 1.0), (1.0, 1.0), (f64::NAN, 1.0)];
        let values = pairwise_metrics(&verdicts, &golds);
        let variance = [1.0, 0.0, 0.5, 0.5, 0.625f64].iter().map(|x| (x - 0.525) * (x - 0.525)).sum::<f64>() / 4.0;
        for (metric, expected) in [
            (metrics::PAIRWISE_WIN_RATE, 0.525),
            (metrics::PAIRWISE_WIN_RATE_SE, (variance / 5.0).sqrt()),
            (metrics::PAIRWISE_TIE_RATE, 0.1), // one of ten answers
            (metrics::PAIRWISE_ORDER_DECIDES, 0.4),
            // shown first: 1, 0; 0, 1; 1, 1; 0, 0; .5, .25
            (metrics::PAIRWISE_FIRST_RATE, 4.75 / 10.0),
            // two wins, a loss and a tie, of four that are known
            (metrics::PAIRWISE_GOLD_WIN_RATE, 2.5 / 4.0),
            // agrees, does not, undecided
            (metrics::PAIRWISE_GOLD_AGREEMENT, 0.5),
        ] {
            let actual = value(&values, metric).expect("measured");
            assert!((actual - expected).abs() < 1e-12, "{metric}: {actual}, expected {expected}");
        }
        assert_eq!(values.len(), 7);
    }

    #[test]
    fn without_gold_or_pairs_less_is_measured() {
        assert!(pairwise_metrics(&[], &[]).is_empty());
        let values = pairwise_metrics(&verdicts(&[(1.0, 1.0)]), &[(1.0, 1.0)]);
        assert_eq!(value(&values, metrics::PAIRWISE_GOLD_AGREEMENT), None);
        assert_eq!(value(&values, metrics::PAIRWISE_GOLD_WIN_RATE), Some(0.5));
        assert_eq!(value(&values, metrics::PAIRWISE_WIN_RATE_SE), Some(0.0));
    }
}
