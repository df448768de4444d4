use crate::host_tensor::host;
use crate::{KvCache, Policy, ResponseReader, Responses, ScalarModel, TransformerConfig, generate, weights};
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use duel_spec::{ScorePooling, TokenSpec, seeds};

fn config(tied: bool) -> TransformerConfig {
    TransformerConfig::small(11, 10, 2, 16, 2, tied)
}

fn space() -> TokenSpec {
    TokenSpec {
        vocabulary: 11,
        pad: 0,
        bos: 1,
        eos: 2,
        other_eos: vec![],
        prompt_tokens: 4,
        response_tokens: 6,
        allowed_tokens: None,
        force_eos: false,
    }
}

fn policy(tied: bool) -> Policy {
    Policy::new(&config(tied), &mut seeds::derive(7, "test", 0, "init"), &Device::flex())
}

fn ids(rows: &[&[i32]]) -> Tensor<2, Int> {
    let shape = [rows.len(), rows[0].len()];
    Tensor::from_data(TensorData::new(rows.concat(), shape), &Device::flex())
}

fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_token_changes_nothing_before_it() {
    for tied in [true, false] {
        let policy = policy(tied);
        let logits = weights::host(policy.logits(ids(&[&[1, 5, 6, 7, 8], &[1, 5, 6, 9, 10]]), 0)); // [2, 5, V]
        let (a, b) = logits.split_at(5 * 11);
        assert_eq!(max_difference(&a[..3 * 11], &b[..3 * 11]), 0.0);
        assert!(max_difference(&a[3 * 11..4 * 11], &b[3 * 11..4 * 11]) > 1e-4);
    }
}

#[test]
fn recomputed_blocks_have_the_same_gradient() {
    let device = Device::flex().autodiff();
    let policy = Policy::new(&config(true), &mut seeds::derive(7, "test", 0, "init"), &device);
    let gradient = |policy: &Policy| {
        let ids = Tensor::<2, Int>::from_data([[1, 5, 6, 7, 8], [1, 5, 6, 9, 10]], &device);
        let gradients = policy.logits(ids, 0).square().mean().backward();
        host(policy.body.tokens.weight.val().grad(&gradients).expect("the loss reaches the embedding"))
    };
    let expected = gradient(&policy);
    assert!(expected.iter().any(|g| *g != 0.0));
    assert_eq!(gradient(&policy.with_recomputed_blocks()), expected);
}

#[test]
fn the_cache_gives_what_reading_anew_gives() {
    let policy = policy(true);
    let full_logits = weights::host(policy.logits(ids(&[&[1, 5, 6, 7, 8], &[1, 3, 3, 9, 4]]), 0)); // [2, 5, V]
    let mut cache = KvCache::default();
    let mut logits = vec![weights::host(policy.next_logits(ids(&[&[1, 5, 6], &[1, 3, 3]]), &mut cache))];
    logits.push(weights::host(policy.next_logits(ids(&[&[7], &[9]]), &mut cache)));
    // the second row alone goes on
    let mut cache = cache.select(&[1]);
    logits.push(weights::host(policy.next_logits(ids(&[&[4]]), &mut cache)));
    let at = |row: usize, token: usize| &full_logits[(row * 5 + token) * 11..(row * 5 + token + 1) * 11];
    assert!(max_difference(&logits[0], &[at(0, 2), at(1, 2)].concat()) < 1e-5);
    assert!(max_difference(&logits[1], &[at(0, 3), at(1, 3)].concat()) < 1e-5);
    assert!(max_difference(&logits[2], at(1, 4)) < 1e-5);
}

#[test]
fn sampling_keeps_the_models_log_probs_and_does_not_depend_on_the_company() {
    let (policy, space) = (policy(true), space());
    let prompts: Vec<Vec<u32>> = (3..9).map(|t| vec![1, t, t + 1, 4]).collect();
    let draw = |prompts: Vec<Vec<u32>>| {
        generate(&policy, &space, prompts, &mut seeds::derive(1, "test", 0, "draw"), &Device::flex())
    };
    let batch = draw(prompts.clone());
    let reader = ResponseReader::new(&space, &Device::flex());
    let logits = reader.logits(&policy, &reader.tokens(&batch)); // [B, T, V]
    let logp = weights::host(activation::log_softmax(logits, 2));
    for (row, response) in batch.responses.iter().enumerate() {
        for (column, &token) in response.iter().enumerate() {
            let read = logp[(row * space.response_tokens + column) * 11 + token as usize];
            assert!((read - batch.logp[row][column]).abs() < 1e-5);
        }
    }
    assert_eq!(draw(prompts[..2].to_vec()).responses, batch.responses[..2].to_vec());
}

