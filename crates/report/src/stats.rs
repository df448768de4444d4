//! Statistics over seeds, the unit of replication (claims §5).

use statrs::distribution::{ContinuousCDF, StudentsT};
use std::fmt;

/// Arithmetic mean; NaN of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Standard deviation with `n − 1`; NaN of fewer than two.
pub fn sd(values: &[f64]) -> f64 {
    let m = mean(values);
    (values.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)).sqrt()
}

/// A mean over seeds with its 95% t-interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub mean: f64,
    /// Half width of the interval; `None` with fewer than two seeds.
    pub half_width: Option<f64>,
    pub n: usize,
}

impl Estimate {
    /// `mean ± t_{.975, n−1} · sd / √n`; `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let half_width = (n > 1).then(|| {
            let t = StudentsT::new(0.0, 1.0, n as f64 - 1.0).expect("n - 1 > 0").inverse_cdf(0.975);
            t * sd(values) / (n as f64).sqrt()
        });
        Some(Self { mean: mean(values), half_width, n })
    }

    /// Of the differences `a − b`, paired by place.
    pub fn of_differences(a: &[f64], b: &[f64]) -> Option<Self> {
        Self::of(&a.iter().zip(b).map(|(a, b)| a - b).collect::<Vec<_>>())
    }

    /// Whether the interval lies on one side of zero; `None` without an interval.
    pub fn excludes_zero(&self) -> Option<bool> {
        self.half_width.map(|h| self.mean.abs() > h)
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(2);
        match self.half_width {
            // a value that is the same for every seed was set, not measured
            Some(h) if h > 0.0 => write!(f, "{:.places$} ± {h:.places$}", self.mean),
            _ => write!(f, "{:.places$}", self.mean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: values 1, 2, 4, 5 have mean 3, sd √(10/3) = 1.825742, t_{.975,3} = 3.182446,
    /// half width 3.182446 · 1.825742 / 2 = 2.905162.
    #[test]
    fn a_t_interval_by_hand() {
        let found = Estimate::of(&[1.0, 2.0, 4.0, 5.0]).expect("four values");
        assert!((found.mean - 3.0).abs() < 1e-12);
        assert!((found.half_width.expect("two or more") - 2.905162).abs() < 1e-5);
        assert_eq!(found.excludes_zero(), Some(true));
        assert_eq!(format!("{found:.1}"), "3.0 ± 2.9");
    }

    #[test]
    fn one_seed_has_no_interval() {
        let found = Estimate::of(&[2.0]).expect("one value");
        assert_eq!((found.half_width, found.excludes_zero()), (None, None));
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn pairing_removes_what_seeds_share() {
        let found = Estimate::of_differences(&[1.5, 10.5, -3.5], &[1.0, 10.0, -4.0]).expect("three pairs");
        assert!((found.mean - 0.5).abs() < 1e-12 && found.half_width.expect("three") < 1e-12);
    }
}
