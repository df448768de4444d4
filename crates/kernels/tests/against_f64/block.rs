//! The block with its options.

use super::{activation, affine, capped, close, differences, norm, numbers, wide};
use duel_kernels::*;
use std::sync::Arc;

/// A block to check: its options, and which parameters it has.
#[derive(Debug, Clone, Copy)]
struct Case {
    options: BlockOptions,
    key_value_heads: usize,
    /// Norms before attention and MLP, and after them.
    before: bool,
    after: bool,
    layer_norm: bool,
    /// Norms of queries and keys: of each head, or of all side by side.
    query_key_norm: Option<bool>,
    biases: bool,
    /// Ranks of the maps' adapters.
    ranks: [usize; N_LINEAR],
    /// Units of a head that are rotated.
    rotary: usize,
}

const HEADS: usize = 4;
const HEAD_WIDTH: usize = 6;
const WIDTH: usize = 12;
const INNER: usize = 20;
const CONTEXT: usize = 80;
/// The adapters' `α/r`.
const SCALE: f32 = 0.7;

impl Case {
    /// Llama's.
    fn plain() -> Self {
        Self {
            options: BlockOptions::default(),
            key_value_heads: 2,
            before: true,
            after: false,
            layer_norm: false,
            query_key_norm: None,
            biases: false,
            ranks: [0; N_LINEAR],
            rotary: HEAD_WIDTH,
        }
    }

    fn shape(&self, sequences: usize, columns: usize) -> BlockShape {
        let (key_value_heads, options) = (self.key_value_heads, self.options);
        let (heads, head_width, width, inner) = (HEADS, HEAD_WIDTH, WIDTH, INNER);
        let epsilon = 1e-5;
        BlockShape { sequences, columns, width, heads, key_value_heads, head_width, inner, epsilon, options }
    }

    /// Inputs and outputs of the maps.
    fn linears(&self) -> [[usize; 2]; N_LINEAR] {
        let (q, kv, none) = (HEADS * HEAD_WIDTH, self.key_value_heads * HEAD_WIDTH, [0, 0]);
        let [to_q, to_k, to_v] = match self.options.joint_qkv {
            true => [[WIDTH, q + 2 * kv], none, none],
            false => [[WIDTH, q], [WIDTH, kv], [WIDTH, kv]],
        };
        let [gate, up] = match self.options.mlp {
            BlockMlp::Plain => [none, [WIDTH, INNER]],
            BlockMlp::Gated => [[WIDTH, INNER]; 2],
            BlockMlp::JointGated => [[WIDTH, 2 * INNER], none],
        };
        [to_q, to_k, to_v, [q, WIDTH], gate, up, [INNER, WIDTH]]
    }

    /// Gain and bias of the six norms, then matrix, bias, A and B of the seven maps; what it does not have is empty.
    fn sizes(&self) -> Vec<usize> {
        let qk =
            |heads: usize| self.query_key_norm.map_or(0, |joint| if joint { heads * HEAD_WIDTH } else { HEAD_WIDTH });
        let (before, after) = (if self.before { WIDTH } else { 0 }, if self.after { WIDTH } else { 0 });
        let norms = [before, before, after, after, qk(HEADS), qk(self.key_value_heads)];
        let norms = norms.into_iter().flat_map(|n| [n, if self.layer_norm { n } else { 0 }]);
        let maps = self.linears().into_iter().zip(self.ranks).flat_map(|([inputs, outputs], rank)| {
            [inputs * outputs, if self.biases { outputs } else { 0 }, inputs * rank, outputs * rank]
        });
        norms.chain(maps).collect()
    }

    fn rope(&self) -> Option<RopeTables> {
        let half = self.rotary / 2;
        let angle = |index: usize| (index / half) as f64 * 10f64.powf(-((index % half) as f64) / half as f64);
        let table = |f: fn(f64) -> f64| (0..CONTEXT * half).map(|index| f(angle(index)) as f32).collect();
        (half > 0).then(|| RopeTables { cos: table(f64::cos), sin: table(f64::sin), units: self.rotary })
    }
}

fn weights(w: &[Vec<f32>]) -> BlockWeights<'_> {
    BlockWeights {
        norms: std::array::from_fn(|i| NormWeights { gain: &w[2 * i], bias: &w[2 * i + 1] }),
        maps: std::array::from_fn(|i| {
            let [weight, bias, a, b] = &w[2 * N_NORM + 4 * i..][..4] else { unreachable!() };
            LinearWeights { matrix: weight.as_slice().into(), bias, a, b, scale: SCALE }
        }),
    }
}

