//! What must hold in every training; a breach stops the run by the invariant's name
//! (ARCHITECTURE.md, What is checked while it runs).
//!
//! Each tolerance is a share of a scale that is named ([`Tolerance`]). Numbers that are not finite are no breach but
//! [`Error::Diverged`]; neither is what rounding alone can do ([`unless_rounding`]).

use crate::learner::norm;
use crate::rounding::{nudged, unless_rounding};
use crate::{Error, Learner, Result, sft};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use duel_data::World;
use duel_model::{Policy, Reader, Responses, Tokens, weights};
use duel_spec::{Split, TokenSpec};
use std::collections::HashSet;

/// Rows that a check which reads a model again looks at: enough to see a fault, too few to cost a training anything.
pub const PROBE: usize = 16;

/// The same where every logit of every column is read, which a large vocabulary makes many: 2²⁴ numbers at most, but two rows.
pub fn probe(space: &TokenSpec) -> usize {
    ((1 << 24) / (space.context() * space.vocabulary)).clamp(2, PROBE)
}

/// How far a number may be from what it must be: a share of a scale, which messages name.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance<'a> {
    pub share: f64,
    pub of: &'a str,
    pub scale: f64,
}

impl Tolerance<'_> {
    /// Not at all.
    pub const EXACTLY: Tolerance<'static> = Tolerance { share: 0.0, of: "itself", scale: 0.0 };

    /// Of numbers that are shares already, of what their name says.
    pub fn absolute(share: f64) -> Self {
        Self { share, of: "itself", scale: 1.0 }
    }
}

/// Fails unless `|found − expected|` lies within the tolerance: as diverged where one of the three is not finite, by name
/// otherwise.
pub fn check_close(
    name: &'static str,
    step: u64,
    what: &str,
    found: f64,
    expected: f64,
    within: Tolerance<'_>,
) -> Result<()> {
    let Tolerance { share, of, scale } = within;
    finite(step, what, found)?;
    finite(step, what, expected)?;
    finite(step, of, scale)?;
    if (found - expected).abs() <= share * scale {
        return Ok(());
    }
    let tolerance = if share == 0.0 {
        "exactly".to_string()
    } else if of == "itself" {
        format!("within {share:e}")
    } else {
        format!("within {share:e} of {of}, which is {scale}")
    };
    Err(breach(name, step, what, found.to_string(), format!("{expected} {tolerance}")))
}

/// Fails as diverged unless a number is finite.
pub fn finite(step: u64, what: &str, found: f64) -> Result<()> {
    if found.is_finite() { Ok(()) } else { Err(diverged(step, what, found)) }
}

/// Responses that were sampled from finite log-probs.
pub fn sampled_from_finite(step: u64, sampled: &Responses) -> Result<()> {
    let broken = sampled.logp.iter().flatten().find(|logp| !logp.is_finite());
    broken.map_or(Ok(()), |logp| Err(diverged(step, "the log-prob of a sampled token", f64::from(*logp))))
}

/// The largest of some sizes, 0 of none; NaN if one is NaN, so that [`close`] then fails.
pub fn largest(sizes: impl Iterator<Item = f32>) -> f64 {
    f64::from(sizes.fold(0f32, |m, x| if x.is_nan() || x > m { x } else { m }))
}

/// The error of a broken invariant.
pub fn breach(name: &'static str, step: u64, what: &str, found: String, expected: String) -> Error {
    Error::Invariant { name, step, what: what.into(), found, expected }
}

/// The error of a training whose numbers are lost.
pub fn diverged(step: u64, what: &str, found: f64) -> Error {
    Error::Diverged { step, what: what.into(), found, learning_rate: None }
}

/// A learning rate of 0 changes nothing.
pub fn zero_rate_moves_nothing(step: u64, moved: f64) -> Result<()> {
    check_close(
        "zero_rate_moves_nothing",
        step,
        "the norm of an update at learning rate 0",
        moved,
        0.0,
        Tolerance::EXACTLY,
    )
}

/// What rests while others train is what it was, to the bit.
pub fn what_rests_stays(step: u64, what: &str, before: &[f32], after: &[f32]) -> Result<()> {
    let moved = before.iter().zip(after).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    if before.len() == after.len() && moved == 0 {
        return Ok(());
    }
    let what = format!("the weights of {what} that moved while it rests");
    Err(breach("what_rests_stays", step, &what, moved.to_string(), "0".into()))
}

/// Every update that a rollout was to bring was made, or left out and counted.
pub fn planned_updates_are_made(step: u64, made: u64, left_out: u64, planned: u64) -> Result<()> {
    if made + left_out == planned {
        return Ok(());
    }
    let (found, expected) = (format!("{made} made and {left_out} left out"), format!("{planned} in all"));
    Err(breach("planned_updates_are_made", step, "the updates on a rollout", found, expected))
}

/// The parts that were accumulated make one batch.
pub fn parts_make_a_whole(step: u64, share: f64) -> Result<()> {
    check_close(
        "parts_make_a_whole",
        step,
        "the sum of the accumulated parts' shares",
        share,
        1.0,
        Tolerance::absolute(1e-6),
    )
}

