//! Exact evaluation in `grammar`: every response to every prompt, by one walk over the tree of prefixes.

use crate::distribution::{ObjectiveTerms, ResponseDistribution, RewardRanks, at_kl, best_of_n, is_tie, optima};
use crate::score::{EvalMetrics, EvalResult};
use crate::{Error, Result, invariants};
use burn::tensor::{Int, Tensor, TensorData};
use duel_data::World;
use duel_data::grammar::{
    ACTIONS, GrammarWorld, MAX_SYMBOLS, PromptCoordinates, SYMBOLS, all_responses, excitements, gold,
    reference_decisions, response_logp,
};
use duel_model::{KvCache, Policy, ResponseReader, Responses, generate, weights::host};
use duel_reward::Scorer;
use duel_spec::ids::prompt_hash;
use duel_spec::seeds::{self, Stream};
use duel_spec::{OutcomeRow, Split, metrics};
use duel_training::invariants::{diverged, sampled_from_finite};
use duel_training::rounding::nudged;

/// Samples of the check that the sampler follows the model.
const SAMPLER_DRAWS: usize = 1024;

/// Probability mass that may move with the last bit of the weights: sampler and enumeration differ in arithmetic.
const LOST_MASS: f64 = 0.01;

/// Outcomes of a smaller probability are dropped.
const LEAST_SHARE: f64 = 1e-6;

/// Log-probabilities of the next action (order of [`ACTIONS`]) after every decision prefix, for each prompt:
/// `[prompts][DECISIONS][6]`. One cached walk over the tree; `policy` carries no gradient.
fn decision_distributions(policy: &Policy, reader: &ResponseReader, prompts: &[Vec<u32>]) -> Vec<Vec<[f64; 6]>> {
    let (device, vocabulary) = (reader.device(), reader.space().vocabulary);
    let mut distributions: Vec<Vec<[f64; 6]>> = vec![vec![]; prompts.len()];
    let mut cache = KvCache::default();
    let mut per_prompt = 1;
    for level in 0..MAX_SYMBOLS {
        let feed: Vec<i32> = if level == 0 {
            prompts.iter().flatten().map(|&id| id as i32).collect()
        } else {
            // The children of a prefix: the same context, then each symbol.
            let prefixes = per_prompt * prompts.len();
            let parents: Vec<usize> = (0..prefixes).flat_map(|row| [row; SYMBOLS.len()]).collect();
            cache = cache.select(&parents);
            per_prompt *= SYMBOLS.len();
            (0..prefixes).flat_map(|_| SYMBOLS.map(|s| s as i32)).collect()
        };
        let rows = per_prompt * prompts.len();
        let width = feed.len() / rows;
        let ids = Tensor::<2, Int>::from_data(TensorData::new(feed, [rows, width]), device); // [rows, width]
        let logits = host(policy.next_logits(ids, &mut cache)); // [rows, V]
        for (row, logits) in logits.chunks_exact(vocabulary).enumerate() {
            distributions[row / per_prompt].push(log_softmax(logits));
        }
    }
    distributions
}

/// The log-softmax over the allowed actions, in f64.
fn log_softmax(logits: &[f32]) -> [f64; 6] {
    let chosen = ACTIONS.map(|a| f64::from(logits[a as usize]));
    let max = chosen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_z = max + chosen.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    chosen.map(|x| x - log_z)
}

/// Scores of every response to each prompt, `[prompts][RESPONSES]`.
pub fn proxy_table(scorer: &dyn Scorer, prompts: &[Vec<u32>], eos: u32) -> Result<Vec<Vec<f64>>> {
    let closed: Vec<Vec<u32>> = all_responses().into_iter().map(|r| r.into_iter().chain([eos]).collect()).collect();
    prompts
        .iter()
        .map(|prompt| {
            let batch = Responses {
                prompts: vec![prompt.clone(); closed.len()],
                responses: closed.clone(),
                logp: vec![],
                masks: vec![],
            };
            Ok(scorer.score(&batch)?)
        })
        .collect()
}

