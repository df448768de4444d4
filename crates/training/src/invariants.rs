//! What must hold in every training; a breach stops the run by the invariant's name (claims §8).

use crate::learner::norm;
use crate::{Error, Learner, Result, sft};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use duel_data::World;
use duel_model::{Policy, Reader, Responses, Tokens, weights};
use duel_spec::{Space, Split};
use std::collections::HashSet;

/// Rows that a check which reads a model again looks at: enough to see a fault, too few to cost a training anything.
pub const PROBE: usize = 16;

/// The same where every logit of every column is read, which a large vocabulary makes many: 2²⁴ numbers at most, but two rows.
pub fn probe(space: &Space) -> usize {
    ((1 << 24) / (space.context() * space.vocabulary)).clamp(2, PROBE)
}

/// Fails by name unless `|found − expected| ≤ tolerance`.
pub fn close(name: &'static str, step: u64, what: &str, found: f64, expected: f64, tolerance: f64) -> Result<()> {
    if (found - expected).abs() <= tolerance {
        return Ok(());
    }
    Err(breach(name, step, what, found.to_string(), format!("{expected} within {tolerance:e}")))
}

/// The largest of some sizes, 0 of none; NaN if one is NaN, so that [`close`] then fails.
pub fn largest(sizes: impl Iterator<Item = f32>) -> f64 {
    f64::from(sizes.fold(0f32, |m, x| if x.is_nan() || x > m { x } else { m }))
}

/// The error of a broken invariant.
pub fn breach(name: &'static str, step: u64, what: &str, found: String, expected: String) -> Error {
    Error::Invariant { name, step, what: what.into(), found, expected }
}

/// A learning rate of 0 changes nothing.
pub fn zero_rate_moves_nothing(step: u64, moved: f64) -> Result<()> {
    close("zero_rate_moves_nothing", step, "the norm of an update at learning rate 0", moved, 0.0, 0.0)
}

/// The parts that were accumulated make one batch.
pub fn parts_make_a_whole(step: u64, share: f64) -> Result<()> {
    close("parts_make_a_whole", step, "the sum of the accumulated parts' shares", share, 1.0, 1e-6)
}

/// Rows of a batch in eight parts, weighted by what each mean is over, have the gradient of the whole. `loss` gives the
/// loss `[1]` of some rows and what it is a mean over (counted tokens, pairs). The first [`PROBE`] rows are enough.
pub fn parts_make_the_same_gradient<M: Module>(
    learner: &Learner<M>,
    rows: usize,
    loss: impl Fn(&[usize]) -> (Tensor<1>, f64),
) -> Result<()> {
    let all: Vec<usize> = (0..rows.min(PROBE)).collect();
    let (whole, weight) = loss(&all);
    let mut off = learner.gradient(whole);
    let mut sizes = norm(&off);
    for part in all.chunks(all.len().div_ceil(8)) {
        let (loss, of) = loss(part);
        let part = learner.gradient(loss * (of / weight));
        sizes += norm(&part);
        off.iter_mut().zip(part).for_each(|(off, g)| *off -= g);
    }
    let what = "the gradient of the whole batch less that of its parts, over the norms of both";
    close("parts_make_the_same_gradient", learner.step(), what, norm(&off) / sizes.max(1e-12), 0.0, 1e-5)
}

