//! What a model says of a response does not depend on padding, on the rows beside it, or on how it was read.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{Device, Tensor, activation::log_softmax};
use duel_model::weights::host;
use duel_model::{
    Activation, Gpt2, Llama, Policy, ResponseReader, Responses, ScalarModel, TransformerConfig, generate,
};
use duel_spec::{TokenSpec, seeds};
use proptest::prelude::*;

const P: usize = 4;
const T: usize = 5;

fn config(llama: bool) -> TransformerConfig {
    let architecture = if llama {
        Llama { key_value_heads: 1, head_width: 4, inner: 12, rope_theta: 100.0, epsilon: 1e-5 }.architecture()
    } else {
        Gpt2 { activation: Activation::GeluTanh, inner: 24, epsilon: 1e-5 }.architecture()
    };
    TransformerConfig { vocabulary: 11, context: P + T, layers: 2, width: 8, heads: 2, tied: !llama, architecture }
}

fn policy(llama: bool) -> Policy {
    Policy::new(&config(llama), &mut seeds::derive(3, "test", 0, "init"), &Device::flex())
}

/// A world's sizes, with so many columns for prompts and responses.
fn space(prompt_tokens: usize, response_tokens: usize) -> TokenSpec {
    TokenSpec {
        vocabulary: 11,
        pad: 0,
        bos: 1,
        eos: 2,
        other_eos: vec![],
        prompt_tokens,
        response_tokens,
        allowed_tokens: None,
        force_eos: false,
    }
}

/// Prompts and responses of every length from 1 to the most.
fn batch() -> impl Strategy<Value = Responses> {
    let tokens = |most: usize| prop::collection::vec(2..11u32, 1..=most);
    prop::collection::vec((tokens(P), tokens(T)), 1..5).prop_map(|rows| {
        let (prompts, responses) = rows.into_iter().unzip();
        Responses { prompts, responses, logp: vec![], masks: vec![] }
    })
}

/// Log-probs of the counted tokens, row by row.
fn logp(policy: &Policy, space: &TokenSpec, batch: &Responses) -> Vec<Vec<f32>> {
    let reader = ResponseReader::new(space, &Device::flex());
    let tokens = reader.tokens(batch);
    let all = log_softmax(reader.logits(policy, &tokens), 2);
    let picked: Tensor<2> = all.gather(2, reader.targets(&tokens).unsqueeze_dim::<3>(2)).squeeze_dim::<2>(2);
    let picked = host(picked);
    batch.responses.iter().enumerate().map(|(i, r)| picked[i * space.response_tokens..][..r.len()].to_vec()).collect()
}

fn close(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn padding_on_either_side_is_inert(batch in batch(), llama: bool, left in 0..3usize, right in 0..3usize) {
        let policy = policy(llama);
        let plain = logp(&policy, &space(P, T), &batch);
        prop_assert!(close(&plain, &logp(&policy, &space(P + left, T), &batch)));
        let longest = batch.responses.iter().map(Vec::len).max().unwrap();
        prop_assert!(close(&plain, &logp(&policy, &space(P, (longest + right).min(T)), &batch)));
    }

    #[test]
    fn rows_do_not_see_each_other(batch in batch(), llama: bool, turn in 0..5usize) {
        let policy = policy(llama);
        let mut plain = logp(&policy, &space(P, T), &batch);
        let mut order: Vec<usize> = (0..batch.len()).collect();
        order.rotate_left(turn % batch.len());
        plain.rotate_left(turn % batch.len());
        prop_assert!(close(&plain, &logp(&policy, &space(P, T), &batch.select(&order))));
        for (row, expected) in order.iter().zip(&plain) {
            let alone = logp(&policy, &space(P, T), &batch.select(&[*row]));
            prop_assert!(close(std::slice::from_ref(expected), &alone));
        }
    }

    #[test]
    fn what_was_sampled_is_what_is_read(batch in batch(), llama: bool, seed in 0..1000u64) {
        let policy = policy(llama);
        let mut rng = seeds::derive(seed, "test", 0, "draw");
        let drawn = generate(&policy, &space(P, T), batch.prompts, &mut rng, &Device::flex());
        prop_assert!(close(&drawn.logp, &logp(&policy, &space(P, T), &drawn)));
    }

    #[test]
    fn scores_stand_on_the_last_counted_token(batch in batch(), llama: bool) {
        let head = (0..8).map(|i| i as f32 - 3.0).collect();
        let model = ScalarModel::with_head(policy(llama), head, &Device::flex());
        let all = ResponseReader::new(&space(P, T), &Device::flex()).scores(&model, &batch);
        let one = |row: usize| {
            let (prompt, response) = (batch.prompts[row].len(), batch.responses[row].len());
            host(ResponseReader::new(&space(prompt, response), &Device::flex()).scores(&model, &batch.select(&[row])))[0]
        };
        for (row, score) in host(all).into_iter().enumerate() {
            prop_assert!((score - one(row)).abs() < 1e-4);
        }
    }

    #[test]
    fn an_empty_response_breaks_nothing(mut batch in batch(), llama: bool) {
        batch.responses[0].clear();
        let policy = policy(llama);
        let all = logp(&policy, &space(P, T), &batch);
        prop_assert!(all[0].is_empty() && all.iter().flatten().all(|x| x.is_finite()));
    }
}