/// Responses to one prompt in groups of the same gold and length.
#[derive(Debug, Clone)]
struct OutcomeGroups {
    /// Of each response.
    group: Vec<usize>,
    /// Gold and tokens of each group.
    outcomes: Vec<(f64, u32)>,
}

impl OutcomeGroups {
    fn new(gold: &[f64], lengths: &[f64]) -> Self {
        let mut order: Vec<usize> = (0..gold.len()).collect();
        order.sort_by(|&a, &b| lengths[a].total_cmp(&lengths[b]).then(gold[a].total_cmp(&gold[b])));
        let (mut group, mut outcomes) = (vec![0; gold.len()], vec![]);
        let is_same = |&a: &usize, &b: &usize| lengths[a] == lengths[b] && is_tie(gold[a], gold[b]);
        for responses in order.chunk_by(is_same) {
            responses.iter().for_each(|&y| group[y] = outcomes.len());
            outcomes.push((gold[responses[0]], lengths[responses[0]] as u32));
        }
        Self { group, outcomes }
    }

    /// The outcomes of a distribution, without those of negligible probability.
    fn outcomes(&self, prompt: usize, distribution: &ResponseDistribution) -> Vec<OutcomeRow> {
        let mut shares = vec![0.0; self.outcomes.len()];
        self.group.iter().zip(&distribution.p).for_each(|(&group, p)| shares[group] += p);
        let outcome = |(&(gold_reward, tokens), share): (&(f64, u32), f64)| OutcomeRow {
            prompt: prompt as u32,
            gold_reward,
            tokens,
            share: share as f32,
        };
        self.outcomes.iter().zip(shares).filter(|(_, share)| *share >= LEAST_SHARE).map(outcome).collect()
    }
}

/// One split with its reference, for the evaluation of any policy.
#[derive(Debug, Clone)]
struct SplitTables {
    split: Split,
    prompts: Vec<Vec<u32>>,
    reference: Vec<ResponseDistribution>,
    gold: Vec<Vec<f64>>,
    /// Responses to each prompt by their gold.
    ranks: Vec<RewardRanks>,
    /// Responses to each prompt, grouped by length and gold.
    groups: Vec<OutcomeGroups>,
    /// The learned reward of every response, where there is one.
    proxy: Option<Vec<Vec<f64>>>,
    reference_gold: f64,
}

/// Evaluates policies on validation and test prompts by enumeration.
#[derive(Debug, Clone)]
pub struct ExactEvaluator {
    reader: ResponseReader,
    splits: Vec<SplitTables>,
    lengths: Vec<f64>,
    trap: Vec<f64>,
}

impl ExactEvaluator {
    /// `reference` and `reader` carry no gradient; `proxy` gives the learned reward of every response to
    /// each prompt of a split.
    pub fn new(
        world: &GrammarWorld,
        reader: ResponseReader,
        reference: &Policy,
        proxy: Option<&dyn Fn(Split) -> Vec<Vec<f64>>>,
    ) -> Self {
        let all = all_responses();
        let lengths: Vec<f64> = all.iter().map(|r| r.len() as f64 + 1.0).collect();
        let splits = [Split::Validation, Split::Test]
            .map(|split| {
                let prompts: Vec<Vec<u32>> = world.prompts(split).iter().map(|p| p.ids.clone()).collect();
                let reference = distributions(reference, &reader, &prompts);
                let gold: Vec<Vec<f64>> = prompts
                    .iter()
                    .map(|p| all.iter().map(|r| gold(PromptCoordinates::from_prompt(p), r)).collect())
                    .collect();
                let reference_gold =
                    mean(reference.iter().zip(&gold).map(|(distribution, gold)| distribution.expect(gold)));
                let ranks = gold.iter().map(|gold| RewardRanks::new(gold)).collect();
                let groups = gold.iter().map(|gold| OutcomeGroups::new(gold, &lengths)).collect();
                let proxy = proxy.map(|p| p(split));
                SplitTables { split, prompts, reference, gold, ranks, groups, proxy, reference_gold }
            })
            .into();
        Self { reader, splits, lengths, trap: all.iter().map(|r| f64::from(excitements(r) >= 2)).collect() }
    }

