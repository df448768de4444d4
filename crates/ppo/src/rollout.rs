//! What every method on its own completions begins with: responses of the policy as it is, and what its judges say of them.

use crate::invariants;
use burn::tensor::{Int, Tensor, TensorData};
use duel_model::{Flops, Policy, Reader, Responses, TransformerConfig, generate, weights::host};
use duel_objectives::{ResponseMask, k1};
use duel_reward::Scorer;
use duel_spec::{metrics, seeds};
use duel_training::invariants as always;
use duel_training::{Metrics, Result, sft};
use std::collections::HashSet;
use std::sync::Arc;

/// What a method on rollouts is given and never changes.
pub struct Setting {
    /// The frozen SFT policy, without gradient.
    pub reference: Policy,
    /// Whose score is climbed.
    pub scorer: Arc<dyn Scorer>,
    /// Reads without gradient.
    pub reader: Reader,
    /// Reads on the autodiff device.
    pub train_reader: Reader,
    pub config: TransformerConfig,
    /// FLOPs of the scorer's forward pass over a token: 0 for gold.
    pub scorer_flops: f64,
    pub seed: u64,
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Setting(seed {})", self.seed)
    }
}

/// What the old policy and its judges said of a rollout, `[B, T]` each, without gradient.
#[derive(Debug, Clone)]
pub struct Rollout {
    pub responses: Responses,
    pub mask: ResponseMask,
    /// Log-probs under the policy that wrote the responses.
    pub logp: Tensor<2>,
    pub ref_logp: Tensor<2>,
    /// One a response, `[B]`.
    pub scores: Vec<f64>,
}

/// The policy that speaks: its snapshot without gradient, and as it is trained.
#[derive(Debug, Clone, Copy)]
pub struct Actors<'a> {
    pub old: &'a Policy,
    pub now: &'a Policy,
}

/// When a rollout happens.
#[derive(Debug, Clone, Copy)]
pub struct When {
    /// Updates made.
    pub step: u64,
    /// Whether it is the training's first.
    pub first: bool,
}

impl Setting {
    /// Lets the policy answer the prompts, one response each, and has them read and scored. `blocks` are the minibatches
    /// of the first epoch.
    ///
    /// # Errors
    /// A broken invariant, and a judge that fails.
    pub fn roll_out(
        &self,
        actors: Actors<'_>,
        prompts: &[Vec<u32>],
        blocks: &[Vec<usize>],
        rng: &mut seeds::Rng,
        when: When,
        said: &mut Metrics,
    ) -> Result<Rollout> {
        let (reader, train_reader) = (&self.reader, &self.train_reader);
        let responses = generate(actors.old, reader.space(), prompts.to_vec(), rng, reader.device());
        let mask = sft::mask(reader, &responses); // [B, T]
        // read as the first epoch will, in its minibatches: the same arithmetic, so the ratios start at 1 to the last
        // bit. Where the device has no log-probs of its own, the training module reads: autodiff composes its softmax.
        let read = |block: &Responses| {
            let fused = reader.chosen_logp(actors.old, &reader.tokens(block));
            fused.unwrap_or_else(|| sft::response_logp(train_reader, actors.now, block).inner())
        };
        let logp = in_blocks(&responses, blocks, read); // [B, T]
        let ref_logp = sft::response_logp(reader, &self.reference, &responses); // [B, T]
        let scores = self.scorer.score(&responses).map_err(unscored)?; // [B]
        said.check(|| {
            if when.first {
                always::eos_counts_and_pad_does_not(when.step, reader, &responses)?;
                always::reads_are_sound(when.step, train_reader, actors.now, &responses)?;
            }
            let columns = reader.space().response_tokens;
            invariants::sampled_logp_is_the_policys(when.step, &responses.logp, &host(logp.clone()), columns)
        })?;
        let rollout = Rollout { responses, mask, logp, ref_logp, scores };
        rollout.tell(reader, said);

        // Generate, old log-probs, reference and score passes: one forward each (claims §4.4).
        let tokens = rollout.responses.token_count();
        said.cost.sampled_tokens += rollout.responses.response_tokens();
        said.cost.scored_tokens += tokens * if self.scorer_flops > 0.0 { 3 } else { 2 };
        said.cost.flops += 3.0 * Flops::policy(&self.config).forward(tokens) + self.scorer_flops * tokens as f64;
        Ok(rollout)
    }
}

