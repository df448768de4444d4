//! Every operation against itself written plainly in f64: values, and gradients by central differences.

mod block;

use duel_kernels::*;
use std::sync::Arc;

/// Numbers between −1 and 1 that look random.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// `x·w + b`, `[N, I]·[I, O]`.
fn affine(x: &[f64], w: &[f64], b: &[f64]) -> Vec<f64> {
    let outputs = b.len();
    let inputs = w.len() / outputs;
    let row = |x: &[f64]| -> Vec<f64> {
        (0..outputs).map(|o| b[o] + (0..inputs).map(|i| x[i] * w[i * outputs + o]).sum::<f64>()).collect()
    };
    x.chunks(inputs).flat_map(row).collect()
}

fn norm(x: &[f64], gain: &[f64], bias: &[f64], epsilon: f64) -> Vec<f64> {
    let d = gain.len() as f64;
    let row = |x: &[f64]| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / d;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d;
        x.iter().zip(gain).zip(bias).map(|((x, g), b)| (x - mean) / (variance + epsilon).sqrt() * g + b).collect()
    };
    x.chunks(gain.len()).flat_map(row).collect()
}

/// The block's parameters in the order of [`Gpt2Weights`].
fn gpt2(shape: Gpt2Shape, w: &[Vec<f64>], x: &[f64], left: &[usize]) -> Vec<f64> {
    let (l, d, h) = (shape.columns, shape.width, shape.heads);
    let e = d / h;
    let epsilon = f64::from(shape.epsilon);
    let qkv = affine(&norm(x, &w[0], &w[1], epsilon), &w[2], &w[3]);
    let mut mixed = vec![0.0; x.len()];
    for (sequence, &left) in left.iter().enumerate() {
        let at =
            |t: usize, part: usize, head: usize, i: usize| qkv[(sequence * l + t) * 3 * d + part * d + head * e + i];
        for head in 0..h {
            for q in left..l {
                let score =
                    |k: usize| (0..e).map(|i| at(q, 0, head, i) * at(k, 1, head, i)).sum::<f64>() / (e as f64).sqrt();
                let weights: Vec<f64> = (left..=q).map(|k| score(k).exp()).collect();
                let total: f64 = weights.iter().sum();
                for i in 0..e {
                    let sum: f64 = (left..=q).zip(&weights).map(|(k, w)| w / total * at(k, 2, head, i)).sum();
                    mixed[(sequence * l + q) * d + head * e + i] = sum;
                }
            }
        }
    }
    let middle: Vec<f64> = affine(&mixed, &w[4], &w[5]).iter().zip(x).map(|(a, x)| a + x).collect();
    let activation = |x: f64| activation(shape.activation, x);
    let up: Vec<f64> =
        affine(&norm(&middle, &w[6], &w[7], epsilon), &w[8], &w[9]).into_iter().map(activation).collect();
    affine(&up, &w[10], &w[11]).iter().zip(&middle).map(|(a, x)| a + x).collect()
}

fn activation(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::SquaredRelu => x.max(0.0).powi(2),
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
    }
}

/// By Simpson's rule.
fn erf(x: f64) -> f64 {
    let steps = 100;
    let h = x / f64::from(2 * steps);
    let f = |i: i32| (-(h * f64::from(i)).powi(2)).exp();
    let sum: f64 = (0..steps).map(|i| f(2 * i) + 4.0 * f(2 * i + 1) + f(2 * i + 2)).sum();
    sum * h / 3.0 * 2.0 / std::f64::consts::PI.sqrt()
}

fn weights(w: &[Vec<f32>]) -> Gpt2Weights<'_> {
    std::array::from_fn(|i| w[i].as_slice()).into()
}

/// `|a − b| ≤ tolerance` of the largest of `b`, or of 1e-3 where all are nearly 0.
fn close(what: &str, a: &[f32], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{what}");
    let size = b.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((f64::from(*a) - b).abs() <= tolerance * size, "{what}, entry {i}: {a}, expected {b}");
    }
}

/// Central differences of `loss` at some entries of `x`.
fn differences(x: &[f32], entries: &[usize], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let at = |i: usize, by: f64| {
        let mut x = wide(x);
        x[i] += by;
        loss(&x)
    };
    entries.iter().map(|&i| (at(i, step) - at(i, -step)) / (2.0 * step)).collect()
}

