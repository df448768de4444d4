//! All arms and the reference against each other at one KL, from the responses of mixtures of their finished policies.

use crate::analysis::bradley_terry::{WinMatrix, strengths};
use crate::analysis::frontier::common_kl;
use crate::analysis::length_control::{LengthControl, LengthGaps, difficulty, length_gaps, mean_gaps};
use crate::analysis::run::Run;
use crate::analysis::stats::{Estimate, bootstrap, mean, prompt_bootstrap};
use crate::analysis::win_rate::{PromptOutcomes, RESAMPLES, by_prompt, of_prompts, outcomes_at, prompt_interval};
use crate::format::fixed;
use duel_spec::{REFERENCE, WorldKind};
use std::fmt;

/// The policies that are compared.
pub(crate) struct HeadToHead<'a> {
    /// The arms, then the reference.
    pub(crate) names: Vec<&'a str>,
    pub(crate) kl: f64,
    /// By policy and seed; `None` where it does not reach the KL.
    outcomes: Vec<Vec<Option<Vec<PromptOutcomes>>>>,
    /// Whether the prompts are a sample of others.
    samples_prompts: bool,
}

/// A number of some policies: the mean over seeds with its t-interval, or that of one seed with an interval over prompts, where those
/// are a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SeedEstimate {
    pub(crate) estimate: Estimate,
    pub(crate) interval: Option<[f64; 2]>,
}

impl fmt::Display for SeedEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(2);
        match self.interval.filter(|_| self.estimate.n == 1) {
            Some([low, high]) => {
                write!(f, "{} [{}, {}]", fixed(self.estimate.mean, places), fixed(low, places), fixed(high, places))
            }
            None => write!(f, "{:.places$}", self.estimate),
        }
    }
}

impl<'a> HeadToHead<'a> {
    /// At the KL that most seeds of all arms reach; `None` for runs without outcomes.
    pub(crate) fn at_common_kl(run: &'a Run) -> Option<Self> {
        if run.outcomes.is_empty() {
            return None;
        }
        let kl = common_kl(run);
        let names: Vec<&str> = run.arms().into_iter().chain([REFERENCE]).collect();
        let seeds = run.experiment.seed_list();
        let of_policy = |arm: &&str| seeds.iter().map(|&seed| outcomes_at(run, arm, seed, kl)).collect();
        let outcomes = names.iter().map(of_policy).collect();
        Some(Self { names, kl, outcomes, samples_prompts: run.experiment.world.kind != WorldKind::Grammar })
    }

    /// The index of the reference.
    fn reference(&self) -> usize {
        self.names.len() - 1
    }

    /// The outcomes of two policies at the seeds where both reach the KL, with the index of the seed.
    fn seeds_of(&self, a: usize, b: usize) -> impl Iterator<Item = (usize, &[PromptOutcomes], &[PromptOutcomes])> {
        let pairs = self.outcomes[a].iter().zip(&self.outcomes[b]).enumerate();
        pairs.filter_map(|(seed, (a, b))| Some((seed, a.as_deref()?, b.as_deref()?)))
    }

    /// The mean of one value for each seed; `over_prompts` is the interval where there is one seed.
    fn estimate(&self, by_seed: &[f64], over_prompts: impl FnOnce() -> Option<[f64; 2]>) -> Option<SeedEstimate> {
        let estimate = Estimate::of(by_seed)?;
        let interval = match estimate.half_width {
            Some(half) => Some([estimate.mean - half, estimate.mean + half]),
            None if estimate.n == 1 && self.samples_prompts => over_prompts(),
            None => None,
        };
        Some(SeedEstimate { estimate, interval })
    }

    /// Win rate of the first against the second, among all pairs of responses or those of equal length.
    pub(crate) fn win_rate(&self, a: usize, b: usize, equal_length: bool) -> Option<SeedEstimate> {
        let rates = self.seeds_of(a, b).map(|(_, a, b)| by_prompt(a, b, equal_length));
        let rates: Vec<Vec<f64>> = rates.filter(|rates| !rates.is_empty()).collect();
        let means: Vec<f64> = rates.iter().map(|of_prompts| mean(of_prompts)).collect();
        self.estimate(&means, || prompt_interval(&rates))
    }

