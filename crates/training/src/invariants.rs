//! What must hold in every training; a breach stops the run by the invariant's name (claims §8).

use crate::{Error, Result};
use burn::tensor::{Tensor, TensorData};
use duel_data::World;
use duel_model::{Policy, Reader, Responses, Tokens, weights};
use duel_objectives::token_logp;
use duel_spec::{Space, Split};
use std::collections::HashSet;

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

/// Neither what stands on PAD nor how much of it stands before a prompt moves a log-prob that counts.
pub fn padding_is_inert(reader: &Reader, policy: &Policy, batch: &Responses) -> Result<()> {
    let space = reader.space();
    let tokens = reader.tokens(batch);
    let reads = |tokens: &Tokens| {
        weights::host(token_logp(reader.logits(policy, tokens), reader.targets(tokens)).inner_if_autodiff())
    };
    let plain = reads(&tokens);
    let mut other = tokens.ids.clone().into_data().iter::<i32>().collect::<Vec<_>>();
    let width = space.context();
    for (row, response) in batch.responses.iter().enumerate() {
        for id in &mut other[row * width + space.prompt_tokens + response.len()..(row + 1) * width] {
            *id = space.bos as i32;
        }
    }
    let other = Tensor::from_data(TensorData::new(other, [batch.len(), width]), reader.device());
    let changed = reads(&Tokens { ids: other, left: tokens.left.clone() });
    let counted = |all: &[f32]| -> Vec<f32> {
        let rows = batch.responses.iter().enumerate();
        rows.flat_map(|(row, r)| all[row * space.response_tokens..][..r.len()].to_vec()).collect()
    };
    let plain = counted(&plain);
    let moved = |other: &[f32]| largest(plain.iter().zip(counted(other)).map(|(a, b)| (a - b).abs()));
    let name = "padding_is_inert";
    let what = "the largest change of a log-prob when PAD holds another token";
    close(name, 0, what, moved(&changed), 0.0, 1e-5)?;
    let wide = Reader::new(&Space { prompt_tokens: space.prompt_tokens + 3, ..space.clone() }, reader.device());
    let tokens = wide.tokens(batch);
    let wider = token_logp(wide.logits(policy, &tokens), wide.targets(&tokens)).inner_if_autodiff();
    let what = "the largest change of a log-prob when three PADs stand before each prompt";
    close(name, 0, what, moved(&weights::host(wider)), 0.0, 1e-5)
}

/// Every response counts up to its first EOS, or fills the row; EOS and PAD differ.
pub fn eos_counts_and_pad_does_not(reader: &Reader, batch: &Responses) -> Result<()> {
    let space = reader.space();
    let name = "eos_counts_and_pad_does_not";
    if space.eos == space.pad {
        return Err(breach(name, 0, "the id of EOS", space.eos.to_string(), "other than PAD's".into()));
    }
    for (row, response) in batch.responses.iter().enumerate() {
        let first_eos = response.iter().position(|&id| id == space.eos).map(|i| i + 1);
        let expected = first_eos.unwrap_or(space.response_tokens);
        let whole = first_eos.is_some() || response.len() == space.response_tokens;
        if !whole || response.len() != expected || response.contains(&space.pad) {
            let what = format!("the counted tokens of response {row}");
            return Err(breach(
                name,
                0,
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
