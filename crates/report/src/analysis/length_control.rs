//! Win rates with the effect of length taken out by a regression: Dubois et al. 2024, §3, as in AlpacaEval 2.
//!
//! The log-odds that a response of `a` beats one of `b` to prompt x are `θ + φ·tanh(Δ/sd Δ) + ψ·γ_x`: a term for the two policies,
//! one for the difference of lengths, and the prompt's difficulty γ_x times a weight. The length-controlled win rate is what this
//! predicts where Δ = 0, mean over prompts.
//!
//! Deviations. Lengths are tokens, not characters. γ_x comes from the run's own arms against their reference (theirs from the models
//! of a leaderboard), each γ_x with a normal prior of variance 1 as arms are few. θ, φ and ψ have a ridge of 0.01, a normal prior with
//! a standard deviation of 10, where theirs is an L1 penalty chosen by cross-validation, and no responses of "gamed" baselines are added.
//! Every pair of responses to a prompt counts with its probability, not one pair per prompt.

use crate::analysis::logistic::{Derivatives, LogisticRow, fit_logistic, sigmoid};
use crate::analysis::stats::{bootstrap, mean};
use crate::analysis::win_rate::{PromptOutcomes, RESAMPLES, win_and_mass};
use std::collections::BTreeMap;

/// Pairs of responses to one prompt whose lengths differ by the same number of tokens: the probability of such a pair, and that it
/// is one that the first wins, ties half.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct LengthGap {
    pub(crate) tokens: f64,
    pub(crate) mass: f64,
    pub(crate) won: f64,
}

/// By prompt; empty where one of the two has no response. The masses of a prompt sum to 1.
pub(crate) type LengthGaps = Vec<Vec<LengthGap>>;

/// Pairs of draws of two mixtures, by their difference of lengths.
pub(crate) fn length_gaps(a: &[PromptOutcomes], b: &[PromptOutcomes]) -> LengthGaps {
    fn by_length(outcomes: &PromptOutcomes) -> BTreeMap<u32, PromptOutcomes> {
        let mut lengths = BTreeMap::<u32, PromptOutcomes>::new();
        outcomes.iter().for_each(|outcome| lengths.entry(outcome.1).or_default().push(*outcome));
        lengths
    }
    let of_prompt = |(a, b): (&PromptOutcomes, &PromptOutcomes)| {
        let (a, b) = (by_length(a), by_length(b));
        let mut gaps = BTreeMap::<i64, [f64; 2]>::new();
        for ((length_a, a), (length_b, b)) in a.iter().flat_map(|a| b.iter().map(move |b| (a, b))) {
            let [won, mass] = win_and_mass(a, b);
            let gap = gaps.entry(i64::from(*length_a) - i64::from(*length_b)).or_default();
            *gap = [gap[0] + won, gap[1] + mass];
        }
        let all: f64 = gaps.values().map(|gap| gap[1]).sum();
        let gaps = gaps.into_iter().filter(|(_, [_, mass])| *mass > 0.0);
        gaps.map(|(gap, [won, mass])| LengthGap { tokens: gap as f64, mass: mass / all, won: won / all }).collect()
    };
    a.iter().zip(b).map(of_prompt).collect()
}

/// The expected difference of lengths of each prompt that has pairs, tokens.
pub(crate) fn mean_gaps(gaps: &LengthGaps) -> Vec<f64> {
    let of_prompt = |gaps: &Vec<LengthGap>| gaps.iter().map(|gap| gap.mass * gap.tokens).sum();
    gaps.iter().filter(|gaps| !gaps.is_empty()).map(of_prompt).collect()
}

/// Ridge of the weights θ, φ and ψ, per squared log-odds.
const RIDGE: f64 = 0.01;
/// Ridge of a prompt's difficulty, per squared log-odds.
const DIFFICULTY_RIDGE: f64 = 1.0;
/// Standard deviation of lengths' differences, tokens, below which all are the same.
const SAME_LENGTH: f64 = 1e-9;

/// The function of a difference of lengths that the regression reads, tanh(Δ/sd Δ); 0 where no length differs. `None` where all
/// lengths differ by the same number of tokens: what is due to length cannot be told from what is due to the policies.
fn length_term(gaps: &LengthGaps) -> Option<impl Fn(f64) -> f64> {
    let all = || gaps.iter().flatten();
    let mass: f64 = all().map(|gap| gap.mass).sum();
    let centre = all().map(|gap| gap.mass * gap.tokens).sum::<f64>() / mass;
    let sd = (all().map(|gap| gap.mass * (gap.tokens - centre).powi(2)).sum::<f64>() / mass).sqrt();
    let is_identified = sd > SAME_LENGTH || centre.abs() <= SAME_LENGTH;
    is_identified.then_some(move |tokens: f64| if sd > SAME_LENGTH { (tokens / sd).tanh() } else { 0.0 })
}