/// A norm of rows as wide as its gain, or nothing.
fn maybe_norm(x: Vec<f64>, gain: &[f64], bias: &[f64]) -> Vec<f64> {
    let epsilon = f64::from(1e-5f32);
    match (gain, bias) {
        ([], _) => x,
        (gain, []) => {
            let row = |x: &[f64]| -> Vec<f64> {
                let rms = (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + epsilon).sqrt();
                x.iter().zip(gain).map(|(x, gain)| x / rms * gain).collect()
            };
            x.chunks(gain.len()).flat_map(row).collect()
        }
        (gain, bias) => norm(&x, gain, bias, epsilon),
    }
}

/// The block written plainly.
fn block(case: &Case, l: usize, w: &[Vec<f64>], x: &[f64], left: &[usize]) -> Vec<f64> {
    let norm_of = |i: usize, x: Vec<f64>| maybe_norm(x, &w[2 * i], &w[2 * i + 1]);
    let map = |i: usize, x: &[f64]| -> Vec<f64> {
        let [weight, bias, a, b] = &w[2 * N_NORM + 4 * i..][..4] else { unreachable!() };
        let [inputs, outputs] = case.linears()[i];
        let rank = a.len() / inputs;
        let entry = |row: usize, column: usize| {
            let low: f64 = (0..rank).map(|r| a[row * rank + r] * b[r * outputs + column]).sum();
            weight[row * outputs + column] + f64::from(SCALE) * low
        };
        let matrix: Vec<f64> = (0..inputs * outputs).map(|index| entry(index / outputs, index % outputs)).collect();
        affine(x, &matrix, if bias.is_empty() { &[0.0; 3 * HEADS * HEAD_WIDTH][..outputs] } else { bias })
    };
    let normed = norm_of(0, x.to_vec());
    let tokens = x.len() / WIDTH;
    let [q, k, v] = queries_keys_values(case, tokens, &normed, map);
    let [q, k] = [(4, q), (5, k)].map(|(i, x)| norm_of(i, x));
    let mixed = attention(case, l, [rotated(case, q, l, left), rotated(case, k, l, left), v], left);
    let multiplier = f64::from(case.options.residual_multiplier);
    let add =
        |x: &[f64], branch: Vec<f64>| -> Vec<f64> { x.iter().zip(branch).map(|(x, y)| x + multiplier * y).collect() };
    let middle = add(x, norm_of(2, map(3, &mixed)));
    let normed = norm_of(1, if case.options.parallel { x.to_vec() } else { middle.clone() });
    let bend = |x: f64| activation(case.options.activation, x);
    let inner: Vec<f64> = match case.options.mlp {
        BlockMlp::Plain => map(5, &normed).into_iter().map(bend).collect(),
        BlockMlp::Gated => map(4, &normed).into_iter().zip(map(5, &normed)).map(|(gate, up)| bend(gate) * up).collect(),
        BlockMlp::JointGated => {
            let row = |row: &[f64]| (0..INNER).map(|i| bend(row[i]) * row[INNER + i]).collect::<Vec<_>>();
            map(4, &normed).chunks(2 * INNER).flat_map(row).collect()
        }
    };
    add(&middle, norm_of(3, map(6, &inner)))
}

/// `[N, H·E]`, `[N, G·E]`, `[N, G·E]`
fn queries_keys_values(
    case: &Case,
    tokens: usize,
    normed: &[f64],
    map: impl Fn(usize, &[f64]) -> Vec<f64>,
) -> [Vec<f64>; 3] {
    if !case.options.joint_qkv {
        return [0, 1, 2].map(|i| map(i, normed));
    }
    let (joint, e) = (map(0, normed), HEAD_WIDTH);
    let row = joint.len() / tokens;
    let heads = [HEADS, case.key_value_heads, case.key_value_heads];
    [0, 1, 2].map(|kind| {
        let from = |head: usize| match case.options.order {
            HeadOrder::ByKind => heads[..kind].iter().sum::<usize>() + head,
            HeadOrder::ByHead => 3 * head + kind,
        };
        let heads_of = |row: &[f64]| -> Vec<f64> {
            (0..heads[kind]).flat_map(|head| row[from(head) * e..][..e].to_vec()).collect()
        };
        joint.chunks(row).flat_map(heads_of).collect()
    })
}

