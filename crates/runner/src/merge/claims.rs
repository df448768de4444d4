//! The claims of a merged run.

use crate::error::{Error, Result};
use crate::merge::input::MergeInput;
use duel_ledger::RunPart;
use duel_spec::{Claim, Document, REFERENCE};
use std::collections::BTreeMap;
use toml::Value;

/// A claim as one of the runs has it.
struct ClaimVersion<'a> {
    value: &'a Value,
    claim: &'a Claim,
    input: &'a MergeInput,
}

impl ClaimVersion<'_> {
    /// Whether it was written before the results of the run that has it.
    fn came_first(&self) -> bool {
        self.input.manifest.had_claim(self.claim)
    }
}

/// The claims of all runs, each once: those that were run with come in the order of `parts`, then those added later, by id. If the runs
/// differ in one, it is the version that was not added after a run.
///
/// # Errors
/// [`Error::ClaimsDiffer`] where that does not decide.
pub fn unite_claims(inputs: &[MergeInput], parts: &[Document]) -> Result<Vec<Value>> {
    let id_of = |value: &Value| value.get("id").and_then(Value::as_str).unwrap_or_default().to_string();
    let mut versions: BTreeMap<String, Vec<ClaimVersion>> = BTreeMap::new();
    for input in inputs {
        for (value, claim) in input.document.claims().iter().zip(&input.experiment.claims) {
            versions.entry(claim.id.clone()).or_default().push(ClaimVersion { value, claim, input });
        }
    }
    let mut ids: Vec<String> = parts.iter().flat_map(Document::claims).map(id_of).collect();
    ids.extend(versions.keys().cloned());
    let mut claims: Vec<Value> = vec![];
    for id in ids {
        let is_new = !claims.iter().any(|claim| id_of(claim) == id);
        if let Some(versions) = versions.get(&id).filter(|_| is_new) {
            claims.push(choose(&id, versions)?);
        }
    }
    Ok(claims)
}

fn choose(id: &str, versions: &[ClaimVersion]) -> Result<Value> {
    let first: Vec<&ClaimVersion> = versions.iter().filter(|version| version.came_first()).collect();
    let candidates = if first.is_empty() { versions.iter().collect() } else { first };
    let chosen = candidates[0];
    match candidates.iter().find(|other| other.value != chosen.value) {
        None => Ok(chosen.value.clone()),
        Some(other) => Err(Error::ClaimsDiffer {
            id: id.into(),
            first: chosen.input.path.clone(),
            other: other.input.path.clone(),
            differences: differences(chosen.value, other.value),
        }),
    }
}

/// Key by key: value here, value there.
fn differences(here: &Value, there: &Value) -> Vec<String> {
    let keys = here.as_table().into_iter().flat_map(toml::Table::keys);
    let differing = keys.filter(|key| here.get(*key) != there.get(*key));
    let text = |value: Option<&Value>| value.map_or("not set".into(), Value::to_string);
    differing.map(|key| format!("{key} is {} and {}", text(here.get(key)), text(there.get(key)))).collect()
}

/// The claims that count as made before the run: those that every part with one of their arms had before its results; and those that
/// were removed after a part was run.
pub fn standing_claims(claims: &[Claim], parts: &[(&RunPart, &Document)]) -> Vec<serde_json::Value> {
    let has_arm = |document: &Document, claim: &Claim| {
        let mut own = claim.arms.iter().filter(|side| side.run.is_none() && side.arm != REFERENCE).peekable();
        own.peek().is_none() || own.any(|side| document.has_arm(&side.arm))
    };
    let stands = |claim: &&Claim| {
        let mut concerned = parts.iter().filter(|(_, document)| has_arm(document, claim));
        concerned.all(|(part, _)| part.manifest.had_claim(claim))
    };
    let mut standing: Vec<serde_json::Value> =
        claims.iter().filter(stands).map(|claim| serde_json::json!(claim)).collect();
    let recorded = parts.iter().flat_map(|(part, _)| part.manifest.claims.iter().flatten());
    let has_id =
        |all: &[serde_json::Value], claim: &serde_json::Value| all.iter().any(|other| other["id"] == claim["id"]);
    let known: Vec<serde_json::Value> = claims.iter().map(|claim| serde_json::json!(claim)).collect();
    for claim in recorded {
        if !has_id(&known, claim) && !has_id(&standing, claim) {
            standing.push(claim.clone());
        }
    }
    standing
}
