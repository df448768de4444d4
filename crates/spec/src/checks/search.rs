//! Searches that cannot be run, or whose budgets would differ between arms.

use crate::arm::Arm;
use crate::document::Document;
use crate::experiment::Experiment;
use crate::search::Search;
use crate::{Error, Result};

pub(super) fn check_search(experiment: &Experiment, document: &Document) -> Result<()> {
    let (seeds, tuning) = (experiment.seed_list(), experiment.tuning_seeds());
    if experiment.is_tuned() && tuning.iter().any(|seed| seeds.contains(seed)) {
        return Err(document.clash("tuning.seed", "seed", "a seed used for tuning cannot be used in the comparison"));
    }
    for (name, arm) in &experiment.arms {
        match arm.search {
            Search::Grid => check_grid(name, arm, experiment, document)?,
            _ => check_space(name, arm, experiment, document)?,
        }
    }
    Ok(())
}

fn check_grid(name: &str, arm: &Arm, experiment: &Experiment, document: &Document) -> Result<()> {
    let clash = |key: &str, with: &str, why: &str| Err(document.clash(format!("arms.{name}.{key}"), with, why));
    let tuning = &experiment.tuning;
    if !arm.space.is_empty() {
        return clash("space", "search = \"grid\"", "a grid search does not draw from a space");
    }
    let points = arm.grid_settings().len();
    if experiment.is_tuned() && points != tuning.configurations {
        let why = format!("the grid has {points} points, but every arm tries {}", tuning.configurations);
        return clash("grid", "tuning.configurations", &why);
    }
    if experiment.is_tuned() && tuning.flops.is_finite() {
        return clash("search", "tuning.flops", "a grid is always run completely");
    }
    Ok(())
}

fn check_space(name: &str, arm: &Arm, experiment: &Experiment, document: &Document) -> Result<()> {
    let key = |key: &str| format!("arms.{name}.{key}");
    let clash = |setting: &str, with: &str, why: &str| Err(document.clash(key(setting), with, why));
    if !arm.grid.is_empty() {
        return clash("grid", "search", "its points are drawn from `space`");
    }
    if arm.space.is_empty() {
        return Err(Error::EmptyGrid { key: key("space"), span: document.span(&key("search")) });
    }
    if !experiment.is_tuned() {
        return clash("search", "tuning.configurations = 0", "the number of points to draw is not set");
    }
    if arm.search == Search::Halving && experiment.tuning.seeds < 2 {
        return clash("search", "tuning.seeds = 1", "no point can be dropped on the evidence of a single seed");
    }
    Ok(())
}