fn rotated(case: &Case, mut x: Vec<f64>, l: usize, left: &[usize]) -> Vec<f64> {
    let Some(RopeTables { cos, sin, units }) = case.rope() else { return x };
    let half = units / 2;
    let (row, tables) = (x.len() / (l * left.len()), [wide(&cos), wide(&sin)]);
    for (index, row) in x.chunks_mut(row).enumerate() {
        let position = (index % l).saturating_sub(left[index / l]);
        for head in row.chunks_mut(HEAD_WIDTH) {
            for i in 0..half {
                let [cos, sin] = [0, 1].map(|which| tables[which][position * half + i]);
                (head[i], head[half + i]) =
                    (head[i] * cos - head[half + i] * sin, head[half + i] * cos + head[i] * sin);
            }
        }
    }
    x
}

fn attention(case: &Case, l: usize, [q, k, v]: [Vec<f64>; 3], left: &[usize]) -> Vec<f64> {
    let (g, e) = (case.key_value_heads, HEAD_WIDTH);
    let ScoreOptions { window, scale, soft_cap } = case.options.scores;
    let scale = scale.map_or(1.0 / (e as f64).sqrt(), f64::from);
    let mut mixed = vec![0.0; q.len()];
    for (sequence, &left) in left.iter().enumerate() {
        for (head, query) in (0..HEADS).flat_map(|head| (left..l).map(move |query| (head, query))) {
            let row = sequence * l;
            let shared = head * g / HEADS;
            let entry = |x: &[f64], row: usize, heads: usize, head: usize, i: usize| x[(row * heads + head) * e + i];
            let score = |key: usize| {
                let product = |i: usize| entry(&q, row + query, HEADS, head, i) * entry(&k, row + key, g, shared, i);
                capped(scale * (0..e).map(product).sum::<f64>(), soft_cap).exp()
            };
            let keys: Vec<usize> =
                (left..=query).filter(|key| window.is_none_or(|window| query - key < window)).collect();
            let total: f64 = keys.iter().map(|key| score(*key)).sum();
            for i in 0..e {
                let sum = keys.iter().map(|&key| score(key) / total * entry(&v, row + key, g, shared, i));
                mixed[((row + query) * HEADS + head) * e + i] = sum.sum();
            }
        }
    }
    mixed
}

/// Values and gradients of a batch.
fn check(case: Case, [sequences, l]: [usize; 2], left: Option<&[usize]>) {
    let shape = case.shape(sequences, l);
    let lefts = left.map_or_else(|| vec![0; sequences], <[usize]>::to_vec);
    let w: Vec<Vec<f32>> = case.sizes().into_iter().enumerate().map(|(i, n)| numbers(i as u64 + 7, n)).collect();
    let w64: Vec<Vec<f64>> = w.iter().map(|w| wide(w)).collect();
    let x = numbers(3, sequences * l * WIDTH);
    // nobody asks what stands in padded columns
    let is_real = |i: usize| i / WIDTH % l >= lefts[i / WIDTH / l];
    let dy: Vec<f32> =
        numbers(5, x.len()).into_iter().enumerate().map(|(i, c)| if is_real(i) { c } else { 0.0 }).collect();
    let loss = |y: &[f64]| y.iter().zip(&dy).map(|(y, c)| y * f64::from(*c)).sum::<f64>();
    let rope = case.rope();
    let positions = RopeAndPadding { rope: rope.as_ref(), padding: left };

    let (y, saved) = block_forward(shape, weights(&w), &x, positions);
    let expected = block(&case, l, &w64, &wide(&x), &lefts);
    let some: Vec<usize> = (0..y.len()).filter(|i| is_real(*i)).collect();
    let pick = |all: &[f64]| some.iter().map(|&i| all[i]).collect::<Vec<_>>();
    close("output", &some.iter().map(|&i| y[i]).collect::<Vec<_>>(), &pick(&expected), 4e-6);

    let (dx, gradient) = block_backward(shape, weights(&w), &x, &saved, positions, &dy, [true; N_LINEAR]);
    let entries: Vec<usize> = (0..x.len()).step_by(x.len() / 20 + 1).collect();
    let expected = differences(&x, &entries, |x| loss(&block(&case, l, &w64, x, &lefts)));
    close("dx", &entries.iter().map(|&i| dx[i]).collect::<Vec<_>>(), &expected, 2e-5);
    let norms = gradient.norms.into_iter().flat_map(|norm| [norm.gain, norm.bias]);
    let maps = gradient.maps.into_iter().flat_map(|map| [map.weight, map.bias, map.a, map.b]);
    for (which, actual) in norms.chain(maps).enumerate() {
        assert_eq!(actual.len(), w[which].len(), "parameter {which}");
        let entries: Vec<usize> = (0..actual.len()).step_by(actual.len() / 5 + 1).collect();
        let expected = differences(&w[which], &entries, |changed| {
            let mut w = w64.clone();
            w[which] = changed.to_vec();
            loss(&block(&case, l, &w, &wide(&x), &lefts))
        });
        let actual: Vec<f32> = entries.iter().map(|&i| actual[i]).collect();
        close(&format!("{case:?}: gradient of parameter {which}"), &actual, &expected, 5e-5);
    }
    // without what is not needed
    let (again, gradient) = block_backward(shape, weights(&w), &x, &saved, positions, &dy, [false; N_LINEAR]);
    assert!(again == dx && gradient.maps.iter().all(|map| map.weight.is_empty()));
}

