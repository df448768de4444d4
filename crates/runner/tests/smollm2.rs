//! SmolLM2-135M-Instruct, which `scripts/get-data smollm2` fetches: is it read as it was meant? Run these with
//! `cargo test --release --workspace smollm2 -- --ignored`.

#![allow(clippy::unwrap_used)]

use burn::module::Module;
use burn::tensor::Device;
use duel_data::TextTokenizer;
use duel_model::{FrozenNumbers, Policy, Pretrained, ResponseReader, Responses, generate, greedy};
use duel_spec::TokenSpec;
use std::path::PathBuf;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../data").join(name)
}

fn open() -> (Pretrained, TextTokenizer) {
    let model = Pretrained::open(&data("smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let tokenizer = TextTokenizer::from_bytes(model.tokenizer_files.tokenizer.as_ref().unwrap()).unwrap();
    (model, tokenizer)
}

fn space(prompt_tokens: usize, response_tokens: usize) -> TokenSpec {
    let (vocabulary, pad, bos, eos) = (49_152, 0, 1, 2);
    TokenSpec {
        vocabulary,
        pad,
        bos,
        eos,
        other_eos: vec![],
        prompt_tokens,
        response_tokens,
        allowed_tokens: None,
        force_eos: false,
    }
}

fn policy(model: &Pretrained, space: &TokenSpec) -> Policy {
    model.policy(space.context(), &Device::flex()).unwrap()
}

/// The first 128 tokens of some reviews, all but the first of which are the response.
fn film_reviews(tokenizer: &TextTokenizer) -> (TokenSpec, Responses) {
    let thirds = duel_data::reviews::load_thirds(&data("reviews")).unwrap();
    let texts: Vec<&str> = thirds.prompts.iter().step_by(400).take(16).map(|review| review.text.as_str()).collect();
    let mut ids = tokenizer.encode(&texts).unwrap();
    ids.retain(|ids| ids.len() >= 128);
    let space = space(1, 127);
    let (prompts, responses) = ids.iter().map(|ids| (ids[..1].to_vec(), ids[1..128].to_vec())).unzip();
    (space, Responses { prompts, responses, logp: vec![], masks: vec![] })
}

#[test]
#[ignore = "needs scripts/get-data smollm2"]
fn smollm2_goes_on_as_it_should() {
    let (model, tokenizer) = open();
    assert_eq!((model.config.layers, model.config.width, model.config.tied), (30, 576, true));
    assert_eq!((model.tokenizer_files.special.bos, model.tokenizer_files.special.eos), (Some(1), Some(2)));
    assert!(model.tokenizer_files.template.as_ref().unwrap().contains("<|im_start|>"));
    let prompt = tokenizer.encode(&["The capital of France is"]).unwrap().remove(0);
    let space = space(prompt.len(), 8);
    let policy = policy(&model, &space);
    let printed = greedy(&policy, &space, vec![prompt], &Device::flex());
    let text = tokenizer.decode(&printed.responses[0]).unwrap();
    assert!(text.starts_with(" Paris.\n\nThe answer is:"), "{text:?}");
}

#[test]
#[ignore = "needs scripts/get-data smollm2 and scripts/get-data reviews"]
fn smollm2_finds_film_reviews_about_as_likely_as_it_should() {
    let (model, tokenizer) = open();
    let (space, batch) = film_reviews(&tokenizer);
    let reader = ResponseReader::new(&space, &Device::flex());
    let policy = policy(&model, &space);
    let logp = reader.token_logprobs(&policy, &reader.tokens(&batch)).unwrap();
    let nats = -duel_model::weights::host(logp).iter().sum::<f32>() / (127 * batch.len()) as f32;
    assert!((3.7..4.1).contains(&nats), "{nats} nats a token");
}

/// Held-out text of the same model rounded: its loss, and the mean KL of a token's distribution from f32's.
#[test]
#[ignore = "needs scripts/get-data smollm2 and scripts/get-data reviews"]
fn smollm2_rounded_is_nearly_what_it_was() {
    let (model, tokenizer) = open();
    let (space, batch) = film_reviews(&tokenizer);
    let reader = ResponseReader::new(&space, &Device::flex());
    let law = |policy: &Policy| {
        let logits = reader.logits(policy, &reader.tokens(&batch)); // [B, T, V]
        burn::tensor::activation::log_softmax(logits, 2)
    };
    let loss = |policy: &Policy| {
        let logp = reader.token_logprobs(policy, &reader.tokens(&batch)).unwrap();
        f64::from(-duel_model::weights::host(logp).iter().sum::<f32>() / (127 * batch.len()) as f32)
    };
    let whole = policy(&model, &space);
    let (of_whole, loss_of_whole) = (law(&whole), loss(&whole));
    for (numbers, most) in [(FrozenNumbers::Bf16, 2e-3), (FrozenNumbers::Q8, 1e-2)] {
        let rounded = whole.clone().rounded(numbers);
        let kl = (of_whole.clone().exp() * (of_whole.clone() - law(&rounded))).sum();
        let kl = f64::from(duel_model::weights::host(kl)[0]) / (127 * batch.len()) as f64;
        let more = loss(&rounded) - loss_of_whole;
        eprintln!("{numbers:?}: {kl:.2e} nats a token, loss {loss_of_whole:.4} {more:+.4}");
        assert!(kl > 0.0 && kl < most && more.abs() < most.sqrt(), "{numbers:?}: {kl}, {more}");
    }
}

/// The log-probs that the rounded model writes with are those that are read from it.
#[test]
#[ignore = "needs scripts/get-data smollm2"]
fn smollm2_rounded_is_written_as_it_is_read() {
    let (model, tokenizer) = open();
    let texts = ["The capital of France is", "This film was", "Once upon a time there was a"];
    let prompts = tokenizer.encode(&texts).unwrap();
    let space = space(8, 24);
    let device = Device::flex();
    let reader = ResponseReader::new(&space, &device);
    for numbers in [FrozenNumbers::Bf16, FrozenNumbers::Q8] {
        let mut rng = duel_spec::seeds::derive(1, "test", 0, "lora");
        let rounded = policy(&model, &space).no_grad().rounded(numbers);
        let rounded = rounded.with_fresh_lora(16, 2.0, |_| true, &mut rng, &device);
        let mut rng = duel_spec::seeds::derive(1, "test", 0, "draw");
        let written = generate(&rounded, &space, prompts.clone(), &mut rng, &device);
        let read = duel_model::weights::host(reader.token_logprobs(&rounded, &reader.tokens(&written)).unwrap());
        let rows = written.logp.iter().zip(read.chunks_exact(space.response_tokens));
        let apart = rows.flat_map(|(logp, read)| logp.iter().zip(read).map(|(a, b)| (a - b).abs())).fold(0.0, f32::max);
        assert!(apart < 1e-5, "{numbers:?}: {apart}");
    }
}
