//! Judges what an experiment set out to show, from its ledgers alone (docs/verdicts.md, Rules).

use crate::analysis::effects::{Effect, PairedSample, RunArm, has_diverged, sample};
use crate::analysis::points::MeasuredPoint;
use crate::analysis::run::{MissingCell, Run};
use crate::analysis::stats::{holm_levels, mean};
use crate::analysis::tuning::TuningResults;
use crate::analysis::{merged_parts, over_optimization, sensitivity};
use crate::error::{Error, Result};
use crate::format::fixed;
use duel_spec::metrics::{KL, KL_SE};
use duel_spec::{ArmRef, Claim, ClaimMetric, ClaimRule, REFERENCE, WorldKind};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// Seeds of both arms below which nothing is judged.
pub const FEWEST_SEEDS: usize = 5;
/// Error rate that a family of claims shares.
const ALPHA: f64 = 0.05;

/// The judgement of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Reproduced,
    Contradicted,
    Inconclusive,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reproduced => "REPRODUCED",
            Self::Contradicted => "CONTRADICTED",
            Self::Inconclusive => "INCONCLUSIVE",
        })
    }
}

/// A claim with its judgement and the tests behind it.
#[derive(Debug, Clone, Serialize)]
pub struct ClaimResult {
    #[serde(flatten)]
    pub claim: Claim,
    /// Its statement; without one, what its rule says.
    pub description: String,
    pub judgement: Verdict,
    /// Whether the claim was written, or changed, when cells were finished already.
    pub added_after_run: bool,
    /// The unit of effects and intervals.
    pub unit: &'static str,
    /// Seeds, and the effect that the claim requires.
    pub requirement: String,
    /// One per KL, or a single one.
    pub tests: Vec<ClaimTest>,
    /// Trainings that each arm had, and FLOPs that they took.
    pub budgets: BTreeMap<String, TrainingBudget>,
    /// Trainings of its arms of which nothing is known; their seeds are left out.
    pub missing: Vec<MissingCell>,
    pub reasons: Vec<String>,
}

/// A test of a claim, at one KL or over all.
#[derive(Debug, Clone, Serialize)]
pub struct ClaimTest {
    pub kl: Option<f64>,
    pub judgement: Verdict,
    /// In the unit of the claim's metric; infinite ones are `null` in JSON.
    pub effect: Option<f64>,
    /// A log ratio as a factor.
    pub times: Option<f64>,
    /// Its interval, at the level that the correction for its family gives.
    pub interval: Option<[f64; 2]>,
    pub level: f64,
    /// Two-sided; and that of the sign-flip test, where seeds are few.
    pub p: Option<f64>,
    pub p_sign_flip: Option<f64>,
    pub seeds: usize,
    pub reason: Option<String>,
}

/// What an arm spent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TrainingBudget {
    pub points: usize,
    pub trainings: usize,
    pub flops: f64,
}

/// A run with its tuning results and the settings whose best value is at an edge.
struct RunEvidence<'a> {
    run: &'a Run,
    tuning: &'a TuningResults,
    edges: Vec<String>,
}

impl<'a> RunEvidence<'a> {
    fn new(run: &'a Run, tuning: &'a TuningResults) -> Self {
        Self { run, tuning, edges: sensitivity::edges(run, tuning) }
    }
}

/// Runs that claims name, by name, or why one cannot be read.
type OtherRuns = BTreeMap<String, std::result::Result<(Run, TuningResults), String>>;

/// The claims of a run's experiment, judged.
#[derive(Debug, Clone)]
pub struct JudgedClaims {
    pub verdicts: Vec<ClaimResult>,
    /// Warnings to read before believing them.
    pub warnings: Vec<String>,
}

/// Judges the claims of the run in a folder.
///
/// # Errors
/// A run whose tables are damaged, or not of its experiment.
pub fn judge_folder(run: &Path) -> Result<JudgedClaims> {
    let run = Run::read(run)?;
    let tuning = TuningResults::for_run(&run)?;
    Ok(JudgedClaims { verdicts: judge(&run, &tuning), warnings: run.notes() })
}

