//! Over-optimization: how much gold reward is lost beyond the best policy (docs/claims.md, B6 and B7).

use crate::analysis::best_of_n::BEST_OF_N;
use crate::analysis::frontier::all_policies;
use crate::analysis::points::{EvalPoint, MeasuredPoint};
use crate::analysis::run::Run;
use duel_spec::MethodSettings;
use duel_spec::metrics::{GOLD, GOLD_SD, KL, PROXY};

/// Policies at growing KL compared with the best of them; one value per seed. The best is chosen on validation prompts
/// and read on test prompts, so that no number has a selection bias.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OverOptimization {
    /// An arm over its points, or a point along its training.
    pub along: String,
    pub peak_kl: Vec<f64>,
    pub peak_gold: Vec<f64>,
    /// Of the policy with the largest KL.
    pub kl: Vec<f64>,
    pub gold: Vec<f64>,
    /// Gold at the peak minus that at the largest KL, in standard deviations of the reference's gold.
    pub drop: Vec<f64>,
    /// Proxy reward at the largest KL minus that at the peak.
    pub proxy: Vec<f64>,
    /// Along a training on rows: share of seeds whose peak lies before the end of the first epoch.
    pub early: Option<f64>,
}

/// Over the points of every arm with more than two, and along the training of every point of a method on fixed rows, or of one
/// on rollouts whose arm has too few points.
pub fn over_optimization(run: &Run) -> Vec<OverOptimization> {
    let seeds = run.experiment.seed_list();
    let mut results = Vec::new();
    let arms: Vec<&str> = run.arms().into_iter().chain(["ppo-ideal", BEST_OF_N]).collect();
    for arm in &arms {
        let points: Vec<&MeasuredPoint> = run.points_of(arm).collect();
        if points.len() > 2 {
            let finished = |seed| points.iter().filter_map(|p| p.seeds.get(&seed)?.last()).collect::<Vec<_>>();
            results.extend(peak_vs_last(run, (*arm).to_string(), &seeds, finished).map(|(drops, _)| drops));
        }
    }
    for point in arms.iter().flat_map(|arm| run.points_of(arm)) {
        let epoch = match run.method_of(point) {
            Some(MethodSettings::Dpo(dpo)) => {
                let rows = run.experiment.stages.pairs.rows;
                Some((rows / dpo.batch_size.min(rows)) as u64)
            }
            Some(_) if run.points_of(&point.arm).count() < 3 => None,
            _ => continue,
        };
        let along = |seed| point.seeds.get(&seed).map_or(vec![], |evaluations| evaluations.iter().collect());
        let Some((mut drops, peaks)) =
            peak_vs_last(run, format!("{} {}, its training", point.arm, point.label), &seeds, along)
        else {
            continue;
        };
        let early = |epoch| peaks.iter().filter(|&&step| step < epoch).count() as f64 / peaks.len() as f64;
        drops.early = epoch.map(early);
        results.push(drops);
    }
    results
}

/// Of all points and checkpoints of an arm at one seed.
pub(crate) fn for_seed(run: &Run, arm: &str, seed: u64) -> Option<OverOptimization> {
    let evaluations = |seed| all_policies(run, arm, seed).map(|(_, evaluation)| evaluation).collect();
    peak_vs_last(run, arm.to_string(), &[seed], evaluations).map(|(drops, _)| drops)
}

