//! Evaluation by sampling, for worlds that cannot be enumerated: the same prompts and random numbers for every arm, KL by the
//! Rao-Blackwell estimator.

use crate::distribution::{RewardRanks, TIE, best_of_subset, is_tie};
use crate::pairwise::{PairwiseEvaluation, pairwise_metrics};
use crate::score::{EvalMetrics, EvalResult, distinct_2};
use crate::{Result, invariants};
use burn::module::Module;
use duel_data::World;
use duel_model::{Policy, ResponseReader, Responses, generate, weights::host};
use duel_objectives::{entropy, full_kl, k1, token_logp};
use duel_reward::Scorer;
use duel_spec::seeds::{self, Stream};
use duel_spec::{OutcomeRow, Split, metrics};
use duel_training::invariants::sampled_from_finite;
use duel_training::logprobs;
use std::sync::Arc;

/// Evaluates policies by sampling.
pub struct SampledEvaluator {
    world: Arc<dyn World>,
    reader: ResponseReader,
    reference: Policy,
    gold: Arc<dyn Scorer>,
    proxy: Option<Arc<dyn Scorer>>,
    seed: u64,
}

impl std::fmt::Debug for SampledEvaluator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SampledEvaluator(seed {})", self.seed)
    }
}

/// The size of a sample.
#[derive(Debug, Clone, Copy)]
pub struct SampleSize {
    pub prompts: usize,
    pub samples_per_prompt: usize,
}

impl SampledEvaluator {
    /// `reference` and `reader` carry no gradient.
    pub fn new(
        world: Arc<dyn World>,
        reader: ResponseReader,
        reference: Policy,
        gold: Arc<dyn Scorer>,
        proxy: Option<Arc<dyn Scorer>>,
        seed: u64,
    ) -> Self {
        Self { world, reader, reference: reference.no_grad(), gold, proxy, seed }
    }

    /// Parts of [`Self::measure`]: responses of the policy, those of the reference, their scores, their log-probs.
    pub const PARTS: u64 = 4;

    fn sample(&self, policy: &Policy, split: Split, size: SampleSize, stream: Stream<'_>) -> Result<Responses> {
        let prompts = self.world.prompts(split);
        // evenly spread over the split, so that a smaller sample still spans it
        let n = size.prompts.min(prompts.len());
        let ids = (0..n)
            .flat_map(|i| std::iter::repeat_n(prompts[i * prompts.len() / n].ids.clone(), size.samples_per_prompt))
            .collect();
        let mut rng = seeds::stream(self.seed, stream, split as u64);
        let responses = generate(policy, self.reader.space(), ids, &mut rng, self.reader.device());
        sampled_from_finite(0, &responses)?;
        Ok(responses)
    }

    /// Per response, in nats: Rao-Blackwell KL, k1, entropy of the policy, and negative log-prob under the reference.
    fn per_response(&self, policy: &Policy, batch: &Responses) -> [Vec<f64>; 4] {
        let mut per_response: [Vec<f64>; 4] = Default::default();
        for block in logprobs::blocks_of_logits(&self.reader, batch) {
            let tokens = self.reader.tokens(&block);
            let mask = logprobs::mask(&self.reader, &block);
            let logits = self.reader.logits(policy, &tokens); // [B, T, V]
            let ref_logits = self.reader.logits(&self.reference, &tokens); // [B, T, V]
            let targets = self.reader.targets(&tokens);
            let ref_logp = token_logp(ref_logits.clone(), targets.clone());
            let logp = token_logp(logits.clone(), targets);
            let sums = [
                mask.row_sums(full_kl(logits.clone(), ref_logits)),
                mask.row_sums(k1(logp, ref_logp.clone())),
                mask.row_sums(entropy(logits)),
                mask.row_sums(ref_logp).neg(),
            ];
            for (all, sums) in per_response.iter_mut().zip(sums) {
                all.extend(host(sums).into_iter().map(f64::from));
            }
        }
        per_response
    }