    /// Metrics of a policy on validation and test; `beta` is the KL coefficient of its objective, if it has one.
    pub fn measure(&self, policy: &Policy, beta: Option<f64>) -> Result<Vec<EvalResult>> {
        self.splits
            .iter()
            .map(|tables| {
                let distributions = distributions(policy, &self.reader, &tables.prompts);
                let mut result = self.evaluate(tables, &distributions, beta)?;
                self.compare_at_kl(tables, &mut result);
                let groups = distributions.iter().zip(&tables.groups).enumerate();
                result.outcomes =
                    groups.flat_map(|(prompt, (distribution, groups))| groups.outcomes(prompt, distribution)).collect();
                Ok(result)
            })
            .collect()
    }

    /// Metrics of the pseudo-arms, as `(arm, point, metrics)`: the exact optimum of the gold reward and the PPO-ideal at each
    /// β, and the best of N responses of the reference by the learned reward.
    pub fn theory(&self, betas: &[f64], ns: &[i32]) -> Result<Vec<(&'static str, String, EvalResult)>> {
        let mut out = Vec::new();
        for tables in &self.splits {
            let targets = [("optimum", Some(&tables.gold)), ("ppo-ideal", tables.proxy.as_ref())];
            for (arm, rewards) in targets {
                for &beta in betas {
                    let Some(rewards) = rewards else { continue };
                    let distributions = optima(&tables.reference, rewards, beta);
                    let mut result = self.evaluate(tables, &distributions, Some(beta))?;
                    if arm == "ppo-ideal" {
                        self.compare_at_kl(tables, &mut result);
                    }
                    out.push((arm, format!("beta={beta:.5}"), result));
                }
            }
            let ranks = tables.proxy.iter().flatten().map(|proxy| RewardRanks::new(proxy)).collect::<Vec<_>>();
            for &n in if ranks.is_empty() { &[] } else { ns } {
                let best = tables.reference.iter().zip(&ranks).map(|(reference, ranks)| best_of_n(reference, ranks, n));
                let mut result = self.evaluate(tables, &best.collect::<Vec<_>>(), None)?;
                self.compare_at_kl(tables, &mut result);
                out.push(("best-of-n", format!("n={n}"), result));
            }
        }
        Ok(out)
    }

    fn evaluate(
        &self,
        tables: &SplitTables,
        distributions: &[ResponseDistribution],
        beta: Option<f64>,
    ) -> Result<EvalResult> {
        distributions.iter().try_for_each(|distribution| invariants::probabilities_sum_to_one(distribution.total()))?;
        let pairs = || distributions.iter().zip(&tables.reference);
        let gold = mean(distributions.iter().zip(&tables.gold).map(|(distribution, gold)| distribution.expect(gold)));
        let square = mean(
            distributions
                .iter()
                .zip(&tables.gold)
                .map(|(distribution, gold)| distribution.expect(&gold.iter().map(|r| r * r).collect::<Vec<_>>())),
        );
        let kl = mean(pairs().map(|(distribution, reference)| distribution.kl(reference)));
        let entropy = mean(distributions.iter().map(ResponseDistribution::entropy));
        invariants::exact_kl_is_not_negative(kl, entropy)?;
        let beats: Vec<(f64, f64)> = pairs()
            .zip(&tables.ranks)
            .map(|((distribution, reference), ranks)| distribution.beats(reference, ranks))
            .collect();
        let tie_rate = mean(beats.iter().map(|(_, tie)| *tie));
        let metrics = EvalMetrics {
            gold,
            gold_se: 0.0,
            gold_sd: (square - gold * gold).max(0.0).sqrt(),
            proxy: tables
                .proxy
                .as_ref()
                .map(|proxy| mean(distributions.iter().zip(proxy).map(|(distribution, r)| distribution.expect(r)))),
            kl: kl.max(0.0),
            kl_se: 0.0,
            win_rate: mean(beats.iter().map(|(win, _)| *win)) + tie_rate / 2.0,
            tie_rate,
            length: mean(distributions.iter().map(|distribution| distribution.expect(&self.lengths))),
            entropy,
        };
        let mut result = metrics.into_result(tables.split);
        result.prompts = tables.prompts.iter().map(|prompt| prompt_hash(prompt)).collect();
        result
            .values
            .push((metrics::TRAP_MASS, mean(distributions.iter().map(|distribution| distribution.expect(&self.trap)))));
        result.values.push((metrics::TOTAL_PROBABILITY, mean(distributions.iter().map(ResponseDistribution::total))));
        if let Some(beta) = beta {
            let best_policies = optima(&tables.reference, &tables.gold, beta);
            let best = ObjectiveTerms::new(&best_policies, &tables.reference, &tables.gold, beta);
            let actual = ObjectiveTerms { beta, gold, kl };
            invariants::nobody_beats_the_optimum(&actual, &best)?;
            result.values.push((metrics::OBJECTIVE, actual.objective()));
            result.values.push((metrics::REGRET, best.objective() - actual.objective()));
            if best.objective() > 0.0 {
                result.values.push((metrics::OBJECTIVE_SHARE, actual.objective() / best.objective()));
            }
            let distance = mean(
                distributions.iter().zip(&best_policies).map(|(distribution, best)| distribution.total_variation(best)),
            );
            result.values.push((metrics::TOTAL_VARIATION, distance));
        }
        Ok(result)
    }

