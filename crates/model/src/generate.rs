//! Sampling with a KV cache: a prompt is read in one pass, then one token per row and step.

use crate::weights::host;
use crate::{KvCache, Policy, Responses, Tokens};
use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_kernels::{Decoding, NextTokens, PooledBuffer, softmax_weights, sums_of_blocks};
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

/// Writes responses token by token; `choose` takes a row, a column, the row's logits and which tokens are hidden,
/// and gives the token with its log-prob.
fn write(
    policy: &Policy,
    space: &TokenSpec,
    prompts: Vec<Vec<u32>>,
    device: &Device,
    choose: impl Fn(usize, usize, &[f32], Option<&[bool]>) -> (u32, f32) + Sync,
) -> Responses {
    let Some(decoder) = policy.decoder() else {
        let (responses, logp) = write_composed(policy, space, &prompts, device, choose).into_iter().unzip();
        return Responses { prompts, responses, logp, masks: vec![] };
    };
    // every thread takes its rows through all columns; no row sees another, so it does not matter which
    let capacity = max_length(&prompts) + space.response_tokens;
    let [share, places] = decoder.sequences_and_places(prompts.len(), capacity, rayon::current_num_threads());
    let shares = prompts.par_chunks(share).enumerate();
    let written: Vec<(GeneratedRows, DecodeOutput)> = shares
        .map(|(i, prompts)| {
            let choose =
                |row, column, logits: &[f32], hidden: Option<&[bool]>| choose(i * share + row, column, logits, hidden);
            DecodedRows::write(decoder.start(places, capacity), places, space, prompts, choose)
        })
        .collect();
    let mut rows: GeneratedRows = Vec::with_capacity(prompts.len());
    for (written, read) in written {
        rows.extend(written);
        policy.count_decoded(read.columns, read.states); // other threads have read them
    }
    let (responses, logp) = rows.into_iter().unzip();
    Responses { prompts, responses, logp, masks: vec![] }
}

fn max_length(prompts: &[Vec<u32>]) -> usize {
    prompts.iter().map(Vec::len).max().unwrap_or(0)
}

/// Logits from which on threads share the choice of a column's tokens.
const SMALL: usize = 1 << 15;

/// Responses with their log-probs.
type GeneratedRows = Vec<(Vec<u32>, Vec<f32>)>;

/// What was read for them: columns of all sequences, and the states whose logits were wanted.
#[derive(Debug, Clone, Copy, Default)]
struct DecodeOutput {
    columns: usize,
    states: usize,
}

/// A row that is being written.
#[derive(Debug, Clone, Copy)]
struct ActiveRow {
    row: usize,
    place: usize,
    /// Whose logits it draws from, among those of the last reading.
    logits: usize,
}

/// Some rows, written in the places of a decoder: a row that ends leaves its place to the next prompt.
struct DecodedRows<'a, C> {
    decoding: Decoding<'a>,
    space: &'a TokenSpec,
    prompts: &'a [Vec<u32>],
    choose: C,
    out: GeneratedRows,
    read: DecodeOutput,
    /// Rows that have begun.
    begun: usize,
    free: Vec<usize>,
    active: Vec<ActiveRow>,
    next: Vec<NextTokens>,
}

impl<'a, C: Fn(usize, usize, &[f32], Option<&[bool]>) -> (u32, f32) + Sync> DecodedRows<'a, C> {
    fn write(
        decoding: Decoding<'a>,
        places: usize,
        space: &'a TokenSpec,
        prompts: &'a [Vec<u32>],
        choose: C,
    ) -> (GeneratedRows, DecodeOutput) {
        let mut rows = Self {
            decoding,
            space,
            prompts,
            choose,
            out: vec![Default::default(); prompts.len()],
            read: DecodeOutput::default(),
            begun: 0,
            free: (0..places).rev().collect(),
            active: vec![],
            next: vec![],
        };
        let hidden = space.forbidden_mask();
        loop {
            // 1. Free places take the next prompts.
            rows.begin();
            if rows.active.is_empty() {
                return (rows.out, rows.read);
            }
            // 2. All read what is new to them.
            let logits = rows.read();
            // 3. Each draws a token, and reads it next unless it ends.
            rows.sample(&logits, hidden.as_deref());
        }
    }

