//! The learning rate over a training.

use duel_spec::{LearnerSettings, Schedule};

/// The learning rate of update `step` (from 0) of `total`: linear warm-up from 0 over `warmup` of the steps, then constant,
/// or linear or half a cosine down to `final_rate` times the peak.
///
/// # Source
/// `transformers.get_*_schedule_with_warmup`: the first step of a warm-up has rate 0.
pub fn rate(settings: &LearnerSettings, peak: f64, step: u64, total: u64) -> f64 {
    let warm = (settings.warmup * total as f64 - 1e-9).ceil(); // 7/20 of 20 is 7, despite rounding
    let step = step as f64;
    if step < warm {
        return peak * step / warm;
    }
    let progress = ((step - warm) / (total as f64 - warm).max(1.0)).min(1.0);
    let decay = match settings.schedule {
        Schedule::Constant => return peak,
        Schedule::Linear => 1.0 - progress,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
    };
    peak * (decay * (1.0 - settings.final_rate) + settings.final_rate)
}