    /// Metrics of a policy on a split, with those of a judge of pairs where there is one; `on_part` is called before each of its
    /// [`Self::PARTS`].
    pub fn measure(
        &self,
        policy: &Policy,
        split: Split,
        size: SampleSize,
        pairwise: Option<&PairwiseEvaluation>,
        on_part: &mut dyn FnMut(),
    ) -> Result<EvalResult> {
        // 1. Responses of the policy, and of the reference on the same prompts with other random numbers.
        on_part();
        let batch = self.sample(policy, split, size, Stream::EvaluatedPolicy)?;
        on_part();
        let other = self.sample(&self.reference, split, size, Stream::EvaluatedReference)?;
        on_part();
        let (gold, other_gold) = (self.gold.score(&batch)?, self.gold.score(&other)?);

        // 2. Per response: Rao-Blackwell KL, its cross-check k1, entropy, and negative log-prob under the reference.
        on_part();
        let [kl, k1, entropy, ref_nll] = self.per_response(policy, &batch);

        // 3. Means and standard errors, clustered by prompt.
        let group = size.samples_per_prompt;
        let (gold_mean, gold_se) = clustered(&gold, group);
        let (kl_mean, kl_se) = clustered(&kl, group);
        let (k1_mean, k1_se) = clustered(&k1, group);
        let vocabulary = self.reader.space().vocabulary;
        kl.iter()
            .zip(&batch.responses)
            .try_for_each(|(&kl, response)| invariants::sampled_kl_is_not_negative(kl, vocabulary, response.len()))?;
        if batch.len() >= 1024 {
            let first = invariants::kl_estimates_agree(kl_mean, k1_mean, k1_se);
            invariants::unless_by_chance(first, || {
                let others = self.sample(policy, split, size, Stream::EvaluatedAgain)?;
                let [kl, k1, ..] = self.per_response(policy, &others);
                let (k1_mean, k1_se) = clustered(&k1, group);
                invariants::kl_estimates_agree(mean(&kl), k1_mean, k1_se)
            })?;
        }
        let n = batch.len() as f64;
        let (wins, ties) = win_and_tie_rates(&gold, &other_gold);
        let proxy = self.proxy.as_ref().map(|proxy| proxy.score(&batch)).transpose()?.map(|scores| mean(&scores));
        let metrics = EvalMetrics {
            gold: gold_mean,
            gold_se,
            gold_sd: standard_deviation(&gold),
            proxy,
            kl: kl_mean.max(0.0),
            kl_se,
            win_rate: wins + ties / 2.0,
            tie_rate: ties,
            length: batch.response_tokens() as f64 / n,
            entropy: mean(&entropy),
        };
        let mut result = metrics.into_result(split);
        result.prompts = batch.prompt_hashes();
        result.outcomes = outcomes(&gold, &batch.responses, group);
        let perplexity = ref_nll.iter().sum::<f64>() / batch.response_tokens() as f64;
        result.values.push((metrics::KL_K1, k1_mean));
        result.values.push((metrics::DISTINCT_2, distinct_2(&batch.responses)));
        result.values.push((metrics::PERPLEXITY_REFERENCE, perplexity));

        // 4. The judge of pairs, on the first response of each prompt.
        if let Some(pairwise) = pairwise {
            let rows = pairwise.rows(batch.len() / group, group);
            let verdicts = pairwise.scorer.compare(&batch, &other, &rows)?;
            let golds: Vec<(f64, f64)> = rows.iter().map(|&row| (gold[row], other_gold[row])).collect();
            result.values.extend(pairwise_metrics(&verdicts, &golds));
        }
        Ok(result)
    }

