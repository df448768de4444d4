//! Invariants of every training; a violation stops the run and names the invariant
//! (ARCHITECTURE.md, What is checked while it runs). Those that read a model again are in `probes.rs`.
//!
//! Each tolerance is relative to a named scale ([`Tolerance`]). A number that is not finite is no violation but
//! [`Error::Diverged`].

use crate::{Error, Result};
use duel_data::World;
use duel_model::{ResponseReader, Responses};
use duel_spec::Split;
use std::collections::HashSet;

/// How far a number may be from its expected value, relative to a scale that messages name.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance<'a> {
    pub share: f64,
    pub of: &'a str,
    pub scale: f64,
}

impl Tolerance<'_> {
    /// Not at all.
    pub const EXACTLY: Tolerance<'static> = Tolerance { share: 0.0, of: "itself", scale: 0.0 };

    /// Of numbers that are relative already, as their name says.
    pub fn absolute(share: f64) -> Self {
        Self { share, of: "itself", scale: 1.0 }
    }
}

/// Fails unless `|actual − expected|` is within the tolerance: as diverged if any of the three is not finite, otherwise by
/// name.
pub fn check_close(
    name: &'static str,
    step: u64,
    what: &str,
    actual: f64,
    expected: f64,
    within: Tolerance<'_>,
) -> Result<()> {
    let Tolerance { share, of, scale } = within;
    finite(step, what, actual)?;
    finite(step, what, expected)?;
    finite(step, of, scale)?;
    if (actual - expected).abs() <= share * scale {
        return Ok(());
    }
    let tolerance = if share == 0.0 {
        "exactly".to_string()
    } else if of == "itself" {
        format!("within {share:e}")
    } else {
        format!("within {share:e} of {of}, which is {scale}")
    };
    Err(breach(name, step, what, actual.to_string(), format!("{expected} {tolerance}")))
}

/// Fails as diverged unless a number is finite.
pub fn finite(step: u64, what: &str, value: f64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(diverged(step, what, value)) }
}

/// Fails as diverged unless responses were sampled from finite log-probs.
pub fn sampled_from_finite(step: u64, sampled: &Responses) -> Result<()> {
    let broken = sampled.logp.iter().flatten().find(|logp| !logp.is_finite());
    broken.map_or(Ok(()), |logp| Err(diverged(step, "the log-prob of a sampled token", f64::from(*logp))))
}

/// The largest of some magnitudes, 0 of none; NaN if any is NaN, so that [`check_close`] then fails.
pub fn largest(sizes: impl Iterator<Item = f32>) -> f64 {
    f64::from(sizes.fold(0f32, |m, x| if x.is_nan() || x > m { x } else { m }))
}

/// The error of a violated invariant.
pub fn breach(name: &'static str, step: u64, what: &str, actual: String, expected: String) -> Error {
    Error::Invariant { name, step, what: what.into(), actual, expected }
}

/// The error of a training whose numbers are no longer finite.
pub fn diverged(step: u64, what: &str, value: f64) -> Error {
    Error::Diverged { step, what: what.into(), value, learning_rate: None }
}

/// An update at learning rate 0 changes nothing.
pub fn zero_rate_moves_nothing(step: u64, update_norm: f64) -> Result<()> {
    check_close(
        "zero_rate_moves_nothing",
        step,
        "the norm of an update at learning rate 0",
        update_norm,
        0.0,
        Tolerance::EXACTLY,
    )
}

/// Weights that rest while others train are unchanged, to the bit.
pub fn what_rests_stays(step: u64, what: &str, before: &[f32], after: &[f32]) -> Result<()> {
    let moved = before.iter().zip(after).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    if before.len() == after.len() && moved == 0 {
        return Ok(());
    }
    let what = format!("the weights of {what} that moved while it rests");
    Err(breach("what_rests_stays", step, &what, moved.to_string(), "0".into()))
}

/// Every update planned for a rollout was made, or skipped and counted.
pub fn planned_updates_are_made(step: u64, made: u64, skipped: u64, planned: u64) -> Result<()> {
    if made + skipped == planned {
        return Ok(());
    }
    let (actual, expected) = (format!("{made} made and {skipped} left out"), format!("{planned} in all"));
    Err(breach("planned_updates_are_made", step, "the updates on a rollout", actual, expected))
}

/// The accumulated parts make one batch.
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

/// Every response, or every turn of it that counts, counts up to its first EOS, or fills the row; EOS and PAD differ.
pub fn eos_counts_and_pad_does_not(step: u64, reader: &ResponseReader, batch: &Responses) -> Result<()> {
    let space = reader.space();
    let name = "eos_counts_and_pad_does_not";
    // a pretrained model may have no control token but EOS; then PAD is distinguished by its position only
    let differ = !space.ends_response(space.pad);
    if !differ && space.allowed_tokens.is_none() {
        return Err(breach(name, step, "the id of EOS", space.eos.to_string(), "other than PAD's".into()));
    }
    for (row, response) in batch.responses.iter().enumerate() {
        let counted = batch.counted(row);
        let ends_late = |piece: &&[u32]| piece.iter().rev().skip(1).any(|&id| space.ends_response(id));
        let has_pad = |piece: &&[u32]| differ && piece.contains(&space.pad);
        let is_complete = batch.ended(row, space) || response.len() == space.response_tokens;
        let is_empty = counted.iter().all(|piece| piece.is_empty());
        if !is_complete || is_empty || counted.iter().any(|piece| ends_late(piece) || has_pad(piece)) {
            let what = format!("the counted tokens of response {row}");
            let expected = "tokens up to the first EOS or the row's end, none of them PAD";
            return Err(breach(name, step, &what, format!("{counted:?}"), expected.into()));
        }
    }
    Ok(())
}

/// No prompt is in two splits.
pub fn splits_are_disjoint(world: &dyn World) -> Result<()> {
    let mut seen = HashSet::new();
    for split in Split::ALL {
        let prompts: HashSet<&Vec<u32>> = world.prompts(split).iter().map(|p| &p.ids).collect();
        if let Some(prompt) = prompts.intersection(&seen).next() {
            let what = format!("a prompt of the {} split", split.name());
            return Err(breach("splits_are_disjoint", 0, &what, format!("{prompt:?}"), "in one split only".into()));
        }
        seen.extend(prompts);
    }
    Ok(())
}

/// A model that must not train has not changed.
pub fn frozen_weights_unchanged(what: &str, step: u64, before: &str, after: &str) -> Result<()> {
    if before == after {
        return Ok(());
    }
    Err(breach("frozen_weights_unchanged", step, &format!("the hash of {what}"), after.into(), before.into()))
}
