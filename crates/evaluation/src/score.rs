//! The metrics of an evaluation, and completions.

use crate::Result;
use duel_data::World;
use duel_model::{Policy, ResponseReader, Responses, generate};
use duel_reward::Scorer;
use duel_spec::metrics::{self, Metric};
use duel_spec::seeds::{self, Stream};
use duel_spec::{Clocks, Completion, OutcomeRow, Recorder, Split};
use duel_training::logprobs;

/// A policy's metrics on one split. Means are over prompts, and over responses within a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalResult {
    pub split: Split,
    pub values: Vec<(Metric, f64)>,
    /// Gold and length of its responses, by prompt; empty where not recorded.
    pub outcomes: Vec<OutcomeRow>,
    /// Hashes of the prompts that it was evaluated on.
    pub prompts: Vec<u64>,
}

impl EvalResult {
    /// Name of the evaluation in the `stage` column.
    pub fn stage(split: Split) -> String {
        format!("evaluation-{}", split.name())
    }

    /// The value of a metric.
    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.values.iter().find(|(m, _)| *m == metric).map(|(_, v)| *v)
    }

    /// Records all metrics at these clocks.
    pub fn record(&self, clocks: Clocks, recorder: &mut dyn Recorder) {
        let stage = Self::stage(self.split);
        recorder.prompts(&stage, &self.prompts);
        self.values.iter().for_each(|(metric, value)| recorder.record(&stage, clocks, *metric, *value));
    }
}

/// The policy of recorded completions.
#[derive(Debug, Clone, Copy)]
pub struct CompletionTag<'a> {
    pub arm: &'a str,
    pub point: &'a str,
    pub seed: u64,
    pub step: u64,
}

/// Samples `count` responses to test prompts, the same prompts and random numbers for every arm, and
/// records each with its gold, proxy and log-ratio to the reference. Returns the responses.
#[expect(clippy::too_many_arguments, reason = "a completion joins all that is known of a response")]
pub fn completions(
    tag: CompletionTag<'_>,
    world: &dyn World,
    reader: &ResponseReader,
    policy: &Policy,
    reference: &Policy,
    gold: &dyn Scorer,
    proxy: Option<&dyn Scorer>,
    count: usize,
    recorder: &mut dyn Recorder,
) -> Result<Responses> {
    let prompts = world.prompts(Split::Test);
    let chosen: Vec<_> = (0..count).map(|i| &prompts[i * prompts.len().max(count) / count % prompts.len()]).collect();
    let mut rng = seeds::stream(tag.seed, Stream::Completions, 0);
    let ids = chosen.iter().map(|p| p.ids.clone()).collect();
    let batch: Responses = generate(policy, reader.space(), ids, &mut rng, reader.device());
    let golds = gold.score(&batch)?;
    let proxies = match proxy {
        Some(proxy) => proxy.score(&batch)?,
        None => vec![f64::NAN; count],
    };
    let logp = logprobs::sequence_logp(reader, policy, &batch);
    let ref_logp = logprobs::sequence_logp(reader, reference, &batch);
    for (row, prompt) in chosen.iter().enumerate() {
        recorder.completion(Completion {
            arm: tag.arm.into(),
            point: tag.point.into(),
            seed: tag.seed,
            step: tag.step,
            split: Split::Test.name().into(),
            prompt: prompt.text.clone(),
            completion: world.render(prompt, &batch.responses[row])?,
            gold_reward: golds[row],
            proxy_reward: proxies[row],
            kl: f64::from(logp[row] - ref_logp[row]),
            tokens: batch.responses[row].len() as u32,
            ended: batch.ended(row, reader.space()),
        });
    }
    Ok(batch)
}

/// Distinct bigrams over all bigrams; bigrams lie within one response.
pub(crate) fn distinct_2(responses: &[Vec<u32>]) -> f64 {
    let bigrams: Vec<(u32, u32)> = responses.iter().flat_map(|r| r.windows(2).map(|w| (w[0], w[1]))).collect();
    let distinct: std::collections::HashSet<_> = bigrams.iter().collect();
    distinct.len() as f64 / bigrams.len().max(1) as f64
}

/// The metrics that both evaluators share, in one order.
pub(crate) struct EvalMetrics {
    pub(crate) gold: f64,
    pub(crate) gold_se: f64,
    pub(crate) gold_sd: f64,
    pub(crate) proxy: Option<f64>,
    pub(crate) kl: f64,
    pub(crate) kl_se: f64,
    pub(crate) win_rate: f64,
    pub(crate) tie_rate: f64,
    pub(crate) length: f64,
    pub(crate) entropy: f64,
}

impl EvalMetrics {
    pub(crate) fn into_result(self, split: Split) -> EvalResult {
        let mut values = vec![
            (metrics::GOLD, self.gold),
            (metrics::GOLD_SE, self.gold_se),
            (metrics::GOLD_SD, self.gold_sd),
            (metrics::KL, self.kl),
            (metrics::KL_SE, self.kl_se),
            (metrics::WIN_RATE, self.win_rate),
            (metrics::TIE_RATE, self.tie_rate),
            (metrics::LENGTH, self.length),
            (metrics::ENTROPY, self.entropy),
        ];
        values.extend(self.proxy.map(|p| (metrics::PROXY, p)));
        EvalResult { split, values, outcomes: vec![], prompts: vec![] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bigrams_lie_within_one_response() {
        // 12, 21, 12 and 12: two of four; none across the two responses
        assert_eq!(distinct_2(&[vec![1, 2, 1, 2], vec![1, 2]]), 0.5);
        assert_eq!(distinct_2(&[vec![1], vec![2], vec![]]), 0.0);
    }
}
