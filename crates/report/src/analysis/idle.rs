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
                "{name}: in {idle} of {} trainings no update changed the weights, so that the result is what it started from",
                updates.len()
            ));
        }
        let largest = left_out.into_iter().fold(0.0, f64::max);
        if largest >= ROWS_LEFT_OUT_WARNING {
            let percent = 100.0 * largest;
            warnings.push(format!("{name}: each epoch skipped {percent:.0}% of its rows, different ones each time"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_spec::metrics::{ROWS_LEFT_OUT, UPDATES};
    use duel_spec::{Clocks, NO_POINT, SHARED_ARM};

    /// Updates and shares of rows left out, at two seeds, of the reward model and of an arm.
    fn warnings_of(reward_model: [(f64, f64); 2], arm: [(f64, f64); 2]) -> Vec<String> {
        let mut run = HandMadeRun::new("name = 'idle'\nseeds = 2\n[arms.a]\nmethod = 'dpo'\nbeta = 0.3");
        let label = run.run().cells[0].point.label.clone();
        for seed in [0, 1] {
            run.evaluation("a", &label, seed, Clocks::default(), &[(metrics::KL, 1.0)]);
            let cells = [([SHARED_ARM, NO_POINT, "rm"], reward_model), (["a", &label, "train"], arm)];
            for (cell, values) in cells {
                let (updates, left_out) = values[seed as usize];
                run.row(cell, seed, Clocks::default(), UPDATES, updates);
                run.row(cell, seed, Clocks::default(), ROWS_LEFT_OUT, left_out);
            }
        }
        warnings(&run.finish()).into_iter().map(|warning| warning.replace(&label, "POINT")).collect()
    }

    #[test]
    fn trainings_without_updates_are_counted() {
        assert!(warnings_of([(9.0, 0.0); 2], [(9.0, 0.0); 2]).is_empty());
        assert_eq!(
            warnings_of([(9.0, 0.0), (0.0, 0.0)], [(0.0, 0.0); 2]),
            [
                "rm: in 1 of 2 trainings no update changed the weights, so that the result is what it started from",
                "a POINT: in 2 of 2 trainings no update changed the weights, so that the result is what it started from",
            ]
        );
    }

    #[test]
    fn rows_left_out_are_named_from_one_percent_on() {
        assert!(warnings_of([(9.0, 0.0099); 2], [(9.0, 0.0); 2]).is_empty());
        assert_eq!(
            warnings_of([(9.0, 0.01), (9.0, 0.0)], [(9.0, 0.1), (9.0, 0.25)]),
            [
                "rm: each epoch skipped 1% of its rows, different ones each time",
                "a POINT: each epoch skipped 25% of its rows, different ones each time",
            ]
        );
    }
}