    /// Fills free places. Neighbours with one prompt that begin together read it once.
    fn begin(&mut self) {
        let mut last: Option<usize> = None;
        while let (Some(&place), Some(prompt)) = (self.free.last(), self.prompts.get(self.begun)) {
            let row = self.begun;
            self.begun += 1;
            if self.ends_without_model(row) {
                continue;
            }
            self.free.pop();
            if last.is_none_or(|last| self.prompts[last] != *prompt) {
                self.decoding.clear(place);
                self.next.push(NextTokens { place, ids: prompt.iter().map(|&id| id as i32).collect() });
                last = Some(row);
            }
            self.active.push(ActiveRow { row, place, logits: self.next.len() - 1 });
        }
    }

    /// Logits after the last new token of each place that reads, `[next, V]`.
    fn read(&mut self) -> PooledBuffer {
        self.read.columns += self.next.iter().map(|next| next.ids.len()).sum::<usize>();
        self.read.states += self.next.len();
        let logits = self.decoding.forward(&self.next);
        for ActiveRow { place, logits, .. } in &self.active {
            let reader = self.next[*logits].place;
            if reader != *place {
                self.decoding.copy(reader, *place);
            }
        }
        logits
    }

    fn sample(&mut self, logits: &[f32], hidden: Option<&[Vec<bool>]>) {
        let Self { space, choose, out, active, .. } = &*self;
        let v = space.vocabulary;
        let drawn: Vec<(u32, f32)> = active
            .par_iter()
            .with_min_len((SMALL / v).max(1))
            .map(|&ActiveRow { row, logits: index, .. }| {
                let column = out[row].0.len();
                choose(row, column, &logits[index * v..][..v], hidden.map(|hidden| hidden[column].as_slice()))
            })
            .collect();
        self.next.clear();
        for (ActiveRow { row, place, .. }, (token, logp)) in std::mem::take(&mut self.active).into_iter().zip(drawn) {
            self.out[row].0.push(token);
            self.out[row].1.push(logp);
            let is_last = self.space.ends_response(token) || self.out[row].0.len() == self.space.response_tokens;
            if is_last || self.ends_without_model(row) {
                self.free.push(place);
                continue;
            }
            self.active.push(ActiveRow { row, place, logits: self.next.len() });
            self.next.push(NextTokens { place, ids: vec![token as i32] });
        }
    }

    /// A column that allows nothing but EOS needs no model.
    fn ends_without_model(&mut self, row: usize) -> bool {
        let ends = self.space.force_eos && self.out[row].0.len() + 1 == self.space.response_tokens;
        if ends {
            self.out[row].0.push(self.space.eos);
            self.out[row].1.push(0.0);
        }
        ends
    }
}

/// Responses through tensor operations, on any device: rows that ended leave the batch.
fn write_composed(
    policy: &Policy,
    space: &TokenSpec,
    prompts: &[Vec<u32>],
    device: &Device,
    choose: impl Fn(usize, usize, &[f32], Option<&[bool]>) -> (u32, f32) + Sync,
) -> GeneratedRows {
    let columns = space.response_tokens;
    let hidden = space.forbidden_mask();
    // neighbours with one prompt read it once
    let mut distinct: Vec<&Vec<u32>> = prompts.iter().collect();
    distinct.dedup();
    let places = prompts.iter().enumerate().map(|(row, prompt)| usize::from(row > 0 && prompts[row - 1] != *prompt));
    let places = places.scan(0, |place, more| {
        *place += more;
        Some(*place)
    });
    let mut from: Option<Vec<usize>> = Some(places.collect()); // which reading of a prompt each row goes on from
    let width = max_length(prompts);
    let mut cache = KvCache::default();
    let mut paddings: Vec<usize> = distinct.iter().map(|prompt| width - prompt.len()).collect();
    let padded = |prompt: &&Vec<u32>| [vec![space.pad; width - prompt.len()], prompt.to_vec()].concat();
    let mut ids: Vec<i32> = distinct.iter().flat_map(padded).map(|id| id as i32).collect();
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
        let shape = [paddings.len(), ids.len() / paddings.len()];
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), device);
        let tokens = Tokens::with_left_padding(tokens, paddings.clone());
        let mut logits = policy.next_logits(tokens, &mut cache); // [alive, V]
        if let Some(from) = from.take() {
            cache = cache.select(&from);
            paddings = from.iter().map(|&place| paddings[place]).collect();
            let index: Vec<i32> = from.into_iter().map(|place| place as i32).collect();
            logits = logits.select(0, Tensor::from_data(TensorData::new(index, [alive.len()]), device));
        }
        let logits = host(logits);
        let hidden = hidden.as_ref().map(|h| h[column].as_slice());
        let mut unfinished = Vec::with_capacity(alive.len());
        ids = Vec::with_capacity(alive.len());
        for (place, (&row, law)) in alive.iter().zip(logits.chunks_exact(space.vocabulary)).enumerate() {
            let (token, logp) = choose(row, column, law, hidden);
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
        if unfinished.len() < alive.len() {
            cache = cache.select(&unfinished);
            paddings = unfinished.iter().map(|&place| paddings[place]).collect();
            alive = unfinished.iter().map(|&place| alive[place]).collect();
        }
    }
    out
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
    weights: PooledBuffer,
    /// Of blocks of [`BLOCK`] weights.
    sums: Vec<f64>,
    max: f32,
    total: f64,
}