#[test]
fn hidden_tokens_are_never_written_and_the_last_column_ends() {
    let policy = policy(true);
    let space = TokenSpec { allowed_tokens: Some(vec![2, 5, 6]), force_eos: true, ..space() };
    let prompts = vec![vec![1, 7, 8, 9]; 64];
    let batch = generate(&policy, &space, prompts, &mut seeds::derive(2, "test", 0, "draw"), &Device::flex());
    for (row, response) in batch.responses.iter().enumerate() {
        assert!(response.iter().all(|t| [2, 5, 6].contains(t)) && batch.ended(row, &space));
    }
    let reader = ResponseReader::new(&space, &Device::flex());
    let logits = weights::host(reader.logits(&policy, &reader.tokens(&batch)));
    let last = (space.response_tokens - 1) * 11;
    assert!(logits[last + 5] < -1e29 && logits[last + 2] > -1e3);
}

/// Another end closes a response as EOS does, and the rows of a batch end independently.
#[test]
fn any_of_several_ends_closes_a_response() {
    let policy = policy(true);
    let space = TokenSpec { other_eos: vec![5, 9], ..space() };
    let prompts = vec![vec![1, 7, 8, 9]; 64];
    let batch = generate(&policy, &space, prompts, &mut seeds::derive(2, "test", 0, "draw"), &Device::flex());
    let mut closing = [0; 11];
    for (row, response) in batch.responses.iter().enumerate() {
        let (last, rest) = response.split_last().expect("it has tokens");
        assert!(rest.iter().all(|id| ![2, 5, 9].contains(id)), "{response:?}");
        assert_eq!(batch.ended(row, &space), [2, 5, 9].contains(last));
        assert!(batch.ended(row, &space) || response.len() == space.response_tokens);
        closing[*last as usize] += 1;
    }
    assert!([2, 5, 9].into_iter().all(|id| closing[id] > 0), "{closing:?}");
}

#[test]
fn weights_go_to_disk_and_back_and_foreign_ones_are_refused() {
    let folder = std::env::temp_dir().join(format!("duel-model-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a writable folder");
    let path = folder.join("policy.safetensors");
    let policy = policy(false);
    weights::save(&policy, &path).expect("a writable folder");
    let other = Policy::new(&config(false), &mut seeds::derive(8, "test", 0, "init"), &Device::flex());
    assert_ne!(weights::hash(&other), weights::hash(&policy));
    assert_eq!(weights::hash(&weights::load(other, &path).expect("a writable folder")), weights::hash(&policy));
    let wide = Policy::new(
        &TransformerConfig::small(11, 10, 2, 32, 2, false),
        &mut seeds::derive(8, "test", 0, "init"),
        &Device::flex(),
    );
    assert!(matches!(weights::load(wide, &path), Err(crate::Error::Shape { .. })));
    std::fs::write(&path, b"not weights").expect("a writable folder");
    assert!(matches!(weights::load(policy, &path), Err(crate::Error::Damaged { .. })));
    std::fs::remove_dir_all(folder).expect("a writable folder");
}

#[test]
fn values_and_scores_stand_on_the_same_columns() {
    let space = space();
    let critic = ScalarModel::from_policy(policy(true), &Device::flex());
    // a head that is not zero, so that the numbers say something
    let flat: Vec<f32> = weights::flatten(&critic).iter().enumerate().map(|(i, w)| w + (i % 7) as f32 * 0.01).collect();
    let critic = weights::unflatten(critic, &flat);
    let reader = ResponseReader::new(&space, &Device::flex());
    let batch = Responses {
        prompts: vec![vec![1, 5, 6, 7]; 2],
        responses: vec![vec![8, 9, 2], vec![8, 2]],
        logp: vec![],
        masks: vec![],
    };
    let all = weights::host(critic.forward(reader.tokens(&batch))); // [2, 10]
    let values = weights::host(reader.values(&critic, &reader.tokens(&batch))); // [2, 6]
    let scores = weights::host(reader.scores(&critic, &batch)); // [2]
    assert_eq!(&values[..3], &all[3..6]); // before tokens 8, 9, EOS
    assert_eq!(scores, vec![all[6], all[10 + 5]]); // on each EOS
    let means = weights::host(reader.scores(&critic.clone().scoring(ScorePooling::Mean), &batch));
    assert!(max_difference(&means, &[(all[4] + all[5] + all[6]) / 3.0, (all[14] + all[15]) / 2.0]) < 1e-6);
    let rescaled = critic.rescaled(1.5, 2.0);
    let again = weights::host(reader.scores(&rescaled.valid(), &batch));
    assert!(max_difference(&again, &[(scores[0] - 1.5) / 2.0, (scores[1] - 1.5) / 2.0]) < 1e-5);
}
