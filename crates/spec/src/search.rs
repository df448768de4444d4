//! How an arm's settings are searched: the space that they are drawn from, and the trials that a search asks for.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::Value;

/// Who proposes an arm's points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Search {
    /// The file: the product of the grid's axes.
    Grid,
    /// Chance.
    Random,
    /// What was found so far (Bergstra et al. 2011).
    Tpe,
    /// Chance; all race over the same seeds, and those that fall behind are dropped (Birattari et al. 2002).
    Halving,
}

/// By what a point is chosen, on validation prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SelectionMetric {
    Gold,
    Proxy,
}

/// The same budget for every arm, spent on seeds that no comparison uses (docs/verdicts.md, Equal tuning).
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

/// Where one setting of a search lies: between two numbers, or among choices.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchDimension {
    pub low: Option<Value>,
    pub high: Option<Value>,
    #[serde(default)]
    pub log: bool,
    #[serde(default)]
    pub choices: Vec<Value>,
    /// The setting counts only where each of these others has one of its values.
    #[serde(default)]
    pub when: BTreeMap<String, Vec<Value>>,
}

/// Digits of a number that is drawn: its label then says all of it.
const DIGITS: usize = 3;

impl SearchDimension {
    /// Both ends, or all choices.
    pub fn ends(&self) -> Vec<Value> {
        match (&self.low, &self.high) {
            (Some(low), Some(high)) => vec![low.clone(), high.clone()],
            _ => self.choices.clone(),
        }
    }

    /// The value at a share of the way from the axis' beginning to its end, in [0, 1); numbers to three digits.
    pub fn at(&self, share: f64) -> Value {
        let Some((low, high)) = self.span() else {
            return self.choices[((share * self.choices.len() as f64) as usize).min(self.choices.len() - 1)].clone();
        };
        let inside = self.off_line(self.on_line(low) + share * (self.on_line(high) - self.on_line(low)));
        if self.is_whole() {
            return Value::Integer(inside.floor() as i64);
        }
        let rounded: f64 = format!("{:.*e}", DIGITS - 1, inside).parse().unwrap_or(inside);
        Value::Float(rounded.clamp(low, high))
    }

    /// The share at which a value lies, in [0, 1); `None` where it is none of the axis'.
    pub fn share(&self, value: &Value) -> Option<f64> {
        let Some((low, high)) = self.span() else {
            let place = self.choices.iter().position(|choice| crate::document::same(choice, value))?;
            return Some((place as f64 + 0.5) / self.choices.len() as f64);
        };
        // a whole number stands for all that is rounded down to it
        let x = number(value)? + if self.is_whole() { 0.5 } else { 0.0 };
        let share = (self.on_line(x) - self.on_line(low)) / (self.on_line(high) - self.on_line(low));
        (-1e-9..=1.0 + 1e-9).contains(&share).then(|| share.clamp(0.0, 1.0 - 1e-9))
    }

    /// Whether the setting counts beside those that are drawn, and what the arm itself says of the others.
    pub fn counts(&self, drawn: &SampledSettings, own: &toml::Table) -> bool {
        self.when.iter().all(|(setting, values)| {
            let found = drawn.get(setting).or_else(|| own.get(setting));
            found.is_some_and(|found| values.iter().any(|value| crate::document::same(value, found)))
        })
    }

    fn is_whole(&self) -> bool {
        matches!(self.low, Some(Value::Integer(_)))
    }

    /// From where to where, the end of whole numbers being beyond the last.
    fn span(&self) -> Option<(f64, f64)> {
        let (low, high) = (number(self.low.as_ref()?)?, number(self.high.as_ref()?)?);
        Some((low, if self.is_whole() { high + 1.0 } else { high }))
    }

    fn on_line(&self, x: f64) -> f64 {
        if self.log { x.ln() } else { x }
    }

    fn off_line(&self, x: f64) -> f64 {
        if self.log { x.exp() } else { x }
    }
}

/// A setting as a number; `None` of a word.
pub fn number(value: &Value) -> Option<f64> {
    value.as_float().or_else(|| value.as_integer().map(|i| i as f64))
}

/// One point of an arm, and the seeds that it is to run on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    pub arm: String,
    pub settings: SampledSettings,
    pub seeds: Vec<u64>,
    /// Whether it is looked at for a choice, or for the comparison itself.
    pub tuning: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(text: &str) -> SearchDimension {
        toml::from_str(text).expect("an axis")
    }

    #[test]
    fn an_axis_covers_its_span_evenly_and_a_share_leads_back() {
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
