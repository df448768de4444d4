//! The experiment of several runs that were made apart: equal but for their seeds, and for arms that only one of them has.

use crate::Result;
use crate::document::{Document, changes_results};
use toml::{Table, Value};

/// Settings in which runs of one experiment may differ.
const FREE: [&str; 3] = ["name", "seed", "seeds"];

/// Where files are, which does not change what they contain: the key of the stage that all seeds share has their hashes.
const PATHS: [&str; 7] = [
    "model.from",
    "judge.model",
    "world.reviews.data",
    "world.rows.train",
    "world.rows.validation",
    "world.rows.test",
    "world.rows.chat_template",
];

impl Document {
    /// Why this is not the experiment of `other` with other seeds or arms: each setting that differs, with its value here and there.
    pub fn union_conflicts(&self, other: &Self) -> Vec<(String, String, String)> {
        let has_shared_stage = self.text("world.kind") != Some("grammar");
        let has_files = |key: &str| [self, other].iter().all(|document| document.text(key) != Some(""));
        let is_free_path = |key: &str| has_shared_stage && PATHS.contains(&key) && has_files(key);
        let is_of_one_arm = |key: &str| {
            let arm = key.strip_prefix("arms.").and_then(|rest| rest.split('.').next());
            arm.is_some_and(|arm| [self, other].iter().any(|document| !document.has_arm(arm)))
        };
        let is_compared =
            |key: &str| changes_results(key) && !FREE.contains(&key) && !is_free_path(key) && !is_of_one_arm(key);
        self.compare(other, is_compared)
    }

    /// The experiment of several runs: that of the first, with the arms of all, with the seeds from the first of any to the last of any,
    /// and with this name and these claims.
    ///
    /// # Errors
    /// A name that is not accepted; arms and seeds that are more than an experiment may have.
    ///
    /// # Panics
    /// Without documents.
    pub fn union(documents: &[Self], name: &str, claims: Vec<Value>) -> Result<Self> {
        let mut union = documents[0].merged.clone();
        let integer = |document: &Self, key: &str| document.merged.get(key).and_then(Value::as_integer).unwrap_or(0);
        let first = documents.iter().map(|document| integer(document, "seed")).min().unwrap_or(0);
        let end = documents.iter().map(|document| integer(document, "seed").saturating_add(integer(document, "seeds")));
        let seeds = end.max().unwrap_or(first).saturating_sub(first);
        let arms = documents.iter().rev().flat_map(|document| document.arms().clone()); // the first run's stay
        union.insert("arms".into(), Value::Table(arms.collect()));
        union.insert("seed".into(), Value::Integer(first));
        union.insert("seeds".into(), Value::Integer(seeds));
        union.insert("name".into(), Value::String(name.into()));
        union.insert("claims".into(), Value::Array(claims));
        Self::parse("the merged experiment", &union.to_string(), &[])
    }

    /// The claims, as they are written.
    pub fn claims(&self) -> &[Value] {
        self.merged.get("claims").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Whether it has an arm of this name.
    pub fn has_arm(&self, arm: &str) -> bool {
        self.arms().contains_key(arm)
    }

    fn arms(&self) -> &Table {
        self.merged["arms"].as_table().expect("a document has arms")
    }

    /// The text of a setting; `None` for another type.
    fn text(&self, key: &str) -> Option<&str> {
        let mut value = self.merged.get(key.split('.').next()?)?;
        for name in key.split('.').skip(1) {
            value = value.get(name)?;
        }
        value.as_str()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Experiment;

    fn document(text: &str) -> Document {
        Document::parse("a test", text, &[]).expect("a document")
    }

    const DPO: &str = "[arms.dpo]\nmethod = \"dpo\"\n";
    const PPO: &str = "[arms.ppo]\nmethod = \"ppo\"\n";

    #[test]
    fn only_seeds_names_claims_and_arms_of_one_side_may_differ() {
        let first = document(&format!("name = \"a\"\nseeds = 2\n{DPO}"));
        let claim = "[[claims]]\nid = \"c\"\narms = [\"ppo\"]\nmetric = \"drop\"\n";
        let text = format!("name = \"b\"\nquestion = \"?\"\nseed = 7\nslurm.time = \"1:00:00\"\n{DPO}{PPO}{claim}");
        assert!(first.union_conflicts(&document(&text)).is_empty());
        let other = document(&format!("seeds = 2\nmodel.width = 96\n{DPO}beta = 0.3\n{PPO}epochs = 9\n"));
        let conflicts: Vec<_> = first.union_conflicts(&other).into_iter().map(|(key, ..)| key).collect();
        assert_eq!(conflicts, ["arms.dpo.beta", "model.width"]);
    }

    /// A path is where files are, unless there are none, or no shared stage knows their hashes.
    #[test]
    fn the_same_files_may_be_elsewhere() {
        let with =
            |world: &str, from: &str| document(&format!("world.kind = \"{world}\"\nmodel.from = \"{from}\"\n{DPO}"));
        let conflicts = |a: &Document, b: &Document| a.union_conflicts(b).len();
        assert_eq!(conflicts(&with("rows", "/a/model"), &with("rows", "/b/model")), 0);
        assert_eq!(conflicts(&with("rows", "/a/model"), &with("rows", "")), 1);
        assert_eq!(conflicts(&with("grammar", "/a/model"), &with("grammar", "/b/model")), 1);
    }

    #[test]
    fn a_union_has_the_arms_of_all_and_the_seeds_from_the_first_to_the_last() {
        let parts =
            [format!("seed = 4\nseeds = 2\n{DPO}"), format!("seed = 1\nseeds = 2\n{PPO}")].map(|text| document(&text));
        let union = Document::union(&parts, "whole", vec![]).expect("a document");
        let experiment = Experiment::from_document(&union).expect("an experiment");
        assert_eq!((experiment.name.as_str(), experiment.seed_list()), ("whole", vec![1, 2, 3, 4, 5]));
        assert_eq!(experiment.arms.keys().collect::<Vec<_>>(), ["dpo", "ppo"]);
        let reversed = Document::union(&[parts[1].clone(), parts[0].clone()], "whole", vec![]).expect("a document");
        assert_eq!(union.to_toml(), reversed.to_toml());
        let at_once = document(&format!("name = \"whole\"\nseed = 1\nseeds = 5\n{PPO}{DPO}"));
        assert_eq!(union.to_toml(), at_once.to_toml());
    }
}
