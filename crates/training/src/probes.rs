//! Invariants that read a model again on a few rows (ARCHITECTURE.md, What is checked while it runs). What rounding alone
//! explains is no violation ([`unless_rounding`]).

use crate::invariants::{Tolerance, check_close, diverged, finite, largest};
use crate::learner::norm;
use crate::logprobs::{response_logp, tokens_logp};
use crate::rounding::{nudged, unless_rounding};
use crate::{Learner, Result};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use duel_model::{Policy, ResponseReader, Responses, Tokens, weights};
use duel_spec::TokenSpec;

/// Rows that a probe reads: enough to see a fault, too few to cost a training anything.
pub const PROBE_ROWS: usize = 16;

/// The same where every logit of every column is read, which a large vocabulary makes many: at most 2²⁴ logits, but at least
/// two rows.
pub fn probe_rows(space: &TokenSpec) -> usize {
    ((1 << 24) / (space.context() * space.vocabulary)).clamp(2, PROBE_ROWS)
}

/// A batch in eight parts, weighted by what each mean is over, has the gradient of the whole. `loss` gives the loss `[1]` of
/// some rows under a module and what it is a mean over (counted tokens, pairs). The first [`PROBE_ROWS`] rows are enough.
pub fn parts_make_the_same_gradient<M: Module>(
    learner: &Learner<M>,
    rows: usize,
    loss: impl Fn(&M, &[usize]) -> (Tensor<1>, f64),
) -> Result<()> {
    let all: Vec<usize> = (0..rows.min(PROBE_ROWS)).collect();
    let (batch_loss, weight) = loss(learner.module(), &all);
    if weight == 0.0 {
        return Ok(()); // a mean over nothing
    }
    let batch_gradient = learner.gradient(batch_loss);
    let (mut difference, mut norms) = (batch_gradient.clone(), norm(&batch_gradient));
    for part in all.chunks(all.len().div_ceil(8)) {
        let (loss, part_weight) = loss(learner.module(), part);
        let part = learner.gradient(loss * (part_weight / weight));
        norms += norm(&part);
        difference.iter_mut().zip(part).for_each(|(difference, g)| *difference -= g);
    }
    let what = "the norm of the whole batch's gradient less that of its parts";
    let within = Tolerance { share: 1e-5, of: "the sum of the norms of both", scale: norms };
    let error = norm(&difference);
    let result = check_close("parts_make_the_same_gradient", learner.step(), what, error, 0.0, within);
    // a gradient that cancels (equal scores, equal responses) consists of the rounding errors of the log-probs
    unless_rounding(result, error, || {
        let module = nudged(learner.module());
        let mut change = learner.gradient_of(&module, loss(&module, &all).0);
        change.iter_mut().zip(&batch_gradient).for_each(|(change, g)| *change -= g);
        norm(&change)
    })
}

