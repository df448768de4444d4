//! Gold over the distance d = √KL, in the functional forms of Gao et al. 2022, eq. 1 and 2: d (α − β d) for best of n, d (α − β ln d) for
//! policies that are trained. Fitted seed by seed, with least squares, to all finished policies and checkpoints of an arm.

use crate::analysis::best_of_n::{BEST_OF_N, origin};
use crate::analysis::frontier::all_policies;
use crate::analysis::run::Run;
use crate::analysis::stats::{Estimate, mean};
use duel_spec::metrics::{GOLD, GOLD_SD, KL, Metric, PROXY};

/// Policies of a seed that a fit of two numbers is made to, at least.
const FEWEST_POLICIES: usize = 6;

/// How many times the smallest distance of a seed the largest is, at least: on a short stretch the two numbers cannot be told apart.
const SHORTEST_STRETCH: f64 = 2.0;

/// The functional form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScalingForm {
    /// d (α − β d)
    BestOfN,
    /// d (α − β ln d)
    Trained,
}

impl ScalingForm {
    /// What β is multiplied by, of a distance.
    fn falling(self, d: f64) -> f64 {
        match self {
            Self::BestOfN => -d * d,
            Self::Trained => -d * d.ln(),
        }
    }

    /// As an equation.
    pub(crate) fn equation(self) -> &'static str {
        match self {
            Self::BestOfN => "d (α − β d)",
            Self::Trained => "d (α − β ln d)",
        }
    }
}

/// A fit of one seed.
#[derive(Debug, Clone, Copy, PartialEq)]
struct SeedFit {
    alpha: f64,
    beta: f64,
    /// Share of the variance around the mean that it explains.
    explained: f64,
    /// The largest distance of a policy.
    furthest: f64,
}

/// The fits of an arm, over seeds.
#[derive(Debug, Clone)]
pub(crate) struct ScalingFit {
    pub(crate) arm: String,
    pub(crate) what: &'static str,
    pub(crate) form: ScalingForm,
    pub(crate) alpha: Estimate,
    pub(crate) beta: Estimate,
    pub(crate) explained: Estimate,
    /// The largest distance of a policy, mean over seeds.
    pub(crate) furthest: f64,
}

impl ScalingFit {
    /// The fitted reward at a distance.
    pub(crate) fn at(&self, d: f64) -> f64 {
        if d <= 0.0 { 0.0 } else { self.alpha.mean * d + self.beta.mean * self.form.falling(d) }
    }

    /// The distance at which the fitted reward is highest; `None` where it rises for ever.
    pub(crate) fn peak(&self) -> Option<f64> {
        let ratio = (self.beta.mean > 0.0).then(|| self.alpha.mean / self.beta.mean)?;
        Some(match self.form {
            ScalingForm::BestOfN => ratio / 2.0,
            ScalingForm::Trained => (ratio - 1.0).exp(),
        })
    }
}

/// Gold and proxy of every arm with enough policies, above the reference's; gold in standard deviations of the reference's gold.
pub(crate) fn scaling_fits(run: &Run) -> Vec<ScalingFit> {
    let arms = run.arms().into_iter().map(|arm| (arm, ScalingForm::Trained));
    let arms = arms.chain([(BEST_OF_N, ScalingForm::BestOfN)]);
    arms.flat_map(|(arm, form)| [("gold", GOLD), ("proxy", PROXY)].map(|(what, metric)| (arm, form, what, metric)))
        .filter_map(|(arm, form, what, metric)| fit_of_arm(run, arm, form, what, metric))
        .collect()
}

fn fit_of_arm(run: &Run, arm: &str, form: ScalingForm, what: &'static str, metric: Metric) -> Option<ScalingFit> {
    let seeds = run.experiment.seed_list();
    let fits: Vec<SeedFit> = seeds.iter().filter_map(|&seed| fit(&rises(run, arm, seed, metric)?, form)).collect();
    let over_seeds = |value: fn(&SeedFit) -> f64| Estimate::of(&fits.iter().map(value).collect::<Vec<_>>());
    Some(ScalingFit {
        arm: arm.to_string(),
        what,
        form,
        alpha: over_seeds(|fit| fit.alpha)?,
        beta: over_seeds(|fit| fit.beta)?,
        explained: over_seeds(|fit| fit.explained)?,
        furthest: mean(&fits.iter().map(|fit| fit.furthest).collect::<Vec<_>>()),
    })
}

/// Distance and reward of the arm's policies at a seed, above the policy that they depart from, on test prompts.
pub(crate) fn rises(run: &Run, arm: &str, seed: u64, metric: Metric) -> Option<Vec<(f64, f64)>> {
    let base = origin(run, arm)?.seeds.get(&seed)?.last()?.test(metric)?;
    let unit = if metric == GOLD { run.reference_at(seed)?.test(GOLD_SD)? } else { 1.0 };
    let policies = all_policies(run, arm, seed);
    let rise = |evaluation: &crate::analysis::points::EvalPoint| {
        Some((evaluation.test(KL)?.max(0.0).sqrt(), (evaluation.test(metric)? - base) / unit))
    };
    Some(
        policies
            .filter_map(|(_, evaluation)| rise(evaluation))
            .filter(|(d, reward)| *d > 0.0 && reward.is_finite())
            .collect(),
    )
}

