//! Judges what an experiment set out to show, from its ledgers alone (rule D of claims §1).

use crate::figures::arm_costs_by_seed;
use crate::frontier::gain_at;
use crate::run::{Point, Run};
use crate::sensitivity;
use crate::stats::{Estimate, holm_levels, sign_flip_test, t_test};
use crate::tuning::Tuning;
use duel_spec::metrics::{GOLD, KL, KL_SE};
use duel_spec::{Claim, ClaimMetric, Side};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// Seeds of both arms below which nothing is judged.
const FEWEST_SEEDS: usize = 5;
/// Seeds below which the test that flips signs stands beside the t-interval.
const FEW_SEEDS: usize = 8;
/// Chance of being wrong that a family of claims shares.
const ALPHA: f64 = 0.05;
/// KL beyond which a training counts as diverged, nats.
const FAR: f64 = 50.0;
/// Price of KL from which on a policy below its reference counts as diverged.
const DEAR: f64 = 0.5;

/// What becomes of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Judgement {
    Reproduced,
    Contradicted,
    Inconclusive,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reproduced => "REPRODUCED",
            Self::Contradicted => "CONTRADICTED",
            Self::Inconclusive => "INCONCLUSIVE",
        })
    }
}

/// A claim with what was found.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    #[serde(flatten)]
    pub claim: Claim,
    pub judgement: Judgement,
    /// First arm less second, paired by seed; a log ratio of costs.
    pub effect: Option<f64>,
    /// The interval of it at the level that its family leaves to it.
    pub interval: Option<[f64; 2]>,
    pub level: f64,
    /// Two-sided, of the t-test; and of the test that flips signs, where seeds are few.
    pub p: Option<f64>,
    pub p_sign_flip: Option<f64>,
    pub seeds: usize,
    /// Trainings that each arm had, and FLOPs that they took.
    pub budgets: BTreeMap<String, Budget>,
    pub reasons: Vec<String>,
}

/// What an arm was allowed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Budget {
    pub points: usize,
    pub trainings: usize,
    pub flops: f64,
}

/// Judges every claim of a run's experiment, each family together.
pub fn judge(run: &Run, tuning: &Tuning) -> Vec<Verdict> {
    let edges = sensitivity::edges(run, tuning);
    let claims = &run.experiment.claims;
    let effects: Vec<Vec<f64>> = claims.iter().map(|claim| effects(run, claim)).collect();
    let refused: Vec<Vec<String>> = claims
        .iter()
        .zip(&effects)
        .map(|(claim, effects)| refusals(run, tuning, claim, effects.len(), &edges))
        .collect();
    let p: Vec<Option<f64>> = effects.iter().map(|effects| t_test(effects)).collect();
    let mut verdicts = vec![];
    for (place, claim) in claims.iter().enumerate() {
        // whoever is refused takes its share of the family's chance all the same: families are listed beforehand
        let family: Vec<usize> = (0..claims.len())
            .filter(|&other| other == place || (!claim.family.is_empty() && claims[other].family == claim.family))
            .collect();
        let ps: Vec<f64> = family.iter().map(|&other| p[other].unwrap_or(1.0)).collect();
        let levels = holm_levels(&ps, ALPHA);
        let own = family.iter().position(|&other| other == place).map_or(ALPHA, |i| levels[i]);
        let estimate = Estimate::of_at(&effects[place], 1.0 - own);
        let (judgement, why) = match (&refused[place][..], estimate) {
            ([], Some(estimate)) => decide(&estimate, claim.smallest),
            _ => (Judgement::Inconclusive, None),
        };
        verdicts.push(Verdict {
            claim: claim.clone(),
            judgement,
            effect: estimate.map(|e| e.mean),
            interval: estimate.and_then(|e| e.half_width.map(|h| [e.mean - h, e.mean + h])),
            level: 1.0 - own,
            p: p[place],
            p_sign_flip: (2..FEW_SEEDS).contains(&effects[place].len()).then(|| sign_flip_test(&effects[place])),
            seeds: effects[place].len(),
            budgets: claim.arms.iter().map(|side| (side.to_string(), budget(run, tuning, &side.arm))).collect(),
            reasons: refused[place].iter().cloned().chain(why).collect(),
        });
    }
    verdicts
}