/// Rows of a regression with their prompts; `regressors` are of a prompt's index and a length term.
fn rows_by_prompt(gaps: &LengthGaps, regressors: impl Fn(usize, f64) -> Vec<f64>) -> Option<Vec<(usize, LogisticRow)>> {
    let term = length_term(gaps)?;
    let row = |(prompt, gap): (usize, &LengthGap)| {
        let x = regressors(prompt, term(gap.tokens));
        (prompt, LogisticRow { x, offset: 0.0, mass: gap.mass, won: gap.won })
    };
    Some(
        gaps.iter().enumerate().flat_map(|(prompt, gaps)| gaps.iter().map(move |gap| (prompt, gap))).map(row).collect(),
    )
}

/// Largest change of a difficulty at which the joint fit has converged, log-odds, and the most sweeps.
const CONVERGED: f64 = 1e-10;
const MAX_SWEEPS: usize = 1000;

/// The difficulty γ of each prompt: one regression of all arms against the reference, `θ_arm + φ_arm·tanh(Δ/sd Δ) + γ_x`, by sweeps
/// over the arms' weights and the prompts' (each a maximum of the same concave function). 0 without arms.
pub(crate) fn difficulty(arms_against_reference: &[LengthGaps]) -> Vec<f64> {
    let prompts = arms_against_reference.iter().map(Vec::len).max().unwrap_or(0);
    let mut gamma = vec![0.0; prompts]; // [prompts]
    let rows_of = |gaps: &LengthGaps| rows_by_prompt(gaps, |_, term| vec![1.0, term]);
    let mut arms: Vec<(Vec<LogisticRow>, Vec<usize>, Vec<f64>)> = vec![];
    for rows in arms_against_reference.iter().filter_map(rows_of) {
        let (of_prompt, rows) = rows.into_iter().unzip();
        arms.push((rows, of_prompt, vec![0.0; 2]));
    }
    for _ in 0..MAX_SWEEPS {
        let (mut gradient, mut mass): (Vec<f64>, Vec<f64>) =
            (gamma.iter().map(|g| -DIFFICULTY_RIDGE * g).collect(), vec![0.0; prompts]);
        for (rows, of_prompt, weights) in &mut arms {
            rows.iter_mut().zip(&*of_prompt).for_each(|(row, &prompt)| row.offset = gamma[prompt]);
            *weights = fit_logistic(rows, &[RIDGE; 2], weights).unwrap_or_else(|| weights.clone());
            for (row, &prompt) in rows.iter().zip(&*of_prompt) {
                let log_odds = row.offset + row.x[0] * weights[0] + row.x[1] * weights[1];
                gradient[prompt] += row.won - row.mass * sigmoid(log_odds);
                mass[prompt] += row.mass;
            }
        }
        // Böhning & Lindsay 1988: a curvature of a quarter of the mass is an upper bound, so that each step is upwards
        let steps = gradient.iter().zip(&mass).map(|(gradient, mass)| gradient / (DIFFICULTY_RIDGE + mass / 4.0));
        let steps: Vec<f64> = steps.collect();
        gamma.iter_mut().zip(&steps).for_each(|(gamma, step)| *gamma += step);
        if steps.iter().all(|step| step.abs() <= CONVERGED) {
            break;
        }
    }
    gamma
}

/// A regression of one policy against another.
pub(crate) struct LengthControl {
    rows: Vec<(usize, LogisticRow)>,
    /// θ, φ, ψ.
    weights: Vec<f64>,
    /// The prompts that have pairs, and their difficulty.
    prompts: Vec<(usize, f64)>,
}

impl LengthControl {
    /// Fits it; `None` without pairs, and where all lengths differ by the same number of tokens.
    pub(crate) fn fit(gaps: &LengthGaps, difficulty: &[f64]) -> Option<Self> {
        let of_prompt = |prompt: usize| difficulty.get(prompt).copied().unwrap_or(0.0);
        let rows = rows_by_prompt(gaps, |prompt, term| vec![1.0, term, of_prompt(prompt)])?;
        let all: Vec<LogisticRow> = rows.iter().map(|(_, row)| row.clone()).collect();
        let prompts = gaps.iter().enumerate().filter(|(_, gaps)| !gaps.is_empty());
        let prompts: Vec<(usize, f64)> = prompts.map(|(prompt, _)| (prompt, of_prompt(prompt))).collect();
        let weights = fit_logistic(&all, &[RIDGE; 3], &[0.0; 3])?;
        (!prompts.is_empty()).then_some(Self { rows, weights, prompts })
    }

    /// Log-odds that the longer response gains where the length term is 1.
    #[cfg(test)]
    pub(crate) fn length_weight(&self) -> f64 {
        self.weights[1]
    }