/// Rows of a batch in eight parts, weighted by what each mean is over, have the gradient of the whole. `loss` gives the
/// loss `[1]` of some rows under a module and what it is a mean over (counted tokens, pairs). The first [`PROBE`] rows are
/// enough.
pub fn parts_make_the_same_gradient<M: Module>(
    learner: &Learner<M>,
    rows: usize,
    loss: impl Fn(&M, &[usize]) -> (Tensor<1>, f64),
) -> Result<()> {
    let all: Vec<usize> = (0..rows.min(PROBE)).collect();
    let (whole, weight) = loss(learner.module(), &all);
    if weight == 0.0 {
        return Ok(()); // a mean over nothing
    }
    let whole = learner.gradient(whole);
    let (mut off, mut sizes) = (whole.clone(), norm(&whole));
    for part in all.chunks(all.len().div_ceil(8)) {
        let (loss, of) = loss(learner.module(), part);
        let part = learner.gradient(loss * (of / weight));
        sizes += norm(&part);
        off.iter_mut().zip(part).for_each(|(off, g)| *off -= g);
    }
    let what = "the norm of the whole batch's gradient less that of its parts";
    let within = Tolerance { share: 1e-5, of: "the sum of the norms of both", scale: sizes };
    let off = norm(&off);
    let checked = check_close("parts_make_the_same_gradient", learner.step(), what, off, 0.0, within);
    // a gradient that cancels (equal scores, equal responses) is made of the rounding of the log-probs
    unless_rounding(checked, off, || {
        let module = nudged(learner.module());
        let mut moved = learner.gradient_of(&module, loss(&module, &all).0);
        moved.iter_mut().zip(&whole).for_each(|(moved, g)| *moved -= g);
        norm(&moved)
    })
}

/// Neither what stands on PAD nor how much of it stands before a prompt moves a number that counts. `read` gives what a
/// model makes of tokens, one or more numbers a row, of which those of counted tokens are compared; `size` is how large
/// the numbers are that these are differences of.
pub fn padding_is_inert<M: Module>(
    step: u64,
    reader: &Reader,
    model: &M,
    batch: &Responses,
    size: f64,
    read: impl Fn(&Reader, &M, &Tokens) -> Tensor<2>,
) -> Result<()> {
    let space = reader.space();
    let tokens = reader.tokens(batch);
    let counted = |model: &M, tokens: &Tokens| -> Vec<f32> {
        let all = weights::host(read(reader, model, tokens).inner_if_autodiff());
        let rows = batch.responses.iter().enumerate();
        rows.flat_map(|(row, r)| all[row * space.response_tokens..][..r.len()].to_vec()).collect()
    };
    let plain = counted(model, &tokens);
    let least = size.max(1.0) as f32;
    let moved = |other: Vec<f32>| largest(plain.iter().zip(other).map(|(a, b)| (a - b).abs() / a.abs().max(least)));
    let check = |what: &str, other: &Tokens| {
        let found = moved(counted(model, other));
        let checked = check_close("padding_is_inert", step, what, found, 0.0, Tolerance::absolute(1e-5));
        unless_rounding(checked, found, || moved(counted(&nudged(model), &tokens)))
    };

    let mut other = tokens.ids.clone().into_data().iter::<i32>().collect::<Vec<_>>();
    let width = tokens.ids.dims()[1];
    let prompt = width - space.response_tokens;
    for (row, response) in batch.responses.iter().enumerate() {
        for id in &mut other[row * width + prompt + response.len()..(row + 1) * width] {
            *id = space.bos as i32;
        }
    }
    let other = Tensor::from_data(TensorData::new(other, [batch.len(), width]), reader.device());
    let what = "the largest relative change of what is read when PAD holds another token";
    check(what, &Tokens { ids: other, left_padding: tokens.left_padding.clone() })?;

    let what = "the largest relative change of what is read when three PADs stand before each prompt";
    check(what, &padded_before(reader, batch, 3))
}

/// A batch's tokens with so many more PADs before each prompt.
fn padded_before(reader: &Reader, batch: &Responses, more: usize) -> Tokens {
    let Tokens { ids, left_padding: left } = reader.tokens(batch);
    let rows = ids.dims()[0];
    let pads = Tensor::full([rows, more], reader.space().pad as i32, reader.device());
    let left = left.unwrap_or(vec![0; rows]).into_iter().map(|left| left + more).collect();
    Tokens::with_left_padding(Tensor::cat(vec![pads, ids], 1), left)
}

/// What is read of a policy is sound: [`padding_is_inert`] and [`labels_are_shifted`], on the first rows of a batch.
pub fn reads_are_sound(step: u64, reader: &Reader, policy: &Policy, batch: &Responses) -> Result<()> {
    let probe = batch.first(probe(reader.space()));
    let (reader, policy) = without_graph(reader, policy);
    let by_hand = ReferenceForward::new(step, &reader, &policy, &probe)?;
    padding_is_inert(step, &reader, &policy, &probe, by_hand.logit, sft::tokens_logp)?;
    labels_are_shifted(step, &reader, &policy, &probe, &by_hand)
}