/// With and without padding; what is read reaches over two blocks of queries.
fn check_batches(case: Case) {
    check(case, [2, 37], None);
    check(case, [3, 36], Some(&[2, 0, 35]));
}

fn with_options(change: impl FnOnce(&mut BlockOptions)) -> Case {
    let mut case = Case::plain();
    change(&mut case.options);
    case
}

#[test]
fn llamas_block() {
    check_batches(Case::plain());
    check(Case::plain(), [1, 1], None);
    // shards of three sequences, in groups
    check(Case::plain(), [14, 37], None);
}

#[test]
fn windows_scales_and_caps() {
    for window in [1, 5, 33, 50] {
        check_batches(with_options(|options| options.scores.window = Some(window)));
    }
    check_batches(with_options(|options| options.scores.scale = Some(0.3)));
    check_batches(with_options(|options| options.scores.soft_cap = Some(0.8)));
    let (window, scale, soft_cap) = (Some(4), Some(1.0), Some(1.5));
    check_batches(with_options(|options| options.scores = ScoreOptions { window, scale, soft_cap }));
}

#[test]
fn biases_and_adapters() {
    check_batches(Case { biases: true, ..Case::plain() });
    check_batches(Case { ranks: [3; N_LINEAR], ..Case::plain() });
    check_batches(Case { ranks: [2, 0, 4, 0, 0, 1, 0], biases: true, ..Case::plain() });
}

#[test]
fn norms_wherever_they_are() {
    check_batches(Case { layer_norm: true, ..Case::plain() });
    check_batches(Case { after: true, ..Case::plain() });
    check_batches(Case { before: false, after: true, ..Case::plain() });
    check_batches(Case { query_key_norm: Some(false), ..Case::plain() });
    check_batches(Case { query_key_norm: Some(true), ..Case::plain() });
    check_batches(Case { query_key_norm: Some(false), layer_norm: true, after: true, ..Case::plain() });
}

#[test]
fn positions_of_some_units_or_of_none() {
    check_batches(Case { rotary: 2, ..Case::plain() });
    check_batches(Case { rotary: 0, ..Case::plain() });
}

#[test]
fn mlps() {
    for activation in [Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::SquaredRelu] {
        check_batches(with_options(|options| options.activation = activation));
        check_batches(with_options(|options| (options.activation, options.mlp) = (activation, BlockMlp::Plain)));
    }
    check_batches(Case { ranks: [2; N_LINEAR], ..with_options(|options| options.mlp = BlockMlp::JointGated) });
}

#[test]
fn residuals() {
    check_batches(with_options(|options| options.residual_multiplier = 0.3));
    check_batches(with_options(|options| options.parallel = true));
    check_batches(Case { before: false, ..with_options(|options| options.parallel = true) });
}

#[test]
fn joint_projections() {
    let joint = with_options(|options| options.joint_qkv = true);
    check_batches(Case { biases: true, ranks: [2; N_LINEAR], ..joint });
    let by_head = with_options(|options| (options.joint_qkv, options.order) = (true, HeadOrder::ByHead));
    check_batches(Case { key_value_heads: HEADS, rotary: 4, ..by_head });
}