fn check_gpt2(shape: Gpt2Shape, left: Option<&[usize]>) {
    let (b, l, d, f) = (shape.sequences, shape.columns, shape.width, shape.inner);
    let lefts = left.map_or_else(|| vec![0; b], <[usize]>::to_vec);
    let sizes = [d, d, 3 * d * d, 3 * d, d * d, d, d, d, d * f, f, f * d, d];
    let w: Vec<Vec<f32>> = sizes.iter().enumerate().map(|(i, &n)| numbers(i as u64 + 7, n)).collect();
    let w64: Vec<Vec<f64>> = w.iter().map(|w| wide(w)).collect();
    let x = numbers(3, b * l * d);
    // nobody asks what stands in padded columns
    let mut dy = numbers(5, x.len());
    for (sequence, left) in lefts.iter().enumerate() {
        dy[sequence * l * d..(sequence * l + left) * d].fill(0.0);
    }
    let loss = |y: &[f64]| y.iter().zip(&dy).map(|(y, c)| y * f64::from(*c)).sum::<f64>();

    let (y, saved) = gpt2_forward(shape, weights(&w), &x, left);
    let exact = gpt2(shape, &w64, &wide(&x), &lefts);
    let counted = |i: &usize| i / d % l >= lefts[i / d / l];
    let some: Vec<usize> = (0..y.len()).filter(counted).collect();
    let pick = |all: &[f64]| some.iter().map(|&i| all[i]).collect::<Vec<_>>();
    close("output", &some.iter().map(|&i| y[i]).collect::<Vec<_>>(), &pick(&exact), 2e-6);

    let (dx, gradient) = gpt2_backward(shape, weights(&w), &x, &saved, left, &dy);
    let entries: Vec<usize> = (0..x.len()).step_by(x.len() / 40 + 1).collect();
    let by_differences = differences(&x, &entries, |x| loss(&gpt2(shape, &w64, x, &lefts)));
    close("dx", &entries.iter().map(|&i| dx[i]).collect::<Vec<_>>(), &by_differences, 1e-5);
    for (which, gradient) in gradient.into_parts().iter().enumerate() {
        let entries: Vec<usize> = (0..gradient.len()).step_by(gradient.len() / 12 + 1).collect();
        let by_differences = differences(&w[which], &entries, |changed| {
            let mut w = w64.clone();
            w[which] = changed.to_vec();
            loss(&gpt2(shape, &w, &wide(&x), &lefts))
        });
        let actual: Vec<f32> = entries.iter().map(|&i| gradient[i]).collect();
        close(&format!("gradient of parameter {which}"), &actual, &by_differences, 2e-5);
    }
}

fn shape(activation: Activation) -> Gpt2Shape {
    Gpt2Shape { sequences: 3, columns: 40, width: 12, heads: 2, inner: 20, activation, epsilon: 1e-5 }
}

#[test]
fn a_block_is_what_it_says() {
    check_gpt2(shape(Activation::GeluTanh), None);
    check_gpt2(shape(Activation::SquaredRelu), None);
    check_gpt2(shape(Activation::Silu), None);
    check_gpt2(shape(Activation::Gelu), None);
    check_gpt2(shape(Activation::Relu), None);
}

#[test]
fn padding_before_a_sequence_is_not_seen() {
    check_gpt2(shape(Activation::GeluTanh), Some(&[0, 3, 39]));
    check_gpt2(shape(Activation::GeluTanh), Some(&[35, 1, 0]));
}

#[test]
fn a_block_of_one_token() {
    check_gpt2(Gpt2Shape { sequences: 1, columns: 1, ..shape(Activation::GeluTanh) }, None);
}

#[test]
fn a_block_of_many_shards() {
    // 4 shards of 12 sequences and a rest
    check_gpt2(Gpt2Shape { sequences: 50, ..shape(Activation::GeluTanh) }, None);
}

/// `cap·tanh(x/cap)`
fn capped(x: f64, cap: Option<f32>) -> f64 {
    cap.map(f64::from).map_or(x, |cap| cap * (x / cap).tanh())
}