/// The rule: ahead by an interval above zero and at least the smallest effect; behind by an interval below zero, or none by one
/// within the smallest effect of it.
fn decide(estimate: &Estimate, smallest: f64) -> (Judgement, Option<String>) {
    let Some(half) = estimate.half_width else { return (Judgement::Inconclusive, None) };
    let (low, high) = (estimate.mean - half, estimate.mean + half);
    if low > 0.0 && estimate.mean >= smallest {
        (Judgement::Reproduced, None)
    } else if high < 0.0 {
        (Judgement::Contradicted, Some("the other is ahead".into()))
    } else if low > -smallest && high < smallest {
        (Judgement::Contradicted, Some(format!("null: the whole interval lies within ±{smallest}")))
    } else if low > 0.0 {
        (Judgement::Inconclusive, Some(format!("ahead, but by less than {smallest}")))
    } else {
        (Judgement::Inconclusive, Some("the interval holds zero, and more than the smallest effect".into()))
    }
}

/// First arm less second, over the seeds that have both.
fn effects(run: &Run, claim: &Claim) -> Vec<f64> {
    let [Side { arm: first, .. }, Side { arm: second, .. }] = &claim.arms[..] else { return vec![] };
    let cost = |of: fn(&crate::figures::SeedCost) -> f64| {
        let (own, others) = (arm_costs_by_seed(run, first), arm_costs_by_seed(run, second));
        let pairs = own.iter().filter_map(|(seed, cost)| Some((of(others.get(seed)?) / of(cost)).ln()));
        pairs.filter(|x| x.is_finite()).collect()
    };
    match claim.metric {
        ClaimMetric::Gain => {
            let at = |arm: &str, seed| {
                let (gain, share) = gain_at(run, arm, seed, claim.kl[0])?;
                Some(share.unwrap_or(gain))
            };
            let pair = |seed: u64| Some(at(first, seed)? - at(second, seed)?);
            run.experiment.seed_list().into_iter().filter_map(pair).collect()
        }
        ClaimMetric::Flops => cost(|cost| cost.flops),
        ClaimMetric::Seconds => cost(|cost| cost.seconds),
        _ => vec![],
    }
}

/// Why nothing can be said, whatever the numbers.
fn refusals(run: &Run, tuning: &Tuning, claim: &Claim, seeds: usize, edges: &[String]) -> Vec<String> {
    let mut reasons = vec![];
    if seeds < FEWEST_SEEDS {
        let where_both = match claim.metric {
            ClaimMetric::Gain => format!("both arms reach KL {}", claim.kl[0]),
            _ => "both arms have finished".into(),
        };
        reasons.push(format!(
            "{seeds} of {} seeds where {where_both}, and {FEWEST_SEEDS} are needed",
            run.experiment.seeds
        ));
    }
    let [Side { arm: first, .. }, Side { arm: second, .. }] = &claim.arms[..] else { return reasons };
    let [a, b] = [first, second].map(|arm| budget(run, tuning, arm));
    if a.points.abs_diff(b.points) * 20 > a.points.max(b.points) {
        reasons.push(format!("unequal budgets: {} points of {first}, {} of {second}", a.points, b.points));
    }
    for Side { arm, .. } in &claim.arms {
        let prefix = format!("arms.{arm}.");
        reasons.extend(edges.iter().filter(|edge| edge.starts_with(&prefix)).cloned());
        let failed: Vec<&String> = run.manifest.failed.keys().filter(|s| s.starts_with(&format!("{arm} "))).collect();
        let cells = run.cells.iter().filter(|cell| cell.arm == *arm).count();
        let diverged = failed.len() + run.points_of(arm).map(|point| diverged(run, point)).sum::<usize>();
        if diverged * 5 > cells {
            reasons.push(format!("{diverged} of {cells} trainings of {arm} diverged, and that is the result"));
        } else if let Some(stage) = failed.first() {
            reasons.push(format!("{stage} failed: {}", run.manifest.failed[*stage]));
        }
        let vague = |point: &Point| {
            let (kl, error) = (point.final_test(KL), point.final_test(KL_SE));
            kl.iter().zip(&error).any(|(kl, error)| *error > 0.1 * kl)
        };
        if claim.metric == ClaimMetric::Gain
            && let Some(point) = run.points_of(arm).find(|point| vague(point))
        {
            reasons.push(format!("the standard error of {arm}'s KL at {} is more than a tenth of it", point.label));
        }
    }
    reasons
}

