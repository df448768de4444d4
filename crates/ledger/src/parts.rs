//! The parts of a merged run: which runs it was merged from, and which of them each stage's results are from.

use crate::manifest::{Manifest, PlannedStage, RunPart};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// What is equal in every copy of a run's manifest: all but the names of its machine and folders, and the report's warnings.
fn identity(manifest: &Manifest) -> String {
    let mut own = manifest.clone();
    own.host.name.clear();
    own.command.clear();
    own.warnings.clear();
    serde_json::to_string(&own).expect("plain data")
}

/// Parts in an order that does not depend on the one given: by start. Copies of one run, its committed tables and its
/// directory for example, become one part. Returns also each given part's place.
pub fn unite_parts(parts: Vec<RunPart>) -> (Vec<RunPart>, Vec<usize>) {
    let keys: Vec<(u64, String)> = parts.iter().map(|part| (part.manifest.started, identity(&part.manifest))).collect();
    let mut united: BTreeMap<&(u64, String), RunPart> = BTreeMap::new();
    for (key, part) in keys.iter().zip(parts) {
        let one = united.entry(key).or_default();
        one.finished.extend(part.finished);
        // committed manifests have no names
        let names = |manifest: &Manifest| (manifest.host.name.clone(), manifest.command.clone());
        if one.manifest.format == 0 || names(&part.manifest) > names(&one.manifest) {
            one.manifest = part.manifest;
        }
    }
    let order: Vec<&(u64, String)> = united.keys().copied().collect();
    let places = keys.iter().map(|key| order.binary_search(&key).expect("every key is in it")).collect();
    (united.into_values().collect(), places)
}

/// Decides which part each finished stage's results are from. A seed's are from the part with most of its cells, the first of equals;
/// from another only the stages that this one lacks.
pub fn assign_stages(parts: &mut [RunPart], plan: &[PlannedStage]) {
    let cells_at = |part: &RunPart, seed: u64| {
        let is_cell_at = |stage: &&PlannedStage| stage.tuning.is_some() && stage.seed == Some(seed);
        plan.iter().filter(is_cell_at).filter(|stage| part.finished.contains(&stage.folder)).count()
    };
    parts.iter_mut().for_each(|part| part.used.clear());
    let mut orders: BTreeMap<Option<u64>, Vec<usize>> = BTreeMap::new();
    for stage in plan {
        let order = orders.entry(stage.seed).or_insert_with(|| {
            let mut order: Vec<usize> = (0..parts.len()).collect();
            order.sort_by_key(|&part| Reverse(stage.seed.map(|seed| cells_at(&parts[part], seed)))); // stable
            order
        });
        if let Some(&part) = order.iter().find(|&&part| parts[part].finished.contains(&stage.folder)) {
            parts[part].used.insert(stage.folder.clone());
        }
    }
}

impl Manifest {
    /// `merged from 3 runs`, and in what those differ; `None` for a run made at once.
    pub fn merge_note(&self) -> Option<String> {
        let text = format!("merged from {} run{}", self.parts.len(), if self.parts.len() == 1 { "" } else { "s" });
        self.is_merged().then(|| text + self.differing_makers().unwrap_or_default())
    }

    /// `, made by different binaries`: whether binaries and processors of a merged run's parts differ.
    pub fn differing_makers(&self) -> Option<&'static str> {
        let differ =
            |of: fn(&Self) -> &str| self.parts.windows(2).any(|two| of(&two[0].manifest) != of(&two[1].manifest));
        match (differ(|part| &part.commit), differ(|part| &part.host.processor)) {
            (true, true) => Some(", made by different binaries on different processors"),
            (true, false) => Some(", made by different binaries"),
            (false, true) => Some(", made on different processors"),
            (false, false) => None,
        }
    }
}

impl RunPart {
    /// How many cells and stages of which seeds the merged run with this plan has from it, and how they were made.
    pub fn summary(&self, plan: &[PlannedStage]) -> String {
        let Manifest { duel, commit, host, wall_seconds, .. } = &self.manifest;
        let used: Vec<&PlannedStage> = plan.iter().filter(|stage| self.used.contains(&stage.folder)).collect();
        let cells = used.iter().filter(|stage| stage.tuning.is_some()).count();
        let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let processor = if host.processor.is_empty() { "unknown processor" } else { &host.processor };
        format!(
            "{}, {}, seeds {}; {processor}, {}; Duel {duel}, commit {commit:.10}{}",
            count(cells, "cell"),
            count(used.len(), "stage"),
            self.seeds(plan),
            count(host.cores, "core"),
            wall_seconds.map_or(String::new(), |seconds| format!(", {seconds:.0} s")),
        )
    }

    /// The seeds with results from it: `0–3, 7`.
    pub fn seeds(&self, plan: &[PlannedStage]) -> String {
        let of_part = plan.iter().filter(|stage| self.used.contains(&stage.folder));
        let seeds: BTreeSet<u64> = of_part.filter_map(|stage| stage.seed).collect();
        let mut ranges: Vec<[u64; 2]> = vec![];
        for seed in seeds {
            match ranges.last_mut() {
                Some([_, last]) if *last + 1 == seed => *last = seed,
                _ => ranges.push([seed, seed]),
            }
        }
        let text =
            |[first, last]: &[u64; 2]| if first == last { first.to_string() } else { format!("{first}–{last}") };
        if ranges.is_empty() { "none".into() } else { ranges.iter().map(text).collect::<Vec<_>>().join(", ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::HostInfo;

    fn part(started: u64, name: &str, finished: &[&str]) -> RunPart {
        let host = HostInfo { name: name.into(), ..HostInfo::default() };
        let manifest = Manifest { format: 12, started, host, ..Manifest::default() };
        RunPart { manifest, finished: finished.iter().map(ToString::to_string).collect(), ..RunPart::default() }
    }

    fn stage(folder: &str, seed: Option<u64>) -> PlannedStage {
        let tuning = folder.starts_with("cell").then_some(false);
        PlannedStage { label: folder.into(), folder: folder.into(), seed, tuning }
    }

    #[test]
    fn copies_of_a_run_are_one_part_and_the_order_is_that_of_time() {
        let all = vec![part(9, "b", &["z"]), part(3, "", &["x"]), part(3, "a", &["y"])];
        let (parts, places) = unite_parts(all.clone());
        assert_eq!(places, [1, 0, 0]);
        assert_eq!(parts[0].finished.iter().collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(parts[0].manifest.host.name, "a");
        let (reversed, _) = unite_parts(all.into_iter().rev().collect());
        assert_eq!(serde_json::json!(reversed), serde_json::json!(parts));
    }

    #[test]
    fn a_seed_is_of_the_part_with_most_of_its_cells() {
        let plan = [
            stage("base-0", None),
            stage("sft-1", Some(1)),
            stage("cell-1a", Some(1)),
            stage("cell-1b", Some(1)),
            stage("sft-2", Some(2)),
            stage("cell-2a", Some(2)),
            stage("cell-2b", Some(2)),
        ];
        let mut parts = [
            part(1, "a", &["base-0", "sft-1", "cell-1a", "sft-2", "cell-2a"]),
            part(2, "b", &["base-0", "sft-1", "cell-1a", "cell-1b", "sft-2", "cell-2b"]),
        ];
        assign_stages(&mut parts, &plan);
        let used = |part: &RunPart| part.used.iter().cloned().collect::<Vec<_>>();
        assert_eq!(used(&parts[0]), ["base-0", "cell-2a", "sft-2"]);
        assert_eq!(used(&parts[1]), ["cell-1a", "cell-1b", "cell-2b", "sft-1"]);
    }
}
