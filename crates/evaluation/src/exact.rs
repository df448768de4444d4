//! Exact evaluation in `grammar`: every response to every prompt, by one walk over the tree of prefixes.

use crate::distribution::{OptimaMeans, ResponseDistribution, at_kl, best_of_n, optimum};
use crate::score::{EvalMetrics, EvalResult};
use crate::{Result, invariants};
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
    let mut feed: Vec<i32> = prompts.iter().flatten().map(|&id| id as i32).collect();
    let (mut per_prompt, mut width) = (1, reader.space().prompt_tokens);
    for level in 0..MAX_SYMBOLS {
        let rows = per_prompt * prompts.len();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(feed, [rows, width]), device);
        let logits = host(policy.next_logits(ids, &mut cache)); // [rows, V]
        for (row, logits) in logits.chunks_exact(vocabulary).enumerate() {
            distributions[row / per_prompt].push(log_softmax(logits));
        }
        if level + 1 == MAX_SYMBOLS {
            break;
        }
        // The children of a prefix: the same context, then each symbol.
        let parents: Vec<usize> = (0..rows).flat_map(|row| [row; SYMBOLS.len()]).collect();
        cache = cache.select(&parents);
        feed = (0..rows).flat_map(|_| SYMBOLS.map(|s| s as i32)).collect();
        per_prompt *= SYMBOLS.len();
        width = 1;
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
        let is_same = |&a: &usize, &b: &usize| lengths[a] == lengths[b] && (gold[a] - gold[b]).abs() < 1e-9;
        for responses in order.chunk_by(is_same) {
            responses.iter().for_each(|&y| group[y] = outcomes.len());
            outcomes.push((gold[responses[0]], lengths[responses[0]] as u32));
        }
        Self { group, outcomes }
    }

    /// The outcomes of a distribution, without those of negligible probability.
    fn outcomes(&self, prompt: usize, distribution: &ResponseDistribution) -> Vec<OutcomeRow> {
        let mut shares = vec![0.0; self.outcomes.len()];
        self.group.iter().zip(&distribution.0).for_each(|(&group, logp)| shares[group] += logp.exp());
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
    ) -> Result<Self> {
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
                let groups = gold.iter().map(|gold| OutcomeGroups::new(gold, &lengths)).collect();
                Ok(SplitTables {
                    split,
                    prompts,
                    reference,
                    gold,
                    groups,
                    proxy: proxy.map(|p| p(split)),
                    reference_gold,
                })
            })
            .into_iter()
            .collect::<Result<_>>()?;
        Ok(Self { reader, splits, lengths, trap: all.iter().map(|r| f64::from(excitements(r) >= 2)).collect() })
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
            let policy_of = |optimise: &dyn Fn(&ResponseDistribution, &[f64]) -> ResponseDistribution,
                             rewards: &[Vec<f64>]|
             -> Vec<ResponseDistribution> {
                tables.reference.iter().zip(rewards).map(|(reference, r)| optimise(reference, r)).collect()
            };
            let targets = [("optimum", Some(&tables.gold)), ("ppo-ideal", tables.proxy.as_ref())];
            for (arm, rewards) in targets {
                for &beta in betas {
                    let Some(rewards) = rewards else { continue };
                    let distributions = policy_of(&|reference, r| optimum(reference, r, beta), rewards);
                    let mut result = self.evaluate(tables, &distributions, Some(beta))?;
                    if arm == "ppo-ideal" {
                        self.compare_at_kl(tables, &mut result);
                    }
                    out.push((arm, format!("beta={beta:.5}"), result));
                }
            }
            for &n in ns {
                let Some(proxy) = &tables.proxy else { continue };
                let mut result =
                    self.evaluate(tables, &policy_of(&|reference, r| best_of_n(reference, r, n), proxy), None)?;
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
        invariants::kl_is_not_negative(kl, 1e-12, 1.0 + 2.0 * entropy + kl.abs())?;
        let beats: Vec<(f64, f64)> = pairs()
            .zip(&tables.gold)
            .map(|((distribution, reference), gold)| distribution.beats(reference, gold))
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
            let best = OptimaMeans::at_beta(&tables.reference, &tables.gold, &tables.gold, beta);
            let objective = gold - beta * kl;
            let size = 1.0 + gold.abs() + best.gold.abs() + beta * (1.0 + kl + best.kl);
            invariants::nobody_beats_the_optimum(objective, best.gold - beta * best.kl, size)?;
            result.values.push((metrics::OBJECTIVE, objective));
            let optimum_objective = best.gold - beta * best.kl;
            result.values.push((metrics::REGRET, optimum_objective - objective));
            if optimum_objective > 0.0 {
                result.values.push((metrics::OBJECTIVE_SHARE, objective / optimum_objective));
            }
            let optima =
                tables.reference.iter().zip(&tables.gold).map(|(reference, gold)| optimum(reference, gold, beta));
            let distance =
                mean(distributions.iter().zip(optima).map(|(distribution, best)| distribution.total_variation(&best)));
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
        let mut counts = vec![0.0; distribution.0.len()];
        for response in &samples.responses {
            counts[index[&response[..response.len() - 1]]] += 1.0;
        }
        let expected: Vec<f64> = distribution.0.iter().map(|logp| logp.exp() * SAMPLER_DRAWS as f64).collect();
        let result = invariants::sampler_follows_the_model(&counts, &expected);
        if result.is_err() {
            // weights so large that their last bit decides which token is sampled
            let nudged = &distributions(&nudged(policy), &self.reader, std::slice::from_ref(prompt))[0];
            let changed_mass = distribution.total_variation(nudged);
            if changed_mass.is_nan() || changed_mass > LOST_MASS {
                let what = "the mass that moves to other responses when the last bit of each weight changes";
                return Err(diverged(0, what, changed_mass).into());
            }
        }
        result
    }
}

/// A policy's distributions over all responses to each prompt.
pub fn distributions(policy: &Policy, reader: &ResponseReader, prompts: &[Vec<u32>]) -> Vec<ResponseDistribution> {
    decision_distributions(policy, reader, prompts)
        .iter()
        .map(|decisions| ResponseDistribution(response_logp(decisions)))
        .collect()
}

/// Exact KL(grammar || policy) per response, mean over all prompts: how close SFT has come
/// (docs/worlds.md, Reference grammar).
pub fn kl_grammar(world: &GrammarWorld, reader: &ResponseReader, policy: &Policy) -> Result<f64> {
    let prompts: Vec<Vec<u32>> = world.all_prompts().map(|p| p.ids.clone()).collect();
    let distributions = distributions(policy, reader, &prompts);
    Ok(mean(prompts.iter().zip(&distributions).map(|(prompt, distribution)| {
        ResponseDistribution(response_logp(&reference_decisions(
            PromptCoordinates::from_prompt(prompt).stance,
            world.rho(),
        )))
        .kl(distribution)
    })))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), x| (sum + x, n + 1.0));
    sum / n
}
