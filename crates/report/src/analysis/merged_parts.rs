//! Costs in runs that were merged: seconds and memory of different machines are not compared.

use crate::analysis::run::Run;
use duel_spec::metrics;
use std::collections::BTreeSet;

/// Stages before a training whose cost is counted with it (`costs::upstream_cost`).
const UPSTREAM: [&str; 2] = ["rm", "reference"];

/// Seeds at which these arms, and the stages that count for them, were measured in one part of the run; in a run that was made at once, all.
pub(crate) fn seeds_within_parts(run: &Run, arms: &[&str]) -> BTreeSet<u64> {
    let all = run.experiment.seed_list().into_iter();
    if !run.manifest.is_merged() {
        return all.collect();
    }
    let parts_at = |seed: u64| -> BTreeSet<usize> {
        let cells = run.cells.iter().filter(|cell| cell.seed == seed && arms.contains(&cell.arm.as_str()));
        let upstream = UPSTREAM.iter().map(|stage| format!("{stage}, seed {seed}"));
        let labels = cells.map(|cell| cell.label()).chain(upstream);
        labels.filter_map(|label| run.manifest.part_of(&label)).collect()
    };
    all.filter(|&seed| parts_at(seed).len() == 1).collect()
}

/// Whether at each seed that has results all arms were measured in one part.
pub(crate) fn can_compare_costs(run: &Run) -> bool {
    let within = seeds_within_parts(run, &run.arms());
    let measured = run.arms().into_iter().flat_map(|arm| run.points_of(arm)).flat_map(|point| point.seeds.keys());
    measured.into_iter().all(|seed| within.contains(seed))
}

/// Why costs of these arms are compared at fewer seeds than there are, if so.
pub(crate) fn left_out(run: &Run, arms: [&str; 2]) -> Option<String> {
    let within = seeds_within_parts(run, &arms);
    let has = |arm: &str, seed: u64| {
        run.points_of(arm)
            .any(|point| point.seeds.get(&seed).and_then(|all| all.last()).is_some_and(|e| e.is_recorded(metrics::KL)))
    };
    let seeds = run.experiment.seed_list().into_iter();
    let left: Vec<String> = seeds
        .filter(|seed| !within.contains(seed) && arms.iter().all(|arm| has(arm, *seed)))
        .map(|seed| seed.to_string())
        .collect();
    let seeds = format!("seed{} {}", if left.len() == 1 { "" } else { "s" }, left.join(", "));
    (!left.is_empty()).then(|| {
        format!(
            "{} and {} were measured in different parts of the merged run at {seeds}, and seconds and memory are compared within a \
             part only",
            arms[0], arms[1]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::effects::{RunArm, sample};
    use crate::analysis::hand_made_run::HandMadeRun;
    use crate::analysis::verdict::judge;
    use crate::analysis::{costs, tuning::TuningResults};
    use duel_ledger::RunPart;
    use duel_spec::{ClaimMetric, Clocks, NO_POINT, SHARED_ARM};

    const EXPERIMENT: &str = "
        name = 'merged'
        seeds = 6
        [arms.ppo]
        method = 'ppo'
        [arms.dpo]
        method = 'dpo'
        [[claims]]
        id = 'memory'
        arms = ['dpo', 'ppo']
        metric = 'memory'
        smallest = 0.1
        [[claims]]
        id = 'models'
        arms = ['dpo', 'ppo']
        metric = 'models'
    ";

    /// Part 0 has everything of seeds 0 to 2, and `dpo` of seed 3 with what it needs; part 1 has `ppo` of seed 3, and everything of 4 and 5.
    fn merged() -> Run {
        let mut run = HandMadeRun::new(EXPERIMENT);
        let mut parts = vec![RunPart::default(), RunPart::default()];
        let mut add = |run: &mut Run, label: String, part: usize| {
            parts[part].used.insert(label.clone());
            run.manifest.stages.insert(label.clone(), label);
        };
        for cell in run.run().cells.clone() {
            let (seed, label) = (cell.seed, cell.point.label.clone());
            let part = if seed < 3 || (seed == 3 && cell.arm == "dpo") { 0 } else { 1 };
            add(run.run(), cell.label(), part);
            for stage in UPSTREAM {
                add(run.run(), format!("{stage}, seed {seed}"), usize::from(seed > 3));
                let clocks = Clocks { step: 1, flops: 1.0, wall_seconds: 10.0, ..Clocks::default() };
                run.row([SHARED_ARM, NO_POINT, stage], seed, clocks, metrics::LOSS, 0.0);
            }
            let cost = if cell.arm == "dpo" { 1.0 } else { 2.0 } + seed as f64;
            let clocks = Clocks { step: 2, flops: 8.0, wall_seconds: cost, ..Clocks::default() };
            run.evaluation(&cell.arm, &label, seed, clocks, &[(metrics::KL, 1.0)]);
            run.row([&cell.arm, &label, "cell"], seed, clocks, metrics::PEAK_RSS, cost);
            run.row([&cell.arm, &label, "train"], seed, clocks, metrics::MODELS_RESIDENT, cost);
        }
        run.run().manifest.parts = parts;
        run.finish()
    }

    #[test]
    fn costs_are_compared_within_a_part_and_counts_are_not_concerned() {
        let run = merged();
        assert_eq!(seeds_within_parts(&run, &["dpo", "ppo"]).into_iter().collect::<Vec<_>>(), [0, 1, 2, 4, 5]);
        assert_eq!(seeds_within_parts(&run, &["dpo"]).len(), 6);
        assert!(!can_compare_costs(&run));
        let [first, second] = ["dpo", "ppo"].map(|name| RunArm { run: &run, name });
        let seeds = |metric| sample(metric, 1.0, first, Some(second)).seeds();
        assert_eq!([ClaimMetric::Memory, ClaimMetric::Models].map(seeds), [5, 6]);
        let verdicts = judge(&run, &TuningResults::of(&run));
        let expected = "dpo and ppo were measured in different parts of the merged run at seed 3, and seconds and memory are compared \
                        within a part only";
        assert!(verdicts[0].reasons.contains(&expected.to_string()), "{:?}", verdicts[0].reasons);
        assert!(verdicts[1].reasons.iter().all(|reason| !reason.contains("parts")), "{:?}", verdicts[1].reasons);
        // (1 + 2 + 3 + 5 + 6) / 5, and 10 before
        let seconds: Vec<f64> = costs::arm_costs(&run).into_iter().map(|cost| cost.seconds).collect();
        assert_eq!(seconds, [13.4, 14.4]);
    }

    #[test]
    fn a_run_made_at_once_is_one_part() {
        let mut run = merged();
        run.manifest.parts.clear();
        assert_eq!(seeds_within_parts(&run, &["dpo", "ppo"]).len(), 6);
        assert!(can_compare_costs(&run) && left_out(&run, ["dpo", "ppo"]).is_none());
    }
}
