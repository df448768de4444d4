//! Both evaluators against each other and against plain sums, on the world `grammar`, which has both.

use crate::{
    CompletionTag, EvalKind, EvalResult, Evaluator, ExactEvaluator, PairwiseEvaluation, ResponseDistribution, Result,
    SampleSize, SampledEvaluator, completions,
};
use crate::{distributions, proxy_table};
use burn::tensor::Device;
use duel_data::grammar::{GrammarWorld, PromptCoordinates, all_responses, excited_proxy, gold};
use duel_data::{Detokenize, World};
use duel_model::{Policy, ResponseReader, Responses, TransformerConfig, generate, weights};
use duel_reward::{GrammarGold, JudgedPair, PairJudge, PairScorer, Scorer};
use duel_spec::metrics::{self, Metric};
use duel_spec::seeds::{self, Stream};
use duel_spec::{Clocks, Completion, JudgedText, OutcomeRow, Recorder, Split, ids::prompt_hash};
use duel_training::logprobs;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// A proxy reward that differs from gold.
struct ExclamationProxy;

impl Scorer for ExclamationProxy {
    fn score(&self, batch: &Responses) -> duel_reward::Result<Vec<f64>> {
        let rows = batch.prompts.iter().zip(&batch.responses);
        Ok(rows.map(|(prompt, response)| excited_proxy(PromptCoordinates::from_prompt(prompt), response)).collect())
    }
}

/// A peaked policy and its flat reference, so that KL differs by direction, and their evaluators.
struct FarPolicies {
    world: Arc<GrammarWorld>,
    reader: ResponseReader,
    policy: Policy,
    reference: Policy,
}

/// Factor of the policy's weights: logits grow as its square.
const SHARPENING: f32 = 2.0;

impl FarPolicies {
    fn new() -> Self {
        let world = Arc::new(GrammarWorld::new(0.02, 1));
        let space = world.space();
        let config = TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true);
        let policy = |seed| Policy::new(&config, &mut seeds::derive(seed, "test", 0, "init"), &Device::flex());
        let sharpened: Vec<f32> = weights::flatten(&policy(0)).iter().map(|w| SHARPENING * w).collect();
        let [policy, reference] = [weights::unflatten(policy(0), &sharpened), policy(1)];
        Self { reader: ResponseReader::new(space, &Device::flex()), policy, reference, world }
    }

    fn prompts(&self, split: Split) -> Vec<Vec<u32>> {
        self.world.prompts(split).iter().map(|prompt| prompt.ids.clone()).collect()
    }

    fn exact(&self) -> ExactEvaluator {
        let table = |split| {
            proxy_table(&ExclamationProxy, &self.prompts(split), self.world.space().eos).expect("it scores all")
        };
        ExactEvaluator::new(&self.world, self.reader.clone(), &self.reference, Some(&table))
    }

    fn sampled(&self) -> SampledEvaluator {
        let (world, reader, reference) = (self.world.clone(), self.reader.clone(), self.reference.clone());
        SampledEvaluator::new(world, reader, reference, Arc::new(GrammarGold), Some(Arc::new(ExclamationProxy)), 5)
    }
}

/// Metrics of a policy on a split by plain sums over all responses.
struct NaiveScore {
    /// Metric, value, and the standard deviation over responses.
    values: Vec<(Metric, f64, f64)>,
    /// KL(reference || policy), which no metric is.
    reverse_kl: f64,
}

