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
