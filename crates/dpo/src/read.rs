//! What a policy says of both responses of a pair: log-probs as the loss reads them, and the weight of the pair.

use burn::tensor::{Int, Tensor, TensorData};
use duel_model::{Policy, ResponseReader, weights::host};
use duel_objectives::{ChosenRejected, ResponseMask, length_desensitized, sampled_alignment, token_logp, wpo_weights};
use duel_spec::DpoSettings as Settings;
use duel_training::{PairBatch, logprobs, pairs::halves, probes};

/// Logits that are made at once for the weights of pairs.
const LOGITS: usize = 1 << 24;

/// Both responses of some pairs as a policy reads them.
pub(crate) struct PairReading {
    /// Log-probs as the loss reads them, `[N]`: with `ld_alpha` times those of the tokens past the shorter response's length.
    pub logp: ChosenRejected,
    /// Log-probs of the whole responses, `[N]`.
    pub whole: ChosenRejected,
    /// WPO's weights, `[N]`.
    pub weights: Option<Tensor<1>>,
}

impl PairReading {
    /// `reader` and `policy` are on the autodiff device.
    pub fn new(s: &Settings, reader: &ResponseReader, policy: &Policy, pairs: &PairBatch) -> Self {
        let mask = logprobs::mask(reader, &pairs.both); // [2N, T]
        let (logp, weights) = match s.use_weighting {
            true => weighted_logp(reader, policy, pairs, &mask),
            false => (logprobs::response_logp(reader, policy, &pairs.both), None),
        };
        let whole = halves(mask.row_sums(logp.clone()));
        let logp = if s.ld_alpha == 1.0 { whole.clone() } else { halves(row_sums(&mask, logp, s.ld_alpha)) };
        Self { logp, whole, weights }
    }
}

impl PairReading {
    /// Of some of the pairs.
    pub fn select(self, pairs: &[usize]) -> Self {
        Self {
            logp: select(self.logp, pairs),
            whole: select(self.whole, pairs),
            weights: self.weights.map(|weights| rows(weights, pairs)),
        }
    }
}

/// Some of the pairs.
pub(crate) fn select(x: ChosenRejected, pairs: &[usize]) -> ChosenRejected {
    x.map(|x| rows(x, pairs))
}

/// Some of the numbers `[N]`.
fn rows(x: Tensor<1>, pairs: &[usize]) -> Tensor<1> {
    let indices: Vec<i32> = pairs.iter().map(|&pair| pair as i32).collect();
    let count = indices.len();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [count]), &x.device());
    x.select(0, indices)
}

/// Log-probs of response tokens `[2N, T]`, and the weights of pairs `[N]` from the same hidden states, the logits of which are
/// made again without gradient, some rows at a time.
fn weighted_logp(
    reader: &ResponseReader,
    policy: &Policy,
    pairs: &PairBatch,
    mask: &ResponseMask,
) -> (Tensor<2>, Option<Tensor<1>>) {
    let tokens = reader.tokens(&pairs.both);
    let states = reader.hidden_states(policy, &tokens); // [2N, T, D]
    let fused = reader.token_logprobs_from_hidden(policy, states.clone(), &tokens);
    let logp = fused.unwrap_or_else(|| {
        token_logp(reader.logits_after(policy, states.clone()), reader.targets(&tokens)) // [2N, T]
    });
    let (plain, without_gradient) = probes::without_graph(reader, policy);
    let (plain_logp, states) = (logp.clone().inner(), states.inner());
    let [rows, columns] = plain_logp.dims();
    let block = (LOGITS / (columns * reader.space().vocabulary)).clamp(1, rows);
    let alignment = (0..rows).step_by(block).map(|start| {
        let count = block.min(rows - start);
        let logits = plain.logits_after(&without_gradient, states.clone().narrow(0, start, count)); // [b, T, V]
        sampled_alignment(plain_logp.clone().narrow(0, start, count), logits) // [b, T]
    });
    let alignment = Tensor::from_inner(Tensor::cat(alignment.collect(), 0)); // [2N, T]
    (logp, Some(wpo_weights(alignment, mask)))
}

/// Log-probs `[B, T]` summed over counted tokens, `[B]`, as LD-DPO weighs them.
fn row_sums(mask: &ResponseMask, logp: Tensor<2>, ld_alpha: f64) -> Tensor<1> {
    match ld_alpha {
        1.0 => mask.row_sums(logp),
        alpha => mask.row_sums(logp * length_desensitized(mask, alpha)),
    }
}

/// Log-probs of both responses under a policy, as the loss reads them, `[N]` each.
pub(crate) fn pair_logp(reader: &ResponseReader, policy: &Policy, pairs: &PairBatch, ld_alpha: f64) -> ChosenRejected {
    let mask = logprobs::mask(reader, &pairs.both); // [2N, T]
    halves(row_sums(&mask, logprobs::response_logp(reader, policy, &pairs.both), ld_alpha))
}

/// The same of any number of pairs, in blocks that bound memory, `2N` numbers, chosen responses first; `reader` and `policy`
/// carry no gradient.
pub(crate) fn all_pair_logp(reader: &ResponseReader, policy: &Policy, pairs: &PairBatch, ld_alpha: f64) -> Vec<f32> {
    if ld_alpha == 1.0 {
        return logprobs::sequence_logp(reader, policy, &pairs.both);
    }
    let block = (logprobs::TOKENS / (2 * reader.space().context())).max(1);
    let (mut chosen, mut rejected) = (vec![], vec![]);
    for start in (0..pairs.len()).step_by(block) {
        let part = pairs.select(&(start..pairs.len().min(start + block)).collect::<Vec<_>>());
        let logp = pair_logp(reader, policy, &part, ld_alpha);
        chosen.extend(host(logp.chosen));
        rejected.extend(host(logp.rejected));
    }
    [chosen, rejected].concat()
}