    /// How many tokens longer the first is than the second.
    pub(crate) fn length_difference(&self, a: usize, b: usize) -> Option<SeedEstimate> {
        let by_prompt = |(_, a, b): (usize, &[PromptOutcomes], &[PromptOutcomes])| mean_gaps(&length_gaps(a, b));
        let gaps: Vec<Vec<f64>> = self.seeds_of(a, b).map(by_prompt).filter(|gaps| !gaps.is_empty()).collect();
        let means: Vec<f64> = gaps.iter().map(|of_prompts| mean(of_prompts)).collect();
        self.estimate(&means, || prompt_bootstrap(&gaps, 0.95, RESAMPLES))
    }

    /// The difficulty of each prompt, by seed: from all arms against the reference.
    pub(crate) fn difficulties(&self) -> Vec<Vec<f64>> {
        let mut against_reference: Vec<Vec<LengthGaps>> = vec![vec![]; self.outcomes[0].len()];
        for arm in 0..self.reference() {
            for (seed, arm, reference) in self.seeds_of(arm, self.reference()) {
                against_reference[seed].push(length_gaps(arm, reference));
            }
        }
        against_reference.iter().map(|arms| difficulty(arms)).collect()
    }

    /// Length-controlled win rate of the first against the second, given the difficulties of prompts by seed; seeds at which it
    /// cannot be told from length are left out.
    pub(crate) fn length_controlled(&self, a: usize, b: usize, difficulties: &[Vec<f64>]) -> Option<SeedEstimate> {
        let fit = |(seed, a, b): (usize, &[PromptOutcomes], &[PromptOutcomes])| {
            LengthControl::fit(&length_gaps(a, b), &difficulties[seed])
        };
        let fits: Vec<LengthControl> = self.seeds_of(a, b).filter_map(fit).collect();
        let rates: Vec<f64> = fits.iter().map(LengthControl::win_rate).collect();
        self.estimate(&rates, || fits[0].interval())
    }

    /// How often each of some policies wins against each other, prompt by prompt: one comparison of every pair on a prompt.
    fn wins_by_prompt(&self, policies: &[usize], seed: usize) -> Vec<WinMatrix> {
        let outcomes = |index: usize| self.outcomes[policies[index]][seed].as_deref().unwrap_or_default();
        let prompts = (0..policies.len()).map(|index| outcomes(index).len()).max().unwrap_or(0);
        let mut by_prompt = vec![vec![vec![0.0; policies.len()]; policies.len()]; prompts];
        for (a, b) in (0..policies.len()).flat_map(|a| (a + 1..policies.len()).map(move |b| (a, b))) {
            for (wins, rate) in by_prompt.iter_mut().zip(of_prompts(outcomes(a), outcomes(b))) {
                let Some(rate) = rate else { continue };
                (wins[a][b], wins[b][a]) = (rate, 1.0 - rate);
            }
        }
        by_prompt
    }

