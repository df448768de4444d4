//! Maximum likelihood: on responses given their prompts (SFT), and on running text (the base model).

use crate::{IterationCost, Learner, Method, Metrics, Result, invariants};
use burn::tensor::{Int, Tensor, TensorData};
use duel_model::{Flops, Policy, Reader, Responses, Tokens, TransformerConfig, weights};
use duel_objectives::{ResponseMask, token_logp};

/// Supervised fine-tuning: mean negative log-likelihood of counted response tokens; prompts carry no loss.
#[derive(Debug)]
pub struct Sft {
    reader: Reader,
    flops: Flops,
}

impl Sft {
    /// `reader` is on the autodiff device.
    pub fn new(reader: Reader, config: &TransformerConfig) -> Self {
        Self { reader, flops: Flops::policy(config) }
    }

    fn loss(&self, policy: &Policy, batch: &Responses) -> Tensor<1> {
        let logp = response_logp(&self.reader, policy, batch); // [B, T]
        mask(&self.reader, batch).mean(logp).neg()
    }

    /// The invariants of step 0, on the first batch.
    fn check_start(&self, batch: &Responses, learner: &Learner<Policy>) -> Result<()> {
        let (reader, policy) = (&self.reader, learner.module());
        invariants::eos_counts_and_pad_does_not(0, reader, batch)?;
        invariants::reads_are_sound(0, reader, policy, batch)?;
        let probe = batch.first(invariants::probe(reader.space()));
        let loss = f64::from(weights::host(self.loss(policy, &probe).inner())[0]);
        invariants::only_responses_carry_loss(0, loss, reader, policy, &probe)?;
        invariants::parts_make_the_same_gradient(learner, batch.len(), |policy, rows| {
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
        let mut said = Metrics::default();
        if learner.step() == 0 {
            said.check(|| self.check_start(batch, learner))?;
        }
        let tokens = |rows: &[usize]| batch.select(rows).response_tokens() as f64;
        let update =
            learner.minimize_in_parts(batch.len(), tokens, |policy, rows| self.loss(policy, &batch.select(rows)))?;
        let tokens = batch.token_count();
        said.record_update(
            update,
            IterationCost { trained_tokens: tokens, flops: self.flops.train(tokens), ..IterationCost::default() },
        );
        Ok(said)
    }

    fn state(&self) {}

    fn resume(&mut self, (): ()) {}
}

/// Language modelling of windows of running text, `[B, L + 1]` ids each.
#[derive(Debug)]
pub struct RunningText {
    reader: Reader,
    flops: Flops,
}

impl RunningText {
    /// `reader` is on the autodiff device.
    pub fn new(reader: Reader, config: &TransformerConfig) -> Self {
        Self { reader, flops: Flops::policy(config) }
    }

    /// Mean negative log-likelihood a token of the windows, `[1]`.
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
        let mut said = Metrics::default();
        let some = |rows: &[usize]| rows.iter().map(|&r| windows[r].clone()).collect::<Vec<_>>();
        if learner.step() == 0 {
            said.check(|| {
                invariants::parts_make_the_same_gradient(learner, windows.len(), |policy, rows| {
                    let part = some(rows);
                    (self.loss(policy, &part), part.len() as f64)
                })
            })?;
        }
        let update = learner.minimize_in_parts(
            windows.len(),
            |rows| rows.len() as f64,
            |policy, rows| self.loss(policy, &some(rows)),
        )?;
        let tokens = windows.iter().map(|w| w.len() as u64 - 1).sum();
        said.record_update(
            update,
            IterationCost { trained_tokens: tokens, flops: self.flops.train(tokens), ..IterationCost::default() },
        );
        Ok(said)
    }

    fn state(&self) {}

    fn resume(&mut self, (): ()) {}
}

/// The batch's mask on the reader's device.
pub fn mask(reader: &Reader, batch: &Responses) -> ResponseMask {
    ResponseMask::from_lengths(&batch.lengths(), reader.space().response_tokens, reader.device())
}

/// Log-probability of each response token, `[B, T]`; columns past the response mean nothing.
pub fn response_logp(reader: &Reader, policy: &Policy, batch: &Responses) -> Tensor<2> {
    tokens_logp(reader, policy, &reader.tokens(batch))
}

/// The same of tokens `[B, P + T]`: in one operation where the device has it, else from logits.
pub fn tokens_logp(reader: &Reader, policy: &Policy, tokens: &Tokens) -> Tensor<2> {
    let fused = reader.token_logprobs(policy, tokens);
    fused.unwrap_or_else(|| token_logp(reader.logits(policy, tokens), reader.targets(tokens)))
}

/// Log-probability of each response, summed over its counted tokens, in blocks of rows that bound
/// memory; `reader` and `policy` carry no gradient.
pub fn sequence_logp(reader: &Reader, policy: &Policy, batch: &Responses) -> Vec<f32> {
    blocks(batch, reader.space().context(), TOKENS)
        .flat_map(|block| {
            let logp = response_logp(reader, policy, &block);
            weights::host(mask(reader, &block).row_sums(logp))
        })
        .collect()
}

/// Tokens that are read in one pass without a gradient.
pub const TOKENS: usize = 1 << 12;

/// Numbers of one tensor of logits.
const LOGITS: usize = 1 << 24;

/// A batch cut into blocks of rows of so many numbers each, `most` numbers in all and 256 rows at most.
pub fn blocks(batch: &Responses, numbers: usize, most: usize) -> impl Iterator<Item = Responses> {
    let size = (most / numbers.max(1)).clamp(1, 256);
    (0..batch.len()).step_by(size).map(move |start| {
        let rows: Vec<usize> = (start..batch.len().min(start + size)).collect();
        batch.select(&rows)
    })
}

/// Blocks of which the logits `[B, T, V]` are made.
pub fn blocks_of_logits(reader: &Reader, batch: &Responses) -> impl Iterator<Item = Responses> {
    let space = reader.space();
    blocks(batch, space.response_tokens * space.vocabulary, LOGITS)
}

/// Mean negative log-likelihood over held-out rows: a token, and a response.
pub fn heldout_nll(reader: &Reader, policy: &Policy, batch: &Responses) -> (f64, f64) {
    let total: f64 = sequence_logp(reader, policy, batch).iter().map(|&x| -f64::from(x)).sum();
    (total / batch.response_tokens() as f64, total / batch.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_model::{CountedFlops, count_flops};
    use duel_spec::{LearnerSettings, TokenSpec, seeds};

    /// A step reads and goes back over all tokens once: of responses to prompts, and of running text.
    #[test]
    fn a_step_costs_what_its_model_counts() -> Result<()> {
        let space = TokenSpec {
            vocabulary: 12,
            pad: 0,
            bos: 1,
            eos: 2,
            prompt_tokens: 3,
            response_tokens: 4,
            allowed_tokens: None,
            force_eos: false,
        };
        let device = Device::flex().autodiff();
        let config = TransformerConfig::small(12, space.context(), 2, 16, 2, true);
        let learner = || {
            let policy = Policy::new(&config, &mut seeds::derive(1, "test", 0, "init"), &device);
            Learner::new(policy, &LearnerSettings::defaults(), 1e-3, 10)
        };
        let rows = |length: usize| (0..6u32).map(move |i| (0..length as u32).map(|t| 3 + (i + t) % 9).collect());
        let mut responses: Vec<Vec<u32>> = rows(4).collect();
        responses.iter_mut().for_each(|response| response[3] = 2);
        let batch = Responses { prompts: rows(3).collect(), responses, logp: vec![] };

        let before = count_flops();
        let said = Sft::new(Reader::new(&space, &device), &config).iteration(&batch, &mut learner())?;
        let now = count_flops();
        let since = |of: fn(CountedFlops) -> f64| of(now) - of(before);
        // a pass leaves the last of 7 tokens out, and its head reads the 4 of the response
        let found = since(|c| c.blocks + c.blocks_back) * 7.0 / 6.0 + since(|c| c.heads + c.heads_back) * 7.0 / 4.0;
        assert!((found / said.cost.flops - 1.0).abs() < 1e-6, "{found:e}, {:e}", said.cost.flops);

        let windows: Vec<Vec<u32>> = rows(7).collect();
        let before = count_flops();
        let said = RunningText::new(Reader::new(&space, &device), &config).iteration(&windows, &mut learner())?;
        let now = count_flops();
        let since = |of: fn(CountedFlops) -> f64| of(now) - of(before);
        // the way back through composed heads is not counted
        let found = since(|c| c.blocks + c.blocks_back) + 3.0 * since(|c| c.heads);
        assert!((found / said.cost.flops - 1.0).abs() < 1e-6, "{found:e}, {:e}", said.cost.flops);
        Ok(())
    }
}
