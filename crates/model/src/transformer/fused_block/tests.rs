//! The fused operation of every kind of block, and the decoder, against the composed operations.

use crate::architecture::{
    Architecture, FusedProjections, NormKind, NormPlacement, PositionSpec, QkvLayout, QueryKeyNorm, ResidualOrder,
    RotarySpec,
};
use crate::host_tensor::host;
use crate::transformer::fused_block::FusedContext;
use crate::{Activation, KvCache, Llama, Policy, Tokens, TransformerConfig, weights};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use duel_kernels::NextTokens;
use duel_spec::seeds;

const LENGTH: usize = 9;
const VOCABULARY: usize = 13;

/// A model of three layers, Llama's but for what `change` changes.
fn config(change: impl FnOnce(&mut Architecture)) -> TransformerConfig {
    let llama = Llama { key_value_heads: 2, head_width: 6, inner: 20, rope_theta: 100.0, epsilon: 1e-5 };
    let mut architecture = llama.architecture();
    change(&mut architecture);
    TransformerConfig { vocabulary: VOCABULARY, context: 16, layers: 3, width: 16, heads: 4, tied: true, architecture }
}

/// Its weights, norms and biases too, look random.
fn policy(config: &TransformerConfig, device: &Device) -> Policy {
    let fresh = Policy::new(config, &mut seeds::derive(7, "test", 0, "init"), device);
    let numbers = weights::flatten(&fresh).into_iter().enumerate();
    let flat: Vec<f32> = numbers.map(|(i, w)| w + ((i * 7919) % 101) as f32 * 0.004 - 0.2).collect();
    weights::unflatten(fresh, &flat)
}

/// Three rows, the second padded.
fn tokens(device: &Device) -> Tokens {
    let ids: Vec<i32> = (0..3 * LENGTH as i32).map(|i| (i * i + 3) % VOCABULARY as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [3, LENGTH]), device);
    Tokens::with_left_padding(ids, vec![0, 4, 1])
}

/// The gradients of all parameters, one after another.
fn gradients(policy: &Policy, all: &Gradients) -> Vec<f32> {
    struct FlatGradients<'a> {
        all: &'a Gradients,
        flat: Vec<f32>,
    }
    impl ModuleVisitor for FlatGradients<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.all) {
                self.flat.extend(host(gradient));
            }
        }
    }
    let mut collect = FlatGradients { all, flat: vec![] };
    policy.visit(&mut collect);
    collect.flat
}

fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let size = expected.iter().fold(1e-2f32, |size, x| size.max(x.abs()));
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert!((actual - expected).abs() <= tolerance * size, "{what}, {i}: {actual}, expected {expected}");
    }
}

/// Values and gradients of one read, whose composed operations a cache asks for.
fn check_read(what: &str, policy: &Policy, device: &Device) {
    let read = |cache: Option<&mut KvCache>| {
        let states = policy.body.forward(tokens(device), cache); // [B, L, D]
        // what stands in padded columns means nothing
        let parts =
            [(0, 0), (1, 4), (2, 1)].map(|(row, left)| states.clone().narrow(0, row, 1).narrow(1, left, LENGTH - left));
        let parts = parts.map(|states| states.reshape([-1, 16]));
        let states: Tensor<2> = Tensor::cat(parts.to_vec(), 0);
        let loss = (states.clone() * states.clone().sin()).mean();
        (host(states), gradients(policy, &loss.backward()))
    };
    let context = FusedContext { padding: None, recompute: false };
    let input = Tensor::<3>::ones([1, LENGTH, 16], device);
    for (block, positions) in policy.body.blocks.iter().zip(policy.body.layer_positions(LENGTH)) {
        assert!(block.fused(&input, &context, &positions).is_some(), "{what} is not fused");
    }
    let ((actual, fused), (expected, composed)) = (read(None), read(Some(&mut KvCache::default())));
    assert_close(&format!("states of {what}"), &actual, &expected, 2e-5);
    assert_close(&format!("gradient of {what}"), &fused, &composed, 1e-4);
}

fn check_decoder(what: &str, policy: &Policy, device: &Device) {
    let decoder = policy.decoder().unwrap_or_else(|| panic!("{what} is not decoded"));
    let all = tokens(device);
    let (mut cache, mut decoding) = (KvCache::default(), decoder.start(3, LENGTH));
    for (from, columns) in [(0, 5), (5, 1), (6, 3)] {
        let ids = all.ids.clone().narrow(1, from, columns);
        let left_padding = if from == 0 { all.left_padding.clone() } else { None };
        let rows = ids.clone().into_data().iter::<i32>().collect::<Vec<_>>();
        let next: Vec<NextTokens> = rows
            .chunks_exact(columns)
            .enumerate()
            .map(|(place, row)| {
                let padding = left_padding.as_ref().map_or(0, |padding| padding[place]);
                NextTokens { place, ids: row[padding..].to_vec() }
            })
            .collect();
        let next = decoding.forward(&next, vec![None; next.len()]);
        let actual: Vec<f32> = (0..3).flat_map(|state| next.logits(state)).collect();
        let expected = host(policy.next_logits(Tokens { ids, left_padding }, &mut cache));
        assert_close(&format!("logits of {what}"), &actual, &expected, 2e-5);
    }
}

