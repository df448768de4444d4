//! A language model as a judge of pairs: it is asked which of two responses is better, and answers by the probabilities of its next
//! token.

use crate::lazy_model::LazyModel;
use crate::{JudgedPair, PairJudge, Result, TextInput};
use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_data::{EncodedQuestion, PairQuestion};
use duel_model::{Policy, Tokens, weights};
use duel_training::invariants::finite;
use duel_training::logprobs::TOKENS;
use std::sync::atomic::{AtomicBool, Ordering};

/// A language model that judges pairs. The probability that `a` is better is that of the answer A among the two answers:
/// `P(A) / (P(A) + P(B))`, of their first tokens. Its weights are read for the first pairs.
///
/// # Source
/// The question: after Zheng et al. 2023; its answer by log-probs of a token: AlpacaEval 2's weighted win rate (Dubois et al. 2024).
pub struct ModelPairJudge {
    question: PairQuestion,
    policy: LazyModel<Policy>,
    device: Device,
    /// Questions that are read at once, at most.
    batch: usize,
    /// Whether it was said that texts are cut.
    warned: AtomicBool,
}

impl std::fmt::Debug for ModelPairJudge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelPairJudge(at most {} tokens)", self.question.context())
    }
}

impl ModelPairJudge {
    /// The judge that asks `question` of the model that `open` reads to `device`; the model carries no gradient.
    pub fn new(
        question: PairQuestion,
        batch: usize,
        device: &Device,
        open: impl Fn() -> Result<Policy> + Send + Sync + 'static,
    ) -> Self {
        let (policy, device) = (LazyModel::new(open), device.clone());
        Self { question, policy, device, batch, warned: AtomicBool::new(false) }
    }

    /// The tokens that are read at most by a model made for `context` of them.
    pub fn context(context: usize) -> usize {
        TextInput::context(context)
    }

    fn ask(&self, JudgedPair { prompt, a, b }: &JudgedPair) -> Result<EncodedQuestion> {
        let question = self.question.encode(prompt, [a, b])?;
        if question.is_cut && !self.warned.swap(true, Ordering::Relaxed) {
            let context = self.question.context();
            tracing::warn!("texts are too long for the judge of pairs, which reads {context} tokens: they are cut");
        }
        Ok(question)
    }

    /// The probability of the first answer to each of some questions, which are read at once.
    fn read(&self, policy: &Policy, questions: &[EncodedQuestion]) -> Result<Vec<f64>> {
        let rows: Vec<Vec<u32>> = questions.iter().map(|question| question.ids.clone()).collect();
        let columns = rows.iter().map(Vec::len).max().unwrap_or(1);
        let tokens = Tokens::pad_left(&rows, columns, 0, &self.device); // [B, L]
        let logits = policy.logits(tokens, columns - 1).squeeze_dim::<2>(1); // [B, V]
        let answers: Vec<i32> = questions.iter().flat_map(|question| question.answers.map(|id| id as i32)).collect();
        let answers = Tensor::<2, Int>::from_data(TensorData::new(answers, [rows.len(), 2]), &self.device); // [B, 2]
        let logits = weights::host(logits.gather(1, answers)); // [B, 2]
        let probability = |both: &[f32]| {
            let difference = f64::from(both[0]) - f64::from(both[1]);
            finite(0, "an answer of the judge of pairs", difference)?;
            Ok(1.0 / (1.0 + (-difference).exp()))
        };
        logits.chunks_exact(2).map(probability).collect()
    }
}

impl PairJudge for ModelPairJudge {
    fn prefer(&self, pairs: &[JudgedPair]) -> Result<Vec<f64>> {
        let questions = pairs.iter().map(|pair| self.ask(pair)).collect::<Result<Vec<_>>>()?;
        let policy = self.policy.opened()?;
        let mut probabilities = Vec::with_capacity(questions.len());
        while let Some(rest) = questions.get(probabilities.len()..).filter(|rest| !rest.is_empty()) {
            probabilities.extend(self.read(&policy, &rest[..rows_at_once(rest, self.batch)])?);
        }
        Ok(probabilities)
    }
}