/// Least squares without an intercept; `None` of too few policies, or of some that lie too near each other.
fn fit(rises: &[(f64, f64)], form: ScalingForm) -> Option<SeedFit> {
    let furthest = rises.iter().map(|(d, _)| *d).fold(0.0, f64::max);
    let nearest = rises.iter().map(|(d, _)| *d).fold(f64::INFINITY, f64::min);
    if rises.len() < FEWEST_POLICIES || furthest < SHORTEST_STRETCH * nearest {
        return None;
    }
    let sum = |value: &dyn Fn(f64, f64) -> f64| rises.iter().map(|&(d, reward)| value(d, reward)).sum::<f64>();
    let (aa, ab) = (sum(&|d, _| d * d), sum(&|d, _| d * form.falling(d)));
    let bb = sum(&|d, _| form.falling(d).powi(2));
    let (ar, br) = (sum(&|d, reward| d * reward), sum(&|d, reward| form.falling(d) * reward));
    let determinant = aa * bb - ab * ab;
    if determinant <= 1e-9 * aa * bb {
        return None;
    }
    let (alpha, beta) = ((bb * ar - ab * br) / determinant, (aa * br - ab * ar) / determinant);
    let centre = mean(&rises.iter().map(|(_, reward)| *reward).collect::<Vec<_>>());
    let spread = sum(&|_, reward| (reward - centre).powi(2));
    let residual = sum(&|d, reward| (reward - alpha * d - beta * form.falling(d)).powi(2));
    (spread > 0.0).then(|| SeedFit { alpha, beta, explained: 1.0 - residual / spread, furthest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_spec::Clocks;

    /// What lies on a form is fitted by its numbers: α 2 and β .5 at distances .5 to 4.
    #[test]
    fn numbers_of_a_form_are_found_again() {
        for form in [ScalingForm::BestOfN, ScalingForm::Trained] {
            let rises: Vec<(f64, f64)> =
                (1..=8).map(|k| f64::from(k) / 2.0).map(|d| (d, 2.0 * d + 0.5 * form.falling(d))).collect();
            let SeedFit { alpha, beta, explained, furthest } = fit(&rises, form).expect("enough policies");
            assert!((alpha - 2.0).abs() < 1e-9 && (beta - 0.5).abs() < 1e-9, "{alpha} {beta}");
            assert!((explained - 1.0).abs() < 1e-12 && furthest == 4.0);
        }
    }

    /// Rewards 1, 2, 2 twice at d = 1, 2, 3 by least squares: Σd² = 28, Σd³ = 72, Σd⁴ = 196, Σdr = 22, Σd²r = 54 give α = 424/304
    /// and β = 72/304.
    #[test]
    fn least_squares_by_hand() {
        let rises = [(1.0, 1.0), (2.0, 2.0), (3.0, 2.0), (1.0, 1.0), (2.0, 2.0), (3.0, 2.0)];
        let SeedFit { alpha, beta, .. } = fit(&rises, ScalingForm::BestOfN).expect("enough policies");
        assert!((alpha - 424.0 / 304.0).abs() < 1e-12 && (beta - 72.0 / 304.0).abs() < 1e-12, "{alpha} {beta}");
    }

    #[test]
    fn few_or_near_policies_are_not_fitted() {
        let rising = |ds: &[f64]| ds.iter().map(|&d| (d, d)).collect::<Vec<_>>();
        assert_eq!(fit(&rising(&[0.5, 1.0, 1.5, 2.0, 2.5]), ScalingForm::Trained), None);
        assert_eq!(fit(&rising(&[1.0, 1.1, 1.2, 1.3, 1.4, 1.9]), ScalingForm::Trained), None);
        assert!(fit(&rising(&[1.0, 1.1, 1.2, 1.3, 1.4, 2.0]), ScalingForm::Trained).is_some());
    }

    /// Gold falls from d = 2 on at α 2 and β .5 of best of n, and rises for ever without β; the reference's gold is 1 ± 2.
    #[test]
    fn arms_are_fitted_in_their_units_and_have_peaks() {
        let mut run = HandMadeRun::new("name = 'fit'\nseeds = 2\n[arms.a]\nmethod = 'ppo'");
        for cell in run.run().cells.clone() {
            let reference = [(KL, 0.0), (GOLD, 1.0), (GOLD_SD, 2.0), (PROXY, 0.0)];
            run.evaluation("reference", "sft", cell.seed, Clocks::default(), &reference);
            for step in 1..=8 {
                let d = step as f64 / 2.0;
                let values = |reward: f64| [(KL, d * d), (GOLD, 1.0 + 2.0 * reward), (PROXY, 3.0 * d)];
                let clocks = Clocks { step, ..Clocks::default() };
                run.evaluation(&cell.arm, &cell.point.label, cell.seed, clocks, &values(2.0 * d - 0.5 * d * d.ln()));
            }
        }
        let fits = scaling_fits(&run.finish());
        let [gold, proxy] = &fits[..] else { panic!("gold and proxy of one arm: {fits:?}") };
        assert_eq!([gold.what, proxy.what], ["gold", "proxy"]);
        assert!((gold.alpha.mean - 2.0).abs() < 1e-9 && (gold.beta.mean - 0.5).abs() < 1e-9);
        assert!((gold.peak().expect("a peak") - 3f64.exp()).abs() < 1e-6 && (gold.at(1.0) - 2.0).abs() < 1e-9);
        assert!((proxy.alpha.mean - 3.0).abs() < 1e-9 && proxy.beta.mean.abs() < 1e-9);
        assert_eq!((gold.furthest, gold.at(0.0)), (4.0, 0.0));
    }
}