impl Rollout {
    /// k1 of each token, `[B, T]`.
    pub fn token_kl(&self) -> Tensor<2> {
        k1(self.logp.clone(), self.ref_logp.clone())
    }

    /// k1 of each response, nats, `[B]`.
    pub fn kl(&self) -> Tensor<1> {
        self.mask.row_sums(self.token_kl())
    }

    /// `[B]`
    pub fn score_tensor(&self) -> Tensor<1> {
        let scores: Vec<f32> = self.scores.iter().map(|&x| x as f32).collect();
        Tensor::from_data(scores.as_slice(), &self.logp.device())
    }

    /// Mean score less the toll.
    pub fn mean_return(&self, beta: f64) -> f64 {
        mean(self.scores.iter().copied()) - beta * self.mean_kl()
    }

    fn mean_kl(&self) -> f64 {
        mean(host(self.kl()).into_iter().map(f64::from))
    }

    fn tell(&self, reader: &Reader, said: &mut Metrics) {
        let Self { responses, mask, logp, scores, .. } = self;
        let n = responses.len() as f64;
        let distinct: HashSet<_> = responses.prompts.iter().zip(&responses.responses).collect();
        let unended = (0..responses.len()).filter(|&row| !responses.ended(row, reader.space())).count();
        said.put(metrics::ROLLOUT_PROXY, mean(scores.iter().copied()));
        said.put(metrics::ROLLOUT_KL, self.mean_kl());
        said.put(metrics::ROLLOUT_LENGTH, responses.response_tokens() as f64 / n);
        said.put(metrics::ROLLOUT_ENTROPY, -f64::from(host(mask.mean(logp.clone()))[0]));
        said.put(metrics::ROLLOUT_UNENDED, unended as f64 / n);
        said.put(metrics::ROLLOUT_UNIQUE, distinct.len() as f64 / n);
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// What `read` gives of each block of rows (and of those in none), in the order of the rollout.
pub fn in_blocks(rollout: &Responses, blocks: &[Vec<usize>], read: impl Fn(&Responses) -> Tensor<2>) -> Tensor<2> {
    let taken: HashSet<usize> = blocks.iter().flatten().copied().collect();
    let rest: Vec<usize> = (0..rollout.len()).filter(|row| !taken.contains(row)).collect();
    let blocks = || blocks.iter().chain(std::iter::once(&rest)).filter(|rows| !rows.is_empty());
    let shuffled = Tensor::cat(blocks().map(|rows| read(&rollout.select(rows))).collect(), 0); // [B, T]
    let mut place = vec![0; rollout.len()];
    blocks().flatten().enumerate().for_each(|(at, &row)| place[row] = at);
    shuffled.clone().select(0, index(&place, &shuffled))
}

/// Rows as a tensor on the device of another.
pub fn index(rows: &[usize], like: &Tensor<2>) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|&r| r as i32).collect();
    let n = rows.len();
    Tensor::from_data(TensorData::new(rows, [n]), &like.device())
}

/// Variance over counted tokens.
pub fn variance(x: &Tensor<2>, mask: &ResponseMask) -> f64 {
    let mean = mask.mean(x.clone()).unsqueeze::<2>();
    f64::from(host(mask.mean((x.clone() - mean).square()))[0])
}

/// A scorer's failure as a training's: only training errors pass through; a judge's own is named.
fn unscored(error: duel_reward::Error) -> duel_training::Error {
    match error {
        duel_reward::Error::Training(error) => error,
        duel_reward::Error::Model(error) => error.into(),
        duel_reward::Error::Data(error) => error.into(),
        judge @ duel_reward::Error::Judge { .. } => duel_training::invariants::breach(
            "scorer_answers",
            0,
            "the scorer",
            judge.to_string(),
            "a score a response".into(),
        ),
    }
}