fn softmax(logits: &[f32], hidden: Option<&[bool]>) -> Softmax {
    let mut weights = PooledBuffer::new(logits.len());
    let max = softmax_weights(logits, hidden, &mut weights);
    let sums = sums_of_blocks(&weights, BLOCK);
    let total = sums.iter().sum();
    Softmax { weights, sums, max, total }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TransformerConfig;
    use duel_spec::seeds;

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

    /// Prompts of several lengths, some of which repeat the one before them; what ends a response is likely, so that many end early.
    #[test]
    fn what_is_written_does_not_depend_on_the_places() {
        let space = TokenSpec {
            vocabulary: 7,
            pad: 0,
            bos: 1,
            eos: 2,
            other_eos: vec![3],
            prompt_tokens: 4,
            response_tokens: 6,
            allowed_tokens: None,
            force_eos: false,
        };
        let config = TransformerConfig::small(7, 10, 2, 16, 2, true);
        let policy = Policy::new(&config, &mut seeds::derive(7, "test", 0, "init"), &Device::flex());
        let prompts: Vec<Vec<u32>> =
            (0..17).map(|i| (0..1 + i / 3 % 4).map(|t| ((i / 3 + t) % 7) as u32).collect()).collect();
        let uniform = |row: usize, column: usize| ((row * 13 + column * 29) % 31) as f64 / 31.0;
        for force_eos in [false, true] {
            let space = TokenSpec { force_eos, ..space.clone() };
            let choose =
                |row, column, logits: &[f32], hidden: Option<&[bool]>| draw(logits, hidden, uniform(row, column));
            let decoder = policy.decoder().expect("on flex");
            let write = |places| {
                let decoding = decoder.start(places, 10);
                DecodedRows::write(decoding, places, &space, &prompts, choose)
            };
            let (all, read) = write(prompts.len());
            let lengths: Vec<usize> = all.iter().map(|(response, _)| response.len()).collect();
            assert!(lengths.contains(&1) && lengths.contains(&6), "{lengths:?}");
            for places in [1, 2, 3, 8] {
                let (rows, of_places) = write(places);
                assert_eq!(rows, all, "{places} places");
                assert!(of_places.columns >= read.columns && of_places.states >= read.states);
            }
            // each prompt once, and each token but the last of a response
            let prompts_read: usize = (0..6).map(|i| prompts[3 * i].len()).sum();
            let forced = |response: &[u32]| usize::from(force_eos && response.len() == 6);
            let tokens: usize = all.iter().map(|(response, _)| response.len() - 1 - forced(response)).sum();
            assert_eq!((read.columns, read.states), (prompts_read + tokens, 6 + tokens));
            // composed of tensor operations they are the same but for rounding
            let composed = write_composed(&policy, &space, &prompts, &Device::flex(), choose);
            for ((response, logp), (other, of_other)) in all.iter().zip(composed) {
                assert_eq!(*response, other);
                assert!(logp.iter().zip(of_other).all(|(a, b)| (a - b).abs() < 1e-5));
            }
        }
    }
}