    /// η and related metrics: the gold of the exact optimum and of the PPO-ideal at the same KL (docs/verdicts.md,
    /// 'Matched KL').
    fn compare_at_kl(&self, tables: &SplitTables, result: &mut EvalResult) {
        let (Some(gold), Some(kl)) = (result.get(metrics::GOLD), result.get(metrics::KL)) else { return };
        if kl < 1e-4 {
            return; // at the reference the gain is 0 and η is 0/0
        }
        let best = at_kl(&tables.reference, &tables.gold, &tables.gold, kl);
        let gain = best.gold - tables.reference_gold;
        result.values.push((metrics::OPTIMUM_GOLD, best.gold));
        result.values.push((metrics::ETA, (gold - tables.reference_gold) / gain));
        let ideal = tables.proxy.as_ref().map(|proxy| at_kl(&tables.reference, proxy, &tables.gold, kl));
        if let Some(ideal) = ideal {
            result.values.push((metrics::IDEAL_GOLD, ideal.gold));
            result.values.push((metrics::IDEAL_ETA, (ideal.gold - tables.reference_gold) / gain));
        }
    }

    /// Samples responses to the first test prompt and compares their frequencies with the exact distribution.
    pub fn check_sampler(&self, policy: &Policy, seed: u64) -> Result<()> {
        let prompt = &self.splits[1].prompts[0];
        let distribution = &distributions(policy, &self.reader, std::slice::from_ref(prompt))[0];
        let mut rng = seeds::stream(seed, Stream::SamplerCheck, 0);
        let space = self.reader.space();
        let samples = generate(policy, space, vec![prompt.clone(); SAMPLER_DRAWS], &mut rng, self.reader.device());
        let index: std::collections::HashMap<Vec<u32>, usize> =
            all_responses().into_iter().enumerate().map(|(i, r)| (r, i)).collect();
        sampled_from_finite(0, &samples)?;
        invariants::probabilities_sum_to_one(distribution.total())?;
        let mut counts = vec![0.0; distribution.p.len()];
        for response in &samples.responses {
            counts[index[&response[..response.len() - 1]]] += 1.0;
        }
        let expected: Vec<f64> = distribution.p.iter().map(|p| p * SAMPLER_DRAWS as f64).collect();
        invariants::sampler_follows_the_model(&counts, &expected).map_err(|error| {
            let nudged = &distributions(&nudged(policy), &self.reader, std::slice::from_ref(prompt))[0];
            sampler_error(error, distribution.total_variation(nudged))
        })
    }
}