/// Judges every claim of a run's experiment, each family together. What prevents the judgement of one claim is given as its reason.
pub fn judge(run: &Run, tuning: &TuningResults) -> Vec<ClaimResult> {
    let claims = &run.experiment.claims;
    let others = read_other_runs(run);
    let all = EvidenceByRun {
        own: RunEvidence::new(run, tuning),
        others: others
            .iter()
            .map(|(name, other)| (name, other.as_ref().ok().map(|(run, tuning)| RunEvidence::new(run, tuning))))
            .collect(),
    };

    // 1. The sample of each test, and the reasons to refuse each claim.
    let mut samples: Vec<ClaimSample> = vec![];
    let mut refusals: Vec<Vec<String>> = vec![];
    for (claim_index, claim) in claims.iter().enumerate() {
        let sides: Option<Vec<(&RunEvidence, &str)>> =
            claim.arms.iter().map(|side| Some((all.of(side)?, side.arm.as_str()))).collect();
        refusals.push(match &sides {
            Some(sides) => reasons_to_abstain(claim, sides),
            None => missing_runs(claim, &others),
        });
        for kl in claim.places() {
            let sample = sides
                .as_ref()
                .map(|sides| sample(claim.metric, kl.unwrap_or(f64::NAN), arm_of(&sides[0]), sides.get(1).map(arm_of)));
            samples.push(ClaimSample { claim_index, kl, sample: sample.unwrap_or(PairedSample::Mean(vec![])) });
        }
    }

    // 2. The level of each test.
    let levels = test_levels(claims, &samples);

    // 3. The verdicts.
    let verdict = |(index, claim): (usize, &Claim)| {
        let of_claim = samples.iter().zip(&levels).filter(|(sample, _)| sample.claim_index == index);
        let tests: Vec<ClaimTest> =
            of_claim.map(|(part, alpha)| test(claim, part.kl, &part.sample, 1.0 - alpha)).collect();
        let (judgement, test_reasons) = combine(claim, &tests, !refusals[index].is_empty());
        let budget = |side: &ArmRef| Some((side.to_string(), budget(all.of(side)?, &side.arm)));
        let budgets = claim.arms.iter().filter(|side| side.arm != REFERENCE).filter_map(budget).collect();
        let missing_of_side = |side: &ArmRef| all.of(side).map_or(vec![], |e| missing_of(e.run, &side.arm));
        let missing: Vec<MissingCell> = claim.arms.iter().flat_map(missing_of_side).collect();
        let of_parts = costs_across_parts(run, claim);
        let reasons =
            refusals[index].iter().cloned().chain(test_reasons).chain(of_parts).chain(missing_lines(&missing));
        let reasons = reasons.collect();
        let unit = claim.metric.unit(run.experiment.world.kind == WorldKind::Grammar);
        let requirement = requirement(claim, &tests, unit);
        let (description, added_after_run) = (description(claim), !run.manifest.had_claim(claim));
        let claim = claim.clone();
        ClaimResult {
            claim,
            description,
            judgement,
            added_after_run,
            unit,
            requirement,
            tests,
            budgets,
            missing,
            reasons,
        }
    };
    claims.iter().enumerate().map(verdict).collect()
}

/// The evidence of this run and of those that its claims name.
struct EvidenceByRun<'a> {
    own: RunEvidence<'a>,
    others: BTreeMap<&'a String, Option<RunEvidence<'a>>>,
}

impl<'a> EvidenceByRun<'a> {
    fn of(&self, side: &ArmRef) -> Option<&RunEvidence<'a>> {
        match &side.run {
            None => Some(&self.own),
            Some(name) => self.others.get(name)?.as_ref(),
        }
    }
}

/// What one test of a claim is about.
struct ClaimSample {
    claim_index: usize,
    kl: Option<f64>,
    sample: PairedSample,
}