    /// Metrics of the best of n responses of the reference by the proxy, for each n up to the samples per prompt, on prompts of
    /// the split: means over all subsets of n of a prompt's samples. Wins are against as many other samples of the prompt. KL is the
    /// bound `log n − (n − 1)/n`, which is exact where no two responses have the same score. Empty without a proxy.
    ///
    /// # Source
    /// Stiennon et al. 2020, §3.4; the mean over subsets: Nakano et al. 2021; the bound: Beirami et al. 2024, thm. 1.
    pub fn best_of_n(&self, ns: &[usize], split: Split, size: SampleSize) -> Result<Vec<(usize, EvalResult)>> {
        let Some(proxy) = self.proxy.as_ref().filter(|_| !ns.is_empty()) else { return Ok(vec![]) };
        let batch = self.sample(&self.reference, split, size, Stream::BestOfN)?;
        let other = self.sample(&self.reference, split, size, Stream::EvaluatedReference)?;
        let (proxies, golds) = (proxy.score(&batch)?, self.gold.score(&batch)?);
        let other_golds = self.gold.score(&other)?;
        let lengths: Vec<f64> = batch.lengths().into_iter().map(|length| length as f64).collect();
        let group = size.samples_per_prompt;
        let rates: Vec<(f64, f64)> = golds
            .chunks(group)
            .zip(other_golds.chunks(group))
            .flat_map(|(golds, others)| {
                golds.iter().map(move |gold| win_and_tie_rates(&vec![*gold; others.len()], others))
            })
            .collect();
        let ranks: Vec<RewardRanks> = proxies.chunks(group).map(RewardRanks::new).collect();
        let score = |n: usize| {
            let weights: Vec<Vec<f64>> = ranks.iter().map(|ranks| best_of_subset(ranks, n)).collect();
            let by_prompt = |value: &dyn Fn(usize) -> f64| -> Vec<f64> {
                let of_prompt = |(prompt, weights): (usize, &Vec<f64>)| {
                    weights.iter().enumerate().map(|(draw, w)| w * value(prompt * group + draw)).sum::<f64>()
                };
                weights.iter().enumerate().map(of_prompt).collect()
            };
            let mean_of = |value: &dyn Fn(usize) -> f64| mean(&by_prompt(value));
            let (gold, gold_se) = clustered(&by_prompt(&|row| golds[row]), 1);
            let (wins, ties) = (mean_of(&|row| rates[row].0), mean_of(&|row| rates[row].1));
            let values = vec![
                (metrics::GOLD, gold),
                (metrics::GOLD_SE, gold_se),
                (metrics::GOLD_SD, (mean_of(&|row| golds[row].powi(2)) - gold * gold).max(0.0).sqrt()),
                (metrics::KL, (n as f64).ln() - (n as f64 - 1.0) / n as f64),
                (metrics::WIN_RATE, wins + ties / 2.0),
                (metrics::TIE_RATE, ties),
                (metrics::LENGTH, mean_of(&|row| lengths[row])),
                (metrics::PROXY, mean_of(&|row| proxies[row])),
            ];
            (n, EvalResult { split, values, outcomes: vec![], prompts: batch.prompt_hashes() })
        };
        Ok(ns.iter().map(|&n| score(n)).collect())
    }
}

/// Gold and length of each of `group` responses to a prompt.
fn outcomes(gold: &[f64], responses: &[Vec<u32>], group: usize) -> Vec<OutcomeRow> {
    let outcome = |(row, (&gold_reward, response)): (usize, (&f64, &Vec<u32>))| OutcomeRow {
        prompt: (row / group) as u32,
        gold_reward,
        tokens: response.len() as u32,
        share: 1.0 / group as f32,
    };
    gold.iter().zip(responses).enumerate().map(outcome).collect()
}

/// Shares of wins and of ties of one list against another.
fn win_and_tie_rates(scores: &[f64], other_scores: &[f64]) -> (f64, f64) {
    let share = |holds: fn(f64, f64) -> bool| {
        scores.iter().zip(other_scores).filter(|(a, b)| holds(**a, **b)).count() as f64 / scores.len() as f64
    };
    (share(|a, b| a - b > TIE), share(is_tie))
}

