//! Settings of the reward model that cannot be combined.

use crate::Result;
use crate::document::{Document, Origin};
use crate::experiment::Experiment;
use crate::stages::{RmCheckpointSelection, RmModel, RmStage, RmStart};
use crate::world::WorldKind;

pub(super) fn check_reward_model(experiment: &Experiment, document: &Document) -> Result<()> {
    let (is_text, text_world) = match experiment.world.kind {
        WorldKind::Grammar => (false, ""),
        WorldKind::Reviews => (true, "world.kind = \"reviews\""),
        WorldKind::Rows => (true, "world.kind = \"rows\""),
    };
    if experiment.stages.pairs.max_edits.is_finite() && is_text {
        let why = "two long texts are never so close";
        return Err(document.clash("stages.pairs.max_edits", text_world, why));
    }
    let (rm, defaults) = (&experiment.stages.rm, RmStage::defaults());
    let is_linear = rm.model == RmModel::Linear;
    let keeps_last = rm.keep == RmCheckpointSelection::Last;
    let (is_pretrained, is_frozen) = (rm.is_pretrained(), rm.steps == 0);
    if is_frozen && !is_pretrained {
        let accepted = "at least 1; with stages.rm.from also 0: it scores as it is";
        return Err(document.out_of_range("stages.rm.steps", "0", accepted));
    }
    // the default is that of a new head: as many steps at its rate would undo what the model has learned
    if is_pretrained && document.origin("stages.rm.steps") == Origin::Default {
        let accepted = "with stages.rm.from: 0, it scores as it is, or how many steps it is trained further";
        return Err(document.missing("stages.rm.steps", accepted));
    }
    let (from, frozen, untrained) = ("from", "steps = 0", "nothing is trained");
    let (linear, not_used) = ("model = \"linear\"", "it is not used");
    // the key, whether it conflicts, with what, why
    let conflicts = [
        (from, is_pretrained && !is_text, "world.kind = \"grammar\"", "it reads text, and grammar has only token ids"),
        (from, is_pretrained && is_linear, linear, "it is a transformer"),
        ("start", is_pretrained && rm.start != defaults.start, from, "its body is that of the directory"),
        ("score", is_pretrained && rm.score != defaults.score, from, "a classifier scores the last token"),
        ("lora", is_frozen && rm.lora, frozen, untrained),
        ("ensemble", is_frozen && rm.ensemble > 1, frozen, "all members would be the same"),
        ("margin", is_frozen && rm.margin != defaults.margin, frozen, untrained),
        ("centring", is_frozen && rm.centring != defaults.centring, frozen, untrained),
        ("label_smoothing", is_frozen && rm.label_smoothing != defaults.label_smoothing, frozen, untrained),
        ("tie_margin", is_frozen && rm.tie_margin != defaults.tie_margin, frozen, untrained),
        ("keep", is_frozen && !keeps_last, frozen, untrained),
        ("drop_last", is_frozen && !rm.drop_last, frozen, untrained),
        ("drop_last", is_linear && !rm.drop_last, linear, "it is fitted on all rows at once"),
        ("model", is_linear && is_text, text_world, "the features of the linear model are those of grammar"),
        ("start", rm.start == RmStart::Base && !is_text, "world.kind = \"grammar\"", "grammar has no base model"),
        ("start", is_linear && rm.start != defaults.start, linear, "it has no body to initialize"),
        ("score", is_linear && rm.score != defaults.score, linear, "it gives one score per response"),
        ("lora", is_linear && rm.lora, linear, "it has no body to adapt"),
        ("lora_rank", !rm.lora && rm.lora_rank != defaults.lora_rank, "lora = false", not_used),
        ("lora_alpha", !rm.lora && rm.lora_alpha != defaults.lora_alpha, "lora = false", not_used),
        ("ensemble", is_linear && rm.ensemble > 1, linear, "its fit is unique, so all members would be the same"),
        ("tie_margin", is_linear && rm.tie_margin > 0.0, linear, "its fit has no term for ties"),
        (
            "tie_margin",
            rm.tie_margin > 0.0 && rm.label_smoothing > 0.0,
            "label_smoothing",
            "the loss for tied rows has no term for flipped labels",
        ),
        ("centring", is_linear && rm.centring != defaults.centring, linear, not_used),
        ("keep", is_linear && !keeps_last, linear, "it is fitted in one step"),
        ("patience", keeps_last && rm.patience != defaults.patience, "keep = \"last\"", not_used),
        (
            "ensemble_score",
            rm.ensemble == 1 && rm.ensemble_score != defaults.ensemble_score,
            "ensemble = 1",
            "the mean and the worst of a single model are the same",
        ),
    ];
    match conflicts.into_iter().find(|(_, is_conflict, ..)| *is_conflict) {
        Some((key, _, with, why)) => Err(document.clash(format!("stages.rm.{key}"), with, why)),
        None => Ok(()),
    }
}