/// A reader and a model as they are where nobody asks for a gradient: a pass that is never gone back over would keep all
/// that it saved until the next backward pass.
pub fn without_graph<M: Module>(reader: &Reader, model: &M) -> (Reader, M) {
    if reader.device().is_autodiff() { (reader.valid(), model.valid()) } else { (reader.clone(), model.clone()) }
}

/// Labels are shifted by one: the log-prob of each response token is what the column before it predicts, worked out
/// by hand in f64 from logits that nobody aligned. EOS is among them, prompts and PAD are not.
fn labels_are_shifted(
    step: u64,
    reader: &Reader,
    policy: &Policy,
    batch: &Responses,
    by_hand: &ReferenceForward,
) -> Result<()> {
    let columns = reader.space().response_tokens;
    let read = |policy: &Policy| weights::host(sft::response_logp(reader, policy, batch).inner_if_autodiff());
    let found = read(policy);
    let least = by_hand.logit.max(1.0);
    let off = |row: usize, t: usize, from: f64| {
        ((from - f64::from(found[row * columns + t])).abs() / from.abs().max(least)) as f32
    };
    let tokens = || by_hand.logp.iter().enumerate().flat_map(|(row, tokens)| (0..tokens.len()).map(move |t| (row, t)));
    let worst = largest(tokens().map(|(row, t)| off(row, t, by_hand.logp[row][t])));
    let what = "the largest relative difference of a log-prob from the one shifted by hand";
    let checked = check_close("labels_are_shifted", step, what, worst, 0.0, Tolerance::absolute(1e-4));
    unless_rounding(checked, worst, || {
        let moved = read(&nudged(policy));
        largest(tokens().map(|(row, t)| off(row, t, f64::from(moved[row * columns + t]))))
    })
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
    let by_hand = ReferenceForward::new(step, &reader, &policy, batch)?.logp.concat();
    let mean = -by_hand.iter().sum::<f64>() / by_hand.len() as f64;
    let within = Tolerance { share: 1e-4, of: "the loss worked out by hand, at least 1", scale: mean.max(1.0) };
    check_close("only_responses_carry_loss", step, "the loss", loss, mean, within)
}

/// Log-odds of one token against another from which on a model has diverged: f64 holds no chance that is as small.
const LONGEST_ODDS: f64 = 709.0;

/// Log-probs of response tokens by which those of [`Reader`] are judged: nothing here is shared with it but the model's
/// logits.
struct ReferenceForward {
    /// `[B][length]`
    logp: Vec<Vec<f64>>,
    /// The largest size of a logit that they are made of: f32 holds a log-prob to a share of that.
    logit: f64,
}

impl ReferenceForward {
    fn new(step: u64, reader: &Reader, policy: &Policy, batch: &Responses) -> Result<Self> {
        let space = reader.space();
        let (v, hidden) = (space.vocabulary, space.forbidden_mask());
        let tokens = batch.tokens(space, reader.device());
        let width = tokens.ids.dims()[1];
        let ids: Vec<i32> = tokens.ids.clone().into_data().iter::<i32>().collect();
        let logits = policy.logits(tokens, 0).inner_if_autodiff(); // [B, P + T, V]
        let logits = weights::host(logits);
        let (mut largest_logit, mut longest_odds) = (0f64, 0f64);
        let mut logp = |row: usize, j: usize| {
            let at = width - space.response_tokens + j;
            let predicted = &logits[(row * width + at - 1) * v..][..v];
            let allowed = |id: &usize| hidden.as_ref().is_none_or(|hidden| !hidden[j][*id]);
            let said = || (0..v).filter(allowed).map(|id| f64::from(predicted[id]));
            let max = said().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = said().map(|logit| (logit - max).exp()).sum();
            let larger = |x: f64, so_far: f64| if x.is_nan() || x > so_far { x } else { so_far };
            largest_logit = said().map(f64::abs).fold(largest_logit, |most, x| larger(x, most));
            longest_odds = larger(max - said().fold(f64::INFINITY, f64::min), longest_odds);
            f64::from(predicted[ids[row * width + at] as usize]) - max - sum.ln()
        };
        let rows = batch.responses.iter().enumerate();
        let logp = rows.map(|(row, response)| (0..response.len()).map(|j| logp(row, j)).collect()).collect();
        finite(step, "the largest logit", largest_logit)?;
        if longest_odds > LONGEST_ODDS {
            let what =
                format!("the log-odds of one token against another (beyond {LONGEST_ODDS:.0} no number holds them)");
            return Err(diverged(step, &what, longest_odds));
        }
        Ok(Self { logp, logit: largest_logit })
    }
}

/// Every response counts up to its first EOS, or fills the row; EOS and PAD differ.
pub fn eos_counts_and_pad_does_not(step: u64, reader: &Reader, batch: &Responses) -> Result<()> {
    let space = reader.space();
    let name = "eos_counts_and_pad_does_not";
    // a pretrained model may know no control token but EOS; then PAD is told apart by its place alone
    let apart = space.eos != space.pad;
    if !apart && space.allowed_tokens.is_none() {
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