/// Also the steps of the peaks; `None` where no seed has two policies.
fn peak_vs_last<'a>(
    run: &Run,
    along: String,
    seeds: &[u64],
    policies: impl Fn(u64) -> Vec<&'a EvalPoint>,
) -> Option<(OverOptimization, Vec<u64>)> {
    let (mut drops, mut peaks) = (OverOptimization { along, ..OverOptimization::default() }, vec![]);
    for &seed in seeds {
        let gold_sd = run.reference_at(seed).and_then(|reference| reference.test(GOLD_SD));
        let is_measured = |m: &&EvalPoint| {
            [m.validation(KL), m.validation(GOLD), m.test(KL), m.test(GOLD)].iter().all(Option::is_some)
        };
        let evaluations: Vec<&EvalPoint> = policies(seed).into_iter().filter(is_measured).collect();
        let highest = |metric_of: fn(&EvalPoint) -> Option<f64>| {
            evaluations
                .iter()
                .copied()
                .max_by(|a, b| metric_of(a).unwrap_or(0.0).total_cmp(&metric_of(b).unwrap_or(0.0)))
        };
        let (Some(peak), Some(furthest)) = (highest(|m| m.validation(GOLD)), highest(|m| m.validation(KL))) else {
            continue;
        };
        let test_metrics = |e: &EvalPoint| Some((e.test(KL)?, e.test(GOLD)?, e.test(PROXY)?));
        let (Some(gold_sd), Some(best), Some(last), true) =
            (gold_sd, test_metrics(peak), test_metrics(furthest), evaluations.len() > 1)
        else {
            continue;
        };
        drops.peak_kl.push(best.0);
        drops.peak_gold.push(best.1);
        drops.kl.push(last.0);
        drops.gold.push(last.1);
        drops.drop.push((best.1 - last.1) / gold_sd);
        drops.proxy.push(last.2 - best.2);
        peaks.push(peak.clocks.step);
    }
    (!peaks.is_empty()).then_some((drops, peaks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_spec::Clocks;

    /// The reference's gold has a standard deviation of 2. Every training has evaluations at these steps and golds, with a KL and a
    /// proxy of a tenth of the step.
    fn run_with(arms: &str, seeds: u64, evaluations: impl Fn(&str, u64) -> Vec<(u64, f64)>) -> Run {
        let mut run = HandMadeRun::new(&format!("name = 'peaks'\nseeds = {seeds}\nstages.pairs.rows = 100\n{arms}"));
        for cell in run.run().cells.clone() {
            let reference = [(KL, 0.0), (GOLD, 0.0), (GOLD_SD, 2.0), (PROXY, 0.0)];
            run.evaluation("reference", "sft", cell.seed, Clocks::default(), &reference);
            for (step, gold) in evaluations(&cell.arm, cell.seed) {
                let (clocks, tenth) = (Clocks { step, ..Clocks::default() }, step as f64 / 10.0);
                let values = [(KL, tenth), (GOLD, gold), (PROXY, tenth)];
                run.evaluation(&cell.arm, &cell.point.label, cell.seed, clocks, &values);
            }
        }
        run.finish()
    }

    /// An epoch of 100 rows in batches of 30 has three steps. The peaks of five seeds are at steps 1, 2, 3, 4 and 4: two are early.
    #[test]
    fn a_peak_before_the_end_of_the_first_epoch_is_early() {
        let peaks = [1, 2, 3, 4, 4];
        let run = run_with("[arms.a]\nmethod = 'dpo'\nbatch_size = 30", 5, |_, seed| {
            (1..=5).map(|step| (step, if step == peaks[seed as usize] { 3.0 } else { 1.0 })).collect()
        });
        let [training] = &over_optimization(&run)[..] else { panic!("one training") };
        assert!(training.along.starts_with("a ") && training.along.ends_with(", its training"), "{}", training.along);
        assert_eq!((training.early, &training.drop), (Some(0.4), &vec![1.0; 5]));
        assert_eq!((&training.peak_kl, &training.kl), (&vec![0.1, 0.2, 0.3, 0.4, 0.4], &vec![0.5; 5]));
        assert!(training.proxy.iter().zip([0.4, 0.3, 0.2, 0.1, 0.1]).all(|(a, b)| (a - b).abs() < 1e-12));
        // a batch of more rows than there are is one epoch per step
        let run = run_with("[arms.a]\nmethod = 'dpo'\nbatch_size = 300", 2, |_, seed| vec![(seed, 3.0), (5, 1.0)]);
        assert_eq!(over_optimization(&run)[0].early, Some(0.5));
    }

    /// From three points on, an arm is compared over its points; a method on rollouts with fewer, along its trainings.
    #[test]
    fn arms_on_rollouts_are_compared_over_their_points_where_they_have_three() {
        let along = |betas: &str| {
            let arms = format!("[arms.a]\nmethod = 'ppo'\ngrid.beta = {betas}");
            let run = run_with(&arms, 2, |_, _| vec![(1, 3.0), (2, 1.0)]);
            over_optimization(&run).into_iter().map(|drops| (drops.along, drops.early)).collect::<Vec<_>>()
        };
        assert_eq!(along("[0.1, 0.2, 0.3]"), [("a".to_string(), None)]);
        assert_eq!(
            along("[0.1, 0.2]"),
            ["a beta=0.1, its training", "a beta=0.2, its training"].map(|along| (along.to_string(), None))
        );
    }

    /// One policy alone has no drop.
    #[test]
    fn a_seed_with_one_policy_is_left_out() {
        let run =
            run_with(
                "[arms.a]\nmethod = 'dpo'",
                2,
                |_, seed| {
                    if seed == 0 { vec![(1, 3.0)] } else { vec![(1, 3.0), (2, 2.0)] }
                },
            );
        assert_eq!(for_seed(&run, "a", 0), None);
        assert_eq!(for_seed(&run, "a", 1).map(|drops| drops.drop), Some(vec![0.5]));
        assert_eq!(over_optimization(&run)[0].drop, [0.5]);
    }
}