/// Neither the ids on PAD nor the amount of padding before a prompt changes a counted number. `read` gives what a model
/// computes from tokens, one or more numbers per row, of which those of counted tokens are compared; `size` is the magnitude
/// of the terms that these numbers are differences of.
pub fn padding_is_inert<M: Module>(
    step: u64,
    reader: &ResponseReader,
    model: &M,
    batch: &Responses,
    size: f64,
    read: impl Fn(&ResponseReader, &M, &Tokens) -> Tensor<2>,
) -> Result<()> {
    let space = reader.space();
    let tokens = reader.tokens(batch);
    let counted = |model: &M, tokens: &Tokens| -> Vec<f32> {
        let all = weights::host(read(reader, model, tokens).inner_if_autodiff());
        let columns = space.response_tokens;
        let cells = (0..batch.len()).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let cells = cells.filter(|(row, column)| batch.is_counted(*row, *column));
        cells.map(|(row, column)| all[row * columns + column]).collect()
    };
    let plain = counted(model, &tokens);
    let scale = size.max(1.0) as f32;
    let change = |other: Vec<f32>| largest(plain.iter().zip(other).map(|(a, b)| (a - b).abs() / a.abs().max(scale)));
    let check = |what: &str, other: &Tokens| {
        let error = change(counted(model, other));
        let result = check_close("padding_is_inert", step, what, error, 0.0, Tolerance::absolute(1e-5));
        unless_rounding(result, error, || change(counted(&nudged(model), &tokens)))
    };

    let mut ids = tokens.ids.clone().into_data().iter::<i32>().collect::<Vec<_>>();
    let width = tokens.ids.dims()[1];
    let prompt = width - space.response_tokens;
    for (row, response) in batch.responses.iter().enumerate() {
        for id in &mut ids[row * width + prompt + response.len()..(row + 1) * width] {
            *id = space.bos as i32;
        }
    }
    let ids = Tensor::from_data(TensorData::new(ids, [batch.len(), width]), reader.device());
    let what = "the largest relative change of what is read when PAD holds another token";
    check(what, &Tokens { ids, left_padding: tokens.left_padding.clone() })?;

    let what = "the largest relative change of what is read when three PADs stand before each prompt";
    check(what, &padded_before(reader, batch, 3))
}

/// A batch's tokens with `more` additional PADs before each prompt.
fn padded_before(reader: &ResponseReader, batch: &Responses, more: usize) -> Tokens {
    let Tokens { ids, left_padding } = reader.tokens(batch);
    let rows = ids.dims()[0];
    let pads = Tensor::full([rows, more], reader.space().pad as i32, reader.device());
    let left_padding = left_padding.unwrap_or(vec![0; rows]).into_iter().map(|padding| padding + more).collect();
    Tokens::with_left_padding(Tensor::cat(vec![pads, ids], 1), left_padding)
}

/// [`padding_is_inert`] and `labels_are_shifted` for a policy, on the first rows of a batch.
pub fn reads_are_sound(step: u64, reader: &ResponseReader, policy: &Policy, batch: &Responses) -> Result<()> {
    let rows = batch.first(probe_rows(reader.space()));
    let (reader, policy) = without_graph(reader, policy);
    let reference = ReferenceForward::new(step, &reader, &policy, &rows)?;
    padding_is_inert(step, &reader, &policy, &rows, reference.logit, tokens_logp)?;
    labels_are_shifted(step, &reader, &policy, &rows, &reference)
}

/// A reader and a model without autodiff: a forward pass without a backward pass would keep all that it saved until the next
/// backward pass.
pub fn without_graph<M: Module>(reader: &ResponseReader, model: &M) -> (ResponseReader, M) {
    if reader.device().is_autodiff() { (reader.valid(), model.valid()) } else { (reader.clone(), model.clone()) }
}

/// Labels are shifted by one: the log-prob of each response token is what the column before it predicts, computed in f64
/// from unaligned logits. EOS is included, prompts and PAD are not.
fn labels_are_shifted(
    step: u64,
    reader: &ResponseReader,
    policy: &Policy,
    batch: &Responses,
    reference: &ReferenceForward,
) -> Result<()> {
    let columns = reader.space().response_tokens;
    let read = |policy: &Policy| weights::host(response_logp(reader, policy, batch).inner_if_autodiff());
    let logp = read(policy);
    let scale = reference.logit.max(1.0);
    let error = |row: usize, t: usize, other: f64| {
        ((other - f64::from(logp[row * columns + t])).abs() / other.abs().max(scale)) as f32
    };
    let worst = largest(reference.counted().map(|(row, t, other)| error(row, t, other)));
    let what = "the largest relative difference of a log-prob from the one shifted by hand";
    let result = check_close("labels_are_shifted", step, what, worst, 0.0, Tolerance::absolute(1e-4));
    unless_rounding(result, worst, || {
        let nudged = read(&nudged(policy));
        largest(reference.counted().map(|(row, t, _)| error(row, t, f64::from(nudged[row * columns + t]))))
    })
}

