//! Over-optimisation: how much gold is lost by going on beyond the best (docs/claims.md, B6 and B7).

use crate::analysis::frontier::all_policies;
use crate::analysis::points::{EvalPoint, MeasuredPoint};
use crate::analysis::run::Run;
use duel_spec::MethodSettings;
use duel_spec::metrics::{GOLD, GOLD_SD, KL, PROXY};

/// Policies further and further from the reference, held against the best of them; one value a seed. The best is picked
/// on validation prompts and read on test prompts, so that the luck of the pick is in no figure.
#[derive(Debug, Clone, PartialEq)]
pub struct OverOptimization {
    /// An arm over its points, or a point along its training.
    pub along: String,
    pub peak_kl: Vec<f64>,
    pub peak_gold: Vec<f64>,
    /// Of the policy that went furthest.
    pub kl: Vec<f64>,
    pub gold: Vec<f64>,
    /// Peak less furthest, in standard deviations of the reference's gold.
    pub drop: Vec<f64>,
    /// Proxy of the furthest less that of the peak.
    pub proxy: Vec<f64>,
    /// Along a training on rows: share of seeds whose peak lies before the end of the first epoch.
    pub early: Option<f64>,
}

/// Of every arm with more than two points, and along the training of every point of a method on fixed rows, and of one on
/// rollouts where its arm has no other to be held against.
pub fn over_optimization(run: &Run) -> Vec<OverOptimization> {
    let seeds = run.experiment.seed_list();
    let mut out = Vec::new();
    let arms: Vec<&str> = run.arms().into_iter().chain(["ppo-ideal", "best-of-n"]).collect();
    for arm in &arms {
        let points: Vec<&MeasuredPoint> = run.points_of(arm).collect();
        if points.len() > 2 {
            let finished = |seed| points.iter().filter_map(|p| p.seeds.get(&seed)?.last()).collect::<Vec<_>>();
            out.extend(peak_vs_last(run, (*arm).to_string(), &seeds, finished).map(|(drops, _)| drops));
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
        let along = |seed| point.seeds.get(&seed).map_or(vec![], |marks| marks.iter().collect());
        let Some((mut drops, peaks)) =
            peak_vs_last(run, format!("{} {}, its training", point.arm, point.label), &seeds, along)
        else {
            continue;
        };
        let early = |epoch| peaks.iter().filter(|&&step| step < epoch).count() as f64 / peaks.len() as f64;
        drops.early = epoch.map(early);
        out.push(drops);
    }
    out
}

/// Of all points and checkpoints of an arm at one seed.
pub(crate) fn for_seed(run: &Run, arm: &str, seed: u64) -> Option<OverOptimization> {
    let all = |seed| all_policies(run, arm, seed).map(|(_, mark)| mark).collect();
    peak_vs_last(run, arm.to_string(), &[seed], all).map(|(drops, _)| drops)
}

/// Also the steps of the peaks; `None` where no seed has two policies.
fn peak_vs_last<'a>(
    run: &Run,
    along: String,
    seeds: &[u64],
    policies: impl Fn(u64) -> Vec<&'a EvalPoint>,
) -> Option<(OverOptimization, Vec<u64>)> {
    let none = Vec::new;
    let (mut drops, mut peaks) = (
        OverOptimization {
            along,
            peak_kl: none(),
            peak_gold: none(),
            kl: none(),
            gold: none(),
            drop: none(),
            proxy: none(),
            early: None,
        },
        vec![],
    );
    for &seed in seeds {
        let spread = run.reference_at(seed).and_then(|mark| mark.test(GOLD_SD));
        let is_placed = |m: &&EvalPoint| {
            [m.validation(KL), m.validation(GOLD), m.test(KL), m.test(GOLD)].iter().all(Option::is_some)
        };
        let all: Vec<&EvalPoint> = policies(seed).into_iter().filter(is_placed).collect();
        let by = |of: fn(&EvalPoint) -> Option<f64>| {
            all.iter().copied().max_by(|a, b| of(a).unwrap_or(0.0).total_cmp(&of(b).unwrap_or(0.0)))
        };
        let (Some(peak), Some(furthest)) = (by(|m| m.validation(GOLD)), by(|m| m.validation(KL))) else { continue };
        let of = |mark: &EvalPoint| Some((mark.test(KL)?, mark.test(GOLD)?, mark.test(PROXY)?));
        let (Some(spread), Some(best), Some(last), true) = (spread, of(peak), of(furthest), all.len() > 1) else {
            continue;
        };
        drops.peak_kl.push(best.0);
        drops.peak_gold.push(best.1);
        drops.kl.push(last.0);
        drops.gold.push(last.1);
        drops.drop.push((best.1 - last.1) / spread);
        drops.proxy.push(last.2 - best.2);
        peaks.push(peak.clocks.step);
    }
    (!peaks.is_empty()).then_some((drops, peaks))
}
