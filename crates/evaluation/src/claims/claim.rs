//! A claim and the numbers that test it.

use serde::Serialize;

/// One number of a claim, expected and measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClaimNumber {
    /// The claim, `A1` and so on.
    pub id: &'static str,
    /// What is measured.
    pub quantity: String,
    pub expected: f64,
    pub found: f64,
    /// Largest distance from `expected`; one-sided according to `bound`.
    pub tolerance: f64,
    pub bound: Bound,
    pub holds: bool,
}

/// How a number is compared with its expected value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    Near,
    AtMost,
    AtLeast,
}

/// A claim with its numbers so far.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExactClaim {
    pub id: &'static str,
    pub statement: &'static str,
    pub findings: Vec<ClaimNumber>,
}

impl ExactClaim {
    /// Without numbers.
    pub fn new(id: &'static str, statement: &'static str) -> Self {
        Self { id, statement, findings: vec![] }
    }

    /// Whether every number is within its bound; a claim without numbers does not hold.
    pub fn holds(&self) -> bool {
        !self.findings.is_empty() && self.findings.iter().all(|f| f.holds)
    }

    fn push(mut self, quantity: impl Into<String>, expected: f64, found: f64, tolerance: f64, bound: Bound) -> Self {
        let holds = match bound {
            Bound::Near => (found - expected).abs() <= tolerance,
            Bound::AtMost => found <= expected + tolerance,
            Bound::AtLeast => found >= expected - tolerance,
        };
        let quantity = quantity.into();
        self.findings.push(ClaimNumber { id: self.id, quantity, expected, found, tolerance, bound, holds });
        self
    }

    /// The number must be within `tolerance` of `expected`; NaN never is.
    #[must_use]
    pub fn near(self, quantity: impl Into<String>, expected: f64, found: f64, tolerance: f64) -> Self {
        self.push(quantity, expected, found, tolerance, Bound::Near)
    }

    /// The number must not exceed `bound` by more than `tolerance`.
    #[must_use]
    pub fn at_most(self, quantity: impl Into<String>, bound: f64, found: f64, tolerance: f64) -> Self {
        self.push(quantity, bound, found, tolerance, Bound::AtMost)
    }

    /// The number must not fall below `bound` by more than `tolerance`.
    #[must_use]
    pub fn at_least(self, quantity: impl Into<String>, bound: f64, found: f64, tolerance: f64) -> Self {
        self.push(quantity, bound, found, tolerance, Bound::AtLeast)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_holds_when_it_has_numbers_and_each_is_within_its_bound() {
        let claim = || ExactClaim::new("A1", "");
        assert!(!claim().holds());
        assert!(claim().near("", 1.0, 1.0, 0.0).holds());
        assert!(!claim().near("", 1.0, 1.0, 0.0).near("", 1.0, 2.0, 0.0).holds());
        assert!(!claim().near("", 1.0, 2.0, 0.0).near("", 1.0, 1.0, 0.0).holds());
    }

    #[test]
    fn a_bound_is_passed_by_its_tolerance_and_no_further() {
        // (found, near, at most, at least) of 2 with a tolerance of 1/2
        let cases = [
            (1.4375, false, true, false),
            (1.5, true, true, true),
            (2.0, true, true, true),
            (2.5, true, true, true),
            (2.5625, false, false, true),
            (f64::NAN, false, false, false),
        ];
        for (found, near, at_most, at_least) in cases {
            let claim = || ExactClaim::new("A1", "");
            assert_eq!(claim().near("", 2.0, found, 0.5).holds(), near, "{found}");
            assert_eq!(claim().at_most("", 2.0, found, 0.5).holds(), at_most, "{found}");
            assert_eq!(claim().at_least("", 2.0, found, 0.5).holds(), at_least, "{found}");
        }
    }
}
