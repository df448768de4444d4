//! Maximum likelihood: on responses given their prompts (SFT), and on running text (the base model).

use crate::logprobs::{mask, response_logp};
use crate::{IterationCost, Learner, Method, Metrics, Result, invariants, probes};
use burn::tensor::{Int, Tensor, TensorData};
use duel_model::{Flops, Policy, ResponseReader, Responses, TransformerConfig, weights};
use duel_objectives::token_logp;

/// Supervised fine-tuning: mean negative log-likelihood of counted response tokens; prompts carry no loss.
#[derive(Debug)]
pub struct Sft {
    reader: ResponseReader,
    flops: Flops,
}

impl Sft {
    /// `reader` is on the autodiff device.
    pub fn new(reader: ResponseReader, config: &TransformerConfig) -> Self {
        Self { reader, flops: Flops::policy(config) }
    }

    fn loss(&self, policy: &Policy, batch: &Responses) -> Tensor<1> {
        let logp = response_logp(&self.reader, policy, batch); // [B, T]
        mask(&self.reader, batch).mean(logp).neg()
    }

    /// Checks the invariants of step 0 on the first batch.
    fn check_start(&self, batch: &Responses, learner: &Learner<Policy>) -> Result<()> {
        let (reader, policy) = (&self.reader, learner.module());
        invariants::eos_counts_and_pad_does_not(0, reader, batch)?;
        probes::reads_are_sound(0, reader, policy, batch)?;
        let rows = batch.first(probes::probe_rows(reader.space()));
        let loss = f64::from(weights::host(self.loss(policy, &rows).inner())[0]);
        probes::only_responses_carry_loss(0, loss, reader, policy, &rows)?;
        probes::parts_make_the_same_gradient(learner, batch.len(), |policy, rows| {
            let part = batch.select(rows);
            (self.loss(policy, &part), part.response_tokens() as f64)
        })
    }
}

impl Method for Sft {
    type Module = Policy;
    type Batch = Responses;
    type State = ();

    fn prompts(batch: &Responses) -> Vec<u64> {
        batch.prompt_hashes()
    }

    fn iteration(&mut self, batch: &Responses, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut metrics = Metrics::default();
        if learner.step() == 0 {
            metrics.check(|| self.check_start(batch, learner))?;
        }
        let tokens = |rows: &[usize]| batch.select(rows).response_tokens() as f64;
        let update =
            learner.minimize_in_parts(batch.len(), tokens, |policy, rows| self.loss(policy, &batch.select(rows)))?;
        let tokens = batch.token_count();
        metrics.record_update(
            update,
            IterationCost { trained_tokens: tokens, flops: self.flops.train(tokens), ..IterationCost::default() },
        );
        Ok(metrics)
    }

    fn state(&self) {}

    fn resume(&mut self, (): ()) {}
}

/// Language modelling of windows of running text, `[B, L + 1]` ids each.
#[derive(Debug)]
pub struct RunningText {
    reader: ResponseReader,
    flops: Flops,
}

impl RunningText {
    /// `reader` is on the autodiff device.
    pub fn new(reader: ResponseReader, config: &TransformerConfig) -> Self {
        Self { reader, flops: Flops::policy(config) }
    }

    /// Mean negative log-likelihood per token of the windows, `[1]`.
    pub fn loss(&self, policy: &Policy, windows: &[Vec<u32>]) -> Tensor<1> {
        let (rows, width) = (windows.len(), windows[0].len());
        let ids: Vec<i32> = windows.concat().into_iter().map(|id| id as i32).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [rows, width]), self.reader.device()); // [B, L+1]
        let logits = policy.logits(ids.clone().narrow(1, 0, width - 1), 0); // [B, L, V]
        token_logp(logits, ids.narrow(1, 1, width - 1)).mean().neg()
    }
}

impl Method for RunningText {
    type Module = Policy;
    type Batch = Vec<Vec<u32>>;
    type State = ();

    fn prompts(_: &Vec<Vec<u32>>) -> Vec<u64> {
        vec![]
    }

    fn iteration(&mut self, windows: &Vec<Vec<u32>>, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut metrics = Metrics::default();
        let select = |rows: &[usize]| rows.iter().map(|&r| windows[r].clone()).collect::<Vec<_>>();
        if learner.step() == 0 {
            metrics.check(|| {
                probes::parts_make_the_same_gradient(learner, windows.len(), |policy, rows| {
                    let part = select(rows);
                    (self.loss(policy, &part), part.len() as f64)
                })
            })?;
        }
        let update = learner.minimize_in_parts(
            windows.len(),
            |rows| rows.len() as f64,
            |policy, rows| self.loss(policy, &select(rows)),
        )?;
        let tokens = windows.iter().map(|w| w.len() as u64 - 1).sum();
        metrics.record_update(
            update,
            IterationCost { trained_tokens: tokens, flops: self.flops.train(tokens), ..IterationCost::default() },
        );
        Ok(metrics)
    }

    fn state(&self) {}

    fn resume(&mut self, (): ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_model::{CountedFlops, count_flops};
    use duel_spec::{LearnerSettings, seeds};
    use duel_testing_tensors::trajectory;

    /// A step makes one forward and one backward pass over all tokens: of responses to prompts, and of running text.
    #[test]
    fn a_step_costs_what_its_model_counts() -> Result<()> {
        let space = trajectory::space(12, [0, 2], 3, 4);
        let device = Device::flex().autodiff();
        let config = TransformerConfig::small(12, space.context(), 2, 16, 2, true);
        let learner = || {
            let policy = Policy::new(&config, &mut seeds::derive(1, "test", 0, "init"), &device);
            Learner::new(policy, &LearnerSettings::defaults(), 1e-3, 10)
        };
        let rows = |length: usize| (0..6u32).map(move |i| (0..length as u32).map(|t| 3 + (i + t) % 9).collect());
        let mut responses: Vec<Vec<u32>> = rows(4).collect();
        responses.iter_mut().for_each(|response| response[3] = 2);
        let batch = Responses { prompts: rows(3).collect(), responses, logp: vec![], masks: vec![] };

        let before = count_flops();
        let metrics = Sft::new(ResponseReader::new(&space, &device), &config).iteration(&batch, &mut learner())?;
        let after = count_flops();
        let since = |count: fn(CountedFlops) -> f64| count(after) - count(before);
        // a pass omits the last of 7 tokens, and its head reads the 4 of the response
        let counted = since(|c| c.blocks + c.blocks_back) * 7.0 / 6.0 + since(|c| c.heads + c.heads_back) * 7.0 / 4.0;
        assert!((counted / metrics.cost.flops - 1.0).abs() < 1e-6, "{counted:e}, {:e}", metrics.cost.flops);

        let windows: Vec<Vec<u32>> = rows(7).collect();
        let before = count_flops();
        let metrics =
            RunningText::new(ResponseReader::new(&space, &device), &config).iteration(&windows, &mut learner())?;
        let after = count_flops();
        let since = |count: fn(CountedFlops) -> f64| count(after) - count(before);
        // the backward pass through composed heads is not counted
        let counted = since(|c| c.blocks + c.blocks_back) + 3.0 * since(|c| c.heads);
        assert!((counted / metrics.cost.flops - 1.0).abs() < 1e-6, "{counted:e}, {:e}", metrics.cost.flops);
        Ok(())
    }
}
