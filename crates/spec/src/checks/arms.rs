//! Settings of an arm that do not fit each other.

use crate::Result;
use crate::arm::ArmPoint;
use crate::defaults::default_tables;
use crate::document::Document;
use crate::experiment::Experiment;
use crate::method::{Conflict, KlControl, MethodSettings, RolloutSettings};
use crate::pair_loss::{PairInput, PairLoss};
use crate::values::same;
use toml::Value;

/// Counts that must divide one another, so that every planned update can be made.
pub(super) fn check_updates(experiment: &Experiment, document: &Document) -> Result<()> {
    for (name, arm) in &experiment.arms {
        let is_range = |key: &&&str| arm.space.get(**key).is_some_and(|axis| axis.choices.is_empty());
        if let Some(key) = ["episodes", "minibatches", "group"].iter().find(is_range) {
            let accepted = "`choices`: not every number in a range is a divisor";
            return Err(document.out_of_range(format!("arms.{name}.space.{key}"), "low and high", accepted));
        }
        arm.representative_points().iter().try_for_each(|point| check_point(name, point, document))?;
    }
    Ok(())
}

fn check_point(arm: &str, point: &ArmPoint, document: &Document) -> Result<()> {
    let refuse = |key: &str, value: String, accepted: String| {
        Err(document.out_of_range(format!("arms.{arm}.{key}"), value, accepted))
    };
    if let MethodSettings::Dpo(dpo) = &point.method
        && dpo.batch_size == 1
        && dpo.takes(PairInput::Mismatched)
    {
        let word = PairLoss::Kto.entry().word;
        let accepted =
            format!("at least 2 with loss = \"{word}\", which estimates its KL from the other rows of the batch");
        return refuse("batch_size", "1".into(), accepted);
    }
    if point.method.beta() == 0.0 && matches!(point.method, MethodSettings::Dpo(_) | MethodSettings::OnlineDpo(_)) {
        let accepted = "a number above 0: the loss is a function of beta times log-ratios".into();
        return refuse("beta", "0".into(), accepted);
    }
    let Some(shared) = point.method.on_policy() else { return Ok(()) };
    let &RolloutSettings { episodes, minibatches, kl_control, kl_horizon, .. } = shared;
    let group = point.method.group();
    let (clip_dual, upper) = (shared.clip_dual, 1.0 + shared.upper_clip_range());
    if clip_dual.is_finite() && upper.is_infinite() {
        let accepted =
            "inf: without a clip above the ratio there is none to go beyond; set `clip_range_high` too".into();
        return refuse("clip_dual", clip_dual.to_string(), accepted);
    }
    if clip_dual.is_finite() && clip_dual <= upper {
        return refuse("clip_dual", clip_dual.to_string(), format!("above {upper}, where the clip ends, or inf: none"));
    }
    if shared.clip_cov_high < shared.clip_cov_low {
        let accepted = format!("at least clip_cov_low = {}", shared.clip_cov_low);
        return refuse("clip_cov_high", shared.clip_cov_high.to_string(), accepted);
    }
    let (entropy_coef, least, most) = (shared.entropy_coef, shared.entropy_coef_min, shared.entropy_coef_max);
    if shared.use_adaptive_entropy && most < least {
        return refuse("entropy_coef_max", most.to_string(), format!("at least entropy_coef_min = {least}"));
    }
    if shared.use_adaptive_entropy && !(least..=most).contains(&entropy_coef) {
        let accepted = format!("where it begins, from entropy_coef_min = {least} to entropy_coef_max = {most}");
        return refuse("entropy_coef", entropy_coef.to_string(), accepted);
    }
    if !episodes.is_multiple_of(group) && matches!(point.method, MethodSettings::OnlineDpo(_)) {
        let value = format!("{episodes} responses, an odd number");
        return refuse("episodes", value, "an even number: two responses to a prompt make a pair".into());
    }
    if !episodes.is_multiple_of(group) {
        let value = format!("{group} does not divide {episodes} episodes");
        return refuse("group", value, format!("a divisor of episodes: {}", divisors(episodes)));
    }
    if group == 1 && matches!(point.method, MethodSettings::Rloo(_) | MethodSettings::Grpo(_)) {
        return refuse("group", "1".into(), "at least 2: the baseline is computed within the group".into());
    }
    let (unit_size, units) = point.method.unit();
    let count = episodes / unit_size;
    if !count.is_multiple_of(minibatches) {
        let each = if unit_size == 1 { String::new() } else { format!(" of {unit_size} episodes each") };
        let value = format!("{minibatches} does not divide {count} {units}{each}");
        return refuse("minibatches", value, format!("a divisor of the {units}: {}", divisors(count)));
    }
    if kl_control == KlControl::Adaptive && kl_horizon < episodes as f64 {
        let value = format!("{kl_horizon}, with {episodes} episodes per rollout");
        let accepted = "at least `episodes`, so that one rollout changes beta by at most a fifth".into();
        return refuse("kl_horizon", value, accepted);
    }
    Ok(())
}

