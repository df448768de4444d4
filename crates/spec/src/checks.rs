//! Checks of an experiment: of single values before they are typed, then of how they fit together.

mod arms;
mod budget;
mod choices;
mod claims;
mod evaluation;
mod key_pattern;
mod limits;
mod ranges;
mod reward_model;
mod rewards;
mod search;
mod slurm;
mod world;

use crate::Result;
use crate::document::Document;
use crate::experiment::Experiment;

#[cfg(test)]
pub(crate) use ranges::{Constraint, range_of};

/// Checks each value by itself.
pub(crate) fn check_document(document: &Document) -> Result<()> {
    choices::check_choices(document)?;
    ranges::check_numbers(document)?;
    world::check_rules(document)
}

/// Checks the values together.
pub(crate) fn check_experiment(experiment: &Experiment, document: &Document) -> Result<()> {
    world::check_name(experiment, document)?;
    limits::check_limits(experiment, document)?;
    slurm::check_slurm(&experiment.slurm, document)?;
    world::check_heads(experiment, document)?;
    budget::check_budget(experiment, document)?;
    arms::check_updates(experiment, document)?;
    rewards::check_rewards(experiment, document)?;
    arms::check_unused(experiment, document)?;
    search::check_search(experiment, document)?;
    claims::check_claims(experiment, document)?;
    reward_model::check_reward_model(experiment, document)?;
    evaluation::check_evaluation(experiment, document)?;
    world::check_world(experiment, document)?;
    world::check_window(experiment, document)
}
