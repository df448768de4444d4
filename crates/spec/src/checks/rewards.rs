//! Several rewards of an arm: each once, with a weight and with rules that can be used.

use super::limits::{MAX_RULE_NUMBER, check_rule_numbers};
use crate::Result;
use crate::document::Document;
use crate::experiment::Experiment;
use crate::method::{RewardSettings, RewardSource, RewardTerm};
use crate::world::WorldKind;

/// The rewards of every arm that maximizes a sum.
pub(super) fn check_rewards(experiment: &Experiment, document: &Document) -> Result<()> {
    for (name, arm) in &experiment.arms {
        let key = format!("arms.{name}.reward");
        for point in arm.representative_points() {
            if let Some(RewardSettings::Sum(terms)) = point.method.on_policy().map(|shared| &shared.reward) {
                check_sum(&key, terms, document)?;
                if experiment.world.kind == WorldKind::Grammar
                    && terms.iter().any(|term| term.from == RewardSource::Rules)
                {
                    let why = "rules read text, which responses of grammar are not";
                    return Err(document.clash(key, "world.kind = \"grammar\"", why));
                }
            }
        }
    }
    Ok(())
}

fn check_sum(key: &str, terms: &[RewardTerm], document: &Document) -> Result<()> {
    let refuse = |value: String, accepted: &str| Err(document.out_of_range(key, value, accepted));
    if terms.iter().all(|term| term.weight == 0.0) {
        return refuse("no reward with a weight".into(), "at least one reward whose weight is not 0");
    }
    for (index, term) in terms.iter().enumerate() {
        let name = term.from.name();
        if terms[..index].iter().any(|earlier| earlier.from == term.from) {
            return refuse(format!("\"{name}\" twice"), "each reward once, with its weight");
        }
        if !(-MAX_RULE_NUMBER..=MAX_RULE_NUMBER).contains(&term.weight) {
            let accepted = format!("a number from -{MAX_RULE_NUMBER:e} to {MAX_RULE_NUMBER:e}");
            return refuse(format!("the weight of \"{name}\" is {}", term.weight), &accepted);
        }
        match (term.from, term.rules.is_empty()) {
            (RewardSource::Rules, true) => {
                return refuse("\"rules\" without rules".into(), "`rules` beside it, as [judge] has them");
            }
            (RewardSource::Rules, false) | (_, true) => {}
            (_, false) => return refuse(format!("rules of \"{name}\""), "rules with from = \"rules\" alone"),
        }
        check_rule_numbers(key, &term.rules, document)?;
    }
    Ok(())
}
