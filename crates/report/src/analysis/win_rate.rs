//! Win rates of any two policies, from the rewards of their responses to every prompt.

use crate::analysis::frontier::{finished_policies, mixture_at};
use crate::analysis::run::Run;
use crate::analysis::stats::{prompt_bootstrap, wilson};
use duel_ledger::Outcomes;
use duel_spec::OutcomeRow;

/// Gold that counts as equal, as in exact evaluation.
const TIE: f64 = 1e-9;

/// Distribution of a mixture's responses to one prompt: gold, tokens, probability.
pub(crate) type PromptOutcomes = Vec<(f64, u32, f64)>;

/// Distributions of a mixture of policies with these weights, by prompt.
pub(crate) fn mixture(parts: &[(&Outcomes, f64)]) -> Vec<PromptOutcomes> {
    let prompts =
        parts.iter().flat_map(|(outcomes, _)| &outcomes.all).map(|o| o.prompt as usize + 1).max().unwrap_or(0);
    let mut distributions: Vec<PromptOutcomes> = vec![vec![]; prompts];
    for (outcomes, weight) in parts.iter().filter(|(_, weight)| *weight > 0.0) {
        // NaN: not measured
        for OutcomeRow { prompt, gold_reward, tokens, share } in outcomes.all.iter().filter(|o| !o.gold_reward.is_nan())
        {
            distributions[*prompt as usize].push((*gold_reward, *tokens, f64::from(*share) * weight));
        }
    }
    distributions.iter_mut().for_each(|distribution| distribution.sort_by(|a, b| a.0.total_cmp(&b.0)));
    distributions
}

/// Distributions of an arm's mixture of finished policies at one KL and seed; `None` where it does not reach the KL.
pub(crate) fn outcomes_at(run: &Run, arm: &str, seed: u64, kl: f64) -> Option<Vec<PromptOutcomes>> {
    let mixed = mixture_at(run, arm, seed, kl, finished_policies(run, arm, seed))?;
    let parts = mixed.iter().map(|((point, _), share)| Some((run.outcomes_of(point, seed)?, *share)));
    Some(mixture(&parts.collect::<Option<Vec<_>>>()?))
}

/// Probability that a draw of the first has more gold than one of the second, and the probability of a tie.
fn chances(a: &PromptOutcomes, b: &PromptOutcomes) -> [f64; 2] {
    let (mut wins, mut ties, mut below, mut next) = (0.0, 0.0, 0.0, 0);
    for group in a.chunk_by(|x, y| y.0 - x.0 < TIE) {
        let (gold, mass) = (group[0].0, group.iter().map(|x| x.2).sum::<f64>());
        while next < b.len() && b[next].0 < gold - TIE {
            below += b[next].2;
            next += 1;
        }
        let equal: f64 = b[next..].iter().take_while(|y| y.0 <= gold + TIE).map(|y| y.2).sum();
        wins += mass * below;
        ties += mass * equal;
    }
    [wins, ties]
}

/// Probability that a draw of the first wins against one of the second, ties half, and that there are both draws.
pub(crate) fn win_and_mass(a: &PromptOutcomes, b: &PromptOutcomes) -> [f64; 2] {
    let mass = |distribution: &PromptOutcomes| distribution.iter().map(|x| x.2).sum::<f64>();
    let [wins, ties] = chances(a, b);
    [wins + ties / 2.0, mass(a) * mass(b)]
}

/// Win rate of the first on a prompt, ties half, among draws of any length or of equal length; `None` where none can be drawn.
fn win_rate(a: &PromptOutcomes, b: &PromptOutcomes, equal_length: bool) -> Option<f64> {
    let [won, all] = if equal_length {
        let mut lengths: Vec<u32> = a.iter().map(|x| x.1).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let with_length = |distribution: &PromptOutcomes, length| {
            distribution.iter().filter(|x| x.1 == length).copied().collect::<PromptOutcomes>()
        };
        lengths.into_iter().fold([0.0; 2], |sum, length| {
            let [won, all] = win_and_mass(&with_length(a, length), &with_length(b, length));
            [sum[0] + won, sum[1] + all]
        })
    } else {
        win_and_mass(a, b)
    };
    (all > 0.0).then(|| won / all)
}

/// Win rates by prompt, of those that have one.
pub(crate) fn by_prompt(a: &[PromptOutcomes], b: &[PromptOutcomes], equal_length: bool) -> Vec<f64> {
    a.iter().zip(b).filter_map(|(a, b)| win_rate(a, b, equal_length)).collect()
}

/// Win rates of every prompt; `None` where a policy has no response.
pub(crate) fn of_prompts(a: &[PromptOutcomes], b: &[PromptOutcomes]) -> Vec<Option<f64>> {
    a.iter().zip(b).map(|(a, b)| win_rate(a, b, false)).collect()
}

/// The interval of win rates over prompts: Wilson's where every prompt has one pair and hardly any ties, else by resampling prompts
/// (docs/verdicts.md, Win rates).
pub(crate) fn prompt_interval(rates: &[Vec<f64>]) -> Option<[f64; 2]> {
    let first = rates.first()?;
    let decided = first.iter().filter(|rate| **rate == 0.0 || **rate == 1.0).count();
    match rates {
        [_] if decided as f64 >= FEW_TIES * first.len() as f64 => {
            Some(wilson(first.iter().sum(), first.len() as f64, 0.95))
        }
        _ => prompt_bootstrap(rates, 0.95, RESAMPLES),
    }
}

/// Least share of prompts without a tie for Wilson's interval.
const FEW_TIES: f64 = 0.98;

