//! An update does not depend on how its batch is divided.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{Device, Tensor};
use duel_model::{Policy, Reader, Responses, TransformerConfig, weights};
use duel_objectives::ResponseMask;
use duel_spec::{LearnerSettings, TokenSpec, seeds};
use duel_training::{Error, Learner, invariants, logprobs};
use proptest::prelude::*;

fn space() -> TokenSpec {
    TokenSpec {
        vocabulary: 11,
        pad: 0,
        bos: 1,
        eos: 2,
        other_eos: vec![],
        prompt_tokens: 3,
        response_tokens: 5,
        allowed_tokens: None,
        force_eos: false,
    }
}

fn learner() -> Learner<Policy> {
    let config = TransformerConfig::small(11, 8, 1, 8, 2, true);
    let device = Device::flex().autodiff();
    let policy = Policy::new(&config, &mut seeds::derive(5, "test", 0, "init"), &device);
    // plain descent on a large epsilon: the weights then follow the gradient smoothly
    let settings = LearnerSettings { warmup: 0.0, adam_epsilon: 1.0, ..LearnerSettings::defaults() };
    Learner::new(policy, &settings, 0.1, 10)
}

/// Mean NLL over the counted tokens of some rows, and how many there are.
fn loss(learner: &Learner<Policy>, batch: &Responses) -> (Tensor<1>, f64) {
    let reader = Reader::new(&space(), &Device::flex().autodiff());
    let mask: ResponseMask = logprobs::mask(&reader, batch);
    (mask.mean(logprobs::response_logp(&reader, learner.module(), batch)).neg(), batch.response_tokens() as f64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn parts_of_a_batch_add_up_to_the_whole(
        responses in prop::collection::vec(prop::collection::vec(2..11u32, 1..=5), 8),
        cuts in prop::collection::vec(1..8usize, 0..4),
    ) {
        let batch = Responses { prompts: vec![vec![1, 5, 6]; 8], responses, logp: vec![], masks: vec![] };
        let mut whole = learner();
        let (mean, total) = loss(&whole, &batch);
        let whole_update = whole.minimize(mean).unwrap();

        let mut edges: Vec<usize> = cuts.into_iter().chain([0, 8]).collect();
        edges.sort_unstable();
        edges.dedup();
        let mut parts = learner();
        for edge in edges.windows(2) {
            let (mean, count) = loss(&parts, &batch.select(&(edge[0]..edge[1]).collect::<Vec<_>>()));
            parts.accumulate(mean, count / total).unwrap();
        }
        let parts_update = parts.update().unwrap();
        prop_assert!((whole_update.loss - parts_update.loss).abs() < 1e-5 * whole_update.loss.abs());
        prop_assert!((whole_update.grad_norm - parts_update.grad_norm).abs() < 1e-5 * whole_update.grad_norm);
        let (a, b) = (weights::flatten(whole.module()), weights::flatten(parts.module()));
        prop_assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5 * a.abs().max(0.1)));
    }
}

#[test]
fn parts_that_do_not_add_up_are_refused() {
    let mut learner = learner();
    let batch =
        Responses { prompts: vec![vec![1, 5, 6]; 2], responses: vec![vec![7, 2]; 2], logp: vec![], masks: vec![] };
    let before = weights::flatten(learner.module());
    let (mean, _) = loss(&learner, &batch);
    learner.accumulate(mean, 0.5).unwrap();
    assert!(matches!(learner.update(), Err(Error::Invariant { name: "parts_make_a_whole", .. })));
    assert_eq!(weights::flatten(learner.module()), before);
}

#[test]
fn frozen_parameters_stay_and_adapters_move() {
    let (config, device) = (TransformerConfig::small(11, 8, 1, 8, 2, true), Device::flex().autodiff());
    let mut rng = seeds::derive(5, "test", 0, "init");
    let policy = Policy::new(&config, &mut rng, &device).with_fresh_lora(2, 2.0, |_| true, &mut rng, &device);
    let before = weights::named_params(&policy);
    let settings = LearnerSettings { warmup: 0.0, ..LearnerSettings::defaults() };
    let mut learner = Learner::new(policy, &settings, 0.1, 10);
    assert_eq!(learner.parameters(), 2 * (8 + 24) + 2 * (8 + 8) + 2 * 2 * (8 + 32));
    let batch =
        Responses { prompts: vec![vec![1, 5, 6]; 2], responses: vec![vec![7, 2]; 2], logp: vec![], masks: vec![] };
    for _ in 0..2 {
        let (mean, _) = loss(&learner, &batch);
        learner.minimize(mean).unwrap();
    }
    for (before, after) in before.iter().zip(weights::named_params(learner.module())) {
        assert_eq!(before.name, after.name);
        assert_eq!(before.values != after.values, after.name.contains("lora"), "{}", after.name);
    }
}

/// Responses may end in any of several tokens, of which none may stand before the end.
#[test]
fn several_ends_count_as_one() {
    let batch = |responses: [[u32; 2]; 2]| Responses {
        prompts: vec![vec![1, 5, 6]; 2],
        responses: responses.map(Vec::from).into(),
        logp: vec![],
        masks: vec![],
    };
    let check = |other_eos: Vec<u32>, responses: [[u32; 2]; 2]| {
        let reader = Reader::new(&TokenSpec { other_eos, ..space() }, &Device::flex());
        invariants::eos_counts_and_pad_does_not(1, &reader, &batch(responses))
    };
    check(vec![9], [[7, 9], [7, 2]]).unwrap();
    assert!(check(vec![], [[7, 9], [7, 2]]).is_err(), "9 ends nothing");
    assert!(check(vec![9], [[9, 2], [7, 2]]).is_err(), "it ended before");
}