/// Why a sampler does not follow the model: as its check says, or because the weights are so large that their last bit
/// decides which token is sampled. `changed_mass` is the probability mass that moves when it changes.
fn sampler_error(error: Error, changed_mass: f64) -> Error {
    if changed_mass <= LOST_MASS {
        return error;
    }
    let what = "the mass that moves to other responses when the last bit of each weight changes";
    diverged(0, what, changed_mass).into()
}

/// A policy's distributions over all responses to each prompt.
pub fn distributions(policy: &Policy, reader: &ResponseReader, prompts: &[Vec<u32>]) -> Vec<ResponseDistribution> {
    decision_distributions(policy, reader, prompts)
        .iter()
        .map(|decisions| ResponseDistribution::new(response_logp(decisions)))
        .collect()
}

/// Exact KL(grammar || policy) per response, mean over all prompts: how close SFT has come
/// (docs/worlds.md, Reference grammar).
pub fn kl_grammar(world: &GrammarWorld, reader: &ResponseReader, policy: &Policy) -> f64 {
    let prompts: Vec<Vec<u32>> = world.all_prompts().map(|p| p.ids.clone()).collect();
    let distributions = distributions(policy, reader, &prompts);
    mean(prompts.iter().zip(&distributions).map(|(prompt, distribution)| {
        ResponseDistribution::new(response_logp(&reference_decisions(
            PromptCoordinates::from_prompt(prompt).stance,
            world.rho(),
        )))
        .kl(distribution)
    }))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), x| (sum + x, n + 1.0));
    sum / n
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_data::grammar::{Stance, next_action, token};
    use duel_model::{TransformerConfig, weights};
    use duel_spec::TokenSpec;

    fn distribution(p: &[f64]) -> ResponseDistribution {
        ResponseDistribution::new(p.iter().map(|p| p.ln()).collect())
    }

    fn reader(space: &TokenSpec) -> ResponseReader {
        ResponseReader::new(space, &Device::flex())
    }

    fn policy(space: &TokenSpec) -> Policy {
        let config = TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true);
        Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &Device::flex())
    }

    /// An evaluator of distributions over two responses, with one prompt for each row of the tables.
    fn evaluator(reference: &[[f64; 2]], gold: &[[f64; 2]], proxy: Option<&[[f64; 2]]>) -> ExactEvaluator {
        let rows = |table: &[[f64; 2]]| table.iter().map(|row| row.to_vec()).collect::<Vec<_>>();
        let lengths = vec![1.0, 2.0];
        let tables = SplitTables {
            split: Split::Test,
            prompts: (0..reference.len() as u32).map(|x| vec![x]).collect(),
            reference: reference.iter().map(|p| distribution(p)).collect(),
            ranks: gold.iter().map(|gold| RewardRanks::new(gold)).collect(),
            groups: gold.iter().map(|gold| OutcomeGroups::new(gold, &lengths)).collect(),
            proxy: proxy.map(rows),
            reference_gold: mean(reference.iter().zip(gold).map(|(p, r)| p[0] * r[0] + p[1] * r[1])),
            gold: rows(gold),
        };
        let reader = reader(GrammarWorld::new(0.02, 1).space());
        ExactEvaluator { reader, splits: vec![tables], lengths, trap: vec![0.0, 1.0] }
    }

    fn evaluate(evaluator: &ExactEvaluator, policy: &[[f64; 2]], beta: f64) -> Result<EvalResult> {
        let policy: Vec<ResponseDistribution> = policy.iter().map(|p| distribution(p)).collect();
        evaluator.evaluate(&evaluator.splits[0], &policy, Some(beta))
    }

    fn assert_close(actual: Option<f64>, expected: f64, tolerance: f64) {
        assert!(actual.is_some_and(|actual| (actual - expected).abs() < tolerance), "{actual:?}, expected {expected}");
    }

    /// `J* − J(π) = β KL(π || π*)`, and `J* = β ln Z`: Rafailov et al. 2023, appendix A.1.
    #[test]
    fn regret_is_beta_times_the_kl_to_the_optimum() -> Result<()> {
        const BETA: f64 = 0.25;
        let three = BETA * 3f64.ln();
        // prompt 1: Z = (1 + 3)/2. prompt 2: Z = e^{1/β} (3/4 + 3/4)
        let evaluator = evaluator(&[[0.5, 0.5], [0.25, 0.75]], &[[0.0, three], [1.0 + three, 1.0]], None);
        let optimum = [[0.25, 0.75], [0.5, 0.5]];
        let best = f64::midpoint(BETA * 2f64.ln(), 1.0 + BETA * 1.5f64.ln());
        let kl = |p: [f64; 2], q: [f64; 2]| p[0] * (p[0] / q[0]).ln() + p[1] * (p[1] / q[1]).ln();
        for policy in [[[0.375, 0.625], [0.8, 0.2]], [[0.9, 0.1], [0.25, 0.75]], optimum] {
            let result = evaluate(&evaluator, &policy, BETA)?;
            let regret = BETA * f64::midpoint(kl(policy[0], optimum[0]), kl(policy[1], optimum[1]));
            let distance = f64::midpoint((policy[0][0] - 0.25).abs(), (policy[1][0] - 0.5).abs());
            assert_close(result.get(metrics::OBJECTIVE), best - regret, 1e-12);
            assert_close(result.get(metrics::REGRET), regret, 1e-12);
            assert_close(result.get(metrics::OBJECTIVE_SHARE), 1.0 - regret / best, 1e-12);
            assert_close(result.get(metrics::TOTAL_VARIATION), distance, 1e-12);
        }
        Ok(())
    }

    #[test]
    fn a_share_is_only_of_an_optimum_above_0() -> Result<()> {
        for (gold, is_positive) in [(-1.0, false), (0.0, false), (1.0, true)] {
            let result = evaluate(&evaluator(&[[0.5, 0.5]], &[[gold; 2]], None), &[[0.5, 0.5]], 1.0)?;
            assert_close(result.get(metrics::OBJECTIVE), gold, 1e-12);
            assert_eq!(result.get(metrics::OBJECTIVE_SHARE).is_some(), is_positive, "{gold}");
        }
        Ok(())
    }

    #[test]
    fn a_distribution_that_does_not_sum_to_1_is_refused() {
        let result = evaluate(&evaluator(&[[0.5, 0.5]], &[[0.0, 1.0]], None), &[[0.5, 0.499]], 1.0);
        assert!(matches!(result, Err(Error::Invariant { name: "probabilities_sum_to_one", .. })), "{result:?}");
    }

    /// With a reference of 1/2 each, the optimum at a KL of `ln 2 − H(p)` puts p on the better response.
    #[test]
    fn eta_is_the_share_of_the_gain_at_the_same_kl() {
        let kl = |p: f64| 2f64.ln() + p * p.ln() + (1.0 - p) * (1.0 - p).ln();
        // a learned reward that prefers the worse response
        let evaluator = evaluator(&[[0.5, 0.5]], &[[1.0, 3.0]], Some(&[[2.0, 0.0]]));
        let compared = |gold: f64, kl: f64| {
            let values = vec![(metrics::GOLD, gold), (metrics::KL, kl)];
            let mut result = EvalResult { split: Split::Test, values, outcomes: vec![], prompts: vec![] };
            evaluator.compare_at_kl(&evaluator.splits[0], &mut result);
            result
        };
        // gold of the reference 2, of the optimum 1/4 · 1 + 3/4 · 3 = 2.5, of the PPO-ideal 1.5
        let result = compared(2.4, kl(0.75));
        assert_close(result.get(metrics::OPTIMUM_GOLD), 2.5, 1e-6);
        assert_close(result.get(metrics::ETA), 0.8, 1e-6);
        assert_close(result.get(metrics::IDEAL_GOLD), 1.5, 1e-6);
        assert_close(result.get(metrics::IDEAL_ETA), -1.0, 1e-6);
        // at the reference η is 0/0
        for (kl, is_compared) in [(0.0, false), (0.99e-4, false), (1e-4, true)] {
            assert_eq!(compared(2.0, kl).get(metrics::ETA).is_some(), is_compared, "{kl}");
        }
    }

    #[test]
    fn the_ppo_ideal_is_compared_with_itself_and_the_optimum_with_none() -> Result<()> {
        let evaluator = evaluator(&[[0.5, 0.5]; 2], &[[0.0, 1.0], [1.0, 0.0]], Some(&[[0.0, 2.0], [0.0, 1.0]]));
        let results = evaluator.theory(&[0.5, 1.0], &[2])?;
        let arms = results.iter().map(|(arm, point, _)| format!("{arm} {point}")).collect::<Vec<_>>();
        let expected =
            ["optimum beta=0.50000", "optimum beta=1.00000", "ppo-ideal beta=0.50000", "ppo-ideal beta=1.00000"];
        assert_eq!(arms, expected.into_iter().chain(["best-of-n n=2"]).collect::<Vec<_>>());
        for (arm, _, result) in &results {
            let [eta, ideal] = [metrics::ETA, metrics::IDEAL_ETA].map(|metric| result.get(metric));
            match *arm {
                "optimum" => assert_eq!((eta, ideal), (None, None)),
                "ppo-ideal" => assert_close(eta, ideal.expect("a learned reward"), 1e-6),
                // the better of two: 3/4 of either response, gold 1/2 as the reference
                _ => assert_close(eta, 0.0, 1e-6),
            }
        }
        Ok(())
    }

    /// KL of the grammar, a Markov chain, to the uniform next token: `Σ P(previous) Σ p ln 6p` over the five free tokens.
    #[test]
    fn kl_to_a_uniform_policy_follows_the_chain() {
        let world = GrammarWorld::new(0.02, 1);
        let policy = policy(world.space());
        let zeros = vec![0.0; weights::flatten(&policy).len()];
        let uniform = weights::unflatten(policy, &zeros);
        let chain = |stance: Stance| {
            let mut states = vec![(None, 1.0)];
            let mut kl = 0.0;
            for _ in 0..MAX_SYMBOLS {
                let mut next = [0.0; SYMBOLS.len()];
                for (previous, mass) in states {
                    let p = next_action(stance, previous, 0.02);
                    kl += mass * p.iter().map(|p| p * (6.0 * p).ln()).sum::<f64>();
                    next.iter_mut().zip(p).for_each(|(next, p)| *next += mass * p);
                }
                states = SYMBOLS.map(Some).into_iter().zip(next).collect();
            }
            kl
        };
        let expected = mean([Stance::Praise, Stance::Criticise, Stance::Mixed].map(chain).into_iter());
        assert_close(Some(kl_grammar(&world, &reader(world.space()), &uniform)), expected, 1e-9);
    }

    #[test]
    fn a_sampler_that_leaves_out_a_symbol_is_found() {
        let world = GrammarWorld::new(0.02, 1);
        let check = |space: &TokenSpec| {
            let policy = policy(space);
            ExactEvaluator::new(&world, reader(space), &policy, None).check_sampler(&policy, 0)
        };
        assert!(check(world.space()).is_ok());
        let allowed = ACTIONS.into_iter().filter(|&action| action != token::X).collect();
        let result = check(&TokenSpec { allowed_tokens: Some(allowed), ..world.space().clone() });
        assert!(matches!(result, Err(Error::Invariant { name: "sampler_follows_the_model", .. })), "{result:?}");
    }

    #[test]
    fn weights_that_are_too_large_to_be_sampled_from_have_diverged() {
        let error = |changed_mass: f64| {
            let broken = invariants::probabilities_sum_to_one(2.0).expect_err("2 is not 1");
            sampler_error(broken, changed_mass)
        };
        for mass in [0.0, LOST_MASS] {
            assert!(matches!(error(mass), Error::Invariant { .. }), "{mass}");
        }
        for mass in [LOST_MASS + 1e-9, 1.0, f64::NAN] {
            assert!(matches!(error(mass), Error::Training(duel_training::Error::Diverged { .. })), "{mass}");
        }
    }
}
