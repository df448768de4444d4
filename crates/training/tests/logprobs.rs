//! Log-probs and losses of a policy whose log-probs have a closed form, and the blocks that bound memory.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::Device;
use duel_model::{ResponseReader, Responses, TransformerConfig};
use duel_spec::{LearnerSettings, LossMask, TokenSpec};
use duel_testing_tensors::{trajectory, unigram::unigram};
use duel_training::sft::{RunningText, Sft};
use duel_training::{Error, Learner, Method, logprobs};

const LOGITS: [f32; 6] = [0.0, -4.0, 1.0, 2.0, 3.0, 0.5];

/// Log-softmax of the logits.
fn logp(id: u32) -> f64 {
    let sum: f64 = LOGITS.iter().map(|&logit| f64::from(logit).exp()).sum();
    f64::from(LOGITS[id as usize]) - sum.ln()
}

fn space() -> TokenSpec {
    trajectory::space(6, [0, 2], 3, 5)
}

/// A response of two turns with context between them, and one that counts as a whole.
fn batch() -> Responses {
    Responses {
        prompts: vec![vec![1, 3, 4], vec![1, 5]],
        responses: vec![vec![4, 2, 3, 5, 2], vec![3, 2]],
        logp: vec![],
        masks: vec![LossMask::new([[0, 2], [3, 5]], 5), None],
    }
}

fn config() -> TransformerConfig {
    TransformerConfig::small(6, 12, 1, 8, 2, false)
}

fn learner() -> Learner<duel_model::Policy> {
    let settings = LearnerSettings { warmup: 0.0, ..LearnerSettings::defaults() };
    Learner::new(unigram(&LOGITS, 12, &Device::flex().autodiff()), &settings, 1e-3, 10)
}

#[test]
fn losses_are_means_per_counted_token_and_per_response() {
    let device = Device::flex();
    let (reader, policy) = (ResponseReader::new(&space(), &device), unigram(&LOGITS, 12, &device));
    let rows = [logp(4) + logp(2) + logp(5) + logp(2), logp(3) + logp(2)];
    let actual = logprobs::sequence_logp(&reader, &policy, &batch());
    assert!(
        actual.iter().zip(rows).all(|(actual, expected)| (f64::from(*actual) - expected).abs() < 1e-5),
        "{actual:?}"
    );
    let nll = -rows[0] - rows[1];
    let (per_token, per_response) = logprobs::heldout_nll(&reader, &policy, &batch());
    assert!((per_token - nll / 6.0).abs() < 1e-6, "{per_token}");
    assert!((per_response - nll / 2.0).abs() < 1e-5, "{per_response}");

    let reader = ResponseReader::new(&space(), &Device::flex().autodiff());
    let metrics = Sft::new(reader, &config()).iteration(&batch(), &mut learner()).unwrap();
    let loss = metrics.values.iter().find(|(metric, _)| metric.name == "loss").unwrap().1;
    assert!((loss - nll / 6.0).abs() < 1e-6, "{loss}");
}

#[test]
fn running_text_is_learned_from_its_second_token_on() {
    let windows = vec![vec![1, 3, 4], vec![5, 5, 2], vec![0, 2, 2]];
    let expected = -[3, 4, 5, 2, 2, 2].map(logp).iter().sum::<f64>() / 6.0;
    for accumulate in [1, 2] {
        let settings = LearnerSettings { accumulate, ..LearnerSettings::defaults() };
        let device = Device::flex().autodiff();
        let mut learner = Learner::new(unigram(&LOGITS, 12, &device), &settings, 1e-3, 10);
        let mut method = RunningText::new(ResponseReader::new(&space(), &device), &config());
        let metrics = method.iteration(&windows, &mut learner).unwrap();
        let loss = metrics.values.iter().find(|(metric, _)| metric.name == "loss").unwrap().1;
        assert!((loss - expected).abs() < 1e-6, "{loss}, {expected}");
        assert_eq!(metrics.cost.trained_tokens, 6);
        assert!(RunningText::prompts(&windows).is_empty());
        assert!(metrics.check_seconds > 0.0);
        assert_eq!(method.iteration(&windows, &mut learner).unwrap().check_seconds, 0.0, "once");
    }
}

#[test]
fn the_first_batch_of_sft_is_checked() {
    let open = Responses { responses: vec![vec![3], vec![4]], masks: vec![], ..batch() };
    let reader = ResponseReader::new(&space(), &Device::flex().autodiff());
    let (mut sft, mut learner) = (Sft::new(reader, &config()), learner());
    match sft.iteration(&open, &mut learner) {
        Err(Error::Invariant { name: "eos_counts_and_pad_does_not", step: 0, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert!(sft.iteration(&batch(), &mut learner).unwrap().check_seconds > 0.0);
    assert_eq!(sft.iteration(&batch(), &mut learner).unwrap().check_seconds, 0.0);
    assert_eq!(Sft::prompts(&batch()), batch().prompt_hashes());
}

#[test]
fn blocks_hold_as_many_rows_as_their_limit() {
    let rows = |n: u32| Responses {
        prompts: (0..n).map(|row| vec![1, row]).collect(),
        responses: vec![vec![2]; n as usize],
        ..Responses::default()
    };
    let sizes = |blocks: &[Responses]| blocks.iter().map(Responses::len).collect::<Vec<_>>();
    let cut = |n, elements, limit| logprobs::blocks(&rows(n), elements, limit).collect::<Vec<_>>();
    let blocks = cut(5, 3, 7);
    assert_eq!(sizes(&blocks), [2, 2, 1]);
    let prompts: Vec<Vec<u32>> = blocks.into_iter().flat_map(|block| block.prompts).collect();
    assert_eq!(prompts, rows(5).prompts);
    assert_eq!(sizes(&cut(3, 10, 7)), [1, 1, 1], "at least one");
    assert_eq!(sizes(&cut(300, 1, 1 << 20)), [256, 44], "at most 256");
    assert_eq!(sizes(&cut(2, 0, 7)), [2]);

    // 2²⁴ logits at T = 2¹⁰ and V = 2¹²
    let reader = ResponseReader::new(&trajectory::space(1 << 12, [0, 2], 4, 1 << 10), &Device::flex());
    let blocks: Vec<Responses> = logprobs::blocks_of_logits(&reader, &rows(10)).collect();
    assert_eq!(sizes(&blocks), [4, 4, 2]);
}
