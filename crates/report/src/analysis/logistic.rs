//! Logistic regression on counts of wins that need not be whole, with a ridge, by Newton's method.

/// Comparisons whose regressors are the same.
#[derive(Debug, Clone)]
pub(crate) struct LogisticRow {
    /// Regressors.
    pub(crate) x: Vec<f64>,
    /// A part of the log-odds that is known.
    pub(crate) offset: f64,
    /// How many comparisons these are, and how many of them are won.
    pub(crate) mass: f64,
    pub(crate) won: f64,
}

/// Probability at these log-odds.
pub(crate) fn sigmoid(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

/// `ln(1 + eˣ)`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

impl LogisticRow {
    fn log_odds(&self, weights: &[f64]) -> f64 {
        self.offset + self.x.iter().zip(weights).map(|(x, w)| x * w).sum::<f64>()
    }
}

/// Penalised log-likelihood of weights.
fn log_likelihood(rows: &[LogisticRow], ridge: &[f64], weights: &[f64]) -> f64 {
    let of_row = |row: &LogisticRow| {
        let log_odds = row.log_odds(weights);
        row.won * log_odds - row.mass * softplus(log_odds)
    };
    let penalty: f64 = ridge.iter().zip(weights).map(|(ridge, w)| ridge * w * w / 2.0).sum();
    rows.iter().map(of_row).sum::<f64>() - penalty
}

/// The gradient of the log-likelihood, and minus its Hessian.
#[derive(Debug, Clone)]
pub(crate) struct Derivatives {
    pub(crate) gradient: Vec<f64>,
    pub(crate) curvature: Vec<Vec<f64>>,
}

impl Derivatives {
    /// Of the penalty alone.
    pub(crate) fn of_ridge(ridge: &[f64], weights: &[f64]) -> Self {
        let gradient = ridge.iter().zip(weights).map(|(ridge, w)| -ridge * w).collect();
        let mut curvature = vec![vec![0.0; ridge.len()]; ridge.len()];
        ridge.iter().enumerate().for_each(|(k, ridge)| curvature[k][k] = *ridge);
        Self { gradient, curvature }
    }

    /// Adds those of a row.
    pub(crate) fn add_row(&mut self, row: &LogisticRow, weights: &[f64]) {
        let p = sigmoid(row.log_odds(weights));
        let (residual, variance) = (row.won - row.mass * p, row.mass * p * (1.0 - p));
        for (i, x) in row.x.iter().enumerate().filter(|(_, x)| **x != 0.0) {
            self.gradient[i] += residual * x;
            row.x.iter().enumerate().for_each(|(j, y)| self.curvature[i][j] += variance * x * y);
        }
    }

    /// Adds others.
    pub(crate) fn add(&mut self, other: &Self) {
        self.gradient.iter_mut().zip(&other.gradient).for_each(|(a, b)| *a += b);
        let entries = self.curvature.iter_mut().flatten().zip(other.curvature.iter().flatten());
        entries.for_each(|(a, b)| *a += b);
    }

    /// Newton's step; `None` where the curvature is singular.
    pub(crate) fn newton_step(self) -> Option<Vec<f64>> {
        solve(self.curvature, self.gradient)
    }
}

/// Largest change of a weight at which Newton's method has converged, log-odds.
const CONVERGED: f64 = 1e-9;
/// Steps of Newton's method; ten are usual.
const MAX_STEPS: usize = 100;

/// The weights `w` that maximise `Σ won·η − mass·ln(1 + e^η) − ½ Σ ridgeₖ·wₖ²` with `η = offset + w·x`, from `start` on; `None`
/// where there is no such maximum.
pub(crate) fn fit_logistic(rows: &[LogisticRow], ridge: &[f64], start: &[f64]) -> Option<Vec<f64>> {
    let mut weights = start.to_vec();
    let mut value = log_likelihood(rows, ridge, &weights);
    for _ in 0..MAX_STEPS {
        let mut derivatives = Derivatives::of_ridge(ridge, &weights);
        rows.iter().for_each(|row| derivatives.add_row(row, &weights));
        let step = derivatives.newton_step()?;
        let moved = |scale: f64| weights.iter().zip(&step).map(|(w, s)| w + scale * s).collect::<Vec<f64>>();
        if step.iter().all(|s| s.abs() <= CONVERGED) {
            return Some(moved(1.0));
        }
        // far from the maximum a whole step may be too long
        let halves = (0..60).map(|k| moved(0.5f64.powi(k)));
        let mut candidates = halves.map(|w| (log_likelihood(rows, ridge, &w), w));
        let worse_by_rounding = 1e-12 * value.abs().max(1.0);
        (value, weights) = candidates.find(|(candidate, _)| *candidate >= value - worse_by_rounding)?;
    }
    None
}

/// Pivots of which magnitude, as a share of the largest entry, are zero.
const SINGULAR: f64 = 1e-14;

/// The `x` of `matrix · x = right`, by Gaussian elimination with pivots; `None` for a singular matrix.
pub(crate) fn solve(mut matrix: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let n = right.len();
    let largest = matrix.iter().flatten().fold(0.0, |m: f64, x| m.max(x.abs()));
    for k in 0..n {
        let pivot = (k..n).max_by(|&a, &b| matrix[a][k].abs().total_cmp(&matrix[b][k].abs()))?;
        let size = matrix[pivot][k].abs();
        if size.is_nan() || size <= SINGULAR * largest {
            return None;
        }
        matrix.swap(k, pivot);
        right.swap(k, pivot);
        let (above, below) = matrix.split_at_mut(k + 1);
        let (pivot_row, pivot_right) = (&above[k], right[k]);
        for (row, right) in below.iter_mut().zip(&mut right[k + 1..]) {
            let factor = row[k] / pivot_row[k];
            row.iter_mut().zip(pivot_row).skip(k).for_each(|(x, pivot)| *x -= factor * pivot);
            *right -= factor * pivot_right;
        }
    }
    for k in (0..n).rev() {
        let known: f64 = (k + 1..n).map(|column| matrix[k][column] * right[column]).sum();
        right[k] = (right[k] - known) / matrix[k][k];
    }
    Some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(x: &[f64], mass: f64, won: f64) -> LogisticRow {
        LogisticRow { x: x.to_vec(), offset: 0.0, mass, won }
    }

    /// 2x + y = 5, x + 3y = 10: x = 1, y = 3; the first pivot of the second system is zero.
    #[test]
    fn linear_equations_by_hand() {
        let near = |x: Option<Vec<f64>>, expected: [f64; 2]| {
            x.is_some_and(|x| x.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12))
        };
        assert!(near(solve(vec![vec![2.0, 1.0], vec![1.0, 3.0]], vec![5.0, 10.0]), [1.0, 3.0]));
        assert!(near(solve(vec![vec![0.0, 2.0], vec![4.0, 1.0]], vec![6.0, 7.0]), [1.0, 3.0]));
        assert_eq!(solve(vec![vec![1.0, 2.0], vec![2.0, 4.0]], vec![1.0, 2.0]), None);
        assert_eq!(solve(vec![vec![f64::NAN]], vec![1.0]), None);
    }

    /// An intercept is the log-odds of the share; a slope between two groups the difference of theirs, whatever the start.
    #[test]
    fn a_saturated_regression_has_the_log_odds_of_its_groups() {
        let odds = |share: f64| (share / (1.0 - share)).ln();
        let rows = [row(&[1.0, 0.0], 8.0, 2.0), row(&[1.0, 1.0], 5.0, 4.5)];
        for start in [[0.0, 0.0], [-6.0, 9.0]] {
            let weights = fit_logistic(&rows, &[0.0; 2], &start).expect("a maximum");
            assert!((weights[0] - odds(0.25)).abs() < 1e-9 && (weights[1] - (odds(0.9) - odds(0.25))).abs() < 1e-9);
        }
        // a known part of the log-odds is taken off
        let known = [LogisticRow { offset: 0.7, ..row(&[1.0], 8.0, 2.0) }];
        assert!((fit_logistic(&known, &[0.0], &[0.0]).expect("a maximum")[0] - (odds(0.25) - 0.7)).abs() < 1e-9);
    }

    /// All won: without a ridge there is no maximum; with one of λ the maximum solves n·(1 − σ(w)) = λ·w.
    #[test]
    fn a_ridge_makes_what_always_wins_finite() {
        let rows = [row(&[1.0], 10.0, 10.0)];
        assert_eq!(fit_logistic(&rows, &[0.0], &[0.0]), None);
        let w = fit_logistic(&rows, &[0.1], &[0.0]).expect("a maximum")[0];
        assert!((10.0 * (1.0 - sigmoid(w)) - 0.1 * w).abs() < 1e-9 && w > 2.0, "{w}");
        assert_eq!(fit_logistic(&[], &[0.0], &[0.0]), None, "nothing was compared");
        assert_eq!(fit_logistic(&[], &[1.0], &[0.5]), Some(vec![0.0]));
    }
}
