//! Each invariant fires on what violates it, and only on that.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_data::grammar::GrammarWorld;
use duel_data::{Prompt, PromptResponse, World};
use duel_model::Responses;
use duel_spec::{Split, TokenSpec, seeds::Rng};
use duel_training::invariants::{
    Tolerance, check_close, frozen_weights_unchanged, largest, parts_make_a_whole, planned_updates_are_made,
    sampled_from_finite, splits_are_disjoint, what_rests_stays, zero_rate_moves_nothing,
};
use duel_training::{Error, Result};

/// The message of a violated invariant.
fn violation(result: Result<()>) -> String {
    match result {
        Err(error @ Error::Invariant { .. }) => error.to_string(),
        other => panic!("no violation: {other:?}"),
    }
}

/// What is not finite, its value and the step.
fn divergence(result: Result<()>) -> (String, f64, u64) {
    match result {
        Err(Error::Diverged { step, what, value, .. }) => (what, value, step),
        other => panic!("no divergence: {other:?}"),
    }
}

#[test]
fn a_tolerance_is_a_share_of_its_scale_bound_included() {
    let of_norm = Tolerance { share: 0.125, of: "the norm", scale: 4.0 };
    let check = |actual, within| check_close("sums_agree", 3, "the sum", actual, 1.0, within);
    for (within, bound) in [(of_norm, 0.5), (Tolerance::absolute(0.25), 0.25), (Tolerance::EXACTLY, 0.0)] {
        for sign in [-1.0, 1.0] {
            check(1.0 + sign * bound, within).unwrap();
            violation(check(1.0 + sign * (bound + 1e-9), within));
        }
    }
    for (within, expected) in [
        (of_norm, "within 1.25e-1 of the norm, which is 4"),
        (Tolerance::absolute(0.25), "within 2.5e-1"),
        (Tolerance::EXACTLY, "exactly"),
    ] {
        let expected = format!("invariant `sums_agree` failed at step 3: the sum is 2, expected 1 {expected}");
        assert_eq!(violation(check(2.0, within)), expected);
    }
}

#[test]
fn numbers_that_are_not_finite_are_a_divergence() {
    let check = |actual, expected, scale| {
        let within = Tolerance { share: 1.0, of: "the norm", scale };
        check_close("sums_agree", 3, "the sum", actual, expected, within)
    };
    for value in [f64::INFINITY, f64::NEG_INFINITY] {
        assert_eq!(divergence(check(value, 0.0, 1.0)), ("the sum".into(), value, 3));
        assert_eq!(divergence(check(0.0, value, 1.0)), ("the sum".into(), value, 3));
        assert_eq!(divergence(check(0.0, 0.0, value)), ("the norm".into(), value, 3));
    }
    assert!(divergence(check(f64::NAN, 0.0, 1.0)).1.is_nan());

    let sampled = |logp: [f32; 3]| Responses { logp: vec![vec![-1.0], logp.to_vec()], ..Responses::default() };
    sampled_from_finite(5, &sampled([-1.0, 0.0, f32::MIN])).unwrap();
    let (what, value, step) = divergence(sampled_from_finite(5, &sampled([-1.0, f32::NEG_INFINITY, -2.0])));
    assert_eq!((what.as_str(), value, step), ("the log-prob of a sampled token", f64::NEG_INFINITY, 5));
    assert!(divergence(sampled_from_finite(5, &sampled([-1.0, -2.0, f32::NAN]))).1.is_nan());
}

#[test]
fn the_largest_of_magnitudes_is_nan_if_any_is() {
    assert_eq!(largest([].into_iter()), 0.0);
    assert_eq!(largest([1.0, 3.0, 2.0].into_iter()), 3.0);
    for magnitudes in [[f32::NAN, 1.0], [1.0, f32::NAN]] {
        assert!(largest(magnitudes.into_iter()).is_nan());
    }
}

#[test]
fn a_step_at_rate_0_has_norm_0() {
    zero_rate_moves_nothing(0, 0.0).unwrap();
    let message = violation(zero_rate_moves_nothing(4, 1e-300));
    assert!(message.starts_with("invariant `zero_rate_moves_nothing` failed at step 4: "), "{message}");
}