fn plain(setup: &FarPolicies, split: Split) -> NaiveScore {
    let prompts = setup.prompts(split);
    let [policy, reference] =
        [&setup.policy, &setup.reference].map(|policy| distributions(policy, &setup.reader, &prompts));
    let all = all_responses();
    let (mut sums, mut squares) = ([0.0; 7], [0.0; 7]);
    let (mut wins, mut ties, mut reverse_kl) = (0.0, 0.0, 0.0);
    for ((prompt, ResponseDistribution { logp: policy, .. }), ResponseDistribution { logp: reference, .. }) in
        prompts.iter().zip(&policy).zip(&reference)
    {
        let task = PromptCoordinates::from_prompt(prompt);
        let golds: Vec<f64> = all.iter().map(|response| gold(task, response)).collect();
        for (y, response) in all.iter().enumerate() {
            let p = policy[y].exp() / prompts.len() as f64;
            let tokens = response.len() as f64 + 1.0;
            let (log_ratio, proxy) = (policy[y] - reference[y], excited_proxy(task, response));
            let terms = [golds[y], proxy, log_ratio, -policy[y], tokens, -reference[y], 1.0];
            for (i, x) in terms.into_iter().enumerate() {
                sums[i] += p * x;
                squares[i] += p * x * x;
            }
            reverse_kl -= reference[y].exp() * log_ratio / prompts.len() as f64;
            for (z, other_gold) in golds.iter().enumerate() {
                let joint = p * reference[z].exp();
                match golds[y] - other_gold {
                    gap if gap.abs() <= 1e-9 => ties += joint,
                    gap if gap > 0.0 => wins += joint,
                    _ => {}
                }
            }
        }
    }
    assert!((sums[6] - 1.0).abs() < 1e-6);
    let sd = |i: usize| f64::sqrt(squares[i] - sums[i] * sums[i]);
    let values = vec![
        (metrics::GOLD, sums[0], sd(0)),
        (metrics::GOLD_SD, sd(0), 2.0 * sd(0)), // of a standard deviation, for distributions without heavy tails
        (metrics::PROXY, sums[1], sd(1)),
        (metrics::KL, sums[2], sd(2)),
        (metrics::KL_K1, sums[2], sd(2)),
        (metrics::ENTROPY, sums[3], sd(3)),
        (metrics::LENGTH, sums[4], sd(4)),
        (metrics::PERPLEXITY_REFERENCE, sums[5] / sums[4], 2.0 * sd(5) / sums[4]), // of a quotient
        (metrics::WIN_RATE, wins + ties / 2.0, 0.5),
        (metrics::TIE_RATE, ties, 0.5),
    ];
    NaiveScore { values, reverse_kl }
}

fn value(result: &EvalResult, metric: Metric) -> f64 {
    result.get(metric).unwrap_or_else(|| panic!("no {metric}"))
}

/// Every metric of both evaluators is the plain sum over responses: exactly, and within five standard errors. KL in the other
/// direction, the reference in place of the policy, or one split in place of the other would be further off.
#[test]
fn both_evaluators_give_the_plain_sums() -> Result<()> {
    let setup = FarPolicies::new();
    let (exact, evaluator) = (setup.exact().measure(&setup.policy, None)?, setup.sampled());
    let size = SampleSize { prompts: 6, samples_per_prompt: 2048 };
    let errors = |sd: f64| 5.0 * sd / f64::from(6 * 2048).sqrt();
    let mut kls = vec![];
    for (exact, split) in exact.iter().zip([Split::Validation, Split::Test]) {
        let NaiveScore { values, reverse_kl } = plain(&setup, split);
        let sampled = evaluator.measure(&setup.policy, split, size, None, &mut || ())?;
        assert_eq!([exact.split, sampled.split], [split; 2]);
        let hashes = |prompts: &[u64]| prompts.iter().copied().collect::<BTreeSet<u64>>();
        let expected: BTreeSet<u64> = setup.prompts(split).iter().map(|prompt| prompt_hash(prompt)).collect();
        assert_eq!([hashes(&exact.prompts), hashes(&sampled.prompts)], [expected.clone(), expected]);
        for (metric, expected, sd) in &values {
            if ![metrics::KL_K1, metrics::PERPLEXITY_REFERENCE].contains(metric) {
                let actual = value(exact, *metric);
                assert!((actual - expected).abs() < 1e-5, "{metric} by enumeration {actual}, expected {expected}");
            }
            let (actual, bound) = (value(&sampled, *metric), errors(*sd));
            assert!((actual - expected).abs() < bound, "{metric} by sampling {actual}, expected {expected} ± {bound}");
        }
        let (_, kl, sd) = values[3];
        assert!((kl - reverse_kl).abs() > 20.0 * errors(sd), "KL {kl} and {reverse_kl} are too close to distinguish");
        // the outcome rows have the same means
        for (result, bound) in [(exact, 1e-3), (&sampled, 1e-6)] {
            let all: f64 = result.outcomes.iter().map(|o| f64::from(o.share)).sum();
            let earned: f64 = result.outcomes.iter().map(|o| f64::from(o.share) * o.gold_reward).sum();
            let tokens: f64 = result.outcomes.iter().map(|o| f64::from(o.share) * f64::from(o.tokens)).sum();
            assert!((all - 6.0).abs() < bound * 6.0, "{all}");
            assert!((earned / 6.0 - value(result, metrics::GOLD)).abs() < bound * 10.0, "{earned}");
            assert!((tokens / 6.0 - value(result, metrics::LENGTH)).abs() < bound * 10.0, "{tokens}");
        }
        kls.push((kl, errors(sd)));
    }
    assert!((kls[0].0 - kls[1].0).abs() > 0.0);
    Ok(())
}

