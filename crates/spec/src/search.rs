//! The search over an arm's settings: the space they are drawn from, and the trials of a search.

use crate::values::{number, same};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::Value;

/// How an arm's points are proposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Search {
    /// The product of the grid's axes.
    Grid,
    /// At random.
    Random,
    /// Tree-structured Parzen estimator (Bergstra et al. 2011).
    Tpe,
    /// At random; points are dropped as they fall behind over the same seeds (Birattari et al. 2002).
    Halving,
}

/// The reward on validation prompts by which a point is selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelectionMetric {
    Gold,
    Proxy,
}

/// The same budget for every arm, on seeds that no comparison uses (docs/verdicts.md, Equal tuning).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TuningSettings {
    pub configurations: usize,
    pub seeds: u64,
    pub seed: u64,
    pub flops: f64,
    pub kl: f64,
    pub choose: SelectionMetric,
    pub at_once: usize,
}

/// Values of some settings of an arm, by name.
pub type SampledSettings = BTreeMap<String, Value>;

/// One dimension of a search space: a range of numbers, or choices.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchDimension {
    pub low: Option<Value>,
    pub high: Option<Value>,
    #[serde(default)]
    pub log: bool,
    #[serde(default)]
    pub choices: Vec<Value>,
    /// Conditional dimensions: active only where each of these settings has one of these values.
    #[serde(default)]
    pub when: BTreeMap<String, Vec<Value>>,
}

/// Significant digits of a drawn number, so that its label gives it exactly.
const DIGITS: usize = 3;

impl SearchDimension {
    /// Both ends of the range, or all choices.
    pub fn ends(&self) -> Vec<Value> {
        match (&self.low, &self.high) {
            (Some(low), Some(high)) => vec![low.clone(), high.clone()],
            _ => self.choices.clone(),
        }
    }

    /// The value at `share` of the range, in [0, 1); numbers are rounded to three significant digits.
    pub fn at(&self, share: f64) -> Value {
        let Some((low, high)) = self.range() else {
            return self.choices[((share * self.choices.len() as f64) as usize).min(self.choices.len() - 1)].clone();
        };
        let x = self.unscaled(self.scaled(low) + share * (self.scaled(high) - self.scaled(low)));
        if self.is_integer() {
            return Value::Integer(x.floor() as i64);
        }
        let rounded: f64 = format!("{:.*e}", DIGITS - 1, x).parse().unwrap_or(x);
        Value::Float(rounded.clamp(low, high))
    }

    /// The share at which a value lies, in [0, 1); `None` for a value outside the dimension.
    pub fn share(&self, value: &Value) -> Option<f64> {
        let Some((low, high)) = self.range() else {
            let index = self.choices.iter().position(|choice| same(choice, value))?;
            return Some((index as f64 + 0.5) / self.choices.len() as f64);
        };
        // an integer represents the interval that is rounded down to it
        let x = number(value)? + if self.is_integer() { 0.5 } else { 0.0 };
        let share = (self.scaled(x) - self.scaled(low)) / (self.scaled(high) - self.scaled(low));
        (-1e-9..=1.0 + 1e-9).contains(&share).then(|| share.clamp(0.0, 1.0 - 1e-9))
    }

    /// Whether the dimension is active, given the settings drawn so far and the arm's own.
    pub fn is_active(&self, drawn: &SampledSettings, arm: &toml::Table) -> bool {
        self.when.iter().all(|(setting, values)| {
            let current = drawn.get(setting).or_else(|| arm.get(setting));
            current.is_some_and(|current| values.iter().any(|value| same(value, current)))
        })
    }

    fn is_integer(&self) -> bool {
        matches!(self.low, Some(Value::Integer(_)))
    }

    /// The range; that of integers ends one beyond the last.
    fn range(&self) -> Option<(f64, f64)> {
        let (low, high) = (number(self.low.as_ref()?)?, number(self.high.as_ref()?)?);
        Some((low, if self.is_integer() { high + 1.0 } else { high }))
    }

    fn scaled(&self, x: f64) -> f64 {
        if self.log { x.ln() } else { x }
    }

    fn unscaled(&self, x: f64) -> f64 {
        if self.log { x.exp() } else { x }
    }
}

/// One point of an arm, and the seeds to run it on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    pub arm: String,
    pub settings: SampledSettings,
    pub seeds: Vec<u64>,
    /// Whether it belongs to the search for settings, not to the comparison.
    pub tuning: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(text: &str) -> SearchDimension {
        toml::from_str(text).expect("an axis")
    }

    #[test]
    fn an_axis_covers_its_range_evenly_and_share_inverts_at() {
        let rate = axis("low = 1e-4\nhigh = 1e-2\nlog = true");
        assert_eq!(rate.at(0.5), Value::Float(1e-3));
        assert_eq!(rate.at(0.123_456), Value::Float(1.77e-4));
        let epochs = axis("low = 1\nhigh = 4");
        let drawn: Vec<Value> = [0.0, 0.24, 0.26, 0.51, 0.99].map(|share| epochs.at(share)).to_vec();
        assert_eq!(drawn, [1, 1, 2, 3, 4].map(Value::Integer));
        let loss = axis("choices = [\"ipo\", \"sigmoid\"]");
        assert_eq!(loss.at(0.6), Value::String("sigmoid".into()));
        for axis in [rate, epochs, loss] {
            for share in [0.0, 0.1, 0.3, 0.5, 0.77, 0.999] {
                let value = axis.at(share);
                assert_eq!(axis.at(axis.share(&value).expect("its own")), value);
            }
            assert_eq!(axis.share(&Value::Integer(77)), None);
        }
    }
}
