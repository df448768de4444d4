//! Settings of the evaluation that cannot be combined.

use crate::Result;
use crate::document::Document;
use crate::experiment::{EvaluationSettings, Experiment};
use crate::world::WorldKind;

pub(super) fn check_evaluation(experiment: &Experiment, document: &Document) -> Result<()> {
    let EvaluationSettings { best_of, best_of_samples, .. } = experiment.evaluation;
    let key = "evaluation.best_of_samples";
    let is_set = best_of_samples != EvaluationSettings::defaults().best_of_samples;
    match experiment.world.kind {
        WorldKind::Grammar if is_set => {
            Err(document.clash(key, "world.kind = \"grammar\"", "best-of-N is exact there, without samples"))
        }
        WorldKind::Grammar => Ok(()),
        _ if best_of == 1 && is_set => Err(document.clash(key, "evaluation.best_of = 1", "nothing is sampled for it")),
        _ if best_of > 1 && best_of_samples < best_of => {
            let accepted = format!("at least evaluation.best_of, {best_of}: the samples of one prompt");
            Err(document.out_of_range(key, best_of_samples.to_string(), accepted))
        }
        _ => Ok(()),
    }
}