#[test]
fn weights_that_rest_keep_their_bits_and_their_number() {
    let check = |after: &[f32]| what_rests_stays(2, "the critic", &[0.0, 1.0, f32::NAN], after);
    check(&[0.0, 1.0, f32::NAN]).unwrap();
    let message = violation(check(&[-0.0, 1.0 + f32::EPSILON, f32::NAN]));
    let expected = "invariant `what_rests_stays` failed at step 2: the weights of the critic that moved while it rests is 2, expected 0";
    assert_eq!(message, expected);
    violation(check(&[0.0, 1.0]));
    violation(check(&[0.0, 1.0, f32::NAN, 2.0]));
}

#[test]
fn updates_made_and_left_out_are_those_planned() {
    for (made, skipped) in [(6, 0), (4, 2), (0, 6)] {
        planned_updates_are_made(1, made, skipped, 6).unwrap();
    }
    let message = violation(planned_updates_are_made(1, 4, 1, 6));
    assert!(message.ends_with("the updates on a rollout is 4 made and 1 left out, expected 6 in all"), "{message}");
    violation(planned_updates_are_made(1, 7, 0, 6));
}

#[test]
fn shares_of_parts_add_up_to_1() {
    for error in [0.0, 0.9e-6, -0.9e-6] {
        parts_make_a_whole(1, 1.0 + error).unwrap();
    }
    for error in [1.1e-6, -1.1e-6] {
        violation(parts_make_a_whole(1, 1.0 + error));
    }
}

#[test]
fn a_frozen_model_has_the_same_hash() {
    frozen_weights_unchanged("the reference", 9, "0a", "0a").unwrap();
    let expected =
        "invariant `frozen_weights_unchanged` failed at step 9: the hash of the reference is 0b, expected 0a";
    assert_eq!(violation(frozen_weights_unchanged("the reference", 9, "0a", "0b")), expected);
}

/// The grammar with one more prompt in a split.
struct OneMorePrompt {
    grammar: GrammarWorld,
    split: Split,
    prompts: Vec<Prompt>,
}

impl World for OneMorePrompt {
    fn space(&self) -> &TokenSpec {
        self.grammar.space()
    }
    fn prompts(&self, split: Split) -> &[Prompt] {
        if split == self.split { &self.prompts } else { self.grammar.prompts(split) }
    }
    fn sft_rows(&self, rng: &mut Rng) -> Vec<PromptResponse> {
        self.grammar.sft_rows(rng)
    }
    fn heldout_rows(&self, rng: &mut Rng) -> Vec<PromptResponse> {
        self.grammar.heldout_rows(rng)
    }
    fn allowed_in_pairs(&self, response: &[u32]) -> bool {
        self.grammar.allowed_in_pairs(response)
    }
    fn read_prompt(&self, text: &str) -> duel_data::Result<Prompt> {
        self.grammar.read_prompt(text)
    }
    fn render(&self, prompt: &Prompt, response: &[u32]) -> duel_data::Result<String> {
        self.grammar.render(prompt, response)
    }
}

#[test]
fn a_prompt_in_two_splits_is_reported() {
    let world = |split: Split, ids: Vec<u32>| {
        let grammar = GrammarWorld::new(0.02, 1);
        let prompt = Prompt { index: 99, split, ids, text: String::new() };
        let prompts = grammar.prompts(split).iter().cloned().chain([prompt]).collect();
        OneMorePrompt { grammar, split, prompts }
    };
    let prompts = |split| GrammarWorld::new(0.02, 1).prompts(split).to_vec();
    let all = Split::ALL;
    for split in all {
        splits_are_disjoint(&world(split, vec![1, 99])).unwrap();
        for other in all.into_iter().filter(|other| *other != split) {
            let ids = prompts(other).pop().unwrap().ids;
            let later = split.max(other).name();
            let message = violation(splits_are_disjoint(&world(split, ids.clone())));
            let expected = format!("a prompt of the {later} split is {ids:?}, expected in one split only");
            assert!(message.ends_with(&expected), "{message}");
        }
    }
}