/// The divisors of a number up to 256, for messages.
fn divisors(n: usize) -> String {
    let divisors: Vec<String> = (1..=n.min(256)).filter(|d| n.is_multiple_of(*d)).map(|d| d.to_string()).collect();
    divisors.join(", ")
}

/// The setting, if any, because of which a batch's loss is more than the mean of its pairs' losses.
fn coupling_key(point: &ArmPoint) -> Option<&'static str> {
    match &point.method {
        MethodSettings::Dpo(dpo) if dpo.dynamic_beta != 0.0 => Some("dynamic_beta"),
        MethodSettings::Dpo(dpo) if dpo.dynamic_beta_filter < 1.0 => Some("dynamic_beta_filter"),
        MethodSettings::Dpo(dpo) if dpo.couples_pairs() => {
            Some(if dpo.loss_weights.is_empty() { "loss" } else { "loss_weights" })
        }
        _ => None,
    }
}

/// A setting of an arm that differs from its default and that none of the arm's points reads. Its origin does not matter: a
/// run's own copy of its experiment contains every value.
pub(super) fn check_unused(experiment: &Experiment, document: &Document) -> Result<()> {
    for (name, arm) in &experiment.arms {
        let points = arm.representative_points();
        let (_, methods) = default_tables();
        let defaults = &methods[points[0].method.name()];
        let is_changed =
            |(setting, value): &(&String, &Value)| defaults.get(setting).is_some_and(|default| !same(default, value));
        let changed = arm.settings.iter().filter(is_changed).map(|(setting, _)| (setting, ""));
        let axes = arm.grid.keys().map(|axis| (axis, "grid.")).chain(arm.space.keys().map(|axis| (axis, "space.")));
        for (setting, table) in changed.chain(axes) {
            let reasons: Option<Vec<String>> =
                points.iter().map(|point| point.method.inactive_because(setting)).collect();
            if let Some(with) = reasons.and_then(|reasons| reasons.into_iter().next()) {
                return Err(document.clash(format!("arms.{name}.{table}{setting}"), with, "it is not used"));
            }
        }
        if experiment.learner.accumulate > 1
            && let Some(key) = points.iter().find_map(coupling_key)
        {
            let why = "the loss depends on all pairs of a batch together, so the batch cannot be split";
            return Err(document.clash(format!("arms.{name}.{key}"), "learner.accumulate", why));
        }
        if let Some(Conflict { key, with, why }) = points.iter().find_map(|point| point.method.conflict()) {
            let table = match (arm.grid.contains_key(key), arm.space.contains_key(key)) {
                (true, _) => "grid.",
                (_, true) => "space.",
                _ => "",
            };
            return Err(document.clash(format!("arms.{name}.{table}{key}"), with, why));
        }
    }
    Ok(())
}