/// Seeds of a point that went where no training should.
fn diverged(run: &Run, point: &Point) -> usize {
    let beta = run.method_of(point).map_or(0.0, |method| method.beta());
    let is_far = |(seed, mark): (u64, &crate::Mark)| {
        let base = run.reference().and_then(|p| p.seeds.get(&seed)?.last()?.test(GOLD));
        let below = mark.test(GOLD).zip(base).is_some_and(|(gold, base)| gold < base);
        mark.test(KL).is_some_and(|kl| !kl.is_finite() || kl > FAR) || (beta >= DEAR && below)
    };
    point.finished().filter(|finished| is_far(*finished)).count()
}

/// What an arm was allowed: its search where there was one, and its own trainings.
fn budget(run: &Run, tuning: &Tuning, arm: &str) -> Budget {
    let compared = run.points_of(arm).count();
    let tried: Vec<_> = tuning.tried.iter().filter(|tried| tried.arm == arm).collect();
    let (points, searched) = if run.experiment.is_tuned() {
        (tried.len(), tried.iter().map(|tried| tried.seeds.len()).sum())
    } else {
        (compared, 0)
    };
    let own: usize = run.points_of(arm).map(|point| point.seeds.len()).sum();
    let flops: f64 = run.points_of(arm).flat_map(|p| p.finished()).map(|(_, mark)| mark.clocks.flops).sum();
    let spent = if run.experiment.is_tuned() { tuning.spent(arm, &run.experiment) } else { 0.0 };
    Budget { points, trainings: searched + own, flops: flops + spent }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(mean: f64, half: f64) -> Estimate {
        Estimate { mean, half_width: Some(half), n: 6 }
    }

    #[test]
    fn the_rule_of_the_catalogue() {
        let of = |mean, half| decide(&estimate(mean, half), 0.05).0;
        assert_eq!(of(0.2, 0.1), Judgement::Reproduced);
        assert_eq!(of(-0.2, 0.1), Judgement::Contradicted);
        assert_eq!(of(0.01, 0.02), Judgement::Contradicted); // null
        assert_eq!(of(0.03, 0.01), Judgement::Contradicted); // ahead for sure, and by nothing worth it
        assert_eq!(of(0.04, 0.03), Judgement::Inconclusive);
        assert_eq!(of(0.2, 0.3), Judgement::Inconclusive);
        assert_eq!(decide(&Estimate { mean: 1.0, half_width: None, n: 1 }, 0.05).0, Judgement::Inconclusive);
    }

    /// Where there is nothing, the rule says that there is something in no more than 2.5% of cases; of a family of four, in
    /// no more than that of any.
    #[test]
    fn nothing_is_rarely_reproduced() {
        use rand::RngExt;
        let mut rng = duel_spec::seeds::derive(7, "null", 0, "verdict");
        let mut normal = || {
            let (a, b): (f64, f64) = (rng.random(), rng.random());
            (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
        };
        for (seeds, family) in [(5, 1), (10, 1), (5, 4)] {
            let mut wrong = 0;
            for _ in 0..100_000 {
                let effects: Vec<Vec<f64>> = (0..family).map(|_| (0..seeds).map(|_| normal()).collect()).collect();
                let p: Vec<f64> = effects.iter().map(|e| t_test(e).unwrap_or(1.0)).collect();
                let reproduced = effects.iter().zip(holm_levels(&p, ALPHA)).any(|(effects, level)| {
                    Estimate::of_at(effects, 1.0 - level).is_some_and(|e| decide(&e, 0.05).0 == Judgement::Reproduced)
                });
                wrong += usize::from(reproduced);
            }
            // 2,500, and three standard deviations of what so many experiments count
            assert!(wrong <= 2_650, "{seeds} seeds, {family} claims: {wrong} of 100,000");
        }
    }
}