fn check_logp(n: usize, d: usize, v: usize, tied: bool, soft_cap: Option<f32>, hidden: Option<&[bool]>) {
    let (states, weight) = (numbers(1, n * d), numbers(2, d * v));
    let columns = hidden.map_or(1, |hidden| hidden.len() / v);
    let allowed = |row: usize, id: usize| hidden.is_none_or(|hidden| !hidden[row % columns * v + id]);
    let targets: Vec<i32> =
        (0..n).map(|i| (0..v).map(|k| (i * 7 + k) % v).find(|&id| allowed(i, id)).expect("a token") as i32).collect();
    let gradient = numbers(4, n);
    let exact = |states: &[f64], weight: &[f64]| -> Vec<f64> {
        (0..n)
            .map(|row| {
                let logit = |id: usize| -> f64 {
                    let weight = |i: usize| if tied { weight[id * d + i] } else { weight[i * v + id] };
                    capped((0..d).map(|i| states[row * d + i] * weight(i)).sum(), soft_cap)
                };
                let z: f64 = (0..v).filter(|&id| allowed(row, id)).map(|id| logit(id).exp()).sum();
                logit(targets[row] as usize) - z.ln()
            })
            .collect()
    };
    let matrix = LinearMatrix::F32 { values: &weight, turned: tied };
    let head = LmHead { matrix, vocabulary: v, soft_cap, hidden };
    let (logp, saved) = logp_forward(head, &states, &targets, usize::MAX);
    close("log-probs", &logp, &exact(&wide(&states), &wide(&weight)), 2e-6);

    let actual = logp_backward(head, &states, &targets, saved.clone(), &gradient, true);
    let loss = |logp: Vec<f64>| logp.iter().zip(&gradient).map(|(x, c)| x * f64::from(*c)).sum::<f64>();
    let some = |n: usize| (0..n).step_by(n / 25 + 1).collect::<Vec<_>>();
    let pick = |all: &[f32], entries: &[usize]| entries.iter().map(|&i| all[i]).collect::<Vec<_>>();
    let entries = some(states.len());
    let by_differences = differences(&states, &entries, |states| loss(exact(states, &wide(&weight))));
    close("gradient of states", &pick(&actual.states, &entries), &by_differences, 1e-5);
    let entries = some(weight.len());
    let by_differences = differences(&weight, &entries, |weight| loss(exact(&wide(&states), weight)));
    close("gradient of weight", &pick(&actual.weight.expect("asked"), &entries), &by_differences, 1e-5);
    assert!(logp_backward(head, &states, &targets, saved, &gradient, false).weight.is_none());
}

/// Frozen heads have no gradient of their own.
#[test]
fn kept_logits_change_no_bit() {
    // three blocks of rows, seven panels of tokens
    let (n, d, v) = (300, 40, 3210);
    let (states, weight, gradient) = (numbers(1, n * d), numbers(2, d * v), numbers(3, n));
    let targets: Vec<i32> = (0..n).map(|i| ((i * 37) % v) as i32).collect();
    let hidden: Vec<bool> = (0..5 * v).map(|i| i % 3 == 1 && i % 37 != 0).collect();
    let frozen = |numbers| Arc::new(FrozenMatrix::new(Matrix::rows(&weight, v), d, v, numbers));
    let [bf16, q8] = [FrozenNumbers::Bf16, FrozenNumbers::Q8].map(frozen);
    let f32_head = |turned| LinearMatrix::F32 { values: &weight, turned };
    let heads = [f32_head(true), f32_head(false), LinearMatrix::Frozen(&bf16), LinearMatrix::Frozen(&q8)];
    for (matrix, soft_cap, hidden) in heads.into_iter().flat_map(|x| [(x, None, None), (x, Some(0.7), Some(&*hidden))])
    {
        let head = LmHead { matrix, vocabulary: v, soft_cap, hidden };
        let whole = 4 * n * v;
        let run = |logits_memory: usize| {
            let (logp, saved) = logp_forward(head, &states, &targets, logits_memory);
            let bytes = saved.logits_bytes();
            assert!(bytes <= logits_memory && bytes + 4 * n * 1024 > whole.min(logits_memory), "{bytes}");
            let weight_too = matches!(matrix, LinearMatrix::F32 { .. });
            let LogpGradient { states, weight } = logp_backward(head, &states, &targets, saved, &gradient, weight_too);
            let bits = |numbers: Vec<f32>| numbers.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            [bits(logp), bits(states), bits(weight.unwrap_or_default())]
        };
        let expected = run(0);
        for logits_memory in [4 * n * 512, whole / 2, whole - 1, whole, usize::MAX] {
            assert_eq!(run(logits_memory), expected, "{logits_memory} of {whole} bytes");
        }
    }
}

#[test]
fn log_probs_are_what_they_say() {
    check_logp(5, 6, 11, true, None, None);
    check_logp(5, 6, 11, false, None, None);
    // more rows than a block, more tokens than a panel
    check_logp(101, 3, 530, true, None, None);
    check_logp(3, 2, 2200, false, None, None);
    check_logp(101, 3, 530, true, Some(0.7), None);
}

#[test]
fn hidden_tokens_take_no_mass() {
    let hidden: Vec<bool> = (0..4 * 9).map(|i| i % 3 == 1).collect();
    check_logp(12, 5, 9, true, None, Some(&hidden));
    check_logp(12, 5, 9, false, Some(0.9), Some(&hidden));
}

