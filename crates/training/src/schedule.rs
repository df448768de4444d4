//! The learning rate over a training.

use duel_spec::{LearnerSettings, Schedule};

/// The rate of the optimizer's `step`-th update (from 0) of `total`: linear warm-up from 0 over
/// `warmup` of the steps, then constant, or linear or half a cosine down to `final_rate` of the peak.
///
/// # Source
/// `transformers.get_*_schedule_with_warmup`: the first step of a warm-up does not move.
pub fn rate(settings: &LearnerSettings, peak: f64, step: u64, total: u64) -> f64 {
    let warm = (settings.warmup * total as f64 - 1e-9).ceil(); // 7/20 of 20 is 7, whatever the rounding says
    let step = step as f64;
    if step < warm {
        return peak * step / warm;
    }
    let done = ((step - warm) / (total as f64 - warm).max(1.0)).min(1.0);
    let left = match settings.schedule {
        Schedule::Constant => return peak,
        Schedule::Linear => 1.0 - done,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
    };
    peak * (left * (1.0 - settings.final_rate) + settings.final_rate)
}
