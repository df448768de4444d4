//! Sampling with a KV cache: a prompt is read in one pass, then one token per row and step.

use crate::weights::host;
use crate::{KvCache, Policy, Responses, SamplingLaw, Tokens};
use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_kernels::{Decoding, NextTokens, TokenDistribution, TokenDistributions};
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
    generate_by(SamplingLaw::POLICY, policy, space, prompts, rng, device)
}

/// The same by another law, whose log-probs are kept; a token that is forced has log-prob 0.
pub fn generate_by(
    law: SamplingLaw,
    policy: &Policy,
    space: &TokenSpec,
    prompts: Vec<Vec<u32>>,
    rng: &mut Rng,
    device: &Device,
) -> Responses {
    let columns = space.response_tokens;
    let uniforms: Vec<Vec<f64>> = prompts.iter().map(|_| (0..columns).map(|_| rng.random()).collect()).collect();
    write(policy, space, prompts, device, |row, column, next| match law {
        SamplingLaw::POLICY => next.draw(uniforms[row][column]),
        other => other.draw(&next.logits(), uniforms[row][column]),
    })
}

/// The likeliest token at every step, and its log-prob at temperature 1; the first of equals.
pub fn greedy(policy: &Policy, space: &TokenSpec, prompts: Vec<Vec<u32>>, device: &Device) -> Responses {
    write(policy, space, prompts, device, |_, _, next| next.likeliest())
}

/// Writes responses token by token; `choose` takes a row, a column and the distribution of the next token, and gives a token with
/// its log-prob.
fn write(
    policy: &Policy,
    space: &TokenSpec,
    prompts: Vec<Vec<u32>>,
    device: &Device,
    choose: impl Fn(usize, usize, &TokenDistribution<'_>) -> (u32, f32) + Sync,
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
            let choose = |row, column, next: &TokenDistribution<'_>| choose(i * share + row, column, next);
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

/// What was read for them: columns of all sequences, and the states that a token was drawn after.
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
    /// What it reads, among what all read next.
    next: usize,
}

/// Some rows, written in the places of a decoder: a row that ends leaves its place to the next prompt.
struct DecodedRows<'a, C> {
    decoding: Decoding<'a>,
    space: &'a TokenSpec,
    prompts: &'a [Vec<u32>],
    choose: C,
    out: GeneratedRows,
    read: DecodeOutput,
    /// Rows that have begun, and the last of them with its place.
    begun: usize,
    last: Option<(usize, usize)>,
    free: Vec<usize>,
    active: Vec<ActiveRow>,
    next: Vec<NextTokens>,
}

impl<'a, C: Fn(usize, usize, &TokenDistribution<'_>) -> (u32, f32) + Sync> DecodedRows<'a, C> {
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
            last: None,
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
            let distributions = rows.read(hidden.as_deref());
            // 3. Each draws a token, and reads it next unless it ends.
            rows.sample(&distributions);
        }
    }

    /// Fills free places. Neighbours with one prompt read it once: those that begin together share the reading, and one that begins
    /// later takes it from the place of the row before it, and reads the prompt's last token again for what follows.
    fn begin(&mut self) {
        let before = self.last;
        while let (Some(&place), Some(prompt)) = (self.free.last(), self.prompts.get(self.begun)) {
            let row = self.begun;
            self.begun += 1;
            if self.ends_without_model(row) {
                continue;
            }
            self.free.pop();
            let neighbour = self.last.filter(|(row, _)| self.prompts[*row] == *prompt);
            if neighbour.is_none() || neighbour == before {
                let mut columns = 0;
                if let Some((_, from)) = neighbour {
                    self.decoding.copy(from, place);
                    columns = prompt.len() - 1;
                }
                self.decoding.truncate(place, columns);
                self.next.push(NextTokens { place, ids: prompt[columns..].iter().map(|&id| id as i32).collect() });
            }
            self.last = Some((row, place));
            self.active.push(ActiveRow { row, place, next: self.next.len() - 1 });
        }
    }

    /// The distributions after the last new token of each place that reads. Rows that read together have the same column.
    fn read<'b>(&mut self, hidden: Option<&'b [Vec<bool>]>) -> TokenDistributions<'b>
    where
        'a: 'b,
    {
        self.read.columns += self.next.iter().map(|next| next.ids.len()).sum::<usize>();
        self.read.states += self.next.len();
        let mut masks = vec![None; self.next.len()];
        if let Some(hidden) = hidden {
            self.active.iter().for_each(|row| masks[row.next] = Some(hidden[self.out[row.row].0.len()].as_slice()));
        }
        let distributions = self.decoding.forward(&self.next, masks);
        for ActiveRow { place, next, .. } in &self.active {
            let reader = self.next[*next].place;
            if reader != *place {
                self.decoding.copy(reader, *place);
            }
        }
        distributions
    }

    fn sample(&mut self, distributions: &TokenDistributions<'_>) {
        let Self { space, choose, out, active, .. } = &*self;
        let drawn: Vec<(u32, f32)> = active
            .par_iter()
            .with_min_len((SMALL / space.vocabulary).max(1))
            .map(|&ActiveRow { row, next, .. }| choose(row, out[row].0.len(), &distributions.after(next)))
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
            self.active.push(ActiveRow { row, place, next: self.next.len() });
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
    choose: impl Fn(usize, usize, &TokenDistribution<'_>) -> (u32, f32) + Sync,
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
            let (token, logp) = choose(row, column, &TokenDistributions::of_logits(law, hidden).after(0));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TransformerConfig;
    use duel_spec::seeds;

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
            let choose = |row, column, next: &TokenDistribution<'_>| next.draw(uniform(row, column));
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
                // a row that begins later than a neighbour with its prompt reads one token of it
                let again = of_places.states - read.states;
                assert_eq!(of_places.columns - read.columns, again, "{places} places");
                assert!(again <= 17 - 6 && (places > 1 || again == 17 - 6), "{places} places: {again}");
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
