//! Attention of several sequences. The heads of short ones are worked on sixteen at a time, one a lane: the queries of one head
//! would not fill the registers. Every number is summed in the same order as in [`attention`].

use crate::attention::{self, AttentionScratch, AttentionShape, ScoreOptions};
use crate::buffer::PooledBuffer;
use crate::panel::transpose_lanes;
use crate::simd::{LANES, exp, simd_dispatch, vector_set};

/// One number of each of sixteen heads.
type Lanes = [f32; LANES];

/// At most sixteen heads of neighbouring sequences.
#[derive(Debug, Clone, Copy)]
struct HeadGroup {
    shape: AttentionShape,
    /// Each lane's sequence, and its head there.
    lanes: [(usize, usize); LANES],
    heads: usize,
}

impl AttentionShape {
    /// Whether heads of such sequences can be lanes.
    fn is_short(self, paddings: &[usize]) -> bool {
        self.columns <= LANES
            && self.scores == ScoreOptions { scale: self.scores.scale, ..ScoreOptions::default() }
            && self.key_value_heads == self.heads
            && paddings.iter().all(|&padding| padding == 0)
    }

    /// All heads of so many sequences.
    fn groups(self, sequences: usize) -> impl Iterator<Item = HeadGroup> {
        let all = sequences * self.heads;
        (0..all).step_by(LANES).map(move |first| HeadGroup {
            shape: self,
            lanes: std::array::from_fn(|lane| ((first + lane) / self.heads, (first + lane) % self.heads)),
            heads: LANES.min(all - first),
        })
    }
}

impl HeadGroup {
    /// Where the numbers of each lane begin in rows of `step` numbers, of which its own are at `offset(head)`.
    fn starts(self, step: usize, offset: impl Fn(usize) -> usize) -> impl Iterator<Item = usize> + Clone {
        let starts = self.lanes.map(|(sequence, head)| sequence * self.shape.columns * step + offset(head));
        starts.into_iter().take(self.heads)
    }

    /// What stands at `offset(head)` of each row of `step` numbers, `[L, E]` in lanes.
    fn gather(self, rows: &[f32], step: usize, offset: impl Fn(usize) -> usize, to: &mut [Lanes]) {
        let starts = self.starts(step, offset);
        match self.shape.width {
            8 => gather_blocks::<8>(starts, rows, step, to),
            16 => gather_blocks::<16>(starts, rows, step, to),
            width => {
                for (lane, start) in starts.enumerate() {
                    for (row, to) in rows[start..].chunks(step).zip(to.chunks_exact_mut(width)) {
                        row.iter().zip(to).for_each(|(x, to)| to[lane] = *x);
                    }
                }
            }
        }
    }

    /// The opposite of [`Self::gather`].
    fn scatter(self, from: &[Lanes], rows: &mut [f32], step: usize, offset: impl Fn(usize) -> usize) {
        let starts = self.starts(step, offset);
        match self.shape.width {
            8 => scatter_blocks::<8>(starts, from, rows, step),
            16 => scatter_blocks::<16>(starts, from, rows, step),
            width => {
                for (lane, start) in starts.enumerate() {
                    for (row, from) in rows[start..].chunks_mut(step).zip(from.chunks_exact(width)) {
                        row.iter_mut().zip(from).for_each(|(x, from)| *x = from[lane]);
                    }
                }
            }
        }
    }
}

/// [`HeadGroup::gather`] of heads of `E` units, sixteen numbers of each lane at a time.
fn gather_blocks<const E: usize>(
    starts: impl Iterator<Item = usize> + Clone,
    rows: &[f32],
    step: usize,
    to: &mut [Lanes],
) {
    for (index, to) in to.chunks_mut(LANES).enumerate() {
        let mut block = [[0f32; LANES]; LANES];
        for (block, start) in block.iter_mut().zip(starts.clone()) {
            for (column, units) in block.as_chunks_mut::<E>().0.iter_mut().take(to.len() / E).enumerate() {
                let from = start + (index * (LANES / E) + column) * step;
                units.copy_from_slice(&rows[from..from + E]);
            }
        }
        transpose_lanes(&mut block);
        to.copy_from_slice(&block[..to.len()]);
    }
}