    /// Bradley-Terry strengths of the arms over the reference, log-odds, from the strongest down, over the seeds at which every arm
    /// reaches the KL that does so at any seed; the others are left out.
    pub(crate) fn strengths(&self) -> Vec<(usize, SeedEstimate)> {
        let reaches = |policy: &usize| self.outcomes[*policy].iter().any(Option::is_some);
        let policies: Vec<usize> = (0..self.names.len()).filter(reaches).collect();
        let all_reach = |seed: &usize| policies.iter().all(|&policy| self.outcomes[policy][*seed].is_some());
        let seeds: Vec<usize> = (0..self.outcomes[0].len()).filter(all_reach).collect();
        if policies.last() != Some(&self.reference()) {
            return vec![];
        }
        let (arms, anchor) = (&policies[..policies.len() - 1], policies.len() - 1);
        let fit = |prompts: &[&WinMatrix]| {
            let mut sum = vec![vec![0.0; policies.len()]; policies.len()];
            for wins in prompts {
                sum.iter_mut().flatten().zip(wins.iter().flatten()).for_each(|(sum, wins)| *sum += wins);
            }
            strengths(&sum, anchor)
        };
        let wins: Vec<Vec<WinMatrix>> = seeds.iter().map(|&seed| self.wins_by_prompt(&policies, seed)).collect();
        let by_seed: Vec<Vec<f64>> = wins.iter().map(|prompts| fit(&Vec::from_iter(prompts))).collect();
        let over_prompts = match &wins[..] {
            [prompts] if self.samples_prompts => bootstrap(prompts.len(), 0.95, RESAMPLES, |resampled| {
                fit(&resampled.iter().map(|&prompt| &prompts[prompt]).collect::<Vec<_>>())
            }),
            _ => None,
        };
        let of_arm = |(index, &arm): (usize, &usize)| {
            let values: Vec<f64> = by_seed.iter().map(|strengths| strengths[index]).collect();
            Some((arm, self.estimate(&values, || Some(over_prompts.as_ref()?[index]))?))
        };
        let mut all: Vec<(usize, SeedEstimate)> = arms.iter().enumerate().filter_map(of_arm).collect();
        all.sort_by(|a, b| b.1.estimate.mean.total_cmp(&a.1.estimate.mean));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use duel_ledger::Outcomes;
    use duel_spec::metrics::{GOLD, KL};
    use duel_spec::{Clocks, OutcomeRow};

    /// Gold and tokens of one response to each prompt.
    type Responses<'a> = &'a [(f64, u32)];

    /// A run whose arms reach KL 1 with these responses at each seed, one to a prompt; an arm without responses is not there.
    fn run_with(arms: &[(&str, Vec<Responses>)], seeds: u64) -> Run {
        let blocks = arms.iter().filter(|(name, _)| *name != REFERENCE);
        let blocks: String = blocks.map(|(name, _)| format!("[arms.{name}]\nmethod = 'dpo'\n")).collect();
        let mut run = HandMadeRun::new(&format!("name = 'pairs'\nseeds = {seeds}\ntuning.kl = 1.0\n{blocks}"));
        for (name, by_seed) in arms {
            let is_arm = |cell: &&duel_spec::Cell| cell.arm == *name;
            let label = run.run().cells.iter().find(is_arm).map_or("sft".into(), |cell| cell.point.label.clone());
            let kl = f64::from(u8::from(*name != REFERENCE));
            for (seed, responses) in by_seed.iter().enumerate().filter(|(_, responses)| !responses.is_empty()) {
                run.evaluation(name, &label, seed as u64, Clocks::default(), &[(KL, kl), (GOLD, kl)]);
                let row = |(prompt, &(gold_reward, tokens)): (usize, &(f64, u32))| OutcomeRow {
                    prompt: prompt as u32,
                    gold_reward,
                    tokens,
                    share: 1.0,
                };
                let all = responses.iter().enumerate().map(row).collect();
                let outcomes = Outcomes { arm: (*name).into(), point: label.as_str().into(), seed: seed as u64, all };
                run.run().outcomes.push(outcomes);
            }
        }
        run.finish()
    }

    fn strength_of(run: &Run, arm: &str) -> Option<SeedEstimate> {
        let policies = HeadToHead::at_common_kl(run)?;
        policies.strengths().into_iter().find(|(index, _)| policies.names[*index] == arm).map(|(_, strength)| strength)
    }

    const LOW: Responses = &[(0.0, 3), (0.0, 3), (0.0, 3), (0.0, 3)];

    /// Wins on three of four prompts are 3 to 1; with a tie on the fourth 3.5 to .5. The interval is over seeds.
    #[test]
    fn one_arm_has_the_log_odds_of_its_win_rate() {
        let three: Responses = &[(1.0, 3), (1.0, 3), (1.0, 3), (-1.0, 3)];
        let and_a_tie: Responses = &[(1.0, 3), (1.0, 3), (1.0, 3), (0.0, 3)];
        let run = run_with(&[(REFERENCE, vec![LOW; 2]), ("a", vec![three, and_a_tie])], 2);
        let strength = strength_of(&run, "a").expect("a strength");
        let (first, second) = (3f64.ln(), 7f64.ln());
        assert!((strength.estimate.mean - f64::midpoint(first, second)).abs() < 1e-8 && strength.estimate.n == 2);
        let half = 12.706_204_736 * (second - first) / 2.0; // t of one degree of freedom
        assert!(strength.interval.is_some_and(|[low, high]| (high - low - 2.0 * half).abs() < 1e-6), "{strength:?}");
        assert_eq!(strength.to_string(), format!("{:.2} ± {half:.2}", f64::midpoint(first, second)));
    }

    /// Of one seed the interval is over prompts where these are a sample, and an arm that always wins is infinitely strong.
    #[test]
    fn of_one_seed_the_interval_is_over_prompts() {
        let three: Responses = &[(1.0, 3), (1.0, 4), (1.0, 3), (-1.0, 5)];
        let best: Responses = &[(2.0, 3), (2.0, 3), (2.0, 3), (2.0, 3)];
        let mut run = run_with(&[(REFERENCE, vec![LOW]), ("a", vec![three]), ("b", vec![best])], 1);
        assert_eq!(strength_of(&run, "a").expect("exact").interval, None);
        run.experiment.world.kind = WorldKind::Reviews;
        let strength = strength_of(&run, "a").expect("sampled");
        assert!((strength.estimate.mean - 3f64.ln()).abs() < 1e-8);
        let [low, high] = strength.interval.expect("over prompts");
        assert!(
            low < 3f64.ln() && high == f64::INFINITY,
            "a resample without the lost prompt always wins: {low} {high}"
        );
        assert_eq!(strength_of(&run, "b").expect("it is there").to_string(), "∞ [∞, ∞]");
        let policies = HeadToHead::at_common_kl(&run).expect("outcomes");
        assert_eq!(policies.strengths().iter().map(|(arm, _)| policies.names[*arm]).collect::<Vec<_>>(), ["b", "a"]);
        let [a, reference] = [0, 2];
        assert_eq!(policies.win_rate(a, reference, true).map(|rate| rate.estimate.mean), Some(1.0));
        assert_eq!(policies.length_difference(a, reference).map(|gap| gap.estimate.mean), Some(0.75));
        let controlled = policies.length_controlled(a, reference, &policies.difficulties()).expect("a fit");
        assert!(
            controlled.estimate.mean > 0.75 && controlled.interval.is_some(),
            "the lost one is the longest: {controlled}"
        );
    }

    /// No responses, no arm that reaches the KL, one prompt alone: nothing, an empty list, no interval.
    #[test]
    fn little_is_said_of_little() {
        assert!(HeadToHead::at_common_kl(&run_with(&[("a", vec![])], 1)).is_none());
        let alone = run_with(&[(REFERENCE, vec![LOW]), ("a", vec![])], 1);
        assert!(HeadToHead::at_common_kl(&alone).expect("the reference").strengths().is_empty());
        let mut one = run_with(&[(REFERENCE, vec![&LOW[..1]]), ("a", vec![&[(0.0, 3)]])], 1);
        one.experiment.world.kind = WorldKind::Reviews;
        let strength = strength_of(&one, "a").expect("a tie");
        assert_eq!((strength.estimate.mean, strength.interval), (0.0, None));
    }

    /// A seed at which one arm is missing counts for no strength, as each depends on who else was compared.
    #[test]
    fn strengths_are_of_the_seeds_that_all_arms_have() {
        let three: Responses = &[(1.0, 3), (1.0, 3), (1.0, 3), (-1.0, 3)];
        let one: Responses = &[(1.0, 3), (-1.0, 3), (-1.0, 3), (-1.0, 3)];
        let arms = [(REFERENCE, vec![LOW; 3]), ("a", vec![three; 3]), ("b", vec![one, one, &[]])];
        let run = run_with(&arms, 3);
        assert_eq!(["a", "b"].map(|arm| strength_of(&run, arm).expect("two seeds").estimate.n), [2, 2]);
        let policies = HeadToHead::at_common_kl(&run).expect("outcomes");
        assert_eq!(policies.win_rate(0, 2, false).expect("all seeds").estimate.n, 3);
    }
}
