//! The learning rate over a training.

use duel_spec::Schedule;

/// The rate of the optimizer's `step`-th update (from 0) of `total`: linear warm-up from 0 over
/// `warmup` of the steps, then constant, linear to 0, or half a cosine to 0.
///
/// # Source
/// `transformers.get_*_schedule_with_warmup`: the first step of a warm-up does not move.
pub fn rate(schedule: Schedule, peak: f64, warmup: f64, step: u64, total: u64) -> f64 {
    let warm = (warmup * total as f64).ceil();
    let step = step as f64;
    if step < warm {
        return peak * step / warm;
    }
    let done = ((step - warm) / (total as f64 - warm).max(1.0)).min(1.0);
    peak * match schedule {
        Schedule::Constant => 1.0,
        Schedule::Linear => 1.0 - done,
        Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
    }
}
