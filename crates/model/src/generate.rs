//! Sampling with a KV cache: the prompt is read in one pass, then one token per row and step.

use crate::weights::host;
use crate::{KvCache, Policy, Responses, Tokens};
use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_kernels::{Decoding, softmax_weights, sums_of_blocks};
use duel_spec::{TokenSpec, seeds::Rng};
use rand::RngExt;
use rayon::prelude::*;

/// Samples one response per prompt at temperature 1 over the allowed tokens, and keeps the log-probs.
///
/// Each row takes its own uniform numbers from `rng`, drawn before anything is sampled, so what a row
/// says does not depend on when the others end. `policy` carries no gradient.
pub fn generate(
    policy: &Policy,
    space: &TokenSpec,
    prompts: Vec<Vec<u32>>,
    rng: &mut Rng,
    device: &Device,
) -> Responses {
    let columns = space.response_tokens;
    let uniforms: Vec<Vec<f64>> = prompts.iter().map(|_| (0..columns).map(|_| rng.random()).collect()).collect();
    write(policy, space, prompts, device, |row, column, logits, hidden| draw(logits, hidden, uniforms[row][column]))
}

/// The likeliest token at every step, and its log-prob at temperature 1; the first of equals.
pub fn greedy(policy: &Policy, space: &TokenSpec, prompts: Vec<Vec<u32>>, device: &Device) -> Responses {
    write(policy, space, prompts, device, |_, _, logits, hidden| {
        let allowed = (0..logits.len()).filter(|&v| hidden.is_none_or(|h| !h[v]));
        let best = allowed.reduce(|best, v| if logits[v] > logits[best] { v } else { best }).unwrap_or(0);
        let Softmax { max, total, .. } = softmax(logits, hidden);
        (best as u32, logp(logits[best], max, total))
    })
}

/// A model reading some sequences, columns after columns.
trait DecodeBackend {
    /// Reads the next columns, ids `[B, l]`; returns the logits after the last, `[B, V]`.
    fn read(&mut self, ids: Vec<i32>) -> Vec<f32>;
    /// Takes some of the sequences in place of all, in any order; one may be taken several times.
    fn select(&mut self, rows: &[usize]);
}

impl DecodeBackend for Decoding<'_> {
    fn read(&mut self, ids: Vec<i32>) -> Vec<f32> {
        Decoding::forward(self, &ids)
    }

    fn select(&mut self, rows: &[usize]) {
        Decoding::select_rows(self, rows);
    }
}

/// Composed of tensor operations, on any device.
struct TensorBackend<'a> {
    policy: &'a Policy,
    device: &'a Device,
    cache: KvCache,
    padding: Vec<usize>,
}

impl DecodeBackend for TensorBackend<'_> {
    fn read(&mut self, ids: Vec<i32>) -> Vec<f32> {
        let shape = [self.padding.len(), ids.len() / self.padding.len()];
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), self.device);
        host(self.policy.next_logits(Tokens::with_left_padding(ids, self.padding.clone()), &mut self.cache))
    }

    fn select(&mut self, rows: &[usize]) {
        self.cache = self.cache.select(rows);
        self.padding = rows.iter().map(|&row| self.padding[row]).collect();
    }
}