/// The runs beside this one that claims name.
fn read_other_runs(run: &Run) -> OtherRuns {
    let mut others = OtherRuns::new();
    for name in run.experiment.claims.iter().flat_map(|claim| &claim.arms).filter_map(|side| side.run.as_ref()) {
        if !others.contains_key(name) {
            let folder =
                run.folder.parent().map(|parent| parent.join(name)).filter(|f| f.join("manifest.json").is_file());
            let read = |folder: PathBuf| {
                let run = Run::read(&folder)?;
                let tuning = TuningResults::for_run(&run)?;
                Ok((run, tuning))
            };
            let other = match folder.map(read) {
                None => Err(format!("no run `{name}` is in the same folder as this one")),
                Some(Ok((run, _))) if run.experiment.name != *name => {
                    Err(format!("the folder `{name}` beside this one holds the run `{}`", run.experiment.name))
                }
                Some(other) => {
                    other.map_err(|e: Error| format!("the run `{name}` beside this one cannot be read: {e}"))
                }
            };
            others.insert(name.clone(), other);
        }
    }
    others
}

/// The level of each test, by family. A claim that is refused takes its share of the family's error rate all the same.
fn test_levels(claims: &[Claim], samples: &[ClaimSample]) -> Vec<f64> {
    let family = |claim: &Claim| if claim.family.is_empty() { claim.id.clone() } else { claim.family.clone() };
    let mut levels = vec![ALPHA; samples.len()];
    let families: BTreeSet<String> = claims.iter().map(family).collect();
    for name in families {
        let members: Vec<usize> =
            (0..samples.len()).filter(|&t| family(&claims[samples[t].claim_index]) == name).collect();
        let p: Vec<f64> = members.iter().map(|&t| samples[t].sample.p().unwrap_or(1.0)).collect();
        members.iter().zip(holm_levels(&p, ALPHA)).for_each(|(&t, level)| levels[t] = level);
    }
    levels
}

fn requirement(claim: &Claim, tests: &[ClaimTest], unit: &str) -> String {
    let seeds = || tests.iter().map(|test| test.seeds);
    let (fewest, most) = (seeds().min().unwrap_or(0), seeds().max().unwrap_or(0));
    let seeds = if fewest == most { most.to_string() } else { format!("{fewest} to {most}") };
    let size = match claim.rule {
        ClaimRule::Ahead if claim.metric.is_counted() => "fewer at every seed".to_string(),
        ClaimRule::Equal if claim.metric.is_counted() => "equal at every seed".to_string(),
        ClaimRule::Ahead => format!("at least {} {unit}", claim.smallest),
        ClaimRule::Equal => format!("within ±{} {unit}", claim.smallest),
    };
    let places = match tests.len() {
        1 => String::new(),
        all => format!(", at {} of {all} distances", claim.needed()),
    };
    format!("{seeds} seed{}; required: {size}{places}", if most == 1 { "" } else { "s" })
}

fn arm_of<'a>((evidence, name): &(&RunEvidence<'a>, &'a str)) -> RunArm<'a> {
    RunArm { run: evidence.run, name }
}

/// Why runs that a claim names cannot be read.
fn missing_runs(claim: &Claim, others: &OtherRuns) -> Vec<String> {
    let named: BTreeSet<&String> = claim.arms.iter().filter_map(|side| side.run.as_ref()).collect();
    named.into_iter().filter_map(|name| others[name].as_ref().err().cloned()).collect()
}

/// A claim's statement; without one, what its rule says.
fn description(claim: &Claim) -> String {
    let metric = toml::Value::try_from(claim.metric).ok().and_then(|name| name.as_str().map(String::from));
    let metric = metric.unwrap_or_default().replace('_', " ");
    match (&claim.arms[..], claim.rule) {
        _ if !claim.statement.is_empty() => claim.statement.clone(),
        ([a, b], ClaimRule::Ahead) => format!("{a} is ahead of {b} ({metric})"),
        ([a, b], ClaimRule::Equal) => format!("{a} and {b} are equal ({metric})"),
        (arms, ClaimRule::Ahead) => format!("{metric} of {} is above zero", join(arms)),
        (arms, ClaimRule::Equal) => format!("{metric} of {} is zero", join(arms)),
    }
}

