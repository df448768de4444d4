//! Trainings that did less than configured, by their metrics.

use crate::analysis::run::Run;
use duel_spec::metrics;

/// The share of rows left out of an epoch from which on a warning is given.
pub const ROWS_LEFT_OUT_WARNING: f64 = 0.01;

/// Shared stages that train something.
const SHARED: [&str; 3] = ["base", "sft", "rm"];

/// Warnings about trainings without an effective update, or with rows in no batch; runs of an older format record neither.
pub(crate) fn warnings(run: &Run) -> Vec<String> {
    let shared = SHARED.map(|stage| {
        let values = |metric| run.shared_metric(stage, metric);
        (stage.to_string(), values(metrics::UPDATES), values(metrics::ROWS_LEFT_OUT))
    });
    let points = run.points.iter().map(|point| {
        let values = |metric| run.last_training_values(point, metric);
        (format!("{} {}", point.arm, point.label), values(metrics::UPDATES), values(metrics::ROWS_LEFT_OUT))
    });
    let mut warnings = vec![];
    for (name, updates, left_out) in shared.into_iter().chain(points) {
        let idle = updates.iter().filter(|&&updates| updates == 0.0).count();
        if idle > 0 {
            warnings.push(format!(
                "{name}: in {idle} of {} trainings no update moved it, so that it is what it began as",
                updates.len()
            ));
        }
        let largest = left_out.into_iter().fold(0.0, f64::max);
        if largest >= ROWS_LEFT_OUT_WARNING {
            let percent = 100.0 * largest;
            warnings.push(format!("{name}: {percent:.0}% of its rows are in no batch of an epoch, other ones in each"));
        }
    }
    warnings
}
