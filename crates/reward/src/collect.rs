//! Preference rows from the policy's own samples: two responses to a prompt, then a noisy label.

use crate::{Result, Scorer};
use duel_data::World;
use duel_data::pairs::{Annotator, PreferenceRow};
use duel_model::{Policy, Reader, generate};
use duel_spec::{Split, seeds::Rng};
use rand::RngExt;

/// Prompts that are answered in one pass.
const BLOCK: usize = 256;
/// Passes without a single new pair before giving up.
const TRIES: usize = 20;

/// Two different responses to one prompt with their gold rewards, not yet labelled.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub prompt: Vec<u32>,
    pub responses: [Vec<u32>; 2],
    pub gold: [f64; 2],
}

/// Draws `count` candidates on prompts of the split: two responses from the policy, both admitted by the
/// world and not the same. `policy` and `reader` carry no gradient.
pub fn collect(
    policy: &Policy,
    reader: &Reader,
    world: &dyn World,
    gold: &dyn Scorer,
    split: Split,
    count: usize,
    rng: &mut Rng,
) -> Result<Vec<Candidate>> {
    let prompts = world.prompts(split);
    let mut candidates: Vec<Candidate> = Vec::with_capacity(count);
    let mut barren = 0;
    while candidates.len() < count {
        let drawn: Vec<Vec<u32>> =
            (0..BLOCK).map(|_| prompts[rng.random_range(0..prompts.len())].ids.clone()).collect();
        let twice: Vec<Vec<u32>> = drawn.iter().flat_map(|p| [p.clone(), p.clone()]).collect();
        let batch = generate(policy, reader.space(), twice, rng, reader.device());
        let scores = gold.score(&batch)?;
        let before = candidates.len();
        for (i, prompt) in drawn.into_iter().enumerate() {
            let responses = [batch.responses[2 * i].clone(), batch.responses[2 * i + 1].clone()];
            if responses[0] != responses[1] && responses.iter().all(|r| world.admits(r)) {
                candidates.push(Candidate { prompt, responses, gold: [scores[2 * i], scores[2 * i + 1]] });
            }
        }
        barren = if candidates.len() == before { barren + 1 } else { 0 };
        if barren == TRIES {
            return Err(duel_data::Error::NoPairs { tries: TRIES * BLOCK }.into());
        }
    }
    candidates.truncate(count);
    Ok(candidates)
}

/// Labels candidates with the annotator.
pub fn label(candidates: Vec<Candidate>, split: Split, annotator: &Annotator, rng: &mut Rng) -> Vec<PreferenceRow> {
    candidates
        .into_iter()
        .map(|Candidate { prompt, responses: [first, second], gold }| {
            let lengths = [first.len(), second.len()];
            let p_first = annotator.prefers_first(gold, lengths);
            if annotator.choose_first(gold, lengths, rng) {
                PreferenceRow {
                    split,
                    prompt,
                    chosen: first,
                    rejected: second,
                    gold_chosen: gold[0],
                    gold_rejected: gold[1],
                    p_label: p_first,
                }
            } else {
                let p_label = 1.0 - p_first;
                PreferenceRow {
                    split,
                    prompt,
                    chosen: second,
                    rejected: first,
                    gold_chosen: gold[1],
                    gold_rejected: gold[0],
                    p_label,
                }
            }
        })
        .collect()
}