fn join(arms: &[ArmRef]) -> String {
    arms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Why a claim about seconds or memory is judged at fewer seeds than there are, in a merged run.
fn costs_across_parts(run: &Run, claim: &Claim) -> Option<String> {
    let [ArmRef { arm: first, run: None }, ArmRef { arm: second, run: None }] = &claim.arms[..] else { return None };
    claim.metric.is_of_machine().then(|| merged_parts::left_out(run, [first, second])).flatten()
}

fn missing_of(run: &Run, arm: &str) -> Vec<MissingCell> {
    run.missing().into_iter().filter(|cell| cell.arm == arm).collect()
}

/// The missing cells, one line per arm and reason.
pub(crate) fn missing_lines(missing: &[MissingCell]) -> Vec<String> {
    let mut groups: BTreeMap<(&str, &str), Vec<&MissingCell>> = BTreeMap::new();
    missing.iter().for_each(|cell| groups.entry((&cell.arm, &cell.because)).or_default().push(cell));
    let line = |((arm, because), cells): ((&str, &str), Vec<&MissingCell>)| {
        let first = cells[0];
        let named = match cells.len() {
            1 => format!("the training {arm} {}, seed {}, is missing and counts", first.point, first.seed),
            n => format!(
                "{n} trainings of {arm}, the first {} at seed {}, are missing and count",
                first.point, first.seed
            ),
        };
        format!("{named} in no claim, because: {because}")
    };
    groups.into_iter().map(line).collect()
}

/// One test of a claim by itself.
fn test(claim: &Claim, kl: Option<f64>, sample: &PairedSample, level: f64) -> ClaimTest {
    let (effect, seeds) = (sample.at_level(level), sample.seeds());
    let (judgement, reason) = match (effect, sample) {
        _ if seeds < FEWEST_SEEDS => {
            let of_arms = match (claim.arms.len(), kl) {
                (1, _) => "measured",
                (_, None) => "with both arms measured",
                (_, Some(_)) => "with both arms there",
            };
            (Verdict::Inconclusive, Some(format!("{seeds} seeds {of_arms}, and {FEWEST_SEEDS} are needed")))
        }
        (_, PairedSample::Counted(values)) => decide_counts(claim, values),
        (Some(effect), PairedSample::Spread(_)) if effect.interval == Some([0.0, 0.0]) => same_spread(claim.rule),
        (Some(effect), PairedSample::Spread(_)) if effect.value.is_infinite() => {
            (Verdict::Inconclusive, Some("one arm has no spread at all, so that the ratio is undefined".into()))
        }
        (_, PairedSample::Mean(values)) if values.iter().any(|x| x.is_infinite()) => {
            let (infinite, one) = (values.iter().filter(|x| x.is_infinite()).count(), "one of the two is zero");
            (Verdict::Inconclusive, Some(format!("{one} at {infinite} of {seeds} seeds: such ratios have no mean")))
        }
        (Some(effect), _) => decide(claim.rule, &effect, claim.smallest),
        (None, _) => (Verdict::Inconclusive, Some("there is nothing to compare".into())),
    };
    ClaimTest {
        kl,
        judgement,
        effect: effect.map(|e| e.value),
        times: effect.filter(|_| claim.metric.is_log_ratio()).map(|e| e.value.exp()),
        interval: effect.and_then(|e| e.interval),
        level,
        p: sample.p(),
        p_sign_flip: sample.p_sign_flip(),
        seeds,
        reason,
    }
}

/// Counts without randomness: the claim holds if it does at every seed. Ahead: fewer. Equal: within the smallest effect.
fn decide_counts(claim: &Claim, values: &[f64]) -> (Verdict, Option<String>) {
    let holds = |x: &&f64| match claim.rule {
        ClaimRule::Ahead => **x > 0.0,
        ClaimRule::Equal => **x == 0.0 || x.abs() < claim.smallest,
    };
    match values.iter().filter(holds).count() {
        0 => (Verdict::Contradicted, Some("at no seed".into())),
        all if all == values.len() => (Verdict::Reproduced, None),
        _ => (Verdict::Inconclusive, Some("at some seeds".into())),
    }
}

/// Spreads that are equal because the values differ by a constant or do not vary: `equal` holds, and `ahead` cannot be tested.
fn same_spread(rule: ClaimRule) -> (Verdict, Option<String>) {
    match rule {
        ClaimRule::Equal => (Verdict::Reproduced, None),
        ClaimRule::Ahead => {
            let why = "both arms have the same spread at these seeds, to the last digit: there is nothing to test";
            (Verdict::Inconclusive, Some(why.into()))
        }
    }
}

/// The rule. Ahead: reproduced by an interval above zero and an effect of at least the smallest, contradicted by an interval
/// below zero or within the smallest effect of it. Equal: reproduced by an interval within the smallest effect of zero,
/// contradicted by one that excludes zero and an effect of at least the smallest.
fn decide(rule: ClaimRule, effect: &Effect, smallest: f64) -> (Verdict, Option<String>) {
    let Some([low, high]) = effect.interval else {
        let why = if effect.value.is_finite() { "too few seeds for an interval" } else { "the effect is not finite" };
        return (Verdict::Inconclusive, Some(why.into()));
    };
    let is_null = (low > -smallest && high < smallest) || (low == 0.0 && high == 0.0);
    let off_zero = low > 0.0 || high < 0.0;
    match rule {
        ClaimRule::Equal if is_null => (Verdict::Reproduced, None),
        ClaimRule::Equal if off_zero && effect.value.abs() >= smallest => (
            Verdict::Contradicted,
            Some(format!("{} by {smallest} or more", if low > 0.0 { "ahead" } else { "behind" })),
        ),
        ClaimRule::Equal => (Verdict::Inconclusive, Some(format!("the interval reaches beyond ±{smallest}"))),
        ClaimRule::Ahead if low > 0.0 && effect.value >= smallest => (Verdict::Reproduced, None),
        ClaimRule::Ahead if high < 0.0 => (Verdict::Contradicted, Some("the other is ahead".into())),
        ClaimRule::Ahead if is_null => {
            (Verdict::Contradicted, Some(format!("no difference: the whole interval lies within ±{smallest}")))
        }
        ClaimRule::Ahead if low > 0.0 => (Verdict::Inconclusive, Some(format!("ahead, but by less than {smallest}"))),
        ClaimRule::Ahead => {
            (Verdict::Inconclusive, Some("the interval contains zero and effects larger than the smallest".into()))
        }
    }
}

/// The judgement of all tests of a claim together.
fn combine(claim: &Claim, tests: &[ClaimTest], is_refused: bool) -> (Verdict, Vec<String>) {
    let count = |judgement| tests.iter().filter(|test| test.judgement == judgement).count();
    let (reproduced, contradicted) = (count(Verdict::Reproduced), count(Verdict::Contradicted));
    let needed = if claim.metric.is_at_kl() { claim.needed() } else { 1 };
    // KL values with the same reason share it
    let mut reasons: Vec<(&String, Vec<String>)> = vec![];
    for test in tests {
        let Some(why) = &test.reason else { continue };
        let kl = test.kl.filter(|_| tests.len() > 1).map(|kl| kl.to_string());
        match reasons.iter_mut().find(|(other, _)| *other == why) {
            Some((_, places)) => places.extend(kl),
            None => reasons.push((why, kl.into_iter().collect())),
        }
    }
    let in_words = |(why, places): &(&String, Vec<String>)| match &places[..] {
        [] => (*why).clone(),
        places => format!("at KL {}: {why}", places.join(", ")),
    };
    let reasons = reasons.iter().map(in_words).collect();
    let judgement = match () {
        () if is_refused => Verdict::Inconclusive,
        () if reproduced >= needed => Verdict::Reproduced,
        () if contradicted > tests.len() - needed => Verdict::Contradicted,
        () => Verdict::Inconclusive,
    };
    (judgement, reasons)
}

/// Reasons not to judge a claim, regardless of its numbers.
fn reasons_to_abstain(claim: &Claim, sides: &[(&RunEvidence, &str)]) -> Vec<String> {
    let mut reasons = vec![];
    let trained: Vec<_> = sides.iter().filter(|(_, arm)| *arm != REFERENCE).collect();
    if let [(one, first), (other, second)] = trained[..] {
        let [a, b] = [budget(one, first), budget(other, second)];
        if a.points.abs_diff(b.points) * 20 > a.points.max(b.points) {
            reasons.push(format!("unequal budgets: {} points of {first}, {} of {second}", a.points, b.points));
        }
    }
    for (evidence, arm) in trained {
        let run = evidence.run;
        let is_of_quality = claim.metric.is_at_kl() && claim.metric != ClaimMetric::Length;
        if is_of_quality {
            let prefix = format!("arms.{arm}.");
            reasons.extend(evidence.edges.iter().filter(|edge| edge.starts_with(&prefix)).cloned());
        }
        let ended: Vec<bool> =
            run.cells.iter().filter(|cell| cell.arm == *arm).filter_map(|cell| has_diverged(run, cell)).collect();
        let diverged = ended.iter().filter(|diverged| **diverged).count();
        let failed = run.manifest.failed.iter().find(|(stage, _)| stage.starts_with(&format!("{arm} ")));
        if claim.metric == ClaimMetric::Diverged || claim.metric.is_counted() {
            // a claim about divergence itself, or about counts that divergence does not change
        } else if diverged * 5 > ended.len() {
            reasons.push(format!("{diverged} of {} trainings of {arm} diverged, and that is the result", ended.len()));
        } else if let Some((stage, why)) = failed {
            reasons.push(format!("{stage} failed: {why}"));
        }
        if claim.metric.is_at_kl()
            && let Some(point) = run.points_of(arm).find(|point| is_kl_uncertain(point))
        {
            reasons.push(format!("the standard error of {arm}'s KL at {} is more than a tenth of it", point.label));
        }
        if claim.metric == ClaimMetric::Drop {
            let rise = |seed: u64| over_optimization::for_seed(run, arm, seed)?.proxy.first().copied();
            let rises: Vec<f64> = run.experiment.seed_list().into_iter().filter_map(rise).collect();
            let rise = mean(&rises);
            if rise.is_nan() || rise <= 0.0 {
                reasons.push(format!(
                    "manipulation check: beyond the peak {arm}'s proxy does not rise ({})",
                    fixed(rise, 2)
                ));
            }
        }
    }
    reasons
}

/// Whether the KL of a point's finished policies is too uncertain.
fn is_kl_uncertain(point: &MeasuredPoint) -> bool {
    let measured = point.finished().filter_map(|(_, e)| e.test(KL).zip(e.test(KL_SE)));
    measured.into_iter().any(|(kl, error)| error > 0.1 * kl)
}

/// What an arm spent: on its search, if any, and on its own trainings.
fn budget(evidence: &RunEvidence, arm: &str) -> TrainingBudget {
    let (run, tuning) = (evidence.run, evidence.tuning);
    let labels = run.cells.iter().filter(|cell| cell.arm == arm).map(|cell| &cell.point.label);
    let compared = labels.collect::<BTreeSet<_>>().len();
    let trials: Vec<_> = tuning.trials.iter().filter(|trial| trial.arm == arm).collect();
    let (points, searched) = if run.experiment.is_tuned() {
        (trials.len(), trials.iter().map(|trial| trial.seeds.len()).sum())
    } else {
        (compared, 0)
    };
    let trained: usize = run.points_of(arm).map(|point| point.seeds.len()).sum();
    let flops: f64 = run.points_of(arm).flat_map(|p| p.finished()).map(|(_, mark)| mark.clocks.flops).sum();
    let spent = if run.experiment.is_tuned() { tuning.spent(arm, &run.experiment) } else { 0.0 };
    TrainingBudget { points, trainings: searched + trained, flops: flops + spent + 0.0 } // the sum of nothing is −0
}

#[cfg(test)]
mod tests;