/// Blocks of families.
fn families() -> Vec<Case> {
    let gemma2 = with_options(|options| {
        options.scores = ScoreOptions { window: Some(5), scale: Some(0.2), soft_cap: Some(2.0) };
        options.activation = Activation::GeluTanh;
    });
    let neox = with_options(|options| {
        (options.joint_qkv, options.order, options.parallel) = (true, HeadOrder::ByHead, true);
        (options.mlp, options.activation) = (BlockMlp::Plain, Activation::Gelu);
    });
    let phi3 = with_options(|options| {
        (options.joint_qkv, options.mlp, options.scores.window) = (true, BlockMlp::JointGated, Some(7));
    });
    vec![
        Case { after: true, query_key_norm: Some(false), ranks: [2; N_LINEAR], ..gemma2 },
        Case { key_value_heads: HEADS, layer_norm: true, biases: true, rotary: 2, ..neox },
        Case { ranks: [1; N_LINEAR], ..phi3 },
        Case { before: false, after: true, query_key_norm: Some(true), ..Case::plain() },
        Case { biases: true, ..with_options(|options| options.residual_multiplier = 0.4) },
    ]
}

#[test]
fn options_together() {
    families().into_iter().for_each(check_batches);
}

/// Logits after the last of some ids: multiplier 3 on the embedding and .5 on the logits, a bias, a cap.
fn logits(blocks: &[(Case, Vec<Vec<f32>>)], [tokens, gain, bias]: [&[f32]; 3], ids: &[i32]) -> Vec<f64> {
    let [tokens, gain, bias] = [tokens, gain, bias].map(wide);
    let mut x: Vec<f64> =
        ids.iter().flat_map(|&id| tokens[id as usize * WIDTH..][..WIDTH].iter().map(|t| 3.0 * t)).collect();
    for (case, w) in blocks {
        x = block(case, ids.len(), &w.iter().map(|w| wide(w)).collect::<Vec<_>>(), &x, &[0]);
    }
    let last = maybe_norm(x[x.len() - WIDTH..].to_vec(), &gain, &[]);
    let logit = |(row, bias): (&[f64], &f64)| {
        capped(0.5 * (row.iter().zip(&last).map(|(w, x)| w * x).sum::<f64>() + bias), Some(2.0))
    };
    tokens.chunks(WIDTH).zip(&bias).map(logit).collect()
}

#[test]
fn decoding_any_block_step_by_step_is_reading_at_once() {
    let vocabulary = 23;
    for case in families() {
        // the second layer sees all and does not rotate
        let mut second = case;
        (second.options.scores.window, second.rotary) = (None, 0);
        let blocks: Vec<(Case, Vec<Vec<f32>>)> = [case, second]
            .into_iter()
            .enumerate()
            .map(|(layer, case)| {
                let seed = |i: usize| (60 * layer + i) as u64;
                (case, case.sizes().into_iter().enumerate().map(|(i, n)| numbers(seed(i), n)).collect())
            })
            .collect();
        let (tokens, gain, bias) = (numbers(1, vocabulary * WIDTH), numbers(2, WIDTH), numbers(3, vocabulary));
        let mut decoder = Decoder::new(DecoderParts {
            width: WIDTH,
            heads: HEADS,
            key_value_heads: case.key_value_heads,
            head_width: HEAD_WIDTH,
            inner: INNER,
            epsilon: 1e-5,
            tokens: LinearMatrix::F32 { values: &tokens, turned: true },
            embedding_multiplier: 3.0,
            positions: vec![],
            norm: NormWeights { gain: &gain, bias: &[] },
            head: DecoderHead { matrix: None, bias: &bias, multiplier: 0.5, soft_cap: Some(2.0) },
        });
        for (case, w) in &blocks {
            decoder.push(case.options, &weights(w), case.rope().map(Arc::new));
        }
        let mut ids: Vec<Vec<i32>> = vec![vec![3, 4], vec![1, 5, 7, 20, 22, 9, 8]];
        let mut decoding = decoder.start(2, 16);
        let mut next: Vec<NextTokens> =
            ids.iter().enumerate().map(|(place, ids)| NextTokens { place, ids: ids.clone() }).collect();
        for step in 0..6 {
            let actual = decoding.forward(&next, vec![None; next.len()]);
            for (state, ids) in ids.iter().enumerate() {
                close("logits", &actual.logits(state), &logits(&blocks, [&tokens, &gain, &bias], ids), 2e-5);
            }
            for (NextTokens { place, ids: next }, id) in
                next.iter_mut().zip([(5 * step + 2) % 23, (7 * step + 11) % 23])
            {
                *next = vec![id];
                ids[*place].push(id);
            }
        }
    }
}
