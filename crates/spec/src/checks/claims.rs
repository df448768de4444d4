//! Claims about arms and KL distances that the experiment does not have.

use crate::claim::{ArmRef, Claim};
use crate::document::Document;
use crate::experiment::Experiment;
use crate::record::REFERENCE;
use crate::{Error, Result};

pub(super) fn check_claims(experiment: &Experiment, document: &Document) -> Result<()> {
    for (index, claim) in experiment.claims.iter().enumerate() {
        let invalid = |key: &str, value: String, accepted: String| {
            document.out_of_range(format!("claims.{}.{key}", index + 1), value, accepted)
        };
        if claim.id.is_empty() || experiment.claims[..index].iter().any(|earlier| earlier.id == claim.id) {
            return Err(invalid("id", format!("`{}`", claim.id), "an id that no other claim has".into()));
        }
        check_arms(claim, experiment, &invalid)?;
        check_numbers(claim, &invalid)?;
    }
    Ok(())
}

/// A mistake at a key of a claim: its value, and what is accepted.
type Invalid<'a> = &'a dyn Fn(&str, String, String) -> Error;

fn check_arms(claim: &Claim, experiment: &Experiment, invalid: Invalid<'_>) -> Result<()> {
    let refuse = |value: String, accepted: &str| Err(invalid("arms", value, accepted.into()));
    let is_unknown =
        |side: &&ArmRef| side.run.is_none() && side.arm != REFERENCE && !experiment.arms.contains_key(&side.arm);
    if let Some(arm) = claim.arms.iter().find(is_unknown) {
        let known: Vec<&str> = experiment.arms.keys().map(String::as_str).collect();
        return refuse(
            format!("`{arm}` in claim {}", claim.id),
            &format!("arms of the experiment: {}", known.join(", ")),
        );
    }
    if claim.arms.first() == claim.arms.get(1) {
        return refuse(format!("`{}` twice in claim {}", claim.arms[0], claim.id), "two different arms");
    }
    if claim.arms.len() == 1 && !claim.metric.stands_alone() {
        let value = format!("`{}` alone in claim {}", claim.arms[0], claim.id);
        return refuse(value, "two arms: this metric compares one with another");
    }
    Ok(())
}

fn check_numbers(claim: &Claim, invalid: Invalid<'_>) -> Result<()> {
    let refuse = |key: &str, value: String, accepted: String| {
        Err(invalid(key, format!("{value} in claim {}", claim.id), accepted))
    };
    let distances = &claim.kl;
    let are_valid = !distances.is_empty()
        && distances[0] >= f64::MIN_POSITIVE
        && distances.is_sorted_by(|a, b| a < b)
        && distances.iter().all(|kl| kl.is_finite());
    if !are_valid {
        return refuse("kl", format!("{distances:?}"), "numbers above 0 in increasing order".into());
    }
    if claim.at_least > distances.len() {
        let accepted = format!("an integer of at most {}", distances.len());
        return refuse("at_least", claim.at_least.to_string(), accepted);
    }
    if !(0.0..=1e30).contains(&claim.smallest) {
        return refuse("smallest", claim.smallest.to_string(), "a number of at least 0 and at most 1e30".into());
    }
    Ok(())
}