/// A text of a grammar's ids, and a judge of pairs that prefers the longer text; it keeps what it reads.
struct IdsAsText;

impl Detokenize for IdsAsText {
    fn text(&self, ids: &[u32]) -> duel_data::Result<String> {
        Ok(ids.iter().map(|id| format!("{id} ")).collect())
    }
}

#[derive(Default)]
struct PrefersLonger(Mutex<Vec<JudgedPair>>);

impl PairJudge for PrefersLonger {
    fn prefer(&self, pairs: &[JudgedPair]) -> duel_reward::Result<Vec<f64>> {
        self.0.lock().expect("no panic").extend_from_slice(pairs);
        let of_order = |order| match order {
            Ordering::Greater => 1.0,
            Ordering::Equal => 0.5,
            Ordering::Less => 0.0,
        };
        Ok(pairs.iter().map(|pair| of_order(pair.a.len().cmp(&pair.b.len()))).collect())
    }
}

/// A judge of pairs reads, of a finished policy, the first response to each of some test prompts and the reference's, in both orders.
#[test]
fn a_judge_of_pairs_compares_finished_policies_on_test_prompts() -> Result<()> {
    let setup = FarPolicies::new();
    let judge = Arc::new(PrefersLonger::default());
    let scorer = PairScorer {
        judge: judge.clone(),
        world: Arc::new(IdsAsText),
        reads: JudgedText::Response,
        judged_words: usize::MAX,
    };
    let pairwise = PairwiseEvaluation { scorer: Arc::new(scorer), prompts: 3 };
    let size = SampleSize { prompts: 6, samples_per_prompt: 2 };
    let with = |pairwise| Evaluator::Sampled { evaluator: Box::new(setup.sampled()), curve: size, end: size, pairwise };
    let evaluator = with(Some(pairwise));
    let is_measured = |result: &EvalResult| result.get(metrics::PAIRWISE_WIN_RATE).is_some();
    let curve = evaluator.measure(&setup.policy, None, EvalKind::Curve, &mut |_, _| ())?;
    assert!(!curve.iter().any(is_measured) && judge.0.lock().expect("no panic").is_empty());
    let end = evaluator.measure(&setup.policy, None, EvalKind::End, &mut |_, _| ())?;
    assert_eq!(end.iter().map(is_measured).collect::<Vec<_>>(), [false, true]);
    // all else is as without it
    let without = with(None).measure(&setup.policy, None, EvalKind::End, &mut |_, _| ())?;
    assert!(end[1].values.starts_with(&without[1].values) && end[0] == without[0]);

    let pairs = judge.0.lock().expect("no panic").clone();
    assert_eq!(pairs.len(), 6);
    let prompts = setup.prompts(Split::Test);
    for (index, both) in pairs.chunks(2).enumerate() {
        let prompt: String = prompts[2 * index].iter().map(|id| format!("{id} ")).collect();
        assert!(both.iter().all(|pair| pair.prompt == prompt));
        assert_eq!((&both[0].a, &both[0].b), (&both[1].b, &both[1].a));
    }
    // the policy's are those of its outcomes: a response of n tokens has n ids
    let tokens = |text: &str| text.split_whitespace().count() as u32;
    for (index, both) in pairs.chunks(2).enumerate() {
        assert_eq!(tokens(&both[0].a), end[1].outcomes[4 * index].tokens);
    }
    let wins = pairs.chunks(2).map(|both| match both[0].a.len().cmp(&both[0].b.len()) {
        Ordering::Greater => 1.0,
        Ordering::Equal => 0.5,
        Ordering::Less => 0.0,
    });
    assert!((value(&end[1], metrics::PAIRWISE_WIN_RATE) - wins.sum::<f64>() / 3.0).abs() < 1e-12);
    assert_eq!(value(&end[1], metrics::PAIRWISE_FIRST_RATE), 0.5);
    assert_eq!(value(&end[1], metrics::PAIRWISE_ORDER_DECIDES), 0.0);
    Ok(())
}