/// A loss over tokens counts response tokens including EOS, and neither prompts, nor PAD, nor other turns than the assistant's:
/// compared with log-probs that are computed independently.
pub fn only_responses_carry_loss(
    step: u64,
    loss: f64,
    reader: &ResponseReader,
    policy: &Policy,
    batch: &Responses,
) -> Result<()> {
    let (reader, policy) = without_graph(reader, policy);
    let logp: Vec<f64> =
        ReferenceForward::new(step, &reader, &policy, batch)?.counted().map(|(_, _, logp)| logp).collect();
    let mean = -logp.iter().sum::<f64>() / logp.len() as f64;
    let within = Tolerance { share: 1e-4, of: "the loss worked out by hand, at least 1", scale: mean.max(1.0) };
    check_close("only_responses_carry_loss", step, "the loss", loss, mean, within)
}

/// Log-odds of one token against another from which on a model has diverged: exp overflows f64.
const LARGEST_ODDS: f64 = 709.0;

/// Reference log-probs of counted response tokens, computed independently of [`ResponseReader`] from the model's logits.
struct ReferenceForward {
    /// Row, column and log-prob of each counted token.
    counted: Vec<(usize, usize, f64)>,
    /// The largest magnitude of a logit: f32 log-probs are precise relative to it.
    logit: f64,
}

impl ReferenceForward {
    fn new(step: u64, reader: &ResponseReader, policy: &Policy, batch: &Responses) -> Result<Self> {
        let space = reader.space();
        let (v, forbidden) = (space.vocabulary, space.forbidden_mask());
        let tokens = batch.tokens(space, reader.device());
        let width = tokens.ids.dims()[1];
        let ids: Vec<i32> = tokens.ids.clone().into_data().iter::<i32>().collect();
        let logits = policy.logits(tokens, 0).inner_if_autodiff(); // [B, P + T, V]
        let logits = weights::host(logits);
        let (mut largest_logit, mut largest_odds) = (0f64, 0f64);
        let mut logp = |row: usize, j: usize| {
            let column = width - space.response_tokens + j;
            let predicted = &logits[(row * width + column - 1) * v..][..v];
            let is_allowed = |id: &usize| forbidden.as_ref().is_none_or(|forbidden| !forbidden[j][*id]);
            let allowed = || (0..v).filter(is_allowed).map(|id| f64::from(predicted[id]));
            let max = allowed().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = allowed().map(|logit| (logit - max).exp()).sum();
            let larger = |x: f64, so_far: f64| if x.is_nan() || x > so_far { x } else { so_far };
            largest_logit = allowed().map(f64::abs).fold(largest_logit, |size, x| larger(x, size));
            largest_odds = larger(max - allowed().fold(f64::INFINITY, f64::min), largest_odds);
            f64::from(predicted[ids[row * width + column] as usize]) - max - sum.ln()
        };
        let cells = (0..batch.len()).flat_map(|row| (0..space.response_tokens).map(move |j| (row, j)));
        let cells = cells.filter(|(row, j)| batch.is_counted(*row, *j));
        let counted = cells.map(|(row, j)| (row, j, logp(row, j))).collect();
        finite(step, "the largest logit", largest_logit)?;
        if largest_odds > LARGEST_ODDS {
            let what =
                format!("the log-odds of one token against another (beyond {LARGEST_ODDS:.0} no number holds them)");
            return Err(diverged(step, &what, largest_odds));
        }
        Ok(Self { counted, logit: largest_logit })
    }

    fn counted(&self) -> impl Iterator<Item = (usize, usize, f64)> {
        self.counted.iter().copied()
    }
}

/// `inner` of tensors with and without autodiff.
trait InnerIfAutodiff {
    fn inner_if_autodiff(self) -> Self;
}

impl<const D: usize> InnerIfAutodiff for Tensor<D> {
    fn inner_if_autodiff(self) -> Self {
        if self.is_autodiff() { self.inner() } else { self }
    }
}