/// The opposite of [`gather_blocks`].
fn scatter_blocks<const E: usize>(
    starts: impl Iterator<Item = usize> + Clone,
    from: &[Lanes],
    rows: &mut [f32],
    step: usize,
) {
    for (index, from) in from.chunks(LANES).enumerate() {
        let mut block = [[0f32; LANES]; LANES];
        block[..from.len()].copy_from_slice(from);
        transpose_lanes(&mut block);
        for (block, start) in block.iter().zip(starts.clone()) {
            for (column, units) in block.as_chunks::<E>().0.iter().take(from.len() / E).enumerate() {
                let to = start + (index * (LANES / E) + column) * step;
                rows[to..to + E].copy_from_slice(units);
            }
        }
    }
}

/// `mixed`: `[B, L, H·E]` from `qkv` `[B, L, (H + 2G)·E]`; `paddings`: columns of padding before each sequence, whose rows become 0.
pub fn forward(shape: AttentionShape, paddings: &[usize], qkv: &[f32], mixed: &mut [f32]) {
    let [step, mixed_step] = shape.steps();
    if !shape.is_short(paddings) {
        let mut scratch = AttentionScratch::new(shape.columns);
        let sequences = qkv.chunks(shape.columns * step).zip(mixed.chunks_mut(shape.columns * mixed_step));
        for ((qkv, mixed), &padding) in sequences.zip(paddings) {
            attention::forward(AttentionShape { padding, ..shape }, qkv, mixed, &mut scratch);
        }
        return;
    }
    let size = shape.columns * shape.width;
    let mut buffer = PooledBuffer::new(4 * size * LANES);
    let parts = buffer.as_chunks_mut().0;
    for group in shape.groups(paddings.len()) {
        for which in 0..3 {
            group.gather(qkv, step, |head| shape.at(head, which), &mut parts[which * size..][..size]);
        }
        let (inputs, outputs) = parts.split_at_mut(3 * size);
        forward_lanes(shape, inputs, outputs);
        group.scatter(outputs, mixed, mixed_step, |head| head * shape.width);
    }
}

/// `d_qkv` `[B, L, (H + 2G)·E]` from `d_mixed` `[B, L, H·E]`.
pub fn backward(shape: AttentionShape, paddings: &[usize], qkv: &[f32], d_mixed: &[f32], d_qkv: &mut [f32]) {
    let [step, mixed_step] = shape.steps();
    if !shape.is_short(paddings) {
        let mut scratch = AttentionScratch::new(shape.columns);
        let sequences = qkv.chunks(shape.columns * step).zip(d_mixed.chunks(shape.columns * mixed_step));
        for (((qkv, d_mixed), d_qkv), &padding) in sequences.zip(d_qkv.chunks_mut(shape.columns * step)).zip(paddings) {
            attention::backward(AttentionShape { padding, ..shape }, qkv, d_mixed, d_qkv, &mut scratch);
        }
        return;
    }
    let size = shape.columns * shape.width;
    let mut buffer = PooledBuffer::new((7 * size + 2 * shape.columns * shape.columns) * LANES);
    let parts = buffer.as_chunks_mut().0;
    for group in shape.groups(paddings.len()) {
        for which in 0..3 {
            group.gather(qkv, step, |head| shape.at(head, which), &mut parts[which * size..][..size]);
        }
        group.gather(d_mixed, mixed_step, |head| head * shape.width, &mut parts[3 * size..][..size]);
        let (inputs, rest) = parts.split_at_mut(4 * size);
        let (outputs, scratch) = rest.split_at_mut(3 * size);
        backward_lanes(shape, inputs, outputs, scratch);
        for which in 0..3 {
            group.scatter(&outputs[which * size..][..size], d_qkv, step, |head| shape.at(head, which));
        }
    }
}

simd_dispatch! {
    /// What is mixed, `[L, E]`, from queries, keys and values, `[3, L, E]`.
    fn forward_lanes(shape: AttentionShape, inputs: &[Lanes], mixed: &mut [Lanes]) {
        if vector_set().is_fused() { forward_with::<true>(shape, inputs, mixed) } else { forward_with::<false>(shape, inputs, mixed) }
    }
}