/// Writes responses token by token; `choose` takes a row, a column, the row's logits and which tokens are hidden,
/// and gives the token with its log-prob.
fn write(
    policy: &Policy,
    space: &TokenSpec,
    prompts: Vec<Vec<u32>>,
    device: &Device,
    choose: impl Fn(usize, usize, &[f32], Option<&[bool]>) -> (u32, f32) + Sync,
) -> Responses {
    let decoder = policy.decoder();
    let written: Vec<(GeneratedRows, DecodeOutput)> = match &decoder {
        // every thread takes its rows through all columns; no row sees another, so it does not matter which
        Some(decoder) => {
            let share = decoder.batch_per_thread(
                prompts.len(),
                max_length(&prompts) + space.response_tokens,
                rayon::current_num_threads(),
            );
            let shares = prompts.par_chunks(share).enumerate();
            shares
                .map(|(i, prompts)| {
                    let reading = |prompts: &[Vec<u32>]| {
                        decoder.start(paddings(prompts), max_length(prompts) + space.response_tokens)
                    };
                    write_rows(reading, space, prompts, |row, column, logits, hidden| {
                        choose(i * share + row, column, logits, hidden)
                    })
                })
                .collect()
        }
        None => {
            let reading = |prompts: &[Vec<u32>]| TensorBackend {
                policy,
                device,
                cache: KvCache::default(),
                padding: paddings(prompts),
            };
            vec![write_rows(reading, space, &prompts, &choose)]
        }
    };
    let mut rows: GeneratedRows = Vec::with_capacity(prompts.len());
    for (written, read) in written {
        rows.extend(written);
        if decoder.is_some() {
            policy.count_decoded(read.columns, read.states); // other threads have read them
        }
    }
    let (responses, logp) = rows.into_iter().unzip();
    Responses { prompts, responses, logp, masks: vec![] }
}

fn max_length(prompts: &[Vec<u32>]) -> usize {
    prompts.iter().map(Vec::len).max().unwrap_or(0)
}

/// Columns of padding before each prompt.
fn paddings(prompts: &[Vec<u32>]) -> Vec<usize> {
    let width = max_length(prompts);
    prompts.iter().map(|prompt| width - prompt.len()).collect()
}

/// Logits from which on threads share the choice of a column's tokens.
const SMALL: usize = 1 << 15;

/// Responses with their log-probs.
type GeneratedRows = Vec<(Vec<u32>, Vec<f32>)>;

/// What was read for them: columns of all sequences, padding left out, and the states whose logits were wanted.
#[derive(Debug, Clone, Copy, Default)]
struct DecodeOutput {
    columns: usize,
    states: usize,
}

/// The prompts without those that repeat the one before them, each read once, and where among them each prompt is.
fn distinct_neighbours(prompts: &[Vec<u32>]) -> (Vec<Vec<u32>>, Vec<usize>) {
    let mut distinct: Vec<Vec<u32>> = vec![];
    let mut places = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        if distinct.last() != Some(prompt) {
            distinct.push(prompt.clone());
        }
        places.push(distinct.len() - 1);
    }
    (distinct, places)
}

fn write_rows<R: DecodeBackend>(
    start: impl FnOnce(&[Vec<u32>]) -> R,
    space: &TokenSpec,
    prompts: &[Vec<u32>],
    choose: impl Fn(usize, usize, &[f32], Option<&[bool]>) -> (u32, f32) + Sync,
) -> (GeneratedRows, DecodeOutput) {
    let columns = space.response_tokens;
    let hidden = space.forbidden_mask();
    let (distinct, places) = distinct_neighbours(prompts);
    let width = max_length(&distinct);
    let padded = |prompt: &Vec<u32>| [vec![space.pad; width - prompt.len()], prompt.clone()].concat();
    let ids: Vec<i32> = distinct.iter().flat_map(padded).map(|id| id as i32).collect();
    let mut read = DecodeOutput { columns: distinct.iter().map(Vec::len).sum(), states: distinct.len() };
    let mut model = start(&distinct);
    let mut shared = Some((ids, places));
    let mut ids = vec![];
    let mut out: GeneratedRows = vec![Default::default(); prompts.len()];
    let mut alive: Vec<usize> = (0..prompts.len()).collect();
    for column in 0..columns {
        // A column that allows nothing but EOS needs no model.
        if space.force_eos && column + 1 == columns {
            for &row in &alive {
                out[row].0.push(space.eos);
                out[row].1.push(0.0);
            }
            break;
        }
        let logits = match shared.take() {
            Some((ids, places)) => {
                let logits = model.read(ids);
                model.select(&places);
                places
                    .iter()
                    .flat_map(|&place| &logits[place * space.vocabulary..][..space.vocabulary])
                    .copied()
                    .collect()
            }
            None => {
                read.columns += alive.len();
                read.states += alive.len();
                model.read(ids)
            }
        }; // [alive, V]
        let hidden = hidden.as_ref().map(|h| h[column].as_slice());
        let laws = logits.par_chunks_exact(space.vocabulary).zip(&alive);
        let chosen: Vec<(u32, f32)> = laws
            .with_min_len((SMALL / space.vocabulary).max(1))
            .map(|(law, &row)| choose(row, column, law, hidden))
            .collect();
        let mut unfinished = Vec::with_capacity(alive.len());
        ids = Vec::with_capacity(alive.len());
        for (place, (&row, (token, logp))) in alive.iter().zip(chosen).enumerate() {
            out[row].0.push(token);
            out[row].1.push(logp);
            if !space.ends_response(token) {
                unfinished.push(place);
                ids.push(token as i32);
            }
        }
        if unfinished.is_empty() {
            break;
        }
        // Rows that ended leave the cache.
        if unfinished.len() < alive.len() {
            model.select(&unfinished);
            alive = unfinished.iter().map(|&place| alive[place]).collect();
        }
    }
    (out, read)
}