/// A model's parameters: embeddings, positions, blocks, final norm.
struct Model {
    tokens: Vec<f32>,
    positions: Vec<f32>,
    blocks: Vec<Vec<Vec<f32>>>,
    norm: [Vec<f32>; 2],
    head: Vec<f32>,
}

/// Logits `[V]` after the last of some ids.
fn logits(model: &Model, shape: Gpt2Shape, ids: &[i32], tied: bool) -> Vec<f64> {
    let d = shape.width;
    let shape = Gpt2Shape { sequences: 1, columns: ids.len(), ..shape };
    let mut x: Vec<f64> = ids
        .iter()
        .enumerate()
        .flat_map(|(t, &id)| (0..d).map(move |i| (t, id as usize, i)))
        .map(|(t, id, i)| f64::from(model.tokens[id * d + i]) + f64::from(model.positions[t * d + i]))
        .collect();
    for w in &model.blocks {
        x = gpt2(shape, &w.iter().map(|w| wide(w)).collect::<Vec<_>>(), &x, &[0]);
    }
    let last = norm(&x[x.len() - d..], &wide(&model.norm[0]), &wide(&model.norm[1]), f64::from(shape.epsilon));
    let v = model.tokens.len() / d;
    let weight = |i: usize, id: usize| f64::from(if tied { model.tokens[id * d + i] } else { model.head[i * v + id] });
    (0..v).map(|id| (0..d).map(|i| last[i] * weight(i, id)).sum()).collect()
}

#[test]
fn decoding_step_by_step_is_reading_at_once() {
    let (v, context) = (37, 24);
    let shape = shape(Activation::GeluTanh);
    let (d, f) = (shape.width, shape.inner);
    let sizes = [d, d, 3 * d * d, 3 * d, d * d, d, d, d, d * f, f, f * d, d];
    let model = Model {
        tokens: numbers(1, v * d),
        positions: numbers(2, context * d),
        blocks: (0..2)
            .map(|b| sizes.iter().enumerate().map(|(i, &n)| numbers(20 * b + i as u64, n)).collect())
            .collect(),
        norm: [numbers(5, d), numbers(6, d)],
        head: numbers(7, d * v),
    };
    for tied in [true, false] {
        let parts = DecoderParts {
            width: d,
            heads: shape.heads,
            key_value_heads: shape.heads,
            head_width: d / shape.heads,
            inner: f,
            epsilon: shape.epsilon,
            tokens: LinearMatrix::F32 { values: &model.tokens, turned: true },
            embedding_multiplier: 1.0,
            positions: model.positions.clone(),
            norm: NormWeights { gain: &model.norm[0], bias: &model.norm[1] },
            head: DecoderHead { matrix: (!tied).then_some(model.head.as_slice().into()), ..DecoderHead::default() },
        };
        let mut decoder = Decoder::new(parts);
        model.blocks.iter().for_each(|w| {
            let w = weights(w);
            decoder.push(Gpt2Weights::options(shape.activation), &w.into(), None);
        });
        // twelve places (a tile of eight and a rest), prompts of 1 to 4 ids; the last place is empty
        let prompt = |row: usize| -> Vec<i32> { (0..1 + row % 4).map(|t| ((5 * row + 3 * t) % 37) as i32).collect() };
        let mut decoding = decoder.start(12, 9);
        let mut ids: Vec<Vec<i32>> = (0..11).map(prompt).collect();
        let mut next: Vec<NextTokens> =
            ids.iter().enumerate().map(|(place, ids)| NextTokens { place, ids: ids.clone() }).collect();
        for step in 0..5 {
            let output = decoding.forward(&next, vec![None; next.len()]);
            for (row, NextTokens { place, .. }) in next.iter().enumerate() {
                close("logits", &output.logits(row), &logits(&model, shape, &ids[*place], tied), 3e-6);
            }
            next.iter_mut().for_each(|next| next.ids = vec![(11 * next.place as i32 + step) % 37]);
            match step {
                1 => next.retain(|next| [0, 2, 3, 7, 10].contains(&next.place)), // some sequences end
                2 => {
                    // one goes on in the empty place too, and another prompt begins in a place that was left
                    decoding.copy(3, 11);
                    ids.push(ids[3].clone());
                    next.push(NextTokens { place: 11, ids: vec![36] });
                    decoding.truncate(5, 0);
                    ids[5].clear();
                    next.insert(1, NextTokens { place: 5, ids: prompt(23) });
                }
                _ => {}
            }
            next.iter().for_each(|next| ids[next.place].extend(&next.ids));
        }
    }
}
