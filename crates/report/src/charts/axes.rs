//! Axes: their ends, and ticks at round values.

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use std::ops::Range;

/// How values map to an axis.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scale {
    Linear,
    Log,
}

/// An axis with the given ticks, in log10 of the values on a logarithmic scale.
#[derive(Clone)]
pub(super) struct Axis {
    pub(super) range: Range<f64>,
    pub(super) ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { vec![] } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// The ends of an axis: padded by a share of its length, or by at least `least_padding` of the largest magnitude.
pub(super) fn padded_range(
    values: impl Iterator<Item = f64>,
    padding: f64,
    least_padding: impl Fn(f64) -> f64,
) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    if low > high {
        return (0.0, 1.0);
    }
    let margin = ((high - low) * padding).max(least_padding(low.abs().max(high.abs())));
    (low - margin, high + margin)
}

/// Round values within a range, about `count` of them.
pub(super) fn round_ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let raw = (high - low) / count as f64;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|s| *s >= raw).unwrap_or(magnitude * 10.0);
    let first = (low / step).ceil() as i64;
    (first..=(high / step).floor() as i64).map(|k| k as f64 * step).collect()
}

/// Exponents to mark on a logarithmic axis: decades, and threes between them where decades are few.
pub(super) fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades: Vec<f64> = (low.ceil() as i64..=high.floor() as i64).map(|k| k as f64).collect();
    if decades.len() >= 3 {
        return decades;
    }
    let mantissas: &[f64] = if high - low < 1.0 { &[1.0, 2.0, 3.0, 5.0] } else { &[1.0, 3.0] };
    let ticks: Vec<f64> = (low.floor() as i64..=high.ceil() as i64)
        .flat_map(|k| mantissas.iter().map(move |m| k as f64 + m.log10()))
        .filter(|x| (low..=high).contains(x))
        .collect();
    if ticks.len() >= 2 {
        return ticks;
    }
    round_ticks(10f64.powf(low), 10f64.powf(high), 4).into_iter().map(f64::log10).filter(|x| x.is_finite()).collect()
}

/// Decades on either side of a single value on a logarithmic axis.
pub(super) const LOG_PADDING: f64 = 0.3;

/// Padding on either side of a single value of this magnitude on a linear axis.
pub(super) fn single_value_padding(magnitude: f64) -> f64 {
    if magnitude > 0.0 { magnitude * 1e-3 } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(round_ticks(-0.1, 2.2, 6), vec![0.0, 0.5, 1.0, 1.5, 2.0]);
        assert_eq!(log_ticks(2.7, 6.2), vec![3.0, 4.0, 5.0, 6.0]);
        assert!(log_ticks(1.1, 1.9).len() >= 2);
    }
}