/// Neither what stands on PAD nor how much of it stands before a prompt moves a number that counts. `read` gives what
/// a model makes of tokens, one or more numbers a row; `counted` are the places that count.
pub fn padding_is_inert(
    step: u64,
    reader: &Reader,
    batch: &Responses,
    read: impl Fn(&Reader, &Tokens) -> Tensor<2>,
) -> Result<()> {
    let space = reader.space();
    let tokens = reader.tokens(batch);
    let counted = |reader: &Reader, tokens: &Tokens| -> Vec<f32> {
        let all = weights::host(read(reader, tokens).inner_if_autodiff());
        let rows = batch.responses.iter().enumerate();
        rows.flat_map(|(row, r)| all[row * space.response_tokens..][..r.len()].to_vec()).collect()
    };
    let plain = counted(reader, &tokens);
    let moved = |other: Vec<f32>| largest(plain.iter().zip(other).map(|(a, b)| (a - b).abs() / a.abs().max(1.0)));
    let name = "padding_is_inert";

    let mut other = tokens.ids.clone().into_data().iter::<i32>().collect::<Vec<_>>();
    let width = tokens.ids.dims()[1];
    let prompt = width - space.response_tokens;
    for (row, response) in batch.responses.iter().enumerate() {
        for id in &mut other[row * width + prompt + response.len()..(row + 1) * width] {
            *id = space.bos as i32;
        }
    }
    let other = Tensor::from_data(TensorData::new(other, [batch.len(), width]), reader.device());
    let changed = counted(reader, &Tokens { ids: other, left: tokens.left.clone() });
    let what = "the largest relative change of what is read when PAD holds another token";
    close(name, step, what, moved(changed), 0.0, 1e-5)?;

    let wider = counted(reader, &padded_before(reader, batch, 3));
    let what = "the largest relative change of what is read when three PADs stand before each prompt";
    close(name, step, what, moved(wider), 0.0, 1e-5)
}

/// A batch's tokens with so many more PADs before each prompt.
fn padded_before(reader: &Reader, batch: &Responses, more: usize) -> Tokens {
    let Tokens { ids, left } = reader.tokens(batch);
    let rows = ids.dims()[0];
    let pads = Tensor::full([rows, more], reader.space().pad as i32, reader.device());
    let left = left.unwrap_or(vec![0; rows]).into_iter().map(|left| left + more).collect();
    Tokens::marked(Tensor::cat(vec![pads, ids], 1), left)
}

/// What is read of a policy is sound: [`padding_is_inert`] and [`labels_are_shifted`], on the first rows of a batch.
pub fn reads_are_sound(step: u64, reader: &Reader, policy: &Policy, batch: &Responses) -> Result<()> {
    let probe = batch.first(probe(reader.space()));
    let (reader, policy) = without_graph(reader, policy);
    padding_is_inert(step, &reader, &probe, |reader, tokens| sft::tokens_logp(reader, &policy, tokens))?;
    labels_are_shifted(step, &reader, &policy, &probe)
}

/// A reader and a model as they are where nobody asks for a gradient: a pass that is never gone back over would keep all
/// that it saved until the next backward pass.
pub fn without_graph<M: Module>(reader: &Reader, model: &M) -> (Reader, M) {
    if reader.device().is_autodiff() { (reader.valid(), model.valid()) } else { (reader.clone(), model.clone()) }
}

/// Labels are shifted by one: the log-prob of each response token is what the column before it predicts, worked out
/// by hand in f64 from logits that nobody aligned. EOS is among them, prompts and PAD are not.
pub fn labels_are_shifted(step: u64, reader: &Reader, policy: &Policy, batch: &Responses) -> Result<()> {
    let columns = reader.space().response_tokens;
    let read = weights::host(sft::response_logp(reader, policy, batch).inner_if_autodiff());
    let by_hand = by_hand(reader, policy, batch);
    let worst = largest(by_hand.iter().enumerate().flat_map(|(row, tokens)| {
        {
            let read = &read[row * columns..];
            tokens.iter().zip(read).map(|(hand, read)| ((hand - f64::from(*read)) / hand.abs().max(1.0)) as f32)
        }
        .map(f32::abs)
    }));
    let what = "the largest relative difference of a log-prob from the one shifted by hand";
    close("labels_are_shifted", step, what, worst, 0.0, 1e-4)
}

/// A loss over tokens counts response tokens, EOS among them, and neither prompts nor PAD: worked out by hand.
pub fn only_responses_carry_loss(
    step: u64,
    loss: f64,
    reader: &Reader,
    policy: &Policy,
    batch: &Responses,
) -> Result<()> {
    let (reader, policy) = without_graph(reader, policy);
    let by_hand = by_hand(&reader, &policy, batch).concat();
    let mean = -by_hand.iter().sum::<f64>() / by_hand.len() as f64;
    close("only_responses_carry_loss", step, "the loss", loss, mean, 1e-4 * mean.max(1.0))
}