/// How many of the next questions are read at once: at most `batch`, and no more tokens than a forward pass has, padding included.
fn rows_at_once(questions: &[EncodedQuestion], batch: usize) -> usize {
    let mut longest = 0;
    let fits = |(index, question): &(usize, &EncodedQuestion)| {
        longest = longest.max(question.ids.len());
        *index < batch && (index + 1) * longest <= TOKENS
    };
    questions.iter().enumerate().take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PairScorer, PairVerdict};
    use burn::module::Module;
    use duel_data::chat::ChatTemplate;
    use duel_data::{Detokenize, TextTokenizer};
    use duel_model::{FrozenNumbers, Responses, TransformerConfig};
    use duel_spec::{JudgedText, seeds};
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]";

    fn tokenizer() -> TextTokenizer {
        TextTokenizer::train(["is it good or bad"].into_iter(), 300).expect("trains")
    }

    fn question() -> PairQuestion {
        let template = ChatTemplate::new(TEMPLATE).expect("a template");
        let sizes = [tokenizer().vocabulary(), 64];
        PairQuestion::new("{{ prompt }}: {{ a }} or {{ b }}?", tokenizer(), Some(template), sizes).expect("a question")
    }

    fn policy() -> Policy {
        let config = TransformerConfig::small(tokenizer().vocabulary(), 64, 2, 16, 2, true);
        Policy::new(&config, &mut seeds::derive(3, "test", 0, "init"), &Device::flex()).no_grad()
    }

    fn judge(policy: Policy, batch: usize) -> ModelPairJudge {
        ModelPairJudge::new(question(), batch, &Device::flex(), move || Ok(policy.clone()))
    }

    fn pair(prompt: &str, a: &str, b: &str) -> JudgedPair {
        JudgedPair { prompt: prompt.into(), a: a.into(), b: b.into() }
    }

    /// Softmax over the logits of A and B after the question, which is written and read here by itself, without padding.
    fn expected(policy: &Policy, JudgedPair { prompt, a, b }: &JudgedPair) -> f64 {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_part(&format!("[user]{prompt}: {a} or {b}?[assistant]")).expect("encodes");
        let row: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let row = Tensor::<2, Int>::from_data(TensorData::new(row, [1, ids.len()]), &Device::flex()); // [1, L]
        let logits = weights::host(policy.logits(row, 0)); // [1, L, V]
        let last = &logits[(ids.len() - 1) * tokenizer.vocabulary()..];
        let [of_a, of_b] = ["A", "B"].map(|answer| {
            let id = tokenizer.encode_part(answer).expect("encodes")[0];
            f64::from(last[id as usize]).exp()
        });
        of_a / (of_a + of_b)
    }

    #[test]
    fn the_answer_is_the_softmax_over_two_logits() -> Result<()> {
        let pairs = [
            pair("is it", "good", "bad"),
            pair("is it", "bad", "good"),
            pair("", "very good", ""),
            pair("x", "y", "y"),
        ];
        let model = policy();
        let expected = pairs.each_ref().map(|pair| expected(&model, pair));
        assert!(expected.iter().all(|p| (p - 0.5).abs() > 1e-4), "{expected:?}");
        for batch in [1, 3, 64] {
            let actual = judge(model.clone(), batch).prefer(&pairs)?;
            let near = actual.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5);
            assert!(near && actual.len() == 4, "{batch} at once: {actual:?}, expected {expected:?}");
        }
        let rounded = judge(model.rounded(FrozenNumbers::Bf16), 64).prefer(&pairs)?;
        let largest = rounded.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!((1e-7..1e-2).contains(&largest), "{rounded:?}, expected {expected:?}");
        Ok(())
    }

    #[test]
    fn the_model_is_read_once_and_when_it_is_asked() -> Result<()> {
        let reads = Arc::new(AtomicUsize::new(0));
        let counted = reads.clone();
        let judge = ModelPairJudge::new(question(), 2, &Device::flex(), move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(policy())
        });
        assert_eq!(reads.load(Ordering::Relaxed), 0);
        for _ in 0..2 {
            judge.prefer(&[pair("p", "good", "bad")])?;
        }
        assert_eq!(reads.load(Ordering::Relaxed), 1);
        assert_eq!(judge.prefer(&[])?, [0.0; 0]);
        judge.finish()
    }

    /// A world whose ids are letters.
    struct Letters;

    impl Detokenize for Letters {
        fn text(&self, ids: &[u32]) -> duel_data::Result<String> {
            Ok(ids.iter().map(|&id| char::from(b'a' + id as u8)).collect())
        }
    }

    #[test]
    fn both_orders_are_asked() -> Result<()> {
        let batch = |response: Vec<u32>| Responses {
            prompts: vec![vec![15]],
            responses: vec![response],
            logp: vec![],
            masks: vec![],
        };
        let judge: Arc<dyn PairJudge> = Arc::new(judge(policy(), 64));
        let (world, reads) = (Arc::new(Letters), JudgedText::Response);
        let scorer = PairScorer { judge: judge.clone(), world, reads, judged_words: 9 };
        let PairVerdict { as_a, as_b } = scorer.compare(&batch(vec![3, 4]), &batch(vec![5]), &[0])?[0];
        let [first, second] = [pair("p", "de", "f"), pair("p", "f", "de")].map(|pair| expected(&policy(), &pair));
        assert!((as_a - first).abs() < 1e-5 && (as_b - (1.0 - second)).abs() < 1e-5, "{as_a} and {as_b}");
        assert!((as_a - as_b).abs() > 1e-4, "the order matters: {as_a} and {as_b}");
        Ok(())
    }

    #[test]
    fn questions_of_a_pass_are_bounded_in_number_and_tokens() {
        let of = |tokens: usize| EncodedQuestion { ids: vec![1; tokens], answers: [2, 3], is_cut: false };
        let rows = |lengths: &[usize], batch: usize| {
            rows_at_once(&lengths.iter().map(|&tokens| of(tokens)).collect::<Vec<_>>(), batch)
        };
        assert_eq!((rows(&[10; 9], 4), rows(&[10; 3], 4)), (4, 3));
        assert_eq!((rows(&[2048, 2048, 1], 9), rows(&[1, 2048, 2049], 9)), (2, 2));
        assert_eq!((rows(&[1, 2049, 1], 9), rows(&[9000, 1], 9)), (1, 1), "as long as the longest, and at least one");
    }

    #[test]
    fn a_model_without_finite_logits_is_said() {
        let numbers = weights::flatten(&policy()).len();
        let broken = weights::unflatten(policy(), &vec![f32::NAN; numbers]);
        let error = judge(broken, 9).prefer(&[pair("p", "good", "bad")]).expect_err("no numbers").to_string();
        assert!(error.contains("an answer of the judge of pairs"), "{error}");
    }
}