/// The token at quantile `u` of the softmax of the allowed logits, and its log-probability.
fn draw(logits: &[f32], hidden: Option<&[bool]>, u: f64) -> (u32, f32) {
    let Softmax { weights, sums, max, total } = softmax(logits, hidden);
    // 1. The block in which the quantile lies; the last that has any weight where rounding leaves none.
    let mut remaining = u * total;
    let mut block = 0;
    for (i, &sum) in sums.iter().enumerate().filter(|(_, sum)| **sum > 0.0) {
        block = i;
        if remaining < sum {
            break;
        }
        remaining -= sum;
    }
    // 2. The token within it.
    let first = block * BLOCK;
    let mut token = first;
    for (i, &w) in weights[first..].iter().take(BLOCK).enumerate().filter(|(_, w)| **w > 0.0) {
        token = first + i;
        remaining -= f64::from(w);
        if remaining < 0.0 {
            break;
        }
    }
    (token as u32, logp(logits[token], max, total))
}

/// Log-probability of a token, given its logit and what [`softmax`] gave.
fn logp(logit: f32, max: f32, total: f64) -> f32 {
    (f64::from(logit - max) - total.ln()) as f32
}

/// Tokens that a draw skips at once.
const BLOCK: usize = 64;

struct Softmax {
    /// `exp(logit − max)` of the allowed tokens, 0 of the others.
    weights: Vec<f32>,
    /// Of blocks of [`BLOCK`] weights.
    sums: Vec<f64>,
    max: f32,
    total: f64,
}

fn softmax(logits: &[f32], hidden: Option<&[bool]>) -> Softmax {
    let mut weights = vec![0f32; logits.len()];
    let max = softmax_weights(logits, hidden, &mut weights);
    let sums = sums_of_blocks(&weights, BLOCK);
    let total = sums.iter().sum();
    Softmax { weights, sums, max, total }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draw_takes_the_quantile_over_allowed_tokens_only() {
        let logits = [0.0, 5.0, 0.0, 2f32.ln()]; // 1, hidden, 1, 2 of 4
        let hidden = [false, true, false, false];
        let at = |u| draw(&logits, Some(&hidden), u);
        assert_eq!([at(0.0).0, at(0.24).0, at(0.26).0, at(0.49).0, at(0.51).0, at(0.999).0], [0, 0, 2, 2, 3, 3]);
        assert!((at(0.6).1 - 0.5f32.ln()).abs() < 1e-6);
        // over several blocks: all weight is on tokens 70 and 150
        let mut hidden = [true; 200];
        (hidden[70], hidden[150]) = (false, false);
        let at = |u| draw(&[0.0; 200], Some(&hidden), u).0;
        assert_eq!([at(0.0), at(0.49), at(0.51), at(1.0)], [70, 70, 150, 150]);
    }
}