/// Draws of the bootstrap (docs/verdicts.md, Win rates).
pub(crate) const RESAMPLES: usize = 2000;

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: 0 with .5, 1 with .5 against 1 with .4, 2 with .6: it never wins, and ties with .5 · .4.
    #[test]
    fn win_rates_by_hand() {
        let (a, b) = (vec![(0.0, 2, 0.5), (1.0, 3, 0.5)], vec![(1.0, 2, 0.4), (2.0, 3, 0.6)]);
        assert_eq!(chances(&a, &b), [0.0, 0.2]);
        assert_eq!(chances(&b, &a), [0.4 * 0.5 + 0.6, 0.2]);
        let (one, other) = (win_rate(&a, &b, false).expect("drawn"), win_rate(&b, &a, false).expect("drawn"));
        assert!((one - 0.1).abs() < 1e-12 && (one + other - 1.0).abs() < 1e-12);
        // of two tokens 0 against 1, of three 1 against 2: always behind
        assert_eq!(win_rate(&a, &b, true), Some(0.0));
        assert_eq!(win_rate(&a, &vec![(1.0, 9, 1.0)], true), None);
        assert_eq!(win_rate(&a, &a, false), Some(0.5));
    }

    /// Golds within 1e-9 of each other tie, whichever is larger.
    #[test]
    fn golds_within_the_tolerance_tie() {
        let at = |gold: f64| vec![(gold, 1, 1.0)];
        for tie in [0.0, 5e-10, TIE, -5e-10, -TIE] {
            assert_eq!(chances(&at(0.0), &at(tie)), [0.0, 1.0], "{tie}");
        }
        assert_eq!([chances(&at(0.0), &at(2e-9)), chances(&at(0.0), &at(-2e-9))], [[0.0, 0.0], [1.0, 0.0]]);
        let of_two = |low: f64, high: f64| vec![(low, 1, 0.25), (high, 1, 0.75)];
        assert_eq!([chances(&of_two(-1.0, 1.0), &at(0.0)), chances(&of_two(-2.0, -1.0), &at(-1.5))], [[0.75, 0.0]; 2]);
        // golds of one response that are further apart are not one
        let apart = vec![(0.0, 1, 0.25), (TIE, 1, 0.75)];
        assert_eq!(chances(&apart, &at(2.0 * TIE)), [0.0, 0.75]);
    }

    /// Responses of two tokens to these prompts, each with its gold.
    fn outcomes(golds: &[(u32, f64)]) -> Outcomes {
        let row = |&(prompt, gold_reward): &(u32, f64)| OutcomeRow { prompt, gold_reward, tokens: 2, share: 1.0 };
        Outcomes { arm: "a".into(), point: "p".into(), seed: 0, all: golds.iter().map(row).collect() }
    }

    /// A policy without weight is not there, nor is gold that was not measured.
    #[test]
    fn a_mixture_has_the_responses_with_a_probability_and_a_gold() {
        let (one, other) = (outcomes(&[(0, 3.0), (1, f64::NAN)]), outcomes(&[(0, 1.0), (1, 2.0)]));
        assert_eq!(mixture(&[(&one, 1.0), (&other, 0.0)]), [vec![(3.0, 2, 1.0)], vec![]]);
        assert_eq!(mixture(&[(&one, 0.5), (&other, 0.5)]), [vec![(1.0, 2, 0.5), (3.0, 2, 0.5)], vec![(2.0, 2, 0.5)]]);
        // a prompt on which neither has a response has no win rate
        assert_eq!(by_prompt(&mixture(&[(&one, 1.0)]), &mixture(&[(&other, 1.0)]), false), [1.0]);
    }

    /// 98 of 100 decided prompts are enough for Wilson's interval of one seed.
    #[test]
    fn wilsons_interval_needs_single_pairs_with_hardly_any_ties() {
        let rates = |ties: usize| {
            (0..100).map(|i| if i < ties { 0.5 } else { f64::from(u8::from(i < 70)) }).collect::<Vec<_>>()
        };
        assert_eq!(prompt_interval(&[rates(2)]), Some(wilson(69.0, 100.0, 0.95)));
        assert_eq!(prompt_interval(&[rates(3)]), prompt_bootstrap(&[rates(3)], 0.95, RESAMPLES));
        assert_ne!(prompt_interval(&[rates(3)]), Some(wilson(68.5, 100.0, 0.95)));
        assert_eq!(prompt_interval(&[rates(0), rates(0)]), prompt_bootstrap(&[rates(0)], 0.95, RESAMPLES));
    }

    #[test]
    fn a_mixture_averages_its_policies() {
        let (low, high) = (outcomes(&[(0, 0.0), (1, 0.0)]), outcomes(&[(0, 2.0), (1, 1.0)]));
        let distributions = mixture(&[(&low, 0.25), (&high, 0.75)]);
        assert_eq!(distributions, [vec![(0.0, 2, 0.25), (2.0, 2, 0.75)], vec![(0.0, 2, 0.25), (1.0, 2, 0.75)]]);
        let rates = by_prompt(&distributions, &mixture(&[(&low, 1.0)]), false);
        assert_eq!(rates, [0.75 + 0.125, 0.75 + 0.125]);
    }

    #[test]
    fn single_pairs_have_wilsons_interval_and_others_are_resampled() {
        let wins: Vec<f64> = (0..50).map(|i| f64::from(u8::from(i < 37))).collect();
        assert_eq!(prompt_interval(std::slice::from_ref(&wins)), Some(wilson(37.0, 50.0, 0.95)));
        let graded: Vec<f64> = wins.iter().map(|w| 0.25 + w / 2.0).collect();
        let [low, high] = prompt_interval(std::slice::from_ref(&graded)).expect("fifty prompts");
        assert!(low < 0.62 && 0.62 < high && high - low < 0.2, "{low} to {high}");
        assert_eq!(prompt_interval(&[]), None);
    }
}