simd_dispatch! {
    /// Gradients of queries, keys and values, `[3, L, E]`, from these and the gradient of what is mixed, `[4, L, E]`; `scratch` takes
    /// the softmax weights and their gradients, `[2, L, L]`.
    fn backward_lanes(shape: AttentionShape, inputs: &[Lanes], outputs: &mut [Lanes], scratch: &mut [Lanes]) {
        if vector_set().is_fused() {
            backward_with::<true>(shape, inputs, outputs, scratch);
        } else {
            backward_with::<false>(shape, inputs, outputs, scratch);
        }
    }
}

#[inline(always)]
fn forward_with<const FUSED: bool>(shape: AttentionShape, inputs: &[Lanes], mixed: &mut [Lanes]) {
    let (e, size) = (shape.width, shape.columns * shape.width);
    let ([q, k, v], scale) = ([0, 1, 2].map(|i| &inputs[i * size..][..size]), shape.scores.factor(e));
    let mut all = [[0f32; LANES]; LANES];
    for (query, mixed) in mixed.chunks_exact_mut(e).enumerate() {
        let weights = &mut all[..=query];
        softmax_weights::<FUSED>(&q[query * e..][..e], k, scale, weights);
        for (unit, mixed) in mixed.iter_mut().enumerate() {
            *mixed = weighted_sum::<FUSED>(weights.iter().zip(v[unit..].iter().step_by(e)));
        }
    }
}

#[inline(always)]
fn backward_with<const FUSED: bool>(
    shape: AttentionShape,
    inputs: &[Lanes],
    outputs: &mut [Lanes],
    scratch: &mut [Lanes],
) {
    let (e, columns, size) = (shape.width, shape.columns, shape.columns * shape.width);
    let ([q, k, v, d_mixed], scale) = ([0, 1, 2, 3].map(|i| &inputs[i * size..][..size]), shape.scores.factor(e));
    let (all_weights, all_gradients) = scratch.split_at_mut(columns * columns); // [L, L], a row a query
    for query in 0..columns {
        let (units, seen) = (query * e..(query + 1) * e, query * columns..query * columns + query + 1);
        let (weights, gradients) = (&mut all_weights[seen.clone()], &mut all_gradients[seen]);
        softmax_weights::<FUSED>(&q[units.clone()], k, scale, weights);
        // dS = P ∘ (dP − Σ dP∘P)
        let mut sums = [0f32; LANES];
        for ((gradient, weight), v) in gradients.iter_mut().zip(&*weights).zip(v.chunks_exact(e)) {
            *gradient = dot::<FUSED>(v, &d_mixed[units.clone()]);
            sums.iter_mut().zip(weight).zip(&*gradient).for_each(|((sum, p), g)| *sum += p * g);
        }
        for (gradient, weight) in gradients.iter_mut().zip(&*weights) {
            gradient.iter_mut().zip(weight).zip(&sums).for_each(|((g, p), sum)| *g = p * (*g - sum));
        }
    }
    for unit in 0..size {
        let column = unit / e;
        let (row, diagonal) = (column * columns, column * columns + column);
        let keys = all_gradients[row..=diagonal].iter().zip(k[unit % e..].iter().step_by(e));
        outputs[unit] = weighted_sum::<FUSED>(keys).map(|x| x * scale);
        // the queries that see this column
        let queries = all_gradients[diagonal..].iter().step_by(columns).zip(q[unit..].iter().step_by(e));
        outputs[size + unit] = weighted_sum::<FUSED>(queries).map(|x| x * scale);
        let queries = all_weights[diagonal..].iter().step_by(columns).zip(d_mixed[unit..].iter().step_by(e));
        outputs[2 * size + unit] = weighted_sum::<FUSED>(queries);
    }
}

/// The softmax weights of a query `[E]` on the first keys of `[L, E]`, as many as there are weights.
#[inline(always)]
fn softmax_weights<const FUSED: bool>(q: &[Lanes], k: &[Lanes], scale: f32, weights: &mut [Lanes]) {
    let mut max = [f32::NEG_INFINITY; LANES];
    for (weight, k) in weights.iter_mut().zip(k.chunks_exact(q.len())) {
        *weight = dot::<FUSED>(k, q).map(|x| x * scale);
        max.iter_mut().zip(&*weight).for_each(|(max, x)| *max = if *x > *max { *x } else { *max });
    }
    let mut sums = [0f32; LANES];
    for weight in weights.iter_mut() {
        for ((x, max), sum) in weight.iter_mut().zip(&max).zip(&mut sums) {
            *x = exp(*x - max);
            *sum += *x;
        }
    }
    let scale = sums.map(|sum| 1.0 / sum);
    for weight in weights {
        weight.iter_mut().zip(&scale).for_each(|(x, scale)| *x *= scale);
    }
}