    /// The length-controlled win rate of the first.
    pub(crate) fn win_rate(&self) -> f64 {
        let predicted = |(_, difficulty): &(usize, f64)| sigmoid(self.weights[0] + self.weights[2] * difficulty);
        mean(&self.prompts.iter().map(predicted).collect::<Vec<_>>())
    }

    /// Its 95% interval by resampling prompts; the difficulties and the unit of length stay. A resample's weights are one Newton
    /// step from those of all prompts.
    pub(crate) fn interval(&self) -> Option<[f64; 2]> {
        let zero = Derivatives::of_ridge(&[0.0; 3], &self.weights);
        let mut by_prompt: BTreeMap<usize, Derivatives> = BTreeMap::new();
        for (prompt, row) in &self.rows {
            by_prompt.entry(*prompt).or_insert_with(|| zero.clone()).add_row(row, &self.weights);
        }
        let by_prompt: Vec<&Derivatives> =
            self.prompts.iter().filter_map(|(prompt, _)| by_prompt.get(prompt)).collect();
        let statistic = |resampled: &[usize]| {
            let mut derivatives = Derivatives::of_ridge(&[RIDGE; 3], &self.weights);
            resampled.iter().for_each(|&index| derivatives.add(by_prompt[index]));
            let step = derivatives.newton_step().unwrap_or_else(|| vec![0.0; 3]);
            let weights: Vec<f64> = self.weights.iter().zip(step).map(|(w, step)| w + step).collect();
            let predicted = |&index: &usize| sigmoid(weights[0] + weights[2] * self.prompts[index].1);
            vec![mean(&resampled.iter().map(predicted).collect::<Vec<_>>())]
        };
        Some(bootstrap(self.prompts.len(), 0.95, RESAMPLES, statistic)?[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(prompts: &[&[(f64, f64, f64)]]) -> LengthGaps {
        let gap = |&(tokens, mass, won): &(f64, f64, f64)| LengthGap { tokens, mass, won };
        prompts.iter().map(|prompt| prompt.iter().map(gap).collect()).collect()
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-7
    }

    /// Half of the draws of `a` have 3 tokens and gold 1, half 5 and gold 2; `b` has 3 tokens and gold 1 with .25, 4 and gold 3 with .5;
    /// the rest is not there.
    #[test]
    fn pairs_are_by_difference_of_length_and_sum_to_one() {
        let a = vec![(1.0, 3, 0.5), (2.0, 5, 0.5)];
        let b = vec![(1.0, 3, 0.25), (3.0, 4, 0.5)];
        let expected = gaps(&[&[
            (-1.0, 1.0 / 3.0, 0.0),
            (0.0, 1.0 / 6.0, 1.0 / 12.0),
            (1.0, 1.0 / 3.0, 0.0),
            (2.0, 1.0 / 6.0, 1.0 / 6.0),
        ]]);
        let actual = length_gaps(&[a.clone(), a.clone()], &[b, vec![]]);
        assert!(actual[1].is_empty());
        for (actual, expected) in actual[0].iter().zip(&expected[0]) {
            assert!(
                actual.tokens == expected.tokens && near(actual.mass, expected.mass) && near(actual.won, expected.won)
            );
        }
        assert_eq!(actual[0].len(), 4);
        let means = mean_gaps(&actual);
        assert!(means.len() == 1 && near(means[0], 1.0 / 3.0), "{means:?}");
        assert_eq!(mean_gaps(&length_gaps(&[vec![]], &[a])), [] as [f64; 0]);
    }

    /// Gradient ascent in Python, to a gradient of 1e-15: first on the joint objective of both arms, then on each alone.
    #[test]
    fn the_fit_is_the_maximum_of_its_objective() {
        let a =
            gaps(&[&[(-1.0, 0.25, 0.1), (2.0, 0.75, 0.6)], &[(0.0, 0.5, 0.1), (1.0, 0.5, 0.2)], &[(3.0, 1.0, 0.9)]]);
        let b = gaps(&[&[(1.0, 0.5, 0.1), (-2.0, 0.5, 0.05)], &[], &[(0.0, 0.4, 0.4), (4.0, 0.6, 0.3)]]);
        let gamma = difficulty(&[a.clone(), b.clone()]);
        let expected = [-0.094_588_571_9, -0.188_815_664_0, 0.274_709_838_6];
        assert!(gamma.iter().zip(expected).all(|(a, b)| near(*a, b)), "{gamma:?}");
        for (gaps, weights, rate) in [
            (&a, [-0.172_469_853_4, 1.403_682_593_7, 2.548_184_023_6], 0.456_386_706_7),
            (&b, [-0.668_503_194_2, -0.071_867_116_8, 3.970_173_661_5], 0.432_183_891_1),
        ] {
            let fit = LengthControl::fit(gaps, &gamma).expect("a fit");
            assert!(fit.weights.iter().zip(weights).all(|(a, b)| near(*a, b)), "{:?}", fit.weights);
            assert!(near(fit.win_rate(), rate), "{}", fit.win_rate());
        }
    }

    /// The second against the first has the rest of the win rate.
    #[test]
    fn the_other_way_round_is_the_rest() {
        let a = gaps(&[&[(-1.0, 0.25, 0.1), (2.0, 0.75, 0.6)], &[(0.0, 0.5, 0.1), (1.0, 0.5, 0.2)]]);
        let turn = |gap: &LengthGap| LengthGap { tokens: -gap.tokens, mass: gap.mass, won: gap.mass - gap.won };
        let b: LengthGaps = a.iter().map(|gaps| gaps.iter().map(turn).collect()).collect();
        let gamma = [0.5, -0.25];
        let [a, b] = [a, b].map(|gaps| LengthControl::fit(&gaps, &gamma).expect("a fit").win_rate());
        assert!(near(a + b, 1.0) && !near(a, 0.5), "{a} {b}");
    }

    /// Wins that only length decides are half of the pairs once it is controlled; wins that it has no part in stay.
    #[test]
    fn length_is_taken_out_and_nothing_else() {
        let sd = (2.0f64 * 0.25).sqrt() * 2.0; // of −1, 1 and 3 with ¼, ½, ¼
        let only_length = |tokens: f64, mass: f64| (tokens, mass, mass * sigmoid(1.2 * (tokens / sd).tanh()));
        let prompt = [only_length(-1.0, 0.25), only_length(1.0, 0.5), only_length(3.0, 0.25)];
        let all = gaps(&[&prompt[..]; 300]);
        let fit = LengthControl::fit(&all, &[]).expect("a fit");
        assert!((fit.win_rate() - 0.5).abs() < 1e-4 && (fit.length_weight() - 1.2).abs() < 1e-3);
        let raw: f64 = prompt.iter().map(|gap| gap.2).sum();
        assert!(raw > 0.6, "{raw}");
        let no_length = gaps(&[&[(-1.0, 0.25, 0.2), (1.0, 0.5, 0.4), (3.0, 0.25, 0.2)][..]; 300]);
        let fit = LengthControl::fit(&no_length, &[]).expect("a fit");
        assert!((fit.win_rate() - 0.8).abs() < 1e-4 && fit.length_weight().abs() < 1e-3);
    }

    /// Equal lengths have no length term; a difference that is the same for all pairs cannot be told from the policies.
    #[test]
    fn lengths_that_do_not_vary() {
        let rate = |tokens: f64| LengthControl::fit(&gaps(&[&[(tokens, 1.0, 0.75)][..]; 100]), &[]);
        // the ridge alone keeps it from ¾
        assert!((rate(0.0).expect("equal").win_rate() - 0.75).abs() < 1e-3);
        assert!(rate(2.0).is_none() && LengthControl::fit(&gaps(&[&[], &[]]), &[]).is_none());
        assert!(LengthControl::fit(&vec![], &[]).is_none());
        assert_eq!(difficulty(&[]), [] as [f64; 0]);
        assert_eq!(difficulty(&[gaps(&[&[(2.0, 1.0, 0.0)]])]), [0.0]);
    }

    /// One that always wins has a finite rate near 1, also of a single prompt.
    #[test]
    fn what_always_wins_is_near_one() {
        let rate = |prompts: usize| {
            let all = gaps(&vec![&[(0.0, 0.5, 0.5), (1.0, 0.5, 0.5)][..]; prompts]);
            LengthControl::fit(&all, &difficulty(std::slice::from_ref(&all))).expect("a fit")
        };
        assert!((0.99..1.0).contains(&rate(200).win_rate()) && (0.9..1.0).contains(&rate(1).win_rate()));
        assert_eq!(rate(1).interval(), None);
    }

    /// A resample's one step from the fit is near its own fit: the interval is that of the mean where length has no part.
    #[test]
    fn the_interval_is_over_prompts() {
        let prompt = |i: usize| vec![(0.0, 1.0, if i < 70 { 0.9 } else { 0.1 })];
        let prompts: Vec<Vec<(f64, f64, f64)>> = (0..100).map(prompt).collect();
        let all = gaps(&prompts.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let fit = LengthControl::fit(&all, &[]).expect("a fit");
        let [low, high] = fit.interval().expect("prompts");
        let rates: Vec<f64> = (0..100).map(|i| prompt(i)[0].2).collect();
        let [mean_low, mean_high] =
            crate::analysis::stats::prompt_bootstrap(&[rates], 0.95, RESAMPLES).expect("prompts");
        assert!(
            (low - mean_low).abs() < 0.01 && (high - mean_high).abs() < 0.01,
            "{low} {mean_low} {high} {mean_high}"
        );
    }
}
