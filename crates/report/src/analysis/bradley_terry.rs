//! Strengths of several policies from all their win rates against each other: Bradley & Terry 1952.

use crate::analysis::logistic::{LogisticRow, fit_logistic};
use crate::analysis::stats::ROUNDING;

/// `wins[a][b]`: how often `a` won against `b`; a tie is half a win of both.
pub(crate) type WinMatrix = Vec<Vec<f64>>;

/// Log-strengths `s` by maximum likelihood under `P(a beats b) = σ(s_a − s_b)`, with `s` of the anchor at 0.
///
/// They are finite among policies that can be reached from each other along wins (Ford 1957). One that never lost to these, directly
/// or through others, has +∞, one that never won −∞, and one that was not compared with them NaN.
pub(crate) fn strengths(wins: &[Vec<f64>], anchor: usize) -> Vec<f64> {
    let n = wins.len();
    let has_won = |a: usize, b: usize| wins[a][b] > ROUNDING * (wins[a][b] + wins[b][a]);
    let reached = |has_edge: &dyn Fn(usize, usize) -> bool| {
        let mut is_reached: Vec<bool> = (0..n).map(|a| a == anchor).collect();
        let mut stack = vec![anchor];
        while let Some(a) = stack.pop() {
            for b in (0..n).filter(|&b| has_edge(a, b)) {
                if !std::mem::replace(&mut is_reached[b], true) {
                    stack.push(b);
                }
            }
        }
        is_reached
    };
    let (beaten, beats) = (reached(&has_won), reached(&|a, b| has_won(b, a)));
    let free: Vec<usize> = (0..n).filter(|&a| a != anchor && beaten[a] && beats[a]).collect();
    let connected: Vec<usize> = free.iter().copied().chain([anchor]).collect();
    // log-odds of `a` against `b` are s_a − s_b
    let row = |a: usize, b: usize| LogisticRow {
        x: free.iter().map(|&c| f64::from(u8::from(c == a)) - f64::from(u8::from(c == b))).collect(),
        offset: 0.0,
        mass: wins[a][b] + wins[b][a],
        won: wins[a][b],
    };
    let pairs = connected.iter().enumerate().flat_map(|(i, &a)| connected[i + 1..].iter().map(move |&b| (a, b)));
    let rows: Vec<LogisticRow> = pairs.map(|(a, b)| row(a, b)).filter(|row| row.mass > 0.0).collect();
    let fitted = fit_logistic(&rows, &vec![0.0; free.len()], &vec![0.0; free.len()]);
    let strength = |a: usize| match (beats[a], beaten[a]) {
        _ if a == anchor => 0.0,
        (true, true) => fitted.as_ref().zip(free.iter().position(|&c| c == a)).map_or(f64::NAN, |(s, index)| s[index]),
        (true, false) => f64::INFINITY,
        (false, true) => f64::NEG_INFINITY,
        (false, false) => f64::NAN,
    };
    (0..n).map(strength).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || (a - b).abs() < 1e-8)
    }

    /// Of two policies the log-odds of the win rate, whoever is the anchor; 3 wins and 2 ties of 10 are 4.
    #[test]
    fn two_policies_have_the_log_odds_of_their_win_rate() {
        let wins = vec![vec![0.0, 4.0], vec![6.0, 0.0]];
        let odds = (4f64 / 6.0).ln();
        assert!(near(&strengths(&wins, 1), &[odds, 0.0]) && near(&strengths(&wins, 0), &[0.0, -odds]));
        assert_eq!(strengths(&[vec![0.0]], 0), [0.0]);
    }

    /// Win rates that are σ(s_a − s_b) of known strengths give these back, whatever the numbers of comparisons.
    #[test]
    fn strengths_that_made_the_win_rates_are_found() {
        let made = [1.5, -0.75, 0.25, 0.0];
        let n = |a: usize, b: usize| 5.0 + (a + b) as f64;
        let of = |a: usize, b: usize| if a == b { 0.0 } else { n(a, b) / (1.0 + f64::exp(made[b] - made[a])) };
        let wins: WinMatrix = (0..4).map(|a| (0..4).map(|b| of(a, b)).collect()).collect();
        assert!(near(&strengths(&wins, 3), &made), "{:?}", strengths(&wins, 3));
    }

    /// Hunter 2004, eq. 3: pₐ ← wins of a / Σ_b n_ab/(p_a + p_b), another way to the same maximum; some pairs never met.
    #[test]
    fn the_maximum_is_that_of_minorisation_and_maximisation() {
        let wins: WinMatrix = vec![
            vec![0.0, 7.5, 3.0, 0.0],
            vec![2.5, 0.0, 6.0, 1.0],
            vec![4.0, 5.5, 0.0, 8.0],
            vec![0.0, 2.0, 0.5, 0.0],
        ];
        let mut p = [1.0f64; 4];
        for _ in 0..20_000 {
            for a in 0..4 {
                let all: f64 = wins[a].iter().sum();
                let share = |b: usize| (wins[a][b] + wins[b][a]) / (p[a] + p[b]);
                p[a] = all / (0..4).filter(|&b| b != a).map(share).sum::<f64>();
            }
        }
        let expected: Vec<f64> = p.iter().map(|x| (x / p[0]).ln()).collect();
        assert!(near(&strengths(&wins, 0), &expected), "{:?}, {expected:?}", strengths(&wins, 0));
    }

    /// One that never lost is infinitely strong, one that never won infinitely weak, and the others are as without them.
    #[test]
    fn what_always_wins_is_not_finite() {
        let wins = vec![
            vec![0.0, 5.0, 5.0, 5.0, 0.0],
            vec![0.0, 0.0, 3.0, 4.0, 0.0],
            vec![0.0, 1.0, 0.0, 4.0, 0.0],
            vec![1e-13, 0.0, 0.0, 0.0, 0.0], // one that is rounding
            vec![0.0; 5],
        ];
        let infinite = f64::INFINITY;
        let actual = strengths(&wins, 2);
        assert!(near(&actual[..4], &[infinite, 3f64.ln(), 0.0, -infinite]) && actual[4].is_nan(), "{actual:?}");
        // seen from the one that always wins, all that it beat are infinitely weak
        let from_above = strengths(&wins, 0);
        assert!(near(&from_above[..4], &[0.0, -infinite, -infinite, -infinite]) && from_above[4].is_nan());
        // a cycle of wins makes all of them finite
        let cycle = vec![vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 1.0], vec![1.0, 0.0, 0.0]];
        assert!(near(&strengths(&cycle, 0), &[0.0; 3]));
    }
}
