//! The sampled yardstick, for worlds that cannot be enumerated: the same prompts and random numbers for
//! every arm, KL by the Rao-Blackwell estimator.

use crate::score::{Marks, Score, distinct_2};
use crate::{Result, invariants};
use burn::module::Module;
use duel_data::World;
use duel_model::{Policy, Reader, Responses, generate, weights::host};
use duel_objectives::{entropy, full_kl, k1, token_logp};
use duel_reward::Scorer;
use duel_spec::{Split, metrics, seeds};
use duel_training::sft;
use std::sync::Arc;

/// Measures policies by sampling.
pub struct SampledYardstick {
    world: Arc<dyn World>,
    reader: Reader,
    reference: Policy,
    gold: Arc<dyn Scorer>,
    proxy: Option<Arc<dyn Scorer>>,
    seed: u64,
}

impl std::fmt::Debug for SampledYardstick {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SampledYardstick(seed {})", self.seed)
    }
}

/// How much is sampled.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    pub prompts: usize,
    pub samples_per_prompt: usize,
}

impl SampledYardstick {
    /// `reference` and `reader` carry no gradient.
    pub fn new(
        world: Arc<dyn World>,
        reader: Reader,
        reference: Policy,
        gold: Arc<dyn Scorer>,
        proxy: Option<Arc<dyn Scorer>>,
        seed: u64,
    ) -> Self {
        Self { world, reader, reference: reference.no_grad(), gold, proxy, seed }
    }

    fn sample(&self, policy: &Policy, split: Split, effort: Effort, who: &str) -> Responses {
        let prompts = self.world.prompts(split);
        // evenly spread over the split, so that a smaller effort still spans it
        let n = effort.prompts.min(prompts.len());
        let ids = (0..n)
            .flat_map(|i| std::iter::repeat_n(prompts[i * prompts.len() / n].ids.clone(), effort.samples_per_prompt))
            .collect();
        let mut rng = seeds::derive(self.seed, "evaluation", split as u64, who);
        generate(policy, self.reader.space(), ids, &mut rng, self.reader.device())
    }

    /// Marks of a policy on a split.
    pub fn measure(&self, policy: &Policy, split: Split, effort: Effort) -> Result<Score> {
        // 1. Responses of the policy, and of the reference on the same prompts with other random numbers.
        let batch = self.sample(policy, split, effort, "policy");
        let other = self.sample(&self.reference, split, effort, "reference");
        let gold = self.gold.score(&batch)?;
        let other_gold = self.gold.score(&other)?;

        // 2. Per response: Rao-Blackwell KL, its cross-check k1, entropy, and the reference's own view.
        let mut per_response: [Vec<f64>; 4] = Default::default();
        for block in sft::blocks(&batch) {
            let tokens = self.reader.tokens(&block);
            let mask = sft::mask(&self.reader, &block);
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
        let [kl, k1, entropy, ref_nll] = per_response;

        // 3. Means and standard errors, clustered by prompt.
        let group = effort.samples_per_prompt;
        let (gold_mean, gold_se) = clustered(&gold, group);
        let (kl_mean, kl_se) = clustered(&kl, group);
        let (k1_mean, k1_se) = clustered(&k1, group);
        kl.iter().try_for_each(|&kl| invariants::kl_is_not_negative(kl + 1e-4))?; // each term is; f32 rounds
        if batch.len() >= 1024 {
            invariants::kl_estimates_agree(kl_mean, k1_mean, k1_se)?;
        }
        let n = batch.len() as f64;
        let wins = gold.iter().zip(&other_gold).filter(|(a, b)| *a - *b > 1e-9).count() as f64 / n;
        let ties = gold.iter().zip(&other_gold).filter(|(a, b)| (*a - *b).abs() <= 1e-9).count() as f64 / n;
        let variance = gold.iter().map(|g| (g - gold_mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        let proxy = match &self.proxy {
            Some(proxy) => Some(mean(&proxy.score(&batch)?)),
            None => None,
        };
        let marks = Marks {
            gold: gold_mean,
            gold_se,
            gold_sd: variance.sqrt(),
            proxy,
            kl: kl_mean.max(0.0),
            kl_se,
            win_rate: wins + ties / 2.0,
            tie_rate: ties,
            length: batch.response_tokens() as f64 / n,
            entropy: mean(&entropy),
        };
        let mut score = marks.into_score(split);
        score.values.push((metrics::KL_K1, k1_mean));
        score.values.push((metrics::DISTINCT_2, distinct_2(&batch.responses)));
        score
            .values
            .push((metrics::PERPLEXITY_REFERENCE, ref_nll.iter().sum::<f64>() / batch.response_tokens() as f64));
        Ok(score)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean, and its standard error over the means of groups of `group` neighbours (one group a prompt).
fn clustered(values: &[f64], group: usize) -> (f64, f64) {
    let means: Vec<f64> = values.chunks(group).map(mean).collect();
    let centre = mean(&means);
    let n = means.len() as f64;
    let variance = means.iter().map(|m| (m - centre).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (centre, (variance / n).sqrt())
}

#[cfg(test)]
mod tests {
    use super::clustered;

    #[test]
    fn errors_are_clustered_by_prompt() {
        // two prompts, means 1 and 3: centre 2, sd √2, s.e. 1, however many samples each has
        assert_eq!(clustered(&[1.0, 1.0, 3.0, 3.0], 2), (2.0, 1.0));
    }
}