/// The learning curve is measured on few prompts, the end on all; validation comes first; each split has its own random numbers.
#[test]
fn a_curve_is_measured_on_less_than_the_end() -> Result<()> {
    let setup = FarPolicies::new();
    let (curve, end) =
        (SampleSize { prompts: 2, samples_per_prompt: 1 }, SampleSize { prompts: 6, samples_per_prompt: 3 });
    let evaluator = Evaluator::Sampled { evaluator: Box::new(setup.sampled()), curve, end, pairwise: None };
    let (_, drawn) = seeds::taken_by(|| -> Result<()> {
        for (kind, samples) in [(EvalKind::Curve, 2), (EvalKind::End, 18)] {
            let results = evaluator.measure(&setup.policy, None, kind, &mut |_, _| ())?;
            assert_eq!(results.iter().map(|result| result.split).collect::<Vec<_>>(), [Split::Validation, Split::Test]);
            assert!(results.iter().all(|result| result.outcomes.len() == samples), "{kind:?}");
        }
        Ok(())
    });
    // policy and reference, on both splits; the same again at the end
    assert_eq!(drawn.len(), 8);
    assert_eq!(drawn.iter().map(|t| (t.iteration, &t.purpose)).collect::<BTreeSet<_>>().len(), 4);
    assert!(drawn.iter().all(|t| t.seed == 5 && t.stage == "evaluation"));
    Ok(())
}

/// Completions in memory.
#[derive(Default)]
struct CompletionBuffer(Vec<Completion>);

impl Recorder for CompletionBuffer {
    fn record(&mut self, _: &str, _: Clocks, _: Metric, _: f64) {}
    fn completion(&mut self, completion: Completion) {
        self.0.push(completion);
    }
    fn outcomes(&mut self, _: &[OutcomeRow]) {}
    fn progress(&mut self, _: u64, _: u64, _: &str) {}
}

/// Recorded completions are the policy's on test prompts, each with its gold, its proxy and its log-ratio to the reference.
#[test]
fn completions_are_of_the_policy_on_test_prompts() -> Result<()> {
    let setup = FarPolicies::new();
    let FarPolicies { world, reader, policy, reference } = &setup;
    let tag = CompletionTag { arm: "a", point: "b", seed: 3, step: 9 };
    let mut buffer = CompletionBuffer::default();
    completions(tag, &**world, reader, policy, reference, &GrammarGold, Some(&ExclamationProxy), 6, &mut buffer)?;
    let prompts = world.prompts(Split::Test);
    let ids = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
    let batch = generate(policy, world.space(), ids, &mut seeds::stream(3, Stream::Completions, 0), &Device::flex());
    let [logp, ref_logp] = [policy, reference].map(|policy| logprobs::sequence_logp(reader, policy, &batch));
    assert_eq!(buffer.0.len(), 6);
    for (row, completion) in buffer.0.iter().enumerate() {
        let (task, response) = (PromptCoordinates::from_prompt(&batch.prompts[row]), &batch.responses[row]);
        assert_eq!(completion.prompt, prompts[row].text);
        assert_eq!(completion.completion, world.render(&prompts[row], response)?);
        assert_eq!((completion.split.as_str(), completion.step, completion.seed), ("test", 9, 3));
        assert_eq!(completion.gold_reward, gold(task, response));
        assert_eq!(completion.proxy_reward, excited_proxy(task, response));
        assert_eq!(completion.kl, f64::from(logp[row] - ref_logp[row]));
        assert_eq!(completion.tokens as usize, response.len());
    }
    Ok(())
}