/// The log-prob of each response token, `[B][length]`: nothing here is shared with [`Reader`] but the model's logits.
fn by_hand(reader: &Reader, policy: &Policy, batch: &Responses) -> Vec<Vec<f64>> {
    let space = reader.space();
    let (v, hidden) = (space.vocabulary, space.hidden());
    let tokens = batch.tokens(space, reader.device());
    let width = tokens.ids.dims()[1];
    let ids: Vec<i32> = tokens.ids.clone().into_data().iter::<i32>().collect();
    let logits = policy.logits(tokens, 0).inner_if_autodiff(); // [B, P + T, V]
    let logits = weights::host(logits);
    let logp = |row: usize, j: usize| {
        let at = width - space.response_tokens + j;
        let predicted = &logits[(row * width + at - 1) * v..][..v];
        let allowed = |id: usize| hidden.as_ref().is_none_or(|hidden| !hidden[j][id]);
        let sum: f64 = (0..v).filter(|&id| allowed(id)).map(|id| f64::from(predicted[id]).exp()).sum();
        f64::from(predicted[ids[row * width + at] as usize]) - sum.ln()
    };
    let rows = batch.responses.iter().enumerate();
    rows.map(|(row, response)| (0..response.len()).map(|j| logp(row, j)).collect()).collect()
}

/// Every response counts up to its first EOS, or fills the row; EOS and PAD differ.
pub fn eos_counts_and_pad_does_not(step: u64, reader: &Reader, batch: &Responses) -> Result<()> {
    let space = reader.space();
    let name = "eos_counts_and_pad_does_not";
    // a pretrained model may know no control token but EOS; then PAD is told apart by its place alone
    let apart = space.eos != space.pad;
    if !apart && space.actions.is_none() {
        return Err(breach(name, step, "the id of EOS", space.eos.to_string(), "other than PAD's".into()));
    }
    for (row, response) in batch.responses.iter().enumerate() {
        let first_eos = response.iter().position(|&id| id == space.eos).map(|i| i + 1);
        let expected = first_eos.unwrap_or(space.response_tokens);
        let whole = first_eos.is_some() || response.len() == space.response_tokens;
        if !whole || response.len() != expected || (apart && response.contains(&space.pad)) {
            let what = format!("the counted tokens of response {row}");
            return Err(breach(
                name,
                step,
                &what,
                format!("{response:?}"),
                format!("{expected} tokens, none of them PAD"),
            ));
        }
    }
    Ok(())
}

/// No prompt stands in two splits.
pub fn splits_are_disjoint(world: &dyn World) -> Result<()> {
    let mut seen = HashSet::new();
    for split in [Split::Train, Split::Validation, Split::Test] {
        let own: HashSet<&Vec<u32>> = world.prompts(split).iter().map(|p| &p.ids).collect();
        if let Some(twice) = own.intersection(&seen).next() {
            let what = format!("a prompt of the {} split", split.name());
            return Err(breach("splits_are_disjoint", 0, &what, format!("{twice:?}"), "in one split only".into()));
        }
        seen.extend(own);
    }
    Ok(())
}

/// A model that must not train has not.
pub fn frozen_weights_unchanged(what: &str, step: u64, before: &str, after: &str) -> Result<()> {
    if before == after {
        return Ok(());
    }
    Err(breach("frozen_weights_unchanged", step, &format!("the hash of {what}"), after.into(), before.into()))
}

/// Tensors with and without autodiff in one call.
trait InnerIfAutodiff {
    fn inner_if_autodiff(self) -> Self;
}

impl<const D: usize> InnerIfAutodiff for Tensor<D> {
    fn inner_if_autodiff(self) -> Self {
        if self.is_autodiff() { self.inner() } else { self }
    }
}
