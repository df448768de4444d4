//! An update does not depend on how its batch is divided.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use duel_model::{Policy, ResponseReader, Responses, TransformerConfig, weights};
use duel_objectives::ResponseMask;
use duel_spec::{LearnerSettings, LossMask, TokenSpec, seeds};
use duel_training::sft::Sft;
use duel_training::{Error, Learner, Method, invariants, logprobs};
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
    let config = TransformerConfig::small(11, 12, 1, 8, 2, true);
    let device = Device::flex().autodiff();
    let policy = Policy::new(&config, &mut seeds::derive(5, "test", 0, "init"), &device);
    // plain descent on a large epsilon: the weights then follow the gradient smoothly
    let settings = LearnerSettings { warmup: 0.0, adam_epsilon: 1.0, ..LearnerSettings::defaults() };
    Learner::new(policy, &settings, 0.1, 10)
}

/// Mean NLL over the counted tokens of some rows, and how many there are.
fn loss(learner: &Learner<Policy>, batch: &Responses) -> (Tensor<1>, f64) {
    let reader = ResponseReader::new(&space(), &Device::flex().autodiff());
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
        let reader = ResponseReader::new(&TokenSpec { other_eos, ..space() }, &Device::flex());
        invariants::eos_counts_and_pad_does_not(1, &reader, &batch(responses))
    };
    check(vec![9], [[7, 9], [7, 2]]).unwrap();
    assert!(check(vec![], [[7, 9], [7, 2]]).is_err(), "9 ends nothing");
    assert!(check(vec![9], [[9, 2], [7, 2]]).is_err(), "it ended before");
}

/// Two turns `7 2` and `4 2` with context between them that holds EOS and PAD.
fn two_turns() -> Responses {
    Responses {
        prompts: vec![vec![1, 5, 6], vec![1, 8]],
        responses: vec![vec![7, 2, 0, 4, 2], vec![7, 2]],
        logp: vec![],
        masks: vec![LossMask::new([[0, 2], [3, 5]], 5), None],
    }
}

/// The log-prob of turns is the sum of each turn's, given all before it; and so is the loss and its gradient.
#[test]
fn turns_are_learned_given_all_before_them() {
    let reader = ResponseReader::new(&space(), &Device::flex());
    let apart = Responses {
        prompts: vec![vec![1, 5, 6], vec![1, 5, 6, 7, 2, 0], vec![1, 8]],
        responses: vec![vec![7, 2], vec![4, 2], vec![7, 2]],
        ..Responses::default()
    };
    let batch = two_turns();
    assert_eq!((batch.lengths(), batch.response_tokens(), batch.token_count()), (vec![4, 2], 6, 12));
    assert_eq!(batch.select(&[1, 0]).masks, [None, batch.masks[0].clone()]);
    assert!(batch.select(&[1]).masks.is_empty());
    let policy = || learner().into_module();
    let read = |batch: &Responses| logprobs::sequence_logp(&reader, &policy().valid(), batch);
    let (together, apart_logp) = (read(&batch), read(&apart));
    assert!((together[0] - apart_logp[0] - apart_logp[1]).abs() < 1e-5, "{together:?} {apart_logp:?}");
    assert!((together[1] - apart_logp[2]).abs() < 1e-5);
    let nll = |batch: &Responses| logprobs::heldout_nll(&reader, &policy().valid(), batch).0;
    assert!((nll(&batch) - nll(&apart)).abs() < 1e-6, "per counted token");

    let updated = |batch: &Responses| {
        let mut learner = learner();
        let (mean, _) = loss(&learner, batch);
        let update = learner.minimize(mean).unwrap();
        (update.loss, weights::flatten(learner.module()))
    };
    let ((loss_together, together), (loss_apart, apart)) = (updated(&batch), updated(&apart));
    assert!((loss_together - loss_apart).abs() < 1e-6);
    assert!(together.iter().zip(&apart).all(|(a, b)| (a - b).abs() < 1e-6));
    // what stands between turns matters as context alone: the first turn's log-prob stays
    let mut other = two_turns();
    other.responses[0][2] = 9;
    other.masks[0] = LossMask::new([[0, 2]], 5);
    let first = |batch: &Responses| read(batch)[0];
    assert!((first(&other) - apart_logp[0]).abs() < 1e-6);
}

#[test]
fn a_turn_counts_up_to_its_first_end() {
    let reader = ResponseReader::new(&space(), &Device::flex());
    let check = |batch: &Responses| invariants::eos_counts_and_pad_does_not(1, &reader, batch);
    check(&two_turns()).unwrap();
    let with_spans =
        |spans: &[[usize; 2]]| Responses { masks: vec![LossMask::new(spans.iter().copied(), 5), None], ..two_turns() };
    for (spans, problem) in [
        (&[[0, 3], [3, 5]][..], "PAD, and a token behind the first end"),
        (&[[1, 5]], "the same"),
        (&[], "none counts"),
        (&[[0, 5]], "no mask"),
    ] {
        assert!(check(&with_spans(spans)).is_err(), "{problem}");
    }
    let mut open = two_turns();
    open.responses[0].pop();
    open.masks[0] = LossMask::new([[0, 2], [3, 4]], 4);
    assert!(check(&open).is_err(), "it neither ends nor fills the row");
}

#[test]
fn sft_counts_turns_of_the_assistant() {
    let device = Device::flex().autodiff();
    let config = TransformerConfig::small(11, 12, 1, 8, 2, true);
    let policy = Policy::new(&config, &mut seeds::derive(5, "test", 0, "init"), &device);
    let mut learner = Learner::new(policy, &LearnerSettings::defaults(), 1e-3, 10);
    // the checks of its first step compare the loss with one worked out by hand
    let metrics =
        Sft::new(ResponseReader::new(&space(), &device), &config).iteration(&two_turns(), &mut learner).unwrap();
    assert_eq!(metrics.cost.trained_tokens, 12, "context is read");
}