fn check(what: &str, change: impl FnOnce(&mut Architecture)) {
    let (train, config) = (Device::flex().autodiff(), config(change));
    config.architecture.check().expect("choices that fit");
    let full = policy(&config, &train);
    check_read(what, &full, &train);
    check_decoder(what, &policy(&config, &Device::flex()), &Device::flex());

    // adapters on all projections, and on some
    for part in ["", "q", "mlp"] {
        let mut rng = seeds::derive(8, "test", 0, "lora");
        let adapted = policy(&config, &train).with_fresh_lora(3, 0.5, |name| name.contains(part), &mut rng, &train);
        let numbers = weights::flatten(&adapted).into_iter().enumerate();
        let flat: Vec<f32> = numbers.map(|(i, w)| if w == 0.0 { (i % 13) as f32 * 0.01 - 0.06 } else { w }).collect();
        let adapted = weights::unflatten(adapted, &flat);
        check_read(&format!("{what} with adapters"), &adapted, &train);
        check_decoder(&format!("{what} with adapters"), &adapted.valid(), &Device::flex());
    }
}

fn rotary(architecture: &mut Architecture) -> &mut RotarySpec {
    let PositionSpec::Rotary(rotary) = &mut architecture.positions else { panic!("Llama rotates") };
    rotary
}

#[test]
fn attention() {
    check("nothing changed", |_| {});
    check("a window", |a| a.attention.windows = vec![Some(3), None, Some(1)]);
    check("a scale", |a| a.attention.scale = Some(0.2));
    check("a cap", |a| a.attention.soft_cap = Some(0.7));
    check("norms of heads", |a| a.norm.queries_and_keys = QueryKeyNorm::PerHead);
    check("joint norms", |a| a.norm.queries_and_keys = QueryKeyNorm::Joint);
    check("biases", |a| (a.biases.qkv, a.biases.out) = (true, true));
    check("joint queries, keys and values", |a| a.fused.qkv = Some(QkvLayout::Stacked));
    check("queries, keys and values by head", |a| {
        (a.fused.qkv, a.attention.key_value_heads, a.biases.qkv) = (Some(QkvLayout::PerHead), None, true);
    });
}

#[test]
fn positions() {
    check("some units", |a| rotary(a).fraction = 0.34);
    check("a layer without", |a| rotary(a).skipped_layers = vec![1]);
    check("two bases", |a| {
        (rotary(a).windowed_theta, a.attention.windows) = (Some(10.0), vec![Some(4), None, Some(4)]);
    });
    check("learned", |a| a.positions = PositionSpec::Learned { offset: 2 });
}

#[test]
fn norms() {
    for kind in [NormKind::Layer, NormKind::RmsOnePlus] {
        check("another norm", |a| a.norm.kind = kind);
    }
    for placement in [NormPlacement::After, NormPlacement::Both] {
        check("norms after", |a| a.norm.placement = placement);
    }
    check("Gemma 3's norms", |a| {
        (a.norm.kind, a.norm.placement) = (NormKind::RmsOnePlus, NormPlacement::Both);
        a.norm.queries_and_keys = QueryKeyNorm::PerHead;
    });
}

#[test]
fn mlps_and_residuals() {
    for activation in
        [Activation::GeluTanh, Activation::Gelu, Activation::Relu, Activation::SquaredRelu, Activation::Silu]
    {
        check("another activation", |a| a.mlp.activation = activation);
        check("a plain MLP", |a| (a.mlp.activation, a.mlp.gated, a.biases.mlp) = (activation, false, true));
    }
    check("joint gate and up", |a| a.fused = FusedProjections { qkv: None, gate_up: true });
    check("a multiplier", |a| a.residual.multiplier = 0.3);
    check("both from the input", |a| a.residual.order = ResidualOrder::Parallel);
    check("both from the input through one norm", |a| a.residual.order = ResidualOrder::ParallelSharedNorm);
}

#[test]
fn embeddings_and_logits() {
    check("multipliers and a cap", |a| {
        a.embedding_multiplier = 3.0;
        (a.logits.multiplier, a.logits.soft_cap) = (0.5, Some(0.8));
    });
}