/// `Σ a·b` over the units of a head.
#[inline(always)]
fn dot<const FUSED: bool>(a: &[Lanes], b: &[Lanes]) -> Lanes {
    let mut sums = [0f32; LANES];
    a.iter().zip(b).for_each(|(a, b)| add_product::<FUSED>(a, b, &mut sums));
    sums
}

/// `Σ w·x` over pairs.
#[inline(always)]
fn weighted_sum<'a, const FUSED: bool>(pairs: impl Iterator<Item = (&'a Lanes, &'a Lanes)>) -> Lanes {
    let mut sums = [0f32; LANES];
    pairs.for_each(|(w, x)| add_product::<FUSED>(w, x, &mut sums));
    sums
}

/// `sum = sum + a·b`; without an instruction for it, `mul_add` would be a call.
#[inline(always)]
fn add_product<const FUSED: bool>(a: &Lanes, b: &Lanes, sums: &mut Lanes) {
    for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
        *sum = if FUSED { a.mul_add(*b, *sum) } else { *sum + a * b };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::HeadOrder;

    fn numbers(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 500.0 - 2.0).collect()
    }

    /// To the bit, forward and backward, whatever the number of heads in the last group.
    #[test]
    fn short_sequences_are_mixed_as_one_by_one() {
        for (columns, heads, width, sequences) in
            [(1, 1, 1, 1), (3, 2, 5, 1), (9, 4, 8, 7), (16, 4, 8, 4), (10, 3, 16, 11), (12, 1, 3, 33)]
        {
            for (order, scale) in [(HeadOrder::ByKind, None), (HeadOrder::ByHead, Some(0.3))] {
                let scores = ScoreOptions { scale, ..ScoreOptions::default() };
                let shape = AttentionShape { columns, heads, key_value_heads: heads, order, scores, width, padding: 0 };
                let paddings = vec![0; sequences];
                assert!(shape.is_short(&paddings));
                let [step, mixed_step] = shape.steps().map(|step| step * columns);
                let (qkv, d_mixed) = (numbers(1, sequences * step), numbers(2, sequences * mixed_step));
                let (mut mixed, mut d_qkv) = (vec![f32::NAN; d_mixed.len()], vec![f32::NAN; qkv.len()]);
                forward(shape, &paddings, &qkv, &mut mixed);
                backward(shape, &paddings, &qkv, &d_mixed, &mut d_qkv);
                let mut scratch = AttentionScratch::new(columns);
                let (mut expected, mut expected_gradient) = (vec![0.0; mixed_step], vec![0.0; step]);
                for sequence in 0..sequences {
                    let of = |step: usize| sequence * step..(sequence + 1) * step;
                    let (qkv, d_mixed) = (&qkv[of(step)], &d_mixed[of(mixed_step)]);
                    attention::forward(shape, qkv, &mut expected, &mut scratch);
                    attention::backward(shape, qkv, d_mixed, &mut expected_gradient, &mut scratch);
                    assert_eq!(mixed[of(mixed_step)], expected, "{shape:?}, {sequence}");
                    assert_eq!(d_qkv[of(step)], expected_gradient, "{shape:?}, {sequence}");
                }
            }
        }
    }

    #[test]
    fn what_lanes_do_not_do_is_done_one_by_one() {
        let scores = ScoreOptions::default();
        let (heads, order) = (2, HeadOrder::ByKind);
        let short = AttentionShape { columns: 16, heads, key_value_heads: 2, order, scores, width: 4, padding: 0 };
        assert!(short.is_short(&[0, 0]) && !short.is_short(&[0, 1]));
        assert!(!AttentionShape { columns: 17, ..short }.is_short(&[0]));
        assert!(!AttentionShape { key_value_heads: 1, ..short }.is_short(&[0]));
        let others = [ScoreOptions { window: Some(9), ..scores }, ScoreOptions { soft_cap: Some(9.0), ..scores }];
        assert!(others.into_iter().all(|scores| !AttentionShape { scores, ..short }.is_short(&[0])));
    }
}