/// Standard deviation.
fn standard_deviation(values: &[f64]) -> f64 {
    let (centre, n) = (mean(values), values.len() as f64);
    (values.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean, and its standard error over the means of groups of `group` neighbours (one group per prompt).
fn clustered(values: &[f64], group: usize) -> (f64, f64) {
    let means: Vec<f64> = values.chunks(group).map(mean).collect();
    let centre = mean(&means);
    let n = means.len() as f64;
    let variance = means.iter().map(|m| (m - centre).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (centre, (variance / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExactEvaluator;
    use burn::tensor::Device;
    use duel_data::grammar::GrammarWorld;
    use duel_model::TransformerConfig;
    use duel_reward::GrammarGold;

    #[test]
    fn the_best_of_n_samples_follow_their_distribution() -> Result<()> {
        let device = Device::flex();
        let world = Arc::new(GrammarWorld::new(0.02, 1));
        let space = world.space();
        let config = TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true);
        let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &device);
        let (reader, gold) = (ResponseReader::new(space, &device), Arc::new(GrammarGold));
        let ids = |split| world.prompts(split).iter().map(|p| p.ids.clone()).collect::<Vec<_>>();
        let tables = |split| crate::proxy_table(&*gold, &ids(split), space.eos).expect("gold scores all");
        let exact = ExactEvaluator::new(&world, reader.clone(), &policy, Some(&tables)).theory(&[], &[2, 4, 8])?;
        let sampled = SampledEvaluator::new(world.clone(), reader, policy, gold.clone(), Some(gold), 0);
        let size = SampleSize { prompts: 6, samples_per_prompt: 2048 };
        let mut results = sampled.best_of_n(&[1, 2, 4, 8], Split::Test, size)?;
        assert_eq!(results.len(), 4);
        // one is the reference itself: no KL, and as many wins as losses
        let (n, one) = results.remove(0);
        let [kl, win_rate] = [metrics::KL, metrics::WIN_RATE].map(|metric| one.get(metric).expect("measured"));
        assert!(n == 1 && kl == 0.0 && (win_rate - 0.5).abs() < 0.02, "{win_rate}");
        for (n, result) in results {
            let matches = |(_, label, result): &&(_, String, EvalResult)| {
                *label == format!("n={n}") && result.split == Split::Test
            };
            let (.., exact) = exact.iter().find(matches).expect("each n has its distribution");
            let [actual, se] = [metrics::GOLD, metrics::GOLD_SE].map(|metric| result.get(metric).expect("measured"));
            let gold = exact.get(metrics::GOLD).expect("measured");
            // gold of a prompt's draws scatters less than prompts do: the clustered error is an upper bound here
            assert!((actual - gold).abs() < se.min(0.05), "n = {n}: {actual}, exactly {gold}");
            for (metric, bound) in [(metrics::WIN_RATE, 0.02), (metrics::LENGTH, 0.1), (metrics::GOLD_SD, 0.1)] {
                let [actual, expected] = [&result, exact].map(|result| result.get(metric).expect("measured"));
                assert!((actual - expected).abs() < bound, "{metric}, n = {n}: {actual}, exactly {expected}");
            }
            let [bound, kl] = [&result, exact].map(|result| result.get(metrics::KL).expect("measured"));
            assert!(kl <= bound + 1e-9 && kl > 0.0, "n = {n}: KL {kl}, bound {bound}");
        }
        Ok(())
    }

    #[test]
    fn errors_are_clustered_by_prompt() {
        // two prompts, means 1 and 3: centre 2, sd √2, s.e. 1, however many samples each has
        assert_eq!(clustered(&[1.0, 1.0, 3.0, 3.0], 2), (2.0, 1.0));
        // three prompts, means 1, 2 and 6: centre 3, variance (4 + 1 + 9)/2
        let (centre, error) = clustered(&[0.0, 2.0, 1.0, 3.0, 6.0, 6.0], 2);
        assert!(centre == 3.0 && (error - (7.0f64 / 3.0).sqrt()).abs() < 1e-15, "{error}");
    }

    #[test]
    fn the_standard_deviation_is_the_sample_one() {
        // deviations 1.5 and 0.5 from 2.5, over n − 1
        assert!((standard_deviation(&[1.0, 2.0, 3.0, 4.0]) - (5.0f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(standard_deviation(&[2.0]), 0.0);
    }

    #[test]
    fn a_score_wins_by_more_than_a_billionth() {
        // a tie at the bound, a win and a loss just past it, and a win
        let scores = [1e-9, 1.001e-9, -1.001e-9, 1.0];
        assert_eq!(win_and_tie_rates(&scores, &[0.0; 4]), (0.5, 0.25));
    }

    /// The same reward for every response.
    struct ConstantReward;

    impl Scorer for ConstantReward {
        fn score(&self, batch: &Responses) -> duel_reward::Result<Vec<f64>> {
            Ok(vec![1.5; batch.len()])
        }
    }

    #[test]
    fn ties_are_half_wins_and_outcomes_are_numbered_by_prompt() -> Result<()> {
        let world = Arc::new(GrammarWorld::new(0.02, 1));
        let space = world.space();
        let config = TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true);
        let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &Device::flex());
        let (reader, reward) = (ResponseReader::new(space, &Device::flex()), Arc::new(ConstantReward));
        let evaluator = SampledEvaluator::new(world.clone(), reader, policy.clone(), reward.clone(), Some(reward), 0);
        let size = SampleSize { prompts: 3, samples_per_prompt: 2 };
        let result = evaluator.measure(&policy, Split::Test, size, None, &mut || ())?;
        let outcomes: Vec<_> = result.outcomes.iter().map(|row| (row.prompt, row.share, row.gold_reward)).collect();
        assert_eq!(outcomes, [0, 0, 1, 1, 2, 2].map(|prompt| (prompt, 0.5, 1.5)));
        let best = evaluator.best_of_n(&[2], Split::Test, size)?.remove(0).1;
        for result in [result, best] {
            let [wins, ties] = [metrics::WIN_RATE, metrics::TIE_RATE].map(|metric| result.get(metric));
            assert_eq!((wins, ties), (Some(0.5), Some(1.0)));
        }
        Ok(())
    }
}
