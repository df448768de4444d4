//! Small models whose matrices are not trained, and what is read from them and trained on them.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use duel_model::{
    Activation, Architecture, AttentionSpec, FusedProjections, Gpt2, Llama, Policy, PositionSpec, QkvLayout,
    ResponseReader, Responses, RotarySpec, TransformerConfig, weights,
};
use duel_spec::{TokenSpec, seeds};

pub const SPACE: TokenSpec = TokenSpec {
    vocabulary: 40,
    pad: 0,
    bos: 1,
    eos: 2,
    other_eos: vec![],
    prompt_tokens: 4,
    response_tokens: 6,
    allowed_tokens: None,
    force_eos: false,
};

pub fn llama() -> Architecture {
    Llama { key_value_heads: 2, head_width: 16, inner: 96, rope_theta: 1e4, epsilon: 1e-5 }.architecture()
}

/// Queries, keys and values of a head stand together, and there are biases and layer norms.
pub fn gpt_neox() -> Architecture {
    let gpt2 = Gpt2 { activation: Activation::Gelu, inner: 96, epsilon: 1e-5 }.architecture();
    Architecture {
        family: "gpt_neox",
        positions: PositionSpec::Rotary(RotarySpec::plain(1e4)),
        attention: AttentionSpec { head_width: Some(16), ..AttentionSpec::default() },
        fused: FusedProjections { qkv: Some(QkvLayout::PerHead), gate_up: false },
        ..gpt2
    }
}

pub fn gpt2() -> Architecture {
    Gpt2 { activation: Activation::GeluTanh, inner: 96, epsilon: 1e-5 }.architecture()
}

/// A model of two layers.
pub fn config(architecture: Architecture, tied: bool) -> TransformerConfig {
    TransformerConfig { vocabulary: 40, context: 16, layers: 2, width: 64, heads: 4, tied, architecture }
}

/// Under adapters that change something.
pub fn adapted(policy: Policy, device: &Device) -> Policy {
    let mut rng = seeds::derive(3, "test", 0, "lora");
    policy.with_fresh_lora(4, 2.0, |_| true, &mut rng, device).map_projections(|_, mut projection| {
        if let Some(lora) = &mut projection.lora {
            let [rank, outputs] = lora.b.dims();
            let values: Vec<f32> = (0..rank * outputs).map(|i| (i % 7) as f32 * 0.01 - 0.03).collect();
            lora.b = Param::from_tensor(Tensor::from_data(TensorData::new(values, [rank, outputs]), device));
        }
        projection
    })
}

pub fn batch() -> Responses {
    let responses = vec![vec![9, 4, 33, 21, 8, 2], vec![6, 30, 2]];
    Responses { prompts: vec![vec![5, 17], vec![5, 11, 12, 38]], responses, logp: vec![], masks: vec![] }
}

/// Gradients of all that is trained, of the sum of the responses' log-probs.
pub fn gradient(policy: Policy) -> Vec<f32> {
    struct Collect<'a>(&'a burn::tensor::Gradients, Vec<f32>);
    impl ModuleVisitor for Collect<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.0) {
                self.1.extend(weights::host(gradient));
            }
        }
    }
    let reader = ResponseReader::new(&SPACE, &Device::flex().autodiff());
    let gradients = reader.token_logprobs(&policy, &reader.tokens(&batch())).unwrap().sum().backward();
    let mut collect = Collect(&gradients, vec![]);
    policy.visit(&mut collect);
    collect.1
}
